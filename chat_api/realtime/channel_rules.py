"""Who may listen to which channel: the features' rows, and the matching of names against them."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chat_api.kernel.callers import Identity
from chat_api.kernel.errors import Forbidden

__all__ = ["ChannelRule", "ChannelRules", "Grant"]


@dataclass(frozen=True, slots=True)
class Grant:
    """
    Leave to listen. On a presence channel `member` is what the others see of the member.

    `member` must be JSON-encodable; it is ignored where the channel has no members. `member_id` is
    who the member is to the others; without it, the id of the caller's account.
    """

    member: Mapping[str, Any] | None = None
    member_id: str | None = None


@dataclass(frozen=True, slots=True)
class ChannelRule:
    """
    One row: a name with `{placeholders}`, each standing for anything but a dot, and the decision.

    `{placeholder...}` stands for anything with dots as well.

    `decide` gets the caller and the placeholders' values, and returns None to refuse. `listeners`
    says for the documentation whom it lets through.
    """

    pattern: str
    decide: Callable[[Identity, Mapping[str, str]], Awaitable[Grant | None]]
    listeners: str = ""


class ChannelRules:
    """All features' rows. Rows are added while the application is assembled, before it serves."""

    def __init__(self) -> None:
        self._rules: list[tuple[re.Pattern[str], ChannelRule]] = []

    def add(self, rules: Iterable[ChannelRule]) -> None:
        """Add rows; of two that match a name, the one added first decides."""
        for rule in rules:
            parts = re.split(r"\{(\w+(?:\.\.\.)?)\}", rule.pattern)
            expression = "".join(
                _placeholder(part) if index % 2 else re.escape(part)
                for index, part in enumerate(parts)
            )
            self._rules.append((re.compile(expression), rule))

    async def grant(self, caller: Identity, channel: str) -> Grant:
        """
        Return the caller's leave to listen.

        Raises:
            Forbidden: There is none, or no such channel.
        """
        for expression, rule in self._rules:
            if match := expression.fullmatch(channel):
                if granted := await rule.decide(caller, match.groupdict()):
                    return granted
                break
        raise Forbidden("You may not listen to this channel.")


def _placeholder(name: str) -> str:
    characters = "." if name.endswith("...") else "[^.]"
    return f"(?P<{name.removesuffix('...')}>{characters}+)"
