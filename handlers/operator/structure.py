"""Our tables as they are, held against those that the migrations make: somebody may have changed one by hand."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Table, UniqueConstraint, text
from sqlalchemy.schema import CreateIndex
from sqlmodel import SQLModel

from handlers.tables.models import TABLES

_COLUMNS = {  # not by SQLAlchemy's inspection, which a lock on a table keeps waiting
    "postgresql": "SELECT name, attname, attnotnull AND NOT atthasdef AND attidentity = '' AS demanded"
    " FROM unnest(CAST(:names AS text[])) AS name JOIN pg_attribute"
    " ON attrelid = to_regclass(name) AND attnum > 0 AND NOT attisdropped",
    "sqlite": "SELECT t.name, c.name, false FROM sqlite_master AS t JOIN pragma_table_info(t.name) AS c",
}
_NOT_GRANTED = """
SELECT name, string_agg(lower(may), ', ') AS rights FROM unnest(CAST(:names AS text[])) AS name,
unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS may
WHERE NOT has_table_privilege(to_regclass(name), may) GROUP BY name ORDER BY name
"""
_UNIQUE = """
SELECT name, (SELECT string_agg(attname, ',' ORDER BY attname) FROM pg_attribute WHERE attrelid = indrelid
AND attnum = ANY(indkey)) AS columns FROM unnest(CAST(:names AS text[])) AS name JOIN pg_index
ON indrelid = to_regclass(name) AND indisunique AND indisvalid AND indpred IS NULL
"""
_INDEXES = {  # those of use to a statement
    "postgresql": "SELECT relname FROM unnest(CAST(:names AS text[])) AS name JOIN pg_index"
    " ON indrelid = to_regclass(name) AND indisvalid JOIN pg_class ON oid = indexrelid",
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index'",
}
# Before a row is written, a trigger may drop it without a word, and so may a rule; row-level security hides rows, too.
_HINDERS = """
SELECT format('the trigger %s of %s', tgname, name), format('DROP TRIGGER %I ON %I', tgname, name)
FROM unnest(CAST(:names AS text[])) AS name JOIN pg_trigger ON tgrelid = to_regclass(name)
WHERE NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 3 = 3
UNION ALL SELECT format('the rule %s of %s', rulename, name), format('DROP RULE %I ON %I', rulename, name)
FROM unnest(CAST(:names AS text[])) AS name JOIN pg_rewrite ON ev_class = to_regclass(name) AND is_instead
UNION ALL SELECT format('row-level security of %s', name), format('ALTER TABLE %I DISABLE ROW LEVEL SECURITY', name)
FROM unnest(CAST(:names AS text[])) AS name WHERE row_security_active(to_regclass(name)) ORDER BY 1
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """The differences that keep something from being read or stored, let it be stored twice, or make that slow."""

    gone: Sequence[str] = ()  # tables, and columns of the others
    demanded: Sequence[str] = ()  # columns that are none of ours, and that each row must have a value in
    twofold: Sequence[str] = ()  # the columns of keys that are gone
    closed: dict[str, str] = field(default_factory=dict)  # the rights that our role lacks, by table
    hinders: dict[str, str] = field(default_factory=dict)  # somebody's triggers and the like, with the end of each
    slow: dict[str, str] = field(default_factory=dict)  # the indexes that are gone, with the statement that makes each

    def takes_no(self, table: str) -> bool:
        """Whether the table takes no rows."""
        return table in self.gone or table in self.closed or any(one.startswith(f"{table}.") for one in self.demanded)


def look_at_tables(connection: Connection) -> Tables:
    """The differences, by the catalogue: it waits for no lock."""
    names, dialect = {"names": TABLES}, connection.dialect.name
    there = defaultdict[str, dict[str, bool]](dict)
    for table, name, is_demanded in connection.execute(text(_COLUMNS[dialect]), names):
        there[table][name] = bool(is_demanded)
    made = {name: SQLModel.metadata.tables[name] for name in TABLES if name in there}
    gone = [name for name in TABLES if name not in there]
    gone += [str(one) for table in made.values() for one in table.columns if one.name not in there[table.name]]
    demanded = [
        f"{name}.{one}"
        for name, table in made.items()
        for one, is_demanded in there[name].items()
        if is_demanded and one not in table.columns
    ]
    usable = set(connection.scalars(text(_INDEXES[dialect]), names))
    slow = {
        str(index.name): str(CreateIndex(index).compile(dialect=connection.dialect)).strip()
        for table in made.values()
        for index in sorted(table.indexes, key=lambda one: str(one.name))
        if index.name not in usable
    }
    if dialect != "postgresql":  # SQLite changes no key and no column of a table, and has no roles
        return Tables(gone=gone, slow=slow)
    unique = {(row.name, row.columns) for row in connection.execute(text(_UNIQUE), names)}
    keys = [(name, columns) for name, table in made.items() for columns in _keys(table)]
    return Tables(
        gone=gone,
        demanded=demanded,
        twofold=[f"{name} ({columns.replace(',', ', ')})" for name, columns in keys if (name, columns) not in unique],
        closed={row.name: row.rights for row in connection.execute(text(_NOT_GRANTED), names)},
        hinders=dict(connection.execute(text(_HINDERS), names).all()),
        slow=slow,
    )


def _keys(table: Table) -> list[str]:
    """The columns of each key, sorted, in one text."""
    constraints = [one for one in table.constraints if isinstance(one, UniqueConstraint)]
    return [",".join(sorted(one.name for one in key.columns)) for key in (table.primary_key, *constraints)]
