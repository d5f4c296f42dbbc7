//! A fresh connection: TLS, then a hello each on the first stream (see [`ferric_membership::hello`]).

use std::net::SocketAddr;

use ferric_membership::hello::MAX_FRAME;
use ferric_membership::{CloseReason, ControlFrame, Hello, Identity, Refusal, RefusalKind, RefusedBy};
use quinn::{Connection, ConnectionError, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use rustls_pki_types::CertificateDer;

use crate::tls::{NODE_NAME, identity_of, no_identity, refusal_by_tls};

/// A connection on which both hellos were said.
pub(crate) struct Greeted {
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    pub(crate) certificate: Identity,
    pub(crate) hello: Hello,
}

/// A connection that came to nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The node of its certificate, if it got so far.
    pub(crate) certificate: Option<Identity>,
    /// Who ended it and why, if it was on purpose.
    pub(crate) reason: Option<(RefusedBy, CloseReason)>,
}

impl Failure {
    pub(crate) const SILENT: Self = Self { certificate: None, reason: None };

    fn of(error: &ConnectionError) -> Self {
        let by_tls = || {
            let (by_peer, refusal) = refusal_by_tls(error)?;
            Some((if by_peer { RefusedBy::Peer } else { RefusedBy::Us }, CloseReason::Refused(refusal)))
        };
        let reason = peer_reason(error).map(|reason| (RefusedBy::Peer, reason)).or_else(by_tls);
        Self { certificate: None, reason }
    }
}

/// What the peer said when it closed a connection.
pub(crate) fn peer_reason(error: &ConnectionError) -> Option<CloseReason> {
    if let ConnectionError::ApplicationClosed(close) = error {
        return CloseReason::from_wire(close.error_code.into_inner(), &String::from_utf8_lossy(&close.reason));
    }
    None
}

/// Closes a connection and says why.
pub(crate) fn close(connection: &Connection, reason: &CloseReason) {
    connection.close(VarInt::from_u32(reason.code()), reason.text().as_bytes());
}

/// Ends a connection on which the rules were broken. One that has ended keeps the reason with which it did.
pub(crate) fn break_off(connection: &Connection, problem: &str) {
    if connection.close_reason().is_none() {
        connection.close(VarInt::from_u32(0), problem.as_bytes());
    }
}

/// Dials an address.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    address: SocketAddr,
    hello: impl FnOnce() -> Hello,
) -> Result<Greeted, Failure> {
    let connecting = endpoint.connect(address, NODE_NAME).map_err(|_| Failure::SILENT)?;
    let connection = connecting.await.map_err(|error| Failure::of(&error))?;
    let certificate = certificate(&connection)?;
    let opened = connection.open_bi().await;
    let (mut send, mut receive) = opened.map_err(|error| Failure::of(&error))?;
    say(&connection, &mut send, hello()).await?;
    let hello = listen(&connection, &mut receive, &certificate).await?;
    Ok(Greeted { connection, send, receive, certificate, hello })
}

/// Answers a connection that comes in.
pub(crate) async fn answer(incoming: Incoming, hello: impl FnOnce() -> Hello) -> Result<Greeted, Failure> {
    let connecting = incoming.accept().map_err(|error| Failure::of(&error))?;
    let connection = connecting.await.map_err(|error| Failure::of(&error))?;
    let certificate = certificate(&connection)?;
    let accepted = connection.accept_bi().await;
    let (mut send, mut receive) = accepted.map_err(|error| Failure::of(&error))?;
    let theirs = listen(&connection, &mut receive, &certificate).await?;
    say(&connection, &mut send, hello()).await?;
    Ok(Greeted { connection, send, receive, certificate, hello: theirs })
}

/// Writes a frame of the control stream.
pub(crate) async fn write_frame(stream: &mut SendStream, frame: &ControlFrame) -> Result<(), quinn::WriteError> {
    let body = frame.encode();
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX); // books are bounded far below
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(&body).await
}

/// Reads a frame of the control stream; an error is a sentence, because all there is to do is to close.
pub(crate) async fn read_frame(stream: &mut RecvStream) -> Result<ControlFrame, String> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await.map_err(|error| error.to_string())?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(format!("a control frame of {length} bytes"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(|error| error.to_string())?;
    ControlFrame::decode(&body).map_err(|error| error.to_string())
}

fn certificate(connection: &Connection) -> Result<Identity, Failure> {
    let chain = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    chain.and_then(|chain| identity_of(&chain)).ok_or_else(|| refuse(connection, None, no_identity()))
}

async fn say(connection: &Connection, stream: &mut SendStream, hello: Hello) -> Result<(), Failure> {
    let frame = ControlFrame::Hello(Box::new(hello));
    write_frame(stream, &frame).await.map_err(|_| ended(connection))
}

async fn listen(connection: &Connection, stream: &mut RecvStream, from: &Identity) -> Result<Hello, Failure> {
    match read_frame(stream).await {
        Ok(ControlFrame::Hello(hello)) => Ok(*hello),
        Ok(_) => Err(refuse(connection, Some(from), bad_hello("the first frame is no hello"))),
        Err(_) if connection.close_reason().is_some() => Err(ended(connection)),
        Err(problem) => Err(refuse(connection, Some(from), bad_hello(&problem))),
    }
}

fn bad_hello(problem: &str) -> Refusal {
    Refusal::new(RefusalKind::BadHello, format!("the hello was not understood: {problem}"))
}

fn refuse(connection: &Connection, from: Option<&Identity>, refusal: Refusal) -> Failure {
    let reason = CloseReason::Refused(refusal);
    close(connection, &reason);
    Failure { certificate: from.cloned(), reason: Some((RefusedBy::Us, reason)) }
}

fn ended(connection: &Connection) -> Failure {
    connection.close_reason().map_or(Failure::SILENT, |error| Failure::of(&error))
}
