//! Inputs of the original, given to the copy's recorder.

use std::time::{Duration, Instant};

use super::{Control, Port, Replay};
use crate::recorder::Recorder;

/// A journal time in µs as an instant of a recorder whose timeline began at `base`.
pub fn moment(base: Instant, us: i64) -> Instant {
    let distance = Duration::from_micros(us.unsigned_abs());
    let moment = if us < 0 { base.checked_sub(distance) } else { base.checked_add(distance) };
    moment.unwrap_or(base)
}

/// Tells a recorder, whose timeline began at `base`, what the original was told. The end is left to the caller:
/// [`Control::Begin`], [`Control::Stop`] and [`Replay::Broken`] do nothing here.
pub fn play(recorder: &mut Recorder, base: Instant, input: &Replay) {
    match input {
        Replay::Datagram(datagram) => {
            let at = moment(base, datagram.arrival_us);
            match datagram.port {
                Port::Rtp => recorder.handle_rtp(at, datagram.stream, datagram.source, &datagram.bytes),
                Port::Rtcp => recorder.handle_rtcp(at, datagram.stream, datagram.source, &datagram.bytes),
            }
        }
        Replay::Advance(at_us) => recorder.advance(moment(base, *at_us)),
        Replay::Control(at_us, control) => {
            let at = moment(base, *at_us);
            match control {
                Control::Streams(streams) => recorder.update_streams(at, streams.0.clone()),
                Control::Session(session) => recorder.set_session((**session).clone()),
                Control::Pause { by } => {
                    recorder.pause(at, by.as_deref());
                }
                Control::Resume => {
                    recorder.resume(at);
                }
                Control::Tags(tags) => {
                    for (name, value) in tags {
                        recorder.add_tag(at, name, value);
                    }
                }
                Control::Begin(_) | Control::Stop { .. } => {}
            }
        }
        Replay::Broken(_) => {}
    }
}
