//! One dialog with an SRC, a recording session (RFC 7866), and what it remembers.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use bytes::Bytes;
use ferric_sip::dialog::{AcceptedInvite, Dialog, SessionTimer};
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use ferric_sip::sdp::{Origin, Sdp};
use ferric_sip::siprec::{METADATA_TYPE, Metadata};
use ferric_sip::transaction::ServerTransactionId;
use ferric_sip::uri::Uri;

use crate::event::InviteId;
use crate::maker::{self, Clues, Findings, Half};
use crate::parties;
use crate::port::{AssignedStream, MetadataDocument, ParticipantInfo, RecordingId, SessionInfo, StreamSpec};

/// One dialog, inside of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionKey(pub(crate) u64);

/// Metadata documents kept with a session; later ones replace the last.
const MAX_DOCUMENTS: usize = 64;
/// Bytes of metadata kept with a session.
const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// Bytes kept of an INVITE's header.
const MAX_HEAD_BYTES: usize = 16_384;
/// Warnings kept with a session.
const MAX_WARNINGS: usize = 32;

/// Values that tie a call to other systems kept with a session, and the longest of them in characters.
const MAX_CORRELATORS: usize = 64;
const MAX_CORRELATOR_CHARS: usize = 1_024;

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

/// What a change that came to nothing goes back to.
#[derive(Debug)]
pub(crate) struct Before {
    pub(crate) streams: Vec<StreamSpec>,
    /// Which of its m-lines each recording had.
    pub(crate) lines: Vec<(RecordingId, Vec<usize>)>,
    pub(crate) communication_sessions: Vec<(String, RecordingId)>,
}

/// A request of ours that changes or refreshes the session.
#[derive(Debug)]
pub(crate) enum Own {
    /// A refresh without a description.
    Refresh,
    /// A refresh by re-INVITE: it offers what stands.
    Offer,
    /// It offers other sockets.
    Move {
        /// The offer.
        sdp: String,
        origin: Origin,
        /// The sockets in it.
        told: Vec<AssignedStream>,
        /// It goes by UPDATE.
        by_update: bool,
    },
}

/// A dialog whose peer has to be told of other sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Moving {
    /// Nothing is to be done, or it is under way.
    #[default]
    Still,
    /// Our offer has its turn soon.
    Queued,
    /// The peer took no offer at that moment: again later.
    Later,
    /// The peer does not move (status code).
    Refused(u16),
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) state: State,
    /// The INVITE that began it, for the books.
    pub(crate) invite: InviteId,
    /// How often the dialog changed its node.
    pub(crate) epoch: u32,
    /// Attempts to tell the peer that its dialog is here now; `None`: it knows, or need not.
    pub(crate) announcing: Option<u32>,
    pub(crate) dialog: Dialog,
    /// CSeq number of the first INVITE.
    pub(crate) invite_cseq: u32,
    /// The last flow that the peer used.
    pub(crate) flow: Flow,
    pub(crate) pending: Option<Pending>,
    pub(crate) accepted: Option<AcceptedInvite>,
    /// Our offer in a 200 waits for the answer in the ACK.
    pub(crate) awaits_answer: bool,
    /// A re-INVITE or UPDATE of ours that the peer has not answered.
    pub(crate) own: Option<Own>,
    /// The sockets that the peer sends to, by m-line.
    pub(crate) told: Vec<AssignedStream>,
    /// How far it is when that has to change.
    pub(crate) moving: Moving,
    /// Offers that the peer put off, one after the other.
    pub(crate) put_off: u32,
    /// An OPTIONS asks whether the peer is still there.
    pub(crate) probing: bool,
    pub(crate) timer: Option<SessionTimer>,
    pub(crate) origin: Origin,
    /// By m-line, as planned last.
    pub(crate) streams: Vec<StreamSpec>,
    /// M-lines whose recording was stopped: they are refused from then on.
    pub(crate) stopped: Vec<usize>,
    /// Until capture has answered a change.
    pub(crate) before: Option<Before>,
    /// Answers of capture that the session waits for.
    pub(crate) waiting: u32,
    /// What it feeds, the main one first.
    pub(crate) recordings: Vec<RecordingId>,
    /// Communication sessions, by the SRC's id, and the recording of each.
    pub(crate) communication_sessions: Vec<(String, RecordingId)>,
    /// One end of a call whose other end has a dialog of its own.
    pub(crate) half: Option<Half>,
    /// The description that we sent last.
    pub(crate) last_sdp: String,
    pub(crate) info: SessionInfo,
    pub(crate) metadata: Metadata,
    pub(crate) peer_allows_update: bool,
    /// The peer does not take an offer in an UPDATE, whatever its Allow says.
    pub(crate) offers_by_invite: bool,
    /// RTP came: the peer has had our 200, whatever became of its ACK.
    pub(crate) heard: bool,
    /// The peer's Accept lists the request for a metadata snapshot.
    pub(crate) peer_gives_snapshots: bool,
    /// When a snapshot was asked for last, and how often.
    pub(crate) snapshots: (Option<Instant>, u32),
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
            self.info.documents.push(MetadataDocument { received_unix_ms, media_type: METADATA_TYPE.into(), body });
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

    /// What the header of a later request names: ids of other systems, and parties where no metadata name them.
    pub(crate) fn take_header(&mut self, request: &Message, unix_ms: u64) -> bool {
        let found = maker::read(&Clues::new(request, None));
        let mut learned = false;
        for (name, value) in header_ids(request, &found) {
            let pair = (name, value.chars().take(MAX_CORRELATOR_CHARS).collect::<String>());
            if self.info.correlators.len() < MAX_CORRELATORS && !self.info.correlators.contains(&pair) {
                self.info.correlators.push(pair);
                learned = true;
            }
        }
        if self.metadata != Metadata::default() || request.method() != Method::Invite {
            return learned;
        }
        let before = self.info.participants.clone();
        if !found.parties.is_empty() {
            parties::renew_from_header(&mut self.info.participants, &found.parties, unix_ms);
        }
        learned || self.info.participants != before
    }

    fn update_metadata_ids(&mut self) {
        self.info.correlators.retain(|(name, _)| !name.starts_with("metadata/"));
        let groups = self.metadata.groups.iter().map(|group| ("metadata/group".to_owned(), group.clone()));
        let sessions = self.metadata.sessions.iter().flat_map(|session| {
            let named = session.sip_session_ids.iter().map(|id| ("metadata/sip-session-id".to_owned(), id.clone()));
            std::iter::once(("metadata/session".to_owned(), session.id.clone())).chain(named)
        });
        let of_makers = self.metadata.extensions.iter().filter(|(name, _)| maker::is_metadata_id(name));
        let of_makers = of_makers.map(|(name, value)| (format!("metadata/{name}"), value.clone()));
        let room = MAX_CORRELATORS.saturating_sub(self.info.correlators.len());
        let ids: Vec<(String, String)> =
            groups.chain(sessions).chain(of_makers).filter(|(_, value)| !value.is_empty()).take(room).collect();
        self.info
            .correlators
            .extend(ids.into_iter().map(|(name, value)| (name, value.chars().take(MAX_CORRELATOR_CHARS).collect())));
    }

    /// True when a party belongs to the recording that has `lines` of this dialog.
    pub(crate) fn takes_part(&self, party: &ParticipantInfo, recording: RecordingId, lines: &[usize]) -> bool {
        if let Some(line) = party.stream {
            return lines.contains(&line);
        }
        let of = |session: &String| {
            self.communication_sessions.iter().find(|(known, _)| known == session).map(|(_, id)| *id)
        };
        party.communication_session.as_ref().and_then(of).is_none_or(|id| id == recording)
    }

    pub(crate) fn warn(&mut self, text: &str) {
        if self.info.warnings.len() < MAX_WARNINGS && !self.info.warnings.iter().any(|have| have == text) {
            self.info.warnings.push(text.to_owned());
        }
    }

    /// True while an offer of ours would cross something.
    pub(crate) fn is_busy(&self) -> bool {
        self.state != State::Recording
            || self.pending.is_some()
            || self.waiting > 0
            || self.own.is_some()
            || self.awaits_answer
            || self.accepted.is_some()
    }

    /// True while an offer of ours is under way.
    pub(crate) fn offers(&self) -> bool {
        matches!(self.own, Some(Own::Offer | Own::Move { .. }))
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
        let address = Uri::parse(uri)
            .ok()
            .and_then(|uri| Some(SocketAddr::new(uri.address()?, port_of(&uri, self.flow.transport))));
        let remote = address.filter(|remote| remote.is_ipv4() == self.flow.local.is_ipv4()).unwrap_or(self.flow.remote);
        Flow { remote, ..self.flow }
    }
}

pub(crate) fn port_of(uri: &Uri, transport: Transport) -> u16 {
    uri.port.unwrap_or(if transport == Transport::Tls { 5061 } else { 5060 })
}

/// What the INVITE itself says of the call, and the half of a call that it may be.
pub(crate) fn info_of(
    request: &Message,
    metadata: Option<&[u8]>,
    tenant: &str,
    source: SocketAddr,
    unix_ms: u64,
) -> (SessionInfo, Option<Half>) {
    let text = |name: &str| request.header(name).map(std::borrow::Cow::into_owned);
    let found = maker::read(&Clues::new(request, metadata));
    let mut correlators = vec![("Request-URI".to_owned(), request.request_uri().unwrap_or_default().into_owned())];
    correlators.extend(header_ids(request, &found));
    correlators.truncate(MAX_CORRELATORS);
    for (_, value) in &mut correlators {
        *value = value.chars().take(MAX_CORRELATOR_CHARS).collect();
    }
    let info = SessionInfo {
        tenant: tenant.to_owned(),
        sip_call_id: request.call_id().unwrap_or_default().into_owned(),
        from: text("From").unwrap_or_default(),
        to: text("To").unwrap_or_default(),
        user_agent: text("User-Agent").or_else(|| text("Server")),
        source,
        maker: found.maker.map(Into::into),
        source_kind: if is_siprec(request, metadata) { "siprec" } else { found.kind.unwrap_or("plain") }.into(),
        related: Vec::new(),
        correlators,
        participants: parties::from_header(&found.parties, unix_ms),
        documents: vec![MetadataDocument {
            received_unix_ms: unix_ms,
            media_type: "message/sip".into(),
            body: head_of(request),
        }],
        warnings: Vec::new(),
    };
    (info, found.half)
}

/// Ids of other systems in a header: fields as they came, and what makers hide in them.
fn header_ids(request: &Message, found: &Findings) -> Vec<(String, String)> {
    let mut ids: Vec<(String, String)> = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for name in request.header_names() {
        let lower = name.to_ascii_lowercase();
        if maker::is_correlator(&name) && !seen.contains(&lower) {
            ids.extend(request.headers(&name).take(8).map(|value| (name.clone().into_owned(), value.into_owned())));
            seen.push(lower);
        }
    }
    for pair in &found.ids {
        if !ids.contains(pair) {
            ids.push(pair.clone());
        }
    }
    ids
}

/// True for a request that a session recording client sends: by any mark of one, or by metadata in its body.
pub fn asks_for_recording(request: &Message) -> bool {
    // A recorder's client registers with the marks of one in its Contact.
    if request.method() == Method::Register {
        return false;
    }
    let has_metadata = || {
        request.content_type().is_some_and(|content| {
            let body = request.body();
            let mentions =
                || body.windows(METADATA_TYPE.len()).any(|part| part.eq_ignore_ascii_case(METADATA_TYPE.as_bytes()));
            content.essence == METADATA_TYPE || (content.essence.starts_with("multipart/") && mentions())
        })
    };
    is_siprec(request, None) || has_metadata()
}

/// Any one mark will do: a third of the field's clients leave out each of them.
fn is_siprec(request: &Message, metadata: Option<&[u8]>) -> bool {
    let requires = |name: &str| request.values(name).iter().any(|tag| tag.trim().eq_ignore_ascii_case("siprec"));
    let contact = request.header("Contact").unwrap_or_default().to_ascii_lowercase();
    let marked = [";src", "+sip.src", "+sip-src"].iter().any(|mark| contact.contains(mark));
    metadata.is_some() || requires("Require") || requires("Proxy-Require") || marked
}

/// The header as it came; the body is left out, for it may hold keys.
fn head_of(request: &Message) -> Bytes {
    let bytes = request.to_bytes();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    Bytes::copy_from_slice(bytes.get(..end.min(MAX_HEAD_BYTES)).unwrap_or_default())
}

/// The address for `o=` before capture has named one.
pub(crate) fn first_origin(id: u64, address: IpAddr) -> Origin {
    Origin { id, version: 0, address }
}
