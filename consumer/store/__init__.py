"""The ledger and the dead letters, kept where a restart finds them.

ledger      the protocol, the records, the answers
commands    calls of the ledger that share a transaction
tables      the definition of every table
rows        how records become rows
migrations/ the revisions of the tables; migrate writes their SQL
session     statements beside a running daemon
submissions jobs that were sent to MPS, on both engines
queries/    what operators ask, on both engines
upkeep      what a store holds, whether it is whole, a copy of it
open        an address becomes a ledger, or an operator's access
sqlite/     one file, one daemon: ledger, statements, database, files, schema.sql
postgres/   several daemons: ledger, statements, database, connection, schema.sql
"""
