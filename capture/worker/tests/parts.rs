//! A recording that comes back to the worker that had it: a later part beside an earlier one, on the same ports.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm
)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use ferric_codecs::decode::CodecKind;
use ferric_codecs::opus::OpusSettings;
use ferric_media::keys::{NodeKey, PrivateKey};
use ferric_media::manifest::{RecordingState, SignedManifest, verify_chain};
use ferric_media::metadata::{RecordingMetadata, SessionInfo};
use ferric_media::open::open_all;
use ferric_media::part::Part;
use ferric_media::rtp::StreamIndex;
use ferric_media::stats::Channel;
use ferric_media::stream::{PayloadKind, StreamConfig};
use ferric_worker::call::{Assignment, Refusal, StreamAddress, WorkerEvent};
use ferric_worker::recover::recover;
use ferric_worker::spool::{METADATA, Spool, Stage};
use ferric_worker::spool_commit::Finisher;
use ferric_worker::worker::{TenantKeys, Worker, WorkerConfig};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct Bench {
    _folder: tempfile::TempDir,
    spool: Spool,
    tenant: PrivateKey,
    node: Arc<NodeKey>,
    worker: Arc<Worker>,
    events: UnboundedReceiver<WorkerEvent>,
    ready: mpsc::Receiver<SignedManifest>,
}

fn bench(ports: (u16, u16)) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let spool = Spool::open(folder.path()).unwrap();
    let tenant = PrivateKey::generate(&mut StdRng::seed_from_u64(1)).unwrap();
    let node = Arc::new(NodeKey::generate(&mut StdRng::seed_from_u64(2)).unwrap());
    let (committer, _) = recover(&spool, Arc::clone(&node), "edge-a1", None).unwrap();
    let (tell, ready) = mpsc::channel();
    let finisher = Finisher::start(committer, move |signed| tell.send(signed.clone()).unwrap()).unwrap();
    let keys = TenantKeys { recipients: vec![tenant.public().clone()], mask_dtmf: false };
    let config = WorkerConfig {
        node: "edge-a1".into(),
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
    let (worker, events) = Worker::start(config, spool.clone(), move |finished, _| finisher.submit(finished)).unwrap();
    Bench { _folder: folder, spool, tenant, node, worker, events, ready }
}

impl Bench {
    fn assign(&self, part: Part, restore: &[StreamAddress]) -> Result<Vec<StreamAddress>, Refusal> {
        let stream = |index: u16, channel| StreamConfig {
            index: StreamIndex(index),
            label: (index + 1).to_string(),
            channel,
            payloads: vec![(0, PayloadKind::Audio(CodecKind::Pcmu))],
            active: true,
            expected_source: None,
            srtp: None,
        };
        let started = SystemTime::now();
        self.worker.assign(Assignment {
            part,
            lost: part.is_later().then(|| started - Duration::from_millis(300)),
            tenant: "acme".into(),
            started,
            session: SessionInfo::default(),
            streams: vec![stream(0, Channel::Left), stream(1, Channel::Right)],
            takes: Vec::new(),
            restore: restore.to_vec(),
            beside: None,
        })
    }

    fn until<T>(&mut self, wanted: impl Fn(&WorkerEvent) -> Option<T>) -> T {
        loop {
            let event = self.events.blocking_recv().expect("the worker lives");
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }

    fn metadata(&self, part: Part) -> RecordingMetadata {
        let file = self.spool.folder(Stage::Ready, part.file).join(METADATA);
        RecordingMetadata::from_json(&open_all(&self.tenant, &std::fs::read(file).unwrap()).unwrap()).unwrap()
    }
}

/// Half a second of silence in G.711 to each address, at once.
fn speak(sockets: &[UdpSocket], addresses: &[StreamAddress], first: u16) {
    for (socket, to) in sockets.iter().zip(addresses) {
        for number in first..first + 25 {
            let mut packet = vec![0x80, 0];
            packet.extend(number.to_be_bytes());
            packet.extend((u32::from(number) * 160).to_be_bytes());
            packet.extend(u32::from(to.address.port()).to_be_bytes());
            packet.extend([0xff; 160]);
            socket.send_to(&packet, to.address).unwrap();
        }
    }
}

fn took_over(event: &WorkerEvent) -> Option<(Part, u64)> {
    match event {
        WorkerEvent::TookOver { part, lost_ms } => Some((*part, *lost_ms)),
        _ => None,
    }
}

fn finished(event: &WorkerEvent) -> Option<Part> {
    match event {
        WorkerEvent::Finished { part, .. } => Some(*part),
        _ => None,
    }
}

#[test]
fn a_later_part_ends_the_one_before_and_keeps_the_ports_that_it_is_to_have() {
    let mut bench = bench((36_100, 36_199));
    let sockets = [UdpSocket::bind((LOOPBACK, 0)).unwrap(), UdpSocket::bind((LOOPBACK, 0)).unwrap()];
    let first = Part::first(Uuid::now_v7());
    let second = Part::new(first.recording, 2, Uuid::now_v7());
    let third = Part::new(first.recording, 3, Uuid::now_v7());

    let addresses = bench.assign(first, &[]).unwrap();
    speak(&sockets, &addresses, 0);
    bench.until(|event| matches!(event, WorkerEvent::FirstMedia { .. }).then_some(()));
    let again = bench.assign(second, &addresses).unwrap();
    let sorted = |mut addresses: Vec<StreamAddress>| {
        addresses.sort_by_key(|have| have.stream);
        addresses
    };
    assert_eq!(sorted(again), addresses, "the peers need not hear of it");
    // What comes before the shard has changed over belongs to the part before.
    let mut first_number = 25;
    let (part, lost_ms) = loop {
        speak(&sockets, &addresses, first_number);
        first_number += 25;
        std::thread::sleep(Duration::from_millis(20));
        if let Some(found) = std::iter::from_fn(|| bench.events.try_recv().ok()).find_map(|event| took_over(&event)) {
            break found;
        }
    };
    assert_eq!(part, second);
    assert!((300..10_000).contains(&lost_ms), "{lost_ms}");

    // Elsewhere this time: two other ports, and the old ones are free again.
    let elsewhere = bench.assign(third, &[]).unwrap();
    assert!(elsewhere.iter().all(|new| addresses.iter().all(|old| old.address != new.address)));
    assert_eq!(bench.worker.call_count(), 1);
    bench.worker.release(first.recording, "bye");
    bench.worker.shut_down();
    let mut manifests: Vec<SignedManifest> = bench.ready.iter().take(3).collect();
    manifests.sort_by_key(|signed| signed.manifest.part.number);
    let parts: Vec<Part> = manifests.iter().map(|signed| signed.manifest.part).collect();
    assert_eq!(parts, [first, second, third]);
    assert!(verify_chain(&manifests, bench.node.public()).unwrap().is_whole());
    let states: Vec<RecordingState> = manifests.iter().map(|signed| signed.manifest.state).collect();
    assert_eq!(states, [RecordingState::Complete, RecordingState::Complete, RecordingState::Partial]);
    assert_eq!(bench.metadata(first).hand_overs, []);
    assert_eq!(bench.metadata(second).hand_overs[0].lost_ms, Some(lost_ms));
    let packets = |part| bench.metadata(part).streams.iter().map(|stream| stream.packets).sum::<u64>();
    assert_eq!(packets(first) + packets(second), u64::from(first_number) * 2);
    assert!(packets(second) > 0);
}

#[test]
fn ports_that_cannot_be_had_again_refuse_the_part_and_leave_nothing() {
    let mut bench = bench((36_200, 36_207));
    let (one, other) = (Part::first(Uuid::now_v7()), Part::first(Uuid::now_v7()));
    let addresses = bench.assign(one, &[]).unwrap();
    assert_eq!(bench.assign(Part::new(other.recording, 2, Uuid::now_v7()), &addresses), Err(Refusal::NoPorts));
    let mut foreign = addresses.clone();
    foreign[0].address.set_ip(Ipv4Addr::new(192, 0, 2, 1).into());
    assert_eq!(bench.assign(Part::new(other.recording, 2, Uuid::now_v7()), &foreign), Err(Refusal::NoPorts));
    assert_eq!((bench.worker.call_count(), bench.worker.free_ports()), (1, (2, 4)));

    bench.worker.release(one.recording, "bye");
    assert_eq!(bench.until(finished), one);
    let half = &addresses[..1];
    let mixed = loop {
        // The ports come back a moment after the recording is told of.
        match bench.assign(Part::new(other.recording, 2, Uuid::now_v7()), half) {
            Ok(mixed) => break mixed,
            Err(refusal) => assert_eq!(refusal, Refusal::NoPorts),
        }
        std::thread::yield_now();
    };
    assert!(mixed.contains(&half[0]), "what was asked for by its port; the other got any");
    bench.worker.shut_down();
}
