//! OPTIONS to the elements of server groups.

use std::time::Instant;

use ferric_sip::flow::Transport;
use ferric_sip::message::Message;
use ferric_sip::method::Method;
use rand::RngExt;

use crate::failover::{Client, Due};
use crate::proxy::Proxy;

impl Proxy {
    /// Asks the elements whose turn it is.
    pub(crate) fn probe(&mut self, now: Instant) {
        while let Some((element, hop, timeout)) = self.groups.poll_probe(now) {
            let (local, sent_by) = self.identity.outgoing(hop.transport, hop.address, None, None);
            let sent_by = sent_by.to_owned();
            let transport = match hop.transport {
                Transport::Udp => "",
                Transport::Tcp => ";transport=tcp",
                Transport::Tls => ";transport=tls",
            };
            let uri = format!("sip:{}{transport}", hop.address);
            let (tag, call): (u64, u64) = (self.rng.random(), self.rng.random());
            let mut options = Message::request(&Method::Options, &uri);
            options.add_header("Max-Forwards", "70");
            options.add_header("From", &format!("<sip:ping@{sent_by}>;tag={tag:016x}"));
            options.add_header("To", &format!("<{uri}>"));
            options.add_header("Call-ID", &format!("{call:016x}-ping"));
            options.add_header("CSeq", "1 OPTIONS");
            options.add_header("Contact", &format!("<sip:{sent_by}>"));
            options.add_header("Accept", "application/sdp");
            options.add_header("Content-Length", "0");
            let to = hop.destination(hop.transport, local);
            let branch = self.branches.make(0);
            let client = self.layer.send_request_as(now, options, to, Some(&sent_by), &branch);
            self.clients.insert(client, Client::Probe(element));
            self.deadlines.set(Due::Answer(client), now + timeout);
        }
    }
}
