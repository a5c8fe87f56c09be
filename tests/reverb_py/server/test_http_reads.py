"""What a backend may ask and order over HTTP, how often, and what is taken only once."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import orjson
import pytest

from reverb_py.core.apps import App
from reverb_py.core.delivery import Delivery
from reverb_py.core.hub import Hub
from reverb_py.core.hubs import Hubs
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.core.users import SignedInUser
from reverb_py.protocol.errors import ErrorCode
from reverb_py.protocol.signing import signed_query
from reverb_py.server.http_api import HttpApi, Request, Response
from reverb_py.testing import TestServer, serving
from tests.reverb_py.server.raw_client import connected_socket, request
from tests.support.sessions import APP, FakeClock, RecordingSession, Turns

OTHER = App(id="1002", key="other-key", secret="other-secret")
NOW = 1353088179
EMPTY = Response(200, b"{}")
EVENT = {"name": "made", "channels": ["orders"], "data": "1"}
MADE = '{"event":"made","channel":"orders","data":"1"}'
TERMINATED = (ErrorCode.UNAUTHORIZED, "Connection terminated by the application")
KEY_HEADER = b"x-idempotency-key"


class Backend:
    """The HTTP API without a network, the hubs behind it, and time that moves by hand."""

    def __init__(self, *apps: App, path_prefix: str = "") -> None:
        self.turns = Turns()
        self.clock = FakeClock()
        delivery, wheel, source = (
            Delivery(self.turns, self.clock),
            TimerWheel(0.0),
            random.Random(1),
        )
        self.hubs = Hubs(apps or (APP,), lambda app: Hub(app, delivery, wheel, self.clock, source))
        self.api = HttpApi(self.hubs, lambda: NOW, path_prefix)

    def client(self, app: App = APP) -> RecordingSession:
        hub = self.hubs.with_id(app.id)
        assert hub is not None
        session = RecordingSession.begun(hub)
        session.end_when_closed()
        return session

    def member(self, user_id: str, channel: str = "presence-room") -> RecordingSession:
        session = self.client()
        session.hub.subscribe(session, channel, user_id)
        return session

    def listener(self, *channels: str) -> RecordingSession:
        session = self.client()
        for channel in channels:
            session.hub.subscribe(session, channel)
        session.writes.clear()
        return session

    def heard(self, session: RecordingSession) -> list[str]:
        self.turns.end()
        return session.texts()

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        app: App = APP,
        app_path: str | None = None,
        headers: dict[bytes, bytes] | None = None,
        **parameters: str,
    ) -> Response:
        """Make one request below the app's path, signed with its current secret."""
        content = b"" if body is None else orjson.dumps(body)
        full_path = f"/apps/{app.id}{path}" if app_path is None else f"{app_path}{path}"
        query = signed_query(app.key, app.secret, method, full_path, content, NOW, parameters)
        written = "&".join(f"{name}={value}" for name, value in query.items())
        return self.api.respond(Request(method, full_path, written, content, headers or {}))

    def publish(self, headers: dict[bytes, bytes] | None = None, **fields: object) -> Response:
        return self.ask("POST", "/events", EVENT | fields, headers=headers)


@pytest.fixture
def backend() -> Backend:
    return Backend()


def refusal(status: int, message: str, headers: str = "") -> Response:
    return Response(status, message.encode(), "text/plain; charset=utf-8", headers)


# Users of a channel.


def test_the_users_of_a_presence_channel_are_listed_once_each(backend: Backend) -> None:
    for user_id in ("9", "7", "9", 'a"b'):
        backend.member(user_id)
    backend.member("8", "presence-other")

    assert backend.ask("GET", "/channels/presence-room/users") == Response(
        200, b'{"users":[{"id":"9"},{"id":"7"},{"id":"a\\"b"}]}'
    )


@pytest.mark.parametrize("channel", ["presence-empty", "presence-cache-empty"])
def test_a_presence_channel_without_members_has_no_users(backend: Backend, channel: str) -> None:
    assert backend.ask("GET", f"/channels/{channel}/users") == Response(200, b'{"users":[]}')


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ("orders", "orders is not a presence channel: it has no users"),
        ("private-room", "private-room is not a presence channel: it has no users"),
        ("two%20words", "'two words' is not a channel name"),
    ],
)
def test_other_channels_have_no_users_to_ask_for(
    backend: Backend, channel: str, message: str
) -> None:
    backend.listener("orders", "private-room")

    assert backend.ask("GET", f"/channels/{channel}/users") == refusal(400, message)


# Counts.


def test_connections_are_counted_subscribed_or_not() -> None:
    backend = Backend(APP, OTHER)
    assert backend.ask("GET", "/connections") == Response(200, b'{"connections":0}')

    sessions = [backend.client(), backend.listener("orders", "stock"), backend.client(OTHER)]

    assert backend.ask("GET", "/connections") == Response(200, b'{"connections":2}')
    assert backend.ask("GET", "/connections", app=OTHER) == Response(200, b'{"connections":1}')
    for session in sessions:
        session.end()
    assert backend.ask("GET", "/connections") == Response(200, b'{"connections":0}')


def test_users_are_counted_once_and_connections_each(backend: Backend) -> None:
    for user_id in ("7", "7", "9"):
        backend.member(user_id)
    backend.member("7", "presence-other")
    backend.listener("orders")

    assert backend.ask(
        "GET", "/channels", filter_by_prefix="presence-", info="user_count,subscription_count"
    ) == Response(
        200,
        b'{"channels":{"presence-room":{"user_count":2,"subscription_count":3},'
        b'"presence-other":{"user_count":1,"subscription_count":1}}}',
    )
    assert backend.ask("GET", "/channels/presence-room", info="user_count") == Response(
        200, b'{"occupied":true,"user_count":2}'
    )
    assert backend.ask(
        "GET", "/channels/presence-nobody", info="subscription_count,user_count"
    ) == Response(200, b'{"occupied":false,"user_count":0,"subscription_count":0}')


def test_a_publish_may_ask_how_many_users_it_reaches(backend: Backend) -> None:
    for user_id in ("7", "7", "9"):
        backend.member(user_id)

    assert backend.publish(
        channels=["presence-room", "presence-nobody"], info="user_count,subscription_count"
    ) == Response(
        200,
        b'{"channels":{"presence-room":{"user_count":2,"subscription_count":3},'
        b'"presence-nobody":{"user_count":0,"subscription_count":0}}}',
    )


def test_a_batch_answers_each_event_with_what_it_asked_for(backend: Backend) -> None:
    backend.member("7")
    backend.listener("orders")
    event = {"name": "made", "data": "1"}
    batch = [
        event | {"channel": "orders"},
        event | {"channel": "presence-room", "info": "user_count"},
        event | {"channel": "orders", "info": "subscription_count"},
        event | {"channel": "presence-nobody", "info": "subscription_count,user_count"},
    ]

    assert backend.ask("POST", "/batch_events", {"batch": batch}) == Response(
        200,
        b'{"batch":[{},{"user_count":1},{"subscription_count":1},'
        b'{"user_count":0,"subscription_count":0}]}',
    )


@pytest.mark.parametrize("channel", ["orders", "private-room", "#server-to-user-7"])
def test_users_are_counted_on_presence_channels_only(backend: Backend, channel: str) -> None:
    listener = backend.listener(channel)
    message = f"info=user_count: {channel} is not a presence channel"

    path = f"/channels/{channel.replace('#', '%23')}"
    assert backend.ask("GET", path, info="user_count") == refusal(400, message)
    assert backend.publish(channels=[channel], info="user_count") == refusal(400, message)
    assert backend.heard(listener) == []


# The last event.


def test_the_last_event_of_a_cache_channel_is_shown_with_the_time_it_has_left() -> None:
    backend = Backend(replace(APP, last_event_seconds=60.0))
    assert backend.ask("GET", "/channels/cache-prices", info="cache") == Response(
        200, b'{"occupied":false,"cache":null}'
    )

    backend.publish(channels=["cache-prices"], data='{"eur":"1,5"}')
    shown = b'{"occupied":false,"cache":{"data":"{\\"eur\\":\\"1,5\\"}","ttl":%d}}'
    assert backend.ask("GET", "/channels/cache-prices", info="cache").body == shown % 60
    backend.clock.advance(0.25)
    assert backend.ask("GET", "/channels/cache-prices", info="cache").body == shown % 60
    backend.clock.advance(59.5)
    assert backend.ask("GET", "/channels/cache-prices", info="cache").body == shown % 1
    backend.clock.advance(0.25)
    assert backend.ask("GET", "/channels/cache-prices", info="cache") == Response(
        200, b'{"occupied":false,"cache":null}'
    )


def test_the_last_event_comes_with_the_counts(backend: Backend) -> None:
    backend.member("7", "presence-cache-room")
    backend.publish(channels=["presence-cache-room"])

    assert backend.ask(
        "GET", "/channels/presence-cache-room", info="cache,user_count,subscription_count"
    ) == Response(
        200,
        b'{"occupied":true,"user_count":1,"subscription_count":1,"cache":{"data":"1","ttl":1800}}',
    )


@pytest.mark.parametrize("channel", ["orders", "private-room", "my-cache-orders"])
def test_other_channels_have_no_last_event_to_ask_for(backend: Backend, channel: str) -> None:
    assert backend.ask("GET", f"/channels/{channel}", info="cache") == refusal(
        400, f"info=cache: {channel} is not a cache channel"
    )


def test_the_last_event_is_not_for_lists(backend: Backend) -> None:
    message = "info=cache is not available here; ask for subscription_count or user_count"

    assert backend.ask("GET", "/channels", info="cache") == refusal(400, message)
    assert backend.publish(channels=["cache-a"], info="cache") == refusal(400, message)


# Terminating a user.


def test_terminating_closes_signed_in_connections_and_members() -> None:
    backend = Backend(APP, OTHER)
    signed_in, member = backend.client(), backend.member("7")
    for session in (signed_in, elsewhere := backend.client(OTHER)):
        session.user = SignedInUser("7", b"null", ())
        session.hub.sign_in(session, session.user)
    bystander = backend.member("8")

    assert backend.ask("POST", "/users/7/terminate_connections", {}) == EMPTY

    assert (signed_in.closed, member.closed) == ([TERMINATED], [TERMINATED])
    assert (bystander.closed, elsewhere.closed) == ([], [])
    assert list(bystander.hub.sessions.values()) == [bystander]


@pytest.mark.parametrize(
    ("path_prefix", "app_path"), [("", ""), ("/realtime", "/realtime"), ("/realtime", "")]
)
def test_terminating_works_without_the_app_in_the_path(path_prefix: str, app_path: str) -> None:
    backend = Backend(OTHER, APP, path_prefix=path_prefix)
    member = backend.member("7")

    answer = backend.ask("POST", "/users/7/terminate_connections", {}, app_path=app_path)

    assert answer == EMPTY
    assert member.closed == [TERMINATED]


def test_without_the_app_in_the_path_its_key_must_be_known(backend: Backend) -> None:
    member = backend.member("7")

    answer = backend.ask("POST", "/users/7/terminate_connections", {}, app=OTHER, app_path="")

    assert answer == refusal(401, "auth_key is not the key of this application")
    assert member.closed == []


def test_terminating_nobody_is_fine(backend: Backend) -> None:
    assert backend.ask("POST", "/users/nobody/terminate_connections") == EMPTY


@pytest.mark.parametrize(
    ("user_id", "written"),
    [("a/b", "a%2Fb"), ("a b", "a%20b"), ("Ł%", "%C5%81%25"), ("a@b.c", "a@b.c")],
)
@pytest.mark.parametrize("app_path", [None, ""])
def test_a_users_id_is_percent_encoded_in_the_path(
    backend: Backend, user_id: str, written: str, app_path: str | None
) -> None:
    member = backend.member(user_id)

    assert (
        backend.ask("POST", f"/users/{written}/terminate_connections", app_path=app_path) == EMPTY
    )
    assert member.closed == [TERMINATED]


def test_a_termination_must_be_signed(backend: Backend) -> None:
    member = backend.member("7")
    for app, app_path in ((APP, None), (APP, "")):
        answer = backend.ask(
            "POST",
            "/users/7/terminate_connections",
            {},
            app=replace(app, secret="another-secret"),
            app_path=app_path,
        )
        assert answer.status == 401
    assert member.closed == []


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/users/7/terminate_connections", "POST"),
        ("POST", "/channels/presence-room/users", "GET"),
        ("POST", "/connections", "GET"),
        ("DELETE", "/channels/orders", "GET"),
    ],
)
def test_another_method_is_refused_with_the_one_to_use(
    backend: Backend, method: str, path: str, allowed: str
) -> None:
    assert backend.ask(method, path) == refusal(
        405, f"{method} is not possible here; use {allowed}", f"Allow: {allowed}\r\n"
    )


# Who may ask.


def test_a_disabled_app_is_refused_only_to_whoever_can_sign_for_it() -> None:
    disabled = replace(APP, enabled=False)
    backend = Backend(disabled, OTHER)

    for method, path in (
        ("GET", "/channels"),
        ("GET", "/connections"),
        ("POST", "/events"),
        ("POST", "/users/7/terminate_connections"),
    ):
        assert backend.ask(method, path, app=disabled) == refusal(
            403, "The application is disabled"
        )
    unsigned = backend.ask("GET", "/channels", app=replace(disabled, secret="another-secret"))
    assert unsigned.status == 401
    assert backend.ask("GET", "/channels", app=OTHER).status == 200


@pytest.mark.parametrize(
    ("secret", "status"),
    [("new-secret", 200), (APP.secret, 200), ("older-secret", 200), ("another-secret", 401)],
)
def test_every_secret_of_an_app_signs_its_requests(secret: str, status: int) -> None:
    rotated = replace(APP, secret="new-secret", previous_secrets=(APP.secret, "older-secret"))
    backend = Backend(rotated)
    signer = replace(APP, secret=secret)

    assert backend.ask("GET", "/channels", app=signer).status == status
    assert backend.ask("POST", "/events", EVENT, app=signer).status == status


def test_one_app_cannot_sign_for_another() -> None:
    backend = Backend(APP, OTHER)

    answer = backend.ask("GET", "/channels/presence-room/users", app=OTHER, app_path="/apps/1001")

    assert answer == refusal(401, "auth_key is not the key of this application")


# How often one may ask.


TOO_MANY_PUBLISHES = refusal(
    429,
    "More than 2 publishes and terminations in a second; try again in 1 s",
    "Retry-After: 1\r\n",
)
TOO_MANY_READS = refusal(
    429, "More than 2 reads in a second; try again in 1 s", "Retry-After: 1\r\n"
)


def test_publishes_over_the_limit_are_refused_and_not_delivered() -> None:
    backend = Backend(replace(APP, publishes_per_second=2))
    listener = backend.listener("orders")

    assert [backend.publish() for _ in range(3)] == [EMPTY, EMPTY, TOO_MANY_PUBLISHES]
    assert backend.heard(listener) == [MADE, MADE]

    backend.clock.advance(0.25)
    assert backend.publish() == TOO_MANY_PUBLISHES
    backend.clock.advance(0.25)
    assert [backend.publish() for _ in range(2)] == [EMPTY, TOO_MANY_PUBLISHES]
    backend.clock.advance(60.0)
    assert [backend.publish() for _ in range(3)] == [EMPTY, EMPTY, TOO_MANY_PUBLISHES]


def test_reads_over_the_limit_are_refused() -> None:
    backend = Backend(replace(APP, reads_per_second=2))

    assert [backend.ask("GET", "/channels").status for _ in range(2)] == [200, 200]
    for path in ("/channels", "/channels/orders", "/connections", "/channels/presence-a/users"):
        assert backend.ask("GET", path) == TOO_MANY_READS
    backend.clock.advance(0.5)
    assert backend.ask("GET", "/channels").status == 200
    assert backend.ask("GET", "/channels") == TOO_MANY_READS


def test_every_way_to_publish_counts_and_reading_does_not() -> None:
    backend = Backend(replace(APP, publishes_per_second=2))
    batch = {"batch": [{"name": "made", "channel": "orders", "data": "1"}] * 10}

    assert backend.ask("POST", "/batch_events", batch) == EMPTY
    assert backend.ask("POST", "/users/7/terminate_connections") == EMPTY
    for path, body in (
        ("/batch_events", batch),
        ("/events", EVENT),
        ("/users/7/terminate_connections", {}),
    ):
        assert backend.ask("POST", path, body) == TOO_MANY_PUBLISHES
    assert backend.ask("GET", "/channels").status == 200


def test_each_app_has_limits_of_its_own() -> None:
    backend = Backend(replace(APP, publishes_per_second=2), replace(OTHER, publishes_per_second=2))
    for _ in range(2):
        backend.publish()

    assert backend.publish() == TOO_MANY_PUBLISHES
    assert backend.ask("POST", "/events", EVENT, app=OTHER) == EMPTY


def test_a_request_that_is_not_signed_takes_nothing_from_the_limit() -> None:
    backend = Backend(replace(APP, publishes_per_second=2))
    stranger = replace(APP, secret="another-secret")

    for _ in range(5):
        assert backend.ask("POST", "/events", EVENT, app=stranger).status == 401

    assert [backend.publish() for _ in range(3)] == [EMPTY, EMPTY, TOO_MANY_PUBLISHES]


def test_a_new_limit_holds_at_once_and_an_unchanged_one_goes_on() -> None:
    backend = Backend(replace(APP, publishes_per_second=1))
    backend.publish()

    backend.hubs.replace([replace(APP, publishes_per_second=2)])
    assert [backend.publish() for _ in range(3)] == [EMPTY, EMPTY, TOO_MANY_PUBLISHES]
    backend.hubs.replace([replace(APP, publishes_per_second=2, activity_timeout=99)])
    assert backend.publish() == TOO_MANY_PUBLISHES
    backend.hubs.replace([APP])
    assert [backend.publish() for _ in range(5)] == [EMPTY] * 5


# What is taken only once.


def test_an_event_with_a_known_key_is_answered_and_not_delivered_again(backend: Backend) -> None:
    listener = backend.listener("orders")

    for _ in range(3):
        assert backend.publish(idempotency_key="k") == EMPTY
    assert backend.publish(idempotency_key="another") == EMPTY
    assert backend.publish() == EMPTY

    assert backend.heard(listener) == [MADE] * 3


def test_the_key_may_stand_in_the_head(backend: Backend) -> None:
    listener = backend.listener("orders")

    for _ in range(2):
        assert backend.publish({KEY_HEADER: b"k"}) == EMPTY
    assert backend.publish({KEY_HEADER: b"another"}) == EMPTY

    assert backend.heard(listener) == [MADE] * 2


def test_the_key_in_the_body_counts_before_the_one_in_the_head(backend: Backend) -> None:
    listener = backend.listener("orders")

    backend.publish({KEY_HEADER: b"head"}, idempotency_key="one")
    backend.publish({KEY_HEADER: b"head"}, idempotency_key="two")
    assert backend.heard(listener) == [MADE] * 2

    backend.publish({KEY_HEADER: b"two"})
    assert backend.heard(listener) == []
    backend.publish({KEY_HEADER: b"head"})
    assert backend.heard(listener) == [MADE]


def test_a_key_is_forgotten_after_two_minutes(backend: Backend) -> None:
    listener = backend.listener("orders")
    backend.publish(idempotency_key="k")

    backend.clock.advance(119.0)
    backend.publish(idempotency_key="k")
    assert backend.heard(listener) == [MADE]
    backend.clock.advance(1.0)
    backend.publish(idempotency_key="k")
    assert backend.heard(listener) == [MADE]


def test_a_repeated_event_is_answered_like_the_first_whoever_has_come_since(
    backend: Backend,
) -> None:
    answer = Response(200, b'{"channels":{"orders":{"subscription_count":1}}}')
    listener = backend.listener("orders")
    assert backend.publish(idempotency_key="k", info="subscription_count") == answer

    backend.listener("orders")
    assert backend.publish(idempotency_key="k", info="subscription_count") == answer
    assert backend.publish({KEY_HEADER: b"k"}) == answer

    assert backend.heard(listener) == [MADE]


def test_a_key_goes_with_the_first_question_and_its_answer(backend: Backend) -> None:
    backend.listener("orders")

    assert backend.publish(idempotency_key="k") == EMPTY
    assert backend.publish(idempotency_key="k", info="subscription_count") == EMPTY


def test_a_batch_that_is_repeated_is_answered_like_the_first(backend: Backend) -> None:
    listener = backend.listener("orders")
    events = [{"name": "made", "channel": "orders", "data": n} for n in "12"]
    batch = {"batch": [events[0] | {"info": "subscription_count"}, events[1]]}
    answer = Response(200, b'{"batch":[{"subscription_count":1},{}]}')

    for _ in range(2):
        assert backend.ask("POST", "/batch_events", batch, headers={KEY_HEADER: b"k"}) == answer
        backend.listener("orders")

    assert backend.heard(listener) == [MADE, MADE.replace('"1"', '"2"')]


def test_the_key_of_a_batch_is_not_the_key_of_an_event(backend: Backend) -> None:
    listener = backend.listener("orders")
    batch = {"batch": [{"name": "made", "channel": "orders", "data": "2"}]}

    backend.publish({KEY_HEADER: b"k"}, info="subscription_count")
    assert backend.ask("POST", "/batch_events", batch, headers={KEY_HEADER: b"k"}) == EMPTY

    assert backend.heard(listener) == [MADE, MADE.replace('"1"', '"2"')]


def test_an_event_may_be_repeated_within_a_batch(backend: Backend) -> None:
    listener = backend.listener("orders")
    backend.publish(idempotency_key="k", info="subscription_count", channels=["orders", "other"])
    backend.listener("orders")
    event = {"name": "made", "data": "1", "idempotency_key": "k"}
    batch = {"batch": [event | {"channel": channel} for channel in ("other", "orders", "third")]}

    assert backend.ask("POST", "/batch_events", batch) == Response(
        200, b'{"batch":[{"subscription_count":0},{"subscription_count":1},{}]}'
    )

    assert backend.heard(listener) == [MADE]


def test_a_repeated_event_does_not_become_the_last_event_again(backend: Backend) -> None:
    for data in ("1", "2"):
        backend.publish(channels=["cache-prices"], data=data, idempotency_key=data)
    backend.publish(channels=["cache-prices"], data="1", idempotency_key="1")

    assert backend.ask("GET", "/channels/cache-prices", info="cache") == Response(
        200, b'{"occupied":false,"cache":{"data":"2","ttl":1800}}'
    )


def test_a_refused_event_does_not_use_its_key_up(backend: Backend) -> None:
    listener = backend.listener("orders")
    bad: list[dict[str, object]] = [
        {"name": ""},
        {"info": "user_count"},
        {"data": "x" * 10_241},
    ]
    for fields in bad:
        body = EVENT | fields | {"idempotency_key": "k"}
        assert backend.ask("POST", "/events", body).status in (400, 413)

    assert backend.publish(idempotency_key="k") == EMPTY

    assert backend.heard(listener) == [MADE]


@pytest.mark.parametrize("key", [b"", b"x" * 201])
def test_a_key_in_the_head_that_is_empty_or_too_long_is_refused(
    backend: Backend, key: bytes
) -> None:
    listener = backend.listener("orders")
    refused = refusal(400, "An idempotency key has 1 to 200 characters")
    batch = {"batch": [{"name": "made", "channel": "orders", "data": "1"}]}

    assert backend.publish({KEY_HEADER: key}) == refused
    assert backend.ask("POST", "/batch_events", batch, headers={KEY_HEADER: key}) == refused
    assert backend.heard(listener) == []


def test_a_key_in_the_head_holds_for_the_whole_batch(backend: Backend) -> None:
    listener = backend.listener("orders")
    batch = {"batch": [{"name": "made", "channel": "orders", "data": n} for n in "12"]}

    for _ in range(2):
        assert backend.ask("POST", "/batch_events", batch, headers={KEY_HEADER: b"k"}) == EMPTY

    assert backend.heard(listener) == [MADE, MADE.replace('"1"', '"2"')]


def test_each_event_of_a_batch_may_have_a_key(backend: Backend) -> None:
    listener = backend.listener("orders")
    event = {"name": "made", "channel": "orders"}
    counted = {"data": "1", "idempotency_key": "k1", "info": "subscription_count"}
    first = {"batch": [event | counted, event | {"data": "2"}]}
    second = {
        "batch": [
            event | {"data": "1", "idempotency_key": "k1"},
            event | {"data": "3", "idempotency_key": "k3"},
            event | {"data": "3", "idempotency_key": "k3"},
        ]
    }

    assert backend.ask("POST", "/batch_events", first) == Response(
        200, b'{"batch":[{"subscription_count":1},{}]}'
    )
    backend.listener("orders")
    assert backend.ask("POST", "/batch_events", second) == Response(
        200, b'{"batch":[{"subscription_count":1},{},{}]}'
    )

    assert backend.heard(listener) == [MADE.replace('"1"', f'"{n}"') for n in "123"]


def test_apps_do_not_share_their_keys() -> None:
    backend = Backend(APP, OTHER)
    listener = backend.client(OTHER)
    listener.hub.subscribe(listener, "orders")
    listener.writes.clear()

    backend.publish(idempotency_key="k")
    backend.ask("POST", "/events", EVENT | {"idempotency_key": "k"}, app=OTHER)

    assert backend.heard(listener) == [MADE]


# The same over the network, where it takes part in what HTTP does.


async def test_a_refusal_for_haste_says_on_the_wire_when_to_come_back() -> None:
    app = replace(APP, reads_per_second=1)
    async with serving(app) as server, connected_socket(server) as client:
        path = f"/apps/{app.id}/connections"
        query = signed_query(app.key, app.secret, "GET", path, b"", int(time.time()))
        written = "&".join(f"{name}={value}" for name, value in query.items())
        await client.send(request(f"GET {path}?{written}") * 2)

        assert (await client.receive_answer()).status == 200
        answer = await client.receive_answer()
        assert answer.status == 429
        assert answer.body == b"More than 1 reads in a second; try again in 1 s"
        assert answer.headers["retry-after"] == "1"


async def test_a_key_in_a_real_head_is_found_however_it_is_spelt(server: TestServer) -> None:
    app = server.app
    async with server.connected() as listener, connected_socket(server) as client:
        await listener.subscribe("orders")
        body = orjson.dumps(EVENT)
        path = f"/apps/{app.id}/events"
        query = signed_query(app.key, app.secret, "POST", path, body, int(time.time()))
        written = "&".join(f"{name}={value}" for name, value in query.items())
        for name in ("X-Idempotency-Key", "x-idempotency-key"):
            await client.send(request(f"POST {path}?{written}", f"{name}: k", body=body))
            assert (await client.receive_answer()).body == b"{}"

        assert await listener.receive() == MADE
        await listener.ping()


async def test_a_terminated_client_is_told_why_and_the_others_that_it_left(
    server: TestServer,
) -> None:
    async with server.connected() as witness, server.connected() as client:
        await witness.subscribe("presence-room", '{"user_id":"8"}')
        await client.sign_in('{"id":"7"}')
        await client.subscribe("presence-room")
        assert (await witness.receive()).startswith('{"event":"pusher_internal:member_added"')
        assert await server.request("GET", "/channels/presence-room/users") == (
            200,
            '{"users":[{"id":"8"},{"id":"7"}]}',
        )

        assert await server.request("POST", "/users/7/terminate_connections", {}) == (200, "{}")

        assert await client.receive() == (
            '{"event":"pusher:error","data":{"code":4009,'
            '"message":"Connection terminated by the application"}}'
        )
        assert await client.closed() == (4009, "Connection terminated by the application")
        assert await witness.receive() == (
            '{"event":"pusher_internal:member_removed","channel":"presence-room",'
            '"data":"{\\"user_id\\":\\"7\\"}"}'
        )
        assert await server.request("GET", "/channels/presence-room/users") == (
            200,
            '{"users":[{"id":"8"}]}',
        )
