//! Writes one running recording into the spool, from a capture thread.
//!
//! The audio file grows by whole segments only. A write that fails half-way
//! (the disk is full) is cut back to the last whole segment, so the file is
//! valid at every moment, and the segments are kept in a bounded backlog and
//! tried again at the next append: space that comes back within the bound
//! costs nothing. Beyond the bound the recording ends where the file ends
//! ([`AppendError::Ended`]): segments are numbered, and one that is missing in
//! the middle would make everything after it unreadable.
//!
//! A writer that is dropped without [`SpoolWriter::finish`] leaves a recording as
//! a crash does: whole up to its last append, finished at the next start.
//!
//! Nothing is flushed to the disk here; [`crate::sync::GroupSync`] does that for
//! all calls together.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use ferric_media::manifest::{RecordingState, SignedManifest};
use ferric_media::part::Part;
use ferric_media::seal::SealSummary;
use ferric_media::timestamp::Timestamp;

use crate::spool::{AUDIO, INDEX, METADATA, Spool, SpoolError, Stage, at, create, make_dir, write_whole};
use crate::spool_index::{Mark, RecordingStart, end_line, first_line, mark_line};

/// Sealed bytes a recording may hold back while the disk refuses them: about half a minute of a call.
pub const BACKLOG_BYTES: usize = 96 * 1024;

/// Why sealed segments are not in the file.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// They wait in the backlog; the file is whole up to the segment before them.
    #[error("{waiting_bytes} bytes wait for the disk: {source}")]
    Delayed {
        /// Bytes in the backlog.
        waiting_bytes: usize,
        /// What the disk said.
        source: SpoolError,
    },
    /// The backlog overflowed: the recording ends where its file ends.
    #[error("the disk refused for too long; the recording ends after segment {segments}, at {duration_ms} ms")]
    Ended {
        /// Whole segments in the file.
        segments: u32,
        /// Audio in them, in milliseconds.
        duration_ms: u64,
    },
}

/// A file that only grows, and is cut back after a failed write.
pub(crate) trait Grow: Send + std::fmt::Debug {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn cut_to(&mut self, length: u64) -> io::Result<()>;
}

impl Grow for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn cut_to(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// A file and how much of it is whole.
#[derive(Debug)]
struct Whole {
    file: Box<dyn Grow>,
    path: PathBuf,
    length: u64,
    /// A cut after a failed write failed too; nothing may be appended before it succeeds.
    torn: bool,
}

impl Whole {
    fn append(&mut self, bytes: &[u8]) -> Result<(), SpoolError> {
        if self.torn {
            self.file.cut_to(self.length).map_err(at("cut back", &self.path))?;
            self.torn = false;
        }
        match self.file.append(bytes) {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.torn = self.file.cut_to(self.length).is_err();
                Err(at("append to", &self.path)(error))
            }
        }
    }
}

/// Segments that are sealed and not yet in the file.
#[derive(Debug)]
struct Held {
    bytes: Vec<u8>,
    mark: Mark,
}

/// One running recording's files.
#[derive(Debug)]
pub struct SpoolWriter {
    spool: Spool,
    start: RecordingStart,
    folder: PathBuf,
    audio: Whole,
    index: Whole,
    written: Mark,
    backlog: Vec<Held>,
    backlog_bytes: usize,
    backlog_limit: usize,
    ended: bool,
    /// Bytes of this recording that the spool's usage counts.
    counted: u64,
}

/// How a recording ended, as the capture side knows it.
#[derive(Debug, Clone)]
pub struct RecordingEnd {
    /// Segments sealed since the last append, the last one among them.
    pub sealed: Vec<u8>,
    /// The sealer's measures of the whole file.
    pub summary: SealSummary,
    /// Length of the audio, in milliseconds.
    pub duration_ms: u64,
    /// When the timeline ended.
    pub ended_at: Timestamp,
    /// The final metadata, sealed; `None` keeps the last version.
    pub metadata: Option<Vec<u8>>,
}

/// A recording whose call is over; [`crate::spool_commit::Committer`] makes it ready for the store.
#[derive(Debug)]
pub struct FinishedRecording {
    /// Whose it is and when it began.
    pub start: RecordingStart,
    /// How it ended.
    pub state: RecordingState,
    /// Length of the audio, in milliseconds.
    pub duration_ms: u64,
    /// When the timeline ended.
    pub ended_at: Timestamp,
    pub(crate) folder: PathBuf,
    /// Measures of the audio file once `pending` is in it; `None` = measure the file.
    pub(crate) summary: Option<SealSummary>,
    pub(crate) pending: Option<Pending>,
    /// Bytes of it that the spool's usage counts already.
    pub(crate) counted: u64,
    /// Another node has the same recording: it waits for that one instead of being signed.
    pub(crate) hold: bool,
    /// Its manifest, once the chain names it: the folder only has to move on.
    pub(crate) signed: Option<SignedManifest>,
}

impl FinishedRecording {
    /// Another node has the same recording and stores it: these files wait, and nobody is told of them.
    pub fn is_held(&self) -> bool {
        self.hold
    }
}

/// What a finished recording still has to write.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) index: String,
    pub(crate) audio: Vec<u8>,
    /// Length of the audio file before `audio` is appended.
    pub(crate) audio_from: u64,
    /// Length of the index before `index` is appended.
    pub(crate) index_from: u64,
    pub(crate) metadata: Option<Vec<u8>>,
}

impl Spool {
    /// Sets up a recording's folder: sealed metadata, the audio file's header and the index.
    ///
    /// # Errors
    /// The id is taken, or the disk refuses.
    pub fn begin(
        &self,
        start: RecordingStart,
        audio_header: &[u8],
        metadata: &[u8],
    ) -> Result<SpoolWriter, SpoolError> {
        let id = start.part.file;
        let folder = self.folder(Stage::Recording, id);
        if [Stage::Recording, Stage::Held, Stage::Ready].iter().any(|stage| self.folder(*stage, id).exists()) {
            return Err(SpoolError::Exists(id));
        }
        // Under another name until all three files are there: a crash leaves all of it or nothing to finish.
        let setup = folder.with_extension("new");
        let open = |setup: &Path| -> Result<(Whole, Whole), SpoolError> {
            make_dir(setup)?;
            write_whole(&setup.join(METADATA), metadata)?;
            let whole = |name: &str, first: &[u8]| -> Result<Whole, SpoolError> {
                let file = create(&setup.join(name), false)?;
                let mut whole = Whole { file: Box::new(file), path: folder.join(name), length: 0, torn: false };
                whole.append(first)?;
                Ok(whole)
            };
            let files = (whole(AUDIO, audio_header)?, whole(INDEX, first_line(&start).as_bytes())?);
            std::fs::rename(setup, &folder).map_err(at("move", setup))?;
            Ok(files)
        };
        let (audio, index) = open(&setup).inspect_err(|_| {
            let _ = std::fs::remove_dir_all(&setup);
        })?;
        self.usage().add_recording();
        let counted = audio.length + index.length + metadata.len() as u64;
        self.usage().add_bytes(counted);
        self.dirty().raise();
        Ok(SpoolWriter {
            spool: self.clone(),
            start,
            folder,
            audio,
            index,
            written: Mark { segments: 0, duration_ms: 0 },
            backlog: Vec::new(),
            backlog_bytes: 0,
            backlog_limit: BACKLOG_BYTES,
            ended: false,
            counted,
        })
    }
}

impl SpoolWriter {
    /// The folder of its files.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A copy goes on as the recording.
    pub(crate) fn promote(&mut self) {
        self.start.part.copy = false;
    }

    /// Which files of which recording.
    pub fn part(&self) -> Part {
        self.start.part
    }

    /// Appends whole sealed segments. `segments` counts all of the file's once these are in it,
    /// `duration_ms` is the audio in them.
    ///
    /// # Errors
    /// They wait in the backlog and need not be given again, or the recording has ended for good.
    pub fn append(&mut self, sealed: Vec<u8>, segments: u32, duration_ms: u64) -> Result<(), AppendError> {
        if self.ended {
            return Err(self.ended_error());
        }
        if !sealed.is_empty() {
            self.backlog_bytes += sealed.len();
            self.backlog.push(Held { bytes: sealed, mark: Mark { segments, duration_ms } });
        }
        let Err(source) = self.drain() else { return Ok(()) };
        if self.backlog_bytes > self.backlog_limit {
            self.ended = true;
            self.backlog = Vec::new();
            self.backlog_bytes = 0;
            return Err(self.ended_error());
        }
        Err(AppendError::Delayed { waiting_bytes: self.backlog_bytes, source })
    }

    /// Bytes that wait for the disk.
    pub fn waiting_bytes(&self) -> usize {
        self.backlog_bytes
    }

    /// Replaces the sealed metadata, whole or not at all.
    ///
    /// # Errors
    /// The disk refuses; the version before stands.
    pub fn put_metadata(&mut self, sealed: &[u8]) -> Result<(), SpoolError> {
        write_whole(&self.folder.join(METADATA), sealed)?;
        self.spool.dirty().raise();
        Ok(())
    }

    /// The call is over. Writes nothing: what is left is written when the recording is committed, and
    /// tried again there for as long as the disk refuses.
    pub fn finish(self, end: RecordingEnd) -> FinishedRecording {
        let mut pending = Pending {
            audio_from: self.audio.length,
            index_from: self.index.length,
            metadata: end.metadata,
            ..Pending::default()
        };
        let (state, summary, mark) = if self.ended {
            (RecordingState::Partial, None, self.written)
        } else {
            for held in self.backlog {
                pending.index.push_str(&mark_line(held.mark));
                pending.audio.extend_from_slice(&held.bytes);
            }
            pending.audio.extend_from_slice(&end.sealed);
            let mark = Mark { segments: end.summary.segments, duration_ms: end.duration_ms };
            (RecordingState::Complete, Some(end.summary), mark)
        };
        if state == RecordingState::Complete {
            pending.index.push_str(&end_line(mark, end.ended_at));
        }
        FinishedRecording {
            duration_ms: mark.duration_ms,
            ended_at: end.ended_at,
            state,
            folder: self.folder,
            summary,
            pending: Some(pending),
            counted: self.counted,
            signed: None,
            hold: self.start.part.copy,
            start: self.start,
        }
    }

    fn drain(&mut self) -> Result<(), SpoolError> {
        while let Some(held) = self.backlog.first() {
            let line = mark_line(held.mark);
            // The line first: whatever audio survives a crash has its length beside it.
            self.index.append(line.as_bytes())?;
            self.audio.append(&held.bytes)?;
            self.written = held.mark;
            let grown = held.bytes.len() as u64 + line.len() as u64;
            self.counted += grown;
            self.spool.usage().add_bytes(grown);
            self.spool.dirty().raise();
            self.backlog_bytes -= held.bytes.len();
            self.backlog.remove(0);
        }
        Ok(())
    }

    fn ended_error(&self) -> AppendError {
        AppendError::Ended { segments: self.written.segments, duration_ms: self.written.duration_ms }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm
    )]
    use super::*;
    use crate::spool_index::Index;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use uuid::Uuid;

    pub(crate) fn start(number: u128) -> RecordingStart {
        RecordingStart {
            part: Part::first(Uuid::from_u128(number)),
            tenant: "acme".into(),
            node: "edge-a1".into(),
            started_at: Timestamp::from_unix_ms(1_000_000),
        }
    }

    /// A file on a disk with so many bytes left; a short write takes what fits, as a real one does.
    #[derive(Debug)]
    struct SmallDisk(File, Arc<AtomicU64>, Arc<AtomicU64>);

    impl Grow for SmallDisk {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            let room = self.1.load(Ordering::Relaxed);
            let fits = bytes.len().min(room as usize);
            self.0.write_all(&bytes[..fits])?;
            self.1.fetch_sub(fits as u64, Ordering::Relaxed);
            if fits < bytes.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }

        fn cut_to(&mut self, length: u64) -> io::Result<()> {
            if self.2.load(Ordering::Relaxed) > 0 {
                self.2.fetch_sub(1, Ordering::Relaxed);
                return Err(io::ErrorKind::Other.into());
            }
            let freed = self.0.metadata()?.len() - length;
            self.1.fetch_add(freed, Ordering::Relaxed);
            self.0.set_len(length)
        }
    }

    fn on_small_disk(spool: &Spool, room: u64) -> (SpoolWriter, Arc<AtomicU64>, Arc<AtomicU64>) {
        let mut writer = spool.begin(start(1), b"HEADER", b"meta").unwrap();
        let (room, bad_cuts) = (Arc::new(AtomicU64::new(room)), Arc::new(AtomicU64::new(0)));
        for whole in [&mut writer.audio, &mut writer.index] {
            let file = create(&whole.path, true).unwrap();
            whole.file = Box::new(SmallDisk(file, Arc::clone(&room), Arc::clone(&bad_cuts)));
        }
        (writer, room, bad_cuts)
    }

    fn audio(spool: &Spool) -> Vec<u8> {
        std::fs::read(spool.folder(Stage::Recording, Uuid::from_u128(1)).join(AUDIO)).unwrap()
    }

    fn index(spool: &Spool) -> Index {
        Index::parse(&std::fs::read(spool.folder(Stage::Recording, Uuid::from_u128(1)).join(INDEX)).unwrap())
    }

    #[test]
    fn segments_and_marks_reach_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let mut writer = spool.begin(start(1), b"HEADER", b"meta").unwrap();
        writer.append(b"one".to_vec(), 1, 1000).unwrap();
        writer.append(b"two".to_vec(), 2, 2000).unwrap();
        assert_eq!(audio(&spool), b"HEADERonetwo");
        assert_eq!((index(&spool).start, index(&spool).duration_ms(2)), (Some(start(1)), Some(2000)));
        writer.put_metadata(b"meta two").unwrap();
        assert_eq!(std::fs::read(writer.folder.join(METADATA)).unwrap(), b"meta two");
        assert!(spool.dirty().lower());
        assert!(matches!(spool.begin(start(1), b"", b""), Err(SpoolError::Exists(_))));
    }

    #[test]
    fn wherever_the_disk_fills_up_the_file_ends_with_a_whole_segment_and_nothing_is_lost() {
        for room in 0..120 {
            let dir = tempfile::tempdir().unwrap();
            let spool = Spool::open(dir.path()).unwrap();
            let (mut writer, left, _) = on_small_disk(&spool, room);
            let mut expected = b"HEADER".to_vec();
            for n in 1..=5u8 {
                let _ = writer.append(vec![n; 10], n.into(), u64::from(n) * 1000);
                let audio = audio(&spool);
                assert_eq!((audio.len() - 6) % 10, 0, "room {room}");
                expected.extend([n; 10]);
                assert!(expected.starts_with(&audio));
                assert!(index(&spool).marks.len() * 10 >= audio.len() - 6, "each segment has its mark");
            }
            left.store(10_000, Ordering::Relaxed);
            writer.append(Vec::new(), 5, 5000).unwrap();
            assert_eq!(audio(&spool), expected, "room {room}");
            assert_eq!(writer.waiting_bytes(), 0);
        }
    }

    #[test]
    fn a_cut_that_fails_is_made_up_for_before_anything_is_appended() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let (mut writer, room, bad_cuts) = on_small_disk(&spool, 25);
        bad_cuts.store(2, Ordering::Relaxed);
        assert!(matches!(writer.append(vec![7; 10], 1, 1000), Err(AppendError::Delayed { waiting_bytes: 10, .. })));
        room.store(1000, Ordering::Relaxed);
        assert!(writer.append(Vec::new(), 1, 1000).is_err(), "the cut fails once more");
        writer.append(Vec::new(), 1, 1000).unwrap();
        assert_eq!(audio(&spool), [&b"HEADER"[..], &[7; 10]].concat());
    }

    #[test]
    fn past_the_backlog_the_recording_ends_where_its_file_ends() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let (mut writer, room, _) = on_small_disk(&spool, 60);
        writer.backlog_limit = 25;
        writer.append(vec![1; 10], 1, 1000).unwrap();
        room.store(0, Ordering::Relaxed);
        for n in 2..=3u8 {
            let error = writer.append(vec![n; 10], n.into(), u64::from(n) * 1000).unwrap_err();
            assert!(matches!(error, AppendError::Delayed { .. }));
        }
        let error = writer.append(vec![4; 10], 4, 4000).unwrap_err();
        assert!(matches!(error, AppendError::Ended { segments: 1, duration_ms: 1000 }), "{error}");
        room.store(1000, Ordering::Relaxed);
        assert!(matches!(writer.append(vec![5; 10], 5, 5000), Err(AppendError::Ended { .. })), "no hole is left");
        let end = RecordingEnd {
            sealed: b"last".to_vec(),
            summary: SealSummary { bytes: 1, sha256: [0; 32], segments: 6 },
            duration_ms: 6000,
            ended_at: Timestamp::from_unix_ms(1_006_000),
            metadata: None,
        };
        let finished = writer.finish(end);
        assert_eq!((finished.state, finished.duration_ms), (RecordingState::Partial, 1000));
        assert!(finished.pending.unwrap().audio.is_empty() && finished.summary.is_none());
    }
}
