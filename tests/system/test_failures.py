"""Crashes, failing stores, a full disk, damage, and input that nobody should send."""

import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request

import numpy as np

from lib import media
from lib.faultproxy import FaultProxy
from lib.media import Sender, channels, payloads, pitch, tone
from lib.node import ROOT, Node, ferric, folder, free_port, wait
from lib.sip import Call, multipart, sdp


def talk(node, number, seconds, low=None, high=None):
    """A call with a tone each way; returns it with its sender."""
    call = Call(node, number)
    answer = call.invite()
    assert answer.status == 200, answer.raw
    low, high = low or 300 + 20 * number, high or 1500 + 20 * number
    streams = [(payloads(tone(hz, 2), "pcmu", 8000), ("127.0.0.1", port)) for hz, port in zip((low, high), answer.ports())]
    sender = Sender(streams, "pcmu", seconds=seconds, seed=number)
    sender.start()
    return call, sender, answer


def test_demo_records_uploads_opens_and_compares():
    home = folder("demo")
    done = ferric("demo", "--codec", "g722", "--dir", home / "kept", timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "what was recorded is what was said" in done.stdout
    sealed = list((home / "kept" / "store").rglob("audio.eopus"))
    assert len(sealed) == 1
    for path in (home / "kept").rglob("*.private.pem"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_kill_9_in_twenty_calls_leaves_twenty_recovered_recordings():
    home = folder("crash")
    node = Node(home).start()
    calls = [talk(node, number, 60) for number in range(20)]
    time.sleep(7)
    for call, _, _ in calls:
        call.close()
    seconds_at_death = {call.call_id: time.time() - sender.first_sent for call, sender, _ in calls}
    node.kill()
    for _, sender, _ in calls:
        sender.halt.set()
    # Nothing readable lies in what the dead process left.
    for path in (node.data / "spool").rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path
            assert b"example.com" not in path.read_bytes() and b"OggS" not in path.read_bytes(), path
    node.start()
    try:
        recordings = node.stored(20, 60)
        assert len(recordings) == 20
        assert {r["state"] for r in recordings} == {"recovered"}, recordings
        assert {r["sip_call_id"] for r in recordings} == set(seconds_at_death)
        for recording in recordings:
            metadata, audio = node.open_damaged(recording["id"])
            left, _ = channels(audio, decoder="libopus")
            number = int(recording["sip_call_id"].split("-")[1].split("@")[0])
            missing = seconds_at_death[recording["sip_call_id"]] - len(left) / 16000
            assert missing < 1.5, (recording, missing)
            assert abs(recording["duration_ms"] / 1000 - len(left) / 16000) < 0.15, (recording, len(left) / 16000)
            assert abs(pitch(left[16000:64000], 16000) - (300 + 20 * number)) < 8
            assert metadata["participants"][0]["name"] == f"Caller {number}"
        done = ferric("verify", "--cert", node.data / "keys" / "node.public.pem", home / "store")
        assert done.returncode == 0 and "chain whole: 20" in done.stdout, done.stdout + done.stderr
    finally:
        node.kill()


class Weed:
    """SeaweedFS as the S3 server."""

    def __init__(self, home):
        self.ports = [free_port() for _ in range(8)]
        self.home = home
        binary = pathlib.Path(sys.executable).parent / "weed"
        (home / "weed").mkdir()
        config = home / "s3.json"
        config.write_text(json.dumps({"identities": [{"name": "test", "credentials": [{"accessKey": "key", "secretKey": "secret"}],
                                                      "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}))
        master, volume, filer, s3, grpc1, grpc2, grpc3, grpc4 = map(str, self.ports)
        command = [str(binary), "server", f"-dir={home}/weed", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
                   f"-master.port.grpc={grpc1}", f"-volume.port={volume}", f"-volume.port.grpc={grpc2}", "-filer", f"-filer.port={filer}",
                   f"-filer.port.grpc={grpc3}", "-s3", f"-s3.port={s3}", f"-s3.port.grpc={grpc4}", f"-s3.config={config}",
                   "-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=20", "-master.volumeSizeLimitMB=64"]
        self.log = open(home / "weed.log", "wb")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=home)
        self.s3 = self.ports[3]

    def client(self):
        import boto3
        from botocore.config import Config

        return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.s3}", aws_access_key_id="key", aws_secret_access_key="secret",
                            region_name="us-east-1", config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}))

    def ready(self, bucket):
        def attempt():
            assert self.process.poll() is None, (self.home / "weed.log").read_text(errors="replace")[-2000:]
            try:
                client = self.client()
                names = [b["Name"] for b in client.list_buckets()["Buckets"]]
                if bucket not in names:
                    client.create_bucket(Bucket=bucket)
                client.put_object(Bucket=bucket, Key="ready", Body=b"x")
                return True
            except Exception:  # noqa: BLE001 - any error means: not yet
                return False

        wait(attempt, 60, "SeaweedFS does not get ready")

    def stop(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def test_a_failing_store_gets_everything_once_and_unharmed():
    home = folder("store")
    weed = Weed(home)
    try:
        weed.ready("calls")
        proxy = FaultProxy(weed.s3)
        proxy.mode = "refuse"
        store = f"s3://calls?endpoint=http://127.0.0.1:{proxy.port}&region=us-east-1"
        env = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        node = Node(home, store=store, env=env).start()
        try:
            expected = {}
            for round_number, mode in enumerate(["refuse", "500", "503", "reset", "slow"]):
                proxy.mode = mode
                calls = [talk(node, 10 * round_number + n, 3) for n in range(3)]
                for call, sender, _ in calls:
                    sender.join()
                    assert call.bye().status == 200
                    expected[call.call_id] = True
                if mode != "slow":
                    wait(lambda: proxy.failed > 0, 30, f"no attempt while the store answers {mode}", node)
                    assert node.get("/api/v1/uploads")["waiting"] > 0
                    proxy.failed = 0
            # The node dies with a backlog and goes on where it was.
            node.kill()
            proxy.mode = "ok"
            node.start()
            recordings = node.stored(15, 90)
            assert {r["sip_call_id"] for r in recordings} == set(expected)
            client = weed.client()
            keys = [o["Key"] for o in client.list_objects_v2(Bucket="calls")["Contents"] if o["Key"].startswith("acme/2")]
            assert len(keys) == 45 and len(set(keys)) == 45, sorted(keys)
            for recording in recordings:
                folder_keys = [key for key in keys if recording["id"] in key]
                place = home / "fetched" / recording["id"]
                place.mkdir(parents=True)
                for key in folder_keys:
                    (place / key.rsplit("/", 1)[1]).write_bytes(client.get_object(Bucket="calls", Key=key)["Body"].read())
                manifest = json.loads((place / "manifest.json").read_text())
                for name in ("audio", "metadata"):
                    data = (place / ("audio.eopus" if name == "audio" else "metadata.ejson")).read_bytes()
                    assert hashlib.sha256(data).hexdigest() == manifest[name]["sha256"] and len(data) == manifest[name]["bytes"]
            done = ferric("verify", "--cert", node.data / "keys" / "node.public.pem", home / "fetched")
            assert done.returncode == 0 and "15 recordings, 0 wrong" in done.stdout, done.stdout
            assert not any((node.data / "spool" / "ready").iterdir()), "local copies are gone"
            # The sealed audio comes back through the API, out of the store.
            status, data = node.get(f"/api/v1/recordings/{recordings[0]['id']}/audio", raw=True)
            assert status == 200 and data[:5] == b"EOPUS"
            assert b"secret" not in node.log.read_bytes()
        finally:
            node.kill()
    finally:
        weed.stop()


def test_a_full_disk_refuses_calls_and_cuts_nothing_that_was_accepted():
    home = folder("disk")
    assert os.geteuid() == 0, "this test mounts a small tmpfs and needs root"
    disk = home / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs", disk], check=True)
    try:
        node = Node(home, data_dir=disk / "data").start()
        try:
            calls = [talk(node, number, 24) for number in range(4)]
            time.sleep(3)
            free = shutil.disk_usage(disk).free
            ballast = disk / "ballast"
            ballast.write_bytes(b"x" * (free - 1_500_000))
            wait(lambda: node.get("/readyz", raw=True)[0] == 503, 5, "readyz stays 200 on a full disk", node)
            assert any(alarm["name"] == "spool-full" for alarm in node.get("/api/v1/alarms"))
            assert node.metric("ferric_alarms") >= 1
            refused = Call(node, 50).invite()
            assert refused.status == 503 and refused.header("Retry-After"), refused.raw
            # Now really full: appends fail for some seconds.
            try:
                with open(ballast, "ab", buffering=0) as more:
                    while True:
                        more.write(b"y" * 4096)
            except OSError:
                pass
            time.sleep(5)
            ballast.unlink()
            wait(lambda: node.get("/readyz", raw=True)[0] == 200, 15, "it does not recover by itself", node)
            late, late_sender, _ = talk(node, 60, 2)
            for call, sender, _ in [*calls, (late, late_sender, None)]:
                sender.join()
                assert call.bye().status == 200
            recordings = node.stored(5, 40)
            for recording in recordings:
                assert recording["state"] == "complete", recording
                _, audio = node.open(recording["id"])
                left, _ = channels(audio)
                assert abs(len(left) / 16000 - recording["duration_ms"] / 1000) < 0.040
            assert "panicked" not in node.log.read_text()
        finally:
            node.kill()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_node_starts_on_a_full_disk_and_makes_room():
    home = folder("start-full")
    assert os.geteuid() == 0, "this test mounts a small tmpfs and needs root"
    disk = home / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m,mode=700", "tmpfs", disk], check=True)
    try:
        node = Node(home, data_dir=disk / "data").start()
        calls = [talk(node, number, 30) for number in range(3)]
        time.sleep(4)
        for call, sender, _ in calls:
            call.close()
            sender.halt.set()
        node.kill()
        # A node makes this file where there is plenty of room.
        (disk / "data" / "reserve").write_bytes(b"\0" * (16 << 20))
        with open(disk / "ballast", "ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(b"y" * 4096)
            except OSError:
                pass
        node = Node(home, data_dir=disk / "data").start()
        try:
            recordings = node.stored(3, 40)
            assert all(recording["state"] == "recovered" for recording in recordings), recordings
            assert not list((disk / "data" / "spool" / "ready").iterdir())
        finally:
            node.kill()
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_damage_is_named_by_decrypt_and_verify():
    home = folder("damage")
    with Node(home) as node:
        call, sender, _ = talk(node, 1, 5)
        sender.join()
        call.bye()
        recording = node.stored(1)[0]
        place = node.find(recording["id"])
        sealed = (place / "audio.eopus").read_bytes()
        header = 12 + struct.unpack(">I", sealed[8:12])[0]
        lengths, at = [], header
        while at < len(sealed):
            size = 4 + struct.unpack(">I", sealed[at : at + 4])[0]
            lengths.append((at, size))
            at += size
        (a, la), (b, lb) = lengths[1], lengths[2]
        flipped = bytearray(sealed)
        flipped[b + 20] ^= 1
        damaged = {
            "cut": (sealed[: len(sealed) - 40], "cut"),
            "flipped": (bytes(flipped), "segment"),
            "swapped": (sealed[:a] + sealed[b : b + lb] + sealed[a : a + la] + sealed[b + lb :], "segment"),
            "header": (sealed[:header].replace(b'"acme"', b'"evil"') + sealed[header:], "segment"),
            "no eopus": (b"RIFF" + sealed[4:], "EOPUS"),
        }
        ferric("keys", "new", "--out", home, "--tenant", "other")
        done = ferric("decrypt", "--key", home / "other.private.pem", place / "audio.eopus", "-o", home / "x.opus")
        assert done.returncode == 3 and "key" in done.stderr, done
        done = ferric("verify", "--cert", node.data / "keys" / "node.public.pem", place)
        assert done.returncode == 0, done.stdout
        for name, (data, word) in damaged.items():
            work = home / name.replace(" ", "-")
            shutil.copytree(place, work)
            (work / "audio.eopus").write_bytes(data)
            done = ferric("decrypt", "--key", node.key, work / "audio.eopus", "-o", work / "out.opus")
            assert done.returncode == 3 and word.lower() in done.stderr.lower(), (name, done.returncode, done.stderr)
            if name in ("cut", "flipped"):
                assert (work / "out.opus").stat().st_size > 500, "everything before the damage is written"
            done = ferric("verify", work)
            assert done.returncode == 3 and "WRONG" in done.stdout, (name, done.stdout)
        edited = home / "edited"
        shutil.copytree(place, edited)
        manifest = (edited / "manifest.json").read_text()
        (edited / "manifest.json").write_text(manifest.replace('"complete"', '"partial"'))
        done = ferric("verify", "--cert", node.data / "keys" / "node.public.pem", edited)
        assert done.returncode == 3 and "signature" in done.stdout, done.stdout
        wav = ferric("decrypt", "--wav", "--key", node.key, place / "audio.eopus", "-o", home / "call.wav")
        assert wav.returncode == 0
        probe = subprocess.run(["ffprobe", "-v", "error", "-show_entries", "stream=channels,sample_rate,duration", "-of", "csv=p=0", home / "call.wav"],
                               capture_output=True, text=True, check=True)
        assert probe.stdout.startswith("16000,2,"), probe.stdout
        assert abs(float(probe.stdout.split(",")[2]) - recording["duration_ms"] / 1000) < 0.040


def test_bad_input_gets_an_answer_or_a_counter_and_no_memory():
    home = folder("bad")
    with Node(home, recording='rtp_timeout = "3s"') as node:
        call, sender, answer = talk(node, 1, 14)
        time.sleep(1)
        before = node.rss_kib()
        ask = lambda **options: Call(node, 7).invite(**options)
        plain = sdp()
        assert ask(parts=[("application/sdp", plain), ("application/sdp", plain)]).status == 400
        assert ask(offer=plain.replace("a=label:2", "a=label:1")).status == 400
        assert ask(offer="hello").status == 400
        assert ask(offer=sdp(((97, "EVS/16000"),))).status == 488
        odd = Call(node, 8).request("INVITE", body="x", content_type="text/html")
        assert odd.status == 415 and odd.header("Accept")
        assert Call(node, 8).request("INVITE", body=plain, content_type="application/sdp", headers=("Require: telepathy",)).status == 420
        assert Call(node, 8).request("REGISTER").status == 405
        assert Call(node, 8).request("BYE", headers=()).status == 481
        options = Call(node, 8).request("OPTIONS")
        assert options.status == 200 and "INVITE" in options.header("Allow") and "siprec" in options.header("Supported")
        # Broken metadata never costs the call.
        bombs = ["this is no XML", "<!DOCTYPE r [<!ENTITY a 'x'><!ENTITY b '&a;&a;&a;'>]><recording>&b;</recording>", "<a>" * 5000]
        for bomb in bombs:
            strange = Call(node, 9)
            assert strange.invite(metadata=bomb).status == 200
            assert strange.bye().status == 200
        # Lengths that lie, a megabyte of header, half a message: an answer each, on a stream.
        for text, status in [
            (b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@c>\r\nCall-ID: x\r\n"
             b"CSeq: 1 OPTIONS\r\nContent-Length: -5\r\n\r\n", b"400"),
            (b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bK2\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@c>\r\nCall-ID: x\r\n"
             b"CSeq: 1 OPTIONS\r\nX: " + b"a" * (1 << 20), b"513"),
        ]:
            with socket.create_connection(("127.0.0.1", node.sip), timeout=5) as stream:
                try:
                    stream.sendall(text)
                except OSError:
                    pass
                data = b""
                try:
                    while chunk := stream.recv(4096):
                        data += chunk
                except OSError:
                    pass
                assert status in data.split(b"\r\n")[0], (status, data[:100])
        cut = Call(node, 10).request("OPTIONS", raw=lambda text: text.replace("Content-Length: 0", "Content-Length: 900").encode())
        assert cut.status == 400
        # Strangers and nonsense on the RTP ports.
        stranger = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        wrong = struct.pack(">BBHII", 0x80, 77, 1, 1, 1) + b"x" * 160
        dice = random.Random(1)
        for n in range(2000):
            stranger.sendto(wrong if n % 2 else dice.randbytes(dice.randrange(1, 300)), ("127.0.0.1", answer.ports()[n % 2]))
            if n % 100 == 0:
                time.sleep(0.01)
        first = int(node.config.read_text().split('rtp_ports = "')[1].split("-")[0])
        for port in range(first, first + 800):
            stranger.sendto(b"scan", ("127.0.0.1", port))
        dice_messages = Call(node, 11)
        for n in range(3000):
            dice_messages.socket.sendto(dice.randbytes(dice.randrange(20, 900)), ("127.0.0.1", node.sip))
        sender.join()
        assert call.bye().status == 200
        live = [r for r in node.stored(4) if r["sip_call_id"] == call.call_id]
        _, audio = node.open(live[0]["id"])
        left, right = channels(audio, decoder="libopus")
        assert abs(pitch(left[16000:160000], 16000) - 320) < 8 and abs(pitch(right[16000:160000], 16000) - 1520) < 8
        assert node.rss_kib() - before < 40_000, (before, node.rss_kib())
        assert node.metric("ferric_sip_rejected_total") >= 8
        wait(lambda: node.metric('ferric_rtp_packets_total{result="dropped"}') >= 900, 5, "strangers are not counted", node)
        assert "panicked" not in node.log.read_text()


def test_a_silent_dialog_is_asked_and_cleared():
    home = folder("silent")
    with Node(home, recording='rtp_timeout = "2s"') as node:
        alive = Call(node, 1)
        assert alive.invite().status == 200
        gone = Call(node, 2)
        assert gone.invite().status == 200
        # One answers 481: it has forgotten the call.
        gone.answer_options = False
        wait(lambda: any(m.method == "OPTIONS" for m in gone.seen), 8, "nobody asked the silent dialog", node)
        gone.reply(next(m for m in gone.seen if m.method == "OPTIONS"), 481)
        wait(lambda: any(r["sip_call_id"] == gone.call_id and r["stored"] for r in node.recordings()), 10, "the dead call stays open", node)
        wait(lambda: sum(m.method == "OPTIONS" for m in alive.seen) >= 2, 8, "the living one is asked again", node)
        assert [c["sip_call_id"] for c in node.get("/api/v1/calls")] == [alive.call_id]
        assert alive.bye().status == 200
        recordings = {r["sip_call_id"]: r for r in node.stored(2)}
        assert recordings[gone.call_id]["state"] == "partial", "no media ever came"
        left, right = channels(node.open(recordings[alive.call_id]["id"])[1])
        assert len(left) == len(right) and len(left) / 16000 > 4


def test_sigterm_drains_and_wrong_files_are_refused_with_the_place():
    home = folder("drain")
    node = Node(home).start()
    call, sender, _ = talk(node, 1, 4)
    time.sleep(0.5)
    node.process.send_signal(signal.SIGTERM)
    time.sleep(0.7)
    refused = Call(node, 2).invite()
    assert refused.status == 503 and refused.header("Retry-After"), refused.raw
    assert Call(node, 3).request("OPTIONS").status == 503
    assert node.process.poll() is None, "the running call is waited for"
    sender.join()
    assert call.bye().status == 200
    assert node.process.wait(20) == 0
    assert len(list((home / "store").rglob("manifest.json"))) == 1, "the last call is in the store before the node is gone"
    text = node.config.read_text()
    node.config.write_text(text.replace("rtp_address", "rtp_adress"))
    done = ferric("check", "--config", node.config)
    assert done.returncode == 2 and "did you mean rtp_address?" in done.stderr and "ferric.toml:" in done.stderr, done.stderr
    done = ferric("run", "--config", node.config)
    assert done.returncode == 2
    node.config.write_text(text)
    assert ferric("check", "--config", node.config).returncode == 0
