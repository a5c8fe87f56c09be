"""What the load is told to do."""

import hashlib
import hmac
import time
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from generator.wire import WEBSOCKET_KEY

STAMP_DIGITS = 20


@dataclass(frozen=True)
class Job:
    """
    What to do, to which server.

    `pids` are the server's processes, whose CPU time and memory are read. `raw` selects the
    protocol of the raw server instead of Pusher's. Every publish has the same `event` and `data`,
    in which `{stamp}` stands for a number of `STAMP_DIGITS` digits. `seconds` is how long to
    publish, and `warm_up` how long to do the same unmeasured before. `rate` is in publishes per
    second. `in_flight` bounds how many connections are being opened at once. With `keep_alive` off,
    every publish is made on a connection of its own.
    """

    kind: str
    port: int
    http_port: int
    pids: Sequence[int]
    app_id: str
    key: str
    secret: str
    channel: str
    event: str
    data: str
    raw: bool = False
    subscribers: int = 1
    publishers: int = 1
    connections: int = 1000
    in_flight: int = 64
    seconds: float = 2.0
    warm_up: float = 0.2
    rate: float = 0.0
    keep_alive: bool = True
    sizes: Sequence[int] = ()
    grows: str = "subscribers"

    def sign(self, text: str) -> str:
        """Return the lowercase hex HMAC-SHA256 of the text under the app's secret."""
        return hmac.digest(self.secret.encode(), text.encode(), "sha256").hex()

    def upgrade_request(self) -> bytes:
        """Return the request that opens a WebSocket connection."""
        return (
            f"GET /app/{self.key}?protocol=7&client=bench&version=1.0 HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {WEBSOCKET_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()

    def publish_request(self, stamp: int) -> bytes:
        """Return one signed publish to the channel, or the raw server's trigger."""
        if self.raw:
            return b"T"
        event = {"name": self.event, "channels": [self.channel], "data": self.stamped(stamp)}
        body = orjson.dumps(event)
        path = f"/apps/{self.app_id}/events"
        query = (
            f"auth_key={self.key}&auth_timestamp={int(time.time())}&auth_version=1.0"
            f"&body_md5={hashlib.md5(body).hexdigest()}"
        )
        signature = self.sign(f"POST\n{path}\n{query}")
        head = (
            f"POST {path}?{query}&auth_signature={signature} HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{self.http_port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def stamped(self, stamp: int) -> str:
        """Return the event data that carries the stamp."""
        return self.data.replace("{stamp}", f"{stamp:0{STAMP_DIGITS}}")
