"""Runs, their rounds, and each site's part in a round."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "runs",
        sa.Column("run", sa.String(128), primary_key=True),
        sa.Column("study_id", sa.String(128), nullable=False),
        sa.Column("study_digest", sa.String(64), nullable=False),
        sa.Column("study_json", sa.JSON, nullable=False),
        sa.Column("engine", sa.String(32), nullable=False),
        sa.Column("fedward_version", sa.String(64), nullable=False),
        sa.Column("started", sa.String(32), nullable=False),
        sa.Column("ended", sa.String(32)),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("model_sha256", sa.String(64)),
    )
    op.create_table(
        "rounds",
        sa.Column("run", sa.String(128), sa.ForeignKey("runs.run"), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("train_seconds", sa.Float, nullable=False),
        sa.Column("bytes_up", sa.BigInteger, nullable=False),
        sa.Column("bytes_down", sa.BigInteger, nullable=False),
        sa.Column("loss", sa.Float),
        sa.Column("primary", sa.Float),
        sa.Column("status", sa.String(16), nullable=False),
    )
    op.create_table(
        "site_rounds",
        sa.Column("run", sa.String(128), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("site", sa.String(128), primary_key=True),
        sa.Column("patients", sa.Integer),
        sa.Column("seconds", sa.Float),
        sa.Column("train_seconds", sa.Float),
        sa.Column("bytes_up", sa.BigInteger),
        sa.Column("bytes_down", sa.BigInteger),
        sa.Column("loss", sa.Float),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.ForeignKeyConstraint(["run", "round"], ["rounds.run", "rounds.round"]),
    )
