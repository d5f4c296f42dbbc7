//! What an element does: what it did in the log around that time.
//!
//! A line that names the element is taken by its word. For other lines there is the element's record of the last minutes: the
//! share of its own failures among its answers. An answer that is no failure of an element (486, 404, 487) belongs to the call
//! and goes with it wherever it is sent.

use std::collections::HashMap;
use std::time::Duration;

use rand::{Rng, RngExt};

use super::names::Name;
use super::record::{How, Record};

/// What is older counts half.
const HALF_LIFE: Duration = Duration::from_secs(60);
/// An answer of an element of which nothing is known takes as long.
const USUAL: Duration = Duration::from_millis(50);
/// Kinds of failures kept of one element.
const KINDS: usize = 8;
/// Elements kept; beyond, no more is learned.
const MOST: usize = 20_000;

/// What an attempt meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// This status, after so long.
    Answer(u16, Duration),
    /// Nothing.
    Silence,
}

#[derive(Debug, Default)]
struct Profile {
    at: Duration,
    good: f64,
    elapsed_s: f64,
    /// Status, 0 for silence, and weight.
    bad: Vec<(u16, f64)>,
}

/// All elements of the log.
#[derive(Debug, Default)]
pub(super) struct Behaviour {
    profiles: HashMap<Name, Profile>,
}

/// A status that tells about the element, not about the call.
pub(super) fn is_failure(status: u16, failover_codes: &[u16]) -> bool {
    status == 408 || (500..600).contains(&status) || failover_codes.contains(&status)
}

impl Behaviour {
    /// Takes note of a line.
    pub(super) fn note(&mut self, record: &Record) {
        let Some((_, element)) = record.was else { return };
        if matches!(record.how, How::Here | How::Request)
            || (self.profiles.len() >= MOST && !self.profiles.contains_key(&element))
        {
            return;
        }
        let profile = self.profiles.entry(element).or_default();
        let past = record.at.saturating_sub(profile.at).as_secs_f64();
        let kept = 0.5_f64.powf(past / HALF_LIFE.as_secs_f64());
        profile.at = record.at.max(profile.at);
        profile.good *= kept;
        profile.elapsed_s *= kept;
        profile.bad.iter_mut().for_each(|(_, weight)| *weight *= kept);
        let status = if record.how == How::Silent { 0 } else { record.status };
        if status != 0 && !is_failure(status, &[]) {
            profile.good += 1.0;
            // The time of a request that was sent on is not this element's alone.
            profile.elapsed_s += if record.first_try { record.elapsed } else { USUAL }.as_secs_f64();
        } else if let Some((_, weight)) = profile.bad.iter_mut().find(|(have, _)| *have == status) {
            *weight += 1.0;
        } else if profile.bad.len() < KINDS {
            profile.bad.push((status, 1.0));
        }
    }

    /// True if the log knows the element.
    pub(super) fn knows(&self, element: Name) -> bool {
        self.profiles.contains_key(&element)
    }

    fn usual(&self, element: Name) -> Duration {
        let known = self.profiles.get(&element).filter(|profile| profile.good > 1e-9);
        known.and_then(|profile| Duration::try_from_secs_f64(profile.elapsed_s / profile.good).ok()).unwrap_or(USUAL)
    }

    /// A failure of the element by chance, as often as it failed of late.
    fn failure<R: Rng + ?Sized>(&self, element: Name, rng: &mut R) -> Option<Fate> {
        let profile = self.profiles.get(&element).filter(|profile| !profile.bad.is_empty())?;
        let sum: f64 = profile.good + profile.bad.iter().map(|(_, weight)| weight).sum::<f64>();
        let mut drawn = rng.random::<f64>() * sum;
        for (status, weight) in &profile.bad {
            if drawn < *weight {
                return Some(if *status == 0 { Fate::Silence } else { Fate::Answer(*status, USUAL) });
            }
            drawn -= weight;
        }
        None
    }

    /// What a request meets at an element.
    pub(super) fn fate<R: Rng + ?Sized>(
        &self,
        record: &Record,
        element: Name,
        failover_codes: &[u16],
        rng: &mut R,
    ) -> Fate {
        let is_same = record.was.is_some_and(|(_, was)| was == element);
        let own = if record.first_try { record.elapsed } else { self.usual(element) };
        match record.how {
            How::Answered if is_same => return Fate::Answer(record.status, own),
            How::Silent if is_same => return Fate::Silence,
            How::Answered | How::Silent | How::Request | How::Here => {}
        }
        if let Some(failure) = self.failure(element, rng) {
            return failure;
        }
        if record.how == How::Answered && !is_failure(record.status, failover_codes) {
            Fate::Answer(record.status, own)
        } else {
            Fate::Answer(200, self.usual(element))
        }
    }

    /// The status that a probe brings, `None` for silence.
    pub(super) fn probe<R: Rng + ?Sized>(&self, element: Name, rng: &mut R) -> Option<u16> {
        match self.failure(element, rng) {
            Some(Fate::Silence) => None,
            Some(Fate::Answer(status, _)) => Some(status),
            None => Some(200),
        }
    }
}
