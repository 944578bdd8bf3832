# Adapters with one rule broken each, as runtimes: `--adapter planted:asyncio-lost_octets`.
#
# A fault is a mixin for the class of a connection, or for the server. It breaks the rule as an
# adapter could: between the sockets and the core.

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

from smtpproto_server._effects import Ask, Close, Outcome

import smtpproto_asyncio
import smtpproto_blocking
import smtpproto_kit._client
from smtpproto_asyncio import _connection as on_asyncio
from smtpproto_blocking import _server as on_blocking
from smtpproto_kit import runtime_named
from smtpproto_server import Peer, ServerCore

if TYPE_CHECKING:
    import socket
    from collections.abc import Generator, Iterator, Mapping

__all__ = ["FAULTS", "Fault"]


class Fault(Peer[Any]):
    """No fault: what all others are made from. Goes before a class of connections."""


class LostBackpressure(Fault):
    """What the client sends is taken in, whether anybody wants it or not."""

    def full(self) -> bool:
        return False

    def call(self, ask: Ask, *turn: Any) -> Any:
        """Of connections with a thread, which read nothing while a hook runs: this one does."""
        threading.Thread(target=self._swallow, args=(ask,), daemon=True).start()
        connection: Any = super()
        return connection.call(ask, *turn)

    def _swallow(self, ask: Ask) -> None:
        end = time.monotonic() + 3
        while ask.body is not None and not ask.body.ended and time.monotonic() < end:
            try:
                self._inbox += self.sock.recv(65536)
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                return


class DroppedTimeout(Fault):
    """No time limit of the core's ever fires."""

    def _wait_until(self, deadline: float | None, *, writing: bool = False) -> Any:
        if deadline is not None and deadline > self.serving.now():
            deadline = None
        return super()._wait_until(deadline, writing=writing)


class AcceptedAfterCancellation(Fault):
    """A hook that was given up is taken for one that has accepted."""

    def _perform(self, effect: Any) -> Generator[Any, Any, Any]:
        result = yield from super()._perform(effect)
        return None if isinstance(effect, Ask) and result is Outcome.TIMED_OUT else result


class PlaintextKept(Fault):
    """What came behind STARTTLS in the clear is carried out after the handshake."""

    kept: bytes = b""

    def received(self, *, late: bool) -> Any:
        if self.kept and self.serving._channel is not None:
            self.serving._core.receive_data(self.kept)
            self.kept = b""
        result = super().received(late=late)
        if isinstance(result, bytes):
            head, starttls, behind = result.partition(b"STARTTLS\r\n")
            if starttls:
                self.kept = behind
                return head + starttls
        return result


class LostOctets(Fault):
    """Of a large piece an octet is lost."""

    def received(self, *, late: bool) -> Any:
        result = super().received(late=late)
        if isinstance(result, bytes) and len(result) > LARGE:
            before, _, behind = result.rpartition(b"x")
            return before + behind
        return result


class SecondOnClose(Fault):
    """on_close is called twice."""

    def _perform(self, effect: Any) -> Generator[Any, Any, Any]:
        result = yield from super()._perform(effect)
        if isinstance(effect, Ask) and effect.name == "on_close":
            yield from super()._perform(effect)
        return result


class HookAfterTheEnd(Fault):
    """The session is over, and another hook is called."""

    def _perform(self, effect: Any) -> Generator[Any, Any, Any]:
        hook = self.server.hook("on_rcpt_to")
        if isinstance(effect, Close) and hook is not None:
            yield from super()._perform(self.serving._call("on_rcpt_to", hook, (None, self.serving.session)))
        return (yield from super()._perform(effect))


class LostReply(Fault):
    """Of several replies at once the last is lost."""

    def send_at_once(self, data: bytes) -> bytes | None:
        lines = data.splitlines(keepends=True)
        return super().send_at_once(b"".join(lines[:-1] or lines))


class TornReply(Fault):
    """The rest of a reply waits for the next one."""

    torn: bytes = b""

    def send_at_once(self, data: bytes) -> bytes | None:
        if len(data) > SHORT:
            data = self.torn + data
            data, self.torn = data[:-1], data[-1:]
        return super().send_at_once(data)


class ClosesWithoutWaiting(ServerCore):
    """close() says that it is done when it has begun. Goes before a server."""

    def closing(self) -> Iterator[float]:
        """Never waits, and gives nobody up."""
        next(super().closing())
        for _ in range(LATCHES):
            yield 0.0


LATCHES: Final = 3  # a server with threads has one for each step of `closing`
LARGE: Final = 16 * 1024  # octets
SHORT: Final = 20  # octets

FAULTS: Final[Mapping[str, tuple[type[Any], str, str, str]]] = {
    "none": (Fault, "", "", ""),
    "lost_backpressure": (
        LostBackpressure,
        "test_stream.py",
        "test_a_hook_that_does_not_read_blocks_the_client and native",
        r"assert \d{7,} <=",
    ),
    "dropped_timeout": (DroppedTimeout, "test_rows.py", "C050", "timed out"),
    "accepted_after_cancellation": (
        AcceptedAfterCancellation,
        "test_hooks.py",
        "test_a_hook_that_was_given_up_is_left_behind_and_its_result_is_nobody_s",
        "'250 2.1.0 Accepted' == '451 ",
    ),
    "plaintext_kept": (PlaintextKept, "test_rows.py", "C232", "timed out"),
    "lost_octets": (
        LostOctets,
        "test_stream.py",
        "test_large_messages_arrive_exactly",
        "what arrived is not what was sent",
    ),
    "second_on_close": (SecondOnClose, "test_order.py", "test_each_hook_is_called_once", "assert .* == "),
    "hook_after_the_end": (
        HookAfterTheEnd,
        "test_order.py",
        "test_no_hook_but_the_last_is_called",
        "assert .* == ",
    ),
    "lost_reply": (LostReply, "test_conversations.py", "test_message", "test_message::.* came, and "),
    "torn_reply": (TornReply, "test_first.py", "test_a_message_arrives_as_it_was_sent", "timed out"),
    "closes_without_waiting": (
        ClosesWithoutWaiting,
        "test_close.py",
        "test_a_transaction_goes_on_to_the_reply_of_its_data",
        "assert not True",
    ),
}
"""Each fault, the cases that must find it (a file, and a part of their names), and what they say then."""


class _OnAsyncio(smtpproto_asyncio.SMTPServer):
    peer_class: type[Any] = on_asyncio.Connection

    def _connect(self, sock: socket.socket, **identity: Any) -> Any:
        serving = self.admit(sock, self.loop.time, **identity)
        return None if serving is None else self.peer_class(self, sock, serving)


class _OnBlocking(smtpproto_blocking.SMTPServer):
    peer_class: type[Any] = on_blocking.Connection

    def serve(self, sock: socket.socket, serving: Any) -> Any:
        peer = self.peer_class(self, sock, serving)
        self.pool.submit(peer.take)
        return peer


_ON: Final[Mapping[str, type[Any]]] = {"asyncio": _OnAsyncio, "blocking": _OnBlocking}


def __getattr__(name: str) -> Any:
    """`asyncio-lost_octets`: a Runtime whose adapter has this fault."""
    on, dash, fault = name.partition("-")
    if not dash:
        raise AttributeError(name)
    mixin, base = FAULTS[fault][0], _ON[on]
    if fault != "none":
        # What does not come, or has no end, is found out soon.
        limits: Any = smtpproto_kit._client
        limits.DEADLINE, limits.ENDLESS = 1.0, 4 * 1024 * 1024
    runtime: Any = runtime_named(on)
    runtime.name = name
    if issubclass(mixin, Fault):
        peer = type("Faulty", (mixin, base.peer_class), {})
        runtime.server_class = type("Faulty", (base,), {"peer_class": peer})
    else:
        runtime.server_class = type("Faulty", (mixin, base), {})
    return runtime
