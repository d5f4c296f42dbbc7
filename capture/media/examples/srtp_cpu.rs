//! What opening SRTP costs: CPU per packet of 20 ms G.711, each suite.
//!
//! `cargo run --release -p ferric-media --example srtp_cpu`
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    missing_docs
)]

use std::time::Instant;

use ferric_media::srtp::{Opened, SrtpConfig, SrtpKey, SrtpReceiver, SrtpSender, SrtpSuite};
use rand::SeedableRng;
use rand::rngs::StdRng;

const PACKETS: u32 = 200_000;

fn main() {
    let mut rng = StdRng::seed_from_u64(1);
    for (suite, name) in SrtpSuite::ALL {
        let key = SrtpKey::random(suite, &mut rng);
        let mut sender = SrtpSender::new(suite, &key);
        let sealed: Vec<Vec<u8>> = (0..PACKETS)
            .map(|n| {
                let mut packet = vec![0x80, 0];
                packet.extend_from_slice(&(n as u16).to_be_bytes());
                packet.extend_from_slice(&(n * 160).to_be_bytes());
                packet.extend_from_slice(&[0, 0, 0, 7]);
                packet.resize(172, 0x55);
                sender.seal(&packet)
            })
            .collect();
        let mut receiver = SrtpReceiver::new(SrtpConfig { suite, keys: vec![key.clone()], ours: key });
        let (mut out, began) = (Vec::new(), Instant::now());
        for packet in &sealed {
            assert_eq!(receiver.open_rtp(began, packet, &mut out), Opened::Plain);
        }
        let each = began.elapsed().as_secs_f64() / f64::from(PACKETS);
        println!(
            "{name:<26} {:>6.2} us a packet, {:>5.2} CPU s a call-hour of two streams",
            each * 1e6,
            each * 100.0 * 3_600.0
        );
    }
}
