"""What users have who need nothing but a Pusher server: they sign for themselves."""

import os
import secrets
import time
from collections.abc import Callable
from typing import Any

import orjson
from locust import FastHttpUser
from locust.env import Environment
from pusher_client import PusherClient, PusherError, Signed

from reverb_py.protocol import signing

__all__ = ["DirectUser", "name_of_process", "report"]

_RUN = secrets.token_hex(4)


def name_of_process() -> str:
    """
    Return what the channels of this process have in their names.

    Who publishes and who listens is in one process, so that it knows exactly who is owed what.
    """
    return f"{_RUN}-{os.getpid()}"


def report(
    environment: Environment, name: str, began: float, exception: Exception | None = None
) -> None:
    """Have locust note what was done since `began`, on `time.perf_counter`, and how it ended."""
    environment.events.request.fire(
        request_type="websocket",
        name=name,
        response_time=(time.perf_counter() - began) * 1000,
        response_length=0,
        exception=exception,
        context={},
    )


class DirectUser(FastHttpUser):
    """A user of the app in the options, whose HTTP API is the host."""

    abstract = True
    network_timeout = connection_timeout = 30.0

    @property
    def options(self) -> Any:
        """Return locust's options."""
        return self.environment.parsed_options

    def connect(self, on_event: Callable[[str, str, Any], None]) -> PusherClient:
        """
        Return a new connection; should it end by itself, locust notes a failure.

        Raises:
            PusherError, OSError: It is not welcome, or nobody is there.
        """
        options = self.options
        url = f"{options.realtime}/app/{options.app_key}?protocol=7&client=locust&version=1.0"
        return PusherClient(url, on_event, self._lose)

    def sign(self, socket_id: str, channel: str, channel_data: str | None = None) -> Signed:
        """Return what lets a connection subscribe."""
        options = self.options
        auth = signing.channel_auth(
            options.app_key, options.app_secret, socket_id, channel, channel_data
        )
        return {"auth": auth} | ({} if channel_data is None else {"channel_data": channel_data})

    def publish(self, channel: str, event: str, data: object) -> bool:
        """Publish through the HTTP API, and tell whether that was answered with success."""
        text = orjson.dumps(data).decode()
        body = orjson.dumps({"name": event, "channels": [channel], "data": text})
        return self._ask("POST", "/events", body, name="/events") is not None

    def read(self, path: str, name: str, parameters: dict[str, str]) -> Any:
        """Return what the HTTP API says, or None if that is not a success; locust counts both."""
        return self._ask("GET", path, b"", parameters, name)

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes,
        parameters: dict[str, str] | None = None,
        name: str | None = None,
    ) -> Any:
        options = self.options
        path = f"/apps/{options.app_id}{path}"
        query = signing.signed_query(
            options.app_key,
            options.app_secret,
            method,
            path,
            body,
            int(time.time()),
            parameters,
        )
        with self.client.request(
            method,
            path,
            name=name,
            params=query,
            data=body.decode() or None,
            headers={"Content-Type": "application/json"},
            catch_response=True,
        ) as response:
            if response.status_code != 200:
                response.failure(f"{response.status_code} {(response.text or '')[:200]}")
                return None
            response.success()
            return orjson.loads(response.content or b"{}")

    def _lose(self, reason: str) -> None:
        report(self.environment, "connection", time.perf_counter(), PusherError(reason))
