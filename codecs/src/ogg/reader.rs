//! Pages into packets.

use std::collections::VecDeque;

use thiserror::Error;

use super::{CONTINUED, HEADER, LAST, crc};

/// The longest packet that the reader puts together.
const MAX_PACKET: usize = 1 << 20;

/// Damage in an Ogg stream.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OggError {
    /// The bytes at this offset are no page.
    #[error("no Ogg page at byte {at}")]
    NoPage {
        /// Offset of the bytes.
        at: u64,
    },
    /// A page's checksum is wrong.
    #[error("the Ogg page at byte {at} has a wrong checksum")]
    Checksum {
        /// Offset of the page.
        at: u64,
    },
    /// Pages are missing.
    #[error("Ogg page {wanted} is missing: page {found} follows")]
    Sequence {
        /// The page number that should have come.
        wanted: u32,
        /// The page number that came.
        found: u32,
    },
    /// A page of another stream.
    #[error("the Ogg page at byte {at} belongs to another stream")]
    Serial {
        /// Offset of the page.
        at: u64,
    },
    /// A packet's beginning or end is not on the page where it must be.
    #[error("the Ogg page at byte {at} does not go on where the one before it ended")]
    Continuation {
        /// Offset of the page.
        at: u64,
    },
    /// A packet of over 1 MiB.
    #[error("an Ogg packet is longer than 1 MiB")]
    TooLong,
    /// The bytes end before the stream does.
    #[error("the Ogg stream is cut: it ends after byte {at} without its last page")]
    Cut {
        /// Offset of the end of the last whole page.
        at: u64,
    },
}

/// A packet with where it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OggPacket {
    /// The packet's bytes.
    pub data: Vec<u8>,
    /// Granule position of the page that ended it, on the page's last packet.
    pub granule: Option<u64>,
    /// True for the stream's last packet.
    pub last: bool,
}

/// Reads one logical stream from bytes as they come.
///
/// Drained after each push it holds at most what was pushed last and one page
/// (64 KiB), plus a packet that spans pages (1 MiB).
#[derive(Debug, Default)]
pub struct OggReader {
    buffer: Vec<u8>,
    /// Where the next page begins in the buffer.
    start: usize,
    /// Where it begins in the stream.
    offset: u64,
    serial: Option<u32>,
    sequence: u32,
    /// A packet goes on from the page before.
    open: bool,
    ended: bool,
    partial: Vec<u8>,
    ready: VecDeque<OggPacket>,
}

/// The fields of a page that the reader needs.
struct Page {
    flags: u8,
    granule: u64,
    serial: u32,
    sequence: u32,
    lacing: usize,
    length: usize,
}

impl Page {
    /// The page at the beginning of `bytes`; `None` when it is not all there.
    fn read(bytes: &[u8], at: u64) -> Result<Option<Page>, OggError> {
        let known = bytes.len().min(5);
        if bytes[..known] != b"OggS\0"[..known] {
            return Err(OggError::NoPage { at });
        }
        let Some(header) = bytes.get(..HEADER) else { return Ok(None) };
        let segments = usize::from(header[26]);
        let Some(lacing) = bytes.get(HEADER..HEADER + segments) else { return Ok(None) };
        let length = HEADER + segments + lacing.iter().map(|&l| usize::from(l)).sum::<usize>();
        let Some(page) = bytes.get(..length) else { return Ok(None) };
        if crc(&[&page[..22], &[0; 4], &page[26..]]).to_le_bytes() != page[22..26] {
            return Err(OggError::Checksum { at });
        }
        let number = |range: std::ops::Range<usize>| {
            header[range].iter().rev().fold(0_u64, |value, &byte| (value << 8) | u64::from(byte))
        };
        Ok(Some(Page {
            flags: header[5],
            granule: number(6..14),
            serial: number(14..18) as u32,
            sequence: number(18..22) as u32,
            lacing: segments,
            length,
        }))
    }
}

impl OggReader {
    /// At the beginning of a stream.
    pub fn new() -> OggReader {
        OggReader::default()
    }

    /// Adds bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole packet; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`OggError`] names damage; nothing can be read after it.
    pub fn next_packet(&mut self) -> Result<Option<OggPacket>, OggError> {
        loop {
            if let Some(packet) = self.ready.pop_front() {
                return Ok(Some(packet));
            }
            if !self.read_page()? {
                return Ok(None);
            }
        }
    }

    /// Bytes that belong to no whole page yet.
    pub fn left_over(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Tells, when no more bytes will come, whether the stream was whole.
    ///
    /// # Errors
    /// [`OggError::Cut`] when its last page or a part of it is missing.
    pub fn finish(&self) -> Result<(), OggError> {
        if self.ended && !self.open && self.left_over() == 0 { Ok(()) } else { Err(OggError::Cut { at: self.offset }) }
    }

    fn read_page(&mut self) -> Result<bool, OggError> {
        let at = self.offset;
        let bytes = &self.buffer[self.start..];
        let Some(page) = Page::read(bytes, at)? else { return Ok(false) };
        if *self.serial.get_or_insert(page.serial) != page.serial {
            return Err(OggError::Serial { at });
        }
        if page.sequence != self.sequence {
            return Err(OggError::Sequence { wanted: self.sequence, found: page.sequence });
        }
        if (page.flags & CONTINUED != 0) != self.open {
            return Err(OggError::Continuation { at });
        }
        let (lacing, mut body) = bytes[HEADER..page.length].split_at(page.lacing);
        for &length in lacing {
            let (segment, rest) = body.split_at(usize::from(length));
            body = rest;
            self.partial.extend_from_slice(segment);
            if self.partial.len() > MAX_PACKET {
                return Err(OggError::TooLong);
            }
            self.open = length == 255;
            if !self.open {
                self.ready.push_back(OggPacket { data: std::mem::take(&mut self.partial), granule: None, last: false });
            }
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.ended = page.flags & LAST != 0;
        if let Some(packet) = self.ready.back_mut() {
            packet.granule = Some(page.granule);
            packet.last = self.ended;
        } else if self.ended {
            self.ready.push_back(OggPacket { data: Vec::new(), granule: Some(page.granule), last: true });
        }
        self.start += page.length;
        self.offset += page.length as u64;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ogg::{CAPTURE, OpusHead, OpusWriter};
    use proptest::prelude::*;

    fn file(packets: usize) -> Vec<u8> {
        let mut writer = OpusWriter::new(7);
        let mut out = Vec::new();
        writer.headers(8_000, &[("TITLE", "x")], &mut out);
        for n in 0..packets {
            writer.push(&vec![n as u8; 10 + n * 13 % 600], 960, &mut out);
            if n % 50 == 49 {
                writer.flush(&mut out);
            }
        }
        writer.finish(packets as u64 * 960 - 400, &mut out);
        out
    }

    fn read(bytes: &[u8], step: usize) -> Result<Vec<OggPacket>, OggError> {
        let (mut reader, mut packets) = (OggReader::new(), Vec::new());
        for part in bytes.chunks(step) {
            reader.push(part);
            while let Some(packet) = reader.next_packet()? {
                packets.push(packet);
            }
        }
        Ok(packets)
    }

    #[test]
    fn what_is_written_is_read_whatever_the_chunks() {
        let bytes = file(120);
        for step in [1, 7, 4_096, bytes.len()] {
            let packets = read(&bytes, step).unwrap();
            assert_eq!(packets.len(), 122);
            assert_eq!(packets[2 + 77].data, vec![77; 10 + 77 * 13 % 600]);
            let head = OpusHead::read(&packets[0].data).unwrap();
            assert_eq!(head, OpusHead { channels: 2, pre_skip: 312, family: 1, streams: 2, coupled: 0 });
            let last = packets.last().unwrap();
            assert!(last.last);
            assert_eq!(last.granule, Some(120 * 960 - 400 + 312));
        }
    }

    #[test]
    fn damage_is_named_with_its_place() {
        let bytes = file(120);
        let second = 4 + bytes[4..].windows(4).position(|w| w == CAPTURE).unwrap();
        let mut flipped = bytes.clone();
        flipped[second + 40] ^= 1;
        assert_eq!(read(&flipped, 999).unwrap_err(), OggError::Checksum { at: second as u64 });
        let third = second + 4 + bytes[second + 4..].windows(4).position(|w| w == CAPTURE).unwrap();
        let without = [&bytes[..second], &bytes[third..]].concat();
        assert_eq!(read(&without, 999).unwrap_err(), OggError::Sequence { wanted: 1, found: 2 });
        assert_eq!(read(b"RIFF", 999).unwrap_err(), OggError::NoPage { at: 0 });
        assert_eq!(read(&bytes[second..], 999).unwrap_err(), OggError::Sequence { wanted: 0, found: 1 });
        let mut other = Vec::new();
        OpusWriter::new(8).headers(8_000, &[], &mut other);
        let joined = [&bytes[..], &other].concat();
        assert_eq!(read(&joined, 999).unwrap_err(), OggError::Serial { at: bytes.len() as u64 });
    }

    #[test]
    fn a_cut_is_named_wherever_it_is() {
        let bytes = file(120);
        for end in [0, 1, 26, 60, 500, bytes.len() - 5, bytes.len() - 1] {
            let mut reader = OggReader::new();
            reader.push(&bytes[..end]);
            while reader.next_packet().unwrap().is_some() {}
            assert!(matches!(reader.finish(), Err(OggError::Cut { at }) if at <= end as u64), "cut at {end}");
        }
        // Between two pages nothing is left over, and still the last page is missing.
        let last = bytes.windows(4).rposition(|w| w == CAPTURE).unwrap();
        let mut reader = OggReader::new();
        reader.push(&bytes[..last]);
        while reader.next_packet().unwrap().is_some() {}
        assert_eq!((reader.left_over(), reader.finish()), (0, Err(OggError::Cut { at: last as u64 })));
        reader.push(&bytes[last..]);
        while reader.next_packet().unwrap().is_some() {}
        assert_eq!(reader.finish(), Ok(()));
    }

    /// A page with a right checksum, whatever else is wrong with it.
    fn page(flags: u8, sequence: u32, lacing: &[u8], body: &[u8]) -> Vec<u8> {
        let mut page = [
            &b"OggS\0"[..],
            &[flags],
            &[0; 8],
            &[7, 0, 0, 0],
            &sequence.to_le_bytes(),
            &[0; 4],
            &[lacing.len() as u8],
            lacing,
            body,
        ]
        .concat();
        let sum = crc(&[&page]);
        page[22..26].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn packets_over_pages_must_begin_and_go_on() {
        let begun = page(0, 0, &[255], &[1; 255]);
        let at = begun.len() as u64;
        let whole = [&begun[..], &page(CONTINUED | LAST, 1, &[2], &[2, 2])].concat();
        assert_eq!(read(&whole, 999).unwrap()[0].data.len(), 257);
        let dropped = [&begun[..], &page(0, 1, &[2], &[2, 2])].concat();
        assert_eq!(read(&dropped, 999).unwrap_err(), OggError::Continuation { at });
        assert_eq!(read(&page(CONTINUED, 0, &[2], &[2, 2]), 999).unwrap_err(), OggError::Continuation { at: 0 });
    }

    #[test]
    fn a_packet_without_end_is_given_up() {
        let endless: Vec<u8> = (0..20).flat_map(|n| page(u8::from(n > 0), n, &[255; 255], &[0; 65_025])).collect();
        assert_eq!(read(&endless, 4_096).unwrap_err(), OggError::TooLong);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, 64);
            let _ = read(&[&b"OggS\0"[..], &bytes].concat(), 64);
            let _ = OpusHead::read(&[&b"OpusHead"[..], &bytes].concat());
        }

        #[test]
        fn well_summed_nonsense_does_not_panic(
            pages in proptest::collection::vec((any::<u8>(), 0..3_u32, proptest::collection::vec(any::<u8>(), 0..6)), 1..5),
        ) {
            let bytes: Vec<u8> = pages.iter().flat_map(|(flags, sequence, lacing)| {
                let body = vec![0; lacing.iter().map(|&l| usize::from(l)).sum()];
                page(*flags, *sequence, lacing, &body)
            }).collect();
            let _ = read(&bytes, 100);
        }

        #[test]
        fn one_changed_byte_is_always_noticed(place in any::<proptest::sample::Index>(), change in 1..=255_u8) {
            let mut bytes = file(60);
            let place = place.index(bytes.len());
            bytes[place] ^= change;
            let mut reader = OggReader::new();
            reader.push(&bytes);
            let mut result = Ok(());
            loop {
                match reader.next_packet() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(damage) => { result = Err(damage); break }
                }
            }
            prop_assert!(result.and_then(|()| reader.finish()).is_err());
        }
    }
}
