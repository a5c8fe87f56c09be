"""What we accept as an id and as a text."""

import pytest

from chat_api.kernel.errors import NotFound, Unprocessable
from chat_api.kernel.texts import MAX_ID, checked_text, id_from


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
    ],
)
def test_texts_that_cannot_be_stored_or_shown_are_refused(text: str, message: str) -> None:
    with pytest.raises(Unprocessable) as refusal:
        checked_text(text, "The message", longest=9)

    assert refusal.value.message == message
