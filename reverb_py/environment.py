"""
Reading the environment and `.env`: one variable at a time, which is named when it is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

__all__ = ["Reader", "WrongSetting", "load_environment", "within", "within_or_off"]

_UNSET = frozenset({"", "null", "(null)", "empty", "(empty)"})
_SWITCH = dict.fromkeys(("1", "true", "(true)", "yes", "on"), True)
_SWITCH |= dict.fromkeys(("0", "false", "(false)", "no", "off"), False)


class WrongSetting(Exception):
    """A setting that can't be used; the text is one line that says which and why."""


def load_environment(environment: Mapping[str, str], folder: Path) -> dict[str, str]:
    """
    Return the environment over the folder's `.env` file, if it has one.

    `.env` is read as Laravel reads it, quotes and `${OTHER}` included. A value that is empty or
    `null` counts as not set.

    Raises:
        WrongSetting: `.env` can't be read, is not UTF-8, or has a line that means nothing.
    """
    file = folder / ".env"
    from_file = dotenv_values(stream=StringIO(_text_of(file)))
    merged = {name: value for name, value in from_file.items() if value is not None}
    merged.update(environment)
    return {name: value for name, value in merged.items() if value.lower() not in _UNSET}


def _text_of(file: Path) -> str:
    """Return what a `.env` file says, once every line is checked; a folder says nothing."""
    try:
        text = "" if file.is_dir() else file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ""
    except OSError as exc:
        raise WrongSetting(f"{file}: {exc.strerror or exc}") from None
    except UnicodeDecodeError as exc:
        raise WrongSetting(f"{file} must be UTF-8: {exc.reason} at byte {exc.start}") from None
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            found = binding.original.string
            blank = found[: len(found) - len(found.lstrip())]  # lines before it belong to it
            line = binding.original.line + blank.count("\n")
            # What is there may be a secret.
            raise WrongSetting(f"{file}, line {line}: must be NAME=value, with every quote closed")
    return text


class Reader:
    """Variables by name, each as the type that is asked for; None when it is not set."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def text(self, name: str) -> str | None:
        """Return the variable as it is."""
        return self._environment.get(name)

    def words(self, name: str) -> list[str] | None:
        """Return the parts of a list with commas."""
        text = self._environment.get(name)
        if text is None:
            return None
        return [word.strip() for word in text.split(",") if word.strip()]

    def whole(self, name: str) -> int | None:
        """Return a whole number, or raise WrongSetting."""
        text = self._environment.get(name)
        if text is None:
            return None
        try:
            return int(text)
        except ValueError:
            raise WrongSetting(f"{name} must be a whole number, not {text!r}") from None

    def number(self, name: str) -> float | None:
        """Return a number, or raise WrongSetting."""
        text = self._environment.get(name)
        if text is None:
            return None
        try:
            return float(text)
        except ValueError:
            raise WrongSetting(f"{name} must be a number, not {text!r}") from None

    def switch(self, name: str) -> bool | None:
        """Return true or false, or raise WrongSetting."""
        text = self._environment.get(name)
        if text is None:
            return None
        if text.lower() not in _SWITCH:
            raise WrongSetting(f"{name} must be true or false, not {text!r}")
        return _SWITCH[text.lower()]


def within(name: str, value: float, lowest: float, highest: float) -> None:
    """
    Hold a number against its bounds.

    Raises:
        WrongSetting: It is outside of them, or not a number at all.
    """
    if not lowest <= value <= highest:
        bounds = f"{lowest:.12g} to {highest:.12g}"
        raise WrongSetting(f"{name} must be {bounds}, not {value:.12g}")


def within_or_off(name: str, value: float, lowest: float, highest: float) -> None:
    """
    Hold a limit against its bounds; 0 switches it off.

    Raises:
        WrongSetting: It is outside of them, or not a number at all.
    """
    if lowest <= 1:
        within(name, value, 0, highest)
    elif value and not lowest <= value <= highest:
        bounds = f"{lowest:.12g} to {highest:.12g}"
        raise WrongSetting(f"{name} must be {bounds}, or 0 for no limit, not {value:.12g}")
