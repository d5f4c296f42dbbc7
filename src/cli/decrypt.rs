//! `ferric decrypt`: opens `.eopus` and `.ejson`, whole or up to the damage; several parts of a recording are joined
//! ([`super::decrypt_parts`]).

use std::fs::{File, Metadata};
use std::io::{self, IsTerminal as _, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use ferric_codecs::ogg::{OggReader, OpusHead};
use ferric_codecs::opus::OpusDecoder;
use ferric_codecs::opus_packet::split_two;
use ferric_media::eopus::Content;
use ferric_media::keys::PrivateKey;
use ferric_media::open::Opener;
use indicatif::{ProgressBar, ProgressStyle};

use super::output::complain;

/// The exit code that means damage.
pub(super) const DAMAGED: u8 = 3;
/// Samples a second of a WAV.
pub(super) const WAV_RATE: u32 = 16_000;

#[derive(Debug, Args)]
pub(crate) struct DecryptArguments {
    /// The tenant's private key (PEM).
    #[arg(long, value_name = "PRIVATE.pem")]
    key: PathBuf,
    /// The sealed file; - is standard input. With --wav also several parts of a recording, or a folder that holds them:
    /// they are joined by time.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where to write; - is standard output. Without it: beside the file, with .opus, .json or .wav.
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,
    /// Decode to a two-channel 16-bit WAV (16 kHz).
    #[arg(long)]
    wav: bool,
}

pub(crate) fn run(arguments: &DecryptArguments) -> anyhow::Result<ExitCode> {
    let pem = std::fs::read_to_string(&arguments.key)
        .with_context(|| format!("the key {} cannot be read", arguments.key.display()))?;
    let key = PrivateKey::from_pem(&pem).with_context(|| format!("{}", arguments.key.display()))?;
    let [file] = arguments.files.as_slice() else {
        return several(&key, arguments);
    };
    if file.is_dir() {
        return several(&key, arguments);
    }
    let stdin = file.as_os_str() == "-";
    let output = match &arguments.output {
        Some(output) => output.clone(),
        None if stdin => PathBuf::from("-"),
        None => beside(file, arguments.wav)?,
    };
    let (mut input, length): (Box<dyn Read>, u64) = if stdin {
        (Box::new(io::stdin().lock()), 0)
    } else {
        let input = File::open(file).with_context(|| format!("{} cannot be opened", file.display()))?;
        let metadata = input.metadata().with_context(|| format!("{} cannot be read", file.display()))?;
        if is_same_file(&metadata, &output) {
            bail!("{} is the sealed recording itself: it is not overwritten, name another -o", output.display());
        }
        (Box::new(input), metadata.len())
    };
    let progress = progress(length);
    let damage = if output.as_os_str() != "-" {
        to_file(&output, &mut |file| {
            if arguments.wav {
                open_wav(&key, &mut input, file, &progress)
            } else {
                open(&key, &mut input, &mut io::BufWriter::new(file), &progress)
            }
        })?
    } else if arguments.wav {
        let mut buffer = io::Cursor::new(Vec::new());
        let damage = open_wav(&key, &mut input, &mut buffer, &progress)?;
        io::stdout().lock().write_all(buffer.get_ref()).context("standard output cannot be written")?;
        damage
    } else {
        open(&key, &mut input, &mut io::stdout().lock(), &progress)?
    };
    progress.finish_and_clear();
    let Some(damage) = damage else { return Ok(ExitCode::SUCCESS) };
    complain!("ferric: {}: {}", file.display(), damage.text);
    if damage.opened_bytes > 0 {
        complain!("ferric: everything before the damage was written to {}", output.display());
    } else {
        complain!("ferric: nothing could be opened, so nothing was written");
    }
    Ok(ExitCode::from(DAMAGED))
}

/// Parts of a recording, given by their files or by a folder.
fn several(key: &PrivateKey, arguments: &DecryptArguments) -> anyhow::Result<ExitCode> {
    if !arguments.wav {
        bail!("several parts can only be joined as sound: add --wav, or open one file at a time");
    }
    if arguments.files.iter().chain(&arguments.output).any(|path| path.as_os_str() == "-") {
        bail!("parts are joined from files to a file, not from standard input or to standard output");
    }
    super::decrypt_parts::run(key, &arguments.files, arguments.output.as_deref())
}

/// Why a file was not opened to its end.
pub(super) struct Damage {
    pub(super) text: String,
    /// Plaintext before it.
    pub(super) opened_bytes: u64,
}

pub(super) fn is_same_file(input: &Metadata, output: &Path) -> bool {
    std::fs::metadata(output).is_ok_and(|output| (output.dev(), output.ino()) == (input.dev(), input.ino()))
}

/// Opens into a new file that takes the output's name when it is whole, or holds
/// what lies before the damage. What stood under that name stays if nothing opens.
pub(super) fn to_file(
    output: &Path,
    open: &mut dyn FnMut(File) -> anyhow::Result<Option<Damage>>,
) -> anyhow::Result<Option<Damage>> {
    let failed = || format!("{} cannot be written", output.display());
    let is_special = std::fs::metadata(output).is_ok_and(|metadata| !metadata.is_file());
    if is_special {
        // A device or a pipe cannot be replaced.
        return open(File::options().write(true).open(output).with_context(failed)?);
    }
    let name = output.file_name().with_context(|| format!("{} is no file name", output.display()))?;
    let part = output.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
    match open(create(&part).with_context(failed)?) {
        Ok(damage) if damage.as_ref().is_none_or(|damage| damage.opened_bytes > 0) => {
            std::fs::rename(&part, output).with_context(failed)?;
            Ok(damage)
        }
        nothing => {
            let _ = std::fs::remove_file(&part);
            nothing
        }
    }
}

/// Opened recordings are readable: only their owner may read them.
fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn beside(file: &Path, wav: bool) -> anyhow::Result<PathBuf> {
    let extension = match file.extension().and_then(|extension| extension.to_str()) {
        Some("eopus") if wav => "wav",
        Some("eopus") => "opus",
        Some("ejson") if wav => bail!("{} holds metadata, no sound: leave out --wav", file.display()),
        Some("ejson") => "json",
        _ => bail!("{} ends neither in .eopus nor in .ejson: say where to write with -o", file.display()),
    };
    Ok(file.with_extension(extension))
}

pub(super) fn progress(length: u64) -> ProgressBar {
    if length < 1 << 20 || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Feeds the plaintext to `take` piece by piece; returns what is damaged, in words.
pub(super) fn each_piece(
    key: &PrivateKey,
    input: &mut dyn Read,
    progress: &ProgressBar,
    mut take: impl FnMut(&Opener<'_>, &[u8]) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<Option<Damage>> {
    let mut opener = Opener::new(key);
    let mut buffer = vec![0; 64 * 1024];
    let mut plain = Vec::new();
    loop {
        let length = input.read(&mut buffer).context("the sealed file cannot be read")?;
        progress.inc(length as u64);
        plain.clear();
        let result = match length {
            0 => opener.finish().map(|_| ()),
            _ => opener.push(buffer.get(..length).unwrap_or(&[]), &mut plain),
        };
        let inner = take(&opener, &plain)?;
        let sealing = result.err().map(|damage| damage.to_string());
        if let Some(text) = inner.or(sealing) {
            return Ok(Some(Damage { text, opened_bytes: opener.plaintext_bytes() }));
        }
        if length == 0 {
            return Ok(None);
        }
    }
}

fn open(
    key: &PrivateKey,
    input: &mut dyn Read,
    output: &mut dyn Write,
    progress: &ProgressBar,
) -> anyhow::Result<Option<Damage>> {
    let damage = each_piece(key, input, progress, |_, plain| {
        output.write_all(plain).context("the opened file cannot be written")?;
        Ok(None)
    })?;
    output.flush().context("the opened file cannot be written")?;
    Ok(damage)
}

/// A WAV of two channels.
pub(super) fn wav<W: Write + Seek>(output: W) -> anyhow::Result<hound::WavWriter<io::BufWriter<W>>> {
    let spec = hound::WavSpec {
        channels: 2,
        sample_rate: WAV_RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    Ok(hound::WavWriter::new(io::BufWriter::new(output), spec)?)
}

/// Metadata cannot be heard.
pub(super) fn sound_only(opener: &Opener<'_>) -> anyhow::Result<()> {
    if opener.header().is_some_and(|header| header.content != Content::OggOpus) {
        bail!("the file holds metadata, no sound: leave out --wav");
    }
    Ok(())
}

fn open_wav<W: Write + Seek>(
    key: &PrivateKey,
    input: &mut dyn Read,
    output: W,
    progress: &ProgressBar,
) -> anyhow::Result<Option<Damage>> {
    let mut writer = wav(output)?;
    let mut decoder = Stereo::new()?;
    let damage = each_piece(key, input, progress, |opener, plain| {
        sound_only(opener)?;
        let inner = decoder.push(plain)?;
        for sample in decoder.take() {
            writer.write_sample(sample)?;
        }
        Ok(inner)
    })?;
    writer.finalize().context("the WAV cannot be written")?;
    Ok(damage)
}

/// Decodes a two-stream Ogg Opus file to interleaved samples.
pub(crate) struct Stereo {
    reader: OggReader,
    parties: [OpusDecoder; 2],
    headers: usize,
    /// Samples a channel that the encoder put before the beginning: in all at 48 kHz, and those left to skip.
    pre_skip: u64,
    skip: usize,
    /// Samples a channel given out so far, and allowed by the last granule.
    given: u64,
    samples: Vec<i16>,
}

impl Stereo {
    pub(crate) fn new() -> anyhow::Result<Stereo> {
        Ok(Stereo {
            reader: OggReader::new(),
            parties: [OpusDecoder::new(WAV_RATE)?, OpusDecoder::new(WAV_RATE)?],
            headers: 0,
            pre_skip: 0,
            skip: 0,
            given: 0,
            samples: Vec::new(),
        })
    }

    /// Takes bytes of the file; returns what is damaged, in words.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> anyhow::Result<Option<String>> {
        self.reader.push(bytes);
        loop {
            let packet = match self.reader.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => return Ok(None),
                Err(damage) => return Ok(Some(damage.to_string())),
            };
            self.headers += 1;
            if self.headers == 1 {
                let head = OpusHead::read(&packet.data).filter(|head| head.streams == 2 && head.coupled == 0);
                let Some(head) = head else { return Ok(Some("this is no two-channel recording of ours".to_owned())) };
                self.pre_skip = u64::from(head.pre_skip);
                self.skip = usize::from(head.pre_skip) / 3;
                continue;
            }
            if self.headers == 2 || packet.data.is_empty() {
                continue;
            }
            let Ok((first, second)) = split_two(&packet.data) else {
                return Ok(Some("an Opus packet is malformed".to_owned()));
            };
            let (mut left, mut right) = (Vec::new(), Vec::new());
            let [left_decoder, right_decoder] = &mut self.parties;
            let decoded = left_decoder.decode(&first, &mut left).and_then(|_| right_decoder.decode(second, &mut right));
            if let Err(error) = decoded {
                return Ok(Some(format!("an Opus packet cannot be decoded: {error}")));
            }
            let skip = self.skip.min(left.len());
            self.skip -= skip;
            let end = packet.granule.filter(|_| packet.last).map(|granule| granule.saturating_sub(self.pre_skip) / 3);
            for (l, r) in left.iter().zip(&right).skip(skip) {
                if end.is_some_and(|end| self.given >= end) {
                    break;
                }
                self.samples.extend([*l, *r]);
                self.given += 1;
            }
        }
    }

    /// The samples decoded since the last call.
    pub(crate) fn take(&mut self) -> Vec<i16> {
        std::mem::take(&mut self.samples)
    }
}

/// Opens and decodes a whole recording: left and right at 16 kHz.
pub(crate) fn decode_recording(key: &PrivateKey, sealed: &[u8]) -> anyhow::Result<[Vec<i16>; 2]> {
    match decode_undamaged(key, sealed)? {
        (channels, None) => Ok(channels),
        (_, Some(damage)) => bail!("{damage}"),
    }
}

/// Both channels up to the damage, if there is any, and what it is.
pub(crate) fn decode_undamaged(key: &PrivateKey, sealed: &[u8]) -> anyhow::Result<([Vec<i16>; 2], Option<String>)> {
    let mut decoder = Stereo::new()?;
    let mut input = io::Cursor::new(sealed);
    let damage = each_piece(key, &mut input, &ProgressBar::hidden(), |_, plain| decoder.push(plain))?;
    let samples = decoder.take();
    let channel = |which: usize| samples.iter().skip(which).step_by(2).copied().collect();
    Ok(([channel(0), channel(1)], damage.map(|damage| damage.text)))
}
