"""The scenes of the demonstration again and again, each time at another moment, with another victim.

    target/venv/bin/python tests/cluster/rounds.py [--rounds N] [--only NAME...] [--calls N] [--seed S]

Exit 1 if a promise was broken in any round; the seed of the run is printed first and repeats it (as far as times do).
Logs lie in target/cluster/rounds, those of a broken round beside it in target/cluster/rounds-broken.
"""

import argparse
import pathlib
import random
import shutil
import signal
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from bed import WORK, Bed  # noqa: E402 - found by the line above
from demo import Progress, table  # noqa: E402
from scenes import SCENES, NodeKilled  # noqa: E402

HEAD = ["killed", "rounds", "detected at the latest, own / other site", "calls", "calls hit", "audio lost, median / worst", "calls failed", "not whole", "broken"]


def changes(kind, chance, bed):
    """What is different this time."""
    change = {"away": max(1.0, kind.away * chance.uniform(0.5, 1.3))}
    if issubclass(kind, NodeKilled):
        # One of the site to which the calls go first.
        alike = [name for name, node in bed.nodes.items() if node.letter == "a" and name[:4] == kind.node[:4]]
        change["node"] = chance.choice(alike)
    return change


def play(bed, kinds, rounds, calls, seed, say):
    """Plays all rounds; rows of a table and what was broken."""
    rows, broken = [HEAD], []
    for kind in kinds:
        results = []
        for number in range(rounds):
            chance = random.Random(f"{seed} {kind.name} {number}")
            say.head = f"{kind.title}, round {number + 1} of {rounds}: "
            change, pause = changes(kind, chance, bed), chance.uniform(0.2, 5.0)
            words = f"{kind.name} round {number + 1} ({change.get('node', '')} after {pause:.2f} s)"
            try:
                result = kind(bed, calls, say, chance, **change).run(pause)
                results.append(result)
                wrong = result.broken
            except AssertionError as error:
                wrong = [str(error)]
                for node in bed.nodes.values():
                    if not node.is_up():
                        node.start()
            if wrong:
                shutil.copytree(bed.home / "logs", WORK / "rounds-broken" / f"{kind.name}-{number + 1}", dirs_exist_ok=True)
            for text in wrong:
                say.line(f"   {words}: {text}")
            broken += [f"{words}: {text}" for text in wrong]
        lost = [ms for result in results for ms in result.lost]
        detected = [max((result.detected[which] for result in results if result.detected[which] is not None), default=None) for which in (0, 1)]
        count = sum(result.calls for result in results)
        rows.append([
            kind.title, f"{len(results)} of {rounds}", " / ".join("-" if when is None else f"{when:.2f} s" for when in detected), f"{count}", f"{len(lost)}",
            f"{statistics.median(lost) / 1000:.2f} / {max(lost) / 1000:.2f} s" if lost else "0", f"{sum(result.failed for result in results)}",
            f"{count - sum(result.whole for result in results)}", f"{sum(1 for text in broken if text.startswith(kind.name + ' '))}",
        ])
        say.line("  ".join(rows[-1]))
    return rows, broken


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[scene.name for scene in SCENES], help="these scenes: %(choices)s")
    parser.add_argument("--calls", type=int, default=40, help="calls of each round")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--loud", action="store_true", help="a line for every step")
    arguments = parser.parse_args()
    say = Progress(arguments.loud)
    # Whoever ends this ends all that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    say.line(f"seed {arguments.seed}")
    with Bed("rounds", say=say) as bed:
        kinds = [kind for kind in SCENES if kind.name in (arguments.only or [scene.name for scene in SCENES if not scene.slow])]
        kinds = [kind for kind in kinds if bed.network.can_cut or not kind.cuts]
        rows, broken = play(bed, kinds, arguments.rounds, arguments.calls, arguments.seed, say)
    say.line("\n" + table(rows))
    say.line(f"seed {arguments.seed}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
