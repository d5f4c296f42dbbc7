"""The edge among others: Kamailio before and behind it, phones at its registrar, sipp for many calls."""

import contextlib
import hashlib
import re
import shutil
import signal
import time

from lib.edge import SCENARIOS, Child, Sipp, all_well, group, route
from lib.node import folder, wait
from lib.peer import Message, Peer, Proxy, Side, final, quiet_port, token

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
        self.home, self.port = home, port or quiet_port()
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
        port = quiet_port()
        then = "" if stays else f'<action><setdest host="127.0.0.1" port="{port}" protocol="udp"/></action>'
        with Sipp(home, "callee", "edge-callee", then=then) as callee:
            proxy = f"record_route = {str(stays).lower()}\n" + group("pool", [(callee.address, 1, 1)]) + route("pool")
            with Proxy(home, proxy) as edge, Kamailio(home, f"sip:127.0.0.1:{edge.sip};transport={hop}", port) as kamailio:
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
            with Proxy(home, proxy) as edge:
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
    edge = Proxy(home, "")
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


# ---- phones -----------------------------------------------------------------------------------------------------------

DOMAIN = "phones.example"
USERS = """[[user]]
name = "alice"
password = "a long one"
[[user]]
name = "bob"
password = "an even longer one"
"""


def registrar(home, users=USERS, more=""):
    """The [proxy] section of a registrar; without users nobody is asked for a password."""
    if users:
        (home / "users.toml").write_text(users)
        (home / "users.toml").chmod(0o600)
        more += 'users = "users.toml"\n'
    return f'record_route = true\n[proxy.registrar]\ndomains = ["{DOMAIN}"]\n{more}'


def challenges(response, name="WWW-Authenticate"):
    """The challenges of a response, as dictionaries, in their order."""
    found = []
    for value in response.all(name):
        assert value.startswith("Digest "), value
        found.append({key: quoted or bare for key, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^\s,"]+))', value[7:])})
    return found


def credentials(challenge, method, uri, user, password, nc=1, header="Authorization"):
    """RFC 7616 3.4, qop=auth."""
    algorithm = challenge.get("algorithm", "MD5")
    digest = lambda text: {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}[algorithm](text.encode()).hexdigest()
    own = token()
    secret = digest(f"{user}:{challenge['realm']}:{password}")
    response = digest(f"{secret}:{challenge['nonce']}:{nc:08x}:{own}:auth:{digest(f'{method}:{uri}')}")
    opaque = f', opaque="{challenge["opaque"]}"' if "opaque" in challenge else ""
    return (f'{header}: Digest username="{user}", realm="{challenge["realm"]}", nonce="{challenge["nonce"]}", uri="{uri}", '
            f'algorithm={algorithm}, qop=auth, nc={nc:08x}, cnonce="{own}", response="{response}"{opaque}')


class Phone(Peer):
    """A peer with a name that can register."""

    def __init__(self, edge, user, transport="udp", password=None, behind=None, **options):
        # `behind`: the address that it believes to have, of a network that nobody can reach.
        self.behind = behind
        super().__init__(transport, **options)
        self.edge, self.user, self.password = edge, user, password
        self.aor, self.place = f"sip:{user}@{DOMAIN}", f"sip:{user}@{self.host};transport={transport}"
        self.call, self.cseq = token(64), 0

    @property
    def host(self):
        return self.behind or super().host

    @property
    def contact(self):
        return self.place

    @property
    def link(self):
        return self.edge.link(self)

    def ask(self, headers=(), expires=600, contacts=None):
        """One REGISTER and its answer."""
        self.cseq += 1
        listed = contacts if contacts is not None else [f"<{self.place}>"]
        self.link.send(self.request("REGISTER", f"sip:{DOMAIN}", call_id=self.call, cseq=self.cseq, from_uri=self.aor, to_uri=self.aor, contact=False,
                                    headers=[*(f"Contact: {one}" for one in listed), f"Expires: {expires}", *headers]))
        return self.receive(lambda m: m.key == "REGISTER" and m.header("CSeq").startswith(f"{self.cseq} ") and m.status >= 200)

    def register(self, expires=600, algorithm=None, contacts=None):
        """Registers, with the password if asked for one; the last answer."""
        answer = self.ask(expires=expires, contacts=contacts)
        if answer.status == 401 and self.password:
            offered = challenges(answer)
            chosen = next(one for one in offered if algorithm in (None, one.get("algorithm", "MD5")))
            answer = self.ask([credentials(chosen, "REGISTER", f"sip:{DOMAIN}", self.user, self.password)], expires, contacts)
        return answer

    def invite(self, to):
        """Calls a user; answers the 407 if there is one. The INVITE that counts."""
        uri = f"sip:{to}@{DOMAIN}"
        make = lambda cseq, headers=(): self.request("INVITE", uri, call_id=call, cseq=cseq, tag=tag, from_uri=self.aor, headers=headers)
        call, tag = token(64), token()
        raw = make(1)
        self.link.send(raw)
        if self.password:
            asked = self.receive(407)
            self.link.send(self.request("ACK", uri, call_id=call, cseq=1, tag=tag, to_tag=asked.to_tag, branch=Message(raw).branch, from_uri=self.aor))
            raw = make(2, [credentials(challenges(asked, "Proxy-Authenticate")[0], "INVITE", uri, self.user, self.password, header="Proxy-Authorization")])
            self.link.send(raw)
        return Message(raw)

    def answers(self, invite, status=200, tag=None):
        invite.reply(status, "OK", tag=tag or token(), headers=(f"Contact: <{self.place}>",))


@contextlib.contextmanager
def phones(name, *users, users_file="", more="", **options):
    """An edge with a registrar, and a phone for each (user, transport)."""
    home = folder(name)
    with Proxy(home, registrar(home, users_file, more), **options) as edge, contextlib.ExitStack() as stack:
        yield edge, *(stack.enter_context(Phone(edge, user, transport)) for user, transport in users)
        assert "panicked" not in edge.log.read_text(errors="replace"), edge.tail()


def test_phones_register_with_md5_and_with_sha_256():
    home = folder("edge-digest")
    with Proxy(home, registrar(home)) as edge, Phone(edge, "alice", password="a long one") as alice:
        first = alice.ask()
        assert first.status == 401 and [one["algorithm"] for one in challenges(first)] == ["SHA-256", "MD5"], first
        assert all(one["qop"] == "auth" and one["realm"] == DOMAIN for one in challenges(first))
        for algorithm in ("MD5", "SHA-256"):
            answer = alice.register(algorithm=algorithm)
            assert answer.status == 200 and f"<{alice.place}>" in answer.header("Contact"), answer
            assert 590 <= int(re.search(r"expires=(\d+)", answer.header("Contact"))[1]) <= 600
        # A nonce may be used again with the next count, and no count twice.
        chosen = challenges(alice.ask())[0]
        with_count = lambda nc: alice.ask([credentials(chosen, "REGISTER", f"sip:{DOMAIN}", "alice", alice.password, nc)])
        assert [with_count(nc).status for nc in (1, 2, 3)] == [200, 200, 200]
        again = with_count(2)
        assert again.status == 401 and challenges(again)[0].get("stale", "").lower() == "true", again
        # Not with a wrong password, not as somebody else, not without a name that is known.
        wrong = lambda user, password: alice.ask([credentials(challenges(alice.ask())[0], "REGISTER", f"sip:{DOMAIN}", user, password)])
        assert [wrong("alice", "wrong").status, wrong("bob", "an even longer one").status, wrong("mallory", "x").status] == [401, 403, 401]
        assert alice.register(expires=0).status == 200 and not alice.register(contacts=[]).all("Contact")


def test_many_phones_register_with_sipp():
    home = folder("edge-register")
    hashed = lambda user: hashlib.md5(f"{user}:{DOMAIN}:secret".encode()).hexdigest()
    users = "".join(f'[[user]]\nname = "u{number}"\ndomain = "{DOMAIN}"\nha1_md5 = "{hashed(f"u{number}")}"\n' for number in range(CALLS))
    lines = "".join(f"u{number};[authentication username=u{number} password=secret]\n" for number in range(CALLS))
    (home / "users.csv").write_text(f"SEQUENTIAL\n{lines}")
    scenario = home / "register.xml"
    scenario.write_text((SCENARIOS / "edge-register.xml").read_text().replace("@DOMAIN@", DOMAIN))
    with Proxy(home, registrar(home, users)) as edge:
        for transport in ("u1", "t1"):
            command = ["sipp", f"127.0.0.1:{edge.sip}", "-sf", scenario, "-i", "127.0.0.1", "-p", quiet_port(), "-t", transport, "-nostdin", "-inf", home / "users.csv", "-auth_uri", DOMAIN,
                       "-r", RATE, "-m", CALLS, "-recv_timeout", "5000", "-timeout", "20", "-trace_err", "-error_file", home / f"{transport}.err"]
            child = Child(command, log=home / "sipp.log")
            assert child.wait(20) and child.process.returncode == 0, (home / f"{transport}.err").read_text()[-1000:] + edge.tail()
        # What could be reached by the connection alone, from whose port sipp sent, is gone with it.
        wait(lambda: edge.metric("ferric_registrations") == CALLS, 10, f"a contact of every user: {edge.metric('ferric_registrations')}", edge)
        edge.well()


def test_a_call_between_two_phones_one_behind_its_own_connection():
    home = folder("edge-phones")
    with Proxy(home, registrar(home)) as edge, \
            Phone(edge, "alice", password="a long one") as alice, \
            Phone(edge, "bob", "tcp", "an even longer one", behind="192.0.2.55:5062", listen=False) as bob:
        assert (alice.register().status, bob.register().status) == (200, 200)
        own = bob.link
        for caller, callee in ((alice, bob), (bob, alice)):
            sent = caller.invite(callee.user)
            got = callee.receive("INVITE")
            assert got.uri == callee.place and (callee is alice or got.link is own), got
            got.reply(180, tag="t")
            callee.answers(got, tag="t")
            caller.receive(180)
            ok = caller.receive(200)
            assert ok.header("Call-ID") == sent.header("Call-ID")
            here, there = Side.caller(caller, ok, caller.link), Side.callee(callee, got, "t", callee.link)
            here.send("ACK", cseq=int(sent.header("CSeq").split()[0]))
            callee.receive("ACK")
            # Within the dialog the connection is the only way to bob, too.
            for side, other in ((there, caller), (here, callee)):
                side.send("INFO")
                info = other.receive("INFO")
                assert info.link is own or other is alice
                info.reply(200)
                side.peer.receive(lambda m: m.key == "INFO" and m.status == 200)
            here.send("BYE")
            callee.receive("BYE").reply(200)
            caller.receive(lambda m: m.key == "BYE" and m.status == 200)


def test_who_is_gone_is_gone():
    with phones("edge-gone-phones", ("alice", "udp"), ("bob", "tcp"), ("caller", "udp")) as (edge, alice, bob, caller):
        bob.behind, bob.place = "192.0.2.55:5062", "sip:bob@192.0.2.55:5062;transport=tcp"

        def calls(user):
            sent = caller.invite(user)
            answer = caller.receive(lambda m: m.header("Call-ID") == sent.header("Call-ID") and m.status >= 180)
            return answer.status

        assert (calls("alice"), calls("nobody")) == (480, 404) or (calls("alice"), calls("nobody")) == (480, 480)
        assert (alice.register().status, bob.register().status) == (200, 200)
        for phone in (alice, bob):
            sent = caller.invite(phone.user)
            phone.receive("INVITE").reply(486, tag="t")
            caller.receive(486)
        alice.register(expires=0)
        assert calls("alice") == 480
        # Its connection was the only way.
        bob.link.close()
        time.sleep(0.3)
        assert calls("bob") == 480
        # A time that ends.
        assert alice.register(expires=1).status == 423
        edge.rewrite(registrar(edge.home, "", 'min_expires = "1s"\n'))
        wait(lambda: alice.register(expires=1).status == 200, 5, "the shortest time to be taken over", edge)
        time.sleep(1.6)
        assert calls("alice") == 480


def test_registrations_outlive_the_node():
    with phones("edge-restart", ("alice", "udp"), ("bob", "udp"), ("carol", "tcp"), ("caller", "udp")) as (edge, alice, bob, carol, caller):
        for phone in (alice, bob, carol):
            assert phone.register().status == 200
        bob.register(expires=0)
        # It is on disk within a second.
        time.sleep(1.5)
        edge.kill()
        for link in carol.links + caller.links:
            link.close()
        edge.start()
        caller.invite("alice")
        got = alice.receive("INVITE", 3)
        got.reply(486, tag="t")
        caller.receive(486)
        caller.invite("bob")
        assert caller.receive(final).status == 480
        # Her contact can be reached without the old connection.
        caller.invite("carol")
        carol.receive("INVITE", 3).reply(486, tag="t")
        caller.receive(486)
        left = int(re.search(r"expires=(\d+)", alice.register(contacts=[]).header("Contact"))[1])
        assert 500 < left < 600, left


# ---- several contacts -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def forked(name, qs, more="", transport="udp"):
    """A user with several phones, of the q values given, and a caller whose INVITE is under way."""
    with phones(name, *[("team", transport)] * len(qs), ("caller", "udp"), more=more) as (edge, *all_of, caller):
        for phone, q in zip(all_of, qs):
            assert phone.register(contacts=[f"<{phone.place}>;q={q}"]).status == 200
        yield edge, all_of, caller


def begins(caller):
    sent = caller.invite("team")
    caller.receive(100)
    return sent


def acks(caller, sent, refused):
    caller.link.send(caller.request("ACK", sent.uri, branch=sent.branch, call_id=sent.header("Call-ID"), tag="x", to_tag=refused.to_tag, from_uri=caller.aor))


def test_an_emptied_users_file_leaves_all_as_it_was():
    home = folder("edge-no-users")
    with Proxy(home, registrar(home)) as edge, Phone(edge, "alice", password="a long one") as alice, Phone(edge, "bob", password="an even longer one") as bob:
        assert alice.register().status == bob.register().status == 200
        bindings = lambda: sorted((one["aor"], one["contact"]) for one in edge.get("/api/v1/registrations")["registrations"])
        known = bindings()
        for users in ("", "# nobody\n", "[[user]]\n", None):
            (home / "users.toml").write_text(users) if users is not None else (home / "users.toml").unlink()
            edge.process.send_signal(signal.SIGHUP)
            wait(lambda: "config-refused" in str(edge.get("/api/v1/alarms")), 10, "an alarm", edge)
            assert bindings() == known and len(known) == 2, known
            # Passwords hold, and the other one is still reached.
            assert alice.ask().status == 401 and alice.register().status == 200
            alice.invite("bob")
            bob.answers(bob.receive("INVITE"), 486)
            (home / "users.toml").write_text(USERS)
            edge.process.send_signal(signal.SIGHUP)
            wait(lambda: "config-refused" not in str(edge.get("/api/v1/alarms")), 10, "no alarm", edge)
        edge.well()


def test_the_first_who_answers_has_the_call():
    with forked("edge-fork", (1, 1, 1)) as (edge, team, caller):
        sent = begins(caller)
        got = [phone.receive("INVITE") for phone in team]
        assert len({one.branch for one in got}) == 3 and len({one.header("Call-ID") for one in got}) == 1
        assert [one.uri for one in got] == [phone.place for phone in team]
        for number, one in enumerate(got):
            one.reply(180, tag=f"t{number}")
        assert {caller.receive(180).to_tag for _ in range(3)} == {"t0", "t1", "t2"}
        got[0].reply(486, tag="t0")
        team[0].receive("ACK")
        caller.none(486, 0.3)
        team[1].answers(got[1], tag="t1")
        assert caller.receive(final).to_tag == "t1"
        cancel = team[2].receive("CANCEL")
        assert cancel.branch == got[2].branch
        cancel.reply(200)
        got[2].reply(487, tag="t2")
        team[2].receive("ACK")
        team[1].none("CANCEL", 0.3)
        caller.none(final, 0.3)
        # Two at the same moment: both answers pass, the caller chooses (13.2.2.4).
        sent = begins(caller)
        got = [phone.receive("INVITE") for phone in team]
        for number in (0, 1):
            team[number].answers(got[number], tag=f"s{number}")
        assert {caller.receive(final).to_tag for _ in range(2)} == {"s0", "s1"}
        assert sent.header("Call-ID") == got[0].header("Call-ID")


def test_a_no_of_everybody_ends_the_search():
    """A 6xx (16.7 step 5): the others are cancelled, nobody else is asked."""
    with forked("edge-fork-6xx", (1, 1, 0.5)) as (edge, team, caller):
        begins(caller)
        got = [phone.receive("INVITE") for phone in team[:2]]
        got[1].reply(180, tag="t1")
        caller.receive(180)
        got[0].reply(603, tag="t0")
        team[0].receive("ACK")
        team[1].receive("CANCEL").reply(200)
        got[1].reply(487, tag="t1")
        team[1].receive("ACK")
        assert caller.receive(final).status == 603
        team[2].none("INVITE", 0.4)


def test_the_best_of_all_refusals_is_told():
    for number, (statuses, told) in enumerate([((404, 486, 503), (404, 486)), ((302, 404, 500), (302,)), ((408, 480, 503), (480,)), ((503, 500, 504), (500, 504)), ((401, 486, 407), (401, 407))]):
        with forked(f"edge-fork-best-{number}", (1, 1, 1)) as (edge, team, caller):
            begins(caller)
            for phone, status in zip(team, statuses):
                headers = {401: ('WWW-Authenticate: Digest realm="one", nonce="n"',), 407: ('Proxy-Authenticate: Digest realm="two", nonce="n"',),
                           302: ("Contact: <sip:x@192.0.2.7>",)}.get(status, ())
                phone.receive("INVITE").reply(status, tag="t", headers=headers)
                phone.receive("ACK")
            answer = caller.receive(final)
            assert answer.status in told, (statuses, answer)
            if 401 in statuses:
                # The caller needs every challenge (16.7 step 7).
                assert [len(answer.all(name)) for name in ("WWW-Authenticate", "Proxy-Authenticate")] == [1, 1], answer


def test_a_cancel_reaches_every_phone():
    with forked("edge-fork-cancel", (1, 1, 0.3)) as (edge, team, caller):
        sent = begins(caller)
        got = [phone.receive("INVITE") for phone in team[:2]]
        for one in got:
            one.reply(180, tag="t")
            caller.receive(180)
        caller.link.send(sent.raw.split(b"\r\nContact:")[0].replace(b"INVITE", b"CANCEL") + b"\r\nContent-Length: 0\r\n\r\n")
        assert caller.receive(lambda m: m.key == "CANCEL").status == 200
        for phone, one in zip(team, got):
            phone.receive("CANCEL").reply(200)
            one.reply(487, tag="t")
            phone.receive("ACK")
        assert caller.receive(lambda m: m.status >= 200 and m.key == "INVITE").status == 487
        team[2].none("INVITE", 0.4)


def test_lower_q_values_wait_for_higher_ones():
    with forked("edge-fork-q", (0.2, 1, 0.7), 'fork = "sequential"\n') as (edge, team, caller):
        begins(caller)
        for place in (1, 2, 0):
            got = team[place].receive("INVITE")
            for other in range(3):
                team[other].none("INVITE", 0.1)
            got.reply(486 if place else 200, tag="t", headers=(f"Contact: <{team[place].place}>",))
        assert caller.receive(final).status == 200


def test_a_phone_that_is_silent_does_not_hold_up_the_others():
    with forked("edge-fork-silent", (1, 1)) as (edge, team, caller):
        begins(caller)
        silent, quick = (phone.receive("INVITE") for phone in team)
        team[1].answers(quick)
        assert caller.receive(final).status == 200
        # Nothing was heard of it, so nothing can be cancelled, until something is.
        team[0].none("CANCEL", 0.3)
        silent.reply(180, tag="late")
        team[0].receive("CANCEL")


def test_users_who_forward_to_each_other_end_in_a_loop_that_is_found():
    """RFC 5393: two contacts each, and without loop detection a call would become 2^70 of them."""
    with phones("edge-fork-loop", ("alice", "udp"), ("bob", "udp"), ("caller", "udp")) as (edge, alice, bob, caller):
        for phone, other in ((alice, "bob"), (bob, "alice")):
            contacts = [f"<sip:{other}@{DOMAIN}:{edge.sip};maddr=127.0.0.1;x={number}>" for number in (1, 2)]
            assert phone.register(contacts=contacts).status == 200
        began = time.monotonic()
        caller.invite("alice")
        answer = caller.receive(final, 10)
        assert 400 <= answer.status < 500 and time.monotonic() - began < 5, answer
        time.sleep(0.5)
        assert len(edge.requests()) < 40, len(edge.requests())
