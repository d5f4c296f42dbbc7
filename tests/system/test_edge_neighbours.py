"""The edge among others: Kamailio before and behind it, phones at its registrar, sipp for many calls."""

import contextlib
import shutil
import time

from lib.edge import Child, Edge, Sipp, all_well, free_port, group, route
from lib.node import folder, wait
from lib.peer import Peer, final

CALLS = 200
RATE = 70

# A stateful proxy that does what a neighbour does: stays in dialogs and relays everything to the next hop.
KAMAILIO = """#!KAMAILIO
debug=1
log_stderror=yes
children=1
tcp_children=1
auto_aliases=no
dns=no
rev_dns=no
loadmodule "kex.so"
loadmodule "tm.so"
loadmodule "tmx.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "textops.so"
loadmodule "siputils.so"
modparam("tm", "fr_timer", 5000)
modparam("rr", "enable_full_lr", 1)
modparam("rr", "enable_double_rr", 1)

request_route {
	if (!mf_process_maxfwd_header("70")) {
		sl_send_reply("483", "Too Many Hops");
		exit;
	}
	if (is_method("CANCEL")) {
		if (t_check_trans()) { t_relay(); }
		exit;
	}
	if (!is_method("ACK") && t_precheck_trans()) {
		t_check_trans();
		exit;
	}
	t_check_trans();
	if (has_totag()) {
		if (loose_route()) {
			t_relay();
		} else if (is_method("ACK")) {
			if (t_check_trans()) { t_relay(); }
		} else {
			sl_send_reply("404", "Not here");
		}
		exit;
	}
	if (is_method("OPTIONS") && $rU == $null) {
		sl_send_reply("200", "OK");
		exit;
	}
	if (is_method("INVITE|SUBSCRIBE")) {
		record_route();
	}
	$du = "@next@";
	if (!t_relay()) {
		sl_reply_error();
	}
}
"""


class Kamailio:
    """Kamailio on a port of its own, relaying to `next_hop` (a URI)."""

    def __init__(self, home, next_hop, port=None):
        self.home, self.port = home, port or free_port()
        self.config = home / "kamailio.cfg"
        self.config.write_text(KAMAILIO.replace("@next@", next_hop))

    def __enter__(self):
        command = [shutil.which("kamailio") or "/usr/sbin/kamailio", "-f", self.config, "-DD", "-E", "-m", "64", "-M", "8", "-Y", self.home]
        command += [word for kind in ("udp", "tcp") for word in ("-l", f"{kind}:127.0.0.1:{self.port}")]
        self.child = Child(command, log=self.home / "kamailio.log")

        def answers():
            assert self.child.is_running(), self.said()
            with Peer() as peer, contextlib.suppress(AssertionError):
                peer.to("127.0.0.1", self.port).send(peer.request("OPTIONS", f"sip:127.0.0.1:{self.port}"))
                return peer.receive(200, 0.3)

        wait(answers, 15, "kamailio does not answer")
        return self

    def __exit__(self, *_):
        self.child.stop(grace=1)

    def said(self):
        return (self.home / "kamailio.log").read_text(errors="replace")[-2000:]


def many_calls(home, edge, target, user="+15550100", transport="u1", name="caller"):
    """CALLS calls, each with requests from both sides; none fails."""
    with Sipp(home, name, "edge-caller", target=target, rate=RATE, transport=transport, user=user) as load:
        wait(lambda: load.counts()["calls"] >= CALLS, 3 * CALLS / RATE + 10, "enough calls", edge)
        return all_well(load, edge, least=CALLS)


def ways(prefix):
    """How neighbour and edge speak: transport of the hop between them, and whether the edge stays in the dialog."""
    for transport in ("udp", "tcp"):
        for stays in (True, False):
            yield f"{prefix}-{transport}-{'in' if stays else 'out'}", transport, stays


def kamailio_before_us(transport):
    for name, hop, stays in ways("edge-upstream"):
        if hop != transport:
            continue
        home = folder(name)
        # sipp answers, and sends, to whom the INVITE came from. Without us in the dialog that must be Kamailio.
        port = free_port()
        then = "" if stays else f'<action><setdest host="127.0.0.1" port="{port}" protocol="udp"/></action>'
        with Sipp(home, "callee", "edge-callee", then=then) as callee:
            proxy = f"record_route = {str(stays).lower()}\n" + group("pool", [(callee.address, 1, 1)]) + route("pool")
            with Edge(home, proxy) as edge, Kamailio(home, f"sip:127.0.0.1:{edge.sip};transport={hop}", port) as kamailio:
                many_calls(home, edge, f"127.0.0.1:{kamailio.port}")
                assert len(edge.requests(CALLS)) >= CALLS
                # What comes within the dialog comes by us only if we said so.
                assert bool(edge.metric('ferric_sip_messages_total{transport="udp",kind="request_sent",method="BYE"')
                            + edge.metric('ferric_sip_messages_total{transport="tcp",kind="request_sent",method="BYE"')) == stays


def test_200_calls_that_kamailio_sends_us_by_udp():
    kamailio_before_us("udp")


def test_200_calls_that_kamailio_sends_us_by_tcp():
    kamailio_before_us("tcp")


def kamailio_behind_us(transport):
    for name, hop, stays in ways("edge-downstream"):
        if hop != transport:
            continue
        home = folder(name)
        with Sipp(home, "callee", "edge-callee", then="") as callee, Kamailio(home, f"sip:{callee.ip}:{callee.port}") as kamailio:
            address = f"127.0.0.1:{kamailio.port}" + (";transport=tcp" if hop == "tcp" else "")
            proxy = f"record_route = {str(stays).lower()}\n" + group("pool", [(address, 1, 1)]) + route("pool")
            with Edge(home, proxy) as edge:
                # It answers the probes by itself.
                wait(lambda: edge.metric("ferric_group_element_up") == 1, 5, "the element is up", edge)
                many_calls(home, edge, f"127.0.0.1:{edge.sip}")
                kamailio.child.stop(grace=1)
                edge.wait_said("element is down", address)


def test_200_calls_that_go_to_kamailio_by_udp():
    kamailio_behind_us("udp")


def test_200_calls_that_go_to_kamailio_by_tcp():
    kamailio_behind_us("tcp")


def test_a_loop_with_kamailio_ends_at_once():
    """It sends back what we send it: RFC 3261 16.3 step 4, long before the hops are used up."""
    home = folder("edge-kamailio-loop")
    edge = Edge(home, "")
    with Kamailio(home, f"sip:127.0.0.1:{edge.sip}") as kamailio:
        edge.config.write_text(edge.config.read_text() + f'[[proxy.route]]\nto = "sip:127.0.0.1:{kamailio.port}"\n')
        with edge, Peer() as a:
            for method in ("INVITE", "MESSAGE"):
                began = time.monotonic()
                edge_link = a.to("127.0.0.1", edge.sip)
                edge_link.send(a.request(method, "sip:x@example.com"))
                answer = a.receive(final)
                assert answer.status == 482 and time.monotonic() - began < 1, answer
            lines = edge.requests(2) + edge.requests(2, "MESSAGE")
            assert [line["st"] for line in lines] == [482] * 4 and len(lines) == 4, lines
            # And the other way round: whoever calls Kamailio.
            a.to("127.0.0.1", kamailio.port).send(a.request("MESSAGE", "sip:x@example.com"))
            assert a.receive(final).status == 482
