//! Key tones out of the audio (`dtmf = "mask"`, PCI DSS): nobody who hears the
//! recording can tell which keys were pressed.
//!
//! Two ways tell of a key. RFC 4733 events say when it was pressed, and equipment lets
//! some tens of milliseconds of the tone through before it switches to events. And tones
//! may lie in the audio itself: a bank of Goertzel filters finds the eight
//! frequencies. What is found is silenced from a margin before to a margin behind; for that the audio is looked
//! at [`LOOK_AHEAD_MS`] before it is encoded.
//!
//! A block is a key's when one low and one high frequency, or places close by, hold most of its energy, neither much
//! louder than the other, and it is so for two blocks in a row with the same pair; for up to four where somebody speaks
//! upon the tone. Speech meets that rarely, and loses some hundredths of a second where it does. The usual
//! look at second harmonics is left out: it spares speech next to nothing, and lets keys through that are spoken upon.

use std::collections::VecDeque;

/// Audio is looked at so long before it is encoded.
pub(crate) const LOOK_AHEAD_MS: u32 = 80;
/// Silence before the place where a tone was found.
const BEFORE_US: i64 = 30_000;
/// Silence behind it.
const AFTER_US: i64 = 30_000;
/// Audio fades out before the silence and in behind it, so that no click is left.
const FADE_US: i64 = 3_000;
/// Tone that equipment lets through before it sends the first event.
const LEAK_US: i64 = 70_000;
/// Stretches kept at once.
const MAX_STRETCHES: usize = 64;

const LOW: [f64; 4] = [697.0, 770.0, 852.0, 941.0];
const HIGH: [f64; 4] = [1_209.0, 1_336.0, 1_477.0, 1_633.0];
/// A block of analysis; shorter ones do not tell the frequencies apart.
const BLOCK_MS: u32 = 14;
/// Blocks overlap by half.
const HOP_MS: u32 = 7;
/// Share of a block's energy in the pair of frequencies.
const SHARE: f32 = 0.65;
/// With less than that, more blocks must agree: somebody speaks at the same time.
const LEAST_SHARE: f32 = 0.5;
/// A key is found by so many points in a row with one pair: a clear block has [`CLEAR`], another one.
const POINTS: u32 = 4;
const CLEAR: u32 = 2;
/// One of the pair may be so much stronger, as a ratio of energies (12 dB).
const TWIST: f32 = 16.0;
/// Mean square below which nothing is a tone (-59 dBFS).
const FLOOR: f32 = 1_350.0;
/// Each frequency is looked for where it should be, and so much below and above: real keypads are off by up to 2 %, and
/// decoders must accept 1.5 % and may accept 3.5 % (ITU-T Q.24).
const OFF: [f64; 3] = [0.98, 1.0, 1.02];
/// Filters of the bank: eight frequencies in three places, those of one place together.
const FILTERS: usize = 24;

/// Goertzel's filters, all at once: energies in a block. The lanes do not depend on each other, so that they run in parallel.
fn energies(block: &[i16], coefficients: &[f32; FILTERS]) -> [f32; FILTERS] {
    let (mut before, mut last) = ([0.0_f32; FILTERS], [0.0_f32; FILTERS]);
    for sample in block {
        let sample = f32::from(*sample);
        for ((before, last), coefficient) in before.iter_mut().zip(&mut last).zip(coefficients) {
            let next = sample + coefficient * *last - *before;
            (*before, *last) = (*last, next);
        }
    }
    let mut energies = [0.0; FILTERS];
    for (((energy, before), last), coefficient) in energies.iter_mut().zip(before).zip(last).zip(coefficients) {
        *energy = before * before + last * last - coefficient * before * last;
    }
    energies
}

/// Blocks in a row that agree.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    /// Which of the low frequencies, and which of the high.
    key: (usize, usize),
    points: u32,
    /// Beginning of the first, in µs.
    since: i64,
}

/// Finds keys in the audio of one stream, and says what is to be silent.
#[derive(Debug)]
pub(crate) struct DtmfMask {
    rate: u32,
    coefficients: [f32; FILTERS],
    /// Looked at up to here, at `rate`.
    scanned: i64,
    /// What the last block may be part of.
    pair: Option<Candidate>,
    /// To be silent, in µs, in order.
    stretches: VecDeque<(i64, i64)>,
    /// Keys found: beginning and end in µs.
    found: Vec<(i64, i64)>,
}

impl DtmfMask {
    pub(crate) fn new(rate: u32) -> DtmfMask {
        let mut mask = DtmfMask {
            rate: 0,
            coefficients: [0.0; FILTERS],
            scanned: i64::MIN,
            pair: None,
            stretches: VecDeque::new(),
            found: Vec::new(),
        };
        mask.tune(rate);
        mask
    }

    fn tune(&mut self, rate: u32) {
        if rate == self.rate {
            return;
        }
        if self.rate != 0 && self.scanned != i64::MIN {
            self.scanned = self.scanned * i64::from(rate) / i64::from(self.rate);
        }
        self.rate = rate;
        let places = OFF.iter().flat_map(|off| LOW.iter().chain(&HIGH).map(move |hz| hz * off));
        for (coefficient, hz) in self.coefficients.iter_mut().zip(places) {
            *coefficient = single(2.0 * (2.0 * std::f64::consts::PI * hz / f64::from(rate.max(1))).cos());
        }
    }

    /// Looks at audio that was written: `samples` begin at position `at` of `rate`.
    pub(crate) fn scan(&mut self, at: i64, rate: u32, samples: &[i16]) {
        self.tune(rate);
        let (block, hop) = ((rate * BLOCK_MS / 1_000) as usize, (rate * HOP_MS / 1_000) as usize);
        self.scanned = self.scanned.max(at);
        loop {
            let from = usize::try_from(self.scanned - at).unwrap_or(0);
            let Some(part) = samples.get(from..from + block) else { return };
            self.look(part);
            self.scanned += hop as i64;
        }
    }

    fn look(&mut self, block: &[i16]) {
        let begins = self.us(self.scanned);
        let ends = begins + i64::from(BLOCK_MS) * 1_000;
        let found = self.pair_of(block);
        let Some((key, points)) = found else {
            self.pair = None;
            return;
        };
        let before = self.pair.filter(|candidate| candidate.key == key);
        let Candidate { points, since, .. } = *self.pair.insert(match before {
            Some(before) => Candidate { points: before.points + points, ..before },
            None => Candidate { key, points, since: begins },
        });
        if points < POINTS {
            return;
        }
        self.silence(since - BEFORE_US, ends + AFTER_US);
        let room = self.found.len() < MAX_STRETCHES;
        match self.found.last_mut().filter(|(_, end)| since <= *end) {
            Some(last) => last.1 = ends,
            None if room => self.found.push((since, ends)),
            None => {}
        }
    }

    /// The frequencies of a key that this block may be part of, and the points that it gives.
    fn pair_of(&self, block: &[i16]) -> Option<((usize, usize), u32)> {
        let length = block.len() as f32;
        let total: f32 = block.iter().map(|sample| f32::from(*sample).powi(2)).sum();
        if total < FLOOR * length {
            return None;
        }
        let found = energies(block, &self.coefficients);
        let strongest = |first: usize| {
            let four = found.chunks_exact(8).filter_map(|place| place.get(first..first + 4));
            four.flat_map(|four| four.iter().copied().enumerate()).max_by(|a, b| a.1.total_cmp(&b.1))
        };
        let ((low, a), (high, b)) = (strongest(0)?, strongest(4)?);
        // A tone of energy E over n samples gives E * n / 2.
        let share = (a + b) * 2.0 / (length * total);
        let points = if share > SHARE { CLEAR } else { 1 };
        (share > LEAST_SHARE && a < TWIST * b && b < TWIST * a).then_some(((low, high), points))
    }

    /// An event says that a key is pressed, from `from_us` to at least `to_us`.
    pub(crate) fn event(&mut self, from_us: i64, to_us: i64) {
        self.silence(from_us - LEAK_US, to_us + AFTER_US);
    }

    fn silence(&mut self, from: i64, to: i64) {
        let full = self.stretches.len() >= MAX_STRETCHES;
        // Rather silence too much than forget one.
        match self.stretches.back_mut().filter(|(start, end)| full || (from <= *end && to >= *start)) {
            Some(last) => *last = (last.0.min(from), last.1.max(to)),
            None => self.stretches.push_back((from, to)),
        }
    }

    fn us(&self, position: i64) -> i64 {
        position * 1_000_000 / i64::from(self.rate.max(1))
    }

    /// Silences what must be in a frame that begins at `at_us`.
    pub(crate) fn apply(&mut self, at_us: i64, rate: u32, frame: &mut [i16]) {
        let end_us = at_us + frame.len() as i64 * 1_000_000 / i64::from(rate.max(1));
        self.stretches.retain(|(_, to)| to + FADE_US > at_us);
        for (from, to) in self.stretches.iter().filter(|(from, _)| from - FADE_US < end_us) {
            let place = |us: i64| (us - at_us) * i64::from(rate) / 1_000_000;
            let (fade, from, to) = (i64::from(rate) * FADE_US / 1_000_000, place(*from), place(*to));
            for (at, sample) in (0_i64..).zip(frame.iter_mut()) {
                let away = (from - at).max(at - to + 1);
                let kept = i64::from(*sample) * away.clamp(0, fade) / fade.max(1);
                *sample = i16::try_from(kept).unwrap_or(0);
            }
        }
    }

    /// Keys found in the audio since the last call, beginning and end in µs.
    pub(crate) fn take_found(&mut self) -> Vec<(i64, i64)> {
        // The newest may still go on.
        let open = self.pair.is_some();
        let keep = usize::from(open && !self.found.is_empty());
        let done = self.found.len() - keep;
        self.found.drain(..done).collect()
    }
}

/// A coefficient; it lies between -2 and 2.
#[allow(clippy::cast_possible_truncation)]
fn single(coefficient: f64) -> f32 {
    coefficient as f32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use super::*;

    fn tone(rate: u32, low: f64, high: f64, ms: u32, level: f64) -> Vec<i16> {
        let wave = |hz: f64, n: f64| (2.0 * std::f64::consts::PI * hz * n / f64::from(rate)).sin();
        (0..rate * ms / 1_000).map(|n| (level * (wave(low, f64::from(n)) + wave(high, f64::from(n)))) as i16).collect()
    }

    /// What is left of `audio` after the mask, frame by frame with its look-ahead.
    pub(super) fn masked(rate: u32, audio: &[i16]) -> (Vec<i16>, usize) {
        let (mut mask, mut out) = (DtmfMask::new(rate), Vec::new());
        let (frame, ahead) = ((rate / 50) as usize, (rate * LOOK_AHEAD_MS / 1_000) as usize);
        let mut keys = 0;
        for at in (0..audio.len()).step_by(frame) {
            let seen = (at + frame + ahead).min(audio.len());
            mask.scan(at as i64, rate, &audio[at..seen]);
            let mut part = audio[at..(at + frame).min(audio.len())].to_vec();
            mask.apply(at as i64 * 1_000_000 / i64::from(rate), rate, &mut part);
            out.extend(part);
            keys += mask.take_found().len();
        }
        (out, keys)
    }

    #[test]
    fn every_key_is_silent_from_before_its_beginning() {
        for rate in [8_000, 16_000] {
            for low in LOW {
                for high in HIGH {
                    let pause = vec![0; rate as usize / 5];
                    let audio = [
                        pause.clone(),
                        tone(rate, low, high, 50, 4_000.0),
                        pause.clone(),
                        tone(rate, low, high, 200, 900.0),
                        pause,
                    ]
                    .concat();
                    let (out, keys) = masked(rate, &audio);
                    let loud = out.iter().filter(|sample| sample.unsigned_abs() > 200).count();
                    assert_eq!((loud, keys), (0, 2), "{low} {high} at {rate}");
                }
            }
        }
    }

    #[test]
    fn speech_hardly_suffers() {
        let mut lost_ms = 0;
        for name in ["caller", "agent"] {
            let file =
                std::fs::read(format!("{}/../../testdata/speech/{name}.wav", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let audio: Vec<i16> =
                file[44..].chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
            let (out, _) = masked(16_000, &audio);
            lost_ms += audio.iter().zip(&out).filter(|(a, b)| a != b).count() / 16;
        }
        assert!(lost_ms < 400, "{lost_ms} ms of 50 s");
    }

    #[test]
    fn other_tones_stay() {
        let audio = [tone(8_000, 440.0, 480.0, 500, 4_000.0), tone(8_000, 1_000.0, 1_000.0, 500, 4_000.0)].concat();
        assert_eq!(masked(8_000, &audio).0, audio);
    }

    #[test]
    fn an_event_silences_what_leaked_before_it() {
        let mut mask = DtmfMask::new(8_000);
        mask.event(200_000, 300_000);
        let mut frame = vec![1_000; 160];
        mask.apply(120_000, 8_000, &mut frame);
        assert_eq!((frame[55], frame[80], frame[100]), (1_000, 0, 0), "from 130 ms on");
        let mut frame = vec![1_000; 160];
        mask.apply(320_000, 8_000, &mut frame);
        assert_eq!((frame[0], frame[79], frame[104]), (0, 0, 1_000), "up to 330 ms, and in again within 3 ms");
    }
}
