# A server for one test: it keeps what it is sent, and fails where it was told to.
#
# The test runs in one thread, the server in its own: whatever both see is guarded by the condition
# that waits are made on, and hooks never wait but in the way of their runtime.

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final

from smtpproto_kit import Running, runtime_named
from smtpproto_pytest._faults import Script
from smtpproto_pytest._message import Message
from smtpproto_pytest._settings import HOST, certificates, options, proves
from smtpproto_pytest._transcript import recording, transcript

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Generator, Iterator, Mapping
    from pathlib import Path

    from smtpproto import Credentials, Reject, Session
    from smtpproto_kit import Runtime
    from smtpproto_pytest._faults import Fault, Place
    from smtpproto_pytest._settings import Certificates, Tls
    from smtpproto_pytest._transcript import Log
    from smtpproto_server import Stream
    from smtpproto_server.adapting import Driver, ServerCore

__all__ = ["CapturingServer", "capturing"]

PATIENCE: Final = 5.0  # seconds a wait lasts if it is not told
SHOWN: Final = 100  # lines of the transcript in an error


@contextlib.contextmanager
def capturing(
    runtime: str = "asyncio",
    *,
    tls: Tls | None = None,
    users: Mapping[str, str] | None = None,
    **given: Any,
) -> Generator[CapturingServer]:
    """A server on a free port of 127.0.0.1, in a thread of its own; `smtp_server` is made of this.

    `runtime` is asyncio, uvloop, anyio, trio, gevent or blocking. With `tls="starttls"` the client
    may ask for TLS, with "implicit" it begins with it. `users` are the passwords of those who may
    log in, and then nobody else may send. All else are options of the server.

    On leaving, connections that are left are cut. Raises AssertionError if the server has failed,
    LookupError, TypeError or ValueError for what cannot be had.
    """
    chosen = runtime_named(runtime)
    with certificates(tls) as own:
        box = _Box(chosen, dict(users or {}), own)
        made = chosen.server_class(options(tls, box.users, own, given, box.hooks()))
        box.record(made)
        with chosen.serve(made) as start:
            running = Running(chosen, made, start)
            try:
                running.call(lambda: running.server.listen(0, HOST))
                yield CapturingServer(box, running.port)
            finally:
                running.drop()
    failures = [_failure(error, info) for error, info in running.errors if _is_ours(error, info)]
    if failures:
        raise AssertionError(f"smtp_server has failed: {'; '.join(failures)}")


class CapturingServer:
    """A mail server that runs, and what it has received."""

    def __init__(self, box: _Box, port: int) -> None:
        self.host: str = HOST
        self.port: int = port
        self._box: _Box = box
        self._given: int = 0

    # --- what was received --------------------------------------------------------------------------

    @property
    def messages(self) -> list[Message]:
        """The messages so far, in order. Those that were refused are not among them."""
        return list(self._box.messages)

    def wait_for_message(self, timeout: float = PATIENCE) -> Message:
        """The next message that no wait has given yet.

        Raises AssertionError if there is none after `timeout` seconds; it says what was said so far.
        """
        __tracebackhide__ = True
        return self.wait_for_messages(1, timeout)[0]

    def wait_for_messages(self, n: int, timeout: float = PATIENCE) -> list[Message]:
        """The next `n` messages that no wait has given yet; else as `wait_for_message`."""
        __tracebackhide__ = True
        box = self._box
        with box.arrival:
            if box.arrival.wait_for(lambda: len(box.messages) - self._given >= n, timeout):
                self._given += n
                return box.messages[self._given - n : self._given]
            came = len(box.messages) - self._given
        raise AssertionError(f"{came} of {n} messages came in {timeout:g} s\n{self._so_far()}")

    def clear(self) -> None:
        """Forget messages and conversations; what was scripted stays."""
        with self._box.arrival:
            self._box.messages.clear()
            self._given = 0
        self._box.conversations.clear()

    @property
    def transcript(self) -> str:
        """What clients and server have said, without passwords and bodies of messages."""
        return "\n".join(self._box.transcript())

    def _so_far(self) -> str:
        lines = list(self._box.transcript()) or ["nobody has connected"]
        before = [f"... {len(lines) - SHOWN} lines"] if len(lines) > SHOWN else []
        pending = [f"not happened: {fault!r}" for fault in self.pending]
        return "\n".join([*before, *lines[-SHOWN:], *pending])

    # --- faults -------------------------------------------------------------------------------------

    def script(
        self,
        place: Place,
        *,
        nth: int = 1,
        times: int | None = 1,
        reply: int | str | None = None,
        drop: bool = False,
        delay: float = 0.0,
    ) -> Fault:
        """Let something go wrong at the `nth` time from now that a client gets to `place`.

        Give `reply`, a code or a line like "552 5.3.4 too big"; or `drop`, to close the connection
        without a word; and `delay` in seconds, alone or before the others. It happens `times` in
        a row; None: from then on. Raises ValueError for what cannot happen.
        """
        return self._box.script.add(place, nth, times, reply=reply, drop=drop, delay=delay)

    @property
    def pending(self) -> list[Fault]:
        """Faults that were scripted and have not happened, or not as often as they should."""
        return [fault for fault in self._box.script.faults if fault.pending]

    # --- for clients --------------------------------------------------------------------------------

    @property
    def users(self) -> dict[str, str]:
        """Passwords by names; whoever is put in may log in from then on, if there was one before."""
        return self._box.users

    @property
    def client_context(self) -> ssl.SSLContext:
        """For clients of a server with TLS: it trusts this one's certificate."""
        return self._certificates.client_context

    @property
    def ca_file(self) -> Path:
        """The same as a file in PEM, for clients that take such a file or the variable SSL_CERT_FILE."""
        return self._certificates.ca_file

    @property
    def _certificates(self) -> Certificates:
        if self._box.certificates is None:
            raise ValueError("this server has no TLS: give tls='starttls' or tls='implicit'")
        return self._box.certificates

    def __repr__(self) -> str:
        return f"<CapturingServer {self.host}:{self.port}, {len(self._box.messages)} messages>"


class _Box:
    """What the hooks share with the test."""

    def __init__(self, runtime: Runtime, users: dict[str, str], own: Certificates | None) -> None:
        self.users: dict[str, str] = users
        self.certificates: Certificates | None = own
        self.script: Script = Script()
        self.messages: list[Message] = []
        self.arrival: threading.Condition = threading.Condition()
        self.conversations: list[tuple[Driver, Log]] = []
        self._runtime: Runtime = runtime

    def record(self, server: ServerCore) -> None:
        """Remember what is said on each connection of this server."""
        server.driver = recording(server.driver, self.conversations)

    def transcript(self) -> Iterator[str]:
        for number, (_, log) in enumerate(list(self.conversations), 1):
            yield f"connection {number}:"
            yield from (f"  {line}" for line in transcript(list(log)))

    # --- hooks, in the colour of the runtime --------------------------------------------------------

    def hooks(self) -> dict[str, Callable[..., Any]]:
        """By their names."""
        written: dict[str, Callable[..., Generator[Any, Any, Any]]] = {
            "on_connect": self._at("CONNECT"),
            "on_helo": self._at("EHLO"),
            "on_auth": self._on_auth,
            "on_mail_from": self._at("MAIL"),
            "on_rcpt_to": self._at("RCPT"),
            "on_data_start": self._at("DATA"),
            "on_data": self._on_data,
        }
        return {name: self._runtime.coloured(hook) for name, hook in written.items()}

    def _at(self, place: Place) -> Callable[..., Generator[Any, Any, Reject | None]]:
        def hook(*args: Any) -> Generator[Any, Any, Reject | None]:
            return (yield from self._reach(place, args[-1]))

        return hook

    def _on_auth(self, auth: Credentials, session: Session) -> Generator[Any, Any, Reject | bool]:
        refusal = yield from self._reach("AUTH", session)
        if refusal is not None:
            return refusal
        password = self.users.get(auth.username)
        return password is not None and proves(auth, password)

    def _on_data(self, stream: Stream, session: Session) -> Generator[Any, Any, Reject | None]:
        fault = self.script.reach("BODY")
        yield from self._befall(fault, session)
        if fault is not None and fault.drop:  # all of it may have come by now, but it has not been heard
            return None
        raw: bytes = yield stream.read()
        fault = self.script.reach("END_OF_DATA")
        if fault is None or fault.reply is None:  # what is late or lost then is the reply only
            with self.arrival:
                self.messages.append(Message(raw, session))
                self.arrival.notify_all()
        return (yield from self._befall(fault, session))

    def _reach(self, place: Place, session: Session) -> Generator[Any, Any, Reject | None]:
        return self._befall(self.script.reach(place), session)

    def _befall(self, fault: Fault | None, session: Session) -> Generator[Any, Any, Reject | None]:
        if fault is None:
            return None
        if fault.delay or fault.drop:  # before a drop, too: what was answered before it goes out
            yield self._runtime.pause(fault.delay)
        if fault.drop:
            self._drop(session)
        return fault.reply

    def _drop(self, session: Session) -> None:
        for driver, log in list(self.conversations):
            if driver.session is session:
                driver.lost = driver.noted = True
                log.hang_up()


def _is_ours(error: BaseException, info: Mapping[str, Any]) -> bool:
    """A fault of the server, and not one of a client or of the network."""
    return info["stage"] == "hook" or not isinstance(error, OSError)


def _failure(error: BaseException, info: Mapping[str, Any]) -> str:
    return f"{info['stage']}: {type(error).__name__}: {error}"
