//! Answers by name and kind, and how far each is believed.
//!
//! ```text
//!            good answer                      80 % of the TTL: asked again while it is served
//! unknown ---------------> known ------------------------------------------------> known
//!    |                       |  TTL over, refresh late or failing: served stale, asked each 1 s .. 30 s
//!    | Timeout, SERVFAIL,    |  denied (NXDOMAIN, NODATA) for less than `distrust`: served, asked each 5 s
//!    v REFUSED               v  denied for longer: known to be absent
//! trouble (1 s .. 30 s, then asked when wanted)
//! ```
//!
//! Invariants:
//! - "Known" is a set of records or their definite absence; both age, are refreshed and are served stale alike, so a
//!   domain without NAPTR costs no wait when that fact runs out.
//! - One question is out for each entry, and each entry has at most one deadline in the queue. Idle costs nothing.
//! - A name asked for rarely is refreshed rarely: the pause is at least a quarter of the time since it was last asked
//!   for, so one look-up of a name with a TTL of a second leads to some thirty questions, not thousands, until it is
//!   forgotten. If it is asked for again past its TTL, one fresh answer is waited for, [`LocatorConfig::query_patience`]
//!   at most, and not at all while no server answers anything.
//! - Room is made by dropping what was never good before what was, so a flood of invented names pushes nothing
//!   useful out. Pinned names, and the names that their records lead to, are never dropped.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferric_sip::deadline::DeadlineQueue;

use crate::config::LocatorConfig;
use crate::record::{Answer, DnsFailure, Kind, MAX_RECORDS, Query, QueryId, RecordData};

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
}

/// What is known of a name: records, or that there are none.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) value: Result<Arc<[RecordData]>, DnsFailure>,
    /// Until the TTL is over; zero when stale.
    pub(crate) ttl_left: Duration,
    /// When it last became another one, in the cache's count of changes.
    pub(crate) changed: u64,
}

/// What the cache says to one look-up.
#[derive(Debug, Clone)]
pub(crate) enum Look {
    /// This, now.
    Known(Held),
    /// This, unless the entry gets a fresh answer soon.
    Checking(Held, u64),
    /// Never known, and the last question failed.
    Trouble(DnsFailure),
    /// Never known, asked for; the entry to wait on, and whether there is little hope: it failed before or is late.
    Pending(u64, bool),
    /// No entry, and none was to be made or there is no room.
    Nothing,
}

/// What the cache did since it was made. All but `entries` only rise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Names and kinds kept now.
    pub entries: usize,
    /// Questions handed to the shell.
    pub queries: u64,
    /// Questions that failed or were lost.
    pub failures: u64,
    /// Denials not believed.
    pub distrusted: u64,
    /// Look-ups answered past their TTL.
    pub served_stale: u64,
    /// Entries dropped to make room.
    pub evicted: u64,
    /// Look-ups refused because nothing could be dropped.
    pub refused: u64,
}

#[derive(Debug)]
struct Known {
    value: Result<Arc<[RecordData]>, DnsFailure>,
    expires: Instant,
    refresh_at: Instant,
}

#[derive(Debug)]
struct Asking {
    since: Instant,
    sent: Option<Instant>,
    urgent: bool,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    known: Option<Known>,
    trouble: Option<(DnsFailure, Instant)>,
    denied_since: Option<Instant>,
    failures: u32,
    asking: Option<Asking>,
    next_ask: Option<Instant>,
    wanted: Instant,
    rank: Option<(bool, Instant)>,
    changed: u64,
    waiters: Vec<u64>,
    /// The names that this entry pins because it is pinned itself.
    pins: Vec<Arc<str>>,
}

impl Entry {
    fn good(&self) -> bool {
        self.known.as_ref().is_some_and(|known| known.value.is_ok())
    }
}

/// The cache. The time is an argument; see the module.
#[derive(Debug)]
pub(crate) struct Cache {
    config: LocatorConfig,
    entries: HashMap<u64, Entry>,
    ids: HashMap<Key, u64>,
    /// Names that stay, with how often they are pinned.
    pins: HashMap<Arc<str>, u32>,
    /// Unpinned entries that were never good, by when they were last wanted.
    never_good: BTreeSet<(Instant, u64)>,
    /// Unpinned entries that are good, likewise.
    good: BTreeSet<(Instant, u64)>,
    deadlines: DeadlineQueue<u64>,
    urgent: VecDeque<u64>,
    background: VecDeque<u64>,
    next_id: u64,
    changes: u64,
    pinned_changes: u64,
    /// The last question that ended got no answer at all.
    silent: bool,
    stats: CacheStats,
}

impl Cache {
    pub(crate) fn new(config: LocatorConfig) -> Cache {
        Cache {
            config,
            entries: HashMap::new(),
            ids: HashMap::new(),
            pins: HashMap::new(),
            never_good: BTreeSet::new(),
            good: BTreeSet::new(),
            deadlines: DeadlineQueue::default(),
            urgent: VecDeque::new(),
            background: VecDeque::new(),
            next_id: 0,
            changes: 0,
            pinned_changes: 0,
            silent: false,
            stats: CacheStats::default(),
        }
    }

    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats { entries: self.entries.len(), ..self.stats }
    }

    /// Rises whenever what is known becomes another.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// The same, of pinned names only.
    pub(crate) fn pinned_changes(&self) -> u64 {
        self.pinned_changes
    }

    /// The last question that ended got no answer at all.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Looks a name up. What is not known is asked for unless `ask` is false.
    pub(crate) fn look(&mut self, now: Instant, name: &Arc<str>, kind: Kind, ask: bool) -> Look {
        let key = Key { name: name.clone(), kind };
        let id = match self.ids.get(&key) {
            Some(id) => *id,
            None if !ask => return Look::Nothing,
            None => match self.insert(now, key) {
                Some(id) => id,
                None => return Look::Nothing,
            },
        };
        let Some(entry) = self.entries.get_mut(&id) else { return Look::Nothing };
        if now.saturating_duration_since(entry.wanted) >= Duration::from_secs(1) {
            entry.wanted = now;
            self.rank(id);
        }
        let Some(entry) = self.entries.get_mut(&id) else { return Look::Nothing };
        if entry.known.as_ref().is_some_and(|known| now >= known.expires + self.config.serve_stale) {
            entry.known = None;
            self.changes += 1;
            entry.changed = self.changes;
            self.rank(id);
        }
        let Some(entry) = self.entries.get_mut(&id) else { return Look::Nothing };
        let Some(known) = &entry.known else {
            return match entry.trouble {
                Some((failure, until)) if now < until => Look::Trouble(failure),
                // NAPTR is a preference, and a server that cannot answer for SRV has none: nobody waits twice for them.
                Some((failure, _)) if kind == Kind::Naptr || (kind == Kind::Srv && failure != DnsFailure::Timeout) => {
                    if ask {
                        self.ask(now, id, false);
                    }
                    Look::Trouble(failure)
                }
                trouble => {
                    if ask {
                        self.ask(now, id, true);
                    }
                    let since =
                        self.entries.get(&id).and_then(|entry| entry.asking.as_ref()).map(|asking| asking.since);
                    let late = since.is_some_and(|since| now >= since + self.config.query_patience);
                    Look::Pending(id, late || trouble.is_some())
                }
            };
        };
        let (expires, refresh_at) = (known.expires, known.refresh_at);
        let ttl_left = expires.saturating_duration_since(now);
        let held = Held { value: known.value.clone(), ttl_left, changed: entry.changed };
        if now < expires {
            // A refresh put off because nobody asked is due again.
            let healthy = entry.failures == 0 && entry.denied_since.is_none();
            if healthy && entry.asking.is_none() && entry.next_ask.is_some_and(|at| at > refresh_at.max(now)) {
                entry.next_ask = Some(refresh_at.max(now));
                self.arm(id);
            }
            return Look::Known(held);
        }
        let refreshing = entry.asking.as_ref().is_some_and(|asking| asking.since < expires);
        if entry.failures > 0 || entry.denied_since.is_some() || refreshing {
            self.stats.served_stale += 1;
            if entry.next_ask.is_some_and(|at| at > now + self.config.retry_max) {
                entry.next_ask = Some(now);
                self.arm(id);
            }
            return Look::Known(held);
        }
        if ask {
            self.ask(now, id, true);
        }
        let since = self.entries.get(&id).and_then(|entry| entry.asking.as_ref()).map(|asking| asking.since);
        match since.map(|since| since + self.config.query_patience) {
            Some(until) if now < until && !self.silent => Look::Checking(held, id),
            Some(_) | None => {
                self.stats.served_stale += 1;
                Look::Known(held)
            }
        }
    }

    /// Has the entry wake `ticket` when its question is answered.
    pub(crate) fn wait_on(&mut self, id: u64, ticket: u64) {
        if let Some(entry) = self.entries.get_mut(&id)
            && !entry.waiters.contains(&ticket)
        {
            entry.waiters.push(ticket);
        }
    }

    /// The next question for the shell, those that someone waits for first.
    pub(crate) fn poll_query(&mut self, now: Instant, urgent_only: bool) -> Option<Query> {
        loop {
            let id = match self.urgent.pop_front() {
                Some(id) => id,
                None if urgent_only => return None,
                None => self.background.pop_front()?,
            };
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            let Some(asking) = entry.asking.as_mut().filter(|asking| asking.sent.is_none()) else { continue };
            asking.sent = Some(now);
            let query =
                Query { id: QueryId(id), name: entry.key.name.clone(), kind: entry.key.kind, urgent: asking.urgent };
            self.stats.queries += 1;
            self.arm(id);
            return Some(query);
        }
    }

    /// Takes an answer; yields whom to wake.
    pub(crate) fn handle_answer(&mut self, now: Instant, id: QueryId, result: Result<Answer, DnsFailure>) -> Vec<u64> {
        self.silent = result == Err(DnsFailure::Timeout);
        let id = id.0;
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        let asked = entry.asking.take().is_some();
        let waiters = std::mem::take(&mut entry.waiters);
        let kind = entry.key.kind;
        let result = result.and_then(|answer| {
            let mut records = answer.records;
            records.retain(|record| record.kind() == kind);
            records.sort();
            records.dedup();
            records.truncate(MAX_RECORDS);
            if records.is_empty() { Err(DnsFailure::NoData) } else { Ok((records, answer.ttl)) }
        });
        match result {
            Ok((records, ttl)) => {
                entry.denied_since = None;
                let ttl = ttl.clamp(self.config.min_ttl, self.config.max_ttl);
                self.learn(now, id, Ok(records.into()), now + ttl, ttl);
            }
            Err(failure) if !asked => {
                // A question that counted as lost failed at last: nothing new.
                tracing::trace!(%failure, "late DNS failure");
            }
            Err(failure) if failure.is_denial() => {
                self.stats.failures += 1;
                let good = entry.good();
                let since = *entry.denied_since.get_or_insert(now);
                if good && now.saturating_duration_since(since) < self.config.distrust {
                    self.stats.distrusted += 1;
                    tracing::debug!(name = %entry.key.name, kind = ?kind, %failure, "not believed yet");
                    entry.failures = 0;
                    entry.next_ask = Some(now + self.config.distrust_retry);
                } else {
                    entry.denied_since = None;
                    let ttl = self.config.negative_ttl;
                    self.learn(now, id, Err(failure), now + ttl, ttl);
                }
            }
            Err(failure) => {
                self.stats.failures += 1;
                entry.failures = entry.failures.saturating_add(1);
                let doubled = self.config.retry_min.saturating_mul(1 << (entry.failures - 1).min(16));
                let pause = doubled.min(self.config.retry_max);
                let idle = now.saturating_duration_since(entry.wanted);
                let pinned = self.pins.contains_key(&entry.key.name);
                if entry.known.is_some() {
                    entry.next_ask = Some(now + if pinned { pause } else { pause.max(idle / 4) });
                } else {
                    entry.trouble = Some((failure, now + pause));
                    entry.next_ask = pinned.then_some(now + pause);
                }
            }
        }
        self.rank(id);
        self.arm(id);
        waiters
    }

    /// Takes in what was known before a restart. False when it is not taken.
    pub(crate) fn restore(
        &mut self,
        now: Instant,
        key: Key,
        value: Result<Arc<[RecordData]>, DnsFailure>,
        expires: Instant,
        refresh_at: Instant,
    ) -> bool {
        if self.ids.contains_key(&key) || self.entries.len() >= self.config.max_entries {
            return false;
        }
        let Some(id) = self.insert(now, key) else { return false };
        self.learn(now, id, value, expires, Duration::ZERO);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.next_ask = Some(refresh_at);
        }
        self.rank(id);
        self.arm(id);
        true
    }

    /// All that is known, with when it runs out.
    #[expect(clippy::type_complexity, reason = "an iterator of borrowed parts, used once")]
    pub(crate) fn known(&self) -> impl Iterator<Item = (&Key, &Result<Arc<[RecordData]>, DnsFailure>, Instant)> {
        self.entries
            .values()
            .filter_map(|entry| entry.known.as_ref().map(|known| (&entry.key, &known.value, known.expires)))
    }

    /// When to call [`Cache::handle_timeout`].
    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        self.deadlines.next_deadline()
    }

    /// Refreshes and forgets what is due; yields whom to wake.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Vec<u64> {
        let mut woken = Vec::new();
        while let Some(id) = self.deadlines.pop_due(now) {
            let Some(entry) = self.entries.get(&id) else { continue };
            let lost = entry.asking.as_ref().and_then(|asking| asking.sent);
            if lost.is_some_and(|sent| now >= sent + self.config.query_lost) {
                woken.append(&mut self.handle_answer(now, QueryId(id), Err(DnsFailure::Timeout)));
                continue;
            }
            if self.forget_at(entry).is_some_and(|at| now >= at) {
                self.remove(id);
                continue;
            }
            if entry.asking.is_none() && entry.next_ask.is_some_and(|at| now >= at) {
                self.ask(now, id, false);
            }
            self.arm(id);
        }
        woken
    }

    /// Keeps the name, and all that its records lead to, until it is unpinned as often.
    pub(crate) fn pin(&mut self, name: &Arc<str>) {
        let count = self.pins.entry(name.clone()).or_insert(0);
        *count += 1;
        if *count == 1 {
            self.repin(name);
        }
    }

    /// Takes a pin back.
    pub(crate) fn unpin(&mut self, name: &Arc<str>) {
        let Some(count) = self.pins.get_mut(name) else { return };
        *count -= 1;
        if *count == 0 {
            self.pins.remove(name);
            self.repin(name);
        }
    }

    /// After the pin of a name came or went: its entries' places, and the pins of the names they lead to.
    fn repin(&mut self, name: &Arc<str>) {
        let pinned = self.pins.contains_key(name);
        for kind in [Kind::Naptr, Kind::Srv, Kind::A, Kind::Aaaa] {
            let Some(id) = self.ids.get(&Key { name: name.clone(), kind }).copied() else { continue };
            if let Some(entry) = self.entries.get_mut(&id)
                && entry.known.is_none()
            {
                entry.next_ask = entry.trouble.map(|(_, until)| until).filter(|_| pinned);
            }
            self.pin_next(id);
            self.rank(id);
            self.arm(id);
        }
    }

    /// Puts what was learned into the entry.
    fn learn(
        &mut self,
        now: Instant,
        id: u64,
        value: Result<Arc<[RecordData]>, DnsFailure>,
        expires: Instant,
        ttl: Duration,
    ) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let pinned = self.pins.contains_key(&entry.key.name);
        if entry.known.as_ref().is_none_or(|known| known.value != value) {
            self.changes += 1;
            self.pinned_changes += u64::from(pinned);
            entry.changed = self.changes;
        }
        let ahead = ttl.mul_f64(self.config.refresh_ahead);
        let idle = now.saturating_duration_since(entry.wanted);
        let pause = if pinned { ahead } else { ahead.max(idle / 4) };
        entry.known = Some(Known { value, expires, refresh_at: now + ahead });
        entry.trouble = None;
        entry.failures = 0;
        entry.next_ask = Some(now + pause);
        self.pin_next(id);
    }

    /// Has a pinned entry pin the names that its records lead to, and those only.
    fn pin_next(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let after = if self.pins.contains_key(&entry.key.name) { next_names(entry) } else { Vec::new() };
        let before = std::mem::replace(&mut entry.pins, after.clone());
        after.iter().for_each(|name| self.pin(name));
        before.iter().for_each(|name| self.unpin(name));
    }

    /// Queues a question unless one is out; one that is out becomes urgent.
    fn ask(&mut self, now: Instant, id: u64, urgent: bool) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        match &mut entry.asking {
            Some(asking) if asking.sent.is_some() || asking.urgent || !urgent => return,
            Some(asking) => asking.urgent = true,
            None => entry.asking = Some(Asking { since: now, sent: None, urgent }),
        }
        entry.next_ask = None;
        let queue = if urgent { &mut self.urgent } else { &mut self.background };
        queue.push_back(id);
        // Those of dropped entries go when they outnumber what can be alive.
        if queue.len() > 2 * self.config.max_entries {
            let entries = &self.entries;
            queue.retain(|id| entries.contains_key(id));
        }
        self.arm(id);
    }

    fn insert(&mut self, now: Instant, key: Key) -> Option<u64> {
        if self.entries.len() >= self.config.max_entries {
            let Some(victim) = self.victim(now) else {
                self.stats.refused += 1;
                return None;
            };
            self.stats.evicted += 1;
            self.remove(victim);
        }
        self.next_id += 1;
        let id = self.next_id;
        self.ids.insert(key.clone(), id);
        let entry = Entry {
            key,
            known: None,
            trouble: None,
            denied_since: None,
            failures: 0,
            asking: None,
            next_ask: None,
            wanted: now,
            rank: None,
            changed: self.changes,
            waiters: Vec::new(),
            pins: Vec::new(),
        };
        self.entries.insert(id, entry);
        self.rank(id);
        Some(id)
    }

    /// Who makes room: the one never good that was wanted longest ago. While those are few, one that a look-up may
    /// still wait for is spared at the cost of the good one wanted longest ago, or a full cache could learn nothing.
    fn victim(&self, now: Instant) -> Option<u64> {
        let good = self.good.first();
        let Some(oldest) = self.never_good.first() else { return good.map(|good| good.1) };
        let waited_for = now.saturating_duration_since(oldest.0) < self.config.first_wait;
        let spared = waited_for && self.never_good.len() < self.config.max_entries / 4;
        Some(good.filter(|_| spared).unwrap_or(oldest).1)
    }

    fn remove(&mut self, id: u64) {
        let Some(entry) = self.entries.remove(&id) else { return };
        self.ids.remove(&entry.key);
        self.deadlines.cancel(&id);
        if let Some((good, wanted)) = entry.rank {
            if good {
                self.good.remove(&(wanted, id))
            } else {
                self.never_good.remove(&(wanted, id))
            };
        }
    }

    /// Puts the entry where it belongs among those that may be dropped.
    fn rank(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let rank = (!self.pins.contains_key(&entry.key.name)).then_some((entry.good(), entry.wanted));
        if rank != entry.rank {
            if let Some((good, wanted)) = entry.rank {
                if good {
                    self.good.remove(&(wanted, id))
                } else {
                    self.never_good.remove(&(wanted, id))
                };
            }
            if let Some((good, wanted)) = rank {
                if good {
                    self.good.insert((wanted, id))
                } else {
                    self.never_good.insert((wanted, id))
                };
            }
            entry.rank = rank;
        }
    }

    /// When the entry is forgotten if nothing happens.
    fn forget_at(&self, entry: &Entry) -> Option<Instant> {
        if entry.asking.is_some() || self.pins.contains_key(&entry.key.name) {
            return None;
        }
        let keep = match entry.known {
            Some(_) => self.config.forget_after,
            None => self.config.forget_after.min(2 * self.config.retry_max),
        };
        Some(entry.wanted + keep)
    }

    /// Sets the entry's one deadline.
    fn arm(&mut self, id: u64) {
        let Some(entry) = self.entries.get(&id) else { return };
        let lost = entry.asking.as_ref().and_then(|asking| asking.sent).map(|sent| sent + self.config.query_lost);
        let next = entry.next_ask.filter(|_| entry.asking.is_none());
        match [lost, next, self.forget_at(entry)].into_iter().flatten().min() {
            Some(at) => self.deadlines.set(id, at),
            None => self.deadlines.cancel(&id),
        }
    }
}

/// The names that an entry's records lead to; a name that leads to itself is no reason to keep it.
fn next_names(entry: &Entry) -> Vec<Arc<str>> {
    let records = entry.known.as_ref().and_then(|known| known.value.as_ref().ok());
    records
        .into_iter()
        .flat_map(|records| records.iter())
        .filter_map(RecordData::next_name)
        .filter(|name| *name != entry.key.name)
        .collect()
}
