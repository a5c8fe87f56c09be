"""What we accept as an identifier or as a text from outside, whatever the client wrote."""

from typing import Final

from chat_api.kernel.errors import NotFound, Unprocessable

__all__ = ["MAX_ID", "checked_text", "full_name", "id_from"]

MAX_ID: Final = 2**63 - 1
"""The largest id a database column holds."""


def id_from(value: int | str, what: str) -> int:
    """
    Return the id that a client wrote as a number or as a string of digits.

    Raises:
        NotFound: No row can have such an id. The error names `what` was looked for, and is the same
            as for an id that is merely unused.
    """
    if isinstance(value, str):
        # A digit count first: int() of a very long string is slow, and refuses with ValueError.
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= 19 else 0
    if not 0 < value <= MAX_ID:
        raise NotFound(f"There is no such {what}.")
    return value


def checked_text(text: str, what: str, *, longest: int, may_be_empty: bool = False) -> str:
    """
    Return `text` unchanged when it can be stored and shown.

    Raises:
        Unprocessable: It is blank (unless `may_be_empty`), has more than `longest` characters, or
            holds a NUL, which PostgreSQL cannot store.
    """
    if not may_be_empty and not text.strip():
        raise Unprocessable(f"{what} must not be empty.")
    if len(text) > longest:
        raise Unprocessable(f"{what} must not be longer than {longest} characters.")
    if "\0" in text:
        raise Unprocessable(f"{what} must not contain NUL characters.")
    return text


def full_name(first_name: str, last_name: str) -> str:
    """Return the name people are shown under; the last name may be empty."""
    return f"{first_name} {last_name}".strip()
