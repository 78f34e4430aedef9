"""REGISTRY: the function that performs each kind of action."""

from collections.abc import Callable

from handlers.outbox.application import notify_app
from handlers.outbox.cancel import cancel_session
from handlers.outbox.mails import (
    a_new_link,
    to_the_person,
    to_the_person_unless_quiet,
    to_the_reviewer,
    to_who_has_not_begun,
)
from handlers.outbox.outputs import keep_outputs
from handlers.outbox.redact import redact_session
from handlers.tables.models import OutboxAction, VerificationRecord

# Each returns the reason if there was nothing to do, or None when the action is done.
REGISTRY: dict[str, Callable[[OutboxAction, VerificationRecord], str | None]] = {
    "email_verified": to_the_person,
    "email_retry_prompt": to_the_person,
    "email_reminder": to_who_has_not_begun,
    "email_canceled": to_the_person_unless_quiet,
    "email_alternative": to_the_person,
    "email_link": a_new_link,
    "alert_review": to_the_reviewer,
    "cancel_session": cancel_session,
    "redact_session": redact_session,
    "keep_outputs": keep_outputs,
    "notify_app": notify_app,
}
