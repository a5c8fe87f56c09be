"""Logging in and out, who one is, and `/broadcasting/auth` under the names clients know it by."""

from collections.abc import Mapping

import msgspec

from chat_api.features import Feature
from chat_api.features.auth.service import STAFF, Accounts, user_view
from chat_api.kernel.errors import Malformed
from chat_api.kernel.routes import Answer, Call, Caller, NoInput, Person, Route
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
    with_seed: bool,
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
        await accounts.log_out(call.caller)
        return Answer({"message": "Logged out."})

    async def me(call: Call[NoInput]) -> Answer:
        caller = call.caller
        return Answer(_account_view(caller, caller.role, list(caller.tenants)))

    async def authorize_channel(call: Call[ChannelInput]) -> Answer:
        socket_id, channel = _checked_socket_id(call.input.socket_id), call.input.channel_name
        if not is_channel_name(channel):
            raise Malformed("channel_name is not the name of a channel.")
        grant = await rules.grant(call.caller, channel)
        if kind_of(channel).access is not Access.PRESENCE:
            return Answer({"auth": channel_auth(app_key, app_secret, socket_id, channel)})
        # Some clients parse and re-encode this string before they send it on: only this exact
        # spelling (compact, user_id first, both keys there) keeps the signature valid.
        member = {"user_id": str(call.caller.id), "user_info": grant.member or {}}
        channel_data = msgspec.json.encode(member).decode()
        auth = channel_auth(app_key, app_secret, socket_id, channel, channel_data)
        return Answer({"auth": auth, "channel_data": channel_data})

    async def sign_in(call: Call[SigninInput]) -> Answer:
        socket_id, caller = _checked_socket_id(call.input.socket_id), call.caller
        user = {"id": str(caller.id), "user_info": {"name": caller.name}}
        user_data = msgspec.json.encode(user).decode()
        auth = user_auth(app_key, app_secret, socket_id, user_data)
        return Answer({"auth": auth, "user_data": user_data})

    async def seed(call: Call[NoInput]) -> Answer:
        return Answer({"users": await accounts.seed()})

    async def is_own_channel(caller: Caller, names: Mapping[str, str]) -> Grant | None:
        return Grant() if names["id"] == str(caller.id) else None

    routes = (
        *(
            Route("POST", path, LoginInput, log_in, is_open=True, reads_forms=True)
            for path in ("/api/login", "/api/v1/auth/login")
        ),
        Route("POST", "/api/logout", NoInput, log_out),
        Route("GET", "/api/user", NoInput, me),
        *(
            Route("POST", path, ChannelInput, authorize_channel, reads_forms=True)
            for path in ("/broadcasting/auth", "/pusher/auth")
        ),
        *(
            Route("POST", path, SigninInput, sign_in, reads_forms=True)
            for path in ("/broadcasting/user-auth", "/pusher/user-auth")
        ),
        *((Route("POST", "/api/admin/seed", NoInput, seed, is_open=True),) if with_seed else ()),
    )
    return Feature(routes, (ChannelRule("private-user.{id}", is_own_channel),))


def _checked_socket_id(socket_id: str) -> str:
    # Checked before anything is signed: a colon in it could make a signature mean something else.
    if not is_socket_id(socket_id):
        raise Malformed("socket_id is not a socket id such as 1234.5678.")
    return socket_id


def _account_view(person: Person, role: str, tenants: list[str]) -> dict[str, object]:
    return {**user_view(person), "name": person.name, "role": role, "tenants": tenants}
