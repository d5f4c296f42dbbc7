//! The HTTP API (contract: "HTTP, console listener"). JSON; errors are problem
//! documents (RFC 9457); every path below `/api` wants the bearer token.
//!
//! The console owns nothing: it asks a [`Backend`], which the node implements.

mod api;
mod auth;
mod backend;
mod cluster_api;
mod cluster_backend;
mod cluster_views;
mod config_api;
mod events;
mod openapi;
mod problem;
mod proxy_api;
mod proxy_backend;
mod proxy_views;
mod range;

pub use backend::{
    Alarm, Answer, AssuranceCall, AssuranceGap, AssuranceQuery, AssuranceTotals, AssuranceView, Backend, BackendError,
    CallView, CallsView, ControlView, ObjectKind, PartView, ParticipantView, Readiness, RecordingView, RecordingsPage,
    RecordingsQuery, StreamView, UploadsView,
};
pub use cluster_backend::ClusterBackend;
pub use cluster_views::{LinkView, LoadView, NatsView, NodeStatus, NodeView, NodesView, WorkerView};
pub use events::{BACKLOG, Event};
pub use problem::Problem;
pub use proxy_backend::{Object, ProxyBackend};
pub use proxy_views::{
    ConditionView, ConfigChange, ConfigCheck, ConfigDiff, ConfigView, ContactView, DestinationView, ElementCounters,
    ElementStatus, ListenerRef, PickView, RegistrationView, RegistrationsPage, Rollback, RouteTest, RouteTestView,
    RuleView, ServerGroupView, ShareView, TextError, VersionView, Versioned,
};

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;

/// What the API needs.
#[derive(Clone)]
pub struct Console {
    backend: Arc<dyn Backend>,
    token: Arc<str>,
}

impl Console {
    /// Answers from `backend` those who show `token`.
    pub fn new(backend: Arc<dyn Backend>, token: &str) -> Console {
        Console { backend, token: token.into() }
    }

    /// The routes.
    pub fn router(self) -> Router {
        api::router(self)
    }

    /// Serves until `stop` resolves; requests under way get a moment.
    ///
    /// # Errors
    /// What the listener says.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let (stopped, mut stopping) = tokio::sync::watch::channel(false);
        let server = axum::serve(listener, self.router()).with_graceful_shutdown(async move {
            stop.await;
            let _ = stopped.send(true);
        });
        let grace = async move {
            let _ = stopping.changed().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        };
        tokio::select! {
            result = server => result,
            () = grace => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
