//! Every message of RFC 4475 and RFC 5118 against what the RFCs ask for.
//!
//! The table below names the outcome of each file; the test also sees to it
//! that no file of the folder is left out.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use ferric_sip::message::{Message, ParseError};
use ferric_sip::validate::{validate_request, validate_require, validate_scheme};

#[derive(Debug, PartialEq)]
enum Outcome {
    /// Parses, passes validation and leaves byte for byte.
    Whole,
    /// As `Whole`, but octets behind Content-Length are cut off.
    Cut,
    /// Parses and leaves byte for byte; an element answers with this status.
    Refused(u16),
    /// Does not parse; the request is answered with this status.
    Answered(u16),
    /// Does not parse; nothing is sent.
    Dropped,
}
use Outcome::{Answered, Cut, Dropped, Refused, Whole};

const EXPECTED: &[(&str, Outcome)] = &[
    ("wsinv.dat", Whole),
    ("intmeth.dat", Whole),
    ("esc01.dat", Whole),
    ("escnull.dat", Whole),
    ("esc02.dat", Whole),
    ("lwsdisp.dat", Whole),
    ("longreq.dat", Whole),
    ("dblreq.dat", Cut),
    ("semiuri.dat", Whole),
    ("transports.dat", Whole),
    ("mpart01.dat", Whole),
    ("unreason.dat", Whole),
    ("noreason.dat", Whole),
    ("badinv01.dat", Refused(400)),
    ("clerr.dat", Answered(400)),
    ("ncl.dat", Answered(400)),
    ("scalar02.dat", Refused(400)),
    ("scalarlg.dat", Refused(0)),
    ("quotbal.dat", Refused(400)),
    ("ltgtruri.dat", Answered(400)),
    ("lwsruri.dat", Answered(400)),
    ("lwsstart.dat", Answered(400)),
    ("trws.dat", Whole),
    ("escruri.dat", Whole),
    ("baddate.dat", Whole),
    ("regbadct.dat", Refused(400)),
    ("badaspec.dat", Whole),
    ("baddn.dat", Answered(400)),
    ("baddn-term.dat", Whole),
    ("badvers.dat", Answered(505)),
    ("mismatch01.dat", Refused(400)),
    ("mismatch02.dat", Refused(400)),
    ("bigcode.dat", Dropped),
    ("badbranch.dat", Whole),
    // Without To, From and Call-ID no response can be built (RFC 4475 3.3.1 wants a 400 "if" one can).
    ("insuf.dat", Refused(400)),
    ("unkscm.dat", Refused(416)),
    ("novelsc.dat", Refused(416)),
    ("unksm2.dat", Whole),
    ("bext01.dat", Refused(420)),
    ("invut.dat", Whole),
    ("regaut01.dat", Whole),
    ("multi01.dat", Refused(400)),
    ("mcl01.dat", Answered(400)),
    ("bcast.dat", Whole),
    ("zeromf.dat", Whole),
    ("cparam01.dat", Whole),
    ("cparam02.dat", Whole),
    ("regescrt.dat", Whole),
    ("sdp01.dat", Whole),
    ("inv2543.dat", Whole),
    ("test.dat", Dropped),
    ("v6-ipv6-good.dat", Whole),
    ("v6-ipv6-bad.dat", Answered(400)),
    ("v6-port-ambiguous.dat", Whole),
    ("v6-port-unambiguous.dat", Whole),
    ("v6-via-received-param-with-delim.dat", Whole),
    ("v6-via-received-param-no-delim.dat", Whole),
    ("v6-ipv6-in-sdp.dat", Whole),
    ("v6-mult-ip-in-header.dat", Whole),
    ("v6-mult-ip-in-sdp.dat", Whole),
    ("v6-ipv4-mapped-ipv6.dat", Whole),
    ("v6-ipv6-bug-abnf-3-colons.dat", Whole),
    ("v6-ipv6-correct-abnf-2-colons.dat", Whole),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata/sip-torture")
}

fn load(name: &str) -> Bytes {
    Bytes::from(std::fs::read(folder().join(name)).unwrap())
}

fn refusal(message: &Message) -> Option<u16> {
    if !message.is_request() {
        // A response whose CSeq cannot be read is discarded.
        return message.cseq().is_err().then_some(0);
    }
    validate_request(message)
        .and_then(|()| validate_scheme(message))
        .and_then(|()| validate_require(message, &["siprec", "timer", "100rel"]))
        .err()
        .map(|reject| reject.status)
}

fn outcome(bytes: &Bytes) -> Outcome {
    match Message::parse(bytes.clone()) {
        Ok(message) => {
            let left = message.to_bytes();
            let cut = left.len() < bytes.len();
            assert_eq!(left, bytes[..left.len()], "an unedited message changed");
            match refusal(&message) {
                Some(status) => Refused(status),
                None if cut => Cut,
                None => Whole,
            }
        }
        Err(error) => match error.answer() {
            Some(answer) => {
                let again = Message::parse(answer.to_bytes()).unwrap();
                assert_eq!(again.status(), Some(error.status()));
                Answered(error.status())
            }
            None => Dropped,
        },
    }
}

#[test]
fn each_message_has_the_outcome_that_the_rfc_asks_for() {
    let wrong: Vec<String> = EXPECTED
        .iter()
        .filter_map(|(name, expected)| {
            let found = outcome(&load(name));
            (found != *expected).then(|| format!("{name}: expected {expected:?}, found {found:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_and_no_line_of_the_manifest_is_left_out() {
    let tested: BTreeSet<&str> = EXPECTED.iter().map(|(name, _)| *name).collect();
    let present: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".dat"))
        .collect();
    let manifest = std::fs::read_to_string(folder().join("MANIFEST.tsv")).unwrap();
    let listed: BTreeSet<String> =
        manifest.lines().skip(1).map(|line| line.split('\t').next().unwrap().to_owned()).collect();
    assert_eq!(present, listed);
    assert_eq!(tested, present.iter().map(String::as_str).collect());
    // What the manifest calls valid must parse, but for what only an application may refuse with 400.
    for line in manifest.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields[2].starts_with("valid") && !fields[4].ends_with("-> 400") || fields[0] == "insuf.dat" {
            assert!(Message::parse(load(fields[0])).is_ok(), "{}", fields[0]);
        }
    }
}

#[test]
fn values_that_the_rfc_points_at_are_read_right() {
    let parse = |name| Message::parse(load(name)).unwrap();
    let short = parse("wsinv.dat");
    assert_eq!(short.values("Via").len(), 3);
    assert_eq!(short.cseq().unwrap().number, 9);
    assert_eq!(short.to().unwrap().tag(), Some("1918181833n"));
    assert_eq!(parse("intmeth.dat").method().as_str(), "!interesting-Method0123456789_*+`.%indeed'~");
    assert_eq!(parse("unreason.dat").status(), Some(200));
    assert_eq!(parse("noreason.dat").reason().as_deref(), Some(""));
    assert_eq!(parse("v6-port-ambiguous.dat").request_uri().as_deref(), Some("sip:[2001:db8::10:5070]"));
    let received = parse("v6-via-received-param-with-delim.dat").top_via().unwrap().received();
    assert_eq!(received, parse("v6-via-received-param-no-delim.dat").top_via().unwrap().received());
    assert_eq!(received, Some("2001:db8::9:255".parse().unwrap()));
}

fn touch(message: &Message) {
    let _ =
        (message.top_via(), message.from(), message.to(), message.cseq(), message.contacts(), message.content_type());
    let _ = refusal(message);
    let mut edited = message.clone();
    edited.remove_top_via();
    edited.set_to_tag("t");
    edited.set_header("Route", "<sip:x>");
    let _ = edited.to_bytes();
    if message.is_request() {
        let _ = Message::response(message, 400, None).to_bytes();
    }
}

fn look(bytes: Bytes) {
    match Message::parse(bytes) {
        Ok(message) => touch(&message),
        Err(error) => drop::<(Option<Message>, ParseError)>((error.answer(), error)),
    }
}

#[test]
fn no_prefix_and_no_flipped_byte_panics() {
    for (name, _) in EXPECTED {
        let bytes = load(name);
        for end in 0..bytes.len() {
            look(bytes.slice(..end));
        }
        for at in 0..bytes.len().min(700) {
            for flip in [0x01, 0x20, 0x80] {
                let mut changed = bytes.to_vec();
                changed[at] ^= flip;
                look(Bytes::from(changed));
            }
        }
    }
}

/// `rsip` is another reading of the same RFC; where it can read a message, both agree.
#[test]
fn an_independent_parser_agrees_where_it_can_read_the_message() {
    let mut compared = 0;
    for (name, _) in EXPECTED {
        let bytes = load(name);
        let (Ok(ours), Ok(theirs)) = (Message::parse(bytes.clone()), rsip::SipMessage::try_from(&bytes[..])) else {
            continue;
        };
        use rsip::headers::untyped::UntypedHeader;
        use rsip::message::HasHeaders;
        let call_id = theirs.headers().iter().find_map(|header| match header {
            rsip::Header::CallId(id) => Some(id.value().to_owned()),
            _ => None,
        });
        if let Some(call_id) = call_id {
            assert_eq!(ours.call_id().as_deref(), Some(call_id.trim()), "{name}");
            compared += 1;
        }
        match &theirs {
            rsip::SipMessage::Request(request) => {
                assert_eq!(ours.method().as_str(), request.method.to_string(), "{name}")
            }
            rsip::SipMessage::Response(response) => {
                assert_eq!(ours.status(), Some(response.status_code.code()), "{name}")
            }
        }
    }
    assert!(compared >= 15, "only {compared} messages compared");
}
