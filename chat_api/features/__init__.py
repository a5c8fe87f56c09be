"""
The product, one folder per business.

A feature is `models` (its tables), `service` (its rules, given a store and a clock), and `routes`
(HTTP input to service call to JSON); a feature that speaks to listening clients has `events` too.
What it adds to the application it hands over as a `Feature`, so a new one is a new folder and a
line in `chat_api.runtime`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chat_api.kernel.routes import Route
from chat_api.realtime.channel_rules import ChannelRule

__all__ = ["Feature"]


@dataclass(frozen=True, slots=True)
class Feature:
    """
    What one feature contributes: rows of HTTP, rows of who may listen where, and demo data.

    `seed` makes what is missing of the demo data and returns what there is of it.
    """

    routes: tuple[Route[Any], ...]
    channel_rules: tuple[ChannelRule, ...] = ()
    seed: Callable[[], Awaitable[Mapping[str, Any]]] | None = None
