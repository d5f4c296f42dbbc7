//! Room that is kept for a start on a full disk.
//!
//! A node whose disk is full has to start all the same: its spool goes out only while it runs, and nothing else frees the
//! disk. But a start writes a little: the catalogue's journal, the ledger, manifests of what was cut off. So a file of
//! [`SIZE`] bytes lies in the data folder. A start with less than that free gives it up; once there is plenty of room it
//! is made anew.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Bytes that are kept.
const SIZE: u64 = 16 << 20;
/// It is made when so many times its size are free.
const PLENTY: u64 = 16;

/// The file and where it lies.
#[derive(Debug, Clone)]
pub(super) struct Reserve {
    data_dir: PathBuf,
    file: PathBuf,
}

impl Reserve {
    /// That of a data folder; given up if the disk is full.
    pub(super) fn open(data_dir: &Path) -> Reserve {
        let reserve = Reserve { data_dir: data_dir.to_owned(), file: data_dir.join("reserve") };
        if let Ok(available) = reserve.available() {
            reserve.give_up(available);
        }
        reserve
    }

    /// Makes the file if it is not there and there is plenty of room; to be called now and then.
    pub(super) fn keep(&self) {
        let kept = self.available().and_then(|available| self.make(available));
        if let Err(error) = kept {
            tracing::debug!(file = %self.file.display(), %error, "no room is kept for a start on a full disk");
        }
    }

    fn available(&self) -> io::Result<u64> {
        let disk = nix::sys::statvfs::statvfs(&self.data_dir)?;
        Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
    }

    fn give_up(&self, available: u64) {
        if available < SIZE && fs::remove_file(&self.file).is_ok() {
            tracing::warn!(available, "the disk is full: the room that was kept for this start is used now");
        }
    }

    fn make(&self, available: u64) -> io::Result<()> {
        if available < SIZE * PLENTY || self.file.exists() {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.file)?;
        let length = i64::try_from(SIZE).unwrap_or(i64::MAX);
        let made = nix::fcntl::posix_fallocate(&file, 0, length);
        if made.is_err() {
            // Half a reserve would be taken for a whole one.
            fs::remove_file(&self.file)?;
        }
        Ok(made?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_made_where_there_is_plenty_and_given_up_where_there_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(folder.path());
        reserve.make(SIZE * PLENTY - 1).unwrap();
        assert!(!reserve.file.exists());
        reserve.make(SIZE * PLENTY).unwrap();
        let made = fs::metadata(&reserve.file).unwrap();
        assert_eq!(made.len(), SIZE);
        assert!(std::os::unix::fs::MetadataExt::blocks(&made) * 512 >= SIZE, "a file with holes keeps no room");
        reserve.make(SIZE * PLENTY).unwrap();
        reserve.give_up(SIZE);
        assert!(reserve.file.exists());
        reserve.give_up(SIZE - 1);
        assert!(!reserve.file.exists());
    }
}
