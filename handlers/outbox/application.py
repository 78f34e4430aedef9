"""Tells the main application of every change of a record's status, signed by the Standard Webhooks scheme.

https://github.com/standard-webhooks/standard-webhooks: headers webhook-id, webhook-timestamp, webhook-signature.
"""

import hashlib
import json
from datetime import UTC, datetime

import requests
from sqlalchemy import Integer, cast, func, select, update
from sqlmodel import col
from standardwebhooks import Webhook

from config.database import transaction
from config.settings import settings
from handlers.queue.failures import NotNowError, RefusedError
from handlers.tables.models import ActionStatus, OutboxAction, VerificationRecord, utc_now

_TIMEOUT_SECONDS = (3.0, 10.0)
_WAITS = "a lower change number is pending"


def post(action: OutboxAction, record: VerificationRecord) -> None:
    """Posts one change; 2xx ends it. Raises RefusedError for any other answer, NotNowError where there is none, or
    while a lower change of the same session is pending."""
    if _lower_is_pending(action):
        raise NotNowError(_WAITS)
    body = _body(action, record)
    message_id = _message_id(action)
    now = datetime.now(UTC)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(settings().app_callback_secret).sign(message_id, now, body),
    }
    try:
        # stream: an answer's body is not waited for; no redirects: the signature is for this address alone.
        with requests.post(
            settings().app_callback_url,
            body,
            headers=headers,
            timeout=_TIMEOUT_SECONDS,
            stream=True,
            allow_redirects=False,
        ) as answer:
            status = answer.status_code
    except requests.RequestException as error:
        raise NotNowError(f"the application was not reached: {type(error).__name__}") from None
    if not 200 <= status < 300:
        raise RefusedError(f"the application answered {status}")


def release_next(session_id: str) -> list[int]:
    """Makes the lowest pending change of this session due, if it has waited for a lower one; returns its id."""
    pending = (
        col(OutboxAction.session_id) == session_id,
        col(OutboxAction.name) == "notify_app",
        col(OutboxAction.status) == ActionStatus.PENDING,
    )
    number = cast(col(OutboxAction.cause), Integer)
    lowest = select(func.min(number)).where(*pending).scalar_subquery()
    release = (
        update(OutboxAction)
        # Only what was put back: a claim clears last_error, and what is on its way stays with its worker.
        .where(*pending, number == lowest, col(OutboxAction.last_error) == _WAITS)
        .values(due_at=utc_now())
        .returning(col(OutboxAction.id))
        .execution_options(synchronize_session=False)
    )
    with transaction() as session:
        return [action_id for action_id in session.scalars(release) if action_id is not None]


def _lower_is_pending(action: OutboxAction) -> bool:
    lower = select(col(OutboxAction.id)).where(
        col(OutboxAction.session_id) == action.session_id,
        col(OutboxAction.name) == action.name,
        col(OutboxAction.status) == ActionStatus.PENDING,
        cast(col(OutboxAction.cause), Integer) < int(action.cause),
    )
    with transaction() as session:
        return session.scalars(lower.limit(1)).first() is not None


def _body(action: OutboxAction, record: VerificationRecord) -> str:
    change = {
        "session_id": action.session_id,
        "change_number": int(action.cause),
        **json.loads(action.payload or "{}"),
        "account": record.account,
        "livemode": record.livemode,
    }
    message = {"type": "verification.status_changed", "timestamp": action.created_at.isoformat(), "data": change}
    return json.dumps(message, separators=(",", ":"))


def _message_id(action: OutboxAction) -> str:
    return "msg_" + hashlib.sha256(f"{action.session_id}\n{action.cause}".encode()).hexdigest()[:32]
