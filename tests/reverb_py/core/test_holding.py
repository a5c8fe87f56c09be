"""Departures are held for a while; whoever returns in time has never been away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reverb_py.core.holding import Departure, Holding

ROOM = Departure("room")
ADA = Departure("presence-room", "ada")


def test_a_departure_is_held_for_its_time_and_told_once() -> None:
    holding = Holding(3.0, most=10)
    assert holding.hold(ROOM, 100.0) is None

    assert holding.due(102.5, 10) == []
    assert holding.due(103.0, 10) == [ROOM]
    assert holding.due(200.0, 10) == []
    assert holding.next_due is None


def test_a_return_undoes_a_departure_and_only_once() -> None:
    holding = Holding(3.0, most=10)
    holding.hold(ROOM, 100.0)

    assert holding.undo(ROOM) is True
    assert holding.undo(ROOM) is False
    assert holding.due(200.0, 10) == []


def test_another_channel_s_or_another_user_s_return_undoes_nothing() -> None:
    holding = Holding(3.0, most=10)
    holding.hold(ADA, 100.0)

    assert holding.undo(Departure("presence-room", "bob")) is False
    assert holding.undo(Departure("presence-other", "ada")) is False
    assert holding.undo(Departure("presence-room")) is False
    assert holding.due(103.0, 10) == [ADA]


def test_a_departure_after_a_return_is_held_for_its_own_time() -> None:
    holding = Holding(3.0, most=10)
    holding.hold(ROOM, 100.0)
    holding.undo(ROOM)
    holding.hold(ADA, 101.0)
    holding.hold(ROOM, 102.0)

    assert holding.next_due == 104.0
    assert holding.due(104.5, 10) == [ADA]
    assert holding.due(105.0, 10) == [ROOM]


def test_a_departure_told_twice_is_held_once_and_from_the_second_time_on() -> None:
    holding = Holding(3.0, most=10)
    holding.hold(ROOM, 100.0)
    holding.hold(ADA, 101.0)
    holding.hold(ROOM, 102.0)

    assert holding.due(104.0, 10) == [ADA]
    assert holding.due(105.0, 10) == [ROOM]


def test_too_many_departures_tell_the_oldest_early() -> None:
    holding = Holding(3.0, most=2)
    assert holding.hold(Departure("a"), 100.0) is None
    assert holding.hold(Departure("b"), 100.0) is None

    assert holding.hold(Departure("c"), 100.0) == Departure("a")

    assert holding.undo(Departure("a")) is False
    assert holding.due(103.0, 10) == [Departure("b"), Departure("c")]


def test_many_that_are_due_at_once_are_told_some_at_a_time() -> None:
    """When a network fails, everybody has left at the same moment."""
    holding = Holding(3.0, most=10)
    rooms = [Departure(f"room-{number}") for number in range(5)]
    for room in rooms:
        holding.hold(room, 100.0)

    assert holding.due(103.0, most=2) == rooms[:2]
    assert holding.next_due == 103.0
    assert holding.undo(rooms[2])
    assert holding.due(103.0, most=3) == rooms[3:]
    assert holding.next_due is None


def test_everything_held_can_be_released_at_once_and_in_order() -> None:
    holding = Holding(3.0, most=10)
    holding.hold(ADA, 100.0)
    holding.hold(ROOM, 101.0)

    assert holding.release() == [ADA, ROOM]
    assert holding.next_due is None


@given(st.lists(st.floats(0.0, 5.0), max_size=40), st.integers(1, 3))
def test_what_is_told_alternates_and_ends_with_the_truth(pauses: list[float], most: int) -> None:
    """A channel comes and goes after arbitrary pauses, among others that fill the table."""
    holding = Holding(3.0, most)
    told: list[str] = []
    now, is_here = 0.0, False

    def tell(departures: list[Departure]) -> None:
        told.extend(each.kind for each in departures if each == ROOM)

    for pause in pauses:
        now += pause
        tell(holding.due(now, 10))
        is_here = not is_here
        if is_here:
            if not holding.undo(ROOM):
                told.append(ROOM.kind_of_return)
        elif early := holding.hold(ROOM, now):
            tell([early])
        if early := holding.hold(Departure("other"), now):
            tell([early])
    tell(holding.release())

    expected = ["channel_occupied", "channel_vacated"] * len(pauses)
    assert told == expected[: len(told)]
    assert len(told) % 2 == is_here
