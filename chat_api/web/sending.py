"""Getting answers to those who asked, and getting rid of those who do not read them."""

import asyncio
from typing import Final

import structlog
from aiohttp import web

from chat_api.kernel.measures import Measure, single

__all__ = ["Sending"]

_log = structlog.get_logger("chat_api.web")

_PATIENCE: Final = 30.0  # seconds that an answer has to be taken: 4 MB need 1 Mbit/s
_MOST_BYTES: Final = 64 * 1024 * 1024


class Sending:
    """
    Sends the answers of one server.

    A client that has not taken its answer after `patience` seconds is cut off. So is, while more
    than `most_bytes` wait for all clients together, the one who has been sent to for the longest.
    """

    def __init__(self, *, patience: float = _PATIENCE, most_bytes: int = _MOST_BYTES) -> None:
        self._patience = patience
        self._most_bytes = most_bytes
        self._unread: dict[asyncio.Transport, int] = {}  # bytes; the longest wait first
        self._unread_bytes = 0
        self._cut_off = 0

    def measures(self) -> tuple[Measure, ...]:
        """Return what tells how many do not read."""
        return (
            single(
                "unread_answer_bytes",
                "Bytes of answers that clients have not taken yet.",
                lambda: self._unread_bytes,
            ),
            single(
                "unread_answers_cut_off_total",
                "Clients that were cut off because they did not take their answers.",
                lambda: self._cut_off,
            ),
        )

    async def send(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Return when the system has the answer, or the client is gone."""
        transport = request.transport
        if transport is None:
            return
        # Nothing may be left waiting in the transport, where nobody would count it.
        transport.set_write_buffer_limits(0)
        body = response.body if isinstance(response, web.Response) else None
        self._unread[transport] = size = len(body) if isinstance(body, bytes) else 0
        self._unread_bytes += size
        self._make_room()
        try:
            async with asyncio.timeout(self._patience):
                await response.prepare(request)
                await response.write_eof()
        except TimeoutError:
            self._end(transport)
        except ConnectionError:
            pass  # the server sees for itself
        finally:
            self._unread_bytes -= self._unread.pop(transport, 0)

    def _make_room(self) -> None:
        while self._unread_bytes > self._most_bytes:
            self._end(next(iter(self._unread)))

    def _end(self, transport: asyncio.Transport) -> None:
        self._cut_off += 1
        self._unread_bytes -= self._unread.pop(transport, 0)
        transport.abort()
        _log.debug("Cut off a client that does not read its answers")
