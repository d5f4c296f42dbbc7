"""Two sites on this machine: in each a pair of proxies with SRS and two workers; NATS, PostgreSQL, S3 and DNS beside them.

    site a (east): edge-a1, edge-a2, work-a1, work-a2, NATS      core: SBC, PostgreSQL, S3, NATS
    site b (west): edge-b1, edge-b2, work-b1, work-b2, NATS      the machine itself: DNS, the test

    with Bed() as bed:
        load = bed.load(calls=40, hold=60)
        bed["work-a1"].kill()

What is not stopped by then is stopped by pid, and the network is taken away, whatever happens in between.
"""

import concurrent.futures
import datetime
import json
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "system")]

import lib.node  # noqa: E402 - found by the line above
from lib.dns import Dns  # noqa: E402
from lib.node import ROOT, wait  # noqa: E402
from network import Loopback, Namespaces, usable  # noqa: E402
from servers import Database, Nats, Store, ready  # noqa: E402

FERRIC = pathlib.Path(os.environ.get("FERRIC", lib.node.FERRIC))
# Keys of several nodes are long to make; a bed that is built often uses them again.
WORK = ROOT / "target" / "cluster"
DOMAIN = "ferric.test"
SITES = {"a": "east", "b": "west"}
SIP, HTTP, QUIC = 5060, 8080, 59106


def run(*arguments, **options):
    """A command of the binary, on the machine itself."""
    import subprocess

    options.setdefault("timeout", 300)
    return subprocess.run([str(FERRIC), *map(str, arguments)], capture_output=True, text=True, **options)


class Node:
    """A node of the bed. `letter` is its network, `site` what the configuration calls it."""

    def __init__(self, bed, name, letter, roles):
        self.bed, self.name, self.letter, self.site, self.roles = bed, name, letter, SITES[letter], roles
        self.last = {"edge": 10, "work": 20}[name.split("-")[0]] + int(name[-1])
        self.host = bed.network.host(name, letter, self.last)
        self.home = bed.home / name
        self.data = self.home / "data"
        self.log = bed.home / "logs" / f"{name}.log"
        self.process = self.events = None
        self.home.mkdir(parents=True, exist_ok=True)

    @property
    def address(self):
        return self.host.address

    def configure(self, **options):
        """Writes the configuration; `options` are lines for sections."""
        bed, address = self.bed, self.address
        listen = "".join(
            f'[[sip.listen]]\ntransport = "{transport}"\naddress = "{address}:{SIP}"\n' for transport in ("udp", "tcp")
        )
        quoted = ", ".join(f'"{role}"' for role in self.roles)
        seeds = ", ".join(f'"{node.address}:{QUIC}"' for node in bed.nodes.values() if node is not self)
        near = sorted(bed.nats, key=lambda server: server.host.name != f"nats-{self.letter}")
        nats = ", ".join(f'"{server.url}"' for server in near)
        partner = next((node.name for node in bed.nodes.values() if node.roles == self.roles and node.letter == self.letter and node is not self), None)
        pair = f'contact = "srs-{self.letter}.{DOMAIN}"\npartner = "{partner}"\n' if "srs" in self.roles else ""
        lines = {name: "\n".join(f"{key} = {value}" for key, value in values.items()) for name, values in options.items()}
        proxy = f'[proxy]\ndns = ["{bed.dns.address}"]\n{lines.get("proxy", "")}\n' if "proxy" in self.roles else ""
        capture = ""
        if "capture" in self.roles:
            capture = f'[capture]\nrtp_address = "{address}"\nrtp_ports = "39500-41500"\n{lines.get("capture", "")}\n'
        tenants = "".join(
            f'[[sip.trust]]\nsource = "{source}"\ntenant = "{tenant}"\n'
            f'[[tenant]]\nname = "{tenant}"\npublic_keys = ["{bed.home}/acme.public.pem"]\nstore = "{bed.store_url}"\nmirror = {mirror}\n'
            for tenant, source, mirror in (
                ("twice", f"{bed.mirrored_sbc.address}/32", "true"),
                ("acme", "127.0.0.0/8" if bed.mirrored_sbc.namespace is None else "10.60.0.0/16", "false"),
            )
        )
        catalog = f'[catalog]\nurl = "{bed.database.url}"\npassword_file = "{bed.home}/database.secret"\n' if bed.database else ""
        self.config = self.home / "ferric.toml"
        self.config.write_text(
            f'[node]\nid = "{self.name}"\nsite = "{self.site}"\ndata_dir = "{self.data}"\nroles = [{quoted}]\ndrain_timeout = "60s"\n'
            f'{listen if {"srs", "proxy"} & set(self.roles) else ""}'
            f"[sip.limits]\nrequests_per_second_per_source = 20000\n"
            f'{proxy}[recording]\n{lines.get("recording", "")}\n{capture}'
            f"{tenants}"
            f'[upload]\nspool_high_water = "99%"\nsegment = "100ms"\n{lines.get("upload", "")}\n[console]\nlisten = "{address}:{HTTP}"\n'
            f'[cluster]\nname = "bed"\nquic = "{address}:{QUIC}"\nseeds = [{seeds}]\npreferred_site = "east"\n'
            f'ca = "{bed.keys}/cluster-ca.crt"\ncertificate = "{bed.keys}/{self.name}.crt"\nprivate_key = "{bed.keys}/{self.name}.key"\n'
            f'nats = [{nats}]\nreplicas = {len(bed.nats)}\n{pair}{lines.get("cluster", "")}\n{catalog}'
        )

    def start(self):
        environment = {**os.environ, **Store.environment, "RUST_LOG": os.environ.get("RUST_LOG", "info")}
        self.process = self.host.start([FERRIC, "run", "--config", self.config], self.log, env=environment, cwd=self.home)
        return self

    def is_up(self):
        return self.process is not None and self.process.poll() is None

    def is_ready(self):
        assert self.is_up(), f"{self.name} ended:\n{self.tail()}"
        try:
            return self.ask("/readyz", raw=True)[0] == 200 and (self.data / "admin.token").exists()
        except OSError:
            return False

    def kill(self):
        """kill -9, by pid; when it was, on the clock."""
        if self.is_up():
            self.process.send_signal(signal.SIGKILL)
        at = time.time()
        if self.process:
            self.process.wait(10)
        return at

    def terminate(self, timeout=90):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def ask(self, path, raw=False, method="GET", body=None, timeout=10):
        token = self.data / "admin.token"
        data = json.dumps(body).encode() if body is not None else (b"" if method == "POST" else None)
        request = urllib.request.Request(f"http://{self.address}:{HTTP}{path}", method=method, data=data)
        request.add_header("Content-Type", "application/json")
        if token.exists():
            request.add_header("Authorization", f"Bearer {token.read_text().strip()}")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                status, payload = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, payload = error.code, error.read()
        if raw:
            return status, payload
        assert status in (200, 204), f"{self.name} {path}: {status} {payload[:300]}"
        return json.loads(payload or b"null")

    def metric(self, name):
        text = self.ask("/metrics", raw=True)[1].decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))

    def tail(self, size=3000):
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""


class Events(threading.Thread):
    """The events of a node, as they come."""

    def __init__(self, node):
        super().__init__(daemon=True)
        self.node, self.seen, self.stream = node, [], None
        self.start()

    def run(self):
        while self.node.bed.running:
            try:
                token = (self.node.data / "admin.token").read_text().strip()
                request = urllib.request.Request(f"http://{self.node.address}:{HTTP}/api/v1/events")
                request.add_header("Authorization", f"Bearer {token}")
                with urllib.request.urlopen(request, timeout=3600) as self.stream:
                    name = ""
                    for line in self.stream:
                        if line.startswith(b"event:"):
                            name = line[6:].decode().strip()
                        elif line.startswith(b"data:"):
                            self.seen.append((time.time(), name, line[5:]))
            except (OSError, ValueError):
                time.sleep(0.3)

    def first(self, kind, since, **fields):
        """When an event came first after a moment; None if it did not."""
        for at, name, data in list(self.seen):
            if at >= since and name == kind:
                event = json.loads(data)
                if all(event.get(key) == value for key, value in fields.items()):
                    return at
        return None


class Bed:
    """Everything. `options` goes into the configuration of all nodes: `recording={"mirror": "true"}`."""

    def __init__(self, name="bed", *, sites="ab", nats=True, database=True, store=True, roles=None, say=print, **options):
        self.say, self.options, self.running = say, options, True
        self.home = WORK / name
        shutil.rmtree(self.home, ignore_errors=True)
        (self.home / "logs").mkdir(parents=True)
        self.letters = sites
        self.nodes, self.nats, self.database, self.store = {}, [], None, None
        self.network = Namespaces() if usable() else Loopback()
        if not self.network.can_cut:
            say("no namespaces here: all hosts are addresses of the loopback, and links cannot be cut")
        self.store_url = f"file://{self.home}/store"
        self.started = []
        self.wanted = (nats, database, store)
        self.roles = roles or {"edge": ["proxy", "srs", "console"], "work": ["capture", "console"]}

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_):
        self.stop()

    def __getitem__(self, name):
        return self.nodes[name]

    # Start and stop

    def start(self):
        nats, database, store = self.wanted
        host = self.network.host
        self.sbc = host("sbc", "core", 10)
        # Whoever calls from here is recorded twice.
        self.mirrored_sbc = host("sbc-twice", "core", 11)
        self.dns = Dns(host=self.network.top).start()
        if database or store:
            core = host("core", "core", 20)
        if nats:
            places = [("a", 31), ("b", 31), ("core", 31)] if len(self.letters) == 2 else [("a", 31), ("core", 31), ("core", 32)]
            hosts = [host(f"nats-{site}{'' if last == 31 else last}", site, last) for site, last in places]
            self.nats = [Nats(one, self.home, hosts) for one in hosts]
        if database:
            self.database = Database(core, self.home)
            (self.home / "database.secret").write_text(Database.password + "\n")
        if store:
            self.store = Store(core, self.home)
            self.store_url = self.store.url("calls")
        servers = [*self.nats, *filter(None, (self.database, self.store))]
        for server in servers:
            server.start()
        self.make_nodes()
        self.say(f"waiting for {', '.join(type(server).__name__ for server in servers)}" if servers else "no servers")
        for server in servers:
            ready(server)
        began = time.monotonic()
        for node in self.nodes.values():
            node.start()
        for node in self.nodes.values():
            wait(node.is_ready, 60, f"{node.name} does not get ready:\n{node.tail()}")
            node.events = Events(node)
        wait(self.is_whole, 60, f"the nodes do not see each other: {self.seen()}")
        self.say(f"{len(self.nodes)} nodes see each other after {time.monotonic() - began:.1f} s")
        return self

    def make_nodes(self):
        for letter in self.letters:
            for number in (1, 2):
                for kind, roles in self.roles.items():
                    name = f"{kind}-{letter}{number}"
                    self.nodes[name] = Node(self, name, letter, roles)
        self.keys = self.home / "keys"
        done = run("keys", "new", "--out", self.home, "--tenant", "acme")
        assert done.returncode == 0, done.stderr
        self.key = self.home / "acme.private.pem"
        for node in self.nodes.values():
            done = run("keys", "cluster", "--out", self.keys, "--node", node.name, "--site", node.site)
            assert done.returncode == 0, done.stderr
        for node in self.nodes.values():
            if node.last < 20:
                self.dns.add(f"{node.name}.{DOMAIN} 5 A {node.address}")
                for transport in ("udp", "tcp"):
                    self.dns.add(f"_sip._{transport}.srs-{node.letter}.{DOMAIN} 5 SRV 10 50 {SIP} {node.name}.{DOMAIN}")
                    # What the SBC dials: site a first.
                    priority = 10 if node.letter == self.letters[0] else 20
                    self.dns.add(f"_sip._{transport}.rec.{DOMAIN} 5 SRV {priority} 50 {SIP} {node.name}.{DOMAIN}")
        for node in self.nodes.values():
            node.configure(**self.options)

    def stop(self):
        self.running = False
        processes = [node.process for node in self.nodes.values() if node.process]
        processes += [server.process for server in (*self.nats, self.store) if server and server.process]
        processes += self.started
        for process in processes:
            if process.poll() is None:
                # Whoever stands still hears nothing else.
                process.send_signal(signal.SIGCONT)
                process.kill()
        for process in processes:
            process.wait(10)
        if self.database:
            self.database.remove()
        if getattr(self, "dns", None):
            self.dns.stop()
        self.network.remove()

    # What nodes see

    def up(self):
        return [node for node in self.nodes.values() if node.is_up()]

    def seen(self):
        """For each node that runs, those that it sees as up."""
        def of(node):
            try:
                nodes = node.ask("/api/v1/nodes")["nodes"]
            except (OSError, AssertionError) as error:
                return node.name, str(error)[:80]
            return node.name, sorted(other["id"] for other in nodes if other["state"] == "up")

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            return dict(pool.map(of, self.up()))

    def is_whole(self):
        """All nodes run and see all others."""
        everyone = sorted(self.nodes)
        return sorted(node.name for node in self.up()) == everyone and all(seen == everyone for seen in self.seen().values())

    def told_down(self, name, since):
        """Seconds until each other node told that a node is down; None for those that did not."""
        told = {}
        for node in self.up():
            if node.events and node.name != name:
                at = node.events.first("node.down", since, node=name)
                told[node.name] = None if at is None else at - since
        return told

    def tails(self, names=None):
        """The ends of logs, for a failure that nobody watched."""
        chosen = [node for node in self.nodes.values() if names is None or node.name in names]
        return "\n".join(f"--- {node.log}\n{node.tail(1500)}" for node in chosen)


def clock(at):
    return datetime.datetime.fromtimestamp(at).strftime("%H:%M:%S.%f")[:-3]
