# AUTH: how an exchange begins, goes on and ends, and what each end is held to be.

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any

import pytest

from smtpproto import (
    ACCEPT,
    Accept,
    AuthRequested,
    Challenge,
    Connection,
    CramMd5Credentials,
    LocalProtocolError,
    LoginCredentials,
    PlainCredentials,
    ProtocolOptions,
    Reject,
    State,
    XOAuth2Credentials,
)
from smtpproto.extending import AuthRequest, Mechanism
from smtpproto.testing import ENTROPY, Outcome, converse, drive, settle

if TYPE_CHECKING:
    from smtpproto import Session
    from smtpproto._sasl import Result

EHLO = "EHLO c.test"
MAIL = "MAIL FROM:<a@x.test>"
OK = "235 2.7.0 Authentication successful"
INVALID = "535 5.7.8 Error: Authentication credentials invalid"
BAD_BASE64 = "501 5.5.2 Error: invalid base64"
BAD_USERDATA = "501 5.5.2 Error: invalid userdata"
TOO_MANY = "421 4.7.0 Error: too many failed authentication attempts"
ALL = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2")


def b64(data: bytes) -> str:
    return b64encode(data).decode()


PLAIN = "AUTH PLAIN " + b64(b"\0u\0p")


def login(*said: str | bytes | None, **how: Any) -> Outcome:
    """A conversation behind EHLO, logins in the clear being allowed."""
    how.setdefault("allow_insecure_auth", True)
    how.setdefault("auth_methods", ALL)
    return converse(EHLO, *said, **how)


def said_to(*said: str | bytes | None, **how: Any) -> list[str]:
    """The replies behind that to EHLO."""
    return login(*said, **how).replies[2:]


# --- before an exchange (§7.1) ------------------------------------------------------------------

REFUSED: list[tuple[list[str], str, dict[str, Any], str]] = [
    (["HELO c.test"], "AUTH FOO", {}, "503 5.5.1 Error: send EHLO first"),
    ([PLAIN], "AUTH FOO", {}, "503 5.5.1 Error: No identity changes permitted"),
    ([MAIL], "AUTH FOO", {}, "503 5.5.1 Error: Mail transaction in progress"),
    ([], "AUTH", {"allow_insecure_auth": False}, "501 5.5.4 Error: syntax: AUTH mechanism"),
    ([], "AUTH FOO", {"allow_insecure_auth": False}, "504 5.5.4 Error: Unrecognized authentication type"),
    ([], "AUTH LOGIN", {"auth_methods": ["PLAIN"]}, "504 5.5.4 Error: Unrecognized authentication type"),
    ([], "AUTH PLAIN\tAHUAcA==", {}, "504 5.5.4 Error: Unrecognized authentication type"),
    ([], "AUTH PLAI\u0274", {}, "504 5.5.4 Error: Unrecognized authentication type"),
    ([], "AUTH PLAIN A B", {"allow_insecure_auth": False},
     "538 5.7.11 Error: Must issue a STARTTLS command first"),
    ([], "AUTH PLAIN A B", {}, "501 5.5.4 Error: syntax: AUTH <mechanism>[ token]"),
    ([], "AUTH cram-md5 AAAA", {}, "501 5.7.0 Error: syntax: AUTH CRAM-MD5"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "line", "options", "reply"), REFUSED)
def test_an_auth_that_does_not_begin(
    before: list[str], line: str, options: dict[str, Any], reply: str
) -> None:
    outcome = login(*before, line, "NOOP", **options)
    assert outcome.replies[-2:] == [reply, "250 2.0.0 OK"]
    assert outcome.connection.failed_logins == 0


@pytest.mark.parametrize("before", [[MAIL, "RSET"], [EHLO]])
def test_where_no_transaction_is_open_auth_is_served(before: list[str]) -> None:
    assert said_to(*before, PLAIN)[-1] == OK


@pytest.mark.parametrize("line", ["auth plain AHUAcA==", "AUTH   Plain   AHUAcA== ", "AUTH PLAIN AHUAcA==\t"])
def test_the_mechanism_is_read_in_any_case_and_behind_any_blanks(line: str) -> None:
    assert said_to(line) == [OK]


@pytest.mark.parametrize(
    "options", [{"tls_upstream": True}, {"hide_starttls": True, "allow_insecure_auth": True}]
)
def test_tls_or_the_option_lets_auth_in(options: dict[str, Any]) -> None:
    assert login(PLAIN, **{"allow_insecure_auth": False, **options}).session.user == "u"


def test_without_tls_auth_is_refused_whatever_the_state_of_starttls() -> None:
    for options in ({}, {"hide_starttls": True}, {"disabled_commands": ["STARTTLS"]}):
        assert said_to(PLAIN, allow_insecure_auth=False, **options)[-1][:10] == "538 5.7.11"
    assert said_to("STARTTLS", None, EHLO, PLAIN, allow_insecure_auth=False)[-1] == OK


@pytest.mark.parametrize("options", [{"auth_methods": ()}, {"disabled_commands": ["auth"]}])
def test_without_methods_auth_does_not_exist(options: dict[str, Any]) -> None:
    assert said_to(PLAIN, **options) == ["500 5.5.2 Error: command not recognized"]


# --- dialogues ----------------------------------------------------------------------------------


def test_plain() -> None:
    for lines in ([PLAIN], ["AUTH PLAIN", PLAIN[11:]]):
        outcome = login(*lines)
        assert outcome.replies[2:] == ["334 "] * (len(lines) - 1) + [OK]
        (event,) = outcome.of(AuthRequested)
        assert isinstance(event.auth, PlainCredentials)
        assert (event.auth.method, event.auth.username, event.auth.password) == ("PLAIN", "u", "p")
        assert event.session is outcome.session


def test_plain_passes_both_names_on() -> None:
    (event,) = login("AUTH PLAIN " + b64(b"boss\0clerk\0p")).of(AuthRequested)
    assert (event.auth.authzid, event.auth.authcid, event.auth.username) == ("boss", "clerk", "clerk")


def test_login() -> None:
    for lines in (["AUTH LOGIN", b64(b"u")], ["AUTH LOGIN " + b64(b"u")]):
        outcome = login(*lines, b64(b"p"))
        assert outcome.replies[2:] == ["334 VXNlcm5hbWU6"] * (len(lines) - 1) + ["334 UGFzc3dvcmQ6", OK]
        (event,) = outcome.of(AuthRequested)
        assert isinstance(event.auth, LoginCredentials)
        assert (event.auth.method, event.auth.username, event.auth.password) == ("LOGIN", "u", "p")


def test_an_empty_password_may_be_said_and_an_empty_name_not() -> None:
    assert said_to("AUTH LOGIN", b64(b"u"), "")[-1] == OK
    assert said_to("AUTH LOGIN", "")[-1] == "501 5.5.2 Error: missing username"
    assert said_to("AUTH LOGIN =")[-1] == "501 5.5.2 Error: missing username"


def test_cram_md5() -> None:
    def respond(event: AuthRequested) -> Accept:
        assert isinstance(event.auth, CramMd5Credentials)
        assert event.auth.challenge.endswith(".1234567@mx.test>")
        return ACCEPT if event.auth.challenge_response == "ab" * 16 else Accept()

    how: dict[str, Any] = {"answers": {AuthRequested: respond}, "made_with": {"started": 1234567}}
    replies = said_to("AUTH CRAM-MD5", b64(b"a b " + b"Ab" * 16), **how)
    assert replies[1] == OK
    assert said_to("AUTH CRAM-MD5", b64(b"nobody"))[1] == BAD_USERDATA


def test_every_challenge_is_new() -> None:
    replies = said_to(*["AUTH CRAM-MD5", "*"] * 2, "RSET", "AUTH CRAM-MD5", "*", max_auth_attempts=None)
    challenges = {b64decode(reply[4:]) for reply in replies if reply.startswith("334")}
    assert len(challenges) == 3
    other = said_to("AUTH CRAM-MD5", made_with={"entropy": ENTROPY + b"x"})
    assert b64decode(other[0][4:]) not in challenges


def test_xoauth2() -> None:
    outcome = login("AUTH XOAUTH2 " + b64(b"user=u\1auth=Bearer t\1\1"))
    assert outcome.replies[2:] == [OK]
    (event,) = outcome.of(AuthRequested)
    assert isinstance(event.auth, XOAuth2Credentials)
    assert (event.auth.username, event.auth.access_token) == ("u", "t")


@pytest.mark.parametrize("line", ["*", "* ", "*\t"])
def test_an_exchange_can_be_cancelled(line: str) -> None:
    outcome = login("AUTH LOGIN", b64(b"u"), line, "NOOP")
    assert outcome.replies[4:] == ["501 5.7.0 Authentication aborted", "250 2.0.0 OK"]
    assert outcome.connection.failed_logins == 1


@pytest.mark.parametrize("text", ["A", "AAA", "AA=A", "A===", "!!!!", "AHUAcA", "AHUAcB==", "é", "**"])
def test_what_is_not_canonical_base64_ends_the_exchange(text: str) -> None:
    for lines in (["AUTH PLAIN", text], [f"AUTH PLAIN {text}"], ["AUTH LOGIN", text], ["AUTH LOGIN " + text]):
        outcome = login(*lines, "NOOP")
        assert outcome.replies[-2:] == [BAD_BASE64, "250 2.0.0 OK"]
        assert outcome.connection.failed_logins == 1


def test_an_equals_sign_is_empty_as_initial_response_only() -> None:
    assert said_to("AUTH PLAIN =") == [BAD_USERDATA]
    assert said_to("AUTH PLAIN", "=") == ["334 ", BAD_BASE64]
    assert said_to("AUTH PLAIN", "") == ["334 ", BAD_USERDATA]


def test_lines_of_an_exchange_are_no_commands() -> None:
    outcome = login("AUTH LOGIN", "QUIT", "AUTH LOGIN", "NOOP x")
    assert outcome.replies[3:] == [BAD_USERDATA, "334 VXNlcm5hbWU6", BAD_BASE64]
    assert not outcome.closed


@pytest.mark.parametrize("line", ["*", b64(b"\0u\0p")])
def test_behind_an_exchange_lines_are_as_short_as_before(line: str) -> None:
    replies = said_to("AUTH PLAIN", line, b"NOOP " + b"x" * 512 + b"\r\n", max_line_length=512)
    assert replies[2:] == ["500 5.5.2 Error: Line too long"]


# --- what comes of it (§7.2) --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decision", "reply", "user"),
    [
        (Accept(user="me"), OK, "me"),
        (Accept(user=7, text="Welcome"), "235 2.7.0 Welcome", 7),
        (Accept(235, "2.7.1", "Hi", user="me"), "235 2.7.1 Hi", "me"),
        (Accept(), INVALID, None),
        (Accept(user=""), INVALID, None),
        (Accept(user=False), INVALID, None),
        (Reject(), INVALID, None),
        (Reject(text="no"), "535 5.7.8 no", None),
        (Reject(534, "5.7.9", "weak"), "534 5.7.9 weak", None),
        (Reject(454), "454 4.7.0 Temporary failure", None),
        (Reject(432, "4.7.12"), "432 4.7.12 Temporary failure", None),
    ],
)
def test_the_application_judges(decision: Accept | Reject, reply: str, user: object) -> None:
    outcome = login(PLAIN, "NOOP", answers={AuthRequested: decision})
    assert outcome.replies[2:] == [reply, "250 2.0.0 OK"]
    assert outcome.session.user == user
    assert outcome.connection.failed_logins == (reply[0] == "5")


def test_a_421_closes() -> None:
    outcome = login(PLAIN, "NOOP", answers={AuthRequested: Reject(421, text="away")})
    assert outcome.replies[2:] == ["421 4.3.2 away"]
    assert outcome.closed == "refused with 421"


def test_whatever_the_outcome_the_session_is_as_before() -> None:
    before = login().session
    for lines in (["AUTH PLAIN", "*"], ["AUTH PLAIN A"], [PLAIN]):
        after = login(*lines, answers={AuthRequested: Reject()}).session
        assert (after.user, after.opening_command, after.host_name_appears_as) == (None, "EHLO", "c.test")
        assert after.transmission_type == before.transmission_type == "ESMTP"
    assert login(PLAIN).session.transmission_type == "ESMTPA"


# --- XOAUTH2's failure --------------------------------------------------------------------------

TOKEN = "AUTH XOAUTH2 " + b64(b"user=u\1auth=Bearer t\1\1")
NOT_ACCEPTED = "535 5.7.8 Error: Username and Password not accepted"


@pytest.mark.parametrize(
    ("decision", "details", "reply"),
    [
        (Accept(), b"{}", NOT_ACCEPTED),
        (Reject(), b"{}", INVALID),
        (Reject(text="no", challenge={"status": "401"}), b'{"status": "401"}', "535 5.7.8 no"),
        (Reject(535, "5.7.9", "no"), b"{}", "535 5.7.9 no"),
    ],
)
@pytest.mark.parametrize("line", ["", "*", "é", "NOOP"])
def test_the_details_come_before_the_refusal(decision: Reject, details: bytes, reply: str, line: str) -> None:
    outcome = login(TOKEN, line, "NOOP", answers={AuthRequested: decision})
    assert b64decode(outcome.replies[2][4:]) == details
    assert outcome.replies[3:] == [reply, "250 2.0.0 OK"]
    assert outcome.connection.failed_logins == 1


@pytest.mark.parametrize(
    ("decision", "reply"),
    [
        (Reject(454, text="later"), "454 4.7.0 later"),
        (Reject(534, "5.7.9", "no", challenge={"a": 1}), "534 5.7.9 no"),
    ],
)
def test_another_code_is_sent_at_once(decision: Reject, reply: str) -> None:
    assert said_to(TOKEN, "NOOP", answers={AuthRequested: decision}) == [reply, "250 2.0.0 OK"]


def test_a_last_line_may_still_be_too_many() -> None:
    assert said_to(TOKEN, "", answers={AuthRequested: Reject()}, max_auth_attempts=1)[1:] == [TOO_MANY]


# --- the application asks once more -------------------------------------------------------------


def test_the_application_may_ask_one_thing_more() -> None:
    def ask(event: AuthRequested) -> Accept | Challenge:
        if event.auth.response is None:
            return Challenge(b"Code:")
        return Accept(user="u") if event.auth.response == b"123" else Challenge(b"Again:")

    how: dict[str, Any] = {"answers": {AuthRequested: ask}}
    asked = "334 " + b64(b"Code:")
    again = "334 " + b64(b"Again:")
    assert said_to(PLAIN, b64(b"1"), b64(b"123"), **how) == [asked, again, OK]
    assert said_to(PLAIN, "*", **how) == [asked, "501 5.7.0 Authentication aborted"]
    assert said_to(PLAIN, "!", **how) == [asked, BAD_BASE64]
    assert said_to(PLAIN, "GET / HTTP/1.1", **how)[1][:9] == "421 4.7.0"


# --- counting (§7.3) ----------------------------------------------------------------------------

BEGUN = [
    ["AUTH PLAIN", "*"], ["AUTH PLAIN A"], ["AUTH LOGIN ="], ["AUTH CRAM-MD5", "AAAA"], [PLAIN],
    ["AUTH LOGIN", b"\0\r\n"],
]  # fmt: skip


@pytest.mark.parametrize("lines", BEGUN)
def test_the_third_failed_exchange_is_the_last(lines: list[str | bytes]) -> None:
    outcome = login(*lines * 3, "NOOP", answers={AuthRequested: Reject()})
    assert outcome.replies[-1] == TOO_MANY
    assert outcome.closed == "too many failed authentication attempts"
    assert login(*lines * 2, "NOOP", answers={AuthRequested: Reject()}).closed is None
    assert login(*lines * 5, answers={AuthRequested: Reject()}, max_auth_attempts=None).closed is None


@pytest.mark.parametrize("between", ["RSET", EHLO, "STARTTLS", "XCLIENT NAME=c.test"])
def test_failures_are_not_forgotten(between: str) -> None:
    outcome = login(
        "AUTH PLAIN A", between, None, EHLO, "AUTH PLAIN A", max_auth_attempts=2, use_xclient=True
    )
    assert outcome.replies[-1] == TOO_MANY


def test_temporary_failures_are_not_held_against_the_client() -> None:
    outcome = login(*[PLAIN] * 8, answers={AuthRequested: Reject(454)})
    assert outcome.connection.failed_logins == 0
    assert not outcome.closed


@pytest.mark.parametrize(
    ("before", "line", "options", "reply"), [row for row in REFUSED if row[0] not in ([PLAIN], [MAIL])]
)
def test_a_refused_auth_is_one_more_command_without_a_login(
    before: list[str], line: str, options: dict[str, Any], reply: str
) -> None:
    how: dict[str, Any] = {"auth_optional": False, **options}
    core = login(*before, line, **how).connection
    assert core.unauthenticated == 2 + len(before)  # EHLO is the first
    limit = 3 + len(before)
    replies = said_to(*before, line, line, max_allowed_unauthenticated_commands=limit, **how)
    assert replies[-2:] == [reply, "421 4.7.0 Error: too many unauthenticated commands"]


@pytest.mark.parametrize(
    "options", [{"needs_upgrade": True}, {"needs_upgrade": True, "allow_insecure_auth": False}]
)
def test_an_auth_before_its_time_counts_too(options: dict[str, Any]) -> None:
    assert login(PLAIN, auth_optional=False, **options).connection.unauthenticated == 2
    first = converse("AUTH PLAIN", auth_optional=False)
    assert first.connection.unauthenticated == 1


def test_a_temporary_end_counts_as_a_command_without_a_login_and_others_do_not() -> None:
    how: dict[str, Any] = {"auth_optional": False, "max_auth_attempts": None}
    answers = {AuthRequested: Reject(454)}
    assert login(PLAIN, answers=answers, **how).connection.unauthenticated == 2
    assert login(PLAIN, "AUTH PLAIN A", "AUTH LOGIN", "*", **how).connection.unauthenticated == 1
    replies = said_to(PLAIN, PLAIN, answers=answers, max_allowed_unauthenticated_commands=3, **how)
    assert replies == ["454 4.7.0 Temporary failure", "421 4.7.0 Error: too many unauthenticated commands"]


def test_lines_of_an_exchange_count_nowhere() -> None:
    core = login("AUTH LOGIN", b64(b"u"), b64(b"p"), auth_optional=False).connection
    assert (core.unauthenticated, core.unknown, core.failed_logins) == (1, 0, 0)


# --- secrets (§7.5) -----------------------------------------------------------------------------


def test_no_client_text_gets_into_the_error_or_an_events_repr() -> None:
    secret = b64(b"\0u\0tops3cret")
    for lines in (
        [f"AUTH PLAIN {secret}"],
        ["AUTH PLAIN", secret + "x"],
        [f"AUTH {secret}"],
        [f"AUTH A B{secret}"],
    ):
        outcome = login(*lines, answers={AuthRequested: Reject()})
        shown = f"{outcome.session.error} {outcome.events!r}"
        assert outcome.session.error
        assert secret not in shown
        assert "tops3cret" not in shown


# --- mechanisms of the application's own (§7.4) -------------------------------------------------


class Scripted(Mechanism):
    """Takes the steps it was given."""

    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)
        self.responses: list[bytes | None] = []

    def step(self, response: bytes | None) -> Result:
        self.responses.append(response)
        step: Result | ZeroDivisionError = self.steps.pop(0)
        if isinstance(step, ZeroDivisionError):
            raise step
        return step

    def __repr__(self) -> str:
        return "<Scripted>"


class ServerFirst(Scripted):
    server_first = True


def scripted(*steps: Any, kind: type[Scripted] = Scripted) -> dict[str, Any]:
    def make(_session: Session) -> Mechanism:
        return kind(*steps)

    return {"auth_methods": ["X-OWN"], "sasl_mechanisms": {"x-own": make}}


@pytest.mark.parametrize(
    ("steps", "lines", "replies"),
    [
        ([Challenge(b"hi"), Accept(user="me")], ["AUTH X-OWN", ""], ["334 aGk=", OK]),
        ([Accept(user="me")], ["AUTH X-OWN ="], [OK]),
        ([Accept(235, user="me")], ["AUTH x-own"], [OK]),
        ([Accept()], ["AUTH X-OWN"], [INVALID]),
        ([Reject()], ["AUTH X-OWN"], [INVALID]),
        ([Reject(454)], ["AUTH X-OWN"], ["454 4.7.0 Temporary failure"]),
        ([Reject(501, "5.5.2", "bad")], ["AUTH X-OWN"], ["501 5.5.2 bad"]),
        ([AuthRequest(PlainCredentials("", "me", "p"))], ["AUTH X-OWN"], [OK]),
    ],
)
def test_a_mechanism_is_a_small_machine(steps: list[Any], lines: list[str], replies: list[str]) -> None:
    outcome = login(*lines, **scripted(*steps))
    assert outcome.replies[2:] == replies
    assert outcome.session.user == ("me" if replies[-1] == OK else None)


def test_a_mechanism_may_take_the_place_of_a_built_in_one() -> None:
    def make(_session: Session) -> Mechanism:
        return Scripted(Accept(user="me"))

    assert login(PLAIN, sasl_mechanisms={"PLAIN": make}).session.user == "me"
    how: dict[str, Any] = {"auth_methods": ["CRAM-MD5"], "sasl_mechanisms": {"CRAM-MD5": make}}
    assert login("AUTH CRAM-MD5", made_with={"entropy": b""}, **how).session.user == "me"


def test_where_the_server_speaks_first_there_is_no_initial_response() -> None:
    how = scripted(Challenge(b"hi"), Accept(user="me"), kind=ServerFirst)
    assert said_to("AUTH X-OWN aGk=", **how) == ["501 5.7.0 Error: syntax: AUTH X-OWN"]
    assert said_to("AUTH X-OWN", "", **how) == ["334 aGk=", OK]


@pytest.mark.parametrize(
    ("step", "error", "text"),
    [
        (ZeroDivisionError("of the application"), ZeroDivisionError, r"\Aof the application\Z"),
        ("yes", LocalProtocolError, r"str is no step of <Scripted>; it takes Challenge, Accept, Reject"),
        (None, LocalProtocolError, r"NoneType is no step of <Scripted>"),
        (
            Accept(250, user="me"),
            LocalProtocolError,
            r"Accept\(250, .* is no step of <Scripted>: .* with 235",
        ),
    ],
)
def test_a_faulty_mechanism_raises_and_the_client_is_answered(
    step: Any, error: type[Exception], text: str
) -> None:
    options = ProtocolOptions(
        name="mx.test", hide_enhancedstatuscodes=False, allow_insecure_auth=True, **scripted(step)
    )  # fmt: skip
    outcome = drive([[b"EHLO c.test\r\n"]], options, {})
    outcome.connection.receive_data(b"AUTH X-OWN\r\nNOOP\r\n")
    with pytest.raises(error, match=text):
        settle(outcome, {})
    settle(outcome, {})
    assert outcome.replies[2:] == [
        "451 4.3.0 Error: internal error, please try again later", "250 2.0.0 OK"
    ]  # fmt: skip
    assert outcome.connection.failed_logins == 0
    assert outcome.session.user is None


def test_a_faulty_factory_raises_and_the_client_is_answered() -> None:
    def make(_session: Session) -> Mechanism:
        raise ZeroDivisionError

    options = ProtocolOptions(name="mx.test", allow_insecure_auth=True, sasl_mechanisms={"PLAIN": make})
    outcome = drive([[b"EHLO c.test\r\n"]], options, {})
    outcome.connection.receive_data(PLAIN.encode() + b"\r\nNOOP\r\n")
    with pytest.raises(ZeroDivisionError):
        settle(outcome, {})
    settle(outcome, {})
    assert outcome.replies[2:] == ["451 Error: internal error, please try again later", "250 OK"]


class Bare:
    """A mechanism with what it must have and no more."""

    server_first = False

    def step(self, response: bytes | None) -> Challenge | AuthRequest:
        return Challenge(b"") if response is None else AuthRequest(PlainCredentials("", "u", "p"))


def test_a_mechanism_need_not_know_our_base_class() -> None:
    def make(_session: Session) -> Any:
        return Bare()

    how: dict[str, Any] = {"auth_methods": ["X-OWN"], "sasl_mechanisms": {"X-OWN": make}}
    assert said_to("AUTH X-OWN", "", **how) == ["334 ", OK]
    assert said_to("AUTH X-OWN", "", answers={AuthRequested: Accept()}, **how) == ["334 ", INVALID]


class Stumbling(Scripted):
    def refused(self, refusal: Reject | None) -> Any:
        if refusal == Reject(534):
            raise ZeroDivisionError("at the refusal")
        return None if refusal == Reject(535) else "no challenge"


@pytest.mark.parametrize(
    ("refusal", "error", "text"),
    [
        (Reject(534), ZeroDivisionError, "at the refusal"),
        (Reject(), LocalProtocolError, r"str is no last step of <Scripted>; it takes Challenge or None"),
    ],
)
def test_where_a_mechanism_cannot_refuse_the_question_stays_open(
    refusal: Reject, error: type[Exception], text: str
) -> None:
    options = ProtocolOptions(
        name="mx.test",
        allow_insecure_auth=True,
        **scripted(AuthRequest(PlainCredentials("", "u", "p")), kind=Stumbling),
    )
    outcome = drive([[b"EHLO c.test\r\n"]], options, {})
    outcome.connection.receive_data(b"AUTH X-OWN\r\n")
    with pytest.raises(error, match=text):
        settle(outcome, {AuthRequested: refusal})
    assert isinstance(outcome.connection.question, AuthRequested)
    outcome.connection.decide(Reject(535))
    settle(outcome, {})
    assert outcome.replies[2:] == ["535 Error: Authentication credentials invalid"]


@pytest.mark.parametrize(
    ("refusal", "error"),
    [(Reject(534), ZeroDivisionError), (Reject(), LocalProtocolError), (Accept(), LocalProtocolError)],
)
def test_where_a_failure_is_reported_and_not_raised_the_client_is_answered_all_the_same(
    refusal: Accept | Reject, error: type[Exception]
) -> None:
    class Reporting(Connection):
        def mechanism_failed(self, error: BaseException) -> None:
            reported.append(type(error))

    reported: list[type[BaseException]] = []
    connection = Reporting(
        ProtocolOptions(
            name="mx.test",
            allow_insecure_auth=True,
            **scripted(AuthRequest(PlainCredentials("", "u", "p")), kind=Stumbling),
        )
    )
    outcome = Outcome(connection)
    settle(outcome, {})
    connection.receive_data(f"{EHLO}\r\nAUTH X-OWN\r\nNOOP\r\n".encode())
    settle(outcome, {AuthRequested: refusal})
    assert outcome.replies[2:] == ["451 Error: internal error, please try again later", "250 OK"]
    assert reported == [error]
    assert (connection.failed_logins, connection.state) == (0, State.READY)


def test_a_factory_that_gives_no_mechanism_raises_and_the_client_is_answered() -> None:
    def make(_session: Session) -> Any:
        return None

    options = ProtocolOptions(name="mx.test", allow_insecure_auth=True, sasl_mechanisms={"PLAIN": make})
    outcome = drive([[b"EHLO c.test\r\n"]], options, {})
    outcome.connection.receive_data(PLAIN.encode() + b"\r\nNOOP\r\n")
    with pytest.raises(AttributeError, match="server_first"):
        settle(outcome, {})
    settle(outcome, {})
    assert outcome.replies[2:] == ["451 Error: internal error, please try again later", "250 OK"]


def test_a_conversation_of_three_logins() -> None:
    answers = {AuthRequested: [Reject(), Accept(user="u")]}
    assert said_to("AUTH PLAIN", "*", TOKEN, "", PLAIN, answers=answers) == [
        "334 ", "501 5.7.0 Authentication aborted", "334 e30=", INVALID, OK
    ]  # fmt: skip
