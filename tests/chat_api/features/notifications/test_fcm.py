"""The service account's key file: what is read, and the one line about what can't be."""

from pathlib import Path

import msgspec
import pytest

from chat_api.features.notifications.fcm import ServiceAccount
from chat_api.settings import Settings, WrongSetting
from tests.chat_api.features.notifications.google import PROJECT, FakeGoogle

LEAST = {
    "CHAT_JWT_SECRET": "3f1c9a7be2d84650b7c1de90aa5f2c68",
    "REVERB_APP_ID": "1001",
    "REVERB_APP_KEY": "key",
    "REVERB_APP_SECRET": "secret",
}


def test_the_settings_name_the_key_file(google: FakeGoogle, tmp_path: Path) -> None:
    path = google.write_key_file(tmp_path)

    settings = Settings.from_environment(LEAST | {"CHAT_FCM_CREDENTIALS": str(path)})

    assert isinstance(settings.service_account, ServiceAccount)
    assert settings.service_account.project_id == PROJECT
    assert settings.fcm_url == "https://fcm.googleapis.com"
    assert "PRIVATE KEY" not in repr(settings)
    assert Settings.from_environment(LEAST).service_account is None


def refused(tmp_path: Path, content: bytes) -> str:
    path = tmp_path / "key.json"
    path.write_bytes(content)
    with pytest.raises(WrongSetting) as error:
        Settings.from_environment(LEAST | {"CHAT_FCM_CREDENTIALS": str(path)})
    line = str(error.value)
    assert "\n" not in line
    assert "PRIVATE KEY" not in line
    return line.replace(str(path), "FILE")


HOW_TO = "make one in the Firebase console, under Project settings, Service accounts"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "truncated"),
        (b"-----BEGIN PRIVATE KEY-----", "malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"project_info": {}}', "Object missing required field `type`"),
        (b'{"type": "authorized_user"}', "Invalid enum value 'authorized_user' - at `$.type`"),
        (b'{"type": "service_account"}', "Object missing required field `project_id`"),
        (b'{"type": "\xff"}', "utf-8"),
    ],
)
def test_a_file_that_is_no_key_is_refused_with_a_hint(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    line = refused(tmp_path, content)

    assert line.startswith("CHAT_FCM_CREDENTIALS names FILE, which is no service account's key (")
    assert line.endswith(f"): {HOW_TO}")
    assert reason in line


@pytest.mark.parametrize(
    "private_key",
    [
        "",
        "nonsense",
        "-----BEGIN PRIVATE KEY-----\nbm9uc2Vuc2U=\n-----END PRIVATE KEY-----\n",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    ],
)
def test_a_key_that_is_damaged_is_refused(
    google: FakeGoogle, tmp_path: Path, private_key: str
) -> None:
    content = msgspec.json.encode({**google.key_file, "private_key": private_key})

    assert refused(tmp_path, content) == (
        "CHAT_FCM_CREDENTIALS names FILE, whose private_key can't be read"
    )


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "nowhere.json", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(WrongSetting) as error:
            Settings.from_environment(LEAST | {"CHAT_FCM_CREDENTIALS": str(path)})
        assert str(error.value) == f"CHAT_FCM_CREDENTIALS names {path}: {reason}"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("fcm.googleapis.com", "must be an address such as https://fcm.googleapis.com, not {!r}"),
        (
            "ftp://fcm.example.com",
            "must be an address such as https://fcm.googleapis.com, not {!r}",
        ),
        ("https://", "must be an address such as https://fcm.googleapis.com, not {!r}"),
        ("https://a:b/", "must be an address such as https://fcm.googleapis.com, not {!r}"),
        ("https://a/v1", "must be an address such as https://fcm.googleapis.com, not {!r}"),
        ("https://a?b", "must be an address such as https://fcm.googleapis.com, not {!r}"),
        ("http://fcm.googleapis.com", "must begin with https://, as access tokens are sent there"),
    ],
)
def test_an_address_that_is_none_or_gives_tokens_away_is_refused(url: str, words: str) -> None:
    with pytest.raises(WrongSetting) as error:
        Settings.from_environment(LEAST | {"CHAT_FCM_URL": url})

    assert str(error.value) == f"CHAT_FCM_URL {words.format(url)}"


@pytest.mark.parametrize(
    "url", ["https://fcm.example.com/", "http://127.0.0.1:8", "http://[::1]:8"]
)
def test_an_address_may_be_another_one(url: str) -> None:
    settings = Settings.from_environment(LEAST | {"CHAT_FCM_URL": url})

    assert settings.fcm_url == url.rstrip("/")
