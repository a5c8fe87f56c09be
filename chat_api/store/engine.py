"""
The two ways to use the database: queries, and units of work.

A unit of work is a plain function that gets a connection: it runs in the database's own thread,
from its first statement to its last, and nothing on the event loop can come in between. Those that
arrive while another transaction is being made durable share the next one, each within a savepoint,
so a disk that needs milliseconds for a commit still takes thousands of messages per second.

Order matters to the outbox: rows must get their ids in the order of their commits. So a database
has one writer at a time, also among several processes. On SQLite transactions `BEGIN IMMEDIATE`,
on PostgreSQL they take an advisory lock first; either way nobody meets a lock half-way, and what
a unit has read stays true until it is committed.

Nobody waits for ever: a database that has stopped to answer holds the threads that have asked it,
and those who wait for them are told so after a while, or at once when they are too many.
"""

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final, Generic, TypeVar, TypeVarTuple

import structlog
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Row, Select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from chat_api.kernel.errors import Unavailable
from chat_api.kernel.measures import Measure, single
from chat_api.store.database import Database, OutOfReach, UnusableDatabase
from chat_api.store.postgresql import Postgresql
from chat_api.store.sqlite import Sqlite

__all__ = ["Store", "UnitOfWork", "database_at"]

_log = structlog.get_logger("chat_api.store")

_MIGRATIONS: Final = Path(__file__).with_name("migrations")
_READERS: Final = 4  # threads; queries are short, and Python runs one at a time anyway
_MOST_TOGETHER: Final = 60  # units in one transaction; with over 64, PostgreSQL's readers slow down
_PATIENCE: Final = 15.0  # seconds; the database itself gives up waiting for a lock after 10
_MOST_WAITING: Final = 2_000  # of each kind: what even PostgreSQL works off in some seconds
_LAST_WORK: Final = 5.0  # seconds that closing gives to what is under way
_REMIND_EVERY: Final = 60.0  # seconds between reports while the database stays away
_TRY_AGAIN: Final = "The database is out of reach. Try again in some seconds."

_migrating = threading.Lock()  # Alembic keeps what it is doing in global variables

T = TypeVar("T")
Columns = TypeVarTuple("Columns")


def database_at(url: str) -> Database:
    """
    Return the database that a URL names, without connecting to it.

    Raises:
        ValueError: It names none. The text is the end of a sentence that begins with the setting's
            name, and quotes nothing of the URL, which may hold a password.
    """
    database = Sqlite.at(url) or Postgresql.at(url)
    if database is None:
        raise ValueError("must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME")
    return database


class UnitOfWork:
    """
    One change that happens as a whole or not at all.

    It is lent to a function for the time of its call, in the database's thread. From its first
    statement until it is committed nobody else changes the database, in this process or another:
    what it reads it may decide upon, without locking rows (`FOR UPDATE`), which SQLite can't.

    A statement that fails ends the unit, even if the function catches the exception; one that may
    fail belongs into `with unit.connection.begin_nested()`, which undoes it alone.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._callbacks: list[Callable[[], None]] = []

    def when_committed(self, callback: Callable[[], None]) -> None:
        """Have `callback` called on the event loop once the change is safe, and only then."""
        self._callbacks.append(callback)


class Store:
    """
    The database at a URL, see `database_at`.

    Usable from any number of tasks of the event loop it is first used on. Close it when done.

    What the database cannot do for now, because it is out of reach, full or too busy, raises
    `Unavailable` and is logged; a connection that was lost is made anew by the next call. So does
    what it has not done after `patience` seconds, and what comes on top of thousands who wait
    already. Whatever else the driver raises comes out as SQLAlchemy's exception.
    """

    def __init__(self, url: str, *, patience: float = _PATIENCE) -> None:
        self._database = database_at(url)
        self._readers = _Readers(self._database, patience)
        self._writer = _Writer(self._database, patience)
        self._reading = _Availability("The database does not answer", self._database)
        self._writing = _Availability("The database takes no changes", self._database)
        self._leading = _Availability("It is not known which process leads", self._database)

    async def all(
        self, query: Select[*Columns], parameters: Mapping[str, Any] | None = None
    ) -> Sequence[Row[*Columns]]:
        """Return all rows of a query, whose `bindparam`s take their values from `parameters`."""

        def ask(connection: Connection) -> Sequence[Row[*Columns]]:
            return connection.execute(query, parameters).all()

        with self._reading.watched():
            return await self._readers.ask(ask)

    async def one_or_none(
        self, query: Select[*Columns], parameters: Mapping[str, Any] | None = None
    ) -> Row[*Columns] | None:
        """Return the only row of a query, or None if it has none."""

        def ask(connection: Connection) -> Row[*Columns] | None:
            return connection.execute(query, parameters).one_or_none()

        with self._reading.watched():
            return await self._readers.ask(ask)

    async def write(self, work: Callable[[UnitOfWork], T]) -> T:
        """
        Run `work` as one unit and return what it returns, once that is durable.

        Units run in the order of these calls. One that raises changes nothing and its exception
        comes out here. Cancelling the wait does not stop the work.

        Raises:
            Unavailable: Nothing has changed; or, when the connection was lost while PostgreSQL
                answered, or it has begun and taken too long, everything may have, or may yet. A
                unit that must not happen twice finds that out by what it has stored.
        """
        with self._writing.watched():
            return await self._writer.submit(work)

    async def migrate(self) -> None:
        """
        Bring the schema to the newest version, in one transaction; does nothing if it is.

        Raises:
            UnusableDatabase: It is out of reach, or of a kind or version that can't be worked with.
        """
        await asyncio.to_thread(self._migrate, command.upgrade, "head")

    async def migrate_back(self, version: str) -> None:
        """
        Bring the schema to an older version, such as "0002", or to "base", which is empty.

        What an older version has no place for is lost.

        Raises:
            UnusableDatabase: As `migrate`.
        """
        await asyncio.to_thread(self._migrate, command.downgrade, version)

    async def lead(
        self, work: Callable[[], Coroutine[Any, Any, None]], awake: asyncio.Event
    ) -> None:
        """
        Wait until this process is the one that leads, and then run `work`, which does not end.

        Of all processes on a database one leads, until it leaves or the database loses sight of it;
        then another does within seconds. Until then `awake` is passed on: where it is set by others
        it is cleared, and set in the process that leads (on SQLite it is not). Who led may do a
        little more after another has begun, so what `work` does must bear being done twice.

        Raises:
            Unavailable: The database is out of reach; if this process has led, `work` is cancelled.
        """
        with self._leading.watched():
            await self._database.lead(work, awake)

    async def check(self) -> None:
        """
        Ask the database for a sign of life.

        Raises:
            Unavailable: There is none.
        """
        await self.one_or_none(_SIGN_OF_LIFE)

    def measures(self) -> tuple[Measure, ...]:
        """Return what tells whether the database keeps up."""
        return (
            single(
                "database_writes_waiting",
                "Changes that wait for the database's one writer.",
                lambda: self._writer.waiting,
            ),
            single(
                "database_reads_waiting",
                "Queries that wait for one of the database's readers.",
                lambda: self._readers.waiting,
            ),
        )

    async def close(self) -> None:
        """
        Finish the work that was handed in and close all connections.

        What a database that does not answer has not done within seconds is left behind; it does
        not keep the process from ending.
        """
        ended = await asyncio.gather(
            asyncio.to_thread(self._writer.close), asyncio.to_thread(self._readers.close)
        )
        if not all(ended):
            _log.error("The database has not answered to the end; its last work was left behind")

    def _migrate(self, change: Callable[[Config, str], None], version: str) -> None:
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        try:
            with _migrating, self._database.migrating() as connection:
                config.attributes["connection"] = connection
                change(config, version)
        except CommandError as error:
            raise UnusableDatabase(f"this version does not know its schema: {error}") from error
        except DBAPIError as error:
            if not self._database.is_unavailable(error):
                raise
            raise UnusableDatabase(_reason(error)) from error


_SIGN_OF_LIFE: Final[Select[int]] = Select(text("1"))


class _Availability:
    """Turns errors that pass into `Unavailable`, and tells whoever runs this, once a minute."""

    def __init__(self, complaint: str, database: Database) -> None:
        self._complaint = complaint
        self._database = database
        self._reported_at: float | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        try:
            yield
        except OutOfReach as error:
            self._report(_reason(error.__cause__))
            raise Unavailable(_TRY_AGAIN) from error
        except DBAPIError as error:
            if not self._database.is_unavailable(error):
                raise
            self._report(_reason(error))
            raise Unavailable(_TRY_AGAIN) from error
        if self._reported_at is not None:
            self._reported_at = None
            _log.info("The database works again")

    def _report(self, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        if self._reported_at is None or now - self._reported_at >= _REMIND_EVERY:
            self._reported_at = now
            _log.error(self._complaint, reason=reason)


def _reason(error: BaseException | None) -> str:
    """Return what the driver said, on one line."""
    said = error.orig if isinstance(error, DBAPIError) else error
    return " ".join(str(said).split())


class _Job(Generic[T]):
    """What one of the database's threads is to do for somebody who waits, on the event loop."""

    def __init__(self, work: Callable[[Connection], T], done: asyncio.Future[T]) -> None:
        self._work = work
        self._done = done
        self._decided = threading.Lock()  # taken for good by who begins it, or gives it up before
        self._result: T
        self.error: BaseException | None = None

    def begin(self) -> bool:
        """Tell whether it is still wanted; if so, it can't be withdrawn any more."""
        return self._decided.acquire(blocking=False)

    def run(self, connection: Connection) -> None:
        self._result = self._work(connection)

    def give_up(self) -> None:
        """Let whoever waits go on, and withdraw it if it has not begun; on the event loop."""
        self._decided.acquire(blocking=False)
        if not self._done.done():
            self._done.set_exception(_out_of_reach(_LATE))

    def announce(self) -> None:
        """Tell the event loop; runs there."""
        if self._done.done():
            return  # nobody waits any more
        if self.error is None:
            self._done.set_result(self._result)
        else:
            self._done.set_exception(self.error)


class _Change(_Job[T]):
    """A unit of work that somebody waits for."""

    def __init__(self, work: Callable[[UnitOfWork], T], done: asyncio.Future[T]) -> None:
        super().__init__(self._in_a_unit, done)
        self._change = work
        self._unit: UnitOfWork | None = None

    def _in_a_unit(self, connection: Connection) -> T:
        self._unit = UnitOfWork(connection)
        return self._change(self._unit)

    def announce(self) -> None:
        if self.error is None and self._unit is not None:
            for callback in self._unit._callbacks:
                try:
                    callback()
                except Exception:
                    # It is stored all the same, and others wait behind this one.
                    _log.exception("What follows a change failed")
        super().announce()


_LATE: Final = "it has not answered in time"


def _out_of_reach(reason: str) -> OutOfReach:
    error = OutOfReach()
    error.__cause__ = TimeoutError(reason)
    return error


class _Line:
    """
    Threads of the database's own, and those who wait for them: first come, first served.

    They are daemons, as one that waits for a database may never end.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[_Job[Any]]], None],
        dispose: Callable[[], None],
        *,
        threads: int,
        at_once: int,
        patience: float,
    ) -> None:
        self._work = work
        self._dispose = dispose
        self._at_once = at_once
        self._patience = patience
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = [
            threading.Thread(target=self._run, args=[number], name=name, daemon=True)
            for number in range(threads)
        ]
        self._waited_for: dict[_Job[Any], float] = {}  # until when; the oldest first
        self._next_look: asyncio.TimerHandle | None = None  # one for all: timers cost more
        self._busy_since: dict[int, float] = {}  # by thread
        self._is_late = False
        self._ends = itertools.count(1)

    @property
    def waiting(self) -> int:
        return self._jobs.qsize()

    def new_result(self) -> asyncio.Future[Any]:
        """Return a future for a job, on the event loop that this is used on."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            for thread in self._threads:
                thread.start()
        return self._loop.create_future()

    async def wait_for(self, job: _Job[Any], result: asyncio.Future[T]) -> T:
        """Have a job done, and return its result."""
        if self._jobs.qsize() >= _MOST_WAITING:
            raise _out_of_reach(f"{_MOST_WAITING} wait for it already")
        if self._is_late and self._is_stuck():
            raise _out_of_reach(_LATE)
        assert self._loop is not None, "it made the result"
        self._jobs.put(job)
        self._waited_for[job] = self._loop.time() + self._patience
        if self._next_look is None:
            self._next_look = self._loop.call_later(self._patience, self._look)
        try:
            return await result
        finally:
            del self._waited_for[job]

    def close(self) -> bool:
        """Finish what is there; tell whether that took no longer than it may."""
        if self._loop is None:
            self._dispose()
            return True
        self._jobs.put(None)
        time_left = _LAST_WORK
        for thread in self._threads:
            before = monotonic()
            thread.join(max(0.0, time_left))
            time_left -= monotonic() - before
        return not any(thread.is_alive() for thread in self._threads)

    def _look(self) -> None:
        """Give up what is waited for too long, and come back for the next; on the event loop."""
        assert self._loop is not None, "it called this"
        self._next_look = None
        for job, until in self._waited_for.items():
            if until > self._loop.time():
                self._next_look = self._loop.call_at(until, self._look)
                break
            job.give_up()
            self._is_late = True

    def _is_stuck(self) -> bool:
        """Tell whether every thread has done the same for longer than anybody waits for it."""
        begun = list(self._busy_since.values())
        return len(begun) == len(self._threads) and max(begun) < monotonic() - self._patience

    def _run(self, number: int) -> None:
        while (job := self._jobs.get()) is not None:
            jobs = [job]
            is_last = False
            while len(jobs) < self._at_once:
                try:
                    another = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if another is None:
                    is_last = True
                    break
                jobs.append(another)
            self._busy_since[number] = monotonic()
            self._work(jobs)
            del self._busy_since[number]
            self._is_late = False
            assert self._loop is not None, "a job was submitted"
            with suppress(RuntimeError):  # the loop has ended, and with it all who waited
                self._loop.call_soon_threadsafe(_announce, jobs)
            if is_last:
                break
        self._jobs.put(None)  # for the next thread
        if next(self._ends) == len(self._threads):
            self._dispose()


class _Readers:
    """The threads that answer queries, each on a connection of its own."""

    def __init__(self, database: Database, patience: float) -> None:
        self._engine = database.reading(_READERS)
        self._line = _Line(
            "database-reader",
            self._answer,
            self._engine.dispose,
            threads=_READERS,
            at_once=1,
            patience=patience,
        )

    async def ask(self, work: Callable[[Connection], T]) -> T:
        result = self._line.new_result()
        return await self._line.wait_for(_Job(work, result), result)

    @property
    def waiting(self) -> int:
        return self._line.waiting

    def close(self) -> bool:
        return self._line.close()

    def _answer(self, jobs: Sequence[_Job[Any]]) -> None:
        for job in jobs:
            if not job.begin():
                continue
            try:
                self._run_again_if_lost(job)
            except BaseException as error:
                job.error = error

    def _run_again_if_lost(self, job: _Job[Any]) -> None:
        try:
            with self._engine.connect() as connection:
                job.run(connection)
            return
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        with self._engine.connect() as connection:  # the one in the pool was lost long ago, maybe
            job.run(connection)


class _Writer:
    """The one thread that changes the database."""

    def __init__(self, database: Database, patience: float) -> None:
        self._database = database
        self._engine = database.writing()
        self._line = _Line(
            "database-writer",
            self._commit_together,
            self._engine.dispose,
            threads=1,
            at_once=_MOST_TOGETHER,
            patience=patience,
        )

    async def submit(self, work: Callable[[UnitOfWork], T]) -> T:
        result = self._line.new_result()
        return await self._line.wait_for(_Change(work, result), result)

    @property
    def waiting(self) -> int:
        return self._line.waiting

    def close(self) -> bool:
        return self._line.close()

    def _commit_together(self, jobs: Sequence[_Job[Any]]) -> None:
        try:
            with self._connection() as connection:
                self._run_all([job for job in jobs if job.begin()], connection)
                if not self._database.is_in_transaction(connection):
                    raise RuntimeError("A unit of work went on after a statement of it had failed.")
                connection.commit()
        except BaseException as error:
            # Not committed: whatever the jobs believe, none of them happened.
            for job in jobs:
                job.error = job.error or error

    def _connection(self) -> Connection:
        """Return a connection whose transaction has begun; closing it without a commit undoes."""
        try:
            return self._begun()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        return self._begun()  # on a new connection: the one at hand may have been lost long ago

    def _begun(self) -> Connection:
        connection = self._engine.connect()
        try:
            connection.begin()
        except BaseException:
            connection.close()
            raise
        return connection

    def _run_all(self, jobs: Sequence[_Job[Any]], connection: Connection) -> None:
        if len(jobs) == 1:
            jobs[0].run(connection)
            return
        # By hand, as begin_nested() costs twice as many messages to the database.
        connection.exec_driver_sql("SAVEPOINT unit")
        for job in jobs:
            try:
                job.run(connection)
                for statement in self._database.next_savepoint:
                    connection.exec_driver_sql(statement)
            except Exception as error:
                job.error = error
                try:
                    connection.exec_driver_sql("ROLLBACK TO SAVEPOINT unit")
                except SQLAlchemyError as lost:
                    # The connection is lost, or on a full or failing disk SQLite has taken
                    # everything back: the work of the jobs before this one is gone, too.
                    raise OutOfReach from (error if isinstance(error, DBAPIError) else lost)


def _announce(jobs: Sequence[_Job[Any]]) -> None:
    for job in jobs:
        job.announce()
