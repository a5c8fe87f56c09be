"""A support desk: customers who start conversations, staff who answer, and what they hear."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from chat_api.features.support.feature import Timing
from chat_api.features.tenants.service import Tenants
from chat_api.kernel.clock import system_clock
from chat_api.runtime import ChatApi
from chat_api.settings import Settings
from tests.chat_api.client import Client, Reply
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import chat_api

TENANT = "tenant1.example.com"
OTHER_TENANT = "tenant2.example.com"


def naming(tenant: str = TENANT) -> dict[str, str]:
    """Return the header that says which tenant a request is about."""
    return {"X-Tenant-Domain": tenant}


def timeless(value: Any) -> Any:
    """Replace every time of the wire's form, so that the rest can be compared exactly."""
    match value:
        case dict():
            return {name: timeless(inner) for name, inner in value.items()}
        case list():
            return [timeless(inner) for inner in value]
        case str() if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", value):
            return "TIME"
        case _:
            return value


@dataclass(frozen=True)
class Customer:
    """Somebody with a conversation and the token for it."""

    client: Client
    id: str
    tenant: str

    @property
    def path(self) -> str:
        return f"/api/conversations/{self.id}"

    @property
    def agents_path(self) -> str:
        return f"/api/agent/conversations/{self.id}"

    @property
    def channel(self) -> str:
        return f"private-conversation.{self.id}"

    async def says(self, content: str) -> Reply:
        reply = await self.client.post(f"{self.path}/messages", {"content": content})
        assert reply.status == 201, reply
        return reply


@dataclass
class Desk:
    """A running API, and everybody's way to it."""

    api: ChatApi
    settings: Settings
    receiver: RealtimeReceiver
    nobody: Client
    _accounts: dict[str, Client] = field(default_factory=dict)

    async def account(self, name: str) -> Client:
        """Log in as NAME@example.com, once."""
        if name not in self._accounts:
            self._accounts[name] = await self.nobody.log_in(f"{name}@example.com")
        return self._accounts[name]

    async def agent(self) -> Client:
        return await self.account("agent")

    async def supervisor(self) -> Client:
        return await self.account("supervisor")

    async def registers(self, tenant: str) -> None:
        """Do what the operator does with `chat-api create-tenant`."""
        await Tenants(self.api.store, system_clock).register(tenant)

    def with_token(self, token: str) -> Client:
        return Client(self.nobody.session, self.nobody.url, token)

    async def customer(
        self, fingerprint: str = "a secret", tenant: str = TENANT, **fields: Any
    ) -> Customer:
        """Start a conversation that waits."""
        reply = await self.nobody.post(
            "/api/customer/sessions",
            {"fingerprint": fingerprint, "displayName": "Jane Doe", **fields},
            headers=naming(tenant),
        )
        assert reply.status == 200, reply
        return Customer(self.with_token(reply.body["token"]), reply.body["conversationId"], tenant)

    async def taken(self, fingerprint: str = "a secret", tenant: str = TENANT) -> Customer:
        """Start a conversation that agent@example.com has."""
        customer = await self.customer(fingerprint, tenant)
        reply = await (await self.agent()).post(f"{customer.agents_path}/accept", {})
        assert reply.status == 200, reply
        return customer

    def heard(self, channel: str, name: str | None = None) -> list[Any]:
        """Return the data of the events delivered on a channel so far, in order."""
        return [
            event.data
            for event in self.receiver.delivered
            if event.channel == channel and name in (None, event.name)
        ]

    async def hears(
        self, channel: str, name: str, is_it: Callable[[Any], bool] = lambda data: True
    ) -> Any:
        """Return the data of the first such event, once there is one."""
        await self.receiver.until(lambda: any(map(is_it, self.heard(channel, name))))
        return next(data for data in self.heard(channel, name) if is_it(data))

    async def states(self, customer: Customer, until: str) -> list[str]:
        """Return the states told of a conversation, without places in the queue, up to one."""
        await self.hears(
            customer.channel,
            "system:event",
            lambda data: data["status"] == until and "position" not in data,
        )
        events = self.heard(customer.channel, "system:event")
        return [event["status"] for event in events if "position" not in event]


@asynccontextmanager
async def desk_at(
    settings: Settings,
    receiver: RealtimeReceiver,
    timing: Timing = Timing(),  # noqa: B008 - immutable
) -> AsyncIterator[Desk]:
    """Run an API with these settings."""
    async with (
        chat_api(settings, timing=timing) as api,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session,
    ):
        yield Desk(api, settings, receiver, Client(session, api.url))


async def all_of(*replies: Any) -> list[Reply]:
    """Make requests at once."""
    return list(await asyncio.gather(*replies))
