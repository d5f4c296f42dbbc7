"""Plays a folder of recording clients' messages to a node, with RTP behind every m-line, and looks at what was recorded.

    make interop CORPUS=DIR [NODE=sip:HOST:PORT API=URL TOKEN=FILE KEY=FILE] [ARGS="--only PART --json FILE"]

Without NODE it starts one of its own. Prints a row for each scenario; exit code 1 if one was not recorded as it should be.
"""

import argparse
import concurrent.futures
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "system")]

import numpy as np  # noqa: E402
from call import Call, Failure  # noqa: E402
from corpus import half, load, pcap_payloads  # noqa: E402
from lib.media import channels  # noqa: E402
from lib.node import Node, ferric, folder  # noqa: E402

WIDTH = {"scenario": 40, "answer": 12, "rec": 7, "parties": 7, "channels": 14, "ids": 4}


class Running:
    """A node that somebody else started."""

    def __init__(self, sip, api, token, key):
        host, _, port = sip.removeprefix("sip:").rpartition(":")
        self.server, self.api, self.token, self.key = (host, int(port)), api.rstrip("/"), token, key

    def get(self, path, raw=False):
        request = urllib.request.Request(self.api + path)
        request.add_header("Authorization", f"Bearer {pathlib.Path(self.token).read_text().strip()}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            data = answer.read()
        return (200, data) if raw else json.loads(data)


def recordings(node):
    found, cursor = [], ""
    while True:
        page = node.get(f"/api/v1/recordings?limit=500{cursor}")
        found += page["recordings"]
        if not page.get("next_cursor"):
            return found
        cursor = f"&cursor={page['next_cursor']}"


def opened(node, recording):
    """Metadata and both channels of a recording, with the tenant's key."""
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        for kind, name in (("audio", "audio.eopus"), ("metadata", "metadata.ejson")):
            (place / name).write_bytes(node.get(f"/api/v1/recordings/{recording['id']}/{kind}", raw=True)[1])
        done = ferric("decrypt", "--key", node.key, place / "metadata.ejson", "-o", "-")
        if done.returncode:
            raise Failure(f"metadata do not open: {done.stderr.strip()}")
        metadata = json.loads(done.stdout)
        done = ferric("decrypt", "--key", node.key, place / "audio.eopus", "-o", place / "audio.opus")
        if done.returncode:
            raise Failure(f"audio does not open: {done.stderr.strip()}")
        return metadata, channels(place / "audio.opus", 16000, decoder="libopus")


def strength(samples, hz, rate=16000):
    """Share of a second's energy that lies at a frequency, in the second where it is strongest."""
    best = 0.0
    for at in range(0, max(1, len(samples) - rate // 2), rate // 4):
        part = samples[at : at + rate // 2]
        if len(part) < rate // 4 or np.sqrt(np.mean(part**2)) < 60:
            continue
        wave = np.exp(-2j * np.pi * hz * np.arange(len(part)) / rate)
        best = max(best, abs(2 * (part @ wave)) ** 2 / len(part) / (2 * np.sum(part**2) + 1e-9))
    return best


def loud(samples):
    return len(samples) > 1600 and float(np.sqrt(np.mean(samples**2))) > 25


def look(node, scenario, calls, made):
    """What the recordings of a scenario lack."""
    wrong, parties, ids, heard = [], set(), set(), []
    by_call = {}
    for recording in made:
        by_call.setdefault(recording["sip_call_id"], []).append(recording)
    audio = []
    for recording in made:
        # Where every line is held all along there is nothing to record, and that is said.
        silent = not any(line.sent for call in calls for line in call.lines.values())
        if recording["state"] != ("partial" if silent else "complete"):
            wrong.append(f"a recording is {recording['state']}")
        metadata, sides = opened(node, recording)
        audio.append((recording, metadata, sides))
        parties |= {party.get("aor") or party.get("name") or party["id"] for party in metadata.get("participants", [])}
        ids |= {entry["name"] for entry in metadata["sip"].get("correlators", [])}
        heard.append("".join(letter if loud(side) else "-" for letter, side in zip("LR", sides)))
        owners = [call for call in calls if call.call_id == recording["sip_call_id"]]
        if len(made) == len(calls) == 1 and owners and owners[0].started and owners[0].ended:
            expected, length = owners[0].ended - owners[0].started, len(sides[0]) / 16000
            if abs(expected - length) > 1.5:
                wrong.append(f"{length:.1f} s recorded of a call of {expected:.1f} s")
    for call in calls:
        first = next((step.message for step in call.dialog.steps if step.kind == "send" and step.message.method == "INVITE"), None)
        end = half(first)[1] if first is not None and half(first) else None
        own = [entry for entry in audio if entry[0]["sip_call_id"] == call.call_id] or audio
        spoke = [(index, line) for index, line in sorted(call.lines.items()) if line.sent > 25]
        for order, (index, line) in enumerate(spoke):
            if end:
                wanted = [1 if end == "far" else 0]
            elif len(own) > 1:
                wanted = [0, 1]
            else:
                wanted = [0] if order == 0 and index == min(call.lines) else [0, 1] if order == 0 else [1]
            found = [side for _, _, sides in own for side in (sides[channel] for channel in wanted)]
            # Several lines share the right channel: each tone has a part of its energy.
            share = 0.5 / max(1, len(spoke) - 1)
            good = any(strength(side, line.hz) > share if line.has_tone else loud(side) for side in found)
            if not good:
                wrong.append(f"m-line {index + 1} ({line.codec}) is not heard on channel {'LR'[wanted[0]] if len(wanted) == 1 else 'L or R'}")
    return wrong, len(parties), len(ids), ",".join(heard)


def play(node, scenario, pcap, number, transport):
    calls, failures = [], []
    for position, dialog in enumerate(scenario.dialogs):
        size = max((len(step.message.raw) for step in dialog.steps if step.kind == "send"), default=0)
        way = transport or ("tcp" if size > 60000 or number % 4 == 3 and not dialog.truncated else "udp")
        calls.append(Call(dialog, node.server, pcap, way, f"-{number}-{position}"))

    def one(position, call):
        time.sleep(0.25 * position)
        try:
            call.run()
        except (Failure, OSError) as error:
            failures.append(f"{call.dialog.name}: {error}")

    threads = [threading.Thread(target=one, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = {call.call_id for call in calls}
    made, deadline = [], time.monotonic() + 25
    while time.monotonic() < deadline:
        made = [recording for recording in recordings(node) if recording["sip_call_id"] in wanted]
        if len(made) >= scenario.expected and all(recording["stored"] for recording in made):
            break
        time.sleep(0.3)
    wrong = list(failures)
    parties, ids, heard = 0, 0, ""
    if len(made) != scenario.expected:
        wrong.append(f"{len(made)} recordings instead of {scenario.expected}")
    if any(call.dialog.truncated for call in calls) and not any(400 in call.answers for call in calls):
        wrong.append("a cut datagram is not answered 400")
    try:
        missing, parties, ids, heard = look(node, scenario, calls, made)
        wrong += missing
    except Failure as error:
        wrong.append(str(error))
    answers = ",".join(str(status) for call in calls for status in call.answers)
    return {
        "scenario": scenario.name,
        "answer": answers if len(answers) <= 12 else f"{len(answers.split(','))} x {answers[:3]}" if len(set(answers.split(","))) == 1 else answers,
        "recordings": len(made),
        "expected": scenario.expected,
        "parties": parties,
        "channels": heard,
        "correlators": ids,
        "wrong": wrong,
    }


def row(values):
    return "  ".join(str(value)[: width if name != "scenario" else 60].ljust(width) for (name, width), value in zip(WIDTH.items(), values))


def start(name):
    home = folder(f"{name}-node")
    extra = "[sip]\nsdes_without_tls = true\n"
    return Node(home, capture="max_calls = 300", recording='rtp_timeout = "30s"', extra=extra)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("corpus")
    arguments.add_argument("--node")
    arguments.add_argument("--api")
    arguments.add_argument("--token")
    arguments.add_argument("--key")
    arguments.add_argument("--only", default="", help="part of a scenario's name")
    arguments.add_argument("--transport", choices=["udp", "tcp"])
    arguments.add_argument("--at-once", type=int, default=8)
    arguments.add_argument("--json")
    arguments.add_argument("--home", default="interop", help="name of the node's folder under target/system")
    given = arguments.parse_args()
    scenarios, references = load(given.corpus)
    scenarios = [scenario for scenario in scenarios if given.only in scenario.name]
    if not scenarios:
        print(f"no messages in {given.corpus}", file=sys.stderr)
        return 2
    if given.node and not (given.api and given.token and given.key):
        print("a running node needs --api, --token and --key as well", file=sys.stderr)
        return 2
    own = None
    if given.node:
        node = Running(given.node, given.api, given.token, given.key)
    else:
        node = own = start(given.home)
        own.start()
        own.server = ("127.0.0.1", own.sip)
    pcap = pcap_payloads(given.corpus)
    results = []
    try:
        print(row(["scenario", "answer", "rec", "parties", "channels", "ids"]) + "  wrong")
        with concurrent.futures.ThreadPoolExecutor(given.at_once) as pool:
            waiting = [pool.submit(play, node, scenario, pcap, number, given.transport) for number, scenario in enumerate(scenarios)]
            for done in waiting:
                result = done.result()
                results.append(result)
                counts = f"{result['recordings']}/{result['expected']}"
                cells = [result["scenario"], result["answer"], counts, result["parties"], result["channels"], result["correlators"]]
                print(row(cells) + "  " + ("; ".join(result["wrong"]) or "-"), flush=True)
    finally:
        if own:
            own.terminate()
    for name in references:
        print(f"{name}: what a server sends, or no message: not played")
    bad = [result for result in results if result["wrong"]]
    total = sum(result["recordings"] for result in results)
    print(f"{len(results)} scenarios, {total} recordings, {len(bad)} not as they should be")
    if given.json:
        pathlib.Path(given.json).write_text(json.dumps(results, indent=1))
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.TimeoutExpired as error:
        sys.exit(f"a command did not end: {error}")
