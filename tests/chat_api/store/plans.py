"""How a database means to answer a statement: what it would look at, if there were much."""

from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.sql import Executable

from chat_api.store.engine import Store, UnitOfWork

__all__ = ["plan_of"]


async def plan_of(store: Store, statement: Executable, parameters: dict[str, Any]) -> str:
    """Return the database's plan for a table that is too large to be read and sorted as a whole."""

    def explain(unit: UnitOfWork) -> str:
        connection = unit.connection
        is_sqlite = connection.dialect.name == "sqlite"
        if not is_sqlite:
            for way in ("seqscan", "bitmapscan", "sort"):  # those for tables as small as a test's
                connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        prefix = "EXPLAIN QUERY PLAN " if is_sqlite else "EXPLAIN "
        rows = _explained(connection, prefix, statement, parameters)
        return "\n".join(str(row[-1]) for row in rows)

    return await store.write(explain)


def _explained(
    connection: Connection, prefix: str, statement: Executable, parameters: dict[str, Any]
) -> list[Any]:
    rows: list[Any] = []

    def explain(
        _: Connection, cursor: Any, sql: str, values: Any, context: Any, many: bool
    ) -> tuple[str, Any]:
        if not sql.startswith("EXPLAIN"):
            cursor.execute(prefix + sql, values)
            rows.extend(cursor.fetchall())
        return sql, values

    event.listen(connection, "before_cursor_execute", explain, retval=True)
    try:
        connection.execute(statement, parameters)
    finally:
        event.remove(connection, "before_cursor_execute", explain)
    return rows
