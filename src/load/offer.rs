//! The INVITE of a session recording client: who talks (RFC 7865), and the two
//! streams in which they are sent (RFC 7866 7.1).

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ferric_sip::sdp::Direction;
use ferric_sip::{Message, Method, Transport};
use rand::RngExt;
use rand::rngs::SmallRng;

use super::config::LoadCodec;

/// One of the two people of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Party {
    pub(super) name: String,
    pub(super) aor: String,
}

/// What identifies a call, on the wire and in its metadata.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) call_id: String,
    pub(super) from_tag: String,
    pub(super) parties: [Party; 2],
    group: String,
    session: String,
    participants: [String; 2],
    streams: [String; 2],
    sip_session: String,
    sdp_session: u32,
}

impl Identity {
    /// The identity of call `number` of a run.
    pub(super) fn new(number: usize, rng: &mut SmallRng) -> Identity {
        // Ids are base64 of 128 bits, as RFC 7865 6.10 has them.
        let mut id = || STANDARD.encode(rng.random::<[u8; 16]>());
        let (group, session) = (id(), id());
        let (participants, streams) = ([id(), id()], [id(), id()]);
        Identity {
            call_id: format!("{:016x}{:08x}-{number}@load", rng.random::<u64>(), rng.random::<u32>()),
            from_tag: format!("{:012x}", rng.random::<u64>() & 0xffff_ffff_ffff),
            parties: [
                Party {
                    name: format!("Caller {number}"),
                    aor: format!("sip:+1408555{:04}@example.com", number % 10_000),
                },
                Party { name: format!("Agent {number}"), aor: format!("sip:agent{number}@example.com") },
            ],
            group,
            session,
            participants,
            streams,
            sip_session: format!("{:032x}", rng.random::<u128>()),
            sdp_session: rng.random::<u32>() >> 1,
        }
    }

    /// Our half of the session description: two streams with labels 1 and 2.
    pub(super) fn sdp(
        &self,
        version: u32,
        address: IpAddr,
        ports: [u16; 2],
        codec: LoadCodec,
        directions: [Direction; 2],
    ) -> String {
        let family = if address.is_ipv4() { "IP4" } else { "IP6" };
        let mut sdp = format!(
            "v=0\r\no=load {} {version} IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\n",
            self.sdp_session
        );
        let payload_type = codec.payload_type();
        for (index, (port, direction)) in ports.into_iter().zip(directions).enumerate() {
            let _ = write!(
                sdp,
                "m=audio {port} RTP/AVP {payload_type}\r\na=rtpmap:{payload_type} {}\r\na=ptime:20\r\na=rtcp-mux\r\n\
                 a=rtcp:{port}\r\na=label:{}\r\na={}\r\n",
                codec.rtpmap(),
                index + 1,
                direction.as_str()
            );
        }
        sdp
    }

    /// The complete metadata of a two-party call that begins `now`.
    pub(super) fn metadata(&self, now: SystemTime) -> String {
        let time = rfc3339(now);
        let [first, second] = &self.participants;
        let [one, two] = &self.streams;
        let Identity { group, session, sip_session, .. } = self;
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\
             <recording xmlns=\"urn:ietf:params:xml:ns:recording:1\">\r\n\
             <datamode>complete</datamode>\r\n\
             <group group_id=\"{group}\"><associate-time>{time}</associate-time></group>\r\n\
             <session session_id=\"{session}\">\
             <sipSessionID>{sip_session};remote={}</sipSessionID>\
             <group-ref>{group}</group-ref><start-time>{time}</start-time></session>\r\n",
            "0".repeat(32),
        );
        for (id, party) in self.participants.iter().zip(&self.parties) {
            let _ = write!(
                xml,
                "<participant participant_id=\"{id}\"><nameID aor=\"{}\"><name xml:lang=\"en\">{}</name></nameID></participant>\r\n",
                escape(&party.aor),
                escape(&party.name),
            );
        }
        for (label, id) in (1..).zip(&self.streams) {
            let _ =
                write!(xml, "<stream stream_id=\"{id}\" session_id=\"{session}\"><label>{label}</label></stream>\r\n");
        }
        let _ = write!(
            xml,
            "<sessionrecordingassoc session_id=\"{session}\"><associate-time>{time}</associate-time></sessionrecordingassoc>\r\n"
        );
        for id in [first, second] {
            let _ = write!(
                xml,
                "<participantsessionassoc participant_id=\"{id}\" session_id=\"{session}\">\
                 <associate-time>{time}</associate-time></participantsessionassoc>\r\n"
            );
        }
        for (id, sends, receives) in [(first, one, two), (second, two, one)] {
            let _ = write!(
                xml,
                "<participantstreamassoc participant_id=\"{id}\"><send>{sends}</send><recv>{receives}</recv></participantstreamassoc>\r\n"
            );
        }
        xml.push_str("</recording>\r\n");
        xml
    }

    /// The INVITE, without Via.
    pub(super) fn invite(&self, uri: &str, contact: &str, sdp: &str, now: SystemTime) -> Message {
        let mut invite = Message::request(&Method::Invite, uri);
        invite.add_header("Max-Forwards", "70");
        invite.add_header("From", &format!("\"Ferric load\" <sip:src@example.com>;tag={}", self.from_tag));
        invite.add_header("To", &format!("<{uri}>"));
        invite.add_header("Call-ID", &self.call_id);
        invite.add_header("CSeq", "1 INVITE");
        invite.add_header("Contact", contact);
        invite.add_header("Require", "siprec");
        invite.add_header("Supported", "timer, replaces");
        invite.add_header("Session-Expires", "1800");
        invite.add_header("Min-SE", "90");
        invite.add_header("Accept", "application/sdp, application/rs-metadata-request");
        invite.add_header("Session-ID", &format!("{};remote={}", self.sip_session, "0".repeat(32)));
        invite.add_header("User-Agent", "ferric-load");
        let boundary = format!("part-{}", self.from_tag);
        let body = format!(
            "--{boundary}\r\nContent-Type: application/sdp\r\n\r\n{sdp}\r\n\
             --{boundary}\r\nContent-Type: application/rs-metadata+xml\r\nContent-Disposition: recording-session\r\n\r\n{}\r\n\
             --{boundary}--\r\n",
            self.metadata(now)
        );
        invite.set_body(&format!("multipart/mixed;boundary={boundary}"), Bytes::from(body));
        invite
    }
}

/// The Contact of a session recording client (RFC 7866 6.1.1).
pub(super) fn contact(local: SocketAddr, transport: Transport) -> String {
    let parameter = match transport {
        Transport::Udp => "",
        Transport::Tcp => ";transport=tcp",
        Transport::Tls => ";transport=tls",
    };
    format!("<sip:src@{local}{parameter}>;+sip.src")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

/// A time in UTC with milliseconds (RFC 3339), by the civil calendar.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Eras of 400 years that begin on 1 March, so that a leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use ferric_sip::sdp::Sdp;
    use rand::SeedableRng;

    fn identity() -> Identity {
        Identity::new(7, &mut SmallRng::seed_from_u64(3))
    }

    #[test]
    fn times_are_civil() {
        let at = |seconds| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_798_761_599), "2026-12-31T23:59:59.000Z");
    }

    #[test]
    fn the_streams_are_labelled_and_only_sent() {
        let text = identity().sdp(
            1,
            "192.0.2.7".parse().unwrap(),
            [6_000, 6_002],
            LoadCodec::Opus,
            [Direction::SendOnly, Direction::Inactive],
        );
        let sdp = Sdp::parse(text.as_bytes()).unwrap();
        let labels: Vec<_> = sdp.media.iter().map(|media| media.label.as_deref().unwrap()).collect();
        assert_eq!(labels, ["1", "2"]);
        assert_eq!(sdp.media[0].direction, Direction::SendOnly);
        assert_eq!(sdp.media[1].direction, Direction::Inactive);
        assert_eq!(sdp.media[0].formats[0].name, "opus");
        assert_eq!(sdp.media[1].rtcp_address(), Some("192.0.2.7:6002".parse().unwrap()));
    }

    #[test]
    fn the_metadata_ties_each_party_to_its_own_stream() {
        let identity = identity();
        let xml = identity.metadata(SystemTime::UNIX_EPOCH);
        let [first, second] = &identity.participants;
        let [one, two] = &identity.streams;
        assert!(xml.contains(&format!("participant_id=\"{first}\"><send>{one}</send><recv>{two}</recv>")));
        assert!(xml.contains(&format!("participant_id=\"{second}\"><send>{two}</send><recv>{one}</recv>")));
        assert!(xml.contains("<name xml:lang=\"en\">Caller 7</name>"));
        assert_eq!(xml.matches("<associate-time>1970-01-01T00:00:00.000Z</associate-time>").count(), 4);
    }

    #[test]
    fn the_invite_says_that_it_is_siprec_in_every_way_there_is() {
        let contact = contact("192.0.2.7:5070".parse().unwrap(), Transport::Tcp);
        let invite = identity().invite("sip:srs@192.0.2.10", &contact, "v=0\r\n", SystemTime::UNIX_EPOCH);
        let invite = Message::parse(invite.to_bytes()).unwrap();
        assert!(invite.has_option("Require", "siprec"));
        assert!(invite.contacts().unwrap()[0].params.has("+sip.src"));
        assert_eq!(invite.contacts().unwrap()[0].uri, "sip:src@192.0.2.7:5070;transport=tcp");
        let body = String::from_utf8(invite.body().to_vec()).unwrap();
        assert_eq!(body.matches(&format!("--part-{}", identity().from_tag)).count(), 3);
        assert!(body.contains("Content-Type: application/rs-metadata+xml\r\n"));
    }
}
