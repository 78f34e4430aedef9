"""Which limit of PostgreSQL's connections is reached, and who holds them."""

from dataclasses import dataclass

from config.database import statement
from config.postgres import OURS

# An autovacuum's and a replica's have no database; a superuser's are beside the limits.
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


@dataclass(frozen=True, slots=True)
class Full:
    """No connection is left."""

    limit: str
    most: int
    holders: dict[str, int]  # by the name that they give themselves

    @property
    def by_others(self) -> bool:
        """Whether somebody holds one who is none of this service's processes."""
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
