//! What a message costs: in memory (parse, a Via more and one less, serialise), and
//! through real sockets on loopback, as CPU time of the whole process.
//!
//! ```text
//! cargo bench -p ferric-sip-io --bench messages
//! ```
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::cast_precision_loss, missing_docs)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::flow::Transport;
use ferric_sip::message::{Message, peek};
use ferric_sip_io::{InboundKind, IoLimits, ListenerConfig, SipSockets};
use nix::sys::resource::{UsageWho, getrusage};

const ROUNDS: u32 = 100_000;
const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 6000 RTP/AVP 8 0 101\r\n\
    a=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n";

fn invite() -> Bytes {
    Bytes::from(format!(
        "INVITE sip:service@192.0.2.10:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK-1234-1-0\r\n\
         From: caller <sip:caller@192.0.2.1:5060>;tag=1234\r\nTo: service <sip:service@192.0.2.10:5060>\r\n\
         Call-ID: 1-1234@192.0.2.1\r\nCSeq: 1 INVITE\r\nContact: <sip:caller@192.0.2.1:5060>\r\nMax-Forwards: 70\r\n\
         Subject: Performance\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{SDP}",
        SDP.len()
    ))
}

fn measure(what: &str, mut work: impl FnMut()) {
    let begin = Instant::now();
    for _ in 0..ROUNDS {
        work();
    }
    println!("{what:<44} {:>8.2} us", begin.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS));
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let of = |time: nix::sys::time::TimeVal| {
        Duration::from_micros(u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec()).unwrap())
    };
    of(usage.user_time()) + of(usage.system_time())
}

/// Each round: `burst` requests in, parsed, a Via on top, out again to the sender, who throws them away.
async fn through_sockets(burst: u32) {
    let listener = ListenerConfig { transport: Transport::Udp, address: "127.0.0.1:0".parse().unwrap(), tls: None };
    let limits = IoLimits { messages_per_second: u32::MAX, ..IoLimits::default() };
    let (sockets, mut inbound) = SipSockets::bind(vec![listener], limits, None).await.unwrap();
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (to, text) = (sockets.listeners().first().unwrap().1, invite());
    let (rounds, mut batch, mut buffer, mut wakes) = (ROUNDS / burst, Vec::new(), [0; 2_048], 0_u32);
    let begin = cpu();
    let mut own = Duration::ZERO;
    for _ in 0..rounds {
        let before = cpu();
        for _ in 0..burst {
            peer.send_to(&text, to).unwrap();
        }
        own += cpu() - before;
        let mut seen = 0;
        while seen < burst {
            inbound.recv_many(&mut batch, 256).await;
            wakes += 1;
            for one in batch.drain(..) {
                let InboundKind::Message(mut message) = one.kind else { panic!("{one:?}") };
                message.push_header_front("Via", "SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKabc;rport");
                sockets.send(&one.flow, message.to_bytes());
                seen += 1;
            }
        }
        let before = cpu();
        for _ in 0..burst {
            peer.recv_from(&mut buffer).unwrap();
        }
        own += cpu() - before;
    }
    let each = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(rounds * burst);
    println!(
        "UDP in, Via added, UDP out, bursts of {burst:<5}  {:>8.2} us CPU (the sender's {:.2} apart), {:.2} wake-ups",
        each((cpu() - begin).saturating_sub(own)),
        each(own),
        f64::from(wakes) / f64::from(rounds * burst),
    );
}

fn main() {
    let text = invite();
    measure("parse an INVITE", || drop(black_box(Message::parse(Bytes::copy_from_slice(&text)).unwrap())));
    measure("parse, Via added, serialise", || {
        let mut message = Message::parse(Bytes::copy_from_slice(&text)).unwrap();
        message.push_header_front("Via", "SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKabc;rport");
        message.replace_header("Max-Forwards", "69");
        drop(black_box(message.to_bytes()));
    });
    let answer = Message::response(&Message::parse(text.clone()).unwrap(), 200, None).to_bytes();
    measure("parse a 200, Via removed, serialise", || {
        let mut message = Message::parse(Bytes::copy_from_slice(&answer)).unwrap();
        message.remove_top_via();
        drop(black_box(message.to_bytes()));
    });
    measure("answer an INVITE", || {
        let message = Message::parse(text.clone()).unwrap();
        drop(black_box(Message::response(&message, 100, None).to_bytes()));
    });
    measure("peek at a 200", || drop(black_box(peek(black_box(&answer)))));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for burst in [1, 8, 64] {
        runtime.block_on(through_sockets(burst));
    }
}
