"""What a webhook request says, byte for byte, and which configurations are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reverb_py import __version__
from reverb_py.core.apps import Webhook
from reverb_py.webhooks import payload
from tests.reverb_py.webhooks.receiver import APP

WEBHOOK = Webhook(url="https://example.com/hook", kinds=payload.KINDS)


def test_the_signature_is_that_of_the_protocol_s_vector() -> None:
    content = payload.body([payload.event("channel_occupied", "room-1")], 1_700_000_000_000)

    assert content == (
        b'{"time_ms":1700000000000,"events":[{"name":"channel_occupied","channel":"room-1"}]}'
    )
    assert dict(payload.headers(APP, replace(WEBHOOK, headers=()), content)) == {
        "User-Agent": f"reverb-py/{__version__}",
        "Content-Type": "application/json",
        "X-Pusher-Key": "278d425bdf160c739803",
        "X-Pusher-Signature": "6db77ee0d95164170f6d2884d4b5b344010ca2cb7e6e83636195a65fa4d1dc0f",
    }


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            payload.event("channel_vacated", "room-1"),
            b'{"name":"channel_vacated","channel":"room-1"}',
        ),
        (
            payload.event("member_added", "presence-room", user_id="7"),
            b'{"name":"member_added","channel":"presence-room","user_id":"7"}',
        ),
        (
            payload.event("subscription_count", "orders", subscription_count=3),
            b'{"name":"subscription_count","channel":"orders","subscription_count":3}',
        ),
        (
            payload.client_event("presence-room", "client-typing", b'{"who": 1}', "1.2", "7"),
            b'{"name":"client_event","channel":"presence-room","event":"client-typing",'
            b'"data":"{\\"who\\": 1}","socket_id":"1.2","user_id":"7"}',
        ),
        (
            payload.client_event("private-room", "client-typing", b"", "1.2", None),
            b'{"name":"client_event","channel":"private-room","event":"client-typing",'
            b'"data":"","socket_id":"1.2"}',
        ),
    ],
)
def test_an_event_is_compact_json_with_the_fields_of_its_kind(
    event: bytes, expected: bytes
) -> None:
    assert event == expected


def test_events_of_one_request_keep_their_order() -> None:
    events = [payload.event("channel_occupied", name) for name in ("b", "a")]

    assert payload.body(events, 5) == (
        b'{"time_ms":5,"events":[{"name":"channel_occupied","channel":"b"},'
        b'{"name":"channel_occupied","channel":"a"}]}'
    )


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b'"hello"', "hello"),
        (b'"{\\"id\\":7}"', '{"id":7}'),
        (b'"\\u00e9"', "é"),
        (b'{"id": 7}', '{"id": 7}'),
        (b"[1,2]", "[1,2]"),
        (b"null", "null"),
        (b"5", "5"),
        (b"", ""),
        (b'"\\ud800"', '"\\ud800"'),
    ],
)
def test_the_data_of_a_client_event_is_told_as_a_string(sent: bytes, told: str) -> None:
    event = json.loads(payload.client_event("private-room", "client-x", sent, "1.2", None))

    assert event["data"] == told


@given(
    st.recursive(
        st.none() | st.integers(-(2**53), 2**53) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_any_data_of_a_client_event_can_be_read_back(data: Any) -> None:
    sent = orjson.dumps(data)

    told = json.loads(payload.client_event("private-room", "client-x", sent, "1.2", None))["data"]

    assert (told if isinstance(data, str) else json.loads(told)) == data


def test_a_webhook_s_own_headers_never_replace_the_signature() -> None:
    own = (("x-pusher-signature", "forged"), ("X-Tenant", "4"), ("user-agent", "mine"))

    sent = payload.headers(APP, replace(WEBHOOK, headers=own), b"{}")

    assert sent.getall("X-Pusher-Signature") == [
        "74ed89baf8c7d8bbbd86289e6c912d1581a5766f3ff6b51509c8a905687c1066"
    ]
    assert sent["X-Tenant"] == "4"
    assert sent.getall("User-Agent") == ["mine"]


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:3000/hooks",
        "https://example.com",
        "https://user:password@example.com/hook?token=t",
        "http://[::1]:80/",
    ],
)
def test_an_absolute_http_address_is_taken(url: str) -> None:
    assert payload.objection_to(replace(WEBHOOK, url=url)) is None


@pytest.mark.parametrize(
    ("url", "objection"),
    [
        ("", "must begin with http:// or https://, not nothing"),
        ("example.com/hook", "must begin with http:// or https://, not 'example.com'"),
        ("//example.com/hook", "must begin with http:// or https://, not '//example.com'"),
        ("example.com?token=t", "must begin with http:// or https://, not 'example.com'"),
        ("/hook/token", "must begin with http:// or https://, not '/hook'"),
        ("token@example.com", "must begin with http:// or https://, not nothing"),
        ("localhost:3000/hook", "must begin with http:// or https://, not localhost"),
        ("ftp://example.com/hook", "must begin with http:// or https://, not ftp"),
        ("file:///etc/passwd", "must begin with http:// or https://, not file"),
        ("https:///hook", "must name a host, as in https://example.com/hook"),
        ("https://exam ple.com/hook", "can't contain spaces or invisible characters"),
        ("https://example.com/\r\nX: y", "can't contain spaces or invisible characters"),
        (
            "https://%E4%BD%A0:password@example.com/",
            "may have only Latin-1 letters in its user and password",
        ),
    ],
)
def test_another_address_is_refused_with_what_to_change(url: str, objection: str) -> None:
    assert payload.objection_to(replace(WEBHOOK, url=url)) == f"a webhook's url {objection}"


def test_an_address_with_an_impossible_port_is_refused() -> None:
    objection = payload.objection_to(replace(WEBHOOK, url="https://example.com:99999/hook"))

    assert objection is not None
    assert objection.startswith("a webhook's url is malformed: ")


@pytest.mark.parametrize("user", ["user:password@", "user@", ":password@"])
def test_only_one_way_of_authorization_is_taken(user: str) -> None:
    webhook = replace(WEBHOOK, headers=(("authorization", "Bearer t"),))

    assert payload.objection_to(webhook) is None
    assert payload.objection_to(replace(webhook, url=f"https://{user}example.com/@")) == (
        "a webhook's url has a user and its headers have Authorization: use one of them"
    )


def test_an_unknown_event_is_refused_with_the_known_ones() -> None:
    webhook = replace(WEBHOOK, kinds=frozenset({"cache_miss", "channel_gone"}))

    assert payload.objection_to(webhook) == (
        "there is no webhook event 'channel_gone': use cache_miss, channel_occupied, "
        "channel_vacated, client_event, member_added, member_removed, subscription_count"
    )


def test_a_webhook_without_events_is_refused() -> None:
    objection = payload.objection_to(replace(WEBHOOK, kinds=frozenset()))

    assert objection is not None
    assert objection.startswith("a webhook needs at least one event of cache_miss, ")


@pytest.mark.parametrize(
    ("name", "value", "objection"),
    [
        ("X Tenant", "4", "'X Tenant' is no name for an HTTP header"),
        ("", "4", "'' is no name for an HTTP header"),
        ("content-length", "4", "the header content-length is set by the server; leave it out"),
        (
            "X-Pusher-Key",
            "4",
            "the header X-Pusher-Key is set by the server; leave it out",
        ),
        (
            "Authorization",
            "Bearer secret\r\nX: y",
            "the header Authorization must be printable ASCII on one line",
        ),
    ],
)
def test_a_header_that_would_break_the_request_is_refused_without_showing_it(
    name: str, value: str, objection: str
) -> None:
    webhook = replace(WEBHOOK, headers=(("Authorization", "Bearer t"), (name, value)))

    assert payload.objection_to(webhook) == objection
