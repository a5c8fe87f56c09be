"""What is owed to devices reaches Google, whatever happens, and nothing else waits for it."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs
from structlog.typing import EventDict

from chat_api.features.notifications.delivery import PushDelivery
from chat_api.features.notifications.models import OwedPush
from chat_api.features.notifications.service import Push
from chat_api.store.engine import Store
from tests.chat_api.features.notifications.google import (
    FORBIDDEN,
    UNAVAILABLE,
    UNREGISTERED,
    FakeGoogle,
    Refusal,
    refusal,
)
from tests.chat_api.features.notifications.posts import HELLO, RETRIES, Owed, Post

ALI, VALI = 1, 2
PHONE = "phone-of-ali:APA91bH_x-7Qk"
TABLET = "tablet-of-ali:APA91bF_y-8Rl"


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    """Collect what is logged, and fail if it betrays a device or a way to send."""
    with capture_logs() as logs:
        yield logs
    said = repr(logs)
    for secret in (PHONE, TABLET, "ya29.", "PRIVATE KEY", HELLO.body):
        assert secret not in said


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask the database until it is so."""
    async with asyncio.timeout(60):
        while not await condition():
            pass


async def until_owed(post: Post, expected: list[Owed]) -> None:
    async def is_so() -> bool:
        return await post.owed() == expected

    try:
        await until(is_so)
    except TimeoutError:
        assert await post.owed() == expected
        raise


async def until_devices_are(post: Post, *tokens: str) -> None:
    async def is_so() -> bool:
        return await post.tokens() == sorted(tokens)

    await until(is_so)


async def counted(delivery: PushDelivery) -> tuple[float, ...]:
    """Return what operators are shown: how many were sent, and how many dropped."""
    samples = {measure.name: await measure.read() for measure in delivery.measures()}
    return samples["pushes_sent_total"][()], samples["pushes_dropped_total"][()]


def events(logs: list[EventDict]) -> list[str]:
    return [f"{entry['log_level']}: {entry['event']}" for entry in logs]


async def test_each_device_gets_one_message_of_its_own(post: Post, google: FakeGoogle) -> None:
    await post.register(ALI, PHONE, TABLET)
    await post.register(VALI, "phone-of-vali")
    async with post.delivering() as delivery:
        assert await post.owe([ALI, ALI]) is True
        delivered = await google.delivers(2)

    message = {
        "token": PHONE,
        "notification": {"title": "Hello", "body": "How are you?"},
        "data": {"type": "greeting", "to": "you"},
        "android": {"priority": "high"},
        "apns": {"payload": {"aps": {"sound": "default", "badge": 1}}},
    }
    by_token = sorted(delivered, key=lambda each: str(each["token"]))
    assert by_token == [message, {**message, "token": TABLET}]
    assert await post.owed() == []
    assert await counted(delivery) == (2, 0)
    assert len(google.access_tokens) == 1


async def test_nobody_is_owed_anything_without_a_device(post: Post) -> None:
    await post.register(VALI, "phone-of-vali")

    assert await post.owe([ALI, 3, 4]) is False
    assert await post.owe([]) is False
    assert await post.owed() == []


async def test_what_is_undone_was_never_owed(post: Post, google: FakeGoogle) -> None:
    await post.register(ALI, PHONE)
    async with post.delivering():
        with pytest.raises(ZeroDivisionError):
            await post.store.write(lambda unit: (post.pushes.owe(unit, [ALI], HELLO), 1 // 0))
        await post.owe([ALI], Push("Later", "", {}))
        [message] = await google.delivers(1)

    assert message["notification"]["title"] == "Later"


async def test_a_start_sends_what_a_crash_left_between_commit_and_sending(
    post: Post, google: FakeGoogle
) -> None:
    await post.register(ALI, PHONE)
    assert await post.owe([ALI]) is True  # and nobody was there to send it

    async with post.delivering():
        await google.delivers(1)

    assert google.tried == [PHONE]
    assert await post.owed() == []


async def test_what_a_dead_process_was_sending_is_sent_when_its_claim_ends(
    post: Post, google: FakeGoogle
) -> None:
    await post.register(ALI, PHONE)
    await post.owe([ALI])
    claimed = update(OwedPush).values(attempts=1, next_attempt_at=post.now + timedelta(seconds=60))
    await post.store.write(lambda unit: unit.connection.execute(claimed))
    async with post.delivering():
        await post.register(ALI, TABLET)
        await post.owe([ALI], Push("Newer", "", {}))
        await google.delivers(2)
        assert [message["notification"]["title"] for message in google.delivered] == ["Newer"] * 2

        post.pass_time(60)
        assert (await google.delivers(3))[2]["notification"]["title"] == "Hello"


async def test_of_two_processes_on_a_database_only_one_sends(
    post: Post, google: FakeGoogle, database: str
) -> None:
    tokens = [f"device-{number:02}" for number in range(60)]
    for user_id in (1, 2, 3):
        await post.register(user_id, *tokens[(user_id - 1) * 20 : user_id * 20])
    other = Post(Store(database), google, post.account)
    async with post.delivering(), other.delivering():
        await post.owe([1, 2, 3])
        other.wake()
        await google.delivers(60)
    await other.store.close()

    assert sorted(google.tried) == tokens


async def test_only_so_many_are_under_way_at_once(post: Post, google: FakeGoogle) -> None:
    for user_id in (1, 2, 3):
        await post.register(user_id, *(f"device-{user_id}-{number}" for number in range(20)))
    google.hangs = asyncio.Event()
    async with post.delivering():
        await post.owe([1, 2, 3])
        await google.until(lambda: google.under_way == 20)
        google.hangs.set()
        await google.delivers(60)

    assert google.most_under_way == 20


async def test_a_google_that_hangs_delays_nobody_else(post: Post, google: FakeGoogle) -> None:
    await post.register(ALI, PHONE)
    google.hangs = asyncio.Event()
    async with post.delivering(drain=0, patience=1_000):
        assert await post.owe([ALI]) is True
        await google.until(lambda: google.under_way == 1)
        async with asyncio.timeout(45):
            assert await post.owe([ALI]) is True
            await post.register(VALI, "phone-of-vali")
    # It stops at once, too, and gives back what it has not finished.
    assert await post.owed() == [Owed(PHONE, "Hello", 0, 0.0)] * 2


async def test_stopping_sends_first_what_can_be_sent(post: Post, google: FakeGoogle) -> None:
    await post.register(ALI, *(f"device-{number:02}" for number in range(20)))
    async with post.delivering():
        for _ in range(3):
            await post.owe([ALI])

    assert len(google.delivered) == 60
    assert await post.owed() == []


@pytest.mark.parametrize(
    "answer",
    [
        UNREGISTERED,
        refusal(404, "NOT_FOUND", "Requested entity was not found."),
        refusal(
            400,
            "INVALID_ARGUMENT",
            "The registration token is not a valid FCM registration token",
            "INVALID_ARGUMENT",
        ),
        refusal(
            400,
            "INVALID_ARGUMENT",
            "Request contains an invalid argument.",
            "INVALID_ARGUMENT",
            violation="message.token",
        ),
    ],
)
async def test_a_device_that_google_does_not_know_is_removed(
    post: Post, google: FakeGoogle, answer: Refusal, logs: list[EventDict]
) -> None:
    await post.register(ALI, PHONE, TABLET)
    google.answers_to[PHONE] = answer
    async with post.delivering() as delivery:
        await post.owe([ALI])
        await until_devices_are(post, TABLET)
        await google.delivers(1)
    assert await counted(delivery) == (1, 1)
    assert await post.owed() == []
    assert events(logs) == ["info: A device is unknown to Google by now and was removed"]

    google.answers_to.clear()
    async with post.delivering():
        await post.owe([ALI])
        await google.delivers(2)
    assert google.tried.count(PHONE) == 1


@pytest.mark.parametrize(
    "answer",
    [
        refusal(400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
        refusal(
            400,
            "INVALID_ARGUMENT",
            "Invalid data key",
            "INVALID_ARGUMENT",
            violation="message.data",
        ),
        refusal(403, "PERMISSION_DENIED", "SenderId mismatch", "SENDER_ID_MISMATCH"),
        refusal(401, "UNAUTHENTICATED", "APNS certificate", "THIRD_PARTY_AUTH_ERROR"),
    ],
)
async def test_what_google_refuses_for_one_device_is_given_up_for_that_one(
    post: Post, google: FakeGoogle, answer: Refusal, logs: list[EventDict]
) -> None:
    await post.register(ALI, PHONE, TABLET)
    google.answers_to[PHONE] = answer
    async with post.delivering() as delivery:
        await post.owe([ALI])
        await google.delivers(1)
        await until_owed(post, [])

    assert await counted(delivery) == (1, 1)
    assert sorted(google.tried) == [PHONE, TABLET]
    assert await post.tokens() == [PHONE, TABLET]
    assert events(logs) == ["warning: A push notification was given up"]
    assert len(google.access_tokens) == 1


@pytest.mark.parametrize(
    ("answer", "wait"),
    [
        (UNAVAILABLE, 6),
        (Refusal(500, "<html>oops</html>"), 6),
        (Refusal(302, "", {"Location": "http://127.0.0.1:1/"}), 6),
        (refusal(503, "UNAVAILABLE", "Later.", "UNAVAILABLE", Retry_After="30"), 30),
        (refusal(503, "UNAVAILABLE", "Later.", "UNAVAILABLE", Retry_After="2"), 6),
        (
            refusal(503, "UNAVAILABLE", "Later.", Retry_After="Fri, 25 Oct 2024 12:00:45 GMT"),
            45,
        ),
        (refusal(503, "UNAVAILABLE", "Later.", Retry_After="soon"), 6),
        (refusal(429, "RESOURCE_EXHAUSTED", "Too fast.", "QUOTA_EXCEEDED", Retry_After="9"), 9),
        (refusal(429, "RESOURCE_EXHAUSTED", "Too fast.", "QUOTA_EXCEEDED"), 60),
    ],
)
async def test_what_google_does_not_take_is_tried_again_when_it_wants(
    post: Post, google: FakeGoogle, answer: Refusal, wait: float
) -> None:
    await post.register(ALI, PHONE)
    google.answers = [answer]
    async with post.delivering() as delivery:
        await post.owe([ALI])
        await until_owed(post, [Owed(PHONE, "Hello", 1, wait)])
        post.pass_time(wait)
        await google.delivers(1)
        await until_owed(post, [])

    assert google.tried == [PHONE, PHONE]
    assert await counted(delivery) == (1, 0)


async def test_a_wait_that_is_over_ends_without_anybody_asking(
    post: Post, google: FakeGoogle
) -> None:
    await post.register(ALI, PHONE)
    google.answers = [UNAVAILABLE]
    async with post.delivering(RETRIES._replace(look_again=0.01)):
        await post.owe([ALI])
        await until_owed(post, [Owed(PHONE, "Hello", 1, 6)])
        post.now += timedelta(seconds=6)  # and no call of wake()
        await google.delivers(1)


async def test_waits_grow_with_each_failure_and_one_notification_ends_as_given_up(
    post: Post, google: FakeGoogle, logs: list[EventDict]
) -> None:
    await post.register(ALI, PHONE)
    google.answers_to[PHONE] = UNAVAILABLE
    async with post.delivering() as delivery:
        await post.owe([ALI])
        await until_owed(post, [Owed(PHONE, "Hello", 1, 6)])
        post.pass_time(6)
        await until_owed(post, [Owed(PHONE, "Hello", 2, 12)])
        post.pass_time(12)
        await until_owed(post, [])

    assert await counted(delivery) == (0, 1)
    assert google.tried == [PHONE] * 3
    assert await post.tokens() == [PHONE]
    assert events(logs) == [
        "warning: Google does not take push notifications; they wait",
        "warning: A push notification was given up",
    ]
    assert logs[1]["reason"] == (
        "it answered 503 UNAVAILABLE The service is currently unavailable."
    )


async def test_what_nobody_could_be_told_within_an_hour_is_dropped(
    post: Post, google: FakeGoogle, logs: list[EventDict]
) -> None:
    await post.register(ALI, PHONE)
    await post.owe([ALI], Push("Old", "", {}))
    post.now += timedelta(hours=1)
    async with post.delivering() as delivery:
        await post.owe([ALI], Push("New", "", {}))
        [message] = await google.delivers(1)

    assert message["notification"]["title"] == "New"
    assert await counted(delivery) == (1, 1)
    assert events(logs) == ["warning: Push notifications have expired before Google took them"]


async def test_what_would_wait_until_it_has_expired_is_given_up_at_once(
    post: Post, google: FakeGoogle
) -> None:
    await post.register(ALI, PHONE)
    google.answers = [refusal(503, "UNAVAILABLE", "Tomorrow.", Retry_After="86400")]
    async with post.delivering() as delivery:
        await post.owe([ALI])
        await until_owed(post, [])
    # The answer is that of the first attempt.
    assert google.tried == [PHONE]
    assert await counted(delivery) == (0, 1)


async def test_a_google_that_is_away_is_waited_for(
    post: Post, google: FakeGoogle, logs: list[EventDict]
) -> None:
    await post.register(ALI, PHONE)
    await google.go_down()
    async with post.delivering() as delivery:
        await post.owe([ALI])
        await until_owed(post, [Owed(PHONE, "Hello", 1, 6)])
        await google.go_up()
        post.pass_time(6)
        await google.delivers(1)
        await until_owed(post, [])

    assert await counted(delivery) == (1, 0)
    assert events(logs) == [
        "warning: Google does not take push notifications; they wait",
        "info: Google takes push notifications again",
    ]
    assert logs[0]["reason"].startswith("no access token: nothing answers at 127.0.0.1 (")


async def test_a_google_that_does_not_answer_in_time_is_asked_again(
    post: Post, google: FakeGoogle
) -> None:
    await post.register(ALI, PHONE)
    google.hangs = asyncio.Event()
    async with post.delivering(patience=3):
        await post.owe([ALI])
        await until_owed(post, [Owed(PHONE, "Hello", 1, 6)])
        google.hangs.set()
        post.pass_time(6)
        await google.delivers(1)


async def test_an_access_token_that_google_has_forgotten_is_replaced_at_once(
    post: Post, google: FakeGoogle, logs: list[EventDict]
) -> None:
    await post.register(ALI, PHONE)
    async with post.delivering():
        await post.owe([ALI])
        await google.delivers(1)
        google.revoke_access()
        await post.register(ALI, TABLET)
        await post.owe([ALI])
        await google.delivers(3)
        await until_owed(post, [])

    assert len(google.access_tokens) == 2
    assert events(logs) == []


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (
            "permission",
            "it answered 403 PERMISSION_DENIED "
            "Permission 'cloudmessaging.messages.create' denied on resource.",
        ),
        ("address", "it answered 404 <html>Not here</html>"),
        ("access", "it answered 401 UNAUTHENTICATED Request had invalid credentials."),
        ("key", "no access token: invalid_grant: Invalid JWT Signature."),
    ],
)
async def test_what_only_an_operator_can_mend_is_said_once_and_everything_waits(
    post: Post, google: FakeGoogle, broken: str, reason: str, logs: list[EventDict]
) -> None:
    await post.register(ALI, PHONE, TABLET)
    match broken:
        case "permission":
            google.answers_to = {PHONE: FORBIDDEN, TABLET: FORBIDDEN}
        case "address":
            google.answers_to = dict.fromkeys(
                (PHONE, TABLET), Refusal(404, "<html>Not here</html>")
            )
        case "access":
            google.is_forgetful = True
        case "key":
            words = {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}
            google.refuses_access = Refusal(400, words)

    async with post.delivering() as delivery:
        await post.owe([ALI])
        # Twice for each device, and again after the pause.
        await google.until(lambda: google.asked_for_access >= 6 or len(google.tried) >= 6)
        google.answers_to.clear()
        google.is_forgetful = False
        google.refuses_access = None
        await google.delivers(2)
        await until_owed(post, [])

    assert await counted(delivery) == (2, 0)
    assert await post.tokens() == [PHONE, TABLET]
    assert events(logs) == [
        "error: Google does not let CHAT_FCM_CREDENTIALS send push notifications; they wait",
        "info: Google takes push notifications again",
    ]
    assert logs[0]["reason"] == reason


async def test_while_google_allows_nothing_it_is_not_asked(
    post: Post, google: FakeGoogle, logs: list[EventDict]
) -> None:
    await post.register(ALI, PHONE)
    google.answers_to[PHONE] = FORBIDDEN
    async with post.delivering(RETRIES._replace(pause=1000)):
        await post.owe([ALI])
        await google.until(lambda: len(google.tried) == 1)
        await until_owed(post, [Owed(PHONE, "Hello", 0, 0)])
        for count in range(2, 20):
            await post.owe([ALI])  # which calls the delivery each time
            assert await post.owed() == [Owed(PHONE, "Hello", 0, 0)] * count

    assert google.tried == [PHONE]
    assert len(logs) == 1


async def test_an_unreadable_access_token_is_no_reason_to_fail(
    post: Post, google: FakeGoogle, logs: list[EventDict]
) -> None:
    await post.register(ALI, PHONE)
    google.refuses_access = Refusal(200, "<html>Welcome to this hotel</html>")
    async with post.delivering():
        await post.owe([ALI])
        await until_owed(post, [Owed(PHONE, "Hello", 1, 6)])
        google.refuses_access = None
        post.pass_time(6)
        await google.delivers(1)
        await until_owed(post, [])

    assert logs[0]["reason"] == "no access token: the answer is unreadable"


async def test_stopping_does_not_wait_for_an_access_token(post: Post, google: FakeGoogle) -> None:
    await post.register(ALI, PHONE)
    google.holds_access = asyncio.Event()
    async with asyncio.timeout(45):
        async with post.delivering(drain=0, patience=1_000):
            await post.owe([ALI])
            await google.until(lambda: google.asked_for_access == 1)
    google.holds_access.set()

    assert await post.owed() == [Owed(PHONE, "Hello", 0, 0.0)]
