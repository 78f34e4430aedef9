"""Commands that let owed actions wait: pause, resume."""

import argparse
import sys

from handlers.operator.pausing import PAUSABLE, pause_now, resume_now
from handlers.queue.pauses import paused
from worker.commands.options import acting, add_reason
from worker.commands.printing import print_json, print_rows


def resuming_options(parser: argparse.ArgumentParser) -> None:
    """Adds the choice between mails and calls."""
    parser.add_argument("what", choices=sorted(PAUSABLE), help="mails, or calls to the application")


def pausing_options(parser: argparse.ArgumentParser) -> None:
    """Adds the choice between mails and calls, and the reason."""
    resuming_options(parser)
    add_reason(parser)


def let_wait(arguments: argparse.Namespace) -> int:
    """Lets mails or calls wait: none is begun any more; `status` and `doctor` say so as long as it lasts."""
    pause_now(arguments.what, acting(arguments))
    return _show(arguments)


def let_go_on(arguments: argparse.Namespace) -> int:
    """Lets mails or calls go on; 1 when no operator had paused them."""
    lifted = resume_now(arguments.what, acting(arguments))
    if not lifted:
        print(f"No operator has paused {arguments.what}.", file=sys.stderr)
    _show(arguments)
    return 0 if lifted else 1


def _show(arguments: argparse.Namespace) -> int:
    rows = [{"what": one.what, "reason": one.reason, "since": one.since} for one in paused()]
    if arguments.json:
        print_json({"paused": rows})
    else:
        print_rows(rows, ("what", "reason", "since"), "paused")
    return 0
