"""What an app would hear about, kept as lines."""

from reverb_py.core.apps import App

__all__ = ["RecordingNotices"]


class RecordingNotices:
    """Keeps a line of everything it is told, in order."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def take(self) -> list[str]:
        """Return the lines so far and forget them."""
        lines, self._lines = self._lines, []
        return lines

    def channel_occupied(self, app: App, channel: str) -> None:
        self._lines.append(f"{app.id} channel_occupied {channel}")

    def channel_vacated(self, app: App, channel: str) -> None:
        self._lines.append(f"{app.id} channel_vacated {channel}")

    def member_added(self, app: App, channel: str, user_id: str) -> None:
        self._lines.append(f"{app.id} member_added {channel} {user_id}")

    def member_removed(self, app: App, channel: str, user_id: str) -> None:
        self._lines.append(f"{app.id} member_removed {channel} {user_id}")

    def client_event(
        self,
        app: App,
        channel: str,
        event: str,
        data: bytes,
        socket_id: str,
        user_id: str | None,
    ) -> None:
        self._lines.append(
            f"{app.id} client_event {channel} {event} {data.decode()} {socket_id} {user_id}"
        )

    def cache_miss(self, app: App, channel: str) -> None:
        self._lines.append(f"{app.id} cache_miss {channel}")

    def subscription_count(self, app: App, channel: str, count: int) -> None:
        self._lines.append(f"{app.id} subscription_count {channel} {count}")
