"""Devices, and deciding that they will be notified, as part of what they are notified of."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

import msgspec
from sqlalchemy import bindparam, delete, insert, select, update

from chat_api.features.notifications.models import MAX_TOKEN, Device, OwedPush
from chat_api.kernel.clock import Clock, wire_time
from chat_api.kernel.errors import NotFound, Unprocessable
from chat_api.kernel.routes import stated
from chat_api.store.engine import Store, UnitOfWork

__all__ = [
    "MAX_DEVICES",
    "PLATFORMS",
    "DeviceView",
    "Devices",
    "Push",
    "Pushes",
    "new_message_push",
    "new_session_push",
]

PLATFORMS: Final = ("android", "ios", "web")
MAX_DEVICES: Final = 20
"""Of one account; a further one takes the place of the one that was silent for longest."""

_LIFETIME: Final = timedelta(hours=1)  # what nobody could be told by then is no news

_MAX_PREVIEW = 100  # characters, as the apps show them
# Of a notification, Google takes 4096 bytes; characters have up to four.
_MAX_NAME = 100
_MAX_TEXT = 500

_Time = Annotated[str, stated("ISO 8601, in UTC.", format="date-time")]

_TOKEN = re.compile(rf"[!-~]{{1,{MAX_TOKEN}}}")

_COLUMNS = (Device.id, Device.token, Device.platform, Device.created_at, Device.last_seen_at)
_WITH_TOKEN = select(*_COLUMNS, Device.user_id).where(Device.token == bindparam("of_token"))
_OF_USER = (
    select(*_COLUMNS)
    .where(Device.user_id == bindparam("of_user"))
    .order_by(Device.last_seen_at.desc(), Device.id.desc())
)
_ADD = insert(Device).returning(*_COLUMNS)
_SEEN = (
    update(Device)
    .where(Device.id == bindparam("of_id"))
    .values(platform=bindparam("on_platform"), last_seen_at=bindparam("now"))
    .returning(*_COLUMNS)
)
_REMOVE = delete(Device).where(Device.id.in_(bindparam("ids", expanding=True)))
_OF_USERS = select(Device.id).where(Device.user_id.in_(bindparam("user_ids", expanding=True)))
_OWE = insert(OwedPush)


class DeviceView(msgspec.Struct, frozen=True):
    """A device that push notifications go to, as its owner sees it."""

    id: int
    token: Annotated[str, stated("Its last six characters, after an ellipsis.")]
    platform: Annotated[
        str | None, stated("None where the app did not say.", enum=[*PLATFORMS, None])
    ]
    created_at: _Time
    last_seen_at: Annotated[str, stated("When the app last told its token.", format="date-time")]


@dataclass(frozen=True, slots=True)
class Push:
    """A notification: what is shown, and what the app is given (Google takes strings only)."""

    title: str
    body: str
    data: Mapping[str, str]


def new_session_push(
    *,
    session_id: str,
    tenant_domain: str,
    user_account: str,
    user_name: str,
    message_preview: str,
) -> Push:
    """Return what agents are told when somebody starts to wait (guide 002, 7.1)."""
    return Push(
        title="New Live Agent Request",
        body=f"User from {tenant_domain} needs assistance",
        data={
            "type": "new_session",
            "session_id": session_id,
            "tenant_domain": tenant_domain,
            "user_account": user_account[:_MAX_NAME],
            "user_name": user_name[:_MAX_NAME],
            "message_preview": message_preview[:_MAX_PREVIEW],
        },
    )


def new_message_push(
    *, session_id: str, sender_type: str, sender_name: str, message_text: str
) -> Push:
    """
    Return what the other side is told of a message (guide 002, 7.1).

    `sender_type` is `user` or `agent`. A long text is cut: the app fetches it when it is opened.
    """
    sender_name = sender_name[:_MAX_NAME]
    return Push(
        title=f"New message from {sender_name}",
        body=message_text[:_MAX_PREVIEW],
        data={
            "type": "new_message",
            "session_id": session_id,
            "sender_type": sender_type,
            "sender_name": sender_name,
            "message_text": message_text[:_MAX_TEXT],
        },
    )


class Devices:
    """The devices of one store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def register(
        self, unit: UnitOfWork, user_id: int, token: str, platform: str | None = None
    ) -> tuple[DeviceView, bool]:
        """
        Have an account notified on the device with this token; tell whether that is new.

        A token that another account had moves, and what that account was owed there is dropped. An
        account that has `MAX_DEVICES` loses the one it has not heard of for longest. A `platform`
        that is not said leaves what is known.

        Raises:
            Unprocessable: The token or the platform cannot be one.
        """
        if not _TOKEN.fullmatch(token):
            raise Unprocessable(
                f"The device's token must be 1 to {MAX_TOKEN} printable ASCII characters."
            )
        if platform is not None and platform not in PLATFORMS:
            raise Unprocessable(f"platform must be one of {', '.join(PLATFORMS)}.")
        now = self._clock()
        connection = unit.connection
        known = connection.execute(_WITH_TOKEN, {"of_token": token}).one_or_none()
        if known is not None and known.user_id == user_id:
            change = {"of_id": known.id, "on_platform": platform or known.platform, "now": now}
            return _view(*connection.execute(_SEEN, change).one()), False
        if known is not None:
            # With a new id: nothing that was owed to the earlier owner may find the device.
            connection.execute(_REMOVE, {"ids": [known.id]})
        others = connection.execute(_OF_USER, {"of_user": user_id}).all()
        if len(others) >= MAX_DEVICES:
            silent = [device.id for device in others[MAX_DEVICES - 1 :]]
            connection.execute(_REMOVE, {"ids": silent})
        device = {
            "user_id": user_id,
            "token": token,
            "platform": platform,
            "created_at": now,
            "last_seen_at": now,
        }
        return _view(*connection.execute(_ADD, device).one()), True

    async def of(self, user_id: int) -> list[DeviceView]:
        """Return an account's devices, those heard of last first."""
        return [_view(*row) for row in await self._store.all(_OF_USER, {"of_user": user_id})]

    async def forget(self, user_id: int, device_id: int) -> None:
        """
        Notify the device no more, and drop what it is owed.

        Raises:
            NotFound: The account has no such device.
        """
        forgotten = delete(Device).where(Device.id == device_id, Device.user_id == user_id)
        result = await self._store.write(
            lambda unit: unit.connection.execute(forgotten.returning(Device.id)).one_or_none()
        )
        if result is None:
            raise NotFound("There is no such device.")


class Pushes:
    """
    What is owed to devices.

    `wake` is called on the event loop once something is. Without it, where push notifications are
    off, nothing ever is.
    """

    def __init__(self, clock: Clock, wake: Callable[[], None] | None) -> None:
        self._clock = clock
        self._wake = wake

    def owe(self, unit: UnitOfWork, user_ids: Collection[int], push: Push) -> bool:
        """
        Notify all devices of these accounts, once `unit` is committed.

        Returns whether anybody will be: false where push notifications are off, and where none of
        the accounts has a device.
        """
        if self._wake is None or not user_ids:
            return False
        devices = unit.connection.execute(_OF_USERS, {"user_ids": sorted(set(user_ids))}).all()
        if not devices:
            return False
        now = self._clock()
        data = msgspec.json.encode(dict(push.data)).decode()
        unit.connection.execute(
            _OWE,
            [
                {
                    "device_id": device_id,
                    "title": push.title,
                    "body": push.body,
                    "data": data,
                    "attempts": 0,
                    "next_attempt_at": now,
                    "expires_at": now + _LIFETIME,
                }
                for (device_id,) in devices
            ],
        )
        unit.when_committed(self._wake)
        return True


def _view(
    device_id: int, token: str, platform: str | None, created_at: datetime, last_seen_at: datetime
) -> DeviceView:
    # Enough to tell devices apart, and nothing to notify somebody with.
    ending = f"…{token[-6:]}" if len(token) > 12 else "…"
    return DeviceView(device_id, ending, platform, wire_time(created_at), wire_time(last_seen_at))
