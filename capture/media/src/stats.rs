//! What a recording tells of itself: counts and quality of each stream.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::gaps::Gap;
use crate::rtp::StreamIndex;

/// Half of two channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// The first labelled stream.
    Left,
    /// The second, and all others mixed into it.
    Right,
}

/// A digit pressed (RFC 4733).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TelephoneEvent {
    /// Beginning, ms since the recording began.
    pub at_ms: u64,
    /// How long, in ms.
    pub duration_ms: u32,
    /// `0`-`9`, `*`, `#`, `A`-`D`; `None` for other events, and during a pause.
    pub digit: Option<char>,
}

/// Values of [`StreamStats::mos_over_time`] at most.
pub const LAST_SCORES: usize = 30;

/// Bursts of loss and the gaps between them (RFC 3611 4.7.2, Gmin 16); packets too late count as lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Bursts {
    /// Bursts of two or more lost packets.
    pub count: u64,
    /// Share of packets lost within bursts, 0 to 1.
    pub density: f64,
    /// Share of packets lost outside of bursts, 0 to 1.
    pub gap_density: f64,
    /// Mean length of a burst, in ms.
    pub mean_ms: f64,
    /// Mean length of a gap, in ms.
    pub mean_gap_ms: f64,
}

/// One stream up to now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StreamStats {
    /// Which.
    #[serde(serialize_with = "index")]
    pub stream: StreamIndex,
    /// Label of SDP and metadata.
    pub label: String,
    /// Where it lies in the file.
    pub channel: Channel,
    /// Encoding name of the last audio packet.
    pub codec: Option<&'static str>,
    /// Every codec of which audio came, as in an rtpmap: `PCMU/8000`.
    pub codecs: Vec<String>,
    /// Synchronisation sources followed, the first 16.
    pub ssrcs: Vec<u32>,
    /// Distinct packets received of the stream's source.
    pub packets: u64,
    /// Payload bytes of these.
    pub bytes: u64,
    /// Packets that never came.
    pub lost: u64,
    /// Packets that came after their place was recorded.
    pub late: u64,
    /// Copies of packets received before.
    pub duplicate: u64,
    /// Packets out of order that were still of the present stretch.
    pub reordered: u64,
    /// Packets of a payload type that was not negotiated.
    pub wrong_payload_type: u64,
    /// Datagrams that are no RTP.
    pub malformed: u64,
    /// Payloads that their codec refused.
    pub undecodable: u64,
    /// Packets of addresses that do not hold the stream.
    pub stranger: u64,
    /// Packets of other synchronisation sources that were not followed.
    pub other_ssrc: u64,
    /// Packets that found the reorder buffer full.
    pub overflow: u64,
    /// Sources, restarts and clock jumps that were followed, the first source included.
    pub segments: u64,
    /// The SRTP suite, by the name of `a=crypto`.
    pub srtp: Option<&'static str>,
    /// SRTP packets that no key opened.
    pub undecryptable: u64,
    /// Packets in clear on a stream that should be SRTP.
    pub unprotected: u64,
    /// Interarrival jitter (RFC 3550), in ms.
    pub jitter_ms: f64,
    /// Estimated mean opinion score, 1 to 4.5; `None` without media.
    pub mos: Option<f64>,
    /// The same for each of the last ten-second intervals of the recording, at most [`LAST_SCORES`]; `None` where nothing came.
    pub mos_over_time: Vec<Option<f64>>,
    /// How much longer runs of lost packets are than at random loss (BurstR of ITU-T G.107): 1 is random.
    pub burst_ratio: f64,
    /// Bursts of loss and the gaps between them; `None` before the first packet.
    pub bursts: Option<Bursts>,
    /// Round trip to the sender, mean in ms; `None` unless its RTCP answers (RFC 3611 4.5).
    pub rtt_ms: Option<f64>,
    /// Concealed or silent for loss, in ms.
    pub lost_ms: u64,
    /// First packet, ms since the recording began.
    pub first_packet_ms: Option<u64>,
    /// Last packet, ms since the recording began.
    pub last_packet_ms: Option<u64>,
    /// Where it comes from; personal data in the sense of an address.
    #[serde(skip)]
    pub source: Option<SocketAddr>,
    /// True while signalling has it active.
    pub active: bool,
    /// So long signalling had it active, in ms.
    pub active_ms: u64,
    /// Where it has no audio.
    pub gaps: Vec<Gap>,
    /// Digits pressed, the first 256.
    pub telephone_events: Vec<TelephoneEvent>,
}

fn index<S: serde::Serializer>(stream: &StreamIndex, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(stream.0)
}

/// A recording up to now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordingStats {
    /// Recorded so far, in ms; at the end, the length of the file.
    pub duration_ms: u64,
    /// Rate of both encoders, in Hz.
    pub encoder_rate: u32,
    /// True between pause and resume.
    pub paused: bool,
    /// Frames of both parties that went through the encoder.
    pub frames_coded: u64,
    /// Frames of both parties that were silence.
    pub frames_silent: u64,
    /// Datagrams for streams that the recording does not have.
    pub unknown_stream: u64,
    /// Pauses, in order.
    pub pauses: Vec<Gap>,
    /// The streams, in order.
    pub streams: Vec<StreamStats>,
}
