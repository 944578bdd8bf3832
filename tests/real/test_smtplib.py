# Python's own client, in every way it can be used.

from __future__ import annotations

import smtplib
from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest

from real.receiving import MESSAGE, PASSWORD, USER, receiving

if TYPE_CHECKING:
    from real.conftest import Trust
    from real.receiving import Receiving

PATIENCE = 10.0  # seconds
BOB = ["bob@example.org"]


def client(server: Receiving) -> smtplib.SMTP:
    return smtplib.SMTP("localhost", server.port, "client.test", timeout=PATIENCE)


def test_it_delivers_in_the_clear(runtime: str) -> None:
    with receiving(runtime) as server:
        with client(server) as smtp:
            assert smtp.sendmail("alice@example.com", BOB, MESSAGE) == {}
        message = server.only_message()
        assert (message.sender, message.recipients, message.content) == ("alice@example.com", BOB, MESSAGE)
        assert (message.transmission_type, message.hello, message.tls) == ("ESMTP", "client.test", None)
        assert message.envelope.declared_size == len(MESSAGE)


def test_it_delivers_many_messages_on_one_connection(runtime: str) -> None:
    with receiving(runtime) as server:
        with client(server) as smtp:
            for number in range(20):
                smtp.sendmail("a@example.com", BOB, b"Subject: %d\r\n\r\n" % number + MESSAGE * number)
        contents = [message.content for message in server.mailbox.messages]
        assert contents == [b"Subject: %d\r\n\r\n" % number + MESSAGE * number for number in range(20)]


def test_it_hears_who_was_refused(runtime: str) -> None:
    with receiving(runtime) as server:
        with client(server) as smtp:
            refused = smtp.sendmail("a@example.com", [*BOB, "nobody@example.org"], MESSAGE)
        assert refused == {"nobody@example.org": (550, b"5.1.1 No such user here")}
        assert server.only_message().recipients == BOB


def test_it_upgrades_with_starttls(runtime: str, trust: Trust) -> None:
    with receiving(runtime, **trust.options, needs_upgrade=True) as server:
        with client(server) as smtp:
            with pytest.raises(smtplib.SMTPSenderRefused, match="STARTTLS"):
                smtp.sendmail("a@example.com", BOB, MESSAGE)
            assert smtp.starttls(context=trust.context)[0] == 220
            smtp.sendmail("a@example.com", BOB, MESSAGE)
            assert not smtp.has_extn("starttls")
        message = server.only_message()
        assert (message.content, message.transmission_type, message.tls) == (MESSAGE, "ESMTPS", "TLSv1.3")


def test_it_speaks_tls_from_the_first_octet(runtime: str, trust: Trust) -> None:
    with receiving(runtime, **trust.options, secure=True) as server:
        with smtplib.SMTP_SSL("localhost", server.port, context=trust.context, timeout=PATIENCE) as smtp:
            smtp.sendmail("a@example.com", BOB, MESSAGE)
        message = server.only_message()
        assert (message.content, message.transmission_type) == (MESSAGE, "ESMTPS")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_it_logs_in(runtime: str, trust: Trust, mechanism: str) -> None:
    # smtplib chooses for itself, so it is offered no other.
    with receiving(runtime, **trust.options, auth_methods=[mechanism], auth_optional=False) as server:
        with client(server) as smtp:
            smtp.starttls(context=trust.context)
            assert smtp.login(USER, PASSWORD)[0] == 235
            smtp.sendmail("a@example.com", BOB, MESSAGE)
        message = server.only_message()
        assert (message.user, message.transmission_type) == (USER, "ESMTPSA")
        assert server.mailbox.attempts == [mechanism]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_it_is_not_let_in_with_a_wrong_password(runtime: str, trust: Trust, mechanism: str) -> None:
    with receiving(runtime, **trust.options, auth_methods=[mechanism], auth_optional=False) as server:
        with client(server) as smtp:
            smtp.starttls(context=trust.context)
            with pytest.raises(smtplib.SMTPAuthenticationError, match=r"535.*5\.7\.8"):
                smtp.login(USER, "guess")
            with pytest.raises(smtplib.SMTPSenderRefused, match="530"):
                smtp.sendmail("a@example.com", BOB, MESSAGE)
        assert server.mailbox.messages == []


def test_it_sends_to_addresses_beyond_ascii(runtime: str) -> None:
    letter = EmailMessage()
    letter["From"], letter["To"], letter["Subject"] = "jörg@bücher.example", "zoë@example.org", "été"
    letter.set_content("ça va\n.\n")
    with receiving(runtime) as server:
        with client(server) as smtp:
            smtp.send_message(letter)
        message = server.only_message()
        assert (message.sender, message.recipients) == ("jörg@bücher.example", ["zoë@example.org"])
        assert (message.envelope.smtp_utf8, message.envelope.body_type) == (True, "8bitmime")
        assert "Subject: été\r\n".encode() in message.content
        assert message.content.endswith("\r\n\r\nça va\r\n.\r\n".encode())


def test_it_hears_of_each_recipient_over_lmtp(runtime: str) -> None:
    with receiving(runtime, lmtp=True) as server:
        with smtplib.LMTP("127.0.0.1", server.port, "client.test", timeout=PATIENCE) as lmtp:
            assert lmtp.ehlo()[0] == 250
            assert lmtp.mail("a@example.com")[0] == 250
            for local, code in [("bob", 250), ("nobody", 550), ("full", 250)]:
                assert lmtp.rcpt(f"{local}@example.org")[0] == code
            assert lmtp.data(MESSAGE) == (250, b"2.6.0 OK: message accepted")
            assert lmtp.getreply() == (552, b"5.2.2 Mailbox full")
            assert lmtp.noop()[0] == 250
        message = server.only_message()
        assert (message.recipients, message.content) == (["bob@example.org", "full@example.org"], MESSAGE)
        assert message.transmission_type == "LMTP"


def test_it_delivers_twenty_mebibytes(runtime: str, trust: Trust) -> None:
    content = MESSAGE + (b"." * 76 + b"\r\n") * (20 * 1024 * 1024 // 78)
    with receiving(runtime, **trust.options) as server:
        with client(server) as smtp:
            smtp.starttls(context=trust.context)
            smtp.sendmail("a@example.com", BOB, content)
        assert server.only_message().content == content


def test_it_hears_that_a_message_is_too_large(runtime: str) -> None:
    with receiving(runtime, size=1000) as server:
        with client(server) as smtp:
            with pytest.raises(smtplib.SMTPSenderRefused, match=r"552.*5\.3\.4"):
                smtp.sendmail("a@example.com", BOB, MESSAGE * 10)
            smtp.esmtp_features.pop("size")
            with pytest.raises(smtplib.SMTPDataError, match=r"552.*5\.3\.4"):
                smtp.sendmail("a@example.com", BOB, MESSAGE * 10)
            smtp.sendmail("a@example.com", BOB, MESSAGE)
        assert server.mailbox.messages[-1].content == MESSAGE
