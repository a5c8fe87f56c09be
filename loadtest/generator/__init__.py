"""The load that bench.py puts on a server, in a process of its own."""
