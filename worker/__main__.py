"""The operator's commands: python -m worker COMMAND."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper
from typing import Any

from sqlalchemy.exc import DBAPIError

from config.database import DATABASE_TROUBLE, measure_clock
from config.logs import configure_logging
from config.settings import SettingsError
from config.trouble import trouble_of
from config.version import running_version
from worker.commands.options import add_who


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its function, its summary, and the function that adds its options, both by their names.

    Only the modules of the command that is called are imported: all of them take a second, most of it for nothing.
    """

    does: str  # module.function, below worker/commands
    summary: str
    options: str = ""
    json: bool = True
    asks: bool = False  # it asks Stripe, whose times are held against true_now(): this host's clock may be wrong
    changes: bool = False  # it changes something, so it takes --by for the audit

    def run(self, arguments: argparse.Namespace) -> int:
        """Runs it; returns the exit code."""
        code: int = _imported(self.does)(arguments)
        return code

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Adds its options."""
        if self.json:
            parser.add_argument("--json", action="store_true", help="for machines")
        if self.options:
            _imported(self.options)(parser)
        if self.changes:
            add_who(parser)


def _imported(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(".")
    found: Callable[..., Any] = getattr(import_module(f"worker.commands.{module}"), function)
    return found


COMMANDS = {
    "run": Command(
        "service.run_service", "web, worker and clock together in the foreground", "service.run_options", json=False
    ),
    "migrate": Command("service.migrate_schema", "bring the database's schema up to date", json=False),
    "status": Command("show.status", "what waits, what is dead, how fast it goes (exit 1: something needs you)"),
    "session": Command(
        "sessions.session", "what happened to this person's verification, and their mails", "sessions.session_options"
    ),
    "sessions": Command("sessions.sessions", "the latest sessions", "sessions.sessions_options"),
    "actions": Command("sessions.actions", "the latest of what is owed: mails, calls", "sessions.actions_options"),
    "verification": Command(
        "verifications.show_verification", "one verification and its sessions", "verifications.verification_options"
    ),
    "open": Command(
        "verifications.open_now",
        "open a verification, or take up its open session",
        "verifications.opening_options",
        asks=True,
        changes=True,
    ),
    "adopt": Command(
        "verifications.adopt_now",
        "take over an open session that was made elsewhere",
        "verifications.adopting_options",
        asks=True,
        changes=True,
    ),
    "cancel": Command(
        "verifications.cancel_now",
        "end an open session, a verification's or one that was made elsewhere",
        "verifications.canceling_options",
        asks=True,
        changes=True,
    ),
    "redact": Command(
        "verifications.redact_now",
        "forget a person, here and at Stripe",
        "verifications.redacting_options",
        asks=True,
        changes=True,
    ),
    "link": Command(
        "verifications.make_link",
        "make a link by which a person goes on",
        "verifications.ending_options",
        changes=True,
    ),
    "end-links": Command(
        "verifications.end_links", "give up the links whose key is gone, on purpose", "options.add_reason", changes=True
    ),
    "events": Command("show.events", "the latest events", "show.events_options"),
    "event": Command("show.event", "one event and its history", "show.event_options"),
    "dead": Command("show.dead", "what was given up (exit 1: there is some)"),
    "retry": Command(
        "change.retry",
        "try again what is dead, waits, or was skipped by a setting",
        "change.retry_options",
        changes=True,
    ),
    "resend": Command(
        "change.resend_now", "do once more, on purpose, what is done or skipped", "change.resend_options", changes=True
    ),
    "discard": Command(
        "change.discard", "end what is dead or waits, and keep the rows", "change.discard_options", changes=True
    ),
    "outputs": Command(
        "disclosing.outputs", "decrypt the verified outputs of a session", "disclosing.outputs_options", changes=True
    ),
    "reencrypt": Command("disclosing.reencrypt", "write verified outputs anew with the newest key", changes=True),
    "export": Command(
        "disclosing.export_now",
        "all that is held about a person, for their request",
        "disclosing.export_options",
        changes=True,
    ),
    "pause": Command(
        "pausing.let_wait", "let mails or calls wait; nothing is lost", "pausing.pausing_options", changes=True
    ),
    "resume": Command("pausing.let_go_on", "let them go on", "pausing.resuming_options", changes=True),
    "audit": Command("audit.show_audit", "who changed what, and why", "audit.audit_options"),
    "replay": Command("service.replay_file", "sign events again and post them", "service.replay_options", json=False),
    "reconcile": Command(
        "change.reconcile_now", "fetch from Stripe what never arrived, and compare sessions", asks=True, changes=True
    ),
    "rebuild": Command(
        "change.rebuild_now", "fill a wiped database from Stripe", "change.rebuild_options", asks=True, changes=True
    ),
    "restored": Command(
        "restored.restored_now",
        "after a backup was put back: learn from Stripe what it lacks",
        "restored.restored_options",
        asks=True,
        changes=True,
    ),
    "move": Command(
        "move.move_now", "copy everything from a SQLite file into PostgreSQL", "move.moving_options", changes=True
    ),
    "purge": Command(
        "change.purge_now",
        "delete or wipe what RETENTION_DAYS and RECORD_DAYS let go; the clock does it every hour",
        changes=True,
    ),
    "mails": Command(
        "mails.write_mails", "write every mail there is to files, and send none", "samples.folder_options", json=False
    ),
    "pages": Command("pages.write_pages", "write every page there is to files", "samples.folder_options", json=False),
    "console-user": Command("console.make_user", "make a user of the console", "console.user_options", json=False),
    "endpoint": Command(
        "endpoint.manage_endpoint",
        "register the webhook endpoint at Stripe, or check it",
        "endpoint.endpoint_options",
        changes=True,
    ),
    "doctor": Command("doctor.diagnose", "check the whole set-up, and say what to do (exit 1: something fails)"),
}


def main() -> int:
    """Runs one command; 0 if it did what it says, 1 if not, 2 if it was called or set up wrongly."""
    arguments = parser(sys.argv[1:2]).parse_args()
    command: Command = arguments.command
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: its encoding may lack a letter
    try:
        if command.does != "doctor.diagnose":  # the doctor itself says what is wrong with the settings
            configure_logging(is_silent=command.json and arguments.json)
        if command.asks:
            measure_clock()
        code = command.run(arguments)
        sys.stdout.flush()
        return code
    except SettingsError as error:
        return _failed(str(error))
    except DATABASE_TROUBLE as error:
        return _failed(f"The database cannot be used: {trouble_of(error).sentence}.")
    except (DBAPIError, UnicodeEncodeError) as error:
        return _failed(f"The database cannot take what was given: {type(error).__name__}.")
    except OSError as error:  # of this machine: those of a database are caught above
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the output that is left fails once more
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            return 1
        what = f" {error.filename}" if error.filename else ""
        return _failed(f"This machine refuses{what}: {error.strerror or type(error).__name__}{_of_which(error)}.")
    except KeyboardInterrupt:
        return 130


def _of_which(error: OSError) -> str:
    """The limit that was reached, where the error's own words do not name it."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return " (ulimit -n)"
    return " (of what the output goes to)" if error.errno == errno.ENOSPC and not error.filename else ""


def _failed(sentence: str) -> int:
    print(sentence, file=sys.stderr)
    return 2


def parser(first: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The parser of all commands, with the options of one if it is named first, and else of each."""
    described = argparse.ArgumentParser(prog="python -m worker", description=__doc__)
    described.add_argument("--version", action="version", version=running_version())
    commands = described.add_subparsers(required=True, metavar="COMMAND")
    asked = [name for name in COMMANDS if name in first] or COMMANDS
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.summary, description=command.summary)
        subparser.set_defaults(command=command)
        if name in asked:
            command.add_to(subparser)
    return described


if __name__ == "__main__":
    sys.exit(main())
