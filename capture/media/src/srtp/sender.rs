//! The sending side, for load sources and tests: one source, packets in order.

use super::cipher::Transform;
use super::{SrtpKey, SrtpSuite};

/// Protects the packets of one source.
pub struct SrtpSender {
    transform: Option<Transform>,
    last: Option<u16>,
    rollover: u64,
}

impl std::fmt::Debug for SrtpSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SrtpSender").field("rollover", &self.rollover).finish_non_exhaustive()
    }
}

impl SrtpSender {
    /// With a key; packets come out as they are when it has not the suite's length.
    pub fn new(suite: SrtpSuite, key: &SrtpKey) -> SrtpSender {
        SrtpSender { transform: Transform::new(suite, key), last: None, rollover: 0 }
    }

    /// Protects the next packet.
    pub fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let sequence = packet.get(2..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_be_bytes);
        if self.last.is_some_and(|last| sequence < last && last - sequence > 0x8000) {
            self.rollover += 1;
        }
        self.last = Some(sequence);
        let index = self.rollover << 16 | u64::from(sequence);
        self.transform
            .as_ref()
            .and_then(|transform| transform.seal_rtp(packet, index))
            .unwrap_or_else(|| packet.to_vec())
    }
}
