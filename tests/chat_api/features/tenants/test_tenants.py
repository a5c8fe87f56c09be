"""Which tenants there are, and which of them a request of staff is about."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select

from chat_api.features.tenants.models import Tenant
from chat_api.features.tenants.service import Scope, Tenants
from chat_api.kernel.callers import Caller
from chat_api.kernel.clock import system_clock
from chat_api.kernel.errors import Conflict, Forbidden, Malformed, Unprocessable
from chat_api.kernel.tenants import RequestedTenant
from chat_api.store.engine import Store

TENANT1, TENANT2 = "tenant1.example.com", "tenant2.example.com"


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    store = Store(database)
    await store.migrate()
    yield store
    await store.close()


@pytest.fixture
def tenants(store: Store) -> Tenants:
    return Tenants(store, system_clock)


def caller(*tenants: str, role: str = "agent") -> Caller:
    return Caller(
        id=7,
        email="ann@example.com",
        first_name="Ann",
        last_name="",
        role=role,
        tenants=tenants,
        token_id="t",
        token_expires_at=0,
    )


def named(domain: str) -> RequestedTenant:
    return RequestedTenant(domain, is_explicit=True)


def sent_to(domain: str) -> RequestedTenant:
    return RequestedTenant(domain, is_explicit=False)


async def registered(store: Store) -> set[str]:
    return {row.domain for row in await store.all(select(Tenant.domain))}


async def test_a_tenant_is_registered_once_under_its_domain(store: Store, tenants: Tenants) -> None:
    assert await tenants.register("New.Example.com:443", "New") == "new.example.com"
    with pytest.raises(Conflict, match=r"^new\.example\.com is a tenant already\.$"):
        await tenants.register("new.example.com")

    assert await tenants.register("unnamed.example.com", " ") == "unnamed.example.com"
    rows = await store.all(
        select(Tenant.name).where(Tenant.domain.in_(["new.example.com", "unnamed.example.com"]))
    )
    assert {row.name for row in rows} == {"New", "unnamed.example.com"}


async def test_what_cannot_be_a_tenant_is_not_registered(store: Store, tenants: Tenants) -> None:
    before = await registered(store)

    with pytest.raises(Malformed):
        await tenants.register("*")
    with pytest.raises(Unprocessable):
        await tenants.register("new.example.com", "x" * 201)

    assert await registered(store) == before


async def test_a_first_session_makes_its_domain_a_tenant_also_when_several_race(
    store: Store, tenants: Tenants
) -> None:
    before = await registered(store)

    await asyncio.gather(
        *(store.write(lambda unit: tenants.ensure(unit, "new.example.com")) for _ in range(20))
    )

    assert await registered(store) == before | {"new.example.com"}


async def test_naming_a_tenant_narrows_what_staff_see_to_it(tenants: Tenants) -> None:
    only = Scope(frozenset({TENANT1}))

    assert await tenants.scope_of(caller(TENANT1, TENANT2), named(TENANT1)) == only
    assert await tenants.scope_of(caller("*"), named(TENANT1)) == only
    assert await tenants.scope_of(caller("*", role="supervisor"), named(TENANT1)) == only
    assert [only.covers(domain) for domain in (TENANT1, TENANT2)] == [True, False]


async def test_a_tenant_outside_the_token_is_forbidden(tenants: Tenants) -> None:
    for staff in (caller(), caller(TENANT2), caller(TENANT2, role="supervisor")):
        with pytest.raises(
            Forbidden, match=r"^Your token does not name the tenant tenant1\.example\.com\.$"
        ):
            await tenants.scope_of(staff, named(TENANT1))


async def test_users_have_no_scope_at_all(tenants: Tenants) -> None:
    for requested in (named(TENANT1), sent_to(TENANT1), sent_to("localhost")):
        with pytest.raises(Forbidden, match=r"^This is for agents and supervisors\.$"):
            await tenants.scope_of(caller("*", TENANT1, role="user"), requested)


async def test_a_registered_domain_counts_as_its_tenants_name(tenants: Tenants) -> None:
    await tenants.register("known.example.com")
    requested = sent_to("known.example.com")

    assert await tenants.scope_of(caller("*"), requested) == Scope(frozenset({requested.domain}))
    assert await tenants.named_by(requested) == "known.example.com"
    with pytest.raises(Forbidden):
        await tenants.scope_of(caller(TENANT2), requested)


async def test_a_domain_that_the_token_names_counts_as_the_tenants_name(tenants: Tenants) -> None:
    staff = caller(TENANT1, "unheard-of.example.com")

    for domain in staff.tenants:
        assert await tenants.scope_of(staff, sent_to(domain)) == Scope(frozenset({domain}))


async def test_an_address_that_is_no_tenants_narrows_nothing(tenants: Tenants) -> None:
    for domain in ("localhost", "127.0.0.1", "__1", "api.example.com"):
        requested = sent_to(domain)
        everything = await tenants.scope_of(caller("*"), requested)
        own = await tenants.scope_of(caller(TENANT1, TENANT2), requested)

        assert (everything, own) == (Scope(None), Scope(frozenset({TENANT1, TENANT2}))), domain
        assert everything.covers("anything.example")
        assert await tenants.named_by(requested) is None
        assert await tenants.scope_of(caller(), requested) == Scope(frozenset())


async def test_what_customers_make_a_tenant_narrows_nobodys_requests(
    store: Store, tenants: Tenants
) -> None:
    await store.write(lambda unit: tenants.ensure(unit, "api.example.com"))

    assert await tenants.scope_of(caller("*"), sent_to("api.example.com")) == Scope(None)
    assert await tenants.scope_of(caller(TENANT2), sent_to("api.example.com")) == Scope(
        frozenset({TENANT2})
    )
    assert await tenants.named_by(sent_to("api.example.com")) is None
    only = Scope(frozenset({"api.example.com"}))
    assert await tenants.scope_of(caller("*"), named("api.example.com")) == only


async def test_what_customers_made_a_tenant_can_still_be_registered(
    store: Store, tenants: Tenants
) -> None:
    await store.write(lambda unit: tenants.ensure(unit, "new.example.com"))

    assert await tenants.register("new.example.com", "New") == "new.example.com"
    with pytest.raises(Conflict):
        await tenants.register("new.example.com")

    await store.write(lambda unit: tenants.ensure(unit, "new.example.com"))
    [row] = await store.all(select(Tenant.name).where(Tenant.domain == "new.example.com"))
    assert row.name == "New"
    assert await tenants.named_by(sent_to("new.example.com")) == "new.example.com"
