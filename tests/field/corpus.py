"""Reads a folder of messages that recording clients send, as scenarios to play.

    MAKER-WHAT[-NN-METHOD].sip   a message; NN gives the order, Call-ID tells dialogs of one scenario apart
    MAKER-WHAT.mime              a multipart body without its INVITE
    MAKER-WHAT.xml               recording metadata
    flows/MAKER-WHAT.tsv         send, recv, pause, media: the order and the pauses of a scenario
    media/*.pcap                 RTP
    expected.tsv                 optional: scenario, number of recordings
"""

import dataclasses
import pathlib
import re
import struct

NUMBERED = re.compile(r"^(?P<base>.+?)-(?P<number>\d\d)-(?P<what>.+)$")


class Message:
    """A SIP message as bytes: header lines and body are kept as they are."""

    def __init__(self, name, raw):
        self.name = name
        for separator in (b"\r\n\r\n", b"\n\n"):
            if separator in raw:
                head, self.body = raw.split(separator, 1)
                break
        else:
            head, self.body = raw, b""
        lines = re.split(rb"\r?\n", head)
        # A folded line belongs to the one before.
        self.lines = []
        for line in lines:
            if line[:1] in (b" ", b"\t") and self.lines:
                self.lines[-1] += b"\r\n" + line
            else:
                self.lines.append(line)
        self.start = self.lines.pop(0).decode("utf-8", "replace") if self.lines else ""
        self.raw = raw

    @property
    def is_response(self):
        return self.start.startswith("SIP/2.0 ")

    @property
    def method(self):
        if self.is_response:
            return (self.header("CSeq") or "").split(" ")[-1]
        return self.start.split(" ")[0]

    def header(self, name):
        short = {"call-id": "i", "from": "f", "to": "t", "contact": "m", "content-type": "c", "via": "v"}
        wanted = {name.lower(), short.get(name.lower(), name.lower())}
        for line in self.lines:
            key, _, value = line.partition(b":")
            if key.strip().decode("latin-1").lower() in wanted:
                return value.strip().decode("utf-8", "replace")
        return None


@dataclasses.dataclass
class Step:
    kind: str  # send, pause, media
    message: Message | None = None
    seconds: float = 0.0


@dataclasses.dataclass
class Dialog:
    name: str
    steps: list
    truncated: bool = False


@dataclasses.dataclass
class Scenario:
    name: str
    dialogs: list
    expected: int
    references: list = dataclasses.field(default_factory=list)


def sdp(labels, port=16384):
    text = "v=0\r\no=- 1 1 IN IP4 198.51.100.20\r\ns=-\r\nc=IN IP4 198.51.100.20\r\nt=0 0\r\n"
    for index, label in enumerate(labels):
        text += f"m=audio {port + 2 * index} RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendonly\r\n"
        text += f"a=label:{label}\r\n" if label else ""
    return text


def invite(name, body, content_type):
    text = (
        f"INVITE sip:srs@192.0.2.10:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.20:5060;branch=z9hG4bK-1\r\nMax-Forwards: 70\r\n"
        f"From: <sip:src@198.51.100.20>;tag=src-1\r\nTo: <sip:srs@192.0.2.10>\r\nCall-ID: {name}@198.51.100.20\r\nCSeq: 1 INVITE\r\n"
        f"Contact: <sip:src@198.51.100.20:5060>;+sip.src\r\nRequire: siprec\r\nContent-Type: {content_type}\r\nContent-Length: 0\r\n\r\n"
    )
    return Message(name, text.encode() + body)


def in_dialog(name, method, body, content_type, number):
    text = (
        f"{method} sip:srs@192.0.2.10:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 198.51.100.20:5060;branch=z9hG4bK-2\r\nMax-Forwards: 70\r\n"
        f"From: <sip:src@198.51.100.20>;tag=src-1\r\nTo: <sip:srs@192.0.2.10>\r\nCall-ID: {name}@198.51.100.20\r\nCSeq: {number} {method}\r\n"
        f"Contact: <sip:src@198.51.100.20:5060>;+sip.src\r\nContent-Type: {content_type}\r\nContent-Length: 0\r\n\r\n"
    )
    return Message(name, text.encode() + body)


METADATA = "application/rs-metadata+xml"
MINIMAL = b"""<?xml version="1.0" encoding="UTF-8"?>
<recording xmlns="urn:ietf:params:xml:ns:recording:1"><datamode>complete</datamode><session session_id="first"/>
<participant participant_id="first-a"><nameID aor="sip:a@example.com"/></participant>
<participant participant_id="first-b"><nameID aor="sip:b@example.com"/></participant>
<stream stream_id="first-1" session_id="first"><label>1</label></stream>
<stream stream_id="first-2" session_id="first"><label>2</label></stream>
<participantstreamassoc participant_id="first-a"><send>first-1</send></participantstreamassoc>
<participantstreamassoc participant_id="first-b"><send>first-2</send></participantstreamassoc></recording>"""


def multipart(parts):
    body = b""
    for content_type, part in parts:
        body += b"--player\r\nContent-Type: " + content_type.encode() + b"\r\n\r\n" + part + b"\r\n"
    return "multipart/mixed;boundary=player", body + b"--player--\r\n"


def from_mime(name, raw):
    found = re.search(rb"^--([^\r\n]+?)(?:--)?\s*$", raw, re.M)
    boundary = found.group(1).decode().strip() if found else "boundary"
    return invite(name, raw, f'multipart/mixed;boundary="{boundary}"')


def from_xml(name, raw):
    """Steps for metadata alone; nothing for what a server would send."""
    text = raw.decode("utf-8", "replace")
    root = re.search(r"<(?:[\w.-]+:)?([\w.-]+)[\s>/]", re.sub(r"<\?.*?\?>|<!--.*?-->", "", text, flags=re.S))
    root = root.group(1) if root else ""
    if root.startswith("requestsnapshot"):
        return None
    labels = list(dict.fromkeys(label.strip() for label in re.findall(r"<(?:\w+:)?label>\s*([^<]+?)\s*</", text)))
    partial = re.search(r"datamode>\s*partial", text, re.I)
    if root.startswith("recording") and root != "recorderList" and labels and not partial:
        content_type, body = multipart([("application/sdp", sdp(labels).encode()), (METADATA, raw)])
        return [Step("send", invite(name, body, content_type)), Step("pause", seconds=1.5)]
    content_type, body = multipart([("application/sdp", sdp(["1", "2"]).encode()), (METADATA, MINIMAL)])
    method, kind = ("UPDATE", METADATA) if root.startswith("recording") and root != "recorderList" else ("INFO", "application/xml")
    first = invite(name, body, content_type)
    return [Step("send", first), Step("pause", seconds=1.0), Step("send", in_dialog(name, method, raw, kind, 2)), Step("pause", seconds=1.0)]


def flow(folder, base):
    """Names of messages and pauses in the order of the flow's file, if there is one."""
    path = folder / "flows" / f"{base}.tsv"
    if not path.exists():
        return None
    steps = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("#") or "\t" not in line:
            continue
        kind, what = line.split("\t")[:2]
        if kind == "send":
            steps.append(("send", what.strip()))
        elif kind == "pause":
            milliseconds = re.search(r"\d+", what)
            steps.append(("pause", int(milliseconds.group()) / 1000 if milliseconds else 0.2))
    return steps or None


def steps_of(messages, order):
    """The steps of one dialog: in the flow's order where it names the messages, else by their number."""
    by_name = {message.name: message for message in messages}
    if order and any(kind == "send" and what in by_name for kind, what in order):
        steps = [Step("send", by_name[what]) if kind == "send" else Step("pause", seconds=what) for kind, what in order if kind == "pause" or what in by_name]
        # Pauses before the first message are those of other dialogs.
        while steps and steps[0].kind == "pause":
            steps.pop(0)
        return steps
    steps = []
    for number, message in enumerate(messages):
        steps.append(Step("send", message))
        following = messages[number + 1] if number + 1 < len(messages) else None
        if message.method in ("INVITE", "ACK", "UPDATE") and (following is None or following.method != "ACK"):
            steps.append(Step("pause", seconds=1.5))
    return steps


def half(message):
    """What the two dialogs of one call share where each has one end of it, and which end."""
    sender = (message.header("From") or "").lower()
    found = {name: value for name, value in re.findall(r"(x-[a-z]+)=?([^;>]*)", sender)}
    end = "near" if "x-nearend" in found else "far" if "x-farend" in found else None
    if end is None or not found.get("x-refci"):
        return None
    return (found["x-refci"], found.get("x-farendrefci", "")), end


def expected(dialogs):
    """How many recordings these dialogs make: one each, two halves of a call together one."""
    keys = set()
    for number, dialog in enumerate(dialogs):
        first = next((step.message for step in dialog.steps if step.kind == "send" and step.message.method == "INVITE"), None)
        if first is None or dialog.truncated:
            continue
        key = half(first)
        keys.add(key[0] if key else number)
    return len(keys)


def together(base):
    """Scenarios of one call carry the same name but for a letter or the end of the call."""
    name = re.sub(r"-?(near|far)[-_]?end", "", base)
    return re.sub(r"-[a-e]$", "", name)


def load(folder):
    folder = pathlib.Path(folder)
    told = {}
    if (folder / "expected.tsv").exists():
        for line in (folder / "expected.tsv").read_text().splitlines():
            if "\t" in line and not line.startswith("#"):
                name, count = line.split("\t")[:2]
                told[name.strip()] = int(count)
    bases, references = {}, []
    for path in sorted(folder.glob("*.sip")):
        message = Message(path.name, path.read_bytes())
        found = NUMBERED.match(path.stem)
        base = found["base"] if found else path.stem
        if message.is_response or "Call-ID" not in message.raw.decode("latin-1") and not message.lines:
            references.append(path.name)
            continue
        bases.setdefault(base, []).append(message)
    scenarios = {}
    for base, messages in bases.items():
        order = flow(folder, base)
        by_call = {}
        for message in messages:
            by_call.setdefault(message.header("Call-ID"), []).append(message)
        for number, group in enumerate(by_call.values()):
            truncated = "truncated" in base
            name = base if len(by_call) == 1 else f"{base}#{number + 1}"
            scenarios.setdefault(together(base), []).append(Dialog(name, steps_of(group, order), truncated))
    stems = {path.stem for path in folder.glob("*.sip")}
    for path in sorted(folder.glob("*.mime")):
        name = path.stem if path.stem not in stems else f"{path.stem}.mime"
        message = from_mime(name, path.read_bytes())
        scenarios[name] = [Dialog(name, [Step("send", message), Step("pause", seconds=1.5)])]
    for path in sorted([*folder.glob("*.xml"), *folder.glob("*.txt")]):
        name = f"{path.stem}{path.suffix}"
        raw = path.read_bytes()
        steps = from_xml(name, raw) if path.suffix == ".xml" or b"<recording" in raw else None
        if steps is None:
            references.append(path.name)
        else:
            scenarios[name] = [Dialog(name, steps)]
    result = [Scenario(name, dialogs, told.get(name, expected(dialogs))) for name, dialogs in scenarios.items()]
    return sorted(result, key=lambda scenario: scenario.name), references


def pcap_payloads(folder):
    """RTP payloads by payload type out of the pcaps of a folder (Ethernet, raw IP or cooked capture)."""
    found = {}
    for path in sorted((pathlib.Path(folder) / "media").glob("*.pcap")):
        data = path.read_bytes()
        if len(data) < 24:
            continue
        order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
        link = struct.unpack(order + "I", data[20:24])[0]
        skip = {1: 14, 101: 0, 228: 0, 113: 16, 276: 20, 0: 4}.get(link, 14)
        at, stream = 24, {}
        while at + 16 <= len(data):
            size = struct.unpack(order + "I", data[at + 8 : at + 12])[0]
            packet = data[at + 16 + skip : at + 16 + size]
            at += 16 + size
            if len(packet) < 40 or packet[0] >> 4 != 4 or packet[9] != 17:
                continue
            rtp = packet[(packet[0] & 15) * 4 + 8 :]
            if len(rtp) > 12 and rtp[0] >> 6 == 2:
                kind = rtp[1] & 127
                stream.setdefault((kind, rtp[8:12]), []).append(rtp[12:])
        for (kind, _), payloads in stream.items():
            found.setdefault(kind, payloads)
    return found
