//! Recording metadata (RFC 7865) as SRCs write it.
//!
//! Read by local name, so that namespaces, prefixes and vendor extensions do not
//! matter. Ids are opaque texts. `complete` replaces what is known, `partial`
//! updates it (RFC 7866 9.1).

use thiserror::Error;

use super::xml::{self, Element};

/// Most entries of a kind kept.
const MAX_ENTRIES: usize = 256;

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
        upsert(&mut self.sessions, newer.sessions, |session| session.id.clone());
        upsert(&mut self.participants, newer.participants, |participant| participant.id.clone());
        upsert(&mut self.streams, newer.streams, |stream| stream.id.clone());
        upsert(&mut self.session_associations, newer.session_associations, |a| format!("{}\n{:?}", a.participant, a.session));
        upsert(&mut self.stream_associations, newer.stream_associations, |a| a.participant.clone());
    }

    /// The participants that send the stream on the m-line with this label.
    pub fn senders_of(&self, label: &str) -> Vec<&Participant> {
        let streams: Vec<&str> =
            self.streams.iter().filter(|stream| stream.label.as_deref() == Some(label)).map(|stream| stream.id.as_str()).collect();
        let sends = |participant: &&Participant| {
            self.stream_associations
                .iter()
                .any(|a| a.participant == participant.id && a.sends.iter().any(|id| streams.contains(&id.as_str())))
        };
        self.participants.iter().filter(sends).collect()
    }
}

fn upsert<T>(have: &mut Vec<T>, newer: Vec<T>, key: impl Fn(&T) -> String) {
    for entry in newer {
        let wanted = key(&entry);
        let room = have.len() < MAX_ENTRIES;
        match have.iter_mut().find(|old| key(old) == wanted) {
            Some(old) => *old = entry,
            None if room => have.push(entry),
            None => {}
        }
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
    metadata.sessions.truncate(MAX_ENTRIES);
    metadata.participants.truncate(MAX_ENTRIES);
    metadata.streams.truncate(MAX_ENTRIES);
    metadata.session_associations.truncate(MAX_ENTRIES);
    metadata.stream_associations.truncate(MAX_ENTRIES);
    metadata
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
    #![allow(clippy::unwrap_used)]
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
    fn what_is_no_metadata_is_said() {
        assert!(Metadata::parse(b"not xml").1.is_some());
        assert_eq!(Metadata::parse(b"<html/>").1, Some(MetadataError::Root("html".into())));
        let (cut, problem) = Metadata::parse(&COMPLETE.as_bytes()[..420]);
        assert!(problem.is_some());
        assert_eq!(cut.participants.len(), 2);
    }
}
