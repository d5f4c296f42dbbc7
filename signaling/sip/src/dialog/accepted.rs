//! A 2xx to an INVITE is repeated by the core until its ACK comes, on every
//! transport (RFC 3261 13.3.1.4): after T1, doubled up to T2, for 64*T1.

use std::time::{Duration, Instant};

use bytes::Bytes;

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

impl AcceptedInvite {
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
}
