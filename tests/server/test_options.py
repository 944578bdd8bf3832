# Options of servers: what they take, and what is said about what they do not take.

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import fields
from functools import partial, wraps
from typing import Any

import pytest

import smtpproto
from smtpproto import ConfigurationError
from smtpproto_server import Maildir, OptionFields, Options
from smtpproto_server.adapting import HOOKS, OPTIONAL_HOOKS, ServerCore, TlsFields


def test_the_defaults_are_those_of_the_behaviour() -> None:
    options = Options()
    assert options.early_talker_delay == 0.0
    assert options.max_clients is None
    assert options.close_timeout == 30.0
    assert options.hook_timeout is None
    assert options.reverse_lookup_timeout == 1.5
    assert (options.min_version, options.max_version, options.reject_unauthorized) == ("TLSv1.2", None, True)
    assert (options.sync_hooks, options.hook_threads) == ("thread", 64)


def test_the_name_is_the_machine_s_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Options(name="mx.test").name == "mx.test"
    monkeypatch.setattr(socket, "gethostname", lambda: "machine.test")
    assert Options(name=" ").name in ("machine.test", " ")
    assert Options().name == "machine.test"
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    assert Options().name == "localhost"


@pytest.mark.parametrize("name", [*HOOKS, *OPTIONAL_HOOKS])
def test_a_hook_is_a_function(name: str) -> None:
    wrong: dict[str, Any] = {name: "on_data"}
    with pytest.raises(TypeError, match=f"^{name} must be a function, not str$"):
        Options(**wrong)
    right: dict[str, Any] = {name: print}
    assert getattr(Options(**right), name) is print


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("early_talker_delay", -1),
        ("early_talker_delay", None),
        ("max_clients", 0),
        ("close_timeout", -1),
        ("min_version", "1.2"),
        ("max_version", 12),
        ("request_cert", None),
        ("sni_options", []),
        ("cert", 7),
        ("hook_timeout", 0),
        ("reverse_lookup_timeout", "1"),
        ("disable_reverse_lookup", 1),
        ("resolver", object()),
        ("request_cert", "yes"),
        ("reject_unauthorized", None),
        ("sync_hooks", "process"),
        ("hook_threads", 0),
        ("socket_timeout", float("nan")),
    ],
)
def test_a_wrong_value_is_a_valueerror_that_names_the_option(name: str, value: object) -> None:
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"^{name} "):
        Options(**wrong)


def test_a_resolver_has_a_method_reverse() -> None:
    class Resolver:
        def reverse(self, ip: str, /) -> list[str]:
            return [ip]

    resolver = Resolver()
    assert Options(resolver=resolver).resolver is resolver


def test_a_resolver_may_be_a_function() -> None:
    def names(ip: str) -> list[str]:
        return [ip]

    assert Options(resolver=names).resolver is names
    assert ServerCore(resolver=names).resolve is names
    assert ServerCore().resolve("127.0.0.1")


def test_a_resolver_is_called_with_the_address_and_is_no_class() -> None:
    class Resolver:
        def reverse(self) -> list[str]:
            return []

    wrong: Any = Resolver
    with pytest.raises(ValueError, match=r"^resolver must be a function \(ip\), or an object with a method"):
        Options(resolver=wrong)
    with pytest.raises(
        TypeError, match=r"^resolver is called with \(ip\), and .*Resolver\.reverse takes \(\)$"
    ):
        Options(resolver=wrong())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["szie"], "'szie' (did you mean size?)"),
        (["closeTimeout"], "'closeTimeout' (did you mean close_timeout?)"),
        (["zzz"], "'zzz' (nor one like it)"),
        (["szie", "name", "on_dtaa"], "'szie' (did you mean size?), 'on_dtaa' (did you mean on_data?)"),
    ],
)
@pytest.mark.parametrize("kind", [Options, ServerCore])
def test_a_name_that_is_no_option_is_a_typeerror_that_says_which_was_meant(
    kind: Any, wrong: list[str], said: str
) -> None:
    with pytest.raises(TypeError, match=f"^there is no option {re.escape(said)}$"):
        kind(**dict.fromkeys(wrong))


def test_only_options_of_a_server_are_the_options_of_a_server() -> None:
    core: Any = smtpproto.ProtocolOptions()
    with pytest.raises(
        TypeError, match=r"has the core's options only; a server takes smtpproto_server\.Options"
    ):
        ServerCore(core)
    the_class: Any = Misspelt
    with pytest.raises(TypeError, match=r"handler=\.\.\. say, not tests\.Misspelt$"):
        ServerCore(the_class)
    other: Any = {"size": 1}
    with pytest.raises(
        TypeError, match=r"takes smtpproto_server\.Options or its fields, .* not builtins\.dict"
    ):
        ServerCore(other)
    with pytest.raises(TypeError, match="not both"):
        ServerCore(Options(), size=1)


# What keywords may be, where it is more than what is kept.
WIDER = {"ehlo_keywords": "Words", "auth_methods": "Words", "disabled_commands": "Words"}


def test_the_keywords_for_checkers_are_the_options() -> None:
    given = {**TlsFields.__annotations__, **OptionFields.__annotations__}
    named = {name: each.__forward_arg__.replace('"', "'") for name, each in given.items()}
    kept = {spec.name: str(spec.type).replace('"', "'") for spec in fields(Options)}
    assert named == {**kept, **WIDER}


@pytest.mark.parametrize("name", WIDER)
def test_lists_of_words_are_any_sequence_of_texts(name: str) -> None:
    words = ["PLAIN"]
    for given in (words, tuple(words), dict.fromkeys(words), dict.fromkeys(words).keys()):
        right: dict[str, Any] = {name: given}
        assert getattr(Options(**right), name) == ("PLAIN",)
    wrong: dict[str, Any] = {name: "PLAIN"}
    with pytest.raises(ValueError, match="must be a list of words, not one text"):
        Options(**wrong)


# TLS options, whose files are read later


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3", None])
def test_tls_versions_are_those_of_the_behaviour(version: Any) -> None:
    assert Options(min_version=version).min_version == version
    assert Options(min_version="TLSv1", max_version=version).max_version == version


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"min_version": "TLSv1.3", "max_version": "TLSv1.2"}, "min_version is above max_version"),
        ({"max_version": "TLSv1.1"}, "min_version is above max_version"),
        ({"sni_options": {"a b": {}}}, "'a b' is no host name"),
        ({"sni_options": {"x.test": {}, "X.test": {}}}, "'X.test' is there twice"),
        (
            {"sni_options": {"x.test": "x.pem"}},
            "must be a mapping of TLS options or an ssl.SSLContext, not str",
        ),
        ({"sni_options": {"x.test": {"cert": 7}}}, "cert must be PEM text"),
        ({"sni_options": {"x.test": {"min_version": "1.2"}}}, "min_version must be one of TLSv1, "),
        ({"sni_options": {"x.test": {"max_version": "TLSv1.1"}}}, "min_version is above max_version"),
        ({"sni_options": {"x.test": {"sni_options": {"y.test": {}}}}}, "sni_options cannot be nested"),
        (
            {"sni_options": {"x.test": {}}, "ssl_context": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)},
            "ssl_context replaces sni_options",
        ),
    ],
)
def test_tls_options_that_cannot_be_are_found_before_any_file_is_read(
    wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        Options(**wrong)


def test_an_unknown_tls_option_of_a_name_is_a_typeerror() -> None:
    wrong: Any = {"x.test": {"certificate": "x.pem"}}
    with pytest.raises(TypeError, match="unknown TLS option 'certificate'"):
        Options(sni_options=wrong)


def test_no_file_is_read_for_tls_options() -> None:
    entry = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    options = Options(cert="/nowhere", sni_options={"x.test": {"cert": "/nowhere"}, "y.test": entry})
    assert options.cert == "/nowhere"


# Hooks and handlers


@pytest.mark.parametrize("name", [*HOOKS, *OPTIONAL_HOOKS])
def test_a_hook_that_cannot_be_called_is_a_typeerror_wherever_it_is_given(name: str) -> None:
    def hook(one: object, two: object, three: object, four: object) -> None: ...

    class Handler: ...

    class Server(ServerCore): ...

    handler = Handler()
    setattr(handler, name, hook)
    setattr(Server, name, staticmethod(hook))
    given: dict[str, Any] = {name: hook}
    said = rf"^{name} is called with \([a-z_, ]+\), and .*hook takes \(one, two, three, four\)$"
    for make in (
        lambda: Options(**given),
        lambda: Options(handler=handler),
        lambda: ServerCore(**given),
        Server,
        lambda: setattr(ServerCore(), name, hook),
    ):
        with pytest.raises(TypeError, match=said):
            make()
    with pytest.raises(TypeError, match=f"^{name} must be a function, not str$"):
        setattr(ServerCore(), name, "hook")
    server = ServerCore()
    setattr(server, name, print)
    setattr(server, name, None)
    assert getattr(server, name) is None


def hook_of_two(one: object, two: object) -> None: ...


@wraps(hook_of_two)
def wrapping(*args: object, **more: object) -> None:
    """It gives one more."""


class Callable:
    def __call__(self, session: object) -> None: ...

    def method(self, session: object, more: int = 1) -> None: ...

    @staticmethod
    def static(session: object) -> None: ...


CALLABLE: tuple[Any, ...] = (
    Callable(),
    Callable().method,
    Callable.static,
    partial(hook_of_two, 1),
    partial(hook_of_two, two=1),
    wrapping,
    print,
)


@pytest.mark.parametrize("hook", CALLABLE)
def test_what_can_be_called_is_a_hook(hook: Any) -> None:
    assert Options(on_close=hook).on_close is hook


class Misspelt:
    def on_rcpt(self, address: object, session: object) -> None: ...


class Camel:
    def onMailFrom(self, address: object, session: object) -> None: ...  # noqa: N802 - the mistake

    def on_data(self, stream: object, session: object) -> None: ...


class Far:
    def on_zzz(self) -> None: ...

    def on_data(self, stream: object, session: object) -> None: ...


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        (Misspelt(), "Misspelt.on_rcpt is no hook; did you mean on_rcpt_to?"),
        (Camel(), "Camel.onMailFrom is no hook; did you mean on_mail_from?"),
        (Far(), "Far.on_zzz is no hook; hooks are on_connect, "),
        (Far, "handler is the class Far; give an instance of it: handler=Far()"),
        (object(), "the handler object has no hook; hooks are on_connect, "),
        (7, "the handler int has no hook; "),
    ],
)
def test_what_cannot_be_the_handler_that_was_meant_is_a_typeerror(handler: object, said: str) -> None:
    for make in (Options, ServerCore):
        with pytest.raises(TypeError, match=f"^{re.escape(said)}"):
            make(handler=handler)


def test_a_misspelt_method_of_a_server_is_a_typeerror() -> None:
    class Server(ServerCore):
        async def on_rcptto(self, address: object, session: object) -> None: ...

    with pytest.raises(TypeError, match=r"Server\.on_rcptto is no hook; did you mean on_rcpt_to\?"):
        Server()
    server: Any = ServerCore()
    with pytest.raises(TypeError, match=r"on_rcptto is no hook; did you mean on_rcpt_to\?"):
        server.on_rcptto = print


def test_a_handler_may_have_more_than_hooks(tmp_path: Any) -> None:
    class Handler:
        on_hold = False
        once = print

        def on_close(self, session: object) -> None: ...

    handler = Handler()
    assert ServerCore(handler=handler).on_close == handler.on_close
    with Maildir(tmp_path, on_stored=print) as maildir:
        assert ServerCore(handler=maildir).on_data == maildir.on_data


def test_hooks_that_a_handler_makes_up_are_hooks() -> None:
    class Proxy:
        def __getattr__(self, name: str) -> object:
            if name == "on_close":
                return print
            raise AttributeError(name)

    assert ServerCore(handler=Proxy()).on_close is print


def test_none_switches_a_limit_off() -> None:
    options = Options(hook_timeout=None, reverse_lookup_timeout=None, max_clients=None, close_timeout=None)
    assert (options.hook_timeout, options.reverse_lookup_timeout, options.max_clients) == (None, None, None)
    assert options.close_timeout is None
