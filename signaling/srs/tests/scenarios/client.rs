//! A recording client of a few lines on the same transactions and dialogs.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_simnet::{Endpoint, Packet};
use ferric_sip::dialog::{AcceptedInvite, AcceptedStep, Dialog, DialogId};
use ferric_sip::sdp::Sdp;
use ferric_sip::transaction::{
    ClientTransactionId, Timers, TransactionEvent, TransactionLayer, TransactionLimits, TransactionOutput,
};
use ferric_sip::{Flow, Message, Method, Transport};

pub(crate) const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)), 5070);
const FLOW: Flow = Flow { transport: Transport::Udp, local: CLIENT, remote: super::SERVER, connection: 0 };
/// The owner of the Call-ID waits this long after a 491 (RFC 3261 14.1: 2.1 to 4 s).
const GLARE_WAIT: Duration = Duration::from_millis(3_000);

const SDP: &str = "v=0\r\no=- 1 1 IN IP4 10.0.0.7\r\ns=-\r\nc=IN IP4 10.0.0.7\r\nt=0 0\r\n\
                   m=audio 6000 RTP/AVP 0\r\na=label:1\r\na=sendonly\r\nm=audio 6002 RTP/AVP 0\r\na=label:2\r\na=sendonly\r\n";

pub(crate) struct Client {
    layer: TransactionLayer,
    dialog: Option<Dialog>,
    invite: Option<(ClientTransactionId, Message)>,
    reinvite: Option<ClientTransactionId>,
    again_at: Option<Instant>,
    cancelled: bool,
    out: Vec<Packet>,
    /// What came: statuses with their methods, and methods.
    pub(crate) log: Vec<String>,
    pub(crate) allow: String,
    /// Hears and says nothing any more.
    pub(crate) is_dead: bool,
    /// Takes no offer of the server's.
    pub(crate) stays: bool,
    /// Our 200 to an INVITE of the server's, until its ACK.
    accepted: Option<AcceptedInvite>,
    /// Where it sends its first stream.
    pub(crate) sends_to: Option<SocketAddr>,
    seed: u64,
}

fn socket(message: &Message) -> Option<SocketAddr> {
    Sdp::parse(message.body()).ok()?.media.first()?.rtp_address()
}

impl Client {
    pub(crate) fn new(seed: u64) -> Client {
        Client {
            layer: TransactionLayer::new(Timers::default(), TransactionLimits::default(), seed ^ 0xc11e),
            dialog: None,
            invite: None,
            reinvite: None,
            again_at: None,
            cancelled: false,
            out: Vec::new(),
            log: Vec::new(),
            allow: "UPDATE".to_owned(),
            is_dead: false,
            stays: false,
            accepted: None,
            sends_to: None,
            seed,
        }
    }

    pub(crate) fn transactions(&self) -> usize {
        self.layer.len()
    }

    pub(crate) fn invite(&mut self, now: Instant, headers: &[(&str, &str)]) {
        let mut invite = Message::request(&Method::Invite, "sip:srs@10.0.0.10");
        let call_id = format!("call-{}", self.seed);
        let own = [
            ("Max-Forwards", "70"),
            ("From", "<sip:src@10.0.0.7>;tag=src1"),
            ("To", "<sip:srs@10.0.0.10>"),
            ("Call-ID", call_id.as_str()),
            ("CSeq", "1 INVITE"),
            ("Contact", "<sip:src@10.0.0.7:5070>;+sip.src"),
            ("Require", "siprec"),
            ("Allow", self.allow.as_str()),
        ];
        own.iter().chain(headers).for_each(|(name, value)| invite.add_header(name, value));
        invite.set_body("application/sdp", Bytes::from_static(SDP.as_bytes()));
        let id = self.layer.send_request(now, invite.clone(), FLOW, None);
        self.invite = Some((id, invite));
        self.pump(now);
    }

    pub(crate) fn reinvite(&mut self, now: Instant) {
        let Some(dialog) = &mut self.dialog else { return };
        let mut invite = dialog.request(&Method::Invite);
        invite.add_header("Contact", "<sip:src@10.0.0.7:5070>;+sip.src");
        invite.add_header("Supported", "timer");
        invite.add_header("Session-Expires", "90;refresher=uas");
        invite.set_body("application/sdp", Bytes::from_static(SDP.as_bytes()));
        self.reinvite = Some(self.layer.send_request(now, invite, FLOW, None));
        self.pump(now);
    }

    pub(crate) fn cancel(&mut self, now: Instant) {
        self.cancelled = true;
        if let Some((id, _)) = &self.invite {
            self.layer.send_cancel(now, *id);
        }
        self.pump(now);
    }

    pub(crate) fn bye(&mut self, now: Instant) {
        if let Some(mut dialog) = self.dialog.take() {
            self.layer.send_request(now, dialog.request(&Method::Bye), FLOW, None);
        }
        self.pump(now);
    }

    /// Loses the call, as after a restart.
    pub(crate) fn forget(&mut self) {
        self.dialog = None;
    }

    fn pump(&mut self, now: Instant) {
        while let Some(output) = self.layer.poll_output() {
            match output {
                TransactionOutput::Transmit { to, bytes } => {
                    self.out.insert(0, Packet { from: CLIENT, to: to.flow.remote, bytes });
                }
                TransactionOutput::Event(event) => self.handle_event(now, event),
            }
        }
    }

    fn handle_event(&mut self, now: Instant, event: TransactionEvent) {
        match event {
            TransactionEvent::Response { id, response, .. } => self.handle_response(now, id, &response),
            TransactionEvent::Ack { .. } => self.accepted = None,
            TransactionEvent::Request { id, request, .. } => {
                self.log.push(request.method().to_string());
                let known = self
                    .dialog
                    .as_ref()
                    .is_some_and(|dialog| Some(&dialog.id) == DialogId::of_request(&request).as_ref());
                let status = match request.method() {
                    _ if !known => 481,
                    Method::Invite if self.reinvite.is_some() => 491,
                    _ if self.stays && !request.body().is_empty() => 488,
                    _ => 200,
                };
                let mut response = Message::response(&request, status, None);
                if !request.body().is_empty() && status == 200 {
                    self.sends_to = socket(&request);
                    response.add_header("Contact", "<sip:src@10.0.0.7:5070>");
                    response.set_body("application/sdp", Bytes::from_static(SDP.as_bytes()));
                }
                if let Some(expires) = request.header("Session-Expires") {
                    response.add_header("Session-Expires", &expires);
                }
                if request.method() == Method::Invite && status == 200 {
                    let (cseq, bytes) = (request.cseq().unwrap().number, response.to_bytes());
                    self.accepted = Some(AcceptedInvite::new(now, cseq, FLOW, bytes, &Timers::default()));
                }
                if request.method() == Method::Bye {
                    self.dialog = None;
                }
                self.layer.respond(now, id, response);
            }
            _ => {}
        }
    }

    fn handle_response(&mut self, now: Instant, id: ClientTransactionId, response: &Message) {
        let (status, method) = (response.status().unwrap(), response.method());
        self.log.push(format!("{status} {method}"));
        if status < 200 || method != Method::Invite {
            return;
        }
        let first = self.invite.as_ref().filter(|(invite, _)| *invite == id).map(|(_, invite)| invite.clone());
        if status < 300 {
            self.sends_to = socket(response);
            let cseq = response.cseq().unwrap().number;
            if let Some(invite) = first {
                let dialog = Dialog::uac(&invite, response).unwrap();
                self.layer.send_ack(dialog.ack(cseq), FLOW, None);
                // A 200 that comes again after the end must not bring the call back.
                if !self.log[..self.log.len() - 1].contains(&"200 INVITE".to_owned()) {
                    self.dialog = Some(dialog);
                }
            } else if let Some(dialog) = &self.dialog {
                self.layer.send_ack(dialog.ack(cseq), FLOW, None);
            }
        }
        if self.reinvite == Some(id) {
            self.reinvite = None;
            if status == 491 {
                self.again_at = Some(now + GLARE_WAIT);
            }
        }
        if self.cancelled && status < 300 {
            self.bye(now);
        }
    }
}

impl Endpoint for Client {
    fn handle_packet(&mut self, now: Instant, packet: Packet) {
        if !self.is_dead {
            self.layer.handle_message(now, Message::parse(packet.bytes).unwrap(), FLOW);
            self.pump(now);
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        if self.again_at.take_if(|at| *at <= now).is_some() {
            self.reinvite(now);
        }
        match self.accepted.as_mut().map(|accepted| accepted.handle_timeout(now)) {
            Some(AcceptedStep::Retransmit(_, bytes)) => {
                self.out.insert(0, Packet { from: CLIENT, to: super::SERVER, bytes });
            }
            Some(AcceptedStep::GaveUp) => self.accepted = None,
            Some(AcceptedStep::Wait) | None => {}
        }
        self.pump(now);
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        let accepted = self.accepted.as_ref().map(AcceptedInvite::poll_timeout);
        [self.layer.poll_timeout(), self.again_at, accepted].into_iter().flatten().min()
    }

    fn poll_transmit(&mut self, _: Instant) -> Option<Packet> {
        self.out.pop()
    }
}
