"""Every order of every life cycle, without a database: `python -m tests.property.orders`.

The walk is over the delivered events and their result, not over the orders themselves: two orders with the same
record, submissions and owed actions go on together. So a few thousand steps stand for all orders, whose number is
counted with them.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import combinations_with_replacement
from typing import Any, NamedTuple

from handlers.owed.kinds import ENDED_BY_BURNING, KINDS, TELLING, Owed
from handlers.record.decide import decide, ending, why_not_owed
from handlers.record.events import NOT_OURS, SessionState, VerificationEvent
from handlers.record.ordering import RecordState, Seen, answered, seen_in
from tests.property.lifecycles import START, LifeCycle, as_thin, as_twin, life_cycles, wiped

LIMIT = 2  # low enough for life cycles of six events to reach it
REMINDS_AFTER = timedelta(days=1)


class Came(NamedTuple):
    """The result of the deliveries so far."""

    record: RecordState  # its number of changes depends on the order
    texts: SessionState | None  # the state whose texts the record holds; None also when they were wiped
    reports: frozenset[str]
    actions: frozenset[tuple[str, str, str]]  # name, cause, and status
    under_way: tuple[str, str] | None = None  # the mail that is being sent
    told_twice: bool = False  # the same mail twice in a row
    is_known: bool = False  # an event has proved it ours
    undecided: frozenset[VerificationEvent] = frozenset()  # ignored, since nobody could tell whether they are ours

    @property
    def keys(self) -> frozenset[tuple[str, str]]:
        """The keys of the owed actions without notify_app's: these count the changes seen, not the stale ones."""
        return frozenset((name, cause) for name, cause, _ in self.actions if name != "notify_app")


PENDING, DONE, SKIPPED = "pending", "done", "skipped"
NOTHING = Came(RecordState(), None, frozenset(), frozenset())

# The states that Stripe may answer with, and the moment of asking, once so many of the true events have happened.
Answers = Callable[[int], Iterable[tuple[VerificationEvent, datetime]]]
# The states that may follow by the next delivery, itself included.
Meanwhile = Callable[[Came], Iterable[Came]]


@dataclass
class Tally:
    """The number of life cycles, orders and steps that were tried."""

    life_cycles: int = 0
    orders: int = 0
    steps: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.life_cycles + other.life_cycles, self.orders + other.orders, self.steps + other.steps)


def ends(
    events: Sequence[VerificationEvent],
    answers: Answers | None,
    tally: Tally,
    meanwhile: Meanwhile = lambda came: (came,),
    start: Came = NOTHING,
) -> dict[Came, int]:
    """All results of any order of these deliveries, each with the number of its orders."""
    reached: dict[tuple[int, Came], int] = {(0, start): 1}
    for _ in events:
        following: Counter[tuple[int, Came]] = Counter()
        for (delivered, came), ways in reached.items():
            for index, event in enumerate(events):
                if delivered & (1 << index):
                    continue
                now = delivered | (1 << index)
                for end in set(_deliver(came, event, _happened(events, now), answers)):
                    for later in meanwhile(end):
                        following[now, later] += ways
                        tally.steps += 1
        reached = following
    tally.orders += sum(reached.values())
    tally.life_cycles += 1
    return {came: ways for (_, came), ways in reached.items()}


def in_true_order(life_cycle: LifeCycle) -> Came:
    """The result if each event arrives once, in time."""
    came = NOTHING
    for event in life_cycle.events:
        (came,) = _deliver(came, event, 0, None)
    return came


def stripe(life_cycle: LifeCycle, slack: int = 0) -> Answers:
    """A Stripe that may be asked between any two events; its stamp is `slack` seconds before the moment of asking."""

    def answers(happened: int) -> Iterator[tuple[VerificationEvent, datetime]]:
        for index in range(max(happened, 1) - 1, len(life_cycle.events)):
            event = life_cycle.events[index]
            if event.kind == "redacted":
                continue
            last = (
                index + 1 == len(life_cycle.events)
                or life_cycle.events[-1].kind == "redacted" == life_cycle.events[index + 1].kind
            )
            yield event, event.created_at - timedelta(seconds=slack)
            if last:  # no event follows: the clock goes on
                yield event, event.created_at + timedelta(seconds=5)

    return answers


def _happened(events: Sequence[VerificationEvent], delivered: int) -> int:
    numbers = [int(event.id.split("_")[1]) for index, event in enumerate(events) if delivered & (1 << index)]
    return max(numbers) + 1


def _deliver(came: Came, event: VerificationEvent, happened: int, answers: Answers | None) -> Iterator[Came]:
    for later in _delivered(came, event, happened, answers):
        if not later.is_known or not later.undecided:
            yield later
        for one in later.undecided if later.is_known else ():  # due again, as in handlers.inbox.apply
            yield from _deliver(later._replace(undecided=later.undecided - {one}), one, happened, answers)


def _delivered(came: Came, event: VerificationEvent, happened: int, answers: Answers | None) -> Iterator[Came]:
    without = _decide(came, event, None, can_ask=answers is not None)
    if without is not None:
        yield without
        return
    assert answers is not None
    for told, asked_at in answers(happened):
        assert told.state is not None
        seen = answered(event, told.state, asked_at)
        settled = _decide(came, event, seen, can_ask=True)
        if settled is not None:  # else the event waits, and a later answer settles it
            yield settled


def _decide(came: Came, event: VerificationEvent, seen: Seen | None, *, can_ask: bool) -> Came | None:
    shown = seen_in(event)
    reports = came.reports | {one.submitted for one in (shown, seen) if one and one.submitted}
    record = replace(came.record, submissions=len(reports))
    decision = decide(
        record, event, shown, seen, can_ask=can_ask, limit=LIMIT, reminds_after=REMINDS_AFTER, is_known=came.is_known
    )
    if decision is None:
        return None
    if decision.reason == NOT_OURS:
        return came._replace(undecided=came.undecided | {event})
    texts = None if decision.record.redacted_at else decision.texts or came.texts
    actions = written(came.actions, decision.owed)
    return came._replace(record=decision.record, texts=texts, reports=reports, actions=actions, is_known=True)


def written(actions: frozenset[tuple[str, str, str]], owed: Iterable[Owed]) -> frozenset[tuple[str, str, str]]:
    """The actions as handlers.owed.owe writes them: a skipped one, or a mail that is done, may become pending again."""
    standing = {(name, cause): status for name, cause, status in actions}
    for one in owed:
        key, again = (one.kind, one.cause), (SKIPPED, DONE) if KINDS[one.kind].tells_the_person else (SKIPPED,)
        if standing.get(key, SKIPPED) in again and not one.skipped:
            standing[key] = PENDING
        else:
            standing.setdefault(key, SKIPPED)
    return frozenset((name, cause, status) for (name, cause), status in standing.items())


def with_copies(life_cycle: LifeCycle, copies: int) -> Iterator[tuple[VerificationEvent, ...]]:
    """Its events with up to so many of them once more: as a twin, or delivered again after the inbox was purged."""
    for count in range(copies + 1):
        for again in combinations_with_replacement(life_cycle.events, count):
            yield life_cycle.events + tuple(as_twin(event) for event in again)


def check_snapshots(life_cycle: LifeCycle, copies: int) -> Tally:
    """Checks, without a key and a second apart, that every order ends as the true one does."""
    tally, truth = Tally(), in_true_order(life_cycle)
    for events in with_copies(life_cycle, copies):
        for end in ends(events, None, tally):
            _agree(life_cycle, end, truth, marks=True)
    return tally


def check_ties(life_cycle: LifeCycle, copies: int) -> Tally:
    """Checks, without a key and in one second, that every order ends alike: nobody can know the true one."""
    tally = Tally()
    for events in with_copies(life_cycle, copies):
        first, *others = ends(events, None, tally)
        for end in others:
            _agree(life_cycle, end, first, marks=True)
    return tally


def check_answers(life_cycle: LifeCycle, copies: int, slack: int) -> Tally:
    """Checks, with a key, also in one second, that Stripe's answers between any two events lead to the true end."""
    tally, truth = Tally(), in_true_order(_apart(life_cycle))
    for events in with_copies(life_cycle, copies):
        for end in ends(events, stripe(life_cycle, slack), tally):
            _agree(life_cycle, end, truth, marks=False)
    return tally


def check_both_forms(life_cycle: LifeCycle, slack: int) -> Tally:
    """Checks each change as a snapshot and as a thin notification: the true end, and no action owed twice."""
    tally, truth = Tally(), in_true_order(_apart(life_cycle))
    events = life_cycle.events + tuple(as_thin(event) for event in life_cycle.events)
    for end in ends(events, stripe(life_cycle, slack), tally):
        _agree(life_cycle, end, truth, marks=False)
    return tally


def check_thin(life_cycle: LifeCycle, slack: int) -> Tally:
    """Checks thin notifications alone: the true record; a state that passed before Stripe was asked is unknown."""
    tally, truth = Tally(), in_true_order(_apart(life_cycle))
    for end in ends([as_thin(event) for event in life_cycle.events], stripe(life_cycle, slack), tally):
        _same(life_cycle, "record", _outline(end), _outline(truth))
        _same(life_cycle, "reports not in the truth", end.reports - truth.reports, frozenset())
        _same(life_cycle, "keys not in the truth", end.keys - truth.keys, frozenset())
        if end.reports == truth.reports:  # else a submission has passed unheard, and the limit may not be reached
            _same(life_cycle, "owed because of the end", _owed_at_the_end(end), _owed_at_the_end(truth))
    return tally


def check_nobody_to_ask(life_cycle: LifeCycle) -> Tally:
    """Checks that thin notifications without a key change and owe nothing, but that a redaction is obeyed."""
    tally = Tally()
    for end in ends([as_thin(event) for event in life_cycle.events], None, tally):
        _same(life_cycle, "status", end.record.status, None)
        _same(life_cycle, "keys", end.keys, frozenset())
    return tally


def check_whose(life_cycle: LifeCycle, slack: int | None = None) -> Tally:
    """Checks that sessions of ours end as ever and others' leave nothing, though a redaction wipes the mark."""
    tally, truth = Tally(), in_true_order(_apart(life_cycle))
    gone = ("canceled", "redacted") if life_cycle.events[-1].kind == "redacted" else ()
    told = [wiped(event) if event.kind in gone else event for event in life_cycle.events]
    for more in ([], [wiped(as_thin(event)) for event in life_cycle.events]):
        answers = None if slack is None else _wiping(life_cycle, slack)
        for end in ends(told + more, answers, tally):
            _agree(life_cycle, end, truth, marks=False)
        foreign = [one for one in told if one.is_ours is None] + more
        for end in ends(foreign, None if slack is None else _wiping(life_cycle, slack, is_ours=False), tally):
            _same(life_cycle, "another one's", end._replace(undecided=frozenset()), NOTHING)
    return tally


def _wiping(life_cycle: LifeCycle, slack: int, *, is_ours: bool = True) -> Answers:
    """A Stripe that can tell whether a session is ours until it is redacted."""

    def answers(happened: int) -> Iterator[tuple[VerificationEvent, datetime]]:
        is_redacted = life_cycle.events[happened - 1].kind == "redacted"
        for told, asked_at in stripe(life_cycle, slack)(happened):
            assert told.state is not None
            state = replace(told.state, is_ours=None if is_redacted else is_ours)
            yield replace(told, state=replace(state, redaction="redacted") if is_redacted else state), asked_at

    return answers


def check_burned(life_cycle: LifeCycle, copies: int) -> Tally:
    """Checks sessions whose generation is given up before, between or after events: they end, and tell of success."""
    tally, before = Tally(), NOTHING._replace(record=replace(NOTHING.record, burned_at=START))
    for events in with_copies(life_cycle, copies):
        between = ends(events, None, tally, lambda came: {came, _burn(came)})
        first, *others = {_burn(end) for end in (*between, *ends(events, None, tally, start=before))}
        is_open = first.record.status == "requires_input" and not first.record.redacted_at
        is_passed = first.record.status == "verified" and not first.record.redacted_at
        for end in (first, *others):
            _same(life_cycle, "record", _outline(end), _outline(first))
            _same(life_cycle, "action keys", end.keys, first.keys)
            owed = {name for name, cause, status in end.actions if _is_to_do(end, name, cause, status)}
            _same(life_cycle, "ended", "cancel_session" in owed, is_open)
            _same(life_cycle, "mails", owed & set(TELLING), {"email_verified"} if is_passed else set())
    return tally


def _burn(came: Came) -> Came:
    """Burns the session, as handlers.sessions.turn.next_generation does."""
    if came.record.burned_at:
        return came
    record = replace(came.record, burned_at=START)
    quiet = frozenset(
        (name, cause, SKIPPED if name in ENDED_BY_BURNING else status) for name, cause, status in came.actions
    )
    return came._replace(record=record, actions=written(quiet, ending(record, LIMIT)))


def _is_to_do(came: Came, name: str, cause: str, status: str) -> bool:
    return status == PENDING and why_not_owed(came.record, name, cause, LIMIT) is None


def _agree(life_cycle: LifeCycle, end: Came, truth: Came, *, marks: bool) -> None:
    if marks:
        same = replace(end.record, changes=truth.record.changes)
        _same(life_cycle, "record", same, truth.record)
    _same(life_cycle, "record", _outline(end), _outline(truth))
    _same(life_cycle, "submissions", end.reports, truth.reports)
    _same(life_cycle, "action keys", end.keys, truth.keys)
    # Only here may an action be skipped in one order and owed in another: if its state has passed.
    _same(life_cycle, "owed because of the end", _owed_at_the_end(end), _owed_at_the_end(truth))


def _outline(came: Came) -> tuple[Any, ...]:
    texts = came.texts and (came.texts.error_reason, came.texts.client_reference_id, came.texts.user_id)
    record = came.record
    is_reminded = record.remind_at is not None
    return record.status, record.error_code, record.report_id, texts, record.redacted_at is not None, is_reminded


def _owed_at_the_end(came: Came) -> frozenset[tuple[str, str, str]]:
    status, code, report = came.record.status, came.record.error_code, came.record.report_id
    if came.record.redacted_at:  # actions done before the redaction, or dropped after it, differ
        return frozenset()
    cause = "canceled" if status == "canceled" else f"{status}:{code or ''}:{report or ''}"
    at_limit = status == "requires_input" and len(came.reports) >= LIMIT
    causes = {cause} | ({"submission_limit"} if at_limit else set())
    reached = {("alert_review", "submission_limit")} if status == "canceled" and len(came.reports) >= LIMIT else set()
    # A prompt that was owed before the limit was reached is dropped at the moment of doing.
    return frozenset(
        action
        for action in came.actions
        if action[:2] in reached or (action[1] in causes and not (at_limit and action[0] == "email_retry_prompt"))
    )


def _same(life_cycle: LifeCycle, what: str, end: object, truth: object) -> None:
    if end != truth:
        raise AssertionError(f"{life_cycle}\n{what}: {end}\ninstead of {truth}")


def _apart(life_cycle: LifeCycle) -> LifeCycle:
    return next(other for other in life_cycles(len(life_cycle.steps)) if other.steps == life_cycle.steps)


def main() -> int:
    """Tries everything, and prints how much it was."""
    parser = argparse.ArgumentParser(prog="python -m tests.property.orders", description=__doc__)
    parser.add_argument("--events", type=int, default=6, help="the longest life cycle (default: 6)")
    parser.add_argument("--copies", type=int, default=2, help="how many of its events come twice (default: 2)")
    arguments = parser.parse_args()
    apart = list(life_cycles(arguments.events))
    tied = list(life_cycles(arguments.events, same_second=True))
    both = list(life_cycles(min(arguments.events, 4))) + list(life_cycles(min(arguments.events, 4), same_second=True))
    for name, check, cycles in (
        ("snapshots, seconds apart, no key", lambda one: check_snapshots(one, arguments.copies), apart),
        ("snapshots, one second, no key", lambda one: check_ties(one, arguments.copies), tied),
        ("snapshots, seconds apart, Stripe asked", lambda one: check_answers(one, arguments.copies, 0), apart),
        ("snapshots, one second, Stripe asked", lambda one: check_answers(one, 1, 0), tied),
        ("the same, slow answers", lambda one: check_answers(one, 1, 3), apart + tied),
        ("snapshots and thin", lambda one: check_both_forms(one, 0) + check_both_forms(one, 3), both),
        ("thin", lambda one: check_thin(one, 0) + check_thin(one, 3), apart + tied),
        ("thin, nobody to ask", check_nobody_to_ask, apart + tied),
        ("burned, no key", lambda one: check_burned(one, 1), both),
        ("whose sessions, no key", check_whose, both[: len(both) // 2]),
        ("whose sessions, Stripe asked", lambda one: check_whose(one, 0) + check_whose(one, 3), both),
    ):
        tally = sum((check(one) for one in cycles), Tally())
        print(
            f"{name}: {len(cycles)} life cycles, {tally.orders:,} orders in {tally.steps:,} steps, all agree",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
