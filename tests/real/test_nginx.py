# nginx as a mail proxy: it lets clients in by itself, and tells us with XCLIENT who they are.
#
# Whom it lets in it asks over HTTP, here of a responder that knows one user and names one server.

from __future__ import annotations

import contextlib
import os
import smtplib
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import pytest

from real.programs import free_port, serving
from real.receiving import MESSAGE, PASSWORD, USER, asyncio_only, receiving

if TYPE_CHECKING:
    from collections.abc import Generator

MODULE: Final = Path("/usr/lib/nginx/modules/ngx_mail_module.so")  # where Debian has it

pytestmark = [
    pytest.mark.real("nginx"),
    pytest.mark.skipif(not MODULE.exists() and not os.environ.get("CI"), reason="needs nginx's mail module"),
]

PATIENCE: Final = 10.0  # seconds
BOB: Final = ["bob@example.org"]
FAR: Final = "127.0.0.7"  # where clients have it from; nginx itself is 127.0.0.1

CONFIGURATION: Final = """\
load_module {module};
daemon off;
worker_processes 1;
pid {home}/pid;
error_log stderr info;
events {{}}
mail {{
  auth_http 127.0.0.1:{responder};
  server_name gateway.test;
  smtp_auth plain login none;
  proxy_pass_error_message on;
  server {{
    listen 127.0.0.1:{port};
    listen [::1]:{port};
    protocol smtp;
    {how}
  }}
}}
"""


class Responder(HTTPServer):
    """Answers nginx: USER with PASSWORD may go on to this port, and so may who does not log in."""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.goes_on_to: Final = port


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Responder)
        self.send_response(200)
        if self.headers["Auth-Method"] == "none" or self._proven():
            self.send_header("Auth-Status", "OK")
            self.send_header("Auth-Server", "127.0.0.1")
            self.send_header("Auth-Port", str(self.server.goes_on_to))
        else:
            self.send_header("Auth-Status", "Invalid login or password")
            self.send_header("Auth-Error-Code", "535 5.7.8")
        self.end_headers()

    def _proven(self) -> bool:
        return (unquote(self.headers["Auth-User"]), unquote(self.headers["Auth-Pass"])) == (USER, PASSWORD)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@contextlib.contextmanager
def nginx(home: Path, server: int, how: str = "xclient on;") -> Generator[int]:
    """An nginx in front of the server on this port; the port of its own."""
    port = free_port()
    with Responder(server) as responder:
        thread = threading.Thread(target=responder.serve_forever, args=(0.05,))
        thread.start()
        try:
            file = home / "nginx.conf"
            file.write_text(
                CONFIGURATION.format(
                    module=MODULE, home=home, port=port, responder=responder.server_port, how=how
                )
            )
            with serving("nginx", "-c", file, log=home / "nginx.log", port=port):
                yield port
        finally:
            responder.shutdown()
            thread.join()


def client(port: int, address: str = FAR, host: str = "127.0.0.1") -> smtplib.SMTP:
    return smtplib.SMTP(host, port, "client.test", timeout=PATIENCE, source_address=(address, 0))


@pytest.mark.parametrize("mechanism", ["plain", asyncio_only("login")])
def test_its_xclient_says_who_the_client_is_and_who_logged_in(
    runtime: str, tmp_path: Path, mechanism: str
) -> None:
    with (
        receiving(runtime, use_xclient=["127.0.0.1"], auth_optional=False) as server,
        nginx(tmp_path, server.port) as port,
        client(port) as smtp,
    ):
        smtp.ehlo()
        smtp.user, smtp.password = USER, PASSWORD
        assert smtp.auth(mechanism.upper(), getattr(smtp, f"auth_{mechanism}"))[0] == 235
        smtp.sendmail("a@example.com", BOB, MESSAGE)
        message = server.only_message()
        assert (message.content, message.client[0], message.user) == (MESSAGE, FAR, USER)
        assert message.xclient["ADDR"] == FAR
        assert message.xclient["LOGIN"] == USER
        assert message.xclient["NAME"] is None, "it has no resolver"
        assert server.mailbox.attempts == ["XCLIENT"]


@pytest.mark.parametrize(("address", "host"), [(FAR, "127.0.0.1"), asyncio_only("::1", "::1")])
def test_its_xclient_says_who_a_client_is_that_did_not_log_in(
    runtime: str, tmp_path: Path, address: str, host: str
) -> None:
    with (
        receiving(runtime, use_xclient=["127.0.0.1"]) as server,
        nginx(tmp_path, server.port) as port,
        client(port, address, host) as smtp,
    ):
        smtp.sendmail("a@example.com", BOB, MESSAGE)
        message = server.only_message()
        assert (message.content, message.client[0], message.user) == (MESSAGE, address, None)
        assert (message.client_hostname, message.hello) == (f"[{address}]", "client.test")


@pytest.mark.asyncio_only
def test_nobody_comes_through_with_a_wrong_password(runtime: str, tmp_path: Path) -> None:
    with (
        receiving(runtime, use_xclient=["127.0.0.1"], auth_optional=False) as server,
        nginx(tmp_path, server.port) as port,
        client(port) as smtp,
    ):
        smtp.ehlo()
        guess = b64encode(f"\0{USER}\0guess".encode()).decode()
        assert smtp.docmd("AUTH", f"PLAIN {guess}")[0] == 535
        assert server.server.connects == []


def test_its_word_counts_only_where_it_is_trusted(runtime: str, tmp_path: Path) -> None:
    with (
        receiving(runtime, use_xclient=["192.0.2.1"]) as server,
        nginx(tmp_path, server.port) as port,
        client(port) as smtp,
    ):
        with pytest.raises(smtplib.SMTPException):
            smtp.sendmail("a@example.com", BOB, MESSAGE)
        assert server.mailbox.messages == []


@pytest.mark.asyncio_only
def test_its_proxy_header_says_who_the_client_is(runtime: str, tmp_path: Path) -> None:
    with (
        receiving(runtime, use_proxy=["127.0.0.1"]) as server,
        nginx(tmp_path, server.port, "xclient off; proxy_protocol on;") as port,
        client(port) as smtp,
    ):
        assert smtp.sock is not None
        mine: tuple[str, int] = smtp.sock.getsockname()
        smtp.sendmail("a@example.com", BOB, MESSAGE)
        assert server.only_message().client == mine
