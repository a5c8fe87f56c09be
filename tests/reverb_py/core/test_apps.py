"""How apps are found, and what they keep to themselves."""

from dataclasses import FrozenInstanceError, replace

import pytest

from reverb_py.core.apps import App, Apps
from tests.support.sessions import APP


def test_an_app_is_found_by_its_id_and_by_its_key() -> None:
    other = App(id="1002", key="other-key", secret="other-secret")
    apps = Apps([APP, other])

    assert apps.with_id("1002") is other
    assert apps.with_key("other-key") is other
    assert apps.with_id("other-key") is None
    assert apps.with_key("1002") is None
    assert list(apps) == [APP, other]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(APP, key="another"), "two apps have the id '1001'"),
        (replace(APP, id="1002"), "two apps have the key '278d425bdf160c739803'"),
    ],
)
def test_ids_and_keys_are_unique(other: App, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        Apps([APP, other])


def test_an_app_never_shows_its_secret() -> None:
    apps = Apps([APP])

    for text in (repr(APP), str(APP), f"{APP}", repr(apps), repr([APP]), f"{list(apps)}"):
        assert APP.secret not in text
    assert "id='1001'" in repr(APP)


def test_an_app_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        APP.secret = "another"  # type: ignore[misc]
