"""Every order of short life cycles ends in the same record; `make proof` tries the long ones."""

import pytest

from tests.property import orders
from tests.property.lifecycles import LifeCycle, life_cycles
from tests.property.settled import check_settled

APART = list(life_cycles(4))
TIED = list(life_cycles(4, same_second=True))
SHORT = list(life_cycles(3)) + list(life_cycles(3, same_second=True))


@pytest.mark.parametrize("life_cycle", APART, ids=str)
def test_any_order_and_any_copy_end_as_the_true_order_does(life_cycle: LifeCycle) -> None:
    assert orders.check_snapshots(life_cycle, copies=1).orders > 0


@pytest.mark.parametrize("life_cycle", TIED, ids=str)
def test_within_one_second_and_nobody_to_ask_all_orders_end_alike(life_cycle: LifeCycle) -> None:
    assert orders.check_ties(life_cycle, copies=1).orders > 0


@pytest.mark.parametrize("slack", [0, 3])
@pytest.mark.parametrize("life_cycle", APART + TIED, ids=str)
def test_stripes_answers_lead_to_the_true_end_whenever_it_is_asked(life_cycle: LifeCycle, slack: int) -> None:
    assert orders.check_answers(life_cycle, copies=1, slack=slack).orders > 0


@pytest.mark.parametrize("life_cycle", SHORT, ids=str)
def test_a_change_told_in_both_forms_is_owed_once(life_cycle: LifeCycle) -> None:
    assert orders.check_both_forms(life_cycle, slack=3).orders > 0


@pytest.mark.parametrize("life_cycle", APART + TIED, ids=str)
def test_thin_notifications_alone_lead_to_the_true_record(life_cycle: LifeCycle) -> None:
    assert orders.check_thin(life_cycle, slack=0).orders > 0


@pytest.mark.parametrize("life_cycle", APART, ids=str)
def test_thin_notifications_without_a_key_change_and_owe_nothing(life_cycle: LifeCycle) -> None:
    assert orders.check_nobody_to_ask(life_cycle).orders > 0


@pytest.mark.parametrize("slack", [None, 0], ids=["nobody to ask", "Stripe asked"])
@pytest.mark.parametrize("life_cycle", APART + TIED, ids=str)
def test_the_last_mail_says_what_the_record_says_whatever_is_purged(life_cycle: LifeCycle, slack: int | None) -> None:
    assert check_settled(life_cycle, copies=0, slack=slack).orders > 0


@pytest.mark.parametrize("life_cycle", APART + TIED, ids=str)
def test_a_burned_session_ends_and_only_tells_of_a_success_whenever_it_is_given_up(life_cycle: LifeCycle) -> None:
    assert orders.check_burned(life_cycle, copies=0).orders > 0


@pytest.mark.parametrize("slack", [None, 0, 3])
@pytest.mark.parametrize("life_cycle", SHORT, ids=str)
def test_whose_a_session_is_depends_on_no_order(life_cycle: LifeCycle, slack: int | None) -> None:
    if slack is None and life_cycle in TIED:
        return  # nobody knows the true order
    assert orders.check_whose(life_cycle, slack).orders > 0
