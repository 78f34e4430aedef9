"""What is the matter with the database, in a word and in a sentence that says what to do; never in its own words."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

_CODES = {  # PostgreSQL's
    "25006": "read-only",
    "42501": "not granted",
    "42P01": "no schema",
    "42703": "no schema",
    "3F000": "no schema",
    "53100": "disk full",
    "53300": "no connection free",
}
# Of SQLite, and of what PostgreSQL answers before there is a connection: psycopg hands on its sentence, and no code.
_SENTENCES = {
    "readonly database|read-only": "read-only",
    "permission denied": "not granted",
    "no such (table|column)|has no column": "no schema",
    "disk is full|disk I/O error": "disk full",
    "too many clients": "no connection free",
    "too many connections for role": "the role's connections",
    "too many connections for database": "the database's connections",
    "connection slots are reserved|no more connections allowed": "no connection free",
    "malformed|not a database": "damaged",
    "is locked": "locked",
    "authentication failed|no password supplied": "refused",
    'database ".*" does not exist': "no database",
}
_TO_DO = {
    "read-only": "it takes no writes, as a standby or a primary that a failover has left: point DATABASE_URL to the"
    " primary, or make the file writable",
    "not granted": "its role may not write to our tables: let it own them, or grant it all on them",
    "no schema": "tables or columns are missing: python -m worker migrate",
    "disk full": "its disk is full, or fails: make room, or give it a larger one",
    "no connection free": "the server has no connection free (max_connections): end what holds them, or take a larger"
    " plan; DATABASE_POOL bounds a process's. GET /health/backlog of web, which has its own, names the holders",
    "the role's connections": "DATABASE_URL's role has no connection free (its CONNECTION LIMIT): raise it, or lower"
    " DATABASE_POOL",
    "the database's connections": "the database has no connection free (its CONNECTION LIMIT): raise it, or lower"
    " DATABASE_POOL",
    "damaged": "its file is damaged, or is none of SQLite's: put a backup back",
    "locked": "another process has held its file locked for seconds: end that one",
    "refused": "it refuses the user or the password: see DATABASE_URL",
    "no database": "the server has no such database: see DATABASE_URL",
    "unreachable": "it cannot be reached, or does not answer: see DATABASE_URL, and whether it runs",
}
_MAY_STORE = "SELECT current_setting('transaction_read_only') = 'on', has_table_privilege('inbox_event', 'INSERT')"
_LEAST_FREE = 4 * 1024 * 1024  # bytes: SQLite may go on for a while within its own files, and then stop amid a burst


@dataclass(frozen=True, slots=True)
class Trouble:
    """A word that anybody may see, and the sentence for whoever can mend it."""

    word: str

    @property
    def sentence(self) -> str:
        """What it is, and what to do."""
        return _TO_DO[self.word]


def trouble_of(error: BaseException) -> Trouble:
    """What an error of the database's, or of a driver's, comes to."""
    origin = getattr(error, "orig", None) or error
    code = getattr(origin, "sqlstate", None)
    if word := _CODES.get(code or ""):
        return Trouble(word)
    found = (word for pattern, word in _SENTENCES.items() if re.search(pattern, str(origin)))
    return Trouble(next(found, "unreachable"))


def hindrance(connection: Connection) -> Trouble | None:
    """Why no delivery could be stored over a connection that answers; it writes nothing."""
    if connection.dialect.name == "postgresql":
        is_read_only, may_insert = connection.exec_driver_sql(_MAY_STORE).one()
        return Trouble("read-only") if is_read_only else None if may_insert else Trouble("not granted")
    connection.exec_driver_sql("SELECT 1 FROM inbox_event LIMIT 1")
    free = shutil.disk_usage(Path(connection.engine.url.database or ".").absolute().parent).free
    return Trouble("disk full") if free < _LEAST_FREE else None
