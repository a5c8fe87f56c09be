"""
A real server on a real port for each test, on both event loops.

Whatever a test did to it, the server must still serve afterwards, and nothing may have reached the
event loop's exception handler.
"""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable, Mapping
from logging import ERROR
from typing import Any

import pytest

from reverb_py.testing import TestServer, serving
from tests.reverb_py.server.raw_client import serves


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on asyncio's loop and, where there is one, on uvloop."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.SelectorEventLoop
    }
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture(autouse=True)
async def _no_exception_escapes(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """Fail the test when an exception reached the event loop, or an error was logged."""
    unhandled: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    yield
    loop.set_exception_handler(None)
    assert unhandled == []
    assert [record for record in caplog.get_records("call") if record.levelno >= ERROR] == []


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    """Serve one app, with exact deadlines, and see that it still serves after the test."""
    async with serving(timer_resolution=0.02) as server:
        yield server
        await serves(server)
