"""Who may be asking, and for whom staff answer."""

import pytest

from chat_api.kernel.callers import ROLES, Caller


def caller(role: str, *tenants: str) -> Caller:
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


def test_agents_and_supervisors_are_staff() -> None:
    assert [role for role in ROLES if caller(role).is_staff] == ["agent", "supervisor"]


@pytest.mark.parametrize("role", ["agent", "supervisor"])
def test_staff_serve_the_tenants_their_token_names(role: str) -> None:
    assert caller(role, "a.example", "b.example").serves("b.example")
    assert caller(role, "*").serves("anything.example")
    for tenants in ((), ("a.example",), ("sub.c.example",), ("example",), ("*.example",)):
        assert not caller(role, *tenants).serves("c.example")


def test_a_user_serves_nobody_whatever_the_token_says() -> None:
    assert not caller("user", "*", "a.example").serves("a.example")


def test_a_name_has_no_space_at_its_end() -> None:
    assert caller("user").name == "Ann"
