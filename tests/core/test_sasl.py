# SASL mechanisms: each dialogue, right and wrong.

from __future__ import annotations

import hmac
import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproto import Challenge, Reject, Session
from smtpproto._sasl import (
    BUILT_IN_MECHANISMS,
    INVALID_USERDATA,
    MISSING_USERNAME,
    AuthRequest,
    CramMd5,
    CramMd5Credentials,
    Credentials,
    Login,
    LoginCredentials,
    Mechanism,
    Plain,
    PlainCredentials,
    XClientCredentials,
    XOAuth2,
    XOAuth2Credentials,
    built_in_mechanism,
    challenge_text,
    decode_base64,
)


def credentials(result: object) -> Any:
    assert isinstance(result, AuthRequest)
    return result.credentials


def test_plain_takes_three_parts() -> None:
    found = credentials(Plain().step(b"z\0u\0p"))
    assert isinstance(found, PlainCredentials)
    assert (found.method, found.authzid, found.authcid, found.password) == ("PLAIN", "z", "u", "p")
    assert found.username == "u"


def test_plain_without_authcid_names_the_authzid() -> None:
    assert credentials(Plain().step(b"z\0\0p")).username == "z"


def test_plain_without_initial_response_asks_with_an_empty_challenge() -> None:
    assert Plain().step(None) == Challenge(b"")


@pytest.mark.parametrize(
    "response",
    [
        b"", b"u\0p", b"\0u\0p\0x", b"\0\0p", b"\0\xff\0p", b"\0u\0\xff", b"\0u\r\0p", b"\0u\0p\n",
        b"\0u\x7f\0p", b"\0\xc2\x85\0p", b"\0" + b"u" * 256 + b"\0p", b"\0u\0" + b"p" * 256,
    ],
)  # fmt: skip
def test_plain_with_anything_else_is_invalid(response: bytes) -> None:
    assert Plain().step(response) is INVALID_USERDATA


def test_parts_of_plain_have_255_octets_at_most() -> None:
    assert credentials(Plain().step(b"\0" + b"u" * 255 + b"\0p")).username == "u" * 255


def test_login_asks_for_name_and_password() -> None:
    login = Login()
    assert login.step(None) == Challenge(b"Username:")
    assert login.step(b"u") == Challenge(b"Password:")
    found = credentials(login.step(b""))
    assert isinstance(found, LoginCredentials)
    assert (found.method, found.username, found.password) == ("LOGIN", "u", "")


def test_login_takes_the_name_as_initial_response() -> None:
    login = Login()
    assert login.step(b"u") == Challenge(b"Password:")
    assert credentials(login.step(b"p")).password == "p"


def test_login_needs_a_name() -> None:
    assert Login().step(b"") is MISSING_USERNAME


@pytest.mark.parametrize("response", [b"\xff", b"a\0b", b"a\r\n", b"x" * 256])
def test_login_refuses_bad_text(response: bytes) -> None:
    assert Login().step(response) is INVALID_USERDATA
    begun = Login()
    begun.step(b"u")
    assert begun.step(response) is INVALID_USERDATA


# RFC 2195 §2
CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"
RESPONSE = b"tim b913a602c7eda7a495b4e6e7334d3890"


def test_cram_md5_validates_as_its_rfc_shows() -> None:
    mechanism = CramMd5(CHALLENGE)
    assert mechanism.server_first
    assert mechanism.step(None) == Challenge(CHALLENGE)
    found = credentials(mechanism.step(RESPONSE))
    assert isinstance(found, CramMd5Credentials)
    assert (found.method, found.username, found.challenge) == ("CRAM-MD5", "tim", CHALLENGE.decode())
    assert found.challenge_response == "b913a602c7eda7a495b4e6e7334d3890"
    assert found.validate_password("tanstaaftanstaaf")
    assert not found.validate_password("tanstaaf")


def test_cram_md5_splits_at_the_last_blank_and_lowers_the_digest() -> None:
    found = credentials(CramMd5(CHALLENGE).step(b"tim o b913A602C7EDA7A495B4E6E7334D3890"))
    assert (found.username, found.challenge_response) == ("tim o", "b913a602c7eda7a495b4e6e7334d3890")


@pytest.mark.parametrize(
    "response",
    [
        b"", b"tim", b"tim ", b" " + b"a" * 32, b"tim " + b"a" * 31, b"tim " + b"g" * 32,
        b"\xff " + b"a" * 32, b"tim  " + b"a" * 33,
    ],
)  # fmt: skip
def test_cram_md5_refuses_what_is_no_name_and_digest(response: bytes) -> None:
    assert CramMd5(CHALLENGE).step(response) is INVALID_USERDATA


def test_a_challenge_has_random_time_and_name_and_is_new_for_every_attempt() -> None:
    entropy = bytes(range(16))
    first = challenge_text(entropy, 1, 1700000000, "mx.test")
    expected = int.from_bytes(hmac.digest(entropy, (1).to_bytes(8, "big"), "sha256")[:16], "big")
    assert first == f"<{expected}.1700000000@mx.test>".encode()
    assert challenge_text(entropy, 2, 1700000000, "mx.test") != first
    assert challenge_text(bytes(16), 1, 1700000000, "mx.test") != first
    assert challenge_text(entropy, 1, 1700000000, "mx.test") == first


def test_xoauth2_takes_user_and_token() -> None:
    assert XOAuth2().step(None) == Challenge(b"")
    found = credentials(XOAuth2().step(b"user=u@x.test\1auth=Bearer t0ken\1\1"))
    assert isinstance(found, XOAuth2Credentials)
    assert (found.method, found.username, found.access_token) == ("XOAUTH2", "u@x.test", "t0ken")


@pytest.mark.parametrize(
    "response",
    [
        b"", b"user=u\1\1", b"auth=Bearer t\1\1", b"user=\1auth=Bearer t\1\1", b"user=u\1auth=Bearer \1\1",
        b"user=u\1auth=Basic t\1\1", b"user=\xff\1auth=Bearer t\1\1", b"user=u\1auth=Bearer \xff\1\1",
    ],
)  # fmt: skip
def test_xoauth2_needs_both(response: bytes) -> None:
    assert XOAuth2().step(response) is INVALID_USERDATA


@pytest.mark.parametrize(
    ("refusal", "details"),
    [
        (None, {}),
        (Reject(), {}),
        (Reject(535), {}),
        (Reject(enhanced="5.7.9"), {}),
        (Reject(challenge={"status": "401"}), {"status": "401"}),
    ],
)
def test_xoauth2_tells_details_before_it_refuses(refusal: Reject | None, details: dict[str, str]) -> None:
    challenge = XOAuth2().refused(refusal)
    assert challenge is not None
    assert json.loads(challenge.data) == details


def test_other_refusals_need_no_further_challenge() -> None:
    assert XOAuth2().refused(Reject(454)) is None
    assert XOAuth2().refused(Reject(550)) is None
    assert XOAuth2().refused(Reject(enhanced="4.7.0")) is None  # a 451
    assert Plain().refused(Reject()) is None


def test_built_in_mechanisms_are_made_by_name() -> None:
    assert BUILT_IN_MECHANISMS == ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2")
    made = [type(built_in_mechanism(name, challenge=b"<c>")) for name in BUILT_IN_MECHANISMS]
    assert made == [Plain, Login, CramMd5, XOAuth2]


def test_a_mechanism_without_step_is_none() -> None:
    with pytest.raises(NotImplementedError):
        Mechanism().step(None)


@pytest.mark.parametrize(
    ("text", "initial", "octets"),
    [
        ("AHUAcA==", True, b"\0u\0p"),
        ("=", True, b""),
        ("=", False, None),
        ("", False, b""),
        ("AHUAcB==", False, None),  # pad bits that are not zero
        ("AHUAcA=", False, None),
        ("AHUAcA", False, None),
        ("AHUAcA===", False, None),
        ("AHU AcA==", False, None),
        ("AHUA\ncA==", False, None),
        ("!!!!", False, None),
        ("AHU-cA==", False, None),
        ("é", False, None),
        ("====", False, None),
    ],
)
def test_only_canonical_base64_is_read(text: str, initial: bool, octets: bytes | None) -> None:
    assert decode_base64(text, initial=initial) == octets


@given(st.binary(max_size=100))
def test_base64_that_was_written_is_read(octets: bytes) -> None:
    assert decode_base64(b64encode(octets).decode(), initial=False) == octets


@given(st.text(max_size=30))
def test_base64_never_raises_and_is_canonical(text: str) -> None:
    octets = decode_base64(text, initial=False)
    assert octets is None or b64encode(octets).decode() == text


@pytest.mark.parametrize(
    "found",
    [
        PlainCredentials("z", "u", "S3CRET"),
        LoginCredentials("u", "S3CRET"),
        CramMd5Credentials("u", "<c>", "S3CRET"),
        XOAuth2Credentials("u", "S3CRET"),
        XClientCredentials("u"),
    ],
)
def test_secrets_are_not_in_a_repr(found: Credentials) -> None:
    assert "S3CRET" not in repr(found) + repr(AuthRequest(found)) + str(found)
    assert "***" in repr(found)


@pytest.mark.parametrize("auth", [
    PlainCredentials("", "ann", "pässword"), LoginCredentials("ann", "pässword"),
    CramMd5Credentials("ann", "<1.2@x>", hmac.new("pässword".encode(), b"<1.2@x>", "md5").hexdigest()),
])  # fmt: skip
def test_a_password_is_checked_in_the_same_way_for_each_mechanism_that_has_one(auth: Credentials) -> None:
    assert auth.validate_password("pässword")
    assert not auth.validate_password("password")
    assert not auth.validate_password("")
    assert not auth.validate_password(None)


@pytest.mark.parametrize("auth", [XOAuth2Credentials("ann", "token"), XClientCredentials("ann")])
def test_credentials_without_a_password_know_none(auth: Credentials) -> None:
    assert auth.password is None
    assert not auth.validate_password("token")
    assert not auth.validate_password("")
    assert not auth.validate_password(None)


def test_xclient_credentials_have_no_password() -> None:
    found = XClientCredentials("u")
    assert (found.method, found.username, found.password, found.response) == ("XCLIENT", "u", None, None)


def test_a_session_may_be_seen_by_a_factory() -> None:
    def factory(session: Session) -> Mechanism:
        return CramMd5(f"<{session.id}>".encode())

    assert factory(Session("abc")).step(None) == Challenge(b"<abc>")
