"""Nodes of one cluster on loopback addresses 127.0.0.x, each with a certificate of the cluster's own CA; NATS."""

import json
import signal
import socket
import subprocess

from .node import ROOT, Node, ferric, free_port, wait

NATS = ROOT / "target" / "venv" / "bin" / "nats-server"


def free_udp(ip):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((ip, 0))
        return probe.getsockname()[1]


class Member(Node):
    """A node of a cluster. `proxy` is TOML of its [proxy] section, `more` of [cluster]."""

    def __init__(self, lab, name, site="east", *, seeds=(), proxy="", more="", roles=("proxy", "srs", "capture"), name_of_folder=None, **options):
        self.name, self.lab = name, lab
        home = lab.home / (name_of_folder or name)
        home.mkdir(exist_ok=True)
        self.ip = f"127.0.0.{len(lab.members) + 11}"
        self.quic = f"{self.ip}:{free_udp(self.ip)}"
        if not (lab.ca / f"{name}.crt").exists():
            done = ferric("keys", "cluster", "--out", lab.ca, "--node", name, "--site", site)
            assert done.returncode == 0, done.stderr
        seeds = json.dumps([member.quic for member in seeds])
        nats = f"nats = {json.dumps(lab.nats.urls)}\nreplicas = {len(lab.nats.ports)}\n" if lab.nats else ""
        cluster = (
            f'[cluster]\nquic = "{self.quic}"\nseeds = {seeds}\nca = "{lab.ca}/cluster-ca.crt"\n'
            f'certificate = "{lab.ca}/{name}.crt"\nprivate_key = "{lab.ca}/{name}.key"\n{nats}{more}\n'
        )
        proxy = f"[proxy]\n{proxy}\n" if proxy else ""
        # A disk that is used for other things as well is no matter of these tests.
        options.setdefault("upload", 'spool_high_water = "99%"')
        super().__init__(home, extra=f"{proxy}{cluster}", **options)
        text = self.config.read_text().replace('id = "test"', f'id = "{name}"\nsite = "{site}"\nroles = {json.dumps(list(roles))}')
        self.config.write_text(text.replace(f'address = "127.0.0.1:{self.sip}"', f'address = "{self.ip}:{self.sip}"'))
        lab.members.append(self)

    def link(self, peer):
        """The way of a peer to this node over its own transport."""
        return peer.to(self.ip, self.sip)

    def nodes(self):
        """What the API says of all nodes, by id."""
        return {node["id"]: node for node in self.get("/api/v1/nodes")["nodes"]}

    def state(self, name):
        return self.nodes().get(name, {}).get("state")

    def alarms(self):
        return {alarm["name"]: alarm["text"] for alarm in self.get("/api/v1/alarms")}

    def ask(self, *arguments, **options):
        """A command against this node's API."""
        return ferric(*arguments, "--api", f"http://127.0.0.1:{self.http}", "--token-file", self.data / "admin.token", **options)


class Lab:
    """What nodes share: folder, CA, NATS. All that was started ends with it."""

    def __init__(self, home, nats=0):
        self.home, self.ca, self.members = home, home / "ca", []
        self.nats = Nats(home / "nats", nats) if nats else None

    def member(self, name, *arguments, **options):
        return Member(self, name, *arguments, **options)

    def __enter__(self):
        if self.nats:
            self.nats.start()
        return self

    def __exit__(self, *_):
        for member in self.members:
            member.kill()
        if self.nats:
            self.nats.kill()


class Nats:
    """NATS servers with JetStream, in a cluster of their own."""

    def __init__(self, home, count):
        self.home = home
        self.ports = [free_port() for _ in range(count)]
        self.routes = [free_port() for _ in range(count)]
        self.processes = [None] * count

    @property
    def urls(self):
        return [f"nats://127.0.0.1:{port}" for port in self.ports]

    def start(self):
        for number, (port, route) in enumerate(zip(self.ports, self.routes)):
            if self.processes[number]:
                continue
            folder = self.home / str(number)
            folder.mkdir(parents=True, exist_ok=True)
            config = f'listen: "127.0.0.1:{port}"\nserver_name: s{number}\njetstream {{ store_dir: "{folder}/js" }}\n'
            if len(self.ports) > 1:
                routes = ", ".join(f'"nats-route://127.0.0.1:{other}"' for other in self.routes)
                config += f'cluster {{ name: c, listen: "127.0.0.1:{route}", routes: [{routes}] }}\n'
            (folder / "nats.conf").write_text(config)
            with open(folder / "log", "ab") as log:
                self.processes[number] = subprocess.Popen([str(NATS), "-c", str(folder / "nats.conf")], stdout=log, stderr=log)
        for port in self.ports:
            wait(lambda: listens(port), 20, "NATS does not start")

    def kill(self):
        for number, process in enumerate(self.processes):
            if process:
                process.send_signal(signal.SIGKILL)
                process.wait(10)
                self.processes[number] = None


def listens(port):
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def all_up(*members, timeout=20):
    """Every one of these sees all of the others."""
    names = [member.name for member in members]
    for member in members:
        wait(lambda: all(member.state(name) == "up" for name in names), timeout, f"{member.name} does not see all of {names}", member)
