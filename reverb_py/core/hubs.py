"""The apps of this server, each with its state, and how one is found."""

from collections.abc import Callable, Iterable, Iterator

from reverb_py.core.apps import App
from reverb_py.core.hub import Hub
from reverb_py.protocol.errors import ErrorCode

__all__ = ["Hubs"]


class Hubs:
    """
    One hub for each app. Ids and keys are unique across them.

    `make` returns a new hub for an app.
    """

    __slots__ = ("_by_id", "_by_key", "_make")

    def __init__(self, apps: Iterable[App], make: Callable[[App], Hub]) -> None:
        self._make = make
        self._by_id: dict[str, Hub] = {}
        self._by_key: dict[str, Hub] = {}
        self.replace(apps)

    def __iter__(self) -> Iterator[Hub]:
        return iter(self._by_id.values())

    def with_id(self, app_id: str) -> Hub | None:
        """Return the hub of the app that the HTTP API calls by this id."""
        return self._by_id.get(app_id)

    def with_key(self, key: str) -> Hub | None:
        """Return the hub of the app that clients call by this key."""
        return self._by_key.get(key)

    def replace(self, apps: Iterable[App]) -> None:
        """
        Go on with these apps.

        Apps that stay keep their connections, under the new limits from now on; connections of an
        app that is gone or disabled are closed for good.
        """
        before = self._by_id
        self._by_id, self._by_key = {}, {}
        for app in apps:
            hub = before.get(app.id)
            if hub is None:
                hub = self._make(app)
            else:
                hub.app = app
            self._by_id[app.id] = self._by_key[app.key] = hub
            if not app.enabled:
                hub.close_all(ErrorCode.APP_DISABLED, "Application is disabled")
        for app_id, hub in before.items():
            if app_id not in self._by_id:
                hub.close_all(ErrorCode.UNKNOWN_APP, "Application does not exist any more")
