"""An event in the outbox is for one channel; one that was for several becomes several."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_MOMENT = sa.DateTime(timezone=True)


def _outbox(key_length: int, channel: sa.Column[str]) -> sa.Table:
    return sa.Table(
        "outbox",
        sa.MetaData(),
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("event_key", sa.String(key_length), nullable=False),
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


_OF_SEVERAL = _outbox(32, sa.Column("channels", sa.Text, nullable=False))
_OF_ONE = _outbox(40, sa.Column("channel", sa.String(200), nullable=False))


def upgrade() -> None:
    rows = _replace(_OF_SEVERAL, _OF_ONE)
    op.bulk_insert(
        _OF_ONE,
        [
            # Under these keys the events may have been sent already.
            {**row, "event_key": f"{row['event_key']}-{index}", "channel": channel}
            for row in rows
            for index, channel in enumerate(row["channels"].split(" "))
        ],
    )


def downgrade() -> None:
    rows = _replace(_OF_ONE, _OF_SEVERAL)
    op.bulk_insert(_OF_SEVERAL, [{**row, "channels": row["channel"]} for row in rows])


def _replace(old: sa.Table, new: sa.Table) -> list[dict[str, Any]]:
    """Return the rows of the old table, in order and without their ids."""
    columns = [column for column in old.columns if column.name != "id"]
    rows = op.get_bind().execute(sa.select(*columns).order_by(old.c.id)).all()
    old.drop(op.get_bind())
    new.create(op.get_bind())
    return [row._asdict() for row in rows]
