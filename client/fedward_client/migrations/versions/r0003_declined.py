"""Studies that the steward refused, or whose approval was taken back."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "declined",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("study_id", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("since", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
