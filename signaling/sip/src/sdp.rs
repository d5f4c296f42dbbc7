//! SDP as recorders meet it (RFC 8866, RFC 3264, RFC 4566 and worse).
//!
//! The reader takes what the field sends: lines out of order, lower-case codec
//! names, static payload types without `a=rtpmap`, `pcmu/8000a`, `c=` anywhere.
//! Only what cannot be placed at all is an error: a body without a `v=` line, or
//! an `m=` line without a port. The writer builds answers with the offer's
//! m-lines in order, and offers of our own.

mod crypto;
mod write;

pub use crypto::{CryptoAttribute, CryptoError, KeyParameter, Mki};
pub use write::{AcceptedMedia, MediaAnswer, Origin, write_answer, write_offer};

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Most m-lines read.
pub const MAX_MEDIA: usize = 32;

/// A body that is no SDP.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SdpError {
    /// Not text, or no `v=` line.
    #[error("the SDP does not begin with v=")]
    NotSdp,
    /// An m-line that cannot be read.
    #[error("SDP line {line}: m= needs a medium, a port, a protocol and formats")]
    Media {
        /// Counted from 1.
        line: usize,
    },
    /// More m-lines than accepted.
    #[error("the SDP has more than {MAX_MEDIA} m-lines")]
    TooMany,
}

/// Who sends, seen from the side that wrote the description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Direction {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    fn from_attribute(name: &str) -> Option<Direction> {
        match name {
            "sendrecv" => Some(Direction::SendRecv),
            "sendonly" => Some(Direction::SendOnly),
            "recvonly" => Some(Direction::RecvOnly),
            "inactive" => Some(Direction::Inactive),
            _ => None,
        }
    }

    /// The attribute's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    /// True when the side that wrote it sends.
    pub fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }
}

/// A payload type with what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Format {
    /// RTP payload type.
    pub payload_type: u8,
    /// Encoding name as written; empty when the description does not say and the type is not static.
    pub name: String,
    /// RTP clock in Hz.
    pub clock_rate: u32,
    /// Channels, 1 unless told.
    pub channels: u8,
    /// `a=fmtp` text.
    pub fmtp: Option<String>,
}

/// One m-line with its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// `audio`, `video`, ...
    pub kind: String,
    /// 0 = refused or removed.
    pub port: u16,
    /// `RTP/AVP`, `RTP/SAVP`, ...
    pub protocol: String,
    /// The format list as written.
    pub format_list: Vec<String>,
    /// Its RTP formats in the order of preference.
    pub formats: Vec<Format>,
    /// Address of the medium or of the session; unspecified (0.0.0.0) means hold in old style.
    pub address: Option<IpAddr>,
    /// Of the medium or the session; `sendrecv` if neither says.
    pub direction: Direction,
    /// `a=label` (RFC 4574).
    pub label: Option<String>,
    /// `a=rtcp` port and address (RFC 3605).
    pub rtcp: Option<(u16, Option<IpAddr>)>,
    /// `a=rtcp-mux` (RFC 5761).
    pub rtcp_mux: bool,
    /// `a=ptime` in ms.
    pub ptime_ms: Option<u32>,
    /// `a=crypto` values, raw (RFC 4568).
    pub crypto: Vec<String>,
    /// `a=mid`.
    pub mid: Option<String>,
}

impl Media {
    /// True when the peer will send media: a port, a direction that sends, an address that is one.
    pub fn is_sending(&self) -> bool {
        self.port != 0 && self.direction.sends() && !self.address.is_some_and(|address| address.is_unspecified())
    }

    /// Its SRTP keys in order of preference, those lines that can be used.
    pub fn crypto_attributes(&self) -> Vec<CryptoAttribute> {
        self.crypto.iter().filter_map(|line| CryptoAttribute::parse(line).ok()).collect()
    }

    /// Where the peer's RTP socket is.
    pub fn rtp_address(&self) -> Option<SocketAddr> {
        let address = self.address.filter(|address| !address.is_unspecified())?;
        (self.port != 0).then(|| SocketAddr::new(address, self.port))
    }

    /// Where the peer's RTCP socket is (RFC 3605; else the next port).
    pub fn rtcp_address(&self) -> Option<SocketAddr> {
        let rtp = self.rtp_address()?;
        match self.rtcp {
            _ if self.rtcp_mux => Some(rtp),
            Some((port, address)) => Some(SocketAddr::new(address.unwrap_or(rtp.ip()), port)),
            None => Some(SocketAddr::new(rtp.ip(), rtp.port().checked_add(1)?)),
        }
    }
}

/// A session description.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sdp {
    /// `o=` text.
    pub origin: String,
    /// In order.
    pub media: Vec<Media>,
}

/// What `a=rtpmap` and friends said before the m-line is complete.
#[derive(Default)]
struct Attributes {
    rtpmap: Vec<(u8, String, u32, u8)>,
    fmtp: Vec<(u8, String)>,
}

impl Sdp {
    /// Reads a description.
    ///
    /// # Errors
    /// [`SdpError`] when it is none.
    pub fn parse(body: &[u8]) -> Result<Sdp, SdpError> {
        let text = String::from_utf8_lossy(body);
        let mut sdp = Sdp::default();
        let mut session_address = None;
        let mut session_direction = None;
        let mut begun = false;
        let mut current: Option<(Media, Option<Direction>, Attributes)> = None;
        let mut finished: Vec<(Media, Option<Direction>, Attributes)> = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            let Some((kind, value)) = line.split_once('=') else { continue };
            let value = value.trim();
            match kind.trim() {
                "v" => begun = true,
                "o" => sdp.origin = value.to_owned(),
                "m" => {
                    finished.extend(current.take());
                    if finished.len() >= MAX_MEDIA {
                        return Err(SdpError::TooMany);
                    }
                    let media = media_line(value).ok_or(SdpError::Media { line: number + 1 })?;
                    current = Some((media, None, Attributes::default()));
                }
                "c" => match &mut current {
                    Some((media, ..)) => media.address = connection(value),
                    None => session_address = connection(value),
                },
                "a" => match &mut current {
                    Some((media, direction, attributes)) => attribute(value, media, direction, attributes),
                    None => session_direction = Direction::from_attribute(value).or(session_direction),
                },
                _ => {}
            }
        }
        finished.extend(current);
        if !begun {
            return Err(SdpError::NotSdp);
        }
        for (mut media, direction, attributes) in finished {
            media.address = media.address.or(session_address);
            media.direction = direction.or(session_direction).unwrap_or(Direction::SendRecv);
            media.formats = formats(&media.format_list, &attributes);
            sdp.media.push(media);
        }
        Ok(sdp)
    }
}

fn media_line(value: &str) -> Option<Media> {
    let mut words = value.split_ascii_whitespace();
    let kind = words.next()?.to_ascii_lowercase();
    let port = words.next()?.split('/').next()?.parse().ok()?;
    let protocol = words.next()?.to_owned();
    Some(Media {
        kind,
        port,
        protocol,
        format_list: words.take(64).map(str::to_owned).collect(),
        formats: Vec::new(),
        address: None,
        direction: Direction::SendRecv,
        label: None,
        rtcp: None,
        rtcp_mux: false,
        ptime_ms: None,
        crypto: Vec::new(),
        mid: None,
    })
}

/// `IN IP4 address`, with a multicast suffix ignored.
fn connection(value: &str) -> Option<IpAddr> {
    value.split_ascii_whitespace().nth(2)?.split('/').next()?.parse().ok()
}

fn attribute(value: &str, media: &mut Media, direction: &mut Option<Direction>, attributes: &mut Attributes) {
    let (name, rest) = value.split_once(':').unwrap_or((value, ""));
    let rest = rest.trim();
    let payload = |text: &str| -> Option<(u8, String)> {
        let (number, rest) = text.split_once(|c: char| c.is_ascii_whitespace())?;
        Some((number.parse().ok()?, rest.trim().to_owned()))
    };
    match name.trim().to_ascii_lowercase().as_str() {
        "rtpmap" => {
            if let Some((number, map)) = payload(rest) {
                let mut parts = map.split('/');
                let encoding = parts.next().unwrap_or("").trim().to_owned();
                let digits: String =
                    parts.next().unwrap_or("").trim().chars().take_while(char::is_ascii_digit).collect();
                let channels = parts.next().and_then(|text| text.trim().parse().ok()).unwrap_or(1);
                attributes.rtpmap.push((number, encoding, digits.parse().unwrap_or(8_000), channels));
            }
        }
        "fmtp" => attributes.fmtp.extend(payload(rest)),
        "label" if !rest.is_empty() => media.label = Some(rest.to_owned()),
        "rtcp" => {
            let mut words = rest.split_ascii_whitespace();
            if let Some(port) = words.next().and_then(|port| port.parse().ok()) {
                media.rtcp = Some((port, words.nth(2).and_then(|address| address.parse().ok())));
            }
        }
        "rtcp-mux" => media.rtcp_mux = true,
        "ptime" => media.ptime_ms = rest.parse().ok(),
        "crypto" => media.crypto.push(rest.to_owned()),
        "mid" => media.mid = Some(rest.to_owned()),
        other => *direction = Direction::from_attribute(other).or(*direction),
    }
}

/// Payload types with a fixed meaning (RFC 3551 6).
fn static_format(payload_type: u8) -> Option<(&'static str, u32, u8)> {
    Some(match payload_type {
        0 => ("PCMU", 8_000, 1),
        2 => ("G726-32", 8_000, 1),
        3 => ("GSM", 8_000, 1),
        4 => ("G723", 8_000, 1),
        8 => ("PCMA", 8_000, 1),
        9 => ("G722", 8_000, 1),
        10 => ("L16", 44_100, 2),
        11 => ("L16", 44_100, 1),
        13 | 19 => ("CN", 8_000, 1),
        18 => ("G729", 8_000, 1),
        _ => return None,
    })
}

fn formats(list: &[String], attributes: &Attributes) -> Vec<Format> {
    list.iter()
        .filter_map(|text| text.parse::<u8>().ok().filter(|number| *number < 128))
        .map(|payload_type| {
            let mapped = attributes.rtpmap.iter().find(|(number, ..)| *number == payload_type);
            let (name, clock_rate, channels) = match (mapped, static_format(payload_type)) {
                (Some((_, name, rate, channels)), _) => (name.clone(), *rate, *channels),
                (None, Some((name, rate, channels))) => (name.to_owned(), rate, channels),
                (None, None) => (String::new(), 8_000, 1),
            };
            let fmtp = attributes.fmtp.iter().find(|(number, _)| *number == payload_type);
            Format { payload_type, name, clock_rate, channels, fmtp: fmtp.map(|(_, text)| text.clone()) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn odd_but_readable_offers_are_read() {
        let sdp = Sdp::parse(
            b"v=0\r\no=- 1 1 IN IP4 198.51.100.7\r\ns= \r\nc=IN IP4 198.51.100.7\r\nt=0 0\r\na=sendonly\r\n\
              m=audio 6000 RTP/AVP 0 18 101\r\na=rtpmap:0 pcmu/8000a\r\na=label:1\r\na=rtcp:6011 IN IP4 198.51.100.8\r\n\
              a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n\
              m=audio 6002 RTP/AVP 8\r\nc=IN IP4 0.0.0.0\r\na=label: b_leg \r\n\
              m=video 0 RTP/AVP 31\r\na=inactive\r\n",
        )
        .unwrap();
        let [first, second, third] = &sdp.media[..] else { panic!("{sdp:?}") };
        assert_eq!((first.formats[0].name.as_str(), first.formats[0].clock_rate), ("pcmu", 8_000));
        assert_eq!(first.formats[1].name, "G729");
        assert_eq!(first.formats[2].fmtp.as_deref(), Some("0-15"));
        assert_eq!(first.direction, Direction::SendOnly);
        assert_eq!(first.rtp_address(), Some("198.51.100.7:6000".parse().unwrap()));
        assert_eq!(first.rtcp_address(), Some("198.51.100.8:6011".parse().unwrap()));
        assert_eq!(second.label.as_deref(), Some("b_leg"));
        assert!(!second.is_sending(), "c=0.0.0.0 is hold");
        assert_eq!((third.kind.as_str(), third.port, third.direction), ("video", 0, Direction::Inactive));
    }

    #[test]
    fn what_is_no_sdp_is_an_error_with_its_line() {
        assert_eq!(Sdp::parse(b"hello").unwrap_err(), SdpError::NotSdp);
        assert_eq!(Sdp::parse(b"v=0\r\nm=audio\r\n").unwrap_err(), SdpError::Media { line: 2 });
        let many = format!("v=0\r\n{}", "m=audio 1 RTP/AVP 0\r\n".repeat(40));
        assert_eq!(Sdp::parse(many.as_bytes()).unwrap_err(), SdpError::TooMany);
    }
}
