# A conversation on the earlier server loop: a generator of effects, and here what carries them out.

from __future__ import annotations

import contextlib
from types import coroutine
from typing import TYPE_CHECKING, Any, Final

from differential.hooks import WAIT, Cancelled, Stage, facts_of_connection, server_for
from differential.talks import TAIL

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from differential.talks import Step, Talk
    from differential.versions import Version

__all__ = ["play_then"]

NEVER: Final = float("inf")
MOST: Final = 5000


def play_then(version: Version, talk: Talk) -> list[tuple[Any, ...]]:
    """What was seen at each step."""
    return _Then(version, talk).play()


@coroutine
def _pulled(pull: Any) -> Generator[Any, Any, bytes]:
    piece: bytes = yield pull
    return piece


def _out_of_groups(error: Any) -> Any:
    """An error alone in a group counts as itself: so had it the adapter of anyio, and so have all today."""
    inside: Sequence[Any] = getattr(error, "exceptions", ())
    return _out_of_groups(inside[0]) if len(inside) == 1 else error


class _Then:
    def __init__(self, version: Version, talk: Talk) -> None:
        self.s: Any = version.smtpproto_server
        self.talk: Talk = talk
        self.stage: Stage = Stage(version, talk)
        server = self.server = server_for(version, talk.setting, talk.lacks, asks=talk.asks)
        server.stage = self.stage
        core = self.core = version.smtpproto.Connection(
            server.options, ask=server._questions(), **facts_of_connection(version)
        )
        self.serving: Any = self.s.Serving(server, core, self.stage.clock)
        server.connections.add(core.session)
        if talk.refused:
            core.refuse()
            self.serving.counted = False
            server._refusing += 1
        else:
            server._clients += 1
        self.loop: Any = self.serving.run()
        self.effect: Any = None
        self.inbox: list[bytes] = []
        self.silent: bool = False  # the client has ended its output
        self.lost: bool = False
        self.stopped: bool = False  # and no effect has been resumed with it
        self.hook: Any = None
        self.ask: Any = None  # of the hook that runs: name, watch, lookup
        self.waits: bool = False  # the hook does, and not for its message
        self.left: float = NEVER
        self.ends: float = NEVER
        self.over: bool = False

    def play(self) -> list[tuple[Any, ...]]:
        steps = [*self.talk.steps, *TAIL]
        if self.talk.early and steps[0].what == "octets":
            self.inbox.append(steps.pop(0).of)
        self._resume(None)
        self._settle()
        self._end_step()
        for step in steps:
            if self.over:
                break
            self._take(step)
            self._end_step()
        server = self.server
        self.stage.record.note("over", self.over, server._clients, server._refusing, len(server.connections))
        self.stage.record.note("reports", *self.stage.record.reports)
        self._end_step()
        server._clients = server._refusing = 0
        server.connections.clear()
        return self.stage.record.steps

    def _end_step(self) -> None:
        self.stage.end_step(self.core.session, self.core.state.name, self.over)

    def _take(self, step: Step) -> None:
        match step.what:
            case "octets" | "eof":
                if not (self.silent or self.lost):
                    self.inbox.append(step.of or b"")
                    self.silent = step.what == "eof"
                    if step.of and self.waits and self.ask[1]:
                        self._give_up(self.s.Outcome.INTERRUPTED)
            case "hook":
                if self.waits:
                    self.waits = False
                    self._step_hook(None, None)
            case "time":
                self._pass(step.of[0])
            case "stop":
                self.serving.stop(now=step.of)
                self.stopped = True
                if self.waits and (step.of or self.ask[2]) and self.ask[0] != "on_close":
                    self._give_up(self.s.Outcome.STOPPED)
            case _:
                self.lost = True
                if self.waits and self.ask[0] != "on_close":
                    self._give_up(self.s.Outcome.LOST)
        self._settle()

    def _pass(self, seconds: float) -> None:
        until = self.stage.now + seconds
        for _ in range(MOST):
            self._settle()
            deadline = self._deadline()
            if deadline > until:
                break
            self.stage.now = max(self.stage.now, deadline)
            if self.waits:
                self._give_up(self.s.Outcome.TIMED_OUT)
            else:
                self._resume(self.s.Outcome.TIMED_OUT)
        else:
            raise AssertionError("time does not pass")
        self.stage.now = until
        self._settle()

    def _deadline(self) -> float:
        if self.over:
            return NEVER
        if self.waits:
            return self.ends
        given = self.effect.deadline if type(self.effect) is self.s.Receive else None
        return NEVER if given is None else given

    # --- effects ----------------------------------------------------------------------------------

    def _resume(self, value: Any) -> None:
        if self.over:
            return
        try:
            self.effect = self.loop.send(value)
        except StopIteration:
            self.effect, self.over = None, True

    def _settle(self) -> None:
        """Carry out effects until something is awaited."""
        for _ in range(MOST):
            if self.over or self.waits:
                return
            effect, s = self.effect, self.s
            kind: Any = effect.__class__
            if kind is s.Receive:
                if not self._receive(effect):
                    return
            elif kind is s.Send:
                if effect.data:
                    self.stage.record.sent(effect.data)
                if effect.last and not (self.lost or self.silent):
                    self.stage.record.note("end output")
                self._resume(s.Outcome.LOST if self.lost else None)
            elif kind is s.Ask:
                self._begin_hook(effect)
            elif kind is s.Deliver:
                self._step_hook(effect.data, None)
            else:
                self.stage.record.note("drop")
                self._resume(None)
        raise AssertionError("effects without end")

    def _receive(self, effect: Any) -> bool:
        if self.lost:
            self._resume(self.s.Outcome.LOST)
        elif self.stopped:
            self.stopped = False
            self._resume(self.s.Outcome.STOPPED)
        elif self.inbox:
            self._resume(self._received())
        elif self.silent and self.core.state.name == "CLOSED":  # nothing can come that would be waited for
            self._resume(b"")
        elif effect.deadline is not None and effect.deadline <= self.stage.now:
            self._resume(self.s.Outcome.TIMED_OUT)
        else:
            return False
        return True

    def _received(self) -> bytes:
        """All octets that have come, as a socket gives them; b"" at their end."""
        inbox = self.inbox
        end = inbox.index(b"") if b"" in inbox else len(inbox)
        octets = b"".join(inbox[:end])
        del inbox[: end or 1]
        return octets

    # --- hooks ------------------------------------------------------------------------------------

    def _begin_hook(self, ask: Any) -> None:
        args, body, serving = ask.args, ask.body, self.serving
        if body is not None:
            pull = self.s.PULL

            def at_hand(_body: Any) -> Any:
                return serving.chunk_at_hand()

            def pulled(_body: Any) -> Any:
                return _pulled(pull)

            stream = self.s.AsyncStream(body, pulled, at_hand)
            args = (stream, *args)
        self.ask = (ask.name, ask.watch, ask.lookup)
        self.left = NEVER if ask.seconds is None else ask.seconds
        self.ends = self.stage.now + self.left
        self.hook = ask.hook(*args)
        self._step_hook(None, None)

    def _step_hook(self, value: Any, error: BaseException | None) -> None:
        if self.ends == NEVER:
            self.ends = self.stage.now + self.left
        try:
            trap = self.hook.send(value) if error is None else self.hook.throw(error)
        except StopIteration as done:
            self._resume(done.value)
        except BaseException as raised:  # noqa: BLE001 - whatever a hook raises is contained
            self._resume(self.s.Failed(_out_of_groups(raised)))
        else:
            if trap is WAIT:
                if self.ask[0] != "on_close" and (octets := self.serving.output()):
                    self.stage.record.sent(octets)
                self.waits = True
            else:
                self.left, self.ends = self.ends - self.stage.now, NEVER
                self._resume(trap)

    def _give_up(self, outcome: Any) -> None:
        self.waits = False
        with contextlib.suppress(BaseException):  # what it says counts no more
            self.hook.throw(Cancelled())
        self._resume(outcome)
