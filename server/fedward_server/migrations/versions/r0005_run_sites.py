"""Which sites a run asks, to find a site's runs among many; and each site's own figure of a round."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and fill it from the studies, add the column."""
    op.create_table(
        "run_sites",
        sa.Column("run", sa.String(128), sa.ForeignKey("runs.run"), primary_key=True),
        sa.Column("site", sa.String(128), primary_key=True),
    )
    op.create_index("runs_of_site", "run_sites", ["site", "run"])
    op.create_index("runs_by_start", "runs", ["started", "run"])
    op.create_index("runs_by_end", "runs", ["status", "ended"])
    op.add_column("site_rounds", sa.Column("primary", sa.Float))
    connection = op.get_bind()
    insert = sa.text("INSERT INTO run_sites (run, site) VALUES (:run, :site)")
    for run, study in connection.execute(sa.text("SELECT run, study_json FROM runs")).all():
        names = {
            str(site["name"]) for site in (json.loads(study) if isinstance(study, str) else study).get("sites", ())
        }
        for name in sorted(names):
            connection.execute(insert, {"run": run, "site": name})
