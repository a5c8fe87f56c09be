"""What is PostgreSQL's own: sessions that end, processes that freeze, and what errors say."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from chat_api.kernel.errors import Unavailable
from chat_api.store.database import UnusableDatabase
from chat_api.store.engine import Store, UnitOfWork
from chat_api.store.tables import OutboxRow
from tests.chat_api.world import World
from tests.support.postgresql import PostgresqlServer

ROOT = Path(__file__).parents[3]
TURN: LiteralString = "hashtextextended('chat_api writer in public', 0)"


@pytest.fixture
def database_kind() -> str:
    return "postgresql"


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    store = Store(database)
    yield store
    await store.close()


@pytest.fixture
def name(database: str) -> str:
    """Return the name by which the server knows the test's database."""
    return str(conninfo_to_dict(database)["dbname"])


def add(unit: UnitOfWork, name: str) -> str:
    unit.connection.exec_driver_sql(
        "INSERT INTO outbox (event_key, channel, name, data, created_at) "
        f"VALUES ('k', 'x', '{name}', '{{}}', '2024-01-01 00:00:00Z')"
    )
    return name


async def names(store: Store) -> list[str]:
    return [row.name for row in await store.all(select(OutboxRow.name).order_by(OutboxRow.id))]


async def test_sessions_that_ended_unnoticed_are_made_anew_without_anybody_noticing(
    store: Store, postgresql: PostgresqlServer, name: str
) -> None:
    await store.write(lambda unit: add(unit, "before"))
    assert await asyncio.gather(*(names(store) for _ in range(8))) == [["before"]] * 8

    postgresql.cut_off(name)

    assert await asyncio.gather(*(names(store) for _ in range(8))) == [["before"]] * 8
    assert await store.write(lambda unit: add(unit, "after")) == "after"
    assert await names(store) == ["before", "after"]


async def test_a_session_that_ends_half_way_takes_everything_back_that_shared_it(
    store: Store,
) -> None:
    committed: list[str] = []

    def adding(name: str, unit: UnitOfWork) -> str:
        unit.when_committed(lambda: committed.append(name))
        if name == "end":
            unit.connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        return add(unit, name)

    wanted = [str(number) for number in range(9)] + ["end"] + [str(n) for n in range(10, 20)]
    results = await asyncio.gather(
        *(store.write(lambda unit, name=name: adding(name, unit)) for name in wanted),  # type: ignore[misc]
        return_exceptions=True,
    )

    told = [result for result in results if isinstance(result, str)]
    assert isinstance(results[9], Unavailable)
    assert all(isinstance(result, Unavailable | str) for result in results)
    assert await names(store) == committed == told
    await store.write(lambda unit: add(unit, "later"))
    assert (await names(store))[-1] == "later"


async def test_an_outage_is_answered_503_and_over_when_it_is_over(
    world: World, postgresql: PostgresqlServer, name: str
) -> None:
    message = {"content": "salom", "tempId": "one"}
    with capture_logs() as logs, postgresql.outage(name):
        replies = [
            await world.ali.post("/api/chats/1/messages", message),
            await world.ali.get("/api/chats"),
            await world.nobody.post("/api/login", {"email": "a@b.c", "password": "password"}),
        ]
        health = await world.nobody.get("/actuator/health")
    for reply in replies:
        assert (reply.status, reply.body, reply.headers["Retry-After"]) == (
            503,
            {
                "code": "unavailable",
                "message": "The database is out of reach. Try again in some seconds.",
            },
            "5",
        )
    assert (health.status, health.body["components"]["database"]) == (503, {"status": "DOWN"})
    complaints = [entry for entry in logs if entry["event"] == "The database does not answer"]
    assert len(complaints) == 1
    assert "is not currently accepting connections" in complaints[0]["reason"]

    assert (await world.ali.get("/api/chats/1/messages")).body["messages"] == []
    assert (await world.ali.post("/api/chats/1/messages", message)).status == 201
    [_, heard] = await world.receiver.hears(2)
    assert heard.data["data"]["message"]["content"] == "salom"


async def test_a_server_that_stands_still_keeps_nobody_waiting_and_not_the_process_from_ending(
    database: str, postgresql: PostgresqlServer
) -> None:
    store = Store(database, patience=0.3)
    loop = asyncio.get_running_loop()
    has_begun, may_go_on = asyncio.Event(), threading.Event()

    def half_way(unit: UnitOfWork) -> str:
        add(unit, "begun")
        loop.call_soon_threadsafe(has_begun.set)
        may_go_on.wait(60)
        return add(unit, "begun")

    assert await names(store) == []  # there is a connection that was good until then
    begun = asyncio.create_task(store.write(half_way))
    await has_begun.wait()
    with capture_logs() as logs, postgresql.frozen():
        waiting = asyncio.create_task(store.write(lambda unit: add(unit, "withdrawn")))
        may_go_on.set()
        results = await asyncio.gather(
            *(begun, waiting, *(names(store) for _ in range(8))), return_exceptions=True
        )
        at_once = await asyncio.gather(
            store.check(), store.write(lambda unit: add(unit, "too late")), return_exceptions=True
        )
        await store.close()

    assert [type(result) for result in (*results, *at_once)] == [Unavailable] * 12
    reasons = {log.get("reason") for log in logs}
    assert reasons == {"it has not answered in time", None}
    assert logs[-1]["event"] == (
        "The database has not answered to the end; its last work was left behind"
    )
    again = Store(database)
    assert await again.write(lambda unit: add(unit, "later")) == "later"
    # What had begun may have gone on, as a whole; what had not has not.
    assert await names(again) in (["later"], ["begun", "begun", "later"])
    await again.close()


async def test_a_server_that_goes_on_in_time_is_as_if_nothing_had_been(
    world: World, postgresql: PostgresqlServer
) -> None:
    with postgresql.frozen():
        said = asyncio.create_task(
            world.ali.post("/api/chats/1/messages", {"content": "salom", "tempId": "one"})
        )
        read = asyncio.create_task(world.ali.get("/api/chats"))
        done, _ = await asyncio.wait([said, read], timeout=0.5)
    assert not done

    assert ((await said).status, (await read).status) == (201, 200)


async def test_a_server_that_takes_no_changes_for_now_is_unavailable_and_then_is_not(
    store: Store, postgresql: PostgresqlServer, name: str
) -> None:
    postgresql.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(Unavailable):
        await store.write(lambda unit: add(unit, "no"))
    assert await names(store) == []

    # As after a failover: the next connection is to a server that takes them.
    postgresql.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert await store.write(lambda unit: add(unit, "yes")) == "yes"


async def test_a_process_that_is_frozen_while_it_writes_does_not_stop_the_others(
    store: Store, database: str
) -> None:
    script = """if True:
        import asyncio, signal, sys, threading
        from chat_api.store.engine import Store

        def freeze(unit):
            unit.connection.exec_driver_sql("UPDATE users SET first_name = 'Half'")
            print("frozen", flush=True)
            # To this thread, which then does not run on while another one takes the signal.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            unit.connection.exec_driver_sql("UPDATE users SET last_name = 'Way'")

        async def main():
            try:
                await Store(sys.argv[1]).write(freeze)
            except Exception as error:
                print(type(error).__name__, flush=True)

        asyncio.run(main())
    """
    impatient = "&options=-c%20idle_in_transaction_session_timeout%3D3s"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", script, database + impatient),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        # A group that loses its last link to a terminal while one of it is stopped is hung up on.
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"frozen\n"

            assert await store.write(lambda unit: add(unit, "free")) == "free"

            process.send_signal(signal.SIGCONT)
            said = await process.stdout.read()
            assert (said.splitlines()[-1:], await process.wait()) == ([b"Unavailable"], 0)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    people = select(text("first_name"), text("last_name")).select_from(text("users"))
    assert {"Half", "Way"}.isdisjoint(name for row in await store.all(people) for name in row)


@pytest.mark.parametrize("lock", ["LOCK TABLE outbox", f"SELECT pg_advisory_xact_lock({TURN})"])
async def test_a_lock_that_somebody_else_holds_is_not_waited_for_for_ever(
    database: str, lock: LiteralString
) -> None:
    impatient = Store(f"{database}&options=-c%20lock_timeout%3D50ms")
    with psycopg.connect(database) as other:
        other.execute(lock)
        with pytest.raises(Unavailable):
            await impatient.write(lambda unit: add(unit, "x"))

    assert await impatient.write(lambda unit: add(unit, "x")) == "x"
    await impatient.close()


async def test_what_was_answered_is_durable_whatever_the_servers_default_is(store: Store) -> None:
    setting = text("SHOW synchronous_commit")

    assert await store.write(lambda unit: unit.connection.execute(setting).scalar_one()) == "on"


async def test_a_failed_statement_that_a_unit_passes_over_fails_the_unit(store: Store) -> None:
    """PostgreSQL would answer its COMMIT with a ROLLBACK, and no error."""

    def passing_over(unit: UnitOfWork) -> str:
        add(unit, "x")
        try:
            unit.connection.exec_driver_sql("no SQL")
        except DBAPIError:
            pass
        return "done"

    with pytest.raises(RuntimeError, match="went on after a statement of it had failed"):
        await store.write(passing_over)
    results = await asyncio.gather(
        *(store.write(passing_over), store.write(lambda unit: add(unit, "y"))),
        return_exceptions=True,
    )

    assert isinstance(results[0], DBAPIError)
    assert await names(store) == ["y"]


async def test_what_no_server_could_take_is_not_called_unavailable(store: Store) -> None:
    """PostgreSQL's index of unique texts takes some thousand bytes; trying again would not help."""

    def too_much(unit: UnitOfWork) -> None:
        unit.connection.exec_driver_sql("CREATE TEMPORARY TABLE kept (text text UNIQUE)")
        unit.connection.execute(
            text("INSERT INTO kept VALUES (:text)"), {"text": os.urandom(8192).hex()}
        )

    with pytest.raises(DBAPIError, match="maximum size is 8191"):
        await store.write(too_much)


async def test_an_error_does_not_quote_the_row_it_is_about(store: Store) -> None:
    def bad(unit: UnitOfWork) -> None:
        unit.connection.execute(
            text("INSERT INTO outbox (event_key, channel, name, data) VALUES ('k', 'x', 'n', :d)"),
            {"d": "between us"},
        )

    with pytest.raises(DBAPIError) as error:
        await store.write(bad)

    assert 'null value in column "created_at"' in str(error.value)
    assert "between us" not in f"{error.value} {error.value.orig!r}"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://chat:very-secret@127.0.0.1:1/chat",
        "postgresql://chat:very-secret@127.0.0.1:1/chat?sslmode=very-wrong",
        "postgresql://chat:very-secret@no.such.host.invalid/chat",
    ],
)
async def test_no_error_quotes_the_password(url: str) -> None:
    store = Store(url)
    with capture_logs() as logs:
        with pytest.raises(UnusableDatabase) as unusable:
            await store.migrate()
        with pytest.raises(Unavailable) as unavailable:
            await store.check()
    await store.close()

    seen: list[Any] = [unusable.value, unavailable.value, unavailable.value.__cause__, logs]
    assert "very-secret" not in "".join(f"{value} {value!r}" for value in seen)
    assert "\n" not in str(unusable.value)
    assert logs[0]["reason"] == str(unusable.value)


async def test_a_database_of_another_encoding_is_refused(postgresql: PostgresqlServer) -> None:
    postgresql.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING latin1 LOCALE 'C'")
    store = Store(postgresql.url("latin"))
    with pytest.raises(UnusableDatabase) as error:
        await store.migrate()
    await store.close()
    postgresql.execute("DROP DATABASE latin WITH (FORCE)")

    assert str(error.value) == "its encoding must be UTF8, not LATIN1: create it anew"


async def test_two_products_in_two_schemas_do_not_wait_for_each_other(
    database: str, postgresql: PostgresqlServer, name: str
) -> None:
    postgresql.execute("CREATE SCHEMA second", name)
    second = Store(f"{database}&options=-c%20search_path%3Dsecond%20-c%20lock_timeout%3D5s")
    await second.migrate()
    with psycopg.connect(database) as other:
        other.execute(f"SELECT pg_advisory_xact_lock({TURN})")
        assert await second.write(lambda unit: add(unit, "x")) == "x"
    await second.close()
