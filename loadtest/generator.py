"""
The load: one job against one running server, in a process of its own.

Reads a job as JSON from standard input, runs it, and writes one JSON object to standard output:
the figures of the job, or `{"broken": "what the server did wrong"}` with exit status 1.

    {"kind": "fan_out", "port": 8080, "http_port": 8080, "pid": 4711, ...}    see `Job`

One thread, raw sockets and epoll. What is received is checked without being parsed: all frames of a
job are equal, or equal but for a number of fixed width, so that a whole read is compared with what
has to come next on that connection, and counting is arithmetic. A frame that is missing, altered,
duplicated or out of place breaks the job. The clock is CLOCK_MONOTONIC.
"""

import base64
import gc
import hashlib
import hmac
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import orjson

DELIVERY_TIMEOUT = 15.0
"""Seconds that anything the server owes may take before it counts as missing."""

STAMP_DIGITS = 20
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")

BUFFER = memoryview(bytearray(1 << 18))
MASK = os.urandom(4)
WEBSOCKET_KEY = base64.b64encode(os.urandom(16)).decode()
WEBSOCKET_ACCEPT = base64.b64encode(
    hashlib.sha1(f"{WEBSOCKET_KEY}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
)

Result = dict[str, float]


class BrokenError(Exception):
    """The server did something a correct one does not do; the message says what."""


class Opcode(IntEnum):
    """The first byte of a WebSocket frame that is a whole message."""

    TEXT = 0x81
    PING = 0x89
    PONG = 0x8A


@dataclass(frozen=True)
class Job:
    """
    What to do, to which server.

    `pid` is the server's process, whose CPU time and memory are read. `raw` selects the protocol of
    the raw server instead of Pusher's. Every publish has the same `event` and `data`, in which
    `{stamp}` stands for a number of `STAMP_DIGITS` digits. `seconds` is how long to publish, and
    `warm_up` how long to do the same unmeasured before. `rate` is in publishes per second.
    `in_flight` bounds how many connections are being opened at once. With `keep_alive` off, every
    publish is made on a connection of its own.
    """

    kind: str
    port: int
    http_port: int
    pid: int
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


class Frame:
    """
    What one delivery looks like on the wire, learned from the first one.

    All later ones have to be the same bytes, but for the stamp when `is_stamped` is set.
    """

    __slots__ = ("_stamp_at", "content", "is_stamped", "length", "repeated")

    def __init__(self, content: bytes, is_stamped: bool) -> None:
        self.content = content
        self.length = len(content)
        self.repeated = content * (len(BUFFER) // len(content) + 2)
        self.is_stamped = is_stamped
        self._stamp_at = content.find(b"0" * STAMP_DIGITS)

    def matches(self, frame: bytes) -> bool:
        """Tell whether a whole frame is a delivery."""
        if not self.is_stamped:
            return frame == self.content
        start, end = self._stamp_at, self._stamp_at + STAMP_DIGITS
        return frame[:start] == self.content[:start] and frame[end:] == self.content[end:]

    def stamp(self, frame: bytes) -> int:
        """Return the stamp of a frame that matches."""
        return int(frame[self._stamp_at : self._stamp_at + STAMP_DIGITS])


class Load:
    """
    The sockets of one job, the loop that serves them, and what was sent and received so far.

    `received` is in bytes of deliveries. `idle` lists the publishers whose last publish has been
    answered. `on_answer` is called with a publisher that has become idle, `on_stamp` with the stamp
    of each delivery when deliveries are stamped, `on_ready` whenever a subscriber gets ready.
    """

    def __init__(self, job: Job, *, is_stamped: bool = False) -> None:
        self.job = job
        self.frame: Frame | None = None
        self.subscribers: list[Subscriber] = []
        self.publishers: list[Publisher] = []
        self.idle: list[Publisher] = []
        self.published = 0
        self.received = 0
        self.on_answer: Callable[[Publisher], None] = lambda publisher: None
        self.on_stamp: Callable[[int], None] = lambda stamp: None
        self.on_ready: Callable[[], None] = lambda: None
        self._is_stamped = is_stamped
        self._handlers: dict[int, Callable[[], None]] = {}
        self._subscribers_epoll = select.epoll()
        self._publishers_epoll = select.epoll()
        # An epoll is itself readable when one of its sockets is, which ends the wait of the other.
        self._subscribers_epoll.register(self._publishers_epoll, select.EPOLLIN)
        self._handlers[self._publishers_epoll.fileno()] = lambda: None

    def dial_subscriber(self, request: bytes, handler: Callable[[], None]) -> socket.socket:
        """Connect and send the first request; call the handler whenever there is an answer."""
        return self._dial(self._subscribers_epoll, self.job.port, request, handler)

    def dial_publisher(self, request: bytes, handler: Callable[[], None]) -> socket.socket:
        """Do the same for one whose answers are served ahead of what subscribers receive."""
        return self._dial(self._publishers_epoll, self.job.http_port, request, handler)

    def hang_up_publisher(self, connection: socket.socket) -> None:
        """Close the connection of a publisher."""
        self._publishers_epoll.unregister(connection)
        del self._handlers[connection.fileno()]
        connection.close()

    def change_handler(self, connection: socket.socket, handler: Callable[[], None]) -> None:
        """Replace the handler of a connection."""
        self._handlers[connection.fileno()] = handler

    def _dial(
        self, epoll: select.epoll, port: int, request: bytes, handler: Callable[[], None]
    ) -> socket.socket:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(DELIVERY_TIMEOUT)
        try:
            # On loopback the kernel shakes hands before connect() returns: nothing blocks here.
            connection.connect(("127.0.0.1", port))
        except OSError as error:
            raise BrokenError(f"a connection was refused: {error}") from error
        connection.setblocking(False)
        send(connection, request)
        self._handlers[connection.fileno()] = handler
        epoll.register(connection, select.EPOLLIN)
        return connection

    def poll(self, timeout: float) -> None:
        """Serve some of what is readable, waiting up to `timeout` seconds for something to be."""
        handlers = self._handlers
        # Few at a time, so that a server never waits for its next publish behind a long queue.
        for descriptor, _ in self._subscribers_epoll.poll(timeout, 16):
            handlers[descriptor]()
        for descriptor, _ in self._publishers_epoll.poll(0):
            handlers[descriptor]()

    def wait_until(
        self,
        is_done: Callable[[], bool],
        missing: Callable[[], str],
        timeout: float = DELIVERY_TIMEOUT,
    ) -> None:
        """Serve until done; BrokenError with `missing()` when that takes `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not is_done():
            self.poll(0.05)
            if time.monotonic() > deadline:
                raise BrokenError(f"{missing()} after {timeout:.0f} s")

    def make_ready(self, count: int, start: Callable[[int], None]) -> None:
        """
        Call `start(number)` for each number below `count`, and wait until all are ready.

        At most `in_flight` are under way at any time: the next one starts when one gets ready.
        """
        started = ready = 0

        def start_next() -> None:
            nonlocal started
            if started < count:
                started += 1
                start(started - 1)

        def count_ready() -> None:
            nonlocal ready
            ready += 1
            start_next()

        self.on_ready = count_ready
        for _ in range(min(count, self.job.in_flight)):
            start_next()
        self.wait_until(
            lambda: ready == count,
            lambda: f"{count - ready} of {count} connections are not ready",
            DELIVERY_TIMEOUT + count / 200,
        )

    def prepare(self) -> None:
        """Open the job's subscribers and publishers, and let each publisher publish once."""
        job = self.job

        def start(number: int) -> None:
            self.subscribers.append(Subscriber(self, job.channel))

        self.make_ready(job.subscribers, start)
        self.publishers = [Publisher(self) for _ in range(job.publishers)]
        self.on_answer = self.idle.append
        for publisher in self.publishers:
            publisher.send(job.publish_request(0))
        self.wait_for_deliveries()

    def publish_closed_loop(self, next_request: Callable[[], bytes], seconds: float) -> int:
        """
        Let every publisher publish as soon as it is answered, and wait for all deliveries.

        Returns how many publishes were made; BrokenError when deliveries are missing.
        """
        before = self.published
        end = time.monotonic() + seconds

        def publish_again(publisher: Publisher) -> None:
            if time.monotonic() < end:
                publisher.send(next_request())
            else:
                self.idle.append(publisher)

        self.on_answer = publish_again
        self.idle.clear()
        for publisher in self.publishers:
            publisher.send(next_request())
        while time.monotonic() < end:
            self.poll(0.05)
        self.wait_for_deliveries()
        return self.published - before

    def wait_for_deliveries(self) -> None:
        """Wait until every publish is answered and every subscriber has received it."""
        self.wait_until(
            lambda: len(self.idle) == len(self.publishers) and self.undelivered() <= 0,
            lambda: (
                f"{self.undelivered()} of {self.published * len(self.subscribers)} deliveries and "
                f"{len(self.publishers) - len(self.idle)} answers are missing"
            ),
        )

    def undelivered(self) -> int:
        """Return how many deliveries have not arrived, negative if there were too many."""
        expected = self.published * len(self.subscribers)
        return expected - self.received // self.frame.length if self.frame else expected

    def check_exact(self) -> None:
        """BrokenError unless every subscriber has received every publish once, and no more."""
        self.poll(0.02)
        assert self.frame is not None
        expected = self.published * self.frame.length
        wrong = sum(subscriber.received != expected for subscriber in self.subscribers)
        if wrong:
            raise BrokenError(f"{wrong} subscribers received more or less than was published")

    def learn_frame(self, content: bytes, payload: bytes) -> Frame:
        """Take the first delivery as what all others have to be, after checking what it says."""
        job = self.job
        expected = {"event": job.event, "channel": job.channel, "data": job.stamped(0)}
        try:
            message = orjson.loads(payload)
        except orjson.JSONDecodeError:
            message = None
        if message != expected:
            raise BrokenError(f"the first delivery was {payload[:300]!r}, not {expected}")
        self.frame = Frame(content, self._is_stamped)
        return self.frame


class Subscriber:
    """
    One connection that receives: shakes hands, subscribes, then checks and counts deliveries.

    With no channel it is ready once connected, and stays idle until `subscribe` is called.
    `received` is how many bytes of deliveries arrived; what a server may say besides (its pings)
    is answered and not counted, anything else breaks the job.
    """

    __slots__ = (
        "_channel",
        "_load",
        "_offset",
        "_partial",
        "_receive_into",
        "_socket",
        "received",
        "socket_id",
    )

    def __init__(self, load: Load, channel: str | None) -> None:
        self.received = 0
        self.socket_id = ""
        self._load = load
        self._channel = channel
        # What has been read and not understood yet, because its frame is not complete.
        self._partial = b""
        # How much of a delivery, already compared and counted, the last read ended with.
        self._offset = 0
        job = load.job
        if job.raw:
            self._socket = load.dial_subscriber(b"S", self._on_raw_answer)
        else:
            self._socket = load.dial_subscriber(job.upgrade_request(), self._on_upgrade)
        self._receive_into = self._socket.recv_into

    def subscribe(self, channel: str) -> None:
        """Ask for the channel, with the signature that a private one needs."""
        self._channel = channel
        subscription = {"channel": channel}
        if channel.startswith("private-"):
            job = self._load.job
            subscription["auth"] = f"{job.key}:{job.sign(f'{self.socket_id}:{channel}')}"
        message = orjson.dumps({"event": "pusher:subscribe", "data": subscription})
        send(self._socket, masked_frame(Opcode.TEXT, message))

    def _receive(self) -> int:
        """Read into BUFFER; return the number of bytes."""
        try:
            count = self._receive_into(BUFFER)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise BrokenError(f"a connection broke: {error}") from error
        if not count:
            raise BrokenError("the server closed a connection")
        return count

    def _on_raw_answer(self) -> None:
        if bytes(BUFFER[: self._receive()]) != b"S":
            raise BrokenError("the raw server did not accept a subscriber")
        self._get_ready()

    def _on_upgrade(self) -> None:
        self._partial += BUFFER[: self._receive()]
        head, end, rest = self._partial.partition(b"\r\n\r\n")
        if not end:
            return
        if not head.startswith(b"HTTP/1.1 101 ") or WEBSOCKET_ACCEPT not in head:
            raise BrokenError(f"a WebSocket connection was refused: {self._partial[:300]!r}")
        self._partial = rest
        self._load.change_handler(self._socket, self._on_message)
        self._read_messages()

    def _on_message(self) -> None:
        self._partial += BUFFER[: self._receive()]
        self._read_messages()

    def _read_messages(self) -> None:
        """Handle the messages between the upgrade and being ready."""
        for _, payload in self._take_messages():
            message = orjson.loads(payload)
            match message["event"]:
                case "pusher:connection_established" if not self.socket_id:
                    self.socket_id = orjson.loads(message["data"])["socket_id"]
                    if self._channel is None:
                        self._load.on_ready()
                    else:
                        self.subscribe(self._channel)
                case "pusher_internal:subscription_succeeded" if (
                    message["channel"] == self._channel
                ):
                    self._get_ready()
                case _:
                    raise BrokenError(f"unexpected while connecting: {payload[:300]!r}")

    def _get_ready(self) -> None:
        self._load.change_handler(self._socket, self._on_delivery)
        self._load.on_ready()

    def _on_delivery(self) -> None:
        """Read the first delivery, and every one that is stamped, frame by frame."""
        self._partial += BUFFER[: self._receive()]
        self._read_deliveries()

    def _on_equal_delivery(self) -> None:
        """Compare a whole read with the frame repeated from where the last read ended."""
        count = self._receive()
        frame = self._load.frame
        assert frame is not None
        if not self._partial and frame.repeated.startswith(BUFFER[:count], self._offset):
            self._offset = (self._offset + count) % frame.length
            self.received += count
            self._load.received += count
        else:
            self._count(-self._offset)
            self._partial += frame.content[: self._offset] + BUFFER[:count]
            self._offset = 0
            self._read_deliveries()

    def _read_deliveries(self) -> None:
        """Take whole frames one by one, and go on comparing when only deliveries are left."""
        load = self._load
        frame = load.frame
        for content, payload in self._take_messages():
            if frame is None:
                frame = load.learn_frame(content, payload)
            if not frame.matches(content):
                raise BrokenError(f"instead of a delivery came {payload[:300]!r}")
            self._count(frame.length)
            if frame.is_stamped:
                load.on_stamp(frame.stamp(content))
        if frame and not frame.is_stamped and frame.content.startswith(self._partial):
            self._offset = len(self._partial)
            self._count(self._offset)
            self._partial = b""
            load.change_handler(self._socket, self._on_equal_delivery)

    def _count(self, amount: int) -> None:
        self.received += amount
        self._load.received += amount

    def _take_messages(self) -> Iterator[tuple[bytes, bytes]]:
        """
        Yield frame and payload of each complete message, and keep what is left.

        Pings are answered here, whether they are WebSocket's or Pusher's.
        """
        buffer, position = self._partial, 0
        while bounds := split_frame(buffer, position):
            start, end = bounds
            content, payload = buffer[position:end], buffer[start:end]
            self._partial = buffer[end:]
            position = end
            match content[0]:
                case Opcode.PING:
                    send(self._socket, masked_frame(Opcode.PONG, payload))
                case Opcode.TEXT if b'"pusher:ping"' in payload:
                    pong = b'{"event":"pusher:pong","data":{}}'
                    send(self._socket, masked_frame(Opcode.TEXT, pong))
                case Opcode.TEXT:
                    yield content, payload
                case _:
                    raise BrokenError(f"the server closed a connection: {content[:300]!r}")


class Publisher:
    """One client that publishes, a request at a time, and checks every answer."""

    __slots__ = ("_load", "_received", "_socket")

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self._socket: socket.socket | None = None

    def send(self, request: bytes) -> None:
        """Send the next request; the one before has been answered."""
        self._load.published += 1
        if self._socket is None:
            self._socket = self._load.dial_publisher(request, self._on_answer)
        else:
            send(self._socket, request)

    def _on_answer(self) -> None:
        assert self._socket is not None
        try:
            received = self._socket.recv(4096)
        except BlockingIOError:
            return
        except OSError as error:
            raise BrokenError(f"a publish broke: {error}") from error
        if not received:
            raise BrokenError(f"the server closed a publisher after {self._received[:300]!r}")
        self._received += received
        if not self._is_complete(self._received):
            return
        self._received = b""
        if not self._load.job.keep_alive:
            self._load.hang_up_publisher(self._socket)
            self._socket = None
        self._load.on_answer(self)

    def _is_complete(self, answer: bytes) -> bool:
        if self._load.job.raw:
            return answer == b"T"
        head, end, body = answer.partition(b"\r\n\r\n")
        if not end:
            return False
        if not head.startswith(b"HTTP/1.1 200 "):
            raise BrokenError(f"a publish was refused: {answer[:300]!r}")
        _, found, value = head.lower().partition(b"content-length:")
        if not found:
            raise BrokenError(f"a publish was answered without a length: {answer[:300]!r}")
        return len(body) >= int(value.partition(b"\r\n")[0])


class Stopwatch:
    """What a measurement takes, on the clock and of the CPU, from the creation of this object."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._read()

    def _read(self) -> tuple[float, ...]:
        user, system = processor_seconds(self._pid)
        waited = max(waiting_seconds(self._pid), waiting_seconds(os.getpid()))
        return time.monotonic(), time.process_time(), user, system, waited

    def stop(self, events: int, per_second: str) -> Result:
        """
        Return the figures of `events` that were measured until now.

        Their rate under the name `per_second`, the server's CPU time for each, how busy server and
        load were, and how long either waited because something else had its core (1 = one core).
        """
        elapsed, load, user, system, waited = (
            after - before for before, after in zip(self._before, self._read(), strict=True)
        )
        return {
            per_second: events / elapsed,
            "user_microseconds": user / events * 1e6,
            "processor_microseconds": (user + system) / events * 1e6,
            "server_busy": (user + system) / elapsed,
            "load_busy": load / elapsed,
            "disturbed": waited / elapsed,
        }


def fan_out(job: Job) -> Result:
    """Publish in a closed loop to many subscribers; count deliveries per second."""
    load = Load(job)
    load.prepare()
    request = job.publish_request(0)
    load.publish_closed_loop(lambda: request, job.warm_up)
    stopwatch = Stopwatch(job.pid)
    published = load.publish_closed_loop(lambda: request, job.seconds)
    deliveries = published * job.subscribers
    figures = stopwatch.stop(deliveries, "deliveries_per_second")
    load.check_exact()
    return {"published": published, "deliveries": deliveries, **figures}


def paced(job: Job) -> Result:
    """
    Publish at a fixed rate; measure from when a publish was due to each subscriber's receipt.

    Publishes are not spaced by their answers, so a server that falls behind is not asked less.
    """
    load = Load(job, is_stamped=True)
    load.prepare()
    latencies: list[int] = []
    load.on_stamp = lambda stamp: latencies.append(time.monotonic_ns() - stamp)
    interval = int(1e9 / job.rate)
    count = max(1, round(job.seconds * job.rate))
    stopwatch = Stopwatch(job.pid)
    start = time.monotonic_ns()
    for number in range(1, count + 1):
        due = start + number * interval
        # epoll counts whole milliseconds: the last one is waited for without sleeping.
        while (left := due - time.monotonic_ns()) > 0:
            load.poll(left // 1_000_000 / 1000)
        load.wait_until(lambda: bool(load.idle), lambda: "no publish was answered")
        load.idle.pop(0).send(job.publish_request(due))
    load.wait_for_deliveries()
    figures = stopwatch.stop(len(latencies), "deliveries_per_second")
    load.check_exact()
    latencies.sort()
    return {
        "published": count,
        "deliveries": len(latencies),
        "p50_milliseconds": latencies[len(latencies) // 2] / 1e6,
        "p99_milliseconds": latencies[len(latencies) * 99 // 100] / 1e6,
        "max_milliseconds": latencies[-1] / 1e6,
        **figures,
    }


def publishes(job: Job) -> Result:
    """Publish in a closed loop to few subscribers; count publishes per second."""
    load = Load(job, is_stamped=True)
    load.prepare()
    # Signed before the run, each with its own stamp: signing is not part of what is measured.
    requests = [job.publish_request(stamp) for stamp in range(1, 2049)]
    sent: list[int] = []
    delivered: list[int] = []
    load.on_stamp = delivered.append

    def next_request() -> bytes:
        index = len(sent) % len(requests)
        sent.append(index + 1)
        return requests[index]

    load.publish_closed_loop(next_request, job.warm_up)
    stopwatch = Stopwatch(job.pid)
    published = load.publish_closed_loop(next_request, job.seconds)
    figures = stopwatch.stop(published, "publishes_per_second")
    load.check_exact()
    if sorted(delivered) != sorted(sent * job.subscribers):
        raise BrokenError("what was delivered is not what was published")
    return {"published": published, "deliveries": published * job.subscribers, **figures}


def connects(job: Job) -> Result:
    """Open connections that each subscribe to a signed private channel of their own."""
    load = Load(job)

    def start(number: int) -> None:
        Subscriber(load, f"private-{job.channel}-{number}")

    load.make_ready(min(50, job.connections), start)
    stopwatch = Stopwatch(job.pid)
    load.make_ready(job.connections, start)
    figures = stopwatch.stop(job.connections, "connections_per_second")
    return {"connections": job.connections, **figures}


def memory(job: Job) -> Result:
    """Hold connections that do nothing; measure the server's memory for each of them."""
    load = Load(job)

    def start(number: int) -> None:
        load.subscribers.append(Subscriber(load, None))

    def subscribe(number: int) -> None:
        load.subscribers[number].subscribe(f"private-{job.channel}-{number}")

    # What the first connections make the server load once is not theirs alone.
    warm_up = min(50, job.connections)
    load.make_ready(warm_up, start)
    load.make_ready(warm_up, subscribe)
    load.subscribers.clear()
    before = settled_memory(load)
    load.make_ready(job.connections, start)
    idle = settled_memory(load)
    load.make_ready(job.connections, subscribe)
    subscribed = settled_memory(load)
    return {
        "connections": job.connections,
        "idle_kibibytes": (idle - before) / job.connections,
        "subscribed_kibibytes": (subscribed - before) / job.connections,
        "server_mebibytes": before / 1024,
    }


JOBS: dict[str, Callable[[Job], Result]] = {
    job.__name__: job for job in (fan_out, paced, publishes, connects, memory)
}


def settled_memory(load: Load) -> float:
    """Return the server's memory in KiB once it has stopped changing."""
    last = memory_kibibytes(load.job.pid)
    for _ in range(40):
        settled = time.monotonic() + 0.15
        while time.monotonic() < settled:
            load.poll(0.05)
        now = memory_kibibytes(load.job.pid)
        if now == last:
            break
        last = now
    return last


def memory_kibibytes(pid: int) -> float:
    """Return the memory of a process in KiB: its proportional set, or else its resident set."""
    for file, field in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        try:
            lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(field):
                return float(line.split()[1])
    raise BrokenError("the server has ended")


def processor_seconds(pid: int) -> tuple[float, float]:
    """Return the user and the system CPU time of a process, in seconds."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        raise BrokenError("the server has ended") from None
    return int(fields[11]) / TICKS_PER_SECOND, int(fields[12]) / TICKS_PER_SECOND


def waiting_seconds(pid: int) -> float:
    """Return how long a process was ready to run while its core was taken, 0 if unknown."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def send(connection: socket.socket, content: bytes) -> None:
    """Send all at once: nothing the load sends is larger than an empty socket buffer."""
    try:
        sent = connection.send(content)
    except OSError as error:
        raise BrokenError(f"a connection broke: {error}") from error
    if sent != len(content):
        raise BrokenError("the server does not read what it is sent")


def split_frame(buffer: bytes, position: int) -> tuple[int, int] | None:
    """Return start and end of the payload of the frame at `position`; None if not complete yet."""
    if len(buffer) < position + 2:
        return None
    length, start = buffer[position + 1], position + 2
    if length == 126:
        if len(buffer) < start + 2:
            return None
        (length,), start = struct.unpack_from(">H", buffer, start), start + 2
    elif length == 127:
        if len(buffer) < start + 8:
            return None
        (length,), start = struct.unpack_from(">Q", buffer, start), start + 8
    elif length > 127:
        raise BrokenError("the server masks its frames, or what it sends is no frame")
    if len(buffer) < start + length:
        return None
    return start, start + length


def masked_frame(opcode: Opcode, payload: bytes) -> bytes:
    """Return a client's frame of less than 64 KiB."""
    length = len(payload)
    if length < 126:
        head = struct.pack(">BB", opcode, 0x80 | length)
    else:
        head = struct.pack(">BBH", opcode, 0x80 | 126, length)
    mask = int.from_bytes((MASK * (length // 4 + 1))[:length])
    return head + MASK + (int.from_bytes(payload) ^ mask).to_bytes(length)


def main() -> int:
    """Run the job of standard input; return the exit status."""
    if len(sys.argv) > 1 or sys.stdin.isatty():
        sys.exit("bench.py starts this and hands it a job; see `python loadtest/bench.py --help`")
    job = Job(**orjson.loads(sys.stdin.buffer.read()))
    # A collection would walk thousands of connections that never become garbage.
    gc.disable()
    try:
        result: dict[str, object] = {**JOBS[job.kind](job)}
    except BrokenError as error:
        result = {"broken": str(error)}
    sys.stdout.buffer.write(orjson.dumps(result))
    return "broken" in result


if __name__ == "__main__":
    sys.exit(main())
