"""
PostgreSQL 14 or newer, by psycopg, also for several processes at once.

What one process at a time may do is behind two advisory locks of the database, which PostgreSQL
takes back from whoever is gone or has been frozen for some seconds: one for the length of a writing
transaction, one for as long as a process leads. They belong to a session, so a pooler in between
has to keep sessions together (PgBouncer: `pool_mode = session`).
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError

from chat_api.store.database import OutOfReach, UnusableDatabase

__all__ = ["Postgresql"]

_SCHEMES: Final = ("postgresql", "postgres", "pgsql", "postgresql+psycopg")
_OLDEST: Final = 14
_FORM: Final = (
    "must be postgresql://USER:PASSWORD@HOST:PORT/NAME, with special characters as %XX, and after "
    "a ? nothing but options of libpq"
)

# libpq's names, in seconds (tcp_user_timeout: milliseconds). The URL may overrule them.
_NETWORK: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "fallback_application_name": "chat_api",
}

# Each with what is not good enough; what whoever runs the server has chosen otherwise stays. Who
# waits for a lock has to outlast somebody who holds it and is frozen; and with synchronous_commit,
# what was answered survives a power cut.
_SESSION: Final = """
    SELECT set_config(name, value, false)
    FROM (VALUES
        ('lock_timeout', '0', '10s'),
        ('idle_in_transaction_session_timeout', '0', '5s'),
        ('statement_timeout', '0', '30s'),
        ('synchronous_commit', 'off', 'on')
    ) AS settings (name, bad, value)
    WHERE current_setting(name) = bad
"""
_NO_LIMITS: Final = (
    "SET LOCAL lock_timeout = 0; "
    "SET LOCAL statement_timeout = 0; "
    "SET LOCAL idle_in_transaction_session_timeout = '10min'"
)
_SESSION_OF_LEADER: Final = (
    "SET statement_timeout = '6s'; "
    "SET idle_session_timeout = '6s'; "
    "SET tcp_keepalives_idle = 5; "
    "SET tcp_keepalives_interval = 2; "
    "SET tcp_keepalives_count = 3; "
    "LISTEN chat_api"
)
_ASK_AGAIN: Final = 1.0  # seconds, while another process leads
_SHOW_LIFE: Final = 2.0  # seconds, while this one does
_LET_GO: Final = 1.0  # seconds that a session has to end in good order


def _key(purpose: str) -> str:
    # Two products in two schemas of one database are none of each other's business.
    return f"hashtextextended('chat_api {purpose} in ' || current_schema(), 0)"


# The lock comes before the transaction has looked at anything, and READ COMMITTED looks anew with
# every statement. In one message, as every change to the database begins with it.
_BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
_TAKE_TURN: Final = f"SELECT pg_advisory_xact_lock({_key('writer')})"
_TRY_TO_LEAD: Final = f"SELECT pg_try_advisory_lock({_key('leader')})"


class _DiscreetCursor(psycopg.Cursor[Any]):
    """Raises errors that say what is wrong, without the details, which quote whole rows."""

    def execute(self, *args: Any, **options: Any) -> Self:
        with _without_details():
            return super().execute(*args, **options)

    def executemany(self, *args: Any, **options: Any) -> None:
        with _without_details():
            super().executemany(*args, **options)


@contextmanager
def _without_details() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as error:
        if error.diag.message_primary is not None:
            error.args = (error.diag.message_primary,)
        raise


class Postgresql:
    """One database of a server. `parameters` are libpq's."""

    next_savepoint: Sequence[str] = ("RELEASE SAVEPOINT unit; SAVEPOINT unit",)

    def __init__(self, parameters: dict[str, Any]) -> None:
        # Texts must not depend on the locale that this process happens to have.
        self._parameters = {**_NETWORK, **parameters, "client_encoding": "utf8"}

    @classmethod
    def at(cls, url: str) -> Self | None:
        """
        Return the database at `postgresql://…`, or None if the URL is of another kind.

        What libpq takes is taken: several hosts, sockets (`?host=/run/postgresql`), `sslmode` and
        all other options. The scheme may be `postgres` or `pgsql` as well.

        Raises:
            ValueError: The URL is of this kind and wrong. The text quotes nothing of it.
        """
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in _SCHEMES:
            return None
        try:
            parameters = conninfo_to_dict(f"postgresql://{rest}")
        except psycopg.ProgrammingError:
            raise ValueError(_FORM) from None  # it may quote what is a piece of the password
        # A password that was not encoded makes a mess of the parts, and errors would quote those.
        host, port = str(parameters.get("host", "")), str(parameters.get("port", ""))
        name = str(parameters.get("dbname", ""))
        if not name or not re.fullmatch(r"[\d,]*", port) or "@" in host + name:
            raise ValueError(_FORM)
        return cls(parameters)

    def reading(self, connections: int) -> Engine:
        # What people said has no business in a log, so errors do not quote it (hide_parameters).
        engine = self._engine(
            isolation_level="AUTOCOMMIT",
            skip_autocommit_rollback=True,
            pool_size=connections,
            max_overflow=0,
        )
        event.listen(engine, "connect", _prepare)
        return engine

    def writing(self) -> Engine:
        engine = self._engine(pool_size=1, max_overflow=0)
        event.listen(engine, "connect", _prepare)
        event.listen(engine, "begin", _begin_as_writer)
        return engine

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        engine = self._engine(poolclass=NullPool)
        event.listen(engine, "begin", _begin_without_limits)
        with engine.connect() as connection:
            self._check(connection)
            with connection.begin():
                yield connection

    def is_in_transaction(self, connection: Connection) -> bool:
        # The connection may be lost, and a transaction in which a statement failed can only be
        # undone: PostgreSQL answers COMMIT with ROLLBACK then, and calls it a success.
        driver: Any = connection.connection.dbapi_connection
        status: TransactionStatus = driver.info.transaction_status
        return status == TransactionStatus.INTRANS

    def is_unavailable(self, error: DBAPIError) -> bool:
        return error.connection_invalidated or _is_temporary(error.orig)

    async def lead(
        self, work: Callable[[], Coroutine[Any, Any, None]], awake: asyncio.Event
    ) -> None:
        try:
            async with await psycopg.AsyncConnection.connect(
                **self._parameters, autocommit=True
            ) as session:
                await _as_long_as_it_answers(_become_first(session, awake))
                await _while_it_lasts(work, _as_long_as_it_answers(_listen(session, awake)))
        except psycopg.Error as error:
            raise OutOfReach from error

    def _engine(self, **options: Any) -> Engine:
        engine = create_engine(
            "postgresql+psycopg://",
            connect_args={**self._parameters, "cursor_factory": _DiscreetCursor},
            hide_parameters=True,
            use_native_hstore=False,  # it would be asked about on connecting
            **options,
        )
        event.listen(engine, "connect", _leave_transactions_to_us)
        event.listen(engine, "handle_error", _drop_connections_that_only_read)
        return engine

    def _check(self, connection: Connection) -> None:
        driver: Any = connection.connection.dbapi_connection
        version = driver.info.server_version // 10_000
        encoding = driver.info.parameter_status("server_encoding")
        if version < _OLDEST:
            raise UnusableDatabase(f"PostgreSQL must be {_OLDEST} or newer, not {version}")
        if encoding != "UTF8":
            raise UnusableDatabase(f"its encoding must be UTF8, not {encoding}: create it anew")


def _leave_transactions_to_us(connection: Any, record: object) -> None:
    connection.autocommit = True


def _prepare(connection: Any, record: object) -> None:
    connection.execute(_SESSION)


def _begin_as_writer(connection: Connection) -> None:
    connection.exec_driver_sql(f"{_BEGIN}; {_TAKE_TURN}")


def _begin_without_limits(connection: Connection) -> None:
    # Another process that migrates is waited for, however long it takes.
    connection.exec_driver_sql(f"{_BEGIN}; {_NO_LIMITS}; {_TAKE_TURN}")


def _is_temporary(error: BaseException | None) -> bool:
    # Lost or refused connections, timeouts, a full disk, a shutdown, conflicts with foreign
    # transactions, but not what is too much for any server; and a standby, or a server that was
    # told to take no changes for now.
    if isinstance(error, psycopg.OperationalError):
        return not (error.sqlstate or "").startswith("54")
    return isinstance(error, psycopg.errors.ReadOnlySqlTransaction)


def _drop_connections_that_only_read(context: ExceptionContext) -> None:
    # After a failover the next connection may lead to the server that takes changes.
    if isinstance(context.original_exception, psycopg.errors.ReadOnlySqlTransaction):
        context.is_disconnect = True


async def _become_first(session: psycopg.AsyncConnection[Any], awake: asyncio.Event) -> None:
    """Return once this session has the lock; until then wake whoever has it."""
    await session.execute(_SESSION_OF_LEADER)
    while not await _has_lock(session):
        try:
            async with asyncio.timeout(_ASK_AGAIN):
                await awake.wait()
        except TimeoutError:
            continue
        awake.clear()
        await session.execute("NOTIFY chat_api")


async def _has_lock(session: psycopg.AsyncConnection[Any]) -> bool:
    row = await (await session.execute(_TRY_TO_LEAD)).fetchone()
    assert row is not None
    return bool(row[0])


async def _listen(session: psycopg.AsyncConnection[Any], awake: asyncio.Event) -> None:
    """Set `awake` when another process says so, and show the server that this one lives."""
    while True:
        async for _ in session.notifies(timeout=_SHOW_LIFE):
            awake.set()
        await session.execute("SELECT 1")


async def _as_long_as_it_answers(session: Coroutine[Any, Any, None]) -> None:
    """
    Run what a session does; when cancelled, end within seconds.

    The driver, when it is cancelled, cancels what the server does and waits for that. Cancelled
    again, it does not.
    """
    task = asyncio.create_task(session)
    try:
        await asyncio.shield(task)
    finally:
        while not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=_LET_GO)


async def _while_it_lasts(
    work: Callable[[], Coroutine[Any, Any, None]], session: Coroutine[Any, Any, None]
) -> None:
    """Run both until one ends, which ends the other too; return or raise as the first did."""
    tasks = [asyncio.create_task(session), asyncio.create_task(work())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in ended:
        task.result()
