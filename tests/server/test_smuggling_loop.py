# Wrong ends of data on real sockets: a server on asyncio, over TCP and behind STARTTLS.
#
# Every cut of every wrong end is the core's test; here sockets and TLS records lie between, which may
# join pieces but never lose or move an octet. One connection sends all messages in turn, so one octet
# taken wrongly would also show in those behind it.

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

import pytest

from running import Client, running
from wrong_ends import BARE, SOUND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from smtpproto import Session

ENVELOPE: Final = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\n"
EVIL: Final = b"MAIL FROM:<evil@x.test>\r\nRCPT TO:<evil@y.test>\r\nDATA\r\nb"
REFUSED: Final = "550 5.6.0 Error: message contains bare newline characters"


class Store:
    """What a server took in: sender, recipients and octets of each message."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, list[str], bytes]] = []

    async def on_data(self, stream: Any, session: Session) -> None:
        envelope = session.envelope
        content = await stream.read()
        recipients = [str(address) for address in envelope.rcpt_to]
        self.messages.append((str(envelope.mail_from), recipients, content))


def pieces(wrong: bytes) -> Iterator[list[bytes]]:
    """A message with the wrong end in it: whole, and cut behind each octet of the first one."""
    said = b"a" + wrong + EVIL + wrong + b"QUIT\r\n\r\n.\r\n"
    yield [said]
    for at in range(1, len(wrong) + 1):
        yield [said[:at], said[at:]]


@pytest.mark.parametrize("mode", ["accept", "reject"])
@pytest.mark.parametrize("kind", ["smtp", "lmtp", "after STARTTLS"])
def test_no_wrong_end_brings_a_second_message_into_the_store(kind: str, mode: str) -> None:
    store, lmtp = Store(), kind == "lmtp"
    recipients = ["b@y.test", "c@y.test"] if lmtp else ["b@y.test"]
    queued = "250 2.6.0 OK: message accepted" if lmtp else "250 2.6.0 OK: message queued"
    with (
        running("asyncio", on_data=store.on_data, lmtp=lmtp, bare_newlines=mode) as server,
        opened(server.port, kind) as client,
    ):
        for wrong, kept in [*BARE, *SOUND]:
            refused = mode == "reject" and (wrong, kept) in BARE
            for cut in pieces(wrong):
                client.send(b"".join([ENVELOPE, b"RCPT TO:<c@y.test>\r\n" if lmtp else b"", b"DATA\r\n"]))
                assert [client.reply()[:3] for _ in range(2 + len(recipients))][-1] == "354"
                for piece in cut:
                    client.send(piece)
                assert [client.reply() for _ in recipients] == [REFUSED if refused else queued] * len(
                    recipients
                )
                content = b"a" + kept + EVIL + kept + b"QUIT\r\n\r\n"
                expected = [] if refused else [("a@x.test", recipients, content)]
                assert store.messages == expected, cut
                store.messages.clear()
        assert client.say("NOOP") == "250 2.0.0 OK"
    assert not server.errors


def opened(port: int, kind: str) -> Client:
    """A client that has said EHLO or LHLO and may begin a transaction."""
    client = Client(port)
    client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.reply()
    if kind == "after STARTTLS":
        assert client.say("STARTTLS").startswith("220 ")
        client.start_tls()
    assert client.say("LHLO c.test" if kind == "lmtp" else "EHLO c.test").startswith("250")
    return client
