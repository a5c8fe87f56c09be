"""
Where the server under test comes from, and which of the tests are for it.

With CONFORMANCE_URL it is one that is running already, and README.md says what else to set.
Without, each test gets a reverb_py of its own, with an app for every role: once it is one node, and
once it is two on a Redis, to which connections and requests go in turn.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from logging import ERROR
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from reverb_py.cluster.connections import RedisAddress
from reverb_py.cluster.node import Scaling
from reverb_py.core.apps import App, ClientEventsFrom, RateLimit, Webhook
from reverb_py.testing import serving
from tests.conformance.wire import Credentials, PusherApp, WebhookReceiver
from tests.support.redis import RedisServer, redis_server

_FEATURES = frozenset(
    {
        "cache",
        "client_events",
        "connections",
        "idempotency",
        "presence",
        "protocol_check",
        "refusal_code",
        "signin",
        "subscription_error",
        "terminate",
        "watchlist",
    }
)

_SECRET = "7ad3773142a6692b25b8"

_APPS = {
    "app": App(id="1001", key="278d425bdf160c739803", secret=_SECRET),
    "other_app": App(id="1002", key="other-key", secret="b1946ac92492d2347c62"),
    "counting_app": App(id="1003", key="counting-key", secret=_SECRET, subscription_counts=True),
    "disabled_app": App(id="1004", key="disabled-key", secret=_SECRET, enabled=False),
    "origins_app": App(
        id="1005",
        key="origins-key",
        secret=_SECRET,
        allowed_origins=("chat.example.com", "*.example.org"),
    ),
    "quota_app": App(id="1006", key="quota-key", secret=_SECRET, max_connections=1),
    "small_app": App(
        id="1007",
        key="small-key",
        secret=_SECRET,
        max_presence_members=2,
        max_watchlist=2,
        max_channels_per_connection=3,
        subscriptions_per_second=1,
        last_event_seconds=0.2,
    ),
    "rotated_app": App(
        id="1008", key="rotated-key", secret=_SECRET, previous_secrets=("d3b07384d113edec49ea",)
    ),
    "quiet_app": App(
        id="1009", key="quiet-key", secret=_SECRET, client_events_from=ClientEventsFrom.NONE
    ),
    "open_app": App(
        id="1014", key="open-key", secret=_SECRET, client_events_from=ClientEventsFrom.ALL
    ),
    "hurried_app": App(id="1010", key="hurried-key", secret=_SECRET, authorization_seconds=0.5),
    "impatient_app": App(
        id="1011", key="impatient-key", secret=_SECRET, ping_interval=0.1, pong_timeout=0.2
    ),
    "throttled_app": App(
        id="1012",
        key="throttled-key",
        secret=_SECRET,
        publishes_per_second=2,
        reads_per_second=2,
        rate_limit=RateLimit(max_attempts=5, decay_seconds=60, terminate=False),
    ),
}
_WEBHOOK_APP = App(id="1013", key="webhook-key", secret=_SECRET)
_WEBHOOK_KINDS = (
    *("channel_occupied", "channel_vacated", "member_added", "member_removed"),
    *("client_event", "cache_miss", "subscription_count"),
)
_ROLES = (*_APPS, "webhook_app")
_PATH_PREFIX = "/realtime"
_PER_NODE = frozenset({"quota_app", "throttled_app"})
"""Roles whose limits each node of a deployment counts for itself: docs/scaling.md says so."""


@dataclass(frozen=True)
class _Server:
    """A server under test. What it has no app or no way for is None."""

    urls: Sequence[str]
    credentials: dict[str, Credentials]
    path_prefix: str | None
    session: aiohttp.ClientSession
    is_exact: bool
    stop: Callable[[], Awaitable[None]] | None

    def app_for(self, role: str) -> PusherApp:
        return PusherApp(
            self.urls,
            self.credentials[role],
            self.session,
            is_exact=self.is_exact,
            has_refusal_code=self.is_exact or "refusal_code" in _claimed_features(),
        )


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known that say which optional features, or which nodes, a test is about."""
    config.addinivalue_line(
        "markers", "per_node: docs/scaling.md promises this of each node by itself only"
    )
    config.addinivalue_line(
        "markers", f"needs(*features): the server has to have {', '.join(sorted(_FEATURES))}"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the server does not claim to have, and roles for which it has no app."""
    if "CONFORMANCE_URL" not in os.environ:
        _leave_out(config, items, [item for item in items if _is_of_one_node(item)])
        return
    claimed = _claimed_features()
    if unknown := claimed - _FEATURES:
        raise pytest.UsageError(
            f"CONFORMANCE_FEATURES has {', '.join(sorted(unknown))}, which is none of "
            f"{', '.join(sorted(_FEATURES))}"
        )
    missing = {*_ROLES, "path_prefix", "stop_server"} - _credentials_given().keys()
    if "CONFORMANCE_PATH_PREFIX" in os.environ:
        missing -= {"path_prefix"}
    _leave_out(config, items, [item for item in items if _is_left_out(item, claimed, missing)])


def _leave_out(
    config: pytest.Config, items: list[pytest.Item], left_out: list[pytest.Item]
) -> None:
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _claimed_features() -> set[str]:
    return set(os.environ.get("CONFORMANCE_FEATURES", ",".join(_FEATURES)).split(",")) - {""}


def _is_of_one_node(item: pytest.Item) -> bool:
    """Tell whether a test on two nodes is about what is promised of each by itself."""
    parameters = getattr(item, "callspec", None)
    if parameters is None or parameters.params.get("number_of_nodes", 1) == 1:
        return False
    has_limit = not _PER_NODE.isdisjoint(getattr(item, "fixturenames", ()))
    return has_limit or item.get_closest_marker("per_node") is not None


def _is_left_out(item: pytest.Item, claimed: set[str], missing: set[str]) -> bool:
    if Path(__file__).parent not in item.path.parents:
        return False
    needed = {feature for marker in item.iter_markers("needs") for feature in marker.args}
    return bool(needed - claimed) or not missing.isdisjoint(getattr(item, "fixturenames", ()))


def _credentials_given() -> dict[str, Credentials]:
    """Return the apps that the environment names, as ID:KEY:SECRET or ID:KEY:SECRET:PREVIOUS."""
    main = [os.environ.get(f"CONFORMANCE_APP_{part}", "") for part in ("ID", "KEY", "SECRET")]
    if not all(main):
        raise pytest.UsageError(
            "CONFORMANCE_URL needs CONFORMANCE_APP_ID, CONFORMANCE_APP_KEY and "
            "CONFORMANCE_APP_SECRET beside it"
        )
    given = {"app": Credentials(*main)}
    for role in _ROLES:
        if text := os.environ.get(f"CONFORMANCE_{role.upper()}"):
            given[role] = Credentials(*text.split(":"))
    return given


@pytest.fixture(scope="session", name="redis")
def _redis() -> Iterator[RedisServer]:
    """Run what joins nodes; each test has a prefix of its own."""
    with redis_server() as server:
        yield server


@pytest.fixture(
    params=[1] if "CONFORMANCE_URL" in os.environ else [1, 2],
    ids=lambda number: "on_one_node" if number == 1 else "on_two_nodes",
)
def number_of_nodes(request: pytest.FixtureRequest) -> int:
    """Have every test run on one node, and on two that have to look like one."""
    number: int = request.param
    return number


@pytest.fixture
def scalings(number_of_nodes: int, request: pytest.FixtureRequest) -> list[Scaling | None]:
    """Return what each node of the test has to know of the others."""
    if number_of_nodes == 1:
        return [None]
    redis: RedisServer = request.getfixturevalue("redis")
    prefix = f"test.{secrets.token_hex(4)}:"
    return [Scaling(redis=RedisAddress(port=redis.port), prefix=prefix)] * number_of_nodes


@asynccontextmanager
async def _own_server(
    session: aiohttp.ClientSession, scalings: list[Scaling | None]
) -> AsyncIterator[_Server]:
    stack = AsyncExitStack()
    async with stack:
        nodes = [
            await stack.enter_async_context(
                serving(
                    *_APPS.values(),
                    timer_resolution=0.02,
                    path_prefix=_PATH_PREFIX,
                    scaling=scaling,
                )
            )
            for scaling in scalings
        ]
        yield _Server(
            urls=[f"http://127.0.0.1:{node.port}" for node in nodes],
            credentials={
                role: Credentials(app.id, app.key, app.secret, *app.previous_secrets)
                for role, app in _APPS.items()
            },
            path_prefix=_PATH_PREFIX,
            session=session,
            is_exact=True,
            stop=stack.aclose,
        )


@pytest.fixture
async def server_under_test(
    caplog: pytest.LogCaptureFixture, scalings: list[Scaling | None]
) -> AsyncIterator[_Server]:
    """Find the server, or start one; ours may neither log an error nor let an exception escape."""
    async with aiohttp.ClientSession() as session:
        url = os.environ.get("CONFORMANCE_URL")
        if url is not None:
            prefix = os.environ.get("CONFORMANCE_PATH_PREFIX")
            yield _Server([url], _credentials_given(), prefix, session, is_exact=False, stop=None)
            return
        unhandled: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: unhandled.append(what))
        async with _own_server(session, scalings) as server:
            yield server
        assert unhandled == []
        assert [record for record in caplog.get_records("call") if record.levelno >= ERROR] == []


def _app_for(role: str) -> Any:
    @pytest.fixture(name=role)
    def app(server_under_test: _Server) -> PusherApp:
        return server_under_test.app_for(role)

    return app


_app = _app_for("app")
_other_app = _app_for("other_app")
_counting_app = _app_for("counting_app")
_disabled_app = _app_for("disabled_app")
_origins_app = _app_for("origins_app")
_quota_app = _app_for("quota_app")
_small_app = _app_for("small_app")
_rotated_app = _app_for("rotated_app")
_quiet_app = _app_for("quiet_app")
_open_app = _app_for("open_app")
_hurried_app = _app_for("hurried_app")
_impatient_app = _app_for("impatient_app")
_throttled_app = _app_for("throttled_app")


@pytest.fixture
async def webhook_receiver() -> AsyncIterator[WebhookReceiver]:
    """Listen where the webhooks of the app for them go."""
    port = os.environ.get("CONFORMANCE_WEBHOOK_PORT")
    host = "127.0.0.1" if port is None else "0.0.0.0"
    async with WebhookReceiver.listening(host, int(port or 0)) as receiver:
        yield receiver


@pytest.fixture(name="webhook_app")
async def _webhook_app(
    webhook_receiver: WebhookReceiver, scalings: list[Scaling | None]
) -> AsyncIterator[PusherApp]:
    async with aiohttp.ClientSession() as session, AsyncExitStack() as stack:
        url = os.environ.get("CONFORMANCE_URL")
        if url is not None:
            yield _Server([url], _credentials_given(), None, session, False, None).app_for(
                "webhook_app"
            )
            return
        webhook = Webhook(url=webhook_receiver.url, kinds=frozenset(_WEBHOOK_KINDS))
        app = replace(_WEBHOOK_APP, webhooks=(webhook,))
        urls = []
        for scaling in scalings:
            node = serving(app, shutdown_seconds=0.5, scaling=scaling)
            urls.append(f"http://127.0.0.1:{(await stack.enter_async_context(node)).port}")
        credentials = {"webhook_app": Credentials(app.id, app.key, app.secret)}
        yield _Server(urls, credentials, None, session, True, None).app_for("webhook_app")


@pytest.fixture
def path_prefix(server_under_test: _Server) -> str:
    """Return the path in front of `/app` and `/apps` under which the server can be reached too."""
    assert server_under_test.path_prefix is not None
    return server_under_test.path_prefix


@pytest.fixture
def stop_server(server_under_test: _Server) -> Callable[[], Awaitable[None]]:
    """Return what shuts the server down; only one that was started for the test has it."""
    assert server_under_test.stop is not None
    return server_under_test.stop
