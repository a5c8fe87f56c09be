"""What a channel's name promises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverb_py.protocol.channel_names import (
    MAX_NAME_LENGTH,
    Access,
    ChannelKind,
    is_channel_name,
    kind_of,
    user_channel,
)

_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-=@,.;"


@pytest.mark.parametrize(
    ("name", "access", "cached"),
    [
        ("orders", Access.PUBLIC, False),
        ("cache-prices", Access.PUBLIC, True),
        ("private-orders", Access.PRIVATE, False),
        ("private-cache-orders", Access.PRIVATE, True),
        ("private-encrypted-orders", Access.ENCRYPTED, False),
        ("private-encrypted-cache-orders", Access.ENCRYPTED, True),
        ("presence-room", Access.PRESENCE, False),
        ("presence-cache-room", Access.PRESENCE, True),
        ("#server-to-user-7", Access.USER, False),
        ("#anything-else", Access.RESERVED, False),
        ("#private-orders", Access.RESERVED, False),
        # A prefix without a name behind it is a prefix all the same.
        ("private-", Access.PRIVATE, False),
        ("cache-", Access.PUBLIC, True),
        ("#", Access.RESERVED, False),
    ],
)
def test_a_prefix_decides_about_access_and_about_caching(
    name: str, access: Access, cached: bool
) -> None:
    assert kind_of(name) == ChannelKind(access, cached)


@pytest.mark.parametrize(
    "name",
    [
        "private",
        "privateer",
        "presence",
        "presences-room",
        "cache",
        "cached-prices",
        "my-cache-prices",
        "my-private-orders",
        "Private-orders",
        "PRESENCE-room",
        "private_orders",
        "encrypted-orders",
        "server-to-user-7",
        "",
    ],
)
def test_a_near_miss_is_a_plain_public_channel(name: str) -> None:
    assert kind_of(name) == ChannelKind(Access.PUBLIC, False)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("private-my-cache-x", ChannelKind(Access.PRIVATE, False)),
        ("private-encrypted", ChannelKind(Access.PRIVATE, False)),
        ("private-encryptedcache-x", ChannelKind(Access.PRIVATE, False)),
        ("private-encrypted-cached", ChannelKind(Access.ENCRYPTED, False)),
        ("presence-cached", ChannelKind(Access.PRESENCE, False)),
        ("presence-encrypted-x", ChannelKind(Access.PRESENCE, False)),
        ("cache-private-x", ChannelKind(Access.PUBLIC, True)),
        ("#server-to-users", ChannelKind(Access.RESERVED, False)),
    ],
)
def test_a_prefix_counts_only_at_the_start_and_with_its_dash(name: str, kind: ChannelKind) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "0",
        "-",
        _ALPHABET,
        "#server-to-user-7",
        "#a",
        "private-App.Models.User.7",
        "orders,eu;west@home=1",
        "x" * MAX_NAME_LENGTH,
        "#" + "x" * (MAX_NAME_LENGTH - 1),
    ],
)
def test_the_grammar_of_the_official_libraries_is_kept(name: str) -> None:
    assert is_channel_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "#",
        "##a",
        "a#b",
        "a#",
        "x" * (MAX_NAME_LENGTH + 1),
        "#" + "x" * MAX_NAME_LENGTH,
        "orders\n",
        "\norders",
        "or ders",
        "orders ",
        "or:ders",
        "or/ders",
        "or\\ders",
        'or"ders',
        "or\x00ders",
        "órders",
        "orders٣",
        "orders²",
        "orders\u200b",
        "\uff4frders",
    ],
)
def test_whatever_is_not_in_the_grammar_is_no_channel_name(name: str) -> None:
    assert not is_channel_name(name)


def test_the_longest_name_has_200_characters() -> None:
    assert is_channel_name("private-" + "x" * 192)
    assert not is_channel_name("private-" + "x" * 193)


@given(st.text(_ALPHABET, min_size=1, max_size=MAX_NAME_LENGTH))
def test_every_string_over_the_alphabet_is_a_name_that_json_need_not_escape(name: str) -> None:
    assert is_channel_name(name)
    assert name.isascii()
    assert not set(name) & set('"\\')


@given(st.text(_ALPHABET, max_size=50), st.characters(), st.text(_ALPHABET, max_size=50))
def test_one_foreign_character_spoils_a_name(before: str, foreign: str, after: str) -> None:
    if foreign in _ALPHABET or (foreign == "#" and not before):
        return
    assert not is_channel_name(before + foreign + after)


def test_a_users_own_channel_is_named_after_the_user() -> None:
    assert user_channel("7") == "#server-to-user-7"
    assert kind_of(user_channel("presence-7")) == ChannelKind(Access.USER, False)
    assert is_channel_name(user_channel("a" * 128))
