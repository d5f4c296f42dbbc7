//! What we take of an offer, and the answer (RFC 3264, RFC 7866 7.2).

use std::net::SocketAddr;

use ferric_sip::flow::{Flow, Transport};
use ferric_sip::sdp::{AcceptedMedia, CryptoAttribute, Direction, Format, Media, MediaAnswer, Sdp};
use rand::Rng;

use crate::port::{AssignedStream, StreamKeys, StreamSpec};

/// Streams of one session that are recorded; further m-lines are refused.
pub const MAX_STREAMS: usize = 8;

/// What it costs to decode a format, relative to G.711; `None` for what cannot be stored.
pub type Storable = fn(&Format) -> Option<u32>;

/// Decoding that costs more than this is avoided where the offer leaves a choice.
const DEAR: u32 = 20;

/// An SRTP suite (RFC 4568 6.2, RFC 6188, RFC 7714) and the length of its key and salt in bytes.
pub type Suite = (&'static str, usize);

/// What may be recorded.
#[derive(Debug, Clone)]
pub struct MediaPolicy {
    /// What capture decodes.
    pub storable: Storable,
    /// What capture decrypts.
    pub suites: &'static [Suite],
    /// Tenants whose media must be encrypted.
    pub srtp_required: Vec<String>,
    /// SRTP keys are taken over SIP that is not encrypted.
    pub sdes_without_tls: bool,
}

/// [`MediaPolicy`] for one call.
#[derive(Debug, Clone, Copy)]
pub struct CallPolicy {
    storable: Storable,
    suites: &'static [Suite],
    /// RTP in clear is recorded.
    clear: bool,
    /// Keys may be taken from the description.
    keys: bool,
}

impl MediaPolicy {
    /// What counts for the calls of a tenant that come over a flow.
    pub fn for_call(&self, tenant: &str, flow: &Flow) -> CallPolicy {
        CallPolicy {
            storable: self.storable,
            suites: self.suites,
            clear: !self.srtp_required.iter().any(|required| required == tenant),
            keys: self.sdes_without_tls || flow.transport == Transport::Tls,
        }
    }
}

fn is_event(format: &Format) -> bool {
    format.name.eq_ignore_ascii_case("telephone-event")
}

fn is_noise(format: &Format) -> bool {
    format.name.eq_ignore_ascii_case("CN")
}

fn can_store(format: &Format, storable: Storable) -> bool {
    !is_noise(format) && storable(format).is_some()
}

fn is_secured(media: &Media) -> bool {
    media.protocol.to_ascii_uppercase().contains("SAVP")
}

/// True for an audio m-line that is offered, whatever its codecs.
fn is_audio(media: &Media) -> bool {
    media.kind == "audio" && media.port != 0
}

/// True when the transport of an m-line can be recorded: RTP in clear, or SRTP with keys that can be used.
fn is_receivable(media: &Media, policy: &CallPolicy) -> bool {
    match media.protocol.to_ascii_uppercase().as_str() {
        "RTP/AVP" | "RTP/AVPF" => policy.clear,
        "RTP/SAVP" | "RTP/SAVPF" => policy.keys && usable_key(media, policy).is_some(),
        _ => false,
    }
}

/// The first of the offered keys whose suite is known (RFC 4568 5.1.2: they stand in order of preference).
fn usable_key(media: &Media, policy: &CallPolicy) -> Option<CryptoAttribute> {
    let fits = |key: &CryptoAttribute| {
        let length =
            policy.suites.iter().find(|(name, _)| key.suite.eq_ignore_ascii_case(name)).map(|(_, length)| *length);
        length.is_some_and(|length| !key.keys.is_empty() && key.keys.iter().all(|key| key.key_salt.len() == length))
    };
    media.crypto_attributes().into_iter().find(fits)
}

/// Why nothing of an offer can be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unstorable {
    /// There is no audio in it.
    NoAudio,
    /// Its audio is under SRTP, and the keys came over SIP that anybody can read.
    KeysInClear,
    /// Its audio is under SRTP without a key that we can use.
    Secured,
    /// Its audio is in clear, and the tenant wants SRTP.
    Clear,
    /// No codec that can be stored.
    Codecs,
}

/// Why [`plan`] found nothing in an offer.
pub fn why_unstorable(offer: &Sdp, policy: &CallPolicy) -> Unstorable {
    let audio: Vec<&Media> = offer.media.iter().filter(|media| is_audio(media)).collect();
    if audio.is_empty() {
        Unstorable::NoAudio
    } else if audio.iter().any(|media| is_receivable(media, policy)) {
        Unstorable::Codecs
    } else if audio.iter().all(|media| !is_secured(media)) {
        Unstorable::Clear
    } else if !policy.keys {
        Unstorable::KeysInClear
    } else {
        Unstorable::Secured
    }
}

/// The streams of an offer that are recorded; `before` are those that stood, whose keys of ours stay.
pub fn plan(offer: &Sdp, policy: &CallPolicy, rng: &mut impl Rng, before: &[StreamSpec]) -> Vec<StreamSpec> {
    let recordable = |media: &Media| {
        is_audio(media)
            && is_receivable(media, policy)
            && media.formats.iter().any(|format| can_store(format, policy.storable))
    };
    offer
        .media
        .iter()
        .enumerate()
        .filter(|(_, media)| recordable(media))
        .take(MAX_STREAMS)
        .map(|(index, media)| stream(index, media, policy, rng, before))
        .collect()
}

fn stream(index: usize, media: &Media, policy: &CallPolicy, rng: &mut impl Rng, before: &[StreamSpec]) -> StreamSpec {
    let keep = |format: &&Format| can_store(format, policy.storable) || is_event(format) || is_noise(format);
    let theirs = usable_key(media, policy).filter(|_| is_secured(media));
    let stood = before.iter().find(|stream| stream.index == index).and_then(|stream| stream.keys.as_ref());
    StreamSpec {
        index,
        channel: 0,
        label: media.label.clone(),
        formats: media.formats.iter().filter(keep).cloned().collect(),
        remote_rtp: media.rtp_address(),
        remote_rtcp: media.rtcp_address(),
        rtcp_mux: media.rtcp_mux,
        active: media.is_sending(),
        keys: theirs.map(|theirs| keys(theirs, stood, rng)),
    }
}

/// Our key for an answer: of the same suite and under the same tag; it stays while the suite does.
fn keys(theirs: CryptoAttribute, stood: Option<&StreamKeys>, rng: &mut impl Rng) -> StreamKeys {
    let ours = match stood.filter(|stood| stood.ours.suite == theirs.suite) {
        Some(stood) => CryptoAttribute { tag: theirs.tag, ..stood.ours.clone() },
        None => {
            let length = theirs.keys.first().map_or(30, |key| key.key_salt.len());
            let mut key_salt = vec![0; length];
            rng.fill_bytes(&mut key_salt);
            CryptoAttribute::new(theirs.tag, &theirs.suite, key_salt)
        }
    };
    StreamKeys { theirs, ours }
}

/// Our answer m-line by m-line: the first codec of the offer's order that can be stored,
/// telephone-event and comfort noise kept. A codec that is dear to decode comes
/// second where the offer has another.
pub fn answer(
    offer: &Sdp,
    streams: &[StreamSpec],
    assigned: &[AssignedStream],
    policy: &MediaPolicy,
) -> Vec<MediaAnswer> {
    let one = |(index, media): (usize, &Media)| {
        let taken = streams.iter().find(|stream| stream.index == index);
        let address = assigned.iter().find(|stream| stream.index == index).map(|stream| stream.address);
        match (address, taken) {
            (Some(address), Some(stream)) => {
                let crypto = stream.keys.as_ref().map(|keys| keys.ours.clone());
                MediaAnswer::Accept(accept(media, address, crypto, policy.storable))
            }
            _ => MediaAnswer::Refuse,
        }
    };
    offer.media.iter().enumerate().map(one).collect()
}

/// The codecs of an answer: the first that can be stored, behind the first cheap one.
fn chosen(media: &Media, storable: Storable) -> Vec<&Format> {
    let mut audio = media.formats.iter().filter(|format| can_store(format, storable));
    let cheap = |format: &&Format| storable(format).is_some_and(|cost| cost <= DEAR);
    let Some(first) = audio.next() else { return Vec::new() };
    match audio.find(cheap).filter(|_| !cheap(&first)) {
        Some(cheaper) => vec![cheaper, first],
        None => vec![first],
    }
}

fn accept(media: &Media, address: SocketAddr, crypto: Option<CryptoAttribute>, storable: Storable) -> AcceptedMedia {
    let chosen = chosen(media, storable);
    let clock = chosen.first().map_or(8_000, |format| format.clock_rate);
    let extra = |format: &&Format| {
        (is_event(format) && (format.clock_rate == clock || clock != 48_000)) || (is_noise(format) && clock == 8_000)
    };
    let formats = chosen.into_iter().chain(media.formats.iter().filter(extra)).cloned().collect();
    // Hold is answered inactive, never sendrecv: at least one source hangs up on that.
    let direction = match media.direction {
        Direction::SendRecv | Direction::SendOnly => Direction::RecvOnly,
        Direction::RecvOnly | Direction::Inactive => Direction::Inactive,
    };
    AcceptedMedia { address, formats, direction, crypto }
}

/// What we offer to an INVITE without an offer: everything that can be stored.
pub fn own_formats(policy: &MediaPolicy) -> Vec<Format> {
    let all = [
        (0, "PCMU", 8_000, 1, None),
        (8, "PCMA", 8_000, 1, None),
        (9, "G722", 8_000, 1, None),
        (18, "G729", 8_000, 1, Some("annexb=yes")),
        (96, "opus", 48_000, 2, None),
        (97, "L16", 16_000, 1, None),
        (98, "iLBC", 8_000, 1, Some("mode=20")),
        (3, "GSM", 8_000, 1, None),
        (99, "G726-32", 8_000, 1, None),
        (100, "AMR-WB", 16_000, 1, Some("octet-align=1")),
        (102, "AMR", 8_000, 1, Some("octet-align=1")),
        (101, "telephone-event", 8_000, 1, Some("0-15")),
    ];
    all.into_iter()
        .map(|(payload_type, name, clock_rate, channels, fmtp)| Format {
            payload_type,
            name: name.to_owned(),
            clock_rate,
            channels,
            fmtp: fmtp.map(str::to_owned),
        })
        .filter(|format| is_event(format) || can_store(format, policy.storable))
        .collect()
}

/// Our offer inside a session, to an INVITE without one: the m-lines that stand,
/// their formats first and with their numbers, and everything else that can be
/// stored. Never `inactive`: the peer may want to resume.
pub fn again(last: &Sdp, policy: &MediaPolicy) -> Vec<MediaAnswer> {
    let line = |media: &Media| match media.rtp_address() {
        Some(address) => MediaAnswer::Accept(AcceptedMedia {
            address,
            formats: widen(&media.formats, policy),
            direction: Direction::RecvOnly,
            crypto: media.crypto_attributes().into_iter().next(),
        }),
        None => MediaAnswer::Refuse,
    };
    last.media.iter().map(line).collect()
}

/// Our offer when nothing but our sockets changed: the m-lines as they stand.
pub fn as_it_stands(last: &Sdp) -> Vec<MediaAnswer> {
    let line = |media: &Media| match media.rtp_address() {
        Some(address) => MediaAnswer::Accept(AcceptedMedia {
            address,
            formats: media.formats.clone(),
            direction: media.direction,
            crypto: media.crypto_attributes().into_iter().next(),
        }),
        None => MediaAnswer::Refuse,
    };
    last.media.iter().map(line).collect()
}

/// Puts the sockets that count now into a description of ours; lines that were `stopped` are refused.
pub fn relocate(last: &mut Sdp, assigned: &[AssignedStream], stopped: &[usize]) {
    for (index, media) in last.media.iter_mut().enumerate().filter(|(_, media)| media.port != 0) {
        if stopped.contains(&index) {
            media.port = 0;
        } else if let Some(stream) = assigned.iter().find(|stream| stream.index == index) {
            media.address = Some(stream.address.ip());
            media.port = stream.address.port();
        }
    }
}

/// The streams after the peer's answer to an offer of ours, which need not repeat labels.
pub fn answered(answer: &Sdp, policy: &CallPolicy, rng: &mut impl Rng, before: &[StreamSpec]) -> Vec<StreamSpec> {
    let mut streams = plan(answer, policy, rng, before);
    for stream in &mut streams {
        let stood = before.iter().find(|stood| stood.index == stream.index);
        stream.label = stream.label.take().or_else(|| stood?.label.clone());
    }
    streams
}

/// Adds what else can be stored under numbers that are still free.
fn widen(formats: &[Format], policy: &MediaPolicy) -> Vec<Format> {
    let mut all = formats.to_vec();
    for mut format in own_formats(policy) {
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
    use rand::SeedableRng;

    fn storable(format: &Format) -> Option<u32> {
        let costs = [("pcmu", 1), ("pcma", 1), ("opus", 15), ("ilbc", 60)];
        costs.into_iter().find(|(name, _)| format.name.eq_ignore_ascii_case(name)).map(|(_, cost)| cost)
    }

    fn policy() -> MediaPolicy {
        MediaPolicy {
            storable,
            suites: &[("AES_CM_128_HMAC_SHA1_80", 30), ("AEAD_AES_128_GCM", 28)],
            srtp_required: vec!["strict".to_owned()],
            sdes_without_tls: false,
        }
    }

    fn call(tenant: &str, transport: Transport) -> CallPolicy {
        let local = "192.0.2.10:5061".parse().unwrap();
        policy()
            .for_call(tenant, &Flow { transport, local, remote: "198.51.100.7:5061".parse().unwrap(), connection: 1 })
    }

    fn planned(offer: &Sdp, policy: &CallPolicy) -> Vec<StreamSpec> {
        plan(offer, policy, &mut rand::rngs::StdRng::seed_from_u64(1), &[])
    }

    fn offer(lines: &str) -> Sdp {
        let text = format!("v=0\r\no=- 1 1 IN IP4 198.51.100.7\r\nc=IN IP4 198.51.100.7\r\n{lines}");
        Sdp::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_first_storable_codec_is_answered_and_all_are_listened_for() {
        let offer = offer("m=audio 6000 RTP/AVP 18 8 0 13 101\r\na=rtpmap:101 telephone-event/8000\r\na=label:1\r\n");
        let streams = planned(&offer, &call("acme", Transport::Udp));
        let numbers = |formats: &[Format]| formats.iter().map(|format| format.payload_type).collect::<Vec<_>>();
        assert_eq!(numbers(&streams[0].formats), [8, 0, 13, 101]);
        let assigned = [AssignedStream { index: 0, address: "192.0.2.10:40000".parse().unwrap() }];
        let [MediaAnswer::Accept(accepted)] = &answer(&offer, &streams, &assigned, &policy())[..] else { panic!() };
        assert_eq!(numbers(&accepted.formats), [8, 13, 101]);
        assert_eq!(accepted.direction, Direction::RecvOnly);
    }

    #[test]
    fn video_srtp_unknown_codecs_and_removed_lines_are_refused() {
        let offer = offer(
            "m=video 6000 RTP/AVP 31\r\nm=audio 6002 RTP/SAVP 0\r\nm=audio 6004 RTP/AVP 18\r\nm=audio 0 RTP/AVP 0\r\n\
             m=audio 6006 RTP/AVP 0\r\na=inactive\r\n",
        );
        let streams = planned(&offer, &call("acme", Transport::Udp));
        assert_eq!(streams.iter().map(|stream| (stream.index, stream.active)).collect::<Vec<_>>(), [(4, false)]);
        let assigned = [AssignedStream { index: 4, address: "192.0.2.10:40000".parse().unwrap() }];
        let answers = answer(&offer, &streams, &assigned, &policy());
        assert_eq!(answers.iter().filter(|answer| **answer == MediaAnswer::Refuse).count(), 4);
        assert!(matches!(&answers[4], MediaAnswer::Accept(media) if media.direction == Direction::Inactive));
    }

    #[test]
    fn at_most_eight_streams_are_taken() {
        let offer = offer(&"m=audio 6000 RTP/AVP 0\r\n".repeat(12));
        assert_eq!(planned(&offer, &call("acme", Transport::Udp)).len(), MAX_STREAMS);
    }

    #[test]
    fn an_offer_of_ours_keeps_lines_and_numbers_and_never_holds() {
        let last = offer(
            "m=audio 40000 RTP/AVP 0 96\r\na=rtpmap:96 telephone-event/8000\r\na=inactive\r\nm=video 0 RTP/AVP 31\r\n",
        );
        let [MediaAnswer::Accept(audio), MediaAnswer::Refuse] = &again(&last, &policy())[..] else { panic!() };
        assert_eq!(audio.direction, Direction::RecvOnly);
        let formats: Vec<(u8, &str)> =
            audio.formats.iter().map(|format| (format.payload_type, format.name.as_str())).collect();
        assert_eq!(formats, [(0, "PCMU"), (96, "telephone-event"), (8, "PCMA"), (97, "opus"), (98, "iLBC")]);
    }

    #[test]
    fn why_nothing_is_recorded_is_told_apart() {
        let why = |lines: &str, tenant: &str, transport| why_unstorable(&offer(lines), &call(tenant, transport));
        let key =
            format!("m=audio 6002 RTP/SAVP 18\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{}\r\n", "A".repeat(40));
        assert_eq!(why(&key, "acme", Transport::Udp), Unstorable::KeysInClear);
        assert_eq!(why(&key, "acme", Transport::Tls), Unstorable::Codecs);
        assert_eq!(why("m=audio 6002 RTP/SAVP 0\r\n", "acme", Transport::Tls), Unstorable::Secured);
        assert_eq!(why("m=audio 6002 RTP/AVP 0\r\n", "strict", Transport::Tls), Unstorable::Clear);
        assert_eq!(why("m=audio 6002 RTP/AVP 18\r\n", "acme", Transport::Udp), Unstorable::Codecs);
        assert_eq!(
            why("m=video 6002 RTP/AVP 31\r\nm=audio 0 RTP/AVP 0\r\n", "acme", Transport::Udp),
            Unstorable::NoAudio
        );
    }

    #[test]
    fn keys_are_taken_over_tls_and_ours_stays_while_the_suite_does() {
        let line = |tag: u32, suite: &str, key: &str| {
            offer(&format!(
                "m=audio 6002 RTP/SAVP 0\r\na=crypto:1 F8_128_HMAC_SHA1_80 inline:{key}\r\na=crypto:{tag} {suite} inline:{key}\r\n"
            ))
        };
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let policy = call("strict", Transport::Tls);
        let first = plan(&line(2, "AES_CM_128_HMAC_SHA1_80", &"A".repeat(40)), &policy, &mut rng, &[]);
        let keys = first[0].keys.clone().unwrap();
        assert_eq!((keys.theirs.tag, keys.ours.tag, keys.ours.keys[0].key_salt.len()), (2, 2, 30));
        let rekeyed = plan(&line(3, "AES_CM_128_HMAC_SHA1_80", &"B".repeat(40)), &policy, &mut rng, &first);
        let again = rekeyed[0].keys.clone().unwrap();
        assert_eq!((again.ours.tag, &again.ours.keys), (3, &keys.ours.keys));
        assert_ne!(again.theirs, keys.theirs);
        let assigned = [AssignedStream { index: 0, address: "192.0.2.10:40000".parse().unwrap() }];
        let offer = line(2, "AES_CM_128_HMAC_SHA1_80", &"A".repeat(40));
        let [MediaAnswer::Accept(accepted)] = &answer(&offer, &first, &assigned, &super::tests::policy())[..] else {
            panic!()
        };
        assert_eq!(accepted.crypto.as_ref(), Some(&keys.ours));
    }

    #[test]
    fn a_dear_codec_stands_behind_a_cheap_one() {
        let numbers = |lines: &str| {
            let offer = offer(lines);
            chosen(&offer.media[0], storable).iter().map(|format| format.payload_type).collect::<Vec<_>>()
        };
        assert_eq!(numbers("m=audio 6000 RTP/AVP 97 8 0\r\na=rtpmap:97 iLBC/8000\r\n"), [8, 97]);
        assert_eq!(numbers("m=audio 6000 RTP/AVP 97 18\r\na=rtpmap:97 iLBC/8000\r\n"), [97]);
        assert_eq!(numbers("m=audio 6000 RTP/AVP 8 97\r\na=rtpmap:97 iLBC/8000\r\n"), [8]);
    }
}
