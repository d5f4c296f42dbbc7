//! The commands as a person runs them: exit codes, what is told, what is left alone.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, UNIX_EPOCH};

use ferric_codecs::decode::CodecKind;
use ferric_media::eopus::Content;
use ferric_media::keys::{NodeKey, PrivateKey};
use ferric_media::manifest::{AudioEntry, Digest, Manifest, MetadataEntry, RecordingState, SignedManifest};
use ferric_media::part::Part;
use ferric_media::recorder::{Output as RecorderOutput, Recorder, RecorderConfig};
use ferric_media::rtp::StreamIndex;
use ferric_media::seal::{SealHeader, Sealer, seal_document};
use ferric_media::stats::Channel;
use ferric_media::stream::{PayloadKind, StreamConfig};
use tempfile::TempDir;
use uuid::Uuid;

/// The plaintext of each segment of the audio.
const SEGMENT: &[u8] = &[7; 5_000];

fn ferric() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferric"));
    command.env_remove("RUST_LOG");
    command
}

/// A folder with a tenant's keys, a node's key and recordings sealed with them.
struct Place {
    folder: TempDir,
    tenant: PrivateKey,
    node: NodeKey,
}

impl Place {
    fn new() -> Place {
        let place = Place {
            folder: tempfile::tempdir().unwrap(),
            tenant: PrivateKey::generate(&mut rand::rng()).unwrap(),
            node: NodeKey::generate(&mut rand::rng()).unwrap(),
        };
        fs::write(place.path("acme.private.pem"), place.tenant.to_pem().unwrap().as_bytes()).unwrap();
        fs::write(place.path("node.public.pem"), place.node.public().to_pem().unwrap()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Records `store/{id}` with three segments of audio and a metadata document.
    fn record(&self, id: Uuid, previous: Option<Digest>) -> SignedManifest {
        let folder = self.path("store").join(id.to_string());
        fs::create_dir_all(&folder).unwrap();
        let created = "2026-01-31T08:00:00Z".parse().unwrap();
        let header = |content| SealHeader { part: Part::first(id), tenant: "acme".into(), content, created };
        let recipients = [self.tenant.public().clone()];
        let (mut sealer, mut audio) = Sealer::new(&header(Content::OggOpus), &recipients, &mut rand::rng()).unwrap();
        for _ in 0..2 {
            sealer.seal(SEGMENT, &mut audio).unwrap();
        }
        let sealed = sealer.finish(SEGMENT, &mut audio).unwrap();
        fs::write(folder.join("audio.eopus"), audio).unwrap();
        let (metadata, about) = seal_document(&header(Content::Json), &recipients, b"{}", &mut rand::rng()).unwrap();
        fs::write(folder.join("metadata.ejson"), metadata).unwrap();
        let manifest = Manifest {
            part: Part::first(id),
            tenant: "acme".into(),
            node: "edge-a1".into(),
            state: RecordingState::Complete,
            started_at: created,
            ended_at: created,
            duration_ms: 3_000,
            audio: AudioEntry { bytes: sealed.bytes, sha256: Digest(sealed.sha256), segments: sealed.segments },
            metadata: Some(MetadataEntry { bytes: about.bytes, sha256: Digest(about.sha256) }),
            previous,
            key_id: self.node.public().id().clone(),
        };
        let signed = manifest.sign(&self.node).unwrap();
        fs::write(folder.join("manifest.json"), signed.as_bytes()).unwrap();
        signed
    }

    fn file(&self, id: Uuid, name: &str) -> PathBuf {
        self.path("store").join(id.to_string()).join(name)
    }

    fn decrypt(&self, file: &Path, more: &[&str]) -> Output {
        let key = self.path("acme.private.pem");
        ferric().arg("decrypt").arg("--key").arg(key).arg(file).args(more).output().unwrap()
    }

    fn verify(&self) -> Output {
        let cert = self.path("node.public.pem");
        ferric().arg("verify").arg("--cert").arg(cert).arg(self.path("store")).output().unwrap()
    }
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

#[test]
fn a_sealed_file_opens_beside_itself_and_into_a_pipe() {
    let place = Place::new();
    place.record(id(1), None);
    assert_eq!(code(&place.decrypt(&place.file(id(1), "audio.eopus"), &[])), 0);
    assert_eq!(fs::read(place.file(id(1), "audio.opus")).unwrap(), SEGMENT.repeat(3));
    let metadata = place.decrypt(&place.file(id(1), "metadata.ejson"), &["-o", "-"]);
    assert_eq!((code(&metadata), metadata.stdout), (0, b"{}".to_vec()));
}

#[test]
fn a_cut_file_is_opened_up_to_the_cut_and_said_to_be_cut() {
    let place = Place::new();
    place.record(id(1), None);
    let sealed = fs::read(place.file(id(1), "audio.eopus")).unwrap();
    let cut = place.path("cut.eopus");
    fs::write(&cut, sealed.get(..sealed.len() - 40).unwrap()).unwrap();
    let done = place.decrypt(&cut, &[]);
    assert_eq!(code(&done), 3);
    assert!(
        told(&done).contains("segment 2") && told(&done).contains("everything before the damage"),
        "{}",
        told(&done)
    );
    assert_eq!(fs::read(place.path("cut.opus")).unwrap(), SEGMENT.repeat(2));
}

#[test]
fn a_sealed_recording_is_never_overwritten_by_its_own_opening() {
    let place = Place::new();
    place.record(id(1), None);
    let sealed = place.file(id(1), "audio.eopus");
    let before = fs::read(&sealed).unwrap();
    let link = place.path("link.opus");
    std::os::unix::fs::symlink(&sealed, &link).unwrap();
    for output in [&sealed, &link] {
        let done = place.decrypt(&sealed, &["-o", output.to_str().unwrap()]);
        assert_eq!(code(&done), 1, "{}", told(&done));
        assert!(told(&done).contains("not overwritten"), "{}", told(&done));
    }
    assert_eq!(fs::read(&sealed).unwrap(), before);
}

#[test]
fn what_does_not_open_leaves_no_file_and_spoils_none() {
    let place = Place::new();
    place.record(id(1), None);
    let keep = place.path("keep.opus");
    fs::write(&keep, "opened last week").unwrap();
    let other = PrivateKey::generate(&mut rand::rng()).unwrap();
    fs::write(place.path("acme.private.pem"), other.to_pem().unwrap().as_bytes()).unwrap();
    let done = place.decrypt(&place.file(id(1), "audio.eopus"), &["-o", keep.to_str().unwrap()]);
    assert_eq!(code(&done), 3);
    assert!(
        told(&done).contains("not sealed for key") && told(&done).contains("nothing was written"),
        "{}",
        told(&done)
    );
    assert_eq!(fs::read(&keep).unwrap(), b"opened last week");
    let hidden = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    assert!(!fs::read_dir(place.folder.path()).unwrap().flatten().any(|entry| hidden(&entry)), "no half file is left");
}

#[test]
fn metadata_has_no_sound() {
    let place = Place::new();
    place.record(id(1), None);
    let metadata = place.file(id(1), "metadata.ejson");
    let wav = place.path("call.wav");
    for more in [&["--wav"][..], &["--wav", "-o", wav.to_str().unwrap()]] {
        let done = place.decrypt(&metadata, more);
        assert_eq!(code(&done), 1);
        assert!(told(&done).contains("leave out --wav"), "{}", told(&done));
    }
    assert!(!wav.exists());
}

/// Records a part of a call in which the left side is loud all the time; it lies in `store/{file}`.
fn record_loud(place: &Place, part: Part, start_ms: u64, length_ms: u64) {
    let stream = |index, channel| StreamConfig {
        index: StreamIndex(index),
        label: index.to_string(),
        channel,
        payloads: vec![(0, PayloadKind::Audio(CodecKind::Pcmu))],
        active: true,
        expected_source: None,
        srtp: None,
    };
    let recipients = vec![place.tenant.public().clone()];
    let config =
        RecorderConfig { part, ..RecorderConfig::new(part.recording, "acme", "edge-a1", recipients, rand::random()) };
    let streams = vec![stream(0, Channel::Left), stream(1, Channel::Right)];
    let (start, wall) = (Instant::now(), UNIX_EPOCH + Duration::from_millis(start_ms));
    let mut recorder = Recorder::new(start, wall, config, streams).unwrap();
    for number in 0..u16::try_from(length_ms / 20).unwrap() {
        let at = start + Duration::from_millis(20) * u32::from(number);
        let mut packet = vec![0x80, 0];
        packet.extend(number.to_be_bytes());
        packet.extend((u32::from(number) * 160).to_be_bytes());
        packet.extend([0, 0, 0, 1]);
        packet.extend([0x10, 0x10, 0x10, 0x10, 0x90, 0x90, 0x90, 0x90].repeat(20));
        recorder.handle_rtp(at, StreamIndex(0), ([127, 0, 0, 1], 4_000).into(), &packet);
        recorder.advance(at);
    }
    recorder.stop(start + Duration::from_millis(length_ms), RecordingState::Complete, "bye");
    let mut audio = Vec::new();
    while let Some(output) = recorder.poll_output() {
        if let RecorderOutput::Audio(bytes) = output {
            audio.extend(bytes);
        }
    }
    let folder = place.path("store").join(part.file.to_string());
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("audio.eopus"), audio).unwrap();
}

#[test]
fn parts_of_a_recording_are_joined_by_time() {
    let place = Place::new();
    let (second, third) = (Part::new(id(7), 2, id(1)), Part::new(id(7), 4, id(9)));
    record_loud(&place, Part::first(id(7)), 100_000, 2_000);
    // Half a second that nobody recorded, then a second that two parts have.
    record_loud(&place, second, 102_500, 2_000);
    record_loud(&place, third, 103_500, 2_000);
    record_loud(&place, second.copied(id(2)), 102_500, 2_000);
    let store = place.path("store");
    let done = place.decrypt(&store, &["--wav"]);
    assert_eq!(code(&done), 0, "{}", told(&done));
    for line in ["part 1", "0.5 s of silence", "part 2", "part 4", "its first 1.0 s", "there is no part 3", "left out"]
    {
        assert!(told(&done).contains(line), "{line}: {}", told(&done));
    }
    assert!(told(&done).contains("5.5 s in all, 0.5 s of it missing"), "{}", told(&done));
    let mut wav = hound::WavReader::open(store.join(format!("{}.wav", id(7)))).unwrap();
    let left: Vec<i64> = wav.samples::<i16>().step_by(2).map(|sample| i64::from(sample.unwrap()).abs()).collect();
    assert_eq!(left.len(), 5_500 * 16);
    let loud = |from_ms: usize, to_ms: usize| {
        let stretch = left.get(from_ms * 16..to_ms * 16).unwrap();
        stretch.iter().sum::<i64>() / i64::try_from(stretch.len()).unwrap() > 1_000
    };
    let heard = [(100, 1_900), (2_050, 2_450), (2_600, 3_450), (3_600, 5_400)].map(|(from, to)| loud(from, to));
    assert_eq!(heard, [true, false, true, true]);

    // Cut in the middle, and files of another recording.
    let cut = place.file(id(7), "audio.eopus");
    let sealed = fs::read(&cut).unwrap();
    fs::write(&cut, sealed.get(..sealed.len() - 40).unwrap()).unwrap();
    let out = place.path("joined.wav");
    let done = place.decrypt(&store, &["--wav", "-o", out.to_str().unwrap()]);
    assert_eq!(code(&done), 3, "{}", told(&done));
    assert!(out.exists() && told(&done).contains("audio.eopus: "), "{}", told(&done));
    record_loud(&place, Part::first(id(8)), 0, 100);
    let done = place.decrypt(&store, &["--wav"]);
    assert!(code(&done) == 1 && told(&done).contains("parts of two recordings"), "{}", told(&done));
    let without = place.decrypt(&store, &[]);
    assert!(code(&without) == 1 && told(&without).contains("add --wav"), "{}", told(&without));
}

#[test]
fn a_whole_chain_is_said_to_be_whole() {
    let place = Place::new();
    let first = place.record(id(1), None);
    place.record(id(2), Some(first.digest()));
    let done = place.verify();
    assert_eq!(code(&done), 0, "{}", told(&done));
    assert!(told(&done).contains("chain whole: 2") && told(&done).contains("2 recordings, 0 wrong"), "{}", told(&done));
}

#[test]
fn a_recording_that_is_missing_from_the_chain_shows() {
    let place = Place::new();
    let first = place.record(id(1), None);
    let second = place.record(id(2), Some(first.digest()));
    place.record(id(3), Some(second.digest()));
    fs::remove_dir_all(place.path("store").join(id(2).to_string())).unwrap();
    let done = place.verify();
    assert_eq!(code(&done), 0, "it may lie with another tenant: {}", told(&done));
    assert!(told(&done).contains("1 links lead to manifests that are not here"), "{}", told(&done));
}

#[test]
fn two_histories_of_one_node_are_wrong() {
    let place = Place::new();
    let first = place.record(id(1), None);
    place.record(id(2), Some(first.digest()));
    place.record(id(3), Some(first.digest()));
    let done = place.verify();
    assert_eq!(code(&done), 3);
    assert!(told(&done).contains("two histories") && told(&done).contains(&id(3).to_string()), "{}", told(&done));
}

#[test]
fn a_recording_under_anothers_name_and_one_without_manifest_are_wrong() {
    let place = Place::new();
    place.record(id(1), None);
    let store = place.path("store");
    fs::rename(store.join(id(1).to_string()), store.join(id(9).to_string())).unwrap();
    assert!(told(&place.verify()).contains("its manifest belongs to"), "{}", told(&place.verify()));
    fs::remove_file(place.file(id(9), "manifest.json")).unwrap();
    let done = place.verify();
    assert_eq!(code(&done), 3);
    assert!(told(&done).contains("there is no manifest.json"), "{}", told(&done));
}

#[test]
fn a_reader_that_has_seen_enough_and_a_full_disk_cause_no_panic() {
    let place = Place::new();
    place.record(id(1), None);
    let verify = |stdout: Stdio, stderr: Stdio| {
        let child = ferric().arg("verify").arg(place.path("store")).stdout(stdout).stderr(stderr).spawn().unwrap();
        child.wait_with_output().unwrap().status.code()
    };
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    assert_eq!(verify(full(), full()), Some(1), "a result that nobody got is no success");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    assert_eq!(verify(writer.into(), Stdio::null()), Some(0));
}

#[test]
fn a_node_whose_log_cannot_be_written_runs_on_and_drains() {
    let place = Place::new();
    fs::write(place.path("acme.public.pem"), place.tenant.public().to_pem().unwrap()).unwrap();
    fs::write(
        place.path("ferric.toml"),
        "[[sip.listen]]\ntransport = \"udp\"\naddress = \"127.0.0.1:0\"\n[console]\nlisten = \"127.0.0.1:0\"\n\
         [[tenant]]\nname = \"acme\"\npublic_keys = [\"acme.public.pem\"]\nstore = \"file://store\"\n",
    )
    .unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut node = ferric()
        .env("RUST_LOG", "trace")
        .args(["run", "--config"])
        .arg(place.path("ferric.toml"))
        .stdout(Stdio::piped())
        .stderr(full)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| line.unwrap().starts_with("ready")), "the node starts");
    assert!(Command::new("kill").arg("-TERM").arg(node.id().to_string()).status().unwrap().success());
    assert!(lines.any(|line| line.unwrap() == "stopped"), "the node stops in order");
    assert_eq!(node.wait().unwrap().code(), Some(0));
}

#[test]
fn an_empty_spool_says_so_and_a_missing_one_what_to_do() {
    let place = Place::new();
    let spool = |folder: &Path| ferric().args(["spool", "ls", "--data-dir"]).arg(folder).output().unwrap();
    let missing = spool(place.folder.path());
    assert!(code(&missing) == 1 && told(&missing).contains("--data-dir"), "{}", told(&missing));
    fs::create_dir(place.path("spool")).unwrap();
    let empty = spool(place.folder.path());
    assert!(code(&empty) == 0 && told(&empty).contains("the spool is empty"), "{}", told(&empty));
}
