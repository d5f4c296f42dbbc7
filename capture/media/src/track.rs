//! The audio of one stream on its way to the encoder.
//!
//! Samples are written in order at the decoder's rate and read at the
//! encoder's. There is exactly one sample for every moment since the recording
//! began: what is not audio was concealed or is silence, so that a position is
//! a time. Without a change of rate the decoder writes straight into the
//! buffer that the encoder reads.
//!
//! ```text
//!        read (encoder rate)                      end (native rate)
//!          v                                        v
//!   buffer [ samples to encode | in the resampler ] .
//! ```

use ferric_codecs::resample::Resampler;

/// Zeros that run through a resampler so that its history holds nothing else, in ms.
const FLUSH_MS: usize = 20;
/// How far audio must be written beyond a frame to read it, in µs, when a resampler runs.
const RESAMPLER_LAG_US: i64 = 3_000;
/// Samples of at most this level are silence where the clock may be bent.
const QUIET: u16 = 200;

/// One stream's samples.
#[derive(Debug)]
pub struct Track {
    native_rate: u32,
    rate: u32,
    resampler: Option<Box<Resampler>>,
    /// Outputs of the resampler that lie before its first input.
    skip: usize,
    buffer: Vec<i16>,
    head: usize,
    /// Position of the first unread sample, at the encoder's rate.
    read: i64,
    /// Position of the next sample written, at the native rate.
    end: i64,
    scratch: Vec<i16>,
}

impl Track {
    /// Begins at `start_us` of the call.
    pub fn new(native_rate: u32, rate: u32, start_us: i64) -> Track {
        let mut track = Track {
            native_rate,
            rate,
            resampler: None,
            skip: 0,
            buffer: Vec::new(),
            head: 0,
            read: start_us * i64::from(rate) / 1_000_000,
            end: start_us * i64::from(native_rate) / 1_000_000,
            scratch: Vec::new(),
        };
        track.tune();
        track
    }

    /// Rate of what is written, in Hz.
    pub fn native_rate(&self) -> u32 {
        self.native_rate
    }

    /// Position of the next sample written, at the native rate.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// How far beyond a frame's end audio must be written before the frame can be read, in µs.
    pub fn lag_us(&self) -> i64 {
        if self.resampler.is_some() { RESAMPLER_LAG_US } else { 0 }
    }

    /// What is written from now on has this rate.
    pub fn set_native_rate(&mut self, native_rate: u32) {
        if native_rate != self.native_rate {
            self.flush();
            self.end = self.end * i64::from(native_rate) / i64::from(self.native_rate.max(1));
            self.native_rate = native_rate;
            self.tune();
        }
    }

    /// What is read from now on has this rate; what waits is converted.
    pub fn set_rate(&mut self, rate: u32) {
        if rate == self.rate {
            return;
        }
        self.flush();
        let waiting = self.buffer.split_off(self.head.min(self.buffer.len()));
        self.buffer.clear();
        self.head = 0;
        let wanted = waiting.len() * rate as usize / self.rate.max(1) as usize;
        let mut converter = Resampler::new(self.rate, rate);
        let skip = converter.delay_samples();
        converter.process(&waiting, &mut self.buffer);
        converter.process(&[0; 320], &mut self.buffer);
        self.buffer.drain(..skip.min(self.buffer.len()));
        self.buffer.resize(wanted, 0);
        self.read = self.read * i64::from(rate) / i64::from(self.rate.max(1));
        self.rate = rate;
        self.tune();
    }

    fn tune(&mut self) {
        self.skip = 0;
        self.resampler = None;
        if self.native_rate != self.rate {
            let resampler = Resampler::new(self.native_rate, self.rate);
            self.skip = resampler.delay_samples();
            self.resampler = Some(Box::new(resampler));
        }
    }

    /// Pushes what the resampler holds into the buffer, up to the position written.
    fn flush(&mut self) {
        let end = self.end;
        if self.resampler.is_some() {
            let zeros = self.native_rate as usize * FLUSH_MS / 1_000;
            self.write(|out| out.resize(out.len() + zeros, 0));
        }
        self.end = end;
        let wanted = self.at_encoder_rate(end) - self.read;
        self.buffer.resize(self.head + usize::try_from(wanted).unwrap_or(0), 0);
    }

    fn at_encoder_rate(&self, native: i64) -> i64 {
        native * i64::from(self.rate) / i64::from(self.native_rate.max(1))
    }

    /// Appends what `produce` appends to the vector it gets.
    pub fn write(&mut self, produce: impl FnOnce(&mut Vec<i16>)) {
        let Some(resampler) = self.resampler.as_mut() else {
            let before = self.buffer.len();
            produce(&mut self.buffer);
            self.end += (self.buffer.len() - before).cast_signed() as i64;
            return;
        };
        self.scratch.clear();
        produce(&mut self.scratch);
        let before = self.buffer.len();
        resampler.process(&self.scratch, &mut self.buffer);
        self.end += self.scratch.len().cast_signed() as i64;
        if self.skip > 0 {
            let skipped = self.skip.min(self.buffer.len() - before);
            self.buffer.drain(before..before + skipped);
            self.skip -= skipped;
        }
    }

    /// Appends silence.
    pub fn write_silence(&mut self, samples: usize) {
        let through = self.native_rate as usize * FLUSH_MS / 1_000;
        // Whole units of 10 ms have a whole number of samples at every rate.
        let unit = (self.native_rate / 100) as usize;
        let direct = samples.saturating_sub(through) / unit.max(1) * unit;
        if self.resampler.is_none() || direct == 0 {
            self.write(|out| out.resize(out.len() + samples, 0));
            return;
        }
        self.write(|out| out.resize(out.len() + samples - direct, 0));
        let converted = direct * self.rate as usize / self.native_rate.max(1) as usize;
        self.buffer.resize(self.buffer.len() + converted, 0);
        self.end += direct.cast_signed() as i64;
    }

    /// Samples at the native rate to write until `position_us` can be read.
    pub fn missing_until(&self, position_us: i64) -> usize {
        let wanted = position_us * i64::from(self.rate) / 1_000_000;
        let have = self.read + (self.buffer.len() - self.head).cast_signed() as i64 - self.skip.cast_signed() as i64;
        let missing = usize::try_from(wanted - have).unwrap_or(0);
        (missing * self.native_rate as usize).div_ceil(self.rate.max(1) as usize)
    }

    /// The next `samples` samples at the encoder's rate; `None` when fewer are written.
    pub fn frame(&self, samples: usize) -> Option<&[i16]> {
        self.buffer.get(self.head..self.head + samples)
    }

    /// As [`Track::frame`], to be changed in place.
    pub(crate) fn frame_mut(&mut self, samples: usize) -> Option<&mut [i16]> {
        self.buffer.get_mut(self.head..self.head + samples)
    }

    /// Everything written and not read, and the position of its first sample, at the encoder's rate.
    pub(crate) fn waiting(&self) -> (i64, &[i16]) {
        (self.read, self.buffer.get(self.head..).unwrap_or_default())
    }

    /// Rate of what is read, in Hz.
    pub(crate) fn rate(&self) -> u32 {
        self.rate
    }

    /// Moves past samples that were read, or that nobody wants.
    pub fn consume(&mut self, samples: usize) {
        self.head = (self.head + samples).min(self.buffer.len());
        self.read += samples.cast_signed() as i64;
    }

    /// Moves what waits to the front of the buffer; once for each batch of frames.
    pub fn compact(&mut self) {
        self.buffer.drain(..self.head.min(self.buffer.len()));
        self.head = 0;
    }

    /// True when the last 10 ms written hold nothing audible.
    pub fn ends_quietly(&self) -> bool {
        let tail = (self.rate / 100) as usize;
        let from = self.buffer.len().saturating_sub(tail);
        self.buffer.get(from..).is_none_or(|tail| tail.iter().all(|sample| sample.unsigned_abs() <= QUIET))
    }
}

/// Lengthens or shortens `samples[start..]` by `change` samples where the wave is flattest.
pub fn bend(samples: &mut Vec<i16>, start: usize, change: i64) {
    let Some(part) = samples.get(start..) else { return };
    let size = usize::try_from(change.unsigned_abs()).unwrap_or(0);
    if change == 0 || part.len() < size + 2 {
        return;
    }
    let reach = if change < 0 { size } else { 1 };
    let flattest = part
        .iter()
        .zip(part.iter().skip(reach))
        .enumerate()
        .min_by_key(|(_, (a, b))| a.abs_diff(**b))
        .map_or(0, |(index, _)| start + index);
    if change < 0 {
        samples.drain(flattest + 1..(flattest + 1 + size).min(samples.len()));
    } else {
        let value = samples.get(flattest).copied().unwrap_or(0);
        samples.splice(flattest..flattest, std::iter::repeat_n(value, size));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use super::*;
    use ferric_codecs::testing::{correlation, syllables};

    fn read_all(track: &mut Track, until_us: i64) -> Vec<i16> {
        let missing = track.missing_until(until_us);
        track.write_silence(missing);
        let samples = (until_us * i64::from(track.rate) / 1_000_000 - track.read) as usize;
        let frame = track.frame(samples).unwrap().to_vec();
        track.consume(samples);
        track.compact();
        frame
    }

    #[test]
    fn equal_rates_pass_untouched() {
        let mut track = Track::new(8_000, 8_000, 0);
        track.write(|out| out.extend_from_slice(&[1, 2, 3]));
        assert_eq!(track.missing_until(1_000), 5);
        assert_eq!(read_all(&mut track, 1_000), [1, 2, 3, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn resampled_audio_is_where_it_was() {
        for (native, rate) in [(16_000, 8_000), (8_000, 16_000), (48_000, 16_000), (44_100, 16_000)] {
            let speech = syllables(native, native as usize * 2, 4);
            let wanted = syllables(rate, rate as usize * 2, 4);
            let mut track = Track::new(native, rate, 0);
            for part in speech.chunks(native as usize / 50) {
                track.write(|out| out.extend_from_slice(part));
            }
            let out = read_all(&mut track, 2_000_000);
            let mut converted = Vec::new();
            let mut reference = Resampler::new(native, rate);
            reference.process(&speech, &mut converted);
            let delay = reference.delay_samples();
            let same = correlation(&out[..out.len() - 200], &converted[delay..]);
            assert!(same > 0.999, "{native} -> {rate}: {same}");
            assert_eq!(out.len(), wanted.len());
        }
    }

    #[test]
    fn a_change_of_the_encoder_rate_keeps_place() {
        let speech = syllables(8_000, 16_000, 8);
        let mut track = Track::new(8_000, 8_000, 0);
        track.write(|out| out.extend_from_slice(&speech[..8_800]));
        let first = read_all(&mut track, 1_000_000);
        track.set_rate(16_000);
        track.write(|out| out.extend_from_slice(&speech[8_800..]));
        let second = read_all(&mut track, 1_990_000);
        assert_eq!(first, speech[..8_000]);
        let narrow: Vec<i16> = second.iter().step_by(2).copied().collect();
        assert!(correlation(&narrow, &speech[8_000..15_920]) > 0.99);
    }

    #[test]
    fn a_change_of_the_native_rate_keeps_place() {
        let wide = syllables(16_000, 32_000, 8);
        let narrow: Vec<i16> = wide.iter().step_by(2).copied().collect();
        let mut track = Track::new(8_000, 16_000, 0);
        track.write(|out| out.extend_from_slice(&narrow[..8_000]));
        track.set_native_rate(16_000);
        assert_eq!(track.end(), 16_000);
        track.write(|out| out.extend_from_slice(&wide[16_000..]));
        let out = read_all(&mut track, 2_000_000);
        assert_eq!(out[16_000..], wide[16_000..]);
        assert!(correlation(&out[..16_000], &wide[..16_000]) > 0.9);
    }

    #[test]
    fn long_silence_has_its_length_at_every_rate() {
        for (native, rate) in [(8_000, 8_000), (44_100, 16_000), (48_000, 8_000), (11_025, 16_000)] {
            let mut track = Track::new(native, rate, 0);
            track.write(|out| out.extend(std::iter::repeat_n(9_000, native as usize / 10)));
            track.write_silence(native as usize * 3);
            let out = read_all(&mut track, 3_100_000);
            assert_eq!(out.len(), rate as usize * 31 / 10);
            assert_eq!(out[out.len() - rate as usize * 2..].iter().filter(|&&s| s != 0).count(), 0);
        }
    }

    #[test]
    fn bending_changes_the_length_where_it_shows_least() {
        let mut samples = vec![0, 100, 200, 300, 300, 100];
        bend(&mut samples, 1, 1);
        assert_eq!(samples, [0, 100, 200, 300, 300, 300, 100]);
        bend(&mut samples, 0, -2);
        assert_eq!(samples.len(), 5);
        bend(&mut samples, 4, -3);
        assert_eq!(samples.len(), 5);
    }
}
