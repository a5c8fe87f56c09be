"""What several nodes know together."""

from hypothesis import given
from hypothesis import strategies as st

from reverb_py.core.bus import Census, merged

_CHANNELS = st.sampled_from(["orders", "presence-room", "private-a"])
_CENSUSES = st.builds(
    Census,
    st.dictionaries(_CHANNELS, st.tuples(st.integers(0, 9), st.lists(st.sampled_from("789")))),
    st.integers(0, 99),
)


def test_what_one_node_knows_is_all() -> None:
    census = Census({"orders": (2, ())}, 3)
    assert merged([census]) is census


def test_subscribers_and_connections_add_up() -> None:
    assert merged(
        [Census({"orders": (2, ()), "a": (1, ())}, 5), Census({"orders": (3, ())}, 4)]
    ) == Census({"orders": (5, ()), "a": (1, ())}, 9)


def test_a_node_without_anything_adds_nothing() -> None:
    census = Census({"presence-room": (2, ["7", "8"])}, 2)
    assert merged([census, Census({}, 0)]) == merged([Census({}, 0), census]) == census


def test_members_are_those_that_the_first_node_lists() -> None:
    first = Census({"presence-room": (1, ["7"])}, 1)
    second = Census({"presence-room": (1, ["7", "8"])}, 1)
    assert merged([first, second]).channels["presence-room"] == (2, ["7"])
    assert merged([second, first]).channels["presence-room"] == (2, ["7", "8"])


def test_what_nodes_have_said_is_left_as_it_was() -> None:
    first, second = Census({"orders": (1, ())}, 1), Census({"orders": (2, ())}, 2)
    merged([first, second])
    assert (first, second) == (Census({"orders": (1, ())}, 1), Census({"orders": (2, ())}, 2))


@given(st.lists(_CENSUSES, min_size=1, max_size=5))
def test_counts_do_not_depend_on_who_answers_first(censuses: list[Census]) -> None:
    backwards = merged(censuses[::-1])
    forwards = merged(censuses)
    assert forwards.connections == backwards.connections
    assert {name: count for name, (count, _) in forwards.channels.items()} == {
        name: count for name, (count, _) in backwards.channels.items()
    }
    for name, (count, _) in forwards.channels.items():
        assert count == sum(c.channels[name][0] for c in censuses if name in c.channels)
