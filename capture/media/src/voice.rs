//! From payloads in order to one sample for every moment of the call.
//!
//! A packet goes where its timestamp says (see [`crate::clock_map`]). What lies
//! between it and the audio before is filled: lost packets are concealed and
//! fade within 120 ms, everything else (a late start, silence suppression,
//! comfort noise, hold) is silence. What overlaps is cut. Steps of up to 5 ms
//! between consecutive packets are the clock being bent: the packet is
//! stretched or shrunk where the wave is flattest.

use ferric_codecs::decode::{AudioDecoder, CodecKind};

use crate::clock_map::{ClockMap, Cover};
use crate::gaps::{GapCause, GapList};
use crate::track::{Track, bend};

/// Loss is concealed for this long, then silent, in ms.
const CONCEAL_MS: i64 = 120;
/// A correction within running audio is at most this large, in ms.
const BEND_MS: i64 = 5;
/// A hole of this length without loss hides any correction, in ms.
const HIDING_HOLE_MS: i64 = 40;
/// Silence from here on is worth a gap in the list, in ms.
const NO_MEDIA_MS: u64 = 1_000;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is on the timeline, wholly or in part.
    Audio,
    /// Its place is recorded already.
    Late,
    /// Its place lies before the recording, or before the stream joined it.
    Early,
    /// Its codec refused it.
    Undecodable,
}

/// A decoder of one payload type.
#[derive(Debug)]
struct Slot {
    kind: CodecKind,
    decoder: Option<AudioDecoder>,
}

/// The audio of one stream.
#[derive(Debug)]
pub(crate) struct Voice {
    track: Track,
    slots: Vec<Slot>,
    current: Option<usize>,
    /// End of the last real audio, at the native rate.
    media_end: i64,
    started: bool,
    /// The source said that it sends nothing: no packet is missing.
    quiet: bool,
    /// A packet of the present hole came too late.
    late_hole: bool,
    /// Lost before packets that are no audio.
    missing: u64,
    concealed: i64,
    gaps: GapList,
    /// Since when signalling has the stream active; what came before is no missing media.
    active_since_ms: u64,
    held_since_ms: Option<u64>,
    /// Active before that.
    active_before_ms: u64,
}

impl Voice {
    /// A stream that joins at `start_us` of the call; its gaps count from there.
    pub(crate) fn new(rate: u32, start_us: i64, active: bool) -> Voice {
        let start_ms = to_ms(start_us, 1_000_000);
        Voice {
            track: Track::new(8_000, rate, start_us),
            slots: Vec::new(),
            current: None,
            media_end: start_us * 8_000 / 1_000_000,
            started: false,
            quiet: false,
            late_hole: false,
            missing: 0,
            concealed: 0,
            gaps: GapList::default(),
            active_since_ms: start_ms,
            held_since_ms: (!active).then_some(start_ms),
            active_before_ms: 0,
        }
    }

    /// The samples.
    pub(crate) fn track(&self) -> &Track {
        &self.track
    }

    /// The samples.
    pub(crate) fn track_mut(&mut self) -> &mut Track {
        &mut self.track
    }

    /// Where nothing was heard.
    pub(crate) fn gaps(&self) -> &GapList {
        &self.gaps
    }

    /// All codecs of which audio came, in order.
    pub(crate) fn codecs(&self) -> impl Iterator<Item = CodecKind> {
        self.slots.iter().map(|slot| slot.kind)
    }

    /// The codec of the last audio.
    pub(crate) fn codec(&self) -> Option<CodecKind> {
        self.current.and_then(|current| self.slots.get(current)).map(|slot| slot.kind)
    }

    /// The source told that it is silent, or sends something that is no audio.
    pub(crate) fn set_quiet(&mut self, missing: u64) {
        self.quiet = true;
        self.missing += missing;
    }

    /// Places a payload. `missing` packets are not there between it and the
    /// last; `fresh` when it begins a stretch of timestamps.
    pub(crate) fn place(
        &mut self,
        kind: CodecKind,
        payload: &[u8],
        timestamp: i64,
        missing: u64,
        fresh: bool,
        map: &mut ClockMap,
    ) -> Placed {
        let Some(slot) = self.select(kind) else { return Placed::Undecodable };
        let missing = missing + self.missing;
        let Some(decoder) = self.slots.get_mut(slot).and_then(|slot| slot.decoder.as_mut()) else {
            return Placed::Undecodable;
        };
        let Some(samples) =
            decoder.samples(payload).ok().and_then(|samples| i64::try_from(samples).ok()).filter(|&s| s > 0)
        else {
            self.missing = missing + 1;
            return Placed::Undecodable;
        };
        self.missing = missing;
        let native = i64::from(kind.audio_rate().max(1));
        let clock = i64::from(map.clock_rate());
        let position = self.aim(timestamp, native, clock, map);
        let end = self.track.end();
        if position + samples <= end {
            if !self.started {
                return Placed::Early;
            }
            self.late_hole = true;
            return Placed::Late;
        }
        let hole = position - end;
        let running = self.started && missing == 0 && !self.late_hole && self.media_end == end;
        let (mut cut, mut change) = (0, 0);
        if running && hole.abs() * 1_000 <= BEND_MS * native {
            change = hole;
        } else {
            self.note_gap(position, samples, missing, fresh);
            cut = usize::try_from(-hole).unwrap_or(0);
            if let Ok(hole) = usize::try_from(hole) {
                if self.started && (missing > 0 || self.late_hole) {
                    self.conceal_before(hole, payload);
                } else {
                    self.track.write_silence(hole);
                }
            }
        }
        let Some(decoder) = self.slots.get_mut(slot).and_then(|slot| slot.decoder.as_mut()) else {
            return Placed::Undecodable;
        };
        let mut decoded = false;
        self.track.write(|out| {
            let start = out.len();
            decoded = decoder.decode(payload, out).is_ok();
            if cut > 0 {
                out.drain(start..(start + cut).min(out.len()));
            }
            bend(out, start, change);
        });
        if !decoded {
            self.missing += 1;
            return Placed::Undecodable;
        }
        self.media_end = self.track.end();
        (self.started, self.quiet, self.late_hole) = (true, false, false);
        (self.missing, self.concealed) = (0, 0);
        Placed::Audio
    }

    /// Where a timestamp lies, at the native rate; bends the map where it does not show.
    fn aim(&mut self, timestamp: i64, native: i64, clock: i64, map: &mut ClockMap) -> i64 {
        let at = |map: &ClockMap| (map.position(timestamp) * native).div_euclid(clock);
        if map.wants_correction() {
            let hole = at(map) - self.track.end();
            let cover = if self.missing == 0 && hole * 1_000 >= HIDING_HOLE_MS * native {
                Cover::Gap
            } else if self.track.ends_quietly() {
                Cover::Quiet
            } else {
                Cover::Speech
            };
            map.correct(cover, timestamp, (clock / native).max(1));
        }
        map.settle();
        at(map)
    }

    /// Makes the codec's decoder the current one; the track follows its rate.
    fn select(&mut self, kind: CodecKind) -> Option<usize> {
        if let Some(current) = self.current.filter(|&at| self.slots.get(at).is_some_and(|slot| slot.kind == kind)) {
            return Some(current);
        }
        let at = match self.slots.iter().position(|slot| slot.kind == kind) {
            Some(at) => at,
            None => {
                self.slots.push(Slot { kind, decoder: AudioDecoder::new(kind).ok() });
                self.slots.len() - 1
            }
        };
        let before = i64::from(self.track.native_rate().max(1));
        self.track.set_native_rate(kind.audio_rate());
        let rate = i64::from(kind.audio_rate());
        let whole = self.media_end * before == self.track.end() * rate;
        self.media_end = if whole { self.track.end() } else { (self.media_end * rate / before).min(self.track.end()) };
        self.concealed = self.concealed * rate / before;
        self.current = Some(at);
        Some(at)
    }

    fn note_gap(&mut self, position: i64, samples: i64, missing: u64, fresh: bool) {
        if position <= self.media_end {
            return;
        }
        let rate = self.track.native_rate();
        let lost = samples.saturating_mul(i64::try_from(missing).unwrap_or(i64::MAX));
        let loss = if self.late_hole {
            Some((self.media_end, position))
        } else if missing == 0 || !self.started {
            None
        } else if self.quiet {
            Some((self.media_end, position.min(self.media_end.saturating_add(lost))))
        } else {
            Some((self.media_end.max(position.saturating_sub(lost)), position))
        };
        if let Some((from, to)) = loss.filter(|_| self.started) {
            self.gaps.add(to_ms(from, rate), to_ms(to, rate), GapCause::Loss);
        } else if fresh || !self.started {
            self.note_no_media(to_ms(position, rate));
        }
    }

    /// Nothing came although the stream was active, up to here.
    fn note_no_media(&mut self, until_ms: u64) {
        if self.held_since_ms.is_some() || self.quiet {
            return;
        }
        let from = to_ms(self.media_end, self.track.native_rate()).max(self.active_since_ms);
        if until_ms >= from + NO_MEDIA_MS {
            self.gaps.add(from, until_ms, GapCause::NoMedia);
        }
    }

    /// Fills up to `position_us` what no packet filled, so that it can be read.
    pub(crate) fn fill_until(&mut self, position_us: i64) {
        let missing = self.track.missing_until(position_us);
        if missing == 0 {
            return;
        }
        if self.started && !self.quiet && self.held_since_ms.is_none() {
            self.conceal(missing);
        } else {
            self.track.write_silence(missing);
        }
    }

    /// As [`Voice::conceal`], when the payload behind the gap is at hand: it may carry the end of it once more (Opus).
    fn conceal_before(&mut self, samples: usize, following: &[u8]) {
        let left = i64::from(self.track.native_rate()) * CONCEAL_MS / 1_000 - self.concealed;
        let fits = usize::try_from(left).is_ok_and(|left| samples <= left);
        let slot = self.current.and_then(|current| self.slots.get_mut(current));
        let decoder = slot.filter(|slot| fits && slot.kind == CodecKind::Opus).and_then(|slot| slot.decoder.as_mut());
        match decoder {
            Some(decoder) => self.track.write(|out| decoder.decode_fec(samples, following, out)),
            None => self.conceal(samples),
        }
    }

    fn conceal(&mut self, samples: usize) {
        let left = i64::from(self.track.native_rate()) * CONCEAL_MS / 1_000 - self.concealed;
        let audible = usize::try_from(left).unwrap_or(0).min(samples);
        let decoder =
            self.current.and_then(|current| self.slots.get_mut(current)).and_then(|slot| slot.decoder.as_mut());
        let concealed = match decoder {
            Some(decoder) if audible > 0 => {
                self.track.write(|out| decoder.conceal(audible, out));
                audible
            }
            _ => 0,
        };
        self.concealed += i64::try_from(concealed).unwrap_or(0);
        if samples > concealed {
            self.track.write_silence(samples - concealed);
        }
    }

    /// Signalling makes the stream active or not.
    pub(crate) fn set_active(&mut self, active: bool, now_ms: u64) {
        match (active, self.held_since_ms) {
            (false, None) => {
                self.note_no_media(now_ms);
                self.active_before_ms = self.active_ms(now_ms);
                self.held_since_ms = Some(now_ms);
            }
            (true, Some(since)) => {
                self.gaps.add(since, now_ms, GapCause::Hold);
                self.held_since_ms = None;
                self.active_since_ms = now_ms;
                // What was heard before the hold does not come back as concealment.
                self.concealed = i64::from(self.track.native_rate()) * CONCEAL_MS / 1_000;
            }
            (true, None) | (false, Some(_)) => {}
        }
    }

    /// So long signalling had the stream active, in ms.
    pub(crate) fn active_ms(&self, now_ms: u64) -> u64 {
        let open = if self.held_since_ms.is_some() { 0 } else { now_ms.saturating_sub(self.active_since_ms) };
        self.active_before_ms + open
    }

    /// The recording ends: what is open is closed.
    pub(crate) fn finish(&mut self, now_ms: u64) {
        self.note_no_media(now_ms);
        if let Some(since) = self.held_since_ms.take() {
            self.gaps.add(since, now_ms, GapCause::Hold);
        }
    }
}

fn to_ms(position: i64, rate: u32) -> u64 {
    u64::try_from(position * 1_000 / i64::from(rate.max(1))).unwrap_or(0)
}
