# What is public is printed without a secret. What has a repr of its own is a value here, filled with
# secrets; it can be copied and pickled, too.

from __future__ import annotations

import copy
import dataclasses
import enum
import importlib
import inspect
import pickle
import typing
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto import (
    Accept,
    Address,
    Challenge,
    CramMd5Credentials,
    Credentials,
    Envelope,
    Event,
    IncomingMessage,
    LoginCredentials,
    MessageDsn,
    PlainCredentials,
    ProtocolOptions,
    ProxyInfo,
    RecipientDsn,
    Reject,
    Session,
    TlsDetails,
    XClientCredentials,
    XOAuth2Credentials,
)
from smtpproto.extending import PENDING, AuthRequest, CramMd5, Peers, Pending
from smtpproto.testing import make_session
from smtpproto_server import HookError, Options, StreamAborted, StreamRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET: Final = "tr0ub4dor"
MODULES: Final = (
    "smtpproto", "smtpproto.extending", "smtpproto_server", "smtpproto_server.adapting", "smtpproto_asyncio",
    "smtpproto_anyio", "smtpproto_gevent", "smtpproto_blocking",
)  # fmt: skip
KEY: Final = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"


@dataclasses.dataclass
class Careless:
    """An application's object, whose repr has all it knows."""

    password: str

    def on_auth(self, _auth: Credentials, _session: Session) -> bool:
        return False


def careless_hook(_password: str, _address: Address, _session: Session) -> None: ...


def careless_mechanism(_password: str, _session: Session) -> Any:
    raise NotImplementedError


def session() -> Session:
    made: Session[Careless, Careless] = make_session("a@x.test", ["b@y.test"])
    made.user = made.state = Careless(SECRET)
    return made


def options() -> Options:
    return Options(
        key=KEY,
        cert=KEY,
        ca=[KEY],
        sni_options={"mail.test": {"cert": KEY, "key": KEY}},
        handler=Careless(SECRET),
        on_mail_from=partial(careless_hook, SECRET),
        sasl_mechanisms={"X-OWN": partial(careless_mechanism, SECRET)},
    )


MADE: Final[dict[type, Callable[[], Any]]] = {
    Accept: lambda: Accept(235, user=Careless(SECRET)),
    Address: lambda: Address("a@x.test"),
    AuthRequest: lambda: AuthRequest(PlainCredentials("", "ann", SECRET)),
    Challenge: lambda: Challenge(SECRET.encode()),
    CramMd5Credentials: lambda: CramMd5Credentials("ann", "<1.2@x>", SECRET),
    Credentials: lambda: Credentials("X-OWN", "ann"),
    Envelope: lambda: session().envelope,
    IncomingMessage: lambda: IncomingMessage(options()),
    LoginCredentials: lambda: LoginCredentials("ann", SECRET),
    MessageDsn: lambda: MessageDsn("FULL", "x"),
    Options: options,
    Peers: lambda: Peers.of(["192.0.2.0/24"]),
    Pending: lambda: PENDING,
    PlainCredentials: lambda: PlainCredentials("", "ann", SECRET),
    ProtocolOptions: lambda: ProtocolOptions(sasl_mechanisms={"X-OWN": partial(careless_mechanism, SECRET)}),
    ProxyInfo: lambda: ProxyInfo(1, "PROXY", "TCP4", ("192.0.2.1", 5), ("192.0.2.2", 25), []),
    RecipientDsn: lambda: RecipientDsn(("NEVER",), "rfc822;a@b"),
    Reject: lambda: Reject(550, "5.1.1", "no"),
    Session: session,
    TlsDetails: TlsDetails,
    XClientCredentials: lambda: XClientCredentials("ann"),
    XOAuth2Credentials: lambda: XOAuth2Credentials("ann", SECRET),
    HookError: lambda: HookError("on_connect returned Careless"),
    StreamAborted: lambda: StreamAborted("timeout"),
    StreamRefused: lambda: StreamRefused("size_exceeded", Reject(552, "5.3.4", "too big")),
}
FIELDS: Final[dict[str, Any]] = {  # of events, by the first word of their types
    "str": "x", "bytes": b"x", "int": 5, "bool": True, "float": 1.0, "TimerKind": "socket_timeout",
    "AbortReason": "timeout", "Session": session(), "Credentials": PlainCredentials("", "ann", SECRET),
    "Address": Address("a@x.test"), "Reject": Reject(), "IncomingMessage": IncomingMessage(options()),
    "ProxyInfo": MADE[ProxyInfo](),
}  # fmt: skip


def public_classes() -> Iterator[type]:
    """Those that have instances."""
    for module in map(importlib.import_module, MODULES):
        for value in map(partial(getattr, module), module.__all__):
            if inspect.isclass(value) and not (typing.is_typeddict(value) or issubclass(value, enum.Enum)):
                yield value


CLASSES: Final = sorted({*public_classes()}, key=lambda each: f"{each.__name__} {each.__module__}")
PLAIN_REPRS: Final[set[Any]] = {object.__repr__, BaseException.__repr__}
WITH_REPR: Final = [each for each in CLASSES if each in MADE or each.__repr__ not in PLAIN_REPRS]


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - our own


def make(kind: type) -> Any:
    if dataclasses.is_dataclass(kind) and issubclass(kind, Event):
        return kind(**{field.name: FIELDS[str(field.type).split()[0]] for field in dataclasses.fields(kind)})
    return MADE[kind]()


@pytest.mark.parametrize("kind", WITH_REPR, ids=lambda kind: kind.__name__)
def test_no_secret_is_in_what_is_printed(kind: type) -> None:
    value = make(kind)
    for shown in (repr(value), str(value), f"{value}", repr([value])):
        assert SECRET not in shown
        assert "Careless(" not in shown


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
@pytest.mark.parametrize("kind", WITH_REPR, ids=lambda kind: kind.__name__)
def test_it_can_be_copied_and_pickled(kind: type, again: Callable[[Any], Any]) -> None:
    value = make(kind)
    other = again(value)
    assert type(other) is kind
    assert repr(other) == repr(value)
    assert str(other) == str(value)


def test_other_exceptions_are_pickled_with_their_text() -> None:
    for kind in CLASSES:
        if issubclass(kind, Exception) and kind not in MADE:
            other = pickled(kind("text"))
            assert (type(other), str(other)) == (kind, "text")


def test_a_copied_refusal_of_a_message_keeps_the_reply() -> None:
    for again in (copy.copy, copy.deepcopy):
        other = again(MADE[StreamRefused]())
        assert (other.reason, other.refusal) == ("size_exceeded", Reject(552, "5.3.4", "too big"))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_there_is_one_pending(again: Callable[[Any], Any]) -> None:
    assert again(PENDING) is PENDING


def test_a_mechanism_does_not_print_what_it_was_told() -> None:
    assert SECRET not in repr(CramMd5(SECRET.encode()))
