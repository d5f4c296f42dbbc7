//! Stream connections: accepted and opened, plain and under TLS.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::framing::{Frame, FrameError, StreamFramer};
use ferric_sip::message::Message;
use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::sockets::{Inbound, InboundKind, Shared, invite_of};

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
        let Some((flow, queue)) = shared.admit(transport, local, remote) else { continue };
        let (shared, acceptor) = (Arc::clone(&shared), acceptor.clone());
        tokio::spawn(async move {
            prepare(&stream);
            match acceptor {
                None => serve(&shared, flow, stream, queue).await,
                Some(acceptor) => match timeout(shared.limits.patience, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => serve(&shared, flow, stream, queue).await,
                    Ok(Err(error)) => {
                        shared.stats.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                        tracing::info!(source = %remote.ip(), %error, "TLS handshake failed");
                    }
                    Err(_) => {
                        shared.stats.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                        tracing::info!(source = %remote.ip(), "TLS handshake took too long");
                    }
                },
            }
            shared.dismiss(&flow);
        });
    }
}

/// Opens a connection for a message to a peer that has none.
pub(crate) fn open(shared: Arc<Shared>, wanted: Flow, first: Bytes) {
    let Some((flow, queue)) = shared.admit(wanted.transport, wanted.local, wanted.remote) else {
        shared.report(&wanted);
        return;
    };
    tokio::spawn(async move {
        if !connect(&shared, flow, first, queue).await {
            shared.report(&wanted);
        }
        shared.dismiss(&flow);
    });
}

async fn connect(shared: &Arc<Shared>, flow: Flow, first: Bytes, queue: mpsc::Receiver<Bytes>) -> bool {
    let patience = shared.limits.patience;
    let Ok(Ok(mut stream)) = timeout(patience, TcpStream::connect(flow.remote)).await else { return false };
    prepare(&stream);
    if flow.transport == Transport::Tcp {
        if stream.write_all(&first).await.is_err() {
            return false;
        }
        serve(shared, flow, stream, queue).await;
        return true;
    }
    let Some(config) = &shared.client_tls else { return false };
    let name = ServerName::IpAddress(flow.remote.ip().into());
    let connector = TlsConnector::from(Arc::clone(config));
    let Ok(Ok(mut stream)) = timeout(patience, connector.connect(name, stream)).await else { return false };
    if stream.write_all(&first).await.is_err() {
        return false;
    }
    serve(shared, flow, stream, queue).await;
    true
}

fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let keep_alive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15));
    let _ = socket.set_tcp_keepalive(&keep_alive);
}

/// Runs a connection until either side ends it.
async fn serve<S: AsyncRead + AsyncWrite>(shared: &Arc<Shared>, flow: Flow, stream: S, mut queue: mpsc::Receiver<Bytes>) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (pong, mut pongs) = mpsc::channel::<()>(4);
    let write = async {
        loop {
            let bytes = tokio::select! {
                Some(bytes) = queue.recv() => bytes,
                Some(()) = pongs.recv() => Bytes::from_static(b"\r\n"),
                else => break,
            };
            // A peer that does not read is given up.
            if !matches!(timeout(shared.limits.patience, writer.write_all(&bytes)).await, Ok(Ok(()))) {
                shared.report(&flow);
                break;
            }
            let _ = writer.flush().await;
        }
    };
    let read = async {
        let mut framer = StreamFramer::new(shared.limits.max_message);
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let wait = if framer.is_midway() { shared.limits.patience } else { shared.limits.idle };
            let Ok(Ok(length)) = timeout(wait, reader.read(&mut buffer)).await else { break };
            if length == 0 {
                break;
            }
            framer.push(buffer.get(..length).unwrap_or(&[]));
            if !take_frames(shared, flow, &mut framer, &pong).await {
                break;
            }
        }
    };
    tokio::pin!(write);
    tokio::select! {
        () = read => {
            // What is queued, an answer to a malformed message above all, still leaves.
            let _ = timeout(Duration::from_millis(200), &mut write).await;
        }
        () = &mut write => {}
    }
}

/// Hands whole messages on; false when the connection must be closed.
async fn take_frames(shared: &Arc<Shared>, flow: Flow, framer: &mut StreamFramer, pong: &mpsc::Sender<()>) -> bool {
    loop {
        match framer.next_frame() {
            Ok(Some(Frame::Message(bytes))) => {
                if !shared.take(flow, Instant::now(), bytes).await {
                    return false;
                }
            }
            Ok(Some(Frame::Ping)) => {
                let _ = pong.try_send(());
            }
            Ok(Some(Frame::Pong)) => {}
            Ok(None) => {
                framer.take_pong();
                return true;
            }
            Err(error) => {
                let kind = refuse(shared, &flow, &error);
                let _ = shared.inbound.send(Inbound { flow, at: Instant::now(), kind }).await;
                return false;
            }
        }
    }
}

/// Answers a stream that cannot be cut into messages.
fn refuse(shared: &Arc<Shared>, flow: &Flow, error: &FrameError) -> InboundKind {
    let (status, header) = match error {
        FrameError::HeaderTooLong { header, .. } => (513, header),
        FrameError::NoLength { header } => (400, header),
        FrameError::TooLong { header, .. } => (513, header),
    };
    let readable = match Message::parse(header.clone()) {
        Ok(request) => Some(request),
        Err(broken) => broken.into_partial(),
    };
    let request = readable.filter(|request| request.is_request() && request.header("Via").is_some());
    let (mut answered, mut invite) = (None, None);
    if let Some(request) = request {
        let mut answer = Message::response(&request, status, Some(&error.to_string()));
        invite = invite_of(&answer);
        answer.set_to_tag("malformed");
        shared.send(flow, answer.to_bytes());
        answered = Some(status);
    }
    InboundKind::Malformed { error: error.to_string(), answered, invite }
}
