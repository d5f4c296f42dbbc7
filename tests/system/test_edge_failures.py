"""Elements die, fall silent, refuse and come back under load: no call fails. FERRIC_LONG=1 for the long form."""

import contextlib
import os
import random
import signal
import subprocess
import time

from lib.edge import LONG, RATE, WORST_MS, Acceptor, Edge, Shares, all_well, caller, element, free_port, group, route
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


def deaths(name, down, back, cause):
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
        for number, victim in enumerate((first, second)):
            at = down(victim)
            took.append(edge.wait_said("element is down", victim.address, at) - at)
            # The counts of sipp are a second old at most.
            time.sleep(1.2)
            shares = Shares(*elements).after(CALM)
            expected = (second, spare)[number]
            assert [count > 0 for count in shares] == [one is expected for one in elements], (number, shares)
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
        all_well(load, edge, least=RATE * 3 * CALM)
        assert max(took) < 1.0 + SLACK, took
        assert cause in edge.log.read_text()


def test_killed_elements_cost_no_call():
    deaths("edge-killed", lambda one: one.kill(), lambda one: one.start(), "unreachable")


def test_frozen_elements_cost_no_call():
    deaths("edge-frozen", lambda one: one.freeze(), lambda one: one.thaw(), "no answer")
