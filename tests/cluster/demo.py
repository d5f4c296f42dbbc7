"""Starts two sites on this machine, runs calls, breaks one thing after the other, and prints what it cost.

    target/venv/bin/python tests/cluster/demo.py [--only NAME...] [--all] [--calls N] [--keep] [--loud]

Exit 1 if a promise is broken. Logs lie in target/cluster/demo. `--keep` leaves everything running at the end.
"""

import argparse
import pathlib
import signal
import sys
import time
import traceback

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from bed import Bed  # noqa: E402 - found by the line above
from scenes import HEAD, SCENES  # noqa: E402


class Progress:
    """One line that changes on a terminal; elsewhere a line now and then."""

    def __init__(self, loud=False):
        self.began, self.terminal, self.loud, self.told, self.head = time.monotonic(), sys.stdout.isatty(), loud, 0.0, ""

    def __call__(self, text):
        since = time.monotonic() - self.began
        line = f"{since // 60:02.0f}:{since % 60:02.0f} {self.head}{text}"
        if self.terminal and not self.loud:
            print(f"\r\x1b[K{line[:150]}", end="", flush=True)
        elif self.loud or since - self.told >= 2:
            self.told = since
            print(line, flush=True)

    def line(self, text):
        if self.terminal:
            print("\r\x1b[K", end="")
        print(text, flush=True)


def table(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[scene.name for scene in SCENES], help="these scenes: %(choices)s")
    parser.add_argument("--all", action="store_true", help="those that take minutes as well")
    parser.add_argument("--calls", type=int, default=40, help="calls of each scene")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Enter")
    parser.add_argument("--loud", action="store_true", help="a line for every step")
    arguments = parser.parse_args()
    say = Progress(arguments.loud)
    # Whoever ends this ends all that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    rows, broken = [HEAD], []
    with Bed("demo", say=say) as bed:
        for kind in SCENES:
            if kind.name not in (arguments.only or [scene.name for scene in SCENES if arguments.all or not scene.slow]):
                continue
            if kind.cuts and not bed.network.can_cut:
                rows.append([kind.title, *["-"] * (len(HEAD) - 2), "not here"])
                continue
            say.head = f"{kind.title}: "
            try:
                result = kind(bed, arguments.calls, say).run()
                rows.append(result.row())
                broken += [f"{kind.title}: {text}" for text in result.broken]
                for text in result.notes + result.broken[:8]:
                    say.line(f"   {kind.title}: {text}")
            except AssertionError as error:
                broken.append(f"{kind.title}: {error}")
                rows.append([kind.title, *["-"] * (len(HEAD) - 2), "BROKEN"])
                say.line(f"   {kind.title}: {traceback.format_exc() if arguments.loud else error}")
                for node in bed.nodes.values():
                    if not node.is_up():
                        node.start()
            say.line("  ".join(rows[-1]))
        if arguments.keep:
            say.line(f"everything runs on; {bed.home} has the configuration and the logs. Enter ends it.")
            sys.stdin.readline()
    say.line("\n" + table(rows))
    for text in broken:
        print(f"broken: {text}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
