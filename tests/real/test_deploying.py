# The recipes of docs/deploying.md, each tried with the programs it is for.
#
# What is tried is what the page says: files are taken from it, and only paths, ports and users become
# ones of the test. A file of the page that no test asks for is a fault.

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shlex
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import pytest
import trustme

from cli.serving import COMMAND, ENVIRONMENT, HANDS_IN, Lines, Running
from docs.blocks import DOCS, Block, Process, blocks_of
from real.programs import PATIENCE, free_port, program, serving, succeeds
from real.test_postfix import MASTER, Postfix
from smtpproto_kit import wait_until

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

PAGE: Final = list(blocks_of(DOCS / "deploying.md"))
FILTER: Final = "run-with-postfix"  # marks the program
FAR: Final = "127.0.0.7"  # where clients come from; programs between us are 127.0.0.1
MESSAGE: Final = b"From: a@client.test\r\nTo: b@example.com\r\nSubject: hi\r\n\r\nhello\r\n"
GTUBE: Final = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"

# What a Postfix needs to run out of a directory of the test's, with nothing of the system.
MAIN: Final = """\
compatibility_level = 3.6
queue_directory = {home}/queue
data_directory = {home}/data
maillog_file = {home}/log
maillog_file_prefixes = {home}
myhostname = relay.test
mydestination =
inet_interfaces = loopback-only
inet_protocols = ipv4
alias_maps =
alias_database =
local_recipient_maps =
biff = no
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
lmtp_dns_support_level = disabled
smtp_host_lookup = native
lmtp_host_lookup = native
default_transport = error:nobody but us
"""

only_root = pytest.mark.skipif(
    os.getuid() != 0 and not os.environ.get("CI"), reason="only root starts Postfix"
)


def path_of(block: Block) -> str | None:
    """Where the page puts a file: a comment at its top."""
    found = re.match(r"(?:#!.*\n)?# (/\S+)\n", block.text)
    return found and found[1]


def files(name: str) -> list[str]:
    """The files of the page whose path ends so."""
    found = [block.text for block in PAGE if (path_of(block) or "").endswith(f"/{name}")]
    assert found, name
    return found


def the_file(name: str) -> str:
    [text] = files(name)
    return text


def with_other(text: str, changes: Mapping[str, object]) -> str:
    """The text with other paths and ports; each must be there to be changed."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, str(new))
    return text


def certificate(folder: Path) -> ssl.SSLContext:
    """A new one in the files of the page; what trusts it, and nothing else."""
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    folder.mkdir(exist_ok=True)
    issued.cert_chain_pems[0].write_to_path(folder / "fullchain.pem")
    issued.private_key_pem.write_to_path(folder / "privkey.pem")
    context = ssl.create_default_context()
    context.load_verify_locations(cadata=ca.cert_pem.bytes().decode())
    return context


def client(port: int) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", port, "client.test", timeout=PATIENCE, source_address=(FAR, 0))


def secured(port: int, context: ssl.SSLContext) -> bool:
    """Whether a client that trusts these certificates only gets through STARTTLS."""
    with client(port) as smtp:
        try:
            smtp.starttls(context=context)
        except ssl.SSLCertVerificationError:
            smtp.close()
            return False
        return smtp.noop()[0] == 250


def stored(maildir: Path) -> list[bytes]:
    return [path.read_bytes() for path in (maildir / "new").iterdir()]


# --- the page ---------------------------------------------------------------------------------------


def test_every_file_of_the_page_is_tried() -> None:
    asked = set(re.findall(r'(?:the_file|files)\("(\S+?)"\)', Path(__file__).read_text("utf-8")))
    for block in PAGE:
        path = path_of(block)
        tried = block.marker == FILTER if path is None else any(path.endswith(f"/{name}") for name in asked)
        assert tried, str(block)


# --- systemd ----------------------------------------------------------------------------------------


class Unit:
    """A unit file, read as systemd does as far as these go."""

    def __init__(self, text: str) -> None:
        self._parser = configparser.RawConfigParser(strict=True, delimiters=("=",), comment_prefixes=("#",))
        self._parser.optionxform = str  # type: ignore[assignment, method-assign] # typeshed's own advice
        self._parser.read_string(text)

    def __getitem__(self, setting: tuple[str, str]) -> str:
        return self._parser.get(*setting)


class Service:
    """Stands for systemd: listens, starts the service with what it is promised, hears what it says."""

    def __init__(self, folder: Path, unit: Unit, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self._unit: Final = unit
        self._notified: Final = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.settimeout(PATIENCE)
        self._notified.bind(str(folder / "notify"))
        self.process: Final = subprocess.Popen(
            [*HANDS_IN, str(listener.fileno()), *shlex.split(unit["Service", "ExecStart"])],
            pass_fds=[listener.fileno()],
            env={**ENVIRONMENT, "NOTIFY_SOCKET": str(folder / "notify")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.process.stdout is not None
        self.journal: Final = Lines(self.process.stdout)

    def told(self) -> bytes:
        return self._notified.recv(4096)

    def command(self, setting: str) -> str:
        """A command line of the unit, as a shell takes it."""
        return self._unit["Service", setting].replace("$MAINPID", str(self.process.pid))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(float(self._unit["Service", "TimeoutStopSec"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        self.journal.rest()
        self._notified.close()


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@contextlib.contextmanager
def started(folder: Path, listener: socket.socket) -> Generator[Service]:
    """The service of the page, with its paths in this folder."""
    command = executable(folder / "bin" / "smtpproto", f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    config = folder / "smtpproto.toml"
    config.write_text(with_other(the_file("smtpproto.toml"), {"/etc/smtpproto": folder / "etc"}))
    places = {
        "/opt/smtpproto/bin/smtpproto": command,
        "/etc/smtpproto/smtpproto.toml": config,
        "/var/lib/smtpproto": folder,
    }
    with Service(folder, Unit(with_other(the_file("smtpproto.service"), places)), listener) as service:
        assert service.told() == b"READY=1"
        yield service


def test_the_service_takes_mail_from_the_socket_of_systemd(tmp_path: Path) -> None:
    trusting = certificate(tmp_path / "etc")
    listens_on = Unit(the_file("smtpproto.socket"))["Socket", "ListenStream"]
    assert listens_on == "25"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        early = socket.create_connection(listener.getsockname(), PATIENCE)
        with early, started(tmp_path, listener) as service, client(service.port) as smtp:
            assert early.recv(4096) == b"220 mx.example.com ESMTP\r\n"  # as soon as there was somebody
            smtp.starttls(context=trusting)
            assert smtp.sendmail("a@client.test", ["b@example.com"], MESSAGE) == {}
            assert smtp.esmtp_features["size"] == "50000000"
            assert len(succeeds("pgrep", "-P", str(service.process.pid)).split()) == 2
            smtp.quit()
            assert service.stop() == 0
            assert service.told() == b"STOPPING=1"
        [message] = stored(tmp_path / "mail")
        assert message.endswith(MESSAGE)
        assert b"Received: from client.test ([127.0.0.7])" in message


def test_certbot_s_script_brings_the_new_certificate_into_the_running_service(tmp_path: Path) -> None:
    old, new = certificate(tmp_path / "etc"), certificate(tmp_path / "renewed")
    group = succeeds("id", "-gn").strip()
    with socket.create_server(("127.0.0.1", 0)) as listener, started(tmp_path, listener) as service:
        assert secured(service.port, old)
        # What systemd does for `reload` is what the unit says.
        executable(
            tmp_path / "stub" / "systemctl",
            f'#!/bin/sh\ntest "$*" = "reload smtpproto" && {service.command("ExecReload")}\n',
        )
        places = {"-g smtpproto": f"-g {group}", "/etc/smtpproto/": f"{tmp_path}/etc/"}
        script = executable(tmp_path / "hook", with_other(the_file("deploy/smtpproto"), places))
        path, renewed = f"{tmp_path / 'stub'}:{os.environ['PATH']}", str(tmp_path / "renewed")
        succeeds(str(script), PATH=path, RENEWED_LINEAGE=renewed)
        wait_until(lambda: all(secured(service.port, new) for _ in range(8)), PATIENCE)  # both workers
        assert not secured(service.port, old)
        assert ((tmp_path / "etc" / "privkey.pem").stat().st_mode & 0o777) == 0o640


# --- several ports ----------------------------------------------------------------------------------


def test_25_465_and_587_are_served_as_the_page_says(tmp_path: Path) -> None:
    trusting = certificate(tmp_path / "etc")
    config = tmp_path / "ports.toml"
    places = {"/etc/smtpproto": tmp_path / "etc"} | {f"*:{port}": "127.0.0.1:0" for port in (25, 465, 587)}
    config.write_text(with_other(the_file("ports.toml"), places))
    server = Running(tmp_path, "--config", config, "--user", "bob:secret")
    try:
        ports = map(int, re.findall(r"127\.0\.0\.1:(\d+)", server.ready().place))
        mx, submissions, submission = ports
        with client(mx) as smtp:
            smtp.ehlo()
            assert "auth" not in smtp.esmtp_features
            assert smtp.sendmail("a@client.test", "b@example.com", MESSAGE) == {}
        with smtplib.SMTP_SSL("127.0.0.1", submissions, timeout=PATIENCE, context=trusting) as smtp:
            submit(smtp)
        with client(submission) as smtp:
            with pytest.raises(smtplib.SMTPSenderRefused, match="Must issue a STARTTLS command first"):
                smtp.sendmail("a@client.test", "b@example.com", MESSAGE)
            smtp.starttls(context=trusting)
            submit(smtp)
        lines = [server.out.until("^id=") for _ in range(3)]
        assert [re.findall(r"user=\S+ listener=\S+", line)[0] for line in lines] == [
            "user=- listener=smtp", "user=bob listener=submissions", "user=bob listener=submission",
        ]  # fmt: skip
        server.stop()
    finally:
        server.kill()


def submit(smtp: smtplib.SMTP) -> None:
    """Without a login nothing is taken."""
    with pytest.raises(smtplib.SMTPSenderRefused, match="authentication Required"):
        smtp.sendmail("bob@client.test", "b@example.com", MESSAGE)
    smtp.login("bob", "secret")
    assert smtp.sendmail("bob@client.test", "b@example.com", MESSAGE) == {}


@pytest.mark.real("systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    command = executable(tmp_path / "smtpproto", "#!/bin/sh\n")
    for name in ("smtpproto.socket", "smtpproto.service"):
        text = files(name)[0].replace("/opt/smtpproto/bin/smtpproto", str(command))
        (tmp_path / name).write_text(text)
    units = [str(tmp_path / name) for name in ("smtpproto.socket", "smtpproto.service")]
    said = succeeds("systemd-analyze", "verify", "--man=no", *units)
    assert [line for line in said.splitlines() if "smtpproto" in line] == []


# --- HAProxy ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def serve(folder: Path, *arguments: str | Path) -> Generator[Running]:
    """`smtpproto serve` in a folder of its own."""
    folder.mkdir(exist_ok=True)
    server = Running(folder, "--port", "0", *arguments)
    try:
        yield server.ready()
    finally:
        server.kill()


@pytest.mark.real("haproxy")
def test_behind_haproxy_the_client_is_known_and_one_of_two_servers_may_go(tmp_path: Path) -> None:
    config = tmp_path / "behind-haproxy.toml"
    config.write_text(the_file("behind-haproxy.toml"))
    with (
        serve(tmp_path / "one", "--config", config, "-v") as one,
        serve(tmp_path / "two", "--config", config, "-v") as two,
        balanced(tmp_path, one.port, two.port) as port,
    ):
        for server in (one, two):  # HAProxy looks whether they live, and they do not mind
            server.err.until("closed: ")
        for _ in range(4):
            with client(port) as smtp:
                assert smtp.sendmail("a@client.test", "b@example.com", MESSAGE) == {}
        messages = [stored(server.directory / "mail") for server in (one, two)]
        assert [len(each) for each in messages] == [2, 2]
        for [message, _] in messages:
            assert b"Received: from client.test ([127.0.0.7])" in message
        assert [line for line in one.stop() if " ERROR " in line] == []
        with client(port) as smtp:
            assert smtp.sendmail("a@client.test", "b@example.com", MESSAGE) == {}
        assert len(stored(two.directory / "mail")) == 3
        assert [line for line in two.stop() if " ERROR " in line] == []


@contextlib.contextmanager
def balanced(folder: Path, one: int, two: int) -> Generator[int]:
    """The HAProxy of the page in front of these ports; its own port."""
    file = folder / "haproxy.cfg"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        places = {":2525": f":{one}", ":2526": f":{two}", "bind :25\n": f"bind fd@{listener.fileno()}\n"}
        file.write_text(with_other(the_file("haproxy.cfg"), places))
        log, port = folder / "haproxy.log", listener.getsockname()[1]
        with serving("haproxy", "-db", "-f", file, log=log, pass_fds=[listener.fileno()]):
            listener.close()  # with HAProxy nobody listens any more
            yield port
        assert "config :" not in log.read_text()  # what it would say of a doubtful setting


# --- Postfix ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def postfix(port: int, main: str, master: str) -> Generator[Postfix]:
    """A Postfix out of a directory of its own, with these parts of the page in its configuration."""
    # Not pytest's directory: that one only its owner may enter, and Postfix is several users.
    home = Path(tempfile.mkdtemp(prefix="smtpproto-deploying-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        home.chmod(0o755)
        config = home / "config"
        for folder in (config, home / "queue"):
            folder.mkdir(mode=0o755)
        (home / "data").mkdir(mode=0o700)
        shutil.chown(home / "data", "postfix")
        (config / "main.cf").write_text(MAIN.format(home=home) + main)
        (config / "master.cf").write_text(master + MASTER.partition("\n")[2])
        stack.callback(program, "postfix", "-c", config, "stop")  # returns when the master has ended
        said = succeeds("postfix", "-c", config, "start")
        assert "warning" not in said
        yield Postfix(home, port)


def plain_master(port: int) -> str:
    return f"127.0.0.1:{port} inet n - n - - smtpd\n"


def filtering_master(port: int, asked: int, handed_back: int) -> str:
    """The page's, on these ports, and not within a chroot that only a package prepares."""
    text = re.sub(r" inet n - y ", " inet n - n ", the_file("master.cf"))
    places = {":10025": f":{asked}", ":10026": f":{handed_back}"}
    return re.sub(r"(?m)^smtp ", f"127.0.0.1:{port} ", with_other(text, places))


@only_root
@pytest.mark.real("postfix")
def test_behind_postfix_each_server_has_the_mail_of_its_domain(tmp_path: Path) -> None:
    virtual, transport = files("main.cf")
    with (
        # On one machine all may have its name, and Postfix must not take them for itself.
        serve(tmp_path / "lmtp", "--lmtp", "--set", "name=relay.test") as lmtp,
        serve(tmp_path / "smtp", "--set", "name=relay.test") as smtp,
    ):
        main = with_other(virtual, {":2424": f":{lmtp.port}"}) + with_other(
            transport, {":2525": f":{smtp.port}"}
        )
        port = free_port()
        with postfix(port, main, plain_master(port)) as relay, client(port) as sender:
            people = ["b@example.com", "c@example.com", "list@lists.example.com"]
            assert sender.sendmail("a@client.test", people, MESSAGE) == {}
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                sender.sendmail("a@client.test", ["d@elsewhere.test"], MESSAGE)
            relay.wait_for(rf"postfix/lmtp\S+ \w+: to=<b@example.com>.*:{lmtp.port}\S+ .*status=sent")
            relay.wait_for(rf"postfix/smtp\S+ \w+: to=<list@lists\S+ .*:{smtp.port}\S+ .*status=sent")
            relay.wait_until(relay.drained)
            assert lmtp.message_line()["to"] == "<b@example.com>,<c@example.com>"
            assert smtp.message_line()["to"] == "<list@lists.example.com>"
            for server in (lmtp, smtp):
                [message] = stored(server.directory / "mail")
                assert message.endswith(b"\r\n\r\nhello\r\n")


@pytest.fixture
def filtering(tmp_path: Path) -> Iterator[tuple[Process, int, int]]:
    """The page's filter, its port, and the one that it hands mail back to."""
    [block] = [block for block in PAGE if block.marker == FILTER]
    asked, handed_back = free_port(), free_port()
    text = with_other(block.text, {"10025": asked, "10026": handed_back})
    with Process(
        [sys.executable, "-W", "error", str(executable(tmp_path / "filter.py", text))], tmp_path
    ) as it:
        yield it, asked, handed_back


@only_root
@pytest.mark.real("postfix")
def test_in_front_of_postfix_a_filter_judges_while_the_client_waits(
    tmp_path: Path, filtering: tuple[Process, int, int]
) -> None:
    judge, asked, handed_back = filtering
    port = free_port()
    with serve(tmp_path / "lmtp", "--lmtp") as lmtp:
        main = with_other(files("main.cf")[0], {":2424": f":{lmtp.port}"})
        with (
            postfix(port, main, filtering_master(port, asked, handed_back)) as relay,
            client(port) as sender,
        ):
            assert sender.sendmail("a@client.test", ["b@example.com"], MESSAGE + b"..\r\n.x\r\n") == {}
            assert not sender.has_extn("dsn")
            with pytest.raises(smtplib.SMTPDataError) as refused:
                sender.sendmail("a@client.test", ["b@example.com"], MESSAGE + GTUBE + b"\r\n")
            assert refused.value.args == (550, b"5.7.1 We do not want this")
            assert judge.until("refused") == "refused: 127.0.0.7"
            letter = "Subject: été\r\n\r\nça va\r\n".encode()
            options = ("SMTPUTF8", "BODY=8BITMIME")
            assert sender.sendmail("a@client.test", ["zoë@example.com"], letter, options) == {}
            relay.wait_for(rf"postfix/lmtp\S+ \w+: to=<b@example.com>.*:{lmtp.port}\S+ .*status=sent")
            relay.wait_until(lambda: relay.drained() and len(stored(lmtp.directory / "mail")) == 2)
            # Handed back by 127.0.0.1, and known to be from where it came first.
            handed = r"client=\S+\[127\.0\.0\.1\],.* orig_client=\S+\[127\.0\.0\.7\]"
            assert len(re.findall(handed, relay.log())) == 2
        taken, foreign = sorted(stored(lmtp.directory / "mail"), key=lambda each: "é".encode() in each)
        assert taken.endswith(b"\r\n\r\nhello\r\n..\r\n.x\r\n")
        assert foreign.endswith("\r\n\r\nça va\r\n".encode())


@only_root
@pytest.mark.real("postfix")
def test_without_postfix_behind_it_the_filter_has_the_client_try_again(
    tmp_path: Path, filtering: tuple[Process, int, int]
) -> None:
    del tmp_path
    _, asked, _ = filtering
    with client(asked) as sender, pytest.raises(smtplib.SMTPDataError) as refused:
        sender.sendmail("a@client.test", ["b@example.com"], MESSAGE)
    assert refused.value.smtp_code == 451
