"""Which addresses are public: the edges of every special network, and the forms that hide another address."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.addresses import is_allowed, is_inside, is_public

# IANA's special-purpose registries, multicast, the clouds' metadata: written down here again, from the sources.
DENIED_V4 = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
    "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
]  # fmt: skip
DENIED_V6 = [
    "::/128", "::1/128", "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64",
    "2001::/32", "2001:1::/32", "2001:2::/48", "2001:10::/28", "2001:20::/28", "2001:db8::/32", "2002::/16",
    "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "4000::/2",
]  # fmt: skip
NEIGHBOURS_V4 = [
    "1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
    "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0",
    "191.255.255.255", "192.0.1.0", "192.0.1.255", "192.0.3.0", "192.31.195.255", "192.31.197.0", "192.52.192.255",
    "192.52.194.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0", "192.175.47.255", "192.175.49.0",
    "198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0",
    "223.255.255.255", "8.8.8.8", "93.184.216.34",
]  # fmt: skip
NEIGHBOURS_V6 = [
    "2000::", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::", "2001:db7:ffff:ffff::1", "2001:db9::", "2003::",
    "2620:4f:7fff:ffff::1", "2620:4f:8001::", "3ffe:ffff::1", "3fff:1000::", "2606:4700:4700::1111",
    "2a00:1450:4001::200e",
]  # fmt: skip
HIDING = {
    "isatap of loopback": "2a00::5efe:7f00:1",
    "isatap, global flag": "2a00::200:5efe:a00:1",
    "nat64": "64:ff9b::7f00:1",
    "local nat64": "64:ff9b:1::a9fe:a9fe",
    "6to4 of 10.0.0.1": "2002:a00:1::1",
    "6to4 of a public one": "2002:808:808::1",
    "teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "v4-mapped loopback": "::ffff:127.0.0.1",
    "v4-mapped public": "::ffff:8.8.8.8",
    "v4-compatible": "::127.0.0.1",
    "v4-translated": "::ffff:0:7f00:1",
    "zone": "2a00::1%eth0",
    "link-local with a zone": "fe80::1%1",
    "aws and others": "169.254.169.254",
    "aws ecs": "169.254.170.2",
    "aws ipv6": "fd00:ec2::254",
    "gcp ipv6": "fd20:ce::254",
    "alibaba": "100.100.100.200",
    "oracle": "192.0.0.192",
    "azure": "168.63.129.16",
    "broadcast": "255.255.255.255",
    "this host": "0.0.0.0",
    "unspecified": "::",
    "documentation 2": "3fff:fff::1",
    "orchid v2": "2001:2f:ffff::1",
    "segment routing": "5f00::1",
    "deprecated site-local": "fec0::1",
}


@pytest.mark.parametrize("network", DENIED_V4 + DENIED_V6)
def test_a_special_network_is_not_public_from_its_first_to_its_last(network: str) -> None:
    found = ip_network(network)
    for address in (found[0], found[-1], found[found.num_addresses // 2]):
        assert not is_public(address)
        assert not is_allowed(str(address), [])


@pytest.mark.parametrize("address", NEIGHBOURS_V4 + NEIGHBOURS_V6)
def test_its_neighbours_outside_are_public(address: str) -> None:
    assert is_public(ip_address(address))
    assert is_allowed(address, [])


@pytest.mark.parametrize("form", HIDING)
def test_an_address_that_hides_another_is_not_public(form: str) -> None:
    assert not is_public(ip_address(HIDING[form]))


@given(network=st.sampled_from([ip_network(n) for n in DENIED_V4 + DENIED_V6]), where=st.integers(0, 2**128))
def test_no_address_of_a_special_network_is_public(network: IPv4Network | IPv6Network, where: int) -> None:
    assert not is_public(network[where % network.num_addresses])


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_no_embedding_of_any_ipv4_address_is_public(number: int, prefix: int) -> None:
    for high in (0, 0xFFFF << 32, 0x0064FF9B << 96, 0xFFFF << 48):
        assert not is_public(IPv6Address(high | number))
    assert not is_public(IPv6Address((0x2002 << 112) | (number << 80)))
    for middle in (0x00005EFE, 0x02005EFE):
        assert not is_public(IPv6Address((prefix << 64) | (middle << 32) | number))


@given(st.integers(0, 2**32 - 1))
def test_what_is_in_no_special_network_is_public(number: int) -> None:
    address = IPv4Address(number)
    assert is_public(address) == (not any(address in IPv4Network(network) for network in DENIED_V4))


def test_internal_networks_are_those_that_were_named_and_no_others() -> None:
    named = [ip_network("127.0.0.1/32"), ip_network("fd00::/8")]
    for address, allowed in {"127.0.0.1": True, "127.0.0.2": False, "fd00::1": True, "fc00::1": False, "::1": False,
                             "::ffff:127.0.0.1": False, "8.8.8.8": True, "10.0.0.1": False}.items():  # fmt: skip
        assert is_allowed(address, named) is allowed
        assert is_inside(address, named) is (allowed and address != "8.8.8.8")
