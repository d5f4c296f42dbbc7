"""Workers on nodes of their own: calls are spread, a worker dies, is drained, an SRS node dies; the API and the ledger know it all."""

import contextlib
import json
import subprocess
import time

from lib.cluster import Lab, all_up
from lib.node import FERRIC, folder, wait

HOLD = 14


def nodes(lab, stack, workers=2, **options):
    """One SRS node that records nothing, and workers that speak no SIP."""
    srs = lab.member("srs-1", roles=("srs",)).start()
    found = [lab.member(f"worker-{n + 1}", seeds=[srs], roles=("capture",), **options).start() for n in range(workers)]
    for node in (srs, *found):
        stack.callback(node.kill)
    all_up(srs, *found)
    wait(lambda: len(srs.get("/api/v1/nodes")["nodes"]) == workers + 1, 5, "not all nodes are known", srs)
    return srs, found


class Load:
    """`ferric load` against an SRS node, in the background."""

    def __init__(self, stack, home, srs, calls, rate=10, hold=HOLD, options=()):
        self.report = home / f"load-{calls}-{time.monotonic_ns()}.jsonl"
        self.process = subprocess.Popen(
            [str(FERRIC), "load", "--to", f"sip:{srs.ip}:{srs.sip}", "--calls", str(calls), "--rate", str(rate), "--hold", str(hold)]
            + ["--report", str(self.report), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        stack.callback(self.process.kill)

    def result(self, stopped=0, timeout=90):
        """What became of each call; all but those that were stopped ended as the SBC wanted."""
        out, _ = self.process.communicate(timeout=timeout)
        assert stopped or self.process.returncode == 0, out
        assert not stopped or f"{stopped} " in out and "ended by the server" in out, out
        return [json.loads(line) for line in self.report.read_text().splitlines()]


def at(node, calls):
    return [call for call in calls if call["node"] == node.name]


def running(node, count):
    """All calls that this node knows of, once there are so many."""
    wait(lambda: len(node.get("/api/v1/calls")) == count, 15, f"{node.name} does not know of {count} calls", node)
    return node.get("/api/v1/calls")


def settled(srs, count, timeout=60):
    """The ledger of the SRS node, once nothing is open in it."""

    def done():
        totals = srs.get("/api/v1/assurance")["totals"]
        return totals["received"] == count and totals["open"] == 0

    wait(done, timeout, f"the ledger has no outcome of {count} calls: {srs.get('/api/v1/assurance')['totals']}", srs)
    found = srs.get("/api/v1/assurance")
    assert found["adds_up"] and found["intact"], found
    return found


def test_calls_are_spread_and_every_node_knows_them():
    home = folder("placement-spread")
    with Lab(home) as lab, contextlib.ExitStack() as stack:
        srs, (one, two) = nodes(lab, stack)
        load = Load(stack, home, srs, 20)
        calls = running(srs, 20)
        assert [len(at(node, calls)) for node in (one, two, srs)] == [10, 10, 0], [call["node"] for call in calls]
        for node in (one, two):
            assert [call["id"] for call in running(node, 20)] == [call["id"] for call in calls]
        # Any node controls a call of any worker, and says so if there is none.
        there = at(two, calls)[0]["id"]
        for node in (srs, one, two):
            assert node.get(f"/api/v1/calls/{there}/pause", method="POST")["state"] == "paused"
            assert node.get(f"/api/v1/calls/{there}")["state"] == "paused"
            assert node.get(f"/api/v1/calls/{there}/resume", method="POST")["state"] == "recording"
        assert one.get(f"/api/v1/calls/{there}/tags", method="POST", body={"queue": "sales"})["changed"]
        assert srs.get(f"/api/v1/calls/{there}")["tags"] == {"queue": "sales"}
        nobody = "/api/v1/calls/01990000-0000-7000-8000-000000000000/pause"
        assert srs.get(nobody, raw=True, method="POST")[0] == 404
        # A call is ended from the worker that does not have it: its SRS node says BYE.
        stopped = at(one, calls)[0]["id"]
        assert two.get(f"/api/v1/calls/{stopped}/stop", method="POST")["state"] == "stopped"
        wait(lambda: stopped not in [call["id"] for call in srs.get("/api/v1/calls")], 5, "the call was not ended", srs)
        # Who drains gets none.
        assert srs.ask("drain", "worker-1").returncode == 0
        wait(lambda: srs.nodes()["worker-1"]["draining"], 5, "draining is not known", srs)
        time.sleep(0.5)
        more = Load(stack, home, srs, 6, hold=3)
        calls = running(srs, 25)
        assert len(at(one, calls)) == 9 and len(at(two, calls)) == 16, [call["node"] for call in calls]
        more.result()
        load.result(stopped=1)
        found = settled(srs, 26)
        assert found["totals"]["complete"] == 26, found["totals"]
        assert len(one.recordings()) + len(two.recordings()) == 26
        one.stored(10)
        two.stored(16)


def test_a_killed_worker_costs_no_call_and_the_ledger_adds_up():
    home = folder("placement-killed")
    with Lab(home) as lab, contextlib.ExitStack() as stack:
        srs, (one, two) = nodes(lab, stack)
        load = Load(stack, home, srs, 12, options=("--marked",))
        calls = running(srs, 12)
        assert len(at(one, calls)) == 6, [call["node"] for call in calls]
        one.kill()
        began = time.monotonic()
        wait(lambda: len(at(two, srs.get("/api/v1/calls"))) == 12, 10, "the calls did not move", srs)
        print(f"placement-killed: six calls are with the other worker after {(time.monotonic() - began) * 1000:.0f} ms, looks included")
        wait(lambda: two.metric('ferric_failovers_total{kind="worker"}') == 6, 5, "not every part has media", two)
        one.start()
        all_up(srs, one, two)
        calls = load.result()
        assert len(calls) == 12 and not any(call.get("failure") for call in calls), calls
        found = settled(srs, 12)
        assert found["totals"]["recovered"] == 6 and found["totals"]["complete"] == 6, found["totals"]
        one.stored(6)
        two.stored(12)
        # Nobody has anything left to tell.
        for node in (one, two):
            wait(lambda: not list((node.data / "owners").iterdir()), 10, "a report was not taken", node)


def test_recordings_outlive_their_srs_node():
    home = folder("placement-srs")
    with Lab(home) as lab, contextlib.ExitStack() as stack:
        srs, (one, two) = nodes(lab, stack, recording='rtp_timeout = "2s"')
        Load(stack, home, srs, 4, hold=8)
        running(srs, 4)
        srs.kill()
        time.sleep(2)
        calls = one.get("/api/v1/calls")
        assert len(calls) == 4, "they go on without it"
        # The SBC ends them; nobody hears its BYE, and RTP ends.
        wait(lambda: not one.get("/api/v1/calls"), 30, "recordings without owner do not end", one)
        one.stored(2)
        two.stored(2)
        srs.start()
        all_up(srs, one, two)
        found = settled(srs, 4)
        assert found["totals"]["partial"] == 0, found["totals"]
