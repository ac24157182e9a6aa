"""Banks: what they are called, what they are set to."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shelf import Shelf, codes, still

from hashing.signals import SignalType
from indexer.banks import _BANK_NAME
from indexer.errors import BankExists, InvalidBank, UnknownBank


def test_a_bank_has_the_settings_it_was_given(shelf: Shelf) -> None:
    made = shelf.record.create_bank(
        "x.Y-1_", actor="t", description="d", enabled=False, policy="strict", signal_types=[SignalType.PHASH]
    )
    assert made == shelf.record.bank("x.Y-1_")
    assert (made.description, made.enabled, made.policy) == ("d", False, "strict")
    assert made.signal_types == (SignalType.PHASH,)
    usual = shelf.record.bank("b")
    assert (usual.description, usual.enabled, usual.policy) == ("", True, "default")
    assert usual.signal_types == (SignalType.SHA256, SignalType.MD5, SignalType.PDQ, SignalType.KEYPOINTS)
    assert [bank.name for bank in shelf.record.banks()] == ["b", "x.Y-1_"]
    assert [bank.name for bank in shelf.record.enabled_banks()] == ["b"]
    assert shelf.record.bank_names() == {"b", "x.Y-1_"}


def test_settings_change_one_by_one(shelf: Shelf) -> None:
    before = shelf.store.revision()
    shelf.record.set_bank("b", actor="t", policy="review-only")
    shelf.record.set_bank("b", actor="t", signal_types=(SignalType.MD5,))
    after = shelf.record.set_bank("b", actor="t", enabled=False)
    assert (after.policy, after.signal_types, after.enabled) == ("review-only", (SignalType.MD5,), False)
    assert shelf.store.revision() == before + 3
    assert shelf.record.set_bank("b", actor="t") == after
    assert shelf.store.revision() == before + 3, "nothing was asked for"


def test_a_lawful_bank_says_which_banks_it_speaks_for(shelf: Shelf) -> None:
    usual = shelf.record.bank("b")
    assert (usual.lawful, usual.suppresses) == (False, None)
    made = shelf.record.create_bank("known", actor="t", lawful=True, suppresses=["b"])
    assert (made.lawful, made.suppresses) == (True, ("b",))
    assert shelf.record.set_bank("known", actor="t", suppresses=None).suppresses is None
    assert shelf.record.set_bank("known", actor="t", lawful=False).lawful is False
    assert [bank.suppresses for bank in shelf.record.enabled_banks()] == [None, None]


@pytest.mark.parametrize("names", [[], ["c"], ["b", "c"]])
def test_a_scope_of_banks_that_there_are_not_is_refused(shelf: Shelf, names: list[str]) -> None:
    before = shelf.store.revision()
    with pytest.raises(InvalidBank):
        shelf.record.create_bank("known", actor="t", lawful=True, suppresses=names)
    with pytest.raises(InvalidBank):
        shelf.record.set_bank("b", actor="t", suppresses=names)
    assert shelf.record.bank_names() == {"b"}
    assert shelf.store.revision() == before


@pytest.mark.parametrize("name", ["", " ", "a b", "a/b", "../x", ".x", "-x", "x" * 129, "ä", "x\n", "x\0", "\n"])
def test_a_name_that_could_not_be_a_path_or_an_option_is_refused(shelf: Shelf, name: str) -> None:
    with pytest.raises(InvalidBank):
        shelf.record.create_bank(name, actor="t")
    assert shelf.record.bank_names() == {"b"}


@given(st.text(max_size=140))
def test_names_are_plain(name: str) -> None:
    plain = 1 <= len(name) <= 128 and all(sign.isascii() and (sign.isalnum() or sign in "_.-") for sign in name)
    assert bool(_BANK_NAME.match(name)) is (plain and name[0] not in ".-")


@pytest.mark.parametrize("settings", [
    {"policy": "lenient"}, {"signal_types": []}, {"signal_types": ["crc32"]}, {"created_at": "now"}, {"bank_pk": 7},
])  # fmt: skip
def test_settings_by_which_a_bank_could_not_answer_are_refused(shelf: Shelf, settings: dict[str, object]) -> None:
    before = shelf.record.bank("b")
    with pytest.raises(InvalidBank):
        shelf.record.create_bank("new", actor="t", **settings)
    with pytest.raises(InvalidBank):
        shelf.record.set_bank("b", actor="t", **settings)
    assert shelf.record.banks() == (before,)


def test_a_name_is_given_once(shelf: Shelf) -> None:
    before = shelf.store.revision()
    with pytest.raises(BankExists):
        shelf.record.create_bank("b", actor="t")
    assert shelf.store.revision() == before


def test_a_name_is_given_once_among_threads(shelf: Shelf) -> None:
    outcomes: list[str] = []

    def work() -> None:
        try:
            shelf.record.create_bank("new", actor="t")
            outcomes.append("made")
        except BankExists as error:
            outcomes.append(error.word)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["bank_exists"] * 7 + ["made"]


def test_unknown_banks_are_unknown(shelf: Shelf) -> None:
    before = shelf.store.revision()
    for act in (
        lambda: shelf.record.bank("none"),
        lambda: shelf.record.settings_of("none"),
        lambda: shelf.record.set_bank("none", actor="t", enabled=True),
        lambda: shelf.record.set_bank("none", actor="t"),
        lambda: shelf.record.delete_bank("none", actor="t"),
        lambda: shelf.record.contents("none"),
        lambda: shelf.record.content("none", "c"),
        lambda: shelf.enroll(still(codes(1, 1)[0]), "none"),
    ):
        with pytest.raises(UnknownBank):
            act()
    assert shelf.store.revision() == before


def test_contents_are_counted_without_those_withdrawn(shelf: Shelf) -> None:
    first, *_ = shelf.enroll_all([still(code) for code in codes(1, 3)])
    assert (shelf.record.bank("b").contents, shelf.record.banks()[0].contents) == (3, 3)
    shelf.withdraw(first)
    assert (shelf.record.bank("b").contents, shelf.record.banks()[0].contents) == (2, 2)


def test_a_deleted_bank_is_gone_with_all_its_hashes(shelf: Shelf) -> None:
    code = codes(2, 1)[0]
    shelf.enroll(still(code))
    shelf.record.create_bank("other", actor="t")
    kept = shelf.enroll(still(code), "other")
    shelf.record.delete_bank("b", actor="t")
    assert shelf.found(still(code)) == [kept.content_id]
    assert shelf.record.counts() == (1, 1)
    shelf.record.create_bank("b", actor="t")
    assert shelf.found(still(code), "b") == []
    assert [entry.detail for entry, _ in shelf.ledger.entries() if entry.action == "bank.delete"] == [{"contents": 1}]


def test_a_bank_that_is_deleted_while_others_enroll_is_unknown_to_them(shelf: Shelf) -> None:
    """Never a broken foreign key: the bank is looked up within the change."""
    outcomes: list[str] = []

    def work(start: int) -> None:
        for number in range(start, start + 15):
            try:
                shelf.enroll(still(codes(number, 1)[0]))
            except UnknownBank as error:
                outcomes.append(error.word)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        shelf.record.delete_bank("b", actor="t")
        shelf.record.create_bank("b", actor="t")
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {"unknown_bank"}
    assert shelf.ledger.verify()[1] is None
