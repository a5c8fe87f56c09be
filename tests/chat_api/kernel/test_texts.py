"""What we accept as an id, as a text and as what stands beside it."""

from typing import Any

import pytest

from chat_api.kernel.errors import NotFound, Unprocessable
from chat_api.kernel.texts import MAX_ID, checked_object, checked_text, id_from


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1), ("1", 1), ("007", 7), (MAX_ID, MAX_ID), (str(MAX_ID), MAX_ID)],
)
def test_ids_are_numbers_or_digits(value: int | str, expected: int) -> None:
    assert id_from(value, "user") == expected


@pytest.mark.parametrize(
    "value", [0, -1, MAX_ID + 1, 10**100, "", "0", "-1", "1 ", "1.0", "x", "\u0661", "9" * 20]
)
def test_what_no_row_can_have_is_not_found(value: int | str) -> None:
    with pytest.raises(NotFound, match=r"There is no such user\."):
        id_from(value, "user")


def test_texts_are_taken_as_they_are() -> None:
    assert checked_text("  Salom!\n", "The message", longest=9) == "  Salom!\n"
    assert checked_text("", "The message", longest=9, may_be_empty=True) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The message must not be empty."),
        ("\n ", "The message must not be empty."),
        ("x" * 10, "The message must not be longer than 9 characters."),
        ("a\0b", "The message must not contain NUL characters."),
        ("a\udcffb", "The message must be text in UTF-8."),
    ],
)
def test_texts_that_cannot_be_stored_or_shown_are_refused(text: str, message: str) -> None:
    with pytest.raises(Unprocessable) as refusal:
        checked_text(text, "The message", longest=9)

    assert refusal.value.message == message


def nested(depth: int) -> dict[str, Any]:
    """Return an object with so many objects in it, one within the other."""
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"x": value}
    return value


def test_objects_are_kept_as_their_text() -> None:
    assert checked_object(None, "metadata") is None
    assert checked_object({}, "metadata") == "{}"
    assert checked_object({"a": [1, "ü"]}, "metadata") == '{"a":[1,"ü"]}'
    assert checked_object(nested(16), "metadata") is not None
    assert checked_object({"x": "y" * 3_992}, "metadata") is not None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (nested(17), "metadata must not be nested deeper than 16."),
        ({"x": "y" * 3_993}, "metadata must not be longer than 4000 bytes."),
        ({"x": "ü" * 2_000}, "metadata must not be longer than 4000 bytes."),
    ],
)
def test_objects_that_are_too_much_are_refused(value: dict[str, Any], message: str) -> None:
    with pytest.raises(Unprocessable) as refusal:
        checked_object(value, "metadata")

    assert refusal.value.message == message
