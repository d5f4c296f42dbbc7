//! The registrar: REGISTER in, bindings kept, contacts out.

use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

use ferric_proxy::{Contact, Location};
use ferric_sip::flow::Flow;
use ferric_sip::message::Message;
use ferric_sip::uri::Uri;
use ferric_sip::validate::{Reject, validate_require};

use crate::aor::Aor;
use crate::binding::{Binding, Saved, SavedKey};
use crate::changes::{Change, Changes};
use crate::config::RegistrarConfig;
use crate::contact::contacts;
use crate::date::date;
use crate::digest::{Authenticator, Denied, Side};
use crate::register::{Facts, Step, contact_text, plan};
use crate::table::Table;
use crate::users::Users;

/// Option tags that a REGISTER may require.
const KNOWN: [&str; 2] = ["path", "outbound"];
/// Users looked at in one go when their bindings end; the rest follows at once.
const SWEEP: usize = 10_000;

/// What happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// REGISTERs answered with 200.
    pub accepted: u64,
    /// REGISTERs refused, challenges aside.
    pub refused: u64,
    /// Requests without credentials.
    pub challenged: u64,
    /// Right passwords with a nonce that is too old or was used.
    pub stale: u64,
    /// Wrong passwords, and names that are not there.
    pub wrong_password: u64,
    /// Requests not looked at after too many wrong passwords.
    pub throttled: u64,
    /// Bindings that ended by themselves.
    pub expired: u64,
    /// Bindings that ended with their connection.
    pub flow_lost: u64,
}

/// A registrar and location service.
#[derive(Debug)]
pub struct Registrar {
    pub(crate) config: RegistrarConfig,
    /// `None`: everybody who gets this far may register.
    users: Option<Users>,
    auth: Authenticator,
    pub(crate) table: Table,
    pub(crate) changes: Changes,
    pub(crate) order: u64,
    counters: Counters,
    /// The text of a second: there may be many answers in it.
    date: (u64, String),
    /// When a REGISTER came last, by both clocks.
    seen: Option<(Instant, u64)>,
    /// Other nodes that are there: what is reached over one that is not is not reached.
    pub(crate) there: BTreeSet<String>,
}

impl Registrar {
    /// An empty registrar. Without `users` no password is asked for: whoever may send to the proxy may register. The seed
    /// must be drawn from a good source: nonces are made with it.
    pub fn new(config: RegistrarConfig, users: Option<Users>, seed: &[u8; 32]) -> Registrar {
        Registrar {
            auth: Authenticator::new(seed, &config),
            changes: Changes::new(config.max_changes),
            users,
            config,
            table: Table::default(),
            order: 0,
            counters: Counters::default(),
            date: (0, String::new()),
            seen: None,
            there: BTreeSet::new(),
        }
    }

    /// Takes over another configuration and other users; the bindings of those who are no more are removed.
    pub fn apply(&mut self, config: RegistrarConfig, users: Option<Users>) {
        self.auth.apply(&config);
        self.changes.set_limit(config.max_changes);
        (self.config, self.users) = (config, users);
        for slot in 0..self.table.slots() {
            let stays = self.table.slot(slot).is_none_or(|record| self.may_exist(&record.aor));
            if !stays {
                self.remove(slot, Change::Remove, |_| true);
            }
        }
    }

    /// Bindings.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True without any binding.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Users with a binding.
    pub fn registered_users(&self) -> usize {
        self.table.aors()
    }

    /// What happened since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The next change of the bindings, in order; only with `max_changes` above 0.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop()
    }

    /// Bindings from a place on, and the place to go on from, `None` at the end. Begin with 0. About `most` at once. What
    /// changes in between comes by [`Registrar::poll_change`] too; applied in the order of the calls both agree.
    pub fn export(&self, now: Instant, unix_s: u64, from: u32, most: usize) -> (Vec<Saved>, Option<u32>) {
        let mut found = Vec::new();
        for slot in from..self.table.slots() {
            if found.len() >= most {
                return (found, Some(slot));
            }
            let Some(record) = self.table.slot(slot) else { continue };
            let alive = record.bindings.iter().filter(|binding| binding.expires > now);
            found.extend(alive.map(|binding| binding.save(&record.aor, now, unix_s)));
        }
        (found, None)
    }

    /// The bindings of one user, `user@domain`.
    pub fn bindings(&self, now: Instant, unix_s: u64, aor: &str) -> Vec<Saved> {
        let alive = self.table.get(aor).iter().filter(|binding| binding.expires > now);
        alive.map(|binding| binding.save(aor, now, unix_s)).collect()
    }

    /// The address of record is of one of our domains and, where users are listed, of one of them.
    pub(crate) fn may_exist(&self, aor: &str) -> bool {
        let domain = aor.rsplit_once('@').map_or("", |(_, domain)| domain);
        self.config.domain(domain) == Some(domain) && self.users.as_ref().is_none_or(|users| users.knows(aor))
    }

    fn count_denied(&mut self, denied: &Denied) {
        let counter = match denied {
            Denied::Asked(_) => &mut self.counters.challenged,
            Denied::Stale(_) => &mut self.counters.stale,
            Denied::Wrong(_) => &mut self.counters.wrong_password,
            Denied::Throttled(_) => &mut self.counters.throttled,
            Denied::Malformed(_) => &mut self.counters.refused,
        };
        *counter += 1;
    }

    /// Whose bindings a REGISTER is about (RFC 3261 10.3 steps 2 and 5).
    fn addressed(&self, request: &Message) -> Result<Aor, Reject> {
        let to = Uri::parse(&request.to_uri()?).ok();
        validate_require(request, &KNOWN)?;
        to.and_then(|uri| Aor::of(&uri, &self.config)).ok_or_else(|| Reject::because(404, "No such domain here"))
    }

    /// The credentials of a request must be those of `aor` (RFC 3261 10.3 steps 3 and 4).
    fn prove(
        &mut self,
        now: Instant,
        unix_s: u64,
        side: Side,
        aor: &Aor,
        request: &Message,
        flow: &Flow,
    ) -> Result<(), Reject> {
        let Some(users) = &self.users else { return Ok(()) };
        let source = flow.remote.ip();
        let name = self.auth.check(now, unix_s, side, users, &self.config, aor.domain(), request, source).map_err(
            |denied| {
                self.count_denied(&denied);
                denied.into_reject()
            },
        )?;
        if name == aor.user() {
            return Ok(());
        }
        self.counters.refused += 1;
        Err(Reject::because(403, "The password is another user's"))
    }

    fn answer_register(
        &mut self,
        now: Instant,
        unix_s: u64,
        request: &Message,
        flow: &Flow,
    ) -> Result<Message, Reject> {
        let aor = self.addressed(request)?;
        self.prove(now, unix_s, Side::Server, &aor, request, flow)?;
        let wanted = contacts(request, &self.config)?;
        let order = (self.order + 1).max(unix_s << 20);
        let facts = Facts::of(now, order, request, flow)?;
        self.sweep(&aor.key, now);
        let have = self.table.get(&aor.key);
        let steps = plan(have, wanted, &facts)?;
        self.check_limits(have.len(), &steps)?;
        let outbound = steps.iter().any(|step| match step {
            Step::Replace(_, binding) | Step::Add(binding) => binding.outbound,
            Step::Remove(_) => false,
        });
        if !steps.is_empty() {
            self.order = order;
            self.take(&aor.key, steps, now, unix_s);
        }
        Ok(self.accept(request, &aor.key, outbound, now, unix_s))
    }

    fn check_limits(&self, have: usize, steps: &[Step]) -> Result<(), Reject> {
        let added = steps.iter().filter(|step| matches!(step, Step::Add(_))).count();
        let removed = steps.iter().filter(|step| matches!(step, Step::Remove(_))).count();
        if added == 0 {
            return Ok(());
        }
        if have + added - removed > self.config.max_contacts {
            return Err(Reject::because(403, format!("More than {} contacts", self.config.max_contacts)));
        }
        if self.table.len() + added - removed > self.config.max_bindings {
            return Err(Reject::because(503, "The registrar is full").with("Retry-After", "60"));
        }
        Ok(())
    }

    /// Takes all steps of a plan.
    fn take(&mut self, aor: &str, steps: Vec<Step>, now: Instant, unix_s: u64) {
        let told = self.changes.is_wanted();
        let mut changes = Vec::new();
        self.table.edit(aor, |bindings| {
            let mut gone = Vec::new();
            for step in steps {
                match step {
                    Step::Remove(at) => gone.push(at),
                    Step::Replace(at, binding) => {
                        let Some(place) = bindings.get_mut(at) else { continue };
                        if told {
                            let old = place.key(aor);
                            if old != binding.key(aor) {
                                changes.push(Change::Remove(old));
                            }
                            changes.push(Change::Set(Box::new(binding.save(aor, now, unix_s))));
                        }
                        *place = binding;
                    }
                    Step::Add(binding) => {
                        if told {
                            changes.push(Change::Set(Box::new(binding.save(aor, now, unix_s))));
                        }
                        bindings.push(binding);
                    }
                }
            }
            gone.sort_unstable();
            for at in gone.into_iter().rev().filter(|at| *at < bindings.len()).collect::<Vec<_>>() {
                let binding = bindings.remove(at);
                if told {
                    changes.push(Change::Remove(binding.key(aor)));
                }
            }
        });
        // What goes is told first: a contact may have changed its identity and kept its URI.
        changes.sort_by_key(|change| matches!(change, Change::Set(_)));
        changes.into_iter().for_each(|change| self.changes.push(change));
    }

    /// The 200 with all bindings (RFC 3261 10.3 step 8).
    fn accept(&mut self, request: &Message, aor: &str, outbound: bool, now: Instant, unix_s: u64) -> Message {
        self.counters.accepted += 1;
        let mut response = Message::response(request, 200, None);
        for binding in self.table.get(aor) {
            response.add_header("Contact", &contact_text(binding, now));
        }
        if request.has_option("Supported", "path") {
            response.copy_lines(request, "Path");
        }
        if outbound {
            response.add_header("Require", "outbound");
        }
        response.add_header("Supported", "path, outbound");
        if self.date.0 != unix_s || self.date.1.is_empty() {
            self.date = (unix_s, date(unix_s));
        }
        response.add_header("Date", &self.date.1);
        response
    }

    /// Removes what is over of one user.
    fn sweep(&mut self, aor: &str, now: Instant) {
        if self.table.get(aor).iter().all(|binding| binding.expires > now) {
            return;
        }
        let gone: Vec<Binding> =
            self.table.edit(aor, |bindings| bindings.extract_if(.., |binding| binding.expires <= now).collect());
        self.counters.expired += gone.len() as u64;
        for binding in
            gone.iter().filter(|_| self.changes.is_wanted()).map(|binding| binding.key(aor)).collect::<Vec<_>>()
        {
            self.changes.push(Change::Expired(binding));
        }
    }

    /// Removes bindings of a slot; how many. `told`: as what.
    fn remove(&mut self, slot: u32, told: fn(SavedKey) -> Change, which: impl Fn(&Binding) -> bool) -> u64 {
        let (aor, gone) = self
            .table
            .edit_slot(slot, |bindings| bindings.extract_if(.., |binding| which(binding)).collect::<Vec<_>>());
        if let Some(aor) = aor.filter(|_| self.changes.is_wanted()) {
            gone.iter().for_each(|binding| self.changes.push(told(binding.key(&aor))));
        }
        gone.len() as u64
    }
}

impl Location for Registrar {
    fn register(&mut self, now: Instant, unix_s: u64, request: &Message, flow: &Flow) -> Message {
        let before = self.counters;
        self.seen = Some((now, unix_s));
        self.answer_register(now, unix_s, request, flow).unwrap_or_else(|reject| {
            if self.counters == before {
                self.counters.refused += 1;
            }
            reject.response(request)
        })
    }

    fn challenge(&mut self, unix_s: u64, request: &Message, flow: &Flow) -> Option<Reject> {
        let users = self.users.as_ref().filter(|_| request.header("Authorization").is_none())?;
        let aor = self.addressed(request).ok()?;
        self.counters.challenged += 1;
        Some(self.auth.challenge(Side::Server, users, aor.domain(), flow.remote.ip(), unix_s, false))
    }

    fn lookup(&self, now: Instant, aor: &Uri) -> Option<Vec<Contact>> {
        let secure = aor.scheme == "sips";
        let aor = Aor::of(aor, &self.config)?;
        if self.users.as_ref().is_some_and(|users| !users.knows(&aor.key)) {
            return None;
        }
        // A sips request goes to sips contacts only (RFC 5630 5.3).
        let fits = |binding: &&Binding| {
            binding.expires > now
                && self.is_reached(binding)
                && (!secure || binding.uri.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("sips:")))
        };
        let mut found: Vec<&Binding> = self.table.get(&aor.key).iter().filter(fits).collect();
        found.sort_by_key(|binding| std::cmp::Reverse(binding.order));
        // An instance rings once: along the flow that it registered last (RFC 5626 7).
        let mut seen: HashSet<&str> = HashSet::new();
        found.retain(|binding| binding.instance().is_none_or(|instance| seen.insert(instance)));
        found.sort_by_key(|binding| std::cmp::Reverse(binding.preference()));
        let contact = |binding: &Binding| Contact {
            uri: binding.uri.to_string(),
            q: binding.preference(),
            path: self.way(binding),
            flow: binding.flow.as_deref().copied(),
        };
        Some(found.into_iter().map(contact).collect())
    }

    fn authenticate(&mut self, now: Instant, unix_s: u64, request: &Message, flow: &Flow) -> Option<Message> {
        let from = request.from_uri().ok().and_then(|uri| Uri::parse(&uri).ok());
        let proof = match from.and_then(|uri| Aor::of(&uri, &self.config)) {
            Some(aor) => self.prove(now, unix_s, Side::Proxy, &aor, request, flow),
            None if self.users.is_none() => Ok(()),
            None => Err(Reject::because(403, "From names no user of our domains")),
        };
        proof.err().map(|reject| reject.response(request))
    }

    fn flow_failed(&mut self, now: Instant, flow: &Flow) {
        // Before the first REGISTER nobody has a connection.
        let Some((then, unix_s)) = self.seen.filter(|_| flow.connection != 0) else { return };
        let unix_s = unix_s + now.saturating_duration_since(then).as_secs();
        let lost = |binding: &Binding| binding.connection() == Some(flow.connection);
        for slot in self.table.along(flow.connection) {
            let dies = |binding: &Binding| lost(binding) && binding.dies_with_flow();
            self.counters.flow_lost += self.remove(slot, Change::Remove, dies);
            let (aor, stay) = self.table.edit_slot(slot, |bindings| {
                let mut stay = Vec::new();
                for binding in bindings.iter_mut().filter(|binding| lost(binding)) {
                    binding.flow = None;
                    stay.push(binding.clone());
                }
                stay
            });
            if let Some(aor) = aor.filter(|_| self.changes.is_wanted()) {
                let told = stay.iter().map(|binding| Change::Set(Box::new(binding.save(&aor, now, unix_s))));
                told.collect::<Vec<_>>().into_iter().for_each(|change| self.changes.push(change));
            }
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.table.next_deadline()
    }

    fn handle_timeout(&mut self, now: Instant) {
        for _ in 0..SWEEP {
            let Some(slot) = self.table.pop_due(now) else { return };
            self.counters.expired += self.remove(slot, Change::Expired, |binding| binding.expires <= now);
        }
    }
}
