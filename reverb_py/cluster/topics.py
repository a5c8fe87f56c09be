"""
One topic of the bus as a node knows it: who waits for it, who is present in it, who is held for.

A topic is a channel, or a user of whom it is watched whether it is online. What Redis says of its
members comes as a snapshot and as changes, each with the version before and after it, so that a
change that was missed is noticed. Nothing here awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from reverb_py.cluster.messages import Change
from reverb_py.core.members import Members
from reverb_py.core.session import full_message

if TYPE_CHECKING:
    from reverb_py.core.hub import Hub
    from reverb_py.core.session import Session

__all__ = ["NOBODY", "USER_PREFIX", "Entry", "Hold", "Surroundings", "Topic", "take"]

USER_PREFIX = "#online."
"""Of the topics that are users, before the user's id; no channel begins so."""

NOBODY = ""
"""For whom a channel without members is held: no user has this id."""

MAX_BUFFERED_CHANGES = 1_000
"""Changes that may wait for a snapshot; more than that, and a later snapshot has them."""


class Surroundings(Protocol):
    """What a topic asks of its node."""

    @property
    def is_away(self) -> bool:
        """Whether Redis is out of reach, so that what is known here has to do."""

    def listen(self, topic: Topic) -> None:
        """Have `Topic.listening` called soon."""

    def idle(self, topic: Topic) -> None:
        """Leave the topic in a while, unless somebody listens to it again."""

    def fetch_last_event(self, topic: Topic) -> None:
        """Have `Topic.last_event_is_known` called soon."""

    def fetch_members(self, topic: Topic) -> None:
        """Have `Topic.snapshot` called soon."""

    def change(self, hold: Hold) -> None:
        """Have Redis told what is wanted of a hold."""

    def change_count(self, topic: Topic) -> None:
        """Have Redis told the number of subscribers here."""

    def redis_may_have_forgotten(self) -> None:
        """Have nobody taken away for a while, as other nodes may have yet to tell it again."""


class Entry:
    """A session that is to be subscribed; `holder` is for whom the channel is held by that."""

    __slots__ = ("holder", "info", "session", "timer", "topic", "user_id")

    def __init__(self, topic: Topic, session: Session, user_id: str | None, info: bytes) -> None:
        self.topic = topic
        self.session = session
        self.user_id = user_id
        self.holder = user_id or NOBODY
        self.info = info
        self.timer: asyncio.TimerHandle | None = None


class Hold:
    """
    What this node wants Redis to know of one user in one channel, and what Redis knows.

    Off presence, a channel is held for `NOBODY`.
    """

    __slots__ = (
        "connections",
        "entries",
        "info",
        "is_admitted",
        "is_held",
        "is_outdated",
        "topic",
        "user_id",
        "version",
    )

    def __init__(self, topic: Topic, user_id: str, info: bytes) -> None:
        self.topic = topic
        self.user_id = user_id
        self.info = info
        self.connections = 0
        self.entries: dict[Session, Entry] = {}
        self.is_admitted = False
        self.is_held = False
        """Whether Redis has been asked to note it, and not yet to forget it."""
        self.is_outdated = False
        """Whether the user has been away since, and brought another info."""
        self.version: int | None = None
        """The members' version with which the user is among them."""


class Topic:
    """
    One channel, or one watched user. `key` is what its keys in Redis begin with, and its topic.

    `listeners` counts the reasons to listen; `members`, where there are any, is the mirror of what
    Redis knows, beside those who came while it could not be told.
    """

    __slots__ = (
        "_app",
        "_behind",
        "_buffer",
        "_insisted_on",
        "_node",
        "_snapshot_version",
        "_unconfirmed",
        "_waiting",
        "app_id",
        "entries",
        "has_last_event",
        "holds",
        "is_asked_for",
        "is_cached",
        "is_listening",
        "key",
        "listeners",
        "members",
        "name",
        "subscribers",
        "version",
    )

    def __init__(
        self,
        node: Surroundings,
        app: Callable[[], Hub],
        app_id: str,
        name: str,
        key: bytes,
        *,
        has_members: bool,
        is_cached: bool,
    ) -> None:
        self._node = node
        self._app = app
        self.app_id = app_id
        self.name = name
        self.key = key
        self.is_cached = is_cached
        self.members = Members() if has_members else None
        self.listeners = 0
        self.is_asked_for = False
        self.is_listening = False
        self.entries: dict[Session, Entry] = {}
        self.holds: dict[str, Hold] = {}
        self.subscribers = 0
        self.version: int | None = None
        self._snapshot_version = 0
        self.has_last_event = not is_cached
        self._buffer: list[Change] | None = []
        self._behind: list[Hold] = []
        self._unconfirmed: set[str] = set()
        """Listed, though Redis has not said so yet."""
        self._insisted_on: set[str] = set()
        """Listed, though Redis has said that they have gone: they are here."""
        self._waiting: list[Callable[[], None]] = []

    # Reasons to listen.

    def add_listener(self) -> None:
        self.listeners += 1
        if not self.is_asked_for:
            self.is_asked_for = True
            self._node.listen(self)

    def remove_listener(self) -> None:
        self.listeners -= 1
        self.look_whether_idle()

    def look_whether_idle(self) -> None:
        """Have the topic left, in a while, where nobody listens."""
        if not self.listeners:
            self._node.idle(self)

    @property
    def is_known(self) -> bool:
        """Whether everything that happens from now on arrives, and what was before is known."""
        return (
            self.is_listening
            and self.has_last_event
            and (self.members is None or self.version is not None)
        )

    def when_known(self, then: Callable[[], None]) -> None:
        """Call `then`, now or later; it may be called more than once."""
        if self.is_known or self._node.is_away:
            then()
        else:
            self._waiting.append(then)

    # Sessions.

    def enter(self, entry: Entry) -> None:
        """Have a session subscribed as soon as it may be."""
        self.add_listener()
        self.entries[entry.session] = entry
        self.hold(entry.holder, entry.info).entries[entry.session] = entry
        if self._node.is_away or self._may_enter(entry):
            self.admit(entry)

    def withdraw(self, entry: Entry) -> None:
        """Forget a session that is to be subscribed."""
        self._forget(entry)
        self.release(entry.holder)
        self.remove_listener()

    def admit(self, entry: Entry) -> None:
        """Subscribe a session; if need be, from what is known here."""
        self._forget(entry)
        hub = self._app()
        channel = hub.channels.get(self.name)
        if channel is None:
            channel = hub.open(self.name, self.members)
        self.holds[entry.holder].is_admitted = True
        if self.members is not None and entry.holder not in self.members:
            self.show(entry.holder, entry.info)
        hub.entered(entry.session, channel, entry.user_id)

    def admit_all(self) -> None:
        """Subscribe everybody who waits, from what is known here, and count them."""
        for entry in list(self.entries.values()):
            self.admit(entry)
        self._tell_waiting()
        self.count_is_not_told()

    def _forget(self, entry: Entry) -> None:
        del self.entries[entry.session]
        if entry.timer is not None:
            entry.timer.cancel()
        if entry.session.entering is not None:
            entry.session.entering.pop(self.name, None)
        self.holds[entry.holder].entries.pop(entry.session, None)

    def _may_enter(self, entry: Entry) -> bool:
        return self.is_known and self._is_behind_us(self.holds[entry.holder].version)

    def _is_behind_us(self, version: int | None) -> bool:
        """Tell whether Redis has noted a hold, and what it told of that has been heard."""
        return version is not None and (self.version is None or version <= self.version)

    def _advance(self) -> None:
        if self.is_known:
            for entry in list(self.entries.values()):
                if self._may_enter(entry):
                    self.admit(entry)
            self._tell_waiting()

    def _tell_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then()

    # Holds: what Redis is to know.

    def hold(self, user_id: str, info: bytes) -> Hold:
        """Note a connection for which this node holds the channel."""
        hold = self.holds.get(user_id)
        if hold is None:
            hold = self.holds[user_id] = Hold(self, user_id, info)
        hold.connections += 1
        if hold.connections == 1:
            if hold.is_held and hold.info != info:
                hold.is_outdated = True
                hold.version = None
            hold.info = info
            self._node.change(hold)
        return hold

    def release(self, user_id: str) -> None:
        """Note that a connection for which the channel was held has gone."""
        hold = self.holds[user_id]
        hold.connections -= 1
        if hold.connections == 0:
            hold.is_admitted = False
            self._node.change(hold)
            if self._node.is_away:
                self.was_not_told(user_id)

    def was_not_told(self, user_id: str) -> None:
        """Nobody else has heard of a user who is gone, and so none will say so."""
        if user_id in self._unconfirmed or user_id in self._insisted_on:
            self._hide(user_id)

    def forget_hold(self, hold: Hold) -> None:
        """A hold is over; that the user has gone was said before where it is not said again."""
        if hold.user_id in self._insisted_on:
            self._hide(hold.user_id)
        del self.holds[hold.user_id]
        self.look_whether_idle()

    def held(self, hold: Hold, version: int) -> None:
        """Redis has noted a hold."""
        if hold.is_outdated:
            return  # It is to be noted anew.
        hold.version = version
        if hold.entries and self.is_known:
            if self._is_behind_us(version):
                for entry in list(hold.entries.values()):
                    self.admit(entry)
            else:
                self._behind.append(hold)

    def refused(self, hold: Hold) -> None:
        """The channel has as many members as it may have."""
        most = self._app().app.max_presence_members
        for entry in list(hold.entries.values()):
            session = entry.session
            self.withdraw(entry)
            session.hub.figures.limit_hits["REVERB_APP_MAX_PRESENCE_MEMBERS"] += 1
            session.subscription_refused(
                self.name, "LimitReached", 403, full_message(self.name, most)
            )

    # What Redis says.

    def lost(self) -> None:
        """Redis is out of reach: what it knew has to be asked for again."""
        self.stop_listening()
        self.is_held_no_more()

    def is_held_no_more(self) -> None:
        """Redis knows of no hold of this node any more."""
        for hold in list(self.holds.values()):
            hold.is_held = hold.is_outdated = False
            hold.version = None
            if hold.connections == 0:
                del self.holds[hold.user_id]

    def stop_listening(self) -> None:
        """What happens from now on is not heard."""
        self.is_asked_for = self.is_listening = False
        self.has_last_event = not self.is_cached
        self.version = None
        self._buffer = []
        self._behind.clear()

    def listening(self) -> None:
        """From now on, everything that is published arrives."""
        self.is_listening = True
        if self.is_cached:
            self._node.fetch_last_event(self)
        if self.members is not None:
            self._node.fetch_members(self)
        self._advance()

    def last_event_is_known(self) -> None:
        """What was said last is in the hub's memory, if anything was."""
        self.has_last_event = True
        self._advance()

    def changed(self, change: Change) -> None:
        """A member has come or gone."""
        if self.version is None:
            if self._buffer is not None:
                self._buffer.append(change)
                if len(self._buffer) > MAX_BUFFERED_CHANGES:
                    self._buffer = None
            return
        if change.version <= self._snapshot_version:
            return
        if change.before != self.version and (change.before or self.members):
            # Something was missed; Redis, asked from now on, knows of this change as well.
            if not change.before:
                self._node.redis_may_have_forgotten()
            self.look_again()
            return
        self.version = change.version
        self._apply(change)
        if self.entries:
            hold = self.holds.get(change.user_id)
            if hold is not None and hold.version is not None:
                self.held(hold, hold.version)
        if self._behind:
            behind, self._behind = self._behind, []
            for hold in behind:
                if hold.version is not None:
                    self.held(hold, hold.version)

    def look_again(self) -> None:
        """Have Redis say who is present; until it has, nobody is subscribed."""
        self.version, self._buffer = None, []
        self._node.fetch_members(self)

    def snapshot(self, version: int, infos: Mapping[str, bytes], *, is_lenient: bool) -> None:
        """
        Take what Redis knows of the members, and tell what is new.

        When Redis itself has forgotten, nodes have yet to tell it of their members: a lenient
        snapshot takes nobody away.
        """
        members = self.members
        assert members is not None
        for user_id in members.user_ids:
            if user_id not in infos:
                hold = self.holds.get(user_id)
                if hold is not None and hold.connections:
                    self._hold_again(hold)
                elif not is_lenient:
                    self._hide(user_id)
        self._unconfirmed.difference_update(infos)
        self._insisted_on.difference_update(infos)
        for user_id, info in infos.items():
            self._is_present(user_id, info)
        buffer = self._buffer
        self._buffer = []
        if buffer is None:
            self._node.fetch_members(self)
            return
        self.version = self._snapshot_version = version
        for change in buffer:
            self.changed(change)
        self._advance()

    def _apply(self, change: Change) -> None:
        members, user_id = self.members, change.user_id
        assert members is not None
        if change.info is not None:
            self._unconfirmed.discard(user_id)
            self._insisted_on.discard(user_id)
            self._is_present(user_id, change.info)
            return
        hold = self.holds.get(user_id)
        if hold is None or not hold.connections:
            if user_id in members:
                self._hide(user_id)
        elif hold.version is None or hold.version < change.version:
            # The user is back, or whoever took this node for dead was wrong.
            self._hold_again(hold)

    def _hold_again(self, hold: Hold) -> None:
        """Have Redis told once more of a user who is here, unless it is being told."""
        if self.members is not None and hold.user_id in self.members:
            self._insisted_on.add(hold.user_id)
        if hold.version is not None:
            hold.is_held = False
            hold.version = None
            self._node.change(hold)

    def _is_present(self, user_id: str, info: bytes) -> None:
        """Have a user listed with what Redis knows: another info is a departure and a return."""
        assert self.members is not None
        if user_id in self.members:
            if self.members.info_of(user_id) == info:
                return
            self._hide(user_id)
        self.show(user_id, info, is_confirmed=True)

    def show(self, user_id: str, info: bytes, *, is_confirmed: bool = False) -> None:
        """List a member, and tell this node's subscribers or watchers."""
        assert self.members is not None
        self.members.add(user_id, info)
        if not is_confirmed:
            self._unconfirmed.add(user_id)
        hub = self._app()
        channel = hub.channels.get(self.name)
        if channel is not None:
            hub.announce_added(channel, user_id, info)
        elif self.name.startswith(USER_PREFIX):
            hub.announce_user(user_id, is_online=True)

    def _hide(self, user_id: str) -> None:
        assert self.members is not None
        self.members.remove(user_id)
        self._unconfirmed.discard(user_id)
        self._insisted_on.discard(user_id)
        hub = self._app()
        channel = hub.channels.get(self.name)
        if channel is not None:
            hub.announce_removed(channel, user_id)
        elif self.name.startswith(USER_PREFIX):
            hub.announce_user(user_id, is_online=False)

    # Counts.

    def tell_count(self) -> None:
        """Have the other nodes know how many are subscribed here."""
        self._node.change_count(self)

    def count_is_not_told(self) -> None:
        """Redis can't be told of the subscribers here: they are counted with what is known."""
        hub = self._app()
        channel = hub.channels.get(self.name)
        if channel is not None and channel.has_count_to_tell:
            hub.count_is_known(channel)

    def counted(self, here: int, elsewhere: int) -> None:
        """Redis knows of so many subscribers on this node, and on others."""
        hub = self._app()
        channel = hub.channels.get(self.name)
        if channel is None:
            return
        is_told_of_us = channel.has_count_to_tell and here == len(channel.subscribers)
        if is_told_of_us or channel.elsewhere != elsewhere:
            channel.elsewhere = elsewhere
            hub.count_is_known(channel)


def take(waiting: dict[Any, None], most: int) -> list[Any]:
    """Take the first of what waits, no more than so many."""
    taken: list[Any] = []
    while waiting and len(taken) < most:
        first = next(iter(waiting))
        del waiting[first]
        taken.append(first)
    return taken
