"""Cut, broken, lying and exploding media: what is there is looked at, the rest is owned up to, nothing hangs."""

import io
import math
import struct
import zlib
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from showing import FORMATS, Picture, audio_file, bits, grey, looked_at, opened, png_chunk, saved, shown

from benchmarks import corpus
from hashing.clips import Clip
from hashing.errors import CorruptMedia, MediaError, Reason
from hashing.media import Container, Limits, Sampling
from hashing.stills import Still

# --- pictures ---------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "HEIF"])
def test_a_cut_picture_is_salvaged_and_owned_up_to(format_: str, photo: Picture) -> None:
    data = corpus.encode(photo, format_)
    pictures, reason = shown(data[: len(data) // 2])
    assert reason is Reason.TRUNCATED
    assert pictures[0].shape[:2] == (480, 640)
    if format_ in {"JPEG", "PNG", "BMP", "TIFF"}:
        top = 160 if format_ != "BMP" else 0
        part = slice(top, top + 20) if top else slice(-20, None)  # a BMP begins at the bottom
        assert np.abs(pictures[0][part].astype(int) - photo[part]).mean() < 12


@pytest.mark.parametrize("format_", ["WEBP", "AVIF"])
def test_a_cut_picture_that_cannot_be_salvaged_is_corrupt(format_: str, photo: Picture) -> None:
    data = corpus.encode(photo, format_)
    with pytest.raises(CorruptMedia):
        shown(data[: len(data) // 2])


@pytest.mark.parametrize("format_", FORMATS)
def test_a_mere_beginning_is_corrupt_or_truncated(format_: str, photo: Picture) -> None:
    data = corpus.encode(photo, format_)
    for size in (12, 20, 40, 100):
        try:
            assert shown(data[:size])[1] is not None
        except CorruptMedia as error:
            assert error.__cause__ is not None


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(header)


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of zeros: 1,000 times smaller than its pixels."""
    return png_header(width, height) + png_chunk(b"IDAT" + zlib.compress(bytes((width * 3 + 1) * height), 9))


def test_a_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the constructor, nor by asking for its EXIF, nor by `frames`."""
    data = png_bomb(3000, 2000)
    loads: list[int] = []
    load = Image.Image.load
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: loads.append(1) or load(image))
    still = Still(data, Limits(max_pixels=5_999_999))
    assert list(still.frames(Sampling.SPARSE)) == []
    assert (still.reason, still.width, still.height, loads) == (Reason.TOO_MANY_PIXELS, 3000, 2000, [])


def test_the_pixel_limit_is_exact() -> None:
    data = png_bomb(300, 200)
    assert shown(data, Limits(max_pixels=60_000))[1] is None
    assert shown(data, Limits(max_pixels=59_999)) == ([], Reason.TOO_MANY_PIXELS)


def test_a_side_has_a_limit_too() -> None:
    """A line of pixels is no picture, but the filters would cost as much as for a square of its side."""
    assert shown(png_bomb(65_535, 5))[1] is None
    assert shown(png_bomb(65_536, 5)) == ([], Reason.TOO_MANY_PIXELS)
    assert shown(png_bomb(5, 65_536)) == ([], Reason.TOO_MANY_PIXELS)


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)])
def test_a_header_with_huge_sides_is_too_many_pixels(width: int, height: int) -> None:
    assert shown(png_header(width, height) + png_chunk(b"IDAT" + zlib.compress(bytes(9)))) == (
        [],
        Reason.TOO_MANY_PIXELS,
    )


def test_a_gif_may_not_grow_inside() -> None:
    """A frame that reaches far beyond the screen: 4 GB from 368 bytes, if the decoder follows it."""
    frame, other = Image.new("RGB", (10, 10)), Image.new("RGB", (10, 10), "red")
    data = bytearray(saved(frame, "GIF", save_all=True, append_images=[other]))
    second = data.rindex(b"\x2c\0\0\0\0\x0a\0\x0a\0")
    data[second : second + 9] = b"\x2c" + struct.pack("<4H", 0, 0, 65535, 65535)
    pictures, reason = shown(bytes(data))
    assert (len(pictures), reason) == (1, Reason.TOO_MANY_PIXELS)
    still = Still(bytes(data), Limits())
    assert (still.width, still.height) == (10, 10)


@given(st.sampled_from([*FORMATS, "ANIMATED GIF", "ANIMATED PNG", "ANIMATED WEBP"]), st.data())
def test_hostile_pictures_give_media_errors_only(format_: str, data: st.DataObject) -> None:
    seed = bytearray(STILL_SEEDS[format_])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(seed) - 1, 600)))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        seed[at : at + data.draw(st.integers(0, 8))] = patch
    try:
        pictures, _ = shown(bytes(seed), Limits(max_pixels=1_000_000))
        assert all(picture.dtype == np.uint8 for picture in pictures)
    except MediaError as error:
        assert error.word == "corrupt_media"


STILL_SEEDS = {name: corpus.encode(corpus.picture(2, 96, 64), name) for name in FORMATS} | {
    f"ANIMATED {name}": corpus.animation(2, name, duration_s=0.4) for name in ("GIF", "PNG", "WEBP")
}


# --- clips ------------------------------------------------------------------------------


def test_a_cut_mp4_without_its_index_is_corrupt(short_clip: bytes) -> None:
    for data in (short_clip[: len(short_clip) // 2], short_clip[:40]):
        with pytest.raises(CorruptMedia):
            looked_at(data)


def with_index_in_front(data: bytes, path: Path) -> bytes:
    """Write the same packets again, as for the web; FFmpeg needs a file for that."""
    options = {"movflags": "faststart"}
    with av.open(io.BytesIO(data), "r") as source, av.open(str(path), "w", format="mp4", options=options) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    return path.read_bytes()


@pytest.mark.parametrize("sampling", Sampling)
def test_an_mp4_with_its_index_but_half_its_frames_is_truncated(sampling: Sampling, tmp_path: Path) -> None:
    data = with_index_in_front(corpus.clip(3, duration_s=2.0, width=128, height=96), tmp_path / "clip.mp4")
    assert data.index(b"moov") < data.index(b"mdat")
    assert looked_at(data, sampling)[0].reason is None
    clip, frames = looked_at(data[: len(data) // 2], sampling)
    assert clip.reason is Reason.TRUNCATED
    assert frames


def with_broken_key_frame(start: int, patch: bytes) -> bytes:
    """Two seconds with a key frame every 0.4 s; the third is overwritten from byte `start` on."""
    data = bytearray(corpus.clip(3, duration_s=2.0, width=128, height=96, options={"g": "10"}))
    with av.open(io.BytesIO(data), "r") as container:
        keys = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.is_keyframe and packet.size]
    assert len(keys) >= 5
    assert keys[2][1] >= start + len(patch)
    at = keys[2][0] + start
    data[at : at + len(patch)] = patch
    return bytes(data)


def test_a_broken_middle_is_owned_up_to_and_the_rest_is_looked_at() -> None:
    clip, frames = looked_at(with_broken_key_frame(0, bytes(1500)))
    assert clip.reason is Reason.TRUNCATED
    assert frames[-1].timestamp_s > 1.8
    assert len(frames) >= 16


def test_a_query_goes_on_behind_a_broken_key_frame() -> None:
    _, frames = looked_at(with_broken_key_frame(700, b"\xa5" * 800), Sampling.SPARSE)
    assert [frame.timestamp_s for frame in frames] == pytest.approx([0.0, 0.4, 0.5, 1.0, 1.5], abs=0.041)


def test_a_key_frame_that_cannot_be_decoded_is_owned_up_to() -> None:
    """WebM says which packets are key frames, whatever is in them."""
    data = corpus.clip(3, duration_s=2.0, width=128, height=96, container="webm", codec="libvpx", options={"g": "10"})
    starts = [at for at in range(len(data)) if data.startswith(b"\x9d\x01\x2a\x80\x00\x60\x00", at)]
    assert len(starts) >= 5
    broken = data[: starts[2]] + bytes(7) + data[starts[2] + 7 :]
    clip, frames = looked_at(broken, Sampling.SPARSE)
    assert clip.reason is Reason.TRUNCATED
    assert frames[-1].timestamp_s >= 1.5


def test_a_beginning_without_a_frame_is_corrupt_or_truncated() -> None:
    data = corpus.clip(4, duration_s=0.4, width=64, height=64, container="mpegts")
    with pytest.raises(CorruptMedia):
        looked_at(data[: 188 * 3])
    clip, frames = looked_at(data[: 188 * 4])
    assert (clip.reason, frames) == (Reason.TRUNCATED, [])


def test_mislabelled_bytes_are_corrupt(short_clip: bytes) -> None:
    for demuxer in ("matroska", "avi"):
        with pytest.raises(CorruptMedia):
            Clip(short_clip, Container("?", demuxer), Limits())


@pytest.mark.parametrize(
    "text",
    [b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
     b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video 5004 RTP/AVP 96\r\n",
     b"ffconcat version 1.0\nfile /etc/hostname\n"],
)  # fmt: skip
@pytest.mark.parametrize("demuxer", ["hls", "sdp", "concat"])
def test_no_playlist_is_followed_even_if_asked_by_name(text: bytes, demuxer: str) -> None:
    with pytest.raises(CorruptMedia):
        Clip(text, Container("?", demuxer), Limits())


def test_a_track_that_appears_later_does_not_hide_the_rest() -> None:
    """FLV announces no tracks: sound begins behind what FFmpeg probes, and then the picture goes on."""
    rng = np.random.default_rng(1)
    noise = (rng.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(140))
    picture = corpus.write_clip(noise, container="flv", options={"qp": "0", "preset": "ultrafast"})
    assert len(picture) > 5_000_000
    clip = opened(picture + audio_file("flv")[13:] + picture[13:])
    assert sum(1 for _ in clip._spaced(0.0, clip._decoded())) == 280
    assert clip.reason is None


def test_nothing_hides_behind_a_jump_back_in_time() -> None:
    """Two transport streams end to end: the times start again."""
    first, second = (corpus.clip(seed, duration_s=1.0, width=96, height=64, container="mpegts") for seed in (1, 2))
    for sampling, count in ((Sampling.DENSE, 16), (Sampling.SPARSE, 3)):
        joined = [grey(frame) for frame in looked_at(first + second, sampling)[1]]
        found = [min(bits(grey(frame), one) for one in joined) for frame in looked_at(second, sampling)[1]]
        assert len(joined) >= count
        assert max(found) <= 31


CLIP_SEEDS = {
    name: corpus.clip(2, duration_s=0.4, width=64, height=48, container=name, codec=codec)
    for name, codec in [("mp4", "libx264"), ("webm", "libvpx"), ("avi", "mpeg4"), ("mpegts", "libx264")]
}


@given(st.sampled_from(sorted(CLIP_SEEDS)), st.sampled_from(list(Sampling)), st.data())
@settings(max_examples=150)
def test_hostile_clips_give_media_errors_only(name: str, sampling: Sampling, data: st.DataObject) -> None:
    seed = bytearray(CLIP_SEEDS[name])
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(seed) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        seed[at : at + data.draw(st.integers(0, 8))] = patch
    try:
        _, frames = looked_at(bytes(seed), sampling, Limits(max_pixels=1_000_000, max_frames=200))
        assert all(math.isfinite(frame.timestamp_s) for frame in frames)
    except MediaError as error:
        assert error.word in {"corrupt_media", "unsupported_media"}
