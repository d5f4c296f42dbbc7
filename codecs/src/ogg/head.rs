//! The identification header of an Opus stream (RFC 7845 5.1).

/// The fields of an OpusHead packet that a player needs (RFC 7845 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpusHead {
    /// Channels of the output.
    pub channels: u8,
    /// Samples at 48 kHz to drop at the beginning.
    pub pre_skip: u16,
    /// Channel mapping family.
    pub family: u8,
    /// Streams in each packet.
    pub streams: u8,
    /// Streams that are stereo.
    pub coupled: u8,
}

impl OpusHead {
    /// Reads the packet; `None` when it is not an OpusHead that we know.
    pub fn read(packet: &[u8]) -> Option<OpusHead> {
        let fields = packet.strip_prefix(b"OpusHead")?;
        if fields.len() < 11 || fields[0] >> 4 != 0 {
            return None;
        }
        let (channels, family) = (fields[1], fields[10]);
        let (streams, coupled) =
            if family == 0 { (1, channels.saturating_sub(1)) } else { (*fields.get(11)?, *fields.get(12)?) };
        Some(OpusHead { channels, pre_skip: u16::from_le_bytes([fields[2], fields[3]]), family, streams, coupled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_mapping_families_are_read_and_others_versions_refused() {
        let ours = b"OpusHead\x01\x02\x38\x01\x40\x1f\0\0\0\0\x01\x02\0\0\x01";
        assert_eq!(
            OpusHead::read(ours),
            Some(OpusHead { channels: 2, pre_skip: 312, family: 1, streams: 2, coupled: 0 })
        );
        let usual = b"OpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0";
        assert_eq!(
            OpusHead::read(usual),
            Some(OpusHead { channels: 2, pre_skip: 312, family: 0, streams: 1, coupled: 1 })
        );
        assert_eq!(OpusHead::read(&ours[..19]), None, "cut before the mapping");
        assert_eq!(OpusHead::read(b"OpusHead\x10\x02\x38\x01\x80\xbb\0\0\0\0\0"), None, "a version of the future");
        assert_eq!(OpusHead::read(b"OpusTags"), None);
    }
}
