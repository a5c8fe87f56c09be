"""Every setting: what it may be, and the one line that says so."""

import ipaddress
from datetime import timedelta
from pathlib import Path

import pytest

from chat_api.kernel.callers import Network
from chat_api.realtime.reverb import ReverbApp
from chat_api.settings import Settings, WrongSetting, load_environment

STRONG = "3f1c9a7be2d84650b7c1de90aa5f2c68"
LEAST = {
    "CHAT_JWT_SECRET": STRONG,
    "REVERB_APP_ID": "1001",
    "REVERB_APP_KEY": "key",
    "REVERB_APP_SECRET": "secret",
}


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


def test_the_defaults_are_for_one_machine() -> None:
    assert Settings.from_environment(LEAST) == Settings(
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
        sessions_per_minute=60,
        conversations_by_agent=3,
        idle_after=timedelta(days=7),
        retention=None,
        payments_per_minute=60,
        wallet_currency="USD",
        auth="jwt",
        trusted_proxies=(),
    )


def test_everything_can_be_set() -> None:
    settings = Settings.from_environment(
        LEAST
        | {
            "CHAT_HOST": "0.0.0.0",
            "CHAT_PORT": "0",
            "CHAT_DATABASE_URL": "sqlite:////var/lib/chat.sqlite3",
            "CHAT_JWT_TTL": "3600",
            "CHAT_SEED": "false",
            "CHAT_EVENT_NAMESPACE": "App\\Events",
            "CHAT_MESSAGES_PER_MINUTE": "0",
            "CHAT_LOGINS_PER_MINUTE": "5",
            "CHAT_SESSIONS_PER_MINUTE": "6",
            "CHAT_QUEUE_MAX_CONCURRENT_BY_AGENT": "0",
            "CHAT_IDLE_HOURS": "12",
            "CHAT_RETENTION_DAYS": "90",
            "CHAT_PAYMENTS_PER_MINUTE": "7",
            "CHAT_WALLET_CURRENCY": "UZS",
            "CHAT_AUTH": "proxy",
            "CHAT_TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.7,2001:db8::/32",
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
        database_url="sqlite:////var/lib/chat.sqlite3",
        jwt_lifetime=timedelta(hours=1),
        event_namespace="App\\Events",
        messages_per_minute=0,
        logins_per_minute=5,
        sessions_per_minute=6,
        conversations_by_agent=0,
        idle_after=timedelta(hours=12),
        retention=timedelta(days=90),
        payments_per_minute=7,
        wallet_currency="UZS",
        auth="proxy",
        trusted_proxies=networks("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"),
    )


PUBLIC = {"CHAT_HOST": "0.0.0.0"}
HOW_TO = 'make one with python -c "import secrets; print(secrets.token_hex(32))"'

WRONG: list[tuple[dict[str, str], str]] = [
    ({"CHAT_PORT": "http"}, "CHAT_PORT must be a whole number, not 'http'"),
    ({"CHAT_PORT": "-1"}, "CHAT_PORT must be 0 to 65535, not -1"),
    ({"CHAT_PORT": "65536"}, "CHAT_PORT must be 0 to 65535, not 65536"),
    ({"REVERB_PORT": "0"}, "REVERB_PORT must be 1 to 65535, not 0"),
    ({"CHAT_JWT_TTL": "1"}, "CHAT_JWT_TTL must be 60 to 31622400, not 1"),
    (
        {"CHAT_MESSAGES_PER_MINUTE": "many"},
        "CHAT_MESSAGES_PER_MINUTE must be a whole number, not 'many'",
    ),
    (
        {"CHAT_LOGINS_PER_MINUTE": "1.5"},
        "CHAT_LOGINS_PER_MINUTE must be a whole number, not '1.5'",
    ),
    ({"CHAT_HOST": "a b"}, "CHAT_HOST must be an address or a host name, not 'a b'"),
    (
        {"REVERB_HOST": "http://x"},
        "REVERB_HOST must be an address or a host name, not 'http://x'",
    ),
    ({"REVERB_SCHEME": "wss"}, "REVERB_SCHEME must be http or https, not 'wss'"),
    (
        {"CHAT_QUEUE_MAX_CONCURRENT_BY_AGENT": "many"},
        "CHAT_QUEUE_MAX_CONCURRENT_BY_AGENT must be a whole number, not 'many'",
    ),
    ({"CHAT_IDLE_HOURS": "x"}, "CHAT_IDLE_HOURS must be a whole number, not 'x'"),
    ({"CHAT_RETENTION_DAYS": "-1"}, "CHAT_RETENTION_DAYS must be 0 to 36500, not -1"),
    (
        {"CHAT_PAYMENTS_PER_MINUTE": "-1"},
        "CHAT_PAYMENTS_PER_MINUTE must be 0 to 1000000, not -1",
    ),
    *(
        (
            {"CHAT_WALLET_CURRENCY": currency},
            f"CHAT_WALLET_CURRENCY must be an ISO 4217 code such as USD, not {currency!r}",
        )
        for currency in ("usd", "US", "USDT", "$", "USD\n")
    ),
    ({"CHAT_AUTH": "none"}, "CHAT_AUTH must be jwt or proxy, not 'none'"),
    (
        {"CHAT_TRUSTED_PROXIES": "127.0.0.1,proxy.example"},
        "CHAT_TRUSTED_PROXIES must be addresses or networks with commas between: "
        "'proxy.example' does not appear to be an IPv4 or IPv6 network",
    ),
    (
        {"CHAT_TRUSTED_PROXIES": "10.0.0.1/8"},
        "CHAT_TRUSTED_PROXIES must be addresses or networks with commas between: "
        "10.0.0.1/8 has host bits set",
    ),
    *(
        (
            PUBLIC | {"CHAT_AUTH": "proxy"} | proxies,
            "CHAT_AUTH=proxy lets whoever reaches the API say who they are, and 0.0.0.0 can be "
            "reached from outside: set CHAT_TRUSTED_PROXIES to the addresses of your proxies, or "
            "listen on 127.0.0.1",
        )
        for proxies in ({}, {"CHAT_TRUSTED_PROXIES": " , "})
    ),
    ({"CHAT_SEED": "maybe"}, "CHAT_SEED must be true or false, not 'maybe'"),
    (
        {"CHAT_EVENT_NAMESPACE": "App/Events"},
        "CHAT_EVENT_NAMESPACE must look like App\\Events or App.Events, not 'App/Events'",
    ),
    *(
        (
            {name: value},
            f"{name} must be printable ASCII without spaces, slashes and colons",
        )
        for name in ("REVERB_APP_ID", "REVERB_APP_KEY")
        for value in ("1/2", "k y", "k:y", "kéy", "k\ty", "key\n", "")
    ),
    ({"REVERB_APP_SECRET": "a\nb"}, "REVERB_APP_SECRET must be text on one line, not empty"),
    ({"CHAT_JWT_SECRET": ""}, "CHAT_JWT_SECRET must be text on one line, not empty"),
    *(
        (
            {"CHAT_DATABASE_URL": url},
            "CHAT_DATABASE_URL must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST:PORT/NAME",
        )
        for url in (
            "chat.sqlite3",
            "sqlite://",
            "sqlite:///",
            "sqlite:///chat.sqlite3?mode=memory",
            "sqlite+aiosqlite:///chat.sqlite3",
            "postgresql+asyncpg://user:secret@db/chat",
            "mysql://user:secret@db/chat",
            "host=db dbname=chat password=secret",
        )
    ),
    *(
        (
            {"CHAT_DATABASE_URL": url},
            "CHAT_DATABASE_URL must be postgresql://USER:PASSWORD@HOST:PORT/NAME, with special "
            "characters as %XX, and after a ? nothing but options of libpq",
        )
        for url in (
            "postgresql://user:secret@db",
            "postgresql://user:secret@db/",
            "postgresql://user:secret@db:port/chat",
            "postgresql://user:secret@db/chat?charset=utf8",
            "postgresql://user:sec@ret@db/chat",
            "postgresql://user:sec/ret@db/chat",
            "postgresql://user:secret%@db/chat",
            "postgresql://[::1/chat",
        )
    ),
    *(
        (
            {"CHAT_DATABASE_URL": url},
            "CHAT_DATABASE_URL must name a file: what is said would be lost with the process",
        )
        for url in ("sqlite:///:memory:", "sqlite:///file::memory:")
    ),
    (
        PUBLIC | {"CHAT_SEED": "1"},
        "CHAT_SEED opens accounts whose password everybody knows, and 0.0.0.0 can be reached from "
        "outside: leave it out, or listen on 127.0.0.1",
    ),
    (
        PUBLIC | {"CHAT_JWT_SECRET": "short"},
        "CHAT_JWT_SECRET has 5 characters and needs 32, which is not enough where others can reach "
        f"CHAT_HOST: {HOW_TO}",
    ),
    *(
        (
            PUBLIC | {"CHAT_JWT_SECRET": secret},
            "CHAT_JWT_SECRET is easy to guess, which is not enough where others can reach "
            f"CHAT_HOST: {HOW_TO}",
        )
        for secret in (
            "a" * 64,
            "secret-secret-and-something-more",
            "Your-256-bit-secret-goes-here-ok",
        )
    ),
]


@pytest.mark.parametrize(("changes", "line"), WRONG)
def test_a_wrong_setting_is_explained_in_one_line(changes: dict[str, str], line: str) -> None:
    with pytest.raises(WrongSetting) as error:
        Settings.from_environment(LEAST | changes)

    assert str(error.value) == line
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:p%40ss%2Fword@db.example.com:5432/chat",
        "postgresql://user:p#ss?word@db/chat",
        "postgres://user@db/chat?sslmode=verify-full&sslrootcert=system",
        "pgsql://user:password@[::1]:5432/chat",
        "postgresql+psycopg://user:password@one:5432,two:5433/chat?target_session_attrs=read-write",
        "postgresql://user@/chat?host=/run/postgresql",
        "postgresql://%2Frun%2Fpostgresql/chat",
        "postgresql:///chat",
    ],
)
def test_a_postgresql_database_is_named_as_its_own_programs_do(url: str) -> None:
    settings = Settings.from_environment(LEAST | {"CHAT_DATABASE_URL": url})

    assert settings.database_url == url


@pytest.mark.parametrize("name", LEAST)
def test_what_has_no_default_must_be_set(name: str) -> None:
    variables = {**LEAST}
    del variables[name]

    with pytest.raises(WrongSetting) as error:
        Settings.from_environment(variables)

    assert str(error.value) == f"{name} must be set, in the environment or in .env"


def test_the_command_line_overrules() -> None:
    variables = LEAST | {"CHAT_HOST": "0.0.0.0", "CHAT_PORT": "http"}

    settings = Settings.from_environment(variables, host="::1", port=0)

    assert (settings.host, settings.port) == ("::1", 0)
    with pytest.raises(
        WrongSetting, match=r"^CHAT_HOST must be an address or a host name, not ''$"
    ):
        Settings.from_environment(variables, host="")


def test_apps_may_have_the_names_that_the_websocket_server_takes() -> None:
    settings = Settings.from_environment(
        LEAST | {"REVERB_APP_ID": "shop.example!", "REVERB_APP_KEY": "~key+=?#%"}
    )

    assert (settings.reverb.app_id, settings.reverb.key) == ("shop.example!", "~key+=?#%")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1"])
def test_on_this_machine_alone_a_weak_secret_will_do(host: str) -> None:
    settings = Settings.from_environment(
        LEAST | {"CHAT_HOST": host, "CHAT_JWT_SECRET": "secret", "CHAT_SEED": "1"}
    )

    assert settings.has_weak_secret
    assert settings.seed


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_on_this_machine_alone_whoever_reaches_the_api_may_vouch(host: str) -> None:
    variables = LEAST | {"CHAT_HOST": host, "CHAT_AUTH": "proxy"}

    assert Settings.from_environment(variables).trusted_proxies == networks("127.0.0.0/8", "::1")
    assert Settings.from_environment(
        variables | {"CHAT_TRUSTED_PROXIES": "192.0.2.7"}
    ).trusted_proxies == networks("192.0.2.7")


def test_a_public_address_may_be_behind_proxies_that_are_named() -> None:
    settings = Settings.from_environment(
        LEAST | PUBLIC | {"CHAT_AUTH": "proxy", "CHAT_TRUSTED_PROXIES": "192.0.2.7"}
    )

    assert (settings.auth, settings.trusted_proxies) == ("proxy", networks("192.0.2.7"))


def test_proxies_are_trusted_with_addresses_without_vouching_for_people() -> None:
    settings = Settings.from_environment(LEAST | {"CHAT_TRUSTED_PROXIES": "192.0.2.7"})

    assert (settings.auth, settings.trusted_proxies) == ("jwt", networks("192.0.2.7"))


def test_no_secret_shows_in_the_settings_own_description() -> None:
    description = repr(
        Settings.from_environment(
            LEAST
            | {
                "REVERB_APP_SECRET": "very-secret",
                "CHAT_DATABASE_URL": "postgresql://user:very-secret@db/chat",
            }
        )
    )

    assert STRONG not in description
    assert "very-secret" not in description


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    assert load_environment({"CHAT_PORT": "2"}, tmp_path) == {"CHAT_PORT": "2"}

    (tmp_path / ".env").write_text("CHAT_PORT=1\nCHAT_HOST='localhost'\nNO_VALUE\n")

    assert load_environment({"CHAT_PORT": "2"}, tmp_path) == {
        "CHAT_PORT": "2",
        "CHAT_HOST": "localhost",
    }


@pytest.mark.parametrize("nothing", ["", "null", "(null)", "NULL", "empty", "(empty)"])
def test_empty_and_null_mean_not_set(tmp_path: Path, nothing: str) -> None:
    (tmp_path / ".env").write_text(f"CHAT_PORT={nothing}\n")

    assert load_environment({"CHAT_HOST": nothing}, tmp_path) == {}


def test_a_file_of_another_encoding_is_explained(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("\ufeffCHAT_PORT=1".encode())
    assert load_environment({}, tmp_path) == {"CHAT_PORT": "1"}

    (tmp_path / ".env").write_bytes("CHAT_PORT=1".encode("utf-16"))
    with pytest.raises(WrongSetting) as error:
        load_environment({}, tmp_path)

    assert str(error.value) == f"{tmp_path}/.env must be UTF-8: invalid start byte at byte 0"


@pytest.mark.parametrize(
    "broken", ['X="unclosed', "X='unclosed", "=value", 'X="quoted" and not', "two words"]
)
def test_a_line_of_env_that_means_nothing_is_named_and_not_shown(
    tmp_path: Path, broken: str
) -> None:
    (tmp_path / ".env").write_text(f"A=1\n# a comment\n\n  {broken}\nB=2\n")

    with pytest.raises(WrongSetting) as wrong:
        load_environment({}, tmp_path)

    assert str(wrong.value) == (
        f"{tmp_path}/.env, line 4: must be NAME=value, with every quote closed"
    )


def test_pages_may_ask_by_their_origins() -> None:
    written = "https://App.example.com:443, http://localhost:5173,capacitor://localhost"
    named = Settings.from_environment(LEAST | {"CHAT_ALLOWED_ORIGINS": written})
    assert named.origins == frozenset(
        {"https://app.example.com", "http://localhost:5173", "capacitor://localhost"}
    )

    for wrong in ("*", "app.example.com", "https://app.example.com/", "https://a b", "null"):
        with pytest.raises(WrongSetting, match=r"^CHAT_ALLOWED_ORIGINS must be origins such as"):
            Settings.from_environment(
                LEAST | {"CHAT_ALLOWED_ORIGINS": f"https://app.example.com,{wrong}"}
            )


def test_without_a_word_any_page_may_ask_and_behind_a_vouching_proxy_none() -> None:
    behind = LEAST | {"CHAT_AUTH": "proxy"}

    assert Settings.from_environment(LEAST).origins is None
    assert Settings.from_environment(behind).origins == frozenset()
    named = Settings.from_environment(behind | {"CHAT_ALLOWED_ORIGINS": "https://app.example.com"})
    assert named.origins == frozenset({"https://app.example.com"})


def test_conversations_are_open_and_kept_for_ever_with_zero() -> None:
    settings = Settings.from_environment(
        {**LEAST, "CHAT_IDLE_HOURS": "0", "CHAT_RETENTION_DAYS": "0"}
    )

    assert (settings.idle_after, settings.retention) == (None, None)
