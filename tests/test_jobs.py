"""Rescans over HTTP: nothing is lost by a restart, and what was asked is forgotten once it is answered."""

import threading
from typing import Any

from shelf import Shelf, opened

from indexer.jobs import Jobs

CODE = "abcdef0123456789" * 4


def requests(count: int) -> list[dict[str, Any]]:
    return [{"id": f"item {n}", "signals": [{"signal_type": "pdq", "hash": CODE}]} for n in range(count)]


def result(verdict: str) -> dict[str, Any]:
    return {"verdict": verdict, "reason": None, "matches": []}


def test_items_are_worked_off_in_order_and_results_come_in_pages(shelf: Shelf) -> None:
    first = shelf.jobs.submit(requests(5), ["b"], key_id="k")
    second = shelf.jobs.submit(requests(2), None, key_id="other")
    asked = shelf.jobs.pending(100)
    assert {item.rescan_id for item in asked} == {first, second}
    assert [item.number for item in asked if item.rescan_id == first] == [0, 1, 2, 3, 4]
    assert {tuple(item.banks or ()) for item in asked} == {("b",), ()}
    assert [item.banks for item in asked if item.rescan_id == second] == [None, None]
    assert len(shelf.jobs.pending(3)) == 3
    mine = [item for item in asked if item.rescan_id == first]
    for item, verdict in zip(mine[1:], ("match", "no_match", "no_match", "unhashable"), strict=True):
        shelf.jobs.finish(item, result(verdict))
    found = shelf.jobs.find(first)
    assert found is not None
    assert (found.total, found.done, found.key_id, found.banks) == (5, 4, "k", ["b"])
    assert found.verdicts == {"match": 1, "no_match": 2, "unhashable": 1}
    page = shelf.jobs.results(first, after=-1, limit=3)
    assert [item.number for item in page] == [1, 2, 3]
    assert [item.result for item in page] == [result(verdict) for verdict in ("match", "no_match", "no_match")]
    assert [item.number for item in shelf.jobs.results(first, after=3, limit=3)] == [4]
    assert shelf.jobs.results(first, after=4, limit=3) == []
    assert shelf.jobs.results(second, after=-1, limit=3) == []
    assert {(item.rescan_id, item.number) for item in shelf.jobs.pending(9)} == {(first, 0), (second, 0), (second, 1)}


def test_what_was_asked_is_forgotten_once_it_is_answered(embedded: Shelf) -> None:
    rescan_id = embedded.jobs.submit(requests(1), None, key_id="k")
    item = embedded.jobs.pending(1)[0]
    assert item.request["signals"][0]["hash"] == CODE
    embedded.jobs.finish(item, result("no_match"))
    assert embedded.jobs.results(rescan_id, after=-1, limit=1)[0].request == {"id": "item 0"}
    embedded.store.close()
    data = b"".join(file.read_bytes() for file in embedded.path.parent.glob("staydown.db*"))
    assert CODE.encode() not in data
    assert b"item 0" in data


def test_the_first_result_stays(shelf: Shelf) -> None:
    rescan_id = shelf.jobs.submit(requests(1), None, key_id="k")
    item = shelf.jobs.pending(1)[0]
    threads = [
        threading.Thread(target=shelf.jobs.finish, args=(item, result(verdict)))
        for verdict in ("match", "no_match") * 3
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = shelf.jobs.results(rescan_id, after=-1, limit=5)
    assert len(kept) == 1
    shelf.jobs.finish(item, result("review"))
    assert shelf.jobs.results(rescan_id, after=-1, limit=5) == kept


def test_a_restart_goes_on(shelf: Shelf) -> None:
    rescan_id = shelf.jobs.submit(requests(4), None, key_id="k")
    shelf.jobs.finish(shelf.jobs.pending(1)[0], result("match"))
    with opened(shelf.url) as later:
        jobs = Jobs(later.store)
        assert [item.number for item in jobs.pending(10)] == [1, 2, 3]
        for item in jobs.pending(10):
            jobs.finish(item, result("no_match"))
        assert jobs.pending(10) == []
    found = shelf.jobs.find(rescan_id)
    assert found is not None
    assert found.done == found.total == 4


def test_unknown_and_empty_rescans(shelf: Shelf) -> None:
    assert shelf.jobs.find("r_0") is None
    assert shelf.jobs.results("r_0", after=-1, limit=5) == []
    assert shelf.jobs.pending(5) == []
    empty = shelf.jobs.find(shelf.jobs.submit([], None, key_id="k"))
    assert empty is not None
    assert (empty.total, empty.done, empty.verdicts) == (0, 0, {})
