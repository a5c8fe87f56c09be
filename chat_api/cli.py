"""The `chat-api` command: serve, migrate, create-user."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import click
import structlog
from sqlalchemy.exc import DatabaseError

from chat_api.features.auth.service import ROLES
from chat_api.kernel.errors import ChatError
from chat_api.runtime import migrated_store, serve, with_accounts
from chat_api.settings import Settings, SettingsError, environment

__all__ = ["configure_logging", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A chat backend. Settings come from the environment and from .env."""


@main.command("serve")
@click.option("--host", help="Address to listen on. [CHAT_HOST, 127.0.0.1]")
@click.option("--port", help="Port to listen on. [CHAT_PORT, 8383]")
@click.option("--debug", is_flag=True, help="Log every request.")
def serve_command(host: str | None, port: str | None, debug: bool) -> None:
    """Serve until interrupted, bringing the database up to date first."""
    configure_logging(debug=debug)
    settings = _settings(CHAT_HOST=host, CHAT_PORT=port)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, stop.set)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
        try:
            await serve(settings, stop)
        except OSError as error:
            raise click.ClickException(
                f"Cannot listen on {settings.host}:{settings.port}: {error.strerror or error}. "
                "Choose another CHAT_HOST or CHAT_PORT, or stop what is there."
            ) from None

    _run(run)


@main.command()
def migrate() -> None:
    """Bring the database up to date and exit."""
    configure_logging(debug=False)
    settings = _settings()

    async def run() -> None:
        async with migrated_store(settings):
            click.echo("The database is up to date.")

    _run(run)


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
    configure_logging(debug=False)
    settings = _settings()

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

    _run(run)


def _settings(**overrides: str | None) -> Settings:
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings.read(environment(os.environ) | given)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def _run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            runner.run(main())
    except DatabaseError as error:
        raise click.ClickException(
            f"Cannot use the database at CHAT_DATABASE_URL: {error.orig}."
        ) from None


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # Windows, PyPy
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def configure_logging(*, debug: bool) -> None:
    """
    Write logs to standard error: from information upwards, or everything with `debug`.

    Tracebacks come without the values of variables, which hold passwords, tokens and messages.
    """
    renderer = structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.INFO
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
