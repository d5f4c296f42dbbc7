"""Plays a folder of recording clients' messages to a node, with RTP behind every m-line, and looks at what was recorded.

    make interop CORPUS=DIR [NODE=sip:HOST:PORT API=URL TOKEN=FILE KEY=FILE] [ARGS="--only PART --json FILE"]

Without NODE it starts one of its own. Prints a row for each scenario and each reference answer; exit code 1 if
one was not recorded as it should be, 2 if there was nothing to play.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "system")]

from call import Call, Failure  # noqa: E402
from corpus import half, load  # noqa: E402
from judge import Look, compare  # noqa: E402
from lib.node import Node, ferric, folder  # noqa: E402
from pcap import Captures  # noqa: E402

COLUMNS = (("scenario", 38), ("answers", 13), ("made", 5), ("parties", 7), ("channels", 8), ("correlators", 32))
# After the end of one pair of dialogs, another with the same ids is a new call.
PAIR_GAP = 4.0
# Ids that nearly every call has tell nothing in a narrow table.
COMMON = ("Request-URI", "P-Asserted-Identity", "Remote-Party-ID", "Call-Info", "Call-ID")


class Running:
    """A node that somebody else started."""

    def __init__(self, sip, api, token, key):
        host, _, port = sip.removeprefix("sip:").split(";")[0].rpartition(":")
        self.server, self.api, self.token, self.key = (host.strip("[]"), int(port)), api.rstrip("/"), token, key

    def get(self, path, raw=False):
        request = urllib.request.Request(self.api + path)
        token = pathlib.Path(self.token)
        request.add_header("Authorization", f"Bearer {token.read_text().strip() if token.exists() else self.token}")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, data = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, data = error.code, error.read()
        if raw:
            return status, data
        if status != 200:
            raise Failure(f"{path}: {status}")
        return json.loads(data)


class Recordings:
    """What the node lists. Eight scenarios ask at once: the answer is shared for a moment."""

    def __init__(self, node):
        self.node, self.lock, self.at, self.found = node, threading.Lock(), 0.0, []
        self.since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))

    def list(self):
        with self.lock:
            if time.monotonic() - self.at > 0.25:
                self.found, cursor = [], ""
                while True:
                    page = self.node.get(f"/api/v1/recordings?limit=500&from={self.since}{cursor}")
                    self.found += page["recordings"]
                    if not page.get("next_cursor"):
                        break
                    cursor = f"&cursor={page['next_cursor']}"
                self.at = time.monotonic()
            return self.found


class Player:
    def __init__(self, node, captures, given):
        self.node, self.captures, self.given = node, captures, given
        self.recordings = Recordings(node)
        self.keys, self.gate = {}, threading.Lock()
        self.calls = []

    def play(self, number, scenario):
        """One scenario: plays its dialogs, waits for its recordings, looks at them."""
        with self.gate:
            locks = [self.keys.setdefault(key, threading.Lock()) for key in sorted(scenario.keys)]
            shared = [self.keys_count[key] > 1 for key in sorted(scenario.keys)]
        for lock in locks:
            lock.acquire()
        try:
            calls = self._dialogs(number, scenario)
            if any(shared):
                time.sleep(PAIR_GAP)
        finally:
            for lock in locks:
                lock.release()
        self.calls += calls
        return self._look(scenario, calls)

    def _dialogs(self, number, scenario):
        calls = []
        paired = any(half(dialog.invite) for dialog in scenario.dialogs)
        for position, dialog in enumerate(scenario.dialogs):
            size = max((len(message.raw) for message in dialog.messages), default=0)
            way = self.given.transport or ("tcp" if number % 4 == 3 else "udp")
            # A stream cannot be cut as a datagram is, and a datagram cannot be as long as a stream.
            way = "udp" if dialog.truncated else "tcp" if size > 60000 else way
            calls.append(Call(dialog, self.node.server, self.captures, way, f"-{number}-{position}", self.given.longest_pause))
        over = {dialog.name: threading.Event() for dialog in scenario.dialogs}

        def one(position, call):
            if call.dialog.after:
                over[call.dialog.after].wait(120)
                time.sleep(0.3)
            else:
                # The halves of one call come within milliseconds, calls of one story one after the other.
                time.sleep((0.03 if paired else 0.25) * position)
            try:
                call.run()
            except Exception as error:  # noqa: BLE001 - whatever it was, it is this scenario's failure
                call.failures.append(f"the player failed: {error!r}")
                if not isinstance(error, OSError):
                    traceback.print_exc()
            over[call.dialog.name].set()

        threads = [threading.Thread(target=one, args=pair) for pair in enumerate(calls)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return calls

    def _look(self, scenario, calls):
        wanted = {call.call_id for call in calls}
        # A CANCEL that came in time leaves nothing to record.
        expected = scenario.expected - sum(call.cancelled for call in calls)
        deadline = time.monotonic() + self.given.patience
        # One that should not be there may still come: a moment's wait after the last.
        settled = None
        while time.monotonic() < deadline:
            made = [recording for recording in self.recordings.list() if recording["sip_call_id"] in wanted]
            ready = len(made) >= expected and all(recording["stored"] for recording in made)
            settled = (settled or time.monotonic()) if ready else None
            if settled and time.monotonic() - settled > 0.6:
                break
            time.sleep(0.3)
        wrong = [f"{call.dialog.name}: {failure}" if len(calls) > 1 else failure for call in calls for failure in call.failures]
        if len(made) != expected:
            wrong.append(f"{len(made)} recordings instead of {expected}")
        wrong += [f"recording {recording['id']} is not stored" for recording in made if not recording["stored"]]
        if any(call.dialog.truncated and 400 not in call.answers for call in calls):
            wrong.append("a cut datagram is not answered 400")
        look = Look(self.node, scenario, calls, [recording for recording in made if recording["stored"]])
        answers = [status for call in calls for status in call.answers]
        return {
            "scenario": scenario.name,
            "answer": told(answers),
            "recordings": len(made),
            "expected": expected,
            "parties": len(look.parties),
            "channels": ",".join(look.heard),
            "correlators": len(look.ids),
            "wrong": wrong + look.wrong,
            "details": {
                "transports": sorted({call.transport for call in calls}),
                "answers": [call.answers for call in calls],
                "recordings": [recording["id"] for recording in made],
                "parties": sorted(look.parties),
                "correlators": {name: sorted(values) for name, values in sorted(look.ids.items())},
                "makers": sorted(look.makers),
                "codecs": sorted({span.codec for call in calls for line in call.lines.values() for span in line.spans}),
            },
        }


def told(answers):
    """Status codes in the width of a column."""
    text = ",".join(map(str, answers))
    if len(text) <= 13:
        return text
    return f"{len(answers)} x {answers[0]}" if len(set(answers)) == 1 else f"{text[:10]}..."


def cells(result):
    found = list(result["details"]["correlators"])
    names = [name for name in found if name not in COMMON] or found
    made = f"{result['recordings']}/{result['expected']}"
    return [result["scenario"], result["answer"], made, result["parties"], result["channels"], " ".join(names)]


def row(values):
    out = []
    for (name, width), value in zip(COLUMNS, values):
        text = str(value)
        text = text if len(text) <= width or name != "correlators" else f"{text[: width - 3]}..."
        out.append(text.ljust(width))
    return "  ".join(out)


class Progress:
    """A line on a terminal that says how far it is; nothing where output is kept."""

    def __init__(self, total):
        self.total, self.done, self.shown = total, 0, sys.stderr.isatty()

    def step(self, name):
        self.done += 1
        if self.shown:
            sys.stderr.write(f"\r\x1b[K{self.done}/{self.total} {name}\r")
            sys.stderr.flush()

    def clear(self):
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def start(home):
    """A node of our own that takes SRTP keys over plain SIP, where its version knows how."""
    options = {"capture": "max_calls = 300", "recording": 'rtp_timeout = "30s"'}
    node = Node(home, extra="[sip]\nsdes_without_tls = true\n", **options)
    if ferric("check", "--config", node.config).returncode not in (0,):
        node = Node(home, **options)
    node.start()
    node.server = ("127.0.0.1", node.sip)
    return node


def references(entries, calls):
    """Rows for answers in the folder: beside what the node answered to the same INVITE."""
    found = []
    for name, message in entries:
        if message is None:
            found.append((name, "reference: what a server sends, or no message of a client", []))
            continue
        compared = compare(message, calls) if message.start.startswith("SIP/2.0 2") and message.method == "INVITE" else None
        if compared is None:
            found.append((name, "reference: its INVITE was not played", []))
        elif not compared[0]:
            found.append((name, f"reference: our answer has its shape ({compared[1]})", []))
        else:
            found.append((name, f"reference: ours differs: {', '.join(compared[0])}", compared[0]))
    return found


def arguments():
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("corpus")
    given.add_argument("--node", help="sip:HOST:PORT of a running node")
    given.add_argument("--api", help="URL of its API")
    given.add_argument("--token", help="file with its token")
    given.add_argument("--key", help="private key of the tenant")
    given.add_argument("--only", default="", help="part of a scenario's name")
    given.add_argument("--transport", choices=["udp", "tcp"])
    given.add_argument("--at-once", type=int, default=8)
    given.add_argument("--longest-pause", type=float, default=1.6, metavar="SECONDS", help="pauses of the flows are cut to this")
    given.add_argument("--patience", type=float, default=25, metavar="SECONDS", help="how long a recording may take to be stored")
    given.add_argument("--home", default="interop", metavar="NAME", help="name of the folder of a node of our own, below target/system")
    given.add_argument("--json", metavar="FILE")
    given.add_argument("--list", action="store_true", help="tell what would be played, and end")
    return given.parse_args()


def main():
    given = arguments()
    if not pathlib.Path(given.corpus).is_dir():
        print(f"{given.corpus} is no folder", file=sys.stderr)
        return 2
    scenarios, entries = load(given.corpus)
    scenarios = [scenario for scenario in scenarios if given.only in scenario.name]
    if given.list:
        for scenario in scenarios:
            names = "; ".join(" ".join(message.method for message in dialog.messages) for dialog in scenario.dialogs)
            print(f"{scenario.name.ljust(44)} {scenario.expected}  {names}")
        return 0
    if not scenarios:
        print(f"no messages in {given.corpus}", file=sys.stderr)
        return 2
    if given.node and not (given.api and given.token and given.key):
        print("a running node needs --api, --token and --key as well", file=sys.stderr)
        return 2
    own = None if given.node else start(folder(f"{given.home}-node"))
    node = own or Running(given.node, given.api, given.token, given.key)
    player = Player(node, Captures(given.corpus), given)
    every = [key for scenario in scenarios for key in scenario.keys]
    player.keys_count = {key: every.count(key) for key in every}
    results, progress, began = [], Progress(len(scenarios)), time.monotonic()
    try:
        print(row([name for name, _ in COLUMNS]) + "  wrong")
        with concurrent.futures.ThreadPoolExecutor(given.at_once) as pool:
            waiting = {pool.submit(player.play, number, scenario): scenario for number, scenario in enumerate(scenarios)}
            for future, scenario in waiting.items():
                future.add_done_callback(lambda _, name=scenario.name: progress.step(name))
            for future in waiting:
                result = future.result()
                results.append(result)
                progress.clear()
                print(f"{row(cells(result))}  {'; '.join(result['wrong']) or '-'}".rstrip(), flush=True)
    finally:
        if own:
            own.terminate()
    compared = references(entries, player.calls) if not given.only else []
    for name, text, _ in compared:
        print(f"{name.ljust(38)}  {text}")
    bad = [result["scenario"] for result in results if result["wrong"]]
    # Other recorders' answers differ as they like; those that the folder calls ours to give must not.
    bad += [name for name, _, differs in compared if differs and name.startswith("reference-srs-")]
    total, wanted = sum(result["recordings"] for result in results), sum(result["expected"] for result in results)
    print(f"{len(results)} scenarios, {total} recordings of {wanted}, {time.monotonic() - began:.0f} s; not as they should be: {len(bad)}")
    for name in bad:
        print(f"  {name}")
    if given.json:
        pathlib.Path(given.json).write_text(json.dumps(results, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.TimeoutExpired as error:
        sys.exit(f"a command did not end: {error}")
