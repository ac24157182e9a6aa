"""Generated calls with a key of role `check`: none may show a hash of the bank, or a distance to one.

    python -m benchmarks.leaks [--calls 100000] [--role check] [--seed 1]

Enrolls pictures and ready-made hashes, then calls every route with media that is in the bank, edited
copies, hashes near the bank's, ids that exist, and rubbish, and searches every answer, headers
too, for sixteen or more hex digits of any bank hash in a row, for its bytes and its base64, and for
numbers where a role without evidence has null. The control is a role that may see them: `review`.
"""

import argparse
import base64
import hashlib
import json
import math
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from benchmarks import corpus, measure
from benchmarks.server import HOST, Server, serving, staydown

BANK, PICTURES, HASHES, DIGITS = "secret-bank", 12, 200, 16
_HEX = re.compile(r"[0-9a-fA-F]{16,}")


@dataclass(frozen=True, slots=True)
class Known:
    """What the bank holds, and what is sent."""

    hashes: tuple[str, ...]
    content_ids: tuple[str, ...]
    media: tuple[bytes, ...]

    def windows(self) -> frozenset[str]:
        """Return every run of sixteen digits of a hash."""
        return frozenset(text[i : i + DIGITS] for text in self.hashes for i in range(len(text) - DIGITS + 1))

    def forms(self) -> tuple[bytes, ...]:
        """Return the hashes as bytes and as base64, cut to what cannot be there by chance."""
        raw = [bytes.fromhex(text) for text in self.hashes]
        return tuple(one for data in raw for one in (data[:12], base64.b64encode(data)[:16]))


@dataclass(frozen=True, slots=True)
class Call:
    """One request."""

    method: str
    path: str
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


def fill(server: Server, key: str) -> Known:
    """Enroll, and return what is known by it."""
    chance, ids, hashes, media = random.Random(0), [], [], []
    with server.client(key) as client:
        client.request("PUT", f"/v1/banks/{BANK}")
        for seed in range(PICTURES):
            picture = corpus.picture(900 + seed, 160, 120)
            sent = corpus.jpeg(picture, 90)
            media += [sent, corpus.jpeg(corpus.EDITS["half_size"](picture), 60), corpus.jpeg(picture, 50)]
            ids.append(client.request("POST", f"/v1/banks/{BANK}/contents", sent)[1]["content_id"])
            hashes += [one["hash"] for one in client.request("POST", "/v1/hash", sent)[1]["signals"]]
        for _ in range(HASHES):
            hashes.append(chance.randbytes(32).hex())
            body = json.dumps({"signals": [{"signal_type": "pdq", "hash": hashes[-1]}]}).encode()
            path = f"/v1/banks/{BANK}/contents"
            ids.append(client.request("POST", path, body, "application/json")[1]["content_id"])
    media += [corpus.jpeg(corpus.picture(2000 + seed, 160, 120), 80) for seed in range(6)]
    return Known(tuple(hashes), tuple(ids), tuple(media))


class Generator:
    """Draws calls."""

    def __init__(self, known: Known, seed: int) -> None:
        self._known, self._chance = known, random.Random(seed)
        self._rescans = ["r_none"]
        self._kinds: list[tuple[Callable[[], Call], int]] = [
            (self._media, 5), (self._form, 2), (self._hashes, 3), (self._content, 4), (self._bank, 2),
            (self._rescan, 1), (self._shown, 1), (self._other, 2), (self._rubbish, 3),
        ]  # fmt: skip

    def draw(self) -> Call:
        """Return the next call."""
        kinds, weights = zip(*self._kinds, strict=True)
        chosen: Callable[[], Call] = self._chance.choices(kinds, weights)[0]
        return chosen()

    def learn(self, said: Any) -> None:
        """Take in an id that an answer gave."""
        if isinstance(said, dict) and "rescan_id" in said and len(self._rescans) < 50:
            self._rescans.append(said["rescan_id"])

    def _query(self) -> str:
        names = [
            "bank",
            "type",
            "debug",
            "evidence",
            "verbose",
            "fields",
            "cursor",
            "limit",
            "include",
            "role",
            "reason",
        ]
        values = [BANK, "pdq", "1", "true", "admin", "review", "*", "hash", "distance_bits", "0", "-1", "none"]
        drawn = range(self._chance.choice([0, 0, 0, 1, 2]))
        pairs = [f"{self._chance.choice(names)}={self._chance.choice(values)}" for _ in drawn]
        return "?" + "&".join(pairs) if pairs else ""

    def _near(self) -> str:
        number = int(self._chance.choice(self._known.hashes).ljust(64, "0")[:64], 16)
        for _ in range(self._chance.randrange(40)):
            number ^= 1 << self._chance.randrange(256)
        return f"{number:064x}"

    def _media(self) -> Call:
        path = self._chance.choice(["/v1/check"] * 6 + ["/v1/hash", f"/v1/banks/{BANK}/contents"])
        headers = {"Content-Type": self._chance.choice(["image/jpeg", "application/octet-stream", "video/mp4", "x"])}
        headers |= self._chance.choice([{}, {}, {"Staydown-Retain": "true"}, {"X-Role": "admin"}, {"Accept": "*/*"},
                                        {"Staydown-Min-Revision": "1"}, {"Idempotency-Key": "k"}])  # fmt: skip
        return Call("POST", path + self._query(), self._chance.choice(self._known.media), headers)

    def _form(self) -> Call:
        data = self._chance.choice(self._known.media)
        body = b'--b\r\nContent-Disposition: form-data; name="media"; filename="a"\r\n\r\n' + data + b"\r\n--b--\r\n"
        return Call("POST", "/v1/check" + self._query(), body, {"Content-Type": "multipart/form-data; boundary=b"})

    def _json(self, method: str, path: str, document: Any) -> Call:
        return Call(method, path, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _signal(self) -> dict[str, Any]:
        kind = self._chance.choice(["pdq", "pdq", "sha256", "md5", "phash", "x"])
        return {"signal_type": kind, "hash": self._near()[: self._chance.choice([64, 64, 32, 7])]}

    def _hashes(self) -> Call:
        path = self._chance.choice(["/v1/check/hashes", "/v1/check", "/v1/hash", f"/v1/banks/{BANK}/contents"])
        return self._json("POST", path + self._query(), {"signals": [self._signal()]})

    def _content(self) -> Call:
        name = self._chance.choice(self._known.content_ids)
        method = self._chance.choice(["GET", "GET", "PATCH", "DELETE", "HEAD", "PUT", "POST"])
        path = f"/v1/banks/{self._chance.choice([BANK, 'other'])}/contents/{name}{self._query()}"
        return self._json(method, path, {"labels": ["x"]}) if method in {"PATCH", "PUT", "POST"} else Call(method, path)

    def _bank(self) -> Call:
        method = self._chance.choice(["GET", "PUT", "PATCH", "DELETE"])
        below = self._chance.choice(["", f"/{BANK}", f"/{BANK}/contents", f"/{BANK}/export", f"/{BANK}/signals"])
        return Call(method, f"/v1/banks{below}{self._query()}")

    def _rescan(self) -> Call:
        item = self._chance.choice(
            [{"url": "http://127.0.0.1/a"}, {"url": "file:///etc/passwd"}, {"signals": [self._signal()]}]
        )
        return self._json("POST", "/v1/rescans", {"items": [item], "banks": [BANK]})

    def _shown(self) -> Call:
        return Call("GET", f"/v1/rescans/{self._chance.choice(self._rescans)}{self._query()}")

    def _other(self) -> Call:
        paths = [
            "/metrics",
            "/openapi.json",
            "/docs",
            "/health/ready",
            "/health/live",
            "/v1/retro-matches",
            "/v1/export",
        ]
        return Call("GET", self._chance.choice([*paths, "/v1/keys", "/"]) + self._query())

    def _rubbish(self) -> Call:
        letters = "abcdefghijklmnopqrstuvwxyz0123456789/%.-_~"
        path = "/" + "".join(self._chance.choices(letters, k=self._chance.randrange(40)))
        body = self._chance.choice([None, b"", b"{", b"null", b"[]", self._chance.randbytes(50), b'{"url": 1}'])
        kind = self._chance.choice(["application/json", "multipart/form-data", "multipart/form-data; boundary=x", ""])
        where = self._chance.choice([path, "/v1/check", "/v1/check/hashes", "/v1/rescans"])
        return Call(
            self._chance.choice(["GET", "POST", "PUT", "OPTIONS", "TRACE"]), where, body, {"Content-Type": kind}
        )


def numbers(said: Any) -> list[str]:
    """Return what stands where a role without evidence has nothing, and probabilities that are no tier."""
    found: list[str] = []
    if isinstance(said, dict):
        for name, value in said.items():
            exact = (
                name == "false_match_probability" and value and abs(math.log10(value) - round(math.log10(value))) > 1e-9
            )
            if exact or (name in {"distance_bits", "inliers"} and value is not None):
                found.append(name)
            else:
                found += numbers(value)
    elif isinstance(said, list):
        found += [one for value in said for one in numbers(value)]
    return found


class Search:
    """Looks for the bank in answers."""

    def __init__(self, known: Known) -> None:
        self._windows, self._forms = known.windows(), known.forms()

    def found(self, call: Call, head: str, body: bytes) -> list[str]:
        """Return what an answer gives away; the digest of what was sent oneself is no secret."""
        own = {hashlib.sha256(data).hexdigest() for data in (call.body or b"", *_parts(call))}
        text = head + body.decode("latin-1")
        leaks = []
        for run in _HEX.findall(text):
            low = run.lower()
            if low not in own and any(low[i : i + DIGITS] in self._windows for i in range(len(low) - DIGITS + 1)):
                leaks.append("hash")
        leaks += ["bytes" for form in self._forms if form in body]
        try:
            said = json.loads(body) if body else None
        except ValueError:
            return leaks
        return leaks + ([] if call.path.startswith("/openapi") else numbers(said))


def _parts(call: Call) -> list[bytes]:
    body = call.body or b""
    return [body.split(b"\r\n\r\n", 1)[1][: -len(b"\r\n--b--\r\n")]] if body.startswith(b"--b") else []


def run(port: int, key: str, known: Known, calls: int, seed: int) -> tuple[Counter[str], Counter[int]]:
    """Make so many calls; returns what they gave away, and their statuses."""
    drawn, search = Generator(known, seed), Search(known)
    leaks: Counter[str] = Counter()
    statuses: Counter[int] = Counter()
    connection = HTTPConnection(HOST, port, timeout=60)
    for _ in range(calls):
        call = drawn.draw()
        try:
            connection.request(call.method, call.path, call.body, call.headers | {"Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, HTTPException):  # closed by the server, as after an answer before the body was sent
            connection.close()
            statuses[0] += 1
            continue
        statuses[answer.status] += 1
        leaks.update(search.found(call, str(answer.headers), body))
        if answer.status == 202:
            drawn.learn(json.loads(body))
    connection.close()
    return leaks, statuses


def main() -> None:
    """Run and print; exit status 1 if anything was given away."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=100_000)
    options.add_argument("--role", default="check")
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    print(json.dumps(measure.machine()))
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), workers="1", retro_days="1") as server:
        admin, key = (
            staydown(Path(folder), "key", "create", "--role", role)[0]["key"] for role in ("admin", given.role)
        )
        known, began = fill(server, admin), time.monotonic()
        leaks, statuses = run(server.port, key, known, given.calls, given.seed)
        took_s = time.monotonic() - began
        print(f"role {given.role}: {given.calls} calls in {took_s:.0f} s, {len(known.hashes)} hashes known")
        print(f"statuses {dict(sorted(statuses.items()))}")
        print(f"given away: {dict(leaks) or 'nothing'}")
    sys.exit(1 if leaks else 0)


if __name__ == "__main__":
    main()
