"""Addresses as they are counted, and as proxies hand them on."""

import ipaddress

import pytest

from reverb_py.protocol.addresses import address_behind, network_of, parsed_address

PROXIES = ipaddress.ip_network("10.0.0.0/8")


def trusts(address: str) -> bool:
    parsed = parsed_address(address)
    return parsed is not None and parsed in PROXIES


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("no address", "no address"),
        ("nor:this", "nor:this"),
    ],
)
def test_an_ipv6_client_counts_with_its_neighbours_in_the_64(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        ("", "10.0.0.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("203.0.113.9, 192.0.2.1", "192.0.2.1"),
        ("192.0.2.1,10.0.0.2", "192.0.2.1"),
        ("203.0.113.9,192.0.2.1 , 10.0.0.2,10.9.9.9", "192.0.2.1"),
        ("10.0.0.3,10.0.0.2", "10.0.0.3"),
        ("192.0.2.1,::ffff:10.0.0.2", "192.0.2.1"),
        ("2001:db8::7", "2001:db8::7"),
        ("192.0.2.1,unknown", "10.0.0.1"),
        ("192.0.2.1,unknown,10.0.0.2", "10.0.0.2"),
        ("192.0.2.1:4711", "10.0.0.1"),
        (",", "10.0.0.1"),
        ("192.0.2.1," + "10.0.0.2," * 31 + "10.0.0.3", "10.0.0.2"),
        ("192.0.2.1," + "10.0.0.2," * 30 + "10.0.0.3", "192.0.2.1"),
    ],
)
def test_a_client_is_the_last_that_is_no_proxy(forwarded_for: str, client: str) -> None:
    assert address_behind("10.0.0.1", forwarded_for, trusts) == client
