"""
What the wire means: names, messages, frames, codes and signatures of Pusher protocol 7.

Everything here is pure. Bytes and strings go in, values come out; no sockets, no clock, no
randomness of its own. The chat backend shares this ring and nothing else with the server.
"""
