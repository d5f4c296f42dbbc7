//! Asking the SRC for all its metadata when partial updates do not add up (RFC 7866 9.2).

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::method::Method;
use ferric_sip::siprec::{Metadata, SNAPSHOT_REQUEST_TYPE, write_snapshot_request};

use super::{Purpose, Srs};
use crate::session::{SessionKey, State};

/// Between two requests in one dialog.
const PACE: Duration = Duration::from_secs(10);
/// Requests in one dialog.
const MOST: u32 = 6;

impl Srs {
    /// Asks for a snapshot if what is known does not add up and the SRC takes such requests.
    pub(super) fn ask_for_snapshot(&mut self, now: Instant, key: SessionKey, partial: bool) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let Some(missing) = what_is_missing(&session.metadata).filter(|_| partial) else { return };
        session.warn("partial metadata name what no earlier document told of");
        let (asked, times) = session.snapshots;
        let soon = asked.is_some_and(|asked| now.saturating_duration_since(asked) < PACE);
        let can = session.peer_gives_snapshots && session.peer_allows_update && session.state == State::Recording;
        if !can || soon || times >= MOST {
            return;
        }
        session.snapshots = (Some(now), times + 1);
        let mut request = session.dialog.request(&Method::Update);
        request.add_header("Content-Disposition", "recording-session");
        request.set_body(SNAPSHOT_REQUEST_TYPE, Bytes::from(write_snapshot_request(&missing)));
        let flow = session.request_flow();
        self.send_own(now, key, request, flow, Purpose::Snapshot);
    }
}

/// A reference to something that no document has told of.
fn what_is_missing(metadata: &Metadata) -> Option<String> {
    let knows_party = |id: &str| metadata.participants.iter().any(|party| party.id == id);
    let knows_stream = |id: &String| metadata.streams.iter().any(|stream| stream.id == *id);
    let party = metadata
        .session_associations
        .iter()
        .chain(&metadata.stream_associations)
        .find(|association| !knows_party(&association.participant));
    if let Some(association) = party {
        return Some(format!("participant {} is unknown", association.participant));
    }
    let stream =
        metadata.stream_associations.iter().flat_map(|association| &association.sends).find(|id| !knows_stream(id));
    if let Some(id) = stream {
        return Some(format!("stream {id} is unknown"));
    }
    (metadata.participants.is_empty() || metadata.streams.is_empty())
        .then(|| "participants and streams are unknown".to_owned())
}
