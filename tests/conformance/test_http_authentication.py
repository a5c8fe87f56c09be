"""Signatures of HTTP requests."""

from __future__ import annotations

import hashlib
import time

import pytest

from tests.conformance.wire import Answer, PusherApp, compact, fresh

EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


def event_body(channel: str = "orders") -> bytes:
    """Return an event as a backend sends it."""
    return compact({"name": "shipped", "channels": [channel], "data": "{}"}).encode()


async def post_event(app: PusherApp, query: dict[str, str], body: bytes) -> Answer:
    """Publish with a query made elsewhere."""
    return await app.request("POST", f"/apps/{app.id}/events", query, body)


async def test_a_signed_request_is_answered(app: PusherApp) -> None:
    body = event_body(fresh("orders-"))
    query = app.signed_query("POST", f"/apps/{app.id}/events", body)
    assert query.keys() == {
        "auth_key",
        "auth_timestamp",
        "auth_version",
        "body_md5",
        "auth_signature",
    }
    answer = await post_event(app, query, body)
    assert answer == Answer(200, "{}")
    assert answer.headers["Content-Type"].startswith("application/json")


@pytest.mark.parametrize("name", ["auth_key", "auth_timestamp", "auth_version", "auth_signature"])
async def test_a_request_that_lacks_something_is_refused(app: PusherApp, name: str) -> None:
    body = event_body()
    query = app.signed_query("POST", f"/apps/{app.id}/events", body)
    del query[name]
    assert (await post_event(app, query, body)).status == 401


async def test_an_unsigned_request_is_refused(app: PusherApp) -> None:
    assert (await post_event(app, {}, event_body())).status == 401
    assert (await app.request("GET", f"/apps/{app.id}/channels")).status == 401


@pytest.mark.parametrize(
    "change",
    [
        {"auth_signature": "0" * 64},
        {"auth_signature": ""},
        {"auth_signature": "é"},
        {"auth_key": "other-key"},
        {"auth_version": "1.1"},
        {"auth_timestamp": "1353088179"},
        {"auth_timestamp": "soon"},
        {"body_md5": EMPTY_MD5},
        {"more": "than was signed"},
    ],
)
async def test_a_query_changed_after_signing_is_refused(
    app: PusherApp, change: dict[str, str]
) -> None:
    body = event_body()
    query = app.signed_query("POST", f"/apps/{app.id}/events", body) | change
    assert (await post_event(app, query, body)).status == 401


async def test_a_signature_is_for_one_method_path_and_body(app: PusherApp) -> None:
    body = event_body()
    path = f"/apps/{app.id}/events"
    for query in (
        app.signed_query("GET", path, body),
        app.signed_query("POST", f"/apps/{app.id}/batch_events", body),
        app.signed_query("POST", path, body + b" "),
        app.signed_query("POST", path),
        app.signed_query("POST", path, body, secret="not the secret"),
        app.signed_query("POST", path, body, {"auth_version": "2.0"}),
        app.signed_query("POST", path, body, {"body_md5": EMPTY_MD5}),
        app.signed_query("POST", path, body, {"auth_key": "other-key"}),
    ):
        assert (await post_event(app, query, body)).status == 401


async def test_a_body_that_was_swapped_is_refused(app: PusherApp) -> None:
    """Without its digest in the query, too, the signature has to cover the body."""
    channel = fresh("orders-")
    path = f"/apps/{app.id}/events"
    async with app.connected() as client:
        await client.subscribe(channel)
        query = app.signed_query("POST", path, event_body())
        assert (await post_event(app, query, event_body(channel))).status == 401
        query = app.signed_query("POST", path)
        assert (await post_event(app, query, event_body(channel))).status == 401
        await client.received_nothing()


@pytest.mark.parametrize("seconds", [-590, 590])
async def test_a_clock_may_be_ten_minutes_off(app: PusherApp, seconds: int) -> None:
    body = event_body()
    timestamp = {"auth_timestamp": str(int(time.time()) + seconds)}
    query = app.signed_query("POST", f"/apps/{app.id}/events", body, timestamp)
    assert await post_event(app, query, body) == Answer(200, "{}")


@pytest.mark.parametrize("seconds", [-620, 620, -10_000_000])
async def test_an_old_request_cannot_be_sent_again(app: PusherApp, seconds: int) -> None:
    """Reverb and Soketi look at no timestamp."""
    body = event_body()
    timestamp = {"auth_timestamp": str(int(time.time()) + seconds)}
    query = app.signed_query("POST", f"/apps/{app.id}/events", body, timestamp)
    assert (await post_event(app, query, body)).status == 401


@pytest.mark.parametrize(
    "timestamp", ["", "now", "1e9", "-1", "٣", pytest.param("9" * 400, id="long")]
)
async def test_a_timestamp_that_is_none_is_refused(app: PusherApp, timestamp: str) -> None:
    body = event_body()
    path = f"/apps/{app.id}/events"
    query = app.signed_query("POST", path, body, {"auth_timestamp": timestamp})
    assert (await post_event(app, query, body)).status == 401


async def test_the_order_of_the_parameters_does_not_matter(app: PusherApp) -> None:
    query = app.signed_query(
        "GET", f"/apps/{app.id}/channels", b"", {"info": "subscription_count", "zzz": "", "a": "b"}
    )
    for names in (sorted(query), sorted(query, reverse=True)):
        shuffled = {name: query[name] for name in names}
        answer = await app.request("GET", f"/apps/{app.id}/channels", shuffled)
        assert answer.status == 200, answer


async def test_values_are_signed_as_they_were_before_their_encoding(app: PusherApp) -> None:
    prefix = fresh("a,b=c;@-")
    async with app.connected() as client:
        await client.subscribe(f"{prefix}x")
        answer = await app.get("/channels", filter_by_prefix=prefix, note="a b&c=d/é+%20")
        assert answer.json() == {"channels": {f"{prefix}x": {}}}


async def test_names_are_signed_in_lower_case(app: PusherApp) -> None:
    query = app.signed_query("GET", f"/apps/{app.id}/channels", b"", {"Zebra": "Stripes"})
    assert (await app.request("GET", f"/apps/{app.id}/channels", query)).status == 200


async def test_repeated_array_parameters_are_signed_as_one(app: PusherApp) -> None:
    """The PHP library joins them with commas under the bare name."""
    path = f"/apps/{app.id}/channels"
    query = app.signed_query("GET", path, b"", {"ids": "a,b"})
    text = "&".join(f"{name}={value}" for name, value in query.items() if name != "ids")
    answer = await app.request("GET", path, f"ids[]=a&ids[]=b&{text}")
    assert answer.status == 200, answer


@pytest.mark.parametrize("covered", [True, False])
async def test_a_read_may_carry_the_digest_of_its_empty_body(app: PusherApp, covered: bool) -> None:
    """pusher-http-python signs one on every read; Reverb and sockudo answer 401."""
    path = f"/apps/{app.id}/channels"
    digest = {"body_md5": EMPTY_MD5}
    query = app.signed_query("GET", path, b"", digest if covered else {}) | digest
    answer = await app.request("GET", path, query)
    assert answer.status == 200, answer


async def test_a_wrong_digest_of_an_empty_body_is_refused(app: PusherApp) -> None:
    path = f"/apps/{app.id}/channels"
    digest = {"body_md5": hashlib.md5(b"x").hexdigest()}
    query = app.signed_query("GET", path, b"", digest)
    assert (await app.request("GET", path, query)).status == 401


async def test_an_unknown_app_is_not_found(app: PusherApp) -> None:
    """sockudo answers so for an unknown key, too."""
    path = f"/apps/{fresh('9')}/events"
    body = event_body()
    query = app.signed_query("POST", path, body)
    assert (await app.request("POST", path, query, body)).status == 404


async def test_the_key_of_another_app_opens_nothing(app: PusherApp, other_app: PusherApp) -> None:
    """Reverb does not compare the key at all."""
    path = f"/apps/{other_app.id}/events"
    body = event_body()
    query = app.signed_query("POST", path, body)
    assert (await app.request("POST", path, query, body)).status == 401
    query = app.signed_query("POST", path, body, {"auth_key": other_app.key})
    assert (await app.request("POST", path, query, body)).status == 401


async def test_a_refusal_tells_no_secret(app: PusherApp) -> None:
    """What was to be signed may be said, as hosted Pusher does; the signature may not."""
    path = f"/apps/{app.id}/channels"
    right = app.signed_query("GET", path)
    answer = await app.request("GET", path, right | {"auth_signature": "0" * 64})
    assert answer.status == 401
    assert answer.body
    assert app.secret not in answer.body
    assert right["auth_signature"] not in answer.body


@pytest.mark.parametrize("with_prefix", [True, False])
async def test_under_a_path_prefix_both_paths_may_be_signed(
    app: PusherApp, path_prefix: str, with_prefix: bool
) -> None:
    """Behind a proxy that strips the prefix the one is right, at the server itself the other."""
    path = f"/apps/{app.id}/channels"
    query = app.signed_query("GET", f"{path_prefix}{path}" if with_prefix else path)
    answer = await app.request("GET", f"{path_prefix}{path}", query)
    assert answer.status == 200, answer
