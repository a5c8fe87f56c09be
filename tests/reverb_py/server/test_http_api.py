"""The HTTP API's endpoints: signatures, bodies and answers, each with its exact words."""

import hashlib
import random
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from reverb_py.core.apps import App
from reverb_py.core.delivery import Delivery
from reverb_py.core.hub import Hub
from reverb_py.core.hubs import Hubs
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.protocol import signing
from reverb_py.protocol.signing import sign
from reverb_py.server import http_api as http_api_module
from reverb_py.server.http_api import (
    MAX_PARAMETERS,
    MAX_TARGET_LENGTH,
    HttpApi,
    Request,
    Response,
)
from reverb_py.testing import TestServer, serving
from tests.reverb_py.server.raw_client import connected_socket, request

APP = App(id="3", key="278d425bdf160c739803", secret="7ad3773142a6692b25b8")
OTHER_APP = App(id="4", key="another-key", secret="another-secret")
NOW = 1353088179
BODY = b'{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}'
EVENT = {"name": "made", "channels": ["orders"], "data": "{}"}
EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


def http_api(now: float = NOW, path_prefix: str = "") -> HttpApi:
    """Return the API of two apps at a fixed time; what it delivers goes nowhere."""
    delivery = Delivery(lambda flush: None, lambda: 0.0)
    wheel = TimerWheel(0.0)
    hubs = Hubs(
        [APP, OTHER_APP],
        lambda app: Hub(app, delivery, wheel, lambda: 0.0, random.Random(1)),
    )
    return HttpApi(hubs, lambda: now, path_prefix)


def query_of(**parameters: str | None) -> str:
    """Return a query with what every signed request has; None leaves a parameter out."""
    usual: dict[str, str | None] = {
        "auth_key": APP.key,
        "auth_timestamp": str(NOW),
        "auth_version": "1.0",
    }
    merged = usual | parameters
    return "&".join(f"{name}={value}" for name, value in merged.items() if value is not None)


def signed(
    method: str, path: str, body: bytes = b"", query: str | None = None, *, secret: str = APP.secret
) -> Request:
    """Return a request whose query, sorted, is signed as it stands."""
    if query is None:
        query = query_of(body_md5=hashlib.md5(body).hexdigest() if body else None)
    text = f"{method}\n{path}\n{'&'.join(sorted(query.split('&')))}"
    return Request(method, path, f"{query}&auth_signature={sign(secret, text)}", body)


def refusal(status: int, message: str) -> Response:
    """Return the answer that refuses a request."""
    return Response(status, message.encode(), "text/plain; charset=utf-8")


def publish(body: object) -> Response:
    """Publish a body, which is bytes or is written as JSON."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return http_api().respond(signed("POST", "/apps/3/events", content))


def publish_batch(body: object) -> Response:
    """Publish a batch."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return http_api().respond(signed("POST", "/apps/3/batch_events", content))


# Signatures.


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (
            Request(
                "POST",
                "/apps/3/events",
                "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0"
                "&body_md5=ec365a775a4cd0599faeb73354201b6f&auth_signature="
                "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c",
                BODY,
            ),
            b"{}",
        ),
        (
            Request(
                "GET",
                "/apps/3/channels",
                "filter_by_prefix=presence-&info=user_count&auth_key=278d425bdf160c739803"
                "&auth_timestamp=1353088179&auth_version=1.0&auth_signature="
                "16819168891cb5dfd72b5c7a5d3d602605b26c6ba1930033b5e2eeeb65010291",
                b"",
            ),
            b'{"channels":{}}',
        ),
        (
            Request(
                "GET",
                "/apps/3/channels",
                "auth_key=278d425bdf160c739803&auth_signature="
                "f3f17c61ae491cc9085db68b22076e9b772e3bcb301659d655153ee3f9782aba"
                "&auth_timestamp=1353088179&auth_version=1.0"
                f"&body_md5={EMPTY_MD5}&filter_by_prefix=presence-&info=user_count",
                b"",
            ),
            b'{"channels":{}}',
        ),
    ],
)
def test_the_protocols_own_signatures_are_accepted(asked: Request, answer: bytes) -> None:
    assert http_api().respond(asked) == Response(200, answer)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            Request("POST", "/apps/3/events", "", BODY),
            "auth_key is not the key of this application",
        ),
        (
            signed("POST", "/apps/3/events", BODY, query_of(auth_key=None)),
            "auth_key is not the key of this application",
        ),
        (
            signed("POST", "/apps/3/events", BODY, query_of(auth_key=OTHER_APP.key)),
            "auth_key is not the key of this application",
        ),
        (
            signed("POST", "/apps/3/events", BODY, query_of(auth_key="")),
            "auth_key is not the key of this application",
        ),
        (
            signed("POST", "/apps/3/events", BODY, query_of(auth_version=None)),
            "auth_version must be 1.0",
        ),
        (
            signed("POST", "/apps/3/events", BODY, query_of(auth_version="1")),
            "auth_version must be 1.0",
        ),
        *(
            (
                signed("POST", "/apps/3/events", BODY, query_of(auth_timestamp=timestamp)),
                "auth_timestamp must be the seconds since 1970",
            )
            for timestamp in (None, "", "now", "-5", "1353088179.5", "1" * 16, "٣٣٣", "1e9")
        ),
        *(
            (
                signed("POST", "/apps/3/events", BODY, query_of(body_md5=md5)),
                "body_md5 is not the MD5 of the body",
            )
            for md5 in (
                "",
                EMPTY_MD5,
                "ec365a775a4cd0599faeb73354201b6",
                "EC365A775A4CD0599FAEB73354201B6F",
            )
        ),
        (
            signed("GET", "/apps/3/channels", b"", query_of(body_md5="0" * 32)),
            "body_md5 is not the MD5 of the body",
        ),
    ],
)
def test_a_missing_or_wrong_parameter_is_named(asked: Request, message: str) -> None:
    assert http_api().respond(asked) == refusal(401, message)


@pytest.mark.parametrize(
    ("offset", "problem"),
    [(601, "601 s ahead"), (-601, "601 s old"), (-NOW, f"{NOW} s old"), (10**14, None)],
)
def test_a_timestamp_too_far_off_is_refused_with_the_difference(
    offset: int, problem: str | None
) -> None:
    asked = signed("GET", "/apps/3/channels", b"", query_of(auth_timestamp=str(NOW + offset)))
    assert http_api().respond(asked) == refusal(
        401,
        f"auth_timestamp is {problem or f'{offset} s ahead'}; 600 s are tolerated: "
        "check both clocks",
    )


@pytest.mark.parametrize("offset", [-600, -599, 0, 599, 600])
@pytest.mark.parametrize("fraction", [0.0, 0.999])
def test_a_timestamp_up_to_ten_minutes_off_is_accepted(offset: int, fraction: float) -> None:
    asked = signed("GET", "/apps/3/channels", b"", query_of(auth_timestamp=str(NOW + offset)))
    assert http_api(NOW + fraction).respond(asked).status == 200


GOOD = signed("POST", "/apps/3/events", BODY)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(GOOD._replace(query=GOOD.query[:-1]), id="truncated"),
        pytest.param(GOOD._replace(query=GOOD.query + "0"), id="extended"),
        pytest.param(GOOD._replace(query=GOOD.query.split("&auth_signature")[0]), id="missing"),
        pytest.param(
            GOOD._replace(query=GOOD.query[:-64] + GOOD.query[-64:].upper()), id="upper case"
        ),
        pytest.param(GOOD._replace(query=GOOD.query[:-64] + "%ff" * 64), id="not UTF-8"),
        pytest.param(GOOD._replace(query=GOOD.query[:-64] + "%D9%A3" * 64), id="not ASCII"),
        pytest.param(GOOD._replace(query=GOOD.query + "&info=user_count"), id="more parameters"),
        pytest.param(
            signed("POST", "/apps/3/events", BODY, secret=OTHER_APP.secret), id="another secret"
        ),
        pytest.param(
            signed("GET", "/apps/3/events", BODY)._replace(method="POST"), id="another method"
        ),
        pytest.param(
            signed("POST", "/apps/4/events", BODY)._replace(path="/apps/3/events"),
            id="another path",
        ),
        pytest.param(
            signed("POST", "/apps/3/events", b"{}", query_of())._replace(body=BODY),
            id="a body that nothing binds",
        ),
    ],
)
def test_a_wrong_signature_is_refused_with_what_should_have_been_signed(asked: Request) -> None:
    answer = http_api().respond(asked)
    assert answer.status == 401
    beginning = (
        b"auth_signature is not the hex HMAC-SHA256, under the app's secret, of "
        b'"POST\\n/apps/3/events\\nauth_key=278d425bdf160c739803'
    )
    assert answer.body.startswith(beginning)
    assert APP.secret.encode() not in answer.body
    told = orjson.loads(answer.body.removeprefix(beginning.rpartition(b'"')[0]))
    assert sign(APP.secret, told).encode() not in answer.body


def test_the_string_to_sign_is_told_in_full() -> None:
    asked = GOOD._replace(query=GOOD.query[:-1])
    assert http_api().respond(asked).body == (
        b"auth_signature is not the hex HMAC-SHA256, under the app's secret, of "
        b'"POST\\n/apps/3/events\\nauth_key=278d425bdf160c739803&auth_timestamp=1353088179'
        b'&auth_version=1.0&body_md5=ec365a775a4cd0599faeb73354201b6f"'
    )


def test_reverbs_rule_signs_the_digest_without_sending_it() -> None:
    digest = hashlib.md5(BODY).hexdigest()
    asked = signed("POST", "/apps/3/events", BODY)
    query = asked.query.replace(f"&body_md5={digest}", "")
    assert http_api().respond(asked._replace(query=query)) == Response(200, b"{}")


def test_reverbs_rule_leaves_out_the_digest_of_no_body() -> None:
    asked = signed("GET", "/apps/3/channels")
    query = f"body_md5={EMPTY_MD5}&{asked.query}"
    assert http_api().respond(asked._replace(query=query)) == Response(200, b'{"channels":{}}')


@pytest.mark.parametrize(
    ("path", "signed_path"),
    [
        ("/apps/3/channels", "/apps/3/channels"),
        ("/realtime/apps/3/channels", "/realtime/apps/3/channels"),
        ("/realtime/apps/3/channels", "/apps/3/channels"),
        ("/apps/3/channels", "/realtime/apps/3/channels"),
        ("/apps/%33/channels", "/apps/3/channels"),
        ("/apps/%33/channels", "/apps/%33/channels"),
        ("/apps/%33/channels", "/realtime/apps/3/channels"),
        ("/realtime/apps/%33/channels", "/realtime/apps/3/channels"),
    ],
)
def test_the_path_is_signed_with_or_without_its_prefix(path: str, signed_path: str) -> None:
    asked = signed("GET", signed_path)._replace(path=path)
    api = http_api(path_prefix="/realtime")
    assert api.respond(asked) == Response(200, b'{"channels":{}}')


@pytest.mark.parametrize("prefix", ["/app", "/apps", "/up", "/ready", "/users", "/app/up"])
@pytest.mark.parametrize("path", ["/apps/3/channels", "/up", "/ready"])
def test_a_prefix_may_be_called_like_what_is_below_it(prefix: str, path: str) -> None:
    api = http_api(path_prefix=prefix)
    for asked in (path, prefix + path):
        assert api.respond(signed("GET", asked)).status == 200


@pytest.mark.parametrize("path", ["/up", "/ready"])
def test_probes_are_answered_with_and_without_the_prefix(path: str) -> None:
    api = http_api(path_prefix="/realtime")
    for method in ("GET", "HEAD"):
        for asked in (path, f"/realtime{path}"):
            assert api.respond(Request(method, asked, "", b"")).status == 200
    assert api.respond(Request("GET", f"/elsewhere{path}", "", b"")).status == 404
    assert api.respond(Request("GET", f"/realtime/realtime{path}", "", b"")).status == 404


def test_a_signature_over_another_prefix_is_none() -> None:
    asked = signed("GET", "/elsewhere/apps/3/channels")._replace(path="/apps/3/channels")
    assert http_api(path_prefix="/realtime").respond(asked).status == 401


def test_another_prefix_is_not_found() -> None:
    asked = signed("GET", "/elsewhere/apps/3/channels")
    assert http_api(path_prefix="/realtime").respond(asked) == refusal(
        404, "There is nothing at /elsewhere/apps/3/channels"
    )


@pytest.mark.parametrize(
    ("sent", "signed_value"),
    [
        ("a,b=c;d@e", "a,b=c;d@e"),
        ("a%2Cb%3Dc", "a,b=c"),
        ("a+b", "a+b"),
        ("a+b", "a b"),
        ("a%20b", "a b"),
        ("a%2Bb", "a+b"),
        ("%C5%82", "ł"),
    ],
)
def test_values_are_signed_in_their_decoded_form(sent: str, signed_value: str) -> None:
    text = f"GET\n/apps/3/channels\n{query_of()}&filter_by_prefix={signed_value}"
    signature = sign(APP.secret, text)
    query = f"filter_by_prefix={sent}&{query_of()}&auth_signature={signature}"
    answer = http_api().respond(Request("GET", "/apps/3/channels", query, b""))
    assert answer == Response(200, b'{"channels":{}}')


def test_more_parameters_than_anybody_needs_are_refused_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameters = [f"a{number}=+" for number in range(MAX_PARAMETERS - 4)]
    query = "&".join([*parameters, query_of(), "auth_signature=" + "0" * 64])
    asked = Request("GET", "/apps/3/channels", query, b"")
    assert http_api().respond(asked).status == 401

    monkeypatch.setattr(http_api_module, "parse_query", None)
    asked = asked._replace(query=f"a=+&{query}")
    assert http_api().respond(asked) == refusal(400, "The query has more than 32 parameters")
    assert not http_api().is_signed(asked)


@pytest.mark.parametrize("place", ["path", "query"])
def test_a_signed_request_may_be_so_long_and_no_longer(place: str) -> None:
    path, query = "/apps/3/channels", query_of()
    size = MAX_TARGET_LENGTH - len(path) - len(query) - len("&auth_signature=") - 64
    if place == "path":
        path += "/" + "x" * (size - 1)
    else:
        query += "&a=" + "x" * (size - 3)
    asked = signed("GET", path, b"", query)
    # The name is too long for a channel, which is found out behind the signature.
    assert http_api().respond(asked).status == (400 if place == "path" else 200)
    assert http_api().respond(asked._replace(query=f"{asked.query}&")) == refusal(
        414, "Path and query are longer than 4096 characters together"
    )


def test_a_wrong_request_has_at_most_so_many_strings_signed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A path as it is and decoded, with the prefix and without, a digest and a plus both ways."""
    signed_strings: list[str] = []

    def count_and_sign(secret: str, text: str | bytes) -> str:
        signed_strings.append(secret)
        return sign(secret, text)

    monkeypatch.setattr(signing, "sign", count_and_sign)
    query = f"{query_of(body_md5=EMPTY_MD5, filter_by_prefix='+')}&auth_signature={'0' * 64}"
    api = http_api(path_prefix="/realtime")

    assert api.respond(Request("GET", "/apps/%33/channels", query, b"")).status == 401
    assert len(signed_strings) == 16
    assert api.respond(Request("GET", "/apps/%33/channels", query[:-1], b"")).status == 401
    assert len(signed_strings) == 16


def test_an_unknown_app_is_not_found() -> None:
    assert http_api().respond(signed("GET", "/apps/5/channels")) == refusal(
        404, "No matching application for ID [5]."
    )


# Bodies.


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "The body is not an event: Input data was truncated"),
        (b"{", 400, "The body is not an event: Input data was truncated"),
        (b"x", 400, "The body is not an event: JSON is malformed: invalid character (byte 0)"),
        (b"=made", 400, "The body is not an event: JSON is malformed: invalid character (byte 0)"),
        ([], 400, "The body is not an event: Expected `object`, got `array`"),
        (None, 400, "The body is not an event: Expected `object`, got `null`"),
        ("made", 400, "The body is not an event: Expected `object`, got `str`"),
        ({}, 400, "The body is not an event: Object missing required field `name`"),
        (
            {"channels": ["orders"], "data": "{}"},
            400,
            "The body is not an event: Object missing required field `name`",
        ),
        (
            {"name": "made", "channels": ["orders"]},
            400,
            "The body is not an event: Object missing required field `data`",
        ),
        (
            EVENT | {"data": {"id": 7}},
            400,
            "The body is not an event: Expected `str`, got `object` - at `$.data`",
        ),
        (
            EVENT | {"data": None},
            400,
            "The body is not an event: Expected `str`, got `null` - at `$.data`",
        ),
        (
            EVENT | {"name": 7},
            400,
            "The body is not an event: Expected `str`, got `int` - at `$.name`",
        ),
        (
            EVENT | {"channels": "orders"},
            400,
            "The body is not an event: Expected `array | null`, got `str` - at `$.channels`",
        ),
        (
            EVENT | {"channels": [7]},
            400,
            "The body is not an event: Expected `str`, got `int` - at `$.channels[0]`",
        ),
        (
            EVENT | {"socket_id": 1.5},
            400,
            "The body is not an event: Expected `str | null`, got `float` - at `$.socket_id`",
        ),
        (
            EVENT | {"info": ["user_count"]},
            400,
            "The body is not an event: Expected `str | null`, got `array` - at `$.info`",
        ),
        (EVENT | {"name": ""}, 400, "`name` must have 1 to 200 characters"),
        (EVENT | {"name": "n" * 201}, 400, "`name` must have 1 to 200 characters"),
        (
            {"name": "made", "data": "{}"},
            400,
            "Name the targets in `channels` (or one in `channel`)",
        ),
        (EVENT | {"channels": []}, 400, "Name the targets in `channels` (or one in `channel`)"),
        (
            EVENT | {"channels": ["c"] * 101},
            400,
            "An event goes to at most 100 channels; this one names 101",
        ),
        (EVENT | {"channels": ["orders", ""]}, 400, "'' is not a channel name"),
        (EVENT | {"channels": ["two words"]}, 400, "'two words' is not a channel name"),
        (EVENT | {"channels": ["orders\n"]}, 400, "'orders\\n' is not a channel name"),
        (EVENT | {"channels": ["ż"]}, 400, "'ż' is not a channel name"),
        (EVENT | {"channels": ["n" * 201]}, 400, f"'{'n' * 201}' is not a channel name"),
        (EVENT | {"channels": ["n" * 999]}, 400, f"'{'n' * 250}' is not a channel name"),
        (
            EVENT | {"channels": ["private-encrypted-a", "orders"]},
            400,
            "An event for an encrypted channel goes to that channel alone",
        ),
        *(
            (EVENT | {"socket_id": socket_id}, 400, f"{socket_id!r} is not a socket id")
            for socket_id in ("", "1", "1.", ".1", "1.2.3", "a.b", "1.2\n", "-1.2", "1." + "2" * 21)
        ),
        (
            EVENT | {"info": "everything"},
            400,
            "info=everything is not available here; ask for subscription_count or user_count",
        ),
        (
            EVENT | {"info": "user_count"},
            400,
            "info=user_count: orders is not a presence channel",
        ),
        (
            EVENT | {"data": "x" * 10_241},
            413,
            "`data` has 10241 bytes; an event carries at most 10240",
        ),
        (
            EVENT | {"data": "é" * 5_120 + "x"},
            413,
            "`data` has 10241 bytes; an event carries at most 10240",
        ),
        (
            EVENT | {"data": "🐢" * 2_561},
            413,
            "`data` has 10244 bytes; an event carries at most 10240",
        ),
    ],
)
def test_a_malformed_event_is_refused_with_what_is_wrong(
    body: object, status: int, message: str
) -> None:
    assert publish(body) == refusal(status, message)


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b'{"name":"\xff","channels":["a"],"data":""}',
        b'{"name":"\xed\xa0\x80","channels":["a"],"data":""}',
        b'{"name":"\\ud800","channels":["a"],"data":""}',
        b'{"name":"a","channels":["a"],"data":"\\udfff"}',
        b'{"name":"a","channels":["a"],"data":"\xc0\x80"}',
        b'{"name":"a","channels":["\xff"],"data":""}',
        b"[" * 100_000,
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"name":' + b'{"name":' * 10_000,
    ],
)
@pytest.mark.parametrize("publish_one", [publish, publish_batch])
def test_what_is_no_utf_8_or_too_deep_is_refused(
    publish_one: Callable[[object], Response], body: bytes
) -> None:
    answer = publish_one(body)
    assert answer.status == 400
    assert answer.body.startswith(b"The body is not a")


@pytest.mark.parametrize(
    "event",
    [
        EVENT,
        {"name": "made", "channel": "orders", "data": ""},
        EVENT | {"channel": "ignored"},
        EVENT | {"channels": ["c"] * 100},
        EVENT | {"name": "n" * 200, "channels": ["n" * 200]},
        EVENT | {"name": "ż" * 200},
        EVENT | {"data": "x" * 10_240},
        EVENT | {"data": "é" * 5_120},
        EVENT | {"data": "🐢" * 2_560},
        EVENT | {"socket_id": "1.2"},
        EVENT | {"socket_id": None, "info": None, "unheard": "of"},
        EVENT | {"info": ""},
        EVENT | {"channels": ["private-encrypted-a"]},
        EVENT | {"channels": ["#server-to-user-7"]},
    ],
)
def test_a_good_event_is_answered_with_an_empty_object(event: dict[str, Any]) -> None:
    assert publish(event) == Response(200, b"{}")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "The body is not a batch of events: Input data was truncated"),
        ({}, 400, "The body is not a batch of events: Object missing required field `batch`"),
        (
            {"batch": {}},
            400,
            "The body is not a batch of events: Expected `array`, got `object` - at `$.batch`",
        ),
        (
            {"batch": [EVENT | {"channel": "a"}, 7]},
            400,
            "The body is not a batch of events: Expected `object`, got `int` - at `$.batch[1]`",
        ),
        (
            {"batch": [{"channel": "a", "name": "made", "data": "1"}] * 11},
            400,
            "A batch holds at most 10 events; this one has 11",
        ),
        (
            {"batch": [{"channel": "a", "name": "made", "data": "1"}, EVENT]},
            400,
            "batch[1]: `channel` is missing",
        ),
        (
            {"batch": [{"channel": "a", "name": "made", "data": "x" * 10_241}]},
            413,
            "batch[0]: `data` has 10241 bytes; an event carries at most 10240",
        ),
        (
            {"batch": [{"channel": "a", "name": "", "data": ""}]},
            400,
            "batch[0]: `name` must have 1 to 200 characters",
        ),
        (
            {"batch": [{"channel": "a", "name": "made", "data": "1", "info": "user_count"}]},
            400,
            "info=user_count: a is not a presence channel",
        ),
    ],
)
def test_a_malformed_batch_is_refused_with_the_place_of_the_event(
    body: object, status: int, message: str
) -> None:
    assert publish_batch(body) == refusal(status, message)


@pytest.mark.parametrize("count", [0, 1, 10])
def test_a_batch_of_up_to_ten_is_answered_with_an_empty_object(count: int) -> None:
    event = {"channel": "a", "name": "made", "data": "x" * 10_240}
    assert publish_batch({"batch": [event] * count}) == Response(200, b"{}")


async def test_nothing_of_a_bad_batch_is_delivered(server: TestServer) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        good = {"channel": "orders", "name": "made", "data": "1"}
        status, _ = await server.request(
            "POST", "/batch_events", {"batch": [good, good | {"channel": "two words"}]}
        )
        assert status == 400
        await client.ping()


# Answers about channels.


async def test_the_channels_that_are_occupied_are_listed(server: TestServer) -> None:
    assert await server.request("GET", "/channels") == (200, '{"channels":{}}')
    async with server.connected() as first, server.connected() as second:
        await first.subscribe("orders")
        await second.subscribe("orders")
        await second.subscribe("private-a")
        assert await server.request("GET", "/channels") == (
            200,
            '{"channels":{"orders":{},"private-a":{}}}',
        )
        assert await server.request(
            "GET", "/channels", parameters={"info": "subscription_count"}
        ) == (
            200,
            '{"channels":{"orders":{"subscription_count":2},"private-a":{"subscription_count":1}}}',
        )
        assert await server.request(
            "GET", "/channels", parameters={"filter_by_prefix": "private-"}
        ) == (200, '{"channels":{"private-a":{}}}')


async def test_one_channel_tells_whether_it_is_occupied(server: TestServer) -> None:
    count = {"info": "subscription_count"}
    async with server.connected() as client:
        await client.subscribe("orders")
        await client.subscribe("a=b,c;d@e.f")
        assert await server.request("GET", "/channels/orders") == (200, '{"occupied":true}')
        assert await server.request("GET", "/channels/orders", parameters=count) == (
            200,
            '{"occupied":true,"subscription_count":1}',
        )
        assert await server.request("GET", "/channels/a=b,c;d@e.f", parameters=count) == (
            200,
            '{"occupied":true,"subscription_count":1}',
        )
        assert await server.request("GET", "/channels/unknown", parameters=count) == (
            200,
            '{"occupied":false,"subscription_count":0}',
        )


@pytest.mark.parametrize(
    ("path", "info", "message"),
    [
        ("/channels/two%20words", None, "'two words' is not a channel name"),
        ("/channels/orders%0A", None, "'orders\\n' is not a channel name"),
        ("/channels/%FF", None, "'\ufffd' is not a channel name"),
        (
            "/channels/orders",
            "cache",
            "info=cache: orders is not a cache channel",
        ),
        (
            "/channels/orders",
            "subscription_count,,weight",
            "info=weight is not available here; ask for cache or subscription_count or user_count",
        ),
        (
            "/channels/orders",
            "user_count",
            "info=user_count: orders is not a presence channel",
        ),
        (
            "/channels",
            "user_count",
            "info=user_count goes with filter_by_prefix=presence-",
        ),
        (
            "/channels",
            "everything",
            "info=everything is not available here; ask for subscription_count or user_count",
        ),
    ],
)
def test_a_wrong_question_about_channels_is_refused(
    path: str, info: str | None, message: str
) -> None:
    asked = signed("GET", f"/apps/3{path}", b"", query_of(info=info))
    assert http_api().respond(asked) == refusal(400, message)


async def test_a_publish_may_ask_about_its_channels(server: TestServer) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        event = {
            "name": "made",
            "channels": ["orders", "empty"],
            "data": "1",
            "info": "subscription_count",
        }
        assert await server.request("POST", "/events", event) == (
            200,
            '{"channels":{"orders":{"subscription_count":1},"empty":{"subscription_count":0}}}',
        )


async def test_a_batch_answers_every_event_in_its_place(server: TestServer) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        event = {"name": "made", "data": "1"}
        batch = [
            event | {"channel": "orders"},
            event | {"channel": "orders", "info": "subscription_count"},
            event | {"channel": "empty", "info": "subscription_count"},
            event | {"channel": "empty"},
        ]
        assert await server.request("POST", "/batch_events", {"batch": batch}) == (
            200,
            '{"batch":[{},{"subscription_count":1},{"subscription_count":0},{}]}',
        )
        for _ in range(2):
            assert await client.receive() == '{"event":"made","channel":"orders","data":"1"}'


# Delivery.


async def test_an_event_is_not_delivered_to_the_socket_it_excludes(server: TestServer) -> None:
    async with server.connected() as sender, server.connected() as other:
        for client in (sender, other):
            await client.subscribe("orders")
            await client.subscribe("stock")
        event = {
            "name": "made",
            "channels": ["orders", "stock"],
            "data": "1",
            "socket_id": sender.socket_id,
        }
        assert await server.request("POST", "/events", event) == (200, "{}")
        batch = [
            {"name": "sold", "channel": "stock", "data": "2", "socket_id": sender.socket_id},
            {"name": "sold", "channel": "stock", "data": "3"},
        ]
        assert await server.request("POST", "/batch_events", {"batch": batch}) == (200, "{}")
        assert await sender.receive() == '{"event":"sold","channel":"stock","data":"3"}'
        await sender.ping()
        assert [await other.receive() for _ in range(4)] == [
            '{"event":"made","channel":"orders","data":"1"}',
            '{"event":"made","channel":"stock","data":"1"}',
            '{"event":"sold","channel":"stock","data":"2"}',
            '{"event":"sold","channel":"stock","data":"3"}',
        ]
        await other.ping()


async def test_an_unknown_socket_excludes_nobody(server: TestServer) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        await server.publish("made", "orders", "1", socket_id="1.1")
        assert await client.receive() == '{"event":"made","channel":"orders","data":"1"}'


@pytest.mark.parametrize(
    "data", ["", " ", '{"a": [1,2]}', 'quote " slash \\ nul \x00 line\u2028', "🐢" * 2_560]
)
async def test_data_arrives_as_it_was_published(server: TestServer, data: str) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        await server.publish('na"me ż', "orders", data)
        received = await client.receive()
        assert orjson.loads(received) == {"event": 'na"me ż', "channel": "orders", "data": data}
        written = orjson.dumps(data).decode()
        assert received == f'{{"event":"na\\"me ż","channel":"orders","data":{written}}}'


async def test_a_channel_named_twice_gets_the_event_twice(server: TestServer) -> None:
    async with server.connected() as client:
        await client.subscribe("orders")
        event = {"name": "made", "channels": ["orders", "orders"], "data": "1"}
        assert await server.request("POST", "/events", event) == (200, "{}")
        for _ in range(2):
            assert await client.receive() == '{"event":"made","channel":"orders","data":"1"}'


async def test_a_signature_is_good_for_its_own_app_only() -> None:
    async with serving(APP, OTHER_APP) as server, connected_socket(server) as client:
        asked = signed(
            "GET", "/apps/4/channels", b"", query_of(auth_timestamp=str(int(time.time())))
        )
        await client.send(request(f"GET {asked.path}?{asked.query}"))
        answer = await client.receive_answer()
        assert (answer.status, answer.body) == (
            401,
            b"auth_key is not the key of this application",
        )
