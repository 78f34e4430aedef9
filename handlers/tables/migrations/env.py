"""Runs the migrations in one transaction, one process at a time."""

from alembic import context
from sqlalchemy import text

from config.database import engine, take_your_time
from handlers.tables import models, revisions, schema

_applied = context.config.attributes.setdefault("applied", [])
_LOCK = 7_330_112  # any number that no other application in the database uses

with engine().connect() as connection, connection.begin():
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        take_your_time(connection)  # but a wait for a lock still ends
    # SQLite's BEGIN IMMEDIATE is the lock.
    schema.make_way(connection)
    context.configure(
        connection=connection,
        target_metadata=models.InboxEvent.metadata,
        version_table=revisions.VERSION_TABLE,
        render_as_batch=True,
        on_version_apply=lambda *, step, **_: _applied.extend(step.up_revisions) if step.is_upgrade else None,
    )
    context.run_migrations()
