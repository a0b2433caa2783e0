"""What sites tell of themselves: their stewards' answers to studies, and how they are."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "approvals",
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("site", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("time", sa.String(32), nullable=False),
        sa.Column("until", sa.String(10)),
        sa.Column("reason", sa.String(200)),
        sa.Column("received", sa.String(32), nullable=False),
    )
    op.create_table(
        "site_statuses",
        sa.Column("site", sa.String(64), sa.ForeignKey("sites.site", ondelete="CASCADE"), primary_key=True),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("received", sa.String(32), nullable=False),
    )
