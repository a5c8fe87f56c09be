"""
Bearer tokens: JSON Web Tokens under HMAC-SHA256, and no other algorithm.

An account's claims are `sub` and `email` (the address), `name`, `role`, `tenants`, `iat`, `exp`,
`jti` and `uid`, the account's id: an address can change hands, so `uid` alone says whose token it
is. `tenants` are all that staff serve, so there is no single `tenant` in it. A visitor's are `sub`
(the customer's id), `name`, `role` (always `customer`), `tenant`, `conversation`, `iat`, `exp` and
`jti`.
"""

import secrets
from datetime import timedelta
from typing import Annotated, Final, Literal, NamedTuple

import jwt
import msgspec

from chat_api.kernel.clock import Clock
from chat_api.kernel.texts import MAX_ID

__all__ = ["Claims", "InvalidToken", "IssuedToken", "Tokens", "VisitorClaims"]

_ALGORITHM: Final = "HS256"


class InvalidToken(Exception):
    """Not one of ours, tampered with, or past its time."""


class Claims(msgspec.Struct, frozen=True):
    """What an account's token says; claims that later versions add are ignored."""

    uid: Annotated[int, msgspec.Meta(gt=0, le=MAX_ID)]
    sub: str
    email: str
    name: str
    role: str
    tenants: tuple[str, ...]
    iat: int
    exp: int
    jti: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]


class VisitorClaims(msgspec.Struct, frozen=True):
    """What the token of a customer without an account says: good for one conversation."""

    sub: Annotated[str, msgspec.Meta(min_length=1)]
    name: str
    role: Literal["customer"]
    tenant: str
    conversation: Annotated[str, msgspec.Meta(min_length=1)]
    iat: int
    exp: int
    jti: Annotated[str, msgspec.Meta(min_length=1, max_length=32)]


class IssuedToken(NamedTuple):
    """A token for a client, and how many seconds it lasts."""

    text: str
    expires_in: int


class Tokens:
    """Issues and reads tokens under one secret; knows nothing of revocation."""

    def __init__(self, secret: str, lifetime: timedelta, clock: Clock) -> None:
        self._secret = secret
        self._lifetime = int(lifetime.total_seconds())
        self._clock = clock

    def issue(
        self, *, user_id: int, email: str, name: str, role: str, tenants: tuple[str, ...]
    ) -> IssuedToken:
        """Return a fresh token for an account."""
        now = int(self._clock().timestamp())
        claims = Claims(
            uid=user_id,
            sub=email,
            email=email,
            name=name,
            role=role,
            tenants=tenants,
            iat=now,
            exp=now + self._lifetime,
            jti=secrets.token_hex(16),
        )
        return self._signed(claims)

    def issue_to_visitor(
        self, *, customer_id: str, name: str, tenant: str, conversation_id: str
    ) -> IssuedToken:
        """Return a fresh token for a customer without an account, for one conversation."""
        now = int(self._clock().timestamp())
        claims = VisitorClaims(
            sub=customer_id,
            name=name,
            role="customer",
            tenant=tenant,
            conversation=conversation_id,
            iat=now,
            exp=now + self._lifetime,
            jti=secrets.token_hex(16),
        )
        return self._signed(claims)

    def _signed(self, claims: Claims | VisitorClaims) -> IssuedToken:
        text = jwt.encode(msgspec.to_builtins(claims), self._secret, algorithm=_ALGORITHM)
        return IssuedToken(text, self._lifetime)

    def read(self, text: str) -> Claims | VisitorClaims:
        """
        Return what a token says.

        Raises:
            InvalidToken: It is not good (any more); what is wrong with it is not told.
        """
        try:
            claims = jwt.decode(
                text,
                self._secret,
                algorithms=[_ALGORITHM],
                # Whether it has expired is asked of our clock, below.
                options={"verify_exp": False, "verify_iat": False},
            )
            read: Claims | VisitorClaims
            if claims.get("role") == "customer":
                read = msgspec.convert(claims, VisitorClaims)
            else:
                read = msgspec.convert(claims, Claims)
        except (jwt.InvalidTokenError, msgspec.ValidationError, ValueError, RecursionError):
            raise InvalidToken from None
        if read.exp <= self._clock().timestamp():
            raise InvalidToken
        return read
