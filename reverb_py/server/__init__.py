"""
Sockets: one listener for WebSocket clients and for the HTTP API.

A connection is an `asyncio.Protocol` without a task of its own. Every connection starts as HTTP;
one whose request asks for a WebSocket goes on as that.
"""
