# What is compared: all that an application or a client could see, as plain values without identity.

from __future__ import annotations

from typing import Any, Final

from differential.versions import NAMES_NOW, NAMES_THEN

__all__ = ["Record", "address_facts", "event_facts", "name_of", "session_facts", "value_facts"]

_LIVE: Final = frozenset({"session", "__dict__"})


class Record:
    """What one player has seen, step by step."""

    def __init__(self) -> None:
        self.steps: list[tuple[Any, ...]] = []
        self._seen: list[Any] = []
        self._octets: list[bytes] = []
        self.reports: list[tuple[Any, ...]] = []
        """Errors that were reported; when is not compared."""

    def note(self, *what: Any) -> None:
        """Something that the application sees."""
        self._seen.append(what)

    def content(self, octets: bytes) -> None:
        """Octets of a message; where pieces end means nothing."""
        last = self._seen[-1] if self._seen else None
        if isinstance(last, bytearray):
            last += octets
        else:
            self._seen.append(bytearray(octets))

    def sent(self, octets: bytes) -> None:
        """Octets for the client."""
        self._octets.append(octets)

    def end_step(self, session: Any, *facts: Any) -> None:
        """All that a step has led to was seen."""
        seen = [bytes(each) if isinstance(each, bytearray) else each for each in self._seen]
        octets = b"".join(self._octets)
        quiet = not octets and len(seen) < 2  # most steps: a look at the session would cost the most
        self.steps.append((octets, seen, facts, None if quiet else session_facts(session)))
        self._seen, self._octets = [], []


def address_facts(address: Any) -> tuple[Any, ...] | None:
    """All of an address."""
    if address is None:
        return None
    return (
        address.address,
        address.local,
        address.domain,
        dict(address.args),
        address.dsn.orcpt,
        address.dsn.notify and [*address.dsn.notify],
    )


def session_facts(session: Any) -> tuple[Any, ...]:
    """All of a session and its envelope."""
    envelope = session.envelope
    return (
        address_facts(envelope.mail_from), [address_facts(each) for each in envelope.rcpt_to],
        envelope.body_type, envelope.smtp_utf8, envelope.require_tls, envelope.declared_size,
        tuple(envelope.dsn), session.transaction, session.user, session.error, session.secure,
        session.opening_command, session.host_name_appears_as, session.client_hostname,
        session.remote_address, session.remote_port, session.local_address, session.local_port,
        session.lmtp, session.servername, session.tls_options, session.proxy and repr(session.proxy),
        *(dict(_either(session, name)) for name in ("xclient", "xforward")), session.transmission_type,
    )  # fmt: skip


def _either(session: Any, name: str) -> Any:
    """A field by its name today, or then."""
    return getattr(session, name) if hasattr(session, name) else getattr(session, NAMES_THEN[name])


def value_facts(value: Any) -> Any:
    """A field of an event or an argument of a hook."""
    kind = type(value).__name__
    if kind == "Address":
        return address_facts(value)
    if kind == "Session":
        return session_facts(value)
    if kind == "IncomingMessage":
        return (value.byte_length, value.complete, value.size_exceeded, repr(value.refusal))
    if kind.endswith("Credentials"):
        return _slots(value)
    return value if isinstance(value, str | int | float | bytes | None) else repr(value)


def _slots(value: Any) -> tuple[Any, ...]:
    kinds: tuple[Any, ...] = type(value).__mro__
    names = {name for each in kinds for name in getattr(each, "__slots__", ())} - _LIVE
    known = {name: getattr(value, name, None) for name in sorted(names)}
    return type(value).__name__, {name: each for name, each in known.items() if each is not None}


def name_of(event: Any) -> str:
    """An event's name today."""
    name = type(event).__name__
    return NAMES_NOW.get(name, name)


def event_facts(event: Any) -> tuple[Any, ...]:
    """An event by its name and fields."""
    names: tuple[str, ...] = event.__slots__
    return name_of(event), *(value_facts(getattr(event, name)) for name in names)
