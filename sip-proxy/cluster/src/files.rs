//! Files that are whole or not there.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Writes a file beside, syncs and renames it; mode 0600. An error means that the old one is there still.
pub(crate) fn write_whole(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let part = file.with_extension("part");
    // One that a crash left would keep its own mode.
    let _ = std::fs::remove_file(&part);
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    std::fs::rename(&part, file)?;
    // The rename itself may be lost with the machine: then the old file is there, which was good as well.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(())
}

/// The bytes of a file; `None`: there is none.
pub(crate) fn read(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(file) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state/x.json");
        assert_eq!(read(&file).unwrap(), None);
        write_whole(&file, b"one").unwrap();
        std::fs::write(file.with_extension("part"), b"left by a crash").unwrap();
        write_whole(&file, b"two").unwrap();
        assert_eq!(read(&file).unwrap().unwrap(), b"two");
        assert!(!file.with_extension("part").exists());
    }
}
