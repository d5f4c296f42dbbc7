//! The bundled conversation: what `ferric demo` and `ferric load` say.

use std::io::Cursor;

/// Samples a second of both parties.
pub const RATE: u32 = 16_000;

const AGENT: &[u8] = include_bytes!("../testdata/speech/agent.wav");
const CALLER: &[u8] = include_bytes!("../testdata/speech/caller.wav");

/// Caller and agent, mono at [`RATE`], of the same length.
pub fn conversation() -> [Vec<i16>; 2] {
    let mut parties = [CALLER, AGENT].map(|wav| {
        let reader = hound::WavReader::new(Cursor::new(wav));
        reader.map(|reader| reader.into_samples::<i16>().flatten().collect::<Vec<i16>>()).unwrap_or_default()
    });
    let longest = parties.iter().map(Vec::len).max().unwrap_or(0);
    parties.iter_mut().for_each(|party| party.resize(longest, 0));
    parties
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parties_speak_and_neither_all_the_time() {
        for party in conversation() {
            assert!(party.len() > 10 * RATE as usize);
            let loud = party.chunks(320).filter(|frame| ferric_codecs::level::dbfs(frame) > -45.0).count();
            let all = party.len() / 320;
            assert!(loud * 5 > all && loud * 10 < all * 9, "{loud} of {all} frames");
        }
    }
}
