"""The `chat-api` command as people and process managers meet it."""

import asyncio
import errno
import json
import os
import re
import signal
import socket
import sqlite3
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import aiohttp
import pytest
import structlog
from click.testing import CliRunner

from chat_api.cli import main
from reverb_py import __version__
from tests.chat_api.client import Client, Reply
from tests.chat_api.world import SECRET
from tests.support.postgresql import PostgresqlServer

ENVIRONMENT = {
    "CHAT_JWT_SECRET": SECRET,
    "CHAT_PORT": "0",
    "REVERB_APP_ID": "1001",
    "REVERB_APP_KEY": "key",
    "REVERB_APP_SECRET": "app-secret-nobody-sees",
    "REVERB_PORT": "9",  # nothing listens there
}


ROOT = str(Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_serving_starts_from_nothing_and_stops_quietly(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "chat_api",
        "serve",
        "--debug",
        env={**os.environ, **ENVIRONMENT, "CHAT_SEED": "1", "PYTHONPATH": ROOT},
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        log = ""
        while "url=" not in log:
            log += (await process.stderr.readline()).decode()
        url = log.split("url=")[1].split()[0]
        async with aiohttp.ClientSession() as session:
            ali = await Client(session, url).log_in("ali@example.com")
            await ali.post("/api/chats", {"user_id": 2})
            await ali.post("/api/chats/1/messages", {"content": "hi", "tempId": "t"})
        process.send_signal(number)
        log += (await process.stderr.read()).decode()
        assert await process.wait() == 0

    assert (tmp_path / "chat.sqlite3").exists()
    assert "Traceback" not in log
    assert log.count("does not take events") == 1
    assert "Stopped" in log.splitlines()[-1]
    for secret in (SECRET, "app-secret-nobody-sees", str(ali.token)):
        assert secret not in log


@asynccontextmanager
async def serving(folder: Path, **changes: str) -> AsyncIterator[tuple[Process, dict[str, str]]]:
    """Run the command; yields its process and what the line says with which it is up."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chat_api", "serve"),
        env={
            **os.environ,
            **ENVIRONMENT,
            "CHAT_LOG_FORMAT": "json",
            "CHAT_METRICS_PORT": "0",
            "PYTHONPATH": ROOT,
            **changes,
        },
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(100):
            yield process, await says(process, "The chat API is up")
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def says(process: Process, event: str) -> dict[str, str]:
    """Return the next line about this event."""
    assert process.stderr is not None
    while True:
        line: dict[str, str] = json.loads(await process.stderr.readline())
        if line["event"] == event:
            return line


async def writes_waiting(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        [line] = re.findall(r"^chat_database_writes_waiting (.+)$", await response.text(), re.M)
    return int(float(line))


async def test_what_is_being_asked_when_it_is_told_to_stop_is_answered(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, CHAT_SEED="1", CHAT_MESSAGES_PER_MINUTE="0") as (process, up),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        ali = await Client(session, up["url"]).log_in("ali@example.com")
        await ali.post("/api/chats", {"user_id": 2})
        posts: list[asyncio.Task[Reply]] = []

        def post() -> None:
            message = {"content": "salom", "tempId": str(len(posts))}
            posts.append(asyncio.create_task(ali.post("/api/chats/1/messages", message)))

        with closing(sqlite3.connect(tmp_path / "chat.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            # Once one waits, the writer waits for its turn, and all others will be behind it.
            while not await writes_waiting(session, up["metrics"]):
                post()
            for _ in range(20):
                post()
            while (waiting := await writes_waiting(session, up["metrics"])) < 20:
                pass
            process.send_signal(signal.SIGTERM)
            await says(process, "Stopping: finishing requests and sending what is left")
            other.execute("ROLLBACK")
        replies = await asyncio.gather(*posts, return_exceptions=True)
        assert await process.wait() == 0

    answered = [reply for reply in replies if not isinstance(reply, aiohttp.ClientError)]
    assert [isinstance(reply, Reply) and reply.status for reply in answered] == [201] * len(
        answered
    )
    assert len(answered) > waiting  # and not only those: one at least has the writer


async def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, CHAT_SEED="1") as (process, up),
        aiohttp.ClientSession() as session,
    ):
        ali = await Client(session, up["url"]).log_in("ali@example.com")
        with closing(sqlite3.connect(tmp_path / "chat.sqlite3", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(ali.post("/api/chats", {"user_id": 2}))
            process.send_signal(signal.SIGTERM)
            await says(process, "Stopping: finishing requests and sending what is left")
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == -signal.SIGTERM
        with suppress(aiohttp.ClientError):
            await waiting


@pytest.mark.parametrize("database_kind", ["postgresql"])
async def test_a_database_that_stands_still_does_not_keep_it_from_stopping(
    tmp_path: Path, database: str, postgresql: PostgresqlServer
) -> None:
    async with (
        serving(tmp_path, CHAT_DATABASE_URL=database) as (process, up),
        aiohttp.ClientSession() as session,
    ):
        ali = await Client(session, up["url"]).log_in("ali@example.com")
        with postgresql.frozen():
            assert (await ali.post("/api/chats", {"user_id": 2})).status == 503
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0


def run(*arguments: str, tmp_path: Path, **changes: str) -> tuple[int, str]:
    database = {"CHAT_DATABASE_URL": f"sqlite:///{tmp_path / 'chat.sqlite3'}"}
    result = CliRunner().invoke(main, arguments, env={**ENVIRONMENT, **database, **changes})
    return result.exit_code, result.output


def test_a_wrong_setting_ends_the_start_with_its_line(tmp_path: Path) -> None:
    for command in (["serve"], ["migrate"]):
        assert run(*command, tmp_path=tmp_path, CHAT_JWT_TTL="x") == (
            1,
            "Error: CHAT_JWT_TTL must be a whole number, not 'x'\n",
        )
    (tmp_path / ".env").write_bytes(b"\xff\xfe")
    assert run("serve", tmp_path=tmp_path) == (
        1,
        f"Error: {tmp_path}/.env must be UTF-8: invalid start byte at byte 0\n",
    )


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_wrong_option_is_refused_with_a_hint(tmp_path: Path, port: str) -> None:
    code, output = run("serve", "--port", port, tmp_path=tmp_path)

    assert code == 2
    assert "Invalid value for '--port'" in output
    assert "--help" in output


def test_a_port_that_is_taken_ends_the_start_with_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = run("serve", "--port", str(port), tmp_path=tmp_path)

    reason = os.strerror(errno.EADDRINUSE).lower()
    assert (code, output.splitlines()[-1]) == (
        1,
        f"Error: can't listen on 127.0.0.1:{port}: {reason} "
        "(choose another with --port or CHAT_PORT)",
    )


# 192.0.2.0/24 is for documentation and nobody's address.
@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_that_is_not_ours_is_blamed_on_the_host(tmp_path: Path, host: str) -> None:
    code, output = run("serve", "--host", host, tmp_path=tmp_path)

    line = output.splitlines()[-1]
    assert code == 1
    assert line.startswith(f"Error: can't listen on {host}:0: ")
    assert line.endswith("(choose another with --host or CHAT_HOST)")


def test_a_taken_port_for_metrics_is_named_as_such(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = run("serve", tmp_path=tmp_path, CHAT_METRICS_PORT=str(port))

    reason = os.strerror(errno.EADDRINUSE).lower()
    assert (code, output.splitlines()[-1]) == (
        1,
        f"Error: can't listen on 127.0.0.1:{port}: {reason} "
        "(choose another with CHAT_METRICS_PORT)",
    )


async def test_as_json_every_line_of_a_run_is_an_object(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "chat_api",
        "serve",
        "--debug",
        env={
            **os.environ,
            **ENVIRONMENT,
            "CHAT_LOG_FORMAT": "json",
            "CHAT_METRICS_PORT": "0",
            "PYTHONPATH": ROOT,
        },
        cwd=tmp_path,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        lines = [json.loads(await process.stderr.readline())]
        while "url" not in lines[-1]:
            lines.append(json.loads(await process.stderr.readline()))
        up = lines[-1]
        async with aiohttp.ClientSession() as session:
            headers = {"X-Request-ID": "one-of-ours"}
            async with session.get(f"{up['url']}/api/user", headers=headers) as response:
                assert response.status == 401
            async with session.get(up["metrics"]) as response:
                assert response.status == 200
        process.send_signal(signal.SIGTERM)
        rest = (await process.stderr.read()).decode().splitlines()
        lines += [json.loads(line) for line in rest]
        assert await process.wait() == 0

    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
    [access] = [line for line in lines if line.get("request_id") == "one-of-ours"]
    assert (access["event"], access["level"], access["status"]) == ("Request", "debug", 401)
    assert [line["event"] for line in lines if line["level"] == "info"][-1] == "Stopped"


def test_a_database_that_cannot_be_opened_is_said_in_one_line(tmp_path: Path) -> None:
    path = f"{tmp_path}/no/where.sqlite3"
    code, output = run("migrate", tmp_path=tmp_path, CHAT_DATABASE_URL=f"sqlite:///{path}")

    assert (code, output) == (
        1,
        f"Error: can't use the database at CHAT_DATABASE_URL, {path}: unable to open database "
        "file\n",
    )


def test_a_database_server_that_cannot_be_reached_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"postgresql://chat:parol@127.0.0.1:{port}/chat"
    code, output = run("migrate", tmp_path=tmp_path, CHAT_DATABASE_URL=url)

    assert code == 1
    assert output.startswith("Error: can't use the database at CHAT_DATABASE_URL: connection ")
    assert len(output.splitlines()) == 1
    assert "parol" not in output


def test_the_version_is_told(tmp_path: Path) -> None:
    assert run("--version", tmp_path=tmp_path) == (0, f"chat-api, version {__version__}\n")


def test_help_shows_examples(tmp_path: Path) -> None:
    code, output = run("--help", tmp_path=tmp_path)

    assert code == 0
    assert "    chat-api serve --port 8384 --debug\n" in output


def test_accounts_are_opened_once(tmp_path: Path) -> None:
    command = ("create-user", "Ann@Example.com", "--first-name", "Ann", "--password", "parol")

    assert run("migrate", tmp_path=tmp_path) == (0, "The database is up to date.\n")
    assert run(*command, tmp_path=tmp_path) == (0, "ann@example.com has the id 1.\n")
    assert run(*command, tmp_path=tmp_path) == (
        1,
        "Error: ann@example.com has an account already.\n",
    )
    assert run("create-user", "ann", "--first-name", "A", "--password", "p", tmp_path=tmp_path) == (
        1,
        "Error: email must be an address such as ali@example.com.\n",
    )


def test_staff_serve_the_tenants_they_are_given(tmp_path: Path) -> None:
    create = ("create-user", "bob@example.com", "--first-name", "Bob", "--password", "parol")
    tenants = ("--tenant", "Tenant1.Example.com:443", "--tenant", "tenant1.example.com")

    assert run(*create, "--role", "agent", "--tenant", "tenant 1", tmp_path=tmp_path) == (
        1,
        "Error: The tenant must be a domain such as tenant1.example.com.\n",
    )
    assert run(*create, *tenants, tmp_path=tmp_path) == (
        1,
        "Error: Only agents and supervisors serve tenants: give them such a role.\n",
    )
    assert run(*create, "--role", "agent", *tenants, "--tenant", "*", tmp_path=tmp_path) == (
        0,
        "bob@example.com has the id 1.\n",
    )
    with closing(sqlite3.connect(tmp_path / "chat.sqlite3")) as database:
        rows = database.execute("SELECT role, tenants FROM users").fetchall()
    assert rows == [("agent", "tenant1.example.com *")]


def test_tenants_are_created_once(tmp_path: Path) -> None:
    command = ("create-tenant", "Tenant1.Example.com", "--name", "Tenant One")

    assert run(*command, tmp_path=tmp_path) == (0, "tenant1.example.com is a tenant.\n")
    assert run(*command, tmp_path=tmp_path) == (
        1,
        "Error: tenant1.example.com is a tenant already.\n",
    )
    assert run("create-tenant", "tenant2.example.com", tmp_path=tmp_path)[0] == 0
    assert run("create-tenant", "no domain", tmp_path=tmp_path) == (
        1,
        "Error: The tenant must be a domain such as tenant1.example.com.\n",
    )
    long_name = ("create-tenant", "tenant3.example.com", "--name", "x" * 201)
    assert run(*long_name, tmp_path=tmp_path) == (
        1,
        "Error: name must not be longer than 200 characters.\n",
    )
    with closing(sqlite3.connect(tmp_path / "chat.sqlite3")) as database:
        rows = database.execute("SELECT domain, name FROM tenants ORDER BY domain").fetchall()
    assert rows == [
        ("tenant1.example.com", "Tenant One"),
        ("tenant2.example.com", "tenant2.example.com"),
    ]
