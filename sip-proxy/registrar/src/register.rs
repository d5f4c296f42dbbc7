//! What a REGISTER does to the bindings of a user (RFC 3261 10.3 steps 6 and 7): a plan first, then all of it.

use std::time::Instant;

use ferric_sip::flow::Flow;
use ferric_sip::header::{NameAddr, Via};
use ferric_sip::message::Message;
use ferric_sip::uri::Uri;
use ferric_sip::validate::Reject;

use crate::binding::{Binding, Extra, NO_Q, call_hash};
use crate::contact::{Contacts, Wanted, path, preference_text};
use crate::equal::same_uri;
use crate::reach::{Reach, direct};

/// One step of a plan; numbers are places among the bindings as they are.
#[derive(Debug)]
pub(crate) enum Step {
    Remove(usize),
    Replace(usize, Binding),
    Add(Binding),
}

/// What a request says beside its contacts.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    now: Instant,
    call: u64,
    cseq: u32,
    order: u64,
    flow: &'a Flow,
    via: Via,
    /// No proxy between.
    is_direct: bool,
    path: Box<[Box<str>]>,
    outbound: bool,
}

impl<'a> Facts<'a> {
    pub(crate) fn of(now: Instant, order: u64, request: &Message, flow: &'a Flow) -> Result<Facts<'a>, Reject> {
        let call_id = request.call_id().ok_or_else(|| Reject::because(400, "Call-ID is missing"))?;
        let path = path(request)?;
        Ok(Facts {
            now,
            call: call_hash(&call_id),
            cseq: request.cseq()?.number,
            order,
            flow,
            via: request.top_via()?,
            is_direct: request.values("Via").len() == 1 && path.is_empty(),
            path: path.into_iter().map(String::into_boxed_str).collect(),
            outbound: request.has_option("Supported", "outbound"),
        })
    }

    /// Whether a contact is bound by instance and reg-id (RFC 5626 6). Without keep-alives on the first hop it cannot be:
    /// on UDP these would be STUN, which is not spoken here, so such a contact is bound as any other.
    fn is_outbound(&self, wanted: &Wanted) -> Result<bool, Reject> {
        if !self.outbound || wanted.reg_id.is_none() {
            return Ok(false);
        }
        if self.is_direct {
            return Ok(self.flow.transport.is_reliable());
        }
        let edge =
            self.path.last().and_then(|value| NameAddr::parse("Path", value).ok()).and_then(|edge| edge.parsed_uri());
        if edge.is_some_and(|uri| uri.params.has("ob")) {
            return Ok(true);
        }
        if wanted.expires.is_zero() { Ok(false) } else { Err(Reject::because(439, "First Hop Lacks Outbound Support")) }
    }

    fn bind(&self, wanted: &Wanted, outbound: bool) -> Binding {
        let Reach { flow, reachable } = if self.is_direct {
            direct(&wanted.uri, &self.via, self.flow, outbound)
        } else {
            Reach { flow: None, reachable: true }
        };
        let extra = Extra {
            instance: wanted.instance.as_deref().map(Box::from),
            reg_id: wanted.reg_id,
            path: self.path.clone(),
            home: None,
        };
        Binding {
            uri: wanted.text.as_str().into(),
            call: self.call,
            expires: self.now + wanted.expires,
            order: self.order,
            flow: flow.map(Box::new),
            extra: (extra != Extra::default()).then(|| Box::new(extra)),
            cseq: self.cseq,
            q: wanted.q.unwrap_or(NO_Q),
            outbound,
            reachable,
        }
    }

    /// A binding of the same Call-ID changes only with a higher CSeq (RFC 3261 10.3 step 7).
    fn check_order(&self, have: &Binding) -> Result<(), Reject> {
        if have.call == self.call && self.cseq <= have.cseq {
            return Err(Reject::because(500, "CSeq is not higher than before"));
        }
        Ok(())
    }
}

/// The steps that a request asks for; none of them is taken when one cannot be.
pub(crate) fn plan(have: &[Binding], contacts: Contacts, facts: &Facts<'_>) -> Result<Vec<Step>, Reject> {
    let list = match contacts {
        Contacts::Query => return Ok(Vec::new()),
        Contacts::All => {
            have.iter().try_for_each(|binding| facts.check_order(binding))?;
            return Ok((0..have.len()).map(Step::Remove).collect());
        }
        Contacts::List(list) => list,
    };
    let known: Vec<Option<Uri>> = have.iter().map(|binding| Uri::parse(&binding.uri).ok()).collect();
    let mut steps: Vec<(Uri, Step)> = Vec::with_capacity(list.len());
    for wanted in list {
        let outbound = facts.is_outbound(&wanted)?;
        let found = place(have, &known, &wanted, outbound);
        if let Some(binding) = found.and_then(|at| have.get(at)) {
            facts.check_order(binding)?;
        }
        // The same contact twice in one request: the later one counts.
        steps.retain(|(other, step)| match step {
            Step::Remove(at) | Step::Replace(at, _) => Some(*at) != found,
            Step::Add(binding) => !(found.is_none() && same_added(binding, other, &wanted, outbound)),
        });
        let step = match (found, wanted.expires.is_zero()) {
            (Some(at), true) => Step::Remove(at),
            (None, true) => continue,
            (Some(at), false) => Step::Replace(at, facts.bind(&wanted, outbound)),
            (None, false) => Step::Add(facts.bind(&wanted, outbound)),
        };
        steps.push((wanted.uri, step));
    }
    Ok(steps.into_iter().map(|(_, step)| step).collect())
}

/// The binding that a contact is about.
fn place(have: &[Binding], known: &[Option<Uri>], wanted: &Wanted, outbound: bool) -> Option<usize> {
    let by_instance = |binding: &Binding| binding.outbound && same_registration(binding, wanted);
    let by_uri = || {
        let same = |(binding, uri): (&Binding, &Option<Uri>)| {
            // Two flows of one instance may share a URI.
            !(outbound && binding.outbound)
                && (*binding.uri == *wanted.text || uri.as_ref().is_some_and(|uri| same_uri(uri, &wanted.uri)))
        };
        have.iter().zip(known).position(same)
    };
    if outbound { have.iter().position(by_instance).or_else(by_uri) } else { by_uri() }
}

fn same_registration(binding: &Binding, wanted: &Wanted) -> bool {
    binding.instance() == wanted.instance.as_deref() && binding.reg_id() == wanted.reg_id
}

fn same_added(binding: &Binding, uri: &Uri, wanted: &Wanted, outbound: bool) -> bool {
    if outbound && binding.outbound {
        return same_registration(binding, wanted);
    }
    same_uri(uri, &wanted.uri)
}

/// One Contact value of a 200 (RFC 3261 10.3 step 8).
pub(crate) fn contact_text(binding: &Binding, now: Instant) -> String {
    let mut text = ["<", &binding.uri, ">;expires=", &binding.remaining(now).to_string()].concat();
    if binding.q != NO_Q {
        text.push_str(&format!(";q={}", preference_text(binding.q)));
    }
    if let Some(instance) = binding.instance() {
        text.push_str(&format!(";+sip.instance=\"{instance}\""));
    }
    if let Some(reg_id) = binding.reg_id().filter(|_| binding.outbound) {
        text.push_str(&format!(";reg-id={reg_id}"));
    }
    text
}
