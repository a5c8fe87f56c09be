"""Where Redis is, from Laravel's variables."""

from __future__ import annotations

import pytest

from reverb_py.cluster.connections import RedisAddress
from reverb_py.cluster.node import Scaling
from reverb_py.environment import Reader, WrongSetting
from reverb_py.scaling_settings import read_scaling


def read(**environment: str) -> Scaling:
    scaling = read_scaling(Reader({"REVERB_SCALING_ENABLED": "true", **environment}))
    assert scaling is not None
    return scaling


def test_what_is_not_set_is_a_redis_on_this_machine() -> None:
    assert read() == Scaling(redis=RedisAddress(), prefix="reverb:", lease_seconds=10.0)
    assert str(read().redis) == "127.0.0.1:6379"


def test_laravels_variables_say_where_redis_is() -> None:
    scaling = read(
        REDIS_HOST="redis.internal",
        REDIS_PORT="6380",
        REDIS_USERNAME="reverb",
        REDIS_PASSWORD="a-secret",
        REDIS_DB="3",
        REDIS_TIMEOUT="5",
        REVERB_SCALING_CHANNEL="shop",
        REVERB_NODE_LEASE_SECONDS="20",
    )
    assert scaling == Scaling(
        redis=RedisAddress(
            host="redis.internal",
            port=6380,
            username="reverb",
            password="a-secret",
            database=3,
            timeout=5.0,
        ),
        prefix="shop:",
        lease_seconds=20.0,
    )
    assert "a-secret" not in repr(scaling)


def test_a_url_says_it_all_and_overrules() -> None:
    scaling = read(
        REDIS_URL="rediss://reverb:s%40cret@redis.internal:6390/2",
        REDIS_HOST="elsewhere",
        REDIS_PASSWORD="another",
    )
    assert scaling.redis == RedisAddress(
        host="redis.internal",
        port=6390,
        username="reverb",
        password="s@cret",
        database=2,
        has_tls=True,
    )


def test_a_host_may_ask_for_tls_as_in_laravel() -> None:
    address = read(REDIS_HOST="tls://redis.internal", REDIS_TLS_CA_FILE="/etc/ca.pem").redis
    assert (address.host, address.has_tls) == ("redis.internal", True)
    assert address.tls_ca_file == "/etc/ca.pem"


def test_sentinels_are_a_list_of_addresses() -> None:
    address = read(
        REDIS_SENTINELS="one:26380, two", REDIS_SENTINEL_MASTER="chat", REDIS_PASSWORD="a-secret"
    ).redis
    assert address.sentinels == (("one", 26380), ("two", 26379))
    assert str(address) == "chat of one:26380, two:26379"


@pytest.mark.parametrize(
    ("environment", "problem"),
    [
        ({"REDIS_URL": "http://redis"}, "REDIS_URL must be redis://"),
        ({"REDIS_URL": "redis://:s3cret@redis:port"}, "REDIS_URL must be redis://"),
        ({"REDIS_URL": "redis://redis/zero"}, "REDIS_URL must be redis://"),
        ({"REDIS_PORT": "0"}, "REDIS_PORT must be 1 to 65535, not 0"),
        ({"REDIS_DB": "-1"}, "REDIS_DB must be 0 to 1048576, not -1"),
        ({"REDIS_TIMEOUT": "0"}, "REDIS_TIMEOUT must be 0.1 to 3600, not 0"),
        ({"REVERB_NODE_LEASE_SECONDS": "0"}, "REVERB_NODE_LEASE_SECONDS must be 1 to 3600, not 0"),
        ({"REVERB_SCALING_CHANNEL": "a{b}"}, "REVERB_SCALING_CHANNEL must have no braces"),
        ({"REDIS_SENTINELS": "one:x"}, "REDIS_SENTINELS must be HOST:PORT,HOST:PORT"),
        ({"REDIS_CLUSTER": "true", "REDIS_DB": "1"}, "REDIS_DB must be 0 with REDIS_CLUSTER"),
        ({"REDIS_CLUSTER": "true", "REDIS_SENTINELS": "one"}, "REDIS_CLUSTER and REDIS_SENTINELS"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name(environment: dict[str, str], problem: str) -> None:
    with pytest.raises(WrongSetting, match=f"^{problem.replace('{', '.').replace('}', '.')}") as it:
        read(**environment)
    assert "s3cret" not in str(it.value)
