//! What a load run does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thiserror::Error;

/// The codec of all streams of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadCodec {
    /// G.711 mu-law, 8 kHz.
    Pcmu,
    /// G.711 A-law, 8 kHz.
    Pcma,
    /// G.722, 16 kHz.
    G722,
    /// Opus, 16 kHz speech on its 48 kHz clock.
    Opus,
}

impl LoadCodec {
    /// RTP payload type: static where there is one, else 96.
    pub fn payload_type(self) -> u8 {
        match self {
            LoadCodec::Pcmu => 0,
            LoadCodec::Pcma => 8,
            LoadCodec::G722 => 9,
            LoadCodec::Opus => 96,
        }
    }

    /// The value of `a=rtpmap` behind the payload type.
    pub fn rtpmap(self) -> &'static str {
        match self {
            LoadCodec::Pcmu => "PCMU/8000",
            LoadCodec::Pcma => "PCMA/8000",
            LoadCodec::G722 => "G722/8000",
            LoadCodec::Opus => "opus/48000/2",
        }
    }

    /// Samples per second that the encoder takes.
    pub fn audio_rate(self) -> u32 {
        match self {
            LoadCodec::Pcmu | LoadCodec::Pcma => 8_000,
            LoadCodec::G722 | LoadCodec::Opus => 16_000,
        }
    }

    /// RTP clock in Hz; 8000 for G.722, whatever it samples at (RFC 3551 4.5.2).
    pub fn rtp_clock(self) -> u32 {
        match self {
            LoadCodec::Pcmu | LoadCodec::Pcma | LoadCodec::G722 => 8_000,
            LoadCodec::Opus => 48_000,
        }
    }
}

impl std::str::FromStr for LoadCodec {
    type Err = LoadError;

    fn from_str(text: &str) -> Result<LoadCodec, LoadError> {
        match text.to_ascii_lowercase().as_str() {
            "pcmu" => Ok(LoadCodec::Pcmu),
            "pcma" => Ok(LoadCodec::Pcma),
            "g722" => Ok(LoadCodec::G722),
            "opus" => Ok(LoadCodec::Opus),
            _ => Err(LoadError::Codec(text.to_owned())),
        }
    }
}

/// The client side of TLS.
#[derive(Debug, Clone, Default)]
pub struct TlsClient {
    /// The name that the server's certificate must carry; the address if `None`.
    pub server_name: Option<String>,
    /// PEM certificates that the server's must be signed by. `None` trusts any
    /// server: a load source has nothing to hide from it.
    pub ca: Option<Vec<u8>>,
    /// PEM certificate chain and private key for a server that asks for ours.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// How SIP travels. TCP and TLS use one connection for all calls, as an SBC does.
#[derive(Debug, Clone)]
pub enum LoadTransport {
    /// Datagrams.
    Udp,
    /// One stream.
    Tcp,
    /// One stream under TLS.
    Tls(TlsClient),
}

/// What the simulated network does to our RTP. Probabilities are from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Trouble {
    /// A packet is never sent.
    pub loss: f64,
    /// A packet is sent behind its successor.
    pub reorder: f64,
    /// A packet is sent twice.
    pub duplicate: f64,
}

/// One run.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    /// The recording server, Request-URI and To: a SIP URI with an address, or a name that DNS knows.
    pub to: String,
    /// DNS servers; those of the system if empty.
    pub dns: Vec<SocketAddr>,
    /// How SIP travels.
    pub transport: LoadTransport,
    /// After so long without an answer the next server of a name is tried.
    pub patience: Duration,
    /// UPDATE is understood.
    pub update: bool,
    /// Offers of the server (re-INVITE, UPDATE) are refused with 488.
    pub refuse_moves: bool,
    /// Recording sessions to set up.
    pub calls: usize,
    /// New sessions per second.
    pub rate_cps: f64,
    /// From the answer to the BYE.
    pub hold: Duration,
    /// Of all streams.
    pub codec: LoadCodec,
    /// What happens to our RTP.
    pub trouble: Trouble,
    /// Source of every random choice: identifiers, SSRCs, trouble.
    pub seed: u64,
    /// What the two parties say, mono; repeated when shorter than the hold time.
    pub speech: [Vec<i16>; 2],
    /// Samples per second of `speech`.
    pub speech_rate: u32,
    /// Each call says, in place of speech, what tells call, party and time of every 20 ms (G.711 only).
    pub marked: bool,
    /// Each call begins at another place of the speech, so that recordings can be told apart.
    pub stagger: bool,
    /// Our address in SDP; the one that routes to the server if `None`.
    pub media_address: Option<IpAddr>,
    /// Threads that send RTP; at least 1.
    pub media_threads: usize,
}

impl LoadConfig {
    /// One call over UDP with G.711 mu-law, 10 s, no trouble.
    pub fn new(to: SocketAddr, speech: [Vec<i16>; 2], speech_rate: u32) -> LoadConfig {
        LoadConfig {
            to: format!("sip:srs@{to}"),
            dns: Vec::new(),
            transport: LoadTransport::Udp,
            patience: Duration::from_secs(2),
            update: true,
            refuse_moves: false,
            calls: 1,
            rate_cps: 10.0,
            hold: Duration::from_secs(10),
            codec: LoadCodec::Pcmu,
            trouble: Trouble::default(),
            seed: 1,
            speech,
            speech_rate,
            marked: false,
            stagger: false,
            media_address: None,
            media_threads: 1,
        }
    }
}

/// Why a run could not be made; calls that fail are in the report instead.
#[derive(Debug, Error)]
pub enum LoadError {
    /// No such codec.
    #[error("the codec is one of pcmu, pcma, g722, opus, not {0:?}")]
    Codec(String),
    /// A number that makes no sense.
    #[error("{0}")]
    Config(&'static str),
    /// The server's URI is none, or names nobody.
    #[error("{0}: write sip:HOST or sip:HOST:PORT")]
    To(String),
    /// No socket to be had on this host.
    #[error("no socket: {0}")]
    Listen(String),
    /// Certificate or key.
    #[error("TLS: {0}")]
    Tls(String),
    /// The speech cannot be encoded.
    #[error("the speech cannot be encoded: {0}")]
    Encode(String),
    /// A task of our own ended early.
    #[error("the load source broke: {0}")]
    Broken(String),
}
