//! `ferric decrypt --wav` of several files or a folder: the parts of one recording, joined by time.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ferric_media::keys::PrivateKey;
use indicatif::ProgressBar;

use super::decrypt::{DAMAGED, Damage, Stereo, WAV_RATE, each_piece, is_same_file, progress, sound_only, to_file, wav};
use super::join::{Piece, Plan, Stretch, find, plan};
use super::output::{complain, say};

/// Samples of silence written at once.
const SILENCE: usize = 16_384;

pub(super) fn run(key: &PrivateKey, paths: &[PathBuf], output: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut files = Vec::new();
    for path in paths {
        find(path, &mut files)?;
    }
    files.sort();
    files.dedup();
    if files.is_empty() {
        bail!("there is no .eopus file at or below the given paths");
    }
    let mut bytes = 0;
    for file in &files {
        let metadata = std::fs::metadata(file).with_context(|| format!("{} cannot be read", file.display()))?;
        if output.is_some_and(|output| is_same_file(&metadata, output)) {
            bail!("{} is a sealed recording itself: it is not overwritten, name another -o", file.display());
        }
        bytes += metadata.len();
    }
    let progress = progress(bytes.saturating_mul(2));
    let (mut pieces, mut is_damaged) = (Vec::new(), false);
    for file in files {
        let (piece, damage) = measure(key, &file, &progress)?;
        if let Some(damage) = damage {
            is_damaged = true;
            complain!("ferric: {}: {}", file.display(), damage.text);
        }
        pieces.extend(piece);
    }
    let Some(recording) = pieces.first().map(|piece| piece.part.recording) else {
        complain!("ferric: nothing could be opened, so nothing was written");
        return Ok(ExitCode::from(DAMAGED));
    };
    let plan = plan(pieces)?;
    let output = output.map_or_else(|| beside(paths, &format!("{recording}.wav")), Path::to_owned);
    to_file(&output, &mut |file| write(key, &plan, file, &progress).map(|()| None))?;
    progress.finish_and_clear();
    say!("recording {recording}");
    say!("{plan}");
    say!("  written to {}", output.display());
    Ok(if is_damaged { ExitCode::from(DAMAGED) } else { ExitCode::SUCCESS })
}

/// In the folder that was given, or beside the first file.
fn beside(paths: &[PathBuf], name: &str) -> PathBuf {
    let first = paths.first().map_or(Path::new("."), PathBuf::as_path);
    if first.is_dir() { first.join(name) } else { first.with_file_name(name) }
}

/// What a file says of itself, and how much sound it holds; nothing if it does not open at all.
fn measure(key: &PrivateKey, file: &Path, progress: &ProgressBar) -> anyhow::Result<(Option<Piece>, Option<Damage>)> {
    let mut input = File::open(file).with_context(|| format!("{} cannot be opened", file.display()))?;
    let mut length = ferric_codecs::ogg::OggReader::new();
    let (mut granule, mut pre_skip, mut packets) = (0, 0, 0_u64);
    let mut header = None;
    let damage = each_piece(key, &mut input, progress, |opener, plain| {
        sound_only(opener)?;
        if header.is_none() {
            header = opener.header().map(|header| (header.part, header.created));
        }
        length.push(plain);
        loop {
            match length.next_packet() {
                Ok(Some(packet)) => {
                    if packets == 0 {
                        let head = ferric_codecs::ogg::OpusHead::read(&packet.data);
                        pre_skip = head.map_or(0, |head| u64::from(head.pre_skip));
                    }
                    packets += 1;
                    granule = packet.granule.unwrap_or(granule).max(granule);
                }
                Ok(None) => return Ok(None),
                Err(damage) => return Ok(Some(damage.to_string())),
            }
        }
    })?;
    let length = Duration::from_millis(granule.saturating_sub(pre_skip) / 48);
    let opened = damage.as_ref().is_none_or(|damage| damage.opened_bytes > 0);
    let piece =
        header.filter(|_| opened).map(|(part, started_at)| Piece { file: file.to_owned(), part, started_at, length });
    Ok((piece, damage))
}

/// Decodes each stretch to its place. What a damaged file has no sound for is silence.
fn write<W: Write + Seek>(key: &PrivateKey, plan: &Plan, output: W, progress: &ProgressBar) -> anyhow::Result<()> {
    let mut writer = wav(output)?;
    for Stretch { piece, gap, overlap, .. } in &plan.stretches {
        silence(&mut writer, samples(*gap))?;
        let mut input =
            File::open(&piece.file).with_context(|| format!("{} cannot be opened", piece.file.display()))?;
        let mut decoder = Stereo::new()?;
        let (mut skip, mut left) = (samples(*overlap), samples(piece.length));
        // Damage was told when it was measured.
        each_piece(key, &mut input, progress, |_, plain| {
            let damage = decoder.push(plain)?;
            for pair in decoder.take().chunks_exact(2) {
                if left == 0 {
                    break;
                }
                left -= 1;
                if skip > 0 {
                    skip -= 1;
                    continue;
                }
                pair.iter().try_for_each(|sample| writer.write_sample(*sample))?;
            }
            Ok(damage)
        })?;
        silence(&mut writer, left.saturating_sub(skip))?;
    }
    writer.finalize().context("the WAV cannot be written")
}

/// Samples of one channel.
fn samples(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).saturating_mul(u64::from(WAV_RATE / 1_000))
}

fn silence<W: Write + Seek>(writer: &mut hound::WavWriter<W>, samples: u64) -> anyhow::Result<()> {
    let mut left = samples.saturating_mul(2);
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(SILENCE).min(SILENCE);
        (0..now).try_for_each(|_| writer.write_sample(0_i16))?;
        left -= now as u64;
    }
    Ok(())
}
