"""Commands about sessions and their actions: a session's story, and lists."""

import argparse
import sys
from typing import Any

from handlers.operator.persons import SHOWN
from handlers.operator.queries import (
    SessionFilter,
    find_actions,
    find_records,
    find_sessions,
)
from handlers.operator.story import mails, timeline
from handlers.outbox.mails import DASHBOARD
from handlers.record.events import Status
from handlers.tables.models import ActionStatus
from worker.commands.options import add_filters, add_limit, chosen, moment, number, span
from worker.commands.printing import print_json, print_pairs, print_rows, refused, repeated

_ACTION: tuple[str, ...] = ("id", "session_id", "name", "cause", "status", "reason", "attempts", "waits", "due_at")
_ACTION += ("last_error", "created_at", "given_away_at", "resent_at", "done_at")
_NO_ADDRESS = """No mail address is stored here, so nobody can be found by one. Look it up where there is one, in the
Dashboard's list of verifications (https://dashboard.stripe.com/identity) or in your application, and ask again with
the session's id (vs_…), the user id or the client_reference_id."""


def session_options(parser: argparse.ArgumentParser) -> None:
    """Adds the id of a session or a person."""
    parser.add_argument("id", metavar="ID", help="vs_…, idv_…, or a user id or client_reference_id")


def session(arguments: argparse.Namespace) -> int:
    """Shows a person's verification: the record, all events and actions in Stripe's order, and the mails with their
    Message-IDs; 1 when unknown."""
    records = find_records(arguments.id)
    if not records:
        return refused(unknown(arguments.id))
    stories: list[dict[str, Any]] = [
        {
            "record": {name: getattr(record, name) for name in SHOWN},
            "dashboard_url": f"{DASHBOARD[record.livemode]}{record.session_id}",
            "timeline": timeline(record),
            "mails": mails(record),
        }
        for record in records
    ]
    if arguments.json:
        print_json(stories)
        return 0
    for one in stories:
        print_pairs({**one["record"], "dashboard": one["dashboard_url"]})
        print_rows(one["timeline"], ("at", "what", "id", "status", "about"), "\ntimeline")
        print_rows(one["mails"], ("sent_at", "to", "name", "id", "status", "attempts", "message_id", "why"), "\nmails")
        print()
    return 0


def unknown(word: str) -> str:
    """The sentence for an id that leads to nobody; it repeats no mail address."""
    return _NO_ADDRESS if "@" in word else f"There is no session, verification, user or reference {repeated(word)}."


def actions_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose actions, and how many."""
    add_filters(parser, ActionStatus)
    parser.add_argument("--after", metavar="ID", type=number, help="the last number of the page before")
    add_limit(parser)


def actions(arguments: argparse.Namespace) -> int:
    """Lists the actions, the latest first; 1 when none matches."""
    rows = find_actions(chosen(arguments), arguments.limit, after=arguments.after)
    headings = ("created_at", "id", "name", "session_id", "status", "reason", "attempts", "due_at", "last_error")
    return _list(arguments, [{name: getattr(row, name) for name in _ACTION} for row in rows], headings, "id")


def sessions_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose sessions, and how many."""
    parser.add_argument("--status", choices=sorted(one.value for one in Status), help="where they stand")
    parser.add_argument("--error", metavar="CODE", help="whose last error has this code")
    parser.add_argument("--purpose", metavar="WORD", help="of a verification for this purpose")
    parser.add_argument("--since", type=moment, metavar="WHEN", help="known since: 2026-11-20, 90m, 6h, 2d")
    parser.add_argument("--older", type=span, metavar="SPAN", help="known for longer than 90m, 6h, 2d")
    parser.add_argument("--after", metavar="ID", help="the last session of the page before")
    add_limit(parser)


def sessions(arguments: argparse.Namespace) -> int:
    """Lists the sessions that are known, the latest first; 1 when none matches."""
    wanted = SessionFilter(
        status=arguments.status,
        error_code=arguments.error,
        purpose=arguments.purpose,
        since=arguments.since,
        older=arguments.older,
    )
    rows = find_sessions(wanted, arguments.limit, after=arguments.after)
    headings = ("created_at", "session_id", "status", "last_error_code", "submissions", "verification_id", "updated_at")
    found = [{name: getattr(row, name) for name in (*SHOWN, "verification_id", "generation")} for row in rows]
    return _list(arguments, found, headings, "session_id")


def _list(arguments: argparse.Namespace, found: list[dict[str, Any]], headings: tuple[str, ...], key: str) -> int:
    if arguments.json:
        print_json(found)
    else:
        print_rows(found, headings)
    if len(found) == arguments.limit and not arguments.json:
        print(f"There may be more: --after {found[-1][key]}", file=sys.stderr)
    return 0 if found else 1
