"""What recording metadata say, read as leniently as makers write: by local names, whatever the namespace (RFC 7865)."""

import dataclasses
import re
import xml.etree.ElementTree as Tree


@dataclasses.dataclass
class Said:
    """One document, as far as a player needs it."""

    partial: bool = False
    sessions: list = dataclasses.field(default_factory=list)
    groups: dict = dataclasses.field(default_factory=dict)  # session -> its group
    participants: dict = dataclasses.field(default_factory=dict)  # id -> address
    members: dict = dataclasses.field(default_factory=dict)  # session -> ids of participants
    labels: dict = dataclasses.field(default_factory=dict)  # label -> session
    speakers: dict = dataclasses.field(default_factory=dict)  # label -> ids of participants who send it
    broken: bool = False


def local(element):
    return element.tag.rsplit("}", 1)[-1].lower() if isinstance(element.tag, str) else ""


def _id(element, *names):
    for key, value in element.attrib.items():
        if key.rsplit("}", 1)[-1].lower() in names and value.strip():
            return value.strip()
    return None


def root_name(text):
    """The local name of the root element, also of text that is no XML."""
    bare = re.sub(r"<\?.*?\?>|<!--.*?-->|<!DOCTYPE[^>]*>", "", text, flags=re.S)
    found = re.search(r"<(?:[\w.-]+:)?([\w.-]+)[\s>/]", bare)
    return found.group(1) if found else ""


def labels_in(text):
    """Labels that a document names, in its order."""
    found = re.findall(r"<(?:[\w.-]+:)?label(?:\s[^>]*)?>\s*(?:<!\[CDATA\[)?\s*([^<\]]+?)\s*(?:\]\]>)?\s*</", text)
    return list(dict.fromkeys(found))


def read(text):
    said = Said(partial=bool(re.search(r"datamode>\s*partial", text, re.I)))
    try:
        root = Tree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))
    except Tree.ParseError:
        said.broken = True
        return said
    streams, sends = {}, []
    for element in root.iter():
        name = local(element)
        if name in ("participant", "participantstreamassoc"):
            sends += _sends(element)
        if name == "session":
            session = _id(element, "session_id", "id")
            if session:
                said.sessions.append(session)
                group = _id(element, "group", "group_id") or next((child.text for child in element if local(child) in ("group-ref", "group_id") and child.text), None)
                if group:
                    said.groups[session] = group.strip()
        elif name == "participant":
            participant = _id(element, "participant_id", "id")
            if participant:
                address = next((_id(child, "aor") for child in element.iter() if local(child) == "nameid" and _id(child, "aor")), None)
                address = address or next((child.text.strip() for child in element.iter() if local(child) == "aor" and child.text and child.text.strip()), None)
                said.participants[participant] = address or said.participants.get(participant)
                session = _id(element, "session", "session_id")
                if session:
                    said.members.setdefault(session, set()).add(participant)
        elif name == "participantsessionassoc":
            session, participant = _id(element, "session_id", "session"), _id(element, "participant_id", "participant")
            if session and participant:
                said.members.setdefault(session, set()).add(participant)
        elif name == "stream":
            session = _id(element, "session_id", "session") or ""
            for child in element:
                if local(child) == "label" and child.text:
                    said.labels[child.text.strip()] = session
                    streams[_id(element, "stream_id", "id")] = child.text.strip()
    for participant, stream in sends:
        if stream in streams:
            said.speakers.setdefault(streams[stream], set()).add(participant)
    return said


def _sends(element):
    """Pairs of a participant and a stream it sends: named as text, or by a child."""
    participant = _id(element, "participant_id", "id", "participant")
    for child in element:
        if participant and local(child) == "send":
            texts = [child.text, *(grandchild.text for grandchild in child)]
            yield from ((participant, text.strip()) for text in texts if text and text.strip())


def recordings(documents):
    """How many recordings one dialog makes: one for each communication session that runs beside another.

    `documents` are pairs of what was said and the labels that had an m-line then. A session that follows
    another goes on in its recording if the group is the same or somebody stays.
    """
    total, running = 1, []
    for said, active in documents:
        if said.broken or said.partial:
            continue
        present = list(dict.fromkeys(session for label, session in said.labels.items() if label in active and session))
        if not present:
            continue
        if not running:
            total, running = max(total, len(present)), [(session, said) for session in present]
            continue
        known = {session for session, _ in running}
        gone = [entry for entry in running if entry[0] not in present]
        now = [entry for entry in running if entry[0] in present]
        for session in present:
            if session in known:
                continue
            before = next((entry for entry in gone if _follows(entry, (session, said))), None)
            if before:
                gone.remove(before)
            else:
                total += 1
            now.append((session, said))
        running = now
    return total


def _follows(before, after):
    (old, was), (new, said) = before, after
    if was.groups.get(old) and was.groups.get(old) == said.groups.get(new):
        return True
    who = lambda session, document: {document.participants.get(each) or each for each in document.members.get(session, ())}
    old_party, new_party = who(old, was), who(new, said)
    return not old_party or not new_party or bool(old_party & new_party)
