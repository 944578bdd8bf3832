# What a test has asked for, as options of a server.

from __future__ import annotations

import contextlib
import functools
import ssl
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, get_args

from smtpproto import XOAuth2Credentials
from smtpproto_server import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping

    import trustme

    from smtpproto import Credentials

__all__ = ["HOST", "Certificates", "Tls", "certificates", "options", "proves"]

Tls: TypeAlias = Literal["starttls", "implicit"]
HOST: Final = "127.0.0.1"
NAMES: Final = ("localhost", HOST, "::1")

USUAL: Final[Mapping[str, Any]] = {
    "name": "smtp.test",
    "disable_reverse_lookup": True,
    "hide_enhancedstatuscodes": False,  # so that a scripted reply is sent as it was written
    # What goes wrong is what was scripted, and not the fourth login of a test.
    "max_auth_attempts": None,
    "max_allowed_unauthenticated_commands": None,
}
INSTEAD: Final[Mapping[str, str]] = {
    "secure": "give tls='implicit'",
    "handler": "the hooks are the fixture's; script faults",
    "on_connect": "script CONNECT",
    "on_helo": "script EHLO",
    "on_auth": "give users, script AUTH",
    "on_mail_from": "script MAIL",
    "on_rcpt_to": "script RCPT",
    "on_data_start": "script DATA",
    "on_data": "see messages, script BODY or END_OF_DATA",
}
"""Options that are set here, and what to do to the same end."""


class Certificates(NamedTuple):
    """A server's certificate, made for the occasion, and what its clients need."""

    server_context: ssl.SSLContext
    client_context: ssl.SSLContext
    ca_file: Path


def options(
    tls: Tls | None,
    users: Mapping[str, str],
    own: Certificates | None,
    given: Mapping[str, Any],
    hooks: Mapping[str, Callable[..., Any]],
) -> Options:
    """Raises TypeError or ValueError for what cannot be had."""
    for name in given:
        if name in INSTEAD:
            raise TypeError(f"the option {name} cannot be given: {INSTEAD[name]}")
    chosen: dict[str, Any] = {**USUAL, "secure": tls == "implicit", **hooks}
    if users:
        chosen["allow_insecure_auth"] = tls is None
    else:
        chosen.update(auth_optional=True, auth_methods=())
    if own is None:  # with a context nothing is made, and nobody gets to see it
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        chosen.update(ssl_context=context, hide_starttls=True, disabled_commands=("STARTTLS",))
    else:
        chosen["ssl_context"] = own.server_context
    return Options(**{**chosen, **given})


@contextlib.contextmanager
def certificates(tls: Tls | None) -> Generator[Certificates | None]:
    """What TLS needs, None without TLS; the file is there as long as this lasts."""
    if tls is None:
        yield None
        return
    if tls not in get_args(Tls):
        raise ValueError(f"tls is None, 'starttls' or 'implicit', not {tls!r}")
    authority: Any = _authority()  # its types are known in part only
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*NAMES).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    with tempfile.TemporaryDirectory(prefix="smtp_server-") as folder:
        file = Path(folder, "ca.pem")
        authority.cert_pem.write_to_path(str(file))
        yield Certificates(server, client, file)


@functools.cache
def _authority() -> trustme.CA:
    """One for the process: it trusts nobody but itself."""
    try:
        import trustme  # noqa: PLC0415 - for servers with TLS
    except ImportError as error:
        raise LookupError("tls needs trustme: pip install 'smtpproto-server[testing]'") from error
    return trustme.CA()


def proves(auth: Credentials, password: str) -> bool:
    """Whether these credentials are those of somebody with this password, or with XOAUTH2 this token."""
    if isinstance(auth, XOAuth2Credentials):
        return auth.access_token == password
    return auth.validate_password(password)
