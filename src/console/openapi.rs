//! The API's own description. A golden file holds it still: the API cannot change unseen.

use axum::Json;
use utoipa::OpenApi;

use super::{api, cluster_api, config_api, proxy_api};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ferric",
        description = "Calls, recordings and health of one node. Every path below /api/v1 wants the bearer token."
    ),
    paths(
        api::calls,
        api::call,
        api::pause,
        api::resume,
        api::stop,
        api::tags,
        api::recordings,
        api::recording,
        api::audio,
        api::metadata,
        api::manifest,
        api::uploads,
        api::assurance,
        super::events::events,
        api::alarms,
        proxy_api::server_groups,
        proxy_api::server_group,
        proxy_api::put_group,
        proxy_api::delete_group,
        proxy_api::drain,
        proxy_api::enable,
        proxy_api::routes,
        proxy_api::put_routes,
        proxy_api::test_route,
        proxy_api::registrations,
        proxy_api::ladders,
        proxy_api::ladder,
        config_api::config,
        config_api::put_config,
        config_api::check,
        config_api::versions,
        config_api::version,
        config_api::diff,
        config_api::rollback,
        cluster_api::nodes,
        cluster_api::workers,
        cluster_api::node,
        cluster_api::drain,
        cluster_api::enable
    )
)]
struct Api;

pub(super) fn api() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(api())
}
