//! With a disk that waits, or fails, at a sync.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;

fn open(folder: &Path, disk: Disk) -> Ledger {
    let key = Arc::new(NodeKey::generate(&mut StdRng::seed_from_u64(1)).unwrap());
    Ledger::open_on(folder, key, [7; 32], Box::new(|_| {}), disk).unwrap()
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

#[test]
fn who_tells_something_does_not_wait_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let told: Arc<OnceLock<Ledger>> = Arc::default();
    let (ledger, syncs) = (Arc::clone(&told), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&syncs);
    let disk = move |_: &File| {
        let Some(ledger) = ledger.get() else { return Ok(()) };
        if count.fetch_add(1, Ordering::SeqCst) == 0 {
            // As signalling does while the disk is busy: it would wait for ever here if the lock were held.
            assert!(ledger.shared.inner.try_lock().is_ok(), "the lock is held while the disk is waited for");
            ledger.received(id(2), "acme", "second", "siprec");
            ledger.refused(id(2), 488, "no-codec");
        }
        Ok(())
    };
    let ledger = open(folder.path(), Box::new(disk));
    assert!(told.set(ledger.clone()).is_ok());
    ledger.received(id(1), "acme", "first", "siprec");
    ledger.sync();
    assert_eq!(ledger.health(), (1, 0, 0));
    // What came meanwhile is not confirmed by the sync that was under way: the next one has it.
    ledger.sync();
    let done = syncs.load(Ordering::SeqCst);
    assert!(done >= 3, "the folder, the file, and the file once more: {done}");
    assert!(ledger.shared.lock().files.unsynced.is_empty());
    ledger.sync();
    assert_eq!(syncs.load(Ordering::SeqCst), done, "nothing new, nothing to sync");
}

#[test]
fn what_the_disk_did_not_confirm_is_synced_again() {
    let folder = tempfile::tempdir().unwrap();
    let is_broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let broken = Arc::clone(&is_broken);
    let disk = move |file: &File| match broken.load(Ordering::SeqCst) {
        true => Err(io::Error::other("out of order")),
        false => file.sync_data(),
    };
    let ledger = open(folder.path(), Box::new(disk));
    ledger.received(id(1), "acme", "c", "siprec");
    ledger.sync();
    ledger.sync();
    {
        // The thread may be at it as well: between two syncs all is there.
        let _between = ledger.shared.syncing.lock().unwrap();
        assert_eq!(ledger.shared.lock().files.unsynced.len(), 2, "the folder and the file");
    }
    is_broken.store(false, Ordering::SeqCst);
    ledger.sync();
    assert!(ledger.shared.lock().files.unsynced.is_empty());
}

#[test]
fn midnight_leaves_no_line_of_the_old_day_unsynced() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = Files::default();
    for day in ["2026-01-01", "2026-01-02", "2026-01-02"] {
        files.append(folder.path(), day, b"line\n").unwrap();
    }
    let lengths: Vec<u64> = files
        .unsynced
        .iter()
        .map(|file| file.metadata().unwrap())
        .filter(std::fs::Metadata::is_file)
        .map(|file| file.len())
        .collect();
    assert_eq!(lengths, [5, 10]);
}
