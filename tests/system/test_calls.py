"""Calls of every transport and codec, impaired calls, many calls, controls."""

import json
import os
import random
import re
import socket
import ssl
import subprocess
import threading
import time

import numpy as np

from lib import media
from lib.certificates import certificates
from lib.media import CODECS, Sender, align, channels, payloads, pitch, speech, tone
from lib.node import ROOT, Node, ferric, folder, free_port, wait
from lib.sip import Call, sdp

SECONDS = 16


class TlsTunnel:
    """Debian's sipp is built without TLS: it speaks TCP to this relay, which speaks (mutual) TLS to the node."""

    def __init__(self, home, port, certificate=True):
        context = ssl.create_default_context(cafile=home / "ca.crt")
        if certificate:
            context.load_cert_chain(home / "client.crt", home / "client.key")
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(context, port), daemon=True).start()

    def _serve(self, context, port):
        while True:
            plain, _ = self.listener.accept()
            secured = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="127.0.0.1")
            for source, target in ((plain, secured), (secured, plain)):
                threading.Thread(target=self._copy, args=(source, target), daemon=True).start()

    @staticmethod
    def _copy(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            target.close()


def sipp(home, node, transport, codec, milliseconds):
    """sipp signals as the SBC; returns the process and the file that shows the answers."""
    payload_type, rtpmap = CODECS[codec][:2]
    scenario = (ROOT / "tests/system/sipp/siprec.xml").read_text()
    scenario = scenario.replace("@PT@", str(payload_type)).replace("@MAP@", rtpmap).replace("@MS@", str(milliseconds))
    work = home / f"sipp-{transport}-{codec}"
    work.mkdir()
    (work / "siprec.xml").write_text(scenario)
    port = TlsTunnel(home, node.sips).port if transport == "tls" else node.sip
    command = ["sipp", f"127.0.0.1:{port}", "-sf", "siprec.xml", "-m", "1", "-t", "t1" if transport == "tls" else transport, "-i", "127.0.0.1", "-p", str(free_port()),
               "-nostdin", "-trace_msg", "-message_file", str(work / "messages.log"), "-timeout", "90s", "-cp", str(free_port())]
    process = subprocess.Popen(command, cwd=work, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    return process, work / "messages.log"


def answered_ports(log):
    text = log.read_text(errors="replace") if log.exists() else ""
    at = text.find("SIP/2.0 200 OK")
    return [int(port) for port in re.findall(r"^m=audio (\d+)", text[at:], re.M)][:2] if at >= 0 else []


def check_two_channels(audio, parties, codec, what, *, corr=0.95):
    """Correlation, sides, crosstalk, offset."""
    left, right = channels(audio)
    narrow = CODECS[codec][3] == 8000
    starts = []
    for said, recorded, other in ((parties[0], left, right), (parties[1], right, left)):
        rate = 16000
        if narrow:
            # The telephone band of what was said, still at 16 kHz: half a sample of 8 kHz would spoil the comparison.
            said = media.resample(media.resample(said, 16000, 8000), 8000, 16000)
        start, likeness = align(said, recorded, rate)
        assert likeness > corr, f"{what}: correlation {likeness:.3f}"
        assert abs(align(said, other, rate)[1]) < 0.3, f"{what}: the sides are mixed up"
        starts.append(start)
    assert abs(starts[0] - starts[1]) < 0.020, f"{what}: channels are {starts} apart"
    return left, right, starts


def crosstalk(left, right, parties, starts):
    """Where only one party speaks, the other channel is at least 55 dB below."""
    worst = 200.0
    frame = 320
    for mine, theirs, loud, quiet, start in ((0, 1, left, right, starts[0]), (1, 0, right, left, starts[1])):
        shift = int(start * 16000)
        said, other = parties[mine], parties[theirs]
        powers = []
        for at in range(0, min(len(said), len(loud) - shift) - frame, frame):
            # Half a second of silence around: the gate's hang-over of the other party has passed.
            around = other[max(0, at - 8000) : at + 4000]
            if np.abs(around).max(initial=0) < 4 and media.level_db(said[at : at + frame]) > 50:
                powers.append((np.mean(loud[shift + at : shift + at + frame] ** 2), np.mean(quiet[shift + at : shift + at + frame] ** 2)))
        assert len(powers) > 50, "too little of the conversation has one speaker only"
        ours, leak = np.array(powers).sum(axis=0)
        worst = min(worst, 10 * np.log10(ours / (leak + 1e-3)))
    assert worst >= 55, f"crosstalk at only {worst:.1f} dB"


def test_sipp_over_each_transport_with_each_codec():
    home = folder("transports")
    tls = certificates(home)
    parties = [speech("caller")[: SECONDS * 16000], speech("agent")[: SECONDS * 16000]]
    calls = [("u1", "pcmu"), ("t1", "pcma"), ("tls", "g722"), ("u1", "l16")]
    # Encoded beforehand, so that nothing disturbs the pace of the packets.
    coded = {codec: [payloads(party, codec) for party in parties] for _, codec in calls}
    with Node(home, tls=tls) as node:
        running = []
        for transport, codec in calls:
            process, log = sipp(home, node, transport, codec, SECONDS * 1000 + 600)
            wait(lambda: len(answered_ports(log)) == 2, 10, f"sipp {transport} {codec} got no 200", node)
            ports = answered_ports(log)
            sender = Sender([(coded[codec][n], ("127.0.0.1", ports[n])) for n in (0, 1)], codec)
            sender.start()
            running.append((process, sender, time.monotonic(), log))
        for (process, sender, _, log), (transport, codec) in zip(running, calls):
            sender.join()
            assert process.wait(30) == 0, f"sipp {transport} {codec}: {process.stderr.read()[-500:]}"
        node.stored(4)
        found = {}
        for recording in node.recordings():
            metadata, audio = node.open(recording["id"])
            found[metadata["streams"][0]["codecs"][0].split("/")[0].lower()] = (recording, metadata, audio)
        assert set(found) == {codec for _, codec in calls}, found.keys()
        for codec, (recording, metadata, audio) in found.items():
            left, right, starts = check_two_channels(audio, parties, codec, codec)
            crosstalk(left, right, parties, starts)
            assert [p["name"] for p in sorted(metadata["participants"], key=lambda p: p["channel"])] == ["Caller", "Agent"]
            assert abs(len(left) / 16000 - recording["duration_ms"] / 1000) < 0.040
            assert recording["state"] == "complete"
            assert all(stream["lost"] == 0 for stream in metadata["streams"]), metadata["streams"]
            info = subprocess.run(["opusinfo", str(audio)], capture_output=True, text=True, check=False)
            assert "WARNING" not in info.stdout + info.stderr, info.stdout + info.stderr
            probe = subprocess.run(["ffprobe", "-v", "error", "-show_entries", "stream=codec_name,channels", "-of", "json", str(audio)],
                                   capture_output=True, text=True, check=True)
            stream = json.loads(probe.stdout)["streams"][0]
            assert (stream["codec_name"], stream["channels"]) == ("opus", 2) and probe.stderr == ""
        # The independent reader, written from docs/eopus.md alone, opens it too and gets the same.
        recording, _, audio = found["pcmu"]
        sealed = node.find(recording["id"]) / "audio.eopus"
        other = home / "other.opus"
        done = subprocess.run([os.sys.executable, ROOT / "tests/eopus_reader.py", node.key, sealed, other], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert other.read_bytes() == audio.read_bytes()


def test_loss_reordering_and_duplicates_leave_the_timeline_whole():
    home = folder("impaired")
    parties = [speech("caller"), speech("agent")]
    with Node(home) as node:
        call = Call(node, 1)
        invited = time.monotonic()
        answer = call.invite()
        assert answer.status == 200, answer.raw
        begun = time.monotonic()
        streams = [(payloads(parties[n], "pcmu"), ("127.0.0.1", answer.ports()[n])) for n in (0, 1)]
        sender = Sender(streams, "pcmu", loss=0.05, reorder=0.10, duplicate=0.01, seed=7)
        sender.start()
        sender.join()
        time.sleep(0.2)
        ending = time.monotonic()
        assert call.bye().status == 200
        ended = time.monotonic()
        recording = node.stored(1)[0]
        metadata, audio = node.open(recording["id"])
        left, right = channels(audio)
        assert abs(len(left) / 16000 - recording["duration_ms"] / 1000) < 0.040
        # The call began between INVITE and 200 and ended between BYE and 200.
        assert ending - begun - 0.040 < recording["duration_ms"] / 1000 < ended - invited + 0.040, (recording["duration_ms"], ending - begun, ended - invited)
        # Wherever in the call and on whichever side: what was said lies at its place.
        places = []
        for said, recorded in ((parties[0], left), (parties[1], right)):
            said, recorded = media.resample(said, 16000, 8000), recorded[::2]
            for at in range(0, 22, 2):
                piece = said[at * 8000 : (at + 3) * 8000]
                if np.abs(piece).max() < 1000:
                    continue
                before = min(at, 1)
                place, likeness = align(piece, recorded[(at - before) * 8000 : (at + 5) * 8000], 8000)
                assert likeness > 0.7, (at, place, likeness)
                places.append(place - before)
        assert len(places) > 8 and max(places) - min(places) < 0.020, places
        for index, stream in enumerate(sorted(metadata["streams"], key=lambda stream: stream["channel"])):
            assert stream["lost"] == sender.lost[index], (stream, sender.lost)
            assert stream["duplicate"] == sender.doubled[index], (stream, sender.doubled)
            assert stream["reordered"] > 50


def test_fifty_calls_at_once_are_fifty_recordings_and_none_is_mixed_up():
    home = folder("fifty")
    dice = random.Random(11)
    with Node(home, capture="max_calls = 50") as node:
        calls, plan = [], {}
        begun = time.monotonic()
        pool = []
        for number in range(50):
            pool.append((dice.uniform(0, 5), dice.uniform(4, 9), number))
        pool.sort()
        ends = []
        for start, length, number in pool:
            time.sleep(max(0, begun + start - time.monotonic()))
            call = Call(node, number)
            answer = call.invite()
            assert answer.status == 200, answer.raw
            low, high = 300 + 20 * number, 1500 + 20 * number
            streams = [(payloads(tone(hz, 2), "pcmu", 8000), ("127.0.0.1", port)) for hz, port in zip((low, high), answer.ports())]
            sender = Sender(streams, "pcmu", seconds=length, seed=number)
            sender.start()
            ends.append((call, sender, length))
            plan[call.call_id] = (low, high, length)
        refused = Call(node, 99).invite()
        assert refused.status == 503 and refused.header("Retry-After"), refused.raw
        for call, sender, _ in ends:
            sender.join()
            assert call.bye().status == 200
        recordings = node.stored(50, 60)
        assert len(recordings) == 50
        assert {r["sip_call_id"] for r in recordings} == set(plan)
        for recording in recordings:
            low, high, length = plan[recording["sip_call_id"]]
            _, audio = node.open(recording["id"])
            left, right = channels(audio, decoder="libopus")
            middle = slice(16000, int((length - 1) * 16000))
            heard = [pitch(channel[middle], 16000) for channel in (left, right)]
            assert all(abs(heard - sent) < 8 for heard, sent in zip(heard, (low, high))), (heard, low, high, length, recording)
            assert len(left) / 16000 > length - 0.3


def test_controls_pause_leaves_true_silence_and_a_mark():
    home = folder("controls")
    with Node(home) as node:
        call = Call(node, 3)
        answer = call.invite()
        streams = [(payloads(tone(hz, 2), "pcmu", 8000), ("127.0.0.1", port)) for hz, port in zip((500, 900), answer.ports())]
        sender = Sender(streams, "pcmu", seconds=9)
        sender.start()
        time.sleep(2.5)
        live = node.get("/api/v1/calls")
        assert len(live) == 1 and live[0]["sip_call_id"] == call.call_id and live[0]["streams"][0]["codec"] == "PCMU"
        path = f"/api/v1/calls/{live[0]['id']}"
        assert node.get(f"{path}/tags", method="POST", body={"queue": "sales"})["state"] == "recording"
        paused = node.get(f"{path}/pause", method="POST")
        assert paused["state"] == "paused" and paused["changed"]
        assert node.get(path)["state"] == "paused"
        time.sleep(3)
        assert node.get(f"{path}/resume", method="POST")["state"] == "recording"
        time.sleep(2)
        # The API ends the recording: the SRC gets a BYE.
        assert node.get(f"{path}/stop", method="POST")["state"] == "stopped"
        wait(lambda: any(m.method == "BYE" for m in call.seen), 5, "no BYE after stop", node)
        sender.halt.set()
        sender.join()
        recording = node.stored(1)[0]
        assert "queue=sales" in recording["tags"]
        assert [r["id"] for r in node.get("/api/v1/recordings?tag=queue%3Dsales")["recordings"]] == [recording["id"]]
        metadata, audio = node.open(recording["id"])
        left, right = channels(audio)
        mark = metadata["pauses"][0]["at"] if "at" in metadata["pauses"][0] else metadata["pauses"][0]
        silent = slice(int(mark["from_ms"] * 16) + 1600, int(mark["to_ms"] * 16) - 800)
        assert 2.5 < (mark["to_ms"] - mark["from_ms"]) / 1000 < 3.6, mark
        assert np.abs(left[silent]).max() == 0 and np.abs(right[silent]).max() == 0
        assert media.level_db(left[: int(mark["from_ms"] * 16) - 1600]) > 50
        assert media.level_db(left[int(mark["to_ms"] * 16) + 4800 :]) > 50
        status, part = node.get(f"/api/v1/recordings/{recording['id']}/audio", raw=True, headers={"Range": "bytes=0-7"})
        assert status == 206 and part == b"EOPUS\x00\x00\x01"


def test_hold_late_party_and_codec_change_in_one_call():
    home = folder("changes")
    with Node(home) as node:
        call = Call(node, 4)
        answer = call.invite(offer=sdp(((0, "PCMU/8000"), (9, "G722/8000"))))
        ports = answer.ports()
        sender = Sender([(payloads(tone(500, 2), "pcmu", 8000), ("127.0.0.1", ports[0])),
                         (payloads(tone(900, 2), "pcmu", 8000), ("127.0.0.1", ports[1]))], "pcmu", seconds=4, delay=[0, 2])
        sender.start()
        sender.join()
        body = sdp().replace("a=sendonly", "a=inactive")
        held = call.request("INVITE", body=body, content_type="application/sdp")
        assert held.status == 200 and held.body.count("a=inactive") == 2 and "a=label:2" in held.body, held.raw
        call.request("ACK", cseq=call.cseq, wait=False)
        time.sleep(2)
        back = call.request("INVITE", body=sdp(((9, "G722/8000"),)), content_type="application/sdp")
        assert back.status == 200 and back.body.count("a=recvonly") == 2 and "a=rtpmap:9 G722/8000" in back.body, back.raw
        assert back.ports() == ports, "the sockets stay"
        call.request("ACK", cseq=call.cseq, wait=False)
        wide = Sender([(payloads(tone(5000, 2, 16000), "g722"), ("127.0.0.1", ports[0])),
                       (payloads(tone(6000, 2, 16000), "g722"), ("127.0.0.1", ports[1]))], "g722", seconds=4, seed=5)
        wide.start()
        wide.join()
        assert call.bye().status == 200
        recording = node.stored(1)[0]
        metadata, audio = node.open(recording["id"])
        left, right = channels(audio, decoder="libopus")
        second = lambda n: slice(int(n * 16000), int((n + 0.8) * 16000))
        assert abs(pitch(left[second(1)], 16000) - 500) < 8
        assert np.abs(right[second(0.6)]).max() < 40, "the second party spoke only from second 2 on"
        assert abs(pitch(right[second(2.8)], 16000) - 900) < 8
        assert np.abs(left[second(4.9)]).max() < 40, "hold is silence"
        assert abs(pitch(left[second(8)], 16000) - 5000) < 20, "wideband from the moment it came"
        assert abs(pitch(right[second(8)], 16000) - 6000) < 20
        assert metadata["holds"], metadata.keys()
