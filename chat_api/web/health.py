"""Whether everything the API needs is there, in the shape that actuator probes read."""

import asyncio
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType
from sqlalchemy.exc import SQLAlchemyError

from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Unavailable
from chat_api.kernel.routes import Answer, Audience, Call, Example, NoInput, Route, stated
from chat_api.kernel.sharing import Shared
from chat_api.realtime.relay import Relay
from chat_api.realtime.reverb import ReverbClient
from chat_api.store.engine import Store
from chat_api.store.outbox import Outbox

__all__ = ["health_route"]

_ANSWER_WITHIN = 5.0  # seconds that the database has
_PROBE_EVERY = 2.0  # seconds; however often we are asked, the realtime server is not asked more


class RelayDetails(msgspec.Struct, frozen=True):
    """How far the events that were decided on have come."""

    backlog: Annotated[int, stated("Events that the realtime server does not have yet.")]
    oldest_seconds: Annotated[float, stated("How long the oldest of them has waited.")]
    refused: Annotated[int, stated("Events that the realtime server would not take.")]


class RelayHealth(msgspec.Struct, frozen=True):
    """What brings events to the realtime server."""

    status: Literal["UP", "DOWN", "UNKNOWN"]
    details: RelayDetails | UnsetType = UNSET


class ComponentHealth(msgspec.Struct, frozen=True):
    """Something the API works with."""

    status: Literal["UP", "DOWN"]


class Components(msgspec.Struct, frozen=True):
    """Everything the API works with."""

    database: ComponentHealth
    relay: RelayHealth
    reverb: ComponentHealth


class Health(msgspec.Struct, frozen=True):
    """Whether requests can be served, and what with."""

    status: Literal["UP", "DOWN"]
    components: Components


def health_route(
    store: Store,
    outbox: Outbox,
    relay: Relay,
    reverb: ReverbClient,
    clock: Clock,
    *,
    still_after: float = 120.0,
) -> Route[NoInput]:
    """
    Return `GET /actuator/health`.

    503 and `DOWN` without a database, or when this process's relay has died or is stuck, which only
    a new start mends. Without the realtime server, and while that refuses our app, the API goes on
    accepting and keeping everything, so it stays `UP` (200) and only the component says `DOWN`.
    Likewise where, whoever relays, the oldest event stays the oldest for `still_after` seconds
    although the realtime server is there.
    """
    progress = _Progress(still_after)
    probe = Shared(reverb.is_up, every=_PROBE_EVERY)

    async def health(call: Call[NoInput]) -> Answer:
        """
        `DOWN` and 503 without a database, or when the relay has died or is stuck.

        Without the realtime server, and while that refuses our app, everything is accepted and
        kept: only `reverb` is `DOWN`, and the whole stays `UP`.
        """
        is_reverb_up = await probe.get()
        reverb_health = ComponentHealth("UP" if is_reverb_up else "DOWN")
        try:
            async with asyncio.timeout(_ANSWER_WITHIN):
                await store.check()
                backlog = await outbox.backlog()
        except (Unavailable, SQLAlchemyError, TimeoutError):
            relay_health = RelayHealth("UNKNOWN" if relay.is_working else "DOWN")
            components = Components(ComponentHealth("DOWN"), relay_health, reverb_health)
            return Answer(Health("DOWN", components), 503)
        details = RelayDetails(backlog.owed, round(backlog.waited(clock()), 3), backlog.refused)
        has_moved = progress.has_moved(
            backlog.oldest, is_reverb_up, asyncio.get_running_loop().time()
        )
        relay_health = RelayHealth("UP" if relay.is_working and has_moved else "DOWN", details)
        components = Components(ComponentHealth("UP"), relay_health, reverb_health)
        if not relay.is_working:
            return Answer(Health("DOWN", components), 503)
        return Answer(Health("UP", components))

    return Route(
        "GET",
        "/actuator/health",
        NoInput,
        health,
        Audience.ANYONE,
        summary="Tell whether everything the API needs is there",
        answers={200: Health, 503: Health},
        examples=(Example(),),
    )


class _Progress:
    """Whether the events get on, whoever relays them, by what is seen each time somebody asks."""

    def __init__(self, still_after: float) -> None:
        self._still_after = still_after
        self._oldest: datetime | None = None
        self._since = 0.0

    def has_moved(self, oldest: datetime | None, can_move: bool, now: float) -> bool:
        """Tell whether the oldest event has not been the same for too long; `now` in seconds."""
        if oldest is None or oldest != self._oldest or not can_move:
            self._oldest, self._since = oldest, now
        return oldest is None or now - self._since <= self._still_after
