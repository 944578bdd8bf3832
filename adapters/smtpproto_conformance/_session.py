# A session with the server, from the connection to the place where a row begins.
#
# What a server refuses on the way is not the row's business: it ends as NotTold, with the reason.

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from smtpproto_conformance._target import Security
from smtpproto_conformance._wire import Ended, Reply, Silent, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto_conformance._target import Target

__all__ = ["Hung", "NotTold", "Session"]


class NotTold(Exception):  # noqa: N818 - no error, but what becomes of a row
    """The row's place is not reached; the text says why."""


class Hung(NotTold):
    """The server does not even get to EHLO."""


MAIL: Final = b"MAIL FROM:<a@x.test>\r\n"
RCPT: Final = b"RCPT TO:<b@y.test>\r\n"
ANOTHER: Final = b"RCPT TO:<c@y.test>\r\n"
DATA: Final = b"DATA\r\n"
HELO: Final = b"HELO c.test\r\n"


class Session:
    """A session. `clear` keeps it from using TLS and logging in where the target would."""

    def __init__(self, target: Target, *, clear: bool = False) -> None:
        self.target: Target = target
        self.replies: list[Reply] = []
        """All that have come."""
        self.plain_replies: list[Reply] = []
        """Those in the places where RFC 2034 §3 wants no enhanced code."""
        self.secure: bool = False
        self.hello: Reply | None = None
        """The last reply to EHLO or LHLO."""
        self._clear: bool = clear
        try:
            self.wire: Wire = Wire(target.place, target.patience)
            if target.security is Security.TLS:
                self._start_tls()
        except Ended as error:
            raise Hung(f"no connection: {error}") from None

    def close(self) -> None:
        """End the connection."""
        self.wire.close()

    def reach(self, setup: str) -> None:
        """Go there. Raises NotTold if the server does not let us."""
        for step in SETUPS[setup]:
            step(self)

    # --- what is said ---

    def send(self, data: bytes) -> None:
        """Send octets of the table, with the target's own addresses and names in them."""
        self.wire.send(self._own(data))

    def reply(self) -> Reply:
        """The next reply. Raises Silent or Ended."""
        reply = self.wire.reply()
        self.replies.append(reply)
        return reply

    def _own(self, data: bytes) -> bytes:
        target = self.target
        second = target.recipients[-1]
        words = target.login.words if target.login else {}
        for theirs, ours in {
            rb"[ac]@x\.test": target.sender, rb"b@y\.test": target.recipients[0], rb"[cd]@y\.test": second,
            rb"(?<=@)x\.test": _domain(target.sender), rb"(?<=@)y\.test": _domain(target.recipients[0]),
            **({rb"(?i)\bEHLO(?= c\.test)": "LHLO"} if target.lmtp else {}),
            rb"\bc\.test": target.helo,
            **{rb"\{%s\}" % name.encode(): text for name, text in words.items()},
        }.items():  # fmt: skip
            data = re.sub(theirs, ours.encode().replace(b"\\", b"\\\\"), data)
        return data

    # --- steps of a setup ---

    def greeting(self) -> None:
        """Wait for 220."""
        reply = self._asked(b"", 220, Hung)
        self.plain_replies.append(reply)

    def greet(self) -> None:
        """Say EHLO, or LHLO."""
        self.hello = self._asked(b"LHLO c.test\r\n" if self.target.lmtp else b"EHLO c.test\r\n", 250, Hung)
        self.plain_replies.append(self.hello)

    def make_ready(self) -> None:
        """Do what the target wants before a transaction: EHLO, TLS, a login."""
        self.greet()
        if self._clear:
            return
        if self.target.security is Security.STARTTLS:
            self.secure_it()
        if self.target.login is not None:
            self.log_in()

    def secure_it(self) -> None:
        """STARTTLS and EHLO, if there is no TLS yet."""
        if not self.secure:
            self.start_tls()
            self.greet()

    def secure_it_if_offered(self) -> None:
        """The same, where the server offers it; otherwise all stays as it is."""
        if self.offers("STARTTLS"):
            self.secure_it()

    def start_tls(self) -> None:
        """STARTTLS and the handshake."""
        if not self.offers("STARTTLS"):
            raise NotTold("STARTTLS is not offered")
        self._asked(b"STARTTLS\r\n", 220)
        try:
            self._start_tls()
        except Ended as error:
            raise NotTold(str(error)) from None

    def log_in(self) -> None:
        """AUTH PLAIN, or else LOGIN."""
        if self.target.login is None:
            raise NotTold("needs --user")
        if self.offers("AUTH=PLAIN"):
            self._secretly(b"AUTH PLAIN {plain}\r\n", 235)
        elif self.offers("AUTH=LOGIN"):
            self._secretly(b"AUTH LOGIN\r\n", 334)
            self._secretly(b"{name}\r\n", 334)
            self._secretly(b"{password}\r\n", 235)
        else:
            raise NotTold("neither AUTH PLAIN nor AUTH LOGIN is offered")

    def offers(self, keyword: str) -> bool:
        """Whether the last reply to EHLO has this line."""
        return self.hello is not None and self.hello.offers(keyword)

    def _start_tls(self) -> None:
        self.wire.start_tls()
        self.secure = True

    def ask(self, data: bytes) -> None:
        """Say a command of the table that has to succeed for the row to be reached."""
        self._asked(data, 354 if data == DATA else 250)

    def _secretly(self, data: bytes, wanted: int) -> None:
        self._asked(data, wanted, shown="the login")

    def _asked(
        self, data: bytes, wanted: int, error: type[NotTold] = NotTold, shown: str | None = None
    ) -> Reply:
        name = shown or (data.split()[0].decode() if data else "the connection")
        try:
            self.send(data)
            reply = self.reply()
        except (Silent, Ended) as failure:
            raise error(f"{name}: {failure}") from None
        if reply.code // 10 != wanted // 10:
            raise error(f"{name} was answered {reply.code if shown else reply}")
        return reply


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


def _saying(data: bytes) -> Callable[[Session], None]:
    return lambda session: session.ask(data)


CONNECT: Final[tuple[Callable[[Session], None], ...]] = ()
S0: Final = (*CONNECT, Session.greeting)
S_EHLO: Final = (*S0, Session.make_ready)
S_MAIL: Final = (*S_EHLO, _saying(MAIL))
S_RCPT: Final = (*S_MAIL, _saying(RCPT))
S_TLS_EHLO: Final = (*S0, Session.greet, Session.secure_it_if_offered)
SETUPS: Final[Mapping[str, tuple[Callable[[Session], None], ...]]] = {
    "CONNECT": CONNECT,
    "S0": S0,
    "S_HELO": (*S0, _saying(HELO)),
    "S_EHLO": S_EHLO,
    "S_LHLO": S_EHLO,
    "S_MAIL": S_MAIL,
    "S_RCPT": S_RCPT,
    "S_DATA": (*S_RCPT, _saying(DATA)),
    "S_TLS": (*S0, Session.greet, Session.start_tls),
    "S_TLS_EHLO": S_TLS_EHLO,
    "S_AUTH_OK": (*S_TLS_EHLO, Session.log_in),
    "S_LMTP_TWO": (*S_RCPT, _saying(ANOTHER), _saying(DATA)),
    "S_LMTP_SAME": (*S_RCPT, _saying(RCPT), _saying(DATA)),
    # In the clear up to the recipient, then TLS.
    "S_RCPT_TLS": (
        *S0, Session.greet, _saying(MAIL), _saying(RCPT), Session.start_tls, Session.greet,
    ),
}  # fmt: skip
