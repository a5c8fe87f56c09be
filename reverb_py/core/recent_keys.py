"""Idempotency keys: which publishes were taken lately."""

__all__ = ["KEY_SECONDS", "MAX_KEYS", "RecentKeys"]

KEY_SECONDS = 120.0
"""Time for which a key is remembered."""

MAX_KEYS = 100_000
"""Keys of one app that are remembered; beyond it, the oldest are forgotten."""


class RecentKeys:
    """Remembers keys for a while. Times are seconds of a clock that never goes backwards."""

    __slots__ = ("_expiries",)

    def __init__(self) -> None:
        # In the order of arrival, so that the oldest are in front.
        self._expiries: dict[str, float] = {}

    def is_repeated(self, key: str, now: float) -> bool:
        """Tell whether the key was seen lately; if not, it has been now."""
        expiries = self._expiries
        while expiries:
            oldest = next(iter(expiries))
            if expiries[oldest] > now:
                break
            del expiries[oldest]
        if key in expiries:
            return True
        if len(expiries) >= MAX_KEYS:
            del expiries[next(iter(expiries))]
        expiries[key] = now + KEY_SECONDS
        return False
