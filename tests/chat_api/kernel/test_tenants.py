"""Which tenant a request is about: what counts as a domain, and which header decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_api.kernel.errors import Malformed
from chat_api.kernel.tenants import (
    MAX_TENANT,
    RequestedTenant,
    checked_tenant,
    requested_tenant,
)
from reverb_py.protocol.channel_names import is_channel_name

LONGEST = ".".join(["a" * 49] * 3) + "a"


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("tenant1.example.com", "tenant1.example.com"),
        (" Tenant1.Example.COM ", "tenant1.example.com"),
        ("tenant1.example.com:8383", "tenant1.example.com"),
        ("tenant1.example.com:", "tenant1.example.com"),
        ("tenant1.example.com.", "tenant1.example.com"),
        ("tenant1.example.com.:443", "tenant1.example.com"),
        ("localhost:8383", "localhost"),
        ("127.0.0.1:8383", "127.0.0.1"),
        ("chat_api:80", "chat_api"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a", "a"),
        ("[::1]:8383", "__1"),
        ("[2001:DB8::A]", "2001_db8__a"),
        (LONGEST, LONGEST),
    ],
)
def test_a_domain_is_kept_in_lower_case_and_without_port(text: str, domain: str) -> None:
    assert checked_tenant(text) == domain


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        ":80",
        "a..b",
        ".a",
        "-a.example",
        "a-.example",
        "a b",
        "a/b",
        "a,b",
        "*",
        "a:b",
        "a:80:80",
        "a:80/x",
        "user@a",
        "http://a",
        "a\nb",
        "bücher.example",
        "\u212aelvin.example",  # the Kelvin sign, a small k in lower case
        "\u0661.example",
        "[::1",
        "[::1]x",
        "[]",
        "[v1.x]",
        "::1",
        LONGEST + "a",
        "a" * 8000,
        "a-" * 4000,
    ],
)
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(Malformed, match=r"^The tenant must be a domain such as tenant1\."):
        checked_tenant(text)


@given(st.text(max_size=20) | st.from_regex(r"[a-zA-Z0-9_.:\[\]-]{1,30}", fullmatch=True))
def test_what_is_a_domain_stays_the_same_and_can_name_a_channel(text: str) -> None:
    try:
        domain = checked_tenant(text)
    except Malformed:
        return
    assert checked_tenant(domain) == domain
    assert 0 < len(domain) <= MAX_TENANT
    assert is_channel_name(f"private-queue.{domain}")


def test_the_header_made_for_it_decides_before_host_and_host_before_origin() -> None:
    host, origin = "Host.example:8383", "https://Origin.example:8443"

    assert requested_tenant("Named.example", host, origin) == RequestedTenant(
        "named.example", is_explicit=True
    )
    for nothing in (None, "", " "):
        assert requested_tenant(nothing, host, origin) == RequestedTenant(
            "host.example", is_explicit=False
        )
    for nothing in (None, ""):
        assert requested_tenant(None, nothing, origin) == RequestedTenant(
            "origin.example", is_explicit=False
        )


@pytest.mark.parametrize(
    ("named", "host", "origin"),
    [
        (None, None, None),
        (None, "", "null"),
        (None, "", "https://["),
        (None, "", "origin.example"),
        ("no domain", "host.example", None),
        (None, "no domain", "https://origin.example"),
    ],
)
def test_a_request_that_names_no_domain_is_refused(
    named: str | None, host: str | None, origin: str | None
) -> None:
    with pytest.raises(Malformed):
        requested_tenant(named, host, origin)
