"""Of which patients statistics were answered, as keyed digests."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "covered",
        sa.Column("what", sa.String(16), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("patients", sa.LargeBinary, nullable=False),
        sa.Column("first", sa.String(32), nullable=False),
    )
