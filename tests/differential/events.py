# A conversation on the event API of one version.

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from differential.facts import Record, event_facts, name_of, session_facts
from differential.talks import CHALLENGE, ENTROPY, HELLO, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from differential.talks import Step, Talk
    from differential.versions import Version

    # Makes a decision for a version: given its module, the event and the session.
    Choice = Callable[[Any, Any, Any], Any]

__all__ = ["play_events"]

_NO: Final[Sequence[Choice]] = (
    lambda p, _e, _s: p.Reject(),
    lambda p, _e, _s: p.Reject(451, "4.7.1"),
    lambda p, _e, _s: p.Reject(text="é\r\n5.7.1 x"),
    lambda p, _e, _s: p.Reject(421),
    lambda p, _e, _s: p.Reject(enhanced="4.2.2", text=["a", "b"]),
)


def _often(times: int, choice: Choice) -> Sequence[Choice]:
    return [choice] * times


def _yes(times: int) -> Sequence[Choice]:
    return _often(times, lambda p, _e, _s: p.ACCEPT)


def _each(p: Any, _event: Any, session: Any) -> Any:
    given = (p.ACCEPT, p.Reject(452), p.Accept(text="kept"), p.Reject(421))
    count = len(session.envelope.rcpt_to) + (session.transaction % 5 == 4)
    return [given[n % 4] for n in range(count)]


_ELSEWHERE: Final[Sequence[Choice]] = (*_yes(24), *_NO)
_AT_THE_DOOR: Final[Sequence[Choice]] = (*_yes(80), *_NO)
_CHOICES: Final[Mapping[str, Sequence[Choice]]] = {
    "ConnectRequested": _AT_THE_DOOR,
    "SecureRequested": _AT_THE_DOOR,
    "HelloRequested": _AT_THE_DOOR,
    "AuthRequested": (
        *_often(8, lambda p, e, _s: p.Accept(user=e.auth.username or "x")),
        lambda p, _e, _s: p.ACCEPT,
        *_often(3, lambda p, _e, _s: p.Challenge(CHALLENGE)),
        lambda p, _e, _s: p.Reject(challenge={"status": "400"}),
        lambda p, _e, _s: p.Accept(235, user="y"),
        *_NO,
    ),
    "RcptRequested": (*_yes(14), lambda p, _e, _s: p.Accept(251), *_NO),
    "MailRequested": (*_yes(14), lambda p, _e, _s: p.Accept(251), *_NO),
    "DataFinished": (*_yes(8), lambda p, _e, _s: p.Accept(text="as 1"), _each, _each, *_NO),
    "VerifyRequested": (*_yes(2), lambda p, _e, _s: p.Accept(250, text=["b", "c"]), *_NO),
    "HelpRequested": (*_yes(2), lambda p, _e, _s: p.Accept(211), *_NO),
    "CommandRequested": (*_often(4, lambda _p, _e, _s: None), lambda p, _e, _s: p.Accept(299), *_NO),
}
AFTER_THE_END: Final = 2  # steps that are taken yet
MOST: Final = 5000  # events of a conversation, and calls for one


@cache
def _options(version: Version, setting: int) -> Any:
    given = dict(SETTINGS[setting])
    for name in _NOT_THE_CORES:
        given.pop(name, None)
    kind = getattr(version.smtpproto, version.name_of("ProtocolOptions"))
    return kind(**version.fields(**given))


_NOT_THE_CORES: Final = (
    "disable_reverse_lookup", "early_talker_delay", "reverse_lookup_timeout", "hook_timeout", "max_clients",
)  # fmt: skip


def play_events(version: Version, talk: Talk) -> list[tuple[Any, ...]]:
    """What was seen at each step."""
    player = _Player(version, talk)
    player.settle()
    player.end_step()
    closed = 0
    for step in talk.steps:
        closed += player.connection.state.name == "CLOSED"
        if closed > AFTER_THE_END:
            break
        player.take(step)
        player.end_step()
    return player.record.steps


class _Player:
    def __init__(self, version: Version, talk: Talk) -> None:
        p = self.p = version.smtpproto
        self.talk: Talk = talk
        self.record: Record = Record()
        self.connection: Any = p.Connection(
            _options(version, talk.setting), local=("192.0.2.25", 25),
            **version.fields(remote=("192.0.2.1", 4321)),
            ask=p.OPTIONAL_QUESTIONS if talk.asks else (), tls_available=True, entropy=ENTROPY,
        )  # fmt: skip
        self.asked: Counter[str] = Counter()
        self.left: int = 0  # how often a hook step comes yet before the open question is decided
        self.shaken: bytes = b""
        if talk.refused:
            self.connection.refuse()

    def end_step(self) -> None:
        connection = self.connection
        question = connection.question
        self.record.end_step(
            connection.session, connection.state.name, connection.wants_data, connection.line_pending,
            connection.in_message, None if question is None else name_of(question),
        )  # fmt: skip

    def take(self, step: Step) -> None:
        connection = self.connection
        try:
            match step.what:
                case "octets":
                    self._receive(step.of)
                case "hook":
                    self.left -= 1
                    if self.left <= 0:
                        self._decide_open()
                case "time":
                    connection.timeout(step.of[1])
                case "stop":
                    connection.shutdown(now=step.of)
                case "eof":
                    connection.receive_eof()
                case _:
                    connection.connection_lost()
        except Exception as error:  # noqa: BLE001 - whatever is raised is compared
            self.record.note("raised", type(error).__name__, str(error))
        self.settle()

    def _receive(self, octets: bytes) -> None:
        connection = self.connection
        if type(connection.question).__name__ in {"NeedsTLS", "NeedsStartTLS"}:
            self.shaken += octets
            if HELLO.startswith(self.shaken):
                if self.shaken != HELLO:
                    return
                octets = b""
            elif not self.shaken.startswith(HELLO):
                octets = self.shaken
            else:
                octets = self.shaken[len(HELLO) :]
            if self.shaken.startswith(HELLO):
                details = self.p.TlsDetails({"name": "X", "version": "TLSv1.3"}, servername="mx.test")
                connection.tls_established(details)
                self.settle()
            self.shaken = b""
        for _ in range(MOST):
            if connection.wants_data or connection.question is None:
                break
            self._decide_open()
            self.settle()
        connection.receive_data(octets)

    def settle(self) -> None:
        """Take events until something is awaited."""
        connection, record = self.connection, self.record
        for _ in range(MOST):
            event = connection.next_event()
            if isinstance(event, self.p.Signal):
                record.sent(connection.data_to_send())
                record.note(event.name)
                if event is not self.p.Signal.SEND:
                    return
            elif type(event) is self.p.DataChunk:
                record.content(event.data)
            else:
                record.note(*event_facts(event), session_facts(connection.session))
                if event.takes and connection.question is event:
                    name = name_of(event)
                    self.left = self.talk.waits_for(name, self.asked[name])
                    if not self.left:
                        self._decide_open()
        raise AssertionError("events without end")

    def _decide_open(self) -> None:
        connection = self.connection
        event = connection.question
        if event is None or not event.takes:
            return
        name = name_of(event)
        choices = _CHOICES.get(name, _ELSEWHERE)
        for attempt in (0, 1):
            picked = self.talk.pick(name, self.asked[name] + attempt * 1000)
            decision = choices[picked % len(choices)](self.p, event, connection.session)
            try:
                connection.decide(decision)
            except self.p.DecisionError as error:
                self.record.note("raised", type(error).__name__)
            else:
                break
        else:
            connection.decide(self.p.Reject())
        self.asked[name] += 1
