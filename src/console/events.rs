//! Events as they happen, for other systems and for the console (server-sent events).

use axum::extract::State;
use axum::response::Sse;
use axum::response::sse::{Event as SseEvent, KeepAlive};
use futures::Stream;
use futures::stream::unfold;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::Console;

/// Events that wait for a slow reader; older ones are dropped, and it is told how many.
pub const BACKLOG: usize = 1_024;

/// Something that happened. Ids only: who spoke is asked for by id, with the right to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// `call.started`, `call.paused`, `call.resumed`, `call.ended`, `recording.finished`, `recording.handed-over`, `recording.stored`, `assurance.outcome`, `config.applied`, `element.up`, `element.down`,
    /// `node.up`, `node.down`, `node.changed`.
    #[serde(skip)]
    pub name: &'static str,
    /// Call or INVITE.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invite: Option<uuid::Uuid>,
    /// The recording.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recording: Option<uuid::Uuid>,
    /// Which part of it, where it is not the only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<u32>,
    /// Audio that nobody recorded before this part, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_ms: Option<u64>,
    /// `complete`, `partial`, ...
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The server group.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its element.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub element: Option<String>,
    /// The node of the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The configuration's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

impl Event {
    /// An event with nothing but its name.
    pub fn new(name: &'static str) -> Event {
        Event {
            name,
            invite: None,
            recording: None,
            part: None,
            lost_ms: None,
            outcome: None,
            cause: None,
            group: None,
            element: None,
            node: None,
            version: None,
        }
    }
}

#[utoipa::path(get, path = "/api/v1/events", responses((status = 200, description = "Server-sent events, from now on: call.started, call.paused, call.resumed, call.ended, recording.finished, recording.handed-over, recording.stored, assurance.outcome, config.applied, element.up, element.down, node.up, node.down, node.changed; `missed` tells how many a slow reader lost", content_type = "text/event-stream")))]
pub(super) async fn events(State(console): State<Console>) -> Sse<impl Stream<Item = Result<SseEvent, axum::Error>>> {
    let receiver = console.backend.events();
    let stream = unfold(receiver, |mut receiver: broadcast::Receiver<Event>| async move {
        let event = match receiver.recv().await {
            Ok(event) => SseEvent::default().event(event.name).json_data(&event),
            Err(RecvError::Lagged(missed)) => Ok(SseEvent::default().event("missed").data(missed.to_string())),
            Err(RecvError::Closed) => return None,
        };
        Some((event, receiver))
    });
    Sse::new(stream).keep_alive(KeepAlive::default())
}
