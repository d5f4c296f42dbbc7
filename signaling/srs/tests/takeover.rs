//! A worker is lost: the media move, or the reason why not is known and the old worker is waited for.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    missing_docs
)]

mod rig;

use std::time::Duration;

use ferric_sip::{Message, Method};
use ferric_srs::port::{CaptureEvent, Command, RefuseReason, ReleaseCause};
use ferric_srs::{SrsConfig, TakeoverConfig};
use rig::moves::{SECOND, TIMER, UPDATE, changes, ends_well, moved, recorded, refused, sockets, version};
use rig::{Rig, SDP, config};

#[test]
fn the_media_move_by_update_where_the_peer_takes_it() {
    let mut rig = recorded(UPDATE);
    rig.lost();
    let (first, part) = (rig.session(), rig.part());
    assert_eq!((part.number, part.restore.len()), (2, 0));
    assert!(part.file != first.0 && part.lost_unix_ms.is_some_and(|lost| lost > 1_700_000_000_000));
    rig.wait(Duration::from_millis(80));
    rig.ready();
    let update = rig.answer();
    assert_eq!(
        (update.method(), sockets(&update)),
        (Method::Update, vec!["192.0.2.11:40000".to_owned(), "192.0.2.11:40002".to_owned()])
    );
    rig.respond(&update, 200, SDP);
    assert!(rig.sent.is_empty(), "an UPDATE has no ACK");
    assert_eq!((moved(&rig), changes(&rig)), (vec![(1, 2, 80)], 0));
    ends_well(&mut rig);
    insta::assert_snapshot!(rig.trace);
}

#[test]
fn the_media_move_by_reinvite_and_everything_else_stays_as_it_was() {
    let mut rig = Rig::new();
    rig.request("INVITE", TIMER, SDP);
    rig.ready();
    let ok = rig.answer();
    rig.established(&ok);
    rig.ack("");
    rig.lost();
    rig.ready();
    let invite = rig.answer();
    assert_eq!((invite.method(), version(&invite)), (Method::Invite, version(&ok) + 1));
    assert_eq!(invite.header("Session-Expires").unwrap(), "1800;refresher=uac");
    // o= is the name of the session; c= says where the media go.
    let text = |message: &Message| String::from_utf8_lossy(message.body()).into_owned();
    let expected = text(&ok)
        .replace(&format!(" {} IN", version(&ok)), &format!(" {} IN", version(&invite)))
        .replace("c=IN IP4 192.0.2.10", "c=IN IP4 192.0.2.11");
    assert_eq!(text(&invite), expected);
    rig.respond(&invite, 200, SDP);
    assert_eq!(rig.answer().method(), Method::Ack);
    assert_eq!(moved(&rig).len(), 1);
    ends_well(&mut rig);
}

#[test]
fn our_srtp_keys_stay_and_the_peer_may_change_its_own() {
    let mut config = config();
    config.media.sdes_without_tls = true;
    let mut rig = Rig::with(config);
    let secured = |key: &str| {
        let line = format!("a=label:1\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{}\r\n", key.repeat(40));
        let one = SDP.split("m=audio").take(2).collect::<Vec<_>>().join("m=audio");
        one.replace("RTP/AVP", "RTP/SAVP").replace("a=label:1\r\n", &line)
    };
    let crypto = |message: &Message| {
        let text = String::from_utf8_lossy(message.body()).into_owned();
        text.lines().find(|line| line.starts_with("a=crypto:")).map(str::to_owned).unwrap()
    };
    rig.request("INVITE", UPDATE, &secured("A"));
    rig.ready();
    let ok = rig.answer();
    rig.established(&ok);
    rig.ack("");
    let before = rig.streams()[0].keys.clone().unwrap();
    rig.lost();
    assert_eq!(rig.streams()[0].keys, Some(before.clone()), "the next worker has the same keys");
    rig.ready();
    let update = rig.answer();
    assert_eq!(crypto(&update), crypto(&ok));
    rig.respond(&update, 200, &secured("B"));
    let after = rig.streams()[0].keys.clone().unwrap();
    assert_eq!((changes(&rig), &after.ours), (1, &before.ours));
    assert_ne!(after.theirs, before.theirs);
}

#[test]
fn what_the_answer_changes_capture_hears_of() {
    let mut rig = recorded(UPDATE);
    rig.lost();
    rig.ready();
    let update = rig.answer();
    rig.respond(&update, 200, &SDP.replace("a=label:1\r\n", "").replace("m=audio 16002", "m=audio 17002"));
    let streams = rig.streams();
    assert_eq!(changes(&rig), 1);
    assert_eq!(streams[1].remote_rtp, Some("198.51.100.20:17002".parse().unwrap()));
    assert_eq!(streams[0].label.as_deref(), Some("1"), "an answer need not repeat it");
    rig.ready();
    ends_well(&mut rig);
}

#[test]
fn an_update_that_is_not_taken_is_followed_by_a_reinvite() {
    // A 200 without a description took the offer for a mere refresh.
    for (status, body) in [(405, ""), (501, ""), (488, ""), (200, "")] {
        let mut rig = recorded(UPDATE);
        rig.lost();
        rig.ready();
        let update = rig.answer();
        rig.respond(&update, status, body);
        let invite = rig.answer();
        assert_eq!((invite.method(), version(&invite)), (Method::Invite, version(&update)), "{status}");
        rig.respond(&invite, 200, SDP);
        rig.sent.clear();
        assert_eq!((moved(&rig).len(), refused(&rig).len()), (1, 0), "{status}");
        // Learned: the next move spares the UPDATE.
        rig.lost();
        rig.ready();
        assert_eq!(rig.answer().method(), Method::Invite);
    }
    let takeover = TakeoverConfig { by_invite: true, ..TakeoverConfig::default() };
    let mut rig = Rig::with(SrsConfig { takeover, ..config() });
    rig.recorded(UPDATE, SDP);
    rig.lost();
    rig.ready();
    assert_eq!(rig.answer().method(), Method::Invite, "as configured");
}

#[test]
fn a_peer_that_puts_the_offer_off_is_asked_again() {
    let mut rig = recorded(UPDATE);
    rig.lost();
    rig.ready();
    let first = rig.answer();
    rig.respond(&first, 491, "");
    assert!(rig.sent.is_empty(), "not at once");
    rig.wait(2 * SECOND);
    let second = rig.answer();
    assert_eq!((second.method(), version(&second)), (Method::Update, version(&first)));
    let mut later = Message::response(&second, 500, None);
    later.add_header("Retry-After", "5");
    rig.raw(&String::from_utf8_lossy(&later.to_bytes()));
    rig.wait(4 * SECOND);
    assert!(rig.sent.is_empty(), "not before the time it named");
    rig.wait(2 * SECOND);
    let third = rig.answer();
    rig.respond(&third, 200, SDP);
    assert_eq!((moved(&rig).len(), refused(&rig).len()), (1, 0));
    ends_well(&mut rig);
}

#[test]
fn a_peer_that_puts_it_off_for_ever_has_refused() {
    let mut rig = recorded(&[]);
    rig.lost();
    rig.ready();
    for _ in 0..11 {
        let offer = rig.sent.iter().rfind(|message| message.method() == Method::Invite).cloned().unwrap();
        rig.sent.clear();
        rig.respond(&offer, 491, "");
        rig.wait(3 * SECOND);
    }
    assert_eq!((refused(&rig), rig.srs.sessions()), (vec![(2, 491)], 1), "{}", rig.trace);
    rig.returned();
    rig.ready();
    ends_well(&mut rig);
}

#[test]
fn a_peer_that_knows_nothing_of_the_call_or_says_nothing_is_gone() {
    for (headers, status) in [(UPDATE, 481), (&[][..], 481), (&[][..], 408)] {
        let mut rig = recorded(headers);
        rig.lost();
        rig.ready();
        let offer = rig.answer();
        rig.respond(&offer, status, "");
        assert_eq!(rig.released(), [ReleaseCause::PeerGone]);
        assert_eq!((rig.srs.sessions(), rig.srs.recordings()), (0, 0));
    }
    let mut rig = recorded(UPDATE);
    rig.lost();
    rig.ready();
    rig.wait(33 * SECOND);
    assert_eq!(rig.srs.sessions(), 1, "no answer to UPDATE\n{}", rig.trace);
    rig.wait(40 * SECOND);
    assert_eq!(rig.released(), [ReleaseCause::PeerGone], "nor to re-INVITE\n{}", rig.trace);
}

#[test]
fn a_peer_that_cannot_be_reached_at_the_moment_is_tried_again() {
    let mut rig = recorded(&[]);
    rig.lost();
    rig.ready();
    for _ in 0..3 {
        let offer = rig.answer();
        assert_eq!(offer.method(), Method::Invite);
        rig.unreachable();
        assert_eq!((rig.srs.sessions(), rig.sent.len()), (1, 0), "{}", rig.trace);
        rig.wait(3 * SECOND);
    }
    let offer = rig.answer();
    rig.respond(&offer, 200, SDP);
    assert_eq!(moved(&rig).len(), 1);
    rig.sent.clear();
    ends_well(&mut rig);
}

#[test]
fn a_peer_that_refuses_keeps_its_dialog_and_gets_the_old_worker_back() {
    let mut rig = recorded(&[]);
    rig.lost();
    rig.ready();
    let invite = rig.answer();
    rig.respond(&invite, 488, "");
    rig.sent.clear();
    assert_eq!((refused(&rig), rig.released()), (vec![(2, 488)], vec![ReleaseCause::NotMoved]));
    assert_eq!((rig.srs.sessions(), rig.srs.recordings()), (1, 1));
    rig.wait(20 * SECOND);
    rig.returned();
    let part = rig.part();
    let restore: Vec<String> = part.restore.iter().map(|stream| stream.address.to_string()).collect();
    assert_eq!((part.number, restore), (3, vec!["192.0.2.10:40000".to_owned(), "192.0.2.10:40002".to_owned()]));
    rig.ready();
    assert!(rig.sent.is_empty(), "the peer need not hear of it");
    assert_eq!(moved(&rig), [(1, 3, 20_000)]);
    ends_well(&mut rig);
    insta::assert_snapshot!(rig.trace);
}

#[test]
fn a_worker_that_is_back_before_the_refusal_is_not_forgotten() {
    let mut rig = recorded(&[]);
    rig.lost();
    rig.returned();
    rig.ready();
    let invite = rig.answer();
    rig.respond(&invite, 403, "");
    assert_eq!((rig.part().number, rig.part().restore.len()), (3, 2));
    // It is gone again: the recording waits on.
    rig.refused(RefuseReason::NoWorker);
    rig.wait(10 * SECOND);
    assert_eq!(rig.part().number, 3);
    rig.returned();
    assert_eq!((rig.part().number, rig.part().restore.len()), (3, 2), "nothing came of the number");
    rig.ready();
    rig.sent.clear();
    ends_well(&mut rig);
}

#[test]
fn a_peer_that_refused_moves_when_it_makes_an_offer_of_its_own() {
    let mut rig = recorded(&[]);
    rig.lost();
    rig.ready();
    let invite = rig.answer();
    rig.respond(&invite, 488, "");
    rig.sent.clear();
    rig.request("INVITE", &[], SDP);
    assert_eq!((rig.part().number, rig.part().restore.len()), (3, 0));
    rig.ready();
    rig.ready();
    let ok = rig.answer();
    assert_eq!((ok.status(), sockets(&ok)[0].as_str()), (Some(200), "192.0.2.12:40000"));
    rig.ack("");
    assert_eq!(moved(&rig).len(), 1);
    ends_well(&mut rig);
}

#[test]
fn one_whose_old_worker_never_returns_ends_so_that_the_client_can_turn_to_another() {
    let mut rig = recorded(&[]);
    rig.lost();
    rig.ready();
    let invite = rig.answer();
    rig.respond(&invite, 500, "");
    rig.sent.clear();
    rig.wait(299 * SECOND);
    assert!(rig.sent.is_empty());
    rig.wait(2 * SECOND);
    let bye = rig.answer();
    assert_eq!((bye.method(), rig.released()), (Method::Bye, vec![ReleaseCause::NotMoved, ReleaseCause::Orphaned]));
    rig.respond(&bye, 200, "");
    assert_eq!((rig.srs.sessions(), rig.srs.recordings()), (0, 0));
}

#[test]
fn without_any_worker_one_is_looked_for_each_second_for_a_minute() {
    let mut rig = recorded(UPDATE);
    rig.lost();
    let mut tries = 0;
    while rig.srs.sessions() > 0 {
        tries += 1;
        assert_eq!(rig.part().number, 2, "nothing was begun under it");
        rig.refused(RefuseReason::NoWorker);
        rig.wait(SECOND);
    }
    assert_eq!((tries, rig.answer().method()), (60, Method::Bye));
    assert_eq!(rig.released(), [ReleaseCause::Orphaned]);

    let mut rig = recorded(UPDATE);
    rig.lost();
    rig.refused(RefuseReason::NoWorker);
    rig.wait(Duration::from_millis(100));
    rig.returned();
    assert_eq!(rig.part().restore.len(), 2, "at once, and the peer need not move");
    rig.ready();
    assert!(rig.sent.is_empty());
    assert_eq!(moved(&rig), [(1, 2, 100)]);
    ends_well(&mut rig);
}

#[test]
fn workers_that_are_lost_one_after_the_other_do_not_prolong_the_search() {
    let mut rig = recorded(UPDATE);
    for _ in 0..60 {
        rig.lost();
        rig.wait(SECOND);
    }
    rig.refused(RefuseReason::NoWorker);
    rig.wait(SECOND);
    assert_eq!((rig.srs.sessions(), rig.released()), (0, vec![ReleaseCause::Orphaned]));
}

#[test]
fn a_worker_that_says_nothing_is_passed_over() {
    let mut rig = recorded(UPDATE);
    rig.lost();
    let silent = rig.sockets();
    rig.wait(6 * SECOND);
    assert_eq!((rig.part().number, rig.released()), (3, vec![ReleaseCause::NotMoved]));
    let recording = rig.session();
    rig.capture(CaptureEvent::Ready { recording, part: 2, streams: silent });
    assert!(rig.sent.is_empty(), "too late");
    rig.ready();
    let update = rig.answer();
    assert_eq!(sockets(&update)[0], "192.0.2.12:40000");
    rig.respond(&update, 200, SDP);
    assert_eq!(moved(&rig).len(), 1);
    ends_well(&mut rig);
}

#[test]
fn two_thousand_calls_of_one_worker_move_in_order_and_at_a_pace() {
    let mut config = config();
    config.max_sessions = 3_000;
    config.limits.transactions = 10_000;
    let mut rig = Rig::with(config);
    let mut recordings = Vec::new();
    for _ in 0..2_000 {
        rig.next_call();
        recordings.push(rig.recorded(&[], SDP));
    }
    rig.sent.clear();
    for recording in &recordings {
        rig.capture(CaptureEvent::Lost { recording: *recording, part: 1 });
    }
    let streams: Vec<_> = rig.sockets();
    for recording in &recordings {
        rig.capture(CaptureEvent::Ready { recording: *recording, part: 2, streams: streams.clone() });
    }
    assert_eq!(rig.sent.len(), 10, "the first leave at once");
    let calls =
        |sent: &[Message]| sent.iter().map(|message| message.call_id().unwrap().into_owned()).collect::<Vec<_>>();
    let mut order = Vec::new();
    for tick in 1..=200 {
        let sent = std::mem::take(&mut rig.sent);
        assert_eq!(sent.len(), 10, "tick {tick}");
        order.extend(calls(&sent));
        for offer in &sent {
            rig.respond(offer, 200, SDP);
        }
        rig.sent.clear();
        rig.wait(Duration::from_millis(10));
    }
    assert!(rig.sent.is_empty());
    let wanted: Vec<String> = rig
        .commands
        .iter()
        .filter_map(|command| match command {
            Command::Assign { part, info, .. } if part.number == 2 => Some(info.sip_call_id.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(order, wanted);
    assert_eq!(moved(&rig).len(), 2_000);
}
