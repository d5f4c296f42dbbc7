"""What a player has to know of a session description: its m-lines, and where they lie in the bytes of a message."""

import re

# RTP/AVP payload types that need no rtpmap (RFC 3551).
STATIC = {0: "PCMU/8000", 2: "G726-32/8000", 3: "GSM/8000", 4: "G723/8000", 8: "PCMA/8000", 9: "G722/8000", 10: "L16/44100/2", 11: "L16/44100", 18: "G729/8000"}
NO_AUDIO = ("telephone-event", "cn/", "red/", "ulpfec/", "rtx/", "tone/")
HELD_ADDRESSES = ("0.0.0.0", "::", "::0", "0:0:0:0:0:0:0:0")


def media(body):
    """The m-lines of the first description in a text; what stands around it (multipart, XML) is passed over."""
    found, inside = [], False
    connection = direction = None
    for line in re.split(r"\r?\n", body):
        line = line.strip()
        if line == "v=0":
            if found:
                break
            inside = True
        elif not inside or line.startswith(("--", "<")):
            inside = inside and not line.startswith(("--", "<"))
        elif line.startswith("m="):
            fields = line[2:].split()
            if len(fields) < 3 or not fields[1].split("/")[0].isdigit():
                continue
            found.append(
                {
                    "kind": fields[0],
                    "port": int(fields[1].split("/")[0]),
                    "protocol": fields[2],
                    "formats": [int(number) for number in fields[3:] if number.isdigit()],
                    "rtpmap": {},
                    "fmtp": {},
                    "crypto": [],
                    "direction": direction,
                    "address": connection,
                    "label": None,
                }
            )
        elif line.startswith("c="):
            address = line.split()[-1].split("/")[0]
            if found:
                found[-1]["address"] = address
            else:
                connection = address
        elif line in ("a=sendrecv", "a=sendonly", "a=recvonly", "a=inactive"):
            if found:
                found[-1]["direction"] = line[2:]
            else:
                direction = line[2:]
        elif found and line.startswith("a=rtpmap:") and len(line[9:].split(None, 1)) == 2:
            number, name = line[9:].split(None, 1)
            if number.isdigit():
                found[-1]["rtpmap"][int(number)] = name.strip()
        elif found and line.startswith("a=fmtp:") and len(line[7:].split(None, 1)) == 2:
            number, value = line[7:].split(None, 1)
            if number.isdigit():
                found[-1]["fmtp"][int(number)] = value.strip()
        elif found and line.startswith("a=crypto:"):
            found[-1]["crypto"].append(line[9:])
        elif found and line.startswith("a=label:"):
            found[-1]["label"] = line[8:].strip()
    return found


def held(line):
    """True for an offered m-line on which its sender will send nothing."""
    return line["port"] == 0 or line["address"] in HELD_ADDRESSES or line["direction"] in ("inactive", "recvonly")


def audio_formats(line, other=None):
    """Payload types of a line that carry audio, with their names, in its order."""
    names = {**STATIC, **(other or {}).get("rtpmap", {}), **line["rtpmap"]}
    found = []
    for number in line["formats"]:
        # An encoding name with a stray letter behind the clock occurs: `pcmu/8000a`.
        name = re.sub(r"(/\d+)[a-z]+", r"\1", names.get(number, "PCMU/8000").strip(), flags=re.I)
        if not name.lower().startswith(NO_AUDIO):
            found.append((number, name if "/" in name else f"{name}/8000"))
    return found


def event_format(line):
    """The payload type of RFC 4733 events at the audio's clock, if the line names one."""
    return next((number for number in line["formats"] if line["rtpmap"].get(number, "").lower().startswith("telephone-event")), None)


def rewrite(body, address, port_of):
    """The body of a message with addresses and ports of ours, and nothing else changed.

    `port_of(index)` names the port of an m-line; port 0 and the addresses of hold stay.
    """
    out, inside, index, seen = [], False, -1, False
    for line in re.split(rb"(?<=\n)", body):
        bare = line.strip()
        ending = b"\r\n" if line.endswith(b"\r\n") else b"\n" if line.endswith(b"\n") else b""
        if bare == b"v=0" and not seen:
            inside = seen = True
        elif bare.startswith((b"--", b"<")):
            inside = False
        elif inside and bare.startswith(b"m="):
            index += 1
            fields = bare.split()
            if len(fields) > 1 and fields[1].split(b"/")[0] != b"0":
                fields[1] = str(port_of(index)).encode()
                line = b" ".join(fields) + ending
        elif inside and bare.startswith(b"c="):
            fields = bare.split()
            if fields[-1].split(b"/")[0].decode("latin-1") not in HELD_ADDRESSES:
                line = b"c=IN IP4 " + address.encode() + ending
        elif inside and bare.startswith(b"a=rtcp:"):
            line = b"a=rtcp:" + str(port_of(max(index, 0)) + 1).encode() + ending
        out.append(line)
    return b"".join(out)
