# What the fuzzers have learnt, without a fuzzer: every kept input, every finding, and all that the tests
# and the conformance table say, given to each target.

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fuzz.inputs import CORPUS, corpus, findings
from fuzz.seeds import seeds
from fuzz.targets import TARGETS

if TYPE_CHECKING:
    from fuzz.inputs import Finding


@pytest.mark.parametrize("target", TARGETS)
def test_no_kept_input_breaks_an_invariant(target: str) -> None:
    inputs = corpus(target)
    assert inputs
    for data in inputs:
        TARGETS[target].run(data)


@pytest.mark.parametrize("target", TARGETS)
def test_no_conversation_breaks_an_invariant(target: str) -> None:
    inputs = seeds(target)
    assert inputs
    for data in inputs:
        TARGETS[target].run(data)


@pytest.mark.parametrize("finding", findings(), ids=lambda finding: finding.name)
def test_no_finding_comes_back(finding: Finding) -> None:
    TARGETS[finding.target].run(finding.data)


def test_every_corpus_has_a_target_that_takes_all_of_it() -> None:
    assert {path.stem for path in CORPUS.iterdir()} == set(TARGETS)
    for name, target in TARGETS.items():
        assert max(map(len, corpus(name))) <= target.max_len


@pytest.mark.parametrize("target", TARGETS)
def test_no_octets_are_too_few_for_a_target(target: str) -> None:
    for length in range(24):
        TARGETS[target].run(bytes(length))
        TARGETS[target].run(b"\xff" * length)
