"""Tells the main application of every change of a record's status, signed by the Standard Webhooks scheme.

https://github.com/standard-webhooks/standard-webhooks: headers webhook-id, webhook-timestamp, webhook-signature.
"""

import hashlib
import json
import re
from functools import cache

from standardwebhooks import Webhook

from config.database import transaction, true_now
from config.settings import settings
from handlers.metrics import counting, outside
from handlers.queue.calls import Line, asked_pause
from handlers.queue.claims import unless_lost
from handlers.queue.failures import NotNowError, RefusedError
from handlers.record.events import Status
from handlers.tables.models import OutboxAction, Verification, VerificationRecord

_TOTAL_SECONDS = 10.0
# The statuses by which an application refuses one change. All others may come from a proxy, or from an application that
# is being deployed or is the wrong one: the change waits.
_VERDICTS = (400, 409, 410, 422, 500)
# A proxy's page may leave out any of them, and a browser takes it none the less.
_PAGE = re.compile(rb"<((!doctype\s+)?html|head|body|meta|title|script)\b", re.IGNORECASE)
_PAGE_BYTES = 16 * 1024  # the words of a page's kind come before that
_CALLS = "take a call"  # the act that is asked of the application


def notify_app(action: OutboxAction, record: VerificationRecord) -> str | None:
    """Posts one change; 2xx ends it. Raises RefusedError if the application refuses it, else NotNowError."""
    body = _message(action, record, _verification(record))
    message_id = _message_id(action)  # rule: the message id is the same at each try
    now = true_now()
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(settings().app_callback_secret.get_secret_value()).sign(message_id, now, body),
    }
    url = settings().app_callback_url.get_secret_value()
    unless_lost(action)
    answer = line().call("POST", url, headers, body, most=_PAGE_BYTES, only_pages=True)
    # rule: a web page is not the application's word
    is_page = _PAGE.search(answer.body.replace(b"\0", b"")) is not None  # in UTF-16, every other byte is one
    if 200 <= answer.status < 300 and not is_page:
        outside.note_answer(outside.APPLICATION, _CALLS)
        return None
    counting.NO_ANSWERS.labels(of=line().name, why="failing").inc()
    word = f"answered {answer.status}" + (" with a web page" if is_page else "")
    sentence = f"the application {word}"
    # rule: only the application's own word about a change counts
    if answer.status in _VERDICTS:
        outside.note_refusal(outside.APPLICATION, word, doing=_CALLS, about=action.session_id)
        raise RefusedError(sentence)
    outside.note_refusal(outside.APPLICATION, word)
    raise NotNowError(sentence, asked_pause(answer.headers) or 0.0)


@cache
def line() -> Line:
    """This process's line to the application."""
    return Line(outside.APPLICATION, _TOTAL_SECONDS)


def _verification(record: VerificationRecord) -> Verification | None:
    if record.verification_id is None:
        return None
    with transaction() as session:
        return session.get(Verification, record.verification_id)


def _message(action: OutboxAction, record: VerificationRecord, verification: Verification | None) -> str:
    # rule: nothing personal is told after a redaction
    reference = None if record.redacted_at else verification and verification.client_reference_id
    is_being_replaced = record.replacing_at is not None and record.status == Status.CANCELED
    change = {
        "session_id": action.session_id,
        "change_number": int(action.cause),
        **json.loads(action.payload or "{}"),
        "account": record.account,
        "livemode": record.livemode,
        "verification_id": record.verification_id,
        "purpose": verification and verification.purpose,
        "generation": record.generation,
        "client_reference_id": reference,
        "replaced": verification and (record.replaced_at is not None or is_being_replaced),
    }
    message = {"type": "verification.status_changed", "timestamp": action.created_at.isoformat(), "data": change}
    return json.dumps(message, separators=(",", ":"))


def _message_id(action: OutboxAction) -> str:
    return "msg_" + hashlib.sha256(f"{action.session_id}\n{action.cause}".encode()).hexdigest()[:32]
