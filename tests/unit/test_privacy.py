"""docs/privacy.md describes every column of the tables."""

import re
from pathlib import Path

from sqlmodel import SQLModel

from handlers.tables import models

PAGE = (Path(__file__).parents[2] / "docs" / "privacy.md").read_text()
_SECTION = re.compile(r"^### `(\w+)`: .+\n((?:(?!^##).*\n)*)", re.MULTILINE)


def _described() -> dict[str, list[str]]:
    """The columns of each table, from the first cells of its rows."""
    cells = {table: re.findall(r"^\| (`.+?) \|", rows, re.MULTILINE) for table, rows in _SECTION.findall(PAGE)}
    return {table: sorted(re.findall(r"`(\w+)`", " ".join(found))) for table, found in cells.items()}


def test_every_column_of_every_table_is_described_once() -> None:
    tables = models.InboxEvent.metadata.tables.values()
    assert _described() == {table.name: sorted(column.name for column in table.columns) for table in tables}


def test_what_is_wiped_is_described_as_personal() -> None:
    for table in (models.InboxEvent, models.VerificationRecord, models.Verification):
        assert issubclass(table, SQLModel)
        section = dict(_SECTION.findall(PAGE))[str(table.__tablename__)]
        personal = re.findall(r"^\| (`.+?) \| (?:yes|may be) \|", section, re.MULTILINE)
        assert sorted(re.findall(r"`(\w+)`", " ".join(personal))) == sorted(table.PERSONAL)
