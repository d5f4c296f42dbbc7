//! The locator and its DNS client against a real server: UDP, TCP, and what happens when it fails.
//!
//! Nothing here depends on how fast the machine is: what must be there at once is asked for without waiting, all else is
//! waited for as long as it takes, up to a limit that only a fault reaches.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod real;

use std::time::Duration;

use ferric_locate::{Located, LocatorConfig};
use real::{Rig, Server};

/// Records that run out after a second, the least that counts.
const SHORT: &str = "
    example.com 1 NAPTR 10 10 s SIP+D2T _sip._tcp.example.com.
    _sip._tcp.example.com 1 SRV 1 50 5070 a.example.com
    _sip._tcp.example.com 1 SRV 2 50 5070 b.example.com
    a.example.com 1 A 192.0.2.1
    b.example.com 1 A 192.0.2.2
";
const HOPS: &str = "TCP 192.0.2.1:5070, TCP 192.0.2.2:5070";
const URI: &str = "sip:example.com";

/// Known, pinned, and asked for again all the time.
async fn known(server: &Server) -> Rig {
    let mut rig = Rig::new(&[server]);
    rig.locator.pin("example.com");
    assert_eq!(rig.found(URI).await, HOPS);
    rig
}

/// Runs until something is so; at every moment on the way memory has the answer.
async fn served_until(rig: &mut Rig, what: &str, mut is_so: impl FnMut(&mut Rig) -> bool) {
    rig.until(what, |rig| {
        assert_eq!(rig.at_once(URI), HOPS, "{what}");
        is_so(rig)
    })
    .await;
}

#[tokio::test]
async fn the_first_look_up_goes_all_the_way() {
    let mut server = Server::start(SHORT);
    server.tell("add www.example.com 60 CNAME b.example.com");
    server.tell("add a.example.com 60 AAAA 2001:db8::1");
    let config = LocatorConfig { ipv6: true, ..LocatorConfig::default() };
    let mut rig = Rig::with(&[&server], config, Duration::from_secs(5));
    assert_eq!(rig.found("sip:Example.COM.").await, "TCP [2001:db8::1]:5070, TCP 192.0.2.1:5070, TCP 192.0.2.2:5070");
    assert_eq!(rig.found("sip:www.example.com:5080").await, "UDP 192.0.2.2:5080");
    assert_eq!(rig.found("sip:nobody.example.com:5080").await, "failed: the name does not exist");
    assert_eq!(rig.found("sip:_sip._tcp.example.com:5080").await, "failed: the name has no such records");
    assert_eq!(server.count("NAPTR"), 1);
}

#[tokio::test]
async fn answers_are_renewed_ahead_of_their_end_and_changes_arrive() {
    let mut server = Server::start(SHORT);
    let mut rig = known(&server).await;
    server.tell("forget");
    let asked = rig.locator.stats().queries;
    served_until(&mut rig, "ten more questions", |rig| rig.locator.stats().queries >= asked + 10).await;
    assert!(server.count("SRV") >= 1 && server.count("A") >= 1);
    assert_eq!(rig.locator.stats().failures, 0);
    let pinned = rig.locator.pinned_generation();
    server.tell("replace a.example.com 1 A 192.0.2.9");
    rig.until("the new address", |rig| rig.at_once(URI).starts_with("TCP 192.0.2.9:5070")).await;
    assert!(rig.locator.pinned_generation() > pinned);
}

#[tokio::test]
async fn a_server_that_was_stopped_costs_nothing() {
    let mut server = Server::start(SHORT);
    let mut rig = known(&server).await;
    server.tell("stop");
    served_until(&mut rig, "questions fail", |rig| rig.locator.stats().failures >= 8 && rig.locator.is_silent()).await;
    let Located::Ready(hops) = rig.locate(URI) else { panic!("not at once") };
    assert!(hops.iter().all(|hop| hop.ttl_left.is_zero()), "long past its TTL");
    // A name that was never known fails and says why.
    assert_eq!(rig.found("sip:other.example:5060").await, "failed: no DNS server answered");
    server.tell("start");
    server.tell("replace a.example.com 1 A 192.0.2.9");
    rig.until("the new address", |rig| rig.at_once(URI).starts_with("TCP 192.0.2.9:5070")).await;
    assert!(!rig.locator.is_silent());
}

#[tokio::test]
async fn a_server_that_needs_five_seconds_costs_nothing() {
    let mut server = Server::start(SHORT);
    let mut rig = known(&server).await;
    server.tell("mode slow delay=5");
    served_until(&mut rig, "questions are given up", |rig| rig.locator.stats().failures >= 3).await;
    assert_eq!(rig.found("sip:other.example:5060").await, "failed: no DNS server answered");
}

#[tokio::test]
async fn a_slow_answer_that_is_waited_for_is_taken() {
    let mut server = Server::start(SHORT);
    server.tell("mode slow delay=1.5");
    let mut rig = Rig::with(&[&server], LocatorConfig::default(), Duration::from_secs(20));
    // The first who asks for an address waits two seconds at most; whoever asks later has the answer at once.
    rig.found("sip:a.example.com:5070").await;
    rig.until("the address", |rig| rig.at_once("sip:a.example.com:5070") == "UDP 192.0.2.1:5070").await;
    assert_eq!(rig.locator.stats().failures, 0);
}

#[tokio::test]
async fn servfail_refused_and_nonsense_cost_nothing() {
    let mut server = Server::start(SHORT);
    let mut rig = known(&server).await;
    for mode in ["servfail", "refused", "garbage", "silent"] {
        server.tell(&format!("mode {mode}"));
        let before = rig.locator.stats().failures;
        served_until(&mut rig, mode, |rig| rig.locator.stats().failures >= before + 3).await;
    }
    server.tell("mode ok");
    let Located::Ready(hops) = rig.locate(URI) else { panic!("not at once") };
    assert_eq!(hops.len(), 2);
    rig.until(
        "fresh again",
        |rig| matches!(rig.locate(URI), Located::Ready(hops) if !hops.iter().any(|hop| hop.ttl_left.is_zero())),
    )
    .await;
}

#[tokio::test]
async fn a_name_that_vanishes_for_a_moment_stays() {
    let mut server = Server::start(SHORT);
    let config = LocatorConfig { distrust_retry: Duration::from_secs(1), ..LocatorConfig::default() };
    let mut rig = Rig::with(&[&server], config, Duration::from_millis(500));
    rig.locator.pin("example.com");
    assert_eq!(rig.found(URI).await, HOPS);
    for mode in ["nxdomain", "nodata"] {
        server.tell(&format!("mode {mode}"));
        let before = rig.locator.stats().distrusted;
        served_until(&mut rig, mode, |rig| rig.locator.stats().distrusted >= before + 5).await;
        server.tell("mode ok");
        rig.until(
            "fresh again",
            |rig| matches!(rig.locate(URI), Located::Ready(hops) if !hops.iter().any(|hop| hop.ttl_left.is_zero())),
        )
        .await;
    }
}

#[tokio::test]
async fn a_name_that_vanishes_for_good_is_gone_in_the_end() {
    let mut server = Server::start(SHORT);
    let config = LocatorConfig {
        distrust: Duration::from_secs(1),
        distrust_retry: Duration::from_secs(1),
        ..LocatorConfig::default()
    };
    let mut rig = Rig::with(&[&server], config, Duration::from_secs(5));
    rig.locator.pin("a.example.com");
    assert_eq!(rig.found("sip:a.example.com:5070").await, "UDP 192.0.2.1:5070");
    server.tell("clear");
    rig.until("it is gone", |rig| rig.at_once("sip:a.example.com:5070") == "failed: the name does not exist").await;
}

#[tokio::test]
async fn what_does_not_fit_into_a_datagram_comes_by_tcp() {
    let mut server = Server::start("");
    for host in 0..120 {
        server.tell(&format!(
            "add _sip._udp.large.example 60 SRV {host} 1 5060 a-host-with-a-rather-long-name-{host}.large.example"
        ));
        server.tell(&format!("add a-host-with-a-rather-long-name-{host}.large.example 60 A 192.0.2.{host}"));
    }
    let mut rig = Rig::with(&[&server], LocatorConfig::default(), Duration::from_secs(5));
    let found = rig.found("sip:large.example;transport=udp").await;
    assert_eq!(found.split(", ").count(), 120, "{found}");
    assert!(server.count("SRV") >= 2, "by UDP first, then by TCP");
}

#[tokio::test]
async fn an_empty_answer_that_says_it_is_truncated_is_asked_for_again_by_tcp() {
    let mut server = Server::start(SHORT);
    server.tell("mode truncate");
    let mut rig = Rig::with(&[&server], LocatorConfig::default(), Duration::from_secs(5));
    assert_eq!(rig.found(URI).await, HOPS);
}

#[tokio::test]
async fn one_silent_server_of_two_holds_nobody_up() {
    let (mut silent, other) = (Server::start(SHORT), Server::start(SHORT));
    silent.tell("mode silent");
    for servers in [[&silent, &other], [&other, &silent]] {
        // A time-out would outlast the two seconds that anyone waits.
        let mut rig = Rig::with(&servers, LocatorConfig::default(), Duration::from_secs(20));
        assert_eq!(rig.found(URI).await, HOPS);
    }
}

#[tokio::test]
async fn one_wrong_server_of_two_is_not_believed() {
    let (mut wrong, right) = (Server::start(SHORT), Server::start(SHORT));
    for mode in ["servfail", "refused", "nxdomain", "nodata", "garbage", "stop"] {
        wrong.tell(if mode == "stop" { "stop".to_owned() } else { format!("mode {mode}") }.as_str());
        for servers in [[&wrong, &right], [&right, &wrong]] {
            let mut rig = Rig::with(&servers, LocatorConfig::default(), Duration::from_secs(20));
            assert_eq!(rig.found(URI).await, HOPS, "{mode}");
        }
    }
}

#[tokio::test]
async fn a_denial_is_taken_although_another_server_is_silent() {
    let (right, mut silent) = (Server::start("host.example 60 A 192.0.2.7"), Server::start(""));
    silent.tell("mode silent");
    // NAPTR and SRV of three transports are denied, one after the other, before the address counts.
    let mut rig = Rig::with(&[&silent, &right], LocatorConfig::default(), Duration::from_secs(20));
    assert_eq!(rig.found("sip:host.example").await, "UDP 192.0.2.7:5060");
}

#[tokio::test]
async fn more_servers_than_are_asked_at_once() {
    let mut servers: Vec<Server> = (0..6).map(|_| Server::start("")).collect();
    for server in &mut servers {
        server.tell("mode servfail");
    }
    // The last shares with the second.
    if let Some(last) = servers.last_mut() {
        last.tell("mode ok");
        last.tell("add host.example 60 A 192.0.2.7");
    }
    servers[1].tell("stop");
    let mut rig = Rig::with(&servers.iter().collect::<Vec<_>>(), LocatorConfig::default(), Duration::from_secs(5));
    assert_eq!(rig.found("sip:host.example:5060").await, "UDP 192.0.2.7:5060");
}
