"""
reverb_py: a Pusher-protocol-7 WebSocket broadcast server, compatible with Laravel Reverb.

The folders are rings, listed inside out; each may import only what stands above it here.

protocol    what the wire means: names, messages, frames, codes, signatures; no I/O
core        what the server decides: apps, sessions, channels, delivery; synchronous, no I/O
telemetry   what an operator sees: log lines and the `--debug` view of every frame
server      sockets: one listener for WebSocket and the HTTP API
settings    the one reader of the environment and of configuration files
runtime     builds everything from settings, starts it and stops it
cli         the `reverb-py` command
testing     a server on a free port and a client with verbs, for tests here and elsewhere
"""

__version__ = "0.1.0"
