# A real Postfix that hands its mail to us: over SMTP, over LMTP, and with word of its own client.
#
# One Postfix serves all tests of this file, each with servers of its own: the recipient's domain says
# which port a message goes to, and how. Its configuration, queue and log are in a directory of its own.
# Nothing of the system is touched; with the last test it is stopped and gone.

from __future__ import annotations

import contextlib
import os
import re
import shutil
import smtplib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from real.programs import free_port, program, succeeds
from real.receiving import MESSAGE, asyncio_only, receiving
from real.routing import Routing
from real.tapped import tapped
from smtpproto_kit import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from real.conftest import Trust
    from real.receiving import Receiving

pytestmark = [
    pytest.mark.real("postfix", "sendmail"),
    pytest.mark.skipif(os.getuid() != 0 and not os.environ.get("CI"), reason="only root starts Postfix"),
]

PATIENCE: Final = 30.0  # seconds
SENDER: Final = "alice@example.com"
LOCAL: Final = MESSAGE.replace(b"\r\n", b"\n")  # as programs hand it to sendmail

MAIN: Final = """\
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
maillog_file = {home}/log
maillog_file_prefixes = {home}
myhostname = relay.test
mydestination =
relay_domains = test
mynetworks_style = host
inet_interfaces = loopback-only
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
biff = no
message_size_limit = 100000000
smtputf8_enable = yes
smtpd_peername_lookup = no
local_header_rewrite_clients =
smtpd_authorized_xclient_hosts = 127.0.0.1
smtp_dns_support_level = disabled
lmtp_dns_support_level = disabled
smtp_host_lookup = native
lmtp_host_lookup = native
transport_maps = {transport}
default_transport = error:nobody but us
smtp_tls_security_level = encrypt
smtp_tls_CAfile = {home}/ca.pem
smtp_tls_loglevel = 1
lmtp_destination_recipient_limit = 50
"""
# smtp insists on STARTTLS; clear does not use it; filter tells whom it has the message from.
MASTER: Final = """\
127.0.0.1:{port} inet n - n - - smtpd
postlog   unix-dgram n - n - 1 postlogd
pickup    unix n - n 60 1 pickup
cleanup   unix n - n -  0 cleanup
qmgr      unix n - n 300 1 qmgr
rewrite   unix - - n -  - trivial-rewrite
bounce    unix - - n -  0 bounce
defer     unix - - n -  0 bounce
trace     unix - - n -  0 bounce
tlsmgr    unix - - n 1000? 1 tlsmgr
smtp      unix - - n -  - smtp
clear     unix - - n -  - smtp -o smtp_tls_security_level=none
filter    unix - - n -  - smtp -o smtp_tls_security_level=none -o smtp_send_xforward_command=yes
lmtp      unix - - n -  - lmtp
error     unix - - n -  - error
retry     unix - - n -  - error
discard   unix - - n -  - discard
anvil     unix - - n -  1 anvil
scache    unix - - n -  1 scache
proxymap  unix - - n -  - proxymap
showq     unix n - n -  - showq
flush     unix n - n 1000? 0 flush
"""


class Postfix:
    """A Postfix that runs, as one test sees it."""

    def __init__(self, home: Path, port: int) -> None:
        self.port: Final = port
        self._home: Final = home
        self._config: Final = home / "config"
        self._earlier: Final = len(self._whole_log())

    def submit(
        self, message: bytes, *recipients: str, sender: str = SENDER, options: tuple[str, ...] = ()
    ) -> None:
        """Hand in a message as a program of that machine does."""
        succeeds(
            "sendmail", "-C", self._config, "-i", "-f", sender, *options, "--", *recipients, stdin=message
        )

    def log(self) -> str:
        return self._whole_log()[self._earlier :]

    def _whole_log(self) -> str:
        path = self._home / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def drained(self) -> bool:
        """Nothing is queued any more."""
        folders = ("maildrop", "incoming", "active", "deferred")
        return not any(
            path.is_file() for folder in folders for path in (self._home / "queue" / folder).rglob("*")
        )

    def empty(self) -> None:
        """Leave nothing behind for the next test."""
        if not self.drained():
            succeeds("postsuper", "-c", self._config, "-d", "ALL")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait for something in the log."""
        self.wait_until(lambda: re.search(pattern, self.log()))
        found = re.search(pattern, self.log())
        assert found is not None
        return found

    def wait_until(self, true: Callable[[], object]) -> None:
        """Wait for something to come true; else tell what the log says."""
        try:
            wait_until(true, PATIENCE)
        except AssertionError as error:
            error.add_note(self.log())
            raise


@pytest.fixture(scope="module")
def installed(trust: Trust) -> Generator[tuple[Path, int]]:
    """The home of a Postfix that runs, and the port it listens on."""
    # Not pytest's directory: that one only its owner may enter, and Postfix is several users.
    home, port = Path(tempfile.mkdtemp(prefix="smtpproto-postfix-")), free_port()
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        home.chmod(0o755)
        config = home / "config"
        for folder in (config, home / "queue"):
            folder.mkdir(mode=0o755)
        (home / "data").mkdir(mode=0o700)
        shutil.chown(home / "data", "postfix")
        shutil.copy(trust.authority, home / "ca.pem")
        routing = stack.enter_context(Routing())
        (config / "main.cf").write_text(MAIN.format(home=home, transport=routing.table))
        (config / "master.cf").write_text(MASTER.format(port=port))
        stack.callback(program, "postfix", "-c", config, "stop")  # returns when the master has ended
        succeeds("postfix", "-c", config, "start")
        yield home, port


@pytest.fixture
def relay(installed: tuple[Path, int]) -> Generator[Postfix]:
    postfix = Postfix(*installed)
    yield postfix
    postfix.empty()


def at(server: Receiving, local: str, how: str = "smtp") -> str:
    """An address whose mail goes to this server."""
    return f"{local}@{server.port}.{how}.test"


def test_it_relays_twenty_mebibytes_with_starttls(runtime: str, relay: Postfix, trust: Trust) -> None:
    line = b"." + b"x" * 74 + b"\n"
    body = LOCAL + line * (20 * 1024 * 1024 // len(line) + 1)
    with receiving(runtime, **trust.options, needs_upgrade=True) as server:
        relay.submit(body, at(server, "bob"))
        relay.wait_for(r"status=sent \(250 2\.6\.0 OK: message queued\)")
        relay.wait_until(relay.drained)
        message = server.only_message()
        assert message.content.endswith(body.replace(b"\n", b"\r\n"))
        assert (message.sender, message.recipients) == (SENDER, [at(server, "bob")])
        assert (message.transmission_type, message.hello) == ("ESMTPS", "relay.test")
        assert message.envelope.declared_size == len(message.content)
        assert f"Trusted TLS connection established to 127.0.0.1[127.0.0.1]:{server.port}" in relay.log()


@pytest.mark.parametrize(
    ("asked", "notify"), [("success,failure", ["FAILURE", "SUCCESS"]), asyncio_only("never", ["NEVER"])]
)
def test_it_passes_requests_for_notification_on(
    runtime: str, relay: Postfix, trust: Trust, asked: str, notify: list[str]
) -> None:
    with receiving(runtime, **trust.options) as server:
        relay.submit(LOCAL, at(server, "bob"), options=("-V", "id+1", "-N", asked, "-R", "hdrs"))
        relay.wait_until(relay.drained)
        envelope = server.only_message().envelope
        assert (envelope.dsn.ret, envelope.dsn.envid) == ("HDRS", "id+1")
        assert sorted(envelope.rcpt_to[0].dsn.notify or []) == notify
        assert envelope.rcpt_to[0].dsn.orcpt == f"rfc822;{at(server, 'bob')}"


def test_it_relays_addresses_beyond_ascii(runtime: str, relay: Postfix, trust: Trust) -> None:
    letter = "From: jörg@example.com\nSubject: été\n\nça va\n".encode()
    with receiving(runtime, **trust.options) as server:
        recipient = f"zoë@bücher.{server.port}.smtp.test"
        relay.submit(letter, recipient, sender="jörg@example.com", options=("-B", "8BITMIME"))
        relay.wait_until(relay.drained)
        message = server.only_message()
        assert (message.sender, message.recipients) == ("jörg@example.com", [recipient])
        assert (message.envelope.smtp_utf8, message.envelope.body_type) == (True, "8bitmime")
        assert "\r\nSubject: été\r\n".encode() in message.content
        assert message.content.endswith("\r\n\r\nça va\r\n".encode())


def test_it_sends_commands_in_groups_and_is_answered_in_groups(runtime: str, relay: Postfix) -> None:
    with receiving(runtime) as server, tapped(server.port) as tap:
        people = [f"{name}@{tap.port}.clear.test" for name in ("bob", "nobody", "carol")]
        relay.submit(LOCAL, *people)
        relay.wait_until(lambda: server.mailbox.messages)
        group = next(turn for turn in tap.turns() if turn.client.startswith(b"MAIL "))
        verbs = [line.partition(b" ")[0] for line in group.client.splitlines()]
        assert verbs == [b"MAIL", b"RCPT", b"RCPT", b"RCPT", b"DATA"]
        codes = [line[:3] for line in group.server.splitlines()]
        assert (codes[0], sorted(codes[1:4]), codes[4]) == (b"250", [b"250", b"250", b"550"], b"354")
        # What is ready may go ahead of a hook that could take long, and so make one piece more; where
        # nobody can see whether a hook takes long, it goes ahead of each.
        assert group.answers <= (len(codes) if runtime == "blocking" else 2)
        assert sorted(server.only_message().recipients) == [people[0], people[2]]


def test_it_relays_many_messages_to_many_recipients(runtime: str, relay: Postfix, trust: Trust) -> None:
    with receiving(runtime, **trust.options) as server:
        people = [at(server, f"bob{number}") for number in range(40)]
        for _ in range(10):
            relay.submit(LOCAL, *people)
        relay.wait_until(relay.drained)
        assert server.server.errors == []
        assert [sorted(each.recipients) for each in server.mailbox.messages] == [sorted(people)] * 10


def test_it_tells_a_filter_whom_it_has_the_message_from(runtime: str, relay: Postfix) -> None:
    with receiving(runtime, use_xforward=["127.0.0.1"]) as server:
        with smtplib.SMTP("127.0.0.1", relay.port, "gateway.test", timeout=PATIENCE) as smtp:
            smtp.ehlo()
            # Postfix learns of a client far away as we would.
            smtp.docmd("XCLIENT", "NAME=far.example ADDR=192.0.2.7 PORT=1234 PROTO=ESMTP HELO=-")
            smtp.ehlo("hello.example")
            smtp.sendmail(SENDER, at(server, "bob", "filter"), MESSAGE)
        relay.wait_until(relay.drained)
        message = server.only_message()
        told = dict(message.xforward)
        assert re.fullmatch("[0-9A-Za-z]+", told.pop("IDENT") or "")  # the queue's name for it
        assert told == {
            "NAME": "far.example", "ADDR": "192.0.2.7", "PORT": "1234",
            "PROTO": "ESMTP", "HELO": "hello.example", "SOURCE": "REMOTE",
        }  # fmt: skip
        assert (message.client[0], message.hello) == ("127.0.0.1", "relay.test")


def test_it_tells_a_filter_nothing_that_may_not_know(runtime: str, relay: Postfix) -> None:
    with receiving(runtime, use_xforward=["192.0.2.1"]) as server:
        relay.submit(LOCAL, at(server, "bob", "filter"))
        relay.wait_until(relay.drained)
        assert server.only_message().xforward == {}


@pytest.mark.parametrize(
    ("refused", "reply"),
    [
        ("nobody", r"550 5\.1\.1 No such user here \(in reply to RCPT TO command\)"),
        ("full", r"552 5\.2\.2 Mailbox full \(in reply to end of DATA command\)"),
    ],
)
def test_it_delivers_over_lmtp_and_bounces_who_was_refused(
    runtime: str, relay: Postfix, trust: Trust, refused: str, reply: str
) -> None:
    # Bounces come to asyncio: a server that starts threads would be missed by the other one's count.
    with receiving("asyncio", **trust.options) as bounces, receiving(runtime, lmtp=True) as server:
        sender, refused = at(bounces, "alice"), at(server, refused, "lmtp")
        taken = [at(server, "bob", "lmtp"), at(server, "carol", "lmtp")]
        relay.submit(LOCAL, taken[0], refused, taken[1], sender=sender)
        relay.wait_until(lambda: bounces.mailbox.messages)
        relay.wait_until(relay.drained)
        message = server.only_message()
        assert [each for each in message.recipients if each != refused] == taken
        assert message.content.endswith(MESSAGE)
        assert message.transmission_type == "LMTP"
        for recipient in taken:
            relay.wait_for(
                rf"postfix/lmtp\S+ \w+: to=<{recipient}>.*status=sent \(250 2\.6\.0 OK: message acc"
            )
        relay.wait_for(rf"postfix/lmtp\S+ \w+: to=<{refused}>.*status=bounced .*{reply}")
        bounce = bounces.only_message()
        assert (bounce.sender, bounce.recipients) == ("", [sender])
        assert f"Final-Recipient: rfc822; {refused}\r\n".encode() in bounce.content
        assert not [each for each in taken if f"Final-Recipient: rfc822; {each}".encode() in bounce.content]
