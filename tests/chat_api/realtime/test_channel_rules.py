"""Matching channel names against the features' rows."""

from collections.abc import Mapping

import pytest

from chat_api.kernel.callers import Caller, Identity
from chat_api.kernel.errors import Forbidden
from chat_api.realtime.channel_rules import ChannelRule, ChannelRules, Grant

CALLER = Caller(
    id=7,
    email="ann@example.com",
    first_name="Ann",
    last_name="",
    role="user",
    tenants=(),
    token_id="t",
    token_expires_at=0,
)


def rule(pattern: str, seen: list[Mapping[str, str]], grant: Grant | None) -> ChannelRule:
    async def decide(caller: Identity, names: Mapping[str, str]) -> Grant | None:
        assert caller is CALLER
        seen.append(names)
        return grant

    return ChannelRule(pattern, decide)


async def test_a_row_decides_about_the_names_it_matches_whole() -> None:
    seen: list[Mapping[str, str]] = []
    member = Grant(member={"name": "Ann"})
    rules = ChannelRules()
    rules.add([rule("presence-room.{id}.of.{tenant}", seen, member)])

    assert await rules.grant(CALLER, "presence-room.5.of.acme") is member
    for name in ("presence-room.5", "presence-room.5.of.acme.x", "xpresence-room.5.of.acme"):
        with pytest.raises(Forbidden):
            await rules.grant(CALLER, name)
    assert seen == [{"id": "5", "tenant": "acme"}]


async def test_the_first_matching_row_has_the_last_word() -> None:
    seen: list[Mapping[str, str]] = []
    rules = ChannelRules()
    rules.add([rule("private-a.{id}", seen, None), rule("private-{name}.{id}", seen, Grant())])

    with pytest.raises(Forbidden):
        await rules.grant(CALLER, "private-a.1")
    assert await rules.grant(CALLER, "private-b.1") == Grant()
    assert seen == [{"id": "1"}, {"name": "b", "id": "1"}]
