"""
Assembly: database, then services, then the relay, then the listener; and back down again.

Nothing here decides anything. What runs is what `running` puts together, in tests as in production.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog
from aiohttp import web
from argon2 import PasswordHasher

from chat_api.features.auth.passwords import Passwords
from chat_api.features.auth.routes import auth_feature
from chat_api.features.auth.service import Accounts
from chat_api.features.auth.tokens import Tokens
from chat_api.features.chats.routes import chats_feature
from chat_api.features.chats.service import Chats
from chat_api.kernel.clock import Clock, system_clock
from chat_api.kernel.throttling import Throttle
from chat_api.realtime.broadcaster import Broadcaster
from chat_api.realtime.channel_rules import ChannelRules
from chat_api.realtime.relay import Backoff, Relay
from chat_api.realtime.reverb import ReverbClient
from chat_api.settings import Settings
from chat_api.store.engine import Store
from chat_api.store.outbox import Outbox
from chat_api.web.app import create_app
from chat_api.web.health import health_route
from chat_api.web.proxies import TrustedProxies
from chat_api.web.seeding import seed_everything, seed_route

__all__ = ["ChatApi", "migrated_store", "running", "serve", "with_accounts"]

_log = structlog.get_logger("chat_api")

_FINISH_REQUESTS = 5.0  # seconds that requests in progress get when stopping
_DRAIN = 3.0  # seconds that the relay gets after that
_SILENCE = 75.0  # seconds that a client may take for its (next) request; most proxies give 60


@dataclass(frozen=True, slots=True)
class ChatApi:
    """A chat API that is up, at `url`."""

    url: str
    accounts: Accounts
    store: Store


@asynccontextmanager
async def migrated_store(settings: Settings) -> AsyncIterator[Store]:
    """Open the database and bring its schema up to date."""
    store = Store(settings.database_url)
    try:
        await store.migrate()
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def with_accounts(
    settings: Settings,
    store: Store,
    *,
    hasher: PasswordHasher | None = None,
    clock: Clock = system_clock,
) -> AsyncIterator[Accounts]:
    """Put the accounts together, with as many password threads as there are cores, up to four."""
    # The default parameters follow RFC 9106's recommendation for servers with little memory.
    passwords = Passwords(hasher or PasswordHasher(), workers=min(4, os.cpu_count() or 1))
    failures = "Too many failed logins."
    try:
        yield Accounts(
            store,
            Tokens(settings.jwt_secret, settings.jwt_lifetime, clock),
            passwords,
            clock,
            per_account=Throttle(settings.logins_per_minute, 60, failures, clock),
            per_address=Throttle(settings.logins_per_minute * 10, 60, failures, clock),
        )
    finally:
        passwords.close()


@asynccontextmanager
async def running(
    settings: Settings,
    *,
    hasher: PasswordHasher | None = None,
    clock: Clock = system_clock,
    backoff: Backoff = Backoff(),  # noqa: B008 - immutable
    silence: float = _SILENCE,
) -> AsyncIterator[ChatApi]:
    """
    Run a chat API while the block runs; port 0 takes a free one.

    A connection that has not sent the head of a request within `silence` seconds, from its start or
    from the last answer, is closed. On the way out the API stops listening, lets requests finish,
    gives the relay a moment to empty the outbox, and closes the database.

    Raises:
        OSError: It cannot listen.
    """
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(migrated_store(settings))
        accounts = await stack.enter_async_context(
            with_accounts(settings, store, hasher=hasher, clock=clock)
        )
        outbox = Outbox(store)
        reverb = await stack.enter_async_context(ReverbClient(settings.reverb, clock))
        relay = Relay(outbox, reverb, clock, backoff=backoff)
        await stack.enter_async_context(relay.running(drain=_DRAIN))

        broadcaster = Broadcaster(outbox, clock, relay.wake, settings.event_namespace)
        rules = ChannelRules()
        limit = settings.messages_per_minute
        chats = Chats(
            store,
            broadcaster,
            clock,
            messages=Throttle(limit, 60, "You are sending too fast.", clock),
            typing=Throttle(limit, 60, "You are typing too fast.", clock),
        )
        features = (
            auth_feature(
                accounts,
                rules,
                app_key=settings.reverb.key,
                app_secret=settings.reverb.secret,
            ),
            chats_feature(chats),
        )
        for feature in features:
            rules.add(feature.channel_rules)
        routes = [route for feature in features for route in feature.routes]
        routes.append(health_route(store, outbox, reverb, clock))
        if settings.seed:
            await seed_everything(features)
            routes.append(seed_route(features))
        proxies = TrustedProxies(settings.trusted_proxies, settings.auth == "proxy")

        runner = web.AppRunner(
            create_app(routes, accounts.authenticate, proxies),
            access_log=None,
            keepalive_timeout=silence,
            shutdown_timeout=_FINISH_REQUESTS,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
        await site.start()
        host, port = runner.addresses[0][:2]
        host = f"[{host}]" if ":" in host else host
        yield ChatApi(f"http://{host}:{port}", accounts, store)


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run a chat API until `stop` is set, saying where it is and when it leaves."""
    if settings.has_weak_secret:
        _log.warning("CHAT_JWT_SECRET is weak: good enough on this machine, not on a public one")
    async with running(settings) as api:
        _log.info(
            "The chat API is up",
            url=api.url,
            realtime_server=f"{settings.reverb.host}:{settings.reverb.port}",
        )
        await stop.wait()
        _log.info("Stopping: finishing requests and sending what is left")
    _log.info("Stopped")
