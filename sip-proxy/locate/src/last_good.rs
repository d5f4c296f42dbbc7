//! What was known, as records that outlive a restart.
//!
//! The shell takes a [`Snapshot`] now and then, which costs no copy of a record, turns it into [`LastGood`] elsewhere,
//! writes that to a file (JSON or whatever serde writes) and hands it back at the start. Times are seconds since 1970, because the locator's own clock does not outlive the process. What ran out
//! meanwhile is taken in as stale; each name is asked for again within seconds, one after the other.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cache::Key;
use crate::locate::Locator;
use crate::record::{DnsFailure, Kind, MAX_RECORDS, RecordData, normalise};

/// Of the file, not of the program.
const VERSION: u32 = 1;

/// The cache at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastGood {
    /// Form of the records; another form is not taken in.
    pub version: u32,
    /// In the order of names.
    pub records: Vec<Record>,
}

/// What was known of one name and kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Lower case, without the trailing dot.
    pub name: String,
    /// What was asked for.
    pub kind: Kind,
    /// Empty when the name is known to have none; that a domain has no NAPTR saves as much time as an address.
    pub records: Vec<RecordData>,
    /// When the TTL is or was over, in seconds since 1970.
    pub expires_unix_s: u64,
}

/// The cache at one moment, still sharing its records.
#[derive(Debug, Clone)]
pub struct Snapshot {
    known: Vec<(Key, Result<Arc<[RecordData]>, DnsFailure>, Instant)>,
    taken: Instant,
    unix_now: u64,
}

impl Snapshot {
    /// As records, in the order of names. Left out is what a name has not, unless its domain has something else: the
    /// denials of invented names are worth nothing.
    pub fn last_good(&self) -> LastGood {
        let good: HashSet<&str> =
            self.known.iter().filter(|(_, value, _)| value.is_ok()).map(|(key, ..)| domain(&key.name)).collect();
        let mut records: Vec<Record> = self
            .known
            .iter()
            .filter(|(key, value, _)| value.is_ok() || good.contains(domain(&key.name)))
            .map(|(key, value, expires)| Record {
                name: key.name.to_string(),
                kind: key.kind,
                records: value.as_ref().map(|records| records.to_vec()).unwrap_or_default(),
                expires_unix_s: match expires.checked_duration_since(self.taken) {
                    Some(left) => self.unix_now.saturating_add(left.as_secs()),
                    None => self.unix_now.saturating_sub(self.taken.saturating_duration_since(*expires).as_secs()),
                },
            })
            .collect();
        records.sort_by(|a, b| (&a.name, a.kind).cmp(&(&b.name, b.kind)));
        LastGood { version: VERSION, records }
    }
}

/// A name without the labels of its service.
fn domain(name: &str) -> &str {
    let rest = ["_sip._udp.", "_sip._tcp.", "_sips._tcp."].iter().find_map(|service| name.strip_prefix(service));
    rest.unwrap_or(name)
}

impl Locator {
    /// All that is known; `unix_now` in seconds since 1970.
    pub fn snapshot(&self, now: Instant, unix_now: u64) -> Snapshot {
        let known = self.cache.known().map(|(key, value, expires)| (key.clone(), value.clone(), expires)).collect();
        Snapshot { known, taken: now, unix_now }
    }

    /// Takes in what was known before; yields how many names and kinds were taken. What is known already stays.
    pub fn import(&mut self, now: Instant, unix_now: u64, last: &LastGood) -> usize {
        if last.version != VERSION {
            return 0;
        }
        let mut taken = 0_usize;
        for record in last.records.iter().take(self.config.max_entries) {
            let Some(name) = normalise(&record.name) else { continue };
            let left = Duration::from_secs(record.expires_unix_s.saturating_sub(unix_now)).min(self.config.max_ttl);
            let over = Duration::from_secs(unix_now.saturating_sub(record.expires_unix_s));
            // A clock that has run only a short while cannot name an instant before its start: then it is just over.
            let expires = if over.is_zero() { now + left } else { now.checked_sub(over).unwrap_or(now) };
            if over >= self.config.serve_stale || record.records.iter().any(|data| data.kind() != record.kind) {
                continue;
            }
            let value: Result<Arc<[RecordData]>, DnsFailure> = if record.records.is_empty() {
                Err(DnsFailure::NoData)
            } else {
                let mut records = record.records.clone();
                records.sort();
                records.truncate(MAX_RECORDS);
                Ok(records.into())
            };
            // One a millisecond, so that a large file is no flood of questions.
            let refresh_at = now + Duration::from_millis(taken as u64);
            taken += usize::from(self.cache.restore(now, Key { name, kind: record.kind }, value, expires, refresh_at));
        }
        taken
    }
}
