"""The revision of the database's schema, and whether this code runs on it; without Alembic, which web does not load."""

import re
from functools import cache
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from config.database import statement
from config.trouble import trouble_of

VERSION_TABLE = "identity_schema_version"
_VERSION = f"SELECT version_num FROM {VERSION_TABLE}"  # noqa: S608  # our own
# The table of the schema that new tables come into, and not one of a later schema in the search path.
_OURS = {"postgresql": f" WHERE tableoid = to_regclass(quote_ident(current_schema()) || '.{VERSION_TABLE}')"}


def is_at_head() -> bool:
    """Whether no migration is missing."""
    current = current_revision()
    return current == revisions()[-1] or is_newer(current)


def current_revision() -> str | None:
    """The revision that was applied last; None before the first."""
    try:
        with statement() as connection:
            found: str | None = connection.scalar(text(_VERSION + _OURS.get(connection.dialect.name, "")))
    except SQLAlchemyError as error:
        if trouble_of(error).word == "no schema":
            return None
        raise
    return found


def is_newer(revision: str | None) -> bool:
    """Whether this code does not know the revision: a newer release has come and gone again."""
    return revision is not None and revision not in revisions()


@cache
def revisions() -> list[str]:
    """All revisions of this code, by the names of their files, in order."""
    files = (Path(__file__).parent / "migrations" / "versions").glob("*.py")
    return sorted(found[1] for file in files if (found := re.match(r"(\d{4})_", file.name)))
