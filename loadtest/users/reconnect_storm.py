"""Everybody loses the connection at once, comes back at once, and must miss nothing after that."""

import time

import gevent
from deliveries import deliveries
from locust import tag, task
from locust.exception import StopUser
from pusher_client import PusherError

from users.direct import name_of_process, report
from users.fan_out import Listener, Speaker

__all__ = ["Caller", "Castaway"]

_PATIENCE = 60.0  # seconds after which somebody who is not back counts as lost
_PAUSE = 1.0  # seconds between two attempts, as clients make them


class Caller(Speaker):
    """The one who publishes to those who come and go."""

    fixed_count = 1
    event = "reconnect-storm"

    @classmethod
    def channel(cls) -> str:
        """Return the channel of the storm."""
        return f"private-reconnect-storm-{name_of_process()}"

    @tag("reconnect-storm")
    @task
    def speak(self) -> None:
        """Publish an event."""
        self.say()


class Castaway(Listener):
    """Somebody who is swept away with everybody else, every so often."""

    @classmethod
    def channel(cls) -> str:
        """Return the channel of the storm."""
        return Caller.channel()

    def on_start(self) -> None:
        """Subscribe for the first time."""
        self._come_back("first connection")

    def wait_time(self) -> float:
        """Return the seconds until the next storm, which is at the same time everywhere."""
        every: float = self.options.storm_every
        return every - time.time() % every

    @tag("reconnect-storm")
    @task
    def be_swept_away(self) -> None:
        """Lose the connection, and be back and subscribed."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.drop()
        ear, self.ear = self.ear, None
        if ear is not None:
            ear.close(until_now=False)
        self._come_back("back after a storm")

    def _come_back(self, name: str) -> None:
        began = time.perf_counter()
        while True:
            try:
                self.listen()
            except (PusherError, OSError) as error:
                if time.perf_counter() - began > _PATIENCE:
                    report(self.environment, name, began, error)
                    deliveries.settle(owed=1, missing=1)
                    raise StopUser from None
                gevent.sleep(_PAUSE)
            else:
                report(self.environment, name, began)
                return
