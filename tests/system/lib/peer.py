"""SIP peers that say exactly what a test tells them: UDP, TCP and TLS on the loopback, every wait with a deadline.

A peer keeps what it gets as bytes; nothing is answered but by the test.
"""

import contextlib
import queue
import random
import re
import select
import socket
import ssl
import threading
import time

from .edge import Edge

SHORT = {b"v": b"via", b"f": b"from", b"t": b"to", b"i": b"call-id", b"m": b"contact", b"l": b"content-length", b"c": b"content-type", b"k": b"supported"}
COPIED = (b"via", b"from", b"to", b"call-id", b"cseq", b"record-route")


def token(bits=48):
    return f"{random.randrange(2 ** bits):x}"


class Message:
    """A message as it came: header lines as bytes, folded lines kept whole."""

    def __init__(self, raw, link=None):
        self.raw, self.link = raw, link
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = re.split(rb"\r\n(?![ \t])", head)
        self.start, self.lines = lines[0], lines[1:]
        words = self.start.split(b" ")
        is_response = self.start.startswith(b"SIP/2.0 ")
        self.status = int(words[1]) if is_response else 0
        self.method = "" if is_response else words[0].decode(errors="replace")
        self.uri = "" if is_response or len(words) < 2 else words[1].decode(errors="replace")

    @staticmethod
    def name_of(line):
        name = line.split(b":")[0].strip().lower()
        return SHORT.get(name, name)

    def all(self, name):
        """Values of a header field, a line each."""
        wanted = name.lower().encode()
        return [line.split(b":", 1)[1].strip().decode(errors="replace") for line in self.lines if self.name_of(line) == wanted]

    def values(self, name):
        """Values of a list header field without quoted commas."""
        return [value.strip() for line in self.all(name) for value in re.split(r",(?![^<]*>)", line)]

    def header(self, name):
        found = self.all(name)
        return found[0] if found else None

    @property
    def branch(self):
        found = re.search(r"branch=([^;,\s]+)", self.header("Via") or "")
        return found[1] if found else ""

    @property
    def to_tag(self):
        found = re.search(r";\s*tag=([^;\s]+)", self.header("To") or "")
        return found[1] if found else ""

    @property
    def key(self):
        return self.header("CSeq").split()[1] if self.header("CSeq") else ""

    def response(self, status, reason="Fine", *, tag=None, headers=(), body=b""):
        """A response to this request, as bytes."""
        lines = [f"SIP/2.0 {status} {reason}".encode()]
        for line in self.lines:
            if self.name_of(line) in COPIED:
                if tag and self.name_of(line) == b"to" and b"tag=" not in line:
                    line += f";tag={tag}".encode()
                lines.append(line)
        lines += [header.encode() for header in headers]
        return b"\r\n".join([*lines, f"Content-Length: {len(body)}".encode(), b"", b""]) + body

    def reply(self, status, reason="Fine", **options):
        """Answers on the way it came."""
        self.link.send(self.response(status, reason, **options))

    def __repr__(self):
        return self.raw[:2000].decode(errors="replace")


def frames(data):
    """Cuts a stream into messages and keep-alives; returns them and the rest."""
    found = []
    while data:
        if data.startswith(b"\r\n"):
            found.append(b"\r\n")
            data = data[2:]
            continue
        head, gap, rest = data.partition(b"\r\n\r\n")
        if not gap:
            break
        length = re.search(rb"\r\n(?:content-length|l)[ \t]*:\s*(\d+)", head, re.I)
        length = int(length[1]) if length else 0
        if len(rest) < length:
            break
        found.append(head + gap + rest[:length])
        data = rest[length:]
    return found, data


class Link:
    """A way back: a datagram's source, or a connection."""

    def __init__(self, peer, remote, connection=None):
        self.peer, self.remote, self.connection, self.closed = peer, remote, connection, threading.Event()
        self.lock = threading.Lock()
        self.pongs = 0

    def send(self, data):
        if self.connection is None:
            self.peer.socket.sendto(data, self.remote)
        else:
            self._send(data)

    def close(self, abort=False):
        if self.connection is not None:
            with contextlib.suppress(OSError):
                if abort:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                # The reader wakes up; while it waits a close would do nothing.
                self.connection.shutdown(socket.SHUT_RD if abort else socket.SHUT_RDWR)
                self.connection.close()

    def _send(self, data):
        """OpenSSL allows one thread at a time, so TLS is never waited for inside of it."""
        if not isinstance(self.connection, ssl.SSLSocket):
            with self.lock:
                self.connection.sendall(data)
            return
        while data:
            try:
                with self.lock:
                    data = data[self.connection.send(data) :]
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                time.sleep(0.001)

    def _recv(self):
        if not isinstance(self.connection, ssl.SSLSocket):
            return self.connection.recv(65536)
        self.connection.setblocking(False)
        while True:
            try:
                with self.lock:
                    return self.connection.recv(65536)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                select.select([self.connection], [], [], 1)

    def _read(self):
        data = b""
        try:
            while some := self._recv():
                found, data = frames(data + some)
                for one in found:
                    if one == b"\r\n":
                        self.pongs += 1
                    else:
                        self.peer._take(Message(one, self))
        except (OSError, ValueError):
            pass
        self.closed.set()
        self.close()


class Peer:
    """One endpoint. `certificates` (lib.certificates) makes it TLS's."""

    def __init__(self, transport="udp", ip="127.0.0.1", port=0, *, certificates=None, listen=True):
        self.transport, self.ip, self.certificates = transport, ip, certificates
        self.family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        self.inbox, self.seen, self.links, self.open = queue.Queue(), [], [], True
        self.kept = []
        self.accepted = 0
        if transport == "udp":
            self.socket = socket.socket(self.family, socket.SOCK_DGRAM)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            self.socket.bind((ip, port))
            self.port = self.socket.getsockname()[1]
            self.thread = threading.Thread(target=self._datagrams, daemon=True)
            self.thread.start()
        else:
            self.socket = socket.create_server((ip, port), family=self.family, backlog=64)
            self.port = self.socket.getsockname()[1]
            self.thread = threading.Thread(target=self._accept, daemon=True)
            if listen:
                self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.open = False
        # Whoever waits in there wakes up, and the port is free at once; UDP says that it was not connected, and wakes up too.
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        if self.thread.is_alive():
            self.thread.join(1)
        self.socket.close()
        for link in self.links:
            link.close()

    @property
    def host(self):
        """Host and port as in a URI."""
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"

    @property
    def contact(self):
        return f"sip:peer@{self.host};transport={self.transport}"

    def _take(self, message):
        self.seen.append(message)
        self.inbox.put(message)

    def _datagrams(self):
        while self.open:
            try:
                data, remote = self.socket.recvfrom(65536)
            except OSError:
                if self.open:
                    continue
                return
            if not data and not self.open:
                return
            with contextlib.suppress(ValueError, IndexError):
                self._take(Message(data, Link(self, remote)))

    def _accept(self):
        while self.open:
            try:
                connection, remote = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, remote), daemon=True).start()

    def _serve(self, connection, remote):
        if self.transport == "tls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificates["certificate"], self.certificates["key"])
            try:
                connection = context.wrap_socket(connection, server_side=True)
            except (OSError, ssl.SSLError):
                return
        self.accepted += 1
        link = Link(self, remote, connection)
        self.links.append(link)
        link._read()

    def connect(self, ip, port, *, source=None):
        """A connection of our own."""
        connection = socket.create_connection((ip, port), 5, source_address=source)
        connection.settimeout(None)
        if self.transport == "tls":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(self.certificates["client_ca"])
            context.load_cert_chain(self.certificates["certificate"], self.certificates["key"])
            connection = context.wrap_socket(connection, server_hostname=ip)
        link = Link(self, (ip, port), connection)
        self.links.append(link)
        if self.transport == "tls":
            connection.setblocking(False)
        threading.Thread(target=link._read, daemon=True).start()
        return link

    def to(self, ip, port):
        """The way to somebody: the connection that is open, or a new one."""
        if self.transport == "udp":
            return Link(self, (ip, port))
        for link in self.links:
            if link.remote[:2] == (ip, port) and not link.closed.is_set():
                return link
        return self.connect(ip, port)

    def receive(self, what=None, timeout=5.0):
        """The next message that fits, others are kept for later. `what`: a method, a status, or a predicate."""
        fits = _fits(what)
        for place, message in enumerate(self.kept):
            if fits(message):
                return self.kept.pop(place)
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                message = self.inbox.get(timeout=max(left, 0.001))
            except queue.Empty:
                seen = "\n".join(one.start.decode(errors="replace") for one in self.seen[-12:])
                raise AssertionError(f"{self.transport} peer waited {timeout} s for {what}; it saw:\n{seen}") from None
            if fits(message):
                return message
            self.kept.append(message)

    def none(self, what=None, seconds=0.7):
        """Nothing that fits comes within so many seconds."""
        try:
            message = self.receive(what, seconds)
        except AssertionError:
            return
        raise AssertionError(f"unexpected: {message!r}")

    def forget(self):
        """What came so far does not count."""
        self.kept.clear()
        while True:
            try:
                self.inbox.get_nowait()
            except queue.Empty:
                return

    def request(self, method, uri, *, to=None, call_id=None, cseq=1, tag=None, to_tag=None, branch=None, headers=(), body=b"",
                hops=70, from_uri="sip:caller@example.com", to_uri=None, host=None, contact=True):
        """A request of this peer, as bytes."""
        lines = [
            f"{method} {uri} SIP/2.0",
            f"Via: SIP/2.0/{self.transport.upper()} {host or self.host};branch={branch or 'z9hG4bK' + token()};rport",
            *([] if hops is None else [f"Max-Forwards: {hops}"]),
            f"From: <{from_uri}>;tag={tag or token()}",
            f"To: {to or '<' + (to_uri or uri) + '>'}{';tag=' + to_tag if to_tag else ''}",
            f"Call-ID: {call_id or token(64)}",
            f"CSeq: {cseq} {method}",
            *([f"Contact: <{self.contact}>"] if contact else []),
            *headers,
            f"Content-Length: {len(body)}",
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _fits(what):
    if what is None:
        return lambda _: True
    if isinstance(what, str):
        return lambda message: message.method == what
    if isinstance(what, int):
        return lambda message: message.status == what
    return what


def final(message):
    """A predicate: a final response."""
    return message.status >= 200


class Side:
    """One side of a dialog, for requests within it (RFC 3261 12.2)."""

    def __init__(self, peer, call_id, local, remote, target, routes, link):
        self.peer, self.call_id, self.local, self.remote, self.target, self.routes, self.link = peer, call_id, local, remote, target, routes, link
        self.cseq = 100

    @classmethod
    def caller(cls, peer, response, link):
        target = re.search(r"<([^>]+)>", response.header("Contact"))[1]
        return cls(peer, response.header("Call-ID"), response.header("From"), response.header("To"), target, response.values("Record-Route")[::-1], link)

    @classmethod
    def callee(cls, peer, invite, tag, link):
        target = re.search(r"<([^>]+)>", invite.header("Contact"))[1]
        local = f"{invite.header('To')};tag={tag}"
        return cls(peer, invite.header("Call-ID"), local, invite.header("From"), target, invite.values("Record-Route"), link)

    def send(self, method, cseq=None, headers=(), body=b"", link=None):
        """Along the route set: to its first entry, or to the link given."""
        if cseq is None:
            self.cseq += 1
            cseq = self.cseq
        lines = [
            f"{method} {self.target} SIP/2.0",
            f"Via: SIP/2.0/{self.peer.transport.upper()} {self.peer.host};branch=z9hG4bK{token()};rport",
            "Max-Forwards: 70",
            *(f"Route: {route}" for route in self.routes),
            f"From: {self.local}",
            f"To: {self.remote}",
            f"Call-ID: {self.call_id}",
            f"CSeq: {cseq} {method}",
            f"Contact: <{self.peer.contact}>",
            *headers,
            f"Content-Length: {len(body)}",
        ]
        (link or self.link).send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def route_host(value):
    """Host, port and transport of a Route or Record-Route value."""
    found = re.match(r"<(sips?):(?:[^@>]*@)?(\[[^\]]+\]|[^:;>]+)(?::(\d+))?([^>]*)>", value)
    transport = re.search(r"transport=(\w+)", found[4])
    transport = transport[1].lower() if transport else ("tls" if found[1] == "sips" else "udp")
    return found[2].strip("[]"), int(found[3] or (5061 if transport == "tls" else 5060)), transport


def quiet_port():
    """A port free for UDP and TCP, of those that the kernel gives to nobody by itself: not even a connection has it a moment later."""
    while True:
        port = random.randrange(10_000, 19_000)
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram, contextlib.suppress(OSError):
            stream.bind(("127.0.0.1", port))
            datagram.bind(("127.0.0.1", port))
            return port


class Proxy(Edge):
    """An edge with more in its [sip] section (limits as `limits`, trust as `sip`), on ports that stay free."""

    def __init__(self, home, proxy, *, listeners="", limits="", sip="", **options):
        super().__init__(home, proxy, **options)
        whole = self.config.read_text()
        for name in ("sip", "sips", "http"):
            port = quiet_port()
            whole = whole.replace(f':{getattr(self, name)}"', f':{port}"')
            setattr(self, name, port)
        whole = whole.replace("[sip.limits]\n", f"{listeners}[sip.limits]\n{limits}", 1).replace("[recording]\n", f"{sip}[recording]\n", 1)
        whole = whole.replace("@SIP@", str(self.sip))
        self.config.write_text(whole)
        self.base = whole.split("[proxy]\n")[0]

    def port(self, transport):
        return self.sips if transport == "tls" else self.sip

    def link(self, peer):
        """The way of a peer to this edge over its own transport."""
        return peer.to(self.ip, self.port(peer.transport))

    def well(self):
        assert "panicked" not in self.log.read_text(errors="replace"), self.tail()
        assert self.process.poll() is None, self.tail()
