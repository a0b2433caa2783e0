"""By which key a run's study knows each of its sites: a name may have been another hospital's before."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and fill it from the studies."""
    op.add_column("run_sites", sa.Column("fingerprint", sa.String(64)))
    connection = op.get_bind()
    update = sa.text("UPDATE run_sites SET fingerprint = :fingerprint WHERE run = :run AND site = :site")
    for run, study in connection.execute(sa.text("SELECT run, study_json FROM runs")).all():
        for site in (json.loads(study) if isinstance(study, str) else study).get("sites", ()):
            own = {"run": run, "site": site["name"], "fingerprint": site.get("fingerprint")}
            connection.execute(update, own)
