//! Who takes part, and whose voice is on which m-line.
//!
//! Metadata names participants, streams and who sends what; m-lines carry
//! labels. In the field any link of that chain may be missing: labels that stand
//! on no m-line, m-lines without labels, no associations at all. What the labels
//! say counts; what they leave open is taken in order, with a warning. A
//! participant that a later document no longer names has left, and stays known.

use ferric_sip::siprec::{Association, Metadata, Participant};

use crate::maker::NamedParty;
use crate::port::{ParticipantInfo, StreamSpec};

/// Participants kept with a session, those that left included.
const MAX_PARTIES: usize = 128;

/// Takes over what `metadata` says now; returns what had to be guessed.
pub(crate) fn update(
    known: &mut Vec<ParticipantInfo>,
    metadata: &Metadata,
    streams: &[StreamSpec],
    unix_ms: u64,
) -> Option<&'static str> {
    let (lines, mut warning) = lines_of_streams(metadata, streams);
    let tied = metadata.stream_associations.iter().any(|association| !association.sends.is_empty());
    let mut named = vec![false; known.len()];
    for (position, participant) in metadata.participants.iter().enumerate() {
        let line = if tied { sent_by(metadata, &lines, participant) } else { in_order(position, streams) };
        let place = match known.iter().position(|party| is_same(party, participant)) {
            Some(place) => place,
            None if known.len() < MAX_PARTIES => {
                known.push(newcomer(participant, unix_ms));
                named.push(false);
                known.len() - 1
            }
            None => continue,
        };
        let Some(party) = known.get_mut(place) else { continue };
        if let Some(seen) = named.get_mut(place) {
            *seen = true;
        }
        party.name = participant.name.clone().or(party.name.take());
        party.aor = participant.aors.first().cloned().or(party.aor.take());
        // On hold the SRC may leave out what a participant sends: its line stays,
        // and a guess never takes the place of what was once said.
        if line.is_some() && (tied || party.stream.is_none()) {
            party.stream = line;
            if !tied {
                warning = warning.or(Some("the metadata says of no participant what it sends: taken in order"));
            }
        }
        party.label = party.stream.and_then(|line| streams.iter().find(|stream| stream.index == line)?.label.clone());
        let association = current_association(metadata, &participant.id);
        party.communication_session =
            association.and_then(|association| association.session.clone()).or(party.communication_session.take());
        party.joined = association.and_then(|association| association.from.clone()).or(party.joined.take());
        party.left = association.and_then(|association| association.to.clone());
        party.gone_unix_ms = party.left.as_ref().map(|_| party.gone_unix_ms.unwrap_or(unix_ms));
    }
    for (party, named) in known.iter_mut().zip(named) {
        if !named {
            party.gone_unix_ms.get_or_insert(unix_ms);
        }
    }
    warning
}

/// The association with a session that still holds; else the last one.
fn current_association<'a>(metadata: &'a Metadata, participant: &str) -> Option<&'a Association> {
    let of = || metadata.session_associations.iter().filter(|association| association.participant == participant);
    of().find(|association| association.to.is_none()).or_else(|| of().last())
}

/// The m-line of each metadata stream, by position in the metadata.
pub(crate) fn lines_of_streams(
    metadata: &Metadata,
    streams: &[StreamSpec],
) -> (Vec<Option<usize>>, Option<&'static str>) {
    let by_label = |label: Option<&str>| {
        let label = label?;
        streams.iter().find(|stream| stream.label.as_deref() == Some(label)).map(|stream| stream.index)
    };
    let lines: Vec<Option<usize>> = metadata.streams.iter().map(|stream| by_label(stream.label.as_deref())).collect();
    if lines.iter().any(Option::is_some) || streams.is_empty() || lines.is_empty() {
        return (lines, None);
    }
    let ordered = (0..lines.len()).map(|position| streams.get(position).map(|stream| stream.index)).collect();
    (ordered, Some("no label of the metadata stands on an m-line: streams taken in order"))
}

fn sent_by(metadata: &Metadata, lines: &[Option<usize>], participant: &Participant) -> Option<usize> {
    let associations =
        metadata.stream_associations.iter().filter(|association| association.participant == participant.id);
    let mut sends = associations.flat_map(|association| &association.sends);
    sends.find_map(|id| {
        let position = metadata.streams.iter().position(|stream| stream.id == *id)?;
        lines.get(position).copied().flatten()
    })
}

/// One m-line carries everybody; of several, each participant has its own.
fn in_order(position: usize, streams: &[StreamSpec]) -> Option<usize> {
    match streams {
        [only] => Some(only.index),
        several => several.get(position).map(|stream| stream.index),
    }
}

/// By id; a participant without one by its address.
fn is_same(party: &ParticipantInfo, participant: &Participant) -> bool {
    if participant.id.is_empty() {
        party.id.is_empty() && party.aor.as_ref() == participant.aors.first()
    } else {
        party.id == participant.id
    }
}

fn newcomer(participant: &Participant, unix_ms: u64) -> ParticipantInfo {
    ParticipantInfo {
        id: participant.id.clone(),
        name: None,
        aor: None,
        label: None,
        stream: None,
        channel: None,
        communication_session: None,
        joined: None,
        left: None,
        seen_unix_ms: unix_ms,
        gone_unix_ms: None,
    }
}

fn named(party: &NamedParty, unix_ms: u64) -> ParticipantInfo {
    let participant = Participant { id: party.aor.clone(), ..Participant::default() };
    ParticipantInfo {
        name: party.name.clone(),
        aor: Some(party.aor.clone()),
        stream: party.line,
        ..newcomer(&participant, unix_ms)
    }
}

/// The parties that the header of an INVITE names where there is no metadata.
pub(crate) fn from_header(parties: &[NamedParty], unix_ms: u64) -> Vec<ParticipantInfo> {
    parties.iter().take(MAX_PARTIES).map(|party| named(party, unix_ms)).collect()
}

/// The header of a later INVITE names them anew: who is missing has left.
pub(crate) fn renew_from_header(known: &mut Vec<ParticipantInfo>, parties: &[NamedParty], unix_ms: u64) {
    for have in known.iter_mut() {
        if !parties.iter().any(|party| have.aor.as_deref() == Some(&party.aor)) {
            have.gone_unix_ms.get_or_insert(unix_ms);
        }
    }
    for party in parties {
        let room = known.len() < MAX_PARTIES;
        match known.iter_mut().find(|have| have.gone_unix_ms.is_none() && have.aor.as_deref() == Some(&party.aor)) {
            Some(have) => have.stream = party.line.or(have.stream),
            None if room => known.push(named(party, unix_ms)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn streams(labels: &[Option<&str>]) -> Vec<StreamSpec> {
        let stream = |(index, label): (usize, &Option<&str>)| StreamSpec {
            index,
            label: label.map(str::to_owned),
            formats: Vec::new(),
            remote_rtp: None,
            remote_rtcp: None,
            rtcp_mux: false,
            active: true,
            channel: 0,
            keys: None,
        };
        labels.iter().enumerate().map(stream).collect()
    }

    fn metadata(labels: [&str; 2], associations: &str) -> Metadata {
        let [a, b] = labels;
        let text = format!(
            "<recording><participant participant_id='p1'><nameID aor='sip:ann@example.com'/></participant>\
             <participant participant_id='p2'><nameID aor='sip:bob@example.com'/></participant>\
             <stream stream_id='t1'><label>{a}</label></stream><stream stream_id='t2'><label>{b}</label></stream>{associations}</recording>"
        );
        Metadata::parse(text.as_bytes()).0
    }

    const CROSSED: &str = "<participantstreamassoc participant_id='p1'><send>t2</send></participantstreamassoc>\
        <participantstreamassoc participant_id='p2'><send>t1</send></participantstreamassoc>";

    fn lines(known: &[ParticipantInfo]) -> Vec<Option<usize>> {
        known.iter().map(|party| party.stream).collect()
    }

    #[test]
    fn labels_decide_even_when_they_cross() {
        let mut known = Vec::new();
        let warning = update(&mut known, &metadata(["10", "20"], CROSSED), &streams(&[Some("10"), Some("20")]), 5);
        assert_eq!((lines(&known), warning), (vec![Some(1), Some(0)], None));
        assert_eq!(known[0].label.as_deref(), Some("20"));
        assert_eq!(known[0].seen_unix_ms, 5);
    }

    #[test]
    fn what_labels_leave_open_is_taken_in_order_and_said() {
        for labels in [[Some("1"), Some("2")], [None, None]] {
            let mut known = Vec::new();
            let warning = update(&mut known, &metadata(["audio-a", "audio-b"], CROSSED), &streams(&labels), 5);
            assert_eq!(lines(&known), [Some(1), Some(0)], "associations still count");
            assert!(warning.unwrap().contains("no label"));
        }
        let mut known = Vec::new();
        let warning = update(&mut known, &metadata(["1", "2"], ""), &streams(&[Some("1"), Some("2")]), 5);
        assert_eq!(lines(&known), [Some(0), Some(1)]);
        assert!(warning.unwrap().contains("what it sends"));
    }

    #[test]
    fn a_guess_never_takes_the_place_of_what_was_said() {
        let streams = streams(&[Some("1"), Some("2")]);
        let mut known = Vec::new();
        update(&mut known, &metadata(["1", "2"], CROSSED), &streams, 5);
        let warning = update(&mut known, &metadata(["1", "2"], ""), &streams, 6);
        assert_eq!((lines(&known), warning), (vec![Some(1), Some(0)], None), "on hold nobody sends");
    }

    #[test]
    fn one_mixed_stream_is_everybodys() {
        let mut known = Vec::new();
        update(&mut known, &metadata(["1", "2"], ""), &streams(&[Some("1")]), 5);
        assert_eq!(lines(&known), [Some(0), Some(0)]);
    }

    #[test]
    fn who_is_named_no_more_has_left_and_stays_known() {
        let streams = streams(&[Some("10"), Some("20")]);
        let mut known = Vec::new();
        update(&mut known, &metadata(["10", "20"], CROSSED), &streams, 5);
        let (after, _) = Metadata::parse(
            b"<recording><participant participant_id='p2'/><participant participant_id='p3'/></recording>",
        );
        update(&mut known, &after, &streams, 9);
        let gone: Vec<Option<u64>> = known.iter().map(|party| party.gone_unix_ms).collect();
        assert_eq!(gone, [Some(9), None, None]);
        assert_eq!(known[1].aor.as_deref(), Some("sip:bob@example.com"), "what was known of who stays is kept");
    }

    #[test]
    fn the_table_of_parties_is_bounded() {
        let mut known = Vec::new();
        for n in 0..500 {
            let text = format!("<recording><participant participant_id='p{n}'/></recording>");
            update(&mut known, &Metadata::parse(text.as_bytes()).0, &[], n);
        }
        assert_eq!(known.len(), MAX_PARTIES);
    }

    #[test]
    fn a_later_header_says_who_left_and_who_came() {
        let party = |aor: &str, line| NamedParty { aor: aor.to_owned(), name: None, line: Some(line) };
        let mut known = from_header(&[party("sip:a@example.com", 0), party("sip:b@example.com", 1)], 5);
        renew_from_header(&mut known, &[party("sip:a@example.com", 0), party("sip:c@example.com", 1)], 9);
        let gone: Vec<Option<u64>> = known.iter().map(|party| party.gone_unix_ms).collect();
        assert_eq!((gone, lines(&known)), (vec![None, Some(9), None], vec![Some(0), Some(1), Some(1)]));
        renew_from_header(&mut known, &[party("sip:b@example.com", 1)], 12);
        assert_eq!((known.len(), known[3].seen_unix_ms), (4, 12), "who comes back has a second interval");
    }
}
