//! The packets of one stream (RFC 3550): header, trouble on the way, reports.

use std::time::{Duration, SystemTime};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::config::Trouble;
use super::speech::{Speech, Voice};

/// Seconds from 1900, where NTP begins, to 1970.
const NTP_OFFSET_SECONDS: u64 = 2_208_988_800;

/// What a stream has sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StreamCount {
    /// Packets put on the wire, doubles included.
    pub(super) packets: u64,
    /// Payload octets of them.
    pub(super) octets: u64,
    /// Packets that the simulated network lost.
    pub(super) lost: u64,
    /// Packets that had their time, sent or not.
    pub(super) steps: u64,
    /// First and last of the runs of packets that were not sent because the server did not want the stream.
    pub(super) held: Vec<(u64, u64)>,
}

/// One outgoing RTP stream. A lost packet uses its number and its time up, as on a real network.
#[derive(Debug)]
pub(super) struct Packetizer {
    ssrc: u32,
    first_sequence: u16,
    first_timestamp: u32,
    voice: Voice,
    /// Number of the next packet since the start.
    next: u64,
    trouble: Trouble,
    rng: SmallRng,
    held: Option<Vec<u8>>,
    count: StreamCount,
}

impl Packetizer {
    /// The stream of a voice.
    pub(super) fn new(voice: Voice, trouble: Trouble, seed: u64) -> Packetizer {
        let mut rng = SmallRng::seed_from_u64(seed);
        Packetizer {
            ssrc: rng.random(),
            first_sequence: rng.random(),
            first_timestamp: rng.random(),
            voice,
            next: 0,
            trouble,
            rng,
            held: None,
            count: StreamCount::default(),
        }
    }

    /// The number of the next packet, counted from 0.
    pub(super) fn next_index(&self) -> u64 {
        self.next
    }

    /// What was sent so far.
    pub(super) fn count(&self) -> StreamCount {
        StreamCount { steps: self.next, ..self.count.clone() }
    }

    /// Goes one packet on and hands what is on the wire now to `send`: nothing, one packet, or more.
    pub(super) fn advance(&mut self, speech: &Speech, mut send: impl FnMut(&[u8])) {
        let packet = self.packet(speech, &speech.payload(self.voice, self.next));
        self.next += 1;
        let held = self.held.take();
        let mut put = |count: &mut StreamCount, packet: &[u8]| {
            count.packets += 1;
            count.octets += packet.len().saturating_sub(12) as u64;
            send(packet);
        };
        if self.rng.random::<f64>() < self.trouble.loss {
            self.count.lost += 1;
        } else if held.is_none() && self.rng.random::<f64>() < self.trouble.reorder {
            self.held = Some(packet);
        } else {
            put(&mut self.count, &packet);
            if self.rng.random::<f64>() < self.trouble.duplicate {
                put(&mut self.count, &packet);
            }
        }
        if let Some(held) = held {
            put(&mut self.count, &held);
        }
    }

    /// Goes one packet on without sending: the stream is on hold.
    pub(super) fn skip(&mut self) {
        match self.count.held.last_mut() {
            Some((_, last)) if *last + 1 == self.next => *last = self.next,
            _ => self.count.held.push((self.next, self.next)),
        }
        self.next += 1;
        self.held = None;
    }

    fn packet(&self, speech: &Speech, payload: &[u8]) -> Vec<u8> {
        // Sequence numbers and timestamps wrap by design.
        #[allow(clippy::cast_possible_truncation)]
        let sequence = self.first_sequence.wrapping_add(self.next as u16);
        let marker = if self.next == 0 { 0x80 } else { 0 };
        let mut packet = Vec::with_capacity(12 + payload.len());
        packet.extend_from_slice(&[0x80, speech.codec.payload_type() | marker]);
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&self.timestamp(speech, self.next).to_be_bytes());
        packet.extend_from_slice(&self.ssrc.to_be_bytes());
        packet.extend_from_slice(payload);
        packet
    }

    #[allow(clippy::cast_possible_truncation)]
    fn timestamp(&self, speech: &Speech, index: u64) -> u32 {
        self.first_timestamp.wrapping_add((index as u32).wrapping_mul(speech.ticks))
    }

    /// A sender report with CNAME (RFC 3550 6.4.1, 6.5), for the instant `since_start`
    /// after packet 0; with `end` followed by a BYE (6.6).
    pub(super) fn report(
        &self,
        speech: &Speech,
        wall: SystemTime,
        since_start: Duration,
        cname: &str,
        end: bool,
    ) -> Vec<u8> {
        let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let fraction = (u64::from(since.subsec_nanos()) << 32) / 1_000_000_000;
        let ticks = since_start.as_micros() * u128::from(speech.codec.rtp_clock()) / 1_000_000;
        #[allow(clippy::cast_possible_truncation)]
        let (seconds, fraction, ticks, packets, octets) = (
            (since.as_secs() + NTP_OFFSET_SECONDS) as u32,
            fraction as u32,
            ticks as u32,
            self.count.packets as u32,
            self.count.octets as u32,
        );
        let mut out = Vec::with_capacity(80);
        out.extend_from_slice(&[0x80, 200, 0, 6]);
        let timestamp = self.first_timestamp.wrapping_add(ticks);
        for word in [self.ssrc, seconds, fraction, timestamp, packets, octets] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        let cname = cname.as_bytes().get(..cname.len().min(255)).unwrap_or(&[]);
        // SSRC, item type and length, text, at least one zero, up to a full word.
        let words = (4 + 2 + cname.len() + 1).div_ceil(4);
        let start = out.len() + 4;
        #[allow(clippy::cast_possible_truncation)]
        out.extend_from_slice(&[0x81, 202, 0, words as u8]);
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        #[allow(clippy::cast_possible_truncation)]
        out.extend_from_slice(&[1, cname.len() as u8]);
        out.extend_from_slice(cname);
        out.resize(start + words * 4, 0);
        if end {
            out.extend_from_slice(&[0x81, 203, 0, 1]);
            out.extend_from_slice(&self.ssrc.to_be_bytes());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::load::config::LoadCodec;

    const PARTY: Voice = Voice::Party { party: 0, offset: 0 };

    fn speech() -> Speech {
        Speech::encode(&[vec![100; 16_000], vec![-100; 16_000]], 8_000, LoadCodec::Pcmu).unwrap()
    }

    fn sequence(packet: &[u8]) -> u16 {
        u16::from_be_bytes([packet[2], packet[3]])
    }

    fn timestamp(packet: &[u8]) -> u32 {
        u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]])
    }

    fn run(trouble: Trouble, count: usize) -> (Vec<Vec<u8>>, StreamCount) {
        let (speech, mut sent) = (speech(), Vec::new());
        let mut stream = Packetizer::new(PARTY, trouble, 9);
        (0..count).for_each(|_| stream.advance(&speech, |packet| sent.push(packet.to_vec())));
        (sent, stream.count())
    }

    #[test]
    fn numbers_and_times_go_on_one_by_one() {
        let (sent, count) = run(Trouble::default(), 100_000);
        assert_eq!((count.packets, count.octets, count.lost), (100_000, 16_000_000, 0));
        assert_eq!(sent[0][..2], [0x80, 0x80]);
        assert_eq!(sent[1][..2], [0x80, 0]);
        for pair in sent.windows(2) {
            assert_eq!(sequence(&pair[1]), sequence(&pair[0]).wrapping_add(1));
            assert_eq!(timestamp(&pair[1]), timestamp(&pair[0]).wrapping_add(160));
        }
    }

    #[test]
    fn trouble_comes_at_its_rate_and_what_is_lost_leaves_a_hole() {
        let (sent, count) = run(Trouble { loss: 0.1, ..Trouble::default() }, 10_000);
        assert!((850..1_150).contains(&count.lost), "{count:?}");
        assert_eq!(sent.len() as u64 + count.lost, 10_000);
        let (sent, _) = run(Trouble { reorder: 0.1, ..Trouble::default() }, 10_000);
        let back = sent.windows(2).filter(|pair| sequence(&pair[1]) == sequence(&pair[0]).wrapping_sub(1)).count();
        assert!((750..1_050).contains(&back), "{back}");
        let (sent, _) = run(Trouble { duplicate: 0.05, ..Trouble::default() }, 10_000);
        assert!((10_400..10_600).contains(&sent.len()), "{}", sent.len());
    }

    #[test]
    fn a_report_ties_the_clocks_together() {
        let (speech, mut stream) = (speech(), Packetizer::new(PARTY, Trouble::default(), 9));
        let mut first = Vec::new();
        stream.advance(&speech, |packet| first = packet.to_vec());
        let wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        let report = stream.report(&speech, wall, Duration::from_secs(2), "load@a", true);
        assert_eq!(report[..4], [0x80, 200, 0, 6]);
        assert_eq!(report[8..12], 2_208_988_801_u32.to_be_bytes());
        assert_eq!(report[12..16], 0x8000_0000_u32.to_be_bytes());
        let ticks = u32::from_be_bytes(report[16..20].try_into().unwrap()).wrapping_sub(timestamp(&first));
        assert_eq!(ticks, 16_000);
        assert_eq!(report[20..24], 1_u32.to_be_bytes());
        assert_eq!(report.len() % 4, 0);
        assert_eq!(report[28..32], [0x81, 202, 0, 4]);
        assert_eq!(report[report.len() - 8..report.len() - 4], [0x81, 203, 0, 1]);
    }
}
