# What every server is before it listens: options and hooks, events, counts, errors, TLS contexts.

from __future__ import annotations

import functools
import logging
import re
import sys
from dataclasses import fields
from typing import Any

import pytest
import trustme

from server.scripted import ScriptedServer
from smtpproto import ConfigurationError
from smtpproto.testing import make_session
from smtpproto_server import Options, StreamAborted
from smtpproto_server._application import MAX_KNOWN
from smtpproto_server._server import new_id
from smtpproto_server.adapting import LISTENER_OPTIONS, socket_address


def begun(server: ScriptedServer) -> Any:
    return server.begin(None, ("192.0.2.25", 25), ("192.0.2.1", 4321), lambda: 0.0)


async def coroutine_hook(*_: object) -> None: ...


def plain(*_: object) -> None: ...


# --- options and hooks ------------------------------------------------------------------------------


def test_a_server_takes_options_or_their_fields_but_not_both() -> None:
    assert ScriptedServer(name="a.test").options.name == "a.test"
    options = Options(name="b.test")
    assert ScriptedServer(options).options is options
    with pytest.raises(TypeError, match="not both"):
        ScriptedServer(options, name="c.test")


def test_hooks_are_options_then_methods_then_those_of_the_handler() -> None:
    class Own(ScriptedServer):
        def on_data(self, *_: object) -> str:
            return "method"

    class Handler:
        on_data = on_close = staticmethod(coroutine_hook)

    handler = Handler()
    assert ScriptedServer().on_data is None
    assert ScriptedServer(handler=handler).on_data is handler.on_data
    own = Own(handler=handler)
    assert "on_data" not in vars(own)
    assert own.on_close is handler.on_close
    assert vars(Own(handler=handler, on_data=plain))["on_data"] is plain
    own.on_close = plain
    assert vars(own)["on_close"] is plain


def test_which_hooks_are_coroutine_functions_is_found_out_once() -> None:
    class Odd:
        __hash__ = None  # type: ignore[assignment]

        async def __call__(self) -> None: ...

        async def method(self) -> None: ...

    server, odd = ScriptedServer(), Odd()
    for _ in range(2):
        assert server.is_coroutine(coroutine_hook)
        assert not server.is_coroutine(plain)
        assert server.is_coroutine(odd.method)
        assert server.is_coroutine(odd)
    assert len(server.coroutine_hooks) == 3
    for _ in range(2 * MAX_KNOWN):

        async def another(*_: object) -> None: ...

        assert server.is_coroutine(another)
    assert len(server.coroutine_hooks) == MAX_KNOWN


def test_a_runtime_without_coroutines_takes_no_coroutine_functions() -> None:
    class Plain(ScriptedServer):
        coroutines = False

    class Resolver:
        async def reverse(self, ip: str, /) -> list[str]:
            return [ip]

    with pytest.raises(TypeError, match="on_data is a coroutine function"):
        Plain(on_data=coroutine_hook)
    with pytest.raises(TypeError, match="resolver is a coroutine function"):
        Plain(resolver=Resolver())
    assert not Plain(on_data=plain).is_coroutine(coroutine_hook)


def test_a_hook_may_be_set_at_any_time_and_is_asked_from_the_next_connection_on() -> None:
    server = ScriptedServer()
    before = begun(server)
    server.on_vrfy = coroutine_hook
    after = begun(server)
    assert not before.asks
    assert [kind.__name__ for kind in after.asks] == ["VerifyRequested"]
    assert begun(server).asks is after.asks


# --- events -----------------------------------------------------------------------------------------


def test_listeners_are_called_in_order_until_they_are_taken_off() -> None:
    server, heard = ScriptedServer(), list[str]()

    def first(what: object) -> None:
        heard.append(f"first {what}")

    def second(what: object) -> None:
        heard.append(f"second {what}")

    assert server.on("listening", first).once("listening", second) is server
    server.emit("listening", "a")
    server.emit("listening", "b")
    assert heard == ["first a", "second a", "first b"]
    server.off("listening", first).off("listening", first).once("listening", second).off("listening", second)
    server.emit("listening", "c")
    assert len(heard) == 3


def test_there_are_four_events() -> None:
    server: Any = ScriptedServer()
    for call in (server.on, server.once, server.off):
        with pytest.raises(ValueError, match="no event 'end'; there are listening, close, connect, error"):
            call("end", print)


async def listens(*_: object) -> None: ...


class Listens:
    async def __call__(self, *_: object) -> None: ...


@pytest.mark.parametrize("listener", [listens, Listens(), functools.partial(listens, 1)])
def test_a_coroutine_function_is_refused_as_a_listener(listener: Any) -> None:
    server: Any = ScriptedServer()
    for call in (server.on, server.once):
        with pytest.raises(TypeError, match="the listener for 'close' is a coroutine function"):
            call("close", listener)
    server.emit("close")


@pytest.mark.parametrize("listener", [None, "text"])
def test_a_listener_is_something_that_can_be_called(listener: Any) -> None:
    server: Any = ScriptedServer()
    for call in (server.on, server.once):
        with pytest.raises(TypeError, match="the listener for 'close' must be a function, not "):
            call("close", listener)


def test_a_listener_that_raises_is_logged_and_the_others_are_called(caplog: pytest.LogCaptureFixture) -> None:
    server, heard = ScriptedServer(), list[int]()

    def broken() -> None:
        raise KeyError("x")

    server.on("close", broken).on("close", lambda: heard.append(1))
    server.emit("close")
    assert heard == [1]
    assert "a listener for 'close' raised" in caplog.text


def test_what_ends_the_program_in_a_listener_is_passed_on() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ScriptedServer().on("close", interrupted).emit("close")


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
    server, heard = ScriptedServer(), list[Any]()
    server.on("error", lambda error, info: heard.append((error, info)))
    connection = begun(server)
    server.report(error, stage, connection.session)
    server.report(error, stage, None, "192.0.2.9")
    assert heard == [
        (error, {"stage": stage, "session": connection.session, "remote_address": "192.0.2.1"}),
        (error, {"stage": stage, "session": None, "remote_address": "192.0.2.9"}),
    ]
    assert all(bool(record.exc_info) == traceback for record in caplog.records if record.levelname == "ERROR")
    assert f"{connection.session.id} [192.0.2.1]: {stage}: {type(error).__name__}: x" in caplog.text
    assert f"- [192.0.2.9]: {stage}" in caplog.text


# --- counts -----------------------------------------------------------------------------------------


def test_connections_are_counted_in_and_out_once() -> None:
    server = ScriptedServer(max_clients=2)
    first, second, third = begun(server), begun(server), begun(server)
    assert [each.refused for each in (first, second, third)] == [False, False, True]
    assert set(server.sessions) == {first.session, second.session, third.session}
    server.closed(first.session, "quit", refused=False)
    server.closed(first.session, "aborted", refused=False)
    server.closed(third.session, "refused", refused=True)
    assert (server.counts[False], server.counts[True]) == (1, 0)
    fourth, fifth = begun(server), begun(server)
    assert [each.refused for each in (fourth, fifth)] == [False, True]


def test_under_implicit_tls_only_so_many_refusals_are_pending() -> None:
    server = ScriptedServer(max_clients=2, secure=True)
    begun_ones = [begun(server) for _ in range(6)]
    assert [each and each.refused for each in begun_ones] == [False, False, True, True, None, None]
    server.closed(begun_ones[2].session, "refused", refused=True)
    assert begun(server)
    assert begun(server) is None
    plain_server = ScriptedServer(max_clients=1, secure=True, tls_upstream=True)
    assert all(begun(plain_server) for _ in range(5))


def test_a_refused_proxy_header_is_an_error_of_that_stage() -> None:
    server, stages = ScriptedServer(use_proxy=True), list[str]()

    def note(_: BaseException, info: dict[str, Any]) -> None:
        stages.append(info["stage"])

    server.on("error", note)
    connection = begun(server)
    server.closed(connection.session, "PROXY header refused: no PROXY header", refused=False)
    assert stages == ["proxy"]


def test_ids_are_sixteen_characters_and_may_be_brought_along() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch("[0-9a-v]{16}", each) for each in ids)
    connection = ScriptedServer().begin(None, ("", 0), ("", 0), lambda: 0.0, "mine")
    assert connection.session.id == "mine"


def test_cram_md5_is_given_entropy() -> None:
    assert begun(ScriptedServer(auth_methods=["CRAM-MD5"]))


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
    assert ScriptedServer(resolver=resolver).resolve("192.0.2.1") == ["host-192.0.2.1"]
    assert ScriptedServer().resolve("127.0.0.1")
    with pytest.raises(OSError, match=r"."):
        ScriptedServer().resolve("192.0.2.1.invalid")


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
        (OSError("no such host"), ""),
        (TimeoutError(), ""),
    ],
)
def test_a_name_is_used_if_it_can_stand_in_a_reply_and_a_log(result: object, name: str) -> None:
    assert ScriptedServer().checked_name(make_session(remote_address="192.0.2.1"), result) == name


def test_a_client_is_announced_with_what_is_known_of_it() -> None:
    server, heard = ScriptedServer(), list[dict[str, Any]]()
    server.on("connect", heard.append)
    connection = begun(server)
    server.connected(connection.session)
    assert heard[0]["remote_port"] == 4321


# --- TLS --------------------------------------------------------------------------------------------


def test_contexts_are_made_once_and_updated_in_place(caplog: pytest.LogCaptureFixture) -> None:
    assert ScriptedServer().contexts.available
    assert not caplog.records
    ScriptedServer().check_listener("", {})
    assert "self-signed certificate" in caplog.text
    pair = trustme.CA().issue_cert("mx.test").private_key_and_cert_chain_pem.bytes()
    server = ScriptedServer(cert=pair)
    contexts = server.contexts
    assert server.contexts is contexts
    server.update_secure_context(min_version="TLSv1.3")
    assert server.contexts is contexts
    with pytest.raises(TypeError):
        server.update_secure_context(no_such_option=1)


def test_a_server_behind_a_tls_proxy_is_not_warned_of_its_certificate(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ScriptedServer(tls_upstream=True).check_listener("", {})
    assert not caplog.records


@pytest.mark.parametrize("name", ["secure", "needs_upgrade"])
def test_options_that_need_tls_are_refused_without_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    needs: dict[str, Any] = {name: True, "name": "without-cryptography.test"}
    with pytest.raises(ConfigurationError, match=f"{name}=True needs TLS"):
        ScriptedServer(**needs).check_listener("", {})
    ScriptedServer(**needs, tls_upstream=True).check_listener("", {})


def test_without_tls_and_the_need_for_it_a_server_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    server = ScriptedServer(name="without-cryptography.test")
    server.check_listener("", {})
    assert not server.contexts.available


def test_what_is_wide_open_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    server = ScriptedServer(use_proxy=True, use_xclient=["192.0.2.1"], use_xforward=True, tls_upstream=True)
    for _ in range(3):
        server.check_listener("", {})
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "use_proxy=True: anyone who can connect can forge addresses",
        "use_xforward=True: anyone who can connect can forge addresses",
    ]


def test_a_listener_without_options_of_its_own_has_those_of_the_server() -> None:
    server = ScriptedServer(size=5)
    for listener in server.binding(0, "127.0.0.1", name="smtp")():
        assert (listener.name, listener.options) == ("smtp", server.options)
        assert listener.options is server.options
        listener.close()
    (listener,) = server.binding(0, "127.0.0.1", size=6, auth_methods=["PLAIN"])()
    listener.close()
    assert listener.options == Options(name=server.options.name, size=6, auth_methods=["PLAIN"])


def test_a_connection_has_the_options_and_the_name_of_its_listener() -> None:
    server = ScriptedServer(size=5)
    name, options = server.check_listener("lmtp", {"lmtp": True})
    connection = server.begin(None, ("", 0), ("", 0), lambda: 0.0, listener=name, options=options)
    assert connection.options is options
    assert (connection.session.listener, connection.session.lmtp) == ("lmtp", True)
    assert begun(server).options is server.options


@pytest.mark.parametrize("name", sorted({spec.name for spec in fields(Options)} - {*LISTENER_OPTIONS}))
def test_what_listeners_share_is_not_for_one_of_them(name: str) -> None:
    given: Any = {name: getattr(Options(), name)}
    with pytest.raises(TypeError, match=f"^{name} is the same for all listeners"):
        ScriptedServer().check_listener("", given)


def test_the_rest_may_differ() -> None:
    for name in LISTENER_OPTIONS:
        given: Any = {name: getattr(Options(), name)}
        assert ScriptedServer(tls_upstream=True).check_listener("", given)[0] == ""


def test_an_aborted_stream_says_why() -> None:
    assert StreamAborted("timeout").reason == "timeout"
