"""The options by which commands choose rows: ids, filters, a moment."""

import argparse
from datetime import UTC, datetime, timedelta

from handlers.operator.queries import Filter
from handlers.queue.claims import Table
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus, OutboxAction

TABLES: dict[str, Table] = {"events": InboxEvent, "actions": OutboxAction}
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def add_filters(parser: argparse.ArgumentParser, statuses: bool = True) -> None:
    """Options that narrow a choice; together they must all hold."""
    if statuses:
        every_status = sorted({*InboxStatus, *ActionStatus})
        parser.add_argument("--status", choices=every_status, help="where they stand")
    parser.add_argument("--kind", metavar="WORD", help="an event's type (its last word will do) or an action's name")
    parser.add_argument("--session", metavar="vs_…", help="of one verification session")
    parser.add_argument("--error", metavar="TEXT", help="whose last error holds this text")
    parser.add_argument("--since", type=moment, metavar="WHEN", help="received or owed since: 2026-11-20, 90m, 6h, 2d")


def chosen(arguments: argparse.Namespace) -> Filter:
    """The filter that the options make."""
    return Filter(
        status=getattr(arguments, "status", None),
        kind=arguments.kind,
        session_id=arguments.session,
        error=arguments.error,
        since=arguments.since,
    )


def moment(text: str) -> datetime | timedelta:
    """A date, a time in ISO 8601 (UTC unless it says otherwise), or how long ago. Raises argparse's error."""
    try:
        if text[-1:] in _UNITS:
            return timedelta(**{_UNITS[text[-1]]: float(text[:-1])})
        parsed = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no date like 2026-11-20 and no span like 6h") from None
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
