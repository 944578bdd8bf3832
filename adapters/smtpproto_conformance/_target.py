# Whom to ask, and whether that may be done.
#
# A run sends hostile input and messages. So the name is resolved once, every address of it must be
# this machine's unless the user says that the server is theirs, and what was checked is what is
# connected to: a second answer of the resolver is never asked for.

from __future__ import annotations

import base64
import ipaddress
import socket
from dataclasses import dataclass
from enum import Enum, unique
from typing import Any, Final, NamedTuple

__all__ = ["Login", "NotYours", "Place", "Security", "Target", "resolved"]

HIDDEN: Final = "***"


class NotYours(Exception):  # noqa: N818 - it says what the server is
    """The address is another machine's, or none at all; the text says which."""


@unique
class Security(Enum):
    """Where the transactions take place."""

    NONE = "none"
    STARTTLS = "starttls"
    TLS = "tls"


class Place(NamedTuple):
    """A host's name and the address that it has."""

    host: str
    family: socket.AddressFamily
    address: Any


@dataclass(frozen=True)
class Login:
    """A user and the password, which no output may show."""

    name: str
    password: str

    @property
    def plain(self) -> str:
        """The response of PLAIN (RFC 4616 §2)."""
        return _base64(f"\0{self.name}\0{self.password}")

    @property
    def words(self) -> dict[str, str]:
        """What stands for braces in the table's input."""
        return {
            "plain": self.plain,
            "wrong": _base64(f"\0{self.name}\0no-{self.password}"),
            "name": _base64(self.name),
            "password": _base64(self.password),
        }

    def hide(self, text: str) -> str:
        """The text without the password, in whatever form it was sent."""
        for secret in (*(self.words[each] for each in ("plain", "wrong", "password")), self.password):
            text = text.replace(secret, HIDDEN)
        return text

    def __repr__(self) -> str:
        return f"Login({self.name!r}, {HIDDEN})"


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@dataclass(frozen=True, kw_only=True)
class Target:
    """The server and how to speak to it."""

    place: Place
    security: Security = Security.NONE
    lmtp: bool = False
    login: Login | None = None
    helo: str = "c.test"
    sender: str = "postmaster@localhost"
    recipients: tuple[str, ...] = ("postmaster@localhost",)
    """One or two; the second is for rows that need another."""
    patience: float = 10.0
    """Seconds to wait for each reply."""


def resolved(text: str, *, own: bool = False) -> Place:
    """The place that `HOST:PORT` or `[ADDRESS]:PORT` names.

    Raises ValueError for text that is neither, and NotYours unless it is loopback or `own`.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not (colon and host and port.isascii() and port.isdecimal() and 0 < int(port) <= 65535):  # noqa: PLR2004 - the last port
        raise ValueError(f"{text!r} is not HOST:PORT")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NotYours(f"{host} has no address") from error
    foreign = [str(address[0]) for *_, address in found if not _is_loopback(str(address[0]))]
    if foreign and not own:
        which = "" if foreign[0] == host else f" {foreign[0]}, which is"
        raise NotYours(f"{host} is{which} not this machine")
    family, _, _, _, address = found[0]
    return Place(host, family, address)


def _is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
