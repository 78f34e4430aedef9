"""Indexes for many hosts and many rows: they find the oldest row that waits, and a person's sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# In the order in which an applied event locks them, and the inbox last: deliveries wait from there to the commit.
_FOUND = (
    ("verification_record_user", "verification_record", "user_id", "user_id IS NOT NULL"),
    ("verification_record_reference", "verification_record", "client_reference_id", "client_reference_id IS NOT NULL"),
    ("outbox_action_waiting", "outbox_action", "created_at", "status = 'pending'"),
    ("inbox_event_waiting", "inbox_event", "received_at", "status = 'received'"),
)


def upgrade() -> None:
    for name, table, column, condition in _FOUND:
        which = sa.text(condition)
        op.create_index(name, table, [column], unique=False, postgresql_where=which, sqlite_where=which)


def downgrade() -> None:
    for name, table, *_ in _FOUND:
        op.drop_index(name, table_name=table)
