"""
What a backend says over the HTTP API, decoded and held against the protocol's limits.

Events published here become frames on the wire, so names are checked against the grammar and sizes
against the app's limit before anything else happens. `InvalidRequest` carries the status the
libraries know (wire rule: 400 for a malformed request, 413 for too much data) and words to act on.
"""

import msgspec

from reverb_py.protocol.channel_names import MAX_NAME_LENGTH, Access, is_channel_name, kind_of
from reverb_py.protocol.socket_ids import is_socket_id

__all__ = [
    "MAX_BATCH_EVENTS",
    "MAX_CHANNELS",
    "MAX_IDEMPOTENCY_KEY_LENGTH",
    "BatchRequest",
    "EventRequest",
    "InvalidRequest",
    "check_idempotency_key",
    "decode_batch",
    "decode_event",
    "parse_info",
]

MAX_CHANNELS = 100
"""Channels one event may go to."""

MAX_BATCH_EVENTS = 10
"""Events one batch may hold."""


MAX_IDEMPOTENCY_KEY_LENGTH = 200
"""Characters of an idempotency key."""


class InvalidRequest(Exception):
    """A request that is refused: an HTTP status and a sentence for the developer who sent it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class EventRequest(msgspec.Struct, gc=False):
    """One event to broadcast; once its decoding succeeded it has `targets`."""

    name: str
    data: str
    channels: list[str] | None = None
    channel: str | None = None
    socket_id: str | None = None
    info: str | None = None
    idempotency_key: str | None = None

    @property
    def targets(self) -> list[str]:
        """Every channel that the event goes to."""
        return self.channels or []


class BatchRequest(msgspec.Struct, gc=False):
    """Several events in one request, each for exactly one channel."""

    batch: list[EventRequest]


_decode_event = msgspec.json.Decoder(EventRequest).decode
_decode_batch = msgspec.json.Decoder(BatchRequest).decode


def decode_event(body: bytes, max_data_bytes: int) -> EventRequest:
    """
    Decode the body of `POST /apps/ID/events`.

    Raises:
        InvalidRequest: The body is no event (400), or its data has more than `max_data_bytes`
            bytes of UTF-8 (413).
    """
    try:
        event = _decode_event(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise InvalidRequest(400, f"The body is not an event: {_explain(exc)}") from None
    if not event.channels and event.channel is not None:
        event.channels = [event.channel]
    _check(event, max_data_bytes)
    return event


def decode_batch(body: bytes, max_data_bytes: int) -> list[EventRequest]:
    """
    Decode the body of `POST /apps/ID/batch_events`; all of its events are good or it is refused.

    Raises:
        InvalidRequest: As for `decode_event`; the message says which event of the batch is meant.
    """
    try:
        events = _decode_batch(body).batch
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as exc:
        raise InvalidRequest(400, f"The body is not a batch of events: {_explain(exc)}") from None
    if len(events) > MAX_BATCH_EVENTS:
        raise InvalidRequest(
            400, f"A batch holds at most {MAX_BATCH_EVENTS} events; this one has {len(events)}"
        )
    for position, event in enumerate(events):
        if event.channel is None:
            raise InvalidRequest(400, f"batch[{position}]: `channel` is missing")
        event.channels = [event.channel]
        try:
            _check(event, max_data_bytes)
        except InvalidRequest as exc:
            raise InvalidRequest(exc.status, f"batch[{position}]: {exc.message}") from None
    return events


def parse_info(info: str | None, allowed: frozenset[str]) -> frozenset[str]:
    """
    Return the attributes that a comma list asks for; between commas there may be nothing.

    Raises:
        InvalidRequest: One of them is not in `allowed` (400).
    """
    if not info:
        return frozenset()
    wanted = frozenset(filter(None, (attribute.strip() for attribute in info.split(","))))
    if unknown := wanted - allowed:
        raise InvalidRequest(
            400,
            f"info={','.join(sorted(unknown))} is not available here; "
            f"ask for {' or '.join(sorted(allowed))}",
        )
    return wanted


def check_idempotency_key(key: str) -> None:
    """
    Check a client's name for one publish.

    Raises:
        InvalidRequest: It is empty or too long (400).
    """
    if not 0 < len(key) <= MAX_IDEMPOTENCY_KEY_LENGTH:
        raise InvalidRequest(
            400, f"An idempotency key has 1 to {MAX_IDEMPOTENCY_KEY_LENGTH} characters"
        )


def _check(event: EventRequest, max_data_bytes: int) -> None:
    if not event.name or len(event.name) > MAX_NAME_LENGTH:
        raise InvalidRequest(400, f"`name` must have 1 to {MAX_NAME_LENGTH} characters")
    if len(event.data) * 4 > max_data_bytes:
        size = len(event.data.encode())
        if size > max_data_bytes:
            raise InvalidRequest(
                413, f"`data` has {size} bytes; an event carries at most {max_data_bytes}"
            )
    channels = event.channels
    if not channels:
        raise InvalidRequest(400, "Name the targets in `channels` (or one in `channel`)")
    if len(channels) > MAX_CHANNELS:
        raise InvalidRequest(
            400,
            f"An event goes to at most {MAX_CHANNELS} channels; this one names {len(channels)}",
        )
    for channel in channels:
        if not is_channel_name(channel):
            raise InvalidRequest(400, f"{channel[:250]!r} is not a channel name")
    if len(channels) > 1 and any(
        kind_of(channel).access is Access.ENCRYPTED for channel in channels
    ):
        raise InvalidRequest(400, "An event for an encrypted channel goes to that channel alone")
    if event.idempotency_key is not None:
        check_idempotency_key(event.idempotency_key)
    if event.socket_id is not None and not is_socket_id(event.socket_id):
        raise InvalidRequest(400, f"{event.socket_id[:50]!r} is not a socket id")


def _explain(exc: Exception) -> str:
    return "it is nested too deeply" if isinstance(exc, RecursionError) else str(exc)
