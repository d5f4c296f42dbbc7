//! RTCP: sender and receiver reports, SDES and BYE (RFC 3550 6), compound or
//! reduced-size (RFC 5506), and of extended reports those that give the round trip (RFC 3611 4.4, 4.5).
//!
//! Reading is lenient: a compound packet is walked as far as its lengths hold,
//! unknown packet types are skipped, the rest is dropped without complaint.
//! We write a receiver report with our CNAME, a reference time to peers that speak RTCP, and a BYE at the end.

use crate::rtp::Ssrc;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
const EXTENDED_REPORT: u8 = 207;
/// Block type of a receiver reference time (RFC 3611 4.4).
const REFERENCE_TIME: u8 = 4;
/// Block type of the delay since it (RFC 3611 4.5).
const REFERENCE_DELAY: u8 = 5;
/// SDES item type of the canonical name.
const CNAME: u8 = 1;
/// Packets read of one datagram at most.
const MAX_PACKETS: usize = 32;

/// What we take from a peer's RTCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtcpItem<'a> {
    /// SR (RFC 3550 6.4.1).
    SenderReport(SenderReport),
    /// A canonical name from SDES (RFC 3550 6.5.1).
    Cname {
        /// Whose name.
        ssrc: Ssrc,
        /// Up to 255 bytes, opaque.
        name: &'a [u8],
    },
    /// BYE (RFC 3550 6.6).
    Bye {
        /// Who leaves.
        ssrc: Ssrc,
    },
    /// A peer's answer to a receiver reference time: a sub-block of DLRR (RFC 3611 4.5).
    Reference {
        /// Who sent the reference time.
        ssrc: Ssrc,
        /// The middle 32 bits of it (LRR); 0 if none came.
        reference: u32,
        /// Since it came, in 1/65536 s (DLRR).
        delay: u32,
    },
}

/// The sender part of an SR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderReport {
    /// Whose report.
    pub ssrc: Ssrc,
    /// NTP time of sending: seconds since 1900 in the upper half, 2^-32 s in the lower.
    pub ntp: u64,
    /// The same moment in the stream's RTP clock.
    pub rtp_timestamp: u32,
    /// Packets sent so far.
    pub packets: u32,
    /// Payload bytes sent so far.
    pub octets: u32,
}

impl SenderReport {
    /// The middle 32 bits of the NTP time, as a receiver report returns them (LSR).
    pub fn middle(&self) -> u32 {
        u32::try_from(self.ntp >> 16 & 0xffff_ffff).unwrap_or(0)
    }
}

/// Calls `found` with every item of a datagram; false when it is not RTCP at all.
pub fn parse<'a>(mut bytes: &'a [u8], mut found: impl FnMut(RtcpItem<'a>)) -> bool {
    let mut any = false;
    for _ in 0..MAX_PACKETS {
        let Some((&[first, kind, high, low], _)) = bytes.split_first_chunk::<4>() else { break };
        let length = (usize::from(u16::from_be_bytes([high, low])) + 1) * 4;
        if first >> 6 != 2 || !(192..=223).contains(&kind) {
            break;
        }
        let Some((packet, rest)) = bytes.split_at_checked(length) else { break };
        any = true;
        let body = packet.get(4..).unwrap_or_default();
        match kind {
            SENDER_REPORT => sender_report(body, &mut found),
            SOURCE_DESCRIPTION => source_description(body, first & 0x1f, &mut found),
            EXTENDED_REPORT => extended_report(body, &mut found),
            GOODBYE => {
                for ssrc in body.chunks_exact(4).take(usize::from(first & 0x1f)) {
                    found(RtcpItem::Bye { ssrc: Ssrc(word(ssrc)) });
                }
            }
            _ => {}
        }
        bytes = rest;
    }
    any
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk::<4>().map_or(0, |chunk| u32::from_be_bytes(*chunk))
}

fn sender_report<'a>(body: &[u8], found: &mut impl FnMut(RtcpItem<'a>)) {
    let Some(fields) = body.first_chunk::<24>() else { return };
    let at = |offset: usize| word(fields.get(offset..).unwrap_or_default());
    found(RtcpItem::SenderReport(SenderReport {
        ssrc: Ssrc(at(0)),
        ntp: u64::from(at(4)) << 32 | u64::from(at(8)),
        rtp_timestamp: at(12),
        packets: at(16),
        octets: at(20),
    }));
}

fn source_description<'a>(mut body: &'a [u8], chunks: u8, found: &mut impl FnMut(RtcpItem<'a>)) {
    for _ in 0..chunks {
        let Some((ssrc, mut items)) = body.split_first_chunk::<4>() else { return };
        let ssrc = Ssrc(u32::from_be_bytes(*ssrc));
        let start = items.len();
        while let Some((&[kind, length], rest)) = items.split_first_chunk::<2>() {
            if kind == 0 {
                break;
            }
            let Some((value, after)) = rest.split_at_checked(usize::from(length)) else { return };
            if kind == CNAME {
                found(RtcpItem::Cname { ssrc, name: value });
            }
            items = after;
        }
        // A chunk ends with at least one zero byte, filled up to a word.
        let used = (start - items.len() + 1).next_multiple_of(4);
        body = body.get(4 + used..).unwrap_or_default();
    }
}

/// Walks the blocks behind the sender's SSRC.
fn extended_report<'a>(body: &[u8], found: &mut impl FnMut(RtcpItem<'a>)) {
    let mut blocks = body.get(4..).unwrap_or_default();
    while let Some((&[kind, _, high, low], rest)) = blocks.split_first_chunk::<4>() {
        let Some((block, after)) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])) * 4) else {
            return;
        };
        if kind == REFERENCE_DELAY {
            for answer in block.chunks_exact(12) {
                let at = |offset: usize| word(answer.get(offset..).unwrap_or_default());
                found(RtcpItem::Reference { ssrc: Ssrc(at(0)), reference: at(4), delay: at(8) });
            }
        }
        blocks = after;
    }
}

/// One block of a receiver report (RFC 3550 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReportBlock {
    /// The source reported on.
    pub ssrc: Ssrc,
    /// Loss since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Expected less received, duplicates counted as received; 24 bits on the wire.
    pub cumulative_lost: i32,
    /// Extended highest sequence number.
    pub highest_sequence: u32,
    /// Interarrival jitter in ticks.
    pub jitter: u32,
    /// [`SenderReport::middle`] of the last SR, 0 if none.
    pub last_sender_report: u32,
    /// Since that SR, in 1/65536 s.
    pub delay_since_last: u32,
}

/// Appends a compound of RR and SDES with our CNAME, and a BYE when `bye`.
pub fn write_report(ours: Ssrc, block: Option<&ReportBlock>, cname: &str, bye: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x80 | u8::from(block.is_some()), RECEIVER_REPORT, 0, if block.is_some() { 7 } else { 1 }]);
    out.extend_from_slice(&ours.0.to_be_bytes());
    if let Some(block) = block {
        let lost = block.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff).to_be_bytes();
        out.extend_from_slice(&block.ssrc.0.to_be_bytes());
        out.push(block.fraction_lost);
        out.extend_from_slice(lost.get(1..).unwrap_or_default());
        for value in [block.highest_sequence, block.jitter, block.last_sender_report, block.delay_since_last] {
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
    let name = cname.as_bytes().get(..cname.len().min(255)).unwrap_or_default();
    let length = u8::try_from(name.len()).unwrap_or(255);
    let chunk = (4 + 2 + name.len() + 1).next_multiple_of(4);
    out.extend_from_slice(&[0x81, SOURCE_DESCRIPTION, 0, u8::try_from(chunk / 4).unwrap_or(0)]);
    out.extend_from_slice(&ours.0.to_be_bytes());
    out.extend_from_slice(&[CNAME, length]);
    out.extend_from_slice(name);
    out.resize(out.len() + chunk - 6 - name.len(), 0);
    if bye {
        out.extend_from_slice(&[0x81, GOODBYE, 0, 1]);
        out.extend_from_slice(&ours.0.to_be_bytes());
    }
}

/// Appends an extended report with our reference time, to be answered by [`RtcpItem::Reference`].
pub fn write_reference(ours: Ssrc, ntp: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x80, EXTENDED_REPORT, 0, 4]);
    out.extend_from_slice(&ours.0.to_be_bytes());
    out.extend_from_slice(&[REFERENCE_TIME, 0, 0, 2]);
    out.extend_from_slice(&ntp.to_be_bytes());
}

/// Appends a peer's answer to a reference time that came `delay` (in 1/65536 s) ago.
pub fn write_reference_answer(ours: Ssrc, about: Ssrc, reference: u32, delay: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x80, EXTENDED_REPORT, 0, 5]);
    out.extend_from_slice(&ours.0.to_be_bytes());
    out.extend_from_slice(&[REFERENCE_DELAY, 0, 0, 3]);
    for value in [about.0, reference, delay] {
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Appends a sender report, as a media source would send it.
pub fn write_sender_report(report: &SenderReport, cname: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x80, SENDER_REPORT, 0, 6]);
    out.extend_from_slice(&report.ssrc.0.to_be_bytes());
    out.extend_from_slice(&report.ntp.to_be_bytes());
    for value in [report.rtp_timestamp, report.packets, report.octets] {
        out.extend_from_slice(&value.to_be_bytes());
    }
    let mut tail = Vec::new();
    write_report(report.ssrc, None, cname, false, &mut tail);
    out.extend_from_slice(tail.get(8..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use proptest::prelude::*;

    fn items(bytes: &[u8]) -> Vec<String> {
        let mut all = Vec::new();
        parse(bytes, |item| all.push(format!("{item:?}")));
        all
    }

    #[test]
    fn a_sender_report_with_its_name_is_read() {
        let report =
            SenderReport { ssrc: Ssrc(5), ntp: 0x1122_3344_5566_7788, rtp_timestamp: 9, packets: 3, octets: 480 };
        let mut bytes = Vec::new();
        write_sender_report(&report, "a@host", &mut bytes);
        let mut seen = Vec::new();
        assert!(parse(&bytes, |item| seen.push(item)));
        assert_eq!(seen, [RtcpItem::SenderReport(report), RtcpItem::Cname { ssrc: Ssrc(5), name: b"a@host" }]);
        assert_eq!(report.middle(), 0x3344_5566);
    }

    #[test]
    fn reference_times_and_their_answers_have_the_shape_of_the_rfc() {
        let mut bytes = Vec::new();
        write_reference(Ssrc(7), 0x1122_3344_5566_7788, &mut bytes);
        let wanted = [0x80, 207, 0, 4, 0, 0, 0, 7, 4, 0, 0, 2, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
        assert_eq!(bytes, wanted);
        assert!(items(&bytes).is_empty(), "it asks, and tells nothing");
        let mut bytes = Vec::new();
        write_reference_answer(Ssrc(8), Ssrc(7), 0x3344_5566, 99, &mut bytes);
        // A statistics block before it, and one that claims more than there is behind it.
        let statistics = [[6, 0, 0, 1], [9; 4]].concat();
        bytes.splice(8..8, statistics);
        bytes[3] += 2 + 1;
        bytes.extend_from_slice(&[5, 0, 0, 3]);
        assert_eq!(items(&bytes), ["Reference { ssrc: Ssrc(7), reference: 860116326, delay: 99 }"]);
    }

    #[test]
    fn our_report_has_the_lengths_it_says() {
        for name in ["", "a", "ab", "abc", "abcd", "0123456789"] {
            for block in [None, Some(&ReportBlock { cumulative_lost: -2, ..ReportBlock::default() })] {
                let mut bytes = Vec::new();
                write_report(Ssrc(1), block, name, true, &mut bytes);
                assert_eq!(bytes.len() % 4, 0);
                let seen = items(&bytes);
                assert_eq!(seen.len(), 2, "{name} {seen:?}");
                assert!(seen[1].starts_with("Bye"));
            }
        }
        let mut bytes = Vec::new();
        write_report(
            Ssrc(1),
            Some(&ReportBlock { cumulative_lost: -2, ..ReportBlock::default() }),
            "x",
            false,
            &mut bytes,
        );
        assert_eq!(bytes[13..16], [0xff, 0xff, 0xfe]);
    }

    #[test]
    fn a_reduced_size_bye_and_foreign_types_pass() {
        assert_eq!(items(&[0x81, 203, 0, 1, 0, 0, 0, 9]), ["Bye { ssrc: Ssrc(9) }"]);
        assert_eq!(items(&[0x81, 205, 0, 0, 0x81, 203, 0, 1, 0, 0, 0, 9]).len(), 1);
        assert!(!parse(&[0x80, 0, 0, 0], |_| {}));
        // A length beyond the datagram: nothing more is read.
        assert!(items(&[0x81, 203, 0, 9, 0, 0, 0, 9]).is_empty());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 199_u8..208) {
            if let [first, second, ..] = bytes.as_mut_slice() {
                *first = *first & 0x3f | 0x80;
                *second = kind;
            }
            parse(&bytes, |_| {});
        }
    }
}
