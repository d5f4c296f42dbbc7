"""A small authoritative DNS server (UDP and TCP, loopback) that fails on command.

    dns = Dns('''
        _sip._udp.rec.example 30 SRV 1 50 5060 a.rec.example
        a.rec.example 30 A 127.0.0.1
    ''')
    dns.start()                     # dns.port, dns.address
    dns.set_mode("slow", delay=5)
    dns.replace("a.rec.example 30 A 127.0.0.2")
    dns.stop()                      # nobody listens there; start() takes the same port again

Modes: ok, slow (the truth after `delay` seconds), silent (reads, never answers), servfail, nxdomain, refused, nodata, truncate (UDP
answers are empty and say so, TCP has the truth), garbage (bytes that are no DNS message). A mode may be set for some kinds or
names of records alone. Kinds: A, AAAA, SRV, NAPTR (`order preference flags service replacement`), CNAME, TXT.

As a program it takes commands line by line and answers each with a line; it ends with its input:

    start | stop | mode NAME [delay=S] [kinds=SRV,A] [name=x.example] | add RECORD | replace RECORD | remove NAME [KIND]
    | clear | count [KIND] [NAME] | forget
"""

import ipaddress
import socket
import struct
import sys
import threading
import time

KINDS = {"A": 1, "CNAME": 5, "SOA": 6, "TXT": 16, "AAAA": 28, "SRV": 33, "NAPTR": 35, "OPT": 41, "ANY": 255}
NAMES = {number: kind for kind, number in KINDS.items()}
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
CODES = {"servfail": SERVFAIL, "nxdomain": NXDOMAIN, "refused": REFUSED}
MODES = ("ok", "slow", "silent", "nodata", "truncate", "garbage", *CODES)
# A thread that waits looks this often whether the server was stopped, in seconds.
POLL = 0.1


def plain(name):
    return name.rstrip(".").lower()


def wire_name(name):
    labels = [label.encode() for label in name.rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def text(value):
    return bytes([len(value)]) + value.encode()


class Record:
    """One line of a zone: `name ttl KIND data`."""

    def __init__(self, line):
        name, ttl, kind, *data = line.split()
        self.name, self.ttl, self.kind = plain(name), int(ttl), kind.upper()
        self.data = data
        self.target = plain(data[0]) if self.kind == "CNAME" else None
        self.wire = self._wire()

    def _wire(self):
        data = self.data
        if self.kind in ("A", "AAAA"):
            return ipaddress.ip_address(data[0]).packed
        if self.kind == "SRV":
            return struct.pack("!3H", *map(int, data[:3])) + wire_name(data[3])
        if self.kind == "NAPTR":
            order, preference, flags, service, replacement = data
            numbers = struct.pack("!2H", int(order), int(preference))
            return numbers + text(flags) + text(service) + text("") + wire_name(replacement)
        if self.kind == "CNAME":
            return wire_name(data[0])
        if self.kind == "TXT":
            return text(" ".join(data))
        raise ValueError(f"no such kind of record: {self.kind}")

    def whole(self):
        return wire_name(self.name) + struct.pack("!2HIH", KINDS[self.kind], 1, self.ttl, len(self.wire)) + self.wire


class Query:
    """The question of a message; raises what a broken one raises."""

    def __init__(self, message, over):
        self.id, flags, questions, _, _, more = struct.unpack_from("!6H", message)
        if flags & 0x8000 or questions != 1:
            raise ValueError("not a question")
        self.over, self.recursion = over, flags & 0x0100
        labels, at = [], 12
        while message[at]:
            if message[at] > 63:
                raise ValueError("a pointer in a question")
            labels.append(message[at + 1 : at + 1 + message[at]].decode("ascii"))
            at += 1 + message[at]
        number, _ = struct.unpack_from("!2H", message, at + 1)
        self.question = message[12 : at + 5]
        self.name, self.kind = plain(".".join(labels)), NAMES.get(number, str(number))
        self.room = 512
        # EDNS (RFC 6891): what stands behind the question is an OPT record of the root.
        if more and message[at + 5 : at + 8] == b"\0" + struct.pack("!H", KINDS["OPT"]):
            self.room = max(512, struct.unpack_from("!H", message, at + 8)[0])
        if over == "tcp":
            self.room = 65535


class Dns:
    def __init__(self, records="", host="127.0.0.1", port=0):
        self.host, self.port = host, port
        self.lock = threading.Lock()
        self.records = []
        self.modes = []
        # (monotonic time, "udp" or "tcp", kind, name) of each question, also of those that get no answer.
        self.queries = []
        self._running = None
        self._threads = []
        self.add(records)
        self.set_mode("ok")

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    # Records

    def add(self, lines):
        records = [Record(line) for line in lines.splitlines() if line.strip()]
        with self.lock:
            self.records += records

    def replace(self, lines):
        """Puts the records in the place of all that have their names and kinds."""
        records = [Record(line) for line in lines.splitlines() if line.strip()]
        gone = {(record.name, record.kind) for record in records}
        with self.lock:
            self.records = [record for record in self.records if (record.name, record.kind) not in gone] + records

    def remove(self, name, kind=None):
        with self.lock:
            self.records = [r for r in self.records if r.name != plain(name) or kind not in (None, r.kind)]

    def clear(self):
        with self.lock:
            self.records = []

    # Behaviour

    def set_mode(self, mode, delay=5.0, kinds=None, name=None):
        """For all questions, which ends what was set before; or for those of some kinds or a name, until the next one for all."""
        if mode not in MODES:
            raise ValueError(f"no such mode: {mode}")
        rule = (mode, float(delay), kinds and {kind.upper() for kind in kinds}, name and plain(name))
        with self.lock:
            self.modes = [rule] if not kinds and not name else [rule] + self.modes

    def _mode_of(self, query):
        for mode, delay, kinds, name in self.modes:
            if (not kinds or query.kind in kinds) and (not name or query.name == name):
                return mode, delay
        return "ok", 0.0

    # What was asked

    def count(self, kind=None, name=None, over=None):
        with self.lock:
            fits = [q for q in self.queries if kind in (None, q[2]) and (name is None or q[3] == plain(name)) and over in (None, q[1])]
        return len(fits)

    def forget(self):
        with self.lock:
            self.queries = []

    # Running

    def start(self):
        if self._running:
            return self
        udp, listener = self._bind()
        running = self._running = threading.Event()
        running.set()
        self._udp, self._listener = udp, listener
        self._threads = [
            threading.Thread(target=self._serve_udp, args=(udp, running), daemon=True),
            threading.Thread(target=self._serve_tcp, args=(listener, running), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        return self

    def stop(self):
        """Nobody listens on the port when this returns; answers that were to come late do not come."""
        if not self._running:
            return
        self._running.clear()
        self._running = None
        for thread in self._threads:
            thread.join()
        self._udp.close()
        self._listener.close()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def _bind(self):
        for _ in range(100):
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                udp.bind((self.host, self.port))
                listener.bind((self.host, udp.getsockname()[1]))
                listener.listen(64)
            except OSError:
                udp.close()
                listener.close()
                if self.port:
                    time.sleep(POLL)
                continue
            self.port = udp.getsockname()[1]
            for server in (udp, listener):
                server.settimeout(POLL)
            return udp, listener
        raise OSError(f"no port for DNS on {self.host}")

    def _serve_udp(self, udp, running):
        while running.is_set():
            try:
                message, peer = udp.recvfrom(4096)
            except OSError:
                # The time-out, or an ICMP error of an answer that nobody wanted.
                continue
            self._take(message, "udp", lambda answer, peer=peer: udp.sendto(answer, peer), running)

    def _serve_tcp(self, listener, running):
        while running.is_set():
            try:
                client, _ = listener.accept()
            except OSError:
                continue
            threading.Thread(target=self._serve_client, args=(client, running), daemon=True).start()

    def _serve_client(self, client, running):
        lock = threading.Lock()

        def send(answer):
            with lock:
                client.sendall(struct.pack("!H", len(answer)) + answer)

        client.settimeout(POLL)
        data = b""
        with client:
            while running.is_set():
                try:
                    more = client.recv(65536)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if not more:
                    return
                data += more
                while len(data) >= 2 and len(data) >= 2 + int.from_bytes(data[:2], "big"):
                    length = int.from_bytes(data[:2], "big")
                    message, data = data[2 : 2 + length], data[2 + length :]
                    self._take(message, "tcp", send, running)

    def _take(self, message, over, send, running):
        try:
            query = Query(message, over)
        except (ValueError, IndexError, UnicodeDecodeError, struct.error):
            return
        with self.lock:
            self.queries.append((time.monotonic(), over, query.kind, query.name))
            mode, delay = self._mode_of(query)
            answer = self._answer(query, mode)

        def deliver():
            try:
                if running.is_set():
                    send(answer)
            except OSError:
                pass

        if mode == "silent":
            return
        if mode == "slow":
            timer = threading.Timer(delay, deliver)
            timer.daemon = True
            timer.start()
        else:
            deliver()

    def _answer(self, query, mode):
        if mode == "garbage":
            return b"\xff" * 40
        if mode in CODES:
            return self._message(query, CODES[mode])
        if mode == "nodata":
            return self._message(query, NOERROR)
        name, answers = query.name, []
        for _ in range(8):
            found = [r for r in self.records if r.name == name and query.kind in (r.kind, "ANY")]
            alias = next((r for r in self.records if r.name == name and r.kind == "CNAME"), None)
            if found or alias is None:
                answers += found
                break
            answers.append(alias)
            name = alias.target
        # A name exists when it, or one below it, has a record (RFC 8020).
        exists = any(r.name == name or r.name.endswith("." + name) for r in self.records)
        whole = self._message(query, NOERROR if exists else NXDOMAIN, answers)
        if query.over == "udp" and (mode == "truncate" or len(whole) > query.room):
            return self._message(query, NOERROR, truncated=True)
        return whole

    def _message(self, query, code, answers=(), truncated=False):
        flags = 0x8480 | query.recursion | (0x0200 if truncated else 0) | code
        authority = b""
        if not answers and code in (NOERROR, NXDOMAIN) and not truncated:
            zone = ".".join(query.name.split(".")[-2:])
            data = wire_name(f"ns.{zone}") + wire_name(f"hostmaster.{zone}") + struct.pack("!5I", 1, 3600, 600, 86400, 5)
            authority = wire_name(zone) + struct.pack("!2HIH", KINDS["SOA"], 1, 5, len(data)) + data
        head = struct.pack("!6H", query.id, flags, 1, len(answers), 1 if authority else 0, 0)
        return head + query.question + b"".join(record.whole() for record in answers) + authority


def command(dns, line):
    verb, _, rest = line.strip().partition(" ")
    if verb in ("start", "stop", "clear", "forget"):
        getattr(dns, verb)()
    elif verb in ("add", "replace"):
        getattr(dns, verb)(rest)
    elif verb == "remove":
        dns.remove(*rest.split())
    elif verb == "count":
        return str(dns.count(*rest.split()))
    elif verb == "mode":
        mode, *options = rest.split()
        options = dict(option.split("=", 1) for option in options)
        if "kinds" in options:
            options["kinds"] = options["kinds"].split(",")
        dns.set_mode(mode, **options)
    else:
        raise ValueError(f"no such command: {verb}")
    return "ok"


def main():
    dns = Dns().start()
    print(dns.port, flush=True)
    for line in sys.stdin:
        try:
            print(command(dns, line), flush=True)
        except (ValueError, TypeError, OSError) as error:
            print(f"error: {error}", flush=True)


if __name__ == "__main__":
    main()
