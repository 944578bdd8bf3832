# Rows that are written in words, said in octets. A row whose input is octets needs nothing here.
#
# The expectation always comes from the row; a recipe has codes only where the row has words.

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from smtpproto import Reject
from smtpproto.extending import CramMd5, Mechanism
from smtpproto_kit._scenarios import (
    DATA,
    EHLO,
    END_OF_DATA,
    FAULT,
    LHLO,
    MAIL,
    NOOP,
    RCPT,
    Action,
    Answer,
    Each,
    Expectation,
    Expire,
    Message,
    Recipe,
    Returns,
    Slow,
    Turn,
    turn,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from smtpproto import Challenge, Session
    from smtpproto.extending import AuthRequest

__all__ = ["LITERAL", "RECIPES"]

TLS, END, SHUTDOWN, TRICKLE, REFUSE = Action


class Declining(Mechanism):
    """A mechanism that this server knows and does not want to use."""

    server_first = True

    def __init__(self, reason: Reject) -> None:
        self.reason: Reject = reason

    def step(self, response: bytes | None) -> Challenge | Reject | AuthRequest:  # noqa: ARG002
        return self.reason


def cram_md5(make: Callable[[], Mechanism]) -> dict[str, Any]:
    """Options in which CRAM-MD5 is done by another mechanism."""

    def factory(_session: Session) -> Mechanism:
        return make()

    return {"sasl_mechanisms": {"CRAM-MD5": factory}}


def auth(mechanism: str, secret: bytes) -> tuple[bytes]:
    """An AUTH with its initial response."""
    return (b"AUTH %s %s\r\n" % (mechanism.encode(), b64encode(secret)),)


def with_data(*messages: bytes, recipients: int = 1) -> Recipe:
    """A literal row that delivers these messages."""
    return Recipe(messages=tuple(Message(each, recipients) for each in messages))


def about(**facts: Any) -> Recipe:
    """A literal row, and what the session must say in the end."""
    return Recipe(facts={path.replace("__", "."): value for path, value in facts.items()})


def mail_of(address: str) -> Recipe:
    return about(envelope__mail_from__address=address)


SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"  # PROXY protocol 2.2
ADDRESSES: Final = "01020304 05060708 04d2 0019"
V1: Final = b"PROXY TCP4 1.2.3.4 5.6.7.8 1234 25\r\n"


def v2(head: str, rest: str = ADDRESSES, *, signature: bytes = SIGNATURE) -> Recipe:
    """A binary header: version/command and family as two octets, then the length and `rest`."""
    body = bytes.fromhex(rest)
    header = signature + bytes.fromhex(head) + len(body).to_bytes(2, "big") + body
    return Recipe(setup="CONNECT", say=(header,))


def from_1234(recipe: Recipe) -> Recipe:
    return replace(recipe, facts={"remote_address": "1.2.3.4", "remote_port": 1234})


def from_peer(recipe: Recipe) -> Recipe:
    return replace(recipe, facts={"remote_address": "PEER"})


LITERAL: Final = Recipe()
OFFERED: Final = ("PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
AUTH_LINE: Final = "AUTH PLAIN LOGIN CRAM-MD5 XOAUTH2"
REFUSED_RCPT: Final = turn(RCPT, "550", "5.1.1")
REFUSING_RCPT: Final[Mapping[str, tuple[Answer, ...]]] = {"on_rcpt_to": (Reject(),)}
LMTP_RCPT: Final = turn(RCPT, "250", "2.1.5")
ANOTHER: Final = turn(b"RCPT TO:<c@y.test>\r\n", "250", "2.1.5")
START: Final = turn(DATA, "354", "n")
ALIVE: Final = turn(NOOP, "250", "2.0.0")
SMUGGLED: Final = b"MAIL FROM:<evil@x.test>\r\n..\r\n"
LINE_LIMIT: Final = 4096  # the default of max_line_length
XOAUTH2: Final = b"user=u@x.test\1auth=Bearer %s\1\1"

RECIPES: Final[Mapping[str, Recipe]] = {
    # Before the greeting
    "C001": Recipe(say=(b"",), says="220 mx.test ESMTP"),
    "C002": Recipe(say=(b"",), hooks={"on_connect": (Reject(),)}),
    "C004": Recipe(say=(REFUSE,), server_options={"max_clients": 1}),
    "C005": Recipe(say=(EHLO,), early=True, server_options={"early_talker_delay": 30.0}),
    # Commands
    "C007": Recipe(keywords=()),
    "C020": Recipe(say=(EHLO,), keywords=(*OFFERED, "STARTTLS")),
    "C040": Recipe(say=(b"NOOP " + b"x" * (LINE_LIMIT + 1 - 7) + b"\r\n",), after=(ALIVE,)),
    "P001": Recipe(say=(b"NOOP " + b"x" * (LINE_LIMIT - 7) + b"\r\n",)),
    "C041": Recipe(say=(b"NOOP " + b"x" * (10 * LINE_LIMIT - 5),)),
    "C049": Recipe(setup="S_EHLO", say=(SHUTDOWN,)),
    "C050": Recipe(say=(Expire("socket_timeout"),), options={"socket_timeout": 0.2}),
    "P031": Recipe(say=(NOOP * 10,), codes="250 " * 9 + "421 close", enhanced="2.0.0 " * 9 + "4.7.0"),
    "P032": Recipe(say=(b"FOO\r\n" * 10,), codes="500 " * 9 + "421 close", enhanced="5.5.2 " * 9 + "4.7.0"),
    "P045": Recipe(hooks={"on_rcpt_to": (None, Reject(421))}),
    "P046": Recipe(say=(Expire("proxy_timeout"),), options={"use_proxy": True, "proxy_timeout": 0.2}),
    "P047": Recipe(say=(b"NOO", Expire("command_timeout")), options={"command_timeout": 0.2}),
    "P048": Recipe(say=(b"x\r\n", Expire("data_timeout")), options={"data_timeout": 0.2}),
    "C383": Recipe(setup="S_EHLO"),
    # MAIL and RCPT
    "C055": mail_of("a@x.test"),
    "C062": mail_of("a@x.test"),
    # A bytes literal would eat the backslashes of the quoted pair.
    "C064": Recipe(
        say=(b'MAIL FROM:<"a\\"b"@x.test>\r\n',), facts={"envelope.mail_from.address": '"a\\"b"@x.test'}
    ),
    "C071": mail_of("=?utf-8?q?=41?=@x.test"),
    "C073": Recipe(say=(b"MAIL FROM:<%s@x.test>\r\n" % (b"a" * 64),)),
    "C074": Recipe(say=(b"MAIL FROM:<%s@x.test>\r\n" % (b"a" * 65),)),
    "C076": Recipe(say=(b"MAIL FROM:<%s@x.test>\r\n" % (b"a" * (257 - 9)),)),
    "C085": about(envelope__rcpt_to__0__address="pOsTmAsTeR@y.test"),
    "C094": Recipe(
        given=(Turn((RCPT * 100,), Expectation.read("250 " * 100)),),
        say=(RCPT,),
        after=(START, turn(b"x\r\n.\r\n", "250", "2.6.0")),
        options={"max_recipients": 100},
        messages=(Message(b"x\r\n", 100),),
    ),
    "C095": Recipe(
        given=(Turn((RCPT * 1000,), Expectation.read("250 " * 1000)),),
        say=(RCPT * 19_000,),
        codes="452 " * 19_000,
        enhanced="4.5.3 " * 19_000,
        facts={"envelope.rcpt_to.#": 1000},
    ),
    "C097": Recipe(hooks={"on_rcpt_to": (Reject(556),)}),
    "C098": Recipe(hooks={"on_rcpt_to": (Reject(450, "4.2.0"),)}),
    "P002": mail_of(""),
    "P003": about(envelope__rcpt_to__0__address="pOstMaster"),
    # The message
    "C103": Recipe(given=(REFUSED_RCPT,), say=(DATA,), hooks=REFUSING_RCPT),
    "C104": Recipe(after=(START,)),
    "C106": with_data(b""),
    "C107": with_data(b".a\r\n"),
    "C109": with_data(b"a\r\n"),
    "C110": with_data(b"x\r\n.\r\n"),
    "C119": with_data(b"body\r\n\0\r\n" + SMUGGLED),
    "C122": with_data(b"body\r\n \r\n" + SMUGGLED),
    "C125": with_data(b"body\r\n\x0b.\r\n" + SMUGGLED),
    "C130": Recipe(say=(b"y" * 998 + b"\r\n.\r\n",), messages=(Message(b"y" * 998 + b"\r\n"),)),
    "C131": Recipe(say=(b"." + b"y" * 999 + b"\r\n.\r\n",), messages=(Message(b"y" * 999 + b"\r\n"),)),
    "C133": Recipe(
        say=(b"a" * 512 + b".\r\nMAIL FROM:<e@x.test>\r\n.\r\n",),
        codes="250",
        options={"max_line_length": 512},
        messages=(Message(b"a" * 512 + b".\r\nMAIL FROM:<e@x.test>\r\n"),),
    ),
    "C134": Recipe(
        say=(b"0123456789abcd\r\n" * 4096 + END_OF_DATA,), messages=(Message(b"0123456789abcd\r\n" * 4096),)
    ),
    "C136": Recipe(hooks={"on_data": (Reject(452, "4.3.1"),)}, messages=(Message(b"x\r\n"),)),
    "C137": Recipe(hooks={"on_data": (FAULT,)}, messages=(Message(b"x\r\n"),)),
    "C139": Recipe(say=(b"half a mess", END)),
    "C140": Recipe(say=(b"x\r\n.\r", END)),
    "C142": Recipe(
        setup="S_DATA",
        given=(turn(b"x\r\n.\r\n", "550", "5.7.1"),),
        hooks={"on_data": (Reject(550),)},
        messages=(Message(b"x\r\n"),),
    ),
    "C143": Recipe(
        say=(bytes(range(0x80, 0x100)) + b"\r\n.\r\n",),
        messages=(Message(bytes(range(0x80, 0x100)) + b"\r\n"),),
    ),
    "C145": Recipe(say=(TRICKLE,), options={"socket_timeout": 0.3, "min_data_rate": 500.0}),
    "C146": Recipe(
        hooks={"on_data": (Reject(550, text="no\r\n250 ok"),)},
        messages=(Message(b"x\r\n"),),
        says="550-5.7.1 no\n550 5.7.1 250 ok",
    ),
    "C148": Recipe(
        given=(turn(b"x\r\n.\r\n", "451", "4.3.0"), turn(MAIL, "250"), turn(RCPT, "250"), START),
        hooks={"on_data": (Returns(354), Returns(999))},
        messages=(Message(b"x\r\n"), Message(b"x\r\n")),
    ),
    "C382": Recipe(
        hooks={"on_data": (Slow(0.5),)}, options={"socket_timeout": 0.2}, messages=(Message(b"x\r\n"),)
    ),
    "P006": with_data(b"x\r\n", b"y\r\n"),
    "P009": with_data(b"a\n.\nb\r\n"),
    "P010": with_data(b"a\n.\r\nb\r\n"),
    "P011": with_data(b"a\r\n\nb\r\n"),
    "P012": with_data(b"a\r.\rb\r\n"),
    "P013": with_data(b"a\r\n\rb\r\n"),
    "P014": with_data(b"a\r.\r\nb\r\n"),
    "P015": with_data(b"x\r\r\n"),
    "P023": Recipe(say=(b"x" * 999 + b"\r\n.\r\n",), after=(ALIVE,)),
    "P044": Recipe(say=(SHUTDOWN, b"x\r\n.\r\n"), messages=(Message(b"x\r\n"),)),
    # Extensions
    "C149": Recipe(say=(MAIL + RCPT + b"RCPT TO:<c@y.test>\r\n" + DATA,), facts={"envelope.rcpt_to.#": 2}),
    "C151": Recipe(say=(MAIL,)),
    "C154": Recipe(
        say=(MAIL + RCPT + DATA + b"Subject: x\r\n\r\nMAIL FROM:<evil@x.test>\r\n.\r\n",), hooks=REFUSING_RCPT
    ),
    "C155": Recipe(say=(MAIL + RCPT + DATA + END_OF_DATA,), hooks=REFUSING_RCPT),
    "C157": Recipe(say=(MAIL + RCPT,), enhanced="2.1.0 2.1.5"),
    "C164": Recipe(codes="250", keywords=(*OFFERED, "STARTTLS", "SIZE 1000")),
    "C166": about(envelope__declared_size=1000),
    "C167": Recipe(hooks={"on_mail_from": (Reject(452, "4.3.1"),)}, facts={"envelope.declared_size": None}),
    "C175": about(envelope__body_type="8bitmime"),
    "C176": about(envelope__body_type="8bitmime"),
    "C179": Recipe(keywords=(*OFFERED, "STARTTLS")),
    "C184": about(envelope__smtp_utf8=True),
    "C190": Recipe(
        setup="S_EHLO",
        given=(turn(b"MAIL FROM:<a@x.test> SMTPUTF8\r\n", "250"), turn(RCPT, "250"), START),
        say=("Subject: Grüße\r\n\r\nö\r\n.\r\n".encode(),),
        messages=(Message("Subject: Grüße\r\n\r\nö\r\n".encode()),),
    ),
    "P022": mail_of("é@x.test"),
    "C286": Recipe(facts={"envelope.rcpt_to.0.dsn.notify": ("SUCCESS", "FAILURE", "DELAY")}),
    "C290": Recipe(facts={"envelope.rcpt_to.0.dsn.orcpt": "rfc822;b+c@y.test"}),
    "C293": Recipe(
        say=(b"RCPT TO:<b@y.test> ORCPT=utf-8;\\x{E9}@y.test\r\n",),
        facts={"envelope.rcpt_to.0.dsn.orcpt": "utf-8;é@y.test"},
    ),
    "C296": about(envelope__dsn__envid="QQ314159"),
    "C298": Recipe(enhanced="2.1.0", facts={"envelope.dsn.envid": "a+c"}),
    "P024": about(envelope__dsn__ret="HDRS"),
    "P025": Recipe(facts={"envelope.rcpt_to.0.dsn.notify": ("NEVER",)}),
    "C304": Recipe(say=(EHLO,), options={"hide_requiretls": False}, keywords=(*OFFERED, "STARTTLS")),
    "C305": about(envelope__require_tls=True),
    "C308": Recipe(
        setup="S_TLS_EHLO",
        given=(turn(b"MAIL FROM:<a@x.test> REQUIRETLS\r\n", "250", "2.1.0"),),
        hooks={"on_rcpt_to": (Reject(550, "5.7.30"),)},
    ),
    # TLS
    "C217": Recipe(keywords=(*OFFERED, "STARTTLS")),
    "C220": Recipe(tls_available=False),
    "C226": Recipe(
        setup="S_EHLO",
        given=(
            turn(b"AUTH PLAIN AHUAcA==\r\n", "235"),
            turn(b"STARTTLS\r\n", "220", "2.0.0"),
            turn(TLS),
        ),
        say=(EHLO,),
        codes="250",
        enhanced="n",
        options={"allow_insecure_auth": True},
        keywords=(*OFFERED, AUTH_LINE),
        facts={"user": None, "secure": True},
    ),
    "C227": Recipe(say=(b"STARTTLS\r\nNOOP\r\n",), whole=True),
    "C229": Recipe(given=(turn(b"STARTTLS\r\n", "220", "2.0.0"),), say=(b"garbage\r\nNOOP\r\n",)),
    "C232": Recipe(say=(b"STARTTLS\r\n" + MAIL,), whole=True),
    "C233": Recipe(
        say=(TLS,),
        codes="220",
        after=(turn(EHLO, "250", "n"),),
        options={"secure": True},
        keywords=(*OFFERED, AUTH_LINE),
        facts={"secure": True},
    ),
    "P039": Recipe(
        given=(turn(V1), turn(TLS, "220", "n")),
        say=(EHLO,),
        codes="250",
        options={"use_proxy": True, "secure": True},
        facts={"remote_address": "1.2.3.4", "secure": True, "transmission_type": "ESMTPS"},
    ),
    "P042": Recipe(given=(turn(b"STARTTLS\r\n", "220", "2.0.0"), turn(TLS), turn(EHLO, "250")), say=(DATA,)),
    # AUTH
    "C236": Recipe(say=(EHLO,), codes="250", keywords=(*OFFERED, AUTH_LINE)),
    "C238": about(user="u"),
    "C241": Recipe(after=(turn(b"AUTH PLAIN AHUAcA==\r\n", "235"),)),
    "C256": Recipe(
        say=(b"AUTH PLAIN\r\n", b"A" * 12_289 + b"\r\n"), after=(turn(b"AUTH PLAIN AHUAcA==\r\n", "235"),)
    ),
    "C259": Recipe(options=cram_md5(lambda: Declining(Reject(534, "5.7.9")))),
    "C260": Recipe(options=cram_md5(lambda: Declining(Reject(432, "4.7.12")))),
    "C262": Recipe(
        say=(b"AUTH PLAIN AHUAeA==\r\n" * 5,), codes="535 535 421 close", enhanced="5.7.8 5.7.8 4.7.0"
    ),
    "C263": Recipe(
        say=(b"RSET\r\n",), after=(turn(EHLO, "250", "n"),), keywords=OFFERED, facts={"user": "u"}
    ),
    "C265": Recipe(facts={"envelope.mail_from.args.AUTH": "e=mc2@example.com"}),
    "C268": Recipe(say=auth("PLAIN", b"\0u\0p\0x")),
    "C269": Recipe(say=auth("PLAIN", b"\0\0p")),
    "C271": Recipe(say=auth("PLAIN", b"\0\xff\0p")),
    "C272": Recipe(
        options=cram_md5(lambda: CramMd5(b"<1896.697170952@postoffice.reston.mci.net>")),
        facts={"user": "tim"},
    ),
    "C283": Recipe(say=auth("XOAUTH2", XOAUTH2 % b"t"), facts={"user": "u@x.test"}),
    "C284": Recipe(say=(*auth("XOAUTH2", XOAUTH2 % b"bad"), b"\r\n"), facts={"user": None}),
    "P021": about(user="u"),
    "P043": Recipe(hooks={"on_auth": (FAULT,)}, facts={"user": None}),
    # LMTP
    "C313": Recipe(keywords=(*OFFERED, "STARTTLS")),
    "C316": Recipe(say=(LHLO,), keywords=(*OFFERED, "STARTTLS")),
    "C317": Recipe(
        setup="S_LMTP_MAIL",
        given=(LMTP_RCPT, ANOTHER),
        say=(b"DATA\r\nx\r\n.\r\n",),
        codes="354 250 250",
        enhanced="- 2.1.5|2.6.0 2.1.5|2.6.0",
        messages=(Message(b"x\r\n", 2),),
    ),
    "C319": Recipe(
        setup="S_LMTP_MAIL",
        given=(LMTP_RCPT, LMTP_RCPT, START),
        say=(b"x\r\n.\r\n",),
        codes="250 250",
        messages=(Message(b"x\r\n", 2),),
    ),
    "C320": Recipe(setup="S_LMTP_MAIL", given=(REFUSED_RCPT,), say=(DATA,), hooks=REFUSING_RCPT),
    "C323": Recipe(
        setup="S_LMTP_MAIL",
        given=(LMTP_RCPT, ANOTHER, START),
        say=(b"x\r\n.\r\n",),
        hooks={"on_data": (Each((None,)),)},
        messages=(Message(b"x\r\n", 2),),
    ),
    "P027": Recipe(
        setup="S_LMTP_MAIL",
        given=(LMTP_RCPT, turn(b"RCPT TO:<n@y.test>\r\n", "550"), ANOTHER, START),
        say=(b"x\r\n.\r\n",),
        codes="250 250",
        enhanced="2.6.0 2.6.0",
        hooks={"on_rcpt_to": (None, Reject())},
        messages=(Message(b"x\r\n", 2),),
    ),
    "P028": Recipe(
        setup="S_LMTP_MAIL",
        given=(LMTP_RCPT, ANOTHER, START),
        say=(b"x\r\n.\r\n",),
        hooks={"on_data": (Each((None, Reject(452))),)},
        messages=(Message(b"x\r\n", 2),),
    ),
    # XCLIENT, XFORWARD
    "C325": Recipe(
        say=(EHLO,),
        codes="250",
        options={"use_xclient": True},
        keywords=(*OFFERED, "STARTTLS", "XCLIENT NAME ADDR PORT PROTO HELO LOGIN"),
    ),
    "C329": about(remote_address="PEER"),
    "C334": Recipe(facts={"xclient.NAME": None}),
    "C337": Recipe(say=(b"XCLIENT NAME=%s\r\n" % (b"a" * 256),)),
    "C338": Recipe(
        given=(turn(b"XCLIENT ADDR=198.51.100.7\r\n", "220", "n"), turn(EHLO, "250", "n")),
        options={"use_xclient": True},
        facts={"remote_address": "198.51.100.7"},
    ),
    "C343": Recipe(
        setup="S_EHLO",
        given=(turn(b"XFORWARD NAME=s.test\r\n", "250"), turn(MAIL, "250"), turn(RCPT, "250"), START),
        say=(b"x\r\n.\r\n",),
        codes="250",
        options={"use_xforward": True},
        messages=(Message(b"x\r\n"),),
        facts={"xforward": {}},
    ),
    "P033": Recipe(
        facts={
            "xforward": {
                **dict.fromkeys(("ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")),
                "NAME": "s.test",
            }
        }
    ),
    "P034": Recipe(
        after=(turn(MAIL, "503", "5.5.1"),),
        facts={
            "remote_address": "2001:db8::1",
            "remote_port": 99,
            "client_hostname": "c.test",
            "xclient.ADDR:DEFAULT": "PEER",
        },
    ),
    "P035": about(user="u"),
    # PROXY
    "C344": from_1234(LITERAL),
    "C346": from_peer(LITERAL),
    "C356": Recipe(say=(b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",)),
    "C359": from_1234(v2("21 11")),
    "C361": from_peer(v2("20 11")),
    "C362": from_peer(v2("21 00", "")),
    "C364": v2("11 11"),
    "C365": v2("22 11"),
    "C367": v2("21 13"),
    "C368": v2("21 12"),
    "C370": v2("21 11", ""),
    "C371": v2("21 11", ADDRESSES + "02 ffff 616263"),
    "C373": v2("21 11", ADDRESSES + "03 0004 00000000"),
    "C374": v2("21 11", signature=SIGNATURE[:-1] + b"\r"),
    "C376": Recipe(say=(V1, V1), facts={"remote_address": "1.2.3.4"}),
    "C377": Recipe(say=(V1,), facts={"remote_address": "1.2.3.4"}),
    "P036": about(remote_address="2001:db8::1", remote_port=1234),
    "P037": replace(
        v2("21 21", "20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02" + "04d2 0019"),
        facts={"remote_address": "2001:db8::1", "remote_port": 1234},
    ),
    "P038": from_peer(v2("21 31", "2f61" + "00" * 106 + "2f62" + "00" * 106)),
    "P041": Recipe(say=(V1 + EHLO,), whole=True, enhanced="n"),
}
