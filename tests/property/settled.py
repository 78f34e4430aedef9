"""The last mail: once all is settled, it says what the record says: `python -m tests.property.settled`.

The walk of tests/property/orders.py, with mails that begin and end, and purges of finished actions, between any two
deliveries.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace

from handlers.owed.kinds import TELLING
from handlers.record.decide import owed_still, why_not_owed
from tests.property.lifecycles import LifeCycle, life_cycles
from tests.property.model import mail_of
from tests.property.orders import DONE, LIMIT, PENDING, SKIPPED, Came, Tally, ends, stripe, with_copies, written


def check_settled(life_cycle: LifeCycle, copies: int, slack: int | None = None) -> Tally:
    """Checks every order, with mails that begin and end and purges that run between any two deliveries."""
    tally, answers = Tally(), None if slack is None else stripe(life_cycle, slack)
    for events in with_copies(life_cycle, copies):
        for end in ends(events, answers, tally, _meanwhile):
            _says_what_the_record_says(life_cycle, _settle(end))
    return tally


def _meanwhile(came: Came) -> set[Came]:
    reached, new = {came}, {came}
    while new:
        new = {later for one in new for later in _next(one)} - reached
        reached |= new
    return reached


def _next(came: Came) -> Iterator[Came]:
    if came.under_way:
        yield _end(came)
    else:
        yield from (_begin(came, name, cause) for name, cause in _pending_mails(came))
    # rows under work are pending, and stay
    yield came._replace(actions=frozenset(one for one in came.actions if one[2] == PENDING))


def _settle(came: Came) -> Came:
    while came.under_way or _pending_mails(came):
        came = _end(came) if came.under_way else _begin(came, *_pending_mails(came)[0])
    return came


def _pending_mails(came: Came) -> list[tuple[str, str]]:
    return sorted((name, cause) for name, cause, status in came.actions if status == PENDING and name in TELLING)


def _begin(came: Came, name: str, cause: str) -> Came:
    # Asked at the moment of doing, as in handlers.outbox.perform.
    if why_not_owed(came.record, name, cause, LIMIT):
        return _stands(came, name, cause, SKIPPED)
    return came._replace(under_way=(name, cause))


def _end(came: Came) -> Came:
    assert came.under_way
    name, cause = came.under_way
    record = replace(came.record, told=cause)
    done = _stands(came, name, cause, DONE)._replace(record=record, under_way=None)
    twice = came.told_twice or came.record.told == cause
    return done._replace(actions=written(done.actions, owed_still(record, LIMIT)), told_twice=twice)


def _stands(came: Came, name: str, cause: str, status: str) -> Came:
    others = frozenset(one for one in came.actions if one[:2] != (name, cause))
    return came._replace(actions=others | {(name, cause, status)})


def _says_what_the_record_says(life_cycle: LifeCycle, came: Came) -> None:
    record = came.record
    if came.told_twice:
        raise AssertionError(f"{life_cycle}\ntold twice: {came}")
    at_limit = record.status == "requires_input" and len(came.reports) >= LIMIT
    owed = record.status and mail_of(record.status, record.error_code, record.report_id)
    if owed and not record.redacted_at and not at_limit and record.told != owed:
        raise AssertionError(f"{life_cycle}\nthe last mail says {record.told}, and the record {owed}")


def main() -> int:
    """Tries everything, and prints how much it was."""
    parser = argparse.ArgumentParser(prog="python -m tests.property.settled", description=__doc__)
    parser.add_argument("--events", type=int, default=5, help="the longest life cycle (default: 5)")
    arguments = parser.parse_args()
    apart, tied = list(life_cycles(arguments.events)), list(life_cycles(arguments.events, same_second=True))
    for name, cycles, slack in (
        ("seconds apart, no key", apart, None),
        ("one second, no key", tied, None),
        ("Stripe asked", apart + tied, 0),
        ("the same, slow answers", apart + tied, 3),
    ):
        tally = sum((check_settled(one, 0, slack) for one in cycles), Tally())
        tally += sum((check_settled(one, 1, slack) for one in cycles if len(one.steps) < arguments.events), Tally())
        print(
            f"the last mail, {name}: {len(cycles)} life cycles, {tally.orders:,} orders of deliveries, mails and "
            f"purges in {tally.steps:,} steps, it always says what the record says",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
