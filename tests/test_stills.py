"""Pictures and animations: every form that Pillow reads comes out as a viewer shows it."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from benchmarks import corpus
from hashing.errors import CorruptMedia, MediaError, Reason
from hashing.media import Limits, Pixels, Sampling
from hashing.pdq import pdq
from hashing.signals import Kind, distance
from hashing.stills import Still

Picture = NDArray[np.uint8]
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF")


def shown(data: bytes, limits: Limits = Limits()) -> tuple[list[Pixels], Reason | None]:  # noqa: B008  (frozen)
    still = Still(data, limits)
    return [frame.pixels for frame in still.frames(Sampling.SPARSE)], still.reason


def only(data: bytes) -> Pixels:
    pictures, reason = shown(data)
    assert (len(pictures), reason) == (1, None)
    return pictures[0]


def bits(a: Pixels, b: Pixels) -> int:
    return distance(bytes(pdq(np.ascontiguousarray(a)).codes[0]), bytes(pdq(np.ascontiguousarray(b)).codes[0]))


def saved(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, **options)
    return file.getvalue()


# --- formats and modes ------------------------------------------------------------------


@pytest.mark.parametrize("format_", FORMATS)
def test_every_format_is_read(format_: str, photo: Picture) -> None:
    still = Still(corpus.encode(photo, format_), Limits())
    (frame,) = still.frames(Sampling.DENSE)
    assert (still.kind, still.width, still.height, still.reason) == (Kind.IMAGE, 640, 480, None)
    assert np.isnan(frame.timestamp_s)
    assert bits(frame.pixels, photo) <= 6
    if format_ in {"PNG", "BMP", "TIFF"}:
        assert np.array_equal(frame.pixels, photo)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"])
@pytest.mark.parametrize("format_", ["PNG", "TIFF", "JPEG", "WEBP", "BMP"])
def test_every_colour_mode_is_near_the_rgb(mode: str, format_: str, photo: Picture) -> None:
    image = Image.fromarray(photo)
    grey = image.convert("L")
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "LAB":
        from PIL import ImageCms

        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
    elif mode in {"I", "F"}:
        image = grey.convert(mode)
    else:
        image = image.convert(mode)
    if mode == "I;16" and format_ == "WEBP":
        pytest.skip("Pillow clips 16-bit values when it writes WebP")
    try:
        data = saved(image, format_)
    except (OSError, ValueError) as error:
        pytest.skip(f"Pillow writes no {mode} {format_}: {error}")
    assert bits(only(data), photo) <= 8


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_wide_grey_is_scaled_by_the_range_it_uses(dtype: type, photo: Picture) -> None:
    grey = photo[..., 1]
    top = {np.uint16: 257, np.int32: 257, np.float32: 1 / 255}[dtype]
    wide = (grey.astype(np.float64) * top).astype(dtype)
    assert np.abs(only(saved(Image.fromarray(wide), "TIFF")).astype(int) - grey).max() <= 1


def test_a_dark_16_bit_picture_stays_dark(photo: Picture) -> None:
    dark = (photo[..., 1].astype(np.uint16) * 257) // 4
    assert only(saved(Image.fromarray(dark), "PNG")).max() <= 64


def test_float_pictures_with_any_range_and_holes_are_read(photo: Picture) -> None:
    values = photo[..., 1].astype(np.float32) * 1e6
    values[3, 3] = np.nan
    found = only(saved(Image.fromarray(values), "TIFF"))
    assert (found.dtype, found[3, 3]) == (np.uint8, 0)
    assert bits(found, photo[..., 1]) <= 2


def test_transparent_16_bit_grey_is_scaled_not_clipped(photo: Picture) -> None:
    wide = photo[..., 1].astype(np.uint16) * 257
    assert bits(only(saved(Image.fromarray(wide), "PNG", transparency=1234)), photo[..., 1]) == 0


def test_the_colour_mode_files_are_near_the_rgb_one(shared_media: Path) -> None:
    folder = shared_media / "pdq"
    rgb = only((folder / "misc-images__modes__RGB.jpg").read_bytes())
    paths = sorted(folder.glob("misc-images__modes__*"))
    assert len(paths) == 14
    for path in paths:
        pictures, reason = shown(path.read_bytes())
        assert reason is None
        # `1` is dithered, `original` and `LAB` were made otherwise: still the same picture
        assert min(bits(picture, rgb) for picture in pictures) <= 16, path.name


# --- transparency -----------------------------------------------------------------------


def test_a_transparent_picture_is_shown_on_white_and_on_black(photo: Picture) -> None:
    alpha = np.full(photo.shape[:2], 255, np.uint8)
    alpha[:, :200] = 0
    pictures, _ = shown(corpus.encode(np.dstack([photo, alpha]), "PNG"))
    white, black = pictures
    assert (white[:, :200].min(), black[:, :200].max()) == (255, 0)
    for picture in pictures:
        assert np.array_equal(picture[:, 200:], photo[:, 200:])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_an_opaque_alpha_channel_is_one_picture(mode: str, photo: Picture) -> None:
    image = Image.fromarray(photo)
    image = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    assert bits(only(saved(image, "TIFF" if mode == "PA" else "PNG")), photo) <= 4


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_transparent_colour_is_transparent(mode: str) -> None:
    image = Image.new("RGB", (32, 32), "white")
    image.paste((0, 0, 0), (0, 0, 16, 32))
    image = image.convert(mode)
    corner = image.getpixel((0, 0))
    pictures, _ = shown(saved(image, "PNG", transparency=corner))
    assert [int(picture[0, 0].max()) for picture in pictures] == [255, 0]


# --- orientation ------------------------------------------------------------------------


def turned_by_exif(picture: Picture, orientation: int) -> Picture:
    """What the EXIF standard says of each value, by where row 0 and column 0 are."""
    rows_first = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1)}
    columns_first = {5: (1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}
    if orientation in rows_first:
        down, right = rows_first[orientation]
        return picture[::down, ::right]
    down, right = columns_first[orientation]
    return picture[::down, ::right].swapaxes(0, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, format_: str, photo: Picture) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    still = Still(saved(Image.fromarray(photo), format_, exif=exif), Limits())
    (frame,) = still.frames(Sampling.SPARSE)
    wanted = turned_by_exif(photo, orientation)
    assert frame.pixels.shape == wanted.shape == (still.height, still.width, 3)
    assert np.abs(frame.pixels.astype(int) - wanted).mean() < 12


@pytest.mark.parametrize("orientation", [0, 9, 999])
def test_an_orientation_that_does_not_exist_is_none(orientation: int, photo: Picture) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert only(saved(Image.fromarray(photo), "PNG", exif=exif)).shape == photo.shape


@pytest.mark.parametrize(
    "block",
    [b"Exif\0\0garbage", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12",
     b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\xff\xff\xff\xff"],
)  # fmt: skip
def test_broken_exif_does_not_hide_a_picture(block: bytes, photo: Picture) -> None:
    data = corpus.jpeg(photo, 90)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    assert bits(only(data), photo) <= 4


def test_a_great_text_chunk_does_not_hide_a_picture(photo: Picture) -> None:
    data = corpus.encode(photo, "PNG")
    chunk = b"zTXtk\0\0" + zlib.compress(bytes(2 << 20))
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    pictures, reason = shown(data[:33] + chunk + data[33:])
    assert reason is Reason.TRUNCATED
    assert np.array_equal(pictures[0], photo)


# --- several pictures -------------------------------------------------------------------


def test_the_pages_of_a_tiff_are_all_looked_at(photos: list[Picture]) -> None:
    first, *rest = [Image.fromarray(picture) for picture in photos[:3]]
    data = saved(first, "TIFF", save_all=True, append_images=rest)
    pictures, reason = shown(data)
    assert reason is None
    assert all(np.array_equal(a, b) for a, b in zip(pictures, photos[:3], strict=True))


def test_pages_beyond_the_limit_are_owned_up_to(photos: list[Picture]) -> None:
    first, *rest = [Image.fromarray(picture) for picture in photos[:3]]
    data = saved(first, "TIFF", save_all=True, append_images=rest)
    pictures, reason = shown(data, Limits(max_stills=2))
    assert (len(pictures), reason) == (2, Reason.TOO_MANY_FRAMES)


def test_a_later_page_may_not_be_larger_than_the_limit(photo: Picture) -> None:
    data = saved(Image.fromarray(photo[:50, :50]), "TIFF", save_all=True, append_images=[Image.fromarray(photo)])
    pictures, reason = shown(data, Limits(max_pixels=200_000))
    assert (len(pictures), reason) == (1, Reason.TOO_MANY_PIXELS)


def test_a_missing_page_is_owned_up_to(photos: list[Picture]) -> None:
    first, second = [Image.fromarray(picture) for picture in photos[:2]]
    data = saved(first, "TIFF", save_all=True, append_images=[second], compression="tiff_lzw")
    pictures, reason = shown(data[: len(data) * 3 // 4])
    assert reason is Reason.TRUNCATED
    assert np.array_equal(pictures[0], photos[0])


def test_of_an_mpo_the_shown_picture_is_hashed(photos: list[Picture]) -> None:
    first, second = [Image.fromarray(picture) for picture in photos[:2]]
    data = saved(first, "MPO", save_all=True, append_images=[second], quality=95)
    assert bits(only(data), photos[0]) <= 2


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "AVIF"])
def test_an_animation_is_a_video(format_: str) -> None:
    still = Still(corpus.animation(5, format_), Limits())
    frames = list(still.frames(Sampling.SPARSE))
    wanted = list(corpus.clip_frames(5, duration_s=2.0, fps=8, width=240, height=180))
    assert (still.kind, still.reason, len(frames)) == (Kind.VIDEO, None, 16)
    assert still.duration_s == pytest.approx(2.0, abs=0.1)
    assert [frame.timestamp_s for frame in frames] == pytest.approx(np.arange(16) / 8, abs=0.1)
    assert max(bits(frame.pixels, raw) for frame, raw in zip(frames, wanted, strict=True)) <= 31


def test_a_frame_without_duration_lasts_a_tenth_of_a_second(photos: list[Picture]) -> None:
    images = [Image.fromarray(picture[:60, :60]) for picture in photos[:3]]
    still = Still(saved(images[0], "GIF", save_all=True, append_images=images[1:], duration=0), Limits())
    assert [frame.timestamp_s for frame in still.frames(Sampling.SPARSE)] == pytest.approx([0, 0.1, 0.2])
    assert still.duration_s == pytest.approx(0.3)


@pytest.mark.parametrize("format_", ["GIF", "PNG"])
def test_a_cut_animation_gives_what_is_there(format_: str) -> None:
    data = corpus.animation(5, format_)
    still = Still(data[: len(data) // 2], Limits())
    frames = list(still.frames(Sampling.SPARSE))
    assert still.reason is Reason.TRUNCATED
    assert 1 <= len(frames) < 16


def test_an_animation_with_too_many_frames_is_not_begun() -> None:
    data = corpus.animation(5, "GIF")
    assert shown(data, Limits(max_frames=15)) == ([], Reason.TOO_MANY_FRAMES)
    assert shown(data, Limits(max_pixels=240 * 180))[1] is None
    frame = Image.new("P", (100, 100))
    other = Image.new("P", (100, 100), 1)
    many = saved(frame, "GIF", save_all=True, append_images=[other, frame] * 40)
    assert shown(many, Limits(max_pixels=10_000)) == ([], Reason.TOO_MANY_FRAMES)


# --- hostile input ----------------------------------------------------------------------


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
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def png_bomb(width: int, height: int) -> bytes:
    """A PNG of zeros: 1,000 times smaller than its pixels."""
    body = b"IDAT" + zlib.compress(bytes((width * 3 + 1) * height), 9)
    return png_header(width, height) + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


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


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)])
def test_a_header_with_huge_sides_is_too_many_pixels(width: int, height: int) -> None:
    assert shown(png_header(width, height)) == ([], Reason.TOO_MANY_PIXELS)


def test_a_gif_may_not_grow_inside() -> None:
    """A frame that reaches far beyond the screen: 4 GB from 368 bytes, if the decoder follows it."""
    frame = Image.new("P", (10, 10))
    data = bytearray(saved(frame, "GIF", save_all=True, append_images=[Image.new("P", (10, 10), 1)]))
    second = data.rindex(b"\x2c\0\0\0\0\x0a\0\x0a\0")
    data[second : second + 9] = b"\x2c" + struct.pack("<4H", 0, 0, 65535, 65535)
    pictures, reason = shown(bytes(data))
    assert (len(pictures), reason) == (1, Reason.TOO_MANY_PIXELS)
    still = Still(bytes(data), Limits())
    assert (still.width, still.height) == (10, 10)


@given(st.sampled_from([*FORMATS, "ANIMATED GIF", "ANIMATED PNG", "ANIMATED WEBP"]), st.data())
def test_hostile_bytes_give_media_errors_only(format_: str, data: st.DataObject) -> None:
    seed = bytearray(SEEDS[format_])
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(seed) - 1, 600)))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        seed[at : at + data.draw(st.integers(0, 8))] = patch
    try:
        pictures, _ = shown(bytes(seed), Limits(max_pixels=1_000_000))
        assert all(picture.dtype == np.uint8 for picture in pictures)
    except MediaError as error:
        assert error.word == "corrupt_media"


SEEDS = {name: corpus.encode(corpus.picture(2, 96, 64), name) for name in FORMATS} | {
    f"ANIMATED {name}": corpus.animation(2, name, duration_s=0.4) for name in ("GIF", "PNG", "WEBP")
}
