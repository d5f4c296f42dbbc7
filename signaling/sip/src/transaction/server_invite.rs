//! The INVITE server transaction (RFC 3261 17.2.1, RFC 6026 7.1).
//!
//! ```text
//! Proceeding --2xx--> Accepted --L--> gone          (the core retransmits the 2xx)
//!     \--3xx-6xx--> Completed --ACK--> Confirmed --I--> gone
//!                   G: again       H: no ACK came
//! ```

use std::time::Duration;

use super::{Action, Actions, Class, Timer, Timers};

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
    pub(super) fn start(timers: &Timers, reliable: bool) -> (ServerInvite, Actions) {
        let machine = ServerInvite { state: State::Proceeding { answered: false }, reliable };
        (machine, Actions::from([Action::Deliver, Action::Set(Timer::Trying, timers.trying)]))
    }

    /// The same INVITE came again.
    pub(super) fn again(&self) -> Actions {
        match self.state {
            State::Proceeding { answered: true } | State::Completed { .. } => Actions::from([Action::Retransmit]),
            State::Proceeding { answered: false } | State::Accepted | State::Confirmed => Actions::none(),
        }
    }

    pub(super) fn respond(&mut self, class: Class, timers: &Timers) -> Actions {
        match (self.state, class) {
            (State::Proceeding { .. }, Class::Provisional) => {
                self.state = State::Proceeding { answered: true };
                Actions::from([Action::Stop(Timer::Trying), Action::Send])
            }
            (State::Proceeding { .. }, Class::Success) => {
                self.state = State::Accepted;
                Actions::from([Action::Stop(Timer::Trying), Action::Send, Action::Set(Timer::L, timers.l)])
            }
            (State::Proceeding { .. }, Class::Failure) => {
                self.state = State::Completed { interval: timers.t1 };
                let mut actions =
                    Actions::from([Action::Stop(Timer::Trying), Action::Send, Action::Set(Timer::H, timers.h)]);
                if !self.reliable {
                    actions.push(Action::Set(Timer::G, timers.t1));
                }
                actions
            }
            (State::Accepted, Class::Success) => Actions::from([Action::Send]),
            _ => Actions::none(),
        }
    }

    pub(super) fn ack(&mut self, timers: &Timers) -> Actions {
        match self.state {
            State::Completed { .. } => {
                self.state = State::Confirmed;
                let end = if self.reliable { Action::Terminate } else { Action::Set(Timer::I, timers.t4) };
                Actions::from([Action::Stop(Timer::G), Action::Stop(Timer::H), end])
            }
            State::Accepted => Actions::from([Action::Deliver]),
            // Another copy of the INVITE was refused without a transaction, and this one came late: its caller is gone.
            State::Proceeding { .. } => Actions::from([Action::Abandon]),
            State::Confirmed => Actions::none(),
        }
    }

    pub(super) fn timer(&mut self, timer: Timer, timers: &Timers) -> Actions {
        match (self.state, timer) {
            (State::Completed { interval }, Timer::G) => {
                let interval = timers.next_interval(interval);
                self.state = State::Completed { interval };
                Actions::from([Action::Retransmit, Action::Set(Timer::G, interval)])
            }
            (State::Completed { .. }, Timer::H) => Actions::from([Action::TimedOut, Action::Terminate]),
            (State::Confirmed, Timer::I) | (State::Accepted, Timer::L) => Actions::from([Action::Terminate]),
            _ => Actions::none(),
        }
    }

    /// True once a 2xx was sent.
    pub(super) fn is_accepted(&self) -> bool {
        self.state == State::Accepted
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
        assert_eq!(machine.ack(&t), [Action::Abandon]);
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
