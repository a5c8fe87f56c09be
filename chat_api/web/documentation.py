"""`/openapi.json` for programs and `/docs` for people: what the tables say, ready at the start."""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from chat_api.features import Feature
from chat_api.kernel.errors import ChatError, MethodNotAllowed
from chat_api.kernel.routes import (
    Answer,
    Audience,
    Call,
    Example,
    Header,
    MediaType,
    NoInput,
    Route,
)
from chat_api.web.openapi import (
    AUDIENCES,
    HEADERS,
    Deployment,
    Schemas,
    docstring_of,
    error_order,
    errors_of,
    has_schema,
    openapi_document,
    operation_ids,
    path_parameters,
    plain_path,
    query_schema,
    summary_of,
)

__all__ = ["curl_command", "documentation_feature"]


def documentation_feature(features: Sequence[Feature], deployment: Deployment) -> Feature:
    """
    Return what documents these features, and itself.

    Both documents are made once, here, and are the same bytes wherever the same features are; only
    the page names the address by which it was asked for.
    """

    async def openapi(call: Call[NoInput]) -> Answer:
        """In OpenAPI 3.1, for generating clients and for tools."""
        return document.answer(call)

    async def docs(call: Call[NoInput]) -> Answer:
        """In HTML, which needs no JavaScript and loads nothing from elsewhere."""
        content = page.replace(_HERE, address_asked(call.headers)).encode()
        return _Kept(content, "text/html; charset=utf-8", _PAGE_HEADERS).answer(call)

    documentation = Feature(
        (
            Route(
                "GET",
                "/openapi.json",
                NoInput,
                openapi,
                Audience.ANYONE,
                summary="Describe the API to programs",
                answers={200: dict[str, Any], 304: None},
                headers=(Header.IF_NONE_MATCH,),
                examples=(Example(),),
            ),
            Route(
                "GET",
                "/docs",
                NoInput,
                docs,
                Audience.ANYONE,
                summary="Describe the API to people",
                answers={200: MediaType("text/html"), 304: None},
                headers=(Header.IF_NONE_MATCH,),
                examples=(Example(),),
            ),
        ),
        name="documentation",
        description="What you are reading, and the same for programs.",
    )
    everything = (*features, documentation)
    schemas = Schemas(everything)
    document = _Kept(
        msgspec.json.encode(openapi_document(everything, schemas, deployment)),
        "application/json",
        {},
    )
    page = _Page(everything, schemas, deployment).html()
    return documentation


def address_asked(headers: Mapping[str, str]) -> str:
    """
    Return the address of the API as whoever asks knows it.

    What a proxy has taken off is what it says; only whoever asks could be misled by a lie.
    """
    host = headers.get("Host", "")
    if not _HOST.fullmatch(host):
        return "http://127.0.0.1:8383"
    scheme = "https" if headers.get("X-Forwarded-Proto", "").lower() == "https" else "http"
    return f"{scheme}://{host}"


_HERE: Final = "http://this-api.invalid"
_HOST: Final = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")


class _Kept:
    """A document that does not change while we run, and the headers it goes out with."""

    def __init__(self, content: bytes, media_type: str, headers: Mapping[str, str]) -> None:
        self._content = content
        self._media_type = media_type
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        self._headers = {**headers, "ETag": self._tag, "Cache-Control": "no-cache"}

    def answer(self, call: Call[NoInput]) -> Answer:
        """Answer the document, or 304 to a client that has it."""
        known = call.headers.get(Header.IF_NONE_MATCH.value, "")
        if self._tag in _QUOTED.findall(known) or known.strip() == "*":
            return Answer(None, 304, self._headers)
        return Answer(self._content, 200, self._headers, self._media_type)


_QUOTED = re.compile(r'"[^"]*"')

_STYLE: Final = """
:root { color-scheme: light dark; --text: #1c2127; --soft: #5b6572; --line: #d9dee4;
  --paper: #fff; --shade: #f4f6f8; --accent: #0b5cad; --good: #1a7f37; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --text: #e3e8ee; --soft: #9aa6b4; --line: #323a44;
  --paper: #14181d; --shade: #1d232a; --accent: #6cb2ff; --good: #57c278; --bad: #ff8a80; } }
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body { margin: 0; font: 16px/1.55 system-ui, sans-serif; color: var(--text);
  background: var(--paper); display: grid; grid-template-columns: 18rem minmax(0, 1fr); }
nav { position: sticky; top: 0; height: 100vh; overflow-y: auto; padding: 1.5rem 1rem;
  border-right: 1px solid var(--line); background: var(--shade); font-size: .875rem; }
nav ul { list-style: none; margin: .25rem 0 1rem; padding: 0; }
nav li { margin: .1rem 0; }
nav a { display: block; padding: .1rem .3rem; color: inherit; text-decoration: none; }
nav a:hover { color: var(--accent); text-decoration: underline; }
main { padding: 1.5rem 2.5rem 6rem; max-width: 64rem; }
h1 { margin: 0 0 .5rem; } h2 { margin: 3.5rem 0 .5rem; padding-top: 1rem;
  border-top: 3px solid var(--line); } h3 { margin: 2.5rem 0 .25rem; font-size: 1.15rem; }
h4 { margin: 1.25rem 0 .25rem; font-size: .95rem; }
a { color: var(--accent); }
p { margin: .4rem 0 .8rem; } .soft { color: var(--soft); }
code, pre { font: .875em/1.5 ui-monospace, monospace; }
code { background: var(--shade); padding: .1em .3em; border-radius: 3px;
  overflow-wrap: anywhere; }
pre { background: var(--shade); border: 1px solid var(--line); border-radius: 6px;
  padding: .8rem 1rem; overflow-x: auto; margin: .4rem 0 1rem; }
pre code { padding: 0; background: none; overflow-wrap: normal; }
td:first-child code { overflow-wrap: normal; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 1rem; font-size: .925rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem;
  border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.method { font-weight: 700; color: var(--accent); } .good { color: var(--good); }
.bad { color: var(--bad); } .status { font-weight: 700; white-space: nowrap; }
@media (max-width: 55rem) { body { display: block; } nav { position: static; height: auto;
  border: 0; } main { padding: 1rem; } table { display: block; overflow-x: auto; } }
"""

_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "img-src data:; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'"
)

_PAGE_HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_START: Final = """
<h2 id="start">Start here</h2>
<p>Log in with an email address and a password, keep the token, and send it with every request. A
server with demo data (<code>CHAT_SEED=1</code>) knows <code>ali@example.com</code>,
<code>vali@example.com</code>, <code>agent@example.com</code> and
<code>supervisor@example.com</code>, all with the password <code>password</code>.</p>
"""

_LISTENING: Final = """
<p>Requests and answers are JSON in UTF-8, whatever their <code>Content-Type</code> says. The
examples on this page run in this shell, from top to bottom within a chapter: <code>$TOKEN</code>
is that of whoever an example is by, and other variables hold what earlier answers said.</p>
<p>To hear what happens, connect any client of the Pusher protocol (pusher-js, Laravel Echo,
pusher_channels_flutter) to the realtime server with the key of the app,
<code>REVERB_APP_KEY</code>. Give it <code>/broadcasting/auth</code> of this API as the address
for authorization, with the same <code>Authorization</code> header. Each chapter lists its
channels and events. Send your connection's id in <code>X-Socket-ID</code> when you post, and you
do not hear your own events.</p>
<pre><code>new Pusher(REVERB_APP_KEY, {
  SERVER, cluster: "",
  channelAuthorization: {
    endpoint: "http://this-api.invalid/broadcasting/auth",
    headers: { Authorization: `Bearer ${token}` },
  },
}).subscribe("private-user.1").bind("MessageSent", (event) =&gt; console.log(event));</code></pre>
"""

_ERRORS: Final = """
<h3 id="errors">Errors</h3>
<p>Every failure is <code>{"code": "…", "message": "…"}</code> with its status. The code is for
programs and stays; the message is for people and may change. 429 and 503 come with
<code>Retry-After</code>, in seconds, and 405 with <code>Allow</code>. Every answer carries
<code>X-Request-ID</code>, yours if you sent one; quote it when you report something.</p>
"""

_TYPES: Final = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "object",
    "null": "null",
}


class _Page:
    """Renders the tables as one page of HTML."""

    def __init__(
        self, features: Sequence[Feature], schemas: Schemas, deployment: Deployment
    ) -> None:
        self._features = features
        self._schemas = schemas
        self._deployment = deployment
        self._names = operation_ids(features)

    def html(self) -> str:
        """Return the whole page."""
        features = [self._feature(feature) for feature in self._features]
        return "".join(
            (
                '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<link rel="icon" href="data:,"><title>Chat API</title>',
                f"<style>{_STYLE}</style></head><body>",
                self._navigation(),
                "<main>",
                self._introduction(),
                *features,
                self._shape_list(),
                "</main></body></html>\n",
            )
        )

    def _navigation(self) -> str:
        parts = ['<nav><a href="#top"><strong>Chat API</strong></a>']
        parts.append(_list(('<a href="#start">Start here</a>', '<a href="#errors">Errors</a>')))
        for feature in self._features:
            links = [
                f'<a href="#{self._names[route.method, route.path]}">{escape(route.summary)}</a>'
                for route in _without_aliases(feature)
            ]
            if feature.events:
                links.append(f'<a href="#{feature.name}-events">Events</a>')
            parts.append(
                f'<a href="#{feature.name}"><strong>{_title(feature)}</strong></a>{_list(links)}'
            )
        parts.append('<a href="#shapes"><strong>Shapes</strong></a></nav>')
        return "".join(parts)

    def _introduction(self) -> str:
        version = escape(self._deployment.version)
        return (
            f'<h1 id="top">Chat API</h1><p class="soft">Version {version} · '
            'for programs: <a href="/openapi.json">openapi.json</a> (OpenAPI 3.1)</p>'
            f"{_START}{self._login_example()}{self._listening()}{_ERRORS}{self._error_list()}"
        )

    def _listening(self) -> str:
        server = urlsplit(self._deployment.realtime_server)
        port = server.port or (443 if server.scheme == "https" else 80)
        how = 'wsPort: {}, forceTLS: false, enabledTransports: ["ws"]'
        if server.scheme == "https":
            how = 'wssPort: {}, forceTLS: true, enabledTransports: ["wss"]'
        options = f'wsHost: "{server.hostname}", {how.format(port)}'
        return _LISTENING.replace("SERVER", escape(options, quote=False))

    def _error_list(self) -> str:
        by_code: dict[str, type[ChatError]] = {MethodNotAllowed.default_code: MethodNotAllowed}
        for feature in self._features:
            for route in feature.routes:
                for errors in errors_of(route, self._deployment).values():
                    by_code |= {error.default_code: error for error in errors}
        rows = [
            (
                f'<span class="status bad">{error.status}</span>',
                f'<code id="error-{code}">{code}</code>',
                _prose(summary_of(error)),
            )
            for code, error in sorted(by_code.items(), key=lambda item: error_order(item[1]))
        ]
        return _table(("Status", "Code", "When"), rows)

    def _login_example(self) -> str:
        return _code(
            f"API={_HERE}   # where this page comes from\n"
            'TOKEN=$(curl -s "$API/api/login" -d email=ali@example.com -d password=password |\n'
            "  python3 -c 'import json, sys; print(json.load(sys.stdin)[\"token\"])')\n"
            'curl "$API/api/user" -H "Authorization: Bearer $TOKEN"'
        )

    def _feature(self, feature: Feature) -> str:
        parts = [
            f'<section><h2 id="{feature.name}">{_title(feature)}</h2>',
            f"<p>{_prose(feature.description)}</p>",
        ]
        parts += [self._route(feature, route) for route in _without_aliases(feature)]
        if feature.events:
            parts.append(f'<h3 id="{feature.name}-events">Events</h3>')
            rows = [
                (
                    f"<code>{escape(self._deployment.event_prefix + event.name)}</code>",
                    "<br>".join(f"<code>{escape(each)}</code>" for each in event.channels),
                    _prose(event.summary),
                    self._type(self._schemas.of(event.payload)),
                )
                for event in feature.events
            ]
            parts.append(_table(("Event", "On", "When", "Data"), rows))
        if feature.channel_rules:
            parts.append("<h3>Channels</h3>")
            rules = [
                (f"<code>{escape(rule.pattern)}</code>", _prose(rule.listeners))
                for rule in feature.channel_rules
            ]
            parts.append(_table(("Channel", "Who may listen"), rules))
        return "".join(parts) + "</section>"

    def _route(self, feature: Feature, route: Route[Any]) -> str:
        parts = [
            f'<section><h3 id="{self._names[route.method, route.path]}">{escape(route.summary)}'
            "</h3>"
        ]
        parts += [
            f'<p><span class="method">{alias.method}</span> '
            f"<code>{escape(plain_path(alias.path))}</code></p>"
            for alias in feature.routes
            if _sort_of(alias) == _sort_of(route)
        ]
        about = [docstring_of(route.handler), AUDIENCES[route.audience]]
        parts += [
            f"<p>{_prose(paragraph)}</p>"
            for text in about
            for paragraph in text.split("\n\n")
            if paragraph
        ]
        if rows := self._inputs(route):
            parts.append("<h4>Request</h4>")
            if route.reads_forms:
                parts.append("<p>The body may be a form (urlencoded) as well as JSON.</p>")
            parts.append(_table(("Name", "Where", "Type", "Meaning"), rows))
        if route.examples:
            parts.append("<h4>Examples</h4>")
            parts += [self._example(route, example) for example in route.examples]
        parts.append("<h4>Answers</h4>")
        parts.append(_table(("Status", "Body"), self._answers(route)))
        return "".join(parts) + "</section>"

    def _inputs(self, route: Route[Any]) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [
            (f"<code>{name}</code>", "path", "text", "Must be there.")
            for name in path_parameters(route.path)
        ]
        for header in route.headers:
            meaning, limits = HEADERS[header]
            needed = "Must be there. " if header in route.needs else ""
            rows.append(
                (
                    f"<code>{header.value}</code>",
                    "header",
                    self._type({"type": "string", **limits}),
                    needed + _prose(meaning),
                )
            )
        if route.input is not NoInput:
            rows += [
                (
                    f"<code>{escape(name)}</code>",
                    "query" if route.method == "GET" else "body",
                    self._type(query_schema(field) if route.method == "GET" else field),
                    ("Must be there. " if is_required else "") + _meaning(field),
                )
                for name, (field, is_required) in self._schemas.fields_of(route.input).items()
            ]
        return rows

    def _example(self, route: Route[Any], example: Example) -> str:
        status = example.status or next(iter(route.answers))
        about = [escape(example.summary or route.summary)]
        if route.audience is not Audience.ANYONE and "@" in example.sender:
            about.append(f"by <code>{escape(example.sender)}</code>")
        about.append(f"→ {status}")
        parts = [f"<p>{' · '.join(about)}</p>{_code(curl_command(route, example))}"]
        if example.keeps:
            kept = ", ".join(
                f"its <code>{escape(place)}</code> as <code>${name.upper()}</code>"
                for name, place in example.keeps.items()
            )
            parts.append(f'<p class="soft">Later examples use {kept}.</p>')
        return "".join(parts)

    def _answers(self, route: Route[Any]) -> list[tuple[str, str]]:
        rows = []
        for status, body in route.answers.items():
            if isinstance(body, MediaType):
                shown = f"<code>{escape(body.name)}</code>"
            else:
                shown = self._type(self._schemas.of(body)) if has_schema(body) else "nothing"
            rows.append((f'<span class="status good">{status}</span>', shown))
        for error_status, errors in errors_of(route, self._deployment).items():
            shown = " or ".join(
                f'<a href="#error-{error.default_code}"><code>{error.default_code}</code></a>'
                for error in errors
            )
            rows.append((f'<span class="status bad">{error_status.value}</span>', shown))
        return rows

    def _shape_list(self) -> str:
        shown = [
            [
                *(self._schemas.of(body) for body in route.answers.values() if has_schema(body)),
                *self._schemas.fields_of(route.input).values(),
            ]
            for feature in self._features
            for route in feature.routes
        ]
        told = [
            self._schemas.of(event.payload)
            for feature in self._features
            for event in feature.events
        ]
        parts = ['<section><h2 id="shapes">Shapes</h2>']
        parts.append("<p>The objects that requests, answers and events are made of.</p>")
        parts += [self._describe(name) for name in self._schemas.named_in((shown, told))]
        return "".join(parts) + "</section>"

    def _describe(self, name: str) -> str:
        schema = self._schemas.components[name]
        required = schema.get("required", ())
        rows = [
            (
                f"<code>{escape(field_name)}</code>",
                self._type(field),
                ("" if field_name in required else "May be absent. ") + _meaning(field),
            )
            for field_name, field in schema.get("properties", {}).items()
        ]
        return (
            f'<h3 id="shape-{escape(name)}">{escape(name)}</h3>'
            f"<p>{_prose(schema.get('description', ''))}</p>"
            + _table(("Name", "Type", "Meaning"), rows)
        )

    def _type(self, schema: dict[str, Any]) -> str:
        if reference := schema.get("$ref"):
            name = reference.rpartition("/")[2]
            return f'<a href="#shape-{escape(name)}">{escape(name)}</a>'
        if "enum" in schema:
            shown = " or ".join(
                f"<code>{escape(json.dumps(each))}</code>" for each in schema["enum"]
            )
        elif "anyOf" in schema:
            shown = " or ".join(self._type(each) for each in schema["anyOf"])
        elif schema.get("type") == "array":
            shown = f"list of {self._type(schema.get('items', {}))}"
        else:
            shown = _TYPES[schema["type"]] if "type" in schema else "anything"
        limits = ", ".join(_limits(schema))
        return f"{shown}, {limits}" if limits else shown


def curl_command(route: Route[Any], example: Example) -> str:
    """
    Return the example as a command for a shell.

    It expects the API's address in `API`, the sender's token in `TOKEN`, and whatever was to be
    kept from earlier examples in variables of the same names, in capitals.
    """
    marked = example.filled(lambda name: f"__{name.upper()}__")
    has_body = route.method != "GET" and marked.input is not None
    method = "" if route.method == ("POST" if has_body else "GET") else f"-X {route.method} "
    path = _PATH_VALUE.sub(
        lambda match: quote(marked.path[match[1]], safe=""), plain_path(route.path)
    )
    if route.method == "GET" and marked.input:
        path += "?" + urlencode(marked.input)
    path = _MARK.sub(r"$\1", path)
    parts = [f'curl {method}"$API{path}"']
    if route.audience is not Audience.ANYONE:
        token = "$TOKEN" if "@" in example.sender else _MARK.sub(r"$\1", marked.sender)
        parts.append(f'-H "Authorization: Bearer {token}"')
    parts += [f"-H {_quoted(f'{name.value}: {value}')}" for name, value in marked.headers.items()]
    if has_body:
        parts.append("-H 'Content-Type: application/json'")
        parts.append(f"-d {_quoted(json.dumps(marked.input, ensure_ascii=False))}")
    return " \\\n  ".join(parts)


_MARK = re.compile(r"__([A-Z0-9_]+?)__")
_PATH_VALUE = re.compile(r"\{(\w+)\}")


def _quoted(text: str) -> str:
    """Return a word for the shell, with the marks in it as variables."""
    text = text.replace("'", "'\\''")
    return "'" + _MARK.sub("'\"$\\1\"'", text) + "'"


def _sort_of(route: Route[Any]) -> tuple[Any, ...]:
    """Return what two rows have in common that are one thing under two addresses."""
    return route.method, route.handler, route.input, route.audience, route.summary


def _without_aliases(feature: Feature) -> Iterable[Route[Any]]:
    rows: dict[tuple[Any, ...], Route[Any]] = {}
    for route in feature.routes:
        rows.setdefault(_sort_of(route), route)
    return rows.values()


def _limits(schema: dict[str, Any]) -> Iterator[str]:
    """Yield what else a value must be, each as the end of a sentence."""
    for lowest, highest, what in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " of them"),
    ):
        match schema.get(lowest), schema.get(highest):
            case None, None:
                continue
            case None, most:
                yield f"up to {most}{what}"
            case least, None:
                yield f"at least {least}{what}"
            case least, most:
                yield f"{least} to {most}{what}"
    if "pattern" in schema:
        yield f"matching <code>{escape(schema['pattern'])}</code>"
    if "format" in schema:
        yield f"in the form <code>{escape(schema['format'])}</code>"


def _meaning(field: dict[str, Any]) -> str:
    meaning = _prose(field.get("description", ""))
    if field.get("default") is not None:
        meaning += f" Without it: <code>{escape(json.dumps(field['default']))}</code>."
    return meaning.strip()


def _prose(text: str) -> str:
    """Return a text with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _title(feature: Feature) -> str:
    return escape(feature.name.capitalize())


def _code(text: str) -> str:
    return f"<pre><code>{escape(text, quote=False)}</code></pre>"


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
