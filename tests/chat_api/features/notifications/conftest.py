"""Google, and somebody who owes notifications in a database of the test's own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chat_api.features.notifications.fcm import ServiceAccount
from chat_api.store.engine import Store
from tests.chat_api.features.notifications.google import FakeGoogle
from tests.chat_api.features.notifications.posts import Post


@pytest.fixture
async def google() -> AsyncIterator[FakeGoogle]:
    async with FakeGoogle() as google:
        yield google


@pytest.fixture
async def post(database: str, google: FakeGoogle, tmp_path: Path) -> AsyncIterator[Post]:
    store = Store(database)
    try:
        account = ServiceAccount.from_file(google.write_key_file(tmp_path))
        yield Post(store, google, account)
    finally:
        await store.close()
