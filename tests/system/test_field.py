"""The shapes and calls of testdata/siprec, played as a recording client would, and what was recorded of them."""

import json
import re
import signal
import subprocess
import sys
import time

from lib.media import CODECS, Sender, channels, payloads, pitch, tone
from lib.node import ROOT, Node, ferric, folder, wait
from lib.sip import Call, sdp

PLAYER = ROOT / "tests" / "interop" / "play.py"


def played(corpus, name):
    result = folder(name) / "result.json"
    command = [sys.executable, str(PLAYER), str(ROOT / "testdata" / "siprec" / corpus), "--json", str(result), "--home", name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return {one["scenario"]: one for one in json.loads(result.read_text())}


def test_every_shape_is_recorded():
    results = played(".", "field-shapes")
    assert len(results) >= 18
    assert results["eight-streams"]["parties"] == 8 and results["cube-inactive"]["channels"] == "--"


def test_calls_that_change_are_recorded():
    results = played("calls", "field-calls")
    assert len(results) >= 14
    assert results["two-sessions-at-once"]["recordings"] == 2 and results["two-halves"]["recordings"] == 1
    assert results["one-half-lost"]["channels"] == "-R"


def test_srtp_over_plain_sip_and_wrong_keys():
    """Keys in clear are refused unless allowed; wrong keys are an alarm and a partial recording, never silence."""
    home = folder("srtp-keys")
    key = "d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj"
    crypto = f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{key}"
    offer = re.sub(r"(a=sendonly)", rf"{crypto}\r\n\1", sdp().replace("RTP/AVP", "RTP/SAVP"))
    with Node(home) as node:
        refused = Call(node, 1)
        answer = refused.invite(offer=offer)
        assert answer.status == 488 and "TLS" in (answer.header("Warning") or ""), answer.raw
        refused.close()
        required = ferric("check", "--config", node.config)
        assert required.returncode == 0, required.stderr
    with Node(home, extra="[sip]\nsdes_without_tls = true\n") as node:
        call = Call(node, 2)
        answer = call.invite(offer=offer)
        assert answer.status == 200 and answer.body.count("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:") == 2, answer.raw
        assert key not in answer.body, "the answer has a key of its own"
        parts = payloads(tone(600, 2), "pcmu", 8000)
        # Ten bytes of nothing in place of a tag: packets under keys that nobody agreed.
        sender = Sender([([part + b"0123456789" for part in parts], ("127.0.0.1", port)) for port in answer.ports()], "pcmu", seconds=3)
        sender.start()
        wait(lambda: any(alarm["name"] == "srtp-undecryptable" for alarm in node.get("/api/v1/alarms")), 10, "the alarm", node)
        sender.join()
        assert key not in node.log.read_text(), "keys are never logged"
        assert call.bye().status == 200
        recording = node.stored(1)[0]
        assert recording["state"] == "partial", recording
        metadata, audio = node.open(recording["id"])
        assert metadata["end_reason"] == "SRTP could not be opened" and metadata["streams"][0]["undecryptable"] > 100
        view = node.get("/api/v1/assurance")
        assert view["totals"]["partial"] == 1 and view["adds_up"] and view["intact"], view


def test_the_ledger_adds_up_through_kill_9():
    home = folder("ledger")
    node = Node(home)
    node.start()
    parts = payloads(tone(600, 2), "pcmu", 8000)
    calls, senders = [], []
    for number in range(6):
        call = Call(node, number)
        answer = call.invite()
        sender = Sender([(parts, ("127.0.0.1", port)) for port in answer.ports()], "pcmu", seconds=30, seed=number)
        sender.start()
        calls.append(call)
        senders.append(sender)
    refused = Call(node, 90)
    assert refused.invite(offer=sdp(rtpmaps=((97, "EVS/16000"),))).status == 488
    time.sleep(2)
    for call in calls[:2]:
        assert call.bye().status == 200
    wait(lambda: node.get("/api/v1/assurance")["totals"]["complete"] == 2, 10, "two outcomes", node)
    # A datagram that is cut off cannot be read, and is in the books all the same, once.
    cut = Call(node, 91)
    for _ in range(3):
        cut.request("INVITE", body=sdp(), content_type="application/sdp", wait=False, cseq=1, raw=lambda text: text.encode()[:-40])
    wait(lambda: node.get("/api/v1/assurance")["totals"]["refused"] == 2, 5, "the cut INVITE in the ledger", node)
    view = node.get("/api/v1/assurance")
    assert view["totals"] == {"received": 8, "complete": 2, "recovered": 0, "partial": 0, "refused": 2, "moved": 0, "adopted": 0, "open": 4}, view["totals"]
    node.kill()
    # While it is down the files tell the same.
    told = ferric("assurance", "--data-dir", node.data)
    assert told.returncode == 0 and "4 still open" in told.stdout, told.stdout + told.stderr
    node.start()
    view = node.get("/api/v1/assurance")
    assert view["totals"] == {"received": 8, "complete": 2, "recovered": 4, "partial": 0, "refused": 2, "moved": 0, "adopted": 0, "open": 0}, view
    assert view["adds_up"] and view["intact"]
    for sender in senders:
        sender.halt.set()
    found = ferric("assurance", "--data-dir", node.data, "--call-id", calls[3].call_id, "--json")
    found = json.loads(found.stdout)["report"]["calls"]
    assert len(found) == 1 and found[0]["outcome"] == "recovered", found
    node.process.send_signal(signal.SIGTERM)
    node.process.wait(30)
    ledger = next((node.data / "assurance").glob("*.jsonl"))
    text = ledger.read_text()
    assert calls[3].call_id not in text and "+1555" not in text, "no personal data in the ledger"
    ledger.write_text(text.replace('"complete"', '"recovered"', 1))
    told = ferric("assurance", "--data-dir", node.data)
    assert told.returncode == 3 and "NOT as the node wrote it" in told.stdout, told.stdout


def test_correlators_find_recordings():
    for parties in ("clear", "hashed"):
        home = folder(f"correlators-{parties}")
        with Node(home, extra=f'[catalog]\nparties = "{parties}"\n') as node:
            call = Call(node, 1)
            guid = "2881195520-0000065536-0000000011-1512058894"
            content_headers = (f"Cisco-Guid: {guid}", "Session-ID: ab30317f1a784dc48ff824d0d3715d86;remote=00000000000000000000000000000000", "User-to-User: 04FA080001000A6745230F;encoding=hex")
            answer = call.request("INVITE", body=sdp(), content_type="application/sdp", headers=content_headers)
            call.to = answer.header("To")
            call.request("ACK", cseq=call.cseq, wait=False)
            assert call.bye().status == 200
            node.stored(1)
            for value in (guid, "AB30317F1A784DC48FF824D0D3715D86", "00001000101732584207"):
                assert len(node.get(f"/api/v1/recordings?correlator={value}")["recordings"]) == 1, value
            assert node.get("/api/v1/recordings?correlator=2881195520")["recordings"] == []
            node.terminate()
            database = (node.data / "catalog.db").read_bytes()
            assert (guid.encode() in database) == (parties == "clear")
