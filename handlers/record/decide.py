"""Decides what an event changes in its record and which actions it owes: HANDLERS, one pure function per kind."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from handlers.owed.kinds import BURNED_CAUSE, ENDED_BY_BURNING, IN_ORDER, KINDS, LIMIT_CAUSE, WHEN_BURNED, Owed
from handlers.record.error_codes import OWED, classify
from handlers.record.events import NOT_OURS, RANKS, SessionState, Status, VerificationEvent
from handlers.record.ordering import Order, RecordState, Seen, order, order_by_rank, overtakes

# Reasons why an action is skipped.
TOLD = "told already"
AT_LIMIT = "submission limit"
SUPERSEDED = "superseded"
READ_BACK = "read back from Stripe"
PERHAPS_SENT = "perhaps sent before the backup was put back"
REDACTED = "redacted"
REPLACED = "replaced"
BURNED = "burned"


class Outcome(StrEnum):
    """The outcome of an event that was processed."""

    APPLIED = "applied"
    STALE = "stale"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Meaning:
    """The effect of a session's state on its record: the new status, and the kinds of action that it owes."""

    status: Status
    owes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """The result of an event: the record after it, the actions owed, and the state whose texts the record now holds."""

    outcome: Outcome
    record: RecordState
    owed: list[Owed]
    texts: SessionState | None = None  # None: the record keeps its texts
    reason: str | None = None  # why the event is ignored
    may_be_ours: bool = False  # nobody can tell yet whose session it is


def decide(
    record: RecordState,
    event: VerificationEvent,
    shown: Seen | None,
    answer: Seen | None = None,
    *,
    can_ask: bool = False,
    limit: int = 3,
    reminds_after: timedelta | None = None,
    is_known: bool = True,
) -> Decision | None:
    """Applies an event: `shown` is its own state, `answer` Stripe's. Returns None if only Stripe can settle it.

    Unless `can_ask`, a contradiction goes by rank and a thin notification is ignored. The record's submissions already
    count this event's; `limit` is the most that this session may have. `reminds_after` is the time from a session's
    creation to its reminder; None: no reminder. `is_known`: the session had a record before this event.
    """
    said = (event.is_ours, answer and answer.state.is_ours)
    # rule: the owner that an event does not show is taken from Stripe's answer, or else from the record
    is_ours = next((word for word in said if word is not None), True if is_known else None)
    if not is_ours:
        if is_ours is None and can_ask and answer is None:
            return None
        may_be_ours = is_ours is None
        return Decision(outcome=Outcome.IGNORED, record=record, owed=[], reason=NOT_OURS, may_be_ours=may_be_ours)
    if event.kind == "redacted":
        forgotten = _redacted(record, event)
        return Decision(outcome=Outcome.APPLIED, record=forgotten, owed=_limited(forgotten, [], limit))
    latest = answer or shown
    if latest is None:
        if can_ask and overtakes(record, event.created_at):
            return Decision(outcome=Outcome.STALE, record=record, owed=_limited(record, [], limit))
        # rule: only Stripe knows the state behind a thin notification
        return None if can_ask else Decision(outcome=Outcome.IGNORED, record=record, owed=[])
    place = order(record, latest)
    if place is Order.AMBIGUOUS:
        if can_ask:
            return None
        place = order_by_rank(record, latest)
    # rule: a redaction seen in Stripe's answer counts
    if (shown and shown.state.redaction) or (answer and answer.state.redaction):
        record = _redacted(record, event)
    # rule: the actions of a state that an answer has overtaken are written down as skipped
    stale = [] if shown is None or shown is latest else _passed_over(record, shown)
    # rule: a stale event changes no status
    after, owed = (record, _passed_over(record, latest)) if place is Order.STALE else _applied(record, latest)
    told = [latest.stamp + reminds_after] if reminds_after and latest.kind == "created" else []
    # rule: the earliest stamp of an untried session sets the time of its reminder
    first = min([at for at in (record.remind_at, *told) if at], default=None)
    # rule: a person who has begun is not reminded
    after = replace(after, remind_at=first if after.rank == RANKS["created"] else None)
    if place is Order.STALE:
        # rule: the limit is judged after a stale event, too
        return Decision(outcome=Outcome.STALE, record=after, owed=_limited(after, [*stale, *owed], limit))
    owed = _limited(after, [*stale, *owed], limit)
    return Decision(outcome=Outcome.APPLIED, record=after, owed=owed, texts=latest.state)


def why_not_owed(record: RecordState, kind: str, cause: str, limit: int = 3) -> str | None:
    """The reason why an action is no longer owed, asked right before it is performed; None if it still is."""
    row = KINDS[kind]
    if reason := _silenced(record, kind, cause):
        return reason
    if row.survives_superseding:  # rule: an action that survives superseding stays owed in every later state
        return None
    # rule: the limit holds only while input is required
    at_limit = record.status == Status.REQUIRES_INPUT and record.submissions >= limit
    if cause == LIMIT_CAUSE:
        # rule: the limit's actions are superseded once the person has passed
        return None if at_limit else SUPERSEDED
    if cause == BURNED_CAUSE:
        is_over = record.burned_at or record.replaced_at
        # rule: a burned session is canceled only while it is open
        return None if is_over and record.status == Status.REQUIRES_INPUT else SUPERSEDED
    # rule: an action goes out only while its cause is the record's
    if cause != _cause(record.status, record.error_code, record.report_id):
        return SUPERSEDED
    # rule: nobody is told the same twice in a row
    if row.tells_the_person and cause == record.told:
        return TOLD
    # rule: at the limit nobody is prompted
    return AT_LIMIT if at_limit and row.dropped_at_limit else None


def owed_still(record: RecordState, limit: int) -> list[Owed]:
    """The mail that the record's state owes now, unless it was the last one sent, and the actions of the limit."""
    if record.stamp is None:
        return []
    state = SessionState(status=record.status, error_code=record.error_code, report_id=record.report_id)
    kind = next(kind for kind, rank in RANKS.items() if rank == record.rank)
    mails = [name for name in HANDLERS[kind](state).owes if KINDS[name].tells_the_person]
    cause = _cause(record.status, record.error_code, record.report_id)
    owed = _limited(record, _owed(record, mails, cause, is_superseded=False), limit)
    return [one for one in owed if not one.skipped]


def reminder(record: RecordState, limit: int) -> list[Owed]:
    """The reminder that is due: none if the session was begun or is over, or if the reminder was the last mail."""
    cause = _cause(record.status, record.error_code, record.report_id)
    is_untried = record.stamp is not None and record.rank == RANKS["created"]
    # rule: nobody is reminded of a session that is over
    is_owed = is_untried and why_not_owed(record, "email_reminder", cause, limit) is None
    return [Owed("email_reminder", cause)] if is_owed else []


def ending(record: RecordState, limit: int) -> list[Owed]:
    """The actions that end a session at Stripe: pending while it waits for input, and else written down as skipped."""
    # rule: a burned session is canceled, and so is a replaced one that shows up open
    is_over = record.burned_at or (record.replaced_at and record.status == Status.REQUIRES_INPUT)
    burned = [(kind, BURNED_CAUSE) for kind in WHEN_BURNED if is_over]
    # rule: the limit itself owes actions
    limited = [(kind, LIMIT_CAUSE) for kind, row in KINDS.items() if row.owed_at_limit and record.submissions >= limit]
    # rule: the limit cancels only while input is required
    passed = SUPERSEDED if record.status != Status.REQUIRES_INPUT else None
    # rule: the reviewer hears of the limit of a canceled session, too; the limit was reached before the end
    past = [kind for kind in KINDS if record.status == Status.CANCELED and KINDS[kind].survives_superseding]
    return [
        Owed(kind, cause, _silenced(record, kind, cause) or (None if kind in past else passed))
        for kind, cause in [*burned, *limited]
    ]


def created(_: SessionState) -> Meaning:
    """A new session, or one that waits for its first submission."""
    return Meaning(Status.REQUIRES_INPUT)


def processing(_: SessionState) -> Meaning:
    """The person has submitted; Stripe is checking."""
    return Meaning(Status.PROCESSING)


def requires_input(state: SessionState) -> Meaning:
    """A check failed, or the person left: the error code decides the action."""
    return Meaning(Status.REQUIRES_INPUT, (OWED[classify(state.error_code)],))


def verified(_: SessionState) -> Meaning:
    """All checks passed, or a reviewer decided so."""
    return Meaning(Status.VERIFIED, ("email_verified", "keep_outputs"))


def canceled(_: SessionState) -> Meaning:
    """The session has ended for good."""
    return Meaning(Status.CANCELED, ("email_canceled",))


HANDLERS: dict[str, Callable[[SessionState], Meaning]] = {
    "created": created,
    "processing": processing,
    "requires_input": requires_input,
    "verified": verified,
    "canceled": canceled,
}


def _redacted(record: RecordState, event: VerificationEvent) -> RecordState:
    """The record of a forgotten person: the status and the order mark stay, and events still move them."""
    said = event.state.status if event.state else None
    # rule: a redaction sets the status of a record without an order mark
    status = Status(said) if record.stamp is None and said in list(Status) else record.status
    # rule: the earliest redaction sets the time
    at = min(record.redacted_at or event.created_at, event.created_at)
    return replace(record, redacted_at=at, status=status)


def _applied(record: RecordState, seen: Seen) -> tuple[RecordState, list[Owed]]:
    meaning, state = HANDLERS[seen.kind](seen.state), seen.state
    before, now = (record.status, record.error_code), (meaning.status, state.error_code)
    # rule: a change is another status or code; untried and failed sessions are both requires_input
    is_change = record.stamp is None or now != before
    after = replace(
        record,
        status=meaning.status,
        error_code=state.error_code,
        report_id=state.report_id,
        stamp=seen.stamp,  # rule: the mark's stamp is the stamp of the state applied last
        rank=RANKS[seen.kind],  # rule: the mark's rank is the rank of the state applied last
        changes=record.changes + is_change,  # rule: the change number rises with each change
        by_answer=seen.by_answer,  # rule: the mark remembers that its stamp is an answer's
    )
    # rule: a state that leaves the record as it is owes nothing
    if not is_change and after.report_id == record.report_id:
        return after, []
    # rule: a cause names a state, not an event or a time
    owed = _owed(after, meaning.owes, _cause(*now, after.report_id), is_superseded=False)
    if is_change:
        told = json.dumps({"status": after.status, "error_code": after.error_code})
        owed += [Owed(kind, str(after.changes), payload=told) for kind in IN_ORDER]
    return after, owed


def _passed_over(record: RecordState, seen: Seen) -> list[Owed]:
    # The keys are those of an event in its right place: the rows do not depend on the order of arrival.
    meaning = HANDLERS[seen.kind](seen.state)
    cause = _cause(meaning.status, seen.state.error_code, seen.state.report_id)
    # rule: the actions of a stale event are written down as skipped
    return _owed(record, meaning.owes, cause, is_superseded=True)


def _owed(record: RecordState, kinds: Iterable[str], cause: str, *, is_superseded: bool) -> list[Owed]:
    owed = []
    for kind in kinds:
        # rule: a stale event still owes the kinds that survive superseding
        passed = is_superseded and not KINDS[kind].survives_superseding
        # rule: a mail that would repeat the last one is written down as skipped
        told = TOLD if KINDS[kind].tells_the_person and cause == record.told else None
        owed.append(Owed(kind, cause, _silenced(record, kind, cause) or (SUPERSEDED if passed else told)))
    return owed


def _silenced(record: RecordState, kind: str, cause: str) -> str | None:
    """The reason why this session gets no action of the kind any more, whatever its state; None if it may."""
    row = KINDS[kind]
    # rule: nobody is mailed after a redaction; one that is only asked for counts, too
    if (record.redacted_at or record.redaction_asked_at) and not row.survives_redaction:
        return REDACTED
    # rule: a replaced session owes only its own end and the kinds that survive superseding
    if record.replaced_at and not row.survives_superseding and cause != BURNED_CAUSE:
        return REPLACED
    # rule: nobody is mailed about a burned session, but of its success; Stripe had called it gone
    return BURNED if record.burned_at and kind in ENDED_BY_BURNING else None


def _limited(record: RecordState, owed: list[Owed], limit: int) -> list[Owed]:
    if record.submissions < limit and not record.burned_at:
        return owed
    dropped = [
        # rule: a prompt at the limit is written down as skipped
        replace(one, skipped=AT_LIMIT) if KINDS[one.kind].dropped_at_limit and not one.skipped else one
        for one in owed
    ]
    return [*dropped, *ending(record, limit)]


def _cause(status: Status | None, error_code: str | None, report_id: str | None) -> str:
    # rule: a cause names the report
    return "canceled" if status == Status.CANCELED else f"{status}:{error_code or ''}:{report_id or ''}"
