//! Whole calls between a recording client and the server over a link that loses,
//! delays and reorders: whatever happens, both sides come to the same end and
//! nothing is left open.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    missing_docs
)]

#[path = "scenarios/client.rs"]
mod client;
#[path = "scenarios/server.rs"]
mod server;

use std::time::Duration;

use client::{CLIENT, Client};
use ferric_simnet::{LinkProfile, Pair, sip_label};
use ferric_srs::port::ReleaseCause;
use server::{SERVER, Server};

type Call = Pair<Client, Server>;

const SECOND: Duration = Duration::from_secs(1);

fn call(profile: LinkProfile, seed: u64) -> Call {
    let mut pair =
        Pair::new((Client::new(seed), CLIENT), (Server::new(seed), SERVER), profile, seed).named("src", "srs");
    pair.b.begin(pair.now());
    pair
}

/// A call that is recorded.
fn recorded(allow: &str, headers: &[(&str, &str)]) -> Call {
    let mut pair = call(LinkProfile::default(), 1);
    let now = pair.now();
    pair.a.allow = allow.to_owned();
    pair.a.invite(now, headers);
    pair.run_for(SECOND);
    assert_eq!(pair.b.srs.sessions(), 1);
    pair
}

/// At rest, nothing may be left: no session, no transaction, no recording without its end.
fn assert_closed(pair: &mut Call) {
    pair.run_to_rest();
    assert_eq!((pair.b.srs.sessions(), pair.b.srs.transactions(), pair.a.transactions()), (0, 0, 0));
    assert_eq!(pair.b.assigned, pair.b.released.len());
}

#[test]
fn a_call_as_it_should_be() {
    let mut pair = recorded("UPDATE", &[]);
    let now = pair.now();
    pair.a.bye(now);
    assert_closed(&mut pair);
    insta::assert_snapshot!(pair.ladder, @r"
                src                               srs 
        0.000    |------------ INVITE 1 --------->|
        0.010    |<------- 200 INVITE 1 ----------|
        0.020    |------------- ACK 1 ----------->|
        1.000    |------------- BYE 2 ----------->|
        1.010    |<-------- 200 BYE 2 ------------|
    ");
    assert_eq!(pair.b.released, [ReleaseCause::Bye]);
}

#[test]
fn over_a_link_that_loses_a_third_every_call_ends_well_on_both_sides() {
    let mut well = 0;
    for seed in 0..300 {
        let trouble = LinkProfile { duplicate: 0.05, reorder: 0.1, ..LinkProfile::lossy(0.3) };
        let mut pair = call(trouble, seed);
        let now = pair.now();
        pair.a.invite(now, &[]);
        pair.run_for(40 * SECOND);
        let now = pair.now();
        pair.a.bye(now);
        assert_closed(&mut pair);
        assert!(pair.b.assigned <= 1, "seed {seed}: one INVITE is one recording");
        well += usize::from(pair.b.released == [ReleaseCause::Bye]);
    }
    // What may happen at this loss, and does in one call of some hundreds: all of seven INVITEs or eleven BYEs lost.
    assert!(well >= 295, "{well} of 300");
}

#[test]
fn a_lost_ack_has_the_200_come_again() {
    let mut pair = call(LinkProfile::default(), 1);
    pair.link.lose_first(2, |packet| packet.bytes.starts_with(b"ACK"));
    let now = pair.now();
    pair.a.invite(now, &[]);
    pair.run_for(5 * SECOND);
    insta::assert_snapshot!(pair.ladder, @r"
                src                               srs 
        0.000    |------------ INVITE 1 --------->|
        0.010    |<------- 200 INVITE 1 ----------|
        0.020    |---------- ACK 1 -----------x   |
        0.510    |<------- 200 INVITE 1 ----------|
        0.520    |---------- ACK 1 -----------x   |
        1.510    |<------- 200 INVITE 1 ----------|
        1.520    |------------- ACK 1 ----------->|
    ");
    assert_eq!(pair.b.srs.sessions(), 1);
}

#[test]
fn without_any_ack_the_recording_is_closed_and_kept() {
    let mut pair = call(LinkProfile::default(), 1);
    pair.link.lose_if(|packet| packet.bytes.starts_with(b"ACK"));
    let now = pair.now();
    pair.a.invite(now, &[]);
    pair.run_for(33 * SECOND);
    assert_eq!(pair.b.released, [ReleaseCause::NoAck]);
    assert_eq!(pair.ladder.labels(false).iter().filter(|label| **label == "200 INVITE 1").count(), 11);
    assert!(pair.a.log.contains(&"BYE".to_owned()), "the client is told");
    assert_closed(&mut pair);
}

#[test]
fn a_lost_bye_and_a_lost_answer_to_it_change_nothing() {
    let mut pair = recorded("UPDATE", &[]);
    pair.link.lose_first(2, |packet| packet.bytes.starts_with(b"BYE"));
    pair.link.lose_first(1, |packet| sip_label(&packet.bytes) == "200 BYE 2");
    let now = pair.now();
    pair.a.bye(now);
    assert_closed(&mut pair);
    assert_eq!(pair.b.released, [ReleaseCause::Bye]);
    assert_eq!(pair.a.log.last().map(String::as_str), Some("200 BYE"));
}

#[test]
fn a_cancel_in_time_leaves_no_recording_open() {
    let mut pair = call(LinkProfile::default(), 1);
    pair.b.capture_takes = SECOND;
    let now = pair.now();
    pair.a.invite(now, &[]);
    pair.run_for(SECOND / 2);
    let now = pair.now();
    pair.a.cancel(now);
    assert_closed(&mut pair);
    assert_eq!(pair.b.released, [ReleaseCause::Cancelled]);
    insta::assert_snapshot!(pair.ladder, @r"
                src                               srs 
        0.000    |------------ INVITE 1 --------->|
        0.210    |<------- 100 INVITE 1 ----------|
        0.500    |------------ CANCEL 1 --------->|
        0.510    |<------- 200 CANCEL 1 ----------|
        0.510    |<------- 487 INVITE 1 ----------|
        0.520    |------------- ACK 1 ----------->|
    ");
}

#[test]
fn a_cancel_that_meets_the_200_ends_in_a_bye() {
    let mut pair = call(LinkProfile::default(), 1);
    pair.b.capture_takes = Duration::from_millis(505);
    let now = pair.now();
    pair.a.invite(now, &[]);
    pair.run_for(Duration::from_millis(508));
    let now = pair.now();
    pair.a.cancel(now);
    assert_closed(&mut pair);
    assert_eq!(pair.b.released, [ReleaseCause::Bye]);
    assert_eq!(pair.a.log, ["100 INVITE", "200 INVITE", "200 CANCEL", "200 BYE"]);
}

#[test]
fn crossing_reinvites_both_get_491_and_both_come_through_later() {
    let timer = [("Supported", "timer"), ("Session-Expires", "90;refresher=uas")];
    let mut pair = recorded("INVITE, ACK, BYE", &timer);
    // The server refreshes 45 s after its 200; the client's re-INVITE leaves at the same moment.
    let refresh = pair.clock.at(Duration::from_millis(45_010));
    pair.run_for(refresh - pair.now());
    let now = pair.now();
    pair.a.reinvite(now);
    pair.run_for(10 * SECOND);
    let from_client = pair.ladder.labels(true);
    let from_server = pair.ladder.labels(false);
    assert!(from_client.iter().any(|label| label.starts_with("491 INVITE")), "{}", pair.ladder);
    assert!(from_server.contains(&"491 INVITE 2"), "{}", pair.ladder);
    assert!(from_server.contains(&"200 INVITE 3"), "{}", pair.ladder);
    assert!(from_client.iter().filter(|label| label.starts_with("200 INVITE")).count() == 1, "{}", pair.ladder);
    assert_eq!(pair.b.srs.sessions(), 1);
    let now = pair.now();
    pair.a.bye(now);
    assert_closed(&mut pair);
}

#[test]
fn a_session_that_its_client_refreshes_no_more_ends() {
    let timer = [("Supported", "timer"), ("Session-Expires", "90;refresher=uac")];
    let mut pair = recorded("UPDATE", &timer);
    pair.run_for(88 * SECOND);
    assert!(pair.b.released.is_empty());
    pair.run_for(2 * SECOND);
    assert_eq!(pair.b.released, [ReleaseCause::SessionExpired]);
    assert!(pair.a.log.contains(&"BYE".to_owned()));
    assert_closed(&mut pair);
}

#[test]
fn as_refresher_the_server_keeps_the_session_alive() {
    let timer = [("Supported", "timer"), ("Session-Expires", "90;refresher=uas")];
    let mut pair = recorded("UPDATE", &timer);
    pair.run_for(600 * SECOND);
    assert_eq!(pair.b.srs.sessions(), 1);
    assert_eq!(pair.a.log.iter().filter(|line| *line == "UPDATE").count(), 13);
    let now = pair.now();
    pair.a.bye(now);
    assert_closed(&mut pair);
}

#[test]
fn a_client_that_died_without_a_word_is_found_out() {
    let mut pair = recorded("UPDATE", &[]);
    pair.a.is_dead = true;
    let now = pair.now();
    pair.b.media_silent(now);
    pair.run_for(31 * SECOND);
    assert!(pair.b.released.is_empty());
    pair.run_for(2 * SECOND);
    assert_eq!(pair.b.released, [ReleaseCause::PeerGone]);
    let probes = pair.ladder.labels(false).iter().filter(|label| label.starts_with("OPTIONS")).count();
    assert_eq!(probes, 11);
    assert_closed(&mut pair);
}

#[test]
fn a_client_that_is_only_silent_goes_on_being_recorded() {
    let mut pair = recorded("UPDATE", &[]);
    for _ in 0..3 {
        let now = pair.now();
        pair.b.media_silent(now);
        pair.run_for(60 * SECOND);
    }
    assert_eq!(pair.b.srs.sessions(), 1);
    assert_eq!(pair.a.log.iter().filter(|line| *line == "OPTIONS").count(), 3);
}

#[test]
fn a_client_that_lost_the_call_says_481_and_the_recording_is_closed() {
    let mut pair = recorded("UPDATE", &[]);
    pair.a.forget();
    let now = pair.now();
    pair.b.media_silent(now);
    assert_closed(&mut pair);
    assert_eq!(pair.b.released, [ReleaseCause::PeerGone]);
}

#[test]
fn a_lost_worker_costs_one_update() {
    let mut pair = recorded("UPDATE", &[]);
    let now = pair.now();
    pair.b.lose(now);
    pair.run_for(SECOND);
    assert_eq!((pair.a.sends_to, pair.b.moved), (Some(pair.b.socket()), 1));
    let now = pair.now();
    pair.a.bye(now);
    assert_closed(&mut pair);
    insta::assert_snapshot!(pair.ladder, @r"
                src                               srs 
        0.000    |------------ INVITE 1 --------->|
        0.010    |<------- 200 INVITE 1 ----------|
        0.020    |------------- ACK 1 ----------->|
        1.000    |<----- UPDATE 77772983 ---------|
        1.010    |------ 200 UPDATE 77772983 ---->|
        2.000    |------------- BYE 2 ----------->|
        2.010    |<-------- 200 BYE 2 ------------|
    ");
}

#[test]
fn a_lost_worker_costs_one_reinvite_where_there_is_no_update() {
    let mut pair = recorded("INVITE", &[]);
    pair.link.lose_first(2, |packet| packet.bytes.starts_with(b"INVITE"));
    let now = pair.now();
    pair.b.lose(now);
    pair.run_for(5 * SECOND);
    assert_eq!((pair.a.sends_to, pair.b.moved), (Some(pair.b.socket()), 1));
    let now = pair.now();
    pair.a.bye(now);
    assert_closed(&mut pair);
    insta::assert_snapshot!(pair.ladder, @r"
                src                               srs 
        0.000    |------------ INVITE 1 --------->|
        0.010    |<------- 200 INVITE 1 ----------|
        0.020    |------------- ACK 1 ----------->|
        1.000    |   x----- INVITE 77772983 ------|
        1.500    |   x----- INVITE 77772983 ------|
        2.500    |<----- INVITE 77772983 ---------|
        2.510    |------ 200 INVITE 77772983 ---->|
        2.520    |<------- ACK 77772983 ----------|
        6.000    |------------- BYE 2 ----------->|
        6.010    |<-------- 200 BYE 2 ------------|
    ");
}

#[test]
fn both_sides_change_the_session_when_the_worker_is_lost_and_both_come_through() {
    let mut pair = recorded("INVITE", &[]);
    let now = pair.now();
    pair.b.lose(now);
    pair.a.reinvite(now);
    pair.run_for(6 * SECOND);
    assert_eq!((pair.a.sends_to, pair.b.moved), (Some(pair.b.socket()), 1));
    let now = pair.now();
    pair.a.bye(now);
    assert_closed(&mut pair);
    insta::assert_snapshot!(pair.ladder, @r"
                src                               srs 
        0.000    |------------ INVITE 1 --------->|
        0.010    |<------- 200 INVITE 1 ----------|
        0.020    |------------- ACK 1 ----------->|
        1.000    |------------ INVITE 2 --------->|
        1.000    |<----- INVITE 77772983 ---------|
        1.010    |<------- 491 INVITE 2 ----------|
        1.010    |------ 491 INVITE 77772983 ---->|
        1.020    |------------- ACK 2 ----------->|
        1.020    |<------- ACK 77772983 ----------|
        2.480    |<----- INVITE 77772984 ---------|
        2.490    |------ 200 INVITE 77772984 ---->|
        2.500    |<------- ACK 77772984 ----------|
        4.020    |------------ INVITE 3 --------->|
        4.030    |<------- 200 INVITE 3 ----------|
        4.040    |------------- ACK 3 ----------->|
        7.000    |------------- BYE 4 ----------->|
        7.010    |<-------- 200 BYE 4 ------------|
    ");
}

#[test]
fn a_client_that_does_not_move_goes_on_when_the_worker_is_back() {
    let mut pair = recorded("UPDATE", &[]);
    pair.a.stays = true;
    let sent_to = pair.a.sends_to;
    let now = pair.now();
    pair.b.lose(now);
    pair.run_for(10 * SECOND);
    let now = pair.now();
    pair.b.give_back(now);
    pair.run_for(SECOND);
    assert_eq!((pair.a.sends_to, Some(pair.b.socket()), pair.b.moved), (sent_to, sent_to, 1));
    let now = pair.now();
    pair.a.bye(now);
    assert_closed(&mut pair);
    insta::assert_snapshot!(pair.ladder, @r"
                 src                               srs 
         0.000    |------------ INVITE 1 --------->|
         0.010    |<------- 200 INVITE 1 ----------|
         0.020    |------------- ACK 1 ----------->|
         1.000    |<----- UPDATE 77772983 ---------|
         1.010    |------ 488 UPDATE 77772983 ---->|
         1.020    |<----- INVITE 77772984 ---------|
         1.030    |------ 488 INVITE 77772984 ---->|
         1.040    |<------- ACK 77772984 ----------|
        12.000    |------------- BYE 2 ----------->|
        12.010    |<-------- 200 BYE 2 ------------|
    ");
}

#[test]
fn over_a_link_that_loses_a_third_the_media_move_all_the_same() {
    let mut there = 0;
    for seed in 0..300 {
        let trouble = LinkProfile { duplicate: 0.05, reorder: 0.1, ..LinkProfile::lossy(0.3) };
        let mut pair = call(trouble, seed);
        pair.a.allow = if seed % 2 == 0 { "UPDATE".to_owned() } else { String::new() };
        let now = pair.now();
        pair.a.invite(now, &[]);
        pair.run_for(20 * SECOND);
        for _ in 0..2 {
            let now = pair.now();
            pair.b.lose(now);
            // The second time, the first move may be under way.
            pair.run_for(Duration::from_millis(seed * 7));
        }
        pair.run_for(30 * SECOND);
        there += usize::from(pair.a.sends_to == Some(pair.b.socket()));
        let now = pair.now();
        pair.a.bye(now);
        assert_closed(&mut pair);
    }
    assert!(there >= 285, "{there} of 300");
}
