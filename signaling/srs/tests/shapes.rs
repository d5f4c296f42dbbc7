//! Offers in the shapes of the field (`testdata/siprec`), what capture is asked
//! for them, and what they are answered.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    missing_docs
)]

mod rig;

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use ferric_sip::{Message, Transport};
use ferric_srs::SrsEvent;
use ferric_srs::port::Command;
use rig::Rig;

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/siprec"))
}

/// What became of one offer, for people.
fn story(name: &str) -> String {
    let mut rig = Rig::new();
    let text = std::fs::read_to_string(folder().join(format!("{name}.sip"))).unwrap();
    if text.contains("SIP/2.0/UDP") {
        rig.flow.transport = Transport::Udp;
    }
    rig.raw(&text);
    let mut story = String::new();
    if let Some(Command::Assign { streams, info, .. }) = rig.commands.first().cloned() {
        for stream in &streams {
            let formats: Vec<String> =
                stream.formats.iter().map(|f| format!("{}={}/{}", f.payload_type, f.name, f.clock_rate)).collect();
            let rtp = stream.remote_rtp.map_or("-".to_owned(), |address| address.to_string());
            let rtcp = stream.remote_rtcp.map_or("-".to_owned(), |address| address.to_string());
            let state = if stream.active { "sends" } else { "held" };
            let label = stream.label.as_deref().unwrap_or("-");
            let _ = writeln!(
                story,
                "stream {} label {label} {state} rtp {rtp} rtcp {rtcp}: {}",
                stream.index,
                formats.join(" ")
            );
        }
        for party in &info.participants {
            let name = party.name.as_deref().unwrap_or("-");
            let aor = party.aor.as_deref().unwrap_or("-");
            let stream = party.stream.map_or("-".to_owned(), |stream| stream.to_string());
            let _ = writeln!(story, "party {} name {name} aor {aor} stream {stream}", party.id);
        }
        for (name, value) in &info.correlators {
            let _ = writeln!(story, "{name}: {value}");
        }
        info.warnings.iter().for_each(|warning| story.push_str(&format!("warning: {warning}\n")));
        rig.ready();
    }
    for event in &rig.events {
        match event {
            SrsEvent::MetadataProblem { problem, .. } => story.push_str(&format!("problem: {problem}\n")),
            SrsEvent::Rejected { status, reason, .. } => story.push_str(&format!("rejected: {status} {reason}\n")),
            _ => {}
        }
    }
    let answer = rig.answer().to_bytes();
    let answer = String::from_utf8_lossy(&answer).replace("\r\n", "\n").replace(env!("CARGO_PKG_VERSION"), "x.y");
    let _ = write!(story, "\n{answer}");
    story
}

#[test]
fn every_shape_is_answered_as_its_client_needs_it() {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().unwrap().strip_suffix(".sip").map(str::to_owned))
        .collect();
    names.sort();
    assert!(names.len() >= 18, "{names:?}");
    for name in names {
        insta::assert_snapshot!(name.as_str(), story(&name));
    }
}

/// A throw of the dice: the next number below `bound`.
fn roll(state: &mut u64, bound: usize) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    usize::try_from(*state >> 33).unwrap() % bound
}

#[test]
fn damaged_offers_get_an_answer_or_nothing_and_never_a_panic() {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "sip") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let body = text.split_once("\n\n").map_or(0, |(_, body)| body.len() + body.matches('\n').count());
        let whole = text.replace('\n', "\r\n").replacen("AUTO", &body.to_string(), 1).into_bytes();
        let mut state = 7;
        let mut rig = Rig::new();
        for _ in 0..500 {
            let mut bytes = whole.clone();
            for _ in 0..1 + roll(&mut state, 4) {
                let at = roll(&mut state, bytes.len());
                match roll(&mut state, 4) {
                    0 => bytes[at] = u8::try_from(roll(&mut state, 256)).unwrap(),
                    1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, b"<>\r\n;:=\"-&"[roll(&mut state, 10)]),
                    _ => {
                        let until = (at + roll(&mut state, 60)).min(bytes.len());
                        bytes.drain(at..until);
                    }
                }
            }
            // Let the declared length fit, so that the damage gets past the first check.
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let head: Vec<&str> =
                head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("content-length")).collect();
            let text = format!("{}\r\nContent-Length: {}\r\n\r\n{body}", head.join("\r\n"), body.len());
            if let Ok(message) = Message::parse(text.into()) {
                let now = rig.now();
                let flow = rig.flow;
                rig.srs.handle_message(now, message, flow);
                rig.ask_nothing();
            }
        }
        assert!(rig.srs.sessions() <= 100);
        rig.wait(Duration::from_secs(60));
        assert_eq!(rig.srs.sessions(), 0, "capture never answered: nothing may be left of {}", path.display());
    }
}
