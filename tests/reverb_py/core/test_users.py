"""Who is signed in, and who is told of whom."""

import pytest

from reverb_py.core.users import SignedInUser, Users
from tests.support.sessions import RecordingSession, hub_of


def user(user_id: str, *watchlist: str) -> SignedInUser:
    return SignedInUser(user_id, b"null", watchlist)


@pytest.fixture
def sessions() -> list[RecordingSession]:
    hub = hub_of()
    return [RecordingSession.begun(hub) for _ in range(3)]


def test_a_user_is_online_from_the_first_connection_to_the_last(
    sessions: list[RecordingSession],
) -> None:
    users = Users()
    first, second, _ = sessions

    assert users.sign_in(first, user("7")) is True
    assert users.sign_in(second, user("7")) is False
    assert users.connections_of("7") == [first, second]
    assert users.by_presence(["7"]) == (["7"], [])

    assert users.sign_out(first, user("7")) is False
    assert users.connections_of("7") == [second]
    assert users.sign_out(second, user("7")) is True
    assert users.connections_of("7") == []
    assert users.by_presence(["7"]) == ([], ["7"])


def test_watchers_are_those_with_the_user_on_their_list(sessions: list[RecordingSession]) -> None:
    users = Users()
    first, second, third = sessions
    users.sign_in(first, user("7", "8", "9"))
    users.sign_in(second, user("7", "9"))
    users.sign_in(third, user("8"))

    assert users.watchers_of("7") == []
    assert users.watchers_of("8") == [first]
    assert users.watchers_of("9") == [first, second]

    users.sign_out(first, user("7", "8", "9"))

    assert users.watchers_of("8") == []
    assert users.watchers_of("9") == [second]


def test_users_are_told_apart_by_presence_in_the_order_asked(
    sessions: list[RecordingSession],
) -> None:
    users = Users()
    users.sign_in(sessions[0], user("7"))
    users.sign_in(sessions[1], user("9"))

    assert users.by_presence(["9", "8", "7", "6"]) == (["9", "7"], ["8", "6"])
    assert users.by_presence([]) == ([], [])


def test_signing_out_twice_is_going_offline_once(sessions: list[RecordingSession]) -> None:
    users = Users()
    users.sign_in(sessions[0], user("7", "8"))

    assert users.sign_out(sessions[0], user("7", "8")) is True
    assert users.sign_out(sessions[0], user("7", "8")) is False


def test_signing_out_who_never_signed_in_takes_nobody_offline(
    sessions: list[RecordingSession],
) -> None:
    users = Users()
    users.sign_in(sessions[0], user("7"))

    assert users.sign_out(sessions[1], user("7")) is False
    assert users.connections_of("7") == [sessions[0]]


def test_a_list_that_was_handed_out_does_not_change(sessions: list[RecordingSession]) -> None:
    users = Users()
    users.sign_in(sessions[0], user("7", "8"))
    connections, watchers = users.connections_of("7"), users.watchers_of("8")

    users.sign_out(sessions[0], user("7", "8"))

    assert (connections, watchers) == ([sessions[0]], [sessions[0]])
