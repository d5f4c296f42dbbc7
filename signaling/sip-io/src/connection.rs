//! How stream connections come to be: accepted and opened, plain and under TLS.
//!
//! A connection that is opened is in the table from the first message on, so all that
//! is sent to the peer meanwhile waits for the same one. When it cannot be had, every
//! flow with a message in the queue hears of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ferric_sip::flow::{Destination, Flow, Transport};
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::limits::{IoLimits, count};
use crate::sockets::Shared;
use crate::stream::{Left, serve};
use crate::table::{Origin, Queue};

/// A listener out of file handles tries again after this.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn accept(shared: Arc<Shared>, listener: TcpListener, tls: Option<Arc<ServerConfig>>) {
    let transport = if tls.is_some() { Transport::Tls } else { Transport::Tcp };
    let acceptor = tls.map(TlsAcceptor::from);
    while !shared.inbound.is_closed() {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(local) = stream.local_addr() else { continue };
        let wanted = Flow { transport, local, remote, connection: 0 };
        let Some((flow, mut queue)) = shared.table().admit(&shared.limits, wanted, Origin::Accepted) else {
            count(&shared.stats.connections_refused);
            continue;
        };
        let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
        tokio::spawn(async move {
            prepare(&stream, &shared.limits);
            let left = match acceptor {
                None => serve(&shared, flow, stream, &mut queue, false).await,
                Some(acceptor) => match timeout(shared.limits.patience, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => serve(&shared, flow, stream, &mut queue, false).await,
                    Ok(Err(error)) => {
                        count(&shared.stats.handshakes_failed);
                        tracing::info!(source = %remote.ip(), %error, "TLS handshake failed");
                        Left::default()
                    }
                    Err(_) => {
                        count(&shared.stats.handshakes_failed);
                        tracing::info!(source = %remote.ip(), "TLS handshake took too long");
                        Left::default()
                    }
                },
            };
            shared.finish(flow.into(), queue, left).await;
        });
    }
}

/// Opens a connection that is in the table already.
pub(crate) fn open(shared: Arc<Shared>, to: Destination, mut queue: Queue) {
    tokio::spawn(async move {
        let flow = to.flow;
        let connected = timeout(shared.limits.connect_timeout, connect(&shared, flow, to.server_name.as_deref()));
        let left = match connected.await.unwrap_or_else(|_| Err("it took too long".into())) {
            Ok(Connected::Tcp(stream)) => serve(&shared, flow, stream, &mut queue, true).await,
            Ok(Connected::Tls(stream)) => serve(&shared, flow, stream, &mut queue, true).await,
            Err(problem) => {
                count(&shared.stats.connects_failed);
                tracing::info!(transport = %flow.transport, remote = %flow.remote, problem, "no connection can be opened");
                Left::default()
            }
        };
        shared.finish(to, queue, left).await;
    });
}

enum Connected {
    Tcp(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

async fn connect(shared: &Shared, flow: Flow, name: Option<&str>) -> Result<Connected, String> {
    let stream = connect_tcp(flow).await.map_err(|error| error.to_string())?;
    prepare(&stream, &shared.limits);
    if flow.transport != Transport::Tls {
        return Ok(Connected::Tcp(stream));
    }
    let tls = shared.client_tls.as_ref().ok_or("no authority is configured that could vouch for a TLS peer")?;
    let config = tls.config().await?;
    let name = match name {
        Some(name) => ServerName::try_from(name.to_owned()).map_err(|_| format!("\"{name}\" is no host name"))?,
        None => ServerName::IpAddress(flow.remote.ip().into()),
    };
    let connected = TlsConnector::from(config).connect(name, stream).await;
    let stream = connected.map_err(|error| {
        count(&shared.stats.handshakes_failed);
        error.to_string()
    })?;
    Ok(Connected::Tls(Box::new(stream)))
}

/// From the address of the listener, where that one is definite: peers know us by it.
async fn connect_tcp(flow: Flow) -> io::Result<TcpStream> {
    let (local, remote) = (flow.local.ip(), flow.remote);
    let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    let fits = local.is_ipv4() == remote.is_ipv4() && local.is_loopback() == remote.ip().is_loopback();
    if fits && !local.is_unspecified() {
        // A port is chosen at the connect, so that one is free as long as the pair of addresses is new.
        let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true);
        socket.bind((local, 0).into())?;
    }
    socket.connect(remote).await
}

fn prepare(stream: &TcpStream, limits: &IoLimits) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let keep_alive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    let _ = socket.set_tcp_keepalive(&keep_alive);
    // A peer that vanished is found by what it does not acknowledge, not a quarter of an hour later.
    let _ = socket.set_tcp_user_timeout(Some(limits.patience));
}
