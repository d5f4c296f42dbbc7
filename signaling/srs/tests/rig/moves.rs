//! What tests ask of calls whose media move.

use std::time::Duration;

use ferric_sip::Message;
use ferric_srs::SrsEvent;
use ferric_srs::port::{Command, ReleaseCause};

use super::{Rig, SDP};

pub const SECOND: Duration = Duration::from_secs(1);
pub const UPDATE: &[(&str, &str)] = &[("Allow", "INVITE, UPDATE")];
pub const TIMER: &[(&str, &str)] =
    &[("Allow", "INVITE"), ("Supported", "timer"), ("Session-Expires", "1800;refresher=uas")];

/// A recorded call; nothing is left to look at.
pub fn recorded(headers: &[(&str, &str)]) -> Rig {
    let mut rig = Rig::new();
    rig.recorded(headers, SDP);
    rig.sent.clear();
    rig.events.clear();
    rig
}

/// Where a description has the peer send.
pub fn sockets(message: &Message) -> Vec<String> {
    let sdp = ferric_sip::sdp::Sdp::parse(message.body()).unwrap();
    sdp.media.iter().filter_map(|media| media.rtp_address().map(|address| address.to_string())).collect()
}

pub fn version(message: &Message) -> u64 {
    let text = String::from_utf8_lossy(message.body()).into_owned();
    text.split_whitespace().nth(3).unwrap().parse().unwrap()
}

/// From which part to which the recordings moved, and after how long.
pub fn moved(rig: &Rig) -> Vec<(u32, u32, u64)> {
    let moved = |event: &SrsEvent| match event {
        SrsEvent::Moved { from_part, to_part, lost_ms, .. } => Some((*from_part, *to_part, *lost_ms)),
        _ => None,
    };
    rig.events.iter().filter_map(moved).collect()
}

pub fn refused(rig: &Rig) -> Vec<(u32, u16)> {
    let refused = |event: &SrsEvent| match event {
        SrsEvent::MoveRefused { part, status, .. } => Some((*part, *status)),
        _ => None,
    };
    rig.events.iter().filter_map(refused).collect()
}

pub fn changes(rig: &Rig) -> usize {
    rig.commands.iter().filter(|command| matches!(command, Command::Change { .. })).count()
}

/// The call goes on and ends as any other.
pub fn ends_well(rig: &mut Rig) {
    rig.sent.clear();
    let before = rig.released().len();
    assert_eq!(rig.ask("BYE", &[], "").status(), Some(200), "{}", rig.trace);
    assert_eq!(rig.released()[before..], [ReleaseCause::Bye], "{}", rig.trace);
    rig.wait(40 * SECOND);
    assert_eq!((rig.srs.sessions(), rig.srs.recordings(), rig.srs.transactions()), (0, 0, 0));
    assert_eq!(rig.srs.poll_timeout(), None, "no timer is left");
}
