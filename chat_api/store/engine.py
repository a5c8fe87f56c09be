"""
The two ways to use the database: queries, and units of work.

A unit of work is a plain function that gets a connection: it runs in the database's own thread,
from its first statement to its last, and nothing on the event loop can come in between. Those that
arrive while another transaction is being made durable share the next one, each within a savepoint,
so a disk that needs milliseconds for a commit still takes thousands of messages per second.
(Measured with 4 ms per commit: 200 messages per second statement by statement through an async
driver, 760 this way.)

Order matters to the outbox: rows must get their ids in the order of their commits. SQLite has one
writer at a time, here one thread, whose transactions `BEGIN IMMEDIATE`: another process cannot come
in between either, and nobody meets "database is locked" half-way. On PostgreSQL the same functions
would run under `AsyncConnection.run_sync`, where transactions overlap: a unit that writes to the
outbox must first take one transaction-level advisory lock (`pg_advisory_xact_lock`), which gives
the same order.
"""

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar, TypeVarTuple

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, Row, Select, create_engine, event, make_url, text

__all__ = ["Store", "UnitOfWork"]

_MIGRATIONS = Path(__file__).with_name("migrations")

_READERS = 4  # threads; queries are short, and Python runs one at a time anyway
_MOST_TOGETHER = 128  # units of work in one transaction

# FULL, so that what was answered survives a power cut too, not only a killed process.
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
    "PRAGMA busy_timeout = 10000",
)

T = TypeVar("T")
Columns = TypeVarTuple("Columns")


class UnitOfWork:
    """
    One change that happens as a whole or not at all.

    It is lent to a function for the time of its call, in the database's thread.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._callbacks: list[Callable[[], None]] = []

    def when_committed(self, callback: Callable[[], None]) -> None:
        """Have `callback` called on the event loop once the change is safe, and only then."""
        self._callbacks.append(callback)


class Store:
    """
    The SQLite database in a file.

    Usable from any number of tasks of the event loop it is first used on. Close it when done.
    """

    def __init__(self, url: str) -> None:
        path = make_url(url)
        assert path.database, "what is said would be lost with the process"
        _create_private(path.database)
        # What people said has no business in a log, so errors do not quote it (hide_parameters).
        # Single queries need no transaction, and so neither a BEGIN nor a ROLLBACK.
        self._readers = create_engine(
            path,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            hide_parameters=True,
            pool_size=_READERS,
            max_overflow=0,
        )
        writer = create_engine(path, pool_size=1, max_overflow=0, hide_parameters=True)
        for engine in (self._readers, writer):
            event.listen(engine, "connect", _set_pragmas)
        event.listen(writer, "connect", _leave_transactions_to_us)
        event.listen(writer, "begin", _begin_as_writer)
        self._threads = ThreadPoolExecutor(_READERS, thread_name_prefix="database-reader")
        self._writer = _Writer(writer)

    async def all(
        self, query: Select[*Columns], parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[*Columns]]:
        """Return all rows of a query, whose `bindparam`s take their values from `parameters`."""

        def run() -> Sequence[Row[*Columns]]:
            with self._readers.connect() as connection:
                return connection.execute(query, parameters).all()

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    async def one_or_none(
        self, query: Select[*Columns], parameters: Mapping[str, Any] | None = None
    ) -> Row[*Columns] | None:
        """Return the only row of a query, or None if it has none."""

        def run() -> Row[*Columns] | None:
            with self._readers.connect() as connection:
                return connection.execute(query, parameters).one_or_none()

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    async def write(self, work: Callable[[UnitOfWork], T]) -> T:
        """
        Run `work` as one unit and return what it returns, once that is durable.

        Units run in the order of these calls. One that raises changes nothing and its exception
        comes out here. Cancelling the wait does not stop the work.
        """
        return await self._writer.submit(work)

    async def migrate(self) -> None:
        """Bring the schema to the newest version, in one transaction; does nothing if it is."""

        def upgrade(unit: UnitOfWork) -> None:
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
            config.attributes["connection"] = unit.connection
            command.upgrade(config, "head")

        await self.write(upgrade)

    async def check(self) -> None:
        """Ask the database for a sign of life; raises what the driver raises."""
        await self.one_or_none(_SIGN_OF_LIFE)

    async def close(self) -> None:
        """Finish the work that was handed in and close all connections."""
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._threads.shutdown)
        self._readers.dispose()


_SIGN_OF_LIFE: Select[int] = Select(text("1"))


class _Job(Generic[T]):
    """A unit of work that somebody waits for."""

    def __init__(self, work: Callable[[UnitOfWork], T], done: asyncio.Future[T]) -> None:
        self._work = work
        self._done = done
        self._unit: UnitOfWork | None = None
        self._result: T
        self.error: BaseException | None = None

    def run(self, connection: Connection) -> None:
        self._unit = UnitOfWork(connection)
        self._result = self._work(self._unit)

    def announce(self) -> None:
        """Tell the event loop; runs there."""
        if self.error is None and self._unit is not None:
            for callback in self._unit._callbacks:
                callback()
        if self._done.done():
            return  # nobody waits any more
        if self.error is None:
            self._done.set_result(self._result)
        else:
            self._done.set_exception(self.error)


class _Writer:
    """The one thread that changes the database, and the queue in front of it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="database-writer", daemon=True)

    async def submit(self, work: Callable[[UnitOfWork], T]) -> T:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._thread.start()
        done: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put(_Job(work, done))
        return await done

    def close(self) -> None:
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()
        self._engine.dispose()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            is_last = False
            while len(jobs) < _MOST_TOGETHER:
                try:
                    another = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if another is None:
                    is_last = True
                    break
                jobs.append(another)
            self._commit_together(jobs)
            assert self._loop is not None, "a job was submitted"
            self._loop.call_soon_threadsafe(_announce, jobs)
            if is_last:
                break

    def _commit_together(self, jobs: Sequence[_Job[Any]]) -> None:
        try:
            with self._engine.begin() as connection:
                if len(jobs) == 1:
                    jobs[0].run(connection)
                    return
                for job in jobs:
                    try:
                        with connection.begin_nested():
                            job.run(connection)
                    except Exception as error:
                        job.error = error
                        if not _is_in_transaction(connection):
                            # On a full or failing disk SQLite takes everything back, the work of
                            # the jobs before this one too.
                            raise
        except BaseException as error:
            # Not committed: whatever the jobs believe, none of them happened.
            for job in jobs:
                job.error = job.error or error


def _announce(jobs: Sequence[_Job[Any]]) -> None:
    for job in jobs:
        job.announce()


def _create_private(file: str) -> None:
    """Make the file for its owner alone; SQLite gives those beside it the same rights."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError:
        pass  # opening the database will say why


def _set_pragmas(connection: Any, record: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _leave_transactions_to_us(connection: Any, record: object) -> None:
    connection.isolation_level = None


def _is_in_transaction(connection: Connection) -> bool:
    driver: Any = connection.connection.dbapi_connection
    return bool(driver.in_transaction)


def _begin_as_writer(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
