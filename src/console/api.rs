//! Routes and handlers.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use uuid::Uuid;

use super::range::{Wanted, wanted};
use super::{
    Alarm, AssuranceQuery, AssuranceView, CallView, CallsView, Console, ControlView, ObjectKind, Problem,
    RecordingView, RecordingsPage, RecordingsQuery, UploadsView, auth, cluster_api, config_api, events, openapi,
    proxy_api,
};

/// Largest request body.
const MAX_BODY: usize = 64 * 1024;
/// Longest time for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most tags in one request, and their longest texts.
const MAX_TAGS: usize = 32;
const MAX_TAG_TEXT: usize = 256;

type Answered<T> = Result<Json<T>, Problem>;

pub(super) fn router(console: Console) -> Router {
    let api = Router::new()
        .route("/calls", get(calls))
        .route("/calls/{id}", get(call))
        .route("/calls/{id}/pause", post(pause))
        .route("/calls/{id}/resume", post(resume))
        .route("/calls/{id}/stop", post(stop))
        .route("/calls/{id}/tags", post(tags))
        .route("/recordings", get(recordings))
        .route("/recordings/{id}", get(recording))
        .route("/recordings/{id}/audio", get(audio))
        .route("/recordings/{id}/metadata", get(metadata))
        .route("/recordings/{id}/manifest", get(manifest))
        .route("/uploads", get(uploads))
        .route("/assurance", get(assurance))
        .route("/events", get(events::events))
        .route("/alarms", get(alarms))
        .merge(proxy_api::router())
        .merge(config_api::router())
        .merge(cluster_api::router())
        .layer(middleware::from_fn_with_state(console.clone(), auth::require_token));
    Router::new()
        .nest("/api/v1", api)
        .route("/api/openapi.json", get(openapi::document))
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/", get(front))
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, "there is nothing at this path; see /api/openapi.json")
        })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take that method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(bound))
        .with_state(console)
}

/// Bounds the time of a request and sets the headers that every answer has.
async fn bound(request: Request, next: Next) -> Response {
    let mut response = match tokio::time::timeout(PATIENCE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(StatusCode::GATEWAY_TIMEOUT, "the node took too long").into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    );
    response
}

async fn front() -> &'static str {
    "Ferric records calls here.\n\nThe API: /api/openapi.json (show the token: Authorization: Bearer ...)\n\
     Health: /healthz  /readyz  /metrics\n"
}

async fn readyz(State(console): State<Console>) -> Response {
    let readiness = console.backend.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn metrics(State(console): State<Console>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], console.backend.metrics()).into_response()
}

fn parse_id(text: &str) -> Result<Uuid, Problem> {
    Uuid::try_parse(text)
        .map_err(|_| Problem::new(StatusCode::NOT_FOUND, format!("\"{text}\" is no id; ids are UUIDs")))
}

#[utoipa::path(get, path = "/api/v1/assurance", params(("from" = Option<String>, Query,), ("to" = Option<String>, Query,), ("limit" = Option<usize>, Query,), ("cursor" = Option<String>, Query,)), responses((status = 200, body = AssuranceView), (status = 400)))]
pub(super) async fn assurance(
    State(console): State<Console>,
    query: Result<Query<AssuranceQuery>, QueryRejection>,
) -> Answered<AssuranceView> {
    let Query(query) = query.map_err(Problem::from)?;
    Ok(Json(console.backend.assurance(query).await?))
}

#[utoipa::path(get, path = "/api/v1/calls", responses((status = 200, body = Vec<CallView>, description = "The calls of all workers; the header Ferric-Missing names those that did not answer")))]
pub(super) async fn calls(State(console): State<Console>) -> Result<Response, Problem> {
    let found = console.backend.calls().await?;
    let mut response = Json(found.calls).into_response();
    // What their calls are nobody knows now; the list is not taken for all there is.
    if let Ok(missing) = HeaderValue::from_str(&found.missing.join(", "))
        && !missing.is_empty()
    {
        response.headers_mut().insert("ferric-missing", missing);
    }
    Ok(response)
}

#[utoipa::path(get, path = "/api/v1/calls/{id}", params(("id" = String, Path,)), responses((status = 200, body = CallView), (status = 404)))]
pub(super) async fn call(State(console): State<Console>, Path(id): Path<String>) -> Answered<CallView> {
    let id = parse_id(&id)?;
    let CallsView { calls, missing } = console.backend.calls().await?;
    if let Some(call) = calls.into_iter().find(|call| call.id == id) {
        return Ok(Json(call));
    }
    if missing.is_empty() {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no call with this id is being recorded"));
    }
    let text = format!("no worker that answers has this call, and {} does not answer", missing.join(", "));
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text))
}

#[utoipa::path(post, path = "/api/v1/calls/{id}/pause", params(("id" = String, Path,)), responses((status = 200, body = ControlView), (status = 404)))]
pub(super) async fn pause(State(console): State<Console>, Path(id): Path<String>) -> Answered<ControlView> {
    Ok(Json(console.backend.pause(parse_id(&id)?).await?))
}

#[utoipa::path(post, path = "/api/v1/calls/{id}/resume", params(("id" = String, Path,)), responses((status = 200, body = ControlView), (status = 404)))]
pub(super) async fn resume(State(console): State<Console>, Path(id): Path<String>) -> Answered<ControlView> {
    Ok(Json(console.backend.resume(parse_id(&id)?).await?))
}

#[utoipa::path(post, path = "/api/v1/calls/{id}/stop", params(("id" = String, Path,)), responses((status = 200, body = ControlView), (status = 404)))]
pub(super) async fn stop(State(console): State<Console>, Path(id): Path<String>) -> Answered<ControlView> {
    Ok(Json(console.backend.stop(parse_id(&id)?).await?))
}

#[utoipa::path(post, path = "/api/v1/calls/{id}/tags", params(("id" = String, Path,)), request_body = BTreeMap<String, String>, responses((status = 200, body = ControlView), (status = 400), (status = 404)))]
pub(super) async fn tags(
    State(console): State<Console>,
    Path(id): Path<String>,
    body: Result<Json<BTreeMap<String, String>>, JsonRejection>,
) -> Answered<ControlView> {
    let id = parse_id(&id)?;
    let Json(tags) = body.map_err(|rejection| {
        let detail = format!("tags are an object of texts, as in {{\"queue\": \"sales\"}}: {}", rejection.body_text());
        Problem::new(rejection.status(), detail)
    })?;
    let too_long =
        |(name, value): (&String, &String)| name.is_empty() || name.len() > MAX_TAG_TEXT || value.len() > MAX_TAG_TEXT;
    if tags.is_empty() || tags.len() > MAX_TAGS || tags.iter().any(too_long) {
        let detail = format!("1 to {MAX_TAGS} tags, names and values of at most {MAX_TAG_TEXT} bytes");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    Ok(Json(console.backend.tag(id, tags.into_iter().collect()).await?))
}

#[utoipa::path(get, path = "/api/v1/recordings", params(
    ("from" = Option<String>, Query,), ("to" = Option<String>, Query,), ("party" = Option<String>, Query,),
    ("tenant" = Option<String>, Query,), ("tag" = Option<String>, Query,), ("correlator" = Option<String>, Query,), ("state" = Option<String>, Query,),
    ("limit" = Option<u32>, Query,), ("cursor" = Option<String>, Query,)),
    responses((status = 200, body = RecordingsPage), (status = 400)))]
pub(super) async fn recordings(
    State(console): State<Console>,
    query: Result<Query<RecordingsQuery>, QueryRejection>,
) -> Answered<RecordingsPage> {
    let Query(query) = query.map_err(Problem::from)?;
    if query.limit.is_some_and(|limit| !(1..=1_000).contains(&limit)) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "limit is from 1 to 1000"));
    }
    Ok(Json(console.backend.recordings(query).await?))
}

#[utoipa::path(get, path = "/api/v1/recordings/{id}", params(("id" = String, Path,)), responses((status = 200, body = RecordingView), (status = 404)))]
pub(super) async fn recording(State(console): State<Console>, Path(id): Path<String>) -> Answered<RecordingView> {
    Ok(Json(console.backend.recording(parse_id(&id)?).await?))
}

/// Which part of a recording.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhichPart {
    part: Option<NonZeroU32>,
}

async fn object(
    console: &Console,
    id: &str,
    query: Result<Query<WhichPart>, QueryRejection>,
    kind: ObjectKind,
    media_type: &'static str,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let part = query.map_err(Problem::from)?.part.unwrap_or(NonZeroU32::MIN);
    let bytes = console.backend.object(parse_id(id)?, part, kind).await?;
    let length = bytes.len() as u64;
    let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let (status, body, content_range) = match wanted(range, length) {
        Wanted::Whole => (StatusCode::OK, bytes, None),
        Wanted::Part(first, last) => {
            let part = bytes.slice(usize::try_from(first).unwrap_or(0)..usize::try_from(last + 1).unwrap_or(0));
            (StatusCode::PARTIAL_CONTENT, part, Some(format!("bytes {first}-{last}/{length}")))
        }
        Wanted::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, Bytes::new(), Some(format!("bytes */{length}"))),
    };
    let mut response =
        (status, [(header::CONTENT_TYPE, media_type), (header::ACCEPT_RANGES, "bytes")], body).into_response();
    if let Some(value) = content_range.and_then(|text| HeaderValue::from_str(&text).ok()) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

#[utoipa::path(get, path = "/api/v1/recordings/{id}/audio", params(("id" = String, Path,), ("part" = Option<u32>, Query,)), responses((status = 200, description = "The sealed audio (EOPUS); Range is supported"), (status = 400), (status = 404)))]
pub(super) async fn audio(
    State(console): State<Console>,
    Path(id): Path<String>,
    query: Result<Query<WhichPart>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    object(&console, &id, query, ObjectKind::Audio, "application/octet-stream", &headers).await
}

#[utoipa::path(get, path = "/api/v1/recordings/{id}/metadata", params(("id" = String, Path,), ("part" = Option<u32>, Query,)), responses((status = 200, description = "The sealed metadata (EOPUS)"), (status = 404)))]
pub(super) async fn metadata(
    State(console): State<Console>,
    Path(id): Path<String>,
    query: Result<Query<WhichPart>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    object(&console, &id, query, ObjectKind::Metadata, "application/octet-stream", &headers).await
}

#[utoipa::path(get, path = "/api/v1/recordings/{id}/manifest", params(("id" = String, Path,), ("part" = Option<u32>, Query,)), responses((status = 200, description = "The signed manifest"), (status = 404)))]
pub(super) async fn manifest(
    State(console): State<Console>,
    Path(id): Path<String>,
    query: Result<Query<WhichPart>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    object(&console, &id, query, ObjectKind::Manifest, "application/json", &headers).await
}

#[utoipa::path(get, path = "/api/v1/uploads", responses((status = 200, body = UploadsView)))]
pub(super) async fn uploads(State(console): State<Console>) -> Json<UploadsView> {
    Json(console.backend.uploads())
}

#[utoipa::path(get, path = "/api/v1/alarms", responses((status = 200, body = Vec<Alarm>)))]
pub(super) async fn alarms(State(console): State<Console>) -> Json<Vec<Alarm>> {
    Json(console.backend.alarms())
}
