#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::num::NonZeroU32;

use super::backend::Answer;
use super::*;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use serde_json::Value;
use tower::ServiceExt as _;
use uuid::Uuid;

const ID: Uuid = Uuid::from_u128(7);

struct Fake {
    ready: bool,
}

fn found<T: Send + 'static>(id: Uuid, value: T) -> Answer<'static, T> {
    Box::pin(async move { if id == ID { Ok(value) } else { Err(BackendError::NotFound("no such call".into())) } })
}

fn control(state: &'static str) -> ControlView {
    ControlView { id: ID, state: state.into(), changed: true, at_ms: 1_000 }
}

impl ClusterBackend for Fake {
    fn nodes(&self) -> Answer<'_, NodesView> {
        let node = NodeView { id: "edge-a1".into(), state: "up".into(), this: true, ..NodeView::default() };
        found(ID, NodesView { cluster: None, seen_from: "edge-a1".into(), nodes: vec![node] })
    }
    fn workers(&self) -> Answer<'_, Vec<WorkerView>> {
        found(ID, vec![WorkerView { node: "edge-a1".into(), calls: 3, ..WorkerView::default() }])
    }
    fn set_node_draining(&self, id: String, draining: bool) -> Answer<'_, NodeView> {
        Box::pin(async move {
            match id.as_str() {
                "edge-a1" => Ok(NodeView { id, draining, ..NodeView::default() }),
                _ => Err(BackendError::NotFound("there is no such node".into())),
            }
        })
    }
}

impl Backend for Fake {
    fn calls(&self) -> Answer<'_, CallsView> {
        let calls = vec![CallView {
            id: ID,
            sip_call_id: "c1".into(),
            tenant: "acme".into(),
            node: "edge-a1".into(),
            state: "recording".into(),
            started_at: "2026-01-01T00:00:00Z".into(),
            duration_ms: 5,
            participants: Vec::new(),
            streams: Vec::new(),
            tags: Default::default(),
        }];
        let missing = vec!["edge-a2".to_owned(), "edge-a3".to_owned()];
        found(ID, CallsView { calls, missing })
    }
    fn pause(&self, id: Uuid) -> Answer<'_, ControlView> {
        found(id, control("paused"))
    }
    fn resume(&self, id: Uuid) -> Answer<'_, ControlView> {
        found(id, control("recording"))
    }
    fn stop(&self, id: Uuid) -> Answer<'_, ControlView> {
        found(id, control("stopped"))
    }
    fn tag(&self, id: Uuid, _: Vec<(String, String)>) -> Answer<'_, ControlView> {
        found(id, control("recording"))
    }
    fn recordings(&self, query: RecordingsQuery) -> Answer<'_, RecordingsPage> {
        assert_eq!(query.party.as_deref(), Some("+1555"));
        found(ID, RecordingsPage { recordings: Vec::new(), next_cursor: Some("c".into()) })
    }
    fn assurance(&self, query: AssuranceQuery) -> Answer<'_, AssuranceView> {
        assert_eq!((query.from.as_deref(), query.limit), (Some("2026-01-01T00:00:00Z"), Some(2)));
        found(
            ID,
            AssuranceView {
                from: "2026-01-01T00:00:00Z".into(),
                to: "2026-01-02T00:00:00Z".into(),
                totals: AssuranceTotals { received: 1, complete: 1, ..AssuranceTotals::default() },
                adds_up: true,
                intact: true,
                problems: Vec::new(),
                calls: Vec::new(),
                next_cursor: None,
            },
        )
    }
    fn recording(&self, _: Uuid) -> Answer<'_, RecordingView> {
        Box::pin(async { Err(BackendError::NotFound("no such recording".into())) })
    }
    fn object(&self, id: Uuid, part: NonZeroU32, _: ObjectKind) -> Answer<'_, Bytes> {
        match part.get() {
            1 => found(id, Bytes::from_static(b"0123456789")),
            2 => found(id, Bytes::from_static(b"the second")),
            _ => Box::pin(async { Err(BackendError::NotFound("no such part".into())) }),
        }
    }
    fn events(&self) -> tokio::sync::broadcast::Receiver<Event> {
        let (sender, receiver) = tokio::sync::broadcast::channel(4);
        sender.send(Event { recording: Some(ID), ..Event::new("call.started") }).unwrap();
        receiver
    }
    fn uploads(&self) -> UploadsView {
        UploadsView::default()
    }
    fn alarms(&self) -> Vec<Alarm> {
        Vec::new()
    }
    fn readiness(&self) -> Readiness {
        Readiness { ready: self.ready, reasons: if self.ready { vec![] } else { vec!["the spool is full".into()] } }
    }
    fn metrics(&self) -> String {
        "ferric_calls_active 0\n".into()
    }
}

fn change(wanted: Option<u64>, created: bool) -> Answer<'static, ConfigChange> {
    Box::pin(async move {
        match wanted {
            None | Some(7) => Ok(ConfigChange {
                version: 8,
                changed: true,
                created,
                changes: vec!["routes: 1".into()],
                ..ConfigChange::default()
            }),
            Some(_) => Err(BackendError::Stale("version 7 is in force".into())),
        }
    })
}

fn element() -> ElementStatus {
    ElementStatus {
        address: ELEMENT.into(),
        priority: 1,
        weight: 50,
        state: "up",
        drained: false,
        cause: None,
        since: None,
        last_alive: None,
        busy_ms: None,
        calls: 0,
        open: 0,
        counters: ElementCounters::default(),
        share_percent: 100.0,
        requests_percent: None,
    }
}

const ELEMENT: &str = "10.0.0.11:5060;transport=tcp";

impl ProxyBackend for Fake {
    fn server_groups(&self) -> Answer<'_, Versioned<Vec<ServerGroupView>>> {
        let config = serde_json::json!({ "name": "pool" });
        found(
            ID,
            Versioned {
                version: 7,
                value: vec![ServerGroupView { name: "pool".into(), config, state: "up", elements: vec![element()] }],
            },
        )
    }
    fn set_group(&self, name: String, body: Object, wanted: Option<u64>) -> Answer<'_, ConfigChange> {
        match body.get("policy").and_then(Value::as_str) {
            Some("none") => Box::pin(async {
                let at =
                    TextError { line: 3, column: 10, message: "no policy".into(), source: "policy = \"none\"".into() };
                Err(BackendError::Refused("1 error".into(), vec![at]))
            }),
            _ => change(wanted, name == "new"),
        }
    }
    fn remove_group(&self, name: String, wanted: Option<u64>) -> Answer<'_, ConfigChange> {
        match name.as_str() {
            "pool" => Box::pin(async { Err(BackendError::Conflict { text: "used by route 1".into(), diff: None }) }),
            _ => change(wanted, false),
        }
    }
    fn set_drained(&self, group: String, address: String, drained: bool) -> Answer<'_, ElementStatus> {
        Box::pin(async move {
            if (group.as_str(), address.as_str()) != ("pool", ELEMENT) {
                return Err(BackendError::NotFound("no such element".into()));
            }
            Ok(ElementStatus { drained, state: if drained { "drained" } else { "up" }, ..element() })
        })
    }
    fn routes(&self) -> Answer<'_, Versioned<Vec<Value>>> {
        found(ID, Versioned { version: 7, value: vec![serde_json::json!({ "to": "pool" })] })
    }
    fn set_routes(&self, routes: Vec<Object>, wanted: Option<u64>) -> Answer<'_, ConfigChange> {
        assert_eq!(routes.len(), 1);
        change(wanted, false)
    }
    fn test_route(&self, test: RouteTest) -> Answer<'_, RouteTestView> {
        let listener =
            test.listener.unwrap_or(ListenerRef { transport: "udp".into(), address: "10.0.0.5:5060".into() });
        found(
            ID,
            RouteTestView {
                method: test.message,
                request_uri: "sip:1@x".into(),
                source: test.source.unwrap_or_default(),
                listener,
                siprec: false,
                decided_by: "default",
                rule: None,
                why: "no rule matched".into(),
                rules: Vec::new(),
                rewritten_uri: None,
                destination: DestinationView { kind: "recorder", ..DestinationView::default() },
            },
        )
    }
    fn config(&self) -> Answer<'_, ConfigView> {
        found(
            ID,
            ConfigView {
                version: 7,
                file: "ferric.toml".into(),
                text: "[node]\n".into(),
                needs_restart: vec![],
                refused: None,
            },
        )
    }
    fn set_config(&self, text: String, wanted: Option<u64>) -> Answer<'_, ConfigChange> {
        if text == "edited" {
            let conflict = BackendError::Conflict { text: "changed on the disk".into(), diff: Some("-a\n+b\n".into()) };
            return Box::pin(async { Err(conflict) });
        }
        change(wanted, false)
    }
    fn check_config(&self, text: String) -> Answer<'_, ConfigCheck> {
        found(ID, ConfigCheck { ok: text.is_empty(), ..ConfigCheck::default() })
    }
    fn config_versions(&self) -> Answer<'_, Vec<VersionView>> {
        Box::pin(async { Ok(vec![self.config_version(7).await?]) })
    }
    fn config_version(&self, number: u64) -> Answer<'_, VersionView> {
        Box::pin(async move {
            let (at, by) = ("2026-01-01T00:00:00Z".into(), "api".into());
            let view =
                VersionView { number, at, by, changes: vec![], needs_restart: vec![], sha256: "0".into(), text: None };
            if number == 7 { Ok(view) } else { Err(BackendError::NotFound("no such version".into())) }
        })
    }
    fn config_diff(&self, from: Option<u64>, to: Option<u64>) -> Answer<'_, ConfigDiff> {
        found(ID, ConfigDiff { from: from.unwrap_or(6), to: to.unwrap_or(7), diff: "-a\n+b\n".into() })
    }
    fn rollback(&self, version: u64, wanted: Option<u64>) -> Answer<'_, ConfigChange> {
        assert_eq!(version, 3);
        change(wanted, false)
    }
    fn registrations(&self, aor: Option<String>, limit: usize, cursor: Option<u32>) -> Answer<'_, RegistrationsPage> {
        let contact = format!("{limit} {cursor:?}");
        let one = RegistrationView {
            aor: aor.unwrap_or_default(),
            contact,
            expires_at: String::new(),
            q: None,
            path: vec![],
            flow: None,
            instance: None,
        };
        found(ID, RegistrationsPage { registrations: vec![one], next_cursor: Some(3) })
    }
    fn ladders(&self, limit: usize) -> Answer<'_, Value> {
        found(ID, serde_json::json!([{ "call_id": "a/b", "limit": limit }]))
    }
    fn ladder(&self, call_id: String) -> Answer<'_, (Value, String)> {
        Box::pin(async move {
            if call_id != "a/b" {
                return Err(BackendError::NotFound("no such call".into()));
            }
            Ok((serde_json::json!({ "messages": [] }), "a -> b\n".to_owned()))
        })
    }
}

async fn ask(
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (StatusCode, axum::http::HeaderMap, Bytes) {
    let router = Console::new(Arc::new(Fake { ready: path != "/readyz" }), "secret").router();
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = router.oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, to_bytes(body, 1 << 20).await.unwrap())
}

const TOKEN: (&str, &str) = ("authorization", "Bearer secret");

async fn json(method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, _, body) = ask(method, path, &[TOKEN, ("content-type", "application/json")], body).await;
    (status.as_u16(), serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn nodes_are_shown_drained_and_enabled() {
    let (status, body) = json("GET", "/api/v1/nodes", "").await;
    assert_eq!((status, &body["seen_from"], &body["nodes"][0]["state"]), (200, &"edge-a1".into(), &"up".into()));
    for (what, draining) in [("drain", true), ("enable", false)] {
        let path = format!("/api/v1/nodes/edge-a1/{what}");
        let (status, body) = json("POST", &path, "").await;
        assert_eq!((status, &body["draining"]), (200, &draining.into()));
        assert_eq!(ask("POST", &path, &[], "").await.0, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(json("GET", "/api/v1/workers", "").await.1[0]["calls"], 3);
    assert_eq!(json("POST", "/api/v1/nodes/edge-b1/drain", "").await.0, 404);
    let (status, body) = json("GET", "/api/v1/nodes/edge-b1", "").await;
    assert_eq!(status, 404);
    assert!(body["detail"].as_str().unwrap().contains("edge-a1"), "{body}");
}

#[tokio::test]
async fn nobody_without_the_token_gets_anything_below_api() {
    for headers in [&[][..], &[("authorization", "Bearer wrong")], &[("authorization", "Basic secret")]] {
        let (status, answer, body) = ask("GET", "/api/v1/calls", headers, "").await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer["content-type"], "application/problem+json");
        assert!(!String::from_utf8_lossy(&body).contains("acme"));
    }
    assert_eq!(json("GET", "/api/v1/calls", "").await.1[0]["tenant"], "acme");
}

#[tokio::test]
async fn controls_answer_and_unknown_calls_are_404() {
    let path = |what: &str| format!("/api/v1/calls/{ID}/{what}");
    assert_eq!(json("POST", &path("pause"), "").await.1["state"], "paused");
    assert_eq!(json("POST", &path("stop"), "").await.1["state"], "stopped");
    assert_eq!(json("POST", &path("tags"), "{\"queue\":\"sales\"}").await.0, 200);
    assert_eq!(json("POST", &path("tags"), "{\"queue\":7}").await.0, 422);
    assert_eq!(json("POST", &path("tags"), "{}").await.0, 400);
    assert_eq!(json("POST", &path("tags"), &"x".repeat(100_000)).await.0, 413);
    assert_eq!(json("GET", &path("pause"), "").await.0, 405);
    assert_eq!(json("POST", "/api/v1/calls/nonsense/pause", "").await.0, 404);
    assert_eq!(json("POST", &format!("/api/v1/calls/{}/pause", Uuid::from_u128(8)), "").await.0, 404);
    assert_eq!(json("GET", "/api/v1/nothing", "").await.0, 404);
}

#[tokio::test]
async fn the_catalogue_takes_its_filters_and_refuses_others() {
    let (status, page) = json("GET", "/api/v1/recordings?party=%2B1555&limit=10", "").await;
    assert_eq!((status, page["next_cursor"].as_str()), (200, Some("c")));
    assert_eq!(json("GET", "/api/v1/recordings?party=%2B1555&limit=0", "").await.0, 400);
    assert_eq!(json("GET", "/api/v1/recordings?partei=x", "").await.0, 400);
}

#[tokio::test]
async fn workers_that_do_not_answer_are_named() {
    let (status, headers, _) = ask("GET", "/api/v1/calls", &[TOKEN], "").await;
    assert_eq!((status, headers["ferric-missing"].to_str().unwrap()), (StatusCode::OK, "edge-a2, edge-a3"));
    let path = |id: Uuid| format!("/api/v1/calls/{id}");
    assert_eq!(json("GET", &path(ID), "").await.1["node"], "edge-a1");
    let (status, problem) = json("GET", &path(Uuid::from_u128(8)), "").await;
    assert_eq!(status, 503, "it may be there");
    assert!(problem["detail"].as_str().unwrap().contains("edge-a2, edge-a3 does not answer"), "{problem}");
}

#[tokio::test]
async fn the_ledger_of_a_time_is_told() {
    let (status, view) = json("GET", "/api/v1/assurance?from=2026-01-01T00:00:00Z&limit=2", "").await;
    assert_eq!((status, view["totals"]["complete"].as_u64(), view["adds_up"].as_bool()), (200, Some(1), Some(true)));
    assert_eq!(json("GET", "/api/v1/assurance?limit=x", "").await.0, 400);
}

#[tokio::test]
async fn events_come_as_they_happen() {
    let (status, headers, body) = ask("GET", "/api/v1/events", &[TOKEN], "").await;
    assert_eq!((status, headers["content-type"].to_str().unwrap()), (StatusCode::OK, "text/event-stream"));
    let text = String::from_utf8(body.to_vec()).unwrap();
    assert_eq!(text, format!("event: call.started\ndata: {{\"recording\":\"{ID}\"}}\n\n"));
    assert_eq!(ask("GET", "/api/v1/events", &[], "").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn objects_come_whole_or_in_part() {
    let path = format!("/api/v1/recordings/{ID}/audio");
    let (status, _, body) = ask("GET", &path, &[TOKEN], "").await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"0123456789"[..]));
    let (status, headers, body) = ask("GET", &path, &[TOKEN, ("range", "bytes=2-4")], "").await;
    assert_eq!((status, &body[..]), (StatusCode::PARTIAL_CONTENT, &b"234"[..]));
    assert_eq!(headers["content-range"], "bytes 2-4/10");
    assert_eq!(ask("GET", &path, &[TOKEN, ("range", "bytes=20-")], "").await.0, StatusCode::RANGE_NOT_SATISFIABLE);
    for (query, expected) in
        [("?part=1", (StatusCode::OK, &b"0123456789"[..])), ("?part=2", (StatusCode::OK, &b"the second"[..]))]
    {
        let (status, _, body) = ask("GET", &format!("{path}{query}"), &[TOKEN], "").await;
        assert_eq!((status, &body[..]), expected, "{query}");
    }
    for (query, expected) in [
        ("?part=3", StatusCode::NOT_FOUND),
        ("?part=0", StatusCode::BAD_REQUEST),
        ("?part=two", StatusCode::BAD_REQUEST),
        ("?parts=2", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(ask("GET", &format!("{path}{query}"), &[TOKEN], "").await.0, expected, "{query}");
    }
}

#[tokio::test]
async fn a_node_that_takes_no_calls_says_why() {
    let (status, _, body) = ask("GET", "/readyz", &[], "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8_lossy(&body).contains("the spool is full"));
    assert_eq!(ask("GET", "/healthz", &[], "").await.0, StatusCode::OK);
    assert_eq!(ask("GET", "/metrics", &[], "").await.0, StatusCode::OK);
}

#[tokio::test]
async fn server_groups_are_read_changed_and_drained() {
    let (status, headers, body) = ask("GET", "/api/v1/server-groups", &[TOKEN], "").await;
    assert_eq!((status, headers["etag"].to_str().unwrap()), (StatusCode::OK, "\"7\""));
    assert!(String::from_utf8_lossy(&body).contains(ELEMENT));
    assert_eq!(json("GET", "/api/v1/server-groups/pool", "").await.1["state"], "up");
    assert_eq!(json("GET", "/api/v1/server-groups/none", "").await.0, 404);
    assert_eq!(json("PUT", "/api/v1/server-groups/pool", "{}").await.0, 200);
    assert_eq!(json("PUT", "/api/v1/server-groups/new", "{}").await.0, 201);
    let (status, problem) = json("PUT", "/api/v1/server-groups/pool", "{\"policy\": \"none\"}").await;
    assert_eq!(
        (status, problem["errors"][0]["line"].as_u64(), problem["errors"][0]["column"].as_u64()),
        (422, Some(3), Some(10))
    );
    let (status, problem) = json("PUT", "/api/v1/server-groups/pool", "{\n\"a\": }").await;
    assert_eq!((status, problem["errors"][0]["line"].as_u64()), (400, Some(2)));
    assert_eq!(json("PUT", "/api/v1/server-groups/pool", &"x".repeat(2 << 20)).await.0, 413);
    assert_eq!(json("DELETE", "/api/v1/server-groups/pool", "").await.0, 409);
    assert_eq!(json("DELETE", "/api/v1/server-groups/free", "").await.0, 200);
    let path = |what: &str| format!("/api/v1/server-groups/pool/elements/10.0.0.11%3A5060%3Btransport%3Dtcp/{what}");
    assert_eq!(json("POST", &path("drain"), "").await.1["state"], "drained");
    assert_eq!(json("POST", &path("enable"), "").await.1["state"], "up");
    assert_eq!(json("POST", "/api/v1/server-groups/pool/elements/10.0.0.12/drain", "").await.0, 404);
}

#[tokio::test]
async fn a_change_is_meant_for_the_version_that_was_read() {
    let put = async |tag: &str| ask("PUT", "/api/v1/config", &[TOKEN, ("if-match", tag)], "").await;
    for (tag, status) in [("\"7\"", 200), ("7", 200), ("*", 200), ("\"6\"", 412), ("\"x\"", 400)] {
        assert_eq!(put(tag).await.0.as_u16(), status, "{tag}");
    }
    assert_eq!(put("7").await.1["etag"], "\"8\"");
    for path in ["/api/v1/server-groups/pool", "/api/v1/routes", "/api/v1/config/rollback"] {
        let (method, body) = match path {
            "/api/v1/routes" => ("PUT", "[{}]"),
            "/api/v1/config/rollback" => ("POST", "{\"version\": 3}"),
            _ => ("PUT", "{}"),
        };
        assert_eq!(
            ask(method, path, &[TOKEN, ("if-match", "\"6\"")], body).await.0,
            StatusCode::PRECONDITION_FAILED,
            "{path}"
        );
        assert_eq!(ask(method, path, &[TOKEN, ("if-match", "\"7\"")], body).await.0, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn routes_are_tested_with_json_or_the_message_itself() {
    assert_eq!(json("GET", "/api/v1/routes", "").await.1[0]["to"], "pool");
    assert_eq!(json("PUT", "/api/v1/routes", "{}").await.0, 400);
    let (status, told) =
        json("POST", "/api/v1/routes/test", "{\"message\": \"m\", \"source\": \"10.1.1.1:5060\"}").await;
    assert_eq!((status, told["source"].as_str()), (200, Some("10.1.1.1:5060")));
    assert_eq!(json("POST", "/api/v1/routes/test", "{\"massage\": \"m\"}").await.0, 400);
    for (kind, status) in [("application/sip", 200), ("text/plain; charset=utf-8", 200), ("image/png", 415)] {
        let (answered, _, body) = ask("POST", "/api/v1/routes/test", &[TOKEN, ("content-type", kind)], "INVITE").await;
        assert_eq!(answered.as_u16(), status, "{kind}");
        assert!(status != 200 || String::from_utf8_lossy(&body).contains("\"method\":\"INVITE\""));
    }
}

#[tokio::test]
async fn the_configuration_its_versions_and_their_difference_are_shown() {
    assert_eq!(json("GET", "/api/v1/config", "").await.1["version"], 7);
    assert_eq!(&ask("GET", "/api/v1/config?format=text", &[TOKEN], "").await.2[..], b"[node]\n");
    assert_eq!(json("GET", "/api/v1/config?format=xml", "").await.0, 400);
    assert_eq!(json("GET", "/api/v1/config/versions", "").await.1[0]["number"], 7);
    assert_eq!(json("GET", "/api/v1/config/versions/7", "").await.1["by"], "api");
    assert_eq!(json("GET", "/api/v1/config/versions/8", "").await.0, 404);
    assert_eq!(json("GET", "/api/v1/config/versions/x", "").await.0, 404);
    assert_eq!(json("GET", "/api/v1/config/diff?from=2", "").await.1["from"], 2);
    assert_eq!(json("GET", "/api/v1/config/diff?from=x", "").await.0, 400);
    let (_, headers, body) = ask("GET", "/api/v1/config/diff", &[TOKEN, ("accept", "text/plain")], "").await;
    assert!(headers["content-type"].to_str().unwrap().starts_with("text/plain") && &body[..] == b"-a\n+b\n");
    assert_eq!(json("POST", "/api/v1/config/check", "x").await.1["ok"], false);
    let (status, problem) = json("PUT", "/api/v1/config", "edited").await;
    assert_eq!((status, problem["diff"].as_str()), (409, Some("-a\n+b\n")));
    assert_eq!(ask("PUT", "/api/v1/config", &[TOKEN], &"x".repeat(2 << 20)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(json("POST", "/api/v1/config/rollback", "{\"version\": \"3\"}").await.0, 400);
    assert_eq!(ask("GET", "/api/v1/config", &[], "").await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn registrations_come_in_pages_or_of_one_user() {
    let (status, page) = json("GET", "/api/v1/registrations?aor=sip:Bob%40Example.COM&limit=7&cursor=2", "").await;
    assert_eq!((status, page["registrations"][0]["aor"].as_str()), (200, Some("Bob@example.com")));
    assert_eq!(
        (page["registrations"][0]["contact"].as_str(), page["next_cursor"].as_u64()),
        (Some("7 Some(2)"), Some(3))
    );
    assert_eq!(json("GET", "/api/v1/registrations?limit=0", "").await.0, 400);
    assert_eq!(json("GET", "/api/v1/registrations?who=bob", "").await.0, 400);
}

#[tokio::test]
async fn ladders_come_as_json_or_as_a_drawing() {
    assert_eq!(json("GET", "/api/v1/ladders?limit=5", "").await.1[0]["limit"], 5);
    assert_eq!(json("GET", "/api/v1/ladders?limit=0", "").await.0, 400);
    let (_, _, body) = ask("GET", "/api/v1/ladders/a%2Fb", &[TOKEN], "").await;
    assert_eq!(&body[..], b"{\"messages\":[]}");
    for (path, headers) in [
        ("/api/v1/ladders/a%2Fb?format=text", vec![TOKEN]),
        ("/api/v1/ladders/a%2Fb", vec![TOKEN, ("accept", "text/plain")]),
    ] {
        assert_eq!(&ask("GET", path, &headers, "").await.2[..], b"a -> b\n");
    }
    assert_eq!(json("GET", "/api/v1/ladders/none", "").await.0, 404);
}

#[test]
fn the_api_is_the_golden_one() {
    insta::assert_snapshot!(openapi::api().to_pretty_json().unwrap());
}
