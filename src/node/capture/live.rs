//! Calls that are recorded now, at whichever worker: what the API asks, and how a worker answers.
//!
//! Every worker is asked at once and has [`PATIENCE`]. One that does not answer is named; what the others say stands.

use std::sync::Arc;
use std::time::Duration;

use ferric_fabric::{Fabric, NodeId};
use ferric_media::stats::Channel;
use ferric_srs::port::RecordingId;
use ferric_worker::call::{CallSnapshot, Control, ControlOutcome};
use ferric_worker::worker::Worker;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::post::QUESTION;
use super::serve::Serve;
use crate::console::{BackendError, CallView, CallsView, ControlView, ParticipantView, StreamView};
use crate::node::asks::{Ask, Asks};
use crate::node::catalogue::Bookkeeper;
use crate::node::cluster::{Cluster, Topic};

/// How long another node may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Calls in one answer; who wants more asks again.
const PAGE: usize = 500;

/// What one node asks another.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(super) enum Question {
    /// The calls after this id.
    Calls { after: Option<Uuid> },
    /// Silence from now on.
    Pause { id: Uuid },
    /// Record again.
    Resume { id: Uuid },
    /// Set tags.
    Tags { id: Uuid, tags: Vec<(String, String)> },
    /// End it.
    Stop { id: Uuid },
}

/// What it answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub(super) enum Reply {
    /// Some calls, and whether there are more.
    Calls { calls: Vec<CallView>, more: bool },
    /// It was done.
    Done { view: ControlView },
    /// No such call here.
    Unknown,
    /// It could not be done.
    Failed { why: String },
}

/// The calls of this node's worker.
#[derive(Clone)]
pub(in crate::node) struct Here {
    pub(in crate::node) node: String,
    pub(in crate::node) worker: Arc<Worker>,
    pub(in crate::node) books: Bookkeeper,
    pub(in crate::node) asks: Asks,
    /// Has those that are recorded for other nodes.
    pub(in crate::node) serve: Option<Serve>,
}

impl Here {
    pub(super) async fn answer(&self, question: Question) -> Reply {
        match question {
            Question::Calls { after } => {
                let mut calls = match self.calls().await {
                    Ok(calls) => calls,
                    Err(error) => return Reply::Failed { why: error.to_string() },
                };
                calls.retain(|call| after.is_none_or(|after| call.id > after));
                let more = calls.len() > PAGE;
                calls.truncate(PAGE);
                Reply::Calls { calls, more }
            }
            Question::Pause { id } => self.control(id, Control::Pause { by: Some("api".into()) }).await,
            Question::Resume { id } => self.control(id, Control::Resume).await,
            Question::Tags { id, tags } => {
                let reply = self.control(id, Control::Tags(tags)).await;
                if matches!(reply, Reply::Done { .. })
                    && let Ok(calls) = self.blocking(Worker::calls).await
                    && let Some(call) = calls.into_iter().find(|call| call.id == id)
                {
                    self.books.tagged(call.part, &call.tenant, call.started_at, call.tags);
                }
                reply
            }
            Question::Stop { id } => self.stop(id).await,
        }
    }

    /// By id.
    async fn calls(&self) -> Result<Vec<CallView>, BackendError> {
        let calls = self.blocking(Worker::calls).await?;
        let mut views: Vec<CallView> = calls.into_iter().map(|call| call_view(call, &self.node)).collect();
        views.sort_by_key(|view| view.id);
        Ok(views)
    }

    async fn control(&self, id: Uuid, control: Control) -> Reply {
        match self.blocking(move |worker| worker.control(id, control)).await {
            Ok(Ok(outcome)) => Reply::Done { view: view(id, outcome) },
            Ok(Err(_)) => Reply::Unknown,
            Err(error) => Reply::Failed { why: error.to_string() },
        }
    }

    async fn stop(&self, id: Uuid) -> Reply {
        if !self.worker.is_recording(id) {
            return Reply::Unknown;
        }
        let is_of_others = match &self.serve {
            Some(serve) => serve.stop(RecordingId(id)).await,
            None => false,
        };
        if !is_of_others && let Err(error) = self.asks.ask(|done| Ask::Stop(RecordingId(id), done)).await {
            return Reply::Failed { why: error.to_string() };
        }
        Reply::Done { view: ControlView { id, state: "stopped".into(), changed: true, at_ms: 0 } }
    }

    /// Runs what blocks on a shard away from the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Worker) -> T + Send + 'static,
    ) -> Result<T, BackendError> {
        let worker = Arc::clone(&self.worker);
        let done = tokio::task::spawn_blocking(move || work(&worker)).await;
        done.map_err(|_| BackendError::Unavailable("the capture worker does not answer".into()))
    }
}

/// The calls of all workers.
#[derive(Clone)]
pub(in crate::node) struct Live {
    pub(in crate::node) here: Here,
    pub(in crate::node) cluster: Cluster,
}

impl Live {
    /// All calls, by id.
    pub(in crate::node) async fn calls(&self) -> Result<CallsView, BackendError> {
        let mut all = CallsView { calls: self.here.calls().await?, missing: Vec::new() };
        let Some(fabric) = self.cluster.fabric() else { return Ok(all) };
        let workers = self.workers();
        let answers = join_all(workers.iter().map(|node| calls_of(fabric, node))).await;
        for (node, answer) in workers.iter().zip(answers) {
            match answer {
                Some(calls) => all.calls.extend(calls),
                None => all.missing.push(node.to_string()),
            }
        }
        all.calls.sort_by_key(|call| call.id);
        // One that moves from worker to worker may be seen at both.
        all.calls.dedup_by_key(|call| call.id);
        Ok(all)
    }

    /// Silence from now on.
    pub(in crate::node) async fn pause(&self, id: Uuid) -> Result<ControlView, BackendError> {
        self.ask_all(Question::Pause { id }).await
    }

    /// Record again.
    pub(in crate::node) async fn resume(&self, id: Uuid) -> Result<ControlView, BackendError> {
        self.ask_all(Question::Resume { id }).await
    }

    /// Set tags.
    pub(in crate::node) async fn tag(
        &self,
        id: Uuid,
        tags: Vec<(String, String)>,
    ) -> Result<ControlView, BackendError> {
        self.ask_all(Question::Tags { id, tags }).await
    }

    /// End it.
    pub(in crate::node) async fn stop(&self, id: Uuid) -> Result<ControlView, BackendError> {
        self.ask_all(Question::Stop { id }).await
    }

    /// Asks this node, then all others, for the one that has the call.
    async fn ask_all(&self, question: Question) -> Result<ControlView, BackendError> {
        let mut silent = Vec::new();
        let mut replies = vec![(self.here.node.clone(), Some(self.here.answer(question.clone()).await))];
        if let (Some((_, Some(Reply::Unknown))), Some(fabric)) = (replies.first(), self.cluster.fabric()) {
            let workers = self.workers();
            let answers = join_all(workers.iter().map(|node| ask(fabric, node, &question))).await;
            replies = workers.iter().map(ToString::to_string).zip(answers).collect();
        }
        for (node, reply) in replies {
            match reply {
                Some(Reply::Done { view }) => return Ok(view),
                Some(Reply::Failed { why }) => return Err(BackendError::Unavailable(format!("{node}: {why}"))),
                Some(Reply::Unknown | Reply::Calls { .. }) => {}
                None => silent.push(node),
            }
        }
        if silent.is_empty() {
            return Err(BackendError::NotFound("no call with this id is being recorded".into()));
        }
        let text = format!("no worker that answers has this call, and {} does not answer", silent.join(", "));
        Err(BackendError::Unavailable(text))
    }

    /// Other nodes that record.
    fn workers(&self) -> Vec<NodeId> {
        let records = |roles: &[String]| roles.iter().any(|role| role == "capture");
        let seen = self.cluster.seen().into_iter();
        seen.filter(|seen| records(&seen.roles)).map(|seen| seen.node).collect()
    }
}

async fn ask(fabric: &Fabric, node: &NodeId, question: &Question) -> Option<Reply> {
    let body = serde_json::to_vec(question).ok()?;
    let answer = fabric.request(node, Topic::Capture.kind(QUESTION), body, PATIENCE).await;
    match answer {
        Ok(bytes) => serde_json::from_slice(&bytes).ok(),
        Err(error) => {
            tracing::info!(%node, %error, "a worker does not answer the API");
            None
        }
    }
}

async fn calls_of(fabric: &Fabric, node: &NodeId) -> Option<Vec<CallView>> {
    let mut all: Vec<CallView> = Vec::new();
    loop {
        let after = all.last().map(|call| call.id);
        let Some(Reply::Calls { calls, more }) = ask(fabric, node, &Question::Calls { after }).await else {
            return None;
        };
        let is_over = !more || calls.is_empty();
        all.extend(calls);
        if is_over {
            return Some(all);
        }
    }
}

fn view(id: Uuid, outcome: ControlOutcome) -> ControlView {
    let state = if outcome.paused { "paused" } else { "recording" };
    ControlView { id, state: state.into(), changed: outcome.changed, at_ms: outcome.at_ms }
}

fn call_view(call: CallSnapshot, node: &str) -> CallView {
    let channel = |channel: Channel| u8::from(channel == Channel::Right);
    CallView {
        id: call.id,
        sip_call_id: call.session.sip.call_id,
        tenant: call.tenant,
        node: node.to_owned(),
        state: if call.paused { "paused".into() } else { "recording".into() },
        started_at: call.started_at.to_string(),
        duration_ms: call.stats.duration_ms,
        participants: call
            .session
            .participants
            .into_iter()
            .map(|participant| ParticipantView {
                name: participant.name,
                aor: participant.aor,
                channel: participant.channel,
            })
            .collect(),
        streams: call
            .stats
            .streams
            .into_iter()
            .map(|stream| StreamView {
                label: stream.label,
                channel: channel(stream.channel),
                codec: stream.codec.map(str::to_owned),
                packets: stream.packets,
                lost: stream.lost,
                jitter_ms: stream.jitter_ms,
                mos: stream.mos,
                mos_over_time: stream
                    .mos_over_time
                    .get(stream.mos_over_time.len().saturating_sub(30)..)
                    .unwrap_or_default()
                    .to_vec(),
                burst_ratio: stream.burst_ratio,
                late: stream.late,
                srtp: stream.srtp.map(str::to_owned),
            })
            .collect(),
        tags: call.tags.into_iter().collect(),
    }
}
