"""A support desk of one's own for each test."""

from collections.abc import AsyncIterator

import pytest

from chat_api.settings import Settings
from tests.chat_api.features.support.desk import Desk, desk_at
from tests.chat_api.receiver import RealtimeReceiver


@pytest.fixture
async def desk(settings: Settings, receiver: RealtimeReceiver) -> AsyncIterator[Desk]:
    async with desk_at(settings, receiver) as desk:
        yield desk
