# Session and envelope: values, and the one computed field.

from __future__ import annotations

from typing import Any

import pytest

from smtpproto import Envelope, MessageDsn, Session, TlsDetails
from smtpproto.testing import make_session


@pytest.mark.parametrize(
    ("lmtp", "opening", "secure", "user", "expected"),
    [
        (False, "", False, None, "SMTP"),
        (False, "HELO", True, "u", "SMTP"),
        (False, "EHLO", False, None, "ESMTP"),
        (False, "EHLO", True, None, "ESMTPS"),
        (False, "EHLO", False, "u", "ESMTPA"),
        (False, "EHLO", True, "u", "ESMTPSA"),
        (True, "", False, None, "LMTP"),
        (True, "LHLO", True, None, "LMTPS"),
        (True, "LHLO", False, "u", "LMTPA"),
        (True, "LHLO", True, "u", "LMTPSA"),
    ],
)
def test_the_transmission_type_follows_the_present_state(
    lmtp: bool, opening: str, secure: bool, user: Any, expected: str
) -> None:
    session = make_session(lmtp=lmtp, opening_command=opening, secure=secure, user=user)
    assert session.transmission_type == expected


def test_a_client_has_its_address_for_a_name_until_dns_says_more() -> None:
    assert Session(remote=("192.0.2.1", 1)).client_hostname == "[192.0.2.1]"
    assert Session().client_hostname == "[local]"


def test_the_application_may_set_attributes_of_its_own() -> None:
    session = Session("id", local=("192.0.2.2", 25), remote=("192.0.2.1", 1))
    session.score = 5  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue] - that is the point
    assert vars(session) == {"score": 5}
    assert (session.local_address, session.local_port, session.remote_port) == ("192.0.2.2", 25, 1)


def test_reprs_are_for_logs() -> None:
    assert repr(Session("abc", remote=("192.0.2.1", 1))) == "<Session abc 192.0.2.1 SMTP>"
    assert repr(Envelope()) == "<Envelope from None to []>"
    assert repr(MessageDsn("FULL", "x")) == "MessageDsn(ret='FULL', envid='x')"
    assert repr(TlsDetails(None, servername="mx")) == "TlsDetails(None, servername='mx')"
