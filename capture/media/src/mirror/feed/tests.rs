#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
use std::net::SocketAddr;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::mirror::{Outgoing, Port, RING, Tap, TapStats};
use crate::rtp::StreamIndex;

const COPY: Uuid = Uuid::from_u128(7);
const VISIT: Duration = Duration::from_millis(100);
const WAY: Duration = Duration::from_millis(5);

fn source() -> SocketAddr {
    "10.0.0.1:4000".parse().unwrap()
}

/// What is on its way, and when it arrives.
#[derive(Debug)]
enum Flying {
    Frame(Bytes),
    Report(Report),
}

/// A tap and a feed with a bad link between them.
struct Link {
    start: Instant,
    now: Instant,
    tap: Tap,
    feed: Feed,
    flying: Vec<(Instant, Flying)>,
    rng: StdRng,
    loss: f64,
    /// Messages are lost as well: the link was down.
    cut: bool,
    sent: Vec<u32>,
    played: Vec<Replay>,
}

impl Link {
    fn new(loss: f64, seed: u64) -> Link {
        let start = Instant::now() + Duration::from_secs(3_600);
        Link {
            start,
            now: start,
            tap: Tap::new(COPY, start, 1_100),
            feed: Feed::new(start, COPY),
            flying: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
            loss,
            cut: false,
            sent: Vec::new(),
            played: Vec::new(),
        }
    }

    /// One visit with so many datagrams, each of which says its number.
    fn visit(&mut self, datagrams: usize) {
        self.now += VISIT;
        self.tap.begin_visit(self.now);
        for n in 0..datagrams {
            let number = self.sent.len() as u32;
            self.sent.push(number);
            let mut bytes = number.to_be_bytes().to_vec();
            bytes.resize(172, 0);
            let arrival = self.now - Duration::from_millis(20) * n as u32;
            self.tap.datagram(arrival, StreamIndex(0), Port::Rtp, source(), &bytes);
        }
        self.tap.end_visit();
        self.carry();
    }

    fn control(&mut self, control: &Control) {
        self.tap.control(self.now, control);
        self.carry();
    }

    /// Sends, receives, reports.
    fn carry(&mut self) {
        while let Some(output) = self.tap.poll_output() {
            let (frame, sure) = match output {
                Outgoing::Datagram(frame) => (frame, false),
                Outgoing::Message(frame) => (frame, true),
            };
            if self.cut || !sure && self.rng.random_bool(self.loss) {
                continue;
            }
            let late = Duration::from_millis(self.rng.random_range(0..250));
            let twice = self.rng.random_bool(self.loss / 2.0);
            self.flying.push((self.now + WAY + if sure { Duration::ZERO } else { late }, Flying::Frame(frame.clone())));
            if twice {
                self.flying.push((self.now + WAY * 7, Flying::Frame(frame)));
            }
        }
        let now = self.now;
        self.flying.sort_by_key(|(at, _)| *at);
        for (at, flying) in self.flying.extract_if(.., |(at, _)| *at <= now).collect::<Vec<_>>() {
            match flying {
                Flying::Frame(frame) => self.feed.handle_frame(at, &frame).unwrap(),
                Flying::Report(report) => self.tap.handle_report(&report),
            }
        }
        self.feed.handle_timeout(now);
        while let Some(replay) = self.feed.poll_replay() {
            self.played.push(replay);
        }
        if let Some(report) = self.feed.poll_report(now).filter(|_| !self.cut) {
            self.flying.push((now + WAY, Flying::Report(report)));
        }
    }

    fn quiet(&mut self, visits: usize) {
        (0..visits).for_each(|_| self.visit(0));
    }

    fn heard(&self) -> Vec<u32> {
        let number = |replay: &Replay| match replay {
            Replay::Datagram(datagram) => Some(u32::from_be_bytes(datagram.bytes[..4].try_into().unwrap())),
            Replay::Advance(_) | Replay::Control(..) | Replay::Broken(_) => None,
        };
        self.played.iter().filter_map(number).collect()
    }
}

fn pause() -> Control {
    Control::Pause { by: None }
}

fn stop() -> Control {
    Control::Stop { reason: "BYE".into() }
}

#[test]
fn what_a_visit_took_is_told_in_its_order_and_the_advance_comes_after_it() {
    let mut link = Link::new(0.0, 1);
    (0..20).for_each(|_| link.visit(10));
    link.quiet(10);
    assert_eq!(link.heard(), link.sent);
    let before = link.played.iter().take_while(|replay| **replay != Replay::Advance(100_000)).count();
    assert_eq!(before, 10);
    let arrival = |n: usize| match &link.played[n] {
        Replay::Datagram(datagram) => datagram.arrival_us,
        _ => unreachable!("a datagram"),
    };
    assert_eq!([arrival(0), arrival(1), arrival(9)], [100_000, 80_000, -80_000]);
}

#[test]
fn a_third_of_all_frames_lost_is_filled_by_asking_again() {
    let mut link = Link::new(0.33, 2);
    (0..600).for_each(|_| link.visit(10));
    link.quiet(30);
    assert_eq!(link.heard(), link.sent);
    let (tap, feed) = (link.tap.stats(), link.feed.stats());
    assert!(tap.again > 100 && feed.given_up == 0, "{tap:?} {feed:?}");
}

#[test]
fn a_cut_longer_than_the_ring_costs_its_frames_and_nothing_else() {
    let mut link = Link::new(0.0, 3);
    (0..50).for_each(|_| link.visit(5));
    link.cut = true;
    (0..50).for_each(|_| link.visit(5));
    link.cut = false;
    (0..50).for_each(|_| link.visit(5));
    link.quiet(30);
    let heard = link.heard();
    let lost = link.sent.len() - heard.len();
    let most = 50 * 5;
    let least = most - (RING.as_millis() / VISIT.as_millis()) as usize * 5 - 5;
    assert!((least..=most).contains(&lost), "{lost} lost");
    assert_eq!(heard.iter().filter(|number| **number < 250 || **number >= 500).count(), 500);
    assert!(link.feed.stats().given_up > 0);
}

#[test]
fn media_behind_a_pause_that_was_lost_waits_for_the_pause() {
    let mut link = Link::new(0.0, 4);
    link.visit(5);
    link.quiet(3);
    link.cut = true;
    link.control(&pause());
    link.cut = false;
    link.now += VISIT;
    // Reports cannot pass yet.
    link.tap.begin_visit(link.now);
    link.tap.datagram(link.now, StreamIndex(0), Port::Rtp, source(), &[0, 0, 0, 9]);
    link.tap.end_visit();
    link.carry();
    assert!(!link.heard().contains(&9));
    link.quiet(30);
    let paused = link.played.iter().position(|replay| matches!(replay, Replay::Control(_, Control::Pause { .. })));
    let after = link.played.iter().position(|replay| matches!(replay, Replay::Datagram(one) if one.bytes.len() == 4));
    assert!(paused.unwrap() < after.unwrap());
}

#[test]
fn a_control_that_never_comes_breaks_the_copy() {
    let mut link = Link::new(0.0, 5);
    link.visit(5);
    link.cut = true;
    link.control(&pause());
    // Nothing that the copy says is heard, so the pause is not sent again.
    let mut frames = Vec::new();
    for _ in 0..120 {
        link.now += VISIT;
        link.tap.begin_visit(link.now);
        link.tap.datagram(link.now, StreamIndex(0), Port::Rtp, source(), b"secret");
        link.tap.end_visit();
        while let Some(output) = link.tap.poll_output() {
            let (Outgoing::Datagram(frame) | Outgoing::Message(frame)) = output;
            frames.push(frame.clone());
            link.feed.handle_frame(link.now, &frame).unwrap();
        }
    }
    let mut played = std::iter::from_fn(|| link.feed.poll_replay());
    assert!(played.any(|replay| matches!(replay, Replay::Broken(_))));
    assert!(!played.any(|replay| matches!(replay, Replay::Datagram(_))));
    let report = link.feed.poll_report(link.now).unwrap();
    assert!(report.ended);
    link.tap.handle_report(&report);
    assert!(link.tap.is_broken());
}

#[test]
fn the_end_is_the_last_input_and_ends_both_sides() {
    let mut link = Link::new(0.3, 6);
    (0..40).for_each(|_| link.visit(10));
    link.control(&stop());
    for _ in 0..30 {
        link.now += VISIT;
        link.carry();
    }
    assert_eq!(link.heard(), link.sent);
    assert!(matches!(link.played.last(), Some(Replay::Control(4_000_000, Control::Stop { .. }))));
    assert!(link.feed.is_ended() && link.tap.is_done() && !link.tap.is_broken());
}

#[test]
fn a_copy_that_never_answers_costs_a_bounded_ring() {
    let mut tap = Tap::new(COPY, Instant::now(), 1_100);
    let mut now = Instant::now();
    for _ in 0..10_000 {
        now += VISIT;
        tap.begin_visit(now);
        (0..10).for_each(|_| tap.datagram(now, StreamIndex(0), Port::Rtp, source(), &[0; 1_000]));
        tap.end_visit();
        while tap.poll_output().is_some() {}
    }
    assert!(tap.kept_bytes() <= 512 * 1024);
    assert!(tap.silent_for(now) > Duration::from_secs(900) && !tap.is_broken());
    for _ in 0..1_100 {
        tap.control(now, &pause());
        while tap.poll_output().is_some() {}
    }
    assert!(tap.is_broken());
    assert_eq!(TapStats { given_up: 0, ..tap.stats() }, tap.stats());
}

#[test]
fn the_journals_clock_is_found_behind_jitter_and_drift() {
    let mut link = Link::new(0.2, 8);
    (0..600).for_each(|_| link.visit(5));
    let zero = link.feed.zero().unwrap();
    let off = zero.saturating_duration_since(link.start);
    assert!((WAY..WAY + Duration::from_millis(30)).contains(&off), "{off:?}");
    // The original's clock runs 100 ppm slow for an hour.
    let mut feed = Feed::new(link.start, COPY);
    let mut tap = Tap::new(COPY, link.start, 1_100);
    for second in 1..=3_600_u64 {
        tap.begin_visit(link.start + Duration::from_secs(second));
        tap.datagram(link.start + Duration::from_secs(second), StreamIndex(0), Port::Rtp, source(), b"x");
        tap.end_visit();
        let received = link.start + Duration::from_secs(second) + Duration::from_micros(second * 100);
        while let Some(Outgoing::Datagram(frame) | Outgoing::Message(frame)) = tap.poll_output() {
            feed.handle_frame(received, &frame).unwrap();
        }
        while feed.poll_replay().is_some() {}
    }
    let off = feed.zero().unwrap().saturating_duration_since(link.start);
    assert!((Duration::from_millis(357)..=Duration::from_millis(360)).contains(&off), "{off:?}");
}

#[test]
fn what_waits_is_played_when_the_original_is_gone() {
    let mut link = Link::new(0.0, 9);
    let mut frames = Vec::new();
    for _ in 0..6 {
        link.now += VISIT;
        link.tap.begin_visit(link.now);
        link.tap.datagram(link.now, StreamIndex(0), Port::Rtp, source(), b"word");
        link.tap.end_visit();
        while let Some(Outgoing::Datagram(frame) | Outgoing::Message(frame)) = link.tap.poll_output() {
            frames.push(frame);
        }
    }
    for number in [0, 1, 3, 5] {
        link.feed.handle_frame(link.now, &frames[number]).unwrap();
    }
    link.feed.close();
    let played: Vec<Replay> = std::iter::from_fn(|| link.feed.poll_replay()).collect();
    assert_eq!(played.iter().filter(|replay| matches!(replay, Replay::Datagram(_))).count(), 4);
    assert_eq!(played.last(), Some(&Replay::Advance(600_000)));
    // The visit of frame 4 is known from the frame behind it.
    assert!(played.contains(&Replay::Advance(500_000)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_loss_below_a_third_is_filled_whatever_the_order(
        seed in any::<u64>(),
        loss in 0.0..0.3,
        visits in proptest::collection::vec((0_usize..14, any::<bool>()), 1..60),
    ) {
        let mut link = Link::new(loss, seed);
        for (datagrams, control) in visits {
            link.visit(datagrams);
            if control {
                link.control(&pause());
            }
        }
        link.quiet(40);
        prop_assert_eq!(link.heard(), link.sent.clone());
        let times = link.played.iter().filter_map(|replay| match replay {
            Replay::Advance(at) => Some(*at),
            _ => None,
        });
        prop_assert!(times.is_sorted());
    }
}
