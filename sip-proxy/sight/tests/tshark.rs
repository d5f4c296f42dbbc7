//! Our HEP packets as Wireshark reads them, by its SIP dissector behind `hep.lua` beside this file: Wireshark has no
//! dissector of HEP. `HEP_LUA=/path/to/hep.lua` takes Homer's plugin (`sipcapture/hep-wireshark`) in its place.
//! Without `tshark` there is nothing to compare with, and the test says so.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use ferric_sight::hep::{Capture, encode};
use ferric_sip::Transport;

/// A capture file (link type 101, raw IP) with one datagram each to port 9060.
fn pcap(payloads: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 101] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for payload in payloads {
        let (udp, ip) = (8 + payload.len() as u16, 28 + payload.len() as u16);
        for word in [1_700_000_100, 0, u32::from(ip), u32::from(ip)] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&[0x45, 0]);
        file.extend_from_slice(&ip.to_be_bytes());
        file.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 8, 7, 10, 9, 8, 6]);
        for field in [40_000, 9_060, udp, 0] {
            file.extend_from_slice(&field.to_be_bytes());
        }
        file.extend_from_slice(payload);
    }
    file
}

fn packet(transport: Transport, source: &str, destination: &str, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let capture = Capture {
        at_unix: Duration::new(1_700_000_000, 250_000_000),
        transport,
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        payload: text.as_bytes(),
        node_id: 2_001,
        password: Some("myHep"),
        correlation: Some("call-7"),
    };
    assert_eq!(encode(&capture, &mut out), 0);
    out
}

#[test]
fn wireshark_reads_what_was_captured() {
    let tail = "Via: SIP/2.0/UDP x;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: q\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n";
    let file = pcap(&[
        packet(Transport::Udp, "192.0.2.1:5060", "198.51.100.7:5080", &format!("INVITE sip:c@d SIP/2.0\r\n{tail}")),
        packet(
            Transport::Tls,
            "[2001:db8::1]:5061",
            "[2001:db8::2]:40123",
            &format!("SIP/2.0 486 Busy Here\r\n{tail}"),
        ),
    ]);
    let fields = [
        "hep3.source_ipv4_address",
        "hep3.destination_ipv4_address",
        "hep3.source_ipv6_address",
        "hep3.destination_ipv6_address",
        "hep3.source_port",
        "hep3.destination_port",
        "hep3.timestamp_unix",
        "hep3.timestamp_microsec",
        "hep3.capture_node_id",
        "hep3.auth_key",
        "hep3.correlation_id",
        "sip.Method",
        "sip.Status-Code",
        "sip.Call-ID",
    ];
    let script = std::env::var("HEP_LUA").unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hep.lua").to_owned());
    let mut command = Command::new("tshark");
    command.args(["-r", "-", "-n", "-X", &format!("lua_script:{script}"), "-T", "fields", "-E", "separator=,"]);
    command.args(fields.iter().flat_map(|field| ["-e", field]));
    let Ok(mut tshark) = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() else {
        println!("tshark is not installed: not compared");
        return;
    };
    tshark.stdin.take().unwrap().write_all(&file).unwrap();
    let output = tshark.wait_with_output().unwrap();
    let (read, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = read.lines().collect();
    let expected = [
        "192.0.2.1,198.51.100.7,,,5060,5080,1700000000,250000,2001,myHep,call-7,INVITE,,q",
        ",,2001:db8::1,2001:db8::2,5061,40123,1700000000,250000,2001,myHep,call-7,,486,q",
    ];
    assert_eq!(lines, expected, "{said}");
}
