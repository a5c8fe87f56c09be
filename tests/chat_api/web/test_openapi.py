"""`GET /openapi.json`: valid, complete, made of the rows that serve, and the same every time."""

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
import schemathesis

from chat_api.features import DocumentedEvent, Feature
from chat_api.kernel.errors import Conflict, TooMany
from chat_api.kernel.routes import (
    Answer,
    Audience,
    Call,
    Example,
    Header,
    NoInput,
    Route,
    stated,
)
from chat_api.realtime.channel_rules import ChannelRule, Grant
from chat_api.web.openapi import Deployment, Schemas, openapi_document
from tests.chat_api.world import World

NOTHING_THERE = "There is nothing at this address."

SHOW = """
import asyncio, sys
import aiohttp
from chat_api.telemetry.logs import configure_logs
from tests.chat_api.receiver import RealtimeReceiver
from tests.chat_api.world import chat_api, settings_for

async def show():
    configure_logs(debug=False)
    settings = settings_for("sqlite:///chat.sqlite3", RealtimeReceiver().app)
    async with chat_api(settings) as api, aiohttp.ClientSession() as session:
        for path in ("/openapi.json", "/docs"):
            asked = session.get(api.url + path, headers={"Host": "chat.example.com"})
            async with asked as response:
                sys.stdout.buffer.write(await response.read())

asyncio.run(show())
"""


class Full(Conflict):
    """There is no more room."""

    default_code = "full"


class RoomInput(msgspec.Struct, frozen=True, rename="camel"):
    """A room to be made."""

    room_name: Annotated[str, stated("What is on the door.", minLength=1, maxLength=20)]
    seats: int = 4


class RoomsQuery(msgspec.Struct, frozen=True):
    """Which rooms."""

    on: str
    limit: Annotated[int | None, stated("How many.", minimum=1)] = None
    kind: Annotated[str | None, stated(enum=["big", "small"])] = None


class RoomView(msgspec.Struct, frozen=True):
    """
    A room.

    With a door.
    """

    id: int


async def answer(call: Call[Any]) -> Answer:
    """As the house has it."""
    raise NotImplementedError


async def decide(identity: object, names: object) -> Grant | None:
    return None


def route(
    method: str = "POST",
    path: str = "/rooms",
    wanted: type[Any] = RoomInput,
    audience: Audience = Audience.ANYONE,
    **rest: Any,
) -> Route[Any]:
    return Route(method, path, wanted, answer, audience, summary="Do it", **rest)


def documented(*routes: Route[Any], has_proxy: bool = False) -> dict[str, Any]:
    features = [Feature(routes, name="rooms", description="Where people are.")]
    deployment = Deployment("1.2.3", has_proxy)
    # As it is sent: what is equal in Python may still differ, or fail, in JSON.
    document = openapi_document(features, Schemas(features), deployment)
    return msgspec.json.decode(msgspec.json.encode(document), type=dict[str, Any])


def operation(row: Route[Any], has_proxy: bool = False) -> dict[str, Any]:
    [by_method] = documented(row, has_proxy=has_proxy)["paths"].values()
    [found] = by_method.values()
    assert isinstance(found, dict)
    return found


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from references(inner)


@pytest.fixture
def database_kind() -> str:
    """Take one of the two, which is as good as the other here."""
    return "sqlite"


async def test_the_document_is_valid(world: World) -> None:
    reply = await world.nobody.get("/openapi.json")

    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.body["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(reply.body).validate()


async def test_a_document_that_is_not_valid_would_be_noticed() -> None:
    document = documented(route())
    document["paths"]["/rooms"]["post"]["parameters"] = [{"name": "x"}]

    with pytest.raises(ValueError, match="parameters"):
        schemathesis.openapi.from_dict(document).validate()


async def test_everything_that_is_referred_to_is_there_and_nothing_else(world: World) -> None:
    document = (await world.nobody.get("/openapi.json")).body

    there = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "responses", "headers")
        for name in document["components"][kind]
    }
    assert set(references(document)) == there


async def test_every_route_is_documented_and_every_documented_route_is_served(
    world: World,
) -> None:
    document = (await world.nobody.get("/openapi.json")).body

    served = {
        (route.method.lower(), route.path)
        for feature in world.api.features
        for route in feature.routes
    }
    operations = {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert operations.keys() == served
    for (method, path), operation in operations.items():
        url = world.api.url + re.sub(r"\{\w+\}", "1", path)
        async with world.nobody.session.request(method, url, json={}) as response:
            assert str(response.status) in operation["responses"], (method, path)
            assert NOTHING_THERE not in await response.text(), (method, path)


async def test_every_operation_says_what_it_is_for(world: World) -> None:
    document = (await world.nobody.get("/openapi.json")).body

    operations = [
        operation for methods in document["paths"].values() for operation in methods.values()
    ]
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)
    for operation in operations:
        assert re.fullmatch(r"[a-z0-9_]+", operation["operationId"])
        assert re.fullmatch(r"[A-Z].*[^.]", operation["summary"]), operation["operationId"]
        assert set(operation["tags"]) <= described, operation["operationId"]
        for status, response in operation["responses"].items():
            content = response.get("content", {})
            assert all(body["schema"] != {} for body in content.values()), (
                f"{operation['operationId']} does not say what {status} looks like"
            )
    for channel in document["x-channels"]:
        assert channel["listeners"], channel
    for event in document["x-events"]:
        assert event["summary"], event


async def test_a_client_that_has_the_document_is_not_sent_it_again(world: World) -> None:
    first = await world.nobody.get("/openapi.json")
    tag = first.headers["Etag"]
    asked = [
        await world.nobody.ask("GET", "/openapi.json", headers={"If-None-Match": known})
        for known in (tag, f'W/{tag}, "other"', "*", '"other"', tag.strip('"'), "")
    ]

    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    assert [reply.status for reply in asked] == [304, 304, 304, 200, 200, 200]
    assert asked[0].body is None
    assert asked[0].headers["Etag"] == tag


async def test_both_documents_are_the_same_whatever_the_process(tmp_path: Path) -> None:
    async def made(hash_seed: str) -> bytes:
        (tmp_path / hash_seed).mkdir()
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            SHOW,
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[3])},
            cwd=tmp_path / hash_seed,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output

    async with asyncio.timeout(60):
        first, second = await asyncio.gather(made("1"), made("2"))

    assert len(first) > 1000
    assert first == second


def test_a_request_with_a_body_is_documented_with_all_its_answers() -> None:
    row = route(
        path="/houses/{house_id}/rooms",
        audience=Audience.ACCOUNT,
        answers={201: RoomView, 204: None},
        errors=(Conflict, Full, TooMany),
        headers=(Header.IDEMPOTENCY_KEY, Header.SOCKET_ID),
        needs=(Header.IDEMPOTENCY_KEY,),
        examples=(
            Example({"roomName": "Hall"}, {"house_id": "{house}"}),
            Example({"roomName": "{name}"}, {"house_id": "7"}, summary="Another"),
        ),
    )

    document = documented(row)

    request_id = {"X-Request-ID": {"$ref": "#/components/headers/X-Request-ID"}}
    assert document["paths"] == {
        "/houses/{house_id}/rooms": {
            "post": {
                "operationId": "rooms_answer",
                "tags": ["rooms"],
                "summary": "Do it",
                "description": "As the house has it.\n\nFor people with an account.",
                "security": [{"bearer": []}],
                "parameters": [
                    {
                        "name": "house_id",
                        "in": "path",
                        "required": True,
                        "schema": {"type": "string"},
                        "example": "7",
                    },
                    {
                        "name": "Idempotency-Key",
                        "in": "header",
                        "required": True,
                        "description": "The client's own name for this request: sent again under "
                        "it, it is not done again.",
                        "schema": {"type": "string", "minLength": 1, "maxLength": 100},
                    },
                    {
                        "name": "X-Socket-ID",
                        "in": "header",
                        "required": False,
                        "description": "The caller's realtime connection, which does not hear the "
                        "events of this request.",
                        "schema": {"type": "string"},
                    },
                ],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {"$ref": "#/components/schemas/RoomInput"},
                            "examples": {
                                "example1": {"summary": "Do it", "value": {"roomName": "Hall"}},
                                "example2": {"summary": "Another", "value": {"roomName": "NAME"}},
                            },
                        }
                    },
                },
                "responses": {
                    "201": {
                        "description": "Created",
                        "headers": request_id,
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/RoomView"}
                            }
                        },
                    },
                    "204": {"description": "No Content", "headers": request_id},
                    "400": {"$ref": "#/components/responses/Malformed"},
                    "401": {"$ref": "#/components/responses/Unauthenticated"},
                    "403": {"$ref": "#/components/responses/Forbidden"},
                    "404": {"$ref": "#/components/responses/NotFound"},
                    "409": {"$ref": "#/components/responses/ConflictOrFull"},
                    "413": {"$ref": "#/components/responses/TooLarge"},
                    "429": {"$ref": "#/components/responses/TooMany"},
                    "500": {"$ref": "#/components/responses/Internal"},
                    "503": {"$ref": "#/components/responses/Unavailable"},
                },
            }
        }
    }
    assert document["components"]["responses"]["ConflictOrFull"] == {
        "description": "The request came too late or contradicts what is stored. "
        "There is no more room.",
        "headers": request_id,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "code": {"type": "string", "enum": ["conflict", "full"]},
                        "message": {"type": "string", "description": "What to do, for people."},
                    },
                    "required": ["code", "message"],
                }
            }
        },
    }
    assert document["components"]["responses"]["TooMany"]["headers"] == {
        "Retry-After": {"$ref": "#/components/headers/Retry-After"},
        **request_id,
    }
    assert document["components"]["schemas"] == {
        "RoomInput": {
            "title": "RoomInput",
            "description": "A room to be made.",
            "type": "object",
            "properties": {
                "roomName": {
                    "description": "What is on the door.",
                    "minLength": 1,
                    "maxLength": 20,
                    "type": "string",
                },
                "seats": {"type": "integer", "default": 4},
            },
            "required": ["roomName"],
        },
        "RoomView": {
            "title": "RoomView",
            "description": "A room.\n\nWith a door.",
            "type": "object",
            "properties": {"id": {"type": "integer"}},
            "required": ["id"],
        },
    }


def test_the_input_of_a_get_is_its_query_where_null_means_left_out() -> None:
    row = route(
        "GET", wanted=RoomsQuery, examples=(Example({"on": "{day}"}), Example({"on": "monday"}))
    )

    found = operation(row)

    assert found["parameters"] == [
        {
            "name": "on",
            "in": "query",
            "schema": {"type": "string"},
            "required": True,
            "example": "monday",
        },
        {
            "name": "limit",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1, "description": "How many."},
        },
        {"name": "kind", "in": "query", "schema": {"type": "string", "enum": ["big", "small"]}},
    ]
    assert "requestBody" not in found
    assert found["responses"].keys() == {"200", "400", "500", "503"}


def test_shapes_of_the_same_name_are_told_apart_by_feature_and_face() -> None:
    feature = "chat_api.features.support"
    names = [(f"{feature}.views", "Thing"), (f"{feature}.live_agent_routes", "Thing")]
    first, second = (
        msgspec.defstruct(name, [(field, int)], module=module)
        for (module, name), field in zip(names, "ab", strict=True)
    )

    document = documented(route(answers={200: first, 201: list[second]}))  # type: ignore[valid-type]

    assert document["components"]["schemas"].keys() == {
        "RoomInput",
        "SupportThing",
        "SupportLiveAgentThing",
    }
    schemathesis.openapi.from_dict(document).validate()
    assert set(references(document["paths"])) >= {
        "#/components/schemas/SupportThing",
        "#/components/schemas/SupportLiveAgentThing",
    }


def test_null_stays_possible_beside_the_few_values_that_are_stated() -> None:
    class Filter(msgspec.Struct):
        kind: Annotated[str | None, stated(enum=["big", "small"])] = None

    document = documented(route(wanted=Filter))

    assert document["components"]["schemas"]["Filter"]["properties"]["kind"] == {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "default": None,
        "enum": ["big", "small", None],
    }


def test_what_reads_forms_says_so() -> None:
    content = operation(route(reads_forms=True))["requestBody"]["content"]

    assert list(content) == ["application/json", "application/x-www-form-urlencoded"]


@pytest.mark.parametrize(
    ("audience", "has_proxy", "security", "refusals"),
    [
        (Audience.ANYONE, False, [], set()),
        (Audience.ACCOUNT, False, [{"bearer": []}], {"401", "403"}),
        (Audience.STAFF, False, [{"bearer": []}], {"401", "403"}),
        (Audience.PARTIES, False, [{"bearer": []}], {"401"}),
        (Audience.ANYONE, True, [], {"400", "401"}),
        (Audience.ACCOUNT, True, [{"bearer": []}], {"401", "403"}),
        (Audience.STAFF, True, [{"bearer": []}, {}], {"400", "401", "403"}),
        (Audience.PARTIES, True, [{"bearer": []}, {}], {"400", "401"}),
    ],
)
def test_who_may_ask_follows_from_the_audience(
    audience: Audience, has_proxy: bool, security: list[Any], refusals: set[str]
) -> None:
    found = operation(route("GET", wanted=NoInput, audience=audience), has_proxy)

    assert found["security"] == security
    assert found["responses"].keys() - {"200", "500", "503"} == refusals


def test_what_an_example_keeps_leads_to_the_requests_that_need_it() -> None:
    made = route(examples=(Example(keeps={"room": "made.0.id"}, status=200),))
    entered = route(path="/rooms/{id:[0-9]+}/enter", examples=(Example(path={"id": "{room}"}),))

    document = documented(made, entered)

    assert document["paths"]["/rooms"]["post"]["responses"]["200"]["links"] == {
        "rooms_answer_at_rooms_id_0_9_enter": {
            "operationId": "rooms_answer_at_rooms_id_0_9_enter",
            "parameters": {"id": "$response.body#/made/0/id"},
        }
    }
    assert "/rooms/{id}/enter" in document["paths"]


def test_events_and_channels_are_listed_with_who_hears_them() -> None:
    features = [
        Feature(
            (),
            (ChannelRule("private-room.{id}", decide, "who is in it"),),
            name="rooms",
            events=(DocumentedEvent("entered", ("private-room.{id}",), RoomView, "Came in."),),
        )
    ]

    document = openapi_document(features, Schemas(features), Deployment("1", event_prefix="App\\"))

    assert document["x-channels"] == [{"pattern": "private-room.{id}", "listeners": "who is in it"}]
    assert document["x-events"] == [
        {
            "name": "App\\entered",
            "channels": ["private-room.{id}"],
            "summary": "Came in.",
            "payload": {"$ref": "#/components/schemas/RoomView"},
        }
    ]
