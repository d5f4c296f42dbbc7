//! Events for other systems: what happens to calls and recordings, on subjects of NATS.
//!
//! `ferric.CLUSTER.events.call.started` and so on ([`EventKind`]); the body is the event of `/api/v1/events` with three
//! more fields:
//!
//! ```json
//! {"event": "call.started", "node": "edge-a1", "at": "2026-01-31T09:00:00Z", "recording": "0192..."}
//! ```
//!
//! Ids only: who spoke is asked for over the API, with the right to know it. An event is told at most once; while NATS is
//! away a bounded queue keeps them, and what finds it full is counted. No call waits for any of it.

use std::time::SystemTime;

use ferric_cluster::{ClusterState, EventKind};
use ferric_media::timestamp::Timestamp;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::console::Event;

/// Tells them until the node ends.
pub(super) async fn run(mut events: broadcast::Receiver<Event>, state: ClusterState, node: String) {
    loop {
        match events.recv().await {
            Ok(event) => {
                if let Some(kind) = kind(event.name)
                    && let Some(body) = body(&event, &node, Timestamp::from(SystemTime::now()))
                {
                    state.publish(kind, &body);
                }
            }
            Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "events were not told to other systems"),
            Err(RecvError::Closed) => return,
        }
    }
}

fn kind(name: &str) -> Option<EventKind> {
    Some(match name {
        "call.started" => EventKind::CallStarted,
        "call.paused" => EventKind::CallPaused,
        "call.resumed" => EventKind::CallResumed,
        "call.ended" => EventKind::CallEnded,
        "recording.stored" => EventKind::RecordingStored,
        _ => return None,
    })
}

fn body(event: &Event, node: &str, at: Timestamp) -> Option<Vec<u8>> {
    let mut body = serde_json::to_value(event).ok()?;
    let more = json!({ "event": event.name, "node": node, "at": at.to_string() });
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    serde_json::to_vec(&body).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn what_others_read_names_event_node_and_time() {
        let event = Event { recording: Some(uuid::Uuid::from_u128(7)), ..Event::new("call.started") };
        let body: Value =
            serde_json::from_slice(&body(&event, "edge-a1", "2026-01-31T09:00:00Z".parse().unwrap()).unwrap()).unwrap();
        assert_eq!(
            body,
            json!({ "event": "call.started", "node": "edge-a1", "at": "2026-01-31T09:00:00.000Z",
                    "recording": "00000000-0000-0000-0000-000000000007" })
        );
        assert_eq!(kind("recording.stored"), Some(EventKind::RecordingStored));
        assert_eq!(kind("element.up"), None);
    }
}
