"""docs/configuration.md leaves out no setting, and its limits name tests that exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from reverb_py.core.apps import App
from reverb_py.settings import Settings

_ROOT = Path(__file__).parents[2]
_TEXT = (_ROOT / "docs" / "configuration.md").read_text()
_LIMITS = _TEXT.partition("### Limits\n")[2].partition("\n## ")[0]
_SOURCES = [
    _ROOT / "reverb_py" / name
    for name in (
        "settings.py",
        "app_settings.py",
        "listening_settings.py",
        "scaling_settings.py",
        "server/tls.py",
    )
]


def _variables() -> set[str]:
    """Return the variables that the sources name, in full or by the name in the apps file."""
    source = "".join(file.read_text() for file in _SOURCES)
    names = set(re.findall(r"REVERB_[A-Z]+(?:_[A-Z]+)+|REDIS_[A-Z]+(?:_[A-Z]+)*", source))
    rows = re.findall(r"_(?:row|limit)\(\"(\w+)\"", source)
    assert rows
    return names | {f"REVERB_APP_{row.upper()}" for row in rows}


@pytest.mark.parametrize("name", sorted(_variables()))
def test_every_setting_is_named(name: str) -> None:
    assert f"`{name}`" in _TEXT


@pytest.mark.parametrize(
    "field",
    [
        field.name
        for settings in (App, Settings)
        for field in fields(settings)
        if re.match("max_|.*_per_", field.name)
    ],
)
def test_every_limit_has_a_row_with_its_default(field: str) -> None:
    place = App if field in App.__slots__ else Settings
    default = next(each.default for each in fields(place) if each.name == field)
    name = field.replace("_bytes", "_size").upper()
    variable = f"REVERB_APP_{name}" if place is App else f"REVERB_{name}"

    [row] = [line for line in _LIMITS.splitlines() if re.match(rf"\| `{variable}`", line)]
    assert row.split(" | ")[2] == f"`{default}`"


@pytest.mark.parametrize(("file", "name"), sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", _TEXT))))
def test_a_test_that_is_named_exists(file: str, name: str) -> None:
    source = (_ROOT / "tests" / "reverb_py" / file).read_text()
    assert re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE)
