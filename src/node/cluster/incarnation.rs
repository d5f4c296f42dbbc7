//! The number of this run of the node: larger than that of every run before, whatever the clock says.
//!
//! It is the microseconds since 1970, or one more than the last number, which lies in a file. So a clock that was set back
//! does not make a restarted node look like an older one to those who order its writes by this number.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use crate::config::versions::write_whole;

/// The file in the data folder.
const FILE: &str = "state/incarnation";

/// The number of the run that begins now; written before it is used.
pub(super) fn next(data_dir: &Path) -> anyhow::Result<u64> {
    let file = data_dir.join(FILE);
    let last = match std::fs::read_to_string(&file) {
        Ok(text) => text.trim().parse().ok(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", file.display())),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let next = u64::try_from(now.as_micros()).unwrap_or(u64::MAX).max(last.unwrap_or(0_u64).saturating_add(1));
    if let Some(folder) = file.parent() {
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    write_whole(&file, format!("{next}\n").as_bytes(), 0o600)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    Ok(next)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_run_has_a_larger_number_though_the_clock_was_set_back() {
        let folder = tempfile::tempdir().unwrap();
        let first = next(folder.path()).unwrap();
        assert!(next(folder.path()).unwrap() > first);
        let ahead = u64::MAX / 2;
        std::fs::write(folder.path().join(FILE), ahead.to_string()).unwrap();
        assert_eq!(next(folder.path()).unwrap(), ahead + 1);
        std::fs::write(folder.path().join(FILE), "rubbish").unwrap();
        assert!(next(folder.path()).unwrap() >= first);
    }
}
