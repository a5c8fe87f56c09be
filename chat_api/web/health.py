"""Whether everything the API needs is there, in the shape that actuator probes read."""

import asyncio
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from chat_api.kernel.clock import Clock
from chat_api.kernel.routes import Answer, Audience, Call, NoInput, Route
from chat_api.realtime.reverb import ReverbClient
from chat_api.store.engine import Store
from chat_api.store.outbox import Outbox

__all__ = ["health_route"]

_PROBE_EVERY = 2.0  # seconds; however often we are asked, the realtime server is not asked more


def health_route(
    store: Store, outbox: Outbox, reverb: ReverbClient, clock: Clock
) -> Route[NoInput]:
    """
    Return `GET /actuator/health`.

    503 and `DOWN` without a database. Without the realtime server the API goes on accepting and
    keeping everything, so it stays `UP` (200) and only the component says `DOWN`.
    """
    probe: asyncio.Task[bool] | None = None
    probed_at = 0.0

    async def reverb_is_up() -> bool:
        nonlocal probe, probed_at
        now = asyncio.get_running_loop().time()
        if probe is None or (probe.done() and now - probed_at >= _PROBE_EVERY):
            probed_at = now
            probe = asyncio.create_task(reverb.is_up())
        return await asyncio.shield(probe)

    async def health(call: Call[NoInput]) -> Answer:
        reverb_state = {"status": "UP" if await reverb_is_up() else "DOWN"}
        try:
            await store.check()
            backlog = await outbox.backlog()
        except (SQLAlchemyError, OSError):
            components: dict[str, Any] = {
                "database": {"status": "DOWN"},
                "relay": {"status": "UNKNOWN"},
                "reverb": reverb_state,
            }
            return Answer({"status": "DOWN", "components": components}, 503)
        waited = (clock() - backlog.oldest).total_seconds() if backlog.oldest else 0.0
        components = {
            "database": {"status": "UP"},
            "relay": {
                "status": "UP",
                "details": {
                    "backlog": backlog.owed,
                    "oldest_seconds": round(max(0.0, waited), 3),
                    "refused": backlog.refused,
                },
            },
            "reverb": reverb_state,
        }
        return Answer({"status": "UP", "components": components})

    return Route("GET", "/actuator/health", NoInput, health, audience=Audience.ANYONE)
