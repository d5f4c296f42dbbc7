"""Messages around what a folder has without one: bodies, metadata, fragments of headers."""

import re

from message import Message, compose
from metadata import labels_in, root_name

METADATA = "application/rs-metadata+xml"
MINIMAL = b"""<?xml version="1.0" encoding="UTF-8"?>
<recording xmlns="urn:ietf:params:xml:ns:recording:1"><datamode>complete</datamode><session session_id="first"/>
<participant participant_id="first-a"><nameID aor="sip:a@example.com"/></participant>
<participant participant_id="first-b"><nameID aor="sip:b@example.com"/></participant>
<stream stream_id="first-1" session_id="first"><label>1</label></stream>
<stream stream_id="first-2" session_id="first"><label>2</label></stream>
<participantstreamassoc participant_id="first-a"><send>first-1</send></participantstreamassoc>
<participantstreamassoc participant_id="first-b"><send>first-2</send></participantstreamassoc></recording>"""


def sdp(labels):
    """A description with an audio m-line for each label; `None` for a line without one."""
    text = "v=0\r\no=- 1 1 IN IP4 198.51.100.20\r\ns=-\r\nc=IN IP4 198.51.100.20\r\nt=0 0\r\n"
    for index, label in enumerate(labels):
        text += f"m=audio {16384 + 2 * index} RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendonly\r\n"
        text += f"a=label:{label}\r\n" if label is not None else ""
    return text.encode()


def request(name, method, number, body=b"", content_type=None, headers=()):
    lines = [
        "Via: SIP/2.0/UDP 198.51.100.20:5060;branch=z9hG4bK-1",
        "Max-Forwards: 70",
        "From: <sip:src@198.51.100.20>;tag=src-1",
        "To: <sip:srs@192.0.2.10>",
        f"Call-ID: {re.sub('[^A-Za-z0-9.-]', '-', name)}@198.51.100.20",
        f"CSeq: {number} {method}",
        "Contact: <sip:src@198.51.100.20:5060>;+sip.src",
    ]
    given = {line.split(":")[0].strip().lower() for line in headers}
    lines = [line for line in lines if line.split(":")[0].lower() not in given] + list(headers)
    lines += [f"Content-Type: {content_type}"] if content_type else []
    return Message(name, compose(f"{method} sip:srs@192.0.2.10:5060 SIP/2.0", [*lines, "Content-Length: 0"], body))


def invite(name, body, content_type, headers=("Require: siprec",)):
    return request(name, "INVITE", 1, body, content_type, headers)


def multipart(parts):
    body = b"".join(b"--player\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + part + b"\r\n" for kind, part in parts)
    return "multipart/mixed;boundary=player", body + b"--player--\r\n"


def described(name, labels, metadata):
    kind, body = multipart([("application/sdp", sdp(labels)), (METADATA, metadata)])
    return invite(name, body, kind)


def from_mime(name, raw):
    """An INVITE around a body, which is left as it is. The boundary is the one that stands before a part's header."""
    head = re.match(rb"\s*(?:[\w-]+:[^\n]*\r?\n)*?Content-Type:[ \t]*([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)\r?\n(?:[\w-]+:[^\n]*\r?\n)*\r?\n", raw, re.I)
    if head and b"boundary" in head.group(1).lower():
        return invite(name, raw[head.end() :], " ".join(head.group(1).decode("utf-8", "replace").split()))
    found = re.search(rb"^[ \t]*--([^\r\n]*?)[ \t]*\r?\n[ \t]*[\w-]+[ \t]*:", raw, re.M) or re.search(rb"^--([^\r\n]+?)(?:--)?[ \t]*\r?$", raw, re.M)
    if found is None:
        if re.search(rb"^v=0\r?$", raw, re.M):
            return invite(name, raw, "application/sdp")
        return described(name, ["1", "2"], raw)
    boundary = found.group(1).decode("utf-8", "replace")
    return invite(name, raw, f'multipart/mixed;boundary="{boundary}"')


def is_metadata(root):
    return root.lower().startswith("recording") and root != "recorderList"


def from_xml(name, raw):
    """Messages that bring metadata or a status; none for what a server would send."""
    text = raw.decode("utf-8", "replace")
    root = root_name(text)
    if root.lower().startswith("requestsnapshot"):
        return []
    labels = labels_in(text)
    partial = re.search(r"datamode>\s*partial", text, re.I)
    whole = re.search(r"<(?:[\w.-]+:)?session[\s>/]", text) or labels
    if is_metadata(root) and whole and not partial:
        return [described(name, labels or ["1", "2"], raw)]
    method, kind = ("UPDATE", METADATA) if is_metadata(root) else ("INFO", "application/xml")
    return [described(name, ["1", "2"], MINIMAL), request(name, method, 2, raw, kind)]


def from_text(name, raw):
    """Messages for a fragment: metadata, or header lines, which a plain INVITE brings; none for other text."""
    text = raw.decode("utf-8", "replace")
    if re.search(r"<(?:[\w.-]+:)?recording[\s>_]", text):
        return from_xml(name, raw)
    unfolded = re.sub(r"\r?\n[ \t]+", " ", text)
    lines = [line.strip() for line in unfolded.splitlines() if line.strip()]
    if not lines or not all(re.match(r"[A-Za-z][A-Za-z0-9-]*\s*:\s*\S", line) for line in lines):
        return []
    ours = ("via", "v", "call-id", "i", "cseq", "content-length", "l", "content-type", "c")
    return [invite(name, sdp([None]), "application/sdp", [line for line in lines if line.split(":")[0].strip().lower() not in ours])]
