//! Session timers (RFC 4028): a session that nobody refreshes ends.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::header::{Refresher, SessionExpires};
use crate::message::Message;
use crate::validate::Reject;

/// The longest interval.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What we offer and accept.
#[derive(Debug, Clone, Copy)]
pub struct SessionTimerConfig {
    /// The interval that we ask for when the peer names none.
    pub interval: Duration,
    /// The shortest interval that we accept, at least 90 s.
    pub minimum: Duration,
}

impl Default for SessionTimerConfig {
    fn default() -> SessionTimerConfig {
        SessionTimerConfig { interval: Duration::from_secs(1800), minimum: Duration::from_secs(90) }
    }
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerEvent {
    /// We refresh: send UPDATE or re-INVITE.
    Refresh,
    /// Nobody refreshed: the session is over.
    Expired,
}

/// The running timer of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionTimer {
    interval: Duration,
    refresher: Refresher,
    refresh_at: Option<Instant>,
    expires_at: Instant,
}

/// A timer at one moment, without that moment: what another node needs to let it run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTimerState {
    /// The session interval, in ms.
    interval_ms: u64,
    /// We refresh, and not the peer.
    ours: bool,
    /// Until our refresh is due, in ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_in_ms: Option<u64>,
    /// Until the session expires, in ms.
    expires_in_ms: u64,
}

impl SessionTimer {
    /// The timer as it stands at `now`.
    pub fn state(&self, now: Instant) -> SessionTimerState {
        let until = |at: Instant| millis(at.saturating_duration_since(now));
        SessionTimerState {
            interval_ms: millis(self.interval),
            ours: self.refresher == Refresher::Uas,
            refresh_in_ms: self.refresh_at.map(until),
            expires_in_ms: until(self.expires_at),
        }
    }

    /// Lets a timer run on that stood so at `then`.
    pub fn resume(then: Instant, state: &SessionTimerState) -> SessionTimer {
        let span = |ms: u64| Duration::from_millis(ms).min(LONGEST);
        SessionTimer {
            interval: span(state.interval_ms),
            refresher: if state.ours { Refresher::Uas } else { Refresher::Uac },
            refresh_at: state.refresh_in_ms.map(|ms| then + span(ms)),
            expires_at: then + span(state.expires_in_ms),
        }
    }

    /// Agrees on a timer as the answering side (RFC 4028 9). `None` when the
    /// peer does not know session timers: other signs of life count then.
    ///
    /// The peer refreshes unless it asks us to: some do not answer refreshes of ours.
    ///
    /// # Errors
    /// 422 when the interval asked for is too short.
    pub fn negotiate(
        now: Instant,
        request: &Message,
        config: &SessionTimerConfig,
    ) -> Result<Option<SessionTimer>, Reject> {
        let asked = request.header("Session-Expires").and_then(|text| SessionExpires::parse(&text));
        let supported = request.has_option("Supported", "timer") || request.has_option("Require", "timer");
        let least = config.minimum.as_secs();
        if let Some(asked) = asked
            && u64::from(asked.seconds) < least
        {
            if supported {
                return Err(Reject::new(422).with("Min-SE", least.to_string()));
            }
            return Ok(None);
        }
        if !supported {
            return Ok(None);
        }
        let their_least =
            request.header("Min-SE").and_then(|text| text.split(';').next()?.trim().parse().ok()).unwrap_or(0);
        let seconds = asked.map_or(config.interval.as_secs().max(their_least), |asked| u64::from(asked.seconds));
        let refresher = asked.and_then(|asked| asked.refresher).unwrap_or(Refresher::Uac);
        let mut timer = SessionTimer {
            // Days are as good as for ever, and keep the arithmetic safe.
            interval: Duration::from_secs(seconds).min(LONGEST),
            refresher,
            refresh_at: None,
            expires_at: now,
        };
        timer.refreshed(now);
        Ok(Some(timer))
    }

    /// A refresh by either side went through.
    pub fn refreshed(&mut self, now: Instant) {
        self.refresh_at = (self.refresher == Refresher::Uas).then(|| now + self.interval / 2);
        self.expires_at = now + self.interval;
    }

    /// Our refresh met one of the peer's (491): try again at `at`.
    pub fn refresh_again(&mut self, at: Instant) {
        self.refresh_at = Some(at);
    }

    /// The header fields of a 2xx.
    pub fn write(&self, response: &mut Message) {
        let seconds = u32::try_from(self.interval.as_secs()).unwrap_or(u32::MAX);
        let value = SessionExpires { seconds, refresher: Some(self.refresher) };
        response.add_header("Session-Expires", &value.to_string());
        response.add_header("Require", "timer");
    }

    /// The header fields of a re-INVITE or UPDATE of ours, in which we are the UAC; who refreshes stays who it was.
    pub fn write_refresh(&self, request: &mut Message) {
        let seconds = u32::try_from(self.interval.as_secs()).unwrap_or(u32::MAX);
        let refresher = match self.refresher {
            Refresher::Uac => Refresher::Uas,
            Refresher::Uas => Refresher::Uac,
        };
        let value = SessionExpires { seconds, refresher: Some(refresher) };
        request.add_header("Session-Expires", &value.to_string());
    }

    /// When [`SessionTimer::handle_timeout`] is due: our refresh, or the end a
    /// little before the interval is over (RFC 4028 10).
    pub fn poll_timeout(&self) -> Instant {
        let grace = (self.interval / 3).min(Duration::from_secs(32));
        let end = self.expires_at.checked_sub(grace).unwrap_or(self.expires_at);
        // The refresher ends before; the other side waits for the whole interval.
        let end = if self.refresher == Refresher::Uas { end } else { self.expires_at };
        self.refresh_at.map_or(end, |refresh| refresh.min(end))
    }

    /// What is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<TimerEvent> {
        if now < self.poll_timeout() {
            return None;
        }
        match self.refresh_at.take() {
            Some(refresh) if refresh <= now => Some(TimerEvent::Refresh),
            _ => Some(TimerEvent::Expired),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::method::Method;

    fn request(headers: &[(&str, &str)]) -> Message {
        let mut request = Message::request(&Method::Invite, "sip:srs@192.0.2.10");
        headers.iter().for_each(|(name, value)| request.add_header(name, value));
        request
    }

    fn negotiate(headers: &[(&str, &str)]) -> Result<Option<SessionTimer>, Reject> {
        SessionTimer::negotiate(Instant::now(), &request(headers), &SessionTimerConfig::default())
    }

    #[test]
    fn the_peer_refreshes_unless_it_asks_us_to() {
        let timer = negotiate(&[("Supported", "timer"), ("Session-Expires", "600")]).unwrap().unwrap();
        let mut ok = request(&[]);
        timer.write(&mut ok);
        assert_eq!(ok.header("Session-Expires").unwrap(), "600;refresher=uac");
        let mut ours = request(&[]);
        timer.write_refresh(&mut ours);
        assert_eq!(ours.header("Session-Expires").unwrap(), "600;refresher=uas");
        assert_eq!(timer.refresh_at, None);
        let timer = negotiate(&[("Supported", "timer"), ("Session-Expires", "600;refresher=uas")]).unwrap().unwrap();
        assert!(timer.refresh_at.is_some());
        let timer = negotiate(&[("Supported", "timer")]).unwrap().unwrap();
        assert_eq!(timer.interval.as_secs(), 1800);
        assert!(negotiate(&[]).unwrap().is_none());
    }

    #[test]
    fn too_short_an_interval_gets_422_with_our_minimum() {
        let reject = negotiate(&[("Supported", "timer"), ("Session-Expires", "60")]).unwrap_err();
        assert_eq!((reject.status, reject.headers), (422, vec![("Min-SE", "90".to_owned())]));
    }

    #[test]
    fn a_session_that_nobody_refreshes_expires_and_a_refreshed_one_goes_on() {
        let now = Instant::now();
        let headers = [("Supported", "timer"), ("Session-Expires", "100")];
        let mut timer =
            SessionTimer::negotiate(now, &request(&headers), &SessionTimerConfig::default()).unwrap().unwrap();
        let later = now + Duration::from_secs(99);
        assert_eq!(timer.handle_timeout(later), None);
        timer.refreshed(later);
        assert_eq!(timer.handle_timeout(later + Duration::from_secs(99)), None);
        assert_eq!(timer.handle_timeout(later + Duration::from_secs(100)), Some(TimerEvent::Expired));
    }

    #[test]
    fn a_timer_runs_on_elsewhere() {
        let (now, there) = (Instant::now(), Instant::now() + Duration::from_secs(5_000));
        let headers = [("Supported", "timer"), ("Session-Expires", "100;refresher=uas")];
        let timer = SessionTimer::negotiate(now, &request(&headers), &SessionTimerConfig::default()).unwrap().unwrap();
        let state = timer.state(now + Duration::from_secs(20));
        let mut resumed = SessionTimer::resume(there, &state);
        assert_eq!(resumed.state(there), state);
        assert_eq!(resumed.poll_timeout(), there + Duration::from_secs(30));
        assert_eq!(resumed.handle_timeout(there + Duration::from_secs(30)), Some(TimerEvent::Refresh));
        assert_eq!(resumed.handle_timeout(there + Duration::from_secs(48)), Some(TimerEvent::Expired));
    }

    #[test]
    fn as_refresher_we_send_at_half_time_and_end_before_the_interval_does() {
        let now = Instant::now();
        let headers = [("Supported", "timer"), ("Session-Expires", "100;refresher=uas")];
        let mut timer =
            SessionTimer::negotiate(now, &request(&headers), &SessionTimerConfig::default()).unwrap().unwrap();
        assert_eq!(timer.handle_timeout(now + Duration::from_secs(50)), Some(TimerEvent::Refresh));
        assert_eq!(timer.handle_timeout(now + Duration::from_secs(60)), None);
        assert_eq!(timer.handle_timeout(now + Duration::from_secs(68)), Some(TimerEvent::Expired));
    }
}
