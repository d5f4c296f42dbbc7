//! What `ferric interop` says of a call: facts first, then what had to be bent, then what to change.

use std::fmt::Write as _;
use std::time::Duration;

use ferric_assurance::Outcome;
use ferric_media::metadata::RecordingMetadata;
use ferric_sip::message::Message;

/// A call that came to its end.
pub(super) struct Call {
    pub(super) outcome: Outcome,
    pub(super) cause: Option<String>,
    /// One for each communication session.
    pub(super) recordings: Vec<RecordingMetadata>,
    /// Since a refusal with 503.
    pub(super) came_back: Option<Duration>,
}

/// Longer datagrams are cut into fragments, which firewalls lose.
const LARGE_DATAGRAM: usize = 1_300;

/// Facts, bendings and advice, gathered in this order.
#[derive(Default)]
struct Findings {
    facts: Vec<(&'static str, String)>,
    bent: Vec<String>,
    change: Vec<String>,
}

impl Findings {
    fn fact(&mut self, name: &'static str, text: impl Into<String>) {
        self.facts.push((name, text.into()));
    }

    fn bend(&mut self, text: impl Into<String>) {
        self.bent.push(text.into());
    }

    fn advise(&mut self, text: impl Into<String>) {
        self.change.push(text.into());
    }
}

/// The report of one call.
pub(super) fn report(call: &Call) -> String {
    let mut found = Findings::default();
    let mut out = String::new();
    for metadata in &call.recordings {
        signalling(metadata, &mut found);
        parties(metadata, &mut found);
        media(metadata, &mut found);
    }
    let first = call.recordings.first();
    let maker = first.and_then(|metadata| metadata.session.maker.as_deref()).unwrap_or("no maker that is known here");
    let product = first.and_then(|metadata| metadata.session.source.as_deref()).unwrap_or("no User-Agent");
    let _ = writeln!(
        out,
        "\nA call came to its end: {} ({}).",
        call.outcome.as_str(),
        call.cause.as_deref().unwrap_or("bye")
    );
    let _ = writeln!(out, "  dialect           {maker} ({product})");
    if call.recordings.len() > 1 {
        let _ = writeln!(out, "  recordings        {}, one for each communication session", call.recordings.len());
    }
    if let Some(after) = call.came_back {
        let _ = writeln!(out, "  after a 503       the SBC came back after {:.1} s", after.as_secs_f64());
    }
    for (name, text) in &found.facts {
        let _ = writeln!(out, "  {name:<17} {text}");
    }
    list(&mut out, "bent to record it", &found.bent, "nothing");
    list(&mut out, "change on the SBC", &found.change, "nothing: this is how it should be");
    out
}

fn list(out: &mut String, title: &str, lines: &[String], none: &str) {
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines.dedup();
    if lines.is_empty() {
        lines.push(none);
    }
    for (number, line) in lines.iter().enumerate() {
        let _ = writeln!(out, "  {:<17} {line}", if number == 0 { title } else { "" });
    }
}

fn signalling(metadata: &RecordingMetadata, found: &mut Findings) {
    let kind = metadata.session.source_kind.as_deref().unwrap_or("siprec");
    found.fact("came as", kind);
    for header in &metadata.session.sip_headers {
        let Some(text) = header.body.as_deref() else { continue };
        let Ok(invite) = Message::parse(bytes::Bytes::from(without_length(text))) else { continue };
        let udp = invite.header("Via").is_some_and(|via| via.to_ascii_uppercase().contains("/UDP"));
        let length: usize = invite.header("Content-Length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let declared = original_length(text).unwrap_or(length);
        if udp && text.len() + declared > LARGE_DATAGRAM {
            found.advise(format!(
                "send SIP over TCP or TLS: its INVITE has {} bytes, and a firewall that drops fragments loses the call",
                text.len() + declared
            ));
        }
        let has = |name: &str, word: &str| {
            invite.values(name).iter().any(|value| value.trim().to_ascii_lowercase().starts_with(word))
        };
        if kind == "siprec" && !has("Require", "siprec") {
            found.bend("the INVITE does not say Require: siprec");
        }
        if kind == "siprec" && !invite.header("Contact").is_some_and(|contact| contact.contains(">;+sip.src")) {
            found.bend("the Contact has no +sip.src outside of its brackets");
        }
        match invite.header("Session-Expires") {
            Some(value) => found.fact("session timer", value.into_owned()),
            None => {
                found.fact("session timer", "none");
                found.advise(
                    "switch on session timers (RFC 4028): without them a call whose BYE is lost ends only by a probe",
                );
            }
        }
        if !has("Allow", "update") {
            found.fact("UPDATE", "not in Allow: sessions are refreshed by re-INVITE");
        }
    }
    let documents = metadata.session.src_metadata.len();
    found.fact("metadata", if documents == 0 { "none".to_owned() } else { format!("{documents} documents") });
    if documents == 0 && kind == "siprec" {
        found.advise("switch on recording metadata: without them nobody knows who spoke");
    }
    for warning in &metadata.session.signalling_warnings {
        found.bend(warning.clone());
    }
}

/// The kept header says how long its body was; the body itself is not kept.
fn original_length(text: &str) -> Option<usize> {
    let line = text.lines().find(|line| line.to_ascii_lowercase().starts_with("content-length"))?;
    line.split(':').nth(1)?.trim().parse().ok()
}

fn without_length(text: &str) -> String {
    let lines = text
        .split("\r\n")
        .filter(|line| !line.to_ascii_lowercase().starts_with("content-length") && !line.starts_with("l:"));
    lines.collect::<Vec<_>>().join("\r\n")
}

fn parties(metadata: &RecordingMetadata, found: &mut Findings) {
    let known = &metadata.session.participants;
    let tied = known.iter().filter(|party| party.channel.is_some()).count();
    found.fact("parties", format!("{} named, {tied} of them tied to a channel", known.len()));
    if known.is_empty() {
        found.advise("let the SBC name the participants: the recording cannot be found by number");
    }
    let labels: Vec<&str> = metadata.streams.iter().filter_map(|stream| stream.label.as_deref()).collect();
    found.fact("labels", if labels.is_empty() { "none".to_owned() } else { labels.join(", ") });
    if labels.len() < metadata.streams.len() {
        found.bend("m-lines without a=label: their order stands for it");
    }
    if metadata.streams.len() == 1 && known.len() > 1 {
        found.advise(
            "let the SBC send each party as a stream of its own, if it can: both are mixed in one, and stay so",
        );
    }
    let ids = metadata.session.sip.correlators.iter().map(|correlator| correlator.name.as_str());
    let mut ids: Vec<&str> = ids.filter(|name| *name != "Request-URI").collect();
    ids.dedup();
    found.fact("ids", if ids.is_empty() { "none".to_owned() } else { ids.join(", ") });
}

fn media(metadata: &RecordingMetadata, found: &mut Findings) {
    for stream in &metadata.streams {
        let codecs = if stream.codecs.is_empty() { "no codec".to_owned() } else { stream.codecs.join(", ") };
        let mos = stream.mos.map_or(String::new(), |mos| format!(", MOS {mos:.1}"));
        let srtp = stream.srtp.as_deref().map_or("in clear".to_owned(), |suite| format!("SRTP {suite}"));
        let side = if stream.channel == Some(0) { "left" } else { "right" };
        found.fact("media", format!("{side}: {codecs}, {} packets, {} lost{mos}, {srtp}", stream.packets, stream.lost));
        if stream.packets == 0 && stream.undecryptable == 0 {
            found.advise(format!("no RTP came for the {side} channel: check the SBC's media realm, its route to this host, and firewalls on the RTP ports"));
        }
        if stream.undecryptable > 0 {
            found.advise(format!(
                "{} packets could not be opened with the agreed SRTP key: check that no proxy rewrites the keys",
                stream.undecryptable
            ));
        }
        if stream.packets > 0 && stream.lost * 100 > stream.packets {
            found.advise(
                "more than one packet of a hundred is lost on the way: look at the network between the SBC and here",
            );
        }
        if stream.srtp.is_none() {
            found.advise("use SRTP (with SIP over TLS): the media can be heard by anybody on the way");
        } else {
            found.advise(
                "use SIP over TLS in production: SRTP keys in a plain description can be read by anybody on the way",
            );
        }
    }
    if !metadata.holds.is_empty() {
        found.fact("hold", format!("{} seen, and followed", metadata.holds.len()));
    }
    if !metadata.dtmf.is_empty() {
        found.fact("keys pressed", format!("{}, by RFC 4733 or in the audio", metadata.dtmf.len()));
    }
}

/// What to do about a refusal.
pub(super) fn advice_for_refusal(cause: &str) -> &'static str {
    match cause {
        "no-codec" => {
            "  Offer a codec that can be decoded here (G.711, G.722, G.729, G.726, GSM, iLBC, Opus, L16), and RTP/AVP or RTP/SAVP with a=crypto."
        }
        "body" => {
            "  The session description, or the multipart body around it, cannot be read: see the log of the SBC for what it sent."
        }
        "malformed" => "  A header field that every request needs is missing or damaged.",
        "session-timer" => "  The session interval is too short: let it be 90 s or more.",
        "merged" => "  The same INVITE came by two ways: a proxy in between forks it.",
        _ => "  The log says more.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferric_media::metadata::{Participant, SessionInfo, SrcMetadata, StreamReport};
    use ferric_media::part::Part;
    use uuid::Uuid;

    fn metadata() -> RecordingMetadata {
        let invite = "INVITE sip:srs@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.20;branch=z9hG4bK1\r\nContact: <sip:a@198.51.100.20;+sip.src>\r\n\
            User-Agent: Oracle SBC\r\nContent-Length: 2400\r\n\r\n";
        let session = SessionInfo {
            participants: vec![Participant {
                id: "p".into(),
                name: None,
                aor: Some("sip:2001@example.com".into()),
                channel: Some(0),
                intervals: Vec::new(),
            }],
            sip_headers: vec![SrcMetadata::new(Timestamp::from_unix_ms(0), "message/sip", invite.as_bytes())],
            source: Some("Oracle SBC".into()),
            maker: Some("oracle".into()),
            source_kind: Some("siprec".into()),
            ..SessionInfo::default()
        };
        let mut metadata =
            RecordingMetadata::new(Part::first(Uuid::from_u128(1)), "t", "n", Timestamp::from_unix_ms(0), session);
        let stream = |channel: u8, packets, lost| StreamReport {
            label: Some((channel + 1).to_string()),
            channel: Some(channel),
            codecs: vec!["PCMU/8000".into()],
            packets,
            lost,
            ..StreamReport::default()
        };
        metadata.streams = vec![stream(0, 500, 20), stream(1, 0, 0)];
        metadata
    }

    use ferric_media::timestamp::Timestamp;

    #[test]
    fn a_call_with_faults_gets_its_advice() {
        let call = Call {
            outcome: Outcome::Complete,
            cause: None,
            recordings: vec![metadata()],
            came_back: Some(Duration::from_millis(1_500)),
        };
        insta::assert_snapshot!(report(&call));
    }

    #[test]
    fn every_refusal_has_an_advice() {
        for cause in ["no-codec", "body", "malformed", "session-timer", "merged", "something else"] {
            assert!(advice_for_refusal(cause).len() > 10);
        }
    }
}
