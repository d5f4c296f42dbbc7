//! What a call costs the proxy without sockets: INVITE, 100, 180, 200 through a group of two elements, caller and element
//! speaking directly afterwards.
//!
//! ```text
//! cargo bench -p ferric-proxy --profile release --bench call              nanoseconds a call
//! valgrind --tool=callgrind --toggle-collect='*calls*' BINARY --calls 2000    instructions, where they go
//! ```
#![allow(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_proxy::group::{ElementConfig, GroupConfig};
use ferric_proxy::routing::{Action, Condition, Rewrite, RouteTable, Rule};
use ferric_proxy::{Listener, Proxy, ProxyConfig, ProxyOutput};
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::transaction::{Timers, TransactionLimits};
use ferric_sip::trust::TrustTable;

const US: &str = "127.0.0.1:5060";

fn invite(number: u64) -> Bytes {
    let body = "v=0\r\no=caller 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 30000 RTP/AVP 0 8 9 101\r\n\
        a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:9 G722/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n";
    let text = format!(
        "INVITE sip:+15550100@bench.example SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:5080;branch=z9hG4bK-caller-{number}-0\r\n\
         Max-Forwards: 70\r\nFrom: <sip:+15550199@bench.example>;tag=1c{number}\r\nTo: <sip:+15550100@bench.example>\r\n\
         Call-ID: {number}-1@127.0.0.1\r\nCSeq: 1 INVITE\r\nContact: <sip:caller@127.0.0.1:5080;transport=udp>\r\n\
         Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, INFO, UPDATE\r\nSupported: timer, replaces\r\nUser-Agent: bench\r\n\
         Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    Bytes::from(text)
}

fn flow(remote: &str) -> Flow {
    Flow { transport: Transport::Udp, local: US.parse().unwrap(), remote: remote.parse().unwrap(), connection: 0 }
}

fn proxy(now: Instant) -> Proxy {
    let listener = Listener { transport: Transport::Udp, address: US.parse().unwrap(), advertise: None };
    let mut config = ProxyConfig::new(vec![listener], TrustTable::private(""), |_| false);
    let mut group = GroupConfig::named("bench");
    group.heartbeat = None;
    group.elements = ["127.0.0.1:5071", "127.0.0.1:5072"].into_iter().filter_map(ElementConfig::parse).collect();
    config.groups = vec![group];
    let rule = Rule {
        name: "calls".to_owned(),
        conditions: vec![Condition::Method(vec!["INVITE".to_owned()])],
        rewrite: Rewrite::default(),
        action: Action::Group("bench".to_owned()),
    };
    config.routes = RouteTable::new(vec![rule]);
    Proxy::new(config, Timers::default(), TransactionLimits::default(), now, 1_700_000_000, 1)
}

/// Plays whole calls, 2 ms apart; returns the bytes that left.
#[inline(never)]
fn calls(proxy: &mut Proxy, start: Instant, from: u64, count: u64) -> usize {
    let (mut sent, mut now) = (0, start);
    for number in from..from + count {
        now += Duration::from_millis(2);
        while proxy.poll_timeout().is_some_and(|due| due <= now) {
            proxy.handle_timeout(now);
        }
        proxy.handle_message(now, Message::parse(invite(number)).unwrap(), flow("127.0.0.1:5080"), |_| false);
        let mut element = None;
        while let Some(output) = proxy.poll_output() {
            if let ProxyOutput::Transmit { to, bytes } = output {
                sent += bytes.len();
                if bytes.starts_with(b"INVITE") {
                    element = Some((to.flow, Message::parse(bytes).unwrap()));
                }
            }
        }
        let Some((to, request)) = element else { continue };
        for status in [100, 180, 200] {
            let mut response = Message::response(&request, status, None);
            response.set_to_tag("element");
            response.set_header("Contact", "<sip:127.0.0.1:5071;transport=UDP>");
            let response = Message::parse(response.to_bytes()).unwrap();
            let back = Flow { local: to.local, ..to };
            proxy.handle_message(now, response, back, |_| false);
            while let Some(output) = proxy.poll_output() {
                if let ProxyOutput::Transmit { bytes, .. } = output {
                    sent += bytes.len();
                }
            }
        }
    }
    sent
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let count = arguments
        .iter()
        .position(|argument| argument == "--calls")
        .and_then(|at| arguments.get(at + 1)?.parse().ok())
        .unwrap_or(20_000);
    let start = Instant::now();
    let mut proxy = proxy(start);
    // Once through everything, and as many transactions linger as later.
    calls(&mut proxy, start, 0, count.min(2_000));
    let begin = start + Duration::from_secs(3_600);
    let clock = Instant::now();
    let sent = calls(&mut proxy, begin, 1_000_000, count);
    let spent = clock.elapsed();
    println!(
        "{:.1} us a call ({count} calls, {} bytes sent each)",
        spent.as_secs_f64() * 1e6 / count as f64,
        sent as u64 / count
    );
}
