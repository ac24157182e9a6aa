"""Keys of which only a digest is kept, bound to a pepper; whose they are, for what, from where, until when."""

import hashlib
import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelf import PEPPER, Shelf, opened

from indexer.banks import Reach
from indexer.keys import InvalidKey, Key, Keys, UnknownKey


def test_a_key_is_shown_once_and_only_its_digest_is_kept(embedded: Shelf) -> None:
    key, text = embedded.keys.create("check", name="partner", actor="t")
    assert (key.role, key.name, key.revoked_at) == ("check", "partner", None)
    assert embedded.keys.authenticate(text) == key
    assert embedded.keys.all() == (key,)
    embedded.store.close()
    secret = text.split("_", 2)[2].encode()
    data = b"".join(file.read_bytes() for file in embedded.path.parent.glob("staydown.db*"))
    assert embedded.keys.digest(text) in data
    assert secret not in data
    assert text.encode() not in data


def test_keys_are_long_and_all_different(shelf: Shelf) -> None:
    made = [shelf.keys.create("check", actor="t") for _ in range(30)]
    assert len({text for _, text in made}) == len({key.key_id for key, _ in made}) == 30
    assert all(len(text.split("_", 2)[2]) >= 43 for _, text in made)
    assert shelf.keys.count() == 30


def test_a_text_that_is_no_key_opens_nothing(shelf: Shelf) -> None:
    key, text = shelf.keys.create("admin", actor="t")
    _, other = shelf.keys.create("check", actor="t")
    parts = text.split("_", 2)
    swapped = "_".join([*parts[:2], other.split("_", 2)[2]])
    wrong = [
        "", "sd", "sd_", "__", "sd__", f"sd_{parts[1]}_", f"sd_{parts[1]}", f"xx_{parts[1]}_{parts[2]}", swapped,
        text[:-1], text + "x", text + "\n", text.upper(), " " + text, key.key_id, "sd_%_x", "sd_' OR 1=1 --_x", "ä_ö_ü",
    ]  # fmt: skip
    assert [candidate for candidate in wrong if shelf.keys.authenticate(candidate)] == []
    for place in range(len(text)):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        assert shelf.keys.authenticate(changed) is None


@given(st.text(max_size=60))
def test_no_text_is_an_error(book: Shelf, text: str) -> None:
    assert book.keys.authenticate(text) is None


def test_a_revoked_key_opens_nothing_at_once_and_for_good(shelf: Shelf) -> None:
    key, text = shelf.keys.create("check", actor="t")
    kept, other = shelf.keys.create("check", actor="t")
    with opened(shelf.url) as elsewhere:
        elsewhere.keys.revoke(key.key_id, actor="t")
    assert shelf.keys.authenticate(text) is None
    assert shelf.keys.authenticate(other) == kept
    assert shelf.keys.count() == 1
    all_keys = shelf.keys.all()
    assert {found.key_id for found in all_keys if found.revoked_at is not None} == {key.key_id}
    assert {found.key_id for found in all_keys} == {key.key_id, kept.key_id}
    for unknown in ("k_0", "", key.key_id.upper()):
        with pytest.raises(UnknownKey) as caught:
            shelf.keys.revoke(unknown, actor="t")
        assert caught.value.word == "unknown_key"


def test_the_first_key_is_made_once(shelf: Shelf) -> None:
    text = shelf.keys.create_first("admin")
    assert text is not None
    key = shelf.keys.authenticate(text)
    assert key is not None
    assert key.role == "admin"
    assert shelf.keys.create_first("admin") is None
    shelf.keys.revoke(key.key_id, actor="t")
    assert shelf.keys.create_first("admin") is None, "a revoked key was a key"


def test_keys_and_answers_do_not_count_as_changes(shelf: Shelf) -> None:
    before = shelf.store.revision()
    key, _ = shelf.keys.create("check", actor="t")
    shelf.keys.revoke(key.key_id, actor="t")
    shelf.ledger.remember(key.key_id, "i", b"d", {})
    assert shelf.store.revision() == before


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    with opened(tmp_path_factory.mktemp("keys") / "x.db") as shelf:
        shelf.keys.create("check", actor="t")
        yield shelf


# --- until when ---------------------------------------------------------------------------


def test_a_key_expires(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    key, text = shelf.keys.create("check", expires_s=3600, actor="t")
    assert shelf.keys.authenticate(text) == key
    monkeypatch.setattr("indexer.keys.now", lambda: "2999-01-01T00:00:00+00:00")
    assert shelf.keys.authenticate(text) is None
    assert shelf.keys.count() == 0
    with pytest.raises(UnknownKey):
        shelf.keys.rotate(key.key_id, actor="t")


def test_a_key_that_expires_at_once_never_opens_anything(shelf: Shelf) -> None:
    assert shelf.keys.authenticate(shelf.keys.create("check", expires_s=0, actor="t")[1]) is None


def test_a_rotated_key_has_a_new_secret_and_all_else_stays(shelf: Shelf) -> None:
    key, old = shelf.keys.create("enroll", name="n", tenant="a", banks=["b"], networks=["10.0.0.0/8"], actor="t")
    same, new = shelf.keys.rotate(key.key_id, actor="t")
    assert same == key
    assert shelf.keys.authenticate(new) == key
    assert shelf.keys.authenticate(old) is None


def test_both_secrets_are_taken_while_they_overlap(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    key, first = shelf.keys.create("check", actor="t")
    _, second = shelf.keys.rotate(key.key_id, overlap_s=3600, actor="t")
    for text in (first, second):
        found = shelf.keys.authenticate(text)
        assert found is not None
        assert found.key_id == key.key_id
    _, third = shelf.keys.rotate(key.key_id, overlap_s=3600, actor="t")
    assert [shelf.keys.authenticate(text) is not None for text in (first, second, third)] == [False, True, True]
    monkeypatch.setattr("indexer.keys.now", lambda: "2999-01-01T00:00:00+00:00")
    assert [shelf.keys.authenticate(text) is not None for text in (first, second, third)] == [False, False, True]
    shelf.keys.revoke(key.key_id, actor="t")
    assert shelf.keys.authenticate(third) is None


def test_a_revoked_key_has_no_valid_secret_in_the_overlap_either(shelf: Shelf) -> None:
    key, first = shelf.keys.create("check", actor="t")
    _, second = shelf.keys.rotate(key.key_id, overlap_s=3600, actor="t")
    shelf.keys.revoke(key.key_id, actor="t")
    assert shelf.keys.authenticate(first) is None
    assert shelf.keys.authenticate(second) is None
    with pytest.raises(UnknownKey):
        shelf.keys.rotate(key.key_id, actor="t")


# --- the pepper -----------------------------------------------------------------------------


def test_a_digest_says_nothing_without_the_pepper(shelf: Shelf) -> None:
    _, text = shelf.keys.create("check", actor="t")
    digests = {Keys(shelf.store, pepper).digest(text) for pepper in (None, PEPPER, b"another pepper, 32 bytes long...")}
    assert len(digests) == 3
    assert hashlib.sha256(text.encode()).digest() in digests


def test_who_writes_the_database_cannot_make_a_key(embedded: Shelf) -> None:
    key, text = embedded.keys.create("check", actor="t")
    forged = f"sd_{key.key_id[2:]}_forged"
    connection = sqlite3.connect(embedded.path, isolation_level=None)
    plain = hashlib.sha256(forged.encode()).digest()
    for pepper_id in (None, "", connection.execute("SELECT pepper_id FROM api_key").fetchone()[0]):
        connection.execute("UPDATE api_key SET digest = ?, pepper_id = ?", (plain, pepper_id))
        assert embedded.keys.authenticate(forged) is None
        assert embedded.keys.authenticate(text) is None
    connection.close()
    assert Keys(embedded.store).authenticate(forged) is None


def test_keys_of_before_the_pepper_go_on_working_once_they_are_bound(shelf: Shelf) -> None:
    before, after = Keys(shelf.store), Keys(shelf.store, PEPPER)
    made = [before.create("check", actor="t") for _ in range(3)]
    assert [before.authenticate(text) for _, text in made] == [key for key, _ in made]
    assert (before.unbound(), after.unbound(), after.foreign()) == (0, 3, 0)
    assert [after.authenticate(text) for _, text in made] == [None] * 3
    assert after.bind(actor="t") == 3
    assert [after.authenticate(text) for _, text in made] == [key for key, _ in made]
    assert (after.unbound(), after.bind(actor="t"), before.foreign()) == (0, 0, 3)
    assert before.authenticate(made[0][1]) is None, "a process without the pepper knows it no more"
    assert [entry.action for entry, _ in shelf.ledger.entries()][-1] == "key.bind"


def test_a_key_of_another_pepper_opens_nothing_and_is_counted(shelf: Shelf) -> None:
    key, text = shelf.keys.create("check", actor="t")
    other = Keys(shelf.store, b"another pepper, 32 bytes long...")
    assert (other.authenticate(text), other.foreign(), other.bind(actor="t")) == (None, 1, 0)
    _, new = other.rotate(key.key_id, overlap_s=3600, actor="t")
    assert other.authenticate(new) is not None
    assert other.authenticate(text) is None, "its digest cannot be read by this pepper"


def test_an_unbound_key_that_is_rotated_keeps_its_old_secret_for_the_overlap(shelf: Shelf) -> None:
    key, old = Keys(shelf.store).create("check", actor="t")
    _, new = shelf.keys.rotate(key.key_id, overlap_s=3600, actor="t")
    assert shelf.keys.authenticate(old) is not None
    assert shelf.keys.authenticate(new) is not None


# --- whose and for what ---------------------------------------------------------------------


def test_a_key_reaches_the_banks_of_its_tenant_or_those_it_is_limited_to(shelf: Shelf) -> None:
    shelf.record.create_bank("theirs", tenant="other", actor="t")
    ours, theirs = shelf.record.bank("b"), shelf.record.bank("theirs")
    assert (ours.tenant, theirs.tenant) == ("default", "other")
    for limits, reached in (
        ({}, {"b"}), ({"tenant": "other"}, {"theirs"}), ({"tenant": "third"}, set()),
        ({"banks": ["theirs"]}, {"theirs"}),
        ({"banks": ["b", "theirs"], "tenant": "third"}, {"b", "theirs"}), ({"banks": []}, set()),
    ):  # fmt: skip
        key, text = shelf.keys.create("check", actor="t", **limits)
        found = shelf.keys.authenticate(text)
        assert found == key
        assert shelf.record.bank_names(found.reach) == reached, limits
        assert shelf.keys.reach_of(key.key_id) == key.reach
    assert shelf.record.bank_names() == {"b", "theirs"}
    assert shelf.keys.reach_of("k_none") == Reach(names=frozenset())


@pytest.mark.parametrize("tenant", ["", " ", "a b", "a/b", "-a", "a" * 65, "ä", "a\n"])
def test_a_tenant_has_a_plain_name(shelf: Shelf, tenant: str) -> None:
    with pytest.raises(InvalidKey):
        shelf.keys.create("check", tenant=tenant, actor="t")


def test_an_older_store_has_one_tenant_and_its_keys_go_on_working(embedded: Shelf) -> None:
    key = Key("k_1", "check", "", "2026-01-01", None)
    assert (key.tenant, key.banks, key.networks, key.expires_at) == ("default", None, None, None)
    assert embedded.record.bank("b").tenant == key.tenant


# --- what tenants use -----------------------------------------------------------------------


def test_use_is_summed_over_processes_and_days_that_are_over_go(shelf: Shelf) -> None:
    with opened(shelf.url) as elsewhere:
        assert shelf.keys.add_use("2026-01-01", {"a": 3, "b": 1}) == {"a": 3, "b": 1}
        assert elsewhere.keys.add_use("2026-01-01", {"a": 4}) == {"a": 7, "b": 1}
        assert shelf.keys.add_use("2026-01-01", {}) == {"a": 7, "b": 1}
        assert shelf.keys.add_use("2026-01-02", {"b": 5}) == {"b": 5}
        assert elsewhere.keys.add_use("2026-01-02", {}) == {"b": 5}
