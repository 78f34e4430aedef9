"""Opening: makes a verification's one open session or takes it up again, though many ask at once and processes die.

An opening after one that died asks under the same idempotency key, and first searches Stripe's list: Stripe forgets
keys after a day.
"""

from dataclasses import dataclass
from typing import Any

from config.database import transaction
from handlers.record.events import Status
from handlers.sessions.configuration import changes, fixed_differences
from handlers.sessions.elsewhere import elsewhere
from handlers.sessions.making import adoptable, made_under_key, marks, our_mark, searched, unless_over
from handlers.sessions.refusals import OpeningError, past, unless_enough, unless_too_many
from handlers.sessions.replacing import replace, unless_anothers
from handlers.sessions.turn import Turn, Wanted, give_back, next_generation, noted, nothing_left, take_turn
from handlers.sessions.writing import apply_observed, notice, write
from handlers.stripe_api import changing
from handlers.stripe_api.changing import Answer
from handlers.stripe_api.client import MissingError, NotAcceptedError


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """The current session as Stripe has just answered it, with its secrets for an entry; or another session, in which
    the person is verified or being checked.
    """

    verification_id: str
    generation: int
    answer: Answer
    made: bool
    owed: list[int]  # the ids of the actions that the answer makes due


def open_verification(wanted: Wanted) -> Opened | None:
    """Takes a turn and uses it; None while another opening of the verification is under way. Raises as use_turn."""
    turn = take_turn(wanted)
    return use_turn(turn, wanted) if turn else None


def use_turn(turn: Turn, wanted: Wanted) -> Opened:
    """Asks Stripe, with no transaction open, and writes down its answers.

    1. the current session, if there is one, is retrieved. A person who is verified or being checked in another one gets
       that one, and nothing more is done, unless the current one is to be replaced. If it is, or is
       gone or canceled, a new generation begins; a session to be adopted becomes the current one;
    2. a session that another opening may have made for this generation is searched for;
    3. a new session is made under the generation's own key; if Stripe has saved an error under it, the generation is
       burned;
    4. the session is written down, fenced by the lease, and Stripe's answer goes into the inbox;
    5. an open session that differs from the wanted one is changed, or OpeningError names the fixed parameters;
    6. once the turn is over, Stripe's answer is applied like any event, also if nobody is let in.

    Raises OpeningError, FaultsError, or NotNowError if Stripe cannot answer; the turn is over either way, and a
    verification that it made in vain is deleted.
    """
    event_ids: list[str | None] = []
    refusal: OpeningError | None = None
    try:
        turn, answer, made = _used(turn, wanted, event_ids)
    except OpeningError as error:
        refusal = error
        raise
    finally:
        give_back(turn)
        owed = apply_observed(*event_ids)
        if refusal:
            refusal.owed = owed
    return Opened(
        verification_id=turn.verification_id,
        generation=turn.generation,
        answer=answer,
        made=made,
        owed=owed,
    )


def _used(turn: Turn, wanted: Wanted, event_ids: list[str | None]) -> tuple[Turn, Answer, bool]:
    """The turn of the last generation, its session, and whether it was made just now; adds to event_ids."""
    answer = last = None
    made, is_replaced = False, turn.session_id is not None and turn.session_id == wanted.replaces
    with nothing_left(turn):
        if wanted.replaces and not is_replaced:
            unless_anothers(turn, wanted.replaces)
    if turn.session_id:
        last = changing.retrieve(turn.session_id, wanted.stripe_account)
        answer = unless_over(last)
    current_id = last.id if last else None  # a session that is gone is no current one
    if found := elsewhere(turn.verification_id, current_id, wanted.stripe_account):
        event_ids.append(found.event_id)
        # rule: a session is replaced while none of its verification is being checked
        if is_replaced and found.answer.state.status == Status.PROCESSING:
            raise past(found.answer)
    # rule: a person who is verified or being checked in another session is not asked again
    if found and not is_replaced:
        if wanted.adopt:
            raise OpeningError("not-adoptable")
        if not found.is_over:  # the next try finds this answer applied
            raise OpeningError("opening")
        return turn, found.answer, False
    theirs = None
    if wanted.adopt and not (answer and answer.id == wanted.adopt):
        with nothing_left(turn):
            theirs = adoptable(turn, wanted, answer)
            # rule: a session that is refused is not adopted
            _unless_fixed(turn, wanted, theirs)
    if is_replaced:
        with transaction() as session:
            unless_too_many(session.connection(), turn.verification_id)
        last = replace(turn, wanted, answer) or last
    if turn.session_id and (is_replaced or answer is None):
        event_ids += [notice(last, wanted.stripe_account, livemode=wanted.livemode)] if last else []
        turn, answer = next_generation(turn, wanted, last, is_gone=last is None), None
    if theirs:
        turn, answer = noted(turn, wanted), theirs
    while answer is None:
        turn.unless_late()
        # rule: a session that may have been made before is searched for
        if not turn.is_new:
            answer = searched(turn, wanted)
        if answer is None:
            turn = noted(turn, wanted)
            answer, made = made_under_key(turn, wanted)
        if answer is None:
            turn = next_generation(turn, wanted)
    with nothing_left(turn):
        event_ids.append(write(turn, wanted, answer, made=made))
    # rule: a session that is known as the current one only now is replaced by the next try
    if answer.id == wanted.replaces:
        raise OpeningError("opening")
    if answer.state.status == Status.REQUIRES_INPUT:
        unless_enough(turn.verification_id, answer)
        if not made:
            _marked(turn, answer, wanted)
            answer = _configured(turn, answer, wanted)
    return turn, answer, made


def _marked(turn: Turn, answer: Answer, wanted: Wanted) -> None:
    """Marks an adopted session as ours at Stripe, once."""
    has = answer.content.get("metadata") or {}
    ours = marks(turn, wanted, has)
    if not ours.items() <= has.items():
        changing.update(answer.id, wanted.stripe_account, {"metadata": ours})


def _configured(turn: Turn, answer: Answer, wanted: Wanted) -> Answer:
    _unless_fixed(turn, wanted, answer, *(["return_url"] if wanted.return_url not in (None, turn.return_url) else []))
    changed = changes(_params(wanted), answer.content)
    if not changed:
        return answer
    refusal: Exception | None = None
    try:
        changing.update(answer.id, wanted.stripe_account, changed)
    except (NotAcceptedError, MissingError) as error:  # if the person was faster, the session shows it
        refusal = error
    again = changing.retrieve(answer.id, wanted.stripe_account)
    if again is None:
        raise OpeningError("opening")
    if refusal and again.state.status == Status.REQUIRES_INPUT:
        raise refusal
    return again


def _unless_fixed(turn: Turn, wanted: Wanted, answer: Answer, *others: str) -> None:
    """Raises OpeningError with the names of the wanted parameters that differ in the open session and are fixed."""
    names = [*fixed_differences(wanted.params, answer.content), *others]
    if wanted.adopt:
        has = answer.content.get("metadata") or {}
        # rule: an adopted session keeps the parameters that it was made with
        names += changes(_params(wanted), {**answer.content, "metadata": {**has, **marks(turn, wanted, has)}})
    if names:
        raise OpeningError("configuration-differs", ", ".join(names))


def _params(wanted: Wanted) -> dict[str, Any]:
    if "metadata" not in wanted.params:  # the session's metadata is left alone
        return dict(wanted.params)
    return {**wanted.params, "metadata": {**(wanted.params["metadata"] or {}), **our_mark()}}
