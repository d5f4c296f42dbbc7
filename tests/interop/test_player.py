"""What the player reads and writes. Run: target/venv/bin/python tests/interop/test_player.py"""

import pathlib
import struct
import subprocess
import sys
import tempfile
import types
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "system")]

import numpy as np  # noqa: E402

import corpus  # noqa: E402
import judge  # noqa: E402
import metadata  # noqa: E402
import pcap  # noqa: E402
import rtp  # noqa: E402
import sdp  # noqa: E402
import wire  # noqa: E402
import wrap  # noqa: E402
from message import Message  # noqa: E402
from srtp import Sealer  # noqa: E402


def request(method, call, cseq=1, body="", headers="", tag="", sender="<sip:src@192.0.2.1>;tag=1"):
    text = f"{method} sip:srs@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nFrom: {sender}\r\nTo: <sip:srs@192.0.2.9>{tag}\r\n"
    return f"{text}Call-ID: {call}\r\nCSeq: {cseq} {method}\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}"


OFFER = (
    "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 96 101\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1\r\na=rtpmap:101 telephone-event/8000\r\na=label:7\r\na=sendonly\r\n"
    "m=audio 0 RTP/AVP 8\r\nc=IN IP4 0.0.0.0\r\na=label:8\r\n"
)
DOCUMENT = """<?xml version="1.0"?><recording xmlns="urn:ietf:params:xml:ns:recording:1"><datamode>complete</datamode>
<session session_id="A"/><session session_id="B"/>
<participant participant_id="p1"><nameID aor="sip:one@example.net"/></participant>
<stream stream_id="s1" session_id="A"><label>1</label></stream><stream stream_id="s2" session_id="B"><label>2</label></stream>
<participantsessionassoc participant_id="p1" session_id="A"/>
<participantstreamassoc participant_id="p1"><send>s1</send></participantstreamassoc></recording>"""


class Folder:
    """A folder of messages for one test."""

    def __init__(self, **files):
        self.place = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.place.name)
        for name, text in files.items():
            name = name.replace("__", "/").replace("_", "-")
            stem, _, suffix = name.rpartition("-")
            path = self.path / f"{stem}.{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def load(self):
        scenarios, references = corpus.load(self.path)
        return {scenario.name: scenario for scenario in scenarios}, [name for name, _ in references]


class Messages(unittest.TestCase):
    def test_folded_compact_and_bare_newlines(self):
        message = Message("x", b"INVITE sip:a SIP/2.0\nv: SIP/2.0/UDP h\ni: abc\nSubject: one\n two\nl: 3\n\nv=0")
        self.assertEqual((message.method, message.header("Call-ID"), message.header("Content-Length"), message.body), ("INVITE", "abc", "3", b"v=0"))
        self.assertIn("two", message.header("subject"))
        self.assertTrue(message.is_sip and not message.is_cut)

    def test_a_body_that_begins_with_an_empty_line_keeps_it(self):
        message = Message("x", request("INVITE", "c", body="\r\n--b\r\n").encode())
        self.assertEqual(message.body, b"\r\n--b\r\n")

    def test_documents_are_found_in_every_place(self):
        body = f"--q\r\nContent-Type: application/sdp\r\n\r\n{OFFER}\r\n--q\r\nContent-Type: application/rs-metadata+xml\r\n\r\n{DOCUMENT}\r\n--q--\r\n"
        inside = Message("x", request("INVITE", "c", body=body, headers='Content-Type: multipart/mixed; boundary="q"\r\n').encode())
        bare = Message("x", request("UPDATE", "c", body=DOCUMENT, headers="Content-Type: application/rs-metadata+xml\r\n").encode())
        self.assertEqual(inside.documents, [DOCUMENT])
        self.assertEqual(bare.documents, [DOCUMENT])


class Descriptions(unittest.TestCase):
    def test_lines(self):
        first, second = sdp.media(f"--b\r\n\r\n{OFFER}--b\r\nm=audio 1 RTP/AVP 0\r\n")
        self.assertEqual((first["port"], first["label"], first["direction"], first["address"]), (4000, "7", "sendonly", "192.0.2.1"))
        self.assertEqual(sdp.audio_formats(first), [(96, "opus/48000/2")])
        self.assertEqual((sdp.event_format(first), first["fmtp"][96]), (101, "useinbandfec=1"))
        self.assertTrue(sdp.held(second) and not sdp.held(first))

    def test_static_types_and_stray_letters(self):
        line = sdp.media("v=0\r\nc=IN IP4 192.0.2.1\r\nm=audio 4 RTP/AVP 0 18 13\r\na=rtpmap:0 pcmu/8000a\r\na=rtpmap:13 CN/8000\r\n")[0]
        self.assertEqual(sdp.audio_formats(line), [(0, "pcmu/8000"), (18, "G729/8000")])

    def test_rewriting_changes_addresses_and_nothing_else(self):
        body = f"--b\r\nContent-Type: application/sdp\r\n\r\n{OFFER}\r\n--b\r\n\r\n<x>c=IN IP4 192.0.2.1</x>\r\n".encode()
        changed = sdp.rewrite(body, "127.0.0.1", lambda index: 9000 + index)
        self.assertEqual(changed, body.replace(b"c=IN IP4 192.0.2.1\r\nt=", b"c=IN IP4 127.0.0.1\r\nt=").replace(b"audio 4000", b"audio 9000"))

    def test_an_address_that_ends_in_zeros_is_no_hold(self):
        self.assertIn(b"127.0.0.1", sdp.rewrite(b"v=0\nc=IN IP4 10.0.0.0\n", "127.0.0.1", lambda _: 1))
        self.assertIn(b"IP4 0.0.0.0", sdp.rewrite(b"v=0\nc=IN IP4 0.0.0.0\n", "127.0.0.1", lambda _: 1))


class Metadata(unittest.TestCase):
    def test_reading(self):
        said = metadata.read(DOCUMENT)
        self.assertEqual((said.sessions, said.labels), (["A", "B"], {"1": "A", "2": "B"}))
        self.assertEqual((said.participants, said.speakers), ({"p1": "sip:one@example.net"}, {"1": {"p1"}}))

    def test_other_spellings(self):
        said = metadata.read(
            '<t:recording_metadata xmlns:t="urn:x"><t:dataMode>partial</t:dataMode><t:session id="A"/>'
            '<t:participant id="p" session="A"><t:aor> sip:x </t:aor><t:send><t:id>s</t:id></t:send></t:participant>'
            '<t:stream id="s" session="A"><t:label>1</t:label></t:stream></t:recording_metadata>'
        )
        self.assertTrue(said.partial)
        self.assertEqual((said.participants, said.members, said.speakers), ({"p": "sip:x"}, {"A": {"p"}}, {"1": {"p"}}))

    def test_broken_xml_is_said_and_not_raised(self):
        self.assertTrue(metadata.read("<recording><a></recording>").broken)

    def test_sessions_beside_each_other_are_recordings_of_their_own(self):
        said = metadata.read(DOCUMENT)
        self.assertEqual(metadata.recordings([(said, {"1", "2"})]), 2)
        self.assertEqual(metadata.recordings([(said, {"1"})]), 1)
        self.assertEqual(metadata.recordings([]), 1)

    def test_a_session_that_follows_goes_on(self):
        one = lambda session, who: metadata.read(
            f'<recording><session session_id="{session}"/><participant participant_id="{who}"/><stream stream_id="s" session_id="{session}"><label>1</label></stream>'
            f'<participantsessionassoc participant_id="{who}" session_id="{session}"/></recording>'
        )
        self.assertEqual(metadata.recordings([(one("A", "p"), {"1"}), (one("B", "p"), {"1"})]), 1)
        self.assertEqual(metadata.recordings([(one("A", "p"), {"1"}), (one("B", "q"), {"1"})]), 2)


class Wrapping(unittest.TestCase):
    def test_the_boundary_of_a_body(self):
        for boundary in ("foobar", "=_a.b c", "--x"):
            body = f"\r\n--{boundary}\r\nContent-Type: application/sdp\r\n\r\n{OFFER}\r\n".encode()
            message = wrap.from_mime("m", body)
            self.assertEqual(message.header("Content-Type"), f'multipart/mixed;boundary="{boundary}"')
            self.assertEqual(message.body, body)

    def test_metadata_whole_partial_and_asked_for(self):
        self.assertEqual([message.method for message in wrap.from_xml("x", DOCUMENT.encode())], ["INVITE"])
        self.assertEqual([line["label"] for line in sdp.media(wrap.from_xml("x", DOCUMENT.encode())[0].body.decode())], ["1", "2"])
        partial = DOCUMENT.replace("complete", "partial").encode()
        self.assertEqual([message.method for message in wrap.from_xml("x", partial)], ["INVITE", "UPDATE"])
        self.assertEqual([message.method for message in wrap.from_xml("x", b"<recorderList><a/></recorderList>")], ["INVITE", "INFO"])
        self.assertEqual(wrap.from_xml("x", b"<requestsnapshot xmlns='u'/>"), [])

    def test_header_lines_are_brought_and_prose_is_not(self):
        message = wrap.from_text("x", b"From: <sip:a@b;x-nearend>;tag=1\r\nX-Id: 5\r\n")[0]
        self.assertEqual((message.header("From"), message.header("X-Id")), ("<sip:a@b;x-nearend>;tag=1", "5"))
        self.assertEqual(wrap.from_text("x", b"Some words.\nMore: of them\n"), [])


class Scenarios(unittest.TestCase):
    def test_numbered_messages_are_one_dialog_in_order(self):
        folder = Folder(
            acme_v2_10_call_02_ack_sip=request("ACK", "c", tag=";tag=2"),
            acme_v2_10_call_01_invite_sip=request("INVITE", "c"),
            acme_v2_10_call_03_bye_sip=request("BYE", "c", 2, tag=";tag=2"),
        )
        found, _ = folder.load()
        self.assertEqual(list(found), ["acme-v2-10-call"])
        steps = found["acme-v2-10-call"].dialogs[0].steps
        self.assertEqual([step.message.method if step.message else step.kind for step in steps], ["INVITE", "ACK", "pause", "BYE"])

    def test_flows_in_any_column_order(self):
        files = {"x_01_invite_sip": request("INVITE", "c"), "x_02_bye_sip": request("BYE", "c", 2, tag=";tag=1")}
        flow = "# t\r\nx-01-invite.sip\tsend\r\n200 ms\tpause\r\n<exec play_pcap_audio=\"a_b.pcap\"/>\tmedia\r\nrtp_stream=\"pause\"\tmedia\r\n1.5 s\tpause\r\nrecv\tresponse=200\r\nx-02-bye.sip\tsend\r\n"
        found, _ = Folder(**files, flows__x_tsv=flow).load()
        steps = [(step.kind, step.seconds, step.what) for step in found["x"].dialogs[0].steps]
        self.assertEqual(steps, [("send", 0.0, ""), ("pause", 0.2, ""), ("media", 0.0, "a_b.pcap"), ("media", 0.0, "pause"), ("pause", 1.5, ""), ("send", 0.0, "")])

    def test_calls_of_one_story_play_together(self):
        found, _ = Folder(x_a_01_invite_sip=request("INVITE", "a"), x_b_01_invite_sip=request("INVITE", "b")).load()
        self.assertEqual([(scenario.name, scenario.expected) for scenario in found.values()], [("x", 2)])

    def test_two_ends_of_a_call_are_one_recording(self):
        sender = lambda end: f"<sip:1@192.0.2.1;x-{end};x-refci=5;x-nearendclusterid=c;x-farendrefci=6>;tag={end}"
        near, far = request("INVITE", "n", sender=sender("nearend")), request("INVITE", "f", sender=sender("farend"))
        for names in (("c_nearend_01_invite_sip", "c_farend_01_invite_sip"), ("c_leg1_sip", "d_leg2_sip"), ("c_01_near_invite_sip", "c_02_far_invite_sip")):
            found, _ = Folder(**dict(zip(names, (near, far)))).load()
            self.assertEqual([(len(scenario.dialogs), scenario.expected) for scenario in found.values()], [(2, 1)], names)

    def test_a_call_after_a_bye_is_another(self):
        found, _ = Folder(
            x_01_invite_sip=request("INVITE", "c"), x_02_bye_sip=request("BYE", "c", 2, tag=";tag=1"), x_03_invite_sip=request("INVITE", "c", 3)
        ).load()
        self.assertEqual((found["x"].expected, found["x"].dialogs[1].after), (2, "x#1"))

    def test_responses_are_references_and_cut_ones_are_refused(self):
        cut = request("INVITE", "c", body="v=0\r\n").replace("Content-Length: 5", "Content-Length: 900")
        answer = "SIP/2.0 200 OK\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n\r\n"
        found, references = Folder(a_truncated_sip=cut, b_short_sip=cut, c_wrong_sip=cut, a_200ok_sip=answer, README_md="`b-short` is cut; `c-wrong` is sloppy.").load()
        self.assertEqual({name: scenario.expected for name, scenario in found.items()}, {"a-truncated": 0, "b-short": 0, "c-wrong": 1})
        self.assertEqual(references, ["a-200ok.sip"])

    def test_a_request_that_comes_alone(self):
        found, _ = Folder(a_update_sip=request("UPDATE", "u", 7, tag=";tag=1"), b_options_sip=request("OPTIONS", "o")).load()
        self.assertEqual({name: scenario.expected for name, scenario in found.items()}, {"a-update": 1, "b-options": 0})

    def test_what_is_told_beats_the_rules(self):
        found, _ = Folder(x_sip=request("INVITE", "c"), expected_tsv="# n\n3\tx.sip\n").load()
        self.assertEqual(found["x"].expected, 3)


class Media(unittest.TestCase):
    def capture(self, order, link, before):
        rtp_packet = struct.pack(">BBHII", 0x80, 0, 7, 160, 1) + bytes(160)
        datagram = struct.pack(">HHHH", 4000, 5000, 8 + len(rtp_packet), 0) + rtp_packet
        packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2") + datagram
        frame = before + packet
        head = struct.pack(order + "IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
        return head + b"".join(struct.pack(order + "IIII", 1, 20000 * n, len(frame), len(frame)) + frame for n in range(12))

    def test_captures_of_several_kinds(self):
        kinds = (("<", 1, bytes(12) + b"\x08\0"), (">", 1, bytes(12) + b"\x81\0\0\1\x08\0"), ("<", 101, b""), ("<", 113, bytes(16)))
        for order, link, before in kinds:
            with tempfile.NamedTemporaryFile(suffix=".pcap") as file:
                file.write(self.capture(order, link, before))
                file.flush()
                streams = pcap.streams(file.name)
            self.assertEqual([(len(stream.packets), stream.payload_type, len(stream.packets[0].payload)) for stream in streams], [(12, 0, 160)], (order, link))
            self.assertAlmostEqual(streams[0].packets[-1].seconds - streams[0].packets[0].seconds, 0.22, places=5)

    def test_a_capture_is_found_by_a_name_it_no_longer_has(self):
        captures = pcap.Captures("/nonexistent")
        captures.files = {"rtp-maker-g722": ["a"], "rtp-rfc2833-dtmf": ["b"]}
        self.assertEqual((captures.named("10a_g722.pcap"), captures.named("09a_2833_dtmf.pcap"), captures.named("other.pcap")), (["a"], ["b"], []))

    def test_amr_frames_are_right_in_form(self):
        compact = rtp.made_up("AMR", "", 440)[0]
        aligned = rtp.made_up("AMR", "octet-align=1", 440)[0]
        self.assertEqual((len(compact), compact[0] >> 4, (compact[0] & 7) << 1 | compact[1] >> 7), (32, 15, 7))
        self.assertEqual((len(aligned), aligned[0], aligned[1]), (33, 0xF0, 0x3C))

    def test_a_tone_is_heard_where_it_is(self):
        samples = rtp.tone(620, judge.RATE)
        self.assertGreater(judge.share(samples, 620), 0.95)
        self.assertLess(judge.share(samples, 900), 0.05)
        self.assertEqual(judge.share(samples * 0, 620), 0.0)

    def test_srtp_of_rfc_3711_keys(self):
        # RFC 3711 B.3: the session keys that follow from a master key and salt.
        import base64

        key, salt = bytes.fromhex("E1F97A0D3E018BE0D64FA32C06DE4139"), bytes.fromhex("0EC675AD498AFEEBB6960B3AABE6")
        sealer = Sealer("AES_CM_128_HMAC_SHA1_80", base64.b64encode(key + salt).decode() + "|2^20|1:4")
        self.assertEqual(sealer.key.hex().upper(), "C61E7A93744F39EE10734AFE3FF7A087")
        self.assertEqual(sealer.salt.hex().upper(), "30CBBC08863D8C85D49DB34A9AE1")
        packet = struct.pack(">BBHII", 0x80, 0, 1, 0, 5) + bytes(160)
        self.assertEqual(len(sealer.seal(packet)), 12 + 160 + 4 + 10)


class Wires(unittest.TestCase):
    def test_messages_of_a_stream(self):
        held = bytearray(b"\r\n\r\nSIP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nabSIP/2.0 100 Trying\r\nl:0\r\n\r\nBYE")
        self.assertEqual(wire.whole(held), [b"SIP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nab", b"SIP/2.0 100 Trying\r\nl:0\r\n\r\n"])
        self.assertEqual(held, b"BYE")


class Looks(unittest.TestCase):
    """The judge, before a call of two lines of which the second is held from 3 to 5 s."""

    BEGIN = 1_800_000_000.0

    def look(self, change=lambda meta, sides: None, **recording):
        span = lambda begin, end, hz: types.SimpleNamespace(begin=self.BEGIN + begin, end=self.BEGIN + end, codec="PCMU/8000", hz=hz, has_tone=True, packets=100)
        line = lambda index, hz, *times: types.SimpleNamespace(index=index, hz=hz, sent=200, codec="PCMU/8000", has_tone=True, events=set(), spans=[span(*each, hz) for each in times])
        body = f"--q\r\nContent-Type: application/sdp\r\n\r\n{OFFER.replace('audio 0', 'audio 4002')}\r\n--q\r\nContent-Type: application/rs-metadata+xml\r\n\r\n{self.document}\r\n--q--\r\n"
        head = 'Content-Type: multipart/mixed; boundary="q"\r\nCisco-Guid: 1-2-3-4\r\n'
        invite = Message("x", request("INVITE", "c", body=body, headers=head).encode())
        answer = f"SIP/2.0 200 OK\r\nCSeq: 1 INVITE\r\n\r\n{OFFER.replace('audio 0', 'audio 4002')}"
        call = types.SimpleNamespace(
            call_id="c-1", began=self.BEGIN, ended=self.BEGIN + 8, lines={0: line(0, 440, (0, 8)), 1: line(1, 620, (0, 3), (5, 8))},
            dialog=types.SimpleNamespace(invite=invite, name="x"), documents=[(self.document, True)], answered=[(invite, body, answer)],
        )  # fmt: skip
        rate = judge.RATE
        wave = lambda hz: rtp.tone(hz, rate).tolist() * 4
        left, right = np.array(wave(440)), np.array(wave(620))
        right[3 * rate : 5 * rate] = 0
        meta = {
            "started_at": "2027-01-15T08:00:00.000Z", "duration_ms": 8000, "end_reason": "bye",
            "sip": {"correlators": [{"name": "Cisco-Guid", "value": "1-2-3-4"}]},
            "participants": [{"id": "p1", "aor": "sip:one@example.net", "channel": 0}, {"id": "p2", "aor": "sip:two@example.net", "channel": 1}],
            "src_metadata": [{"body": self.document}],
        }  # fmt: skip
        sides = [left, right]
        change(meta, sides)
        held, judge.opened = judge.opened, lambda *_: (meta, tuple(sides))
        try:
            return judge.Look(None, None, [call], [{"id": "r", "state": "complete", "sip_call_id": "c-1", **recording}]).wrong
        finally:
            judge.opened = held

    document = (
        '<recording><session session_id="A"/><participant participant_id="p1"><nameID aor="sip:one@example.net"/></participant>'
        '<participant participant_id="p2"><nameID aor="sip:two@example.net"/></participant>'
        '<stream stream_id="s1" session_id="A"><label>7</label></stream><stream stream_id="s2" session_id="A"><label>8</label></stream>'
        '<participantstreamassoc participant_id="p1"><send>s1</send></participantstreamassoc>'
        '<participantstreamassoc participant_id="p2"><send>s2</send></participantstreamassoc></recording>'
    )

    def test_what_is_right_is_not_complained_of(self):
        self.assertEqual(self.look(), [])

    def test_channels_changed_over(self):
        wrong = self.look(lambda _, sides: sides.reverse())
        self.assertTrue(any("m-line 1 (PCMU/8000) is not heard on L" in one for one in wrong) and any("m-line 2" in one for one in wrong), wrong)

    def test_nothing_after_the_hold(self):
        def cut(_, sides):
            sides[1][5 * judge.RATE :] = 0

        self.assertEqual(self.look(cut), ["m-line 2 (PCMU/8000) is not heard on R at 5.0-8.0 s"])

    def test_the_hold_is_filled(self):
        def fill(_, sides):
            sides[1][:] = np.roll(sides[1], 2 * judge.RATE) + sides[1]

        self.assertTrue(any("not silent while nothing was sent" in one for one in self.look(fill)))

    def test_the_hold_is_left_out(self):
        def join(meta, sides):
            for channel in (0, 1):
                sides[channel] = np.delete(sides[channel], range(3 * judge.RATE, 5 * judge.RATE))
            meta["duration_ms"] = 6000

        self.assertIn("6.0 s recorded of a call of 8.0 s", self.look(join))

    def test_states_parties_ids_and_metadata(self):
        self.assertIn("a recording is partial (bye)", self.look(state="partial"))
        self.assertIn("participant sip:two@example.net is not listed", self.look(lambda meta, _: meta["participants"].pop()))
        self.assertIn("Cisco-Guid is not among the correlators", self.look(lambda meta, _: meta["sip"]["correlators"].clear()))
        self.assertIn("metadata 1 of 1 are not kept as they came", self.look(lambda meta, _: meta["src_metadata"].clear()))
        self.assertIn("participant p2 sends channel R and is listed on none", self.look(lambda meta, _: meta["participants"][1].pop("channel")))


class References(unittest.TestCase):
    def test_shapes(self):
        lines = sdp.media(OFFER)
        self.assertEqual(judge._differs(lines, lines, True), [])
        other = [dict(lines[0], port=0), dict(lines[1], label="9")]
        self.assertEqual(judge._differs(lines, other, True), ["m-line 1 is refused", "label 9, not 8"])
        self.assertEqual(judge._differs(lines, lines[:1], True), ["1 m-lines, not 2"])


if __name__ == "__main__":
    if subprocess.run(["ffmpeg", "-version"], capture_output=True).returncode:
        sys.exit("ffmpeg is missing")
    outcome = unittest.TextTestRunner(verbosity=1).run(unittest.defaultTestLoader.loadTestsFromModule(sys.modules[__name__]))
    bad = len(outcome.failures) + len(outcome.errors)
    print(f"{outcome.testsRun - bad} passed, {bad} failed")
    sys.exit(1 if bad else 0)
