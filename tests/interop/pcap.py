"""RTP streams out of captures (pcap and pcapng; Ethernet, cooked, loopback or raw IP), with their own timing."""

import dataclasses
import pathlib
import re
import struct
import subprocess

import numpy as np

from sdp import STATIC

SKIP = {0: 4, 1: 14, 12: 0, 14: 0, 101: 0, 108: 4, 113: 16, 228: 0, 229: 0, 276: 20}


@dataclasses.dataclass
class Packet:
    seconds: float
    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    payload: bytes


@dataclasses.dataclass
class Stream:
    """One SSRC of a capture."""

    packets: list

    @property
    def payload_type(self):
        """The type of its audio: the one most packets have."""
        kinds = [packet.payload_type for packet in self.packets]
        return max(set(kinds), key=kinds.count)

    def events(self):
        """Packets that are no audio: RFC 4733 events."""
        return [packet for packet in self.packets if packet.payload_type != self.payload_type and len(packet.payload) <= 8]

    def window(self, seconds=1.5):
        """The packets worth playing where there is time for a part: about the first event, else the loudest part."""
        first = self.packets[0].seconds
        events = self.events()
        start = events[0].seconds - first - 0.5 if events else loudest(self, seconds)
        chosen = [packet for packet in self.packets if packet.seconds - first >= start]
        return chosen or self.packets


def _frames(data):
    """Link type, time and bytes of each captured frame."""
    if data[:4] == b"\x0a\x0d\x0d\x0a":
        yield from _frames_ng(data)
        return
    if len(data) < 24:
        return
    little = data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1")
    order = "<" if little else ">"
    fine = 1e9 if data[:4] in (b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d") else 1e6
    link = struct.unpack(order + "I", data[20:24])[0] & 0xFFFF
    at = 24
    while at + 16 <= len(data):
        seconds, fraction, size = struct.unpack(order + "III", data[at : at + 12])
        yield link, seconds + fraction / fine, data[at + 16 : at + 16 + size]
        at += 16 + size


def _frames_ng(data):
    order = "<" if data[8:12] == b"\x4d\x3c\x2b\x1a" else ">"
    links, at = [], 0
    while at + 12 <= len(data):
        kind, size = struct.unpack(order + "II", data[at : at + 8])
        if size < 12:
            return
        block = data[at + 8 : at + size - 4]
        if kind == 1:
            links.append(struct.unpack(order + "H", block[:2])[0])
        elif kind == 6 and len(block) >= 20:
            interface, high, low, length = struct.unpack(order + "IIII", block[:16])
            link = links[interface] if interface < len(links) else 1
            yield link, (high << 32 | low) / 1e6, block[20 : 20 + length]
        at += size


def _udp(link, frame):
    """Ports and payload of a UDP datagram in a frame, or nothing."""
    packet = frame[SKIP.get(link, 14) :]
    if link == 1:
        kind = frame[12:14]
        while kind in (b"\x81\x00", b"\x88\xa8"):
            kind, packet = packet[2:4], packet[4:]
    if not packet:
        return None
    if packet[0] >> 4 == 4 and len(packet) > 28 and packet[9] == 17:
        source, rest = packet[12:20], packet[(packet[0] & 15) * 4 :]
    elif packet[0] >> 4 == 6 and len(packet) > 48 and packet[6] == 17:
        source, rest = packet[8:40], packet[40:]
    else:
        return None
    length = struct.unpack(">H", rest[4:6])[0]
    return source + rest[:4], rest[8:length]


def streams(path):
    """The RTP streams of a capture, the first to begin first."""
    found = {}
    for link, seconds, frame in _frames(pathlib.Path(path).read_bytes()):
        datagram = _udp(link, frame)
        if datagram is None:
            continue
        flow, rtp = datagram
        if len(rtp) <= 12 or rtp[0] >> 6 != 2 or 192 <= rtp[1] <= 223:
            continue
        skip = 12 + 4 * (rtp[0] & 15)
        if rtp[0] & 16 and len(rtp) >= skip + 4:
            skip += 4 + 4 * struct.unpack(">H", rtp[skip + 2 : skip + 4])[0]
        end = len(rtp) - rtp[-1] if rtp[0] & 32 else len(rtp)
        sequence, timestamp = struct.unpack(">HI", rtp[2:8])
        packet = Packet(seconds, rtp[1] & 127, bool(rtp[1] & 128), sequence, timestamp, rtp[skip:end])
        found.setdefault((flow, rtp[8:12]), []).append(packet)
    return [Stream(packets) for packets in found.values() if len(packets) >= 10]


DECODERS = {"PCMU": ["-f", "mulaw", "-ar", "8000"], "PCMA": ["-f", "alaw", "-ar", "8000"], "G722": ["-f", "g722"], "G729": ["-f", "g729", "-bit_rate", "8000"]}


def loudest(stream, seconds):
    """Where in a stream, in seconds from its begin, so many seconds are loudest."""
    name = STATIC.get(stream.payload_type, "").split("/")[0]
    if name not in DECODERS:
        return 0.0
    payloads = b"".join(packet.payload for packet in stream.packets if packet.payload_type == stream.payload_type)
    command = ["ffmpeg", "-v", "error", *DECODERS[name], "-i", "-", "-f", "s16le", "-ar", "8000", "-ac", "1", "-"]
    done = subprocess.run(command, input=payloads, capture_output=True)
    samples = np.frombuffer(done.stdout[: len(done.stdout) & ~1], dtype="<i2").astype(float)
    size = int(seconds * 8000)
    if len(samples) <= size:
        return 0.0
    total = np.concatenate([[0.0], np.cumsum(samples**2)])
    return float(np.argmax(total[size:] - total[:-size])) / 8000


class Captures:
    """The captures of a folder, found by what a flow calls them or by what they carry."""

    def __init__(self, folder):
        place = pathlib.Path(folder) / "media"
        self.files = {}
        for path in [*sorted(place.glob("*.pcap")), *sorted(place.glob("*.pcapng")), *sorted(place.glob("*.cap"))]:
            try:
                self.files[path.stem] = streams(path)
            except (struct.error, IndexError, ValueError, OSError):
                self.files[path.stem] = []

    def named(self, name):
        """Streams of the capture that is named so, or most nearly so; flows often keep the name it once had."""
        if not name:
            return []
        words = lambda text: {word for word in re.findall(r"[a-z]+\d*|\d+", text.lower()) if word not in ("rtp", "pcap")}
        wanted = words(pathlib.PurePath(name).stem)
        scores = {stem: len(wanted & words(stem)) + sum(word.isdigit() and word in stem for word in wanted) for stem in self.files}
        best = max(scores, key=scores.get, default=None)
        return self.files[best] if best is not None and scores[best] > 0 else []

    def payloads(self, payload_type):
        """Payloads of any stream that carries this type, from where it is loudest."""
        for found in self.files.values():
            for stream in found:
                if stream.payload_type == payload_type:
                    return [packet.payload for packet in stream.window() if packet.payload_type == payload_type][:150]
        return []
