"""The one shape of a socket id."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverb_py.protocol.socket_ids import is_socket_id, new_socket_id
from tests.support.sessions import ScriptedRandom


def test_a_new_id_is_two_random_numbers_joined_by_a_dot() -> None:
    assert new_socket_id(ScriptedRandom(218374, 9021344)) == "218374.9021344"


def test_each_half_is_drawn_from_30_bits() -> None:
    class Widths:
        def __init__(self) -> None:
            self.asked: list[int] = []

        def getrandbits(self, k: int, /) -> int:
            self.asked.append(k)
            return (1 << k) - 1

    source = Widths()

    assert new_socket_id(source) == "1073741823.1073741823"
    assert source.asked == [30, 30]


@given(st.integers())
def test_every_new_id_has_the_shape_the_server_libraries_demand(seed: int) -> None:
    socket_id = new_socket_id(random.Random(seed))

    assert is_socket_id(socket_id)
    assert re.fullmatch(r"\d+\.\d+", socket_id)


@given(st.integers(0, 10**20 - 1), st.integers(0, 10**20 - 1))
def test_any_two_numbers_of_up_to_20_digits_are_an_id(first: int, second: int) -> None:
    assert is_socket_id(f"{first}.{second}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "1",
        "1.",
        ".1",
        "1.2.3",
        "1..2",
        "1,2",
        "-1.2",
        "+1.2",
        "1.2\n",
        "\n1.2",
        " 1.2",
        "1.2 ",
        "1.2:private-x",
        "1.2::user::{}",
        "0x1.2",
        "1e3.2",
        "1.2٣",
        "²1.2",
        "\uff11.\uff12",
        "1" * 21 + ".1",
        "1." + "1" * 21,
        "c2a3f0e2-5b1c-4c58-9a51-000000000000",
    ],
)
def test_nothing_else_is_an_id(text: str) -> None:
    assert not is_socket_id(text)


@given(st.text())
def test_what_is_an_id_is_nothing_but_digits_and_one_dot(text: str) -> None:
    assert is_socket_id(text) == (
        re.fullmatch(r"[0123456789]{1,20}[.][0123456789]{1,20}", text) is not None
    )
