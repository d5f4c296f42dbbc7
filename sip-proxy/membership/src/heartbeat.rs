//! The heartbeat: one datagram each interval and direction.
//!
//! ```text
//! seq u64 | sent_us u64 | echo_us u64 | held_us u32 | wall_ms u64        36 bytes, big endian
//! ```
//!
//! `sent_us` counts from the sender's own start. `echo_us` gives the newest `sent_us` heard from the peer back, and
//! `held_us` says how long it lay here, so that the peer learns the round trip without another packet (as RTCP does,
//! RFC 3550 6.4.1). Later versions append; what is longer is read as far as it is known.

/// One heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Counts up by one on each link, from 1.
    pub seq: u64,
    /// When it was sent, in microseconds since the sender's start.
    pub sent_us: u64,
    /// The newest `sent_us` heard from the peer; 0 if none was heard.
    pub echo_us: u64,
    /// How long that one lay here, in microseconds.
    pub held_us: u32,
    /// The sender's wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
}

impl Heartbeat {
    /// The length on the wire, in bytes.
    pub const LEN: usize = 36;

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let fields: [&[u8]; 5] = [
            &self.seq.to_be_bytes(),
            &self.sent_us.to_be_bytes(),
            &self.echo_us.to_be_bytes(),
            &self.held_us.to_be_bytes(),
            &self.wall_ms.to_be_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// Reads a heartbeat; `None` if it is too short.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (seq, rest) = bytes.split_first_chunk()?;
        let (sent_us, rest) = rest.split_first_chunk()?;
        let (echo_us, rest) = rest.split_first_chunk()?;
        let (held_us, rest) = rest.split_first_chunk()?;
        let (wall_ms, _) = rest.split_first_chunk()?;
        Some(Self {
            seq: u64::from_be_bytes(*seq),
            sent_us: u64::from_be_bytes(*sent_us),
            echo_us: u64::from_be_bytes(*echo_us),
            held_us: u32::from_be_bytes(*held_us),
            wall_ms: u64::from_be_bytes(*wall_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn a_heartbeat_survives_the_wire_and_a_longer_one_is_understood() {
        let beat = Heartbeat { seq: 1, sent_us: 2 << 40, echo_us: 3, held_us: u32::MAX, wall_ms: u64::MAX };
        let mut bytes = beat.encode().to_vec();
        assert_eq!(Heartbeat::decode(&bytes), Some(beat));
        assert_eq!(Heartbeat::decode(&bytes[..Heartbeat::LEN - 1]), None);
        bytes.extend_from_slice(b"later");
        assert_eq!(Heartbeat::decode(&bytes), Some(beat));
    }
}
