# An oracle that says yes to everything finds nothing: each target is shown a fault of the kind that it
# is there to see.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from fuzz.playing import Play, insist_on_replies
from fuzz.seeds import seeds
from fuzz.targets import TARGETS
from smtpproto import Connection, Reject, State
from smtpproto._body import BOUNDARIES, IncomingMessage, _Boundary, _Place
from smtpproto._proxy import ProxyReader
from smtpproto._sasl import Credentials
from smtpproto_server.adapting import Application, Driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DELIVERY: Final = b"EHLO c\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\na\r\n.b\r\n.\r\n"


def connection(octets: bytes, *, options: int = 0, how: int = 0, sizes: bytes = b"\xff\x3f\x3f") -> bytes:
    return bytes([options, how]) + sizes + bytes(8) + octets


def always(value: object) -> Callable[..., object]:
    def function(*_: object, **__: object) -> object:
        return value

    return function


def the_same(text: str) -> str:
    return text


def run_all(target: str, inputs: Iterable[bytes]) -> None:
    for data in inputs:
        TARGETS[target].run(data)


@pytest.mark.parametrize(
    "sent",
    [
        b"250 a\n", b"250-a\r\n", b"250-a\r\n251 b\r\n", b"250 5.1.1 a\r\n",
        b"250 " + b"a" * 507 + b"\r\n", b"99 a\r\n", b"250 a\0\r\n", b"250 \xff\r\n",
    ],
)  # fmt: skip
def test_a_reply_that_is_not_well_formed_is_seen(sent: bytes) -> None:
    with pytest.raises((AssertionError, UnicodeDecodeError)):
        insist_on_replies(sent, coded=True)


def test_a_lost_place_between_two_pieces_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    faulty = {**BOUNDARIES, _Place.LONE_DOT: _Boundary(0x0A, _Place.END, b"", b"")}
    monkeypatch.setattr("smtpproto._body.BOUNDARIES", faulty)
    with pytest.raises(AssertionError):
        TARGETS["body"].run(b"\0\x03\0a\r\n.\r\n")
    with pytest.raises(AssertionError):
        TARGETS["connection"].run(connection(DELIVERY, sizes=b"\0\0\0"))


def test_an_end_of_data_that_is_none_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = IncomingMessage.feed

    def smuggling(reader: IncomingMessage, data: bytes) -> bytes:
        return feed(reader, data.replace(b"\n.\n", b"\r\n.\r\n"))

    monkeypatch.setattr(IncomingMessage, "feed", smuggling)
    for target in ("body", "connection"):
        with pytest.raises(AssertionError):
            TARGETS[target].run(b"\0\xff\x3f" + b"a\n.\nb" if target == "body" else connection(
                DELIVERY.replace(b".b", b"a\n.\nb"), options=5))  # fmt: skip


def test_a_transaction_that_leaks_into_the_next_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smtpproto._core.Core.reset_transaction", always(None))
    with pytest.raises(AssertionError):
        TARGETS["connection"].run(connection(DELIVERY))


def test_what_was_said_in_clear_and_is_still_known_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    established = Connection.tls_established

    def remembering(connection: Connection, details: Any = None) -> None:
        established(connection, details)
        connection.session._opening_command = "EHLO"

    monkeypatch.setattr(Connection, "tls_established", remembering)
    with pytest.raises(AssertionError):
        TARGETS["connection"].run(connection(b"EHLO c\r\nSTARTTLS\r\n"))


def test_two_replies_for_one_command_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Play._answer

    def doubling(play: Play, event: Any) -> None:
        answer(play, event)
        play.core.out += play.core.out[-1:]

    monkeypatch.setattr(Play, "_answer", doubling)
    with pytest.raises(AssertionError):
        TARGETS["connection"].run(connection(b"EHLO c\r\nMAIL FROM:<>\r\n"))


def test_octets_behind_a_proxy_header_that_are_lost_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    end = ProxyReader._end

    def losing(reader: ProxyReader, length: int, outcome: Any) -> Any:
        found = end(reader, length, outcome)
        reader.rest = reader.rest[1:]
        return found

    monkeypatch.setattr(ProxyReader, "_end", losing)
    with pytest.raises(AssertionError):
        TARGETS["proxy"].run(b"\x07\x07PROXY UNKNOWN\r\nEHLO c\r\n")


@pytest.mark.parametrize(
    ("function", "faulty", "target", "data"),
    [
        ("fuzz.grammar.read_mailbox", always(None), "address", b"\x01a@b.test"),
        ("fuzz.grammar.decode_xtext", the_same, "xtext", b"a+2Bb"),
        ("fuzz.grammar.encode_xtext", the_same, "parameters", b"\x01 ENVID=a+2Bb"),
        ("fuzz.replies.single_line", the_same, "reply", b"\0\0\0a\nb"),
        ("fuzz.logins.decode_base64", always(b""), "login", bytes(10) + b"a"),
        ("smtpproto_server._tls_names._host_name", always("other.test"), "hello",
         b"\7\7\xfd\0\0\0\x0c\0\x0a\0\0\7Mx.Test\0\x2b\0\3\2\3\4"),
    ],
)  # fmt: skip
def test_a_wrong_reading_is_seen(
    function: str, faulty: Callable[..., Any], target: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    TARGETS[target].run(data)
    monkeypatch.setattr(function, faulty)
    with pytest.raises(AssertionError):
        TARGETS[target].run(data)


def test_a_password_in_a_repr_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def telling(credentials: Any) -> str:
        return f"<{credentials.password}>"

    monkeypatch.setattr(Credentials, "__repr__", telling)
    with pytest.raises(AssertionError):
        TARGETS["login"].run(bytes(10) + b"\0u\0secret-word")


def heedless(driver: Driver, _value: Any, kept: Callable[..., None] = Driver._message_done) -> None:
    kept(driver, None)


def telling(_driver: Driver, _name: str, error: BaseException) -> Reject:
    return Reject(text=str(error))


def the_same_session(_server: Application, session: object) -> object:
    return session


def ringing(driver: Driver, why: str, kept: Callable[..., None] = Driver._give_up) -> None:
    kept(driver, why)
    driver.hook_ends = 1.0


@pytest.mark.parametrize(
    ("method", "faulty", "seen"),
    [
        ("Driver._message_done", heedless, "^.[0-9]+, [0-9]+.$"),
        ("Driver._failed", telling, None),
        ("Application.exchange", the_same_session, "another transaction in a thread"),
        ("Driver.claim", always(True), "a hook that was given up may store|a store was given up"),
        ("Driver._give_up", ringing, "its alarm rings without end"),
        ("Driver._hold", always(None), "octets wait|LocalProtocolError"),
        ("Driver._release", always(None), "waits for the client, and does not read"),
        ("Application.gone", always(None), None),
    ],
)
def test_a_fault_of_the_driver_is_seen(
    method: str, faulty: Callable[..., Any], seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"smtpproto_server.adapting.{method}", faulty)
    with pytest.raises(AssertionError, match=seen):
        run_all("driver", sorted(seeds("driver")))


def test_a_call_that_fails_and_changes_something_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = Connection.refuse

    def changing(connection: Connection) -> None:
        try:
            refuse(connection)
        except Exception:
            connection.state = State.READY
            raise

    monkeypatch.setattr(Connection, "refuse", changing)
    with pytest.raises(AssertionError):
        run_all("script", [bytes(10) + bytes([step]) for step in range(256)])
