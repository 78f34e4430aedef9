"""A row's tries, cause, and reason for being skipped, as a person reads them."""

from datetime import UTC, datetime

from handlers.owed.kinds import BURNED_CAUSE, LIMIT_CAUSE
from handlers.record.decide import AT_LIMIT, BURNED, REDACTED, REPLACED, SUPERSEDED, TOLD
from handlers.record.events import Status
from handlers.tables.models import InboxEvent, OutboxAction

_CAUSES = {
    "canceled": "the session was canceled",
    LIMIT_CAUSE: "all submissions were used up",
    BURNED_CAUSE: "another session had taken its place",
    "asked": "somebody asked to forget the person",
}
_STATES = {
    Status.VERIFIED: "the person is verified",
    Status.REQUIRES_INPUT: "the person has not begun",
    Status.PROCESSING: "the check goes on",
}
# The reasons that are words of ours; the others name a setting, or are an operator's own.
_SKIPPED = {
    TOLD: "the last mail had said so",
    AT_LIMIT: "all submissions were used up",
    SUPERSEDED: "its session stood otherwise by then",
    REDACTED: "the person is forgotten",
    REPLACED: "another session was begun in its place",
    BURNED: "its session was given up",
}
_ASKED_AT = "%Y%m%dT%H%M%SZ"  # the cause of a link that its person asked for


def since(cause: str) -> str:
    """The clause that says since when an action is owed: `since the check failed: document_expired (vr_…)`."""
    status, _, rest = cause.partition(":")
    code, _, report = rest.partition(":")
    if cause in _CAUSES:
        words = _CAUSES[cause]
    elif cause.isdecimal():
        words = f"change {cause} of how the session stands"
    elif status in [*Status]:
        words = f"the check failed: {code}" if code else _STATES.get(Status(status), status)
    else:
        try:
            asked = datetime.strptime(cause, _ASKED_AT).replace(tzinfo=UTC)
        except ValueError:
            return f"since {cause}"
        words = f"the person asked for a link at {asked:%Y-%m-%d %H:%M:%SZ}"
    return f"since {words} ({report})" if report else f"since {words}"


def skipped(reason: str) -> str:
    """The reason why an action was skipped, with what it means."""
    return f"{reason}, as {_SKIPPED[reason]}" if reason in _SKIPPED else reason


def tries(row: InboxEvent | OutboxAction) -> str:
    """The number of tries; those that others spoiled, and those before an operator's retry, are not counted."""
    not_counted = f", {row.waits} of them not counted" if row.waits > 0 else ""
    return f"tried {row.attempts} times{not_counted}" if row.attempts > 1 else "tried once"
