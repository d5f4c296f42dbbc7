//! The number of this run of the node: larger than that of every run before, whatever the clock says.
//!
//! It is the microseconds since 1970, or one more than the last number, which lies in a file. So a clock that was set back
//! does not make a restarted node look like an older one to those who order its writes by this number.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::versions::write_whole;

/// The file in the data folder.
const FILE: &str = "state/incarnation";

/// The number of the run that begins now; written before it is used.
///
/// A disk that takes nothing keeps no node from starting: its spool has to go out before the disk is free again. The clock
/// alone gives the number then.
pub(super) fn next(data_dir: &Path) -> u64 {
    let file = data_dir.join(FILE);
    let last: Option<u64> = match std::fs::read_to_string(&file) {
        Ok(text) => text.trim().parse().ok(),
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(file = %file.display(), %error, "the number of the last run cannot be read");
            }
            None
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let next = u64::try_from(now.as_micros()).unwrap_or(u64::MAX).max(last.unwrap_or(0).saturating_add(1));
    if let Err(error) = write(&file, next) {
        tracing::warn!(file = %file.display(), %error, "the number of this run cannot be written; the clock alone makes the next one larger");
    }
    next
}

fn write(file: &Path, number: u64) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    write_whole(file, format!("{number}\n").as_bytes(), 0o600)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_run_has_a_larger_number_though_the_clock_was_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let first = next(folder.path());
        assert!(next(folder.path()) > first);
        let ahead = u64::MAX / 2;
        std::fs::write(folder.path().join(FILE), ahead.to_string()).unwrap();
        assert_eq!(next(folder.path()), ahead + 1);
        std::fs::write(folder.path().join(FILE), "rubbish").unwrap();
        assert!(next(folder.path()) >= first);
    }

    #[test]
    fn a_folder_that_cannot_be_written_keeps_nobody_from_starting() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("state"), "no folder").unwrap();
        let first = next(folder.path());
        assert!(next(folder.path()) > first);
    }
}
