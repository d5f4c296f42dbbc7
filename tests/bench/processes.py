"""Child processes with a deadline, and what the kernel says of them."""

import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import time

TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_running = []


class Child:
    """A child in a session of its own, so that its whole family is found; it does not outlive this script."""

    def __init__(self, command, *, log, core=None, env=None):
        def prepare():
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if core is not None:
                os.sched_setaffinity(0, {core})

        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, preexec_fn=prepare, env=env, cwd=pathlib.Path(log).parent,
            )
        self.pid = self.process.pid
        _running.append(self)

    def family(self):
        """Every process of the session: Kamailio forks one for each job."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    if os.getsid(int(name)) == self.pid:
                        found.append(int(name))
                except ProcessLookupError:
                    pass
        return found

    def cpu_ms(self):
        """User and system time so far, of all threads of all processes."""
        ticks = 0
        for pid in self.family():
            try:
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
        return ticks * TICK_MS

    def exact_cpu_ms(self):
        """As `cpu_ms`, of the threads that live now, to the nanosecond: for times near the length of a tick."""
        spent = 0
        for pid in self.family():
            for path in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
                try:
                    spent += int(path.read_text().split()[0])
                except OSError:
                    continue
        return spent / 1e6

    def memory_mib(self):
        """Resident memory; what processes share counts once (the sum of their PSS)."""
        kib = 0
        for pid in self.family():
            try:
                lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return kib / 1024

    def is_running(self):
        return self.process.poll() is None

    def wait(self, seconds):
        """Whether it ended by itself in time."""
        try:
            self.process.wait(seconds)
            return True
        except subprocess.TimeoutExpired:
            return False

    def send(self, number):
        if self.is_running():
            self.process.send_signal(number)

    def stop(self, grace=8):
        """SIGTERM, and after the grace SIGKILL to what is left of the family."""
        self.send(signal.SIGTERM)
        self.wait(grace)
        for pid in self.family():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.wait(5)
        if self in _running:
            _running.remove(self)


def core_busy_ms(core):
    """How long this core has worked, for whomever."""
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        if line.startswith(f"cpu{core} "):
            user, nice, system, _, _, irq, softirq, steal = map(int, line.split()[1:9])
            return (user + nice + system + irq + softirq + steal) * TICK_MS
    return 0


def stop_all():
    for child in list(_running):
        child.stop(grace=2)


def free_port():
    """A port that is free for UDP and for TCP."""
    while True:
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            stream.bind(("127.0.0.1", 0))
            try:
                datagram.bind(stream.getsockname())
                return stream.getsockname()[1]
            except OSError:
                continue


def wait_for_port(port, child, seconds):
    """Waits until somebody accepts TCP connections there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and child.is_running():
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return True
        time.sleep(0.1)
    return False
