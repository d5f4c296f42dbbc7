"""One dialog of a recording client: sends its messages, answers the server's, sends RTP behind every m-line."""

import random
import re
import threading
import time

import sdp
import wrap
from message import HOST, Message, compose
from rtp import Line
from srtp import SUITES, Sealer
from wire import Wire

RUN = f"{random.randrange(2**32):08x}"
ROUTING = (b"via", b"v", b"route", b"record-route", b"content-length", b"l")


class Failure(Exception):
    """What makes it useless to go on."""


def branch():
    return f"z9hG4bK{random.randrange(2**56):x}"


def status_of(text):
    return int(text[8:11])


def field(text, name):
    found = re.search(rf"^{name}\s*:\s*(.*)$", text.split("\r\n\r\n")[0], re.M | re.I)
    return found.group(1).strip() if found else ""


class Call:
    def __init__(self, dialog, server, captures, transport, suffix, longest_pause=1.6):
        self.dialog, self.server, self.captures, self.transport = dialog, server, captures, transport
        self.suffix, self.longest_pause = suffix, longest_pause
        self.lines, self.muted = {}, False
        self.to_tag = self.call_id = self.server_offer = self.last_ack = None
        self.last_cseq, self.agreed = 0, []
        self.answers, self.failures = [], []
        self.answered = []  # (request, body that was sent, answer), for a look afterwards
        self.documents = []  # recording metadata as they were sent
        self.began = self.ended = None
        self.hung_up = self.cancelled = False
        self.seen, self.cond, self.open = [], threading.Condition(), True
        self.wire = Wire(server, transport, self._take)
        threading.Thread(target=self._play, daemon=True).start()

    # -- what comes ---------------------------------------------------------------------------------------

    def _take(self, data, reply):
        text = data.decode("utf-8", "replace")
        if text.startswith("SIP/2.0 "):
            if self.last_ack and 200 <= status_of(text) < 300 and any(text == other for other in self.seen) and field(text, "cseq").endswith("INVITE"):
                # Its 200 again: our ACK was lost on the way.
                self.wire.send(self.last_ack)
            with self.cond:
                self.seen.append(text)
                self.cond.notify_all()
        elif text.strip() and not text.startswith("ACK "):
            self._answer(text, reply)

    def _answer(self, text, reply):
        """A request of the server's: 200, with our side of the media for a re-INVITE."""
        names = ("via", "v", "from", "f", "to", "t", "call-id", "i", "cseq", "record-route")
        lines = [line for line in text.split("\r\n\r\n")[0].split("\r\n")[1:] if line.split(":")[0].strip().lower() in names]
        body = b""
        if text.startswith("INVITE "):
            body = self._our_side(sdp.media(text.split("\r\n\r\n", 1)[-1]))
            lines += [f"Contact: <sip:src@{self.wire.address}:{self.wire.port}>;+sip.src", "Content-Type: application/sdp"]
        if text.startswith("BYE "):
            self.hung_up = True
            self.ended = self.ended or time.time()
        reply(compose("SIP/2.0 200 OK", [*lines, f"Content-Length: {len(body)}"], body))

    def _our_side(self, theirs):
        """An answer to the server's offer: on each line the codec that runs, or the first it names."""
        out = wrap.sdp([]).replace(b"198.51.100.20", self.wire.address.encode())
        for index, line in enumerate(theirs):
            audio = sdp.audio_formats(line)
            running = self.lines.get(index)
            chosen = next(((number, name) for number, name in audio if running and name == running.codec), audio[0] if audio else None)
            if chosen is None or line["kind"] != "audio" or line["port"] == 0:
                out += f"m={line['kind']} 0 {line['protocol']} {line['formats'][0] if line['formats'] else 0}\r\n".encode()
                continue
            port = self._line(index).port
            out += f"m=audio {port} {line['protocol']} {chosen[0]}\r\na=rtpmap:{chosen[0]} {chosen[1]}\r\na=sendonly\r\n".encode()
            out += f"a=label:{line['label']}\r\n".encode() if line["label"] else b""
        return out

    def _play(self):
        """Ticks every line each 20 ms; captures have their own time and are looked at each 5 ms."""
        start, number = time.monotonic(), 0
        while self.open:
            number += 1 if any(line.capture for line in list(self.lines.values())) else 4 - number % 4
            wait = start + number * 0.005 - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            for line in list(self.lines.values()):
                try:
                    if number % 4 == 0 or line.capture:
                        line.tick(self.muted, number % 4 == 0)
                except OSError:
                    line.hush()

    # -- what goes ----------------------------------------------------------------------------------------

    def _line(self, index):
        if index not in self.lines:
            self.lines[index] = Line(index, self.wire.address)
        return self.lines[index]

    def _compose(self, message, branch):
        """The message with our addresses, call and tag; everything else as it is."""
        body = sdp.rewrite(message.body, self.wire.address, lambda index: self._line(index).port)
        host, port = self.server
        start = HOST.sub(rf"\1:\g<2>{host}:{port}", message.start, count=1)
        start = re.sub(r";transport=\w+", f";transport={self.transport}", start, flags=re.I)
        out = [start.encode("utf-8"), f"Via: SIP/2.0/{self.transport.upper()} {self.wire.address}:{self.wire.port};branch={branch};rport".encode()]
        for line in message.lines:
            name = line.split(b":")[0].strip().lower()
            text = line.decode("utf-8", "surrogateescape")
            if name in ROUTING:
                continue
            if name in (b"contact", b"m"):
                text = HOST.sub(rf"\1:\g<2>{self.wire.address}:{self.wire.port}", text, count=1)
                text = re.sub(r";transport=(?:tls|ws|wss)", f";transport={self.transport}", text, flags=re.I)
            elif name in (b"call-id", b"i"):
                text = f"{text.strip()}-{RUN}{self.suffix}"
                self.call_id = text.split(":", 1)[1].strip()
            elif name in (b"to", b"t"):
                text = re.sub(r";\s*tag=[^;\s>]*", "", text)
                text += f";tag={self.to_tag}" if self.to_tag and message.method != "CANCEL" else ""
            out.append(text.encode("utf-8", "surrogateescape"))
        out.append(f"Content-Length: {len(body)}".encode())
        return b"\r\n".join(out) + b"\r\n\r\n" + body, body.decode("utf-8", "replace")

    def _request(self, message, cancel=None, timeout=12.0):
        """Sends a request, again where UDP may have lost it, and waits for its final answer."""
        mark = branch()
        data, body = self._compose(message, mark)
        self.last_cseq = max(self.last_cseq, message.cseq)
        self.wire.send(data)
        if cancel:
            self.wire.send(self._compose(cancel, mark)[0])
        sent, again, acknowledged = time.monotonic(), 0.5, set()
        # A CANCEL has the branch of its INVITE. The method is that of the CSeq, which is not always the right one.
        named = (message.header("CSeq") or message.method).split()[-1]
        ours = lambda text: mark in text.split("\r\n\r\n")[0] and field(text, "cseq").endswith(named)
        final = lambda text: ours(text) and status_of(text) >= 200
        while True:
            with self.cond:
                self.cond.wait_for(lambda: any(final(text) for text in self.seen), 0.1)
                mine = [text for text in self.seen if ours(text)]
            answer = next((text for text in mine if final(text)), None)
            if answer:
                break
            for text in mine:
                if field(text, "rseq") and field(text, "rseq") not in acknowledged:
                    acknowledged.add(field(text, "rseq"))
                    self._prack(message, text)
            waited = time.monotonic() - sent
            if waited > timeout:
                raise Failure(f"no answer to {message.method}")
            if self.transport == "udp" and waited > again and not mine:
                again *= 2
                self.wire.send(data)
        self.answers.append(status_of(answer))
        self.answered.append((message, body, answer))
        self.documents += [(document, status_of(answer) < 300) for document in message.documents]
        tag = re.search(r";\s*tag=([^;\s>]+)", field(answer, "to"))
        if tag and status_of(answer) < 300 and self.to_tag is None and message.method == "INVITE":
            self.to_tag = tag.group(1)
        if message.method == "INVITE" and status_of(answer) >= 300:
            # Within the transaction: its branch, its To (RFC 3261 17.1.1.3).
            ack = self._compose(self._own("ACK", message), mark)[0]
            self.wire.send(re.sub(rb"(?mi)^to:.*$", b"To: " + field(answer, "to").encode(), ack, count=1) if tag else ack)
        return answer, body

    def _prack(self, invite, provisional):
        tag = re.search(r";\s*tag=([^;\s>]+)", field(provisional, "to"))
        held, self.to_tag = self.to_tag, tag.group(1) if tag else self.to_tag
        number = self.last_cseq + 1
        prack = self._own("PRACK", invite, number)
        prack.lines.append(f"RAck: {field(provisional, 'rseq')} {field(provisional, 'cseq')}".encode())
        self.wire.send(self._compose(prack, branch())[0])
        self.to_tag, self.last_cseq = held, number

    def _own(self, method, message, number=None):
        """A request of our own with the header of a message of the dialog."""
        names = (b"from", b"f", b"to", b"t", b"call-id", b"i", b"contact", b"m", b"max-forwards")
        kept = [line for line in message.lines if line.split(b":")[0].strip().lower() in names]
        head = [f"{method} sip:srs@192.0.2.10:5060 SIP/2.0".encode(), *kept, f"CSeq: {message.cseq if number is None else number} {method}".encode()]
        return Message(message.name, b"\r\n".join(head) + b"\r\n\r\n")

    def _acknowledge(self, invite, message=None):
        """Sends the folder's ACK, or one of our own; the answer to an offer of the server's goes in it."""
        message = message or self._own("ACK", invite)
        data, body = self._compose(message, branch())
        if self.server_offer is not None and not sdp.media(body):
            answer = self._our_side(self.server_offer)
            lines = [line for line in message.lines if line.split(b":")[0].strip().lower() not in (b"content-type", b"c")]
            head = b"\r\n".join([message.start.encode(), *lines, b"Content-Type: application/sdp"])
            data, body = self._compose(Message(message.name, head + b"\r\n\r\n" + answer), branch())
        self.last_ack = data
        self.wire.send(data)
        if self.server_offer is not None:
            # Our answer to the server's offer: what it says is what we send.
            self._agree(sdp.media(body), self.server_offer, we_answer=True)
            self.server_offer = None

    def _agree(self, ours, theirs, we_answer=False):
        """Sets what each line sends from here on."""
        self.agreed = list(zip(ours, theirs))
        for index, (own, their) in enumerate(self.agreed):
            line = self.lines.get(index)
            if line is None:
                continue
            audio = sdp.audio_formats(own if we_answer else their, their if we_answer else own)
            if sdp.held(own) or their["port"] == 0 or own["kind"] != "audio" or not audio:
                line.hush()
                continue
            number, codec = audio[0]
            fmtp = own["fmtp"].get(number, "")
            line.sealer, line.keys = self._sealer(line, own, their)
            address = their["address"] or self.server[0]
            line.say(codec, fmtp, number, (address, their["port"]), self.captures)
        for index in range(len(self.agreed), len(self.lines)):
            if index in self.lines:
                self.lines[index].hush()

    def _sealer(self, line, own, their):
        """The SRTP sender for the key of ours that the answer names; the running one if nothing changed."""
        if "SAVP" not in their["protocol"].upper():
            return None, None
        tag = their["crypto"][0].split()[0] if their["crypto"] else None
        chosen = next((value.split() for value in own["crypto"] if value.split()[0] == tag), None)
        if chosen is None or len(chosen) < 3 or chosen[1] not in SUITES:
            raise Failure("the answer names no key of the offer")
        if line.keys == chosen and line.sealer:
            return line.sealer, line.keys
        return Sealer(chosen[1], chosen[2].removeprefix("inline:").split(";")[0]), chosen

    def _capture(self, name):
        """Plays the capture that the flow names: its first stream on the first line that sends, and so on."""
        active = [index for index, line in sorted(self.lines.items()) if line.target]
        for index, stream in zip(active, self.captures.named(name)):
            own = self.agreed[index][0] if index < len(self.agreed) else None
            self.lines[index].play(stream, sdp.event_format(own) if own else None)

    # -- the story ----------------------------------------------------------------------------------------

    def run(self):
        """Plays the dialog. What went wrong is in `failures` afterwards."""
        try:
            if self.dialog.truncated:
                self._cut()
            else:
                self._story()
        except Failure as failure:
            self.failures.append(str(failure))
        finally:
            self._end()

    def _story(self):
        steps = list(self.dialog.steps)
        messages = self.dialog.messages
        if self.dialog.invite is None and not self.dialog.is_outside:
            # A request within a dialog: the dialog is ours.
            self._invite(self._own_invite(messages[0]))
            time.sleep(1.0)
        pending = None
        while steps:
            step = steps.pop(0)
            if step.kind == "pause":
                pending = self._settle(pending)
                time.sleep(min(step.seconds, self.longest_pause))
                continue
            if step.kind == "media":
                self.muted = step.what == "pause"
                if step.what not in ("", "pause", "resume"):
                    self._capture(step.what)
                continue
            message = step.message
            if message.method == "ACK":
                if pending:
                    self._acknowledge(pending, message)
                    pending = None
                continue
            pending = self._settle(pending) if not self._acknowledged_next(pending, steps, message) else pending
            if message.method == "CANCEL":
                continue
            if message.method == "BYE":
                self.ended = time.time()
            if message.method == "INVITE":
                cancel = steps[0].message if steps and steps[0].kind == "send" and steps[0].message.method == "CANCEL" else None
                pending = self._invite(message, cancel)
                continue
            answer, body = self._request(message)
            if self.answers[-1] >= 300 and (self.to_tag or message.method == "OPTIONS"):
                self.failures.append(f"{message.method} answered {answer.splitlines()[0][8:]}")
            elif sdp.media(body):
                self._agree(sdp.media(body), sdp.media(answer.split("\r\n\r\n", 1)[1]))
        if pending:
            self._settle(pending)
            time.sleep(self.longest_pause)

    def _acknowledged_next(self, pending, steps, message):
        """True where the folder's ACK follows only after this request, as with a BYE that overtakes it."""
        return bool(pending) and message.method in ("BYE", "UPDATE", "INFO") and bool(steps) and steps[0].kind == "send" and steps[0].message.method == "ACK"

    def _settle(self, pending):
        if pending:
            self._acknowledge(pending)
        return None

    def _own_invite(self, message):
        lines = [line for line in self._own("INVITE", message, max(1, message.cseq - 1)).lines]
        kind, body = wrap.multipart([("application/sdp", wrap.sdp(["1", "2"])), (wrap.METADATA, wrap.MINIMAL)])
        if not any(line.split(b":")[0].strip().lower() in (b"contact", b"m") for line in lines):
            lines.append(b"Contact: <sip:src@198.51.100.20:5060>;+sip.src")
        lines += [b"Require: siprec", b"Content-Type: " + kind.encode()]
        return Message(message.name, b"\r\n".join([b"INVITE sip:srs@192.0.2.10:5060 SIP/2.0", *lines]) + b"\r\n\r\n" + body)

    def _invite(self, message, cancel=None):
        """An INVITE and its answer; returns the INVITE if an ACK is due."""
        first = self.to_tag is None
        answer, body = self._request(message, cancel)
        if self.answers[-1] >= 300:
            what = f"INVITE answered {answer.splitlines()[0][8:]}"
            if first and not cancel:
                raise Failure(what)
            if not cancel:
                self.failures.append(f"re-{what}")
            self.cancelled = bool(cancel) and first
            return None
        if first:
            self.began = time.time()
        ours, theirs = sdp.media(body), sdp.media(answer.split("\r\n\r\n", 1)[1])
        if ours:
            self._check(ours, theirs)
            self._agree(ours, theirs)
        else:
            self.server_offer = theirs
            for index, line in enumerate(theirs):
                if line["kind"] == "audio" and line["port"]:
                    self._line(index)
        return message

    def _end(self):
        """Ends what still runs and closes everything."""
        try:
            over = self.hung_up or any(message.method == "BYE" for message, _, _ in self.answered)
            if self.to_tag and not over:
                source = self.dialog.invite or self.answered[0][0]
                self.ended = time.time()
                self._request(self._own("BYE", source, self.last_cseq + 1))
            elif self.hung_up and not any(message.method == "BYE" for message in self.dialog.messages):
                self.failures.append("the node hung up")
        except (Failure, OSError) as failure:
            self.failures.append(str(failure))
        # Media go on for a moment after the BYE, as in the field.
        time.sleep(0.15)
        self.open = False
        time.sleep(0.03)
        self.wire.close()
        for line in self.lines.values():
            line.socket.close()

    def _cut(self):
        """Sends a message that is shorter than it says, as it is."""
        self.wire.send(self.dialog.messages[0].raw)
        with self.cond:
            self.cond.wait_for(lambda: any(status_of(text) >= 200 for text in self.seen), 4)
            self.answers += [status_of(text) for text in self.seen if status_of(text) >= 200][:1]

    def _check(self, ours, theirs):
        """What every client needs of an answer."""
        if len(theirs) != len(ours):
            self.failures.append(f"{len(ours)} m-lines offered, {len(theirs)} answered")
        for number, (offer, answer) in enumerate(zip(ours, theirs), 1):
            if answer["kind"] != offer["kind"] or answer["protocol"] != offer["protocol"]:
                self.failures.append(f"m-line {number} is answered {answer['kind']} {answer['protocol']} instead of {offer['kind']} {offer['protocol']}")
            if answer["label"] != offer["label"]:
                self.failures.append(f"label {offer['label']} came back as {answer['label']}")
            if answer["port"] and answer["direction"] not in ("recvonly", "inactive"):
                self.failures.append(f"m-line {number} is answered {answer['direction']}")
            if answer["port"] % 2:
                self.failures.append(f"RTP port {answer['port']} is odd")
            if offer["port"] == 0 and answer["port"]:
                self.failures.append(f"m-line {number} is off and answered with a port")
