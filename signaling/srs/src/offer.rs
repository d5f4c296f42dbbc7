//! What we take of an offer, and the answer (RFC 3264, RFC 7866 7.2).

use std::net::SocketAddr;

use ferric_sip::sdp::{AcceptedMedia, Direction, Format, Media, MediaAnswer, Sdp};

use crate::port::{AssignedStream, StreamSpec};

/// Streams of one session that are recorded; further m-lines are refused.
pub const MAX_STREAMS: usize = 8;

/// Tells whether audio in a format can be stored: name, clock rate in Hz, channels.
pub type Storable = fn(&str, u32, u8) -> bool;

fn is_event(format: &Format) -> bool {
    format.name.eq_ignore_ascii_case("telephone-event")
}

fn is_noise(format: &Format) -> bool {
    format.name.eq_ignore_ascii_case("CN")
}

fn can_store(format: &Format, storable: Storable) -> bool {
    !is_noise(format) && storable(&format.name, format.clock_rate, format.channels)
}

/// True for a plain RTP audio m-line with a codec that can be stored.
fn is_recordable(media: &Media, storable: Storable) -> bool {
    media.kind == "audio"
        && media.port != 0
        && matches!(media.protocol.to_ascii_uppercase().as_str(), "RTP/AVP" | "RTP/AVPF")
        && media.formats.iter().any(|format| can_store(format, storable))
}

/// Why nothing of an offer can be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unstorable {
    /// There is no audio in it.
    NoAudio,
    /// Its audio is under SRTP, which is not recorded: what cannot be decrypted must not be accepted.
    Secured,
    /// No codec that can be stored.
    Codecs,
}

/// Why [`plan`] found nothing in an offer.
pub fn why_unstorable(offer: &Sdp) -> Unstorable {
    let audio: Vec<&Media> = offer.media.iter().filter(|media| media.kind == "audio" && media.port != 0).collect();
    if audio.is_empty() {
        Unstorable::NoAudio
    } else if audio.iter().all(|media| media.protocol.to_ascii_uppercase().contains("SAVP")) {
        Unstorable::Secured
    } else {
        Unstorable::Codecs
    }
}

/// The streams of an offer that are recorded.
pub fn plan(offer: &Sdp, storable: Storable) -> Vec<StreamSpec> {
    offer
        .media
        .iter()
        .enumerate()
        .filter(|(_, media)| is_recordable(media, storable))
        .take(MAX_STREAMS)
        .map(|(index, media)| stream(index, media, storable))
        .collect()
}

fn stream(index: usize, media: &Media, storable: Storable) -> StreamSpec {
    let keep = |format: &&Format| can_store(format, storable) || is_event(format) || is_noise(format);
    StreamSpec {
        index,
        label: media.label.clone(),
        formats: media.formats.iter().filter(keep).cloned().collect(),
        remote_rtp: media.rtp_address(),
        remote_rtcp: media.rtcp_address(),
        rtcp_mux: media.rtcp_mux,
        active: media.is_sending(),
    }
}

/// Our answer m-line by m-line: the first codec of the offer's order that can be
/// stored, telephone-event and comfort noise kept.
pub fn answer(offer: &Sdp, streams: &[StreamSpec], assigned: &[AssignedStream], storable: Storable) -> Vec<MediaAnswer> {
    let one = |(index, media): (usize, &Media)| {
        let taken = streams.iter().any(|stream| stream.index == index);
        let address = assigned.iter().find(|stream| stream.index == index).map(|stream| stream.address);
        match address.filter(|_| taken) {
            Some(address) => MediaAnswer::Accept(accept(media, address, storable)),
            None => MediaAnswer::Refuse,
        }
    };
    offer.media.iter().enumerate().map(one).collect()
}

fn accept(media: &Media, address: SocketAddr, storable: Storable) -> AcceptedMedia {
    let chosen = media.formats.iter().find(|format| can_store(format, storable));
    let clock = chosen.map_or(8_000, |format| format.clock_rate);
    let extra = |format: &&Format| {
        (is_event(format) && (format.clock_rate == clock || clock != 48_000)) || (is_noise(format) && clock == 8_000)
    };
    let formats = chosen.into_iter().chain(media.formats.iter().filter(extra)).cloned().collect();
    // Hold is answered inactive, never sendrecv: at least one source hangs up on that.
    let direction = match media.direction {
        Direction::SendRecv | Direction::SendOnly => Direction::RecvOnly,
        Direction::RecvOnly | Direction::Inactive => Direction::Inactive,
    };
    AcceptedMedia { address, formats, direction }
}

/// What we offer to an INVITE without an offer: everything that can be stored.
pub fn own_formats(storable: Storable) -> Vec<Format> {
    let all = [
        (0, "PCMU", 8_000, 1, None),
        (8, "PCMA", 8_000, 1, None),
        (9, "G722", 8_000, 1, None),
        (96, "opus", 48_000, 2, None),
        (97, "L16", 16_000, 1, None),
        (101, "telephone-event", 8_000, 1, Some("0-15")),
    ];
    all.into_iter()
        .filter(|(_, name, rate, channels, _)| *name == "telephone-event" || storable(name, *rate, *channels))
        .map(|(payload_type, name, clock_rate, channels, fmtp)| Format {
            payload_type,
            name: name.to_owned(),
            clock_rate,
            channels,
            fmtp: fmtp.map(str::to_owned),
        })
        .collect()
}

/// Our offer inside a session, to an INVITE without one: the m-lines that stand,
/// their formats first and with their numbers, and everything else that can be
/// stored. Never `inactive`: the peer may want to resume.
pub fn again(last: &Sdp, storable: Storable) -> Vec<MediaAnswer> {
    let line = |media: &Media| match media.rtp_address() {
        Some(address) => MediaAnswer::Accept(AcceptedMedia {
            address,
            formats: widen(&media.formats, storable),
            direction: Direction::RecvOnly,
        }),
        None => MediaAnswer::Refuse,
    };
    last.media.iter().map(line).collect()
}

/// Adds what else can be stored under numbers that are still free.
fn widen(formats: &[Format], storable: Storable) -> Vec<Format> {
    let mut all = formats.to_vec();
    for mut format in own_formats(storable) {
        let same = |have: &Format| have.name.eq_ignore_ascii_case(&format.name) && have.clock_rate == format.clock_rate;
        if all.iter().any(same) {
            continue;
        }
        let is_free = |number: &u8| all.iter().all(|have| have.payload_type != *number);
        if let Some(number) = std::iter::once(format.payload_type).chain(96..=127).find(is_free) {
            format.payload_type = number;
            all.push(format);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    fn storable(name: &str, _: u32, _: u8) -> bool {
        ["pcmu", "pcma", "opus"].contains(&name.to_ascii_lowercase().as_str())
    }

    fn offer(lines: &str) -> Sdp {
        let text = format!("v=0\r\no=- 1 1 IN IP4 198.51.100.7\r\nc=IN IP4 198.51.100.7\r\n{lines}");
        Sdp::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_first_storable_codec_is_answered_and_all_are_listened_for() {
        let offer = offer("m=audio 6000 RTP/AVP 18 8 0 13 101\r\na=rtpmap:101 telephone-event/8000\r\na=label:1\r\n");
        let streams = plan(&offer, storable);
        let numbers = |formats: &[Format]| formats.iter().map(|format| format.payload_type).collect::<Vec<_>>();
        assert_eq!(numbers(&streams[0].formats), [8, 0, 13, 101]);
        let assigned = [AssignedStream { index: 0, address: "192.0.2.10:40000".parse().unwrap() }];
        let [MediaAnswer::Accept(accepted)] = &answer(&offer, &streams, &assigned, storable)[..] else { panic!() };
        assert_eq!(numbers(&accepted.formats), [8, 13, 101]);
        assert_eq!(accepted.direction, Direction::RecvOnly);
    }

    #[test]
    fn video_srtp_unknown_codecs_and_removed_lines_are_refused() {
        let offer = offer(
            "m=video 6000 RTP/AVP 31\r\nm=audio 6002 RTP/SAVP 0\r\nm=audio 6004 RTP/AVP 18\r\nm=audio 0 RTP/AVP 0\r\n\
             m=audio 6006 RTP/AVP 0\r\na=inactive\r\n",
        );
        let streams = plan(&offer, storable);
        assert_eq!(streams.iter().map(|stream| (stream.index, stream.active)).collect::<Vec<_>>(), [(4, false)]);
        let assigned = [AssignedStream { index: 4, address: "192.0.2.10:40000".parse().unwrap() }];
        let answers = answer(&offer, &streams, &assigned, storable);
        assert_eq!(answers.iter().filter(|answer| **answer == MediaAnswer::Refuse).count(), 4);
        assert!(matches!(&answers[4], MediaAnswer::Accept(media) if media.direction == Direction::Inactive));
    }

    #[test]
    fn at_most_eight_streams_are_taken() {
        let offer = offer(&"m=audio 6000 RTP/AVP 0\r\n".repeat(12));
        assert_eq!(plan(&offer, storable).len(), MAX_STREAMS);
    }

    #[test]
    fn an_offer_of_ours_keeps_lines_and_numbers_and_never_holds() {
        let last = offer("m=audio 40000 RTP/AVP 0 96\r\na=rtpmap:96 telephone-event/8000\r\na=inactive\r\nm=video 0 RTP/AVP 31\r\n");
        let [MediaAnswer::Accept(audio), MediaAnswer::Refuse] = &again(&last, storable)[..] else { panic!() };
        assert_eq!(audio.direction, Direction::RecvOnly);
        let formats: Vec<(u8, &str)> = audio.formats.iter().map(|format| (format.payload_type, format.name.as_str())).collect();
        assert_eq!(formats, [(0, "PCMU"), (96, "telephone-event"), (8, "PCMA"), (97, "opus")]);
    }

    #[test]
    fn why_nothing_is_recorded_is_told_apart() {
        assert_eq!(why_unstorable(&offer("m=audio 6002 RTP/SAVP 0\r\n")), Unstorable::Secured);
        assert_eq!(why_unstorable(&offer("m=audio 6002 RTP/AVP 18\r\n")), Unstorable::Codecs);
        assert_eq!(why_unstorable(&offer("m=video 6002 RTP/AVP 31\r\nm=audio 0 RTP/AVP 0\r\n")), Unstorable::NoAudio);
    }
}
