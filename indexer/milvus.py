"""Whole-frame hashes in Milvus, for banks beyond one machine's memory. The only file that imports pymilvus.

A store has a collection of hashes, one partition a signal type, and a row in a collection of
all stores that says what is in it (`remote` knows what). `BIN_FLAT` looks at everything, and is the one
index of Milvus's for bits that was measured exact.

Milvus's radius is strict, hence + 1. It gives no more than MOST hits for a query: as many
may be fewer than there are, so they are refused. It is asked for few first, since its
growing segments take time for what is asked and not for what is found. `Strong` waits for
the clock of Milvus's log, 0.2 s; `Bounded` sees all that was written more than
`common.gracefulTime` ago (5 s unless it was changed), and does not wait.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import grpc
import numpy as np
from pymilvus import DataType, MilvusClient, MilvusException

from hashing.signals import HASH_BITS, Codes
from indexer.errors import SearchUnavailable, TooManyHits
from indexer.segments import Hits, Keys, joined_hits

FEW, MOST = 1_024, 16_384
_QUERIES = {FEW: 256, MOST: 16}  # at a time: answers stay far below the 64 MiB that Milvus sends
_ROWS, _IDS, _PAGE = 20_000, 5_000, 10_000  # inserted, deleted, listed at a time
_WORK_TIMEOUT_S = 60.0  # of what no query waits for
_STATE, _STATE_BITS, _MOST_TEXT = "staydown", 8, 8_192  # Milvus takes no collection without a vector

# It logs every failed call by itself, in words that are not ours.
logging.getLogger("pymilvus").setLevel(logging.CRITICAL)


@contextmanager
def _answered() -> Iterator[None]:
    try:
        yield
    except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError, ValueError) as error:
        raise SearchUnavailable(f"the search back-end does not answer: {type(error).__name__}") from error


@dataclass(frozen=True, slots=True)
class _Asked:
    """A search: where, what, and until when."""

    collection: str
    kind: str
    codes: Codes
    radius_bits: int
    level: str
    deadline: float


class Milvus:
    """One server, or one cluster."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """`milvus://[user:password@]host[:port][/database]`; `milvus+tls://` is encrypted. SearchUnavailable."""
        parts = urlsplit(url)
        scheme = "https" if parts.scheme == "milvus+tls" else "http"
        token = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else ""
        self._timeout_s = timeout_s
        with _answered():
            self._client = MilvusClient(
                f"{scheme}://{parts.hostname}:{parts.port or 19530}", token=token, db_name=parts.path.strip("/"),
                timeout=timeout_s, dedicated=True,
            )  # fmt: skip

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    # What it says of itself

    def read(self, store_id: str) -> str | None:
        """Return what was written about a store, as of now; None if nothing was."""
        with _answered():
            if not self._client.has_collection(_STATE, timeout=_WORK_TIMEOUT_S):
                return None
            rows = self._client.query(
                _STATE, filter=f'id == "{store_id}"', output_fields=["said"], consistency_level="Strong",
                timeout=_WORK_TIMEOUT_S,
            )  # fmt: skip
        return str(rows[0]["said"]) if rows else None

    def write(self, store_id: str, said: str) -> None:
        """Write about a store."""
        with _answered():
            if not self._client.has_collection(_STATE, timeout=_WORK_TIMEOUT_S):
                self._create(_STATE, _STATE_BITS, DataType.VARCHAR, max_length=64)
            row = {"id": store_id, "said": said, "code": b"\0"}
            self._client.upsert(_STATE, [row], timeout=_WORK_TIMEOUT_S)

    # Hashes

    def create(self, collection: str, kinds: list[str]) -> None:
        """Make the collection of a store's hashes."""
        with _answered():
            self._create(collection, HASH_BITS, DataType.INT64)
            for kind in kinds:
                self._client.create_partition(collection, kind, timeout=_WORK_TIMEOUT_S)

    def _create(self, collection: str, bits: int, key: DataType, **how: int) -> None:
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", key, is_primary=True, **how)
        schema.add_field("code", DataType.BINARY_VECTOR, dim=bits)
        if collection == _STATE:
            schema.add_field("said", DataType.VARCHAR, max_length=_MOST_TEXT)
        index = self._client.prepare_index_params()
        index.add_index("code", index_type="BIN_FLAT", metric_type="HAMMING")
        self._client.create_collection(collection, schema=schema, index_params=index, timeout=_WORK_TIMEOUT_S)

    def drop(self, prefix: str) -> None:
        """Drop all collections whose names begin like this."""
        with _answered():
            for collection in self._client.list_collections(timeout=_WORK_TIMEOUT_S):
                if collection.startswith(prefix):
                    self._client.drop_collection(collection, timeout=_WORK_TIMEOUT_S)

    def insert(self, collection: str, kind: str, keys: Keys, codes: Codes) -> None:
        """Add hashes; they are found after the next query that is `Strong`, or some seconds later."""
        rows = [{"id": key, "code": code.tobytes()} for key, code in zip(keys.tolist(), codes, strict=True)]
        with _answered():
            for start in range(0, len(rows), _ROWS):
                part = rows[start : start + _ROWS]
                self._client.insert(collection, part, partition_name=kind, timeout=_WORK_TIMEOUT_S)

    def seal(self, collection: str) -> None:
        """Have what was added searched as fast as the rest."""
        with _answered():
            self._client.flush(collection, timeout=_WORK_TIMEOUT_S)

    def delete(self, collection: str, keys: Keys) -> None:
        """Delete hashes."""
        with _answered():
            for start in range(0, len(keys), _IDS):
                self._client.delete(collection, ids=keys[start : start + _IDS].tolist(), timeout=_WORK_TIMEOUT_S)

    def write_anew(self, collection: str) -> None:
        """Have the files of a collection written without what was deleted; `stored` tells when they are."""
        with _answered():
            self._client.flush(collection, timeout=_WORK_TIMEOUT_S)
            self._client.compact(collection, timeout=_WORK_TIMEOUT_S)

    def stored(self, collection: str) -> tuple[int, int]:
        """Return how many hashes its files hold, and its memory: what is deleted counts until they are written anew."""
        with _answered():
            files = self._client.list_persistent_segments(collection, timeout=_WORK_TIMEOUT_S)
            memory = self._client.list_loaded_segments(collection, timeout=_WORK_TIMEOUT_S)
        return sum(each.num_rows for each in files), sum(each.num_rows for each in memory)

    def ask(self, collection: str) -> None:
        """Ask what costs next to nothing of those who search; SearchUnavailable if they do not answer in time."""
        with _answered():
            self._client.query(collection, filter="id == 0", consistency_level="Bounded", timeout=self._timeout_s)

    def delete_above(self, collection: str, key: int) -> None:
        """Delete the hashes with later keys."""
        with _answered():
            self._client.delete(collection, filter=f"id > {key}", timeout=_WORK_TIMEOUT_S)

    def count(self, collection: str) -> int:
        """Return how many hashes are there, as of now; -1 without the collection."""
        with _answered():
            if not self._client.has_collection(collection, timeout=_WORK_TIMEOUT_S):
                return -1
            rows = self._client.query(
                collection, output_fields=["count(*)"], consistency_level="Strong", timeout=_WORK_TIMEOUT_S
            )
        return int(rows[0]["count(*)"])

    def keys(self, collection: str, kind: str) -> Iterator[Keys]:
        """Yield the keys of all hashes of a type."""
        with _answered():
            pages = self._client.query_iterator(
                collection, batch_size=_PAGE, filter="id >= 0", output_fields=["id"], partition_names=[kind],
                consistency_level="Strong", timeout=_WORK_TIMEOUT_S,
            )  # fmt: skip
            while page := pages.next():
                yield np.array([row["id"] for row in page], np.int64)
            pages.close()

    def search(self, collection: str, kind: str, codes: Codes, radius_bits: int, *, strong: bool) -> Hits:
        """Return all hashes at most `radius_bits` away from each code; SearchUnavailable, TooManyHits."""
        level, deadline = "Strong" if strong else "Bounded", time.monotonic() + self._timeout_s
        asked = _Asked(collection, kind, codes, radius_bits, level, deadline)
        return joined_hits(self._found(asked, np.arange(len(codes)), FEW))

    def _found(self, asked: _Asked, rows: Keys, limit: int) -> Iterator[Hits]:
        """Search these rows; those that have as many hits as were asked for are asked again for more."""
        for start in range(0, len(rows), _QUERIES[limit]):
            part = rows[start : start + _QUERIES[limit]]
            answers = self._answers(asked, part, limit)
            full = [len(keys) >= limit for keys, _ in answers]
            if any(full):
                if limit == MOST:
                    raise TooManyHits
                yield from self._found(asked, part[full], MOST)
            for row, (keys, distance_bits), more in zip(part.tolist(), answers, full, strict=True):
                if not more:
                    yield Hits(np.full(len(keys), row, np.int64), keys, distance_bits)

    def _answers(
        self, asked: _Asked, rows: Keys, limit: int
    ) -> list[tuple[Keys, np.ndarray[tuple[int], np.dtype[np.int32]]]]:
        """Return keys and distances for each row."""
        with _answered():
            within = {"radius": asked.radius_bits + 1, "range_filter": 0}
            answers = self._client.search(
                asked.collection, [asked.codes[row].tobytes() for row in rows], anns_field="code", limit=limit,
                search_params={"metric_type": "HAMMING", "params": within}, partition_names=[asked.kind],
                consistency_level=asked.level, timeout=max(0.001, asked.deadline - time.monotonic()),
            )  # fmt: skip
        if len(answers) != len(rows):
            raise SearchUnavailable("the search back-end left queries unanswered")
        return [
            (np.array([hit["id"] for hit in hits], np.int64), np.array([hit["distance"] for hit in hits], np.int32))
            for hits in answers
        ]
