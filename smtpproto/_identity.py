# XCLIENT and XFORWARD (Postfix XCLIENT_README, XFORWARD_README).
#
# An entitled peer says who the client is. Trust is judged on the peer, never on what a peer has
# said, and nothing is applied unless all of it is valid.

from __future__ import annotations

from typing import TYPE_CHECKING

from smtpproto import _catalogue as say
from smtpproto._decisions import Accept, Reject, decided_reply
from smtpproto._events import AuthRequested
from smtpproto._reply import Reply
from smtpproto._sasl import XClientCredentials
from smtpproto._state import AFTER, OUT_OF_ORDER, Step
from smtpproto._xclient import XCLIENT_ATTRIBUTES, XFORWARD_ATTRIBUTES, read_attributes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from smtpproto._core import Core
    from smtpproto._decisions import Decision
    from smtpproto._xclient import Check

__all__ = ["bracketed", "xclient", "xclient_login_decided", "xforward"]


def xclient(core: Core, argument: str) -> None:
    """XCLIENT attribute=value ..."""
    attributes = _attributes(core, argument, XCLIENT_ATTRIBUTES, entitled=core.may_xclient())
    if attributes is None:
        return
    _apply(core, attributes)
    login = attributes.get("LOGIN")
    if login:
        core.ask(AuthRequested(XClientCredentials(login), core.session))
    else:
        _greet_again(core)


def xforward(core: Core, argument: str) -> None:
    """XFORWARD attribute=value ...: for the application and its log, changes nothing else."""
    attributes = _attributes(core, argument, XFORWARD_ATTRIBUTES, entitled=core.may_xforward())
    if attributes is None:
        return
    if not core.session.xforward:
        # The first one of a transaction makes all that it does not name unavailable.
        core.session._xforward = dict.fromkeys(XFORWARD_ATTRIBUTES)
    core.session._xforward = {**core.session.xforward, **attributes}
    core.say(say.OK)


def _attributes(
    core: Core, argument: str, table: Mapping[str, Check], *, entitled: bool
) -> dict[str, str | None] | None:
    """What the command says, or None when it was refused and has been answered."""
    if not entitled:
        core.say(say.NOT_ALLOWED)
        return None
    if Step.XCLIENT not in AFTER[core.state]:
        core.say(OUT_OF_ORDER[Step.XCLIENT][core.state])
        return None
    attributes = read_attributes(argument, table)
    if isinstance(attributes, Reply):
        core.say(attributes)
        return None
    return attributes


def xclient_login_decided(core: Core, decision: Decision) -> None:
    """LOGIN names a user who is to be taken as logged in, if the application agrees."""
    if isinstance(decision, Accept) and decision.user:
        core.session.user = decision.user
        _greet_again(core)
        return
    core.say_last(_login_refused(decision), "XCLIENT LOGIN refused")


def _login_refused(decision: Decision) -> Reply:
    """550 with the application's text; a temporary refusal stays temporary."""
    if not isinstance(decision, Reject):
        return say.XCLIENT_LOGIN_REFUSED
    said = decided_reply(decision, say.XCLIENT_LOGIN_REFUSED)
    if said.code // 100 == 4:  # noqa: PLR2004 - RFC 5321 §4.2.1
        return said
    return say.XCLIENT_LOGIN_REFUSED if decision.text is None else Reply(550, "5.7.8", said.lines)


def bracketed(address: str) -> str:
    """The host name of a client of which no more is known than this."""
    return f"[{address}]" if address else "[local]"


def _apply(core: Core, attributes: dict[str, str | None]) -> None:
    session = core.session
    first = {
        "ADDR:DEFAULT": session.remote_address,
        "NAME:DEFAULT": session.client_hostname,
        "PORT:DEFAULT": str(session.remote_port),
    }
    session._xclient = {**first, **session.xclient, **attributes}
    address, name, port = attributes.get("ADDR"), attributes.get("NAME"), attributes.get("PORT")
    if address is not None:
        session._remote_address = address
        session._client_hostname = bracketed(address)
        core.xclient_done = True
    if "NAME" in attributes:
        host = bracketed(session.remote_address) if name is None else name.lower()
        session._client_hostname = host
    if port is not None:
        session._remote_port = int(port)
    core.forget_client()
    core.reset_transaction()


def _greet_again(core: Core) -> None:
    core.move(Step.XCLIENT)
    if core.xclient_done:
        core.announce_client()
    core.say(say.greeting(core.greeting))
