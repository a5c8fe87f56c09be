"""The features' tables as an OpenAPI 3.1 document, made from the rows that serve the requests."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import msgspec

from chat_api.features import Feature
from chat_api.kernel.errors import (
    ChatError,
    Forbidden,
    Malformed,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from chat_api.kernel.routes import Audience, Header, MediaType, NoInput, Route

__all__ = [
    "AUDIENCES",
    "HEADERS",
    "Deployment",
    "Schemas",
    "docstring_of",
    "error_order",
    "errors_of",
    "has_schema",
    "openapi_document",
    "operation_ids",
    "path_parameters",
    "plain_path",
    "query_schema",
    "summary_of",
]

_REF: Final = "#/components/schemas/"
_PLACEHOLDER = re.compile(r"\{(\w+)(?::[^{}]*(?:\{[^{}]*\}[^{}]*)*)?\}")

AUDIENCES: Final = {
    Audience.ANYONE: "Anyone may ask.",
    Audience.ACCOUNT: "For people with an account.",
    Audience.STAFF: "For agents and supervisors.",
    Audience.PARTIES: "For people with an account, and for visitors with their session's token.",
}

HEADERS: Final[Mapping[Header, tuple[str, Mapping[str, Any]]]] = {
    Header.IDEMPOTENCY_KEY: (
        "The client's own name for this request: sent again under it, it is not done again.",
        {"minLength": 1, "maxLength": 100},
    ),
    Header.IF_NONE_MATCH: ("The `ETag` of what the client has already.", {}),
    Header.PARTICIPANT_ID: (
        "The app's own id of whoever asks: a label, or who it is where a trusted proxy says so.",
        {},
    ),
    Header.PARTICIPANT_NAME: ("The name of whoever asks, likewise.", {}),
    Header.SOCKET_ID: (
        "The caller's realtime connection, which does not hear the events of this request.",
        {},
    ),
    Header.TENANT: (
        "The domain of the tenant that the request is about; by default the host it is sent to.",
        {},
    ),
}
"""What each request header means, and what its value must look like."""

_ANSWER_HEADERS: Final[Mapping[str, Any]] = {
    "Retry-After": {
        "description": "In how many seconds to try again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {
        "description": "How to say who one is.",
        "required": True,
        "schema": {"type": "string", "enum": ["Bearer"]},
    },
    "X-Request-ID": {
        "description": "The request's name in the log: the client's own, if it sent one.",
        "required": True,
        "schema": {"type": "string"},
    },
}
_HEADERS_OF: Final[Mapping[int, tuple[str, ...]]] = {
    401: ("WWW-Authenticate",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}


@dataclass(frozen=True, slots=True)
class Deployment:
    """
    What the documentation has to know of how the API runs.

    `has_proxy` says that the deployment's own proxy may tell who asks (`CHAT_AUTH=proxy`);
    `event_prefix` stands before the name of every event. With `names_pages` not every page may ask.
    `realtime_server` is its address, as this API knows it.
    """

    version: str
    has_proxy: bool = False
    event_prefix: str = ""
    names_pages: bool = False
    realtime_server: str = "http://127.0.0.1:8080"


class Schemas:
    """The JSON Schemas of everything that the tables of these features name."""

    def __init__(self, features: Iterable[Feature]) -> None:
        types: dict[Any, None] = {}
        for feature in features:
            for route in feature.routes:
                types[route.input] = None
                types |= {body: None for body in route.answers.values() if has_schema(body)}
            types |= {event.payload: None for event in feature.events}
        schemas, components = msgspec.json.schema_components(types, ref_template=_REF + "{name}")
        names = {_REF + name: _REF + _short(name) for name in components}
        self.components: dict[str, Any] = {
            _short(name): _tidied(components[name], names) for name in sorted(components)
        }
        """The schemas that others refer to, by their names."""
        self._by_type: dict[Any, Any] = {
            each: _tidied(schema, names) for each, schema in zip(types, schemas, strict=True)
        }

    def of(self, wanted: Any) -> Any:
        """Return the schema of a type that stands in the tables."""
        return self._by_type[wanted]

    def fields_of(self, wanted: type[msgspec.Struct]) -> dict[str, tuple[Any, bool]]:
        """Return the schema of each field of an input, and whether the field must be there."""
        component = self.components[self.of(wanted)["$ref"].removeprefix(_REF)]
        required = component.get("required", ())
        return {name: (field, name in required) for name, field in component["properties"].items()}

    def named_in(self, parts: Any) -> list[str]:
        """Return which components these parts refer to, and those to others, by name, in order."""
        reached: set[str] = set()
        waiting = list(_references(parts))
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += _references(self.components[name])
        return sorted(reached)


def openapi_document(
    features: Sequence[Feature], schemas: Schemas, deployment: Deployment
) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of everything that these features serve."""
    names = operation_ids(features)
    responses: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for feature in features:
        for route in feature.routes:
            operation = {
                "operationId": names[route.method, route.path],
                "tags": [feature.name],
                **_operation(route, schemas, responses, deployment),
            }
            for status, links in _links(route, feature, names).items():
                operation["responses"][str(status)]["links"] = links
            paths.setdefault(plain_path(route.path), {})[route.method.lower()] = operation
    events = [
        {
            "name": deployment.event_prefix + event.name,
            "channels": list(event.channels),
            "summary": event.summary,
            "payload": schemas.of(event.payload),
        }
        for feature in features
        for event in feature.events
    ]
    channels = [
        {"pattern": rule.pattern, "listeners": rule.listeners}
        for feature in features
        for rule in feature.channel_rules
    ]
    used = schemas.named_in((paths, responses, events))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Chat API",
            "version": deployment.version,
            "description": "Direct chats, support conversations and wallets. What happens is told "
            "over the Pusher protocol: see `x-events` and `x-channels`.",
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": feature.name, "description": feature.description} for feature in features
        ],
        "paths": paths,
        "components": {
            "schemas": {name: schemas.components[name] for name in used},
            "responses": {name: responses[name] for name in sorted(responses)},
            "headers": _ANSWER_HEADERS,
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "The `token` that logging in, or opening a session, answers.",
                }
            },
        },
        "x-channels": channels,
        "x-events": events,
    }


def operation_ids(features: Iterable[Feature]) -> dict[tuple[str, str], str]:
    """
    Return a name for each method and path, such as `chats_send`.

    What is served at a second path too is called `auth_log_in_at_api_v1_auth_login` there.
    """
    names: dict[tuple[str, str], str] = {}
    for feature in features:
        for route in feature.routes:
            name = f"{feature.name}_{route.handler.__name__}"
            if name in names.values():
                name += "_at_" + "_".join(re.findall(r"\w+", route.path))
            names[route.method, route.path] = name
    return names


def plain_path(path: str) -> str:
    """Return a route's path without the expressions that its parameters have to match."""
    return _PLACEHOLDER.sub(r"{\1}", path)


def path_parameters(path: str) -> list[str]:
    """Return the names of a path's parameters, in their order."""
    return _PLACEHOLDER.findall(path)


def errors_of(route: Route[Any], deployment: Deployment) -> dict[HTTPStatus, list[type[ChatError]]]:
    """
    Return the errors that a route may answer, by their statuses, in the order of these.

    Those that the row lists, and those that follow from it.
    """
    possible: set[type[ChatError]] = {*route.errors, ChatError}
    if route.audience is not Audience.ANYONE:
        possible.add(Unauthenticated)
    if route.audience is not Audience.ACCOUNT and deployment.has_proxy:
        possible |= {Unauthenticated, Malformed}
    if route.audience in (Audience.ACCOUNT, Audience.STAFF):
        possible.add(Forbidden)
    if route.audience is not Audience.ANYONE or route.input is not NoInput:
        possible.add(Unavailable)
    if route.method != "GET":
        possible |= {Malformed, TooLarge}
        if deployment.names_pages:
            possible.add(Forbidden)
    if route.input is not NoInput or route.headers:
        possible.add(Malformed)
    if path_parameters(route.path):
        possible.add(NotFound)
    by_status: dict[HTTPStatus, list[type[ChatError]]] = {}
    for error in sorted(possible, key=error_order):
        if error.status not in route.answers:
            by_status.setdefault(HTTPStatus(error.status), []).append(error)
    return by_status


def error_order(error: type[ChatError]) -> tuple[int, str, str]:
    """Return what errors are sorted by: statuses, then codes."""
    return error.status, error.default_code, error.__name__


def has_schema(body: Any) -> bool:
    """Tell whether what stands in `Route.answers` is a type, and not another sort of body."""
    return body is not None and not isinstance(body, MediaType)


def query_schema(field: dict[str, Any]) -> dict[str, Any]:
    """Return a field's schema for a query, where what is null is left out."""
    field = {name: value for name, value in field.items() if (name, value) != ("default", None)}
    if "enum" in field:
        field["enum"] = [value for value in field["enum"] if value is not None]
    if "anyOf" in field:
        others = [each for each in field.pop("anyOf") if each.get("type") != "null"]
        field |= others[0] if len(others) == 1 else {"anyOf": others}
    return field


def docstring_of(documented: Any) -> str:
    """Return what a docstring says, without its indentation; empty where there is none."""
    return inspect.getdoc(documented) or ""


def summary_of(documented: Any) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join(docstring_of(documented).partition("\n\n")[0].split())


def _operation(
    route: Route[Any], schemas: Schemas, responses: dict[str, Any], deployment: Deployment
) -> dict[str, Any]:
    description = docstring_of(route.handler)
    operation: dict[str, Any] = {
        "summary": route.summary,
        "description": "\n\n".join(filter(None, (description, AUDIENCES[route.audience]))),
        "security": _security(route.audience, deployment),
    }
    if parameters := _parameters(route, schemas):
        operation["parameters"] = parameters
    if route.method != "GET" and route.input is not NoInput:
        operation["requestBody"] = _request_body(route, schemas)
    answers: dict[str, Any] = {
        str(status): _response(status, body, schemas) for status, body in route.answers.items()
    }
    for status, errors in errors_of(route, deployment).items():
        name = "Or".join("Internal" if each is ChatError else each.__name__ for each in errors)
        responses[name] = _error_response(status, errors)
        answers[str(status.value)] = {"$ref": f"#/components/responses/{name}"}
    operation["responses"] = answers
    return operation


def _security(audience: Audience, deployment: Deployment) -> list[dict[str, list[str]]]:
    if audience is Audience.ANYONE:
        return []
    needs_none = deployment.has_proxy and audience is not Audience.ACCOUNT
    return [{"bearer": []}, {}] if needs_none else [{"bearer": []}]


def _parameters(route: Route[Any], schemas: Schemas) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        _with_example(
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}},
            [example.path.get(name) for example in route.examples],
        )
        for name in path_parameters(route.path)
    ]
    if route.method == "GET" and route.input is not NoInput:
        for name, (field, is_required) in schemas.fields_of(route.input).items():
            parameter: dict[str, Any] = {"name": name, "in": "query", "schema": query_schema(field)}
            if is_required:
                parameter["required"] = True
            parameters.append(
                _with_example(
                    parameter, [(example.input or {}).get(name) for example in route.examples]
                )
            )
    for header in route.headers:
        description, limits = HEADERS[header]
        parameters.append(
            {
                "name": header.value,
                "in": "header",
                "required": header in route.needs,
                "description": description,
                "schema": {"type": "string", **limits},
            }
        )
    return parameters


def _links(
    route: Route[Any], feature: Feature, names: Mapping[tuple[str, str], str]
) -> dict[int, dict[str, Any]]:
    """
    Return, by status, which requests the answers of this one name a thing for.

    The examples say it: what one keeps, others have in their paths.
    """
    links: dict[int, dict[str, Any]] = {}
    for example in route.examples:
        status = example.status or next(iter(route.answers))
        for other in feature.routes:
            found = {
                parameter: "$response.body#/" + place.replace(".", "/")
                for kept, place in example.keeps.items()
                for path in (each.path for each in other.examples)
                for parameter, value in path.items()
                if value == f"{{{kept}}}"
            }
            if found:
                name = names[other.method, other.path]
                links.setdefault(status, {})[name] = {"operationId": name, "parameters": found}
    return links


def _with_example(parameter: dict[str, Any], values: Iterable[Any]) -> dict[str, Any]:
    """Add the first of the values that is there and does not stand for something else."""
    for value in values:
        if value is not None and "{" not in str(value):
            return {**parameter, "example": value}
    return parameter


def _request_body(route: Route[Any], schemas: Schemas) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schemas.of(route.input)}
    examples = [each.filled(str.upper) for each in route.examples if each.input is not None]
    if examples:
        content["examples"] = {
            f"example{number}": {"summary": each.summary or route.summary, "value": each.input}
            for number, each in enumerate(examples, 1)
        }
    media_types = ["application/json"]
    if route.reads_forms:
        media_types.append("application/x-www-form-urlencoded")
    return {
        "required": any(is_required for _, is_required in schemas.fields_of(route.input).values()),
        "content": dict.fromkeys(media_types, content),
    }


def _response(status: int, body: Any, schemas: Schemas) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "headers": _answer_headers("X-Request-ID"),
    }
    if isinstance(body, MediaType):
        response["content"] = {body.name: {"schema": {"type": "string"}}}
    elif has_schema(body):
        response["content"] = {"application/json": {"schema": schemas.of(body)}}
    return response


def _error_response(status: HTTPStatus, errors: list[type[ChatError]]) -> dict[str, Any]:
    codes = sorted({error.default_code for error in errors})
    return {
        "description": " ".join(summary_of(error) for error in errors),
        "headers": _answer_headers(*_HEADERS_OF.get(status, ()), "X-Request-ID"),
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "code": {"type": "string", "enum": codes},
                        "message": {"type": "string", "description": "What to do, for people."},
                    },
                    "required": ["code", "message"],
                }
            }
        },
    }


def _answer_headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _short(name: str) -> str:
    """
    Return the name of a component.

    Structs of the same name come with their modules, of which the feature and the face are kept:
    `chat_api.features.support.customer_routes.OpenInput` is `SupportCustomerOpenInput`.
    """
    *folders, module, struct = ["", *name.split(".")]
    words = [*folders[-1:], *re.sub("(_?routes|views)$", "", module).split("_")]
    return "".join(word.capitalize() for word in words) + struct


def _tidied(schema: Any, names: Mapping[str, str]) -> Any:
    """Return a schema with short names, readable descriptions, and null where it is possible."""
    if isinstance(schema, list):
        return [_tidied(each, names) for each in schema]
    if not isinstance(schema, dict):
        return schema
    tidied = {name: _tidied(value, names) for name, value in schema.items()}
    if isinstance(tidied.get("$ref"), str):
        tidied["$ref"] = names[tidied["$ref"]]
    if isinstance(tidied.get("description"), str):
        tidied["description"] = inspect.cleandoc(tidied["description"])
    if "enum" in tidied and {"type": "null"} in tidied.get("anyOf", ()):
        tidied["enum"] = [*tidied["enum"], None]  # what is stated is about the values beside it
    return tidied


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str) and reference.startswith(_REF):
            yield reference.removeprefix(_REF)
        value = value.values()
    elif not isinstance(value, (list, tuple)):
        return
    for inner in value:
        yield from _references(inner)
