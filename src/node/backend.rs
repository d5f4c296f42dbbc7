//! The console's view of a node.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ferric_assurance::Ledger;
use ferric_media::keys::NodePublicKey;
use ferric_worker::spool::{AUDIO, MANIFEST, METADATA, Stage};
use ferric_worker::upload::Stores;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::broadcast;
use uuid::Uuid;

use super::capture::live::Live;
use super::catalogue::{Bookkeeper, Place};
use super::cluster::Admin;
use super::sight::Ladders;
use super::steering::Steering;
use super::watch::Watcher;
use crate::console::{
    Alarm, Answer, AssuranceQuery, AssuranceView, Backend, BackendError, CallsView, ClusterBackend, ControlView, Event,
    NodeView, NodesView, ObjectKind, Readiness, RecordingView, RecordingsPage, RecordingsQuery, UploadsView,
    WorkerView,
};

pub(super) struct NodeBackend {
    pub(super) live: Live,
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
    /// Other systems hear of a control that changed something.
    fn tell(&self, name: &'static str, view: ControlView) -> ControlView {
        if view.changed {
            let _ = self.events.send(Event { recording: Some(view.id), ..Event::new(name) });
        }
        view
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
    fn calls(&self) -> Answer<'_, CallsView> {
        Box::pin(self.live.calls())
    }

    fn pause(&self, id: Uuid) -> Answer<'_, ControlView> {
        Box::pin(async move { Ok(self.tell("call.paused", self.live.pause(id).await?)) })
    }

    fn resume(&self, id: Uuid) -> Answer<'_, ControlView> {
        Box::pin(async move { Ok(self.tell("call.resumed", self.live.resume(id).await?)) })
    }

    fn stop(&self, id: Uuid) -> Answer<'_, ControlView> {
        Box::pin(self.live.stop(id))
    }

    fn tag(&self, id: Uuid, tags: Vec<(String, String)>) -> Answer<'_, ControlView> {
        Box::pin(self.live.tag(id, tags))
    }

    fn recordings(&self, query: RecordingsQuery) -> Answer<'_, RecordingsPage> {
        Box::pin(self.books.search(query))
    }

    fn recording(&self, id: Uuid) -> Answer<'_, RecordingView> {
        Box::pin(self.books.find(id))
    }

    fn object(&self, id: Uuid, part: NonZeroU32, kind: ObjectKind) -> Answer<'_, Bytes> {
        Box::pin(async move {
            let file = match kind {
                ObjectKind::Audio => AUDIO,
                ObjectKind::Metadata => METADATA,
                ObjectKind::Manifest => MANIFEST,
            };
            let place = self.books.place(id, part).await;
            // Without the catalogue, a first part is still found by its recording's id.
            let local = match &place {
                Ok(place) => place.file,
                Err(_) if part == NonZeroU32::MIN => id,
                Err(error) => return Err(error.clone()),
            };
            for stage in [Stage::Ready, Stage::Recording] {
                let path = self.spool_root.join(stage.folder()).join(local.to_string()).join(file);
                if let Ok(bytes) = tokio::fs::read(&path).await {
                    return Ok(Bytes::from(bytes));
                }
            }
            let Place { tenant, node, key, .. } = place?;
            let key = key.ok_or_else(|| {
                BackendError::NotFound(format!("part {part} is not in the store yet: it waits on node {node}"))
            })?;
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
