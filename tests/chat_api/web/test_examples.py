"""Every example in the documentation is sent as it stands, and answered as it says."""

from functools import reduce
from typing import Any

import aiohttp
import jsonschema_rs
import msgspec
import pytest

from chat_api.features import Feature
from chat_api.kernel.routes import Audience, Example, Route
from chat_api.runtime import ChatApi
from chat_api.settings import Settings
from chat_api.web.openapi import plain_path
from tests.chat_api.client import Client
from tests.chat_api.world import chat_api

FEATURES = (
    "auth",
    "chats",
    "documentation",
    "notifications",
    "operations",
    "support",
    "wallet",
)

WITHOUT_EXAMPLES = {("POST", "/webhooks/reverb")}
"""Signed over the bytes of the body by a server, and not for people to send."""


class Examples:
    """Sends the examples of one feature, and remembers what later ones need."""

    def __init__(self, api: ChatApi, session: aiohttp.ClientSession, document: Any) -> None:
        self._nobody = Client(session, api.url)
        self._document = document
        self._kept: dict[str, Any] = {}

    async def send(self, route: Route[Any], example: Example) -> None:
        filled = example.filled(self._kept.__getitem__)
        status = example.status or next(iter(route.answers))
        url = self._nobody.url + plain_path(route.path).format(**filled.path)
        is_query = route.method == "GET"
        async with self._nobody.session.request(
            route.method,
            url,
            params={name: str(value) for name, value in (filled.input or {}).items()}
            if is_query
            else None,
            json=None if is_query else filled.input,
            headers={
                **{header.value: value for header, value in filled.headers.items()},
                **await self._authorization(route, filled.sender),
            },
        ) as response:
            content = await response.read()
            assert response.status == status, (route.method, url, example, content)
            body = self._checked(route, status, response.content_type, content)
        for name, place in example.keeps.items():
            self._kept[name] = reduce(_part, place.split("."), body)

    async def _authorization(self, route: Route[Any], sender: str) -> dict[str, str]:
        if route.audience is Audience.ANYONE or not sender:
            return {}
        token = (await self._nobody.log_in(sender)).token if "@" in sender else sender
        return {"Authorization": f"Bearer {token}"}

    def _checked(self, route: Route[Any], status: int, media_type: str, content: bytes) -> Any:
        """Return the body, which fits the schema that the document has for it."""
        operation = self._document["paths"][plain_path(route.path)][route.method.lower()]
        response = operation["responses"][str(status)]
        if reference := response.get("$ref"):
            response = reduce(_part, reference.removeprefix("#/").split("/"), self._document)
        if "content" not in response:
            assert content == b""
            return None
        schema = response["content"][media_type]["schema"]
        if media_type != "application/json":
            return content.decode()
        body = msgspec.json.decode(content)
        jsonschema_rs.validator_for(
            {**schema, "components": self._document["components"]}
        ).validate(body)
        return body


def _part(whole: Any, name: str) -> Any:
    return whole[int(name)] if isinstance(whole, list) else whole[name]


def named(api: ChatApi, name: str) -> Feature:
    [feature] = [feature for feature in api.features if feature.name == name]
    return feature


@pytest.mark.parametrize("name", FEATURES)
async def test_the_examples_of_a_feature_work_one_after_another(
    settings: Settings, name: str
) -> None:
    async with chat_api(settings) as api, aiohttp.ClientSession() as session:
        document = (await Client(session, api.url).get("/openapi.json")).body
        examples = Examples(api, session, document)
        for route in named(api, name).routes:
            for example in route.examples:
                await examples.send(route, example)


async def test_every_route_has_an_example(settings: Settings) -> None:
    async with chat_api(settings) as api:
        without = {
            (route.method, route.path)
            for feature in api.features
            for route in feature.routes
            if not route.examples
        }

    assert tuple(sorted(feature.name for feature in api.features)) == FEATURES
    assert without == WITHOUT_EXAMPLES
