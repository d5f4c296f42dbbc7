//! Versions of the configuration that were in force, kept beside the node's other data.
//!
//! ```text
//! data_dir/config/000007.toml    the text, as it was in force
//! data_dir/config/000007.json    when, who, what changed, SHA-256 of the text
//! ```
//!
//! Both files are 0600 and written whole or not at all (temporary file, fsync, rename); the record is written last, so a text
//! without one is what a crash left and is passed over. The last [`KEPT`] are kept. A configuration holds no secrets: keys,
//! passwords and tokens live in files of their own, which it only names.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ferric_media::timestamp::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Versions kept.
pub const KEPT: usize = 100;
/// A larger text is no configuration, in bytes.
pub const MOST_BYTES: usize = 1 << 20;

/// What is known of one version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// Counts up from 1.
    pub number: u64,
    /// When it came into force, RFC 3339.
    pub at: String,
    /// `start`, `sighup` or `api`.
    pub by: String,
    /// What changed, in words.
    pub changes: Vec<String>,
    /// What differs from the node as it was started, and so waits for a restart.
    #[serde(default)]
    pub needs_restart: Vec<String>,
    /// SHA-256 of the text, hexadecimal.
    pub sha256: String,
}

/// The versions of one node.
#[derive(Debug)]
pub struct Versions {
    folder: PathBuf,
    list: Vec<Version>,
}

impl Versions {
    /// Opens a folder, which is made; records that cannot be read are passed over.
    ///
    /// # Errors
    /// When the folder cannot be had.
    pub fn open(folder: &Path) -> io::Result<Versions> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut list = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".json"));
            let Some(number) = number.and_then(|number| number.parse::<u64>().ok()) else { continue };
            let read = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Version>(&bytes).ok());
            match read.filter(|version| version.number == number) {
                Some(version) => list.push(version),
                None => tracing::warn!(file = %path.display(), "a record of a configuration's version cannot be read"),
            }
        }
        list.sort_by_key(|version| version.number);
        Ok(Versions { folder: folder.to_owned(), list })
    }

    /// All, the oldest first.
    pub fn list(&self) -> &[Version] {
        &self.list
    }

    /// The last one.
    pub fn last(&self) -> Option<&Version> {
        self.list.last()
    }

    /// The record and the text of one.
    ///
    /// # Errors
    /// When its file cannot be read, or is not what was written.
    pub fn get(&self, number: u64) -> io::Result<Option<(Version, String)>> {
        let Some(version) = self.list.iter().find(|version| version.number == number) else { return Ok(None) };
        let text = std::fs::read_to_string(self.file(number, "toml"))?;
        if sha256(&text) != version.sha256 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the text of version {number} was altered on the disk"),
            ));
        }
        Ok(Some((version.clone(), text)))
    }

    /// Adds one, and lets the oldest go.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(
        &mut self,
        text: &str,
        by: &str,
        changes: Vec<String>,
        needs_restart: Vec<String>,
    ) -> io::Result<Version> {
        let version = Version {
            number: self.last().map_or(1, |last| last.number + 1),
            at: Timestamp::from(SystemTime::now()).to_string(),
            by: by.to_owned(),
            changes,
            needs_restart,
            sha256: sha256(text),
        };
        write_whole(&self.file(version.number, "toml"), text.as_bytes(), 0o600)?;
        let record = serde_json::to_vec_pretty(&version)?;
        write_whole(&self.file(version.number, "json"), &record, 0o600)?;
        self.list.push(version.clone());
        while self.list.len() > KEPT {
            let oldest = self.list.remove(0);
            for kind in ["json", "toml"] {
                let _ = std::fs::remove_file(self.file(oldest.number, kind));
            }
        }
        Ok(version)
    }

    /// Takes the last one back, which did not come into force after all.
    pub fn take_back(&mut self) {
        if let Some(version) = self.list.pop() {
            for kind in ["json", "toml"] {
                let _ = std::fs::remove_file(self.file(version.number, kind));
            }
        }
    }

    fn file(&self, number: u64, kind: &str) -> PathBuf {
        self.folder.join(format!("{number:06}.{kind}"))
    }
}

/// SHA-256 of a text, hexadecimal.
pub fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file whole or not at all, and so that it is there after a crash.
///
/// # Errors
/// When it cannot be written; what was there before is still there then, and so it is after a crash.
pub fn write_whole(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_as(file, bytes, mode, None, sync_folder)
}

/// Replaces the text of a configuration file, whole or not at all; its mode and owner stay. A link is followed.
///
/// # Errors
/// When it cannot be written; it is as it was before then.
pub fn replace_file(file: &Path, text: &str) -> io::Result<()> {
    let file = &std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let before = std::fs::metadata(file).ok();
    let mode = before.as_ref().map_or(0o600, |before| before.mode() & 0o7777);
    let owner = before.map(|before| (before.uid(), before.gid()));
    write_as(file, text.as_bytes(), mode, owner, sync_folder)
}

/// Makes the file whole beside and renames it. All that can fail comes before the rename, so that an error means that nothing
/// changed.
fn write_as(
    file: &Path,
    bytes: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
    sync_folder: impl FnOnce(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("file");
    let part = folder.join(format!(".{name}.part"));
    // One that a crash left would keep its own mode.
    let _ = std::fs::remove_file(&part);
    let written = (|| {
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        if let Some((user, group)) = owner {
            // Only root may give a file away; without that right the new owner can read it as well as the old one wrote it.
            let _ = fchown(&out, Some(user), Some(group));
        }
        out.set_permissions(Permissions::from_mode(mode))?;
        out.write_all(bytes)?;
        out.sync_all()?;
        std::fs::rename(&part, file)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&part);
    } else if let Err(error) = sync_folder(folder) {
        // It is in place for all who look; only after a power failure may the old one be back.
        tracing::warn!(file = %file.display(), %error, "the file is written, but its folder cannot be synced");
    }
    written
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn versions_count_up_and_survive_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("config");
        let mut versions = Versions::open(&folder).unwrap();
        assert!(versions.last().is_none());
        for number in 1..=3 {
            let version = versions.add(&format!("# {number}\n"), "api", vec!["x".into()], vec![]).unwrap();
            assert_eq!(version.number, number);
        }
        versions.add("# 4\n", "api", vec![], vec![]).unwrap();
        versions.take_back();
        let again = Versions::open(&folder).unwrap();
        assert_eq!(again.list(), versions.list());
        let (version, text) = again.get(2).unwrap().unwrap();
        assert_eq!((text.as_str(), version.by.as_str(), version.sha256), ("# 2\n", "api", sha256("# 2\n")));
        assert!(again.get(9).unwrap().is_none());
        let mode = std::fs::metadata(folder.join("000002.toml")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn only_the_last_ones_are_kept() {
        let home = tempfile::tempdir().unwrap();
        let mut versions = Versions::open(home.path()).unwrap();
        for number in 0..KEPT + 5 {
            versions.add(&format!("# {number}\n"), "api", vec![], vec![]).unwrap();
        }
        assert_eq!((versions.list().len(), versions.list()[0].number), (KEPT, 6));
        assert!(versions.get(5).unwrap().is_none() && !home.path().join("000005.toml").exists());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 2 * KEPT);
    }

    #[test]
    fn what_was_altered_or_cut_is_not_believed() {
        let home = tempfile::tempdir().unwrap();
        let mut versions = Versions::open(home.path()).unwrap();
        versions.add("a = 1\n", "start", vec![], vec![]).unwrap();
        versions.add("a = 2\n", "api", vec![], vec![]).unwrap();
        std::fs::write(home.path().join("000001.toml"), "a = 9\n").unwrap();
        assert!(versions.get(1).is_err());
        std::fs::write(home.path().join("000002.json"), "{").unwrap();
        assert_eq!(Versions::open(home.path()).unwrap().list().len(), 1);
    }

    #[test]
    fn a_configuration_file_keeps_its_mode_and_its_link() {
        let home = tempfile::tempdir().unwrap();
        let (file, link) = (home.path().join("ferric.toml"), home.path().join("link.toml"));
        std::fs::write(&file, "old").unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        replace_file(&link, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o664);
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(replace_file(&home.path().join("none/ferric.toml"), "x").is_err());
    }

    #[test]
    fn an_error_means_that_nothing_changed() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("ferric.toml");
        std::fs::write(&file, "old").unwrap();
        // A folder in the way: the new one cannot take its place.
        let taken = home.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        std::fs::write(taken.join("inside"), "").unwrap();
        assert!(write_whole(&taken, b"new", 0o600).is_err());
        assert!(!home.path().join(".taken.part").exists());
        // Once it is in its place, it is: whoever takes an error for "as before" would be wrong.
        write_as(&file, b"new", 0o600, None, |_| Err(io::Error::other("out of order"))).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "new");
    }
}
