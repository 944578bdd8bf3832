# `smtpproto conformance` against our own server: nothing fails, and nothing differs.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto_conformance import Login, Report, Security, Suite, Target, Verdict, cases, chosen, resolved
from smtpproto_kit import RUNTIMES, running, runtime_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smtpproto import Credentials

LOGIN: Final = Login("tim", "tanstaaf")
MODES: Final[Mapping[str, Mapping[str, Any]]] = {
    "SMTP": {},
    "LMTP": {"lmtp": True},
    "STARTTLS": {"security": Security.STARTTLS},
    "TLS": {"security": Security.TLS},
    "STARTTLS with AUTH": {"security": Security.STARTTLS, "login": LOGIN},
    "TLS with AUTH and LMTP": {"security": Security.TLS, "login": LOGIN, "lmtp": True},
}


def knows(auth: Credentials, _: object) -> bool:
    return (auth.username, getattr(auth, "password", None)) == (LOGIN.name, LOGIN.password)


def options(mode: Mapping[str, Any]) -> dict[str, Any]:
    login = mode.get("login")
    return {
        "lmtp": mode.get("lmtp", False),
        "secure": mode.get("security") is Security.TLS,
        "auth_optional": login is None,
        "auth_methods": ("PLAIN", "LOGIN", "CRAM-MD5"),
        "size": 1_000_000,
        "hide_dsn": False,
        "hide_requiretls": False,
        "max_clients": 100,
        "on_auth": knows,
    }


def ask(port: int, *only: str, **how: Any) -> Report:
    how.setdefault("patience", 20.0)
    return Suite(Target(place=resolved(f"127.0.0.1:{port}"), **how), chosen(list(only))).run()


def wrong(report: Report) -> dict[str, str]:
    return {
        each.case.id: each.outcome.reason
        for each in report.results
        if each.outcome.verdict in {Verdict.FAIL, Verdict.DIFFERS}
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_our_server_passes_all_rows(runtime: str, mode: str) -> None:
    with running(runtime_named(runtime), **options(MODES[mode])) as server:
        report = ask(server.port, **MODES[mode])
    assert not report.ended
    assert wrong(report) == {}
    assert report.counts[Verdict.PASS] > 110
    assert report.passes(strict=True)


def test_the_modes_together_tell_every_row_that_can_be_told() -> None:
    told: set[str] = set()
    for mode in (*MODES.values(), {"login": LOGIN}):
        with running("asyncio", **options(mode)) as server:
            report = ask(server.port, **mode)
        told |= {each.case.id for each in report.results if each.outcome.verdict is Verdict.PASS}
    assert {case.id for case in cases() if not case.not_told} == told


def test_every_row_has_a_level_and_is_either_judged_or_has_its_reason() -> None:
    assert len(cases()) == len({case.id for case in cases()})
    for case in cases():
        assert bool(case.allowed) is not bool(case.not_told), case.id


def test_a_password_is_in_no_reason_even_if_the_server_repeats_it() -> None:
    assert LOGIN.hide(f"500 what is {LOGIN.plain} and {LOGIN.password}") == "500 what is *** and ***"
    assert LOGIN.password not in repr(LOGIN)


def test_only_what_is_named_is_asked() -> None:
    assert {case.id for case in chosen(["C007"])} == {"C007"}
    assert {case.source.split()[0] for case in chosen(["rfc2033"])} == {"RFC2033"}
    with pytest.raises(LookupError, match="RFC0"):
        chosen(["RFC0"])
