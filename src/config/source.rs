//! Where a configuration came from, so that it can be read and changed there while the node runs.
//!
//! A node that was started without a file has one of its own in its data folder. It comes into being with the first change
//! over the API, and the next start without a file reads it.

use std::path::{Path, PathBuf};

use super::{Complaints, Config};

/// The file of a node without a file, in its data folder.
pub const OWN_FILE: &str = "ferric.toml";

/// What a node without a file runs by, as a file would say it.
const OWN_TEXT: &str = r#"# The configuration of a node that was started without one: `ferric run` reads it from its data folder.
# It says no more than what holds by default; see `ferric check --config` for what else may stand here.
[node]
data_dir = "."

[[tenant]]
name = "default"
public_keys = ["keys/default.public.pem"]
store = "file://store"
prefix = "default"
"#;

/// A file and what it said.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// The text in force.
    pub text: String,
    /// The text that the file had when it was last read or written; none when there was no file.
    pub on_disk: Option<String>,
    /// Of a node without a file.
    data_dir: Option<PathBuf>,
}

impl Source {
    /// Reads the file, or what a node without one keeps in `data_dir`.
    ///
    /// # Errors
    /// All [`Complaints`] at once.
    pub fn open(file: Option<&Path>, data_dir: &Path) -> Result<(Config, Source), Complaints> {
        let Some(file) = file else { return Source::embedded(data_dir) };
        let (config, text) = Config::read(file)?;
        Ok((config, Source { file: file.to_owned(), text: text.clone(), on_disk: Some(text), data_dir: None }))
    }

    fn embedded(data_dir: &Path) -> Result<(Config, Source), Complaints> {
        let file = data_dir.join(OWN_FILE);
        let mut source = Source { file, text: OWN_TEXT.to_owned(), on_disk: None, data_dir: Some(data_dir.to_owned()) };
        match std::fs::read_to_string(&source.file) {
            Ok(text) => {
                let config = source.parse(&text)?;
                source.text.clone_from(&text);
                source.on_disk = Some(text);
                Ok((config, source))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok((Config::embedded(data_dir), source)),
            Err(error) => Err(Complaints::unreadable(&source.file, &error)),
        }
    }

    /// Checks a text as if it stood in the file.
    ///
    /// # Errors
    /// All [`Complaints`] at once.
    pub fn parse(&self, text: &str) -> Result<Config, Complaints> {
        let mut config = Config::parse(&self.file, text)?;
        if let Some(data_dir) = &self.data_dir {
            // Whoever started the node said where; the file only repeats it.
            config.node.data_dir.clone_from(data_dir);
            config.is_embedded = true;
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::changes;

    #[test]
    fn what_a_node_without_a_file_runs_by_can_be_written_down() {
        let home = tempfile::tempdir().unwrap();
        let data_dir = home.path().join("data");
        let (before, source) = Source::open(None, &data_dir).unwrap();
        assert!(source.on_disk.is_none() && before.is_embedded);
        std::fs::create_dir_all(data_dir.join("keys")).unwrap();
        crate::cli::write_key_pair(&data_dir.join("keys"), "default").unwrap();
        std::fs::write(&source.file, &source.text).unwrap();
        let (after, again) = Source::open(None, &data_dir).unwrap();
        assert_eq!(changes::waiting(&before, &after), Vec::<String>::new());
        assert_eq!(changes::between(&before, &after), Vec::<String>::new());
        assert!(after.is_embedded && again.on_disk.as_deref() == Some(&*source.text));
        std::fs::write(&source.file, "[node\n").unwrap();
        assert!(Source::open(None, &data_dir).is_err());
    }
}
