"""What each event means for a record, and what it owes: HANDLERS, one small pure function per kind of event."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from handlers.owed.kinds import BURNED_CAUSE, KINDS, LIMIT_CAUSE, Owed
from handlers.record.error_codes import OWED, classify
from handlers.record.events import NOT_OURS, RANKS, SessionState, Status, VerificationEvent
from handlers.record.ordering import Order, RecordState, Seen, order, order_by_rank, overtakes

# Why nothing is done.
TOLD = "told already"
AT_LIMIT = "submission limit"
SUPERSEDED = "superseded"
READ_BACK = "read back from Stripe"
REDACTED = "redacted"
REPLACED = "replaced"
BURNED = "burned"


class Outcome(StrEnum):
    """What processing an event came to."""

    APPLIED = "applied"
    STALE = "stale"
    IGNORED = "ignored"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a session's state makes of a record: its status, and the kinds of action that this owes."""

    status: Status
    owes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What an event came to: the record after it, what it owes, and whose texts the record now holds."""

    outcome: Outcome
    record: RecordState
    owed: list[Owed]
    texts: SessionState | None = None  # None: the record keeps those it has
    reason: str | None = None  # why it is ignored


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
    """Applies an event, with what it shows and Stripe's answer where there is one; None if only Stripe can settle it.

    Without anybody to ask, contradictions go by rank and a thin notification is ignored. The record's submissions
    already count this event's; limit is how many of them there may be in this session. So long after a session was made
    its person is reminded, unless it is None. Unless the session is known, nothing of ours was told of it before.
    """
    said = (event.is_ours, answer and answer.state.is_ours)
    # rule: an event that cannot tell whose its session is leaves that to Stripe, or else to the record
    is_ours = next((word for word in said if word is not None), True if is_known else None)
    if not is_ours:
        if is_ours is None and can_ask and answer is None:
            return None
        return Decision(outcome=Outcome.IGNORED, record=record, owed=[], reason=NOT_OURS)
    if event.kind == "redacted":
        forgotten = _redacted(record, event)
        return Decision(outcome=Outcome.APPLIED, record=forgotten, owed=_limited(forgotten, [], limit))
    latest = answer or shown
    if latest is None:
        if can_ask and overtakes(record, event.created_at):
            return Decision(outcome=Outcome.STALE, record=record, owed=_limited(record, [], limit))
        # rule: only Stripe says what a thin notification is about
        return None if can_ask else Decision(outcome=Outcome.IGNORED, record=record, owed=[])
    place = order(record, latest)
    if place is Order.AMBIGUOUS:
        if can_ask:
            return None
        place = order_by_rank(record, latest)
    # rule: a redaction seen in Stripe's answer counts
    if (shown and shown.state.redaction) or (answer and answer.state.redaction):
        record = _redacted(record, event)
    # rule: what an answer has overtaken is written down as skipped
    stale = [] if shown is None or shown is latest else _passed_over(record, shown)
    # rule: a stale event changes no status
    after, owed = (record, _passed_over(record, latest)) if place is Order.STALE else _applied(record, latest)
    told = [latest.stamp + reminds_after] if reminds_after and latest.kind == "created" else []
    # rule: the first that was told of an untried session says when its person is reminded
    first = min([at for at in (record.remind_at, *told) if at], default=None)
    # rule: whoever has begun is not reminded
    after = replace(after, remind_at=first if after.rank == RANKS["created"] else None)
    if place is Order.STALE:
        # rule: the limit is judged after a stale event, too
        return Decision(outcome=Outcome.STALE, record=after, owed=_limited(after, [*stale, *owed], limit))
    owed = _limited(after, [*stale, *owed], limit)
    return Decision(outcome=Outcome.APPLIED, record=after, owed=owed, texts=latest.state)


def why_not_owed(record: RecordState, kind: str, cause: str, limit: int = 3) -> str | None:
    """At the moment of doing: the reason why an action is no longer owed, or None."""
    row = KINDS[kind]
    if reason := _silenced(record, kind, cause):
        return reason
    if row.survives_superseding:  # rule: what survives superseding is owed whatever came after it
        return None
    # rule: the limit holds only while input is required
    at_limit = record.status == Status.REQUIRES_INPUT and record.submissions >= limit
    if cause == LIMIT_CAUSE:
        # rule: what the limit owes is superseded once the person has passed
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
    """At any moment: the mail that the record's state owes, unless it was the last one, and what the limit owes."""
    if record.stamp is None:
        return []
    state = SessionState(status=record.status, error_code=record.error_code, report_id=record.report_id)
    kind = next(kind for kind, rank in RANKS.items() if rank == record.rank)
    mails = [name for name in HANDLERS[kind](state).owes if KINDS[name].tells_the_person]
    cause = _cause(record.status, record.error_code, record.report_id)
    owed = _limited(record, _owed(record, mails, cause, is_superseded=False), limit)
    return [one for one in owed if not one.skipped]


def reminder(record: RecordState, limit: int) -> list[Owed]:
    """To a person whose time has come: nothing where the session was begun or is over, or the reminder went out."""
    cause = _cause(record.status, record.error_code, record.report_id)
    is_untried = record.stamp is not None and record.rank == RANKS["created"]
    # rule: nobody is reminded of what is over
    is_owed = is_untried and why_not_owed(record, "email_reminder", cause, limit) is None
    return [Owed("email_reminder", cause)] if is_owed else []


def ending(record: RecordState, limit: int) -> list[Owed]:
    """What ends a session at Stripe: pending while it waits for input, and else written down as skipped."""
    # rule: a burned session is canceled, and so is a replaced one that shows up open
    is_over = record.burned_at or (record.replaced_at and record.status == Status.REQUIRES_INPUT)
    burned = [("cancel_session", BURNED_CAUSE)] if is_over else []
    # rule: the limit owes something itself
    limited = [(kind, LIMIT_CAUSE) for kind, row in KINDS.items() if row.owed_at_limit and record.submissions >= limit]
    # rule: the limit cancels only while input is required
    passed = SUPERSEDED if record.status != Status.REQUIRES_INPUT else None
    # rule: that a limit was reached is told of a canceled session, too; it was so before the end, whatever came first
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
    """A check failed, or the person left: the error code says who can mend it."""
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
    """The person is forgotten; the status and the order mark stay, and events still move them."""
    said = event.state.status if event.state else None
    # rule: a redaction says the status of a session that was only heard of
    status = Status(said) if record.stamp is None and said in list(Status) else record.status
    # rule: the first redaction says when
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
        stamp=seen.stamp,  # rule: the mark's stamp is that of what was applied last
        rank=RANKS[seen.kind],  # rule: the mark's rank is that of the same state
        changes=record.changes + is_change,  # rule: the change number rises with each change
        by_answer=seen.by_answer,  # rule: the mark says whether it is an answer's
    )
    # rule: what leaves the record as it is owes nothing
    if not is_change and after.report_id == record.report_id:
        return after, []
    # rule: a cause is a state, and no event or time
    owed = _owed(after, meaning.owes, _cause(*now, after.report_id), is_superseded=False)
    if is_change:
        told = json.dumps({"status": after.status, "error_code": after.error_code})
        owed.append(Owed("notify_app", str(after.changes), payload=told))
    return after, owed


def _passed_over(record: RecordState, seen: Seen) -> list[Owed]:
    # The same keys as in its right place, so that what is written down does not depend on the order of arrival.
    meaning = HANDLERS[seen.kind](seen.state)
    cause = _cause(meaning.status, seen.state.error_code, seen.state.report_id)
    # rule: what a stale event owes is written down as skipped
    return _owed(record, meaning.owes, cause, is_superseded=True)


def _owed(record: RecordState, kinds: Iterable[str], cause: str, *, is_superseded: bool) -> list[Owed]:
    owed = []
    for kind in kinds:
        # rule: a stale event still owes what survives superseding
        passed = is_superseded and not KINDS[kind].survives_superseding
        # rule: what the last mail has said is written down as skipped
        told = TOLD if KINDS[kind].tells_the_person and cause == record.told else None
        owed.append(Owed(kind, cause, _silenced(record, kind, cause) or (SUPERSEDED if passed else told)))
    return owed


def _silenced(record: RecordState, kind: str, cause: str) -> str | None:
    """Why nothing of the kind is done about this session any more, whatever its state."""
    row = KINDS[kind]
    # rule: nobody is mailed after a redaction; it may only be asked for as yet
    if (record.redacted_at or record.redaction_asked_at) and not row.survives_redaction:
        return REDACTED
    # rule: a replaced session owes only what survives superseding, and its own end
    if record.replaced_at and not row.survives_superseding and cause != BURNED_CAUSE:
        return REPLACED
    # rule: nobody is mailed about a burned session; nobody can have entered it
    return BURNED if record.burned_at and row.tells_the_person else None


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
