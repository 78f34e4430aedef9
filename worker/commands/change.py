"""Commands that mend: retry, discard, resend, reconcile, rebuild, purge."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from config.broker import PUBLISH, publish_actions, publish_events
from handlers.metrics import counting
from handlers.operator.audit import By, note_beforehand
from handlers.operator.queries import Filter, find_actions, find_events, named
from handlers.operator.resend import resend
from handlers.operator.retry_discard import discard_rows, retry_rows
from handlers.queue.claims import QUEUES, Table
from handlers.queue.failures import AwayError
from handlers.tables.models import ActionStatus, InboxEvent, InboxStatus, OutboxAction
from handlers.upkeep.purge import WrongClockError, purge
from handlers.upkeep.rebuild import rebuild
from handlers.upkeep.reconcile import reconcile
from worker.commands.options import acting, add_filters, add_reason, chosen, moment, number
from worker.commands.printing import print_json, print_pairs, print_rows, progress, refused, repeated

_WITHOUT_A_HAND = "it waits for its first try, or a worker has it now"
_ENDED = "python -m worker resend does it once more, on purpose"
_WHY_LEFT: dict[str, str] = {
    InboxStatus.DEAD: "it was given up just now",
    InboxStatus.RECEIVED: _WITHOUT_A_HAND,
    InboxStatus.PROCESSED: "it is processed, and is applied once only",
    ActionStatus.PENDING: _WITHOUT_A_HAND,
    ActionStatus.DONE: f"it is done; {_ENDED}",
    ActionStatus.SKIPPED: f"it is skipped; {_ENDED}",
}
_FIND: dict[str, Callable[[Filter, None], Sequence[InboxEvent | OutboxAction]]]
_FIND = {"events": find_events, "actions": find_actions}


def retry_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose rows."""
    _row_options(parser)
    skipped = "actions that a setting has skipped: no STRIPE_API_KEY, no REVIEW_EMAIL, no address, no outputs"
    parser.add_argument("--skipped", action="store_true", help=skipped)


def _row_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose rows: ids, a filter, or all."""
    parser.add_argument("ids", metavar="ID", nargs="*", help="evt_… for an event, a number for an action")
    parser.add_argument("--of", choices=tuple(QUEUES), help="with a filter: events or actions only")
    parser.add_argument("--all", action="store_true", help="everything that is dead or waits after a try")
    add_filters(parser)


def discard_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose rows, and the reason."""
    _row_options(parser)
    add_reason(parser)


def retry(arguments: argparse.Namespace) -> int:
    """Makes dead and waiting rows due now, with all their tries anew; 1 when there was none."""
    wanted = chosen(arguments)
    if arguments.skipped:
        arguments.of, wanted = "actions", replace(wanted, status=ActionStatus.SKIPPED)
    return _mend(arguments, "retried", wanted, retry_rows)


def discard(arguments: argparse.Namespace) -> int:
    """Ends dead and waiting rows for good, and keeps them; 1 when there was none."""
    return _mend(arguments, "discarded", chosen(arguments), discard_rows)


def resend_options(parser: argparse.ArgumentParser) -> None:
    """Adds the actions' ids, and the reason."""
    parser.add_argument("ids", metavar="ID", nargs="+", type=number, help="an action's number, as `session` shows it")
    add_reason(parser)


def resend_now(arguments: argparse.Namespace) -> int:
    """Performs actions once more that are done or skipped; 1 when one of them was refused."""
    found = resend(arguments.ids, acting(arguments))
    resent = [action_id for action_id, why in found.items() if why is None]
    publish_actions(resent)
    if arguments.json:
        print_json({"resent": resent, "refused": {action_id: why for action_id, why in found.items() if why}})
    else:
        print_pairs({str(action_id): why or "will be done once more" for action_id, why in found.items()})
    return 0 if len(resent) == len(found) else 1


def reconcile_now(arguments: argparse.Namespace) -> int:
    """Fetches from Stripe the events that we lack, and compares sessions; 1 when it could not be finished."""
    note_beforehand(acting(arguments), "reconcile")
    report = reconcile(bounded=False)
    publish_events(report.to_process)
    counting.flush()
    if arguments.json:
        print_json(asdict(report))
    else:
        counts = {
            "undelivered events": report.undelivered,
            "of them new to us": len(report.recovered),
            "sessions compared": report.compared,
            "of them drifted": len(report.drifted),
            "not answered": len(report.failed),
        }
        print_pairs(counts)
        print_rows([asdict(one) for one in report.drifted], ("session_id", "ours", "theirs"), "\ndrifted")
        print_rows([asdict(one) for one in report.failed], ("what", "name", "reason"), "\nnot answered")
    for reason in report.stopped:
        print(f"Stopped before the end: {reason}.", file=sys.stderr)
    return 1 if report.stopped or report.failed else 0


def rebuild_options(parser: argparse.ArgumentParser) -> None:
    """Adds the first moment, the accounts, and whether persons get mails."""
    parser.add_argument("--since", type=moment, required=True, metavar="DATE", help="sessions created since then")
    parser.add_argument("--quiet", action="store_true", help="write what is owed as skipped: nobody gets a mail")
    parser.add_argument(
        "--account", action="append", default=[], metavar="acct_…", help="a connected account too; may be repeated"
    )


def rebuild_now(arguments: argparse.Namespace) -> int:
    """Reads sessions and events back from Stripe; 1 when one of them could not be read."""
    counts = {"events listed": 0, "new events": 0, "sessions listed": 0, "new sessions": 0}
    failed: list[str] = []
    stopped = None
    note_beforehand(acting(arguments), "rebuild", arguments.account)
    try:
        pages = rebuild(arguments.since, [None, *arguments.account], owes_nothing=arguments.quiet)
        for page in progress(pages, "read", count=lambda page: page.listed, for_machines=arguments.json):
            publish_events(page.event_ids)
            counts[f"{page.what} listed"] += page.listed
            counts[f"new {page.what}"] += len(page.event_ids)
            failed += page.failed
    except AwayError as error:
        stopped = str(error)
    if arguments.json:
        print_json({**counts, "failed": failed, "stopped": stopped})
    else:
        print_pairs(counts)
    for line in failed:
        print(f"Not read: {line}", file=sys.stderr)
    if stopped:
        print(f"Stopped before the end: {stopped}. What was read stays; the command may be repeated.", file=sys.stderr)
    if counts["new events"] or counts["new sessions"]:
        print("The workers apply it now: python -m worker status", file=sys.stderr)
    return 1 if failed or stopped else 0


def purge_now(arguments: argparse.Namespace) -> int:
    """Deletes the rows that retention lets go; 1 when a clock is wrong."""
    note_beforehand(acting(arguments), "purge")
    try:
        purged = asdict(purge())
    except WrongClockError as error:
        return refused(f"{error}. Set them by NTP: python -m worker doctor")
    if arguments.json:
        print_json(purged)
    else:
        print_pairs(purged, "deleted, or wiped")
    return 0


def _mend(
    arguments: argparse.Namespace,
    verb: str,
    wanted: Filter,
    change: Callable[[Table, Filter, By], Iterator[list[Any]]],
) -> int:
    if bool(arguments.ids) == (arguments.all or wanted != Filter()):
        return refused("Name ids, or a filter, or --all.", 2)
    done: dict[str, list[Any]] = {}
    for name, (table, which) in _targets(arguments, wanted).items():
        done[name] = []
        for ids in progress(change(table, which, acting(arguments)), f"{name} {verb}", for_machines=arguments.json):
            done[name] += ids
            if verb == "retried":
                PUBLISH[table.NOUN](ids)
    if arguments.json:
        print_json({verb: done})
    else:
        print_pairs({name: " ".join(map(str, ids)) or "none" for name, ids in done.items()}, verb)
    for name, (_, which) in _targets(arguments, wanted).items():
        for line in _left_alone(name, {*which.ids} - {*done[name]}):
            print(line, file=sys.stderr)
    return 0 if any(done.values()) else 1


def _left_alone(name: str, ids: set[Any]) -> Iterator[str]:
    """A line on each row that was named and is not changed."""
    chosen = Filter(ids=sorted(ids))
    rows = _FIND[name](chosen, None) if ids else []
    status = {row.id: row.status for row in rows}
    for id_ in chosen.ids:
        yield f"{repeated(id_)} stays as it is: {_WHY_LEFT.get(status.get(id_, ''), 'there is none')}."


def _targets(arguments: argparse.Namespace, wanted: Filter) -> dict[str, tuple[Table, Filter]]:
    if not arguments.ids:
        return {name: (table, wanted) for name, table in QUEUES.items() if arguments.of in (None, name)}
    found = [named(text) for text in arguments.ids]
    ids = {name: [id_ for of, id_ in found if of == table] for name, table in QUEUES.items()}
    return {name: (QUEUES[name], Filter(ids=its)) for name, its in ids.items() if its}
