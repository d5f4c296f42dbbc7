//! From what a person knows to calls at once and calls an hour.
//!
//! ```text
//! calls at once = busy-hour calls x minutes a call / 60
//! ```
//!
//! Two of the three give the third. An agent is in one call at a time and in the busy hour always in one, as in the sizing reference:
//! 2,000 agents = 2,000 calls at once = 28,800 busy-hour calls of 250 s. Without agents or calls the product is an average, and
//! calls come when they like: three standard deviations of Poisson's distribution go on top.

use super::amount::thousands;
use super::figures;
use super::plan::Plan;

/// Length of a call in the sizing reference, minutes: 2,000 x 60 / 28,800.
const REFERENCE_MINUTES: f64 = 250.0 / 60.0;
/// Calls at once that a plan is made for; beyond it somebody has mistyped.
const MOST_CALLS: u64 = 10_000_000;

/// What a person knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// People who talk.
    pub agents: Option<u64>,
    /// Calls at once, when they are known and not the agents.
    pub calls: Option<u64>,
    /// Length of a call, minutes.
    pub minutes_per_call: Option<f64>,
    /// New calls in the busiest hour.
    pub busy_hour_calls: Option<u64>,
    /// Sites that share the calls; with two or more, any one may be lost.
    pub sites: u64,
    /// A second worker records every call too.
    pub mirror: bool,
    /// What the SBC sends.
    pub codec: Codec,
    /// The SBC sends SRTP.
    pub srtp: bool,
    /// Days for which recordings are kept.
    pub retention_days: f64,
    /// Hours a day with as many calls as the busy hour.
    pub hours_per_day: f64,
    /// Hours that the store may be away.
    pub store_outage_hours: f64,
    /// Cores of a worker, and of a SIP node.
    pub cores: u64,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            agents: None,
            calls: None,
            minutes_per_call: None,
            busy_hour_calls: None,
            sites: 1,
            mirror: false,
            codec: Codec::Pcmu,
            srtp: false,
            retention_days: 365.0,
            hours_per_day: 8.0,
            store_outage_hours: 72.0,
            cores: 2,
        }
    }
}

/// A codec on the wire, with its bytes in a packet of 20 ms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// G.711 mu-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
    /// G.722.
    G722,
    /// G.729.
    G729,
    /// Opus at 24 kbit/s.
    Opus,
}

impl Codec {
    /// Bytes of payload in 20 ms.
    pub fn payload_bytes(self) -> u64 {
        match self {
            Self::Pcmu | Self::Pcma | Self::G722 => 160,
            Self::G729 => 20,
            Self::Opus => 60,
        }
    }

    /// Its name, as in SDP.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::G722 => "G722",
            Self::G729 => "G729",
            Self::Opus => "opus",
        }
    }
}

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SizingError {
    /// Nothing says how many calls there are.
    #[error("how many calls? Give --agents N, or --calls N, or --busy-hour-calls N with --minutes-per-call M")]
    NoCalls,
    /// The three numbers do not fit.
    #[error(
        "{} calls an hour of {minutes} minutes are {} calls at once on average, and you say {}: raise --calls (or --agents), or correct the others",
        thousands(*hour), thousands(*average), thousands(*calls)
    )]
    Contradiction {
        /// Busy-hour calls.
        hour: u64,
        /// Minutes a call.
        minutes: f64,
        /// What they come to.
        average: u64,
        /// What was said.
        calls: u64,
    },
    /// A number that means nothing.
    #[error("{name} must be {must}, not {found}")]
    OutOfRange {
        /// The option.
        name: &'static str,
        /// What would be right.
        must: &'static str,
        /// What it was.
        found: String,
    },
}

/// The calls of an installation, with where each number came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand {
    /// What was asked.
    pub wish: Wish,
    /// Calls at once that must fit.
    pub calls: u64,
    /// Where `calls` came from.
    pub calls_from: String,
    /// Calls at once in the busy hour, on average.
    pub average_calls: f64,
    /// Minutes a call.
    pub minutes: f64,
    /// Where `minutes` came from.
    pub minutes_from: String,
    /// New calls in the busy hour.
    pub busy_hour_calls: u64,
    /// Where `busy_hour_calls` came from.
    pub busy_hour_from: String,
}

impl Wish {
    /// The calls that follow.
    ///
    /// # Errors
    /// When numbers are missing, contradict each other, or mean nothing.
    #[allow(clippy::cast_precision_loss)]
    pub fn demand(&self) -> Result<Demand, SizingError> {
        self.check()?;
        let stated = self.calls.or(self.agents);
        let named = if self.calls.is_some() {
            "given".to_owned()
        } else {
            "every agent is in a call in the busy hour".to_owned()
        };
        let length = self.minutes_per_call.unwrap_or(REFERENCE_MINUTES);
        let length_from =
            if self.minutes_per_call.is_some() { "given" } else { "sizing reference: 250 s a call" }.to_owned();
        let (calls, calls_from, minutes, minutes_from, hour, hour_from) = match (stated, self.busy_hour_calls) {
            (None, None) => return Err(SizingError::NoCalls),
            (None, Some(_)) if self.minutes_per_call.is_none() => return Err(SizingError::NoCalls),
            (None, Some(hour)) => {
                let average = hour as f64 * length / 60.0;
                let calls = up(average + 3.0 * average.sqrt());
                let from = format!(
                    "{} x {length} min / 60 = {average:.0} on average, and 3 x its square root for chance",
                    thousands(hour)
                );
                (calls, from, length, length_from, hour, "given".to_owned())
            }
            (Some(calls), None) => {
                let hour = up(calls as f64 * 60.0 / length);
                let from = format!("{} calls at once x 60 / {length:.2} min", thousands(calls));
                (calls, named, length, length_from, hour, from)
            }
            (Some(calls), Some(hour)) => {
                let (minutes, from) = match self.minutes_per_call {
                    Some(minutes) => (minutes, "given".to_owned()),
                    None => (
                        calls as f64 * 60.0 / hour as f64,
                        format!("{} calls at once x 60 / {} an hour", thousands(calls), thousands(hour)),
                    ),
                };
                (calls, named, minutes, from, hour, "given".to_owned())
            }
        };
        let average = hour as f64 * minutes / 60.0;
        // The rounding of a call an hour is no contradiction.
        if average > calls as f64 + minutes / 60.0 + 1e-6 {
            return Err(SizingError::Contradiction { hour, minutes, average: up(average), calls });
        }
        if calls > MOST_CALLS {
            return Err(wrong("the number of calls at once", "10,000,000 at most", &thousands(calls)));
        }
        Ok(Demand {
            wish: self.clone(),
            calls,
            calls_from,
            average_calls: average.min(calls as f64),
            minutes,
            minutes_from,
            busy_hour_calls: hour,
            busy_hour_from: hour_from,
        })
    }

    fn check(&self) -> Result<(), SizingError> {
        let counts = [("--agents", self.agents), ("--calls", self.calls), ("--busy-hour-calls", self.busy_hour_calls)];
        for (name, count) in counts {
            if count.is_some_and(|count| count == 0 || count > 1_000_000_000) {
                return Err(wrong(name, "between 1 and 1,000,000,000", &thousands(count.unwrap_or(0))));
            }
        }
        for (name, number, most, must) in [
            (
                "--minutes-per-call",
                self.minutes_per_call.unwrap_or(1.0),
                1440.0,
                "more than 0 and 1440 (a day) at most",
            ),
            ("--hours-per-day", self.hours_per_day, 24.0, "more than 0 and 24 at most"),
            ("--retention", self.retention_days, 36_500.0, "more than 0 and 100 years at most"),
        ] {
            if !(number > 0.0 && number <= most) {
                return Err(wrong(name, must, &number.to_string()));
            }
        }
        if !(0.0..=8_760.0).contains(&self.store_outage_hours) {
            return Err(wrong("--store-outage", "a year at most", &format!("{} h", self.store_outage_hours)));
        }
        if !(1..=64).contains(&self.sites) {
            return Err(wrong("--sites", "between 1 and 64", &self.sites.to_string()));
        }
        if !(1..=256).contains(&self.cores) {
            return Err(wrong("--cores", "between 1 and 256", &self.cores.to_string()));
        }
        Ok(())
    }
}

impl Demand {
    /// What it takes.
    pub fn plan(&self) -> Plan {
        Plan::of(self)
    }

    /// Calls that one worker is planned for: by its cores, or by its ports.
    pub fn calls_per_worker(&self) -> u64 {
        (self.wish.cores * figures::CALLS_PER_CORE).min(figures::RTP_PORTS / figures::PORTS_PER_CALL)
    }
}

fn wrong(name: &'static str, must: &'static str, found: &str) -> SizingError {
    SizingError::OutOfRange { name, must, found: found.to_owned() }
}

/// Rounded up, forgiving what floating point adds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn up(number: f64) -> u64 {
    (number - 1e-9).ceil().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_sizing_reference_comes_out_of_its_agents() {
        let demand = Wish { agents: Some(2_000), ..Wish::default() }.demand().unwrap();
        assert_eq!((demand.calls, demand.busy_hour_calls), (2_000, 28_800));
        assert!((demand.minutes * 60.0 - 250.0).abs() < 1e-9);
        assert!((demand.average_calls - 2_000.0).abs() < 1e-6);
    }

    #[test]
    fn two_numbers_give_the_third() {
        let of =
            |calls, hour, minutes| Wish { calls, busy_hour_calls: hour, minutes_per_call: minutes, ..Wish::default() };
        let demand = of(Some(100), Some(1_200), None).demand().unwrap();
        assert!((demand.minutes - 5.0).abs() < 1e-9, "100 x 60 / 1,200");
        let demand = of(Some(100), None, Some(3.0)).demand().unwrap();
        assert_eq!(demand.busy_hour_calls, 2_000);
        // 1,200 x 5 / 60 = 100 on average; 100 + 3 x 10.
        let demand = of(None, Some(1_200), Some(5.0)).demand().unwrap();
        assert_eq!((demand.calls, demand.average_calls), (130, 100.0));
        // Agents who talk two thirds of the hour.
        let demand = of(Some(150), Some(1_200), Some(5.0)).demand().unwrap();
        assert_eq!((demand.calls, demand.average_calls), (150, 100.0));
    }

    #[test]
    fn what_contradicts_itself_or_means_nothing_is_said() {
        let said = |wish: Wish| wish.demand().unwrap_err().to_string();
        let default = Wish::default;
        assert!(said(default()).starts_with("how many calls?"));
        assert!(said(Wish { busy_hour_calls: Some(10), ..default() }).starts_with("how many calls?"));
        assert_eq!(
            said(Wish { calls: Some(90), busy_hour_calls: Some(1_200), minutes_per_call: Some(5.0), ..default() }),
            "1,200 calls an hour of 5 minutes are 100 calls at once on average, and you say 90: raise --calls (or --agents), or correct the others"
        );
        assert_eq!(said(Wish { agents: Some(0), ..default() }), "--agents must be between 1 and 1,000,000,000, not 0");
        for wish in [
            Wish { minutes_per_call: Some(0.0), ..default() },
            Wish { minutes_per_call: Some(f64::NAN), ..default() },
            Wish { hours_per_day: 25.0, ..default() },
            Wish { retention_days: -1.0, ..default() },
            Wish { store_outage_hours: f64::INFINITY, ..default() },
            Wish { sites: 0, ..default() },
            Wish { cores: 0, ..default() },
            Wish { calls: Some(100_000_000), ..default() },
        ] {
            assert!(
                matches!(Wish { agents: Some(5), ..wish.clone() }.demand(), Err(SizingError::OutOfRange { .. })),
                "{wish:?}"
            );
        }
    }
}
