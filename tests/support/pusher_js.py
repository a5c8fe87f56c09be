"""The real pusher-js, under Node.js, driven from a test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.programs import Program, node_program

__all__ = ["PusherJs", "pusher_js"]


class PusherJs(Program):
    """
    A client and the lines it says: `[what, …details]`, in the order they happened.

    `socket_id` is for whoever has heard it to remember.
    """

    socket_id = ""


@asynccontextmanager
async def pusher_js(
    key: str, port: int, *, auth: str | None = None, **options: Any
) -> AsyncIterator[PusherJs]:
    """
    Run a pusher-js client that connects to a server on this machine.

    `options` are pusher-js's own; with `auth`, it subscribes with this very value. Fails the test
    where Node.js or the clients are not installed.
    """
    options = {"wsHost": "127.0.0.1", "wsPort": port, **options}
    configuration = {"key": key, "options": options, "auth": auth}
    async with node_program(PusherJs, "pusher_client.mjs", configuration) as client:
        yield client
