"""A Ferric node of a test's own: generated configuration, free ports, its own folder."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
FERRIC = ROOT / "target" / "release" / "ferric"
WORK = ROOT / "target" / "system"


def folder(name):
    """A fresh folder for one test."""
    path = WORK / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ferric(*arguments, **options):
    """Runs a command and returns the finished process."""
    return subprocess.run(
        [str(FERRIC), *map(str, arguments)], capture_output=True, text=True, timeout=options.pop("timeout", 120), **options
    )


_next_ports = [20000 + (os.getpid() * 97) % 8000]


def rtp_range(pairs=400):
    """A range of RTP ports that no other node of this moment uses; after some fifty nodes they come again."""
    if _next_ports[0] + 2 * pairs > 60_000:
        _next_ports[0] = 20_000
    first = _next_ports[0]
    _next_ports[0] += 2 * pairs + 2
    return f"{first}-{first + 2 * pairs}"


class Node:
    """Starts, asks and stops a node."""

    def __init__(self, home, *, tls=None, store=None, extra="", capture="", recording="", upload="", data_dir=None, env=None):
        self.home = home
        self.data = data_dir or home / "data"
        self.sip = free_port(socket.SOCK_DGRAM)
        self.sips = free_port()
        self.http = free_port()
        self.log = home / "node.log"
        self.env = {**os.environ, "RUST_LOG": "info", **(env or {})}
        self.process = None
        if not (home / "acme.private.pem").exists():
            done = ferric("keys", "new", "--out", home, "--tenant", "acme")
            assert done.returncode == 0, done.stderr
        self.key = home / "acme.private.pem"
        self.store = store or f"file://{home}/store"
        tls_listener = ""
        if tls:
            tls_listener = f'[[sip.listen]]\ntransport = "tls"\naddress = "127.0.0.1:{self.sips}"\n'
            client_ca = f'client_ca = "{tls["client_ca"]}"\n' if tls.get("client_ca") else ""
            tls_listener += f'[sip.tls]\ncertificate = "{tls["certificate"]}"\nprivate_key = "{tls["key"]}"\n{client_ca}'
        self.config = home / "ferric.toml"
        self.config.write_text(
            f'[node]\nid = "test"\ndata_dir = "{self.data}"\ndrain_timeout = "20s"\n'
            f'[[sip.listen]]\ntransport = "udp"\naddress = "127.0.0.1:{self.sip}"\n'
            f'[[sip.listen]]\ntransport = "tcp"\naddress = "127.0.0.1:{self.sip}"\n{tls_listener}'
            f'[sip.limits]\nrequests_per_second_per_source = 2000\n'
            f'[recording]\n{recording}\n'
            f'[capture]\nrtp_address = "127.0.0.1"\nrtp_ports = "{rtp_range()}"\n{capture}\n'
            f'[[tenant]]\nname = "acme"\npublic_keys = ["acme.public.pem"]\nstore = "{self.store}"\n'
            f'[upload]\n{upload}\n'
            f'[console]\nlisten = "127.0.0.1:{self.http}"\n{extra}'
        )

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [str(FERRIC), "run", "--config", str(self.config)], stdout=log, stderr=log, env=self.env
            )
        wait(lambda: self.alive(), 20, "the node does not start", self)
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.kill()

    def alive(self):
        assert self.process.poll() is None, f"the node ended: {self.tail()}"
        try:
            return self.get("/readyz", raw=True)[0] in (200, 503) and (self.data / "admin.token").exists()
        except OSError:
            return False

    def kill(self):
        """kill -9, by pid."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)

    def terminate(self, timeout=30):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def get(self, path, raw=False, method="GET", body=None, headers=None):
        token = (self.data / "admin.token").read_text().strip() if (self.data / "admin.token").exists() else ""
        data = json.dumps(body).encode() if body is not None else (b"" if method == "POST" else None)
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", method=method, data=data)
        request.add_header("Authorization", f"Bearer {token}")
        request.add_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, payload = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, payload = error.code, error.read()
        if raw:
            return status, payload
        assert status == 200, f"{path}: {status} {payload[:300]}"
        return json.loads(payload)

    def recordings(self):
        found, cursor = [], ""
        while True:
            page = self.get(f"/api/v1/recordings?limit=500{cursor}")
            found += page["recordings"]
            if not page.get("next_cursor"):
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def stored(self, count, timeout=40):
        """Waits for `count` stored recordings."""
        wait(lambda: sum(r["stored"] for r in self.recordings()) >= count, timeout, f"{count} stored recordings", self)
        return self.recordings()

    def metric(self, name):
        text = self.get("/metrics", raw=True)[1].decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def rss_kib(self):
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        return 0

    def tail(self):
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def find(self, recording_id):
        """The folder of a recording in a file store."""
        hits = list(pathlib.Path(self.store.removeprefix("file://")).glob(f"acme/*/*/*/{recording_id}"))
        assert len(hits) == 1, f"{recording_id}: {hits}"
        return hits[0]

    def open_damaged(self, recording_id):
        """As `open`, for a recording that was cut: everything before the cut."""
        return self.open(recording_id, code=3)

    def open(self, recording_id, code=0):
        """Metadata and the opened audio file of a stored recording."""
        place = self.find(recording_id)
        audio = self.home / f"{recording_id}.opus"
        done = ferric("decrypt", "--key", self.key, place / "audio.eopus", "-o", audio)
        assert done.returncode == code, (done.returncode, done.stderr)
        done = ferric("decrypt", "--key", self.key, place / "metadata.ejson", "-o", "-")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), audio


def wait(condition, timeout, what, node=None):
    """Polls until a condition holds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError(f"waited {timeout} s in vain: {what}\n{node.tail() if node else ''}")
