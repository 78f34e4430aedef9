"""The tables: inbox, record, submissions, outbox, outputs; bookmarks, silence, pauses, audit, heartbeats, figures."""

import re
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Index,
    Integer,
    String,
    UniqueConstraint,
    and_,
    case,
    exists,
    false,
    func,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.orm import composite
from sqlmodel import Field, SQLModel, col

from config.database import UtcDateTime, now
from handlers.owed.kinds import KINDS
from handlers.record.decide import Outcome
from handlers.record.events import Status
from handlers.record.ordering import RecordState

# SQLite numbers rows by itself only where the type is INTEGER.
_NUMBERED: Any = BigInteger().with_variant(Integer, "sqlite")


class InboxStatus(StrEnum):
    """The status of an event."""

    RECEIVED = "received"
    PROCESSED = "processed"
    DEAD = "dead"


class ActionStatus(StrEnum):
    """The status of an action."""

    PENDING = "pending"
    DONE = "done"
    SKIPPED = "skipped"
    DEAD = "dead"


def _moment(*, nullable: bool = False, **options: Any) -> Any:
    return Field(sa_type=UtcDateTime, nullable=nullable, **options)


def _word(**options: Any) -> Any:
    return Field(sa_type=String, **options)


def _partial_index(name: str, column: str, condition: str) -> Index:
    # Partial: the sweep and the gauges read a small index, however many rows are kept.
    return Index(name, column, postgresql_where=text(condition), sqlite_where=text(condition))


class QueueRow(SQLModel):
    """The columns of the inbox and the outbox: a row is claimed, tried, and then finished, put back or buried.

    Each class also has an `id` and a `status`, which is UNFINISHED until the row is done, or DEAD.
    """

    NOUN: ClassVar[str]
    UNFINISHED: ClassVar[str]
    DEAD: ClassVar[str] = "dead"
    KIND: ClassVar[str]  # the column with the row's kind
    SINCE: ClassVar[str]  # the column from which the row's age counts
    BEGAN: ClassVar[str]  # a word for that moment
    WHY: ClassVar[tuple[str, ...]] = ("last_error",)  # columns that say why the row is as it is, the first one first
    MOST_TRIES: ClassVar[str]  # the setting that says how often a row is tried
    GIVES_AWAY: ClassVar[tuple[str, ...]] = ()  # columns that a try writes ahead, and takes back if it had no effect

    attempts: int = 0  # every claim; only ever grows, so that it fences late writers
    # The attempts that Stripe, the database or the network spoiled: they bury no row. Below zero after attempts of
    # unknown outcome, each of which counts as a third of all tries.
    waits: int = 0
    due_at: datetime = _moment()  # the end of its lease, or of its time of waiting
    last_error: str | None = None

    @property
    def why(self) -> str | None:
        """The reason why the row is as it is."""
        return next((said for name in self.WHY if (said := getattr(self, name))), None)

    @classmethod
    def id_of(cls, text: str) -> Any:
        """The id that a text spells; None if no row can have it."""
        return text if text and text.isprintable() else None

    @classmethod
    def goes_on(cls) -> list[ColumnElement[bool]]:
        """The conditions that a row must meet besides being due and unfinished."""
        return []

    @classmethod
    def besides(cls) -> list[ColumnElement[Any]]:
        """The values that a claim reads besides the columns."""
        return []

    @classmethod
    def is_unset(cls) -> ColumnElement[bool]:
        """True for rows that ended for want of a setting, or of data to which a setting leads."""
        return false()

    @classmethod
    def without_end(cls) -> dict[str, Any]:
        """The columns that only a row at its end has, for one that is tried again."""
        return {}


class InboxEvent(QueueRow, table=True):
    """One event of Stripe's, kept before its delivery is answered; only the allow-listed fields of its payload."""

    NOUN = "event"
    UNFINISHED = InboxStatus.RECEIVED
    KIND = "type"
    SINCE = "received_at"
    BEGAN = "received"
    MOST_TRIES = "event_attempts"
    PERSONAL: ClassVar = ("error_reason", "client_reference_id", "user_id")
    # The columns of an event of another one's session, of which its id, type, session and time are kept.
    FOREIGN: ClassVar = {"is_ours": False, "has_flow": False} | dict.fromkeys(
        (
            "account",
            "session_status",
            "error_code",
            "report_id",
            "redaction",
            "verification_id",
            "generation",
            *PERSONAL,
        )
    )

    __tablename__ = "inbox_event"
    __table_args__ = (
        _partial_index("inbox_event_due", "due_at", "status = 'received'"),
        _partial_index("inbox_event_waiting", "received_at", "status = 'received'"),  # for the oldest one
        # For the purge: written once an event, at its end. An index on all rows would be written at each of an event's
        # three steps: 210 bytes of PostgreSQL's log an event instead of 70, of 2,000.
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
    is_ours: bool | None = True  # None: unknown
    owes_nothing: bool = False  # read back from Stripe: its actions are written down as skipped

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

    @classmethod
    def besides(cls) -> list[ColumnElement[Any]]:
        """One value, `has_record`: whether the event's session has a record."""
        recorded = col(VerificationRecord.session_id)
        its = recorded == literal_column("inbox_event.session_id")  # RETURNING drops a column's table
        return [select(recorded).where(its).scalar_subquery().is_not(None).label("has_record")]

    @staticmethod
    def discarded(reason: str) -> dict[str, Any]:
        """The columns of an event that an operator ends."""
        end = {"status": InboxStatus.PROCESSED, "outcome": Outcome.IGNORED, "processed_at": now()}
        return end | {"last_error": reason}


ENDED = (Status.VERIFIED, Status.CANCELED)
# All other states, in the words of the index, which would not be used for other words.
NOT_ENDED = text("coalesce(status, '') NOT IN ('verified', 'canceled')")


class VerificationRecord(SQLModel, table=True):
    """The record of one verification session: the state that we hold to be true, and its place among others."""

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
        # For the sessions that reconcile compares: written at each change of a status, some 8 % of PostgreSQL's log.
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
    # A static link takes the reference from its URL, where anybody may type one: it does not prove who the person is.
    client_reference_trusted: bool = True
    user_id: str | None = None
    account: str | None = None
    livemode: bool
    submissions: int = 0
    change_number: int = 0  # of its last change; the sessions of one verification share the numbers
    told_cause: str | None = None  # of the last mail that the person got
    told_count: int = 0  # the number of such mails
    # The order mark: stamp and rank of the state applied last.
    applied_at: datetime | None = _moment(default=None, nullable=True)
    applied_rank: int = 0
    applied_answer: bool = False  # the stamp is an answer's
    redacted_at: datetime | None = _moment(default=None, nullable=True)
    compare_at: datetime | None = _moment(default=None, nullable=True)  # when reconcile compares it with Stripe
    created_at: datetime = _moment()
    updated_at: datetime = _moment()
    # Its place in a verification, if it was opened here.
    verification_id: str | None = Field(default=None, index=True)
    generation: int | None = None
    verification_flow: str | None = None
    # Its cancellation was asked for, to begin another session in its place; until it has ended, none is begun.
    replacing_at: datetime | None = _moment(default=None, nullable=True)
    replaced_at: datetime | None = _moment(default=None, nullable=True)  # another session was begun in its place
    redaction_asked_at: datetime | None = _moment(default=None, nullable=True)  # by us; Stripe may not have done it yet
    ends_quietly: bool | None = None  # its person gets no mail about its end
    wiped_at: datetime | None = _moment(default=None, nullable=True)  # by RECORD_DAYS: nothing personal comes back
    burned_at: datetime | None = _moment(default=None, nullable=True)  # its generation was given up
    remind_at: datetime | None = _moment(default=None, nullable=True)  # a person who has not begun by then is reminded

    if TYPE_CHECKING:  # read only: the columns that decisions depend on
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
    """One person and one purpose: the parameters of the opening, and the current session."""

    KEY: ClassVar = ("livemode", "account", "client_reference_id", "purpose")
    PERSONAL: ClassVar = ("client_reference_id", "return_url", "locale")

    __tablename__ = "verification"
    __table_args__ = (UniqueConstraint(*KEY, name="verification_key"),)

    id: str = Field(primary_key=True)  # idv_…
    client_reference_id: str | None = None  # None once it is wiped: the same person may begin anew
    purpose: str = ""
    account: str = ""  # empty for our own: nulls would never be equal
    livemode: bool
    generation: int = 1
    session_id: str | None = Field(default=None, unique=True)  # the generation's session, once it is made
    opening_until: datetime | None = _moment(default=None, nullable=True)  # the lease of the opening that asks Stripe
    verification_flow: str | None = None
    return_url: str | None = None
    locale: str | None = None
    redaction_asked_at: datetime | None = _moment(default=None, nullable=True)
    looked_at: datetime | None = _moment(default=None, nullable=True)  # at Stripe, for a person who came back
    created_at: datetime = _moment()
    updated_at: datetime = _moment()  # when the generation began


class Submission(SQLModel, table=True):
    """One time the person submitted: a distinct report of Stripe's."""

    __tablename__ = "verification_submission"

    session_id: str = Field(primary_key=True)
    report_id: str = Field(primary_key=True)


class OutboxAction(QueueRow, table=True):
    """An action owed because of a record's state, once per cause."""

    NOUN = "action"
    UNFINISHED = ActionStatus.PENDING
    KIND = "name"
    SINCE = "created_at"
    BEGAN = "owed"
    WHY = ("reason", "last_error")
    MOST_TRIES = "action_attempts"
    GIVES_AWAY = ("given_away_at",)
    # The reasons of actions that were skipped for want of a setting, or of data to which a setting leads.
    UNSET: ClassVar = ("no STRIPE_API_KEY", "no REVIEW_EMAIL", "no address", "no outputs")

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
    payload: str | None = None  # JSON: the state at the moment when it became owed
    created_at: datetime = _moment()
    done_at: datetime | None = _moment(default=None, nullable=True)
    given_away_at: datetime | None = _moment(default=None, nullable=True)  # the time of a mail that may have arrived
    resent_at: datetime | None = _moment(default=None, nullable=True)  # by an operator: it was done or skipped before
    mail_number: int | None = None  # of its last mail to the person; the Message-ID follows from it

    @classmethod
    def id_of(cls, text: str) -> int | None:
        """The number that a text spells; None for any other text."""
        return int(text) if re.fullmatch(r"\d{1,18}", text, re.ASCII) else None

    @classmethod
    def goes_on(cls) -> list[ColumnElement[bool]]:
        """True for actions whose destination is not paused."""
        return [
            or_(
                col(cls.name).not_in([name for name, kind in KINDS.items() if kind.destination == destination]),
                ~exists().where(col(Paused.what) == destination),
            )
            for destination in sorted({kind.destination for kind in KINDS.values()})
        ]

    @classmethod
    def is_unset(cls) -> ColumnElement[bool]:
        """True for skipped actions with one of the reasons in UNSET."""
        return and_(col(cls.status) == ActionStatus.SKIPPED, col(cls.reason).in_(cls.UNSET))

    @classmethod
    def without_end(cls) -> dict[str, Any]:
        """No reason and no end; a mail was given away only if it was done, or may have arrived."""
        # rule: a mail that may have arrived stays one when it is tried again
        given_away_at = case((cls.is_unset(), None), else_=col(cls.given_away_at))
        return {"reason": None, "done_at": None, "given_away_at": given_away_at}

    @staticmethod
    def discarded(reason: str) -> dict[str, Any]:
        """The columns of an action that an operator ends."""
        return {"status": ActionStatus.SKIPPED, "reason": reason, "done_at": now()}


def status_of(table: Any) -> ColumnElement[str]:
    """The status of events or actions that are found by their ids or by their session.

    The expression fits no index of waiting rows: PostgreSQL takes such an index for empty after a quiet time, and would
    read all waiting rows for each of them.
    """
    return func.coalesce(table.status, "")


class VerifiedOutput(SQLModel, table=True):
    """The outputs of a verified session that VERIFIED_OUTPUTS names, encrypted."""

    __tablename__ = "verified_output"

    session_id: str = Field(primary_key=True)
    ciphertext: str
    fetched_at: datetime = _moment(index=True)


class Bookmark(SQLModel, table=True):
    """The moment that a scheduled task has reached and goes on from, or until which a key has signed links."""

    __tablename__ = "identity_bookmark"

    name: str = Field(primary_key=True)
    reached: datetime = _moment()
    asked_at: datetime | None = _moment(default=None, nullable=True)  # the one asked longest ago comes first


class Unanswered(SQLModel, table=True):
    """An account, a session or a second of a list that Stripe would not answer about the last time."""

    __tablename__ = "identity_unanswered"

    what: str = Field(primary_key=True)
    livemode: bool = Field(primary_key=True)
    name: str = Field(primary_key=True)
    reason: str
    failures: int  # in a row
    since: datetime = _moment()
    asked_at: datetime = _moment()


class Paused(SQLModel, table=True):
    """A pause: actions of one destination, or openings, wait although they are owed."""

    __tablename__ = "identity_paused"

    what: str = Field(primary_key=True)  # a destination of actions, or openings
    reason: str = Field(primary_key=True)  # each reason is lifted by itself
    since: datetime = _moment()


class Audited(SQLModel, table=True):
    """A change that an operator or the application has made."""

    __tablename__ = "identity_audit"

    id: int | None = Field(default=None, primary_key=True, sa_type=_NUMBERED)
    at: datetime = _moment()
    who: str
    way: str  # command, console or api
    what: str  # the command's name, or the button's
    about: str  # ids, with a space between two: of sessions, verifications, events, actions
    reason: str | None = None


class ProcessClock(SQLModel, table=True):
    """The row that a process of the version before writes instead of a heartbeat; nobody reads it any more."""

    __tablename__ = "identity_process_clock"

    process: str = Field(primary_key=True)
    kind: str
    ahead_seconds: float
    measured_at: datetime = _moment()


class Heartbeat(SQLModel, table=True):
    """A process's sign of life, written every few seconds by itself, or for a clock by the worker that hears it."""

    __tablename__ = "identity_heartbeat"

    name: str = Field(primary_key=True)  # its kind, its machine's name and its number there
    kind: str  # web, worker or clock
    version: str
    host: str
    started_at: datetime = _moment()
    last_at: datetime = _moment()
    ahead_seconds: float | None = None  # the lead of its machine's clock before the database's; None for a clock
    worked_at: datetime = _moment()  # the last progress of its slowest kind of threads
    listened_at: datetime | None = _moment(default=None, nullable=True)  # a worker: the last time no tick waited
    ended_at: datetime | None = _moment(default=None, nullable=True)  # it was told to end
    outside: str | None = None  # JSON: handlers.metrics.outside, in seconds before last_at


class Metric(SQLModel, table=True):
    """A counter of all processes together, over all their lives."""

    __tablename__ = "identity_metric"

    name: str = Field(primary_key=True)
    labels: str = Field(primary_key=True)  # as Prometheus writes them
    value: float


class Tally(SQLModel, table=True):
    """The growth of a counter in one span of time."""

    __tablename__ = "identity_tally"

    seconds: int = Field(primary_key=True)  # the span's length
    since: datetime = _moment(primary_key=True)
    name: str = Field(primary_key=True)
    labels: str = Field(primary_key=True)
    value: float


TABLES = list(SQLModel.metadata.tables)  # ours: an application's own module may add others later
