//! NATS servers of a test's own: on free ports, in a temporary folder, ended by their process.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferric_cluster::{ClusterConfig, ClusterState, Identity, NatsConfig, NodeId, SoftConfig};

/// Long enough for a slow machine; nothing is asserted about time.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Servers {
    pub(crate) folder: tempfile::TempDir,
    ports: Vec<u16>,
    running: Vec<Option<Child>>,
}

impl Servers {
    /// `count` servers with JetStream that are one cluster; user `ferric`, password `p@ss`.
    pub(crate) fn start(count: usize) -> Servers {
        Servers::start_with(count, |_| String::new())
    }

    /// With more in each configuration, which may name files of the folder.
    pub(crate) fn start_with(count: usize, more: impl Fn(&Path) -> String) -> Servers {
        let folder = tempfile::tempdir().unwrap();
        let ports = free_ports(count * 2);
        let routes: Vec<String> =
            ports[count..].iter().map(|port| format!("nats://routes:routes@127.0.0.1:{port}")).collect();
        for number in 0..count {
            let store = folder.path().join(format!("store{number}"));
            let cluster = format!(
                "cluster {{ name: test, listen: \"127.0.0.1:{}\", routes: [{}],\n  \
                 authorization {{ user: routes, password: routes }} }}\n",
                ports[count + number],
                routes.join(", "),
            );
            let config = format!(
                "server_name: s{number}\nlisten: \"127.0.0.1:{}\"\n\
                 jetstream {{ store_dir: \"{}\", max_mem: 64M, max_file: 1G }}\n\
                 authorization {{ user: ferric, password: \"p@ss\" }}\n{}\n{}",
                ports[number],
                store.display(),
                more(folder.path()),
                if count > 1 { cluster.as_str() } else { "" },
            );
            std::fs::write(folder.path().join(format!("s{number}.conf")), config).unwrap();
        }
        let mut servers = Servers { folder, ports, running: (0..count).map(|_| None).collect() };
        (0..count).for_each(|number| servers.run(number));
        servers
    }

    pub(crate) fn run(&mut self, number: usize) {
        let log = std::fs::File::create(self.folder.path().join(format!("s{number}.log"))).unwrap();
        let config = self.folder.path().join(format!("s{number}.conf"));
        let child = Command::new(program())
            .arg("-c")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nats-server does not start: `.ci/setup test` installs it");
        self.running[number] = Some(child);
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self, number: usize) {
        if let Some(mut child) = self.running[number].take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops a server in the middle of what it does, or lets it go on: its connections stay.
    pub(crate) fn stand_still(&self, number: usize, still: bool) {
        let signal = if still { "-STOP" } else { "-CONT" };
        let pid = self.running[number].as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Which server leads a stream.
    pub(crate) async fn leader(&self, stream: &str) -> usize {
        let context = async_nats::jetstream::new(self.client().await);
        loop {
            let info = context.get_stream(stream).await.ok().map(|stream| stream.cached_info().clone());
            match info.and_then(|info| info.cluster).and_then(|cluster| cluster.leader) {
                Some(name) => return name.trim_start_matches('s').parse().unwrap(),
                None => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    pub(crate) fn port(&self, number: usize) -> u16 {
        self.ports[number]
    }

    pub(crate) fn kill_all(&mut self) {
        (0..self.running.len()).for_each(|number| self.kill(number));
    }

    pub(crate) fn run_all(&mut self) {
        (0..self.running.len()).for_each(|number| self.run(number));
    }

    /// The URLs, one of the servers first.
    pub(crate) fn urls(&self, first: usize, user: &str) -> Vec<String> {
        let count = self.running.len();
        (0..count).map(|number| format!("nats://{user}@127.0.0.1:{}", self.ports[(first + number) % count])).collect()
    }

    /// A node whose nearest server is the one of its number.
    pub(crate) fn node(&self, number: usize, incarnation: u64) -> ClusterState {
        let nats = NatsConfig { servers: self.urls(number, "ferric:p%40ss"), tls: None, replicas: self.running.len() };
        ClusterState::start(config(self.folder.path(), number, incarnation, Some(nats))).unwrap()
    }

    /// A client of the test's own.
    pub(crate) async fn client(&self) -> async_nats::Client {
        let servers: Vec<async_nats::ServerAddr> =
            self.ports[..self.running.len()].iter().map(|port| format!("127.0.0.1:{port}").parse().unwrap()).collect();
        let options = async_nats::ConnectOptions::with_user_and_password("ferric".into(), "p@ss".into());
        options.retry_on_initial_connect().connect(servers).await.unwrap()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.kill_all();
    }
}

pub(crate) fn config(folder: &Path, number: usize, incarnation: u64, nats: Option<NatsConfig>) -> ClusterConfig {
    ClusterConfig {
        cluster: "east".to_owned(),
        identity: Identity { node: NodeId::new(&format!("n{number}")).unwrap(), incarnation },
        data_dir: folder.join(format!("node{number}")),
        soft: SoftConfig { digest_interval: Duration::from_secs(1), ..SoftConfig::default() },
        nats,
        beside: None,
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/nats-server")
}

fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
