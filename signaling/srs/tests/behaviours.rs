//! What the server does for each thing that a recording client, capture or an
//! operator can do to a call, and each way to refuse one.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    missing_docs
)]

mod rig;

use std::time::Duration;

use ferric_sip::flow::Transport;
use ferric_sip::sdp::{Direction, Sdp};
use ferric_srs::SrsEvent;
use ferric_srs::port::{CaptureEvent, Command, RefuseReason, ReleaseCause};
use rig::{Rig, SDP, config};

const SECOND: Duration = Duration::from_secs(1);

const METADATA: &str = "<recording xmlns='urn:ietf:params:xml:ns:recording:1'><datamode>complete</datamode><session session_id='s1'/>\
    <participant participant_id='p1'><nameID aor='sip:ann@example.com'/></participant>\
    <stream stream_id='t1' session_id='s1'><label>1</label></stream>\
    <participantstreamassoc participant_id='p1'><send>t1</send></participantstreamassoc></recording>";

fn origin(message: &ferric_sip::Message) -> String {
    Sdp::parse(message.body()).unwrap().origin
}

fn directions(message: &ferric_sip::Message) -> Vec<Direction> {
    Sdp::parse(message.body()).unwrap().media.iter().map(|media| media.direction).collect()
}

// ---- offers -----------------------------------------------------------------

#[test]
fn hold_and_resume_change_the_streams_and_the_version() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[], SDP);
    rig.ready();
    let ok = rig.answer();
    rig.established(&ok);
    rig.ack("");
    let held = SDP.replace("sendonly", "inactive");
    for (body, direction) in [(held.as_str(), Direction::Inactive), (SDP, Direction::RecvOnly)] {
        let before = origin(&ok);
        rig.request("INVITE", &[], body);
        rig.ready();
        let answer = rig.answer();
        assert_eq!(directions(&answer), [direction, direction]);
        assert_ne!(origin(&answer), before);
        rig.ack("");
    }
    insta::assert_snapshot!("hold_and_resume", rig.trace);
}

#[test]
fn the_version_stays_when_nothing_changes() {
    let mut rig = Rig::new();
    rig.recorded(&[], SDP);
    let mut versions = Vec::new();
    for _ in 0..2 {
        rig.request("UPDATE", &[], SDP);
        rig.ready();
        versions.push(origin(&rig.answer()));
    }
    assert_eq!(versions[0], versions[1]);
    assert!(versions[0].contains(" 1 IN IP4"), "{versions:?}");
}

#[test]
fn streams_come_and_go_in_mid_call() {
    let mut rig = Rig::new();
    rig.recorded(&[], SDP);
    let three = format!("{SDP}m=audio 16004 RTP/AVP 8\r\na=label:3\r\n");
    rig.request("INVITE", &[], &three);
    rig.ready();
    assert_eq!(Sdp::parse(rig.answer().body()).unwrap().media[2].label.as_deref(), Some("3"));
    rig.ack("");
    let without_second = three.replace("m=audio 16002", "m=audio 0");
    rig.request("INVITE", &[], &without_second);
    rig.ready();
    let ports: Vec<u16> = Sdp::parse(rig.answer().body()).unwrap().media.iter().map(|media| media.port).collect();
    assert_eq!(ports, [40_000, 0, 40_004]);
    insta::assert_snapshot!("streams_come_and_go", rig.trace);
}

#[test]
fn an_invite_without_an_offer_gets_ours_and_the_ack_answers_it() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[], "");
    rig.ready();
    let ok = rig.answer();
    let offer = Sdp::parse(ok.body()).unwrap();
    assert_eq!((offer.media.len(), offer.media[0].direction), (1, Direction::RecvOnly));
    rig.established(&ok);
    rig.ack("v=0\r\nc=IN IP4 198.51.100.77\r\nm=audio 4000 RTP/AVP 8\r\na=sendonly\r\n");
    let streams = rig.streams();
    assert_eq!(streams[0].remote_rtp, Some("198.51.100.77:4000".parse().unwrap()));
    assert_eq!(streams[0].formats.iter().map(|format| format.payload_type).collect::<Vec<_>>(), [8]);
    rig.wait(40 * SECOND);
    assert_eq!(rig.srs.sessions(), 1);
}

#[test]
fn an_ack_without_the_answer_costs_no_recording() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[], "");
    rig.ready();
    let ok = rig.answer();
    rig.established(&ok);
    rig.ack("");
    rig.wait(40 * SECOND);
    assert_eq!((rig.srs.sessions(), rig.released().len()), (1, 0));
    assert!(rig.info().warnings[0].contains("no answer"), "{:?}", rig.info().warnings);
}

#[test]
fn a_reinvite_without_an_offer_is_offered_every_line_with_its_label() {
    let mut rig = Rig::new();
    let with_video = SDP.replace("label:1", "label:10").replace("label:2", "label:20").replace("sendonly", "inactive");
    let with_video = format!("{with_video}m=video 16006 RTP/AVP 31\r\n");
    rig.recorded(&[], &with_video);
    let ok = rig.ask("INVITE", &[], "");
    let offer = Sdp::parse(ok.body()).unwrap();
    let lines: Vec<(u16, Option<&str>, Direction)> =
        offer.media.iter().map(|media| (media.port, media.label.as_deref(), media.direction)).collect();
    assert_eq!(
        lines,
        [
            (40_000, Some("10"), Direction::RecvOnly),
            (40_002, Some("20"), Direction::RecvOnly),
            (0, None, Direction::SendRecv)
        ]
    );
    rig.ack(&SDP.replace("label:1", "label:10").replace("label:2", "label:20"));
    assert!(rig.streams().iter().all(|stream| stream.active), "the answer resumes the call");
}

#[test]
fn a_change_that_capture_refuses_leaves_the_recording_as_it_was() {
    let mut rig = Rig::new();
    let session = rig.recorded(&[], SDP);
    rig.request("INVITE", &[], &SDP.replace("sendonly", "inactive"));
    rig.capture(CaptureEvent::Refused { recording: session, part: 1, reason: RefuseReason::NoPorts });
    let answer = rig.answer();
    assert_eq!((answer.status(), answer.header("Retry-After").as_deref()), (Some(500), Some("5")));
    rig.ack("");
    // Still active in our eyes: silence is looked into.
    rig.sent.clear();
    rig.capture(CaptureEvent::MediaSilent { recording: session });
    assert_eq!(rig.answer().method().as_str(), "OPTIONS");
    assert!(rig.released().is_empty());
}

#[test]
fn a_reinvite_that_is_cancelled_is_undone() {
    let mut rig = Rig::new();
    rig.recorded(&[], SDP);
    rig.request("INVITE", &[], &SDP.replace("sendonly", "inactive"));
    rig.sent.clear();
    rig.request("CANCEL", &[], "");
    let statuses: Vec<Option<u16>> = rig.sent.iter().map(ferric_sip::Message::status).collect();
    assert_eq!(statuses, [Some(200), Some(487)]);
    assert!(rig.streams().iter().all(|stream| stream.active));
    assert!(rig.released().is_empty());
    // Both answers of capture come late and disturb nothing.
    rig.ready();
    rig.ready();
    let answer = {
        rig.sent.clear();
        rig.request("UPDATE", &[], SDP);
        rig.ready();
        rig.answer()
    };
    assert_eq!(answer.status(), Some(200));
}

#[test]
fn answers_of_capture_to_older_questions_answer_no_newer_offer() {
    let mut rig = Rig::new();
    rig.recorded(&[], SDP);
    let held = SDP.replace("sendonly", "inactive");
    rig.request("INVITE", &[], &held);
    rig.request("CANCEL", &[], "");
    rig.sent.clear();
    rig.request("INVITE", &[], &held);
    rig.ready();
    rig.ready();
    assert!(rig.sent.is_empty(), "{}", rig.trace);
    rig.ready();
    assert_eq!(rig.answer().status(), Some(200));
}

#[test]
fn a_capture_that_does_not_answer_is_a_refusal_in_time() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[], SDP);
    rig.wait(5 * SECOND);
    let statuses: Vec<Option<u16>> = rig.sent.iter().map(ferric_sip::Message::status).collect();
    assert_eq!(statuses, [Some(100), Some(503)]);
    assert_eq!(rig.released(), [ReleaseCause::CaptureFailed]);
    // The same inside a call costs the change, not the call.
    let mut rig = Rig::new();
    rig.recorded(&[], SDP);
    rig.request("UPDATE", &[], &SDP.replace("sendonly", "inactive"));
    rig.wait(5 * SECOND);
    assert_eq!(rig.answer().status(), Some(500));
    assert!(rig.streams().iter().all(|stream| stream.active));
    assert_eq!(rig.srs.sessions(), 1);
}

#[test]
fn a_second_offer_before_the_first_is_answered_is_told_to_wait() {
    let mut rig = Rig::new();
    rig.recorded(&[], SDP);
    rig.request("INVITE", &[], SDP);
    let answer = rig.ask("UPDATE", &[], SDP);
    assert_eq!(answer.status(), Some(500));
    assert!(answer.header("Retry-After").is_some());
    // Without an offer there is nothing to wait for.
    assert_eq!(rig.ask("UPDATE", &[], METADATA).status(), Some(200));
}

#[test]
fn codec_ports_and_numbers_may_change() {
    let mut rig = Rig::new();
    rig.recorded(&[], SDP);
    let opus = "v=0\r\nc=IN IP4 198.51.100.21\r\nm=audio 17000 RTP/AVP 96 97\r\na=rtpmap:96 opus/48000/2\r\n\
        a=rtpmap:97 telephone-event/48000\r\na=label:1\r\nm=audio 17002 RTP/AVP 0\r\na=label:2\r\n";
    rig.request("INVITE", &[], opus);
    rig.ready();
    let answer = Sdp::parse(rig.answer().body()).unwrap();
    assert_eq!(answer.media[0].format_list, ["96", "97"]);
    assert_eq!(rig.streams()[1].remote_rtp, Some("198.51.100.21:17002".parse().unwrap()));
    rig.ack("");
    let answer = rig.ask("INVITE", &[], "v=0\r\nm=audio 17000 RTP/AVP 18\r\n");
    assert_eq!(answer.status(), Some(488));
    assert!(answer.header("Warning").unwrap().starts_with("305 "));
    assert_eq!(rig.srs.sessions(), 1, "what is refused inside a call does not end it");
}

// ---- metadata ---------------------------------------------------------------

#[test]
fn metadata_comes_in_update_info_and_bye() {
    let mut rig = Rig::new();
    let session = rig.recorded(&[], SDP);
    for method in ["UPDATE", "INFO"] {
        let answer = rig.ask(method, &[], METADATA);
        assert_eq!((answer.status(), answer.body().len()), (Some(200), 0));
    }
    let last = "<recording><datamode>partial</datamode><session session_id='s1'><stop-time>2026-03-02T09:00:00Z</stop-time></session></recording>";
    assert_eq!(rig.ask("BYE", &[], last).status(), Some(200));
    let info = rig.info();
    assert_eq!((info.documents.len(), info.documents[3].body.as_ref()), (4, last.as_bytes()));
    assert_eq!(info.participants[0].stream, Some(0));
    let order: Vec<bool> =
        rig.commands.iter().rev().take(2).map(|command| matches!(command, Command::Release { .. })).collect();
    assert_eq!(order, [true, false], "capture hears the last metadata before the end");
    assert_eq!(rig.commands.last(), Some(&Command::Release { recording: session, cause: ReleaseCause::Bye }));
}

#[test]
fn broken_metadata_is_kept_and_reported_and_costs_nothing() {
    let mut rig = Rig::new();
    let bomb = "<!DOCTYPE r [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;'>]><recording>&b;</recording>";
    let body = format!(
        "--b\r\nContent-Type: application/sdp\r\n\r\n{SDP}\r\n--b\r\nContent-Type: application/rs-metadata\r\n\r\n{bomb}\r\n--b--\r\n"
    );
    rig.recorded(&[("Content-Type", "multipart/mixed;boundary=b")], &body);
    assert!(rig.events.iter().any(|event| matches!(event, SrsEvent::MetadataProblem { .. })));
    assert_eq!(rig.info().documents[1].body.as_ref(), bomb.as_bytes());
    assert_eq!(rig.info().warnings.len(), 1);
}

#[test]
fn metadata_without_end_is_bounded() {
    let mut rig = Rig::new();
    rig.recorded(&[], SDP);
    for n in 0..200 {
        let body = format!("<recording><datamode>partial</datamode><participant participant_id='p{n}'/></recording>");
        rig.ask("INFO", &[], &body);
        rig.commands.drain(1..rig.commands.len() - 1);
    }
    let info = rig.info();
    assert_eq!((info.documents.len(), info.participants.len()), (64, 128));
    assert!(info.documents[63].body.windows(4).any(|w| w == b"p199"), "the last document is there");
}

// ---- refusals ---------------------------------------------------------------

/// The status, one header field and the reason that an INVITE is refused with.
fn refusal(headers: &[(&str, &str)], body: &str, field: &str) -> (u16, String, String) {
    let mut rig = Rig::new();
    let answer = rig.ask("INVITE", headers, body);
    assert_eq!((rig.srs.sessions(), rig.commands.len()), (0, 0));
    assert!(rig.events.iter().any(|event| matches!(event, SrsEvent::Rejected { .. })));
    let done = rig.events.iter().filter(|event| matches!(event, SrsEvent::RequestDone { .. })).count();
    assert_eq!(done, 1, "every request ends in one record");
    (
        answer.status().unwrap(),
        answer.header(field).unwrap_or_default().into_owned(),
        answer.reason().unwrap().into_owned(),
    )
}

#[test]
fn each_refusal_says_why() {
    let multipart = ("Content-Type", "multipart/mixed;boundary=b");
    let two = format!(
        "--b\r\nContent-Type: application/sdp\r\n\r\n{SDP}\r\n--b\r\nContent-Type: application/sdp\r\n\r\n{SDP}\r\n--b--\r\n"
    );
    let same_label = SDP.replace("label:2", "label:1");
    let cases = [
        ("no codec", refusal(&[], "v=0\r\nm=audio 6000 RTP/AVP 18\r\n", "Warning")),
        ("SRTP only", refusal(&[], "v=0\r\nm=audio 6000 RTP/SAVP 0\r\n", "Warning")),
        ("video only", refusal(&[], "v=0\r\nm=video 6000 RTP/AVP 31\r\n", "Warning")),
        ("unknown body", refusal(&[("Content-Type", "text/html")], "<p/>", "Accept")),
        ("two SDPs", refusal(&[multipart], &two, "Accept")),
        ("no multipart", refusal(&[multipart], SDP, "Accept")),
        ("a label twice", refusal(&[], &same_label, "Accept")),
        ("no SDP at all", refusal(&[], "hello", "Accept")),
        ("an m-line without a port", refusal(&[], "v=0\r\nm=audio\r\n", "Accept")),
        ("an unknown extension", refusal(&[("Require", "siprec, teleport")], SDP, "Unsupported")),
        ("too short an interval", refusal(&[("Supported", "timer"), ("Session-Expires", "30")], SDP, "Min-SE")),
        ("a field twice", refusal(&[("Max-Forwards", "70")], SDP, "Accept")),
    ];
    let text: String =
        cases.iter().map(|(what, (status, field, reason))| format!("{what}: {status} {reason} [{field}]\n")).collect();
    insta::assert_snapshot!("refusals", text);
}

#[test]
fn what_capture_refuses_is_503_with_retry_after() {
    for reason in [
        RefuseReason::Capacity,
        RefuseReason::SpoolFull,
        RefuseReason::NoPorts,
        RefuseReason::Draining,
        RefuseReason::Broken,
    ] {
        let mut rig = Rig::new();
        rig.request("INVITE", &[], SDP);
        let session = rig.session();
        rig.capture(CaptureEvent::Refused { recording: session, part: 1, reason });
        let answer = rig.answer();
        assert_eq!(answer.status(), Some(503), "{reason:?}");
        assert!(answer.header("Retry-After").is_some());
        assert!(
            rig.events
                .iter()
                .any(|event| matches!(event, SrsEvent::Rejected { reason: word, .. } if *word == reason.as_str()))
        );
        assert_eq!((rig.srs.sessions(), rig.released().len()), (0, 0), "what was never assigned is not released");
    }
}

#[test]
fn a_draining_node_takes_no_calls_says_so_to_options_and_finishes_what_it_has() {
    let mut rig = Rig::new();
    rig.recorded(&[], SDP);
    rig.srs.set_draining(true);
    assert_eq!(rig.ask("UPDATE", &[], METADATA).status(), Some(200));
    assert_eq!(rig.ask("OPTIONS", &[], "").status(), Some(200), "inside of the call");
    assert_eq!(rig.ask("BYE", &[], "").status(), Some(200));
    rig.next_call();
    for method in ["OPTIONS", "INVITE"] {
        let answer = rig.ask(method, &[], if method == "INVITE" { SDP } else { "" });
        assert_eq!(answer.status(), Some(503));
        assert!(answer.header("Retry-After").is_some());
    }
    rig.srs.set_draining(false);
    rig.srs.set_refusing(Some(RefuseReason::SpoolFull));
    assert_eq!(rig.ask("OPTIONS", &[], "").status(), Some(503));
    rig.srs.set_refusing(None);
    assert_eq!(rig.ask("OPTIONS", &[], "").status(), Some(200));
}

#[test]
fn the_table_of_sessions_is_bounded() {
    let mut rig = Rig::with(ferric_srs::SrsConfig { max_sessions: 2, ..config() });
    for _ in 0..2 {
        rig.recorded(&[], SDP);
        rig.next_call();
    }
    assert_eq!(rig.ask("INVITE", &[], SDP).status(), Some(503));
    assert_eq!(rig.srs.sessions(), 2);
}

#[test]
fn strangers_get_403_and_leave_no_state() {
    let mut rig = Rig::new();
    rig.flow.remote = "203.0.113.66:5060".parse().unwrap();
    assert_eq!(rig.ask("INVITE", &[], SDP).status(), Some(403));
    assert_eq!(rig.ask("OPTIONS", &[], "").status(), Some(403));
    rig.sent.clear();
    rig.ack("");
    assert!(rig.sent.is_empty());
    assert_eq!((rig.srs.sessions(), rig.srs.transactions()), (0, 0));
    let strangers = rig.events.iter().filter(|event| matches!(event, SrsEvent::Untrusted { .. })).count();
    assert_eq!(strangers, 3);
}

#[test]
fn an_answer_to_a_stranger_is_never_longer_than_the_request() {
    let short = "OPTIONS sip:a SIP/2.0\r\nv:SIP/2.0/UDP a\r\nf:<sip:a>\r\nt:<sip:a>\r\ni:2\r\nCSeq:2 OPTIONS\r\n\r\n";
    for (transport, answers) in [(Transport::Udp, 0), (Transport::Tcp, 1)] {
        let mut rig = Rig::new();
        rig.flow.remote = "203.0.113.66:5060".parse().unwrap();
        rig.flow.transport = transport;
        rig.raw(short);
        assert_eq!(rig.sent.len(), answers, "{transport}");
    }
}

#[test]
fn options_and_methods_that_are_not_served() {
    let mut rig = Rig::new();
    let ok = rig.ask("OPTIONS", &[], "");
    assert_eq!(ok.status(), Some(200));
    assert!(
        ok.header("Allow").unwrap().contains("UPDATE")
            && ok.header("Accept").unwrap().contains("application/rs-metadata")
    );
    assert_eq!(ok.header("Supported").as_deref(), Some("siprec, timer"));
    let statuses = ["REGISTER", "SUBSCRIBE", "MESSAGE", "TELEPORT", "BYE", "INFO", "PRACK"]
        .map(|method| rig.ask(method, &[], "").status().unwrap());
    assert_eq!(statuses, [405, 405, 405, 501, 481, 481, 481]);
    rig.recorded(&[], SDP);
    assert!(rig.ask("OPTIONS", &[], "").header("Accept").is_some());
    let inside = ["REFER", "TELEPORT", "PRACK"].map(|method| rig.ask(method, &[], "").status().unwrap());
    assert_eq!(inside, [405, 501, 481]);
}

// ---- the same call twice ----------------------------------------------------

#[test]
fn an_invite_that_comes_by_another_way_is_not_a_second_recording() {
    let invite = Rig::new().request_text("INVITE", &[], SDP);
    let mut rig = Rig::new();
    rig.recorded(&[], SDP);
    rig.wait(120 * SECOND);
    rig.sent.clear();
    rig.raw(&invite);
    rig.raw(&invite.replace("z9hG4bK1;", "z9hG4bKother;"));
    let statuses: Vec<Option<u16>> = rig.sent.iter().map(ferric_sip::Message::status).collect();
    assert_eq!(statuses, [Some(482), Some(482)]);
    assert_eq!(rig.srs.sessions(), 1);
}

#[test]
fn a_client_that_never_saw_our_200_may_call_again() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[], SDP);
    rig.ready();
    let first = rig.session();
    rig.sent.clear();
    let second = rig.recorded(&[], SDP);
    assert_ne!(first, second);
    assert_eq!((rig.srs.sessions(), rig.released()), (1, vec![ReleaseCause::Superseded]));
    rig.wait(60 * SECOND);
    assert_eq!(rig.srs.sessions(), 1);
}

// ---- ends -------------------------------------------------------------------

#[test]
fn an_operator_may_stop_a_call_at_any_time() {
    let mut rig = Rig::new();
    let session = rig.recorded(&[], SDP);
    rig.request("INVITE", &[], &SDP.replace("sendonly", "inactive"));
    rig.sent.clear();
    rig.srs.stop(rig.now(), session);
    rig.wait(Duration::ZERO);
    rig.ask_nothing();
    let labels: Vec<String> =
        rig.sent.iter().map(|m| m.status().map_or(m.method().to_string(), |s| s.to_string())).collect();
    assert_eq!(labels, ["487", "BYE"], "the offer that waited is answered too");
    assert_eq!(rig.released(), [ReleaseCause::Stopped]);
    let bye = rig.sent.remove(1);
    rig.respond(&bye, 200, "");
    rig.wait(600 * SECOND);
    assert_eq!((rig.srs.sessions(), rig.srs.transactions()), (0, 0));
}

#[test]
fn a_recording_that_dies_in_capture_is_ended_towards_the_client() {
    let mut rig = Rig::new();
    let session = rig.recorded(&[], SDP);
    rig.sent.clear();
    rig.capture(CaptureEvent::Died { recording: session });
    assert_eq!(rig.answer().method().as_str(), "BYE");
    assert_eq!(rig.released(), [ReleaseCause::CaptureFailed]);
    // Before the answer it is a refusal.
    rig.next_call();
    rig.sent.clear();
    rig.request("INVITE", &[], SDP);
    let session = rig.session();
    rig.capture(CaptureEvent::Died { recording: session });
    assert_eq!(rig.answer().status(), Some(503));
}

#[test]
fn an_assignment_without_a_socket_is_a_refusal() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[], SDP);
    let session = rig.session();
    rig.capture(CaptureEvent::Ready { recording: session, part: 1, streams: Vec::new() });
    assert_eq!(rig.answer().status(), Some(503));
    assert_eq!(rig.released(), [ReleaseCause::CaptureFailed]);
}

#[test]
fn a_bye_that_overtakes_the_ack_ends_the_call() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[], SDP);
    rig.ready();
    let ok = rig.answer();
    rig.established(&ok);
    assert_eq!(rig.ask("BYE", &[], "").status(), Some(200));
    rig.ack("");
    rig.wait(60 * SECOND);
    assert_eq!((rig.released(), rig.srs.transactions()), (vec![ReleaseCause::Bye], 0));
}

#[test]
fn a_call_may_not_last_for_ever() {
    let mut rig = Rig::with(ferric_srs::SrsConfig { max_call: 3_600 * SECOND, ..config() });
    rig.recorded(&[], SDP);
    rig.sent.clear();
    rig.wait(3_601 * SECOND);
    assert_eq!(rig.sent[0].method().as_str(), "BYE");
    assert_eq!(rig.released(), [ReleaseCause::TooLong]);
}

#[test]
fn silence_on_hold_is_not_looked_into() {
    let mut rig = Rig::new();
    let session = rig.recorded(&[], &SDP.replace("sendonly", "inactive"));
    rig.sent.clear();
    rig.capture(CaptureEvent::MediaSilent { recording: session });
    assert!(rig.sent.is_empty());
}

#[test]
fn one_question_at_a_time_and_an_answer_of_any_kind_means_alive() {
    let mut rig = Rig::new();
    let session = rig.recorded(&[], SDP);
    rig.sent.clear();
    rig.capture(CaptureEvent::MediaSilent { recording: session });
    rig.capture(CaptureEvent::MediaSilent { recording: session });
    let probe = rig.answer();
    // An offer of the peer's may cross the question.
    rig.request("INVITE", &[], SDP);
    rig.ready();
    assert_eq!(rig.answer().status(), Some(200));
    rig.ack("");
    rig.respond(&probe, 501, "");
    assert_eq!(rig.srs.sessions(), 1);
    rig.capture(CaptureEvent::MediaSilent { recording: session });
    let probe = rig.answer();
    rig.respond(&probe, 481, "");
    assert_eq!(rig.released(), [ReleaseCause::PeerGone]);
}

#[test]
fn going_on_within_the_call_is_as_good_as_the_ack() {
    let mut rig = Rig::new();
    rig.request("INVITE", &[], SDP);
    rig.ready();
    let ok = rig.answer();
    rig.established(&ok);
    assert_eq!(rig.ask("INFO", &[], METADATA).status(), Some(200));
    rig.sent.clear();
    rig.wait(60 * SECOND);
    assert!(rig.sent.is_empty() && rig.released().is_empty(), "{}", rig.trace);
}

// ---- refreshes of ours ------------------------------------------------------

#[test]
fn our_refresh_falls_back_to_a_reinvite_and_acknowledges_every_200() {
    let mut rig = Rig::new();
    let headers = [("Supported", "timer"), ("Session-Expires", "200;refresher=uas"), ("Allow", "INVITE, UPDATE")];
    rig.recorded(&headers, SDP);
    rig.sent.clear();
    rig.wait(100 * SECOND);
    let update = rig.answer();
    assert_eq!(update.method().as_str(), "UPDATE");
    rig.respond(&update, 405, "");
    let invite = rig.answer();
    assert_eq!(invite.method().as_str(), "INVITE");
    assert_eq!(invite.header("Session-Expires").as_deref(), Some("200;refresher=uac"));
    assert_eq!(rig.ask("INVITE", &[], SDP).status(), Some(491), "two offers cross");
    rig.ack("");
    rig.sent.clear();
    for _ in 0..2 {
        rig.respond(&invite, 200, SDP);
        let ack = rig.answer();
        assert_eq!((ack.method().as_str(), ack.cseq().unwrap().number), ("ACK", invite.cseq().unwrap().number));
    }
    rig.wait(90 * SECOND);
    assert_eq!(rig.srs.sessions(), 1, "refreshed");
}

#[test]
fn a_refresh_that_is_refused_is_tried_again_until_the_interval_is_over() {
    let mut rig = Rig::new();
    let headers = [("Supported", "timer"), ("Session-Expires", "200;refresher=uas"), ("Allow", "UPDATE")];
    rig.recorded(&headers, SDP);
    rig.sent.clear();
    rig.wait(101 * SECOND);
    for _ in 0..3 {
        let update = rig.answer();
        rig.respond(&update, 500, "");
        rig.wait(10 * SECOND);
    }
    let update = rig.answer();
    rig.respond(&update, 200, "");
    rig.wait(90 * SECOND);
    assert_eq!(rig.srs.sessions(), 1);
}
