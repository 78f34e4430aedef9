"""Tells the main application of every change of a record's status, signed by the Standard Webhooks scheme.

https://github.com/standard-webhooks/standard-webhooks: headers webhook-id, webhook-timestamp, webhook-signature.
"""

import hashlib
import json

import requests
from standardwebhooks import Webhook

from config.database import true_now
from config.settings import settings
from handlers.queue.claims import unless_lost
from handlers.queue.failures import AwayError, RefusedError
from handlers.tables.models import OutboxAction, VerificationRecord

_TIMEOUT_SECONDS = (3.0, 10.0)


def notify_app(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Posts one change; 2xx ends it. Raises RefusedError for any other answer, AwayError where there is none."""
    body = _message(action, record)
    message_id = _message_id(action)  # rule: the message id is the same at each try
    now = true_now()
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(settings().app_callback_secret.get_secret_value()).sign(message_id, now, body),
    }
    unless_lost(action)
    try:
        # stream: an answer's body is not waited for.
        with requests.post(
            settings().app_callback_url.get_secret_value(),
            body,
            headers=headers,
            timeout=_TIMEOUT_SECONDS,
            stream=True,
            allow_redirects=False,  # rule: no redirect is followed; the signature is for this address alone
        ) as answer:
            status = answer.status_code
    except requests.RequestException as error:
        raise AwayError(f"the application was not reached: {type(error).__name__}") from None
    if not 200 <= status < 300:
        raise RefusedError(f"the application answered {status}")
    return None


def _message(action: OutboxAction, record: VerificationRecord) -> str:
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
