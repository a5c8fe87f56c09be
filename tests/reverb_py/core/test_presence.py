"""Presence channels: who is told of whom, exactly once, and what a new member gets to see."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from reverb_py.core.apps import App
from reverb_py.core.timer_wheel import TimerWheel
from reverb_py.protocol.errors import ErrorCode
from tests.support.notices import RecordingNotices
from tests.support.sessions import APP, RecordingSession, ScriptedRandom, Turns, hub_of

ROOM = "presence-room"
CHANNEL_DATA = '{"user_id":10,"user_info":{"name":"Mr. Channels"}}'
AUTH = "278d425bdf160c739803:31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"
"""The published signature of socket 1234.1234 for presence-foobar with this data."""


def message(event: str, channel: str, data: str) -> str:
    written = json.dumps(data, ensure_ascii=False)
    return f'{{"event":"{event}","channel":"{channel}","data":{written}}}'


def succeeded(channel: str, members: dict[str, str]) -> str:
    """Return the success with these members, ids to JSON."""
    ids = ",".join(f'"{user_id}"' for user_id in members)
    infos = ",".join(f'"{user_id}":{info}' for user_id, info in members.items())
    return message(
        "pusher_internal:subscription_succeeded",
        channel,
        f'{{"presence":{{"count":{len(members)},"ids":[{ids}],"hash":{{{infos}}}}}}}',
    )


def added(channel: str, user_id: str, info: str) -> str:
    data = f'{{"user_id":"{user_id}","user_info":{info}}}'
    return message("pusher_internal:member_added", channel, data)


def removed(channel: str, user_id: str) -> str:
    return message("pusher_internal:member_removed", channel, f'{{"user_id":"{user_id}"}}')


def refused(channel: str, kind: str, status: int, reason: str) -> list[str]:
    details = {"type": kind, "error": reason, "status": status}
    written = json.dumps(details, separators=(",", ":"), ensure_ascii=False)
    return [
        message("pusher:subscription_error", channel, written),
        f'{{"event":"pusher:error","data":{{"code":4300,"message":{json.dumps(reason)}}}}}',
    ]


def join(session: RecordingSession, channel: str, channel_data: str | None) -> None:
    """Have a client ask to join, with a good signature."""
    data = {"channel": channel, "auth": session.auth_for(channel, channel_data)}
    if channel_data is not None:
        data["channel_data"] = channel_data
    session.receive(json.dumps({"event": "pusher:subscribe", "data": data}))


class House:
    """An app whose presence channels its clients join by asking, with signatures."""

    def __init__(self, app: App = APP) -> None:
        self.turns = Turns()
        self.notices = RecordingNotices()
        self.hub = hub_of(app, turns=self.turns, notices=self.notices)

    def client(self) -> RecordingSession:
        return RecordingSession.begun(self.hub)

    def joined(
        self, session: RecordingSession, channel_data: str, channel: str = ROOM
    ) -> list[str]:
        """Have a client join, end the turn, and return what it is told."""
        join(session, channel, channel_data)
        self.turns.end()
        return session.texts()

    def member(self, channel_data: str, channel: str = ROOM) -> RecordingSession:
        """Return a client that has joined and read everything."""
        session = self.client()
        self.joined(session, channel_data, channel)
        return session

    def ends(self, session: RecordingSession) -> None:
        session.end()
        self.turns.end()


def test_the_published_signature_lets_its_member_in() -> None:
    turns = Turns()
    hub = hub_of(turns=turns, source=ScriptedRandom(1234, 1234))
    client = RecordingSession.begun(hub)

    client.receive(
        '{"event":"pusher:subscribe","data":{"channel":"presence-foobar",'
        f'"auth":"{AUTH}","channel_data":{json.dumps(CHANNEL_DATA)}}}}}'
    )

    assert client.texts() == [
        '{"event":"pusher_internal:subscription_succeeded","channel":"presence-foobar",'
        '"data":"{\\"presence\\":{\\"count\\":1,\\"ids\\":[\\"10\\"],'
        '\\"hash\\":{\\"10\\":{\\"name\\":\\"Mr. Channels\\"}}}}"}'
    ]


def test_the_others_are_told_of_a_new_member_and_the_new_one_of_all() -> None:
    house = House()
    ada = house.member('{"user_id":"7","user_info":{"name":"Ada"}}')
    bo = house.client()

    assert house.joined(bo, '{"user_id":"9"}') == [
        succeeded(ROOM, {"7": '{"name":"Ada"}', "9": "null"})
    ]
    assert ada.texts() == [
        '{"event":"pusher_internal:member_added","channel":"presence-room",'
        '"data":"{\\"user_id\\":\\"9\\",\\"user_info\\":null}"}'
    ]


def test_the_others_are_told_when_a_member_leaves() -> None:
    house = House()
    ada, bo = house.member('{"user_id":"7"}'), house.member('{"user_id":"9"}')
    ada.writes.clear()

    bo.receive('{"event":"pusher:unsubscribe","data":{"channel":"presence-room"}}')
    house.turns.end()

    assert ada.texts() == [
        '{"event":"pusher_internal:member_removed","channel":"presence-room",'
        '"data":"{\\"user_id\\":\\"9\\"}"}'
    ]
    assert bo.texts() == []


def test_a_second_connection_of_a_user_is_announced_to_nobody() -> None:
    house = House()
    other = house.member('{"user_id":"7"}')
    first = house.member('{"user_id":"9","user_info":"first"}')
    other.writes.clear()
    second = house.client()

    assert house.joined(second, '{"user_id":"9","user_info":"second"}') == [
        succeeded(ROOM, {"7": "null", "9": '"first"'})
    ]
    house.ends(first)
    assert (other.texts(), second.texts()) == ([], [])

    house.ends(second)
    assert other.texts() == [removed(ROOM, "9")]


@pytest.mark.parametrize(
    ("channel_data", "user_id", "info"),
    [
        ('{"user_id":7}', "7", "null"),
        ('{"user_id":-7}', "-7", "null"),
        ('{"user_id":99999999999999999999}', "99999999999999999999", "null"),
        ('{"user_id":"7","user_info":null}', "7", "null"),
        ('{"user_id":"7","user_info":[1, {"a" : "ł"}]}', "7", '[1, {"a" : "ł"}]'),
        ('{ "user_info" : "x" , "user_id" : "7" }', "7", '"x"'),
        ('{"user_id":"7","role":"admin","user_info":0}', "7", "0"),
        (f'{{"user_id":"{"x" * 128}"}}', "x" * 128, "null"),
    ],
)
def test_the_others_learn_id_and_info_and_nothing_else(
    channel_data: str, user_id: str, info: str
) -> None:
    house = House()
    witness = house.member('{"user_id":"witness"}')

    answer = house.joined(house.client(), channel_data)

    assert answer == [succeeded(ROOM, {"witness": "null", user_id: info})]
    assert witness.texts() == [added(ROOM, user_id, info)]


def test_a_number_and_a_string_are_the_same_user() -> None:
    house = House()
    first = house.member('{"user_id":7}')

    house.member('{"user_id":"7"}')

    assert first.texts() == []
    members = house.hub.channels[ROOM].members
    assert members is not None
    assert members.user_ids == ["7"]


def test_joining_again_repeats_the_answer_and_nothing_else() -> None:
    house = House()
    witness = house.member('{"user_id":"7"}')
    client = house.member('{"user_id":"9","user_info":1}')
    witness.writes.clear()
    house.notices.take()

    assert house.joined(client, '{"user_id":"9","user_info":2}') == [
        succeeded(ROOM, {"7": "null", "9": "1"})
    ]
    house.ends(client)

    assert witness.texts() == [removed(ROOM, "9")]
    assert house.notices.take() == [
        "1001 member_removed presence-room 9",
        "1001 subscription_count presence-room 1",
    ]


def test_a_connection_cannot_become_another_member_without_leaving() -> None:
    house = House()
    witness = house.member('{"user_id":"7"}')
    client = house.member('{"user_id":"9"}')
    witness.writes.clear()

    assert house.joined(client, '{"user_id":"10"}') == refused(
        ROOM,
        "InvalidMember",
        409,
        "This connection is in presence-room as another user: unsubscribe first",
    )
    assert witness.texts() == []

    client.receive('{"event":"pusher:unsubscribe","data":{"channel":"presence-room"}}')
    assert house.joined(client, '{"user_id":"10"}') == [
        succeeded(ROOM, {"7": "null", "10": "null"})
    ]
    assert witness.texts() == [removed(ROOM, "9"), added(ROOM, "10", "null")]


def test_a_member_of_a_full_room_may_ask_again() -> None:
    house = House(replace(APP, max_presence_members=1))
    client = house.member('{"user_id":"9"}')

    assert house.joined(client, '{"user_id":9}') == [succeeded(ROOM, {"9": "null"})]


def test_a_member_sees_nothing_from_before_its_success_and_everything_after() -> None:
    house = House()
    witness = house.member('{"user_id":"7"}')
    client = house.client()

    house.hub.publish("before", "1", [ROOM])
    join(client, ROOM, '{"user_id":"9"}')
    house.hub.publish("after", "2", [ROOM])
    house.turns.end()

    before, after = message("before", ROOM, "1"), message("after", ROOM, "2")
    assert client.texts() == [succeeded(ROOM, {"7": "null", "9": "null"}), after]
    assert witness.texts() == [before, added(ROOM, "9", "null"), after]


def test_coming_and_going_in_one_turn_is_told_in_that_order() -> None:
    house = House()
    witness = house.member('{"user_id":"7"}')
    client = house.client()

    join(client, ROOM, '{"user_id":"9"}')
    client.receive('{"event":"pusher:unsubscribe","data":{"channel":"presence-room"}}')
    join(client, ROOM, '{"user_id":"9"}')
    client.end()
    house.turns.end()

    assert witness.texts() == [
        added(ROOM, "9", "null"),
        removed(ROOM, "9"),
        added(ROOM, "9", "null"),
        removed(ROOM, "9"),
    ]


def test_who_comes_back_within_a_turn_hears_what_comes_after_the_return() -> None:
    house = House()
    witness, client = house.member('{"user_id":"7"}'), house.member('{"user_id":"9"}')
    witness.writes.clear()

    house.hub.publish("said", "1", [ROOM])
    client.receive('{"event":"pusher:unsubscribe","data":{"channel":"presence-room"}}')
    house.hub.publish("said", "2", [ROOM], witness.socket_id)
    join(client, ROOM, '{"user_id":"9"}')
    house.hub.publish("said", "3", [ROOM])
    house.turns.end()

    said = [message("said", ROOM, data) for data in "123"]
    assert client.texts() == [succeeded(ROOM, {"7": "null", "9": "null"}), said[2]]
    assert witness.texts() == [said[0], removed(ROOM, "9"), added(ROOM, "9", "null"), said[2]]


def test_two_connections_of_a_user_that_change_places_within_a_turn_are_no_news() -> None:
    house = House()
    witness, first = house.member('{"user_id":"7"}'), house.member('{"user_id":"9"}')
    witness.writes.clear()

    second = house.client()
    join(second, ROOM, '{"user_id":9}')
    first.end()
    house.turns.end()

    assert witness.texts() == []
    assert second.texts() == [succeeded(ROOM, {"7": "null", "9": "null"})]


def test_a_user_who_is_terminated_in_the_turn_of_joining_came_and_went() -> None:
    house = House()
    witness, client = house.member('{"user_id":"7"}'), house.client()
    client.end_when_closed()

    join(client, ROOM, '{"user_id":"9"}')
    house.hub.terminate("9")
    house.turns.end()

    assert client.texts() == [succeeded(ROOM, {"7": "null", "9": "null"})]
    assert client.closed == [(ErrorCode.UNAUTHORIZED, "Connection terminated by the application")]
    assert witness.texts() == [added(ROOM, "9", "null"), removed(ROOM, "9")]


def test_members_of_different_channels_have_nothing_to_do_with_each_other() -> None:
    house = House()
    elsewhere = house.member('{"user_id":"7"}', "presence-elsewhere")
    client = house.client()

    house.joined(client, '{"user_id":"9"}')
    house.ends(client)

    assert elsewhere.texts() == []
    assert list(house.hub.channels) == ["presence-elsewhere"]


def test_a_disconnect_leaves_every_channel_once() -> None:
    house = House()
    witness = house.member('{"user_id":"7"}')
    house.joined(witness, '{"user_id":"8"}', "presence-other")
    client = house.member('{"user_id":"9"}')
    house.joined(client, '{"user_id":"10"}', "presence-other")
    witness.writes.clear()

    client.end()
    client.end()
    house.turns.end()

    assert witness.texts() == [removed(ROOM, "9"), removed("presence-other", "10")]


def test_notices_are_told_in_order() -> None:
    house = House()
    first = house.member('{"user_id":"7"}')
    assert house.notices.take() == [
        "1001 channel_occupied presence-room",
        "1001 member_added presence-room 7",
        "1001 subscription_count presence-room 1",
    ]

    second = house.member('{"user_id":"7"}')
    assert house.notices.take() == ["1001 subscription_count presence-room 2"]
    third = house.member('{"user_id":"9"}')
    assert house.notices.take() == [
        "1001 member_added presence-room 9",
        "1001 subscription_count presence-room 3",
    ]

    house.ends(first)
    assert house.notices.take() == ["1001 subscription_count presence-room 2"]
    house.ends(second)
    assert house.notices.take() == [
        "1001 member_removed presence-room 7",
        "1001 subscription_count presence-room 1",
    ]
    house.ends(third)
    assert house.notices.take() == [
        "1001 member_removed presence-room 9",
        "1001 channel_vacated presence-room",
    ]


@pytest.mark.parametrize("room", [ROOM, "presence-cache-room"])
def test_a_client_event_says_which_member_sent_it(room: str) -> None:
    house = House()
    sender, other = house.member('{"user_id":7}', room), house.member('{"user_id":"9"}', room)
    sender.writes.clear()
    house.notices.take()

    sender.receive(
        f'{{"event":"client-typing","channel":"{room}","data":{{"on":true}},"user_id":"9"}}'
    )
    house.turns.end()

    assert other.texts() == [
        f'{{"event":"client-typing","channel":"{room}","data":{{"on":true}},"user_id":"7"}}'
    ]
    assert sender.texts() == []
    assert house.notices.take() == [
        f'1001 client_event {room} client-typing {{"on":true}} {sender.socket_id} 7'
    ]


# Refusals.


def test_a_member_needs_data() -> None:
    house = House()
    client = house.client()

    join(client, ROOM, None)

    reason = "A presence subscription needs channel_data, or a signin"
    assert client.texts() == refused(ROOM, "AuthError", 401, reason)
    assert house.hub.channels == {}
    assert house.notices.take() == []


@pytest.mark.parametrize("signed", [None, '{"user_id":"8"}', '{"user_id": "7"}'])
def test_the_data_must_be_what_was_signed(signed: str | None) -> None:
    house = House()
    client = house.client()
    auth = client.auth_for(ROOM, signed)
    data = {"channel": ROOM, "auth": auth, "channel_data": '{"user_id":"7"}'}

    client.receive(json.dumps({"event": "pusher:subscribe", "data": data}))

    assert client.texts() == refused(
        ROOM,
        "AuthError",
        401,
        "Invalid auth for presence-room: expected APP_KEY:SIGNATURE, where SIGNATURE is the hex "
        f"HMAC-SHA256 of {client.socket_id}:presence-room:CHANNEL_DATA under the app's secret",
    )
    assert house.hub.channels == {}


@pytest.mark.parametrize(
    ("channel_data", "complaint"),
    [
        ("{}", "Object missing required field `user_id`"),
        ("[]", "Expected `object`, got `array`"),
        ("7", "Expected `object`, got `int`"),
        ('{"user_id":""}', "`user_id` must have 1 to 128 characters"),
        (f'{{"user_id":"{"x" * 129}"}}', "`user_id` must have 1 to 128 characters"),
        ('{"user_id":null}', "Expected `int | str`, got `null` - at `$.user_id`"),
        ('{"user_id":"7"', "Input data was truncated"),
    ],
)
def test_a_signed_member_that_is_none_is_refused(channel_data: str, complaint: str) -> None:
    house = House()

    answer = house.joined(house.client(), channel_data)

    assert answer == refused(ROOM, "InvalidMember", 400, f"Invalid channel_data: {complaint}")
    assert house.hub.channels == {}


def test_the_members_data_may_have_so_many_bytes_and_no_more() -> None:
    house = House(replace(APP, max_presence_member_bytes=40))
    fits = '{"user_id":"7","user_info":"' + "é" * 5 + '"}'
    assert len(fits.encode()) == 40

    assert house.joined(house.client(), fits) == [succeeded(ROOM, {"7": '"ééééé"'})]
    assert house.joined(house.client(), fits + " ") == refused(
        ROOM, "LimitReached", 413, "channel_data has more than 40 bytes"
    )


def test_the_members_data_may_have_no_limit() -> None:
    house = House(replace(APP, max_presence_member_bytes=0))
    info = '"' + "i" * 5_000 + '"'

    assert house.joined(house.client(), f'{{"user_id":"7","user_info":{info}}}') == [
        succeeded(ROOM, {"7": info})
    ]


def test_a_full_room_takes_no_further_user_but_further_connections() -> None:
    house = House(replace(APP, max_presence_members=2))
    seven = house.member('{"user_id":"7"}')
    house.member('{"user_id":"8"}')
    seven.writes.clear()
    client = house.client()

    assert house.joined(client, '{"user_id":"9"}') == refused(
        ROOM, "LimitReached", 403, "presence-room has 2 members already"
    )
    assert house.joined(house.client(), '{"user_id":"8"}') == [
        succeeded(ROOM, {"7": "null", "8": "null"})
    ]
    assert seven.texts() == []

    house.ends(seven)
    assert house.joined(client, '{"user_id":"9"}') == [succeeded(ROOM, {"8": "null", "9": "null"})]


def test_a_room_may_have_no_limit() -> None:
    house = House(replace(APP, max_presence_members=0))
    for n in range(150):
        house.member(f'{{"user_id":{n}}}')

    members = house.hub.channels[ROOM].members
    assert members is not None
    assert len(members) == 150


# Terminating a user.


def test_terminating_a_user_closes_its_connections_in_every_room() -> None:
    house = House()
    mine = [house.member('{"user_id":"7"}', channel) for channel in (ROOM, ROOM, "presence-other")]
    for session in mine:
        session.end_when_closed()
    house.joined(mine[0], '{"user_id":"7"}', "presence-other")
    other = house.member('{"user_id":"8"}')
    other.writes.clear()

    house.hub.terminate("7")
    house.turns.end()

    for session in mine:
        assert session.closed == [
            (ErrorCode.UNAUTHORIZED, "Connection terminated by the application")
        ]
    assert other.closed == []
    assert other.texts() == [removed(ROOM, "7")]
    assert list(house.hub.channels) == [ROOM]


def test_terminating_a_user_who_is_not_there_changes_nothing() -> None:
    house = House()
    other = house.member('{"user_id":"8"}')

    house.hub.terminate("7")
    house.turns.end()

    assert other.closed == []
    assert house.notices.take()[-1] == "1001 subscription_count presence-room 1"


# Everything at once.


@dataclass(eq=False)
class Client:
    """One connection, what it should have been told, and in which rooms it should be."""

    session: RecordingSession
    told: list[str] = field(default_factory=list)
    rooms: dict[str, str] = field(default_factory=dict)


class Presence(RuleBasedStateMachine):
    """
    Clients join, leave and vanish, in turns of any length, under a limit of three members.

    The model keeps the connections of each room in a list and tells everyone at once.
    """

    clients: Bundle[Client] = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self.notices = RecordingNotices()
        self.wheel = TimerWheel(0.0)
        self.hub = hub_of(
            replace(APP, max_presence_members=3, subscription_counts=True),
            turns=self.turns,
            notices=self.notices,
            wheel=self.wheel,
            source=random.Random(7),
        )
        self.connections: dict[str, list[Client]] = {}
        self.infos: dict[str, dict[str, str]] = {}
        self.noticed: list[str] = []
        self.serial = 0

    @rule(target=clients)
    def connect(self) -> Client:
        return Client(RecordingSession.begun(self.hub))

    @rule(
        client=clients,
        channel=st.sampled_from(["presence-a", "presence-b"]),
        user_id=st.sampled_from(["1", "2", "3", "4"]),
    )
    def join(self, client: Client, channel: str, user_id: str) -> None:
        self.serial += 1
        user_id = client.rooms.get(channel, user_id)
        info = str(self.serial)
        join(client.session, channel, f'{{"user_id":"{user_id}","user_info":{info}}}')

        present = self.infos.setdefault(channel, {})
        others = self.connections.setdefault(channel, [])
        if user_id not in present and len(present) == 3:
            reason = f"{channel} has 3 members already"
            client.told += refused(channel, "LimitReached", 403, reason)
            return
        if not others:
            self.noticed.append(f"1001 channel_occupied {channel}")
        if user_id not in present:
            present[user_id] = info
            self.noticed.append(f"1001 member_added {channel} {user_id}")
            for other in others:
                other.told.append(added(channel, user_id, info))
        client.told.append(succeeded(channel, present))
        if client not in others:
            others.append(client)
            client.rooms[channel] = user_id
            self.noticed.append(f"1001 subscription_count {channel} {len(others)}")

    @rule(channel=st.sampled_from(["presence-a", "presence-b"]))
    def publish(self, channel: str) -> None:
        self.serial += 1
        self.hub.publish("said", str(self.serial), [channel])
        for client in self.connections.get(channel, ()):
            client.told.append(message("said", channel, str(self.serial)))

    @rule(client=clients, channel=st.sampled_from(["presence-a", "presence-b"]))
    def unsubscribe(self, client: Client, channel: str) -> None:
        # What waits for the end of the turn is not waited for by whoever leaves.
        self.end_turn()
        client.session.receive(f'{{"event":"pusher:unsubscribe","data":{{"channel":"{channel}"}}}}')
        self._leaves(client, channel)

    @rule(client=consumes(clients))
    def disconnect(self, client: Client) -> None:
        self.end_turn()
        client.session.end()
        for channel in list(client.rooms):
            self._leaves(client, channel)

    @rule()
    def end_turn(self) -> None:
        self.turns.end()
        clients = {id(c): c for there in self.connections.values() for c in there}
        for client in clients.values():
            self._is_told_all(client)

    def _leaves(self, client: Client, channel: str) -> None:
        user_id = client.rooms.pop(channel, None)
        if user_id is None:
            return
        others = self.connections[channel]
        others.remove(client)
        if user_id not in [other.rooms[channel] for other in others]:
            del self.infos[channel][user_id]
            self.noticed.append(f"1001 member_removed {channel} {user_id}")
            for other in others:
                other.told.append(removed(channel, user_id))
        if others:
            self.noticed.append(f"1001 subscription_count {channel} {len(others)}")
        else:
            self.noticed.append(f"1001 channel_vacated {channel}")
        if not client.rooms:
            self.turns.end()
            self._is_told_all(client)

    def _is_told_all(self, client: Client) -> None:
        assert client.session.texts() == client.told
        client.told.clear()

    @invariant()
    def everybody_counted_is_there(self) -> None:
        occupied = {channel for channel, there in self.connections.items() if there}
        assert set(self.hub.channels) == occupied
        for name, channel in self.hub.channels.items():
            assert channel.members is not None
            assert channel.members.user_ids == list(self.infos[name])
            assert [(s, user_id) for s, user_id in channel.subscribers.items()] == [
                (client.session, client.rooms[name]) for client in self.connections[name]
            ]
        assert self.notices.take() == self.noticed
        self.noticed.clear()

    def teardown(self) -> None:
        self.end_turn()
        for session in list(self.hub.sessions.values()):
            session.end()
        self.turns.end()
        assert (self.hub.channels, self.hub.sessions) == ({}, {})
        self.wheel.advance(1_000.0)
        assert self.turns.scheduled == []


TestPresence = Presence.TestCase
TestPresence.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
