"""Enrolled sites; which Flower process does a run, and why a run ended."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table, add the columns."""
    op.create_table(
        "sites",
        sa.Column("site", sa.String(64), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
        sa.Column("node_key", sa.String(512), nullable=False, unique=True),
        sa.Column("signing_key", sa.String(64), nullable=False),
        sa.Column("added", sa.String(32), nullable=False),
        sa.Column("node_id", sa.String(32)),
    )
    op.add_column("runs", sa.Column("flower_run", sa.String(32)))
    op.add_column("runs", sa.Column("reason", sa.Text))
