"""Video from memory: containers, codecs, depth, rotation, times, limits."""

import io
import os
from collections.abc import Iterable

import av
import numpy as np
import pytest
from showing import Picture, audio_file, bits, grey, grey_of, looked_at, opened

from benchmarks import corpus
from hashing import clips
from hashing.clips import Clip
from hashing.errors import Reason
from hashing.media import Limits, Sampling
from hashing.signals import Kind

ENCODINGS = [
    ("mp4", "libx264", "yuv420p"),
    ("mov", "libx264", "yuv422p"),
    ("mp4", "libx264", "yuv444p"),
    ("mp4", "libx264", "yuv420p10le"),
    ("mp4", "libx265", "yuv420p"),
    ("matroska", "libx265", "yuv420p10le"),
    ("webm", "libvpx", "yuv420p"),
    ("webm", "libvpx-vp9", "yuv420p"),
    ("mp4", "libsvtav1", "yuv420p"),
    ("mp4", "libsvtav1", "yuv420p10le"),
    ("avi", "mpeg4", "yuv420p"),
    ("mpegts", "libx264", "yuv420p"),
    ("flv", "libx264", "yuv420p"),
    ("ogg", "libvpx", "yuv420p"),
    ("asf", "mpeg4", "yuv420p"),
    ("mpeg", "mpeg2video", "yuv420p"),
    ("avi", "rawvideo", "gray"),
    ("avi", "rawvideo", "bgr24"),
]


# --- what comes out ---------------------------------------------------------------------


@pytest.mark.parametrize(("container", "codec", "pixel_format"), ENCODINGS)
def test_every_encoding_shows_the_frames_put_in(container: str, codec: str, pixel_format: str) -> None:
    options = {"b": "4M"} if codec == "mpeg2video" else None
    data = corpus.clip(6, duration_s=1.0, width=256, height=144, container=container, codec=codec,
                       pixel_format=pixel_format, options=options)  # fmt: skip
    raw = list(corpus.clip_frames(6, duration_s=1.0, width=256, height=144))
    clip, frames = looked_at(data)
    assert (clip.kind, clip.width, clip.height, clip.reason) == (Kind.VIDEO, 256, 144, None)
    assert clip.duration_s == pytest.approx(1.0, abs=0.15)
    assert [frame.timestamp_s for frame in frames] == pytest.approx(np.arange(10) * 0.1, abs=0.041)
    for frame in frames:
        wanted = grey_of(raw[round(frame.timestamp_s * 25)])
        assert np.abs(grey(frame).astype(int) - wanted).mean() < 8  # range, depth and black level are right
        assert bits(grey(frame), wanted) <= 31


def test_an_encoder_leaves_this_process_as_hurried_as_it_was() -> None:
    before = os.sched_getscheduler(0)
    corpus.clip(6, duration_s=0.2, width=128, height=72, codec="libsvtav1")
    assert os.sched_getscheduler(0) == before


@pytest.mark.parametrize(
    ("pixel_format", "full"),
    [("yuv420p", False), ("yuv420p", True), ("yuvj420p", True), ("yuv420p10le", False), ("yuv420p10le", True),
     ("p010le", False), ("p010le", True), ("nv12", False), ("gray", True), ("gray10le", True), ("yuyv422", False),
     ("yuv420p10be", False), ("rgb24", True), ("gbrp", True)],
)  # fmt: skip
def test_luma_is_full_range_whatever_the_frame_says(pixel_format: str, full: bool, photo: Picture) -> None:
    frame = av.VideoFrame.from_ndarray(photo, format="rgb24")
    if pixel_format not in {"rgb24", "gbrp"}:
        frame = frame.reformat(format=pixel_format, dst_color_range="JPEG" if full else "MPEG")
        frame.color_range = 2 if full else 1
    elif pixel_format == "gbrp":
        frame = frame.reformat(format=pixel_format)
    found = clips._to_frame(frame, 1.5)
    assert found.timestamp_s == 1.5
    off = np.abs(grey(found).astype(int) - grey_of(photo))
    assert off.mean() < 2.5
    assert off.max() <= 16  # shared chroma shows where a format goes through RGB


# --- rotation ---------------------------------------------------------------------------

ONE = 1 << 16
# ISO/IEC 14496-12: x' = a·x + c·y, y' = b·x + d·y, y downwards; written a b u c d v x y w.
CLOCKWISE_90 = (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30)  # what was right (x) comes down (y'): a phone held upright
HALF_TURN = (-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30)
CLOCKWISE_270 = (0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30)


def rotated_clip(frames: Iterable[Picture], matrix: tuple[int, ...], pixel_format: str = "yuv420p") -> bytes:
    data = bytearray(corpus.write_clip(frames, pixel_format=pixel_format))
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix stands 40 bytes behind the box's type
    assert np.frombuffer(bytes(data[at : at + 36]), ">i4").tolist() == [ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30]
    data[at : at + 36] = np.array(matrix, ">i4").tobytes()
    return bytes(data)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize(
    ("matrix", "shown"), [(CLOCKWISE_90, "rotate90"), (HALF_TURN, "rotate180"), (CLOCKWISE_270, "rotate270")]
)
def test_the_display_matrix_is_applied(matrix: tuple[int, ...], shown: str, pixel_format: str) -> None:
    raw = list(corpus.clip_frames(2, duration_s=0.2, width=192, height=108))
    clip, frames = looked_at(rotated_clip(raw, matrix, pixel_format))
    wanted = grey_of(corpus.EDITS[shown](raw[0]))
    assert grey(frames[0]).shape == wanted.shape == (clip.height, clip.width)
    assert np.abs(grey(frames[0]).astype(int) - wanted).mean() < 8


# --- times and sampling -----------------------------------------------------------------


def test_dense_is_one_frame_each_tenth_of_a_second(clip: bytes) -> None:
    _, frames = looked_at(clip)
    assert [frame.timestamp_s for frame in frames] == pytest.approx(np.arange(60) * 0.1, abs=0.041)


def test_a_grid_does_not_drift_with_the_frame_rate() -> None:
    data = corpus.clip(2, duration_s=4.0, fps=15, width=64, height=64)
    _, frames = looked_at(data)
    assert len(frames) == 40


def test_sparse_with_few_key_frames_looks_between_them(clip: bytes) -> None:
    _, frames = looked_at(clip, Sampling.SPARSE)
    assert [frame.timestamp_s for frame in frames] == pytest.approx(np.arange(12) * 0.5, abs=0.041)


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("mp4", "libx264", {"g": "25"}),
        ("mp4", "libx264", {"x264-params": "open-gop=1:keyint=25:bframes=3"}),
        ("mpegts", "libx264", {"x264-params": "open-gop=1:keyint=25:bframes=3"}),
        ("mp4", "libx265", {"x265-params": "log-level=none:pools=1:frame-threads=1:keyint=25:open-gop=1"}),
        ("webm", "libvpx", {"g": "25"}),
        ("webm", "libvpx-vp9", {"g": "25"}),
        ("mp4", "libsvtav1", {"g": "25"}),
        ("avi", "mpeg4", {"g": "25"}),
        ("mpegts", "mpeg2video", {"g": "25", "b": "4M"}),
    ],
)
def test_sparse_with_enough_key_frames_decodes_only_them(container: str, codec: str, options: dict[str, str]) -> None:
    data = corpus.clip(3, width=256, height=144, container=container, codec=codec, options=options)
    raw = list(corpus.clip_frames(3, width=256, height=144))
    _, frames = looked_at(data, Sampling.SPARSE)
    assert [frame.timestamp_s for frame in frames] == pytest.approx(np.arange(6.0), abs=0.01)
    for frame in frames:
        assert frame.is_key
        assert bits(grey(frame), grey_of(raw[round(frame.timestamp_s * 25)])) <= 31


def test_key_frames_that_lean_on_others_are_not_trusted() -> None:
    """With intra refresh no frame is whole by itself, though the file calls some of them key frames."""
    data = corpus.clip(3, width=256, height=144, options={"x264-params": "intra-refresh=1:keyint=25"})
    raw = list(corpus.clip_frames(3, width=256, height=144))
    _, frames = looked_at(data, Sampling.SPARSE)
    assert [frame.timestamp_s for frame in frames] == pytest.approx(np.arange(12) * 0.5, abs=0.041)
    assert max(bits(grey(frame), grey_of(raw[round(frame.timestamp_s * 25)])) for frame in frames) <= 31


def test_of_a_clip_of_key_frames_ten_a_second_are_looked_at() -> None:
    data = corpus.clip(3, duration_s=2.0, width=128, height=96, options={"g": "1"})
    assert len(looked_at(data, Sampling.SPARSE)[1]) == 20


def test_sparse_with_a_great_gap_looks_between_key_frames() -> None:
    data = corpus.clip(3, duration_s=24.0, fps=5, width=64, height=64, options={"g": "2", "sc_threshold": "0"})
    assert len(looked_at(data, Sampling.SPARSE)[1]) == 60
    gap = corpus.clip(3, duration_s=24.0, fps=5, width=64, height=64,
                      options={"g": "1000", "sc_threshold": "0", "force_key_frames": "0,1,2"})  # fmt: skip
    assert len(looked_at(gap, Sampling.SPARSE)[1]) == 48


def test_a_short_video_with_wide_gaps_is_looked_at_between_them_and_a_long_one_is_not() -> None:
    """A part of three seconds that is set into a short video may have no key frame of its own."""
    for seconds, keys, looked in ((40.0, 20, 80), (40.0, 15, 14), (90.0, 20, 23), (90.0, 60, 180)):
        data = corpus.clip(3, duration_s=seconds, fps=5, width=64, height=64,
                           options={"g": str(keys), "sc_threshold": "0"})  # fmt: skip
        assert len(looked_at(data, Sampling.SPARSE)[1]) == looked


@pytest.mark.parametrize(("container", "codec", "pixel_format"), ENCODINGS)
def test_close_shows_what_dense_shows_of_some_seconds(container: str, codec: str, pixel_format: str) -> None:
    options = {"b": "4M"} if codec == "mpeg2video" else {"g": "20"}
    data = corpus.clip(6, duration_s=4.0, width=128, height=96, container=container, codec=codec,
                       pixel_format=pixel_format, options=options)  # fmt: skip
    _, dense = looked_at(data)
    spans = ((0.35, 0.8), (1.0, 1.1), (2.95, 99.0))
    close = list(opened(data).frames(Sampling.CLOSE, spans))
    wanted = [frame for frame in dense if any(start <= frame.timestamp_s <= stop for start, stop in spans)]
    by_time = {round(frame.timestamp_s, 2): frame for frame in close}
    assert all(any(start <= frame.timestamp_s <= stop for start, stop in spans) for frame in close)
    assert len(wanted) <= len(close) == len(by_time) <= len(wanted) + len(spans)
    for frame in wanted:
        assert bits(grey(by_time[round(frame.timestamp_s, 2)]), grey(frame)) <= 31


def test_times_begin_with_the_first_frame() -> None:
    """A transport stream starts late, a cut one anywhere."""
    data = corpus.clip(3, duration_s=1.0, width=64, height=64, container="mpegts")
    with av.open(io.BytesIO(data), "r") as container:
        assert container.start_time
    assert looked_at(data)[1][0].timestamp_s == 0.0


def without_times(data: bytes) -> Clip:
    clip = opened(data)
    decoded = clip._decoded

    def timeless() -> Iterable[av.VideoFrame]:
        for number, frame in enumerate(decoded()):
            if number % 2:
                frame.pts = None
            yield frame

    clip._decoded = timeless  # type: ignore[method-assign, assignment]
    return clip


def test_a_frame_without_a_time_follows_the_one_before() -> None:
    data = corpus.clip(3, duration_s=1.0, fps=10, width=64, height=64, container="mpegts")
    clip = without_times(data)
    times = [frame.timestamp_s for frame in clip._spaced(0.0, clip._decoded())]
    assert times == pytest.approx(np.arange(10) * 0.1, abs=0.001)


# --- limits -----------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", Sampling)
@pytest.mark.parametrize(
    ("limits", "reason", "count"),
    [(Limits(max_pixels=192 * 108 - 1), Reason.TOO_MANY_PIXELS, 0), (Limits(max_frames=10), Reason.TOO_MANY_FRAMES, 1),
     (Limits(max_duration_s=0.55), Reason.TOO_LONG, 2), (Limits(max_pixels=192 * 108), None, 3)],
)  # fmt: skip
def test_a_limit_is_owned_up_to(
    sampling: Sampling, limits: Limits, reason: Reason | None, count: int, short_clip: bytes
) -> None:
    clip, frames = looked_at(short_clip, sampling, limits)
    assert clip.reason is reason
    if sampling is Sampling.SPARSE:
        assert len(frames) == count
    else:
        assert (len(frames) > 0) == (count > 0)


def test_a_clip_may_not_grow_inside() -> None:
    """An H.264 stream in MPEG-TS whose second half has four times the pixels."""
    parts = [corpus.clip(seed, duration_s=0.6, width=w, height=h, container="mpegts", options={"bf": "0"})
             for seed, w, h in ((1, 96, 64), (2, 192, 128))]  # fmt: skip
    clip, frames = looked_at(b"".join(parts), limits=Limits(max_pixels=96 * 64))
    assert clip.reason is Reason.TOO_MANY_PIXELS
    assert {frame.pixels.shape for frame in frames} == {(64, 96)}
    clip, frames = looked_at(b"".join(parts))
    assert {frame.pixels.shape for frame in frames} == {(64, 96), (128, 192)}
    assert (clip.width, clip.height) == (96, 64)


# --- tracks -----------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", Sampling)
def test_sound_alone_is_no_video(sampling: Sampling) -> None:
    clip, frames = looked_at(audio_file(), sampling)
    assert (clip.reason, frames, clip.width, clip.height) == (Reason.NO_VIDEO, [], 0, 0)


def test_an_unknown_codec_is_owned_up_to(short_clip: bytes) -> None:
    data = short_clip.replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC")
    clip, frames = looked_at(data)
    assert (clip.reason, frames) == (Reason.UNSUPPORTED_CODEC, [])
