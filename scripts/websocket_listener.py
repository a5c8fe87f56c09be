#!/usr/bin/env python3
"""Log in, connect, authorize, subscribe to the user's channel, and print what happens there."""

import environment

environment.enter("run")

import asyncio
import json
import os
import random
import ssl
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp
import click
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from reverb_py.settings import WrongSetting, load_environment

try:
    _LOCAL = load_environment(os.environ, environment.ROOT)
except WrongSetting as exc:
    sys.exit(str(exc))

# The authorities that scripts/server has the chat API believe.
os.environ |= {name: _LOCAL[name] for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in _LOCAL}

_COLOURS = {"SUCCESS": "green", "EVENT": "cyan", "WARNING": "yellow", "ERROR": "red"}


def _reachable(*names: str) -> str:
    """Return the first of these settings, as an address one can connect to."""
    host = next((_LOCAL[name] for name in names if name in _LOCAL), "127.0.0.1")
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class Hopeless(Exception):
    """Trying again would change nothing; the text says what to do instead."""


class Screen:
    """
    Where lines for people go: standard output, or standard error when events go there as JSON.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def say(self, level: str, text: str) -> None:
        """Print one line with the time and a level."""
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
        label = click.style(f"[{level}]", fg=_COLOURS.get(level))
        click.echo(f"[{now}] {label} {printable(text)}", err=self._as_json)

    def show(self, event: str, channel: str | None, data: Any) -> None:
        """Print one event: a line of JSON for programs, or words for people."""
        if self._as_json:
            # In ASCII, which no terminal takes for a command.
            click.echo(json.dumps({"event": event, "channel": channel, "data": data}))
            return
        title, lines = describe(event, channel, data)
        self.say("EVENT", title)
        for line in lines:
            click.echo(f"  {printable(line)}")


def printable(text: str) -> str:
    """Return one line that a terminal only shows: the rest is written as Python writes it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    api: str
    websocket: str
    email: str
    password: str
    channels: tuple[str, ...]
    events: tuple[str, ...]
    debug: bool
    screen: Screen


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--email", default="vali@example.com", show_default=True)
@click.option(
    "--password",
    default="password",
    envvar="CHAT_PASSWORD",
    show_envvar=True,
    help="Of the account; the variable keeps it out of the list of processes.",
)
@click.option(
    "--api",
    default=f"http://{_in_url(_reachable('CHAT_HOST'))}:{_LOCAL.get('CHAT_PORT', 8383)}",
    show_default=True,
    help="Where chat_api is.",
)
@click.option(
    "--host",
    default=_reachable("REVERB_HOST", "REVERB_SERVER_HOST"),
    show_default=True,
    help="Host of the WebSocket server.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=_LOCAL.get("REVERB_PORT") or _LOCAL.get("REVERB_SERVER_PORT", 8080),
    show_default=True,
)
@click.option(
    "--scheme",
    type=click.Choice(["http", "https"]),
    default=_LOCAL.get("REVERB_SCHEME", "https" if "REVERB_TLS_CERT_FILE" in _LOCAL else "http"),
    show_default=True,
    help="https connects with wss.",
)
@click.option("--key", default=_LOCAL.get("REVERB_APP_KEY"), help="App key [REVERB_APP_KEY].")
@click.option(
    "--channel",
    "channels",
    multiple=True,
    help="Channel to listen to; may be repeated [private-user.ID of the account].",
)
@click.option("--event", "events", multiple=True, help="Show only events of this name.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as one line of JSON.")
@click.option("--debug", is_flag=True, help="Show every frame.")
def main(
    email: str,
    password: str,
    api: str,
    host: str,
    port: int,
    scheme: str,
    key: str | None,
    channels: tuple[str, ...],
    events: tuple[str, ...],
    as_json: bool,
    debug: bool,
) -> None:
    """Log in to chat_api, connect to reverb_py, and print the events of your channel as they come.

    \b
    Examples:
      scripts/websocket_listener.py
      scripts/websocket_listener.py --email ali@example.com --event MessageSent
      scripts/websocket_listener.py --channel orders --json
    """
    if not key:
        raise click.UsageError(
            "No app key: set REVERB_APP_KEY, pass --key, or run scripts/server first, which makes "
            "one and keeps it in .env"
        )
    address = f"{'wss' if scheme == 'https' else 'ws'}://{_in_url(host)}:{port}"
    websocket = f"{address}/app/{key}?protocol=7"
    screen = Screen(as_json=as_json)
    options = Options(api.rstrip("/"), websocket, email, password, channels, events, debug, screen)
    with suppress(KeyboardInterrupt):
        try:
            asyncio.run(listen(options))
        except Hopeless as exc:
            screen.say("ERROR", str(exc))
            sys.exit(1)


async def listen(options: Options) -> None:
    """Stay connected until it is hopeless or Ctrl-C."""
    has_connected = asyncio.Event()
    async with aiohttp.ClientSession() as http:
        for delay in reconnection_delays():
            try:
                await listen_once(options, http, has_connected)
            except ConnectionClosed as exc:
                code = exc.rcvd.code if exc.rcvd else 1006
                reason = exc.rcvd.reason if exc.rcvd else "connection lost"
                if 4000 <= code < 4100:
                    raise Hopeless(f"The server refuses the connection: {code} {reason}") from None
                options.screen.say("WARNING", f"Connection closed: {code} {reason}")
            except (InvalidURI, aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as exc:
                raise Hopeless(f"This is no address to connect to: {exc}") from None
            except InvalidStatus as exc:
                status = exc.response.status_code
                if 400 <= status < 500 and status != 429:
                    raise Hopeless(
                        f"{options.websocket} answered {status}: no WebSocket server is there "
                        "(another: --host, --port)"
                    ) from None
                options.screen.say("WARNING", f"Not connected: {exc}")
            except (ssl.SSLCertVerificationError, aiohttp.ClientConnectorCertificateError) as exc:
                raise Hopeless(
                    f"The certificate is not believed: {reason_of(exc)} (SSL_CERT_FILE names those "
                    "of other authorities)"
                ) from None
            except (OSError, InvalidHandshake, TimeoutError, aiohttp.ClientError) as exc:
                text = f"Not connected: {reason_of(exc)}"
                if isinstance(exc, OSError):
                    is_apis = isinstance(exc, aiohttp.ClientError)
                    where = options.api if is_apis else options.websocket
                    text = f"Nothing answers at {where} ({reason_of(exc)})"
                    if not has_connected.is_set():
                        text += ": is scripts/server running? Other ports: --api, --port"
                options.screen.say("WARNING", text)
            options.screen.say("INFO", f"Trying again in {delay:.0f} s (Ctrl-C stops)")
            await asyncio.sleep(delay)


def reason_of(error: Exception) -> str:
    """Return why there was no connection, without the addresses that libraries put around it."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return str(error.certificate_error)
    if isinstance(error, aiohttp.ClientConnectorError):
        return reason_of(error.os_error)
    if isinstance(error, OSError) and error.errno is not None:
        # asyncio's own words have the address in them.
        named = os.strerror(error.errno) if error.errno > 0 else error.strerror
        return (named or str(error)).lower()
    return str(error) or type(error).__name__


def reconnection_delays() -> Iterator[float]:
    """Yield seconds: 1, 2, 4 … 30, each with a quarter of chance, so that many do not march."""
    delay = 1.0
    while True:
        yield delay * random.uniform(0.75, 1.25)
        delay = min(delay * 2, 30.0)


async def listen_once(
    options: Options, http: aiohttp.ClientSession, has_connected: asyncio.Event
) -> None:
    """Log in, connect, subscribe, and print events until the connection ends."""
    channels = options.channels
    token = ""
    if not channels or any(name.startswith(("private-", "presence-")) for name in channels):
        token, user_id = await log_in(options, http)
        channels = channels or (f"private-user.{user_id}",)
    async with connect(options.websocket, compression=None, proxy=None) as websocket:
        has_connected.set()
        options.screen.say("SUCCESS", "WebSocket connection opened")
        async for text in websocket:
            if options.debug:
                options.screen.say("DEBUG", f"← {text!r}")
            message = json.loads(text)
            data = message.get("data")
            if isinstance(data, str):
                with suppress(ValueError):
                    data = json.loads(data)
            event, channel = message["event"], message.get("channel")
            if event == "pusher:connection_established":
                options.screen.say("SUCCESS", f"Connected! socket_id={data['socket_id']}")
                for name in channels:
                    await subscribe(options, http, websocket, name, data["socket_id"], token)
            elif event == "pusher_internal:subscription_succeeded":
                options.screen.say("SUCCESS", f"Subscribed to {channel} ✓")
            elif event == "pusher:ping":
                await websocket.send('{"event":"pusher:pong","data":{}}')
            elif event in ("pusher:error", "pusher:subscription_error"):
                options.screen.say(
                    "ERROR", f"{event} {channel or ''} {json.dumps(data, ensure_ascii=False)}"
                )
            elif is_wanted(event, options):
                options.screen.show(event, channel, data)


def is_wanted(event: str, options: Options) -> bool:
    """Tell whether an event is an application's, and one that was asked for."""
    if event.startswith(("pusher:", "pusher_internal:")):
        return False
    return not options.events or event in options.events


async def log_in(options: Options, http: aiohttp.ClientSession) -> tuple[str, int]:
    """Return the token and the id of the account."""
    url = f"{options.api}/api/login"
    account = {"email": options.email, "password": options.password}
    async with http.post(url, json=account) as response:
        if response.status in (400, 401, 403, 404, 422):
            raise Hopeless(f"{url} answered {response.status}: {await response.text()}")
        response.raise_for_status()
        answer = await response.json()
    options.screen.say("SUCCESS", f"Login successful! ✓ {options.email}")
    return answer["access_token"], answer["user"]["id"]


async def subscribe(
    options: Options,
    http: aiohttp.ClientSession,
    websocket: ClientConnection,
    channel: str,
    socket_id: str,
    token: str,
) -> None:
    """Ask the chat API for the authorization that the channel needs, and subscribe."""
    data: dict[str, str] = {"channel": channel}
    if channel.startswith(("private-", "presence-")):
        async with http.post(
            f"{options.api}/broadcasting/auth",
            json={"socket_id": socket_id, "channel_name": channel},
            headers={"Authorization": f"Bearer {token}"},
        ) as response:
            if response.status != 200:
                raise Hopeless(
                    f"Not authorized for {channel}: {response.status} {await response.text()}"
                )
            data |= await response.json()
    await websocket.send(json.dumps({"event": "pusher:subscribe", "data": data}))


def describe(event: str, channel: str | None, data: Any) -> tuple[str, list[str]]:
    """Return a title and the lines below it, in the words of what happened."""
    details: Any = data.get("data") if isinstance(data, dict) else None
    name = event.rpartition("\\")[2]
    try:
        if name == "MessageSent":
            message = details["message"]
            return "📨 NEW MESSAGE", [
                f"ID: {message['id']}",
                f"From: {message['sender_name']}",
                f"Content: {message['content']}",
            ]
        if name == "UserIsTyping":
            user = details["user"]
            return "✍️  TYPING", [
                f"Who: {user['firstName']} {user['lastName']}",
                f"Chat: {details['conversation_id']}",
            ]
        if name == "MessagesRead":
            return "👀 MESSAGES READ", [
                f"By: user {details['reader_id']}",
                f"Chat: {details['conversation_id']}",
                f"Messages: {', '.join(details['message_ids'])}",
            ]
    except (KeyError, TypeError):
        pass
    return f"🔔 {event} on {channel}", [json.dumps(data, ensure_ascii=False)]


if __name__ == "__main__":
    main()
