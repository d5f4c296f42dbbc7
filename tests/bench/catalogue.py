"""The catalogue on SQLite and on PostgreSQL (fsync on): writes and searches.

    target/venv/bin/python tests/bench/catalogue.py [ROWS]
"""

import pathlib
import subprocess
import sys
import tempfile
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "system"))
from lib.postgres import Postgres  # noqa: E402 - the tests have the same server


def measure(name, url, rows):
    print(name, flush=True)
    command = ["cargo", "bench", "--quiet", "--profile", "release", "-p", "ferric-worker", "--bench", "catalogue", "--", rows, url]
    subprocess.run(command, cwd=ROOT, check=True)


rows = sys.argv[1] if len(sys.argv) > 1 else "100000"
with tempfile.TemporaryDirectory() as folder:
    measure("SQLite", f"sqlite:{folder}/catalog.db", rows)
with Postgres() as database:
    password = urllib.parse.quote(database.password, safe="")
    measure("PostgreSQL", database.url.replace("ferric@", f"ferric:{password}@"), rows)
