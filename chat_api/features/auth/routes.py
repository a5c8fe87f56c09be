"""Logging in and out, who one is, and `/broadcasting/auth` under the names clients know it by."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET

from chat_api.features import Feature
from chat_api.features.auth.service import MAX_EMAIL, MAX_PASSWORD, Accounts
from chat_api.features.auth.views import (
    AccountView,
    AgentView,
    ChannelAuth,
    LoggedIn,
    LoggedOut,
    UserAuth,
    account_view,
)
from chat_api.kernel.callers import STAFF, Caller, Identity, Visitor
from chat_api.kernel.errors import Forbidden, Malformed, TooMany, Unauthenticated, Unprocessable
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
from chat_api.realtime.channel_rules import ChannelRule, ChannelRules, Grant
from reverb_py.protocol.channel_names import Access, is_channel_name, kind_of
from reverb_py.protocol.signing import channel_auth, user_auth
from reverb_py.protocol.socket_ids import is_socket_id

__all__ = ["auth_feature"]


_SocketId = Annotated[
    str,
    stated(
        "The connection, by the `socket_id` that the realtime server greeted it with.",
        pattern=r"^[0-9]{1,20}\.[0-9]{1,20}$",
    ),
]


class LoginInput(msgspec.Struct, frozen=True):
    """Credentials."""

    email: Annotated[str, stated(minLength=1, maxLength=MAX_EMAIL)]
    password: Annotated[str, stated(maxLength=MAX_PASSWORD)]
    role: Annotated[
        str | None,
        stated(
            "Sent by apps that are for one role only: `user`, `agent` (all staff), `supervisor`."
        ),
    ] = None


class ChannelInput(msgspec.Struct, frozen=True):
    """Which connection wants to listen to which channel."""

    socket_id: _SocketId
    channel_name: Annotated[
        str,
        stated("Such as `private-user.1`.", pattern="^#?[A-Za-z0-9_=@,.;-]+$", maxLength=200),
    ]


class SigninInput(msgspec.Struct, frozen=True):
    """Which connection wants to be known as the caller's."""

    socket_id: _SocketId


_DESCRIPTION: Final = (
    "Whoever has an account logs in with an email address and a password, and sends the token with "
    "every request from then on: `Authorization: Bearer TOKEN`. Listening to a channel takes a "
    "signature, which pusher-js, Echo and the other clients of the Pusher protocol fetch by "
    "themselves when they are given the address of `/broadcasting/auth` and that header."
)


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
        person = login.person
        agent = None
        if login.role in STAFF:
            agent = AgentView(
                str(person.id), person.email, person.name, login.role, list(login.tenants)
            )
        return Answer(
            LoggedIn(
                access_token=login.token.text,
                token=login.token.text,
                token_type="Bearer",
                expires_in=login.token.expires_in,
                user=account_view(person, login.role, login.tenants),
                agent=agent or UNSET,
            )
        )

    async def log_out(call: Call[NoInput]) -> Answer:
        """The token is refused from then on, wherever it is used."""
        if isinstance(call.identity, (Caller, Visitor)):  # a proxy's word cannot be revoked here
            await accounts.log_out(call.identity)
        return Answer(LoggedOut())

    async def me(call: Call[NoInput]) -> Answer:
        caller = call.caller
        return Answer(account_view(caller, caller.role, caller.tenants))

    async def authorize_channel(call: Call[ChannelInput]) -> Answer:
        socket_id, channel = _checked_socket_id(call.input.socket_id), call.input.channel_name
        if not is_channel_name(channel):
            raise Malformed("channel_name is not the name of a channel.")
        grant = await rules.grant(_somebody(call.identity), channel)
        if kind_of(channel).access is not Access.PRESENCE:
            return Answer(ChannelAuth(channel_auth(app_key, app_secret, socket_id, channel)))
        # Some clients parse and re-encode this string before they send it on: only this exact
        # spelling (compact, user_id first, both keys there) keeps the signature valid.
        member_id = grant.member_id or str(call.caller.id)
        member = {"user_id": member_id, "user_info": grant.member or {}}
        channel_data = msgspec.json.encode(member).decode()
        auth = channel_auth(app_key, app_secret, socket_id, channel, channel_data)
        return Answer(ChannelAuth(auth, channel_data))

    async def sign_in(call: Call[SigninInput]) -> Answer:
        socket_id, caller = _checked_socket_id(call.input.socket_id), call.caller
        user = {"id": str(caller.id), "user_info": {"name": caller.name}}
        user_data = msgspec.json.encode(user).decode()
        auth = user_auth(app_key, app_secret, socket_id, user_data)
        return Answer(UserAuth(auth, user_data))

    async def seed() -> Mapping[str, Any]:
        return {"users": await accounts.seed()}

    async def is_own_channel(identity: Identity, names: Mapping[str, str]) -> Grant | None:
        is_own = isinstance(identity, Caller) and names["id"] == str(identity.id)
        return Grant() if is_own else None

    routes: tuple[Route[Any], ...] = (
        *(
            Route(
                "POST",
                path,
                LoginInput,
                log_in,
                Audience.ANYONE,
                reads_forms=True,
                summary="Log in",
                answers={200: LoggedIn},
                errors=(Unauthenticated, Unprocessable, TooMany),
                examples=(
                    Example({"email": "ali@example.com", "password": "password"}),
                    Example(
                        {"email": "agent@example.com", "password": "password", "role": "agent"},
                        summary="An agent",
                    ),
                ),
            )
            for path in ("/api/login", "/api/v1/auth/login")
        ),
        Route(
            "GET",
            "/api/user",
            NoInput,
            me,
            summary="Show whose token it is",
            answers={200: AccountView},
            examples=(Example(keeps={"user_id": "id"}),),
        ),
        *(
            Route(
                "POST",
                path,
                ChannelInput,
                authorize_channel,
                Audience.PARTIES,
                reads_forms=True,
                summary="Ask for leave to listen to a channel",
                answers={200: ChannelAuth},
                errors=(Forbidden,),
                examples=(
                    Example({"socket_id": "1234.5678", "channel_name": "private-user.{user_id}"}),
                ),
            )
            for path in ("/broadcasting/auth", "/pusher/auth")
        ),
        Route(
            "POST",
            "/api/agent/broadcasting/auth",
            ChannelInput,
            authorize_channel,
            Audience.STAFF,
            reads_forms=True,
            summary="Ask for leave to listen to a channel, as staff",
            answers={200: ChannelAuth},
            errors=(Forbidden,),
            headers=(Header.PARTICIPANT_ID, Header.PARTICIPANT_NAME, Header.TENANT),
            examples=(
                Example(
                    {
                        "socket_id": "1234.5678",
                        "channel_name": "private-queue.tenant1.example.com",
                    },
                    sender="agent@example.com",
                ),
            ),
        ),
        *(
            Route(
                "POST",
                path,
                SigninInput,
                sign_in,
                reads_forms=True,
                summary="Ask to be known as the owner of a connection",
                answers={200: UserAuth},
                examples=(Example({"socket_id": "1234.5678"}),),
            )
            for path in ("/broadcasting/user-auth", "/pusher/user-auth")
        ),
        Route(
            "POST",
            "/api/logout",
            NoInput,
            log_out,
            Audience.PARTIES,
            summary="Log out",
            answers={200: LoggedOut},
            examples=(Example(),),
        ),
    )
    return Feature(
        routes,
        (ChannelRule("private-user.{id}", is_own_channel, "the account with this id"),),
        seed,
        measures=accounts.measures(),
        name="auth",
        description=_DESCRIPTION,
    )


def _somebody(identity: Identity | None) -> Identity:
    assert identity is not None, "the route has an audience"
    return identity


def _checked_socket_id(socket_id: str) -> str:
    # Checked before anything is signed: a colon in it could make a signature mean something else.
    if not is_socket_id(socket_id):
        raise Malformed("socket_id is not a socket id such as 1234.5678.")
    return socket_id
