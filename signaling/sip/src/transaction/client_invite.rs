//! The INVITE client transaction (RFC 3261 17.1.1, RFC 6026 7.2).
//!
//! ```text
//! Calling --1xx--> Proceeding --2xx--> Accepted --M--> gone
//!    |  \--2xx-->                \--3xx-6xx, ACK--> Completed --D--> gone
//!    A: again, doubled   B: timed out     C: cancelled, and timed out 64*T1 later
//! ```

use std::time::Duration;

use super::{Action, Actions, Class, Timer, Timers};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Calling { interval: Duration },
    Proceeding { cancelled: bool },
    Accepted,
    Completed,
}

#[derive(Debug)]
pub(super) struct ClientInvite {
    state: State,
    reliable: bool,
}

impl ClientInvite {
    pub(super) fn start(timers: &Timers, reliable: bool) -> (ClientInvite, Actions) {
        let mut actions = Actions::from([Action::Send, Action::Set(Timer::B, timers.b)]);
        if !reliable {
            actions.push(Action::Set(Timer::A, timers.t1));
        }
        (ClientInvite { state: State::Calling { interval: timers.t1 }, reliable }, actions)
    }

    pub(super) fn response(&mut self, class: Class, timers: &Timers) -> Actions {
        let stop = [Action::Stop(Timer::A), Action::Stop(Timer::B), Action::Stop(Timer::C)];
        match (self.state, class) {
            (State::Proceeding { .. }, Class::Trying) => Actions::from([Action::Deliver]),
            (State::Calling { .. }, Class::Trying)
            | (State::Calling { .. } | State::Proceeding { cancelled: false }, Class::Provisional) => {
                self.state = State::Proceeding { cancelled: false };
                Actions::from([
                    Action::Stop(Timer::A),
                    Action::Stop(Timer::B),
                    Action::Deliver,
                    Action::Set(Timer::C, timers.c),
                ])
            }
            (State::Proceeding { cancelled: true }, Class::Provisional) => Actions::from([Action::Deliver]),
            (State::Calling { .. } | State::Proceeding { .. }, Class::Success) => {
                self.state = State::Accepted;
                Actions::from(stop).then([Action::Deliver, Action::Set(Timer::M, timers.m)])
            }
            (State::Calling { .. } | State::Proceeding { .. }, Class::Failure) => {
                self.state = State::Completed;
                let end = if self.reliable { Action::Terminate } else { Action::Set(Timer::D, timers.d) };
                Actions::from(stop).then([Action::Acknowledge, Action::Deliver, end])
            }
            (State::Accepted, Class::Success) => Actions::from([Action::Deliver]),
            (State::Completed, Class::Failure) => Actions::from([Action::Acknowledge]),
            (State::Accepted, Class::Trying | Class::Provisional | Class::Failure)
            | (State::Completed, Class::Trying | Class::Provisional | Class::Success) => Actions::none(),
        }
    }

    /// A CANCEL is about to be sent; `None` unless one may be, and only the first time.
    pub(super) fn cancel(&mut self, timers: &Timers) -> Option<Actions> {
        if self.state != (State::Proceeding { cancelled: false }) {
            return None;
        }
        self.state = State::Proceeding { cancelled: true };
        Some(Actions::from([Action::Stop(Timer::C), Action::Set(Timer::B, timers.b)]))
    }

    /// True while a response came, and no final one.
    pub(super) fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding { .. })
    }

    /// True while failures that come again are acknowledged.
    pub(super) fn is_completed(&self) -> bool {
        self.state == State::Completed
    }

    pub(super) fn timer(&mut self, timer: Timer) -> Actions {
        match (self.state, timer) {
            (State::Calling { interval }, Timer::A) => {
                let interval = interval * 2;
                self.state = State::Calling { interval };
                Actions::from([Action::Retransmit, Action::Set(Timer::A, interval)])
            }
            (State::Calling { .. } | State::Proceeding { cancelled: true }, Timer::B) => {
                Actions::from([Action::TimedOut, Action::Terminate])
            }
            (State::Proceeding { cancelled: false }, Timer::C) => Actions::from([Action::Cancel]),
            (State::Accepted, Timer::M) | (State::Completed, Timer::D) => Actions::from([Action::Terminate]),
            _ => Actions::none(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn walk(reliable: bool) -> ClientInvite {
        ClientInvite::start(&Timers::default(), reliable).0
    }

    #[test]
    fn each_row_of_figure_5() {
        let t = Timers::default();
        let ms = Duration::from_millis;
        let (mut machine, actions) = ClientInvite::start(&t, false);
        assert_eq!(actions, [Action::Send, Action::Set(Timer::B, t.b), Action::Set(Timer::A, t.t1)]);
        assert_eq!(machine.timer(Timer::A), [Action::Retransmit, Action::Set(Timer::A, ms(1000))]);
        assert_eq!(machine.timer(Timer::A), [Action::Retransmit, Action::Set(Timer::A, ms(2000))]);
        assert_eq!(machine.timer(Timer::B), [Action::TimedOut, Action::Terminate]);
        assert!(machine.response(Class::Provisional, &t).contains(&Action::Deliver));
        assert_eq!(machine.timer(Timer::B), []);
        let failed = machine.response(Class::Failure, &t);
        assert!(failed.ends_with(&[Action::Acknowledge, Action::Deliver, Action::Set(Timer::D, t.d)]));
        assert_eq!(machine.response(Class::Failure, &t), [Action::Acknowledge]);
        assert_eq!(machine.response(Class::Success, &t), []);
        assert_eq!(machine.timer(Timer::D), [Action::Terminate]);
    }

    #[test]
    fn an_invite_that_rings_for_ever_is_cancelled_and_then_given_up() {
        let t = Timers::default();
        let mut machine = walk(false);
        assert_eq!(machine.cancel(&t), None, "nothing heard of it yet");
        assert_eq!(machine.response(Class::Provisional, &t).last(), Some(&Action::Set(Timer::C, t.c)));
        assert_eq!(machine.timer(Timer::B), []);
        assert_eq!(machine.timer(Timer::C), [Action::Cancel]);
        assert_eq!(machine.cancel(&t).unwrap(), [Action::Stop(Timer::C), Action::Set(Timer::B, t.b)]);
        assert_eq!(machine.cancel(&t), None);
        assert_eq!(machine.response(Class::Provisional, &t), [Action::Deliver]);
        assert_eq!(machine.timer(Timer::B), [Action::TimedOut, Action::Terminate]);
        assert!(machine.response(Class::Failure, &t).contains(&Action::Acknowledge), "487 in time");
    }

    #[test]
    fn a_hundred_alone_does_not_keep_timer_c_alive() {
        let t = Timers::default();
        let mut machine = walk(false);
        assert!(
            machine.response(Class::Trying, &t).contains(&Action::Set(Timer::C, t.c)),
            "it runs from the first response"
        );
        assert_eq!(machine.response(Class::Trying, &t), [Action::Deliver]);
        assert!(machine.response(Class::Provisional, &t).contains(&Action::Set(Timer::C, t.c)));
    }

    #[test]
    fn every_2xx_of_a_fork_reaches_the_core() {
        let t = Timers::default();
        let mut machine = walk(false);
        assert!(machine.response(Class::Success, &t).ends_with(&[Action::Deliver, Action::Set(Timer::M, t.m)]));
        assert_eq!(machine.response(Class::Success, &t), [Action::Deliver]);
        assert_eq!(machine.timer(Timer::M), [Action::Terminate]);
    }

    #[test]
    fn a_stream_neither_retransmits_nor_lingers_after_a_failure() {
        let t = Timers::default();
        let (mut machine, actions) = ClientInvite::start(&t, true);
        assert!(!actions.iter().any(|a| matches!(a, Action::Set(Timer::A, _))));
        assert_eq!(machine.response(Class::Failure, &t).last(), Some(&Action::Terminate));
    }
}
