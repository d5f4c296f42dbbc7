"""Reads a folder of messages that recording clients send, as scenarios to play.

    MAKER-WHAT[-NN-METHOD].sip   a message; NN gives the order, Call-ID tells dialogs of one scenario apart
    MAKER-WHAT.mime              a multipart body without its INVITE
    MAKER-WHAT.xml, .txt         recording metadata, or a fragment of a message
    flows/MAKER-WHAT.tsv         send, recv, pause, media: the order and the pauses of a scenario
    media/*.pcap                 RTP
    expected.tsv                 optional: the name of a scenario or message, and its number of recordings
    README.md                    tells which messages are cut short on purpose

Nothing depends on a maker's name. A response is a reference: what a server answered.
"""

import dataclasses
import pathlib
import re

import metadata
import wrap
from message import METHODS, Message
from sdp import held, media

NUMBERED = re.compile(r"^(?P<base>.+)-(?P<number>\d\d)-(?P<what>.+)$")
WORDS = [*(method.lower() for method in METHODS), "reinvite", "re-invite", "200ok", "200", "100", "180", "183", "202", "4xx", "4\\d\\d", "ok", "trying", "ringing"]
METHOD_SUFFIX = re.compile(rf"-(?:{'|'.join(WORDS)})(?:-\w+)?$")


# Requests that belong to no recording where they come alone.
OUTSIDE = ("OPTIONS", "REGISTER", "SUBSCRIBE", "NOTIFY", "PUBLISH", "MESSAGE")


@dataclasses.dataclass
class Step:
    kind: str  # send, pause, media
    message: Message | None = None
    seconds: float = 0.0
    what: str = ""  # media: pause, resume, or the name of a capture ("" is audio of any kind)


@dataclasses.dataclass
class Dialog:
    name: str
    steps: list
    truncated: bool = False
    after: str = ""  # the dialog that must be over before

    @property
    def messages(self):
        return [step.message for step in self.steps if step.kind == "send"]

    @property
    def is_outside(self):
        """True if nothing in it is about a recording."""
        return all(message.method in OUTSIDE for message in self.messages)

    @property
    def invite(self):
        """The INVITE that begins it."""
        return next((message for message in self.messages if message.method == "INVITE"), None)


@dataclasses.dataclass
class Scenario:
    name: str
    dialogs: list
    expected: int
    # Halves of one call find each other by these: scenarios that share one are not played at the same time.
    keys: frozenset = frozenset()


def half(message):
    """What the two dialogs of one call share where each has one end of it, and which end (Cisco's From parameters)."""
    sender = (message.header("From") or "").lower() if message else ""
    found = dict(re.findall(r";\s*(x-[a-z]+)=?([^;>\s]*)", sender))
    end = "near" if "x-nearend" in found else "far" if "x-farend" in found else None
    if end is None or not found.get("x-refci"):
        return None
    return (found["x-refci"], found.get("x-farendrefci", ""), found.get("x-nearendclusterid", "")), end


def active_labels(message):
    """Labels of a message's audio lines that are not refused or removed."""
    lines = media(message.body.decode("utf-8", "replace"))
    return {line["label"] for line in lines if line["kind"] == "audio" and line["port"]} if lines else None


def expected(dialogs):
    """How many recordings these dialogs make together."""
    total, ends = 0, {}
    for dialog in dialogs:
        if dialog.truncated or dialog.invite is None:
            # A request within a dialog that is not in the folder gets one of the player's own.
            total += 0 if dialog.truncated or dialog.is_outside else 1
            continue
        found = half(dialog.invite)
        if found:
            key, end = found
            ends.setdefault(key, []).append(end)
            continue
        said, labels = [], set()
        for message in dialog.messages:
            now = active_labels(message)
            labels = now if now is not None else labels
            said += [(metadata.read(document), labels) for document in message.documents]
        total += metadata.recordings(said)
    return total + sum(max(found.count("near"), found.count("far")) for found in ends.values())


def parse_flow(path, names):
    """The steps of a flow's file: the columns are told by what stands in them, not by their order."""
    steps = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        fields = [field.strip() for field in re.split(r"\t|\s{2,}", line)]
        kinds = [field.lower() for field in fields if field.lower() in ("send", "recv", "pause", "media", "nop", "sendcmd", "recvcmd")]
        named = next((field for field in fields if field in names or f"{field}.sip" in names), None)
        rest = " ".join(field for field in fields if field.lower() not in ("pause", "media"))
        if named and "recv" not in kinds:
            steps.append(("send", named if named in names else f"{named}.sip"))
        elif "pause" in kinds:
            seconds = re.search(r"(\d+(?:\.\d+)?)\s*(ms|s\b)?", rest)
            value = float(seconds.group(1)) if seconds else 200.0
            in_seconds = bool(seconds) and seconds.group(2) == "s"
            steps.append(("pause", value if in_seconds else value / 1000))
        elif "media" in kinds:
            capture = re.search(r"([\w.-]+)\.(?:pcap|pcapng|cap)\b", rest)
            word = re.search(r'"(pause|resume)|\b(pause|resume|hold|stop)\b', rest)
            what = capture.group(0) if capture else (word.group(1) or word.group(2)) if word else ""
            steps.append(("media", {"hold": "pause", "stop": "pause"}.get(what, what)))
    return steps


def steps_of(messages, order):
    """The steps of one dialog: in the flow's order where it names the messages, else by their number."""
    by_name = {message.name: message for message in messages}
    if order and any(kind == "send" and what in by_name for kind, what in order):
        steps, others = [], False
        for kind, what in order:
            if kind == "send":
                others = what not in by_name
                if not others:
                    steps.append(Step("send", by_name.pop(what)))
            elif kind == "pause":
                steps.append(Step("pause", seconds=what))
            elif not others:
                steps.append(Step("media", what=what))
        # Pauses before the first message are those of other dialogs.
        while steps and steps[0].kind != "send":
            steps.pop(0)
        # What the flow forgot is sent before the end.
        left = [Step("send", message) for message in by_name.values()]
        at = next((at for at, step in enumerate(steps) if step.kind == "send" and step.message.method == "BYE"), len(steps))
        return steps[:at] + left + steps[at:]
    steps = []
    for number, message in enumerate(messages):
        steps.append(Step("send", message))
        following = messages[number + 1] if number + 1 < len(messages) else None
        cancelled = message.method == "INVITE" and following is not None and following.method == "CANCEL"
        if message.method in ("INVITE", "ACK", "UPDATE", "INFO") and (following is None or following.method != "ACK") and not cancelled:
            steps.append(Step("pause", seconds=1.6))
    return steps


def cut_on_purpose(readme, stem):
    """True if the folder's README says in one breath that a message is cut."""
    return any(stem in clause and re.search(r"\bcut\b|truncat", clause, re.I) for clause in re.split(r"[;\n]|\.\s", readme))


def bases(paths):
    """Files by scenario: numbered ones by the name before the number, others by their own, methods left out where that unites some."""
    groups, plain = {}, []
    for path in paths:
        found = NUMBERED.match(path.stem)
        if found and METHOD_SUFFIX.search(f"-{found['what']}") or found and re.search("|".join(WORDS[:6]), found["what"]):
            groups.setdefault(found["base"], []).append((int(found["number"]), path))
        else:
            plain.append(path)
    stripped = {}
    for path in plain:
        stripped.setdefault(METHOD_SUFFIX.sub("", path.stem), []).append(path)
    for base, found in stripped.items():
        if len(found) > 1 and any(METHOD_SUFFIX.search(path.stem) for path in found):
            groups.setdefault(base, []).extend((None, path) for path in found)
        else:
            for path in found:
                groups.setdefault(path.stem, []).append((None, path))
    return groups


def dialogs_of(base, messages, order, readme):
    """The dialogs among the messages of one scenario, by Call-ID; what has no INVITE of its own belongs to the only one that has."""
    by_call = {}
    for message in messages:
        by_call.setdefault(message.header("Call-ID"), []).append(message)
    begun = [call for call, group in by_call.items() if any(message.method == "INVITE" and not message.has_to_tag for message in group)]
    if len(begun) == 1:
        for call in [call for call in by_call if call != begun[0]]:
            if not all(message.method in OUTSIDE for message in by_call[call]):
                by_call[begun[0]] += by_call.pop(call)
        by_call[begun[0]].sort(key=messages.index)
    parts = [(part, bool(at)) for group in by_call.values() for at, part in enumerate(calls_in(group))]
    found = []
    for number, (group, follows) in enumerate(parts):
        name = base if len(parts) == 1 else f"{base}#{number + 1}"
        cut = any(message.is_cut and ("truncat" in base or cut_on_purpose(readme, message.name.removesuffix(".sip"))) for message in group)
        found.append(Dialog(name, steps_of(group, order), cut, found[-1].name if follows else ""))
    return found


def calls_in(group):
    """The calls among messages with one Call-ID: after a BYE, an INVITE without a To tag begins another."""
    parts, ended = [[]], False
    for message in group:
        if ended and message.method == "INVITE" and not message.has_to_tag:
            parts.append([])
            ended = False
        parts[-1].append(message)
        ended = ended or message.method == "BYE"
    return parts


def together(base):
    """Scenarios of one call carry the same name but for a letter or the end of the call."""
    return re.sub(r"-[a-e]$", "", re.sub(r"-?(?:near|far)[-_]?end", "", base))


class Union:
    """Which scenarios belong together."""

    def __init__(self):
        self.parent = {}

    def find(self, name):
        self.parent.setdefault(name, name)
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def join(self, one, other):
        self.parent[self.find(other)] = self.find(one)


def read_told(folder):
    """What expected.tsv says: a name and a number in each line, in either order."""
    told = {}
    for path in folder.glob("expected.tsv"):
        for line in path.read_text(errors="replace").splitlines():
            fields = [field.strip() for field in line.split("\t") if field.strip()]
            number = next((field for field in fields if field.isdigit()), None)
            name = next((field for field in fields if not field.isdigit()), None)
            if number is not None and name and not line.startswith("#"):
                told[name.removesuffix(".sip")] = int(number)
    return told


def load(folder):
    """Scenarios, and references: pairs of a file's name and, for a response, its message."""
    folder = pathlib.Path(folder)
    readme = "\n".join(path.read_text(errors="replace") for path in sorted(folder.glob("README*")))
    told, references = read_told(folder), []
    messages = {}
    paths = sorted(folder.glob("*.sip"))
    for path in paths:
        message = Message(path.name, path.read_bytes())
        if not message.is_sip or message.is_response or message.header("Call-ID") is None and not message.is_cut:
            references.append((path.name, message if message.is_response else None))
        else:
            messages[path.name] = message
    flows = {path.stem: parse_flow(path, messages) for path in sorted((folder / "flows").glob("*.tsv"))}
    groups, joined, found = bases([path for path in paths if path.name in messages]), Union(), {}
    for base, files in groups.items():
        files.sort(key=lambda entry: (entry[0] is None, entry[0] or 0, messages[entry[1].name].cseq if entry[0] is None else 0))
        named = {path.name for _, path in files}
        order = flows.get(base) or next((flow for flow in flows.values() if any(kind == "send" and what in named for kind, what in flow)), None)
        found[base] = dialogs_of(base, [messages[path.name] for _, path in files], order, readme)
    _unite(found, flows, groups, joined)
    scenarios = {}
    for base, dialogs in found.items():
        scenarios.setdefault(joined.find(base), []).append((base, dialogs))
    result = []
    for members in scenarios.values():
        name = members[0][0] if len(members) == 1 else together(members[0][0])
        dialogs = [dialog for _, dialogs in members for dialog in dialogs]
        result.append(_scenario(name, dialogs, told, [base for base, _ in members]))
    result += _bodies(folder, told, references)
    return sorted(result, key=lambda scenario: scenario.name), sorted(references, key=lambda entry: entry[0])


def _unite(found, flows, groups, joined):
    """Joins scenarios by name, by flows that name messages of several, and halves of one call that lack the other."""
    by_name, by_file, lonely = {}, {}, {}
    for base, dialogs in found.items():
        joined.join(by_name.setdefault(together(base), base), base)
        by_file.update({path.name: base for _, path in groups[base]})
        ends = {}
        for dialog in dialogs:
            if half(dialog.invite):
                key, end = half(dialog.invite)
                ends.setdefault(key, []).append(end)
        for key, sides in ends.items():
            if len(set(sides)) == 1:
                other = lonely.pop((key, "far" if sides[0] == "near" else "near"), None)
                if other is not None:
                    joined.join(other, base)
                else:
                    lonely[key, sides[0]] = base
    for flow in flows.values():
        named = [by_file[what] for kind, what in flow if kind == "send" and what in by_file]
        for base in named[1:]:
            joined.join(named[0], base)


def _scenario(name, dialogs, told, names):
    keys = frozenset(half(dialog.invite)[0] for dialog in dialogs if half(dialog.invite))
    if name in told:
        count = told[name]
    elif any(each in told for each in names):
        count = sum(told.get(each, 0) for each in names)
    else:
        count = expected(dialogs)
    return Scenario(name, dialogs, count, keys)


def _bodies(folder, told, references):
    """Scenarios of files that are no whole message."""
    stems = {path.stem for path in folder.glob("*.sip")}
    for path in sorted([*folder.glob("*.mime"), *folder.glob("*.xml"), *folder.glob("*.txt")]):
        raw, name = path.read_bytes(), path.name
        if path.suffix == ".mime":
            played = [wrap.from_mime(name, raw)]
        elif path.suffix == ".xml":
            played = wrap.from_xml(name, raw)
        else:
            message = Message(name, raw)
            played = [message] if message.is_sip and not message.is_response and message.header("Call-ID") else wrap.from_text(name, raw)
        if not played:
            references.append((name, None))
            continue
        count = told if path.stem not in stems else {}
        yield _scenario(name, [Dialog(name, steps_of(played, None))], count, [path.stem])
