//! Which dialogs feed which recordings: halves of a call, communication sessions beside and after one another.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod rig;

use std::time::Duration;

use ferric_sip::{Message, Method};
use ferric_srs::port::{CaptureEvent, Command, RefuseReason, ReleaseCause};
use rig::{Rig, SDP};

/// One half of a call, as `end` says; the other half has the same `x-refci`.
fn half(rig: &mut Rig, end: &str, call: &str) {
    rig.next_call();
    rig.from = format!(
        "sip:2001@198.51.100.20;x-{end};x-refci={call};x-nearendclusterid=c1;x-nearendaddr=2001;x-farendaddr=15550100"
    );
    rig.sent.clear();
    rig.request("INVITE", &[("User-Agent", "Cisco-CUCM14.0")], "");
    rig.ready();
    let ok = rig.answer();
    assert_eq!(ok.status(), Some(200), "{}", rig.trace);
    rig.established(&ok);
    rig.ack(
        "v=0\r\no=- 1 1 IN IP4 198.51.100.20\r\nc=IN IP4 198.51.100.20\r\nm=audio 16000 RTP/AVP 0\r\na=sendonly\r\n",
    );
    rig.ready();
}

#[test]
fn two_halves_of_a_call_are_one_recording_in_any_order_and_up_to_seconds_apart() {
    for order in [["nearend", "farend"], ["farend", "nearend"]] {
        for apart_ms in [0, 40, 900, 3_000] {
            let mut rig = Rig::new();
            half(&mut rig, order[0], "24");
            rig.wait(Duration::from_millis(apart_ms));
            half(&mut rig, order[1], "24");
            assert_eq!((rig.srs.sessions(), rig.srs.recordings()), (2, 1), "{order:?} {apart_ms}\n{}", rig.trace);
            let channels: Vec<(usize, u8)> =
                rig.streams().iter().map(|stream| (stream.index, stream.channel)).collect();
            let (first, second) = if order[0] == "nearend" { (0, 1) } else { (1, 0) };
            assert_eq!(channels, [(0, first), (32, second)], "near is left, far is right");
            let info = rig.info();
            let voices: Vec<(Option<&str>, Option<usize>)> =
                info.participants.iter().map(|party| (party.aor.as_deref(), party.stream)).collect();
            let (near, far) = if order[0] == "nearend" { (0, 32) } else { (32, 0) };
            assert_eq!(voices, [(Some("2001"), Some(near)), (Some("15550100"), Some(far))]);
            assert!(info.correlators.iter().any(|(name, value)| name == "x-refci" && value == "24"));
            assert!(info.correlators.iter().any(|(name, _)| name == "Call-ID"), "the second dialog's id is kept");
            assert_eq!(rig.ask("BYE", &[], "").status(), Some(200));
            assert_eq!(rig.released(), [], "the other half goes on");
        }
    }
}

#[test]
fn a_half_whose_other_half_is_lost_ends_when_it_ended() {
    let mut rig = Rig::new();
    half(&mut rig, "farend", "31");
    rig.wait(Duration::from_secs(20));
    rig.ask("BYE", &[], "");
    assert!(matches!(rig.commands.last(), Some(Command::Park { .. })), "it stands still, and waits a little");
    assert_eq!(rig.srs.recordings(), 1);
    rig.wait(Duration::from_secs(6));
    assert_eq!((rig.released(), rig.srs.recordings()), (vec![ReleaseCause::Bye], 0));
    assert_eq!(rig.srs.poll_timeout().is_none(), rig.srs.transactions() == 0);
}

#[test]
fn a_half_that_comes_while_the_first_waits_joins_it() {
    let mut rig = Rig::new();
    half(&mut rig, "nearend", "41");
    rig.ask("BYE", &[], "");
    rig.wait(Duration::from_secs(2));
    half(&mut rig, "farend", "41");
    assert_eq!((rig.srs.recordings(), rig.released()), (1, vec![]));
    rig.ask("BYE", &[], "");
    assert_eq!(rig.released(), [ReleaseCause::Bye], "both were heard: it ends at once");
    half(&mut rig, "nearend", "42");
    half(&mut rig, "nearend", "42");
    assert_eq!(rig.srs.recordings(), 2, "the same end twice is two calls");
}

const FOUR: &str = "v=0\r\no=- 1 1 IN IP4 198.51.100.20\r\nc=IN IP4 198.51.100.20\r\n\
    m=audio 16000 RTP/AVP 0\r\na=label:1\r\nm=audio 16002 RTP/AVP 0\r\na=label:2\r\n\
    m=audio 16004 RTP/AVP 0\r\na=label:3\r\nm=audio 16006 RTP/AVP 0\r\na=label:4\r\n";

/// Metadata with a stream a letter: the letter names its communication session; `ended` ones have a stop-time.
fn divided(lines: &str, ended: &str) -> String {
    let mut text = "<recording><datamode>complete</datamode>".to_owned();
    for name in ["a", "b", "c"].iter().filter(|name| lines.contains(**name) || ended.contains(**name)) {
        let stop = if ended.contains(*name) { "<stop-time>2026-03-02T09:00:00Z</stop-time>" } else { "" };
        text.push_str(&format!("<session session_id='{name}'>{stop}</session>"));
    }
    for (number, name) in lines.chars().enumerate() {
        let label = number + 1;
        text.push_str(&format!(
            "<participant participant_id='{name}{number}'/><stream stream_id='t{number}' session_id='{name}'><label>{label}</label></stream>\
             <participantsessionassoc participant_id='{name}{number}' session_id='{name}'/>\
             <participantstreamassoc participant_id='{name}{number}'><send>t{number}</send></participantstreamassoc>"
        ));
    }
    text + "</recording>"
}

fn both(sdp: &str, metadata: &str) -> String {
    format!(
        "--b\r\nContent-Type: application/sdp\r\n\r\n{sdp}\r\n--b\r\nContent-Type: application/rs-metadata+xml\r\n\r\n{metadata}\r\n--b--\r\n"
    )
}

/// Capture takes everything it was asked that it has not answered.
fn take_all(rig: &mut Rig, answered: &mut usize) {
    while *answered < rig.commands.len() {
        let (recording, streams) = match &rig.commands[*answered] {
            Command::Assign { recording, streams, .. } | Command::Change { recording, streams, .. } => {
                (*recording, streams.clone())
            }
            _ => {
                *answered += 1;
                continue;
            }
        };
        *answered += 1;
        let port = |index: usize| u16::try_from(40_000 + 2 * index).unwrap();
        let address =
            |index| ferric_srs::port::AssignedStream { index, address: ([192, 0, 2, 10], port(index)).into() };
        let streams = streams.iter().map(|stream| address(stream.index)).collect();
        rig.capture(CaptureEvent::Ready { recording, part: 1, streams });
    }
}

#[test]
fn sessions_beside_one_another_have_recordings_of_their_own() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[("Content-Type", "multipart/mixed;boundary=b")], &both(FOUR, &divided("aabb", "")));
    let mut answered = 0;
    assert!(rig.sent.is_empty(), "the answer waits for both");
    take_all(&mut rig, &mut answered);
    let ok = rig.answer();
    let body = String::from_utf8_lossy(ok.body()).into_owned();
    assert_eq!((ok.status(), body.matches("a=recvonly").count()), (Some(200), 4), "{body}");
    let assigned: Vec<(Vec<usize>, Vec<u8>, usize, usize)> = rig
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::Assign { streams, info, .. } => Some((
                streams.iter().map(|stream| stream.index).collect(),
                streams.iter().map(|stream| stream.channel).collect(),
                info.participants.len(),
                info.related.len(),
            )),
            _ => None,
        })
        .collect();
    assert_eq!(assigned, [(vec![0, 1], vec![0, 1], 2, 1), (vec![2, 3], vec![0, 1], 2, 1)]);
}

#[test]
fn without_room_for_a_second_recording_the_first_has_all() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[("Content-Type", "multipart/mixed;boundary=b")], &both(FOUR, &divided("aabb", "")));
    let asked: Vec<_> = rig
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::Assign { recording, .. } => Some(*recording),
            _ => None,
        })
        .collect();
    let address = |index: usize| ferric_srs::port::AssignedStream {
        index,
        address: ([192, 0, 2, 10], 40_000 + 2 * index as u16).into(),
    };
    rig.capture(CaptureEvent::Ready { recording: asked[0], part: 1, streams: vec![address(0), address(1)] });
    rig.capture(CaptureEvent::Refused { recording: asked[1], part: 1, reason: RefuseReason::Capacity });
    assert!(rig.sent.is_empty(), "not yet");
    assert_eq!(rig.streams().len(), 4);
    rig.capture(CaptureEvent::Ready { recording: asked[0], part: 1, streams: (0..4).map(address).collect() });
    let ok = rig.answer();
    assert_eq!(String::from_utf8_lossy(ok.body()).matches("a=recvonly").count(), 4);
    assert!(rig.srs.recordings() == 1 && rig.released().is_empty());
}

#[test]
fn a_dialog_that_outlives_its_call_begins_another_recording_with_the_same_sockets() {
    let mut rig = Rig::new();
    let first = rig.recorded(&[("Content-Type", "multipart/mixed;boundary=b")], &both(SDP, &divided("aa", "")));
    let mut answered = rig.commands.len();
    assert_eq!(rig.ask("UPDATE", &[], &divided("bb", "a")).status(), Some(200));
    let Some(Command::Assign { takes, beside, info, .. }) =
        rig.commands[answered..].iter().find(|command| matches!(command, Command::Assign { .. })).cloned()
    else {
        panic!("{}", rig.trace)
    };
    let taken: Vec<(usize, usize)> = takes.iter().map(|taken| (taken.index, taken.becomes)).collect();
    assert_eq!((taken, beside, info.related), (vec![(0, 0), (1, 1)], Some(first), vec![first]));
    assert_eq!(rig.released(), [ReleaseCause::SessionOver]);
    take_all(&mut rig, &mut answered);
    assert_eq!((rig.srs.sessions(), rig.srs.recordings()), (1, 1));
    rig.ask("BYE", &[], "");
    assert_eq!((rig.released().len(), rig.srs.recordings()), (2, 0));
}

#[test]
fn a_transfer_goes_on_in_the_same_recording() {
    let mut rig = Rig::new();
    rig.recorded(&[("Content-Type", "multipart/mixed;boundary=b")], &both(SDP, &divided("aa", "")));
    // Another session, the same party: nobody said that the call was over.
    let transferred = divided("bb", "").replace("b0", "a0");
    rig.ask("UPDATE", &[], &transferred);
    assert_eq!((rig.srs.recordings(), rig.released()), (1, vec![]));
}

#[test]
fn partial_metadata_that_do_not_add_up_are_asked_for_whole_where_the_client_gives_them() {
    let partial = "<recording><datamode>partial</datamode><participantstreamassoc participant_id='p9'><send>t9</send></participantstreamassoc></recording>";
    for accept in ["application/sdp", "application/sdp, application/rs-metadata-request"] {
        let mut rig = Rig::new();
        rig.recorded(&[("Allow", "INVITE, UPDATE"), ("Accept", accept)], SDP);
        rig.sent.clear();
        rig.request("INFO", &[], partial);
        let asked: Vec<Message> = rig.sent.iter().filter(|message| message.is_request()).cloned().collect();
        let wanted = accept.contains("request");
        assert_eq!(asked.len(), usize::from(wanted), "{accept}");
        assert!(rig.info().warnings.iter().any(|warning| warning.contains("partial")));
        if let Some(request) = asked.first() {
            assert_eq!(
                (request.method(), request.content_type().unwrap().essence.as_str()),
                (Method::Update, "application/rs-metadata-request")
            );
            rig.respond(request, 200, "");
            rig.sent.clear();
            rig.request("INFO", &[], partial);
            assert_eq!(rig.sent.len(), 1, "not again at once");
        }
    }
}

#[test]
fn a_call_whose_ack_never_comes_lives_while_its_media_come() {
    for heard in [false, true] {
        let mut rig = Rig::new();
        rig.request("INVITE", &[], SDP);
        rig.ready();
        let recording = rig.session();
        if heard {
            rig.capture(CaptureEvent::MediaHeard { recording });
        }
        rig.wait(Duration::from_secs(40));
        assert_eq!(rig.released().is_empty(), heard, "{}", rig.trace);
    }
}

#[test]
fn the_end_of_a_call_is_taken_however_badly_it_is_said() {
    let mut rig = Rig::new();
    rig.recorded(&[], SDP);
    let text = rig.request_text("BYE", &[], "").replace(" BYE\r\nContact", " INVITE\r\nContact");
    assert!(text.contains("INVITE\r\n"));
    rig.sent.clear();
    rig.raw(&text);
    assert_eq!((rig.answer().status(), rig.released()), (Some(200), vec![ReleaseCause::Bye]));
}
