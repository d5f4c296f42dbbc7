"""sipp: scenarios cut to what a run wants, and the counts it leaves."""

import collections
import csv
import pathlib
import re
import signal

from processes import Child, free_port

HERE = pathlib.Path(__file__).resolve().parent
PARTS = ("direct", "dialog", "answer", "open", "auth")


def scenario(name, home, *, keep=(), **words):
    """Writes the scenario without the parts that are not in `keep`, with its words filled in."""
    text = (HERE / f"{name}.xml").read_text()
    for part in PARTS:
        if part not in keep:
            text = re.sub(f"<!--{part}-->.*?<!--/{part}-->", "", text, flags=re.S)
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    path = home / f"{name}.xml"
    path.write_text(text)
    return path


class Sipp:
    """One sipp: an element when it has no target, else a source of load."""

    def __init__(self, home, name, path, transport, *, target=None, rate=None, calls=None, users=None, core=None, errors=True):
        self.port = free_port()
        self.statistics = home / f"{name}.csv"
        self.counters = home / f"{name}.counts.csv"
        command = ["sipp"] + ([f"127.0.0.1:{target}"] if target else [])
        command += ["-sf", path, "-i", "127.0.0.1", "-p", self.port, "-t", f"{transport[0]}1", "-nostdin",
                    "-trace_stat", "-stf", self.statistics, "-fd", "1", "-buff_size", "4000000", "-deadcall_wait", "0",
                    "-max_recv_loops", "1000", "-max_sched_loops", "1000", "-watchdog_minor_maxtriggers", "1000000",
                    "-watchdog_major_maxtriggers", "1000000"]
        command += ["-trace_err", "-error_file", home / f"{name}.err"] if errors else []
        if target:
            command += ["-trace_counts", "-r", rate, "-m", calls, "-l", calls]
        if users:
            command += ["-inf", users]
        self.child = Child(command, log=home / f"{name}.log", core=core)
        if target:
            self.counters = home / f"{path.stem}_{self.child.pid}_counts.csv"

    def counts(self):
        """The last line of its statistics."""
        try:
            rows = list(csv.DictReader(self.statistics.read_text().splitlines(), delimiter=";"))
        except OSError:
            rows = []
        last = rows[-1] if rows else {}
        number = lambda name: int(last.get(f"{name}(C)") or 0)
        return {
            "calls": number("TotalCallCreated"), "ok": number("SuccessfulCall"), "failed": number("FailedCall"),
            "retransmissions": number("Retransmissions"), "open": int(last.get("CurrentCall") or 0),
        }

    def messages(self, until=None):
        """How often each line of the scenario was passed, as {"INVITE_Sent": 500}, and the second of the count.

        `until`: not later than this second of the load (a line is written each second).
        """
        try:
            rows = list(csv.DictReader(self.counters.read_text().splitlines(), delimiter=";"))
        except OSError:
            rows = []
        found = collections.Counter()
        for row in rows:
            hours, minutes, seconds, micros = map(int, (row["ElapsedTime"] or "0:0:0:0").split(":"))
            second = hours * 3600 + minutes * 60 + seconds + micros / 1e6
            if until is None or second <= until:
                found = collections.Counter(second=second)
                for name, value in row.items():
                    number, _, kind = (name or "").partition("_")
                    if number.isdigit() and value:
                        found[kind] += int(value)
        return found

    def finish(self, seconds=4):
        """Lets the open calls end, then stops; returns the counts."""
        self.child.send(signal.SIGUSR1)
        self.child.wait(seconds)
        self.child.stop(grace=2)
        return self.counts()
