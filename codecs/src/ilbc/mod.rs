//! iLBC, the decoder: 38 bytes for 20 ms or 50 bytes for 30 ms at 8 kHz (RFC 3951, RFC 3952).
//!
//! ```text
//! bits -> parameters -> spectra -> a filter for each sub-frame -------------.
//!             `-> start state, codebook -> residual -> enhancer -> synthesis -> high pass -> samples
//! lost     -> the last residual, repeated and faded -'
//! ```
//!
//! In floating point, as the RFC's own code; nothing of a frame's residual depends on the frame before. The output is
//! late by 40 samples (20 ms frames) or 80 (30 ms frames), for which the enhancer looks ahead.

mod bits;
mod codebook;
mod conceal;
mod enhancer;
mod lsf;
mod tables;

use codebook::{FRAME_MOST, SUB_FRAME};
use conceal::Concealment;
use enhancer::Enhancer;
use lsf::{Filter, Spectra};
use tables::{ORDER, OUTPUT_POLES, OUTPUT_ZEROS};

/// A gap is silent from here on: 120 ms.
const SILENT: usize = 960;
/// Cross-fade from a concealment that was cut short.
const JOIN: usize = 32;

/// The two lengths of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FrameSize {
    Ms20,
    Ms30,
}

impl FrameSize {
    /// As agreed in SDP: 20, else 30 ms.
    fn agreed(frame_ms: u8) -> FrameSize {
        if frame_ms == 20 { FrameSize::Ms20 } else { FrameSize::Ms30 }
    }

    /// Of a payload: as agreed, or what its length says.
    fn of(payload: &[u8], agreed: FrameSize) -> Option<FrameSize> {
        let other = if agreed == FrameSize::Ms20 { FrameSize::Ms30 } else { FrameSize::Ms20 };
        [agreed, other].into_iter().find(|size| !payload.is_empty() && payload.len().is_multiple_of(size.bytes()))
    }

    fn bytes(self) -> usize {
        if self == FrameSize::Ms20 { 38 } else { 50 }
    }

    fn samples(self) -> usize {
        self.sub_frames() * SUB_FRAME
    }

    fn sub_frames(self) -> usize {
        if self == FrameSize::Ms20 { 4 } else { 6 }
    }

    /// Spectra in a frame.
    fn spectra(self) -> usize {
        if self == FrameSize::Ms20 { 1 } else { 2 }
    }

    /// Samples of the start state that are coded one by one.
    fn state_samples(self) -> usize {
        if self == FrameSize::Ms20 { 57 } else { 58 }
    }

    /// Samples by which the enhancer is late.
    fn delay(self) -> usize {
        if self == FrameSize::Ms20 { 40 } else { 80 }
    }
}

/// Samples of a payload; `None` when its length cannot be.
pub fn samples(payload: &[u8], frame_ms: u8) -> Option<usize> {
    let size = FrameSize::of(payload, FrameSize::agreed(frame_ms))?;
    Some(payload.len() / size.bytes() * size.samples())
}

/// The decoder of one source.
#[derive(Debug, Clone)]
pub struct Decoder {
    agreed: FrameSize,
    /// Of the frame that came last.
    size: FrameSize,
    spectra: Spectra,
    enhancer: Enhancer,
    /// The pitch's lag at the end of the last frame.
    lag: usize,
    gap: Concealment,
    /// Filters of the last two sub-frames.
    filters: [Filter; 2],
    synthesis: [f32; ORDER],
    high_pass: HighPass,
    /// Concealed samples that nobody has asked for yet.
    spare: Vec<i16>,
}

impl Decoder {
    /// For frames of 20 or 30 ms, unless a payload's length says otherwise.
    pub fn new(frame_ms: u8) -> Decoder {
        let agreed = FrameSize::agreed(frame_ms);
        Decoder {
            agreed,
            size: agreed,
            spectra: Spectra::default(),
            enhancer: Enhancer::default(),
            lag: 20,
            gap: Concealment::default(),
            filters: [[0.0; ORDER]; 2],
            synthesis: [0.0; ORDER],
            high_pass: HighPass::default(),
            spare: Vec::new(),
        }
    }

    /// Appends the samples of a payload, which is one or more whole frames; nothing for another length.
    pub fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) {
        let Some(size) = FrameSize::of(payload, self.agreed) else { return };
        self.size = size;
        for frame in payload.chunks_exact(size.bytes()) {
            self.decode_frame(frame, out);
        }
    }

    /// Appends samples in place of lost frames; silent after 120 ms.
    pub fn conceal(&mut self, samples: usize, out: &mut Vec<i16>) {
        let end = out.len().saturating_add(samples);
        while out.len() < end && (!self.spare.is_empty() || self.gap.made < SILENT) {
            if self.spare.is_empty() {
                let mut made = Vec::with_capacity(FRAME_MOST);
                self.conceal_frame(&mut made);
                self.spare = made;
            }
            let part = self.spare.len().min(end - out.len());
            out.extend(self.spare.drain(..part));
        }
        out.resize(end, 0);
    }

    fn decode_frame(&mut self, frame: &[u8], out: &mut Vec<i16>) {
        let Some(read) = bits::unpack(frame, self.size) else { return self.conceal(self.size.samples(), out) };
        let mut spectra = self.spectra.clone();
        let filters = spectra.filters(&read.lsf, self.size);
        let Some(residual) = codebook::residual(&read, &filters, self.size) else {
            return self.conceal(self.size.samples(), out);
        };
        self.spectra = spectra;
        let after_loss = std::mem::take(&mut self.gap.made) > 0;
        let start = out.len();
        self.synthesise(&residual, &filters, after_loss, out);
        // What was concealed beyond the gap leads into the frame.
        let join = JOIN.min(self.spare.len());
        for (at, (sample, old)) in out[start..].iter_mut().zip(self.spare.drain(..)).enumerate().take(join) {
            let (new, weight) = (i32::from(*sample), (at + 1) as i32);
            *sample = ((new * weight + i32::from(old) * (join as i32 + 1 - weight)) / (join as i32 + 1)) as i16;
        }
        self.spare.clear();
    }

    /// Makes a frame out of nothing.
    fn conceal_frame(&mut self, out: &mut Vec<i16>) {
        let before = self.gap.made;
        let residual = self.gap.residual(self.enhancer.last(), self.lag, self.size.samples());
        let filters = [self.filters[1]; 6];
        let start = out.len();
        self.synthesise(&residual, &filters, false, out);
        out[start..].iter_mut().skip(SILENT.saturating_sub(before)).for_each(|sample| *sample = 0);
        if self.gap.made >= SILENT {
            (self.enhancer, self.synthesis, self.high_pass) = (Enhancer::default(), [0.0; ORDER], HighPass::default());
        }
    }

    /// A frame's residual through the enhancer, the vocal tract and the high pass.
    fn synthesise(
        &mut self,
        residual: &[f32; FRAME_MOST],
        filters: &[Filter; 6],
        after_loss: bool,
        out: &mut Vec<i16>,
    ) {
        let (late, count) = (self.size.delay() / SUB_FRAME, self.size.sub_frames());
        let (mut samples, lag) = self.enhancer.enhance(residual, after_loss, self.size);
        self.lag = lag;
        // The filters are as late as the enhancer.
        let delayed = self.filters[2 - late..].iter().chain(filters).take(count);
        for (part, filter) in samples.chunks_exact_mut(SUB_FRAME).zip(delayed) {
            lsf::synthesise(filter, &mut self.synthesis, part);
        }
        self.filters = [filters[count - 2], filters[count - 1]];
        out.extend(samples.iter().take(self.size.samples()).map(|&sample| self.high_pass.next(sample)));
    }
}

/// The output's high pass at 65 Hz (4.8).
#[derive(Debug, Clone, Default)]
struct HighPass {
    input: [f32; 2],
    output: [f32; 2],
}

impl HighPass {
    fn next(&mut self, sample: f32) -> i16 {
        let ([x1, x2], [y1, y2]) = (self.input, self.output);
        let zeros = OUTPUT_ZEROS[0] * sample + OUTPUT_ZEROS[1] * x1 + OUTPUT_ZEROS[2] * x2;
        let value = zeros - OUTPUT_POLES[0] * y1 - OUTPUT_POLES[1] * y2;
        (self.input, self.output) = ([sample, x1], [value, y1]);
        // The cast saturates.
        value.round() as i16
    }
}

#[cfg(test)]
mod tests;
