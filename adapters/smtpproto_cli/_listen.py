# What `--listen URL`, `[[listen]]` and `--host`, `--port`, `--unix` say: where to listen, and how.
#
# A scheme stands for options of the listener and for a port. Everything that is wrong is a Fault that
# says what to change.

from __future__ import annotations

import re
from difflib import get_close_matches
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from smtpproto_cli._faults import Fault
from smtpproto_cli._places import Place
from smtpproto_cli._settings import acceptable, is_option
from smtpproto_server.adapting import LISTENER_OPTIONS, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["SCHEMES", "by_flags", "by_table", "by_url"]

HOST: Final = "127.0.0.1"  # nobody else's mail by accident
PORT: Final = 2525
LAST_PORT: Final = 65535
ALL: Final = "*"  # addresses of this machine
KEYS: Final = ("url", "host", "port", "path", "name", *LISTENER_OPTIONS)
HOST_PORT: Final = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^\[\]:/]*))(?::(?P<port>[0-9]{1,5}))?/?")


class Scheme(NamedTuple):
    """What the first word of a URL stands for."""

    port: int
    options: Mapping[str, Any]


_LOGIN: Final = {"auth_optional": False, "lmtp": False}
SCHEMES: Final[Mapping[str, Scheme]] = {
    "smtp": Scheme(25, {"secure": False, "lmtp": False}),
    "smtps": Scheme(465, {"secure": True, "lmtp": False}),
    "submission": Scheme(587, {"secure": False, "needs_upgrade": True, **_LOGIN}),
    "submissions": Scheme(465, {"secure": True, **_LOGIN}),
    "lmtp": Scheme(24, {"lmtp": True}),
}


def by_flags(hosts: Sequence[str], port: int | None, path: str | None) -> list[Place]:
    """Where `--host`, `--port` and `--unix` say."""
    if path is not None and (hosts or port is not None):
        raise Fault("--unix cannot be had together with --host or --port; leave one out")
    if "" in hosts:
        raise Fault("--host is empty; for all addresses of this machine say '*'")
    if path == "":
        raise Fault("--unix is empty; give the path of the socket")
    if path is not None:
        return [Place(path=path)]
    return [Place(_host(host), PORT if port is None else port) for host in hosts or (HOST,)]


def by_url(url: str, origin: str = "--listen", own: Mapping[str, Any] | None = None) -> Place:
    """Where a URL says, with what its scheme stands for, and what the listener has of its `own`."""
    scheme, marked, rest = url.partition("://")
    if not marked or scheme not in SCHEMES:
        near = get_close_matches(scheme.lower(), SCHEMES, n=1) if marked else []
        hint = f"did you mean {near[0]}://?" if near else f"schemes are {', '.join(SCHEMES)}"
        raise Fault(f"{origin}: {url!r} is no SCHEME://HOST:PORT or SCHEME://unix:PATH; {hint}")
    origin = f"{origin}: {url}"
    port, options = SCHEMES[scheme]
    given = {"name": scheme, **options, **(own or {})}
    if rest.startswith("unix:"):
        return Place(path=_text(rest.removeprefix("unix:"), "path", origin), own=given, origin=origin)
    if len(rest) > 1 and rest.startswith("/"):
        raise Fault(f"{origin}: {rest!r} is not HOST:PORT; a unix socket is {scheme}://unix:{rest}")
    found = HOST_PORT.fullmatch(rest)
    if found is None or not _is_ipv6(found["ipv6"]):
        raise Fault(f"{origin}: {rest!r} is not HOST:PORT; an IPv6 address stands in brackets: [::1]:{port}")
    host = found["ipv6"] or found["host"]
    if not host:
        raise Fault(
            f"{origin}: the host is missing; for all addresses of this machine say {scheme}://*:{port}"
        )
    port = _port(int(found["port"]), origin) if found["port"] else port
    return Place(_host(host), port, own=given, origin=origin)


def by_table(table: Mapping[str, Any], origin: str) -> Place:
    """Where a `[[listen]]` says."""
    for key in table:
        _insist_on_key(key, origin)
    own = {key: acceptable(key, value) for key, value in table.items() if key in LISTENER_OPTIONS}
    if "name" in table:
        own["name"] = _text(table["name"], "name", origin)
    where = {key: table[key] for key in ("url", "host", "port", "path") if key in table}
    if not where:
        raise Fault(f"{origin} says nowhere to listen; give url, or host and port, or path")
    if len(where) > 1 and where.keys() != {"host", "port"}:
        raise Fault(
            f"{origin}: {' and '.join(where)} cannot be had together; give url, or host and port, or path"
        )
    if "url" in where:
        return by_url(_text(where["url"], "url", origin), origin, own)
    if "path" in where:
        return Place(path=_text(where["path"], "path", origin), own=own, origin=origin)
    host = _host(_text(where.get("host", HOST), "host", origin))
    return Place(host, _port(where.get("port", PORT), origin), own=own, origin=origin)


def _insist_on_key(key: str, origin: str) -> None:
    if key in KEYS:
        return
    if is_option(key):
        raise Fault(f"{origin}: {key} is the same for all listeners; write it before the first [[listen]]")
    hint = nearest(key, KEYS) or f"there are {', '.join(KEYS)}"
    raise Fault(f"{origin}: there is no {key!r} here; {hint}")


def _text(value: Any, key: str, origin: str) -> str:
    if not isinstance(value, str) or not value:
        raise Fault(f"{origin}: {key} must be text and not empty, not {value!r}")
    return value


def _port(value: Any, origin: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LAST_PORT:
        raise Fault(f"{origin}: port must be a number from 0 to {LAST_PORT}, not {value!r}")
    return value


def _host(text: str) -> str | None:
    return None if text == ALL else text


def _is_ipv6(text: str | None) -> bool:
    """True also where there is none in brackets."""
    try:
        return text is None or bool(IPv6Address(text))
    except ValueError:
        return False
