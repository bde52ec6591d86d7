"""Run by Alembic for each migration: which dialect's SQL to write, and which table holds the revision."""

from alembic import context

given = context.config.attributes
context.configure(dialect_name=given["dialect"], version_table=given["version_table"])
context.run_migrations()
