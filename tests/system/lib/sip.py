"""A minimal SIPREC client for whatever sipp cannot say: one call, UDP or TCP."""

import random
import re
import socket
import threading
import time

METADATA = """<?xml version="1.0" encoding="UTF-8"?>
<recording xmlns="urn:ietf:params:xml:ns:recording:1"><datamode>complete</datamode>
<session session_id="s1"/>
<participant participant_id="p1"><nameID aor="sip:+1555010{number:04d}@example.com"><name>Caller {number}</name></nameID></participant>
<participant participant_id="p2"><nameID aor="sip:agent{number}@example.com"><name>Agent {number}</name></nameID></participant>
<stream stream_id="t1" session_id="s1"><label>1</label></stream>
<stream stream_id="t2" session_id="s1"><label>2</label></stream>
<participantstreamassoc participant_id="p1"><send>t1</send><recv>t2</recv></participantstreamassoc>
<participantstreamassoc participant_id="p2"><send>t2</send><recv>t1</recv></participantstreamassoc>
</recording>"""


def sdp(rtpmaps=((0, "PCMU/8000"),), streams=2, extra=""):
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0"]
    for index in range(streams):
        lines.append(f"m=audio {30000 + 2 * index} RTP/AVP " + " ".join(str(number) for number, _ in rtpmaps))
        lines += [f"a=rtpmap:{number} {name}" for number, name in rtpmaps]
        lines += ["a=sendonly", f"a=label:{index + 1}"]
    return "\r\n".join(lines) + "\r\n" + extra


def multipart(parts, boundary="boundary1"):
    body = ""
    for media_type, text in parts:
        body += f"--{boundary}\r\nContent-Type: {media_type}\r\n\r\n{text}\r\n"
    return f"multipart/mixed;boundary={boundary}", body + f"--{boundary}--\r\n"


class Answer:
    def __init__(self, raw):
        self.raw = raw
        head, _, self.body = raw.partition("\r\n\r\n")
        self.lines = head.split("\r\n")
        self.status = int(self.lines[0].split(" ")[1]) if self.lines[0].startswith("SIP/2.0 ") else 0
        self.method = self.lines[0].split(" ")[0]

    def header(self, name):
        for line in self.lines[1:]:
            if line.lower().startswith(name.lower() + ":"):
                return line.split(":", 1)[1].strip()
        return None

    def ports(self):
        return [int(port) for port in re.findall(r"^m=audio (\d+)", self.body, re.M)]


class Call:
    """One recording session over UDP; answers OPTIONS unless told not to."""

    def __init__(self, node, number=0, *, answer_options=True):
        self.node, self.number = node, number
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.settimeout(5)
        self.server = ("127.0.0.1", node.sip)
        self.port = self.socket.getsockname()[1]
        self.call_id = f"{random.randrange(2**40):x}-{number}@127.0.0.1"
        self.tag = f"{random.randrange(2**32):x}"
        self.to = f"<sip:srs@127.0.0.1:{node.sip}>"
        self.cseq = 100
        self.answer_options = answer_options
        self.seen = []
        self.pending = {}
        self.cond = threading.Condition()
        self.open = True
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self):
        while self.open:
            try:
                raw, _ = self.socket.recvfrom(65536)
            except TimeoutError:
                continue
            except OSError:
                return
            message = Answer(raw.decode(errors="replace"))
            with self.cond:
                self.seen.append(message)
                self.cond.notify_all()
            if message.status == 0 and message.method in ("OPTIONS", "BYE", "UPDATE"):
                if message.method == "OPTIONS" and not self.answer_options:
                    continue
                self.reply(message, 200)

    def reply(self, request, status):
        copied = [line for line in request.lines[1:] if line.split(":")[0].lower() in ("via", "from", "to", "call-id", "cseq")]
        text = "\r\n".join([f"SIP/2.0 {status} Fine", *copied, "Content-Length: 0", "", ""])
        self.socket.sendto(text.encode(), self.server)

    def request(self, method, *, body="", content_type=None, cseq=None, headers=(), wait=True, timeout=10, raw=None):
        if cseq is None:
            self.cseq += 1
            cseq = self.cseq
        branch = f"z9hG4bK{random.randrange(2**48):x}"
        lines = [
            f"{method} sip:srs@127.0.0.1:{self.node.sip} SIP/2.0",
            f"Via: SIP/2.0/UDP 127.0.0.1:{self.port};branch={branch};rport",
            "Max-Forwards: 70",
            f"From: <sip:src@127.0.0.1>;tag={self.tag}",
            f"To: {self.to}",
            f"Call-ID: {self.call_id}",
            f"CSeq: {cseq} {method}",
            f"Contact: <sip:src@127.0.0.1:{self.port}>;+sip.src",
            *headers,
        ]
        if content_type:
            lines.append(f"Content-Type: {content_type}")
        lines.append(f"Content-Length: {len(body.encode())}")
        text = "\r\n".join(lines) + "\r\n\r\n" + body
        payload = raw(text) if raw else text.encode()
        sent = time.monotonic()
        self.socket.sendto(payload, self.server)
        if not wait:
            return None
        final = lambda m: m.status >= 200 and branch in (m.header("Via") or "")
        with self.cond:
            while not any(final(m) for m in self.seen):
                left = sent + timeout - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"no answer to {method} within {timeout} s")
                self.cond.wait(min(left, 0.5))
                if not any(final(m) for m in self.seen) and time.monotonic() - sent > 0.5:
                    self.socket.sendto(payload, self.server)
            return next(m for m in self.seen if final(m))

    def invite(self, *, offer=None, metadata=None, parts=None, **options):
        offer = offer or sdp()
        metadata = METADATA.format(number=self.number) if metadata is None else metadata
        parts = parts or [("application/sdp", offer), ("application/rs-metadata+xml", metadata)]
        content_type, body = multipart(parts)
        answer = self.request("INVITE", body=body, content_type=content_type, headers=("Require: siprec",), **options)
        if answer.status == 200:
            self.to = answer.header("To")
            self.request("ACK", cseq=self.cseq, wait=False)
        return answer

    def bye(self):
        answer = self.request("BYE")
        self.close()
        return answer

    def close(self):
        self.open = False
        self.socket.close()
