//! The reorder buffer of one stream.
//!
//! Packets wait here, in order of their extended sequence number, until the
//! recording reaches their place on the timeline. Since we record and do not
//! play, the delay is fixed; this buffer only holds and sorts. Payload buffers
//! are reused, last in first out, so that a running call allocates nothing and
//! stays in cache. The number of packets is bounded.

use std::collections::VecDeque;

/// Most packets that wait; some five seconds of 20 ms packets.
pub const MAX_WAITING: usize = 256;
/// Spare buffers kept.
const MAX_SPARE: usize = 24;
/// Spare buffers larger than this are given back.
const MAX_SPARE_BYTES: usize = 512;

/// A packet that waits.
#[derive(Debug)]
pub struct Waiting {
    /// Extended sequence number.
    pub number: u64,
    /// Extended timestamp in ticks.
    pub timestamp: i64,
    /// As on the wire.
    pub payload_type: u8,
    /// As on the wire.
    pub payload: Vec<u8>,
}

/// Packets in order of sequence.
#[derive(Debug, Default)]
pub struct JitterBuffer {
    waiting: VecDeque<Waiting>,
    spare: Vec<Vec<u8>>,
}

impl JitterBuffer {
    /// An empty buffer.
    pub fn new() -> JitterBuffer {
        JitterBuffer::default()
    }

    /// Copies a packet in; false when it is a copy of one that waits, or when the buffer is full.
    pub fn push(&mut self, number: u64, timestamp: i64, payload_type: u8, payload: &[u8]) -> bool {
        if self.waiting.len() >= MAX_WAITING {
            return false;
        }
        // Almost always the newest: look from the back.
        let mut at = self.waiting.len();
        while let Some(before) = at.checked_sub(1).and_then(|before| self.waiting.get(before)) {
            if before.number == number {
                return false;
            }
            if before.number < number {
                break;
            }
            at -= 1;
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(payload);
        let packet = Waiting { number, timestamp, payload_type, payload: buffer };
        if at == self.waiting.len() {
            self.waiting.push_back(packet);
        } else {
            self.waiting.insert(at, packet);
        }
        true
    }

    /// The packet lowest in sequence.
    pub fn front(&self) -> Option<&Waiting> {
        self.waiting.front()
    }

    /// Takes the packet lowest in sequence; give its buffer back with [`JitterBuffer::recycle`].
    pub fn pop(&mut self) -> Option<Waiting> {
        self.waiting.pop_front()
    }

    /// Takes back the buffer of a packet.
    pub fn recycle(&mut self, packet: Waiting) {
        if self.spare.len() < MAX_SPARE && packet.payload.capacity() <= MAX_SPARE_BYTES {
            self.spare.push(packet.payload);
        }
    }

    /// Packets that wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// True when none waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Packets that wait, lowest in sequence first.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Waiting> {
        self.waiting.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn drain(buffer: &mut JitterBuffer) -> Vec<u64> {
        std::iter::from_fn(|| {
            let packet = buffer.pop()?;
            let number = packet.number;
            buffer.recycle(packet);
            Some(number)
        })
        .collect()
    }

    #[test]
    fn packets_leave_in_order_whatever_they_came_in() {
        let mut buffer = JitterBuffer::new();
        for number in [5, 3, 4, 9, 1, 7] {
            assert!(buffer.push(number, 0, 0, &[0]));
        }
        assert!(!buffer.push(4, 0, 0, &[0]));
        assert_eq!(drain(&mut buffer), [1, 3, 4, 5, 7, 9]);
    }

    #[test]
    fn memory_is_bounded() {
        let mut buffer = JitterBuffer::new();
        for number in 0..10_000 {
            buffer.push(number, 0, 0, &[0; 160]);
        }
        assert_eq!(buffer.len(), MAX_WAITING);
        drain(&mut buffer);
        assert_eq!(buffer.spare.len(), MAX_SPARE);
        assert!(buffer.push(1, 0, 0, &[7; 3]));
        assert_eq!(buffer.front().unwrap().payload, [7; 3]);
    }
}
