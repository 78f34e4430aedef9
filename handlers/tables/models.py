"""The tables: inbox, record, submissions, outbox, outputs; bookmarks, silence, pauses, audit, heartbeats, figures."""

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import BigInteger, ColumnElement, Index, Integer, String, UniqueConstraint, func, text
from sqlalchemy.orm import composite
from sqlmodel import Field, SQLModel

from config.database import UtcDateTime, now
from handlers.record.decide import Outcome
from handlers.record.events import Status
from handlers.record.ordering import RecordState

# SQLite numbers rows by itself only where the type is INTEGER.
_NUMBERED: Any = BigInteger().with_variant(Integer, "sqlite")


class InboxStatus(StrEnum):
    """Where an event stands."""

    RECEIVED = "received"
    PROCESSED = "processed"
    DEAD = "dead"


class ActionStatus(StrEnum):
    """Where an action stands."""

    PENDING = "pending"
    DONE = "done"
    SKIPPED = "skipped"
    DEAD = "dead"


def _moment(*, nullable: bool = False, **options: Any) -> Any:
    return Field(sa_type=UtcDateTime, nullable=nullable, **options)


def _word(**options: Any) -> Any:
    return Field(sa_type=String, **options)


def _partial_index(name: str, column: str, condition: str) -> Index:
    # Partial, so that what the sweep and the gauges read stays small however much is kept.
    return Index(name, column, postgresql_where=text(condition), sqlite_where=text(condition))


class QueueRow(SQLModel):
    """What the inbox and the outbox share: a row is claimed, tried, and then finished, put back or buried.

    A class that takes part also has an `id` and a `status`, which is UNFINISHED until it is done, or DEAD.
    """

    NOUN: ClassVar[str]
    UNFINISHED: ClassVar[str]
    DEAD: ClassVar[str] = "dead"
    KIND: ClassVar[str]  # the column that says what it is about
    SINCE: ClassVar[str]  # the column from which its age counts
    MOST_TRIES: ClassVar[str]  # the setting that says how often it is tried
    GIVES_AWAY: ClassVar[tuple[str, ...]] = ()  # columns that say so: what a try without effect leaves as they were

    attempts: int = 0  # every claim; only ever grows, so that it fences late writers
    # The attempts that Stripe, the database or the network spoiled: they bury nobody. Below zero after some of unknown
    # outcome, each of which counts as a third of all tries.
    waits: int = 0
    due_at: datetime = _moment()  # the end of its lease, or of its time of waiting
    last_error: str | None = None


class InboxEvent(QueueRow, table=True):
    """One event of Stripe's, kept before its delivery is answered; only the allow-listed fields of its payload."""

    NOUN = "event"
    UNFINISHED = InboxStatus.RECEIVED
    KIND = "type"
    SINCE = "received_at"
    MOST_TRIES = "event_attempts"
    PERSONAL: ClassVar = ("error_reason", "client_reference_id", "user_id")

    __tablename__ = "inbox_event"
    __table_args__ = (
        _partial_index("inbox_event_due", "due_at", "status = 'received'"),
        _partial_index("inbox_event_waiting", "received_at", "status = 'received'"),  # for the oldest of them
        # For the purge: written once an event, at its end. One on all rows would be written at each of its three
        # steps: 210 bytes of PostgreSQL's log an event instead of 70, of 2,000.
        _partial_index("inbox_event_processed", "processed_at", "status = 'processed'"),
        _partial_index("inbox_event_dead", "received_at", "status = 'dead'"),
        _partial_index("inbox_event_ignored", "received_at", "outcome = 'ignored'"),
    )

    id: str = Field(primary_key=True)
    type: str
    session_id: str = Field(index=True)
    account: str | None = None
    livemode: bool
    created_at: datetime = _moment()
    received_at: datetime = _moment()
    status: InboxStatus = _word(default=InboxStatus.RECEIVED)
    outcome: Outcome | None = _word(default=None, nullable=True)
    processed_at: datetime | None = _moment(default=None, nullable=True)
    is_ours: bool | None = True  # None: the event cannot tell
    owes_nothing: bool = False  # read back from Stripe: what it owes is written down as skipped

    session_status: str | None = None
    error_code: str | None = None
    error_reason: str | None = None
    report_id: str | None = None
    client_reference_id: str | None = None
    user_id: str | None = None
    has_flow: bool = False
    redaction: str | None = None
    # The verification that the session's metadata names.
    verification_id: str | None = None
    generation: int | None = None

    @staticmethod
    def discarded(reason: str) -> dict[str, Any]:
        """The columns of one that an operator ends."""
        end = {"status": InboxStatus.PROCESSED, "outcome": Outcome.IGNORED, "processed_at": now()}
        return end | {"last_error": reason}


ENDED = (Status.VERIFIED, Status.CANCELED)
# What is not among them, said as its index has it, or that would not be used.
NOT_ENDED = text("coalesce(status, '') NOT IN ('verified', 'canceled')")


class VerificationRecord(SQLModel, table=True):
    """What we hold to be true of one verification session."""

    PERSONAL: ClassVar = ("last_error_reason", "client_reference_id", "user_id")

    __tablename__ = "verification_record"
    __table_args__ = (
        _partial_index(
            "verification_record_not_redacted",
            "redaction_asked_at",
            "redaction_asked_at IS NOT NULL AND redacted_at IS NULL",
        ),
        _partial_index("verification_record_remind", "remind_at", "remind_at IS NOT NULL"),
        Index("verification_record_latest", "created_at", "session_id"),  # for lists, the latest first
        _partial_index("verification_record_user", "user_id", "user_id IS NOT NULL"),
        _partial_index("verification_record_reference", "client_reference_id", "client_reference_id IS NOT NULL"),
        # For what reconcile asks about: written by each event that changes a status, some 8 % of PostgreSQL's log.
        Index(
            "verification_record_compare", "account", "compare_at", postgresql_where=NOT_ENDED, sqlite_where=NOT_ENDED
        ),
    )

    session_id: str = Field(primary_key=True)
    status: Status | None = _word(default=None, nullable=True)
    last_error_code: str | None = None
    last_error_reason: str | None = None
    last_report_id: str | None = None
    client_reference_id: str | None = None
    # A static link takes it from its URL, so anybody may have typed it: never to be taken for who the person is.
    client_reference_trusted: bool = True
    user_id: str | None = None
    account: str | None = None
    livemode: bool
    submissions: int = 0
    change_number: int = 0  # of its last change; the sessions of one verification share the numbers
    told_cause: str | None = None  # of the last mail that the person got
    told_count: int = 0  # how many there were
    # The order mark: stamp and rank of what was applied last.
    applied_at: datetime | None = _moment(default=None, nullable=True)
    applied_rank: int = 0
    applied_answer: bool = False  # the stamp is an answer's
    redacted_at: datetime | None = _moment(default=None, nullable=True)
    compare_at: datetime | None = _moment(default=None, nullable=True)  # when reconcile compares it with Stripe
    created_at: datetime = _moment()
    updated_at: datetime = _moment()
    # Whose session it is, where it was opened here.
    verification_id: str | None = Field(default=None, index=True)
    generation: int | None = None
    verification_flow: str | None = None
    # Its end was asked for so that another one can be begun in its place; as long as it goes on, that is not so yet.
    replacing_at: datetime | None = _moment(default=None, nullable=True)
    replaced_at: datetime | None = _moment(default=None, nullable=True)  # another one was begun in its place
    redaction_asked_at: datetime | None = _moment(default=None, nullable=True)  # Stripe has still to do it
    ends_quietly: bool | None = None  # its end is told to nobody
    wiped_at: datetime | None = _moment(default=None, nullable=True)  # by RECORD_DAYS: nothing personal comes back
    burned_at: datetime | None = _moment(default=None, nullable=True)  # its generation was given up
    remind_at: datetime | None = _moment(default=None, nullable=True)  # not begun until then, the person is reminded

    if TYPE_CHECKING:  # read only: all of it that anything is decided by
        state: RecordState = RecordState()


# In the order of RecordState's fields.
STATE: tuple[str, ...] = ("status", "last_error_code", "last_report_id", "applied_at", "applied_rank", "redacted_at")
STATE += ("submissions", "change_number", "told_cause", "applied_answer")
STATE += ("redaction_asked_at", "replaced_at", "burned_at", "remind_at")
VerificationRecord.state = composite(  # type: ignore[assignment]  # of an instance it is the value
    RecordState,
    *(VerificationRecord.__table__.c[name] for name in STATE),  # type: ignore[attr-defined]  # SQLModel hides it
)


class Verification(SQLModel, table=True):
    """One person and one purpose: what was asked for, and which of its sessions is the current one."""

    KEY: ClassVar = ("livemode", "account", "client_reference_id", "purpose")
    PERSONAL: ClassVar = ("client_reference_id", "return_url", "locale")

    __tablename__ = "verification"
    __table_args__ = (UniqueConstraint(*KEY, name="verification_key"),)

    id: str = Field(primary_key=True)  # idv_…
    client_reference_id: str | None = None  # None once it is wiped: the same person may begin anew
    purpose: str = ""
    account: str = ""  # of our own it is empty: nulls would never be the same
    livemode: bool
    generation: int = 1
    session_id: str | None = Field(default=None, unique=True)  # the generation's, once it is made
    opening_until: datetime | None = _moment(default=None, nullable=True)  # the lease of who asks Stripe for it
    verification_flow: str | None = None
    return_url: str | None = None
    locale: str | None = None
    redaction_asked_at: datetime | None = _moment(default=None, nullable=True)
    looked_at: datetime | None = _moment(default=None, nullable=True)  # at Stripe, because its person came back
    created_at: datetime = _moment()
    updated_at: datetime = _moment()  # when the generation began


class Submission(SQLModel, table=True):
    """One time the person submitted: a distinct report of Stripe's."""

    __tablename__ = "verification_submission"

    session_id: str = Field(primary_key=True)
    report_id: str = Field(primary_key=True)


class OutboxAction(QueueRow, table=True):
    """Something owed to the world because of a record, once per cause."""

    NOUN = "action"
    UNFINISHED = ActionStatus.PENDING
    KIND = "name"
    SINCE = "created_at"
    MOST_TRIES = "action_attempts"
    GIVES_AWAY = ("given_away_at",)

    __tablename__ = "outbox_action"
    __table_args__ = (
        UniqueConstraint("session_id", "name", "cause", name="outbox_action_key"),
        _partial_index("outbox_action_due", "due_at", "status = 'pending'"),
        _partial_index("outbox_action_waiting", "created_at", "status = 'pending'"),
        _partial_index("outbox_action_dead", "created_at", "status = 'dead'"),
        _partial_index("outbox_action_skipped", "created_at", "status = 'skipped'"),
    )

    id: int | None = Field(default=None, primary_key=True, sa_type=_NUMBERED)
    session_id: str
    name: str
    cause: str
    status: ActionStatus = _word(default=ActionStatus.PENDING)
    reason: str | None = None  # why it was skipped
    payload: str | None = None  # JSON: what must be told as it was when it became owed
    created_at: datetime = _moment()
    done_at: datetime | None = _moment(default=None, nullable=True)
    given_away_at: datetime | None = _moment(default=None, nullable=True)  # a mail that may have arrived
    resent_at: datetime | None = _moment(default=None, nullable=True)  # by an operator: it was done or skipped before
    mail_number: int | None = None  # of the last mail that it sent to its person: its Message-ID follows from it

    @staticmethod
    def discarded(reason: str) -> dict[str, Any]:
        """The columns of one that an operator ends."""
        return {"status": ActionStatus.SKIPPED, "reason": reason, "done_at": now()}


def status_of(table: Any) -> ColumnElement[str]:
    """The status of events or actions that are found by their ids or by their session.

    Said so that no index of what waits serves: PostgreSQL takes it for empty after a quiet time, and would read all
    that waits for each of them.
    """
    return func.coalesce(table.status, "")


class VerifiedOutput(SQLModel, table=True):
    """What VERIFIED_OUTPUTS names of a verified session, encrypted."""

    __tablename__ = "verified_output"

    session_id: str = Field(primary_key=True)
    ciphertext: str
    fetched_at: datetime = _moment(index=True)


class Bookmark(SQLModel, table=True):
    """How far a scheduled task has come, so that the next run goes on there; or until when a key has signed links."""

    __tablename__ = "identity_bookmark"

    name: str = Field(primary_key=True)
    reached: datetime = _moment()
    asked_at: datetime | None = _moment(default=None, nullable=True)  # whoever was asked longest ago comes first


class Unanswered(SQLModel, table=True):
    """What Stripe would not answer about the last time: an account, a session, a second of a list."""

    __tablename__ = "identity_unanswered"

    what: str = Field(primary_key=True)
    livemode: bool = Field(primary_key=True)
    name: str = Field(primary_key=True)
    reason: str
    failures: int  # in a row
    since: datetime = _moment()
    asked_at: datetime = _moment()


class Paused(SQLModel, table=True):
    """What is not done for now, though it is owed."""

    __tablename__ = "identity_paused"

    what: str = Field(primary_key=True)  # a destination of actions, or openings
    reason: str = Field(primary_key=True)  # each is lifted by itself
    since: datetime = _moment()


class Audited(SQLModel, table=True):
    """What somebody changed: an operator, or the application."""

    __tablename__ = "identity_audit"

    id: int | None = Field(default=None, primary_key=True, sa_type=_NUMBERED)
    at: datetime = _moment()
    who: str
    way: str  # command, console or api
    what: str  # the command's name, or the button's
    about: str  # ids, with a space between two: of sessions, verifications, events, actions
    reason: str | None = None


class ProcessClock(SQLModel, table=True):
    """What a process of the version before writes in the place of a heartbeat; nobody reads it any more."""

    __tablename__ = "identity_process_clock"

    process: str = Field(primary_key=True)
    kind: str
    ahead_seconds: float
    measured_at: datetime = _moment()


class Heartbeat(SQLModel, table=True):
    """That a process lives: written by itself every few seconds, and for a clock by the worker that hears it."""

    __tablename__ = "identity_heartbeat"

    name: str = Field(primary_key=True)  # its kind, its machine's name and its number there
    kind: str  # web, worker or clock
    version: str
    host: str
    started_at: datetime = _moment()
    last_at: datetime = _moment()
    ahead_seconds: float | None = None  # its machine's clock before the database's; a clock process needs none
    worked_at: datetime = _moment()  # since when a kind of its threads that has work in hand has ended none
    listened_at: datetime | None = _moment(default=None, nullable=True)  # a worker: when no tick waited for it last
    ended_at: datetime | None = _moment(default=None, nullable=True)  # it was told to end, and says so
    outside: str | None = None  # JSON: how those outside answer it, in seconds before last_at


class Metric(SQLModel, table=True):
    """A counter of all processes together, over all their lives."""

    __tablename__ = "identity_metric"

    name: str = Field(primary_key=True)
    labels: str = Field(primary_key=True)  # as Prometheus writes them
    value: float


class Tally(SQLModel, table=True):
    """What one span of time has added to a counter."""

    __tablename__ = "identity_tally"

    seconds: int = Field(primary_key=True)  # the span's length
    since: datetime = _moment(primary_key=True)
    name: str = Field(primary_key=True)
    labels: str = Field(primary_key=True)
    value: float


TABLES = list(SQLModel.metadata.tables)  # ours: an application's own module may add others later
