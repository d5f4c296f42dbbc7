//! From RTP timestamps to call time.
//!
//! Call time is our own clock since the recording began; a packet's first
//! sample belongs where the packet would have arrived with the least delay of
//! the path. So the map follows the *minimum* of arrival less timestamp: over
//! the first packets freely, later over sliding windows, which follows a
//! sender's clock drift (±200 ppm and more) without a model of it.
//!
//! Once audio lies on the timeline the map may only be bent: in one go where
//! nothing is said, otherwise a sample at a time. A timestamp that disagrees
//! with its arrival by more than 200 ms is a jump: at once when it came too
//! early for that to be delay, after 60 ms without a packet that fits when it
//! came late (a burst after a stall looks the same at first, and ends sooner).
//!
//! All quantities are ticks of the stream's RTP clock unless named otherwise.

/// Disagreement with arrival that is a jump.
const JUMP_MS: i64 = 200;
/// Late packets for this long without one in time are a new clock, not a stall.
const BEHIND_US: i64 = 60_000;
/// The same, by the caller's clock, when no further packets come.
const BEHIND_IDLE_US: i64 = 100_000;
/// A window is at least this long and holds at least so many packets.
const WINDOW_US: i64 = 2_000_000;
const WINDOW_PACKETS: u32 = 25;
const WINDOWS: usize = 8;
/// A window that ended longer ago says nothing of today's clock.
const WINDOW_AGE_US: i64 = 60_000_000;
/// Corrections smaller than this are not worth it, in 1/10000 s: 3 ms. Arrivals
/// are never exact, and audio that stays put is worth more than the last millisecond.
const QUIET_DEAD_BAND: i64 = 30;
/// While somebody speaks: 4 ms.
const SPEECH_DEAD_BAND: i64 = 40;
/// From here speech is bent twice as hard: 12 ms.
const SPEECH_URGENT: i64 = 120;
/// Largest correction at once in silence: 5 ms.
const QUIET_STEP: i64 = 50;
/// One sample of correction per so much speech, in 1/10000 s: 40 ms.
const SPEECH_PACE: i64 = 400;

/// How a packet's timestamp agrees with its arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// As the map says.
    Fits,
    /// Later than it can be; delay or a new clock, time will tell.
    Behind,
    /// On another clock: start a new map with this packet.
    Jumped,
    /// On another clock since the packet of this number: [`ClockMap::shift_behind`].
    BehindSince(u64),
}

/// What plays at the place of a correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover {
    /// A gap without audio.
    Gap,
    /// Audio in which nobody speaks.
    Quiet,
    /// Speech.
    Speech,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    minimum: i64,
    packets: u32,
    since_us: i64,
}

#[derive(Debug, Clone, Copy)]
struct Behind {
    number: u64,
    since_us: i64,
    minimum: i64,
}

/// The map of one stretch of a source's timestamps.
#[derive(Debug, Clone)]
pub struct ClockMap {
    rate: i64,
    /// Position = timestamp + offset.
    offset: i64,
    /// Audio lies on the timeline by this map.
    settled: bool,
    /// Least arrival less timestamp, over the windows.
    floor: i64,
    open: Window,
    closed: [Option<Window>; WINDOWS],
    next: usize,
    behind: Option<Behind>,
    /// Added to the floor: alignment with another stream of the same sender.
    bias: i64,
    /// Position of the last correction within speech.
    bent_at: i64,
}

impl ClockMap {
    /// The first packet of a stretch: its timestamp belongs where it arrived.
    pub fn new(clock_rate: u32, timestamp: i64, arrival_us: i64) -> ClockMap {
        let rate = i64::from(clock_rate.max(1));
        let offset = us_to_ticks(arrival_us, rate) - timestamp;
        ClockMap {
            rate,
            offset,
            settled: false,
            floor: offset,
            open: Window { minimum: offset, packets: 1, since_us: arrival_us },
            closed: [None; WINDOWS],
            next: 0,
            behind: None,
            bias: 0,
            bent_at: i64::MIN / 2,
        }
    }

    /// Ticks per second.
    pub fn clock_rate(&self) -> u32 {
        u32::try_from(self.rate).unwrap_or(8_000)
    }

    /// Call time of a timestamp, in ticks since the recording began.
    pub fn position(&self, timestamp: i64) -> i64 {
        timestamp + self.offset
    }

    /// Call time of a timestamp by arrivals alone, in µs: without bending in progress, without alignment.
    pub fn arrival_position_us(&self, timestamp: i64) -> i64 {
        ticks_to_us(timestamp + self.floor, self.rate)
    }

    /// Learns from a packet that is newer than all before.
    pub fn observe(&mut self, number: u64, timestamp: i64, arrival_us: i64) -> Fit {
        let transit = us_to_ticks(arrival_us, self.rate) - timestamp;
        let jump = self.rate * JUMP_MS / 1_000;
        if transit < self.floor - jump {
            return Fit::Jumped;
        }
        if transit > self.floor + jump {
            let behind = self.behind.get_or_insert(Behind { number, since_us: arrival_us, minimum: transit });
            behind.minimum = behind.minimum.min(transit);
            if arrival_us - behind.since_us >= BEHIND_US {
                return Fit::BehindSince(behind.number);
            }
            return Fit::Behind;
        }
        self.behind = None;
        self.learn(transit, arrival_us);
        Fit::Fits
    }

    fn learn(&mut self, transit: i64, arrival_us: i64) {
        self.open.minimum = self.open.minimum.min(transit);
        self.open.packets += 1;
        if transit < self.floor {
            self.floor = transit;
        }
        if self.open.packets >= WINDOW_PACKETS && arrival_us - self.open.since_us >= WINDOW_US {
            if let Some(slot) = self.closed.get_mut(self.next) {
                *slot = Some(self.open);
            }
            self.next = (self.next + 1) % WINDOWS;
            let fresh = |window: &&Window| arrival_us - window.since_us < WINDOW_AGE_US;
            self.floor = self
                .closed
                .iter()
                .flatten()
                .filter(fresh)
                .map(|window| window.minimum)
                .fold(self.open.minimum, i64::min);
            self.open = Window { minimum: i64::MAX, packets: 0, since_us: arrival_us };
        }
        if !self.settled {
            self.offset = self.floor + self.bias;
        }
    }

    /// The first packet whose place is undecided: packets from it on wait.
    pub fn undecided(&self) -> Option<u64> {
        self.behind.map(|behind| behind.number)
    }

    /// Decides about late packets when none has come since; the number as in [`Fit::BehindSince`].
    pub fn decide(&self, now_us: i64) -> Option<u64> {
        self.behind.filter(|behind| now_us - behind.since_us >= BEHIND_IDLE_US).map(|behind| behind.number)
    }

    /// Starts anew with the packets that were too late for the old clock.
    pub fn shift_behind(&mut self, now_us: i64) {
        if let Some(behind) = self.behind.take() {
            self.offset = behind.minimum;
            self.floor = behind.minimum;
            self.open = Window { minimum: behind.minimum, packets: 1, since_us: now_us };
            self.closed = [None; WINDOWS];
            self.settled = false;
            self.bias = 0;
        }
    }

    /// Audio goes onto the timeline: from now on the map only bends.
    pub fn settle(&mut self) {
        self.settled = true;
    }

    /// Delays this stream against its arrivals, to match another of the same sender; in µs.
    pub fn set_bias_us(&mut self, bias_us: i64) {
        self.bias = us_to_ticks(bias_us, self.rate);
        if !self.settled {
            self.offset = self.floor + self.bias;
        }
    }

    /// How far the map should move.
    pub fn error(&self) -> i64 {
        self.floor + self.bias - self.offset
    }

    /// True when a correction would be made in silence: worth looking whether there is any.
    pub fn wants_correction(&self) -> bool {
        self.error().saturating_abs().saturating_mul(10_000) >= self.rate * QUIET_DEAD_BAND
    }

    /// Bends the map as far as `cover` hides, by whole samples of `sample` ticks.
    pub fn correct(&mut self, cover: Cover, timestamp: i64, sample: i64) {
        let error = self.error();
        let size = error.saturating_abs().saturating_mul(10_000);
        let most = match cover {
            Cover::Gap => error.abs(),
            Cover::Quiet if size >= self.rate * QUIET_DEAD_BAND => self.rate * QUIET_STEP / 10_000,
            Cover::Speech if size >= self.rate * SPEECH_URGENT => 2 * sample,
            Cover::Speech if size >= self.rate * SPEECH_DEAD_BAND => {
                let position = self.position(timestamp);
                if position.saturating_sub(self.bent_at).saturating_mul(10_000) < self.rate * SPEECH_PACE {
                    return;
                }
                self.bent_at = position;
                sample
            }
            Cover::Quiet | Cover::Speech => 0,
        };
        let step = error.abs().min(most) / sample.max(1) * sample.max(1);
        self.offset += step * error.signum();
    }
}

/// Microseconds in ticks of a clock.
pub fn us_to_ticks(us: i64, rate: i64) -> i64 {
    (us * rate).div_euclid(1_000_000)
}

/// Ticks of a clock in microseconds.
pub fn ticks_to_us(ticks: i64, rate: i64) -> i64 {
    (ticks * 1_000_000).div_euclid(rate.max(1))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn ms(position: i64) -> i64 {
        position / 8
    }

    #[test]
    fn the_least_delayed_of_the_first_packets_is_the_anchor() {
        let mut map = ClockMap::new(8_000, 1_000, 130_000);
        for (packet, delay) in [(1, 17_000), (2, 4_000), (3, 25_000)] {
            assert_eq!(
                map.observe(
                    packet,
                    1_000 + 160 * packet.cast_signed(),
                    100_000 + packet.cast_signed() * 20_000 + delay
                ),
                Fit::Fits
            );
        }
        assert_eq!(ms(map.position(1_000)), 104);
        // Settled, it bends only.
        map.settle();
        map.observe(4, 1_000 + 640, 176_000);
        assert_eq!(ms(map.position(1_000)), 104);
        map.correct(Cover::Speech, 1_640, 1);
        assert_eq!(map.position(1_000), 104 * 8 - 1);
        map.correct(Cover::Gap, 1_640, 1);
        assert_eq!(ms(map.position(1_000)), 96);
    }

    #[test]
    fn drift_is_followed_within_milliseconds() {
        for ppm in [-200, 200_i64] {
            let mut map = ClockMap::new(8_000, 0, 0);
            map.settle();
            let mut worst = 0;
            for packet in 1..90_000_i64 {
                let sent = packet * 20_000;
                let jitter = packet * 7_919 % 30_000;
                let timestamp = (sent + sent * ppm / 1_000_000) * 8 / 1_000;
                map.observe(packet.cast_unsigned(), timestamp, sent + jitter);
                if map.wants_correction() {
                    map.correct(Cover::Speech, timestamp, 1);
                }
                worst = worst.max((ticks_to_us(map.position(timestamp), 8_000) - sent).abs());
            }
            assert!(worst < 12_000, "{ppm} ppm: {worst} us");
        }
    }

    #[test]
    fn a_step_ahead_is_a_jump_at_once() {
        let mut map = ClockMap::new(8_000, 0, 0);
        assert_eq!(map.observe(1, 160 + 8_000, 20_000), Fit::Jumped);
    }

    #[test]
    fn a_burst_after_a_stall_is_no_jump_but_a_stopped_clock_is() {
        let mut map = ClockMap::new(8_000, 0, 0);
        for packet in 1..25_u64 {
            let fit = map.observe(packet, packet.cast_signed() * 160, 500_000 + packet.cast_signed() * 100);
            assert_eq!(fit, if packet < 16 { Fit::Behind } else { Fit::Fits }, "{packet}");
        }
        assert_eq!(map.observe(25, 25 * 160, 500_000), Fit::Fits);
        assert_eq!(map.undecided(), None);
        // Ten seconds later the timestamps go on as if nothing had been.
        for (packet, fit) in [(26, Fit::Behind), (27, Fit::Behind), (28, Fit::Behind), (29, Fit::BehindSince(26))] {
            assert_eq!(
                map.observe(packet, packet.cast_signed() * 160, 10_000_000 + packet.cast_signed() * 20_000),
                fit
            );
        }
        map.shift_behind(10_600_000);
        assert_eq!(ms(map.position(26 * 160)), 10_520);
    }

    #[test]
    fn few_packets_in_a_long_silence_do_not_raise_the_floor() {
        let mut map = ClockMap::new(8_000, 0, 0);
        for packet in 1..20_u64 {
            map.observe(packet, packet.cast_signed() * 8_000, packet.cast_signed() * 1_000_000 + 90_000);
        }
        assert_eq!(map.error(), 0);
    }
}
