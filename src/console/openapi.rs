//! The API's own description. A golden file holds it still: the API cannot change unseen.

use axum::Json;
use utoipa::OpenApi;

use super::api;

#[derive(OpenApi)]
#[openapi(
    info(title = "Ferric", description = "Calls, recordings and health of one node. Every path below /api/v1 wants the bearer token."),
    paths(
        api::calls, api::call, api::pause, api::resume, api::stop, api::tags, api::recordings, api::recording, api::audio,
        api::metadata, api::manifest, api::uploads, api::assurance, super::events::events, api::alarms
    )
)]
struct Api;

pub(super) fn api() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(api())
}
