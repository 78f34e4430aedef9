"""The command that moves everything from a SQLite file into PostgreSQL."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from sqlalchemy import URL, make_url

from config.database import DATABASE_TROUBLE, on_sqlite
from config.settings import SettingsError, settings, use_database
from config.trouble import trouble_of
from handlers.tables.schema import migrate
from handlers.upkeep.move import NotMovedError, count_rows, move_database
from worker.commands.options import acting
from worker.commands.printing import print_json, print_rows, progress, refused

_NEXT = """Now set DATABASE_URL to it, and STRIPE_WEBHOOK_SECRET and LINK_KEYS to what is in use here: without them, to
what the files webhook_secret and link_key of VAR_DIR hold. Then start the processes, and keep the file for a while."""


def moving_options(parser: argparse.ArgumentParser) -> None:
    """Adds the address of the PostgreSQL database."""
    parser.add_argument("--to", metavar="URL", required=True, help="postgres://…; its password may be in PGPASSWORD")


def move_now(arguments: argparse.Namespace) -> int:
    """Copies every row of DATABASE_URL's file, and compares each; 1 when it cannot: it may then be run again."""
    if settings().on_postgres:
        return refused("DATABASE_URL is PostgreSQL already: only a SQLite file is moved.")
    path = settings().embedded_file
    if not settings().embedded_database:
        path = Path(make_url(settings().database_url.get_secret_value()).database or "")
    if not path.is_file():
        return refused(f"There is no file {path}.")
    source = on_sqlite(URL.create("sqlite", database=str(path)))
    use_database(arguments.to)
    counts: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    try:
        if not settings().on_postgres:
            return refused("--to must be PostgreSQL: postgres://…")
        total = 2 * count_rows(source)
        migrate()
        steps, for_machines = move_database(source, acting(arguments)), arguments.json
        for step in progress(steps, "rows", total, count=lambda step: step.rows, for_machines=for_machines):
            counts[step.is_comparison][step.table] += step.rows
    except NotMovedError as error:
        return refused(f"{error}.")
    except SettingsError as error:
        raise SettingsError(str(error).replace("DATABASE_URL", "--to")) from None
    except DATABASE_TROUBLE as error:
        sentence = trouble_of(error).sentence.replace("DATABASE_URL", "--to")
        return refused(f"A database cannot be used: {sentence}.")
    rows = [{"table": name, "copied": counts[False][name], "compared": count} for name, count in counts[True].items()]
    if arguments.json:
        print_json(rows)
    else:
        print_rows(rows, ("table", "copied", "compared"))
        print(_NEXT, file=sys.stderr)
    return 0
