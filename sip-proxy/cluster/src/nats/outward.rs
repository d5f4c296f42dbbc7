//! Events on their way out: in order, each at most once, and only while there is a connection.

use std::sync::Arc;
use std::time::Duration;

use super::link::{Link, up};
use crate::events::Waiting;
use crate::health::Gauges;

/// Longest wait for room in the client's queue; then the event is tried again over the next connection.
const SEND_WITHIN: Duration = Duration::from_secs(2);

/// Publishes what waits. `prefix`: `ferric.CLUSTER.events.`
pub(crate) async fn run(mut waiting: Waiting, mut link: Link, prefix: String, gauges: Arc<Gauges>) {
    while let Some((kind, payload)) = waiting.recv().await {
        loop {
            let Some(client) = up(&mut link).await else { return };
            let publishing = client.publish(format!("{prefix}{}", kind.subject()), payload.clone());
            match tokio::time::timeout(SEND_WITHIN, publishing).await {
                Ok(Ok(())) => {
                    gauges.events.add(1);
                    break;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "an event cannot be published");
                    gauges.events_dropped.add(1);
                    break;
                }
                Err(_) => {}
            }
        }
    }
}
