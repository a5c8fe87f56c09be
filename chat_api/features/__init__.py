"""
The product, one folder per business.

A feature is `models` (its tables), `service` (its rules, given a store and a clock), and `routes`
(HTTP input to service call to JSON); a feature that speaks to listening clients has `events` too.
What it adds to the application it hands over as a `Feature`, so a new one is a new folder and a
line in `chat_api.runtime`.
"""

from dataclasses import dataclass
from typing import Any

from chat_api.kernel.routes import Route
from chat_api.realtime.channel_rules import ChannelRule

__all__ = ["Feature"]


@dataclass(frozen=True, slots=True)
class Feature:
    """What one feature contributes: rows of HTTP, and rows of who may listen where."""

    routes: tuple[Route[Any], ...]
    channel_rules: tuple[ChannelRule, ...] = ()
