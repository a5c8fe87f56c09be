"""The `reverb-py` command, as a person or a supervisor uses it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner, Result
from websockets.asyncio.client import ClientConnection, connect

from reverb_py import __version__
from reverb_py.cli import main
from reverb_py.protocol import signing
from tests.support.certificates import certificate_for, client_trusting
from tests.support.metrics import scraped

PATIENCE = 60.0
SECRET = "p7ZkqT2mVx9sLw4RbN8c"
APP = {"REVERB_APP_ID": "1001", "REVERB_APP_KEY": "my-key", "REVERB_APP_SECRET": SECRET}


@pytest.fixture(autouse=True)
def _folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("REVERB_"):
            monkeypatch.delenv(name)


def invoke(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, arguments, env=environment)


class Server:
    """A `reverb-py start` in a process of its own."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.port = 0
        self.lines: list[str] = []

    async def said(self, pattern: str) -> re.Match[str]:
        """Read its log until a line matches."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while line := (await self.process.stderr.readline()).decode():
                self.lines.append(line)
                if match := re.search(pattern, line):
                    return match
        raise AssertionError(f"It ended without saying {pattern!r}: {''.join(self.lines)}")

    async def stopped_by(self, number: signal.Signals) -> tuple[int, str]:
        """Send a signal, wait for the end, and return the exit code and everything it said."""
        self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE):
            out, err = await self.process.communicate()
        assert out == b""
        assert self.process.returncode is not None
        return self.process.returncode, "".join(self.lines) + err.decode()


@asynccontextmanager
async def started(*arguments: str, **environment: str) -> AsyncIterator[Server]:
    """Start a server on a free port and wait until it listens."""
    async with starting(None, *arguments, **environment) as server:
        server.port = int((await server.said(r"Listening .*url=https?://127\.0\.0\.1:(\d+)"))[1])
        yield server


@asynccontextmanager
async def starting(
    stdin: int | None, /, *arguments: str, **environment: str
) -> AsyncIterator[Server]:
    """Start a server on a free port; it reads `stdin`."""
    options = ("--host", "127.0.0.1", "--port", "0")
    process = await process_reading(stdin, *options, *arguments, **environment)
    try:
        yield Server(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def process_of(*arguments: str, **environment: str) -> Process:
    return await process_reading(None, *arguments, **environment)


async def process_reading(stdin: int | None, /, *arguments: str, **environment: str) -> Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "reverb_py", "start", *arguments),
        stdin=stdin,
        stdout=PIPE,
        stderr=PIPE,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONWARNINGS": "error",
            **environment,
        },
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_stops_the_server_with_its_clients_told(number: signal.Signals) -> None:
    async with started(**APP) as server:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{server.port}/up") as response,
        ):
            assert (response.status, await response.text()) == (200, '{"health":"OK"}')

        async with connect(f"ws://127.0.0.1:{server.port}/app/my-key") as client:
            assert "pusher:connection_established" in await client.recv(decode=True)
            code, said = await server.stopped_by(number)
            async with asyncio.timeout(PATIENCE):
                await client.wait_closed()
            assert client.close_code == 4200

    assert code == 0
    assert "Traceback" not in said
    [starting, stopping, stopped] = said.splitlines()
    assert re.search(r"\[info +\] Listening +url=http://127\.0\.0\.1:\d+$", starting)
    assert "Stopping: connections are closed with 4200" in stopping
    assert re.search(r"\[info +\] Stopped$", stopped)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_ends_the_server_at_once(
    first: signal.Signals, second: signal.Signals
) -> None:
    forever = {"REVERB_DRAIN_SECONDS": "3600", "REVERB_SHUTDOWN_SECONDS": "3600"}
    async with started(**APP, **forever) as server:
        url = f"ws://127.0.0.1:{server.port}/app/my-key"
        async with connect(url) as one, connect(url) as other:
            for client in (one, other):
                await client.recv()
            server.process.send_signal(first)
            await server.said("Stopping: .* seconds=3600")
            code, said = await server.stopped_by(second)
    assert code == -second
    assert "Traceback" not in said


async def test_while_new_clients_still_come_in_ready_says_that_the_server_stops() -> None:
    delay = {"REVERB_DRAIN_DELAY_SECONDS": "3600"}
    async with started(**APP, **delay) as server, aiohttp.ClientSession() as http:
        server.process.send_signal(signal.SIGTERM)
        await server.said("Stopping: .* delay=3600")
        async with http.get(f"http://127.0.0.1:{server.port}/ready") as response:
            assert (response.status, await response.text()) == (503, "The server is shutting down")
        async with connect(f"ws://127.0.0.1:{server.port}/app/my-key") as client:
            assert "pusher:connection_established" in await client.recv(decode=True)
        assert (await server.stopped_by(signal.SIGTERM))[0] == -signal.SIGTERM


async def test_clients_are_sent_away_over_the_set_time_and_then_the_server_has_stopped() -> None:
    async with started(**APP, REVERB_DRAIN_SECONDS="1") as server:
        url = f"ws://127.0.0.1:{server.port}/app/my-key"
        told: list[int] = []

        async def stay(number: int, opened: asyncio.Semaphore) -> None:
            async with connect(url) as client:
                await client.recv()
                opened.release()
                await client.wait_closed()
                told.append(client.close_code or 0)

        opened = asyncio.Semaphore(0)
        async with asyncio.TaskGroup() as clients:
            for number in range(20):
                clients.create_task(stay(number, opened))
            for _ in range(20):
                await opened.acquire()
            code, said = await server.stopped_by(signal.SIGTERM)
    assert told == [4200] * 20
    assert code == 0
    assert "Stopped" in said


def set_of_files(folder: Path) -> set[Path]:
    return set(folder.iterdir())


async def test_a_unix_socket_is_listened_on_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "reverb.sock"
    process = await process_of(**APP, REVERB_SERVER_SOCKET=str(path))
    server = Server(process)
    await server.said(rf"Listening +url=http\+unix:{re.escape(str(path))}")

    refused = await process_of("--socket", str(path), **APP)
    async with asyncio.timeout(PATIENCE):
        out, err = await refused.communicate()
    assert (refused.returncode, out) == (1, b"")
    assert err.decode() == (
        f"Error: can't listen on {path}: a server is listening there already "
        "(choose another with --socket or REVERB_SERVER_SOCKET)\n"
    )

    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as http,
        http.get("http://localhost/up") as response,
    ):
        assert response.status == 200
    assert (await server.stopped_by(signal.SIGTERM))[0] == 0
    assert set_of_files(tmp_path) == set()


async def test_hanging_up_renews_the_certificate_for_new_connections(tmp_path: Path) -> None:
    files, other = certificate_for(tmp_path, "first"), certificate_for(tmp_path, "second")
    assert files.key is not None
    assert other.key is not None
    tls = {"REVERB_TLS_CERT_FILE": str(files.certificate), "REVERB_TLS_KEY_FILE": str(files.key)}
    trusted = client_trusting(files, other)

    def shown_to(client: ClientConnection) -> str:
        certificate = client.transport.get_extra_info("ssl_object").getpeercert()
        name: str = certificate["subject"][0][0][1]
        return name

    async with started(**APP, **tls) as server:
        url = f"wss://127.0.0.1:{server.port}/app/my-key"
        async with connect(url, ssl=trusted) as early:
            await early.recv()
            assert shown_to(early) == "first"

            other.certificate.replace(files.certificate)
            server.process.send_signal(signal.SIGHUP)
            await server.said("The apps were not reloaded .*REVERB_TLS_KEY_FILE: .* is not the key")
            async with connect(url, ssl=trusted) as late:
                assert shown_to(late) == "first"

            other.key.replace(files.key)
            server.process.send_signal(signal.SIGHUP)
            await server.said(r"Reloaded the apps +apps=\['1001'\] certificate=")
            async with connect(url, ssl=trusted) as late:
                assert shown_to(late) == "second"
            await early.send('{"event":"pusher:ping"}')
            assert await early.recv(decode=True) == '{"event":"pusher:pong","data":"{}"}'
        assert (await server.stopped_by(signal.SIGTERM))[0] == 0


async def test_debug_shows_every_message_and_no_secret_and_no_signature() -> None:
    async with started("--debug", **APP) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/app/my-key") as client:
            hello = json.loads(await client.recv(decode=True))
            socket_id = json.loads(hello["data"])["socket_id"]
            auth = signing.channel_auth("my-key", SECRET, socket_id, "private-room")
            subscription = {"channel": "private-room", "auth": auth}
            await client.send(json.dumps({"event": "pusher:subscribe", "data": subscription}))
            assert "subscription_succeeded" in await client.recv(decode=True)
        code, said = await server.stopped_by(signal.SIGTERM)

    assert code == 0
    for line in (
        f"Connection Established +app=1001 socket={re.escape(socket_id)}",
        f"Message Received +app=1001 socket={re.escape(socket_id)}",
        '"event": "pusher:subscribe"',
        r'"auth": "my-key:\*\*\*\*\*\*\*\*"',
        '"event": "pusher_internal:subscription_succeeded"',
        f"Connection Closed +app=1001 socket={re.escape(socket_id)}",
    ):
        assert re.search(line, said), line
    assert SECRET not in said
    assert auth.partition(":")[2] not in said


async def test_debug_shows_refusals_closes_control_frames_and_answers() -> None:
    async with started("--debug", **APP) as server:
        async with connect(f"ws://127.0.0.1:{server.port}/app/other-key") as refused:
            await refused.wait_closed()
        async with connect(f"ws://127.0.0.1:{server.port}/app/my-key") as client:
            await client.recv()
            await (await client.ping())
            await client.send(b"binary")
            await client.wait_closed()
        url = f"http://127.0.0.1:{server.port}/apps/1001/events?auth_signature={'a' * 64}"
        async with aiohttp.ClientSession() as session, session.post(url) as response:
            assert response.status == 401
        _, said = await server.stopped_by(signal.SIGTERM)

    for line in (
        "Connection Refused +path=/app/other-key code=4001 "
        "reason='Application does not exist: check the app key'",
        r"Control Frame Received: ping +app=1001 socket=\d+\.\d+",
        r"Close Frame Sent +app=1001 socket=\d+\.\d+ code=1003 "
        "reason='Binary frames are not part of the protocol'",
        "Request Answered +method=POST path=/apps/1001/events status=401",
        "auth_key is not the key of this application",
    ):
        assert re.search(line, said), line
    assert "a" * 64 not in said


async def test_hanging_up_a_service_reloads_its_apps_and_keeps_its_connections(
    tmp_path: Path,
) -> None:
    file = tmp_path / "apps.json"
    kept = {"id": "1", "key": "kept", "secret": SECRET}
    file.write_text(json.dumps({"apps": [kept, {"id": "2", "key": "gone", "secret": SECRET}]}))
    async with started(REVERB_APPS_FILE=str(file)) as server:
        url = f"ws://127.0.0.1:{server.port}/app"
        async with connect(f"{url}/kept") as stays, connect(f"{url}/gone") as goes:
            await stays.recv()
            await goes.recv()
            file.write_text("not JSON")
            server.process.send_signal(signal.SIGHUP)
            await server.said("The apps were not reloaded .*REVERB_APPS_FILE")

            file.write_text(json.dumps({"apps": [{**kept, "enabled": True}]}))
            server.process.send_signal(signal.SIGHUP)
            await server.said(r"Reloaded the apps +apps=\['1'\]")

            await goes.wait_closed()
            assert goes.close_code == 4001
            await stays.send('{"event":"pusher:ping"}')
            assert await stays.recv(decode=True) == '{"event":"pusher:pong","data":"{}"}'
        assert (await server.stopped_by(signal.SIGTERM))[0] == 0


async def test_a_service_that_is_asked_to_reload_while_it_starts_does_so_when_it_has() -> None:
    async with starting(DEVNULL, **APP) as server:
        async with asyncio.timeout(PATIENCE):
            # From the first lines on it holds the signal; most has yet to be imported.
            while not holds_hang_up(server.process.pid):  # noqa: ASYNC110 - nothing says so
                await asyncio.sleep(0.001)
        server.process.send_signal(signal.SIGHUP)

        await server.said("Listening")
        await server.said(r"Reloaded the apps +apps=\['1001'\]")
        server.process.send_signal(signal.SIGHUP)
        await server.said(r"Reloaded the apps +apps=\['1001'\]")
        assert (await server.stopped_by(signal.SIGTERM))[0] == 0


def holds_hang_up(pid: int) -> bool:
    """Tell whether SIGHUP would wait for a process, where the system is Linux."""
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"^SigBlk:\s+([0-9a-f]+)$", status, re.MULTILINE)
    assert match is not None
    return bool(int(match[1], 16) & 1 << (signal.SIGHUP - 1))


@pytest.mark.parametrize("moment", ["at once", "when it listens"])
async def test_closing_the_terminal_ends_the_server(moment: str) -> None:
    terminal, stdin = os.openpty()
    try:
        async with starting(stdin, **APP) as server:
            if moment == "when it listens":
                await server.said("Listening")
            code, said = await server.stopped_by(signal.SIGHUP)
    finally:
        os.close(terminal)
        os.close(stdin)
    assert code == (0 if moment == "when it listens" else -signal.SIGHUP)
    assert "Reloaded" not in said


async def test_the_env_file_of_the_folder_is_read(tmp_path: Path) -> None:
    lines = [f'{name}="{value}"' for name, value in APP.items()]
    (tmp_path / ".env").write_text("\n".join(lines))

    async with started() as server:
        assert (await server.stopped_by(signal.SIGINT))[0] == 0


# 192.0.2.0/24 is for documentation and nobody's address.
@pytest.mark.parametrize(
    ("host", "reason", "other"),
    [
        ("127.0.0.1", errno.EADDRINUSE, "--port or REVERB_SERVER_PORT"),
        ("192.0.2.1", errno.EADDRNOTAVAIL, "--host or REVERB_SERVER_HOST"),
    ],
)
async def test_an_address_that_cannot_be_had_ends_the_start_with_one_line(
    host: str, reason: int, other: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupant:
        port = occupant.getsockname()[1]
        process = await process_of("--host", host, "--port", str(port), **APP)
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()

    assert (process.returncode, out) == (1, b"")
    assert err.decode() == (
        f"Error: can't listen on {host}:{port}: {os.strerror(reason).lower()} "
        f"(choose another with {other})\n"
    )


async def test_a_host_that_nobody_knows_is_blamed_on_the_host() -> None:
    process = await process_of("--host", "nowhere.invalid", "--port", "0", **APP)
    async with asyncio.timeout(PATIENCE):
        _, err = await process.communicate()

    assert process.returncode == 1
    assert err.decode().startswith("Error: can't listen on nowhere.invalid:0: ")
    assert err.decode().endswith("(choose another with --host or REVERB_SERVER_HOST)\n")


@pytest.mark.parametrize("command", ["start", "check"])
@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        (
            {},
            "REVERB_APP_ID and REVERB_APP_KEY and REVERB_APP_SECRET must be set: an app has "
            "an id, a key and a secret (or name a file of apps in REVERB_APPS_FILE)",
        ),
        (
            {**APP, "REVERB_SERVER_PORT": "http"},
            "REVERB_SERVER_PORT must be a whole number, not 'http'",
        ),
        (
            {**APP, "REVERB_APP_SECRET": "secret"},
            "the secret of app 1001 is easy to guess, and 0.0.0.0 can be reached from outside: "
            "use 16 random characters or more, or listen on 127.0.0.1",
        ),
    ],
)
def test_a_wrong_setting_ends_the_command_with_one_line(
    command: str, environment: dict[str, str], problem: str
) -> None:
    result = invoke(command, **environment)

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"Error: {problem}\n"


def test_an_env_file_that_cannot_be_read_ends_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe")

    result = invoke("start")

    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path}/.env must be UTF-8: invalid start byte at byte 0\n"


def test_check_says_what_the_settings_mean_and_keeps_the_secret() -> None:
    result = invoke("check", **APP, REVERB_SERVER_PORT="6001", REVERB_SERVER_PATH="realtime")

    assert result.exit_code == 0
    assert result.output == (
        "Listens on 0.0.0.0:6001/realtime\nApp 1001 with key my-key\nThe settings are good.\n"
    )


def test_check_tells_of_tls_and_of_proxies(tmp_path: Path) -> None:
    files = certificate_for(tmp_path, "mine")
    edge = {
        "REVERB_SERVER_SOCKET": "/run/reverb.sock",
        "REVERB_TLS_CERT_FILE": str(files.certificate),
        "REVERB_TLS_KEY_FILE": str(files.key),
        "REVERB_TRUSTED_PROXIES": "unix",
        "REVERB_PROXY_PROTOCOL": "true",
    }
    result = invoke("check", **APP, **edge)

    assert result.exit_code == 0
    assert result.output == (
        f"Listens on /run/reverb.sock with TLS, by {files.certificate}\n"
        "Takes connections from trusted proxies only, with PROXY heads\n"
        "App 1001 with key my-key\nThe settings are good.\n"
    )

    files.certificate.write_text("nonsense")
    result = invoke("check", **APP, **edge)
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: REVERB_TLS_CERT_FILE: {files.certificate} has no certificate in PEM form that "
        "can be used\n"
    )


def test_a_socket_is_instead_of_a_port() -> None:
    result = invoke("start", "--socket", "/tmp/reverb.sock", "--port", "1", **APP)

    assert result.exit_code == 2
    assert "--socket is instead of --host and --port: use one of them" in result.stderr


def test_the_version_is_told() -> None:
    result = invoke("--version")

    assert (result.exit_code, result.output) == (0, f"reverb-py, version {__version__}\n")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_shows_examples(option: str) -> None:
    result = invoke(option)

    assert result.exit_code == 0
    assert (
        "  Examples:\n"
        "    REVERB_APP_ID=1001 REVERB_APP_KEY=my-key REVERB_APP_SECRET=… reverb-py start\n"
        "    reverb-py start --port 6001 --debug\n"
        "    reverb-py check\n"
    ) in result.output
    for command in ("start", "check"):
        assert f"\n  {command} " in result.output


def test_the_help_of_start_names_the_variables_behind_its_options() -> None:
    result = invoke("start", "--help")

    assert result.exit_code == 0
    assert "REVERB_SERVER_HOST, else 0.0.0.0" in result.output
    assert "REVERB_SERVER_PORT, else 8080" in result.output
    assert "--debug" in result.output


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_wrong_option_is_refused_with_a_hint(port: str) -> None:
    result = invoke("start", "--port", port, **APP)

    assert result.exit_code == 2
    assert "Invalid value for '--port'" in result.stderr
    assert "--help" in result.stderr


async def test_metrics_are_shown_on_a_port_of_their_own_and_logs_are_objects() -> None:
    process = await process_of(
        *("--host", "127.0.0.1", "--port", "0"),
        **APP,
        REVERB_METRICS_PORT="0",
        REVERB_LOG_FORMAT="json",
    )
    try:
        server = Server(process)
        await server.said("Showing metrics")
        shown = re.fullmatch(
            r"http://127\.0\.0\.1:(\d+)/metrics", json.loads(server.lines[-1])["url"]
        )
        assert shown is not None
        port = int(shown[1])
        found = await scraped(port)
        public = json.loads(server.lines[0])["url"].rpartition(":")[2]
        assert found["connected", "1001", public] == 0
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{public}/metrics") as response,
        ):
            assert response.status == 404
        code, said = await server.stopped_by(signal.SIGTERM)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()

    assert code == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["level"] for line in lines] == ["info"] * len(lines)
    assert lines[0]["event"] == "Listening"
    assert lines[-1]["event"] == "Stopped"


async def test_a_port_for_metrics_that_is_taken_ends_the_start_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await process_of(
            "--host", "127.0.0.1", "--port", "0", **APP, REVERB_METRICS_PORT=str(port)
        )
        async with asyncio.timeout(PATIENCE):
            _, err = await process.communicate()

    assert process.returncode == 1
    assert err.decode() == (
        f"Error: can't show metrics on 127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE).lower()} "
        "(choose another REVERB_METRICS_PORT, or set REVERB_METRICS_ENABLED=false)\n"
    )


async def test_an_address_for_metrics_that_is_not_ours_is_blamed_on_the_host() -> None:
    process = await process_of(
        *("--host", "127.0.0.1", "--port", "0"),
        **APP,
        REVERB_METRICS_PORT="0",
        REVERB_METRICS_HOST="192.0.2.1",
    )
    async with asyncio.timeout(PATIENCE):
        _, err = await process.communicate()

    assert process.returncode == 1
    assert err.decode().endswith(
        "(choose another REVERB_METRICS_HOST, or set REVERB_METRICS_ENABLED=false)\n"
    )


def test_the_check_says_where_metrics_are() -> None:
    result = invoke("check", **APP, REVERB_METRICS_ENABLED="true")

    assert result.exit_code == 0
    assert "Shows metrics on 127.0.0.1:9601\n" in result.output
