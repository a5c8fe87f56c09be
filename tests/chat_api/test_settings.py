"""Every setting: what it may be, and the one line that says so."""

from datetime import timedelta
from pathlib import Path

import pytest

from chat_api.realtime.reverb import ReverbApp
from chat_api.settings import Settings, SettingsError, environment

STRONG = "3f1c9a7be2d84650b7c1de90aa5f2c68"
LEAST = {
    "CHAT_JWT_SECRET": STRONG,
    "REVERB_APP_ID": "1001",
    "REVERB_APP_KEY": "key",
    "REVERB_APP_SECRET": "secret",
}


def test_the_defaults_are_for_one_machine() -> None:
    assert Settings.read(LEAST) == Settings(
        jwt_secret=STRONG,
        reverb=ReverbApp("1001", "key", "secret", "127.0.0.1", 8080, "http"),
        host="127.0.0.1",
        port=8383,
        database_url="sqlite:///chat.sqlite3",
        jwt_lifetime=timedelta(days=1),
        seed=False,
        event_namespace="",
        messages_per_minute=300,
        logins_per_minute=10,
    )


def test_everything_can_be_set() -> None:
    settings = Settings.read(
        LEAST
        | {
            "CHAT_HOST": " 0.0.0.0 ",
            "CHAT_PORT": "0",
            "CHAT_DATABASE_URL": "sqlite+aiosqlite:////var/lib/chat.sqlite3",
            "CHAT_JWT_TTL": "3600",
            "CHAT_SEED": "false",
            "CHAT_EVENT_NAMESPACE": "App\\Events",
            "CHAT_MESSAGES_PER_MINUTE": "0",
            "CHAT_LOGINS_PER_MINUTE": "5",
            "REVERB_HOST": "reverb.example.com",
            "REVERB_PORT": "443",
            "REVERB_SCHEME": "https",
        }
    )

    assert settings == Settings(
        jwt_secret=STRONG,
        reverb=ReverbApp("1001", "key", "secret", "reverb.example.com", 443, "https"),
        host="0.0.0.0",
        port=0,
        database_url="sqlite+aiosqlite:////var/lib/chat.sqlite3",
        jwt_lifetime=timedelta(hours=1),
        event_namespace="App\\Events",
        messages_per_minute=0,
        logins_per_minute=5,
    )


PUBLIC = {"CHAT_HOST": "0.0.0.0"}
HOW_TO = 'make one with python -c "import secrets; print(secrets.token_hex(32))".'

WRONG: list[tuple[dict[str, str], str]] = [
    *(
        ({name: value}, f"{name} is not set: put it into the environment or .env.")
        for name in LEAST
        for value in ("", "  ")
    ),
    ({"CHAT_PORT": "http"}, "CHAT_PORT must be a whole number from 0 to 65535, not 'http'."),
    ({"CHAT_PORT": "-1"}, "CHAT_PORT must be a whole number from 0 to 65535, not '-1'."),
    ({"CHAT_PORT": "65536"}, "CHAT_PORT must be a whole number from 0 to 65535, not '65536'."),
    ({"REVERB_PORT": "0"}, "REVERB_PORT must be a whole number from 1 to 65535, not '0'."),
    ({"CHAT_JWT_TTL": "1"}, "CHAT_JWT_TTL must be a whole number from 60 to 31622400, not '1'."),
    (
        {"CHAT_MESSAGES_PER_MINUTE": "many"},
        "CHAT_MESSAGES_PER_MINUTE must be a whole number from 0 to 1000000, not 'many'.",
    ),
    (
        {"CHAT_LOGINS_PER_MINUTE": "1.5"},
        "CHAT_LOGINS_PER_MINUTE must be a whole number from 0 to 1000000, not '1.5'.",
    ),
    ({"CHAT_HOST": "a b"}, "CHAT_HOST must be a host name or an IP address, not 'a b'."),
    (
        {"REVERB_HOST": "http://x"},
        "REVERB_HOST must be a host name or an IP address, not 'http://x'.",
    ),
    ({"REVERB_SCHEME": "wss"}, "REVERB_SCHEME must be http or https, not 'wss'."),
    ({"CHAT_SEED": "maybe"}, "CHAT_SEED must be 1 or 0, not 'maybe'."),
    (
        {"CHAT_EVENT_NAMESPACE": "App/Events"},
        "CHAT_EVENT_NAMESPACE must look like App\\Events or App.Events, not 'App/Events'.",
    ),
    (
        {"REVERB_APP_ID": "1/2"},
        "REVERB_APP_ID must be made of letters, digits, - and _, at most 100 of them.",
    ),
    (
        {"REVERB_APP_KEY": "k y"},
        "REVERB_APP_KEY must be made of letters, digits, - and _, at most 100 of them.",
    ),
    (
        {"CHAT_DATABASE_URL": "chat.sqlite3"},
        "CHAT_DATABASE_URL must be a URL such as sqlite:///chat.sqlite3.",
    ),
    (
        {"CHAT_DATABASE_URL": "postgresql+asyncpg://user:secret@db/chat"},
        "CHAT_DATABASE_URL must start with sqlite:///, the only database so far.",
    ),
    *(
        (
            {"CHAT_DATABASE_URL": url},
            "CHAT_DATABASE_URL must name a file: what is said would be lost with the process.",
        )
        for url in ("sqlite://", "sqlite:///:memory:")
    ),
    (
        PUBLIC | {"CHAT_SEED": "1"},
        "CHAT_SEED=1 opens accounts whose password everybody knows, and CHAT_HOST=0.0.0.0 lets "
        "everybody in: use 127.0.0.1, or leave CHAT_SEED out.",
    ),
    (
        PUBLIC | {"CHAT_JWT_SECRET": "short"},
        "CHAT_JWT_SECRET has 5 characters and needs 32, which is not enough on a public "
        f"CHAT_HOST: {HOW_TO}",
    ),
    *(
        (
            PUBLIC | {"CHAT_JWT_SECRET": secret},
            "CHAT_JWT_SECRET is easy to guess, which is not enough on a public CHAT_HOST: "
            f"{HOW_TO}",
        )
        for secret in (
            "a" * 64,
            "secret-secret-and-something-more",
            "Your-256-bit-secret-goes-here-ok",
        )
    ),
]


@pytest.mark.parametrize(("changes", "line"), WRONG, ids=[line for _, line in WRONG])
def test_a_wrong_setting_is_explained_in_one_line(changes: dict[str, str], line: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.read(LEAST | changes)

    assert str(error.value) == line
    assert "secret@db" not in line


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_on_this_machine_alone_a_weak_secret_will_do(host: str) -> None:
    settings = Settings.read(
        LEAST | {"CHAT_HOST": host, "CHAT_JWT_SECRET": "secret", "CHAT_SEED": "1"}
    )

    assert settings.has_weak_secret
    assert settings.seed


def test_no_secret_shows_in_the_settings_own_description() -> None:
    description = repr(Settings.read(LEAST | {"REVERB_APP_SECRET": "very-secret"}))

    assert STRONG not in description
    assert "very-secret" not in description


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("CHAT_PORT=1\nCHAT_HOST='localhost'\nEMPTY\n")

    assert environment({"CHAT_PORT": "2"}, file) == {"CHAT_PORT": "2", "CHAT_HOST": "localhost"}
    assert environment({"CHAT_PORT": "2"}, tmp_path / "none") == {"CHAT_PORT": "2"}
