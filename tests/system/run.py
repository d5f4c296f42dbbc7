"""Runs the system tests: real binary, real tools, loopback only.

    target/venv/bin/python tests/system/run.py [NAME...]

A NAME is a part of a test's name. Each test has a folder under target/system,
starts what it needs on free ports and stops it by pid. The last line counts.
"""

import concurrent.futures
import importlib
import pathlib
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


def tests():
    for path in sorted(HERE.glob("test_*.py")):
        module = importlib.import_module(path.stem)
        for name in sorted(vars(module)):
            if name.startswith("test_"):
                yield f"{path.stem[5:]}.{name[5:]}", getattr(module, name)


def run(named):
    name, test = named
    began = time.monotonic()
    try:
        test()
        return name, None, time.monotonic() - began
    except BaseException:  # noqa: BLE001 - whatever it was, it is a failure to report
        return name, traceback.format_exc(), time.monotonic() - began


def main():
    wanted = sys.argv[1:]
    chosen = [(name, test) for name, test in tests() if not wanted or any(part in name for part in wanted)]
    failed = 0
    # Most of the time is spent waiting for calls to end; three at once are no burden.
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        for future in concurrent.futures.as_completed([pool.submit(run, one) for one in chosen]):
            name, error, seconds = future.result()
            failed += error is not None
            print(f"{'FAIL' if error else 'ok  '} {seconds:6.1f} s  {name}", flush=True)
            if error:
                print(error, flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed or not chosen else 0


sys.exit(main())
