# A connection in a runtime without coroutines: a thread or greenlet serves it, and calls its hooks.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from smtpproto_server._driver import PARTED
from smtpproto_server._socket import SocketDriver

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

    from smtpproto_server._application import Application
    from smtpproto_server._stream import MessageStream, Stream

__all__ = ["PlainDriver"]


class PlainDriver(SocketDriver):
    """`serve` runs it to its end. A runtime adds `wait`, and what it does around a hook."""

    __slots__ = ("due_call",)

    def __init__(
        self, server: Application, sock: socket.socket, clock: Callable[[], float], facts: Mapping[str, Any]
    ) -> None:
        self.due_call: Callable[[], Any] | None = None
        """The hook that is to be called; while it is called, None again."""
        super().__init__(server, sock, clock, facts)

    # --- what a runtime adds ----------------------------------------------------------------------

    def wait(self, stream: MessageStream | None) -> None:
        """Return when the socket has what is waited for, at `rings`, and after `poke`.

        Whoever reads for a hook gives the `stream`, whose `reader` may be set to what ends the wait.
        """
        raise NotImplementedError

    def call_hook(self, call: Callable[[], Any]) -> Any:
        """Call a hook."""
        return call()

    # ----------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Serve to the end, or until a hook was given up here and the connection goes on elsewhere."""
        self.go_on()
        while self in self.server.peers:
            call, self.due_call = self.due_call, None
            if call is None:
                self.pump(None)
            elif not self.run_hook(call):
                return

    def apart(self, call: Callable[[], Any]) -> None:
        """By `serve`, where the engine is not on the stack."""
        self.due_call = call

    def run_hook(self, call: Callable[[], Any]) -> bool:
        """Call a hook; False if the connection goes on elsewhere."""
        value = error = None
        try:
            try:
                value = self.call_hook(call)
            except KeyboardInterrupt:
                raise
            except BaseException as raised:  # noqa: BLE001 - whatever a hook raises is contained
                error = raised
            if self.hook is not call:  # it was given up
                return False
            self.returned(call, value, error)
        finally:
            del error  # its traceback holds this frame
        return True

    def pump(self, stream: MessageStream | None) -> None:
        """Wait, and take in what came if `stream` is still the message."""
        if self.waits is PARTED or not (self.noted or self.has_more() or self.clock() >= self.rings):
            self.wait(stream)
        if stream is not self.stream or self not in self.server.peers:
            return
        if self.noted or self.waits is PARTED:
            self.go_on()
        elif self.clock() >= self.rings:
            self.expired()
        elif self.full:
            self.writable()
        elif not self.readable():
            self.go_on()

    def read_plainly(self, stream: Stream) -> bytes:
        """Whoever reads waits for the client."""
        self.begin_read(stream)
        try:
            while (piece := self.try_read(stream)) is None:
                self.pump(stream)
        finally:
            self.end_read(stream)
        if piece and stream.message.complete and stream.message.refusal is None:
            stream.at_end = True  # the next read need not ask
        return piece
