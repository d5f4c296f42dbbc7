//! Single steps of a transfer; whole uploads are tested in `upload`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm
)]

use super::*;
use crate::spool::{Spool, Stage};
use crate::upload::faulty::{Fault, Faulty};
use crate::upload::tests::{body, key, ready};
use crate::upload_limit::Bandwidth;
use std::sync::Arc;
use tokio::time::Instant;

struct Bench {
    _dir: tempfile::TempDir,
    spool: Spool,
    store: Faulty,
    target: Target,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path()).unwrap();
    let store = Faulty::default();
    let target = Target::new(Arc::new(store.clone()), "acme").unwrap();
    Bench { _dir: dir, spool, store, target }
}

impl Bench {
    async fn run(&self, number: u128, signed: &SignedManifest, verify: Verify) -> Result<u64, TransferError> {
        let limiter = Limiter::new(Some(Bandwidth(1000)));
        let transfer = Transfer { target: &self.target, limiter: &limiter, verify, again: false, part: PART };
        transfer.run(&self.spool.folder(Stage::Ready, uuid::Uuid::from_u128(number)), signed).await
    }
}

#[tokio::test(start_paused = true)]
async fn reading_back_finds_what_the_length_does_not() {
    let bench = bench();
    let signed = ready(&bench.spool, "acme", 1, 100);
    bench.store.then(&[Fault::Spoil]);
    let error = bench.run(1, &signed, Verify::ReadBack).await.unwrap_err();
    assert!(matches!(error, TransferError::Verify { .. }) && !error.is_final(), "{error}");
    assert!(bench.store.objects().await.is_empty(), "what was spoiled is taken away");
    bench.store.then(&[Fault::Spoil]);
    bench.run(1, &signed, Verify::Length).await.unwrap();
    assert_ne!(bench.store.objects().await[&key(1, AUDIO)], body(1, 100));
}

#[tokio::test(start_paused = true)]
async fn the_limit_counts_every_byte_that_is_sent() {
    let bench = bench();
    let signed = ready(&bench.spool, "acme", 1, 10_000);
    let begun = Instant::now();
    let sent = bench.run(1, &signed, Verify::ReadBack).await.unwrap();
    assert_eq!(sent, 10_000 + 15 + signed.as_bytes().len() as u64);
    let seconds = begun.elapsed().as_secs_f64();
    // A second's worth goes at once.
    assert!((seconds - (sent as f64 / 1000.0 - 1.0)).abs() < 0.1, "{seconds}");
    assert_eq!(bench.run(1, &signed, Verify::ReadBack).await.unwrap(), 0, "what is there costs nothing");
}

#[tokio::test(start_paused = true)]
async fn a_missing_file_is_final_and_an_unreachable_store_is_not() {
    let bench = bench();
    let signed = ready(&bench.spool, "acme", 1, 100);
    bench.store.set_down(true);
    assert!(!bench.run(1, &signed, Verify::ReadBack).await.unwrap_err().is_final());
    bench.store.set_down(false);
    std::fs::remove_file(bench.spool.folder(Stage::Ready, uuid::Uuid::from_u128(1)).join(METADATA)).unwrap();
    let error = bench.run(1, &signed, Verify::ReadBack).await.unwrap_err();
    assert_eq!(error.to_string(), "metadata.ejson: it is missing");
    assert!(error.is_final());
    assert!(!bench.store.objects().await.contains_key(&key(1, MANIFEST)), "no commit mark without its files");
}
