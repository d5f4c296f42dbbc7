"""What the recordings of a scenario lack, compared with what was sent."""

import datetime
import json
import pathlib
import re
import tempfile
from xml.sax.saxutils import unescape

import numpy as np

import metadata as said
import sdp
from corpus import METHOD_SUFFIX, half
from lib.media import channels
from lib.node import ferric

RATE = 16000
TRIM = 0.4  # seconds left out at both ends of a time in which a line sent: signalling, jitter buffer
SILENT_RMS = 40
# Header fields by which other systems know a call; what they say must be found with the recording.
IDS = (
    "Cisco-Guid", "Session-ID", "User-to-User", "X-Genesys-CallUUID", "X-Genesys-Call-UUID", "P-Acme-VSA", "P-OCSBC-Call-ID",
    "AV-Global-Session-ID", "AC-Session-ID", "X-UCID", "X-BroadWorks-Correlation-Info", "Webex-Correlation-ID", "TrackingID",
)  # fmt: skip


class Unopened(Exception):
    """A recording that the tenant's key does not open, or that is not there."""


def opened(node, recording):
    """Metadata and both channels of a recording, with the tenant's key."""
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        for kind, name in (("audio", "audio.eopus"), ("metadata", "metadata.ejson")):
            status, data = node.get(f"/api/v1/recordings/{recording['id']}/{kind}", raw=True)
            if status != 200:
                raise Unopened(f"{kind} of a recording: {status}")
            (place / name).write_bytes(data)
        done = ferric("decrypt", "--key", node.key, place / "metadata.ejson", "-o", "-")
        if done.returncode:
            raise Unopened(f"metadata do not open: {done.stderr.strip()}")
        metadata = json.loads(done.stdout)
        done = ferric("decrypt", "--key", node.key, place / "audio.eopus", "-o", place / "audio.opus")
        if done.returncode:
            raise Unopened(f"audio does not open: {done.stderr.strip()}")
        return metadata, channels(place / "audio.opus", RATE, decoder="libopus")


def rms(samples):
    return float(np.sqrt(np.mean(samples**2))) if len(samples) else 0.0


def share(samples, hz):
    """The share of the energy that lies at a frequency, in the median of quarters of a second."""
    size, found = RATE // 4, []
    for at in range(0, len(samples) - size + 1, size):
        part = samples[at : at + size]
        wave = np.exp(-2j * np.pi * hz * np.arange(size) / RATE)
        found.append(abs(part @ wave) ** 2 * 2 / size / (np.sum(part**2) + 1e-9) if rms(part) > SILENT_RMS else 0.0)
    return float(np.median(found)) if found else 0.0


def first_audio(call):
    """The m-line that goes left: of the audio that the node took, the first with a label, else the first."""
    for message, body, answer in call.answered:
        if message.method == "INVITE" and answer.startswith("SIP/2.0 2"):
            lines = sdp.media(answer.split("\r\n\r\n", 1)[-1])
            taken = [index for index, line in enumerate(lines) if line["kind"] == "audio" and line["port"]]
            return next((index for index in taken if lines[index]["label"]), taken[0] if taken else 0)
    return 0


class Look:
    """The look at one scenario: what is wrong, and what the table tells."""

    def __init__(self, node, scenario, calls, made):
        self.node, self.scenario, self.calls = node, scenario, calls
        self.wrong, self.parties, self.ids, self.heard, self.makers, self.end_reasons = [], set(), {}, [], set(), []
        self.found = []
        for recording in sorted(made, key=lambda one: one.get("started_at", "")):
            try:
                meta, sides = opened(node, recording)
            except Unopened as failure:
                self.say(str(failure))
                continue
            self.found.append((recording, meta, sides))
        for recording, meta, sides in self.found:
            self._recording(recording, meta, sides)
        for call in calls:
            if call.began:
                self._media(call)
                self._documents(call)
                self._identities(call)

    def say(self, what):
        if what not in self.wrong:
            self.wrong.append(what)

    def feeders(self, recording, meta):
        """The dialogs whose media a recording has."""
        known = {recording["sip_call_id"], *(entry["value"] for entry in meta["sip"].get("correlators", []))}
        return [call for call in self.calls if call.call_id in known]

    def of(self, call):
        return [entry for entry in self.found if call in self.feeders(entry[0], entry[1])]

    def _recording(self, recording, meta, sides):
        fed = self.feeders(recording, meta)
        packets = sum(line.sent for call in fed for line in call.lines.values())
        state = recording["state"]
        # Where nothing was sent there is nothing to hear, and the recording says so.
        if state != "complete" and not (packets < 10 and state == "partial"):
            self.say(f"a recording is {state} ({meta.get('end_reason', 'no reason')})")
        if packets >= 10 and state == "complete" and meta.get("end_reason") not in (None, "bye"):
            self.end_reasons.append(meta["end_reason"])
        self.parties |= {party.get("aor") or party.get("name") or party["id"] for party in meta.get("participants", [])}
        for entry in meta["sip"].get("correlators", []):
            self.ids.setdefault(entry["name"], set()).add(entry["value"])
        self.makers |= {meta["maker"]} if meta.get("maker") else set()
        self.heard.append("".join(letter if len(side) > RATE // 10 and rms(side) > SILENT_RMS else "-" for letter, side in zip("LR", sides)))
        length = len(sides[0]) / RATE
        times = [(call.began, call.ended) for call in fed if call.began and call.ended]
        alone = len(self.of(fed[0])) == 1 if fed else False
        if times and alone:
            wanted = max(end for _, end in times) - min(begin for begin, _ in times)
            if abs(wanted - length) > 1.5:
                self.say(f"{length:.1f} s recorded of a call of {wanted:.1f} s")
        if abs(length * 1000 - meta["duration_ms"]) > 150:
            self.say(f"{length:.2f} s of audio, {meta['duration_ms'] / 1000:.2f} s in the metadata")

    def _begin(self, call, meta):
        """When the audio of a recording begins, on our clock."""
        begin = datetime.datetime.fromisoformat(meta["started_at"].replace("Z", "+00:00")).timestamp()
        # A node elsewhere has a clock of its own; then the first answer is the begin.
        first = min(each.began for each in self.calls if each.began)
        return begin if abs(begin - first) < 2.0 or abs(begin - call.began) < 2.0 else call.began

    def _media(self, call):
        """Each line is heard on its channel whenever it sent, and nothing where nobody did."""
        own = self.of(call)
        if not own:
            return
        found = half(call.dialog.invite)
        spoke = [line for _, line in sorted(call.lines.items()) if line.spans]
        first_index = first_audio(call)
        for line in spoke:
            if found and found[1]:
                wanted = (1,) if found[1] == "far" else (0,)
            elif len(own) > 1 or line.index != first_index and not any(other.index == first_index and other.spans[-1].end > line.spans[0].begin for other in spoke):
                # Recordings of its own number their channels anew; a line that comes when the left is free may take it.
                wanted = (0, 1)
            else:
                wanted = (0,) if line.index == first_index else (1,)
            missing = []
            checked = [span for span in line.spans if span.end - span.begin >= 2 * TRIM + 0.25]
            if not checked and line.sent > 50 and not any(self._at_all(entry, wanted) for entry in own):
                self.say(f"m-line {line.index + 1} ({line.codec}) is not heard")
            for span in checked:
                beside = sum(1 for other in spoke if other is not line and any(each.begin < span.end and span.begin < each.end for each in other.spans))
                least = 0.5 / max(1, beside)
                if not any(self._hears(call, entry, span, wanted, least) for entry in own):
                    missing.append(span)
            if missing:
                where = "L" if wanted == (0,) else "R" if wanted == (1,) else "L or R"
                when = ", ".join(f"{span.begin - call.began:.1f}-{span.end - call.began:.1f} s" for span in missing)
                self.say(f"m-line {line.index + 1} ({missing[0].codec}) is not heard on {where} at {when}")
        if len(own) == 1 and not found:
            self._gaps(call, own[0], spoke, first_index)

    def _at_all(self, entry, wanted):
        return any(rms(entry[2][channel]) > SILENT_RMS for channel in wanted)

    def _hears(self, call, entry, span, wanted, least):
        _, meta, sides = entry
        begin = self._begin(call, meta)
        low, high = span.begin - begin + TRIM, span.end - begin - TRIM
        for channel in wanted:
            part = sides[channel][max(0, int(low * RATE)) : max(0, int(high * RATE))]
            if len(part) < RATE // 5:
                continue
            if share(part, span.hz) > least if span.has_tone else rms(part) > SILENT_RMS:
                return True
        return False

    def _gaps(self, call, entry, spoke, first_index):
        """A hold leaves silence of the right length, on the channels of the lines that were held."""
        _, meta, sides = entry
        begin = self._begin(call, meta)
        for channel in (0, 1):
            spans = sorted((span.begin, span.end) for line in spoke if (0 if line.index == first_index else 1) == channel for span in line.spans)
            edge = None
            for start, end in spans:
                if edge is not None and start - edge > 2 * TRIM + 0.3:
                    part = sides[channel][int((edge - begin + TRIM) * RATE) : int((start - begin - TRIM) * RATE)]
                    if rms(part) > SILENT_RMS:
                        self.say(f"channel {'LR'[channel]} is not silent while nothing was sent at {edge - call.began:.1f}-{start - call.began:.1f} s")
                edge = max(edge or end, end)

    def _documents(self, call):
        """Metadata are kept as they came, and everybody in them is named."""
        own = self.of(call)
        if not own:
            return
        squeeze = lambda text: re.sub(r"\s+", " ", text).strip()
        kept = [squeeze(body["body"]) for _, meta, _ in own for body in meta.get("src_metadata", [])]
        listed = set()
        if any(line.events for line in call.lines.values()) and not any(meta.get("dtmf") for _, meta, _ in own):
            self.say("key tones were sent as events and are not noted")
        for _, meta, _ in own:
            for party in meta.get("participants", []):
                listed |= {party["id"], party.get("aor"), party.get("name")}
        for number, (document, accepted) in enumerate(call.documents, 1):
            if accepted and not any(squeeze(document) in body for body in kept):
                self.say(f"metadata {number} of {len(call.documents)} are not kept as they came")
            if not accepted:
                continue
            for participant, address in said.read(document).participants.items():
                if participant not in listed and (address is None or unescape(address).strip() not in listed):
                    self.say(f"participant {address or participant} is not listed")
        if len(own) == 1:
            self._sides(call, own[0][1])

    def _changed(self, call):
        """True if the dialog changed: who left, or whose stream is gone, need not have a channel at the end."""
        return sum(1 for _, accepted in call.documents if accepted) > 1 or sum(1 for message, _, _ in call.answered if message.method == "INVITE") > 1

    def _sides(self, call, meta):
        """Who sends a stream is listed on its channel."""
        channels_of = {party["id"]: party.get("channel") for party in meta.get("participants", [])}
        for message, body, answer in call.answered:
            lines = sdp.media(body)
            if message.method != "INVITE" or not answer.startswith("SIP/2.0 2") or not lines:
                continue
            first = first_audio(call)
            places = {line["label"]: (0 if index == first else 1) for index, line in enumerate(lines) if line["kind"] == "audio" and line["port"] and line["label"]}
            for document in message.documents:
                wanted = {}
                for label, speakers in said.read(document).speakers.items():
                    for speaker in speakers if label in places else ():
                        wanted.setdefault(speaker, set()).add(places[label])
                for speaker, sides in wanted.items():
                    given = channels_of.get(speaker)
                    if speaker in channels_of and given not in sides and not (given is None and self._changed(call)):
                        self.say(f"participant {speaker} sends channel {'LR'[min(sides)]} and is listed on {'none' if given is None else 'LR'[given]}")
            return

    def _identities(self, call):
        """Header fields that name the call or its parties."""
        own = self.of(call)
        if not own:
            return
        values = " ".join(entry["value"] for _, meta, _ in own for entry in meta["sip"].get("correlators", [])).lower()
        for message, _, answer in call.answered:
            if message.method not in ("INVITE", "UPDATE") or not answer.startswith("SIP/2.0 2"):
                continue
            for name in IDS:
                for value in message.headers(name):
                    wanted = value.split(";")[0].strip().strip('"').lower()
                    if wanted and set(wanted) - set("0-") and wanted not in values:
                        self.say(f"{name} is not among the correlators")
            for value in message.headers("X-Cisco-Recording-Participant"):
                address = re.sub(r"^<|>.*$", "", value.split(";")[0].strip())
                if not any(address in (party or "") for party in self.parties):
                    self.say(f"participant {address} is not listed")
        found = half(call.dialog.invite)
        if found:
            sender = call.dialog.invite.header("From") or ""
            ends = {half(each.dialog.invite)[1] for each in self.calls if half(each.dialog.invite) and each.lines}
            for channel, (end, name) in enumerate((("near", "x-nearendaddr"), ("far", "x-farendaddr"))):
                address = re.search(rf"{name}=([^;>]+)", sender, re.I)
                if address is None:
                    continue
                parties = [party for _, meta, _ in own for party in meta.get("participants", []) if address.group(1) in (party.get("aor") or "")]
                if not parties:
                    self.say(f"participant {address.group(1)} is not listed")
                elif end in ends and not any(party.get("channel") == channel for party in parties):
                    self.say(f"the {end} end {address.group(1)} is not listed on channel {'LR'[channel]}")


def compare(reference, calls):
    """What an answer of the node's lacks that a reference answer has, or None if its INVITE was not played.

    The INVITE is that of the same Call-ID and CSeq; where a document shows them from different calls, that of the same name.
    """
    same = [call for call in calls if any(message.header("Call-ID") == reference.header("Call-ID") for message, _, _ in call.answered)]
    base = METHOD_SUFFIX.sub("", pathlib.PurePath(reference.name).stem)
    named = [call for call in calls if METHOD_SUFFIX.sub("", call.dialog.name) == base]
    return _compare(reference, same, True) if same else _compare(reference, named, False)


def _compare(reference, calls, strict):
    wanted = sdp.media(reference.body.decode("utf-8", "replace"))
    results = []
    for call in calls:
        for message, body, answer in call.answered:
            if message.method != "INVITE" or strict and message.cseq != reference.cseq:
                continue
            results.append((_differs(wanted, sdp.media(answer.split("\r\n\r\n", 1)[-1]), bool(sdp.media(body))), call.dialog.name))
    if not results:
        return None
    return min(results, key=lambda result: len(result[0]))


def _differs(wanted, given, labelled):
    if len(wanted) != len(given):
        return [f"{len(given)} m-lines, not {len(wanted)}"]
    out = []
    for number, (one, other) in enumerate(zip(wanted, given), 1):
        if one["kind"] != other["kind"]:
            out.append(f"m-line {number} is {other['kind']}, not {one['kind']}")
        if bool(one["port"]) != bool(other["port"]):
            out.append(f"m-line {number} is {'taken' if other['port'] else 'refused'}")
        if labelled and one["label"] is not None and one["label"] != other["label"]:
            out.append(f"label {other['label']}, not {one['label']}")
        if one["port"] and one["direction"] in ("recvonly", "inactive") and other["direction"] != one["direction"]:
            out.append(f"m-line {number} is {other['direction']}, not {one['direction']}")
    return out
