"""What the person's pages and reminders need."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("verification", sa.Column("looked_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("verification_record", sa.Column("remind_at", sa.DateTime(timezone=True), nullable=True))
    to_remind = sa.text("remind_at IS NOT NULL")
    op.create_index(
        "verification_record_remind",
        "verification_record",
        ["remind_at"],
        unique=False,
        postgresql_where=to_remind,
        sqlite_where=to_remind,
    )


def downgrade() -> None:
    op.drop_index("verification_record_remind", table_name="verification_record")
    op.drop_column("verification_record", "remind_at")
    op.drop_column("verification", "looked_at")
