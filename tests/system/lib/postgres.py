"""A PostgreSQL of a test's own: its folder, a free port, stopped by its pid.

It refuses to run as root, so a test that is root runs it as `nobody`. Its folder lies in /tmp, as nobody may not walk to ours.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

from .node import free_port, wait

NOBODY = 65534


def program(name):
    """Debian keeps them off the path."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name) or name


class Postgres:
    def __init__(self):
        self.home = pathlib.Path(tempfile.mkdtemp(prefix="ferric-postgres-"))
        self.owner = {}
        if os.getuid() == 0:
            os.chown(self.home, NOBODY, NOBODY)
            self.owner = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        self.port = free_port()
        self.log = self.home / "log"
        self.process, self.still = None, []
        secret = self.home / "secret"
        secret.write_text("pass word/1\n")
        secret.chmod(0o644)
        self._run("initdb", "--no-sync", "--no-instructions", "-A", "scram-sha-256", "-U", "ferric", "--pwfile", secret,
                  "-E", "UTF8", "--locale", "C.UTF-8", "-D", self.home / "data")

    def _run(self, name, *arguments):
        done = subprocess.run([program(name), *map(str, arguments)], cwd=self.home, capture_output=True, text=True, **self.owner)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @property
    def url(self):
        """Without the password."""
        return f"postgres://ferric@127.0.0.1:{self.port}/postgres"

    password = "pass word/1"

    def start(self):
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=32MB"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [program("postgres"), "-D", str(self.home / "data"), *(word for s in settings for word in ("-c", s))],
                cwd=self.home, stdout=log, stderr=log, start_new_session=True, **self.owner,
            )
        wait(lambda: self.answers(), 20, f"PostgreSQL does not start: {self.log.read_text()[-2000:]}")
        return self

    def answers(self):
        try:
            return self.ask("SELECT 1") == "1"
        except AssertionError:
            return False

    def ask(self, sql):
        environment = {**os.environ, "PGPASSWORD": self.password, "PGCONNECT_TIMEOUT": "3"}
        command = [program("psql"), "-qAtX", "-h", "127.0.0.1", "-p", str(self.port), "-U", "ferric", "-c", sql, "postgres"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def family(self):
        """The server and its children, which are sessions of their own."""
        pids = [self.process.pid]
        for path in pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            pids += map(int, path.read_text().split())
        return pids

    def stand_still(self):
        """It takes connections and says nothing, as behind a cut network."""
        self.still = self.family()
        for pid in self.still:
            os.kill(pid, signal.SIGSTOP)

    def go_on(self):
        for pid in self.still:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass
        self.still = []

    def kill(self):
        """kill -9, by pid; its children end by themselves."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        # Whoever stands still does not notice.
        self.go_on()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)
