"""Attacks that learn a bank's hash from answers, and honest traffic that must not be taken for them.

    python -m benchmarks.probing [--attacks 5] [--pictures 10000] [--copies 2000]

Starts the real service twice, watching (checks of media too) and not watching (`STAYDOWN_PROBING_BITS=0`, the
control), and runs each attack against both with keys of role `lookup`. Then honest keys ask: hashes of as
many different pictures, copies of one picture within a few bits, and the copies of one picture that every
edit of the catalogue makes. The exit status is 1 if an attack recovers a hash from the service that
watches, or none does from the other, or an honest key is stopped.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import corpus, measure
from benchmarks.corpus import Picture
from benchmarks.robustness.edits import EDITS, apply
from benchmarks.server import Client, Server, serving, staydown
from hashing.pdq import _DCT as DCT
from hashing.pdq import pdq

BITS, BANK, HASHES = 256, "secret-bank", 300
_A_REQUEST, _APART_S = 64, 1000.0
START_BITS = 20  # where the attacker's own copy of a picture lies
Verdict = dict[str, Any]
Ask = Callable[[int], Verdict]


class Stopped(Exception):
    """The service answers this key no more."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What an attack came to: its guess of the hash, and how many requests it took."""

    guess: int
    requests: int
    stopped: bool

    def wrong_bits(self, secret: int) -> int:
        """Return how many bits of the guess are wrong."""
        return (self.guess ^ secret).bit_count()


def signal(code: int, time_s: float | None = None) -> dict[str, Any]:
    """Return a hash as the service takes it."""
    timed = {} if time_s is None else {"timestamp_s": time_s}
    return {"signal_type": "pdq", "hash": f"{code:064x}"} | timed


def balanced(chance: random.Random) -> int:
    """Return a code of which half of the bits are set, as in those of pictures."""
    return sum(1 << place for place in chance.sample(range(BITS), BITS // 2))


def near(chance: random.Random, code: int, bits: int) -> int:
    """Return a balanced code so many bits away, an even number."""
    for places in _places(code):
        for place in chance.sample(places, bits // 2):
            code ^= 1 << place
    return code


class Attacker:
    """One key, and a hash that is answered `match`."""

    def __init__(self, client: Client, start: int, seed: int) -> None:
        self._client, self._start, self._chance, self.requests = client, start, random.Random(seed), 0

    def _ask(self, *signals: dict[str, Any]) -> Verdict:
        self.requests += 1
        status, answer = self._client.check_hashes(list(signals))
        if status == 429:
            raise Stopped
        if status != 200:
            raise ValueError(f"answered {status}")
        return answer

    def _to_the_edge(self, inside: tuple[str, ...] = ("match",)) -> int:
        """Walk away until the answer turns, and return the last hash that matches: the next bit is one too many."""
        code = self._start
        for place in self._chance.sample(range(BITS), BITS):
            if self._ask(signal(code ^ 1 << place))["verdict"] not in inside:
                return code
            code ^= 1 << place
        raise ValueError("there is no edge")

    def by_single_bits(self) -> Iterator[int]:
        """Ask at the edge for every bit: what still matches came nearer. Yields what is known by then."""
        edge = guess = self._to_the_edge()
        for place in range(BITS):
            if self._ask(signal(edge ^ 1 << place))["verdict"] == "match":
                guess ^= 1 << place
            yield guess

    def by_distances(self) -> Iterator[int]:
        """Read the distances of all neighbours of the hash, or what probabilities say of them."""
        guess, here = self._start, self._distance(self._start)
        for place in range(BITS):
            found = self._distance(self._start ^ 1 << place)
            if found[0] == here[0] and found[1] < here[1]:
                guess ^= 1 << place
            yield guess

    def _distance(self, code: int) -> tuple[str, float]:
        found = self._ask(signal(code))["matches"][0]
        name = "false_match_probability" if found["distance_bits"] is None else "distance_bits"
        return name, float(found[name])

    def by_segments(self) -> Iterator[int]:
        """Ask for many bits at once, each at a time of its own beside a hash that matches firmly.

        The end of the segment tells the last that came nearer; then those before it are asked again.
        """
        edge = guess = self._to_the_edge(("match", "review"))
        for start in range(0, BITS, _A_REQUEST):
            places = list(range(start, min(start + _A_REQUEST, BITS)))
            while places:
                shown = [signal(edge ^ 1 << place, _APART_S * (place - start + 1)) for place in places]
                parts = self._ask(signal(self._start, 0.0), *shown)["matches"][0]["segments"]
                last = start + round(max(part["query_s"][1] for part in parts) / _APART_S) - 1
                guess ^= 1 << last if last >= start else 0
                places = [place for place in places if place < last]
            yield guess

    def by_pictures(self) -> Iterator[int]:
        """Draw a picture for every hash, as role `check` has to: half of the bits are set, so two turn at a time.

        At the edge a pair that leaves it has two right bits; with one of these beside it, every other bit tells.
        """
        edge = guess = self._picture_at_the_edge()
        ones, zeros = _places(edge)
        one, zero = next(pair for pair in zip(ones, zeros, strict=True) if not self._shows(edge, *pair))
        for place in range(BITS):
            beside = zero if edge >> place & 1 else one
            if place not in {one, zero} and self._shows(edge, place, beside):
                guess ^= 1 << place
            yield guess

    def _picture_at_the_edge(self) -> int:
        code, known = self._start, _places(self._start)
        for places in known:
            self._chance.shuffle(places)
        for one, zero in zip(*known, strict=True):
            if not self._shows(code, one, zero):
                return code
            code ^= (1 << one) | (1 << zero)
        raise ValueError("there is no edge")

    def _shows(self, code: int, *places: int) -> bool:
        """Say whether a picture with these bits turned is answered `match`."""
        self.requests += 1
        for place in places:
            code ^= 1 << place
        status, answer = self._client.check(corpus.encode(drawn(code), "PNG"))
        if status == 429:
            raise Stopped
        return bool(answer["verdict"] == "match")


# Honest traffic


def code_of(picture: Picture) -> int:
    """Return the hash of a picture as somebody computes it who sends hashes alone."""
    return int.from_bytes(pdq(picture).codes[0].tobytes(), "big")


def different(count: int) -> Iterator[int]:
    """Yield hashes of different pictures."""
    for seed in range(count):
        yield code_of(corpus.picture(50_000 + seed, 128, 96))


def copies(picture: Picture, count: int, seed: int) -> Iterator[int]:
    """Yield hashes of copies as uploads make them: another quality, size, brightness, some noise."""
    chance = np.random.default_rng(seed)
    height, width = picture.shape[:2]
    for _ in range(count):
        scale = chance.uniform(0.5, 1.0)
        small = cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        noisy = small * chance.uniform(0.85, 1.1) + chance.normal(0, chance.uniform(0, 3), small.shape)
        again = corpus.jpeg(np.clip(noisy, 0, 255).astype(np.uint8), int(chance.integers(35, 96)))
        yield code_of(corpus.decode(again))


def catalogue(picture: Picture, others: Sequence[Picture], seed: int) -> Iterator[int]:
    """Yield hashes of the copies that every edit of the catalogue makes, each at three qualities."""
    for name in EDITS:
        edited = corpus.decode(apply(name, picture, seed, others))
        for quality in (45, 70, 92):
            yield code_of(corpus.decode(corpus.jpeg(edited, quality)))


def asks(client: Client, codes: Iterable[int]) -> dict[str, int]:
    """Look hashes up one by one, and return how often each verdict was given, or each status that is none."""
    said: Counter[str] = Counter()
    for code in codes:
        status, answer = client.check_hashes([signal(code)])
        said[answer["verdict"] if status == 200 else str(status)] += 1
    return dict(said)


def _places(code: int) -> tuple[list[int], list[int]]:
    """Return which bits are set, and which are not."""
    return [n for n in range(BITS) if code >> n & 1], [n for n in range(BITS) if not code >> n & 1]


def drawn(code: int) -> Picture:
    """Return a grey picture that has a PDQ hash of which half of the bits are set."""
    bits = np.unpackbits(np.frombuffer(code.to_bytes(32, "big"), np.uint8))[::-1]
    waves = DCT.T @ np.where(bits, 1.0, -1.0).reshape(16, 16) @ DCT
    plane = (128 + 120 * waves / np.abs(waves).max()).astype(np.float32)
    large: Picture = cv2.resize(plane, (128, 128), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    return large


ATTACKS: dict[str, Callable[[Attacker], Iterator[int]]] = {
    "single bits at the edge": Attacker.by_single_bits,
    "exact distances": Attacker.by_distances,
    "segments of many hashes": Attacker.by_segments,
    "drawn pictures, role check": Attacker.by_pictures,
}


def run(client: Client, attack: Callable[[Attacker], Iterator[int]], start: int, seed: int) -> Learned:
    """Run an attack to its end, or until it is stopped."""
    attacker, guess = Attacker(client, start, seed), start
    try:
        for known in attack(attacker):
            guess = known
    except Stopped:
        return Learned(guess, attacker.requests, stopped=True)
    return Learned(guess, attacker.requests, stopped=False)


def enroll(client: Client, codes: Iterable[int]) -> None:
    """Put hashes into the bank."""
    for code in codes:
        body = json.dumps({"signals": [signal(code)]}).encode()
        client.request("POST", f"/v1/banks/{BANK}/contents", body, "application/json")


@contextmanager
def filled(**settings: str) -> Iterator[tuple[Server, list[int]]]:
    """Give a service with a bank, and the hashes in it."""
    chance = random.Random(5)
    secrets = [balanced(chance) for _ in range(HASHES)]
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), **settings) as server:
        with client_of(server, "admin") as client:
            client.request("PUT", f"/v1/banks/{BANK}")
            enroll(client, secrets)
        yield server, secrets


def client_of(server: Server, role: str) -> Client:
    """Return a client with a key of its own, of a tenant of its own unless it is an admin."""
    banks = [] if role == "admin" else ["--bank", BANK, "--tenant", f"t{random.getrandbits(64):x}"]
    (key,) = staydown(server.home, "key", "create", "--role", role, *banks)
    return server.client(key["key"])


def attacked(server: Server, secrets: list[int], rounds: int) -> list[tuple[str, Learned, int]]:
    """Run every attack so often; with how many bits of what it learned are wrong."""
    done = []
    for number in range(rounds):
        for name, attack in ATTACKS.items():
            chance = random.Random(number)
            secret = chance.choice(secrets)
            with client_of(server, "check" if name.endswith("check") else "lookup") as client:
                learned = run(client, attack, near(chance, secret, START_BITS), number)
            done.append((name, learned, learned.wrong_bits(secret)))
    return done


def honest(server: Server, pictures: int, count: int, viral: int) -> Iterator[tuple[str, dict[str, int]]]:
    """Ask as honest platforms do, each kind with a key of its own; yields what was answered."""
    with client_of(server, "lookup") as client:
        yield f"{pictures} different pictures", asks(client, different(pictures))
    others = [corpus.picture(95_000 + seed, 320, 240) for seed in range(9)]
    for seed in range(viral):
        picture = corpus.picture(90_000 + seed, 320, 240)
        with client_of(server, "admin") as client:
            enroll(client, [code_of(picture)])
        with client_of(server, "lookup") as client:
            yield f"{count} copies of one picture", asks(client, copies(picture, count, seed))
        with client_of(server, "lookup") as client:
            yield f"{len(EDITS)} edits of one picture at 3 qualities", asks(client, catalogue(picture, others, seed))


def show_attacks(title: str, done: list[tuple[str, Learned, int]]) -> None:
    """Print what attacks came to."""
    for name in ATTACKS:
        mine = [(learned, wrong) for attack, learned, wrong in done if attack == name]
        requests = sorted(learned.requests for learned, _ in mine)
        wrong = sorted(wrong for _, wrong in mine)
        stopped = sum(learned.stopped for learned, _ in mine)
        print(f"{title}: {name}: {sum(not bits for bits in wrong)} of {len(mine)} recovered, {stopped} stopped, "
              f"{requests[len(requests) // 2]} requests, {wrong[0]} to {wrong[-1]} bits wrong")  # fmt: skip


def main() -> int:
    """Run everything, print a line each, and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--attacks", type=int, default=5, help="times each attack is run")
    parser.add_argument("--pictures", type=int, default=10_000, help="different pictures that an honest key asks for")
    parser.add_argument("--copies", type=int, default=2000, help="copies of one picture that an honest key asks for")
    parser.add_argument("--viral", type=int, default=10, help="pictures of which copies are asked for")
    asked = parser.parse_args()
    print(f"{measure.machine()['CPU']}; {HASHES} hashes in the bank; attackers begin {START_BITS} bits away")
    with filled(probing_bits="0") as (server, secrets):
        control = attacked(server, secrets, asked.attacks)
    show_attacks("not watched", control)
    refused: Counter[str] = Counter()
    with filled(probing_stops_media="true") as (server, secrets):
        done = attacked(server, secrets, asked.attacks)
        show_attacks("watched", done)
        for name, said in honest(server, asked.pictures, asked.copies, asked.viral):
            print(f"honest: {name}: {said}", flush=True)
            refused[name] += 429 in map(int, filter(str.isdigit, said))
    for name, keys in refused.items():
        print(f"honest: {name}: {keys} keys stopped")
    plain = [name for name in refused if "edits" not in name]
    kept = all(wrong for _, _, wrong in done) and not any(refused[name] for name in plain)
    return 0 if kept and not any(wrong for _, _, wrong in control) else 1


if __name__ == "__main__":
    sys.exit(main())
