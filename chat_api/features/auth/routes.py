"""Logging in and out, who one is, and `/broadcasting/auth` under the names clients know it by."""

from collections.abc import Mapping
from typing import Any

import msgspec

from chat_api.features import Feature
from chat_api.features.auth.service import Accounts, user_view
from chat_api.kernel.callers import STAFF, Caller, Identity, Person, Visitor
from chat_api.kernel.errors import Malformed
from chat_api.kernel.routes import Answer, Audience, Call, NoInput, Route
from chat_api.realtime.channel_rules import ChannelRule, ChannelRules, Grant
from reverb_py.protocol.channel_names import Access, is_channel_name, kind_of
from reverb_py.protocol.signing import channel_auth, user_auth
from reverb_py.protocol.socket_ids import is_socket_id

__all__ = ["auth_feature"]


class LoginInput(msgspec.Struct, frozen=True):
    """Credentials; `role` is sent by apps that are for one role only."""

    email: str
    password: str
    role: str | None = None


class ChannelInput(msgspec.Struct, frozen=True):
    """Which connection wants to listen to which channel."""

    socket_id: str
    channel_name: str


class SigninInput(msgspec.Struct, frozen=True):
    """Which connection wants to be known as the caller's."""

    socket_id: str


def auth_feature(
    accounts: Accounts,
    rules: ChannelRules,
    *,
    app_key: str,
    app_secret: str,
) -> Feature:
    """
    Return the routes of accounts and of channel authorization.

    `rules` decides who may listen; other features may add to it later. `app_key` and `app_secret`
    are the realtime app's, which its server checks the signatures with.
    """

    async def log_in(call: Call[LoginInput]) -> Answer:
        given = call.input
        login = await accounts.log_in(given.email, given.password, given.role, call.address)
        person, tenants = login.person, list(login.tenants)
        body = {
            "access_token": login.token.text,
            "token": login.token.text,
            "token_type": "Bearer",
            "expires_in": login.token.expires_in,
            "user": _account_view(person, login.role, tenants),
        }
        if login.role in STAFF:
            # Apps keep an agent's id in secure storage, which takes strings only.
            body["agent"] = {
                "id": str(person.id),
                "email": person.email,
                "name": person.name,
                "role": login.role,
                "tenants": tenants,
            }
        return Answer(body)

    async def log_out(call: Call[NoInput]) -> Answer:
        if isinstance(call.identity, (Caller, Visitor)):  # a proxy's word cannot be revoked here
            await accounts.log_out(call.identity)
        return Answer({"message": "Logged out."})

    async def me(call: Call[NoInput]) -> Answer:
        caller = call.caller
        return Answer(_account_view(caller, caller.role, list(caller.tenants)))

    async def authorize_channel(call: Call[ChannelInput]) -> Answer:
        socket_id, channel = _checked_socket_id(call.input.socket_id), call.input.channel_name
        if not is_channel_name(channel):
            raise Malformed("channel_name is not the name of a channel.")
        grant = await rules.grant(_somebody(call.identity), channel)
        if kind_of(channel).access is not Access.PRESENCE:
            return Answer({"auth": channel_auth(app_key, app_secret, socket_id, channel)})
        # Some clients parse and re-encode this string before they send it on: only this exact
        # spelling (compact, user_id first, both keys there) keeps the signature valid.
        member_id = grant.member_id or str(call.caller.id)
        member = {"user_id": member_id, "user_info": grant.member or {}}
        channel_data = msgspec.json.encode(member).decode()
        auth = channel_auth(app_key, app_secret, socket_id, channel, channel_data)
        return Answer({"auth": auth, "channel_data": channel_data})

    async def sign_in(call: Call[SigninInput]) -> Answer:
        socket_id, caller = _checked_socket_id(call.input.socket_id), call.caller
        user = {"id": str(caller.id), "user_info": {"name": caller.name}}
        user_data = msgspec.json.encode(user).decode()
        auth = user_auth(app_key, app_secret, socket_id, user_data)
        return Answer({"auth": auth, "user_data": user_data})

    async def seed() -> Mapping[str, Any]:
        return {"users": await accounts.seed()}

    async def is_own_channel(identity: Identity, names: Mapping[str, str]) -> Grant | None:
        is_own = isinstance(identity, Caller) and names["id"] == str(identity.id)
        return Grant() if is_own else None

    routes: tuple[Route[Any], ...] = (
        *(
            Route("POST", path, LoginInput, log_in, Audience.ANYONE, reads_forms=True)
            for path in ("/api/login", "/api/v1/auth/login")
        ),
        Route("POST", "/api/logout", NoInput, log_out, Audience.PARTIES),
        Route("GET", "/api/user", NoInput, me),
        *(
            Route("POST", path, ChannelInput, authorize_channel, Audience.PARTIES, reads_forms=True)
            for path in ("/broadcasting/auth", "/pusher/auth")
        ),
        *(
            Route("POST", path, SigninInput, sign_in, reads_forms=True)
            for path in ("/broadcasting/user-auth", "/pusher/user-auth")
        ),
    )
    return Feature(routes, (ChannelRule("private-user.{id}", is_own_channel),), seed)


def _somebody(identity: Identity | None) -> Identity:
    assert identity is not None, "the route has an audience"
    return identity


def _checked_socket_id(socket_id: str) -> str:
    # Checked before anything is signed: a colon in it could make a signature mean something else.
    if not is_socket_id(socket_id):
        raise Malformed("socket_id is not a socket id such as 1234.5678.")
    return socket_id


def _account_view(person: Person, role: str, tenants: list[str]) -> dict[str, object]:
    return {**user_view(person), "name": person.name, "role": role, "tenants": tenants}
