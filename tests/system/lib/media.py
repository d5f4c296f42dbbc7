"""Speech, tones, RTP and the comparison of what was sent with what was recorded."""

import random
import socket
import struct
import subprocess
import sys
import threading
import time
import wave

import numpy as np

from .node import ROOT

# Senders of several calls share an interpreter: it must not let one of them wait for long.
sys.setswitchinterval(0.0002)

SPEECH = ROOT / "testdata" / "speech"


def speech(name):
    """The bundled speech as float samples at 16 kHz."""
    with wave.open(str(SPEECH / f"{name}.wav")) as reader:
        return np.frombuffer(reader.readframes(reader.getnframes()), dtype="<i2").astype(float)


def tone(hz, seconds, rate=8000, amplitude=6000):
    return amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


def resample(samples, source, target):
    """By way of ffmpeg's own resampler, independent of ours."""
    if source == target:
        return samples
    pcm = np.clip(np.round(samples), -32768, 32767).astype("<i2").tobytes()
    command = ["ffmpeg", "-v", "error", "-f", "s16le", "-ar", str(source), "-ac", "1", "-i", "-", "-f", "s16le", "-ar", str(target), "-"]
    done = subprocess.run(command, input=pcm, capture_output=True, check=True)
    return np.frombuffer(done.stdout, dtype="<i2").astype(float)


# codec: payload type, rtpmap, RTP clock, audio rate, ffmpeg's encoder and format
CODECS = {
    "pcmu": (0, "PCMU/8000", 8000, 8000, ["-c:a", "pcm_mulaw", "-f", "mulaw"]),
    "pcma": (8, "PCMA/8000", 8000, 8000, ["-c:a", "pcm_alaw", "-f", "alaw"]),
    "g722": (9, "G722/8000", 8000, 16000, ["-c:a", "g722", "-f", "g722"]),
    "l16": (97, "L16/16000", 16000, 16000, ["-c:a", "pcm_s16be", "-f", "s16be"]),
    "opus": (98, "opus/48000/2", 48000, 16000, ["-c:a", "libopus", "-b:a", "32k", "-application", "voip", "-f", "ogg"]),
}


def ogg_packets(data):
    """The audio packets of an Ogg Opus file (RFC 3533), its two headers left out."""
    packets, packet, at = [], b"", 0
    while at < len(data):
        table = data[at + 27 : at + 27 + data[at + 26]]
        at += 27 + len(table)
        for size in table:
            packet += data[at : at + size]
            at += size
            if size < 255:
                packets.append(packet)
                packet = b""
    return packets[2:]


def payloads(samples, codec, rate=16000):
    """20 ms payloads of samples, encoded by ffmpeg."""
    audio_rate, arguments = CODECS[codec][3], CODECS[codec][4]
    pcm = np.clip(np.round(samples), -32768, 32767).astype("<i2").tobytes()
    command = ["ffmpeg", "-v", "error", "-f", "s16le", "-ar", str(rate), "-ac", "1", "-i", "-", "-ar", str(audio_rate), *arguments, "-"]
    coded = subprocess.run(command, input=pcm, capture_output=True, check=True).stdout
    if codec == "opus":
        return ogg_packets(coded)
    size = {"pcmu": 160, "pcma": 160, "g722": 160, "l16": 640}[codec]
    return [coded[at : at + size] for at in range(0, len(coded) - size + 1, size)]


class Sender(threading.Thread):
    """Sends RTP streams on absolute deadlines; knows what it lost, swapped and doubled."""

    def __init__(self, streams, codec, *, seconds=None, loss=0.0, reorder=0.0, duplicate=0.0, seed=1, delay=None):
        """`streams` is a list of (payloads, target address)."""
        super().__init__(daemon=True)
        self.streams, self.codec, self.seconds = streams, codec, seconds
        self.loss, self.reorder, self.duplicate = loss, reorder, duplicate
        self.delay = delay or [0.0] * len(streams)
        self.random = random.Random(seed)
        self.lost = [0] * len(streams)
        self.doubled = [0] * len(streams)
        self.sent = [0] * len(streams)
        self.first_sent = None
        self.halt = threading.Event()
        self.sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in streams]
        for one in self.sockets:
            one.bind(("127.0.0.1", 0))

    def run(self):
        payload_type, _, clock, _, _ = CODECS[self.codec]
        ticks = clock // 50
        base = [(self.random.randrange(60000, 65535), self.random.randrange(2**32), self.random.randrange(2**32)) for _ in self.streams]
        held = [None] * len(self.streams)
        count = max(len(parts) for parts, _ in self.streams)
        if self.seconds:
            count = int(self.seconds * 50)
        # A thread that has just begun is not punctual; after a sleep it is.
        start = time.monotonic() + 0.05
        self.first_sent = time.time()
        for n in range(count):
            due = start + n * 0.02
            pause = due - time.monotonic()
            if pause > 0 and self.halt.wait(pause) or self.halt.is_set():
                break
            for index, (parts, address) in enumerate(self.streams):
                sequence, timestamp, ssrc = base[index]
                if n * 0.02 < self.delay[index]:
                    continue
                header = struct.pack(">BBHII", 0x80, payload_type, (sequence + n) & 0xFFFF, (timestamp + n * ticks) & 0xFFFFFFFF, ssrc)
                packet = header + parts[n % len(parts)]
                last = n == count - 1
                # The first and the last packet always arrive, so that both sides count the same span.
                if n and not last and self.random.random() < self.loss:
                    self.lost[index] += 1
                    continue
                self.sent[index] += 1
                if held[index] is None and n and not last and self.random.random() < self.reorder:
                    held[index] = packet
                    continue
                self.sockets[index].sendto(packet, address)
                if self.random.random() < self.duplicate:
                    self.doubled[index] += 1
                    self.sockets[index].sendto(packet, address)
                if held[index] is not None:
                    self.sockets[index].sendto(held[index], address)
                    held[index] = None
        for one in self.sockets:
            one.close()


def channels(audio, rate=16000, decoder="opus"):
    """Left and right of an opened recording, decoded by ffmpeg: by its own `opus`, or by `libopus`.

    Its own is the stricter judge of time. But it is not bit-exact, and on some steady tones (700 and
    2300 Hz at 20 kbit/s) it swells, with files of any encoder: tones are for `libopus`.
    """
    command = ["ffmpeg", "-v", "error", "-c:a", decoder, "-i", str(audio), "-f", "s16le", "-ar", str(rate), "-ac", "2", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stderr == b"", done.stderr
    both = np.frombuffer(done.stdout, dtype="<i2").reshape(-1, 2).astype(float)
    return both[:, 0], both[:, 1]


def align(said, recorded, rate):
    """Where `said` begins in `recorded` (seconds), and the correlation there."""
    length = 1 << (len(said) + len(recorded)).bit_length()
    product = np.fft.irfft(np.fft.rfft(recorded, length) * np.conj(np.fft.rfft(said, length)), length)
    limit = min(len(recorded), rate * 4)
    shift = int(np.argmax(product[:limit]))
    tail = recorded[shift : shift + len(said)]
    head = said[: len(tail)]
    likeness = float(head @ tail / np.sqrt((head @ head) * (tail @ tail) + 1e-9))
    return shift / rate, likeness


def level_db(samples):
    return 10 * np.log10(np.mean(np.square(samples)) + 1e-9)


def pitch(samples, rate):
    """The strongest frequency."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * rate / len(samples))
