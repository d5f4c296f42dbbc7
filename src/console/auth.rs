//! The bearer token (RFC 6750).

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};

use super::{Console, Problem};

/// Lets a request pass that shows the token. Hashes are compared, so the time
/// taken tells nothing of the token.
pub(super) async fn require_token(State(console): State<Console>, request: Request, next: Next) -> Response {
    let shown = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    match shown {
        Some(token) if Sha256::digest(token.as_bytes()) == Sha256::digest(console.token.as_bytes()) => {
            next.run(request).await
        }
        Some(_) => Problem::new(StatusCode::UNAUTHORIZED, "the bearer token is wrong").into_response(),
        None => Problem::new(StatusCode::UNAUTHORIZED, "show the token: Authorization: Bearer ...").into_response(),
    }
}
