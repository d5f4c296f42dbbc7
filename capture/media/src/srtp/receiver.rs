//! The receiving side of one stream: which key, which rollover counter, seen before or not.
//!
//! - The index of a packet is guessed from the newest one (RFC 3711 3.3.1) and moves only when the packet authenticates.
//! - We may join late, when the counter of a long call has rolled over already: a source that has not
//!   authenticated yet is tried with higher counters now and then.
//! - After a change of keys the old ones open packets for some seconds more; the counter goes on or begins
//!   anew, both occur.
//! - The RTCP index is not checked for replay: a report that comes twice does no harm.

use std::time::{Duration, Instant};

use super::cipher::{Transform, header_len};
use super::{MAX_KEYS, SrtpConfig};

/// Packets under old keys are opened this long after a change.
const OVERLAP: Duration = Duration::from_secs(10);
/// Sources with counters of their own.
const MAX_SOURCES: usize = 8;
/// Highest counter with which a source that joins late is tried.
const LATE_ROLLOVERS: u32 = 16;
/// Every so many failures one packet is tried with all counters.
const TRY_LATE_EVERY: u32 = 8;
/// Packets in a row that do not authenticate before it is said.
const ALARM_AFTER: u32 = 25;
/// It is said again after this.
const ALARM_AGAIN: Duration = Duration::from_secs(10);

/// Why a packet is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// No key opens it.
    Undecryptable,
    /// It looks like RTP in clear, on a stream that should be protected.
    Unprotected,
    /// It was here before.
    Replay,
}

/// What opening a packet tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// It is in the buffer.
    Plain,
    /// It is in the buffer, the first after an alarm.
    Again,
    /// It is dropped.
    Dropped(Reject),
    /// It is dropped, and it is time to say so: nothing has authenticated for a while.
    Alarm(Reject),
}

struct Source {
    ssrc: u32,
    /// Index of the newest packet.
    newest: u64,
    /// Bit n: the packet n before the newest was seen.
    seen: u128,
    used: u64,
}

impl Source {
    /// The index of a sequence number that lies closest to the newest packet's.
    fn index(&self, sequence: u16) -> u64 {
        let base = self.newest & !0xffff;
        let low = u64::from(sequence);
        let same = base | low;
        let distance = |index: u64| index.abs_diff(self.newest);
        let mut best = same;
        for other in [same.checked_sub(0x1_0000), same.checked_add(0x1_0000).filter(|index| index >> 48 == 0)]
            .into_iter()
            .flatten()
        {
            if distance(other) < distance(best) {
                best = other;
            }
        }
        best
    }

    fn is_new(&self, index: u64) -> bool {
        index > self.newest || (self.newest - index < 128 && self.seen >> (self.newest - index) & 1 == 0)
    }

    fn note(&mut self, index: u64) {
        if index > self.newest {
            let ahead = index - self.newest;
            self.seen = if ahead < 128 { self.seen << ahead } else { 0 } | 1;
            self.newest = index;
        } else if self.newest - index < 128 {
            self.seen |= 1 << (self.newest - index);
        }
    }
}

/// Opens the packets of one stream.
pub struct SrtpReceiver {
    config: SrtpConfig,
    keys: Vec<Transform>,
    old: Vec<Transform>,
    old_until: Option<Instant>,
    ours: Option<Transform>,
    sources: Vec<Source>,
    /// Counts packets, to find the source that was quiet longest.
    clock: u64,
    rtcp_index: u32,
    failures: u32,
    told: Option<Instant>,
}

impl std::fmt::Debug for SrtpReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SrtpReceiver")
            .field("suite", &self.config.suite)
            .field("failures", &self.failures)
            .finish_non_exhaustive()
    }
}

fn transforms(config: &SrtpConfig) -> Vec<Transform> {
    config.keys.iter().take(MAX_KEYS).filter_map(|key| Transform::new(config.suite, key)).collect()
}

impl SrtpReceiver {
    /// A receiver with its first keys.
    pub fn new(config: SrtpConfig) -> SrtpReceiver {
        SrtpReceiver {
            keys: transforms(&config),
            old: Vec::new(),
            old_until: None,
            ours: Transform::new(config.suite, &config.ours),
            sources: Vec::new(),
            clock: 0,
            rtcp_index: 0,
            failures: 0,
            told: None,
            config,
        }
    }

    /// The suite, by the name of `a=crypto`.
    pub fn suite(&self) -> &'static str {
        self.config.suite.name()
    }

    /// Takes new keys; the old ones open what is still under way.
    pub fn rekey(&mut self, now: Instant, config: SrtpConfig) {
        if config == self.config {
            return;
        }
        if config.keys != self.config.keys || config.suite != self.config.suite {
            self.old = std::mem::replace(&mut self.keys, transforms(&config));
            self.old_until = Some(now + OVERLAP);
            self.failures = 0;
        }
        if config.ours != self.config.ours || config.suite != self.config.suite {
            self.ours = Transform::new(config.suite, &config.ours);
        }
        self.config = config;
    }

    /// Opens an RTP packet into `out`.
    pub fn open_rtp(&mut self, now: Instant, packet: &[u8], out: &mut Vec<u8>) -> Opened {
        match self.try_rtp(now, packet, out) {
            Ok(()) => {
                self.failures = 0;
                if self.told.take().is_some() { Opened::Again } else { Opened::Plain }
            }
            Err(Reject::Replay) => Opened::Dropped(Reject::Replay),
            Err(reject) => self.failed(now, reject),
        }
    }

    fn failed(&mut self, now: Instant, reject: Reject) -> Opened {
        self.failures = self.failures.saturating_add(1);
        let due = self.told.is_none_or(|told| now.saturating_duration_since(told) >= ALARM_AGAIN);
        if self.failures >= ALARM_AFTER && due {
            self.told = Some(now);
            return Opened::Alarm(reject);
        }
        Opened::Dropped(reject)
    }

    fn try_rtp(&mut self, now: Instant, packet: &[u8], out: &mut Vec<u8>) -> Result<(), Reject> {
        if self.old_until.is_some_and(|until| now >= until) {
            self.old_until = None;
            self.old.clear();
        }
        let field = |range: std::ops::Range<usize>| packet.get(range).ok_or(Reject::Undecryptable);
        let sequence = field(2..4)?.try_into().map_or(0, u16::from_be_bytes);
        let ssrc = field(8..12)?.try_into().map_or(0, u32::from_be_bytes);
        self.clock += 1;
        let known = self.sources.iter().position(|source| source.ssrc == ssrc);
        let guesses: Vec<u64> = match known.and_then(|at| self.sources.get(at)) {
            Some(source) => {
                let index = source.index(sequence);
                // After a change of keys some begin to count anew.
                let anew = u64::from(sequence);
                let both = self.failures > 0 && anew != index;
                [Some(index), both.then_some(anew)].into_iter().flatten().collect()
            }
            None if self.failures % TRY_LATE_EVERY == 1 => {
                (0..=LATE_ROLLOVERS).map(|rollover| u64::from(rollover) << 16 | u64::from(sequence)).collect()
            }
            None => vec![u64::from(sequence)],
        };
        for index in guesses {
            let opens = |transform: &&Transform| transform.fits(packet);
            let fitting = self.keys.iter().filter(opens).chain(self.old.iter().filter(opens));
            for transform in fitting {
                if !transform.open_rtp(packet, index, out) {
                    continue;
                }
                return self.authenticated(ssrc, index, known);
            }
        }
        Err(if looks_plain(packet) { Reject::Unprotected } else { Reject::Undecryptable })
    }

    fn authenticated(&mut self, ssrc: u32, index: u64, known: Option<usize>) -> Result<(), Reject> {
        let clock = self.clock;
        if let Some(source) = known.and_then(|at| self.sources.get_mut(at)) {
            source.used = clock;
            if source.index(u16::try_from(index & 0xffff).unwrap_or(0)) != index {
                *source = Source { ssrc, newest: index, seen: 1, used: clock };
                return Ok(());
            }
            if !source.is_new(index) {
                return Err(Reject::Replay);
            }
            source.note(index);
            return Ok(());
        }
        if self.sources.len() >= MAX_SOURCES
            && let Some(quiet) = self.sources.iter().enumerate().min_by_key(|(_, source)| source.used).map(|(at, _)| at)
        {
            self.sources.swap_remove(quiet);
        }
        self.sources.push(Source { ssrc, newest: index, seen: 1, used: clock });
        Ok(())
    }

    /// Opens an RTCP packet.
    pub fn open_rtcp(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut all = self.keys.iter().chain(&self.old);
        all.find_map(|transform| transform.open_rtcp(packet)).map(|(plain, _)| plain)
    }

    /// Protects an RTCP packet of ours.
    pub fn seal_rtcp(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        self.rtcp_index = (self.rtcp_index + 1) & 0x7fff_ffff;
        self.ours.as_ref()?.seal_rtcp(packet, self.rtcp_index)
    }
}

/// A payload of a whole number of 10 ms at 64 kbit/s: what a tag lengthens is never that.
fn looks_plain(packet: &[u8]) -> bool {
    let payload = header_len(packet).map_or(0, |header| packet.len() - header);
    payload > 0 && payload % 80 == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::{SrtpKey, SrtpSuite};
    use super::*;

    pub(super) fn packet(ssrc: u32, sequence: u16) -> Vec<u8> {
        let mut packet = vec![0x80, 0];
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&(u32::from(sequence) * 160).to_be_bytes());
        packet.extend_from_slice(&ssrc.to_be_bytes());
        packet.extend((0..160).map(|n| (n as u8).wrapping_mul(sequence as u8)));
        packet
    }

    fn config(suite: SrtpSuite, seed: u64) -> SrtpConfig {
        let mut rng = StdRng::seed_from_u64(seed);
        SrtpConfig { suite, keys: vec![SrtpKey::random(suite, &mut rng)], ours: SrtpKey::random(suite, &mut rng) }
    }

    fn sender(config: &SrtpConfig) -> Transform {
        Transform::new(config.suite, &config.keys[0]).unwrap()
    }

    #[test]
    fn every_suite_opens_what_it_sealed_and_nothing_that_was_changed() {
        for (suite, _) in SrtpSuite::ALL {
            let config = config(suite, 1);
            let (sender, mut receiver) = (sender(&config), SrtpReceiver::new(config));
            let now = Instant::now();
            let mut out = Vec::new();
            let sealed = sender.seal_rtp(&packet(7, 1), 1).unwrap();
            assert_eq!(sealed.len(), 172 + suite.rtp_tag_len());
            for at in 0..sealed.len() {
                let mut bad = sealed.clone();
                bad[at] ^= 1;
                assert_ne!(receiver.open_rtp(now, &bad, &mut out), Opened::Plain, "{suite:?} byte {at}");
            }
            receiver.told = None;
            assert_eq!(receiver.open_rtp(now, &sealed, &mut out), Opened::Plain);
            assert_eq!(out, packet(7, 1));
            assert_eq!(receiver.open_rtp(now, &sealed, &mut out), Opened::Dropped(Reject::Replay));
            let report = [0x81, 201, 0, 1, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8];
            let sealed = sender.seal_rtcp(&report, 5).unwrap();
            assert_eq!(receiver.open_rtcp(&sealed).unwrap(), report);
            let mut bad = sealed.clone();
            bad[10] ^= 1;
            assert_eq!(receiver.open_rtcp(&bad), None);
            let ours = receiver.seal_rtcp(&report).unwrap();
            assert_ne!(ours[8..16], report[8..16]);
        }
    }

    #[test]
    fn seventy_thousand_packets_go_over_a_rollover_with_loss_and_reordering() {
        let config = config(SrtpSuite::AesCm128HmacSha1_80, 2);
        let (sender, mut receiver) = (sender(&config), SrtpReceiver::new(config));
        let mut rng = StdRng::seed_from_u64(9);
        let (mut out, now) = (Vec::new(), Instant::now());
        let mut waiting: Vec<u64> = Vec::new();
        for index in 65_000..135_000_u64 {
            if !rng.random_bool(0.03) {
                waiting.push(index);
            }
            while waiting.len() > 20 {
                let index = waiting.remove(rng.random_range(0..8));
                let sealed = sender.seal_rtp(&packet(7, (index & 0xffff) as u16), index).unwrap();
                assert_eq!(receiver.open_rtp(now, &sealed, &mut out), Opened::Plain, "index {index}");
            }
        }
    }

    #[test]
    fn a_call_joined_after_three_rollovers_is_opened_soon() {
        let config = config(SrtpSuite::AesCm128HmacSha1_32, 3);
        let (sender, mut receiver) = (sender(&config), SrtpReceiver::new(config));
        let (mut out, now, base) = (Vec::new(), Instant::now(), 3 << 16);
        let opened = (100..130_u64).filter(|low| {
            let sealed = sender.seal_rtp(&packet(7, *low as u16), base | low).unwrap();
            receiver.open_rtp(now, &sealed, &mut out) == Opened::Plain
        });
        assert!(opened.count() >= 28);
    }

    #[test]
    fn keys_change_with_an_overlap_and_the_counter_goes_on_or_begins_anew() {
        for anew in [false, true] {
            let (first, second) = (config(SrtpSuite::AesCm128HmacSha1_80, 4), config(SrtpSuite::AeadAes128Gcm, 5));
            let (old, new) = (sender(&first), sender(&second));
            let mut receiver = SrtpReceiver::new(first);
            let (mut out, now) = (Vec::new(), Instant::now());
            let base = 1 << 16;
            for low in 65_530..65_536_u64 {
                let sealed = old.seal_rtp(&packet(7, low as u16), low).unwrap();
                assert_eq!(receiver.open_rtp(now, &sealed, &mut out), Opened::Plain);
            }
            receiver.rekey(now, second);
            let late = old.seal_rtp(&packet(7, 0), base).unwrap();
            assert_eq!(receiver.open_rtp(now, &late, &mut out), Opened::Plain, "still under way");
            let opened = (1..20_u64).filter(|low| {
                let index = if anew { *low } else { base | low };
                let sealed = new.seal_rtp(&packet(7, *low as u16), index).unwrap();
                receiver.open_rtp(now, &sealed, &mut out) == Opened::Plain
            });
            assert!(opened.count() >= 18, "anew {anew}");
            let stale = old.seal_rtp(&packet(7, 30), base | 30).unwrap();
            assert_ne!(receiver.open_rtp(now + OVERLAP, &stale, &mut out), Opened::Plain);
        }
    }

    #[test]
    fn packets_name_their_key_by_mki() {
        let mut config = config(SrtpSuite::AesCm128HmacSha1_80, 6);
        config.keys[0].mki = Some(vec![0, 1]);
        let mut rng = StdRng::seed_from_u64(7);
        let mut other = SrtpKey::random(config.suite, &mut rng);
        other.mki = Some(vec![0, 2]);
        config.keys.push(other);
        let senders: Vec<Transform> = transforms(&config);
        let mut receiver = SrtpReceiver::new(config);
        let (mut out, now) = (Vec::new(), Instant::now());
        for (number, sender) in senders.iter().enumerate() {
            let sealed = sender.seal_rtp(&packet(7, number as u16), number as u64).unwrap();
            assert_eq!(sealed.len(), 172 + 2 + 10);
            assert_eq!(receiver.open_rtp(now, &sealed, &mut out), Opened::Plain);
            assert_eq!(out, packet(7, number as u16));
        }
    }

    #[test]
    fn wrong_keys_are_an_alarm_told_again_and_taken_back() {
        let (right, wrong) = (config(SrtpSuite::AesCm128HmacSha1_80, 8), config(SrtpSuite::AesCm128HmacSha1_80, 9));
        let (good, bad) = (sender(&right), sender(&wrong));
        let mut receiver = SrtpReceiver::new(right);
        let mut out = Vec::new();
        let began = Instant::now();
        let mut alarms = Vec::new();
        for n in 0..1_000_u64 {
            let sealed = bad.seal_rtp(&packet(7, n as u16), n).unwrap();
            if let Opened::Alarm(reject) = receiver.open_rtp(began + Duration::from_millis(20 * n), &sealed, &mut out) {
                alarms.push((n, reject));
            }
        }
        assert_eq!(alarms, [(24, Reject::Undecryptable), (524, Reject::Undecryptable)]);
        assert!(receiver.sources.is_empty(), "nothing moved");
        let sealed = good.seal_rtp(&packet(7, 1_000), 1_000).unwrap();
        assert_eq!(receiver.open_rtp(began + Duration::from_secs(21), &sealed, &mut out), Opened::Again);
        assert_eq!(receiver.open_rtp(began, &packet(7, 1_001), &mut out), Opened::Dropped(Reject::Unprotected));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm() {
        let mut rng = StdRng::seed_from_u64(11);
        for (suite, _) in SrtpSuite::ALL {
            let mut receiver = SrtpReceiver::new(config(suite, 1));
            let mut out = Vec::new();
            for _ in 0..20_000 {
                let mut bytes = vec![0; rng.random_range(0..80)];
                rng.fill(&mut bytes[..]);
                if let Some(first) = bytes.first_mut().filter(|_| rng.random_bool(0.8)) {
                    *first = 0x80 | *first & 0x3f;
                }
                assert!(matches!(
                    receiver.open_rtp(Instant::now(), &bytes, &mut out),
                    Opened::Dropped(_) | Opened::Alarm(_)
                ));
                assert_eq!(receiver.open_rtcp(&bytes), None);
            }
        }
    }
}
