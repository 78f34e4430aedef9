"""The database's trouble, in a word and in a sentence that says what to do; never in the database's own words."""

import re
import shutil
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from config.postgres import code_of
from config.settings import SettingsError

_CODES = {  # PostgreSQL's
    "25006": "read-only",
    "42501": "not granted",
    "42P01": "no schema",
    "42703": "no schema",
    "3F000": "no schema",
    "53100": "disk full",
    "53300": "no connection free",
    "57014": "too slow",
    "57P01": "not ready",
    "57P02": "not ready",
    "57P03": "not ready",
}
# Of the rest, by class: a server that ends or begins, a lock or a statement that took too long, a user, a database.
_CLASSES = {
    "28": "refused",
    "3D": "no database",
    "40": "locked",
    "53": "no resources",
    "55": "locked",
    "57": "unreachable",
    "58": "disk full",
}
# Of refusals to connect, by the function of PostgreSQL's that refuses: the codes stand for other troubles, too.
_FUNCTIONS = {
    ("53300", "InitializeSessionUserId"): "the role's connections",
    ("53300", "CheckMyDatabase"): "the database's connections",
    ("42501", "CheckMyDatabase"): "refused",
    ("55000", "CheckMyDatabase"): "refused",
}
# Sentences of libpq, of the drivers and of PgBouncer, which hands on the server's, and no code of it.
_UNCONNECTED = {
    "timeout expired|said nothing for too long|no answer in time|TimeoutError": "no answer",
    "query_wait_timeout": "no connection in time",
    "query timeout": "too slow",
    "no more connections allowed": "the pooler's connections",
    "too many clients|connection slots are reserved": "no connection free",
    "too many connections for role": "the role's connections",
    "too many connections for database": "the database's connections",
    "authentication failed|no password supplied|no pg_hba.conf entry|not permitted to log in": "refused",
    'no such (user|role)|role ".*" does not exist': "refused",
    'no such database|database ".*" does not exist': "no database",
    "the database system is": "not ready",
    "session is read-only|in hot standby mode|target attribute requirement": "read-only",
    "[Pp]rivate key|KEY_VALUES_MISMATCH|certificate file|PEM lib": "TLS files",
    "certificate|does not support SSL|rejected SSL upgrade|SSL error": "not trusted",
    "": "unreachable",
}
FILE_REPLACED = "the file was replaced"
_SQLITE = {
    "EROFS|readonly database|read-only": "read-only",
    "EACCES|EPERM": "not permitted",
    "permission denied": "not granted",
    "no such (table|column)|has no column": "no schema",
    "ENOSPC|EDQUOT|disk is full|disk I/O error": "disk full",
    "malformed|not a database": "damaged",
    "is locked": "locked",
    FILE_REPLACED: "replaced",
    "unable to open|EEXIST|ENOTDIR": "no file",
}
_TO_DO = {
    "read-only": "it takes no writes, as a standby or a primary that a failover has left: point DATABASE_URL to the"
    " primary, or make the file writable",
    "not granted": "its role may not write to our tables: let it own them, or grant it all on them",
    "not permitted": "this user may not read and write its file, its folder, or the -wal and -shm beside it: run all"
    " processes as one user, who owns them",
    "no file": "DATABASE_URL (VAR_DIR where there is none) names no file that can be opened or made: see its path",
    "no schema": "tables or columns are missing: python -m worker migrate",
    "disk full": "its disk is full, or fails: make room, or give it a larger one",
    "no connection free": "the server has no connection free (max_connections): end what holds them, or take a larger"
    " plan; DATABASE_POOL bounds a process's. status asks web, which has its own, who holds them",
    "the role's connections": "DATABASE_URL's role has no connection free (its CONNECTION LIMIT): raise it, or lower"
    " DATABASE_POOL",
    "the database's connections": "the database has no connection free (its CONNECTION LIMIT): raise it, or lower"
    " DATABASE_POOL",
    "the pooler's connections": "the pooler has no connection free (max_client_conn): raise it, or lower DATABASE_POOL",
    "no connection in time": "the pooler has found no connection to the server in time (query_wait_timeout): see"
    " whether that runs, and raise default_pool_size",
    "replaced": "its file was deleted or replaced under this process, which stores nothing more: end web, worker and"
    " clock, put it back (if that is a backup: python -m worker restored), and start them again",
    "damaged": "its file is damaged, or is none of SQLite's: put a backup back",
    "locked": "another process has held a lock of it for seconds: end that one",
    "too slow": "a statement took longer than it may (statement_timeout), or was ended: see what else the server"
    " does, or its disk",
    "no standby": "commits wait for a standby (synchronous_standby_names), and none answers: start it, or let go of it:"
    " ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf()",
    "no numbers": "the server has no transaction numbers left, as nothing was vacuumed for long (wraparound): end what"
    " keeps VACUUM from its work, and VACUUM the database",
    "no resources": "the server has no memory, or another of its means is used up: see its log",
    "failed": "it cannot do what it was asked, which may be a fault of this service's: the log says which error",
    "refused": "it refuses the user, the password, the database to this user, or who comes from here by this way: see"
    " DATABASE_URL",
    "not trusted": "it speaks no TLS, or its certificate is not trusted, has expired, or is of another host: see"
    " sslmode and sslrootcert in DATABASE_URL",
    "TLS files": "sslrootcert, sslcert or sslkey in DATABASE_URL names a file that cannot be used: each must be"
    " readable, and the key be of sslcert and nobody else's to read",
    "no database": "the server has no such database: see DATABASE_URL",
    "no answer": "it does not answer in time: see whether it runs, the way to it, and where a pooler is before it,"
    " whether that has a connection free (default_pool_size)",
    "not ready": "the server starts, stops or recovers, or has ended our connection: wait for it, or see its log",
    "unreachable": "it cannot be reached, or does not answer: see DATABASE_URL, and whether it runs",
}
# Of a server near its wraparound, whose code large values have, too; and the functions of its that say so.
_NO_NUMBERS = re.compile("is not accepting commands|GetNewTransactionId|GetNewMultiXactId")
_POOLED_BY_STATEMENT = (
    "DATABASE_URL leads to a pooler in its statement mode, which takes no transactions: set pool_mode to transaction"
)
_MAY_STORE = "SELECT current_setting('transaction_read_only') = 'on', has_table_privilege('inbox_event', 'INSERT')"
_LEAST_FREE = 4 * 1024 * 1024  # bytes: SQLite may go on for a while within its own files, and then stop amid a burst


@dataclass(frozen=True, slots=True)
class Trouble:
    """A word that anybody may see, and the sentence for the operator."""

    word: str
    said: str = ""  # in place of the word's own

    @property
    def sentence(self) -> str:
        """The trouble and its remedy."""
        return self.said or _TO_DO[self.word]


def trouble_of(error: BaseException) -> Trouble:
    """The trouble behind an error of the database's or of a driver's, by its code, or else by its sentence."""
    if isinstance(error, SettingsError):
        return Trouble("settings", str(error))
    origin = getattr(error, "orig", None) or error
    if "in statement pooling mode" in str(origin):  # PgBouncer has one code for all that it refuses
        return Trouble("unreachable", _POOLED_BY_STATEMENT)
    if lacks_numbers(origin):
        return Trouble("no numbers")
    code = code_of(origin)
    if code and not code.startswith("08"):
        words = (word for (refused, by), word in _FUNCTIONS.items() if refused == code and by in _said(origin))
        return Trouble(next(words, None) or _CODES.get(code) or _CLASSES.get(code[:2], "failed"))
    known = _SQLITE if isinstance(origin, sqlite3.Error) else _UNCONNECTED
    said = str(origin) or type(origin).__name__
    return Trouble(next((word for pattern, word in known.items() if re.search(pattern, said)), "failed"))


def lacks_numbers(error: BaseException) -> bool:
    """Whether the server has no number left for a transaction."""
    return bool(_NO_NUMBERS.search(_said(error)))


def _said(error: BaseException) -> str:
    """An error's sentence, in any language, with the server's function that raised it: psycopg's has that already."""
    return f"{error} {getattr(error, 'server_source_function', '')}"


def hindrance(connection: Connection) -> Trouble | None:
    """The trouble that keeps deliveries from being stored, over a connection that answers; it writes nothing."""
    if connection.dialect.name == "postgresql":
        is_read_only, may_insert = connection.exec_driver_sql(_MAY_STORE).one()
        return Trouble("read-only") if is_read_only else None if may_insert else Trouble("not granted")
    connection.exec_driver_sql("SELECT 1 FROM inbox_event LIMIT 1")
    free = shutil.disk_usage(Path(connection.engine.url.database or ".").absolute().parent).free
    return Trouble("disk full") if free < _LEAST_FREE else None
