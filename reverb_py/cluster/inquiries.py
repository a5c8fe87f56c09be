"""What nodes ask of each other: what they know, and to close a user's connections."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from reverb_py.cluster.connections import PATIENCE_SECONDS, RedisLink, SpoiledKey, evaluation
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.messages import (
    Answer,
    Ask,
    Terminate,
    Unintelligible,
    decode_answer,
    decode_request,
    encode,
)
from reverb_py.cluster.outgoing import MAX_MESSAGES, Outgoing
from reverb_py.cluster.scripts import SINCE
from reverb_py.core.bus import Census
from reverb_py.core.figures import Histogram

if TYPE_CHECKING:
    from reverb_py.cluster.app_bus import AppBus

__all__ = ["Inquiries", "RequestFigures"]

_UNNOTICED_SECONDS = 60.0

ANSWER_MILLISECONDS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500)
"""Bounds of the buckets in which the time of a request to other nodes is counted."""


class RequestFigures:
    """
    What one app asked of other nodes, and what they asked of this one: totals.

    `resolved` are those that everybody has answered in time, `incomplete` the others.
    """

    __slots__ = ("incomplete", "milliseconds", "received", "resolved", "responses", "sent")

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0
        self.responses = 0
        self.resolved = 0
        self.incomplete = 0
        self.milliseconds = Histogram(ANSWER_MILLISECONDS)


class _Question:
    """
    What was asked of all nodes, and what they have answered so far.

    It is complete when as many have answered as have heard it, or each that lives: a node that is
    frozen hears on while Redis has its connection, and one that has died may live on for its lease.
    """

    __slots__ = ("_expected", "_living", "_nodes", "answers", "figures", "future")

    def __init__(self, figures: RequestFigures) -> None:
        self.figures = figures
        self.answers: list[Census] = []
        self._nodes: set[str] = set()
        self._expected: int | None = None
        self._living: set[str] = set()
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(self, answer: Answer) -> None:
        self.figures.responses += 1
        self.answers.append(Census(answer.channels, answer.connections))
        self._nodes.add(answer.node)
        self._look()

    def expect(self, number: int, living: set[str]) -> None:
        """Wait for so many answers, or for those of these nodes."""
        self._expected, self._living = number, living
        self._look()

    def _look(self) -> None:
        if self._expected is None or self.future.done():
            return
        if len(self.answers) >= self._expected or self._nodes >= self._living:
            self.future.set_result(None)


class Inquiries:
    """Questions to all nodes and their answers, and what others ask of this node."""

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        node_id: str,
        apps: Mapping[str, AppBus],
        outgoing: Outgoing,
    ) -> None:
        self._link = link
        self._keys = keys
        self._node_id = node_id
        self._apps = apps
        self._outgoing = outgoing
        self._numbers = count(1)
        self._questions: dict[int, _Question] = {}
        self._loop = asyncio.get_running_loop()
        self._deaf_since: float | None = self._loop.time()
        self._obeyed: dict[tuple[str, str], None] = {}

    async def ask_all(self, app_id: str, prefix: str, names: Sequence[str] | None) -> list[Census]:
        """
        Return what the other nodes know of the channels that begin so, or of those named.

        It ends within `PATIENCE_SECONDS`; nodes that do not answer in time are left out, and nobody
        waits for those whose lease is over.
        """
        number = next(self._numbers)
        figures = self._apps[app_id].requests
        figures.sent += 1
        begun = self._loop.time()
        question = self._questions[number] = _Question(figures)
        named = None if names is None else list(names)
        message = encode(Ask(self._node_id, app_id, number, prefix, named))
        publishing = (self._link.publish_command, self._keys.control_topic, message)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                looking = evaluation(SINCE, [self._keys.nodes], 0)
                heard, alive = await self._link.ask([publishing, looking])
                living = {name.decode(errors="replace").partition(".")[0] for name in alive}
                question.expect(int(heard) - 1, living - {self._node_id})
                await question.future
            figures.resolved += 1
        except (RedisError, OSError, TimeoutError):
            figures.incomplete += 1  # What is known has to do.
        finally:
            del self._questions[number]
        figures.milliseconds.observe((self._loop.time() - begun) * 1000)
        return question.answers

    def answered(self, message: bytes) -> None:
        """
        Take what was said on this node's own topic.

        Raises:
            Unintelligible: It is no answer.
        """
        answer = decode_answer(message)
        question = self._questions.get(answer.number)
        if question is not None:
            question.answered(answer)

    def forget(self) -> None:
        """Redis is out of reach: what has been answered has to do."""
        for question in self._questions.values():
            question.expect(0, set())
        if self._deaf_since is None:
            # It may have been so for a while before that was noticed.
            self._deaf_since = self._loop.time() - _UNNOTICED_SECONDS

    def terminate(self, app_id: str, user_id: str) -> None:
        """Close a user's connections on other nodes, as soon as Redis is there and they are."""
        number = str(next(self._numbers))
        self._outgoing.order(Terminate(self._node_id, app_id, user_id, number))

    async def obey_missed(self, silence: int, age: int) -> None:
        """
        Do what other nodes have ordered while this one did not hear them. It listens again.

        Redis has heard nothing of the node for `silence` ms, and knows it for `age`: a process that
        was stopped has no better clock.

        Raises:
            redis.RedisError, OSError, TimeoutError: Redis failed.
        """
        if self._deaf_since is not None:
            milliseconds = int((self._loop.time() - self._deaf_since) * 1000)
            if age:
                unnoticed = silence + int(_UNNOTICED_SECONDS * 1000)
                milliseconds = min(age, max(milliseconds, unnoticed))
            [missed] = await self._link.run([evaluation(SINCE, [self._keys.orders], milliseconds)])
            self._deaf_since = None
            for message in () if isinstance(missed, SpoiledKey) else missed:
                try:
                    order = decode_request(message)
                except Unintelligible:
                    continue  # Whatever it is, no node has said it.
                if isinstance(order, Terminate) and order.node != self._node_id:
                    self._terminate_here(order)

    def told(self, message: bytes) -> None:
        """
        Take what was said to all nodes.

        Raises:
            Unintelligible: It is nothing that nodes say.
        """
        request = decode_request(message)
        if request.node == self._node_id:
            return
        app_bus = self._apps.get(request.app_id)
        if isinstance(request, Ask):
            if app_bus is None:
                census = Census({}, 0)
            else:
                census = app_bus.hub.census(request.prefix, request.names)
                app_bus.requests.received += 1
            channels: dict[str, tuple[int, Collection[str]]] = {
                name: (subscribers, list(user_ids))
                for name, (subscribers, user_ids) in census.channels.items()
            }
            answer = Answer(request.number, channels, census.connections, self._node_id)
            self._outgoing.tell(self._keys.topic_of_node(request.node), answer)
        else:
            self._terminate_here(request)

    def _terminate_here(self, order: Terminate) -> None:
        """Close a user's connections; those made since it was first heard stay."""
        name = (order.node, order.number)
        if order.number:
            if name in self._obeyed:
                return
            self._obeyed[name] = None
            if len(self._obeyed) > MAX_MESSAGES:
                del self._obeyed[next(iter(self._obeyed))]
        app_bus = self._apps.get(order.app_id)
        if app_bus is not None:
            app_bus.hub.terminate_here(order.user_id)

    async def recall(self, app_bus: AppBus, name: str) -> None:
        """Have the hub remember a cache channel's last event."""
        key = self._keys.topic(app_bus.app_id, name) + b":last"
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                value, ttl = await self._link.ask([("GET", key), ("PTTL", key)])
        except (RedisError, OSError, TimeoutError):
            return
        app_bus.remember(name, value, ttl)
