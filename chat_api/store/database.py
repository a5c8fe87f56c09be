"""What a store needs of a database, and every database does in its own way."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

__all__ = ["Database", "OutOfReach", "UnusableDatabase"]


class OutOfReach(Exception):
    """The database can't be used for now; the cause of this exception is what the driver said."""


class UnusableDatabase(Exception):
    """The database can't be used as it is; the text is one line that says why."""


class Database(Protocol):
    """Where a database is, and how it is spoken to."""

    next_savepoint: Sequence[str]
    """What keeps the changes since the savepoint `unit` and sets it anew, in few messages."""

    def reading(self, connections: int) -> Engine:
        """Return an engine for up to so many queries at a time, each for itself."""
        ...

    def writing(self) -> Engine:
        """
        Return an engine with one connection, for transactions that change something.

        Such a transaction sees everything that was committed before it begins, and until it ends no
        other can begin, in this process or another: the one that begins waits, for a limited time.
        When its commit returns, it is safe from a power cut. Where this process freezes, others get
        their turn after a while.
        """
        ...

    def migrating(self) -> AbstractContextManager[Connection]:
        """
        Lend a connection in a transaction as above that may take long, to change the schema in.

        Raises:
            UnusableDatabase: The product could not work with it.
        """
        ...

    def is_in_transaction(self, connection: Connection) -> bool:
        """Tell whether the transaction can still be committed, instead of being undone already."""
        ...

    def is_unavailable(self, error: DBAPIError) -> bool:
        """Tell whether the same may succeed later without anybody changing the program."""
        ...

    async def lead(
        self, work: Callable[[], Coroutine[Any, Any, None]], awake: asyncio.Event
    ) -> None:
        """
        As `Store.lead`.

        Raises:
            OutOfReach: Nobody can say any more whether this process leads.
        """
        ...
