//! What the API shows of the proxy and of the configuration.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A place in a text, and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TextError {
    /// Line, from 1; 0 when it is about the whole.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong and what would be right.
    pub message: String,
    /// The line itself.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
}

/// Something with the version of the configuration that it belongs to, which becomes the ETag.
#[derive(Debug, Clone, PartialEq)]
pub struct Versioned<T> {
    /// Number of the version.
    pub version: u64,
    /// What it is.
    pub value: T,
}

/// Counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ElementCounters {
    /// Requests sent to it.
    pub requests: u64,
    /// Answered with 2xx.
    pub succeeded: u64,
    /// Answered with another final response.
    pub refused: u64,
    /// Tried in vain: the next element was asked.
    pub failed_over: u64,
    /// Times that it went down.
    pub downs: u64,
}

/// An element at work.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ElementStatus {
    /// As configured, or as DNS named it.
    pub address: String,
    /// The lowest is used first.
    pub priority: u16,
    /// Share within a priority.
    pub weight: u16,
    /// `up`, `down`, `busy`, `drained` or `unresolved`.
    pub state: &'static str,
    /// No new calls by a person's wish.
    pub drained: bool,
    /// Why it is down: `misses`, `timeout` or `unreachable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<&'static str>,
    /// Down, or up again, since then; RFC 3339. Absent when it has been up from the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// The last sign of life, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_alive: Option<String>,
    /// How long it asked for peace with Retry-After, from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy_ms: Option<u64>,
    /// Calls at the moment, where their end is seen (record_route).
    pub calls: u32,
    /// Requests without a final response.
    pub open: u32,
    /// Counters.
    pub counters: ElementCounters,
    /// Its part of the calls that begin now, in percent.
    pub share_percent: f64,
    /// Its part of the group's requests since the start, in percent; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_percent: Option<f64>,
}

/// A server group: configuration and state.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ServerGroupView {
    /// Its name.
    pub name: String,
    /// Its section of the configuration with the keys of the file: what PUT takes.
    #[schema(value_type = Object)]
    pub config: serde_json::Value,
    /// `up`, `degraded` (an element does not take calls) or `dead` (none does).
    pub state: &'static str,
    /// Its elements.
    pub elements: Vec<ElementStatus>,
}

/// What a change of the configuration did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ConfigChange {
    /// The version in force now.
    pub version: u64,
    /// False when the text was this one already.
    pub changed: bool,
    /// True when something was made that was not there.
    #[serde(skip)]
    pub created: bool,
    /// What changed, in words.
    pub changes: Vec<String>,
    /// Sections that differ from the node as it was started: they wait for a restart.
    pub needs_restart: Vec<String>,
    /// What is accepted and worth a second look.
    pub warnings: Vec<String>,
}

/// What would come of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct ConfigCheck {
    /// True when it could be put into force.
    pub ok: bool,
    /// What is wrong with it.
    pub errors: Vec<TextError>,
    /// What is accepted and worth a second look.
    pub warnings: Vec<String>,
    /// What would change, in words.
    pub changes: Vec<String>,
    /// What would wait for a restart.
    pub needs_restart: Vec<String>,
}

/// One version of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct VersionView {
    /// Counts up from 1.
    pub number: u64,
    /// When it came into force, RFC 3339.
    pub at: String,
    /// `start`, `sighup` or `api`.
    pub by: String,
    /// What changed, in words.
    pub changes: Vec<String>,
    /// What waited for a restart then.
    pub needs_restart: Vec<String>,
    /// SHA-256 of the text, hexadecimal.
    pub sha256: String,
    /// The text; absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ConfigView {
    /// Its version.
    pub version: u64,
    /// The file that it is read from and written to.
    pub file: String,
    /// The text.
    pub text: String,
    /// Sections that differ from the node as it was started: they wait for a restart.
    pub needs_restart: Vec<String>,
    /// Why the file was refused when it was read last; absent when it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What differs between two versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ConfigDiff {
    /// From this version.
    pub from: u64,
    /// To this one.
    pub to: u64,
    /// As `diff -u` prints it; empty when nothing differs.
    pub diff: String,
}

/// Back to a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// Its number.
    pub version: u64,
}

/// A listener of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerRef {
    /// `udp`, `tcp` or `tls`.
    pub transport: String,
    /// As in `10.0.0.5:5060`.
    pub address: String,
}

/// A message whose way is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteTest {
    /// The SIP request as text; a header without its last empty line, and lines that end with LF only, are understood.
    pub message: String,
    /// Who sends it, as in `10.1.0.20:5060`; absent: the address of its top Via, or loopback.
    pub source: Option<String>,
    /// Where it comes in; absent: the first listener of its transport.
    pub listener: Option<ListenerRef>,
}

/// What a condition saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ConditionView {
    /// The condition as text.
    pub condition: String,
    /// What the request had.
    pub saw: String,
    /// Whether it holds.
    pub holds: bool,
}

/// How a rule looked upon the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct RuleView {
    /// The rule.
    pub name: String,
    /// It decided.
    pub matched: bool,
    /// Its conditions, up to the first that failed.
    pub conditions: Vec<ConditionView>,
}

/// An element's part of the calls that begin now.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ShareView {
    /// The element.
    pub address: String,
    /// Its state.
    pub state: &'static str,
    /// In percent.
    pub share_percent: f64,
}

/// How a group would share calls out.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct PickView {
    /// The group.
    pub group: String,
    /// Its policy.
    pub policy: &'static str,
    /// The element that is asked first; absent when none takes calls, and the next group of the list is asked. With policies
    /// that draw lots it is one that the lot could fall on.
    pub picked: Option<String>,
    /// The elements.
    pub elements: Vec<ShareView>,
}

/// A registered contact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ContactView {
    /// Its URI.
    pub uri: String,
    /// Preference in thousandths; higher is tried first.
    pub q: u16,
    /// The Path that requests take.
    pub path: Vec<String>,
}

/// Where a request goes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct DestinationView {
    /// `recorder`, `group`, `element`, `address`, `name`, `registrar`, `contacts`, `redirect` or `reject`.
    pub kind: &'static str,
    /// In words.
    pub text: String,
    /// The group, and its fallbacks as far as they are needed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<PickView>,
    /// The element that is asked first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub element: Option<String>,
    /// The status of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The contacts of a user.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contacts: Vec<ContactView>,
}

/// Which way a request would take, and why.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RouteTestView {
    /// Its method.
    pub method: String,
    /// The Request-URI that counts.
    pub request_uri: String,
    /// Who sends it; as asked, or as assumed.
    pub source: String,
    /// Where it comes in; as asked, or as assumed.
    pub listener: ListenerRef,
    /// It asks for a recording.
    pub siprec: bool,
    /// `rule`, `default` (no rule matched), `route-header`, `dialog`, `stranger` (not in `[[sip.trust]]`), `unconfigured`
    /// (no groups, routes or registrar: all is for the recorder).
    pub decided_by: &'static str,
    /// The rule that decided.
    pub rule: Option<String>,
    /// Why, in words.
    pub why: String,
    /// Every rule up to the deciding one.
    pub rules: Vec<RuleView>,
    /// The Request-URI as it goes on, if it changes.
    pub rewritten_uri: Option<String>,
    /// Where it goes.
    pub destination: DestinationView,
}

/// A contact that is registered.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RegistrationView {
    /// `user@domain`.
    pub aor: String,
    /// The URI as registered.
    pub contact: String,
    /// RFC 3339.
    pub expires_at: String,
    /// Preference, if given.
    pub q: Option<f64>,
    /// The Path that requests take (RFC 3327).
    pub path: Vec<String>,
    /// Where requests go instead of where the URI points: transport and address.
    pub flow: Option<String>,
    /// `+sip.instance`.
    pub instance: Option<String>,
}

/// A page of registrations.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct RegistrationsPage {
    /// In no order.
    pub registrations: Vec<RegistrationView>,
    /// For the next page; absent on the last.
    pub next_cursor: Option<u32>,
}
