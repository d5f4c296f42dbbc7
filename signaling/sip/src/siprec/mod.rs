//! The bodies of SIPREC: multipart (RFC 2046) and recording metadata (RFC 7865, 7866).

mod metadata;
mod multipart;
mod snapshot;
mod xml;

pub use metadata::{Association, Metadata, MetadataError, Participant, SessionElement, StreamElement};
pub use multipart::{MAX_PARTS, MultipartError, Part, read_multipart, write_multipart};
pub use snapshot::{SNAPSHOT_REQUEST_TYPE, write_snapshot_request};

use bytes::Bytes;
use thiserror::Error;

use crate::header::ContentType;
use crate::message::Message;
use crate::sdp::{Sdp, SdpError};

/// The registered media type of recording metadata.
pub const METADATA_TYPE: &str = "application/rs-metadata+xml";
/// Media types that an SRS reads, for Accept.
pub const ACCEPTED_TYPES: &str =
    "application/sdp, application/rs-metadata+xml, application/rs-metadata, multipart/mixed";

/// A body that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BodyError {
    /// A media type that nobody here reads (415).
    #[error("the body is {0}, which is not read here")]
    UnsupportedType(String),
    /// Broken multipart (400).
    #[error(transparent)]
    Multipart(#[from] MultipartError),
    /// Broken SDP (400).
    #[error(transparent)]
    Sdp(#[from] SdpError),
    /// More than one session description (400).
    #[error("the body has {0} session descriptions, one is allowed")]
    SeveralSdp(usize),
    /// A label on two m-lines: the streams could not be told apart (400).
    #[error("label {0} stands on more than one m-line")]
    LabelTwice(String),
}

/// What a request brought along.
#[derive(Debug, Clone, Default)]
pub struct RecordingBody {
    /// The session description.
    pub sdp: Option<Sdp>,
    /// Metadata documents as they came.
    pub metadata: Vec<Bytes>,
    /// Media types of parts that were passed over.
    pub ignored: Vec<String>,
}

/// Reads the body of a request in any form that SRCs send: SDP alone, metadata
/// alone, or both as parts. Broken metadata never makes an error here.
///
/// # Errors
/// [`BodyError`] when the session description cannot be had.
pub fn read_body(message: &Message) -> Result<RecordingBody, BodyError> {
    let mut found = RecordingBody::default();
    let body = message.body();
    if body.is_empty() {
        return Ok(found);
    }
    let content_type = message.content_type().unwrap_or_else(|| ContentType::parse("application/sdp"));
    let mut descriptions = Vec::new();
    if content_type.essence.starts_with("multipart/") {
        for part in read_multipart(&content_type, body)? {
            sort(&part.content_type, part.body, &mut descriptions, &mut found);
        }
    } else if is_known(&content_type.essence, body) {
        sort(&content_type, body.clone(), &mut descriptions, &mut found);
    } else {
        return Err(BodyError::UnsupportedType(content_type.essence));
    }
    if descriptions.len() > 1 {
        return Err(BodyError::SeveralSdp(descriptions.len()));
    }
    if let Some(description) = descriptions.first() {
        let sdp = Sdp::parse(description)?;
        let mut labels: Vec<&str> =
            sdp.media.iter().filter(|media| media.port != 0).filter_map(|media| media.label.as_deref()).collect();
        labels.sort_unstable();
        if let Some(pair) = labels.windows(2).find(|pair| pair.first() == pair.get(1)) {
            return Err(BodyError::LabelTwice(pair.first().copied().unwrap_or("").to_owned()));
        }
        found.sdp = Some(sdp);
    }
    Ok(found)
}

fn is_metadata(essence: &str, body: &[u8]) -> bool {
    match essence {
        "application/rs-metadata+xml" | "application/rs-metadata" => true,
        _ if essence.ends_with("+xml") || essence.ends_with("/xml") => {
            let head = String::from_utf8_lossy(body.get(..body.len().min(512)).unwrap_or(body));
            head.contains("recording")
        }
        _ => false,
    }
}

fn is_known(essence: &str, body: &[u8]) -> bool {
    essence == "application/sdp" || is_metadata(essence, body)
}

fn sort(content_type: &ContentType, body: Bytes, descriptions: &mut Vec<Bytes>, found: &mut RecordingBody) {
    if content_type.essence == "application/sdp" {
        descriptions.push(body);
    } else if is_metadata(&content_type.essence, &body) {
        found.metadata.push(body);
    } else {
        found.ignored.push(content_type.essence.clone());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;
    use crate::method::Method;

    fn request(content_type: &str, body: &str) -> Message {
        let mut request = Message::request(&Method::Invite, "sip:srs@192.0.2.10");
        request.set_body(content_type, Bytes::from(body.to_owned()));
        request
    }

    const SDP: &str = "v=0\r\nc=IN IP4 198.51.100.7\r\nm=audio 6000 RTP/AVP 0\r\n";

    #[test]
    fn a_body_may_be_a_description_or_metadata_or_nothing() {
        let sdp = read_body(&request("Application/SDP", SDP)).unwrap();
        assert_eq!((sdp.sdp.unwrap().media.len(), sdp.metadata.len()), (1, 0));
        for media_type in [
            "application/rs-metadata+xml",
            "application/rs-metadata; charset=utf-8",
            "application/xml",
            "application/ +xml",
        ] {
            let metadata = read_body(&request(media_type, "<recording/>")).unwrap();
            assert_eq!((metadata.sdp.is_none(), metadata.metadata.len()), (true, 1), "{media_type}");
        }
        assert!(read_body(&request("a/b", "")).unwrap().sdp.is_none());
    }

    #[test]
    fn unknown_parts_are_passed_over_and_an_unknown_body_is_not() {
        let parts = [("application/gtd", "", &b"IAM,"[..]), ("application/sdp", "", SDP.as_bytes())];
        let text = String::from_utf8(write_multipart("b", &parts)).unwrap();
        let body = read_body(&request("multipart/mixed;boundary=b", &text)).unwrap();
        assert_eq!((body.sdp.is_some(), body.ignored), (true, vec!["application/gtd".to_owned()]));
        assert_eq!(
            read_body(&request("text/html", "<p/>")).unwrap_err(),
            BodyError::UnsupportedType("text/html".into())
        );
        assert!(matches!(read_body(&request("application/xml", "<html/>")), Err(BodyError::UnsupportedType(_))));
    }

    #[test]
    fn two_descriptions_or_one_label_for_two_streams_are_refused() {
        let twice = [("application/sdp", "", SDP.as_bytes()), ("application/sdp", "", SDP.as_bytes())];
        let text = String::from_utf8(write_multipart("b", &twice)).unwrap();
        assert_eq!(read_body(&request("multipart/mixed;boundary=b", &text)).unwrap_err(), BodyError::SeveralSdp(2));
        let line = "m=audio 6000 RTP/AVP 0\r\na=label:1\r\n";
        let labels = format!("v=0\r\n{line}{line}");
        assert_eq!(read_body(&request("application/sdp", &labels)).unwrap_err(), BodyError::LabelTwice("1".into()));
    }

    #[test]
    fn broken_metadata_is_no_error_here() {
        let body = read_body(&request("application/rs-metadata", "<recording><par")).unwrap();
        assert_eq!(body.metadata.len(), 1);
        assert!(Metadata::parse(&body.metadata[0]).1.is_some());
    }
}
