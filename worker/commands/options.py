"""The options by which commands choose rows (ids, filters, a moment), and those that say who changes them, and why."""

import argparse
import os
import pwd
import re
import socket
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from config.settings import running_dyno
from handlers.operator.audit import REASON, By, Way
from handlers.operator.queries import Filter
from handlers.tables.models import ActionStatus, InboxStatus, OutboxAction

_MOST_LISTED = 1000  # lines
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def add_filters(parser: argparse.ArgumentParser, statuses: Iterable[InboxStatus | ActionStatus] = ()) -> None:
    """Adds the options that narrow a choice; a row must fit all that are given."""
    if words := sorted(status.value for status in statuses):  # an enum's member shows its class
        parser.add_argument("--status", choices=words, help="where they stand")
    parser.add_argument("--kind", metavar="WORD", help="an event's type (its last word will do) or an action's name")
    parser.add_argument("--session", metavar="vs_…", help="of one verification session")
    parser.add_argument("--error", metavar="TEXT", help="whose last error, or reason of being skipped, holds this text")
    parser.add_argument("--since", type=moment, metavar="WHEN", help="received or owed since: 2026-11-20, 90m, 6h, 2d")
    parser.add_argument("--older", type=span, metavar="SPAN", help="received or owed longer ago than 90m, 6h, 2d")
    parser.add_argument("--purpose", metavar="WORD", help="of a verification for this purpose")


def chosen(arguments: argparse.Namespace) -> Filter:
    """The filter that the options describe."""
    return Filter(
        status=getattr(arguments, "status", None),
        kind=arguments.kind,
        session_id=arguments.session,
        error=arguments.error,
        since=arguments.since,
        older=arguments.older,
        purpose=arguments.purpose,
    )


def add_who(parser: argparse.ArgumentParser) -> None:
    """Adds --by and --reason, for a command that changes something."""
    parser.add_argument("--by", type=reason, metavar="NAME", help="who you are, where this machine does not know")
    with suppress(argparse.ArgumentError):  # it demands a reason, and has added it by itself
        add_reason(parser, required=False)


def add_limit(parser: argparse.ArgumentParser) -> None:
    """Adds --limit: how many of the latest rows are shown."""
    parser.add_argument(
        "--limit",
        type=_lines,
        metavar="N",
        default=50,
        help=f"at most so many, newest first (default 50, {_MOST_LISTED} at most)",
    )


def add_reason(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds --reason, which is kept for AUDIT_DAYS."""
    words = "why, in a few words that are kept, without anything personal"
    parser.add_argument("--reason", required=required, type=reason, help=words)


def acting(arguments: argparse.Namespace) -> By:
    """The author of a change, and the reason: the name that --by gives, and this machine's user and host."""
    user = os.getuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:  # a container may have users without a name
        name = str(user)
    here = f"{name}@{running_dyno() or socket.gethostname()}"
    who = f"{arguments.by} ({here})" if arguments.by else here
    return By(who=who, way=Way.COMMAND, reason=getattr(arguments, "reason", None))


def reason(text: str) -> str:
    """The text, if it may be kept as a reason. Raises argparse's error."""
    if not REASON.fullmatch(text):
        raise argparse.ArgumentTypeError("give up to 80 letters, digits and spaces, without anything personal")
    return text


def span(text: str) -> timedelta:
    """The span that a text such as 90m says. Raises argparse's error."""
    try:
        return timedelta(**{_UNITS[text[-1:]]: float(text[:-1])})
    except (KeyError, ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no span like 90m, 6h or 2d") from None


def _lines(text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text) or not 1 <= int(text) <= _MOST_LISTED:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 to {_MOST_LISTED}")
    return int(text)


def number(text: str) -> int:
    """An action's number. Raises argparse's error."""
    found = OutboxAction.id_of(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no action's number")
    return found


def moment(text: str) -> datetime | timedelta:
    """A moment: a date or time in ISO 8601 (UTC without a zone), or a span before now. Raises argparse's error."""
    try:
        if text[-1:] in _UNITS:
            return timedelta(**{_UNITS[text[-1]]: float(text[:-1])})
        parsed = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no date like 2026-11-20 and no span like 6h") from None
    return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
