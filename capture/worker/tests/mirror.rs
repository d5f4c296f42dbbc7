//! Two workers, one recording: the second is told what the first one hears, over a link that loses frames.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm
)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak, mpsc};
use std::time::{Duration, Instant, SystemTime};

use ferric_codecs::decode::CodecKind;
use ferric_codecs::g711;
use ferric_codecs::ogg::OggReader;
use ferric_codecs::opus::{OpusDecoder, OpusSettings};
use ferric_codecs::opus_packet::split_two;
use ferric_codecs::testing::{correlation, syllables};
use ferric_media::keys::{NodeKey, PrivateKey};
use ferric_media::manifest::{RecordingState, SignedManifest};
use ferric_media::metadata::{RecordingMetadata, SessionInfo};
use ferric_media::mirror::{Outgoing, Report};
use ferric_media::open::open_all;
use ferric_media::part::Part;
use ferric_media::rtp::StreamIndex;
use ferric_media::stats::Channel;
use ferric_media::stream::{PayloadKind, StreamConfig};
use ferric_worker::call::{Assignment, Control, StreamAddress, WorkerEvent};
use ferric_worker::mirror::MirrorLink;
use ferric_worker::mirror::twin::{Role, Twin};
use ferric_worker::recover::{recover, release_held};
use ferric_worker::spool::{AUDIO, METADATA, Spool, Stage};
use ferric_worker::spool_commit::Finisher;
use ferric_worker::worker::{TenantKeys, Worker, WorkerConfig};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PACKET: usize = 160;

fn tenant() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate(&mut StdRng::seed_from_u64(1)).unwrap())
}

struct Node {
    _folder: tempfile::TempDir,
    name: &'static str,
    spool: Spool,
    worker: Arc<Worker>,
    finisher: Arc<Finisher>,
    ready: mpsc::Receiver<SignedManifest>,
    events: tokio::sync::mpsc::UnboundedReceiver<WorkerEvent>,
}

fn node(name: &'static str, ports: (u16, u16)) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    let key = Arc::new(NodeKey::generate(&mut StdRng::seed_from_u64(2)).unwrap());
    let (committer, _) = recover(&spool, key, name, None).unwrap();
    let (tell, ready) = mpsc::channel();
    let finisher = Arc::new(Finisher::start(committer, move |signed| drop(tell.send(signed.clone()))).unwrap());
    let keys = TenantKeys { recipients: vec![tenant().public().clone()], mask_dtmf: false };
    let config = WorkerConfig {
        node: name.into(),
        rtp_address: LOOPBACK,
        advertise: None,
        rtp_ports: ports,
        max_calls: 10,
        opus: OpusSettings::default(),
        segment: Duration::from_secs(1),
        rtp_timeout: Duration::from_secs(60),
        shards: 2,
        tenants: HashMap::from([("acme".to_owned(), keys)]),
    };
    let submit = Arc::clone(&finisher);
    let (worker, events) = Worker::start(config, spool.clone(), move |finished, _| submit.submit(finished)).unwrap();
    Node { _folder: folder, name, spool, worker, finisher, ready, events }
}

/// The way between two workers: loses a share of its datagrams, and everything once it is cut.
#[derive(Debug)]
struct Link {
    original: Weak<Worker>,
    copy: Weak<Worker>,
    rng: Mutex<StdRng>,
    loss: f64,
    lost: AtomicU64,
    cut: std::sync::atomic::AtomicBool,
    me: OnceLock<Weak<Link>>,
}

impl Link {
    fn between(original: &Node, copy: &Node, loss: f64) -> Arc<Link> {
        let link = Arc::new(Link {
            original: Arc::downgrade(&original.worker),
            copy: Arc::downgrade(&copy.worker),
            rng: Mutex::new(StdRng::seed_from_u64(9)),
            loss,
            lost: AtomicU64::new(0),
            cut: false.into(),
            me: OnceLock::new(),
        });
        link.me.set(Arc::downgrade(&link)).unwrap();
        link
    }
}

impl MirrorLink for Link {
    fn frame(&self, frame: Outgoing) -> bool {
        let (bytes, sure) = match frame {
            Outgoing::Datagram(bytes) => (bytes, false),
            Outgoing::Message(bytes) => (bytes, true),
        };
        let lost = !sure && self.rng.lock().unwrap().random_bool(self.loss);
        if lost || self.cut.load(Ordering::Relaxed) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        let me = self.me.get().unwrap().upgrade().unwrap();
        self.copy.upgrade().unwrap().feed(Instant::now(), bytes, || me).unwrap();
        true
    }

    fn report(&self, report: &Report) -> bool {
        if !self.cut.load(Ordering::Relaxed)
            && let Some(original) = self.original.upgrade()
        {
            original.mirror_report(report);
        }
        true
    }

    fn max_datagram(&self) -> usize {
        1_100
    }
}

fn streams() -> Vec<StreamConfig> {
    let stream = |index: u16, channel| StreamConfig {
        index: StreamIndex(index),
        label: (index + 1).to_string(),
        channel,
        payloads: vec![(0, PayloadKind::Audio(CodecKind::Pcmu))],
        active: true,
        expected_source: None,
        srtp: None,
    };
    vec![stream(0, Channel::Left), stream(1, Channel::Right)]
}

impl Node {
    fn assign(&self, part: Part) -> Vec<StreamAddress> {
        let assignment = Assignment {
            part,
            lost: None,
            tenant: "acme".into(),
            started: SystemTime::now(),
            session: SessionInfo::default(),
            streams: streams(),
            takes: Vec::new(),
            restore: Vec::new(),
            beside: None,
        };
        self.worker.assign(assignment).unwrap()
    }

    fn open(&self, stage: Stage, file: Uuid, name: &str) -> Vec<u8> {
        let path = self.spool.folder(stage, file).join(name);
        open_all(tenant(), &std::fs::read(path).unwrap()).unwrap()
    }

    fn metadata(&self, stage: Stage, file: Uuid) -> RecordingMetadata {
        RecordingMetadata::from_json(&self.open(stage, file, METADATA)).unwrap()
    }

    /// The packets of Opus of a file, both parties.
    fn packets(&self, stage: Stage, file: Uuid) -> Vec<[Vec<u8>; 2]> {
        let audio = self.open(stage, file, AUDIO);
        let mut reader = OggReader::new();
        reader.push(&audio);
        let mut packets = Vec::new();
        while let Some(packet) = reader.next_packet().unwrap() {
            packets.push(packet.data.to_vec());
        }
        // Two headers come first.
        packets.drain(..2);
        let split = |packet: &Vec<u8>| split_two(packet).map(|(left, right)| [left, right.to_vec()]).unwrap();
        packets.iter().map(split).collect()
    }

    /// Waits until a folder stands in a stage.
    fn wait_for(&self, stage: Stage, file: Uuid) {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.spool.folder(stage, file).exists() {
            assert!(Instant::now() < until, "{}: nothing in {}", self.name, stage.folder());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn finished(&mut self) -> (Part, RecordingState) {
        loop {
            if let WorkerEvent::Finished { part, state, .. } = self.events.blocking_recv().unwrap() {
                return (part, state);
            }
        }
    }
}

/// Two parties that speak in real time.
struct Speech {
    said: [Vec<i16>; 2],
    sockets: [UdpSocket; 2],
    next: usize,
    began: Instant,
}

impl Speech {
    fn new(seconds: usize) -> Speech {
        let socket = || UdpSocket::bind((LOOPBACK, 0)).unwrap();
        Speech {
            said: [syllables(8_000, 8_000 * seconds, 1), syllables(8_000, 8_000 * seconds, 2)],
            sockets: [socket(), socket()],
            next: 0,
            began: Instant::now(),
        }
    }

    /// Speaks for so many packets of 20 ms.
    fn speak(&mut self, to: &[StreamAddress], packets: usize) {
        for number in self.next..self.next + packets {
            let due = self.began + Duration::from_millis(20) * number as u32;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            for (party, to) in to.iter().enumerate() {
                let mut packet = vec![0x80, 0];
                packet.extend((number as u16).to_be_bytes());
                packet.extend((number as u32 * PACKET as u32).to_be_bytes());
                packet.extend((party as u32 + 77).to_be_bytes());
                g711::encode_ulaw(&self.said[party][number * PACKET..][..PACKET], &mut packet);
                self.sockets[party].send_to(&packet, to.address).unwrap();
            }
        }
        self.next += packets;
    }
}

/// How alike a channel is to what was said, wherever it lies within the first half second.
fn alike(packets: &[[Vec<u8>; 2]], party: usize, said: &[i16]) -> f64 {
    let mut decoder = OpusDecoder::new(8_000).unwrap();
    let mut heard = Vec::new();
    for packet in packets {
        decoder.decode(&packet[party], &mut heard).unwrap();
    }
    (0..4_000).map(|shift| correlation(said, &heard[shift..])).fold(0.0, f64::max)
}

#[test]
fn a_copy_is_the_original_and_waits_in_its_spool() {
    let (mut first, second) = (node("edge-a", (37_000, 37_099)), node("edge-b", (37_100, 37_199)));
    let part = Part::first(Uuid::now_v7());
    let copy = Uuid::now_v7();
    let addresses = first.assign(part);
    let link = Link::between(&first, &second, 0.15);
    first.worker.mirror_to(part.recording, copy, "edge-b", link.clone());
    let mut speech = Speech::new(4);
    speech.speak(&addresses, 60);
    first.worker.control(part.recording, Control::Pause { by: Some("agent".into()) }).unwrap();
    speech.speak(&addresses, 40);
    first.worker.control(part.recording, Control::Resume).unwrap();
    first.worker.control(part.recording, Control::Tags(vec![("case".into(), "17".into())])).unwrap();
    speech.speak(&addresses, 60);
    assert!(second.worker.has_copy(part.recording) && second.worker.calls().is_empty());
    first.worker.release(part.recording, "BYE");
    assert_eq!(first.finished(), (part, RecordingState::Complete));
    second.wait_for(Stage::Held, copy);
    first.wait_for(Stage::Ready, part.file);

    assert!(link.lost.load(Ordering::Relaxed) > 0, "the link lost nothing");
    let (original, copied) = (first.packets(Stage::Ready, part.file), second.packets(Stage::Held, copy));
    assert!(original.len() > 150);
    assert_eq!(original, copied, "the same sound, bit by bit");
    let (original, copied) = (first.metadata(Stage::Ready, part.file), second.metadata(Stage::Held, copy));
    assert_eq!((&original.streams, &original.gaps), (&copied.streams, &copied.gaps));
    assert_eq!((&original.pauses, &original.tags), (&copied.pauses, &copied.tags));
    assert_eq!((original.started_at, original.duration_ms), (copied.started_at, copied.duration_ms));
    assert_eq!((copied.part, copied.end_reason.as_deref()), (part.copied(copy), Some("BYE")));

    let twin = |node: &Node, stage, file| Twin::load(&node.spool.folder(stage, file)).unwrap();
    let of_copy = twin(&second, Stage::Held, copy);
    assert_eq!((of_copy.role, of_copy.file, of_copy.node.as_str()), (Role::Copy, part.file, "edge-a"));
    assert_eq!(of_copy.outcome.unwrap().state, RecordingState::Complete);
    let of_original = twin(&first, Stage::Ready, part.file);
    assert_eq!((of_original.role, of_original.file, of_original.node.as_str()), (Role::Original, copy, "edge-b"));
    assert_eq!(of_copy.started_at, of_original.started_at);
    assert!(second.ready.try_recv().is_err(), "it is no link of the chain");

    let released = release_held(&second.spool, copy, "edge-b").unwrap();
    second.finisher.submit(released);
    let manifest = second.ready.recv_timeout(Duration::from_secs(10)).unwrap().manifest;
    assert_eq!((manifest.part, manifest.state), (part.copied(copy), RecordingState::Complete));
}

#[test]
fn a_copy_goes_on_when_the_original_dies_and_what_was_mirrored_is_not_lost() {
    let (first, mut second) = (node("edge-a", (37_200, 37_299)), node("edge-b", (37_300, 37_399)));
    let part = Part::first(Uuid::now_v7());
    let copy = Uuid::now_v7();
    let addresses = first.assign(part);
    let link = Link::between(&first, &second, 0.1);
    first.worker.mirror_to(part.recording, copy, "edge-b", link.clone());
    let mut speech = Speech::new(6);
    speech.speak(&addresses, 100);
    // What the first one hears from here on is told to nobody.
    std::thread::sleep(Duration::from_millis(250));
    link.cut.store(true, Ordering::Relaxed);
    let moved = second.worker.promote(part.recording, Duration::ZERO).unwrap();
    assert_eq!(moved.len(), 2);
    assert!(!second.worker.has_copy(part.recording) && second.worker.is_recording(part.recording));
    assert_eq!(second.worker.calls().len(), 1);
    speech.began += Duration::from_millis(250);
    speech.speak(&moved, 100);
    second.worker.release(part.recording, "BYE");
    let went_on = Part { file: copy, ..part };
    assert_eq!(second.finished(), (went_on, RecordingState::Complete));
    second.wait_for(Stage::Ready, copy);
    assert_eq!(second.ready.recv_timeout(Duration::from_secs(10)).unwrap().manifest.part, went_on);

    let packets = second.packets(Stage::Ready, copy);
    let metadata = second.metadata(Stage::Ready, copy);
    assert_eq!(metadata.hand_overs.len(), 1);
    assert_eq!(metadata.part, went_on);
    for stream in &metadata.streams {
        assert_eq!((stream.packets, stream.lost), (200, 0), "{stream:?}");
    }
    for party in 0..2 {
        // The sender stood still for a quarter second in the middle; its timestamps did not.
        let same = alike(&packets, party, &speech.said[party][..95 * PACKET]);
        assert!(same > 0.98, "party {party}: {same}");
    }
    first.worker.shut_down();
    second.worker.shut_down();
}

#[test]
fn a_copy_whose_worker_stops_is_no_complete_recording() {
    let (first, second) = (node("edge-a", (37_600, 37_699)), node("edge-b", (37_700, 37_799)));
    let part = Part::first(Uuid::now_v7());
    let copy = Uuid::now_v7();
    let addresses = first.assign(part);
    first.worker.mirror_to(part.recording, copy, "edge-b", Link::between(&first, &second, 0.0));
    Speech::new(2).speak(&addresses, 60);
    second.worker.shut_down();
    second.wait_for(Stage::Held, copy);
    let outcome = Twin::load(&second.spool.folder(Stage::Held, copy)).unwrap().outcome.unwrap();
    assert_eq!(outcome.state, RecordingState::Partial);
    assert!(outcome.ended_at <= SystemTime::now().into());
    assert!(first.worker.is_recording(part.recording), "the original goes on");
    first.worker.shut_down();
}

#[test]
fn a_node_does_not_copy_what_it_records_and_a_full_one_refuses() {
    let (first, second) = (node("edge-a", (37_400, 37_499)), node("edge-b", (37_500, 37_599)));
    let part = Part::first(Uuid::now_v7());
    first.assign(part);
    let mine = Link::between(&first, &first, 0.0);
    let begin = ferric_media::mirror::Begin {
        recording: part.recording,
        part: 1,
        original: part.file,
        node: "edge-a".into(),
        tenant: "acme".into(),
        original_started_at: SystemTime::now().into(),
        started_at: SystemTime::now().into(),
        session: SessionInfo::default(),
        streams: streams(),
        tags: Vec::new(),
        paused: false,
    };
    assert!(first.worker.open_copy(Uuid::now_v7(), begin.clone(), mine.clone()).is_err());
    second.worker.set_draining(true);
    assert!(second.worker.open_copy(Uuid::now_v7(), begin, mine).is_err());
    assert!(second.spool.entries(Stage::Recording).unwrap().is_empty());
    assert!(second.worker.promote(part.recording, Duration::ZERO).is_err());
}
