//! The INVITE server transaction (RFC 3261 17.2.1, RFC 6026 7.1).
//!
//! ```text
//! Proceeding --2xx--> Accepted --L--> gone          (the core retransmits the 2xx)
//!     \--3xx-6xx--> Completed --ACK--> Confirmed --I--> gone
//!                   G: again       H: no ACK came
//! ```

use std::time::Duration;

use super::{Action, Class, Timer, Timers};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Proceeding { answered: bool },
    Accepted,
    Completed { interval: Duration },
    Confirmed,
}

#[derive(Debug)]
pub(super) struct ServerInvite {
    state: State,
    reliable: bool,
}

impl ServerInvite {
    pub(super) fn start(timers: &Timers, reliable: bool) -> (ServerInvite, Vec<Action>) {
        let machine = ServerInvite { state: State::Proceeding { answered: false }, reliable };
        (machine, vec![Action::Deliver, Action::Set(Timer::Trying, timers.trying)])
    }

    /// The same INVITE came again.
    pub(super) fn again(&self) -> Vec<Action> {
        match self.state {
            State::Proceeding { answered: true } | State::Completed { .. } => vec![Action::Retransmit],
            State::Proceeding { answered: false } | State::Accepted | State::Confirmed => vec![],
        }
    }

    pub(super) fn respond(&mut self, class: Class, timers: &Timers) -> Vec<Action> {
        match (self.state, class) {
            (State::Proceeding { .. }, Class::Provisional) => {
                self.state = State::Proceeding { answered: true };
                vec![Action::Stop(Timer::Trying), Action::Send]
            }
            (State::Proceeding { .. }, Class::Success) => {
                self.state = State::Accepted;
                vec![Action::Stop(Timer::Trying), Action::Send, Action::Set(Timer::L, timers.l)]
            }
            (State::Proceeding { .. }, Class::Failure) => {
                self.state = State::Completed { interval: timers.t1 };
                let mut actions = vec![Action::Stop(Timer::Trying), Action::Send, Action::Set(Timer::H, timers.h)];
                if !self.reliable {
                    actions.push(Action::Set(Timer::G, timers.t1));
                }
                actions
            }
            (State::Accepted, Class::Success) => vec![Action::Send],
            _ => vec![],
        }
    }

    pub(super) fn ack(&mut self, timers: &Timers) -> Vec<Action> {
        match self.state {
            State::Completed { .. } => {
                self.state = State::Confirmed;
                let end = if self.reliable { Action::Terminate } else { Action::Set(Timer::I, timers.t4) };
                vec![Action::Stop(Timer::G), Action::Stop(Timer::H), end]
            }
            State::Accepted => vec![Action::Deliver],
            State::Proceeding { .. } | State::Confirmed => vec![],
        }
    }

    pub(super) fn timer(&mut self, timer: Timer, timers: &Timers) -> Vec<Action> {
        match (self.state, timer) {
            (State::Completed { interval }, Timer::G) => {
                let interval = timers.next_interval(interval);
                self.state = State::Completed { interval };
                vec![Action::Retransmit, Action::Set(Timer::G, interval)]
            }
            (State::Completed { .. }, Timer::H) => vec![Action::TimedOut, Action::Terminate],
            (State::Confirmed, Timer::I) | (State::Accepted, Timer::L) => vec![Action::Terminate],
            _ => vec![],
        }
    }

    /// True while the core owes a final response.
    pub(super) fn is_proceeding(&self) -> bool {
        matches!(self.state, State::Proceeding { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_of_figure_7() {
        let t = Timers::default();
        let (mut machine, actions) = ServerInvite::start(&t, false);
        assert_eq!(actions, [Action::Deliver, Action::Set(Timer::Trying, t.trying)]);
        assert_eq!(machine.again(), []);
        assert_eq!(machine.respond(Class::Provisional, &t), [Action::Stop(Timer::Trying), Action::Send]);
        assert_eq!(machine.again(), [Action::Retransmit]);
        assert_eq!(machine.ack(&t), []);
        let failed = machine.respond(Class::Failure, &t);
        assert!(failed.ends_with(&[Action::Send, Action::Set(Timer::H, t.h), Action::Set(Timer::G, t.t1)]));
        assert_eq!(machine.again(), [Action::Retransmit]);
        assert_eq!(machine.timer(Timer::G, &t), [Action::Retransmit, Action::Set(Timer::G, t.t1 * 2)]);
        assert_eq!(machine.respond(Class::Success, &t), []);
        assert_eq!(machine.ack(&t).last(), Some(&Action::Set(Timer::I, t.t4)));
        assert_eq!(machine.again(), []);
        assert_eq!(machine.timer(Timer::H, &t), []);
        assert_eq!(machine.timer(Timer::I, &t), [Action::Terminate]);
    }

    #[test]
    fn a_failure_without_ack_times_out() {
        let t = Timers::default();
        let (mut machine, _) = ServerInvite::start(&t, true);
        machine.respond(Class::Failure, &t);
        assert_eq!(machine.timer(Timer::H, &t), [Action::TimedOut, Action::Terminate]);
    }

    #[test]
    fn after_a_2xx_retransmitted_invites_are_absorbed_and_acks_pass() {
        let t = Timers::default();
        let (mut machine, _) = ServerInvite::start(&t, false);
        assert_eq!(machine.respond(Class::Success, &t).last(), Some(&Action::Set(Timer::L, t.l)));
        assert_eq!(machine.again(), []);
        assert_eq!(machine.ack(&t), [Action::Deliver]);
        assert_eq!(machine.respond(Class::Success, &t), [Action::Send]);
        assert_eq!(machine.timer(Timer::L, &t), [Action::Terminate]);
    }
}
