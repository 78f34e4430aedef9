"""Orders two states of a session: finds the later one, or says that only Stripe can."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from handlers.record.events import ANSWERED, RANKS, SessionState, Status, VerificationEvent

# A replica of Stripe's may answer with a state that is older than the Date of its answer.
_ANSWERS_LAG = timedelta(minutes=5)


class Order(StrEnum):
    """The place of a state that was seen, relative to the record's."""

    NEWER = "newer"
    STALE = "stale"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True, slots=True)
class RecordState:
    """The part of a record that decisions depend on."""

    status: Status | None = None  # None: not known yet
    error_code: str | None = None
    report_id: str | None = None
    stamp: datetime | None = None  # the order mark: Stripe's time of the state applied last,
    rank: int = 0  # and its rank
    redacted_at: datetime | None = None
    submissions: int = 0
    changes: int = 0  # of (status, error_code)
    told: str | None = None  # the cause of the last mail that the person got
    by_answer: bool = False  # the stamp is an answer's, whose state may be older
    redaction_asked_at: datetime | None = None  # by us; Stripe may not have done it yet
    replaced_at: datetime | None = None  # another session was begun in its place, on purpose
    burned_at: datetime | None = None  # its generation was given up
    remind_at: datetime | None = None  # Stripe's time; None: there is nothing to remind of


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A session's state at one moment, from a snapshot or from Stripe's answer to a retrieve."""

    kind: str  # a key of RANKS
    stamp: datetime  # Stripe's clock, whole seconds; of an answer, a lower bound
    state: SessionState
    submitted: str | None = None  # the report of this submission; None: there is none
    is_answer: bool = False  # Stripe's answer to a question about this event
    by_answer: bool = False  # the stamp is an answer's


def seen_in(event: VerificationEvent) -> Seen | None:
    """The state an event shows; None for a thin notification, and for a redaction, which moves no record."""
    if event.state is None or event.kind == "redacted":
        return None
    return as_seen(event.kind, event.created_at, event.state, by_answer=event.id.startswith(ANSWERED))


def answered(event: VerificationEvent, state: SessionState, asked_at: datetime) -> Seen | None:
    """The state in Stripe's answer, asked at `asked_at` (Stripe's time, or earlier); None for an unknown status."""
    if state.status not in list(Status):
        return None
    # rule: an answer's stamp is the later one of the event and the question
    stamp = max(event.created_at, asked_at.replace(microsecond=0))
    return as_seen(state.status, stamp, state, is_answer=True, by_answer=True)


def order(record: RecordState, seen: Seen) -> Order:
    """Newer, stale or ambiguous. `canceled` absorbs: it follows every state, and no state follows it.

    Stripe gives a session no version; its events carry whole seconds, so two in one second may contradict each other
    (docs.stripe.com/webhooks, "Event ordering": not guaranteed).
    """
    if record.stamp is None:
        return Order.NEWER
    if Status.CANCELED in (record.status, seen.kind):  # rule: canceled absorbs
        return order_by_rank(record, seen)
    same = (RANKS[seen.kind], seen.state.error_code, seen.state.report_id)
    is_same = same == (record.rank, record.error_code, record.report_id)
    if seen.stamp < record.stamp:  # rule: an older stamp is stale
        # rule: a state that contradicts an answer is asked about, unless it is far older
        doubtful = record.by_answer and not is_same and record.stamp - seen.stamp <= _ANSWERS_LAG
        return Order.AMBIGUOUS if doubtful else Order.STALE
    if is_same:  # rule: the same state again contradicts nothing
        return Order.NEWER
    if seen.stamp == record.stamp:
        # rule: a tie with the creation contradicts nothing; a session is created once and first
        if RANKS["created"] in (RANKS[seen.kind], record.rank):
            return order_by_rank(record, seen)
        return Order.AMBIGUOUS  # rule: only Stripe settles a tie
    leaves_verified = record.status == Status.VERIFIED and seen.kind == "processing"
    # rule: only Stripe says whether a verified session is checked again
    return Order.AMBIGUOUS if leaves_verified and not seen.is_answer else Order.NEWER


def overtakes(record: RecordState, told_at: datetime) -> bool:
    """Whether the record is already newer than a thin notification of this moment."""
    if record.stamp is None:
        return False
    # rule: Stripe is not asked about a notification that is older than the record; an answer may be older than it says
    return record.stamp - told_at > (_ANSWERS_LAG if record.by_answer else timedelta())


def order_by_rank(record: RecordState, seen: Seen) -> Order:
    """The order without Stripe's help: a total one, so that any order of arrival ends alike."""
    if record.stamp is None:
        return Order.NEWER
    known = (
        record.status == Status.CANCELED,
        record.stamp,
        record.rank,
        record.report_id or "",
        record.error_code or "",
    )
    new = (
        seen.kind == "canceled",  # rule: canceled absorbs by rank, too
        seen.stamp,
        RANKS[seen.kind],  # rule: rank breaks a tie
        seen.state.report_id or "",  # rule: the report breaks a tie of equal ranks
        seen.state.error_code or "",  # rule: the code breaks a tie of equal reports
    )
    return Order.NEWER if new >= known else Order.STALE


def as_seen(kind: str, stamp: datetime, state: SessionState, **asked: bool) -> Seen:
    """A state of this kind, with the report of its submission."""
    # rule: requires_input without an error ranks and acts as created; nobody has tried such a session yet
    kind = "created" if kind == "requires_input" and not state.error_code else kind
    # A session that is being processed still names the report before.
    submitted = None if kind in ("created", "processing") else state.report_id  # rule: a success is a submission, too
    return Seen(kind=kind, stamp=stamp, state=state, submitted=submitted, **asked)
