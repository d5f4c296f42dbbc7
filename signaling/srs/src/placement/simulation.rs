//! A burst of calls at several SRS nodes over several workers, in simulated time, with messages that are late or lost.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::directory::{Directory, LoadReport, Policy, WorkerId};

#[derive(Debug, Clone, Copy)]
struct Scene {
    servers: usize,
    /// Limit and calls at the start, of each worker.
    workers: &'static [(u32, u32)],
    calls: usize,
    /// The calls come within this.
    burst_ms: u64,
    /// Reports that are lost, of 100.
    lost: u32,
    /// A message takes up to this.
    delay_ms: u64,
    /// Answers bring a report too.
    answers: bool,
    policy: Policy,
    seed: u64,
}

enum What {
    Call(usize),
    Assign { server: usize, worker: usize, serial: u64 },
    Report { server: usize, worker: usize, report: LoadReport },
    Tick(usize),
}

/// Where the calls of a burst end up: calls of each worker.
fn play(scene: Scene) -> Vec<u32> {
    let mut rng = SmallRng::seed_from_u64(scene.seed);
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let name = |worker: usize| WorkerId::new(&format!("worker-{worker}"));
    let mut events: BTreeMap<(u64, u64), What> = BTreeMap::new();
    let mut count = 0;
    let mut add = |events: &mut BTreeMap<(u64, u64), What>, ms: u64, what: What| {
        count += 1;
        events.insert((ms, count), what);
    };
    let mut calls: Vec<u32> = scene.workers.iter().map(|(_, calls)| *calls).collect();
    let mut numbers = vec![0_u64; calls.len()];
    let mut seen: Vec<BTreeMap<String, u64>> = vec![BTreeMap::new(); calls.len()];
    let mut directories: Vec<Directory> = (0..scene.servers)
        .map(|server| {
            let mut directory = Directory::new(&format!("srs-{server}"), "east", scene.policy, 1_000_000);
            directory.set_servers(scene.servers);
            for (worker, (max_calls, calls)) in scene.workers.iter().enumerate() {
                directory.up(name(worker), "east");
                let report = LoadReport { number: 0, calls: *calls, max_calls: *max_calls, ..LoadReport::default() };
                directory.report(start, &name(worker), report);
            }
            directory
        })
        .collect();
    for _ in 0..scene.calls {
        add(&mut events, rng.random_range(0..scene.burst_ms), What::Call(rng.random_range(0..scene.servers)));
    }
    for worker in 0..calls.len() {
        add(&mut events, rng.random_range(0..500), What::Tick(worker));
    }
    let mut last = vec![vec![0; calls.len()]; scene.servers];
    while let Some(((ms, _), what)) = events.pop_first() {
        match what {
            What::Call(server) => {
                let (worker, serial) = directories[server].choose(at(ms), &[]).unwrap();
                let worker = (0..calls.len()).find(|have| name(*have) == worker).unwrap();
                let due = ms + rng.random_range(1..=scene.delay_ms);
                // The order of a topic is kept.
                let due = due.max(last[server][worker]);
                last[server][worker] = due;
                add(&mut events, due, What::Assign { server, worker, serial });
            }
            What::Assign { server, worker, serial } => {
                calls[worker] += 1;
                seen[worker].insert(format!("srs-{server}"), serial);
                numbers[worker] += 1;
                if scene.answers {
                    let report = LoadReport {
                        number: numbers[worker],
                        calls: calls[worker],
                        max_calls: scene.workers[worker].0,
                        seen: seen[worker].clone(),
                        ..LoadReport::default()
                    };
                    let due = ms + rng.random_range(1..=scene.delay_ms);
                    add(&mut events, due, What::Report { server, worker, report });
                }
            }
            What::Report { server, worker, report } => directories[server].report(at(ms), &name(worker), report),
            What::Tick(worker) => {
                if ms < scene.burst_ms {
                    add(&mut events, ms + 500, What::Tick(worker));
                }
                numbers[worker] += 1;
                for server in 0..scene.servers {
                    if rng.random_range(0..100) >= scene.lost {
                        let report = LoadReport {
                            number: numbers[worker],
                            calls: calls[worker],
                            max_calls: scene.workers[worker].0,
                            seen: seen[worker].clone(),
                            ..LoadReport::default()
                        };
                        let due = ms + rng.random_range(1..=scene.delay_ms);
                        add(&mut events, due, What::Report { server, worker, report });
                    }
                }
            }
        }
    }
    calls
}

/// The largest distance of a worker's share of its limit from that of all together, as a part of the latter.
fn unevenness(scene: &Scene, calls: &[u32]) -> f64 {
    let (sum, room): (u32, u32) = (calls.iter().sum(), scene.workers.iter().map(|(most, _)| most).sum());
    let mean = f64::from(sum) / f64::from(room);
    let of = |(calls, (most, _)): (&u32, &(u32, u32))| (f64::from(*calls) / f64::from(*most) / mean - 1.0).abs();
    calls.iter().zip(scene.workers).map(of).fold(0.0, f64::max)
}

const EVEN: &[(u32, u32)] = &[(800, 0), (800, 0), (800, 0), (800, 0)];
const BEGUN: &[(u32, u32)] = &[(800, 0), (800, 60), (800, 120), (800, 180)];
const UNLIKE: &[(u32, u32)] = &[(1_600, 0), (800, 0), (400, 0), (200, 0)];

#[test]
fn a_burst_of_a_thousand_calls_spreads_within_a_tenth() {
    let mut worst = 0.0_f64;
    for servers in [1, 2, 4] {
        for (workers, answers) in [(EVEN, true), (EVEN, false), (BEGUN, true), (UNLIKE, true), (UNLIKE, false)] {
            for (lost, delay_ms) in [(0, 5), (30, 200), (60, 400)] {
                for burst_ms in [1, 1_000, 10_000] {
                    for seed in 0..5 {
                        let policy = Policy::LeastLoaded;
                        let scene =
                            Scene { servers, workers, calls: 1_000, burst_ms, lost, delay_ms, answers, policy, seed };
                        let calls = play(scene);
                        let uneven = unevenness(&scene, &calls);
                        assert!(uneven < 0.1, "{uneven:.3}: {calls:?} of {scene:?}");
                        worst = worst.max(uneven);
                    }
                }
            }
        }
    }
    println!("the worst: {:.1} %", worst * 100.0);
}

#[test]
fn one_after_the_other_spreads_a_burst_over_equals() {
    for servers in [1, 2, 4] {
        let policy = Policy::RoundRobin;
        let scene = Scene {
            servers,
            workers: EVEN,
            calls: 1_000,
            burst_ms: 1_000,
            lost: 60,
            delay_ms: 400,
            answers: false,
            policy,
            seed: 1,
        };
        let calls = play(scene);
        assert!(unevenness(&scene, &calls) < 0.02, "{calls:?}");
    }
}

#[test]
fn nobody_gets_more_than_it_can_take_from_one_server() {
    let scene = Scene {
        servers: 1,
        workers: &[(100, 90), (300, 0), (700, 0), (50, 49)],
        calls: 960,
        burst_ms: 1_000,
        lost: 100,
        delay_ms: 400,
        answers: false,
        policy: Policy::LeastLoaded,
        seed: 3,
    };
    let calls = play(scene);
    assert!(calls.iter().zip(scene.workers).all(|(calls, (most, _))| calls <= most), "{calls:?}");
}
