#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::node::cluster::tests::{Lab, PATIENCE, outside};
use bytes::Bytes;
use ferric_proxy::{Contact, Location as _};
use ferric_registrar::{Change, RegistrarConfig};
use ferric_sip::flow::{Flow, Transport};
use ferric_sip::message::Message;
use ferric_sip::uri::Uri;

const HOP: &str = "<sip:h01@10.0.0.5:5060;lr>";

#[test]
fn keys_lead_back_to_bindings() {
    let plain = SavedKey {
        aor: "alice@example.com".to_owned(),
        contact: "sip:alice@10.0.0.7;transport=tcp".to_owned(),
        reg_id: None,
    };
    let outbound = SavedKey { contact: "<urn:uuid:1>".to_owned(), reg_id: Some(2), ..plain.clone() };
    for key in [&plain, &outbound] {
        assert_eq!(key_from(&key_of(key).unwrap()).as_ref(), Some(key));
    }
    assert_eq!(key_of(&SavedKey { contact: "a\nb".to_owned(), ..plain }), None);
    for bad in [&b"alice"[..], b"a\nb\nx", b"a\nb\n1\n2", b"\xff\nb"] {
        assert_eq!(key_from(bad), None);
    }
}

/// A node as far as registrations go.
struct Node {
    cluster: Cluster,
    registrar: NodeRegistrar,
    sharing: Sharing,
    cseq: u32,
}

impl Node {
    fn start(lab: &Lab, id: &str, seed: Option<&Node>) -> Node {
        let config = lab.config(id, seed.map(|seed| &seed.cluster));
        let cluster = Cluster::start(&config).unwrap();
        let mut settings = RegistrarConfig::new(["example.com"]);
        settings.max_changes = 1_000;
        let folder = config.node.data_dir.join("registrar");
        let (mut registrar, _) = NodeRegistrar::open(settings, None, &folder, Instant::now()).unwrap();
        let mut sharing = Sharing::start(&cluster).unwrap();
        sharing.introduce(Instant::now(), &mut registrar);
        cluster.open(outside());
        Node { cluster, registrar, sharing, cseq: 0 }
    }

    /// What the edge does: tells what was registered here, takes what is heard, does what is due.
    async fn turn(&mut self) {
        for change in self.registrar.take_outbox() {
            match change {
                Change::Set(saved) => {
                    let hop = saved.flow.as_ref().and_then(|flow| flow.live()).map(|_| HOP.to_owned());
                    self.sharing.put(*saved, hop);
                }
                Change::Remove(key) => self.sharing.remove(&key),
                Change::Expired(_) | Change::Lost => {}
            }
        }
        let news = tokio::time::timeout(Duration::from_millis(20), self.sharing.recv()).await;
        if let Ok(news) = news {
            self.sharing.handle(Instant::now(), news, Some(&mut self.registrar));
        }
        self.sharing.handle_timeout(Instant::now(), Some(&mut self.registrar));
    }

    fn register(&mut self, transport: Transport, expires: u32) -> u16 {
        self.cseq += 1;
        let cseq = self.cseq;
        let text = format!(
            "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/{transport} 192.168.1.7:5060;branch=z9hG4bK{cseq}\r\nMax-Forwards: 70\r\n\
             From: <sip:alice@example.com>;tag=1\r\nTo: <sip:alice@example.com>\r\nCall-ID: c\r\nCSeq: {cseq} REGISTER\r\n\
             Contact: <sip:alice@192.168.1.7:40001>\r\nExpires: {expires}\r\nContent-Length: 0\r\n\r\n"
        );
        let flow = Flow {
            transport,
            local: "10.0.0.5:5060".parse().unwrap(),
            remote: "192.168.1.7:40001".parse().unwrap(),
            connection: u64::from(transport.is_reliable()),
        };
        let request = Message::parse(Bytes::from(text)).unwrap();
        self.registrar.register(Instant::now(), unix_s(), &request, &flow).status().unwrap()
    }

    fn alice(&self) -> Vec<Contact> {
        self.registrar.lookup(Instant::now(), &Uri::parse("sip:alice@example.com").unwrap()).unwrap()
    }
}

/// Lets both do what they do until it is so.
async fn until(what: &str, nodes: &mut [&mut Node], is_so: impl Fn(&[&mut Node]) -> bool) {
    let started = Instant::now();
    while !is_so(nodes) {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        for node in &mut *nodes {
            node.turn().await;
        }
    }
}

#[tokio::test]
async fn what_is_registered_at_one_node_is_known_and_changed_at_the_other() {
    let lab = Lab::new();
    let mut a = Node::start(&lab, "a", None);
    let mut b = Node::start(&lab, "b", Some(&a));
    assert_eq!(a.register(Transport::Udp, 600), 200);
    until("b knows alice", &mut [&mut a, &mut b], |nodes| !nodes[1].alice().is_empty()).await;
    assert_eq!(b.alice()[0].path, Vec::<String>::new(), "her contact leads to her");
    // The phone moves; what the first node took counts.
    assert_eq!(b.register(Transport::Udp, 600), 500, "that CSeq was used");
    assert_eq!(b.register(Transport::Udp, 0), 200);
    until("alice is gone at a", &mut [&mut a, &mut b], |nodes| nodes[0].alice().is_empty()).await;
    a.cluster.close().await;
    b.cluster.close().await;
}

#[tokio::test]
async fn a_phone_on_a_connection_is_reached_over_its_node_while_that_is_there() {
    let lab = Lab::new();
    let mut a = Node::start(&lab, "a", None);
    let mut b = Node::start(&lab, "b", Some(&a));
    assert_eq!(a.register(Transport::Tcp, 600), 200);
    until("b knows the way", &mut [&mut a, &mut b], |nodes| !nodes[1].alice().is_empty()).await;
    assert_eq!((b.alice()[0].path.as_slice(), b.alice()[0].flow), (&[HOP.to_owned()][..], None));
    assert!(a.alice()[0].flow.is_some() && a.alice()[0].path.is_empty());
    a.cluster.close().await;
    until("nothing leads to alice", &mut [&mut b], |nodes| nodes[0].alice().is_empty()).await;
    // The node comes back without the connection: it tells everybody that it is gone.
    drop(a);
    let mut a = Node::start(&lab, "a", Some(&b));
    until("b has nothing of alice", &mut [&mut a, &mut b], |nodes| nodes[1].registrar.len() == 0).await;
    a.cluster.close().await;
    b.cluster.close().await;
}

#[tokio::test]
async fn a_node_that_was_away_gives_up_what_was_removed_and_one_alone_tells_what_it_had() {
    let lab = Lab::new();
    let mut a = Node::start(&lab, "a", None);
    let mut b = Node::start(&lab, "b", Some(&a));
    assert_eq!(a.register(Transport::Udp, 600), 200);
    until("b knows alice", &mut [&mut a, &mut b], |nodes| !nodes[1].alice().is_empty()).await;
    let joined = |nodes: &[&mut Node]| nodes.iter().all(|node| node.cluster.state().health().joined);
    until("both have joined", &mut [&mut a, &mut b], joined).await;
    // Its journal has alice, and others remove her meanwhile.
    a.cluster.close().await;
    drop(a);
    b.cseq = 1;
    assert_eq!(b.register(Transport::Udp, 0), 200);
    b.turn().await;
    let mut a = Node::start(&lab, "a", Some(&b));
    assert_eq!(a.alice().len(), 1, "its journal knows no better");
    until("a has given alice up", &mut [&mut a, &mut b], |nodes| nodes[0].alice().is_empty()).await;
    // All are down; the first one that comes back tells what its journal has.
    a.cseq = 10;
    assert_eq!(a.register(Transport::Udp, 600), 200);
    a.turn().await;
    b.cluster.close().await;
    a.cluster.close().await;
    drop((a, b));
    let _ = std::fs::remove_dir_all(lab.folder.path().join("b"));
    let mut a = Node::start(&lab, "a", None);
    let mut b = Node::start(&lab, "b", Some(&a));
    until("b hears of alice", &mut [&mut a, &mut b], |nodes| !nodes[1].alice().is_empty()).await;
    a.cluster.close().await;
    b.cluster.close().await;
}

/// All nodes go down, and those that come first never heard of her: that she is not known does not mean that she was removed.
#[tokio::test]
async fn what_was_registered_while_others_were_away_outlives_a_stop_of_all() {
    let lab = Lab::new();
    let mut b = Node::start(&lab, "b", None);
    assert_eq!(b.register(Transport::Udp, 600), 200);
    b.turn().await;
    b.cluster.close().await;
    drop(b);
    let mut a = Node::start(&lab, "a", None);
    let mut c = Node::start(&lab, "c", Some(&a));
    let joined = |nodes: &[&mut Node]| nodes.iter().all(|node| node.cluster.state().health().joined);
    until("the others have joined, with nothing", &mut [&mut a, &mut c], joined).await;
    let mut b = Node::start(&lab, "b", Some(&a));
    until("a hears of alice", &mut [&mut a, &mut b, &mut c], |nodes| !nodes[0].alice().is_empty()).await;
    assert_eq!(b.alice().len(), 1);
    for node in [&a, &b, &c] {
        node.cluster.close().await;
    }
}
