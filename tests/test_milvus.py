"""The search back-end against the slow truth and the record: radii, caps, and everything it may disagree in."""

import shutil
import sqlite3
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from searching import Pair, needed, paired
from serving import Local, wait_until
from shelf import codes, ended, film, flipped, opened, run, still

from benchmarks.milvus_server import MilvusServer, running
from hashing.signals import SignalType, distances
from indexer import index as index_module
from indexer import milvus as milvus_module
from indexer import record as record_module
from indexer import remote
from indexer.enroll import Submission
from indexer.errors import IndexNotReady, SearchUnavailable, TooManyHits
from indexer.exchange.manifest import Item, ready_hash
from indexer.index import Index
from indexer.milvus import FEW, MOST, Milvus
from indexer.policy import MIN_QUALITY
from indexer.remote import Remote
from service import inputs, upkeep
from service.engine import Engine
from service.settings import Settings

PDQ = SignalType.PDQ
Found = set[tuple[int, int, int]]


def enrolled(pair: Pair, hashes: np.ndarray, seed: int = 0) -> None:
    """Enroll hashes as the frames of one video."""
    times_s = np.arange(len(hashes)) / 10 + seed * 1e6
    pair.shelf.enroll(film(hashes, times_s))


def truth(pair: Pair, asked: np.ndarray, radius_bits: int) -> Found:
    """Compare with every hash of the record."""
    found: Found = set()
    for keys, rows in pair.shelf.record.signals_since(-1):
        for number, code in enumerate(asked):
            apart = distances(rows["hash"], code)
            found |= {(number, int(keys[row]), int(apart[row])) for row in np.flatnonzero(apart <= radius_bits)}
    return found


def searched(pair: Pair, asked: np.ndarray, radius_bits: int) -> Found:
    hits = pair.index.search(PDQ, asked, radius_bits)
    found = list(zip(hits.query.tolist(), hits.signal_pk.tolist(), hits.distance_bits.tolist(), strict=True))
    assert len(found) == len(set(found)), "nothing twice"
    return set(found)


def test_its_radius_is_strict_and_ours_is_not(pair: Pair) -> None:
    """A copy exactly as far as the radius is found, one a bit farther is not: in its memory, and in its files."""
    asked = codes(1, 1)
    copies = np.array([flipped(asked[0], bits, seed=bits) for bits in range(50)])
    enrolled(pair, copies)
    pair.rest()
    assert pair.index.held == 0
    for sealed in (False, True):
        if sealed:
            enrolled(pair, codes(2, 2000))
            pair.rest()
            pair.backend.seal(pair.collection)
        for radius_bits in (0, 1, 30, 31, 32, 45, 46):
            found = searched(pair, asked, radius_bits)
            assert found == truth(pair, asked, radius_bits)
            assert len(found) == radius_bits + 1


def test_every_query_of_many_is_answered_in_its_place(pair: Pair) -> None:
    bank = codes(3, 3000)
    enrolled(pair, bank)
    pair.rest()
    asked = np.concatenate([[flipped(code, n % 48, seed=n) for n, code in enumerate(bank[:300])], codes(4, 300)])
    assert searched(pair, asked, 46) == truth(pair, asked, 46)


def test_a_query_with_more_hits_than_it_is_first_asked_for_gets_all(pair: Pair) -> None:
    """A bucket of one hash again and again, as blank frames make it; the other queries are answered along with it."""
    one = codes(5, 2)
    copies = np.array([flipped(one[0], n % 3, seed=n) for n in range(FEW + 500)])
    enrolled(pair, np.concatenate([copies, codes(6, 1000)]))
    pair.rest()
    asked = np.concatenate([codes(6, 3), one[:1], one[1:]])
    found = searched(pair, asked, 31)
    assert found == truth(pair, asked, 31)
    assert sum(query == 3 for query, _, _ in found) == FEW + 500


def test_an_answer_at_its_cap_is_refused(pair: Pair) -> None:
    one = codes(7, 1)
    enrolled(pair, np.repeat(one, MOST - 1, axis=0))
    pair.rest()
    assert len(searched(pair, one, 0)) == MOST - 1
    enrolled(pair, np.repeat(one, 1, axis=0), seed=1)
    pair.rest()
    with pytest.raises(TooManyHits):
        pair.index.search(PDQ, one, 0)
    with pytest.raises(TooManyHits):
        pair.matcher.match(still(flipped(one[0], 5)))
    assert len(pair.index.search(PDQ, codes(8, 1), 31)) == 0, "others are answered"


def test_one_hash_alone_is_found(pair: Pair) -> None:
    code = codes(9, 1)[0]
    done = pair.shelf.enroll(still(code))
    pair.rest()
    assert pair.index.held == 0
    assert [match.content_id for match in pair.matcher.match(still(flipped(code, 31))).matches] == [done.content_id]


def test_what_is_new_is_found_before_milvus_has_it(pair: Pair) -> None:
    pair.rest()
    for code in codes(10, 4):
        pair.shelf.enroll(still(code))
    found = pair.matcher.match(still(codes(10, 4)[3]))
    assert (len(found.matches), pair.index.held) == (1, 4)
    assert len(pair.index) == len(pair.shelf.index)
    pair.rest(waiting=4)
    assert pair.index.held == 4, "too few to be fed"
    pair.rest()
    assert pair.index.held == 0
    assert len(pair.index) == len(pair.shelf.index)
    assert searched(pair, codes(10, 4), 0) == truth(pair, codes(10, 4), 0)


def test_what_was_written_just_now_is_left_to_it_after_a_while(pair: Pair) -> None:
    other = Remote(pair.shelf.record, pair.backend, MIN_QUALITY, hold_s=0.6)
    before = other.base()
    pair.shelf.enroll(still(codes(11, 1)[0]))
    assert other.base().point == before.point, "it is in Milvus, and not yet relied on"
    time.sleep(0.7)
    assert other.base().point.last_pk > before.point.last_pk


def test_a_withdrawal_counts_at_once_and_is_deleted_later(pair: Pair) -> None:
    gone, stays = (pair.shelf.enroll(still(code)) for code in codes(12, 2))
    pair.rest()
    before, collection = pair.backend.count(pair.collection), pair.collection
    pair.shelf.withdraw(gone)
    assert pair.matcher.match(still(codes(12, 2)[0])).matches == ()
    assert len(pair.backend.search(collection, "pdq", codes(12, 2), 0, strong=True)) == 2
    pair.rest()
    assert pair.backend.count(collection) == before - 1
    assert len(pair.backend.search(collection, "pdq", codes(12, 2), 0, strong=True)) == 1
    assert (pair.collection, pair.index.sizes()["pdq"]) == (collection, before - 1)
    assert pair.matcher.match(still(codes(12, 2)[1])).matches[0].content_id == stays.content_id


def test_one_that_lost_hashes_is_filled_anew(pair: Pair) -> None:
    bank = codes(13, 50)
    enrolled(pair, bank)
    pair.rest()
    old = pair.collection
    keys = next(pair.shelf.record.signals_since(-1))[0]
    pair.backend.delete(old, keys[-3:])
    pair.rest()
    assert pair.collection != old
    assert searched(pair, bank, 0) == truth(pair, bank, 0)
    assert pair.backend.count(old) == -1


def test_what_a_killed_feeder_left_half_done_is_done_once(pair: Pair) -> None:
    """It had written that it begins, and some of the hashes; not that it is done."""
    bank = codes(14, 60)
    enrolled(pair, bank[:20])
    pair.rest()
    collection, point = pair.collection, pair.remote.base(0).point
    enrolled(pair, bank[20:], seed=1)
    keys, rows = next(pair.shelf.record.signals_since(point.revision))
    said = pair.backend.read(pair.name) or ""
    begun = said.replace(f'"begun_pk": {point.last_pk}', f'"begun_pk": {int(keys[-1])}')
    assert begun != said
    pair.backend.write(pair.name, begun)
    pair.backend.insert(collection, "pdq", keys[-40:-15], rows["hash"][-40:-15])
    pair.rest()
    assert pair.collection == collection, "it is not filled anew for that"
    assert (pair.backend.count(collection), pair.index.held) == (sum(point.counts.values()) + 40, 0)
    assert searched(pair, bank, 0) == truth(pair, bank, 0)


@pytest.mark.soak
def test_the_back_end_of_another_history_is_not_believed(pair: Pair, milvus: MilvusServer, tmp_path: Path) -> None:
    """An older copy of the store goes on differently: the same keys are other hashes."""
    old, lost, new = codes(15, 3)
    pair.shelf.enroll(still(old))
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(pair.shelf.path)) as connection:
        connection.execute("VACUUM INTO ?", [str(copy)])
    pair.shelf.enroll(still(lost))
    pair.rest()
    with opened(copy) as restored:
        restored.enroll(still(new))
        again = paired(restored, milvus.url)
        assert again.name == pair.name
        found = [again.matcher.match(still(code)).matches for code in (old, lost, new)]
        assert [len(matches) for matches in found] == [1, 0, 1]
        again.remote.close()
    with pytest.raises(SearchUnavailable):
        pair.index.search(PDQ, old[None], 0)
    pair.rest()
    assert len(pair.index.search(PDQ, np.array([old, lost]), 0)) == 2


@pytest.mark.parametrize("said", [None, "", "{}", "[1]", '{"about": {"format": 0}}', '{"about": 1, "link": 3}'])
def test_what_it_says_in_no_words_of_ours_is_not_believed(said: str | None) -> None:
    assert remote._read(said) is None


def test_nobody_rests_on_one_half_filled(pair: Pair) -> None:
    """While another process has the turn and has not finished."""
    said = pair.backend.read(pair.name) or ""
    pair.backend.write(pair.name, said.replace('"filled": true', '"filled": false'))
    other = Remote(pair.shelf.record, pair.backend, MIN_QUALITY)
    with pair.shelf.store.turn("search") as ours:
        assert ours is not None
        with pytest.raises(IndexNotReady):
            other.base()
    index = Index(MIN_QUALITY, remote=True)
    with pytest.raises(IndexNotReady):
        index.refresh(pair.shelf.record)
    assert not index.ready
    assert other.base().point.filled


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_one_process_has_the_turn(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    address = tmp_path / "staydown.db"
    if kind == "postgresql":
        address = request.getfixturevalue("postgres").new_database()
    with opened(address) as one, opened(address) as other:
        with one.store.turn("search") as first, other.store.turn("search") as second:
            assert first is not None
            assert first()
            assert second is None
            with other.store.turn("retro") as third:
                assert third is not None, "another thing"
        with other.store.turn("search") as second:
            assert second is not None


def test_the_snapshot_has_what_is_here_alone(pair: Pair, tmp_path: Path) -> None:
    """Sketches; whole frames come from Milvus and the record, whatever was written when."""
    pair.rest()
    before = len(pair.index)
    enrolled(pair, codes(17, 40))
    pair.rest()
    pair.shelf.enroll(still(codes(18, 1)[0]))
    pair.index.refresh(pair.shelf.record)
    path = tmp_path / "index.cache"
    pair.index.save(path, pair.shelf.record)
    assert not Index(MIN_QUALITY).load(path, pair.shelf.record), "it is not all there is"
    again = Index(MIN_QUALITY, remote=True)
    assert again.load(path, pair.shelf.record)
    again.rest(pair.remote.base(0), pair.shelf.record)
    again.refresh(pair.shelf.record)
    assert (len(again) - before, again.held) == (41, 1)
    assert len(again.search(PDQ, np.concatenate([codes(17, 40), codes(18, 1)]), 0)) == 41


def test_an_address_with_nobody_there(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(SearchUnavailable):
        Milvus("milvus://127.0.0.1:1", 1.0)
    assert time.monotonic() - began < 5


def test_a_process_that_never_reached_it_says_so(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, search_url="milvus://127.0.0.1:1", search_timeout_s=1.0, workers=1)
    with Engine(settings) as engine:
        assert engine.search_answers, "nobody has looked yet"
        for look in (engine.load_index, engine.probe_search):
            engine.search_answers = True
            with pytest.raises(SearchUnavailable):
                look()
            assert not engine.search_answers
        assert not engine.current


def test_without_its_client_it_says_what_is_missing(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)  # as if it were not installed
    monkeypatch.delitem(sys.modules, "indexer.milvus")
    with pytest.raises(SearchUnavailable, match=r"pymilvus.*milvus"):
        remote.opened(pair.shelf.record, "milvus://127.0.0.1:1", 1.0, MIN_QUALITY)


def test_the_client_is_not_loaded_where_nobody_asked_for_it() -> None:
    assert (
        ended(run("import sys, service.app; print(sorted({'pymilvus', 'grpc', 'pandas'} & set(sys.modules)))"))
        == "[]\n"
    )


def test_only_the_frames_that_are_asked_for_count(pair: Pair) -> None:
    """Types do not mix, and what is too featureless to be asked about is not there."""
    code = codes(20, 3)
    pair.shelf.record.set_bank("b", actor="test", signal_types=frozenset({PDQ, SignalType.PHASH}))
    pair.shelf.enroll(still(code[0], kind=SignalType.PHASH))
    pair.shelf.enroll(still(code[1]))
    pair.rest()
    pair.shelf.index.compact(pair.shelf.record)
    assert pair.index.sizes() == pair.shelf.index.sizes()
    assert len(pair.index.search(PDQ, code[:1], 0)) == 0
    assert len(pair.index.search(SignalType.PHASH, code[:1], 0)) == 1


@pytest.mark.soak
def test_while_it_hangs_or_is_away_nothing_is_no_match(milvus: MilvusServer, tmp_path: Path) -> None:
    """503 in time with a word of its own; when it is back nothing has to be restarted, and it has forgotten nothing."""
    code = codes(19, 1)[0]
    signals = {"signals": [{"signal_type": "pdq", "hash": code.tobytes().hex()}]}
    settings = {"search_url": milvus.url, "search_timeout_s": 2.0}
    with Local(tmp_path / "home", settings) as local:
        api = local.api("admin")
        api.bank()
        bank = api.bank()
        assert api.post(f"/v1/banks/{bank}/contents", signals).status == 201
        local.engine._rest()
        local.engine._remote._hold_s = 0.0
        local.engine._rest()
        local.engine._rest()
        assert local.engine.index.held == 0
        assert api.post("/v1/check/hashes", signals).json["verdict"] == "match"
        assert api.get("/health/ready").status == 200
        milvus.pause()
        began = time.monotonic()
        assert api.post("/v1/check/hashes", signals).is_problem(503, "search_unavailable")
        assert time.monotonic() - began < 4
        rescan = api.post("/v1/rescans", {"items": [signals]}).json["rescan_id"]
        with pytest.raises(SearchUnavailable):
            inputs.verdicts(local.engine, None, [Item("listed", hashes=(ready_hash(signals["signals"][0]),))])
        wait_until(lambda: api.get("/health/ready").status == 503, 10)
        said = api.get("/health/ready").json
        assert (said["status"], said["code"]) == ("search_unavailable", "search_unavailable")
        milvus.resume()
        wait_until(lambda: api.get("/health/ready").status == 200, 10)
        assert api.post("/v1/check/hashes", signals).json["verdict"] == "match"
        wait_until(lambda: api.get(f"/v1/rescans/{rescan}").json["verdicts"] == {"match": 1}, 10)  # it waited
        milvus.kill()
        assert api.post("/v1/check/hashes", signals).is_problem(503, "search_unavailable")
        wait_until(lambda: api.get("/health/ready").status == 503, 10)
        milvus.start()
        deadline = time.monotonic() + 40
        while (answer := api.post("/v1/check/hashes", signals)).status == 503 and time.monotonic() < deadline:
            time.sleep(0.2)
        assert answer.json["verdict"] == "match"
        assert local.engine.remote.base(0).point.counts["pdq"] == 1
        wait_until(lambda: api.get("/health/ready").status == 200, 10)


# --- readiness, the bound on what is held here, and erasure -------------------------------


def test_a_process_holds_no_more_than_it_may_and_says_so(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As while Milvus is away: what is too much waits, and nothing of it is a no match."""
    pair.rest()
    monkeypatch.setattr(index_module, "HELD_UPTO", 60)
    bank = codes(21, 90)
    for start in range(0, 90, 30):
        enrolled(pair, bank[start : start + 30], seed=21 + start)
        pair.index.refresh(pair.shelf.record)
    assert (pair.index.ready, pair.index.held) == (False, 60)
    with pytest.raises(IndexNotReady):
        pair.matcher.match(still(codes(22, 1)[0]))
    pair.index.rest(pair.remote.base(0), pair.shelf.record)  # Milvus has no more yet
    assert pair.index.held == 60
    pair.rest()
    assert (pair.index.ready, pair.index.held) == (True, 0)
    assert searched(pair, bank, 0) == truth(pair, bank, 0)


def test_a_start_with_more_than_is_held_waits_for_milvus(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.rest()
    bank = codes(23, 50)
    enrolled(pair, bank, seed=23)
    monkeypatch.setattr(index_module, "HELD_UPTO", 40)
    monkeypatch.setattr(record_module, "_SLICE", 20)
    base, fresh = pair.remote.base(0), Index(MIN_QUALITY, remote=True)
    for _ in range(2):
        fresh.rest(base, pair.shelf.record)
        fresh.refresh(pair.shelf.record)
        assert (fresh.ready, fresh.held) == (False, 40)
    pair.rest()
    fresh.rest(pair.remote.base(0), pair.shelf.record)
    fresh.refresh(pair.shelf.record)
    assert (fresh.ready, fresh.held, fresh.revision) == (True, 0, pair.shelf.store.revision())
    assert len(fresh.search(PDQ, bank, 0)) == 50


def test_a_start_that_is_tried_again_lacks_nothing(pair: Pair, tmp_path: Path) -> None:
    """The cache is loaded a second time, after the index already rested on Milvus."""
    pair.rest()
    code = codes(24, 1)
    pair.shelf.enroll(still(code[0]))
    path, again = tmp_path / "index.cache", Index(MIN_QUALITY, remote=True)
    pair.index.refresh(pair.shelf.record)
    pair.index.save(path, pair.shelf.record)
    for _ in range(2):
        assert again.load(path, pair.shelf.record)
        again.rest(pair.remote.base(0), pair.shelf.record)
    again.refresh(pair.shelf.record)
    assert len(again.search(PDQ, code, 0)) == 1


def test_an_erasure_waits_for_its_turn_no_longer_than_it_may(pair: Pair) -> None:
    with pair.shelf.store.turn("search") as ours, pytest.raises(SearchUnavailable, match="turn"):
        assert ours is not None
        pair.remote.erase(patience_s=0.5)


def holding(folder: Path, words: list[bytes]) -> set[str]:
    """Return which files of a server hold one of these."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    found = set()
    for name, path in files.items():
        with suppress(FileNotFoundError):  # it works meanwhile
            if any(word in path.read_bytes() for word in words):
                found.add(str(name))
    return found


def test_erased_hashes_are_in_no_file_of_its_data(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that collects its garbage at once: the receipt's word against its bytes. Its message log is its own."""
    needed()
    monkeypatch.setenv("DATACOORD_GC_INTERVAL", "5")  # seconds, of an hour
    bank, folder = codes(25, 1500), Path(tempfile.mkdtemp(prefix="sdmv", dir="/tmp"))
    gone = [bank[n].tobytes() for n in range(0, 1500, 50)]
    try:
        with running(folder) as server, Engine(Settings(home=tmp_path, search_url=server.url, workers=1)) as engine:
            engine.record.create_bank("b", actor="t")
            done = engine.enroller.enroll_many("b", [Submission(still(code)) for code in bank], actor="t")
            engine.load_index()
            wait_until(lambda: any("insert_log" in name for name in holding(folder, gone)))
            engine.withdraw([done[n].content_id for n in range(0, 1500, 50)], reason="r", actor="t")
            receipt = upkeep.erase(engine)
            places = {place.place: place for place in receipt.places}
            assert places[upkeep.SEARCH].state == "gone"
            assert "1470 hashes" in places[upkeep.SEARCH].how
            assert places[f"{upkeep.SEARCH}, older files"].state == "unknown"
            assert not receipt.left
            assert not upkeep.eraser(engine).pending()
            wait_until(lambda: not [name for name in holding(folder, gone) if "rocksmq" not in name])
            kept = engine.matcher.match(still(flipped(bank[1], 9))).matches
            assert [match.content_id for match in kept] == [done[1].content_id]
            engine.withdraw([one.content_id for one in done if one.content_id not in receipt.content_ids], reason="r",
                            actor="t")  # fmt: skip
            assert "0 hashes" in {place.place: place.how for place in upkeep.erase(engine).places}[upkeep.SEARCH]
            server.kill()
            engine.remote._backend._timeout_s = 1.0
            monkeypatch.setattr(milvus_module, "_WORK_TIMEOUT_S", 1.0)
            away = upkeep.erase(engine)
            assert {place.place: (place.state, place.how) for place in away.places}[upkeep.SEARCH] == (
                "left", "left as it is: search_unavailable",
            )  # fmt: skip
            assert away.left
            assert upkeep.eraser(engine).pending()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
