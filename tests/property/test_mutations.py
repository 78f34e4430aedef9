"""The mutation check itself, shortly: its texts are those of the source, and a broken rule is noticed."""

import pytest

from tests.property.mutations import MUTATIONS, Mutation, OutdatedError, check_texts, run

SHORT = "tests/unit/test_verification.py"


def test_every_mutation_finds_its_text_in_the_source() -> None:
    check_texts()


def test_a_mutation_whose_text_has_gone_says_so() -> None:
    gone = Mutation("a rule that moved", "handlers/record/ordering.py", "no such line", "", ())
    with pytest.raises(OutdatedError, match="a rule that moved"):
        list(run([gone]))


def test_no_rule_is_broken_twice_in_the_same_way() -> None:
    assert len({(one.path, one.old, one.new) for one in MUTATIONS}) == len(MUTATIONS)
    assert len({one.rule for one in MUTATIONS}) == len(MUTATIONS)


def test_a_broken_rule_is_noticed_and_a_changed_comment_is_not() -> None:
    broken = next(one for one in MUTATIONS if one.rule == "what leaves the record as it is owes nothing")
    harmless = Mutation("nothing", "handlers/record/ordering.py", '"""Which of two', '"""Which of these two', (SHORT,))
    caught = [result.caught_by for result in run([broken, harmless])]
    assert caught[0] is not None
    assert caught[1] is None
