"""One dialog of a recording client: sends its messages, answers the server's, sends RTP behind every m-line."""

import random
import re
import socket
import struct
import threading
import time

import numpy as np

from lib.media import payloads as encode
from srtp import SUITES, Sealer

RUN = f"{random.randrange(2**32):08x}"
# Tones that a player of telephone bandwidth and every codec carries well, one for each m-line of a dialog.
TONES = (440, 620, 900, 1250, 1700, 500, 780, 1100)
STATIC = {0: "PCMU/8000", 2: "G726-32/8000", 3: "GSM/8000", 8: "PCMA/8000", 9: "G722/8000", 18: "G729/8000"}


class Failure(Exception):
    pass


def tone(hz, rate, seconds=2.0):
    return 6000 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


def frames(codec, hz, pcap):
    """20 ms payloads of a tone; of codecs that nobody here encodes, captured or made-up ones. The second value: a tone is in it."""
    name = codec.split("/")[0].upper()
    if name in ("PCMU", "PCMA", "G722", "OPUS"):
        return encode(tone(hz, 16000), name.lower(), 16000), True
    if name == "L16":
        rate = int(codec.split("/")[1])
        data = tone(hz, rate).astype(">i2").tobytes()
        size = rate // 50 * 2
        return [data[at : at + size] for at in range(0, len(data) - size + 1, size)], True
    if name == "G729" and 18 in pcap:
        return [payload for payload in pcap[18] if len(payload) in (10, 20, 30)] or [bytes(20)], False
    size = {"G729": 20, "GSM": 33, "G726-32": 80, "AAL2-G726-32": 80, "G726-40": 100, "G726-24": 60, "G726-16": 40, "ILBC": 38}.get(name, 32)
    chance = random.Random(hz)
    made = [bytearray(chance.randbytes(size)) for _ in range(50)]
    if name == "GSM":
        for frame in made:
            frame[0] = 0xD0 | frame[0] & 15
    return [bytes(frame) for frame in made], False


def media(body):
    """The m-lines of a description."""
    found, inside = [], False
    connection = direction = None
    for line in re.split(r"\r?\n", body):
        line = line.strip()
        if line == "v=0":
            inside = True
        elif not inside or line.startswith(("--", "<")):
            inside = inside and not line.startswith(("--", "<"))
        elif line.startswith("m="):
            fields = line[2:].split()
            numbers = [int(number) for number in fields[3:] if number.isdigit()] if len(fields) > 3 else []
            found.append({"kind": fields[0], "port": int(fields[1].split("/")[0]), "protocol": fields[2], "formats": numbers, "rtpmap": {}, "crypto": [], "direction": direction, "address": connection, "label": None})
        elif line.startswith("c="):
            address = line.split()[-1]
            if found:
                found[-1]["address"] = address
            else:
                connection = address
        elif line in ("a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive"):
            if found:
                found[-1]["direction"] = line[2:]
            else:
                direction = line[2:]
        elif found and line.startswith("a=rtpmap:"):
            number, name = line[9:].split(None, 1)
            found[-1]["rtpmap"][int(number)] = name.strip()
        elif found and line.startswith("a=crypto:"):
            found[-1]["crypto"].append(line[9:])
        elif found and line.startswith("a=label:"):
            found[-1]["label"] = line[8:].strip()
    return found


class Line:
    """One m-line: its socket, and what it sends at the moment."""

    def __init__(self, index):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.hz = TONES[index % len(TONES)]
        self.target = self.payloads = self.sealer = self.codec = None
        self.payload_type, self.ticks, self.has_tone, self.sent, self.next = 0, 160, False, 0, 0
        self.sequence, self.timestamp = random.randrange(1000, 60000), random.randrange(2**31)
        self.ssrc = struct.pack(">I", random.randrange(2**32))

    def send(self):
        payload = self.payloads[self.next % len(self.payloads)]
        header = struct.pack(">BBHI", 0x80, self.payload_type, self.sequence & 0xFFFF, self.timestamp & 0xFFFFFFFF) + self.ssrc
        packet = header + payload
        self.socket.sendto(self.sealer.seal(packet) if self.sealer else packet, self.target)
        self.sent += 1
        self.tick()

    def tick(self):
        self.next += 1
        self.sequence += 1
        self.timestamp += self.ticks


class Call:
    def __init__(self, dialog, server, pcap, transport, number):
        self.dialog, self.server, self.pcap, self.number = dialog, server, pcap, number
        self.transport = transport
        self.lines = {}
        self.to_tag = None
        self.answers = []
        self.call_id = None
        self.offered = []
        self.server_offer = None
        self.started = self.ended = None
        self.seen, self.cond, self.open = [], threading.Condition(), True
        if transport == "tcp":
            self.socket = socket.create_connection(server, 5)
        else:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(0.5)
        self.port = self.socket.getsockname()[1]
        self.lock = threading.Lock()
        for run in (self._receive, self._play):
            threading.Thread(target=run, daemon=True).start()

    # -- wire ---------------------------------------------------------------------------------------------

    def _transmit(self, data):
        with self.lock:
            if self.transport == "tcp":
                self.socket.sendall(data)
            else:
                self.socket.sendto(data, self.server)

    def _receive(self):
        held = b""
        while self.open:
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return
            if self.transport == "udp":
                self._take(data)
                continue
            if not data:
                return
            held += data
            while b"\r\n\r\n" in held:
                head, rest = held.split(b"\r\n\r\n", 1)
                length = re.search(rb"^content-length\s*:\s*(\d+)", head, re.M | re.I)
                size = int(length.group(1)) if length else 0
                if len(rest) < size:
                    break
                self._take(head + b"\r\n\r\n" + rest[:size])
                held = rest[size:]

    def _take(self, data):
        text = data.decode("utf-8", "replace")
        if text.startswith("SIP/2.0 "):
            with self.cond:
                self.seen.append(text)
                self.cond.notify_all()
        elif text.strip() and not text.startswith("ACK "):
            copied = [line for line in text.split("\r\n\r\n")[0].split("\r\n")[1:] if line.split(":")[0].lower() in ("via", "from", "to", "call-id", "cseq")]
            self._transmit("\r\n".join(["SIP/2.0 200 OK", *copied, "Content-Length: 0", "", ""]).encode())

    def _play(self):
        """Sends every line that has something to say, each 20 ms."""
        start, number = time.monotonic(), 0
        while self.open:
            number += 1
            wait = start + number * 0.02 - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            for line in list(self.lines.values()):
                if line.target and line.payloads:
                    try:
                        line.send()
                    except OSError:
                        return
                else:
                    line.tick()

    # -- messages -----------------------------------------------------------------------------------------

    def _body(self, message):
        """The body with our addresses and ports; labels, formats and metadata stay."""
        out, inside, index = [], False, -1
        for line in re.split(rb"(?<=\n)", message.body):
            bare = line.strip()
            if bare == b"v=0":
                inside, index = True, -1
            elif bare.startswith((b"--", b"<")):
                inside = False
            elif inside and bare.startswith(b"m="):
                index += 1
                fields = bare.split()
                if len(fields) > 1 and fields[1].split(b"/")[0] != b"0":
                    own = self.lines.setdefault(index, Line(index))
                    fields[1] = str(own.port).encode()
                    line = b" ".join(fields) + (b"\r\n" if line.endswith(b"\r\n") else b"\n")
            elif inside and bare.startswith(b"c=") and not bare.endswith(b"0.0.0.0"):
                line = b"c=IN IP4 127.0.0.1" + (b"\r\n" if line.endswith(b"\r\n") else b"\n")
            elif inside and bare.startswith(b"a=rtcp:"):
                line = b"" if index < 0 or index not in self.lines else f"a=rtcp:{self.lines[index].port + 1}\r\n".encode()
            out.append(line)
        return b"".join(out)

    def _compose(self, message, branch):
        body = self._body(message)
        host, port = self.server
        start = re.sub(r"(sips?:)([^@\s]*@)?([\w.\-]+|\[[^\]]*\])(:\d+)?", rf"\g<1>\g<2>{host}:{port}", message.start, count=1) if "sip" in message.start else message.start
        via = f"Via: SIP/2.0/{self.transport.upper()} 127.0.0.1:{self.port};branch={branch};rport"
        out = [start.encode(), via.encode()]
        first = message.method == "INVITE" and self.to_tag is None
        for line in message.lines:
            name = line.split(b":")[0].strip().lower()
            text = line.decode("utf-8", "surrogateescape")
            if name in (b"via", b"v", b"route", b"record-route", b"content-length", b"l"):
                continue
            if name in (b"contact", b"m"):
                text = re.sub(r"(sips?:)([^@\s;>]*@)?([\w.\-]+|\[[^\]]*\])(:\d+)?", rf"\g<1>\g<2>127.0.0.1:{self.port}", text, count=1)
            elif name in (b"call-id", b"i"):
                text = f"{text.strip()}-{RUN}{self.number}"
                self.call_id = text.split(":", 1)[1].strip()
            elif name in (b"to", b"t"):
                text = re.sub(r";\s*tag=[^;\s]*", "", text)
                if not first and self.to_tag:
                    text += f";tag={self.to_tag}"
            out.append(text.encode("utf-8", "surrogateescape"))
        out.append(f"Content-Length: {len(body)}".encode())
        return b"\r\n".join(out) + b"\r\n\r\n" + body, body.decode("utf-8", "replace")

    def _request(self, message, timeout=12.0):
        branch = f"z9hG4bK{random.randrange(2**48):x}"
        data, body = self._compose(message, branch)
        if self.transport == "udp" and len(data) > 60000:
            raise Failure("too long for a datagram")
        self._transmit(data)
        sent = time.monotonic()
        final = lambda text: branch in text.split("\r\n\r\n")[0] and int(text[8:11]) >= 200
        again = 0.5
        with self.cond:
            while not any(final(text) for text in self.seen):
                waited = time.monotonic() - sent
                if waited > timeout:
                    raise Failure(f"no answer to {message.method}")
                self.cond.wait(0.1)
                if self.transport == "udp" and waited > again and not any(branch in text for text in self.seen):
                    again *= 2
                    self._transmit(data)
            answer = next(text for text in self.seen if final(text))
        self.answers.append(int(answer[8:11]))
        tag = re.search(r"^to\s*:.*;tag=([^;\s]+)", answer, re.M | re.I)
        if tag and self.answers[-1] < 300 and self.to_tag is None:
            self.to_tag = tag.group(1)
        return answer, body

    def _acknowledge(self, message, after):
        data, body = self._compose(message, f"z9hG4bK{random.randrange(2**48):x}")
        self._transmit(data)
        offered = media(body)
        if offered and self.server_offer is not None:
            # Our answer to the server's offer: what it says is what we send.
            self._agree(offered, self.server_offer, answerer=True)
            self.server_offer = None

    def _own(self, method, message, number=None):
        """A request of our own with the header of the dialog's first message."""
        from corpus import Message

        cseq = int((message.header("CSeq") or "1").split()[0]) if number is None else number
        keep = [line for line in message.lines if line.split(b":")[0].strip().lower() in (b"from", b"f", b"to", b"t", b"call-id", b"i", b"contact", b"m", b"max-forwards")]
        head = [f"{method} sip:srs@192.0.2.10:5060 SIP/2.0".encode(), *keep, f"CSeq: {cseq} {method}".encode()]
        return Message(message.name, b"\r\n".join(head) + b"\r\n\r\n")

    def _agree(self, ours, theirs, answerer=False):
        """Sets what each line sends from here on."""
        for index, offer in enumerate(ours):
            line = self.lines.get(index)
            answer = theirs[index] if index < len(theirs) else None
            if line is None:
                continue
            held = offer["port"] == 0 or offer["address"] == "0.0.0.0" or offer["direction"] in ("inactive", "recvonly")
            if held or answer is None or answer["port"] == 0 or offer["kind"] != "audio":
                line.target = None
                continue
            formats = offer["formats"] if answerer else answer["formats"]
            names = {**STATIC, **answer["rtpmap"], **offer["rtpmap"]}
            audio = [number for number in formats if not names.get(number, "").lower().startswith(("telephone-event", "cn/"))]
            if not audio:
                line.target = None
                continue
            codec = names.get(audio[0], "PCMU/8000").replace("8000a", "8000")
            if codec != line.codec:
                line.payloads, line.has_tone = frames(codec, line.hz, self.pcap)
                line.codec = codec
                clock = int(re.search(r"/(\d+)", codec).group(1))
                line.ticks = clock // 50
            line.payload_type = audio[0]
            line.sealer = None
            if "SAVP" in answer["protocol"].upper():
                tag = answer["crypto"][0].split()[0] if answer["crypto"] else None
                chosen = next((value for value in offer["crypto"] if value.split()[0] == tag), None)
                if chosen is None or chosen.split()[1] not in SUITES:
                    raise Failure("the answer names no key of the offer")
                line.sealer = Sealer(chosen.split()[1], chosen.split()[2].removeprefix("inline:").split(";")[0])
            line.target = ("127.0.0.1", answer["port"])

    # -- the story ----------------------------------------------------------------------------------------

    def run(self):
        """Plays the dialog; what went wrong is raised."""
        last_invite, acknowledged, finished = None, True, False
        try:
            for step in self.dialog.steps:
                if step.kind == "pause":
                    time.sleep(min(step.seconds, 1.6))
                    continue
                message = step.message
                if message.is_response:
                    continue
                if message.method == "ACK":
                    if last_invite is not None and not acknowledged:
                        self._acknowledge(message, last_invite)
                        acknowledged = True
                    continue
                if last_invite is not None and not acknowledged:
                    self._acknowledge(self._own("ACK", last_invite), last_invite)
                    acknowledged = True
                if message.method == "BYE":
                    self.ended = time.time()
                    finished = True
                if self.dialog.truncated:
                    self._transmit(message.raw)
                    self._wait_any()
                    return
                answer, body = self._request(message)
                status = self.answers[-1]
                if message.method == "INVITE":
                    last_invite, acknowledged = message, status >= 300
                    if status >= 300:
                        raise Failure(f"INVITE answered {answer.splitlines()[0][8:]}")
                    theirs = media(answer.split("\r\n\r\n", 1)[1])
                    self.started = self.started or time.time()
                    ours = media(body)
                    if ours:
                        self._check(ours, theirs)
                        self._agree(ours, theirs)
                    else:
                        self.server_offer = theirs
                        for index, line in enumerate(theirs):
                            self.lines.setdefault(index, Line(index))
                elif status >= 300:
                    raise Failure(f"{message.method} answered {answer.splitlines()[0][8:]}")
                elif message.method == "UPDATE" and media(body):
                    self._agree(media(body), media(answer.split("\r\n\r\n", 1)[1]))
            if last_invite is not None and not acknowledged:
                if self.server_offer is not None:
                    self._answer_offer(last_invite)
                else:
                    self._acknowledge(self._own("ACK", last_invite), last_invite)
                time.sleep(1.5)
            if not finished and last_invite is not None:
                self.ended = time.time()
                number = int((last_invite.header("CSeq") or "1").split()[0]) + 1000
                self._request(self._own("BYE", last_invite, number))
        finally:
            time.sleep(0.1)
            self.open = False
            self.socket.close()
            for line in self.lines.values():
                line.socket.close()

    def _answer_offer(self, invite):
        """Answers the server's offer where the folder has no ACK: PCMU on every line."""
        from corpus import Message, sdp

        text = sdp([None] * len(self.server_offer)).encode()
        ack = self._own("ACK", invite)
        self._acknowledge(Message(invite.name, b"\r\n".join([ack.start.encode(), *ack.lines, b"Content-Type: application/sdp"]) + b"\r\n\r\n" + text), invite)

    def _wait_any(self):
        with self.cond:
            self.cond.wait_for(lambda: self.seen, 3)
            if self.seen:
                self.answers.append(int(self.seen[-1][8:11]))

    def _check(self, ours, theirs):
        """What every client needs of an answer."""
        if len(theirs) != len(ours):
            raise Failure(f"{len(ours)} m-lines offered, {len(theirs)} answered")
        for offer, answer in zip(ours, theirs):
            if answer["kind"] != offer["kind"] or answer["protocol"] != offer["protocol"]:
                raise Failure("m-lines are answered in another order or with another protocol")
            if answer["label"] != offer["label"]:
                raise Failure(f"label {offer['label']} came back as {answer['label']}")
            if answer["port"] and answer["direction"] not in ("recvonly", "inactive"):
                raise Failure(f"an m-line is answered {answer['direction']}")
            if answer["port"] % 2:
                raise Failure(f"RTP port {answer['port']} is odd")
