"""Looking up the addresses of endpoints, so that a name nobody answers for delays no other."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

__all__ = ["LookUp", "Resolver"]

LookUp = Callable[..., list[tuple[Any, ...]]]
"""What `socket.getaddrinfo` is."""


class Resolver(AbstractResolver):
    """
    Asks the system, in a thread for each look-up.

    An event loop has a handful of threads for this: that many names whose name server is dead would
    hold up all others, and the end of the process, which waits for those threads. The connector
    asks for one name once at a time and remembers the answer for a while, so there are never more
    threads than names.

    `look_up` has the arguments of `socket.getaddrinfo`; it may block and raise OSError.
    """

    def __init__(self, look_up: LookUp) -> None:
        self._look_up = look_up

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        answer: Future[list[tuple[Any, ...]]] = Future()
        threading.Thread(
            target=self._answer, args=(answer, host, port, family), name="look-up", daemon=True
        ).start()
        return [
            ResolveResult(
                hostname=host,
                host=address[0],
                port=address[1],
                family=found_family,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found_family, _, protocol, _, address in await asyncio.wrap_future(answer)
        ]

    async def close(self) -> None:
        """Do nothing: a thread ends with its look-up, whether or not somebody waits for it."""

    def _answer(self, answer: Future[list[tuple[Any, ...]]], *question: Any) -> None:
        if not answer.set_running_or_notify_cancel():
            return
        host, port, family = question
        try:
            found = self._look_up(
                host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
        except Exception as error:  # whoever waits for the answer gets it
            answer.set_exception(error)
        else:
            answer.set_result(found)
