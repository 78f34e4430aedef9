"""The mutation check itself, in short: it breaks the marked code, and a test notices a broken rule."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.property import copies
from tests.property.copies import LATE, NOT_RUN, Fault, failure_without, tried
from tests.property.markers import Break, OutdatedError, always, becomes, drop, markers_in, never, without
from tests.property.mutations import RULES, faults, markers
from tests.support.extended import ROOT

SHORT = ("tests/unit/test_decide.py",)


def test_each_rule_is_marked_once_and_each_marked_rule_is_broken() -> None:
    assert sorted(marker.rule for marker in markers()) == sorted(RULES)


def test_no_two_rules_are_broken_in_the_same_way() -> None:
    assert len({(fault.path, fault.broken) for fault in faults()}) == len(RULES)


@pytest.mark.parametrize(
    ("source", "how", "broken"),
    [
        ("a = 1\nb = 2  # rule: r\n", drop, "a = 1"),
        ("if a:\n    # rule: r; because of this\n    # and of that\n    b = 2\n", drop, "if a:\n    pass"),
        ("f(\n    a,\n    b=b,  # rule: r\n)\n", drop, "f(a)"),
        ("if a:  # rule: r\n    b = c if d else e\n", never, "if False:\n    b = c if d else e"),
        ("# rule: r\nb = c if d else e\n", always, "b = c if True else e"),
        ("f(g(a=1), b=2)  # rule: r\n", without("a"), "f(g(), b=2)"),
        ("for a in (b, c):  # rule: r\n    f(a)\n", without(-1), "for a in (b,):\n    f(a)"),
        ("a = max(b, c)  # rule: r\n", becomes("{args[0]}"), "a = b"),
        ("f(a, b=c)  # rule: r\n", becomes("{} + 1", of="b"), "f(a, b=c + 1)"),
        ('a = """\nb\n"""  # rule: r\n', becomes("''"), "a = ''"),
    ],
)
def test_what_a_marker_marks_is_broken_and_nothing_else(tmp_path: Path, source: str, how: Break, broken: str) -> None:
    path = tmp_path / "marked.py"
    path.write_text(source)
    (marker,) = markers_in(path)
    assert (marker.rule, marker.broken(how)) == ("r", broken)


@pytest.mark.parametrize("how", [never, without("b"), without(0), becomes("{}"), becomes("1", of="b"), becomes("1")])
def test_a_rule_that_cannot_be_broken_in_its_way_says_so(tmp_path: Path, how: Break) -> None:
    path = tmp_path / "marked.py"
    path.write_text("a = 1  # rule: r\n")
    (marker,) = markers_in(path)
    with pytest.raises(OutdatedError):
        marker.broken(how)


def test_a_rule_whose_marker_has_gone_says_so() -> None:
    with pytest.raises(OutdatedError, match="a rule that moved"):
        faults(["a rule that moved"])


def test_a_broken_rule_is_noticed_and_a_changed_sentence_is_not() -> None:
    (broken,) = faults(["a state that leaves the record as it is owes nothing"])
    path = "handlers/record/ordering.py"
    text = (ROOT / path).read_text().replace('"""Orders two', '"""Orders these two')
    harmless = Fault(name="nothing", path=path, broken=text, tests=SHORT)
    caught = [result.caught_by for result in tried([broken, harmless], 2)]
    assert caught[0] is not None
    assert caught[1] is None


def test_a_test_that_notices_no_fault_at_all_is_told_of_beforehand() -> None:
    (broken,) = faults(["a state that leaves the record as it is owes nothing"])
    reads_documents = ("tests/unit/test_contributing.py",)
    assert failure_without([replace(broken, tests=reads_documents)]) is None
    assert failure_without([replace(broken, tests=("tests/unit/test_gone.py",))]) == NOT_RUN


def test_what_a_page_types_can_be_typed_in_a_copy(tmp_path: Path) -> None:
    assert (copies._copy(tmp_path) / ".venv/bin/python").exists()


def test_a_fault_that_makes_a_test_hang_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "_LONGEST", 1)
    endless = "def test_this() -> None:\n    while True:\n        pass\n"
    fault = Fault(name="an endless loop", path="tests/unit/test_decide.py", broken=endless, tests=SHORT * 60)
    assert [result.caught_by for result in tried([fault], 1)] == [LATE]
