"""A network of our own in which every link case is tried: run by test_links inside `unshare -rnm`.

Every address that a link may lead to, public or not, is an address of this machine here, with
servers on all of them, so that a guard that fails is seen: each server tells which of our addresses
a connection came in on. A name server answers for `.example`. Prints one JSON object.
"""

import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any

import anyio

from hashing.errors import StaydownError
from service.fetch import Fetcher
from service.fetch_wire import Rules
from service.settings import worker_environment

BODY = b"GIF89a of nobody"
WEB, OTHER = (80, 8080), (22, 6379, 8000)
PUBLIC4, PUBLIC6 = "93.184.215.14", "2606:2800:21f::1"
# Written down again, from the IANA registries and the clouds' manuals, and not taken from the program.
SPECIAL4 = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
    "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
]  # fmt: skip
SPECIAL6 = ["2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "fc00::/7", "fe80::/10",
            "64:ff9b::/96", "ff00::/8"]  # fmt: skip
METADATA = ["169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "169.254.170.2", "fd00:ec2::254",
            "fd20:ce::254"]  # fmt: skip
HIDING = ["::ffff:10.0.0.1", "::10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:a00:1::1", "2001:0:a00:1::1",
          "2606:2800::5efe:a00:1", "2606:2800::200:5efe:a00:1", "::1", "::", "fec0::1", "100::1",
          "5f00::1"]  # fmt: skip
NAMES: dict[str, list[list[str]]] = {  # what a name answers the first time, the second, and from then on
    "public": [[PUBLIC4]], "public6": [[PUBLIC6]], "both": [[PUBLIC4, PUBLIC6]], "private": [["10.0.0.1"]],
    "loopback": [["127.0.0.1"]], "mixed": [[PUBLIC4, "10.0.0.1"]], "mixed6": [[PUBLIC4, "fd00:ec2::254"]],
    "mapped": [["::ffff:10.0.0.1"]], "metadata": [["169.254.169.254"]], "rebind": [[PUBLIC4], ["10.0.0.1"]],
    "rebind2": [[PUBLIC4], ["127.0.0.1"]], "zero": [["0.0.0.0"]], "nat64": [["64:ff9b::a00:1"]],
}  # fmt: skip
seen: list[tuple[str, int, int]] = []  # the address and port of each connection, and its bytes


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def bounds(network: str) -> tuple[str, str]:
    found: IPv4Network | IPv6Network = (IPv6Network if ":" in network else IPv4Network)(network)
    return str(found[0]), str(found[-1])


def neighbours(network: str) -> list[str]:
    """Return the addresses just outside a range."""
    first, last = map(ip_address, bounds(network))
    kind = type(first)
    beside = [int(first) - 1, int(last) + 1]
    return [str(kind(number)) for number in beside if 0 < number < 2**first.max_prefixlen]


def is_special(text: str) -> bool:
    address = ip_address(text)
    if isinstance(address, IPv4Address):
        return any(address in IPv4Network(one) for one in SPECIAL4) or text in METADATA
    return address not in IPv6Network("2000::/3") or any(address in IPv6Network(one) for one in SPECIAL6)


def addresses() -> dict[str, bool]:
    """Return every address of the cases, with whether it is public."""
    every = [end for network in SPECIAL4 + SPECIAL6 for end in (*bounds(network), *neighbours(network))]
    every += [*METADATA, *HIDING, PUBLIC4, PUBLIC6, "168.63.129.15", "168.63.129.17", "1.1.1.1", "8.8.8.8"]
    return {text: not is_special(text) and text not in HIDING for text in every}


def literal(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def add_addresses() -> None:
    """Give this machine every address that it can have; what it cannot have cannot be reached either."""
    run("ip", "link", "set", "lo", "up")
    for address in addresses():
        parsed = ip_address(address)
        if parsed.is_multicast or parsed.is_unspecified:
            continue
        width = parsed.max_prefixlen
        subprocess.run(["ip", "addr", "add", f"{address}/{width}", "dev", "lo"], check=False, capture_output=True)
    time.sleep(2.5)  # until addresses of IPv6 are no longer tentative


# --- servers ------------------------------------------------------------------------------------


def plain(address: str) -> str:
    mapped = IPv6Address(address.partition("%")[0]).ipv4_mapped if ":" in address else None
    return str(mapped) if mapped else address


def page(path: str) -> bytes:
    """Answer with the media, or with a redirect: /to/302/http://…"""
    if path.startswith("/to/"):
        _, _, status, where = path.split("/", 3)
        return f"HTTP/1.1 {status} x\r\nLocation: {where}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY) + BODY


def served(connection: socket.socket) -> None:
    where, port = connection.getsockname()[:2]
    number = len(seen)
    seen.append((plain(where), port, 0))
    connection.settimeout(3)
    try:
        request = connection.recv(65536)
        seen[number] = (plain(where), port, len(request))
        connection.sendall(page(request.split(b" ")[1].decode()) if request.startswith(b"GET ") else b"")
    except (OSError, IndexError):
        pass
    connection.close()


def listen(port: int) -> None:
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=200)

    def accept() -> None:
        while True:
            threading.Thread(target=served, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()


def resolve(name: str, kind: int, asked: dict[tuple[str, int], int]) -> list[bytes]:
    answers = NAMES.get(name.partition(".")[0], [])
    turn = asked.get((name, kind), 0)
    asked[name, kind] = turn + 1
    found = answers[min(turn, len(answers) - 1)] if answers else []
    wanted = IPv4Address if kind == 1 else IPv6Address
    return [address.packed for address in map(ip_address, found) if isinstance(address, wanted)]


def name_server() -> None:
    """Answer questions about `.example`, each with no time to live."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    asked: dict[tuple[str, int], int] = {}

    def serve() -> None:
        while True:
            data, client = server.recvfrom(1000)
            end, words = 12, []
            while data[end]:
                words.append(data[end + 1 : end + 1 + data[end]].decode())
                end += 1 + data[end]
            (kind,) = struct.unpack(">H", data[end + 1 : end + 3])
            found = resolve(".".join(words).lower(), kind, asked)
            head = data[:2] + struct.pack(">HHHHH", 0x8580, 1, len(found), 0, 0)
            rows = [b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(one)) + one for one in found]
            server.sendto(head + data[12 : end + 5] + b"".join(rows), client)

    threading.Thread(target=serve, daemon=True).start()


def own_names() -> None:
    """Let the resolver of this network ask our server, and know no hosts of the machine's file."""
    for path, text in (("/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"),
                       ("/etc/hosts", "127.0.0.1 localhost\n::1 ip6-localhost\n")):  # fmt: skip
        file = Path(tempfile.mkdtemp()) / "file"
        file.write_text(text)
        run("mount", "--bind", str(file), path)


# --- cases ----------------------------------------------------------------------------------------


def refused() -> list[str]:
    """Return links that must lead nowhere."""
    inside = "10.0.0.1"
    found = [f"http://{literal(address)}/" for address, public in addresses().items() if not public]
    found += [f"http://{name}.example/" for name in NAMES if not name.startswith(("public", "both", "rebind"))]
    found += [f"http://{host}/" for host in (
        "localhost", "localhost.", "LOCALHOST", "ip6-localhost", "2130706433", "0x7f000001", "017700000001", "0x7f.1",
        "127.1", "127.0.1", "0", "0x0", "167772161", "0xa.1", "012.0.0.1", "10.1", "[::ffff:a00:1]",
        "[0:0:0:0:0:ffff:10.0.0.1]",
        "[fe80::1%25lo]", "[fe80::1%lo]", "1\u3002example", "\u2460\u2461\u2466.0.0.1", "10\u30020\u30020\u30021",
        "private.example.", "PRIVATE.EXAMPLE", "nowhere.example", "", "private.example:80", "10.0.0.1:8080",
    )]  # fmt: skip
    found += [f"http://{PUBLIC4}:{port}/" for port in (*OTHER, 1, 81, 65535, 65536)]
    found += [f"http://[{PUBLIC6}]:{port}/" for port in OTHER]
    found += [f"http://10.0.0.1:{port}/" for port in (*WEB, *OTHER)]
    found += [
        f"http://{PUBLIC4}@{inside}/", f"http://{inside}@{PUBLIC4}/", f"http://{PUBLIC4}:80@{inside}/",
        f"http://{PUBLIC4}\\@{inside}/", f"http://{inside}#@{PUBLIC4}/", f"http://{inside}?@{PUBLIC4}/",
        f"http://{PUBLIC4} @{inside}/", f"http://{PUBLIC4}\r\nHost: {inside}/", f"http://{PUBLIC4}\t@{inside}/",
        f"https://{inside}/", f"//{inside}/", f"file://{inside}/etc/passwd", "file:///etc/passwd", f"ftp://{inside}/",
        f"gopher://{inside}:6379/_x", f"dict://{inside}:6379/x", f"ws://{inside}/", f"unix://{inside}/", "data:,x",
        f"HTTP://{inside}/", f"hTTp:{inside}", f"http:/{inside}/", f"http:///{inside}/", "http://%31%30.0.0.1/",
        f"http://{inside}%2f@{PUBLIC4}/", f"http://[{PUBLIC4}]/", f"http://[::ffff:{PUBLIC4}%eth0]/",
    ]  # fmt: skip
    onward = [
        f"http://{inside}/", f"//{inside}/", f"http://{inside}:22/", f"http://{PUBLIC4}:22/", "http://localhost/",
        "http://[::1]/", "http://169.254.169.254/latest/meta-data/", "http://private.example/", "http://mixed.example/",
        "http://2130706433/", "file:///etc/passwd", f"ftp://{PUBLIC4}/", f"http://u@{PUBLIC4}/",
        f"http://{PUBLIC4}/to/302/http://{inside}/", "http://[::ffff:10.0.0.1]/", "http://zero.example/", "http://[/",
    ]  # fmt: skip
    found += [f"http://{PUBLIC4}/to/302/{where}" for where in onward]
    found += [f"http://{PUBLIC4}/to/{status}/http://{inside}/" for status in (301, 303, 307, 308)]
    return found


def allowed() -> list[str]:
    """Return links that are fetched: the controls."""
    found = [f"http://{literal(address)}/" for address, public in addresses().items() if public]
    found += [f"http://{name}.example/" for name in ("public", "public6", "both", "rebind", "rebind2")]
    found += [f"http://{PUBLIC4}:{port}/" for port in WEB]
    found += [
        f"http://{PUBLIC4}/to/302/http://public.example:8080/", f"http://{PUBLIC4}/to/301//{PUBLIC4}/x",
        f"http://{PUBLIC4}/to/308//x", f"http://[{PUBLIC6}]/to/307/http://{PUBLIC4}/", "http://public.example./",
        f"http://{PUBLIC4}/to/302/http:/\\10.0.0.1/", f"http://{PUBLIC4}:0/",  # of the same host, to the usual port
    ]  # fmt: skip
    return found


def tried(fetch: Callable[[str], Any], link: str) -> dict[str, Any]:
    """Fetch a link, and say how it went and who was connected to."""
    before = len(seen)
    try:
        body = anyio.run(fetch, link)
        said = "media" if body == BODY else "other bytes"
    except StaydownError as error:
        said = error.word
    time.sleep(0.02)
    return {"link": link, "said": said, "connected": seen[before:]}


def main() -> None:
    add_addresses()
    own_names()
    name_server()
    for port in (*WEB, *OTHER, 443, 81, 1, 65535):
        listen(port)
    with Fetcher(Rules(10_000, 3.0, 5), worker_environment()) as fetcher:
        report = {"refused": [tried(fetcher.fetch, link) for link in refused()],
                  "allowed": [tried(fetcher.fetch, link) for link in allowed()]}  # fmt: skip
        again = [tried(fetcher.fetch, f"http://{name}.example/") for name in ("rebind", "rebind2")]

    def straight(link: str) -> Any:
        """The control: a client without a guard does reach what must not be reached."""
        host = literal(link)
        with socket.create_connection((link, 80), timeout=2) as connection:
            connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            return connection.recv(10)

    reached = []
    for address, public in addresses().items():
        try:
            straight(address)
        except OSError:
            continue
        if not public:
            reached.append(address)
    json.dump(report | {"again": again, "reached_without_guard": reached}, sys.stdout)


if __name__ == "__main__":
    main()
