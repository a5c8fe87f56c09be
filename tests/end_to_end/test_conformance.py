"""The conformance suite, pointed by URL at servers that it has not started itself."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from reverb_py.core.apps import App
from reverb_py.runtime import running_server
from reverb_py.settings import Settings
from reverb_py.testing import serving

_ROOT = Path(__file__).parents[2]
_SECRET = "7ad3773142a6692b25b8"
_ROLES = {
    "APP": "",
    "OTHER_APP": "",
    "COUNTING_APP": "subscription_counts = true",
    "DISABLED_APP": "enabled = false",
    "ORIGINS_APP": 'allowed_origins = ["chat.example.com", "*.example.org"]',
    "QUOTA_APP": "max_connections = 1",
    "SMALL_APP": """
        max_presence_members = 2
        max_watchlist = 2
        max_channels_per_connection = 3
        subscriptions_per_second = 1
        cache_seconds = 1
    """,
    "ROTATED_APP": 'previous_secrets = ["d3b07384d113edec49ea"]',
    "QUIET_APP": 'accept_client_events_from = "none"',
    "OPEN_APP": 'accept_client_events_from = "all"',
    "HURRIED_APP": "authorization_seconds = 1",
    "IMPATIENT_APP": """
        ping_interval = 1
        pong_timeout = 1
    """,
    "THROTTLED_APP": """
        publishes_per_second = 2
        reads_per_second = 2
        rate_limiting = { enabled = true, max_attempts = 5, decay_seconds = 60 }
    """,
}
_APPS_FILE = "".join(
    f"""
    [[apps]]
    id = "{number}"
    key = "key-{number}"
    secret = "{_SECRET}-{number}"
    {settings}
    """
    for number, settings in enumerate(_ROLES.values(), 1001)
)


async def run_suite(url: str, *tests: str, **environment: str) -> None:
    """Run these tests of the suite against a server, and see that all that are for it pass."""
    process = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            "-p",
            "no:cacheprovider",
        ),
        *tests,
        cwd=_ROOT,
        env={
            **{key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
            "CONFORMANCE_URL": url,
            "CONFORMANCE_APP_ID": "1001",
            "CONFORMANCE_APP_KEY": "key-1001",
            "CONFORMANCE_APP_SECRET": f"{_SECRET}-1001",
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, printed.decode()


@asynccontextmanager
async def serving_as_hosted_pusher(server_url: str) -> AsyncIterator[str]:
    """Serve what a server does, with what it says put as hosted Pusher puts it."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        url = URL(server_url + request.raw_path, encoded=True)
        if request.headers.get("Upgrade") == "websocket":
            return await carry_websocket(request, url)
        body = await request.read()
        async with session.request(request.method, url, data=body) as answered:
            return web.Response(
                status=answered.status,
                body=await answered.read(),
                content_type=answered.content_type,
            )

    async def carry_websocket(request: web.BaseRequest, url: URL) -> web.StreamResponse:
        client = web.WebSocketResponse(max_msg_size=0)
        await client.prepare(request)
        async with session.ws_connect(url, max_msg_size=0) as upstream:

            async def carry_back() -> None:
                async for message in upstream:
                    await client.send_str(put_differently(message.data))
                await client.close(code=upstream.close_code or 1000)

            back = asyncio.create_task(carry_back())
            async for message in client:
                await upstream.send_str(message.data)
            await upstream.close()
            await back
        return client

    async with aiohttp.ClientSession() as session:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def put_differently(text: str) -> str:
    """Return a message with an empty pong, a refusal without a code, and keys in another order."""
    message = json.loads(text)
    if message["event"] == "pusher:pong":
        message["data"] = ""
    elif message["event"] == "pusher:error" and message["data"]["code"] == 4300:
        message["data"]["code"] = None
    return json.dumps(dict(reversed(message.items())))


_LIVENESS = "tests/conformance/test_liveness.py"


@pytest.mark.parametrize(
    "tests",
    # What waits for pings takes as long as all the rest: each part has a server of its own.
    [(_LIVENESS,), ("tests/conformance", f"--ignore={_LIVENESS}")],
    ids=["liveness", "the rest"],
)
async def test_the_server_as_it_is_configured_plays_every_role(
    tmp_path: Path, tests: tuple[str, ...]
) -> None:
    file = tmp_path / "apps.toml"
    file.write_text(_APPS_FILE)
    settings = Settings.from_environment(
        {
            "REVERB_SERVER_HOST": "127.0.0.1",
            "REVERB_SERVER_PORT": "0",
            "REVERB_APPS_FILE": str(file),
        }
    )
    roles = {
        f"CONFORMANCE_{role}": f"{app.id}:{app.key}:{':'.join(app.secrets)}"
        for role, app in zip(_ROLES, settings.apps, strict=True)
    }
    async with running_server(settings) as server:
        await run_suite(f"http://127.0.0.1:{server.port}", *tests, **roles)


async def test_a_server_that_speaks_as_hosted_pusher_does_can_be_asked_too() -> None:
    app = App(id="1001", key="key-1001", secret=f"{_SECRET}-1001")
    modules = ("client_events", "liveness", "messages", "subscriptions", "users")
    async with (
        serving(app) as server,
        serving_as_hosted_pusher(f"http://127.0.0.1:{server.port}") as url,
    ):
        await run_suite(
            url,
            *(f"tests/conformance/test_{module}.py" for module in modules),
            CONFORMANCE_FEATURES=(
                "cache,client_events,presence,signin,subscription_error,terminate,watchlist"
            ),
        )
