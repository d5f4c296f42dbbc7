//! Nodes of the cluster.

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::cluster_views::{NodeView, NodesView, WorkerView};
use super::proxy_api::Answered;
use super::{Console, Problem};

pub(super) fn router() -> Router<Console> {
    Router::new()
        .route("/nodes", get(nodes))
        .route("/workers", get(workers))
        .route("/nodes/{id}", get(node))
        .route("/nodes/{id}/drain", post(drain))
        .route("/nodes/{id}/enable", post(enable))
}

#[utoipa::path(get, path = "/api/v1/nodes", responses((status = 200, body = NodesView)))]
pub(super) async fn nodes(State(console): State<Console>) -> Answered<NodesView> {
    Ok(Json(console.backend.nodes().await?))
}

#[utoipa::path(get, path = "/api/v1/workers", responses((status = 200, body = Vec<WorkerView>)))]
pub(super) async fn workers(State(console): State<Console>) -> Answered<Vec<WorkerView>> {
    Ok(Json(console.backend.workers().await?))
}

#[utoipa::path(get, path = "/api/v1/nodes/{id}", params(("id" = String, Path,)), responses((status = 200, body = NodeView), (status = 404)))]
pub(super) async fn node(State(console): State<Console>, Path(id): Path<String>) -> Answered<NodeView> {
    let nodes = console.backend.nodes().await?.nodes;
    let known: Vec<String> = nodes.iter().map(|node| node.id.clone()).collect();
    let found = nodes.into_iter().find(|node| node.id == id);
    let missing = || {
        Problem::new(
            axum::http::StatusCode::NOT_FOUND,
            format!("there is no node \"{id}\"; there are {}", known.join(", ")),
        )
    };
    found.map(Json).ok_or_else(missing)
}

#[utoipa::path(post, path = "/api/v1/nodes/{id}/drain", params(("id" = String, Path,)),
    responses((status = 200, body = NodeView, description = "It takes no new calls; running ones go on"), (status = 404), (status = 503)))]
pub(super) async fn drain(State(console): State<Console>, Path(id): Path<String>) -> Answered<NodeView> {
    Ok(Json(console.backend.set_node_draining(id, true).await?))
}

#[utoipa::path(post, path = "/api/v1/nodes/{id}/enable", params(("id" = String, Path,)),
    responses((status = 200, body = NodeView, description = "It takes calls again"), (status = 404), (status = 503)))]
pub(super) async fn enable(State(console): State<Console>, Path(id): Path<String>) -> Answered<NodeView> {
    Ok(Json(console.backend.set_node_draining(id, false).await?))
}
