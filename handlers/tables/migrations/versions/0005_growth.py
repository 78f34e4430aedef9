"""An index for many records: the sessions that are not at their end, by account and time of the next comparison; and
a column for the answers that a process gets from outside."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NOT_ENDED = "coalesce(status, '') NOT IN ('verified', 'canceled')"


def upgrade() -> None:
    which = sa.text(_NOT_ENDED)
    columns = ["account", "compare_at"]
    op.create_index(
        "verification_record_compare",
        "verification_record",
        columns,
        unique=False,
        postgresql_where=which,
        sqlite_where=which,
    )
    # Rows that the code before has made without a time; behind the index's lock, so that nobody holds one of them.
    op.execute(f"UPDATE verification_record SET compare_at = created_at WHERE compare_at IS NULL AND {_NOT_ENDED}")  # noqa: S608
    op.add_column("identity_heartbeat", sa.Column("outside", sa.String(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("identity_heartbeat") as table:
        table.drop_column("outside")
    op.drop_index("verification_record_compare", table_name="verification_record")
