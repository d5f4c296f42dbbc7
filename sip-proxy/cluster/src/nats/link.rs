//! The connection to NATS.
//!
//! The client reconnects by itself; where it gives up (a server refuses the credentials) a new one is made, with a pause. The
//! servers are tried in the order in which they are named: the nearest first. Only those are used, whatever a server tells of
//! others.

use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use tokio::sync::{mpsc, watch};
use url::Url;

use crate::config::{NatsConfig, without_password};
use crate::health::{Connection, Gauges};

/// How long one server may take to answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// A connection on which nothing comes back is given up after two of these.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Between two looks at the connection, if nobody tells of a change.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two attempts at a server that refuses.
const REFUSED_AGAIN: Duration = Duration::from_secs(5);
/// Messages that wait for one subscription; what finds it full is dropped by the client, and told.
const MOST_WAITING: usize = 8192;

/// The connection as the tasks see it: there, or not.
pub(crate) type Link = watch::Receiver<Option<Client>>;

/// Waits until there is a connection.
pub(crate) async fn up(link: &mut Link) -> Option<Client> {
    let client = link.wait_for(Option::is_some).await.ok()?;
    client.clone()
}

/// Waits until the connection that [`up`] gave is gone, though there be another already.
pub(crate) async fn down(mut link: Link) {
    if link.changed().await.is_err() {
        // Nobody will ever tell: whoever waits is ended together with this.
        std::future::pending().await
    }
}

/// Keeps the connection until it is dropped.
pub(crate) async fn run(config: NatsConfig, name: String, link: watch::Sender<Option<Client>>, gauges: Arc<Gauges>) {
    let mut failures = 0u32;
    loop {
        let (told, mut events) = mpsc::channel(64);
        match connect(&config, &name, told).await {
            Ok(client) => {
                failures = 0;
                hold(&client, &mut events, &link, &gauges).await;
                link.send_replace(None);
            }
            Err(problem) => {
                let pause = match &problem {
                    Connection::Refused(_) => REFUSED_AGAIN,
                    Connection::Embedded | Connection::Up | Connection::Away(_) => back_off(failures),
                };
                gauges.set_connection(problem);
                failures = failures.saturating_add(1);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// From a fifth of a second to four, give or take a quarter.
fn back_off(attempt: u32) -> Duration {
    let pause = Duration::from_millis(200) * 2u32.pow(attempt.min(20)).min(20);
    pause.mul_f64(rand::random_range(0.75..1.25))
}

async fn connect(config: &NatsConfig, name: &str, told: mpsc::Sender<Event>) -> Result<Client, Connection> {
    let mut options = ConnectOptions::new()
        .name(name)
        .connection_timeout(CONNECT_WITHIN)
        .ping_interval(PING_EVERY)
        .subscription_capacity(MOST_WAITING)
        .ignore_discovered_servers()
        .retain_servers_order()
        .reconnect_delay_callback(|attempts| back_off(u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX)))
        .event_callback(move |event| {
            // A full queue means that a look at the connection is due anyway.
            let _ = told.try_send(event);
            std::future::ready(())
        });
    if let Some(tls) = &config.tls {
        options = options.tls_client_config((**tls).clone());
    }
    if let Some(url) = config.servers.iter().filter_map(|server| Url::parse(server).ok()).find(has_user) {
        let user = decoded(url.username());
        options = match url.password() {
            Some(password) => options.user_and_password(user, decoded(password)),
            None => options.token(user),
        };
    }
    let mut servers = Vec::new();
    for server in &config.servers {
        let shown = without_password(server);
        servers.push(shown.parse::<ServerAddr>().map_err(|error| Connection::Away(format!("{shown}: {error}")))?);
    }
    let shown: Vec<String> = config.servers.iter().map(|server| without_password(server)).collect();
    let shown = shown.join(", ");
    options.connect(servers).await.map_err(|error| match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            Connection::Refused(format!("the user, password or token is not the one that {shown} knows"))
        }
        ConnectErrorKind::Tls => Connection::Refused(format!("TLS with {shown} fails: {error}")),
        ConnectErrorKind::Io if let Some(cause) = tls_cause(&error) => {
            Connection::Refused(format!("TLS with {shown} fails: {cause}"))
        }
        ConnectErrorKind::ServerParse
        | ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => Connection::Away(format!("{shown}: {error}")),
    })
}

/// A handshake that failed looks like any other error of a socket: what is behind it tells.
fn tls_cause(error: &async_nats::ConnectError) -> Option<String> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let within = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = within.and_then(|within| within.downcast_ref::<rustls::Error>());
        if let Some(tls) = tls.or_else(|| cause.downcast_ref::<rustls::Error>()) {
            return Some(tls.to_string());
        }
        source = cause.source();
    }
    None
}

/// Tells the tasks how the connection is, until the client gives it up.
async fn hold(
    client: &Client,
    events: &mut mpsc::Receiver<Event>,
    link: &watch::Sender<Option<Client>>,
    gauges: &Gauges,
) {
    let mut was_up = false;
    loop {
        let is_up = client.connection_state() == State::Connected;
        if is_up != was_up {
            was_up = is_up;
            link.send_replace(is_up.then(|| client.clone()));
            if is_up {
                gauges.connects.add(1);
                gauges.set_connection(Connection::Up);
            } else {
                gauges.set_connection(Connection::Away("the connection was lost".to_owned()));
            }
        }
        let event = tokio::time::timeout(LOOK_EVERY, events.recv()).await;
        match event {
            Ok(Some(Event::Closed) | None) => return,
            Ok(Some(Event::SlowConsumer(_))) => gauges.slow.add(1),
            Ok(Some(Event::ServerError(error))) => tracing::warn!(%error, "NATS: a server complains"),
            Ok(Some(Event::ClientError(error))) => tracing::warn!(%error, "NATS: the client complains"),
            // Seen anew on the way round.
            Ok(Some(Event::Disconnected)) => {
                was_up = false;
                link.send_replace(None);
                gauges.set_connection(Connection::Away("the connection was lost".to_owned()));
            }
            Ok(Some(Event::Connected | Event::LameDuckMode | Event::Draining)) | Err(_) => {}
        }
    }
}

fn has_user(url: &Url) -> bool {
    !url.username().is_empty()
}

/// A part of a URL without its percent signs.
fn decoded(part: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = part.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        for (attempt, least, most) in [(0, 150, 250), (3, 1200, 2000), (60, 3000, 5000)] {
            let pause = back_off(attempt).as_millis();
            assert!((least..=most).contains(&pause), "{attempt}: {pause}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_decoded() {
        assert_eq!(decoded("p%40ss%2Fw%C3%B6rd"), "p@ss/wörd");
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }
}
