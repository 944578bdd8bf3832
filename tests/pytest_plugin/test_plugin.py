# The plugin as strangers meet it: in a run of pytest of its own, where every warning is an error.

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

import pytest

from docs.blocks import DOCS, ENVIRONMENT, ROOT, blocks_of

if TYPE_CHECKING:
    from pathlib import Path

    from docs.blocks import Block

PLUGIN: Final = "smtpproto_pytest.plugin"
# A tree that is not installed has no entry points.
INSTALLED: Final = any(each.value == PLUGIN for each in entry_points(group="pytest11"))
LOADING: Final = [] if INSTALLED else ["-p", PLUGIN]
SEND: Final = """
import smtplib
import pytest

def send(server, text="Subject: hi\\n\\nhello\\n"):
    with smtplib.SMTP(server.host, server.port, timeout=10) as client:
        client.sendmail("a@x.test", ["b@y.test"], text)
"""


def run(folder: Path, text: str, *arguments: str, settings: str = "") -> str:
    """What a run of pytest says about one file; its last line has the counts."""
    (folder / "test_it.py").write_text(text, "utf-8")
    (folder / "pytest.ini").write_text(
        f"[pytest]\nfilterwarnings = error\naddopts = --strict-markers --strict-config\n{settings}\n", "utf-8"
    )
    environment = {
        name: value for name, value in ENVIRONMENT.items() if not name.startswith(("PYTEST", "COV_CORE"))
    }
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *LOADING, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout


def outcome(said: str) -> str:
    """The counts of a run."""
    found = re.search(r"=* ?(.+) in [\d.]+s", said.splitlines()[-1])
    assert found is not None, said
    return found[1]


def test_the_distribution_tells_pytest_of_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"smtpproto": PLUGIN}


def test_a_run_that_sends_no_mail_is_left_alone(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
import sys

def test_nothing_is_loaded():
    ours = {name for name in sys.modules if name.startswith("smtpproto")}
    assert ours == {"smtpproto_pytest", "smtpproto_pytest.plugin"}
    assert not {"trustme", "cryptography", "anyio", "trio", "gevent", "uvloop"} & set(sys.modules)

def test_no_thread_is_started():
    import threading
    assert threading.active_count() == 1
""",
        "-p", "no:anyio", "--trace-config",
    )  # fmt: skip
    assert outcome(said) == "2 passed"
    assert PLUGIN in said


def test_markers_fixtures_and_options_are_explained(tmp_path: Path) -> None:
    assert "@pytest.mark.smtp_server(runtime=None, tls=None, users=None, **options)" in run(
        tmp_path, "", "--markers"
    )
    fixtures = run(tmp_path, "", "--fixtures")
    assert "A mail server on 127.0.0.1 that keeps what it is sent" in fixtures
    assert "Start mail servers" in fixtures
    options = run(tmp_path, "", "--help")
    assert "--smtp-server-runtime=NAME" in options
    assert "smtp_server_runtime (string):" in options


def test_the_nearest_marker_has_the_last_word(tmp_path: Path) -> None:
    text = f"""{SEND}
pytestmark = pytest.mark.smtp_server(name="module.test", size=1000)

@pytest.mark.smtp_server(name="class.test")
class TestIt:
    @pytest.mark.smtp_server(users={{"ann": "secret"}})
    def test_it(self, smtp_server):
        with smtplib.SMTP(smtp_server.host, smtp_server.port) as client:
            client.login("ann", "secret")
            assert client.esmtp_features["size"] == "1000"
        assert "220 class.test" in smtp_server.transcript
"""
    assert outcome(run(tmp_path, text)) == "1 passed"


@pytest.mark.parametrize(
    ("arguments", "settings", "marker", "thread"),
    [
        ((), "", "", "asyncio"),
        ((), "smtp_server_runtime = blocking", "", "blocking"),
        (("--smtp-server-runtime", "gevent"), "smtp_server_runtime = blocking", "", "gevent"),
        (("--smtp-server-runtime=gevent",), "", "@pytest.mark.smtp_server(runtime='anyio')", "anyio"),
    ],
)
def test_the_runtime_comes_from_the_marker_the_option_or_the_configuration(
    arguments: tuple[str, ...], settings: str, marker: str, thread: str, tmp_path: Path
) -> None:
    text = f"""{SEND}
import sys

{marker}
def test_it(smtp_server):
    send(smtp_server)
    runtimes = {{name for name in sys.modules if name in {{f"smtpproto_{{each}}" for each in
        ("asyncio", "anyio", "gevent", "blocking")}}}}
    assert runtimes == {{"smtpproto_{thread}"}}
"""
    assert outcome(run(tmp_path, text, *arguments, settings=settings)) == "1 passed"


WRONG: Final = {
    "tls='tls'": "smtp_server: tls is None, 'starttls' or 'implicit', not 'tls'",
    "'trio'": "smtp_server takes no str without a name",
    "{'ann': 'tr0ub4dor'}": "smtp_server takes no dict without a name",
    "runtime='twisted'": "smtp_server: twisted is no runtime",
    "on_data=print": "smtp_server: the option on_data cannot be given: see messages",
    "size=0": "smtp_server: size must be a whole number, 1 or more",
}


def test_a_marker_that_cannot_be_is_one_clear_line(tmp_path: Path) -> None:
    tests = [
        f"@pytest.mark.smtp_server({marker})\ndef test_{number}(smtp_server): ...\n"
        for number, marker in enumerate(WRONG)
    ]
    said = run(tmp_path, "import pytest\n" + "".join(tests))
    assert outcome(said) == f"{len(WRONG)} errors"
    assert [line for line in WRONG.values() if line not in said] == []
    assert "During handling" not in said
    assert "plugin.py" not in said
    assert "tr0ub4dor" not in said


def test_a_runtime_that_is_not_installed_says_what_to_install(tmp_path: Path) -> None:
    text = """
import pytest, sys

@pytest.fixture(autouse=True)
def without_gevent(monkeypatch):
    import importlib.util
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gevent" else find(name))

@pytest.mark.smtp_server(runtime="gevent")
def test_it(smtp_server): ...
"""
    assert "smtp_server: gevent needs gevent: pip install 'smtpproto-server[gevent]'" in run(tmp_path, text)


def test_tls_without_trustme_says_what_to_install(tmp_path: Path) -> None:
    text = """
import pytest, sys
sys.modules["trustme"] = None

@pytest.mark.smtp_server(tls="starttls")
def test_it(smtp_server): ...

def test_without_tls(smtp_server): ...
"""
    said = run(tmp_path, text)
    assert outcome(said) == "1 passed, 1 error"
    assert "smtp_server: tls needs trustme: pip install 'smtpproto-server[testing]'" in said


def test_a_wait_in_vain_points_at_the_test_and_shows_the_transcript(tmp_path: Path) -> None:
    text = f"""{SEND}
def test_it(smtp_server):
    smtp_server.script("MAIL", reply="550 5.7.1 no")
    try:
        send(smtp_server)
    except smtplib.SMTPException:
        pass
    smtp_server.wait_for_message(timeout=0.1)
"""
    said = run(tmp_path, text)
    assert outcome(said) == "1 failed"
    assert "AssertionError: 0 of 1 messages came in 0.1 s" in said
    assert "S: 550 5.7.1 no" in said
    assert "_server.py" not in said


def test_a_server_that_fails_fails_the_test(tmp_path: Path) -> None:
    text = f"""{SEND}
def on_vrfy(argument, session):
    raise RuntimeError("out of paper")

@pytest.mark.smtp_server(on_vrfy=on_vrfy)
def test_it(smtp_server):
    with smtplib.SMTP(smtp_server.host, smtp_server.port) as client:
        client.verify("x")
"""
    said = run(tmp_path, text)
    assert outcome(said) == "1 passed, 1 error"
    assert "\nsmtp_server has failed: hook: RuntimeError: out of paper\n" in said
    assert "plugin.py" not in said
    assert "tr0ub4dor" not in said


def test_a_test_that_fails_ends_quickly_with_its_own_failure(tmp_path: Path) -> None:
    text = f"""{SEND}
def test_it(smtp_server):
    client = smtplib.SMTP(smtp_server.host, smtp_server.port)
    try:
        assert smtp_server.messages == ["one"]
    finally:
        client.close()
"""
    said = run(tmp_path, text)
    assert outcome(said) == "1 failed"
    assert "assert [] == ['one']" in said


def test_workers_do_not_disturb_each_other(tmp_path: Path) -> None:
    text = f"""{SEND}
@pytest.mark.parametrize("runtime", ["asyncio", "uvloop", "anyio", "trio", "gevent", "blocking"])
@pytest.mark.parametrize("number", range(4))
def test_it(runtime, number, smtp_server_factory):
    server = smtp_server_factory(runtime=runtime, tls="starttls")
    send(server, f"Subject: {{number}}\\n\\n{{runtime}}\\n")
    message = server.wait_for_message()
    assert (message.email["Subject"], message.email.get_content()) == (str(number), f"{{runtime}}\\n")
    assert len(server.messages) == 1
"""
    assert outcome(run(tmp_path, text, "-n", "2")) == "24 passed"


# --- the page ---------------------------------------------------------------------------------------

PAGE: Final = DOCS / "testing-mail.md"
BLOCKS: Final = [block for block in blocks_of(PAGE) if "def test_" in block.text]


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_tests_of_the_page_pass(block: Block, tmp_path: Path) -> None:
    said = run(tmp_path, block.text)
    assert outcome(said) == f"{block.text.count('def test_')} passed", said


def test_the_page_names_every_place_of_a_fault() -> None:
    from smtpproto_pytest._faults import PLACES  # noqa: PLC0415 - of this test alone

    table = PAGE.read_text("utf-8").partition("| place | |")[2].partition("| what happens")[0]
    assert re.findall(r"`([A-Z_]+)`", re.sub(r"(?m)^(\| [^|]*\|).*$", r"\1", table)) == list(PLACES)
