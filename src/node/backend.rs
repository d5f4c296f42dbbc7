//! The console's view of a node.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ferric_assurance::Ledger;
use ferric_media::keys::NodePublicKey;
use ferric_media::stats::Channel;
use ferric_srs::port::RecordingId;
use ferric_worker::call::{CallSnapshot, Control, ControlOutcome};
use ferric_worker::spool::{AUDIO, MANIFEST, METADATA, Stage};
use ferric_worker::upload::Stores;
use ferric_worker::worker::Worker;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::broadcast;
use uuid::Uuid;

use super::asks::Ask;
use super::catalogue::Bookkeeper;
use super::cluster::Admin;
use super::sight::Ladders;
use super::steering::Steering;
use super::watch::Watcher;
use crate::console::{
    Alarm, Answer, AssuranceQuery, AssuranceView, Backend, BackendError, CallView, ClusterBackend, ControlView, Event,
    NodeView, NodesView, ObjectKind, ParticipantView, Readiness, RecordingView, RecordingsPage, RecordingsQuery,
    StreamView, UploadsView, WorkerView,
};

pub(super) struct NodeBackend {
    pub(super) worker: Arc<Worker>,
    pub(super) books: Bookkeeper,
    pub(super) stores: Stores,
    pub(super) spool_root: PathBuf,
    pub(super) watcher: Watcher,
    pub(super) ledger: Ledger,
    pub(super) node_key: NodePublicKey,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) prometheus: Option<PrometheusHandle>,
    pub(super) steering: Arc<Steering>,
    pub(super) ladders: Ladders,
    pub(super) admin: Admin,
}

impl NodeBackend {
    /// Runs what blocks on a shard away from the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Worker) -> T + Send + 'static,
    ) -> Result<T, BackendError> {
        let worker = Arc::clone(&self.worker);
        let done = tokio::task::spawn_blocking(move || work(&worker)).await;
        done.map_err(|_| BackendError::Unavailable("the capture worker does not answer".into()))
    }

    async fn control(&self, id: Uuid, control: Control) -> Result<ControlOutcome, BackendError> {
        let name = match &control {
            Control::Pause { .. } => Some("call.paused"),
            Control::Resume => Some("call.resumed"),
            Control::Tags(_) => None,
        };
        let outcome = self.blocking(move |worker| worker.control(id, control)).await?;
        let outcome = outcome.map_err(|error| BackendError::NotFound(error.to_string()))?;
        if let Some(name) = name.filter(|_| outcome.changed) {
            let _ = self.events.send(Event { recording: Some(id), ..Event::new(name) });
        }
        Ok(outcome)
    }
}

fn view(id: Uuid, outcome: ControlOutcome) -> ControlView {
    let state = if outcome.paused { "paused" } else { "recording" };
    ControlView { id, state, changed: outcome.changed, at_ms: outcome.at_ms }
}

fn call_view(call: CallSnapshot, tenant: String, started_at: String) -> CallView {
    let channel = |channel: Channel| u8::from(channel == Channel::Right);
    CallView {
        id: call.id,
        sip_call_id: call.session.sip.call_id,
        tenant,
        state: if call.paused { "paused" } else { "recording" },
        started_at,
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

impl ClusterBackend for NodeBackend {
    fn nodes(&self) -> Answer<'_, NodesView> {
        Box::pin(async { Ok(self.admin.nodes().await) })
    }

    fn workers(&self) -> Answer<'_, Vec<WorkerView>> {
        Box::pin(async { Ok(self.admin.workers()) })
    }

    fn set_node_draining(&self, id: String, draining: bool) -> Answer<'_, NodeView> {
        Box::pin(async move { self.admin.set_draining(&id, draining).await })
    }
}

impl Backend for NodeBackend {
    fn calls(&self) -> Answer<'_, Vec<CallView>> {
        Box::pin(async {
            let calls = self.blocking(Worker::calls).await?;
            let mut views: Vec<CallView> = calls
                .into_iter()
                .map(|call| {
                    let (tenant, started_at) = (call.tenant.clone(), call.started_at.to_string());
                    call_view(call, tenant, started_at)
                })
                .collect();
            views.sort_by_key(|view| view.id);
            Ok(views)
        })
    }

    fn pause(&self, id: Uuid) -> Answer<'_, ControlView> {
        Box::pin(async move { Ok(view(id, self.control(id, Control::Pause { by: Some("api".into()) }).await?)) })
    }

    fn resume(&self, id: Uuid) -> Answer<'_, ControlView> {
        Box::pin(async move { Ok(view(id, self.control(id, Control::Resume).await?)) })
    }

    fn stop(&self, id: Uuid) -> Answer<'_, ControlView> {
        Box::pin(async move {
            let known = self.blocking(move |worker| worker.is_recording(id)).await?;
            if !known {
                return Err(BackendError::NotFound("no call with this id is being recorded".into()));
            }
            self.steering.asks.ask(|done| Ask::Stop(RecordingId(id), done)).await?;
            Ok(ControlView { id, state: "stopped", changed: true, at_ms: 0 })
        })
    }

    fn tag(&self, id: Uuid, tags: Vec<(String, String)>) -> Answer<'_, ControlView> {
        Box::pin(async move {
            let outcome = self.control(id, Control::Tags(tags)).await?;
            let call = self.blocking(Worker::calls).await?.into_iter().find(|call| call.id == id);
            if let Some(call) = call {
                self.books.tagged(id, &call.tenant, call.started_at, call.tags);
            }
            Ok(view(id, outcome))
        })
    }

    fn recordings(&self, query: RecordingsQuery) -> Answer<'_, RecordingsPage> {
        Box::pin(self.books.search(query))
    }

    fn recording(&self, id: Uuid) -> Answer<'_, RecordingView> {
        Box::pin(self.books.find(id))
    }

    fn object(&self, id: Uuid, kind: ObjectKind) -> Answer<'_, Bytes> {
        Box::pin(async move {
            let file = match kind {
                ObjectKind::Audio => AUDIO,
                ObjectKind::Metadata => METADATA,
                ObjectKind::Manifest => MANIFEST,
            };
            for stage in [Stage::Ready, Stage::Recording] {
                let path = self.spool_root.join(stage.folder()).join(id.to_string()).join(file);
                if let Ok(bytes) = tokio::fs::read(&path).await {
                    return Ok(Bytes::from(bytes));
                }
            }
            let (tenant, key) = self.books.stored_at(id).await?;
            let target = self
                .stores
                .get(&tenant)
                .ok_or_else(|| BackendError::Unavailable(format!("tenant {tenant} has no store")))?;
            let path = object_store::path::Path::from(format!("{key}/{file}"));
            let unavailable =
                |error: object_store::Error| BackendError::Unavailable(format!("the store does not give it: {error}"));
            let found = object_store::ObjectStoreExt::get(&target.store, &path).await.map_err(unavailable)?;
            found.bytes().await.map_err(unavailable)
        })
    }

    fn assurance(&self, query: AssuranceQuery) -> Answer<'_, AssuranceView> {
        let (ledger, key) = (self.ledger.clone(), self.node_key.clone());
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || super::assurance::view(&ledger, &key, &query)).await;
            done.map_err(|_| BackendError::Unavailable("the ledger does not answer".into()))?
        })
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    fn uploads(&self) -> UploadsView {
        let stats = self.watcher.uploads.stats();
        UploadsView {
            waiting: stats.waiting as u64,
            spool_bytes: self.watcher.spool.usage().bytes(),
            lag_seconds: stats.lag(std::time::SystemTime::now().into()).as_secs_f64(),
            stored: stats.stored,
            failed: stats.failures,
            last_error: stats.tenants.iter().find_map(|tenant| tenant.last_error.clone()),
        }
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.watcher.alarms()
    }

    fn readiness(&self) -> Readiness {
        self.watcher.readiness()
    }

    fn metrics(&self) -> String {
        self.prometheus.as_ref().map_or_else(String::new, PrometheusHandle::render)
    }
}
