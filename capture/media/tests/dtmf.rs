//! `dtmf = "mask"`: nobody who hears the recording can tell which keys were pressed, and speech stays.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod common;

use std::time::Duration;

use common::{Call, DTMF, Datagram, G722, OPUS, PCMA, PCMU, Path, Recorded, Sender, stream};
use ferric_codecs::resample::Resampler;
use ferric_codecs::testing::correlation;
use ferric_media::pipeline::PipelineConfig;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const KEYS: &str = "123A456B789C*0#D";
const LOW: [f64; 4] = [697.0, 770.0, 852.0, 941.0];
const HIGH: [f64; 4] = [1_209.0, 1_336.0, 1_477.0, 1_633.0];

/// The recorder's own look-ahead comes on top of the reorder delay.
fn masking() -> PipelineConfig {
    PipelineConfig { mask_dtmf: true, jitter_delay: Duration::from_millis(200), ..PipelineConfig::default() }
}

/// The bundled speech, at `rate`.
fn speech(name: &str, rate: u32) -> Vec<i16> {
    let path = format!("{}/../../testdata/speech/{name}.wav", env!("CARGO_MANIFEST_DIR"));
    let samples: Vec<i16> = hound::WavReader::open(path).unwrap().into_samples().map(Result::unwrap).collect();
    let mut out = Vec::new();
    if rate == 16_000 {
        return samples;
    }
    Resampler::new(16_000, rate).process(&samples, &mut out);
    out
}

/// A key's tone; `level` of the stronger half, the weaker is `twist` times that; frequencies off by `off`.
#[derive(Debug, Clone, Copy)]
struct Tone {
    key: usize,
    ms: usize,
    level: f64,
    twist: f64,
    off: f64,
}

impl Tone {
    fn samples(self, rate: u32) -> Vec<i16> {
        let wave = |hz: f64, n: usize| (2.0 * std::f64::consts::PI * hz * self.off * n as f64 / f64::from(rate)).sin();
        (0..rate as usize * self.ms / 1_000)
            .map(|n| (self.level * (self.twist * wave(LOW[self.key / 4], n) + wave(HIGH[self.key % 4], n))) as i16)
            .collect()
    }
}

/// Energy at a frequency, as a share of the window's.
fn share(part: &[i16], hz: f64, rate: u32) -> f64 {
    let step = 2.0 * std::f64::consts::PI * hz / f64::from(rate);
    let (mut re, mut im, mut all) = (0.0, 0.0, 1e-9);
    for (n, sample) in part.iter().enumerate() {
        let x = f64::from(*sample);
        re += x * (step * n as f64).cos();
        im += x * (step * n as f64).sin();
        all += x * x;
    }
    2.0 * (re * re + im * im) / (part.len() as f64 * all)
}

/// An ear of the test's own: keys that `audio` tells, with their place in ms. It wants one window of 20 ms only, in which
/// a pair of frequencies is more than half of all, and hears to -55 dBFS.
fn keys_heard(audio: &[i16], rate: u32) -> Vec<(usize, char)> {
    let (window, hop) = (rate as usize / 50, rate as usize / 200);
    let mut heard: Vec<(usize, char)> = Vec::new();
    for at in (0..audio.len().saturating_sub(window)).step_by(hop) {
        let part = &audio[at..at + window];
        let power = part.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / window as f64;
        if power < 3_400.0 {
            continue;
        }
        let best = |bank: &[f64; 4]| {
            // Keypads are off by a little: the ear forgives it.
            let shares = bank
                .map(|hz| [0.985, 1.0, 1.015].map(|off| share(part, hz * off, rate)).into_iter().fold(0.0, f64::max));
            (0..4).max_by(|a, b| shares[*a].total_cmp(&shares[*b])).map(|index| (index, shares[index])).unwrap()
        };
        let ((low, a), (high, b)) = (best(&LOW), best(&HIGH));
        if a + b > 0.5 && a > 0.08 && b > 0.08 {
            let (ms, key) = (at * 1_000 / rate as usize, KEYS.chars().nth(low * 4 + high).unwrap());
            if heard.last().is_none_or(|(last, known)| *known != key || ms > last + 40) {
                heard.push((ms, key));
            } else if let Some(last) = heard.last_mut() {
                last.0 = ms;
            }
        }
    }
    heard
}

fn recorded(packets: Vec<Datagram>, payload_type: u8, ms: u64, config: PipelineConfig) -> Recorded {
    let mut call = Call::new(vec![stream(0, &[payload_type]), stream(1, &[PCMU])]);
    call.config = config;
    call.add(packets);
    call.record(ms, if matches!(payload_type, G722 | OPUS) { 16_000 } else { 8_000 })
}

/// Sixteen keys pressed within speech, each twice: in its place and upon it. Returns the audio and when they were pressed.
fn pressed(payload_type: u8, seed: u64) -> (Vec<i16>, Vec<(usize, usize)>) {
    let rate = if matches!(payload_type, G722 | OPUS) { 16_000 } else { 8_000 };
    let mut rng = StdRng::seed_from_u64(seed);
    let mut audio = speech("caller", rate);
    let mut places = Vec::new();
    let mut at_ms = 1_000;
    for n in 0..32 {
        let tone = Tone {
            key: n % 16,
            ms: rng.random_range(40..160),
            // Down to -50 dBFS; one frequency up to 8 dB stronger; off by up to 2 %.
            level: 10_000.0 * 10_f64.powf(-rng.random_range(0.0..2.0)),
            twist: 10_f64.powf(rng.random_range(-0.4..0.4)),
            off: 1.0 + rng.random_range(-0.02..0.02),
        };
        let place = rate as usize * at_ms / 1_000;
        for (sample, wave) in audio[place..].iter_mut().zip(tone.samples(rate)) {
            // Upon speech, which is lower than the tone: with speech as loud nobody could tell the key.
            let under = if n < 16 { 0 } else { (f64::from(*sample) * tone.level / 10_000.0) as i16 };
            *sample = wave.saturating_add(under);
        }
        places.push((at_ms, at_ms + tone.ms));
        at_ms += tone.ms + rng.random_range(50..900);
    }
    (audio, places)
}

#[test]
fn tones_in_the_audio_say_nothing_whatever_the_codec() {
    for (payload_type, seed) in (1..=12).map(|seed| ([PCMU, PCMA, G722, OPUS][seed as usize % 4], seed)) {
        let (audio, places) = pressed(payload_type, seed);
        let ms = audio.len() as u64 * 1_000 / if matches!(payload_type, G722 | OPUS) { 16_000 } else { 8_000 };
        let packets = || Sender::new(0, payload_type, seed).say(0, &audio, 0.0);
        // The ear forgives so much that it hears a key in speech now and then; that one nobody pressed.
        let rate = if matches!(payload_type, G722 | OPUS) { 16_000 } else { 8_000 };
        let imagined = keys_heard(&speech("caller", rate), rate);
        let near = |heard: &[(usize, char)]| -> Vec<(usize, char)> {
            let pressed = |at: usize| places.iter().any(|(from, to)| at + 60 > *from && at < to + 60);
            let spoken =
                |at: usize, key: char| imagined.iter().any(|(place, known)| *known == key && place.abs_diff(at) < 30);
            heard.iter().copied().filter(|(at, key)| pressed(*at) && !spoken(*at, *key)).collect()
        };
        let open = recorded(packets(), payload_type, ms, PipelineConfig::default());
        let told = near(&keys_heard(&open.channels[0], open.rate)).len();
        assert!(told >= 28, "the ear itself hears {told} of 32");
        assert!(open.stats.streams[0].telephone_events.is_empty());
        let masked = recorded(packets(), payload_type, ms, masking());
        let heard = near(&keys_heard(&masked.channels[0], masked.rate));
        assert!(heard.is_empty(), "payload type {payload_type}, seed {seed}: {heard:?}");
        // Each is noted, at its time, and never which.
        let noted = &masked.stats.streams[0].telephone_events;
        assert!(noted.iter().all(|event| event.digit.is_none()));
        for (from, to) in &places {
            let found = noted.iter().any(|event| {
                let (begins, ends) = (event.at_ms as usize, event.at_ms as usize + event.duration_ms as usize);
                begins < to + 30 && ends + 30 > *from
            });
            assert!(found, "the key at {from} to {to} ms was not noted: {noted:?}");
        }
    }
}

#[test]
fn speech_keeps_its_sound_and_its_place() {
    for (name, payload_type, rate) in
        [("caller", PCMU, 8_000), ("agent", PCMU, 8_000), ("caller", G722, 16_000), ("agent", OPUS, 16_000)]
    {
        let audio = speech(name, rate);
        let ms = audio.len() as u64 * 1_000 / u64::from(rate);
        let packets = || Sender::new(0, payload_type, 1).say(0, &audio, 0.0);
        let open = recorded(packets(), payload_type, ms, PipelineConfig::default());
        let masked = recorded(packets(), payload_type, ms, masking());
        let noted: u32 = masked.stats.streams[0].telephone_events.iter().map(|event| event.duration_ms).sum();
        let same = correlation(&open.channels[0], &masked.channels[0]);
        println!("{name}, payload type {payload_type}: {noted} ms of {ms} ms taken for tones, alike {same:.4}");
        assert!(u64::from(noted) * 60_000 / ms < 100, "{noted} ms of {ms} ms of speech were taken for keys");
        assert!(same > 0.99, "{same}");
    }
}

/// A key as equipment sends it: tone leaks into the audio before and behind the events.
fn by_events(
    sender: &mut Sender,
    speech: &[i16],
    at_ms: usize,
    key: usize,
    ms: usize,
    leak_ms: usize,
) -> Vec<Datagram> {
    let mut audio = speech[..at_ms * 8 + leak_ms * 8].to_vec();
    let tone = Tone { key, ms: leak_ms, level: 6_000.0, twist: 0.8, off: 1.0 }.samples(8_000);
    audio.truncate(at_ms * 8);
    audio.extend(tone);
    let mut packets = sender.say(0, &audio, 0.0);
    let (began, packet_ms) = (sender.timestamp, 20);
    let code = [1, 2, 3, 12, 4, 5, 6, 13, 7, 8, 9, 14, 10, 0, 11, 15][key];
    let first_ms = at_ms + leak_ms;
    for n in 1..=ms / packet_ms {
        let [high, low] = ((n * packet_ms * 8) as u16).to_be_bytes();
        sender.timestamp = began;
        packets.push(sender.raw(((first_ms + n * packet_ms) * 1_000) as i64, DTMF, &[code, 10, high, low]));
    }
    for _ in 0..3 {
        let [high, low] = ((ms * 8) as u16).to_be_bytes();
        packets.push(sender.raw(((first_ms + ms) * 1_000) as i64, DTMF, &[code, 0x8a, high, low]));
    }
    sender.timestamp = began.wrapping_add((ms * 8) as u32);
    packets.extend(sender.say(((first_ms + ms) * 1_000) as i64, &speech[(first_ms + ms) * 8..], 0.0));
    packets
}

#[test]
fn events_silence_what_leaks_before_them() {
    let speech = speech("agent", 8_000);
    let ms = speech.len() as u64 / 8;
    for (key, leak_ms) in (0..16).zip([20, 40, 60].into_iter().cycle()) {
        for loss in [0.0, 0.3] {
            let (at_ms, long_ms) = (4_000 + key * 400, 200);
            let packets = by_events(&mut Sender::new(0, PCMU, 9), &speech, at_ms, key, long_ms, leak_ms);
            let (packets, _) = Path { loss, ..Path::default() }.send(packets, key as u64);
            let masked = recorded(packets.clone(), PCMU, ms, masking());
            let near = |heard: Vec<(usize, char)>| {
                heard.into_iter().filter(|(at, _)| (at_ms - 100..at_ms + 400).contains(at)).count()
            };
            assert_eq!(near(keys_heard(&masked.channels[0], 8_000)), 0, "key {key}, leak of {leak_ms} ms, loss {loss}");
            assert!(masked.level(0, at_ms - 5, at_ms + leak_ms + long_ms + 10) < 60.0, "key {key}");
            // Far from the key, speech that was concealed may have been taken for one.
            let events = masked.stats.streams[0]
                .telephone_events
                .iter()
                .filter(|event| event.at_ms.abs_diff(at_ms as u64) < 1_000);
            let events: Vec<_> = events.collect();
            assert_eq!(events.len(), 1, "a leak and its events are one key: {events:?}");
            assert!(events[0].digit.is_none() && events[0].at_ms.abs_diff((at_ms + leak_ms) as u64) < 80, "{events:?}");
            // The tenant that keeps them has the digit, and the audio as it came.
            let open = recorded(packets, PCMU, ms, PipelineConfig::default());
            assert_eq!(open.stats.streams[0].telephone_events[0].digit, KEYS.chars().nth(key));
            if loss == 0.0 && leak_ms >= 40 {
                assert!(near(keys_heard(&open.channels[0], 8_000)) > 0, "the leak is heard where nobody masks");
            }
        }
    }
}

#[test]
fn a_very_long_call_is_masked_to_its_end() {
    // More keys than are noted: the last ones are silenced all the same.
    let mut sender = Sender::new(0, PCMU, 9);
    let tone = Tone { key: 5, ms: 60, level: 6_000.0, twist: 1.0, off: 1.0 }.samples(8_000);
    let mut packets = Vec::new();
    for n in 0..400_i64 {
        packets.extend(sender.say(n * 500_000, &tone, 0.0));
        let began = sender.timestamp;
        packets.push(sender.raw(n * 500_000 + 80_000, DTMF, &[5, 0x8a, 0, 160]));
        sender.timestamp = began.wrapping_add(440 * 8);
    }
    let masked = recorded(packets, PCMU, 200_000, masking());
    assert_eq!(keys_heard(&masked.channels[0], 8_000), []);
    assert_eq!(masked.stats.streams[0].telephone_events.len(), 256);
}
