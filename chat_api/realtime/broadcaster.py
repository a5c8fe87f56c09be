"""Deciding that an event will be heard, as part of what it announces."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import msgspec

from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Unprocessable
from chat_api.store.engine import UnitOfWork
from chat_api.store.outbox import Outbox

__all__ = ["MAX_EVENT_BYTES", "Broadcaster", "Event"]

MAX_EVENT_BYTES: Final = 10_000
"""Of an event's data, encoded: what servers of this protocol take by default."""


@dataclass(frozen=True, slots=True)
class Event:
    """
    Something to tell listening clients.

    `data` is anything msgspec encodes as JSON. An event with a `lifetime` is dropped, instead of
    delivered late, when the server cannot be reached for that long. One that `is_whole_state` says
    all there is to say: it takes the place of earlier ones of its name that are still waiting.
    """

    name: str
    data: Any
    lifetime: timedelta | None = None
    is_whole_state: bool = False


class Broadcaster:
    """
    Puts events into the outbox and wakes the relay once they are committed.

    `namespace` (such as `App\\Events`, dots for backslashes allowed) is put before every name, as
    Laravel does and Echo listens for by default; empty for bare names.
    """

    def __init__(
        self, outbox: Outbox, clock: Clock, wake_relay: Callable[[], None], namespace: str = ""
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._wake_relay = wake_relay
        namespace = namespace.replace(".", "\\").strip("\\")
        self.prefix: Final = f"{namespace}\\" if namespace else ""
        """What stands before every name."""

    def publish(
        self,
        unit: UnitOfWork,
        channels: Sequence[str],
        event: Event,
        *,
        except_socket: str | None = None,
    ) -> None:
        """
        Send `event` to all on `channels`, except one connection, once `unit` is committed.

        Events on a channel arrive in the order of their commits.

        Raises:
            Unprocessable: The event is too big for the server to take; as this fails the whole
                unit, nothing is stored that cannot be told.
        """
        if not channels:
            return
        data = msgspec.json.encode(event.data)
        if len(data) > MAX_EVENT_BYTES:
            raise Unprocessable(
                f"This is too long to send: {len(data)} bytes of at most {MAX_EVENT_BYTES}."
            )
        now, name = self._clock(), self.prefix + event.name
        if event.is_whole_state:
            self._outbox.withdraw(unit, channels=channels, name=name)
        self._outbox.add(
            unit,
            channels=channels,
            name=name,
            data=data.decode(),
            socket_id=except_socket,
            created_at=now,
            expires_at=None if event.lifetime is None else now + event.lifetime,
        )
        unit.when_committed(self._wake_relay)
