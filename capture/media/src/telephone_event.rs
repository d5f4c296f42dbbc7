//! Digits that a party presses (RFC 4733): times and digits, never audio.
//!
//! ```text
//! |     event     |E|R| volume    |          duration             |
//! ```
//!
//! All packets of one event carry the timestamp of its beginning, and the last
//! is sent three times: an event is told by its timestamp.

use crate::stats::TelephoneEvent;

/// Events kept of one stream.
const MAX_EVENTS: usize = 256;

/// An event and a tone no further apart than this are one key.
const SAME_KEY_MS: u64 = 150;

/// The events of one stream.
#[derive(Debug, Default)]
pub(crate) struct TelephoneEvents {
    events: Vec<TelephoneEvent>,
    /// Which of them were found in the audio.
    heard: Vec<bool>,
    current: Option<u32>,
}

impl TelephoneEvents {
    /// Takes a payload; `secret` keeps the time and not the digit. False when it is no event.
    pub(crate) fn handle(
        &mut self,
        timestamp: u32,
        arrival_us: i64,
        clock_rate: u32,
        payload: &[u8],
        secret: bool,
    ) -> bool {
        let Some(&[event, _, high, low]) = payload.first_chunk::<4>() else { return false };
        let ticks = u64::from(u16::from_be_bytes([high, low]));
        let duration_ms = ticks * 1_000 / u64::from(clock_rate.max(1));
        if let Some(current) = self.current {
            let ahead = timestamp.wrapping_sub(current).cast_signed();
            if ahead < 0 {
                return true;
            }
            if ahead == 0 {
                if let Some(last) = self.events.last_mut() {
                    last.duration_ms = last.duration_ms.max(u32::try_from(duration_ms).unwrap_or(u32::MAX));
                    if secret {
                        last.digit = None;
                    }
                }
                return true;
            }
        }
        if self.events.len() >= MAX_EVENTS {
            return true;
        }
        self.current = Some(timestamp);
        self.heard.push(false);
        let arrival_ms = u64::try_from(arrival_us / 1_000).unwrap_or(0);
        self.events.push(TelephoneEvent {
            at_ms: arrival_ms.saturating_sub(duration_ms),
            duration_ms: u32::try_from(duration_ms).unwrap_or(u32::MAX),
            digit: digit(event).filter(|_| !secret),
        });
        true
    }

    /// A key tone was found in the audio itself; not noted where an event tells of it.
    pub(crate) fn note_tone(&mut self, from_ms: u64, to_ms: u64) {
        let near = |(event, heard): (&TelephoneEvent, &bool)| {
            let end = event.at_ms + u64::from(event.duration_ms);
            !heard && from_ms < end + SAME_KEY_MS && event.at_ms < to_ms + SAME_KEY_MS
        };
        if self.events.len() < MAX_EVENTS && !self.events.iter().zip(&self.heard).rev().take(4).any(near) {
            let duration_ms = u32::try_from(to_ms.saturating_sub(from_ms)).unwrap_or(u32::MAX);
            self.heard.push(true);
            self.events.push(TelephoneEvent { at_ms: from_ms, duration_ms, digit: None });
        }
    }

    /// A source began anew: its timestamps say nothing of the ones before.
    pub(crate) fn restart(&mut self) {
        self.current = None;
    }

    /// In order.
    pub(crate) fn list(&self) -> &[TelephoneEvent] {
        &self.events
    }
}

/// How long the event of a payload lasts so far, in µs; 0 when it is none.
pub(crate) fn duration_us(payload: &[u8], clock_rate: u32) -> i64 {
    let Some(&[_, _, high, low]) = payload.first_chunk::<4>() else { return 0 };
    i64::from(u16::from_be_bytes([high, low])) * 1_000_000 / i64::from(clock_rate.max(1))
}

/// RFC 4733 3.2, table 3.
fn digit(event: u8) -> Option<char> {
    match event {
        0..=9 => Some(char::from(b'0' + event)),
        10 => Some('*'),
        11 => Some('#'),
        12..=15 => Some(char::from(b'A' + event - 12)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn one_press_is_one_event_however_often_it_is_sent() {
        let mut events = TelephoneEvents::default();
        for (n, duration) in [160_u16, 320, 480, 800, 800, 800].into_iter().enumerate() {
            let [high, low] = duration.to_be_bytes();
            let end = if n >= 3 { 0x80 } else { 0 };
            assert!(events.handle(1_000, 2_020_000 + n as i64 * 20_000, 8_000, &[11, end | 10, high, low], false));
        }
        assert_eq!(events.list(), [TelephoneEvent { at_ms: 2_000, duration_ms: 100, digit: Some('#') }]);
        // A straggler of an older event adds nothing; the next press does.
        events.handle(840, 2_200_000, 8_000, &[1, 0, 0, 160], false);
        events.handle(9_000, 3_000_000, 8_000, &[4, 0, 0, 0], true);
        assert_eq!(events.list()[1..], [TelephoneEvent { at_ms: 3_000, duration_ms: 0, digit: None }]);
        assert!(!events.handle(9_000, 0, 8_000, &[4, 0], false));
    }

    #[test]
    fn a_leak_and_its_event_are_one_key_and_quick_fingers_press_several() {
        let mut events = TelephoneEvents::default();
        events.handle(1_000, 2_100_000, 8_000, &[11, 0x8a, 3, 32], true);
        events.note_tone(1_960, 2_010);
        assert_eq!(events.list().len(), 1);
        for n in 0..3 {
            events.note_tone(5_000 + n * 100, 5_050 + n * 100);
        }
        assert_eq!(events.list().len(), 4);
    }

    #[test]
    fn the_list_is_bounded() {
        let mut events = TelephoneEvents::default();
        for n in 0..1_000 {
            events.handle(n * 1_000, i64::from(n) * 125_000, 8_000, &[1, 0, 0, 160], false);
        }
        assert_eq!(events.list().len(), MAX_EVENTS);
    }
}
