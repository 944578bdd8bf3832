# A test of mail that Django sends: pytest's fixture `smtp_server` is a real server, for this test alone.
import smtplib
from collections.abc import Iterator

import pytest
from django.conf import settings
from django.core.mail import send_mail
from django.test import override_settings

from smtpproto_pytest import CapturingServer

if not settings.configured:  # a project has DJANGO_SETTINGS_MODULE
    settings.configure()

ORDER = ("Your order", "It is on its way.", "shop@example.com", ["ann@example.com"])


@pytest.fixture(autouse=True)
def mail_settings(smtp_server: CapturingServer) -> Iterator[None]:
    """Have mail sent, where Django's test runner would put it aside."""
    with override_settings(
        EMAIL_BACKEND="django.core.mail.backends.smtp.EmailBackend",
        EMAIL_HOST=smtp_server.host,
        EMAIL_PORT=smtp_server.port,
    ):
        yield


def test_an_order_is_confirmed(smtp_server: CapturingServer) -> None:
    """What arrives is what the customer gets."""
    assert send_mail(*ORDER) == 1
    message = smtp_server.wait_for_message()
    assert message.rcpt_to == ["ann@example.com"]
    assert message.email["Subject"] == "Your order"


def test_a_full_mailbox_is_told(smtp_server: CapturingServer) -> None:
    """No outbox can refuse a recipient; a server can."""
    smtp_server.script("RCPT", reply="452 4.2.2 mailbox full")
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send_mail(*ORDER)
    assert smtp_server.messages == []


@pytest.mark.smtp_server(tls="starttls", users={"shop": "secret"})
def test_an_order_is_confirmed_over_tls(
    smtp_server: CapturingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixture's certificate is trusted, and the login is checked."""
    monkeypatch.setenv("SSL_CERT_FILE", str(smtp_server.ca_file))
    with override_settings(EMAIL_USE_TLS=True, EMAIL_HOST_USER="shop", EMAIL_HOST_PASSWORD="secret"):
        assert send_mail(*ORDER) == 1
    assert smtp_server.wait_for_message().session.user == "shop"
