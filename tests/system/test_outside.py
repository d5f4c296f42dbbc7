"""What others see: dissectors of our packets, whoever reads the disk or the log, peers without a certificate."""

import collections
import json
import socket
import ssl
import struct
import subprocess
import time

from lib.certificates import certificates
from lib.media import CODECS, Sender, align, channels, payloads, pitch, speech, tone
from lib.node import Node, folder
from lib.sip import METADATA, Call, sdp


def port_pair():
    """An even UDP port and the next one, both bound."""
    while True:
        rtp, rtcp = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        rtp.bind(("127.0.0.1", 0))
        port = rtp.getsockname()[1]
        try:
            if port % 2 == 0:
                rtcp.bind(("127.0.0.1", port + 1))
                rtcp.settimeout(0.1)
                return rtp, rtcp
        except OSError:
            pass
        rtp.close()
        rtcp.close()


def write_pcap(path, datagrams):
    """(source port, destination port, bytes) as raw IPv4 over loopback."""
    with open(path, "wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101))
        for number, (source, target, data) in enumerate(datagrams):
            udp = struct.pack(">HHHH", source, target, 8 + len(data), 0) + data
            ip = struct.pack(">BBHHHBBHII", 0x45, 0, 20 + len(udp), number, 0, 64, 17, 0, 0x7F000001, 0x7F000001)
            out.write(struct.pack("<IIII", number, 0, len(ip) + len(udp), len(ip) + len(udp)) + ip + udp)


def tshark(capture, decode, *arguments):
    command = ["tshark", "-r", str(capture), "-o", "ip.check_checksum:FALSE"]
    for rule in decode:
        command += ["-d", rule]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_tshark_finds_nothing_wrong_in_what_we_send():
    home = folder("dissected")
    with Node(home) as node:
        call = Call(node, 1)
        offer = sdp(((0, "PCMU/8000"), (101, "telephone-event/8000")))
        answer = call.invite(offer=offer)
        assert answer.status == 200, answer.raw
        pairs = [port_pair(), port_pair()]
        streams = [(payloads(tone(400 + 300 * n, 2), "pcmu", 8000), ("127.0.0.1", answer.ports()[n])) for n in (0, 1)]
        sender = Sender(streams, "pcmu", seconds=9, loss=0.1, seed=3)
        for one in sender.sockets:
            one.close()
        sender.sockets = [rtp for rtp, _ in pairs]
        sender.start()
        reports = []

        def collect():
            for index, (_, rtcp) in enumerate(pairs):
                try:
                    data, source = rtcp.recvfrom(2048)
                    reports.append((index, source, data))
                except TimeoutError:
                    pass

        while sender.is_alive():
            collect()
        held = call.request("INVITE", body=offer.replace("a=sendonly", "a=inactive"), content_type="application/sdp")
        assert held.status == 200
        call.request("ACK", cseq=call.cseq, wait=False)
        others = [Call(node, 2 + n) for n in range(5)]
        assert others[0].request("OPTIONS").status == 200
        assert others[1].invite(offer=sdp(((97, "EVS/16000"),))).status == 488
        assert others[2].invite(offer="nonsense").status == 400
        assert others[3].request("INVITE", body="x", content_type="text/html").status == 415
        assert others[4].request("REGISTER").status == 405
        # Left open, so that what comes after the answer is seen too.
        assert call.request("BYE").status == 200
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            collect()
        for rtp, rtcp in pairs:
            rtp.close()
            rtcp.close()
        sip_messages = [m for one in [call, *others] for m in one.seen]
        datagrams = [(node.sip, call.port, message.raw.encode()) for message in sip_messages]
        datagrams += [(source[1], 40001 + 2 * index, data) for index, source, data in reports]
        capture = home / "sent.pcap"
        write_pcap(capture, datagrams)
        decode = [f"udp.port=={node.sip},sip", "udp.port==40001,rtcp", "udp.port==40003,rtcp"]
        faults = "_ws.malformed || _ws.expert.severity >= 0x600000"
        wrong = tshark(capture, decode, "-Y", faults, "-V")
        assert wrong == "", wrong
        spoiled = home / "spoiled.pcap"
        write_pcap(spoiled, [(source, target, data[:-3]) for source, target, data in datagrams[-1:]])
        assert tshark(spoiled, decode, "-Y", faults) != "", "tshark would not tell"
        answers = tshark(capture, decode, "-Y", "sip.Status-Code == 200 && sdp", "-T", "fields", "-e", "sdp.media.port", "-e", "sdp.media_attr")
        ports, attributes = answers.splitlines()[0].split("\t")
        assert [int(port) for port in ports.split(",")] == answer.ports(), ports
        assert attributes.count("recvonly") == 2 and "label:1" in attributes and "label:2" in attributes, attributes
        kinds = tshark(capture, decode, "-Y", "rtcp", "-T", "fields", "-e", "udp.dstport", "-e", "rtcp.pt", "-e", "rtcp.ssrc.cum_nr")
        rows = [line.split("\t") for line in kinds.splitlines()]
        assert len(rows) >= 3, f"receiver reports of both streams and a goodbye: {rows}"
        assert all(row[1].startswith("201,202") for row in rows), rows
        assert any(row[1].endswith("203") for row in rows), "a BYE ends each stream"
        for index, port in enumerate(("40001", "40003")):
            told = [int(row[2].split(",")[0]) for row in rows if row[0] == port and row[2]]
            assert told and told[-1] == sender.lost[index], (told, sender.lost)
            assert told == sorted(told), told
        node.stored(1)


def test_who_reads_disk_and_log_learns_nobodys_name_or_number():
    secrets = [b"5550100042", b"zebulon", b"agent42", b"oggs", b"opushead"]
    metadata = METADATA.format(number=42).replace("Caller 42", "Zebulon Q")
    assert "+15550100042" in metadata and "agent42" in metadata
    for policy, may_tell in (("hashed", set()), ("clear", {"catalog.db"})):
        home = folder(f"secrets-{policy}")
        with Node(home, extra=f'[catalog]\nparties = "{policy}"\n') as node:
            call = Call(node, 42)
            answer = call.invite(metadata=metadata)
            assert answer.status == 200
            streams = [(payloads(tone(hz, 2), "pcmu", 8000), ("127.0.0.1", port)) for hz, port in zip((500, 900), answer.ports())]
            sender = Sender(streams, "pcmu", seconds=4)
            sender.start()
            time.sleep(2.5)

            def readers_find():
                found = collections.defaultdict(set)
                for path in [*node.data.rglob("*"), *(home / "store").rglob("*"), node.log]:
                    if path.is_file() and path.exists():
                        try:
                            data = path.read_bytes()
                        except FileNotFoundError:
                            continue
                        for secret in secrets:
                            if secret in data.lower():
                                found[path.name.removesuffix("-wal").removesuffix("-shm")].add(secret)
                return dict(found)

            during = readers_find()
            assert set(during) <= may_tell, (policy, during)
            sender.join()
            assert call.bye().status == 200
            recording = node.stored(1)[0]
            after = readers_find()
            # In clear the catalogue tells, so the search above finds what there is to find.
            assert set(after) == may_tell, (policy, after)
            # The exact number still finds it, in either spelling.
            for spelling in ("%2B15550100042", "sip%3A%2B15550100042%40example.com"):
                hits = node.get(f"/api/v1/recordings?party={spelling}")["recordings"]
                assert [hit["id"] for hit in hits] == [recording["id"]], (policy, spelling, hits)
            assert node.get("/api/v1/recordings?party=%2B15550100043")["recordings"] == []
            document, _ = node.open(recording["id"])
            assert "Zebulon Q" in json.dumps(document), "the key's holder reads everything"


def test_mutual_tls_admits_only_who_shows_a_certificate():
    home = folder("mutual")
    with Node(home, tls=certificates(home)) as node:
        ask = (f"OPTIONS sip:srs@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.1:5061;branch=z9hG4bKmtls\r\nMax-Forwards: 70\r\n"
               f"From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:srs@127.0.0.1>\r\nCall-ID: mtls@127.0.0.1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n").encode()

        def answer(certificate, version=None):
            context = ssl.create_default_context(cafile=home / "ca.crt")
            if version:
                context.minimum_version = context.maximum_version = version
            if certificate:
                context.load_cert_chain(home / f"{certificate}.crt", home / f"{certificate}.key")
            try:
                with context.wrap_socket(socket.create_connection(("127.0.0.1", node.sips), timeout=5), server_hostname="127.0.0.1") as stream:
                    stream.sendall(ask)
                    return stream.recv(4096)
            except OSError:
                return b""

        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert answer("client", version).startswith(b"SIP/2.0 200"), version
            assert answer(None, version) == b"", f"{version}: served without a certificate"
        # One that some other authority signed is as good as none.
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "stranger.key", "-out", "stranger.crt", "-days", "2",
                        "-subj", "/CN=client"], cwd=home, check=True, capture_output=True)
        assert answer("stranger") == b""
        # A client that speaks no TLS at all, and one that says nothing, hold nothing up.
        with socket.create_connection(("127.0.0.1", node.sips), timeout=5) as plain, socket.create_connection(("127.0.0.1", node.sips), timeout=5):
            plain.sendall(ask)
            assert answer("client").startswith(b"SIP/2.0 200")


def test_opus_and_one_mixed_stream_and_eight_streams():
    home = folder("shapes")
    parties = [speech("caller")[:96000], speech("agent")[:96000]]
    with Node(home) as node:
        number, rtpmap = CODECS["opus"][:2]
        opus = Call(node, 1)
        ports = opus.invite(offer=sdp(((number, rtpmap),))).ports()
        senders = [Sender([(payloads(party, "opus"), ("127.0.0.1", port)) for party, port in zip(parties, ports)], "opus")]
        mixed = Call(node, 2)
        answer = mixed.invite(offer=sdp(streams=1))
        assert len(answer.ports()) == 1
        senders.append(Sender([(payloads(tone(900, 2), "pcmu", 8000), ("127.0.0.1", answer.ports()[0]))], "pcmu", seconds=4))
        eight = Call(node, 3)
        answer = eight.invite(offer=sdp(streams=8))
        assert len(answer.ports()) == 8 and 0 not in answer.ports() and len(set(answer.ports())) == 8, answer.ports()
        assert [f"a=label:{n}" in answer.body for n in range(1, 9)] == [True] * 8
        tones = [(payloads(tone(500 + 350 * n, 2, amplitude=3000), "pcmu", 8000), ("127.0.0.1", port)) for n, port in enumerate(answer.ports())]
        senders.append(Sender(tones, "pcmu", seconds=4))
        for sender in senders:
            sender.start()
        for sender, call in zip(senders, (opus, mixed, eight)):
            sender.join()
            assert call.bye().status == 200
        found = {recording["sip_call_id"]: recording["id"] for recording in node.stored(3)}
        metadata, audio = node.open(found[opus.call_id])
        left, right = channels(audio, decoder="libopus")
        starts = []
        for said, recorded in ((parties[0], left), (parties[1], right)):
            start, likeness = align(said, recorded, 16000)
            # Opus twice is not what it was once; G.711 and its kin are held to 0.95 elsewhere.
            assert likeness > 0.9, (start, likeness)
            starts.append(start)
        assert abs(starts[0] - starts[1]) < 0.020, starts
        assert "opus" in metadata["streams"][0]["codecs"][0].lower()
        metadata, audio = node.open(found[mixed.call_id])
        left, right = channels(audio, decoder="libopus")
        assert abs(pitch(left[16000:48000], 16000) - 900) < 8, pitch(left[16000:48000], 16000)
        assert abs(right).max() < 40, "nobody is on the right"
        metadata, audio = node.open(found[eight.call_id])
        left, right = channels(audio, decoder="libopus")
        assert abs(pitch(left[16000:48000], 16000) - 500) < 8
        assert len(metadata["streams"]) == 8 and all(stream["lost"] == 0 and stream["packets"] == 200 for stream in metadata["streams"])
