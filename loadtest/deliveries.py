"""What is owed to those who listen, and what has arrived: the account that a run is judged by."""

import secrets
import time
from typing import Any

from locust.env import Environment

__all__ = ["Deliveries", "deliveries", "was_delivered"]


class Deliveries:
    """
    The account of one locust process, or at the master of all.

    Messages that carry a token are known one by one: a token starts with the time it was made, in
    nanoseconds, so that whoever hears it, in whatever process, knows how long it took. Whoever
    keeps a finer account adds its sums with `settle`.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._heard: set[str] = set()
        self._told: set[str] = set()
        self._sums = {"owed": 0, "missing": 0, "repeated": 0}
        self._news: dict[str, Any] = _no_news()

    @property
    def owed(self) -> int:
        """Return how many deliveries are owed."""
        return self._sums["owed"] + len(self._taken)

    @property
    def missing(self) -> int:
        """Return how many of them have not arrived so far."""
        return self._sums["missing"] + len(self._taken - self._heard)

    @property
    def repeated(self) -> int:
        """Return how many arrived once more than they should."""
        return self._sums["repeated"]

    def settle(self, *, owed: int = 0, missing: int = 0, repeated: int = 0) -> None:
        """Add what somebody was owed, and what of it did not arrive or arrived again."""
        for name, number in (("owed", owed), ("missing", missing), ("repeated", repeated)):
            self._sums[name] += number
            self._news[name] += number

    def token(self) -> str:
        """Return the token of a message that is about to be sent."""
        return f"{time.time_ns()}-{secrets.token_hex(4)}"

    def was_taken(self, token: str) -> None:
        """Say that the message was taken: from now on it is owed."""
        self._taken.add(token)
        self._news["taken"].append(token)

    def was_found(self, token: str) -> None:
        """Say that somebody who came too late for the event found the message in the history."""
        if token not in self._heard:
            self._heard.add(token)
            self._news["heard"].append(token)

    def was_heard(self, token: str, name: str, environment: Environment) -> None:
        """Say that the event reached somebody who should hear it."""
        if token in self._told:
            self.settle(repeated=1)
            return
        self._told.add(token)
        self.was_found(token)
        was_delivered(environment, name, int(token.partition("-")[0]))

    def is_heard(self, token: str) -> bool:
        """Tell whether somebody has heard or found the message."""
        return token in self._heard

    def take_news(self) -> dict[str, Any]:
        """Return what a worker has to tell its master since the last time."""
        news, self._news = self._news, _no_news()
        return news

    def add_news(self, news: dict[str, Any]) -> None:
        """Add what a worker tells."""
        self._taken.update(news["taken"])
        self._heard.update(news["heard"])
        for name in self._sums:
            self._sums[name] += news[name]

    def summary(self) -> str:
        """Return the line that ends a run."""
        ratio = 1 - self.missing / max(1, self.owed)
        return (
            f"Deliveries: {self.owed} owed, {self.missing} missing, {self.repeated} repeated:"
            f" {ratio:.2%}"
        )

    @property
    def is_exact(self) -> bool:
        """Tell whether something was owed, and all of it arrived, once."""
        return bool(self.owed) and not self.missing and not self.repeated


def was_delivered(environment: Environment, name: str, since: int) -> None:
    """Have locust note a delivery of what was sent at `since`, in nanoseconds since 1970."""
    environment.events.request.fire(
        request_type="event",
        name=name,
        response_time=(time.time_ns() - since) / 1e6,
        response_length=0,
        exception=None,
        context={},
    )


def _no_news() -> dict[str, Any]:
    return {"taken": [], "heard": [], "owed": 0, "missing": 0, "repeated": 0}


deliveries = Deliveries()
