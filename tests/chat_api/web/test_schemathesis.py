"""
Nothing that schemathesis thinks of is answered 500, or otherwise than the document says.

For a longer search than is good for a test, start `CHAT_SEED=1 chat-api serve`, log in, and run
`schemathesis run http://127.0.0.1:8383/openapi.json -H "Authorization: Bearer $TOKEN"
--exclude-path /api/logout --exclude-checks positive_data_acceptance --max-examples 500`.
"""

import asyncio
import ipaddress
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from chat_api.settings import Settings
from tests.chat_api.client import Client
from tests.chat_api.world import chat_api

pytestmark = pytest.mark.timeout(300)

PROGRAM = Path(sys.executable).with_name("schemathesis")
LOGOUT = "/api/logout"
CONFIGURATION = """
[checks]
# What is well-formed and meaningless is 422, and a schema cannot say that a chat takes two.
positive_data_acceptance.enabled = false
# A closed conversation is 410 whatever is sent to it.
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 409, 410, 413, 422]
"""
OPTIONS = (
    "--max-examples=3",
    "--seed=1",
    "--generation-deterministic",
    "--no-shrink",
    "--warnings=off",
    "--no-color",
)


@pytest.fixture
def database_kind() -> str:
    """Take the faster one; both are held to the same answers by the other tests."""
    return "sqlite"


@asynccontextmanager
async def client_of(settings: Settings) -> AsyncIterator[Client]:
    async with (
        chat_api(replace(settings, logins_per_minute=0)) as api,
        aiohttp.ClientSession() as session,
    ):
        yield Client(session, api.url)


@pytest.fixture
async def nobody(settings: Settings) -> AsyncIterator[Client]:
    async with client_of(settings) as client:
        yield client


def bearer(token: str | None) -> str:
    return f"Authorization: Bearer {token}"


async def search(url: str, header: str, folder: Path, *options: str) -> None:
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    process = await asyncio.create_subprocess_exec(
        PROGRAM,
        "run",
        f"{url}/openapi.json",
        f"--header={header}",
        *OPTIONS,
        *options,
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    report = output.decode()
    assert process.returncode == 0, report
    assert "test cases" in report.lower(), report


@pytest.mark.parametrize(
    ("person", "option"),
    [
        ("ali", f"--exclude-path={LOGOUT}"),
        # What is the same for everybody with an account is not searched again.
        ("agent", "--include-tag=support"),
        ("supervisor", "--include-tag=support"),
    ],
)
async def test_whoever_has_an_account_gets_documented_answers(
    nobody: Client, person: str, option: str, tmp_path: Path
) -> None:
    somebody = await nobody.log_in(f"{person}@example.com")

    await search(nobody.url, bearer(somebody.token), tmp_path, option)


async def test_a_visitor_gets_documented_answers(nobody: Client, tmp_path: Path) -> None:
    started = await nobody.post("/api/customer/sessions", {"fingerprint": "a secret of the device"})

    await search(nobody.url, bearer(started.body["token"]), tmp_path, "--include-tag=support")


@pytest.mark.parametrize("participant", ["visitor-1", ""])
async def test_behind_a_proxy_everybody_gets_documented_answers(
    settings: Settings, participant: str, tmp_path: Path
) -> None:
    loopback = (ipaddress.ip_network("127.0.0.0/8"),)
    async with client_of(replace(settings, auth="proxy", trusted_proxies=loopback)) as nobody:
        await nobody.post(
            "/api/customer/sessions",
            {"fingerprint": "a secret of the device"},
            headers={"X-Participant-Id": participant},
        )

        await search(
            nobody.url, f"X-Participant-Id: {participant}", tmp_path, "--include-tag=support"
        )


async def test_logging_out_is_answered_as_documented(nobody: Client, tmp_path: Path) -> None:
    somebody = await nobody.log_in("ali@example.com")

    await search(
        nobody.url,
        bearer(somebody.token),
        tmp_path,
        f"--include-path={LOGOUT}",
        "--phases=examples,coverage,fuzzing",
    )
