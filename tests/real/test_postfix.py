# A real Postfix that hands its mail to us: over SMTP with STARTTLS, and over LMTP.
#
# It has its configuration, queue and log in a directory of its own, takes mail from `sendmail` only,
# and listens nowhere. Nothing of the system is touched; with the test it is stopped and gone.

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from real.receiving import MESSAGE, PROGRAM_PATH, receiving, succeeds
from running import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from real.conftest import Trust

pytestmark = [
    pytest.mark.real("postfix", "sendmail"),
    pytest.mark.skipif(os.getuid() != 0 and not os.environ.get("CI"), reason="only root starts Postfix"),
]

PATIENCE: Final = 30.0  # seconds
SENDER: Final = "alice@example.com"
LOCAL: Final = MESSAGE.replace(b"\r\n", b"\n")  # as programs hand it to sendmail
LMTP: Final = "example.org"  # the domain whose mail goes out over LMTP; all other goes over SMTP

MAIN: Final = """\
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
maillog_file = {home}/log
maillog_file_prefixes = {home}
myhostname = relay.test
mydestination =
mynetworks_style = host
inet_interfaces = loopback-only
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
biff = no
message_size_limit = 100000000
smtputf8_enable = yes
smtp_dns_support_level = disabled
lmtp_dns_support_level = disabled
smtp_host_lookup = native
lmtp_host_lookup = native
transport_maps = inline:{{ {{ {lmtp_domain} = lmtp:inet:127.0.0.1:{lmtp_port} }} }}
default_transport = smtp:[127.0.0.1]:{smtp_port}
smtp_tls_security_level = encrypt
smtp_tls_CAfile = {authority}
smtp_tls_loglevel = 1
lmtp_destination_recipient_limit = 50
"""
MASTER: Final = """\
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
    """A Postfix that runs."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._config = home / "config"

    def submit(self, message: bytes, *recipients: str, options: tuple[str, ...] = ()) -> None:
        """Hand in a message as a program of that machine does."""
        succeeds(
            "sendmail", "-C", self._config, "-i", "-f", SENDER, *options, "--", *recipients, stdin=message
        )

    def log(self) -> str:
        path = self._home / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def drained(self) -> bool:
        """Nothing is queued any more."""
        folders = ("maildrop", "incoming", "active", "deferred")
        return not any(
            path.is_file() for folder in folders for path in (self._home / "queue" / folder).rglob("*")
        )

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


@contextlib.contextmanager
def postfix(trust: Trust, *, smtp_port: int, lmtp_port: int = 9) -> Generator[Postfix]:
    """A Postfix that sends everything to these ports."""
    # Not pytest's directory: that one only its owner may enter, and Postfix is several users.
    home = Path(tempfile.mkdtemp(prefix="smtpproto-postfix-"))
    home.chmod(0o755)
    config = home / "config"
    for folder in (config, home / "queue"):
        folder.mkdir(mode=0o755)
    (home / "data").mkdir(mode=0o700)
    shutil.chown(home / "data", "postfix")
    shutil.copy(trust.authority, home / "ca.pem")
    (config / "main.cf").write_text(
        MAIN.format(
            home=home, authority=home / "ca.pem", smtp_port=smtp_port, lmtp_port=lmtp_port, lmtp_domain=LMTP
        )
    )
    (config / "master.cf").write_text(MASTER)
    succeeds("postfix", "-c", config, "start")
    try:
        yield Postfix(home)
    finally:
        stop(config)
        shutil.rmtree(home)


def stop(config: Path) -> None:
    """Stop it; `postfix stop` returns when the master has ended."""
    subprocess.run(
        [shutil.which("postfix", path=PROGRAM_PATH) or "postfix", "-c", config, "stop"],
        check=True,
        capture_output=True,
        timeout=PATIENCE,
    )


def test_it_relays_twenty_mebibytes_with_starttls(trust: Trust) -> None:
    line = b"." + b"x" * 74 + b"\n"
    body = LOCAL + line * (20 * 1024 * 1024 // len(line) + 1)
    with (
        receiving(**trust.options, needs_upgrade=True) as server,
        postfix(trust, smtp_port=server.port) as relay,
    ):
        relay.submit(body, "bob@example.net")
        relay.wait_for(r"status=sent \(250 2\.6\.0 OK: message queued\)")
        relay.wait_until(relay.drained)
        message = server.only_message()
        assert message.content.endswith(body.replace(b"\n", b"\r\n"))
        assert (message.sender, message.recipients) == (SENDER, ["bob@example.net"])
        assert (message.transmission_type, message.hello) == ("ESMTPS", "relay.test")
        assert message.envelope.declared_size == len(message.content)
        assert f"Trusted TLS connection established to 127.0.0.1[127.0.0.1]:{server.port}" in relay.log()


def test_it_passes_requests_for_notification_on(trust: Trust) -> None:
    options = ("-V", "id+1", "-N", "success,failure", "-R", "hdrs")
    with receiving(**trust.options) as server, postfix(trust, smtp_port=server.port) as relay:
        relay.submit(LOCAL, "bob@example.net", options=options)
        relay.wait_until(relay.drained)
        envelope = server.only_message().envelope
        assert (envelope.dsn.ret, envelope.dsn.envid) == ("HDRS", "id+1")
        assert sorted(envelope.rcpt_to[0].dsn.notify or []) == ["FAILURE", "SUCCESS"]
        assert envelope.rcpt_to[0].dsn.orcpt == "rfc822;bob@example.net"


def test_it_relays_addresses_beyond_ascii(trust: Trust) -> None:
    letter = "From: jörg@example.com\nSubject: été\n\nça va\n".encode()
    with receiving(**trust.options) as server, postfix(trust, smtp_port=server.port) as relay:
        relay.submit(letter, "zoë@bücher.example", options=("-B", "8BITMIME"))
        relay.wait_until(relay.drained)
        message = server.only_message()
        assert message.recipients == ["zoë@bücher.example"]
        assert (message.envelope.smtp_utf8, message.envelope.body_type) == (True, "8bitmime")
        assert "\r\nSubject: été\r\n".encode() in message.content
        assert message.content.endswith("\r\n\r\nça va\r\n".encode())


def test_it_relays_many_messages_to_many_recipients(trust: Trust) -> None:
    people = [f"bob{number}@example.net" for number in range(40)]
    with receiving(**trust.options) as server, postfix(trust, smtp_port=server.port) as relay:
        for _ in range(10):
            relay.submit(LOCAL, *people)
        relay.wait_until(relay.drained)
        assert server.server.errors == []
        assert [sorted(each.recipients) for each in server.mailbox.messages] == [sorted(people)] * 10


@pytest.mark.parametrize(
    ("refused", "reply"),
    [
        ("nobody@example.org", r"550 5\.1\.1 No such user here \(in reply to RCPT TO command\)"),
        ("full@example.org", r"552 5\.2\.2 Mailbox full \(in reply to end of DATA command\)"),
    ],
)
def test_it_delivers_over_lmtp_and_bounces_who_was_refused(trust: Trust, refused: str, reply: str) -> None:
    taken = ["bob@example.org", "carol@example.org"]
    with (
        receiving(**trust.options) as bounces,
        receiving(lmtp=True) as server,
        postfix(trust, smtp_port=bounces.port, lmtp_port=server.port) as relay,
    ):
        relay.submit(LOCAL, taken[0], refused, taken[1])
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
        assert (bounce.sender, bounce.recipients) == ("", [SENDER])
        assert f"Final-Recipient: rfc822; {refused}\r\n".encode() in bounce.content
        assert not [each for each in taken if f"Final-Recipient: rfc822; {each}".encode() in bounce.content]
