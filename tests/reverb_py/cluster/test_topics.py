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


def topic_with(user_id: str) -> tuple[Topic, Hold]:
    """Return a topic in which Redis knows of one user, who is on this node."""
    hub = hub_of()
    topic = Topic(
        Surroundings(), lambda: hub, "1001", "presence-a", b"key", has_members=True, is_cached=False
    )
    topic.listening()
    topic.snapshot(1, {user_id: b"null"}, is_lenient=False)
    hold = topic.hold(user_id, b"null")
    hold.is_held = True
    topic.held(hold, 1)
    return topic, hold


def test_who_leaves_comes_back_and_leaves_before_redis_hears_of_it_is_not_listed() -> None:
    topic, hold = topic_with("7")
    topic.release("7")
    hold.is_held, hold.version = False, None  # Redis is being told.
    topic.hold("7", b"null")

    topic.changed(Change(1, 2, "7", None))
    assert topic.members is not None
    assert "7" in topic.members
    topic.release("7")
    topic.forget_hold(hold)

    assert "7" not in topic.members


def test_who_was_listed_before_redis_knew_and_leaves_before_it_does_is_not_listed() -> None:
    topic, _ = topic_with("7")
    hold = topic.hold("8", b"null")
    topic.show("8", b"null")

    topic.snapshot(2, {"7": b"null"}, is_lenient=False)
    assert topic.members is not None
    assert "8" in topic.members
    topic.release("8")
    topic.was_not_told(hold.user_id)

    assert list(topic.members.ids) == ["7"]
