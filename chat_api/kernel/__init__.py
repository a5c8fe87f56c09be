"""
Words that every other room shares; imports nothing of ours and touches no socket or file.

A feature describes its HTTP side with `Route` and `Call` and raises the errors below; only the
edges know how those look on the wire.
"""
