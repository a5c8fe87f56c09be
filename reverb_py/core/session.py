"""One client's conversation: what each of its messages means and how it is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reverb_py.core.apps import ClientEventsFrom
from reverb_py.core.limits import TokenBucket
from reverb_py.protocol import frames, signing
from reverb_py.protocol.channel_names import (
    MAX_NAME_LENGTH,
    Access,
    is_channel_name,
    kind_of,
)
from reverb_py.protocol.errors import ErrorCode
from reverb_py.protocol.messages import (
    ClientMessage,
    MalformedMessage,
    SubscribeData,
    UnsubscribeData,
    decode_data,
    decode_message,
)

if TYPE_CHECKING:
    from reverb_py.core.channel import Channel
    from reverb_py.core.hub import Hub

__all__ = ["Session"]

_CLIENT_EVENT_PREFIX = "client-"
_SIGNED = (Access.PRIVATE, Access.ENCRYPTED)


class Session:
    """
    The server's side of one connection, from its hello to its end.

    `deliver` takes finished frames, must not block or raise, and is an attribute so that a
    connection can swap it when its client falls behind. `close` is asked to end the connection with
    a code and a reason, after the frames delivered so far; the connection then calls `end`.
    """

    __slots__ = (
        "_client_event_limit",
        "_close",
        "_message_limit",
        "channels",
        "deliver",
        "hub",
        "socket_id",
    )

    def __init__(
        self,
        hub: Hub,
        deliver: Callable[[bytes], object],
        close: Callable[[ErrorCode, str], None],
    ) -> None:
        self.hub = hub
        self._close = close
        self._message_limit: TokenBucket | None = None
        self._client_event_limit: TokenBucket | None = None
        self.deliver = deliver
        self.channels: dict[str, Channel] = {}
        self.socket_id = hub.new_socket_id()

    def begin(self) -> None:
        """Take a place among the app's connections and say hello."""
        hub = self.hub
        hub.sessions[self.socket_id] = self
        if hub.trace is not None:
            hub.trace.connection_established(hub.app, self.socket_id)
        self.reply(frames.connection_established(self.socket_id, hub.app.activity_timeout))

    def end(self) -> None:
        """Leave every channel and the app. Safe to call twice."""
        hub = self.hub
        if hub.sessions.pop(self.socket_id, None) is None:
            return
        for name in list(self.channels):
            hub.unsubscribe(self, name)
        if hub.trace is not None:
            hub.trace.connection_closed(hub.app, self.socket_id)

    def reply(self, frame: bytes) -> None:
        """Send a frame to this client alone, in order with everything else it is sent."""
        hub = self.hub
        if hub.trace is not None:
            hub.trace.message_sent(hub.app, self.socket_id, frame)
        hub.delivery.reply(self, frame)

    def refuse(self, code: ErrorCode, message: str) -> None:
        """Tell the client that something was refused; the connection goes on."""
        self.reply(frames.error(code, message))

    def receive(self, text: str) -> None:
        """Act on one message. Whatever the client sent, this does not raise."""
        hub = self.hub
        if hub.trace is not None:
            hub.trace.message_received(hub.app, self.socket_id, text)
        if hub.app.rate_limit is not None and not self._is_within_rate_limit():
            return
        try:
            message = decode_message(text)
            event = message.event
            if event == "pusher:ping":
                self.reply(frames.PONG)
            elif event.startswith(_CLIENT_EVENT_PREFIX):
                self._relay(message)
            elif event == "pusher:subscribe":
                self._subscribe(decode_data(message, SubscribeData))
            elif event == "pusher:unsubscribe":
                hub.unsubscribe(self, decode_data(message, UnsubscribeData).channel)
            elif event != "pusher:pong":
                raise MalformedMessage(
                    f"Unknown event {event[:MAX_NAME_LENGTH]}: clients may send pusher:subscribe, "
                    f"pusher:unsubscribe, pusher:ping and events that begin with client-"
                )
        except MalformedMessage as exc:
            self.refuse(ErrorCode.REQUEST_REFUSED, str(exc))

    def _is_within_rate_limit(self) -> bool:
        limit = self.hub.app.rate_limit
        assert limit is not None
        now = self.hub.clock()
        if self._message_limit is None:
            rate = limit.max_attempts / limit.decay_seconds
            self._message_limit = TokenBucket(rate, limit.max_attempts, now)
        if self._message_limit.take(now):
            return True
        message = f"Rate limit exceeded: {limit.max_attempts} messages in {limit.decay_seconds:g} s"
        self.refuse(ErrorCode.CLIENT_EVENT_REFUSED, message)
        if limit.terminate:
            self._close(ErrorCode.OVER_CAPACITY, message)
        return False

    def _subscribe(self, request: SubscribeData) -> None:
        channel = request.channel
        if not is_channel_name(channel):
            self._refuse_subscription(
                channel[:MAX_NAME_LENGTH],
                "InvalidChannel",
                400,
                f"Invalid channel name: 1 to {MAX_NAME_LENGTH} letters, digits and _ - = @ , . ;",
            )
            return
        access = kind_of(channel).access
        if access in _SIGNED:
            app = self.hub.app
            auth = request.auth or ""
            if not signing.is_channel_auth_valid(
                auth, app.key, app.secret, self.socket_id, channel
            ):
                self._refuse_subscription(
                    channel,
                    "AuthError",
                    401,
                    f"Invalid auth for {channel}: expected APP_KEY:SIGNATURE, where SIGNATURE is "
                    f"the hex HMAC-SHA256 of {self.socket_id}:{channel} under the app's secret",
                )
                return
        elif access is not Access.PUBLIC:
            self._refuse_subscription(
                channel, "AuthError", 403, f"{access.value} channels are not available here"
            )
            return
        # A client that lost track of its subscriptions recovers by asking again: repeat the answer.
        self.reply(frames.subscription_succeeded(channel))
        self.hub.subscribe(self, channel)

    def _refuse_subscription(self, channel: str, kind: str, status: int, message: str) -> None:
        # Channel handlers hear the first frame, connection handlers the second.
        self.reply(frames.subscription_error(channel, kind, message, status))
        self.refuse(ErrorCode.REQUEST_REFUSED, message)

    def _relay(self, message: ClientMessage) -> None:
        if objection := self._objection_to(message):
            self.refuse(ErrorCode.CLIENT_EVENT_REFUSED, f"Client event refused: {objection}")
            return
        channel = self.hub.channels.get(message.channel or "")
        if channel is not None:
            frame = frames.client_event(message.event, channel.name, bytes(message.data))
            self.hub.send(channel, frame, excluded=self)

    def _objection_to(self, message: ClientMessage) -> str | None:
        """Say why this client may not send this event, or return None."""
        app = self.hub.app
        name = message.channel
        if app.client_events_from is ClientEventsFrom.NONE:
            return "this app does not accept client events"
        if name is None:
            return "`channel` is missing"
        if len(message.event) > MAX_NAME_LENGTH:
            return f"its name has more than {MAX_NAME_LENGTH} characters"
        if kind_of(name).access not in (Access.PRIVATE, Access.PRESENCE):
            return "they go to private and presence channels only"
        if app.client_events_from is ClientEventsFrom.MEMBERS and name not in self.channels:
            return f"subscribe to {name[:MAX_NAME_LENGTH]} first"
        if len(message.data) > app.max_event_data_bytes:
            return f"its data has more than {app.max_event_data_bytes} bytes"
        if app.client_events_per_second:
            now = self.hub.clock()
            if self._client_event_limit is None:
                rate = app.client_events_per_second
                self._client_event_limit = TokenBucket(rate, rate, now)
            if not self._client_event_limit.take(now):
                return f"more than {app.client_events_per_second} in a second"
        return None
