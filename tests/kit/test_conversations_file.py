# conversations.jsonl is what the tests of the core say today, and what comes of it can fail.

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smtpproto import Reject
from smtpproto_kit import runtime_named
from smtpproto_kit._conversations import Conversation, conversations, from_json, replies_of_core, to_json
from smtpproto_kit._conversing import Conversing

TESTS = Path(__file__).parents[1]
EVERY = [each for chunk in conversations().values() for group in chunk.values() for each in group]
MESSAGE = (b"EHLO a\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@y.test>\r\nDATA\r\n", b"hi\r\n.\r\n")


def test_the_file_is_up_to_date() -> None:
    recorder = [sys.executable, str(TESTS / "record_conversations.py"), "--check"]
    ran = subprocess.run(recorder, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr


def test_conversations_of_all_kinds_are_there() -> None:
    assert len(EVERY) > 800
    assert len({each.name for each in EVERY}) == len(EVERY)
    assert {len(each.said) > 1 for each in EVERY} == {True, False}
    for field in ("options", "asks", "answers", "peer"):
        assert sum(bool(getattr(each, field)) for each in EVERY) > 10, field
    assert any(b"STARTTLS" in b"".join(each.said) for each in EVERY)
    assert any(each.options.get("secure") for each in EVERY)
    assert any(not each.tls_available for each in EVERY)


@pytest.mark.parametrize("each", EVERY[::50], ids=lambda each: each.name)
def test_a_conversation_survives_being_written_down(each: Conversation) -> None:
    assert from_json(to_json(each)) == each


def test_another_answer_than_the_cores_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Conversation(name="here", said=MESSAGE)
    refused = replace(made, answers={"on_data": Reject(550)})

    def of_another(_: Conversation, *rest: Any) -> Any:
        return replies_of_core(refused, *rest)

    conversing, runtime = Conversing(), runtime_named("blocking")
    assert list(conversing.differences(runtime, [made])) == []
    monkeypatch.setattr("smtpproto_kit._conversing.replies_of_core", of_another)
    [difference] = conversing.differences(runtime, [made])
    assert difference.startswith("here: b'250 2.6.0 OK: message queued")
