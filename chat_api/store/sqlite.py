"""SQLite: a file, with a write-ahead log beside it."""

import asyncio
import os
import sqlite3
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final, Self

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import DBAPIError

from chat_api.store.database import OutOfReach, UnusableDatabase

__all__ = ["Sqlite"]

_SCHEME: Final = "sqlite:///"
_ASK_AGAIN: Final = 1.0  # seconds, while another process leads

# FULL, so that what was answered survives a power cut too, not only a killed process.
_PRAGMAS: Final = (
    "PRAGMA busy_timeout = 10000",  # milliseconds; first, as the others may have to wait as well
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)
_TEMPORARY: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)


class Sqlite:
    """The database in one file, which is made when it is first used, for its owner alone."""

    next_savepoint: Sequence[str] = ("RELEASE SAVEPOINT unit", "SAVEPOINT unit")

    def __init__(self, path: str) -> None:
        self._path = path
        self._url = URL.create("sqlite", database=path)

    @classmethod
    def at(cls, url: str) -> Self | None:
        """
        Return the database at `sqlite:///PATH`, or None if the URL is of another kind.

        Raises:
            ValueError: The URL is of this kind and wrong.
        """
        if not url.startswith(_SCHEME):
            return None
        path = url.removeprefix(_SCHEME)
        if not path or "?" in path:
            return None
        if path == ":memory:" or path.startswith("file:"):
            raise ValueError("must name a file: what is said would be lost with the process")
        return cls(path)

    def reading(self, connections: int) -> Engine:
        # What people said has no business in a log, so errors do not quote it (hide_parameters).
        # Single queries need no transaction, and so neither a BEGIN nor a ROLLBACK.
        engine = create_engine(
            self._url,
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            hide_parameters=True,
            pool_size=connections,
            max_overflow=0,
        )
        return self._prepared(engine)

    def writing(self) -> Engine:
        engine = create_engine(self._url, pool_size=1, max_overflow=0, hide_parameters=True)
        return _with_own_begin(self._prepared(engine))

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        # A table is changed by making it anew, which those that refer to it must not notice.
        engine = create_engine(self._url, poolclass=NullPool, hide_parameters=True)
        engine = _with_own_begin(self._prepared(engine, "PRAGMA foreign_keys = OFF"))
        with engine.begin() as connection:
            version = _answer(connection, "PRAGMA schema_version")
            yield connection
            if _answer(connection, "PRAGMA schema_version") != version:
                table = _answer(connection, "PRAGMA foreign_key_check")
                if table is not None:
                    raise UnusableDatabase(f"the table {table} has rows that refer to nothing")

    def is_in_transaction(self, connection: Connection) -> bool:
        driver: Any = connection.connection.dbapi_connection
        return bool(driver.in_transaction)

    def is_unavailable(self, error: DBAPIError) -> bool:
        return _is_temporary(error.orig)

    async def lead(
        self, work: Callable[[], Coroutine[Any, Any, None]], awake: asyncio.Event
    ) -> None:
        # SQLite's own lock on a file beside the database: it ends with the process, however that
        # ends, and works on every system.
        path = f"{self._path}-leader"
        _create_private(path)
        try:
            with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as lock:
                await _become_first(lock)
                await work()
        except sqlite3.OperationalError as error:
            raise OutOfReach from error

    def _prepared(self, engine: Engine, *pragmas: str) -> Engine:
        def prepare(connection: Any, record: object) -> None:
            for pragma in (*_PRAGMAS, *pragmas):
                connection.execute(pragma)

        _create_private(self._path)
        event.listen(engine, "connect", prepare)
        return engine


def _with_own_begin(engine: Engine) -> Engine:
    """Have transactions begin as writers: those that find out late find the database locked."""
    event.listen(engine, "connect", _leave_transactions_to_us)
    event.listen(engine, "begin", _begin_as_writer)
    return engine


def _leave_transactions_to_us(connection: Any, record: object) -> None:
    connection.isolation_level = None


def _begin_as_writer(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _answer(connection: Connection, pragma: str) -> Any:
    return connection.exec_driver_sql(pragma).scalar()


async def _become_first(lock: sqlite3.Connection) -> None:
    while True:
        if _is_first(lock):
            return
        await asyncio.sleep(_ASK_AGAIN)


def _is_first(lock: sqlite3.Connection) -> bool:
    try:
        lock.execute("PRAGMA journal_mode = MEMORY")  # as nothing is written, no further file
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            return False
        raise
    return True


def _is_temporary(error: BaseException | None) -> bool:
    # The lowest byte is the kind of error; the others are details.
    return (
        isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in _TEMPORARY
    )


def _create_private(file: str) -> None:
    """Make the file for its owner alone; SQLite gives those beside it the same rights."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError:
        pass  # opening the database will say why
