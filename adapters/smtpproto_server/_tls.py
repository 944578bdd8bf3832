# The TLS options of a server, made into contexts.
#
# Files are read only while contexts are built; a fault found there is the application's and raises
# at once. No text that may be a key is in an error.

from __future__ import annotations

import contextlib
import os
import re
import ssl
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

from smtpproto import ConfigurationError
from smtpproto_server._tls_channel import NO_NAMES, TlsChannel
from smtpproto_server._tls_development import development_pem
from smtpproto_server._tls_names import a_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

__all__ = ["TLS_OPTION_NAMES", "VERSIONS", "TlsContexts", "check_tls_options"]


T = TypeVar("T")


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

VERSIONS: Final[Mapping[str, ssl.TLSVersion]] = MappingProxyType(
    {
        "TLSv1": ssl.TLSVersion.TLSv1,
        "TLSv1.1": ssl.TLSVersion.TLSv1_1,
        "TLSv1.2": ssl.TLSVersion.TLSv1_2,
        "TLSv1.3": ssl.TLSVersion.TLSv1_3,
    }
)

_PEM_BEGIN: Final = "-----BEGIN "
_CERTIFICATE: Final = "CERTIFICATE-----"
_PRIVATE_KEY: Final = "PRIVATE KEY-----"
# What may be a key without its first line, which would be taken for a path: a line of its Base64 is
# that long (RFC 7468 §2; an Ed25519 key is one of 64 characters, RFC 8410).
_LIKE_A_KEY: Final = re.compile(r"[A-Za-z0-9+/]{40}|-----|[\r\n]")

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
        named: Mapping[str, ssl.SSLContext] = NO_NAMES,
        warning: str | None = None,
    ) -> None:
        self.options: Mapping[str, object] = options
        self.context: ssl.SSLContext | None = context
        self.named: Mapping[str, ssl.SSLContext] = named
        self.warning: str | None = warning


def check_tls_options(options: Mapping[str, Any]) -> None:
    """Raise what TlsContexts would, as far as it is known before any file is read."""
    given = _given(_checked(options))
    outer = _outer(given)
    if "ssl_context" not in outer:
        _versions(outer)
    _for_each_name(given.get("sni_options", {}), outer, _versions)


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
    outer = _outer(given)
    return _Built(given, _context(outer), named=_for_each_name(given.get("sni_options", {}), outer, _context))


def _outer(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options for all names that have none of their own."""
    if "sni_options" in given and "ssl_context" in given:
        raise _both("sni_options")
    return {option: value for option, value in given.items() if option != "sni_options"}


def _for_each_name(
    sni_options: Mapping[Any, Any], outer: Mapping[str, Any], make: Callable[[Mapping[str, Any]], T]
) -> Mapping[str, T]:
    """What `make` makes of the options of each name, in A-labels."""
    named: dict[str, T] = {}
    for host, entry in sni_options.items():
        name = a_labels(host)
        if name is None:
            raise ConfigurationError(f"sni_options: {host!r} is no host name (there are no wildcards)")
        if name in named:
            raise ConfigurationError(f"sni_options: {host!r} is there twice; remove one")
        try:
            named[name] = make(_options_of_name(entry, outer))
        except ConfigurationError as error:
            raise ConfigurationError(f"sni_options[{host!r}]: {error}") from error
    return named


def _options_of_name(entry: Any, outer: Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(entry, ssl.SSLContext):
        return {"ssl_context": entry}
    if not isinstance(entry, Mapping):
        raise ConfigurationError(
            f"must be a mapping of TLS options or an ssl.SSLContext, not {type(entry).__name__}"
        )
    own = _checked(cast("Mapping[str, Any]", entry))
    if "sni_options" in _given(own):
        raise ConfigurationError("sni_options cannot be nested; take the inner ones out")
    if own.get("ssl_context") is not None:
        return _given(own)
    # Key and certificate go together: the outer key fits no certificate of the entry's own.
    own_pair = own.get("key") is not None or own.get("cert") is not None
    inherited = {
        option: value for option, value in outer.items() if not (own_pair and option in {"key", "cert"})
    }
    return _given({**inherited, **own})


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
    lowest, highest = _versions(given)
    if lowest < ssl.TLSVersion.TLSv1_2:
        # The old versions rest on SHA-1 throughout, which OpenSSL 3 allows at this level alone.
        # Who names them wants them; RFC 8996 forbids them, and Python's DeprecationWarning says so.
        context.set_ciphers("DEFAULT:!aNULL:!eNULL:@SECLEVEL=0")
    context.minimum_version = lowest
    if highest is not None:
        context.maximum_version = highest


def _versions(given: Mapping[str, Any]) -> tuple[ssl.TLSVersion, ssl.TLSVersion | None]:
    """The lowest and the highest that are wanted."""
    lowest = _version("min_version", given.get("min_version", "TLSv1.2"))
    if "max_version" not in given:
        return lowest, None
    highest = _version("max_version", given["max_version"])
    if lowest > highest:
        raise ConfigurationError("min_version is above max_version: lower the one or raise the other")
    return lowest, highest


def _version(option: str, name: str) -> ssl.TLSVersion:
    if name not in VERSIONS:
        raise ConfigurationError(f"{option} must be one of {', '.join(VERSIONS)}, not {name!r}")
    return VERSIONS[name]


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
        shown = "its path" if _LIKE_A_KEY.search(os.fsdecode(path)) else repr(path)
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
        pem = development_pem(name)
    except ImportError:
        return _Built({}, None, warning=_NO_CRYPTOGRAPHY)
    return _Built({}, _context({"cert": pem}), warning=_DEVELOPMENT_ONLY)
