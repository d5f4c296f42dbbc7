//! A call as it is shown: without secrets, in plain values that serialise.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use ferric_sip::Transport;
use ferric_sip::header::NameAddr;
use serde::Serialize;

use super::{Call, Noted};
use crate::request_log::{as_milliseconds, as_seconds, as_token};
use crate::{redact, scan};

/// One line of the list of calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CallSummary {
    /// Call-ID.
    pub call_id: String,
    /// When the first message was noted, in seconds since 1970.
    #[serde(serialize_with = "as_seconds")]
    pub started_at: Duration,
    /// Method of the first message.
    pub method: String,
    /// From URI of the first message.
    pub from: String,
    /// To URI of the first message.
    pub to: String,
    /// How many messages there were, those left out included.
    pub messages: u64,
    /// The last status of any response.
    pub last_status: Option<u16>,
}

impl CallSummary {
    pub(super) fn of(call: &Call) -> CallSummary {
        let first = call.messages.first();
        let bytes = first.map_or(&[][..], |first| &first.bytes);
        CallSummary {
            call_id: call.call_id.to_string(),
            started_at: first.map_or(Duration::ZERO, |first| first.at_unix),
            method: scan::method(bytes).unwrap_or_default().into_owned(),
            from: uri("From", &scan::from(bytes).unwrap_or_default()),
            to: uri("To", &scan::to(bytes).unwrap_or_default()),
            messages: call.messages.len() as u64 + call.omitted,
            last_status: call.last_status,
        }
    }
}

/// The URI of a field, or the field as it is when it cannot be read.
fn uri(name: &'static str, value: &str) -> String {
    let uri = NameAddr::parse(name, value).map_or_else(|_| value.to_owned(), |parsed| parsed.uri);
    redact::text(uri.as_bytes())
}

/// One call, message by message. `Display` draws it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ladder {
    /// What stands in the list.
    pub summary: CallSummary,
    /// Messages that were not kept.
    pub omitted: u64,
    /// The index in `messages` that the omitted ones stood before.
    pub omitted_before: usize,
    /// The messages in the order in which they passed.
    pub messages: Vec<LadderMessage>,
}

impl Ladder {
    pub(super) fn of(call: &Call, omitted_before: usize) -> Ladder {
        let summary = CallSummary::of(call);
        let mut seen = HashSet::new();
        let messages = call
            .messages
            .iter()
            .map(|noted| {
                let again = !seen.insert((noted.received, noted.flow.transport, noted.flow.remote, &noted.bytes[..]));
                LadderMessage::of(noted, summary.started_at, again)
            })
            .collect();
        Ladder { summary, omitted: call.omitted, omitted_before, messages }
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LadderMessage {
    /// Since the first message, in milliseconds.
    #[serde(rename = "ms", serialize_with = "as_milliseconds")]
    pub after: Duration,
    /// True if it came to us.
    pub received: bool,
    /// Who sent it.
    pub from: SocketAddr,
    /// Who got it.
    pub to: SocketAddr,
    /// How it travelled.
    #[serde(serialize_with = "as_token")]
    pub transport: Transport,
    /// The method; of a response that of its CSeq.
    pub method: String,
    /// The status of a response.
    pub status: Option<u16>,
    /// The first line.
    pub first_line: String,
    /// True if it carries a session description.
    pub sdp: bool,
    /// True if the same bytes passed the same way before.
    pub retransmission: bool,
    /// The message; secrets are replaced by `***` ([`redact`]).
    pub raw: String,
}

impl LadderMessage {
    fn of(noted: &Noted, started_at: Duration, retransmission: bool) -> LadderMessage {
        let flow = noted.flow;
        let (from, to) = if noted.received { (flow.remote, flow.local) } else { (flow.local, flow.remote) };
        LadderMessage {
            after: noted.at_unix.saturating_sub(started_at),
            received: noted.received,
            from,
            to,
            transport: flow.transport,
            method: scan::method(&noted.bytes).unwrap_or_default().into_owned(),
            status: scan::status(&noted.bytes),
            first_line: redact::text(scan::first_line(&noted.bytes)),
            sdp: scan::has_sdp(&noted.bytes),
            retransmission,
            raw: redact::text(&noted.bytes),
        }
    }

    /// The peer's end.
    pub fn peer(&self) -> SocketAddr {
        if self.received { self.from } else { self.to }
    }

    /// Our end.
    pub fn us(&self) -> SocketAddr {
        if self.received { self.to } else { self.from }
    }

    /// What stands on the arrow: `INVITE (SDP)`, `486 Busy Here`, `200 OK (BYE)`.
    pub fn label(&self) -> String {
        let mut label = match self.status {
            Some(_) => self.first_line.get(8..).unwrap_or_default().trim().to_owned(),
            None => self.method.clone(),
        };
        // The INVITE's responses are the many; others say what they answer.
        if self.status.is_some() && self.method != "INVITE" && !self.method.is_empty() {
            label = format!("{label} ({})", self.method);
        }
        if self.sdp {
            label.push_str(" (SDP)");
        }
        label
    }
}
