//! RFC 3263 4.3: the addresses of a name, one after the other.

mod rig;

use std::time::Duration;

use ferric_sip::flow::Transport;
use rig::{Bench, CALLER, by_uri, request};

const ONE: &str = "192.168.2.1:5060";
const TWO: &str = "192.168.2.2:5060";

fn located() -> Bench {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@example.org", ""));
    let (ticket, _) = bench.asked.pop_front().unwrap();
    bench.to(CALLER);
    bench.located(ticket, &[(ONE, Transport::Udp), (TWO, Transport::Tcp)]);
    bench
}

#[test]
fn the_first_is_asked_and_answers() {
    let mut bench = located();
    let sent = bench.to(ONE);
    assert_eq!(sent.line(), "INVITE sip:x@example.org", "the name stays in the request");
    bench.answer(&sent, 200);
    assert_eq!(bench.statuses(), [200]);
    bench.settles();
}

#[test]
fn silence_503_and_errors_lead_to_the_next() {
    for reason in ["silence", "503", "error"] {
        let mut bench = located();
        let sent = bench.to(ONE);
        match reason {
            "silence" => bench.pass_ms(1_000),
            "503" => bench.answer(&sent, 503),
            _ => bench.unreachable(&sent),
        }
        let second = bench.to(TWO);
        assert_eq!(second.transport, Transport::Tcp, "{reason}");
        assert_ne!(
            second.message.top_via().unwrap().branch(),
            sent.message.top_via().unwrap().branch(),
            "a new transaction"
        );
        bench.answer(&second, 200);
        assert_eq!(bench.statuses(), [200], "{reason}");
        assert_eq!(bench.done[0].tries, 2);
        bench.settles();
    }
}

#[test]
fn any_other_answer_is_the_answer() {
    for status in [404, 486, 500, 504, 603] {
        let mut bench = located();
        let sent = bench.to(ONE);
        bench.answer(&sent, status);
        assert_eq!(bench.statuses(), [status]);
    }
}

#[test]
fn a_provisional_answer_ends_the_search() {
    let mut bench = located();
    let sent = bench.to(ONE);
    bench.answer(&sent, 100);
    bench.pass(Duration::from_secs(60));
    assert!(bench.sent.is_empty(), "{:?}", bench.lines());
}

#[test]
fn the_last_one_is_waited_for_as_long_as_a_transaction_lasts() {
    let mut bench = located();
    bench.pass_ms(1_000);
    bench.to(TWO);
    bench.pass(Duration::from_secs(31));
    assert_eq!(bench.statuses(), []);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.statuses()[..1], [408]);
    bench.settles();
}

#[test]
fn all_refuse() {
    let mut bench = located();
    let sent = bench.to(ONE);
    bench.answer(&sent, 503);
    let sent = bench.to(TWO);
    bench.answer(&sent, 503);
    assert_eq!(bench.statuses(), [500], "16.7: a 503 stays here");
}

#[test]
fn what_dns_says_becomes_an_answer() {
    for (found, status, reason) in [
        (Err(false), 404, "Host Not Found"),
        (Err(true), 503, "Name Lookup Failed"),
        (Ok(vec![]), 404, "Host Not Found"),
    ] {
        let mut bench = Bench::new(by_uri());
        bench.put(CALLER, request("INVITE", "sip:x@example.org", ""));
        let (ticket, _) = bench.asked.pop_front().unwrap();
        let now = bench.now;
        bench.proxy.handle_located(now, ticket, found);
        bench.collect();
        let answer = bench.answered().message;
        assert_eq!((answer.status(), answer.reason().unwrap().as_ref()), (Some(status), reason));
        bench.settles();
    }
}

#[test]
fn addresses_that_no_listener_reaches_are_left_out() {
    let listeners = rig::listeners().into_iter().filter(|listener| listener.address.is_ipv4()).collect();
    let mut bench = Bench::new(ferric_proxy::ProxyConfig { listeners, ..by_uri() });
    bench.put(CALLER, request("INVITE", "sip:x@example.org", ""));
    let (ticket, _) = bench.asked.pop_front().unwrap();
    bench.located(ticket, &[("[fd00::9]:5060", Transport::Udp), (ONE, Transport::Udp)]);
    assert_eq!(bench.to(ONE).line(), "INVITE sip:x@example.org");
}

#[test]
fn a_long_list_is_cut() {
    let mut bench = Bench::new(by_uri());
    bench.put(CALLER, request("INVITE", "sip:x@example.org", ""));
    let (ticket, _) = bench.asked.pop_front().unwrap();
    let hops: Vec<String> = (1..=50).map(|n| format!("192.168.7.{n}:5060")).collect();
    let hops: Vec<(&str, Transport)> = hops.iter().map(|hop| (hop.as_str(), Transport::Udp)).collect();
    bench.located(ticket, &hops);
    let mut asked = 0;
    while let Some(at) = bench.sent.iter().position(|sent| sent.line().starts_with("INVITE")) {
        let sent = bench.sent.remove(at).unwrap();
        bench.unreachable(&sent);
        asked += 1;
    }
    assert_eq!((asked, bench.statuses()[0]), (8, 500));
    bench.settles();
}
