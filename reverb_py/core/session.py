"""One client's conversation: what each of its messages means and how it is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from reverb_py.core.apps import ClientEventsFrom
from reverb_py.core.limits import TokenBucket
from reverb_py.core.users import SignedInUser
from reverb_py.protocol import frames, signing
from reverb_py.protocol.channel_names import (
    MAX_NAME_LENGTH,
    Access,
    is_channel_name,
    kind_of,
    user_channel,
)
from reverb_py.protocol.errors import ErrorCode
from reverb_py.protocol.messages import (
    ClientMessage,
    MalformedMessage,
    SigninData,
    SubscribeData,
    UnsubscribeData,
    decode_data,
    decode_member,
    decode_message,
    decode_user,
)

if TYPE_CHECKING:
    from reverb_py.core.channel import Channel
    from reverb_py.core.hub import Hub

__all__ = ["Client", "Session", "full_message"]

_CLIENT_EVENT_PREFIX = "client-"

_USUAL_CHANNELS = 1_000
"""Subscriptions a connection may make at once where its number of channels has no limit."""


class _SubscriptionRefused(Exception):
    def __init__(self, kind: str, status: int, message: str) -> None:
        self.kind = kind
        self.status = status
        self.message = message


class Client(Protocol):
    """Who is at the other end, as its connection knows it."""

    @property
    def address(self) -> str:
        """What stands for the client's address where addresses are counted."""

    def close(self, code: ErrorCode, reason: str) -> None:
        """End the connection after the frames delivered so far; it then calls `Session.end`."""


class Session:
    """
    The server's side of one connection, from its hello to its end.

    `deliver` takes finished frames, must not block or raise, and is an attribute so that a
    connection can swap it when its client falls behind. `user` is whom the client has signed in as.
    `entering` are the channels that it is to be subscribed to as soon as the bus has it so; they
    belong to the bus.
    """

    __slots__ = (
        "_authorization_deadline",
        "_buckets",
        "_has_left",
        "channels",
        "client",
        "deliver",
        "entering",
        "hub",
        "socket_id",
        "user",
    )

    def __init__(
        self,
        hub: Hub,
        deliver: Callable[[bytes], object],
        client: Client,
    ) -> None:
        self.hub = hub
        self.deliver = deliver
        self.client = client
        self.user: SignedInUser | None = None
        self.channels: dict[str, Channel] = {}
        self.entering: dict[str, object] | None = None
        self.socket_id = hub.new_socket_id()
        self._has_left = False
        self._authorization_deadline: _AuthorizationDeadline | None = None
        self._buckets: dict[str, TokenBucket] | None = None

    def begin(self) -> None:
        """Take a place among the app's connections and say hello."""
        hub = self.hub
        hub.sessions[self.socket_id] = self
        hub.figures.connections += 1
        if hub.trace is not None:
            hub.trace.connection_established(hub.app, self.socket_id)
        self.reply(frames.connection_established(self.socket_id, hub.app.activity_timeout))
        if hub.app.authorization_seconds:
            self._authorization_deadline = _AuthorizationDeadline(self)
            hub.wheel.schedule(self._authorization_deadline, hub.app.authorization_seconds)

    def end(self) -> None:
        """Leave every channel and the app. Safe to call twice."""
        hub = self.hub
        if hub.sessions.pop(self.socket_id, None) is None:
            return
        self._is_authorized()
        if self.user is not None:
            hub.sign_out(self, self.user)
        for name in [*self.channels, *(self.entering or ())]:
            hub.unsubscribe(self, name)
        if hub.trace is not None:
            hub.trace.connection_closed(hub.app, self.socket_id)

    def close(self, code: ErrorCode, reason: str) -> None:
        """End the connection, and with it the session, after the frames delivered so far."""
        self.client.close(code, reason)

    def reply(self, frame: bytes) -> None:
        """Send a frame to this client alone, in order with everything else it is sent."""
        hub = self.hub
        if hub.trace is not None:
            hub.trace.message_sent(hub.app, self.socket_id, frame)
        hub.delivery.reply(self, frame)

    def refuse(self, code: ErrorCode, message: str) -> None:
        """Tell the client that something was refused; the connection goes on."""
        self.reply(self.hub.error_frame(code, message))

    def receive(self, text: str) -> None:
        """Act on one message. Whatever the client sent, this does not raise."""
        hub = self.hub
        hub.figures.messages_received += 1
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
                self._has_left = True
                hub.unsubscribe(self, decode_data(message, UnsubscribeData).channel)
            elif event == "pusher:signin":
                self._sign_in(decode_data(message, SigninData))
            elif event != "pusher:pong":
                self.refuse(
                    ErrorCode.REQUEST_REFUSED,
                    f"Unknown event {event[:MAX_NAME_LENGTH]}: clients may send pusher:subscribe, "
                    f"pusher:unsubscribe, pusher:signin, pusher:ping and events that begin with "
                    f"client-",
                )
        except MalformedMessage as exc:
            self._refuse_malformed(str(exc))

    # Limits.

    def _hit(self, limit: str) -> None:
        """Count that a limit, by its variable, has had an effect."""
        self.hub.figures.limit_hits[limit] += 1

    def _take(self, what: str, rate: float, capacity: float) -> bool:
        """Take one from a bucket, or return False; a limit that has changed is a new bucket."""
        now = self.hub.clock()
        buckets = self._buckets
        if buckets is None:
            # Most connections never send anything that is counted.
            buckets = self._buckets = {}
        bucket = buckets.get(what)
        if bucket is None or bucket.rate != rate or bucket.capacity != capacity:
            bucket = buckets[what] = TokenBucket(rate, capacity, now)
        return bucket.take(now)

    def _is_within_rate_limit(self) -> bool:
        limit = self.hub.app.rate_limit
        assert limit is not None
        rate = limit.max_attempts / limit.decay_seconds
        if self._take("messages", rate, limit.max_attempts):
            return True
        self._hit("REVERB_APP_RATE_LIMITING_ENABLED")
        message = f"Rate limit exceeded: {limit.max_attempts} messages in {limit.decay_seconds:g} s"
        self.refuse(ErrorCode.CLIENT_EVENT_REFUSED, message)
        if limit.terminate:
            self.close(ErrorCode.OVER_CAPACITY, message)
        return False

    def _refuse_malformed(self, message: str) -> None:
        """Say what is wrong with a message; end with a client that never says anything else."""
        most = self.hub.app.malformed_messages_per_minute
        if most and not self._take("malformed messages", most / 60, most):
            self._hit("REVERB_APP_MALFORMED_MESSAGES_PER_MINUTE")
            self.close(
                ErrorCode.OVER_CAPACITY,
                f"More than {most} malformed messages in a minute, the last one: {message}",
            )
        else:
            self.refuse(ErrorCode.REQUEST_REFUSED, message)

    def _require_few_subscriptions(self) -> None:
        app = self.hub.app
        if rate := app.subscriptions_per_second:
            most = max(rate, app.max_channels_per_connection or _USUAL_CHANNELS)
            if not self._take("subscriptions", rate, most):
                self._hit("REVERB_APP_SUBSCRIPTIONS_PER_SECOND")
                raise _SubscriptionRefused(
                    "LimitReached", 429, f"More than {rate} subscriptions in a second"
                )

    def _require_few_subscriptions_of_address(self) -> None:
        hub = self.hub
        rate = hub.app.subscriptions_per_second_per_address
        if not hub.subscription_rates.take(rate, self.client.address, hub.clock()):
            self._hit("REVERB_APP_SUBSCRIPTIONS_PER_SECOND_PER_ADDRESS")
            raise _SubscriptionRefused(
                "LimitReached",
                429,
                f"More than {rate} subscriptions in a second from one address",
            )

    # Subscriptions.

    def _subscribe(self, request: SubscribeData) -> None:
        try:
            user_id, info = self._admit(request)
        except _SubscriptionRefused as refusal:
            self.subscription_refused(
                request.channel[:MAX_NAME_LENGTH], refusal.kind, refusal.status, refusal.message
            )
        else:
            # A client that lost track of its subscriptions recovers by asking again.
            self.hub.subscribe(self, request.channel, user_id, info)

    def subscription_refused(self, channel: str, kind: str, status: int, message: str) -> None:
        """Say why the client is not subscribed to a channel; the connection goes on."""
        # Channel handlers hear the first frame, connection handlers the second.
        self.reply(frames.subscription_error(channel, kind, message, status))
        self.refuse(ErrorCode.REQUEST_REFUSED, message)

    def _admit(self, request: SubscribeData) -> tuple[str | None, bytes]:
        """
        Return as whom the client may subscribe (None off presence), and that user's info.

        Raises:
            _SubscriptionRefused: It may not.
        """
        app, channel = self.hub.app, request.channel
        is_entering = self.entering is not None and channel in self.entering
        if self._has_left or channel in self.channels or is_entering:
            # Who only ever joins is bounded by the number of its channels.
            self._require_few_subscriptions()
        if not is_channel_name(channel):
            raise _SubscriptionRefused(
                "InvalidChannel",
                400,
                f"Invalid channel name: 1 to {MAX_NAME_LENGTH} letters, digits and _ - = @ , . ;",
            )
        most = app.max_channels_per_connection
        count = len(self.channels) + len(self.entering or ())
        if most and count >= most and channel not in self.channels:
            self._hit("REVERB_APP_MAX_CHANNELS_PER_CONNECTION")
            raise _SubscriptionRefused(
                "LimitReached", 403, f"A connection may subscribe to {most} channels at most"
            )
        if app.subscriptions_per_second_per_address:
            self._require_few_subscriptions_of_address()
        access = kind_of(channel).access
        if access is Access.PUBLIC:
            return None, b"null"
        if access is Access.PRIVATE or access is Access.ENCRYPTED:
            self._require_auth(request, None)
            self._is_authorized()
            return None, b"null"
        if access is Access.PRESENCE:
            user_id, info = self._member(request)
            self._is_authorized()
            return user_id, info
        if self.user is not None and channel == user_channel(self.user.id):
            return None, b"null"
        raise _SubscriptionRefused(
            "AuthError",
            403,
            f"{channel} is not yours: sign in as its user first"
            if access is Access.USER
            else "Channel names that begin with # are reserved",
        )

    def _require_auth(self, request: SubscribeData, channel_data: str | None) -> None:
        app, channel = self.hub.app, request.channel
        if not signing.is_channel_auth_valid(
            request.auth or "", app.key, app.secrets, self.socket_id, channel, channel_data
        ):
            signed = f"{self.socket_id}:{channel}"
            if channel_data is not None:
                signed += ":CHANNEL_DATA"
            raise _SubscriptionRefused(
                "AuthError",
                401,
                f"Invalid auth for {channel}: expected APP_KEY:SIGNATURE, where SIGNATURE is the "
                f"hex HMAC-SHA256 of {signed} under the app's secret",
            )

    def _member(self, request: SubscribeData) -> tuple[str, bytes]:
        """Return who joins a presence channel: what was signed, else who is signed in."""
        if request.channel_data:
            user_id, info = self._signed_member(request, request.channel_data)
        elif self.user is not None:
            self._require_auth(request, None)
            user_id, info = self.user.id, self.user.info
            self._require_size("The user_info of the signin", len(info))
        else:
            raise _SubscriptionRefused(
                "AuthError", 401, "A presence subscription needs channel_data, or a signin"
            )
        channel = self.channels.get(request.channel)
        if channel is not None:
            # It would go on as whom it came, and its client events with it.
            if channel.subscribers[self] != user_id:
                raise _SubscriptionRefused(
                    "InvalidMember", 409, other_member_message(request.channel)
                )
            return user_id, info
        most = self.hub.app.max_presence_members
        channel = self.hub.channels.get(request.channel)
        members = None if channel is None or self.hub.bus.is_shared else channel.members
        if members and most and len(members) >= most and user_id not in members:
            self._hit("REVERB_APP_MAX_PRESENCE_MEMBERS")
            raise _SubscriptionRefused("LimitReached", 403, full_message(request.channel, most))
        return user_id, info

    def _signed_member(self, request: SubscribeData, channel_data: str) -> tuple[str, bytes]:
        self._require_auth(request, channel_data)
        self._require_size("channel_data", len(channel_data.encode()))
        try:
            member = decode_member(channel_data)
        except MalformedMessage as exc:
            raise _SubscriptionRefused("InvalidMember", 400, str(exc)) from None
        return member.id, bytes(member.user_info)

    def _require_size(self, what: str, size: int) -> None:
        most = self.hub.app.max_presence_member_bytes
        if most and size > most:
            self._hit("REVERB_APP_MAX_PRESENCE_MEMBER_SIZE")
            raise _SubscriptionRefused("LimitReached", 413, f"{what} has more than {most} bytes")

    # Users.

    def _sign_in(self, request: SigninData) -> None:
        app = self.hub.app
        if not signing.is_user_auth_valid(
            request.auth, app.key, app.secrets, self.socket_id, request.user_data
        ):
            raise MalformedMessage(
                "Invalid auth for signin: expected APP_KEY:SIGNATURE, where SIGNATURE is the hex "
                f"HMAC-SHA256 of {self.socket_id}::user::USER_DATA under the app's secret"
            )
        data = decode_user(request.user_data)
        if self.user is not None and self.user.id != str(data.id):
            raise MalformedMessage("This connection is signed in as another user")
        self.reply(frames.signin_success(request.user_data))
        if self.user is not None:
            return
        watchlist = dict.fromkeys(str(watched) for watched in data.watchlist or ())
        most = app.max_watchlist or None
        if most is not None and len(watchlist) > most:
            self._hit("REVERB_APP_MAX_WATCHLIST")
            self.refuse(
                ErrorCode.WATCHLIST_TOO_LONG,
                f"The watchlist has more than {most} users; the first {most} are watched",
            )
        watched = tuple(watchlist)[:most]
        self.user = SignedInUser(str(data.id), bytes(data.user_info), watched)
        self._is_authorized()
        self.hub.sign_in(self, self.user)

    def _is_authorized(self) -> None:
        """Note that the client has proved itself, or is gone: it need not hurry any more."""
        if self._authorization_deadline is not None:
            self.hub.wheel.cancel(self._authorization_deadline)
            self._authorization_deadline = None

    # Client events.

    def _relay(self, message: ClientMessage) -> None:
        if objection := self._objection_to(message):
            self.refuse(ErrorCode.CLIENT_EVENT_REFUSED, f"Client event refused: {objection}")
            return
        assert message.channel is not None, "the objection would have been that there is none"
        self.hub.relay(self, message.channel, message.event, bytes(message.data))

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
        if name not in self.channels:
            if app.client_events_from is ClientEventsFrom.MEMBERS:
                return f"subscribe to {name[:MAX_NAME_LENGTH]} first"
            if not is_channel_name(name):
                return f"{name[:MAX_NAME_LENGTH]} is no channel name"
        if 0 < app.max_event_data_bytes < len(message.data):
            self._hit("REVERB_APP_MAX_EVENT_DATA_SIZE")
            return f"its data has more than {app.max_event_data_bytes} bytes"
        rate = app.client_events_per_second
        if rate and not self._take("client events", rate, rate):
            self._hit("REVERB_APP_CLIENT_EVENTS_PER_SECOND")
            return f"more than {rate} in a second"
        if app.client_events_per_second_per_address or app.client_events_per_second_per_app:
            objection = self.hub.client_event_limits.objection(
                app.client_events_per_second_per_address,
                app.client_events_per_second_per_app,
                self.client.address,
                self.hub.clock(),
            )
            if objection is not None:
                self._hit(objection.limit)
                return objection.message
        return None


def other_member_message(channel: str) -> str:
    """Say that a connection may be present as one user only."""
    return f"This connection is in {channel} as another user: unsubscribe first"


def full_message(channel: str, most: int) -> str:
    """Say that a presence channel takes nobody else."""
    return f"{channel} has {most} members already"


class _AuthorizationDeadline:
    """The time a client has to sign in or to join a private or presence channel."""

    __slots__ = ("_session", "timer_due", "timer_slot")

    def __init__(self, session: Session) -> None:
        self._session = session
        self.timer_due = 0
        self.timer_slot = 0

    def on_timer(self) -> None:
        self._session.hub.figures.limit_hits["REVERB_APP_AUTHORIZATION_SECONDS"] += 1
        self._session.close(
            ErrorCode.UNAUTHORIZED, "Sign in or join a private or presence channel in time"
        )
