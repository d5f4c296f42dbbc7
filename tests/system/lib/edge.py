"""A Ferric node with a [proxy] section, sipp elements behind it and sipp callers before it.

Everything is on the loopback and on free ports, runs in a folder of its own, and ends by pid with the test.
"""

import collections
import csv
import datetime
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from .node import ROOT, Node, wait

sys.path.append(str(ROOT / "tests" / "bench"))
from processes import Child, free_port  # noqa: E402 - the bench has the same children

SCENARIOS = pathlib.Path(__file__).resolve().parents[1] / "sipp"
LONG = os.environ.get("FERRIC_LONG") == "1"
# New calls a second: what the edge must bear, or what three tests at once on a small machine do.
RATE = int(os.environ.get("FERRIC_RATE", "500" if LONG else "200"))
# One timeout of a group (500 ms x 2) and then an answer, on a machine that is busy with other things.
WORST_MS = 2500


class Edge(Node):
    """A node that is a proxy; `proxy` is TOML of the [proxy] section, `ip` where it listens for SIP."""

    def __init__(self, home, proxy, *, ip="127.0.0.1", **options):
        super().__init__(home, extra=f"[proxy]\n{proxy}", **options)
        self.ip = ip
        text = self.config.read_text().replace("requests_per_second_per_source = 2000", "requests_per_second_per_source = 1_000_000")
        text = text.replace(f'address = "127.0.0.1:{self.sip}"', f'address = "{ip}:{self.sip}"')
        self.base = text.split("[proxy]\n")[0]
        self.config.write_text(text)

    def rewrite(self, proxy, *, tell=True):
        """Another [proxy] section, taken over by SIGHUP. The file changes as a whole."""
        fresh = self.config.with_suffix(".new")
        fresh.write_text(f"{self.base}[proxy]\n{proxy}")
        fresh.replace(self.config)
        if tell:
            self.process.send_signal(signal.SIGHUP)

    def post(self, path):
        status, body = self.get(path, raw=True, method="POST")
        assert status in (200, 204), f"{path}: {status} {body[:300]}"

    def said(self, what, element="", since=0.0):
        """Seconds since the epoch at which the log says `what` of an element, from `since` on."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            if what in line and (not element or f'element="{element}"' in line):
                stamp = re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z", re.sub(r"\x1b\[[0-9;]*m", "", line))
                if stamp:
                    at = datetime.datetime.fromisoformat(stamp[0].replace("Z", "+00:00")).timestamp()
                    if at >= since:
                        found.append(at)
        return found

    def wait_said(self, what, element="", since=0.0, timeout=10.0):
        """The first of `said`, waited for."""
        wait(lambda: self.said(what, element, since), timeout, f"{what} {element}", self)
        return self.said(what, element, since)[0]

    def requests(self, least=0, method="INVITE"):
        """The log of finished requests, `least` of them waited for: `n` tries, status `st`, milliseconds `ms`, element `el`."""
        path = self.data / "log" / "requests.jsonl"

        def read():
            lines = path.read_text().splitlines() if path.exists() else []
            return [found for found in (json.loads(line) for line in lines if line.endswith("}")) if found["m"] == method]

        wait(lambda: len(read()) >= least, 10, f"{least} lines of {path}", self)
        return read()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def group(name, elements, *, heartbeat='{ up = "500ms", down = "500ms", misses = 3 }', more=""):
    """A [[proxy.server_group]]; elements as (address, priority, weight)."""
    listed = ",\n".join(f'  {{ address = "{address}", priority = {priority}, weight = {weight} }}' for address, priority, weight in elements)
    return f'[[proxy.server_group]]\nname = "{name}"\nheartbeat = {heartbeat}\n{more}element = [\n{listed}\n]\n'


def route(to, match='{ method = "INVITE" }'):
    return f'[[proxy.route]]\nmatch = {match}\nto = "{to}"\n'


class Sipp:
    """sipp with a scenario of ours in a folder of its own. Without a target it is an element, else a caller."""

    def __init__(self, home, name, scenario, *, transport="u1", target=None, rate=None, ip="127.0.0.1", port=None, namespace=None, **words):
        self.folder = home / name
        self.folder.mkdir(parents=True, exist_ok=True)
        text = (SCENARIOS / f"{scenario}.xml").read_text()
        for word, value in words.items():
            text = text.replace(f"@{word.upper()}@", str(value))
        missing = re.findall(r"@[A-Z_]+@", text)
        assert not missing, f"{scenario}: {missing}"
        self.path = self.folder / f"{scenario}.xml"
        self.path.write_text(text)
        self.port = port or free_port()
        self.ip, self.transport, self.target, self.rate, self.namespace = ip, transport, target, rate, namespace
        self.child = None
        self.lives = []

    @property
    def address(self):
        """As the configuration of the edge names it."""
        return f"{self.ip}:{self.port}" + (";transport=tcp" if self.transport[0] == "t" else "")

    def start(self):
        number = len(self.lives)
        command = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        command += ["sipp"] + ([self.target] if self.target else [])
        command += ["-sf", self.path, "-i", self.ip, "-p", self.port, "-t", self.transport, "-nostdin", "-trace_stat",
                    "-stf", self.folder / f"{number}.stat.csv", "-fd", "1", "-trace_counts", "-trace_err", "-error_file", self.folder / f"{number}.err",
                    "-buff_size", "4000000", "-deadcall_wait", "0", "-max_recv_loops", "1000", "-max_sched_loops", "1000",
                    "-watchdog_minor_maxtriggers", "1000000", "-watchdog_major_maxtriggers", "1000000"]
        if self.target:
            command += ["-r", self.rate, "-l", 30 * self.rate, "-recv_timeout", "10000", "-trace_rtt", "-rtt_freq", "1"]
        self.child = Child(command, log=self.folder / "sipp.log")
        self.lives.append((number, self.child.pid))
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        # A frozen process hears no SIGTERM.
        self.thaw()
        self.child.stop(grace=0.5)

    def is_alive(self):
        return self.child.process.poll() is None

    def kill(self):
        """kill -9; returns the moment."""
        at = time.time()
        self.child.send(signal.SIGKILL)
        self.child.wait(5)
        return at

    def freeze(self):
        """It keeps its port and says nothing; returns the moment."""
        at = time.time()
        self.child.send(signal.SIGSTOP)
        return at

    def thaw(self):
        self.child.send(signal.SIGCONT)

    def passed(self):
        """How often lines of the scenario were passed, over all its lives, as {"INVITE_Recv": 500}. A second old at most."""
        found = collections.Counter()
        for _, pid in self.lives:
            rows = _rows(self.folder / f"{self.path.stem}_{pid}_counts.csv")
            for name, value in (rows[-1] if rows else {}).items():
                index, _, kind = (name or "").partition("_")
                if index.isdigit() and value:
                    found[kind] += int(value)
        return found

    def invites(self):
        return self.passed()["INVITE_Recv"]

    def counts(self):
        """sipp's own count of the calls of this life."""
        rows = _rows(self.folder / f"{self.lives[-1][0]}.stat.csv")
        last = rows[-1] if rows else {}
        number = lambda name: int(last.get(name) or 0)
        return {"calls": number("OutgoingCall(C)") + number("IncomingCall(C)"), "ok": number("SuccessfulCall(C)"), "failed": number("FailedCall(C)"),
                "open": number("CurrentCall"), "repeated": number("Retransmissions(C)")}

    def waits(self):
        """Of each call that was answered: how long that took, in milliseconds."""
        rows = _rows(self.folder / f"{self.path.stem}_{self.child.pid}_rtt.csv")
        return [float(row["response_time_ms"]) for row in rows if row.get("response_time_ms")]

    def finish(self, seconds=25):
        """No new calls; the open ones end. Returns the counts."""
        self.child.send(signal.SIGUSR1)
        assert self.child.wait(seconds), f"calls are still open: {self.counts()}"
        return self.counts()

    def errors(self):
        path = self.folder / f"{self.lives[-1][0]}.err"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""


def _rows(path):
    """A table of sipp's without a line that is being written."""
    if not path.exists():
        return []
    whole, newline, _ = path.read_text(errors="replace").rpartition("\n")
    return list(csv.DictReader((whole + newline).splitlines(), delimiter=";"))


def element(home, name, *, silent_ms=0, ring_ms=0, **options):
    return Sipp(home, name, "element", silent_ms=silent_ms, ring_ms=ring_ms, **options)


def caller(home, edge, *, rate=None, talk_ms=0, user="+15550100", name="caller", scenario="caller", **options):
    return Sipp(home, name, scenario, target=f"{edge.ip}:{edge.sip}", rate=rate or RATE, talk_ms=talk_ms, user=user, **options)


class Shares:
    """What elements get from here on."""

    def __init__(self, *elements):
        self.elements = elements
        self.before = [one.invites() for one in elements]

    def after(self, seconds):
        """INVITEs of each element after so many seconds."""
        time.sleep(seconds)
        return [one.invites() - before for one, before in zip(self.elements, self.before)]


def all_well(load, edge, *, worst_ms=WORST_MS, least=None, may_fail=0):
    """Ends the load: no call failed and none waited longer than `worst_ms`. Returns the counts with the waits."""
    counts = load.finish()
    waits = sorted(load.waits()) or [0.0]
    counts["p50_ms"], counts["p99_ms"], counts["slowest_ms"] = waits[len(waits) // 2], waits[len(waits) * 99 // 100], waits[-1]
    passed = load.passed()
    counts["lost"] = passed["481_Recv"] + passed["500_Recv"]
    # Before anything is judged: what happened is what a person wants to see of a failure.
    print(json.dumps(counts), flush=True)
    assert counts["failed"] <= may_fail, f"{counts}\n{load.errors()}\n{edge.tail()}"
    assert counts["ok"] + counts["failed"] == counts["calls"] and counts["ok"] >= (least or 1), counts
    assert counts["slowest_ms"] <= worst_ms, counts
    assert "panicked" not in edge.log.read_text(errors="replace")
    return counts


class Segment:
    """A network of its own behind a veth pair, for elements that a route leads to. Needs root."""

    _next = [os.getpid() * 7 % 200]

    def __init__(self):
        self._next[0] = (self._next[0] + 1) % 250
        number = self._next[0]
        self.name = f"ferric-t{os.getpid()}-{number}"
        self.outer, self.inner = f"fo{os.getpid() % 100000}n{number}", f"fi{os.getpid() % 100000}n{number}"
        self.here, self.there = f"10.213.{number}.1", f"10.213.{number}.2"

    def __enter__(self):
        run = lambda *words: subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)
        run("netns", "add", self.name)
        try:
            run("link", "add", self.outer, "type", "veth", "peer", "name", self.inner, "netns", self.name)
            run("address", "add", f"{self.here}/24", "dev", self.outer)
            run("link", "set", self.outer, "up")
            # While the cable is cut nobody in there is told either: sipp ends when it hears that a network is unreachable.
            nowhere = ("route", "add", self.here.rsplit(".", 1)[0] + ".0/24", "dev", "lo", "metric", "1000")
            for words in (("address", "add", f"{self.there}/24", "dev", self.inner), ("link", "set", "lo", "up"), ("link", "set", self.inner, "up"), nowhere):
                run("-n", self.name, *words)
        except subprocess.CalledProcessError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        # With the namespace its end of the pair goes, and so the other one.
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True, timeout=10)

    def set_link(self, up):
        """The far end of the cable: what is sent into it is lost, and nobody is told."""
        subprocess.run(["ip", "-n", self.name, "link", "set", self.inner, "up" if up else "down"], check=True, timeout=10)

    def set_way_back(self, there):
        """Without it requests arrive and their answers are lost."""
        # Nobody has the address that it takes for ours.
        change = ["del", self.here] if there else ["replace", self.here, "lladdr", "02:00:00:00:00:01", "nud", "permanent"]
        subprocess.run(["ip", "-n", self.name, "neighbour", *change, "dev", self.inner], check=True, timeout=10)


class Acceptor:
    """A TCP port that accepts everything: `silent` never answers, `reset` breaks off at the first byte, `fickle` answers
    OPTIONS and breaks off at an INVITE."""

    def __init__(self, mode):
        self.mode, self.connections, self.bytes = mode, 0, 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port};transport=tcp"
        self.open = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open.append(connection)
            threading.Thread(target=self._hold, args=(connection,), daemon=True).start()

    def _hold(self, connection):
        try:
            while data := connection.recv(65536):
                self.bytes += len(data)
                if self.mode == "fickle" and data.startswith(b"OPTIONS"):
                    lines = data.decode(errors="replace").split("\r\n")
                    copied = [line for line in lines if line.split(":")[0].lower() in ("via", "from", "to", "call-id", "cseq")]
                    connection.sendall("\r\n".join(["SIP/2.0 200 OK", *copied, "Content-Length: 0", "", ""]).encode())
                elif self.mode != "silent":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    break
        except OSError:
            pass
        connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.listener.close()
        for connection in self.open:
            connection.close()
