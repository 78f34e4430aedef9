"""The schema: migrations applied, and whether the database is at their head."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from config.database import engine


def migrate() -> None:
    """Applies every migration that is missing; several processes may call it at once."""
    command.upgrade(_config(), "head")


def is_at_head() -> bool:
    """Whether no migration is missing."""
    with engine().connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    return current == ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config
