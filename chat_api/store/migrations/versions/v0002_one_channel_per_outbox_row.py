"""An event in the outbox is for one channel; one that was for several becomes several."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_MOMENT = sa.DateTime(timezone=True)
_KEY_LENGTH = (
    40  # also of the older table when it is made again, for keys that have a suffix by then
)


def _outbox(channel: sa.Column[str]) -> sa.Table:
    return sa.Table(
        "outbox",
        sa.MetaData(),
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("event_key", sa.String(_KEY_LENGTH), nullable=False),
        channel,
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
        sa.Column("socket_id", sa.String(64), nullable=True),
        sa.Column("created_at", _MOMENT, nullable=False),
        sa.Column("expires_at", _MOMENT, nullable=True),
        sa.Column("refused_at", _MOMENT, nullable=True),
        sa.Column("refusal", sa.Text, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_outbox"),
        sqlite_autoincrement=True,
    )


_OF_SEVERAL = _outbox(sa.Column("channels", sa.Text, nullable=False))
_OF_ONE = _outbox(sa.Column("channel", sa.String(200), nullable=False))


def upgrade() -> None:
    rows = _replace(_OF_SEVERAL, _OF_ONE)
    op.bulk_insert(
        _OF_ONE,
        [
            # Under these keys the events may have been sent already.
            {**row, "event_key": _key(row["event_key"], index), "channel": channel}
            for row in rows
            for index, channel in enumerate(row["channels"].split(" "))
        ],
    )


def downgrade() -> None:
    rows = _replace(_OF_ONE, _OF_SEVERAL)
    op.bulk_insert(_OF_SEVERAL, [{**row, "channels": row["channel"]} for row in rows])


def _key(of_several: str, index: int) -> str:
    # One that has a suffix was here before, and has been for one channel since.
    return of_several if "-" in of_several else f"{of_several}-{index}"


def _replace(old: sa.Table, new: sa.Table) -> list[dict[str, Any]]:
    """Return the rows of the old table, in order and without their ids."""
    columns = [column for column in old.columns if column.name != "id"]
    rows = op.get_bind().execute(sa.select(*columns).order_by(old.c.id)).all()
    old.drop(op.get_bind())
    new.create(op.get_bind())
    return [row._asdict() for row in rows]
