//! One recording session and what it remembers.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use ferric_sip::dialog::{AcceptedInvite, Dialog, SessionTimer};
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::sdp::{Origin, Sdp};
use ferric_sip::siprec::Metadata;
use ferric_sip::transaction::ServerTransactionId;
use ferric_sip::uri::Uri;

use crate::port::{AssignedStream, MetadataDocument, ParticipantInfo, SessionInfo, StreamSpec};

/// Metadata documents kept with a session; later ones replace the last.
const MAX_DOCUMENTS: usize = 64;
/// Bytes of metadata kept with a session.
const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Warnings kept with a session.
const MAX_WARNINGS: usize = 32;

/// Header fields by which other systems know the call.
const CORRELATORS: [&str; 14] = [
    "Session-ID",
    "User-to-User",
    "Cisco-Guid",
    "Cisco-Gucid",
    "X-Cisco-Recording-Participant",
    "X-Genesys-CallUUID",
    "X-Acme-Call-ID",
    "X-Acme-Ucid",
    "X-UCID",
    "X-Avaya-UCID",
    "X-Call-ID",
    "X-Session-ID",
    "P-Charging-Vector",
    "Global-Session-ID",
];

/// A request whose answer waits for capture.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) transaction: ServerTransactionId,
    pub(crate) request: Message,
    /// The peer's offer; `None` when the answer is an offer of ours.
    pub(crate) offer: Option<Sdp>,
}

/// What the session is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The first INVITE waits for capture.
    Assigning,
    /// It is recorded.
    Recording,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) state: State,
    pub(crate) dialog: Dialog,
    /// The last flow that the peer used.
    pub(crate) flow: Flow,
    pub(crate) pending: Option<Pending>,
    pub(crate) accepted: Option<AcceptedInvite>,
    /// Our offer in a 200 waits for the answer in the ACK.
    pub(crate) awaits_answer: bool,
    /// A request of our own is under way.
    pub(crate) own_request: bool,
    pub(crate) timer: Option<SessionTimer>,
    pub(crate) origin: Origin,
    pub(crate) streams: Vec<StreamSpec>,
    pub(crate) assigned: Vec<AssignedStream>,
    /// The description that we sent last.
    pub(crate) last_sdp: String,
    pub(crate) info: SessionInfo,
    pub(crate) metadata: Metadata,
    pub(crate) peer_allows_update: bool,
    /// No later than this.
    pub(crate) ends_at: Instant,
}

impl Session {
    /// Takes metadata documents; returns what was wrong with them.
    pub(crate) fn take_metadata(&mut self, documents: &[Bytes], received_unix_ms: u64) -> Vec<String> {
        let mut problems = Vec::new();
        for body in documents {
            let (metadata, problem) = Metadata::parse(body);
            problems.extend(problem.map(|problem| problem.to_string()));
            self.metadata.apply(metadata);
            let kept: usize = self.info.documents.iter().map(|document| document.body.len()).sum();
            if self.info.documents.len() >= MAX_DOCUMENTS || kept + body.len() > MAX_DOCUMENT_BYTES {
                self.info.documents.pop();
            }
            self.info.documents.push(MetadataDocument { received_unix_ms, body: body.clone() });
        }
        if !documents.is_empty() {
            self.info.participants = participants(&self.metadata);
        }
        for problem in &problems {
            self.warn(problem);
        }
        problems
    }

    pub(crate) fn warn(&mut self, text: &str) {
        if self.info.warnings.len() < MAX_WARNINGS && !self.info.warnings.iter().any(|have| have == text) {
            self.info.warnings.push(text.to_owned());
        }
    }

    /// True while every stream is on hold.
    pub(crate) fn is_on_hold(&self) -> bool {
        !self.streams.iter().any(|stream| stream.active)
    }

    /// The path for a request of ours: the peer's Contact or first route when it
    /// is an address, over the connection that exists.
    pub(crate) fn request_flow(&self) -> Flow {
        let hop = self.dialog.next_hop();
        let uri = hop.trim().trim_start_matches('<').split('>').next().unwrap_or("");
        let address = Uri::parse(uri).ok().and_then(|uri| Some(SocketAddr::new(uri.address()?, port_of(&uri, self.flow.transport))));
        let remote = address.filter(|remote| remote.is_ipv4() == self.flow.local.is_ipv4()).unwrap_or(self.flow.remote);
        Flow { remote, ..self.flow }
    }
}

fn port_of(uri: &Uri, transport: Transport) -> u16 {
    uri.port.unwrap_or(if transport == Transport::Tls { 5061 } else { 5060 })
}

/// What the INVITE itself says of the call.
pub(crate) fn info_of(request: &Message, tenant: &str, source: SocketAddr) -> SessionInfo {
    let text = |name: &str| request.header(name).map(std::borrow::Cow::into_owned);
    let mut correlators = Vec::new();
    for name in CORRELATORS {
        for value in request.headers(name).take(4) {
            correlators.push((name.to_owned(), value.chars().take(1_024).collect()));
        }
    }
    SessionInfo {
        tenant: tenant.to_owned(),
        sip_call_id: request.call_id().unwrap_or_default().into_owned(),
        from: text("From").unwrap_or_default(),
        to: text("To").unwrap_or_default(),
        user_agent: text("User-Agent").or_else(|| text("Server")),
        source,
        correlators,
        participants: Vec::new(),
        documents: Vec::new(),
        warnings: Vec::new(),
    }
}

/// The parties, each with the label of the stream that it sends.
fn participants(metadata: &Metadata) -> Vec<ParticipantInfo> {
    metadata
        .participants
        .iter()
        .map(|participant| {
            let streams = metadata.stream_associations.iter().filter(|a| a.participant == participant.id);
            let sends: Vec<&String> = streams.flat_map(|a| &a.sends).collect();
            let label = metadata.streams.iter().find(|stream| sends.contains(&&stream.id)).and_then(|stream| stream.label.clone());
            let session = metadata.session_associations.iter().find(|a| a.participant == participant.id);
            ParticipantInfo {
                id: participant.id.clone(),
                name: participant.name.clone(),
                aor: participant.aors.first().cloned(),
                label,
                joined: session.and_then(|a| a.from.clone()),
                left: session.and_then(|a| a.to.clone()),
            }
        })
        .collect()
}

/// The address for `o=` before capture has named one.
pub(crate) fn first_origin(id: u64, address: IpAddr) -> Origin {
    Origin { id, version: 0, address }
}
