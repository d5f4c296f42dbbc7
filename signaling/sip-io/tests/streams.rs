//! Stream connections on loopback: one for a peer, its loss, slow peers, limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs, dead_code)]

mod rig;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip_io::IoLimits;
use rig::{PATIENCE, next_failure, next_message, options, response, start, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const LOOPBACK: &str = "127.0.0.1:0";

fn impatient() -> IoLimits {
    IoLimits { patience: Duration::from_millis(800), ..IoLimits::default() }
}

fn flow(local: SocketAddr, remote: SocketAddr) -> Flow {
    Flow { transport: Transport::Tcp, local, remote, connection: 0 }
}

async fn accepted(listener: &TcpListener) -> TcpStream {
    timeout(PATIENCE, listener.accept()).await.unwrap().unwrap().0
}

/// Reads until `count` whole messages of [`options`] are there.
async fn read_requests(stream: &mut TcpStream, count: usize) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4_096];
    while text.matches("\r\n\r\n").count() < count {
        let length = timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap();
        assert_ne!(length, 0, "closed after {text}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    text
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 100];
    loop {
        match timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap() {
            Ok(0) | Err(_) => return true,
            Ok(_) => {}
        }
    }
}

/// Fills a listener's backlog, so that further connections neither stand nor fail.
async fn deaf() -> (TcpListener, Vec<TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(LOOPBACK.parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut held = Vec::new();
    while let Ok(Ok(stream)) =
        timeout(Duration::from_millis(200), TcpStream::connect(listener.local_addr().unwrap())).await
    {
        held.push(stream);
    }
    (listener, held)
}

#[tokio::test]
async fn messages_to_a_peer_share_one_connection_also_while_it_is_opened() {
    let (sockets, _inbound, local) = start(Transport::Tcp, LOOPBACK, IoLimits::default()).await;
    let peer = TcpListener::bind(LOOPBACK).await.unwrap();
    let to = flow(local, peer.local_addr().unwrap());
    for n in 0..100 {
        sockets.send(&to, Bytes::from(options(&format!("m{n}"))));
    }
    assert_eq!(sockets.connections(), 1);
    let mut stream = accepted(&peer).await;
    let text = read_requests(&mut stream, 100).await;
    let order: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("Call-ID: ")).map(str::to_owned).collect();
    assert_eq!(order, (0..100).map(|n| format!("m{n}")).collect::<Vec<_>>());
    // A flow that names a connection long gone finds the one that is there.
    sockets.send(&Flow { connection: 77_777, ..to }, Bytes::from(options("later")));
    assert!(read_requests(&mut stream, 1).await.contains("later"));
    assert_eq!(sockets.connections(), 1);
}

#[tokio::test]
async fn answers_to_what_was_sent_come_on_the_flow_of_the_connection() {
    let (sockets, mut inbound, local) = start(Transport::Tcp, LOOPBACK, IoLimits::default()).await;
    let peer = TcpListener::bind(LOOPBACK).await.unwrap();
    let to = flow(local, peer.local_addr().unwrap());
    sockets.send(&to, Bytes::from(options("q")));
    let mut stream = accepted(&peer).await;
    read_requests(&mut stream, 1).await;
    stream.write_all(response("q").as_bytes()).await.unwrap();
    let (came, answer) = next_message(&mut inbound).await;
    assert_eq!((came.remote, came.local, answer.status()), (to.remote, local, Some(200)));
    sockets.send(&came, Bytes::from(options("again")));
    assert!(read_requests(&mut stream, 1).await.contains("again"));
}

#[tokio::test]
async fn every_flow_with_a_message_for_a_peer_that_cannot_be_had_hears_of_it_once() {
    let limits = IoLimits { connect_timeout: Duration::from_millis(300), ..IoLimits::default() };
    let (sockets, mut inbound, local) = start(Transport::Tcp, LOOPBACK, limits).await;
    let (listener, _held) = deaf().await;
    let to = flow(local, listener.local_addr().unwrap());
    for n in 0..10 {
        sockets.send(&to, Bytes::from(options(&format!("r{n}"))));
        sockets.send(&Flow { connection: 55, ..to }, Bytes::from(options(&format!("a{n}"))));
    }
    assert_eq!(sockets.connections(), 1);
    let failed = [next_failure(&mut inbound).await, next_failure(&mut inbound).await];
    assert!(failed.contains(&to) && failed.contains(&Flow { connection: 55, ..to }), "{failed:?}");
    assert_eq!(sockets.stats().connects_failed.load(Ordering::Relaxed), 1);
    assert_eq!(sockets.connections(), 0);
    assert!(inbound.try_recv().is_err(), "once");
}

#[tokio::test]
async fn a_connection_that_is_lost_is_told_of_whether_reset_or_closed_and_the_next_message_opens_another() {
    for reset in [false, true] {
        let (sockets, mut inbound, local) = start(Transport::Tcp, LOOPBACK, IoLimits::default()).await;
        let peer = TcpListener::bind(LOOPBACK).await.unwrap();
        let to = flow(local, peer.local_addr().unwrap());
        sockets.send(&to, Bytes::from(options("lost")));
        let mut stream = accepted(&peer).await;
        read_requests(&mut stream, 1).await;
        if reset {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(stream);
        let lost = next_failure(&mut inbound).await;
        assert_eq!(Flow { connection: 0, ..lost }, to);
        sockets.send(&to, Bytes::from(options("next")));
        let mut stream = accepted(&peer).await;
        assert!(read_requests(&mut stream, 1).await.contains("next"));
    }
}

#[tokio::test]
async fn a_connection_that_carried_nothing_ends_unheard() {
    let (sockets, mut inbound, local) = start(Transport::Tcp, LOOPBACK, IoLimits::default()).await;
    let peer = TcpStream::connect(local).await.unwrap();
    until("it is accepted", || sockets.connections() == 1).await;
    drop(peer);
    until("it is gone", || sockets.connections() == 0).await;
    let mut peer = TcpStream::connect(local).await.unwrap();
    peer.write_all(options("x").as_bytes()).await.unwrap();
    assert_eq!(next_message(&mut inbound).await.1.call_id().unwrap(), "x", "the first thing that was heard");
    drop(peer);
    assert_ne!(next_failure(&mut inbound).await.connection, 0);
}

#[tokio::test]
async fn the_answer_to_a_connection_that_is_gone_goes_over_a_new_one() {
    let (sockets, mut inbound, local) = start(Transport::Tcp, LOOPBACK, IoLimits::default()).await;
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let mut peer = TcpStream::connect(local).await.unwrap();
    peer.write_all(options("r").as_bytes()).await.unwrap();
    let (came, request) = next_message(&mut inbound).await;
    let mut answer = Message::response(&request, 200, None);
    answer.set_top_via(&format!("SIP/2.0/TCP {};branch=z9hG4bKr", listener.local_addr().unwrap()));
    drop(peer);
    next_failure(&mut inbound).await;
    // RFC 3261 18.2.2: to the source of the request, and the port of sent-by.
    sockets.send(&came, answer.to_bytes());
    let mut stream = accepted(&listener).await;
    assert!(read_requests(&mut stream, 1).await.starts_with("SIP/2.0 200"));
    sockets.send(&came, answer.to_bytes());
    assert!(read_requests(&mut stream, 1).await.starts_with("SIP/2.0 200"), "and so does the next one, over the same");
    assert_eq!(sockets.connections(), 1);
}

#[tokio::test]
async fn an_answer_that_waits_when_its_connection_breaks_goes_over_a_new_one() {
    let (sockets, mut inbound, local) = start(Transport::Tcp, LOOPBACK, impatient()).await;
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let mut peer = TcpStream::connect(local).await.unwrap();
    peer.write_all(options("r").as_bytes()).await.unwrap();
    let (came, request) = next_message(&mut inbound).await;
    let mut answer = Message::response(&request, 200, None);
    answer.set_top_via(&format!("SIP/2.0/TCP {};branch=z9hG4bKr", listener.local_addr().unwrap()));
    // The peer does not read: what is sent before the answer fills the way to it.
    for _ in 0..400 {
        sockets.send(&came, Bytes::from(vec![b'x'; 60_000]));
    }
    sockets.send(&came, answer.to_bytes());
    assert!(read_requests(&mut accepted(&listener).await, 1).await.starts_with("SIP/2.0 200"));
    drop(peer);
}

#[tokio::test]
async fn a_sender_that_trickles_is_cut_off_and_one_that_is_merely_in_pieces_is_not() {
    let (sockets, mut inbound, local) = start(Transport::Tcp, LOOPBACK, impatient()).await;
    let (mut slow, mut fair) = (TcpStream::connect(local).await.unwrap(), TcpStream::connect(local).await.unwrap());
    for stream in [&mut slow, &mut fair] {
        stream.write_all(options("whole").as_bytes()).await.unwrap();
        next_message(&mut inbound).await;
    }
    let text = options("trickle");
    let trickle = async {
        // Each byte comes well within the patience, the message never does.
        for byte in text.as_bytes().iter().cycle().take(10_000) {
            if slow.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, trickle).await.unwrap();
    assert_eq!(sockets.stats().connections_slow.load(Ordering::Relaxed), 1);
    next_failure(&mut inbound).await;
    for piece in options("fair").as_bytes().chunks(40) {
        fair.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(next_message(&mut inbound).await.1.call_id().unwrap(), "fair");
}

#[tokio::test]
async fn a_connection_that_brings_no_message_is_closed_keep_alives_or_not() {
    let (sockets, _inbound, local) = start(Transport::Tcp, LOOPBACK, impatient()).await;
    let mut silent = TcpStream::connect(local).await.unwrap();
    assert!(is_closed(&mut silent).await);
    let mut pings = TcpStream::connect(local).await.unwrap();
    let ping = async {
        while pings.write_all(b"\r\n\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, ping).await.unwrap();
    assert_eq!(sockets.stats().connections_slow.load(Ordering::Relaxed), 2);
    assert_eq!(sockets.connections(), 0);
}

#[tokio::test]
async fn keep_alives_hold_a_connection_that_is_used_and_silence_ends_it() {
    let limits = IoLimits { idle: Duration::from_millis(500), ..IoLimits::default() };
    let (sockets, mut inbound, local) = start(Transport::Tcp, LOOPBACK, limits).await;
    let mut peer = TcpStream::connect(local).await.unwrap();
    peer.write_all(options("k").as_bytes()).await.unwrap();
    next_message(&mut inbound).await;
    for _ in 0..60 {
        peer.write_all(b"\r\n\r\n").await.unwrap();
        let mut pong = [0; 2];
        timeout(PATIENCE, peer.read_exact(&mut pong)).await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(sockets.connections(), 1);
    assert!(is_closed(&mut peer).await);
    assert_eq!(sockets.stats().connections_slow.load(Ordering::Relaxed), 0, "idle is not slow");
}

#[tokio::test]
async fn a_peer_that_does_not_read_loses_the_connection_after_a_while() {
    let (sockets, mut inbound, local) = start(Transport::Tcp, LOOPBACK, impatient()).await;
    let peer = TcpListener::bind(LOOPBACK).await.unwrap();
    let to = flow(local, peer.local_addr().unwrap());
    for _ in 0..400 {
        sockets.send(&to, Bytes::from(vec![b'x'; 60_000]));
    }
    let stream = accepted(&peer).await;
    let lost = next_failure(&mut inbound).await;
    assert_eq!((lost.remote, sockets.connections()), (to.remote, 0));
    assert_eq!(sockets.stats().connections_slow.load(Ordering::Relaxed), 1);
    drop(stream);
}

#[tokio::test]
async fn a_peer_that_lets_a_full_queue_wait_loses_the_connection_and_everybody_on_it_hears_so() {
    let limits = IoLimits { send_queue: 64, ..IoLimits::default() };
    let (sockets, mut inbound, local) = start(Transport::Tcp, LOOPBACK, limits).await;
    let peer = TcpListener::bind(LOOPBACK).await.unwrap();
    let to = flow(local, peer.local_addr().unwrap());
    sockets.send(&to, Bytes::from(options("first")));
    let mut stream = accepted(&peer).await;
    read_requests(&mut stream, 1).await;
    let large = Bytes::from(vec![b'x'; 60_000]);
    while sockets.stats().send_full.load(Ordering::Relaxed) == 0 {
        sockets.send(&to, large.clone());
        tokio::task::yield_now().await;
    }
    assert_eq!(sockets.connections(), 0, "a flow that is told to have failed is gone");
    let heard = [next_failure(&mut inbound).await, next_failure(&mut inbound).await];
    assert!(heard.contains(&to) && heard.iter().any(|flow| flow.connection != 0), "{heard:?}");
    // The next message opens another one, and finds it empty.
    sockets.send(&to, Bytes::from(options("next")));
    assert!(read_requests(&mut accepted(&peer).await, 1).await.contains("next"));
}

#[tokio::test]
async fn a_crowd_of_peers_does_not_keep_us_from_opening_connections() {
    let limits = IoLimits { max_connections: 3, ..IoLimits::default() };
    let (sockets, _inbound, local) = start(Transport::Tcp, LOOPBACK, limits).await;
    let mut crowd = Vec::new();
    for _ in 0..4 {
        crowd.push(TcpStream::connect(local).await.unwrap());
    }
    assert!(is_closed(crowd.last_mut().unwrap()).await);
    assert_eq!(sockets.stats().connections_refused.load(Ordering::Relaxed), 1);
    let peer = TcpListener::bind(LOOPBACK).await.unwrap();
    sockets.send(&flow(local, peer.local_addr().unwrap()), Bytes::from(options("out")));
    assert!(read_requests(&mut accepted(&peer).await, 1).await.contains("out"));
}

#[tokio::test]
async fn a_connection_is_opened_from_the_address_of_the_listener() {
    let (sockets, _inbound, local) = start(Transport::Tcp, "127.0.0.7:0", IoLimits::default()).await;
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    sockets.send(&flow(local, peer.local_addr().unwrap()), Bytes::from(options("from")));
    let (_, source) = timeout(PATIENCE, peer.accept()).await.unwrap().unwrap();
    assert_eq!(source.ip(), local.ip());
}
