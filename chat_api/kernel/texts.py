"""What we accept as an identifier or as a text from outside, whatever the client wrote."""

from typing import Any, Final

import msgspec

from chat_api.kernel.errors import NotFound, Unprocessable

__all__ = [
    "MAX_ID",
    "MAX_OBJECT_BYTES",
    "MAX_OBJECT_DEPTH",
    "checked_object",
    "checked_text",
    "full_name",
    "id_from",
]

MAX_ID: Final = 2**63 - 1
"""The largest id a database column holds."""

MAX_OBJECT_BYTES: Final = 4_000
MAX_OBJECT_DEPTH: Final = 16
"""Of what clients put beside a text."""


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
            holds what cannot be stored: a NUL, or bytes of a header that are no UTF-8.
    """
    if not may_be_empty and not text.strip():
        raise Unprocessable(f"{what} must not be empty.")
    if len(text) > longest:
        raise Unprocessable(f"{what} must not be longer than {longest} characters.")
    if "\0" in text:
        raise Unprocessable(f"{what} must not contain NUL characters.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unprocessable(f"{what} must be text in UTF-8.") from None
    return text


def checked_object(value: dict[str, Any] | None, what: str) -> str | None:
    """
    Return a client's JSON object as the text it is stored as, None for none.

    Raises:
        Unprocessable: It is nested deeper than `MAX_OBJECT_DEPTH`, or longer than
            `MAX_OBJECT_BYTES` as text.
    """
    if value is None:
        return None
    if _is_deeper_than(MAX_OBJECT_DEPTH, value):
        raise Unprocessable(f"{what} must not be nested deeper than {MAX_OBJECT_DEPTH}.")
    encoded = msgspec.json.encode(value)
    if len(encoded) > MAX_OBJECT_BYTES:
        raise Unprocessable(f"{what} must not be longer than {MAX_OBJECT_BYTES} bytes.")
    return encoded.decode()


def _is_deeper_than(depth: int, value: Any) -> bool:
    level = [value]
    while level and depth >= 0:
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        depth -= 1
    return bool(level)


def full_name(first_name: str, last_name: str) -> str:
    """Return the name people are shown under; the last name may be empty."""
    return f"{first_name} {last_name}".strip()
