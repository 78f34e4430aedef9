"""Verifications of ours, and the place of a record's session in its verification."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "verification",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("client_reference_id", sa.String(), nullable=True),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("livemode", sa.Boolean(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("opening_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("verification_flow", sa.String(), nullable=True),
        sa.Column("return_url", sa.String(), nullable=True),
        sa.Column("locale", sa.String(), nullable=True),
        sa.Column("redaction_asked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("session_id"),
        sa.UniqueConstraint("livemode", "account", "client_reference_id", "purpose", name="verification_key"),
    )
    op.add_column("verification_record", sa.Column("verification_id", sa.String(), nullable=True))
    op.add_column("verification_record", sa.Column("generation", sa.Integer(), nullable=True))
    op.add_column("verification_record", sa.Column("verification_flow", sa.String(), nullable=True))
    op.add_column("verification_record", sa.Column("replacing_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("verification_record", sa.Column("replaced_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("verification_record", sa.Column("redaction_asked_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("verification_record", sa.Column("ends_quietly", sa.Boolean(), nullable=True))
    op.add_column("verification_record", sa.Column("wiped_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("verification_record", sa.Column("burned_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("outbox_action", sa.Column("given_away_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_verification_record_verification_id", "verification_record", ["verification_id"], unique=False)
    waits_for_stripe = sa.text("redaction_asked_at IS NOT NULL AND redacted_at IS NULL")
    op.create_index(
        "verification_record_not_redacted",
        "verification_record",
        ["redaction_asked_at"],
        unique=False,
        postgresql_where=waits_for_stripe,
        sqlite_where=waits_for_stripe,
    )
    op.create_table(
        "identity_paused",
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("what", "reason"),
    )
    # Last, since from here on deliveries wait for the commit.
    op.add_column("inbox_event", sa.Column("verification_id", sa.String(), nullable=True))
    op.add_column("inbox_event", sa.Column("generation", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_table("identity_paused")
    op.drop_index("verification_record_not_redacted", table_name="verification_record")
    op.drop_column("outbox_action", "given_away_at")
    op.drop_index("ix_verification_record_verification_id", table_name="verification_record")
    for column in ("generation", "verification_id"):
        op.drop_column("inbox_event", column)
    for column in (
        "burned_at",
        "wiped_at",
        "ends_quietly",
        "redaction_asked_at",
        "replaced_at",
        "replacing_at",
        "verification_flow",
        "generation",
    ):
        op.drop_column("verification_record", column)
    op.drop_column("verification_record", "verification_id")
    op.drop_table("verification")
