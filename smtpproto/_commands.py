# Commands: what each verb does, and the gates before it.
#
# The gates are the same for every verb and stand in one place, in their order; what a verb needs
# is a row of VERBS. A refused command changes nothing.

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from smtpproto import _catalogue as say
from smtpproto._address import read_path
from smtpproto._buffer import LineFault
from smtpproto._core import Command, Signal
from smtpproto._decisions import Accept, Reject, decided_reply
from smtpproto._events import (
    CommandRequested,
    Event,
    ExpandRequested,
    HelloRequested,
    HelpRequested,
    MailRequested,
    NeedsStartTLS,
    QuitReceived,
    RcptRequested,
    VerifyRequested,
)
from smtpproto._identity import xclient, xforward
from smtpproto._login import auth, auth_line, login_failed, refuse_auth
from smtpproto._message import data
from smtpproto._parameters import ParameterRules, apply_mail_parameters, apply_rcpt_parameters
from smtpproto._reply import MAX_REPLY_LINE, Reply, single_line
from smtpproto._state import AFTER, OUT_OF_ORDER, State, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto._address import Address
    from smtpproto._core import Core
    from smtpproto._sasl import Exchange
    from smtpproto._session import Envelope

__all__ = [
    "command_decided", "expand_decided", "hello_decided", "help_decided", "mail_decided", "rcpt_decided",
    "read_command", "recipient_accepted", "reset", "sender_accepted", "verbs_without", "verify_decided",
]  # fmt: skip

# What the commands of a transaction need: an enum's members are slow to find in CPython 3.11.
MAIL, RCPT, RSET = Step.MAIL, Step.RCPT, Step.RSET
NEED_DATA: Final = Signal.NEED_DATA
GREETED, IN_MAIL, IN_RCPT = State.GREETED, State.MAIL, State.RCPT
MAX_HELLO_TEXT: Final = MAX_REPLY_LINE - len("250-\r\n")  # octets
HELLO_NAME: Final = re.compile(r"[!-~]{1,255}")
# A request line of HTTP/1 or the preface of HTTP/2: a browser was made to talk to us.
HTTP_REQUEST: Final = re.compile(
    r"(?:OPTIONS|GET|HEAD|POST|PUT|PATCH|DELETE|TRACE|CONNECT|PRI) [^ ]+ HTTP/[0-9.]+"
)
# A message header where a command belongs, for instance after a refused DATA.
HEADER_NAME: Final = re.compile(r"[!-9;-~]+:")
OWN_VERB: Final = re.compile(r"[A-Z0-9-]+")

FAULTS: Final[Mapping[LineFault, Reply]] = {
    LineFault.INVALID: say.INVALID_CHARACTERS,
    LineFault.TOO_LONG: say.LINE_TOO_LONG,
    LineFault.AUTH_TOO_LONG: say.AUTH_LINE_TOO_LONG,
}

RULES: Final[Mapping[tuple[bool, bool], ParameterRules]] = {
    (extended, accept): ParameterRules(extended=extended, accept_unknown=accept)
    for extended in (False, True)
    for accept in (False, True)
}


# --- lines --------------------------------------------------------------------------------------


def read_command(core: Core) -> Signal | None:
    """Take one line and answer it; NEED_DATA if there is none."""
    line = core.buffer.next_line()
    if line is None:
        return NEED_DATA
    if isinstance(line, LineFault):
        _answer_fault(core, line)
        return None
    text = line.rstrip(" \t")
    if core.exchange is not None:
        _run_auth_line(core, core.exchange, text)
        return None
    core.flush = False
    verb, _, argument = text.partition(" ")
    command = core.verbs.get(verb)
    if command is None and verb.isascii():  # letters outside ASCII have no upper case here
        verb = verb.upper()
        command = core.verbs.get(verb)
    if command is None:
        _not_a_command(core, verb, argument, text)
    elif not (core.guarded or core.state is GREETED) or _may_pass(core, command):
        command.run(core, argument)
        core.flush = command.ends_group
    return None


def _run_auth_line(core: Core, exchange: Exchange, text: str) -> None:
    if HTTP_REQUEST.fullmatch(text):
        core.say_last(say.HTTP, "HTTP request")
        return
    core.flush = True  # as for AUTH itself
    auth_line(core, exchange, text)


def _answer_fault(core: Core, fault: LineFault) -> None:
    if fault is LineFault.ENDLESS:
        core.say_last(say.LINE_WITHOUT_END, "endless line")
    elif core.exchange is None:
        core.refuse_unknown(FAULTS[fault])
    elif not core.one_unknown_too_many():
        # The exchange is over as well; its failure counts, and so does the fault.
        login_failed(core, FAULTS[fault])


def _may_pass(core: Core, command: Command) -> bool:
    """Whether the session has what the command needs; if not, that is the answer."""
    if command.counted and core.one_unauthenticated_too_many():
        return False
    refusal = _gate(core, command)
    if refusal is None:
        return True
    if command.counted:
        core.say(refusal)
    else:
        refuse_auth(core, refusal)
    core.flush = command.ends_group
    return False


def _gate(core: Core, command: Command) -> Reply | None:
    """What the command needs and the session does not have."""
    if command.needs_hello and core.state is State.GREETED:
        return say.LHLO_FIRST if core.options.lmtp else say.HELO_FIRST
    if command.needs_tls and core.options.needs_upgrade and not core.session.secure:
        return say.UPGRADE_FIRST
    if command.needs_login and core.needs_login():
        return say.login_needed(core.options.auth_required_message)
    return None


def _not_a_command(core: Core, verb: str, argument: str, text: str) -> None:
    if core.options.lmtp and verb in ("HELO", "EHLO"):
        core.refuse_unknown(say.not_in_lmtp(verb))
    elif HTTP_REQUEST.fullmatch(text):
        core.say_last(say.HTTP, "HTTP request")
    elif HEADER_NAME.fullmatch(verb):
        core.say_last(say.NOT_SMTP, "a header where a command belongs")
    elif verb not in VERBS and OWN_VERB.fullmatch(verb):
        _foreign(core, verb, argument)
    else:
        core.refuse_unknown(say.NOT_RECOGNIZED)


def _foreign(core: Core, verb: str, argument: str) -> None:
    """A verb that the application may have."""
    if CommandRequested in core.asks:
        core.ask(CommandRequested(verb, argument, core.session))
    else:
        core.refuse_unknown(_unknown(verb))


def _unknown(verb: str) -> Reply:
    return say.NOT_IMPLEMENTED if verb in VERBS else say.NOT_RECOGNIZED


def command_decided(core: Core, event: CommandRequested, decision: Accept | Reject | None) -> None:
    if decision is None:
        core.refuse_unknown(_unknown(event.verb))
    elif not core.one_unauthenticated_too_many():
        _conclude(core, decision, say.OK if isinstance(decision, Accept) else _unknown(event.verb))


# --- HELO, EHLO, LHLO ---------------------------------------------------------------------------


def _hello(verb: str) -> Callable[[Core, str], None]:
    def run(core: Core, argument: str) -> None:
        if HELLO_NAME.fullmatch(argument) is None:
            core.say(say.hello_syntax(verb))
            return
        event = HelloRequested(verb, argument, core.session)
        if HelloRequested in core.asks:
            core.ask(event)
        else:
            hello_decided(core, event, None)

    return run


def hello_decided(core: Core, event: HelloRequested, decision: Accept | Reject | None) -> None:
    """Greet back and open the extensions (RFC 5321 §4.1.1.1)."""
    if isinstance(decision, Reject):
        core.conclude(say.uncoded(decided_reply(decision, say.HELLO_REFUSED)))
        return
    session = core.session
    core.give_up_transaction(event.verb)
    core.move(Step.HELLO)
    session._opening_command = event.verb
    session._host_name_appears_as = event.name.lower()
    text = _given_text(decision) or _hello_text(core)
    # One line, whatever it is made of: the client would take a second one for an extension.
    first = single_line(text)[:MAX_HELLO_TEXT]
    core.say(say.hello((first,) if event.verb == "HELO" else (first, *ehlo_lines(core))))


def _given_text(decision: Accept | None) -> str:
    """What the application wants said, "" if nothing."""
    text = None if decision is None else decision.text
    return " ".join(text) if isinstance(text, tuple) else text or ""


def _hello_text(core: Core) -> str:
    """`%s` is the server's name, then the client's; any further one is nothing."""
    parts = core.options.helo_response.split("%s")
    names = [core.options.host, core.session.client_hostname]
    filled = parts[0] + "".join(
        (names[i] if i < len(names) else "") + part for i, part in enumerate(parts[1:])
    )
    return filled.strip() or core.options.host


def ehlo_lines(core: Core) -> list[str]:
    """The extensions on offer now, in their order."""
    lines = [line for offer in OFFERS if (line := offer(core))]
    return [*lines, *core.options.ehlo_keywords]


def _offer_auth(core: Core) -> str:
    options, session = core.options, core.session
    usable = session.secure or (options.allow_insecure_auth and not options.needs_upgrade)
    offered = options.has_auth and session.user is None and usable
    return f"AUTH {' '.join(options.auth_methods)}" if offered else ""


def _offer_starttls(core: Core) -> str:
    hidden = core.options.hide_starttls or "STARTTLS" in core.options.absent_commands
    return "" if hidden or core.session.secure or not core.tls_available else "STARTTLS"


def _offer_xclient(core: Core) -> str:
    offered = "XCLIENT" not in core.options.absent_commands and core.may_xclient()
    return "XCLIENT NAME ADDR PORT PROTO HELO LOGIN" if offered else ""


def _offer_xforward(core: Core) -> str:
    offered = "XFORWARD" not in core.options.absent_commands and core.may_xforward()
    return "XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE" if offered else ""


OFFERS: Final[tuple[Callable[[Core], str], ...]] = (
    lambda core: "" if core.options.hide_pipelining else "PIPELINING",  # RFC 2920
    lambda core: "" if core.options.hide_8bitmime else "8BITMIME",  # RFC 6152
    lambda core: "" if core.options.hide_smtputf8 else "SMTPUTF8",  # RFC 6531
    lambda core: "ENHANCEDSTATUSCODES" if core.coded else "",  # RFC 2034
    lambda core: "" if core.options.hide_dsn else "DSN",  # RFC 3461
    _offer_auth,  # RFC 4954
    _offer_starttls,  # RFC 3207
    lambda core: "REQUIRETLS" if core.session.secure and not core.options.hide_requiretls else "",  # RFC 8689
    lambda core: f"SIZE {core.options.size}" if core.options.size and not core.options.hide_size else "",
    _offer_xclient,
    _offer_xforward,
)


# --- MAIL and RCPT ------------------------------------------------------------------------------


def _mail(core: Core, argument: str) -> None:
    """MAIL FROM:<reverse-path> [parameters] (RFC 5321 §4.1.1.2)."""
    path = read_path(argument, "FROM", lenient=core.options.lenient_addresses)
    if path is None:
        core.say(say.BAD_SENDER)
        return
    if MAIL not in AFTER[core.state]:
        core.say(OUT_OF_ORDER[MAIL][core.state])
        return
    address, rest = path
    session = core.session
    if rest or not address.address.isascii():
        core.new_envelope()
        refusal = _sender_refused(core, address, rest, session.envelope)
        if refusal is not None:
            core.new_envelope()
            core.say(refusal)
            return
    core.announce_client()
    core.ask(MailRequested(address, session))


def _sender_refused(core: Core, address: Address, rest: str, envelope: Envelope) -> Reply | None:
    """What is wrong with a sender's parameters, or with one outside ASCII; else `envelope` has them."""
    options = core.options
    refusal = None
    if rest:
        secure = core.session.secure
        refusal = apply_mail_parameters(rest, address, envelope, rules=_rules(core), secure=secure)
    if refusal is None and not address.address.isascii() and _utf8_missing(core, envelope):
        refusal = say.NEEDS_SMTPUTF8
    if refusal is None and options.size and (envelope.declared_size or 0) > options.size:
        refusal = say.too_large(options.size)
    return refusal


def mail_decided(core: Core, event: MailRequested, decision: Accept | Reject) -> None:
    session = core.session
    if isinstance(decision, Reject):
        utf8 = session.envelope.smtp_utf8
        core.new_envelope()
        core.conclude(decided_reply(decision, say.MAILBOX_REFUSED, utf8=utf8))
        return
    reply = decided_reply(decision, say.SENDER_OK, utf8=session.envelope.smtp_utf8)
    sender_accepted(core, event.address, reply)


def sender_accepted(core: Core, address: Address, reply: Reply = say.SENDER_OK) -> None:
    core.session._envelope._mail_from = address
    core.state = IN_MAIL
    core.out.append(reply.spellings[core.coded])


def _rcpt(core: Core, argument: str) -> None:
    """RCPT TO:<forward-path> [parameters] (RFC 5321 §4.1.1.3)."""
    path = read_path(argument, "TO", lenient=core.options.lenient_addresses)
    if path is None:
        core.say(say.BAD_RECIPIENT)
        return
    if RCPT not in AFTER[core.state]:
        core.say(OUT_OF_ORDER[RCPT][core.state])
        return
    address, rest = path
    envelope = core.session.envelope
    most = core.options.max_recipients
    if most is not None and len(core.recipients) >= most:
        core.say(say.TOO_MANY_RECIPIENTS)
        return
    if rest or not address.address.isascii():
        refusal = apply_rcpt_parameters(rest, address, envelope, rules=_rules(core)) if rest else None
        if refusal is None and not address.address.isascii() and _utf8_missing(core, envelope):
            refusal = say.NEEDS_SMTPUTF8
        if refusal is not None:
            core.say(refusal)
            return
    core.ask(RcptRequested(address, core.session))


def rcpt_decided(core: Core, event: RcptRequested, decision: Accept | Reject) -> None:
    envelope = core.session.envelope
    if isinstance(decision, Reject):
        core.conclude(decided_reply(decision, say.MAILBOX_REFUSED, utf8=envelope.smtp_utf8))
        return
    reply = decided_reply(decision, say.RECIPIENT_OK, utf8=envelope.smtp_utf8)
    recipient_accepted(core, event.address, reply)


def recipient_accepted(core: Core, address: Address, reply: Reply = say.RECIPIENT_OK) -> None:
    core.recipients.append(address)
    core.state = IN_RCPT
    core.out.append(reply.spellings[core.coded])


def _rules(core: Core) -> ParameterRules:
    return RULES[core.session.opening_command != "HELO", core.options.unknown_parameters == "accept"]


def _utf8_missing(core: Core, envelope: Envelope) -> bool:
    return core.options.require_smtputf8 and not envelope.smtp_utf8


# --- the others ---------------------------------------------------------------------------------


def _rset(core: Core, argument: str) -> None:
    if argument:
        core.say(say.RSET_SYNTAX)
    else:
        reset(core)


def reset(core: Core) -> None:
    core.give_up_transaction("RSET")
    core.state = AFTER[core.state][RSET]
    core.out.append(say.FLUSHED.spellings[core.coded])


def _noop(core: Core, _argument: str) -> None:
    core.say(say.OK)


def _quit(core: Core, argument: str) -> None:
    if argument:
        core.say(say.QUIT_SYNTAX)
        return
    core.say(say.BYE)
    if QuitReceived in core.asks:
        core.tell(QuitReceived())
    core.close("quit")


def _vrfy(core: Core, argument: str) -> None:
    if not argument:
        core.say(say.VRFY_SYNTAX)
    elif VerifyRequested in core.asks:
        core.ask(VerifyRequested(argument, core.session))
    else:
        core.say(say.CANNOT_VERIFY)


def _expn(core: Core, argument: str) -> None:
    if ExpandRequested not in core.asks:
        _foreign(core, "EXPN", argument)
    elif core.one_unauthenticated_too_many():
        return
    elif not argument:
        core.say(say.EXPN_SYNTAX)
    else:
        core.ask(ExpandRequested(argument, core.session))


def _help(core: Core, argument: str) -> None:
    if HelpRequested in core.asks:
        core.ask(HelpRequested(argument, core.session))
    else:
        core.say(say.HELP)


def verify_decided(core: Core, _event: Event, decision: Accept | Reject) -> None:
    _conclude(core, decision, say.CANNOT_VERIFY if isinstance(decision, Accept) else say.VERIFY_REFUSED)


def expand_decided(core: Core, _event: Event, decision: Accept | Reject) -> None:
    _conclude(core, decision, say.OK if isinstance(decision, Accept) else say.VERIFY_REFUSED)


def help_decided(core: Core, _event: Event, decision: Accept | Reject) -> None:
    _conclude(core, decision, say.HELP if isinstance(decision, Accept) else say.HELP_REFUSED)


def _conclude(core: Core, decision: Accept | Reject, default: Reply) -> None:
    core.conclude(decided_reply(decision, default, utf8=core.session.envelope.smtp_utf8))


def _starttls(core: Core, argument: str) -> None:
    """STARTTLS (RFC 3207)."""
    if argument:
        core.say(say.STARTTLS_SYNTAX)
    elif core.session.secure:
        core.say(say.TLS_ACTIVE)
    elif not core.tls_available:
        core.say(say.NO_TLS)
    elif len(core.buffer):
        # Octets after STARTTLS in the clear were written by whoever sat on the wire. Answering
        # them after the handshake would vouch for them (CVE-2011-0411).
        core.say_last(say.DATA_BEHIND_STARTTLS, "data after STARTTLS")
    else:
        core.give_up_transaction("STARTTLS")
        core.say(say.GO_TLS)
        core.move(Step.STARTTLS)
        core.start_timer("tls_handshake_timeout", core.options.tls_handshake_timeout)
        core.ask(NeedsStartTLS())


def _not_implemented(verb: str, *, ends_group: bool = False) -> Command:
    return Command(
        lambda core, argument: _foreign(core, verb, argument), counted=False, ends_group=ends_group
    )


VERBS: Final[Mapping[str, Command]] = {
    "HELO": Command(_hello("HELO"), ends_group=True),
    "EHLO": Command(_hello("EHLO"), ends_group=True),
    "LHLO": Command(_hello("LHLO"), ends_group=True),
    "MAIL": Command(_mail, needs_hello=True, needs_tls=True, needs_login=True),
    "RCPT": Command(_rcpt, needs_hello=True, needs_login=True),
    "DATA": Command(data, needs_hello=True, needs_login=True, ends_group=True),
    "RSET": Command(_rset),
    "NOOP": Command(_noop, ends_group=True),
    "QUIT": Command(_quit, counted=False, ends_group=True),
    "VRFY": Command(_vrfy, ends_group=True),
    "HELP": Command(_help),
    "AUTH": Command(auth, needs_hello=True, needs_tls=True, counted=False, ends_group=True),
    "STARTTLS": Command(_starttls, ends_group=True),
    "XCLIENT": Command(xclient, ends_group=True),
    "XFORWARD": Command(xforward),
    "EXPN": Command(_expn, counted=False, ends_group=True),
    "TURN": _not_implemented("TURN", ends_group=True),
    **{verb: _not_implemented(verb) for verb in ("ETRN", "SEND", "SOML", "SAML", "BDAT")},
}


@lru_cache(maxsize=64)
def verbs_without(absent: frozenset[str]) -> Mapping[str, Command]:
    """The commands of a server that does not have some of them; the same table for all its connections."""
    return {verb: command for verb, command in VERBS.items() if verb not in absent}
