"""Members of a presence channel: each keeps the list that a client library would keep."""

from typing import Any

import orjson

from generator.load import Load, Subscriber
from generator.wire import BrokenError, Opcode, masked_frame


class Member(Subscriber):
    """
    One connection that joins a presence channel when told, under a user id of its own.

    `present` are the ids of all members, itself included, as this connection was told of them;
    `heard` counts the announcements, and `received` the bytes of everything that its joins and
    those of others sent it. An announcement that does not change the list breaks the job.
    """

    __slots__ = ("_user_id", "heard", "is_in", "present")

    def __init__(self, load: Load, user_id: str) -> None:
        super().__init__(load, None)
        self.heard = 0
        self.is_in = False
        self.present: set[str] = set()
        self._user_id = user_id

    def join(self, channel: str, *, again: bool = False) -> None:
        """Join, which `Load.on_ready` is called for; `again` leaves first, in the same breath."""
        leave = b""
        if again:
            message = {"event": "pusher:unsubscribe", "data": {"channel": channel}}
            leave = masked_frame(Opcode.TEXT, orjson.dumps(message))
        self.is_in = False
        user = {"user_id": self._user_id, "user_info": {"name": f"Member {self._user_id}"}}
        self.subscribe(channel, orjson.dumps(user).decode(), after=leave)

    def _read_messages(self) -> None:
        for content, payload in self._take_messages():
            if not self.socket_id:
                self._greet(orjson.loads(payload))
                continue
            self._count(len(content))
            # Equal frames reach many members: each is understood once.
            meaning = self._load.meanings.get(payload)
            if meaning is None:
                meaning = self._load.meanings[payload] = _meaning(payload)
            self._take(*meaning)

    def _take(self, event: str, channel: str, data: Any) -> None:
        present, is_changed = self.present, channel == self._channel
        match event:
            case "pusher_internal:member_added" if self.is_in:
                is_changed &= data["user_id"] not in present
                present.add(data["user_id"])
                self.heard += 1
            case "pusher_internal:member_removed" if self.is_in:
                is_changed &= data["user_id"] in present
                present.discard(data["user_id"])
                self.heard += 1
            case "pusher_internal:subscription_succeeded" if not self.is_in:
                self.present = set(data["presence"]["ids"])
                is_changed &= self._user_id in self.present
                is_changed &= len(self.present) == data["presence"]["count"]
                self.is_in = True
                self._load.on_ready()
            case _:
                is_changed = False
        if not is_changed:
            raise BrokenError(f"unexpected in {self._channel}: {event} {str(data)[:200]}")


def _meaning(payload: bytes) -> tuple[str, str, Any]:
    message = orjson.loads(payload)
    return message["event"], message.get("channel", ""), orjson.loads(message.get("data", "null"))
