//! L16: linear 16-bit PCM in network byte order, channels interleaved
//! (RFC 3551 4.5.11; payload types 10 and 11 are 44.1 kHz stereo and mono).

/// Bytes of one sampling instant.
fn frame_bytes(channels: u8) -> usize {
    2 * usize::from(channels.max(1))
}

/// Sampling instants in a payload; `None` when it ends in the middle of one.
pub fn samples(payload: &[u8], channels: u8) -> Option<usize> {
    let frame = frame_bytes(channels);
    payload.len().is_multiple_of(frame).then_some(payload.len() / frame)
}

/// Appends a payload's samples, channels mixed down to their mean. An incomplete
/// sampling instant at the end is left out.
pub fn decode(payload: &[u8], channels: u8, out: &mut Vec<i16>) {
    let channels_i32 = i32::from(channels.max(1));
    out.extend(payload.chunks_exact(frame_bytes(channels)).map(|frame| {
        let sum: i32 = frame.chunks_exact(2).map(|bytes| i32::from(i16::from_be_bytes([bytes[0], bytes[1]]))).sum();
        (sum / channels_i32) as i16
    }));
}

/// Appends the payload of mono samples.
pub fn encode(samples: &[i16], out: &mut Vec<u8>) {
    out.extend(samples.iter().flat_map(|sample| sample.to_be_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mono_comes_back_as_it_was() {
        let pcm = [0, 1, -1, 0x1234, i16::MAX, i16::MIN];
        let (mut payload, mut back) = (Vec::new(), Vec::new());
        encode(&pcm, &mut payload);
        assert_eq!(payload[6..8], [0x12, 0x34]);
        assert_eq!(samples(&payload, 1), Some(6));
        decode(&payload, 1, &mut back);
        assert_eq!(back, pcm);
    }

    #[test]
    fn stereo_is_the_mean_of_both_without_overflow() {
        let mut payload = Vec::new();
        encode(&[0x1000, 0x2000, i16::MAX, i16::MAX, i16::MIN, i16::MIN], &mut payload);
        let mut out = Vec::new();
        decode(&payload, 2, &mut out);
        assert_eq!(out, [0x1800, i16::MAX, i16::MIN]);
    }

    #[test]
    fn half_a_sampling_instant_is_noticed() {
        assert_eq!(samples(&[1, 2, 3], 1), None);
        assert_eq!(samples(&[1, 2, 3, 4, 5, 6], 2), None);
        assert_eq!(samples(&[], 2), Some(0));
    }
}
