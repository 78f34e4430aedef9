"""Tables and columns for the person's pages, for reminders and for the operator."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_LISTED = (
    ("outbox_action_skipped", "outbox_action", "created_at", "status = 'skipped'"),
    ("inbox_event_ignored", "inbox_event", "received_at", "outcome = 'ignored'"),
)


def upgrade() -> None:
    op.create_table(
        "identity_audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("who", sa.String(), nullable=False),
        sa.Column("way", sa.String(), nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("about", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "identity_heartbeat",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ahead_seconds", sa.Float(), nullable=True),
        sa.Column("worked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("listened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "identity_tally",
        sa.Column("seconds", sa.Integer(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("labels", sa.String(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("seconds", "since", "name", "labels"),
    )
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
    op.add_column("outbox_action", sa.Column("resent_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("outbox_action", sa.Column("mail_number", sa.Integer(), nullable=True))
    op.create_index("verification_record_latest", "verification_record", ["created_at", "session_id"], unique=False)
    for name, table, column, condition in _LISTED:
        which = sa.text(condition)
        op.create_index(name, table, [column], unique=False, postgresql_where=which, sqlite_where=which)


def downgrade() -> None:
    for name, table, *_ in _LISTED:
        op.drop_index(name, table_name=table)
    op.drop_index("verification_record_latest", table_name="verification_record")
    op.drop_table("identity_tally")
    op.drop_table("identity_heartbeat")
    op.drop_table("identity_audit")
    op.drop_column("outbox_action", "mail_number")
    op.drop_column("outbox_action", "resent_at")
    op.drop_index("verification_record_remind", table_name="verification_record")
    op.drop_column("verification_record", "remind_at")
    op.drop_column("verification", "looked_at")
