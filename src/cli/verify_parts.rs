//! What `ferric verify` says of recordings that consist of several parts: whether they fit together.
//!
//! Each part was checked by itself before. Here it is asked whether later parts begin later. A number that is there twice (two
//! nodes recorded it) and one that is not there are said and are no fault: nothing may have come of that part, or its node
//! has it still.

use std::collections::BTreeMap;
use std::time::Duration;

use ferric_media::manifest::{Manifest, SignedManifest};
use ferric_media::timestamp::Timestamp;
use uuid::Uuid;

/// What is said of one recording.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) is_wrong: bool,
    pub(super) text: String,
}

/// Looks at every recording of which more than a first part is there.
pub(super) fn check(manifests: &[SignedManifest]) -> Vec<Verdict> {
    let mut recordings: BTreeMap<Uuid, Vec<&Manifest>> = BTreeMap::new();
    for signed in manifests {
        recordings.entry(signed.manifest.part.recording).or_default().push(&signed.manifest);
    }
    recordings.retain(|_, parts| parts.len() > 1 || parts.iter().any(|part| part.part.is_later()));
    recordings.into_iter().map(|(recording, parts)| judge(recording, parts)).collect()
}

fn judge(recording: Uuid, mut parts: Vec<&Manifest>) -> Verdict {
    parts.sort_by_key(|part| (part.part.number, part.part.copy, part.started_at, part.part.file));
    // The same file found twice (spool and store) is one.
    parts.dedup_by_key(|part| part.part.file);
    let wrong = |text: String| Verdict { is_wrong: true, text: format!("WRONG recording {recording}: {text}") };
    let (mut names, mut absent) = (Vec::new(), Vec::new());
    let mut expected = 1;
    let mut missing = Duration::ZERO;
    let mut before: Option<(&Manifest, Timestamp)> = None;
    for part in parts {
        let number = part.part.number.get();
        let is_twin = before.is_some_and(|(last, _)| last.part.number == part.part.number);
        names.push(if is_twin || part.part.copy { format!("{number} (a copy)") } else { number.to_string() });
        absent.extend((expected..number).map(|number| number.to_string()));
        expected = number.saturating_add(1);
        if let Some((last, until)) = before.filter(|_| !is_twin) {
            if part.started_at < last.started_at {
                return wrong(format!(
                    "its part {number} of {} began at {}, before its part {} of {}: the clock of a node was wrong",
                    part.node, part.started_at, last.part.number, last.node
                ));
            }
            missing += part.started_at.since(until);
        }
        let until = before.map_or(part.ended_at, |(_, until)| until.max(part.ended_at));
        before = Some((part, until));
    }
    let mut text = format!("joined {recording}  parts {}", names.join(", "));
    if !missing.is_zero() {
        text.push_str(&format!(", {:.1} s missing between them", missing.as_secs_f64()));
    }
    if !absent.is_empty() {
        text.push_str(&format!("; not here: {} (nothing came of it, or it lies elsewhere)", absent.join(", ")));
    }
    Verdict { is_wrong: false, text }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use ferric_media::keys::NodeKey;
    use ferric_media::manifest::{AudioEntry, Digest, RecordingState};
    use ferric_media::part::Part;
    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    fn signed(part: Part, start_ms: i64, length_ms: u64) -> SignedManifest {
        let key = NodeKey::generate(&mut StdRng::seed_from_u64(1)).unwrap();
        let started_at = Timestamp::from_unix_ms(start_ms);
        let manifest = Manifest {
            part,
            tenant: "acme".into(),
            node: format!("node-{}", part.number),
            state: RecordingState::Complete,
            started_at,
            ended_at: started_at.plus(Duration::from_millis(length_ms)),
            duration_ms: length_ms,
            audio: AudioEntry { bytes: 1, sha256: Digest::of(b"a"), segments: 1 },
            metadata: None,
            previous: None,
            key_id: key.public().id().clone(),
        };
        manifest.sign(&key).unwrap()
    }

    fn part(number: u32) -> Part {
        let recording = Uuid::from_u128(7);
        if number == 1 { Part::first(recording) } else { Part::new(recording, number, Uuid::from_u128(number.into())) }
    }

    fn said(manifests: &[SignedManifest]) -> (bool, String) {
        let mut verdicts = check(manifests);
        assert_eq!(verdicts.len(), 1);
        let verdict = verdicts.remove(0);
        (verdict.is_wrong, verdict.text)
    }

    #[test]
    fn recordings_of_one_part_are_not_spoken_of() {
        assert_eq!(check(&[signed(part(1), 0, 10)]), []);
        assert_eq!(check(&[]), []);
    }

    #[test]
    fn parts_in_order_are_joined_and_gaps_told() {
        let (second, first) = (signed(part(2), 10_700, 5_000), signed(part(1), 0, 10_000));
        let (is_wrong, text) = said(&[second.clone(), first.clone(), first.clone()]);
        assert!(!is_wrong && text.ends_with("parts 1, 2, 0.7 s missing between them"), "{text}");
        let copy = signed(part(1).copied(Uuid::from_u128(9)), 100, 10_600);
        let (is_wrong, text) = said(&[copy, second.clone(), first]);
        assert!(!is_wrong && text.contains("parts 1, 1 (a copy), 2") && !text.contains("missing"), "{text}");
        let (is_wrong, text) = said(&[second]);
        assert!(!is_wrong && text.contains("not here: 1"), "{text}");
    }

    #[test]
    fn a_later_part_that_began_earlier_is_wrong() {
        let (is_wrong, text) = said(&[signed(part(1), 100, 5), signed(part(2), 50, 5)]);
        assert!(is_wrong && text.contains("the clock of a node was wrong"), "{text}");
    }
}
