# TLS as bytes in and bytes out, and the contexts it is made from.
#
# Nothing here moves a byte over a wire, waits, or knows a runtime: a channel is an SSLObject
# between two memory BIOs, and whoever owns the connection feeds and drains it. Files are read
# only while contexts are built; a fault found there is the application's and raises at once.

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import ipaddress
import os
import re
import ssl
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from smtpproto import ConfigurationError, TlsDetails, TlsOptions

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

__all__ = ["TLS_OPTION_NAMES", "TlsChannel", "TlsContexts"]

RECORD: Final = 16_384  # octets of plaintext in one record at most, RFC 8446 §5.1
CHUNK: Final = 4 * RECORD  # octets `read` hands out at once at most
# A memory BIO never gives back what it once grew to. Fed in pieces it stays near 40 KiB on a
# connection that carried a large message, instead of holding the largest read for its whole life.
PIECE: Final = RECORD
MAX_CLIENT_HELLO: Final = 32_768  # octets; with post-quantum key shares some 2,000 are usual

RECORD_HEADER: Final = 5  # octets: type, version, length
MESSAGE_HEADER: Final = 4  # octets: type, length
HANDSHAKE: Final = 22  # record type, RFC 8446 §5.1
CLIENT_HELLO: Final = 1  # message type, RFC 8446 §4
SERVER_NAME: Final = b"\0\0"  # extension type, RFC 6066 §3
# RFC 6066 §3: a DNS name in A-labels. Anything else cannot name a certificate, and has no place
# in a log either.
_HOST_NAME: Final = re.compile(r"(?=.{1,255}\Z)[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


class _Option(NamedTuple):
    default: Any
    types: tuple[type, ...]
    wanted: str


_PEM: Final = _Option(None, (str, bytes, os.PathLike), "PEM text (str or bytes) or a path")
_OPTIONS: Final[Mapping[str, _Option]] = MappingProxyType(
    {
        "key": _PEM,
        "cert": _PEM,
        "ssl_context": _Option(None, (ssl.SSLContext,), "an ssl.SSLContext"),
        "ca": _Option(None, (*_PEM.types, list, tuple), f"{_PEM.wanted}, or a list of them"),
        "request_cert": _Option(default=False, types=(bool,), wanted="True or False"),
        "reject_unauthorized": _Option(default=True, types=(bool,), wanted="True or False"),
        "min_version": _Option("TLSv1.2", (str,), "a str"),
        "max_version": _Option(None, (str,), "a str"),
        "sni_options": _Option({}, (Mapping,), "a mapping of host names to TLS options"),
    }
)
TLS_OPTION_NAMES: Final = tuple(_OPTIONS)
"""The options that `TlsContexts` and its `update` take."""

_VERSIONS: Final[Mapping[str, ssl.TLSVersion]] = MappingProxyType(
    {
        "TLSv1": ssl.TLSVersion.TLSv1,
        "TLSv1.1": ssl.TLSVersion.TLSv1_1,
        "TLSv1.2": ssl.TLSVersion.TLSv1_2,
        "TLSv1.3": ssl.TLSVersion.TLSv1_3,
    }
)
_NO_NAMES: Final[Mapping[str, ssl.SSLContext]] = MappingProxyType({})

_PEM_BEGIN: Final = "-----BEGIN "
_CERTIFICATE: Final = "CERTIFICATE-----"
_PRIVATE_KEY: Final = "PRIVATE KEY-----"
MAX_SHOWN_PATH: Final = 120  # characters in an error message

_LOAD_FAULTS: Final[Mapping[str, str]] = MappingProxyType(
    {"KEY_VALUES_MISMATCH": "the key does not belong to the certificate; give two made together"}
)
_DEVELOPMENT_ONLY: Final = (
    "no TLS option is set: using a self-signed certificate, good for development only; set cert and key"
)
_NO_CRYPTOGRAPHY: Final = (
    "TLS is not available: no TLS option is set, and the package 'cryptography', which would make a "
    "certificate for development, is not installed; set cert and key"
)
DEVELOPMENT_DAYS: Final = 7
_ADDRESS_LITERAL: Final = re.compile(r"\[(?:IPv6:)?(.+)\]", re.IGNORECASE)  # RFC 5321 §4.1.3
CLOCK_SKEW: Final = dt.timedelta(minutes=5)
MAX_COMMON_NAME: Final = 64  # characters, RFC 5280 appendix A.1, ub-common-name


class TlsChannel:
    """The server's end of one TLS connection, without the connection.

    Give it what the client sent (`receive`), and after every call send the client what
    `outgoing` holds, also when a call raised: handshake messages, session tickets and alerts
    appear there by themselves. First call `handshake` until it is True, then `read` and `write`.
    """

    __slots__ = (
        "_at", "_ended", "_fault", "_held", "_hello", "_incoming", "_named", "_outgoing",
        "closed", "servername", "ssl_object",
    )  # fmt: skip

    def __init__(self, context: ssl.SSLContext, named: Mapping[str, ssl.SSLContext] = _NO_NAMES) -> None:
        self._named: Mapping[str, ssl.SSLContext] = named
        self._hello: ClientHello | None = ClientHello()
        self._incoming: ssl.MemoryBIO = ssl.MemoryBIO()
        self._outgoing: ssl.MemoryBIO = ssl.MemoryBIO()
        self._held: bytes = b""
        self._at: int = 0
        self._ended: bool = False
        self._fault: ssl.SSLError | None = None
        self.closed: bool = False
        """The client said close_notify: what was read is all it meant to send (RFC 8446 §6.1)."""
        self.servername: str | None = None
        """The name the client asked for (SNI), lower-case, or None. Known once the handshake is done."""
        self.ssl_object: ssl.SSLObject = self._wrapped(context)
        """For questions to OpenSSL. Take it after the handshake: the client's SNI name may exchange it."""

    def receive(self, raw: bytes) -> None:
        """Take in octets the client sent, then call `handshake` or `read` until they ask for more."""
        if self._hello is not None:
            self._incoming.write(raw)
            if self._hello.feed(raw):
                self._choose(self._hello.name)
        elif not self.closed:
            self._held = self._held[self._at :] + raw if self._held else raw
            self._at = 0

    def receive_eof(self) -> None:
        """The connection ended. `closed` stays False unless a close_notify came before."""
        self._ended = True

    def handshake(self) -> bool:
        """Go on with the handshake: True when it is done, False when more octets are needed.

        Raises ssl.SSLError when it failed; the alert for the client is in `outgoing`.
        """
        # Choosing the context inside OpenSSL's SNI callback would come too late: client certificates,
        # protocol versions and ticket keys stay those of the first context. So the name comes first.
        while self._hello is None:
            try:
                self.ssl_object.do_handshake()
            except ssl.SSLWantReadError:
                if self._refill():
                    continue
                break
            return True
        if self._ended:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the client went away during the TLS handshake")
        return False

    def read(self) -> bytes:
        """The plaintext that is there now, at most 64 KiB of it; b"" when more ciphertext is needed.

        Raises ssl.SSLError when the client broke the protocol: treat the connection as lost.
        What came before the fault is handed out first, however the octets were cut.
        """
        if self._fault is not None:
            raise self._fault
        parts: list[bytes] = []
        room = CHUNK
        while room >= RECORD and self._has_ciphertext() and not self.closed:
            try:
                part = self.ssl_object.read(RECORD)
            except ssl.SSLWantReadError:
                continue  # the BIO is empty now
            except ssl.SSLZeroReturnError:  # close_notify after ours
                part = b""
            except ssl.SSLError as fault:
                self._fault = fault.with_traceback(None)
                break
            if part:
                parts.append(part)
                room -= len(part)
            else:
                self._close_input()
        if self._fault is not None and not parts:
            raise self._fault
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def ended(self) -> bool:
        """The client will send no more ciphertext."""
        return self._ended

    @property
    def pending(self) -> int:
        """Octets of ciphertext that wait to be read."""
        return len(self._held) - self._at

    def write(self, data: bytes) -> None:
        """Encrypt `data` into `outgoing`. On a broken or closed channel it is dropped, and `read` raises."""
        if data:
            try:
                self.ssl_object.write(data)
            except ssl.SSLError as fault:
                self._fault = self._fault or fault.with_traceback(None)

    def outgoing(self) -> bytes:
        """Octets for the client since the last call."""
        return self._outgoing.read()

    def close(self) -> None:
        """Queue a close_notify, if the state of the connection still allows one."""
        # The client's own close_notify is not waited for; OpenSSL reports its absence as an error.
        with contextlib.suppress(OSError):
            self.ssl_object.unwrap()

    def details(self) -> TlsDetails:
        """What the core wants to know of a finished handshake."""
        cipher = self.ssl_object.cipher()
        name = cipher[0] if cipher else ""
        return TlsDetails(
            TlsOptions(name=name, standard_name=standard_name(name), version=self.ssl_object.version() or ""),
            servername=self.servername,
            peer_certificate=self.ssl_object.getpeercert() or None,
        )

    def _wrapped(self, context: ssl.SSLContext) -> ssl.SSLObject:
        return context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def _choose(self, name: str | None) -> None:
        self._hello = None
        self.servername = name
        context = self._named.get(name) if name else None
        if context is not None:
            self.ssl_object = self._wrapped(context)

    def _has_ciphertext(self) -> bool:
        pending = self._incoming.pending
        return (pending < RECORD and self._refill()) or pending > 0 or self.ssl_object.pending() > 0

    def _refill(self) -> bool:
        """Move the next piece of what was received to where OpenSSL finds it."""
        if not self._held:
            return False
        end = self._at + PIECE
        if end < len(self._held):
            self._incoming.write(memoryview(self._held)[self._at : end])
            self._at = end
        else:
            self._incoming.write(self._held[self._at :])  # no copy of a whole small one
            self._held, self._at = b"", 0
        return True

    def _close_input(self) -> None:
        # RFC 8446 §6.1: data behind a close_notify must be ignored.
        self.closed = True
        self._held, self._at = b"", 0


class TlsContexts:
    """The TLS options of a server, made into contexts.

    `options` takes the names of `TLS_OPTION_NAMES`; an unknown one raises TypeError, whatever
    else is wrong ConfigurationError. `name` is the server's host name, for the development certificate
    that is made when no option is given.
    """

    __slots__ = ("_built", "_name")

    def __init__(self, options: Mapping[str, Any], *, name: str) -> None:
        self._name: str = name
        self._built: _Built = _build(_checked(options), name)

    @property
    def available(self) -> bool:
        """TLS can be had. False only without options and without the package `cryptography`."""
        return self._built.context is not None

    @property
    def warning(self) -> str | None:
        """What the operator should read in the log, or None."""
        return self._built.warning

    def channel(self) -> TlsChannel:
        """A new channel on the present contexts; a later `update` does not touch it."""
        built = self._built  # one look: another thread may exchange it
        if built.context is None:
            raise ConfigurationError(_NO_CRYPTOGRAPHY)
        return TlsChannel(built.context, built.named)

    def update(self, **tls_options: Any) -> None:
        """Merge these options into the present ones and build anew; without any, read the files again.

        All or nothing: when it raises, the contexts are as they were. `ssl_context` replaces
        all other options, and any other option replaces a present `ssl_context`.
        """
        given = _checked(tls_options)
        kept = dict(self._built.options)
        if given.get("ssl_context") is not None:
            kept.clear()
        elif given:
            kept.pop("ssl_context", None)
        self._built = _build({**kept, **given}, self._name)


class _Built:
    """One generation of contexts. Never changed, only replaced."""

    __slots__ = ("context", "named", "options", "warning")

    def __init__(
        self,
        options: Mapping[str, object],
        context: ssl.SSLContext | None,
        *,
        named: Mapping[str, ssl.SSLContext] = _NO_NAMES,
        warning: str | None = None,
    ) -> None:
        self.options: Mapping[str, object] = options
        self.context: ssl.SSLContext | None = context
        self.named: Mapping[str, ssl.SSLContext] = named
        self.warning: str | None = warning


class ClientHello:
    """Finds the server name in the first message of a client (RFC 8446 §4.1.2).

    Judging the message is OpenSSL's business: whatever looks wrong here has no name, and the
    default context gets to refuse it.
    """

    __slots__ = ("_message", "_records", "name")

    def __init__(self) -> None:
        self._records: bytearray = bytearray()
        self._message: bytearray = bytearray()
        self.name: str | None = None

    def feed(self, raw: bytes) -> bool:
        """Take in octets; True when `name` is final, with or without one."""
        records = self._records
        records += raw
        while records:
            if records[0] != HANDSHAKE:
                return True
            if len(records) < RECORD_HEADER:
                return False
            end = RECORD_HEADER + int.from_bytes(records[3:RECORD_HEADER])
            # RFC 8446 §5.1: a fragment of a handshake message is never empty, nor above 2^14 octets.
            if not RECORD_HEADER < end <= RECORD_HEADER + RECORD:
                return True
            if len(records) < end:
                return False
            self._message += records[RECORD_HEADER:end]
            del records[:end]
            if self._complete():
                return True
        return False

    def _complete(self) -> bool:
        message = self._message
        if message[0] != CLIENT_HELLO:
            return True
        end = MESSAGE_HEADER + int.from_bytes(message[1:MESSAGE_HEADER])
        if len(message) >= MESSAGE_HEADER and end > MAX_CLIENT_HELLO:
            return True
        if len(message) < max(end, MESSAGE_HEADER):
            return False
        self.name = _server_name(bytes(message[MESSAGE_HEADER:end]))
        return True


def _server_name(hello: bytes) -> str | None:
    at = 2 + 32  # legacy_version, random
    for width in (1, 2, 1):  # legacy_session_id, cipher_suites, legacy_compression_methods
        at += width + int.from_bytes(hello[at : at + width])
    at += 2  # length of all extensions
    while at < len(hello):
        end = at + 4 + int.from_bytes(hello[at + 2 : at + 4])
        if hello[at : at + 2] == SERVER_NAME:
            return _host_name(hello[at + 4 : end])
        at = end
    return None


def _host_name(extension: bytes) -> str | None:
    # RFC 6066 §3: length of the list, name_type host_name(0), length, name. One name of a type.
    if extension[2:3] != b"\0":
        return None
    text = extension[5 : 5 + int.from_bytes(extension[3:5])].decode("latin-1").lower().removesuffix(".")
    return text if _HOST_NAME.fullmatch(text) else None


# OpenSSL                       IANA
# ECDHE-RSA-AES256-GCM-SHA384   TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
# AES128-SHA                    TLS_RSA_WITH_AES_128_CBC_SHA
_CIPHER: Final = re.compile(
    r"(?:(?P<exchange>(?:EC)?DHE)-)?(?:(?P<signature>RSA|ECDSA|DSS)-)?"
    r"(?:(?P<cipher>AES|ARIA|CAMELLIA)(?P<bits>128|256)-(?:(?P<aead>GCM-SHA\d+|CCM)(?P<tag>8?)|(?P<mac>SHA\d*))"
    r"|(?P<chacha>CHACHA20-POLY1305))"
)


def standard_name(name: str) -> str:
    """The IANA name of an OpenSSL cipher name; those of TLS 1.3 are the same in both."""
    match = _CIPHER.fullmatch(name)
    if match is None:
        return name
    exchange = f"{match['exchange']}_" if match["exchange"] else ""
    signature = match["signature"] or "RSA"
    if match["chacha"]:
        return f"TLS_{exchange}{signature}_WITH_CHACHA20_POLY1305_SHA256"
    mode = match["aead"].replace("-", "_") if match["aead"] else f"CBC_{match['mac']}"
    tag = f"_{match['tag']}" if match["tag"] else ""
    return f"TLS_{exchange}{signature}_WITH_{match['cipher']}_{match['bits']}_{mode}{tag}"


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in options.items():
        option = _OPTIONS.get(name)
        if option is None:
            raise TypeError(f"unknown TLS option {name!r}; known are {', '.join(TLS_OPTION_NAMES)}")
        if value is not None and not isinstance(value, option.types):
            raise ConfigurationError(f"{name} must be {option.wanted}, not {type(value).__name__}")
    return dict(options)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that say anything: None, or a value at its default, is as good as left out."""
    return {name: value for name, value in options.items() if value not in (None, _OPTIONS[name].default)}


def _build(options: Mapping[str, Any], name: str) -> _Built:
    given = _given(options)
    if not given:
        return _development(name)
    outer = {option: value for option, value in given.items() if option != "sni_options"}
    if "sni_options" in given and "ssl_context" in given:
        raise _both("sni_options")
    return _Built(given, _context(outer), named=_named_contexts(given.get("sni_options", {}), outer))


def _named_contexts(sni_options: Mapping[Any, Any], outer: Mapping[str, Any]) -> Mapping[str, ssl.SSLContext]:
    named: dict[str, ssl.SSLContext] = {}
    for host, entry in sni_options.items():
        name = _a_labels(host)
        if name is None:
            raise ConfigurationError(f"sni_options: {host!r} is no host name (there are no wildcards)")
        if name in named:
            raise ConfigurationError(f"sni_options: {host!r} is there twice; remove one")
        try:
            named[name] = _named_context(entry, outer)
        except ConfigurationError as error:
            raise ConfigurationError(f"sni_options[{host!r}]: {error}") from error
    return named


def _a_labels(host: object) -> str | None:
    if not isinstance(host, str):
        return None
    try:
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        return None
    return name if _HOST_NAME.fullmatch(name) else None


def _named_context(entry: Any, outer: Mapping[str, Any]) -> ssl.SSLContext:
    if isinstance(entry, ssl.SSLContext):
        return _context({"ssl_context": entry})
    if not isinstance(entry, Mapping):
        raise ConfigurationError(
            f"must be a mapping of TLS options or an ssl.SSLContext, not {type(entry).__name__}"
        )
    own = _checked(cast("Mapping[str, Any]", entry))
    if "sni_options" in _given(own):
        raise ConfigurationError("sni_options cannot be nested; take the inner ones out")
    if own.get("ssl_context") is not None:
        return _context(_given(own))
    # Key and certificate go together: the outer key fits no certificate of the entry's own.
    own_pair = own.get("key") is not None or own.get("cert") is not None
    inherited = {
        option: value for option, value in outer.items() if not (own_pair and option in {"key", "cert"})
    }
    return _context(_given({**inherited, **own}))


def _context(given: Mapping[str, Any]) -> ssl.SSLContext:
    if "ssl_context" in given:
        return _users_context(given)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Renegotiation lets a client spend our CPU at its will; compression gives secrets away (CRIME).
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
    _limit_versions(context, given)
    _load_certificate(context, given)
    if "request_cert" in given:
        _ask_for_certificate(context, given)
    return context


def _users_context(given: Mapping[str, Any]) -> ssl.SSLContext:
    for other in given:
        if other != "ssl_context":
            raise _both(other)
    context: ssl.SSLContext = given["ssl_context"]
    try:
        TlsChannel(context)
    except ssl.SSLError as error:
        raise ConfigurationError("ssl_context cannot serve: make it with ssl.PROTOCOL_TLS_SERVER") from error
    return context


def _both(other: str) -> ConfigurationError:
    return ConfigurationError(
        f"ssl_context replaces {other}: set that up in the context itself, or leave one of the two out"
    )


def _limit_versions(context: ssl.SSLContext, given: Mapping[str, Any]) -> None:
    lowest = _version("min_version", given.get("min_version", "TLSv1.2"))
    if lowest < ssl.TLSVersion.TLSv1_2:
        # The old versions rest on SHA-1 throughout, which OpenSSL 3 allows at this level alone.
        # Who names them wants them; RFC 8996 forbids them, and Python's DeprecationWarning says so.
        context.set_ciphers("DEFAULT:!aNULL:!eNULL:@SECLEVEL=0")
    context.minimum_version = lowest
    if "max_version" in given:
        highest = _version("max_version", given["max_version"])
        if lowest > highest:
            raise ConfigurationError("min_version is above max_version: lower the one or raise the other")
        context.maximum_version = highest


def _version(option: str, name: str) -> ssl.TLSVersion:
    if name not in _VERSIONS:
        raise ConfigurationError(f"{option} must be one of {', '.join(_VERSIONS)}, not {name!r}")
    return _VERSIONS[name]


def _ask_for_certificate(context: ssl.SSLContext, given: Mapping[str, Any]) -> None:
    context.verify_mode = ssl.CERT_REQUIRED if given.get("reject_unauthorized", True) else ssl.CERT_OPTIONAL
    authorities = given.get("ca")
    if authorities is None:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    for authority in _several(authorities):
        try:
            context.load_verify_locations(cadata=_pem("ca", authority))
        except ssl.SSLError as error:
            raise ConfigurationError(f"ca cannot be used: {error}") from error


def _several(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list | tuple) else [value]


def _load_certificate(context: ssl.SSLContext, given: Mapping[str, Any]) -> None:
    cert, key = given.get("cert"), given.get("key")
    if cert is None:
        raise ConfigurationError("there is no certificate: set cert (and key, unless cert contains it)")
    chain_text = _pem("cert", cert)
    if _CERTIFICATE not in chain_text:
        raise ConfigurationError("cert contains no certificate: give the chain, the server's own one first")
    if key is None and _PRIVATE_KEY not in chain_text:
        raise ConfigurationError("there is no private key: set key, or add it to the PEM text of cert")
    if key is not None and _PRIVATE_KEY not in _pem("key", key):
        raise ConfigurationError("key contains no private key: give the one that belongs to cert")
    try:
        with _file(cert) as chain, _file(cert if key is None else key) as private_key:
            context.load_cert_chain(chain, private_key, _no_passphrase)
    except ssl.SSLError as error:
        hint = _LOAD_FAULTS.get(error.reason, str(error))
        raise ConfigurationError(f"cert and key cannot be used: {hint}") from error


def _no_passphrase() -> str:
    # Otherwise OpenSSL would ask on the terminal, and the server would stand still.
    raise ConfigurationError("key is encrypted: decrypt it, or load it into an ssl_context of your own")


def _pem(option: str, value: Any) -> str:
    """The PEM text that an option contains or names."""
    text = _pem_text(value)
    if text is None:
        text = _content(option, value)
    if _PEM_BEGIN not in text:
        raise ConfigurationError(f"{option} is not PEM; it must be PEM text or the path of such a file")
    return text.encode("ascii", "replace").decode("ascii")  # bundles have comments in UTF-8


def _pem_text(value: Any) -> str | None:
    """The value itself if it is text; None for a path."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return value if isinstance(value, str) and _PEM_BEGIN in value else None


def _content(option: str, value: Any) -> str:
    if not isinstance(value, str | os.PathLike):
        raise ConfigurationError(f"{option} must be {_PEM.wanted}, not {type(value).__name__}")
    path: str | bytes = os.fspath(cast("str | os.PathLike[str]", value))
    try:
        return Path(os.fsdecode(path)).read_bytes().decode("latin-1")
    except (OSError, ValueError) as error:
        # A key that lost its first line is taken for a path; it must not end up in a log.
        shown = repr(path) if len(path) <= MAX_SHOWN_PATH else "its path"
        reason = (isinstance(error, OSError) and error.strerror) or "not a path"
        raise ConfigurationError(f"{option}: cannot read {shown}: {reason}") from None


@contextlib.contextmanager
def _file(value: Any) -> Generator[str]:
    """A path for what OpenSSL takes from files only."""
    text = _pem_text(value)
    if text is None:
        yield os.fsdecode(value)
        return
    if sys.platform == "linux":  # in memory, so that a process that is killed leaves no key behind
        with os.fdopen(os.memfd_create("smtpproto"), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
        return
    descriptor, path = tempfile.mkstemp(prefix="smtpproto-")  # readable by this user alone
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        yield path
    finally:
        os.unlink(path)  # noqa: PTH108 - mkstemp speaks str


def _development(name: str) -> _Built:
    try:
        pem = _development_pem(name)
    except ImportError:
        return _Built({}, None, warning=_NO_CRYPTOGRAPHY)
    return _Built({}, _context({"cert": pem}), warning=_DEVELOPMENT_ONLY)


@functools.cache
def _development_pem(name: str) -> str:
    """A self-signed certificate and its key, made once in a process for each server name."""
    from cryptography import x509  # noqa: PLC0415 - optional, and most servers have certificates
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415 - optional, and most servers have certificates
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415 - optional, and most servers have certificates

    hosts = list(dict.fromkeys(host for host in ("localhost", _host(name)) if host))
    common_names = [text for text in map(str, hosts) if len(text) <= MAX_COMMON_NAME]
    alternatives = [x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host) for host in hosts]
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text) for text in common_names])
    key = ec.generate_private_key(ec.SECP256R1())
    start = dt.datetime.now(dt.UTC) - CLOCK_SKEW
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=DEVELOPMENT_DAYS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (certificate.public_bytes(serialization.Encoding.PEM) + private).decode("ascii")


def _host(name: str) -> str | ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """What a certificate may hold of a server's name; None if it is neither host nor address."""
    literal = _ADDRESS_LITERAL.fullmatch(name)
    try:
        return ipaddress.ip_address(literal[1] if literal else name)
    except ValueError:
        return _a_labels(name)
