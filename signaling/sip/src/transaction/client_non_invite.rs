//! The non-INVITE client transaction (RFC 3261 17.1.2).
//!
//! ```text
//! Trying --1xx--> Proceeding --final--> Completed --K--> gone
//!    E: again (doubled up to T2; always T2 in Proceeding)   F: timed out
//! ```

use std::time::Duration;

use super::{Action, Actions, Class, Timer, Timers};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Trying { interval: Duration },
    Proceeding,
    Completed,
}

#[derive(Debug)]
pub(super) struct ClientNonInvite {
    state: State,
    reliable: bool,
}

impl ClientNonInvite {
    pub(super) fn start(timers: &Timers, reliable: bool) -> (ClientNonInvite, Actions) {
        let mut actions = Actions::from([Action::Send, Action::Set(Timer::F, timers.f)]);
        if !reliable {
            actions.push(Action::Set(Timer::E, timers.t1));
        }
        (ClientNonInvite { state: State::Trying { interval: timers.t1 }, reliable }, actions)
    }

    pub(super) fn response(&mut self, class: Class, timers: &Timers) -> Actions {
        match (self.state, class) {
            (State::Completed, _) => Actions::none(),
            (_, Class::Trying | Class::Provisional) => {
                self.state = State::Proceeding;
                Actions::from([Action::Deliver])
            }
            (_, Class::Success | Class::Failure) => {
                self.state = State::Completed;
                let end = if self.reliable { Action::Terminate } else { Action::Set(Timer::K, timers.t4) };
                Actions::from([Action::Stop(Timer::E), Action::Stop(Timer::F), Action::Deliver, end])
            }
        }
    }

    pub(super) fn timer(&mut self, timer: Timer, timers: &Timers) -> Actions {
        match (self.state, timer) {
            (State::Trying { interval }, Timer::E) => {
                let interval = timers.next_interval(interval);
                self.state = State::Trying { interval };
                Actions::from([Action::Retransmit, Action::Set(Timer::E, interval)])
            }
            (State::Proceeding, Timer::E) => Actions::from([Action::Retransmit, Action::Set(Timer::E, timers.t2)]),
            (State::Trying { .. } | State::Proceeding, Timer::F) => {
                Actions::from([Action::TimedOut, Action::Terminate])
            }
            (State::Completed, Timer::K) => Actions::from([Action::Terminate]),
            _ => Actions::none(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn each_row_of_figure_6() {
        let t = Timers::default();
        let (mut machine, actions) = ClientNonInvite::start(&t, false);
        assert_eq!(actions, [Action::Send, Action::Set(Timer::F, t.f), Action::Set(Timer::E, t.t1)]);
        let intervals: Vec<_> = (0..5).map(|_| machine.timer(Timer::E, &t)[1]).collect();
        let seconds = [1, 2, 4, 4, 4].map(|s| Action::Set(Timer::E, Duration::from_secs(s)));
        assert_eq!(intervals, seconds);
        assert_eq!(machine.response(Class::Provisional, &t), [Action::Deliver]);
        assert_eq!(machine.timer(Timer::E, &t), [Action::Retransmit, Action::Set(Timer::E, t.t2)]);
        assert_eq!(machine.response(Class::Failure, &t).last(), Some(&Action::Set(Timer::K, t.t4)));
        assert_eq!(machine.response(Class::Failure, &t), []);
        assert_eq!(machine.timer(Timer::F, &t), []);
        assert_eq!(machine.timer(Timer::K, &t), [Action::Terminate]);
    }

    #[test]
    fn timer_f_ends_it_also_after_a_provisional_response() {
        let t = Timers::default();
        let (mut machine, _) = ClientNonInvite::start(&t, true);
        machine.response(Class::Provisional, &t);
        assert_eq!(machine.timer(Timer::F, &t), [Action::TimedOut, Action::Terminate]);
    }
}
