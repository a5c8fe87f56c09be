"""`GET /docs`: complete, well-formed, safe, and of use without anything from elsewhere."""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from types import MappingProxyType
from typing import Any, Self

import msgspec
import pytest

from chat_api.features import DocumentedEvent, Feature
from chat_api.kernel.routes import (
    Answer,
    Audience,
    Call,
    Example,
    Header,
    NoInput,
    Route,
)
from chat_api.realtime.channel_rules import ChannelRule, Grant
from chat_api.web.documentation import curl_command, documentation_feature
from chat_api.web.openapi import Deployment, plain_path
from tests.chat_api.world import World

VOID = {"meta", "link", "br"}


@dataclass
class Page(HTMLParser):
    """What is on a page, and where it leads. Elements that are not closed in order are an error."""

    text: str = ""
    style: str = ""
    ids: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)
    open: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, html: str) -> Self:
        page = cls()
        HTMLParser.__init__(page)
        page.feed(html)
        page.close()
        assert page.open == []
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{name} would be a script"
            assert name != "style", "the policy would refuse it"
            if name == "id" and value is not None:
                self.ids.append(value)
            if name in ("href", "src", "srcset", "action") and value is not None:
                (self.links if tag == "a" else self.loaded).append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data


class NoteInput(msgspec.Struct, frozen=True):
    """A note."""

    text: str


class NoteView(msgspec.Struct, frozen=True):
    """A note, as it is <kept>."""

    id: int
    parent: "NoteView | None" = None


async def write(call: Call[Any]) -> Answer:
    """
    Write it <b>down</b>.

    With `care`.
    """
    raise NotImplementedError


async def read(call: Call[Any]) -> Answer:
    raise NotImplementedError


async def decide(identity: object, names: object) -> Grant | None:
    return None


async def page_of(
    *features: Feature,
    deployment: Deployment | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> str:
    deployment = deployment or Deployment("1.2.3")
    feature = documentation_feature(features, deployment)
    [docs] = [route for route in feature.routes if route.path == "/docs"]
    call = Call(NoInput(), {}, address="", socket_id=None, identity=None, headers=headers)
    content: bytes = (await docs.handler(call)).body
    return content.decode()


NOTES = Feature(
    (
        Route(
            "POST",
            "/notes",
            NoteInput,
            write,
            Audience.ANYONE,
            summary="Write a note & keep it",
            answers={201: NoteView},
            examples=(Example({"text": "<script>alert('it''s')</script>"}, keeps={"note": "id"}),),
        ),
        Route(
            "POST",
            "/v1/notes",
            NoteInput,
            write,
            Audience.ANYONE,
            summary="Write a note & keep it",
        ),
        Route("GET", "/notes/{id:\\d+}", NoInput, read, Audience.STAFF, summary="Read a note"),
    ),
    (ChannelRule("private-notes.{id}", decide, "whoever <wrote> it"),),
    name="notes",
    description="What is to be `kept`.",
    events=(DocumentedEvent("noted", ("private-notes.{id}",), NoteView, "A note was taken."),),
)


@pytest.fixture
def database_kind() -> str:
    """Take one of the two, which is as good as the other here."""
    return "sqlite"


async def fetch(world: World, **headers: str) -> tuple[int, dict[str, str], str]:
    url = world.api.url + "/docs"
    async with world.nobody.session.get(url, headers=headers) as response:
        return response.status, dict(response.headers), await response.text()


async def test_the_page_shows_everything_that_is_served(world: World) -> None:
    status, headers, html = await fetch(world)

    page = Page.read(html)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    for feature in world.api.features:
        assert f"\n{feature.name.capitalize()}\n" in f"\n{page.text}\n" or feature.name in page.ids
        for route in feature.routes:
            assert f"{route.method} {plain_path(route.path)}" in page.text
            assert route.summary in page.text
        for event in feature.events:
            assert event.name in page.text
            assert event.summary.replace("`", "") in page.text
        for rule in feature.channel_rules:
            assert rule.pattern in page.text
            assert rule.listeners.replace("`", "") in page.text


async def test_every_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(
    world: World,
) -> None:
    _, _, html = await fetch(world)

    page = Page.read(html)
    assert len(set(page.ids)) == len(page.ids)
    for link in page.links:
        assert link == "/openapi.json" or link.removeprefix("#") in page.ids, link
    assert page.loaded == ["data:,"]
    assert "script" not in page.tags
    assert "url(" not in page.style
    assert "@import" not in page.style


async def test_the_policy_lets_the_pages_own_style_in_and_nothing_else(world: World) -> None:
    _, headers, html = await fetch(world)

    digest = base64.b64encode(hashlib.sha256(Page.read(html).style.encode()).digest()).decode()
    assert headers["Content-Security-Policy"] == (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"img-src data:; style-src 'sha256-{digest}'"
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


async def test_the_page_is_for_light_and_dark_screens(world: World) -> None:
    style = Page.read((await fetch(world))[2]).style

    assert "color-scheme: light dark" in style
    assert "@media (prefers-color-scheme: dark)" in style


async def test_a_browser_that_has_the_page_is_not_sent_it_again(world: World) -> None:
    _, headers, _ = await fetch(world)

    status, again, html = await fetch(world, **{"If-None-Match": headers["Etag"]})

    assert (status, html, again["Etag"]) == (304, "", headers["Etag"])


async def test_what_the_tables_say_is_shown_as_text() -> None:
    html = await page_of(NOTES)

    page = Page.read(html)
    assert not page.tags & {"script", "b", "wrote", "kept"}
    assert "Write a note & keep it" in page.text
    assert "Write it <b>down</b>." in page.text
    assert "whoever <wrote> it" in page.text
    assert "<p>What is to be <code>kept</code>.</p>" in html


async def test_one_thing_under_two_addresses_is_shown_once_with_both() -> None:
    html = await page_of(NOTES)

    [section] = re.findall(r'<section><h3 id="notes_write">.*?</section>', html, re.DOTALL)
    text = Page.read(section).text
    assert "POST /notes" in text
    assert "POST /v1/notes" in text
    assert "notes_write_at" not in html


async def test_events_are_shown_under_the_names_they_are_sent_with() -> None:
    page = Page.read(
        await page_of(NOTES, deployment=Deployment("1.2.3", event_prefix="App\\Events\\"))
    )

    assert "App\\Events\\noted" in page.text


async def test_the_page_names_the_addresses_at_which_it_is_read(world: World) -> None:
    _, _, html = await fetch(world)

    text = Page.read(html).text
    assert f"API={world.api.url}   # where this page comes from" in text
    assert f'endpoint: "{world.api.url}/broadcasting/auth"' in text
    port = world.receiver.port
    assert (
        f'wsHost: "127.0.0.1", wsPort: {port}, forceTLS: false, enabledTransports: ["ws"]' in text
    )


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ({"Host": "chat.example.com"}, "http://chat.example.com"),
        ({"Host": "[::1]:9383"}, "http://[::1]:9383"),
        ({"Host": "chat.example.com", "X-Forwarded-Proto": "https"}, "https://chat.example.com"),
        ({"Host": "$(reboot)"}, "http://127.0.0.1:8383"),
        ({"Host": '"><script>'}, "http://127.0.0.1:8383"),
    ],
)
async def test_the_page_is_at_the_address_that_was_asked_if_that_can_be_one(
    headers: dict[str, str], address: str
) -> None:
    text = Page.read(await page_of(NOTES, headers=headers)).text

    assert f"API={address}   # where" in text


async def test_over_tls_the_page_has_clients_speak_tls() -> None:
    deployment = Deployment("1.2.3", realtime_server="https://ws.example.com:443")

    text = Page.read(await page_of(NOTES, deployment=deployment)).text

    assert (
        'wsHost: "ws.example.com", wssPort: 443, forceTLS: true, enabledTransports: ["wss"],'
        ' cluster: "",' in text
    )


async def test_a_shape_that_contains_itself_is_described_once() -> None:
    page = Page.read(await page_of(NOTES))

    assert page.ids.count("shape-NoteView") == 1


@pytest.mark.parametrize(
    ("route", "example", "command"),
    [
        (
            Route("GET", "/notes", NoteInput, read, Audience.ANYONE),
            Example({"text": "a b&c", "since": "{note_id}"}),
            'curl "$API/notes?text=a+b%26c&since=$NOTE_ID"',
        ),
        (
            Route("DELETE", "/notes/{id:\\d{1,3}}", NoInput, read),
            Example(path={"id": "{note_id}"}, headers={Header.TENANT: "a.example"}),
            'curl -X DELETE "$API/notes/$NOTE_ID" \\\n'
            '  -H "Authorization: Bearer $TOKEN" \\\n'
            "  -H 'X-Tenant-Domain: a.example'",
        ),
        (
            Route("POST", "/notes", NoteInput, write, Audience.PARTIES),
            Example({"text": "it's \u00e4 {note_id}!"}, sender="{visitor_token}"),
            'curl "$API/notes" \\\n'
            '  -H "Authorization: Bearer $VISITOR_TOKEN" \\\n'
            "  -H 'Content-Type: application/json' \\\n"
            """  -d '{"text": "it'\\''s \u00e4 '"$NOTE_ID"'!"}'""",
        ),
        (
            Route("POST", "/notes/{id}", NoteInput, write, Audience.ANYONE),
            Example(path={"id": "a/b c"}),
            'curl -X POST "$API/notes/a%2Fb%20c"',
        ),
    ],
)
def test_an_example_is_shown_as_a_command_for_a_shell(
    route: Route[Any], example: Example, command: str
) -> None:
    assert curl_command(route, example) == command
