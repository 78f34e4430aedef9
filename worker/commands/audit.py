"""The command that shows who changed what."""

import argparse

from handlers.operator.audit import audited
from worker.commands.options import add_limit, moment
from worker.commands.printing import print_json, print_rows

_IDS = 8  # the ids shown of a bulk change; --json has all of them
_COLUMNS = ("at", "who", "way", "what", "about", "reason")


def audit_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose changes: of which row, by which command, since when."""
    parser.add_argument("about", metavar="ID", nargs="?", help="of a session, a verification, an event or an action")
    parser.add_argument("--what", metavar="WORD", help="the command, such as discard")
    parser.add_argument("--since", type=moment, metavar="WHEN", help="since: 2026-11-20, 90m, 6h, 2d")
    add_limit(parser)


def show_audit(arguments: argparse.Namespace) -> int:
    """Shows the operators' changes, the latest first; 1 when none matches."""
    rows = audited(arguments.about, arguments.what, arguments.since, arguments.limit)
    found = [{name: getattr(row, name) for name in _COLUMNS} for row in rows]
    if arguments.json:
        print_json(found)
    else:
        print_rows([{**one, "about": _shortened(one["about"])} for one in found], _COLUMNS)
    return 0 if found else 1


def _shortened(words: str) -> str:
    """The first few of many ids, and the number of the others."""
    ids = words.split()
    return words if len(ids) <= _IDS else f"{' '.join(ids[:_IDS])} and {len(ids) - _IDS} more"
