# What networks and peers do to a server: resets and ends at every octet, one octet at a time, peers
# that never read, floods. Afterwards nothing is left: no task, no descriptor, no session.

from __future__ import annotations

import asyncio
import errno
import gc
import select
import socket
import ssl
import struct
import sys
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from running import DATA, DEADLINE, RUNTIMES, Client, Running, new_loop, running, wait_until
from smtpproto import Accept, Reject
from smtpproto_asyncio import Options, SMTPServer

runtimes = pytest.mark.parametrize("runtime", RUNTIMES)

EHLO: Final = b"EHLO client.test\r\n"
AUTH: Final = b"AUTH LOGIN\r\ndXNlcg==\r\ncGFzc3dvcmQ=\r\n"
BODY: Final = b"Subject: x\r\n\r\n..dots\r\nend\r\n"
SESSION: Final = EHLO + AUTH + DATA + BODY + b".\r\nRSET\r\nQUIT\r\n"
END_OF_DATA: Final = SESSION.index(BODY) + len(BODY) + len(b".\r\n")
RESET: Final = struct.pack("ii", 1, 0)


class Store:
    """What was delivered, and which sessions were closed."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.closed: list[str] = []

    async def on_data(self, stream: Any, _session: object) -> None:
        self.messages.append(await stream.read())

    async def on_auth(self, auth: Any, _session: object) -> object:
        return auth.username

    async def on_close(self, session: Any) -> None:
        self.closed.append(session.id)


class PlainStore(Store):
    """The same with plain hooks."""

    def on_data(self, stream: Any, _session: object) -> None:  # type: ignore[override]
        self.messages.append(stream.read())

    def on_auth(self, auth: Any, _session: object) -> object:  # type: ignore[override]
        return auth.username

    def on_close(self, session: Any) -> None:  # type: ignore[override]
        self.closed.append(session.id)


def break_off(client: Client, how: str) -> None:
    if how == "half-close":
        client.end()
        client.rest()
    elif how == "reset":
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@runtimes
@pytest.mark.parametrize("kind", [Store, PlainStore])
@pytest.mark.parametrize("how", ["reset", "half-close", "close"])
def test_a_session_may_break_off_at_every_octet(runtime: str, kind: type[Store], how: str) -> None:
    store = kind()
    with running(runtime, handler=store, allow_insecure_auth=True) as server:
        for at in range(len(SESSION) + 1):
            client = server.client()
            assert client.line() == "220 mx.test ESMTP"
            client.send(SESSION[:at])
            break_off(client, how)
        wait_until(lambda: len(store.closed) == len(SESSION) + 1)
        assert len(set(store.closed)) == len(SESSION) + 1
        whole = len(SESSION) - END_OF_DATA + 1
        assert set(store.messages) <= {BODY.replace(b"..", b".")}
        if how == "half-close":  # nothing got lost on the way
            assert len(store.messages) == whole
        else:
            assert len(store.messages) <= whole
        assert {info["stage"] for _, info in server.errors} <= {"socket", "stream"}
        with server.client().greeted() as client:
            assert client.say("NOOP") == "250 2.0.0 OK"


@runtimes
@pytest.mark.parametrize("how", ["reset", "half-close", "close"])
@pytest.mark.parametrize("secure", [True, False])
def test_a_session_under_tls_may_break_off_at_every_octet(runtime: str, how: str, secure: bool) -> None:
    store = Store()
    with running(runtime, handler=store, secure=secure) as server:
        octets = recorded(server, secure=secure)
        tried = range(0, len(octets), 7 if secure else 11)
        wait_until(lambda: store.closed)
        store.closed.clear()
        store.messages.clear()
        for at in tried:
            client = server.client()
            if not secure:
                assert client.line() == "220 mx.test ESMTP"
            client.send(octets[:at])
            break_off(client, how)
        wait_until(lambda: len(store.closed) == len(tried))
        assert store.messages == []
        assert {info["stage"] for _, info in server.errors} <= {"tls"}


def recorded(server: Running, *, secure: bool) -> bytes:
    """What a client sends up to the end of a session under TLS."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    tls = context.wrap_bio(incoming, outgoing)
    sent = b""
    with server.client() as client:
        if not secure:
            client.greeted()
            client.say("STARTTLS")
            sent = EHLO + b"STARTTLS\r\n"
        done = False
        while not done:
            try:
                tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            octets = outgoing.read()
            sent += octets
            client.send(octets)
            if not done:
                incoming.write(client.sock.recv(65536))
        tls.write(SESSION)
        return sent + outgoing.read()


@runtimes
@pytest.mark.parametrize("kind", [Store, PlainStore])
def test_one_octet_at_a_time_is_a_session(runtime: str, kind: type[Store]) -> None:
    store = kind()
    with running(runtime, handler=store, allow_insecure_auth=True) as server, server.client() as client:
        assert client.reply() == "220 mx.test ESMTP"
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(SESSION)):
            client.send(SESSION[at : at + 1])
        assert [reply[:3] for reply in client.replies()] == [
            "250", "334", "334", "235", "250", "250", "354", "250", "250", "221",
        ]  # fmt: skip
        assert store.messages == [BODY.replace(b"..", b".")]


@runtimes
def test_a_session_in_one_segment_is_a_session(runtime: str) -> None:
    store = Store()
    with running(runtime, handler=store, allow_insecure_auth=True) as server, server.client() as client:
        assert client.reply() == "220 mx.test ESMTP"
        client.send(SESSION)
        assert [reply[:3] for reply in client.replies()] == [
            "250", "334", "334", "235", "250", "250", "354", "250", "250", "221",
        ]  # fmt: skip


@runtimes
@pytest.mark.parametrize("coloured", [True, False])
def test_a_reset_within_a_hook_ends_it_or_drops_what_it_says(runtime: str, coloured: bool) -> None:
    begun, release = threading.Event(), threading.Event()
    seen: list[str] = []

    async def on_rcpt_to(*_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    def on_rcpt_to_plain(*_: object) -> None:
        begun.set()
        release.wait(DEADLINE)
        seen.append("dropped")

    async def on_close(_session: object) -> None:
        seen.append("closed")

    hook = on_rcpt_to if coloured else on_rcpt_to_plain
    with running(runtime, on_rcpt_to=hook, on_close=on_close) as server:
        client = server.client().greeted()
        client.send(DATA)
        assert begun.wait(DEADLINE)
        break_off(client, "reset")
        wait_until(lambda: "closed" in seen)
        release.set()
        wait_until(lambda: len(seen) == 2)
        assert seen == (["cancelled", "closed"] if coloured else ["closed", "dropped"])
        ((error, info),) = server.errors
        assert isinstance(error, ConnectionResetError)
        assert info["stage"] == "socket"


@runtimes
def test_a_plain_hook_that_has_not_begun_when_its_connection_is_lost_never_does(runtime: str) -> None:
    release, called = threading.Event(), list[int]()

    def on_mail_from(address: Any, _session: object) -> None:
        called.append(len(address.address))
        release.wait(DEADLINE)

    with running(runtime, on_mail_from=on_mail_from, hook_threads=1) as server:
        with server.client().greeted() as first:
            first.send(b"MAIL FROM:<a@x>\r\n")
            wait_until(lambda: called)
            second = server.client().greeted()
            second.send(b"MAIL FROM:<abc@x>\r\n")
            break_off(second, "reset")
            wait_until(lambda: len(server.server.connections) == 1)
            release.set()
            assert first.reply() == "250 2.1.0 Accepted"
    assert called == [3]


# --- peers that never read --------------------------------------------------------------------------


def narrow(server: Running) -> Client:
    """A client with as small buffers as there are, on both sides."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.bind(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    server.call(lambda: server.server.listen(sock=sock))
    client = Client.__new__(Client)
    client.buffer, client.sock = b"", socket.socket()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    client.sock.settimeout(DEADLINE)
    client.sock.connect(("127.0.0.1", port))
    return client


@runtimes
@pytest.mark.parametrize("hooked", [True, False])
def test_a_peer_that_never_reads_is_not_read_from_for_ever(runtime: str, hooked: bool) -> None:
    async def on_vrfy(*_: object) -> None:
        await asyncio.sleep(0)

    handler = type("Handler", (), {"on_vrfy": staticmethod(on_vrfy)} if hooked else {})()
    with running(runtime, handler=handler, close_timeout=0.0) as server, narrow(server).greeted() as client:
        line = b"VRFY " + b"x" * 500 + b"\r\n"
        sent = client.fill(line)
        (peer,) = server.server.peers
        assert len(peer._inbox) <= 320 * 1024
        assert peer._transport is not None
        assert peer._transport.get_write_buffer_size() < 128 * 1024
        with server.client().greeted() as other:  # nobody else notices
            assert other.say("NOOP") == "250 2.0.0 OK"
        for _ in range(sent // len(line)):
            assert client.reply().startswith("252 ")


@runtimes
def test_a_message_larger_than_all_buffers_goes_through_narrow_sockets(runtime: str) -> None:
    store = Store()
    with running(runtime, handler=store) as server, narrow(server).greeted() as client:
        client.send(DATA + b"x" * 998 + b"\r\n" + b"y" * 300_000 + b"\r\n.\r\n")
        assert [client.reply() for _ in range(4)][3].startswith("250 ")
    assert len(store.messages[0]) == 301_002


@runtimes
def test_long_replies_go_through_narrow_sockets(runtime: str) -> None:
    with running(runtime) as server, narrow(server) as client:
        assert client.reply() == "220 mx.test ESMTP"
        client.send(EHLO * 300 + b"QUIT\r\n")
        replies = client.replies()
        assert len(replies) == 301
        assert replies[-1] == "221 2.0.0 Bye"


@runtimes
def test_a_flood_of_commands_does_not_hold_up_the_others(runtime: str) -> None:
    with (
        running(runtime) as server,
        server.client().greeted() as flooding,
        server.client().greeted() as other,
    ):
        reader = threading.Thread(target=flooding.rest)
        reader.start()
        flooding.send(EHLO * 15_000)
        for _ in range(50):
            assert other.say("NOOP") == "250 2.0.0 OK"
        flooding.end()
        reader.join(DEADLINE)
        assert not reader.is_alive()


# --- floods, and what is left -------------------------------------------------------------------------


@runtimes
def test_a_flood_of_connections_is_served(runtime: str) -> None:
    with running(runtime) as server:
        socks = [socket.create_connection(("127.0.0.1", server.port), DEADLINE) for _ in range(300)]
        poll = select.poll()
        for sock in socks:
            poll.register(sock, select.POLLIN)
        ready: set[int] = set()
        while len(ready) < len(socks):
            found = {number for number, _ in poll.poll(DEADLINE * 1000)}
            assert found
            ready |= found
            for number in found:
                poll.unregister(number)
        assert len(server.server.connections) == 300
        for sock in socks:
            assert sock.recv(100) == b"220 mx.test ESMTP\r\n"
            sock.sendall(b"QUIT\r\n")
        for sock in socks:
            assert sock.recv(100) == b"221 2.0.0 Bye\r\n"
            sock.close()
        wait_until(lambda: not server.server.connections)


@runtimes
@pytest.mark.parametrize("secure", [True, False])
def test_connections_that_come_and_go_leave_nothing_behind(runtime: str, secure: bool) -> None:
    with running(runtime, secure=secure, handler=PlainStore()) as server:
        with server.client(tls=secure).greeted() as client:
            client.send(DATA + b".\r\nQUIT\r\n")
            client.rest()
        wait_until(lambda: not server.server.peers)
        before = descriptors()
        for i in range(60):
            client = server.client(tls=secure and i % 3 == 0)
            if i % 3 == 0:
                client.send(b"" if i % 2 else EHLO)
            break_off(client, ["reset", "close"][i % 2])
        wait_until(lambda: not server.server.peers)
        wait_until(lambda: descriptors() <= before)
        assert server.server._clients == server.server._refusing == 0


@runtimes
def test_a_server_leaves_no_descriptor_behind(runtime: str) -> None:
    def once() -> None:
        with running(runtime) as server, server.client().greeted() as client:
            client.say("QUIT")
            client.rest()

    once()
    before = descriptors()
    for _ in range(5):
        once()
    assert descriptors() <= before


def test_two_servers_in_one_loop_do_not_mix() -> None:
    async def main() -> None:
        servers = [SMTPServer(Options(name=f"{name}.test", disable_reverse_lookup=True)) for name in "ab"]
        for server in servers:
            await server.listen(0, "127.0.0.1")
        for server, name in zip(servers, "ab", strict=True):
            address = server.address()
            assert isinstance(address, tuple)
            reader, writer = await asyncio.open_connection("127.0.0.1", address[1])
            assert await reader.readline() == f"220 {name}.test ESMTP\r\n".encode()
            assert bool(servers[0].connections) == (name == "a")
            assert len(server.connections) == 1
            await server.close()
            writer.close()
            await writer.wait_closed()

    asyncio.run(main())


# --- the odd cases of hooks ---------------------------------------------------------------------------


@runtimes
@pytest.mark.parametrize("coloured", [True, False])
def test_a_hook_that_would_end_the_process_has_failed(runtime: str, coloured: bool) -> None:
    async def leave(*_: object) -> None:
        sys.exit("no")

    def leave_plain(*_: object) -> None:
        sys.exit("no")

    hook = leave if coloured else leave_plain
    with running(runtime, on_mail_from=hook) as server, server.client().greeted() as client:
        assert client.say("MAIL FROM:<a@x>").startswith("451 4.3.0 ")
        assert client.say("NOOP") == "250 2.0.0 OK"
        assert isinstance(server.errors[0][0], SystemExit)


@runtimes
@pytest.mark.parametrize("sync_hooks", ["thread", "inline"])
def test_a_plain_hook_may_return_what_is_to_be_awaited(runtime: str, sync_hooks: str) -> None:
    released = threading.Event()

    async def later() -> Reject:
        await asyncio.get_running_loop().run_in_executor(None, released.wait, DEADLINE)
        return Reject(text="later")

    def on_rcpt_to(*_: object) -> Any:
        return later()

    def on_mail_from(*_: object) -> Accept:
        return Accept(text="now")

    hooks: dict[str, Any] = {"on_mail_from": on_mail_from, "on_rcpt_to": on_rcpt_to}
    with running(runtime, sync_hooks=sync_hooks, **hooks) as server, server.client().greeted() as client:
        client.send(b"MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\n")
        assert client.reply() == "250 2.1.0 now"  # it does not wait for the other
        released.set()
        assert client.reply() == "550 5.1.1 later"


@runtimes
@pytest.mark.parametrize("kind", ["coroutine", "plain", "none"])
@pytest.mark.parametrize("secure", [True, False])
def test_who_talks_before_the_greeting_interrupts_on_connect(runtime: str, kind: str, secure: bool) -> None:
    begun, release, seen = threading.Event(), threading.Event(), list[str]()

    async def on_connect(*_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    def on_connect_plain(*_: object) -> None:
        begun.set()
        release.wait(DEADLINE)

    ways: dict[str, dict[str, Any]] = {
        "coroutine": {"on_connect": on_connect},
        "plain": {"on_connect": on_connect_plain},
        "none": {"early_talker_delay": 60},
    }
    with running(runtime, secure=secure, **ways[kind]) as server, server.client(tls=secure) as client:
        assert kind == "none" or begun.wait(DEADLINE)
        client.send(EHLO)
        assert client.replies() == ["421 mx.test You talk too soon"]
        release.set()
        assert not server.errors
    assert seen == (["cancelled"] if kind == "coroutine" else [])


@runtimes
def test_a_task_that_is_cancelled_from_outside_ends_its_connection_wherever_it_is(runtime: str) -> None:
    closed: list[object] = []
    hung, given_up = threading.Event(), threading.Event()

    async def on_mail_from(*_: object) -> None:
        hung.set()
        await asyncio.Event().wait()

    async def on_data(stream: Any, _session: object) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream.read(), 0.01)
        given_up.set()

    async def on_close(session: object) -> None:
        closed.append(session)

    with running(runtime, on_data=on_data, on_close=on_close) as server:
        for where in ("idle", "hook", "drain"):
            server.server.on_mail_from = on_mail_from if where == "hook" else None
            with server.client().greeted() as client:
                if where != "idle":
                    client.send(DATA)
                    assert (hung if where == "hook" else given_up).wait(DEADLINE)
                (peer,) = server.server.peers
                server.loop.call_soon_threadsafe(peer._task.cancel)
                client.rest()
                wait_until(lambda: not server.server.peers)
                assert peer._task.cancelled()
        assert len(closed) == 3
        assert server.server._clients == 0


@pytest.mark.filterwarnings("ignore:unclosed transport")  # asyncio leaves its half-made one behind
def test_a_socket_that_dies_before_it_has_a_transport_is_closed() -> None:
    class Dead(socket.socket):
        def setsockopt(self, *_: Any) -> None:
            raise OSError(errno.EINVAL, "the peer was reset")

    async def main() -> None:
        server = SMTPServer(Options(name="mx.test"))
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()),
        ):
            ours, _ = listener.accept()
            dead = Dead(fileno=ours.detach())
            await server.serve_connection(dead)
            assert dead.fileno() == -1
        assert not server.peers

    asyncio.run(main())
    gc.collect()


@runtimes
def test_a_connection_that_comes_just_before_close_is_told(runtime: str) -> None:
    async def main() -> list[bytes]:
        server = SMTPServer(Options(name="mx.test", disable_reverse_lookup=True))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname(), DEADLINE)
            ours, _ = listener.accept()
            serving = asyncio.create_task(server.serve_connection(ours))
            await asyncio.sleep(0)
            assert not server.connections  # there is no transport yet
            closing = asyncio.create_task(server.close())
            said = await asyncio.get_running_loop().run_in_executor(None, client.recv, 1000)
            client.close()
            await asyncio.gather(serving, closing)
            return [said]

    loop = new_loop(runtime)
    try:
        assert loop.run_until_complete(main()) == [b"421 Server shutting down\r\n"]
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
