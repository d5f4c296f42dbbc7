//! What signalling and a stream tell each other.

use std::net::{IpAddr, SocketAddr};

use ferric_codecs::decode::CodecKind;

use crate::rtp::StreamIndex;
use crate::srtp::SrtpConfig;
use crate::stats::Channel;

/// What a payload type stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadKind {
    /// Audio, or comfort noise.
    Audio(CodecKind),
    /// Digits (RFC 4733).
    TelephoneEvent {
        /// Ticks per second of its durations.
        clock_rate: u32,
    },
}

/// What signalling knows of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// Stays the same for the stream's life.
    pub index: StreamIndex,
    /// Label of SDP and metadata.
    pub label: String,
    /// Where its audio goes; fixed at its first appearance.
    pub channel: Channel,
    /// Negotiated payload types. Static comfort noise (13, 19) is understood without.
    pub payloads: Vec<(u8, PayloadKind)>,
    /// False on hold (`a=inactive`, port 0 or address 0.0.0.0).
    pub active: bool,
    /// Address of the SDP, a hint: media may come from elsewhere.
    pub expected_source: Option<IpAddr>,
    /// Its keys, where it is SRTP.
    pub srtp: Option<SrtpConfig>,
}

impl StreamConfig {
    /// True when wideband audio may come.
    pub fn is_wideband(&self) -> bool {
        self.payloads.iter().any(|(_, kind)| matches!(kind, PayloadKind::Audio(codec) if codec.is_wideband()))
    }
}

/// Something that happened to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamEvent {
    /// The first packet of the stream.
    FirstMedia {
        /// Which stream.
        stream: StreamIndex,
        /// Where it comes from.
        from: SocketAddr,
    },
    /// Media comes from another address now.
    SourceMoved {
        /// Which stream.
        stream: StreamIndex,
        /// Where it came from.
        from: SocketAddr,
        /// Where it comes from.
        to: SocketAddr,
    },
    /// The first packet of a stranger since the source was locked; all are counted.
    StrangerDropped {
        /// Which stream.
        stream: StreamIndex,
        /// The stranger.
        from: SocketAddr,
    },
    /// SRTP packets come and none can be opened: wrong keys, or media in clear. Told again while it lasts.
    Undecryptable {
        /// Which stream.
        stream: StreamIndex,
        /// Where they come from.
        from: SocketAddr,
        /// They look like RTP in clear.
        in_clear: bool,
    },
    /// SRTP packets can be opened after all.
    Decryptable {
        /// Which stream.
        stream: StreamIndex,
    },
}
