"""Opening: a verification's one open session is made or taken up again, whoever asks at once and whatever dies.

A turn is the right to ask Stripe for one verification: a lease in its row, fenced by its generation. Whoever comes
after one that died asks under the same idempotency key, and first searches what Stripe has: keys are forgotten after a
day.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, func, or_, select, update
from sqlmodel import col

from config.database import now, transaction
from config.inserts import NOW, insert_new, insert_or
from config.settings import settings
from handlers.inbox.apply import UNTOUCHED
from handlers.inbox.receive import storing
from handlers.record.events import Status
from handlers.sessions.configuration import OURS, changes, fixed_differences
from handlers.stripe_api import changing
from handlers.stripe_api.changing import Answer
from handlers.stripe_api.client import SpentKeyError
from handlers.stripe_api.sessions import cancel
from handlers.tables.models import Verification, VerificationRecord
from handlers.upkeep.drift import observed

LEASE = timedelta(seconds=90)  # longer than all that one opening may ask of Stripe
_TURN = ("id", "generation", "session_id", "updated_at", "return_url")
_DAY = timedelta(days=1)
_SEARCHED_BEFORE = timedelta(hours=1)  # a host's clock and Stripe's may differ
_MOST_BURNED = 3  # in one opening: a key is spent by a lost answer, and not three times in a row


class OpeningError(Exception):
    """Why nothing is opened: `code` is one of the API's (receiver/api/problems.py); `retry_after` in seconds."""

    def __init__(self, code: str, detail: str = "", retry_after: int | None = None) -> None:
        super().__init__(code)
        self.code, self.detail, self.retry_after = code, detail, retry_after


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What the application asks for: who, what for, and `params`, Stripe's own parameters as they were given."""

    client_reference_id: str
    purpose: str
    account: str
    livemode: bool
    params: Mapping[str, Any]
    return_url: str | None = None
    locale: str | None = None
    replaces: str | None = None  # the session in whose place another one is begun
    adopt: str | None = None  # an open session that was made elsewhere


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """The right to ask Stripe about one verification, until the lease ends."""

    verification_id: str
    generation: int
    session_id: str | None
    began_at: datetime  # this generation, by the database's clock
    is_new: bool  # nobody can have asked Stripe for this generation before
    return_url: str | None = None  # of the generation: Stripe does not tell it, nor let it be changed

    @property
    def metadata(self) -> dict[str, str]:
        """What tells whose session it is."""
        return {**_mark(), **dict(zip(OURS, (self.verification_id, str(self.generation)), strict=True))}


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """The current session as Stripe has just answered it, with the secrets it is entered by."""

    verification_id: str
    generation: int
    answer: Answer
    made: bool
    event_id: str | None  # what was observed, in the inbox


def take_turn(wanted: Wanted) -> Turn | None:
    """The verification's row, made where there is none, with its lease; None while another opening has it."""
    row = {
        "id": f"idv_{uuid4().hex}",
        "client_reference_id": wanted.client_reference_id,
        "purpose": wanted.purpose,
        "account": wanted.account,
        "livemode": wanted.livemode,
        "generation": 1,
        "verification_flow": wanted.params.get("verification_flow"),
        "return_url": wanted.return_url,
        "locale": wanted.locale,
        "created_at": NOW,
        "updated_at": NOW,
    }
    free = or_(col(Verification.opening_until).is_(None), col(Verification.opening_until) < now())
    taken = (
        update(Verification)
        .where(*(col(getattr(Verification, name)) == row[name] for name in Verification.KEY), free)
        .values(opening_until=now(LEASE))
        .returning(*(col(getattr(Verification, name)) for name in _TURN))
    )
    with transaction() as session:
        is_new = bool(insert_new(session.connection(), Verification, [row]))
        found = session.connection().execute(taken).one_or_none()
    if found is None:
        return None
    id_, generation, session_id, began_at, return_url = found
    return Turn(
        verification_id=id_,
        generation=generation,
        session_id=session_id,
        began_at=began_at,
        is_new=is_new,
        return_url=return_url,
    )


def use_turn(turn: Turn, wanted: Wanted) -> Opened:
    """Asks Stripe, with no transaction open, and writes down what it says.

    1. the current session is asked for, where there is one: one that is gone, canceled or to be replaced begins a new
       generation, and one that is to be adopted becomes it;
    2. one that somebody may have made for this generation is searched for;
    3. a new one is made, under a key of the generation's own, which is burned where Stripe has saved an error under it;
    4. an open one that is otherwise than it is wanted is changed, or OpeningError names what cannot be;
    5. the session is written down, fenced by the generation, and what Stripe answered goes into the inbox.

    Raises OpeningError, or NotNowError where Stripe cannot answer; the turn is over either way.
    """
    try:
        answer, made = None, False
        if turn.session_id:
            answer = _unless_over(turn.session_id, wanted)
            if turn.session_id == wanted.replaces:
                _replace(turn, wanted, answer)
                answer = None
            if answer is None:
                turn = _next_generation(turn, wanted)
        if wanted.adopt:
            answer = _adopted(turn, wanted, answer)
        for _ in range(_MOST_BURNED):
            if answer is None and not turn.is_new:
                answer = _searched(turn, wanted)
            if answer is None:
                answer = _created(turn, wanted)
                made = answer is not None
            if answer:
                break
            turn = _next_generation(turn, wanted)
        if answer is None:
            raise OpeningError("opening")
        if answer.state.status == Status.REQUIRES_INPUT:
            answer = _configured(turn, answer, wanted)
        event_id = _write(turn, wanted, answer)
    finally:
        _give_back(turn)
    return Opened(
        verification_id=turn.verification_id, generation=turn.generation, answer=answer, made=made, event_id=event_id
    )


def _account(wanted: Wanted) -> str | None:
    return wanted.account or None


def _unless_over(session_id: str, wanted: Wanted) -> Answer | None:
    """The session, unless it is canceled or gone: then it is no use to anybody."""
    answer = changing.retrieve(session_id, _account(wanted))
    return answer if answer and answer.state.status != Status.CANCELED and not answer.state.redaction else None


def _replace(turn: Turn, wanted: Wanted, answer: Answer | None) -> None:
    """The current session is over for us, whatever comes of it still; an open one is ended at Stripe, too.

    First written down, so that its end mails nobody; doing it twice is doing it once.
    """
    if answer and answer.state.status == Status.PROCESSING:
        raise OpeningError("processing")
    theirs = col(VerificationRecord.verification_id) == turn.verification_id
    replaced = update(VerificationRecord).where(theirs, col(VerificationRecord.replaced_at).is_(None))
    with transaction() as session:
        session.connection().execute(replaced.values(replaced_at=now()))
    if answer and answer.state.status == Status.REQUIRES_INPUT and not cancel(answer.id, _account(wanted)):
        raise OpeningError("processing")  # the person was faster


def _adopted(turn: Turn, wanted: Wanted, current: Answer | None) -> Answer:
    """An open session of this person's that the application made itself, marked as ours at Stripe."""
    session_id = wanted.adopt or ""
    if current and current.id == session_id:
        return current
    answer = _unless_over(session_id, wanted)
    is_open = answer is not None and answer.state.status == Status.REQUIRES_INPUT
    is_theirs = answer is not None and answer.state.client_reference_id == wanted.client_reference_id
    if answer is None or current or not is_open or not is_theirs or answer.content.get("livemode") != wanted.livemode:
        raise OpeningError("not-adoptable")
    changing.update(session_id, _account(wanted), {"metadata": turn.metadata})
    return replace(answer, content={**answer.content, "metadata": {**answer.content["metadata"], **turn.metadata}})


def _searched(turn: Turn, wanted: Wanted) -> Answer | None:
    since = turn.began_at - _SEARCHED_BEFORE
    found = changing.search(wanted.client_reference_id, _account(wanted), since, turn.metadata)
    return _unless_over(found, wanted) if found else None


def _created(turn: Turn, wanted: Wanted) -> Answer | None:
    """A new session; None where nothing can be made under this generation's key any more."""
    ours = {**(wanted.params.get("metadata") or {}), **turn.metadata}
    params = {**wanted.params, "client_reference_id": wanted.client_reference_id, "metadata": ours}
    if wanted.return_url:
        params["return_url"] = wanted.return_url
    key = f"open-{turn.verification_id}-{turn.generation}"
    try:
        answer = changing.create(params, _account(wanted), key)
    except SpentKeyError:
        return _searched(turn, wanted)
    # A saved answer's secrets may have been used.
    return _unless_over(answer.id, wanted) if answer.is_replayed else answer


def _mark() -> dict[str, str]:
    """The metadata by which our webhook knows what is opened here for ours: the first of OUR_SESSIONS that is some."""
    marks = [mark.split("=", 1) for mark in settings().our_sessions if "=" in mark]
    return dict(marks[:1])


def _next_generation(turn: Turn, wanted: Wanted) -> Turn:
    """The turn of the next one; raises OpeningError where the person has had enough, or somebody else was faster."""
    with transaction() as session:
        _unless_enough(session.connection(), turn)
        advanced = (
            update(Verification)
            .where(*_fence(turn))
            .values(
                generation=turn.generation + 1,
                session_id=None,
                verification_flow=wanted.params.get("verification_flow"),
                return_url=wanted.return_url,
                locale=wanted.locale,
                updated_at=now(),
            )
            .returning(col(Verification.updated_at))
        )
        began_at = session.connection().execute(advanced).scalar_one_or_none()
    if began_at is None:
        raise OpeningError("opening")
    return replace(
        turn,
        generation=turn.generation + 1,
        session_id=None,
        began_at=began_at,
        is_new=True,
        return_url=wanted.return_url,
    )


def _unless_enough(connection: Any, turn: Turn) -> None:
    theirs = col(VerificationRecord.verification_id) == turn.verification_id
    counted = select(func.coalesce(func.sum(VerificationRecord.submissions), 0)).where(
        theirs, col(VerificationRecord.replaced_at).is_(None)
    )
    if connection.scalar(counted) >= settings().submission_limit:
        raise OpeningError("submission-limit")
    recent = select(col(VerificationRecord.created_at)).where(theirs, col(VerificationRecord.created_at) > now(-_DAY))
    opened = sorted(connection.scalars(recent.add_columns(now())).all())
    if len(opened) >= settings().openings_per_day:
        raise OpeningError("too-many", retry_after=int(_DAY.total_seconds()))


def _configured(turn: Turn, answer: Answer, wanted: Wanted) -> Answer:
    names = fixed_differences(wanted.params, answer.content)
    if wanted.return_url not in (None, turn.return_url):
        names.append("return_url")
    if names:
        raise OpeningError("configuration-differs", ", ".join(names))
    params = dict(wanted.params)
    if "metadata" in params:  # else it is left alone
        params["metadata"] = {**(params["metadata"] or {}), **_mark()}
    changed = changes(params, answer.content)
    if not changed:
        return answer
    changing.update(answer.id, _account(wanted), changed)
    again = changing.retrieve(answer.id, _account(wanted))
    if again is None:
        raise OpeningError("opening")
    return again


def _write(turn: Turn, wanted: Wanted, answer: Answer) -> str | None:
    """One transaction: which session it is, whose record that is, and what Stripe said, as an event to be applied."""
    current = update(Verification).where(*_fence(turn)).values(session_id=answer.id, updated_at=now())
    record = {
        **UNTOUCHED,
        "session_id": answer.id,
        "account": _account(wanted),
        "livemode": wanted.livemode,
        "verification_id": turn.verification_id,
        "generation": turn.generation,
        "verification_flow": answer.content.get("verification_flow"),
    }
    adopted = (
        "(session_id) DO UPDATE SET verification_id = excluded.verification_id, generation = excluded.generation,"
        " verification_flow = excluded.verification_flow"
    )
    with transaction() as session:
        connection = session.connection()
        if not connection.execute(current).rowcount:
            raise OpeningError("opening")
        insert_or(connection, VerificationRecord, [record], on_conflict=adopted, returning="session_id")
        return observe(connection, answer, _account(wanted), livemode=wanted.livemode)


def observe(connection: Connection, answer: Answer, account: str | None, *, livemode: bool) -> str | None:
    """Puts what Stripe answered into the inbox, as the event that would have said so; its id, if we know its status."""
    event = observed(answer.id, account, livemode, answer.state, answer.asked_at)
    if event:
        insert, rows = storing(connection.dialect.name, [event])
        connection.exec_driver_sql(insert, (rows,))
    return event.id if event else None


def _give_back(turn: Turn) -> None:
    with transaction() as session:
        session.connection().execute(update(Verification).where(*_fence(turn)).values(opening_until=None))


def _fence(turn: Turn) -> tuple[ColumnElement[bool], ...]:
    return col(Verification.id) == turn.verification_id, col(Verification.generation) == turn.generation
