"""The sockets of a job: who subscribes, who publishes, and the loop that serves them."""

import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from generator.job import STAMP_DIGITS, Job
from generator.wire import WEBSOCKET_ACCEPT, BrokenError, Opcode, masked_frame, send, split_frame

DELIVERY_TIMEOUT = 15.0
"""Seconds that anything the server owes may take before it counts as missing."""

BUFFER = memoryview(bytearray(1 << 18))


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
    `meanings` are what frames were understood to say, where that is not known before.
    """

    def __init__(self, job: Job, *, is_stamped: bool = False) -> None:
        self.job = job
        self.frame: Frame | None = None
        self.subscribers: list[Subscriber] = []
        self.publishers: list[Publisher] = []
        self.idle: list[Publisher] = []
        self.published = 0
        self.received = 0
        self.meanings: dict[bytes, tuple[str, str, Any]] = {}
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

    def hang_up_subscriber(self, connection: socket.socket) -> None:
        """Close the connection of a subscriber."""
        self._subscribers_epoll.unregister(connection)
        del self._handlers[connection.fileno()]
        connection.close()

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

    def hang_up(self) -> None:
        """Close every connection."""
        for subscriber in self.subscribers:
            subscriber.hang_up()
        for publisher in self.publishers:
            publisher.hang_up()

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

    def subscribe(
        self, channel: str, channel_data: str | None = None, *, after: bytes = b""
    ) -> None:
        """
        Ask for the channel, with the signature that private and presence channels need.

        The frames `after` which it is asked for are sent in the same breath.
        """
        self._channel = channel
        self._load.change_handler(self._socket, self._on_message)
        subscription = {"channel": channel}
        job = self._load.job
        if channel.startswith(("private-", "presence-")):
            signed = f"{self.socket_id}:{channel}"
            if channel_data is not None:
                subscription["channel_data"] = channel_data
                signed += f":{channel_data}"
            subscription["auth"] = f"{job.key}:{job.sign(signed)}"
        message = orjson.dumps({"event": "pusher:subscribe", "data": subscription})
        self.send(after + masked_frame(Opcode.TEXT, message))

    def send(self, content: bytes) -> None:
        """Send frames, such as a client event, as they are."""
        send(self._socket, content)

    def hang_up(self) -> None:
        """Close the connection."""
        self._load.hang_up_subscriber(self._socket)

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
            if not self.socket_id:
                self._greet(message)
            elif (
                message["event"] == "pusher_internal:subscription_succeeded"
                and message["channel"] == self._channel
            ):
                self._get_ready()
            else:
                raise BrokenError(f"unexpected while connecting: {payload[:300]!r}")

    def _greet(self, message: dict[str, str]) -> None:
        if message["event"] != "pusher:connection_established":
            raise BrokenError(f"unexpected instead of a greeting: {message}")
        self.socket_id = orjson.loads(message["data"])["socket_id"]
        if self._channel is None:
            self._load.on_ready()
        else:
            self.subscribe(self._channel)

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

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._load.hang_up_publisher(self._socket)
            self._socket = None

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
            self.hang_up()
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
