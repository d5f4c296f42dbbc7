//! How the rest of the node speaks with the signalling task.
//!
//! | | who | room |
//! | --- | --- | --- |
//! | [`Order`] | capture, and the node's own life | never lost, so the queue has no limit of its own: a call has a word or two in it at a time (media heard, silent for another `rtp_timeout`, died, an answer of its worker), and the limits of calls bound them; each worker tells its load now and then |
//! | [`Ask`] | the HTTP API, changes of the configuration, alarms | [`WAITING`]; a client that finds no room is told to come again |
//!
//! Signalling takes orders first, then SIP, and one question after each batch of messages: whoever asks all the time does not
//! hold calls up, and whoever drains an element of a node under full load is heard all the same.

use std::time::Duration;

use ferric_proxy::Location;
use ferric_proxy::group::{Drained, GroupShares, GroupView};
use ferric_registrar::Saved;
use ferric_sip::flow::Flow;
use ferric_sip::message::Message;
use ferric_srs::port::{CaptureEvent, RecordingId};
use tokio::sync::{mpsc, oneshot};

use super::capture::remote::News;
use super::cluster::PairNews;
use super::edge::Epoch;
use super::route_test::Told;
use crate::console::BackendError;

/// Questions that wait at once.
const WAITING: usize = 64;
/// Signalling answers within this, or is in trouble.
const PATIENCE: Duration = Duration::from_secs(5);

/// What signalling is told and must not miss.
#[derive(Debug)]
pub(super) enum Order {
    /// Capture has something to say.
    Capture(CaptureEvent),
    /// Other nodes, and what they say of recordings.
    Remote(News),
    /// Other SRS nodes, and what they say of dialogs.
    Pair(PairNews),
    /// Take no calls from now on, or take them again.
    Drain(bool),
    /// Refuse new calls with 503, or take them again.
    Refuse(bool),
    /// End all calls.
    StopAll,
}

/// What others ask of signalling.
#[derive(Debug)]
pub(super) enum Ask {
    /// End a call.
    Stop(RecordingId, oneshot::Sender<()>),
    /// Another configuration of the proxy. A registrar that ended by it is given back: letting go of it waits for its file.
    Apply(Box<Epoch>, oneshot::Sender<Option<Box<dyn Location>>>),
    /// What do the server groups look like?
    Groups(oneshot::Sender<Vec<GroupView>>),
    /// Who is registered: one user, or all from a place on, at most so many; and the place to go on from.
    Registrations { aor: Option<String>, from: u32, most: usize, tell: oneshot::Sender<(Vec<Saved>, Option<u32>)> },
    /// How would the server groups share out calls that begin now?
    Shares(oneshot::Sender<Vec<GroupShares>>),
    /// Which way would a message take?
    Explain { message: Box<Message>, flow: Flow, tell: oneshot::Sender<Box<Told>> },
    /// An element of a group takes no new calls, or takes them again; answers with all that is drained now, or with nothing
    /// when there is no such element.
    Drained { group: String, element: String, drained: bool, tell: oneshot::Sender<Option<Drained>> },
}

/// Asks signalling; clones share its room.
#[derive(Debug, Clone)]
pub(super) struct Asks(mpsc::Sender<Ask>);

impl Asks {
    pub(super) fn new() -> (Asks, mpsc::Receiver<Ask>) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Asks(sender), receiver)
    }

    /// Asks for a client of the API, who is turned away when many ask already.
    pub(super) async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, BackendError> {
        let (tell, told) = oneshot::channel();
        self.0.try_send(ask(tell)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                BackendError::Busy("too many questions wait for signalling: ask again in a second".to_owned())
            }
            mpsc::error::TrySendError::Closed(_) => unavailable(),
        })?;
        tokio::time::timeout(PATIENCE, told).await.ok().and_then(Result::ok).ok_or_else(unavailable)
    }

    /// Asks for the node itself, which waits for its turn.
    pub(super) async fn ask_in_turn<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Option<T> {
        let (tell, told) = oneshot::channel();
        let answer = async {
            self.0.send(ask(tell)).await.ok()?;
            told.await.ok()
        };
        tokio::time::timeout(PATIENCE, answer).await.ok().flatten()
    }

    /// Asks from a thread that may block, and waits for its turn: what was decided is done.
    pub(super) fn ask_now<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, BackendError> {
        let (tell, told) = oneshot::channel();
        self.0.blocking_send(ask(tell)).map_err(|_| unavailable())?;
        told.blocking_recv().map_err(|_| unavailable())
    }
}

fn unavailable() -> BackendError {
    BackendError::Unavailable("signalling does not answer".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn who_finds_no_room_is_told_to_come_again() {
        let (asks, mut questions) = Asks::new();
        let waiting: Vec<_> = (0..WAITING)
            .map(|_| {
                let asks = asks.clone();
                tokio::spawn(async move { asks.ask(Ask::Shares).await })
            })
            .collect();
        while questions.len() < WAITING {
            tokio::task::yield_now().await;
        }
        let refused = asks.ask(Ask::Groups).await.unwrap_err();
        assert!(matches!(refused, BackendError::Busy(_)), "{refused}");
        // Each of the others has its answer; the node's own question waits for its turn.
        let own = tokio::spawn(async move { asks.ask_in_turn(Ask::Groups).await });
        for _ in 0..=WAITING {
            match questions.recv().await.unwrap() {
                Ask::Shares(tell) => drop(tell.send(Vec::new())),
                Ask::Groups(tell) => drop(tell.send(Vec::new())),
                Ask::Stop(..)
                | Ask::Apply(..)
                | Ask::Registrations { .. }
                | Ask::Explain { .. }
                | Ask::Drained { .. } => unreachable!("nobody asked that"),
            }
        }
        assert_eq!(own.await.unwrap(), Some(Vec::new()));
        for answer in waiting {
            assert_eq!(answer.await.unwrap(), Ok(Vec::new()));
        }
        let (asks, questions) = Asks::new();
        drop(questions);
        let gone = asks.ask(Ask::Groups).await.unwrap_err();
        assert!(matches!(gone, BackendError::Unavailable(_)), "{gone}");
    }
}
