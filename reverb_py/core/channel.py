"""One channel: its name's promises, who is subscribed, and who they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reverb_py.core.members import Members
from reverb_py.protocol.channel_names import Access, ChannelKind, kind_of

if TYPE_CHECKING:
    from reverb_py.core.session import Session

__all__ = ["Channel"]


class Channel:
    """
    A channel that somebody is subscribed to.

    `subscribers` keeps the order of subscription and, on a presence channel, each one's user id;
    `members` counts those users, and is None on other channels. `pending` are the frames of the
    current tick, in order, each with its place among all frames of the tick; it belongs to
    `Delivery`.
    """

    __slots__ = ("kind", "members", "name", "pending", "subscribers")

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind: ChannelKind = kind_of(name)
        self.subscribers: dict[Session, str | None] = {}
        self.members = Members() if self.kind.access is Access.PRESENCE else None
        self.pending: list[tuple[int, bytes]] = []
