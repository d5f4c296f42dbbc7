"""The sending side of SRTP with SDES keys (RFC 3711, RFC 4568, RFC 7714), by the cryptography package."""

import base64
import hashlib
import hmac
import struct

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SUITES = {
    "AES_CM_128_HMAC_SHA1_80": (16, 14, 10),
    "AES_CM_128_HMAC_SHA1_32": (16, 14, 4),
    "AES_256_CM_HMAC_SHA1_80": (32, 14, 10),
    "AES_256_CM_HMAC_SHA1_32": (32, 14, 4),
    "AEAD_AES_128_GCM": (16, 12, 16),
    "AEAD_AES_256_GCM": (32, 12, 16),
}


def _stream(key, iv, length):
    return Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor().update(bytes(length))


class Sealer:
    def __init__(self, suite, inline):
        """`inline` is the value behind `inline:`, with lifetime and MKI if it has them."""
        key_len, salt_len, self.tag_len = SUITES[suite]
        self.aead = suite.startswith("AEAD")
        parts = inline.split("|")
        material = base64.b64decode(parts[0] + "=" * (-len(parts[0]) % 4))
        key, salt = material[:key_len], material[key_len : key_len + salt_len]
        self.mki = b""
        for part in parts[1:]:
            if ":" in part:
                value, length = part.split(":")
                self.mki = int(value).to_bytes(int(length), "big")

        def derive(label, length):
            iv = bytearray(salt.ljust(16, b"\0"))
            iv[7] ^= label
            return _stream(key, bytes(iv), length)

        self.key, self.auth, self.salt = derive(0, key_len), derive(1, 20), derive(2, salt_len)
        self.rollover, self.last = 0, None

    def seal(self, packet):
        sequence, ssrc = struct.unpack(">H", packet[2:4])[0], packet[8:12]
        if self.last is not None and sequence < self.last - 0x8000:
            self.rollover += 1
        self.last = sequence
        index = self.rollover << 16 | sequence
        header, payload = packet[:12], packet[12:]
        if self.aead:
            nonce = bytes(a ^ b for a, b in zip(b"\0\0" + ssrc + index.to_bytes(6, "big"), self.salt))
            return header + AESGCM(self.key).encrypt(nonce, payload, header) + self.mki
        iv = bytes(a ^ b for a, b in zip(self.salt.ljust(16, b"\0"), b"\0" * 4 + ssrc + index.to_bytes(6, "big") + b"\0\0"))
        sealed = header + Cipher(algorithms.AES(self.key), modes.CTR(iv)).encryptor().update(payload)
        tag = hmac.new(self.auth, sealed + struct.pack(">I", self.rollover), hashlib.sha1).digest()
        return sealed + self.mki + tag[: self.tag_len]
