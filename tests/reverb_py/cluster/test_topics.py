"""What a node knows of one channel, without Redis: changes of members in any order."""

from __future__ import annotations

import pytest

from reverb_py.cluster.messages import Change
from reverb_py.cluster.topics import Entry, Hold, Topic
from tests.support.sessions import RecordingSession, hub_of


class Surroundings:
    """Notes what a topic asks of its node."""

    is_away = False

    def __init__(self) -> None:
        self.fetched = 0

    def listen(self, topic: Topic) -> None: ...

    def idle(self, topic: Topic) -> None: ...

    def fetch_last_event(self, topic: Topic) -> None: ...

    def fetch_members(self, topic: Topic) -> None:
        self.fetched += 1

    def change(self, hold: Hold) -> None: ...

    def change_count(self, topic: Topic) -> None: ...

    def redis_may_have_forgotten(self) -> None: ...


def test_changes_that_wait_for_a_snapshot_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reverb_py.cluster.topics.MAX_BUFFERED_CHANGES", 10)
    node = Surroundings()
    hub = hub_of()
    topic = Topic(
        node, lambda: hub, "1001", "presence-a", b"key", has_members=True, is_cached=False
    )
    topic.listening()
    assert node.fetched == 1
    for version in range(1, 30):
        topic.changed(Change(version - 1, version, f"user-{version}", b"null"))
    topic.snapshot(5, {}, is_lenient=False)

    # It is older than what was let go, so another one is asked for.
    assert node.fetched == 2
    assert not topic.is_known
    topic.snapshot(29, {f"user-{number}": b"null" for number in range(1, 30)}, is_lenient=False)
    assert topic.version == 29
    assert topic.members is not None
    assert len(topic.members) == 29


def test_who_finds_a_channel_full_on_all_nodes_is_counted() -> None:
    hub = hub_of()
    session = RecordingSession.begun(hub)
    topic = Topic(
        Surroundings(), lambda: hub, "1001", "presence-a", b"key", has_members=True, is_cached=False
    )
    topic.enter(Entry(topic, session, "7", b"null"))

    topic.refused(topic.holds["7"])

    assert hub.figures.limit_hits == {"REVERB_APP_MAX_PRESENCE_MEMBERS": 1}
    assert "LimitReached" in session.texts()[0]
