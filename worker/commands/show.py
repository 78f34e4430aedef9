"""Commands that look: status, events, event, dead."""

import argparse
import time
from dataclasses import asdict
from datetime import timedelta
from importlib import import_module
from threading import Thread
from typing import Any

from config.broker import ACTIONS_QUEUE, EVENTS_QUEUE, queue_length, trouble_now
from config.database import DATABASE_TROUBLE, database_now, hurry
from config.settings import settings
from handlers.metrics import outside, tallies
from handlers.operator.figures import Figures
from handlers.operator.findings import DATABASE, FAIL, in_order, judged
from handlers.operator.from_web import findings_of_web
from handlers.operator.queries import (
    MOST_COUNTED,
    RECORDS,
    Filter,
    at_most,
    find_actions,
    find_events,
    overdue,
    records_by_status,
)
from handlers.operator.reasons import since, tries
from handlers.tables.models import Heartbeat, InboxEvent, InboxStatus, OutboxAction, Paused, VerificationRecord
from handlers.upkeep import progress, unanswered
from worker.commands.options import add_filters, add_limit, chosen
from worker.commands.printing import print_json, print_pairs, print_rows, refused, repeated

_Row = InboxEvent | OutboxAction | VerificationRecord | Paused | Heartbeat
_FEW_MINUTES = timedelta(minutes=5)
_WAITS_SECONDS, _WAITS_AGAIN_SECONDS = 3.0, 0.5  # for a connection; none by then is a finding
_OUTSIDE_SECONDS = 2.0  # for Stripe's word about the endpoint, and PUBLIC_URL's answer
_FIGURES_SECONDS = 2.0  # for each answer: the findings come first
# The columns that are shown: none of them holds a name, an address or a text about a document.
_EVENT: tuple[str, ...] = ("id", "type", "session_id", "account", "livemode", "created_at", "received_at", "status")
_EVENT += ("outcome", "attempts", "waits", "due_at", "last_error", "processed_at", "owes_nothing")
_EVENT += ("session_status", "error_code", "report_id")
_ACTION: tuple[str, ...] = ("id", "session_id", "name", "cause", "status", "reason", "attempts", "waits", "due_at")
_ACTION += ("last_error", "created_at", "done_at")
_NOT_REDACTED = ("session_id", "account", "redaction_asked_at")
_PAUSED = ("what", "reason", "since")
_PROCESS = ("name", "version", "started_at", "last_at", "worked_at", "ended_at")


def status(arguments: argparse.Namespace) -> int:
    """Shows the findings, counts, ages, rates, and the rows that have waited for a day; 1 when a finding is a FAIL.

    Stripe is asked about the endpoint meanwhile, and PUBLIC_URL for its answer; neither is waited for if it is slow: a
    worker looks, too.
    """
    looks, trouble = _looks_outside(), trouble_now()
    ends_at = time.monotonic() + _OUTSIDE_SECONDS
    for look in looks:
        look.join(max(0.0, ends_at - time.monotonic()))
    with hurry(_WAITS_SECONDS):
        figures = Figures(trouble, outside.said(outside.ENDPOINT, outside.PUBLIC_URL))
        needed = judged(figures)
    found: dict[str, Any] = {"findings": [asdict(one) for one in needed]}
    is_connected = True
    try:
        with hurry(_WAITS_AGAIN_SECONDS, answer=_FIGURES_SECONDS):
            found |= _shown(figures)
    except DATABASE_TROUBLE as error:  # the findings say so
        is_connected = bool(getattr(error, "statement", ""))
    # Where nobody seems to live, web may live on another database, or on a file that was replaced.
    asked_of_web = [DATABASE, "processes"]
    if not is_connected or any(one.level == FAIL and one.what in asked_of_web for one in needed):
        said = {one.words for one in needed}
        others = [
            one
            for one in findings_of_web()
            if one["words"] not in said and (one["what"] in asked_of_web or not is_connected)
        ]
        found["findings"] += [one | {"words": f"web says: {one['words']}"} for one in others]
    found["in_order"] = in_order(one["what"] for one in found["findings"])
    if arguments.json:
        print_json(found)
    else:
        print_rows(found["findings"], ("level", "what", "words", "to_do"), "needs a hand")
        print_pairs(found["in_order"], "\nin order")
        if "events" in found:
            _print_figures(found)
    return 1 if any(one.level == FAIL for one in needed) else 0


def _looks_outside() -> list[Thread]:
    if not settings().public_url:
        return []  # and Stripe's library is not imported
    looks: list[Thread] = import_module("handlers.operator.endpoints").look_soon()
    return looks


def _shown(figures: Figures) -> dict[str, Any]:
    events, actions = figures.backlogs["events"], figures.backlogs["actions"]
    late_events, late_actions = overdue() if events.overdue or actions.overdue else ([], [])
    return {
        "events": asdict(events),
        "actions": asdict(actions),
        "counted_up_to": MOST_COUNTED,
        "last_five_minutes": tallies.ended(_FEW_MINUTES),
        "counts": [asdict(count) for count in figures.lately.counts()],
        "processes": [_fields(one, _PROCESS) for one in figures.recent_processes],
        "sessions": records_by_status(),
        "queue_messages": queue_length(EVENTS_QUEUE) + queue_length(ACTIONS_QUEUE),
        "reconciled_at": progress.reached(progress.RUN),
        "overdue": {
            "events": [_fields(event, _EVENT) for event in late_events],
            "actions": [_fields(action, _ACTION) for action in late_actions],
        },
        "unanswered": unanswered.counts(figures.unanswered),
        "not_redacted": [_fields(record, _NOT_REDACTED) for record in figures.not_redacted],
        "paused": [_fields(one, _PAUSED) for one in figures.paused],
    }


def _print_figures(found: dict[str, Any]) -> None:
    lines = [{"": name, **_in_words(found[name])} for name in ("events", "actions")]
    print_rows(lines, ("", "waiting", "due", "dead", "oldest_seconds", "overdue"), "\nwhat waits")
    print_pairs(found["last_five_minutes"], "\nin the last five minutes")
    print_rows(found["counts"], ("what", "why", "last_hour", "last_day"), "\nnot taken, or not done")
    print_rows(found["processes"], _PROCESS, "\nprocesses")
    print_pairs(found["sessions"], f"\nthe latest {RECORDS:,} sessions")
    print_pairs(found["unanswered"], "\nunanswered by Stripe (python -m worker doctor)")
    print_pairs({name: found[name] for name in ("queue_messages", "reconciled_at")}, "\nbeside")
    if found["overdue"]["events"] or found["overdue"]["actions"]:
        _print_rows_of(found["overdue"], "\nwaiting for more than a day: ")
    for name, headings in (("not_redacted", _NOT_REDACTED), ("paused", _PAUSED)):
        if found[name]:
            print_rows(found[name], headings, f"\n{name.replace('_', ' ')}")


def _in_words(backlog: dict[str, Any]) -> dict[str, Any]:
    return {name: at_most(count) if isinstance(count, int) else count for name, count in backlog.items()}


def events_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose events, and how many."""
    add_filters(parser, InboxStatus)
    add_limit(parser)


def events(arguments: argparse.Namespace) -> int:
    """Lists the latest events that match; 1 when none does."""
    found = [_fields(event, _EVENT) for event in find_events(chosen(arguments), arguments.limit)]
    if arguments.json:
        print_json(found)
    else:
        headings = ("received_at", "id", "type", "session_id", "status", "outcome", "attempts", "last_error")
        print_rows(found, headings)
    return 0 if found else 1


def event_options(parser: argparse.ArgumentParser) -> None:
    """Adds the event's id."""
    parser.add_argument("id", metavar="ID", help="evt_…")


def event(arguments: argparse.Namespace) -> int:
    """Shows one event with its history; 1 when it is not here."""
    found = find_events(Filter(ids=[arguments.id]), 1)
    if not found:
        return refused(f"There is no event {repeated(arguments.id)}: never received, or purged after RETENTION_DAYS.")
    history = _event_history(found[0])
    if arguments.json:
        print_json({**_fields(found[0], _EVENT), "history": history})
    else:
        print_pairs(_fields(found[0], _EVENT))
        print_rows(history, ("at", "what"), "\nhistory")
    return 0


def dead(arguments: argparse.Namespace) -> int:
    """Lists all events and actions that were given up; 1 when there are any."""
    given_up = Filter(status=InboxStatus.DEAD)
    events = [_fields(event, _EVENT) for event in find_events(given_up, None)]
    actions = [_fields(action, _ACTION) for action in find_actions(given_up, None)]
    if arguments.json:
        print_json({"events": events, "actions": actions})
    else:
        _print_rows_of({"events": events, "actions": actions}, "dead ")
    return 1 if events or actions else 0


def _print_rows_of(found: dict[str, list[dict[str, Any]]], what: str) -> None:
    error = ("attempts", "last_error")
    print_rows(found["events"], ("received_at", "id", "type", "session_id", *error), f"{what}events")
    print_rows(
        found["actions"], ("created_at", "id", "name", "session_id", "cause", *error), f"\n{what.strip()} actions"
    )


def _event_history(event: InboxEvent) -> list[dict[str, Any]]:
    now = database_now()
    lines = [{"at": event.created_at, "what": "happened at Stripe"}, {"at": event.received_at, "what": "received"}]
    if event.attempts:
        lines.append({"at": event.processed_at or now, "what": _joined(tries(event), event.last_error)})
    if event.processed_at:
        lines.append({"at": event.processed_at, "what": f"processed: {event.outcome}"})
    elif event.status == InboxStatus.RECEIVED:
        lines.append({"at": event.due_at, "what": "due"})
    else:
        lines.append({"at": now, "what": f"dead: python -m worker retry {event.id}"})
    owed = find_actions(Filter(session_id=event.session_id, since=event.received_at), None)
    return lines + [
        {"at": action.created_at, "what": f"its session owed {action.name} {since(action.cause)}: {action.status}"}
        for action in reversed(owed)
    ]


def _fields(
    row: InboxEvent | OutboxAction | VerificationRecord | Paused | Heartbeat, names: tuple[str, ...]
) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names}


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)
