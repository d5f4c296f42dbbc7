//! A 2xx to an INVITE is repeated by the core until its ACK comes, on every
//! transport (RFC 3261 13.3.1.4): after T1, doubled up to T2, for 64*T1.

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::flow::Flow;
use crate::transaction::Timers;

/// What to do when the time has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AcceptedStep {
    /// Send the 2xx again.
    Retransmit(Flow, Bytes),
    /// No ACK came: the session should be ended (the dialog itself stands).
    GaveUp,
    /// Nothing is due.
    Wait,
}

/// A 2xx that waits for its ACK.
#[derive(Debug, Clone)]
pub struct AcceptedInvite {
    cseq: u32,
    flow: Flow,
    bytes: Bytes,
    interval: Duration,
    t2: Duration,
    next: Instant,
    end: Instant,
}

/// A 2xx that waits for its ACK, at one moment: what another node needs to repeat it. It may hold SRTP keys.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcceptedState {
    cseq: u32,
    message: String,
    /// Until the wait ends, in ms.
    ends_in_ms: u64,
}

impl fmt::Debug for AcceptedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AcceptedState(CSeq {}, {} ms left)", self.cseq, self.ends_in_ms)
    }
}

impl AcceptedInvite {
    /// How it stands at `now`.
    pub fn state(&self, now: Instant) -> AcceptedState {
        let left = self.end.saturating_duration_since(now);
        AcceptedState {
            cseq: self.cseq,
            message: String::from_utf8_lossy(&self.bytes).into_owned(),
            ends_in_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Goes on with a 2xx that stood so at `then`; it is repeated at `now` for the first time.
    pub fn resume(now: Instant, then: Instant, state: &AcceptedState, flow: Flow, timers: &Timers) -> AcceptedInvite {
        let left = Duration::from_millis(state.ends_in_ms).min(timers.h);
        AcceptedInvite {
            cseq: state.cseq,
            flow,
            bytes: Bytes::from(state.message.clone().into_bytes()),
            interval: timers.t1,
            t2: timers.t2,
            next: now,
            end: then + left,
        }
    }

    /// The 2xx with CSeq number `cseq` was sent at `now`.
    pub fn new(now: Instant, cseq: u32, flow: Flow, bytes: Bytes, timers: &Timers) -> AcceptedInvite {
        AcceptedInvite {
            cseq,
            flow,
            bytes,
            interval: timers.t1,
            t2: timers.t2,
            next: now + timers.t1,
            end: now + timers.h,
        }
    }

    /// The CSeq number that the ACK must carry.
    pub fn cseq(&self) -> u32 {
        self.cseq
    }

    /// When [`AcceptedInvite::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Instant {
        self.next.min(self.end)
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) -> AcceptedStep {
        if now >= self.end {
            AcceptedStep::GaveUp
        } else if now >= self.next {
            self.interval = (self.interval * 2).min(self.t2);
            self.next = now + self.interval;
            AcceptedStep::Retransmit(self.flow, self.bytes.clone())
        } else {
            AcceptedStep::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;
    use crate::flow::Transport;

    #[test]
    fn the_2xx_is_repeated_ever_more_slowly_until_64_t1() {
        let flow = Flow {
            transport: Transport::Tcp,
            local: ([192, 0, 2, 1], 5060).into(),
            remote: ([192, 0, 2, 2], 5060).into(),
            connection: 1,
        };
        let start = Instant::now();
        let mut accepted = AcceptedInvite::new(start, 1, flow, Bytes::from_static(b"200"), &Timers::default());
        assert_eq!(accepted.handle_timeout(start), AcceptedStep::Wait);
        let mut at = Vec::new();
        loop {
            let due = accepted.poll_timeout();
            match accepted.handle_timeout(due) {
                AcceptedStep::Retransmit(..) => at.push((due - start).as_millis()),
                AcceptedStep::GaveUp => {
                    assert_eq!((due - start).as_secs(), 32);
                    break;
                }
                AcceptedStep::Wait => unreachable!("it was due"),
            }
        }
        assert_eq!(at[..5], [500, 1_500, 3_500, 7_500, 11_500]);
    }

    #[test]
    fn another_node_repeats_it_at_once_and_no_longer_than_the_first_would_have() {
        let flow = Flow {
            transport: Transport::Tcp,
            local: ([192, 0, 2, 1], 5060).into(),
            remote: ([192, 0, 2, 2], 5060).into(),
            connection: 1,
        };
        let (start, timers) = (Instant::now(), Timers::default());
        let accepted = AcceptedInvite::new(start, 7, flow, Bytes::from_static(b"200"), &timers);
        let state = accepted.state(start + Duration::from_secs(2));
        assert!(!format!("{state:?}").contains("200"), "it may hold keys");
        let now = start + Duration::from_secs(3);
        let mut resumed = AcceptedInvite::resume(now, start + Duration::from_secs(2), &state, flow, &timers);
        assert_eq!((resumed.cseq(), resumed.poll_timeout()), (7, now));
        assert_eq!(resumed.handle_timeout(now), AcceptedStep::Retransmit(flow, Bytes::from_static(b"200")));
        assert_eq!(resumed.handle_timeout(start + Duration::from_secs(32)), AcceptedStep::GaveUp);
    }
}
