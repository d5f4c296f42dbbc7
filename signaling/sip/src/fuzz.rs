//! Bodies of the fuzz targets: whatever bytes come, nothing panics, and what is
//! promised of every input holds. `make fuzz` explores, the tests replay the corpus.

use bytes::Bytes;

use crate::framing::StreamFramer;
use crate::message::Message;
use crate::sdp::{CryptoAttribute, Sdp};
use crate::siprec::{Metadata, read_body};
use crate::validate::validate_request;

/// A datagram: what is parsed leaves as it came, and every accessor bears it.
pub fn message(data: &[u8]) {
    match Message::parse(Bytes::copy_from_slice(data)) {
        Ok(message) => {
            let bytes = message.to_bytes();
            assert!(data.starts_with(&bytes) || bytes.len() <= data.len(), "an unedited message does not grow");
            let _ = (message.from(), message.to(), message.cseq(), message.contacts(), message.top_via());
            let _ = (message.content_type(), message.values("Via"), message.values("Require"));
            let _ = read_body(&message);
            if message.is_request() && validate_request(&message).is_ok() {
                let mut response = Message::response(&message, 200, None);
                response.set_to_tag("t");
                assert!(Message::parse(response.to_bytes()).is_ok(), "an answer to a valid request can be read");
            }
        }
        Err(error) => {
            let _ = error.answer();
        }
    }
    let mut framer = StreamFramer::new(65_535);
    for part in data.chunks(97) {
        framer.push(part);
        loop {
            match framer.next_frame() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// A session description.
pub fn sdp(data: &[u8]) {
    if let Ok(sdp) = Sdp::parse(data) {
        for media in &sdp.media {
            let _ = (media.rtp_address(), media.rtcp_address(), media.is_sending());
            for line in media.crypto_attributes() {
                let again = CryptoAttribute::parse(&line.to_string());
                assert!(
                    again.is_ok_and(|again| again.keys.len() == line.keys.len()),
                    "a key that was read can be written"
                );
            }
        }
    }
}

/// Two metadata documents after each other: what is kept stays bounded.
pub fn metadata(data: &[u8]) {
    let middle = data.len() / 2;
    let (first, second) = data.split_at(middle);
    let (mut known, _) = Metadata::parse(data);
    for part in [first, second, data] {
        known.apply(Metadata::parse(part).0);
    }
    assert!(known.participants.len() <= 512 && known.streams.len() <= 512 && known.extensions.len() <= 256);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::disallowed_methods)]
    use super::*;

    fn replay(target: &str, body: fn(&[u8])) {
        let folder = format!("{}/../../testdata/fuzz/{target}", env!("CARGO_MANIFEST_DIR"));
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            body(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count >= 3, "{count} inputs for {target}");
    }

    #[test]
    fn the_corpus_of_messages_does_no_harm() {
        replay("message", message);
    }

    #[test]
    fn the_corpus_of_descriptions_does_no_harm() {
        replay("sdp", sdp);
    }

    #[test]
    fn the_corpus_of_metadata_does_no_harm() {
        replay("metadata", metadata);
    }
}
