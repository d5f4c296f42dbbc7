"""One scene each: what is broken while calls run, how it is mended, and what was promised.

A scene has the name by which `--only` takes it, the words of the table, and three steps: `break_it` returns the moment and
the names of nodes that others must miss; `mend` makes the bed whole again; `judge` says which promises were not kept.
"""

import random
import statistics
import time

from bed import clock
from calls import Load, heard, recordings, settled, stored, verified, wait

# What issue 5 promises: milliseconds of audio lost by a call whose worker died.
MEDIAN_MS, WORST_MS = 800, 1500
# In the own site a dead node is known after five heartbeats of 100 ms, in the other one after five of 400 ms; and this
# machine has other things to do. Seconds.
DETECTED_WITHIN = (0.8, 2.8)


class Result:
    """One line of the table."""

    def __init__(self, scene):
        self.scene, self.broken = scene, []
        # Seconds until all nodes of the own site knew, and of the other.
        self.detected = (None, None)
        self.calls = self.failed = self.whole = 0
        self.lost, self.hit = [], 0
        self.notes = []

    def row(self):
        median = f"{statistics.median(self.lost) / 1000:.2f}" if self.lost else "0"
        worst = f"{max(self.lost) / 1000:.2f}" if self.lost else "0"
        detected = " / ".join("-" if when is None else f"{when:.2f}" for when in self.detected)
        detected = "-" if self.detected == (None, None) else f"{detected} s"
        return [self.scene.title, detected, f"{self.hit}", f"{median} / {worst} s", f"{self.failed} of {self.calls}",
                f"{self.whole} of {self.calls}", "kept" if not self.broken else "BROKEN"]


HEAD = ["killed", "detected, own / other site", "calls hit", "audio lost, median / worst", "calls failed", "recordings whole", "promise"]


class Scene:
    title, name = "nothing", "nothing"
    # Needs links that can be cut; takes minutes.
    cuts = slow = False
    # Seconds from the break to the mending, and how long calls last.
    away, hold = 6, 24
    # Audio that a call whose media went to a victim may lose: median and worst in milliseconds. Others lose nothing.
    allowed = (0, 0)
    options = ()

    def __init__(self, bed, calls, say, chance=None, **changes):
        self.bed, self.count, self.say = bed, calls, say
        self.random = chance or random.Random(1)
        for key, value in changes.items():
            setattr(self, key, value)

    def break_it(self):
        """Breaks something; the names of nodes that are gone."""
        return []

    def mend(self):
        """Mends it."""

    def load(self):
        return Load(self.bed, self.count, self.hold, rate=20.0, options=self.options)

    def victims(self):
        """Nodes whose calls may lose audio."""
        return []

    def run(self, pause=None):
        bed, result = self.bed, Result(self)
        wait(bed.is_whole, 40, f"the bed is not whole before this scene: {bed.seen()}")
        load = self.load()
        self.say(f"{self.count} calls begin")
        load.wait_until_talking()
        time.sleep(pause if pause is not None else 2.0)
        addresses = {bed[name].address for name in self.victims()}
        at = time.time()
        gone = self.break_it()
        self.say(f"{clock(at)} {self.title}")
        deadline = time.time() + self.away
        while time.time() < deadline:
            time.sleep(0.2)
            self.say(f"{self.title}: mended in {deadline - time.time():.0f} s")
        result.detected = self.detection(gone, at)
        self.mend()
        self.say(f"{self.title}: mended, calls go on")
        lines = load.end()
        self.look(result, load, lines, addresses, at)
        return result

    def detection(self, gone, at):
        """Seconds until the last of the own site knew, and of the other one."""
        told = [(self.bed[node].letter == self.bed[name].letter, f"{node} of {name}", when)
                for name in gone for node, when in self.bed.told_down(name, at).items() if self.must_know(node, name)]
        silent = [who for _, who, when in told if when is None]
        assert not silent, f"never heard: {', '.join(silent)}"
        of = lambda own: max((when for is_own, _, when in told if is_own == own), default=None)
        return of(True), of(False)

    def must_know(self, node, gone):
        """Whether a node must notice that another is gone."""
        return True

    def look(self, result, load, lines, addresses, at):
        """What became of the calls."""
        bed, broken = self.bed, result.broken
        result.calls = len(lines)
        failed = [line for line in lines if line["outcome"] != "completed"]
        result.failed = len(failed)
        for line in failed[:5]:
            result.notes.append(f"call {line['call']} {line['outcome']}")
        self.say("waiting for the store")
        wait(bed.is_whole, 60, f"the bed is not whole again: {bed.seen()}")
        missing = stored(bed, [line["call_id"] for line in lines if line["media_started_us"]], say=self.say)
        left = settled(bed, say=self.say)
        if missing or left:
            broken.append(f"{len(missing)} recordings did not come, {left} uploads wait")
        self.say("listening")
        verdicts = {verdict["call"]: verdict for verdict in heard(bed, load)}
        for line in lines:
            verdict = verdicts[line["call"]]
            lost = max(verdict["lost_ms"])
            hit = any(str(to).rsplit(":", 1)[0] in addresses for move in line["moves"] if move["at_us"] <= at * 1e6 for to in move["to"])
            if hit:
                result.lost.append(lost)
            elif lost:
                broken.append(f"call {line['call']} lost {lost} ms, though its media went elsewhere")
            faults = []
            if verdict["recordings"] != 1:
                faults.append(f"{verdict['recordings']} recordings")
            if verdict["doubled_ms"] or verdict["foreign_ms"]:
                faults.append(f"{verdict['doubled_ms']} ms twice, {verdict['foreign_ms']} ms of other calls")
            if verdict["astray_ms"] > 100:
                faults.append(f"{verdict['astray_ms']} ms beside its place")
            if faults:
                broken.append(f"call {line['call']} ({verdict['call_id']}): {', '.join(faults)}")
            elif lost <= self.allowed[1]:
                result.whole += 1
        result.hit = len(result.lost)
        for when, limit in zip(result.detected, DETECTED_WITHIN):
            if when is not None and when > limit:
                broken.append(f"detected after {when:.2f} s only")
        if result.failed:
            broken.append(f"{result.failed} calls failed")
        if result.lost and (statistics.median(result.lost) > self.allowed[0] or max(result.lost) > self.allowed[1]):
            broken.append(f"more audio lost than {self.allowed[0]} / {self.allowed[1]} ms")
        broken += [f"ferric verify: {text}" for text in verified(bed)]
        # In the catalogue too a call is one recording, of however many parts.
        ours, listed = {line["call_id"] for line in lines}, {}
        for one in recordings(next(node for node in bed.up() if "srs" in node.roles)):
            if one["sip_call_id"] in ours:
                listed[one["sip_call_id"]] = listed.get(one["sip_call_id"], 0) + 1
        twice = [call_id for call_id, number in listed.items() if number > 1]
        if twice:
            broken.append(f"{len(twice)} calls are several recordings in the catalogue, as {twice[0]}")


class Nothing(Scene):
    title, name = "nothing", "nothing"
    away, hold = 1, 8


class NodeKilled(Scene):
    """kill -9, and a start some seconds later."""

    node = None

    def break_it(self):
        self.bed[self.node].kill()
        return [self.node]

    def mend(self):
        node = self.bed[self.node]
        node.start()
        wait(node.is_ready, 60, f"{node.name} does not come back:\n{node.tail()}")


class Worker(NodeKilled):
    title, name, node = "a worker", "worker", "work-a1"
    allowed = (MEDIAN_MS, WORST_MS)

    def victims(self):
        return [self.node]


class WorkerRefused(Worker):
    """The SBC refuses to move: the call stays, and its old worker takes it up again where it returns."""

    title, name = "a worker; the SBC refuses to move", "refused"
    away = 3
    options = ("--refuse-moves",)
    allowed = (8_000, 10_000)


class MirroredWorker(Worker):
    """A second worker, in the other site, has it all."""

    title, name = "a worker, with mirror", "mirror"
    allowed = (0, 0)
    # Callers are told apart by their addresses.
    cuts = True

    def load(self):
        return Load(self.bed, self.count, self.hold, host=self.bed.mirrored_sbc, options=self.options)


class Srs(NodeKilled):
    title, name, node = "an SRS with its proxy", "srs", "edge-a1"


class Proxy(NodeKilled):
    """New calls all the while."""

    title, name, node = "a proxy under new calls", "proxy", "edge-a2"
    rate, away, hold = 40.0, 4, 3

    def load(self):
        # So many calls begin that some are being set up at every moment.
        return Load(self.bed, int(self.rate * 12), self.hold, rate=self.rate, first=int(self.rate * 3), options=self.options)


class NatsLeader(Scene):
    title, name = "the leader of NATS", "nats-leader"

    def break_it(self):
        leaders = [server for server in self.bed.nats if server.leads()]
        self.server = (leaders or self.bed.nats)[0]
        self.server.kill()
        return []

    def mend(self):
        self.server.start()


class AllNats(Scene):
    title, name = "all of NATS", "nats"
    away, hold = 12, 30

    def break_it(self):
        for server in self.bed.nats:
            server.kill()
        return []

    def mend(self):
        for server in self.bed.nats:
            server.start()
        for server in self.bed.nats:
            wait(server.ready, 60, f"NATS does not come back: {server.tail()}")


class DatabaseKilled(Scene):
    title, name = "PostgreSQL", "postgres"

    def break_it(self):
        self.bed.database.kill()
        return []

    def mend(self):
        self.bed.database.start()
        wait(self.bed.database.ready, 60, "PostgreSQL does not come back")


class Link(Scene):
    """Both sites go on; each misses all nodes of the other."""

    title, name, cuts = "the link between the sites", "link", True
    away, hold = 8, 24

    def break_it(self):
        self.bed.network.cut_between("a", "b")
        return list(self.bed.nodes)

    def must_know(self, node, gone):
        return self.bed[node].letter != self.bed[gone].letter

    def mend(self):
        self.bed.network.mend_between("a", "b")
        wait(self.bed.is_whole, 40, f"the sites do not find each other: {self.bed.seen()}")


class Cable(Scene):
    """The way between the sites gets long and lossy; nobody is given up for that."""

    title, name, cuts = "the link, half: 100 ms each way, 2 % lost", "cable", True
    away, hold = 8, 20

    def break_it(self):
        self.at = time.time()
        self.bed.network.stretch(0.1, 0.02)
        return []

    def mend(self):
        self.bed.network.stretch(0.0)
        for name in self.bed.nodes:
            told = [node for node, when in self.bed.told_down(name, self.at).items() if when is not None]
            assert not told, f"{name} was given up by {', '.join(told)}"


class Site(Scene):
    """All nodes of a site at once; calls are in the other one, or their mirror is."""

    title, name, letter = "a whole site", "site", "b"
    away, hold = 6, 24

    def break_it(self):
        gone = [name for name, node in self.bed.nodes.items() if node.letter == self.letter]
        for name in gone:
            if self.bed[name].is_up():
                self.bed[name].process.kill()
        for name in gone:
            self.bed[name].kill()
        return gone

    def mend(self):
        nodes = [node for node in self.bed.nodes.values() if node.letter == self.letter]
        for node in nodes:
            node.start()
        for node in nodes:
            wait(node.is_ready, 60, f"{node.name} does not come back:\n{node.tail()}")


class Rolling(Scene):
    """SIGTERM and a start of each node in turn, while calls come and go: an upgrade."""

    title, name, slow = "each node in turn, in order (SIGTERM)", "rolling", True
    away, hold, rate = 1, 8, 2.0

    def load(self):
        # The restarts take as long as they take; the calls go on meanwhile.
        return Load(self.bed, int(self.rate * 150), self.hold, rate=self.rate, first=2, options=self.options)

    def break_it(self):
        for node in self.bed.nodes.values():
            self.say(f"{node.name} goes")
            code = node.terminate()
            assert code == 0, f"{node.name} ended with {code}:\n{node.tail()}"
            node.start()
            wait(node.is_ready, 60, f"{node.name} does not come back:\n{node.tail()}")
            wait(self.bed.is_whole, 40, f"the nodes do not see each other: {self.bed.seen()}")
        return []


SCENES = [Nothing, Worker, MirroredWorker, WorkerRefused, Srs, Proxy, NatsLeader, AllNats, DatabaseKilled, Link, Cable, Site, Rolling]
