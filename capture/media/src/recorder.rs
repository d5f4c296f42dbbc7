//! One recording: datagrams in, bytes of `audio.eopus` and `metadata.ejson` out.
//!
//! ```text
//! handle_rtp, handle_rtcp -> MediaPipeline -> frames -> Ogg page, once per segment -> Sealer -> Output::Audio
//!                                                 \-> tap -> Output::Frame
//! set_session, add_tag, pause, stats -> RecordingMetadata -> sealed whole -> Output::Metadata
//! ```
//!
//! The contract of a sans-IO type: call a `handle_*`, [`Recorder::advance`] or
//! control, drain [`Recorder::poll_output`] to `None`, come back at
//! [`Recorder::poll_timeout`] at the latest. Audio bytes are to be appended in
//! the order in which they come out; each [`Output::Metadata`] is a whole file
//! that replaces the one before. What was sealed is as old as one segment at
//! most; a crash costs that and the jitter delay.
//!
//! After [`Recorder::stop`] nothing more is recorded, and
//! [`Recorder::totals`] has the measures that the manifest wants.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use ferric_codecs::opus::OpusSettings;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

use crate::audio_file::AudioFile;
use crate::dtmf_mask::LOOK_AHEAD_MS;
use crate::eopus::Content;
use crate::keys::Recipient;
use crate::manifest::{AudioEntry, Digest, MetadataEntry, RecordingState};
use crate::metadata::{HandOver, Interval, Pause, RecordingMetadata, SessionInfo, Tag};
use crate::part::Part;
use crate::pipeline::{EncodedFrame, MediaPipeline, PipelineConfig};
use crate::report;
use crate::rtcp::{write_reference, write_report};
use crate::rtp::{Ssrc, StreamIndex, is_rtcp};
use crate::seal::{SealError, SealHeader, SealSummary, seal_document};
use crate::stats::RecordingStats;
use crate::stream::{StreamConfig, StreamEvent};
use crate::timestamp::Timestamp;
use crate::verdict::{Shortfall, shortfall, warnings};

/// Pauses and tags kept of one recording, each.
const MAX_MARKS: usize = 1_000;
/// Metadata that changes more often than this is sealed once for several changes.
const METADATA_PACE: Duration = Duration::from_millis(200);

/// Settings of one recording.
#[derive(Debug, Clone)]
pub struct RecorderConfig {
    /// Which files of which recording.
    pub part: Part,
    /// When the part before was last known to be recorded, by this node's clock.
    pub lost_at: Option<Timestamp>,
    /// Whose it is.
    pub tenant: String,
    /// The node that records.
    pub node: String,
    /// Who can open it; at least one.
    pub recipients: Vec<Recipient>,
    /// Encoder settings, for each party.
    pub opus: OpusSettings,
    /// Audio is sealed at least this often.
    pub segment: Duration,
    /// How long packets may be late.
    pub jitter_delay: Duration,
    /// Silence after which a stream's source may change.
    pub takeover: Duration,
    /// Silence of all active streams that is worth an event.
    pub rtp_timeout: Duration,
    /// Mean time between receiver reports.
    pub rtcp_interval: Duration,
    /// Our canonical name in RTCP; names no person.
    pub cname: String,
    /// True to keep the times of key presses and not the keys.
    pub mask_dtmf: bool,
    /// What signalling knows at the start.
    pub session: SessionInfo,
    /// From the system's random source: file keys come of it.
    pub seed: [u8; 32],
}

impl RecorderConfig {
    /// The defaults of the contract; `seed` from the system's random source.
    pub fn new(id: Uuid, tenant: &str, node: &str, recipients: Vec<Recipient>, seed: [u8; 32]) -> RecorderConfig {
        let pipeline = PipelineConfig::default();
        RecorderConfig {
            part: Part::first(id),
            lost_at: None,
            tenant: tenant.to_owned(),
            node: node.to_owned(),
            recipients,
            opus: pipeline.opus,
            segment: Duration::from_secs(1),
            jitter_delay: pipeline.jitter_delay,
            takeover: pipeline.takeover,
            rtp_timeout: Duration::from_secs(60),
            rtcp_interval: Duration::from_secs(5),
            cname: node.to_owned(),
            mask_dtmf: false,
            session: SessionInfo::default(),
            seed,
        }
    }
}

/// Why a recording cannot be made, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// Sealing failed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The metadata could not be written as JSON.
    #[error("metadata: {0}")]
    Metadata(#[from] serde_json::Error),
}

/// What a recording wants done.
#[derive(Debug)]
pub enum Output {
    /// Append to `audio.eopus`.
    Audio(Vec<u8>),
    /// The whole new `metadata.ejson`.
    Metadata(Vec<u8>),
    /// Send as RTCP.
    Rtcp {
        /// Of this stream.
        stream: StreamIndex,
        /// To this address.
        to: SocketAddr,
        /// From the RTP port when true (rtcp-mux), else from the RTCP port.
        muxed: bool,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// A frame for live listeners, while the tap is open.
    Frame(Frame),
    /// Something happened.
    Event(RecorderEvent),
}

/// An encoded frame of both parties that owns its packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Beginning, in samples at 48 kHz since the recording began.
    pub position_48k: u64,
    /// Left and right: a mono Opus packet each.
    pub packets: [Bytes; 2],
}

/// Something that happened to a recording.
#[derive(Debug)]
pub enum RecorderEvent {
    /// To one of its streams.
    Stream(StreamEvent),
    /// No stream that signalling has active got anything for `rtp_timeout`; told
    /// again each time that long has passed.
    MediaSilent,
    /// Media came after all.
    MediaBack,
    /// The first packet of a later part, or its end without one.
    TookOver {
        /// Audio that nobody recorded before, in ms.
        lost_ms: u64,
    },
    /// Sealing failed: the recording is cut here.
    Failed(RecorderError),
}

/// Measures of a recording that ended, for its manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingTotals {
    /// Zero of the timeline.
    pub started_at: Timestamp,
    /// End of the timeline.
    pub ended_at: Timestamp,
    /// Length of the audio, in ms.
    pub duration_ms: u64,
    /// `audio.eopus`.
    pub audio: AudioEntry,
    /// The last `metadata.ejson`.
    pub metadata: MetadataEntry,
}

#[derive(Debug, Clone, Copy)]
struct RtcpPeer {
    stream: StreamIndex,
    address: SocketAddr,
    muxed: bool,
}

/// One recording.
#[derive(Debug)]
pub struct Recorder {
    config: RecorderConfig,
    rng: StdRng,
    pipeline: MediaPipeline,
    file: AudioFile,
    metadata: RecordingMetadata,
    metadata_summary: SealSummary,
    metadata_dirty: bool,
    metadata_at: Instant,
    outputs: VecDeque<Output>,
    tap: bool,
    ssrc: Ssrc,
    peers: Vec<RtcpPeer>,
    report_at: Instant,
    /// Since when media may be expected; `None` while there is nothing to expect.
    waiting_since: Option<Instant>,
    last_media: Option<Instant>,
    silent: bool,
    totals: Option<RecordingTotals>,
    failed: Option<RecorderError>,
    reported_failure: bool,
}

impl Recorder {
    /// A recording that begins now; `wall` is the same moment on the wall clock.
    ///
    /// # Errors
    /// The file keys cannot be wrapped for the recipients.
    pub fn new(
        now: Instant,
        wall: SystemTime,
        config: RecorderConfig,
        streams: Vec<StreamConfig>,
    ) -> Result<Recorder, RecorderError> {
        let mut rng = StdRng::from_seed(config.seed);
        let started_at = Timestamp::from(wall);
        let header = SealHeader {
            part: config.part,
            tenant: config.tenant.clone(),
            content: Content::OggOpus,
            created: started_at,
        };
        let rate = if streams.iter().any(StreamConfig::is_wideband) { 16_000 } else { 8_000 };
        let (file, first) =
            AudioFile::new(&header, &config.recipients, config.opus.frame_ms, config.segment, rate, &mut rng)?;
        let mut metadata =
            RecordingMetadata::new(config.part, &config.tenant, &config.node, started_at, config.session.clone());
        if config.part.is_later() {
            metadata.hand_overs.push(HandOver {
                part: config.part.number.get(),
                node: config.node.clone(),
                at: started_at,
                lost_ms: None,
                cause: "worker-lost".to_owned(),
            });
        }
        let ahead = if config.mask_dtmf { Duration::from_millis(u64::from(LOOK_AHEAD_MS)) } else { Duration::ZERO };
        let pipeline_config = PipelineConfig {
            opus: config.opus,
            jitter_delay: config.jitter_delay + ahead,
            takeover: config.takeover,
            mask_dtmf: config.mask_dtmf,
            ssrc: Ssrc(rng.random()),
        };
        let pipeline = MediaPipeline::new(now, pipeline_config, streams);
        report::fill(&mut metadata, &pipeline.stats(), pipeline.scores(), config.mask_dtmf);
        let (sealed, metadata_summary) = seal_metadata(&config, started_at, &metadata, &mut rng)?;
        let waiting_since = pipeline.last_media_us().is_ok().then_some(now);
        let mut recorder = Recorder {
            ssrc: pipeline_config.ssrc,
            report_at: now,
            rng,
            pipeline,
            file,
            metadata,
            metadata_summary,
            metadata_dirty: false,
            metadata_at: now,
            outputs: VecDeque::from([Output::Metadata(sealed), Output::Audio(first)]),
            tap: false,
            peers: Vec::new(),
            waiting_since,
            last_media: None,
            silent: false,
            totals: None,
            failed: None,
            reported_failure: false,
            config,
        };
        recorder.schedule_report(now);
        Ok(recorder)
    }

    /// Which recording it is.
    pub fn id(&self) -> Uuid {
        self.config.part.recording
    }

    /// Which part of it, in which files.
    pub fn part(&self) -> Part {
        self.config.part
    }

    /// Whose it is.
    pub fn tenant(&self) -> &str {
        &self.config.tenant
    }

    /// Zero of its timeline, on the clock of its inputs.
    pub fn start(&self) -> Instant {
        self.pipeline.start()
    }

    /// Zero of its timeline.
    pub fn started_at(&self) -> Timestamp {
        self.metadata.started_at
    }

    /// Takes a datagram of a stream's RTP port, with the kernel's arrival stamp.
    pub fn handle_rtp(&mut self, arrival: Instant, stream: StreamIndex, source: SocketAddr, bytes: &[u8]) {
        if is_rtcp(bytes) {
            return self.take_rtcp(arrival, stream, source, bytes, true);
        }
        let outputs = &mut self.outputs;
        let mut is_first = false;
        self.pipeline.handle_rtp(arrival, stream, source, bytes, &mut |event| {
            is_first |= matches!(event, StreamEvent::FirstMedia { .. });
            outputs.push_back(Output::Event(RecorderEvent::Stream(event)));
        });
        if is_first {
            self.close_gap(arrival);
        }
    }

    /// What the part before could not record ends here, if it has not ended yet.
    fn close_gap(&mut self, now: Instant) {
        let Some(lost_at) = self.config.lost_at.take() else { return };
        let Some(hand_over) = self.metadata.hand_overs.last_mut() else { return };
        let here = self.metadata.started_at.plus(now.saturating_duration_since(self.pipeline.start()));
        let lost_ms = u64::try_from(here.since(lost_at).as_millis()).unwrap_or(u64::MAX);
        hand_over.lost_ms = Some(lost_ms);
        self.metadata_dirty = true;
        self.outputs.push_back(Output::Event(RecorderEvent::TookOver { lost_ms }));
    }

    /// Takes a datagram of a stream's RTCP port.
    pub fn handle_rtcp(&mut self, arrival: Instant, stream: StreamIndex, source: SocketAddr, bytes: &[u8]) {
        self.take_rtcp(arrival, stream, source, bytes, false);
    }

    fn take_rtcp(&mut self, arrival: Instant, stream: StreamIndex, address: SocketAddr, bytes: &[u8], muxed: bool) {
        if !self.pipeline.handle_rtcp(arrival, stream, address, bytes) {
            return;
        }
        let peer = RtcpPeer { stream, address, muxed };
        match self.peers.iter_mut().find(|peer| peer.stream == stream) {
            Some(known) => *known = peer,
            None => self.peers.push(peer),
        }
    }

    /// Does everything that is due: frames, pages, reports, time-outs, metadata.
    pub fn advance(&mut self, now: Instant) {
        if self.totals.is_some() {
            return;
        }
        let (file, outputs, tap) = (&mut self.file, &mut self.outputs, self.tap);
        self.pipeline.advance(now, &mut |frame| emit(file, outputs, tap, &frame));
        self.watch(now);
        if now >= self.report_at {
            self.send_reports(now, false);
            self.schedule_report(now);
        }
        if self.metadata_dirty && now >= self.metadata_at + METADATA_PACE {
            self.seal_metadata(now);
        }
        self.tell_failure();
    }

    /// Silence of all streams, and its end.
    fn watch(&mut self, now: Instant) {
        let heard = match self.pipeline.last_media_us() {
            Err(_) => {
                self.waiting_since = None;
                self.silent = false;
                return;
            }
            Ok(heard) => heard,
        };
        let since = *self.waiting_since.get_or_insert(now);
        if self.pipeline.is_paused() {
            self.waiting_since = Some(now);
            return;
        }
        let heard = heard
            .and_then(|us| u64::try_from(us).ok())
            .and_then(|us| self.pipeline.start().checked_add(Duration::from_micros(us)));
        let back = self.silent && heard > self.last_media;
        self.last_media = heard;
        if back {
            self.silent = false;
            self.outputs.push_back(Output::Event(RecorderEvent::MediaBack));
        }
        let last = heard.map_or(since, |heard| heard.max(since));
        if now.saturating_duration_since(last) >= self.config.rtp_timeout {
            self.silent = true;
            // Told again each time that long passes: signalling asks the peer each time.
            self.waiting_since = Some(now);
            self.outputs.push_back(Output::Event(RecorderEvent::MediaSilent));
        }
    }

    fn schedule_report(&mut self, now: Instant) {
        // RFC 3550 6.3.5: between half and one and a half of the interval.
        self.report_at = now + self.config.rtcp_interval.mul_f64(self.rng.random_range(0.5..1.5));
    }

    fn send_reports(&mut self, now: Instant, bye: bool) {
        let (peers, ours, cname) = (&self.peers, self.ssrc, &self.config.cname);
        let mut reports = Vec::new();
        self.pipeline.reports(now, |stream, source, block| {
            let peer = peers.iter().find(|peer| peer.stream == stream);
            // Without a word from the peer, RTCP is one port up (RFC 3550 11).
            let (to, muxed) = match peer {
                Some(peer) => (peer.address, peer.muxed),
                None => (SocketAddr::new(source.ip(), source.port().saturating_add(1)), false),
            };
            let mut bytes = Vec::with_capacity(128);
            write_report(ours, Some(&block), cname, bye, &mut bytes);
            reports.push((stream, to, muxed, bytes));
        });
        for (stream, to, muxed, mut bytes) in reports {
            // Only a peer that speaks RTCP is asked for more of it.
            let asked = !bye && self.peers.iter().any(|peer| peer.stream == stream);
            if asked && let Some(ntp) = self.pipeline.reference_time(now, stream) {
                write_reference(self.ssrc, ntp, &mut bytes);
            }
            if let Some(bytes) = self.pipeline.seal_rtcp(stream, bytes) {
                self.outputs.push_back(Output::Rtcp { stream, to, muxed, bytes });
            }
        }
    }

    /// Takes the streams that the call has from now on; those that stay keep their state.
    pub fn update_streams(&mut self, now: Instant, streams: Vec<StreamConfig>) {
        self.pipeline.update_streams(now, streams);
        self.metadata_dirty = true;
    }

    /// Both channels become digital silence, the timeline runs on; `by` says who
    /// asked. False when it is paused already or over.
    pub fn pause(&mut self, now: Instant, by: Option<&str>) -> bool {
        let Some(from_ms) = self.pipeline.pause(now) else { return false };
        if self.metadata.pauses.len() < MAX_MARKS {
            self.metadata.pauses.push(Pause { at: Interval { from_ms, to_ms: None }, by: by.map(str::to_owned) });
        } else if let Some(last) = self.metadata.pauses.last_mut() {
            last.at.to_ms = None;
        }
        self.metadata_dirty = true;
        true
    }

    /// Records again. False when it was not paused.
    pub fn resume(&mut self, now: Instant) -> bool {
        let Some(to_ms) = self.pipeline.resume(now) else { return false };
        if let Some(last) = self.metadata.pauses.last_mut() {
            last.at.to_ms = Some(to_ms);
        }
        self.metadata_dirty = true;
        true
    }

    /// A copy goes on as the recording: its original is gone.
    pub fn promote(&mut self, now: Instant) {
        self.config.part.copy = false;
        self.metadata.part = self.config.part;
        let at = self.metadata.started_at.plus(now.saturating_duration_since(self.pipeline.start()));
        self.metadata.hand_overs.push(HandOver {
            part: self.config.part.number.get(),
            node: self.config.node.clone(),
            at,
            lost_ms: None,
            cause: "worker-lost".to_owned(),
        });
        self.metadata_dirty = true;
    }

    /// True between pause and resume.
    pub fn is_paused(&self) -> bool {
        self.pipeline.is_paused()
    }

    /// What signalling knows now; replaces what it knew.
    pub fn set_session(&mut self, session: SessionInfo) {
        self.metadata.session = session;
        self.metadata_dirty = true;
    }

    /// Sets a tag; of the same name the last one stands. False when there are too many.
    pub fn add_tag(&mut self, now: Instant, name: &str, value: &str) -> bool {
        let at_ms = u64::try_from(self.pipeline.call_us(now) / 1_000).unwrap_or(0);
        let tag = Tag { name: name.to_owned(), value: value.to_owned(), at_ms };
        if let Some(known) = self.metadata.tags.iter_mut().find(|tag| tag.name == name) {
            *known = tag;
        } else if self.metadata.tags.len() < MAX_MARKS {
            self.metadata.tags.push(tag);
        } else {
            return false;
        }
        self.metadata_dirty = true;
        true
    }

    /// Notes something odd that did not stop the recording.
    pub fn add_warning(&mut self, text: &str) {
        if self.metadata.warnings.len() < MAX_MARKS && !self.metadata.warnings.iter().any(|known| known == text) {
            self.metadata.warnings.push(text.to_owned());
            self.metadata_dirty = true;
        }
    }

    /// While open, every frame comes out as [`Output::Frame`] as well.
    pub fn set_tap(&mut self, open: bool) {
        self.tap = open;
    }

    /// How the recording ends, were it to end as `asked`: one in which media should have been heard and was not is
    /// partial, for the reason told. To be called before [`Recorder::stop`].
    pub fn verdict(&self, asked: RecordingState) -> (RecordingState, Option<&'static str>) {
        let reason = shortfall(&self.pipeline.stats(), self.config.rtp_timeout);
        let state = if reason.is_some() && asked == RecordingState::Complete { RecordingState::Partial } else { asked };
        (state, reason.map(Shortfall::text))
    }

    /// Ends the recording: the rest of the audio, the last metadata and a BYE come
    /// out. A second call does nothing.
    pub fn stop(&mut self, now: Instant, state: RecordingState, reason: &str) {
        if self.totals.is_some() {
            return;
        }
        self.resume(now);
        self.close_gap(now);
        self.send_reports(now, true);
        let (file, outputs, tap) = (&mut self.file, &mut self.outputs, self.tap);
        let length_48k = self.pipeline.finish(now, &mut |frame| emit(file, outputs, tap, &frame));
        let (sealed, audio) = self.file.finish(length_48k);
        self.outputs.push_back(Output::Audio(sealed));
        let duration_ms = length_48k / 48;
        let started_at = self.metadata.started_at;
        let ended_at = started_at.plus(Duration::from_millis(duration_ms));
        warnings(&self.pipeline.stats()).iter().for_each(|text| self.add_warning(text));
        self.metadata.state = state.into();
        self.metadata.ended_at = Some(ended_at);
        self.metadata.duration_ms = Some(duration_ms);
        self.metadata.end_reason = Some(reason.to_owned());
        self.seal_metadata(now);
        let metadata = self.metadata_summary;
        self.totals = Some(RecordingTotals {
            started_at,
            ended_at,
            duration_ms,
            audio: AudioEntry { bytes: audio.bytes, sha256: Digest(audio.sha256), segments: audio.segments },
            metadata: MetadataEntry { bytes: metadata.bytes, sha256: Digest(metadata.sha256) },
        });
        self.tell_failure();
    }

    fn seal_metadata(&mut self, now: Instant) {
        (self.metadata_dirty, self.metadata_at) = (false, now);
        report::fill(&mut self.metadata, &self.pipeline.stats(), self.pipeline.scores(), self.config.mask_dtmf);
        match seal_metadata(&self.config, self.metadata.started_at, &self.metadata, &mut self.rng) {
            Ok((sealed, summary)) => {
                self.metadata_summary = summary;
                self.outputs.push_back(Output::Metadata(sealed));
            }
            Err(error) => self.failed = self.failed.take().or(Some(error)),
        }
    }

    fn tell_failure(&mut self) {
        let failed = self.failed.take().or_else(|| self.file.take_failure().map(RecorderError::from));
        if let Some(error) = failed
            && !std::mem::replace(&mut self.reported_failure, true)
        {
            self.outputs.push_back(Output::Event(RecorderEvent::Failed(error)));
        }
    }

    /// The next thing to do; `None` when all is done for now.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Recorder::advance`] has work; earlier calls are harmless, later ones delay it.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let metadata = self.metadata_dirty.then(|| self.metadata_at + METADATA_PACE);
        let due = self.pipeline.next_frame_at().map(|frame| frame.min(self.report_at));
        due.into_iter().chain(metadata).min().filter(|_| self.totals.is_none())
    }

    /// Segments of audio that have come out, and how much audio they hold.
    pub fn sealed(&self) -> (u32, Duration) {
        let (segments, audio) = self.file.sealed();
        (segments, audio.min(self.pipeline.encoded()))
    }

    /// Everything up to now.
    pub fn stats(&self) -> RecordingStats {
        self.pipeline.stats()
    }

    /// Audio that nobody recorded before this part, in ms; `None` until that is known.
    pub fn lost_ms(&self) -> Option<u64> {
        self.metadata.hand_overs.iter().find_map(|hand_over| hand_over.lost_ms)
    }

    /// Measures of the whole, once stopped.
    pub fn totals(&self) -> Option<&RecordingTotals> {
        self.totals.as_ref()
    }
}

fn emit(file: &mut AudioFile, outputs: &mut VecDeque<Output>, tap: bool, frame: &EncodedFrame<'_>) {
    if let Some(sealed) = file.push(frame) {
        outputs.push_back(Output::Audio(sealed));
    }
    if tap {
        let packets = frame.packets.map(Bytes::copy_from_slice);
        outputs.push_back(Output::Frame(Frame { position_48k: frame.position_48k, packets }));
    }
}

fn seal_metadata(
    config: &RecorderConfig,
    created: Timestamp,
    metadata: &RecordingMetadata,
    rng: &mut StdRng,
) -> Result<(Vec<u8>, SealSummary), RecorderError> {
    let header = SealHeader { part: config.part, tenant: config.tenant.clone(), content: Content::Json, created };
    Ok(seal_document(&header, &config.recipients, &metadata.to_json()?, rng)?)
}
