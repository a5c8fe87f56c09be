"""What nodes ask of each other: what they know, and to close a user's connections."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from reverb_py.cluster.connections import PATIENCE_SECONDS, RedisLink
from reverb_py.cluster.keys import Keys
from reverb_py.cluster.messages import (
    Answer,
    Ask,
    Terminate,
    decode_answer,
    decode_request,
    encode,
)
from reverb_py.cluster.outgoing import Outgoing
from reverb_py.core.bus import Census
from reverb_py.core.figures import Histogram

if TYPE_CHECKING:
    from reverb_py.cluster.app_bus import AppBus

__all__ = ["Inquiries", "RequestFigures"]


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
    """What was asked of all nodes, and what they have answered so far."""

    __slots__ = ("answers", "expected", "figures", "future")

    def __init__(self, figures: RequestFigures) -> None:
        self.figures = figures
        self.answers: list[Census] = []
        self.expected: int | None = None
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def look(self) -> None:
        is_complete = self.expected is not None and len(self.answers) >= self.expected
        if is_complete and not self.future.done():
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

    async def ask_all(self, app_id: str, prefix: str, names: Sequence[str] | None) -> list[Census]:
        """
        Return what the other nodes know of the channels that begin so, or of those named.

        It ends within `PATIENCE_SECONDS`; nodes that do not answer in time are left out.
        """
        number = next(self._numbers)
        figures = self._apps[app_id].requests
        figures.sent += 1
        loop = asyncio.get_running_loop()
        begun = loop.time()
        question = self._questions[number] = _Question(figures)
        named = None if names is None else list(names)
        message = encode(Ask(self._node_id, app_id, number, prefix, named))
        publishing = (self._link.publish_command, self._keys.control_topic, message)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                [heard] = await self._link.ask([publishing])
                question.expected = int(heard) - 1
                question.look()
                await question.future
            figures.resolved += 1
        except (RedisError, OSError, TimeoutError):
            figures.incomplete += 1  # What is known has to do.
        finally:
            del self._questions[number]
        figures.milliseconds.observe((loop.time() - begun) * 1000)
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
            question.figures.responses += 1
            question.answers.append(Census(answer.channels, answer.connections))
            question.look()

    def forget(self) -> None:
        """Redis is out of reach: what has been answered has to do."""
        for question in self._questions.values():
            question.expected = 0
            question.look()

    def terminate(self, app_id: str, user_id: str) -> None:
        """Close a user's connections on other nodes."""
        if not self._link.is_away:
            message = Terminate(self._node_id, app_id, user_id)
            self._outgoing.tell(self._keys.control_topic, message)

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
            answer = Answer(request.number, channels, census.connections)
            self._outgoing.tell(self._keys.topic_of_node(request.node), answer)
        elif app_bus is not None:
            app_bus.hub.terminate_here(request.user_id)

    async def recall(self, app_bus: AppBus, name: str) -> None:
        """Have the hub remember a cache channel's last event."""
        key = self._keys.topic(app_bus.app_id, name) + b":last"
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                value, ttl = await self._link.ask([("GET", key), ("PTTL", key)])
        except (RedisError, OSError, TimeoutError):
            return
        app_bus.remember(name, value, ttl)
