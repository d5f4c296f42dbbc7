//! The shared state over NATS: one connection, and a task for each use of it.
//!
//! - [`link`]: the connection, made again for as long as the node runs.
//! - [`bus`]: soft state over core publish/subscribe; the same task drives the embedded one, without a link.
//! - [`keep`]: what JetStream keeps of it, and reading that back.
//! - [`kv`]: documents. [`leases`]: leases. [`outward`]: events.

pub(crate) mod bus;
pub(crate) mod keep;
pub(crate) mod kv;
pub(crate) mod leases;
pub(crate) mod link;
pub(crate) mod outward;

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::stream::{Config, LastRawMessageErrorKind, StorageType, Stream};
use async_nats::{Client, HeaderMap, header, jetstream};
use bytes::Bytes;

use crate::error::StoreError;

/// How long anything asked of a server may take.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Between two attempts at what failed.
pub(crate) const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Messages of one stream; the oldest go first.
const MOST_MESSAGES: i64 = 2_000_000;

/// A future that has an end.
pub(crate) async fn within<T, E: std::fmt::Display>(asked: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {ANSWER_WITHIN:?}")),
    }
}

/// A stream that holds the last message of each subject, for as long as each message says.
pub(crate) async fn last_of_each(
    client: &Client,
    name: String,
    subjects: String,
    replicas: usize,
) -> Result<Stream, String> {
    let config = Config {
        name,
        subjects: vec![subjects],
        max_messages_per_subject: 1,
        max_messages: MOST_MESSAGES,
        storage: StorageType::File,
        num_replicas: replicas,
        allow_message_ttl: true,
        // Only the leader answers: a follower may be behind, and what is read here decides.
        allow_direct: false,
        ..Config::default()
    };
    within(jetstream::new(client.clone()).get_or_create_stream(config)).await
}

/// Publishes if the last message of the subject is still the one of this sequence (0: there is none); the new sequence.
pub(crate) async fn publish_expecting(
    client: Client,
    subject: String,
    mut headers: HeaderMap,
    expected: u64,
    payload: Bytes,
) -> Result<u64, StoreError> {
    headers.insert(header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
    let context = jetstream::new(client);
    let publishing = async {
        let acknowledged = context.publish_with_headers(subject, headers, payload).await?;
        acknowledged.await
    };
    match tokio::time::timeout(ANSWER_WITHIN, publishing).await {
        Ok(Ok(acknowledged)) => Ok(acknowledged.sequence),
        Ok(Err(error)) if is_conflict(&error) => Err(StoreError::Conflict),
        Ok(Err(error)) => Err(StoreError::Unavailable(error.to_string())),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {ANSWER_WITHIN:?}"))),
    }
}

/// A server with replicas tells of a conflict with what is still on its way by another code, which the client does not know
/// as one.
fn is_conflict(error: &PublishError) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<jetstream::Error>());
    error.kind() == PublishErrorKind::WrongLastSequence
        || source.is_some_and(|error| error.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT)
}

/// The last message of a subject, as the leader knows it.
pub(crate) async fn last_message(
    stream: &Stream,
    subject: &str,
) -> Result<Option<jetstream::message::StreamMessage>, StoreError> {
    match tokio::time::timeout(ANSWER_WITHIN, stream.get_last_raw_message_by_subject(subject)).await {
        Ok(Ok(message)) => Ok(Some(message)),
        Ok(Err(error)) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
        Ok(Err(error)) => Err(StoreError::Unavailable(error.to_string())),
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {ANSWER_WITHIN:?}"))),
    }
}
