# Before the greeting, and after each handshake: who the client is, and whether it may come in.
#
# A client that speaks where it has to wait is turned away; octets that were meant for the TLS layer
# are never read as commands.

from __future__ import annotations

from typing import TYPE_CHECKING

from smtpproto import _catalogue as say
from smtpproto._core import Signal
from smtpproto._decisions import Accept, Reject, decided_reply
from smtpproto._events import ConnectRequested, Event, NeedsTLS, ProxyReceived, SecureRequested
from smtpproto._identity import bracketed
from smtpproto._proxy import ProxyFault, ProxyReader
from smtpproto._state import BEGIN, State, Step

if TYPE_CHECKING:
    from smtpproto._core import Core
    from smtpproto._tls import TlsDetails

__all__ = ["begin", "connect_decided", "read_proxy", "secure_decided", "secured", "spoke", "turn_away"]


def begin(core: Core) -> None:
    options = core.options
    core.start_timer("session_timeout", options.session_timeout)
    core.start_timer("socket_timeout", options.socket_timeout)
    core.start_timer("command_timeout", options.command_timeout)
    core.start_timer("data_timeout", options.data_timeout)
    if core.peer in options.proxy_peers:
        core.state = BEGIN[Step.START_PROXY]
        core.proxy = ProxyReader()
        core.start_timer("proxy_timeout", options.proxy_timeout)
    elif core.implicit_tls:
        core.state = BEGIN[Step.START_TLS_FIRST]
        _ask_for_tls(core)
    else:
        _arrived(core)


def read_proxy(core: Core) -> Signal | None:
    """Read on in a PROXY header; NEED_DATA if no octets wait."""
    octets = core.buffer.take_all()
    if core.proxy is None or not octets:
        return Signal.NEED_DATA
    result = core.proxy.feed(octets)
    if result is None:
        return None
    if isinstance(result, ProxyFault):
        core.close(f"PROXY header refused: {result.value}")
        return None
    rest = core.proxy.rest
    core.proxy = None
    core.stop_timer("proxy_timeout", core.options.proxy_timeout)
    session = core.session
    session._proxy = result
    if isinstance(result.source, tuple):
        address, port = result.source
        session._remote_address = address
        session._remote_port = port
        session._client_hostname = bracketed(address)
        core.peer = address
    core.tell(ProxyReceived(result))
    if core.implicit_tls:
        core.move(Step.HEADER_TLS)
        _ask_for_tls(core, rest)
        return None
    core.move(Step.HEADER)
    _arrived(core)
    if rest and core.state is State.ARRIVED:
        _too_soon(core)
    return None


def _ask_for_tls(core: Core, data: bytes = b"") -> None:
    core.start_timer("tls_handshake_timeout", core.options.tls_handshake_timeout)
    core.ask(NeedsTLS(data))


def _arrived(core: Core) -> None:
    if core.refused:
        turn_away(core)
        return
    core.start_timer("greeting_timeout", core.options.greeting_timeout)
    core.ask(ConnectRequested(core.session))


def turn_away(core: Core) -> None:
    core.say_last(say.too_many_clients(core.options.host), "too many clients")


def _too_soon(core: Core) -> None:
    """RFC 5321 §4.3.1: the client waits for the greeting; one that does not is probably a spambot."""
    core.say_last(say.too_soon(core.options.host), "the client talked before the greeting")


def spoke(core: Core) -> None:
    """The client spoke where it may not."""
    if core.state is State.ARRIVED:
        _too_soon(core)
    else:
        # These octets were to go to the TLS layer: plaintext in the place of a handshake.
        core.close("plaintext in place of a TLS handshake")


def secured(core: Core, details: TlsDetails) -> None:
    session = core.session
    core.stop_timer("tls_handshake_timeout", core.options.tls_handshake_timeout)
    core.move(Step.HANDSHAKE)
    session._secure = True
    session._servername = details.servername
    session._tls_options = details.options
    session._peer_certificate = details.peer_certificate
    if core.state is State.ARRIVED:
        _arrived(core)
        return
    # RFC 3207 §4.2: nothing that was said in the clear is known any more.
    core.forget_client()
    session._xclient = {}
    session._xforward = {}
    core.ask(SecureRequested(session))


def connect_decided(core: Core, _event: Event, decision: Accept | Reject) -> None:
    if isinstance(decision, Reject):
        core.say_last(
            say.uncoded(decided_reply(decision, say.CONNECTION_REFUSED)), "refused by the application"
        )
        return
    if decision.text is not None:
        banner, *more = (decision.text,) if isinstance(decision.text, str) else decision.text or ("",)
        core.greeting = (core.options.greeting_with(banner), *more)
    if core.implicit_tls and not core.draining:
        core.ask(SecureRequested(core.session))
    else:
        _greet(core)


def secure_decided(core: Core, _event: Event, decision: Accept | Reject) -> None:
    if isinstance(decision, Reject):
        reply = decided_reply(decision, say.SECURITY_REFUSED)
        before_greeting = core.state is State.ARRIVED
        core.say_last(say.uncoded(reply) if before_greeting else reply, "refused by the application")
    elif core.state is State.ARRIVED:
        _greet(core)
    else:
        core.move(Step.APPROVED)


def _greet(core: Core) -> None:
    core.stop_timer("greeting_timeout", core.options.greeting_timeout)
    if core.draining:
        core.say_last(say.uncoded(say.SHUTTING_DOWN), "shutdown")
        return
    entitled = "XCLIENT" not in core.options.absent_commands and core.may_xclient()
    if not entitled:
        core.announce_client()
    core.move(Step.GREETING)
    core.say(say.greeting(core.greeting))
