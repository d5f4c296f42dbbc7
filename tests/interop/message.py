"""A SIP message as bytes: header lines and body are kept as they are."""

import re

COMPACT = {"call-id": "i", "from": "f", "to": "t", "contact": "m", "content-type": "c", "via": "v", "content-length": "l", "supported": "k"}
METHODS = ("INVITE", "ACK", "BYE", "CANCEL", "UPDATE", "INFO", "OPTIONS", "PRACK", "REFER", "NOTIFY", "SUBSCRIBE", "MESSAGE", "REGISTER", "PUBLISH")
START = re.compile(rf"^(?:{'|'.join(METHODS)}) \S.* SIP/2\.0\s*$|^SIP/2\.0 \d\d\d")
# The host and port of a SIP URI.
HOST = re.compile(r"(sip)s?:([^@\s;>,]*@)?(\[[^\]]*\]|[\w.\-]+)(:\d+)?", re.I)


class Message:
    def __init__(self, name, raw):
        self.name, self.raw = name, raw
        # An empty line before the start line is allowed (RFC 3261 7.5).
        text = raw.lstrip(b"\r\n")
        found = re.search(rb"\r?\n\r?\n", text)
        head, self.body = (text[: found.start()], text[found.end() :]) if found else (text, b"")
        self.lines = []
        for line in re.split(rb"\r?\n", head):
            # A folded line belongs to the one before.
            if line[:1] in (b" ", b"\t") and self.lines:
                self.lines[-1] += b"\r\n" + line
            else:
                self.lines.append(line)
        self.start = self.lines.pop(0).decode("utf-8", "replace") if self.lines else ""

    @property
    def is_sip(self):
        return bool(START.match(self.start))

    @property
    def is_response(self):
        return self.start.startswith("SIP/2.0 ")

    @property
    def method(self):
        if self.is_response:
            return (self.header("CSeq") or "").split(" ")[-1].strip()
        return self.start.split(" ")[0]

    @property
    def cseq(self):
        found = re.match(r"\d+", self.header("CSeq") or "")
        return int(found.group()) if found else 1

    def headers(self, name):
        wanted = {name.lower(), COMPACT.get(name.lower(), name.lower())}
        for line in self.lines:
            key, _, value = line.partition(b":")
            if key.strip().decode("latin-1").lower() in wanted:
                yield value.strip().decode("utf-8", "replace")

    def header(self, name):
        return next(self.headers(name), None)

    @property
    def has_to_tag(self):
        return bool(re.search(r";\s*tag=", self.header("To") or "", re.I))

    @property
    def is_cut(self):
        """True if it says that it is longer than it is."""
        length = self.header("Content-Length") or ""
        return length.isdigit() and int(length) > len(self.body)

    @property
    def documents(self):
        """Recording metadata in the body: each XML document of a multipart, or the body itself."""
        text = self.body.decode("utf-8", "replace")
        kind = (self.header("Content-Type") or "").lower()
        if "multipart" in kind:
            boundary = re.search(r'boundary\s*=\s*(?:"([^"]+)"|([^;\s]+))', self.header("Content-Type"), re.I)
            parts = text.split("--" + (boundary.group(1) or boundary.group(2))) if boundary else [text]
        else:
            parts = [text]
        found = []
        for part in parts:
            at = re.search(r"<\?xml|<(?:[\w.-]+:)?recording", part)
            if at and re.search(r"<(?:[\w.-]+:)?recording(?:_metadata)?[\s>/]", part):
                found.append(part[at.start() :].strip())
        return found


def compose(first_line, headers, body=b""):
    """The bytes of a message of the player's own."""
    return "\r\n".join([first_line, *headers, "", ""]).encode() + body
