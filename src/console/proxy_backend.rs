//! What the console asks of a node's proxy and of its configuration.

use serde_json::{Map, Value};

use super::backend::Answer;
use super::proxy_views::{
    ConfigChange, ConfigCheck, ConfigDiff, ConfigView, ElementStatus, RegistrationsPage, RouteTest, RouteTestView,
    ServerGroupView, VersionView, Versioned,
};

/// A JSON object.
pub type Object = Map<String, Value>;

/// The proxy and the configuration of a node. `wanted` is the version that a change is meant for (If-Match); another one in
/// force makes it [`BackendError::Stale`](super::BackendError::Stale).
pub trait ProxyBackend: Send + Sync + 'static {
    /// All groups.
    fn server_groups(&self) -> Answer<'_, Versioned<Vec<ServerGroupView>>>;
    /// Makes or replaces a group.
    fn set_group(&self, name: String, body: Object, wanted: Option<u64>) -> Answer<'_, ConfigChange>;
    /// Takes a group out.
    fn remove_group(&self, name: String, wanted: Option<u64>) -> Answer<'_, ConfigChange>;
    /// An element takes no new calls, or takes them again.
    fn set_drained(&self, group: String, element: String, drained: bool) -> Answer<'_, ElementStatus>;
    /// The routes, with the keys of the file.
    fn routes(&self) -> Answer<'_, Versioned<Vec<Value>>>;
    /// Other routes.
    fn set_routes(&self, routes: Vec<Object>, wanted: Option<u64>) -> Answer<'_, ConfigChange>;
    /// Which way would it take?
    fn test_route(&self, test: RouteTest) -> Answer<'_, RouteTestView>;
    /// The configuration in force.
    fn config(&self) -> Answer<'_, ConfigView>;
    /// Another configuration.
    fn set_config(&self, text: String, wanted: Option<u64>) -> Answer<'_, ConfigChange>;
    /// What would come of a text?
    fn check_config(&self, text: String) -> Answer<'_, ConfigCheck>;
    /// The versions kept, the newest first.
    fn config_versions(&self) -> Answer<'_, Vec<VersionView>>;
    /// One version with its text.
    fn config_version(&self, number: u64) -> Answer<'_, VersionView>;
    /// What differs between two; absent: the one in force, and the one before it.
    fn config_diff(&self, from: Option<u64>, to: Option<u64>) -> Answer<'_, ConfigDiff>;
    /// Back to a version.
    fn rollback(&self, version: u64, wanted: Option<u64>) -> Answer<'_, ConfigChange>;
    /// Who is registered: one user, or all, in pages.
    fn registrations(&self, aor: Option<String>, limit: usize, cursor: Option<u32>) -> Answer<'_, RegistrationsPage>;
    /// The last calls, the newest first.
    fn ladders(&self, limit: usize) -> Answer<'_, Value>;
    /// One call, as JSON and as a drawing.
    fn ladder(&self, call_id: String) -> Answer<'_, (Value, String)>;
}
