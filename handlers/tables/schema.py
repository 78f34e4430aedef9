"""The schema: migrations applied."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Inspector, inspect, text
from sqlalchemy.exc import DBAPIError

from config.settings import SettingsError
from handlers.tables.models import InboxEvent
from handlers.tables.revisions import VERSION_TABLE, current_revision, is_newer, revisions

_VERSION_TABLE_BEFORE = "alembic_version"  # Alembic's default, so it may be another application's
_REFUSED = {  # by SQLSTATE: the role's rights, or another application's tables, are in the way
    "42501": "DATABASE_URL's role may not do this: let it create tables in the schema, and own those that are there",
    "42P07": "a table, view or index that is not ours has a name that we need: give DATABASE_URL a schema of its own",
    "42710": "a type that is not ours has a name that we need: give DATABASE_URL a schema of its own",
    "3F000": "the search_path names no schema that exists: create it, or leave it out of DATABASE_URL",
}


def migrate() -> str:
    """Applies every missing migration and returns a report of it; several processes may call it at once.

    Raises SettingsError if the role's rights, or another application's tables, are in the way.
    """
    try:
        if is_newer(current_revision()):
            return "The schema is newer than this code, which runs on it as well."
        applying = config()
        command.upgrade(applying, "head")
    except DBAPIError as error:
        sentence = _REFUSED.get(getattr(error.orig, "sqlstate", ""))
        if not sentence:
            raise
        raise SettingsError(f"The schema cannot be made: {sentence}") from None
    applied = [(one.revision, " ".join(one.doc.split())) for one in applying.attributes.get("applied", ())]
    return "\n".join((*(f"Applied {revision}: {what}" for revision, what in applied), "The schema is up to date."))


def make_way(connection: Connection) -> None:
    """Takes over the version table of before, in the transaction of the migrations and before them.

    Raises SettingsError if tables that our migrations have not made have our names.
    """
    found = inspect(connection)
    here = found.default_schema_name  # the first of the search_path
    tables = {*found.get_table_names(here), *found.get_view_names(here)}
    if VERSION_TABLE in tables:
        return
    if found.has_table(VERSION_TABLE):  # in a later schema of it: new tables would hide the ones in use
        raise SettingsError(
            f"The tables are in another schema than {here}, the first of the search_path: leave one out"
        )
    if theirs := sorted(tables & InboxEvent.metadata.tables.keys()):
        if not _are_ours(connection, found, tables):
            raise SettingsError(
                f"The schema has tables that these migrations have not made: {', '.join(theirs)}. If a version from"
                " before the first release made them, drop them; else give DATABASE_URL a schema of its own:"
                " ?options=-csearch_path%3Didentity"
            )
        connection.execute(text(f"ALTER TABLE {_VERSION_TABLE_BEFORE} RENAME TO {VERSION_TABLE}"))


def config() -> Config:
    """Alembic's configuration; a percent sign in the checkout's path is doubled, since it would begin a placeholder."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    return made


def _are_ours(connection: Connection, found: Inspector, tables: set[str]) -> bool:
    """Whether all of our tables are there, with our columns, and the version of before is one of our revisions."""
    return (
        {*InboxEvent.metadata.tables, _VERSION_TABLE_BEFORE} <= tables
        and all(
            {column.name for column in table.columns} <= {column["name"] for column in found.get_columns(name)}
            for name, table in InboxEvent.metadata.tables.items()
        )
        and connection.scalar(text(f"SELECT version_num FROM {_VERSION_TABLE_BEFORE}")) in revisions()  # noqa: S608
    )
