//! Bindings from elsewhere: the journal of this node, other nodes.
//!
//! ```text
//! this node:  phone --connection--> [flow]                         requests go along the flow
//! others:                           [home: node, hop] --Route--> that node --connection--> phone
//! ```
//!
//! A connection, and a hole in a NAT, belong to the node that a phone registered at. Elsewhere the binding has a *home*
//! instead of a flow: the node, and a Route over it that stands for the flow (RFC 5626 5.3). While that node is away,
//! contacts that could be reached only over it are not offered, and the others are called directly.

use std::time::{Duration, Instant};

use ferric_sip::uri::Uri;

use crate::binding::{Binding, Extra, Home, NO_Q, Saved, SavedKey};
use crate::changes::Change;
use crate::registrar::Registrar;

impl Registrar {
    /// Takes a binding back; false when it is over, of nobody that may register, over a limit, or could be reached only
    /// along a connection that is gone.
    pub fn restore(&mut self, now: Instant, unix_s: u64, saved: Saved) -> bool {
        self.take_in(now, unix_s, saved).is_some()
    }

    /// Takes over what another node has of a binding, and tells so as a change; false where it is not taken, as in
    /// [`Registrar::restore`].
    pub fn merge(&mut self, now: Instant, unix_s: u64, saved: Saved) -> bool {
        let Some(taken) = self.take_in(now, unix_s, saved) else { return false };
        self.changes.push(Change::Set(Box::new(taken)));
        true
    }

    /// Removes a binding that another node removed; false when there was none.
    pub fn forget(&mut self, key: &SavedKey) -> bool {
        let gone = self.table.edit(&key.aor, |bindings| {
            let had = bindings.len();
            bindings.retain(|binding| binding.key(&key.aor) != *key);
            bindings.len() < had
        });
        if gone {
            self.changes.push(Change::Remove(key.clone()));
        }
        gone
    }

    /// Another node is there, or is not there any more. One of which nobody told is not.
    pub fn set_there(&mut self, node: &str, there: bool) {
        if there {
            self.there.insert(node.to_owned());
        } else {
            self.there.remove(node);
        }
    }

    /// Whether anything leads to a contact.
    pub(crate) fn is_reached(&self, binding: &Binding) -> bool {
        !self.is_away(binding) || !binding.dies_with_flow()
    }

    /// The Route to a contact, its Path included.
    pub(crate) fn way(&self, binding: &Binding) -> Vec<String> {
        let hop = binding.home().filter(|_| !self.is_away(binding)).map(|home| home.hop.to_string());
        hop.into_iter().chain(binding.path().iter().map(|value| value.to_string())).collect()
    }

    fn is_away(&self, binding: &Binding) -> bool {
        binding.home().is_some_and(|home| !self.there.contains(&*home.node))
    }

    fn take_in(&mut self, now: Instant, unix_s: u64, saved: Saved) -> Option<Saved> {
        let left = saved.expires.saturating_sub(unix_s).min(self.config.max_expires.as_secs());
        let has_home = saved.home.is_some();
        let flow = saved.flow.as_ref().filter(|_| !has_home);
        let is_gone = flow.is_some_and(|flow| flow.revive().is_none()) && (saved.outbound || !saved.reachable);
        if left == 0
            || is_gone
            || !self.may_exist(&saved.aor)
            || Uri::parse(&saved.uri).is_err()
            || saved.q.is_some_and(|q| q > 1_000)
        {
            return None;
        }
        let key = saved.key();
        let flow = flow.and_then(|flow| flow.revive()).map(Box::new);
        let home = saved.home.map(|home| Home { node: home.node.into(), hop: home.hop.into() });
        let extra = Extra {
            instance: saved.instance.map(String::into_boxed_str),
            reg_id: saved.reg_id,
            path: saved.path.into_iter().map(String::into_boxed_str).collect(),
            home,
        };
        let binding = Binding {
            uri: saved.uri.into_boxed_str(),
            call: saved.call,
            expires: now + Duration::from_secs(left),
            order: saved.order,
            flow,
            extra: (extra != Extra::default()).then(|| Box::new(extra)),
            cseq: saved.cseq,
            q: saved.q.unwrap_or(NO_Q),
            outbound: saved.outbound,
            reachable: saved.reachable,
        };
        self.order = self.order.max(binding.order);
        let taken = binding.save(&saved.aor, now, unix_s);
        let (room, most) = (self.table.len() < self.config.max_bindings, self.config.max_contacts);
        let took = self.table.edit(&saved.aor, |bindings| {
            let has_room = room && bindings.len() < most;
            match bindings.iter_mut().find(|have| have.key(&key.aor) == key) {
                Some(have) => *have = binding,
                None if has_room => bindings.push(binding),
                None => return false,
            }
            true
        });
        took.then_some(taken)
    }
}
