# The table of targets. A target takes any octets and raises if an invariant is broken; atheris, the
# replay of the corpus and the minimiser all call it so.

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fuzz import bodies, connection, driving, grammar, hellos, logins, proxies, replies, scripts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["TARGETS", "Target"]


class Target(NamedTuple):
    """A row."""

    run: Callable[[bytes], None]
    max_len: int
    """Octets of an input; what is found with few is found sooner."""
    says: str


TARGETS: Final[Mapping[str, Target]] = {
    "connection": Target(
        connection.target, 300, "any octets in any pieces: the same replies, events and state"
    ),
    "script": Target(scripts.target, 50, "any calls in any order: each works or raises at once"),
    "driver": Target(
        driving.target,
        250,
        "any network, clock and hooks, at any time: no false 250, no secret shown, an end",
    ),
    "login": Target(logins.target, 160, "any SASL exchange: one reply for a line, no login by itself"),
    "body": Target(bodies.target, 64, "any body: what comes out is what went in, less stuffed dots"),
    "address": Target(grammar.address, 300, "any path: what the ABNF says, a character at a time"),
    "parameters": Target(grammar.parameters, 160, "any parameters: clean, and the same when written again"),
    "xtext": Target(grammar.xtext, 64, "any text: read and written as xtext"),
    "reply": Target(replies.target, 200, "any text of an application: one well-formed reply"),
    "proxy": Target(proxies.target, 300, "any PROXY header: the same in any pieces, nothing lost behind it"),
    "hello": Target(hellos.target, 200, "any beginning of TLS: the name OpenSSL finds, or an SSLError"),
}
