//! Events for other systems, on subjects of their own.
//!
//! Whoever publishes never waits: a bounded queue holds what comes while NATS is away, and what finds it full is counted and
//! gone. The queue keeps the order; an event is sent at most once.

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::health::Gauges;

/// Events that wait.
const MOST_WAITING: usize = 10_000;
/// Longest payload, in bytes.
const MOST_BYTES: usize = 64 << 10;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A call is recorded.
    CallStarted,
    /// Recording is paused.
    CallPaused,
    /// Recording goes on after a pause.
    CallResumed,
    /// The call is over.
    CallEnded,
    /// A recording is in its store.
    RecordingStored,
}

impl EventKind {
    /// The end of its subject, after `ferric.CLUSTER.events.`.
    pub fn subject(self) -> &'static str {
        match self {
            EventKind::CallStarted => "call.started",
            EventKind::CallPaused => "call.paused",
            EventKind::CallResumed => "call.resumed",
            EventKind::CallEnded => "call.ended",
            EventKind::RecordingStored => "recording.stored",
        }
    }
}

pub(crate) type Queue = mpsc::Sender<(EventKind, Bytes)>;
pub(crate) type Waiting = mpsc::Receiver<(EventKind, Bytes)>;

pub(crate) fn queue() -> (Queue, Waiting) {
    mpsc::channel(MOST_WAITING)
}

/// `false`: it was dropped, and counted.
pub(crate) fn push(queue: &Queue, gauges: &Gauges, kind: EventKind, payload: &[u8]) -> bool {
    let taken = payload.len() <= MOST_BYTES && queue.try_send((kind, Bytes::copy_from_slice(payload))).is_ok();
    if !taken {
        gauges.events_dropped.add(1);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Connection;

    #[test]
    fn a_full_queue_drops_and_counts() {
        let (queue, _waiting) = queue();
        let gauges = Gauges::new(Connection::Embedded);
        for _ in 0..MOST_WAITING {
            assert!(push(&queue, &gauges, EventKind::CallStarted, b"{}"));
        }
        assert!(!push(&queue, &gauges, EventKind::CallEnded, b"{}"));
        assert!(!push(&queue, &gauges, EventKind::CallEnded, &[0; MOST_BYTES + 1]));
        assert_eq!(gauges.events_dropped.get(), 2);
    }
}
