# TLS without sockets: a client's SSLObject and a TlsChannel hand each other octets in memory.

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import os
import ssl
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpproto import ConfigurationError
from smtpproto._tls import standard_name
from smtpproto_server._tls import TLS_OPTION_NAMES, TlsContexts
from smtpproto_server._tls_channel import CHUNK, RECORD, TlsChannel
from smtpproto_server._tls_names import MAX_CLIENT_HELLO, ClientHello

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EC: Final = trustme.KeyType.ECDSA
AUTHORITY: Final = trustme.CA(key_type=EC)
OTHER_AUTHORITY: Final = trustme.CA(key_type=EC)
CA: Final = AUTHORITY.cert_pem.bytes().decode()
TLS12: Final = ssl.TLSVersion.TLSv1_2
TLS13: Final = ssl.TLSVersion.TLSv1_3
both_versions: Final = pytest.mark.parametrize("version", [TLS12, TLS13], ids=["TLSv1.2", "TLSv1.3"])


class Pair:
    """Certificate chain and key in the forms that options take."""

    def __init__(self, *names: str, authority: trustme.CA = AUTHORITY) -> None:
        leaf = authority.issue_cert(*names, key_type=EC)
        self.key: str = leaf.private_key_pem.bytes().decode()
        self.cert: str = "".join(blob.bytes().decode() for blob in leaf.cert_chain_pems)
        self.options: dict[str, Any] = {"cert": self.cert, "key": self.key}


MAIL: Final = Pair("mail.example")
SHOP: Final = Pair("shop.example", "xn--bcher-kva.example")
USER: Final = Pair("user@mail.example")
STRANGER: Final = Pair("user@mail.example", authority=OTHER_AUTHORITY)


class Client:
    """The other end: verifies what the server shows, against AUTHORITY unless told otherwise."""

    def __init__(
        self,
        channel: TlsChannel,
        *,
        name: str | None = "mail.example",
        version: ssl.TLSVersion | None = None,
        identity: Path | None = None,
        ca: str = CA,
        context: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
        step: int = 1 << 20,
    ) -> None:
        self.channel = channel
        self.step = step
        self.context = context or client_context(version, identity, ca, named=name is not None)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = self.context.wrap_bio(self.incoming, self.outgoing, server_hostname=name, session=session)

    def to_server(self) -> None:
        raw = self.outgoing.read()
        for at in range(0, len(raw), self.step):
            self.channel.receive(raw[at : at + self.step])

    def shake(self) -> Client:
        """Play the whole handshake; raises what either end raises."""
        client_done = server_done = False
        while not (client_done and server_done):
            try:
                self.tls.do_handshake()
                client_done = True
            except ssl.SSLWantReadError:
                pass
            raw = self.outgoing.read()
            for at in range(0, len(raw), self.step):
                assert not server_done
                self.channel.receive(raw[at : at + self.step])
                server_done = self.channel.handshake()
            self.incoming.write(self.channel.outgoing())
        return self

    def send(self, data: bytes) -> None:
        self.tls.write(data)
        self.to_server()

    def hang_up(self) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.to_server()

    def receive(self) -> bytes:
        self.incoming.write(self.channel.outgoing())
        parts: list[bytes] = []
        while True:
            try:
                part = self.tls.read(RECORD)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                part = b""
            if not part:
                return b"".join(parts)
            parts.append(part)


def client_context(
    version: ssl.TLSVersion | None, identity: Path | None, ca: str, *, named: bool
) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca)
    context.check_hostname = named
    if version is not None:
        context.minimum_version = context.maximum_version = version
    if identity is not None:
        context.load_cert_chain(identity)
    return context


def contexts(**options: Any) -> TlsContexts:
    return TlsContexts({**MAIL.options, **options}, name="mail.example")


def everything(channel: TlsChannel) -> bytes:
    return b"".join(iter(channel.read, b""))


def certificate_names(client: Client) -> set[str]:
    certificate = client.tls.getpeercert()
    assert certificate is not None
    names: Any = certificate["subjectAltName"]
    return {name for _, name in names}


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    file = tmp_path / "user.pem"
    file.write_text(USER.key + USER.cert)
    return file


# The channel: handshake and data


@both_versions
@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_plaintext_goes_both_ways_however_the_ciphertext_is_cut(version: ssl.TLSVersion, step: int) -> None:
    channel = contexts().channel()
    client = Client(channel, version=version, step=step).shake()
    client.send(b"EHLO a\r\n")
    assert everything(channel) == b"EHLO a\r\n"
    channel.write(b"250 ")
    channel.write(b"")
    channel.write(b"b\r\n")
    assert client.receive() == b"250 b\r\n"
    assert not channel.closed


def test_nothing_goes_out_for_an_empty_write() -> None:
    channel = contexts().channel()
    Client(channel).shake()
    channel.write(b"")
    assert channel.outgoing() == b""


def test_data_in_the_flight_of_the_finished_message_is_read() -> None:
    channel = contexts().channel()
    client = Client(channel, version=TLS13)
    for _ in range(2):
        try:
            client.tls.do_handshake()
        except ssl.SSLWantReadError:
            client.to_server()
            assert not channel.handshake()
            client.incoming.write(channel.outgoing())
    client.tls.write(b"EHLO a\r\n")
    client.to_server()
    assert channel.handshake()
    assert channel.handshake()
    assert everything(channel) == b"EHLO a\r\n"
    channel.write(b"250 b\r\n")  # behind the session tickets
    assert client.receive() == b"250 b\r\n"
    assert client.tls.session is not None
    assert client.tls.session.has_ticket


@both_versions
def test_a_large_body_comes_in_chunks_of_bounded_size_and_whole(version: ssl.TLSVersion) -> None:
    channel = contexts().channel()
    client = Client(channel, version=version).shake()
    body = os.urandom(1 << 20)
    client.send(body)
    chunks = list(iter(channel.read, b""))
    assert b"".join(chunks) == body
    assert max(map(len, chunks)) == CHUNK
    assert len(chunks) == len(body) // CHUNK


def test_ciphertext_may_arrive_before_the_last_was_read() -> None:
    channel = contexts().channel()
    client = Client(channel).shake()
    for letter in b"abc":
        client.send(bytes([letter]) * 40_000)
    assert channel.read()[:1] == b"a"
    client.send(b"d")
    assert everything(channel)[-1:] == b"d"


# The channel: messages behind the handshake. Python's client cannot send them, so the key log
# gives its keys away, and the test seals the record in its place.


def logged_secrets(file: Path) -> dict[str, list[bytes]]:
    lines = (line.split() for line in file.read_text().splitlines() if not line.startswith("#"))
    return {label: [bytes.fromhex(text) for text in values] for label, *values in lines}


def expand_label(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label of RFC 8446 §7.1, for at most one block of SHA-384."""
    full = b"tls13 " + label
    info = length.to_bytes(2) + bytes([len(full)]) + full + b"\0"
    return hmac.digest(secret, info + b"\1", hashlib.sha384)[:length]


def key_block(master: bytes, seed: bytes, length: int) -> bytes:
    """PRF of RFC 5246 §5 with the label of §6.3."""
    block, a = b"", b"key expansion" + seed
    seed = a
    while len(block) < length:
        a = hmac.digest(master, a, hashlib.sha384)
        block += hmac.digest(master, a + seed, hashlib.sha384)
    return block[:length]


def test_a_key_update_is_answered(tmp_path: Path) -> None:
    context = client_context(TLS13, None, CA, named=True)
    context.keylog_filename = str(tmp_path / "keys")
    channel = contexts().channel()
    client = Client(channel, context=context).shake()
    assert client.tls.cipher() == ("TLS_AES_256_GCM_SHA384", "TLSv1.3", 256)
    _, secret = logged_secrets(tmp_path / "keys")["CLIENT_TRAFFIC_SECRET_0"]
    key, nonce = expand_label(secret, b"key", 32), expand_label(secret, b"iv", 12)
    key_update = b"\x18\0\0\1\1" + b"\x16"  # update_requested; its true record type
    header = b"\x17\3\3" + (len(key_update) + 16).to_bytes(2)
    channel.receive(header + AESGCM(key).encrypt(nonce, key_update, header))
    assert channel.read() == b""
    assert not channel.closed
    channel.write(b"250 OK\r\n")
    answer = channel.outgoing()
    assert answer[:5] == header  # our own key update, then the data
    client.incoming.write(answer)
    assert client.receive() == b"250 OK\r\n"


def test_renegotiation_is_refused_and_the_session_goes_on(tmp_path: Path) -> None:
    context = client_context(TLS12, None, CA, named=True)
    context.keylog_filename = str(tmp_path / "keys")
    channel = contexts().channel()
    client = Client(channel, context=context)
    sent: list[bytes] = []
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.to_server()
    assert not channel.handshake()
    sent.append(channel.outgoing())
    client.incoming.write(sent[0])
    client.shake()
    assert client.tls.cipher() == ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLSv1.2", 256)
    client_random, master = logged_secrets(tmp_path / "keys")["CLIENT_RANDOM"]
    server_random = sent[0][11:43]
    block = key_block(master, server_random + client_random, 72)
    hello = client_hello("mail.example")[5:]
    number = (1).to_bytes(8)  # the Finished message was 0
    sealed = AESGCM(block[:32]).encrypt(
        block[64:68] + number, hello, number + b"\x16\3\3" + len(hello).to_bytes(2)
    )
    channel.receive(b"\x16\3\3" + (len(sealed) + 8).to_bytes(2) + number + sealed)
    assert channel.read() == b""
    channel.write(b"250 OK\r\n")
    answer = channel.outgoing()
    assert answer[:3] == b"\x15\3\3"  # an alert, then the data
    assert answer[5 + int.from_bytes(answer[3:5]) :][:3] == b"\x17\3\3"
    client.incoming.write(answer)
    with pytest.raises(ssl.SSLError, match=r"(?i)no.renegotiation"):
        client.tls.read(1)


# The channel: ends and faults


@both_versions
def test_close_notify_closes_and_what_follows_is_dropped(version: ssl.TLSVersion) -> None:
    channel = contexts().channel()
    client = Client(channel, version=version).shake()
    client.tls.write(b"QUIT\r\n")
    client.hang_up()
    channel.receive(b"junk")
    assert channel.read() == b"QUIT\r\n"
    assert channel.closed
    channel.receive(b"more junk")
    assert channel.read() == b""
    channel.write(b"221 Bye\r\n")  # the other direction is still open
    channel.close()
    assert client.receive() == b"221 Bye\r\n"


@both_versions
@pytest.mark.parametrize("cut", [0, 1])
def test_the_end_of_the_stream_alone_does_not_close(version: ssl.TLSVersion, cut: int) -> None:
    channel = contexts().channel()
    client = Client(channel, version=version).shake()
    client.tls.write(b"DATA\r\n")
    raw = client.outgoing.read()
    client.tls.write(b"cut")
    channel.receive(raw + client.outgoing.read()[: -1 if cut else 0])
    channel.receive_eof()
    assert everything(channel) == b"DATA\r\n"
    assert not channel.closed


@both_versions
@pytest.mark.parametrize("apart", [False, True])
def test_a_broken_record_raises_after_what_came_before_it(version: ssl.TLSVersion, *, apart: bool) -> None:
    channel = contexts().channel()
    client = Client(channel, version=version).shake()
    client.tls.write(b"good")
    good = client.outgoing.read()
    client.tls.write(b"bad")
    bad = bytearray(client.outgoing.read())
    bad[-1] ^= 1
    for raw in (good, bytes(bad)) if apart else (good + bad,):
        channel.receive(raw)
        if raw == good:
            assert channel.read() == b"good"
    if not apart:
        assert channel.read() == b"good"
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match="bad record mac"):
            channel.read()
    assert not channel.closed
    assert channel.outgoing()  # the alert
    channel.write(b"250 OK\r\n")
    channel.close()
    assert channel.outgoing() == b""
    with pytest.raises(ssl.SSLError, match="bad record mac"):
        channel.read()


def test_plaintext_behind_the_handshake_raises() -> None:
    channel = contexts().channel()
    Client(channel).shake()
    channel.receive(b"MAIL FROM:<a@b.example>\r\n")
    with pytest.raises(ssl.SSLError):
        channel.read()


@both_versions
def test_both_ends_may_close(version: ssl.TLSVersion) -> None:
    channel = contexts().channel()
    client = Client(channel, version=version).shake()
    channel.close()
    channel.close()
    assert client.receive() == b""
    client.to_server()
    client.tls.unwrap()
    client.to_server()
    assert channel.read() == b""
    assert channel.closed
    channel.write(b"x")
    assert channel.outgoing() == b""
    with pytest.raises(ssl.SSLError, match="protocol is shutdown"):
        channel.read()


def test_closing_before_and_during_the_handshake_is_silent() -> None:
    channel = contexts().channel()
    channel.close()
    assert channel.outgoing() == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"EHLO a\r\n",
        b"\x80\x09\x01\x00\x02" + bytes(20),
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x01\x02" + bytes(5),
    ],
)
def test_what_is_no_client_hello_fails(raw: bytes) -> None:
    channel = contexts().channel()
    channel.receive(raw)
    with pytest.raises(ssl.SSLError):
        channel.handshake()
    assert not channel.closed
    assert channel.servername is None


def test_an_alert_is_left_for_the_client() -> None:
    channel = contexts(min_version="TLSv1.3").channel()
    client = Client(channel, version=TLS12)
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.protocol"):
        client.shake()
    client.incoming.write(channel.outgoing())
    with pytest.raises(ssl.SSLError, match=r"(?i)alert.protocol.version"):
        client.tls.do_handshake()


@pytest.mark.parametrize("octets", [0, 1, 100, None])
def test_the_end_of_the_stream_during_the_handshake_fails_it(octets: int | None) -> None:
    channel = contexts().channel()
    client = Client(channel)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    channel.receive(client.outgoing.read()[:octets])
    assert not channel.handshake()
    channel.receive_eof()
    with pytest.raises(ssl.SSLEOFError):
        channel.handshake()


# What the core is told


@both_versions
def test_details_name_cipher_and_protocol(version: ssl.TLSVersion) -> None:
    channel = contexts().channel()
    Client(channel, version=version).shake()
    details = channel.details()
    assert details.options is not None
    assert details.options["version"] == {TLS12: "TLSv1.2", TLS13: "TLSv1.3"}[version]
    assert details.options["standard_name"].startswith("TLS_")
    assert (details.options["name"] == details.options["standard_name"]) is (version is TLS13)
    assert details.servername == "mail.example"
    assert details.peer_certificate is None


@pytest.mark.parametrize(
    ("name", "standard"),
    [
        ("TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
        ("ECDHE-RSA-AES128-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256"),
        ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
        ("ECDHE-ECDSA-AES128-CCM8", "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8"),
        ("DHE-RSA-AES256-CCM", "TLS_DHE_RSA_WITH_AES_256_CCM"),
        ("DHE-DSS-CAMELLIA128-SHA", "TLS_DHE_DSS_WITH_CAMELLIA_128_CBC_SHA"),
        ("ECDHE-ARIA256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_ARIA_256_GCM_SHA384"),
        ("AES128-GCM-SHA256", "TLS_RSA_WITH_AES_128_GCM_SHA256"),
        ("AES256-SHA", "TLS_RSA_WITH_AES_256_CBC_SHA"),
        ("PSK-NULL-SHA", "PSK-NULL-SHA"),
        ("", ""),
    ],
)
def test_cipher_names_are_turned_into_those_of_iana(name: str, standard: str) -> None:
    assert standard_name(name) == standard


# Server names


@pytest.fixture
def shop() -> TlsContexts:
    return contexts(sni_options={"Shop.Example.": SHOP.options, "Bücher.example": SHOP.options})


@both_versions
@pytest.mark.parametrize("step", [1, 1 << 20])
@pytest.mark.parametrize(
    ("name", "servername", "shown"),
    [
        ("shop.example", "shop.example", SHOP),
        ("SHOP.example", "shop.example", SHOP),
        ("bücher.example", "xn--bcher-kva.example", SHOP),
        ("mail.example", "mail.example", MAIL),
        (None, None, MAIL),
    ],
)
def test_the_certificate_follows_the_server_name(
    shop: TlsContexts,
    name: str | None,
    servername: str | None,
    shown: Pair,
    version: ssl.TLSVersion,
    step: int,
) -> None:
    channel = shop.channel()
    client = Client(channel, name=name, version=version, step=step).shake()
    assert certificate_names(client) == (
        {"shop.example", "xn--bcher-kva.example"} if shown is SHOP else {"mail.example"}
    )
    assert channel.details().servername == servername
    client.send(b"x")
    assert channel.read() == b"x"


def test_an_unknown_name_gets_the_default_certificate(shop: TlsContexts) -> None:
    context = client_context(None, None, CA, named=False)
    channel = shop.channel()
    client = Client(channel, name="unknown.example", context=context).shake()
    assert certificate_names(client) == {"mail.example"}
    assert channel.servername == "unknown.example"


def test_a_context_of_the_users_own_may_stand_for_a_name(tmp_path: Path) -> None:
    file = tmp_path / "shop.pem"
    file.write_text(SHOP.cert + SHOP.key)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(file)
    for entry in (own, {"ssl_context": own}):
        client = Client(contexts(sni_options={"shop.example": entry}).channel(), name="shop.example").shake()
        assert certificate_names(client) >= {"shop.example"}


def test_a_name_has_its_own_rules_for_client_certificates_and_versions(identity: Path) -> None:
    built = contexts(
        sni_options={
            "shop.example": {**SHOP.options, "request_cert": True, "ca": CA, "max_version": "TLSv1.2"}
        }
    )
    channel = built.channel()
    Client(channel, name="shop.example", identity=identity).shake()
    details = channel.details()
    assert details.options is not None
    assert details.options["version"] == "TLSv1.2"
    assert details.peer_certificate is not None
    with pytest.raises(ssl.SSLError, match="did not return a certificate"):
        Client(built.channel(), name="shop.example").shake()
    Client(built.channel()).shake()


def test_a_session_of_one_name_opens_no_other() -> None:
    # With tickets shared between names, one got without a certificate would open the name that demands one.
    built = contexts(sni_options={"shop.example": {**SHOP.options, "request_cert": True, "ca": CA}})
    context = client_context(TLS12, None, CA, named=False)
    first = Client(built.channel(), context=context).shake()
    again = Client(built.channel(), context=context, session=first.tls.session).shake()
    assert again.tls.session_reused
    with pytest.raises(ssl.SSLError, match="did not return a certificate"):
        Client(built.channel(), context=context, session=first.tls.session, name="shop.example").shake()


def test_a_name_inherits_what_it_leaves_open(identity: Path) -> None:
    built = contexts(
        request_cert=True,
        ca=CA,
        sni_options={"shop.example": SHOP.options, "open.example": {"request_cert": False}},
    )
    with pytest.raises(ssl.SSLError, match="did not return a certificate"):
        Client(built.channel(), name="shop.example").shake()
    Client(built.channel(), name="shop.example", identity=identity).shake()
    context = client_context(None, None, CA, named=False)
    assert certificate_names(Client(built.channel(), name="open.example", context=context).shake()) == {
        "mail.example"
    }


# The parser of the client's first message


def client_hello(name: str | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = name is not None
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


def records(message: bytes, size: int) -> bytes:
    parts = (message[at : at + size] for at in range(0, len(message), size))
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2) + part for part in parts)


def hello_with(extension: bytes) -> bytes:
    """A client hello that holds this one extension of type server_name."""
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    extensions = b"\0\0" + len(extension).to_bytes(2) + extension
    body += len(extensions).to_bytes(2) + extensions
    return b"\1" + len(body).to_bytes(3) + body


def outcome(raw: bytes, step: int) -> tuple[bool, str | None]:
    hello = ClientHello()
    decided = any(hello.feed(raw[at : at + step]) for at in range(0, len(raw), step))
    return decided, hello.name


@pytest.mark.parametrize("size", [1, 3, 100, RECORD])
@pytest.mark.parametrize("step", [1, 5, 1 << 20])
def test_a_client_hello_may_be_spread_over_records(size: int, step: int) -> None:
    message = client_hello("mail.example")[5:]
    assert outcome(records(message, size), step) == (True, "mail.example")
    assert outcome(records(message, size)[:-1], step) == (False, None)


def test_openssl_and_the_parser_agree_on_a_spread_hello() -> None:
    channel = contexts().channel()
    channel.receive(records(client_hello("mail.example")[5:], 50))
    assert not channel.handshake()
    assert channel.outgoing()
    assert channel.servername == "mail.example"


@pytest.mark.parametrize(
    ("extension", "name"),
    [
        (b"\0\x06\0\0\3a.b", "a.b"),
        (b"\0\x07\0\0\4A.b.", "a.b"),
        (b"\0\4\0\0\1.", None),
        (b"\0\3\0\0\0", None),
        (b"\0\x06\1\0\3a.b", None),
        (b"\0\x06\0\0\3a\nb", None),
        (b"\0\x06\0\0\3a\xffb", None),
        (b"\0\x06\0\0\3a\0b", None),
        (b"\1\2\0\0\xff" + b"a" * 255, "a" * 255),
        (b"\1\3\0\1\0" + b"a" * 256, None),
        (b"", None),
        (b"\0", None),
    ],
)
def test_only_a_host_name_is_taken_for_a_server_name(extension: bytes, name: str | None) -> None:
    assert outcome(records(hello_with(extension), RECORD), 1) == (True, name)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x17",
        records(b"\2", 1),
        records(b"\1" + (MAX_CLIENT_HELLO - 3).to_bytes(3), RECORD),
        records(b"\1\0\0\0", RECORD),
        records(hello_with(b"")[:-4].replace(b"\0\0\x04\0\0", b"\0\0\0"), RECORD),
        client_hello(None),
    ],
)
def test_a_hello_without_a_name_is_decided(raw: bytes) -> None:
    hello = ClientHello()
    hello.feed(raw)
    assert hello.name is None


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(1, 40), st.integers(1, 60))
def test_no_client_hello_makes_the_parser_raise_or_depend_on_cuts(tail: bytes, step: int, size: int) -> None:
    raw = records(b"\1" + len(tail).to_bytes(3) + tail, size)
    assert outcome(raw, step) == outcome(raw, len(raw))
    assert outcome(raw, len(raw))[0]
    assert outcome(tail + b"\0", step) == outcome(tail + b"\0", 1)


# Client certificates


def test_a_required_certificate_is_verified_and_handed_on(identity: Path) -> None:
    channel = contexts(request_cert=True, ca=CA).channel()
    Client(channel, identity=identity).shake()
    certificate = channel.details().peer_certificate
    assert certificate is not None
    assert certificate["subjectAltName"] == (("email", "user@mail.example"),)


@both_versions
def test_a_missing_required_certificate_ends_the_handshake(version: ssl.TLSVersion) -> None:
    with pytest.raises(ssl.SSLError, match="did not return a certificate"):
        Client(contexts(request_cert=True, ca=CA).channel(), version=version).shake()


def test_an_optional_certificate_may_be_missing(identity: Path) -> None:
    built = contexts(request_cert=True, reject_unauthorized=False, ca=CA)
    channel = built.channel()
    Client(channel).shake()
    assert channel.details().peer_certificate is None
    channel = built.channel()
    Client(channel, identity=identity).shake()
    assert channel.details().peer_certificate is not None


@both_versions
@pytest.mark.parametrize("required", [True, False])
def test_an_unverifiable_certificate_ends_the_handshake(
    tmp_path: Path, version: ssl.TLSVersion, *, required: bool
) -> None:
    file = tmp_path / "stranger.pem"
    file.write_text(STRANGER.key + STRANGER.cert)
    built = contexts(request_cert=True, reject_unauthorized=required, ca=CA)
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(built.channel(), version=version, identity=file).shake()


def test_without_ca_the_systems_authorities_count(identity: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        Client(contexts(request_cert=True).channel(), identity=identity).shake()


def test_ca_takes_text_paths_and_lists_of_them(tmp_path: Path, identity: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(f"# Zertifizierungsstelle für Prüfungen\n{CA}", encoding="utf-8")
    other = OTHER_AUTHORITY.cert_pem.bytes()
    for ca in (CA, CA.encode(), file, str(file), [other, file], (CA, other)):
        channel = contexts(request_cert=True, ca=ca).channel()
        Client(channel, identity=identity).shake()
        assert channel.details().peer_certificate is not None


# Versions


@pytest.mark.parametrize(
    ("options", "client", "agreed"),
    [
        ({}, None, "TLSv1.3"),
        ({"max_version": "TLSv1.2"}, None, "TLSv1.2"),
        ({"min_version": "TLSv1.3"}, None, "TLSv1.3"),
        ({"min_version": "TLSv1.3", "max_version": "TLSv1.3"}, TLS13, "TLSv1.3"),
        ({"min_version": "TLSv1.3"}, TLS12, None),
        ({"max_version": "TLSv1.2"}, TLS13, None),
    ],
)
def test_versions_are_limited(
    options: dict[str, str], client: ssl.TLSVersion | None, agreed: str | None
) -> None:
    channel = contexts(**options).channel()
    if agreed is None:
        with pytest.raises(ssl.SSLError):
            Client(channel, version=client).shake()
        return
    Client(channel, version=client).shake()
    assert channel.ssl_object.version() == agreed


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1.1"])
def test_old_versions_can_be_had_by_name_with_a_warning(version: str) -> None:
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        built = contexts(min_version=version)
    context = ssl.create_default_context(cadata=CA)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = context.maximum_version = {
            "TLSv1": ssl.TLSVersion.TLSv1,
            "TLSv1.1": ssl.TLSVersion.TLSv1_1,
        }[version]
    channel = built.channel()
    Client(channel, context=context).shake()
    assert channel.ssl_object.version() == version
    with pytest.raises(ssl.SSLError):
        Client(contexts().channel(), context=context).shake()


def test_contexts_refuse_renegotiation_and_compression() -> None:
    context = contexts().channel().ssl_object.context
    for option in (ssl.OP_NO_RENEGOTIATION, ssl.OP_NO_COMPRESSION, ssl.OP_CIPHER_SERVER_PREFERENCE):
        assert context.options & option


# Key and certificate


def test_key_and_certificate_come_as_text_octets_or_paths(tmp_path: Path) -> None:
    cert, key, joined = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "joined.pem"
    cert.write_text(MAIL.cert)
    key.write_text(MAIL.key)
    joined.write_text(MAIL.key + MAIL.cert)
    forms: list[dict[str, Any]] = [
        {"cert": MAIL.cert, "key": MAIL.key},
        {"cert": MAIL.cert.encode(), "key": MAIL.key.encode()},
        {"cert": cert, "key": str(key)},
        {"cert": str(cert), "key": MAIL.key},
        {"cert": MAIL.cert, "key": key},
        {"cert": MAIL.cert + MAIL.key},
        {"cert": (MAIL.key + MAIL.cert).encode()},
        {"cert": joined},
        {"cert": joined, "key": joined},
    ]
    for form in forms:
        Client(TlsContexts(form, name="mail.example").channel()).shake()


@pytest.mark.parametrize("platform", ["linux", "another"])
def test_no_key_stays_behind_in_a_file(
    platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if platform != "linux":  # Linux has files that are in memory only
        monkeypatch.setattr("smtpproto_server._tls.sys.platform", platform)
    contexts()
    with pytest.raises(ConfigurationError):
        contexts(key=SHOP.key)
    assert list(tmp_path.iterdir()) == []


ENCRYPTED: Final = (
    ec.generate_private_key(ec.SECP256R1())
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    .decode()
)
CLIENT_ONLY: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
SERVER_CONTEXT: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
BROKEN: Final = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


CONFIGURATION_FAULTS: Final[list[tuple[dict[str, Any], str]]] = [
    ({"key": MAIL.key}, "no certificate: set cert"),
    ({"min_version": "TLSv1.3"}, "no certificate: set cert"),
    ({"sni_options": {"a.example": SHOP.options}}, "no certificate: set cert"),
    ({"cert": MAIL.cert}, "no private key: set key"),
    ({"cert": MAIL.key, "key": MAIL.key}, "cert contains no certificate"),
    ({"cert": MAIL.cert, "key": MAIL.cert}, "key contains no private key"),
    ({"cert": MAIL.cert, "key": SHOP.key}, "does not belong to the certificate"),
    ({"cert": MAIL.cert, "key": ENCRYPTED}, "key is encrypted: decrypt it"),
    ({"cert": BROKEN, "key": MAIL.key}, "cert and key cannot be used"),
    ({"cert": b"\x30\x82", "key": MAIL.key}, "cert is not PEM"),
    ({"cert": "", "key": MAIL.key}, "cert: cannot read ''"),
    ({"cert": "/no/such/file", "key": MAIL.key}, "cert: cannot read '/no/such/file': No such file"),
    ({"cert": MAIL.cert, "key": "a\0b"}, "key: cannot read .*: not a path"),
    ({"cert": MAIL.cert, "key": "MIGH" * 60}, "key: cannot read its path"),
    ({"cert": MAIL.cert, "key": 5}, "key must be PEM text .* not int"),
    ({"ssl_context": SERVER_CONTEXT, **MAIL.options}, "ssl_context replaces cert"),
    ({"ssl_context": SERVER_CONTEXT, "request_cert": True}, "ssl_context replaces request_cert"),
    ({"ssl_context": SERVER_CONTEXT, "sni_options": {"a": {}}}, "ssl_context replaces sni_options"),
    ({"ssl_context": CLIENT_ONLY}, "make it with ssl.PROTOCOL_TLS_SERVER"),
    ({"ssl_context": "tls"}, "ssl_context must be an ssl.SSLContext, not str"),
    ({**MAIL.options, "request_cert": 1}, "request_cert must be True or False"),
    ({**MAIL.options, "reject_unauthorized": "no"}, "reject_unauthorized must be True or False"),
    ({**MAIL.options, "request_cert": True, "ca": "/no/such/file"}, "ca: cannot read"),
    ({**MAIL.options, "request_cert": True, "ca": BROKEN}, "ca cannot be used"),
    ({**MAIL.options, "request_cert": True, "ca": [CA, 5]}, "ca must be PEM text .* not int"),
    ({**MAIL.options, "min_version": "SSLv3"}, "min_version must be one of .*'SSLv3'"),
    ({**MAIL.options, "max_version": "1.3"}, "max_version must be one of .*'1.3'"),
    ({**MAIL.options, "min_version": 1.2}, "min_version must be a str, not float"),
    (
        {**MAIL.options, "min_version": "TLSv1.3", "max_version": "TLSv1.2"},
        "min_version is above max_version",
    ),
    ({**MAIL.options, "sni_options": [("a", {})]}, "sni_options must be a mapping"),
    ({**MAIL.options, "sni_options": {"*.a.example": {}}}, "no host name"),
    ({**MAIL.options, "sni_options": {"": {}}}, "no host name"),
    ({**MAIL.options, "sni_options": {"a..b": {}}}, "no host name"),
    ({**MAIL.options, "sni_options": {b"a": {}}}, "no host name"),
    ({**MAIL.options, "sni_options": {"a": {}, "A.": {}}}, "'A.' is there twice"),
    ({**MAIL.options, "sni_options": {"a": "x"}}, r"sni_options\['a'\]: must be a mapping .* not str"),
    (
        {**MAIL.options, "sni_options": {"a": {"key": SHOP.key}}},
        r"sni_options\['a'\]: there is no certificate",
    ),
    (
        {**MAIL.options, "sni_options": {"a": {"cert": SHOP.cert}}},
        r"sni_options\['a'\]: there is no private",
    ),
    ({**MAIL.options, "sni_options": {"a": {"sni_options": {"b": {}}}}}, "cannot be nested"),
    (
        {**MAIL.options, "sni_options": {"a": {"ssl_context": SERVER_CONTEXT, "key": "k"}}},
        "ssl_context replaces key",
    ),
    ({**MAIL.options, "sni_options": {"a": CLIENT_ONLY}}, "make it with ssl.PROTOCOL_TLS_SERVER"),
]


@pytest.mark.parametrize(("options", "told"), CONFIGURATION_FAULTS)
def test_a_configuration_fault_says_what_to_change(options: Mapping[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told) as caught:
        TlsContexts(options, name="mail.example")
    assert "MIGH" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "options", [{"certificate": "x"}, {**MAIL.options, "sni_options": {"a": {"certificate": "x"}}}]
)
def test_an_unknown_option_is_a_type_error(options: Mapping[str, Any]) -> None:
    with pytest.raises(TypeError, match="unknown TLS option 'certificate'; known are key, cert"):
        TlsContexts(options, name="mail.example")


# The user's own context


def test_an_own_context_is_used_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mail.pem"
    file.write_text(MAIL.cert + MAIL.key)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(file)
    before = own.options, own.minimum_version, own.sni_callback
    asked: list[str | None] = []
    built = TlsContexts({"ssl_context": own}, name="mail.example")
    assert (own.options, own.minimum_version, own.sni_callback) == before
    assert built.warning is None
    own.sni_callback = lambda _tls, name, _context: asked.append(name)
    channel = built.channel()
    Client(channel).shake()
    assert channel.ssl_object.context is own
    assert asked == ["mail.example"]
    assert channel.details().servername == "mail.example"


def test_a_ragged_end_is_not_a_close_with_an_own_context_either(tmp_path: Path) -> None:
    # With this option, which some Pythons set by themselves, OpenSSL takes any end for a close_notify.
    file = tmp_path / "mail.pem"
    file.write_text(MAIL.cert + MAIL.key)
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(file)
    own.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    channel = TlsContexts({"ssl_context": own}, name="").channel()
    Client(channel).shake()
    channel.receive_eof()
    assert channel.read() == b""
    assert not channel.closed


# Updates


def test_an_update_counts_for_later_handshakes_only() -> None:
    built = contexts()
    running = built.channel()
    client = Client(running).shake()
    waiting = built.channel()
    built.update(**SHOP.options)
    client.send(b"still here")
    assert running.read() == b"still here"
    assert certificate_names(Client(waiting).shake()) == {"mail.example"}
    assert certificate_names(Client(built.channel(), name="shop.example").shake()) >= {"shop.example"}


def test_an_update_is_merged_and_none_takes_an_option_back() -> None:
    built = contexts(max_version="TLSv1.2")
    built.update(sni_options={"shop.example": SHOP.options})
    client = Client(built.channel(), name="shop.example").shake()
    assert client.tls.version() == "TLSv1.2"
    built.update(max_version=None)
    client = Client(built.channel(), name="shop.example").shake()
    assert client.tls.version() == "TLSv1.3"


def test_an_update_without_options_reads_the_files_again(tmp_path: Path) -> None:
    file = tmp_path / "now.pem"
    file.write_text(MAIL.cert + MAIL.key)
    built = TlsContexts({"cert": file}, name="mail.example")
    file.write_text(SHOP.cert + SHOP.key)
    built.update()
    assert certificate_names(Client(built.channel(), name="shop.example").shake()) >= {"shop.example"}


@pytest.mark.parametrize(
    "options", [{"key": SHOP.key}, {"min_version": "1"}, {"sni_options": {"a": CLIENT_ONLY}}]
)
def test_a_faulty_update_changes_nothing(options: dict[str, Any]) -> None:
    built = contexts()
    with pytest.raises(ConfigurationError):
        built.update(**options)
    with pytest.raises(TypeError):
        built.update(certificate="x")
    Client(built.channel()).shake()
    built.update()
    Client(built.channel()).shake()


def test_an_own_context_and_options_replace_each_other() -> None:
    built = contexts()
    built.update(ssl_context=SERVER_CONTEXT)
    assert built.channel().ssl_object.context is SERVER_CONTEXT
    built.update()
    assert built.channel().ssl_object.context is SERVER_CONTEXT
    built.update(**MAIL.options)
    Client(built.channel()).shake()
    with pytest.raises(ConfigurationError, match="ssl_context replaces"):
        built.update(ssl_context=SERVER_CONTEXT, **MAIL.options)


# The development certificate


def development(name: str) -> tuple[TlsContexts, x509.Certificate]:
    built = TlsContexts(dict.fromkeys(TLS_OPTION_NAMES), name=name)
    client = Client(built.channel(), context=trusting_everybody()).shake()
    raw = client.tls.getpeercert(binary_form=True)
    assert raw is not None
    return built, x509.load_der_x509_certificate(raw)


def trusting_everybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.mark.parametrize(
    ("name", "entries"),
    [
        ("mail.example", ["localhost", "mail.example"]),
        ("localhost", ["localhost"]),
        ("Bücher.example", ["localhost", "xn--bcher-kva.example"]),
        ("192.0.2.1", ["localhost", "192.0.2.1"]),
        ("[IPv6:2001:db8::1]", ["localhost", "2001:db8::1"]),
        ("[192.0.2.1]", ["localhost", "192.0.2.1"]),
        ("no host name", ["localhost"]),
        ("", ["localhost"]),
        (f"{'a' * 63}.example", ["localhost", f"{'a' * 63}.example"]),
    ],
)
def test_a_development_certificate_names_localhost_and_the_server(name: str, entries: list[str]) -> None:
    built, certificate = development(name)
    assert built.available
    assert built.warning is not None
    assert "development only" in built.warning
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(entry.value) for entry in alternatives] == entries
    common_names = [str(entry.value) for entry in certificate.subject]
    assert common_names == [entry for entry in entries if len(entry) <= 64]
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime == dt.timedelta(days=7)
    assert certificate.not_valid_before_utc < dt.datetime.now(dt.UTC)


def test_a_development_certificate_verifies_against_itself() -> None:
    built, certificate = development("mail.example")
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    for name in ("localhost", "mail.example"):
        Client(built.channel(), name=name, ca=pem).shake()


def test_a_development_certificate_is_made_once() -> None:
    assert development("mail.example")[1] == development("mail.example")[1]


def test_options_at_their_defaults_count_as_none_and_an_update_ends_development() -> None:
    built = TlsContexts(
        {"request_cert": False, "reject_unauthorized": True, "min_version": "TLSv1.2", "sni_options": {}},
        name="x",
    )
    assert built.warning is not None
    built.update()
    assert built.warning is not None
    built.update(**MAIL.options)
    assert built.warning is None
    Client(built.channel()).shake()


WITHOUT_CRYPTOGRAPHY: Final = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "cryptography":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())

from smtpproto import ConfigurationError
from smtpproto._tls import standard_name
from smtpproto_server._tls import TlsContexts

contexts = TlsContexts({}, name="mail.example")
assert not contexts.available
assert "cryptography" in contexts.warning
try:
    contexts.channel()
except ConfigurationError as error:
    assert "cryptography" in str(error)
else:
    raise AssertionError
contexts.update(cert=sys.stdin.read())
assert contexts.available
assert contexts.warning is None
contexts.channel()
assert "cryptography" not in sys.modules
print("done")
"""


def test_without_the_package_cryptography_there_is_no_development_certificate() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_CRYPTOGRAPHY],
        input=MAIL.cert + MAIL.key,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.stdout, run.returncode) == ("done\n", 0), run.stderr
