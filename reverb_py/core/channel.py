"""One channel: its name's promises and who is subscribed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reverb_py.protocol.channel_names import ChannelKind, kind_of

if TYPE_CHECKING:
    from reverb_py.core.session import Session

__all__ = ["Channel"]


class Channel:
    """
    A channel that somebody is subscribed to.

    `subscribers` keeps the order of subscription. `pending` are the frames of the current tick, in
    order, each with its place among all frames of the tick; it belongs to `Delivery`.
    """

    __slots__ = ("kind", "name", "pending", "subscribers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind: ChannelKind = kind_of(name)
        self.subscribers: dict[Session, None] = {}
        self.pending: list[tuple[int, bytes]] = []
