"""The SIP edge beside Kamailio 5.6: the same job, the same sipp load, one server after the other.

    tests/bench/edge.py [--rounds N] [--seconds S] [--rate CPS] [--only udp,tcp,register,overload,memory]
                        [--servers ferric,kamailio]
    tests/bench/edge.py --only instructions

Prints CPU milliseconds (user and system, all processes and threads of the server) for 1,000 calls: the median of the
rounds, their range and the ratio; then what an overload does, and memory and idle CPU with many open transactions and
registrations. Both servers run with their log off, over loopback, on free ports. A load counts only when neither the
caller nor an element saw a failure; else its row says so.

`instructions` is for comparing one version of Ferric with another: what its SIP thread executes for a call or a
registration, counted by valgrind's callgrind, which neighbours on the machine do not disturb. It is not part of the rest.
"""

import argparse
import atexit
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time

from processes import Child, core_busy_ms, free_port, stop_all, wait_for_port
from sipp import Sipp, scenario

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FERRIC = ROOT / "target" / "release" / "ferric"
WORK = ROOT / "target" / "bench"
PARTS = ("udp", "tcp", "register", "overload", "memory")
# Under callgrind: few a second, as it is fifty times slower; what starting and idling cost goes out by the difference.
COUNTED_RATE = 60
COUNTED = (300, 900)
AUTHENTICATED_USERS = 1000
# What a server still does for calls that are over (timers, freeing) counts too, this long.
TAIL = 5
OVERLOAD_RATES = (2000, 4000, 6000, 8000, 10000, 14000, 18000, 22000)
OVERLOAD_SECONDS = 10
# A step in which others took more of the server's core (per cent) is repeated, and marked if it stays so.
DISTURBED = 10
OVERLOAD_TRIES = 3
OPEN_CALLS = 10_000
REGISTRATIONS = 100_000


def say(text):
    print(text, flush=True)


class Failure(Exception):
    """A measurement that cannot be made."""


def require_tools(counting):
    packages = {"sipp": "sip-tester", **({"valgrind": "valgrind"} if counting else {"kamailio": "kamailio"})}
    there = lambda program: shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    missing = [package for program, package in packages.items() if not there(program)]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        say(f"installing {' '.join(missing)}")
        env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "--no-install-recommends", *missing]):
            subprocess.run(command, env=env, stdout=subprocess.DEVNULL, timeout=600, check=False)
        missing = [package for program, package in packages.items() if not there(program)]
    if missing:
        say(f"not installed: {' '.join(missing)}. Run:  sudo apt-get install -y --no-install-recommends {' '.join(missing)}")
        sys.exit(2)
    return there("kamailio")


class Server:
    """One of the two, started for one measurement."""

    def __init__(self, home, elements, transport, *, record_route=False, auth=False, core=None, under=()):
        self.home, self.port = home, free_port()
        suffix = ";transport=tcp" if transport == "tcp" else ""
        self.elements = [f"127.0.0.1:{port}{suffix}" for port in elements]
        self.child = Child(
            [*under, *self.command(record_route, auth)], log=home / "server.log", core=core, env={**os.environ, "RUST_LOG": "error"}
        )
        if not wait_for_port(self.port, self.child, 120 if under else 15):
            self.child.stop()
            raise Failure(f"{self.name} did not start: {(home / 'server.log').read_text(errors='replace')[-800:]}")
        # It shall have seen that its elements answer.
        time.sleep(2.5)


class Kamailio(Server):
    name = "kamailio"
    program = "kamailio"

    def command(self, record_route, auth):
        elements = self.home / "dispatcher.list"
        elements.write_text("".join(f"1 sip:{element} 0 0\n" for element in self.elements or ["127.0.0.1:9"]))
        config = self.home / "kamailio.cfg"
        config.write_text((HERE / "kamailio.cfg").read_text().replace("@list@", str(elements)))
        command = [self.program, "-f", config, "-DD", "-E", "-m", "2048", "-M", "32", "-Y", self.home]
        command += ["-l", f"udp:127.0.0.1:{self.port}", "-l", f"tcp:127.0.0.1:{self.port}"]
        command += ["-A", "WITH_RECORD_ROUTE"] if record_route else []
        command += ["-A", "WITH_AUTH"] if auth else []
        return command


class Ferric(Server):
    name = "ferric"

    @staticmethod
    def text(home, port, elements, record_route, auth):
        listed = ", ".join(f'{{ address = "{element}", priority = 1, weight = 50 }}' for element in elements)
        group = (
            '[[proxy.server_group]]\nname = "bench"\npolicy = "round-robin"\n'
            'heartbeat = { up = "1s", down = "1s", misses = 3 }\n'
            f"element = [{listed}]\n"
            '[[proxy.route]]\nmatch = { method = "INVITE" }\nto = "bench"\n'
        )
        return (
            f'[node]\nid = "bench"\ndata_dir = "{home}/data"\nroles = ["proxy"]\ndrain_timeout = "1s"\n'
            f'[[sip.listen]]\ntransport = "udp"\naddress = "127.0.0.1:{port}"\n'
            f'[[sip.listen]]\ntransport = "tcp"\naddress = "127.0.0.1:{port}"\n'
            "[sip.limits]\nrequests_per_second_per_source = 1_000_000\n"
            f'[console]\nlisten = "127.0.0.1:{free_port()}"\n'
            f"[proxy]\nrequest_log = false\nrecord_route = {str(record_route).lower()}\n{group if elements else ''}"
            f'[proxy.registrar]\ndomains = ["bench.example"]\nmax_expires = "1h"\n{USERS_LINE if auth else ""}'
        )

    def command(self, record_route, auth):
        if auth:
            names = (f"u{number}" for number in range(AUTHENTICATED_USERS))
            (self.home / "users.toml").write_text("".join(USER.format(name=name) for name in names))
        config = self.home / "ferric.toml"
        config.write_text(self.text(self.home, self.port, self.elements, record_route, auth))
        return [FERRIC, "run", "--config", config]


# sipp answers the first challenge only.
USERS_LINE = 'users = "users.toml"\nalgorithms = ["MD5"]\n'
USER = '[[user]]\nname = "{name}"\npassword = "secret"\n'


def ferric_has_a_proxy():
    """Whether the built binary has one; a version without it accepts the section with a warning."""
    if not FERRIC.exists():
        return "there is no target/release/ferric (make build)"
    home = folder("check")
    (home / "ferric.toml").write_text(Ferric.text(home, free_port(), ["127.0.0.1:5070"], False, False))
    done = subprocess.run([FERRIC, "check", "--config", home / "ferric.toml"], capture_output=True, text=True, timeout=30)
    said = done.stdout + done.stderr
    if done.returncode or "[proxy] is accepted and not used" in said:
        return "target/release/ferric has no proxy: " + (said.strip().splitlines() or ["?"])[-1]
    return None


def folder(*names):
    path = WORK.joinpath(*names)
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def start_elements(home, transport, keep, core=None):
    path = scenario("element", home, keep=keep)
    elements = [Sipp(home, f"element{number}", path, transport, core=core) for number in (1, 2)]
    time.sleep(0.3)
    for element in elements:
        if not element.child.is_running():
            raise Failure(f"an element did not start, see {home}")
    return elements


def load(home, name, path, transport, server, rate, calls, *, users=None, core=None, patience=30):
    """Runs a load to its end; returns its counts."""
    source = Sipp(home, name, path, transport, target=server.port, rate=rate, calls=calls, users=users, core=core)
    if not source.child.wait(calls / rate + patience):
        source.child.stop(grace=2)
        return {**source.counts(), "late": True}
    source.child.stop()
    return source.counts()


# Rows of the table: title, transport, what the scenario keeps, Record-Route, digest.
CALLS = {
    "udp": [
        ("UDP call, dialog direct", "udp", ("answer", "dialog", "direct"), False),
        ("UDP call, Record-Route", "udp", ("answer", "dialog"), True),
    ],
    # sipp cannot send one call's requests to two places over one TCP connection: ACK and BYE, which never reach
    # the edge in this row, are left out.
    "tcp": [
        ("TCP call, dialog direct", "tcp", ("answer",), False),
        ("TCP call, Record-Route", "tcp", ("answer", "dialog"), True),
    ],
}


def faults_of(counts, calls, who):
    if counts.get("late") or counts["failed"] or counts["ok"] < calls:
        return [f"{who}: {counts['ok']} of {calls} passed, {counts['failed']} failed"]
    return []


def registering(home, auth):
    """The scenario of a phone that registers, and the file of users where they show a password."""
    if not auth:
        return scenario("register", home, user="u[call_number]"), None
    users = home / "users.csv"
    names = (f"u{number}" for number in range(AUTHENTICATED_USERS))
    lines = (f"{name};[authentication username={name} password=secret]\n" for name in names)
    users.write_text("SEQUENTIAL\n" + "".join(lines))
    return scenario("register", home, keep=("auth",), user="[field0]"), users


def measure(kind, server_class, home, *, rate, seconds, transport, keep, record_route=False, register=False, auth=False):
    """CPU milliseconds for 1,000 calls, what went wrong, and retransmissions."""
    elements = [] if register else start_elements(home, transport, keep)
    server = None
    try:
        server = server_class(home, [one.port for one in elements], transport, record_route=record_route, auth=auth)
        path, users = registering(home, auth) if register else (scenario("call", home, keep=keep), None)
        warm = load(home, "warm", path, transport, server, rate, 2 * rate, users=users)
        faults = faults_of(warm, 2 * rate, "warm-up")
        calls = rate * seconds
        before = server.child.exact_cpu_ms()
        counts = load(home, "load", path, transport, server, rate, calls, users=users)
        time.sleep(TAIL)
        spent = server.child.exact_cpu_ms() - before
        faults += faults_of(counts, calls, "caller")
        if not server.child.is_running():
            faults.append("the server died")
        for number, element in enumerate(elements, 1):
            seen = element.finish()
            if seen["failed"]:
                faults.append(f"element {number}: {seen['failed']} failed")
            if seen["ok"] < 0.4 * calls:
                faults.append(f"element {number} had only {seen['ok']} calls")
        return {"ms": spent / calls * 1000, "faults": faults, "retransmissions": counts["retransmissions"]}
    finally:
        for element in elements:
            element.child.stop(grace=1)
        if server:
            server.child.stop()


def compare(jobs, servers, rounds):
    """Each job on each server, rounds in the order A B, B A, A B, ..."""
    results = {title: {server.name: [] for server in servers} for title, _ in jobs}
    for title, job in jobs:
        for number in range(rounds):
            for server in servers if number % 2 == 0 else servers[::-1]:
                home = folder("cpu", server.name)
                try:
                    result = measure(title, server, home, **job)
                except Failure as failure:
                    result = {"ms": float("nan"), "faults": [str(failure)], "retransmissions": 0}
                results[title][server.name].append(result)
                note = "; ".join(result["faults"]) or "no failures"
                say(f"  {title}, round {number + 1}, {server.name}: {result['ms']:.1f} ms, {note}, "
                    f"{result['retransmissions']} retransmissions")
    return results


def executed(calls, keep, record_route, register, auth):
    """Instructions of Ferric's busiest thread, which is that of SIP, in a run with so many calls."""
    home = folder("instructions")
    counter = ["valgrind", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={home}/counted"]
    elements = [] if register else start_elements(home, "udp", keep)
    server = None
    try:
        ports = [one.port for one in elements]
        server = Ferric(home, ports, "udp", record_route=record_route, auth=auth, under=counter)
        # Under valgrind an element is seen to be alive a little later.
        time.sleep(5)
        path, users = registering(home, auth) if register else (scenario("call", home, keep=keep), None)
        faults = faults_of(load(home, "load", path, "udp", server, COUNTED_RATE, calls, users=users), calls, "caller")
        server.child.stop(grace=60)
    finally:
        for element in elements:
            element.child.stop(grace=1)
        if server:
            server.child.stop()
    counts = []
    for file in home.glob("counted-*"):
        text = file.read_text(errors="replace")
        # Each thread has a file; that of the first one, which reads the configuration, is no matter.
        if "ferric::cli::main" not in text:
            counts += [int(line.split()[1]) for line in text.splitlines() if line.startswith(("summary:", "totals:"))][:1]
    if faults or not counts:
        raise Failure("; ".join(faults) or f"callgrind left nothing, see {home}")
    return max(counts)


def instructions():
    """Prints a row a kind of call; true when each could be counted."""
    rows, fine = [], True
    kinds = [(title, keep, record_route, False, False) for title, _, keep, record_route in CALLS["udp"]]
    kinds += [("REGISTER", (), False, True, False), ("REGISTER, digest", (), False, True, True)]
    for title, *kind in kinds:
        try:
            few, many = (executed(calls, *kind) for calls in COUNTED)
            rows.append([title, f"{(many - few) / (COUNTED[1] - COUNTED[0]):,.0f}"])
        except Failure as failure:
            rows.append([title, str(failure)])
            fine = False
        say(f"  {title}: {rows[-1][1]}")
    table(["Ferric", "instructions of the SIP thread"], rows)
    return fine


def table(head, rows):
    say("| " + " | ".join(head) + " |")
    say("| " + " | ".join("---" for _ in head) + " |")
    for row in rows:
        say("| " + " | ".join(row) + " |")
    say("")


def cpu_table(results, servers):
    """Prints it; returns the ratios by title, of rows without a fault."""
    ratios, rows = {}, []
    for title, by_server in results.items():
        row, medians, faults = [title], {}, []
        for server in servers:
            rounds = by_server[server.name]
            fine = [one["ms"] for one in rounds if not one["faults"]]
            bad = len(rounds) - len(fine)
            if bad:
                faults.append(f"{server.name}: {bad} of {len(rounds)} rounds failed")
            if fine:
                medians[server.name] = statistics.median(fine)
                row.append(f"{medians[server.name]:.0f} ({min(fine):.0f}..{max(fine):.0f})")
            else:
                row.append("failed")
        if len(medians) == 2:
            ratio = medians["ferric"] / medians["kamailio"]
            row.append(f"{ratio:.2f}")
            if not faults:
                ratios[title] = ratio
        else:
            row.append("-")
        rows.append([*row, "; ".join(faults) or "none"])
    table(["CPU ms for 1,000 calls: median (range)", *(server.name for server in servers), "ferric / kamailio", "failures"], rows)
    return ratios


def wait_for_quiet(seconds):
    """Waits until the others on this machine leave both cores alone; at most so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = core_busy_ms(0) + core_busy_ms(1)
        time.sleep(1)
        if core_busy_ms(0) + core_busy_ms(1) - before < 100:
            return


def overload(server_class):
    """A rising rate with the server on one core and sipp on the other; one row a rate."""
    if not {0, 1} <= os.sched_getaffinity(0):
        say("  overload: needs the cores 0 and 1; left out")
        return []
    rows = []
    for rate in OVERLOAD_RATES:
        best = None
        for _ in range(OVERLOAD_TRIES):
            wait_for_quiet(30)
            try:
                row = overload_at(server_class, rate)
            except Failure as failure:
                say(f"  overload, {server_class.name}: {failure}")
                return rows
            say(f"  overload, {server_class.name}, {rate} calls/s wanted: {row['sent']:.0f}/s sent, {row['completed']:.0f}/s completed, "
                f"503 {row['turned_away']:.1%}, without an answer {row['lost']:.1%}, {row['retransmissions']:.2f} retransmissions a call, "
                f"server {row['server_busy']:.0f} % of its core, others there {row['others_busy']:.0f} %, sipp {row['sipp_busy']:.0f} % of its")
            if best is None or row["others_busy"] < best["others_busy"]:
                best = row
            if best["others_busy"] < DISTURBED:
                break
        rows.append(best)
    return rows


def overload_at(server_class, rate):
    """One step; counts within the load's ten seconds, shares of all calls to their end."""
    home = folder("overload", server_class.name)
    elements = start_elements(home, "udp", ("answer",), core=1)
    server = None
    try:
        server = server_class(home, [one.port for one in elements], "udp", core=0)
        path = scenario("overload", home)
        now = lambda: (server.child.cpu_ms(), sum(one.child.cpu_ms() for one in elements), core_busy_ms(0))
        before, began = now(), time.monotonic()
        calls = rate * OVERLOAD_SECONDS
        source = Sipp(home, "load", path, "udp", target=server.port, rate=rate, calls=calls, core=1, errors=False)
        # What the source could not send in its time is not sent later.
        source.child.wait(OVERLOAD_SECONDS)
        source_ms, after, span = source.child.cpu_ms(), now(), time.monotonic() - began
        source.child.send(signal.SIGUSR1)
        source.child.wait(30)
        source.child.stop(grace=2)
        inside, whole = source.messages(until=OVERLOAD_SECONDS + 0.5), source.messages()
        sent = whole["INVITE_Sent"]
        if not sent or not inside["second"]:
            raise Failure(f"no call was sent, see {home}")
        share = lambda ms: ms / 10 / span
        return {
            "rate": rate, "sent": inside["INVITE_Sent"] / inside["second"], "completed": inside["200_Recv"] / inside["second"],
            "turned_away": whole["503_Recv"] / sent, "lost": max(0, sent - whole["200_Recv"] - whole["503_Recv"]) / sent,
            "retransmissions": whole["INVITE_Retrans"] / sent, "server_busy": share(after[0] - before[0]),
            "others_busy": max(0, share(after[2] - before[2] - after[0] + before[0])),
            "sipp_busy": share(source_ms + after[1] - before[1]),
        }
    finally:
        for element in elements:
            element.child.stop(grace=1)
        if server:
            server.child.stop()


def idle(server):
    """CPU milliseconds in ten seconds without load."""
    before = server.child.exact_cpu_ms()
    time.sleep(10)
    return server.child.exact_cpu_ms() - before


def open_transactions(server_class):
    home = folder("memory", server_class.name)
    elements = start_elements(home, "udp", ("open",))
    server = source = None
    try:
        server = server_class(home, [one.port for one in elements], "udp")
        empty, empty_idle = server.child.memory_mib(), idle(server)
        path = scenario("call", home, keep=("open",))
        source = Sipp(home, "load", path, "udp", target=server.port, rate=1000, calls=OPEN_CALLS)
        time.sleep(OPEN_CALLS / 1000 + 4)
        memory, spent = server.child.memory_mib(), idle(server)
        ringing = source.messages()["180_Recv"]
        return {
            "what": f"{OPEN_CALLS:,} open INVITE transactions", "count": ringing, "wanted": OPEN_CALLS,
            "empty": empty, "empty_idle": empty_idle, "memory": memory, "idle": spent,
        }
    finally:
        for one in [source, *elements]:
            if one:
                one.child.process.kill()
                one.child.stop(grace=1)
        if server:
            server.child.stop()


def registrations(server_class):
    home = folder("memory", server_class.name)
    server = None
    try:
        server = server_class(home, [], "udp")
        empty, empty_idle = server.child.memory_mib(), idle(server)
        path = scenario("register", home, user="u[call_number]")
        counts = load(home, "load", path, "udp", server, 3000, REGISTRATIONS)
        time.sleep(TAIL)
        memory, spent = server.child.memory_mib(), idle(server)
        return {
            "what": f"{REGISTRATIONS:,} registrations", "count": counts["ok"], "wanted": REGISTRATIONS,
            "empty": empty, "empty_idle": empty_idle, "memory": memory, "idle": spent,
        }
    finally:
        if server:
            server.child.stop()


def memory(servers):
    found = []
    for job in (open_transactions, registrations):
        for server in servers:
            try:
                row = {"server": server.name, **job(server)}
            except Failure as failure:
                say(f"  memory, {server.name}: {failure}")
                continue
            found.append(row)
            say(f"  {row['what']}, {server.name}: {row['count']:,} held, {row['empty']:.0f} -> {row['memory']:.0f} MiB, "
                f"idle {row['empty_idle']:.0f} -> {row['idle']:.0f} ms in 10 s")
    return found


def closing(arguments, ratios, overloads, memories):
    """A paragraph of what was found."""
    lines = [
        f"`make bench` also plays the same sipp load to Ferric and to Kamailio 5.6 (one UDP and one TCP worker, log off), "
        f"{arguments.rounds} rounds of {arguments.seconds} s each in turns, on one machine over loopback."
    ]
    if ratios:
        lines.append("Ferric used " + ", ".join(f"{ratio:.2f} ({title})" for title, ratio in ratios.items())
                     + " times Kamailio's CPU for a call.")
    for name, rows in overloads.items():
        calm = [row for row in rows if row["others_busy"] < DISTURBED]
        if calm:
            last, most = calm[-1], max(row["completed"] for row in calm)
            lines.append(
                f"On one core {name} completed up to {most:.0f} calls/s; offered {last['sent']:.0f}/s it completed {last['completed']:.0f}/s, answered "
                f"{last['turned_away']:.0%} with 503 and left {last['lost']:.0%} unanswered, at {last['retransmissions']:.1f} retransmissions a call."
            )
    for row in memories:
        each = (row["memory"] - row["empty"]) * 1024 / max(1, row["count"])
        lines.append(f"{row['what']} took {row['server']} {row['memory']:.0f} MiB ({each:.1f} KiB each) and {row['idle']:.0f} ms of CPU in 10 idle seconds.")
    say(" ".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--rate", type=int, default=500, help="calls a second; registrations come at twice this rate")
    parser.add_argument("--busy", type=int, default=2000, help="the second rate of calls; that of --rate leaves it out")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--servers", default="ferric,kamailio")
    arguments = parser.parse_args()
    only = arguments.only.split(",")
    names = arguments.servers.split(",")
    counting = only == ["instructions"]
    if unknown := [part for part in only if part not in PARTS and not counting] + [name for name in names if name not in ("ferric", "kamailio")]:
        parser.error(f"not known: {', '.join(unknown)}")
    if min(arguments.rounds, arguments.seconds, arguments.rate) < 1:
        parser.error("rounds, seconds and rate are at least 1")

    Kamailio.program = require_tools(counting)
    WORK.mkdir(parents=True, exist_ok=True)
    atexit.register(stop_all)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))

    if counting:
        if why := ferric_has_a_proxy():
            say(why)
            return 1
        return 0 if instructions() else 1
    servers = [one for one in (Ferric, Kamailio) if one.name in names]
    if Ferric in servers and (why := ferric_has_a_proxy()):
        say(f"{why}; Kamailio alone is measured")
        servers.remove(Ferric)
    jobs = []
    common = {"rate": arguments.rate, "seconds": arguments.seconds}
    # At a low rate each message wakes a server of its own; what a core can carry shows at a high one.
    for rate in dict.fromkeys([arguments.rate, arguments.busy]):
        for part in ("udp", "tcp"):
            for title, transport, keep, record_route in CALLS[part] if part in only else ():
                job = {"rate": rate, "seconds": arguments.seconds, "transport": transport, "keep": keep, "record_route": record_route}
                jobs.append((f"{title}, {rate:,}/s", job))
    if "register" in only:
        registering = {**common, "rate": 2 * arguments.rate, "transport": "udp", "keep": (), "register": True}
        jobs += [("REGISTER", registering), ("REGISTER, digest", {**registering, "auth": True})]
    minutes = len(jobs) * len(servers) * arguments.rounds * (arguments.seconds + TAIL + 8) / 60
    minutes += len(servers) * (("overload" in only) * 3 + ("memory" in only) * 2)
    say(f"The SIP edge: {', '.join(server.name for server in servers)}; about {minutes:.0f} minutes")

    results = compare(jobs, servers, arguments.rounds)
    overloads = {server.name: overload(server) for server in servers} if "overload" in only else {}
    memories = memory(servers) if "memory" in only else []

    say("")
    ratios = cpu_table(results, servers) if results else {}
    if overloads:
        table(
            ["overload, server on one core", "wanted/s", "sent/s", "completed/s", "503", "no answer", "retransmissions a call", "server % of its core", "others there %", "sipp % of its core"],
            [
                [name, f"{row['rate']}", f"{row['sent']:.0f}", f"{row['completed']:.0f}", f"{row['turned_away']:.1%}", f"{row['lost']:.1%}",
                 f"{row['retransmissions']:.2f}", f"{row['server_busy']:.0f}", f"{row['others_busy']:.0f}" + (" (disturbed)" if row["others_busy"] >= DISTURBED else ""),
                 f"{row['sipp_busy']:.0f}" + (" (its limit)" if row["sipp_busy"] > 95 else "")]
                for name, rows in overloads.items() for row in rows
            ],
        )
    if memories:
        table(
            ["memory and idle CPU", "server", "held", "MiB before", "MiB with", "KiB each", "idle ms in 10 s before", "with"],
            [
                [row["what"], row["server"], f"{row['count']:,}" + ("" if row["count"] == row["wanted"] else f" of {row['wanted']:,}"),
                 f"{row['empty']:.0f}", f"{row['memory']:.0f}", f"{(row['memory'] - row['empty']) * 1024 / max(1, row['count']):.1f}",
                 f"{row['empty_idle']:.0f}", f"{row['idle']:.0f}"]
                for row in memories
            ],
        )
    (WORK / "edge.json").write_text(json.dumps({"cpu": results, "overload": overloads, "memory": memories}, indent=1))
    closing(arguments, ratios, overloads, memories)
    broken = any(one["faults"] for by_server in results.values() for rounds in by_server.values() for one in rounds)
    return 1 if broken else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(1)
