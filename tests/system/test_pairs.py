"""SRS nodes in pairs: one dies, is cut off, comes back; its calls go on at the other, end properly, and the ledgers add up."""

import contextlib
import time

from lib.cluster import Lab, all_up
from lib.node import folder, wait
from test_placement import Load, running

CALLS = 50


def pair(lab, stack, roles, workers=0, **options):
    one = lab.member("srs-1", roles=roles, **options).start()
    two = lab.member("srs-2", seeds=[one], roles=roles, **options).start()
    found = [lab.member(f"worker-{n + 1}", seeds=[one], roles=("capture",), **options).start() for n in range(workers)]
    for node in (one, two, *found):
        stack.callback(node.kill)
    all_up(one, two, *found)
    return one, two, found


def copied(node, count):
    wait(lambda: node.metric("ferric_cluster_replicas") == count, 15, f"{node.name} has no {count} copies", node)


def ledger(node, **expected):
    """The ledger of a node, once it has these sums."""

    def done():
        totals = node.get("/api/v1/assurance")["totals"]
        return all(totals[name] == count for name, count in expected.items())

    wait(done, 60, f"the ledger of {node.name} has not {expected}: {node.get('/api/v1/assurance')['totals']}", node)
    found = node.get("/api/v1/assurance")
    assert found["adds_up"] and found["intact"], found


def test_calls_outlive_their_srs_node():
    home = folder("pairs-killed")
    with Lab(home) as lab, contextlib.ExitStack() as stack:
        one, two, workers = pair(lab, stack, ("srs",), 2)
        load = Load(stack, home, one, CALLS, rate=25, hold=16)
        running(two, CALLS)
        copied(two, CALLS)
        one.kill()
        began = time.monotonic()
        wait(lambda: two.metric('ferric_failovers_total{kind="srs"}') == CALLS, 10, "the calls were not taken over", two)
        print(f"pairs-killed: {CALLS} calls taken over after {(time.monotonic() - began) * 1000:.0f} ms, looks included")
        calls = load.result()
        assert len(calls) == CALLS and not any(call.get("failure") for call in calls), calls
        ledger(two, received=0, adopted=CALLS, complete=CALLS, open=0)
        assert sum(len(worker.recordings()) for worker in workers) == CALLS
        # The node is back, asks who has its calls, and leaves them there.
        one.start()
        all_up(one, two, *workers)
        ledger(one, received=CALLS, moved=CALLS, open=0)
        # Now it is the partner of the other.
        more = Load(stack, home, two, 4, hold=6)
        copied(one, 4)
        more.result()
        copied(one, 0)


def test_a_node_that_recorded_what_it_served_is_replaced_in_both():
    home = folder("pairs-both")
    with Lab(home) as lab, contextlib.ExitStack() as stack:
        one, two, _ = pair(lab, stack, ("srs", "capture"))
        load = Load(stack, home, one, 12, hold=16)
        calls = running(two, 12)
        assert {call["node"] for call in calls} == {"srs-1", "srs-2"}
        copied(two, 12)
        one.kill()
        wait(lambda: [call["node"] for call in two.get("/api/v1/calls")] == ["srs-2"] * 12, 10, "the media did not move", two)
        one.start()
        all_up(one, two)
        calls = load.result()
        assert len(calls) == 12 and not any(call.get("failure") for call in calls), calls
        ledger(one, received=12, moved=12, open=0)
        ledger(two, adopted=12, open=0, partial=0, refused=0)
        totals = two.get("/api/v1/assurance")["totals"]
        assert totals["recovered"] == 6 and totals["complete"] == 6, totals
