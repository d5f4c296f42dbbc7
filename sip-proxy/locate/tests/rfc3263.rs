//! RFC 3263 section 4, a test for each rule, with simulated DNS.
#![allow(clippy::unwrap_used, missing_docs)]

mod sim;

use std::collections::HashSet;
use std::time::Duration;

use ferric_locate::{DnsFailure, Kind, Located, LocatorConfig};
use ferric_sip::Transport;
use sim::{Dns, Sim, show};

/// The zone of the examples in RFC 3263 4.1 and 4.2.
const EXAMPLE: &str = "
    example.com 300 NAPTR 50 50 s SIPS+D2T _sips._tcp.example.com.
    example.com 300 NAPTR 90 50 s SIP+D2T _sip._tcp.example.com
    example.com 300 NAPTR 100 50 s SIP+D2U _sip._udp.example.com.
    _sips._tcp.example.com 300 SRV 0 1 5061 server1.example.com
    _sip._tcp.example.com 300 SRV 0 1 5060 server1.example.com
    _sip._tcp.example.com 300 SRV 1 2 5060 server2.example.com
    _sip._udp.example.com 300 SRV 0 1 5060 server1.example.com
    server1.example.com 300 A 192.0.2.1
    server2.example.com 300 A 192.0.2.2
";

fn config(transports: &[Transport]) -> LocatorConfig {
    LocatorConfig { transports: transports.to_vec(), ..LocatorConfig::default() }
}

fn sim(zone: &str) -> Sim {
    Sim::new(LocatorConfig::default(), zone)
}

#[test]
fn section_4_numeric_hosts_need_no_dns() {
    let mut sim = sim("");
    for (uri, hop) in [
        ("sip:192.0.2.1", "UDP 192.0.2.1:5060"),
        ("sip:a@192.0.2.1:5080;transport=tcp", "TCP 192.0.2.1:5080"),
        ("sip:[2001:db8::5]", "UDP [2001:db8::5]:5060"),
        ("sips:[2001:db8::5]", "TLS [2001:db8::5]:5061"),
    ] {
        assert_eq!(show(&sim.now(uri)), hop, "{uri}");
    }
    assert!(sim.locator.poll_query(sim.now).is_none());
}

#[test]
fn section_4_1_a_transport_that_is_given_is_used() {
    let mut sim = sim(EXAMPLE);
    assert_eq!(sim.locate("sip:example.com;transport=udp").0, "UDP 192.0.2.1:5060");
    assert_eq!(sim.asked, ["Srv _sip._udp.example.com", "A server1.example.com"]);
}

#[test]
fn section_4_1_without_a_transport_a_port_means_udp_or_tls() {
    let mut sim = sim("example.com 60 A 192.0.2.9");
    assert_eq!(sim.locate("sip:example.com:5070").0, "UDP 192.0.2.9:5070");
    assert_eq!(sim.locate("sips:example.com:5070").0, "TLS 192.0.2.9:5070");
    assert_eq!(sim.asked, ["A example.com"]);
}

#[test]
fn section_4_1_naptr_chooses_the_transport_among_those_we_have() {
    for (transports, hops) in [
        (vec![Transport::Udp, Transport::Tcp, Transport::Tls], "TLS 192.0.2.1:5061"),
        (vec![Transport::Udp, Transport::Tcp], "TCP 192.0.2.1:5060, TCP 192.0.2.2:5060"),
        (vec![Transport::Udp], "UDP 192.0.2.1:5060"),
    ] {
        let mut sim = Sim::new(config(&transports), EXAMPLE);
        assert_eq!(sim.locate("sip:example.com").0, hops);
    }
}

#[test]
fn section_4_1_a_sips_uri_takes_only_sips_services() {
    let mut sim = sim(EXAMPLE);
    assert_eq!(sim.locate("sips:example.com").0, "TLS 192.0.2.1:5061");
    assert_eq!(sim.asked, ["Naptr example.com", "Srv _sips._tcp.example.com", "A server1.example.com"]);
    // And goes nowhere without TLS.
    let mut sim = Sim::new(config(&[Transport::Udp, Transport::Tcp]), EXAMPLE);
    assert_eq!(sim.locate("sips:example.com").0, "failed: the URI's transport cannot be used");
}

#[test]
fn section_4_1_the_replacement_may_lie_in_another_domain() {
    let mut sim = sim("
        example.com 60 NAPTR 1 1 s SIP+D2U _sip._udp.carrier.example
        _sip._udp.carrier.example 60 SRV 1 1 5099 gw.carrier.example
        gw.carrier.example 60 A 192.0.2.7
    ");
    let Located::Wait(_) = sim.now("sips:other.example") else { panic!() };
    assert_eq!(sim.locate("sip:example.com").0, "UDP 192.0.2.7:5099");
    // The certificate is still the domain's own (RFC 5922 7.1).
    let Located::Ready(hops) = sim.now("sip:Example.COM.") else { panic!() };
    assert!(hops.iter().all(|hop| &*hop.host_name == "example.com"));
}

#[test]
fn section_4_1_without_naptr_each_transport_is_asked_for_by_srv() {
    let zone = EXAMPLE.lines().filter(|line| !line.contains("NAPTR")).collect::<Vec<_>>().join("\n");
    let mut sim = sim(&zone);
    assert_eq!(
        sim.locate("sip:example.com").0,
        "UDP 192.0.2.1:5060, TCP 192.0.2.1:5060, TCP 192.0.2.2:5060, TLS 192.0.2.1:5061"
    );
    let asked: HashSet<&str> = sim.asked.iter().map(String::as_str).collect();
    for name in ["Srv _sip._udp.example.com", "Srv _sip._tcp.example.com", "Srv _sips._tcp.example.com"] {
        assert!(asked.contains(name), "{asked:?}");
    }
    assert_eq!(sim.locate("sips:example.com").0, "TLS 192.0.2.1:5061");
}

#[test]
fn section_4_1_without_naptr_and_srv_the_default_is_udp_and_tls_for_sips() {
    let mut sim = sim("example.com 60 A 192.0.2.9");
    assert_eq!(sim.locate("sip:example.com").0, "UDP 192.0.2.9:5060");
    assert_eq!(sim.locate("sips:example.com").0, "TLS 192.0.2.9:5061");
    assert_eq!(sim.locate("sip:example.com;transport=tcp").0, "TCP 192.0.2.9:5060");
}

#[test]
fn section_4_1_naptr_rules_of_other_services_are_as_none() {
    let mut sim = sim("
        example.com 60 NAPTR 1 1 u E2U+sip _x.example.com
        example.com 60 A 192.0.2.9
    ");
    assert_eq!(sim.locate("sip:example.com").0, "UDP 192.0.2.9:5060");
}

#[test]
fn section_4_1_a_naptr_rule_without_srv_still_chooses_the_transport() {
    let mut sim = sim("
        example.com 60 NAPTR 1 1 s SIP+D2T _sip._tcp.example.com
        example.com 60 A 192.0.2.9
    ");
    assert_eq!(sim.locate("sip:example.com").0, "TCP 192.0.2.9:5060");
}

#[test]
fn section_4_2_a_port_means_addresses_only() {
    let mut sim = sim(&format!("{EXAMPLE}\nexample.com 60 A 192.0.2.9"));
    assert_eq!(sim.locate("sip:example.com:5060;transport=tcp").0, "TCP 192.0.2.9:5060");
    assert_eq!(sim.asked, ["A example.com"]);
}

#[test]
fn section_4_2_srv_priorities_are_tried_in_order_and_weights_shuffled() {
    let mut zone = String::new();
    for (priority, weight, host) in [(20, 1, 1), (10, 50, 2), (10, 50, 3), (10, 50, 4)] {
        zone +=
            &format!("_sip._udp.example.com 60 SRV {priority} {weight} 5060 h{host}\nh{host} 60 A 192.0.2.{host}\n");
    }
    let mut sim = sim(&zone);
    sim.locate("sip:example.com;transport=udp");
    let mut firsts = HashSet::new();
    for _ in 0..100 {
        let Located::Ready(hops) = sim.now("sip:example.com;transport=udp") else { panic!() };
        assert_eq!(hops.iter().map(|hop| hop.priority).collect::<Vec<_>>(), [10, 10, 10, 20]);
        assert_eq!(hops.last().unwrap().address.to_string(), "192.0.2.1:5060");
        firsts.insert(hops.first().unwrap().address);
    }
    assert_eq!(firsts.len(), 3);
}

#[test]
fn section_4_2_all_addresses_of_a_host_stand_together() {
    let mut sim = sim("
        _sip._udp.example.com 60 SRV 1 1 5060 a.example.com
        _sip._udp.example.com 60 SRV 2 1 5062 b.example.com
        a.example.com 60 A 192.0.2.1
        a.example.com 60 A 192.0.2.2
        b.example.com 60 A 192.0.2.3
    ");
    sim.locate("sip:example.com;transport=udp");
    let mut firsts = HashSet::new();
    for _ in 0..50 {
        let Located::Ready(hops) = sim.now("sip:example.com;transport=udp") else { panic!() };
        assert_eq!(hops.len(), 3);
        assert_eq!(hops.last().unwrap().address.port(), 5062);
        firsts.insert(hops.first().unwrap().address);
    }
    assert_eq!(firsts.len(), 2, "addresses of one host share the load");
}

#[test]
fn section_4_2_both_families_are_looked_up() {
    let zone = "
        example.com 60 A 192.0.2.1
        example.com 60 AAAA 2001:db8::1
    ";
    for (ipv6, ipv6_first, hops) in [
        (false, true, "UDP 192.0.2.1:5060"),
        (true, true, "UDP [2001:db8::1]:5060, UDP 192.0.2.1:5060"),
        (true, false, "UDP 192.0.2.1:5060, UDP [2001:db8::1]:5060"),
    ] {
        let mut sim = Sim::new(LocatorConfig { ipv6, ipv6_first, ..LocatorConfig::default() }, zone);
        assert_eq!(sim.locate("sip:example.com:5060").0, hops);
    }
    let v6 = LocatorConfig { ipv6: true, ..LocatorConfig::default() };
    assert_eq!(Sim::new(v6.clone(), "h 60 AAAA 2001:db8::1").locate("sip:h:5060").0, "UDP [2001:db8::1]:5060");
    assert_eq!(Sim::new(v6, "h 60 A 192.0.2.1").locate("sip:h:5060").0, "UDP 192.0.2.1:5060");
}

#[test]
fn rfc_2782_a_target_of_a_dot_means_that_the_service_is_not_offered() {
    let mut sim = sim("
        _sip._udp.example.com 60 SRV 0 0 0 .
        example.com 60 A 192.0.2.9
    ");
    assert_eq!(sim.locate("sip:example.com;transport=udp").0, "failed: the domain does not offer SIP");
    assert_eq!(sim.locate("sip:example.com").0, "failed: the domain does not offer SIP");
    sim.add(
        "
        _sip._tcp.example.com 60 SRV 0 0 5060 t.example.com
        t.example.com 60 A 192.0.2.8
    ",
    );
    sim.advance(Duration::from_secs(120));
    assert_eq!(sim.locate("sip:example.com").0, "TCP 192.0.2.8:5060");
}

#[test]
fn a_name_that_does_not_exist_fails_and_is_asked_for_once() {
    let mut sim = sim("");
    assert_eq!(sim.locate("sip:nobody.example").0, "failed: the name does not exist");
    let asked = sim.asked.len();
    assert_eq!(show(&sim.now("sip:nobody.example")), "failed: the name does not exist");
    sim.settle();
    assert_eq!(sim.asked.len(), asked);
}

#[test]
fn a_server_that_cannot_answer_for_naptr_or_srv_is_as_one_without() {
    for failure in [DnsFailure::ServFail, DnsFailure::Refused] {
        let mut sim = sim("example.com 60 A 192.0.2.9");
        sim.by_kind.insert(Kind::Naptr, Dns::Fails(failure));
        sim.by_kind.insert(Kind::Srv, Dns::Fails(failure));
        assert_eq!(sim.locate("sip:example.com").0, "UDP 192.0.2.9:5060");
    }
}

#[test]
fn silence_about_naptr_is_passed_over_after_a_while_and_then_known() {
    let mut sim = sim(EXAMPLE);
    sim.by_kind.insert(Kind::Naptr, Dns::Dead);
    let (hops, took) = sim.locate("sip:example.com");
    assert!(hops.starts_with("UDP 192.0.2.1:5060"), "{hops}");
    assert!(took >= Duration::from_millis(400) && took < Duration::from_millis(450), "{took:?}");
    // For good: nobody waits for it again, not even when it is asked for again.
    for _ in 0..20 {
        sim.advance(Duration::from_secs(7));
        assert!(show(&sim.now("sip:example.com")).starts_with("UDP 192.0.2.1:5060"));
    }
}

#[test]
fn silence_about_srv_is_not_the_absence_of_srv() {
    let mut sim = sim("example.com 60 A 192.0.2.9");
    sim.by_kind.insert(Kind::Srv, Dns::Dead);
    let (failed, took) = sim.locate("sip:example.com");
    assert_eq!(failed, "failed: no DNS server answered");
    assert_eq!(took, Duration::from_secs(2));
}

#[test]
fn a_host_without_an_address_does_not_hold_up_the_others() {
    let mut sim = sim("
        _sip._udp.example.com 60 SRV 1 1 5060 gone.example.com
        _sip._udp.example.com 60 SRV 2 1 5060 here.example.com
        here.example.com 60 A 192.0.2.1
    ");
    assert_eq!(sim.locate("sip:example.com;transport=udp").0, "UDP 192.0.2.1:5060");
}
