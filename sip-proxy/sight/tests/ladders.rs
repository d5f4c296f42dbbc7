//! Whole calls as an administrator sees them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::too_many_arguments)]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use ferric_sight::{LadderLimits, LadderRing};
use ferric_sip::{Flow, Transport};

const US: &str = "192.0.2.10:5060";
const KEY: &str = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";

/// A ring and the time.
struct Day {
    ring: LadderRing,
    call_id: String,
}

impl Day {
    fn new(call_id: &str) -> Day {
        Day { ring: LadderRing::new(LadderLimits::default()), call_id: call_id.to_owned() }
    }

    fn pass(
        &mut self,
        at_us: u64,
        received: bool,
        transport: Transport,
        peer: &str,
        first_line: &str,
        cseq: &str,
        more: &str,
    ) {
        let peer: SocketAddr = peer.parse().unwrap();
        let flow = Flow { transport, local: US.parse().unwrap(), remote: peer, connection: 0 };
        let (header, body) = more.split_once("\r\n\r\n").unwrap_or((more, ""));
        let text = format!(
            "{first_line}\r\nVia: SIP/2.0/UDP {peer};branch=z9hG4bK{cseq}\r\nFrom: \"Alice\" <sip:+15550100@example.com>;tag=a\r\n\
             To: <sip:+15550199@example.com>\r\ni: {}\r\nCSeq: {cseq}\r\n{header}{}\r\n{body}",
            self.call_id,
            if header.is_empty() { "" } else { "\r\n" },
        );
        let at = Duration::from_micros(1_700_000_000_250_000 + at_us);
        self.ring.note(at, received, &flow, &Bytes::from(text));
    }

    fn came(&mut self, at_us: u64, peer: &str, first_line: &str, cseq: &str) {
        self.pass(at_us, true, Transport::Udp, peer, first_line, cseq, "");
    }

    fn left(&mut self, at_us: u64, peer: &str, first_line: &str, cseq: &str) {
        self.pass(at_us, false, Transport::Udp, peer, first_line, cseq, "");
    }

    fn text(&self) -> String {
        self.ring.get(&self.call_id).unwrap().to_string()
    }
}

const INVITE: &str = "INVITE sip:+15550199@example.com SIP/2.0";
const ACK: &str = "ACK sip:+15550199@example.com SIP/2.0";
const BYE: &str = "BYE sip:+15550199@203.0.113.8 SIP/2.0";
const SDP: &str = "Content-Type: application/sdp\r\n\r\nv=0\r\nm=audio 4000 RTP/AVP 0\r\n";

#[test]
fn an_invite_that_fails_over() {
    let mut day = Day::new("failover@198.51.100.1");
    let (sbc, one, two, three) = ("198.51.100.1:5060", "203.0.113.7:5060", "203.0.113.8:5060", "203.0.113.9:5061");
    day.pass(0, true, Transport::Udp, sbc, INVITE, "1 INVITE", SDP);
    day.left(310, sbc, "SIP/2.0 100 Trying", "1 INVITE");
    day.pass(540, false, Transport::Udp, one, INVITE, "1 INVITE", SDP);
    day.came(2_180, one, "SIP/2.0 503 Service Unavailable", "1 INVITE");
    day.left(2_300, one, ACK, "1 ACK");
    day.pass(2_420, false, Transport::Udp, two, INVITE, "1 INVITE", SDP);
    day.came(3_100, two, "SIP/2.0 407 Proxy Authentication Required by the Second Element of Three", "1 INVITE");
    day.left(3_150, two, ACK, "1 ACK");
    day.pass(3_300, false, Transport::Tls, three, INVITE, "1 INVITE", SDP);
    day.pass(5_900, true, Transport::Tls, three, "SIP/2.0 180 Ringing", "1 INVITE", "");
    day.left(6_050, sbc, "SIP/2.0 180 Ringing", "1 INVITE");
    day.pass(2_250_000, true, Transport::Tls, three, "SIP/2.0 200 OK", "1 INVITE", SDP);
    day.pass(2_250_200, false, Transport::Udp, sbc, "SIP/2.0 200 OK", "1 INVITE", SDP);
    insta::assert_snapshot!(day.text());
}

#[test]
fn a_call_with_a_retransmission() {
    let mut day = Day::new("again@198.51.100.1");
    let (sbc, server) = ("198.51.100.1:5060", "203.0.113.7:5060");
    day.came(0, sbc, INVITE, "1 INVITE");
    day.left(200, sbc, "SIP/2.0 100 Trying", "1 INVITE");
    day.left(400, server, INVITE, "1 INVITE");
    day.left(500_400, server, INVITE, "1 INVITE");
    day.came(503_000, server, "SIP/2.0 200 OK", "1 INVITE");
    day.left(503_300, sbc, "SIP/2.0 200 OK", "1 INVITE");
    day.came(1_003_000, server, "SIP/2.0 200 OK", "1 INVITE");
    day.left(1_003_200, sbc, "SIP/2.0 200 OK", "1 INVITE");
    day.came(1_010_000, sbc, ACK, "1 ACK");
    day.left(1_010_100, server, ACK, "1 ACK");
    day.came(61_000_000, server, BYE, "2 BYE");
    day.left(61_000_200, sbc, BYE, "2 BYE");
    day.came(61_004_000, sbc, "SIP/2.0 200 OK", "2 BYE");
    day.left(61_004_100, server, "SIP/2.0 200 OK", "2 BYE");
    insta::assert_snapshot!(day.text());
    let marked = day.ring.get(&day.call_id).unwrap().messages.iter().filter(|message| message.retransmission).count();
    assert_eq!(marked, 3);
}

#[test]
fn six_peers_stay_readable_and_more_share_a_column() {
    let mut day = Day::new("wide\u{1b}[2J");
    day.came(0, "198.51.100.250:50600", INVITE, "1 INVITE");
    day.came(100, "[2001:db8:1111:2222:3333:4444:5555:6666]:5060", INVITE, "1 INVITE");
    for last in 1..=6 {
        day.left(last * 1_000, &format!("203.0.113.20{last}:5060"), INVITE, "1 INVITE");
        day.came(
            last * 1_000 + 500,
            &format!("203.0.113.20{last}:5060"),
            "SIP/2.0 488 Not Acceptable Here",
            "1 INVITE",
        );
    }
    day.left(9_000, "[2001:db8:1111:2222:3333:4444:5555:6666]:5060", "SIP/2.0 488 Not Acceptable Here", "1 INVITE");
    let text = day.text();
    assert!(!text.contains('\u{1b}') && text.lines().all(|line| line.chars().count() < 200));
    insta::assert_snapshot!(text);
}

#[test]
fn secrets_are_in_no_form_of_a_call() {
    let mut day = Day::new("secret");
    let more = format!(
        "Proxy-Authorization: Digest username=\"a\",\r\n response=\"s3cret\"\r\nContact: <sip:a:s3cret@x>\r\n\r\nv=0\r\n\
         a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^31|1:4\r\nm=audio 4000 RTP/SAVP 0\r\n"
    );
    day.pass(0, true, Transport::Tls, "198.51.100.1:5061", "INVITE sip:b:s3cret@x SIP/2.0", "1 INVITE", &more);
    let ladder = day.ring.get("secret").unwrap();
    let json = serde_json::to_string(&ladder).unwrap();
    for text in [&json, &ladder.to_string(), &format!("{ladder:?}"), &serde_json::to_string(&day.ring.list(1)).unwrap()]
    {
        assert!(!text.contains("s3cret") && !text.contains(KEY), "{text}");
    }
    assert!(
        json.contains("inline:***|2^31|1:4") && json.contains("Proxy-Authorization: ***\\r\\nContact: <sip:a:***@x>"),
        "{json}"
    );
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let message = &value["messages"][0];
    assert_eq!(
        (&message["transport"], &message["from"], &message["ms"]),
        (&"TLS".into(), &"198.51.100.1:5061".into(), &0.0.into())
    );
    assert_eq!(value["summary"]["started_at"], 1_700_000_000.25);
}
