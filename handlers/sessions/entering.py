"""Entering: the moment the person goes in, and the only one at which a secret, a url or an ephemeral key is fetched."""

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from config.settings import settings
from handlers.record.events import Status
from handlers.sessions.elsewhere import elsewhere
from handlers.sessions.links import link_to
from handlers.sessions.refusals import OpeningError, past, unless_enough
from handlers.sessions.standing import is_final
from handlers.sessions.views import NotFoundError, made_elsewhere, verification
from handlers.sessions.writing import apply_observed, notice
from handlers.stripe_api import changing
from handlers.stripe_api.changing import Answer
from handlers.stripe_api.client import unreadable

log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class WayIn:
    """A person's way in: `integration` is hosted, modal, redirect or native; native names the app's API version.

    The application decides whom it lets in; for a person with a link of ours, this service decides.
    """

    integration: str = "hosted"
    stripe_version: str | None = None
    is_by_link: bool = False

    @property
    def asks_stripe(self) -> bool:
        """Whether the entry needs a call to Stripe of its own."""
        return self.integration == "native"


@dataclass(frozen=True, slots=True)
class Entry:
    """The fields that the integration needs, and no others. They are answered once, and kept nowhere."""

    fields: dict[str, Any] = field(repr=False)


def entry(verification_id: str, answer: Answer, account: str | None, way: WayIn) -> Entry | None:
    """The entry to an open session that Stripe has just answered; None for any other: nobody is checked twice."""
    # rule: only an open session is entered
    if answer.state.status != Status.REQUIRES_INPUT or answer.state.redaction:
        return None
    if way.integration == "modal":
        key = settings().stripe_publishable_key.get_secret_value()
        return Entry({"client_secret": _way_in(answer, "client_secret"), "publishable_key": key})
    if way.integration == "redirect":
        return Entry({"url": _way_in(answer, "url")})
    if way.asks_stripe:
        secret = changing.ephemeral_key(answer.id, account, way.stripe_version or "")
        return Entry({"session_id": answer.id, "ephemeral_key_secret": secret})
    return Entry({} if settings().why_no_links else {"url": link_to(verification_id).url})


def _way_in(answer: Answer, name: str) -> str:
    found = answer.content.get(name)
    # rule: an open session without a way in is an answer that cannot be read
    if not isinstance(found, str):
        raise unreadable(f"it has no {name}")
    return found


def enter(verification_id: str, way: WayIn) -> Entry:
    """A fresh entry to the current session.

    Raises NotFoundError for no such verification, OpeningError if the session is not open, NotNowError if Stripe cannot
    be asked.
    """
    found = verification(verification_id)
    if found.redaction_asked_at:
        raise OpeningError("redacted")
    _unless_elsewhere(found.id, found.session_id, found.account or None)
    if found.session_id is None:
        raise OpeningError("opening", "there is no session yet")
    return _fresh(found.session_id, found.account or None, found.id, way)


def enter_by_link(subject: str, way: WayIn) -> Entry:
    """A fresh entry for a person with a link of ours, which may also lead to a session that was made elsewhere.

    Raises as enter, and OpeningError if another try would not change the last failure.
    """
    way = replace(way, is_by_link=True)
    with suppress(NotFoundError):
        return enter(subject, way)
    record = made_elsewhere(subject)
    if record.redaction_asked_at or record.redacted_at:
        raise OpeningError("redacted")
    return _fresh(subject, record.account, None, way)


def _fresh(session_id: str, account: str | None, verification_id: str | None, way: WayIn) -> Entry:
    answer = changing.retrieve(session_id, account)
    if answer is None:
        log.warning("session.gone", id=verification_id or session_id)
        if verification_id:
            _unless_elsewhere(verification_id, None, account)
            unless_enough(verification_id, None)
        raise OpeningError("canceled", "it is gone at Stripe")
    try:
        # rule: a person at the limit is told so, and not to open again
        if answer.state.status in (Status.REQUIRES_INPUT, Status.CANCELED) and not answer.state.redaction:
            unless_enough(verification_id, answer)
        if answer.state.status != Status.REQUIRES_INPUT:
            raise past(answer)
        # rule: a link of ours leads to no try after a final failure
        if way.is_by_link and is_final(answer.state.error_code):
            raise OpeningError("no-retry")
        entered = entry(verification_id or session_id, answer, account, way)
        if entered is None:
            raise past(answer)
    except OpeningError as error:
        # Stripe's answer is applied now, with the actions that the limit owes, however late the events are. A redaction
        # is left to its event: nothing in the answer tells whose verification it was.
        if not answer.state.redaction:
            error.owed = apply_observed(notice(answer, account, livemode=bool(settings().livemode)))
        raise
    return entered


def _unless_elsewhere(verification_id: str, session_id: str | None, account: str | None) -> None:
    found = elsewhere(verification_id, session_id, account)
    if found is None:
        return
    owed = apply_observed(found.event_id)
    # rule: a person who is verified or being checked in another session enters none
    if found.is_over:
        error = past(found.answer)
        if isinstance(error, OpeningError):
            error.owed = owed
        raise error
