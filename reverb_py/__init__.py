"""
reverb_py: a Pusher-protocol-7 WebSocket broadcast server, compatible with Laravel Reverb.

The folders are rings, listed inside out; each may import only what stands above it here.

protocol            what the wire means: names, messages, frames, codes, signatures; no I/O
core                what the server decides: apps, sessions, channels, delivery; synchronous, no I/O
telemetry           what an operator sees: log lines, metrics, and the `--debug` view of messages
environment         the one reader of variables and of `.env`
webhooks            an app's backend is told by signed requests what happens
cluster             several nodes as one server: the bus of `core`, kept with Redis
app_settings        how apps are configured
scaling_settings    how the nodes of a deployment find each other
server              sockets: one listener for WebSocket and the HTTP API
listening_settings  where that listens, with what certificate, and which proxies it believes
settings            all of these together, checked
measures            everything there is to measure, as one table
hang_up             SIGHUP, which waits until the server has started
runtime             builds everything from settings, starts it and stops it
workers             several processes on one port
cli                 the `reverb-py` command
testing             a server on a free port and a client with verbs, for tests here and elsewhere

`[tool.importlinter]` in pyproject.toml is exact about it, and is checked.
"""

__version__ = "0.1.0"
