# The test by difference, in small; `python -m tests.differential` plays as many conversations as are wanted.

from __future__ import annotations

import os
from typing import Any, Final

import pytest

from differential.__main__ import COMMIT, versions
from differential.comparing import compare, shown, smallest
from differential.talks import SETTINGS, Step, Talk, talk
from differential.versions import NotInHistory, Version

CONVERSATIONS: Final = 500
FIRST: Final = 20261201


@pytest.fixture(scope="module")
def both() -> tuple[Version, Version]:
    try:
        return versions(COMMIT)
    except NotInHistory:
        if os.environ.get("CI"):  # which clones the whole history
            raise
        pytest.skip(f"the history does not reach back to {COMMIT}")


def test_conversations_are_what_they_were_at_the_commit_before_the_engine(
    both: tuple[Version, Version],
) -> None:
    for seed in range(FIRST, FIRST + CONVERSATIONS):
        _, found = compare(*both, talk(seed))
        assert found is None, shown(smallest(*both, found))


def test_the_two_versions_are_loaded_from_different_places(both: tuple[Version, Version]) -> None:
    now, then = both
    assert now.smtpproto.Connection is not then.smtpproto.Connection
    assert now.adapting.ServerCore is not then.adapting.ServerCore
    assert hasattr(then.smtpproto_server, "Serving")


def test_a_version_that_says_something_else_is_found_and_made_small(
    both: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, _ = both
    spelled = now.smtpproto._engine.Engine.data_to_send

    def misspelled(engine: Any) -> bytes:
        octets: bytes = spelled(engine)
        return octets.replace(b"250 2.1.5 Accepted", b"250 2.1.5 Agreed")

    monkeypatch.setattr(now.smtpproto._engine.Engine, "data_to_send", misspelled)
    said = b"EHLO c.test\r\nNOOP\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nRSET\r\n"
    given = Talk(1, 0, asks=False, waits=False, early=False, steps=(Step("octets", said), Step("eof")))
    _, found = compare(*both, given)
    assert found is not None
    least = smallest(*both, found)
    assert b"".join(step.of for step in least.talk.steps) == (
        b"EHLO c.test\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\n"
    )
    assert "Agreed" in shown(least)


def test_the_settings_are_options_of_both_versions(both: tuple[Version, Version]) -> None:
    for version in both:
        for setting in SETTINGS:
            version.smtpproto_server.Options(**version.fields(**setting))
