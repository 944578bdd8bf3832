# Options of servers: what they take, and what is said about what they do not take.

from __future__ import annotations

import socket
from typing import Any

import pytest

from smtpproto_server import HOOKS, OPTIONAL_HOOKS, Options


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
    with pytest.raises(ValueError, match=f"{name} must be a function"):
        Options(**wrong)
    right: dict[str, Any] = {name: print}
    assert getattr(Options(**right), name) is print


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("early_talker_delay", -1),
        ("early_talker_delay", None),
        ("max_clients", 0),
        ("close_timeout", None),
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


def test_an_unknown_option_is_a_typeerror() -> None:
    wrong: dict[str, Any] = {"no_such_option": 1}
    with pytest.raises(TypeError):
        Options(**wrong)


def test_none_switches_a_limit_off() -> None:
    options = Options(hook_timeout=None, reverse_lookup_timeout=None, max_clients=None)
    assert (options.hook_timeout, options.reverse_lookup_timeout, options.max_clients) == (None, None, None)
