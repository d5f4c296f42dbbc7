//! The non-INVITE server transaction (RFC 3261 17.2.2).
//!
//! ```text
//! Trying --1xx--> Proceeding --final--> Completed --J--> gone
//! ```

use super::{Action, Actions, Class, Timer, Timers};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Trying,
    Proceeding,
    Completed,
}

#[derive(Debug)]
pub(super) struct ServerNonInvite {
    state: State,
    reliable: bool,
}

impl ServerNonInvite {
    pub(super) fn start(reliable: bool) -> (ServerNonInvite, Actions) {
        (ServerNonInvite { state: State::Trying, reliable }, Actions::from([Action::Deliver]))
    }

    /// The same request came again.
    pub(super) fn again(&self) -> Actions {
        match self.state {
            State::Trying => Actions::none(),
            State::Proceeding | State::Completed => Actions::from([Action::Retransmit]),
        }
    }

    pub(super) fn respond(&mut self, class: Class, timers: &Timers) -> Actions {
        match (self.state, class) {
            (State::Completed, _) => Actions::none(),
            (_, Class::Trying | Class::Provisional) => {
                self.state = State::Proceeding;
                Actions::from([Action::Send])
            }
            (_, Class::Success | Class::Failure) => {
                self.state = State::Completed;
                let end = if self.reliable { Action::Terminate } else { Action::Set(Timer::J, timers.j) };
                Actions::from([Action::Send, end])
            }
        }
    }

    pub(super) fn timer(&mut self, timer: Timer) -> Actions {
        if timer == Timer::J { Actions::from([Action::Terminate]) } else { Actions::none() }
    }

    /// True while the core owes a final response.
    pub(super) fn is_proceeding(&self) -> bool {
        self.state != State::Completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_of_figure_8() {
        let t = Timers::default();
        let (mut machine, actions) = ServerNonInvite::start(false);
        assert_eq!(actions, [Action::Deliver]);
        assert_eq!(machine.again(), []);
        assert_eq!(machine.respond(Class::Provisional, &t), [Action::Send]);
        assert_eq!(machine.again(), [Action::Retransmit]);
        assert_eq!(machine.respond(Class::Success, &t), [Action::Send, Action::Set(Timer::J, t.j)]);
        assert_eq!(machine.again(), [Action::Retransmit]);
        assert_eq!(machine.respond(Class::Failure, &t), []);
        assert_eq!(machine.timer(Timer::J), [Action::Terminate]);
        let (mut machine, _) = ServerNonInvite::start(true);
        assert_eq!(machine.respond(Class::Failure, &t), [Action::Send, Action::Terminate]);
    }
}
