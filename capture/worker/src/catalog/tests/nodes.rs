//! Several nodes on one PostgreSQL, and a PostgreSQL that goes away.

use super::*;

fn update(number: u128, node: &str) -> RecordingUpdate {
    let mut update = RecordingUpdate::from_metadata(&metadata(number, "sip:1@h"));
    update.node = node.to_owned();
    // Of a recording that many record, each has the part of its number.
    if let Some(node) = node.strip_prefix("node-").and_then(|node| node.parse::<u32>().ok()) {
        update.part = Part::new(update.part.recording, node + 1, Uuid::from_u128(number << 32 | u128::from(node) + 1));
    }
    update
}

fn news(number: u128) -> News {
    News::Recording(Box::new(update(number, "edge-a1")))
}

async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn ten_nodes_start_at_once_on_an_empty_database() {
    let db = Db::Postgres(Server::start());
    let nodes = (0..10).map(|number| {
        let url = db.url();
        async move {
            let catalog = Catalog::open(&url, None, PartyPolicy::Clear).await.unwrap();
            // One recording of each node, one to which each gives a part.
            let node = format!("node-{number}");
            catalog.upsert(&[update(100 + number, &node), update(1, &node)]).await.unwrap();
            catalog.close().await;
        }
    });
    futures::future::join_all(nodes).await;
    let catalog = db.open(PartyPolicy::Clear).await;
    let page = catalog.search(&Search::default()).await.unwrap();
    assert_eq!(page.recordings.len(), 11);
    assert_eq!(page.recordings.iter().map(|recording| recording.parts.len()).sum::<usize>(), 20);
}

#[tokio::test]
async fn nodes_that_write_about_the_same_recordings_do_not_wait_in_a_circle() {
    let db = Db::Postgres(Server::start());
    let nodes = (0..4).map(|node| {
        let url = db.url();
        async move {
            let catalog = Catalog::open(&url, None, PartyPolicy::Clear).await.unwrap();
            for round in 0..10 {
                let mut updates: Vec<_> = (1..=20).map(|number| update(number, &format!("node-{node}"))).collect();
                // Each in an order of its own.
                updates.rotate_left((round + node * 5) % 20);
                catalog.upsert(&updates).await.unwrap();
            }
            catalog.close().await;
        }
    });
    futures::future::join_all(nodes).await;
    let page = db.open(PartyPolicy::Clear).await.search(&Search::default()).await.unwrap();
    assert_eq!(page.recordings.len(), 20);
    assert!(page.recordings.iter().all(|recording| recording.parts.len() == 4));
}

#[tokio::test]
async fn nodes_with_other_rules_for_parties_are_refused() {
    let db = Db::Postgres(Server::start());
    let hashed = |byte| PartyPolicy::Hashed(HashKey([byte; 32]));
    db.filled(hashed(1)).await;
    db.open(hashed(1)).await;
    for other in [hashed(2), PartyPolicy::Clear] {
        let error = Catalog::open(&db.url(), None, other).await.unwrap_err();
        assert!(matches!(error, CatalogError::Parties { .. }) && error.is_wrong_setup(), "{error}");
    }
}

#[tokio::test]
async fn nothing_is_lost_while_the_database_is_killed_and_the_node_too() {
    let mut server = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let queue = dir.path().join("queue.db");
    let catalog = Catalog::open(&server.url(), None, PartyPolicy::Clear).await.unwrap();
    let (writer, task) = CatalogWriter::start_queued(catalog.clone(), &queue, 1 << 20).await.unwrap();
    writer.tell(news(1));
    until(|| writer.written() == 1).await;
    server.kill();
    for number in 2..=300 {
        assert!(writer.tell(news(number)));
    }
    until(|| writer.trouble().is_some() && writer.waiting() == 299).await;
    assert!(catalog.search(&Search::default()).await.is_err());
    drop(writer);
    task.await.unwrap();
    catalog.close().await;
    // The node starts again before the database does.
    let catalog = Catalog::open(&server.url(), None, PartyPolicy::Clear).await.unwrap();
    let (writer, task) = CatalogWriter::start_queued(catalog.clone(), &queue, 1 << 20).await.unwrap();
    assert_eq!(writer.waiting(), 299);
    assert!(matches!(catalog.search(&Search::default()).await, Err(CatalogError::NotReached)));
    server.run();
    until(|| writer.waiting() == 0).await;
    assert_eq!((writer.trouble(), writer.is_stale()), (None, false));
    let page = catalog.search(&Search { limit: Some(1000), ..Search::default() }).await.unwrap();
    assert_eq!(ids(&page), (1..=300).rev().collect::<Vec<u128>>());
    drop(writer);
    task.await.unwrap();
}

#[tokio::test]
async fn what_the_database_never_takes_holds_nobody_up() {
    let server = Server::start();
    let catalog = Catalog::open(&server.url(), None, PartyPolicy::Clear).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (writer, _task) =
        CatalogWriter::start_queued(catalog.clone(), &dir.path().join("queue.db"), 1 << 20).await.unwrap();
    let mut bad = update(2, "edge-a1");
    // More than a row of an index takes, however it is packed.
    let noise: String = (0..2000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_string()).collect();
    bad.tags = Some(vec![("x".into(), noise)]);
    for one in [news(1), News::Recording(Box::new(bad)), news(3)] {
        writer.tell(one);
    }
    until(|| writer.written() == 2 && writer.refused() == 1).await;
    assert!(writer.is_stale());
    assert_eq!(ids(&catalog.search(&Search::default()).await.unwrap()), [3, 1]);
}

#[tokio::test]
async fn an_address_is_checked_and_its_password_is_never_shown() {
    for wrong in [
        "postgres://",
        "postgres:///x",
        "postgres://u:secret@h",
        "postgres://u:secret@h:99999/db",
        "postgres://u:secret@h/db?sslmode=sure",
        "postgres://u:secret@h/db?sslmod=disable",
        "mysql://u:secret@h/db",
        "sqlite:",
    ] {
        let error = Catalog::check_url(wrong).expect_err(wrong);
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    }
    Catalog::check_url("postgresql://u@db.example:5433/ferric?sslmode=verify-full&sslrootcert=/ca.crt").unwrap();
    // Nobody listens there.
    let url = "postgres://u:secret@127.0.0.1:1/db";
    let catalog = Catalog::open(url, Some("hidden"), PartyPolicy::Clear).await.unwrap();
    let error = catalog.upsert(&[update(1, "a")]).await.unwrap_err();
    let shown = format!("{catalog:?} {error} {error:?}");
    for secret in ["secret", "hidden"] {
        // sqlx shows the options of a pool in full: ours must not.
        assert!(!shown.contains(secret), "{shown}");
    }
}
