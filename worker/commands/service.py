"""Commands that start, prepare and feed the service: run, migrate, replay."""

import argparse
import sys
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from config.database import DATABASE_TROUBLE, measure_clock
from config.defaults import webhook_secrets
from config.settings import settings
from handlers.tables.schema import migrate
from worker.commands.replay import UnreadableInputError, read, replay
from worker.run.foreground import run


def run_options(parser: argparse.ArgumentParser) -> None:
    """Adds web's address, and whether the Stripe CLI forwards events."""
    parser.add_argument("--host", default="", help="address for web to listen on (default: this machine only)")
    parser.add_argument("--listen", action="store_true", help="have the Stripe CLI forward your sandbox's events, too")


def run_service(arguments: argparse.Namespace) -> int:
    """Runs all processes until Ctrl-C."""
    return run(arguments.host, listens=arguments.listen)


def migrate_schema(_: argparse.Namespace) -> int:
    """Applies the migrations that are missing."""
    print(migrate())
    return 0


def replay_options(parser: argparse.ArgumentParser) -> None:
    """Adds the file with the events, and the receiver's URL."""
    parser.add_argument("file", metavar="FILE|-", help="events as the Stripe CLI prints them; - is stdin")
    parser.add_argument("--to", metavar="URL", help="the receiver (default: the one on this machine)")


def replay_file(arguments: argparse.Namespace) -> int:
    """Posts the file's events; 1 when one was refused or not answered."""
    with suppress(*DATABASE_TROUBLE):
        if not settings().embedded_database:
            measure_clock()  # the receiver judges the signatures' times by the same clock
    url = arguments.to or f"{settings().base_url}/webhooks/stripe"
    try:
        text = sys.stdin.read() if arguments.file == "-" else Path(arguments.file).read_text()
        outcomes = replay(read(text), url, webhook_secrets(settings())[0])
    except UnreadableInputError as error:
        print(f"{arguments.file}: {error}", file=sys.stderr)
        return 2
    except (OSError, HTTPException, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"Nothing more was replayed: {reason}", file=sys.stderr)
        return 1
    for outcome, count in sorted(outcomes.items()):
        print(f"{outcome}: {count}")
    print(f"total: {outcomes.total()}")
    return 1 if any(outcome.startswith(("refused", "unanswered")) for outcome in outcomes) else 0
