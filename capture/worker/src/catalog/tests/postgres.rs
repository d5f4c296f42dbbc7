//! A PostgreSQL of a test's own: a temporary folder, a free port, stopped by its pid.
//!
//! It refuses to run as root; a test that does runs it as `nobody`. It is found under
//! `/usr/lib/postgresql`, where Debian puts it, or on the path.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const NOBODY: u32 = 65_534;

pub(super) struct Server {
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// An empty one that is ready.
    pub(super) fn start() -> Server {
        let mut server = Server::absent();
        server.run();
        server
    }

    /// Nobody listens yet.
    pub(super) fn absent() -> Server {
        let dir = tempfile::tempdir().unwrap();
        if is_root(dir.path()) {
            std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = dir.path().join("data");
        let mut initdb = program("initdb", dir.path());
        initdb.args([
            "--no-sync",
            "--no-instructions",
            "-A",
            "trust",
            "-U",
            "ferric",
            "-E",
            "UTF8",
            "--locale",
            "C.UTF-8",
        ]);
        let done = initdb.arg("-D").arg(&data).output().expect(MISSING);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Server { dir, port, child: None }
    }

    /// Starts it, again on the same port.
    pub(super) fn run(&mut self) {
        let mut server = program("postgres", self.dir.path());
        server.arg("-D").arg(self.folder()).stderr(Stdio::piped()).stdout(Stdio::null());
        let port = format!("port={}", self.port);
        for setting in
            [&port, "listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=16MB", "fsync=off"]
        {
            server.args(["-c", setting]);
        }
        let mut child = server.spawn().expect(MISSING);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said: Vec<String> =
            lines.by_ref().map_while(Result::ok).take_while(|line| !line.contains("ready to accept")).collect();
        self.child = Some(child);
        // The rest is read so that it never waits for us.
        let rest = std::thread::spawn(move || lines.map_while(Result::ok).count());
        let is_up = std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        assert!(is_up, "PostgreSQL does not start: {said:#?}");
        drop(rest);
    }

    /// kill -9 of the server; its children end with it.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(super) fn url(&self) -> String {
        format!("postgres://ferric@127.0.0.1:{}/postgres", self.port)
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

const MISSING: &str = "PostgreSQL is missing: `.ci/setup test` installs it, or names the package";

fn is_root(path: &Path) -> bool {
    std::fs::metadata(path).unwrap().uid() == 0
}

/// A program of PostgreSQL, run by the owner of the folder.
fn program(name: &str, folder: &Path) -> Command {
    let mut versions: Vec<PathBuf> =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    versions.sort();
    let debian = versions.pop().map(|version| version.join("bin").join(name));
    let mut command = Command::new(debian.filter(|path| path.exists()).unwrap_or_else(|| name.into()));
    command.current_dir(folder);
    let owner = std::fs::metadata(folder).unwrap();
    if owner.uid() == NOBODY {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}
