"""REGISTRY: the function that does what each kind of action owes."""

from collections.abc import Callable

from handlers.outbox.application import notify_app
from handlers.outbox.cancel import cancel_session
from handlers.outbox.mails import alert_review, email_alternative, email_canceled, email_retry_prompt, email_verified
from handlers.outbox.outputs import keep_outputs
from handlers.outbox.redact import redact_session
from handlers.tables.models import OutboxAction, VerificationRecord

# Each returns the reason why there was nothing to do, or None when it is done.
REGISTRY: dict[str, Callable[[OutboxAction, VerificationRecord], str | None]] = {
    "email_verified": email_verified,
    "email_retry_prompt": email_retry_prompt,
    "email_canceled": email_canceled,
    "email_alternative": email_alternative,
    "alert_review": alert_review,
    "cancel_session": cancel_session,
    "redact_session": redact_session,
    "keep_outputs": keep_outputs,
    "notify_app": notify_app,
}
