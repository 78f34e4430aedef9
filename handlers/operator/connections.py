"""Connections to PostgreSQL that are in the way: those that fill a limit, hold our tables locked, or wait in vain."""

from dataclasses import dataclass

from sqlalchemy import Connection

from config.database import statement
from config.postgres import OUR_NAME
from config.trouble import Trouble
from handlers.tables.models import TABLES
from handlers.tables.revisions import VERSION_TABLE

# Connections of autovacuum and of replicas have no database; a superuser's are beside the limits.
_TAKEN = "SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL"
_LIMITS = f"""
SELECT 'the server''s (max_connections)', current_setting('max_connections')::int - (
    SELECT sum(setting::int) FROM pg_settings WHERE name IN ('superuser_reserved_connections', 'reserved_connections')
), ({_TAKEN})
UNION ALL SELECT 'the role''s (its CONNECTION LIMIT)', rolconnlimit, ({_TAKEN} AND usename = current_user)
FROM pg_roles WHERE rolname = current_user
UNION ALL SELECT 'the database''s (its CONNECTION LIMIT)', datconnlimit, ({_TAKEN} AND datname = current_database())
FROM pg_database WHERE datname = current_database()
"""  # noqa: S608  # our own words
_HOLDERS = """
SELECT coalesce(nullif(application_name, ''), 'unnamed'), count(*) FROM pg_stat_activity
WHERE datname IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 8
"""


# Locks of the modes that keep our writes waiting, and a stranger's transactions that may hold some rows: our claims
# pass those over, and nothing fails. PostgreSQL shows only the number of another user's connection.
_LOCKS = f"""
SELECT c.relname, a.pid, coalesce(nullif(a.application_name, ''), 'unnamed'),
bool_or(l.mode NOT IN ('RowShareLock', 'RowExclusiveLock')) FROM pg_locks AS l
JOIN pg_class AS c ON c.oid = l.relation JOIN pg_stat_activity AS a USING (pid)
WHERE l.granted AND l.locktype = 'relation'
AND (l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
OR (l.mode IN ('RowShareLock', 'RowExclusiveLock')
AND NOT starts_with(coalesce(a.application_name, ''), '{OUR_NAME} ')))
AND l.relation = to_regclass(c.relname) AND c.relname = ANY(%s)
AND coalesce(a.xact_start < clock_timestamp() - interval '3 seconds', true) GROUP BY 1, 2, 3 ORDER BY 1, 2
"""  # noqa: S608  # our own words
# Whether a commit of ours has waited so long for a standby (PostgreSQL shows others' waits to a superuser alone), and
# the oldest database with its age.
_COMMITS = """
SELECT EXISTS (SELECT FROM pg_stat_activity
WHERE wait_event = 'SyncRep' AND query_start < clock_timestamp() - interval '3 seconds'),
datname, greatest(age(datfrozenxid), mxid_age(datminmxid)) FROM pg_database ORDER BY 3 DESC LIMIT 1
"""
_OLD = 1_600_000_000  # transactions: VACUUM itself drops all else then (vacuum_failsafe_age)
_NO_MORE = 2**31 - 3_000_000  # with so many the server gives out no number more


@dataclass(frozen=True, slots=True)
class Commits:
    """The obstacles to all commits, while all can be read: a standby that does not answer, and the server's age."""

    awaits_standby: bool = False
    oldest: str = ""  # the database that was not vacuumed for longest
    age: int = 0  # its transactions since

    @property
    def trouble(self) -> Trouble | None:
        """The trouble by which nothing is committed now."""
        if self.awaits_standby:
            return Trouble("no standby")
        return Trouble("no numbers") if self.age >= _NO_MORE else None

    @property
    def is_old(self) -> bool:
        """Whether somebody has to see to it."""
        return self.age >= _OLD


@dataclass(frozen=True, slots=True)
class Full:
    """A limit at which no connection is left."""

    limit: str
    most: int
    holders: dict[str, int]  # the number of connections by the name that a program gives itself

    @property
    def by_others(self) -> bool:
        """Whether a program that is no process of this service holds one."""
        return any(not name.startswith(OUR_NAME) for name in self.holders)


def full() -> Full | None:
    """The limit that is reached; None while there is one connection left, besides this one."""
    with statement() as connection:
        if connection.dialect.name != "postgresql":
            return None
        for limit, most, taken in connection.exec_driver_sql(_LIMITS):
            if 0 <= most <= taken:
                return Full(limit, most, dict(connection.exec_driver_sql(_HOLDERS).all()))
    return None


def locked(connection: Connection) -> list[tuple[str, int, str]]:
    """Our tables that have been locked for seconds, or rows of them, each with the connection's number and name."""
    if connection.dialect.name != "postgresql":
        return []
    return [
        (f"{name} is" if is_whole else f"rows of {name} are", pid, whose)
        for name, pid, whose, is_whole in connection.exec_driver_sql(_LOCKS, ([*TABLES, VERSION_TABLE],))
    ]


def look_at_commits(connection: Connection) -> Commits:
    """Whether commits end, and for how long they will."""
    if connection.dialect.name != "postgresql":
        return Commits()
    return Commits(*connection.exec_driver_sql(_COMMITS).one())
