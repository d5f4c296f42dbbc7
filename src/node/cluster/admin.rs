//! What nodes ask of each other for a person: how are you, take no more calls.
//!
//! | kind | body | answer |
//! | --- | --- | --- |
//! | 1 status | `{}` | [`NodeStatus`] |
//! | 2 drain | `{"draining": true}` | [`NodeStatus`], after it was done |
//!
//! JSON both ways. Whoever is linked has a certificate of the cluster; who may ask was decided at the node that a person
//! speaks with.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ferric_cluster::Connection;
use ferric_fabric::{Fabric, Inbound, Kind, LinkQuality, Member, MemberState, RequestError, Responder};
use ferric_srs::placement::LoadReport;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::super::gate::Gate;
use super::super::proxy_backend::ago;
use super::super::watch::Watcher;
use super::{Cluster, Topic};
use crate::console::{BackendError, LinkView, LoadView, NatsView, NodeStatus, NodeView, NodesView, WorkerView};

const STATUS: Kind = Topic::Admin.kind(1);
const DRAIN: Kind = Topic::Admin.kind(2);
/// A node that is up answers within this, or is in trouble.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize, Deserialize)]
struct Drain {
    #[serde(default)]
    draining: bool,
}

/// The cluster as a person sees it from this node.
#[derive(Clone)]
pub(in crate::node) struct Admin {
    pub(in crate::node) cluster: Cluster,
    pub(in crate::node) gate: Gate,
    pub(in crate::node) watcher: Watcher,
    pub(in crate::node) records: bool,
    pub(in crate::node) roles: Vec<String>,
    pub(in crate::node) started: Instant,
}

impl Admin {
    /// Answers other nodes until the fabric ends.
    pub(in crate::node) async fn serve(self, mut asked: mpsc::Receiver<Inbound>) {
        while let Some(inbound) = asked.recv().await {
            let Inbound::Request { from, kind, body, responder, .. } = inbound else { continue };
            if kind == STATUS {
                self.answer(responder);
            } else if kind == DRAIN
                && let Ok(Drain { draining }) = serde_json::from_slice(&body)
            {
                tracing::info!(%from, draining, "asked over the fabric to drain, or to take calls again");
                self.gate.set_draining(draining).await;
                self.answer(responder);
            }
            // Of a later version: who asked is told that there is no answer.
        }
    }

    fn answer(&self, responder: Responder) {
        match serde_json::to_vec(&self.status()) {
            Ok(body) => drop(responder.answer(body)),
            Err(error) => tracing::error!(%error, "the status of this node cannot be told"),
        }
    }

    /// What this node says of itself.
    pub(in crate::node) fn status(&self) -> NodeStatus {
        let (worker, watcher) = (&self.watcher.worker, &self.watcher);
        let readiness = watcher.readiness();
        let shards = &worker.stats().shards;
        let lag_us = shards.iter().map(|shard| shard.lag_us.load(Ordering::Relaxed)).max().unwrap_or(0);
        let fabric = self.cluster.fabric();
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        let (sessions, passing) = (count(&watcher.signalling.sessions), count(&watcher.signalling.passing));
        #[allow(clippy::cast_precision_loss)]
        let load = LoadView {
            // Sessions whose media another node records keep this one from stopping too.
            calls: whole(worker.call_count().max(watcher.signalling.sessions.load(Ordering::Relaxed))),
            max_calls: if self.records { whole(worker.max_calls()) } else { 0 },
            passing: whole(passing),
            running: whole(sessions.max(worker.call_count()) + passing),
            lag_ms: lag_us as f64 / 1_000.0,
            spool_bytes: watcher.spool.usage().bytes(),
            uploads_waiting: whole(watcher.uploads.stats().waiting),
        };
        NodeStatus {
            draining: self.gate.is_draining(),
            ready: readiness.ready,
            reasons: readiness.reasons,
            load,
            nats: self.nats(),
            config_epoch: watcher.steering.epoch(),
            links: self.cluster.members().iter().filter_map(link).collect(),
            fabric_unread: fabric.map_or(0, Fabric::unread),
            fabric_datagrams_dropped: fabric.map_or(0, Fabric::datagrams_dropped),
        }
    }

    fn nats(&self) -> NatsView {
        let health = self.cluster.state().health();
        let (state, detail) = match health.connection {
            Connection::Embedded => ("none", None),
            Connection::Up => ("up", None),
            Connection::Away(why) => ("away", Some(why)),
            Connection::Refused(why) => ("refused", Some(why)),
        };
        NatsView { state: state.to_owned(), detail, documents_current: health.documents_current }
    }

    /// All nodes: this one, and what the others say of themselves.
    pub(in crate::node) async fn nodes(&self) -> NodesView {
        let asked = self.cluster.members().into_iter().map(|member| async move {
            let status = if member.is_up() { self.ask(&member, STATUS, "{}".into()).await.ok() } else { None };
            view(&member, status)
        });
        let mut nodes = join_all(asked).await;
        nodes.push(self.own());
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        let cluster = self.cluster.settings().map(|settings| settings.name.clone());
        NodesView { cluster, seen_from: self.cluster.node().to_string(), nodes }
    }

    /// The workers that told their load, and this node's own.
    pub(in crate::node) fn workers(&self) -> Vec<WorkerView> {
        let own = self.cluster.node().as_str();
        let members = self.cluster.members();
        let told = self.cluster.state().list(ferric_cluster::Kind::Load);
        let mut workers: Vec<WorkerView> = told
            .into_iter()
            .filter_map(|entry| {
                let node = std::str::from_utf8(&entry.key).ok()?.to_owned();
                let report: LoadReport = serde_json::from_slice(&entry.value).ok()?;
                let member = members.iter().find(|member| member.node.as_str() == node);
                let (site, state) = match member {
                    Some(member) => (Some(member.site.to_string()), state(member.state)),
                    None if node == own => (Some(self.cluster.site().to_string()), "up"),
                    None => (None, "known"),
                };
                Some(WorkerView {
                    node,
                    site,
                    state: state.to_owned(),
                    calls: report.calls,
                    max_calls: report.max_calls,
                    pressure: f64::from(report.pressure) / 1_000.0,
                    standby: report.standby,
                    draining: report.draining,
                    closed: report.closed,
                })
            })
            .collect();
        if self.records && !workers.iter().any(|worker| worker.node == own) {
            let worker = &self.watcher.worker;
            let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            workers.push(WorkerView {
                node: own.to_owned(),
                site: Some(self.cluster.site().to_string()),
                state: "up".to_owned(),
                calls: number(worker.call_count()),
                max_calls: number(worker.max_calls()),
                draining: worker.is_draining(),
                closed: !self.watcher.gauge.is_open(),
                ..WorkerView::default()
            });
        }
        workers.sort_by(|a, b| a.node.cmp(&b.node));
        workers
    }

    fn own(&self) -> NodeView {
        let settings = self.cluster.settings();
        let address =
            settings.and_then(|settings| settings.advertise).or(self.cluster.fabric().map(Fabric::local_address));
        NodeView {
            id: self.cluster.node().to_string(),
            site: self.cluster.site().to_string(),
            roles: self.roles.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: "up".to_owned(),
            since: ago(self.started.elapsed()),
            this: true,
            draining: self.gate.is_draining(),
            addresses: address.iter().map(ToString::to_string).collect(),
            protocol: None,
            clock_ahead_ms: None,
            link: None,
            status: Some(self.status()),
        }
    }

    /// Drains a node, or lets it take calls again; a node that is not this one is asked over the fabric.
    pub(in crate::node) async fn set_draining(&self, id: &str, draining: bool) -> Result<NodeView, BackendError> {
        tracing::info!(target: "audit", node = id, draining, "the API drains a node, or lets it take calls again");
        if id == self.cluster.node().as_str() {
            self.gate.set_draining(draining).await;
            return Ok(self.own());
        }
        let members = self.cluster.members();
        let Some(member) = members.iter().find(|member| member.node.as_str() == id) else {
            let known: Vec<&str> = members.iter().map(|member| member.node.as_str()).collect();
            let others = if known.is_empty() { String::new() } else { format!(", {}", known.join(", ")) };
            let text = format!("there is no node \"{id}\"; there are {}{others}", self.cluster.node());
            return Err(BackendError::NotFound(text));
        };
        let body = serde_json::to_vec(&Drain { draining }).unwrap_or_default();
        match self.ask(member, DRAIN, body).await {
            Ok(status) => Ok(NodeView { draining: status.draining, ..view(member, Some(status)) }),
            Err(error) => {
                let state = state(member.state);
                Err(BackendError::Unavailable(format!("node {id} ({state}) was not told: {error}")))
            }
        }
    }

    async fn ask(&self, member: &Member, kind: Kind, body: Vec<u8>) -> Result<NodeStatus, String> {
        let fabric = self.cluster.fabric().ok_or("there is no fabric")?;
        let answer = fabric.request(&member.node, kind, body, PATIENCE).await;
        let body = answer.map_err(|error: RequestError| error.to_string())?;
        serde_json::from_slice(&body).map_err(|error| format!("its answer cannot be read: {error}"))
    }
}

fn view(member: &Member, status: Option<NodeStatus>) -> NodeView {
    NodeView {
        id: member.node.to_string(),
        site: member.site.to_string(),
        roles: member.profile.roles.clone(),
        version: member.profile.version.clone(),
        state: state(member.state).to_owned(),
        since: ago(member.since.elapsed()),
        this: false,
        draining: member.profile.draining,
        addresses: member.addresses.iter().map(ToString::to_string).collect(),
        protocol: member.protocol.map(|protocol| protocol.0),
        clock_ahead_ms: member.is_up().then_some(member.clock_ahead_ms),
        link: link(member),
        status,
    }
}

fn state(state: MemberState) -> &'static str {
    match state {
        MemberState::Alive => "up",
        MemberState::Suspect => "suspect",
        MemberState::Dead => "down",
        MemberState::Left => "left",
        MemberState::Known => "known",
    }
}

fn link(member: &Member) -> Option<LinkView> {
    let LinkQuality { rtt, jitter, loss } = member.quality?;
    let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
    Some(LinkView { to: member.node.to_string(), rtt_ms: rtt.map(ms), jitter_ms: ms(jitter), loss })
}

fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
