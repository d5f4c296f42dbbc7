//! Datagrams on loopback: bursts, ICMP, rates, keep-alives, a driver that is behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation,
    missing_docs,
    dead_code
)]

mod rig;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ferric_sip::flow::{Flow, Transport};
use ferric_sip_io::{InboundKind, IoLimits};
use rig::{PATIENCE, next, next_failure, next_message, options, response, start, until};
use tokio::net::UdpSocket;
use tokio::time::timeout;

const BOTH: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

fn generous() -> IoLimits {
    IoLimits { messages_per_second: 1_000_000, ..IoLimits::default() }
}

fn flow(local: SocketAddr, remote: SocketAddr) -> Flow {
    Flow { transport: Transport::Udp, local, remote, connection: 0 }
}

/// An address where nobody listens.
async fn nobody(address: &str) -> SocketAddr {
    UdpSocket::bind(address).await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn a_burst_comes_whole_and_in_order_and_in_batches() {
    for address in BOTH {
        let (_sockets, mut inbound, local) = start(Transport::Udp, address, generous()).await;
        let peer = UdpSocket::bind(address).await.unwrap();
        // More than one system call takes; all are there before the first is looked at.
        for n in 0..100 {
            peer.send_to(options(&format!("b{n}")).as_bytes(), local).await.unwrap();
        }
        let (mut seen, mut batches) = (Vec::new(), 0);
        let mut batch = Vec::new();
        while seen.len() < 100 {
            timeout(PATIENCE, inbound.recv_many(&mut batch, 64)).await.unwrap();
            batches += 1;
            for one in batch.drain(..) {
                assert_eq!(one.flow, flow(local, peer.local_addr().unwrap()));
                let InboundKind::Message(message) = one.kind else { panic!("{one:?}") };
                seen.push(message.call_id().unwrap().into_owned());
            }
        }
        assert_eq!(seen, (0..100).map(|n| format!("b{n}")).collect::<Vec<_>>());
        assert!(batches < 50, "{batches} wake-ups for 100 messages");
    }
}

#[tokio::test]
async fn the_largest_datagram_comes_whole() {
    let (_sockets, mut inbound, local) = start(Transport::Udp, "127.0.0.1:0", generous()).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let head = options("big").replace("Content-Length: 0", "Content-Length: 60000");
    let _ = peer.send_to(&[head.as_bytes(), &[b'x'; 60_000]].concat(), local).await.unwrap();
    assert_eq!(next_message(&mut inbound).await.1.body().len(), 60_000);
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_told_of_by_its_icmp() {
    for address in BOTH {
        let (sockets, mut inbound, local) = start(Transport::Udp, address, generous()).await;
        let gone = flow(local, nobody(address).await);
        sockets.send(&gone, Bytes::from(options("i1")));
        assert_eq!(next_failure(&mut inbound).await, gone, "on {address}");
        assert!(sockets.stats().unreachable.load(Ordering::Relaxed) >= 1);
    }
}

#[tokio::test]
async fn the_error_of_one_peer_takes_nothing_from_another() {
    for address in BOTH {
        let (sockets, mut inbound, local) = start(Transport::Udp, address, generous()).await;
        let peer = UdpSocket::bind(address).await.unwrap();
        let (gone, there) = (flow(local, nobody(address).await), flow(local, peer.local_addr().unwrap()));
        let mut heard = HashSet::new();
        let mut buffer = [0; 2_048];
        for n in 0..200 {
            // The error of the first may make the next call on the socket fail, whichever that is.
            sockets.send(&gone, Bytes::from(options("lost")));
            sockets.send(&there, Bytes::from(options(&format!("kept{n}"))));
            peer.send_to(response(&format!("answer{n}")).as_bytes(), local).await.unwrap();
            let (length, _) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
            assert!(String::from_utf8_lossy(&buffer[..length]).contains(&format!("kept{n}")));
        }
        while heard.len() < 200 {
            let one = next(&mut inbound).await;
            match one.kind {
                InboundKind::Message(message) => assert!(heard.insert(message.call_id().unwrap().into_owned())),
                InboundKind::TransportError { .. } => assert_eq!(one.flow, gone, "only who is gone is told of"),
                InboundKind::Malformed { error, .. } => panic!("{error}"),
            }
        }
    }
}

#[tokio::test]
async fn what_the_kernel_refuses_is_told_of_at_once() {
    let (sockets, mut inbound, local) = start(Transport::Udp, "127.0.0.1:0", generous()).await;
    // No datagram is so long.
    let there = flow(local, "127.0.0.1:9".parse().unwrap());
    sockets.send(&there, Bytes::from(vec![b'x'; 70_000]));
    assert_eq!(next_failure(&mut inbound).await, there);
    let wrong_family = flow(local, "[::1]:9".parse().unwrap());
    sockets.send(&wrong_family, Bytes::from(options("v6")));
    assert_eq!(next_failure(&mut inbound).await, wrong_family);
}

#[tokio::test]
async fn a_datagram_sent_right_after_the_bind_leaves() {
    let (sockets, _inbound, local) = start(Transport::Udp, "127.0.0.1:0", generous()).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..20 {
        sockets.send(&flow(local, peer.local_addr().unwrap()), Bytes::from(options(&format!("first{n}"))));
    }
    let mut buffer = [0; 2_048];
    for n in 0..20 {
        let (length, _) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert!(String::from_utf8_lossy(&buffer[..length]).contains(&format!("first{n}\r\n")), "in order");
    }
}

#[tokio::test]
async fn requests_are_limited_and_the_answers_of_an_element_are_not() {
    let limits = IoLimits { messages_per_second: 5, ..IoLimits::default() };
    let (sockets, mut inbound, local) = start(Transport::Udp, "127.0.0.1:0", limits).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..500 {
        peer.send_to(response(&format!("r{n}")).as_bytes(), local).await.unwrap();
        peer.send_to(options(&format!("q{n}")).as_bytes(), local).await.unwrap();
    }
    let (mut responses, mut requests) = (0, 0);
    while responses < 500 {
        let (_, message) = next_message(&mut inbound).await;
        if message.is_request() { requests += 1 } else { responses += 1 }
    }
    let limited = || sockets.stats().rate_limited.load(Ordering::Relaxed);
    until("every request is either let through or counted", || {
        limited() as usize + requests + sockets.waiting() == 500
    })
    .await;
    assert!(limited() > 400, "{}", limited());
}

#[tokio::test]
async fn a_network_may_be_exempt() {
    let rates = vec![("127.0.0.0/8".parse().unwrap(), u32::MAX)];
    let limits = IoLimits { messages_per_second: 5, rates, ..IoLimits::default() };
    let (sockets, mut inbound, local) = start(Transport::Udp, "127.0.0.1:0", limits).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..100 {
        peer.send_to(options(&format!("e{n}")).as_bytes(), local).await.unwrap();
        next_message(&mut inbound).await;
    }
    assert_eq!(sockets.stats().rate_limited.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_stun_keep_alive_is_answered_and_a_blank_one_ignored() {
    for address in BOTH {
        let (_sockets, mut inbound, local) = start(Transport::Udp, address, generous()).await;
        let peer = UdpSocket::bind(address).await.unwrap();
        let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[7; 12]].concat();
        peer.send_to(b"\r\n\r\n", local).await.unwrap();
        peer.send_to(&[0; 3], local).await.unwrap();
        peer.send_to(&request, local).await.unwrap();
        let mut buffer = [0; 100];
        let (length, from) = timeout(PATIENCE, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!((from, &buffer[..2], &buffer[8..20]), (local, &[1, 1][..], &[7; 12][..]));
        assert_eq!(length, if local.is_ipv4() { 32 } else { 44 });
        let port = u16::from_be_bytes([buffer[26] ^ 0x21, buffer[27] ^ 0x12]);
        assert_eq!(port, peer.local_addr().unwrap().port());
        peer.send_to(options("after").as_bytes(), local).await.unwrap();
        assert_eq!(next_message(&mut inbound).await.1.call_id().unwrap(), "after", "nothing else reached the driver");
    }
}

#[tokio::test]
async fn a_driver_that_is_behind_loses_nothing_that_the_kernel_holds() {
    let (sockets, mut inbound, local) = start(Transport::Udp, "127.0.0.1:0", generous()).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut sent = 0;
    // Until the queue to the driver is full, and a little more.
    while sockets.stats().inbound_full.load(Ordering::Relaxed) == 0 {
        for _ in 0..50 {
            peer.send_to(options(&format!("d{sent}")).as_bytes(), local).await.unwrap();
            sent += 1;
        }
        until("the socket is read", || sockets.waiting() >= sent.min(8_192)).await;
        assert!(sent < 20_000, "the queue is bounded");
    }
    for n in 0..sent {
        assert_eq!(next_message(&mut inbound).await.1.call_id().unwrap(), format!("d{n}"));
    }
}

#[tokio::test]
async fn an_answer_to_a_malformed_request_is_never_longer_than_the_request() {
    let (_sockets, mut inbound, local) = start(Transport::Udp, "127.0.0.1:0", generous()).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let rest = "Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKm\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:x@y>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n";
    let short = format!("OPTIONS a b c SIP/2.0\r\n{rest}\r\n");
    let long = format!(
        "OPTIONS a b c SIP/2.0\r\n{rest}User-Agent: a device that says a lot of itself and of its maker's other products\r\n\r\n"
    );
    for (text, wanted) in [(short, None), (long.clone(), Some(400))] {
        peer.send_to(text.as_bytes(), local).await.unwrap();
        let InboundKind::Malformed { answered, .. } = next(&mut inbound).await.kind else { panic!("taken: {text}") };
        assert_eq!(answered, wanted, "{text}");
    }
    let mut answer = [0; 2048];
    let (length, _) = timeout(PATIENCE, peer.recv_from(&mut answer)).await.unwrap().unwrap();
    assert!(length <= long.len(), "{length}");
}

#[tokio::test]
async fn a_datagram_over_the_limit_is_refused() {
    let limits = IoLimits { max_message: 1_024, ..generous() };
    let (_sockets, mut inbound, local) = start(Transport::Udp, "127.0.0.1:0", limits).await;
    let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let rest = "Via: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bKm\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:x@y>\r\nCall-ID: 1\r\n";
    for (method, wanted) in [("MESSAGE", Some(513)), ("ACK", None)] {
        let text = format!(
            "{method} sip:x@y SIP/2.0\r\n{rest}CSeq: 1 {method}\r\nContent-Length: 1000\r\n\r\n{}",
            "b".repeat(1_000)
        );
        peer.send_to(text.as_bytes(), local).await.unwrap();
        let InboundKind::Malformed { answered, .. } = next(&mut inbound).await.kind else { panic!("taken: {method}") };
        assert_eq!(answered, wanted);
    }
    let mut answer = [0; 2048];
    let (length, _) = timeout(PATIENCE, peer.recv_from(&mut answer)).await.unwrap().unwrap();
    assert!(answer[..length].starts_with(b"SIP/2.0 513 "));
}
