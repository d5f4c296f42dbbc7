"""Elements die, fall silent, refuse and come back under load, DNS fails, the configuration changes: no call fails.

sipp counts: the callers' own figures are what is judged. 200 new calls a second, 500 with FERRIC_LONG=1, which makes
everything longer (ten minutes for `minutes_of_load`); FERRIC_RATE sets another rate.
"""

import contextlib
import os
import random
import time
from urllib.parse import quote

from lib.dns import Dns
from lib.edge import LONG, RATE, WORST_MS, Acceptor, Edge, Segment, Shares, Sipp, all_well, caller, element, free_port, group, route
from lib.node import Node, ferric, folder, wait
from lib.sip import Call
from test_failures import talk

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
            assert far.is_alive(), far.errors()
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


def test_groups_of_dns_outlive_its_servers():
    """A group of SRV records and an element known by a name, while DNS is dead, slow, lying, and after a restart without it."""
    home = folder("edge-dns")
    seconds = 8 if LONG else 2
    with contextlib.ExitStack() as stack:
        first, second, named = (stack.enter_context(element(home, name)) for name in ("first", "second", "named"))
        srv = lambda weight, other: (f"_sip._udp.pool.example 2 SRV 1 {weight} {first.port} a.pool.example\n"
                                     f"_sip._udp.pool.example 2 SRV 1 {other} {second.port} b.pool.example")
        dns = Dns(f"{srv(70, 30)}\na.pool.example 2 A 127.0.0.1\nb.pool.example 2 A 127.0.0.1\nnamed.example 2 A 127.0.0.1")
        dns.start()
        stack.callback(dns.stop)
        heartbeat = 'heartbeat = { up = "500ms", down = "500ms", misses = 3 }\n'
        proxy = (f'record_route = true\ndns = ["{dns.address}"]\n[[proxy.server_group]]\nname = "pool.example"\ndns = true\n{heartbeat}'
                 + group("named", [(f"named.example:{named.port}", 1, 50)])
                 + route("named", '{ method = "INVITE", user = "^named$" }') + route("pool.example"))
        edge = stack.enter_context(Edge(home, proxy))
        settled(edge, 3)
        loads = [stack.enter_context(caller(home, edge, rate=RATE // 2, user=user, name=user)) for user in ("pool", "named")]
        time.sleep(2)
        for trouble in ("stop", "slow", "silent", "servfail", "nxdomain", "nodata", "garbage"):
            asked = dns.count()
            if trouble == "stop":
                dns.stop()
            else:
                dns.start()
                dns.set_mode(trouble, delay=5)
            time.sleep(1.2)
            shares = Shares(first, second, named).after(seconds)
            fair(shares[:2], (70, 30))
            assert shares[2] > 0, (trouble, shares)
            assert trouble == "stop" or dns.count() > asked, f"nobody asks a DNS server that is {trouble}"
            # It tells the truth for a moment.
            dns.start()
            dns.set_mode("ok")
            dns.forget()
            wait(lambda: dns.count("SRV") and dns.count("A"), 35, f"nobody asks after DNS was {trouble}", edge)
        # What changes takes effect.
        dns.replace(srv(10, 90))
        at = time.time()
        moved = lambda: (lambda one, two: two > 4 * one > 0)(*Shares(first, second).after(2.5))
        wait(moved, 40, "the weights of DNS are not taken over", edge)
        print(f"edge-dns: new weights seen {time.time() - at - 2.5:.1f} s after DNS is back")
        dns.replace(f"_sip._udp.pool.example 2 SRV 1 50 {second.port} b.pool.example")
        # Its TTL of two seconds, and a count that is a second old.
        time.sleep(2 + 1.2 + SLACK)
        shares = Shares(first, second).after(2)
        assert shares[0] == 0 < shares[1], shares
        for load in loads:
            all_well(load, edge, least=RATE * 3)
        assert edge.terminate() == 0
        dns.stop()
        before = first.invites()
        edge.start()
        loads = [stack.enter_context(caller(home, edge, rate=RATE // 2, user=user, name=f"late-{user}")) for user in ("pool", "named")]
        time.sleep(3)
        for load in loads:
            all_well(load, edge, least=RATE)
        assert first.invites() == before, "it was no longer in DNS when DNS was last heard of"


def test_a_killed_edge_is_covered_by_retransmissions():
    """Callers repeat what was not answered. Calls that had heard our 100 wait for an edge that has forgotten them: their 200 is
    repeated by the element, and the branch in it proves to the edge that it was the one who asked."""
    home = folder("edge-itself")
    with contextlib.ExitStack() as stack:
        elements = three_elements(home, stack, silent_ms=40)
        edge = stack.enter_context(Edge(home, pool(elements)))
        settled(edge, 3)
        load = stack.enter_context(caller(home, edge, talk_ms=200))
        time.sleep(3)
        for outage in (0.3, 1.5):
            at = time.monotonic()
            edge.kill()
            time.sleep(outage)
            edge.start()
            print(f"edge-itself: away for {time.monotonic() - at:.1f} s at most")
            time.sleep(4)
        # A request that came just before is repeated after 0.5, 1.5 and 3.5 s, and so are the answers.
        all_well(load, edge, worst_ms=4000 + 1000 * SLACK, least=RATE * 6)


def test_recordings_go_through_the_edge_and_one_recorder_dies():
    home = folder("edge-siprec")
    roomy = 'spool_high_water = "99%"'
    with contextlib.ExitStack() as stack:
        recorders = []
        for name in ("one", "two"):
            (home / name).mkdir()
            recorders.append(stack.enter_context(Node(home / name, upload=roomy)))
        (home / "edge").mkdir()
        places = [(f"127.0.0.1:{recorder.sip}", 1, 50) for recorder in recorders]
        proxy = group("recorders", places) + route("recorders", '{ method = "INVITE", siprec = true }')
        edge = stack.enter_context(Edge(home / "edge", proxy, upload=roomy))
        settled(edge, 2)
        early = [talk(edge, number, 8) for number in range(8)]
        time.sleep(2)
        held = [{call["sip_call_id"] for call in recorder.get("/api/v1/calls")} for recorder in recorders]
        assert held[0] | held[1] == {call.call_id for call, _, _ in early} and not held[0] & held[1], held
        victim, heir = (0, 1) if held[0] else (1, 0)
        recorders[victim].kill()
        late = [talk(edge, 20 + number, 3) for number in range(6)]
        assert {call.call_id for call, _, _ in late} <= {call["sip_call_id"] for call in recorders[heir].get("/api/v1/calls")}
        recorders[victim].start()
        for call, sender, _ in early + late:
            sender.halt.set() if call.call_id in held[victim] else sender.join()
            # Of a dialog whose recorder died nobody knows any more.
            assert call.bye().status == (481 if call.call_id in held[victim] else 200), call.call_id
        stored = recorders[victim].stored(len(held[victim]), 60), recorders[heir].stored(len(held[heir]) + len(late), 60)
        assert {found["sip_call_id"] for found in stored[0]} == held[victim]
        assert {found["state"] for found in stored[0]} == {"recovered"}
        assert {found["sip_call_id"] for found in stored[1]} == held[heir] | {call.call_id for call, _, _ in late}
        assert {found["state"] for found in stored[1]} == {"complete"}
        # Nobody takes it: the caller hears so at once, and the edge has it in its books.
        for recorder in recorders:
            recorder.kill()
        refused = Call(edge, 90)
        answer = refused.invite()
        assert answer.status == 503 and answer.header("Retry-After"), answer.raw
        wait(lambda: edge.get("/api/v1/assurance")["totals"]["refused"] == 1, 10, "the refused INVITE in the ledger", edge)
        view = edge.get("/api/v1/assurance")
        assert view["adds_up"] and [(call["outcome"], call["status"]) for call in view["calls"]] == [("refused", 503)], view
        told = ferric("assurance", "--data-dir", edge.data, "--call-id", refused.call_id, "--json")
        assert told.returncode == 0 and "refused" in told.stdout, told.stdout + told.stderr


def test_changes_of_the_configuration_cost_no_call():
    """Another configuration each second, a broken one among them."""
    home = folder("edge-change")
    with contextlib.ExitStack() as stack:
        first, second, spare = elements = three_elements(home, stack, silent_ms=40)
        to_two, to_one = pool(elements), "record_route = true\n" + group("pool", [(spare.address, 1, 50)]) + route("pool")
        edge = stack.enter_context(Edge(home, to_two))
        settled(edge, 3)
        load = stack.enter_context(caller(home, edge, talk_ms=300))
        time.sleep(1)
        broken = 0
        for second_of_load in range(60 if LONG else 20):
            if second_of_load % 5 == 3:
                edge.rewrite(to_two.replace("weight = 70", "weight = \"much\""))
                broken += 1
            else:
                edge.rewrite(to_one if second_of_load % 2 else to_two)
            time.sleep(1)
        edge.rewrite(to_one)
        time.sleep(1.5)
        shares = Shares(*elements).after(CALM)
        assert shares[:2] == [0, 0] and shares[2] > RATE, shares
        edge.rewrite("what is this")
        time.sleep(1.2)
        shares = Shares(*elements).after(CALM)
        assert shares[:2] == [0, 0] and shares[2] > RATE, shares
        all_well(load, edge, least=RATE * 20)
        complaints = edge.log.read_text().count("the file is not fine")
        assert complaints == broken + 1 and "proxy.server_group.element.weight" in edge.log.read_text(), complaints


def test_a_drained_element_keeps_its_dialogs():
    home = folder("edge-drain")
    with contextlib.ExitStack() as stack:
        first, second, spare = elements = three_elements(home, stack)
        edge = stack.enter_context(Edge(home, pool(elements)))
        settled(edge, 3)
        load = stack.enter_context(caller(home, edge, talk_ms=3000))
        time.sleep(4)
        place = f"/api/v1/server-groups/pool/elements/{quote(first.address, safe='')}"
        edge.post(f"{place}/drain")
        time.sleep(1.2)
        byes = first.passed()["BYE_Recv"]
        shares = Shares(*elements).after(2.5)
        assert shares[0] == 0 < shares[1] and shares[2] == 0, shares
        assert first.passed()["BYE_Recv"] > byes, "its dialogs end there"
        edge.post(f"{place}/enable")
        time.sleep(1.2)
        shares = Shares(*elements).after(2.5)
        fair(shares[:2], (70, 30))
        all_well(load, edge, least=RATE * 8)


def test_minutes_of_load_leave_nothing_behind():
    """Ten minutes in the long form: elements come and go, and memory, files and transactions stay what they were."""
    home = folder("edge-load")
    length, warm = (600, 180) if LONG else (30, 10)
    dice = random.Random(4)
    with contextlib.ExitStack() as stack:
        elements = three_elements(home, stack)
        edge = stack.enter_context(Edge(home, pool(elements)))
        settled(edge, 3)
        load = stack.enter_context(caller(home, edge))
        began, seen = time.monotonic(), []
        while (now := time.monotonic() - began) < length:
            victim = dice.choice(elements)
            victim.kill()
            time.sleep(2)
            victim.start()
            time.sleep(3)
            seen.append((now, edge.rss_kib(), edge.descriptors(), int(edge.metric("ferric_sip_transactions_active"))))
        counts = all_well(load, edge, least=RATE * (length - 10))
        assert counts["lost"] < length * 2, counts
        early, late = [one for one in seen if one[0] >= warm][0], seen[-1]
        print(f"edge-load: {early} -> {late} (second, KiB, files, transactions)")
        assert late[2] <= early[2] + 20, seen
        # What lingers is bounded by half a minute's transactions; beyond the first half minute nothing grows.
        assert late[1] < (early[1] * 1.1 + 8_000 if LONG else 400_000), seen
        wait(lambda: edge.metric("ferric_proxy_open") == 0, 10, "requests stay open", edge)
        wait(lambda: edge.metric("ferric_sip_transactions_active") < 100, 60, "transactions stay", edge)
