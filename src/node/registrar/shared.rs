//! Registrations that all nodes have.
//!
//! ```text
//! REGISTER -> Registrar --changes--> journal
//!                             \----> Sharing::put, remove --> soft state --> other nodes
//! other nodes -> soft state --keys--> feed (a task) --News--> Sharing::take_over --> Registrar::merge, forget --> journal
//! ```
//!
//! One entry of soft state a binding: the key is its identity, the value the [`Saved`] form. Which of two writes counts is
//! decided by the soft state alone, by its stamps: a binding is written there on the thread of SIP, at once, and what is
//! heard of others is read from there at the moment it is taken over. So the registrar of each node comes to what the soft
//! state says, whatever came in which order. CSeq and Call-ID are part of the binding, so a REGISTER that moves to another
//! node is held against what the first one took.
//!
//! - A binding over a connection, or through a NAT, has a home: the node that has it, and a Route over that node
//!   ([`ferric_proxy::Proxy::hop`]).
//! - Times travel as what remains, never as somebody's clock.
//! - Lives end everywhere by themselves; only what is removed is told.
//! - A node that starts knows its journal. When it has joined the others, what they know to be removed is given up, and what
//!   they do not know is told: it was taken while they were away, or before all of them were.
//! - A binding whose key or value is too long for the soft state stays with its node. So does what finds it full; this is
//!   counted and said.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_cluster::{ClusterState, Followed, Kind, PutError};
use ferric_registrar::{Saved, SavedHome, SavedKey};
use tokio::sync::mpsc;

use super::super::cluster::{Cluster, MemberEvent, Members};
use super::{NodeRegistrar, unix_s};
use crate::metrics;

/// Keys in one piece of news.
const BATCH: usize = 256;
/// Pieces of news that wait for the thread of SIP; the task that brings them waits then.
const WAITING: usize = 16;
/// Bindings compared in one go, and the pause between.
const PIECE: usize = 500;
const PAUSE: Duration = Duration::from_millis(20);
/// Between two looks at whether this node has joined.
const JOINED_LOOK: Duration = Duration::from_millis(200);
/// The longest life of an entry: what the soft state takes.
const MOST_LIFE: Duration = Duration::from_secs(2 * 3600);

/// What is heard of others.
#[derive(Debug)]
pub(in crate::node) enum News {
    /// These bindings changed.
    Changed(Vec<Bytes>),
    /// A node is there, or is not.
    There(String, bool),
    /// Who takes SIP at these addresses drains or is gone, or takes calls again.
    Away(Vec<SocketAddr>, bool),
    /// This node has what the others have.
    Joined,
}

/// What is done with all bindings, piece by piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    /// What is known to be removed is given up, and what is not known is told.
    Settle,
    /// Everything of this node is told again.
    TellAll,
}

/// The signalling side: owned by the edge.
pub(in crate::node) struct Sharing {
    state: ClusterState,
    node: String,
    incarnation: u64,
    news: mpsc::Receiver<News>,
    there: BTreeSet<String>,
    /// Where comparing goes on.
    compare: Option<(Compare, u32)>,
    due: Option<Instant>,
    unshared: u64,
}

impl Sharing {
    /// Begins to share, if there are others; call it before [`Cluster::open`].
    pub(in crate::node) fn start(cluster: &Cluster) -> Option<Sharing> {
        cluster.fabric()?;
        let (sender, news) = mpsc::channel(WAITING);
        tokio::spawn(feed(cluster.clone(), cluster.follow(), sender));
        Some(Sharing {
            state: cluster.state().clone(),
            node: cluster.node().to_string(),
            incarnation: cluster.incarnation(),
            news,
            there: BTreeSet::new(),
            compare: None,
            due: None,
            unshared: 0,
        })
    }

    /// Waits for news.
    pub(in crate::node) async fn recv(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            // The node ends.
            None => std::future::pending().await,
        }
    }

    pub(in crate::node) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// A registrar begins: it hears who is there, and the others what it has.
    pub(in crate::node) fn introduce(&mut self, now: Instant, registrar: &mut NodeRegistrar) {
        registrar.share();
        for node in &self.there {
            registrar.core.set_there(node, true);
        }
        let joined = self.state.health().joined;
        if joined {
            let keys: Vec<Bytes> = self.state.list(Kind::Registration).into_iter().map(|view| view.key).collect();
            self.take_over(now, &keys, registrar);
            self.begin(now, Compare::TellAll);
        }
    }

    /// Takes news in.
    pub(in crate::node) fn handle(&mut self, now: Instant, news: News, registrar: Option<&mut NodeRegistrar>) {
        if let News::There(node, there) = &news {
            if *there {
                self.there.insert(node.clone())
            } else {
                self.there.remove(node)
            };
        }
        let Some(registrar) = registrar else { return };
        match news {
            News::Changed(keys) => self.take_over(now, &keys, registrar),
            News::There(node, there) => registrar.core.set_there(&node, there),
            // That is for the server groups.
            News::Away(..) => {}
            News::Joined => self.begin(now, Compare::Settle),
        }
    }

    /// Compares the next piece.
    pub(in crate::node) fn handle_timeout(&mut self, now: Instant, registrar: Option<&mut NodeRegistrar>) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        let (Some((what, from)), Some(registrar)) = (self.compare, registrar) else {
            (self.compare, self.due) = (None, None);
            return;
        };
        let (piece, next) = registrar.core.export(now, unix_s(), from, PIECE);
        for saved in piece {
            let is_own = saved.home.is_none();
            let Some(key) = key_of(&saved.key()) else { continue };
            let is_known = || self.state.get(Kind::Registration, &key).is_some();
            match what {
                Compare::Settle if self.state.is_removed(Kind::Registration, &key) => {
                    let _ = registrar.core.forget(&saved.key());
                }
                Compare::Settle if is_own && !is_known() => registrar.tell(saved),
                Compare::TellAll if is_own => registrar.tell(saved),
                Compare::Settle | Compare::TellAll => {}
            }
        }
        registrar.take(false);
        (self.compare, self.due) = match next {
            Some(from) => (Some((what, from)), Some(now + PAUSE)),
            None => (None, None),
        };
    }

    fn begin(&mut self, now: Instant, what: Compare) {
        (self.compare, self.due) = (Some((what, 0)), Some(now));
    }

    /// Changes were lost on the way here: all is told again.
    pub(in crate::node) fn tell_all(&mut self, now: Instant) {
        self.begin(now, Compare::TellAll);
    }

    /// Tells the others of a binding; `hop`: the Route over this node to its flow.
    pub(in crate::node) fn put(&mut self, mut saved: Saved, hop: Option<String>) {
        let key = saved.key();
        let life = Duration::from_secs(saved.expires.saturating_sub(unix_s())).min(MOST_LIFE);
        saved.home = hop.map(|hop| SavedHome { node: self.node.clone(), hop });
        let told = match (key_of(&key), serde_json::to_vec(&saved)) {
            (Some(key), Ok(value)) => self.state.put(Kind::Registration, &key, &value, life),
            (None, _) => Err(PutError::Key(key.aor.len() + key.contact.len())),
            (_, Err(_)) => Err(PutError::Value(0)),
        };
        if let Err(error) = told {
            if self.unshared.is_multiple_of(1_000) {
                tracing::warn!(%error, count = self.unshared + 1, "a registration is not shared: this node alone has it");
            }
            self.unshared += 1;
            metrics::total("ferric_registrations_unshared_total", self.unshared);
        }
    }

    /// Tells the others that a binding is gone.
    pub(in crate::node) fn remove(&mut self, key: &SavedKey) {
        if let Some(key) = key_of(key) {
            self.state.remove(Kind::Registration, &key);
        }
    }

    /// Brings the registrar to what the soft state says of these bindings.
    fn take_over(&mut self, now: Instant, keys: &[Bytes], registrar: &mut NodeRegistrar) {
        let unix_s = unix_s();
        for key in keys {
            let Some(view) = self.state.get(Kind::Registration, key) else {
                if let Some(key) = key_from(key) {
                    registrar.core.forget(&key);
                }
                continue;
            };
            let owner = &view.stamp.owner;
            if owner.node.as_str() == self.node && owner.incarnation == self.incarnation {
                continue;
            }
            let Ok(mut saved) = serde_json::from_slice::<Saved>(&view.value) else { continue };
            if key_of(&saved.key()).as_deref() != Some(&key[..]) {
                continue;
            }
            saved.expires = unix_s + view.remaining.as_secs().max(1);
            let is_home = saved.home.as_ref().is_some_and(|home| home.node == self.node);
            if !is_home {
                registrar.core.merge(now, unix_s, saved);
                continue;
            }
            // Of an earlier run of this node: its connections are gone, its datagram flows go on.
            saved.home = None;
            if registrar.core.merge(now, unix_s, saved.clone()) {
                registrar.tell(saved);
            } else {
                self.state.remove(Kind::Registration, key);
            }
        }
        registrar.take(false);
    }
}

/// The key of a binding in the soft state: its parts, each in its own line; `None`: a part has lines of its own.
fn key_of(key: &SavedKey) -> Option<Vec<u8>> {
    let reg_id = key.reg_id.map(|reg_id| format!("\n{reg_id}")).unwrap_or_default();
    let whole = !key.aor.contains('\n') && !key.contact.contains('\n');
    whole.then(|| format!("{}\n{}{reg_id}", key.aor, key.contact).into_bytes())
}

fn key_from(bytes: &[u8]) -> Option<SavedKey> {
    let mut lines = std::str::from_utf8(bytes).ok()?.split('\n');
    let (aor, contact) = (lines.next()?.to_owned(), lines.next()?.to_owned());
    let reg_id = lines.next().map(str::parse).transpose().ok()?;
    lines.next().is_none().then_some(SavedKey { aor, contact, reg_id })
}

/// Brings news of the soft state and of nodes to the thread of SIP.
async fn feed(cluster: Cluster, mut members: Members, news: mpsc::Sender<News>) {
    let state = cluster.state();
    let mut changes = state.follow();
    if tell_list(state, &news).await.is_none() {
        return;
    }
    let mut look = tokio::time::interval(JOINED_LOOK);
    let mut joined = false;
    loop {
        let sent = tokio::select! {
            _ = look.tick(), if !joined => {
                joined = state.health().joined;
                if !joined {
                    continue;
                }
                news.send(News::Joined).await.ok()
            }
            event = members.next() => match event {
                Some(event) => tell_there(&cluster, event, &news).await,
                None => return,
            },
            change = changes.next() => match change {
                Some(Followed::Missed(_)) => tell_list(state, &news).await,
                Some(first) => {
                    let mut keys: Vec<Bytes> = registration(first).into_iter().collect();
                    let mut missed = false;
                    while keys.len() < BATCH
                        && let Some(more) = changes.try_next()
                    {
                        missed |= matches!(more, Followed::Missed(_));
                        keys.extend(registration(more));
                    }
                    if missed {
                        tell_list(state, &news).await
                    } else if keys.is_empty() {
                        Some(())
                    } else {
                        news.send(News::Changed(keys)).await.ok()
                    }
                }
                None => return,
            },
        };
        if sent.is_none() {
            return;
        }
    }
}

fn registration(change: Followed) -> Option<Bytes> {
    match change {
        Followed::Changed { kind: Kind::Registration, key, .. } => Some(key),
        Followed::Changed { kind: Kind::Session | Kind::Load, .. } | Followed::Missed(_) => None,
    }
}

async fn tell_list(state: &ClusterState, news: &mpsc::Sender<News>) -> Option<()> {
    let keys: Vec<Bytes> = state.list(Kind::Registration).into_iter().map(|view| view.key).collect();
    for batch in keys.chunks(BATCH) {
        news.send(News::Changed(batch.to_vec())).await.ok()?;
    }
    Some(())
}

async fn tell_there(cluster: &Cluster, event: MemberEvent, news: &mpsc::Sender<News>) -> Option<()> {
    match event {
        MemberEvent::Up(seen) => {
            news.send(News::Away(seen.serves, seen.draining)).await.ok()?;
            news.send(News::There(seen.node.to_string(), true)).await.ok()
        }
        MemberEvent::Changed(seen) => news.send(News::Away(seen.serves, seen.draining)).await.ok(),
        MemberEvent::Down { node, .. } => {
            let gone = cluster.members().into_iter().find(|member| member.node == node);
            if let Some(gone) = gone.filter(|member| !member.is_up()) {
                news.send(News::Away(gone.profile.serves, true)).await.ok()?;
            }
            news.send(News::There(node.to_string(), false)).await.ok()
        }
        MemberEvent::Missed => {
            for member in cluster.members() {
                let (there, draining) = (member.is_up(), member.profile.draining);
                news.send(News::Away(member.profile.serves, draining || !there)).await.ok()?;
                news.send(News::There(member.node.to_string(), there)).await.ok()?;
            }
            Some(())
        }
    }
}

#[cfg(test)]
mod tests;
