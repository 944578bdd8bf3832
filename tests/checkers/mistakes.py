# Mistakes in programs that use the server, each as a program, and programs without one.
#
# Marked with HERE is the line at which checkers have to complain, and the first that runs into an error.

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["GOOD", "HERE", "MISTAKES", "Mistake", "program"]

HERE: Final = "  # here"


class Mistake(NamedTuple):
    """One way to get it wrong."""

    title: str
    """How the page names it."""
    code: str


MISTAKES: Final = (
    Mistake(
        "a misspelt hook",
        """
class Mine(Handler):
    async def on_rcpt(self, address: Address, session: Session) -> None: ...

SMTPServer(handler=Mine())""",
    ),
    Mistake(
        "the same, marked with `@override`",
        """
class Mine(Handler):
    @override
    async def on_rcpt(self, address: Address, session: Session) -> None: ...  # here

SMTPServer(handler=Mine())""",
    ),
    Mistake(
        "a method that takes too little",
        """
class Mine(Handler):
    async def on_rcpt_to(self, session: Session) -> None: ...  # here

SMTPServer(handler=Mine())""",
    ),
    Mistake(
        "a function that takes too much",
        """
async def on_close(session: Session, reason: str) -> None: ...

SMTPServer(on_close=on_close)  # here""",
    ),
    Mistake(
        "a method without a base that takes too little",
        """
class Mine:
    async def on_rcpt_to(self, session: Session) -> None: ...

SMTPServer(handler=Mine())""",
    ),
    Mistake(
        "a parameter of another type",
        """
class Mine(Handler):
    async def on_rcpt_to(self, address: str, session: Session) -> None: ...  # here

SMTPServer(handler=Mine())""",
    ),
    Mistake(
        "a result that the hook's place has no meaning for",
        """
class Mine(Handler):
    async def on_rcpt_to(self, address: Address, session: Session) -> bool:  # here
        return address.domain == "example.com"

SMTPServer(handler=Mine())""",
    ),
    Mistake(
        "the other kind of stream",
        """
class Mine(Handler):
    async def on_data(self, stream: Stream, session: Session) -> None: ...  # here

SMTPServer(handler=Mine())""",
    ),
    Mistake(
        "a forgotten `await`",
        """
class Mine(Handler):
    async def on_data(self, stream: AsyncStream, session: Session) -> None:
        print(len(stream.read()))  # here

SMTPServer(handler=Mine())""",
    ),
    Mistake(
        "a plain function in a `Handler`",
        """
class Mine(Handler):
    def on_data(self, stream: Stream, session: Session) -> None: ...  # here

SMTPServer(handler=Mine())""",
    ),
    Mistake(
        "a coroutine function in a `PlainHandler`",
        """
class Mine(PlainHandler):
    async def on_close(self, session: Session) -> None: ...  # here

BlockingServer(handler=Mine())""",
    ),
    Mistake(
        "a coroutine function where hooks are plain",
        """
async def on_rcpt_to(address: Address, session: Session) -> None: ...

BlockingServer(on_rcpt_to=on_rcpt_to)""",
    ),
    Mistake(
        "a hook that is no function",
        """
SMTPServer(on_data="store")  # here""",
    ),
    Mistake(
        "a class for an instance",
        """
class Mine(Handler):
    async def on_close(self, session: Session) -> None: ...

SMTPServer(handler=Mine)""",
    ),
    Mistake(
        "a handler without a hook",
        """
class Mine(Handler):
    async def rcpt_to(self, address: Address, session: Session) -> None: ...

SMTPServer(handler=Mine())""",
    ),
    Mistake(
        "a handler in the place of options",
        """
class Mine(Handler):
    async def on_close(self, session: Session) -> None: ...

SMTPServer(Mine())  # here""",
    ),
    Mistake(
        "a hook set later that takes too little",
        """
async def on_rcpt_to(session: Session) -> None: ...

server = SMTPServer()
server.on_rcpt_to = on_rcpt_to""",
    ),
    Mistake(
        "a misspelt hook set later",
        """
async def on_rcpt_to(address: Address, session: Session) -> None: ...

server = SMTPServer()
server.on_rcpt = on_rcpt_to  # here""",
    ),
    Mistake(
        "a listener that takes too little",
        """
def failed(error: BaseException) -> None: ...

SMTPServer().on("error", failed)  # here""",
    ),
    Mistake(
        "a coroutine function as a listener",
        """
async def closed() -> None: ...

SMTPServer().on("close", closed)""",
    ),
    Mistake(
        "an event that there is not",
        """
SMTPServer().on("closed", print)  # here""",
    ),
    Mistake(
        "a second `on_data` in a chain",
        """
class Store(PlainHandler):
    def on_data(self, stream: Stream, session: Session) -> None: ...

SMTPServer(handler=chain(Store(), Store()))""",
    ),
    Mistake(
        "a misspelt option",
        """
SMTPServer(max_recipient=10)  # here""",
    ),
    Mistake(
        "an option of another type",
        """
SMTPServer(size="10 MB")  # here""",
    ),
    Mistake(
        "one text for a list of words",
        """
SMTPServer(auth_methods="PLAIN")  # here""",
    ),
    Mistake(
        "a TLS version that there is not",
        """
SMTPServer(min_version="1.2")  # here""",
    ),
    Mistake(
        "a misspelt option of a server name",
        """
SMTPServer(cert="mx.pem", sni_options={"mx.example.com": {"certificate": "mx.pem"}})  # here""",
    ),
    Mistake(
        "a resolver that takes nothing",
        """
def names() -> list[str]:
    return ["mx.example.com"]

SMTPServer(resolver=names)  # here""",
    ),
    Mistake(
        "the core's options for a server",
        """
SMTPServer(ProtocolOptions(size=1000))  # here""",
    ),
    Mistake(
        "options and their fields",
        """
SMTPServer(Options(), size=1000)""",
    ),
    Mistake(
        "an option of one listener that all share",
        """
with BlockingServer() as server:
    server.listen(0, "127.0.0.1", max_clients=5)  # here""",
    ),
    Mistake(
        "an option of one listener of another type",
        """
with BlockingServer() as server:
    server.listen(0, "127.0.0.1", secure="yes")  # here""",
    ),
)

GOOD: Final = (
    """
class Mine(Handler):
    async def on_connect(self, session: Session) -> Reject | None: ...
    async def on_auth(self, auth: Credentials, session: Session) -> bool:
        return auth.username == "me"
    async def on_mail_from(self, sender: Address, _: Session) -> Accept | Reject | None: ...
    async def on_rcpt_to(self, address: Address, session: Session) -> None: ...
    async def on_data(self, stream: AsyncStream, session: Session) -> str:
        return f"{len(await stream.read())} octets"
    async def on_command(self, verb: str, argument: str, session: Session) -> Accept | None: ...

SMTPServer(handler=Mine(), auth_methods=["PLAIN"], disabled_commands=("VRFY",), min_version="TLSv1.3")""",
    """
class Mine(PlainHandler):
    def on_rcpt_to(self, address: Address, session: Session) -> None: ...
    def on_data(self, stream: Stream, session: Session) -> list[Reject | None]:
        for chunk in stream:
            print(len(chunk))
        return [None for _ in session.envelope.rcpt_to]

SMTPServer(handler=Mine(), close_timeout=None)
BlockingServer(Options(handler=Mine(), ehlo_keywords=["XTHIS"]))""",
    """
async def on_data(stream: AsyncStream, session: Session) -> None:
    async for chunk in stream:
        print(len(chunk))

def on_rcpt_to(address: Address, session: Session) -> Reject | None:
    return None if address.domain == "example.com" else Reject()

async def names(ip: str) -> list[str]:
    return [ip]

server = SMTPServer(on_data=on_data, on_rcpt_to=on_rcpt_to, resolver=names)
server.on_rcpt_to = None
server.on_rcpt_to = on_rcpt_to""",
    """
async def main(how: ListenerFields) -> None:
    async with SMTPServer() as server:
        await server.listen(465, name="smtps", **how)
        await serve(server, 587, name="submission", needs_upgrade=True, auth_methods=["PLAIN"])
        port: int = server.port
        print(port, server.addresses[0], server.address("smtps"))""",
    """
class Mine(SMTPServer):
    async def on_data(self, stream: AsyncStream, session: Session) -> None: ...

def mine(**fields: Unpack[OptionFields]) -> SMTPServer:
    return Mine(**fields)

class Quota:
    def on_rcpt_to(self, address: Address, session: Session) -> None: ...

def failed(error: BaseException, info: Mapping[str, Any]) -> None: ...

mine(handler=chain(Quota(), Quota())).on("error", failed).once("close", lambda: print("closed"))
mine(size=1000, sni_options={"mx.example.com": {"max_version": "TLSv1.2"}})""",
)

_FROM: Final = {
    "Any": "typing import Any",
    "Mapping": "collections.abc import Mapping",
    "Accept": "smtpproto import Accept",
    "Address": "smtpproto import Address",
    "Credentials": "smtpproto import Credentials",
    "ProtocolOptions": "smtpproto import ProtocolOptions",
    "Reject": "smtpproto import Reject",
    "Session": "smtpproto import Session",
    "SMTPServer": "smtpproto_asyncio import SMTPServer",
    "BlockingServer": "smtpproto_blocking import SMTPServer as BlockingServer",
    "AsyncStream": "smtpproto_server import AsyncStream",
    "Handler": "smtpproto_server import Handler",
    "ListenerFields": "smtpproto_server.adapting import ListenerFields",
    "OptionFields": "smtpproto_server import OptionFields",
    "Options": "smtpproto_server import Options",
    "PlainHandler": "smtpproto_server import PlainHandler",
    "Stream": "smtpproto_server import Stream",
    "chain": "smtpproto_server import chain",
    "Unpack": "typing import Unpack",
    "serve": "smtpproto_asyncio import serve",
    "override": "typing_extensions import override",
}


def program(code: str) -> str:
    """The code with what it imports."""
    names = sorted(set(re.findall(r"\w+", code)) & set(_FROM))
    return "".join(f"from {_FROM[name]}\n" for name in names) + code + "\n"
