# The log: each record says in fields of its own which connection it is about.

from __future__ import annotations

import logging
import socket
import struct
from typing import TYPE_CHECKING, Any

from running import running, wait_until
from server.scripted import ScriptedServer
from smtpproto_kit import DATA
from smtpproto_server import Maildir

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from smtpproto import Address


def fails(*_: object) -> Any:
    raise ValueError("what a function of the application's raises")


def nameless(_ip: str) -> Any:
    return "not a list"


def on_mail_from(address: Address, _session: object) -> None:
    if address.local == "bad":
        fails()


def shown(records: list[logging.LogRecord]) -> dict[str, tuple[str, str]]:
    """What a formatter makes of the two fields, by what the records say."""
    formatter = logging.Formatter("%(session_id)s|%(remote_address)s|%(message)s")
    said: dict[str, tuple[str, str]] = {}
    for record in records:
        if record.name == "smtpproto":
            session_id, remote, text = formatter.format(record).split("\n")[0].split("|", 2)
            said[text.replace(session_id or "nobody", "ID")] = session_id, remote
    return said


def test_every_record_about_a_connection_has_its_id_and_address(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    options: dict[str, Any] = {
        "use_proxy": True,
        "disable_reverse_lookup": False,
        "resolver": nameless,
        "on_mail_from": on_mail_from,
    }
    with (
        running("asyncio", **options) as server,
        Maildir(tmp_path, name="mx.test", on_stored=fails) as store,
        server.client() as client,
    ):
        server.server.on_data = store.on_data
        for event in ("connect", "error", "close"):
            server.server.on(event, fails)
        client.send(b"PROXY TCP4 192.0.2.7 192.0.2.25 4711 25\r\n")
        client.greeted().say("MAIL FROM:<bad@x.test>")
        client.send(DATA + b"x\r\n.\r\n")
        assert [client.reply()[:3] for _ in range(4)] == ["250", "250", "354", "250"]
        (session,) = server.server.sessions
        # Closing now resets the connection.
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        wait_until(lambda: not server.server.peers)
    said = shown(caplog.records)
    of_nobody = {text for text, fields in said.items() if fields == ("", "")}
    before = {text for text, fields in said.items() if fields == (session.id, "127.0.0.1")}
    of_the_client = {text for text, fields in said.items() if fields == (session.id, "192.0.2.7")}
    assert "use_proxy=True: anyone who can connect can forge addresses" in of_nobody
    assert "a listener for 'close' raised" in of_nobody
    assert [text.rpartition(":")[0] for text in before] == ["ID: connection from [127.0.0.1]"]
    assert len(of_the_client) == 7
    assert of_the_client >= {
        "ID: [192.0.2.7] has no usable name: 'not a list'",
        "a listener for 'connect' raised",
        "a listener for 'error' raised",
        "ID [192.0.2.7]: hook: ValueError: what a function of the application's raises",
        "ID: closed: connection lost",
    }
    assert {text.partition(" ID")[0].split(" for ")[0] for text in of_the_client} >= {"on_stored failed"}
    assert of_nobody | before | of_the_client == said.keys()


def test_an_error_without_a_session_has_the_address_that_is_known(caplog: pytest.LogCaptureFixture) -> None:
    ScriptedServer().report(OSError("no room"), "accept", None, "192.0.2.9")
    assert shown(caplog.records) == {"- [192.0.2.9]: accept: OSError: no room": ("", "192.0.2.9")}


def test_what_others_log_there_has_both_fields_too(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("smtpproto").warning("from a program")
    logging.getLogger("smtpproto").warning("with its own", extra={"session_id": "x"})
    assert shown(caplog.records) == {"from a program": ("", ""), "with its own": ("x", "")}
