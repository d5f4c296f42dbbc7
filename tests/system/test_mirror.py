"""Mirrored calls: a second worker copies each; of the two one is stored; the copy goes on when the first worker is killed."""

import contextlib
import json
import pathlib
import shutil
import time

from lib.cluster import Lab, all_up
from lib.node import ferric, folder, wait
from test_placement import Load, at, running


def mirrored(lab, stack, home):
    """One SRS node and two workers that share a store, as nodes of a cluster do."""
    assert ferric("keys", "new", "--out", home, "--tenant", "acme").returncode == 0
    for name in ("srs-1", "worker-1", "worker-2"):
        (home / name).mkdir()
        for file in home.glob("acme.*.pem"):
            shutil.copy(file, home / name)
    options = {"recording": "mirror = true", "store": f"file://{home}/store"}
    srs = lab.member("srs-1", roles=("srs",), **options).start()
    workers = [lab.member(f"worker-{n}", seeds=[srs], roles=("capture",), **options).start() for n in (1, 2)]
    for node in (srs, *workers):
        stack.callback(node.kill)
    all_up(srs, *workers)
    wait(lambda: all(len(node.nodes()) == 3 for node in workers), 5, "not all nodes are known", srs)
    return srs, workers


def folders(home):
    """Recordings in the store that are whole."""
    return [manifest.parent for manifest in pathlib.Path(home, "store").glob("acme/*/*/*/*/manifest.json")]


def total(nodes, name):
    return sum(node.metric(name) or 0 for node in nodes)


def test_a_copy_is_dropped_once_its_original_is_in_the_store():
    home = folder("mirror-dropped")
    with Lab(home) as lab, contextlib.ExitStack() as stack:
        srs, workers = mirrored(lab, stack, home)
        load = Load(stack, home, srs, 8, hold=8)
        calls = running(srs, 8)
        assert len(calls) == 8 and [len(at(node, calls)) for node in workers] == [4, 4], "copies are no calls"
        wait(lambda: total(workers, "ferric_mirror_copies") == 8, 10, "not all calls are copied", workers[0])
        load.result()
        began = time.monotonic()
        wait(lambda: total(workers, "ferric_mirror_dropped_total") == 8, 60, "copies are not dropped", workers[1])
        print(f"mirror-dropped: eight copies are gone {time.monotonic() - began:.1f} s after the last call")
        assert len(folders(home)) == 8, "one of each two is stored"
        wait(lambda: total(workers, "ferric_mirror_held") == 0, 15, "something is still held", workers[0])
        for node in workers:
            assert not list((node.data / "spool" / "held").iterdir())
            assert node.metric("ferric_mirror_frames_lost_total") == 0
        assert total(workers, "ferric_mirror_released_total") == 0


def test_a_killed_worker_has_a_copy_that_goes_on():
    home = folder("mirror-killed")
    with Lab(home) as lab, contextlib.ExitStack() as stack:
        srs, (one, two) = mirrored(lab, stack, home)
        load = Load(stack, home, srs, 8, hold=16, options=("--marked",))
        calls = running(srs, 8)
        killed = [call["id"] for call in at(one, calls)]
        wait(lambda: total((one, two), "ferric_mirror_copies") == 8, 10, "not all calls are copied", two)
        time.sleep(2)
        one.kill()
        began = time.monotonic()
        wait(lambda: len(at(two, srs.get("/api/v1/calls"))) == 8, 10, "the calls did not move", srs)
        print(f"mirror-killed: {len(killed)} calls are with their copies after {(time.monotonic() - began) * 1000:.0f} ms, looks included")
        assert srs.metric('ferric_failovers_total{kind="mirror"}') == len(killed)
        assert not srs.metric('ferric_failovers_total{kind="worker"}')
        one.start()
        all_up(srs, one, two)
        results = load.result()
        assert len(results) == 8 and not any(call.get("failure") for call in results), results
        # What the killed worker had is covered by what went on, and goes.
        wait(lambda: len(folders(home)) >= 8, 40, "not all are stored", two)
        wait(lambda: not list((one.data / "spool" / "held").iterdir()), 60, "what was cut off still waits", one)
        assert len(folders(home)) == 8, "nothing is doubled"
        states = [json.loads((place / "manifest.json").read_text())["state"] for place in folders(home)]
        assert states == ["complete"] * 8, states
        found = ferric("load", "--verify", load.report, "--recordings", home / "store", "--key", home / "acme.private.pem", "--json")
        heard = [json.loads(line) for line in found.stdout.splitlines() if line.startswith("{")]
        lost = sorted(max(call["lost_ms"]) for call in heard)
        print(f"mirror-killed: lost in all, in ms: {lost}")
        # Nobody received what came between the death and the move; what came before and after is there, once.
        assert len(heard) == 8 and lost[: 8 - len(killed)] == [0] * (8 - len(killed)) and lost[-1] < 1500, heard
        assert all(call["recordings"] == 1 and call["parts"] == 1 and call["doubled_ms"] == 0 for call in heard), heard
