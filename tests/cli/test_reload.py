# SIGHUP: new certificates for new handshakes, and no harm otherwise.

from __future__ import annotations

import os
import signal
import smtplib
import ssl
from typing import TYPE_CHECKING, Final

import pytest
import trustme

from cli.serving import PATIENCE
from smtpproto_cli._runtimes import RUNTIMES
from smtpproto_kit import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from cli.serving import Running, Serve

MESSAGE: Final = b"Subject: hi\r\n\r\nhello\r\n"
NAMES: Final = ("localhost", "127.0.0.1")
OFTEN: Final = 16  # handshakes; that the kernel gives them all to one of two workers is no chance


class Authority:
    """Issues certificates into files, and is what a client trusts."""

    def __init__(self, *names: str) -> None:
        self._ca: trustme.CA = trustme.CA()
        self._issued: trustme.LeafCert = self._ca.issue_cert(*(names or NAMES))
        self.context: ssl.SSLContext = ssl.create_default_context()
        self.context.load_verify_locations(cadata=self._ca.cert_pem.bytes().decode())

    def write(self, cert: Path, key: Path) -> None:
        self._issued.cert_chain_pems[0].write_to_path(cert)
        self._issued.private_key_pem.write_to_path(key)

    def is_behind(self, server: Running, name: str = "127.0.0.1") -> bool:
        """Whether a new connection gets a certificate of this authority."""
        with smtplib.SMTP(server.host, server.port, timeout=PATIENCE) as smtp:
            smtp.ehlo()
            assert smtp.docmd("STARTTLS")[0] == 220
            assert smtp.sock is not None
            try:
                smtp.sock = self.context.wrap_socket(smtp.sock, server_hostname=name)
            except ssl.SSLCertVerificationError:
                smtp.close()
                return False
            smtp.file = None
            return smtp.docmd("EHLO client.test")[0] == 250

    def is_behind_all(self, server: Running) -> bool:
        return all(self.is_behind(server) for _ in range(OFTEN))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_new_handshakes_get_the_new_certificate_and_live_connections_go_on(
    serve: Serve, tmp_path: Path, runtime: str
) -> None:
    old, new, files = Authority(), Authority(), (tmp_path / "cert.pem", tmp_path / "key.pem")
    old.write(*files)
    server = serve("--discard", "--runtime", runtime, "--tls-cert", files[0], "--tls-key", files[1])
    with smtplib.SMTP(server.host, server.port, timeout=PATIENCE) as smtp:
        smtp.starttls(context=old.context)
        new.write(*files)
        server.send(signal.SIGHUP)
        wait_until(lambda: new.is_behind(server), PATIENCE)
        assert smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE) == {}
        files[1].write_text("no key")
        server.send(signal.SIGHUP)
        assert server.err.until("SIGHUP").endswith(
            "ERROR SIGHUP: --tls-key: key is not PEM; it must be PEM text or the path of such a file; "
            "the old certificates stay in use"
        )
        assert smtp.sendmail("a@example.com", ["b@example.com"], MESSAGE) == {}
    assert new.is_behind(server)
    assert len([line for line in server.stop() if "SIGHUP" in line]) == 1


def test_the_certificates_of_names_are_read_again_too(serve: Serve, tmp_path: Path) -> None:
    old, new, files = Authority(), Authority("mx.test"), (tmp_path / "cert.pem", tmp_path / "key.pem")
    named = (tmp_path / "named-cert.pem", tmp_path / "named-key.pem")
    old.write(*files)
    old.write(*named)
    config = tmp_path / "server.toml"
    config.write_text(
        f'cert = "{files[0]}"\nkey = "{files[1]}"\n'
        f'[sni_options]\n"mx.test" = {{cert = "{named[0]}", key = "{named[1]}"}}\n'
    )
    server = serve("--discard", "--config", config)
    new.write(*named)
    server.send(signal.SIGHUP)
    wait_until(lambda: new.is_behind(server, "mx.test"), PATIENCE)
    assert old.is_behind(server)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_without_certificate_files_it_is_only_logged(serve: Serve, workers: str) -> None:
    server = serve("--discard", "--workers", workers)
    server.send(signal.SIGHUP)
    server.err.until("WARNING SIGHUP: no certificate files are set, so none are read again")
    with smtplib.SMTP(server.host, server.port, timeout=PATIENCE) as smtp:
        assert smtp.noop()[0] == 250
    assert len([line for line in server.stop() if "SIGHUP" in line]) == 1


def test_all_workers_read_them_again(serve: Serve, tmp_path: Path) -> None:
    old, new, files = Authority(), Authority(), (tmp_path / "cert.pem", tmp_path / "key.pem")
    old.write(*files)
    server = serve("--discard", "--workers", "2", "--tls-cert", files[0], "--tls-key", files[1])
    new.write(*files)
    server.send(signal.SIGHUP)
    wait_until(lambda: new.is_behind_all(server), PATIENCE)
    # Until both have read them, our own looking is refused by us, and a worker says so.
    expected = ("closing: ", "TLSV1_ALERT_UNKNOWN_CA")
    assert [line for line in server.stop() if not any(each in line for each in expected)] == []


def test_a_worker_that_cannot_hear_it_yet_is_told_later(serve: Serve, tmp_path: Path) -> None:
    old, new, files = Authority(), Authority(), (tmp_path / "cert.pem", tmp_path / "key.pem")
    old.write(*files)
    server = serve("--discard", "--workers", "2", "--tls-cert", files[0], "--tls-key", files[1], "-v")
    workers = server.workers()
    os.kill(min(workers), signal.SIGKILL)
    wait_until(lambda: server.workers() - workers, PATIENCE)
    [beginning] = server.workers() - workers
    os.kill(beginning, signal.SIGSTOP)
    new.write(*files)
    server.send(signal.SIGHUP)
    server.err.until(r"worker [12]: SIGHUP: the certificates have been read again")
    os.kill(beginning, signal.SIGCONT)
    wait_until(lambda: new.is_behind_all(server), PATIENCE)


def test_a_worker_that_begins_while_the_files_are_broken_serves_as_the_others(
    serve: Serve, tmp_path: Path
) -> None:
    old, new, files = Authority(), Authority(), (tmp_path / "cert.pem", tmp_path / "key.pem")
    old.write(*files)
    server = serve("--discard", "--workers", "2", "--tls-cert", files[0], "--tls-key", files[1])
    break_and_kill(server, files[0])
    assert old.is_behind_all(server)
    new.write(*files)
    server.send(signal.SIGHUP)
    wait_until(lambda: new.is_behind_all(server), PATIENCE)
    break_and_kill(server, files[0])
    assert new.is_behind_all(server)
    assert len([line for line in server.stop() if "SIGHUP" in line]) == 2


def break_and_kill(server: Running, file: Path) -> None:
    """Make a file useless, say so, and have all workers replaced."""
    file.write_text("no certificate")
    server.send(signal.SIGHUP)
    server.err.until("ERROR SIGHUP: --tls-cert: cert is not PEM")
    workers = server.workers()
    for each in workers:
        os.kill(each, signal.SIGKILL)
    wait_until(lambda: len(server.workers() - workers) == 2, PATIENCE)
