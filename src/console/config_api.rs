//! The configuration: in force, its versions, another one.

use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::proxy_api::{Answered, Body, body, changed, json, tagged, wanted, wants_text};
use super::proxy_views::{ConfigChange, ConfigCheck, ConfigDiff, ConfigView, Rollback, VersionView};
use super::{Console, Problem};
use crate::config::versions::MOST_BYTES;

pub(super) fn router() -> Router<Console> {
    Router::new()
        .route("/config", get(config).put(put_config))
        .route("/config/check", post(check))
        .route("/config/versions", get(versions))
        .route("/config/versions/{number}", get(version))
        .route("/config/diff", get(diff))
        .route("/config/rollback", post(rollback))
        .layer(DefaultBodyLimit::max(MOST_BYTES))
}

/// A body of text.
fn text(bytes: Body) -> Result<String, Problem> {
    let text = String::from_utf8(body(bytes)?.to_vec());
    text.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "a configuration is a text in UTF-8"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfigQuery {
    format: Option<String>,
}

#[utoipa::path(get, path = "/api/v1/config", params(("format" = Option<String>, Query,)),
    responses((status = 200, description = "In force; the text alone with Accept: text/plain or format=text", content((ConfigView = "application/json"), (String = "text/plain")))))]
pub(super) async fn config(
    State(console): State<Console>,
    query: Result<Query<ConfigQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(Problem::from)?;
    let as_text = wants_text(query.format.as_deref(), &headers)?;
    let view = console.backend.config().await?;
    let version = view.version;
    Ok(if as_text { tagged(version, view.text) } else { tagged(version, Json(view)) })
}

#[utoipa::path(put, path = "/api/v1/config", params(("If-Match" = Option<String>, Header,)), request_body(content = String, description = "The whole text (TOML)"),
    responses((status = 200, body = ConfigChange), (status = 409), (status = 412), (status = 422, description = "A problem document with `errors`: line, column, message")))]
pub(super) async fn put_config(
    State(console): State<Console>,
    headers: HeaderMap,
    bytes: Body,
) -> Result<Response, Problem> {
    let wanted = wanted(&headers)?;
    Ok(changed(console.backend.set_config(text(bytes)?, wanted).await?))
}

#[utoipa::path(post, path = "/api/v1/config/check", request_body(content = String, description = "The whole text (TOML)"), responses((status = 200, body = ConfigCheck)))]
pub(super) async fn check(State(console): State<Console>, bytes: Body) -> Answered<ConfigCheck> {
    Ok(Json(console.backend.check_config(text(bytes)?).await?))
}

#[utoipa::path(get, path = "/api/v1/config/versions", responses((status = 200, body = Vec<VersionView>, description = "The newest first")))]
pub(super) async fn versions(State(console): State<Console>) -> Answered<Vec<VersionView>> {
    Ok(Json(console.backend.config_versions().await?))
}

#[utoipa::path(get, path = "/api/v1/config/versions/{number}", params(("number" = u64, Path,)), responses((status = 200, body = VersionView), (status = 404)))]
pub(super) async fn version(State(console): State<Console>, Path(number): Path<String>) -> Answered<VersionView> {
    let number = number
        .parse()
        .map_err(|_| Problem::new(StatusCode::NOT_FOUND, format!("\"{number}\" is no version: they are numbers")))?;
    Ok(Json(console.backend.config_version(number).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiffQuery {
    from: Option<u64>,
    to: Option<u64>,
    format: Option<String>,
}

#[utoipa::path(get, path = "/api/v1/config/diff", params(("from" = Option<u64>, Query,), ("to" = Option<u64>, Query,), ("format" = Option<String>, Query,)),
    responses((status = 200, description = "From the version before to the one in force, if nothing else is said; the diff alone with Accept: text/plain or format=text", content((ConfigDiff = "application/json"), (String = "text/plain"))), (status = 404)))]
pub(super) async fn diff(
    State(console): State<Console>,
    query: Result<Query<DiffQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(Problem::from)?;
    let as_text = wants_text(query.format.as_deref(), &headers)?;
    let diff = console.backend.config_diff(query.from, query.to).await?;
    Ok(if as_text { diff.diff.into_response() } else { Json(diff).into_response() })
}

#[utoipa::path(post, path = "/api/v1/config/rollback", params(("If-Match" = Option<String>, Header,)), request_body = Rollback,
    responses((status = 200, body = ConfigChange), (status = 404), (status = 409), (status = 412), (status = 422)))]
pub(super) async fn rollback(
    State(console): State<Console>,
    headers: HeaderMap,
    bytes: Body,
) -> Result<Response, Problem> {
    let wanted = wanted(&headers)?;
    let Rollback { version } = json(&body(bytes)?, "a rollback names a version, as in {\"version\": 7}")?;
    Ok(changed(console.backend.rollback(version, wanted).await?))
}
