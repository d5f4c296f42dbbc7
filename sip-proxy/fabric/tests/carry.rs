#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation
)]
//! What is carried: order, back-pressure, requests, datagrams.

#[allow(dead_code)]
mod lab;

use std::time::Duration;

use ferric_fabric::ca::ClusterCa;
use ferric_fabric::{FabricConfig, Inbound, Kind, Limits, Protocol, RequestError, SendError};
use lab::{Node, PATIENCE, config, id};

const KIND: Kind = Kind::new(1, 1);

fn pair(limits: Limits) -> (Node, Node) {
    let ca = ClusterCa::create().unwrap();
    let mut a = Node::start(FabricConfig { limits, ..config(&ca, "a1", &[]) });
    let mut b = Node::start(FabricConfig { limits, ..config(&ca, "a2", &[a.address()]) });
    a.wait_up("a2");
    b.wait_up("a1");
    (a, b)
}

#[test]
fn messages_of_a_topic_arrive_once_and_in_order() {
    let (a, mut b) = pair(Limits { queue_messages: 10_000, ..Limits::default() });
    let topics = [Kind::new(1, 1), Kind::new(1, 2), Kind::new(2, 1)];
    for n in 0..3000u32 {
        a.fabric.send(&id("a2"), topics[n as usize % 3], n.to_be_bytes().to_vec()).unwrap();
    }
    let mut last = [None, None];
    for _ in 0..3000 {
        let Inbound::Message { from, kind, protocol, body } = b.message() else { panic!("no request was sent") };
        assert_eq!((from, protocol), (id("a1"), Protocol(1)));
        let n = u32::from_be_bytes(body[..].try_into().unwrap());
        assert_eq!(kind, topics[n as usize % 3]);
        let last = &mut last[usize::from(kind.topic()) - 1];
        assert!(*last < Some(n), "{n} after {last:?}");
        *last = Some(n);
    }
    assert_eq!(last, [Some(2998), Some(2999)]);
}

#[test]
fn a_slow_reader_fills_the_queue_of_its_sender_and_loses_nothing() {
    let limits = Limits { queue_messages: 16, messages: 4, queue_bytes: 1 << 20, ..Limits::default() };
    let (a, mut b) = pair(limits);
    let body = |n: u32| [n.to_be_bytes().to_vec(), vec![7; 20_000]].concat();
    let mut sent = 0u32;
    let mut full = 0;
    // The queue empties into QUIC's windows for a while; then it stays full.
    while full < 50 {
        match a.fabric.send(&id("a2"), KIND, body(sent)) {
            Ok(()) => (sent, full) = (sent + 1, 0),
            Err(SendError::Full) => {
                full += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 10_000, "nothing holds the sender back");
    }
    // Other things go on meanwhile: another topic, datagrams, heartbeats.
    a.fabric.send(&id("a2"), Kind::new(2, 1), "x").unwrap();
    a.fabric.datagram(&id("a2"), 1, b"y").unwrap();
    assert_eq!(&b.datagram().bytes[..], b"y");
    assert!(a.fabric.members()[0].is_up() && b.fabric.members()[0].is_up());
    let mut others = 0;
    for n in 0..sent {
        let mut message = b.message();
        while let Inbound::Message { kind, .. } = &message
            && *kind != KIND
        {
            others += 1;
            message = b.message();
        }
        let Inbound::Message { body: got, .. } = message else { panic!("no request was sent") };
        assert_eq!(got, body(n));
    }
    if others == 0 {
        b.message();
    }
}

#[test]
fn a_request_is_answered_or_says_why_not() {
    let limits = Limits { requests_in_flight: 2, max_body: 1000, ..Limits::default() };
    let (a, mut b) = pair(limits);
    let (fabric, to) = (a.fabric.clone(), id("a2"));
    let ask = move |body: Vec<u8>, timeout| {
        let (fabric, to) = (fabric.clone(), to.clone());
        async move { fabric.request(&to, KIND, body, timeout).await }
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();

    let asked = runtime.spawn(ask(b"ping".to_vec(), PATIENCE));
    let Inbound::Request { from, kind, body, responder, .. } = b.message() else { panic!("no message was sent") };
    assert_eq!((from, kind, &body[..]), (id("a1"), KIND, &b"ping"[..]));
    responder.answer("pong").unwrap();
    assert_eq!(runtime.block_on(asked).unwrap().unwrap(), "pong");

    let asked = runtime.spawn(ask(Vec::new(), PATIENCE));
    drop(b.message());
    assert_eq!(runtime.block_on(asked).unwrap(), Err(RequestError::Unanswered));

    let large = runtime.block_on(ask(vec![0; 1001], PATIENCE));
    assert_eq!(large, Err(SendError::TooLarge { length: 1001, most: 1000 }.into()));

    let short = Duration::from_millis(50);
    assert_eq!(runtime.block_on(ask(vec![1], short)), Err(RequestError::Timeout(short)));
    let Inbound::Request { responder, .. } = b.message() else { panic!("no message was sent") };
    assert!(matches!(responder.answer(vec![0; 1001]), Err(SendError::TooLarge { .. })));

    let waiting: Vec<_> = (0..2).map(|_| runtime.spawn(ask(vec![2], PATIENCE))).collect();
    let taken: Vec<_> = (0..2).map(|_| b.message()).collect();
    assert_eq!(runtime.block_on(ask(vec![3], PATIENCE)), Err(SendError::Full.into()), "two are in flight");
    b.kill();
    for asked in waiting {
        assert_eq!(runtime.block_on(asked).unwrap(), Err(RequestError::LinkLost));
    }
    drop(taken);
    let gone = runtime.block_on(ask(vec![4], PATIENCE));
    assert_eq!(gone, Err(SendError::NoLink(id("a2")).into()));
}

#[test]
fn a_datagram_has_a_channel_and_a_longest_length() {
    let (a, mut b) = pair(Limits::default());
    let to = id("a2");
    let most = a.fabric.max_datagram(&to).unwrap();
    assert!(most >= 1100, "{most}");
    a.fabric.datagram(&to, 0xdead_beef, &vec![5; most]).unwrap();
    let got = b.datagram();
    assert_eq!((got.from, got.channel, got.bytes.len()), (id("a1"), 0xdead_beef, most));
    let error = a.fabric.datagram(&to, 1, &[0; 65_000]);
    assert!(matches!(error, Err(SendError::TooLarge { length: 65_000, .. })), "{error:?}");
    let error = a.fabric.datagram(&id("a9"), 1, b"");
    assert_eq!(error, Err(SendError::NoLink(id("a9"))));
}

#[test]
fn datagrams_that_nobody_reads_are_counted_and_harm_nothing() {
    let (a, mut b) = pair(Limits { datagrams: 8, ..Limits::default() });
    let to = id("a2");
    let mut sent = 0u64;
    while b.fabric.datagrams_dropped() == 0 {
        if a.fabric.datagram(&to, 1, &[0; 100]).is_ok() {
            sent += 1;
        }
        assert!(sent < 1_000_000);
    }
    assert!(a.fabric.members()[0].is_up() && b.fabric.members()[0].is_up());
    b.datagram();
}

#[test]
fn a_topic_that_is_not_read_holds_up_no_other_and_one_without_reader_answers_nobody() {
    let limits = Limits { messages: 4, ..Limits::default() };
    let ca = ClusterCa::create().unwrap();
    let apart = |name, seeds: &[_]| FabricConfig { topics: vec![1, 2, 3], limits, ..config(&ca, name, seeds) };
    let mut a = Node::start(apart("a1", &[]));
    let mut b = Node::start(apart("a2", &[a.address()]));
    a.wait_up("a2");
    b.wait_up("a1");
    let mut topics = b.take_topics();
    drop(topics.remove(&3));
    for _ in 0..100 {
        a.fabric.send(&id("a2"), KIND, "nobody reads this yet").unwrap();
    }
    let asked = a.block_on(a.fabric.request(&id("a2"), Kind::new(3, 1), "?", PATIENCE));
    assert_eq!(asked, Err(RequestError::Unanswered));
    assert_eq!(b.fabric.unread(), 1);
    for n in 0..100u8 {
        a.fabric.send(&id("a2"), Kind::new(2, 1), vec![n]).unwrap();
    }
    let mut read = |topic: u8, b: &Node| {
        let next = b.block_on(async { tokio::time::timeout(PATIENCE, topics.get_mut(&topic).unwrap().recv()).await });
        let Ok(Some(Inbound::Message { kind, body, .. })) = next else { panic!("{next:?}") };
        assert_eq!(kind.topic(), topic);
        body
    };
    for n in 0..100u8 {
        assert_eq!(read(2, &b)[..], [n]);
    }
    for _ in 0..100 {
        assert_eq!(&read(1, &b)[..], b"nobody reads this yet");
    }
    // The link of the topic that nobody reads goes on.
    a.fabric.send(&id("a2"), Kind::new(3, 1), "x").unwrap();
    a.fabric.send(&id("a2"), Kind::new(2, 1), "still here").unwrap();
    assert_eq!(&read(2, &b)[..], b"still here");
}
