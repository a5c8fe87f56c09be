"""Signatures, held against the published vectors and against every kind of change."""

import hashlib
import string
from collections.abc import Iterable, Iterator
from urllib.parse import quote, urlencode

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reverb_py.protocol import signing
from reverb_py.protocol.signing import (
    channel_auth,
    is_channel_auth_valid,
    is_signature_valid,
    parse_query,
    request_strings_to_sign,
    sign,
    signed_query,
    user_auth,
)

KEY = "278d425bdf160c739803"
SECRET = "7ad3773142a6692b25b8"
EVENT_BODY = b'{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}'


def is_request_valid(method: str, path: str, query: str, body: bytes, *paths: str) -> bool:
    """Check a raw request as the HTTP API does: the digest that was sent, then the signature."""
    parameters = parse_query(query)
    digest = hashlib.md5(body, usedforsecurity=False).hexdigest()
    if parameters.get("body_md5", digest) != digest:
        return False
    body_md5 = digest if body else None
    return any(
        is_signature_valid(
            variant.get("auth_signature", ""),
            (SECRET,),
            request_strings_to_sign(method, paths or (path,), variant, body_md5),
        )
        for variant in (parameters, parse_query(query, plus_is_space=True))
    )


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        (
            "1234.1234:private-foobar",
            "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4",
        ),
        (
            "1234.1234:private-encrypted-room",
            "98e84cf417fd22d611fa93b4ec322087ab4298977c873bc416735f8743194648",
        ),
        (
            '1234.1234:presence-foobar:{"user_id":10,"user_info":{"name":"Mr. Channels"}}',
            "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80",
        ),
        (
            '1234.1234:presence-foobar:{"user_id":10,"user_info":{"name":"Mr. Pusher"}}',
            "afaed3695da2ffd16931f457e338e6c9f2921fa133ce7dac49f529792be6304c",
        ),
        (
            '1234.1234::user::{"id":"12345"}',
            "4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba",
        ),
        (
            '{"time_ms":1700000000000,"events":[{"name":"channel_occupied","channel":"room-1"}]}',
            "6db77ee0d95164170f6d2884d4b5b344010ca2cb7e6e83636195a65fa4d1dc0f",
        ),
    ],
)
def test_a_signature_is_the_published_one(text: str, digest: str) -> None:
    assert sign(SECRET, text) == digest
    assert sign(SECRET, text.encode()) == digest


def test_a_private_channel_is_signed_with_its_socket() -> None:
    assert channel_auth(KEY, SECRET, "1234.1234", "private-foobar") == (
        "278d425bdf160c739803:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"
    )


def test_a_presence_channel_is_signed_with_its_member_as_it_is_written() -> None:
    member = '{"user_id":10,"user_info":{"name":"Mr. Channels"}}'

    assert channel_auth(KEY, SECRET, "1234.1234", "presence-foobar", member) == (
        "278d425bdf160c739803:31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"
    )


def test_empty_channel_data_is_data_all_the_same() -> None:
    assert channel_auth(KEY, SECRET, "1.2", "presence-x", "") == f"{KEY}:" + sign(
        SECRET, "1.2:presence-x:"
    )


def test_a_sign_in_is_signed_in_a_shape_of_its_own() -> None:
    assert user_auth(KEY, SECRET, "1234.1234", '{"id":"12345"}') == (
        "278d425bdf160c739803:4708d583dada6a56435fb8bc611c77c359a31eebde13337c16ab43aa6de336ba"
    )


_AUTH = channel_auth(KEY, SECRET, "1234.1234", "presence-x", '{"user_id":"7"}')


def test_the_auth_that_was_signed_is_valid() -> None:
    assert is_channel_auth_valid(
        _AUTH, KEY, (SECRET,), "1234.1234", "presence-x", '{"user_id":"7"}'
    )


@pytest.mark.parametrize(
    ("key", "secret", "socket_id", "channel", "channel_data"),
    [
        ("another", SECRET, "1234.1234", "presence-x", '{"user_id":"7"}'),
        (KEY, "another", "1234.1234", "presence-x", '{"user_id":"7"}'),
        (KEY, SECRET, "1234.1235", "presence-x", '{"user_id":"7"}'),
        (KEY, SECRET, "1234.1234", "presence-y", '{"user_id":"7"}'),
        (KEY, SECRET, "1234.1234", "presence-x", '{"user_id":"8"}'),
        (KEY, SECRET, "1234.1234", "presence-x", '{"user_id": "7"}'),
        (KEY, SECRET, "1234.1234", "presence-x", None),
    ],
)
def test_an_auth_is_valid_for_nothing_else(
    key: str, secret: str, socket_id: str, channel: str, channel_data: str | None
) -> None:
    assert not is_channel_auth_valid(_AUTH, key, (secret,), socket_id, channel, channel_data)


@pytest.mark.parametrize(
    "auth",
    [
        "",
        ":",
        KEY,
        f"{KEY}:",
        _AUTH.upper(),
        _AUTH + " ",
        _AUTH + "0",
        _AUTH[:-1],
        _AUTH.partition(":")[2],
        f"another{_AUTH}",
        "ключ:подпись",
        "\ud800",
    ],
)
def test_an_auth_that_differs_in_any_way_is_not_valid(auth: str) -> None:
    assert not is_channel_auth_valid(
        auth, KEY, (SECRET,), "1234.1234", "presence-x", '{"user_id":"7"}'
    )


def test_a_published_event_is_signed_as_in_the_published_vector() -> None:
    query = signed_query(KEY, SECRET, "POST", "/apps/3/events", EVENT_BODY, 1353088179)

    assert query == {
        "auth_key": KEY,
        "auth_timestamp": "1353088179",
        "auth_version": "1.0",
        "body_md5": "ec365a775a4cd0599faeb73354201b6f",
        "auth_signature": "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c",
    }
    assert list(query)[-1] == "auth_signature"


def test_a_question_is_signed_as_in_the_published_vector() -> None:
    query = signed_query(
        KEY,
        SECRET,
        "GET",
        "/apps/3/channels",
        b"",
        1353088179,
        {"filter_by_prefix": "presence-", "info": "user_count"},
    )

    assert query == {
        "filter_by_prefix": "presence-",
        "info": "user_count",
        "auth_key": KEY,
        "auth_timestamp": "1353088179",
        "auth_version": "1.0",
        "auth_signature": "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291",
    }


@pytest.mark.parametrize(
    ("body_md5", "signature"),
    [
        ("", "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291"),
        # pusher-http-python sends and signs the digest of nothing.
        (
            "&body_md5=d41d8cd98f00b204e9800998ecf8427e",
            "f3f17c61ae491cc9085db68b22076e9b772e3bcb301659d655153ee3f9782aba",
        ),
        # Others send it and leave it out of what they sign, as Reverb does when it checks.
        (
            "&body_md5=d41d8cd98f00b204e9800998ecf8427e",
            "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291",
        ),
    ],
)
def test_a_question_may_be_signed_with_or_without_the_digest_of_its_empty_body(
    body_md5: str, signature: str
) -> None:
    query = (
        f"auth_key={KEY}&auth_timestamp=1353088179&auth_version=1.0{body_md5}"
        f"&filter_by_prefix=presence-&info=user_count&auth_signature={signature}"
    )

    assert is_request_valid("GET", "/apps/3/channels", query, b"")
    assert not is_request_valid("POST", "/apps/3/channels", query, b"")


def test_a_body_counts_even_if_its_digest_was_not_sent() -> None:
    # Reverb computes the digest itself; a client that signs it without sending it passes there.
    query = signed_query(KEY, SECRET, "POST", "/apps/3/events", EVENT_BODY, 1353088179)
    del query["body_md5"]

    assert is_request_valid("POST", "/apps/3/events", urlencode(query), EVENT_BODY)
    assert not is_request_valid("POST", "/apps/3/events", urlencode(query), EVENT_BODY + b" ")


def test_a_body_that_the_signature_leaves_out_is_not_valid() -> None:
    query = signed_query(KEY, SECRET, "POST", "/apps/3/events", b"", 1353088179)

    assert is_request_valid("POST", "/apps/3/events", urlencode(query), b"")
    assert not is_request_valid("POST", "/apps/3/events", urlencode(query), EVENT_BODY)


def test_a_request_behind_a_prefix_may_be_signed_with_it_or_without() -> None:
    for signed_path in ("/apps/3/events", "/realtime/apps/3/events"):
        query = urlencode(signed_query(KEY, SECRET, "POST", signed_path, EVENT_BODY, 1353088179))
        both = ("/apps/3/events", "/realtime/apps/3/events")
        assert is_request_valid("POST", "", query, EVENT_BODY, *both)
        assert not is_request_valid("POST", "", query, EVENT_BODY, "/other/apps/3/events")


def test_the_usual_string_comes_first() -> None:
    strings = request_strings_to_sign(
        "GET",
        ["/apps/3/channels", "/x/apps/3/channels"],
        {"b": "1+2", "a": "A", "body_md5": "d4", "auth_signature": "0"},
        None,
    )

    assert list(strings) == [
        "GET\n/apps/3/channels\na=A&b=1+2&body_md5=d4",
        "GET\n/apps/3/channels\na=A&b=1+2",
        "GET\n/x/apps/3/channels\na=A&b=1+2&body_md5=d4",
        "GET\n/x/apps/3/channels\na=A&b=1+2",
    ]


@pytest.mark.parametrize("signature", ["", "x", "0" * 63, "0" * 65])
def test_what_is_too_short_or_too_long_for_a_signature_costs_none(signature: str) -> None:
    asked: list[str] = []

    def strings() -> Iterator[str]:
        asked.append("")
        yield "text"

    assert not is_signature_valid(signature, (SECRET,), strings())
    assert asked == []


def test_the_parameters_are_sorted_once_for_all_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    sorts: list[int] = []

    def count_and_sort(items: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        sorts.append(1)
        return sorted(items)

    monkeypatch.setattr(signing, "sorted", count_and_sort, raising=False)
    paths = [f"/{number}" for number in range(10)]

    assert len(list(request_strings_to_sign("GET", paths, {"a": "1", "body_md5": ""}, None))) == 20
    assert len(sorts) == 2


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", {}),
        ("a=1&b=2", {"a": "1", "b": "2"}),
        ("a", {"a": ""}),
        ("a=", {"a": ""}),
        ("=1", {}),
        ("&&a=1&", {"a": "1"}),
        ("a=1=2", {"a": "1=2"}),
        ("Auth_Key=K", {"auth_key": "K"}),
        ("a=1&a=2", {"a": "2"}),
        ("a=%7B%22x%22%3A1%7D", {"a": '{"x":1}'}),
        ("a=%c3%bc", {"a": "ü"}),
        ("a=%ff", {"a": "\ufffd"}),
        ("a=%", {"a": "%"}),
        ("a=1+2", {"a": "1+2"}),
        ("a=1%2B2", {"a": "1+2"}),
        ("a=1%262", {"a": "1&2"}),
        ("channels[]=a&channels[]=b&channels[]=c", {"channels": "a,b,c"}),
        ("channels%5B%5D=a&channels%5B%5D=b", {"channels": "a,b"}),
        ("channels[]=a", {"channels": "a"}),
        ("[]=a", {}),
    ],
)
def test_a_query_is_decoded_the_way_it_is_signed(query: str, parameters: dict[str, str]) -> None:
    assert parse_query(query) == parameters


@given(st.text(string.ascii_letters + "=&_-.,;/", max_size=40))
def test_a_query_reads_the_same_beside_something_encoded(query: str) -> None:
    assert parse_query(f"{query}&zz=%41") == parse_query(query) | {"zz": "A"}


def test_a_plus_is_a_space_only_where_that_is_asked_for() -> None:
    assert parse_query("a+b=1+2%2B3", plus_is_space=True) == {"a b": "1 2+3"}
    assert parse_query("a+b=1+2%2B3") == {"a+b": "1+2+3"}


_NAMES = st.text(string.ascii_lowercase + "_", min_size=1, max_size=10).filter(
    lambda name: not name.startswith(("auth_", "body_"))
)
_PARAMETERS = st.dictionaries(_NAMES, st.text(max_size=20), max_size=4)
_PATHS = st.text(string.ascii_letters + string.digits + "/-_.,;=@%", max_size=30).map(
    lambda path: "/" + path
)
_METHODS = st.sampled_from(["GET", "POST"])
_TIMESTAMPS = st.integers(0, 4_000_000_000)


@given(_METHODS, _PATHS, _PARAMETERS, st.binary(max_size=50), _TIMESTAMPS, st.booleans())
def test_what_signed_query_returns_verifies_under_either_encoding(
    method: str,
    path: str,
    parameters: dict[str, str],
    body: bytes,
    timestamp: int,
    plus_for_space: bool,
) -> None:
    query = signed_query(KEY, SECRET, method, path, body, timestamp, parameters)

    encoded = urlencode(query) if plus_for_space else urlencode(query, quote_via=quote)

    assert is_request_valid(method, path, encoded, body)


@given(_METHODS, _PATHS, _PARAMETERS, st.binary(max_size=50), st.data())
def test_no_changed_character_of_the_method_or_the_path_verifies(
    method: str, path: str, parameters: dict[str, str], body: bytes, data: st.DataObject
) -> None:
    query = urlencode(signed_query(KEY, SECRET, method, path, body, 1353088179, parameters))

    other_method = data.draw(_with_one_character_changed(method))
    other_path = data.draw(_with_one_character_changed(path))

    assert not is_request_valid(other_method, path, query, body)
    assert not is_request_valid(method, other_path, query, body)


@given(_METHODS, _PARAMETERS, st.binary(max_size=50), st.data())
def test_no_changed_character_of_the_query_verifies(
    method: str, parameters: dict[str, str], body: bytes, data: st.DataObject
) -> None:
    signed = signed_query(KEY, SECRET, method, "/apps/3/x", body, 1353088179, parameters)
    query = urlencode(signed)
    other = data.draw(_with_one_character_changed(query))
    # The same parameters may be spelt in several ways, such as %2b and %2B.
    assume(not any(reading in _readings(query) for reading in _readings(other)))

    assert not is_request_valid(method, "/apps/3/x", other, body)


@given(st.binary(min_size=1, max_size=50), st.data())
def test_no_changed_byte_of_the_body_verifies(body: bytes, data: st.DataObject) -> None:
    query = urlencode(signed_query(KEY, SECRET, "POST", "/apps/3/events", body, 1353088179))
    position = data.draw(st.integers(0, len(body) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != body[position]))
    other = body[:position] + bytes([byte]) + body[position + 1 :]

    assert not is_request_valid("POST", "/apps/3/events", query, other)
    assert not is_request_valid("POST", "/apps/3/events", query, b"")
    assert not is_request_valid("POST", "/apps/3/events", query, body + bytes([byte]))


@given(st.text(), st.text())
def test_a_signature_depends_on_the_secret(secret: str, other: str) -> None:
    assume(secret.encode().rstrip(b"\0") != other.encode().rstrip(b"\0"))

    signature = sign(secret, "1234.1234:private-x")

    assert is_signature_valid(signature, (secret,), ["other", "1234.1234:private-x"])
    assert not is_signature_valid(signature, (other,), ["1234.1234:private-x"])
    assert not is_signature_valid(signature, (secret,), [])


def _readings(query: str) -> list[dict[str, str]]:
    return [parse_query(query), parse_query(query, plus_is_space=True)]


@st.composite
def _with_one_character_changed(draw: st.DrawFn, text: str) -> str:
    position = draw(st.integers(0, len(text) - 1))
    changed = draw(st.characters(codec="ascii").filter(lambda c: c != text[position]))
    return text[:position] + changed + text[position + 1 :]
