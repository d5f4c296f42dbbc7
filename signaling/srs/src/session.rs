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

use crate::parties;
use crate::port::{AssignedStream, MetadataDocument, SessionInfo, StreamSpec};

/// Metadata documents kept with a session; later ones replace the last.
const MAX_DOCUMENTS: usize = 64;
/// Bytes of metadata kept with a session.
const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Warnings kept with a session.
const MAX_WARNINGS: usize = 32;

/// Values that tie a call to other systems kept with a session, and the longest of them in characters.
const MAX_CORRELATORS: usize = 64;
const MAX_CORRELATOR_CHARS: usize = 1_024;

/// Header fields by which other systems know the call, beside every `X-` field.
const CORRELATORS: [&str; 8] = [
    "Session-ID",
    "User-to-User",
    "Cisco-Guid",
    "Cisco-Gucid",
    "P-Asserted-Identity",
    "Remote-Party-ID",
    "P-Charging-Vector",
    "Global-Session-ID",
];

/// Ids that makers put into their metadata; numbers and names of parties are not among them.
const METADATA_IDS: [&str; 7] = ["exttrackingid", "callid", "avayaucid", "ucid", "genesysuuid", "guid", "x-refci"];

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
    /// CSeq number of the first INVITE.
    pub(crate) invite_cseq: u32,
    /// The last flow that the peer used.
    pub(crate) flow: Flow,
    pub(crate) pending: Option<Pending>,
    pub(crate) accepted: Option<AcceptedInvite>,
    /// Our offer in a 200 waits for the answer in the ACK.
    pub(crate) awaits_answer: bool,
    /// A re-INVITE of our own is under way: an offer of the peer's would cross it.
    pub(crate) own_offer: bool,
    /// An OPTIONS asks whether the peer is still there.
    pub(crate) probing: bool,
    pub(crate) timer: Option<SessionTimer>,
    pub(crate) origin: Origin,
    /// As asked of capture last.
    pub(crate) streams: Vec<StreamSpec>,
    /// What `streams` goes back to when the change that is under way is refused or cancelled.
    pub(crate) before: Option<Vec<StreamSpec>>,
    /// Commands to capture that it has not answered yet.
    pub(crate) unanswered: u32,
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
            let names_nobody = metadata.participants.is_empty() && metadata.streams.is_empty() && !metadata.partial;
            if problem.is_none() && names_nobody && metadata.session_associations.is_empty() {
                problems.push("recording metadata: it names no participants and no streams".to_owned());
            }
            problems.extend(problem.map(|problem| problem.to_string()));
            self.metadata.apply(metadata);
            let kept: usize = self.info.documents.iter().map(|document| document.body.len()).sum();
            if self.info.documents.len() >= MAX_DOCUMENTS || kept + body.len() > MAX_DOCUMENT_BYTES {
                self.info.documents.pop();
            }
            // A copy: a slice would keep the whole message alive.
            let body = Bytes::copy_from_slice(body);
            self.info.documents.push(MetadataDocument { received_unix_ms, body });
        }
        for problem in &problems {
            self.warn(problem);
        }
        if !documents.is_empty() {
            self.update_parties(received_unix_ms);
            self.update_metadata_ids();
        }
        problems
    }

    /// Ties the parties to the streams anew; true if that changed anything.
    pub(crate) fn update_parties(&mut self, unix_ms: u64) -> bool {
        if self.metadata == Metadata::default() {
            return false;
        }
        let before = self.info.participants.clone();
        if let Some(warning) = parties::update(&mut self.info.participants, &self.metadata, &self.streams, unix_ms) {
            self.warn(warning);
        }
        self.info.participants != before
    }

    fn update_metadata_ids(&mut self) {
        self.info.correlators.retain(|(name, _)| !name.starts_with("metadata/"));
        let groups = self.metadata.groups.iter().map(|group| ("metadata/group".to_owned(), group.clone()));
        let sessions = self.metadata.sessions.iter().flat_map(|session| {
            let named = session.sip_session_ids.iter().map(|id| ("metadata/sip-session-id".to_owned(), id.clone()));
            std::iter::once(("metadata/session".to_owned(), session.id.clone())).chain(named)
        });
        let of_makers = self.metadata.extensions.iter().filter(|(name, _)| METADATA_IDS.contains(&name.as_str()));
        let of_makers = of_makers.map(|(name, value)| (format!("metadata/{name}"), value.clone()));
        let room = MAX_CORRELATORS.saturating_sub(self.info.correlators.len());
        let ids: Vec<(String, String)> = groups.chain(sessions).chain(of_makers).filter(|(_, value)| !value.is_empty()).take(room).collect();
        self.info.correlators.extend(ids.into_iter().map(|(name, value)| (name, value.chars().take(MAX_CORRELATOR_CHARS).collect())));
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
pub(crate) fn info_of(request: &Message, tenant: &str, source: SocketAddr, unix_ms: u64) -> SessionInfo {
    let text = |name: &str| request.header(name).map(std::borrow::Cow::into_owned);
    let mut correlators = vec![("Request-URI".to_owned(), request.request_uri().unwrap_or_default().into_owned())];
    let mut seen: Vec<String> = Vec::new();
    for name in request.header_names() {
        let lower = name.to_ascii_lowercase();
        let wanted = lower.starts_with("x-") || CORRELATORS.iter().any(|known| known.eq_ignore_ascii_case(&name));
        if wanted && !seen.contains(&lower) {
            correlators.extend(request.headers(&name).take(8).map(|value| (name.clone().into_owned(), value.into_owned())));
            seen.push(lower);
        }
    }
    correlators.truncate(MAX_CORRELATORS);
    for (_, value) in &mut correlators {
        *value = value.chars().take(MAX_CORRELATOR_CHARS).collect();
    }
    SessionInfo {
        tenant: tenant.to_owned(),
        sip_call_id: request.call_id().unwrap_or_default().into_owned(),
        from: text("From").unwrap_or_default(),
        to: text("To").unwrap_or_default(),
        user_agent: text("User-Agent").or_else(|| text("Server")),
        source,
        correlators,
        participants: parties::from_headers(request, unix_ms),
        documents: Vec::new(),
        warnings: Vec::new(),
    }
}

/// The address for `o=` before capture has named one.
pub(crate) fn first_origin(id: u64, address: IpAddr) -> Origin {
    Origin { id, version: 0, address }
}
