//! Errors as problem documents (RFC 9457).

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{BackendError, TextError};

/// A problem document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    members: Vec<(&'static str, Value)>,
    retry_after_s: Option<u16>,
}

impl Problem {
    /// With a sentence for the person who reads it.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem { status, detail: detail.into(), members: Vec::new(), retry_after_s: None }
    }

    /// With the places of a text that are wrong.
    pub fn with_errors(self, errors: &[TextError]) -> Problem {
        self.with("errors", json!(errors))
    }

    fn with(mut self, name: &'static str, value: Value) -> Problem {
        self.members.push((name, value));
        self
    }
}

impl From<BackendError> for Problem {
    fn from(error: BackendError) -> Problem {
        let status = match &error {
            BackendError::NotFound(_) => StatusCode::NOT_FOUND,
            BackendError::Invalid(_) => StatusCode::BAD_REQUEST,
            BackendError::Conflict { .. } => StatusCode::CONFLICT,
            BackendError::Stale(_) => StatusCode::PRECONDITION_FAILED,
            BackendError::Unreadable(..) => StatusCode::BAD_REQUEST,
            BackendError::Refused(..) => StatusCode::UNPROCESSABLE_ENTITY,
            BackendError::Busy(_) | BackendError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let problem = Problem::new(status, error.to_string());
        match error {
            BackendError::Conflict { diff: Some(diff), .. } => problem.with("diff", json!(diff)),
            BackendError::Unreadable(_, errors) | BackendError::Refused(_, errors) => problem.with_errors(&errors),
            BackendError::Busy(_) => Problem { retry_after_s: Some(1), ..problem },
            BackendError::NotFound(_)
            | BackendError::Invalid(_)
            | BackendError::Conflict { diff: None, .. }
            | BackendError::Stale(_)
            | BackendError::Unavailable(_) => problem,
        }
    }
}

impl From<QueryRejection> for Problem {
    /// Names the parameter that is wrong, as in `limit: invalid digit found in string`.
    fn from(rejection: QueryRejection) -> Problem {
        let text = rejection.body_text();
        let what = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
        Problem::new(StatusCode::BAD_REQUEST, format!("the query cannot be read: {what}"))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut body =
            json!({ "type": "about:blank", "title": title, "status": self.status.as_u16(), "detail": self.detail });
        for (name, value) in self.members {
            if let Some(body) = body.as_object_mut() {
                body.insert(name.to_owned(), value);
            }
        }
        let mut response = (self.status, Json(body)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_is_turned_away_for_a_moment_is_told_when_to_come_again() {
        let after = |error: BackendError| {
            let response = Problem::from(error).into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(after(BackendError::Busy("many ask".into())), Some("1".to_owned()));
        assert_eq!(after(BackendError::Unavailable("gone".into())), None);
    }
}
