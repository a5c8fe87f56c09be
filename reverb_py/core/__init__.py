"""
What the server decides: apps, sessions, channels and delivery.

Nothing here awaits, opens a socket or reads a clock of its own. A join, a leave and a broadcast
can therefore not interleave, and no rule needs a lock.
"""
