//! The console's view of the proxy and of the configuration.

use std::time::{Duration, SystemTime};

use ferric_media::timestamp::Timestamp;
use ferric_proxy::group::{ElementState, GroupShares, Share};
use ferric_registrar::Saved;
use serde_json::Value;

use super::asks::Ask;
use super::backend::NodeBackend;
use super::route_test;
use super::sight;
use super::steering::{State, Steering};
use crate::config::edit::{self, EditError};
use crate::config::unified;
use crate::config::versions::{Version, Versions};
use crate::console::{
    Answer, BackendError, ConfigChange, ConfigCheck, ConfigDiff, ConfigView, ElementCounters, ElementStatus, Object,
    ProxyBackend, RegistrationView, RegistrationsPage, RouteTest, RouteTestView, ServerGroupView, VersionView,
    Versioned,
};

impl From<EditError> for BackendError {
    fn from(error: EditError) -> BackendError {
        let text = error.to_string();
        match error {
            EditError::NoSuchGroup(_) => BackendError::NotFound(text),
            EditError::Json(_) => BackendError::Invalid(text),
            EditError::Text(_) | EditError::Shape(_) | EditError::InUse { .. } => {
                BackendError::Conflict { text, diff: None }
            }
        }
    }
}

fn registration(saved: Saved) -> RegistrationView {
    let until =
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(saved.expires)).unwrap_or(SystemTime::UNIX_EPOCH);
    RegistrationView {
        aor: saved.aor,
        contact: saved.uri,
        expires_at: Timestamp::from(until).to_string(),
        q: saved.q.map(|q| f64::from(q) / 1_000.0),
        path: saved.path,
        flow: saved.flow.map(|flow| format!("{} {}", flow.transport.to_ascii_lowercase(), flow.remote)),
        instance: saved.instance,
    }
}

fn percent(permille: u32) -> f64 {
    f64::from(permille) / 10.0
}

/// The moment that was so long ago.
pub(super) fn ago(past: Duration) -> String {
    Timestamp::from(SystemTime::now().checked_sub(past).unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}

#[allow(clippy::cast_precision_loss)]
fn element(share: &Share, requests: u64) -> ElementStatus {
    let seen = &share.element;
    let counters = seen.counters;
    ElementStatus {
        address: seen.address.clone(),
        priority: seen.priority,
        weight: seen.weight,
        state: seen.state.as_str(),
        drained: seen.drained,
        cause: match seen.state {
            ElementState::Down(cause) => Some(cause.as_str()),
            ElementState::Up | ElementState::Busy(_) | ElementState::Drained | ElementState::Unresolved => None,
        },
        since: seen.since.map(ago),
        last_alive: seen.alive.map(ago),
        busy_ms: match seen.state {
            ElementState::Busy(rest) => u64::try_from(rest.as_millis()).ok(),
            ElementState::Up | ElementState::Down(_) | ElementState::Drained | ElementState::Unresolved => None,
        },
        calls: seen.calls,
        open: seen.open,
        counters: ElementCounters {
            requests: counters.requests,
            succeeded: counters.succeeded,
            refused: counters.refused,
            failed_over: counters.failed_over,
            downs: counters.downs,
        },
        share_percent: percent(share.permille),
        requests_percent: (requests > 0).then(|| (counters.requests as f64 * 1_000.0 / requests as f64).round() / 10.0),
    }
}

fn group(shares: &GroupShares, configured: &[Value]) -> ServerGroupView {
    let name = &*shares.group.name;
    let requests = shares.shares.iter().map(|share| share.element.counters.requests).sum();
    let up = shares.shares.iter().filter(|share| share.element.state == ElementState::Up).count();
    ServerGroupView {
        name: name.to_owned(),
        config: configured
            .iter()
            .find(|config| config.get("name").and_then(Value::as_str) == Some(name))
            .cloned()
            .unwrap_or(Value::Null),
        state: match up {
            0 => "dead",
            _ if up == shares.shares.len() => "up",
            _ => "degraded",
        },
        elements: shares.shares.iter().map(|share| element(share, requests)).collect(),
    }
}

fn version_view(version: Version, text: Option<String>) -> VersionView {
    let Version { number, at, by, changes, needs_restart, sha256 } = version;
    VersionView { number, at, by, changes, needs_restart, sha256, text }
}

fn version(state: &State, number: u64) -> Result<(Version, String), BackendError> {
    let found = state.versions.as_ref().map_or(Ok(None), |versions| versions.get(number));
    let found =
        found.map_err(|error| BackendError::Unavailable(format!("version {number} cannot be read: {error}")))?;
    found.ok_or_else(|| {
        let known = state.versions.as_ref().map_or(&[][..], Versions::list);
        let known = match (known.first(), known.last()) {
            (Some(first), Some(last)) => format!("there are {} to {}", first.number, last.number),
            _ => "none are kept".to_owned(),
        };
        BackendError::NotFound(format!("there is no version {number}; {known}"))
    })
}

impl NodeBackend {
    /// A change of the text in force.
    async fn edit(
        &self,
        wanted: Option<u64>,
        edit: impl FnOnce(&str) -> Result<(String, bool), EditError> + Send + 'static,
    ) -> Result<ConfigChange, BackendError> {
        let change = move |steering: &Steering| steering.change(wanted, None, |state| Ok(edit(state.text())?));
        self.steering.run(change).await
    }

    async fn groups(&self) -> Result<Versioned<Vec<ServerGroupView>>, BackendError> {
        let listed = |steering: &Steering| {
            let state = steering.lock();
            Ok((state.number(), edit::groups(state.text())?))
        };
        let (version, configured) = self.steering.run(listed).await?;
        let shares = self.steering.asks.ask(Ask::Shares).await?;
        Ok(Versioned { version, value: shares.iter().map(|shares| group(shares, &configured)).collect() })
    }
}

impl ProxyBackend for NodeBackend {
    fn server_groups(&self) -> Answer<'_, Versioned<Vec<ServerGroupView>>> {
        Box::pin(self.groups())
    }

    fn set_group(&self, name: String, body: Object, wanted: Option<u64>) -> Answer<'_, ConfigChange> {
        Box::pin(self.edit(wanted, move |text| edit::set_group(text, &name, &body)))
    }

    fn remove_group(&self, name: String, wanted: Option<u64>) -> Answer<'_, ConfigChange> {
        Box::pin(self.edit(wanted, move |text| Ok((edit::remove_group(text, &name)?, false))))
    }

    fn set_drained(&self, group: String, element: String, drained: bool) -> Answer<'_, ElementStatus> {
        Box::pin(async move {
            let (of, name) = (group.clone(), element.clone());
            self.steering.run(move |steering| steering.set_drained(&of, &name, drained)).await?;
            let groups = self.groups().await?.value;
            let Some(view) = groups.into_iter().find(|view| view.name == group) else {
                return Err(BackendError::NotFound(format!("there is no server group \"{group}\"")));
            };
            let known: Vec<String> = view.elements.iter().map(|element| element.address.clone()).collect();
            let found = view.elements.into_iter().find(|status| status.address == element);
            found.ok_or_else(|| {
                BackendError::NotFound(format!("{group} has no element \"{element}\"; there are {}", known.join(", ")))
            })
        })
    }

    fn routes(&self) -> Answer<'_, Versioned<Vec<Value>>> {
        Box::pin(self.steering.run(|steering| {
            let state = steering.lock();
            Ok(Versioned { version: state.number(), value: edit::routes(state.text())? })
        }))
    }

    fn set_routes(&self, routes: Vec<Object>, wanted: Option<u64>) -> Answer<'_, ConfigChange> {
        Box::pin(self.edit(wanted, move |text| Ok((edit::set_routes(text, &routes)?, false))))
    }

    fn test_route(&self, test: RouteTest) -> Answer<'_, RouteTestView> {
        Box::pin(async move {
            let (message, flow) = route_test::read(&test, &self.steering.bound)?;
            let told =
                self.steering.asks.ask(|tell| Ask::Explain { message: Box::new(message.clone()), flow, tell }).await?;
            Ok(route_test::view(&message, &flow, *told))
        })
    }

    fn config(&self) -> Answer<'_, ConfigView> {
        Box::pin(self.steering.run(|steering| {
            let state = steering.lock();
            let file = state.source.as_ref().map_or_else(String::new, |source| source.file.display().to_string());
            let (version, text) = (state.number(), state.text().to_owned());
            Ok(ConfigView { version, file, text, needs_restart: steering.waiting(&state), refused: steering.refused() })
        }))
    }

    fn set_config(&self, text: String, wanted: Option<u64>) -> Answer<'_, ConfigChange> {
        Box::pin(self.steering.run(move |steering| steering.change(wanted, None, |_| Ok((text, false)))))
    }

    fn check_config(&self, text: String) -> Answer<'_, ConfigCheck> {
        Box::pin(self.steering.run(move |steering| Ok(steering.check(&text))))
    }

    fn config_versions(&self) -> Answer<'_, Vec<VersionView>> {
        Box::pin(self.steering.run(|steering| {
            let state = steering.lock();
            let list = state.versions.as_ref().map_or(&[][..], Versions::list);
            Ok(list.iter().rev().map(|version| version_view(version.clone(), None)).collect())
        }))
    }

    fn config_version(&self, number: u64) -> Answer<'_, VersionView> {
        Box::pin(self.steering.run(move |steering| {
            let (record, text) = version(&steering.lock(), number)?;
            Ok(version_view(record, Some(text)))
        }))
    }

    fn config_diff(&self, from: Option<u64>, to: Option<u64>) -> Answer<'_, ConfigDiff> {
        Box::pin(self.steering.run(move |steering| {
            let state = steering.lock();
            let to = to.unwrap_or(state.number());
            let from = from.unwrap_or(to.saturating_sub(1).max(1));
            let (_, old) = version(&state, from)?;
            let (_, new) = version(&state, to)?;
            Ok(ConfigDiff { from, to, diff: unified(&old, &new, &format!("version {from}"), &format!("version {to}")) })
        }))
    }

    fn rollback(&self, number: u64, wanted: Option<u64>) -> Answer<'_, ConfigChange> {
        let note = Some(format!("back to version {number}"));
        Box::pin(
            self.steering
                .run(move |steering| steering.change(wanted, note, |state| Ok((version(state, number)?.1, false)))),
        )
    }

    fn registrations(&self, aor: Option<String>, limit: usize, cursor: Option<u32>) -> Answer<'_, RegistrationsPage> {
        Box::pin(async move {
            let page = |tell| Ask::Registrations { aor, from: cursor.unwrap_or(0), most: limit, tell };
            let (found, next_cursor) = self.steering.asks.ask(page).await?;
            Ok(RegistrationsPage { registrations: found.into_iter().map(registration).collect(), next_cursor })
        })
    }

    fn ladders(&self, limit: usize) -> Answer<'_, Value> {
        Box::pin(async move {
            let list = sight::list(&self.ladders, limit);
            serde_json::to_value(list).map_err(|error| BackendError::Unavailable(error.to_string()))
        })
    }

    fn ladder(&self, call_id: String) -> Answer<'_, (Value, String)> {
        Box::pin(async move {
            let ladder = sight::get(&self.ladders, &call_id)
                .ok_or_else(|| BackendError::NotFound("no call of that Call-ID is remembered".into()))?;
            let json = serde_json::to_value(&ladder).map_err(|error| BackendError::Unavailable(error.to_string()))?;
            Ok((json, ladder.to_string()))
        })
    }
}
