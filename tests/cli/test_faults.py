# What the user can do wrong: each is one line that says what to change, and exit status 2.

from __future__ import annotations

import shlex
import socket
from typing import TYPE_CHECKING, Final

import pytest

from cli.serving import command

if TYPE_CHECKING:
    from pathlib import Path

USAGE: Final = {
    "": "Missing command. (see: smtpproto --help)",
    "server": "No such command 'server'",
    "--prot": "No such option",
    "serve --prot 25": "No such option",
    "serve more": "Got unexpected extra argument (more) (see: smtpproto serve --help)",
    "serve --host": "Option '--host' requires an argument.",
    "serve --port 65536": "Invalid value for '--port': 65536 is not in the range 0<=x<=65535.",
    "serve --port smtp": "Invalid value for '--port': 'smtp' is not a valid integer range.",
    "serve --runtime twisted": "'twisted' is not one of 'asyncio', 'uvloop', 'anyio', 'trio', 'gevent', 'bl",
    "serve --workers 0": "Invalid value for '--workers': 0 is not in the range x>=1.",
    "serve --workers many": "Invalid value for '--workers': 'many' is not a valid integer",
    "serve --config nothing.toml": "Invalid value for '--config': File 'nothing.toml' does not exist.",
    "serve --config .": "Invalid value for '--config': File '.' is a directory.",
    "serve --tls-cert nothing": "Invalid value for '--tls-cert': File 'nothing' does not exist.",
    "serve --tls-key nothing": "Invalid value for '--tls-key': File 'nothing' does not exist.",
}
PLACES: Final = {
    "serve --host 192.0.2.1": "cannot listen on 192.0.2.1:2525: Cannot assign requested address; choose",
    "serve --host no-such-host.invalid": "choose another --host",
    "serve --host a..b": "cannot listen on a..b:2525: no such host; choose another --host",
    "serve --host ''": "--host is empty; for all addresses of this machine say '*'",
    "serve --unix x --port 25": "--unix cannot be had together with --host or --port; leave one out",
    "serve --unix x --host ::1": "--unix cannot be had together with --host or --port; leave one out",
    "serve --unix ''": "--unix is empty; give the path of the socket",
    "serve --unix no/such": "cannot listen on no/such: No such file or directory; choose another --unix",
    f"serve --unix {'x' * 200}": "choose another --unix",
    "serve --workers 2 --host 192.0.2.1": "cannot listen on 192.0.2.1:2525: Cannot assign requested address;",
    "serve --workers 2 --unix no/such": "cannot listen on no/such: No such file or directory; choose another",
}
WHERE: Final = "give url, or host and port, or path"
LISTENERS: Final = {
    "serve --listen 25": "--listen: '25' is no SCHEME://HOST:PORT or SCHEME://unix:PATH; schemes are smtp",
    "serve --listen submision://*:587": "SCHEME://unix:PATH; did you mean submission://?",
    "serve --listen SMTP://*:25": "SCHEME://unix:PATH; did you mean smtp://?",
    "serve --listen lmtp:///run/l.sock": "'/run/l.sock' is not HOST:PORT; a unix socket is lmtp://unix:/run/l.sock",
    "serve --listen http://*:25": "schemes are smtp, smtps, submission, submissions, lmtp",
    "serve --listen smtp://": "smtp://: the host is missing; for all addresses of this machine say smtp://*:25",
    "serve --listen lmtp://unix:": "--listen: lmtp://unix:: path must be text and not empty, not ''",
    "serve --listen smtps://::1:465": "'::1:465' is not HOST:PORT; an IPv6 address stands in brackets: [::1]",
    "serve --listen smtp://[127.0.0.1]:25": "'[127.0.0.1]:25' is not HOST:PORT; an IPv6 address stands in",
    "serve --listen smtp://localhost:smtp": "'localhost:smtp' is not HOST:PORT",
    "serve --listen smtp://a@localhost:1/x": "'a@localhost:1/x' is not HOST:PORT",
    "serve --listen smtp://localhost:65536": "port must be a number from 0 to 65535, not 65536",
    "serve --listen smtp://*:0 --port 25": "--host, --port and --unix do not go with --listen or [[listen]];",
    "serve --config listen.toml --host ::1": "do not go with --listen or [[listen]]; say it there",
    "serve --listen smtp://*:0 --implicit-tls": "do not go with --listen; say smtps:// or lmtp://",
    "serve --listen submission://*:0": "submission://*:0: mail here needs somebody who can log in; add",
    "serve --set listen=1": "--set: listen is no option of the server; say it on the command line",
    "serve --config tables.toml": "tables.toml: listen must be tables; begin each with [[listen]]",
    "serve --config nowhere.toml": f"nowhere.toml: [[listen]] 1 says nowhere to listen; {WHERE}",
    "serve --config twice.toml": f"twice.toml: [[listen]] 2: url and port cannot be had together; {WHERE}",
    "serve --config number.toml": "number.toml: [[listen]] 1: port must be a number from 0 to 65535, not",
    "serve --config shared.toml": "[[listen]] 1: max_clients is the same for all listeners; write it before",
    "serve --config typed.toml": "typed.toml: [[listen]] 1: there is no 'secrue' here; did you mean secure?",
    "serve --config size.toml": "size.toml: [[listen]] 1: size must be a whole number, 1 or more, or None",
    "serve --config starttls.toml": "[[listen]] 1: submission://*:0: needs_upgrade asks for STARTTLS",
}
BOUND: Final = {
    "serve --listen smtp://*:0 --listen lmtp://unix:no/such": "file or directory; choose another path",
    "serve --listen smtps://192.0.2.1": "192.0.2.1:465: Cannot assign requested address; choose a host",
    "serve --listen smtp://no-such-host.invalid": "choose another host",
}
SINKS: Final = {
    "serve --print --discard": "--maildir, --print and --discard exclude each other; choose one",
    "serve --print --maildir x": "choose one",
    "serve --discard --maildir x": "choose one",
    "serve --maildir not.toml": "--maildir: cannot use 'not.toml': ",
    "serve --maildir not.toml/x": "choose another directory",
}
OPTIONS: Final = {
    "serve --config not.toml": "not.toml is not TOML: ",
    "serve --config latin.toml": "latin.toml is not TOML: ",
    "serve --config deep.toml": "deep.toml is not TOML: ",
    "serve --config name.toml": "name.toml: there is no option 'socket-timout'; did you mean socket_timeout?",
    "serve --config value.toml": "value.toml: max_recipients must be a whole number, 1 or more, or None",
    "serve --config flag.toml": "flag.toml: port is no option of the server; say it on the command line",
    "serve --set size": "--set wants name=value, not 'size'",
    "serve --set =1": "--set wants name=value, not '=1'",
    "serve --set xyzzy=1": "--set: there is no option 'xyzzy'; the names are those of",
    "serve --set Auth-Method=1": "--set: there is no option 'Auth-Method'; did you mean auth_methods?",
    "serve --set on_data=1": "--set: on_data takes a Python object; set it in a program of your own",
    "serve --set ssl_context=1": "--set: ssl_context takes a Python object",
    "serve --set workers=2": "--set: workers is no option of the server; say it on the command line",
    "serve --set size=0": "--set: size must be a whole number, 1 or more, or None for no limit, not 0",
    "serve --set size=big": "--set: size must be a whole number",
    "serve --set socket_timeout=-1": "--set: socket_timeout must be a number of seconds above 0",
    "serve --set lmtp=yes": "--set: lmtp must be True or False, not 'yes'",
    "serve --set bare_newlines=eat": "--set: bare_newlines must be 'reject' or 'accept', not 'eat'",
    "serve --set auth_methods=SCRAM": "--set: auth_methods names 'SCRAM'",
    "serve --set use_proxy=10.0.0.0/33": "--set: use_proxy ",
    "serve --set sni_options=5": "--set: sni_options must be a mapping of host names to TLS options",
    "serve --set 'sni_options={x={}}' --workers 2": "there is no certificate: set cert",
    "serve --set 'sni_options={x={}}'": "there is no certificate: set cert",
    "serve --set needs_upgrade=true --set disabled_commands=STARTTLS": "--set: needs_upgrade asks for",
    "serve --lmtp --set size=0 --set size=-1": "--set: size must be",
}
USERS: Final = {
    "serve --user secret": "--user wants name:password, neither of them empty",
    "serve --user :secret": "--user wants name:password, neither of them empty",
    "serve --user secret:": "--user wants name:password, neither of them empty",
    "serve --user a:secret --user a:other": "--user: 'a' is there twice; remove one",
    "serve --user a:secret\udcff": "--user: name and password must be UTF-8",
    "serve --set auth_optional=false": "auth_optional=false needs somebody who can log in; add --user name:",
}
# Found when it begins to listen; by then the Maildir has been made.
LATE: Final = {*PLACES, *BOUND}
FILES: Final = {
    "not.toml": b"not = = toml\x1b[2J\n",
    "latin.toml": b'banner = "\xfc"\n',
    "deep.toml": b"size = " + b"[" * 10_000 + b"\n",
    "name.toml": b"socket-timout = 1\n",
    "value.toml": b'max_recipients = "many"\n',
    "flag.toml": b"port = 25\n",
    "listen.toml": b'[[listen]]\nurl = "smtp://*:0"\n',
    "tables.toml": b"listen = 25\n",
    "nowhere.toml": b'[[listen]]\nname = "mx"\n',
    "twice.toml": b'[[listen]]\nport = 0\n[[listen]]\nurl = "smtp://*"\nport = 25\n',
    "number.toml": b'[[listen]]\nport = "25"\n',
    "shared.toml": b"[[listen]]\nport = 0\nmax_clients = 5\n",
    "typed.toml": b"[[listen]]\nport = 0\nsecrue = true\n",
    "size.toml": b"[[listen]]\nport = 0\nsize = 0\n",
    "starttls.toml": b'disabled_commands = ["STARTTLS"]\n[[listen]]\nurl = "submission://*:0"\n'
    b"auth_optional = true\n",
}


@pytest.mark.parametrize(
    ("line", "said"),
    [*{**USAGE, **PLACES, **LISTENERS, **BOUND, **SINKS, **OPTIONS, **USERS}.items()],
    ids=ascii,
)
def test_a_fault_is_one_line_and_status_2(tmp_path: Path, line: str, said: str) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    done = command(*shlex.split(line), directory=tmp_path)
    faults = [
        each for each in done.stderr.splitlines() if not each.endswith("set cert and key")
    ]  # the warning
    assert (done.returncode, done.stdout, len(faults)) == (2, "", 1), done
    assert faults[0].startswith("smtpproto: ")
    assert said in faults[0]
    assert "secret" not in done.stderr
    assert "\x1b" not in done.stderr
    if line not in LATE:
        assert {path.name for path in tmp_path.iterdir()} == {*FILES}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_told_in_one_line(tmp_path: Path, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        port = taken.getsockname()[1]
        done = command("serve", "--port", str(port), "--discard", "--workers", workers, directory=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] == (
        f"smtpproto: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "choose another --port, or stop the program that has this one"
    )
