# A conversation on the driver of today, in a runtime without I/O: what comes is a list, time is a number.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from differential.hooks import Cancelled, Stage, facts_of_connection, server_for
from differential.talks import TAIL
from smtpproto_server.adapting import NEVER, Driver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from differential.talks import Step, Talk
    from differential.versions import Version
    from smtpproto_server import Stream

__all__ = ["play_now"]

MOST: Final = 5000


def play_now(version: Version, talk: Talk, plain: str = "") -> list[tuple[Any, ...]]:
    """What was seen at each step; for `plain` see `server_for`."""
    stage = Stage(version, talk)
    server = server_for(version, talk.setting, talk.lacks, asks=talk.asks, plain=plain)
    server.stage = stage
    facts = {"options": server.options, "ask": server._questions(), **facts_of_connection(version)}
    runtime = _RUNTIMES[plain](server, stage, facts)
    server._sessions.add(runtime.session)
    server.peers.add(runtime)
    if talk.refused:
        runtime.refuse()
    server.counts[talk.refused] += 1
    return runtime.play()


class _Now(Driver):
    """A runtime with coroutines."""

    server: Any

    def __init__(self, server: Any, stage: Stage, facts: Mapping[str, Any]) -> None:
        self.stage: Stage = stage
        self.todo: list[Step] = [*stage.talk.steps, *TAIL]
        self.socket: list[bytes] = []
        self.silent: bool = False
        """The client has ended its output."""
        self.when: float = NEVER
        self.until: float = NEVER
        """When the time of this step is over."""
        self.poked: bool = False
        self.holding: bool = False
        self.suspended: bool = False
        self.cancels: bool = False
        self.has_finished: bool = False
        super().__init__(server, stage.clock, facts)

    # --- the conversation -------------------------------------------------------------------------

    def play(self) -> list[tuple[Any, ...]]:
        if self.stage.talk.early and self.todo[0].what == "octets":
            self.socket.append(self.todo.pop(0).of)
        self.go_on()
        self.settle()
        self.end_step()
        while self.todo and not self.has_finished:
            self.take(self.todo.pop(0))
            self.see_out()
            self.end_step()
        server = self.server
        self.stage.record.note(
            "over", self.has_finished, server.counts[False], server.counts[True], len(server.sessions)
        )
        self.stage.record.note("reports", *self.stage.record.reports)
        self.end_step()
        server.counts.update({False: 0, True: 0})
        server._sessions.clear()
        server.peers.clear()
        return self.stage.record.steps

    def end_step(self) -> None:
        self.stage.end_step(self.session, self.state.name, self.has_finished)

    def take(self, step: Step) -> None:
        match step.what:
            case "octets" | "eof":
                if not (self.silent or self.lost):
                    self.socket.append(step.of or b"")
                    self.silent = step.what == "eof"
            case "hook":
                self.hook_goes_on()
            case "time":
                self.until = self.stage.now + step.of[0]
                self.pass_time()
            case "stop":
                self.stop(now=step.of)
            case _:
                self.lose()
        self.settle()

    def hook_goes_on(self) -> None:
        if self.suspended:
            self.suspended = False
            self.resume()

    def settle(self) -> None:
        """Do what is due until something is awaited."""
        for _ in range(MOST):
            if not self._does_something():
                return
        raise AssertionError("no end")

    def _does_something(self) -> bool:
        if self.cancels:
            self.cancels = False
            if self.hook is not None:
                self.suspended = False
                self.resume(error=Cancelled())
        elif self.poked:
            self.poked = False
            self.go_on()
        elif self.socket and not self.holding and not self.has_finished:
            self.received(self.socket.pop(0))
        else:
            return False
        return True

    def pass_time(self) -> None:
        """Until the step's time is over, or a hook on the stack has to go on first."""
        for _ in range(MOST):
            self.settle()
            if self.until == NEVER or self.hook_goes_first():  # NEVER: a hook has seen the step out
                return
            if self.when > self.until:
                break
            self.stage.now, self.when = max(self.stage.now, self.when), NEVER
            self.expired()
        else:
            raise AssertionError("time does not pass")
        self.stage.now, self.until = self.until, NEVER

    def see_out(self) -> None:
        """Let what is left of the step's time pass."""
        while self.until != NEVER:
            self.pass_time()

    def hook_goes_first(self) -> bool:
        return False

    # --- what a runtime adds ----------------------------------------------------------------------

    def alarm(self, when: float) -> None:
        self.when = when

    def poke(self) -> None:
        self.poked = True

    def finished(self) -> None:
        self.has_finished, self.when = True, NEVER

    def send(self, octets: bytes) -> None:
        self.stage.record.sent(octets)

    def end_output(self) -> None:
        if not self.silent:  # a client that has ended its own output will be parted from at once
            self.stage.record.note("end output")

    def drop(self) -> None:
        self.stage.record.note("drop")

    def hold(self) -> None:
        self.holding = True

    def read_on(self) -> None:
        self.holding = False

    def octets_wait(self) -> bool:
        return bool(self.socket)

    def suspend(self, trap: Any) -> None:  # noqa: ARG002 - there is only one to wait for
        self.suspended = True

    def cancel_hook(self) -> None:
        self.cancels = True

    def apart(self, call: Callable[[], Any]) -> Any:
        return _called(call)


async def _called(call: Callable[[], Any]) -> Any:
    return call()


class _Plain(_Now):
    """A runtime without coroutines: hooks have the stack, and what comes meanwhile is played on top of it."""

    def __init__(self, server: Any, stage: Stage, facts: Mapping[str, Any]) -> None:
        self.due: Callable[[], Any] | None = None
        self.on_stack: bool = False
        self.struck: bool = False
        self.woken: bool = False
        stage.wait = self._wait
        super().__init__(server, stage, facts)

    def apart(self, call: Callable[[], Any]) -> None:
        self.due = call

    def _does_something(self) -> bool:
        if self.due is not None and not self.on_stack:
            call, self.due = self.due, None
            self._run_hook(call)
            return True
        return super()._does_something()

    def _run_hook(self, call: Callable[[], Any]) -> None:
        value: Any = None
        error: BaseException | None = None
        self.on_stack = True
        try:
            value = call()
        except BaseException as raised:  # noqa: BLE001 - whatever a hook raises is contained
            error = raised
        self.on_stack = self.struck = False
        self.returned(call, value, error)

    def cancel_hook(self) -> None:
        self.struck = True

    def hook_goes_first(self) -> bool:
        return self.on_stack and (self.struck or self.woken)

    def _wake(self) -> None:
        self.woken = True

    def _wait(self) -> None:
        """The hook waits: the conversation goes on until the step that ends the wait."""
        self.flush_due()
        while not self.struck and self._more():
            self.end_step()
            step = self.todo.pop(0)
            if step.what == "hook":
                return
            self.take(step)
        if self.struck:
            raise Cancelled

    def _more(self) -> bool:
        """See the step out; whether there is another one."""
        while self.until != NEVER and not self.struck:
            self.pass_time()
        return bool(self.todo) and not self.struck

    def read_plainly(self, stream: Stream) -> bytes:
        self.begin_read(stream)
        stream.reader = self._wake
        try:
            while (piece := self.try_read(stream)) is None:
                self.woken = False
                if self.until != NEVER:
                    self.pass_time()
                elif self.todo:
                    self.end_step()
                    self.take(self.todo.pop(0))
                else:
                    break
                if self.struck:
                    raise Cancelled
        finally:
            self.woken = False
            self.end_read(stream)
        return piece or b""


_RUNTIMES: Final[Mapping[str, Callable[..., _Now]]] = {"": _Now, "some": _Now, "all": _Plain}
