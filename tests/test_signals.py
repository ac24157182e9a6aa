"""Values: hex form, distance, the guards of Signal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashing import signals
from hashing.errors import InvalidHash, StaydownError
from hashing.signals import FRAME_DTYPE, Kind, Media, Signal, SignalType, Transform, no_frames

codes = st.binary(min_size=32, max_size=32)
TYPE_BYTES = dict.fromkeys(SignalType, 32) | {SignalType.MD5: 16}


@given(codes, codes, codes)
def test_distance_is_a_metric(a: bytes, b: bytes, c: bytes) -> None:
    assert signals.distance(a, a) == 0
    assert signals.distance(a, b) == signals.distance(b, a)
    assert (signals.distance(a, b) == 0) == (a == b)
    assert signals.distance(a, c) <= signals.distance(a, b) + signals.distance(b, c)


@given(codes, codes)
def test_distance_counts_differing_bits(a: bytes, b: bytes) -> None:
    slow = sum(x != y for x, y in zip(*(f"{int.from_bytes(code):0256b}" for code in (a, b)), strict=True))
    assert signals.distance(a, b) == slow


@given(st.lists(codes, min_size=1, max_size=8), codes)
def test_distances_are_the_distance_of_each(many: list[bytes], one: bytes) -> None:
    array = np.stack([np.frombuffer(code, np.uint8) for code in many])
    found = signals.distances(array, np.frombuffer(one, np.uint8))
    assert found.tolist() == [signals.distance(code, one) for code in many]


def test_distance_of_inverted_code_is_its_width() -> None:
    assert signals.distance(bytes(32), b"\xff" * 32) == signals.HASH_BITS == 256


@given(st.sampled_from(list(SignalType)), st.data())
def test_hex_goes_there_and_back(kind: SignalType, data: st.DataObject) -> None:
    code = data.draw(st.binary(min_size=TYPE_BYTES[kind], max_size=TYPE_BYTES[kind]))
    text = signals.to_hex(code)
    assert text == text.lower()
    assert signals.from_hex(kind, text) == signals.from_hex(kind, text.upper()) == code


@given(st.sampled_from(list(SignalType)), st.text(max_size=70))
def test_what_is_no_hex_is_refused(kind: SignalType, text: str) -> None:
    with pytest.raises(InvalidHash):
        signals.from_hex(kind, text)


@pytest.mark.parametrize("text", ["", "0" * 62, "0" * 63, "0" * 65, "0" * 128, "g" * 64, "0" * 62 + "é0"])
def test_a_hash_has_one_length_and_one_alphabet(text: str) -> None:
    with pytest.raises(InvalidHash):
        signals.from_hex(SignalType.PDQ, text)


def test_spaces_do_not_shorten_a_hash() -> None:
    with pytest.raises(InvalidHash):
        signals.from_hex(SignalType.PDQ, "00 " * 21 + " ")


def test_a_signal_has_rows_of_one_kind() -> None:
    with pytest.raises(InvalidHash):
        Signal(Media(Kind.IMAGE), np.zeros((3, 32), np.uint8).view(np.void))
    with pytest.raises(InvalidHash):
        Signal(Media(Kind.IMAGE), np.zeros((1, 1), FRAME_DTYPE))


def test_of_type_takes_all_profiles_of_a_type() -> None:
    rows = np.zeros(5, FRAME_DTYPE)
    rows["profile"] = range(5)
    signal = Signal(Media(Kind.IMAGE), rows)
    assert signal.of_type(SignalType.PDQ)["profile"].tolist() == [0, 1]
    assert signal.of_type(SignalType.DHASH)["profile"].tolist() == [3]
    assert len(Signal(Media(Kind.IMAGE), no_frames()).of_type(SignalType.PDQ)) == 0


def test_profiles_keep_their_numbers() -> None:
    """Records store the position: what stands here may only grow."""
    assert [str(profile) for profile in signals.PROFILES] == [
        "pdq-full/1", "pdq-512/1", "imagehash-phash16/1", "imagehash-dhash16/1", "imagehash-whash16/1",
    ]  # fmt: skip
    assert signals.PROFILE_NAMES["pdq-512/1"] == 1
    for kind, number in signals.PROFILE_OF_TYPE.items():
        assert signals.PROFILES[number].signal_type is kind


def test_the_inverse_of_a_transform_undoes_it(photo: np.ndarray) -> None:
    from benchmarks.corpus import EDITS

    turns = {Transform.NONE: lambda picture: picture, Transform.TRANSPOSE: lambda picture: picture.transpose(1, 0, 2),
             Transform.TRANSVERSE: lambda picture: picture[::-1, ::-1].transpose(1, 0, 2)}  # fmt: skip
    turns |= {kind: EDITS[kind] for kind in Transform if kind in EDITS}
    assert set(turns) == set(Transform)
    for kind in Transform:
        assert np.array_equal(turns[signals.INVERSE[kind]](turns[kind](photo)), photo)


def test_errors_say_what_they_are() -> None:
    assert str(InvalidHash()) == "The hash is not written as its signal type asks."
    assert (InvalidHash().word, StaydownError("x").word) == ("invalid_hash", "error")
