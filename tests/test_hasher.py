"""hash_media(): from bytes to a Signal, with its exact hashes, its limits and its reasons."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import corpus
from hashing.errors import CorruptMedia, MediaError, MediaTooLarge, Reason, UnhashableMedia, UnsupportedMedia
from hashing.evidence import PAIR_DTYPE, confirm
from hashing.hasher import DEFAULT_TYPES, Plan, admit, confirm_pairs, hash_media, hash_pictures
from hashing.media import Limits, Sampling
from hashing.signals import CLASSIC, TRANSFORMS, Kind, SignalType, distances

Picture = NDArray[np.uint8]
DENSE = Plan(Sampling.DENSE)


def test_a_picture_becomes_a_signal(photo: Picture) -> None:
    data = corpus.jpeg(photo, 90)
    signal = hash_media(data, DENSE)
    media = signal.media
    assert (media.kind, media.width, media.height, media.duration_s) == (Kind.IMAGE, 640, 480, None)
    assert (media.frames_hashed, signal.reason) == (1, None)
    assert media.sha256 == hashlib.sha256(data).hexdigest()
    assert dict(signal.exact) == {
        SignalType.SHA256: hashlib.sha256(data).digest(),
        SignalType.MD5: hashlib.md5(data).digest(),
    }
    assert len(signal.frames) == 1
    assert np.isnan(signal.frames["timestamp_s"][0])


def test_a_clip_becomes_a_signal(clip: bytes) -> None:
    signal = hash_media(clip, DENSE)
    assert (signal.media.kind, signal.media.frames_hashed) == (Kind.VIDEO, 60)
    assert signal.media.duration_s == pytest.approx(6.0, abs=0.1)
    times = signal.frames["timestamp_s"]
    assert (np.diff(times) >= 0).all()
    assert (signal.frames["until_s"] >= times).all()


def test_the_same_bytes_give_the_same_signal(clip: bytes) -> None:
    first, second = hash_media(clip, Plan()), hash_media(clip, Plan())
    assert first.frames.tobytes() == second.frames.tobytes()
    assert (first.media, first.exact) == (second.media, second.exact)


def test_types_are_chosen_by_the_plan(photo: Picture) -> None:
    data = corpus.encode(photo, "PNG")
    signal = hash_media(data, Plan(Sampling.SPARSE, DEFAULT_TYPES | set(CLASSIC)))
    assert [len(signal.of_type(kind)) for kind in CLASSIC] == [1, 1, 1]
    assert len(signal.of_type(SignalType.PDQ)) == len(TRANSFORMS)
    assert len(hash_media(data, Plan()).frames) == len(TRANSFORMS)


@pytest.mark.parametrize("name", corpus.EDITS)
def test_every_edit_of_a_picture_is_found(name: str, photos: list[Picture]) -> None:
    """Mirrored, turned, in a frame: the query asks for all of it."""
    for picture in photos[:6]:
        known = hash_media(corpus.jpeg(picture, 90), DENSE).frames["hash"][0]
        asked = hash_media(corpus.jpeg(corpus.EDITS[name](picture), 75), Plan()).frames
        apart = distances(asked["hash"], known)
        assert apart.min() <= 31
        found = TRANSFORMS[int(asked["transform"][apart.argmin()])]
        turned = {"rotate90": "rotate270", "rotate270": "rotate90"}.get(name, name)
        assert found == (turned if turned in TRANSFORMS else "none")


def test_an_animation_is_found_by_its_clip() -> None:
    known = hash_media(corpus.animation(5, "WEBP"), DENSE)
    asked = hash_media(corpus.clip(5, duration_s=2.0, fps=8, width=240, height=180), Plan())
    for row in asked.frames[asked.frames["transform"] == 0]:
        assert distances(known.frames["hash"], row["hash"]).min() <= 31


def test_sketches_are_there_when_asked_for(clip: bytes) -> None:
    types = DEFAULT_TYPES | {SignalType.KEYPOINTS}
    asked, known = hash_media(clip, Plan(types=types)), hash_media(clip, Plan(Sampling.DENSE, types))
    assert len(asked.sketches) == 2 * len(np.unique(asked.sketches["timestamp_s"]))
    assert (np.diff(known.sketches["timestamp_s"]) >= 1.0).all()
    assert len(known.sketches) >= 4
    for signal in (asked, known):
        assert dict(signal.exact) == dict(hash_media(clip, Plan()).exact)
        assert (signal.sketches["count"] > 100).all()
    for sampling in Sampling:
        assert not len(hash_media(clip, Plan(sampling)).sketches)


def test_pairs_are_confirmed_by_number(photos: list[Picture]) -> None:
    types = frozenset({SignalType.KEYPOINTS})
    over = np.ascontiguousarray(photos[1][:, ::-1])
    signal, planes = hash_pictures(corpus.jpeg(over, 80), Plan(types=types))
    known = [hash_media(corpus.jpeg(photo, 90), Plan(Sampling.DENSE, types)).sketches for photo in photos[:3]]
    pairs = np.zeros(6, PAIR_DTYPE)
    pairs["query"], pairs["reference"] = np.repeat([0, 1], 3), np.concatenate([*known, *known])
    evidence = confirm_pairs(signal.sketches, planes, pairs)
    assert np.flatnonzero((evidence["agreement"] > 50).sum(1) > 40).tolist() == [4]
    for row, pair in zip(evidence, pairs, strict=True):
        number = pair["query"]
        assert confirm(planes[number], signal.sketches[number], pair["reference"]).tobytes() == row.tobytes()
    assert confirm_pairs(signal.sketches, planes, pairs[:0]).tolist() == []


# --- refusals ---------------------------------------------------------------------------


def test_no_bytes_are_unsupported() -> None:
    with pytest.raises(UnsupportedMedia, match="no bytes"):
        hash_media(b"", Plan())


def test_the_limit_in_bytes_is_exact(photo: Picture) -> None:
    data = corpus.jpeg(photo, 50)
    assert admit(data, Limits(max_body_bytes=len(data))).name == "jpeg"
    with pytest.raises(MediaTooLarge) as caught:
        hash_media(data, Plan(limits=Limits(max_body_bytes=len(data) - 1)))
    assert caught.value.word == "media_too_large"


def test_garbage_behind_a_magic_number_is_corrupt() -> None:
    for magic in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"\x1aE\xdf\xa3", b"FLV\x01",
                  b"OggS", b"\0\0\0\x20ftypisom", b"\0\0\0\x18ftypavif", b"\0\0\0\x18ftypheic",
                  b"RIFF\0\0\0\0WEBP"):  # fmt: skip
        with pytest.raises(CorruptMedia):
            hash_media(magic + bytes(range(256)), Plan())


def test_what_cannot_be_judged_is_a_signal_with_a_reason(photo: Picture) -> None:
    signal = hash_media(corpus.encode(photo, "PNG"), Plan(limits=Limits(max_pixels=200_000)))
    assert (signal.reason, len(signal.frames), signal.media.frames_hashed) == (Reason.TOO_MANY_PIXELS, 0, 0)
    assert signal.media.sha256
    assert (signal.media.width, signal.media.height) == (640, 480)


def test_of_a_bomb_not_even_the_size_is_read(photo: Picture) -> None:
    signal = hash_media(corpus.encode(photo, "PNG"), Plan(limits=Limits(max_pixels=1000)))
    assert (signal.reason, signal.media.width, signal.media.height) == (Reason.TOO_MANY_PIXELS, None, None)


def test_an_avi_without_tracks_has_no_video() -> None:
    signal = hash_media(b"RIFF\0\0\0\0AVI " + bytes(range(256)), Plan())
    assert (signal.reason, signal.media.kind, signal.media.frames_hashed) == (Reason.NO_VIDEO, Kind.VIDEO, 0)


def test_the_reason_is_the_word_of_an_unhashable_error() -> None:
    error = UnhashableMedia(Reason.FEATURELESS)
    assert (error.word, error.reason) == ("featureless", Reason.FEATURELESS)
    assert "featureless" in str(error)


@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"GIF89a", b"\x1aE\xdf\xa3", b"\0\0\0\x18ftypmp42"]),
)
def test_any_bytes_give_a_signal_or_a_media_error(data: bytes, magic: bytes) -> None:
    try:
        signal, planes = hash_pictures(magic + data, Plan(limits=Limits(max_pixels=1_000_000)))
        assert planes == ()
        assert signal.reason is not None or len(signal.frames)
    except MediaError as error:
        assert error.word in {"unsupported_media", "corrupt_media"}
