# A tiny server with faults to switch on, for a tool that has to find them.
#
# It is written from the RFCs for one reader at a time and shares nothing with smtpproto: a fault that
# both had would be seen by nobody. Without a fault it does all that the tool's rows ask.

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Final

import trustme

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

__all__ = ["serving"]

WAIT: Final = 30.0  # seconds for a client that says nothing
ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
OCTET: Final = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
DOMAIN: Final = rf"(?:[A-Za-z0-9.-]+|\[{OCTET}(?:\.{OCTET}){{3}}\])"
MAILBOX: Final = rf'(?:{ATOM}(?:\.{ATOM})*|"(?:[^"\\\x00-\x1f]|\\[ -~])*")@{DOMAIN}'
PATH: Final = rf"<(?:@[\w.,@-]+:)?{MAILBOX}>"
PARAMETERS: Final = r"((?: [A-Z0-9-]+(?:=[!-<>-~]+)?)*)"
MAIL: Final = re.compile(rf"FROM:(?:<>|{PATH}){PARAMETERS}", re.IGNORECASE)
RCPT: Final = re.compile(rf"TO:(?:<postmaster>|{PATH}){PARAMETERS}", re.IGNORECASE)
MAIL_PARAMETER: Final = re.compile(r"SIZE=\d{1,20}|BODY=(?:7BIT|8BITMIME)", re.IGNORECASE)
KNOWN: Final = frozenset({"EXPN", "TURN", "BDAT", "AUTH", "XCLIENT", "XFORWARD"})
BAD_BODY: Final = 1000  # octets of a line with its CRLF that must be taken, RFC 5321 §4.5.3.1.6


class Closed(Exception):  # noqa: N818 - the ordinary end
    """The client has gone."""


class Conversation:
    """One client."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, faults: frozenset[str], lmtp: bool
    ) -> None:
        self.sock = sock
        self.context = context
        self.faults = faults
        self.lmtp = lmtp
        self.buffer = b""
        self.secure = False
        self.greeted = False
        self.extended = False
        self.mail = False
        self.recipients = 0

    # --- what comes and goes ---

    def run(self) -> None:
        self.say("220 mx.test")
        open_ = True
        while open_:
            open_ = self.obey(self.line())

    def say(self, *lines: str) -> None:
        self.sock.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise Closed
        self.buffer += data

    def line(self) -> str:
        ends = rb"\r\n?" if "a bare CR ends a command" in self.faults else rb"\r\n"
        while (found := re.search(ends, self.buffer)) is None:
            self.receive()
        line, self.buffer = self.buffer[: found.start()], self.buffer[found.end() :]
        return line.decode("latin-1")

    def body(self) -> bytes:
        ends = rb"\r\n\.\r\n|\n\.\n" if "LF.LF ends the data" in self.faults else rb"\r\n\.\r\n"
        while (found := re.search(ends, b"\r\n" + self.buffer)) is None:
            self.receive()
        body, self.buffer = self.buffer[: max(found.start() - 2, 0)], self.buffer[found.end() - 2 :]
        return body

    # --- commands ---

    def obey(self, line: str) -> bool:
        verb, _, argument = line.partition(" ")
        if "lower case is unknown" not in self.faults:
            verb = verb.upper()
        if not verb or re.search(r"[\x00-\x1f\x7f]", line):
            self.say("500 5.5.2 no command")
        elif verb in VERBS:
            return VERBS[verb](self, argument)
        elif verb in KNOWN:
            self.say("502 5.5.1 not here")
        elif "unknown commands have no reply" not in self.faults:
            self.say(
                "500 5.5.2 what\r\nis that" if "CRLF in a reply's text" in self.faults else "500 5.5.2 what"
            )
        return True

    def bare(self, argument: str) -> bool:
        """RFC 5321 §4.1.1: some commands permit no parameters."""
        if argument:
            self.say("501 5.5.4 no argument")
        return not argument

    def ehlo(self, argument: str) -> bool:
        if self.lmtp:
            self.say("500 5.5.1 say LHLO")
            return True
        return self.lhlo(argument, ours=True)

    def lhlo(self, argument: str, *, ours: bool = False) -> bool:
        if not (self.lmtp or ours):
            self.say("500 5.5.1 this is SMTP")
        elif self.hello(argument, keeps="EHLO keeps the transaction" in self.faults):
            self.extended = True
            words = ["PIPELINING", "8BITMIME", "SIZE 100000", "ENHANCEDSTATUSCODES"]
            if not self.secure or "STARTTLS is offered again" in self.faults:
                words.append("STARTTLS")
            first = "251-mx.test" if "EHLO's lines have two codes" in self.faults else "250-mx.test"
            self.say(first, *(f"250-{word}" for word in words[:-1]), f"250 {words[-1]}")
        return True

    def helo(self, argument: str) -> bool:
        if self.lmtp or "HELO is unknown" in self.faults:
            self.say("500 5.5.1 no HELO")
        elif self.hello(argument):
            self.extended = False
            self.say("250 mx.test")
        return True

    def hello(self, argument: str, *, keeps: bool = False) -> bool:
        if not re.fullmatch(DOMAIN, argument):
            self.say("501 5.5.4 that is no name")
            return False
        self.greeted = True
        if not keeps:
            self.reset()
        return True

    def reset(self) -> None:
        self.mail, self.recipients = False, 0

    def mail_from(self, argument: str) -> bool:
        found = MAIL.fullmatch(argument)
        words = found[1].split() if found else []
        if not (self.greeted or "MAIL needs no EHLO" in self.faults) or (
            self.mail and "MAIL may be nested" not in self.faults
        ):
            self.say("503 5.5.1 not now")
        elif (
            found is None or len(argument) > 256 or len(words) != len({each.split("=")[0] for each in words})
        ):
            self.say("501 5.5.4 malformed")
        elif words and not (self.extended and all(map(MAIL_PARAMETER.fullmatch, words))):
            self.say("555 5.5.4 unknown parameter")
        else:
            self.mail = True
            self.say("250 5.1.0 ok" if "250 is said with 5.1.0" in self.faults else "250 2.1.0 ok")
        return True

    def rcpt_to(self, argument: str) -> bool:
        found = RCPT.fullmatch(argument)
        if not self.mail:
            self.say("503 5.5.1 not now")
        elif found is None:
            self.say("501 5.5.4 malformed")
        elif found[1]:
            self.say("555 5.5.4 unknown parameter")
        else:
            self.recipients += 1
            self.say("250 2.1.5 ok")
        return True

    def data(self, argument: str) -> bool:
        if not self.bare(argument):
            return True
        if not (self.recipients or (self.mail and "DATA needs no recipient" in self.faults)):
            self.say("503 5.5.1 no recipients")
            return True
        self.say("354 go on")
        body = self.body()
        long = any(len(line) > BAD_BODY - 100 for line in body.split(b"\r\n"))
        answer = (
            "500 5.5.2 too long" if long and "lines of 900 are too long" in self.faults else "250 2.6.0 taken"
        )
        one = not self.lmtp or "LMTP has one reply" in self.faults
        self.say(*[answer] * (1 if one else self.recipients))
        self.reset()
        return True

    def rset(self, argument: str) -> bool:
        if self.bare(argument):
            self.reset()
            self.say("250 2.0.0 ok")
        return True

    def starttls(self, argument: str) -> bool:
        if not self.bare(argument):
            return True
        if self.secure:
            self.say("503 5.5.1 there is TLS already")
            return True
        self.say("220 2.0.0 go on")
        kept, self.buffer = self.buffer, b""
        try:
            self.sock = self.context.wrap_socket(self.sock, server_side=True)
        except OSError:
            return False
        self.secure, self.greeted = True, False
        self.reset()
        if "plaintext is kept over STARTTLS" in self.faults:
            self.buffer = kept
        return True

    def vrfy(self, argument: str) -> bool:
        self.say("252 2.1.5 perhaps" if argument else "501 5.5.4 whom")
        return True

    def noop(self, _: str) -> bool:
        self.say("250 2.0.0 ok")
        return True

    def help(self, _: str) -> bool:
        self.say("214 2.0.0 RFC 5321")
        return True

    def quit(self, argument: str) -> bool:
        if not self.bare(argument):
            return True
        self.say("221 2.0.0 bye")
        return "QUIT does not close" in self.faults


VERBS: Final[Mapping[str, Callable[[Conversation, str], bool]]] = {
    "EHLO": Conversation.ehlo, "LHLO": Conversation.lhlo, "HELO": Conversation.helo,
    "MAIL": Conversation.mail_from, "RCPT": Conversation.rcpt_to, "DATA": Conversation.data,
    "RSET": Conversation.rset, "STARTTLS": Conversation.starttls, "VRFY": Conversation.vrfy,
    "NOOP": Conversation.noop, "HELP": Conversation.help, "QUIT": Conversation.quit,
}  # fmt: skip


@contextlib.contextmanager
def serving(*faults: str, lmtp: bool = False) -> Generator[int]:
    """A server with these faults, for one client after another; gives its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)  # pyright: ignore[reportUnknownMemberType] - a union with types of an absent package
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, context, frozenset(faults), lmtp))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept
            thread.join()


def _serve(listener: socket.socket, context: ssl.SSLContext, faults: frozenset[str], lmtp: bool) -> None:
    while True:
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        sock.settimeout(WAIT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        talk = Conversation(sock, context, faults, lmtp)
        with contextlib.suppress(OSError, Closed):
            talk.run()
        talk.sock.close()
