"""Real hubs and sessions without sockets: what a session writes is recorded, time moves by hand."""

from __future__ import annotations

import random
from collections.abc import Callable

from websockets.frames import Frame
from websockets.protocol import CLIENT, Protocol

from reverb_py.core.apps import App
from reverb_py.core.delivery import Delivery
from reverb_py.core.hub import Hub, Trace
from reverb_py.core.notices import Notices
from reverb_py.core.session import Session
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.protocol import signing
from reverb_py.protocol.errors import ErrorCode
from reverb_py.protocol.socket_ids import RandomSource

__all__ = ["APP", "FakeClock", "RecordingSession", "ScriptedRandom", "Turns", "hub_of", "texts_in"]

APP = App(id="1001", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8")
"""An app with the key and the secret of the protocol's published test vectors."""


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class ScriptedRandom:
    """A source of randomness that says what it was told to say."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = list(numbers)

    def getrandbits(self, k: int, /) -> int:
        return self._numbers.pop(0)


class Turns:
    """Stands in for `loop.call_soon`: what is scheduled waits until `end` is called."""

    def __init__(self) -> None:
        self.scheduled: list[Callable[[], None]] = []

    def __call__(self, callback: Callable[[], None]) -> None:
        self.scheduled.append(callback)

    def end(self) -> None:
        """Run what was scheduled, as the event loop does on its next turn."""
        scheduled, self.scheduled = self.scheduled, []
        for callback in scheduled:
            callback()


class RecordingSession(Session):
    """
    A session that keeps what it was given to write, one entry a write, and how it was closed.

    It is its own client, with an `address`; `on_close` is what happens beyond that when it closes.
    """

    __slots__ = ("address", "closed", "on_close", "writes")

    def __init__(self, hub: Hub) -> None:
        self.writes: list[bytes] = []
        self.closed: list[tuple[ErrorCode, str]] = []
        self.address = "192.0.2.1"
        self.on_close: Callable[[], object] = lambda: None
        super().__init__(hub, self.writes.append, self)

    def close(self, code: ErrorCode, reason: str) -> None:
        self.closed.append((code, reason))
        self.on_close()

    @classmethod
    def begun(cls, hub: Hub, *channels: str) -> RecordingSession:
        """Return a session that was greeted, listens to `channels`, and has nothing written."""
        session = cls(hub)
        session.begin()
        for channel in channels:
            hub.subscribe(session, channel)
        session.writes.clear()
        return session

    def end_when_closed(self) -> None:
        """From now on, leave when closed, as a connection has its session do."""
        self.on_close = self.end

    def texts(self) -> list[str]:
        """Return the messages written so far and forget them."""
        written = b"".join(self.writes)
        self.writes.clear()
        return texts_in(written)

    def auth_for(self, channel: str, channel_data: str | None = None) -> str:
        """Return what the app's auth endpoint answers for this socket and that channel."""
        app = self.hub.app
        return signing.channel_auth(app.key, app.secret, self.socket_id, channel, channel_data)


def hub_of(
    app: App = APP,
    *,
    turns: Turns | None = None,
    clock: Callable[[], float] | None = None,
    source: RandomSource | None = None,
    wheel: TimerWheel | None = None,
    notices: Notices | None = None,
    trace: Trace | None = None,
) -> Hub:
    """Return a hub whose parts are what the test passes in, and otherwise never get in the way."""
    return Hub(
        app,
        Delivery(turns or Turns(), FakeClock()),
        wheel or TimerWheel(0.0),
        clock or FakeClock(),
        source or random.Random(1),
        notices=notices,
        trace=trace,
    )


def texts_in(data: bytes) -> list[str]:
    """Return the text messages in what a client would receive, read by RFC 6455's rules."""
    client = Protocol(CLIENT, max_size=None)
    client.receive_data(data)
    if client.parser_exc is not None:
        raise client.parser_exc
    texts = []
    for frame in client.events_received():
        assert isinstance(frame, Frame)
        assert frame.fin
        assert frame.opcode.name == "TEXT", frame
        texts.append(bytes(frame.data).decode())
    return texts
