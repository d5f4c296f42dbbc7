//! With DNS that is dead: all that the directory knows comes from the file.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::os::unix::fs::PermissionsExt as _;

use ferric_locate::{Kind, Record, RecordData, Srv};
use ferric_proxy::group::{GroupConfig, Heartbeat};

use super::*;

const FOREVER: Duration = Duration::from_secs(3_600);

fn a(name: &str, address: &str) -> Record {
    record(name, Kind::A, vec![RecordData::A(address.parse().unwrap())])
}

fn srv(name: &str, servers: &[(u16, u16, u16, &str)]) -> Record {
    let srv = |(priority, weight, port, target): &(u16, u16, u16, &str)| {
        RecordData::Srv(Srv { priority: *priority, weight: *weight, port: *port, target: (*target).to_owned() })
    };
    record(name, Kind::Srv, servers.iter().map(srv).collect())
}

fn record(name: &str, kind: Kind, records: Vec<RecordData>) -> Record {
    Record { name: name.to_owned(), kind, records, expires_unix_s: unix_now() + 600 }
}

/// A folder with a file, and a directory that has read it; no server answers.
fn directory(records: Vec<Record>) -> (tempfile::TempDir, Directory) {
    let folder = tempfile::tempdir().unwrap();
    let last = LastGood { version: 1, records };
    std::fs::write(folder.path().join("dns.json"), serde_json::to_vec(&last).unwrap()).unwrap();
    let directory = start(folder.path());
    (folder, directory)
}

fn start(folder: &Path) -> Directory {
    // Nobody listens at port 9 of the loopback.
    let servers = ["127.0.0.1:9".parse().unwrap()];
    let transports = vec![Transport::Udp, Transport::Tcp];
    Directory::start(&servers, transports, false, folder.join("dns.json"), Instant::now()).unwrap()
}

fn by_hand(addresses: &[(&str, Option<u16>)]) -> GroupConfig {
    let element =
        |(host, port): &(&str, Option<u16>)| ElementConfig { port: *port, ..ElementConfig::parse(host).unwrap() };
    GroupConfig { elements: addresses.iter().map(element).collect(), heartbeat: None, ..GroupConfig::named("hand") }
}

fn from_dns(name: &str) -> GroupConfig {
    GroupConfig { dns: Some(Transport::Tcp), heartbeat: Some(Heartbeat::default()), ..GroupConfig::named(name) }
}

fn groups(now: Instant, configs: Vec<GroupConfig>) -> Groups {
    let mut groups = Groups::new(FOREVER);
    groups.apply(now, configs, false);
    groups
}

/// `name -> where` of all elements that have a name.
fn places(groups: &Groups) -> Vec<String> {
    let place = |(id, element): (ElementId, &ElementConfig)| {
        let hop = groups
            .hop(id)
            .map_or("nowhere".to_owned(), |hop| format!("{} {} ({})", hop.transport, hop.address, hop.host));
        format!("{} {}/{} -> {hop}", element.address, element.priority, element.weight)
    };
    groups.names().map(place).collect()
}

/// As if DNS had answered: what the locator knows becomes that.
fn learn(directory: &mut Directory, now: Instant, records: Vec<Record>) {
    let mut fresh = Locator::new(LocatorConfig::default(), 1);
    fresh.import(now, unix_now(), &LastGood { version: 1, records });
    for name in &directory.pinned {
        fresh.pin(name);
    }
    directory.locator = fresh;
    directory.applied = None;
}

#[tokio::test]
async fn elements_by_hand_have_their_own_port_and_no_srv() {
    let (_folder, mut directory) = directory(vec![
        a("one.example", "192.0.2.1"),
        a("two.example", "192.0.2.2"),
        srv("_sip._udp.two.example", &[(0, 0, 5_099, "x.example")]),
    ]);
    let now = Instant::now();
    let mut groups = groups(
        now,
        vec![by_hand(&[
            ("one.example", Some(5_070)),
            ("two.example", None),
            ("gone.example", None),
            ("192.0.2.9", None),
        ])],
    );
    directory.watch(now, &groups);
    assert!(
        directory.poll_timeout().is_some_and(|at| at <= now) && directory.behind.is_some(),
        "to be brought up to date"
    );
    directory.update(now, &mut groups);
    assert_eq!(
        places(&groups),
        [
            "one.example 1/50 -> UDP 192.0.2.1:5070 (one.example)",
            "two.example 1/50 -> UDP 192.0.2.2:5060 (two.example)",
            "gone.example 1/50 -> nowhere",
        ]
    );
    assert_eq!(directory.behind, None);
    assert_eq!(
        directory.pinned.iter().map(String::as_str).collect::<Vec<_>>(),
        ["gone.example", "one.example", "two.example"]
    );
}

#[tokio::test]
async fn a_group_from_dns_has_an_element_for_each_server_and_keeps_the_last_set() {
    let zone = |port| {
        vec![
            srv(
                "_sip._tcp.rec.example",
                &[(1, 40, 5_060, "a.example"), (1, 60, port, "b.example"), (2, 0, 5_060, "a.example")],
            ),
            a("a.example", "192.0.2.1"),
            a("b.example", "192.0.2.2"),
        ]
    };
    let (_folder, mut directory) = directory(zone(5_060));
    let now = Instant::now();
    let mut groups = groups(now, vec![from_dns("rec.example"), from_dns("new.example")]);
    directory.watch(now, &groups);
    directory.update(now, &mut groups);
    // The name for TLS is the group's (RFC 5922 7.1).
    let first = "a.example:5060;transport=tcp 1/40 -> TCP 192.0.2.1:5060 (rec.example)";
    assert_eq!(places(&groups), [first, "b.example:5060;transport=tcp 1/60 -> TCP 192.0.2.2:5060 (rec.example)"]);
    let ids: Vec<ElementId> = groups.names().map(|(id, _)| id).collect();

    learn(&mut directory, now, zone(5_062));
    directory.update(now, &mut groups);
    assert_eq!(places(&groups), [first, "b.example:5062;transport=tcp 1/60 -> TCP 192.0.2.2:5062 (rec.example)"]);
    assert_eq!(groups.names().next().map(|(id, _)| id), ids.first().copied(), "one that stays keeps its identity");

    learn(&mut directory, now, vec![]);
    directory.update(now, &mut groups);
    assert_eq!(places(&groups).len(), 2, "the records vanished");

    learn(&mut directory, now, vec![srv("_sip._tcp.rec.example", &[(0, 0, 0, "")])]);
    directory.update(now, &mut groups);
    assert!(places(&groups).is_empty(), "not offered");
}

#[tokio::test]
async fn requests_are_answered_from_memory_or_end_in_time() {
    let (_folder, mut directory) =
        directory(vec![a("one.example", "192.0.2.1"), srv("_sip._tcp.rec.example", &[(1, 60, 5_070, "one.example")])]);
    let target = |host: &str, port, transport| LocateTarget { host: host.to_owned(), port, transport, secure: false };
    let now = Instant::now();
    let hop = |text: &str, transport, host: &str| Hop { address: text.parse().unwrap(), transport, host: host.into() };
    let by_port = directory.locate(now, Ticket(1), &target("one.example", Some(5_080), None));
    assert_eq!(by_port, Some(Ok(vec![hop("192.0.2.1:5080", Transport::Udp, "one.example")])));
    let by_srv = directory.locate(now, Ticket(2), &target("rec.example", None, Some(Transport::Tcp)));
    assert_eq!(by_srv, Some(Ok(vec![hop("192.0.2.1:5070", Transport::Tcp, "rec.example")])));
    assert_eq!(directory.locate(now, Ticket(3), &target("a..b", None, None)), Some(Err(false)), "no name");
    assert_eq!(directory.locate(now, Ticket(4), &target("other.example", Some(5_060), None)), None);
    let end = async {
        loop {
            let event = tokio::select! {
                event = directory.recv() => Some(event),
                () = tokio::time::sleep(Duration::from_millis(50)) => None,
            };
            let now = Instant::now();
            if let Some(event) = event {
                directory.handle(now, event);
            }
            directory.handle_timeout(now);
            if let Some(found) = directory.poll_found() {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(30), end).await.unwrap();
    assert_eq!(found, (Ticket(4), Err(true)), "nobody knows whether it exists");
}

#[tokio::test]
async fn names_of_groups_that_are_gone_are_pinned_no_more_fixed_targets_stay() {
    let (_folder, mut directory) = directory(vec![]);
    let now = Instant::now();
    let fixed = LocateTarget { host: "pbx.example".to_owned(), port: None, transport: None, secure: false };
    directory.watch(now, &groups(now, vec![by_hand(&[("one.example", None)]), from_dns("rec.example")]));
    directory.keep_warm(now, &[fixed]);
    assert_eq!(directory.pinned.len(), 3);
    directory.watch(now, &groups(now, vec![by_hand(&[("two.example", None)])]));
    assert_eq!(directory.pinned.iter().map(String::as_str).collect::<Vec<_>>(), ["pbx.example", "two.example"]);
    directory.keep_warm(now, &[]);
    assert_eq!(directory.pinned.iter().map(String::as_str).collect::<Vec<_>>(), ["two.example"]);
}

#[tokio::test]
async fn what_is_saved_is_there_after_a_restart_and_for_nobody_else() {
    let (folder, directory) =
        directory(vec![a("one.example", "192.0.2.1"), record("one.example", Kind::Naptr, vec![])]);
    let file = folder.path().join("dns.json");
    std::fs::remove_file(&file).unwrap();
    directory.save();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing beside it");
    assert_eq!(start(folder.path()).stats().cache.entries, 2);
    // An older state that comes late does not win.
    let empty = Locator::new(LocatorConfig::default(), 1).snapshot(Instant::now(), unix_now());
    directory.keeper.file.write(1, &empty);
    assert_eq!(start(folder.path()).stats().cache.entries, 2);
}

#[tokio::test]
async fn a_broken_file_or_none_is_no_obstacle() {
    for content in [&b""[..], b"{\"version\":1,\"records\":[{]", b"{\"version\":7,\"records\":[]}", &[0xff; 100]] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("dns.json"), content).unwrap();
        assert_eq!(start(folder.path()).stats().cache.entries, 0);
    }
    assert_eq!(start(tempfile::tempdir().unwrap().path()).stats().cache.entries, 0);
}

#[tokio::test]
async fn it_is_written_soon_after_a_change_and_otherwise_rarely() {
    let (_folder, mut directory) = directory(vec![]);
    let now = directory.keeper.write_at - WRITE_AGAIN;
    let keeper = &mut directory.keeper;
    keeper.plan(now, keeper.written);
    assert_eq!(keeper.write_at, now + WRITE_AGAIN);
    keeper.plan(now, keeper.written + 1);
    assert_eq!(keeper.write_at, now + COLLECT);
    keeper.plan(now + Duration::from_secs(3), keeper.written + 2);
    assert_eq!(keeper.write_at, now + COLLECT, "one change after the other does not put it off");
    keeper.last = Some(now + COLLECT);
    keeper.write_at = now + COLLECT + WRITE_AGAIN;
    keeper.plan(now + 2 * COLLECT, keeper.written + 3);
    assert_eq!(keeper.write_at, now + COLLECT + WRITE_APART);
}
