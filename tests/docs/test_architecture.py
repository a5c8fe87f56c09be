"""Each package's docstring and docs/architecture.md have everything that is in the package."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from tests.docs.references import DOCS, broken_links

_TEXT = (DOCS / "architecture.md").read_text()


def parts_of(package: str) -> list[str]:
    """Return the names of the modules and folders in a package."""
    file = import_module(package).__file__
    assert file is not None
    folder = Path(file).parent
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")}
    folders = {path.parent.name for path in folder.glob("*/__init__.py")}
    return sorted(modules | folders)


@pytest.mark.parametrize("package", ["reverb_py", "chat_api", "chat_api.features"])
def test_everything_in_a_package_is_in_its_docstring(package: str) -> None:
    docstring = import_module(package).__doc__ or ""
    listed = set(re.findall(r"^(\w+)  |`(\w+)`:", docstring, re.MULTILINE))

    assert {either or other for either, other in listed} == set(parts_of(package))


@pytest.mark.parametrize(
    ("package", "heading"),
    [
        ("reverb_py", "reverb_py, inside out"),
        ("chat_api", "chat_api, bottom up"),
        ("chat_api.features", "chat_api, bottom up"),
    ],
)
def test_everything_in_a_package_is_in_the_tour_of_the_house(package: str, heading: str) -> None:
    section = _TEXT.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    bold = set(re.findall(r"\*\*(\w+)\*\*", section)) | set(
        re.findall(r"^  - `(\w+)`:", section, re.M)
    )

    assert [part for part in parts_of(package) if part not in bold] == []


def test_a_link_leads_somewhere() -> None:
    assert broken_links(_TEXT.replace("](decisions/)", "]")) == []
