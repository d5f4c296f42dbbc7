//! A worker is lost in every state that a dialog can be in.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    missing_docs
)]

mod rig;

use std::time::Duration;

use ferric_sip::Method;
use ferric_srs::port::{AssignedStream, CaptureEvent, Command, RecordingId, RefuseReason, ReleaseCause};
use rig::moves::{SECOND, TIMER, UPDATE, ends_well, moved, recorded, sockets, version};
use rig::{Rig, SDP};

#[test]
fn a_caller_that_is_not_answered_yet_hears_nothing_of_it() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[], SDP);
    let recording = rig.session();
    rig.lost();
    assert!(rig.sent.is_empty());
    let part = rig.part();
    assert_eq!((part.number, part.lost_unix_ms), (2, None));
    assert_ne!(part.file, recording.0);
    rig.capture(CaptureEvent::Ready { recording, part: 1, streams: Vec::new() });
    assert!(rig.sent.is_empty(), "the answer of the lost one does not count");
    rig.ready();
    let ok = rig.answer();
    assert_eq!((ok.status(), sockets(&ok)[0].as_str()), (Some(200), "192.0.2.11:40000"));
    rig.established(&ok);
    rig.ack("");
    ends_well(&mut rig);

    let mut rig = Rig::new();
    rig.request("INVITE", &[], SDP);
    rig.lost();
    rig.refused(RefuseReason::NoWorker);
    assert_eq!((rig.answer().status(), rig.srs.sessions()), (Some(503), 0));
}

#[test]
fn before_the_ack_no_offer_is_made() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[], SDP);
    rig.ready();
    let ok = rig.answer();
    rig.established(&ok);
    rig.lost();
    rig.ready();
    assert!(rig.sent.is_empty());
    rig.ack("");
    assert_eq!(rig.answer().method(), Method::Invite);
}

#[test]
fn an_offer_of_the_peer_s_is_answered_with_the_new_sockets_and_saves_ours() {
    // Before capture has the next part, and after.
    for ready_first in [false, true] {
        let mut rig = Rig::new();
        rig.request("INVITE", &[], SDP);
        rig.ready();
        let ok = rig.answer();
        rig.established(&ok);
        if !ready_first {
            rig.ack("");
        }
        rig.lost();
        if ready_first {
            rig.ready();
        }
        rig.request("INVITE", &[], &SDP.replace("sendonly", "inactive"));
        rig.ready();
        if !ready_first {
            assert!(rig.sent.is_empty(), "the part was asked for with the streams before");
            rig.ready();
        }
        let ok = rig.answer();
        assert_eq!((ok.status(), sockets(&ok)[0].as_str()), (Some(200), "192.0.2.11:40000"));
        rig.ack("");
        assert!(rig.sent.is_empty());
        assert_eq!(moved(&rig).len(), 1);
        ends_well(&mut rig);
    }
}

#[test]
fn an_offer_that_waits_for_the_lost_worker_waits_for_the_next() {
    let mut rig = recorded(&[]);
    rig.request("INVITE", &[], &SDP.replace("sendonly", "inactive"));
    rig.lost();
    rig.ready();
    rig.ready();
    let ok = rig.answer();
    assert_eq!((ok.status(), sockets(&ok)[0].as_str()), (Some(200), "192.0.2.11:40000"));
    rig.ack("");
    ends_well(&mut rig);

    // No worker in time: the peer may ask again.
    let mut rig = recorded(&[]);
    rig.request("INVITE", &[], &SDP.replace("sendonly", "inactive"));
    rig.lost();
    rig.refused(RefuseReason::NoWorker);
    rig.wait(Duration::from_millis(4_500));
    rig.sent.retain(|message| message.status() != Some(100));
    let late = rig.answer();
    assert_eq!((late.status(), late.header("Retry-After").is_some()), (Some(500), true));
    rig.ready();
    assert_eq!(rig.answer().method(), Method::Invite, "{}", rig.trace);
}

#[test]
fn an_offer_of_ours_to_an_invite_without_one_names_the_new_sockets() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[], SDP);
    rig.ready();
    let ok = rig.answer();
    rig.established(&ok);
    rig.lost();
    rig.ready();
    let ok = rig.ask("INVITE", &[], "");
    assert_eq!((ok.status(), sockets(&ok)[0].as_str()), (Some(200), "192.0.2.11:40000"));
    rig.ack(SDP);
    assert_eq!(moved(&rig).len(), 1);
}

#[test]
fn our_offer_and_the_peer_s_meet_and_both_come_again() {
    let mut rig = recorded(&[]);
    rig.lost();
    rig.ready();
    let ours = rig.answer();
    assert_eq!(rig.ask("INVITE", &[], SDP).status(), Some(491));
    rig.request("ACK", &[], "");
    rig.respond(&ours, 491, "");
    rig.sent.clear();
    // The peer owns the Call-ID and waits longer; ours comes again before.
    rig.wait(2 * SECOND);
    let ours = rig.answer();
    rig.respond(&ours, 200, SDP);
    rig.sent.clear();
    rig.request("INVITE", &[], SDP);
    rig.ready();
    assert_eq!(rig.answer().status(), Some(200));
    rig.ack("");
    ends_well(&mut rig);
}

#[test]
fn a_refresh_under_way_comes_first() {
    let mut rig = recorded(TIMER);
    rig.wait(901 * SECOND);
    let refresh = rig.answer();
    assert_eq!(refresh.method(), Method::Invite);
    rig.lost();
    rig.ready();
    assert!(rig.sent.is_empty());
    rig.respond(&refresh, 200, SDP);
    let (ack, offer) = (rig.sent.remove(0), rig.answer());
    assert_eq!((ack.method(), offer.method()), (Method::Ack, Method::Invite));
    rig.respond(&offer, 200, SDP);
    assert_eq!(moved(&rig).len(), 1);
    ends_well(&mut rig);
}

#[test]
fn a_call_on_hold_moves_and_stays_on_hold() {
    let mut rig = recorded(&[]);
    rig.request("INVITE", &[], &SDP.replace("sendonly", "inactive"));
    rig.ready();
    rig.answer();
    rig.ack("");
    rig.lost();
    rig.ready();
    let offer = rig.answer();
    assert_eq!(String::from_utf8_lossy(offer.body()).matches("a=inactive").count(), 2);
    rig.respond(&offer, 200, &SDP.replace("sendonly", "inactive"));
    rig.sent.clear();
    assert!(rig.streams().iter().all(|stream| !stream.active));
    ends_well(&mut rig);
}

#[test]
fn a_second_loss_during_the_move_has_the_newest_sockets_told() {
    let mut rig = recorded(&[]);
    rig.lost();
    rig.wait(Duration::from_millis(500));
    rig.lost();
    rig.ready();
    let first = rig.answer();
    assert_eq!(sockets(&first)[0], "192.0.2.12:40000");
    rig.wait(Duration::from_millis(500));
    rig.lost();
    rig.respond(&first, 200, SDP);
    rig.sent.clear();
    rig.ready();
    let second = rig.answer();
    assert_eq!((sockets(&second)[0].as_str(), version(&second)), ("192.0.2.13:40000", version(&first) + 1));
    rig.respond(&second, 200, SDP);
    rig.sent.clear();
    assert_eq!(moved(&rig), [(1, 4, 1_000)], "no media came in between");
    // And once more, much later: another gap.
    rig.wait(10 * SECOND);
    rig.lost();
    rig.ready();
    let third = rig.answer();
    rig.respond(&third, 200, SDP);
    rig.sent.clear();
    assert_eq!(moved(&rig)[1], (4, 5, 0));
    ends_well(&mut rig);
}

#[test]
fn a_bye_may_cross_everything() {
    for steps in 0..4 {
        let mut rig = recorded(&[]);
        rig.lost();
        if steps > 0 {
            rig.ready();
        }
        if steps > 1 {
            let offer = rig.answer();
            if steps > 2 {
                rig.respond(&offer, 488, "");
            }
        }
        rig.sent.clear();
        assert_eq!(rig.ask("BYE", &[], "").status(), Some(200));
        assert_eq!(rig.released().last(), Some(&ReleaseCause::Bye), "{steps}");
        rig.returned();
        rig.lost();
        rig.wait(64 * SECOND);
        assert_eq!((rig.srs.sessions(), rig.srs.recordings(), rig.srs.transactions()), (0, 0, 0), "{steps}");
        assert_eq!(rig.srs.poll_timeout(), None, "{steps}");
    }
}

#[test]
fn a_copy_that_takes_over_is_the_same_part_elsewhere() {
    let mut rig = recorded(UPDATE);
    let (recording, mut streams) = (rig.session(), rig.sockets());
    for stream in &mut streams {
        stream.address.set_ip([192, 0, 2, 77].into());
    }
    rig.capture(CaptureEvent::Promoted { recording, part: 1, streams });
    let update = rig.answer();
    assert_eq!(sockets(&update)[0], "192.0.2.77:40000");
    rig.respond(&update, 200, SDP);
    assert_eq!((moved(&rig), rig.part().number), (vec![(1, 1, 0)], 1));
    ends_well(&mut rig);
}

#[test]
fn a_peer_that_drops_updates_is_asked_by_re_invite_before_it_counts_as_gone() {
    let mut rig = recorded(UPDATE);
    rig.lost();
    rig.ready();
    assert_eq!(rig.sent[0].method(), Method::Update);
    rig.wait(33 * SECOND);
    let invite = rig.sent.pop().unwrap();
    assert_eq!((invite.method(), rig.srs.sessions()), (Method::Invite, 1));
    rig.sent.clear();
    rig.respond(&invite, 200, SDP);
    assert_eq!(moved(&rig).len(), 1);
    ends_well(&mut rig);
}

/// Two halves of a call in one recording.
fn pair() -> (Rig, RecordingId, [(String, String); 2]) {
    let mut rig = Rig::new();
    let one_line = SDP.split("m=audio").take(2).collect::<Vec<_>>().join("m=audio");
    let mut ends = Vec::new();
    let mut recording = None;
    for end in ["near", "far"] {
        rig.next_call();
        rig.from = format!("sip:1@198.51.100.20;x-{end}end;x-refci=7");
        rig.request("INVITE", &[], &one_line);
        rig.ready();
        let ok = rig.answer();
        rig.established(&ok);
        rig.ack("");
        ends.push((ok.call_id().unwrap().into_owned(), rig.from.clone()));
        recording = Some(rig.session());
    }
    (rig, recording.unwrap(), [ends[0].clone(), ends[1].clone()])
}

#[test]
fn both_halves_of_a_call_move() {
    let (mut rig, _, _) = pair();
    rig.lost();
    rig.ready();
    let offers = std::mem::take(&mut rig.sent);
    let targets: Vec<String> = offers.iter().flat_map(sockets).collect();
    assert_eq!(targets, ["192.0.2.11:40000", "192.0.2.11:40064"], "{}", rig.trace);
    rig.respond(&offers[0], 200, "");
    assert!(moved(&rig).is_empty(), "one is still on its way");
    // One that refuses does not undo the other's move.
    rig.respond(&offers[1], 488, "");
    assert_eq!((moved(&rig).len(), rig.released().len()), (1, 0));
}

#[test]
fn a_recording_that_waits_for_the_other_half_needs_no_worker_before_that_comes() {
    let mut rig = Rig::new();
    let one_line = SDP.split("m=audio").take(2).collect::<Vec<_>>().join("m=audio");
    rig.from = "sip:1@198.51.100.20;x-nearend;x-refci=7".to_owned();
    rig.recorded(&[], &one_line);
    rig.ask("BYE", &[], "");
    rig.lost();
    assert_eq!(rig.part().number, 1);
    rig.next_call();
    rig.from = "sip:1@198.51.100.20;x-farend;x-refci=7".to_owned();
    rig.request("INVITE", &[], &one_line);
    assert_eq!(rig.part().number, 2);
    rig.ready();
    rig.ready();
    let ok = rig.answer();
    assert_eq!(ok.status(), Some(200), "{}", rig.trace);
    rig.established(&ok);
    rig.ack("");
    ends_well(&mut rig);
}

/// Two communication sessions in one dialog, with a stream each.
const TWO_CALLS: &str = "--b\r\nContent-Type: application/sdp\r\n\r\nSDP\r\n--b\r\nContent-Type: application/rs-metadata+xml\r\n\r\n\
    <recording><datamode>complete</datamode><session session_id='a'/><session session_id='b'/>\
    <participant participant_id='p'/><participant participant_id='q'/>\
    <stream stream_id='s' session_id='a'><label>1</label></stream><stream stream_id='t' session_id='b'><label>2</label></stream>\
    <participantstreamassoc participant_id='p'><send>s</send></participantstreamassoc>\
    <participantstreamassoc participant_id='q'><send>t</send></participantstreamassoc></recording>\r\n--b--\r\n";

/// Capture takes a part of each recording, on a host that is named after the part.
fn ready_each(rig: &mut Rig, recordings: &[RecordingId], part: u32) {
    for (index, recording) in recordings.iter().enumerate() {
        let port = 40_000 + 2 * u16::try_from(index).unwrap();
        let address = ([192, 0, 2, 9 + u8::try_from(part).unwrap()], port).into();
        let streams = vec![AssignedStream { index, address }];
        rig.capture(CaptureEvent::Ready { recording: *recording, part, streams });
    }
}

#[test]
fn recordings_of_one_dialog_move_by_one_offer() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[("Content-Type", "multipart/mixed;boundary=b")], &TWO_CALLS.replace("SDP", SDP));
    let assigned = |command: &Command| match command {
        Command::Assign { recording, beside, .. } => Some((*recording, *beside)),
        _ => None,
    };
    let recordings: Vec<RecordingId> = rig.commands.iter().filter_map(assigned).map(|(id, _)| id).collect();
    assert_eq!(recordings.len(), 2);
    ready_each(&mut rig, &recordings, 1);
    let ok = rig.answer();
    rig.established(&ok);
    rig.ack("");
    let before = rig.commands.len();
    for recording in &recordings {
        rig.capture(CaptureEvent::Lost { recording: *recording, part: 1 });
    }
    let again: Vec<_> = rig.commands[before..].iter().filter_map(assigned).collect();
    assert_eq!(again, [(recordings[0], None), (recordings[1], Some(recordings[0]))], "side by side as before");
    ready_each(&mut rig, &recordings, 2);
    let offer = rig.answer();
    assert_eq!(sockets(&offer), ["192.0.2.11:40000", "192.0.2.11:40002"]);
    rig.respond(&offer, 200, SDP);
    rig.sent.clear();
    assert_eq!(moved(&rig).len(), 2);
}
