"""Alembic's environment: migrates the connection that `Store.open` hands over, inside its transaction."""

from alembic import context

import fedward_server.approvals
import fedward_server.people
import fedward_server.register
import fedward_server.statuses  # noqa: F401 - their tables too
from fedward_server.store import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
