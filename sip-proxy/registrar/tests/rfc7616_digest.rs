//! RFC 7616, RFC 8760 and RFC 3261 22: who is let in.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod rig;

use std::time::Duration;

use ferric_proxy::Location;
use ferric_registrar::{RegistrarConfig, Secret, Users};
use ferric_sip::message::Message;
use rig::{Phone, Request, Rig, challenge, request, status, udp};

fn register() -> Request {
    request().contact("<sip:alice@10.0.0.7>")
}

/// Asks, answers; the answer to that.
fn log_in(rig: &mut Rig, phone: &Phone) -> Message {
    let asked = rig.send(register());
    assert_eq!(status(&asked), 401);
    let challenge = challenge(&asked, phone.algorithm);
    rig.send(register().line(&phone.authorization(&challenge, 1)))
}

#[test]
fn rfc8760_2_4_both_algorithms_are_offered_the_better_one_first() {
    let mut rig = Rig::with_users();
    let asked = rig.send(register());
    let offers: Vec<String> = asked.headers("WWW-Authenticate").map(|text| text.into_owned()).collect();
    assert_eq!(offers.len(), 2);
    assert!(offers[0].contains("algorithm=SHA-256, qop=\"auth\"") && offers[1].contains("algorithm=MD5, qop=\"auth\""));
    assert!(
        offers.iter().all(|text| text.starts_with("Digest realm=\"example.com\", nonce=\"") && !text.contains("stale"))
    );
    assert_eq!(status(&log_in(&mut rig, &Phone::new("alice", "secret", "MD5"))), 200);
    assert_eq!(status(&log_in(&mut rig, &Phone::new("alice", "secret", "SHA-256"))), 200);
}

#[test]
fn whoever_shows_nothing_is_asked_before_anything_else_and_nobody_else_is() {
    let mut rig = Rig::with_users();
    let mut ask = |request: Request| {
        let message = rig.message(request);
        rig.registrar.challenge(rig.unix_s(), &message, &udp("10.0.0.7:5060"))
    };
    assert_eq!(ask(register()).map(|asked| (asked.status, asked.headers.len())), Some((401, 2)));
    assert!(ask(register().line("Authorization: Basic YTpi")).is_none(), "it is told what is wrong with it");
    assert!(ask(register().to("<sip:alice@example.org>")).is_none(), "no domain of ours");
    assert!(ask(register().line("Require: unheard-of")).is_none(), "it gets 420");
    assert_eq!(rig.registrar.counters().challenged, 1);
    let mut open = Rig::open();
    let message = open.message(register());
    assert!(open.registrar.challenge(open.unix_s(), &message, &udp("10.0.0.7:5060")).is_none());
}

#[test]
fn a_realm_with_a_user_of_an_md5_hash_asks_for_md5_only() {
    let mut users = Users::default();
    let mut hash = [0; 16];
    let hex = "939e7578ed9e3c518a452acee763bce9";
    hash.iter_mut()
        .enumerate()
        .for_each(|(at, byte)| *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap());
    users.add("alice", "example.com", Secret::of_password("alice", "example.com", "secret"));
    users.add("bob", "example.com", Secret::of_hashes(Some(hash), None));
    let mut rig = Rig::with(RegistrarConfig::new(["example.com"]), Some(users));
    assert_eq!(rig.send(register()).headers("WWW-Authenticate").count(), 1);
    assert_eq!(status(&log_in(&mut rig, &Phone::new("alice", "secret", "MD5"))), 200);
}

#[test]
fn a_wrong_password_and_a_name_that_is_not_there_look_the_same() {
    let shape = |message: &Message| {
        let text = String::from_utf8(message.to_bytes().to_vec()).unwrap();
        let nonces = message.headers("WWW-Authenticate").map(|text| text.split('"').nth(3).unwrap().to_owned());
        nonces.fold(text, |text, nonce| text.replace(&nonce, "NONCE"))
    };
    let answer = |rig: &mut Rig, name: &'static str| {
        let asked = rig.send(register().user(name).cseq(1));
        let challenge = challenge(&asked, "MD5");
        let wrong = Phone::new(name, "wrong", "MD5").authorization(&challenge, 1);
        let refused = rig.send(register().user(name).cseq(2).line(&wrong));
        (shape(&asked).replace(name, "NAME"), shape(&refused).replace(name, "NAME"))
    };
    let mut rig = Rig::with_users();
    let (there, not_there) = (answer(&mut rig, "alice"), answer(&mut rig, "mallory"));
    assert_eq!(there, not_there);
    assert!(there.1.starts_with("SIP/2.0 401 ") && !there.1.contains("stale"));
    assert_eq!(rig.registrar.counters().wrong_password, 2);
}

#[test]
fn rfc3261_10_3_step_4_a_user_registers_itself_only() {
    let mut rig = Rig::with_users();
    let asked = rig.send(register());
    let bob = Phone::new("bob", "secret", "MD5").authorization(&challenge(&asked, "MD5"), 1);
    let response = rig.send(register().line(&bob));
    assert_eq!(status(&response), 403);
    assert!(rig.alice().is_empty());
}

#[test]
fn rfc7616_3_3_an_old_nonce_is_stale_when_the_password_is_right_and_only_then() {
    let mut rig = Rig::with_users();
    let asked = rig.send(register());
    let old = challenge(&asked, "SHA-256");
    let alice = Phone::new("alice", "secret", "SHA-256");
    assert_eq!(status(&rig.send(register().line(&alice.authorization(&old, 1)))), 200);
    rig.pass(Duration::from_secs(301));
    let again = rig.send(register().line(&alice.authorization(&old, 2)));
    assert_eq!((status(&again), challenge(&again, "SHA-256").get("stale").map(String::as_str)), (401, Some("true")));
    let fresh = challenge(&again, "SHA-256");
    assert_eq!(status(&rig.send(register().line(&alice.authorization(&fresh, 1)))), 200);
    let guess = Phone::new("alice", "guess", "SHA-256");
    let refused = rig.send(register().line(&guess.authorization(&old, 3)));
    assert_eq!((status(&refused), challenge(&refused, "SHA-256").get("stale")), (401, None));
}

#[test]
fn after_a_restart_phones_go_on_without_asking_their_users() {
    let mut rig = Rig::with_users();
    let before = challenge(&rig.send(register()), "MD5");
    let mut users = Users::default();
    users.add("alice", "example.com", Secret::of_password("alice", "example.com", "secret"));
    rig.registrar = ferric_registrar::Registrar::new(RegistrarConfig::new(["example.com"]), Some(users), &[8; 32]);
    let again = rig.send(register().line(&Phone::new("alice", "secret", "MD5").authorization(&before, 1)));
    assert_eq!(challenge(&again, "MD5").get("stale").map(String::as_str), Some("true"));
}

#[test]
fn rfc7616_3_4_a_count_may_be_used_once() {
    let mut rig = Rig::with_users();
    let challenge_1 = challenge(&rig.send(register()), "MD5");
    let alice = Phone::new("alice", "secret", "MD5");
    for (count, fine) in [(1, true), (1, false), (2, true), (5, true), (3, true), (3, false), (2, false), (6, true)] {
        let response = rig.send(register().line(&alice.authorization(&challenge_1, count)));
        assert_eq!(status(&response) == 200, fine, "nc={count}");
        if !fine {
            assert_eq!(challenge(&response, "MD5").get("stale").map(String::as_str), Some("true"));
        }
    }
    assert_eq!(rig.registrar.counters().stale, 3);
}

#[test]
fn a_nonce_of_another_realm_or_of_nobody_is_no_good() {
    let mut users = Users::default();
    for domain in ["example.com", "example.net"] {
        users.add("alice", domain, Secret::of_password("alice", domain, "secret"));
    }
    let mut rig = Rig::with(RegistrarConfig::new(["example.com", "example.net"]), Some(users));
    let mut other = challenge(&rig.send(register()), "MD5");
    other.insert("realm".to_owned(), "example.net".to_owned());
    let alice = Phone::new("alice", "secret", "MD5");
    let to_net = || register().to("<sip:alice@example.net>");
    let response = rig.send(to_net().line(&alice.authorization(&other, 1)));
    assert_eq!(challenge(&response, "MD5").get("stale").map(String::as_str), Some("true"));
    other.insert("nonce".to_owned(), "made up".to_owned());
    assert_eq!(status(&rig.send(to_net().line(&alice.authorization(&other, 1)))), 401);
}

#[test]
fn guessing_is_stopped_and_does_not_lock_the_user_out() {
    let mut rig = Rig::with_users();
    let guess = Phone::new("alice", "guess", "MD5");
    for _ in 0..10 {
        assert_eq!(status(&log_in(&mut rig, &guess)), 401);
    }
    let right = Phone::new("alice", "secret", "MD5");
    assert_eq!(status(&log_in(&mut rig, &right)), 403, "from there even the right one is not looked at");
    let elsewhere = udp("10.0.0.99:5060");
    let asked = rig.send_over(register(), &elsewhere);
    let answer = right.authorization(&challenge(&asked, "MD5"), 1);
    assert_eq!(status(&rig.send_over(register().line(&answer), &elsewhere)), 200);
    assert_eq!(rig.registrar.counters().throttled, 1);
    rig.pass(Duration::from_secs(121));
    assert_eq!(status(&log_in(&mut rig, &right)), 200);
    for _ in 0..10 {
        log_in(&mut rig, &Phone::new("nobody", "guess", "MD5"));
    }
    assert_eq!(status(&log_in(&mut rig, &Phone::new("nobody", "guess", "MD5"))), 403, "as for a user that is there");
}

#[test]
fn only_qop_auth_is_taken() {
    let mut rig = Rig::with_users();
    let asked = challenge(&rig.send(register()), "MD5");
    let answer = Phone::new("alice", "secret", "MD5").authorization(&asked, 1);
    for (from, to) in [
        (", qop=auth", ""),
        ("qop=auth", "qop=auth-int"),
        (", nc=00000001", ""),
        (", cnonce=\"c0ffee\"", ""),
        ("nc=00000001", "nc=x"),
    ] {
        assert!(answer.contains(from));
        assert_eq!(status(&rig.send(register().line(&answer.replace(from, to)))), 400, "{from} -> {to}");
    }
    assert_eq!(status(&rig.send(register().line(&answer.replace("algorithm=MD5", "algorithm=MD5-sess")))), 401);
    assert_eq!(
        status(&rig.send(register().line(&answer.replace("algorithm=MD5, ", "")))),
        200,
        "no algorithm means MD5"
    );
}

#[test]
fn the_credentials_uri_may_be_what_the_request_had_before_others_changed_it() {
    let mut rig = Rig::with_users();
    let with_uri = |rig: &mut Rig, uri: &'static str, request_uri: &str| {
        let asked = challenge(&rig.send(register()), "MD5");
        let phone = Phone { uri, ..Phone::new("alice", "secret", "MD5") };
        let mut request = register().line(&phone.authorization(&asked, 1));
        request_uri.clone_into(&mut request.uri);
        status(&rig.send(request))
    };
    assert_eq!(with_uri(&mut rig, "sip:EXAMPLE.com;transport=udp", "sip:example.com"), 200);
    assert_eq!(with_uri(&mut rig, "sip:example.com", "sip:10.0.0.5:5060"), 200);
    assert_eq!(with_uri(&mut rig, "sip:10.0.0.5", "sip:10.0.0.5:5060"), 200);
    // A REGISTER does what its To says; some phones sign the server's address, or whatever else.
    assert_eq!(with_uri(&mut rig, "sip:127.0.0.1:5070", "sip:example.com"), 200);
}

#[test]
fn rfc3261_22_3_other_requests_are_asked_with_407() {
    let mut rig = Rig::with_users();
    let invite = |from: &str| {
        let mut invite = request().to("<sip:bob@example.com>");
        (invite.method, invite.uri, invite.from) = ("INVITE", "sip:bob@example.com".to_owned(), from.to_owned());
        invite
    };
    let mut ask = |request: Request| {
        let message = rig.message(request);
        let (now, unix_s) = (rig.now, rig.unix_s());
        rig.registrar.authenticate(now, unix_s, &message, &udp("10.0.0.7:5060"))
    };
    let alice = "<sip:alice@example.com>;tag=1";
    let asked = ask(invite(alice)).unwrap();
    assert_eq!(status(&asked), 407);
    let phone = Phone { uri: "sip:bob@example.com", method: "INVITE", ..Phone::new("alice", "secret", "SHA-256") };
    let answer = |count| format!("Proxy-Authorization: {}", phone.answer(&challenge(&asked, "SHA-256"), count));
    assert!(ask(invite(alice).line(&answer(1))).is_none());
    assert_eq!(status(&ask(invite(alice).line(&answer(1))).unwrap()), 407);
    let elsewhere = Phone { uri: "sip:carol@example.com", ..phone };
    let misused = format!("Proxy-Authorization: {}", elsewhere.answer(&challenge(&asked, "SHA-256"), 2));
    assert_eq!(status(&ask(invite(alice).line(&misused)).unwrap()), 400, "for another URI");
    assert_eq!(status(&ask(invite("<sip:bob@example.com>;tag=1").line(&answer(3))).unwrap()), 403);
    assert_eq!(status(&ask(invite("<sip:alice@example.org>;tag=1")).unwrap()), 403);
}

#[test]
fn credentials_for_others_on_the_way_are_passed_over() {
    let mut rig = Rig::with_users();
    let asked = challenge(&rig.send(register()), "MD5");
    let other =
        "Authorization: Digest username=\"alice\", realm=\"elsewhere\", nonce=\"1\", uri=\"sip:x\", response=\"0\"";
    let own = Phone::new("alice", "secret", "MD5").authorization(&asked, 1);
    assert_eq!(status(&rig.send(register().line(other))), 401);
    assert_eq!(status(&rig.send(register().line(other).line("Authorization: Basic YTpi").line(&own))), 200);
}

#[test]
fn users_that_are_no_more_lose_their_bindings() {
    let mut rig = Rig::with_users();
    assert_eq!(status(&log_in(&mut rig, &Phone::new("alice", "secret", "MD5"))), 200);
    let mut users = Users::default();
    users.add("bob", "example.com", Secret::of_password("bob", "example.com", "secret"));
    rig.registrar.apply(RegistrarConfig::new(["example.com"]), Some(users));
    assert_eq!(rig.registrar.len(), 0);
    assert_eq!(rig.lookup("sip:alice@example.com"), None);
    assert_eq!(rig.lookup("sip:bob@example.com"), Some(vec![]));
}

#[test]
fn a_forger_of_a_phones_address_does_not_lock_it_out() {
    let mut rig = Rig::with_users();
    let forger = challenge(&rig.send_over(register(), &udp("203.0.113.66:5060")), "MD5");
    let guess = Phone::new("alice", "guess", "MD5");
    for count in 1..30 {
        assert_eq!(status(&rig.send(register().line(&guess.authorization(&forger, count)))), 401);
    }
    assert_eq!(rig.registrar.counters().throttled, 19);
    assert_eq!(status(&log_in(&mut rig, &Phone::new("alice", "secret", "MD5"))), 200);
}

#[test]
fn a_challenge_may_be_answered_through_another_edge() {
    let mut rig = Rig::with_users();
    let asked = challenge(&rig.send_over(register(), &udp("10.0.0.2:5060")), "MD5");
    let answer = Phone::new("alice", "secret", "MD5").authorization(&asked, 1);
    assert_eq!(status(&rig.send_over(register().line(&answer), &udp("10.0.0.3:5060"))), 200);
}
