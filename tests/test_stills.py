"""Pictures and animations: every form that Pillow reads comes out as a viewer shows it."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from showing import FORMATS, Picture, bits, only, png_chunk, saved, shown

from benchmarks import corpus
from hashing.errors import Reason
from hashing.media import Frame, Limits, Sampling
from hashing.pdq import pdq
from hashing.signals import Kind, distances
from hashing.stills import Still

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


WRITABLE = {
    "PNG": ("1", "L", "P", "I;16"),
    "TIFF": ("1", "L", "P", "CMYK", "YCbCr", "LAB", "I", "F", "I;16"),
    "JPEG": ("1", "L", "CMYK", "YCbCr"),
    "WEBP": ("1", "L", "P", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"),
    "BMP": ("1", "L", "P"),
}


def in_mode(picture: Picture, mode: str) -> Image.Image:
    image = Image.fromarray(picture)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "LAB":
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, srgb, lab, outputMode="LAB")
        assert converted is not None
        return converted
    return image.convert("L").convert(mode) if mode in {"I", "F"} else image.convert(mode)


@pytest.mark.parametrize(("format_", "mode"), [(name, mode) for name, modes in WRITABLE.items() for mode in modes])
def test_every_colour_mode_is_near_the_rgb(format_: str, mode: str, photo: Picture) -> None:
    assert bits(only(saved(in_mode(photo, mode), format_)), photo) <= 8


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
    (frame,) = still.frames(Sampling.DENSE)
    wanted = turned_by_exif(photo, orientation)
    assert frame.pixels.shape == wanted.shape == (still.height, still.width, 3)
    assert np.abs(frame.pixels.astype(int) - wanted).mean() < 12


# --- a query's JPEG ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "times"), [(900, 700, 1), (1601, 1027, 2), (2051, 3001, 4), (4160, 4100, 8)]
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_query_decodes_no_more_of_a_jpeg_than_it_looks_at(
    width: int, height: int, times: int, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = corpus.picture(width, width, height)
    still = Still(saved(Image.fromarray(picture), "JPEG", exif=exif, quality=90), Limits())
    (frame,), (whole,) = list(still.frames(Sampling.SPARSE)), only_frame(still)
    upright = turned_by_exif(picture, orientation)
    assert (still.height, still.width) == upright.shape[:2] == whole.pixels.shape[:2]
    assert frame.pixels.shape == tuple(-(-side // times) for side in upright.shape[:2])
    assert frame.full == (None if times == 1 else upright.shape[:2])
    near = distances(pdq(frame.pixels, frame.full).codes[:1], pdq(whole.pixels).codes[0])
    assert near[0] <= (4 if orientation == 1 else 8)  # turned, the last pixels, which stand for fewer, come first


def only_frame(still: Still) -> tuple[Frame]:
    """Read a file's only picture whole."""
    again = Still(still._data, Limits())
    (frame,) = again.frames(Sampling.DENSE)
    return (frame,)


KINDS: list[tuple[str, dict[str, bool | int]]] = [
    *((mode, options) for mode in ("RGB", "L", "CMYK") for options in ({}, {"progressive": True}, {"subsampling": 0})),
    ("RGB", {"keep_rgb": True}),
]


@pytest.mark.parametrize(("mode", "options"), KINDS)
def test_a_query_reads_every_kind_of_jpeg(mode: str, options: dict[str, bool | int]) -> None:
    picture = corpus.picture(3, 1200, 1100)
    data = saved(Image.fromarray(picture).convert(mode), "JPEG", quality=90, **options)
    (frame,) = Still(data, Limits()).frames(Sampling.SPARSE)
    assert frame.pixels.shape[:2] == (550, 600)
    assert distances(pdq(frame.pixels, frame.full).codes[:1], pdq(picture).codes[0])[0] <= 6


def test_a_query_salvages_what_a_viewer_would_show() -> None:
    data = corpus.jpeg(corpus.picture(3, 2400, 2200), 90)
    still = Still(data[: len(data) * 2 // 3], Limits())
    (frame,) = still.frames(Sampling.SPARSE)
    assert (still.reason, frame.pixels.shape, frame.full) == (Reason.TRUNCATED, (550, 600), (2200, 2400))


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
    chunk = png_chunk(b"zTXtk\0\0" + zlib.compress(bytes(2 << 20)))
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


def test_a_broken_later_page_does_not_hide_the_first(photos: list[Picture]) -> None:
    first, second = [Image.fromarray(picture) for picture in photos[:2]]
    data = bytearray(saved(first, "TIFF", save_all=True, append_images=[second], compression="tiff_adobe_deflate"))
    at = len(data) * 3 // 4
    data[at : at + 4000] = bytes(4000)
    pictures, reason = shown(bytes(data))
    assert (len(pictures), reason) == (1, Reason.TRUNCATED)
    assert np.array_equal(pictures[0], photos[0])


def test_of_an_mpo_alone_the_shown_picture_is_a_still(photos: list[Picture]) -> None:
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


def test_an_animation_with_too_many_frames_is_looked_at_as_far_as_is_allowed() -> None:
    data = corpus.animation(5, "GIF")
    pictures, reason = shown(data, Limits(max_frames=15))
    assert (len(pictures), reason) == (15, Reason.TOO_MANY_FRAMES)
    assert shown(data, Limits(max_frames=16))[1] is None
    assert shown(data, Limits(max_pixels=240 * 180))[1] is None
