"""Tokens as our API makes them, and as it does not."""

import base64
import hmac
from datetime import UTC, datetime
from typing import Any

import jwt
import msgspec

from tests.chat_api.world import SECRET


def segment(value: Any) -> str:
    """Return one of the three parts of a token."""
    return base64.urlsafe_b64encode(msgspec.json.encode(value)).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Return what a good token of Ali's says, changed; what is None is left out."""
    now = int(datetime.now(UTC).timestamp())
    usual = {
        "uid": 1,
        "sub": "ali@example.com",
        "email": "ali@example.com",
        "name": "Ali Valiyev",
        "role": "user",
        "tenants": [],
        "iat": now,
        "exp": now + 1000,
        "jti": "abc",
    }
    return {name: value for name, value in (usual | changes).items() if value is not None}


def signed(payload: dict[str, Any], secret: str = SECRET) -> str:
    """Return the token as our API would sign it, with its secret or another one."""
    return jwt.encode(payload, secret, algorithm="HS256")


def signed_otherwise(payload: dict[str, Any], algorithm: str, digest: str) -> str:
    """Return the token signed by an algorithm that is not ours."""
    head = f"{segment({'alg': algorithm, 'typ': 'JWT'})}.{segment(payload)}"
    signature = hmac.digest(SECRET.encode(), head.encode(), digest)
    return f"{head}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
