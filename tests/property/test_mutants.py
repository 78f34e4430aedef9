"""The random faults themselves, in short: which they are, and that each has tests to judge it."""

import ast
from pathlib import Path

import pytest
from mutmut.utils.file_utils import walk_mutatable_files

from tests.property import mutants
from tests.property.mutants import TESTS, chosen
from tests.support.extended import ROOT

SHORT = Path("handlers/record/ordering.py")


@pytest.fixture
def _one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutants, "walk_mutatable_files", lambda: [SHORT])


def test_every_file_of_the_core_has_tests_that_judge_it() -> None:
    assert {path.parent.as_posix() for path in walk_mutatable_files()} == set(TESTS)
    assert [test for tests in TESTS.values() for test in tests if not (ROOT / test).exists()] == []


@pytest.mark.usefixtures("_one_file")
def test_a_seed_says_which_faults_and_each_breaks_its_file_in_one_place() -> None:
    faults = chosen(10, seed=1)
    assert [fault.name for fault in faults] == [fault.name for fault in chosen(10, seed=1)]
    assert len({fault.broken for fault in faults}) == 10
    for fault in faults:
        assert ast.dump(ast.parse(fault.broken)) != ast.dump(ast.parse((ROOT / SHORT).read_text()))
        assert len([line for line in mutants.difference(fault) if line.startswith("@@")]) == 1


@pytest.mark.usefixtures("_one_file")
def test_what_nobody_can_notice_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = chosen(2, seed=1)
    monkeypatch.setitem(mutants.EQUAL, first.name, "for the sake of this test")
    assert chosen(1, seed=1) == [second]
