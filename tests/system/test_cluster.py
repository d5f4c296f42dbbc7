"""Several nodes are one edge: who is there, draining, refusals, registrations. Each node has an address 127.0.0.x of its own."""

import contextlib
import json
import re
import signal
import threading
import time

from lib.cluster import Lab, all_up
from lib.node import ferric, folder, wait
from lib.sip import Call
from test_edge_neighbours import Phone, registrar

PLAIN = re.compile(r"\x1b\[[0-9;]*m")


def log(node):
    return PLAIN.sub("", node.log.read_text(errors="replace"))


def test_nodes_find_each_other_drain_and_leave():
    with Lab(folder("cluster-nodes"), nats=1) as lab:
        a, b = lab.member("edge-a1").start(), None
        b = lab.member("edge-a2", seeds=[a]).start()
        c = lab.member("west-1", "west", seeds=[b], roles=("proxy",)).start()
        # One address was enough for each: who was met tells of the others.
        all_up(a, b, c)
        nodes = a.nodes()
        assert nodes["edge-a1"]["this"] and not nodes["edge-a2"]["this"], nodes
        assert nodes["west-1"]["site"] == "west" and nodes["west-1"]["roles"] == ["proxy"], nodes
        wait(lambda: (a.nodes()["edge-a2"]["link"] or {}).get("rtt_ms"), 5, "no round trip is measured", a)
        wait(lambda: all(node["status"]["nats"]["state"] == "up" for node in a.nodes().values()), 10, "NATS is not connected", a)
        told = a.ask("nodes").stdout
        assert "3 of 3 nodes up, seen from edge-a1" in told and re.search(r"^edge-a2 +east +proxy,srs,capture +up ", told, re.M), told
        assert len(json.loads(a.ask("nodes", "--json").stdout)["nodes"]) == 3
        wait(lambda: a.metric('ferric_cluster_node_up{node="west-1"}') == 1, 5, "no metric of a node", a)
        # Any node passes it on; running calls go on, new ones are refused.
        server = (b.ip, b.sip)
        call = Call(b, 1)
        call.server = server
        answer = call.invite()
        assert answer.status == 200, answer.raw
        done = c.ask("drain", "edge-a2")
        assert done.returncode == 0 and "takes no new calls; 1 call runs on" in done.stdout, done
        refused = Call(b, 2)
        refused.server = server
        assert refused.invite().status == 503
        wait(lambda: a.nodes()["edge-a2"]["draining"], 2, "draining is not known", a)
        assert "draining" in a.ask("nodes").stdout
        waiting = Waiting(a, "drain", "edge-a2", "--wait")
        time.sleep(1.5)
        assert not waiting.is_over()
        call.bye()
        assert "it can be stopped" in waiting.result(), waiting
        assert a.ask("drain", "edge-a2", "--undo").returncode == 0
        taken = Call(b, 3)
        taken.server = server
        assert taken.invite().status == 200
        taken.bye()
        missing = a.ask("drain", "edge-z9")
        assert missing.returncode != 0 and "there is no node" in missing.stderr and "edge-a2" in missing.stderr, missing
        # Who says goodbye is missed by nobody, who is killed is missed at once.
        assert c.terminate() == 0
        wait(lambda: a.state("west-1") == "left", 2, "goodbye was not heard", a)
        time.sleep(1.2)
        assert "node-down" not in a.alarms(), a.alarms()
        at = time.time()
        b.kill()
        wait(lambda: a.state("edge-a2") == "down", 3, "a death is not noticed", a)
        print(f"cluster-nodes: a killed node is down after {(time.time() - at) * 1000:.0f} ms, looks included")
        wait(lambda: "edge-a2" in a.alarms().get("node-down", ""), 3, "no alarm", a)
        b.start()
        all_up(a, b)
        wait(lambda: "node-down" not in a.alarms(), 3, "the alarm stands on", a)


class Waiting:
    """A command that takes a while."""

    def __init__(self, node, *arguments):
        self.done = None
        self.thread = threading.Thread(target=lambda: setattr(self, "done", node.ask(*arguments)))
        self.thread.start()

    def is_over(self):
        return self.done is not None

    def result(self):
        self.thread.join(20)
        assert self.done and self.done.returncode == 0, self.done
        return self.done.stdout


def test_who_may_not_come_in_is_named_on_both_sides():
    home = folder("cluster-refused")
    with Lab(home) as lab:
        a = lab.member("edge-a1").start()
        # Another CA.
        other = Lab(home / "other")
        other.home.mkdir()
        other.members = lab.members
        stranger = other.member("edge-b1", seeds=[a]).start()
        wait(lambda: "CA" in a.alarms().get("node-refused", ""), 5, "no alarm of a foreign certificate", a)
        wait(lambda: "refuses this node" in stranger.alarms().get("node-refused", "") or "CA" in stranger.alarms().get("node-refused", ""), 5, "the refused one has no alarm", stranger)
        for node in (a, stranger):
            assert "connection refused: the certificate is not from this cluster's CA" in log(node), log(node)[-2000:]
        assert a.state("edge-b1") is None
        stranger.kill()
        # The same id twice: the one that runs stays.
        b = lab.member("edge-a2", seeds=[a]).start()
        all_up(a, b)
        twin = lab.member("edge-a2", seeds=[a], name_of_folder="twin")
        twin.start()
        wait(lambda: "another running node has the id edge-a2" in a.alarms().get("node-refused", ""), 10, "no alarm of a second node", a)
        wait(lambda: "another running node has the id edge-a2" in twin.alarms().get("node-refused", ""), 5, "the second one has no alarm", twin)
        assert a.state("edge-a2") == "up"


def test_a_certificate_that_is_not_this_nodes_is_told_before_it_starts():
    with Lab(folder("cluster-check")) as lab:
        a = lab.member("edge-a1")
        text = a.config.read_text()
        a.config.write_text(text.replace('site = "east"', 'site = "west"'))
        done = ferric("check", "--config", a.config)
        assert done.returncode == 2 and "it is for edge-a1 in east, and the configuration says edge-a1 in west" in done.stderr, done
        a.config.write_text(text)
        done = ferric("check", "--config", a.config)
        assert done.returncode == 0, done


def test_who_registers_at_one_node_is_called_from_any():
    home = folder("cluster-phones")
    with Lab(home, nats=1) as lab, contextlib.ExitStack() as stack:
        proxy = registrar(home, users="")
        a = lab.member("edge-a1", proxy=proxy).start()
        b = lab.member("edge-a2", seeds=[a], proxy=proxy).start()
        all_up(a, b)
        alice = stack.enter_context(Phone(a, "alice"))
        bob = stack.enter_context(Phone(a, "bob", "tcp", behind="192.0.2.55:5062", listen=False))
        caller = stack.enter_context(Phone(b, "caller"))
        took = []
        for phone in (alice, bob):
            at = time.monotonic()
            assert phone.register().status == 200
            wait(lambda: registrations(b, phone), 3, f"{phone.user} is not known at the other node", b)
            took.append(time.monotonic() - at)
        print(f"cluster-phones: known at the other node after {max(took) * 1000:.0f} ms, looks included")
        assert max(took) < 1.0, took
        # Bob is reached over the node that has his connection.
        for phone in (alice, bob):
            call(caller, phone)
        # All of NATS is gone: nobody notices.
        lab.nats.kill()
        dora = stack.enter_context(Phone(b, "dora"))
        assert dora.register().status == 200
        wait(lambda: registrations(a, dora), 1, "without NATS a registration does not travel", a)
        for phone in (alice, bob):
            call(caller, phone)
        # A REGISTER that moves: the same CSeq again is none, the next one counts, and what it removes is gone everywhere.
        alice.edge = b
        alice.cseq -= 1
        assert alice.ask().status == 500
        assert alice.register(expires=0).status == 200
        wait(lambda: not registrations(a, alice), 1, "alice is still there", a)
        # The node with bob's connection dies: he cannot be reached, which is said at once.
        a.kill()
        wait(lambda: b.state("edge-a1") == "down", 3, "a death is not noticed", b)
        time.sleep(0.2)
        assert refusal(caller, caller.invite("bob"), 2) == 480
        # He comes to the other one, as phones do.
        bob.edge = b
        assert bob.register().status == 200
        call(caller, bob)
        # It comes back, without NATS still, and knows what happened.
        a.start()
        all_up(a, b)
        wait(lambda: registrations(a, dora) and registrations(a, bob) and not registrations(a, alice), 8, "it does not know what the other one knows", a)


def registrations(node, phone):
    return node.get(f"/api/v1/registrations?aor={phone.user}@phones.example")["registrations"]


def call(caller, callee):
    """A call that is answered and ended."""
    sent = caller.invite(callee.user)
    got = callee.receive("INVITE", 3)
    assert got.header("Call-ID") == sent.header("Call-ID")
    got.reply(486, tag="t")
    assert refusal(caller, sent, 3) == 486


def refusal(caller, sent, patience):
    """The status of the final answer to an INVITE that comes to nothing."""
    mine = lambda m: m.key == "INVITE" and m.status >= 300 and m.header("Call-ID") == sent.header("Call-ID")
    return caller.receive(mine, patience).status


POOL = '[[proxy.server_group]]\nname = "pool"\nheartbeat = false\nelement = [{ address = "10.255.0.1:5060" }]\n'
OTHER = '[[proxy.server_group]]\nname = "other" # of this file alone\nheartbeat = false\nelement = [{ address = "10.255.0.2:5060" }]\n'
ROUTE = '[[proxy.route]]\nmatch = { user = "^9" }\nto = "pool"\n'


def groups(node):
    return sorted(group["name"] for group in node.get("/api/v1/server-groups"))


def change(node, name, address, version=None):
    body = {"heartbeat": False, "element": [{"address": address}]}
    headers = {"If-Match": f'"{version}"'} if version else None
    status, answer = node.get(f"/api/v1/server-groups/{name}", raw=True, method="PUT", body=body, headers=headers)
    return status, json.loads(answer)


def element(node, name="pool"):
    group = next(group for group in node.get("/api/v1/server-groups") if group["name"] == name)
    return group["elements"][0]["address"]


def same(what, *nodes, timeout=3):
    for node in nodes:
        wait(lambda: what(node), timeout, "a node does not follow", node)


def test_all_nodes_run_by_the_same_server_groups_and_routes():
    with Lab(folder("cluster-config"), nats=1) as lab:
        a = lab.member("edge-a1", proxy=f"udp_mtu = 1300\n{POOL}{ROUTE}").start()
        epoch = lambda node: node.nodes()[node.name]["status"]["config_epoch"]
        wait(lambda: epoch(a), 10, "the first node's file is not the first epoch", a)
        # The cluster wins over a file that says something else, and over no more than that.
        b = lab.member("edge-a2", seeds=[a], proxy=f"record_route = true # as we like it\n{OTHER}").start()
        c = lab.member("west-1", "west", seeds=[a], roles=("proxy",), proxy="record_route = true").start()
        all_up(a, b, c)
        same(lambda node: groups(node) == ["pool"] and len(node.get("/api/v1/routes")) == 1, b, c, timeout=10)
        assert "the cluster's are in force" in log(b), log(b)[-2000:]
        text = b.config.read_text()
        assert "record_route = true # as we like it" in text and 'name = "pool"' in text and "other" not in text, text
        versions = b.get("/api/v1/config/versions")
        assert "other" in b.get(f"/api/v1/config/versions/{versions[-1]['number']}")["text"], versions
        # A change on any node is one on all.
        before = a.get("/api/v1/config")["version"]
        status, told = change(c, "pool", "10.255.0.9:5060")
        assert status == 200, told
        same(lambda node: element(node) == "10.255.0.9:5060", a, b, c)
        same(lambda node: epoch(node) == epoch(c), a, b)
        assert "10.255.0.9" in a.config.read_text()
        # Two at once: at most one is taken, and the other one is told so; all end with the same.
        answers = {}
        tries = [threading.Thread(target=lambda node=node, last=last: answers.update({node.name: change(node, "pool", f"10.255.1.{last}:5060")})) for last, node in enumerate((a, b, c))]
        for one in tries:
            one.start()
        for one in tries:
            one.join(20)
        statuses = sorted(status for status, _ in answers.values())
        assert statuses[0] == 200 and set(statuses) <= {200, 412}, answers
        for status, told in answers.values():
            assert status == 200 or "another node changed" in told["detail"], told
        wait(lambda: len({element(node) for node in (a, b, c)}) == 1 and len({epoch(node) for node in (a, b, c)}) == 1, 5, "nodes differ", a)
        # Back to what was, everywhere.
        assert b.get("/api/v1/config/rollback", raw=True, method="POST", body={"version": b.get("/api/v1/config/versions")[0]["number"] - 1})[0] in (200, 412)
        assert a.get("/api/v1/config/rollback", raw=True, method="POST", body={"version": before})[0] == 200
        same(lambda node: element(node) == "10.255.0.1:5060", a, b, c)
        # A file that is edited, and read by SIGHUP, is a change for all.
        a.config.write_text(a.config.read_text().replace("10.255.0.1", "10.255.0.7"))
        a.process.send_signal(signal.SIGHUP)
        same(lambda node: element(node) == "10.255.0.7:5060", a, b, c)
        # NATS is gone: no change, and why; what is a node's own can be changed.
        lab.nats.kill()
        wait(lambda: a.nodes()["edge-a1"]["status"]["nats"]["state"] == "away", 10, "nobody notices", a)
        text = a.config.read_text()
        status, told = change(a, "pool", "10.255.0.66:5060")
        assert status == 503 and "NATS does not take a change" in told["detail"], (status, told)
        assert a.config.read_text() == text and element(a) == "10.255.0.7:5060"
        a.config.write_text(text.replace("udp_mtu = 1300", "udp_mtu = 1200"))
        a.process.send_signal(signal.SIGHUP)
        wait(lambda: "proxy.udp_mtu: 1200" in log(a), 5, "its own part is not taken over", a)
        # A node that starts without NATS runs by the last epoch.
        b.kill()
        b.start()
        same(lambda node: element(node) == "10.255.0.7:5060", b)
        lab.nats.start()
        wait(lambda: change(b, "pool", "10.255.0.8:5060")[0] == 200, 20, "NATS is back and takes no change", b)
        same(lambda node: element(node) == "10.255.0.8:5060", a, b, c, timeout=15)
        for node in (a, b, c):
            assert "config-behind" not in node.alarms(), node.alarms()
