# The rows over TCP octet by octet, and whether playing them can fail. In one piece the public kit
# plays them against every adapter: adapters/smtpproto_kit/cases/test_rows.py.

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from smtpproto import ProtocolOptions
from smtpproto_kit import DEADLINE
from smtpproto_kit._rows import played, scenario
from smtpproto_kit._scenarios import Action, Expectation, Expire, Message
from smtpproto_kit._stage import Stage

if TYPE_CHECKING:
    from smtpproto_kit._scenarios import Scenario

SHORT: Final = 300  # octets; what is longer is not sent one by one


@pytest.fixture(scope="module")
def stage() -> Stage:
    return Stage()


def is_cheap(scene: Scenario) -> bool:
    """It can be cut, and into few pieces."""
    sent = [step for step in scene.own if isinstance(step, bytes)]
    return not scene.recipe.whole and 1 < sum(map(len, sent)) <= SHORT


@pytest.mark.parametrize("runtime", ["asyncio", "blocking"])
@pytest.mark.parametrize("row", [row for row in played() if is_cheap(scenario(row))])
def test_a_row_holds_octet_by_octet(row: str, runtime: str, stage: Stage) -> None:
    stage.play(scenario(row), runtime, octets=True)


@pytest.mark.parametrize("row", ["C001", "C052", "C056", "C107", "C218", "C238", "C286", "C344"])
def test_a_wrong_expectation_fails_over_tcp(row: str, stage: Stage) -> None:
    scene = scenario(row)
    (code, enhanced), *others = scene.turns[scene.input_at].expected.replies
    for wrong in ((299, enhanced), (code, f"{str(code)[0]}.9.9")):
        with pytest.raises(AssertionError):
            stage.play(scene.expecting(Expectation((wrong, *others))), "asyncio")


def test_a_wrong_message_fails_over_tcp(stage: Stage) -> None:
    with pytest.raises(AssertionError):
        stage.play(scenario("C107").judged_by(messages=(Message(b"a\r\n"),)), "asyncio")


def test_no_other_limit_can_close_in_the_place_of_the_one_a_row_is_about() -> None:
    limits = {"socket_timeout", "command_timeout", "proxy_timeout", "data_timeout", "session_timeout"}
    for scene in map(scenario, played()):
        made = ProtocolOptions(**scene.options)
        waits = {step.kind for step in scene.own if isinstance(step, Expire)}
        if Action.TRICKLE in scene.own or scene.id == "C382":  # these are about not closing for silence
            waits.add("socket_timeout")
        for limit in limits - waits:
            assert getattr(made, limit) > DEADLINE, (scene.id, limit)
