"""Who is in a presence channel, counted by user and shown as JSON."""

import json

from hypothesis import given
from hypothesis import strategies as st

from reverb_py.core.members import Members


def test_a_user_comes_with_the_first_connection_and_goes_with_the_last() -> None:
    members = Members()

    assert members.join("7", b"null") is True
    assert members.join("7", b"null") is False
    assert members.join("7", b"null") is False
    assert (len(members), members.user_ids, "7" in members) == (1, ["7"], True)

    assert members.leave("7") is False
    assert members.leave("7") is False
    assert members.leave("7") is True
    assert (len(members), members.user_ids, "7" in members) == (0, [], False)


def test_users_are_counted_apart() -> None:
    members = Members()

    assert members.join("7", b"null") is True
    assert members.join("8", b"null") is True
    assert members.leave("7") is True
    assert (len(members), members.user_ids) == (1, ["8"])


def test_an_empty_room_has_an_empty_snapshot() -> None:
    assert Members().snapshot() == '{"presence":{"count":0,"ids":[],"hash":{}}}'


def test_a_snapshot_lists_each_user_once_in_the_order_of_arrival() -> None:
    members = Members()
    members.join("9", b'{"name":"Bo"}')
    members.join("7", b'{ "name" : "Ada" }')
    members.join("9", b'{"name":"Bo"}')
    members.join("12", b"null")

    assert members.snapshot() == (
        '{"presence":{"count":3,"ids":["9","7","12"],'
        '"hash":{"9":{"name":"Bo"},"7":{ "name" : "Ada" },"12":null}}}'
    )


def test_ids_that_look_like_places_in_a_list_stay_names_in_an_object() -> None:
    members = Members()
    for user_id in ("0", "1", "2"):
        members.join(user_id, b"1")

    assert members.snapshot() == (
        '{"presence":{"count":3,"ids":["0","1","2"],"hash":{"0":1,"1":1,"2":1}}}'
    )


def test_ids_are_escaped_as_json_must_be() -> None:
    members = Members()
    members.join('a"b\\c\nł', b"null")

    assert members.snapshot() == (
        '{"presence":{"count":1,"ids":["a\\"b\\\\c\\nł"],"hash":{"a\\"b\\\\c\\nł":null}}}'
    )


def test_a_users_info_is_the_first_connections_until_all_have_left() -> None:
    members = Members()
    members.join("7", b'"first"')
    members.join("7", b'"second"')
    members.leave("7")
    assert members.snapshot() == '{"presence":{"count":1,"ids":["7"],"hash":{"7":"first"}}}'

    members.leave("7")
    members.join("7", b'"third"')
    assert members.snapshot() == '{"presence":{"count":1,"ids":["7"],"hash":{"7":"third"}}}'


def test_who_comes_back_comes_last() -> None:
    members = Members()
    members.join("7", b"null")
    members.join("8", b"null")
    members.leave("7")
    members.join("7", b"null")

    assert members.user_ids == ["8", "7"]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["7", "8", "a\u2028"])), max_size=40))
def test_the_count_is_that_of_the_users_with_a_connection(
    steps: list[tuple[bool, str]],
) -> None:
    members = Members()
    connections: list[str] = []

    for joins, user_id in steps:
        if joins:
            assert members.join(user_id, b"null") is (user_id not in connections)
            connections.append(user_id)
        elif user_id in connections:
            connections.remove(user_id)
            assert members.leave(user_id) is (user_id not in connections)
        presence = json.loads(members.snapshot())["presence"]
        assert presence["count"] == len(members) == len(set(connections))
        assert sorted(presence["ids"]) == sorted(members.user_ids) == sorted(set(connections))
        assert presence["hash"] == dict.fromkeys(connections)
