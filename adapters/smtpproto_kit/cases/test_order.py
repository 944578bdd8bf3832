# The order of things: which hook is called when, which are not called any more, and the end, once.

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from smtpproto_kit import DATA, DEADLINE, running
from smtpproto_server.adapting import HOOKS, OPTIONAL_HOOKS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from smtpproto_kit import Runtime

LOGIN: Final = "AUTH PLAIN AHUAcA=="
MORE: Final = b"NOOP\r\n" + DATA + b"x\r\n.\r\nFOO\r\nHELP\r\n"  # what would call hooks
WHAT_IS_TOO_MUCH: Final[dict[str, tuple[bytes, dict[str, Any]]]] = {
    "after QUIT": (b"EHLO a\r\nQUIT\r\n", {}),
    "after a 421": (b"EHLO a\r\nFOO\r\n", {"max_unknown_commands": 1, "on_command": None}),
    "after the PROXY header was refused": (b"PROXY TCP4\r\n", {"use_proxy": True}),
}


class Diary:
    """Notes which hooks are called, and waits for the last."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.sessions: set[str] = set()
        self.ended: threading.Event = threading.Event()

    def hooks(self) -> dict[str, Any]:
        return {name: self._hook(name) for name in (*HOOKS, *OPTIONAL_HOOKS)}

    def _hook(self, name: str) -> Callable[..., Generator[Any, Any, Any]]:
        def hook(*args: Any) -> Generator[Any, Any, Any]:
            self.called.append(name)
            self.sessions.add(args[-1].id)
            if name == "on_data":
                yield args[0].read()
            if name == "on_close":
                self.ended.set()
            return True if name == "on_auth" else None

        return hook


def test_each_hook_is_called_once_and_in_its_place(runtime: Runtime) -> None:
    diary = Diary()
    with running(runtime, auth_optional=False, **diary.hooks()) as server:
        with server.client().greeted() as client:
            client.say("STARTTLS")
            client.start_tls()
            client.say("EHLO a", LOGIN, "VRFY b", "EXPN b", "HELP", "FOO", "MAIL FROM:<a@x.test>")
            client.say("RCPT TO:<b@y.test>", "DATA", "x\r\n.", "QUIT")
            assert client.rest() == b""
        assert diary.ended.wait(DEADLINE)
    assert diary.called == [
        "on_connect", "on_helo", "on_secure", "on_helo", "on_auth", "on_vrfy", "on_expn", "on_help",
        "on_command", "on_mail_from", "on_rcpt_to", "on_data_start", "on_data", "on_close",
    ]  # fmt: skip
    assert len(diary.sessions) == 1


@pytest.mark.parametrize("when", WHAT_IS_TOO_MUCH)
def test_no_hook_but_the_last_is_called_any_more(runtime: Runtime, when: str) -> None:
    said, options = WHAT_IS_TOO_MUCH[when]
    diary = Diary()
    with running(runtime, **{**diary.hooks(), **options}) as server:
        with server.client() as client:
            if "use_proxy" not in options:
                client.reply()
            client.send(said + MORE)
            client.rest()
        assert diary.ended.wait(DEADLINE)
    assert diary.called == (["on_close"] if "use_proxy" in options else ["on_connect", "on_helo", "on_close"])


def test_a_lost_connection_ends_once(runtime: Runtime) -> None:
    diary = Diary()
    with running(runtime, **diary.hooks()) as server:
        with server.client().greeted() as client:
            client.send(DATA + b"half a mess")
            for _ in range(3):
                client.reply()
        assert diary.ended.wait(DEADLINE)
    assert diary.called[-3:] == ["on_data_start", "on_data", "on_close"]
    assert diary.called.count("on_close") == 1
