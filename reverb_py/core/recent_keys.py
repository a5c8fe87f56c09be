"""Idempotency keys: what was taken lately, and what was answered to it."""

from typing import NamedTuple

__all__ = ["KEY_SECONDS", "MAX_BYTES", "MAX_KEYS", "RecentKeys"]

KEY_SECONDS = 120.0
"""Time for which a key is remembered."""

MAX_KEYS = 100_000
"""Keys that are remembered; beyond it, the oldest are forgotten."""

MAX_BYTES = 67_108_864
"""Characters of all keys and bytes of all answers together; beyond it, the same."""


class _Answer(NamedTuple):
    body: bytes
    expires_at: float


class RecentKeys:
    """
    The answers given under keys, for a while.

    Whoever repeats a request because its answer was lost is to get that very answer. Times are
    seconds of a clock that never goes backwards. `dropped` counts the keys that were forgotten
    early, because there were too many.
    """

    __slots__ = ("_answers", "_bytes", "dropped")

    def __init__(self) -> None:
        # In the order of arrival, so that the oldest are in front.
        self._answers: dict[str, _Answer] = {}
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def size(self) -> int:
        """Characters of all keys and bytes of all answers together."""
        return self._bytes

    def answer_to(self, key: str, now: float) -> bytes | None:
        """Return what was answered under the key, or None if it has not been seen lately."""
        answer = self._answers.get(key)
        return answer.body if answer is not None and answer.expires_at > now else None

    def remember(self, key: str, body: bytes, now: float) -> None:
        """Remember the answer to a key that has none."""
        answers = self._answers
        if key in answers:
            self._forget(key)
        answers[key] = _Answer(body, now + KEY_SECONDS)
        self._bytes += len(key) + len(body)
        while answers:
            oldest = next(iter(answers))
            is_too_much = len(answers) > MAX_KEYS or self._bytes > MAX_BYTES
            if answers[oldest].expires_at > now and not is_too_much:
                break
            self.dropped += answers[oldest].expires_at > now
            self._forget(oldest)

    def _forget(self, key: str) -> None:
        self._bytes -= len(key) + len(self._answers.pop(key).body)
