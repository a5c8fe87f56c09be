"""
The signatures of the Pusher protocol: channel authorization, user sign-in and HTTP requests.

Every signature is the lowercase hex HMAC-SHA256 of a string under the app's secret. Verification
takes the strings exactly as they arrived, before anything parses them, and compares in constant
time. Nothing here reads a clock: whoever checks a request passes in what time it is.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from urllib.parse import unquote, unquote_plus

__all__ = [
    "channel_auth",
    "is_channel_auth_valid",
    "is_signature_valid",
    "is_user_auth_valid",
    "parse_query",
    "request_strings_to_sign",
    "sign",
    "signed_query",
    "user_auth",
]

_SIGNATURE_LENGTH = 64


def sign(secret: str, text: str | bytes) -> str:
    """Return the lowercase hex HMAC-SHA256 of `text` under `secret`; a string is taken as UTF-8."""
    signer = _signer(secret).copy()
    signer.update(text.encode() if isinstance(text, str) else text)
    return signer.hexdigest()


@lru_cache(maxsize=1024)
def _signer(secret: str) -> hmac.HMAC:
    # Setting up the key costs as much as signing a request.
    return hmac.new(secret.encode(), digestmod=hashlib.sha256)


def channel_auth(
    key: str, secret: str, socket_id: str, channel: str, channel_data: str | None = None
) -> str:
    """
    Return the `auth` value, `KEY:SIGNATURE`, that lets one connection subscribe to one channel.

    `channel_data` is the presence member's JSON, as the very string the client will send. Callers
    validate `socket_id` and `channel` first: a socket id or a channel holding a `:` would let a
    client have a string of another shape signed (wire rule: `SOCKET:CHANNEL[:DATA]`).
    """
    text = f"{socket_id}:{channel}"
    if channel_data is not None:
        text = f"{text}:{channel_data}"
    return f"{key}:{sign(secret, text)}"


def user_auth(key: str, secret: str, socket_id: str, user_data: str) -> str:
    """Return the `auth` value of `pusher:signin`, which signs `SOCKET::user::USER_DATA`."""
    return f"{key}:{sign(secret, f'{socket_id}::user::{user_data}')}"


def is_channel_auth_valid(
    auth: str,
    key: str,
    secrets: tuple[str, ...],
    socket_id: str,
    channel: str,
    channel_data: str | None = None,
) -> bool:
    """
    Tell whether `auth` is what `channel_auth` returns, key part included, under one of the secrets.

    The comparison takes the same time wherever the strings differ.
    """
    return any(
        _is_same(auth, channel_auth(key, secret, socket_id, channel, channel_data))
        for secret in secrets
    )


def is_user_auth_valid(
    auth: str, key: str, secrets: tuple[str, ...], socket_id: str, user_data: str
) -> bool:
    """Tell the same of `user_auth`."""
    return any(_is_same(auth, user_auth(key, secret, socket_id, user_data)) for secret in secrets)


def _is_same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(errors="surrogatepass"), expected.encode())


def signed_query(
    key: str,
    secret: str,
    method: str,
    path: str,
    body: bytes,
    timestamp: int,
    parameters: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """
    Return the query parameters, signature last, that authenticate one HTTP API request.

    `path` has no query and no host; `timestamp` is in whole seconds since 1970. An empty body is
    signed without `body_md5`, which every known server accepts.
    """
    query = dict(parameters or {})
    query |= {"auth_key": key, "auth_timestamp": str(timestamp), "auth_version": "1.0"}
    if body:
        query["body_md5"] = hashlib.md5(body, usedforsecurity=False).hexdigest()
    query["auth_signature"] = sign(secret, f"{method}\n{path}\n{_sorted_query(query)}")
    return query


def parse_query(query: str, *, plus_is_space: bool = False) -> dict[str, str]:
    """
    Return the parameters of a raw query string, decoded, with lowercase names.

    Repeated array parameters (`channels[]=a&channels[]=b`) become one value joined by commas under
    the bare name, as the PHP library signs them; of other repetitions the last one counts. A `+` is
    itself to some encoders and, with `plus_is_space`, a space to others.
    """
    if "%" not in query and "+" not in query and "[" not in query:
        pairs = [pair.partition("=") for pair in query.split("&")]
        return {name.lower(): value for name, _, value in pairs if name}
    decode = unquote_plus if plus_is_space else unquote
    parameters: dict[str, str] = {}
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if "%" in pair or "+" in pair:
            name, value = decode(name), decode(value)
        name = name.lower()
        if name.endswith("[]"):
            name = name[:-2]
            if name in parameters:
                value = f"{parameters[name]},{value}"
        if name:
            parameters[name] = value
    return parameters


def request_strings_to_sign(
    method: str, paths: Iterable[str], parameters: Mapping[str, str], body_md5: str | None
) -> Iterator[str]:
    """
    Yield each string a client may have signed for this request, the usual one first.

    `parameters` are the query's, signature or not; `body_md5` is the hex MD5 of the body, or None
    when the body is empty. A `body_md5` in the query is the caller's to compare with the body.
    Clients disagree in two ways, and every string yielded binds the whole request:

    * pusher-http-python signs a `body_md5` on requests without a body, Reverb leaves it out;
    * behind a path prefix the signed path has the prefix (proxies) or lacks it (Reverb): `paths`
      lists the candidates.
    """
    signed = dict(parameters)
    signed.pop("auth_signature", None)
    if body_md5 is not None:
        # A body that the signature does not cover could be swapped: its digest always counts.
        signed["body_md5"] = body_md5
    query, bare_query = _sorted_query(signed), None
    if body_md5 is None and signed.pop("body_md5", None) is not None:
        bare_query = _sorted_query(signed)
    for path in paths:
        yield f"{method}\n{path}\n{query}"
        if bare_query is not None:
            yield f"{method}\n{path}\n{bare_query}"


def is_signature_valid(
    signature: str, secrets: tuple[str, ...], strings_to_sign: Iterable[str]
) -> bool:
    """
    Tell, comparing in constant time, whether one of the secrets signs one of the strings so.

    What has not the length of a signature is none, and costs nothing.
    """
    if len(signature) != _SIGNATURE_LENGTH:
        return False
    for text in strings_to_sign:
        for secret in secrets:
            if _is_same(signature, sign(secret, text)):
                return True
    return False


def _sorted_query(parameters: Mapping[str, str]) -> str:
    return "&".join([f"{name}={value}" for name, value in sorted(parameters.items())])
