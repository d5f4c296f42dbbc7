"""The proxy on the wire, message by message: scripted peers over UDP, TCP and TLS around the real binary."""

import contextlib
import json
import pathlib
import random
import re
import socket
import ssl
import subprocess
import time

from lib.certificates import certificates
from lib.edge import Edge, group
from lib.node import ROOT, folder, free_port, wait
from lib.peer import Message, Peer, Side, final, route_host, token

TRANSPORTS = ("udp", "tcp", "tls")


def to(prefix, uri, more=""):
    """A route for users that begin so."""
    return f'[[proxy.route]]\nmatch = {{ user_prefix = "{prefix}" }}\nto = "{uri}"\n{more}'


def uri_of(peer):
    return f"sip:{peer.host};transport={peer.transport}"


def listen(transport, address):
    return f'[[sip.listen]]\ntransport = "{transport}"\naddress = "{address}"\n'


class Proxy(Edge):
    """An edge with more in its [sip] section: listeners, limits, trust."""

    def __init__(self, home, proxy, *, listeners="", sip="", **options):
        super().__init__(home, proxy, **options)
        for path, attribute in ((self.config, None), (None, "base")):
            text = path.read_text() if path else self.base
            text = text.replace("[sip.limits]\n", f"{listeners}[sip.limits]\n", 1).replace("[recording]\n", f"{sip}[recording]\n", 1)
            if path:
                path.write_text(text)
            else:
                self.base = text

    def port(self, transport):
        return self.sips if transport == "tls" else self.sip

    def link(self, peer):
        """The way of a peer to this edge over its own transport."""
        return peer.to(self.ip, self.port(peer.transport))

    def well(self):
        assert "panicked" not in self.log.read_text(errors="replace"), self.tail()
        assert self.process.poll() is None, self.tail()


def plain(name, proxy, **options):
    """A test's folder and edge with a UDP caller."""
    home = folder(name)
    return home, Proxy(home, proxy, **options)


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
        edge = Proxy(home, f"record_route = true\n{routes}")
        listeners = listen("udp", f"[::1]:{edge.sip}") + listen("tcp", f"[::1]:{edge.sip}")
        edge.config.write_text(edge.config.read_text().replace("[sip.limits]\n", f"{listeners}[sip.limits]\n"))
        stack.enter_context(edge)
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
        link.send(a.request("MESSAGE", "sip:x@example.com", host=f"127.0.0.1:{free_port()}"))
        got = b.receive("MESSAGE")
        link.close(abort=True)
        time.sleep(0.2)
        got.reply(200)
        edge.link(a).send(a.request("MESSAGE", "sip:x@example.com"))
        b.receive("MESSAGE").reply(200)
        a.receive(200)


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
