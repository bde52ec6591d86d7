"""How a store of an earlier revision gets today's tables.

Each change of ``tables`` is a revision in ``versions``, numbered from 0001. Alembic writes its SQL, and the engine's
own connection carries it out in one transaction: a killed migration has done nothing. New stores get the tables of the
newest revision from ``schema.sql``. A test holds both ways to the same tables.

A revision leaves tables that the program before it can go on with: a fleet is migrated while its old daemons run, and
replaced then. So a new column has a default, and nothing is renamed or taken away before no daemon uses it.

Alembic takes 0.9 s and 45 MiB: it is imported only when there is something to migrate.
"""
