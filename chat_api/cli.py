"""The `chat-api` command: serve, migrate, create-user, create-tenant."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
from sqlalchemy.exc import DatabaseError

from chat_api.features.tenants.service import Tenants
from chat_api.kernel.callers import ROLES
from chat_api.kernel.clock import system_clock
from chat_api.kernel.errors import ChatError, Unavailable
from chat_api.runtime import CannotListen, migrated_store, serve, with_accounts
from chat_api.settings import Settings, WrongSetting, load_environment
from chat_api.store.database import UnusableDatabase
from chat_api.telemetry.logs import configure_logs
from reverb_py import __version__

__all__ = ["main"]

_STOPPING = (signal.SIGINT, signal.SIGTERM)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="chat-api")
def main() -> None:
    """A chat backend that says what it has to say through a Pusher-protocol server.

    Settings come from the environment or a .env file in the current folder.

    \b
    Examples:
      CHAT_JWT_SECRET=… REVERB_APP_ID=1001 REVERB_APP_KEY=… REVERB_APP_SECRET=… chat-api serve
      chat-api serve --port 8384 --debug
      chat-api create-user ann@example.com --first-name Ann
      chat-api create-tenant tenant1.example.com --name "Tenant One"
    """


@main.command("serve")
@click.option("--host", help="Address to listen on [CHAT_HOST, else 127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="Port [CHAT_PORT, else 8383].")
@click.option("--debug", is_flag=True, help="Show every request.")
def serve_command(host: str | None, port: int | None, debug: bool) -> None:
    """Serve until interrupted, bringing the database up to date first."""
    settings = _settings_or_exit(host, port)
    configure_logs(debug=debug, as_json=settings.logs_as_json)

    async def run() -> None:
        stop = asyncio.Event()
        _stop_by_signals(stop)
        try:
            await serve(settings, stop)
        except CannotListen as error:
            raise click.ClickException(str(error)) from None

    _run(run, settings)


@main.command()
def migrate() -> None:
    """Bring the database up to date and exit."""
    settings = _settings_or_exit()
    configure_logs(debug=False, as_json=settings.logs_as_json)

    async def run() -> None:
        async with migrated_store(settings):
            click.echo("The database is up to date.")

    _run(run, settings)


@main.command("create-user")
@click.argument("email")
@click.option("--first-name", required=True)
@click.option("--last-name", default="")
@click.option("--role", type=click.Choice(ROLES), default="user", show_default=True)
@click.option("--tenant", "tenants", multiple=True, help="A domain that staff serve; * for all.")
@click.password_option(help="Asked for when left out.")
def create_user(
    email: str, first_name: str, last_name: str, role: str, tenants: tuple[str, ...], password: str
) -> None:
    """Open an account for EMAIL."""
    settings = _settings_or_exit()
    configure_logs(debug=False, as_json=settings.logs_as_json)

    async def run() -> None:
        async with migrated_store(settings) as store, with_accounts(settings, store) as accounts:
            try:
                person = await accounts.create(
                    email=email,
                    password=password,
                    first_name=first_name,
                    last_name=last_name,
                    role=role,
                    tenants=tenants,
                )
            except ChatError as error:
                raise click.ClickException(error.message) from None
            click.echo(f"{person.email} has the id {person.id}.")

    _run(run, settings)


@main.command("create-tenant")
@click.argument("domain")
@click.option("--name", default="", help="What people know the tenant as; by default its domain.")
def create_tenant(domain: str, name: str) -> None:
    """
    Register DOMAIN as a tenant's own.

    What staff ask there is about this tenant alone. Customers can ask for help anywhere.
    """
    settings = _settings_or_exit()
    configure_logs(debug=False, as_json=settings.logs_as_json)

    async def run() -> None:
        async with migrated_store(settings) as store:
            try:
                registered = await Tenants(store, system_clock).register(domain, name)
            except ChatError as error:
                raise click.ClickException(error.message) from None
            click.echo(f"{registered} is a tenant.")

    _run(run, settings)


def _settings_or_exit(host: str | None = None, port: int | None = None) -> Settings:
    try:
        environment = load_environment(os.environ, Path.cwd())
        return Settings.from_environment(environment, host=host, port=port)
    except WrongSetting as error:
        raise click.ClickException(str(error)) from None


def _run(main: Callable[[], Coroutine[Any, Any, None]], settings: Settings) -> None:
    try:
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            runner.run(main())
    except (DatabaseError, UnusableDatabase) as error:
        reason = error.orig if isinstance(error, DatabaseError) else error
        # Other addresses may have a password in them.
        path = settings.database_url.partition("sqlite:///")[2]
        where = f"at CHAT_DATABASE_URL, {path}" if path else "at CHAT_DATABASE_URL"
        raise click.ClickException(f"can't use the database {where}: {reason}") from None
    except Unavailable as error:
        raise click.ClickException(error.message) from None


def _stop_by_signals(stop: asyncio.Event) -> None:
    """Have the first signal set `stop`, and the second end the process, whatever it waits for."""
    loop = asyncio.get_running_loop()

    def begin_to_stop() -> None:
        stop.set()
        for number in _STOPPING:
            try:
                loop.remove_signal_handler(number)
            except NotImplementedError:  # Windows
                pass
            signal.signal(number, signal.SIG_DFL)

    for number in _STOPPING:
        try:
            loop.add_signal_handler(number, begin_to_stop)
        except NotImplementedError:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(begin_to_stop))


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows, PyPy
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
