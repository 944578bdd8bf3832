# A server on blocking sockets that a signal handler closes, in a process of its own.

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Final

from smtpproto_kit import DATA, DEADLINE, Client

PROGRAM: Final = """
import signal
from smtpproto_blocking import SMTPServer, serve

def on_data(stream, session):
    print(b"".join(stream), flush=True)

server = SMTPServer(auth_optional=True, on_data=on_data, disable_reverse_lookup=True)
server.on("listening", lambda address: print(address[1], flush=True))
server.on("close", lambda: print("closed", flush=True))
signal.signal(signal.SIGTERM, lambda *_: server.close())
serve(server, 0, "127.0.0.1")
print("returned", flush=True)
"""


def test_a_signal_handler_may_close_it_and_an_open_transaction_ends_well() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        with Client(int(process.stdout.readline())).greeted() as client:
            client.send(DATA)
            assert [client.reply()[:3] for _ in range(3)] == ["250", "250", "354"]
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGTERM)  # the handler may come while it runs
            client.send(b"hi\r\n.\r\n")
            assert client.replies() == ["250 OK: message queued", "421 Server shutting down"]
        assert process.stdout.read() == "b'hi\\r\\n'\nclosed\nreturned\n"
        assert process.wait(DEADLINE) == 0


def test_a_keyboard_interrupt_closes_it_too() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        with Client(int(process.stdout.readline())).greeted() as client:
            process.send_signal(signal.SIGINT)
            assert client.replies() == ["421 Server shutting down"]
        said, complained = process.communicate(timeout=DEADLINE)
    assert said == "closed\n"
    assert complained.rstrip().endswith("KeyboardInterrupt")
