//! Dialogs (RFC 3261 12) and what hangs on one: the 2xx that is repeated until
//! its ACK (13.3.1.4), and the session timer (RFC 4028).

mod accepted;
mod session_timer;

pub use accepted::{AcceptedInvite, AcceptedState, AcceptedStep};
pub use session_timer::{SessionTimer, SessionTimerConfig, SessionTimerState, TimerEvent};

use serde::{Deserialize, Serialize};

use crate::header::{HeaderError, NameAddr};
use crate::message::Message;
use crate::method::Method;
use crate::validate::Reject;

/// What identifies a dialog on our side.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DialogId {
    /// Call-ID.
    pub call_id: String,
    /// Our tag.
    pub local_tag: String,
    /// The peer's tag; empty for a peer of RFC 2543.
    pub remote_tag: String,
}

impl DialogId {
    /// The dialog that a request from the peer belongs to; `None` outside of dialogs.
    pub fn of_request(request: &Message) -> Option<DialogId> {
        Some(DialogId {
            call_id: request.call_id()?.into_owned(),
            local_tag: request.to().ok()?.tag()?.to_owned(),
            remote_tag: request.from().ok()?.tag().unwrap_or("").to_owned(),
        })
    }
}

/// The state that both sides of a dialog keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialog {
    /// Its name.
    pub id: DialogId,
    /// Our From value in requests, tag included.
    local: String,
    /// Our To value in requests, tag included.
    remote: String,
    /// Route values in the order in which requests carry them.
    route_set: Vec<String>,
    /// Where requests go (the peer's Contact).
    target: String,
    local_cseq: u32,
    remote_cseq: Option<u32>,
}

impl Dialog {
    /// The dialog that an INVITE from a peer begins (RFC 3261 12.1.1).
    /// Without a Contact (some leave it out) requests go to the From URI.
    ///
    /// # Errors
    /// When From, To, Call-ID or CSeq cannot be read.
    pub fn uas(request: &Message, local_tag: &str, first_cseq: u32) -> Result<Dialog, HeaderError> {
        let from = request.from()?;
        let mut to = request.to()?;
        to.params.set("tag", Some(local_tag));
        let target = request.contacts()?.into_iter().next().map_or_else(|| from.uri.clone(), |contact| contact.uri);
        Ok(Dialog {
            id: DialogId {
                call_id: request.call_id().ok_or(HeaderError::Missing("Call-ID"))?.into_owned(),
                local_tag: local_tag.to_owned(),
                remote_tag: from.tag().unwrap_or("").to_owned(),
            },
            local: to.to_string(),
            remote: from.to_string(),
            route_set: request.values("Record-Route"),
            target,
            local_cseq: first_cseq & 0x7fff_ffff,
            remote_cseq: Some(request.cseq()?.number),
        })
    }

    /// The dialog that a 2xx to our INVITE begins (RFC 3261 12.1.2).
    ///
    /// # Errors
    /// When a field of either message cannot be read.
    pub fn uac(request: &Message, response: &Message) -> Result<Dialog, HeaderError> {
        let (from, to) = (response.from()?, response.to()?);
        let mut route_set = response.values("Record-Route");
        route_set.reverse();
        let target = match response.contacts()?.into_iter().next() {
            Some(contact) => contact.uri,
            None => request.request_uri().unwrap_or_default().into_owned(),
        };
        Ok(Dialog {
            id: DialogId {
                call_id: response.call_id().ok_or(HeaderError::Missing("Call-ID"))?.into_owned(),
                local_tag: from.tag().unwrap_or("").to_owned(),
                remote_tag: to.tag().unwrap_or("").to_owned(),
            },
            local: from.to_string(),
            remote: to.to_string(),
            route_set,
            target,
            local_cseq: request.cseq()?.number,
            remote_cseq: None,
        })
    }

    /// Where requests go.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The first hop of a request: the first route, or the target.
    pub fn next_hop(&self) -> &str {
        self.route_set.first().map_or(&self.target, |route| route)
    }

    /// Checks and notes the sequence number of a request from the peer (RFC 3261 12.2.2).
    ///
    /// # Errors
    /// 500 when the number went back.
    pub fn check_request(&mut self, request: &Message) -> Result<(), Reject> {
        let number = request.cseq()?.number;
        if request.method() == Method::Ack {
            return Ok(());
        }
        if self.remote_cseq.is_some_and(|last| number < last) {
            return Err(Reject::because(500, "CSeq is lower than that of an earlier request"));
        }
        self.remote_cseq = Some(number);
        Ok(())
    }

    /// Leaves numbers out: whoever had the dialog before may have sent requests that nobody else knows of.
    pub fn skip_ahead(&mut self, numbers: u32) {
        self.local_cseq = self.local_cseq.saturating_add(numbers).min(0x7fff_0000).max(self.local_cseq);
    }

    /// Takes the peer's new Contact out of a target refresh (INVITE, UPDATE or their 2xx).
    pub fn refresh_target(&mut self, message: &Message) {
        if let Some(contact) = message.contacts().ok().and_then(|all| all.into_iter().next()) {
            self.target = contact.uri;
        }
    }

    /// The next request of the dialog (RFC 3261 12.2.1.1), without Via, Contact and body.
    pub fn request(&mut self, method: &Method) -> Message {
        self.local_cseq = (self.local_cseq + 1) & 0x7fff_ffff;
        self.build(method, self.local_cseq)
    }

    /// The ACK to a 2xx of the INVITE with this number (RFC 3261 13.2.2.4).
    pub fn ack(&self, cseq: u32) -> Message {
        self.build(&Method::Ack, cseq)
    }

    fn build(&self, method: &Method, cseq: u32) -> Message {
        let first = self.route_set.first().and_then(|route| NameAddr::parse("Route", route).ok());
        let strict = first.filter(|route| route.parsed_uri().is_some_and(|uri| !uri.params.has("lr")));
        let uri = strict.as_ref().map_or(self.target.as_str(), |route| route.uri.as_str());
        let mut request = Message::request(method, uri);
        let skip = usize::from(strict.is_some());
        for route in self.route_set.iter().skip(skip) {
            request.add_header("Route", route);
        }
        if strict.is_some() {
            // A strict router wants the target as the last route (RFC 3261 12.2.1.1).
            request.add_header("Route", &format!("<{}>", self.target));
        }
        request.add_header("Max-Forwards", "70");
        request.add_header("From", &self.local);
        request.add_header("To", &self.remote);
        request.add_header("Call-ID", &self.id.call_id);
        request.add_header("CSeq", &format!("{cseq} {method}"));
        request.add_header("Content-Length", "0");
        request
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;

    fn invite(routes: &str) -> Message {
        let text = format!(
            "INVITE sip:srs@192.0.2.10 SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bK1\r\n{routes}\
             From: \"A\" <sip:a@example.com>;tag=f\r\nTo: <sip:b@example.com>\r\nCall-ID: c1\r\n\
             CSeq: 788291881 INVITE\r\nContact: <sip:a@10.0.0.1:5070;transport=tcp>;+sip.src\r\nContent-Length: 0\r\n\r\n"
        );
        Message::parse(Bytes::from(text)).unwrap()
    }

    #[test]
    fn requests_go_to_the_contact_through_the_recorded_routes() {
        let mut dialog = Dialog::uas(&invite("Record-Route: <sip:p1;lr>, <sip:p2;lr>\r\n"), "me", 41).unwrap();
        let bye = dialog.request(&Method::Bye);
        assert_eq!(bye.request_uri().unwrap(), "sip:a@10.0.0.1:5070;transport=tcp");
        assert_eq!(bye.values("Route"), ["<sip:p1;lr>", "<sip:p2;lr>"]);
        assert_eq!(bye.from().unwrap().tag(), Some("me"));
        assert_eq!(bye.to().unwrap().tag(), Some("f"));
        assert_eq!(bye.cseq().unwrap().to_string(), "42 BYE");
        assert_eq!(dialog.next_hop(), "<sip:p1;lr>");
    }

    #[test]
    fn a_strict_router_becomes_the_request_uri() {
        let mut dialog = Dialog::uas(&invite("Record-Route: <sip:p1>\r\n"), "me", 1).unwrap();
        let bye = dialog.request(&Method::Bye);
        assert_eq!(bye.request_uri().unwrap(), "sip:p1");
        assert_eq!(bye.values("Route"), ["<sip:a@10.0.0.1:5070;transport=tcp>"]);
    }

    #[test]
    fn a_number_that_goes_back_is_refused_and_the_same_is_not() {
        let mut dialog = Dialog::uas(&invite(""), "me", 1).unwrap();
        let mut request = invite("");
        assert!(dialog.check_request(&request).is_ok());
        request.set_header("CSeq", "788291880 INVITE");
        assert_eq!(dialog.check_request(&request).unwrap_err().status, 500);
        request.set_header("CSeq", "788291899 INVITE");
        assert!(dialog.check_request(&request).is_ok());
    }

    #[test]
    fn who_takes_a_dialog_over_counts_on_above_all_that_was_sent() {
        let mut dialog = Dialog::uas(&invite("Record-Route: <sip:p1;lr>\r\n"), "me", 41).unwrap();
        let copy: Dialog = serde_json::from_str(&serde_json::to_string(&dialog).unwrap()).unwrap();
        assert_eq!(copy, dialog);
        dialog.skip_ahead(1_000);
        assert_eq!(dialog.request(&Method::Bye).cseq().unwrap().to_string(), "1042 BYE");
        dialog.skip_ahead(u32::MAX);
        assert_eq!(dialog.request(&Method::Bye).cseq().unwrap().number, 0x7fff_0001);
    }

    #[test]
    fn both_sides_name_the_dialog_alike() {
        let invite = invite("");
        let uas = Dialog::uas(&invite, "srs1", 1).unwrap();
        let mut ok = Message::response(&invite, 200, None);
        ok.set_to_tag("srs1");
        ok.add_header("Contact", "<sip:srs@192.0.2.10>");
        let mut uac = Dialog::uac(&invite, &ok).unwrap();
        assert_eq!(DialogId::of_request(&uac.request(&Method::Bye)), Some(uas.id));
        assert_eq!(uac.ack(788_291_881).cseq().unwrap().to_string(), "788291881 ACK");
        assert_eq!(uac.target(), "sip:srs@192.0.2.10");
    }
}
