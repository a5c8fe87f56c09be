"""Laravel Reverb's names, their defaults, and one line for each way to get them wrong."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from reverb_py.core.apps import App, ClientEventsFrom, RateLimit, Webhook
from reverb_py.server.addresses import TrustedProxies
from reverb_py.settings import Settings, WrongSetting, load_environment
from reverb_py.webhooks.payload import KINDS

SECRET = "p7ZkqT2mVx9sLw4RbN8c"
_NAME_RULE = "be printable ASCII without spaces, slashes and colons"
APP = {"REVERB_APP_ID": "1001", "REVERB_APP_KEY": "my-key", "REVERB_APP_SECRET": SECRET}

LARAVEL_ENV = """\
APP_NAME="My Shop"
APP_ENV=local
APP_KEY=base64:q0XyW5bCk1mS8yT4vN2uRj7pHfG3dLzE6aBcDeFgHiJ=
APP_DEBUG=true
APP_URL=http://localhost

LOG_DEPRECATIONS_CHANNEL=null
DB_CONNECTION=sqlite
# DB_HOST=127.0.0.1

SESSION_DOMAIN=null
BROADCAST_CONNECTION=reverb
QUEUE_CONNECTION=database

REDIS_CLIENT=phpredis
REDIS_HOST=127.0.0.1
REDIS_PASSWORD=null
REDIS_PORT=6379

MAIL_FROM_ADDRESS="hello@example.com"
MAIL_FROM_NAME="${APP_NAME}"

REVERB_APP_ID=256980
REVERB_APP_KEY=f4l2tmwqf6eg0f6jz0mw
REVERB_APP_SECRET='zioqeto9xrytlnlg7sj6' # from reverb:install
REVERB_HOST="localhost"
REVERB_PORT=8080
REVERB_SCHEME=http
REVERB_SERVER_HOST=0.0.0.0
REVERB_SERVER_PORT="${REVERB_PORT}"
REVERB_SERVER_PATH=
REVERB_SCALING_ENABLED=false
REVERB_APP_MAX_CONNECTIONS=null

VITE_APP_NAME="${APP_NAME}"
VITE_REVERB_APP_KEY="${REVERB_APP_KEY}"
VITE_REVERB_HOST="${REVERB_HOST}"
"""


def read(**variables: str) -> Settings:
    return Settings.from_environment({**APP, **variables})


def app_read(**variables: str) -> App:
    [app] = read(**variables).apps
    return app


def refusal(environment: dict[str, str], **options: Any) -> str:
    with pytest.raises(WrongSetting) as wrong:
        Settings.from_environment(environment, **options)
    assert "\n" not in str(wrong.value)
    return str(wrong.value)


def test_three_names_are_enough_and_the_rest_has_reverbs_defaults() -> None:
    settings = read()

    assert {field.name: getattr(settings, field.name) for field in fields(settings)} == {
        "apps": settings.apps,
        "host": "0.0.0.0",
        "port": 8080,
        "socket_path": None,
        "socket_mode": 0o660,
        "path_prefix": "",
        "tls": None,
        "trusted_proxies": TrustedProxies(),
        "proxy_protocol": False,
        "max_request_bytes": 1_048_576,
        "max_buffered_bytes": 1_048_576,
        "max_buffered_bytes_total": 268_435_456,
        "max_waiting_bytes": 67_108_864,
        "max_connections_per_address": 0,
        "connects_per_minute_per_address": 0,
        "requests_per_second_per_address": 0,
        "shutdown_seconds": 5.0,
        "drain_delay_seconds": 0.0,
        "drain_seconds": 0.0,
        "scaling": None,
        "metrics": None,
        "logs_as_json": False,
        "errors_as_strings": False,
        "shares_port": False,
        "listening_fd": None,
    }
    assert list(settings.apps) == [
        App(
            id="1001",
            key="my-key",
            secret=SECRET,
            ping_interval=60.0,
            pong_timeout=30.0,
            activity_timeout=30,
            max_connections=0,
            max_message_bytes=10_000,
            max_event_data_bytes=10_240,
            messages_per_second=2_000,
            malformed_messages_per_minute=60,
            rate_limit=None,
            client_events_from=ClientEventsFrom.MEMBERS,
            client_events_per_second=10,
            client_events_per_second_per_address=0,
            client_events_per_second_per_app=0,
            max_channels_per_connection=1_000,
            subscriptions_per_second=20,
            subscriptions_per_second_per_address=0,
            max_presence_members=100,
            max_presence_member_bytes=2_048,
            max_watchlist=100,
            authorization_seconds=0.0,
            publishes_per_second=0,
            reads_per_second=0,
        )
    ]


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("REVERB_SERVER_HOST", "127.0.0.1", "host", "127.0.0.1"),
        ("REVERB_SERVER_HOST", "::", "host", "::"),
        ("REVERB_SERVER_PORT", "0", "port", 0),
        ("REVERB_SERVER_PORT", "65535", "port", 65_535),
        ("REVERB_SERVER_PATH", "realtime", "path_prefix", "/realtime"),
        ("REVERB_SERVER_PATH", "/realtime/", "path_prefix", "/realtime"),
        ("REVERB_SERVER_PATH", "/a/b", "path_prefix", "/a/b"),
        ("REVERB_SERVER_PATH", "/", "path_prefix", ""),
        ("REVERB_MAX_REQUEST_SIZE", "1000", "max_request_bytes", 1_000),
        ("REVERB_MAX_BUFFERED_SIZE", "65536", "max_buffered_bytes", 65_536),
        ("REVERB_MAX_WAITING_SIZE", "65536", "max_waiting_bytes", 65_536),
        ("REVERB_MAX_CONNECTIONS_PER_ADDRESS", "20", "max_connections_per_address", 20),
        ("REVERB_CONNECTS_PER_MINUTE_PER_ADDRESS", "60", "connects_per_minute_per_address", 60),
        ("REVERB_REQUESTS_PER_SECOND_PER_ADDRESS", "9", "requests_per_second_per_address", 9),
        ("REVERB_SHUTDOWN_SECONDS", "0", "shutdown_seconds", 0.0),
        ("REVERB_SHUTDOWN_SECONDS", "1.5", "shutdown_seconds", 1.5),
        ("REVERB_DRAIN_SECONDS", "60", "drain_seconds", 60.0),
        ("REVERB_DRAIN_DELAY_SECONDS", "7.5", "drain_delay_seconds", 7.5),
    ],
)
def test_a_server_setting_is_read_by_its_name(
    name: str, text: str, field: str, value: object
) -> None:
    assert getattr(read(**{name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("REVERB_APP_PING_INTERVAL", "1", "ping_interval", 1.0),
        ("REVERB_APP_PING_INTERVAL", "86400", "ping_interval", 86_400.0),
        ("REVERB_APP_PONG_TIMEOUT", "1", "pong_timeout", 1.0),
        ("REVERB_APP_PONG_TIMEOUT", "86400", "pong_timeout", 86_400.0),
        ("REVERB_APP_ACTIVITY_TIMEOUT", "120", "activity_timeout", 120),
        ("REVERB_APP_MAX_CONNECTIONS", "5000", "max_connections", 5_000),
        ("REVERB_APP_MAX_MESSAGE_SIZE", "256", "max_message_bytes", 256),
        ("REVERB_APP_MAX_EVENT_DATA_SIZE", "1", "max_event_data_bytes", 1),
        (
            "REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM",
            "all",
            "client_events_from",
            ClientEventsFrom.ALL,
        ),
        (
            "REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM",
            "none",
            "client_events_from",
            ClientEventsFrom.NONE,
        ),
    ],
)
def test_an_app_setting_is_read_by_its_name(
    name: str, text: str, field: str, value: object
) -> None:
    assert getattr(app_read(**{name: text}), field) == value


LIMITS = {
    "MAX_CONNECTIONS": "max_connections",
    "MAX_MESSAGE_SIZE": "max_message_bytes",
    "MAX_EVENT_DATA_SIZE": "max_event_data_bytes",
    "MESSAGES_PER_SECOND": "messages_per_second",
    "MALFORMED_MESSAGES_PER_MINUTE": "malformed_messages_per_minute",
    "SUBSCRIPTIONS_PER_SECOND": "subscriptions_per_second",
    "SUBSCRIPTIONS_PER_SECOND_PER_ADDRESS": "subscriptions_per_second_per_address",
    "MAX_CHANNELS_PER_CONNECTION": "max_channels_per_connection",
    "CLIENT_EVENTS_PER_SECOND": "client_events_per_second",
    "CLIENT_EVENTS_PER_SECOND_PER_ADDRESS": "client_events_per_second_per_address",
    "CLIENT_EVENTS_PER_SECOND_PER_APP": "client_events_per_second_per_app",
    "PUBLISHES_PER_SECOND": "publishes_per_second",
    "READS_PER_SECOND": "reads_per_second",
    "MAX_PRESENCE_MEMBERS": "max_presence_members",
    "MAX_PRESENCE_MEMBER_SIZE": "max_presence_member_bytes",
    "MAX_WATCHLIST": "max_watchlist",
}
"""The limits of an app, as variables are called behind REVERB_APP_, and as fields of `App`."""


@pytest.mark.parametrize("value", [0, 300])
@pytest.mark.parametrize(("name", "field"), LIMITS.items())
def test_every_limit_of_an_app_is_set_by_its_name_and_switched_off_with_0(
    name: str, field: str, value: int
) -> None:
    assert getattr(app_read(**{f"REVERB_APP_{name}": str(value)}), field) == value


@pytest.mark.parametrize("value", [0, 300])
@pytest.mark.parametrize(("name", "field"), LIMITS.items())
def test_every_limit_of_an_app_is_set_the_same_way_in_a_file(
    tmp_path: Path, name: str, field: str, value: int
) -> None:
    file = tmp_path / "apps.json"
    entry = {"id": "1", "key": "k", "secret": SECRET, name.lower(): value}
    file.write_text(json.dumps({"apps": [entry]}))

    [app] = Settings.from_environment({"REVERB_APPS_FILE": str(file)}).apps
    assert getattr(app, field) == value


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("REVERB_MAX_REQUEST_SIZE", "max_request_bytes"),
        ("REVERB_MAX_BUFFERED_SIZE", "max_buffered_bytes"),
        ("REVERB_MAX_WAITING_SIZE", "max_waiting_bytes"),
        ("REVERB_MAX_CONNECTIONS_PER_ADDRESS", "max_connections_per_address"),
        ("REVERB_CONNECTS_PER_MINUTE_PER_ADDRESS", "connects_per_minute_per_address"),
        ("REVERB_REQUESTS_PER_SECOND_PER_ADDRESS", "requests_per_second_per_address"),
    ],
)
def test_every_limit_of_the_server_is_switched_off_with_0(name: str, field: str) -> None:
    assert getattr(read(**{name: "0"}), field) == 0


@pytest.mark.parametrize("text", ["true", "TRUE", "(true)", "1", "yes", "on", "On"])
def test_rate_limiting_is_switched_on_with_reverbs_defaults(text: str) -> None:
    assert app_read(REVERB_APP_RATE_LIMITING_ENABLED=text).rate_limit == RateLimit(
        max_attempts=60, decay_seconds=60.0, terminate=False
    )


@pytest.mark.parametrize("text", ["false", "False", "(false)", "0", "no", "off"])
def test_rate_limiting_is_switched_off(text: str) -> None:
    app = app_read(REVERB_APP_RATE_LIMITING_ENABLED=text, REVERB_APP_RATE_LIMIT_MAX_ATTEMPTS="5")

    assert app.rate_limit is None


def test_a_rate_limit_has_three_numbers() -> None:
    app = app_read(
        REVERB_APP_RATE_LIMITING_ENABLED="true",
        REVERB_APP_RATE_LIMIT_MAX_ATTEMPTS="5",
        REVERB_APP_RATE_LIMIT_DECAY_SECONDS="0.5",
        REVERB_APP_RATE_LIMIT_TERMINATE="true",
    )

    assert app.rate_limit == RateLimit(max_attempts=5, decay_seconds=0.5, terminate=True)


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("REVERB_SERVER_PORT", "http", "must be a whole number, not 'http'"),
        ("REVERB_SERVER_PORT", "80.5", "must be a whole number, not '80.5'"),
        ("REVERB_SERVER_PORT", "-1", "must be 0 to 65535, not -1"),
        ("REVERB_SERVER_PORT", "65536", "must be 0 to 65535, not 65536"),
        ("REVERB_SERVER_PATH", "/a b", "must be a plain path such as /realtime, not 'a b'"),
        ("REVERB_SERVER_PATH", "/a?b", "must be a plain path such as /realtime, not 'a?b'"),
        ("REVERB_SERVER_PATH", "/a#b", "must be a plain path such as /realtime, not 'a#b'"),
        ("REVERB_SERVER_PATH", "/ä", "must be a plain path such as /realtime, not 'ä'"),
        ("REVERB_SERVER_PATH", "/a%20b", "must be a plain path such as /realtime, not 'a%20b'"),
        (
            "REVERB_MAX_REQUEST_SIZE",
            "999",
            "must be 1000 to 1073741824, or 0 for no limit, not 999",
        ),
        ("REVERB_MAX_REQUEST_SIZE", "10k", "must be a whole number, not '10k'"),
        (
            "REVERB_MAX_BUFFERED_SIZE",
            "65535",
            "must be 65536 to 1073741824, or 0 for no limit, not 65535",
        ),
        ("REVERB_SHUTDOWN_SECONDS", "soon", "must be a number, not 'soon'"),
        ("REVERB_SHUTDOWN_SECONDS", "-1", "must be 0 to 3600, not -1"),
        ("REVERB_SHUTDOWN_SECONDS", "nan", "must be 0 to 3600, not nan"),
        ("REVERB_SHUTDOWN_SECONDS", "inf", "must be 0 to 3600, not inf"),
        ("REVERB_DRAIN_SECONDS", "3601", "must be 0 to 3600, not 3601"),
        ("REVERB_DRAIN_DELAY_SECONDS", "-1", "must be 0 to 3600, not -1"),
        ("REVERB_SCALING_ENABLED", "maybe", "must be true or false, not 'maybe'"),
        ("REVERB_APP_PING_INTERVAL", "0", "must be 1 to 86400, not 0"),
        ("REVERB_APP_PING_INTERVAL", "a minute", "must be a number, not 'a minute'"),
        ("REVERB_APP_PONG_TIMEOUT", "0.5", "must be 1 to 86400, not 0.5"),
        ("REVERB_APP_ACTIVITY_TIMEOUT", "0", "must be 1 to 86400, not 0"),
        ("REVERB_APP_ACTIVITY_TIMEOUT", "30.5", "must be a whole number, not '30.5'"),
        ("REVERB_APP_MAX_CONNECTIONS", "-1", "must be 0 to 1073741824, not -1"),
        ("REVERB_APP_MAX_CONNECTIONS", "many", "must be a whole number, not 'many'"),
        (
            "REVERB_APP_MAX_MESSAGE_SIZE",
            "255",
            "must be 256 to 1073741824, or 0 for no limit, not 255",
        ),
        ("REVERB_APP_MAX_EVENT_DATA_SIZE", "-1", "must be 0 to 1073741824, not -1"),
        ("REVERB_APP_CLIENT_EVENTS_PER_SECOND", "-1", "must be 0 to 1073741824, not -1"),
        ("REVERB_APP_RATE_LIMITING_ENABLED", "2", "must be true or false, not '2'"),
        ("REVERB_APP_RATE_LIMIT_MAX_ATTEMPTS", "0", "must be 1 to 1073741824, not 0"),
        ("REVERB_APP_RATE_LIMIT_DECAY_SECONDS", "0", "must be 0.001 to 86400, not 0"),
        ("REVERB_APP_RATE_LIMIT_TERMINATE", "no way", "must be true or false, not 'no way'"),
        (
            "REVERB_APP_ALLOWED_ORIGINS",
            "shop.example.com, https://app.example.com",
            "must be hosts without scheme, port and path, such as shop.example.com or "
            "*.example.com, not 'https://app.example.com'",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_one_line_that_names_it(
    name: str, text: str, problem: str
) -> None:
    assert refusal({**APP, name: text}) == f"{name} {problem}"


def test_only_known_sources_of_client_events_are_accepted() -> None:
    assert refusal({**APP, "REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM": "everybody"}) == (
        "REVERB_APP_ACCEPT_CLIENT_EVENTS_FROM must be members, all, none, not 'everybody'"
    )


def test_a_server_is_on_its_own_unless_scaling_is_enabled() -> None:
    assert read(REDIS_URL="redis://redis.internal").scaling is None
    assert read(REVERB_SCALING_ENABLED="false").scaling is None


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ((), "REVERB_APP_ID and REVERB_APP_KEY and REVERB_APP_SECRET"),
        (("REVERB_APP_ID",), "REVERB_APP_KEY and REVERB_APP_SECRET"),
        (("REVERB_APP_ID", "REVERB_APP_KEY"), "REVERB_APP_SECRET"),
        (("REVERB_APP_KEY", "REVERB_APP_SECRET"), "REVERB_APP_ID"),
    ],
)
def test_an_app_needs_all_of_its_three_names(given: tuple[str, ...], missing: str) -> None:
    assert refusal({name: APP[name] for name in given}) == (
        f"{missing} must be set: an app has an id, a key and a secret "
        "(or name a file of apps in REVERB_APPS_FILE)"
    )


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"REVERB_APP_ID": "a/b"}, f"REVERB_APP_ID must {_NAME_RULE}"),
        ({"REVERB_APP_KEY": "a/b"}, f"REVERB_APP_KEY must {_NAME_RULE}"),
        ({"REVERB_APP_KEY": "a:b"}, f"REVERB_APP_KEY must {_NAME_RULE}"),
        ({"REVERB_APP_KEY": "a b"}, f"REVERB_APP_KEY must {_NAME_RULE}"),
        ({"REVERB_APP_KEY": "schlüssel"}, f"REVERB_APP_KEY must {_NAME_RULE}"),
        (
            {"REVERB_APP_SECRET": f"{SECRET}\r"},
            "REVERB_APP_SECRET must be text on one line, not empty",
        ),
        (
            # What the environment makes of a byte that is not UTF-8.
            {"REVERB_APP_SECRET": f"{SECRET}\udcff"},
            "REVERB_APP_SECRET must be text on one line, not empty",
        ),
        (
            {"REVERB_APP_WEBHOOK_URL": "ftp://example.com"},
            "REVERB_APP_WEBHOOK_URL: a webhook's url must begin with http:// or https://, not ftp",
        ),
        (
            {
                "REVERB_APP_WEBHOOK_URL": "https://example.com",
                "REVERB_APP_WEBHOOK_EVENTS": "member_joined",
            },
            "REVERB_APP_WEBHOOK_EVENTS: there is no webhook event 'member_joined': use "
            "cache_miss, channel_occupied, channel_vacated, client_event, member_added, "
            "member_removed, subscription_count",
        ),
        (
            {"REVERB_SERVER_HOST": "a b"},
            "REVERB_SERVER_HOST must be an address or a host name, not 'a b'",
        ),
    ],
)
def test_an_app_that_clients_could_not_name_or_sign_for_is_refused(
    fields: dict[str, str], problem: str
) -> None:
    assert refusal({**APP, **fields}) == problem


def test_the_command_line_overrules_the_environment() -> None:
    environment = {**APP, "REVERB_SERVER_HOST": "0.0.0.0", "REVERB_SERVER_PORT": "not read"}

    settings = Settings.from_environment(environment, host="127.0.0.1", port=6001)

    assert (settings.host, settings.port) == ("127.0.0.1", 6001)
    assert Settings.from_environment(APP, port=0).port == 0


@pytest.mark.parametrize(
    "secret",
    ["secret", "reverb", "0123456789abcde", "abababababababababab", "7ad3773142a6692b25b8"],
)
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", "localhost.x"])
def test_a_weak_secret_is_refused_where_others_can_reach_it(secret: str, host: str) -> None:
    environment = {**APP, "REVERB_APP_SECRET": secret}

    expected = (
        f"the secret of app 1001 is easy to guess, and {host} can be reached from outside: "
        "use 16 random characters or more, or listen on 127.0.0.1"
    )
    assert refusal({**environment, "REVERB_SERVER_HOST": host}) == expected
    assert refusal(environment, host=host) == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_weak_secret_will_do_on_loopback(host: str) -> None:
    for settings in (
        read(REVERB_APP_SECRET="secret", REVERB_SERVER_HOST=host),
        Settings.from_environment({**APP, "REVERB_APP_SECRET": "secret"}, host=host),
    ):
        assert [app.secret for app in settings.apps] == ["secret"]


def test_no_refusal_and_no_settings_show_a_secret() -> None:
    assert SECRET not in repr(read())
    for wrong in ({"REVERB_APP_KEY": "a:b"}, {"REVERB_SERVER_PORT": "x"}):
        assert SECRET not in refusal({**APP, **wrong})
    short = "hunter2hunter2"
    assert short not in refusal({**APP, "REVERB_APP_SECRET": short})


# The apps file.

TOML = f"""\
[[apps]]
id = "1001"
key = "first"
secret = "{SECRET}"
ping_interval = 25
pong_timeout = 15
activity_timeout = 10
max_connections = 100
max_message_size = 20000
previous_secrets = ["the-one-before-this-one"]
enabled = false
allowed_origins = ["shop.example.com", "*.example.org"]
max_channels_per_connection = 0
publishes_per_second = 100
reads_per_second = 0
max_presence_members = 500
max_presence_member_size = 1024
cache_seconds = 60
subscription_counts = true
authorization_seconds = 30
webhook_batch_seconds = 0.05
max_event_data_size = 30000
accept_client_events_from = "all"
client_events_per_second = 50

[apps.rate_limiting]
enabled = true
max_attempts = 7
decay_seconds = 1.5
terminate_on_limit = true

[[apps.webhooks]]
url = "https://example.com/hook"
events = ["channel_occupied", "channel_vacated"]
channel_prefixes = ["room-"]
channel_suffixes = ["-eu"]
headers = {{ Authorization = "Bearer x" }}

[[apps.webhooks]]
url = "http://127.0.0.1:9000/all"

[[apps]]
id = "1002"
key = "second"
secret = "{SECRET}-2"
"""
FIRST = App(
    id="1001",
    key="first",
    secret=SECRET,
    ping_interval=25.0,
    pong_timeout=15.0,
    activity_timeout=10,
    max_connections=100,
    max_message_bytes=20_000,
    max_event_data_bytes=30_000,
    client_events_from=ClientEventsFrom.ALL,
    client_events_per_second=50,
    rate_limit=RateLimit(max_attempts=7, decay_seconds=1.5, terminate=True),
    previous_secrets=("the-one-before-this-one",),
    enabled=False,
    allowed_origins=("shop.example.com", "*.example.org"),
    max_channels_per_connection=0,
    publishes_per_second=100,
    reads_per_second=0,
    max_presence_members=500,
    max_presence_member_bytes=1_024,
    last_event_seconds=60.0,
    subscription_counts=True,
    authorization_seconds=30.0,
    webhooks=(
        Webhook(
            url="https://example.com/hook",
            kinds=frozenset({"channel_occupied", "channel_vacated"}),
            prefixes=("room-",),
            suffixes=("-eu",),
            headers=(("Authorization", "Bearer x"),),
        ),
        Webhook(url="http://127.0.0.1:9000/all", kinds=KINDS),
    ),
    webhook_batch_seconds=0.05,
)
SECOND = App(id="1002", key="second", secret=f"{SECRET}-2")


def test_several_apps_come_from_a_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "apps.toml"
    file.write_text(TOML)

    assert list(Settings.from_environment({"REVERB_APPS_FILE": str(file)}).apps) == [FIRST, SECOND]


def test_several_apps_come_from_a_json_file(tmp_path: Path) -> None:
    file = tmp_path / "apps.json"
    second = {"id": "1002", "key": "second", "secret": f"{SECRET}-2"}
    file.write_text(json.dumps({"apps": [second]}))

    assert list(Settings.from_environment({"REVERB_APPS_FILE": str(file)}).apps) == [SECOND]


def test_the_environments_app_joins_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "apps.toml"
    file.write_text(TOML)

    apps = Settings.from_environment(
        {**APP, "REVERB_APP_ID": "1003", "REVERB_APPS_FILE": str(file)}
    ).apps

    assert [app.id for app in apps] == ["1001", "1002", "1003"]


def test_half_an_app_beside_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "apps.toml"
    file.write_text(TOML)

    assert refusal({"REVERB_APPS_FILE": str(file), "REVERB_APP_ID": "1003"}).startswith(
        "REVERB_APP_KEY and REVERB_APP_SECRET must be set: "
    )


@pytest.mark.parametrize(
    ("app", "problem"),
    [
        ({"id": "1"}, "Object missing required field `key` - at `$.apps[0]`"),
        ({"id": 1}, "Expected `str`, got `int` - at `$.apps[0].id`"),
        (
            {"id": "1", "key": "k", "secret": SECRET, "allowed_origin": "*"},
            "Object contains unknown field `allowed_origin` - at `$.apps[0]`",
        ),
        (
            {"id": "1", "key": "k", "secret": SECRET, "rate_limiting": {"enable": True}},
            "Object contains unknown field `enable` - at `$.apps[0].rate_limiting`",
        ),
        (
            {"id": "", "key": "k", "secret": SECRET},
            f"apps[0].id must {_NAME_RULE}",
        ),
        (
            {"id": "1", "key": "k", "secret": SECRET, "ping_interval": 0},
            "apps[0].ping_interval must be 1 to 86400, not 0",
        ),
        (
            {"id": "1", "key": "k", "secret": SECRET, "pong_timeout": 0.5},
            "apps[0].pong_timeout must be 1 to 86400, not 0.5",
        ),
        (
            {"id": "1", "key": "k", "secret": SECRET, "activity_timeout": 0},
            "apps[0].activity_timeout must be 1 to 86400, not 0",
        ),
        (
            {"id": "1", "key": "k", "secret": SECRET, "max_connections": -1},
            "apps[0].max_connections must be 0 to 1073741824, not -1",
        ),
        (
            {"id": "1", "key": "k", "secret": SECRET, "max_message_size": 1},
            "apps[0].max_message_size must be 256 to 1073741824, or 0 for no limit, not 1",
        ),
        (
            {"id": "1", "key": "k", "secret": SECRET, "max_event_data_size": -1},
            "apps[0].max_event_data_size must be 0 to 1073741824, not -1",
        ),
        (
            {"id": "1", "key": "k", "secret": SECRET, "client_events_per_second": -1},
            "apps[0].client_events_per_second must be 0 to 1073741824, not -1",
        ),
        (
            {"id": "1", "key": "k", "secret": SECRET, "accept_client_events_from": "me"},
            "apps[0].accept_client_events_from must be members, all, none, not 'me'",
        ),
        (
            {"id": "1", "key": "k", "secret": SECRET, "rate_limiting": {"max_attempts": 0}},
            "apps[0].rate_limiting.max_attempts must be 1 to 1073741824, not 0",
        ),
        (
            {"id": "1", "key": "k", "secret": SECRET, "rate_limiting": {"decay_seconds": 0}},
            "apps[0].rate_limiting.decay_seconds must be 0.001 to 86400, not 0",
        ),
    ],
)
def test_a_wrong_app_in_the_file_is_refused_with_its_place(
    tmp_path: Path, app: dict[str, Any], problem: str
) -> None:
    file = tmp_path / "apps.json"
    file.write_text(json.dumps({"apps": [app]}))

    assert refusal({"REVERB_APPS_FILE": str(file)}) == f"REVERB_APPS_FILE {file}: {problem}"


@pytest.mark.parametrize(
    ("second", "problem"),
    [
        ({"id": "1", "key": "other"}, "two apps have the id '1'"),
        ({"id": "2", "key": "k"}, "two apps have the key 'k'"),
    ],
)
def test_two_apps_alike_are_refused(tmp_path: Path, second: dict[str, str], problem: str) -> None:
    file = tmp_path / "apps.json"
    first = {"id": "1", "key": "k", "secret": SECRET}
    file.write_text(json.dumps({"apps": [first, {**second, "secret": SECRET}]}))

    assert refusal({"REVERB_APPS_FILE": str(file)}) == (
        f"REVERB_APPS_FILE, REVERB_APP_*: {problem}"
    )


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("apps.json", b"", "Input data was truncated"),
        (
            "apps.json",
            b"[]",
            'Expected `object`, got `array` (a file of apps is {"apps": […]})',
        ),
        (
            "apps.json",
            b"{}",
            'Object missing required field `apps` (a file of apps is {"apps": […]})',
        ),
        (
            "apps.json",
            b'{"apps":[],"x":1}',
            'Object contains unknown field `x` (a file of apps is {"apps": […]})',
        ),
        (
            "apps.toml",
            b"[[app]]",
            "Object contains unknown field `app` (a file of apps is [[apps]], once for each)",
        ),
    ],
)
def test_a_file_of_another_shape_is_refused(
    tmp_path: Path, name: str, content: bytes, problem: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)

    assert refusal({"REVERB_APPS_FILE": str(file)}) == f"REVERB_APPS_FILE {file}: {problem}"


@pytest.mark.parametrize("content", [b"apps = [", b'a = "\xff"', b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "apps.toml"
    file.write_bytes(content)

    assert refusal({"REVERB_APPS_FILE": str(file)}).startswith(f"REVERB_APPS_FILE {file}: ")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "apps.toml"

    assert refusal({"REVERB_APPS_FILE": str(missing)}) == (
        f"REVERB_APPS_FILE {missing}: No such file or directory"
    )
    assert refusal({"REVERB_APPS_FILE": str(tmp_path)}) == (
        f"REVERB_APPS_FILE {tmp_path}: Is a directory"
    )


def test_an_empty_file_of_apps_needs_an_app_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "apps.json"
    file.write_text('{"apps":[]}')

    assert "must be set" in refusal({"REVERB_APPS_FILE": str(file)})


# The environment and `.env`.


def test_a_laravel_projects_env_starts_the_server_as_it_is(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(LARAVEL_ENV)

    settings = Settings.from_environment(load_environment({}, tmp_path))

    assert (settings.host, settings.port, settings.path_prefix) == ("0.0.0.0", 8080, "")
    assert list(settings.apps) == [
        App(id="256980", key="f4l2tmwqf6eg0f6jz0mw", secret="zioqeto9xrytlnlg7sj6")
    ]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("X=plain", "plain"),
        ("X = spaced", "spaced"),
        ("export X=exported", "exported"),
        ('X="two words"', "two words"),
        ("X='two words'", "two words"),
        ('X="a#b" # and a comment', "a#b"),
        ("X=a#b", "a#b"),
        ("X=a # and a comment", "a"),
        ("X=base64:abc==", "base64:abc=="),
        ('X="${FIRST}/${SECOND}"', "one/two"),
        ("X=${FIRST}", "one"),
        ('X="${UNKNOWN}"', None),
        ("X=", None),
        ('X=""', None),
        ("X=null", None),
        ("X=NULL", None),
        ("X=(null)", None),
        ('X="null"', None),
        ("X=empty", None),
        ("X=(empty)", None),
        ("X", None),
        ("# X=1", None),
    ],
)
def test_a_line_of_env_is_read_as_laravel_reads_it(
    tmp_path: Path, line: str, value: str | None
) -> None:
    (tmp_path / ".env").write_text(f"FIRST=one\nSECOND=two\n{line}\n")

    assert load_environment({}, tmp_path).get("X") == value


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


def test_windows_line_ends_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b'\xef\xbb\xbfA=1\r\nB="2"\r\n')

    assert load_environment({}, tmp_path) == {"A": "1", "B": "2"}


def test_the_environment_stands_above_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=file\nB=file\nC=file\n")

    environment = load_environment({"A": "environment", "B": "", "D": "null"}, tmp_path)

    # An empty variable is a way to unset what the file sets, as it is in Laravel.
    assert environment == {"A": "environment", "C": "file"}


def test_without_a_file_there_is_the_environment(tmp_path: Path) -> None:
    assert load_environment({"A": "1", "B": ""}, tmp_path) == {"A": "1"}


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes("APP_NAME=Gästebuch".encode("latin-1"))

    with pytest.raises(WrongSetting) as wrong:
        load_environment({}, tmp_path)

    assert str(wrong.value) == f"{file} must be UTF-8: invalid continuation byte at byte 10"


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, None),
        ({"REVERB_METRICS_ENABLED": "false", "REVERB_METRICS_PORT": "9700"}, None),
        ({"REVERB_METRICS_ENABLED": "true"}, "127.0.0.1:9601"),
        ({"REVERB_METRICS_PORT": "9700"}, "127.0.0.1:9700"),
        ({"REVERB_METRICS_PORT": "0", "REVERB_METRICS_HOST": "::"}, "[::]:0"),
    ],
)
def test_metrics_are_shown_where_that_is_asked_for(
    variables: dict[str, str], place: str | None
) -> None:
    metrics = read(**variables).metrics

    assert (None if metrics is None else str(metrics)) == place


def test_metrics_logs_and_errors_have_settings_that_are_checked() -> None:
    assert read(REVERB_LOG_FORMAT="json").logs_as_json
    assert not read(REVERB_LOG_FORMAT="text").logs_as_json
    assert read(REVERB_ERROR_DATA="string").errors_as_strings
    assert not read(REVERB_ERROR_DATA="object").errors_as_strings
    metrics = read(REVERB_METRICS_ENABLED="1", REVERB_METRICS_PREFIX="soketi_").metrics
    assert metrics is not None
    assert metrics.prefix == "soketi_"
    for name, value, rule in (
        ("REVERB_LOG_FORMAT", "xml", "must be text or json, not 'xml'"),
        ("REVERB_ERROR_DATA", "json", "must be object or string, not 'json'"),
        ("REVERB_METRICS_PORT", "70000", "must be 0 to 65535, not 70000"),
        ("REVERB_METRICS_HOST", "a b", "must be an address or a host name, not 'a b'"),
        (
            "REVERB_METRICS_PREFIX",
            "1-x",
            "must be letters, digits and _, no digit first, not '1-x'",
        ),
    ):
        environment = {**APP, "REVERB_METRICS_ENABLED": "true", name: value}
        assert refusal(environment) == f"{name} {rule}"
