# What every server is before it listens: options and hooks, events, counts, errors, TLS contexts.

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from smtpproto import ConfigurationError
from smtpproto_server import Failed, Options, Outcome, ServerCore, Serving, StreamAborted, socket_address
from smtpproto_server._server import MAX_COLOURS, new_id

if TYPE_CHECKING:
    from collections.abc import Callable


def begun(server: ServerCore) -> Serving | None:
    return server.begin(("192.0.2.25", 25), ("192.0.2.1", 4321), lambda: 0.0)


async def coloured(*_: object) -> None: ...


def plain(*_: object) -> None: ...


# --- options and hooks ------------------------------------------------------------------------------


def test_a_server_takes_options_or_their_fields_but_not_both() -> None:
    assert ServerCore(name="a.test").options.name == "a.test"
    options = Options(name="b.test")
    assert ServerCore(options).options is options
    with pytest.raises(TypeError, match="not both"):
        ServerCore(options, name="c.test")


def test_hooks_are_options_then_methods_then_those_of_the_handler() -> None:
    class Own(ServerCore):
        def on_data(self, *_: object) -> str:
            return "method"

    class Handler:
        on_data = on_close = staticmethod(coloured)

    handler = Handler()
    assert ServerCore().hook("on_data") is None
    assert ServerCore(handler=handler).hook("on_data") is handler.on_data
    own = Own(handler=handler)
    assert own.hook("on_data") == own.on_data
    assert own.hook("on_close") is handler.on_close
    assert Own(handler=handler, on_data=plain).hook("on_data") is plain
    own.on_close = plain
    assert own.hook("on_close") is plain


def test_the_colour_of_a_hook_is_found_out_once() -> None:
    class Odd:
        __hash__ = None  # type: ignore[assignment]

        async def __call__(self) -> None: ...

        async def method(self) -> None: ...

    server, odd = ServerCore(), Odd()
    for _ in range(2):
        assert server.is_coroutine(coloured)
        assert not server.is_coroutine(plain)
        assert server.is_coroutine(odd.method)
        assert server.is_coroutine(odd)
    assert len(server._colours) == 3
    hooks: list[Callable[..., None]] = [lambda *_: None for _ in range(2 * MAX_COLOURS)]
    assert not any(server.is_coroutine(hook) for hook in hooks)
    assert len(server._colours) <= MAX_COLOURS


# --- events -----------------------------------------------------------------------------------------


def test_listeners_are_called_in_order_until_they_are_taken_off() -> None:
    server, heard = ServerCore(), list[str]()

    def first(what: str) -> None:
        heard.append("first " + what)

    def second(what: str) -> None:
        heard.append("second " + what)

    assert server.on("listening", first).once("listening", second) is server
    server.emit("listening", "a")
    server.emit("listening", "b")
    assert heard == ["first a", "second a", "first b"]
    server.off("listening", first).off("listening", first).once("listening", second).off("listening", second)
    server.emit("listening", "c")
    assert len(heard) == 3


def test_there_are_four_events() -> None:
    server = ServerCore()
    for call in (server.on, server.once, server.off):
        with pytest.raises(ValueError, match="no event 'end'; there are listening, close, connect, error"):
            call("end", print)


def test_a_listener_that_raises_is_logged_and_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    server, heard = ServerCore(), list[int]()

    def broken() -> None:
        raise KeyError("x")

    server.on("close", broken).on("close", lambda: heard.append(1))
    server.emit("close")
    assert heard == [1]
    assert "a listener for 'close' raised" in caplog.text


@pytest.mark.parametrize(
    ("error", "stage", "traceback"),
    [
        (RuntimeError("x"), "hook", True),
        (OSError("x"), "hook", True),
        (ZeroDivisionError("x"), "socket", True),
        (ConnectionResetError("x"), "socket", False),
        (TimeoutError("x"), "tls", False),
    ],
)
def test_errors_are_logged_with_a_traceback_where_there_is_a_program_to_look_at(
    error: Exception, stage: str, traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server, heard = ServerCore(), list[Any]()
    server.on("error", lambda *args: heard.append(args))
    serving = begun(server)
    assert serving is not None
    server.report(error, stage, serving.session)
    server.report(error, stage, None, "192.0.2.9")
    assert heard == [
        (error, {"stage": stage, "session": serving.session, "remote_address": "192.0.2.1"}),
        (error, {"stage": stage, "session": None, "remote_address": "192.0.2.9"}),
    ]
    assert all(bool(record.exc_info) == traceback for record in caplog.records if record.levelname == "ERROR")
    assert f"{serving.session.id} [192.0.2.1]: {stage}: {type(error).__name__}: x" in caplog.text
    assert f"- [192.0.2.9]: {stage}" in caplog.text


# --- counts -----------------------------------------------------------------------------------------


def test_connections_are_counted_in_and_out_once() -> None:
    server = ServerCore(max_clients=2)
    first, second, third = begun(server), begun(server), begun(server)
    assert first is not None
    assert second is not None
    assert third is not None
    assert [each.counted for each in (first, second, third)] == [True, True, False]
    assert server.connections == {first.session, second.session, third.session}
    server.closed(first, "quit")
    server.closed(first, "aborted")
    server.closed(third, "refused")
    assert (server._clients, server._refusing) == (1, 0)
    fourth, fifth = begun(server), begun(server)
    assert fourth is not None
    assert fifth is not None
    assert [each.counted for each in (fourth, fifth)] == [True, False]


def test_under_implicit_tls_only_so_many_refusals_are_pending() -> None:
    server = ServerCore(max_clients=2, secure=True)
    begun_ones = [begun(server) for _ in range(6)]
    assert [each and each.counted for each in begun_ones] == [True, True, False, False, None, None]
    assert begun_ones[2]
    server.closed(begun_ones[2], "refused")
    assert begun(server)
    assert begun(server) is None
    plain_server = ServerCore(max_clients=1, secure=True, secured=True)
    assert all(begun(plain_server) for _ in range(5))


def test_a_refused_proxy_header_is_an_error_of_that_stage() -> None:
    server, stages = ServerCore(use_proxy=True), list[str]()

    def note(_: BaseException, info: dict[str, Any]) -> None:
        stages.append(info["stage"])

    server.on("error", note)
    serving = begun(server)
    assert serving is not None
    server.closed(serving, "PROXY header refused: no PROXY header")
    assert stages == ["proxy"]


def test_ids_are_sixteen_characters_and_may_be_brought_along() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[0-9a-v]{16}", each) for each in ids)
    serving = ServerCore().begin(("", 0), ("", 0), lambda: 0.0, "mine")
    assert serving is not None
    assert serving.session.id == "mine"


def test_cram_md5_is_given_entropy() -> None:
    assert begun(ServerCore(auth_methods=["CRAM-MD5"]))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (("192.0.2.1", 25), ("192.0.2.1", 25)),
        (("::ffff:192.0.2.1", 25, 0, 0), ("192.0.2.1", 25)),
        (("2001:DB8::1", 25, 0, 0), ("2001:db8::1", 25)),
        ("/run/mx", ("", 0)),
        (b"\0abstract", ("", 0)),
        (None, ("", 0)),
        ((), ("", 0)),
    ],
)
def test_addresses_of_sockets_are_canonical(found: object, expected: tuple[str, int]) -> None:
    assert socket_address(found) == expected


# --- names ------------------------------------------------------------------------------------------


def test_the_resolver_of_the_options_replaces_the_system_s() -> None:
    class Resolver:
        def reverse(self, ip: str, /) -> list[str]:
            return [f"host-{ip}"]

    resolver = Resolver()
    assert ServerCore(resolver=resolver).resolve("192.0.2.1") == ["host-192.0.2.1"]
    assert ServerCore().resolve("127.0.0.1")
    with pytest.raises(OSError, match=r"."):
        ServerCore().resolve("192.0.2.1.invalid")


@pytest.mark.parametrize(
    ("result", "name"),
    [
        (["host.test", "other.test"], "host.test"),
        (("host.test",), "host.test"),
        ([], ""),
        (None, ""),
        ("host.test", ""),
        ([None], ""),
        ([""], ""),
        (["a b"], ""),
        (["a\n"], ""),
        (["é.test"], ""),
        (Failed(OSError("no such host")), ""),
        (Outcome.TIMED_OUT, ""),
    ],
)
def test_a_name_is_used_if_it_can_stand_in_a_reply_and_a_log(result: object, name: str) -> None:
    assert ServerCore().checked_name("192.0.2.1", result) == name


def test_a_client_is_announced_with_what_is_known_of_it() -> None:
    server, heard = ServerCore(), list[dict[str, Any]]()
    server.on("connect", heard.append)
    serving = begun(server)
    assert serving is not None
    server.connected(serving.session)
    assert heard[0]["remote_port"] == 4321


# --- TLS --------------------------------------------------------------------------------------------


def test_contexts_are_made_once_and_updated_in_place(caplog: pytest.LogCaptureFixture) -> None:
    assert ServerCore().contexts.available
    assert "self-signed certificate" in caplog.text
    pair = trustme.CA().issue_cert("mx.test").private_key_and_cert_chain_pem.bytes()
    server = ServerCore(cert=pair)
    contexts = server.contexts
    assert server.contexts is contexts
    server.update_secure_context(min_version="TLSv1.3")
    assert server.contexts is contexts
    with pytest.raises(TypeError):
        server.update_secure_context(no_such_option=1)


def test_a_server_behind_a_tls_proxy_is_not_warned_of_its_certificate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ServerCore(secured=True).prepare()
    assert not caplog.records


@pytest.mark.parametrize("name", ["secure", "needs_upgrade"])
def test_options_that_need_tls_are_refused_without_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    needs: dict[str, Any] = {name: True, "name": "without-cryptography.test"}
    with pytest.raises(ConfigurationError, match=f"{name}=True needs TLS"):
        ServerCore(**needs).prepare()
    ServerCore(**needs, secured=True).prepare()


def test_without_tls_and_the_need_for_it_a_server_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    server = ServerCore(name="without-cryptography.test")
    server.prepare()
    assert not server.contexts.available


def test_what_is_wide_open_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    server = ServerCore(use_proxy=True, use_xclient=["192.0.2.1"], use_xforward=True, secured=True)
    for _ in range(3):
        server.prepare()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "use_proxy=True: anyone who can connect can forge addresses",
        "use_xforward=True: anyone who can connect can forge addresses",
    ]


def test_an_aborted_stream_says_why() -> None:
    assert StreamAborted("timeout").reason == "timeout"
