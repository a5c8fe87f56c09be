"""What accounts look like on the wire, and what logging in is answered with."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from chat_api.kernel.callers import ROLES, STAFF, Person
from chat_api.kernel.routes import stated

__all__ = [
    "AccountView",
    "AgentView",
    "ChannelAuth",
    "LoggedIn",
    "LoggedOut",
    "Role",
    "UserAuth",
    "UserView",
    "account_view",
    "user_view",
]

Role = Annotated[str, stated(enum=list(ROLES))]
_Tenants = Annotated[list[str], stated("The tenants that staff serve; `*` stands for all of them.")]


class UserView(
    msgspec.Struct, frozen=True, rename={"first_name": "firstName", "last_name": "lastName"}
):
    """An account as everybody may see it."""

    id: int
    first_name: str
    last_name: str
    email: str


class AccountView(UserView, frozen=True):
    """An account as its owner sees it."""

    name: str
    role: Role
    tenants: _Tenants


class AgentView(msgspec.Struct, frozen=True):
    """A member of staff, for the apps of agents."""

    # Apps keep an agent's id in secure storage, which takes strings only.
    id: Annotated[str, stated("The account's id, as a text.")]
    email: str
    name: str
    role: Annotated[str, stated(enum=sorted(STAFF))]
    tenants: _Tenants


class LoggedIn(msgspec.Struct, frozen=True):
    """A token, and whose it is."""

    access_token: Annotated[str, stated("To be sent as `Authorization: Bearer TOKEN`.")]
    token: Annotated[str, stated("The same token again, for clients that know it by this name.")]
    token_type: Annotated[str, stated(enum=["Bearer"])]
    expires_in: Annotated[int, stated("In how many seconds the token ends.")]
    user: AccountView
    agent: Annotated[AgentView | UnsetType, stated("Only for agents and supervisors.")] = UNSET


class LoggedOut(msgspec.Struct, frozen=True):
    """The token does not count any more."""

    message: str = "Logged out."


class ChannelAuth(msgspec.Struct, frozen=True):
    """Leave to listen to a channel, to be sent on in `pusher:subscribe` as it is."""

    auth: Annotated[str, stated("The app's key, a colon, and the signature.")]
    channel_data: Annotated[
        str | UnsetType,
        stated("Who joins, for presence channels: JSON within a text, which the signature covers."),
    ] = UNSET


class UserAuth(msgspec.Struct, frozen=True):
    """Who a connection belongs to, to be sent on in `pusher:signin` as it is."""

    auth: Annotated[str, stated("The app's key, a colon, and the signature.")]
    user_data: Annotated[str, stated("JSON within a text, which the signature covers.")]


def user_view(person: Person) -> UserView:
    """Return an account as clients know it, with its id as a number."""
    return UserView(person.id, person.first_name, person.last_name, person.email)


def account_view(person: Person, role: str, tenants: tuple[str, ...]) -> AccountView:
    """Return an account as its owner knows it."""
    return AccountView(
        person.id,
        person.first_name,
        person.last_name,
        person.email,
        person.name,
        role,
        list(tenants),
    )
