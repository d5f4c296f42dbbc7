//! Packets into pages.

use super::{CAPTURE, CONTINUED, FIRST, HEADER, LAST, MAX_LACING, NO_GRANULE, crc};
use crate::opus::PRE_SKIP_48K;

/// Writes one logical stream of two mono Opus streams.
#[derive(Debug)]
pub struct OpusWriter {
    serial: u32,
    sequence: u32,
    /// End of the last packet pushed, at 48 kHz, pre-skip included.
    granule: u64,
    lacing: Vec<u8>,
    body: Vec<u8>,
    /// The page begins in the middle of a packet.
    continued: bool,
}

impl OpusWriter {
    /// A stream with this serial number.
    pub fn new(serial: u32) -> OpusWriter {
        OpusWriter { serial, sequence: 0, granule: 0, lacing: Vec::new(), body: Vec::new(), continued: false }
    }

    /// Appends both header pages. `input_rate` is informative, in Hz; each tag is `KEY=value`.
    pub fn headers(&mut self, input_rate: u32, tags: &[(&str, &str)], out: &mut Vec<u8>) {
        let mut head = Vec::with_capacity(21);
        head.extend_from_slice(b"OpusHead");
        head.push(1);
        head.push(2);
        head.extend_from_slice(&PRE_SKIP_48K.to_le_bytes());
        head.extend_from_slice(&input_rate.to_le_bytes());
        head.extend_from_slice(&0_i16.to_le_bytes());
        head.extend_from_slice(&[1, 2, 0, 0, 1]);
        self.push_bytes(&head, out);
        self.page(FIRST, 0, out);

        let mut comment = Vec::new();
        comment.extend_from_slice(b"OpusTags");
        push_string("Ferric", &mut comment);
        comment.extend_from_slice(&(tags.len() as u32).to_le_bytes());
        for (key, value) in tags {
            push_string(&format!("{key}={value}"), &mut comment);
        }
        self.push_bytes(&comment, out);
        self.page(0, 0, out);
    }

    /// Puts a packet of `samples_48k` on the page; a full page is appended to `out` first.
    pub fn push(&mut self, packet: &[u8], samples_48k: u32, out: &mut Vec<u8>) {
        if self.lacing.len() + packet.len() / 255 + 1 > MAX_LACING {
            self.flush(out);
        }
        self.push_bytes(packet, out);
        self.granule += u64::from(samples_48k);
    }

    /// Appends the page begun, if it holds anything.
    pub fn flush(&mut self, out: &mut Vec<u8>) {
        if !self.lacing.is_empty() {
            self.page(0, self.granule, out);
        }
    }

    /// Ends the stream after `length_48k` samples of audio (pre-skip not
    /// counted); what the packets hold beyond is cut by players.
    pub fn finish(&mut self, length_48k: u64, out: &mut Vec<u8>) {
        let end = (length_48k + u64::from(PRE_SKIP_48K)).min(self.granule);
        self.page(LAST, end, out);
    }

    /// Audio pushed so far at 48 kHz, pre-skip included.
    pub fn granule(&self) -> u64 {
        self.granule
    }

    /// A packet of 64 KiB and more goes on over further pages.
    fn push_bytes(&mut self, packet: &[u8], out: &mut Vec<u8>) {
        let end: &[u8] = &[];
        let whole = packet.len().is_multiple_of(255);
        for segment in packet.chunks(255).chain(whole.then_some(end)) {
            if self.lacing.len() == MAX_LACING {
                self.page(0, NO_GRANULE, out);
                self.continued = true;
            }
            self.lacing.push(segment.len() as u8);
            self.body.extend_from_slice(segment);
        }
    }

    fn page(&mut self, flags: u8, granule: u64, out: &mut Vec<u8>) {
        let mut header = [0_u8; HEADER];
        header[..4].copy_from_slice(CAPTURE);
        header[5] = flags | if std::mem::take(&mut self.continued) { CONTINUED } else { 0 };
        header[6..14].copy_from_slice(&granule.to_le_bytes());
        header[14..18].copy_from_slice(&self.serial.to_le_bytes());
        header[18..22].copy_from_slice(&self.sequence.to_le_bytes());
        header[26] = self.lacing.len() as u8;
        let sum = crc(&[&header, &self.lacing, &self.body]);
        header[22..26].copy_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.lacing);
        out.extend_from_slice(&self.body);
        self.sequence = self.sequence.wrapping_add(1);
        self.lacing.clear();
        self.body.clear();
    }
}

fn push_string(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ogg::{OggPacket, OggReader};

    fn read(bytes: &[u8]) -> Vec<OggPacket> {
        let (mut reader, mut packets) = (OggReader::new(), Vec::new());
        reader.push(bytes);
        while let Some(packet) = reader.next_packet().unwrap() {
            packets.push(packet);
        }
        reader.finish().unwrap();
        packets
    }

    #[test]
    fn packets_of_every_length_around_the_limits_come_back() {
        for length in [0, 1, 254, 255, 256, 510, 65_024, 65_025, 65_026, 65_280, 200_000] {
            let mut writer = OpusWriter::new(1);
            let mut out = Vec::new();
            writer.headers(8_000, &[], &mut out);
            writer.push(&[1; 60], 960, &mut out);
            writer.push(&vec![2; length], 960, &mut out);
            writer.push(&[3; 60], 960, &mut out);
            writer.finish(2_880 - 312, &mut out);
            let packets = read(&out);
            assert_eq!(packets.len(), 5, "{length}");
            assert_eq!(packets[3].data, vec![2; length]);
            assert_eq!(packets[4].data, vec![3; 60]);
            assert_eq!(packets[4].granule, Some(2_880));
        }
    }

    #[test]
    fn tags_longer_than_a_page_do_not_break_the_file() {
        let mut writer = OpusWriter::new(1);
        let (mut out, long) = (Vec::new(), "x".repeat(70_000));
        writer.headers(8_000, &[("COMMENT", &long)], &mut out);
        writer.push(&[1; 60], 960, &mut out);
        writer.finish(600, &mut out);
        let packets = read(&out);
        let second = out[4..].windows(4).position(|w| w == CAPTURE).map(|at| at + 4).unwrap();
        assert_eq!(out[second + 6..second + 14], [0xff; 8], "no packet ends on this page");
        assert!(packets[1].data.starts_with(b"OpusTags\x06\0\0\0Ferric\x01\0\0\0"));
        assert!(packets[1].data.ends_with(b"xxx"));
        assert_eq!(packets[1].granule, Some(0));
        assert_eq!(packets[2].granule, Some(600 + 312));
    }

    #[test]
    fn the_checksum_follows_the_polynomial_of_rfc_3533() {
        // An empty page with all fields zero; the sum was worked out bit by bit.
        let mut out = Vec::new();
        OpusWriter::new(0).page(0, 0, &mut out);
        assert_eq!(out.len(), HEADER);
        assert_eq!(out[22..26], [0x11, 0xa5, 0xa1, 0x9e]);
    }
}
