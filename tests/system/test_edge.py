"""The proxy on the wire, message by message: scripted peers over UDP, TCP and TLS around the real binary."""

import contextlib
import json
import random
import re
import signal
import socket
import ssl
import struct
import subprocess
import time

from lib.certificates import certificates
from lib.dns import Dns
from lib.edge import group
from lib.node import ROOT, folder, wait
from lib.peer import Message, Peer, Proxy, Side, final, quiet_port, route_host, token

TRANSPORTS = ("udp", "tcp", "tls")


def to(prefix, uri, more=""):
    """A route for users that begin so."""
    return f'[[proxy.route]]\nmatch = {{ user_prefix = "{prefix}" }}\nto = "{uri}"\n{more}'


def uri_of(peer):
    return f"sip:{peer.host};transport={peer.transport}"


def listen(transport, address):
    return f'[[sip.listen]]\ntransport = "{transport}"\naddress = "{address}"\n'


@contextlib.contextmanager
def between(name, make, *, callee="udp", caller="udp", **options):
    """An edge with one callee behind it, that takes every user, and one caller."""
    home = folder(name)
    certs = certificates(home) if "tls" in (callee, caller) else None
    with Peer(callee, certificates=certs) as b, Peer(caller, certificates=certs) as a:
        with Proxy(home, make(b), tls=certs, **options) as edge:
            yield edge, a, b
            edge.well()


def everything_to(peer, before=""):
    return f'{before}[[proxy.route]]\nto = "{uri_of(peer)}"\n'


def invite(edge, a, user="x", **options):
    """Sends an INVITE; returns it as a message."""
    raw = a.request("INVITE", f"sip:{user}@example.com", **options)
    edge.link(a).send(raw)
    return Message(raw)


def ack_of(raw, response):
    """The ACK to a refusal, as RFC 3261 17.1.1.3 makes it."""
    request = Message(raw) if isinstance(raw, bytes) else raw
    lines = [f"ACK {request.uri} SIP/2.0".encode()]
    for line in request.lines:
        name = Message.name_of(line)
        if name in (b"via", b"from", b"call-id", b"max-forwards", b"route"):
            lines.append(line)
        elif name == b"to":
            lines.append(f"To: {response.header('To')}".encode())
        elif name == b"cseq":
            lines.append(line.replace(b"INVITE", b"ACK"))
    return b"\r\n".join([*lines, b"Content-Length: 0", b"", b""])


def cancel_of(raw):
    """The CANCEL of a request (9.1)."""
    request = Message(raw) if isinstance(raw, bytes) else raw
    lines = [f"CANCEL {request.uri} SIP/2.0".encode()]
    for line in request.lines:
        name = Message.name_of(line)
        if name in (b"via", b"from", b"to", b"call-id", b"max-forwards", b"route"):
            lines.append(line)
        elif name == b"cseq":
            lines.append(line.replace(b"INVITE", b"CANCEL"))
    return b"\r\n".join([*lines, b"Content-Length: 0", b"", b""])


# ---- transports -------------------------------------------------------------------------------------------------------


def whole_call(a, b, edge, *, target, ip_a="127.0.0.1", ip_b="127.0.0.1"):
    """A call with requests from both sides, all of them through the edge."""
    link = a.to(ip_a, edge.port(a.transport))
    raw = a.request("INVITE", f"sip:{target}@example.com", body=b"v=0\r\n", headers=("Content-Type: application/sdp",))
    link.send(raw)
    got = b.receive("INVITE")
    assert got.header("Via").startswith(f"SIP/2.0/{b.transport.upper()} "), got
    routes = got.values("Record-Route")
    crossing = (a.transport, ip_a) != (b.transport, ip_b)
    assert len(routes) == 1 + crossing, got
    sides = [(ip_b, edge.port(b.transport), b.transport), (ip_a, edge.port(a.transport), a.transport)]
    assert [route_host(route) for route in routes] == sides[: 1 + crossing], got
    assert all(";lr" in route for route in routes)
    tag = token()
    got.reply(180, "Ringing", tag=tag)
    got.reply(200, "OK", tag=tag, headers=(f"Contact: <{b.contact}>",))
    assert a.receive(180).values("Record-Route") == routes
    ok = a.receive(200)
    assert ok.values("Record-Route") == routes and len(ok.all("Via")) == 1, ok
    caller, callee = Side.caller(a, ok, link), Side.callee(b, got, tag, got.link)
    # What a user agent does: it sends to the first URI of its route set.
    for side, (ip, port, transport) in ((caller, sides[-1]), (callee, sides[0])):
        assert route_host(side.routes[0]) == (ip, port, transport)
        side.link = side.peer.to(ip, port)
    caller.send("ACK", cseq=1)
    ack = b.receive("ACK")
    assert ack.uri == b.contact and not ack.all("Route"), ack
    assert ack.header("Via").startswith(f"SIP/2.0/{b.transport.upper()} "), ack
    callee.send("INVITE")
    again = a.receive("INVITE")
    assert again.uri == a.contact and not again.all("Route"), again
    assert again.header("Via").startswith(f"SIP/2.0/{a.transport.upper()} "), again
    again.reply(200, "OK", headers=(f"Contact: <{a.contact}>",))
    b.receive(lambda m: m.status == 200 and m.key == "INVITE")
    callee.send("ACK", cseq=101)
    assert a.receive("ACK").uri == a.contact
    for side, other in ((callee, a), (caller, b)):
        side.send("INFO")
        other.receive("INFO").reply(200)
        side.peer.receive(lambda m: m.status == 200 and m.key == "INFO")
    caller.send("BYE")
    b.receive("BYE").reply(200)
    a.receive(lambda m: m.status == 200 and m.key == "BYE")


def test_calls_between_all_transports_go_through_both_ways():
    home = folder("edge-transports")
    certs = certificates(home)
    with contextlib.ExitStack() as stack:
        peer = lambda transport: stack.enter_context(Peer(transport, certificates=certs))
        callees = {transport: peer(transport) for transport in TRANSPORTS}
        callers = {transport: peer(transport) for transport in TRANSPORTS}
        routes = "".join(to(f"to-{transport}", uri_of(callee)) for transport, callee in callees.items())
        edge = stack.enter_context(Proxy(home, f"record_route = true\n{routes}", tls=certs))
        for a in TRANSPORTS:
            for b in TRANSPORTS:
                try:
                    whole_call(callers[a], callees[b], edge, target=f"to-{b}")
                except AssertionError as error:
                    raise AssertionError(f"from {a} to {b}: {error}") from error
        # Nine calls came over one connection each way.
        assert all(callees[transport].accepted <= 2 for transport in ("tcp", "tls")), [c.accepted for c in callees.values()]
        edge.well()


def test_calls_between_ipv4_and_ipv6_go_through_both_ways():
    home = folder("edge-ipv6")
    with contextlib.ExitStack() as stack:
        peers = {(transport, ip): [stack.enter_context(Peer(transport, ip)) for _ in range(2)]
                 for transport in ("udp", "tcp") for ip in ("127.0.0.1", "::1")}
        routes = "".join(to(f"to-{transport}-{len(ip)}", uri_of(pair[1])) for (transport, ip), pair in peers.items())
        listeners = listen("udp", "[::1]:@SIP@") + listen("tcp", "[::1]:@SIP@")
        edge = stack.enter_context(Proxy(home, f"record_route = true\n{routes}", listeners=listeners))
        for (transport, ip), (caller, _) in peers.items():
            for (other, there), (_, callee) in peers.items():
                if ip != there or "::" in ip:
                    try:
                        whole_call(caller, callee, edge, target=f"to-{other}-{len(there)}", ip_a=ip, ip_b=there)
                    except AssertionError as error:
                        raise AssertionError(f"from {transport} {ip} to {other} {there}: {error}") from error
        edge.well()


def test_connections_are_reused_both_ways():
    with between("edge-reuse", everything_to, callee="tcp", caller="tcp") as (edge, a, b):
        for _ in range(5):
            edge.link(a).send(a.request("MESSAGE", "sip:x@example.com"))
            b.receive("MESSAGE").reply(200)
            a.receive(200)
        assert (b.accepted, len(a.links)) == (1, 1)
        # Answers, and requests of the element's own, come over the connection that is there.
        link = b.links[0]
        link.send(b.request("MESSAGE", "sip:y@example.com"))
        b.receive("MESSAGE").reply(200)
        b.receive(lambda m: m.status == 200 and m.link is link)
        assert b.accepted == 1


def test_the_answer_finds_a_caller_whose_connection_is_gone():
    """RFC 3261 18.2.2: over a new connection to what Via says."""
    with between("edge-gone", everything_to, caller="tcp") as (edge, a, b):
        link = edge.link(a)
        link.send(a.request("INVITE", "sip:x@example.com"))
        got = b.receive("INVITE")
        a.receive(100)
        link.close()
        time.sleep(0.2)
        got.reply(200, "OK", tag="t", headers=(f"Contact: <{b.contact}>",))
        ok = a.receive(200)
        assert ok.link is not link and a.accepted == 1, ok


def test_an_answer_that_can_go_nowhere_costs_nothing_else():
    with between("edge-nowhere", everything_to, caller="tcp") as (edge, a, b):
        link = edge.link(a)
        # Nobody listens at the port that Via names.
        link.send(a.request("MESSAGE", "sip:x@example.com", host=f"127.0.0.1:{quiet_port()}"))
        got = b.receive("MESSAGE")
        link.close(abort=True)
        time.sleep(0.2)
        got.reply(200)
        edge.link(a).send(a.request("MESSAGE", "sip:x@example.com"))
        b.receive("MESSAGE").reply(200)
        a.receive(200)


def test_answers_go_where_via_and_the_source_say():
    """RFC 3261 18.2.2 and RFC 3581: with `rport` to the port it came from, else to that of Via; always to the source's address."""
    with between("edge-rport", everything_to) as (edge, a, b), Peer() as other:
        for via, receiver in ((f"127.0.0.1:{other.port};branch=z9hG4bK{token()};rport", a), (f"127.0.0.1:{other.port};branch=z9hG4bK{token()}", other),
                              (f"192.0.2.1:{other.port};branch=z9hG4bK{token()}", other), (f"host.invalid:1;branch=z9hG4bK{token()};rport", a),
                              (f"127.0.0.1:{other.port};rport;received=192.0.2.9;branch=z9hG4bK{token()}", a)):
            raw = a.request("MESSAGE", "sip:x@example.com")
            edge.link(a).send(re.sub(rb"Via: SIP/2.0/UDP [^\r]*", b"Via: SIP/2.0/UDP " + via.encode(), raw))
            b.receive("MESSAGE").reply(200)
            ok = receiver.receive(200)
            assert ok.link.remote[1] == edge.sip
            if ";rport" in via:
                assert f"rport={a.port}" in ok.header("Via") and "received=127.0.0.1" in ok.header("Via"), ok


def test_an_element_with_a_certificate_of_somebody_else_gets_nothing():
    home = folder("edge-foreign")
    (home / "other").mkdir()
    certs, foreign = certificates(home), certificates(home / "other")
    with Peer("tls", certificates=foreign) as b, Peer() as a, Proxy(home, everything_to(b), tls=certs) as edge:
        began = time.monotonic()
        edge.link(a).send(a.request("MESSAGE", "sip:x@example.com"))
        assert a.receive(final).status in (500, 503) and time.monotonic() - began < 3
        assert not b.seen
        edge.well()


def test_a_connection_that_breaks_before_the_answer_ends_the_request_at_once():
    with between("edge-broken", everything_to, callee="tcp") as (edge, a, b):
        edge.link(a).send(a.request("MESSAGE", "sip:x@example.com"))
        b.receive("MESSAGE").link.close(abort=True)
        began = time.monotonic()
        status = a.receive(final).status
        assert 500 <= status <= 504 and time.monotonic() - began < 1, status


def test_a_request_beyond_the_mtu_goes_by_tcp_and_falls_back_to_udp():
    """RFC 3261 18.1.1."""
    home = folder("edge-mtu")
    big = b"x" * 1400
    with Peer() as a, Peer("tcp") as both, Peer("udp", port=both.port) as same, Peer() as only:
        routes = to("both", f"sip:{same.host};transport=udp") + to("only", f"sip:{only.host};transport=udp") + to("bare", f"sip:{same.host}")
        with Proxy(home, f"record_route = true\n{routes}") as edge:
            for user in ("both", "bare"):
                edge.link(a).send(a.request("MESSAGE", f"sip:{user}@example.com", body=b"small"))
                same.receive("MESSAGE").reply(200)
                a.receive(200)
                edge.link(a).send(a.request("MESSAGE", f"sip:{user}@example.com", body=big))
                got = both.receive("MESSAGE")
                assert got.header("Via").startswith("SIP/2.0/TCP ") and got.body == big, got
                got.reply(200)
                a.receive(200)
            # A dialog that began so stays where it is: two Record-Routes.
            edge.link(a).send(a.request("INVITE", "sip:both@example.com", body=big))
            got = both.receive("INVITE")
            assert [route_host(r)[2] for r in got.values("Record-Route")] == ["tcp", "udp"], got
            got.reply(486, tag="x")
            a.receive(486)
            for _ in range(2):
                began = time.monotonic()
                edge.link(a).send(a.request("MESSAGE", "sip:only@example.com", body=big))
                got = only.receive("MESSAGE")
                assert got.header("Via").startswith("SIP/2.0/UDP ") and got.body == big, got
                assert time.monotonic() - began < 1.5
                got.reply(200)
                a.receive(200)
            edge.well()


def test_keep_alives_are_answered_and_disturb_nothing():
    with between("edge-keepalive", everything_to, caller="tcp") as (edge, a, b), Peer() as u:
        link = edge.link(a)
        request = lambda peer: peer.request("MESSAGE", "sip:x@example.com")
        link.send(b"\r\n\r\n" + request(a))
        b.receive("MESSAGE").reply(200)
        a.receive(200)
        wait(lambda: link.pongs >= 1, 2, "a pong")
        link.send(b"\r\n" + request(a) + b"\r\n\r\n")
        b.receive("MESSAGE").reply(200)
        a.receive(200)
        wait(lambda: link.pongs >= 2, 2, "another pong")
        pieces = request(a)
        for at in range(0, len(pieces), 40):
            link.send(pieces[at : at + 40])
            time.sleep(0.002)
        b.receive("MESSAGE").reply(200)
        a.receive(200)
        # Two in one piece.
        link.send(request(a) + request(a))
        for _ in range(2):
            b.receive("MESSAGE").reply(200)
        for _ in range(2):
            a.receive(200)
        way = edge.link(u)
        for data in (b"\r\n\r\n", b"\0\0\0\0", b"\0"):
            way.send(data)
        way.send(b"\r\n" + request(u))
        b.receive("MESSAGE").reply(200)
        u.receive(200)
        u.none(seconds=0.2)


# ---- bytes ------------------------------------------------------------------------------------------------------------


def untouched(sent, got, *, response=False):
    """Asserts that a message passed as RFC 3261 16.6 and 16.7 allow: one Via more or less, what Via learned, Max-Forwards."""
    cut = lambda raw: re.split(rb"\r\n(?![ \t])", raw.partition(b"\r\n\r\n")[0])
    before, after = cut(sent), cut(got)
    is_via = lambda line: Message.name_of(line) == b"via"
    place = next(at for at, line in enumerate(before if response else after) if is_via(line))
    if response:
        # Ours came back as it had gone; it may stand in one line with the next.
        first, comma, rest = before[place].partition(b",")
        before[place : place + 1] = [first.split(b":")[0] + b":" + rest] if comma else []
    else:
        del after[place]
    squeeze = lambda line: re.sub(rb"^([^:]*?)\s*:\s*", rb"\1:", line)
    assert len(before) == len(after), (before, after)
    first_via = True
    for had, has in zip(before, after):
        if is_via(had) and not response and first_via:
            # The sender's own, which learns where it came from.
            first_via = False
            had, has = (re.sub(rb"^[^:]*:\s*|\s*(/)\s*", rb"\1", line) for line in (had, has))
            has = re.sub(rb";received=127[^;,\s]+", b"", re.sub(rb";rport=\d+", b";rport", has))
        if Message.name_of(had) == b"max-forwards" and not response:
            assert int(has.split(b":")[1]) == int(had.split(b":")[1]) - 1, (had, has)
            continue
        if is_via(had) and response:
            had, has = squeeze(had), squeeze(has)
        assert had == has, (had, has)
    assert sent.partition(b"\r\n\r\n")[2] == got.partition(b"\r\n\r\n")[2]


ODD_LINES = [
    b"X-Empty:",
    b"x-empty-too :   ",
    b"Subject: folded\r\n   once\r\n\tand again",
    b"sUBJECT:and another",
    b"X-Latin: caf\xe9 \xff\xfe",
    b"X-Utf8: \xe2\x82\xac\xf0\x9f\x8e\xa7",
    b"k: timer,  100rel ,replaces",
    b"Supported: path",
    b"Allow: INVITE, ACK",
    b"e: gzip",
    b"X-Quoted: \"a, b; c\" <sip:x@y;z>;p=\"q\\\"r\"",
    b"P-Asserted-Identity: \"A, B\" <sip:+15550100@example.com>, <tel:+15550100>",
    b"X-Long: " + b"0123456789" * 400,
    b"User-to-User: 00FA08;encoding=hex",
    b"X-Empty: not any more",
    b"Require: x-nobody-knows",
    b"Session-ID: ab30317f1a784dc48ff824d0d3715d86;remote=00000000000000000000000000000000",
    b"Date: never",
    b"Expires: a lot",
    b"!%*_+`'~: a name of odd characters",
]


def odd_requests(a):
    """Requests that no two stacks would write alike."""
    sent_by = f"{a.host};branch=z9hG4bK".encode()
    transport = a.transport.upper().encode()
    order = [line for line in ODD_LINES]
    for number, (method, body) in enumerate(
        [(b"INVITE", b"v=0\r\n"), (b"FROBNICATE", b""), (b"MESSAGE", bytes(range(256)) * 3), (b"x-M.e-t%h_o~d", b"\r\n\r\n\r\n"),
         (b"NOTIFY", b"INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n\r\n"), (b"SUBSCRIBE", b""), (b"PUBLISH", b"\0" * 100)]
    ):
        random.Random(number).shuffle(order)
        compact = number % 2 == 1
        mine = token().encode()
        via = [b"v:SIP / 2.0 / " if number == 3 else b"v: SIP/2.0/" if compact else b"Via: SIP/2.0/"][0] + transport + b" " + sent_by + mine + b";rport;x-y=\"z\""
        older = b"SIP/2.0/TCP [2001:db8::9]:5060;branch=z9hG4bKold;received=192.0.2.1"
        vias = [via + b", " + older] if number == 2 else [via, b"VIA:\t" + older]
        fixed = [
            b"Max-Forwards:  17" if number != 5 else b"MAX-FORWARDS:17",
            (b"f" if compact else b"From") + b": \"J\\\"o, \xc3\xa9\" <sip:j@example.com;x=y>;tag=" + mine + b";q",
            (b"t" if compact else b"TO") + b": <sip:odd@example.com>",
            (b"i" if compact else b"Call-ID") + b": " + mine + b"%^*!\"'`~@[]{}",
            b"CSeq:  " + str(number + 1).encode() + b"   " + method if number != 4 else b"CSeq: 004 NOTIFY",
            (b"m" if compact else b"Contact") + b": " + a.contact.encode(),
        ]
        length = (b"l" if compact else b"Content-Length") + b": " + str(len(body)).encode()
        ctype = (b"c" if compact else b"Content-Type") + b": application/x-odd;a=\"b;c\""
        lines = order[:7] + vias[:1] + order[7:10] + fixed[:3] + vias[1:] + order[10:12] + fixed[3:] + [ctype] + order[12:] + [length]
        yield method + b" sip:odd@example.com;p=%41?h=v SIP/2.0\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body


def messages_pass_as_they_are(name, transport):
    with between(name, lambda b: everything_to(b, "udp_mtu = 0\n"), callee=transport, caller=transport) as (edge, a, b):
        for sent in odd_requests(a):
            edge.link(a).send(sent)
            got = b.receive(lambda m: m.method == Message(sent).method)
            untouched(sent, got.raw)
            # And back: a provisional one and the end.
            odd = [f"{line.decode('latin-1')}" for line in reversed(ODD_LINES)]
            for status in (183, 200) if got.method == "INVITE" else (200,):
                raw = got.response(status, "R\u00e9ponse, \u20ac: ()", tag="t", headers=[], body=bytes(range(255, -1, -1)))
                head, gap, body = raw.partition(b"\r\n\r\n")
                raw = head + b"\r\n" + b"\r\n".join(line.encode("latin-1") for line in odd) + gap + body
                got.link.send(raw)
                untouched(raw, a.receive(status).raw, response=True)


def test_messages_pass_byte_for_byte_between_record_routes_of_others():
    with between("edge-bytes-routes", lambda b: everything_to(b, "udp_mtu = 0\nrecord_route = true\n"), caller="tcp") as (edge, a, b):
        lines = ["RECORD-ROUTE:<sip:p2@192.0.2.2;lr;x=y> ,  <sip:p1@192.0.2.1;lr>", "X-Between: here", "Record-Route: \"a, b\" <sip:p0@192.0.2.0>"]
        for method, recorded in (("INVITE", 2), ("SUBSCRIBE", 2), ("REFER", 2), ("MESSAGE", 0), ("PUBLISH", 0)):
            sent = a.request(method, "sip:x@example.com", headers=lines)
            edge.link(a).send(sent)
            got = b.receive(method)
            ours = [line for line in got.lines if f":{edge.sip}".encode() in line and line.startswith(b"Record-Route")]
            assert len(ours) == recorded, got
            place = got.lines.index(ours[0]) if ours else 0
            # Ours are before all others (16.6 step 4).
            assert all(b"Record-Route" not in line and b"RECORD-ROUTE" not in line for line in got.lines[:place])
            raw = got.raw
            for line in ours:
                raw = raw.replace(line + b"\r\n", b"", 1)
            untouched(sent, raw)
            got.reply(486, tag="t")
            a.receive(486)


def test_messages_pass_byte_for_byte_over_udp():
    messages_pass_as_they_are("edge-bytes-udp", "udp")


def test_messages_pass_byte_for_byte_over_tcp():
    messages_pass_as_they_are("edge-bytes-tcp", "tcp")


def test_messages_pass_byte_for_byte_over_tls():
    messages_pass_as_they_are("edge-bytes-tls", "tls")


def test_a_message_of_the_largest_size_passes_and_a_larger_one_is_refused():
    with between("edge-sizes", lambda b: everything_to(b, "udp_mtu = 0\n"), callee="tcp", caller="tcp", sip="") as (edge, a, b), Peer() as u:
        fill = lambda peer, size: peer.request("MESSAGE", "sip:x@example.com", body=b"b" * size)
        for peer, size in ((a, 60_000), (u, 60_000)):
            sent = fill(peer, size)
            edge.link(peer).send(sent)
            got = b.receive("MESSAGE")
            untouched(sent, got.raw)
            got.reply(200)
            peer.receive(200)
        link = edge.link(a)
        link.send(a.request("MESSAGE", "sip:x@example.com", body=b"b" * 70_000)[:2000])
        answer = a.receive(final)
        assert answer.status == 513, answer
        wait(link.closed.is_set, 3, "the connection to be closed: its rest cannot be found")
        # A header without end.
        link = a.connect("127.0.0.1", edge.sip)
        with contextlib.suppress(OSError):
            link.send(b"MESSAGE sip:x@example.com SIP/2.0\r\nX: " + b"x" * 100_000)
        wait(link.closed.is_set, 3, "the connection to be closed")
        b.none(seconds=0.3)


def test_the_limit_of_a_message_holds_for_every_transport():
    with between("edge-limit", everything_to, limits='max_message = "2 KiB"\n') as (edge, a, b), Peer("tcp") as t:
        for peer in (a, t):
            edge.link(peer).send(peer.request("MESSAGE", "sip:x@example.com", body=b"s" * 1000))
            got = b.receive("MESSAGE")
            assert got.body == b"s" * 1000
            got.reply(200)
            peer.receive(200)
            edge.link(peer).send(peer.request("MESSAGE", "sip:x@example.com", body=b"l" * 2000))
            assert peer.receive(final).status == 513, peer.transport
        b.none(seconds=0.3)


# ---- RFC 4475 and RFC 5118 --------------------------------------------------------------------------------------------

# What a proxy owes each message. mpart01 and the BYE of 5118 4.5 lead where nobody is. "go": it goes on; "drop": no answer, nothing goes on; numbers: that answer; several: either will do.
TORTURE = {
    "wsinv": "go", "intmeth": "go", "esc01": "go", "escnull": "go", "esc02": "go", "lwsdisp": "go", "longreq": "go", "dblreq": "go",
    "semiuri": "go", "transports": "go", "mpart01": "500", "badinv01": "400", "clerr": "400", "ncl": "400", "scalar02": "400 go",
    "quotbal": "400", "ltgtruri": "400 go", "lwsruri": "400", "lwsstart": "400 go", "trws": "400 go", "escruri": "400 go",
    "baddate": "400 go", "regbadct": "400 go", "badaspec": "400 go", "baddn": "400 go", "baddn-term": "400 go", "badvers": "505",
    "mismatch01": "400", "mismatch02": "400 501", "badbranch": "go", "insuf": "400", "unkscm": "416", "novelsc": "416", "unksm2": "go 400",
    "bext01": "420", "invut": "go", "regaut01": "go", "multi01": "400", "mcl01": "400", "zeromf": "483", "cparam01": "go", "cparam02": "go",
    "regescrt": "go", "sdp01": "go", "inv2543": "go", "test": "400 drop",
    "unreason": "drop", "noreason": "drop", "scalarlg": "drop", "bigcode": "drop", "bcast": "drop",
    "v6-ipv6-good": "go", "v6-ipv6-bad": "400", "v6-port-ambiguous": "go", "v6-port-unambiguous": "go", "v6-via-received-param-with-delim": "500",
    "v6-via-received-param-no-delim": "go", "v6-ipv6-in-sdp": "go", "v6-mult-ip-in-header": "go", "v6-mult-ip-in-sdp": "go",
    "v6-ipv4-mapped-ipv6": "go", "v6-ipv6-bug-abnf-3-colons": "go 400", "v6-ipv6-correct-abnf-2-colons": "go",
}
# In a stream these cannot be told apart from what follows.
NOT_IN_STREAMS = {"clerr", "ncl", "dblreq", "mcl01", "test", "baddn", "inv2543"}


def torture(transport):
    """Sends every message, each from an address of its own, to which its answers come whatever its Via says."""
    home = folder(f"edge-torture-{transport}")
    net = random.randrange(2, 250)
    outcome, branches = {}, set()
    with Peer("udp") as b, Dns("\n".join(f"_sip._udp.{name} 30 SRV 1 1 {b.port} b.example" for name in ("services.example.com", "host.example.net")) + "\nb.example 30 A 127.0.0.1") as dns, \
            Proxy(home, everything_to(b, f'udp_mtu = 0\ndns = ["{dns.address}"]\n')) as edge:
        for number, path in enumerate(sorted((ROOT / "testdata" / "sip-torture").glob("*.dat"))):
            name, sent = path.stem, path.read_bytes()
            assert name in TORTURE, f"{name}: what is expected?"
            via = re.search(rb"SIP\s*/\s*2\.0\s*/\s*\w+\s+(?:\[[^\]]*\]|[^\s:;,]+)\s*(?::\s*(\d+))?", sent)
            port = int(via[1]) if via and via[1] else 5060
            branch = re.search(rb"branch=(z9hG4bK\w+)", sent)
            if branch and branch[1] in branches:
                # Several have the same, and would be copies of each other.
                sent = sent.replace(branch[1], branch[1] + str(number).encode(), 1)
            branches.add(branch and branch[1])
            with Peer("udp", f"127.{net}.{number + 1}.1", port) as a, Peer("tcp", f"127.{net}.{number + 1}.1") as t:
                if transport == "udp":
                    edge.link(a).send(sent)
                else:
                    t.connect("127.0.0.1", edge.sip, source=(t.ip, 0)).send(sent)
                answers, went = [], None
                end = time.monotonic() + 0.25
                while time.monotonic() < end:
                    answers = [m.status for m in a.seen + t.seen if m.status >= 200]
                    went = next((m for m in b.seen if m.method), None)
                    if answers or went:
                        break
                    time.sleep(0.005)
                outcome[name] = str(answers[0]) if answers else "go" if went else "drop"
                if went:
                    went.reply(200, tag="t")
                    time.sleep(0.02)
            for more in b.seen:
                more.reply(200, tag="t")
            b.seen.clear()
        edge.well()
        # It is as ready as before.
        with Peer() as a:
            edge.link(a).send(a.request("OPTIONS", "sip:x@example.com", call_id="the-last"))
            b.receive(lambda m: m.header("Call-ID") == "the-last").reply(200)
            a.receive(200)
    return outcome


def judged(outcome, skip=()):
    wrong = {name: (seen, TORTURE[name]) for name, seen in outcome.items() if name not in skip and seen not in TORTURE[name].split()}
    assert not wrong, "\n".join(f"{name}: {seen}, expected {wanted}" for name, (seen, wanted) in wrong.items())


def test_the_torture_messages_get_what_they_deserve_over_udp():
    judged(torture("udp"))


def test_the_torture_messages_get_what_they_deserve_over_tcp():
    judged(torture("tcp"), NOT_IN_STREAMS)


# ---- transactions -----------------------------------------------------------------------------------------------------


def ring(edge, a, b, **options):
    """An INVITE that rings; returns what was sent, what the callee got, and its tag."""
    sent = invite(edge, a, **options)
    got = b.receive("INVITE")
    tag = token()
    got.reply(180, "Ringing", tag=tag)
    a.receive(180)
    return sent, got, tag


def test_cancel_of_a_ringing_call():
    for transport in TRANSPORTS[:2]:
        with between(f"edge-cancel-{transport}", everything_to, callee=transport, caller=transport) as (edge, a, b):
            sent, got, tag = ring(edge, a, b)
            edge.link(a).send(cancel_of(sent))
            assert a.receive(lambda m: m.key == "CANCEL").status == 200
            cancel = b.receive("CANCEL")
            # The same hop, so the same Via, alone; and what 9.1 asks for.
            assert cancel.all("Via") == got.all("Via")[:1] and cancel.uri == got.uri and cancel.header("CSeq") == "1 CANCEL", cancel
            assert (cancel.header("To"), cancel.header("From"), cancel.header("Call-ID")) == (got.header("To"), got.header("From"), got.header("Call-ID"))
            cancel.reply(200)
            got.reply(487, "Request Terminated", tag=tag)
            ack = b.receive("ACK")
            assert ack.branch == got.branch and tag in ack.header("To"), ack
            refused = a.receive(487)
            assert refused.to_tag == tag
            edge.link(a).send(ack_of(sent, refused))
            for peer in (a, b):
                peer.none(lambda m: m.status >= 200 or m.method == "CANCEL", 0.6)


def test_cancel_before_anything_was_heard_waits_for_it():
    with between("edge-cancel-early", everything_to) as (edge, a, b):
        sent = invite(edge, a)
        got = b.receive("INVITE")
        edge.link(a).send(cancel_of(sent))
        assert a.receive(lambda m: m.key == "CANCEL").status == 200
        b.none("CANCEL", 0.4)
        got.reply(100, "Trying")
        b.receive("CANCEL").reply(200)
        got.reply(487, tag="t")
        b.receive("ACK")
        assert a.receive(final).status == 487


def test_cancel_that_crosses_the_answer_changes_nothing():
    with between("edge-cancel-late", everything_to) as (edge, a, b):
        sent, got, tag = ring(edge, a, b)
        got.reply(200, "OK", tag=tag, headers=(f"Contact: <{b.contact}>",))
        edge.link(a).send(cancel_of(sent))
        answers = {a.receive(final).key for _ in range(2)}
        assert answers == {"INVITE", "CANCEL"}
        b.none("CANCEL", 0.5)
        # The callee says 200 although it heard the CANCEL.
        sent, got, tag = ring(edge, a, b)
        edge.link(a).send(cancel_of(sent))
        a.receive(lambda m: m.key == "CANCEL")
        cancel = b.receive("CANCEL")
        got.reply(200, "OK", tag=tag, headers=(f"Contact: <{b.contact}>",))
        cancel.reply(200)
        assert a.receive(lambda m: m.key == "INVITE" and m.status >= 200).status == 200


def test_cancel_of_nothing_is_answered_or_goes_on():
    """16.10: without a context it is forwarded statelessly; the recorder's own answer would be 481."""
    with between("edge-cancel-nothing", everything_to) as (edge, a, b):
        stray = cancel_of(a.request("INVITE", "sip:x@example.com"))
        edge.link(a).send(stray)
        got = b.receive("CANCEL")
        got.reply(481, "No Such Call")
        assert a.receive(final).status == 481


def test_refusals_pass_with_their_contents():
    with between("edge-refusals", everything_to) as (edge, a, b):
        cases = [
            (302, "Moved", ("Contact: <sip:y@192.0.2.7>;q=0.5", "Contact: <sip:z@192.0.2.8>")),
            (401, "Who", ('WWW-Authenticate: Digest realm="a, b", nonce="n", qop="auth"',)),
            (407, "Who", ('Proxy-Authenticate: Digest realm="r", nonce="n"', 'Proxy-Authenticate: Basic realm="r"')),
            (420, "Bad", ("Unsupported: x, y",)),
            (486, "Busy", ("Retry-After: 30 (later)",)),
            (600, "Busy Everywhere", ("Warning: 399 h \"text\"",)),
            (603, "No", ()), (699, "Odd", ()), (499, "Odd", ()),
        ]
        for status, reason, headers in cases:
            sent = invite(edge, a)
            got = b.receive("INVITE")
            raw = got.response(status, reason, tag="t", headers=headers)
            got.link.send(raw)
            assert b.receive("ACK").branch == got.branch
            refused = a.receive(final)
            untouched(raw, refused.raw, response=True)
            edge.link(a).send(ack_of(sent, refused))
        # The ACK to a refusal stays with each hop.
        b.none("ACK", 0.5)


def test_a_refusal_is_repeated_until_it_is_acknowledged():
    with between("edge-lost-ack", everything_to) as (edge, a, b):
        sent = invite(edge, a)
        b.receive("INVITE").reply(486, tag="t")
        first = a.receive(486)
        assert a.receive(486, 1.0).raw == first.raw
        edge.link(a).send(ack_of(sent, first))
        time.sleep(0.1)
        a.forget()
        a.none(486, 1.5)


def test_the_ack_to_a_success_goes_end_to_end_and_its_copies_too():
    for record in (True, False):
        before = f"record_route = {str(record).lower()}\n"
        with between(f"edge-2xx-{record}", lambda b: everything_to(b, before)) as (edge, a, b):
            link = edge.link(a)
            sent = invite(edge, a)
            got = b.receive("INVITE")
            # Repeated by the callee until the ACK is there; each copy passes, none is the proxy's.
            for _ in range(3):
                got.reply(200, "OK", tag="t", headers=(f"Contact: <{b.contact}>",))
                ok = a.receive(200, 1)
            a.none(200, 0.7)
            side = Side.caller(a, ok, link)
            assert bool(side.routes) == record
            if not record:
                # It goes past us; one that comes here all the same finds its way.
                edge.link(a)
            branches = set()
            for _ in range(2):
                side.send("ACK", cseq=1)
                ack = b.receive("ACK")
                branches.add(ack.branch)
                assert ack.header("CSeq") == "1 ACK" and ack.uri == b.contact and len(ack.all("Via")) == 2, ack
                assert ack.header("Max-Forwards") == "69"
            assert got.branch not in branches
            assert sent.header("Call-ID") == ack.header("Call-ID")


def test_a_repeated_request_is_forwarded_once_and_answered_each_time():
    with between("edge-repeated", everything_to) as (edge, a, b):
        for method in ("INVITE", "MESSAGE"):
            raw = a.request(method, "sip:x@example.com")
            for _ in range(3):
                edge.link(a).send(raw)
            got = b.receive(method)
            b.none(method, 0.3)
            got.reply(486, tag="t")
            assert a.receive(final).status == 486
            edge.link(a).send(raw)
            assert a.receive(final).status == 486
            a.forget()
            b.forget()


def test_lost_requests_and_answers_are_repeated_by_the_proxy():
    with between("edge-lost", everything_to) as (edge, a, b):
        edge.link(a).send(a.request("MESSAGE", "sip:x@example.com"))
        first = b.receive("MESSAGE")
        again = b.receive("MESSAGE", 1.2)
        assert first.raw == again.raw
        again.reply(200)
        assert a.receive(final).status == 200
        invite(edge, a)
        first = b.receive("INVITE")
        again = b.receive("INVITE", 1.2)
        assert first.raw == again.raw
        again.reply(180, tag="t")
        b.none("INVITE", 1.3)


def failing_over(name):
    """Two elements that are asked one after the other."""
    home = folder(name)
    stack = contextlib.ExitStack()
    slow, quick, a = (stack.enter_context(Peer()) for _ in range(3))
    proxy = group("pool", [(slow.host, 1, 1), (quick.host, 2, 1)], heartbeat="false", more='timeout = "300ms"\n') + '[[proxy.route]]\nto = "pool"\n'
    edge = stack.enter_context(Proxy(home, proxy))
    return stack, edge, slow, quick, a


def test_a_late_success_of_an_element_that_was_given_up_reaches_the_caller():
    """RFC 6026: a 2xx is never lost. The caller ends the second dialog by itself."""
    stack, edge, slow, quick, a = failing_over("edge-late")
    with stack:
        invite(edge, a)
        late = slow.receive("INVITE")
        got = quick.receive("INVITE", 2)
        got.reply(200, "OK", tag="quick", headers=(f"Contact: <{quick.contact}>",))
        assert a.receive(200).to_tag == "quick"
        late.reply(200, "OK", tag="late", headers=(f"Contact: <{slow.contact}>",))
        ok = a.receive(200)
        assert ok.to_tag == "late" and len(ok.all("Via")) == 1, ok
        edge.well()


def test_an_element_that_was_given_up_and_rings_after_all_is_told_to_stop():
    stack, edge, slow, quick, a = failing_over("edge-late-ringing")
    with stack:
        invite(edge, a)
        late = slow.receive("INVITE")
        got = quick.receive("INVITE", 2)
        late.reply(180, tag="late")
        slow.receive("CANCEL").reply(200)
        late.reply(487, tag="late")
        slow.receive("ACK")
        got.reply(486, tag="quick")
        assert a.receive(final).status == 486
        edge.well()


def test_a_response_that_belongs_to_nothing_is_dropped():
    with between("edge-stray", everything_to) as (edge, a, b):
        link = edge.link(b)
        stranger = Message(a.request("INVITE", "sip:x@example.com"))
        via = lambda first: first + b"Via: SIP/2.0/UDP " + a.host.encode() + b";branch=z9hG4bKa\r\n"
        rest = stranger.response(200, tag="t").split(b"\r\n", 2)[2]
        ours = f"Via: SIP/2.0/UDP 127.0.0.1:{edge.sip};branch=z9hG4bKmade-up\r\n".encode()
        link.send(b"SIP/2.0 200 OK\r\n" + via(b"") + rest)
        link.send(b"SIP/2.0 200 OK\r\n" + via(ours) + rest)
        link.send(b"SIP/2.0 200 OK\r\n\r\n")
        a.none(seconds=0.5)


# ---- routing ----------------------------------------------------------------------------------------------------------


def test_hops_are_counted_and_end():
    with between("edge-hops", everything_to) as (edge, a, b):
        for method in ("INVITE", "OPTIONS", "MESSAGE", "x-odd"):
            edge.link(a).send(a.request(method, "sip:x@example.com", hops=0))
            assert a.receive(final).status == 483, method
        edge.link(a).send(a.request("ACK", "sip:x@example.com", hops=0, to_tag="t"))
        b.none(seconds=0.3)
        for hops, left in ((1, "0"), (70, "69"), (None, "70")):
            edge.link(a).send(a.request("OPTIONS", "sip:x@example.com", hops=hops))
            got = b.receive("OPTIONS")
            assert got.header("Max-Forwards") == left
            got.reply(200)
            a.receive(200)


def test_a_loop_over_a_neighbour_ends_and_a_spiral_does_not():
    with between("edge-loop", everything_to) as (edge, a, b):
        link = edge.link(b)

        def again(got, uri=None):
            """The request comes back from the callee, as from a stateless proxy."""
            start = got.start if uri is None else got.start.replace(got.uri.encode(), uri.encode())
            rest = got.raw.split(b"\r\n", 1)[1]
            link.send(start + b"\r\nVia: SIP/2.0/UDP " + f"{b.host};branch=z9hG4bK{token()}\r\n".encode() + rest)

        for method in ("INVITE", "MESSAGE"):
            edge.link(a).send(a.request(method, "sip:x@example.com"))
            got = b.receive(method)
            again(got)
            loop = b.receive(final)
            assert loop.status == 482 and b.host in loop.header("Via"), loop
            b.none(method, 0.3)
            # Changed, it is another thing, and may pass.
            again(got, "sip:y@example.com")
            second = b.receive(lambda m: m.method == method and m.uri == "sip:y@example.com")
            assert len(second.all("Via")) == 4
            second.reply(486, tag="t")
            b.receive(486)
            got.reply(486, tag="t")
            a.receive(486)
            a.forget()
            b.forget()


def test_routes_of_strict_and_loose_routers():
    with between("edge-strict", everything_to) as (edge, a, b), Peer() as c:
        us = f"127.0.0.1:{edge.sip}"
        send = lambda uri, *routes: edge.link(a).send(a.request("MESSAGE", uri, to_tag="t", headers=[f"Route: {route}" for route in routes]))

        def arrives(peer, uri, *routes):
            got = peer.receive("MESSAGE")
            assert (got.uri, got.values("Route")) == (uri, list(routes)), got
            got.reply(200)
            a.receive(200)

        # Ours is taken off, the next one is where it goes, and stays.
        send("sip:x@192.0.2.9", f"<sip:{us};lr>", f"<sip:{b.host};lr>")
        arrives(b, "sip:x@192.0.2.9", f"<sip:{b.host};lr>")
        send("sip:x@192.0.2.9", f"<sip:{us};lr>, <sip:{b.host};lr>,<sip:{c.host};lr>")
        arrives(b, "sip:x@192.0.2.9", f"<sip:{b.host};lr>", f"<sip:{c.host};lr>")
        # The next hop is a strict router: it is in the Request-URI, the target comes last.
        send("sip:x@192.0.2.9", f"<sip:{us};lr>", f"<sip:r@{b.host}>", f"<sip:{c.host};lr>")
        arrives(b, f"sip:r@{b.host}", f"<sip:{c.host};lr>", "<sip:x@192.0.2.9>")
        # Before us was one: our URI is the target, and the last Route is what was meant.
        send(f"sip:{us};lr", f"<sip:{c.host};lr>", f"<sip:x@{b.host}>")
        arrives(c, f"sip:x@{b.host}", f"<sip:{c.host};lr>")
        send(f"sip:{us};lr", f"<sip:x@{b.host}>")
        arrives(b, f"sip:x@{b.host}")
        # `lr` in other clothes, and ours without it.
        send("sip:x@192.0.2.9", f"<sip:{us};lr=on>", f"<sip:{b.host};x=y;LR=true>;p=q")
        arrives(b, "sip:x@192.0.2.9", f"<sip:{b.host};x=y;LR=true>;p=q")
        send(f"sip:x@{b.host}", f"<sip:{us}>")
        arrives(b, f"sip:x@{b.host}")
        # Without `maddr` that is ours.
        send(f"sip:x@{b.host};maddr=127.0.0.1", f"<sip:{c.host};lr>")
        got = c.receive("MESSAGE")
        got.reply(200)
        a.receive(200)


def test_a_proxy_in_between_that_forgets_lr_is_coped_with():
    """A neighbour that records itself without `lr` is a strict router to us, for the whole call."""
    with between("edge-no-lr", lambda b: everything_to(b, "record_route = true\n")) as (edge, a, b), Peer() as c:
        link = edge.link(a)
        invite(edge, a)
        got = b.receive("INVITE")
        routes = got.values("Record-Route")
        got.link.send(got.response(200, "OK", tag="t", headers=(f"Contact: <{b.contact}>",)).replace(
            b"Record-Route: ", f"Record-Route: <sip:{c.host}>\r\nRecord-Route: ".encode(), 1))
        ok = a.receive(200)
        assert ok.values("Record-Route") == [f"<sip:{c.host}>", *routes]
        side = Side.caller(a, ok, link)
        side.send("ACK", cseq=1)
        for method in ("ACK", "BYE"):
            if method == "BYE":
                side.send(method)
            seen = c.receive(method)
            assert seen.uri == f"sip:{c.host}" and seen.values("Route") == [f"<{b.contact}>"], seen


def test_uris_of_all_kinds():
    home = folder("edge-uris")
    certs = certificates(home)
    with Peer() as b, Peer() as a, Peer("tls", certificates=certs) as secure:
        sips = f"sips:x@127.0.0.1:{secure.port}"
        routes = '[[proxy.route]]\nmatch = { user_prefix = "direct" }\nto = "request-uri"\n'
        routes += f'[[proxy.route]]\nmatch = {{ user_prefix = "+1555" }}\nto = "sip:{b.host}"\n'
        routes += f'[[proxy.route]]\nmatch = {{ user_prefix = "phone" }}\nrewrite = {{ host = "{b.host}" }}\nto = "request-uri"\n'
        routes += f'[[proxy.route]]\nmatch = {{ domain = "secure.example" }}\nto = "{sips}"\n'
        routes += '[[proxy.route]]\nto = "request-uri"\n'
        with Proxy(home, routes, tls=certs) as edge:
            send = lambda uri: edge.link(a).send(a.request("MESSAGE", uri, to_uri="sip:x@example.com"))

            def arrives(peer, sent, uri=None):
                send(sent)
                got = peer.receive("MESSAGE")
                assert got.uri == (uri or sent), got
                got.reply(200)
                a.receive(200)

            arrives(b, "tel:+15550100")
            arrives(b, "tel:+1-555-0100;ext=12;phone-context=x.example")
            arrives(b, f"sip:direct@{b.host}")
            arrives(b, f"sip:direct;p=1:secret@{b.host};transport=UDP;x?Subject=%20y")
            arrives(b, f"sip:direct@192.0.2.77:{b.port};maddr=127.0.0.1")
            arrives(secure, f"sips:direct@127.0.0.1:{secure.port}")
            arrives(secure, f"sip:direct@127.0.0.1:{secure.port};transport=tls")
            arrives(secure, "sip:x@secure.example")
            arrives(secure, "sips:x@secure.example")
            for uri, statuses in (
                ("tel:+49301234", (416, 404)), ("mailto:x@y", (416,)), ("urn:service:sos", (416,)), ("nonsense", (400, 416)),
                (f"sip:direct@{b.host};transport=sctp", (500, 503, 400, 404)), (f"sip:direct@127.0.0.1:{quiet_port()}", (500, 503)),
                (f"sips:direct@127.0.0.1:{b.port};transport=udp", (400, 416, 500)),
            ):
                send(uri)
                assert a.receive(final, 8).status in statuses, uri
            # A SIPS URI never leaves by anything but TLS.
            assert not [m for m in b.seen if m.uri.startswith("sips:")]
            edge.well()


# ---- rules ------------------------------------------------------------------------------------------------------------


def test_each_condition_of_a_rule_is_met_or_not():
    recording = b"--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n--b\r\nContent-Type: application/rs-metadata+xml\r\n\r\n<recording/>\r\n--b--\r\n"
    conditions = [
        ('header = { name = "X-Kind", value = "^(a|b)$" }', "460"), ('header = { name = "x-any" }', "461"),
        ('method = "SUBSCRIBE|PUBLISH"', "462"), ('user = "^00[1-9]"', "463"), ('user_prefix = "+1408"', "464"),
        ('domain = "one.example"', "465"), ('domain = "*.two.example"', "466"), ('from = "^sip:boss@"', "467"),
        ('source = "127.8.0.0/16"', "468"), ('listener = "tcp:127.0.0.1:@SIP@"', "469"), ("siprec = true", "470"),
        ('method = "MESSAGE", user_prefix = "both", domain = "both.example"', "471"), ('user_prefix = "tenfold"', "472"),
    ]
    rules = "".join(f"[[proxy.route]]\nmatch = {{ {match} }}\nreject = {{ code = {code} }}\n" for match, code in conditions)
    rules += '[[proxy.route]]\nreject = { code = 499, reason = "None of all" }\n'
    with Peer() as a, Peer(ip="127.8.3.4") as far, Peer("tcp") as stream, Proxy(folder("edge-rules"), rules) as edge:
        def asked(uri="sip:x@example.com", method="MESSAGE", peer=a, **options):
            raw = peer.request(method, uri, **options)
            edge.link(peer).send(raw)
            answer = peer.receive(final)
            # Who asks which rule it would be hears the same.
            test = {"message": raw.decode(), "source": peer.host, "listener": {"transport": peer.transport, "address": f"127.0.0.1:{edge.sip}"}}
            told = edge.get("/api/v1/routes/test", method="POST", body=test)["rule"]
            assert told == f"route {[*(code for _, code in conditions), '499'].index(str(answer.status)) + 1}", (told, answer)
            return answer

        for wanted, options in [
            (460, dict(headers=["X-KIND:b"])), (499, dict(headers=["X-Kind: ab"])), (460, dict(headers=["X-Kind: c", "x-kind: a"])),
            (461, dict(headers=["X-Any:"])), (461, dict(headers=["x-ANY: v"], uri="sip:+1408@one.example")),
            (462, dict(method="SUBSCRIBE")), (462, dict(method="PUBLISH")), (499, dict(method="NOTIFY")), (499, dict(method="subscribe")),
            (463, dict(uri="sip:0049@x.example")), (463, dict(uri="sip:%30049@x.example")), (499, dict(uri="sip:0009@x.example")),
            (464, dict(uri="sip:+14085550100@x.example")), (464, dict(uri="tel:+1-408-555-0100")), (499, dict(uri="sip:14085550100@x.example")),
            (465, dict(uri="sip:x@ONE.example:5090;transport=tcp")), (499, dict(uri="sip:x@a.one.example")),
            (466, dict(uri="sip:x@a.two.example")), (466, dict(uri="sip:x@b.a.Two.example")), (499, dict(uri="sip:x@two.example")),
            (467, dict(from_uri="sip:boss@example.com")), (499, dict(from_uri="sip:bossy@example.com")),
            (468, dict(peer=far)), (469, dict(peer=stream)),
            (471, dict(uri="sip:both1@both.example")), (499, dict(uri="sip:both1@both.example", method="NOTIFY")), (499, dict(uri="sip:both1@else.example")),
        ]:
            answer = asked(**options)
            assert answer.status == wanted, (options, answer)
        answer = asked(method="INVITE", headers=["Require: siprec", "Content-Type: multipart/mixed;boundary=b"], body=recording)
        assert answer.status == 470, answer
        # One rule for all: it says so itself, with its reason.
        assert asked().start.endswith(b"499 None of all")
        asked(uri="sip:tenfold@x.example", method="NOTIFY")
        wait(lambda: edge.requests(method="NOTIFY"), 5, "the log of requests", edge)
        assert any(line["rule"] == "route 13" and line["st"] == 472 for line in edge.requests(method="NOTIFY")), edge.requests(method="NOTIFY")
        edge.well()


def test_each_action_of_a_rule_does_what_it_says():
    home = folder("edge-actions")
    with Peer() as b, Peer() as c, Peer() as a:
        proxy = group("pool", [(b.host, 1, 1)], heartbeat="false")
        proxy += to("group", "pool") + to("uri", uri_of(c)) + to("self", "request-uri") + to("srs", "srs")
        proxy += '[[proxy.route]]\nmatch = { user_prefix = "no" }\nreject = { code = 603, reason = "Not: here" }\n'
        proxy += '[[proxy.route]]\nmatch = { user_prefix = "elsewhere" }\nredirect = "sip:other@192.0.2.5;transport=tcp"\n'
        with Proxy(home, proxy) as edge:
            send = lambda uri, method="MESSAGE": edge.link(a).send(a.request(method, uri))
            for uri, peer in (("sip:group@x.example", b), ("sip:uri@x.example", c), (f"sip:self@{c.host}", c), ("sip:anybody@pool", b)):
                send(uri)
                got = peer.receive("MESSAGE")
                assert got.uri == uri, got
                got.reply(200)
                a.receive(200)
            send("sip:no@x.example")
            assert a.receive(final).start == b"SIP/2.0 603 Not: here"
            send("sip:elsewhere@x.example", "INVITE")
            moved = a.receive(final)
            assert moved.status == 302 and moved.all("Contact") == ["<sip:other@192.0.2.5;transport=tcp>"] and moved.to_tag, moved
            send("sip:srs@x.example", "OPTIONS")
            answer = a.receive(final)
            assert answer.status == 200 and "siprec" in " ".join(answer.values("Supported")), answer
            send("sip:anybody@unknown.example")
            assert a.receive(final).status == 404
            edge.well()


def test_numbers_arrive_as_the_element_wants_them():
    cases = [
        ("strip = 2", "sip:0049301234@x.example", "sip:49301234@x.example"),
        ('prefix = "+"', "sip:14085550100@x.example;user=phone", "sip:+14085550100@x.example;user=phone"),
        ('strip = 1, prefix = "+49"', "sip:030123@x.example:5080", "sip:+4930123@x.example:5080"),
        ('match = "^\\\\+?1(\\\\d{3})(\\\\d+)$", replace = "$1-$2"', "sip:+14085550100@x.example", "sip:408-5550100@x.example"),
        ('host = "pbx.example:5070"', "sip:100@x.example;p=v", "sip:100@pbx.example:5070;p=v"),
        ('strip = 1, match = "9", replace = "8", prefix = "00", host = "h.example"', "sip:999@x.example", "sip:0089@h.example"),
        ('prefix = "0"', "tel:+15550100", "tel:0+15550100"),
        ('strip = 2, host = "h.example"', "tel:+15550100", "sip:5550100@h.example;user=phone"),
        ("strip = 64", "sip:12@x.example", "sip:x.example sip:@x.example"),
    ]
    with Peer() as b, Peer() as a:
        rules = "".join(f'[[proxy.route]]\nmatch = {{ header = {{ name = "X-Case", value = "^{number}$" }} }}\nrewrite = {{ {rewrite} }}\nto = "{uri_of(b)}"\n'
                        for number, (rewrite, _, _) in enumerate(cases))
        with Proxy(folder("edge-numbers"), rules) as edge:
            for number, (rewrite, uri, wanted) in enumerate(cases):
                sent = a.request("INVITE", uri, headers=[f"X-Case: {number}"], to_uri="sip:unchanged@x.example")
                edge.link(a).send(sent)
                got = b.receive("INVITE")
                assert got.uri in wanted.split(), (rewrite, uri, got.uri)
                # Only the Request-URI; the rest is what the caller said.
                assert got.header("To") == "<sip:unchanged@x.example>" and not got.all("Route")
                untouched(sent.split(b"\r\n", 1)[1].join([got.start + b"\r\n", b""]), got.raw)
                got.reply(486, tag="t")
                edge.link(a).send(ack_of(sent, a.receive(486)))
            edge.well()


# ---- protection -------------------------------------------------------------------------------------------------------


def test_strangers_get_nothing_through_and_no_more_bytes_than_they_sent():
    """Who forges a source must not be able to make us shout at it."""
    with between("edge-strangers", everything_to, sip='[[sip.trust]]\nsource = "127.0.0.0/24"\n') as (edge, a, b):
        shapes = {
            "invite": lambda peer: peer.request("INVITE", "sip:x@example.com"),
            "options": lambda peer: peer.request("OPTIONS", "sip:x@example.com"),
            "register": lambda peer: peer.request("REGISTER", "sip:example.com"),
            "bye": lambda peer: peer.request("BYE", "sip:x@example.com", to_tag="t"),
            "ack": lambda peer: peer.request("ACK", "sip:x@example.com", to_tag="t"),
            "cancel": lambda peer: peer.request("CANCEL", "sip:x@example.com"),
            "no hops": lambda peer: peer.request("OPTIONS", "sip:x@example.com", hops=0),
            "short": lambda peer: f"INVITE sip:a SIP/2.0\r\nv:SIP/2.0/UDP {peer.host};branch=z9hG4bK1\r\nf:<sip:a>;tag=1\r\nt:<sip:a>\r\ni:1\r\nCSeq:1 INVITE\r\n\r\n".encode(),
            "shorter": lambda peer: f"OPTIONS sip:a SIP/2.0\r\nv:SIP/2.0/UDP a\r\nf:<sip:a>\r\nt:<sip:a>\r\ni:2\r\nCSeq:2 OPTIONS\r\n\r\n".encode(),
            "no from": lambda peer: b"OPTIONS sip:a SIP/2.0\r\nv:SIP/2.0/UDP a\r\n\r\n",
            "no method": lambda peer: b" sip:a SIP/2.0\r\nv:SIP/2.0/UDP a\r\n\r\n",
            "old": lambda peer: b"OPTIONS sip:a SIP/3.0\r\nv:SIP/2.0/UDP a\r\nf:a\r\nt:a\r\ni:2\r\nCSeq:2 OPTIONS\r\n\r\n",
            "bad uri": lambda peer: b"OPTIONS a b c SIP/2.0\r\nv:SIP/2.0/UDP a\r\nf:a\r\nt:a\r\ni:2\r\nCSeq:2 OPTIONS\r\n\r\n",
            "length": lambda peer: b"OPTIONS sip:a SIP/2.0\r\nv:SIP/2.0/UDP a\r\nf:a\r\nt:a\r\ni:2\r\nCSeq:2 OPTIONS\r\nl:9\r\n\r\n",
            "response": lambda peer: b"SIP/2.0 200 OK\r\nv:SIP/2.0/UDP a\r\nf:a\r\nt:a\r\ni:2\r\nCSeq:2 OPTIONS\r\n\r\n",
            "stun": lambda peer: bytes.fromhex("000100002112a442") + b"0123456789ab",
        }
        net = random.randrange(2, 250)
        peers = {}
        with contextlib.ExitStack() as stack:
            for number, (name, shape) in enumerate(shapes.items()):
                # An address of its own each: it is the same to a rate of a source. Via says where; `a` is no address.
                peer = peers[name] = stack.enter_context(Peer(ip=f"127.{net}.{number + 1}.1"))
                peer.sent = shape(peer)
                edge.link(peer).send(peer.sent)
            # A final response to an INVITE would be repeated for half a minute.
            time.sleep(3)
            heard = {name: (len(peer.sent), sum(len(m.raw) for m in peer.seen), [m.start for m in peer.seen]) for name, peer in peers.items()}
            loud = {name: what for name, what in heard.items() if what[1] > what[0] * (2 if name == "stun" else 1)}
            assert not loud, loud
            assert not b.seen, b.seen
            assert not any(m.status < 400 for peer in peers.values() for m in peer.seen if m.status), heard
        # Who is known is served as ever.
        edge.link(a).send(a.request("MESSAGE", "sip:x@example.com"))
        b.receive("MESSAGE").reply(200)
        a.receive(200)


def test_one_source_cannot_take_more_than_its_rate():
    home = folder("edge-rate")
    with Peer() as b, Peer(ip="127.4.4.4") as loud, Peer() as a:
        edge = Proxy(home, everything_to(b))
        edge.config.write_text(edge.config.read_text().replace("per_source = 1_000_000", "per_source = 20"))
        with edge:
            for _ in range(200):
                edge.link(loud).send(loud.request("MESSAGE", "sip:x@example.com"))
            edge.link(a).send(a.request("MESSAGE", "sip:quiet@example.com"))
            got = b.receive(lambda m: m.uri == "sip:quiet@example.com", 1)
            got.reply(200)
            a.receive(200)
            time.sleep(0.3)
            passed = len({m.header("Call-ID") for m in b.seen}) - 1
            assert 15 <= passed <= 40, passed
            edge.well()


def test_more_new_calls_than_allowed_are_told_to_come_later():
    with between("edge-overload", lambda b: everything_to(b, "calls_per_second = 10\n")) as (edge, a, b):
        edge.link(a).send(a.request("INVITE", "sip:x@example.com", call_id="a-call", tag="f"))
        b.receive("INVITE").reply(200, tag="t", headers=(f"Contact: <{b.contact}>",))
        a.receive(200)
        time.sleep(1.1)
        b.seen.clear()
        for _ in range(40):
            edge.link(a).send(a.request("INVITE", "sip:x@example.com"))
        time.sleep(0.4)
        shed = [m for m in a.seen if m.status == 503]
        went = {m.header("Call-ID") for m in b.seen}
        # A second may end in between.
        assert 10 <= len(went) <= 20 and len({m.header("Call-ID") for m in shed}) == 40 - len(went), (len(went), len(shed))
        assert all(int(m.header("Retry-After")) >= 1 for m in shed)
        # What belongs to a call that is there, and what is none, passes; a tag that somebody made up makes no call.
        for n in range(20):
            edge.link(a).send(a.request("INVITE", f"sip:x@{b.host}", to_tag="t", call_id=f"made-up-{n}"))
        a.receive(lambda m: m.status == 503 and m.header("Call-ID").startswith("made-up"))
        edge.link(a).send(a.request("INVITE", f"sip:x@{b.host}", tag="f", to_tag="t", call_id="a-call", cseq=2))
        b.receive(lambda m: m.header("Call-ID") == "a-call").reply(200, headers=(f"Contact: <{b.contact}>",))
        edge.link(a).send(a.request("BYE", f"sip:x@{b.host}", to_tag="t", call_id="a-bye"))
        b.receive("BYE").reply(200)
        edge.link(a).send(a.request("MESSAGE", "sip:x@example.com"))
        b.receive("MESSAGE").reply(200)


def test_scanners_hear_nothing():
    with between("edge-scanners", everything_to) as (edge, a, b):
        for agent in ("friendly-scanner", "sipvicious 0.3", "SIPVICIOUS", "sipsak 0.9.7", "pplsip", "VaxSIPUserAgent/3.1"):
            for method in ("OPTIONS", "INVITE", "REGISTER"):
                edge.link(a).send(a.request(method, "sip:100@example.com", headers=[f"User-Agent: {agent}"]))
        a.none(seconds=0.7)
        assert not b.seen, b.seen
        assert edge.metric('ferric_sip_rejected_total{reason="scanner"}') >= 18


def test_connections_of_one_source_are_limited():
    home = folder("edge-connections")
    with Peer("tcp") as a, Peer() as b:
        with Proxy(home, everything_to(b), limits="max_connections_per_source = 5\n") as edge:
            links = [a.connect("127.0.0.1", edge.sip, source=("127.6.6.6", 0)) for _ in range(9)]
            wait(lambda: sum(link.closed.is_set() for link in links) == 4, 3, "four of nine connections to be closed")
            assert not any(link.closed.is_set() for link in links[:5])
            other = a.connect("127.0.0.1", edge.sip, source=("127.6.6.7", 0))
            for link in (links[0], other):
                link.send(a.request("MESSAGE", "sip:x@example.com"))
                b.receive("MESSAGE").reply(200)
                a.receive(200)
            links[0].close()
            time.sleep(0.2)
            again = a.connect("127.0.0.1", edge.sip, source=("127.6.6.6", 0))
            again.send(a.request("MESSAGE", "sip:x@example.com"))
            b.receive("MESSAGE").reply(200)
            a.receive(200)
            edge.well()


def test_who_sends_too_slowly_is_cut_off():
    with between("edge-slow", everything_to, caller="tcp") as (edge, a, b):
        silent, trickling, busy = (a.connect("127.0.0.1", edge.sip) for _ in range(3))
        began = time.monotonic()
        raw = a.request("MESSAGE", "sip:x@example.com", body=b"x" * 500)
        busy.send(a.request("MESSAGE", "sip:x@example.com"))
        b.receive("MESSAGE").reply(200)
        a.receive(200)
        for at in range(0, 60):
            if trickling.closed.is_set():
                break
            with contextlib.suppress(OSError):
                trickling.send(raw[at : at + 1])
            time.sleep(0.25)
        wait(lambda: silent.closed.is_set() and trickling.closed.is_set(), 5, "the slow ones to be cut off")
        assert 8 < time.monotonic() - began < 14
        # One that spoke before may be silent.
        busy.send(a.request("MESSAGE", "sip:x@example.com"))
        b.receive("MESSAGE").reply(200)
        a.receive(200)


def test_noise_on_every_port_is_survived():
    home = folder("edge-noise")
    certs = certificates(home)
    dice = random.Random(4)
    with Peer() as b, Peer() as a, Proxy(home, everything_to(b), tls=certs) as edge:
        sip = a.request("INVITE", "sip:x@example.com")
        noise = [dice.randbytes(size) for size in (1, 3, 20, 400, 1400, 60_000)]
        noise += [b"\r\n" * 500, b"\0" * 1000, sip[:40], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", sip.replace(b"\r\n", b"\n"), b"A" * 65_000]
        noise += [bytes(byte if dice.random() > 0.03 else dice.randrange(256) for byte in sip) for _ in range(60)]
        noise += [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc" + dice.randbytes(500), b"\x16\x03\x01\xff\xff" + b"\0" * 100]
        with Peer(ip="127.0.7.1") as u:
            for data in noise:
                edge.link(u).send(data)
        for port in (edge.sip, edge.sips):
            for data in noise:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as connection:
                    connection.sendall(data)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(certs["client_ca"])
        context.load_cert_chain(certs["certificate"], certs["key"])
        for data in noise:
            with contextlib.suppress(OSError, ssl.SSLError), socket.create_connection(("127.0.0.1", edge.sips), 2) as connection:
                with context.wrap_socket(connection, server_hostname="127.0.0.1") as secure:
                    secure.sendall(data)
        # Nobody without a certificate comes in.
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.load_verify_locations(certs["client_ca"])
        with contextlib.suppress(OSError, ssl.SSLError), socket.create_connection(("127.0.0.1", edge.sips), 2) as connection:
            with bare.wrap_socket(connection, server_hostname="127.0.0.1") as secure:
                secure.settimeout(2)
                secure.sendall(a.request("MESSAGE", "sip:bare@example.com"))
                assert secure.recv(100) == b"", "a peer without a certificate was let in"
        assert not [m for m in b.seen if m.uri == "sip:bare@example.com"]
        edge.link(a).send(a.request("MESSAGE", "sip:x@example.com", call_id="the-last"))
        b.receive(lambda m: m.header("Call-ID") == "the-last").reply(200)
        a.receive(200)
        assert edge.descriptors() < 100, edge.descriptors()
        edge.well()


# ---- sight ------------------------------------------------------------------------------------------------------------


def hep_of(data):
    """The chunks of a HEP3 packet, by type (vendor 0)."""
    assert data[:4] == b"HEP3" and struct.unpack(">H", data[4:6])[0] == len(data), data[:20]
    found, at = {}, 6
    while at < len(data):
        vendor, kind, length = struct.unpack(">HHH", data[at : at + 6])
        assert vendor == 0 and length >= 6 and kind not in found
        found[kind] = data[at + 6 : at + length]
        at += length
    assert at == len(data)
    return found


def capture_of(packets):
    """A capture file of what HEP packets tell: addresses, ports, times, payload, for tshark. All as UDP."""
    whole = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101)
    for number, chunks in enumerate(packets):
        udp = chunks[7] + chunks[8] + struct.pack(">HH", 8 + len(chunks[15]), 0) + chunks[15]
        packet = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), number, 0, 64, 17, 0) + chunks[3] + chunks[4] + udp
        whole += struct.pack("<IIII", *struct.unpack(">II", chunks[9] + chunks[10]), len(packet), len(packet)) + packet
    return whole


def test_homer_gets_every_message_as_it_was():
    home = folder("edge-hep")
    began = time.time()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as homer:
        homer.bind(("127.0.0.1", 0))
        homer.settimeout(1)
        port = homer.getsockname()[1]
        with Peer("tcp") as b, Peer() as a:
            proxy = f'{everything_to(b)}[homer]\nhep = "127.0.0.1:{port}"\ncapture_id = 2001\n'
            with Proxy(home, proxy) as edge:
                sent = a.request("INVITE", "sip:x@example.com", call_id="hep-call")
                edge.link(a).send(sent)
                got = b.receive("INVITE")
                for status in (180, 200):
                    got.reply(status, tag="t", headers=(f"Contact: <{b.contact}>",))
                    a.receive(status)
                datagrams = []
                with contextlib.suppress(TimeoutError):
                    while True:
                        datagrams.append(homer.recv(65536))
                edge.well()
                us = edge.sip
    packets = [hep_of(data) for data in datagrams]
    payloads = [packet[15] for packet in packets]
    assert sent in payloads and got.raw in payloads and all(message.raw in payloads for message in a.seen)
    for packet in packets:
        assert (packet[1], packet[11], packet[12]) == (b"\x02", b"\x01", struct.pack(">I", 2001)), packet
        assert began - 2 < struct.unpack(">I", packet[9])[0] < time.time() + 2
    path = home / "hep.pcap"
    path.write_bytes(capture_of(packets))
    fields = ["udp.srcport", "udp.dstport", "sip.Method", "sip.Status-Code", "sip.Call-ID", "sip.CSeq.method"]
    done = subprocess.run(["tshark", "-r", path, "-d", "udp.port==1-65535,sip", "-T", "fields", "-E", "separator=|", *(word for field in fields for word in ("-e", field))],
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|") for line in done.stdout.splitlines()]
    assert len(rows) == len(packets) and all(row[4] == "hep-call" and row[5] == "INVITE" for row in rows), rows
    seen = [(row[0], row[1], row[2] or row[3]) for row in rows]
    caller, callee, edge_port = str(a.port), str(b.port), str(us)
    for wanted in [(caller, edge_port, "INVITE"), (edge_port, caller, "100"), (edge_port, caller, "180"), (edge_port, caller, "200")]:
        assert wanted in seen, (wanted, seen)
    # Of a connection that the edge opened, its own port is none that anybody else knows.
    assert [what for _, there, what in seen if there == callee] == ["INVITE"]
    assert [what for here, _, what in seen if here == callee] == ["180", "200"]
    assert [packet[2] for packet in packets if packet[15] == got.raw] == [b"\x06"]


def test_every_request_is_one_line_of_the_log():
    home = folder("edge-log")
    with Peer() as dead, Peer() as b, Peer() as a:
        proxy = group("pool", [(dead.host, 1, 1), (b.host, 2, 1)], heartbeat="false", more='timeout = "200ms"\n')
        proxy += '[[proxy.route]]\nname = "numbers"\nmatch = { user_prefix = "+" }\nto = "pool"\n[[proxy.route]]\nreject = { code = 403 }\n'
        with Proxy(home, proxy) as edge:
            edge.link(a).send(a.request("INVITE", "sip:+15550100;x=y:secret@example.com", call_id="call-1"))
            got = b.receive("INVITE", 3)
            got.reply(200, tag="t", headers=(f"Contact: <{b.contact}>",))
            a.receive(200)
            edge.link(a).send(a.request("MESSAGE", "sip:x@example.com", headers=['Authorization: Digest username="u", response="hush"']))
            a.receive(403)
            edge.link(a).send(a.request("BYE", f"sip:x@{b.host}", to_tag="t", call_id="call-1"))
            b.receive("BYE").reply(200)
            a.receive(200)
            [line] = edge.requests(1)
            assert (line["st"], line["n"], line["el"], line["grp"], line["rule"], line["id"]) == (200, 2, b.host, "pool", "numbers", "call-1"), line
            assert line["src"] == a.host and line["on"] == f"udp:127.0.0.1:{edge.sip}" and 150 < line["ms"] < 2000, line
            [line] = edge.requests(1, "MESSAGE")
            assert (line["st"], line["rule"], line["n"]) == (403, "route 2", 0), line
            [line] = edge.requests(1, "BYE")
            assert (line["st"], line["mid"]) == (200, True), line
            text = (edge.data / "log" / "requests.jsonl").read_text()
            assert "secret" not in text and "hush" not in text
            assert (edge.data / "log" / "requests.jsonl").stat().st_mode & 0o077 == 0
            edge.well()


def test_the_last_calls_are_drawn_as_ladders():
    with between("edge-ladders", lambda b: everything_to(b, "record_route = true\n"), callee="tcp") as (edge, a, b):
        link = edge.link(a)
        keys = b"v=0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:hush\r\n"
        link.send(a.request("INVITE", "sip:x@example.com", call_id="one/call", body=keys, headers=["Content-Type: application/sdp"]))
        got = b.receive("INVITE")
        assert got.body == keys
        for status in (180, 200):
            got.reply(status, "Fine", tag="t", headers=(f"Contact: <{b.contact}>",))
        side = Side.caller(a, a.receive(200), link)
        side.send("ACK", cseq=1)
        b.receive("ACK")
        side.send("BYE")
        b.receive("BYE").reply(200)
        a.receive(lambda m: m.key == "BYE")
        [call] = edge.get("/api/v1/ladders?limit=5")
        assert (call["call_id"], call["method"], call["to"]) == ("one/call", "INVITE", "sip:x@example.com"), call
        steps = ["INVITE", "100", "INVITE", "180", "180", "200", "200", "ACK", "ACK", "BYE", "BYE", "200", "200"]
        whole = edge.get("/api/v1/ladders/one%2Fcall")
        assert [str(m["status"] or m["method"]) for m in whole["messages"]] == steps, whole
        drawn = edge.get("/api/v1/ladders/one%2Fcall?format=text", raw=True)[1].decode()
        assert re.findall(r"[-<] (INVITE|ACK|BYE|\d{3}) ", drawn) == steps, drawn
        assert "hush" not in json.dumps(whole) + drawn


def test_what_passes_through_is_waited_for_when_the_node_goes():
    """SIGTERM: a ringing call is answered, no new one is taken, and then the node is gone."""
    home = folder("edge-goes")
    with Peer() as a, Peer() as b:
        edge = Proxy(home, everything_to(b))
        with edge:
            raw = a.request("INVITE", "sip:x@example.com")
            edge.link(a).send(raw)
            ringing = b.receive("INVITE")
            ringing.reply(180, "Ringing", tag="b")
            a.receive(180)
            edge.process.send_signal(signal.SIGTERM)
            wait(lambda: "draining" in edge.log.read_text(), 10, "the node drains", edge)
            edge.link(a).send(a.request("INVITE", "sip:y@example.com"))
            refused = a.receive(503)
            assert refused.header("Retry-After"), refused
            time.sleep(1)
            assert edge.process.poll() is None, "a call rings still"
            ringing.reply(200, "OK", tag="b")
            a.receive(200)
            assert edge.process.wait(15) == 0
