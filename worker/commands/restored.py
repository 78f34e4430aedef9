"""The command for a backup that was put back: it learns what the backup lacks, and then goes on."""

import argparse
import sys
from dataclasses import asdict

from handlers.metrics import counting
from handlers.operator.audit import note_beforehand
from handlers.upkeep.restored import NothingHereError, recover
from worker.commands.options import acting, moment
from worker.commands.printing import bar, print_json, print_pairs, refused


def restored_options(parser: argparse.ArgumentParser) -> None:
    """Adds the backup's age, the accounts, and the choice between a mail too many and a mail too few."""
    parser.add_argument(
        "--since", type=moment, metavar="DATE", help="when the backup was made; else its newest row says so"
    )
    parser.add_argument(
        "--account", action="append", default=[], metavar="acct_…", help="a connected account too; may be repeated"
    )
    parser.add_argument(
        "--mail-again",
        action="store_true",
        help="send all mails that are owed, though some persons get theirs twice; else some may get none",
    )


def restored_now(arguments: argparse.Namespace) -> int:
    """Learns from Stripe what happened since the backup; 1 if a part of it is missing: then everything stays paused."""
    note_beforehand(acting(arguments), "restored", arguments.account)
    try:
        with bar("read", for_machines=arguments.json) as seen:
            found = recover(arguments.account, arguments.since, mail_again=arguments.mail_again, seen=seen)
    except NothingHereError as error:
        return refused(error)
    finally:
        counting.flush()
    if arguments.json:
        print_json({**asdict(found), "is_whole": found.is_whole})
    else:
        counts = {name.replace("_", " "): value for name, value in asdict(found).items()}
        print_pairs({name: value for name, value in counts.items() if not isinstance(value, list)})
    for account in found.accounts_lost:
        print(f"{account} refuses us: what happened there since is not known.", file=sys.stderr)
    for verification_id in found.purposes_lost:
        print(f"{verification_id} has its own id for its purpose: Stripe was not told it.", file=sys.stderr)
    for line in (*found.failed, *found.stopped):
        print(f"Not read: {line}", file=sys.stderr)
    if not found.is_whole:
        print("Everything stays paused: run it again. python -m worker status shows what waits.", file=sys.stderr)
    return 0 if found.is_whole else 1
