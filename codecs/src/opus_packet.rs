//! Opus packets as bytes: durations, the canned silence, and two mono packets
//! as one packet of a two-stream Ogg file (RFC 6716 3 and Appendix B, RFC 7845 5.1.1).

use thiserror::Error;

/// A packet that does not follow RFC 6716 section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PacketError {
    /// No TOC byte.
    #[error("an Opus packet without a single byte")]
    Empty,
    /// Lengths inside the packet reach past its end.
    #[error("the Opus packet ends before its frames do")]
    Cut,
    /// More than 120 ms or more than 48 frames.
    #[error("the Opus packet lasts longer than 120 ms")]
    TooLong,
}

/// Samples at 48 kHz of one frame of a packet that starts with `toc`.
fn frame_samples_48k(toc: u8) -> u32 {
    let config = toc >> 3;
    match config {
        0..=11 => [480, 960, 1_920, 2_880][usize::from(config & 3)],
        12..=15 => [480, 960][usize::from(config & 1)],
        _ => [120, 240, 480, 960][usize::from(config & 3)],
    }
}

/// Samples at 48 kHz that a packet lasts.
///
/// # Errors
/// [`PacketError`] when the packet has no frame count or lasts too long.
pub fn samples_48k(packet: &[u8]) -> Result<u32, PacketError> {
    let toc = *packet.first().ok_or(PacketError::Empty)?;
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1).ok_or(PacketError::Cut)? & 63),
    };
    let samples = frames * frame_samples_48k(toc);
    if frames == 0 || samples > 5_760 { Err(PacketError::TooLong) } else { Ok(samples) }
}

/// Samples at 48 kHz before this packet that its forward error correction
/// (LBRR, RFC 6716 4.2.4) restores: those of one frame, or 0 when it carries none.
///
/// # Errors
/// [`PacketError`] when the packet is not well formed.
pub fn fec_samples_48k(packet: &[u8]) -> Result<u32, PacketError> {
    let toc = *packet.first().ok_or(PacketError::Empty)?;
    let body = &packet[1..];
    samples_48k(packet)?;
    if toc >> 3 >= 16 {
        return Ok(0); // CELT has no such thing.
    }
    let first_frame = match toc & 3 {
        0 | 1 => body,
        2 => body.get(read_length(body)?.1..).unwrap_or(&[]),
        _ => body.get(MultiFrame::read(body)?.header..).unwrap_or(&[]),
    };
    let Some(&flags) = first_frame.first() else { return Ok(0) };
    let frame = frame_samples_48k(toc);
    // One activity bit for each SILK frame of 20 ms (or the one of 10), then the LBRR bit; the side channel likewise.
    let silk_frames = (frame / 960).max(1);
    let mono = flags >> (7 - silk_frames) & 1 != 0;
    let side = toc & 4 != 0 && flags >> (6 - 2 * silk_frames) & 1 != 0;
    Ok(if mono || side { frame } else { 0 })
}

/// A mono packet of silence: a speech frame of the lowest gain, as libopus codes
/// digital silence at 8 or 16 kHz, for a frame of `frame_ms`.
///
/// It stays in the speech coder (SILK) on purpose. A CELT frame would be shorter
/// by half and exactly zero, but ffmpeg's own decoder loses half a millisecond
/// at every change between the two coders, and a conversation has hundreds.
pub fn silence(frame_ms: u32, rate: u32) -> &'static [u8] {
    let wide = rate > 8_000;
    match frame_ms {
        10 if wide => &[0x40, 0x07, 0xc9, 0x81, 0xff, 0x80],
        10 => &[0x00, 0x07, 0xc0, 0xa8, 0x80],
        40 if wide => &[0x50, 0x03, 0xe4, 0xbc, 0xe0, 0x94, 0x35, 0x62, 0x0c, 0xc9, 0x34, 0x40],
        40 => &[0x10, 0x03, 0xe3, 0x59, 0x87, 0x5e, 0x8e, 0x18, 0x10, 0x80],
        60 if wide => {
            &[0x58, 0x01, 0xf2, 0x5c, 0x89, 0x7d, 0x04, 0xb0, 0xf8, 0x37, 0x35, 0x1a, 0x05, 0x1e, 0xad, 0xf7, 0xc0]
        }
        60 => &[0x18, 0x01, 0xf1, 0xac, 0x59, 0x63, 0x45, 0x0b, 0x6b, 0xb3, 0x36, 0xbd, 0x10, 0xd2],
        _ if wide => &[0x48, 0x07, 0xc9, 0x7d, 0x8e, 0xc8, 0x58],
        _ => &[0x08, 0x07, 0xc6, 0xb3, 0xe3, 0x1a],
    }
}

/// A mono packet of exact digital silence: a CELT frame whose silence flag is
/// set. For pauses, in which nothing may be heard; a decoder cross-fades to zeros.
pub fn true_silence(frame_ms: u32) -> &'static [u8] {
    match frame_ms {
        10 => &[0xf0, 0xff, 0xfe],
        40 => &[0xf9, 0xff, 0xfe, 0xff, 0xfe],
        60 => &[0xfb, 0x03, 0xff, 0xfe, 0xff, 0xfe, 0xff, 0xfe],
        _ => &[0xf8, 0xff, 0xfe],
    }
}

/// Appends `packet` in self-delimiting form (RFC 6716 Appendix B).
///
/// # Errors
/// [`PacketError`] when the packet is not well formed.
pub fn self_delimit(packet: &[u8], out: &mut Vec<u8>) -> Result<(), PacketError> {
    let toc = *packet.first().ok_or(PacketError::Empty)?;
    let body = &packet[1..];
    match toc & 3 {
        0 => {
            out.push(toc);
            push_length(body.len(), out);
            out.extend_from_slice(body);
        }
        1 => {
            if !body.len().is_multiple_of(2) {
                return Err(PacketError::Cut);
            }
            out.push(toc);
            push_length(body.len() / 2, out);
            out.extend_from_slice(body);
        }
        2 => {
            let (first, used) = read_length(body)?;
            let last = body.len().checked_sub(used + first).ok_or(PacketError::Cut)?;
            out.push(toc);
            out.extend_from_slice(&body[..used]);
            push_length(last, out);
            out.extend_from_slice(&body[used..]);
        }
        _ => {
            let layout = MultiFrame::read(body)?;
            let data = body.len().checked_sub(layout.header + layout.padding).ok_or(PacketError::Cut)?;
            let last = if layout.vbr {
                data.checked_sub(layout.sum_but_last).ok_or(PacketError::Cut)?
            } else {
                if !data.is_multiple_of(layout.frames) {
                    return Err(PacketError::Cut);
                }
                data / layout.frames
            };
            out.push(toc);
            out.extend_from_slice(&body[..layout.header]);
            push_length(last, out);
            out.extend_from_slice(&body[layout.header..]);
        }
    }
    Ok(())
}

/// Splits a packet of a file with two streams: the first one back in plain
/// form, the second as it lies there.
///
/// # Errors
/// [`PacketError`] when the first packet is not well formed.
pub fn split_two(packet: &[u8]) -> Result<(Vec<u8>, &[u8]), PacketError> {
    let toc = *packet.first().ok_or(PacketError::Empty)?;
    let body = &packet[1..];
    let (header, data) = match toc & 3 {
        0 => {
            let (length, used) = read_length(body)?;
            (Span { plain: 0, skipped: used }, length)
        }
        1 => {
            let (length, used) = read_length(body)?;
            (Span { plain: 0, skipped: used }, 2 * length)
        }
        2 => {
            let (first, plain) = read_length(body)?;
            let (last, skipped) = read_length(&body[plain..])?;
            (Span { plain, skipped }, first + last)
        }
        _ => {
            let layout = MultiFrame::read(body)?;
            let (last, skipped) = read_length(&body[layout.header..])?;
            let data = if layout.vbr { layout.sum_but_last + last } else { last * layout.frames };
            (Span { plain: layout.header, skipped }, data + layout.padding)
        }
    };
    let start = header.plain + header.skipped;
    let end = start.checked_add(data).ok_or(PacketError::Cut)?;
    let frames = body.get(start..end).ok_or(PacketError::Cut)?;
    let mut first = Vec::with_capacity(1 + header.plain + frames.len());
    first.push(toc);
    first.extend_from_slice(&body[..header.plain]);
    first.extend_from_slice(frames);
    Ok((first, &body[end..]))
}

/// Header bytes that stay, and length bytes that only the self-delimiting form has.
struct Span {
    plain: usize,
    skipped: usize,
}

/// The header of a code 3 packet, after the TOC.
struct MultiFrame {
    frames: usize,
    vbr: bool,
    header: usize,
    padding: usize,
    sum_but_last: usize,
}

impl MultiFrame {
    fn read(body: &[u8]) -> Result<MultiFrame, PacketError> {
        let count = *body.first().ok_or(PacketError::Cut)?;
        let frames = usize::from(count & 63);
        if frames == 0 || frames > 48 {
            return Err(PacketError::TooLong);
        }
        let mut at = 1;
        let mut padding = 0;
        if count & 0x40 != 0 {
            loop {
                let byte = *body.get(at).ok_or(PacketError::Cut)?;
                at += 1;
                if byte < 255 {
                    padding += usize::from(byte);
                    break;
                }
                padding += 254;
            }
        }
        let vbr = count & 0x80 != 0;
        let mut sum_but_last = 0;
        if vbr {
            for _ in 1..frames {
                let (length, used) = read_length(body.get(at..).unwrap_or(&[]))?;
                at += used;
                sum_but_last += length;
            }
        }
        Ok(MultiFrame { frames, vbr, header: at, padding, sum_but_last })
    }
}

/// A frame length of one or two bytes (RFC 6716 3.2.1), and how many bytes it took.
fn read_length(bytes: &[u8]) -> Result<(usize, usize), PacketError> {
    match bytes {
        [first, ..] if *first < 252 => Ok((usize::from(*first), 1)),
        [first, second, ..] => Ok((usize::from(*second) * 4 + usize::from(*first), 2)),
        _ => Err(PacketError::Cut),
    }
}

fn push_length(length: usize, out: &mut Vec<u8>) {
    if length < 252 {
        out.push(length as u8);
    } else {
        let low = 252 + (length & 3);
        out.push(low as u8);
        out.push(((length - low) / 4) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(packet: &[u8]) {
        let mut joined = Vec::new();
        self_delimit(packet, &mut joined).unwrap();
        joined.extend_from_slice(b"second");
        let (first, second) = split_two(&joined).unwrap();
        assert_eq!(first, packet);
        assert_eq!(second, b"second");
    }

    #[test]
    fn every_packet_code_goes_there_and_back() {
        let long = vec![7_u8; 300];
        round_trip(&[0x08]);
        round_trip(&[&[0x08][..], &long].concat());
        round_trip(&[0x09, 1, 2, 3, 4]);
        round_trip(&[0x0a, 1, 1, 2, 3, 4]);
        round_trip(&[&[0x0a, 253, 1][..], &long].concat());
        round_trip(&[0x0b, 0x03, 1, 2, 3]);
        round_trip(&[0x0b, 0x83, 1, 2, 9, 8, 8, 7]);
        round_trip(&[0x0b, 0x42, 2, 1, 2, 3, 4, 0, 0]);
    }

    #[test]
    fn silence_lasts_one_frame() {
        for (frame_ms, samples) in [(10, 480), (20, 960), (40, 1_920), (60, 2_880)] {
            assert_eq!(samples_48k(true_silence(frame_ms)), Ok(samples));
            for rate in [8_000, 16_000] {
                assert_eq!(samples_48k(silence(frame_ms, rate)), Ok(samples));
                round_trip(silence(frame_ms, rate));
            }
        }
    }

    #[test]
    fn error_correction_is_seen_in_the_flags_of_the_first_frame() {
        assert_eq!(fec_samples_48k(&[0x48, 0b1100_0000]), Ok(960));
        assert_eq!(fec_samples_48k(&[0x48, 0b1011_1111]), Ok(0));
        assert_eq!(fec_samples_48k(&[0x58, 0b1111_0000]), Ok(2_880));
        assert_eq!(fec_samples_48k(&[0x58, 0b1110_1111]), Ok(0));
        assert_eq!(fec_samples_48k(&[0x4c, 0b0001_0000]), Ok(960), "of the side channel");
        assert_eq!(fec_samples_48k(&[0x4a, 1, 0b0100_0000, 9]), Ok(960));
        assert_eq!(fec_samples_48k(&[0x4b, 0x83, 1, 1, 0b0100_0000, 0, 0]), Ok(960));
        assert_eq!(fec_samples_48k(&[0xf8, 0xff, 0xfe]), Ok(0));
        assert_eq!(fec_samples_48k(&[0x48]), Ok(0));
    }

    #[test]
    fn cut_packets_are_named() {
        assert_eq!(samples_48k(&[]), Err(PacketError::Empty));
        assert_eq!(samples_48k(&[0x0b]), Err(PacketError::Cut));
        assert_eq!(samples_48k(&[0x1b, 48]), Err(PacketError::TooLong));
        assert_eq!(split_two(&[0x08, 200, 1]).unwrap_err(), PacketError::Cut);
        assert_eq!(self_delimit(&[0x09, 1], &mut Vec::new()), Err(PacketError::Cut));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = samples_48k(&bytes);
            let _ = fec_samples_48k(&bytes);
            let _ = split_two(&bytes);
            let mut out = Vec::new();
            if self_delimit(&bytes, &mut out).is_ok() {
                let (first, rest) = split_two(&out).unwrap();
                prop_assert_eq!(first, bytes);
                prop_assert!(rest.is_empty());
            }
        }
    }
}
