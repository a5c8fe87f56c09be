"""What apps allow, and what they keep to themselves."""

from dataclasses import FrozenInstanceError, replace

import pytest

from reverb_py.core.apps import App, Apps, Webhook, is_host_pattern
from tests.support.sessions import APP


def test_apps_keep_their_order() -> None:
    other = App(id="1002", key="other-key", secret="other-secret")

    assert list(Apps([APP, other])) == [APP, other]


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (("*",), "https://anywhere.example", True),
        (("shop.example.com",), "https://shop.example.com", True),
        (("shop.example.com",), "https://shop.example.com:8443", True),
        (("Shop.Example.com",), "https://SHOP.example.COM", True),
        (("shop.example.com",), "https://evil-shop.example.com", False),
        (("shop.example.com",), "https://shop.example.com.evil.org", False),
        (("*.example.com",), "https://a.b.example.com", True),
        (("*.example.com",), "https://example.com", False),
        (("a.example", "b.example"), "http://b.example", True),
        (("shop.example.com",), "null", False),
        (("shop.example.com",), "", False),
        (("shop.example.com",), "https://[", False),
        (("shop.example.com",), "https://shop.example.com]", False),
        (("*",), "https://[", True),
        ((), "https://shop.example.com", False),
    ],
)
def test_the_host_of_an_origin_is_held_against_the_allowed_ones(
    origins: tuple[str, ...], origin: str, allowed: bool
) -> None:
    assert replace(APP, allowed_origins=origins).allows_origin(origin) is allowed


@pytest.mark.parametrize(
    ("pattern", "origin"),
    [
        ("*", "https://anywhere.example"),
        ("Shop.example.com", "https://shop.example.com"),
        ("*.my_shop-1.example", "https://a.my_shop-1.example"),
        ("localhost", "http://localhost:3000"),
        ("192.168.*", "http://192.168.0.7"),
        ("::1", "http://[::1]:3000"),
        ("2001:DB8::7", "http://[2001:db8::7]"),
        ("xn--bcher-kva.example", "https://xn--bcher-kva.example"),
    ],
)
def test_a_pattern_of_hosts_is_one_that_an_origin_can_match(pattern: str, origin: str) -> None:
    assert is_host_pattern(pattern)
    assert replace(APP, allowed_origins=(pattern,)).allows_origin(origin)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        " ",
        "https://app.example.com",
        "*://app.example.com",
        "//app.example.com",
        "app.example.com/",
        "localhost:3000",
        "localhost:*",
        "[::1]",
        "0:0:0:0:0:0:0:1",
        "::1:x",
        "bücher.example",
    ],
)
def test_what_no_origin_can_match_is_no_pattern_of_hosts(pattern: str) -> None:
    assert not is_host_pattern(pattern)


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


@pytest.mark.parametrize(
    ("prefixes", "suffixes", "channel", "is_wanted"),
    [
        ((), (), "orders", True),
        (("private-", "presence-"), (), "presence-room", True),
        (("private-", "presence-"), (), "my-private-room", False),
        ((), ("-eu", "-us"), "orders-us", True),
        ((), ("-eu", "-us"), "orders-us-old", False),
        (("private-",), ("-eu",), "private-orders-eu", True),
        (("private-",), ("-eu",), "private-orders", False),
        (("private-",), ("-eu",), "orders-eu", False),
    ],
)
def test_a_webhook_hears_of_channels_with_one_of_its_prefixes_and_one_of_its_suffixes(
    prefixes: tuple[str, ...], suffixes: tuple[str, ...], channel: str, is_wanted: bool
) -> None:
    webhook = Webhook(
        url="https://example.com/hook",
        kinds=frozenset({"cache_miss"}),
        prefixes=prefixes,
        suffixes=suffixes,
    )

    assert webhook.covers(channel) is is_wanted
