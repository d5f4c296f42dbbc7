#!/usr/bin/env python3
"""An independent reader of EOPUS files and manifests, written from docs/eopus.md.

    eopus_reader.py KEY.pem FILE [OUT]
        opens a sealed file (.eopus, .ejson) with a tenant's private key and writes the plaintext to OUT
        (or checks only, without OUT; "-" is standard output)
    eopus_reader.py --manifest NODE.pub FOLDER
        verifies FOLDER/manifest.json and the files beside it with a node's public key; needs no private key
    eopus_reader.py --chain NODE.pub FOLDER...
        the same for several folders, and the chain between them

Needs the package `cryptography`. Exit status: 0 whole, 1 wrong use, 3 damaged or cut (what lies before the
damage has been written).
"""

import base64
import hashlib
import json
import os
import re
import struct
import sys

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"EOPUS\x00\x00\x01"
TAG = 16
MAX_HEADER = 65536
MAX_LENGTH = 65536 + TAG


class Damage(Exception):
    """What is wrong with a file, and where."""


def unbase64url(text):
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise ValueError("not base64url without padding")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def key_name(public):
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.urlsafe_b64encode(hashlib.sha256(der).digest()).rstrip(b"=").decode()


def read_header(file):
    """The parsed header and the associated data of all segments."""
    magic = file.read(8)
    if magic[:7] != MAGIC[: len(magic[:7])]:
        raise Damage("not an EOPUS file: it begins with " + magic.hex(" "))
    if len(magic) == 8 and magic[7] != 1:
        raise Damage(f"EOPUS version {magic[7]}; this reader knows version 1")
    size = file.read(4)
    if len(size) < 4:
        raise Damage("the file ends within its header")
    (length,) = struct.unpack(">I", size)
    if not 2 <= length <= MAX_HEADER:
        raise Damage(f"the header claims a length of {length} bytes")
    text = file.read(length)
    if len(text) < length:
        raise Damage("the file ends within its header")
    try:
        header = json.loads(text.decode("utf-8"))
        recipients = header["recipients"]
        if not all(isinstance(header[name], str) for name in ("id", "tenant", "content", "created")):
            raise ValueError("a member is no text")
        if header["v"] != 1 or header["aead"] != "A128GCM-STREAM-BE32":
            raise ValueError("unknown version or scheme")
        if len(unbase64url(header["nonce_prefix"])) != 7:
            raise ValueError("nonce_prefix is not 7 bytes")
        if not 1 <= len(recipients) <= 64:
            raise ValueError("wrong number of recipients")
        for recipient in recipients:
            if not all(isinstance(recipient[name], str) for name in ("kid", "alg", "key")):
                raise ValueError("damaged recipient")
    except (ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise Damage(f"the header is damaged: {error!r}") from None
    return header, hashlib.sha256(magic + size + text).digest()


def unwrap(header, private):
    name = key_name(private.public_key())
    for recipient in header["recipients"]:
        if recipient["kid"] == name:
            break
    else:
        theirs = ", ".join(recipient["kid"] for recipient in header["recipients"])
        raise Damage(f"not sealed for key {name}, but for {theirs}")
    if recipient["alg"] != "RSA-OAEP-256":
        raise Damage("the header is damaged: unknown alg")
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    try:
        key = private.decrypt(unbase64url(recipient["key"]), oaep)
    except ValueError:
        raise Damage(f"the file key wrapped for {name} does not unwrap: the header was altered") from None
    if len(key) != 16:
        raise Damage("the file key is not 16 bytes")
    return key


def segments(file):
    """Yields (number, offset of its length field, ciphertext and tag); memory is bounded by one segment."""
    number = 0
    while True:
        offset = file.tell()
        size = file.read(4)
        if not size:
            return
        length = struct.unpack(">I", size)[0] if len(size) == 4 else None
        if length is not None and not TAG <= length <= MAX_LENGTH:
            raise Damage(f"segment {number} at byte {offset} claims a length of {length} bytes")
        sealed = file.read(length) if length is not None else b""
        if length is None or len(sealed) < length:
            raise Damage(f"the file ends within segment {number}, which begins at byte {offset}")
        yield number, offset, sealed
        number += 1


def open_file(private, file, write):
    """Writes the plaintext, segment by segment; returns the header, segments and bytes of a whole file."""
    header, aad = read_header(file)
    cipher = AESGCM(unwrap(header, private))
    prefix = unbase64url(header["nonce_prefix"])
    last_seen, count, total = False, 0, 0
    for number, offset, sealed in segments(file):
        for last in (0, 1):
            nonce = prefix + struct.pack(">IB", number, last)
            try:
                plain = cipher.decrypt(nonce, sealed, aad)
            except InvalidTag:
                continue
            last_seen = last == 1
            break
        else:
            raise Damage(f"segment {number} at byte {offset} does not open: altered, moved or exchanged")
        write(plain)
        count, total = count + 1, total + len(plain)
        if last_seen:
            end = file.tell()
            if file.read(1):
                raise Damage(f"something follows the last segment, which ends at byte {end}")
            break
    if not last_seen:
        raise Damage(f"cut: the file ends after {count} segments without its last one")
    return header, count, total


def canonical(document):
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def no_duplicates(pairs):
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a member occurs twice")
    return dict(pairs)


def integers_only(text):
    raise ValueError(f"{text} is no integer")


def verify_manifest(public, folder):
    """Checks signature, lengths, hashes and segments of one recording; returns the manifest and its file's hash."""
    with open(os.path.join(folder, "manifest.json"), "rb") as file:
        raw = file.read()
    try:
        manifest = json.loads(
            raw.decode("utf-8"), object_pairs_hook=no_duplicates, parse_float=integers_only, parse_constant=integers_only
        )
        signature = unbase64url(manifest["signature"])
        audio, metadata, state = manifest["audio"], manifest["metadata"], manifest["state"]
        for name in ("id", "tenant", "node", "key_id"):
            if not isinstance(manifest[name], str):
                raise ValueError(f"{name} is no text")
        for entry in (audio, metadata or {"bytes": 0, "sha256": ""}):
            if not isinstance(entry["bytes"], int) or not isinstance(entry["sha256"], str):
                raise ValueError("damaged entry")
        if not isinstance(manifest["previous"], (str, type(None))):
            raise ValueError("previous is neither text nor null")
    except (ValueError, KeyError, TypeError) as error:
        raise Damage(f"manifest.json is damaged: {error!r}") from None
    if manifest["key_id"] != key_name(public):
        raise Damage(f"manifest.json was signed with key {manifest['key_id']}, not {key_name(public)}")
    unsigned = {name: value for name, value in manifest.items() if name != "signature"}
    try:
        public.verify(signature, canonical(unsigned))
    except InvalidSignature:
        raise Damage("manifest.json: the signature does not fit") from None
    if state not in ("complete", "recovered", "partial"):
        raise Damage(f"manifest.json: unknown state {state}")
    for name, entry in (("audio.eopus", audio), ("metadata.ejson", metadata)):
        path = os.path.join(folder, name)
        if entry is None:
            if os.path.exists(path):
                raise Damage(f"{name} exists, the manifest says there is none")
            continue
        digest, length = hashlib.sha256(), 0
        with open(path, "rb") as file:
            while chunk := file.read(1 << 16):
                digest.update(chunk)
                length += len(chunk)
        if length != entry["bytes"]:
            raise Damage(f"{name}: {length} bytes long, the manifest says {entry['bytes']}")
        if digest.hexdigest() != entry["sha256"]:
            raise Damage(f"{name}: its SHA-256 is not that of the manifest")
        with open(path, "rb") as file:
            header, _ = read_header(file)
            if header["id"] != manifest["id"] or header["tenant"] != manifest["tenant"]:
                raise Damage(f"{name} belongs to another recording")
            count = sum(1 for _ in segments(file))
        if "segments" in entry and count != entry["segments"]:
            raise Damage(f"{name}: {count} segments, the manifest says {entry['segments']}")
    return manifest, hashlib.sha256(raw).hexdigest()


def verify_chain(public, folders):
    found = [verify_manifest(public, folder) for folder in folders]
    known = {digest for _, digest in found}
    previous = [manifest["previous"] for manifest, _ in found]
    forks = {value for value in previous if previous.count(value) > 1}
    if forks:
        raise Damage("two manifests share a predecessor: " + ", ".join(str(fork) for fork in sorted(forks, key=str)))
    starts = [manifest["id"] for manifest, _ in found if manifest["previous"] not in known]
    if len(starts) != 1:
        raise Damage("the chain is broken before " + ", ".join(sorted(starts)))
    return found


def load(path, read):
    try:
        with open(path, "rb") as file:
            return read(file.read())
    except (OSError, ValueError) as error:
        sys.exit(f"{path}: {error}")


def main(arguments):
    if len(arguments) >= 3 and arguments[0] in ("--manifest", "--chain"):
        public = load(arguments[1], serialization.load_pem_public_key)
        if not isinstance(public, Ed25519PublicKey):
            sys.exit(f"{arguments[1]}: not an Ed25519 public key")
        if arguments[0] == "--chain":
            found = verify_chain(public, arguments[2:])
            print(f"whole: {len(found)} recordings, one chain")
        else:
            manifest, _ = verify_manifest(public, arguments[2])
            print(f"verified: {manifest['id']} {manifest['state']} {manifest['duration_ms']} ms")
    elif len(arguments) in (2, 3) and not arguments[0].startswith("--"):
        private = load(arguments[0], lambda pem: serialization.load_pem_private_key(pem, None))
        out = None
        if len(arguments) == 3:
            out = sys.stdout.buffer if arguments[2] == "-" else open(arguments[2], "wb")
        with open(arguments[1], "rb") as file:
            header, count, total = open_file(private, file, out.write if out else lambda plain: None)
        if out:
            out.flush()
        print(f"whole: {header['id']} {header['content']}, {count} segments, {total} bytes", file=sys.stderr)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Damage as damage:
        print(damage, file=sys.stderr)
        sys.exit(3)
