"""Two persons and sources: what one hand can do alone, and what it cannot."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Api, Local, make_key, staydown, wait_until
from shelf import Shelf, bare, codes, film, flipped, frames, sketched, still

from hashing.signals import Signal, SignalType
from indexer import standing
from indexer.enroll import Enroller, Submission
from indexer.errors import InvalidSource, NotApproved, NothingToApprove, NotSigned, OwnProposal
from indexer.exchange.hashlist import check_list, import_hashes, signature_of
from indexer.lawful import CompanionEnroller, Lawful
from indexer.lists import ListEnroller
from indexer.retro import Retro
from indexer.retro_sweep import sweep
from indexer.signing import Signer

CODES = codes(801, 12)


@pytest.fixture
def two(shelf: Shelf) -> Shelf:
    """A shelf whose bank `b` asks for two persons."""
    shelf.record.set_bank("b", actor="t", two_persons=True)
    return shelf


def enroll(shelf: Shelf, signal: Signal, actor: str, source: str | None = None) -> Any:
    done = Enroller(shelf.record, shelf.index).enroll("b", Submission(signal, source=source), actor=actor)
    shelf.index.refresh(shelf.record)
    return done


def approve(shelf: Shelf, actor: str, *content_ids: str, source: str | None = None) -> int:
    of = shelf.record.settings_of("b")
    return shelf.record.standing.approve(of, actor=actor, content_ids=content_ids or None, name=source)


# --- proposals ------------------------------------------------------------------------------------


def test_what_one_enrolls_counts_once_another_approved_it(two: Shelf) -> None:
    done = enroll(two, still(CODES[0]), "k_one")
    assert (done.created, done.proposed) == (True, True)
    assert two.found(still(CODES[0])) == []
    with pytest.raises(OwnProposal):
        approve(two, "k_one", done.content_id)
    assert two.found(still(CODES[0])) == []
    assert approve(two, "k_two", done.content_id) == 1
    assert two.found(still(flipped(CODES[0], 9))) == [done.content_id]
    found = two.record.content("b", done.content_id)
    assert (found.proposed_by, found.approved_by, found.enabled) == ("k_one", "k_two", True)
    with pytest.raises(NothingToApprove):
        approve(two, "k_two", done.content_id)


def test_no_other_door_makes_a_proposal_count(two: Shelf) -> None:
    done = enroll(two, still(CODES[0]), "k_one")
    with pytest.raises(NotApproved):
        two.record.set_content("b", done.content_id, actor="k_two", enabled=True)
    two.record.set_content("b", done.content_id, actor="k_one", labels=["x"], enabled=False)
    with pytest.raises(NotApproved):
        two.record.set_bank("b", actor="k_one", two_persons=False)
    again = enroll(two, still(CODES[0]), "k_two")
    assert (again.content_id, again.created, again.proposed) == (done.content_id, False, False)
    assert two.found(still(CODES[0])) == []
    two.record.set_bank("b", actor="cli", two_persons=False)
    assert two.found(still(CODES[0])) == [], "what was proposed before stays so"
    assert not enroll(two, still(CODES[1]), "k_one").proposed
    assert two.found(still(CODES[1])) != []


def test_what_was_approved_stays_as_it_was(two: Shelf) -> None:
    """The same file's digest with another picture's hash would bring that hash in."""
    digest = (SignalType.SHA256, bytes(32))
    done = enroll(two, bare(digest, rows=frames(CODES[:1])), "k_one")
    approve(two, "k_two", done.content_id)
    enroll(two, bare(digest, rows=frames(CODES[1:2])), "k_three")
    listed = ListEnroller(two.record, two.index, Enroller(two.record, two.index).guard)
    two.index.refresh(two.record)
    assert two.found(still(CODES[1])) == []
    with pytest.raises(NotApproved):
        CompanionEnroller(two.record).add("b", done.content_id, Lawful(still(CODES[2])), actor="k_three")
    assert two.found(still(CODES[0])) == [done.content_id]
    assert listed is not None


def test_originals_come_with_the_proposal(two: Shelf) -> None:
    done = enroll(two, still(CODES[0]), "k_one")
    add = CompanionEnroller(two.record).add
    with pytest.raises(NotApproved):
        add("b", done.content_id, Lawful(still(flipped(CODES[0], 20))), actor="k_two")
    assert add("b", done.content_id, Lawful(still(flipped(CODES[0], 20))), actor="k_one")


def test_what_is_not_all_somebody_elses_is_not_approved_at_all(two: Shelf) -> None:
    one, other = enroll(two, still(CODES[0]), "k_one"), enroll(two, still(CODES[1]), "k_two")
    with pytest.raises(OwnProposal):
        approve(two, "k_two", one.content_id, other.content_id)
    with pytest.raises(NothingToApprove):
        approve(two, "k_three", one.content_id, "c_none")
    assert two.found(still(CODES[0])) == two.found(still(CODES[1])) == []
    assert approve(two, "k_three", one.content_id, other.content_id) == 2


def test_a_withdrawn_proposal_cannot_be_approved(two: Shelf) -> None:
    done = enroll(two, still(CODES[0]), "k_one")
    two.record.withdraw(two.record.content("b", done.content_id), reason="no", actor="k_one")
    with pytest.raises(NothingToApprove):
        approve(two, "k_two", done.content_id)


def test_keypoints_of_a_proposal_are_in_no_answer(two: Shelf) -> None:
    signal = still(CODES[0])
    signal = Signal(signal.media, signal.frames, sketches=sketched(1))
    done = enroll(two, signal, "k_one")
    of = two.record.settings_of("b")
    with two.store.read() as connection:
        pks = [row[0] for row in connection.exec_driver_sql("SELECT sketch_pk FROM sketch")]
    assert len(two.record.sketches.locate(pks, [of.bank_pk]).sketch_pk) == 0
    approve(two, "k_two", done.content_id)
    assert len(two.record.sketches.locate(pks, [of.bank_pk]).sketch_pk) == 1


def test_a_list_is_proposed_and_approved_by_its_source(two: Shelf, tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("content,signal_type,hash\n" + "".join(f"{n},pdq,{bytes(c).hex()}\n" for n, c in enumerate(CODES)))
    lists = ListEnroller(two.record, two.index, Enroller(two.record, two.index).guard)
    import_hashes(lists, "b", path, source="partner", actor="cli")
    assert two.found(still(CODES[3])) == []
    of = two.record.settings_of("b")
    assert two.record.standing.proposed(of) == {("cli", "partner"): 12}
    with pytest.raises(OwnProposal):
        approve(two, "cli", source="partner")
    with pytest.raises(NothingToApprove):
        approve(two, "k_two", source="other")
    assert approve(two, "k_two", source="partner") == 12
    assert len(two.found(still(CODES[3]))) == 1
    (source,) = two.record.standing.sources()
    assert (source.name, source.contents, source.proposed) == ("partner", 12, 0)


def test_what_is_approved_meets_what_was_checked_before(two: Shelf) -> None:
    """A retro-match is of what counts, from when it counts."""
    retro, asked = Retro(two.store), still(flipped(CODES[0], 3))
    retro.keep(asked, two.match(asked), None, key_id="k", reference="r")
    done = enroll(two, still(CODES[0]), "k_one")

    def swept() -> int:
        return sweep(two.record, two.matcher, retro, lambda match: {"content_id": match.content_id}, lambda: False,
                     lambda _: standing_reach())  # fmt: skip

    assert swept() == 0
    approve(two, "k_two", done.content_id)
    two.index.refresh(two.record)
    assert swept() == 1


def standing_reach() -> Any:
    from indexer.banks import EVERYTHING

    return EVERYTHING


# --- sources --------------------------------------------------------------------------------------


def test_what_comes_from_a_source_stops_matching_when_it_is_switched_off(shelf: Shelf) -> None:
    mine, theirs = enroll(shelf, still(CODES[0]), "k"), enroll(shelf, still(CODES[1]), "k", "partner")
    digest = (SignalType.MD5, bytes(16))
    exact = enroll(shelf, bare(digest), "k", "partner")
    video = enroll(shelf, film(CODES[4:8], [0.0, 1.0, 2.0, 3.0]), "k", "partner")
    before = shelf.store.revision()
    shelf.record.standing.set_source("default", "partner", enabled=False, actor="t")
    assert shelf.store.revision() == before + 1, "a change that every process sees"
    assert shelf.found(still(CODES[1])) == shelf.found(bare(digest)) == shelf.found(still(CODES[5])) == []
    assert shelf.found(still(CODES[0])) == [mine.content_id]
    late = enroll(shelf, still(CODES[2]), "k", "partner")
    assert shelf.found(still(CODES[2])) == [], "nor what comes from it later"
    shelf.record.standing.set_source("default", "partner", enabled=True, actor="t")
    assert shelf.found(still(CODES[1])) == [theirs.content_id]
    assert shelf.found(bare(digest)) == [exact.content_id]
    assert shelf.found(still(CODES[5])) == [video.content_id]
    assert shelf.found(still(CODES[2])) == [late.content_id]
    assert shelf.record.standing.source_names([theirs_pk(shelf, theirs.content_id)]) != {}


def theirs_pk(shelf: Shelf, content_id: str) -> int:
    return shelf.record.content("b", content_id).content_pk


def test_a_source_is_one_tenants(shelf: Shelf) -> None:
    shelf.record.create_bank("other", actor="t", tenant="t2")
    done = enroll(shelf, still(CODES[0]), "k", "list")
    shelf.record.standing.set_source("t2", "list", enabled=False, actor="t")
    assert shelf.found(still(CODES[0])) == [done.content_id]
    assert [one.tenant for one in shelf.record.standing.sources()] == ["default", "t2"]
    assert [one.enabled for one in shelf.record.standing.sources("t2")] == [False]


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 65, "-x", "a/b"])
def test_a_sources_name_is_a_name(shelf: Shelf, name: str) -> None:
    before = shelf.store.revision()
    with pytest.raises(InvalidSource):
        shelf.record.standing.set_source("default", name, enabled=True, actor="t")
    with pytest.raises(InvalidSource):
        enroll(shelf, still(CODES[0]), "k", name)
    assert shelf.store.revision() == before
    assert shelf.record.contents("b") == ()


# --- exports --------------------------------------------------------------------------------------


def test_an_export_is_approved_by_somebody_else_in_time_and_used_once(
    two: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    of, book = two.record.settings_of("b"), two.record.standing
    early, _ = two.keys.create("admin", actor="t")
    time.sleep(1.1)
    asked = book.request_export(of, actor="cli")
    late, _ = two.keys.create("admin", actor="t")
    with pytest.raises(NothingToApprove):
        book.take_export(of, asked.export_id, actor="cli")
    for actor in ("cli", late.key_id, "k_none"):  # himself, a key made for it, nobody
        with pytest.raises(OwnProposal):
            book.approve_export(of, asked.export_id, actor=actor)
    two.record.create_bank("other", actor="t", two_persons=True)
    with pytest.raises(NothingToApprove):
        book.approve_export(two.record.settings_of("other"), asked.export_id, actor=early.key_id)
    book.approve_export(of, asked.export_id, actor=early.key_id)
    assert [one.approved_by for one in book.exports(of)] == [early.key_id]
    assert book.take_export(of, asked.export_id, actor="cli").approved_by == early.key_id
    with pytest.raises(NothingToApprove):
        book.take_export(of, asked.export_id, actor="cli")
    monkeypatch.setattr(standing, "EXPORT_S", -1.0)
    old = book.request_export(of, actor="cli")
    with pytest.raises(NothingToApprove):
        book.approve_export(of, old.export_id, actor=early.key_id)
    assert book.exports(of) == ()


# --- over HTTP, and by the command ----------------------------------------------------------------


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with Local(tmp_path_factory.mktemp("standing") / "home") as local:
        yield local


def signals(number: int) -> dict[str, Any]:
    return {"signals": [{"signal_type": "pdq", "hash": bytes(CODES[number]).hex()}]}


def test_over_http(house: Local) -> None:
    admin, enroller, reviewer = house.api(), house.api("enroll"), house.api("review")
    bank = admin.bank()
    path = f"/v1/banks/{bank}"
    assert admin.call("PATCH", path, {"two_persons": True}).json["two_persons"] is True
    assert admin.call("PATCH", path, {"two_persons": False}).is_problem(409, "not_approved")
    assert admin.call("PUT", path, {"two_persons": False}).is_problem(409, "not_approved")
    made = enroller.post(f"{path}/contents", signals(0) | {"source": "ngo"}).json
    assert made["proposed"] is True
    asked = f"/v1/check/hashes?bank={bank}"
    assert admin.post(asked, signals(0)).json["verdict"] == "no_match"
    shown = reviewer.get(f"{path}/contents/{made['content_id']}").json
    assert (shown["source"], shown["approved_by"], shown["enabled"]) == ("ngo", None, False)
    assert enroller.call("PATCH", f"{path}/contents/{made['content_id']}", {"enabled": True}).status == 409
    waiting = reviewer.get(f"{path}/approvals").json
    assert waiting["contents"] == [{"proposed_by": shown["proposed_by"], "source": "ngo", "contents": 1}]
    body = {"content_ids": [made["content_id"]]}
    assert enroller.post(f"{path}/approvals", body).is_problem(403, "forbidden")
    assert reviewer.post(f"{path}/approvals", {"source": "none"}).is_problem(404, "nothing_to_approve")
    assert reviewer.post(f"{path}/approvals", body | {"source": "ngo"}).is_problem(422, "invalid_request")
    assert reviewer.post(f"{path}/approvals", body).json == {"approved": 1}
    assert admin.post(asked, signals(0)).json["verdict"] == "match"
    own = admin.post(f"{path}/contents", signals(1)).json["content_id"]
    assert admin.post(f"{path}/approvals", {"content_ids": [own]}).is_problem(403, "own_proposal")
    assert reviewer.post(f"{path}/approvals", {"export_id": "e_x"}).is_problem(403, "forbidden")
    assert admin.post(f"{path}/approvals", {"export_id": "e_x"}).is_problem(404, "nothing_to_approve")


def test_a_source_is_switched_over_http_and_by_the_command(house: Local, photo_jpeg: bytes) -> None:
    admin = house.api()
    bank = admin.bank()
    assert admin.post(f"/v1/banks/{bank}/contents?source=feed", photo_jpeg).status == 201
    assert (
        admin.post_form(f"/v1/banks/{bank}/contents", ("source", "feed2", None), ("media", photo_jpeg, "x")).json[
            "created"
        ]
        is False
    )
    assert admin.post(f"/v1/banks/{bank}/contents?source=a%20b", photo_jpeg + b"x").is_problem(422, "invalid_source")
    asked = f"/v1/check?bank={bank}"
    assert admin.post(asked, photo_jpeg).json["verdict"] == "match"
    off = admin.call("PUT", "/v1/sources/feed", {"enabled": False})
    assert (off.status, off.json["enabled"], off.json["contents"]) == (200, False, 1)
    assert admin.post(asked, photo_jpeg).json["verdict"] == "no_match"
    assert "feed" in [one["source"] for one in house.api("review").get("/v1/sources").json["sources"]]
    done = staydown(house.home, "source", "set", "feed", "--enabled", "--json")
    assert json.loads(done.stdout)["enabled"] is True, done.stderr
    wait_until(lambda: admin.post(asked, photo_jpeg).json["verdict"] == "match", 5)
    tenant = Api(house.port, house.engine.keys.create("admin", tenant="t9", actor="t")[1])
    assert tenant.get("/v1/sources").json == {"sources": []}
    assert tenant.call("PUT", "/v1/sources/feed", {"enabled": False}).json["contents"] == 0
    assert admin.post(asked, photo_jpeg).json["verdict"] == "match"
    limited = Api(house.port, house.engine.keys.create("admin", banks=[bank], actor="t")[1])
    assert limited.call("PUT", "/v1/sources/feed", {"enabled": False}).is_problem(403, "forbidden")


def test_an_export_by_two_is_signed_and_stands_in_the_log(house: Local, tmp_path: Path) -> None:
    home, admin = house.home, house.api()
    approver = Api(house.port, make_key(home, "admin"))
    bank, file = admin.bank(), tmp_path / "out.csv"
    admin.post(f"/v1/banks/{bank}/contents", signals(5))
    admin.call("PATCH", f"/v1/banks/{bank}", {"two_persons": True})
    time.sleep(1.1)
    words = ("export", "csv", file, "--bank", bank, "--json")
    refused = staydown(home, *words)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"not_approved" in refused.stderr
    (asked,) = admin.get(f"/v1/banks/{bank}/approvals").json["exports"]
    export_id = asked["export_id"]
    assert export_id.encode() in refused.stderr
    assert staydown(home, *words, "--approval", export_id).returncode == 2
    assert not file.exists()
    assert approver.post(f"/v1/banks/{bank}/approvals", {"export_id": export_id}).json == {"approved": 1}
    done = staydown(home, *words, "--approval", export_id)
    assert json.loads(done.stdout) == {"hashes": 1}, done.stderr
    assert staydown(home, "export", "csv", tmp_path / "b", "--bank", bank, "--approval", export_id).returncode == 2
    said = check_list(file, str(house.engine.signer.public_key()))
    assert (said["bank"], said["hashes"], said["export_id"], said["requested_by"]) == (bank, 1, export_id, "cli")
    entries = admin.get("/v1/audit").json["entries"]
    actions = [e["action"] for e in entries if e["detail"].get("bank") == bank or e["target"] == bank]
    assert [one for one in actions if "export" in one] == [
        "export.request", "export.approve", "export.use", "bank.export",
    ]  # fmt: skip
    assert bytes(CODES[5]).hex() not in json.dumps(entries)


def test_a_signed_list_is_taken_as_it_was_signed_and_no_other(house: Local, tmp_path: Path) -> None:
    home, admin = house.home, house.api()
    bank, file = admin.bank(), tmp_path / "list.csv"
    admin.post(f"/v1/banks/{bank}/contents", signals(6))
    assert staydown(home, "export", "csv", file, "--bank", bank).returncode == 0
    assert signature_of(file).stat().st_mode & 0o777 == 0o600
    key, other = str(house.engine.signer.public_key()), admin.bank()
    words = ("import", "csv", file, "--bank", other, "--source", "ours", "--json", "--signed-by")
    assert json.loads(staydown(home, *words, key).stdout)["new"] == 1
    strange = Signer(tmp_path / "strange.key")
    strange.signed({})
    for wrong in (str(strange.public_key()), "00", "zz"):
        assert b"not_signed" in staydown(home, *words, wrong).stderr
    file.write_text(file.read_text().replace("pdq", "pdq "))
    assert b"not_signed" in staydown(home, *words, key).stderr
    signature_of(file).unlink()
    with pytest.raises(NotSigned):
        check_list(file, key)


def test_the_operator_approves_what_keys_proposed(house: Local) -> None:
    admin = house.api()
    bank = admin.bank()
    admin.call("PATCH", f"/v1/banks/{bank}", {"two_persons": True})
    name = admin.post(f"/v1/banks/{bank}/contents", signals(7)).json["content_id"]
    assert json.loads(staydown(house.home, "approve", bank, name, "--json").stdout) == {"approved": 1}
    assert b"nothing_to_approve" in staydown(house.home, "approve", bank, name).stderr
    assert staydown(house.home, "approve", bank).returncode == 2
    assert admin.post(f"/v1/check/hashes?bank={bank}", signals(7)).json["verdict"] == "match"
    done = staydown(house.home, "bank", "set", bank, "--one-person", "--json")
    assert json.loads(done.stdout)["two_persons"] is False, done.stderr
