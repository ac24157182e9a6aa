"""The JSON of requests and answers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from hashing.errors import Reason
from hashing.hasher import Plan, hash_media
from hashing.signals import Kind, Media, SignalType, View
from indexer.matcher import Answer, Match
from indexer.policy import Verdict
from service import answers, schemas
from service.errors import InvalidRequest

MEDIA = Media(Kind.IMAGE, "00" * 32, 4, 3, None, 1)


def match(probability: float) -> Match:
    return Match("b", "c_1", Verdict.MATCH, SignalType.PDQ, "mirror", 7, 12, probability)


def answered(*matches: Match) -> Answer:
    return Answer(Verdict.MATCH, None, MEDIA, matches, 3, "default")


@given(st.floats(1e-29, 1.0))
def test_without_evidence_a_probability_is_a_power_of_ten_and_never_smaller(probability: float) -> None:
    shown = answers.verdict_out(answered(match(probability)), "r", evidence=False).matches[0]
    assert (shown.distance_bits, shown.inliers) == (None, None)
    assert shown.false_match_probability >= probability * (1 - 1e-8)
    assert f"{shown.false_match_probability:.0e}".startswith("1e")
    assert float(f"{shown.false_match_probability:.0e}") == pytest.approx(shown.false_match_probability)


def test_two_distances_of_one_tier_look_the_same() -> None:
    near, far = (answers.verdict_out(answered(match(p)), "r", evidence=False) for p in (2e-9, 9e-9))
    assert near == far


def test_a_stored_verdict_hides_the_same() -> None:
    whole = answers.verdict_out(answered(match(3e-9)), "r", evidence=True).model_dump(mode="json")
    hidden = answers.verdict_out(answered(match(3e-9)), "r", evidence=False).model_dump(mode="json")
    assert whole["matches"][0]["distance_bits"] == 7
    assert answers.without_evidence(whole) == hidden
    unjudged = answers.unjudged("r", "truncated", 3)
    assert answers.without_evidence(unjudged) == unjudged


def test_what_could_not_be_judged_has_the_shape_of_a_verdict() -> None:
    said = answers.unjudged("r", Reason.TRUNCATED.value, 3)
    whole = answers.verdict_out(answered(), "r", evidence=True).model_dump(mode="json")
    assert said.keys() == whole.keys()
    assert said["media"].keys() == whole["media"].keys()
    assert (said["verdict"], said["reason"], said["matches"]) == ("unhashable", "truncated", [])


def test_a_hashed_picture_comes_back_as_what_can_be_sent(photo_jpeg: bytes) -> None:
    said = answers.hash_out(hash_media(photo_jpeg, Plan())).model_dump(mode="json")
    for signal in said["signals"]:
        again = schemas.parsed(schemas.SignalIn, signal).ready()
        assert again.code().hex() == signal["hash"]
        assert again.quality == signal["quality"]


def models(root: type[BaseModel]) -> set[type[BaseModel]]:
    return {root}.union(*(models(child) for child in root.__subclasses__()))


@pytest.mark.parametrize("model", sorted(models(schemas.Strict) - {schemas.Strict}, key=lambda model: model.__name__))
def test_every_model_refuses_fields_that_it_does_not_know(model: type[BaseModel]) -> None:
    assert model.model_config["extra"] == "forbid"
    assert (model.__doc__ or "").strip()


@pytest.mark.parametrize(
    ("loc", "said"),
    [((), "body"), (("signals", 3, "hash"), "signals.3.hash"), (("body", "f8f8f0ce" * 8), "body.?"),
     (("signals", "\ud800"), "signals.?"), (("http://x/",), "?"), (("x" * 33,), "?")],
)  # fmt: skip
def test_where_a_document_is_wrong(loc: tuple[Any, ...], said: str) -> None:
    assert schemas.where(loc) == said


def test_at_most_five_things_are_said_of_a_document() -> None:
    with pytest.raises(InvalidRequest) as caught:
        schemas.parsed(schemas.SignalsIn, {"signals": [{} for _ in range(1000)]})
    assert len(str(caught.value)) < 500


def test_a_hash_is_taken_in_either_case() -> None:
    said = schemas.parsed(schemas.SignalIn, {"signal_type": "pdq", "hash": "AB" * 32, "view": "trimmed"}).ready()
    assert (said.hash, said.view) == ("ab" * 32, View.TRIMMED)
