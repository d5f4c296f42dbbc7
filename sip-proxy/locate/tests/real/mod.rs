//! A DNS server in a process of its own (`tests/system/lib/dns.py`), and a locator that asks it through real sockets.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use ferric_locate::{DnsClient, DnsConfig, Located, Locator, LocatorConfig, Target};
use ferric_sip::Uri;

/// Longer than anything here may take on a machine that does other things too.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Ends with the test: its input closes.
pub struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(zone: &str) -> Server {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/system/lib/dns.py");
        let mut child =
            Command::new("python3").arg(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = SocketAddr::new([127, 0, 0, 1].into(), line.trim().parse().expect("a port"));
        let mut server = Server { child, input, output, address };
        zone.lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .for_each(|line| server.tell(&format!("add {line}")));
        server
    }

    fn say(&mut self, command: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "{command}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub fn tell(&mut self, command: &str) {
        assert_eq!(self.say(command), "ok", "{command}");
    }

    /// Questions since the last `forget`: `SRV`, `SRV name`, or all; `over` is `udp` or `tcp`.
    pub fn count(&mut self, of: &str) -> u32 {
        self.say(&format!("count {of}")).parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

pub struct Rig {
    pub client: DnsClient,
    pub locator: Locator,
}

impl Rig {
    /// Each attempt at a server lasts half a second, and there are two.
    pub fn new(servers: &[&Server]) -> Rig {
        Rig::with(servers, LocatorConfig::default(), Duration::from_millis(500))
    }

    pub fn with(servers: &[&Server], config: LocatorConfig, timeout: Duration) -> Rig {
        let servers = servers.iter().map(|server| server.address).collect();
        let dns = DnsConfig { servers, timeout, hosts_file: false, ..DnsConfig::default() };
        Rig { client: DnsClient::new(dns).unwrap(), locator: Locator::new(config, 1) }
    }

    pub fn locate(&mut self, uri: &str) -> Located {
        let target = Target::of_uri(&Uri::parse(uri).unwrap()).unwrap();
        self.locator.locate(Instant::now(), &target)
    }

    /// What memory says at once.
    pub fn at_once(&mut self, uri: &str) -> String {
        show(&self.locate(uri))
    }

    /// The same after DNS was asked, if need be.
    pub async fn found(&mut self, uri: &str) -> String {
        match self.locate(uri) {
            Located::Wait(ticket) => {
                let mut end = None;
                self.until("the look-up ends", |rig| {
                    while let Some((ready, located)) = rig.locator.poll_ready() {
                        assert_eq!(ready, ticket);
                        end = Some(show(&located));
                    }
                    end.is_some()
                })
                .await;
                end.unwrap()
            }
            located => show(&located),
        }
    }

    /// Runs the locator until something is so.
    pub async fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Rig) -> bool) {
        let begin = Instant::now();
        loop {
            let now = Instant::now();
            self.locator.handle_timeout(now);
            self.client.pump(now, &mut self.locator);
            if is_so(self) {
                return;
            }
            assert!(now - begin < LIMIT, "{what}: not within {LIMIT:?}; {:?}", self.locator.stats());
            let again = now + Duration::from_millis(50);
            let next = self.locator.poll_timeout().map_or(again, |at| at.min(again));
            tokio::select! {
                answer = self.client.recv() => {
                    let (id, result) = answer.unwrap();
                    self.locator.handle_answer(Instant::now(), id, result);
                }
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }
}

pub fn show(located: &Located) -> String {
    match located {
        Located::Ready(hops) => {
            let hops: Vec<String> = hops.iter().map(|hop| format!("{} {}", hop.transport, hop.address)).collect();
            hops.join(", ")
        }
        Located::Failed(error) => format!("failed: {error}"),
        Located::Wait(_) => "wait".into(),
        Located::Servers(set) => format!("{} servers", set.servers.len()),
    }
}
