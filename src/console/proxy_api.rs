//! Server groups, routes, registrations and ladders.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::proxy_backend::Object;
use super::proxy_views::{
    ConfigChange, ElementStatus, RegistrationsPage, RouteTest, RouteTestView, ServerGroupView, TextError,
};
use super::{Console, Problem};

/// Largest body with a group or with routes.
const MAX_BODY: usize = 1 << 20;
/// Most calls in a list.
const MOST_LADDERS: usize = 1_000;
/// Most contacts in a page.
const MOST_REGISTRATIONS: usize = 1_000;

pub(super) type Answered<T> = Result<Json<T>, Problem>;
pub(super) type Body = Result<Bytes, BytesRejection>;

pub(super) fn router() -> Router<Console> {
    Router::new()
        .route("/server-groups", get(server_groups))
        .route("/server-groups/{name}", get(server_group).put(put_group).delete(delete_group))
        .route("/server-groups/{name}/elements/{address}/drain", post(drain))
        .route("/server-groups/{name}/elements/{address}/enable", post(enable))
        .route("/routes", get(routes).put(put_routes))
        .route("/routes/test", post(test_route))
        .route("/registrations", get(registrations))
        .route("/ladders", get(ladders))
        .route("/ladders/{call_id}", get(ladder))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

/// An answer that names the version of the configuration.
pub(super) fn tagged(version: u64, body: impl IntoResponse) -> Response {
    let mut response = body.into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The version that If-Match wants; `*` wants any.
pub(super) fn wanted(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.trim_matches('"').parse().ok();
    let wrong =
        || Problem::new(StatusCode::BAD_REQUEST, "If-Match holds one version, as in \"7\": the ETag of what was read");
    number.map(Some).ok_or_else(wrong)
}

/// A body that came whole.
pub(super) fn body(body: Body) -> Result<Bytes, Problem> {
    body.map_err(|rejection| Problem::new(rejection.status(), rejection.body_text()))
}

/// A body of JSON.
pub(super) fn json<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        let at =
            TextError { line: error.line(), column: error.column(), message: error.to_string(), source: String::new() };
        Problem::new(StatusCode::BAD_REQUEST, format!("{what}: {error}")).with_errors(&[at])
    })
}

/// A text is wanted rather than JSON.
pub(super) fn wants_text(format: Option<&str>, headers: &HeaderMap) -> Result<bool, Problem> {
    match format {
        Some("text") => return Ok(true),
        Some("json") => return Ok(false),
        Some(_) => return Err(Problem::new(StatusCode::BAD_REQUEST, "format is json or text")),
        None => {}
    }
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let place = |kind: &str| accept.find(kind).unwrap_or(usize::MAX);
    Ok(place("text/plain") < place("application/json"))
}

/// How a change is answered.
pub(super) fn changed(change: ConfigChange) -> Response {
    let status = if change.created { StatusCode::CREATED } else { StatusCode::OK };
    tagged(change.version, (status, Json(change)))
}

#[utoipa::path(get, path = "/api/v1/server-groups", responses((status = 200, body = Vec<ServerGroupView>)))]
pub(super) async fn server_groups(State(console): State<Console>) -> Result<Response, Problem> {
    let found = console.backend.server_groups().await?;
    Ok(tagged(found.version, Json(found.value)))
}

#[utoipa::path(get, path = "/api/v1/server-groups/{name}", params(("name" = String, Path,)), responses((status = 200, body = ServerGroupView), (status = 404)))]
pub(super) async fn server_group(
    State(console): State<Console>,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let found = console.backend.server_groups().await?;
    let group = found.value.into_iter().find(|group| group.name == name);
    let group =
        group.ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("there is no server group \"{name}\"")))?;
    Ok(tagged(found.version, Json(group)))
}

#[utoipa::path(put, path = "/api/v1/server-groups/{name}", params(("name" = String, Path,), ("If-Match" = Option<String>, Header,)),
    request_body(content = Object, description = "The keys of [[proxy.server_group]]"),
    responses((status = 200, body = ConfigChange), (status = 201, body = ConfigChange), (status = 400), (status = 409), (status = 412), (status = 422)))]
pub(super) async fn put_group(
    State(console): State<Console>,
    Path(name): Path<String>,
    headers: HeaderMap,
    bytes: Body,
) -> Result<Response, Problem> {
    let wanted = wanted(&headers)?;
    let group: Object = json(&body(bytes)?, "a server group is an object with the keys of [[proxy.server_group]]")?;
    Ok(changed(console.backend.set_group(name, group, wanted).await?))
}

#[utoipa::path(delete, path = "/api/v1/server-groups/{name}", params(("name" = String, Path,), ("If-Match" = Option<String>, Header,)),
    responses((status = 200, body = ConfigChange), (status = 404), (status = 409), (status = 412)))]
pub(super) async fn delete_group(
    State(console): State<Console>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    Ok(changed(console.backend.remove_group(name, wanted(&headers)?).await?))
}

#[utoipa::path(post, path = "/api/v1/server-groups/{name}/elements/{address}/drain", params(("name" = String, Path,), ("address" = String, Path,)), responses((status = 200, body = ElementStatus), (status = 404)))]
pub(super) async fn drain(
    State(console): State<Console>,
    Path((name, address)): Path<(String, String)>,
) -> Answered<ElementStatus> {
    Ok(Json(console.backend.set_drained(name, address, true).await?))
}

#[utoipa::path(post, path = "/api/v1/server-groups/{name}/elements/{address}/enable", params(("name" = String, Path,), ("address" = String, Path,)), responses((status = 200, body = ElementStatus), (status = 404)))]
pub(super) async fn enable(
    State(console): State<Console>,
    Path((name, address)): Path<(String, String)>,
) -> Answered<ElementStatus> {
    Ok(Json(console.backend.set_drained(name, address, false).await?))
}

#[utoipa::path(get, path = "/api/v1/routes", responses((status = 200, body = Vec<Object>, description = "The routes in order, with the keys of [[proxy.route]]")))]
pub(super) async fn routes(State(console): State<Console>) -> Result<Response, Problem> {
    let found = console.backend.routes().await?;
    Ok(tagged(found.version, Json(found.value)))
}

#[utoipa::path(put, path = "/api/v1/routes", params(("If-Match" = Option<String>, Header,)), request_body(content = Vec<Object>, description = "All routes in order, with the keys of [[proxy.route]]"),
    responses((status = 200, body = ConfigChange), (status = 400), (status = 409), (status = 412), (status = 422)))]
pub(super) async fn put_routes(
    State(console): State<Console>,
    headers: HeaderMap,
    bytes: Body,
) -> Result<Response, Problem> {
    let wanted = wanted(&headers)?;
    let routes: Vec<Object> = json(&body(bytes)?, "routes are a list of objects with the keys of [[proxy.route]]")?;
    Ok(changed(console.backend.set_routes(routes, wanted).await?))
}

#[utoipa::path(post, path = "/api/v1/routes/test", request_body(content((RouteTest = "application/json"), (String = "text/plain"), (String = "application/sip"))),
    responses((status = 200, body = RouteTestView), (status = 400), (status = 415)))]
pub(super) async fn test_route(
    State(console): State<Console>,
    headers: HeaderMap,
    bytes: Body,
) -> Answered<RouteTestView> {
    let bytes = body(bytes)?;
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let test = match kind.as_str() {
        "application/json" => {
            json(&bytes, "a test is an object with `message`, and `source` and `listener` if they matter")?
        }
        "text/plain" | "application/sip" | "message/sip" | "" => {
            let message = String::from_utf8(bytes.to_vec());
            let message =
                message.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the message is no text in UTF-8"))?;
            RouteTest { message, ..RouteTest::default() }
        }
        _ => {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send application/json, or the message as text/plain or application/sip",
            ));
        }
    };
    Ok(Json(console.backend.test_route(test).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegistrationsQuery {
    aor: Option<String>,
    limit: Option<usize>,
    cursor: Option<u32>,
}

#[utoipa::path(get, path = "/api/v1/registrations", params(("aor" = Option<String>, Query, description = "user@domain"), ("limit" = Option<usize>, Query,), ("cursor" = Option<u32>, Query,)),
    responses((status = 200, body = RegistrationsPage), (status = 400)))]
pub(super) async fn registrations(
    State(console): State<Console>,
    query: Result<Query<RegistrationsQuery>, QueryRejection>,
) -> Answered<RegistrationsPage> {
    let Query(query) = query.map_err(Problem::from)?;
    let limit = query.limit.unwrap_or(100);
    if !(1..=MOST_REGISTRATIONS).contains(&limit) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit is from 1 to {MOST_REGISTRATIONS}")));
    }
    let aor = query.aor.map(|aor| {
        let plain = aor.strip_prefix("sip:").or_else(|| aor.strip_prefix("sips:")).unwrap_or(&aor);
        plain
            .rsplit_once('@')
            .map_or_else(|| plain.to_owned(), |(user, domain)| format!("{user}@{}", domain.to_ascii_lowercase()))
    });
    Ok(Json(console.backend.registrations(aor, limit, query.cursor).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LaddersQuery {
    limit: Option<usize>,
}

#[utoipa::path(get, path = "/api/v1/ladders", params(("limit" = Option<usize>, Query,)), responses((status = 200, body = Vec<Object>, description = "The last calls, the newest first"), (status = 400)))]
pub(super) async fn ladders(
    State(console): State<Console>,
    query: Result<Query<LaddersQuery>, QueryRejection>,
) -> Answered<Value> {
    let Query(query) = query.map_err(Problem::from)?;
    let limit = query.limit.unwrap_or(100);
    if !(1..=MOST_LADDERS).contains(&limit) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, format!("limit is from 1 to {MOST_LADDERS}")));
    }
    Ok(Json(console.backend.ladders(limit).await?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FormatQuery {
    format: Option<String>,
}

#[utoipa::path(get, path = "/api/v1/ladders/{call_id}", params(("call_id" = String, Path,), ("format" = Option<String>, Query,)),
    responses((status = 200, description = "The call's messages; as a drawing with Accept: text/plain or format=text", content((Object = "application/json"), (String = "text/plain"))), (status = 404)))]
pub(super) async fn ladder(
    State(console): State<Console>,
    Path(call_id): Path<String>,
    query: Result<Query<FormatQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(Problem::from)?;
    let as_text = wants_text(query.format.as_deref(), &headers)?;
    let (json, text) = console.backend.ladder(call_id).await?;
    Ok(if as_text { text.into_response() } else { Json(json).into_response() })
}
