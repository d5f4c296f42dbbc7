//! The request for a complete metadata document that an SRS sends when it has
//! lost track (RFC 7866 9.2): in an UPDATE or re-INVITE to an SRC whose Accept
//! lists the type.

use std::fmt::Write;

/// The media type of the request.
pub const SNAPSHOT_REQUEST_TYPE: &str = "application/rs-metadata-request";

/// The body of the request; `reason` is for people.
pub fn write_snapshot_request(reason: &str) -> String {
    let mut out = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n\
         <requestsnapshot xmlns=\"urn:ietf:params:xml:ns:recording:1\">\r\n  <requestreason xml:lang=\"en\">",
    );
    for c in reason.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // Control characters have no place in XML 1.0.
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    let _ = write!(out, "</requestreason>\r\n</requestsnapshot>\r\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::siprec::xml;

    #[test]
    fn the_reason_arrives_whatever_is_in_it() {
        let body = write_snapshot_request("took over <node> & \"state\"\n");
        let (root, problem) = xml::read(body.as_bytes());
        assert_eq!(problem, None);
        let root = root.unwrap_or_default();
        assert_eq!(root.name, "requestsnapshot");
        assert_eq!(root.child_text("requestreason"), Some("took over <node> & \"state\""));
    }
}
