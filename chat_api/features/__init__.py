"""
The product, one folder per business.

Each may build on those above it here, never the other way round:

* `auth`: accounts, tokens, and leave to listen.
* `tenants`: the customers of the product, each known by its domain.
* `chats`: direct chats of two people.
* `wallet`: money in whole minor units, kept by double entry.
* `notifications`: push notifications over Firebase Cloud Messaging.
* `support`: customers who wait for help, and the agents who take them.

A feature has its tables in `models`, its rules in `service` (given a store and a clock), what it
looks like on the wire in `views`, and HTTP in `routes`; one that speaks to listening clients has
`events` too. Where that grows, it is split by what it is about: `wallet` keeps its books in
`ledger`, `support` has `rules` that only decide and a `feature` that puts its parts together. What
a feature adds to the application it hands over as a `Feature`, so a new one is a new folder and a
few lines in `chat_api.runtime`; `tenants` has no routes and serves the others.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chat_api.kernel.measures import Measure
from chat_api.kernel.routes import Route
from chat_api.realtime.channel_rules import ChannelRule

__all__ = ["DocumentedEvent", "Feature"]


@dataclass(frozen=True, slots=True)
class DocumentedEvent:
    """
    An event that listening clients may hear: its name, on which channels, and when.

    `channels` are patterns as in `ChannelRule`; `payload` is the type of its data, and anything
    msgspec makes a schema of.
    """

    name: str
    channels: tuple[str, ...]
    payload: Any
    summary: str


@dataclass(frozen=True, slots=True)
class Feature:
    """
    What one feature contributes: rows of HTTP, rows of who may listen where, demo data, measures.

    `seed` makes what is missing of the demo data and returns what there is of it; so does
    `populate`, for what is made only when somebody asks for it. The rest is for the documentation:
    a `name` of one lower-case word, what the feature is about in a sentence or a few, and what its
    clients can hear.
    """

    routes: tuple[Route[Any], ...]
    channel_rules: tuple[ChannelRule, ...] = ()
    seed: Callable[[], Awaitable[Mapping[str, Any]]] | None = None
    populate: Callable[[], Awaitable[Mapping[str, Any]]] | None = None
    measures: tuple[Measure, ...] = ()
    name: str = ""
    description: str = ""
    events: tuple[DocumentedEvent, ...] = ()
