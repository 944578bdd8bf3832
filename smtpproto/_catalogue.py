# The fixed replies, each once.
#
# Code and enhanced code are what clients act on; the texts are what people read in logs. A reply
# whose enhanced code is None never carries one: greetings, replies to HELO, EHLO and LHLO, 3yz
# (RFC 2034 §3).

from __future__ import annotations

from functools import lru_cache
from typing import Final

from smtpproto._reply import Reply

OK: Final = Reply(250, "2.0.0", "OK")
FLUSHED: Final = Reply(250, "2.0.0", "Flushed")
BYE: Final = Reply(221, "2.0.0", "Bye")
HELP: Final = Reply(214, "2.0.0", "See https://tools.ietf.org/html/rfc5321 for details")
CANNOT_VERIFY: Final = Reply(252, "2.1.5", "Try to send something. No promises though")

SENDER_OK: Final = Reply(250, "2.1.0", "Accepted")
RECIPIENT_OK: Final = Reply(250, "2.1.5", "Accepted")
SEND_DATA: Final = Reply(354, None, "End data with <CR><LF>.<CR><LF>")
QUEUED: Final = Reply(250, "2.6.0", "OK: message queued")
QUEUED_FOR_RECIPIENT: Final = Reply(250, "2.6.0", "OK: message accepted")

# What a refusal says when the application says no more than "no".
CONNECTION_REFUSED: Final = Reply(554, None, "Transaction failed")
SECURITY_REFUSED: Final = Reply(554, "5.7.1", "Transaction failed")
HELLO_REFUSED: Final = Reply(550, None, "Requested action not taken")
MAILBOX_REFUSED: Final = Reply(550, "5.1.1", "Requested action not taken")
VERIFY_REFUSED: Final = Reply(550, "5.1.1", "Requested action not taken")
HELP_REFUSED: Final = Reply(502, "5.5.1", "Error: command not implemented")
DATA_REFUSED: Final = Reply(554, "5.6.0", "Transaction failed")
MESSAGE_REFUSED: Final = Reply(450, "4.2.1", "Requested action not taken")
INTERNAL_ERROR: Final = Reply(451, "4.3.0", "Error: internal error, please try again later")
BARE_NEWLINES: Final = Reply(550, "5.6.0", "Error: message contains bare newline characters")

# Order of commands.
HELO_FIRST: Final = Reply(503, "5.5.1", "Error: send HELO/EHLO first")
EHLO_FIRST: Final = Reply(503, "5.5.1", "Error: send EHLO first")
LHLO_FIRST: Final = Reply(503, "5.5.1", "Error: send LHLO first")
NESTED_MAIL: Final = Reply(503, "5.5.1", "Error: nested MAIL command")
NEED_MAIL: Final = Reply(503, "5.5.1", "Error: need MAIL command")
NEED_RCPT: Final = Reply(503, "5.5.1", "Error: need RCPT command")
IN_TRANSACTION: Final = Reply(503, "5.5.1", "Error: Mail transaction in progress")
LOGGED_IN: Final = Reply(503, "5.5.1", "Error: No identity changes permitted")
TLS_ACTIVE: Final = Reply(503, "5.5.1", "Error: TLS already active")

# Syntax.
BAD_SENDER: Final = Reply(501, "5.1.7", "Error: Bad sender address syntax")
BAD_RECIPIENT: Final = Reply(501, "5.1.3", "Error: Bad recipient address syntax")
NEEDS_SMTPUTF8: Final = Reply(553, "5.6.7", "Error: SMTPUTF8 required for this address")
TOO_MANY_RECIPIENTS: Final = Reply(452, "4.5.3", "Error: too many recipients")
NOT_RECOGNIZED: Final = Reply(500, "5.5.2", "Error: command not recognized")
NOT_IMPLEMENTED: Final = Reply(502, "5.5.1", "Error: command not implemented")
INVALID_CHARACTERS: Final = Reply(500, "5.5.2", "Error: invalid characters in command line")
LINE_TOO_LONG: Final = Reply(500, "5.5.2", "Error: Line too long")
AUTH_LINE_TOO_LONG: Final = Reply(500, "5.5.6", "Error: Line too long")
NOT_ALLOWED: Final = Reply(550, "5.7.0", "Error: Not allowed")


# These two are much the same for many connections, so they are kept.
@lru_cache(maxsize=64)
def greeting(text: str | tuple[str, ...]) -> Reply:
    return Reply(220, None, text)


@lru_cache(maxsize=256)
def hello(lines: tuple[str, ...]) -> Reply:
    return Reply(250, None, lines)


# AUTH and TLS.
NO_MECHANISM: Final = Reply(501, "5.5.4", "Error: syntax: AUTH mechanism")
UNKNOWN_MECHANISM: Final = Reply(504, "5.5.4", "Error: Unrecognized authentication type")
AUTH_NEEDS_TLS: Final = Reply(538, "5.7.11", "Error: Must issue a STARTTLS command first")
AUTH_CANCELLED: Final = Reply(501, "5.7.0", "Authentication aborted")
BAD_BASE64: Final = Reply(501, "5.5.2", "Error: invalid base64")
LOGIN_OK: Final = Reply(235, "2.7.0", "Authentication successful")
LOGIN_REFUSED: Final = Reply(535, "5.7.8", "Error: Authentication credentials invalid")
XCLIENT_LOGIN_REFUSED: Final = Reply(550, "5.7.8", "Authentication credentials invalid")
UPGRADE_FIRST: Final = Reply(530, "5.7.0", "Must issue a STARTTLS command first")
GO_TLS: Final = Reply(220, "2.0.0", "Ready to start TLS")
NO_TLS: Final = Reply(454, "4.7.0", "TLS not available due to temporary reason")
DATA_BEHIND_STARTTLS: Final = Reply(554, "5.5.0", "Error: data after STARTTLS")

# The last word: each of these closes the connection.
SHUTTING_DOWN: Final = Reply(421, "4.3.2", "Server shutting down")
TIMED_OUT: Final = Reply(421, "4.4.2", "Timeout - closing connection")
HTTP: Final = Reply(421, "4.7.0", "HTTP requests not allowed")
NOT_SMTP: Final = Reply(421, "4.7.0", "Error: not an SMTP command")
LINE_WITHOUT_END: Final = Reply(421, "4.7.0", "Error: Command line too long")
TOO_MANY_UNKNOWN: Final = Reply(421, "4.7.0", "Error: too many unrecognized commands")
TOO_MANY_UNAUTHENTICATED: Final = Reply(421, "4.7.0", "Error: too many unauthenticated commands")
TOO_MANY_FAILED_LOGINS: Final = Reply(421, "4.7.0", "Error: too many failed authentication attempts")


def syntax(form: str) -> Reply:
    """501 for a command whose shape is wrong."""
    return Reply(501, "5.5.4", f"Error: syntax: {form}")


RSET_SYNTAX: Final = syntax("RSET")
QUIT_SYNTAX: Final = syntax("QUIT")
VRFY_SYNTAX: Final = syntax("VRFY string")
EXPN_SYNTAX: Final = syntax("EXPN string")
DATA_SYNTAX: Final = syntax("DATA")
STARTTLS_SYNTAX: Final = syntax("STARTTLS")
AUTH_SYNTAX: Final = syntax("AUTH <mechanism>[ token]")


def hello_syntax(verb: str) -> Reply:
    return Reply(501, None, f"Error: syntax: {verb} hostname")


def not_in_lmtp(verb: str) -> Reply:
    """RFC 2033 §4.1: HELO and EHLO are answered with 500 there."""
    return Reply(500, None, f"Error: {verb} not allowed in LMTP server")


def login_needed(message: str) -> Reply:
    return Reply(530, "5.7.0", message)


def no_initial_response(method: str) -> Reply:
    """RFC 4954 §4: a mechanism in which the server speaks first takes none."""
    return Reply(501, "5.7.0", f"Error: syntax: AUTH {method}")


def too_large(size: int) -> Reply:
    return Reply(552, "5.3.4", f"Error: message exceeds fixed maximum message size {size}")


def uncoded(reply: Reply) -> Reply:
    """The same reply for a place where none carries an enhanced code: before the greeting."""
    return Reply(reply.code, None, reply.lines)


def too_soon(name: str) -> Reply:
    return Reply(421, None, f"{name} You talk too soon")


def too_many_clients(name: str) -> Reply:
    return Reply(421, None, f"{name} Too many connected clients, try again in a moment")
