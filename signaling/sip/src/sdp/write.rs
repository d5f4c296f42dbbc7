//! Answers and offers (RFC 3264 5, 6).

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{CryptoAttribute, Direction, Format, Media, Sdp};

/// The fields of our `o=` line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Session id, the same for the whole session.
    pub id: u64,
    /// Up by one with every change, unchanged otherwise.
    pub version: u64,
    /// Our address when the session began; it stays when the media move.
    pub address: IpAddr,
}

/// A stream that we take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedMedia {
    /// Our RTP socket.
    pub address: SocketAddr,
    /// The formats that we take, in the offer's order.
    pub formats: Vec<Format>,
    /// `recvonly` or `inactive`.
    pub direction: Direction,
    /// Our SRTP key.
    pub crypto: Option<CryptoAttribute>,
}

/// What becomes of one m-line of an offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MediaAnswer {
    /// It is recorded.
    Accept(AcceptedMedia),
    /// Port 0.
    Refuse,
}

/// Our answer to `offer`; `answers` are in the order of its m-lines.
pub fn write_answer(offer: &Sdp, answers: &[MediaAnswer], origin: &Origin) -> String {
    let connection = answers.iter().find_map(|answer| match answer {
        MediaAnswer::Accept(accepted) => Some(accepted.address.ip()),
        MediaAnswer::Refuse => None,
    });
    let connection = connection.unwrap_or(origin.address);
    let mut out = head(origin, connection);
    for (media, answer) in offer.media.iter().zip(answers) {
        match answer {
            MediaAnswer::Accept(accepted) => accept(&mut out, media, accepted, connection),
            MediaAnswer::Refuse => {
                let formats = if media.format_list.is_empty() { "0".to_owned() } else { media.format_list.join(" ") };
                let _ = write!(out, "m={} 0 {} {formats}\r\n", media.kind, media.protocol);
                label(&mut out, media.label.as_deref());
            }
        }
    }
    out
}

/// An offer of our own: for an INVITE without one.
pub fn write_offer(streams: &[AcceptedMedia], origin: &Origin) -> String {
    let connection = streams.first().map_or(origin.address, |stream| stream.address.ip());
    let mut out = head(origin, connection);
    for (index, stream) in streams.iter().enumerate() {
        media_line(&mut out, "audio", "RTP/AVP", stream, connection);
        label(&mut out, Some(&(index + 1).to_string()));
        let _ = write!(out, "a={}\r\n", stream.direction.as_str());
    }
    out
}

/// `o=` names the session and stays (RFC 3264 8); `c=` says where its media go, which may move.
fn head(origin: &Origin, connection: IpAddr) -> String {
    let Origin { id, version, address } = origin;
    format!(
        "v=0\r\no=- {id} {version} IN {} {address}\r\ns=-\r\nc=IN {} {connection}\r\nt=0 0\r\n",
        family(*address),
        family(connection)
    )
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IP4" } else { "IP6" }
}

fn media_line(out: &mut String, kind: &str, protocol: &str, stream: &AcceptedMedia, connection: IpAddr) {
    let numbers: Vec<String> = stream.formats.iter().map(|format| format.payload_type.to_string()).collect();
    let _ = write!(out, "m={kind} {} {protocol} {}\r\n", stream.address.port(), numbers.join(" "));
    if stream.address.ip() != connection {
        let _ = write!(out, "c=IN {} {}\r\n", family(stream.address.ip()), stream.address.ip());
    }
    for format in &stream.formats {
        if !format.name.is_empty() {
            let _ = write!(out, "a=rtpmap:{} {}/{}", format.payload_type, format.name, format.clock_rate);
            if format.channels > 1 {
                let _ = write!(out, "/{}", format.channels);
            }
            out.push_str("\r\n");
        }
        if let Some(fmtp) = &format.fmtp {
            let _ = write!(out, "a=fmtp:{} {fmtp}\r\n", format.payload_type);
        }
    }
}

fn accept(out: &mut String, media: &Media, accepted: &AcceptedMedia, connection: IpAddr) {
    media_line(out, &media.kind, &media.protocol, accepted, connection);
    if let Some(ptime) = media.ptime_ms {
        let _ = write!(out, "a=ptime:{ptime}\r\n");
    }
    if let Some(mid) = &media.mid {
        let _ = write!(out, "a=mid:{mid}\r\n");
    }
    if media.rtcp_mux {
        out.push_str("a=rtcp-mux\r\n");
    }
    if let Some(crypto) = &accepted.crypto {
        let _ = write!(out, "a=crypto:{crypto}\r\n");
    }
    label(out, media.label.as_deref());
    let _ = write!(out, "a={}\r\n", accepted.direction.as_str());
}

fn label(out: &mut String, label: Option<&str>) {
    if let Some(label) = label {
        let _ = write!(out, "a=label:{label}\r\n");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    const ORIGIN: Origin = Origin { id: 7, version: 1, address: IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10)) };

    #[test]
    fn the_answer_keeps_m_lines_labels_and_order() {
        let offer = Sdp::parse(
            b"v=0\r\no=- 1 1 IN IP4 198.51.100.7\r\nc=IN IP4 198.51.100.7\r\nm=audio 6000 RTP/AVP 96 0\r\n\
              a=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\na=label:10\r\na=ptime:20\r\na=rtcp-mux\r\na=sendonly\r\n\
              m=video 6002 RTP/AVP 31\r\na=label:11\r\n",
        )
        .unwrap();
        let accepted = MediaAnswer::Accept(AcceptedMedia {
            address: "192.0.2.10:40000".parse().unwrap(),
            formats: vec![offer.media[0].formats[0].clone()],
            direction: Direction::RecvOnly,
            crypto: None,
        });
        let answer = write_answer(&offer, &[accepted, MediaAnswer::Refuse], &ORIGIN);
        assert_eq!(
            answer,
            "v=0\r\no=- 7 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n\
             m=audio 40000 RTP/AVP 96\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\na=ptime:20\r\n\
             a=rtcp-mux\r\na=label:10\r\na=recvonly\r\nm=video 0 RTP/AVP 31\r\na=label:11\r\n"
        );
        assert_eq!(Sdp::parse(answer.as_bytes()).unwrap().media[1].port, 0);
    }

    #[test]
    fn media_that_move_leave_the_name_of_the_session_as_it_was() {
        let media = |address: &str| AcceptedMedia {
            address: address.parse().unwrap(),
            formats: Vec::new(),
            direction: Direction::RecvOnly,
            crypto: None,
        };
        let text = write_offer(&[media("192.0.2.77:40000"), media("192.0.2.78:40000")], &ORIGIN);
        assert!(text.starts_with("v=0\r\no=- 7 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.77\r\n"), "{text}");
        assert_eq!(text.matches("c=IN IP4").count(), 2, "{text}");
        assert_eq!(Sdp::parse(text.as_bytes()).unwrap().media[1].address, Some("192.0.2.78".parse().unwrap()));
    }

    #[test]
    fn ipv6_addresses_are_written_and_read_as_such() {
        let origin = Origin { id: 7, version: 1, address: "2001:db8::10".parse().unwrap() };
        let offer = Sdp::parse(
            b"v=0\r\nc=IN IP6 2001:db8::20\r\nm=audio 6000 RTP/AVP 0\r\na=rtcp:6005 IN IP6 2001:db8::21\r\n",
        )
        .unwrap();
        assert_eq!(offer.media[0].rtcp_address(), Some("[2001:db8::21]:6005".parse().unwrap()));
        let accepted = MediaAnswer::Accept(AcceptedMedia {
            address: "[2001:db8::10]:40000".parse().unwrap(),
            formats: offer.media[0].formats.clone(),
            direction: Direction::Inactive,
            crypto: None,
        });
        let answer = write_answer(&offer, &[accepted], &origin);
        assert!(
            answer.contains("o=- 7 1 IN IP6 2001:db8::10\r\n") && answer.contains("c=IN IP6 2001:db8::10\r\n"),
            "{answer}"
        );
        assert_eq!(
            Sdp::parse(answer.as_bytes()).unwrap().media[0].rtp_address(),
            Some("[2001:db8::10]:40000".parse().unwrap())
        );
    }
}
