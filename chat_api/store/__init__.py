"""
The database, without any feature in it: engine, transactions, the outbox and the schema's history.

Features own their tables (derived from `tables.Base`) and their queries; they get a `Store` to run
them on. SQL that only one database understands stays in this room.
"""
