# A gevent server in a program that is monkey-patched, and in one that is not.

from __future__ import annotations

import subprocess
import sys
from typing import Final

import pytest

PATCH: Final = "from gevent import monkey; monkey.patch_all()\n"
PROGRAM: Final = """
import gevent, smtplib
from gevent.threadpool import ThreadPool
from smtpproto_gevent import SMTPServer
# start

def on_mail_from(address, session):
    gevent.sleep(0.01)

def on_data(stream, session):
    came.append((b"".join(stream), session.client_hostname))

class Resolver:
    def reverse(self, ip):
        return ["client.test"]

came = []
def talk(port):
    with smtplib.SMTP("127.0.0.1", port) as client:
        client.starttls()
        client.sendmail("a@x.test", ["b@y.test"], b"hi\\r\\n")

hooks = {"on_mail_from": on_mail_from, "on_data": on_data}
with SMTPServer(auth_optional=True, resolver=Resolver(), **hooks) as server:
    port = server.listen(0, "127.0.0.1").port
    talkers = [start(talk, port) for _ in range(5)]
    for talker in talkers:
        finish(talker)
print(came == [(b"hi\\r\\n", "client.test")] * 5, server.sessions)
"""
GREENLETS: Final = """
def start(f, *a): return gevent.spawn(f, *a)
def finish(g): g.get(timeout=10)
"""
THREADS: Final = """
pool = ThreadPool(5)
def start(f, *a): return pool.spawn(f, *a)
def finish(g): g.get(timeout=10)
"""


@pytest.mark.parametrize("patch", [True, False], ids=["patched", "plain"])
def test_it_serves_with_and_without_monkey_patching(patch: bool) -> None:
    first, program = (PATCH, PROGRAM.replace("# start", GREENLETS)) if patch else ("", PROGRAM)
    program = first + program.replace("# start", THREADS)
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True ()\n", done.stderr
    assert "Traceback" not in done.stderr


INTERRUPTED: Final = """
import gevent, sys
from smtpproto_gevent import SMTPServer

def hold(lock):
    with lock:
        pass

def is_free(lock):
    free = lock.acquire(False)
    if free:
        lock.release()
    return free

def interrupt(at):
    def trace(frame, event, arg):
        nonlocal at
        if frame.f_code is not hold.__code__:
            at -= 1
            if not at:
                raise KeyboardInterrupt
        return trace

    return trace

for name in ("counting", "verdicts"):
    for at in range(1, 40):
        lock = getattr(SMTPServer(), name)
        sys.settrace(interrupt(at))
        try:
            hold(lock)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        assert gevent.spawn(is_free, lock).get(), (name, at)
"""


def test_a_signal_leaves_no_lock_of_the_server_locked_in_a_patched_process() -> None:
    command = [sys.executable, "-c", PATCH + INTERRUPTED]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
