"""Redis in its three forms, standalone, behind Sentinels and as a Cluster: one set of verbs."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from reverb_py.cluster.scripts import SCRIPTS, keys_of

__all__ = [
    "PATIENCE_SECONDS",
    "Command",
    "RedisAddress",
    "RedisLink",
    "SpoiledKey",
    "Subscription",
    "evaluation",
]

PATIENCE_SECONDS = 1.0
"""Time after which a client is answered from what is known here."""

_ASKED_AT_ONCE = 32
_SPOILED = ("WRONGTYPE", "not an integer", "not a valid", "overflow", "attempt to ")

Command = tuple[Any, ...]


class SpoiledKey(Exception):
    """What lies under a key is not what the nodes have put there; it says what Redis says."""


_DIGESTS = {
    script: hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest() for script in SCRIPTS
}


@dataclass(frozen=True, kw_only=True)
class RedisAddress:
    """
    Where Redis is and how to get in. `timeout` is how long, in seconds, an answer may take.

    With `sentinels` they are asked where `sentinel_master` is, and `host` means nothing. With
    `is_cluster` it is one node of a Redis Cluster, which says where the others are.
    """

    host: str = "127.0.0.1"
    port: int = 6379
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    timeout: float = 2.0
    has_tls: bool = False
    tls_ca_file: str | None = None
    is_cluster: bool = False
    sentinels: tuple[tuple[str, int], ...] = ()
    sentinel_master: str = "mymaster"
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        if self.sentinels:
            return f"{self.sentinel_master} of {_joined(self.sentinels)}"
        return _joined([(self.host, self.port)])


def evaluation(script: str, keys: Sequence[str | bytes], *arguments: object) -> Command:
    """Return the command that runs one of the scripts."""
    return ("EVALSHA", _DIGESTS[script], len(keys), *keys, *arguments)


class RedisLink:
    """
    What a node asks of Redis. Whatever fails raises, and the link is then closed and made anew.

    Nothing is retried here: only who asked knows what may be asked twice. `trouble` says why Redis
    can't be used, or is None: the node says so when it has begun.
    """

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self.trouble: str | None = "Redis has not been reached yet"
        self._client: Any = None
        self._asking = asyncio.Semaphore(_ASKED_AT_ONCE)
        self._sentinel: Any = None
        self.publish_command = "SPUBLISH" if address.is_cluster else "PUBLISH"

    @property
    def is_away(self) -> bool:
        """Whether Redis is out of reach, so that what is known here has to do."""
        return self.trouble is not None

    async def open(self) -> None:
        """
        Connect, and have the scripts there.

        Raises:
            redis.RedisError, OSError, TimeoutError: Redis is not there, or does not let us in.
        """
        address = self._address
        options: dict[str, Any] = {
            "username": address.username,
            "password": address.password,
            "socket_timeout": address.timeout,
            "socket_connect_timeout": address.timeout,
            "protocol": 2,
            # Nobody asks for the name of the library, which a user needs one more right to say.
            "driver_info": None,
        }
        if address.has_tls:
            options |= {"ssl": True, "ssl_ca_certs": address.tls_ca_file}
        if address.is_cluster:
            self._client = RedisCluster(
                address.host,
                address.port,
                retry=Retry(NoBackoff(), 0),
                **options,
            )
        elif address.sentinels:
            sentinel_options = options | {
                "username": address.sentinel_username,
                "password": address.sentinel_password,
                "retry": Retry(NoBackoff(), 0),
            }
            self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
                address.sentinels, sentinel_kwargs=sentinel_options
            )
            self._client = self._sentinel.master_for(
                address.sentinel_master,
                db=address.database,
                retry=Retry(NoBackoff(), 0),
                **options,
            )
        else:
            self._client = Redis(
                host=address.host,
                port=address.port,
                db=address.database,
                retry=Retry(NoBackoff(), 0),
                **options,
            )
        async with asyncio.timeout(3 * address.timeout):
            for script in SCRIPTS:
                await self._client.script_load(script)

    async def ask(self, commands: Iterable[Command]) -> list[Any]:
        """
        Run commands for one of many requests, in turn with them, and return their answers.

        However many requests there are at once, they leave connections for the node itself.

        Raises:
            redis.RedisError, OSError, TimeoutError: Redis failed.
        """
        async with self._asking:
            answers = await self.run(commands)
        for answer in answers:
            if isinstance(answer, SpoiledKey):
                raise RedisError(str(answer))
        return answers

    async def run_own(self, command: Command) -> Any:
        """
        Run a command on one of the nodes' own keys, without which nothing goes.

        Raises:
            redis.RedisError, OSError, TimeoutError: Redis failed, or something else lies there.
        """
        [answer] = await self.run([command])
        if isinstance(answer, SpoiledKey):
            raise RedisError(f"{answer} ({command[0]} of the nodes)")
        return answer

    def about(self, script: str, topic: bytes, node: bytes, *arguments: object) -> Command:
        """Return the command that runs a script about a topic, and what this node holds there."""
        return evaluation(script, keys_of(topic, node), topic, self.publish_command, *arguments)

    async def run(self, commands: Iterable[Command]) -> list[Any]:
        """
        Run commands in one go, those of one key in this order, and return their answers.

        Where a key is not what it should be, the answer is a `SpoiledKey`.

        Raises:
            redis.RedisError, OSError, TimeoutError: Redis failed.
        """
        if self._client is None:
            raise ConnectionError("Redis is away")
        pipeline = (
            self._client.pipeline()
            if self._address.is_cluster
            else self._client.pipeline(transaction=False)
        )
        for command in commands:
            pipeline.execute_command(*command)
        async with asyncio.timeout(self._address.timeout):
            answers = await pipeline.execute(raise_on_error=False)
        return [_checked(answer) for answer in answers]

    async def keep_checking(self, key: bytes) -> None:
        """
        Ask something again and again, so that it is noticed in time when Redis falls silent.

        Raises:
            redis.RedisError, OSError, TimeoutError: Redis failed.
        """
        while True:
            await asyncio.sleep(self._address.timeout / 2)
            await self.run([("EXISTS", key)])

    async def subscription(self, receive: Callable[[bytes, bytes], None]) -> Subscription:
        """Open what listens to topics: `receive` gets each message's topic and text."""
        address = self._address
        if not address.is_cluster:
            pool = self._client.connection_pool
            connection = await pool.get_connection()
            return Subscription({"": connection}, lambda topic: "", "", receive, address.timeout)
        connections: dict[str, Connection] = {}
        for node in self._client.get_primaries():
            connection = node.connection_class(
                **node.connection_kwargs | {"retry": Retry(NoBackoff(), 0)}
            )
            await connection.connect()
            connections[node.name] = connection

        def node_of(topic: bytes) -> str:
            node: ClusterNode = self._client.get_node_from_key(topic)
            return node.name

        return Subscription(connections, node_of, "S", receive, address.timeout)

    async def close(self) -> None:
        """Close every connection, now."""
        client, self._client = self._client, None
        if client is not None:
            if not self._address.is_cluster:
                # Connections that are lent out are closed as well.
                await client.connection_pool.disconnect()
            await client.aclose()
        sentinel, self._sentinel = self._sentinel, None
        if sentinel is not None:
            for one in sentinel.sentinels:
                await one.aclose()


class Subscription:
    """
    The topics that a node listens to: on one connection, or one to each primary of a Cluster.

    `is_complete` is set while Redis has confirmed every topic that was asked for; `confirmed` is
    called with each. `timeout` is how long, in seconds, an answer may take.

    What is asked for one topic reaches Redis in the order of the calls, whatever they wait for.
    """

    def __init__(
        self,
        connections: dict[str, Connection],
        connection_of: Callable[[bytes], str],
        kind: str,
        receive: Callable[[bytes, bytes], None],
        timeout: float,
    ) -> None:
        self._connections = connections
        self._connection_of = connection_of
        self._kind = kind
        self._receive = receive
        self._timeout = timeout
        self._unconfirmed: set[bytes] = set()
        self._leaving: set[bytes] = set()
        self._locks = {name: asyncio.Lock() for name in connections}
        self._waiting: dict[str, list[Command]] = {name: [] for name in connections}
        self._has_spoken = dict.fromkeys(connections, True)
        self.confirmed: Callable[[bytes], None] = lambda topic: None
        self.is_complete = asyncio.Event()
        self.is_complete.set()

    async def listen(self, topics: Iterable[bytes]) -> None:
        """Ask for topics, each of which is not listened to; `confirmed` tells of each."""
        topics = list(topics)
        self._unconfirmed.update(topics)
        if topics:
            self.is_complete.clear()
        await self._send("SUBSCRIBE", topics)

    async def leave(self, topics: Iterable[bytes]) -> None:
        """Listen to these topics no longer."""
        topics = list(topics)
        self._leaving.update(topics)
        await self._send("UNSUBSCRIBE", topics)

    async def keep_checking(self) -> None:
        """
        Have every connection say something, again and again.

        Raises:
            TimeoutError: One has been silent for as long as an answer may take: that is noticed
                within one and a half times this.
        """
        quiet = dict.fromkeys(self._connections, 0)
        while True:
            await asyncio.sleep(self._timeout / 2)
            for name in self._connections:
                # Not by the clock: a node that was held up itself has not listened meanwhile.
                quiet[name] = 0 if self._has_spoken[name] else quiet[name] + 1
                if quiet[name] == 2:
                    raise TimeoutError("Redis does not answer on the connection that listens")
                self._has_spoken[name] = False
                self._waiting[name].append(("PING",))
            await self._flush(self._connections)

    def readers(self) -> list[Coroutine[Any, Any, None]]:
        """Return what hands on the messages of each connection, until it breaks, which raises."""
        return [self._read(name) for name in self._connections]

    async def close(self) -> None:
        """Close the connections."""
        for connection in self._connections.values():
            await connection.disconnect(nowait=True)

    async def _send(self, command: str, topics: list[bytes]) -> None:
        names: dict[str, None] = {}
        for topic in topics:
            name = self._connection_of(topic)
            names[name] = None
            # One by one: topics of several slots can't be named in one command of a Cluster.
            self._waiting[name].append((self._kind + command, topic))
        await self._flush(names)

    async def _flush(self, names: Iterable[str]) -> None:
        """Send what waits for these connections, each in turn."""
        for name in names:
            connection = self._connections[name]
            async with self._locks[name]:
                commands, self._waiting[name] = self._waiting[name], []
                if commands:
                    await connection.send_packed_command(
                        connection.pack_commands(commands), check_health=False
                    )

    async def _read(self, name: str) -> None:
        connection, receive = self._connections[name], self._receive
        kind = self._kind.lower().encode()
        message, confirmation = kind + b"message", kind + b"subscribe"
        end = kind + b"unsubscribe"
        while True:
            answer = await connection.read_response(timeout=math.inf)
            self._has_spoken[name] = True
            if answer == b"PONG":
                continue  # Of a connection without a topic, as one to a Cluster's primary may be.
            if not isinstance(answer, list) or len(answer) < 2:
                raise ConnectionError("Redis says what is no message")
            if answer[0] == message:
                receive(answer[1], answer[2])
            elif answer[0] == confirmation:
                self._unconfirmed.discard(answer[1])
                self.confirmed(answer[1])
                if not self._unconfirmed:
                    self.is_complete.set()
            elif answer[0] == end:
                if answer[1] not in self._leaving:
                    raise ConnectionError("Redis has moved a topic to another of its nodes")
                self._leaving.discard(answer[1])


def _checked(answer: Any) -> Any:
    if isinstance(answer, Exception):
        text = str(answer)
        if isinstance(answer, ResponseError) and any(word in text for word in _SPOILED):
            return SpoiledKey(text)
        raise answer
    return answer


def _joined(addresses: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{host}:{port}" for host, port in addresses)
