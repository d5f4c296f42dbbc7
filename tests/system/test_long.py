"""A real ten-minute call whose parties' clocks differ by 50 ppm, both off ours. FERRIC_LONG_S changes its length."""

import os
import random
import socket
import struct
import threading
import time

import numpy as np
from lib.media import channels
from lib.node import Node, folder
from lib.sip import Call

SECONDS = int(os.environ.get("FERRIC_LONG_S", "600"))
PPM = (30e-6, -20e-6)
MARK_EVERY = 30.0


def sound(seconds):
    """A low hum all along, and 30 ms of a higher tone every half minute of true time."""
    phase = seconds % MARK_EVERY
    mark = (phase < 0.030) & (seconds > 1)
    return 2500 * np.sin(2 * np.pi * 180 * seconds) + mark * 9000 * np.sin(2 * np.pi * 1000 * seconds)


def ulaw(samples):
    """G.711 mu-law."""
    pcm = np.clip(np.round(samples), -32635, 32635).astype(int)
    sign = np.where(pcm < 0, 0x80, 0)
    magnitude = np.abs(pcm) + 132
    exponent = np.floor(np.log2(magnitude)).astype(int) - 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    return (~(sign | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8).tobytes()


class Party(threading.Thread):
    def __init__(self, target, ppm, start):
        super().__init__(daemon=True)
        self.target, self.ppm, self.start_at = target, ppm, start
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.late = 0.0

    def run(self):
        count = int(SECONDS * 50 * (1 + self.ppm))
        true_time = np.arange(count * 160) / 8000 / (1 + self.ppm)
        data = ulaw(sound(true_time))
        sequence, timestamp, ssrc = random.randrange(65536), random.randrange(2**32), random.randrange(2**32)
        for n in range(count):
            due = self.start_at + n * 0.020 / (1 + self.ppm)
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            self.late = max(self.late, -wait)
            header = struct.pack(">BBHII", 0x80, 0, (sequence + n) & 0xFFFF, (timestamp + n * 160) & 0xFFFFFFFF, ssrc)
            self.socket.sendto(header + data[n * 160 : n * 160 + 160], self.target)
        self.socket.close()


def marks(samples, rate=16000):
    """Where the higher tone sets in, in seconds."""
    window = rate // 100
    wave = np.exp(-2j * np.pi * 1000 * np.arange(window) / rate)
    found = []
    for number in range(1, int(len(samples) / rate / MARK_EVERY)):
        # Our clock began a little earlier or later than the sender's: the mark is somewhere around.
        begin = int((number * MARK_EVERY - 0.3) * rate)
        part = samples[begin : begin + int(0.7 * rate)]
        energy = np.array([abs(part[at : at + window] @ wave) for at in range(0, len(part) - window, 16)])
        found.append((begin + 16 * int(np.argmax(energy > energy.max() / 2))) / rate)
    return np.array(found)


def test_ten_real_minutes_with_three_clocks():
    home = folder("long-call")
    with Node(home) as node:
        call = Call(node, 1)
        answer = call.invite()
        start = time.monotonic() + 0.3
        parties = [Party(("127.0.0.1", port), ppm, start) for port, ppm in zip(answer.ports(), PPM)]
        for party in parties:
            party.start()
        for party in parties:
            party.join()
        assert call.bye().status == 200
        recording = node.stored(1)[0]
        assert recording["state"] == "complete"
        assert abs(recording["duration_ms"] / 1000 - SECONDS) < 1.5, recording
        metadata, audio = node.open(recording["id"])
        # On a busy machine a sender oversleeps at times; what it sends late is late, and moves nothing.
        assert all(stream["lost"] == 0 and stream["late"] < 0.01 * stream["packets"] for stream in metadata["streams"]), metadata["streams"]
        values = metadata["streams"][0]["mos_over_time"]
        assert len(values) >= SECONDS // 10 - 1 and sum(value > 4 for value in values) >= 0.9 * len(values), values
        left, right = channels(audio, decoder="libopus")
        apart = np.abs(marks(left) - marks(right)) * 1000
        assert len(apart) >= SECONDS / MARK_EVERY - 2
        worst_ms = float(apart.max())
        # No step beyond what the source has: the steepest of the hum at 16 kHz, and what coding adds.
        steepest = 2500 * 2 * np.pi * 180 / 16000
        phase = (np.arange(1, len(left)) / 16000) % MARK_EVERY
        calm = (phase > 0.6) & (phase < MARK_EVERY - 0.6)
        calm[: 2 * 16000] = calm[-2 * 16000 :] = False
        steps = [float(np.abs(np.diff(side))[calm].max()) for side in (left, right)]
        print(f"channels {worst_ms:.1f} ms apart at most; steps {steps}, of the source {steepest:.0f}; senders {max(p.late for p in parties) * 1000:.0f} ms late at most")
        assert worst_ms < 20, apart
        if all(stream["late"] == 0 for stream in metadata["streams"]):
            assert all(step < 2 * steepest + 150 for step in steps), steps
