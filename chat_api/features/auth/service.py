"""Who somebody is: accounts, logging in and out, and the demo accounts."""

from datetime import UTC, datetime
from typing import Final, NamedTuple

from sqlalchemy import bindparam, delete, exists, insert, select
from sqlalchemy.exc import IntegrityError

from chat_api.features.auth.models import RevokedToken, User
from chat_api.features.auth.passwords import Passwords
from chat_api.features.auth.tokens import InvalidToken, IssuedToken, Tokens, VisitorClaims
from chat_api.kernel.callers import ROLES, STAFF, Caller, Person, Visitor
from chat_api.kernel.clock import Clock
from chat_api.kernel.errors import Conflict, TooMany, Unauthenticated, Unprocessable
from chat_api.kernel.measures import Measure, single
from chat_api.kernel.tenants import checked_tenant
from chat_api.kernel.texts import checked_text
from chat_api.kernel.throttling import Throttle
from chat_api.store.engine import Store, UnitOfWork
from reverb_py.protocol.addresses import network_of

__all__ = ["DEMO_EMAILS", "MAX_EMAIL", "MAX_PASSWORD", "Accounts", "Login"]
MAX_EMAIL: Final = 320
"""Characters of an email address."""
MAX_PASSWORD: Final = 1024
"""Characters of a password; hashing time grows with the length."""

_WRONG = "The email address, the password or the role is wrong."
_REVOKED_WORDS = "The token was revoked. Log in again."
_VISITORS_REVOKED_WORDS = "The token was revoked. Start the conversation again to get a new one."


# Asked for every request, and therefore built once.
_TOKEN_HOLDER = select(
    User.id,
    User.email,
    User.first_name,
    User.last_name,
    User.role,
    exists().where(RevokedToken.token_id == bindparam("token_id")).label("is_revoked"),
).where(User.id == bindparam("user_id"))
_REVOKED = select(RevokedToken.token_id).where(RevokedToken.token_id == bindparam("token_id"))


class Login(NamedTuple):
    """A successful login."""

    token: IssuedToken
    person: Person
    role: str
    tenants: tuple[str, ...]


class Accounts:
    """
    The accounts of one store.

    Attempts to log in are throttled per network that they come from (`per_address`), per email
    address and network (`per_account_and_address`), and, far more loosely, per email address
    (`per_account`): somebody elsewhere who guesses must not lock its owner out. Those that succeed
    do not count.
    """

    def __init__(
        self,
        store: Store,
        tokens: Tokens,
        passwords: Passwords,
        clock: Clock,
        *,
        per_account_and_address: Throttle,
        per_address: Throttle,
        per_account: Throttle,
    ) -> None:
        self._store = store
        self._tokens = tokens
        self._passwords = passwords
        self._clock = clock
        self._per_account_and_address = per_account_and_address
        self._per_address = per_address
        self._per_account = per_account
        self._failed = 0

    async def log_in(self, email: str, password: str, role: str | None, address: str) -> Login:
        """
        Return a token for the account with this email and password.

        A `role` must be the account's; `agent` stands for all staff. `address` is where the attempt
        comes from.

        Raises:
            Unprocessable: The email address or the password cannot be one.
            Unauthenticated: There is no such login. The words and the time it takes are the same
                whatever was wrong.
            TooMany: Too many attempts have failed, or too many are being made.
        """
        email = checked_text(email, "email", longest=MAX_EMAIL).strip().lower()
        checked_text(password, "password", longest=MAX_PASSWORD, may_be_empty=True)
        network = network_of(address)
        # What the tighter ones stop does not count towards the account's own limit.
        self._per_address.hit(network)
        self._per_account_and_address.hit(f"{network} {email}")
        self._per_account.hit(email)
        query = select(
            User.id,
            User.email,
            User.first_name,
            User.last_name,
            User.role,
            User.tenants,
            User.password_hash,
        ).where(User.email == email)
        row = await self._store.one_or_none(query)
        try:
            is_right = await self._passwords.verify(
                password, None if row is None else row.password_hash
            )
        except TooMany:
            self._do_not_count(email, network)  # nobody looked at the password
            raise
        if row is None or not is_right or not _plays(row.role, role):
            self._failed += 1
            raise Unauthenticated(_WRONG)
        self._do_not_count(email, network)
        person = Person(row.id, row.email, row.first_name, row.last_name)
        tenants = tuple(row.tenants.split())
        token = self._tokens.issue(
            user_id=person.id,
            email=person.email,
            name=person.name,
            role=row.role,
            tenants=tenants,
        )
        return Login(token, person, row.role, tenants)

    def measures(self) -> tuple[Measure, ...]:
        """Return what tells whether somebody guesses passwords."""
        return (
            single(
                "logins_failed_total",
                "Attempts to log in with something wrong; those that were throttled not included.",
                lambda: self._failed,
            ),
        )

    def _do_not_count(self, email: str, network: str) -> None:
        self._per_address.give_back(network)
        self._per_account_and_address.give_back(f"{network} {email}")
        self._per_account.give_back(email)

    async def log_out(self, identity: Caller | Visitor) -> None:
        """Revoke the token they came with, which is refused from then on, also after a restart."""
        ended = delete(RevokedToken).where(RevokedToken.expires_at <= self._clock())
        revoked = insert(RevokedToken).values(
            token_id=identity.token_id,
            user_id=identity.id if isinstance(identity, Caller) else None,
            expires_at=datetime.fromtimestamp(identity.token_expires_at, UTC),
        )

        def revoke(unit: UnitOfWork) -> None:
            unit.connection.execute(ended)
            unit.connection.execute(revoked)

        try:
            await self._store.write(revoke)
        except IntegrityError:
            pass  # two logouts at once: the token is revoked either way

    async def authenticate(self, token: str) -> Caller | Visitor:
        """
        Return whom a bearer token names.

        Raises:
            Unauthenticated: It is not a valid token of ours, has expired or was revoked, or its
                account is gone or has another role by now.
        """
        try:
            claims = self._tokens.read(token)
        except InvalidToken:
            raise Unauthenticated("The token is not valid or has expired. Log in again.") from None
        if isinstance(claims, VisitorClaims):
            if await self._store.one_or_none(_REVOKED, {"token_id": claims.jti}) is not None:
                raise Unauthenticated(_VISITORS_REVOKED_WORDS)
            return Visitor(
                customer_id=claims.sub,
                name=claims.name,
                tenant=claims.tenant,
                conversation_id=claims.conversation,
                token_id=claims.jti,
                token_expires_at=claims.exp,
            )
        row = await self._store.one_or_none(
            _TOKEN_HOLDER, {"user_id": claims.uid, "token_id": claims.jti}
        )
        if row is None or row.is_revoked or row.role != claims.role:
            raise Unauthenticated(_REVOKED_WORDS)
        return Caller(
            id=row.id,
            email=row.email,
            first_name=row.first_name,
            last_name=row.last_name,
            role=claims.role,
            tenants=claims.tenants,
            token_id=claims.jti,
            token_expires_at=claims.exp,
        )

    async def create(
        self,
        *,
        email: str,
        password: str,
        first_name: str,
        last_name: str,
        role: str = "user",
        tenants: tuple[str, ...] = (),
    ) -> Person:
        """
        Open an account; `tenants` are the domains that a member of staff serves, `*` for all.

        Raises:
            Malformed: A tenant is no domain.
            Unprocessable: The address, a name, the role or the password cannot be one; or somebody
                who is not of staff is to serve tenants.
            Conflict: The address has an account.
        """
        email = checked_text(email, "email", longest=MAX_EMAIL).strip().lower()
        if "@" not in email[1:-1] or any(character.isspace() for character in email):
            raise Unprocessable("email must be an address such as ali@example.com.")
        if role not in ROLES:
            raise Unprocessable(f"role must be one of {', '.join(ROLES)}.")
        if tenants and role not in STAFF:
            raise Unprocessable("Only agents and supervisors serve tenants: give them such a role.")
        # As requests name them, or they would never be found to be served.
        domains = [name if name == "*" else checked_tenant(name) for name in tenants]
        checked_text(password, "password", longest=MAX_PASSWORD)
        checked_text(first_name, "first name", longest=100)
        checked_text(last_name, "last name", longest=100, may_be_empty=True)
        password_hash = await self._passwords.hash(password)
        account = (
            insert(User)
            .values(
                email=email,
                password_hash=password_hash,
                first_name=first_name,
                last_name=last_name,
                role=role,
                tenants=" ".join(dict.fromkeys(domains)),
                created_at=self._clock(),
            )
            .returning(User.id)
        )
        try:
            user_id = await self._store.write(
                lambda unit: unit.connection.execute(account).scalar_one()
            )
        except IntegrityError:
            raise Conflict(f"{email} has an account already.") from None
        return Person(user_id, email, first_name, last_name)

    async def seed(self) -> list[str]:
        """Open the demo accounts that are missing, and return the addresses of all of them."""
        for email, first_name, last_name, role, tenants in _DEMO_ACCOUNTS:
            if await self._store.one_or_none(select(User.id).where(User.email == email)):
                continue
            try:
                await self.create(
                    email=email,
                    password="password",
                    first_name=first_name,
                    last_name=last_name,
                    role=role,
                    tenants=tenants,
                )
            except Conflict:
                pass  # another process seeds at the same time
        return list(DEMO_EMAILS)


_DEMO_ACCOUNTS: Final = (
    ("ali@example.com", "Ali", "Valiyev", "user", ()),
    ("vali@example.com", "Vali", "Aliyev", "user", ()),
    ("agent@example.com", "Agent", "Smith", "agent", ("*",)),
    ("agent2@example.com", "Agent", "Jones", "agent", ("*",)),
    ("supervisor@example.com", "Sara", "Supervisor", "supervisor", ("*",)),
    ("agent.tenant2@example.com", "Agent", "Tenant", "agent", ("tenant2.example.com",)),
)
DEMO_EMAILS: Final = tuple(email for email, *_ in _DEMO_ACCOUNTS)


def _plays(role: str, wanted: str | None) -> bool:
    return wanted is None or wanted == role or (wanted == "agent" and role in STAFF)
