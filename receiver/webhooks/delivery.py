"""One delivery: verify, parse, hand to intake, answer.

Plain ASGI, as Starlette's stack is for all routes: docs/decisions/0010, https://github.com/encode/starlette/issues/844.
"""

import re
import time

import orjson
import structlog
from starlette.types import Receive, Scope, Send
from stripe import SignatureVerificationError, WebhookSignature

from config.database import true_now
from config.settings import settings
from handlers.metrics import counting
from handlers.record.events import ForeignEvent, MalformedEventError, VerificationEvent, parse
from receiver.webhooks.doubt import Doubt
from receiver.webhooks.intake import Intake, RefusedEventError, UnavailableError

log = structlog.stdlib.get_logger(__name__)

MAX_BODY_BYTES = 512 * 1024  # Stripe's events stay below 256 KiB; reconcile fetches a larger one
TOLERANCE_SECONDS = 300  # Stripe's own default; here it binds the future too
_RETRY_AFTER_SECONDS = 30
# Found as the SDK finds it, so that it is the signed one.
_TIMESTAMP = re.compile(r"(?:^|,)t=([^,=]*)")


class RefusedDeliveryError(Exception):
    """A delivery that gets no 2xx: the status of the answer, and a reason for its body that quotes nothing."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Webhook:
    """POST /webhooks/stripe: 200 once the event is committed, or not ours; 400, 413 or 503 with a reason.

    Plain ASGI: Starlette's routing, Request and Response would cost a delivery more than all of its own work.
    Neither it nor another library has a shorter way: docs/decisions/0010.
    """

    def __init__(self, secrets: tuple[str, ...], intake: Intake, doubt: Doubt) -> None:
        self._secrets = secrets
        self._intake = intake
        self._doubt = doubt
        self._marks, self._livemode = settings().our_sessions, settings().livemode

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one delivery."""
        started = time.monotonic()
        try:
            event = await self._verified_event(scope, receive)
            # rule: an event of a foreign type is not taken in
            outcome = "ignored" if isinstance(event, ForeignEvent) else await self._intake.accept(event)
        except (RefusedDeliveryError, RefusedEventError, UnavailableError) as refused:
            counting.DELIVERIES.labels(outcome="refused", reason=refused.reason).inc()
            log.warning("delivery.refused", status=refused.status, reason=refused.reason)
            await _answer(send, refused.status, {"error": refused.reason})
        else:
            reason = "foreign type" if isinstance(event, ForeignEvent) else event.ignored or ""
            counting.DELIVERIES.labels(outcome=outcome, reason=reason).inc()
            if reason:
                log.info("event.ignored", event_id=event.id, reason=reason)
            counting.ACCEPT_SECONDS.observe(time.monotonic() - started)
            await _answer(send, 200, {"event": event.id, "outcome": outcome})

    async def _verified_event(self, scope: Scope, receive: Receive) -> VerificationEvent | ForeignEvent:
        if not self._secrets:
            raise RefusedDeliveryError(503, "STRIPE_WEBHOOK_SECRET is not set")
        headers = dict(scope["headers"])
        signature = headers.get(b"stripe-signature", b"").decode("latin-1").strip()  # RFC 9110, 5.5
        if not signature and headers.get(b"user-agent", b"").startswith(b"Stripe/"):
            if self._doubt.wants_unsigned():
                self._doubt.note(await _body(receive), "")
            raise RefusedDeliveryError(400, counting.STRIPPED)
        _check_head(signature, headers.get(b"content-length", b""))
        body = await _body(receive)
        if not any(is_signed(body, signature, secret) for secret in self._secrets):
            self._doubt.note(body, signature)
            raise RefusedDeliveryError(400, counting.UNSIGNED)
        try:
            return parse(orjson.loads(body), self._marks, self._livemode)
        except orjson.JSONDecodeError:
            raise RefusedDeliveryError(400, "the body is not JSON") from None
        except MalformedEventError as error:
            raise RefusedDeliveryError(400, str(error)) from None


def _check_head(signature: str, length: bytes) -> None:
    """Refuses by the head alone, before the body is read."""
    stamps = _TIMESTAMP.findall(signature)
    if not stamps or not re.fullmatch("[0-9]{1,12}", stamps[0]) or "v1=" not in signature:
        raise RefusedDeliveryError(400, "the signature is missing")
    # rule: a signature from long ago or from the future is refused
    if abs(true_now().timestamp() - int(stamps[0])) > TOLERANCE_SECONDS:
        raise RefusedDeliveryError(400, "the signature's timestamp is too far from now")
    if length.isdigit() and (len(length) > 19 or int(length) > MAX_BODY_BYTES):
        raise RefusedDeliveryError(413, "the body is too large")


async def _body(receive: Receive) -> bytes:
    """The whole body. receiver/connections.py bounds its time, and ends the connection of a slower sender."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedDeliveryError(400, "the sender went away")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        # rule: a body is bounded, also beyond its Content-Length
        if len(body) > MAX_BODY_BYTES:
            raise RefusedDeliveryError(413, "the body is too large")
    return body


def is_signed(body: bytes, header: str, secret: str) -> bool:
    """Whether one of a header's signatures is the body's by a secret."""
    try:
        # No tolerance here: the SDK's says nothing about the future.
        return bool(WebhookSignature.verify_header(body, header, secret))
    except SignatureVerificationError:
        return False
    except (TypeError, UnicodeDecodeError):  # non-ASCII in v1; a body that is not UTF-8
        return False


async def _answer(send: Send, status: int, content: dict[str, str]) -> None:
    body = orjson.dumps(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    if status == 503:
        headers.append((b"retry-after", b"%d" % _RETRY_AFTER_SECONDS))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
