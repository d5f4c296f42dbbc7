//! How fast soft state spreads: three NATS servers and three nodes in this process, then a fourth, then failures.
//!
//! `cargo bench -p ferric-cluster --profile release --bench spread`, after `.ci/setup test`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../tests/servers/mod.rs"]
#[allow(dead_code)]
mod servers;

use std::time::{Duration, Instant};

use ferric_cluster::{ClusterState, Kind};
use servers::{Servers, until};

const LIFE: Duration = Duration::from_secs(3600);
const ENTRIES: usize = 50_000;

fn put(node: &ClusterState, key: &str) -> Duration {
    let started = Instant::now();
    node.put(Kind::Registration, key.as_bytes(), &[7; 300], LIFE).unwrap();
    started.elapsed()
}

fn knows(node: &ClusterState, key: &str) -> bool {
    node.get(Kind::Registration, key.as_bytes()).is_some()
}

#[tokio::main]
async fn main() {
    let mut servers = Servers::start(3);
    let nodes: Vec<ClusterState> = (0..3).map(|number| servers.node(number, 1)).collect();
    for node in &nodes {
        until("joined", || node.health().joined).await;
    }
    let mut follower = nodes[2].follow();
    let mut times = Vec::new();
    for number in 0..500 {
        let started = Instant::now();
        put(&nodes[0], &format!("one{number}"));
        follower.next().await.unwrap();
        times.push(started.elapsed());
    }
    times.sort();
    println!("a write is known elsewhere      p50 {:.1?}, p99 {:.1?}", times[250], times[495]);

    let started = Instant::now();
    let worst = (0..ENTRIES).map(|number| put(&nodes[0], &format!("many{number}"))).max();
    println!("{ENTRIES} writes at once          {:.1?}, the longest {:.1?}", started.elapsed(), worst.unwrap());
    let all = |node: &ClusterState| node.list(Kind::Registration).len() == ENTRIES + 500;
    until("all is known", || nodes.iter().all(all)).await;
    println!("  known to both others after    {:.1?}", started.elapsed());
    until("all is kept", || nodes[0].health().keep_waiting == 0).await;
    println!("  kept in JetStream after       {:.1?}", started.elapsed());

    let started = Instant::now();
    let late = servers.node(3, 1);
    until("the late one has all", || all(&late)).await;
    println!("a node joins and has all after  {:.1?}", started.elapsed());

    servers.kill(0);
    let started = Instant::now();
    put(&nodes[0], "killed");
    until("known", || knows(&nodes[2], "killed")).await;
    println!("the writer's server is killed   {:.1?} until a write is known", started.elapsed());

    servers.kill_all();
    tokio::time::sleep(Duration::from_secs(5)).await;
    put(&nodes[1], "dark");
    servers.run_all();
    let started = Instant::now();
    until("known", || knows(&nodes[0], "dark") && knows(&nodes[2], "dark")).await;
    println!("all were down for 5 s           {:.1?} after their start it is known", started.elapsed());
}
