"""Nodes of one deployment, in the event loop of the test, on a real Redis."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from tests.reverb_py.cluster.nodes import Deployment
from tests.support.redis import RedisServer, redis_server


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """A server that stays up, for tests that keep to a prefix of their own."""
    with redis_server() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A server that the test may stop and freeze."""
    with redis_server() as server:
        yield server


@pytest_asyncio.fixture
async def deployment(shared_redis: RedisServer) -> AsyncIterator[Deployment]:
    """A deployment without any node so far."""
    async with AsyncExitStack() as stack:
        yield Deployment(shared_redis, f"test.{secrets.token_hex(4)}:", stack)


@pytest_asyncio.fixture
async def fragile(own_redis: RedisServer) -> AsyncIterator[Deployment]:
    """A deployment whose Redis the test may stop and freeze."""
    async with AsyncExitStack() as stack:
        yield Deployment(own_redis, "test:", stack)


@pytest.fixture(scope="module")
def shared_redis_of_its_own() -> Iterator[RedisServer]:
    """A server for the tests of one module, which may empty it."""
    with redis_server() as server:
        yield server
