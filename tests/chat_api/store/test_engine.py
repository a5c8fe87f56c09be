"""Units of work on either database: whole or not at all, in order, and safe together."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from structlog.testing import capture_logs

from chat_api.kernel.errors import Unavailable
from chat_api.store.engine import Store, UnitOfWork
from chat_api.store.tables import OutboxRow


@asynccontextmanager
async def opened(url: str, *, patience: float = 60) -> AsyncIterator[Store]:
    store = Store(url, patience=patience)
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    async with opened(database) as store:
        yield store


def insert(name: str, event_key: str = "k") -> str:
    return (
        "INSERT INTO outbox (event_key, channel, name, data, created_at) "
        f"VALUES ('{event_key}', 'x', '{name}', '{{}}', '2024-01-01 00:00:00')"
    )


def adding(name: str, committed: list[str] | None = None) -> Callable[[UnitOfWork], str]:
    def work(unit: UnitOfWork) -> str:
        unit.connection.exec_driver_sql(insert(name))
        if committed is not None:
            unit.when_committed(lambda: committed.append(name))
        if name.startswith("bad"):
            raise ValueError(name)
        return name

    return work


def breaking_a_rule(unit: UnitOfWork) -> None:
    unit.connection.exec_driver_sql(
        "INSERT INTO direct_chats (first_id, second_id, created_at) "
        "VALUES (998, 999, '2024-01-01 00:00:00')"  # there are no such users
    )


async def names(store: Store) -> list[str]:
    return [row.name for row in await store.all(select(OutboxRow.name).order_by(OutboxRow.id))]


async def test_a_unit_that_raises_leaves_no_trace(store: Store) -> None:
    committed: list[str] = []

    assert await store.write(adding("good", committed)) == "good"
    with pytest.raises(ValueError, match="bad"):
        await store.write(adding("bad", committed))

    assert await names(store) == committed == ["good"]


async def test_units_that_share_a_transaction_fail_each_for_itself(store: Store) -> None:
    committed: list[str] = []
    wanted = [f"bad {number}" if number % 7 == 3 else f"good {number}" for number in range(300)]

    results = await asyncio.gather(
        *(store.write(adding(name, committed)) for name in wanted), return_exceptions=True
    )

    good = [name for name in wanted if name.startswith("good")]
    assert [result for result in results if isinstance(result, str)] == good
    assert sum(isinstance(result, ValueError) for result in results) == 300 - len(good)
    # Ids, commits and announcements have one order: that of the calls.
    assert await names(store) == committed == good


async def test_a_wait_that_is_cancelled_does_not_disturb_the_others(store: Store) -> None:
    waits = [asyncio.create_task(store.write(adding(str(number)))) for number in range(3)]
    await asyncio.sleep(0)
    waits[1].cancel()

    results = await asyncio.gather(*waits, return_exceptions=True)

    assert [results[0], results[2]] == ["0", "2"]
    assert isinstance(results[1], asyncio.CancelledError)
    assert await names(store) == ["0", "1", "2"]


async def test_a_broken_constraint_reaches_only_its_own_caller(store: Store) -> None:
    results = await asyncio.gather(
        store.write(adding("a")),
        store.write(breaking_a_rule),
        store.write(adding("b")),
        return_exceptions=True,
    )

    assert isinstance(results[1], IntegrityError)
    assert await names(store) == ["a", "b"]


@pytest.mark.parametrize("alone", [True, False])
async def test_a_unit_whose_transaction_was_undone_is_not_taken_for_done(
    store: Store, alone: bool
) -> None:
    """PostgreSQL answers the COMMIT of such a transaction with a ROLLBACK and no error."""

    def going_on(unit: UnitOfWork) -> str:
        unit.connection.exec_driver_sql(insert("before"))
        try:
            unit.connection.exec_driver_sql(insert("x") + " no SQL")
        except DBAPIError:
            unit.connection.exec_driver_sql("ROLLBACK")
        return "done"

    others = [] if alone else [store.write(adding("other"))]
    results = await asyncio.gather(store.write(going_on), *others, return_exceptions=True)

    assert all(isinstance(result, Exception) for result in results), results
    assert await names(store) == []
    await store.write(adding("later"))
    assert await names(store) == ["later"]


async def test_a_statement_that_may_fail_can_be_tried_on_its_own(store: Store) -> None:
    def trying(unit: UnitOfWork) -> str:
        unit.connection.exec_driver_sql(insert("before"))
        try:
            with unit.connection.begin_nested():
                breaking_a_rule(unit)
        except IntegrityError:
            unit.connection.exec_driver_sql(insert("instead"))
        return "done"

    assert await store.write(trying) == "done"
    assert list(await asyncio.gather(store.write(trying), store.write(trying))) == ["done", "done"]
    assert await names(store) == ["before", "instead"] * 3


async def test_ids_of_the_outbox_are_never_given_out_twice(store: Store) -> None:
    await store.write(adding("first"))
    [first] = await store.all(select(OutboxRow.id))
    await store.write(lambda unit: unit.connection.execute(text("DELETE FROM outbox")))
    await store.write(adding("second"))
    [second] = await store.all(select(OutboxRow.id))

    assert second.id == first.id + 1


async def test_another_process_writing_is_waited_for(store: Store, database: str) -> None:
    has_begun, may_end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def theirs(unit: UnitOfWork) -> str:
        loop.call_soon_threadsafe(has_begun.set)
        may_end.wait(60)
        return adding("theirs")(unit)

    async with opened(database) as other:
        they = asyncio.create_task(other.write(theirs))
        await has_begun.wait()
        we = asyncio.create_task(store.write(adding("ours")))
        assert await names(store) == []
        may_end.set()

        assert list(await asyncio.gather(they, we)) == ["theirs", "ours"]
    assert await names(store) == ["theirs", "ours"]


async def test_what_a_unit_has_read_stays_true_until_it_is_committed(
    store: Store, database: str
) -> None:
    """Two processes count, each without locking anything, and neither counts wrong."""

    def counting(unit: UnitOfWork) -> int:
        number = unit.connection.execute(text("SELECT count(*) FROM outbox")).scalar_one()
        unit.connection.exec_driver_sql(insert(str(number)))
        return int(number)

    async with opened(database) as other:
        counted = await asyncio.gather(
            *(processes.write(counting) for processes in (store, other) for _ in range(100))
        )

    assert sorted(counted) == list(range(200))
    assert await names(store) == [str(number) for number in range(200)]


async def test_what_was_handed_in_before_closing_is_done(database: str) -> None:
    async with opened(database) as store:
        waiting = [asyncio.create_task(store.write(adding(str(number)))) for number in range(50)]
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)

    async with opened(database) as again:
        assert len(await names(again)) == 50


@asynccontextmanager
async def occupied(store: Store) -> AsyncIterator[threading.Event]:
    """Have the store's writer busy until the event, or the end of the block."""
    has_begun, may_end = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def work(unit: UnitOfWork) -> None:
        loop.call_soon_threadsafe(has_begun.set)
        may_end.wait(60)

    busy = asyncio.create_task(store.write(work))
    await has_begun.wait()
    try:
        yield may_end
    finally:
        may_end.set()
        await asyncio.gather(busy, return_exceptions=True)


async def test_when_too_many_wait_the_next_is_refused_and_the_others_are_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chat_api.store.engine._MOST_WAITING", 3)
    with capture_logs() as logs:
        async with occupied(store) as may_end:
            waiting = [asyncio.create_task(store.write(adding(str(n)))) for n in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(Unavailable):
                await store.write(adding("one too many"))
            may_end.set()
            await asyncio.gather(*waiting)

    assert await names(store) == ["0", "1", "2"]
    assert [log["reason"] for log in logs if "reason" in log] == ["3 wait for it already"]


async def is_written(store: Store, name: str) -> bool:
    try:
        await store.write(adding(name))
    except Unavailable:
        return False
    return True


async def test_what_has_not_begun_in_time_never_does(database: str) -> None:
    async with opened(database) as other, occupied(other):
        store = Store(database, patience=0.1)
        committed: list[str] = []
        with pytest.raises(Unavailable):
            await store.write(adding("withdrawn", committed))
    # The writer was waiting for its turn meanwhile, and has found nothing to do in it.
    while not await is_written(store, "later"):
        pass
    assert await names(store) == ["later"]
    assert committed == []
    await store.close()


async def test_a_mistake_in_what_follows_a_change_holds_nobody_up(store: Store) -> None:
    committed: list[str] = []

    def mistaken(unit: UnitOfWork) -> str:
        unit.when_committed(lambda: committed.remove("nothing"))
        return adding("mistaken", committed)(unit)

    answers = await asyncio.gather(
        store.write(adding("before", committed)),
        store.write(mistaken),
        store.write(adding("after", committed)),
    )

    assert list(answers) == ["before", "mistaken", "after"]
    assert committed == ["before", "mistaken", "after"]


async def test_a_unit_that_takes_too_long_has_an_open_outcome(store: Store, database: str) -> None:
    committed = asyncio.Event()

    def slow(unit: UnitOfWork) -> str:
        unit.when_committed(committed.set)
        may_end.wait(60)
        return adding("slow")(unit)

    may_end = threading.Event()
    async with opened(database, patience=0.1) as impatient:
        with pytest.raises(Unavailable):
            await impatient.write(slow)
        with pytest.raises(Unavailable):  # at once, as the only writer has not come back
            await impatient.write(adding("after it"))
        may_end.set()
        await committed.wait()

    assert await names(store) == ["slow"]
