//! RFC 3261 16.6, 16.7: several contacts at once and one after the other, as ladders where a picture says more.

mod rig;

use rig::{Bench, CALLER, Sent, bob_at, cancel_of, contact, request};

fn phones(qs: &[u16]) -> Bench {
    let contacts = qs.iter().enumerate().map(|(n, q)| contact(&format!("sip:bob@192.168.3.{}", n + 1), *q)).collect();
    let mut bench = bob_at(contacts);
    for (n, name) in ["desk", "mobile", "home"].iter().enumerate().take(qs.len()) {
        bench.name(&format!("192.168.3.{}:5060", n + 1), name);
    }
    bench
}

fn phone(bench: &mut Bench, number: u32) -> Sent {
    bench.to(&format!("192.168.3.{number}:5060"))
}

#[test]
fn all_ring_and_one_picks_up() {
    let mut bench = phones(&[1_000, 1_000, 1_000]);
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    let sent: Vec<Sent> = (1..=3).map(|n| phone(&mut bench, n)).collect();
    bench.pass_ms(50);
    bench.answer(&sent[0], 180);
    bench.answer(&sent[1], 180);
    bench.pass_ms(100);
    bench.answer(&sent[2], 486);
    bench.pass_ms(1_000);
    bench.answer(&sent[1], 200);
    bench.pass_ms(20);
    let cancel = phone(&mut bench, 1);
    bench.answer(&cancel, 200);
    bench.answer(&sent[0], 487);
    insta::assert_snapshot!(bench.ladder());
    bench.settles();
}

#[test]
fn desk_first_then_the_others() {
    let mut bench = phones(&[1_000, 500, 500]);
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    let desk = phone(&mut bench, 1);
    bench.answer(&desk, 180);
    bench.pass_ms(2_000);
    bench.answer(&desk, 486);
    phone(&mut bench, 1);
    let (mobile, home) = (phone(&mut bench, 2), phone(&mut bench, 3));
    bench.pass_ms(100);
    bench.answer(&mobile, 180);
    bench.answer(&home, 404);
    bench.answer(&mobile, 603);
    insta::assert_snapshot!(bench.ladder());
    assert!(bench.statuses().contains(&603));
    bench.settles();
}

#[test]
fn the_caller_gives_up_while_some_ring() {
    let mut bench = phones(&[1_000, 1_000]);
    let invite = request("INVITE", "sip:bob@example.com", "");
    bench.put(CALLER, invite.clone());
    let (desk, mobile) = (phone(&mut bench, 1), phone(&mut bench, 2));
    bench.answer(&desk, 180);
    bench.pass_ms(300);
    bench.put(CALLER, cancel_of(&invite));
    let cancel = phone(&mut bench, 1);
    bench.answer(&cancel, 200);
    bench.answer(&desk, 487);
    bench.pass_ms(100);
    // The mobile rings only now.
    bench.answer(&mobile, 180);
    let cancel = bench.sent.iter().position(|sent| sent.line().starts_with("CANCEL")).unwrap();
    let cancel = bench.sent.remove(cancel).unwrap();
    bench.answer(&cancel, 200);
    bench.answer(&mobile, 487);
    insta::assert_snapshot!(bench.ladder());
    assert_eq!((bench.done.len(), bench.done[0].status), (1, 487));
    bench.settles();
}

#[test]
fn a_phone_that_is_gone_does_not_hold_the_others_up() {
    let mut bench = phones(&[1_000, 1_000]);
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    let (desk, mobile) = (phone(&mut bench, 1), phone(&mut bench, 2));
    bench.unreachable(&desk);
    bench.answer(&mobile, 180);
    bench.answer(&mobile, 200);
    assert_eq!(bench.statuses(), [180, 200]);
    bench.settles();
}

#[test]
fn a_user_whose_phones_are_all_gone() {
    let mut bench = phones(&[1_000, 1_000]);
    bench.put(CALLER, request("INVITE", "sip:bob@example.com", ""));
    for n in 1..=2 {
        let sent = phone(&mut bench, n);
        bench.unreachable(&sent);
    }
    assert_eq!(bench.statuses(), [500], "16.9: as a 503, which goes no farther than here");
    bench.settles();
}

#[test]
fn other_requests_fork_as_well_and_the_first_success_counts() {
    let mut bench = phones(&[1_000, 1_000]);
    bench.put(CALLER, request("MESSAGE", "sip:bob@example.com", ""));
    let (desk, mobile) = (phone(&mut bench, 1), phone(&mut bench, 2));
    bench.answer(&desk, 200);
    bench.answer(&mobile, 202);
    assert_eq!(bench.statuses(), [200], "no CANCEL, and no second answer");
    assert!(bench.sent.is_empty());
    bench.settles();
}
