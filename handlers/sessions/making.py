"""Making: finds the session of a generation that was made before, makes it, or adopts one."""

from collections.abc import Mapping
from datetime import timedelta

from config.settings import settings
from handlers.record.events import OUR_KEYS, PURPOSE, Status
from handlers.sessions.configuration import MOST_KEYS
from handlers.sessions.links import return_url_of
from handlers.sessions.refusals import OpeningError
from handlers.sessions.turn import Turn, Wanted, nothing_left
from handlers.stripe_api import changing
from handlers.stripe_api.changing import Answer
from handlers.stripe_api.client import SpentKeyError, unreadable

_SEARCHED_BEFORE = timedelta(hours=1)  # a host's clock and Stripe's may differ


def unless_over(answer: Answer | None) -> Answer | None:
    """The session, unless it is canceled, gone, or redacted while it was open: then nobody can use it."""
    # Stripe may have forgotten the session meanwhile.
    # rule: a person who is verified or being checked is not billed again
    if answer and answer.state.status in (Status.PROCESSING, Status.VERIFIED):
        return answer
    return answer if answer and answer.state.status != Status.CANCELED and not answer.state.redaction else None


def searched(turn: Turn, wanted: Wanted) -> Answer | None:
    """The session that another opening made for this generation, or None. Raises NotNowError if not all were listed."""
    since = turn.began_at - _SEARCHED_BEFORE
    found = changing.search(wanted.client_reference_id, wanted.stripe_account, since, turn.metadata)
    return unless_over(changing.retrieve(found, wanted.stripe_account)) if found else None


def made_under_key(turn: Turn, wanted: Wanted) -> tuple[Answer | None, bool]:
    """The session that Stripe has under this generation's key, and whether it was made just now; None if the key can
    make none any more.
    """
    given = wanted.params.get("metadata") or {}
    metadata = {**given, **marks(turn, wanted, given)}
    params = {**wanted.params, "client_reference_id": wanted.client_reference_id, "metadata": metadata}
    if not settings().why_no_links:  # the person passes our own page, whose button leads on
        params["return_url"] = return_url_of(turn.verification_id)
    elif wanted.return_url:
        params["return_url"] = wanted.return_url
    key = f"open-{turn.verification_id}-{turn.generation}"
    try:
        with nothing_left(turn):
            answer = changing.create(params, wanted.stripe_account, key)
    except SpentKeyError:
        return searched(turn, wanted), False  # rule: the session of a spent key is searched for
    if not turn.metadata.items() <= (answer.content.get("metadata") or {}).items():
        raise unreadable("it is another session")
    # rule: a saved answer is never handed out; its secrets may have been used
    return (
        (unless_over(changing.retrieve(answer.id, wanted.stripe_account)), False)
        if answer.is_replayed
        else (answer, True)
    )


def adoptable(turn: Turn, wanted: Wanted, current: Answer | None) -> Answer:
    """The open session of this person that the application made itself, with room in its metadata for ours; else, or
    beside another, OpeningError.
    """
    is_beside = current or (not turn.is_new and turn.session_id is None and searched(turn, wanted))
    answer = None if is_beside else changing.retrieve(wanted.adopt or "", wanted.stripe_account)
    has = (answer and answer.content.get("metadata")) or {}
    # rule: only an open session of this person's is adopted
    if (
        answer is None
        or answer.state.status != Status.REQUIRES_INPUT
        or answer.state.redaction
        or answer.state.client_reference_id != wanted.client_reference_id
        or has.get(OUR_KEYS[0]) not in (None, turn.verification_id)
    ):
        raise OpeningError("not-adoptable")
    # rule: a session with another environment's mark is not adopted
    if any(key in has and f"{key}={has[key]}" not in settings().our_sessions for key in our_mark()):
        raise OpeningError("not-adoptable", "its metadata has another value for the mark of OUR_SESSIONS")
    # rule: a session whose metadata has no room for ours is not adopted
    if len({**has, **turn.metadata}) > MOST_KEYS:
        raise OpeningError("not-adoptable", f"its metadata has no room for {' and '.join(OUR_KEYS)}")
    return answer


def marks(turn: Turn, wanted: Wanted, given: Mapping[str, str]) -> dict[str, str]:
    """The keys to add to a session's metadata: verification, generation, and as there is room our mark and the purpose.
    A session that names its verification is known as ours without the mark.
    """
    ours = turn.metadata
    for key, value in {**our_mark(), PURPOSE: wanted.purpose}.items():
        if value and len({**given, **ours, key: value}) <= MOST_KEYS:
            ours[key] = value
    return ours


def our_mark() -> dict[str, str]:
    """The metadata by which our webhook knows a session opened here: the first of OUR_SESSIONS that is metadata."""
    marks = [mark.split("=", 1) for mark in settings().our_sessions if "=" in mark]
    return dict(marks[:1])
