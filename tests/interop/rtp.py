"""What a player sends behind one m-line: a tone of its own in the codec agreed, or a capture, as RTP or SRTP."""

import functools
import random
import re
import socket
import struct
import subprocess
import time

import numpy as np

# Tones that telephone bandwidth and every codec carry well, one for each m-line of a dialog.
TONES = (440, 620, 900, 1250, 1700, 500, 780, 1100)
LOOP = 2.0  # seconds after which a tone begins anew; every tone fits it a whole number of times

# ffmpeg's encoder, its rate, and the bytes of 20 ms. RFC 3551 packs G.726 from the right, AAL2 from the left.
ENCODERS = {
    "PCMU": (["-c:a", "pcm_mulaw", "-f", "mulaw"], 8000, 160),
    "PCMA": (["-c:a", "pcm_alaw", "-f", "alaw"], 8000, 160),
    "G722": (["-c:a", "g722", "-f", "g722"], 16000, 160),
    "GSM": (["-c:a", "libgsm", "-f", "gsm"], 8000, 33),
    "OPUS": (["-c:a", "libopus", "-b:a", "32k", "-application", "voip", "-f", "ogg"], 16000, 0),
    **{f"G726-{8 * bits}": (["-c:a", "g726le", "-code_size", str(bits), "-f", "g726le"], 8000, 20 * bits) for bits in (2, 3, 4, 5)},
    **{f"AAL2-G726-{8 * bits}": (["-c:a", "g726", "-code_size", str(bits), "-f", "g726"], 8000, 20 * bits) for bits in (2, 3, 4, 5)},
}


def tone(hz, rate):
    return 6000 * np.sin(2 * np.pi * hz * np.arange(int(LOOP * rate)) / rate)


@functools.lru_cache(maxsize=256)
def encoded(name, hz):
    """20 ms payloads of a tone, or nothing if ffmpeg has no such encoder here."""
    from lib.media import ogg_packets

    arguments, rate, size = ENCODERS[name]
    pcm = np.round(tone(hz, rate)).astype("<i2").tobytes()
    command = ["ffmpeg", "-v", "error", "-f", "s16le", "-ar", str(rate), "-ac", "1", "-i", "-", "-ar", str(rate), *arguments, "-"]
    done = subprocess.run(command, input=pcm, capture_output=True)
    if done.returncode:
        return ()
    if not size:
        return tuple(ogg_packets(done.stdout))
    return tuple(done.stdout[at : at + size] for at in range(0, len(done.stdout) - size + 1, size))


def made_up(name, fmtp, hz):
    """Frames that are right in form and say nothing, for codecs that nobody here encodes."""
    chance = random.Random(hz)
    aligned = "octet-align=1" in fmtp.replace(" ", "")
    if name in ("AMR", "AMR-WB"):
        kind, bits = (7, 244) if name == "AMR" else (8, 477)
        if aligned:
            return [bytes([0xF0, kind << 3 | 4]) + chance.randbytes((bits + 7) // 8) for _ in range(50)]
        total = (10 + bits + 7) // 8
        head = (0xF << 6 | kind << 1 | 1) << (8 * total - 10)
        rest = lambda: chance.getrandbits(bits) << (8 * total - 10 - bits)
        return [(head | rest()).to_bytes(total, "big") for _ in range(50)]
    size = {"G729": 20, "GSM": 33, "ILBC": 50 if "mode=30" in fmtp else 38, "G723": 24}.get(name, 32)
    return [chance.randbytes(size) for _ in range(50)]


def frames(codec, fmtp, hz, captures):
    """20 ms payloads in a codec, and whether the tone is in them."""
    name = codec.split("/")[0].upper()
    if name == "L16":
        fields = codec.split("/")
        rate, count = int(fields[1]), int(fields[2]) if len(fields) > 2 else 1
        data = np.repeat(np.round(tone(hz, rate)).astype(">i2"), count).tobytes()
        size = rate // 50 * 2 * count
        return [data[at : at + size] for at in range(0, len(data) - size + 1, size)], True
    if name in ENCODERS and encoded(name, hz):
        return list(encoded(name, hz)), True
    if name.startswith("G729"):
        captured = [payload for payload in captures.payloads(18) if len(payload) == 20]
        if captured:
            return captured, False
    return made_up(name, fmtp, hz), False


class Span:
    """A time in which a line sent without a break, in one codec."""

    def __init__(self, begin, codec, hz, has_tone):
        self.begin = self.end = begin
        self.codec, self.hz, self.has_tone, self.packets = codec, hz, has_tone, 0


class Line:
    """One m-line: its socket, and what it sends at the moment."""

    def __init__(self, index, address):
        self.index = index
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.port = self.socket.getsockname()[1]
        self.hz = TONES[index % len(TONES)]
        self.target = self.codec = self.sealer = self.keys = None
        self.payloads, self.next, self.payload_type, self.ticks, self.has_tone = [], 0, 0, 160, False
        self.capture, self.capture_from, self.event_type = [], None, None
        self.sequence, self.timestamp = random.randrange(1000, 40000), random.randrange(2**31)
        self.ssrc = struct.pack(">I", random.randrange(2**32))
        self.spans, self.sent, self.events = [], 0, set()

    def say(self, codec, fmtp, payload_type, target, captures):
        """From here on: this codec to this address."""
        if codec != self.codec:
            self.payloads, self.has_tone = frames(codec, fmtp, self.hz, captures)
            self.codec, self.next, self.capture = codec, 0, []
            # G.722's clock ticks at half of its rate (RFC 3551 4.5.2); 30 ms codecs are sent as if they had 20.
            self.ticks = int(re.search(r"/(\d+)", codec).group(1)) // 50
        self.payload_type, self.target = payload_type, target

    def hush(self):
        self.target = None

    def play(self, stream, event_type):
        """Plays a captured stream in place of the tone, if its codec is the one agreed."""
        from sdp import STATIC

        if self.codec and STATIC.get(stream.payload_type, "").split("/")[0] == self.codec.split("/")[0].upper():
            self.capture, self.capture_from, self.event_type = stream.window(), None, event_type
            self.capture_type, self.has_tone = stream.payload_type, False

    def tick(self, muted, whole=True):
        """20 ms have passed, or a part of them, in which only a capture has something to send."""
        if self.target and not muted and (self.capture or self.payloads):
            self._sent_now()
            if self.capture:
                self._captured()
                return
            if not whole:
                return
            self._send(self.payload_type, False, self.sequence, self.timestamp, self.payloads[self.next % len(self.payloads)])
        if not whole:
            return
        self.next += 1
        self.sequence += 1
        self.timestamp += self.ticks

    def _sent_now(self):
        now = time.time()
        if not self.spans or now - self.spans[-1].end > 0.1 or (self.spans[-1].codec, self.spans[-1].has_tone) != (self.codec, self.has_tone):
            self.spans.append(Span(now, self.codec, self.hz, self.has_tone))
        self.spans[-1].end = now
        self.spans[-1].packets += 1

    def _captured(self):
        now, first = time.monotonic(), self.capture[0]
        if self.capture_from is None:
            self.capture_from, self.base = now, (self.sequence, self.timestamp)
            self.left = list(self.capture)
        while self.left and self.left[0].seconds - first.seconds <= now - self.capture_from:
            packet = self.left.pop(0)
            kind = self.payload_type if packet.payload_type == self.capture_type else self.event_type
            sequence = self.base[0] + (packet.sequence - first.sequence) % 65536
            timestamp = self.base[1] + (packet.timestamp - first.timestamp) % 2**32
            if kind is not None:
                self._send(kind, packet.marker, sequence, timestamp, packet.payload)
                if kind == self.event_type:
                    self.events.add(timestamp)
            self.sequence, self.timestamp = sequence + 1, timestamp + self.ticks
        if not self.left:
            self.capture_from = None

    def _send(self, kind, marker, sequence, timestamp, payload):
        packet = struct.pack(">BBHI", 0x80, kind | (0x80 if marker else 0), sequence & 0xFFFF, timestamp & 0xFFFFFFFF) + self.ssrc + payload
        self.socket.sendto(self.sealer.seal(packet) if self.sealer else packet, self.target)
        self.sent += 1
