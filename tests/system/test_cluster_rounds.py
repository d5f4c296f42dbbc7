"""A few rounds of the cluster's scenes on the test bed of tests/cluster; `make cluster-rounds` plays many."""

import os
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))

from bed import Bed  # noqa: E402 - found by the line above
from network import usable  # noqa: E402
from rounds import play  # noqa: E402
from scenes import AllNats, Link, Worker  # noqa: E402


class BusyWorker(Worker):
    """Other tests run beside this one: what counts here is that calls go on and no recording is lost."""

    allowed = (1_500, 3_000)


def test_workers_nats_and_links_die_and_nothing_is_lost():
    seed = int(os.environ.get("FERRIC_SEED", random.SystemRandom().randrange(1_000_000)))
    said = [f"seed {seed}"]

    class Say:
        head = ""

        def __call__(self, text):
            """Progress is for people."""

        line = staticmethod(said.append)

    with Bed("test", say=Say()) as bed:
        kinds = [BusyWorker, AllNats] + ([Link] if usable() else [])
        for kind in kinds:
            _, broken = play(bed, [kind], 2 if kind is BusyWorker else 1, 10, seed, Say())
            assert not broken, "\n".join(said)
