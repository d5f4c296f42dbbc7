"""Change while running: SIGHUP, the API of groups and routes, versions, rollback, and what a wrong input of each kind gets."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request

from lib.node import FERRIC, Node, ferric, folder, free_port, rtp_range, wait


class Element(threading.Thread):
    """A server that answers OPTIONS with 200 and INVITE with 486, over UDP."""

    def __init__(self, port=0):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", port))
        self.socket.settimeout(0.1)
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.invites = 0
        self.running = True
        self.start()

    def run(self):
        while self.running:
            try:
                data, source = self.socket.recvfrom(65536)
            except TimeoutError:
                continue
            except OSError:
                return
            head = data.decode(errors="replace").split("\r\n\r\n")[0].split("\r\n")
            method = head[0].split(" ")[0]
            if method not in ("OPTIONS", "INVITE"):
                continue
            self.invites += method == "INVITE"
            kept = [line for line in head[1:] if line.split(":")[0] in ("Via", "From", "Call-ID", "CSeq")]
            to = next(line for line in head if line.startswith("To:"))
            status = "200 OK" if method == "OPTIONS" else "486 Busy Here"
            answer = [f"SIP/2.0 {status}", *kept, f"{to};tag=e", "Content-Length: 0", "", ""]
            self.socket.sendto("\r\n".join(answer).encode(), source)

    def stop(self):
        self.running = False
        self.join()
        self.socket.close()


def invite(user, call_id, port=5060, source="127.0.0.1"):
    return (
        f"INVITE sip:{user}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {source}:{port};branch=z9hG4bK{call_id}\r\n"
        f"Max-Forwards: 70\r\nFrom: <sip:a@example.com>;tag={call_id}\r\nTo: <sip:{user}@example.com>\r\n"
        f"Call-ID: {call_id}\r\nCSeq: 1 INVITE\r\nContact: <sip:a@{source}:{port}>\r\nContent-Length: 0\r\n\r\n"
    )


def call(node, user, call_id):
    """The final status of one call, whose ACK is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as phone:
        phone.bind(("127.0.0.1", 0))
        phone.settimeout(5)
        message = invite(user, call_id, phone.getsockname()[1])
        phone.sendto(message.encode(), ("127.0.0.1", node.sip))
        while True:
            answer = phone.recv(65536).decode()
            status = int(answer.split(" ")[1])
            if status >= 200:
                to = re.search(r"^To:.*$", answer, re.M).group(0).strip()
                ack = re.sub(r"^To:.*$", to, message.replace("INVITE", "ACK"), flags=re.M)
                phone.sendto(ack.encode(), ("127.0.0.1", node.sip))
                return status


class Api:
    """Requests with their status, body and ETag."""

    def __init__(self, node):
        self.node = node

    def __call__(self, method, path, body=None, **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, str):
            data, headers = body.encode(), {"Content-Type": "text/plain", **headers}
        else:
            data = json.dumps(body).encode() if body is not None else (b"" if method == "POST" else None)
            headers = {"Content-Type": "application/json", **headers}
        token = (self.node.data / "admin.token").read_text().strip()
        request = urllib.request.Request(f"http://127.0.0.1:{self.node.http}/api/v1{path}", method=method, data=data)
        for name, value in {"Authorization": f"Bearer {token}", **headers}.items():
            request.add_header(name, value)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, payload, self.tag = answer.status, answer.read(), answer.headers.get("ETag")
        except urllib.error.HTTPError as error:
            status, payload, self.tag = error.code, error.read(), None
            assert error.headers["Content-Type"] == "application/problem+json", (path, payload)
        try:
            return status, json.loads(payload)
        except ValueError:
            return status, payload.decode()


def listen(node):
    """Events as they come: a list that grows."""
    events = []
    token = (node.data / "admin.token").read_text().strip()
    request = urllib.request.Request(f"http://127.0.0.1:{node.http}/api/v1/events", headers={"Authorization": f"Bearer {token}"})
    stream = urllib.request.urlopen(request, timeout=120)

    def read():
        name = None
        try:
            for line in stream:
                line = line.decode().strip()
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: ") and name:
                    events.append((name, json.loads(line[6:])))
        except (OSError, ValueError, AttributeError):
            pass

    threading.Thread(target=read, daemon=True).start()
    return events


PROXY = """
# Who takes the calls.
[[proxy.server_group]]
name = "pool"           # the first group
heartbeat = {{ up = "300ms", down = "300ms", misses = 2 }}
timeout = "500ms"
element = [
  {{ address = "{0}", weight = 30 }},   # the strong one
  {{ address = "{1}", weight = 10 }},
]

[[proxy.route]]
name = "numbers"
match = {{ user = "^[0-9]+$" }}
to = "pool"
"""


def version(api):
    status, config = api("GET", "/config")
    assert status == 200 and api.tag == f'"{config["version"]}"', config
    return config["version"]


def hang_up(node, wanted, api):
    node.process.send_signal(signal.SIGHUP)
    wait(lambda: wanted(api("GET", "/config")[1]), 10, "what comes of SIGHUP", node)


def alarms(api):
    return {alarm["name"] for alarm in api("GET", "/alarms")[1]}


def test_groups_and_routes_are_changed_over_the_api():
    home = folder("edge-api")
    first, second, third = Element(), Element(), Element()
    with Node(home, extra=PROXY.format(first.address, second.address)) as node:
        api, events = Api(node), listen(node)
        assert version(api) == 1
        assert call(node, "1555", "one") == 486 and first.invites + second.invites == 1

        status, groups = api("GET", "/server-groups")
        assert status == 200 and [group["name"] for group in groups] == ["pool"], groups
        wait(lambda: api("GET", "/server-groups/pool")[1]["elements"][0].get("last_alive"), 5, "a heartbeat", node)
        pool = api("GET", "/server-groups/pool")[1]
        assert pool["state"] == "up" and [e["share_percent"] for e in pool["elements"]] == [75.0, 25.0], pool
        assert sum(e["counters"]["requests"] for e in pool["elements"]) == 1 and pool["config"]["timeout"] == "500ms"

        # A new element, with a number of the version that was read; the comments of the file stay.
        config = pool["config"]
        config["element"].append({"address": third.address, "weight": 60})
        status, change = api("PUT", "/server-groups/pool", config, If_Match='"1"')
        assert (status, change["version"], change["needs_restart"]) == (200, 2, []), change
        assert any(third.address in words for words in change["changes"]), change
        text = node.config.read_text()
        for kept in ("# Who takes the calls.", "# the first group", "# the strong one", third.address):
            assert kept in text, text
        assert [e["share_percent"] for e in api("GET", "/server-groups/pool")[1]["elements"]] == [30.0, 10.0, 60.0]
        assert api("PUT", "/server-groups/pool", config, If_Match='"1"')[0] == 412
        assert api("PUT", "/server-groups/pool", config) == (200, {**change, "changed": False, "changes": []})
        status, change = api("PUT", "/server-groups/spare", {"element": [{"address": first.address}], "fallback": "pool"})
        assert (status, change["version"]) == (201, 3), change

        # One wrong input of each kind: told with its place, and nothing changes.
        before = node.config.read_text()
        status, problem = api("PUT", "/server-groups/pool", {**config, "policy": "best"})
        assert status == 422 and "policy" in problem["errors"][0]["message"] and problem["errors"][0]["line"] > 1, problem
        assert api("PUT", "/server-groups/pool", {**config, "nonsense": 1})[0] == 422
        assert api("PUT", "/server-groups/pool", {**config, "name": "other"})[0] == 400
        assert api("PUT", "/server-groups/pool", "{nonsense", Content_Type="application/json")[0] == 400
        assert api("PUT", "/server-groups/a%20b", {"dns": True})[0] == 422
        status, problem = api("DELETE", "/server-groups/pool")
        assert status == 409 and 'route "numbers"' in problem["detail"] and 'server group "spare"' in problem["detail"], problem
        assert api("DELETE", "/server-groups/none")[0] == 404 and api("GET", "/server-groups/none")[0] == 404
        status, problem = api("PUT", "/routes", [{"to": "nowhere"}])
        assert status == 422 and "nowhere" in problem["errors"][0]["message"], problem
        status, problem = api("PUT", "/config", before.replace("[proxy", "[prxy", 1))
        assert status == 422 and problem["errors"][0]["line"] == before[: before.index("[[proxy")].count("\n") + 1, problem
        assert api("PUT", "/config", "x" * (2 << 20))[0] == 413
        assert node.config.read_text() == before and version(api) == 3

        # Routes, and which one a message takes.
        status, routes = api("GET", "/routes")
        assert routes[0]["name"] == "numbers"
        closed = {"name": "closed", "match": {"user_prefix": "0900"}, "reject": {"code": 603, "reason": "Not Here"}}
        assert api("PUT", "/routes", [closed, *routes])[1]["version"] == 4
        assert call(node, "09001", "two") == 603 and call(node, "1555", "three") == 486
        status, told = api("POST", "/routes/test", {"message": invite("1555", "t"), "source": "127.0.0.9:5070"})
        assert status == 200 and (told["rule"], told["decided_by"]) == ("numbers", "rule"), told
        assert [(rule["name"], rule["matched"]) for rule in told["rules"]] == [("closed", False), ("numbers", True)]
        assert told["rules"][0]["conditions"] == [{"condition": "user begins with 0900", "saw": "1555", "holds": False}]
        picks = told["destination"]["groups"][0]
        assert picks["picked"] and [e["share_percent"] for e in picks["elements"]] == [30.0, 10.0, 60.0], told
        status, told = api("POST", "/routes/test", invite("09001", "t").replace("\r\n", "\n"), Content_Type="application/sip")
        assert (told["rule"], told["destination"]["status"]) == ("closed", 603), told
        status, told = api("POST", "/routes/test", invite("x", "t"))
        assert told["decided_by"] == "default" and told["destination"]["kind"] == "recorder", told
        status, told = api("POST", "/routes/test", {"message": invite("1", "t"), "source": "203.0.113.9:5060"})
        assert told["decided_by"] == "stranger" and told["destination"]["status"] == 403, told
        status, problem = api("POST", "/routes/test", "INVITE sip:x SIP/2.0\r\nnonsense\r\n\r\n")
        assert status == 400 and problem["errors"][0]["line"] == 2, problem
        assert api("POST", "/routes/test", {"message": invite("1", "t"), "source": "there"})[0] == 400
        assert api("POST", "/routes/test", {"massage": "x"})[0] == 400

        # Drained elements get no new calls, over changes as well.
        path = f"/server-groups/pool/elements/{urllib.parse.quote(third.address, safe='')}"
        assert api("POST", f"{path}/drain")[1]["state"] == "drained"
        assert api("PUT", "/routes", routes)[0] == 200
        taken = third.invites
        for number in range(30):
            assert call(node, "1555", f"drained-{number}") == 486
        assert third.invites == taken and api("GET", "/server-groups/pool")[1]["state"] == "degraded"
        assert api("POST", "/server-groups/pool/elements/10.9.9.9/drain")[0] == 404
        assert api("POST", "/server-groups/none/elements/10.9.9.9/drain")[0] == 404
        assert api("GET", f"{path}/drain")[0] == 405

        # Ladders.
        status, ladders = api("GET", "/ladders?limit=3")
        assert status == 200 and len(ladders) == 3 and ladders[0]["last_status"] == 486, ladders
        assert api("GET", "/ladders/three")[1]["summary"]["call_id"] == "three"
        status, drawing = api("GET", "/ladders/three", Accept="text/plain")
        assert status == 200 and "INVITE" in drawing and "486" in drawing, drawing
        assert api("GET", "/ladders/none")[0] == 404

        # Elements that die and come back.
        port = int(second.address.split(":")[1])
        second.stop()
        wait(lambda: "element-down" in alarms(api), 10, "an element is down", node)
        down = next(e for e in api("GET", "/server-groups/pool")[1]["elements"] if e["address"] == second.address)
        assert down["state"] == "down" and down["cause"] in ("misses", "unreachable") and down["since"], down
        first_port = int(first.address.split(":")[1])
        first.stop()
        wait(lambda: "group-dead" in alarms(api), 10, "no element takes calls", node)
        assert call(node, "1555", "dead") == 503
        first, second = Element(first_port), Element(port)
        wait(lambda: not alarms(api) & {"group-dead", "element-down"}, 10, "all are back", node)
        names = {name for name, _ in events}
        assert {"config.applied", "element.down", "element.up"} <= names, names
        assert any(e.get("version") == 2 and e["cause"] == "api" for n, e in events if n == "config.applied"), events

        # What was drained, and the versions, outlive a restart.
        last = version(api)
        assert node.terminate() == 0
        node.start()
        assert version(api) == last
        wait(lambda: api("GET", "/server-groups/pool")[1]["elements"][2]["state"] == "drained", 5, "still drained", node)
        assert api("POST", f"{path}/enable")[1]["drained"] is False
        assert node.terminate() == 0
    for element in (first, second, third):
        element.stop()


def test_a_file_is_read_again_and_versions_go_back():
    home = folder("edge-sighup")
    element, other = Element(), Element()
    node = Node(home, extra=PROXY.format(element.address, other.address))
    # Phones and elements of this test are one source.
    text = re.sub("(requests_per_second_per_source) = .*", r"\1 = 100000", node.config.read_text())
    node.config.write_text(text)
    with node:
        api = Api(node)

        # A good file.
        node.config.write_text(text.replace("weight = 10", "weight = 30"))
        hang_up(node, lambda config: config["version"] == 2, api)
        assert [e["share_percent"] for e in api("GET", "/server-groups/pool")[1]["elements"]] == [50.0, 50.0]
        assert api("GET", "/config/versions")[1][0]["by"] == "sighup"

        # A bad one changes nothing, and says why until it is good again.
        good = node.config.read_text()
        node.config.write_text(good.replace('to = "pool"', 'to = "poool"'))
        hang_up(node, lambda config: "poool" in config.get("refused", ""), api)
        wait(lambda: "config-refused" in alarms(api), 5, "the alarm", node)
        assert version(api) == 2 and "poool" in node.tail() and call(node, "1", "bad") == 486
        status, problem = api("PUT", "/routes", [])
        assert status == 409 and '+to = "poool"' in problem["diff"] and "SIGHUP" in problem["detail"], problem
        node.config.write_text(good)
        hang_up(node, lambda config: "refused" not in config, api)
        wait(lambda: "config-refused" not in alarms(api), 5, "the alarm is gone", node)
        assert version(api) == 2

        # What a running node does not take over is said.
        node.config.write_text(good + "[opus]\nbitrate = 24000\n")
        hang_up(node, lambda config: config["version"] == 3, api)
        assert api("GET", "/config")[1]["needs_restart"] == ["opus"]

        # A text that is only looked at.
        checked = api("POST", "/config/check", good.replace("weight = 30", "weight = 99999"))[1]
        assert not checked["ok"] and len(checked["errors"]) == 2 and checked["errors"][0]["column"] > 1, checked
        checked = api("POST", "/config/check", text)[1]
        assert checked["ok"] and checked["changes"] and checked["needs_restart"] == [], checked
        assert version(api) == 3

        # Back.
        status, change = api("POST", "/config/rollback", {"version": 1}, If_Match='"3"')
        assert (status, change["version"], change["changes"][0]) == (200, 4, "back to version 1"), change
        assert node.config.read_text() == text and api("GET", "/config")[1]["needs_restart"] == []
        assert api("GET", "/config/versions/1")[1]["text"] == text
        assert api("POST", "/config/rollback", {"version": 99})[0] == 404
        assert api("POST", "/config/rollback", {"version": "1"})[0] == 400
        assert api("GET", "/config/versions/99")[0] == 404
        diff = api("GET", "/config/diff?from=3&to=4")[1]["diff"]
        assert "-bitrate = 24000" in diff and diff.startswith("--- version 3\n+++ version 4\n"), diff
        assert api("GET", "/config/diff?from=1&to=4")[1]["diff"] == ""
        assert api("GET", "/config/diff?from=1&to=99")[0] == 404

        # A change every tenth of a second, a broken one in between: no call fails.
        stop, failed, made = threading.Event(), [], [0]

        def calls():
            while not stop.is_set():
                made[0] += 1
                try:
                    status = call(node, "1555", f"load-{made[0]}")
                except OSError as error:
                    status = f"{error} {made[0]}"
                if status != 486:
                    failed.append(status)

        load = threading.Thread(target=calls)
        load.start()
        for number in range(30):
            weights = PROXY.format(element.address, other.address).replace("weight = 10", f"weight = {number + 1}")
            body = text.replace(PROXY.format(element.address, other.address), weights)
            assert api("PUT", "/config", body if number % 3 else body + "[nonsense")[0] == (200 if number % 3 else 422)
            time.sleep(0.1)
        stop.set()
        load.join()
        assert not failed and made[0] > 100, (failed, made)
        versions = api("GET", "/config/versions")[1]
        assert len(versions) == 24 and versions[0]["by"] == "api", len(versions)

        # A node that starts with another file than the last version has a new one.
        last = version(api)
        assert node.terminate() == 0
        node.config.write_text(text.replace("weight = 10", "weight = 77"))
        node.start()
        assert version(api) == last + 1 and api("GET", "/config/versions")[1][0]["by"] == "start"
        mode = (node.data / "config" / f"{last:06}.toml").stat().st_mode & 0o777
        assert mode == 0o600, oct(mode)
    element.stop()
    other.stop()


def test_signalling_does_not_wait_for_files_of_a_change():
    """A registrar that begins reads what it knew, from a disk that does not answer; calls and questions go on."""
    home = folder("edge-slow-disk")
    element = Element()
    with Node(home, extra=PROXY.format(element.address, element.address.replace("127.0.0.1", "127.0.0.2"))) as node:
        api = Api(node)
        text = node.config.read_text()
        journal = node.data / "registrar" / "bindings.jsonl"
        journal.parent.mkdir()
        os.mkfifo(journal)
        node.config.write_text(text + '[proxy.registrar]\ndomains = ["example.com"]\n')
        node.process.send_signal(signal.SIGHUP)
        ends = []
        wait(lambda: ends.extend(far_end(journal)) or ends, 10, "the registrar reads its journal", node)
        for number in range(20):
            assert call(node, "1555", f"slow-{number}") == 486
        assert api("GET", "/registrations") == (200, {"registrations": [], "next_cursor": None})
        # The disk comes back.
        journal.rename(journal.with_name("old"))
        os.close(ends[0])
        wait(lambda: api("GET", "/config")[1]["version"] == 2, 10, "the registrar begins", node)
        assert journal.is_file() and call(node, "1555", "after") == 486
        # It ends, and begins once more with what it knew.
        for more, number in (("", 3), ('[proxy.registrar]\ndomains = ["example.com"]\n', 4)):
            node.config.write_text(text + more)
            hang_up(node, lambda config: config["version"] == number, api)
        assert "refused" not in api("GET", "/config")[1], node.tail()
    element.stop()


def far_end(fifo):
    """The end to write to, once somebody waits at the other one: it waits on."""
    try:
        return [os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)]
    except OSError:
        return []


def test_a_node_without_a_file_keeps_its_changes_in_its_data_folder():
    home = folder("edge-own-file")
    data, element = home / "data", Element()
    assert ferric("keys", "new", "--out", data / "keys", "--tenant", "default").returncode == 0
    sip, http = free_port(socket.SOCK_DGRAM), free_port()
    own = data / "ferric.toml"
    own.write_text(
        f'[node]\ndata_dir = "."\n[[sip.listen]]\ntransport = "udp"\naddress = "127.0.0.1:{sip}"\n'
        f'[capture]\nrtp_address = "127.0.0.1"\nrtp_ports = "{rtp_range()}"\n[console]\nlisten = "127.0.0.1:{http}"\n'
        '[[tenant]]\nname = "default"\npublic_keys = ["keys/default.public.pem"]\nstore = "file://store"\nprefix = "default"\n'
    )

    class Own(Node):
        def __init__(self):
            self.home, self.data, self.sip, self.http, self.log, self.process = home, data, sip, http, home / "node.log", None

        def start(self):
            with open(self.log, "ab") as log:
                self.process = subprocess.Popen([str(FERRIC), "run", "--data-dir", str(data)], stdout=log, stderr=log)
            wait(lambda: self.alive(), 20, "the node does not start", self)
            return self

    with Own() as node:
        api = Api(node)
        assert api("GET", "/config")[1]["file"] == str(own)
        assert api("PUT", "/server-groups/pool", {"element": [{"address": element.address}]})[0] == 201
        assert api("PUT", "/routes", [{"to": "pool"}])[0] == 200
        assert call(node, "1", "one") == 486
        assert node.terminate() == 0
        node.start()
        assert call(node, "1", "two") == 486 and api("GET", "/config")[1]["needs_restart"] == []
        assert not (data / "ferric-data").exists()
    element.stop()
