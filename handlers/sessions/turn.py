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
from handlers.queue.pauses import OPENINGS
from handlers.record.decide import BURNED, REPLACED, ending
from handlers.record.events import OUR_KEYS
from handlers.sessions.refusals import FaultsError, OpeningError, unless_enough, unless_too_many
from handlers.stripe_api.changing import Answer
from handlers.stripe_api.client import DeniedError, MissingError, NotAcceptedError
from handlers.tables.models import Paused, Verification, VerificationRecord

# Longer than all calls of one opening to Stripe: no round of them begins after _BEGUN_WITHIN, and a round has two
# searches, two retrieves and a creation at most.
OPENING_LEASE = timedelta(seconds=130)
_BEGUN_WITHIN = 40.0  # seconds
_TURN = ("id", "generation", "session_id", "updated_at", "return_url", "opening_until")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """The application's request: the person, the purpose, and `params`, Stripe's own parameters as they were given."""

    client_reference_id: str
    purpose: str
    account: str
    livemode: bool
    params: Mapping[str, Any]
    return_url: str | None = None
    locale: str | None = None
    replaces: str | None = None  # the session in whose place another one is begun
    adopt: str | None = None  # an open session that was made elsewhere
    by: By | None = None  # the operator who asks, for the audit

    @property
    def stripe_account(self) -> str | None:
        """The account in whose name Stripe is asked; None for our own."""
        return self.account or None


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """The right to ask Stripe about one verification, until the lease ends."""

    verification_id: str
    generation: int
    session_id: str | None
    began_at: datetime  # the time of this generation's beginning, by the database's clock
    is_new: bool  # nobody can have asked Stripe for this generation before
    return_url: str | None  # of the generation: Stripe does not tell it, nor let it be changed
    until: datetime  # the lease's end; no other lease has the same
    began: float  # the turn's beginning, by a clock that goes on while the machine sleeps, as the lease does

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata that names a session's verification and generation."""
        return dict(zip(OUR_KEYS, (self.verification_id, str(self.generation)), strict=True))

    def unless_late(self) -> None:
        """Raises OpeningError once another round of calls might outlast the lease."""
        # rule: no round of calls begins that might outlast the lease
        if steady() - self.began > _BEGUN_WITHIN:
            raise OpeningError("opening")


def take_turn(wanted: Wanted) -> Turn | None:
    """Takes the lease of the verification's row, which is made if there is none; None while another opening has it, or
    openings are paused.
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
    """Takes the lease of a verification that exists, also while openings are paused; None while an opening has it."""
    with transaction() as session:
        return _leased(session, [col(Verification.id) == verification_id], is_new=False)


def _leased(session: Session, whose: Sequence[ColumnElement[bool]], *, is_new: bool) -> Turn | None:
    # rule: one opening of a verification is under way at a time
    taken = update(Verification).where(*whose, is_free()).values(opening_until=now(OPENING_LEASE))
    found = session.execute(taken.returning(*(col(getattr(Verification, name)) for name in _TURN))).one_or_none()
    if found is None:
        # Its opener loses it.
        until = col(Verification.opening_until)
        # rule: a step back of the database's clock prolongs no opening's lease for long
        session.execute(
            update(Verification).where(*whose, until > now(2 * OPENING_LEASE)).values(opening_until=now(OPENING_LEASE))
        )
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


def is_free() -> ColumnElement[bool]:
    """The condition of a verification that no opening has the lease of."""
    return or_(col(Verification.opening_until).is_(None), col(Verification.opening_until) < now())


def noted(turn: Turn, wanted: Wanted) -> Turn:
    """The turn with the wanted return_url, which is written down before a session is made: Stripe does not tell it.

    Raises OpeningError if the lease is lost.
    """
    # rule: the return_url is written down before there is a session
    if turn.return_url == wanted.return_url:
        return turn
    with transaction() as session:
        writing = update(Verification).where(*fence(turn), col(Verification.redaction_asked_at).is_(None))
        if not session.connection().execute(writing.values(return_url=wanted.return_url)).rowcount:
            raise OpeningError("opening")
    return replace(turn, return_url=wanted.return_url)


def next_generation(turn: Turn, wanted: Wanted, last: Answer | None = None, *, is_gone: bool = False) -> Turn:
    """The turn of the next generation. A session that was to be replaced is replaced now, with all before it. Sessions
    made for this generation and not known as its own are burned, and so is one that is gone at Stripe: should it be
    there after all, it ends.

    `last` is Stripe's fresh answer about this generation's session. Raises OpeningError at the limit, after too many
    openings, or if the lease is lost.
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
        # rule: a session counts until the next generation replaces it
        if current and current.replacing_at:
            write_down_replaced(session, turn.verification_id)
        unless_enough(turn.verification_id, last, session.connection())
        unless_too_many(session.connection(), turn.verification_id)
        burn(session, turn.verification_id, turn.generation, but_for=None if is_gone else turn.session_id)
    return replace(
        turn,
        generation=turn.generation + 1,
        session_id=None,
        began_at=began_at,
        is_new=True,
        return_url=wanted.return_url,
    )


def write_down_replaced(session: Session, verification_id: str) -> None:
    """Marks a verification's sessions, which are locked, as replaced; a mail about one on its way loses its claim."""
    at = session.execute(select(now())).scalar_one()  # one moment for all: sessions replaced together count together
    counted = update(VerificationRecord).where(
        col(VerificationRecord.verification_id) == verification_id, col(VerificationRecord.replaced_at).is_(None)
    )
    over = session.scalars(counted.values(replaced_at=at).returning(col(VerificationRecord.session_id))).all()
    withdraw(session, over, ENDED_BY_REPLACING, REPLACED, at)


def burn(session: Session, verification_id: str, generation: int, *, but_for: str | None) -> None:
    """Burns all sessions of a generation except one: they end, and nobody is mailed about them, except a person who
    passes in one all the same.
    """
    burned = (
        update(VerificationRecord)
        .where(
            col(VerificationRecord.verification_id) == verification_id,
            col(VerificationRecord.generation) == generation,
            col(VerificationRecord.session_id).is_distinct_from(but_for),
        )
        .values(burned_at=now())
        .returning(VerificationRecord, now())
    )
    for record, at in session.execute(burned).all():
        withdraw(session, [record.session_id], ENDED_BY_BURNING, BURNED, at)
        owe(session, [(record.session_id, ending(record.state, settings().submission_limit))], at)


@contextmanager
def nothing_left(turn: Turn) -> Iterator[None]:
    """Deletes the verification that this turn has made if it is refused, by us or by Stripe, as long as it can have no
    session.
    """
    try:
        yield
    except (OpeningError, FaultsError, MissingError, NotAcceptedError, DeniedError):
        is_nobodys = col(Verification.session_id).is_(None) & col(Verification.redaction_asked_at).is_(None)
        # rule: a refused opening leaves no new verification behind
        if turn.is_new and turn.generation == 1:
            with transaction() as session:
                session.connection().execute(delete(Verification).where(*fence(turn), is_nobodys))
        raise


def give_back(turn: Turn) -> None:
    """Ends the turn, also if it has come to a later generation, unless the lease is another opening's by now."""
    mine = (col(Verification.id) == turn.verification_id, col(Verification.opening_until) == turn.until)
    with transaction() as session:
        session.connection().execute(update(Verification).where(*mine).values(opening_until=None))


def fence(turn: Turn) -> tuple[ColumnElement[bool], ...]:
    """The conditions under which a turn writes the verification's row: one that has lost the lease comes too late."""
    return (
        col(Verification.id) == turn.verification_id,
        col(Verification.generation) == turn.generation,
        col(Verification.opening_until) == turn.until,  # rule: a turn that has lost the lease writes nothing
    )
