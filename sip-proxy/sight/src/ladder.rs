//! The last calls in memory, to be looked at while somebody is on the phone with the complaint.
//!
//! ```text
//! index: Call-ID -> number of a call          bytes <= limit
//! calls: | oldest ......................... newest |  <= calls
//!            messages: first half | (left out) | last half   <= messages_per_call
//! ```
//!
//! Noting a message looks for its Call-ID, hashes it once and keeps a handle of the bytes: nothing is copied or
//! parsed until somebody asks. Bounds hold at any time:
//!
//! - A new call pushes out the oldest one, and so do bytes beyond the limit. A call that was pushed out and goes on
//!   begins anew.
//! - A call with too many messages keeps its beginning, which shows how it was routed, and its end.
//! - Messages without a Call-ID are not kept, nor are those that alone exceed the limit.
//!
//! A "call" is whatever shares a Call-ID. Keep-alives by OPTIONS and registrations push calls out just as calls do;
//! whoever notes messages decides which are worth it.

mod draw;
mod view;

pub use view::{CallSummary, Ladder, LadderMessage};

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferric_sip::Flow;

use crate::scan;

/// What a message costs beside its bytes, and a call beside its messages and twice its Call-ID.
const MESSAGE_COST: usize = size_of::<Noted>();
const CALL_COST: usize = size_of::<Call>() + 96;

/// Bounds of a [`LadderRing`]; 0 calls or messages switch it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LadderLimits {
    /// Calls.
    pub calls: usize,
    /// Messages of one call.
    pub messages_per_call: usize,
    /// Bytes of all messages, bookkeeping included.
    pub bytes: usize,
}

impl Default for LadderLimits {
    fn default() -> LadderLimits {
        LadderLimits { calls: 1_000, messages_per_call: 64, bytes: 16 << 20 }
    }
}

/// A message as it was noted.
#[derive(Debug)]
struct Noted {
    at_unix: Duration,
    received: bool,
    flow: Flow,
    bytes: Bytes,
}

impl Noted {
    fn cost(&self) -> usize {
        MESSAGE_COST + self.bytes.len()
    }
}

#[derive(Debug)]
struct Call {
    call_id: Arc<str>,
    messages: Vec<Noted>,
    omitted: u64,
    last_status: Option<u16>,
}

impl Call {
    fn cost(&self) -> usize {
        call_cost(&self.call_id) + self.messages.iter().map(Noted::cost).sum::<usize>()
    }
}

fn call_cost(call_id: &str) -> usize {
    CALL_COST + 2 * call_id.len()
}

/// The messages of the last calls.
#[derive(Debug)]
pub struct LadderRing {
    limits: LadderLimits,
    calls: VecDeque<Call>,
    /// Number of the oldest call; the others follow.
    first: u64,
    index: HashMap<Arc<str>, u64>,
    bytes: usize,
}

impl LadderRing {
    /// An empty ring.
    pub fn new(limits: LadderLimits) -> LadderRing {
        LadderRing { limits, calls: VecDeque::new(), first: 0, index: HashMap::new(), bytes: 0 }
    }

    /// Notes a message that came (`received`) or left on a flow, at a time since 1970.
    pub fn note(&mut self, at_unix: Duration, received: bool, flow: &Flow, bytes: &Bytes) {
        let Some(call_id) = scan::call_id(bytes) else { return };
        let new_call = call_cost(&call_id);
        let message = MESSAGE_COST + bytes.len();
        if self.limits.calls == 0 || self.limits.messages_per_call == 0 || new_call + message > self.limits.bytes {
            return;
        }
        let mut number = self.index.get(&*call_id).copied();
        if let Some(number) = number {
            self.thin(number);
        }
        loop {
            let crowded = number.is_none() && self.calls.len() >= self.limits.calls;
            let more = if number.is_none() { new_call + message } else { message };
            if !crowded && self.bytes + more <= self.limits.bytes {
                self.bytes += more;
                break;
            }
            let oldest = self.first;
            self.drop_oldest();
            number = number.filter(|&number| number != oldest);
        }
        let noted = Noted { at_unix, received, flow: *flow, bytes: bytes.clone() };
        let status = scan::status(bytes);
        match number.and_then(|number| self.call_mut(number)) {
            Some(call) => {
                call.last_status = status.or(call.last_status);
                call.messages.push(noted);
            }
            None => {
                let call_id: Arc<str> = call_id.into();
                self.index.insert(call_id.clone(), self.first + self.calls.len() as u64);
                self.calls.push_back(Call { call_id, messages: vec![noted], omitted: 0, last_status: status });
            }
        }
    }

    /// The newest calls, newest first.
    pub fn list(&self, limit: usize) -> Vec<CallSummary> {
        self.calls.iter().rev().take(limit).map(CallSummary::of).collect()
    }

    /// One call.
    pub fn get(&self, call_id: &str) -> Option<Ladder> {
        let number = *self.index.get(call_id)?;
        self.calls.get(self.place(number)?).map(|call| Ladder::of(call, self.limits.messages_per_call / 2))
    }

    /// How many calls are kept.
    pub fn len(&self) -> usize {
        self.calls.len()
    }

    /// True when no call is kept.
    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// What is kept, in bytes as [`LadderLimits::bytes`] counts them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }

    fn call_mut(&mut self, number: u64) -> Option<&mut Call> {
        let place = self.place(number)?;
        self.calls.get_mut(place)
    }

    /// Makes room for a message in a full call: its middle goes.
    fn thin(&mut self, number: u64) {
        let limit = self.limits.messages_per_call;
        let Some(call) = self.call_mut(number).filter(|call| call.messages.len() >= limit) else { return };
        let gone = call.messages.remove(limit / 2);
        call.omitted += 1;
        self.bytes -= gone.cost();
    }

    fn drop_oldest(&mut self) {
        if let Some(call) = self.calls.pop_front() {
            self.index.remove(&call.call_id);
            self.bytes -= call.cost();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ferric_sip::Transport;
    use proptest::prelude::*;

    use super::*;

    fn flow() -> Flow {
        let (local, remote) = ("192.0.2.10:5060".parse().unwrap(), "198.51.100.1:5060".parse().unwrap());
        Flow { transport: Transport::Udp, local, remote, connection: 0 }
    }

    fn note(ring: &mut LadderRing, call: usize, number: usize) {
        let text =
            format!("INFO sip:{number}@x SIP/2.0\r\nf: <sip:a:pw@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: {call}\r\n\r\n");
        ring.note(Duration::from_secs(number as u64), true, &flow(), &Bytes::from(text));
    }

    #[test]
    fn the_oldest_call_goes_first_whoever_spoke_last() {
        let mut ring = LadderRing::new(LadderLimits { calls: 2, ..LadderLimits::default() });
        for (number, call) in [1, 2, 1, 3].into_iter().enumerate() {
            note(&mut ring, call, number);
        }
        let calls: Vec<String> = ring.list(9).into_iter().map(|call| call.call_id).collect();
        assert_eq!(calls, ["3", "2"]);
        assert!(ring.get("1").is_none() && ring.get("3").is_some());
        assert_eq!(ring.list(1).len(), 1);
    }

    #[test]
    fn a_long_call_keeps_its_beginning_and_its_end() {
        let mut ring = LadderRing::new(LadderLimits { messages_per_call: 4, ..LadderLimits::default() });
        for number in 0..10 {
            note(&mut ring, 1, number);
        }
        let ladder = ring.get("1").unwrap();
        let lines: Vec<&str> = ladder.messages.iter().filter_map(|m| m.first_line.split('@').next()).collect();
        assert_eq!(lines, ["INFO sip:0", "INFO sip:1", "INFO sip:8", "INFO sip:9"]);
        assert_eq!((ladder.omitted, ladder.omitted_before), (6, 2));
        let summary = ring.list(1).pop().unwrap();
        assert_eq!((summary.messages, summary.method.as_str(), summary.last_status), (10, "INFO", None));
        assert_eq!((summary.from.as_str(), summary.to.as_str()), ("sip:a:***@b", "sip:c@d"));
    }

    #[test]
    fn bytes_are_bounded_and_given_back() {
        let limits = LadderLimits { bytes: 4_000, ..LadderLimits::default() };
        let mut ring = LadderRing::new(limits);
        let large = |call: usize| Bytes::from(format!("INFO sip:x SIP/2.0\r\ni: {call}\r\n\r\n{}", "x".repeat(1_500)));
        for call in 0..9 {
            ring.note(Duration::ZERO, true, &flow(), &large(call));
            assert!(ring.bytes() <= limits.bytes && ring.get(&call.to_string()).is_some());
        }
        assert!(ring.len() < 3);
        let kept = ring.bytes();
        ring.note(
            Duration::ZERO,
            true,
            &flow(),
            &Bytes::from(format!("INFO x SIP/2.0\r\ni: 1\r\n\r\n{}", "x".repeat(4_000))),
        );
        assert_eq!(ring.bytes(), kept, "what never fits pushes nothing out");
    }

    #[test]
    fn nothing_is_kept_when_switched_off() {
        let mut ring = LadderRing::new(LadderLimits { calls: 0, ..LadderLimits::default() });
        note(&mut ring, 1, 1);
        assert!(ring.is_empty() && ring.bytes() == 0);
    }

    proptest! {
        #[test]
        fn no_limit_is_ever_exceeded(
            calls in 0usize..5,
            messages_per_call in 0usize..6,
            bytes in 0usize..6_000,
            steps in proptest::collection::vec((0usize..9, 0usize..900, any::<bool>()), 0..120),
        ) {
            let limits = LadderLimits { calls, messages_per_call, bytes };
            let mut ring = LadderRing::new(limits);
            for (call, size, received) in steps {
                let text = format!("INFO sip:x SIP/2.0\r\nCall-ID: {call}\r\n\r\n{}", "x".repeat(size));
                ring.note(Duration::ZERO, received, &flow(), &Bytes::from(text));
                prop_assert!(ring.len() <= calls && ring.bytes() <= bytes);
                prop_assert!(ring.calls.iter().all(|call| call.messages.len() <= messages_per_call && !call.messages.is_empty()));
                prop_assert_eq!(ring.bytes(), ring.calls.iter().map(Call::cost).sum::<usize>());
                prop_assert_eq!(ring.index.len(), ring.len());
                for call in &ring.calls {
                    prop_assert_eq!(ring.get(&call.call_id).map(|ladder| ladder.summary.call_id), Some(call.call_id.to_string()));
                }
            }
        }

        #[test]
        fn bytes_of_any_kind_never_panic(messages in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..120), any::<bool>(), 1u16..9), 1..12)) {
            let mut ring = LadderRing::new(LadderLimits::default());
            for (bytes, received, port) in messages {
                let remote = ([198, 51, 100, 1], port).into();
                let flow = Flow { remote, ..flow() };
                for message in [bytes.clone(), [b"SIP/2.0 2".to_vec(), bytes.clone(), b"\r\ni: a\r\n".to_vec(), bytes].concat()] {
                    ring.note(Duration::from_secs(u64::MAX), received, &flow, &Bytes::from(message));
                }
            }
            for call in ring.list(usize::MAX) {
                let ladder = ring.get(&call.call_id).unwrap();
                let text = ladder.to_string();
                let steers = text.contains('\u{1b}');
                prop_assert!(!steers);
                prop_assert!(!serde_json::to_string(&ladder).unwrap().is_empty());
            }
        }
    }
}
