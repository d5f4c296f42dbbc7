#![allow(clippy::unwrap_used)]

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
    ControlView { id: ID, state, changed: true, at_ms: 1_000 }
}

impl Backend for Fake {
    fn calls(&self) -> Answer<'_, Vec<CallView>> {
        found(ID, vec![CallView {
            id: ID,
            sip_call_id: "c1".into(),
            tenant: "acme".into(),
            state: "recording",
            started_at: "2026-01-01T00:00:00Z".into(),
            duration_ms: 5,
            participants: Vec::new(),
            streams: Vec::new(),
            tags: Default::default(),
        }])
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
        found(ID, AssuranceView {
            from: "2026-01-01T00:00:00Z".into(),
            to: "2026-01-02T00:00:00Z".into(),
            totals: AssuranceTotals { received: 1, complete: 1, ..AssuranceTotals::default() },
            adds_up: true,
            intact: true,
            problems: Vec::new(),
            calls: Vec::new(),
            next_cursor: None,
        })
    }
    fn recording(&self, _: Uuid) -> Answer<'_, RecordingView> {
        Box::pin(async { Err(BackendError::NotFound("no such recording".into())) })
    }
    fn object(&self, id: Uuid, _: ObjectKind) -> Answer<'_, Bytes> {
        found(id, Bytes::from_static(b"0123456789"))
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

async fn ask(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (StatusCode, axum::http::HeaderMap, Bytes) {
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
}

#[tokio::test]
async fn a_node_that_takes_no_calls_says_why() {
    let (status, _, body) = ask("GET", "/readyz", &[], "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(String::from_utf8_lossy(&body).contains("the spool is full"));
    assert_eq!(ask("GET", "/healthz", &[], "").await.0, StatusCode::OK);
    assert_eq!(ask("GET", "/metrics", &[], "").await.0, StatusCode::OK);
}

#[test]
fn the_api_is_the_golden_one() {
    insta::assert_snapshot!(openapi::api().to_pretty_json().unwrap());
}
