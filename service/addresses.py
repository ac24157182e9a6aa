"""Which addresses a link may lead to: public unicast ones, by a table of our own.

`ipaddress.is_global` differs between Python releases and is wrong for several embedded
forms, so it is not asked. Sources: the IANA special-purpose registries for IPv4 and
IPv6, RFC 5214 (ISATAP), and the metadata addresses of cloud providers.
"""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
            "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
            "224.0.0.0/4", "240.0.0.0/4",
            "168.63.129.16/32",  # Azure's host, reachable from inside only
        ),
    )
)  # fmt: skip
_PUBLIC_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")))
_ISATAP = (0x00005EFE, 0x02005EFE)  # the middle of an interface identifier that embeds an IPv4 address


def is_public(address: Address) -> bool:
    """Tell whether an address is public unicast, with no private one embedded in it."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address.scope_id is not None or address not in _PUBLIC_V6:
        return False
    if (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
        return False
    return not any(address in network for network in _NOT_PUBLIC_V6)


def is_inside(text: str, internal: Sequence[Network]) -> bool:
    """Tell whether a resolved address is in one of the networks that the operator named."""
    address = ip_address(text)
    return any(address.version == network.version and address in network for network in internal)


def is_allowed(text: str, internal: Sequence[Network]) -> bool:
    """Tell whether a resolved address may be connected to."""
    return is_inside(text, internal) or is_public(ip_address(text))
