"""Several processes on one database, of which one relays, whatever happens to it."""

import asyncio
import signal
from contextlib import AsyncExitStack

import pytest
from psycopg.conninfo import conninfo_to_dict

from chat_api.settings import Settings
from tests.chat_api.api_process import ApiProcess
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.speaker import relaying
from tests.chat_api.world import QUICKLY
from tests.support.postgresql import PostgresqlServer

on_postgresql = pytest.mark.parametrize("database_kind", ["postgresql"])


@pytest.fixture
def receiver_of_x(receiver: RealtimeReceiver) -> RealtimeReceiver:
    receiver.occupied = {"x"}
    return receiver


def names(receiver: RealtimeReceiver) -> list[str]:
    return [event.name for event in receiver.received]


def contents(receiver: RealtimeReceiver) -> list[str]:
    return [
        event.data["data"]["message"]["content"]
        for event in receiver.delivered
        if event.channel == "private-user.2"
    ]


async def test_of_two_processes_one_relays_what_both_say(
    settings: Settings, receiver_of_x: RealtimeReceiver
) -> None:
    async with relaying(settings, receiver_of_x, QUICKLY) as first:
        said = [await first.say("x", "first")]
        await receiver_of_x.hears(1)
        async with relaying(settings, receiver_of_x, QUICKLY) as second:
            said += [
                await speaker.say("x", f"{number}")
                for number, speaker in enumerate([second, first] * 25)
            ]
            await receiver_of_x.hears(51)

    assert names(receiver_of_x) == said


async def test_when_the_one_that_relays_leaves_another_goes_on(
    settings: Settings, receiver_of_x: RealtimeReceiver
) -> None:
    async with AsyncExitStack() as rest:
        async with relaying(settings, receiver_of_x, QUICKLY) as first:
            await first.say("x", "1")
            await receiver_of_x.hears(1)
            second = await rest.enter_async_context(relaying(settings, receiver_of_x, QUICKLY))
            await second.say("x", "2")
        await second.say("x", "3")
        await receiver_of_x.hears(3)

    assert names(receiver_of_x) == ["1", "2", "3"]


async def test_a_killed_process_loses_nothing_and_leaves_the_relaying_to_another(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with AsyncExitStack() as processes:
        said = []
        first = await processes.enter_async_context(ApiProcess.serving(settings))
        said += [await first.say(f"first {number}") for number in range(5)]
        await receiver.hears(10)
        second = await processes.enter_async_context(ApiProcess.serving(settings))
        said += [await second.say(f"second {number}") for number in range(5)]
        said += [await first.say(f"first again {number}") for number in range(5)]
        await first.kill()
        said += [await second.say(f"second alone {number}") for number in range(5)]
        await receiver.hears(40)

    assert contents(receiver) == said


@on_postgresql
async def test_what_a_process_says_that_does_not_relay_does_not_have_to_wait(
    settings: Settings, receiver_of_x: RealtimeReceiver
) -> None:
    async with relaying(settings, receiver_of_x, QUICKLY) as first:
        await first.say("x", "first")
        await receiver_of_x.hears(1)
        async with (
            relaying(settings, receiver_of_x, QUICKLY) as second,
            asyncio.timeout(60),  # looked up every five seconds, it would take a hundred
        ):
            for number in range(2, 22):
                await second.say("x", str(number))
                await receiver_of_x.hears(number)


@on_postgresql
async def test_when_every_session_ends_the_relaying_goes_on(
    settings: Settings, receiver_of_x: RealtimeReceiver, postgresql: PostgresqlServer
) -> None:
    name = str(conninfo_to_dict(settings.database_url)["dbname"])
    said = []
    async with (
        relaying(settings, receiver_of_x, QUICKLY) as first,
        relaying(settings, receiver_of_x, QUICKLY) as second,
    ):
        for number in range(3):
            said += [await first.say("x", f"{number} a"), await second.say("x", f"{number} b")]
            postgresql.cut_off(name)
            said += [await first.say("x", f"{number} c"), await second.say("x", f"{number} d")]
            await receiver_of_x.hears(len(said))

    assert [event.name for event in receiver_of_x.delivered] == said


@on_postgresql
async def test_a_frozen_process_leaves_the_relaying_to_another(
    settings: Settings, receiver: RealtimeReceiver
) -> None:
    async with AsyncExitStack() as processes:
        first = await processes.enter_async_context(ApiProcess.serving(settings))
        said = [await first.say("1")]
        await receiver.hears(2)
        second = await processes.enter_async_context(ApiProcess.serving(settings))

        first.process.send_signal(signal.SIGSTOP)
        said.append(await second.say("2"))
        await receiver.hears(4)

        first.process.send_signal(signal.SIGCONT)
        said += [await first.say("3"), await second.say("4")]
        await receiver.hears(8)

    assert contents(receiver) == said
