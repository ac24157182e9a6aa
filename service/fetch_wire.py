"""What the service and the process that fetches say to each other: fixed binary records, and outcomes by number.

The process is told its rules once, as JSON. A link goes there as one packet, with the end of a
socket pair on which its answer comes back: how it went, a status if that says more, and how many
bytes of media follow. No word that a stranger's server chose comes back.
"""

import json
import struct
from dataclasses import asdict, dataclass
from enum import IntEnum
from ipaddress import ip_network

from hashing.errors import MediaTooLarge, StaydownError
from service.addresses import Network
from service.errors import LinkFailed, LinkRefused

MAX_LINK_BYTES = 16 * 1024
MAX_RULES_BYTES = 64 * 1024
ANSWER = struct.Struct(">BHQ")  # outcome, status of the server, bytes that follow


class Outcome(IntEnum):
    """How it went."""

    MEDIA = 0
    REFUSED = 1
    NO_URL = 2
    PORT = 3
    UNRESOLVED = 4
    STATUS = 5
    ENCODING = 6
    REDIRECTS = 7
    TIMED_OUT = 8
    UNREACHED = 9
    NO_HTTP = 10
    PROXY = 11
    TOO_LARGE = 12


_REFUSED = {
    Outcome.REFUSED: None,
    Outcome.NO_URL: "the link is not a URL",
    Outcome.PORT: "the link's port is not one of the web's",
}
_FAILED = {
    Outcome.UNRESOLVED: "the link's host cannot be resolved",
    Outcome.STATUS: "the link answered with status {status}",
    Outcome.ENCODING: "the link answered with a content encoding that was not asked for",
    Outcome.REDIRECTS: "the link redirects too often",
    Outcome.TIMED_OUT: "the link could not be fetched in time",
    Outcome.UNREACHED: "the link's server could not be reached, or broke off",
    Outcome.NO_HTTP: "the link's server does not speak HTTP as it should",
    Outcome.PROXY: "the proxy for links did not connect",
}


@dataclass(frozen=True, slots=True)
class Rules:
    """What the process that fetches keeps to."""

    max_bytes: int
    timeout_s: float
    max_redirects: int
    internal_networks: tuple[Network, ...] = ()
    hosts: tuple[str, ...] = ()  # names that links may lead to; none: any
    proxy: str = ""


def pack_rules(rules: Rules) -> bytes:
    """Return rules as they are told."""
    return json.dumps(asdict(rules) | {"internal_networks": list(map(str, rules.internal_networks))}).encode()


def unpack_rules(data: bytes) -> Rules:
    """Read rules."""
    fields = json.loads(data)
    networks = tuple(map(ip_network, fields.pop("internal_networks")))
    return Rules(internal_networks=networks, hosts=tuple(fields.pop("hosts")), **fields)


def error_of(outcome: Outcome, status: int) -> StaydownError:
    """Return the error that an outcome is."""
    if outcome is Outcome.TOO_LARGE:
        return MediaTooLarge()
    if outcome in _REFUSED:
        said = _REFUSED[outcome]
        return LinkRefused(said) if said else LinkRefused()
    return LinkFailed(_FAILED[outcome].format(status=status))


def unpack_answer(data: bytes, max_bytes: int) -> tuple[Outcome, int, int]:
    """Read the head of an answer: outcome, status, bytes that follow; ValueError if it is none."""
    number, status, size = ANSWER.unpack(data)
    outcome = Outcome(number)
    if size > (max_bytes if outcome is Outcome.MEDIA else 0) or status > 999:
        raise ValueError("an answer of the fetching process is out of range")
    return outcome, status, size
