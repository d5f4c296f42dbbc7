//! How fast the catalogue is, on an empty database: an SQLite file of its own unless a URL is given.
//!
//! ```text
//! cargo bench --profile release -p ferric-worker --bench catalogue -- [ROWS [URL]]
//! ```
//!
//! Fills it with recordings (two parties, a tag, a correlator each), one in a transaction and 256 in a transaction, and
//! searches it then. One line a measurement. `tests/bench/catalogue.py` runs it on both databases.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, missing_docs)]

use std::time::{Duration, Instant};

use ferric_media::metadata::{Correlator, MetadataState};
use ferric_media::part::Part;
use ferric_media::timestamp::Timestamp;
use ferric_worker::catalog::{Catalog, Party, RecordingUpdate};
use ferric_worker::catalog_party::PartyPolicy;
use ferric_worker::catalog_search::Search;
use uuid::Uuid;

const FIRST_MS: u64 = 1_700_000_000_000;

fn update(number: u64) -> RecordingUpdate {
    let started_at = Timestamp::from_unix_ms(i64::try_from(FIRST_MS + number * 1000).unwrap());
    let party = |number: u64| Party { aor: Some(format!("sip:+1{number:010}@sbc.example")), ..Party::default() };
    RecordingUpdate {
        part: Part::first(Uuid::from_u128(
            (u128::from(FIRST_MS + number * 1000) << 80) | u128::from(number.wrapping_mul(0x9E37_79B9)),
        )),
        tenant: format!("tenant-{}", number % 10),
        node: format!("edge-{}", number % 4),
        state: MetadataState::Complete,
        started_at,
        ended_at: Some(started_at.plus(Duration::from_secs(60))),
        duration_ms: Some(60_000),
        lost_ms: None,
        audio_bytes: Some(150_000),
        sip_call_id: Some(format!("call-{number}@sbc.example")),
        parties: Some(vec![party(number * 7919 % 10_000_000), party(number % 500)]),
        tags: Some(vec![("case".into(), number.to_string())]),
        correlators: Some(vec![Correlator { name: "Cisco-Guid".into(), value: format!("guid-{number}") }]),
        quality: None,
        manifest: None,
        upload: None,
    }
}

#[tokio::main]
async fn main() {
    // cargo says `--bench` of itself.
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let rows: u64 = arguments.next().map_or(100_000, |rows| rows.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let url = arguments.next().unwrap_or_else(|| format!("sqlite:{}", folder.path().join("catalog.db").display()));
    let catalog = Catalog::open(&url, None, PartyPolicy::Clear).await.unwrap();
    let single = 2000.min(rows);
    let start = Instant::now();
    for number in 0..single {
        catalog.upsert(&[update(number)]).await.unwrap();
    }
    let rate = |count: u64, start: Instant| count as f64 / start.elapsed().as_secs_f64();
    println!("recordings/s, one in a transaction: {:.0}", rate(single, start));
    let start = Instant::now();
    for first in (single..rows).step_by(256) {
        let updates: Vec<_> = (first..rows.min(first + 256)).map(update).collect();
        catalog.upsert(&updates).await.unwrap();
    }
    println!("recordings/s, 256 in a transaction: {:.0}", rate(rows - single, start));
    let middle = Timestamp::from_unix_ms(i64::try_from(FIRST_MS + rows * 500).unwrap());
    let all = || Search { limit: Some(50), ..Search::default() };
    let searches = [
        ("newest page", all()),
        ("page in the middle", Search { to: Some(middle), ..all() }),
        ("of a tenant", Search { tenants: vec!["tenant-3".into()], ..all() }),
        ("a number of few calls", Search { party: Some("+10000007919".into()), ..all() }),
        ("a number of many calls", Search { party: Some("+10000000123".into()), ..all() }),
        ("a prefix that fits a hundredth", Search { party: Some("+100012".into()), ..all() }),
        ("a tag's value", Search { tag: Some(("case".into(), Some("777".into()))), ..all() }),
        ("a correlator", Search { correlator: Some("GUID-4711".into()), ..all() }),
    ];
    for (name, search) in searches {
        let mut times = Vec::new();
        let mut found = 0;
        for _ in 0..101 {
            let start = Instant::now();
            found = catalog.search(&search).await.unwrap().recordings.len();
            times.push(start.elapsed());
        }
        times.sort();
        let ms = |at: usize| times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
        println!("search, {name}: {:.2} ms (median), {:.2} ms (worst of 101), {found} rows", ms(50), ms(100));
    }
    catalog.close().await;
}
