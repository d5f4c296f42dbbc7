"""Several nodes on one PostgreSQL: it is killed, stands still, asks for TLS, has other tables."""

import json
import os
import subprocess
import threading
import time

from lib.certificates import certificates
from lib.node import FERRIC, Node, ferric, folder, wait
from lib.postgres import Postgres
from lib.sip import Call


def node_on(home, name, database, *, options="", extra="", password=True):
    """A node whose catalogue is a database; its password is in a file."""
    home.mkdir(exist_ok=True)
    (home / "secret").write_text(f"{database.password}\n")
    secret = 'password_file = "secret"\n' if password else ""
    node = Node(home, extra=f'[catalog]\nurl = "{database.url}{options}"\n{secret}{extra}', upload='spool_high_water = "99%"')
    node.config.write_text(node.config.read_text().replace('id = "test"', f'id = "{name}"'))
    return node


def alarms(node):
    return {alarm["name"]: alarm for alarm in node.get("/api/v1/alarms")}


def load(node, calls, rate):
    command = [str(FERRIC), "load", "--to", f"sip:127.0.0.1:{node.sip}", "--calls", str(calls), "--rate", str(rate), "--hold", "2"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process):
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 0, text


def calls(node, count):
    """Calls one after the other, without media."""
    made = [Call(node, number) for number in range(count)]
    for call in made:
        assert call.invite().status == 200
        assert call.bye().status == 200
    return made


def caught_up(node, count, timeout=60):
    wait(lambda: node.metric("ferric_catalog_waiting") == 0, timeout, "the queue is not written", node)
    return node.stored(count)


def test_two_nodes_lose_nothing_when_their_postgresql_is_killed_or_stands_still():
    home = folder("postgres-killed")
    with Postgres() as database:
        a, b = node_on(home / "a", "edge-a", database), node_on(home / "b", "edge-b", database)
        with a, b:
            # kill -9 under load: calls go on, search says what is wrong, an alarm stands.
            loads = [load(node, 60, 10) for node in (a, b)]
            wait(lambda: a.metric("ferric_calls_active") > 5 and b.metric("ferric_calls_active") > 5, 20, "no calls run", a)
            database.kill()
            for node in (a, b):
                wait(lambda: "catalog-away" in alarms(node), 20, "no alarm", node)
                status, body = node.get("/api/v1/recordings", raw=True)
                problem = json.loads(body)
                assert status == 503 and problem["status"] == 503 and "catalogue" in problem["detail"], body
                assert node.get("/readyz", raw=True)[0] == 200, "calls do not need the catalogue"
            for process in loads:
                ended(process)
            assert a.metric("ferric_catalog_waiting") > 0
            database.start()
            for node in (a, b):
                found = caught_up(node, 120)
                assert len(found) == 120 and all(r["state"] == "complete" for r in found), found
                wait(lambda: "catalog-away" not in alarms(node), 20, "the alarm stands", node)
                assert node.metric("ferric_catalog_lost_total") == 0
            assert database.ask("SELECT node, count(*) FROM parts GROUP BY node ORDER BY node") == "edge-a|60\nedge-b|60"

            # It stands still, as behind a cut network, and the node is killed meanwhile.
            database.stand_still()
            *_, call = calls(a, 11)
            wait(lambda: "catalog-away" in alarms(a), 40, "no alarm", a)
            assert a.get("/api/v1/recordings", raw=True)[0] == 503
            a.kill()
            database.go_on()
            a.start()
            found = caught_up(a, 131)
            assert len(found) == 131 and len({r["id"] for r in found}) == 131
            assert [r["id"] for r in found] == [r["id"] for r in caught_up(b, 131)], "both nodes show the same, in one order"
            # What the sealed metadata alone would know came through the queue.
            assert len([r for r in found if r["sip_call_id"] == call.call_id]) == 1, "the call during the outage"

            # Nobody reads the password.
            for node in (a, b):
                assert database.password not in node.log.read_text(errors="replace")
                command = open(f"/proc/{node.process.pid}/cmdline", "rb").read().decode()
                assert database.password not in command
            assert b.terminate() == 0

        # A node starts and records while the database is away.
        database.kill()
        with a:
            calls(a, 5)
            wait(lambda: "catalog-away" in alarms(a), 20, "no alarm", a)
            assert a.get("/api/v1/recordings", raw=True)[0] == 503
            database.start()
            assert len(caught_up(a, 136)) == 136


def test_postgresql_with_tls_is_verified_and_wrong_setups_are_named():
    home = folder("postgres-tls")
    database = Postgres()
    data = database.home / "data"
    (database.home / "tls").mkdir()
    tls = certificates(database.home / "tls")
    for name, file in (("server.crt", tls["certificate"]), ("server.key", tls["key"])):
        (data / name).write_bytes(file.read_bytes())
        (data / name).chmod(0o600)
        if os.getuid() == 0:
            os.chown(data / name, 65534, 65534)
    (data / "postgresql.auto.conf").write_text("ssl = on\n")
    (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
    (home / "other").mkdir()
    foreign = certificates(home / "other")["client_ca"]
    good = f"?sslmode=verify-full&sslrootcert={tls['client_ca']}"
    with database:
        with node_on(home / "a", "edge-a", database, options=good) as node:
            ended(load(node, 3, 10))
            assert len(caught_up(node, 3)) == 3
            assert database.ask("SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'ferric'") == "t"
        with node_on(home / "b", "edge-b", database, options=f"?sslmode=verify-full&sslrootcert={foreign}") as node:
            wait(lambda: "catalog-away" in alarms(node), 20, "no alarm", node)
            assert "certificate" in alarms(node)["catalog-away"]["text"], alarms(node)
        (home / "c").mkdir()
        wrong = node_on(home / "c", "edge-c", database, options=good)
        (home / "c" / "secret").write_text("guess\n")
        with wrong:
            wait(lambda: "catalog-away" in alarms(wrong), 20, "no alarm", wrong)
            assert "password" in alarms(wrong)["catalog-away"]["text"], alarms(wrong)

        # Not a matter of waiting: the node does not start.
        database.ask("INSERT INTO _sqlx_migrations SELECT 9000, description, installed_on, success, checksum, execution_time "
                     "FROM _sqlx_migrations WHERE version = 1")
        newer = node_on(home / "a", "edge-a", database, options=good)
        done = ferric("run", "--config", newer.config, timeout=30)
        assert done.returncode == 1 and "newer program" in done.stderr + done.stdout, done
        database.ask("DELETE FROM _sqlx_migrations WHERE version = 9000")
        (home / "d").mkdir()
        (home / "d" / "party.key").write_text("0123456789abcdef0123456789abcdef\n")
        hashed = node_on(home / "d", "edge-d", database, options=good, extra='parties = "hashed"\nparty_key = "party.key"\n')
        done = ferric("run", "--config", hashed.config, timeout=30)
        assert done.returncode == 1 and "all nodes of a catalogue need the same" in done.stderr + done.stdout, done

    node = node_on(home / "e", "edge-e", database, extra='parties = "hashed"\n', password=False)
    text = node.config.read_text()
    node.config.write_text(text.replace("postgres://ferric@", "postgres://ferric:hidden@"))
    done = ferric("check", "--config", node.config)
    assert done.returncode == 2 and "party_key" in done.stderr + done.stdout, done
    node.config.write_text(node.config.read_text().replace("/postgres\"", "/postgres?sslmod=require\""))
    done = ferric("check", "--config", node.config)
    assert done.returncode == 2 and "sslmod" in done.stderr + done.stdout and "hidden" not in done.stderr + done.stdout, done
