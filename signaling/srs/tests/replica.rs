//! A call outlives its node: what is replicated, and what the partner makes of it.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod rig;

use std::time::{Duration, SystemTime};

use ferric_sip::{Message, Method, Transport};
use ferric_srs::port::{CaptureEvent, Command, ReleaseCause};
use ferric_srs::replica::{Batch, Replicas, ReplicasLimits, Update};
use ferric_srs::{Ownership, Srs, SrsConfig, SrsEvent};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rig::{Rig, SDP, config};

const TIMER: (&str, &str) = ("Supported", "timer");
const ALLOW: (&str, &str) = ("Allow", "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE");

/// A server whose dialogs are replicated, its partner's memory, and the partner.
struct Pair {
    rig: Rig,
    replicas: Replicas,
    partner: Srs,
}

/// The partner listens elsewhere.
fn partner_config(seed: u64) -> SrsConfig {
    let listeners = [(Transport::Udp, "192.0.2.11:5060"), (Transport::Tcp, "192.0.2.11:5060")];
    let listeners = listeners.into_iter().map(|(transport, address)| (transport, address.parse().unwrap())).collect();
    SrsConfig { seed, key_seed: [9; 32], listeners, ..config() }
}

fn other(rig: &Rig, seed: u64) -> Srs {
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_438_400);
    let mut partner = Srs::new(partner_config(seed), rig.now(), wall);
    partner.set_replicating(true);
    partner
}

impl Pair {
    fn new() -> Pair {
        let mut rig = Rig::new();
        rig.srs.set_replicating(true);
        let partner = other(&rig, 2);
        Pair { rig, replicas: Replicas::new(ReplicasLimits::default()), partner }
    }

    /// What waits goes to the partner, as text; returns it.
    fn carry(&mut self) -> Vec<Update> {
        let mut all = Vec::new();
        while let Some(batch) = self.rig.srs.poll_replicas(self.rig.now(), 64 << 10) {
            let text = serde_json::to_string(&batch).unwrap();
            let read: Batch = serde_json::from_str(&text).unwrap();
            assert_eq!(read, batch);
            all.extend(batch.updates);
            self.replicas.take(self.rig.now(), "a", read);
        }
        all
    }

    /// The server dies, and the partner goes on. What the server had not told yet is lost.
    fn kill(&mut self) -> Srs {
        let estate = self.replicas.surrendered_by("a");
        let now = self.rig.now();
        let next = other(&self.rig, self.rig.now().elapsed().as_nanos() as u64);
        let dead = std::mem::replace(&mut self.rig.srs, std::mem::replace(&mut self.partner, next));
        self.rig.sent.clear();
        self.rig.commands.clear();
        self.rig.events.clear();
        self.rig.srs.adopt(now, estate);
        self.rig.ask_nothing();
        dead
    }

    fn die(&mut self) -> Srs {
        self.carry();
        self.kill()
    }

    /// The request by which the new server says where the dialog is; it is answered.
    fn announced(&mut self, status: u16) -> Message {
        self.rig.wait(Duration::from_secs(1));
        let asked = self.rig.sent.iter().position(|sent| sent.is_request() && sent.method() != Method::Ack).unwrap();
        let request = self.rig.sent.remove(asked);
        let body = if request.method() == Method::Invite && status == 200 { SDP } else { "" };
        self.rig.respond(&request, status, body);
        request
    }
}

fn methods(rig: &Rig) -> Vec<String> {
    rig.sent.iter().filter(|sent| sent.is_request()).map(|sent| sent.method().to_string()).collect()
}

#[test]
fn a_call_goes_on_at_the_partner_and_the_peer_learns_where() {
    let mut pair = Pair::new();
    let recording = pair.rig.recorded(&[TIMER, ALLOW], SDP);
    pair.die();
    assert!(matches!(&pair.rig.commands[..], [Command::Change { recording: own, streams, .. }]
        if *own == recording && streams.len() == 2 && streams[1].channel == 1));
    let adopted = pair.rig.events.iter().filter(|event| matches!(event, SrsEvent::Adopted { .. })).count();
    let feeds = pair.rig.events.iter().filter(|event| matches!(event, SrsEvent::Feeds { .. })).count();
    assert_eq!((adopted, feeds), (1, 1));
    pair.rig.ready();
    let update = pair.announced(200);
    assert_eq!(update.method(), Method::Update);
    assert!(update.header("Contact").unwrap().starts_with("<sip:srs@192.0.2.11:5060;transport=tcp>"));
    assert!(update.cseq().unwrap().number > 1_000);
    assert!(update.body().is_empty());
    assert_eq!(pair.rig.ask("OPTIONS", &[], "").status(), Some(200));
    let hold = SDP.replace("sendonly", "inactive");
    pair.rig.sent.clear();
    pair.rig.request("INVITE", &[], &hold);
    assert!(pair.rig.streams().iter().all(|stream| !stream.active));
    pair.rig.ready();
    let ok = pair.rig.answer();
    assert_eq!(ok.status(), Some(200));
    let sdp = String::from_utf8_lossy(ok.body()).into_owned();
    assert!(sdp.contains("m=audio 40000") && sdp.contains("m=audio 40002"), "the sockets stand: {sdp}");
    pair.rig.ack("");
    assert_eq!(pair.rig.ask("BYE", &[], "").status(), Some(200));
    assert_eq!(pair.rig.released(), [ReleaseCause::Bye]);
    assert_eq!((pair.rig.srs.sessions(), pair.rig.srs.recordings()), (0, 0));
    pair.rig.wait(Duration::from_secs(120));
    assert_eq!((pair.rig.srs.transactions(), pair.rig.srs.poll_timeout()), (0, None));
}

#[test]
fn the_version_of_our_description_goes_on() {
    let mut pair = Pair::new();
    pair.rig.recorded(&[], SDP);
    pair.die();
    pair.rig.ready();
    let offer = pair.announced(200);
    assert_eq!(offer.method(), Method::Invite, "the peer does not say that it serves UPDATE");
    let before = String::from_utf8_lossy(offer.body()).into_owned();
    let ack = pair.rig.sent.iter().find(|sent| sent.method() == Method::Ack);
    assert!(ack.is_some(), "{}", pair.rig.trace);
    pair.rig.sent.clear();
    pair.rig.request("INVITE", &[], &SDP.replace("sendonly", "inactive"));
    pair.rig.ready();
    let after = String::from_utf8_lossy(pair.rig.answer().body()).into_owned();
    let origin = |sdp: &str| -> Vec<u64> {
        let line = sdp.lines().find(|line| line.starts_with("o=")).unwrap();
        line.split(' ').skip(1).take(2).map(|number| number.parse().unwrap()).collect()
    };
    assert_eq!(origin(&after)[0], origin(&before)[0]);
    assert_eq!(origin(&after)[1], origin(&before)[1] + 1);
}

#[test]
fn a_call_that_was_not_answered_is_no_call_yet() {
    let mut pair = Pair::new();
    pair.rig.request("INVITE", &[], SDP);
    assert_eq!(pair.carry(), []);
    pair.kill();
    assert_eq!((pair.rig.srs.sessions(), pair.rig.commands.len()), (0, 0));
}

#[test]
fn the_200_is_repeated_until_its_ack_comes() {
    let mut pair = Pair::new();
    pair.rig.request("INVITE", &[ALLOW], SDP);
    pair.rig.ready();
    let ok = pair.rig.answer();
    pair.rig.established(&ok);
    pair.die();
    pair.rig.ready();
    pair.rig.wait(Duration::from_millis(1));
    let again = pair.rig.sent.iter().find(|sent| sent.status() == Some(200)).unwrap();
    assert_eq!((again.body(), again.to().unwrap().tag()), (ok.body(), ok.to().unwrap().tag()));
    pair.rig.ack("");
    pair.announced(200);
    pair.rig.sent.clear();
    pair.rig.wait(Duration::from_secs(40));
    assert_eq!((pair.rig.sent.len(), pair.rig.srs.sessions()), (0, 1));

    // The ACK went to the node that died, and the peer answers our UPDATE: it has had the 200.
    let mut pair = Pair::new();
    pair.rig.request("INVITE", &[ALLOW], SDP);
    pair.rig.ready();
    let ok = pair.rig.answer();
    pair.rig.established(&ok);
    pair.die();
    pair.rig.ready();
    pair.announced(200);
    pair.rig.wait(Duration::from_secs(40));
    assert_eq!(pair.rig.srs.sessions(), 1);
}

#[test]
fn a_change_that_the_peer_was_not_answered_is_taken_back() {
    let mut pair = Pair::new();
    pair.rig.recorded(&[ALLOW], SDP);
    pair.carry();
    let one = &SDP[..SDP.find("m=audio 16002").unwrap()];
    pair.rig.request("INVITE", &[], &one.replace("sendonly", "inactive"));
    pair.die();
    let streams = pair.rig.streams();
    assert_eq!((streams.len(), streams[0].active), (2, true), "as the peer still has it");
    pair.rig.ready();
    pair.rig.sent.clear();
    pair.rig.request("INVITE", &[], &one.replace("sendonly", "inactive"));
    pair.rig.ready();
    assert_eq!(pair.rig.answer().status(), Some(200));
    assert_eq!(pair.rig.streams().len(), 1);
}

#[test]
fn a_peer_that_serves_no_update_gets_a_re_invite_and_one_that_forgot_the_call_ends_it() {
    let mut pair = Pair::new();
    pair.rig.recorded(&[ALLOW], SDP);
    pair.die();
    pair.rig.ready();
    assert_eq!(pair.announced(501).method(), Method::Update);
    assert_eq!(pair.announced(491).method(), Method::Invite);
    pair.rig.wait(Duration::from_secs(2));
    assert_eq!(pair.announced(481).method(), Method::Invite);
    assert_eq!(
        (pair.rig.released(), methods(&pair.rig)),
        (vec![ReleaseCause::PeerGone], vec!["ACK".into(), "ACK".into()])
    );
}

#[test]
fn a_peer_that_cannot_be_reached_keeps_its_call() {
    let mut pair = Pair::new();
    pair.rig.recorded(&[ALLOW], SDP);
    pair.die();
    pair.rig.ready();
    pair.rig.wait(Duration::from_secs(600));
    let tries = methods(&pair.rig).len();
    assert!((3..=8).contains(&tries), "{tries}");
    assert_eq!((pair.rig.srs.sessions(), pair.rig.released()), (1, vec![]));
    assert_eq!(pair.rig.ask("BYE", &[], "").status(), Some(200));
}

#[test]
fn many_calls_are_announced_one_after_another() {
    let mut pair = Pair::new();
    for _ in 0..40 {
        pair.rig.next_call();
        pair.rig.sent.clear();
        pair.rig.recorded(&[ALLOW], SDP);
    }
    pair.die();
    assert_eq!((pair.rig.srs.sessions(), pair.rig.srs.recordings()), (40, 40));
    pair.rig.wait(Duration::from_millis(50));
    assert!((9..=11).contains(&methods(&pair.rig).len()), "{}", pair.rig.trace);
    pair.rig.wait(Duration::from_millis(200));
    assert_eq!(methods(&pair.rig).len(), 40);
}

#[test]
fn the_worker_is_lost_with_the_node_and_the_media_move() {
    let mut pair = Pair::new();
    let recording = pair.rig.recorded(&[ALLOW, TIMER], SDP);
    pair.die();
    pair.rig.capture(CaptureEvent::Lost { recording, part: 1 });
    assert!(matches!(pair.rig.commands.last(), Some(Command::Assign { part, .. }) if part.number == 2));
    pair.rig.sent.clear();
    pair.rig.ready();
    pair.rig.wait(Duration::from_millis(20));
    let offer = pair.rig.sent.iter().find(|sent| sent.method() == Method::Update && !sent.body().is_empty()).unwrap();
    let (offer, body) = (offer.clone(), String::from_utf8_lossy(offer.body()).into_owned());
    assert!(body.contains("192.0.2.11") && offer.header("Contact").unwrap().contains("192.0.2.11"), "{body}");
    pair.rig.respond(&offer, 200, SDP);
    pair.rig.sent.clear();
    pair.rig.wait(Duration::from_secs(30));
    assert_eq!(methods(&pair.rig), Vec::<String>::new(), "the offer named our Contact: no other request is needed");

    // The partner dies in turn: the part and the sockets go along.
    pair.die();
    pair.rig.capture(CaptureEvent::Lost { recording, part: 1 });
    assert!(matches!(&pair.rig.commands[..], [Command::Change { .. }]), "an earlier part means nothing");
    pair.rig.capture(CaptureEvent::Lost { recording, part: 2 });
    assert!(matches!(pair.rig.commands.last(), Some(Command::Assign { part, .. }) if part.number == 3));
    pair.rig.ask("BYE", &[], "");
    assert_eq!(pair.rig.released(), [ReleaseCause::Bye]);
}

#[test]
fn the_session_timer_runs_on() {
    let mut pair = Pair::new();
    pair.rig.recorded(&[TIMER, ALLOW, ("Session-Expires", "100;refresher=uac")], SDP);
    pair.rig.wait(Duration::from_secs(60));
    pair.die();
    pair.rig.ready();
    pair.rig.wait(Duration::from_secs(30));
    assert_eq!(pair.rig.srs.sessions(), 1);
    pair.rig.wait(Duration::from_secs(11));
    assert_eq!(
        pair.rig.released(),
        [ReleaseCause::SessionExpired],
        "nobody refreshed, not even our UPDATE went through"
    );
}

/// One half of a call of a Cisco phone.
fn half(rig: &mut Rig, end: &str) {
    rig.next_call();
    rig.from = format!(
        "sip:2001@198.51.100.20;x-{end};x-refci=7;x-nearendclusterid=c1;x-nearendaddr=2001;x-farendaddr=15550100"
    );
    rig.sent.clear();
    rig.request("INVITE", &[("User-Agent", "Cisco-CUCM14.0")], "");
    rig.ready();
    let ok = rig.answer();
    rig.established(&ok);
    rig.ack(
        "v=0\r\no=- 1 1 IN IP4 198.51.100.20\r\nc=IN IP4 198.51.100.20\r\nm=audio 16000 RTP/AVP 0\r\na=sendonly\r\n",
    );
    rig.ready();
}

#[test]
fn two_halves_stay_one_recording_and_a_late_half_finds_the_first() {
    let mut pair = Pair::new();
    half(&mut pair.rig, "nearend");
    let recording = pair.rig.session();
    pair.die();
    pair.rig.ready();
    half(&mut pair.rig, "farend");
    assert_eq!((pair.rig.session(), pair.rig.srs.recordings(), pair.rig.srs.sessions()), (recording, 1, 2));
    pair.die();
    let [Command::Change { streams, .. }] = &pair.rig.commands[..] else { panic!("{:?}", pair.rig.commands) };
    let channels: Vec<(usize, u8)> = streams.iter().map(|stream| (stream.index, stream.channel)).collect();
    assert_eq!(channels, [(0, 0), (32, 1)]);
    assert_eq!(pair.rig.ask("BYE", &[], "").status(), Some(200));
    assert_eq!(pair.rig.released(), [], "the other half goes on");

    // The first half is over and waits for the other when the node dies.
    let mut pair = Pair::new();
    half(&mut pair.rig, "nearend");
    let recording = pair.rig.session();
    pair.rig.ask("BYE", &[], "");
    pair.die();
    assert!(matches!(&pair.rig.commands[..], [Command::Park { .. }]), "{:?}", pair.rig.commands);
    half(&mut pair.rig, "farend");
    assert_eq!((pair.rig.session(), pair.rig.srs.recordings()), (recording, 1));
    let mut pair = Pair::new();
    half(&mut pair.rig, "nearend");
    pair.rig.ask("BYE", &[], "");
    pair.die();
    pair.rig.wait(Duration::from_secs(6));
    assert_eq!((pair.rig.released(), pair.rig.srs.recordings()), (vec![ReleaseCause::Bye], 0));
}

#[test]
fn after_a_split_the_dialog_has_one_node_and_nothing_is_ended_by_it() {
    let mut pair = Pair::new();
    let recording = pair.rig.recorded(&[ALLOW], SDP);
    let mut cut_off = pair.die();
    pair.rig.ready();
    let taken = pair.carry();
    let Some(Update::Session(replica)) = taken.iter().find(|update| matches!(update, Update::Session(_))) else {
        panic!("the adopted dialog is replicated again");
    };
    assert_eq!(replica.epoch, 1);
    let now = pair.rig.now();
    // The link is back. Each hears of the other's dialog.
    assert_eq!(pair.rig.srs.compare_ownership(now, &replica.dialog.id, 0, true), Ownership::Ours(1));
    assert_eq!(cut_off.compare_ownership(now, &replica.dialog.id, 1, false), Ownership::GivenUp);
    let mut heard = Vec::new();
    while let Some(output) = cut_off.poll_output() {
        heard.push(format!("{output:?}"));
    }
    assert!(heard.iter().all(|output| output.starts_with("Event(")), "no BYE, no release: {heard:?}");
    assert!(heard.iter().any(|output| output.contains("GivenUp")));
    assert_eq!((cut_off.sessions(), cut_off.recordings()), (0, 0));
    assert_eq!(cut_off.compare_ownership(now, &replica.dialog.id, 1, false), Ownership::Unknown);
    cut_off.handle_capture(now, CaptureEvent::MediaSilent { recording });
    assert!(cut_off.poll_output().is_none());
    assert_eq!(pair.rig.ask("BYE", &[], "").status(), Some(200));
}

#[test]
fn a_node_that_gives_a_call_up_does_not_leave_a_request_of_its_peer_unanswered() {
    let mut pair = Pair::new();
    pair.rig.recorded(&[ALLOW], SDP);
    let updates = pair.carry();
    let Some(Update::Session(replica)) = updates.iter().find(|update| matches!(update, Update::Session(_))) else {
        panic!()
    };
    pair.rig.sent.clear();
    pair.rig.request("INVITE", &[], &SDP.replace("sendonly", "inactive"));
    let now = pair.rig.now();
    assert_eq!(pair.rig.srs.compare_ownership(now, &replica.dialog.id, 0, true), Ownership::GivenUp);
    pair.rig.ask_nothing();
    let answer = pair.rig.answer();
    assert_eq!((answer.status(), answer.header("Retry-After").as_deref()), (Some(500), Some("1")));
    assert_eq!(pair.rig.released(), []);
    pair.rig.wait(Duration::from_secs(60));
    assert_eq!(pair.rig.srs.poll_timeout(), None);
}

const SECURED: &str = "v=0\r\no=- 1 1 IN IP4 198.51.100.20\r\ns=-\r\nc=IN IP4 198.51.100.20\r\nt=0 0\r\n\
    m=audio 16000 RTP/SAVP 0\r\na=label:1\r\na=sendonly\r\n\
    a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNk\r\n";

#[test]
fn keys_go_along_and_are_never_printed() {
    let mut rig = Rig::with(SrsConfig {
        media: ferric_srs::offer::MediaPolicy { sdes_without_tls: true, ..config().media },
        ..config()
    });
    rig.srs.set_replicating(true);
    let mut pair = Pair { partner: other(&rig, 2), rig, replicas: Replicas::new(ReplicasLimits::default()) };
    pair.rig.recorded(&[ALLOW], SECURED);
    let keys = pair.rig.streams()[0].keys.clone().unwrap();
    let ours = keys.ours.to_string();
    let ours = ours.split("inline:").nth(1).unwrap().split('|').next().unwrap().to_owned();
    let updates = pair.carry();
    assert!(serde_json::to_string(&updates).unwrap().contains(&ours));
    for text in [format!("{updates:?}"), format!("{:?}", pair.replicas)] {
        assert!(!text.contains(&ours) && !text.contains("QUJDREVGR0hJSktM"), "{text}");
    }
    pair.kill();
    assert_eq!(pair.rig.streams()[0].keys.as_ref(), Some(&keys));
}

#[test]
fn only_what_changed_is_told_and_nobody_who_does_not_ask_pays() {
    let mut pair = Pair::new();
    pair.rig.recorded(&[ALLOW], SDP);
    let first = pair.carry();
    assert_eq!(first.len(), 2, "a dialog and its recording: {first:?}");
    let Update::Session(replica) = &first[0] else { panic!() };
    assert_eq!((replica.documents.from, replica.documents.list.len()), (0, 1));
    assert_eq!(pair.carry(), []);
    pair.rig.ask("OPTIONS", &[], "");
    let second = pair.carry();
    let [Update::Session(replica)] = &second[..] else { panic!("{second:?}") };
    assert_eq!((replica.documents.from, replica.documents.list.len()), (1, 0), "the document was told");
    let metadata = "<recording><datamode>complete</datamode><participant participant_id='p1'/></recording>";
    pair.rig.ask("INFO", &[], metadata);
    let third = pair.carry();
    let [Update::Session(replica)] = &third[..] else { panic!("{third:?}") };
    assert_eq!((replica.documents.from, replica.documents.list.len()), (1, 1));
    pair.rig.capture(CaptureEvent::MediaSilent { recording: pair.rig.session() });
    pair.rig.srs.set_replicating(false);
    pair.rig.ask("OPTIONS", &[], "");
    assert!(pair.rig.srs.poll_replicas(pair.rig.now(), 1 << 20).is_none());
    pair.rig.srs.set_replicating(true);
    let again = pair.carry();
    let Update::Session(replica) = &again[0] else { panic!() };
    assert_eq!((replica.documents.from, replica.documents.list.len()), (0, 2));
    pair.rig.ask("BYE", &[], "");
    let last = pair.carry();
    assert!(matches!(&last[..], [Update::SessionOver(_), Update::RecordingOver(_)]), "{last:?}");
    assert_eq!(pair.replicas.counts().collect::<Vec<_>>(), [("a", 0)]);
}

#[test]
fn long_documents_come_in_pieces_and_all_arrive() {
    let mut pair = Pair::new();
    pair.rig.recorded(&[ALLOW], SDP);
    for number in 0..12 {
        let filler = "x".repeat(20_000);
        let metadata = format!(
            "<recording><datamode>partial</datamode><participant participant_id='p{number}'/><!--{filler}--></recording>"
        );
        pair.rig.ask("INFO", &[], &metadata);
    }
    let mut batches = 0;
    while let Some(batch) = pair.rig.srs.poll_replicas(pair.rig.now(), 16 << 10) {
        assert!(serde_json::to_string(&batch).unwrap().len() < 150_000);
        batches += 1;
        pair.replicas.take(pair.rig.now(), "a", batch);
    }
    assert!(batches > 3);
    let info = pair.rig.info();
    pair.kill();
    // What a partial update adds, it adds to what was known.
    pair.rig.ask("INFO", &[], "<recording><datamode>partial</datamode><participant participant_id='new'/></recording>");
    let after = pair.rig.info();
    assert_eq!(after.documents[..info.documents.len()], info.documents);
    assert_eq!(after.participants.len(), info.participants.len() + 1);
}

#[test]
fn who_has_a_dialog_is_known_by_its_requests_and_a_restart_forgets_what_is_not_told_again() {
    let mut pair = Pair::new();
    pair.rig.recorded(&[ALLOW], SDP);
    pair.carry();
    let bye = Message::parse(bytes::Bytes::from(
        pair.rig.request_text("BYE", &[], "").replace("Content-Length: AUTO", "Content-Length: 0"),
    ))
    .unwrap();
    assert_eq!(pair.replicas.owner_of(&bye), Some("a"));
    assert!(!pair.partner.expects(&bye, &pair.rig.flow));
    // The link breaks. The call ends before it is back, and the end is never told.
    pair.rig.srs.set_replicating(false);
    pair.rig.ask("BYE", &[], "");
    assert_eq!(pair.replicas.owner_of(&bye), Some("a"));
    pair.rig.srs.set_replicating(true);
    pair.carry();
    assert_eq!(pair.replicas.owner_of(&bye), None);
    assert_eq!(pair.replicas.surrendered_by("a").sessions.len(), 0);
}

#[test]
fn what_is_kept_for_others_is_bounded() {
    let mut pair = Pair::new();
    pair.replicas = Replicas::new(ReplicasLimits { sessions: 2, document_bytes: 1_500 });
    for _ in 0..4 {
        pair.rig.next_call();
        pair.rig.sent.clear();
        pair.rig.recorded(&[ALLOW], SDP);
    }
    pair.carry();
    assert_eq!((pair.replicas.counts().map(|(_, count)| count).sum::<usize>(), pair.replicas.refused()), (2, 2));
    let estate = pair.replicas.surrendered_by("a");
    let bytes: usize =
        estate.sessions.iter().flat_map(|(_, session)| &session.documents.list).map(|d| d.body.len()).sum();
    assert!(bytes <= 1_500);
    assert_eq!(pair.replicas.surrendered_by("a").sessions.len(), 0);
}

#[test]
fn a_neighbouring_version_is_understood() {
    let mut pair = Pair::new();
    pair.rig.recorded(&[ALLOW, TIMER], SDP);
    let batch = pair.rig.srs.poll_replicas(pair.rig.now(), 1 << 20).unwrap();
    let mut value = serde_json::to_value(&batch).unwrap();
    let session = &mut value["updates"][0]["session"];
    session["later"] = serde_json::json!({"unknown": [1, 2]});
    for name in ["epoch", "accepted", "stopped", "communication_sessions", "half", "heard", "peer_gives_snapshots"] {
        session.as_object_mut().unwrap().remove(name);
    }
    value["unheard_of"] = 1.into();
    let read: Batch = serde_json::from_value(value).unwrap();
    pair.replicas.take(pair.rig.now(), "a", read);
    pair.kill();
    assert_eq!(pair.rig.srs.sessions(), 1);
}

#[test]
fn a_name_in_contact_is_looked_up_as_srv() {
    let mut rig = Rig::with(SrsConfig { contact: Some("srs-east.example.com".to_owned()), ..config() });
    rig.request("INVITE", &[], SDP);
    rig.ready();
    let contact = rig.answer().header("Contact").unwrap().into_owned();
    assert_eq!(contact, "<sip:srs@srs-east.example.com;transport=tcp>;+sip.srs");
}

/// Calls do what they like, and the node dies again and again, at any moment.
#[test]
fn whenever_the_node_dies_each_answered_call_goes_on_and_ends_once() {
    for seed in 0..60_u64 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut pair = Pair::new();
        let mut lives = 1;
        for _ in 0..4 {
            pair.rig.next_call();
            pair.rig.sent.clear();
            let recording = pair.rig.recorded(&[ALLOW, TIMER], SDP);
            let mut held = false;
            for _ in 0..rng.random_range(1..12) {
                match rng.random_range(0..6) {
                    0 => {
                        pair.carry();
                    }
                    1 => {
                        held = !held;
                        pair.rig.sent.clear();
                        let body = if held { SDP.replace("sendonly", "inactive") } else { SDP.to_owned() };
                        pair.rig.request("INVITE", &[], &body);
                        if rng.random_bool(0.5) {
                            pair.rig.ready();
                            assert_eq!(pair.rig.answer().status(), Some(200), "seed {seed}\n{}", pair.rig.trace);
                            pair.rig.ack("");
                        } else {
                            // It dies between the request and capture's answer, and the peer asks again.
                            pair.die();
                            lives += 1;
                            pair.rig.ready();
                            held = !held;
                        }
                    }
                    2 => {
                        pair.die();
                        lives += 1;
                        assert!(pair.rig.commands.iter().any(|command| matches!(command, Command::Change { .. })));
                        pair.rig.ready();
                    }
                    3 => assert_eq!(pair.rig.ask("OPTIONS", &[], "").status(), Some(200), "seed {seed}"),
                    4 => pair.rig.wait(Duration::from_millis(rng.random_range(0..3_000))),
                    _ => {
                        let found = pair.rig.sent.iter().rposition(|sent| sent.method() == Method::Update);
                        if let Some(update) = found.map(|at| pair.rig.sent.remove(at)).filter(Message::is_request) {
                            pair.rig.respond(&update, 200, "");
                        }
                    }
                }
            }
            assert_eq!((pair.rig.srs.sessions(), pair.rig.srs.recordings()), (1, 1), "seed {seed}\n{}", pair.rig.trace);
            pair.rig.commands.clear();
            pair.rig.sent.clear();
            pair.rig.request("BYE", &[], "");
            let last = pair.rig.sent.iter().rev().find(|sent| !sent.is_request()).unwrap();
            assert_eq!(last.status(), Some(200), "seed {seed}");
            assert!(
                matches!(pair.rig.commands.last(), Some(Command::Release { recording: id, .. }) if *id == recording)
            );
        }
        pair.rig.wait(Duration::from_secs(120));
        assert_eq!((pair.rig.srs.sessions(), pair.rig.srs.recordings(), pair.rig.srs.transactions()), (0, 0, 0));
        assert_eq!(pair.rig.srs.poll_timeout(), None, "seed {seed}, {lives} lives");
    }
}
