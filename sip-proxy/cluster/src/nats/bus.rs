//! Soft state over core publish/subscribe.
//!
//! What cannot be sent at once is dropped and counted: the next digest finds what it would have told. Without a link this task
//! keeps the lives of entries, and sends by the way beside NATS, if there is one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Client, Subscriber};
use ferric_state::{Destination, NodeId, Output};
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::AGAIN_AFTER;
use super::link::{Link, down, up};
use crate::carrier::Carrier;
use crate::health::Gauges;
use crate::keeper::{Keeper, Record};
use crate::memory::Memory;

/// Longest wait for room in the client's queue.
const SEND_WITHIN: Duration = Duration::from_millis(500);

/// What the task works with.
pub(crate) struct Bus {
    pub(crate) memory: Arc<Memory>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) gauges: Arc<Gauges>,
    /// `ferric.CLUSTER.soft.`
    pub(crate) prefix: String,
    pub(crate) node: NodeId,
    /// Another way to the other nodes.
    pub(crate) beside: Option<Arc<dyn Carrier>>,
    /// Told when nobody was there to join: what is kept is to be read.
    pub(crate) alone: mpsc::Sender<()>,
}

impl Bus {
    /// A node without NATS.
    pub(crate) async fn run_alone(self) {
        self.turn_until(None, std::future::pending()).await;
    }

    /// A node with others, as far as the link is there.
    pub(crate) async fn run(self, link: Link) {
        loop {
            let mut waiting = link.clone();
            let mut client = None;
            self.turn_until(None, async { client = up(&mut waiting).await }).await;
            let Some(client) = client else { return };
            match self.subscribe(&client).await {
                Ok(subscriptions) => {
                    self.memory.nats(true);
                    self.turn_until(Some((client, subscriptions)), down(waiting.clone())).await;
                    self.memory.nats(false);
                }
                Err(error) => {
                    tracing::warn!(%error, "NATS: soft state cannot be subscribed to");
                    self.turn_until(None, tokio::time::sleep(AGAIN_AFTER)).await;
                }
            }
        }
    }

    async fn subscribe(&self, client: &Client) -> Result<[Subscriber; 2], String> {
        let all = client.subscribe(format!("{}all", self.prefix)).await.map_err(|error| error.to_string())?;
        let own = format!("{}to.{}", self.prefix, self.node);
        let own = client.subscribe(own).await.map_err(|error| error.to_string())?;
        // The others hear of this node only once the server knows what to bring here.
        super::within(client.flush()).await?;
        Ok([all, own])
    }

    /// Does what is due and what arrives, until `end`.
    async fn turn_until(&self, with: Option<(Client, [Subscriber; 2])>, end: impl Future<Output = ()>) {
        let (client, mut messages) = match with {
            Some((client, subscriptions)) => (Some(client), futures::stream::select_all(subscriptions)),
            None => (None, futures::stream::SelectAll::new()),
        };
        let mut end = std::pin::pin!(end);
        loop {
            let (outputs, next) = self.memory.turn();
            for output in outputs {
                self.perform(client.as_ref(), output).await;
            }
            let due = next.map_or(Duration::from_secs(60), |at| at.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = &mut end => return,
                Some(message) = messages.next() => self.memory.message(&message.payload),
                () = self.memory.woken() => {}
                () = tokio::time::sleep(due) => {}
            }
        }
    }

    async fn perform(&self, client: Option<&Client>, output: Output) {
        match output {
            Output::Send(to, bytes) => {
                let beside = self.beside.as_ref().is_some_and(|beside| beside.send(&to, &bytes));
                if beside && matches!(to, Destination::Node(_)) {
                    return;
                }
                let subject = match to {
                    Destination::All => format!("{}all", self.prefix),
                    Destination::Node(node) => format!("{}to.{node}", self.prefix),
                };
                let connected =
                    client.filter(|client| client.connection_state() == async_nats::connection::State::Connected);
                let sent = match connected {
                    Some(client) => {
                        let sending = tokio::time::timeout(SEND_WITHIN, client.publish(subject, bytes));
                        matches!(sending.await, Ok(Ok(())))
                    }
                    None => false,
                };
                if !sent && !beside {
                    self.gauges.sends_dropped.add(1);
                }
            }
            Output::Keep { id, record, life } => {
                if !self.keeper.push(id, Record { bytes: record, life, made: Instant::now() }) {
                    self.gauges.keep_dropped.add(1);
                }
            }
            Output::Joined { alone: true } => {
                // A question that waits already is as good.
                let _ = self.alone.try_send(());
            }
            Output::Joined { alone: false } | Output::Changed(..) => {}
        }
    }
}
