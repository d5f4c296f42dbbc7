"""Calls to a bed: `ferric load` on the SBC's host, and what came out of them."""

import json
import os
import signal
import time

from bed import DOMAIN, FERRIC, run
from lib.node import wait


class Load:
    """A run of `ferric load`; every 20 ms of it can be looked for afterwards."""

    number = 0

    def __init__(self, bed, calls, hold, *, rate=20.0, first=None, host=None, options=()):
        Load.number += 1
        self.bed, self.calls, self.hold, self.rate, self.first = bed, calls, hold, rate, first or calls
        self.home = bed.home / f"load-{Load.number}"
        self.home.mkdir()
        self.report_file = self.home / "calls.jsonl"
        command = [FERRIC, "load", "--to", f"sip:rec.{DOMAIN}", "--dns", bed.dns.address, "--calls", calls, "--rate", rate,
                   "--hold", f"{hold}s", "--marked", "--report", self.report_file, "--patience", "1s", *options]
        self.log = self.home / "load.log"
        self.began = time.time()
        self.process = (host or bed.sbc).start(command, self.log)
        bed.started.append(self.process)

    def wait_until_talking(self):
        """Until the first of them talk, which are all if nothing else was said."""
        time.sleep(max(0, self.began + self.first / self.rate + 1 - time.time()))
        assert self.process.poll() is None, self.log.read_text(errors="replace")

    def end(self, patience=60):
        """Waits for the last call; the lines of the report."""
        limit = self.began + self.calls / self.rate + self.hold + patience
        while self.process.poll() is None and time.time() < limit:
            time.sleep(0.1)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            raise AssertionError(f"the calls do not end:\n{self.log.read_text(errors='replace')}")
        return self.lines()

    def lines(self):
        assert self.report_file.exists(), self.log.read_text(errors="replace")
        return [json.loads(line) for line in self.report_file.read_text().splitlines()]

    def failed(self):
        return [line for line in self.lines() if line["outcome"] != "completed"]


def stored(bed, call_ids, patience=60, say=None):
    """Waits until the store has a manifest of each call, as the catalogue says, or time is over; those that it lacks."""
    missing, deadline = set(call_ids), time.monotonic() + patience
    while missing and time.monotonic() < deadline:
        for node in bed.up():
            if "srs" in node.roles:
                try:
                    found = recordings(node)
                except (OSError, AssertionError):
                    continue
                missing = set(call_ids) - {one["sip_call_id"] for one in found if one.get("stored")}
                break
        if say:
            say(f"{len(missing)} recordings are not in the store yet")
        if missing:
            time.sleep(0.5)
    return missing


def recordings(node):
    found, cursor = [], ""
    while True:
        page = node.ask(f"/api/v1/recordings?limit=500{cursor}")
        found += page["recordings"]
        if not page.get("next_cursor"):
            return found
        cursor = f"&cursor={page['next_cursor']}"


def settled(bed, patience=90, say=None):
    """Waits until no node has anything to upload."""
    def waiting():
        total = 0
        for node in bed.up():
            if "capture" in node.roles:
                uploads = node.ask("/api/v1/uploads")
                total += uploads.get("waiting", 0)
        return total

    deadline = time.monotonic() + patience
    left = waiting()
    while left and time.monotonic() < deadline:
        if say:
            say(f"{left} uploads wait")
        time.sleep(0.3)
        left = waiting()
    return left


def heard(bed, load):
    """What of each call of a run is in the store: lines of `ferric load --verify`."""
    folder = bed.home / "store"
    if bed.store:
        folder = bed.home / "fetched"
        bed.store.fetch(folder)
    done = run("load", "--verify", load.report_file, "--recordings", folder, "--key", bed.key, "--json")
    assert done.stdout, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def verified(bed):
    """Manifests, hashes, signatures and chains of all that is in the store, with each node's own key: what is wrong."""
    folder = bed.home / ("fetched" if bed.store else "store")
    if bed.store:
        bed.store.fetch(folder)
    sorted_by_node, wrong = bed.home / "by-node", []
    for manifest in folder.glob("*/*/*/*/*/manifest.json"):
        made_by = json.loads(manifest.read_text())["node"]
        place = sorted_by_node / made_by / manifest.parent.name
        if not place.exists():
            place.mkdir(parents=True)
            for file in manifest.parent.iterdir():
                os.link(file, place / file.name)
    for place in sorted_by_node.iterdir() if sorted_by_node.exists() else ():
        done = run("verify", "--cert", bed[place.name].data / "keys" / "node.public.pem", place)
        if done.returncode != 0:
            lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("ok ")]
            wrong.append(f"{place.name}: {' '.join(lines)[:300]}")
    return wrong


__all__ = ["Load", "heard", "recordings", "settled", "stored", "verified", "wait"]
