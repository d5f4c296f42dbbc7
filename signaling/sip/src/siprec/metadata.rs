//! Recording metadata (RFC 7865) as SRCs write it.
//!
//! Read by local name, so that namespaces, prefixes and vendor extensions do not
//! matter. Ids are opaque texts. `complete` replaces what is known, `partial`
//! updates it (RFC 7866 9.1).

use thiserror::Error;

use super::xml::{self, Element};

/// Most entries of a kind kept.
const MAX_ENTRIES: usize = 256;
/// Most extension values kept, and the longest kept of each in characters.
const MAX_EXTENSIONS: usize = 64;
const MAX_EXTENSION_CHARS: usize = 512;
/// Elements of RFC 7865 and its drafts; what else holds text is a maker's extension.
const KNOWN: [&str; 27] = [
    "recording",
    "recording_metadata",
    "datamode",
    "group",
    "group-ref",
    "session",
    "sipsessionid",
    "start-time",
    "stop-time",
    "end-time",
    "reason",
    "participant",
    "nameid",
    "name",
    "aor",
    "send",
    "recv",
    "id",
    "stream",
    "label",
    "mode",
    "associate-time",
    "disassociate-time",
    "participantsessionassoc",
    "participantstreamassoc",
    "sessionrecordingassoc",
    "requestor",
];

/// Metadata that could not be read to its end. What was read is used all the same.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetadataError {
    /// Not well-formed, or beyond a bound.
    #[error("recording metadata: {0}")]
    Xml(String),
    /// Another root element than `recording`.
    #[error("recording metadata: the root element is {0}, not recording")]
    Root(String),
}

/// A communication session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionElement {
    /// Its id.
    pub id: String,
    /// Its group, if any.
    pub group: Option<String>,
    /// SIP session ids or Call-IDs that the SRC names.
    pub sip_session_ids: Vec<String>,
    /// Start as written.
    pub start: Option<String>,
    /// End as written.
    pub stop: Option<String>,
}

/// A participant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Participant {
    /// Its id.
    pub id: String,
    /// Addresses of record as written.
    pub aors: Vec<String>,
    /// Name for display.
    pub name: Option<String>,
}

/// A media stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamElement {
    /// Its id.
    pub id: String,
    /// The label of its m-line.
    pub label: Option<String>,
    /// Its communication session.
    pub session: Option<String>,
}

/// A participant's relation to a session or to streams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Association {
    /// The participant's id.
    pub participant: String,
    /// The session's id, in an association with a session.
    pub session: Option<String>,
    /// Ids of streams that it sends.
    pub sends: Vec<String>,
    /// Ids of streams that it receives.
    pub receives: Vec<String>,
    /// `associate-time` as written.
    pub from: Option<String>,
    /// `disassociate-time` as written.
    pub to: Option<String>,
}

/// What is known of a recording session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// True for a partial update.
    pub partial: bool,
    /// Group ids.
    pub groups: Vec<String>,
    /// Communication sessions.
    pub sessions: Vec<SessionElement>,
    /// Participants.
    pub participants: Vec<Participant>,
    /// Streams.
    pub streams: Vec<StreamElement>,
    /// Participants and sessions.
    pub session_associations: Vec<Association>,
    /// Participants and streams.
    pub stream_associations: Vec<Association>,
    /// Texts of makers' own elements: local name in lower case, and value.
    pub extensions: Vec<(String, String)>,
}

impl Metadata {
    /// Reads a document. What could be read comes back also beside an error.
    pub fn parse(bytes: &[u8]) -> (Metadata, Option<MetadataError>) {
        let (root, problem) = xml::read(bytes);
        let problem = problem.map(MetadataError::Xml);
        match root {
            Some(root) if root.name.starts_with("recording") => (read(&root), problem),
            Some(root) => (Metadata::default(), problem.or(Some(MetadataError::Root(root.name)))),
            None => (Metadata::default(), problem.or_else(|| Some(MetadataError::Xml("no element".into())))),
        }
    }

    /// Takes a newer document: a complete one replaces, a partial one updates.
    pub fn apply(&mut self, newer: Metadata) {
        if !newer.partial {
            *self = newer;
            return;
        }
        for group in newer.groups {
            if !self.groups.contains(&group) {
                self.groups.push(group);
            }
        }
        upsert(&mut self.sessions, newer.sessions, |have, new| have.id == new.id, SessionElement::update);
        upsert(&mut self.participants, newer.participants, |have, new| have.id == new.id, Participant::update);
        upsert(&mut self.streams, newer.streams, |have, new| have.id == new.id, StreamElement::update);
        let same_session =
            |have: &Association, new: &Association| have.participant == new.participant && have.session == new.session;
        upsert(&mut self.session_associations, newer.session_associations, same_session, Association::update);
        let same = |have: &Association, new: &Association| have.participant == new.participant;
        upsert(&mut self.stream_associations, newer.stream_associations, same, Association::update);
        upsert(&mut self.extensions, newer.extensions, |have, new| have.0 == new.0, |have, new| have.1 = new.1);
    }

    /// The participants that send the stream on the m-line with this label.
    pub fn senders_of(&self, label: &str) -> Vec<&Participant> {
        let streams: Vec<&str> = self
            .streams
            .iter()
            .filter(|stream| stream.label.as_deref() == Some(label))
            .map(|stream| stream.id.as_str())
            .collect();
        let sends = |participant: &&Participant| {
            self.stream_associations
                .iter()
                .any(|a| a.participant == participant.id && a.sends.iter().any(|id| streams.contains(&id.as_str())))
        };
        self.participants.iter().filter(sends).collect()
    }
}

fn upsert<T>(have: &mut Vec<T>, newer: Vec<T>, same: impl Fn(&T, &T) -> bool, update: impl Fn(&mut T, T)) {
    for entry in newer {
        let room = have.len() < MAX_ENTRIES;
        match have.iter_mut().find(|old| same(old, &entry)) {
            Some(old) => update(old, entry),
            None if room => have.push(entry),
            None => {}
        }
    }
}

/// A partial document may name an entry only to change one thing of it; what it
/// leaves out stands as it was.
fn set<T>(have: &mut Option<T>, newer: Option<T>) {
    if newer.is_some() {
        *have = newer;
    }
}

fn set_list(have: &mut Vec<String>, newer: Vec<String>) {
    if !newer.is_empty() {
        *have = newer;
    }
}

impl SessionElement {
    fn update(&mut self, newer: SessionElement) {
        set(&mut self.group, newer.group);
        set_list(&mut self.sip_session_ids, newer.sip_session_ids);
        set(&mut self.start, newer.start);
        set(&mut self.stop, newer.stop);
    }
}

impl Participant {
    fn update(&mut self, newer: Participant) {
        set_list(&mut self.aors, newer.aors);
        set(&mut self.name, newer.name);
    }
}

impl StreamElement {
    fn update(&mut self, newer: StreamElement) {
        set(&mut self.label, newer.label);
        set(&mut self.session, newer.session);
    }
}

impl Association {
    /// An end leaves the streams standing: they say what the participant sent until then.
    fn update(&mut self, newer: Association) {
        if newer.to.is_none() {
            set_list(&mut self.sends, newer.sends);
            set_list(&mut self.receives, newer.receives);
            if newer.from.is_some() {
                self.to = None;
            }
        }
        set(&mut self.from, newer.from);
        set(&mut self.to, newer.to);
    }
}

fn text(value: Option<&str>) -> Option<String> {
    value.map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned)
}

fn id_of(element: &Element, name: &str) -> String {
    let own = format!("{name}_id");
    element.attribute(&[own.as_str(), "id", &format!("{name}id")]).unwrap_or("").to_owned()
}

fn references(element: &Element, name: &str) -> Vec<String> {
    element.children(name).filter_map(Element::reference).map(str::to_owned).take(MAX_ENTRIES).collect()
}

fn read(root: &Element) -> Metadata {
    let mode = root.child_text("datamode").or_else(|| root.attribute(&["datamode"]));
    let mut metadata =
        Metadata { partial: mode.is_some_and(|mode| mode.eq_ignore_ascii_case("partial")), ..Metadata::default() };
    for element in root.children.iter().take(8 * MAX_ENTRIES) {
        match element.name.as_str() {
            "group" => metadata.groups.push(id_of(element, "group")),
            "session" => metadata.sessions.push(SessionElement {
                id: id_of(element, "session"),
                group: text(element.child_text("group-ref").or_else(|| element.attribute(&["group", "group_id"]))),
                sip_session_ids: references(element, "sipsessionid"),
                start: text(element.child_text("start-time")),
                stop: text(element.child_text("stop-time").or_else(|| element.child_text("end-time"))),
            }),
            "participant" => participant(element, &mut metadata),
            "stream" => metadata.streams.push(StreamElement {
                id: id_of(element, "stream"),
                label: text(element.child_text("label").or_else(|| element.attribute(&["label"]))),
                session: text(element.attribute(&["session_id", "session"])),
            }),
            "participantsessionassoc" => metadata.session_associations.push(association(element)),
            "participantstreamassoc" => merge(&mut metadata.stream_associations, association(element)),
            _ => {}
        }
    }
    extensions(root, &mut metadata.extensions);
    metadata.groups.truncate(MAX_ENTRIES);
    metadata.sessions.truncate(MAX_ENTRIES);
    metadata.participants.truncate(MAX_ENTRIES);
    metadata.streams.truncate(MAX_ENTRIES);
    metadata.session_associations.truncate(MAX_ENTRIES);
    metadata.stream_associations.truncate(MAX_ENTRIES);
    metadata
}

/// Collects the texts of elements that RFC 7865 does not know; the reader bounds depth and number.
fn extensions(element: &Element, found: &mut Vec<(String, String)>) {
    for child in &element.children {
        if found.len() >= MAX_EXTENSIONS {
            return;
        }
        if !child.text.is_empty() && !KNOWN.contains(&child.name.as_str()) {
            found.push((child.name.clone(), child.text.chars().take(MAX_EXTENSION_CHARS).collect()));
        }
        extensions(child, found);
    }
}

fn participant(element: &Element, metadata: &mut Metadata) {
    let id = id_of(element, "participant");
    let mut aors: Vec<String> = references(element, "aor");
    let mut name = text(element.child_text("name"));
    for name_id in element.children("nameid") {
        aors.extend(text(name_id.attribute(&["aor"])));
        name = name.or_else(|| text(name_id.child_text("name")));
    }
    aors.extend(text(element.attribute(&["aor"])));
    aors.truncate(16);
    // Older drafts put the associations inside the participant.
    let mut inside = association(element);
    if !inside.sends.is_empty() || !inside.receives.is_empty() {
        inside.participant.clone_from(&id);
        inside.session = None;
        merge(&mut metadata.stream_associations, inside);
    }
    metadata.participants.push(Participant { id, aors, name });
}

fn association(element: &Element) -> Association {
    Association {
        participant: element.attribute(&["participant_id", "participant"]).unwrap_or("").to_owned(),
        session: text(element.attribute(&["session_id", "session"])),
        sends: references(element, "send"),
        receives: references(element, "recv"),
        from: text(element.child_text("associate-time")),
        to: text(element.child_text("disassociate-time")),
    }
}

fn merge(have: &mut Vec<Association>, newer: Association) {
    match have.iter_mut().find(|old| old.participant == newer.participant) {
        Some(old) => {
            old.sends.extend(newer.sends);
            old.receives.extend(newer.receives);
        }
        None => have.push(newer),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const COMPLETE: &str = "<recording xmlns='urn:ietf:params:xml:ns:recording:1'><datamode>complete</datamode>\
        <group group_id='g1'/><session session_id='s1'><group-ref>g1</group-ref><sipSessionID>ab;remote=cd</sipSessionID></session>\
        <participant participant_id='p1'><nameID aor='sip:ann@example.com'><name xml:lang='en'> Ann </name></nameID></participant>\
        <participant participant_id='p2'><nameID aor='tel:+15550100'/></participant>\
        <stream stream_id='t1' session_id='s1'><label>96</label></stream><stream stream_id='t2' session_id='s1'><label>97</label></stream>\
        <participantstreamassoc participant_id='p1'><send>t1</send><recv>t2</recv></participantstreamassoc>\
        <participantstreamassoc participant_id='p2'><send>t2</send></participantstreamassoc></recording>";

    #[test]
    fn a_complete_document_ties_labels_to_participants() {
        let (metadata, problem) = Metadata::parse(COMPLETE.as_bytes());
        assert_eq!(problem, None);
        assert_eq!(metadata.senders_of("96")[0].name.as_deref(), Some("Ann"));
        assert_eq!(metadata.senders_of("97")[0].aors, ["tel:+15550100"]);
        assert_eq!(metadata.sessions[0].sip_session_ids, ["ab;remote=cd"]);
        assert_eq!(metadata.sessions[0].group.as_deref(), Some("g1"));
    }

    #[test]
    fn older_forms_say_the_same() {
        let (metadata, _) = Metadata::parse(
            b"<tns:recording_metadata xmlns:tns='urn:x'><tns:dataMode>partial</tns:dataMode><tns:participant id='p1' session='s1'>\
              <tns:aor>sip:8635550100</tns:aor><tns:send><tns:id>t1</tns:id></tns:send></tns:participant>\
              <tns:stream id='t1' session='s1'><tns:label>1</tns:label></tns:stream></tns:recording_metadata>",
        );
        assert!(metadata.partial);
        assert_eq!(metadata.senders_of("1")[0].aors, ["sip:8635550100"]);
    }

    #[test]
    fn partial_updates_and_complete_replaces() {
        let (mut known, _) = Metadata::parse(COMPLETE.as_bytes());
        let (update, _) = Metadata::parse(
            b"<recording><datamode>partial</datamode><participant participant_id='p2'><nameID aor='sip:bob@example.com'/></participant>\
              <participant participant_id='p3'/></recording>",
        );
        known.apply(update);
        assert_eq!(known.participants.len(), 3);
        assert_eq!(known.senders_of("97")[0].aors, ["sip:bob@example.com"]);
        let (complete, _) = Metadata::parse(b"<recording><participant participant_id='p9'/></recording>");
        known.apply(complete);
        assert_eq!(known.participants.len(), 1);
    }

    #[test]
    fn a_partial_document_changes_only_what_it_names() {
        let (mut known, _) = Metadata::parse(
            b"<recording><datamode>complete</datamode><participant participant_id='p1'><nameID aor='sip:ann@example.com'><name>Ann</name></nameID></participant>\
              <stream stream_id='t1' session_id='s1'><label>1</label></stream>\
              <participantsessionassoc participant_id='p1' session_id='s1'><associate-time>2026-01-01T10:00:00Z</associate-time></participantsessionassoc>\
              <participantstreamassoc participant_id='p1'><send>t1</send></participantstreamassoc></recording>",
        );
        let (leave, _) = Metadata::parse(
            b"<recording><datamode>Partial</datamode><participant participant_id='p1'/>\
              <participantsessionassoc participant_id='p1' session_id='s1'><disassociate-time>2026-01-01T10:05:00Z</disassociate-time></participantsessionassoc>\
              <participantstreamassoc participant_id='p1'><send>t1</send><disassociate-time>2026-01-01T10:05:00Z</disassociate-time></participantstreamassoc></recording>",
        );
        known.apply(leave);
        assert_eq!((known.participants[0].name.as_deref(), known.participants[0].aors.len()), (Some("Ann"), 1));
        let association = &known.session_associations[0];
        assert_eq!(
            (association.from.as_deref(), association.to.as_deref()),
            (Some("2026-01-01T10:00:00Z"), Some("2026-01-01T10:05:00Z"))
        );
        assert_eq!(known.senders_of("1").len(), 1, "what was sent until then stays known");
        let (back, _) = Metadata::parse(
            b"<recording><datamode>partial</datamode><participantsessionassoc participant_id='p1' session_id='s1'>\
              <associate-time>2026-01-01T10:06:00Z</associate-time></participantsessionassoc></recording>",
        );
        known.apply(back);
        assert_eq!(known.session_associations[0].to, None, "who comes back is there again");
    }

    #[test]
    fn extensions_are_read_by_name_and_bounded() {
        let (metadata, _) = Metadata::parse(
            b"<recording><extensiondata><x:maker xmlns:x='urn:x'><x:extTrackingID> 7:1 </x:extTrackingID></x:maker></extensiondata>\
              <session session_id='s'><AvayaUCID>00FA</AvayaUCID><start-time>now</start-time></session></recording>",
        );
        let expected =
            [("exttrackingid", "7:1"), ("avayaucid", "00FA")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(metadata.extensions, expected);
        let many = format!("<recording><e>{}</e></recording>", "<a>1</a>".repeat(500));
        assert_eq!(Metadata::parse(many.as_bytes()).0.extensions.len(), MAX_EXTENSIONS);
    }

    #[test]
    fn what_is_no_metadata_is_said() {
        assert!(Metadata::parse(b"not xml").1.is_some());
        assert_eq!(Metadata::parse(b"<html/>").1, Some(MetadataError::Root("html".into())));
        let (cut, problem) = Metadata::parse(&COMPLETE.as_bytes()[..420]);
        assert!(problem.is_some());
        assert_eq!(cut.participants.len(), 2);
    }
}
