"""Studies that a hub asked for, the steward's approvals, what was answered, what a run is bound to."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "studies",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("study_id", sa.String(128), nullable=False),
        sa.Column("study", sa.Text, nullable=False),
        sa.Column("asked", sa.String(32), nullable=False),
    )
    op.create_table(
        "approvals",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("study_id", sa.String(128), nullable=False),
        sa.Column("until", sa.String(10), nullable=False),
        sa.Column("given", sa.String(32), nullable=False),
    )
    op.create_table(
        "answers",
        sa.Column("study", sa.String(64), primary_key=True),
        sa.Column("run", sa.String(128), primary_key=True),
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("side", sa.String(16), primary_key=True),
        sa.Column("question", sa.String(64), nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("parcel", sa.Text),
    )
    op.create_table(
        "bound",
        sa.Column("run", sa.String(128), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "switches",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("since", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
