"""Who is in one presence channel."""

from collections.abc import Collection

import orjson

__all__ = ["Members"]


class _Member:
    __slots__ = ("connections", "info")

    def __init__(self, info: bytes) -> None:
        self.connections = 0
        self.info = info


class Members:
    """
    The users of one channel, in the order in which they came.

    A user counts once, however many connections there are; `user_info` is what the first of them
    brought, until the last has left.
    """

    __slots__ = ("_members",)

    def __init__(self) -> None:
        self._members: dict[str, _Member] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, user_id: str) -> bool:
        return user_id in self._members

    @property
    def ids(self) -> Collection[str]:
        """The ids of all users; what is returned changes with them."""
        return self._members.keys()

    @property
    def user_ids(self) -> list[str]:
        """The ids of all users."""
        return list(self._members)

    def info_of(self, user_id: str) -> bytes:
        """Return what the others learn of a user who is present, as JSON."""
        return self._members[user_id].info

    def join(self, user_id: str, info: bytes) -> bool:
        """Count a connection of a user, with `info` as JSON; tell whether it is the first."""
        member = self._members.get(user_id)
        if member is None:
            member = self._members[user_id] = _Member(info)
        member.connections += 1
        return member.connections == 1

    def leave(self, user_id: str) -> bool:
        """Take a connection of a user away; tell whether it was the last."""
        member = self._members[user_id]
        member.connections -= 1
        if member.connections:
            return False
        del self._members[user_id]
        return True

    def add(self, user_id: str, info: bytes) -> None:
        """List a user whose connections are counted elsewhere."""
        self._members[user_id] = _Member(info)

    def remove(self, user_id: str) -> None:
        """List a user no longer, however many connections there are."""
        del self._members[user_id]

    def snapshot(self) -> str:
        """Return the data of a presence channel's `subscription_succeeded`."""
        ids = [orjson.dumps(user_id) for user_id in self._members]
        infos = [member.info for member in self._members.values()]
        entries = [b"%b:%b" % entry for entry in zip(ids, infos, strict=True)]
        return (
            b'{"presence":{"count":%d,"ids":[%b],"hash":{%b}}}'
            % (len(ids), b",".join(ids), b",".join(entries))
        ).decode()
