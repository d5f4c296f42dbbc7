//! A registrar, its clock, and a phone's side of the talk.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, dead_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_proxy::{Contact, Location};
use ferric_registrar::{Registrar, RegistrarConfig, Secret, Users};
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::uri::Uri;
use md5::Md5;
use sha2::{Digest, Sha256};

pub(crate) const UNIX_S: u64 = 1_700_000_000;

pub(crate) struct Rig {
    pub(crate) registrar: Registrar,
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    cseq: u32,
}

/// A REGISTER being written.
pub(crate) struct Request {
    pub(crate) uri: String,
    pub(crate) method: &'static str,
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) call_id: String,
    pub(crate) cseq: Option<u32>,
    pub(crate) vias: Vec<String>,
    pub(crate) lines: Vec<String>,
}

pub(crate) fn request() -> Request {
    Request {
        uri: "sip:example.com".to_owned(),
        method: "REGISTER",
        from: "<sip:alice@example.com>;tag=1".to_owned(),
        to: "<sip:alice@example.com>".to_owned(),
        call_id: "call-1".to_owned(),
        cseq: None,
        vias: vec!["SIP/2.0/UDP 10.0.0.7:5060;branch=z9hG4bK1;rport".to_owned()],
        lines: Vec::new(),
    }
}

impl Request {
    pub(crate) fn line(mut self, line: &str) -> Request {
        self.lines.push(line.to_owned());
        self
    }

    pub(crate) fn contact(self, value: &str) -> Request {
        self.line(&format!("Contact: {value}"))
    }

    pub(crate) fn user(mut self, user: &str) -> Request {
        self.from = format!("<sip:{user}@example.com>;tag=1");
        self.to = format!("<sip:{user}@example.com>");
        self
    }

    pub(crate) fn to(mut self, to: &str) -> Request {
        to.clone_into(&mut self.to);
        self
    }

    pub(crate) fn call_id(mut self, call_id: &str) -> Request {
        call_id.clone_into(&mut self.call_id);
        self
    }

    pub(crate) fn cseq(mut self, cseq: u32) -> Request {
        self.cseq = Some(cseq);
        self
    }

    pub(crate) fn via(mut self, via: &str) -> Request {
        self.vias = vec![via.to_owned()];
        self
    }

    /// Through a proxy.
    pub(crate) fn behind(mut self, via: &str) -> Request {
        self.vias.insert(0, via.to_owned());
        self
    }
}

impl Rig {
    pub(crate) fn open() -> Rig {
        Rig::with(RegistrarConfig::new(["example.com", "example.net"]), None)
    }

    /// alice and bob, each with the password "secret"; carol has an MD5 hash of the same.
    pub(crate) fn with_users() -> Rig {
        let mut users = Users::default();
        for name in ["alice", "bob"] {
            users.add(name, "example.com", Secret::of_password(name, "example.com", "secret"));
        }
        Rig::with(RegistrarConfig::new(["example.com", "example.net"]), Some(users))
    }

    pub(crate) fn with(config: RegistrarConfig, users: Option<Users>) -> Rig {
        let start = Instant::now();
        Rig { registrar: Registrar::new(config, users, &[7; 32]), start, now: start, cseq: 0 }
    }

    pub(crate) fn unix_s(&self) -> u64 {
        UNIX_S + (self.now - self.start).as_secs()
    }

    /// Time goes by, and what is due is run.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.registrar.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.registrar.handle_timeout(self.now);
        }
        self.now = end;
    }

    pub(crate) fn send(&mut self, request: Request) -> Message {
        self.send_over(request, &udp("10.0.0.7:5060"))
    }

    /// As the proxy asks.
    pub(crate) fn send_over(&mut self, request: Request, flow: &Flow) -> Message {
        let message = self.message(request);
        match self.registrar.challenge(self.unix_s(), &message, flow) {
            Some(challenge) => challenge.response(&message),
            None => self.registrar.register(self.now, self.unix_s(), &message, flow),
        }
    }

    pub(crate) fn message(&mut self, request: Request) -> Message {
        self.cseq += 1;
        let cseq = request.cseq.unwrap_or(self.cseq);
        let mut text = format!("{} {} SIP/2.0\r\n", request.method, request.uri);
        request.vias.iter().for_each(|via| text.push_str(&format!("Via: {via}\r\n")));
        text.push_str(&format!("Max-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\n", request.from, request.to));
        text.push_str(&format!("Call-ID: {}\r\nCSeq: {cseq} {}\r\n", request.call_id, request.method));
        request.lines.iter().for_each(|line| text.push_str(&format!("{line}\r\n")));
        text.push_str("Content-Length: 0\r\n\r\n");
        Message::parse(Bytes::from(text)).unwrap()
    }

    /// Where alice is.
    pub(crate) fn alice(&self) -> Vec<Contact> {
        self.lookup("sip:alice@example.com").unwrap()
    }

    pub(crate) fn lookup(&self, aor: &str) -> Option<Vec<Contact>> {
        self.registrar.lookup(self.now, &Uri::parse(aor).unwrap())
    }

    pub(crate) fn uris(&self) -> Vec<String> {
        self.alice().into_iter().map(|contact| contact.uri).collect()
    }
}

pub(crate) fn udp(remote: &str) -> Flow {
    Flow {
        transport: Transport::Udp,
        local: "10.0.0.5:5060".parse().unwrap(),
        remote: remote.parse().unwrap(),
        connection: 0,
    }
}

pub(crate) fn tcp(remote: &str, connection: u64) -> Flow {
    Flow {
        transport: Transport::Tcp,
        local: "10.0.0.5:5060".parse().unwrap(),
        remote: remote.parse().unwrap(),
        connection,
    }
}

pub(crate) fn status(message: &Message) -> u16 {
    message.status().unwrap()
}

pub(crate) fn contacts(message: &Message) -> Vec<String> {
    message.headers("Contact").map(|value| value.into_owned()).collect()
}

/// A challenge's parameters.
pub(crate) fn challenge(message: &Message, algorithm: &str) -> HashMap<String, String> {
    let header = if status(message) == 407 { "Proxy-Authenticate" } else { "WWW-Authenticate" };
    let found =
        message.headers(header).find(|text| text.contains(&format!("algorithm={algorithm},"))).unwrap().into_owned();
    let items = found.strip_prefix("Digest ").unwrap().split(", ");
    items
        .map(|item| item.split_once('=').unwrap())
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

/// What a phone answers with, written from RFC 7616 and not with the registrar's own code.
#[derive(Clone)]
pub(crate) struct Phone {
    pub(crate) name: &'static str,
    pub(crate) password: &'static str,
    pub(crate) algorithm: &'static str,
    pub(crate) uri: &'static str,
    pub(crate) method: &'static str,
}

impl Phone {
    pub(crate) fn new(name: &'static str, password: &'static str, algorithm: &'static str) -> Phone {
        Phone { name, password, algorithm, uri: "sip:example.com", method: "REGISTER" }
    }

    fn hash(&self, text: &str) -> String {
        let bytes = if self.algorithm == "MD5" { Md5::digest(text).to_vec() } else { Sha256::digest(text).to_vec() };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn answer(&self, challenge: &HashMap<String, String>, count: u32) -> String {
        let (realm, nonce, opaque) = (&challenge["realm"], &challenge["nonce"], &challenge["opaque"]);
        let Phone { name, algorithm, uri, .. } = self;
        let ha1 = self.hash(&format!("{name}:{realm}:{}", self.password));
        let ha2 = self.hash(&format!("{}:{uri}", self.method));
        let response = self.hash(&format!("{ha1}:{nonce}:{count:08x}:c0ffee:auth:{ha2}"));
        format!(
            "Digest username=\"{name}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", \
             algorithm={algorithm}, cnonce=\"c0ffee\", opaque=\"{opaque}\", qop=auth, nc={count:08x}"
        )
    }

    pub(crate) fn authorization(&self, challenge: &HashMap<String, String>, count: u32) -> String {
        format!("Authorization: {}", self.answer(challenge, count))
    }
}
