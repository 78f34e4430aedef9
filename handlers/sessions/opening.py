"""Opening: a verification's one open session is made or taken up again, whoever asks at once and whatever dies.

A turn is the right to ask Stripe for one verification: a lease in its row, fenced by its generation. Whoever comes
after one that died asks under the same idempotency key, and first searches what Stripe has: keys are forgotten after a
day.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from math import ceil
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, col

from config.database import now, transaction
from config.inserts import NOW, insert_new, insert_or
from config.settings import settings
from handlers.inbox.apply import UNTOUCHED, forget
from handlers.inbox.receive import storing
from handlers.owed.kinds import Owed
from handlers.owed.owe import owe
from handlers.queue.failures import NotNowError
from handlers.record.events import Status
from handlers.sessions.configuration import OURS, changes, fixed_differences
from handlers.sessions.views import verification
from handlers.stripe_api import changing
from handlers.stripe_api.changing import Answer
from handlers.stripe_api.client import MissingError, NotAcceptedError, SpentKeyError
from handlers.stripe_api.sessions import cancel
from handlers.tables.models import Verification, VerificationRecord
from handlers.upkeep.drift import observed

# Longer than all that one opening may ask of Stripe: nothing is begun after _BEGUN_WITHIN, and what is begun then takes
# two searches, two retrieves and a creation at most.
LEASE = timedelta(seconds=130)
_BEGUN_WITHIN = 40.0  # seconds
_TURN = ("id", "generation", "session_id", "updated_at", "return_url", "opening_until")
_DAY = timedelta(days=1)
_SEARCHED_BEFORE = timedelta(hours=1)  # a host's clock and Stripe's may differ


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
    return_url: str | None  # of the generation: Stripe does not tell it, nor let it be changed
    until: datetime  # the lease's end, which nobody else's is
    began: float  # the turn, by the monotonic clock

    @property
    def metadata(self) -> dict[str, str]:
        """What tells whose session it is."""
        return dict(zip(OURS, (self.verification_id, str(self.generation)), strict=True))


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """The current session as Stripe has just answered it, with the secrets it is entered by."""

    verification_id: str
    generation: int
    answer: Answer
    made: bool
    event_id: str | None  # what was observed, in the inbox


def open_verification(wanted: Wanted) -> Opened | None:
    """Takes a turn and uses it; None while another opening of the verification is under way. Raises as use_turn."""
    turn = take_turn(wanted)
    return use_turn(turn, wanted) if turn else None


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
    id_, generation, session_id, began_at, return_url, until = found
    return Turn(
        verification_id=id_,
        generation=generation,
        session_id=session_id,
        began_at=began_at,
        is_new=is_new,
        return_url=return_url,
        until=until,
        began=time.monotonic(),
    )


def use_turn(turn: Turn, wanted: Wanted) -> Opened:
    """Asks Stripe, with no transaction open, and writes down what it says.

    1. the current session is asked for, where there is one: one that is gone, canceled or to be replaced begins a new
       generation, and one that is to be adopted becomes it;
    2. one that somebody may have made for this generation is searched for;
    3. a new one is made, under a key of the generation's own, which is burned where Stripe has saved an error under it;
    4. the session is written down, fenced by the lease, and what Stripe answered goes into the inbox;
    5. an open one that is otherwise than it is wanted is changed, or OpeningError names what cannot be.

    Raises OpeningError, or NotNowError where Stripe cannot answer; the turn is over either way.
    """
    try:
        answer, made = None, False
        if turn.session_id:
            answer = _unless_over(turn.session_id, wanted)
            if turn.session_id == wanted.replaces:
                with transaction() as session:
                    _unless_too_many(session.connection(), turn)
                _replace(turn, wanted, answer)
                answer = None
            if answer is None:
                turn = _next_generation(turn, wanted)
        if wanted.adopt:
            answer = _adopted(turn, wanted, answer)
        while answer is None:
            if time.monotonic() - turn.began > _BEGUN_WITHIN:
                raise OpeningError("opening")
            if not turn.is_new:
                answer = _searched(turn, wanted)
            if answer is None:
                answer = _created(turn, wanted)
                made = answer is not None
            if answer is None:
                turn = _next_generation(turn, wanted)
        event_id = _write(turn, wanted, answer, made=made)
        if answer.state.status == Status.REQUIRES_INPUT:
            unless_enough(turn.verification_id)
            if wanted.adopt:
                changing.update(answer.id, _account(wanted), {"metadata": {**_mark(), **turn.metadata}})
            if not made:
                answer = _configured(turn, answer, wanted)
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

    First written down, so that its end mails nobody, and taken back where the person is faster; doing it twice is doing
    it once.
    """
    if answer and answer.state.status == Status.PROCESSING:
        raise past(answer)
    theirs = update(VerificationRecord).where(col(VerificationRecord.verification_id) == turn.verification_id)
    with transaction() as session:
        replaced = theirs.where(col(VerificationRecord.replaced_at).is_(None)).values(replaced_at=now())
        session.connection().execute(replaced)
    if answer is None or answer.state.status != Status.REQUIRES_INPUT or cancel(answer.id, _account(wanted)):
        return
    again = changing.retrieve(answer.id, _account(wanted))
    if again is None or again.state.status == Status.CANCELED:
        return
    with transaction() as session:
        current = col(VerificationRecord.session_id) == answer.id
        session.connection().execute(theirs.where(current).values(replaced_at=None))
    raise past(again)


def _adopted(turn: Turn, wanted: Wanted, current: Answer | None) -> Answer:
    """An open session of this person's that the application made itself, marked as ours at Stripe."""
    session_id = wanted.adopt or ""
    if current and current.id == session_id:
        return current
    answer = None if current or (not turn.is_new and _searched(turn, wanted)) else _unless_over(session_id, wanted)
    if (
        answer is None
        or answer.state.status != Status.REQUIRES_INPUT
        or answer.state.client_reference_id != wanted.client_reference_id
        or answer.content.get("livemode") != wanted.livemode
        or (answer.content.get("metadata") or {}).get(OURS[0]) not in (None, turn.verification_id)
    ):
        raise OpeningError("not-adoptable")
    return answer


def _searched(turn: Turn, wanted: Wanted) -> Answer | None:
    since = turn.began_at - _SEARCHED_BEFORE
    found = changing.search(wanted.client_reference_id, _account(wanted), since, turn.metadata)
    return _unless_over(found, wanted) if found else None


def _created(turn: Turn, wanted: Wanted) -> Answer | None:
    """A new session; None where nothing can be made under this generation's key any more."""
    ours = {**(wanted.params.get("metadata") or {}), **_mark(), **turn.metadata}
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
    unless_enough(turn.verification_id)
    with transaction() as session:
        _unless_too_many(session.connection(), turn)
        advanced = (
            update(Verification)
            .where(*_fence(turn), col(Verification.redaction_asked_at).is_(None))
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


def unless_enough(verification_id: str) -> None:
    """Raises OpeningError where the person has submitted as often as SUBMISSION_LIMIT allows, over all sessions that
    were not replaced.
    """
    counted = select(func.coalesce(func.sum(VerificationRecord.submissions), 0)).where(
        col(VerificationRecord.verification_id) == verification_id, col(VerificationRecord.replaced_at).is_(None)
    )
    with transaction() as session:
        if session.execute(counted).scalar_one() >= settings().submission_limit:
            raise OpeningError("submission-limit")


def past(answer: Answer) -> Exception:
    """Why a session that is not open any more is not: an OpeningError, or NotNowError for a status of no such name."""
    status = "redacted" if answer.state.redaction else answer.state.status
    if status in ("redacted", Status.PROCESSING, Status.VERIFIED, Status.CANCELED):
        return OpeningError(str(status))
    return NotNowError("Stripe's answers contradict each other")


def _unless_too_many(connection: Connection, turn: Turn) -> None:
    made_at = col(VerificationRecord.created_at)
    recent = select(made_at, now()).where(
        col(VerificationRecord.verification_id) == turn.verification_id, made_at > now(-_DAY)
    )
    opened = connection.execute(recent.order_by(made_at.desc())).all()
    if len(opened) >= settings().openings_per_day:
        last_that_counts, at = opened[settings().openings_per_day - 1]
        raise OpeningError("too-many", retry_after=ceil((last_that_counts + _DAY - at).total_seconds()))


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
    refusal: Exception | None = None
    try:
        changing.update(answer.id, _account(wanted), changed)
    except (NotAcceptedError, MissingError) as error:  # where the person was faster, the session says so
        refusal = error
    again = changing.retrieve(answer.id, _account(wanted))
    if again is None:
        raise OpeningError("opening")
    if refusal and again.state.status == Status.REQUIRES_INPUT:
        raise refusal
    return again


def _write(turn: Turn, wanted: Wanted, answer: Answer, *, made: bool) -> str | None:
    """One transaction: which session it is, whose record that is, and what Stripe said, as an event to be applied.

    Where the person was to be forgotten meanwhile, the session is, too.
    """
    of_the_new = {"return_url": wanted.return_url, "locale": wanted.locale} if made else {}
    current = (
        update(Verification)
        .where(*_fence(turn))
        .values(session_id=answer.id, **of_the_new)
        .returning(col(Verification.redaction_asked_at))
    )
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
    try:
        with transaction() as session:
            connection = session.connection()
            written = connection.execute(current).one_or_none()
            if written is None:
                raise OpeningError("opening")
            insert_or(connection, VerificationRecord, [record], on_conflict=adopted, returning="session_id")
            if written.redaction_asked_at:
                forget_sessions(session, turn.verification_id)
            event_id = observe(connection, answer, _account(wanted), livemode=wanted.livemode)
    except IntegrityError:  # it is another verification's
        raise OpeningError("not-adoptable") from None
    if written.redaction_asked_at:
        raise OpeningError("redacted")
    return event_id


def settle(found: Verification) -> Verification:
    """The row, with the session that an opening may have made which ended without an answer. Raises OpeningError while
    one is under way, NotNowError where Stripe cannot be asked.
    """
    if found.session_id or not found.client_reference_id:
        return found
    wanted = Wanted(
        client_reference_id=found.client_reference_id,
        purpose=found.purpose,
        account=found.account,
        livemode=found.livemode,
        params={},
    )
    turn = take_turn(wanted)
    if turn is None:
        raise OpeningError("opening")
    try:
        answer = None if turn.session_id else _searched(turn, wanted)
        if answer:
            _write(turn, wanted, answer, made=False)
    finally:
        _give_back(turn)
    return verification(found.id)


def forget_sessions(session: Session, verification_id: str) -> None:
    """Wipes what we hold of a verification's sessions, and owes it to each of them at Stripe."""
    theirs = col(VerificationRecord.verification_id) == verification_id
    at = session.execute(select(now())).scalar_one()
    asked = update(VerificationRecord).where(theirs, col(VerificationRecord.redaction_asked_at).is_(None))
    session.connection().execute(asked.values(redaction_asked_at=at, **dict.fromkeys(VerificationRecord.PERSONAL)))
    session_ids = session.scalars(select(col(VerificationRecord.session_id)).where(theirs)).all()
    forget(session, session_ids, at)
    owe(session, [(session_id, [Owed("redact_session", "asked")]) for session_id in session_ids], at)


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
    return (
        col(Verification.id) == turn.verification_id,
        col(Verification.generation) == turn.generation,
        col(Verification.opening_until) == turn.until,
    )
