//! The one table from what went wrong to a status code, a reason and the header
//! fields that go with it.

use ferric_sip::siprec::{ACCEPTED_TYPES, BodyError};
use ferric_sip::validate::Reject;

use crate::offer::Unstorable;
use crate::port::{RefuseReason, ReleaseCause};

/// Methods that an SRS serves.
pub const ALLOW: &str = "INVITE, ACK, BYE, CANCEL, OPTIONS, UPDATE, INFO, PRACK";
/// Seconds after which a refused SRC may try again.
const RETRY_AFTER: u32 = 30;

/// A body that cannot be used.
pub fn body(error: &BodyError) -> Reject {
    match error {
        BodyError::UnsupportedType(_) => Reject::new(415).with("Accept", ACCEPTED_TYPES),
        BodyError::Multipart(_) | BodyError::Sdp(_) | BodyError::SeveralSdp(_) | BodyError::LabelTwice(_) => {
            Reject::because(400, error.to_string())
        }
    }
}

/// Capture takes no call.
pub fn refused(reason: RefuseReason) -> Reject {
    let phrase = match reason {
        RefuseReason::Capacity => "Recording capacity reached",
        RefuseReason::SpoolFull => "Recording spool full",
        RefuseReason::NoPorts => "No RTP port free",
        RefuseReason::Draining => "Draining",
        RefuseReason::Broken | RefuseReason::NoWorker | RefuseReason::Other => "Recording unavailable",
    };
    Reject::because(503, phrase).with("Retry-After", RETRY_AFTER.to_string())
}

/// Capture does not take a change; the recording goes on as it was. Not 503: that
/// would tell the peer that this whole server is out of service.
pub fn change_refused(reason: RefuseReason) -> Reject {
    Reject::because(500, format!("The recording cannot be changed ({})", reason.as_str())).with("Retry-After", "5")
}

/// The call is over before its first INVITE, or a later one, was answered.
pub fn ended(cause: ReleaseCause, recorded: bool) -> Reject {
    match cause {
        ReleaseCause::CaptureFailed | ReleaseCause::Orphaned if !recorded => refused(RefuseReason::Broken),
        ReleaseCause::Stopped if !recorded => Reject::new(480),
        ReleaseCause::Bye
        | ReleaseCause::Cancelled
        | ReleaseCause::Stopped
        | ReleaseCause::SessionExpired
        | ReleaseCause::PeerGone
        | ReleaseCause::NoAck
        | ReleaseCause::TooLong
        | ReleaseCause::Superseded
        | ReleaseCause::SessionOver
        | ReleaseCause::NotMoved
        | ReleaseCause::Orphaned
        | ReleaseCause::Other
        | ReleaseCause::CaptureFailed => Reject::new(487),
    }
}

/// The same INVITE came by another way (RFC 3261 8.2.2.2).
pub fn merged() -> Reject {
    Reject::new(482)
}

/// No stream of the offer can be stored (warn-codes of RFC 3261 20.43).
pub fn nothing_storable(host: &str, why: Unstorable) -> Reject {
    let warning = match why {
        Unstorable::Secured => {
            "302 HOST \"Incompatible transport protocol: RTP/AVP, or RTP/SAVP with a=crypto, is recorded\""
        }
        Unstorable::KeysInClear => "302 HOST \"Incompatible transport protocol: SRTP keys are taken over TLS only\"",
        Unstorable::Clear => "302 HOST \"Incompatible transport protocol: this tenant's calls must come under SRTP\"",
        Unstorable::NoAudio => "304 HOST \"Media type not available: only audio is recorded\"",
        Unstorable::Codecs => "305 HOST \"Incompatible media format: no offered codec can be recorded\"",
    };
    Reject::new(488).with("Warning", warning.replacen("HOST", host, 1))
}

/// A method that is known but not served.
pub fn method_not_allowed() -> Reject {
    Reject::new(405).with("Allow", ALLOW)
}

/// Two offers at once.
pub fn glare(ours: bool, retry_after: u32) -> Reject {
    if ours {
        Reject::new(491)
    } else {
        Reject::because(500, "An earlier offer is not answered yet").with("Retry-After", retry_after.to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn each_refusal_tells_the_peer_what_to_do() {
        assert_eq!(body(&BodyError::UnsupportedType("a/b".into())).headers[0].0, "Accept");
        assert_eq!(refused(RefuseReason::Capacity).headers, [("Retry-After", "30".to_owned())]);
        assert!(nothing_storable("h", Unstorable::Codecs).headers[0].1.starts_with("305 h "));
        assert_eq!(method_not_allowed().headers[0].1, ALLOW);
        assert_eq!((glare(true, 1).status, glare(false, 1).status), (491, 500));
        assert_eq!(change_refused(RefuseReason::NoPorts).status, 500);
        assert_eq!(ended(ReleaseCause::CaptureFailed, false).status, 503);
        assert_eq!(ended(ReleaseCause::CaptureFailed, true).status, 487);
    }
}
