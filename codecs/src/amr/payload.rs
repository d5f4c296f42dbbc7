//! The RTP payload of AMR and AMR-WB (RFC 4867): one channel, without CRC, robust sorting and interleaving.
//!
//! ```text
//! bandwidth-efficient   CMR 4 | F FT Q 6 | F FT Q 6 | ... | speech bits | speech bits | ... | padding to a byte
//! octet-aligned         CMR 4, 0 | F FT Q 0 | F FT Q 0 | ... | speech bits, padding | speech bits, padding | ...
//! stored                FT << 3 | Q << 2, speech bits, padding
//! ```
//!
//! F says that another entry of the table follows, FT is the rate, Q is 0 for a frame that was damaged on its way to the
//! sender. The bits of a frame are in the same order in all three. What the sender would like to get (CMR) is none of a
//! recorder's business. A payload whose length is not exactly that of its table is refused, as is one with a rate that
//! the codec does not have: it is most likely packed in the other way than agreed.

/// Bytes of a stored frame that is long enough for every rate of both codecs (61), and what no decoder reads beyond.
pub(super) const STORED: usize = 64;
/// Speech bits of the rates of AMR; the last describes silence.
const NARROW: [usize; 9] = [95, 103, 118, 134, 148, 159, 204, 244, 39];
/// Speech bits of the rates of AMR-WB; the last describes silence.
const WIDE: [usize; 10] = [132, 177, 253, 285, 317, 365, 397, 461, 477, 40];
/// Speech that was lost before it reached the sender (AMR-WB only).
const SPEECH_LOST: u8 = 14;
/// Nothing was sent.
const NO_DATA: u8 = 15;

/// Which codec, and how it is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// AMR-WB, else AMR.
    pub wideband: bool,
    /// `octet-align=1` was agreed, else bandwidth-efficient.
    pub octet_aligned: bool,
}

impl Format {
    /// Samples of a frame, which is 20 ms.
    pub fn frame_samples(self) -> usize {
        if self.wideband { 320 } else { 160 }
    }

    /// Speech bits of a frame; `None` for a frame type that the codec does not have.
    fn speech_bits(self, frame_type: u8) -> Option<usize> {
        let rates: &[usize] = if self.wideband { &WIDE } else { &NARROW };
        match frame_type {
            NO_DATA => Some(0),
            SPEECH_LOST if self.wideband => Some(0),
            _ => rates.get(usize::from(frame_type)).copied(),
        }
    }

    /// The frame type that describes silence.
    fn silence(self) -> u8 {
        if self.wideband { 9 } else { 8 }
    }

    /// Bits that a frame takes in a payload.
    fn packed_bits(self, speech_bits: usize) -> usize {
        if self.octet_aligned { speech_bits.next_multiple_of(8) } else { speech_bits }
    }

    /// Where the `number`-th entry of the table begins, in bits.
    fn entry_at(self, number: usize) -> usize {
        if self.octet_aligned { 8 + 8 * number } else { 4 + 6 * number }
    }
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// 20 ms of speech.
    Speech,
    /// A description of silence.
    Silence,
    /// Nothing was sent: the silence goes on.
    Nothing,
    /// Lost or damaged.
    Bad,
}

/// A frame as the decoders take it. Only this module makes any, so that the frame type in the first byte is always one
/// that the codec has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    stored: [u8; STORED],
    content: Content,
}

impl Frame {
    /// A frame that did not come.
    pub(super) fn none() -> Frame {
        Frame::empty(Content::Bad)
    }

    fn empty(content: Content) -> Frame {
        let mut stored = [0; STORED];
        stored[0] = NO_DATA << 3 | 1 << 2;
        Frame { stored, content }
    }

    /// Header byte, then the bits from the top; zeros after them.
    pub(super) fn stored(&self) -> &[u8; STORED] {
        &self.stored
    }

    /// What it is.
    pub(super) fn content(&self) -> Content {
        self.content
    }
}

/// An entry of the table of contents.
struct Entry {
    more: bool,
    frame_type: u8,
    good: bool,
    speech_bits: usize,
}

/// A payload whose table of contents is in order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Payload<'a> {
    bytes: &'a [u8],
    format: Format,
    frames: usize,
}

impl<'a> Payload<'a> {
    /// `None` for what cannot be a payload of this format.
    pub(super) fn read(bytes: &'a [u8], format: Format) -> Option<Payload<'a>> {
        let mut payload = Payload { bytes, format, frames: 0 };
        let mut speech = 0;
        loop {
            let entry = payload.entry(payload.frames)?;
            speech += format.packed_bits(entry.speech_bits);
            payload.frames += 1;
            if !entry.more {
                break;
            }
        }
        let whole = (format.entry_at(payload.frames) + speech).div_ceil(8) == bytes.len();
        whole.then_some(payload)
    }

    /// Number of frames, at least one.
    pub(super) fn len(&self) -> usize {
        self.frames
    }

    /// The frames in their order.
    pub(super) fn frames(self) -> impl Iterator<Item = Frame> + use<'a> {
        let mut at = self.format.entry_at(self.frames);
        (0..self.frames).map_while(move |number| {
            let entry = self.entry(number)?;
            let frame = self.frame(&entry, at);
            at += self.format.packed_bits(entry.speech_bits);
            Some(frame)
        })
    }

    fn entry(&self, number: usize) -> Option<Entry> {
        let at = self.format.entry_at(number);
        if at + 6 > self.bytes.len() * 8 {
            return None;
        }
        let bits = eight_bits(self.bytes, at);
        let frame_type = bits >> 3 & 0x0f;
        let speech_bits = self.format.speech_bits(frame_type)?;
        Some(Entry { more: bits & 0x80 != 0, frame_type, good: bits & 0x04 != 0, speech_bits })
    }

    fn frame(&self, entry: &Entry, at: usize) -> Frame {
        match entry.frame_type {
            NO_DATA => return Frame::empty(Content::Nothing),
            SPEECH_LOST => return Frame::none(),
            _ if !entry.good => return Frame::none(),
            _ => {}
        }
        let mut stored = [0; STORED];
        stored[0] = entry.frame_type << 3 | 1 << 2;
        let bytes = entry.speech_bits.div_ceil(8);
        for (number, byte) in stored.iter_mut().skip(1).take(bytes).enumerate() {
            *byte = eight_bits(self.bytes, at + 8 * number);
        }
        // What follows in the last byte is the next frame's, or padding.
        if let Some(last) = stored.get_mut(bytes) {
            *last &= 0xff << (8 * bytes - entry.speech_bits);
        }
        let content = if entry.frame_type == self.format.silence() { Content::Silence } else { Content::Speech };
        Frame { stored, content }
    }
}

/// The eight bits from bit `at` on; zeros beyond the end.
fn eight_bits(bytes: &[u8], at: usize) -> u8 {
    let byte = |number: usize| bytes.get(number).copied().unwrap_or(0);
    let pair = u16::from_be_bytes([byte(at / 8), byte(at / 8 + 1)]);
    (pair << (at % 8)).to_be_bytes()[0]
}

#[cfg(test)]
pub(super) mod tests;
