"""What every door does through the engine: withdrawals that leave nothing on disk, and hashes that can be shown."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import Api, Local, wait_until

from benchmarks import corpus
from hashing.errors import InvalidHash
from hashing.hasher import DEFAULT_TYPES
from hashing.signals import SignalType
from indexer.errors import UnknownBank, UnknownContent
from service.engine import Engine
from service.settings import Settings


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(Settings(home=tmp_path / "home", workers=1)) as made:
        made.load_index()
        made.record.create_bank("b", actor="t")
        yield made


def enrolled(engine: Engine, seed: int) -> str:
    data = corpus.jpeg(corpus.picture(seed, 320, 240), 90)
    return engine.enroll_media("b", data, None, (), actor="t").content_id


def on_disk(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(home.iterdir()))


def secrets(engine: Engine, content_id: str) -> list[bytes]:
    """Return the bytes of a content's hashes and of parts of its sketches."""
    content = engine.record.content("b", content_id)
    digests, frames = engine.record.hashes_of(content.content_pk)
    rows = [row for part in engine.record.sketches.since(0) for row in part.rows]
    places = engine.record.sketches.locate(engine.record.sketches.keys().tolist(), [1]).content_pk.tolist()
    mine = [row for row, pk in zip(rows, places, strict=True) if pk == content.content_pk]
    codes = [code.tobytes() for row in mine for code in row["keypoints"]["code"][: row["count"]]]
    return [code for _, code in digests] + [bytes(row["hash"]) for row in frames] + codes


WAYS: dict[str, Callable[[Engine, str], object]] = {
    "by id": lambda engine, content_id: engine.withdraw([content_id], reason="r", actor="t"),
    "from a bank": lambda engine, content_id: engine.withdraw_from("b", content_id, reason="r", actor="t"),
    "with its bank": lambda engine, content_id: engine.delete_bank("b", actor="t"),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_that_was_withdrawn_stays_on_disk(engine: Engine, way: str) -> None:
    gone, home = enrolled(engine, 1), engine.settings.home
    engine.save_index()
    cache = engine.settings.index_path
    left_over = cache.with_name("index.cache.123.part")  # of a process that was killed
    left_over.write_bytes(cache.read_bytes())
    hidden = secrets(engine, gone)
    pdq = hidden[2]
    assert pdq in cache.read_bytes()
    assert sum(secret in on_disk(home) for secret in hidden) > 0.9 * len(hidden) > 100
    WAYS[way](engine, gone)
    assert not cache.exists()
    assert not left_over.exists()
    assert [secret for secret in hidden if secret in on_disk(home)] == []
    engine.save_index()
    assert cache.exists()
    assert pdq not in on_disk(home)


def test_what_was_not_withdrawn_is_found_after_a_restart_without_the_cache(engine: Engine) -> None:
    gone, kept = enrolled(engine, 1), enrolled(engine, 2)
    engine.save_index()
    engine.withdraw([gone], reason="r", actor="t")
    with Engine(engine.settings) as other:
        other.load_index()
        found = [
            [
                match.content_id
                for match in other.check_media(corpus.jpeg(corpus.picture(seed, 320, 240), 60), None).matches
            ]
            for seed in (1, 2)
        ]
    assert found == [[], [kept]]


def test_what_is_unknown_is_not_withdrawn_and_nothing_else_is(engine: Engine) -> None:
    known = enrolled(engine, 1)
    engine.save_index()
    with pytest.raises(UnknownContent):
        engine.withdraw([known, "c_0"], reason="r", actor="t")
    with pytest.raises(UnknownContent):
        engine.withdraw_from("b", "c_0", reason="r", actor="t")
    with pytest.raises(UnknownBank):
        engine.withdraw_from("none", known, reason="r", actor="t")
    with pytest.raises(UnknownBank):
        engine.delete_bank("none", actor="t")
    assert engine.record.content("b", known).withdrawn_at is None
    assert engine.settings.index_path.exists()


def test_withdrawing_again_is_harmless_without_a_cache(engine: Engine) -> None:
    known = enrolled(engine, 1)
    for _ in range(2):
        engine.withdraw([known], reason="r", actor="t")
    assert engine.record.content("b", known).withdrawn_reason == "r"


def test_keypoints_are_not_shown_as_a_hash(engine: Engine) -> None:
    data = corpus.jpeg(corpus.picture(1, 320, 240), 90)
    with pytest.raises(InvalidHash, match="no hex form"):
        engine.hash_for_show(data, [*DEFAULT_TYPES, SignalType.KEYPOINTS])
    assert len(engine.hash_for_show(data, DEFAULT_TYPES).sketches) == 0


# --- over HTTP ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with Local(tmp_path_factory.mktemp("engine")) as made:
        yield made


@pytest.fixture
def admin(local: Local) -> Api:
    return local.api()


def test_a_deletion_over_http_unlinks_the_cache(local: Local, admin: Api) -> None:
    bank, cache = admin.bank(), local.engine.settings.index_path
    made = admin.post(f"/v1/banks/{bank}/contents", corpus.jpeg(corpus.picture(3, 320, 240), 90)).json
    assert made["signals"] == {"sha256": 1, "md5": 1, "pdq": 1, "keypoints": 1}
    local.engine.save_index()
    assert cache.exists()
    assert admin.call("DELETE", f"/v1/banks/{bank}/contents/{made['content_id']}?reason=x").status == 204
    assert not cache.exists()
    local.engine.save_index()
    assert admin.call("DELETE", f"/v1/banks/{bank}").status == 204
    assert not cache.exists()


def test_a_running_service_writes_the_cache_anew_without_what_was_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a start after a crash does not read everything from the record, however long ago the last stop was."""
    monkeypatch.setattr("service.app._TEND_EVERY_S", 0.05)
    with Local(tmp_path) as running:
        api, cache = running.api(), running.engine.settings.index_path
        bank = api.bank()
        ids = [
            api.post(f"/v1/banks/{bank}/contents", corpus.jpeg(corpus.picture(seed, 320, 240), 90)).json["content_id"]
            for seed in (1, 2)
        ]
        hashes = [running.engine.record.hashes_of(pk)[1]["hash"][0].tobytes() for pk in (1, 2)]
        cache.unlink(missing_ok=True)
        wait_until(lambda: cache.exists() and hashes[0] in cache.read_bytes())
        assert api.call("DELETE", f"/v1/banks/{bank}/contents/{ids[0]}?reason=x").status == 204
        wait_until(lambda: hashes[1] in cache.read_bytes())
        assert hashes[0] not in on_disk(tmp_path)
        with Engine(running.engine.settings) as other:
            assert other.index.load(cache, other.record)
            assert other.index.sizes()["keypoints"] == 1


@pytest.mark.parametrize("profile", [None, "pdq-full/1"])
def test_keypoints_as_a_ready_made_hash_are_refused(admin: Api, profile: str | None) -> None:
    signals = {"signals": [{"signal_type": "keypoints", "hash": "ab" * 32, "profile": profile}]}
    for path in ("/v1/check/hashes", f"/v1/banks/{admin.bank()}/contents"):
        answer = admin.post(path, signals)
        assert answer.is_problem(422, answer.json["code"])
        assert answer.json["code"] in {"invalid_hash", "invalid_request"}


def test_keypoints_are_not_shown_over_http(admin: Api) -> None:
    answer = admin.post("/v1/hash?type=keypoints&type=pdq", corpus.jpeg(corpus.picture(3, 320, 240), 90))
    assert answer.is_problem(422, "invalid_hash")
    assert "keypoints" in answer.json["detail"]


def test_an_edited_copy_is_found_over_http(admin: Api) -> None:
    bank, picture = admin.bank(), corpus.picture(4)
    made = admin.post(f"/v1/banks/{bank}/contents", corpus.jpeg(picture, 90)).json
    said = admin.post(f"/v1/check?bank={bank}", corpus.jpeg(picture[96:, 128:], 85)).json
    assert said["verdict"] == "match"
    [match] = said["matches"]
    assert (match["content_id"], match["signal_type"], match["distance_bits"]) == (
        made["content_id"],
        "keypoints",
        None,
    )
    assert match["inliers"] >= 5
    assert match["transform"].endswith("crop")
    hidden = admin.post(f"/v1/check?bank={bank}", corpus.jpeg(corpus.picture(5)[96:, 128:], 85)).json
    assert (hidden["verdict"], hidden["matches"]) == ("no_match", [])


def test_evidence_of_keypoints_is_for_those_who_may_see_it(local: Local, admin: Api) -> None:
    bank, picture = admin.bank(), corpus.picture(6)
    assert admin.post(f"/v1/banks/{bank}/contents", corpus.jpeg(picture, 90)).status == 201
    said = local.api("check").post(f"/v1/check?bank={bank}", corpus.jpeg(picture[96:, 128:], 85)).json
    [match] = said["matches"]
    assert (match["signal_type"], match["inliers"], match["distance_bits"]) == ("keypoints", None, None)
