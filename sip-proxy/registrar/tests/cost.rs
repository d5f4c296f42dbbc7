//! What 100,000 registered phones cost.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod rig;

use std::time::{Duration, Instant};

use ferric_proxy::Location;
use ferric_registrar::RegistrarConfig;
use rig::{Rig, request, udp};

const PHONES: u32 = 100_000;

/// Bytes of this process in memory.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
}

/// Each behind a NAT, with a flow of its own.
fn all(rig: &mut Rig, cseq: u32) {
    for n in 0..PHONES {
        let phone = request()
            .user(&format!("subscriber-{n}"))
            .call_id(&format!("{n}-7f3a9c2e51d84b06@192.168.1.7"))
            .cseq(cseq)
            .via("SIP/2.0/UDP 192.168.1.7:5060;branch=z9hG4bK1;rport")
            .contact(&format!("<sip:subscriber-{n}@192.168.1.7:5060;transport=udp>;expires=3600"));
        let flow = udp(&format!("203.0.113.{}:{}", n % 250, 1_024 + n % 60_000));
        let message = rig.message(phone);
        let (now, unix_s) = (rig.now, rig.unix_s());
        assert_eq!(rig.registrar.register(now, unix_s, &message, &flow).status(), Some(200));
    }
}

#[test]
fn a_hundred_thousand_phones_stay_below_sixty_megabytes_and_idle_costs_nothing() {
    let mut rig = Rig::with(RegistrarConfig::new(["example.com"]), None);
    let before = resident();
    let begun = Instant::now();
    all(&mut rig, 1);
    let first = begun.elapsed();
    let used = resident() - before;
    // Refreshes for half a day.
    for round in 2..12 {
        rig.pass(Duration::from_secs(1_800));
        all(&mut rig, round);
    }
    let after = resident() - before;
    assert_eq!(rig.registrar.len(), 100_000);
    let begun = Instant::now();
    for _ in 0..1_000_000 {
        std::hint::black_box(rig.registrar.poll_timeout());
    }
    let poll = begun.elapsed() / 1_000_000;
    let begun = Instant::now();
    for n in 0..PHONES {
        assert_eq!(rig.lookup(&format!("sip:subscriber-{n}@example.com")).unwrap().len(), 1);
    }
    let lookup = begun.elapsed() / PHONES;
    println!(
        "bytes a binding: {} at first, {} after refreshes; register {:?}, lookup {lookup:?}, poll {poll:?}",
        used / 100_000,
        after / 100_000,
        first / PHONES
    );
    assert!(after < 60 << 20, "{after} bytes");
    rig.pass(Duration::from_secs(3_600));
    assert!(rig.registrar.is_empty());
}
