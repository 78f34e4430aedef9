"""A turn: the right to ask Stripe about one verification, a lease in its row that is fenced by its generation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, delete, or_, select, update
from sqlmodel import Session, col

from config.database import now, steady, transaction
from config.inserts import NOW, insert_new
from config.settings import settings
from handlers.inbox.verifications import lock_records
from handlers.operator.audit import By
from handlers.owed.kinds import ENDED_BY_BURNING, ENDED_BY_REPLACING
from handlers.owed.owe import owe, withdraw
from handlers.queue.failures import NotAllowedError
from handlers.queue.pauses import OPENINGS
from handlers.record.decide import BURNED, REPLACED, ending
from handlers.record.events import OURS
from handlers.sessions.refusals import FaultsError, OpeningError, unless_too_many, unless_used_up
from handlers.stripe_api.changing import Answer
from handlers.stripe_api.client import NotAcceptedError
from handlers.tables.models import Paused, Verification, VerificationRecord

# Longer than all that one opening may ask of Stripe: nothing is begun after _BEGUN_WITHIN, and what is begun then takes
# two searches, two retrieves and a creation at most.
LEASE = timedelta(seconds=130)
_BEGUN_WITHIN = 40.0  # seconds
_TURN = ("id", "generation", "session_id", "updated_at", "return_url", "opening_until")


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
    by: By | None = None  # an operator, whose doing is written down

    @property
    def stripe_account(self) -> str | None:
        """Whom Stripe is asked for; None for our own account."""
        return self.account or None


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
    began: float  # the turn, by a clock that goes on while the machine sleeps, as the lease does

    @property
    def metadata(self) -> dict[str, str]:
        """What tells whose session it is."""
        return dict(zip(OURS, (self.verification_id, str(self.generation)), strict=True))

    def unless_late(self) -> None:
        """Before more is begun: raises OpeningError once that might outlast the lease."""
        # rule: nothing is begun that might outlast the lease
        if steady() - self.began > _BEGUN_WITHIN:
            raise OpeningError("opening")


def take_turn(wanted: Wanted) -> Turn | None:
    """The verification's row, made where there is none, with its lease; None while another opening has it, or openings
    are paused.
    """
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
    whose = [col(getattr(Verification, name)) == row[name] for name in Verification.KEY]
    with transaction() as session:
        # rule: nothing is opened while openings are paused
        if session.scalars(select(col(Paused.what)).where(col(Paused.what) == OPENINGS)).first():
            return None
        is_new = bool(insert_new(session.connection(), Verification, [row]))
        return _leased(session, whose, is_new=is_new)


def take_turn_again(verification_id: str) -> Turn | None:
    """The same for a verification that there is, whosever it still is."""
    with transaction() as session:
        return _leased(session, [col(Verification.id) == verification_id], is_new=False)


def _leased(session: Session, whose: Sequence[ColumnElement[bool]], *, is_new: bool) -> Turn | None:
    # rule: a verification is opened by one at a time
    free = or_(col(Verification.opening_until).is_(None), col(Verification.opening_until) < now())
    taken = update(Verification).where(*whose, free).values(opening_until=now(LEASE))
    found = session.execute(taken.returning(*(col(getattr(Verification, name)) for name in _TURN))).one_or_none()
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
        began=steady(),
    )


def noted(turn: Turn, wanted: Wanted) -> Turn:
    """The same, before a session is made: where the person returns to is told by nobody whose answer is lost.

    Raises OpeningError where the lease is lost.
    """
    # rule: where a person returns to is written down before there is a session
    if turn.return_url == wanted.return_url:
        return turn
    with transaction() as session:
        writing = update(Verification).where(*fence(turn), col(Verification.redaction_asked_at).is_(None))
        if not session.connection().execute(writing.values(return_url=wanted.return_url)).rowcount:
            raise OpeningError("opening")
    return replace(turn, return_url=wanted.return_url)


def next_generation(turn: Turn, wanted: Wanted, last: Answer | None = None, *, is_gone: bool = False) -> Turn:
    """The same for the next generation. Where its session was to be replaced, it is now, with all before it; what was
    made for this generation, and is not known as its session, is burned, and so is one that is gone at Stripe: should
    it be there after all, it ends.

    `last` is what Stripe has just answered about this one's. Raises OpeningError where the person has had enough, or
    somebody else was faster.
    """
    with transaction() as session:
        advanced = (
            update(Verification)
            .where(*fence(turn), col(Verification.redaction_asked_at).is_(None))
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
        lock_records(session, col(VerificationRecord.verification_id) == turn.verification_id)
        current = session.get(VerificationRecord, turn.session_id) if turn.session_id else None
        # rule: a session is replaced by what begins in its place, and counts until then
        if current and current.replacing_at:
            write_down_replaced(session, turn.verification_id)
        unless_used_up(session.connection(), turn.verification_id, last)
        unless_too_many(session.connection(), turn.verification_id)
        _burn(session, turn, None if is_gone else turn.session_id)
    return replace(
        turn,
        generation=turn.generation + 1,
        session_id=None,
        began_at=began_at,
        is_new=True,
        return_url=wanted.return_url,
    )


def write_down_replaced(session: Session, verification_id: str) -> None:
    """Of all sessions of a verification, which are locked; a mail about one that is on its way loses its claim."""
    at = session.execute(select(now())).scalar_one()  # one moment for all: what is replaced together counts together
    counted = update(VerificationRecord).where(
        col(VerificationRecord.verification_id) == verification_id, col(VerificationRecord.replaced_at).is_(None)
    )
    over = session.scalars(counted.values(replaced_at=at).returning(col(VerificationRecord.session_id))).all()
    withdraw(session, over, ENDED_BY_REPLACING, REPLACED, at)


def _burn(session: Session, turn: Turn, kept: str | None) -> None:
    """All sessions of this generation but one, which nobody knows: nobody is mailed about them, but who passes in one
    all the same, and they end.
    """
    burned = (
        update(VerificationRecord)
        .where(
            col(VerificationRecord.verification_id) == turn.verification_id,
            col(VerificationRecord.generation) == turn.generation,
            col(VerificationRecord.session_id).is_distinct_from(kept),
        )
        .values(burned_at=now())
        .returning(VerificationRecord, now())
    )
    for record, at in session.execute(burned).all():
        withdraw(session, [record.session_id], ENDED_BY_BURNING, BURNED, at)
        owe(session, [(record.session_id, ending(record.state, settings().submission_limit))], at)


@contextmanager
def nothing_left(turn: Turn) -> Iterator[None]:
    """A verification that this turn has made, and of which there can be no session, is gone where it is refused, by us
    or by Stripe.
    """
    try:
        yield
    except (OpeningError, FaultsError, NotAcceptedError, NotAllowedError):
        is_nobodys = col(Verification.session_id).is_(None) & col(Verification.redaction_asked_at).is_(None)
        # rule: what has come to nothing leaves no verification
        if turn.is_new and turn.generation == 1:
            with transaction() as session:
                session.connection().execute(delete(Verification).where(*fence(turn), is_nobodys))
        raise


def give_back(turn: Turn) -> None:
    """Ends the turn, whichever generation it has come to, unless it is somebody else's by now."""
    mine = (col(Verification.id) == turn.verification_id, col(Verification.opening_until) == turn.until)
    with transaction() as session:
        session.connection().execute(update(Verification).where(*mine).values(opening_until=None))


def fence(turn: Turn) -> tuple[ColumnElement[bool], ...]:
    """Without which nobody writes the verification's row: whoever has lost the lease comes too late."""
    return (
        col(Verification.id) == turn.verification_id,
        col(Verification.generation) == turn.generation,
        col(Verification.opening_until) == turn.until,  # rule: who has lost the lease writes nothing
    )
