//! The one reader of the topic between SRS nodes and workers, and what both ends hear of who comes and goes.

use std::collections::{BTreeMap, VecDeque};

use ferric_fabric::{DownCause, Inbound, NodeId};
use ferric_srs::placement::{ToServer, ToWorker};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::live::Here;
use super::post::{QUESTION, TO_SERVER, TO_WORKER};
use super::remote::News;
use super::serve::{Input, Serve};
use crate::node::asks::Order;
use crate::node::cluster::{Cluster, MemberEvent, Members, Seen};

/// Messages that wait for the worker's end; past it none is read.
const MOST_WAITING: usize = 64;

/// Whom it serves.
pub(in crate::node) struct Router {
    /// The SRS's end, where this node has one.
    pub(in crate::node) orders: Option<mpsc::UnboundedSender<Order>>,
    /// The worker's end, where this node has one.
    pub(in crate::node) serve: Option<Serve>,
    /// Answers for the API of other nodes.
    pub(in crate::node) here: Here,
    pub(in crate::node) cluster: Cluster,
    /// Nodes that are up.
    pub(in crate::node) up: BTreeMap<NodeId, Seen>,
    /// What the worker's end has no room for now.
    pub(in crate::node) waiting: VecDeque<Input>,
}

/// Room at the worker's end; `None`: it is gone.
async fn reserve(serve: Option<&Serve>) -> Option<mpsc::OwnedPermit<Input>> {
    serve?.reserve().await
}

impl Router {
    /// Reads until the node ends. Who comes and goes is told before what they say, also while the worker's end waits for a
    /// disk: what is for it waits here, and what others send then waits with them.
    pub(in crate::node) async fn run(mut self, mut topic: mpsc::Receiver<Inbound>, mut members: Members) {
        loop {
            tokio::select! {
                biased;
                event = members.next() => match event {
                    Some(event) => self.member(event),
                    None => return,
                },
                permit = reserve(self.serve.as_ref()), if !self.waiting.is_empty() => match permit {
                    Some(permit) => {
                        if let Some(input) = self.waiting.pop_front() {
                            permit.send(input);
                        }
                    }
                    None => return,
                },
                message = topic.recv(), if self.waiting.len() < MOST_WAITING => match message {
                    Some(message) => self.message(message),
                    None => return,
                },
            }
        }
    }

    fn member(&mut self, event: MemberEvent) {
        match event {
            MemberEvent::Up(seen) => self.up(*seen),
            MemberEvent::Down { node, cause } => self.down(node, cause == DownCause::Replaced),
            MemberEvent::Changed(seen) => drop(self.up.insert(seen.node.clone(), *seen)),
            MemberEvent::Missed => {
                // Whatever was missed: each link is taken as a new one.
                let now = self.cluster.seen();
                let is_gone = |node: &&NodeId| !now.iter().any(|seen| seen.node == **node);
                let gone: Vec<NodeId> = self.up.keys().filter(is_gone).cloned().collect();
                for node in gone {
                    self.down(node, false);
                }
                for seen in now {
                    self.down(seen.node.clone(), true);
                    self.up(seen);
                }
            }
        }
        let servers = 1 + self.up.values().filter(|seen| has(seen, "srs")).count();
        self.order(News::Servers(servers));
    }

    fn up(&mut self, seen: Seen) {
        if has(&seen, "capture") {
            self.order(News::Up { node: seen.node.clone(), site: seen.site.to_string() });
        }
        if self.serve.is_some() && has(&seen, "srs") {
            self.waiting.push_back(Input::Up(seen.node.clone()));
        }
        self.up.insert(seen.node.clone(), seen);
    }

    fn down(&mut self, node: NodeId, is_replaced: bool) {
        self.order(if is_replaced { News::Replaced(node.clone()) } else { News::Down(node.clone()) });
        self.up.remove(&node);
        if self.serve.is_some() {
            self.waiting.push_back(Input::Down(node));
        }
    }

    fn order(&self, news: News) {
        if let Some(orders) = &self.orders {
            let _ = orders.send(Order::Remote(news));
        }
    }

    fn message(&mut self, message: Inbound) {
        match message {
            Inbound::Message { from, kind, body, .. } => match kind.number() {
                TO_WORKER => {
                    if let Some(message) = read::<ToWorker>(&from, &body).filter(|_| self.serve.is_some()) {
                        self.waiting.push_back(Input::Message(from, Box::new(message)));
                    }
                }
                TO_SERVER => {
                    if let Some(message) = read::<ToServer>(&from, &body) {
                        self.order(News::Message(from, Box::new(message)));
                    }
                }
                number => tracing::debug!(%from, number, "a message of another version"),
            },
            Inbound::Request { from, kind, body, responder, .. } => {
                if kind.number() == QUESTION
                    && let Some(question) = read(&from, &body)
                {
                    let here = self.here.clone();
                    tokio::spawn(async move {
                        let answer = here.answer(question).await;
                        if let Ok(bytes) = serde_json::to_vec(&answer) {
                            let _ = responder.answer(bytes);
                        }
                    });
                }
            }
        }
    }
}

fn has(seen: &Seen, role: &str) -> bool {
    seen.roles.iter().any(|listed| listed == role)
}

fn read<T: DeserializeOwned>(from: &NodeId, body: &[u8]) -> Option<T> {
    serde_json::from_slice(body).map_err(|error| tracing::warn!(%from, %error, "a message cannot be understood")).ok()
}
