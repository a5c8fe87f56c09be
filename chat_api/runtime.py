"""
Assembly: database, then services, then the relay, then the listener; and back down again.

Nothing here decides anything. What runs is what `running` puts together, in tests as in production.
"""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
from aiohttp import web
from argon2 import PasswordHasher

from chat_api.features import Feature
from chat_api.features.auth.passwords import Passwords
from chat_api.features.auth.routes import auth_feature
from chat_api.features.auth.service import Accounts
from chat_api.features.auth.tokens import Tokens
from chat_api.features.chats.routes import chats_feature
from chat_api.features.chats.service import Chats
from chat_api.features.notifications.delivery import PushDelivery, Retries
from chat_api.features.notifications.fcm import FcmClient
from chat_api.features.notifications.routes import notifications_feature
from chat_api.features.notifications.service import Devices, Pushes
from chat_api.features.support.feature import Support, Timing
from chat_api.features.support.service import Limits
from chat_api.features.tenants.service import Tenants
from chat_api.features.wallet.routes import wallet_feature
from chat_api.features.wallet.service import Wallets
from chat_api.kernel.clock import Clock, system_clock
from chat_api.kernel.throttling import Throttle
from chat_api.realtime.broadcaster import Broadcaster
from chat_api.realtime.channel_rules import ChannelRules
from chat_api.realtime.relay import Backoff, Relay
from chat_api.realtime.reverb import ReverbClient
from chat_api.realtime.webhooks import Webhooks
from chat_api.settings import Settings
from chat_api.store.engine import Store
from chat_api.store.outbox import Outbox
from chat_api.telemetry.metrics import Metrics
from chat_api.web.app import create_app
from chat_api.web.documentation import documentation_feature
from chat_api.web.health import health_route
from chat_api.web.openapi import Deployment
from chat_api.web.origins import Origins
from chat_api.web.proxies import TrustedProxies
from chat_api.web.seeding import seed_everything, seed_route
from chat_api.web.sending import Sending
from reverb_py import __version__

__all__ = ["CannotListen", "ChatApi", "migrated_store", "running", "serve", "with_accounts"]

_log = structlog.get_logger("chat_api")

_FINISH_REQUESTS = 5.0  # seconds that requests in progress get when stopping
_DRAIN = 3.0  # seconds that the relay gets after that
_KEEP_REFUSED = timedelta(days=7)  # or as long as conversations, if that is shorter
_SILENCE = 75.0  # seconds that a client may take for its (next) request; most proxies give 60


class CannotListen(Exception):
    """An address can't be listened on; the text is one line: which, why and what to do."""


@dataclass(frozen=True, slots=True)
class ChatApi:
    """A chat API that is up, at `url`, with everything it serves; its metrics may be elsewhere."""

    url: str
    accounts: Accounts
    store: Store
    features: tuple[Feature, ...]
    metrics_url: str | None


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
            per_account_and_address=Throttle(settings.logins_per_minute, 60, failures, clock),
            per_address=Throttle(settings.logins_per_minute * 10, 60, failures, clock),
            per_account=Throttle(settings.logins_per_minute * 100, 60, failures, clock),
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
    retries: Retries = Retries(),  # noqa: B008 - immutable
    silence: float = _SILENCE,
    timing: Timing = Timing(),  # noqa: B008 - immutable
) -> AsyncIterator[ChatApi]:
    """
    Run a chat API while the block runs; port 0 takes a free one.

    A connection that has not sent the head of a request within `silence` seconds, from its start or
    from the last answer, is closed. On the way out the API stops listening, lets requests finish,
    ends what it does by itself, gives push notifications and the relay a moment each to send what
    is left, stops showing metrics, and closes the database.

    Raises:
        CannotListen: Not on one of its addresses.
    """
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(migrated_store(settings))
        accounts = await stack.enter_async_context(
            with_accounts(settings, store, hasher=hasher, clock=clock)
        )
        metrics = metrics_url = None
        if settings.metrics_port is not None:
            metrics = Metrics(__version__)
            with _explained(settings.metrics_host, settings.metrics_port, "CHAT_METRICS_PORT"):
                serving = metrics.served(settings.metrics_host, settings.metrics_port)
                port = await stack.enter_async_context(serving)
            metrics_url = f"{_url(settings.metrics_host, port)}/metrics"
        outbox = Outbox(store)
        keep_refused = min(_KEEP_REFUSED, settings.retention or _KEEP_REFUSED)
        await stack.enter_async_context(outbox.forgetting(clock, keep_for=keep_refused))
        reverb = await stack.enter_async_context(ReverbClient(settings.reverb, clock))
        relay = Relay(outbox, reverb, clock, backoff=backoff)
        await stack.enter_async_context(relay.running(drain=_DRAIN))

        delivery = None
        if settings.service_account is not None:
            fcm = await stack.enter_async_context(
                FcmClient(settings.service_account, settings.fcm_url, clock)
            )
            delivery = PushDelivery(store, fcm, clock, retries=retries)
            await stack.enter_async_context(delivery.running(drain=_DRAIN))
        pushes = Pushes(clock, None if delivery is None else delivery.wake)
        devices = Devices(store, clock)

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
        wallets = Wallets(
            store,
            broadcaster,
            clock,
            currency=settings.wallet_currency,
            payments=Throttle(settings.payments_per_minute, 60, "You are paying too often.", clock),
        )
        starts_too_often = "Too many conversations are started from your address."
        support = Support.on(
            store,
            broadcaster,
            clock,
            tenants=Tenants(store, clock),
            tokens=Tokens(settings.jwt_secret, settings.jwt_lifetime, clock),
            devices=devices,
            pushes=pushes,
            reverb=reverb,
            leads=lambda: relay.leads,
            return_of_clients=backoff.return_of_clients,
            limits=Limits(
                settings.conversations_by_agent,
                starts=Throttle(settings.sessions_per_minute, 60, starts_too_often, clock),
                starts_anywhere=Throttle(
                    settings.sessions_per_minute * 10, 60, starts_too_often, clock
                ),
                messages=Throttle(limit, 60, "You are sending too fast.", clock),
            ),
            secret=settings.jwt_secret,
            keep_for=settings.retention,
            close_after=settings.idle_after,
            timing=timing,
        )
        relay.on_return(support.reconciliation.look_for_all)
        await stack.enter_async_context(support.running())
        webhooks = Webhooks(settings.reverb.key, settings.reverb.secret, clock)
        features = (
            auth_feature(
                accounts,
                rules,
                app_key=settings.reverb.key,
                app_secret=settings.reverb.secret,
            ),
            chats_feature(chats),
            wallet_feature(wallets),
            support.feature(webhooks),
            notifications_feature(store, devices, () if delivery is None else delivery.measures()),
        )
        for feature in features:
            rules.add(feature.channel_rules)
        sending = Sending()
        if metrics is not None:
            metrics.watch(sending.measures())
            metrics.watch((*store.measures(), *outbox.measures(clock), *relay.measures()))
            for feature in features:
                metrics.watch(feature.measures)
        operations = [health_route(store, outbox, relay, reverb, clock), webhooks.route()]
        if settings.seed:
            await seed_everything(features)
            operations.append(seed_route(features))
        proxies = TrustedProxies(settings.trusted_proxies, settings.auth == "proxy")
        origins = Origins(settings.origins)
        for_operators = Feature(
            tuple(operations), name="operations", description="For those who run the API."
        )
        documented = [*features, for_operators]
        documented.append(
            documentation_feature(
                documented,
                Deployment(
                    __version__,
                    proxies.vouch_for_people,
                    broadcaster.prefix,
                    names_pages=origins.allowed is not None,
                    realtime_server=reverb.address,
                ),
            )
        )
        routes = [route for feature in documented for route in feature.routes]

        runner = web.AppRunner(
            create_app(
                routes,
                accounts.authenticate,
                proxies,
                metrics.answered if metrics else None,
                origins,
                sending,
            ),
            access_log=None,
            keepalive_timeout=silence,
            shutdown_timeout=_FINISH_REQUESTS,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
        with _explained(settings.host, settings.port, "--port or CHAT_PORT"):
            await site.start()
        host, port = runner.addresses[0][:2]
        yield ChatApi(_url(host, port), accounts, store, tuple(documented), metrics_url)


@contextmanager
def _explained(host: str, port: int, how: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            how = how.replace("port", "host").replace("PORT", "HOST")
        # asyncio's words repeat the address in front of the reason.
        reason = (error.strerror or str(error)).rpartition(": ")[2]
        raise CannotListen(
            f"can't listen on {host}:{port}: {reason} (choose another with {how})"
        ) from error


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run a chat API until `stop` is set, saying where it is and when it leaves."""
    if settings.has_weak_secret:
        _log.warning("CHAT_JWT_SECRET is weak: good enough on this machine, not on a public one")
    async with running(settings) as api:
        _log.info(
            "The chat API is up",
            url=api.url,
            realtime_server=f"{settings.reverb.host}:{settings.reverb.port}",
            **({} if api.metrics_url is None else {"metrics": api.metrics_url}),
        )
        await stop.wait()
        _log.info("Stopping: finishing requests and sending what is left")
    _log.info("Stopped")
