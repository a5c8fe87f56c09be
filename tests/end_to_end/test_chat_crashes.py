"""
The chat API is killed at random moments under load, and started again.

Whoever asks does as apps do: without an answer they ask again, under the same name for what they
want. In the end everything that was answered is there, happened once, and was told once.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
from sqlalchemy import select

from chat_api.features.support.models import OwedSnapshot, SupportConversation, SupportCustomer
from chat_api.features.wallet.models import WalletTransaction
from chat_api.store.engine import Store
from chat_api.store.outbox import Outbox
from reverb_py.testing import PusherClient, TestServer, serving
from tests.chat_api.client import Client, Reply
from tests.chat_api.features.wallet.books import check_the_books
from tests.chat_api.world import SECRET

ROOT: Final = str(Path(__file__).parents[2])
TENANT: Final = "tenant1.example.com"
CUSTOMERS: Final = ("Jane", "John", "Ann")
PAYERS: Final = ((1, "ali"), (2, "vali"))
THE_END: Final[tuple[str, Any]] = ("the end", {})
KILLS: Final = 6
PATIENCE: Final = 60.0  # seconds


class Victim:
    """A chat API in a process of its own, at another address after each start."""

    def __init__(self, database: str, server: TestServer, folder: Path) -> None:
        self.url = ""
        self.is_up = asyncio.Event()
        self.log: list[str] = []
        self._folder = folder
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("CHAT_", "REVERB_", "PG"))
        } | {
            "CHAT_JWT_SECRET": SECRET,
            "CHAT_PORT": "0",
            "CHAT_DATABASE_URL": database,
            "CHAT_SEED": "1",
            "CHAT_MESSAGES_PER_MINUTE": "0",
            "CHAT_SESSIONS_PER_MINUTE": "0",
            "CHAT_PAYMENTS_PER_MINUTE": "0",
            "CHAT_QUEUE_MAX_CONCURRENT_BY_AGENT": "0",
            "REVERB_APP_ID": server.app.id,
            "REVERB_APP_KEY": server.app.key,
            "REVERB_APP_SECRET": server.app.secret,
            "REVERB_PORT": str(server.port),
            "PYTHONPATH": ROOT,
        }
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Have it start, without waiting for that."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "chat_api", "serve"),
            env=self._environment,
            cwd=self._folder,
            stderr=asyncio.subprocess.PIPE,
        )
        assert self._process.stderr is not None
        self._reading = asyncio.create_task(self._read(self._process.stderr))

    async def start(self) -> None:
        await self.begin()
        try:
            async with asyncio.timeout(PATIENCE):
                await self.is_up.wait()
        except TimeoutError:
            raise TimeoutError(f"it does not start: {self.log}") from None

    async def kill(self) -> None:
        """End it without a warning."""
        self.is_up.clear()
        await self._end(signal.SIGKILL)
        self.is_up.clear()  # its last words may have been that it is

    async def stop(self) -> int | None:
        """End it as operators do, and return its exit status."""
        await self._end(signal.SIGTERM)
        return None if self._process is None else self._process.returncode

    async def _end(self, number: signal.Signals) -> None:
        if self._process is not None and self._reading is not None:
            if self._process.returncode is None:
                self._process.send_signal(number)
            async with asyncio.timeout(PATIENCE):
                await self._reading
                await self._process.wait()

    async def _read(self, errors: asyncio.StreamReader) -> None:
        async for line in errors:
            self.log.append(line.decode())
            if "url=" in self.log[-1]:
                self.url = self.log[-1].split("url=")[1].split()[0]
                self.is_up.set()


class Heard(NamedTuple):
    """An event as it arrived."""

    channel: str
    name: str
    data: Any


class Ears:
    """One WebSocket that stays connected whatever happens to the API, and all it has heard."""

    def __init__(self, client: PusherClient) -> None:
        self.heard: list[Heard] = []
        self._client = client
        self._subscribed: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._news = asyncio.Condition()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Ears"]:
        task = asyncio.create_task(self._listen())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _listen(self) -> None:
        async for text in self._client.websocket:
            message = json.loads(text)
            match message["event"]:
                case "pusher:ping":
                    await self._client.send({"event": "pusher:pong", "data": {}})
                case "pusher_internal:subscription_succeeded":
                    self._subscribed[message["channel"]].set()
                case name:
                    async with self._news:
                        data = json.loads(message["data"])
                        self.heard.append(Heard(message["channel"], name, data))
                        self._news.notify_all()

    async def join(self, channel: str) -> None:
        """Listen to a channel, with leave that is signed here; again is no different from once."""
        if channel not in self._subscribed:
            data = {"channel": channel, "auth": self._client.auth_for(channel)}
            await self._client.send({"event": "pusher:subscribe", "data": data})
        async with asyncio.timeout(PATIENCE):
            await self._subscribed[channel].wait()

    @property
    def channels(self) -> list[str]:
        return list(self._subscribed)

    async def until(self, is_enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE), self._news:
            await self._news.wait_for(is_enough)

    def has_heard_the_end_of(self, channel: str) -> bool:
        return any(event.channel == channel and event[1:] == THE_END for event in self.heard)

    def all_on(self, channel: str) -> list[tuple[str, Any]]:
        """Return what was heard on a channel, in order."""
        return [(event.name, event.data) for event in self.heard if event.channel == channel]

    def on(self, channel: str, name: str) -> list[Any]:
        """Return the data of the events with this name on a channel, in order."""
        return [data for heard, data in self.all_on(channel) if heard == name]


class Paid(NamedTuple):
    """Whose payment it was, and the transaction that it became."""

    who: str
    transaction: Any


class Load:
    """
    People who want things until they are told that it is enough.

    What they were answered with success they note by their own name for it, which is also its text.
    """

    def __init__(
        self, victim: Victim, ears: Ears, source: random.Random, http: aiohttp.ClientSession
    ) -> None:
        self.is_enough = False
        self.unanswered = 0
        self.direct: dict[str, Any] = {}
        self.support: dict[str, Any] = {}
        self.payments: dict[str, Paid] = {}
        self.conversations: dict[str, str] = {}
        """The customer's token for each."""
        self.closed: set[str] = set()
        self._victim = victim
        self._ears = ears
        self._source = source
        self._http = http
        self._tokens: dict[str, str] = {}
        self._count = 0
        self._progress = asyncio.Condition()

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        token: str | None = None,
        key: str | None = None,
    ) -> Reply:
        """Ask until there is an answer."""
        headers = {"X-Tenant-Domain": TENANT} | ({"Idempotency-Key": key} if key else {})
        while True:
            await self._victim.is_up.wait()
            client = Client(self._http, self._victim.url, token)
            try:
                reply = await client.ask(method, path, body, headers=headers)
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError):
                self.unanswered += 1
                continue
            assert reply.status < 500, (method, path, reply)
            async with self._progress:
                self._count += 1
                self._progress.notify_all()
            return reply

    async def answers(self, count: int) -> None:
        """Wait until so many more requests are answered."""
        async with asyncio.timeout(PATIENCE), self._progress:
            enough = self._count + count
            await self._progress.wait_for(lambda: self._count >= enough)

    async def log_in(self, name: str) -> str:
        """Return the token of NAME@example.com."""
        if name not in self._tokens:
            credentials = {"email": f"{name}@example.com", "password": "password"}
            reply = await self.ask("POST", "/api/login", credentials)
            assert reply.status == 200, reply
            self._tokens[name] = reply.body["token"]
        return self._tokens[name]

    async def colleague(self, name: str) -> None:
        """Write into the chat of Ali and Vali."""
        token = await self.log_in(name)
        for text in self._names(f"direct {name}"):
            body = {"content": text, "tempId": text}
            reply = await self.ask("POST", "/api/chats/1/messages", body, token=token)
            assert reply.status in (200, 201), reply
            assert reply.body["tempId"] == text
            self.direct[text] = reply.body["message"]

    async def payer(self, name: str, recipient: int) -> None:
        """Pay somebody small amounts."""
        token = await self.log_in(name)
        for key in self._names(f"payment {name}"):
            payment = {
                "recipientId": recipient,
                "amount": self._source.randint(1, 50),
                "note": key,
            }
            reply = await self.ask("POST", "/api/wallet/payments", payment, token=token, key=key)
            assert reply.status in (200, 201), reply
            assert reply.body["transaction"]["amount"] == payment["amount"]
            self.payments[key] = Paid(name, reply.body["transaction"])

    async def customer(self, name: str) -> None:
        """Ask for help, say something, and now and then have had enough and begin anew."""
        number = 0
        for start in self._names(f"customer {name}"):
            given = {"fingerprint": f"secret of {name}", "displayName": name}
            reply = await self.ask("POST", "/api/customer/sessions", given)
            assert reply.status == 200, reply
            conversation, token = reply.body["conversationId"], reply.body["token"]
            assert conversation not in self.closed, start
            await self._ears.join(f"private-conversation.{conversation}")
            self.conversations[conversation] = token
            path = f"/api/customer/conversations/{conversation}"
            for _ in range(self._source.randint(1, 5)):
                number += 1
                await self._say(path, f"{name} {number}", token)
            if self._source.random() < 0.3:
                reply = await self.ask("POST", f"{path}/close", token=token)
                assert (reply.status, reply.body["status"]) == (200, "CLOSED")
                self.closed.add(conversation)

    async def agent(self) -> None:
        """Answer in any conversation, which takes those that wait."""
        token = await self.log_in("agent")
        for text in self._names("agent"):
            conversation = self._source.choice([*self.conversations] or [""])
            if conversation:
                await self._say(f"/api/agent/conversations/{conversation}", text, token)
            else:
                await self.answers(1)

    async def _say(self, path: str, text: str, token: str) -> None:
        reply = await self.ask("POST", f"{path}/messages", {"content": text}, token=token, key=text)
        if reply.status == 410:
            assert path.startswith("/api/agent/"), "customers close their own when all is said"
        else:
            assert reply.status in (200, 201), reply
            self.support[text] = reply.body

    def _names(self, what: str) -> Iterator[str]:
        number = 0
        while not self.is_enough:
            number += 1
            yield f"{what} {number}"


async def killing(victim: Victim, load: Load, source: random.Random) -> None:
    """Kill it at random moments, now and then also while it starts."""
    for _ in range(KILLS):
        await load.answers(source.randint(10, 60))
        await asyncio.sleep(source.uniform(0, 0.03))  # anywhere in what comes next
        await victim.kill()
        while source.random() < 0.25:
            await kill_while_it_starts(victim, source)
        await victim.start()
    await load.answers(30)
    load.is_enough = True


async def kill_while_it_starts(victim: Victim, source: random.Random) -> None:
    await victim.begin()
    await asyncio.sleep(source.uniform(0, 2))
    await victim.kill()


async def test_what_was_answered_is_there_and_was_told_once(
    empty_database: str, tmp_path: Path
) -> None:
    seed = random.getrandbits(32)  # the same one with the same --randomly-seed
    print(f"The moments and choices are those of random.Random({seed}).")
    source = random.Random(seed)
    async with (
        serving() as server,
        server.connected() as client,
        Ears(client).listening() as ears,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as http,
    ):
        for channel in ("user.1", "user.2", "wallet.1", "wallet.2", f"queue.{TENANT}"):
            await ears.join(f"private-{channel}")
        victim = Victim(empty_database, server, tmp_path)
        load = Load(victim, ears, source, http)
        try:
            await kill_while_it_starts(victim, source)
            await victim.start()
            await load.ask("POST", "/api/chats", {"user_id": 2}, token=await load.log_in("ali"))
            async with asyncio.TaskGroup() as everybody:
                everybody.create_task(killing(victim, load, source))
                for user_id, name in PAYERS:
                    everybody.create_task(load.colleague(name))
                    everybody.create_task(load.payer(name, 3 - user_id))
                for name in CUSTOMERS:
                    everybody.create_task(load.customer(name))
                everybody.create_task(load.agent())
            print(f"{load.unanswered} requests were repeated.")
            assert load.unanswered >= KILLS

            store = Store(empty_database)
            try:
                await everything_is_told(store, server, ears)
                await check_direct_messages(load, ears)
                await check_conversations(load, ears, store)
                await check_payments(load, ears, store)
            finally:
                await store.close()
            assert await victim.stop() == 0
        finally:
            await victim.kill()
    assert [line for line in victim.log if "[error" in line or "Traceback" in line] == []


async def everything_is_told(store: Store, server: TestServer, ears: Ears) -> None:
    """Wait until the realtime server has everything, and the listener, too."""
    outbox = Outbox(store)
    async with asyncio.timeout(PATIENCE):
        while True:
            snapshots = await store.all(select(OwedSnapshot.tenant))
            backlog = await outbox.backlog()
            assert backlog.refused == 0
            if not snapshots and not backlog.owed:
                break
            await asyncio.sleep(0.02)
    for channel in ears.channels:
        await server.publish("the end", channel, "{}")
    await ears.until(lambda: all(ears.has_heard_the_end_of(each) for each in ears.channels))


async def check_direct_messages(load: Load, ears: Ears) -> None:
    history = await everything(load, "/api/chats/1/messages", "messages", "ali")
    assert {message["content"]: message for message in history} == load.direct
    assert len(history) == len(load.direct)
    for channel in ("private-user.1", "private-user.2"):
        told = [event["data"]["message"] for event in ears.on(channel, "MessageSent")]
        assert told == history


async def check_conversations(load: Load, ears: Ears, store: Store) -> None:
    customers = await store.all(select(SupportCustomer.id))
    conversations = await store.all(
        select(SupportConversation.id, SupportConversation.customer_id, SupportConversation.status)
    )
    is_open = {row.id: row.customer_id for row in conversations if row.status != "CLOSED"}
    assert len(customers) == len(CUSTOMERS)
    assert len(is_open) == len(set(is_open.values()))
    assert {row.id for row in conversations} == set(load.conversations)
    assert set(load.conversations) - set(is_open) == load.closed

    stored = []
    for conversation, token in load.conversations.items():
        path = f"/api/customer/conversations/{conversation}/messages?limit=500"
        history = (await load.ask("GET", path, token=token)).body
        channel = f"private-conversation.{conversation}"
        assert [event["message"] for event in ears.on(channel, "chat:message")] == history
        stored += history
        # News of a place in the queue come whenever it has changed; each state comes once.
        states = [
            event["status"] for event in ears.on(channel, "system:event") if "position" not in event
        ]
        taken = ["ASSIGNED", "CONNECTED"] if "ASSIGNED" in states else []
        assert states == taken + ["CLOSED"] * (conversation in load.closed)
    assert {message["content"]: message for message in stored} == load.support
    assert len(stored) == len(load.support)

    token = await load.log_in("agent")
    queue = (await load.ask("GET", "/api/agent/queue?size=100", token=token)).body["content"]
    shown = ears.on(f"private-queue.{TENANT}", "queue:snapshot")[-1]
    assert [entry["id"] for entry in shown] == [entry["id"] for entry in queue]


async def check_payments(load: Load, ears: Ears, store: Store) -> None:
    await check_the_books(store)
    made = await store.all(
        select(WalletTransaction.id, WalletTransaction.idempotency_key).where(
            WalletTransaction.kind == "payment"
        )
    )
    answered = {key: paid.transaction["id"] for key, paid in load.payments.items()}
    assert sorted((row.idempotency_key, str(row.id)) for row in made) == sorted(answered.items())

    for user_id, name in PAYERS:
        opening, *transactions = await everything(
            load, "/api/wallet/transactions", "transactions", name
        )
        balance, news = opening["amount"], []
        for transaction in transactions:
            balance += transaction["amount"] * (1 if transaction["type"] == "credit" else -1)
            news += news_of(transaction, balance)
        held = await load.ask("GET", "/api/wallet/balance", token=await load.log_in(name))
        assert held.body == {"balance": balance, "currency": "USD"}
        assert ears.all_on(f"private-wallet.{user_id}") == [*news, THE_END]
        own = [each for each in transactions if each["type"] == "debit"]
        assert own == [paid.transaction for paid in load.payments.values() if paid.who == name]


def news_of(transaction: Any, balance: int) -> list[tuple[str, Any]]:
    """Return what one side of a transaction hears of it."""
    held = {"balance": balance, "currency": "USD"}
    news = [("balance:updated", held), ("transaction:added", transaction)]
    if transaction["type"] == "credit":
        notification = {
            "transactionId": transaction["id"],
            "amount": transaction["amount"],
            "currency": "USD",
            "from": transaction["counterparty"],
            "note": transaction["note"],
            "createdAt": transaction["createdAt"],
        }
        news.append(("payment:notification", notification))
    return [*news, ("wallet:updated", {**held, "transaction": transaction})]


async def everything(load: Load, path: str, name: str, who: str) -> list[Any]:
    """Return, oldest first, all that is answered in pages which go back from the newest."""
    token, found, before = await load.log_in(who), list[Any](), ""
    while True:
        page = (await load.ask("GET", f"{path}?limit=100{before}", token=token)).body
        found = sorted(page[name], key=lambda each: int(each["id"])) + found
        if not page["has_more"]:
            return found
        before = f"&before={found[0]['id']}"
