"""Deepfakes and their base footage on the running program: HTTP, command line, video, many pictures."""

import hashlib
import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import Api, Local, staydown

from benchmarks import corpus
from benchmarks.robustness.clips_base import Take, as_mp4
from benchmarks.robustness.edits import apply
from benchmarks.robustness.edits_base import encode
from benchmarks.robustness.scores import Rate
from benchmarks.robustness.swapping import SHARES, region, swapped
from benchmarks.robustness.swaps import Case, swapped_take, table
from service.engine import Engine
from service.settings import Settings

EDITS = ("jpeg_q50", "crop_edge_5", "mirror", "screenshot_light", "rot_2_crop")


@lru_cache
def original(seed: int = 511) -> corpus.Picture:
    return corpus.picture(seed)


@lru_cache
def swap(seed: int = 511, share: float = 0.06) -> corpus.Picture:
    return swapped(original(seed), original(seed + 1), share)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(Settings(home=tmp_path / "home", workers=1)) as made:
        made.load_index()
        made.record.create_bank("b", actor="t")
        yield made


# --- what a swap is -------------------------------------------------------------------------


@pytest.mark.parametrize("share", SHARES)
def test_a_swap_replaces_its_share_and_nothing_else(share: float) -> None:
    left, top, width, height = region(original(), share)
    changed = (original() != swap(511, share)).any(axis=2)
    inside = np.zeros_like(changed)
    inside[top : top + height, left : left + width] = True
    assert not changed[~inside].any()
    assert 0.7 * share < changed.mean() < 1.3 * share
    assert left >= 0 and left + width <= changed.shape[1]
    assert top >= 0 and top + height <= changed.shape[0]


def test_the_table_counts_what_was_said() -> None:
    cases = [Case(0.03, "e", True, "match", ""), Case(0.03, "e", True, "review", ""),
             Case(0.03, "e", False, "no_match", ""), Case(0.03, "e", False, "match", "")]  # fmt: skip
    rows = [line.split("|")[2:-1] for line in table(cases).splitlines() if "**all**" in line]
    assert [cell.strip() for cell in rows[0]] == [
        str(Rate(1, 2)),
        str(Rate(2, 2)),
        str(Rate(1, 2)),
        str(Rate(1, 2)),
        "4",
    ]


# --- companions -----------------------------------------------------------------------------


@pytest.mark.slow
def test_swaps_match_and_originals_do_not(engine: Engine) -> None:
    """Every share of the area, every edit: what the benchmark measures, on drawn pictures."""
    said: list[tuple[bool, str, str]] = []
    for number, share in enumerate((*SHARES, *SHARES)):
        seed = 520 + 2 * number
        done = engine.enroll_media("b", encode(swap(seed, share)), None, [], [encode(original(seed))], actor="t")
        for edit in EDITS:
            for is_swap, picture in ((True, swap(seed, share)), (False, original(seed))):
                answer = engine.check_media(apply(edit, picture, number), None)
                said.append((is_swap, answer.verdict.value, edit))
                own = {match.content_id for match in answer.matches} | {s.match.content_id for s in answer.suppressed}
                assert own <= {done.content_id}, "a companion is never told as content"
    swaps = [verdict for is_swap, verdict, _ in said if is_swap]
    originals = [verdict for is_swap, verdict, _ in said if not is_swap]
    assert "match" not in originals
    assert swaps.count("match") >= 0.9 * len(swaps)


def test_the_original_alone_would_match(engine: Engine) -> None:
    engine.enroll_media("b", encode(swap()), None, [], actor="t")
    assert engine.check_media(apply("jpeg_q50", original(), 1), None).verdict.value == "match"


def test_a_crop_of_what_both_share_goes_to_a_person(engine: Engine) -> None:
    left, _, width, _ = region(original(), 0.03)
    middle = original().shape[1] / 2
    part = original()[:, left + width + 12 :] if left + width / 2 < middle else original()[:, : left - 12]
    data = encode(np.ascontiguousarray(part))
    done = engine.enroll_media("b", encode(swap(511, 0.03)), None, [], actor="t")
    assert engine.check_media(data, None).verdict.value == "match"
    again = engine.enroll_media("b", encode(swap(511, 0.03)), None, [], [encode(original())], actor="t")
    assert again.content_id == done.content_id, "a companion can be added later"
    answer = engine.check_media(data, None)
    assert answer.verdict.value == "review"
    told = answer.matches[0].told_apart
    assert told is not None
    assert told.nearer.value == "undecided"


def test_a_lawful_bank_does_without_a_companion(engine: Engine) -> None:
    engine.record.create_bank("known", actor="t", lawful=True)
    engine.enroll_media("b", encode(swap(511, 0.12)), None, [], actor="t")
    engine.enroll_media("known", encode(original()), None, [], actor="t")
    for edit in ("jpeg_q50", "crop_edge_10", "screenshot_light"):
        assert engine.check_media(apply(edit, swap(511, 0.12), 1), None).verdict.value == "match", edit
        answer = engine.check_media(apply(edit, original(), 1), None)
        assert answer.verdict.value == "no_match", edit
        assert {one.by for one in answer.suppressed} <= {"lawful_bank"}, "some do not even resemble it"
    assert engine.check_media(apply("jpeg_q50", original(), 1), None).suppressed


@pytest.mark.slow
def test_clips_are_told_apart_part_by_part(engine: Engine) -> None:
    frames = tuple(corpus.clip_frames(9, duration_s=4.0, fps=10, scenes=2))
    base = Take(frames, 10.0, ())
    fake = swapped_take(base, original(), 0.12)
    engine.enroll_media("b", as_mp4(fake), None, [], [as_mp4(base)], actor="t")
    assert engine.check_media(as_mp4(base, 30), None).verdict.value == "no_match"
    assert engine.check_media(as_mp4(fake, 30), None).verdict.value == "match"
    assert engine.check_media(encode(frames[25]), None).verdict.value != "match"
    assert engine.check_media(encode(fake.frames[25]), None).verdict.value == "match"
    behind = as_mp4(Take(base.frames + fake.frames[-20:], 10.0, ()))
    answer = engine.check_media(behind, None)
    assert answer.verdict.value == "match"
    assert all(part.query_s[1] > 3.5 for part in answer.matches[0].segments)


# --- the doors ------------------------------------------------------------------------------


def posted(api: Api, bank: str, *lawful: corpus.Picture) -> Any:
    parts = [("lawful", encode(picture), "l.jpg") for picture in lawful]
    return api.post_form(f"/v1/banks/{bank}/contents", ("media", encode(swap()), "f.jpg"), *parts)


def test_companions_over_http(local: Local, admin: Api) -> None:
    bank = admin.bank()
    path = f"/v1/banks/{bank}/contents"
    made = posted(admin, bank, original())
    assert made.status == 201, made.body
    content_id, (lawful,) = made.json["content_id"], made.json["companions"]
    shown = admin.get(f"{path}/{content_id}").json
    assert (shown["companions"], shown["lawful_of"]) == ([lawful], None)
    assert admin.get(f"{path}/{lawful}").json["lawful_of"] == content_id
    assert [one["content_id"] for one in admin.get(path).json["contents"]] == [content_id]
    assert admin.get(f"/v1/banks/{bank}").json["contents"] == 1
    assert posted(admin, bank, original()).json["companions"] == [lawful]

    asked = f"/v1/check?bank={bank}"
    found = admin.post(asked, apply("jpeg_q50", swap(), 1)).json
    told = found["matches"][0]["told_apart"]
    assert (found["verdict"], told["nearer"], found["suppressed"]) == ("match", "content", [])
    assert told["cells"] > 0
    assert all(0 <= side <= 1 for side in told["region"])
    answer = admin.post(asked, apply("jpeg_q50", original(), 1)).json
    assert (answer["verdict"], answer["matches"]) == ("no_match", [])
    (suppressed,) = answer["suppressed"]
    assert (suppressed["by"], suppressed["lawful_content_id"]) == ("companion", lawful)
    assert suppressed["content_id"] == content_id

    plain = local.api("check")
    hidden = plain.post(asked, apply("jpeg_q50", original(), 1)).json
    assert (hidden["verdict"], hidden["matches"], hidden["suppressed"]) == ("no_match", [], [])
    assert plain.post(asked, apply("jpeg_q50", swap(), 1)).json["matches"][0]["told_apart"] is None

    assert admin.call("DELETE", f"{path}/{content_id}?reason=r").status == 204
    assert admin.get(f"{path}/{lawful}").json["withdrawn_at"] is not None


def test_companions_as_hashes_over_http(admin: Api) -> None:
    bank = admin.bank()
    code = bytes(range(32))
    near = bytes([code[0] ^ 0xFF, code[1] ^ 0xFF, *code[2:]])
    signals = [{"signal_type": "pdq", "hash": code.hex()}]
    lawful = [{"signals": [{"signal_type": "pdq", "hash": near.hex()}]}]
    made = admin.post(f"/v1/banks/{bank}/contents", {"signals": signals, "lawful": lawful})
    assert (made.status, len(made.json["companions"])) == (201, 1)
    for asked, verdict in ((code, "match"), (near, "no_match")):
        body = {"signals": [{"signal_type": "pdq", "hash": asked.hex()}]}
        assert admin.post(f"/v1/check/hashes?bank={bank}", body).json["verdict"] == verdict


@pytest.mark.parametrize("lawful", [[{}], [{"url": "http://a/", "signals": []}], {"url": "http://a/"}, [{"url": 1}],
                                    [{"signals": [{"signal_type": "pdq", "hash": "00" * 32}]}] * 17])  # fmt: skip
def test_a_companion_that_is_none_is_refused(admin: Api, lawful: Any) -> None:
    body = {"signals": [{"signal_type": "pdq", "hash": "01" * 32}], "lawful": lawful}
    assert admin.post(f"/v1/banks/{admin.bank()}/contents", body).is_problem(422, "invalid_request")


def test_a_companion_that_cannot_be_read_enrolls_nothing(admin: Api) -> None:
    bank = admin.bank()
    path = f"/v1/banks/{bank}/contents"
    bad = admin.post_form(path, ("media", encode(swap()), "f.jpg"), ("lawful", b"no media at all", "l.jpg"))
    assert bad.is_problem(415, "unsupported_media")
    assert posted(admin, bank, swap()).is_problem(422, "invalid_companion")
    assert admin.get(path).json["contents"] == []


def test_another_companion_is_another_request(admin: Api) -> None:
    path, key = f"/v1/banks/{admin.bank()}/contents", hashlib.sha256(b"k").hexdigest()

    def post(lawful: corpus.Picture) -> Any:
        headers = {"Content-Type": "multipart/form-data; boundary=bound", "Idempotency-Key": key}
        parts = [("media", encode(swap())), ("lawful", encode(lawful))]
        body = b"".join(
            f'--bound\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'.encode() + data + b"\r\n"
            for name, data in parts
        )
        return admin.call("POST", path, body + b"--bound--\r\n", headers)

    assert post(original()).status == 201
    assert post(original()).headers["idempotency-replayed"] == "true"
    assert post(original(515)).is_problem(409, "idempotency_conflict")


def test_companions_on_the_command_line(tmp_path: Path) -> None:
    home, names = tmp_path / "home", {"fake.jpg": swap(), "real.jpg": original(), "other.jpg": original(515)}
    for name, picture in names.items():
        (tmp_path / name).write_bytes(encode(picture))
    (tmp_path / "again.jpg").write_bytes(apply("jpeg_q50", original(), 1))
    fake, real = tmp_path / "fake.jpg", tmp_path / "real.jpg"
    first = staydown(home, "enroll", fake, "--bank", "b", "--json")
    done = staydown(home, "enroll", fake, "--bank", "b", "--lawful", real, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["content_id"] == json.loads(first.stdout)["content_id"]
    listed = json.loads(staydown(home, "bank", "contents", "b", "--json").stdout)
    assert listed["companions"] == json.loads(done.stdout)["companions"]
    checked = staydown(home, "check", tmp_path / "again.jpg", fake, "--json")
    verdicts = [json.loads(line)["verdict"] for line in checked.stdout.splitlines()]
    assert (checked.returncode, verdicts) == (1, ["no_match", "match"])
    shown = staydown(home, "check", tmp_path / "again.jpg")
    assert (shown.returncode, b"suppressed by its companion" in shown.stdout) == (0, True)
    two = staydown(home, "enroll", fake, tmp_path / "other.jpg", "--bank", "b", "--lawful", real)
    assert (two.returncode, b"invalid_companion" in two.stderr) == (2, True)
    itself = staydown(home, "enroll", fake, "--bank", "b", "--lawful", fake)
    assert (itself.returncode, b"invalid_companion" in itself.stderr) == (2, True)
