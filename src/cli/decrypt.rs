//! `ferric decrypt`: opens `.eopus` and `.ejson`, whole or up to the damage.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use ferric_codecs::ogg::{OggReader, OpusHead};
use ferric_codecs::opus::OpusDecoder;
use ferric_codecs::opus_packet::split_two;
use ferric_media::keys::PrivateKey;
use ferric_media::open::Opener;
use indicatif::{ProgressBar, ProgressStyle};

use super::output::complain;

/// The exit code that means damage.
const DAMAGED: u8 = 3;
/// Samples a second of a WAV.
const WAV_RATE: u32 = 16_000;

#[derive(Debug, Args)]
pub(crate) struct DecryptArguments {
    /// The tenant's private key (PEM).
    #[arg(long, value_name = "PRIVATE.pem")]
    key: PathBuf,
    /// The sealed file; - is standard input.
    file: PathBuf,
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
    let stdin = arguments.file.as_os_str() == "-";
    let (mut input, length): (Box<dyn Read>, u64) = if stdin {
        (Box::new(io::stdin().lock()), 0)
    } else {
        let file = File::open(&arguments.file).with_context(|| format!("{} cannot be opened", arguments.file.display()))?;
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        (Box::new(file), length)
    };
    let output = match &arguments.output {
        Some(output) => output.clone(),
        None if stdin => PathBuf::from("-"),
        None => beside(&arguments.file, arguments.wav)?,
    };
    let progress = progress(length);
    let damage = if output.as_os_str() == "-" {
        if arguments.wav {
            let mut buffer = io::Cursor::new(Vec::new());
            let damage = open_wav(&key, &mut input, &mut buffer, &progress)?;
            io::stdout().lock().write_all(buffer.get_ref()).context("standard output cannot be written")?;
            damage
        } else {
            open(&key, &mut input, &mut io::stdout().lock(), &progress)?
        }
    } else {
        let file = create(&output)?;
        if arguments.wav { open_wav(&key, &mut input, file, &progress)? } else { open(&key, &mut input, &mut io::BufWriter::new(file), &progress)? }
    };
    progress.finish_and_clear();
    match damage {
        None => Ok(ExitCode::SUCCESS),
        Some(damage) => {
            complain!("ferric: {}: {damage}", arguments.file.display());
            complain!("ferric: everything before the damage was written to {}", output.display());
            Ok(ExitCode::from(DAMAGED))
        }
    }
}

/// Opened recordings are readable: only their owner may read them.
fn create(path: &Path) -> anyhow::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    options.open(path).with_context(|| format!("{} cannot be written", path.display()))
}

fn beside(file: &Path, wav: bool) -> anyhow::Result<PathBuf> {
    let extension = match file.extension().and_then(|extension| extension.to_str()) {
        Some("eopus") if wav => "wav",
        Some("eopus") => "opus",
        Some("ejson") => "json",
        _ => bail!("{} ends neither in .eopus nor in .ejson: say where to write with -o", file.display()),
    };
    Ok(file.with_extension(extension))
}

fn progress(length: u64) -> ProgressBar {
    if length < 1 << 20 || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {eta}");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Feeds the plaintext to `take` piece by piece; returns what is damaged, in words.
fn each_piece(
    key: &PrivateKey,
    input: &mut dyn Read,
    progress: &ProgressBar,
    mut take: impl FnMut(&[u8]) -> anyhow::Result<Option<String>>,
) -> anyhow::Result<Option<String>> {
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
        let inner = take(&plain)?;
        if let Err(damage) = result {
            return Ok(Some(damage.to_string()));
        }
        if inner.is_some() || length == 0 {
            return Ok(inner);
        }
    }
}

fn open(key: &PrivateKey, input: &mut dyn Read, output: &mut dyn Write, progress: &ProgressBar) -> anyhow::Result<Option<String>> {
    let damage = each_piece(key, input, progress, |plain| {
        output.write_all(plain).context("the opened file cannot be written")?;
        Ok(None)
    })?;
    output.flush().context("the opened file cannot be written")?;
    Ok(damage)
}

fn open_wav<W: Write + Seek>(key: &PrivateKey, input: &mut dyn Read, output: W, progress: &ProgressBar) -> anyhow::Result<Option<String>> {
    let spec = hound::WavSpec { channels: 2, sample_rate: WAV_RATE, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::new(io::BufWriter::new(output), spec)?;
    let mut decoder = Stereo::new()?;
    let damage = each_piece(key, input, progress, |plain| {
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
            left_decoder.decode(&first, &mut left)?;
            right_decoder.decode(second, &mut right)?;
            let skip = self.skip.min(left.len());
            self.skip -= skip;
            let end = packet.granule.filter(|_| packet.last).map(|granule| granule.saturating_sub(312) / 3);
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
    let mut decoder = Stereo::new()?;
    let mut input = io::Cursor::new(sealed);
    input.seek(SeekFrom::Start(0))?;
    let damage = each_piece(key, &mut input, &ProgressBar::hidden(), |plain| decoder.push(plain))?;
    if let Some(damage) = damage {
        bail!("{damage}");
    }
    let samples = decoder.take();
    let channel = |which: usize| samples.iter().skip(which).step_by(2).copied().collect();
    Ok([channel(0), channel(1)])
}
