"""One channel: its name's promises, who is subscribed, and who they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reverb_py.core.figures import AppFigures
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
    `Delivery`. `elsewhere` are the subscribers on other nodes, as far as this one counts them;
    `has_count_to_tell` belongs to the hub, and `figures` are those of its app.
    """

    __slots__ = (
        "elsewhere",
        "figures",
        "has_count_to_tell",
        "kind",
        "members",
        "name",
        "pending",
        "subscribers",
    )

    def __init__(
        self, name: str, members: Members | None = None, figures: AppFigures | None = None
    ) -> None:
        self.name = name
        self.figures = AppFigures() if figures is None else figures
        self.kind: ChannelKind = kind_of(name)
        self.subscribers: dict[Session, str | None] = {}
        if members is None and self.kind.access is Access.PRESENCE:
            members = Members()
        self.members = members
        self.elsewhere = 0
        self.has_count_to_tell = False
        self.pending: list[tuple[int, bytes]] = []

    @property
    def count(self) -> int:
        """How many connections are subscribed, on all nodes."""
        return len(self.subscribers) + self.elsewhere
