"""What Alembic runs to migrate: the steps, on the connection and transaction it was handed."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
