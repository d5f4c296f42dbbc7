"""Hosts with addresses of their own: network namespaces, a bridge for each site, a router between them.

                         wan (router)
          10.60.1.1 /        | 10.60.3.1   \\ 10.60.2.1
     switch a            switch core          switch b
     | | | | |            | | |               | | | | |
     hosts 10.60.1.x      SBC, database,      hosts 10.60.2.x
                          store, NATS

The machine itself is 10.60.0.2, one hop from the router, so that a test can ask every host. A link between two sites is cut
in the router, silently, as a broken cable far away is; a host is cut at its own port. The kernel has no netem: delay and
loss between the two sites come from a relay of our own (relay.py). All names begin with `ferric-bed-`; what an earlier run left behind is taken away by those names.

Where no namespaces can be made (no root), `Loopback` gives each host an address of 127.60/16 and can cut nothing.
"""

import fcntl
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

PREFIX = "ferric-bed-"
TOP = "ferric-bed-top"
NETWORKS = {"a": 1, "b": 2, "core": 3}
LOCK = pathlib.Path("/tmp/ferric-bed.lock")


def ip(*arguments, check=True):
    done = subprocess.run(["ip", *map(str, arguments)], capture_output=True, text=True)
    assert not check or done.returncode == 0, f"ip {' '.join(map(str, arguments))}: {done.stderr}"
    return done.stdout


def lan(site):
    """The namespace of a site's switch."""
    return f"{PREFIX}lan-{site}"


def usable():
    """Whether namespaces can be made here."""
    if os.geteuid() != 0:
        return False
    name = f"{PREFIX}probe"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return done.returncode == 0


class Host:
    """A place to run programs; `prefix` is what a command begins with there."""

    def __init__(self, name, address, namespace=None):
        self.name, self.address, self.namespace = name, address, namespace
        self.prefix = ["ip", "netns", "exec", namespace] if namespace else []

    def start(self, command, log, **options):
        with open(log, "ab") as out:
            options.setdefault("stdout", out)
            return subprocess.Popen([*self.prefix, *map(str, command)], stderr=out, start_new_session=True, **options)

    def run(self, command, **options):
        return subprocess.run([*self.prefix, *map(str, command)], capture_output=True, text=True, **options)


class Loopback:
    """Hosts that are addresses of the loopback."""

    can_cut = False
    top = "127.60.0.2"

    def __init__(self):
        self.lock = exclusive()

    def host(self, name, site, last):
        return Host(name, f"127.60.{NETWORKS[site]}.{last}")

    def remove(self):
        self.lock.close()


class Namespaces:
    """Hosts that are namespaces."""

    can_cut = True
    top = "10.60.0.2"

    def __init__(self):
        self.lock, self.relay = exclusive(), None
        sweep()
        wan = f"{PREFIX}wan"
        ip("netns", "add", wan)
        ip("-n", wan, "link", "set", "lo", "up")
        subprocess.run(["ip", "netns", "exec", wan, "sysctl", "-qw", "net.ipv4.ip_forward=1"], check=True)
        ip("link", "add", TOP, "type", "veth", "peer", "name", "top", "netns", wan)
        ip("addr", "add", f"{self.top}/24", "dev", TOP)
        ip("link", "set", TOP, "up")
        ip("-n", wan, "addr", "add", "10.60.0.1/24", "dev", "top")
        ip("-n", wan, "link", "set", "top", "up")
        for site, number in NETWORKS.items():
            switch = lan(site)
            ip("netns", "add", switch)
            ip("-n", switch, "link", "add", "br0", "type", "bridge")
            ip("-n", switch, "link", "set", "br0", "up")
            ip("-n", wan, "link", "add", "name", f"to-{site}", "type", "veth", "peer", "name", "wan", "netns", switch)
            ip("-n", wan, "addr", "add", f"10.60.{number}.1/24", "dev", f"to-{site}")
            ip("-n", wan, "link", "set", f"to-{site}", "up")
            ip("-n", switch, "link", "set", "wan", "master", "br0", "up")
        ip("route", "add", "10.60.0.0/16", "via", "10.60.0.1")

    def host(self, name, site, last):
        number, namespace = NETWORKS[site], f"{PREFIX}{name}"
        address = f"10.60.{number}.{last}"
        ip("netns", "add", namespace)
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", f"p-{name}", "netns", lan(site))
        ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", namespace, "link", "set", "eth0", "up")
        ip("-n", namespace, "route", "add", "default", "via", f"10.60.{number}.1")
        ip("-n", lan(site), "link", "set", f"p-{name}", "master", "br0", "up")
        return Host(name, address, namespace)

    # Cables

    def cut_between(self, one, other):
        """Nothing passes between two networks any more, and nobody is told."""
        for source, target in ((one, other), (other, one)):
            networks = [f"10.60.{NETWORKS[site]}.0/24" for site in (source, target)]
            ip("-n", f"{PREFIX}wan", "rule", "add", "from", networks[0], "to", networks[1], "blackhole", "priority", 100)

    def mend_between(self, one, other):
        for source, target in ((one, other), (other, one)):
            networks = [f"10.60.{NETWORKS[site]}.0/24" for site in (source, target)]
            ip("-n", f"{PREFIX}wan", "rule", "del", "from", networks[0], "to", networks[1], "blackhole", "priority", 100)

    def stretch(self, delay, loss=0.0):
        """From now on the way between sites a and b takes `delay` seconds one way and loses a share of all packets."""
        if not self.relay:
            networks = [f"10.60.{NETWORKS[site]}.0/24" for site in "ab"]
            command = ["ip", "netns", "exec", f"{PREFIX}wan", sys.executable, str(pathlib.Path(__file__).with_name("relay.py")), *networks]
            self.relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
            assert self.relay.stdout.readline() == "ready\n", "the relay between the sites does not start"
        self.relay.stdin.write(f"delay={delay} loss={loss}\n")
        self.relay.stdin.flush()
        assert self.relay.stdout.readline() == "ok\n", "the relay between the sites is gone"

    def cut_site(self, site):
        """The site's switch has no way out."""
        ip("-n", lan(site), "link", "set", "wan", "down")

    def mend_site(self, site):
        ip("-n", lan(site), "link", "set", "wan", "up")

    def cut_host(self, name, site):
        ip("-n", lan(site), "link", "set", f"p-{name}", "down")

    def mend_host(self, name, site):
        ip("-n", lan(site), "link", "set", f"p-{name}", "up")

    def remove(self):
        if self.relay:
            self.relay.kill()
            self.relay.wait(10)
        sweep()
        self.lock.close()


def exclusive():
    """One bed at a time on a machine: it waits for the other one."""
    lock = open(LOCK, "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def sweep():
    """Takes away all namespaces of a bed, with the processes in them, and the machine's own end; and what lies in /tmp."""
    names = [line.split()[0] for line in ip("netns", "list").splitlines() if line.startswith(PREFIX)]
    pids = {int(pid) for name in names for pid in ip("netns", "pids", name, check=False).split()}
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + 5
    while any(os.path.exists(f"/proc/{pid}") and not zombie(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    for name in names:
        ip("netns", "del", name, check=False)
    if os.path.exists(f"/sys/class/net/{TOP}"):
        ip("link", "del", TOP, check=False)
    for folder in LOCK.parent.glob(f"{PREFIX}postgres-*"):
        shutil.rmtree(folder, ignore_errors=True)
    # A namespace goes when its last socket does.
    while os.path.exists(f"/sys/class/net/{TOP}") and time.monotonic() < deadline:
        time.sleep(0.02)


def zombie(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True
