"""Elements die, fall silent, refuse and come back under load: no call fails. FERRIC_LONG=1 for the long form."""

import contextlib
import os
import random
import signal
import subprocess
import time

from lib.edge import LONG, RATE, WORST_MS, Acceptor, Edge, Segment, Shares, Sipp, all_well, caller, element, free_port, group, route
from lib.node import Node, folder, wait

# How long load runs between two events; a share is judged by some hundred calls.
CALM = 8 if LONG else 3
# What a busy machine adds to a time that a log line tells.
SLACK = 1.0


def fair(shares, weights):
    """Whether counts fit weights: within five standard deviations."""
    total, whole = sum(shares), sum(weights)
    for count, weight in zip(shares, weights):
        share = weight / whole
        assert abs(count - total * share) <= 5 * (total * share * (1 - share)) ** 0.5 + 3, (shares, weights)


def settled(edge, count):
    """Every element has answered a probe or a call."""
    wait(lambda: edge.metric("ferric_group_element_up") >= count, 10, "elements are not up", edge)


def three_elements(home, stack, **options):
    """Two elements of priority 1 with weights 70 and 30, one of priority 2."""
    return [stack.enter_context(element(home, name, **options)) for name in ("first", "second", "spare")]


def pool(elements, **options):
    places = zip(elements, ((1, 70), (1, 30), (2, 50)))
    return "record_route = true\n" + group("pool", [(one.address, *place) for one, place in places], **options) + route("pool")


def deaths(name, down, back, cause, worst_ms):
    """Two elements of priority 1 go one after the other and come back, under load."""
    home = folder(name)
    with contextlib.ExitStack() as stack:
        first, second, spare = elements = three_elements(home, stack, silent_ms=40)
        edge = stack.enter_context(Edge(home, pool(elements)))
        settled(edge, 3)
        load = stack.enter_context(caller(home, edge))
        time.sleep(1.5)
        shares = Shares(*elements).after(CALM)
        assert shares[2] == 0, shares
        fair(shares[:2], (70, 30))
        took = []
        for victim, heir in ((first, second), (second, spare)):
            at = down(victim)
            took.append(edge.wait_said("element is down", victim.address, at) - at)
            # The counts of sipp are a second old at most.
            time.sleep(1.2)
            shares = Shares(*elements).after(CALM)
            assert [count > 0 for count in shares] == [one is heir for one in elements], shares
        print(f"{name}: noticed after {', '.join(f'{seconds * 1000:.0f} ms' for seconds in took)}")
        at = time.time()
        for victim in (first, second):
            back(victim)
        for victim in (first, second):
            assert edge.wait_said("element is up", victim.address, at) - at < 0.5 + 2 * SLACK
        time.sleep(1.2)
        shares = Shares(*elements).after(CALM)
        assert shares[2] == 0, shares
        fair(shares[:2], (70, 30))
        counts = all_well(load, edge, worst_ms=worst_ms, least=RATE * 3 * CALM)
        assert counts["p99_ms"] < WORST_MS and counts["lost"] < 20, counts
        assert max(took) < 1.0 + SLACK, took
        assert f'cause="{cause}"' in edge.log.read_text()


def test_killed_elements_cost_no_call():
    deaths("edge-killed", lambda one: one.kill(), lambda one: one.start(), "unreachable", WORST_MS)


def test_frozen_elements_cost_no_call():
    # A call that rings there moves on when a probe tells that the element is really gone: the timeout, the interval, the timeout.
    deaths("edge-frozen", lambda one: one.freeze(), lambda one: one.thaw(), "no answer", WORST_MS + 1000)


def test_calls_that_ring_at_an_element_move_on_when_it_is_killed():
    home = folder("edge-ringing")
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(element(home, name, ring_ms=600)) for name in ("first", "second"))
        proxy = "record_route = true\n" + group("pool", [(first.address, 1, 50), (second.address, 2, 50)]) + route("pool")
        edge = stack.enter_context(Edge(home, proxy))
        settled(edge, 2)
        load = stack.enter_context(caller(home, edge, rate=100))
        time.sleep(3)
        first.kill()
        time.sleep(3)
        # Twice the ringing, and one interval of the heartbeat.
        counts = all_well(load, edge, worst_ms=600 + 500 + 600 + 1000 * SLACK, least=500)
        twice = sum(request["n"] > 1 for request in edge.requests(counts["ok"]))
        print(f"edge-ringing: {twice} calls of {counts['ok']} went on to the other element")
        assert twice >= 30


def test_an_idle_group_notices_a_death_within_its_heartbeat():
    home = folder("edge-idle")
    with contextlib.ExitStack() as stack:
        killed, frozen = (stack.enter_context(element(home, name)) for name in ("killed", "frozen"))
        proxy = group("pool", [(killed.address, 1, 50), (frozen.address, 1, 50)]) + route("pool")
        edge = stack.enter_context(Edge(home, proxy))
        settled(edge, 2)
        time.sleep(1)
        for victim, at, late in ((killed, killed.kill(), 0.0), (frozen, frozen.freeze(), 3.0)):
            took = edge.wait_said("element is down", victim.address, at) - at
            print(f"edge-idle: noticed after {took * 1000:.0f} ms")
            # Three probes, each half a second after what came of the one before; silence takes a second to be one.
            assert took < 3 * 0.5 + late + SLACK, took
        at = time.time()
        killed.start()
        frozen.thaw()
        for victim in (killed, frozen):
            assert edge.wait_said("element is up", victim.address, at) - at < 0.5 + 1.0 + SLACK


def bad_element(name, bad, *, worst_ms=WORST_MS):
    """Load on a group of a good and a bad element of equal weight. Returns the edge and the requests that went on to another."""
    home = folder(name)
    with contextlib.ExitStack() as stack:
        good = stack.enter_context(element(home, "good"))
        address = bad(stack, home) if callable(bad) else bad
        proxy = "record_route = true\n" + group("pool", [(good.address, 1, 50), (address, 1, 50)]) + route("pool")
        edge = stack.enter_context(Edge(home, proxy))
        load = stack.enter_context(caller(home, edge))
        time.sleep(2 * CALM)
        counts = all_well(load, edge, worst_ms=worst_ms, least=RATE * CALM)
        return edge, [request for request in edge.requests(counts["ok"]) if request["n"] > 1]


def test_an_element_that_refuses_is_passed_over():
    refusing = lambda line: lambda stack, home: stack.enter_context(Sipp(home, "bad", "refusing", retry_after=line)).address
    # It answers its probes: each half a second it is tried again, by so many calls as it may miss and what is under way.
    edge, twice = bad_element("edge-503", refusing(""), worst_ms=1000)
    print(f"edge-503: {len(twice)} calls were refused and went on")
    assert 3 <= len(twice) <= 4 * CALM * 2 * 10, len(twice)
    # It is left alone for as long as it asks for.
    edge, twice = bad_element("edge-503-later", refusing("Retry-After: 3\n"), worst_ms=1000)
    print(f"edge-503-later: {len(twice)} calls were refused and went on")
    assert 1 <= len(twice) <= (2 * CALM / 3 + 1) * 10, len(twice)


def test_tcp_that_is_accepted_and_never_answered():
    edge, twice = bad_element("edge-tcp-silent", lambda stack, _: stack.enter_context(Acceptor("silent")).address)
    # Those of the first second, and nobody after it.
    assert 1 <= len(twice) <= RATE * (1 + SLACK) / 2 * 1.5, len(twice)
    assert len(edge.said("element is down")) == 1


def test_tcp_that_is_reset():
    for mode in ("reset", "fickle"):
        with Acceptor(mode) as bad:
            edge, twice = bad_element(f"edge-tcp-{mode}", bad.address, worst_ms=1000)
            print(f"edge-tcp-{mode}: {len(twice)} calls went on, {bad.connections} connections")
            assert edge.said("element is down") and 1 <= len(twice) <= RATE * CALM / 2, len(twice)
            # No storm of connections: a probe each half a second, and what is under way when it looks alive.
            assert bad.connections <= 4 * CALM * 5, bad.connections


def test_a_closed_port_is_noticed_at_the_first_call():
    edge, twice = bad_element("edge-closed", f"127.0.0.9:{free_port()}", worst_ms=1000)
    assert 1 <= len(twice) <= 20, len(twice)
    assert len(edge.said("element is down")) == 1


def test_an_element_behind_a_dropped_route():
    """The cable is cut, then put back; then its answers alone are lost."""
    if os.geteuid() != 0:
        print("edge-route: not root, no network of our own; a closed port is tested instead")
        return test_a_closed_port_is_noticed_at_the_first_call()
    home = folder("edge-route")
    with contextlib.ExitStack() as stack:
        segment = stack.enter_context(Segment())
        good = stack.enter_context(element(home, "good", ip=segment.here))
        far = stack.enter_context(element(home, "far", ip=segment.there, namespace=segment.name))
        proxy = "record_route = true\n" + group("pool", [(good.address, 2, 50), (far.address, 1, 50)]) + route("pool")
        edge = stack.enter_context(Edge(home, proxy, ip=segment.here))
        settled(edge, 2)
        load = stack.enter_context(caller(home, edge, ip=segment.here))
        time.sleep(2)
        for cut, mend in ((lambda: segment.set_link(False), lambda: segment.set_link(True)),
                          (lambda: segment.set_way_back(False), lambda: segment.set_way_back(True))):
            before = far.invites()
            at = time.time()
            cut()
            took = edge.wait_said("element is down", far.address, at) - at
            print(f"edge-route: noticed after {took * 1000:.0f} ms")
            assert took < 1.0 + SLACK
            time.sleep(CALM)
            at = time.time()
            mend()
            # The neighbour may have to be found again.
            assert edge.wait_said("element is up", far.address, at) - at < 0.5 + 1.0 + 3 * SLACK
            time.sleep(2)
            assert far.invites() > before
        # What its answers could not tell was rung there and here; each call had one success.
        all_well(load, edge, worst_ms=WORST_MS + 1000, least=RATE * 2 * CALM)


def test_an_element_that_says_100_and_nothing_more():
    """A 100 says that somebody is at work, and a telephone network may take half a minute: such a call waits, for as long as
    the element answers its probes. Its caller can give up; when the element dies the call goes elsewhere."""
    home = folder("edge-trying")
    with contextlib.ExitStack() as stack:
        mute = stack.enter_context(Sipp(home, "mute", "trying"))
        good = stack.enter_context(element(home, "good"))
        edge = stack.enter_context(Edge(home, "record_route = true\n" + group("pool", [(mute.address, 1, 50), (good.address, 2, 50)]) + route("pool")))
        settled(edge, 2)
        impatient = stack.enter_context(caller(home, edge, rate=20, scenario="impatient", name="impatient"))
        time.sleep(3)
        all_well(impatient, edge, worst_ms=1000 + 500, least=40)
        load = stack.enter_context(caller(home, edge, rate=20))
        time.sleep(3)
        assert load.counts()["ok"] == 0 and edge.metric("ferric_proxy_open") >= 40
        assert not edge.said("element is down")
        mute.kill()
        time.sleep(2)
        all_well(load, edge, worst_ms=3000 + 500 + 1000 * SLACK, least=80)
