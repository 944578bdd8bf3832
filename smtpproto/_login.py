# AUTH (RFC 4954).
#
# An exchange exists from an AUTH that passed its checks to the reply that ends it; whatever the
# outcome but 235, the session is as it was before. Mechanisms know their dialogue and nothing
# else; who may log in is the application's to say.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from smtpproto import _catalogue as say
from smtpproto._decisions import Accept, Challenge, Decision, Reject, decided_reply
from smtpproto._errors import LocalProtocolError
from smtpproto._events import AuthRequested
from smtpproto._reply import Reply, challenge_line
from smtpproto._sasl import AuthRequest, Exchange, built_in_mechanism, challenge_text, decode_base64
from smtpproto._state import AFTER, Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from smtpproto._core import Core
    from smtpproto._sasl import Mechanism, Result

__all__ = ["LOGIN_CODES", "auth", "auth_line", "login_decided", "login_failed"]

LOGIN_CODES: Final = frozenset({235})  # of an Accept; RFC 4954 §6


def auth(core: Core, argument: str) -> None:
    """AUTH mechanism [initial-response]."""
    words = [word for word in argument.split(" ") if word]
    refusal = _refusal(core, words)
    if refusal is not None:
        refuse_auth(core, refusal)
        return
    name = words[0].upper()
    try:
        mechanism = _mechanism(core, name)
        server_first = mechanism.server_first
    except BaseException as error:  # noqa: BLE001 - the application's fault; the client gets its answer all the same
        refuse_auth(core, say.INTERNAL_ERROR)
        core.mechanism_failed(error)
        return
    if server_first and len(words) > 1:
        refuse_auth(core, say.no_initial_response(name))
        return
    exchange = core.exchange = Exchange(mechanism)
    core.move(Step.AUTH)
    if len(words) == 1:
        _step(core, exchange, None)
    else:
        _respond(core, exchange, words[1], initial=True)


def refuse_auth(core: Core, reply: Reply) -> None:
    """An AUTH that never began an exchange counts as one more command without a login."""
    if not core.one_unauthenticated_too_many():
        core.say(reply)


def _refusal(core: Core, words: list[str]) -> Reply | None:
    return next((reply for holds, reply in _REFUSALS if holds(core, words)), None)


def _mechanism(core: Core, name: str) -> Mechanism:
    factory = core.options.sasl_mechanisms.get(name)
    if factory is not None:
        return factory(core.session)
    core.exchanges += 1  # a challenge serves one exchange only
    challenge = challenge_text(core.entropy, core.exchanges, core.started, core.options.host)
    return built_in_mechanism(name, challenge=challenge)


def auth_line(core: Core, exchange: Exchange, line: str) -> None:
    """A line of the client within the exchange."""
    if exchange.last_word is not None:
        _fail(core, exchange.last_word)
    elif line == "*":
        _fail(core, say.AUTH_CANCELLED)
    else:
        _respond(core, exchange, line, initial=False)


def login_failed(core: Core, reply: Reply) -> None:
    """End the exchange for a line that was not one."""
    _fail(core, reply)


def _respond(core: Core, exchange: Exchange, text: str, *, initial: bool) -> None:
    response = decode_base64(text, initial=initial)
    if response is None:
        _fail(core, say.BAD_BASE64)
    else:
        _step(core, exchange, response)


def _step(core: Core, exchange: Exchange, response: bytes | None) -> None:
    if exchange.credentials is not None:
        exchange.credentials.response = response
        core.ask(AuthRequested(exchange.credentials, core.session))
        return
    try:
        result = _checked(exchange.mechanism, exchange.mechanism.step(response))
    except BaseException as error:  # noqa: BLE001 - as above
        _fail(core, say.INTERNAL_ERROR)
        core.mechanism_failed(error)
        return
    if isinstance(result, AuthRequest):
        core.ask(AuthRequested(result.credentials, core.session))
    else:
        _answer(core, result)


def _checked(mechanism: Mechanism, result: Result) -> Result:
    if not isinstance(result, Challenge | Accept | Reject | AuthRequest):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
        raise LocalProtocolError(
            # Its type only: it may well be what the client said.
            f"{type(result).__name__} is no step of {mechanism!r}; "
            "it takes Challenge, Accept, Reject or AuthRequest"
        )
    if isinstance(result, Accept) and result.code is not None and result.code not in LOGIN_CODES:
        raise LocalProtocolError(f"{result!r} is no step of {mechanism!r}: a login is accepted with 235")
    return result


def login_decided(core: Core, exchange: Exchange, event: AuthRequested, decision: Decision) -> None:
    """The application has judged the credentials."""
    if isinstance(decision, Challenge):
        exchange.credentials = event.auth
    elif isinstance(decision, Reject) or not decision.user:
        refusal = decision if isinstance(decision, Reject) else None
        try:
            if refusal is None:
                said = _invalid(exchange.mechanism)
            else:
                said = decided_reply(refusal, say.LOGIN_REFUSED)
            more = _last_challenge(exchange.mechanism, refusal)
        except BaseException as error:  # noqa: BLE001 - as above
            core.mechanism_failed(error)  # where it raises, the question stays open
            _fail(core, say.INTERNAL_ERROR)
            return
        if more is None:
            _fail(core, said)
            return
        exchange.last_word = said
        decision = more
    _answer(core, decision)


def _last_challenge(mechanism: Mechanism, refusal: Reject | None) -> Challenge | None:
    """What a mechanism says before the login is refused, if it says anything (XOAUTH2 does)."""
    refused = getattr(mechanism, "refused", None)  # one of the application's own may lack it
    more: Challenge | None = None if refused is None else refused(refusal)
    if not isinstance(more, Challenge | None):  # pyright: ignore[reportUnnecessaryIsInstance] - callers without types
        raise LocalProtocolError(
            f"{type(more).__name__} is no last step of {mechanism!r}; it takes Challenge or None"
        )
    return more


def _invalid(mechanism: Mechanism) -> Reply:
    """What is said when nobody was let in and nobody said why; some mechanisms have their own text."""
    text: str | None = getattr(mechanism, "refusal_text", None)
    return say.LOGIN_REFUSED if text is None else Reply(535, "5.7.8", text)


def _answer(core: Core, decision: Decision) -> None:
    if isinstance(decision, Challenge):
        core.out.append(challenge_line(decision.data))
        core.buffer.continuation = True
    elif isinstance(decision, Reject):
        _fail(core, decided_reply(decision, say.LOGIN_REFUSED))
    elif not decision.user:
        _fail(core, say.LOGIN_REFUSED)
    else:
        _end(core)
        core.session.user = decision.user
        core.say(decided_reply(decision, say.LOGIN_OK))


def _fail(core: Core, reply: Reply) -> None:
    """End the exchange without a login; a temporary fault is not held against the client."""
    _end(core)
    if reply.code // 100 == 4:  # noqa: PLR2004 - RFC 5321 §4.2.1: temporary
        if reply.code == 421 or not core.one_unauthenticated_too_many():  # noqa: PLR2004
            core.conclude(reply)
        return
    core.failed_logins += 1
    if core.failed_logins == core.options.max_auth_attempts:
        core.say_last(say.TOO_MANY_FAILED_LOGINS, "too many failed authentication attempts")
    else:
        core.say(reply)


def _end(core: Core) -> None:
    core.exchange = None
    core.buffer.continuation = False
    core.move(Step.AUTH_END)


def _known(core: Core, words: list[str]) -> bool:
    return words[0].isascii() and words[0].upper() in core.options.auth_methods


def _in_clear(core: Core) -> bool:
    return not core.session.secure and not core.options.allow_insecure_auth


# Why an AUTH does not begin an exchange, in the order in which it is looked at.
_REFUSALS: Final[tuple[tuple[Callable[[Core, list[str]], bool], Reply], ...]] = (
    (lambda core, _words: core.session.opening_command == "HELO", say.EHLO_FIRST),
    (lambda core, _words: core.session.user is not None, say.LOGGED_IN),
    (lambda core, _words: Step.AUTH not in AFTER[core.state], say.IN_TRANSACTION),
    (lambda _core, words: not words, say.NO_MECHANISM),
    (lambda core, words: not _known(core, words), say.UNKNOWN_MECHANISM),
    (lambda core, _words: _in_clear(core), say.AUTH_NEEDS_TLS),
    (lambda _core, words: len(words) > 2, say.AUTH_SYNTAX),  # noqa: PLR2004 - mechanism, initial response
)
