#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use ferric_sip::flow::Transport;

use super::*;

fn settings() -> RegistrarConfig {
    let mut settings = RegistrarConfig::new(["example.com"]);
    settings.max_changes = QUEUE;
    settings
}

fn open(folder: &Path) -> (NodeRegistrar, usize) {
    NodeRegistrar::open(settings(), None, folder, Instant::now()).unwrap()
}

fn flow(transport: Transport) -> Flow {
    let connection = u64::from(transport.is_reliable());
    Flow {
        transport,
        local: "10.0.0.5:5060".parse().unwrap(),
        remote: "203.0.113.9:40001".parse().unwrap(),
        connection,
    }
}

fn register(registrar: &mut NodeRegistrar, user: &str, cseq: u32, expires: u32, transport: Transport) {
    let text = format!(
        "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/{transport} 192.168.1.7:5060;branch=z9hG4bK{cseq};rport\r\nMax-Forwards: 70\r\n\
         From: <sip:{user}@example.com>;tag=1\r\nTo: <sip:{user}@example.com>\r\nCall-ID: {user}\r\nCSeq: {cseq} REGISTER\r\n\
         Contact: <sip:{user}@192.168.1.7:5060>\r\nExpires: {expires}\r\nContent-Length: 0\r\n\r\n"
    );
    let request = Message::parse(Bytes::from(text)).unwrap();
    let response = registrar.register(Instant::now(), unix_s(), &request, &flow(transport));
    assert_eq!(response.status(), Some(200));
}

fn contacts(registrar: &NodeRegistrar, user: &str) -> Vec<Contact> {
    registrar.lookup(Instant::now(), &Uri::parse(&format!("sip:{user}@example.com")).unwrap()).unwrap()
}

#[test]
fn bindings_outlive_the_process_and_those_of_a_dead_connection_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let (mut registrar, restored) = open(folder.path());
    assert_eq!(restored, 0);
    register(&mut registrar, "alice", 1, 600, Transport::Udp);
    register(&mut registrar, "bob", 1, 600, Transport::Udp);
    register(&mut registrar, "bob", 2, 0, Transport::Udp);
    register(&mut registrar, "carol", 1, 600, Transport::Tcp);
    drop(registrar);
    let mode = std::fs::metadata(folder.path().join("bindings.jsonl")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let (mut registrar, restored) = open(folder.path());
    assert_eq!((restored, registrar.len()), (1, 1));
    let found = contacts(&registrar, "alice");
    assert_eq!(found[0].uri, "sip:alice@192.168.1.7:5060");
    assert_eq!(found[0].flow, Some(flow(Transport::Udp)));
    assert!(contacts(&registrar, "bob").is_empty() && contacts(&registrar, "carol").is_empty());
    // The order rule goes on as well (RFC 3261 10.3 step 7).
    register(&mut registrar, "alice", 2, 600, Transport::Udp);
}

#[test]
fn a_damaged_line_costs_itself_only() {
    let folder = tempfile::tempdir().unwrap();
    let (mut registrar, _) = open(folder.path());
    for user in ["alice", "bob", "carol"] {
        register(&mut registrar, user, 1, 600, Transport::Udp);
    }
    drop(registrar);
    let file = folder.path().join("bindings.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    std::fs::write(&file, format!("{}\n\0\u{1}garbage\n{}\n{}", lines[0], lines[1], &lines[2][..40])).unwrap();
    let (mut registrar, restored) = open(folder.path());
    assert_eq!(restored, 2);
    register(&mut registrar, "dave", 1, 600, Transport::Udp);
    drop(registrar);
    assert_eq!(open(folder.path()).1, 3);
}

#[test]
fn a_cut_last_line_does_not_take_the_next_one_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bindings.jsonl");
    let mut writer = Writer::open(path.clone()).unwrap();
    std::fs::write(&path, "{\"set\":{\"aor\":\"half").unwrap();
    writer.broken = true;
    let key = SavedKey { aor: "a@b".to_owned(), contact: "sip:a@c".to_owned(), reg_id: None };
    writer.handle(Entry::Line(Line::Remove(key))).unwrap();
    writer.sync().unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        ["{\"set\":{\"aor\":\"half", "{\"remove\":{\"aor\":\"a@b\",\"contact\":\"sip:a@c\"}}"]
    );
}

#[test]
fn refreshes_for_ever_do_not_grow_the_file_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bindings.jsonl");
    let mut writer = Writer::open(path.clone()).unwrap();
    let mut registrar = Registrar::new(settings(), None, &[1; 32]);
    let now = Instant::now();
    let mut largest = 0;
    for cseq in 1..=60_000 {
        let text = format!(
            "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.7;branch=z9hG4bK1\r\nFrom: <sip:a@example.com>;tag=1\r\n\
             To: <sip:a@example.com>\r\nCall-ID: a\r\nCSeq: {cseq} REGISTER\r\nContact: <sip:a@10.0.0.7>\r\n\r\n"
        );
        registrar.register(now, unix_s(), &Message::parse(Bytes::from(text)).unwrap(), &flow(Transport::Udp));
        while let Some(Change::Set(saved)) = registrar.poll_change() {
            writer.handle(Entry::Line(Line::Set(saved))).unwrap();
        }
        if cseq % 1_000 == 0 {
            writer.sync().unwrap();
            largest = largest.max(std::fs::metadata(&path).unwrap().len());
        }
    }
    assert!(largest < SMALL + (1 << 20), "{largest}");
    drop(writer);
    let (saved, broken) = read(&path, unix_s()).unwrap();
    assert_eq!((saved.len(), saved[0].cseq, broken), (1, 60_000, 0));
}

#[test]
fn after_a_loss_all_bindings_are_written_anew_with_what_changes_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let (mut registrar, _) = open(folder.path());
    for n in 0..1_200 {
        register(&mut registrar, &format!("u{n}"), 1, 600, Transport::Udp);
    }
    registrar.journal.give_up();
    // Not told to the journal any more, and found by the export.
    register(&mut registrar, "late", 1, 600, Transport::Udp);
    let mut now = registrar.journal.due.unwrap();
    registrar.handle_timeout(now);
    assert_eq!(registrar.journal.from, Some(500));
    register(&mut registrar, "u3", 2, 0, Transport::Udp);
    register(&mut registrar, "u1100", 2, 0, Transport::Udp);
    register(&mut registrar, "new", 1, 600, Transport::Udp);
    while let Some(due) = registrar.journal.due {
        now = now.max(due);
        registrar.handle_timeout(now);
    }
    drop(registrar);
    let (registrar, restored) = open(folder.path());
    assert_eq!(restored, 1_200);
    assert!(contacts(&registrar, "u3").is_empty() && contacts(&registrar, "u1100").is_empty());
    assert_eq!(
        contacts(&registrar, "late").len() + contacts(&registrar, "new").len() + contacts(&registrar, "u7").len(),
        3
    );
}

#[test]
fn a_full_queue_never_waits() {
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        let _ = ended.recv();
    });
    let queue = Some(Arc::new(Queue::new(2)));
    let mut journal = Journal { queue, thread: Some(thread), failed: Arc::default(), from: None, due: None };
    // Goes first, so that the thread ends whatever fails here.
    let end = end;
    let mut core = Registrar::new(settings(), None, &[1; 32]);
    for user in 0..5 {
        let text = format!(
            "REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.7;branch=z9hG4bK1\r\nFrom: <sip:{user}@example.com>;tag=1\r\n\
             To: <sip:{user}@example.com>\r\nCall-ID: a\r\nCSeq: 1 REGISTER\r\nContact: <sip:a@10.0.0.7>\r\n\r\n"
        );
        core.register(Instant::now(), unix_s(), &Message::parse(Bytes::from(text)).unwrap(), &flow(Transport::Udp));
    }
    while let Some(change) = core.poll_change() {
        journal.keep(change);
    }
    let due = journal.due.unwrap();
    journal.handle_timeout(due, &core);
    assert!(journal.due.is_some(), "it is still full: once more, later");
    drop(end);
    while !journal.thread.as_ref().unwrap().is_finished() {
        std::thread::yield_now();
    }
    let due = journal.due.unwrap();
    journal.handle_timeout(due, &core);
    assert!(journal.queue.is_none() && journal.due.is_none());
}
