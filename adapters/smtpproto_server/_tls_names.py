# Server names in TLS: the one that a client asks for, and how names are written to be compared.

from __future__ import annotations

import re
from typing import Final

__all__ = ["MAX_CLIENT_HELLO", "ClientHello", "a_labels"]

MAX_FRAGMENT: Final = 16_384  # octets of a message in one record at most, RFC 8446 §5.1
MAX_CLIENT_HELLO: Final = 32_768  # octets; with post-quantum key shares some 2,000 are usual

RECORD_HEADER: Final = 5  # octets: type, version, length
MESSAGE_HEADER: Final = 4  # octets: type, length
HANDSHAKE: Final = 22  # record type, RFC 8446 §5.1
CLIENT_HELLO: Final = 1  # message type, RFC 8446 §4
SERVER_NAME: Final = b"\0\0"  # extension type, RFC 6066 §3
# RFC 6066 §3: a DNS name in A-labels. Anything else cannot name a certificate, and has no place
# in a log either.
_HOST_NAME: Final = re.compile(r"(?=.{1,255}\Z)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


class ClientHello:
    """Finds the server name in the first message of a client (RFC 8446 §4.1.2).

    Judging the message is OpenSSL's business: whatever looks wrong here has no name, and the
    default context gets to refuse it.
    """

    __slots__ = ("_message", "_records", "name")

    def __init__(self) -> None:
        self._records: bytearray = bytearray()
        self._message: bytearray = bytearray()
        self.name: str | None = None

    def feed(self, raw: bytes) -> bool:
        """Take in octets; True when `name` is final, with or without one."""
        records = self._records
        records += raw
        while records:
            if records[0] != HANDSHAKE:
                return True
            if len(records) < RECORD_HEADER:
                return False
            end = RECORD_HEADER + int.from_bytes(records[3:RECORD_HEADER])
            # RFC 8446 §5.1: a fragment of a handshake message is never empty, nor above 2^14 octets.
            if not RECORD_HEADER < end <= RECORD_HEADER + MAX_FRAGMENT:
                return True
            if len(records) < end:
                return False
            self._message += records[RECORD_HEADER:end]
            del records[:end]
            if self._complete():
                return True
        return False

    def _complete(self) -> bool:
        message = self._message
        if message[0] != CLIENT_HELLO:
            return True
        end = MESSAGE_HEADER + int.from_bytes(message[1:MESSAGE_HEADER])
        if len(message) >= MESSAGE_HEADER and end > MAX_CLIENT_HELLO:
            return True
        if len(message) < max(end, MESSAGE_HEADER):
            return False
        self.name = _server_name(bytes(message[MESSAGE_HEADER:end]))
        return True


def _server_name(hello: bytes) -> str | None:
    at = 2 + 32  # legacy_version, random
    for width in (1, 2, 1):  # legacy_session_id, cipher_suites, legacy_compression_methods
        at += width + int.from_bytes(hello[at : at + width])
    at += 2  # length of all extensions
    while at < len(hello):
        end = at + 4 + int.from_bytes(hello[at + 2 : at + 4])
        if hello[at : at + 2] == SERVER_NAME:
            return _host_name(hello[at + 4 : end])
        at = end
    return None


def _host_name(extension: bytes) -> str | None:
    # RFC 6066 §3: length of the list, name_type host_name(0), length, name. One name of a type.
    if extension[2:3] != b"\0":
        return None
    text = extension[5 : 5 + int.from_bytes(extension[3:5])].decode("latin-1").lower().removesuffix(".")
    return text if _HOST_NAME.fullmatch(text) else None


def a_labels(host: object) -> str | None:
    """A host name in lower-case A-labels; None for what is no host name."""
    if not isinstance(host, str):
        return None
    try:
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        return None
    return name if _HOST_NAME.fullmatch(name) else None
