"""Connections to PostgreSQL that are in the way: those that fill a limit, and those that hold our tables locked."""

from dataclasses import dataclass

from sqlalchemy import Connection

from config.database import statement
from config.postgres import OURS
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
OR (l.mode IN ('RowShareLock', 'RowExclusiveLock') AND NOT starts_with(coalesce(a.application_name, ''), '{OURS} ')))
AND l.relation = to_regclass(c.relname) AND c.relname = ANY(%s)
AND coalesce(a.xact_start < clock_timestamp() - interval '3 seconds', true) GROUP BY 1, 2, 3 ORDER BY 1, 2
"""  # noqa: S608  # our own words


@dataclass(frozen=True, slots=True)
class Full:
    """A limit at which no connection is left."""

    limit: str
    most: int
    holders: dict[str, int]  # the number of connections by the name that a program gives itself

    @property
    def by_others(self) -> bool:
        """Whether a program that is no process of this service holds one."""
        return any(not name.startswith(OURS) for name in self.holders)


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
