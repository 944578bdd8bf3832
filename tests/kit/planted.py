# Adapters with one rule broken each, as runtimes: `--adapter planted:asyncio-lost_octets`.
#
# A fault is a mixin for the class of a connection, or for the server. It breaks the rule as an
# adapter could: between the sockets and the core.

from __future__ import annotations

import contextlib
import inspect
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import smtpproto_asyncio
import smtpproto_blocking
import smtpproto_kit._client
from smtpproto_kit import runtime_named
from smtpproto_server.adapting import Driver, ServerCore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from smtpproto import TlsDetails
    from smtpproto_server.adapting import MessageStream

__all__ = ["FAULTS", "Fault"]


class Fault(Driver):
    """No fault: what all others are made from. Goes before a runtime's connection."""

    __slots__ = ()


class LostBackpressure(Fault):
    """What the client sends is taken in, whether anybody wants it or not."""

    __slots__ = ()

    def _hold(self) -> None:
        pass

    def received(self, data: bytes) -> None:
        if self.wants_data or not data:
            super().received(data)

    def apart(self, call: Callable[[], Any]) -> Any:
        """Of connections with a thread, which read nothing while a hook runs: this one does."""
        threading.Thread(target=self._swallow, daemon=True).start()
        return super().apart(call)

    def _swallow(self) -> None:
        connection: Any = self
        end = time.monotonic() + 3
        while self.hook is not None and time.monotonic() < end:
            try:
                connection.sock.recv(65536)
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                return


class DroppedTimeout(Fault):
    """No time limit ever runs out."""

    __slots__ = ()

    def _alarm_by(self, when: float) -> None:
        pass


class AcceptedAfterCancellation(Fault):
    """A hook that was given up is taken for one that has accepted."""

    __slots__ = ()

    def _instead(self, name: str, value: Any, error: BaseException | None, *, ran: bool) -> Any:
        if self.given_up == "timeout":
            self.given_up = None
            return None
        return super()._instead(name, value, error, ran=ran)


class ClaimsAlways(Fault):
    """A store may keep its message although its hook was given up."""

    __slots__ = ()

    def claim(self, stream: MessageStream) -> bool:
        super().claim(stream)
        return True


class SessionShared(Fault):
    """A hook that was given up in a thread sees what comes after it."""

    __slots__ = ()

    def _give_up(self, why: str) -> None:
        self.in_thread = False
        super()._give_up(why)


class LostWakeUp(Fault):
    """That the server stops is not noted, so whoever is woken finds nothing to do."""

    __slots__ = ()

    def stop(self, *, now: bool = False) -> None:
        noted = self.noted
        super().stop(now=now)
        self.noted = noted


class PlaintextKept(Fault):
    """What came after STARTTLS in the clear is carried out after the handshake."""

    kept: bytes = b""

    def received(self, data: bytes) -> None:
        if self.channel is None:
            head, starttls, kept = data.partition(b"STARTTLS\r\n")
            if starttls:
                self.kept = kept
            data = head + starttls
        super().received(data)

    def tls_established(self, details: TlsDetails | None = None) -> None:
        super().tls_established(details)
        self.receive_data(self.kept)


class LostOctets(Fault):
    """Of a large piece an octet is lost."""

    __slots__ = ()

    def received(self, data: bytes) -> None:
        if len(data) > LARGE:
            before, _, after = data.rpartition(b"x")
            data = before + after
        super().received(data)


class SecondOnClose(Fault):
    """on_close is called twice."""

    called: bool = False

    def over(self) -> None:
        hook = self.server.on_close
        if hook is None or self.called:
            super().over()
            return
        self.called = True
        self.call("on_close", hook, self.session)


class HookAfterTheEnd(Fault):
    """The session is over, and another hook is called."""

    __slots__ = ()

    def _part(self, _kind: Any = None) -> None:
        hook = self.server.on_rcpt_to
        if hook is not None:
            result = hook(None, self.session)
            if inspect.iscoroutine(result):
                with contextlib.suppress(StopIteration):
                    result.send(None)
        super()._part()


class LostReply(Fault):
    """Of several replies at once the last is lost."""

    __slots__ = ()

    def send(self, octets: bytes) -> None:
        lines = octets.splitlines(keepends=True)
        super().send(b"".join(lines[:-1] or lines))


class TornReply(Fault):
    """The rest of a reply waits for the next one."""

    torn: bytes = b""

    def send(self, octets: bytes) -> None:
        if len(octets) > SHORT:
            octets = self.torn + octets
            octets, self.torn = octets[:-1], octets[-1:]
        super().send(octets)


class ClosesWithoutWaiting(ServerCore):
    """close() says that it is done when it has begun. Goes before a server."""

    def closing(self) -> Iterator[float]:
        """Never waits, and gives nobody up."""
        next(super().closing())
        for _ in range(STEPS):
            yield 0.0


STEPS: Final = 3  # of `closing`
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
    "claims_always": (
        ClaimsAlways,
        "test_claims.py",
        "test_a_hook_that_was_given_up_has_no_claim_to_its_message",
        r"\[True\] == \[False\]",
    ),
    "session_shared": (
        SessionShared,
        "test_claims.py",
        "test_a_hook_that_was_given_up_never_sees_a_later_transaction and plain",
        "assert .* == ",
    ),
    "lost_wake_up": (
        LostWakeUp,
        "test_close.py",
        "test_sessions_without_a_transaction_are_ended_at_once",
        "timed out",
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


_ON: Final[Mapping[str, type[ServerCore]]] = {
    "asyncio": smtpproto_asyncio.SMTPServer,
    "blocking": smtpproto_blocking.SMTPServer,
}


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
        connection: Any = base.driver
        connection = type("Faulty", (mixin, connection), {})
        runtime.server_class = type("Faulty", (base,), {"driver": connection})
    else:
        runtime.server_class = type("Faulty", (mixin, base), {})
    return runtime
