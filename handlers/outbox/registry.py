"""What we do in the world: ACTIONS, one function per business action."""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from urllib.parse import quote

from config.settings import settings
from handlers.outbox import application, outputs
from handlers.outbox.smtp import Mail, send
from handlers.record.decide import Owed
from handlers.record.error_codes import classify
from handlers.stripe_api import sessions
from handlers.tables.models import OutboxAction, VerificationRecord

# Performs an action; returns the reason why there was nothing to do, or None when it is done.
Action = Callable[[OutboxAction, VerificationRecord], str | None]


def email_verified(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Tells the person that the verification has succeeded."""
    return _mail(action, record)


def email_retry_prompt(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Asks the person to try again, says what was wrong, and links to the main application."""
    return _mail(
        action,
        record,
        error_class=classify(record.last_error_code),
        reason=record.last_error_reason,  # Stripe: may be shown to the user
        retry_url=_retry_url(record),
    )


def email_canceled(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Tells the person that the verification has ended."""
    return _mail(action, record)


def email_alternative(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Offers another way, where no retry can help: consent declined, country not supported, under age."""
    return _mail(action, record, error_class=classify(record.last_error_code))


def alert_review(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Asks REVIEW_EMAIL to look at a session: a fraud signal, or too many submissions."""
    if not settings().review_email:
        return "no REVIEW_EMAIL"
    words = {
        "session_id": record.session_id,
        "cause": action.cause,
        "submissions": str(record.submissions),
        "dashboard": "https://dashboard.stripe.com/" + ("" if record.livemode else "test/"),
    }
    send(Mail(template=action.name, recipient=settings().review_email, key=_key(action), words=words))
    return None


def cancel_session(_: OutboxAction, record: VerificationRecord) -> str | None:
    """Ends a session at Stripe that has used up its submissions: each further one would be billed."""
    if not sessions.has_key():
        return "no STRIPE_API_KEY"
    if not sessions.cancel_session(record.session_id, record.account, f"cancel-{record.session_id}"):
        return "not cancelable"
    return None


def keep_outputs(_: OutboxAction, record: VerificationRecord) -> str | None:
    """Fetches what VERIFIED_OUTPUTS names, and keeps it encrypted."""
    return outputs.keep(record)


def notify_app(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Tells the main application of a status change."""
    application.post(action, record)
    return None


ACTIONS: dict[str, Action] = {
    "email_verified": email_verified,
    "email_retry_prompt": email_retry_prompt,
    "email_canceled": email_canceled,
    "email_alternative": email_alternative,
    "alert_review": alert_review,
    "cancel_session": cancel_session,
    "keep_outputs": keep_outputs,
    "notify_app": notify_app,
}


def is_wanted(owed: Owed) -> bool:
    """Whether the settings ask for such an action at all; what nobody wants is not even written down."""
    if owed.name == "notify_app":
        return bool(settings().app_callback_url)
    if owed.name == "keep_outputs":
        return bool(settings().verified_outputs)
    return True


def _mail(action: OutboxAction, record: VerificationRecord, **words: str | None) -> str | None:
    recipient = _recipient(record)
    if recipient is None:
        return "no address"
    send(Mail(template=action.name, recipient=recipient, key=_key(action), words=words))
    return None


def _key(action: OutboxAction) -> tuple[str, str, str]:
    return action.session_id, action.name, action.cause


def _recipient(record: VerificationRecord) -> str | None:
    if settings().email_lookup:
        return _email_lookup()(record)
    if sessions.has_key():
        return sessions.retrieve_email(record.session_id, record.account)
    return None


@cache
def _email_lookup() -> Callable[[VerificationRecord], str | None]:
    module, _, name = settings().email_lookup.partition(":")
    lookup: Callable[[VerificationRecord], str | None] = getattr(import_module(module), name)
    return lookup


def _retry_url(record: VerificationRecord) -> str | None:
    if not settings().retry_url:
        return None
    return settings().retry_url.format(
        session_id=quote(record.session_id, safe=""),
        client_reference_id=quote(record.client_reference_id or "", safe=""),
    )
