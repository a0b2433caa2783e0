"""Alembic's environment: migrates the connection that `Ledger.open` hands over, inside its transaction."""

from alembic import context

from fedward_client.ledger import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA)
context.run_migrations()
