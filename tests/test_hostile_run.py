"""Hostile files through the caged, running service, in short; the long form is `python -m benchmarks.hostile`."""

from pathlib import Path

from benchmarks import hostile
from benchmarks.hostile import Report, enroll, run
from benchmarks.server import serving, staydown
from hashing import cage

ITEMS = 300


def test_hostile_files_neither_stop_the_service_nor_its_good_answers(tmp_path: Path) -> None:
    sandbox = "required" if cage.landlock_abi() else "available"
    with serving(tmp_path, workers="1", sandbox=sandbox, check_timeout_s=str(hostile.TIMEOUT_S)) as server:
        key = str(staydown(tmp_path, "key", "create", "--role", "admin")[0]["key"])
        with server.client(key) as client:
            enroll(client)
        report = run(server, key, ITEMS, 7, 2)
        assert hostile.memory_mb(server.pid) > 100
    assert report.holds(steady=False), report.text()
    assert report.good == ITEMS // 10
    assert sum(report.answers.values()) == ITEMS + ITEMS // 10
    assert {"422 corrupt_media", "200 unhashable truncated", "200 no_match"} <= set(report.answers)


def test_files_are_the_same_again_and_differ_from_one_another() -> None:
    made = [hostile.hostile(3, number) for number in range(120)]
    assert made == [hostile.hostile(3, number) for number in range(120)]
    assert len(set(made)) > 115
    assert made[96] in hostile._bombs()
    assert hostile.hostile(4, 5) != made[5]


def test_a_report_owns_up_to_what_went_wrong() -> None:
    """The control: each thing that must not be makes the run fail."""
    for status, said, took_s, expected in (
        (500, {"code": "internal"}, 0.1, None), (0, {"code": "no answer"}, 0.1, None),
        (200, {"verdict": "match"}, 99.0, None),
        (200, {"verdict": "no_match"}, 0.1, "match"),
    ):  # fmt: skip
        report = Report()
        report.take(200, {"verdict": "match"}, 0.1, "match")
        assert report.holds(steady=True)
        report.take(status, said, took_s, expected)
        assert not report.holds(steady=True)
    assert not Report().holds(steady=False), "a run without good ones shows nothing"


def test_memory_that_grows_is_seen() -> None:
    report = Report()
    report.take(200, {"verdict": "match"}, 0.1, "match")
    report.memory_mb = [500.0] * 50
    assert report.holds(steady=True)
    report.memory_mb = [500.0 + number for number in range(50)]
    assert not report.holds(steady=True)
    assert "last fifth" in report.text()


def test_lost_workers_are_counted() -> None:
    report = Report()
    report.take(200, {"verdict": "unhashable", "reason": "decoder_crashed"}, 0.1, None, 17)
    report.take(200, {"verdict": "unhashable", "reason": "truncated"}, 0.1, None)
    assert report.lost_over == [17]
