"""The scripts as people use them: each a process of its own, in the project's own environment."""

import asyncio
import json
import os
import re
import runpy
import shutil
import signal
import socket
import sys
import venv
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from pytest_aiohttp.plugin import AiohttpServer

from reverb_py.testing import PATIENCE
from tests.end_to_end.servers import (
    ROOT,
    START_PATIENCE,
    Ended,
    Script,
    Servers,
    post,
    run,
    serving_both,
    settings_of,
    started,
)
from tests.support.certificates import certificate_for


@asynccontextmanager
async def listening(servers: Servers, *arguments: str) -> AsyncIterator[Script]:
    """Run the listener for Vali."""
    path = ROOT / "scripts" / "websocket_listener.py"
    async with started(path, *arguments, settings=servers.settings) as script:
        yield script


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


@contextmanager
def signals_as_in_a_terminal() -> Iterator[None]:
    """Have children stop on a hangup, also when the tests run under nohup."""
    before = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def _complete_environment() -> None:
    """Refuse to start what would install packages in the middle of a test."""
    is_complete = runpy.run_path(str(ROOT / "scripts" / "environment.py"))["is_complete"]
    assert is_complete("run"), "run scripts/test once: it installs what the scripts need into .venv"


@pytest.mark.usefixtures("_complete_environment")
async def test_listeners_show_people_and_programs_a_message_typing_and_reading(
    tmp_path: Path,
) -> None:
    nobody = "http://127.0.0.1:9"  # a proxy is not asked for what runs on this machine
    async with (
        serving_both(tmp_path, http_proxy=nobody, HTTP_PROXY=nobody, CHAT_JWT_TTL="") as servers,
        listening(servers) as for_people,
        listening(servers, "--json") as for_programs,
        aiohttp.ClientSession(f"http://127.0.0.1:{servers.chat_port}") as http,
    ):
        ali, vali = [
            await post(http, "/api/login", {"email": email, "password": "password"})
            for email in ("ali@example.com", "vali@example.com")
        ]
        channel = f"private-user.{vali['user']['id']}"
        await for_people.output.find(f"[SUCCESS] Subscribed to {channel} ✓", START_PATIENCE)
        await for_programs.errors.find(f"[SUCCESS] Subscribed to {channel} ✓", START_PATIENCE)
        chat = await post(http, "/api/chats", {"user_id": vali["user"]["id"]}, ali["access_token"])
        path = f"/api/chats/{chat['id']}"

        content = "Salom!\x1b[2J\nçay"
        sent = await post(
            http, f"{path}/messages", {"content": content, "tempId": "t-1"}, ali["access_token"]
        )
        heading = await for_people.output.find("NEW MESSAGE")
        assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] \[EVENT\] 📨 NEW MESSAGE", heading)
        assert [await for_people.output.next() for _ in range(3)] == [
            f"  ID: {sent['message']['id']}",
            f"  From: {sent['message']['sender_name']}",
            r"  Content: Salom!\x1b[2J\nçay",
        ]
        event = json.loads(await for_programs.output.next())
        assert (event["event"], event["channel"]) == ("MessageSent", channel)
        assert event["data"]["data"]["message"]["content"] == content

        await post(http, f"{path}/typing", {}, ali["access_token"])
        assert (await for_people.output.next()).endswith("[EVENT] ✍️  TYPING")
        assert [await for_people.output.next() for _ in range(2)] == [
            f"  Who: {ali['user']['firstName']} {ali['user']['lastName']}",
            f"  Chat: {chat['id']}",
        ]
        assert json.loads(await for_programs.output.next())["event"] == "UserIsTyping"

        await post(http, f"{path}/read", {}, vali["access_token"])
        assert (await for_people.output.next()).endswith("[EVENT] 👀 MESSAGES READ")
        assert [await for_people.output.next() for _ in range(3)] == [
            f"  By: user {vali['user']['id']}",
            f"  Chat: {chat['id']}",
            f"  Messages: {sent['message']['id']}",
        ]
        assert json.loads(await for_programs.output.next())["event"] == "MessagesRead"


@pytest.mark.usefixtures("_complete_environment")
async def test_with_a_certificate_both_servers_and_the_listener_speak_tls(tmp_path: Path) -> None:
    files = certificate_for(tmp_path, "reverb")
    tls = {
        "REVERB_TLS_CERT_FILE": str(files.certificate),
        "REVERB_TLS_KEY_FILE": str(files.key),
        "SSL_CERT_FILE": str(files.certificate),  # nobody has signed it but itself
    }
    async with (
        serving_both(tmp_path, scheme="wss", **tls) as servers,
        listening(servers) as listener,
        aiohttp.ClientSession(f"http://127.0.0.1:{servers.chat_port}") as http,
    ):
        await listener.output.find("[SUCCESS] Subscribed to private-user.", START_PATIENCE)
        account = {"email": "ali@example.com", "password": "password"}
        token = (await post(http, "/api/login", account))["access_token"]
        chat = await post(http, "/api/chats", {"user_id": 2}, token)
        message = {"content": "Salom!", "tempId": "t-1"}
        await post(http, f"/api/chats/{chat['id']}/messages", message, token)

        assert await listener.output.find("Content: ") == "  Content: Salom!"


@pytest.mark.usefixtures("_complete_environment")
async def test_a_certificate_that_the_chat_api_would_not_believe_is_one_line_at_the_start(
    tmp_path: Path,
) -> None:
    files = certificate_for(tmp_path, "reverb")
    tls = {"REVERB_TLS_CERT_FILE": str(files.certificate), "REVERB_TLS_KEY_FILE": str(files.key)}
    other_name = {"SSL_CERT_FILE": str(files.certificate), "REVERB_HOST": "ws.example.com"}

    unsigned = await run(ROOT / "scripts" / "server", settings=settings_of(tmp_path, **tls))
    misnamed = await run(
        ROOT / "scripts" / "server", settings=settings_of(tmp_path, **tls, **other_name)
    )

    line = (
        "REVERB_TLS_CERT_FILE: chat-api would not believe this certificate at {} ({}): set "
        "REVERB_HOST to a name in it and SSL_CERT_FILE to the certificate of its authority, or "
        "leave TLS out here\n"
    )
    reason = "Hostname mismatch, certificate is not valid for 'ws.example.com'"
    assert (unsigned.status, unsigned.output) == (misnamed.status, misnamed.output) == (1, "")
    signed_by_itself = unsigned.errors.replace("self-signed", "self signed")  # OpenSSL 1.1's words
    assert signed_by_itself == line.format("127.0.0.1", "self signed certificate")
    assert misnamed.errors == line.format("ws.example.com", reason)


@pytest.mark.usefixtures("_complete_environment")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_stops_both_servers(number: signal.Signals, tmp_path: Path) -> None:
    with signals_as_in_a_terminal():
        async with serving_both(tmp_path) as servers:
            assert await is_open(servers.reverb_port)
            assert await is_open(servers.chat_port)

            servers.script.process.send_signal(number)

            assert await servers.script.ends() == 0
            assert not await is_open(servers.reverb_port)
            assert not await is_open(servers.chat_port)


@pytest.mark.usefixtures("_complete_environment")
@pytest.mark.parametrize("variable", ["REVERB_SERVER_PORT", "CHAT_PORT"])
async def test_a_port_that_is_taken_is_refused_before_anything_starts(
    variable: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = settings_of(tmp_path, **{variable: str(port)})

        ended = await run(ROOT / "scripts" / "server", settings=settings)

    taken = f"127.0.0.1:{port} is taken: stop what listens there or set {variable}\n"
    assert ended == Ended(1, "", taken)


@pytest.mark.usefixtures("_complete_environment")
@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"REVERB_SERVER_PORT": "abc"},
            "REVERB_SERVER_PORT must be a whole number, not 'abc'\n",
        ),
        (
            {"CHAT_PORT": "abc"},
            "CHAT_PORT must be a whole number, not 'abc'\n",
        ),
        (
            {"REVERB_SERVER_HOST": "192.0.2.1"},  # nobody's, and in no need of a name server
            "can't listen on 192.0.2.1:0: ",
        ),
        (
            {"REVERB_SERVER_SOCKET": "/tmp/reverb.sock"},
            "scripts/server needs a port that both servers reach: leave REVERB_SERVER_SOCKET out, "
            "or start reverb-py and chat-api by themselves\n",
        ),
        (
            {"REVERB_PROXY_PROTOCOL": "true", "REVERB_TRUSTED_PROXIES": "127.0.0.1"},
            "scripts/server has no proxy between the servers: leave REVERB_PROXY_PROTOCOL out, or "
            "start reverb-py and chat-api by themselves\n",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_a_wrong_setting_is_one_line_before_anything_starts(
    settings: dict[str, str], line: str, tmp_path: Path
) -> None:
    ended = await run(ROOT / "scripts" / "server", settings=settings_of(tmp_path, **settings))

    assert (ended.status, ended.output) == (1, "")
    assert ended.errors.startswith(line)
    assert ended.errors.count("\n") == 1


@pytest.mark.usefixtures("_complete_environment")
@pytest.mark.parametrize("address", ["http://", "ftp://127.0.0.1", "http://127.0.0.1:abc"])
async def test_the_listener_gives_up_on_what_is_no_address(address: str, tmp_path: Path) -> None:
    path = ROOT / "scripts" / "websocket_listener.py"

    ended = await run(path, "--api", address, "--port", "9", settings=settings_of(tmp_path))

    assert ended.status == 1
    assert "[ERROR] This is no address to connect to: " in ended.output
    assert "Trying again" not in ended.output


@pytest.mark.usefixtures("_complete_environment")
async def test_the_listener_says_what_to_do_while_nothing_has_answered(tmp_path: Path) -> None:
    path = ROOT / "scripts" / "websocket_listener.py"
    with socket.create_server(("127.0.0.1", 0)) as server:
        api = f"http://127.0.0.1:{server.getsockname()[1]}"
    arguments = ("--api", api, "--port", "9")
    async with started(path, *arguments, settings=settings_of(tmp_path)) as script:
        assert (await script.output.next(START_PATIENCE)).endswith(
            f"[WARNING] Nothing answers at {api} (connection refused): is scripts/server running? "
            "Other ports: --api, --port"
        )


@pytest.mark.usefixtures("_complete_environment")
async def test_the_listener_gives_up_where_no_websocket_server_is(
    tmp_path: Path, aiohttp_server: AiohttpServer
) -> None:
    other = await aiohttp_server(web.Application())
    arguments = ("--channel", "news", "--port", str(other.port))

    ended = await run(
        ROOT / "scripts" / "websocket_listener.py", *arguments, settings=settings_of(tmp_path)
    )

    assert ended.status == 1
    assert ended.output.endswith(
        f"[ERROR] ws://127.0.0.1:{other.port}/app/scripts-key?protocol=7 answered 404: no "
        "WebSocket server is there (another: --host, --port)\n"
    )
    assert "Trying again" not in ended.output


@pytest.mark.parametrize("name", ["server", "test"])
async def test_help_is_given_before_anything_is_installed(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")

    ended = await run(tmp_path / "scripts" / name, "--help", settings={})

    assert (ended.status, ended.errors) == (0, "")
    assert f"scripts/{name} " in ended.output
    assert not (tmp_path / ".venv").exists()


BACKEND = """
import zipfile

FILES = {
    "METADATA": "Metadata-Version: 2.1\\nName: empty\\nVersion: 1\\n",
    "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    "RECORD": "",
}

def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{folder}/empty-1-py3-none-any.whl", "w") as wheel:
        for name, content in FILES.items():
            wheel.writestr(f"empty-1.dist-info/{name}", content)
    return "empty-1-py3-none-any.whl"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Make a project with our environment.py that needs no network to be installed."""
    scripts = tmp_path / "scripts"
    (scripts / "locked").mkdir(parents=True)
    (scripts / "locked" / "run.txt").touch()
    shutil.copy(ROOT / "scripts" / "environment.py", scripts)
    (scripts / "prefix").write_text(
        "import sys, environment\nenvironment.enter('run')\nprint(sys.prefix)\n"
    )
    (tmp_path / "backend.py").write_text(BACKEND)
    (tmp_path / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "empty"\nversion = "1"\n'
    )
    (tmp_path / "path").mkdir()
    return tmp_path


async def test_an_environment_without_pip_is_made_anew_where_there_is_no_uv(project: Path) -> None:
    venv.create(project / ".venv", with_pip=False)
    without_uv = {"PATH": str(project / "path")}

    ended = await run(project / "scripts" / "prefix", settings=without_uv)

    assert (ended.status, ended.output) == (0, f"{project / '.venv'}\n"), ended.errors


async def test_ctrl_c_ends_an_installation_quietly_and_altogether(project: Path) -> None:
    uv = project / "path" / "uv"
    uv.write_text(f"#!{sys.executable}\nimport signal\nprint('busy', flush=True)\nsignal.pause()\n")
    uv.chmod(0o755)
    with signals_as_in_a_terminal():
        settings = {"PATH": str(project / "path")}
        async with started(project / "scripts" / "prefix", settings=settings) as script:
            assert await script.output.next() == "busy"

            os.killpg(script.process.pid, signal.SIGINT)

            # Its outputs end when nothing is left that could write to them.
            async with asyncio.timeout(PATIENCE):
                output, errors = await script.process.communicate()
            assert (script.process.returncode, output) == (130, b"")
            assert errors.decode() == (
                f"Installing what is needed to run into {project / '.venv'} …\n"
            )
