"""Decoys: a known picture in every place of a file where a viewer could show it is found, by the running service."""

import io
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from serving import Api, Server
from showing import Picture, audio_file, bits, looked_at, saved

from benchmarks import corpus
from hashing import cage
from hashing.errors import CorruptMedia, Reason
from hashing.hasher import Plan, hash_media
from hashing.media import Limits, Sampling, sniff
from hashing.parts import Parts, clips_behind
from hashing.signals import Kind

W, H = 320, 240
KNOWN, DECOY, OTHER = (corpus.picture(seed, W, H) for seed in (811, 812, 813))
GREY = KNOWN @ np.array([0.299, 0.587, 0.114])


def images(*pictures: Picture) -> list[Image.Image]:
    return [Image.fromarray(picture) for picture in pictures]


def several(format_: str, *pictures: Picture, **options: object) -> bytes:
    first, *rest = images(*pictures)
    return saved(first, format_, save_all=True, append_images=rest, **options)


def moving(picture: Picture, count: int = 25) -> Iterator[Picture]:
    """Yield frames that show a picture, a little darker each."""
    for number in range(count):
        yield (picture * (1 - 0.004 * number)).astype(np.uint8)


def tracks(container: str, *shown: Picture) -> bytes:
    """Return a file with a video track for each picture."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        streams = []
        for _ in shown:
            stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt, stream.thread_count = W, H, "yuv420p", 1
            streams.append(stream)
        for stream, picture in zip(streams, shown, strict=True):
            for number, pixels in enumerate(moving(picture)):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    return file.getvalue()


def with_cover(container: str, body: Picture | None, cover: Picture) -> bytes:
    """Return a video, or sound alone, with a cover picture."""
    file, jpeg = io.BytesIO(), corpus.jpeg(cover, 90)
    source = corpus.write_clip(moving(body)) if body is not None else audio_file()
    with av.open(io.BytesIO(source)) as taken, av.open(file, "w", format=container) as output:
        played = taken.streams[0]
        copied = output.add_stream_from_template(played)
        if container == "matroska":
            output.add_attachment("cover.jpg", "image/jpeg", jpeg)
        else:
            picture = output.add_stream("mjpeg", rate=1)
            picture.width, picture.height, picture.pix_fmt = W, H, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        for packet in taken.demux(played):
            if packet.dts is not None:
                packet.stream = copied
                output.mux(packet)
        if container != "matroska":
            frame = av.VideoFrame.from_ndarray(cover, format="rgb24")
            frame.pts, frame.time_base = 0, Fraction(1, 1)
            output.mux(picture.encode(frame))
            output.mux(picture.encode(None))
    return file.getvalue()


def branded(data: bytes, brand: bytes) -> bytes:
    """Return an ISO file that says it is something else."""
    return data[:8] + brand + data[12:]


def shaped(level: int, codec: str = "") -> bytes:
    """Return what shows the known picture on white (level 0) or on black (255) alone, by its transparency."""
    alpha = (GREY if level else 255 - GREY).round().astype(np.uint8)
    rgba = np.dstack([np.full((H, W, 3), level, np.uint8), alpha])
    if not codec:
        return corpus.encode(rgba, "PNG")
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as output:
        stream = output.add_stream(codec, rate=5)
        stream.width, stream.height, stream.pix_fmt = W, H, "argb" if codec == "qtrle" else "rgba"
        for number in range(5):
            frame = av.VideoFrame.from_ndarray(rgba, format="rgba").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 5)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(np.ascontiguousarray(np.rot90(KNOWN))), "JPEG", exif=exif, quality=90)


def turned_clip() -> bytes:
    """A clip that lies on its side, and a display matrix that puts it upright."""
    data = bytearray(corpus.write_clip(moving(np.ascontiguousarray(np.rot90(KNOWN)))))
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = np.array([0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    return bytes(data)


def motion_photo(cover: Picture, clip: Picture) -> bytes:
    return corpus.jpeg(cover, 90) + corpus.write_clip(moving(clip))


def samsung_heic() -> bytes:
    """A HEIC with the clip in a box behind."""
    clip = corpus.write_clip(moving(KNOWN))
    return several("HEIF", DECOY) + (len(clip) + 8).to_bytes(4) + b"mpvd" + clip


def sequence_beside_a_picture() -> bytes:
    """An AVIF that says it is one picture, and holds a sequence, too; which of them is shown is the viewer's choice."""
    return branded(several("AVIF", DECOY, OTHER, KNOWN, quality=80), b"avif")


def hevc(picture: Picture) -> bytes:
    return corpus.write_clip(moving(picture), codec="libx265")


PLACES: dict[str, Callable[[], bytes]] = {
    "the default image of an APNG, not in its animation": lambda: several(
        "PNG", KNOWN, DECOY, OTHER, default_image=True
    ),
    "the last frame of an APNG": lambda: several("PNG", DECOY, OTHER, KNOWN),
    "the only frame of an APNG behind its default image": lambda: several("PNG", DECOY, KNOWN, default_image=True),
    "a frame of a GIF that is shown for no time": lambda: several("GIF", DECOY, KNOWN, OTHER, duration=[900, 0, 900]),
    "the last frame of a WebP": lambda: several("WEBP", DECOY, OTHER, KNOWN, quality=90),
    "the last frame of an AVIF": lambda: several("AVIF", DECOY, OTHER, KNOWN, quality=80),
    "the second picture of an MPO": lambda: several("MPO", DECOY, KNOWN, quality=90),
    "the third picture of an MPO": lambda: several("MPO", DECOY, OTHER, KNOWN, quality=90),
    "the last page of a TIFF": lambda: several("TIFF", DECOY, OTHER, KNOWN),
    "the last picture of a HEIC": lambda: several("HEIF", DECOY, OTHER, KNOWN, quality=80),
    "a picture of a HEIC before the primary one": lambda: several(
        "HEIF", KNOWN, DECOY, OTHER, quality=80, primary_index=2
    ),
    "a HEIC sequence": lambda: branded(hevc(KNOWN), b"hevc"),
    "a sequence beside an AVIF picture": sequence_beside_a_picture,
    "the second track of an MP4": lambda: tracks("mp4", DECOY, KNOWN),
    "the third track of a Matroska": lambda: tracks("matroska", DECOY, OTHER, KNOWN),
    "the second track of a transport stream": lambda: tracks("mpegts", DECOY, KNOWN),
    "the cover of an MP4": lambda: with_cover("mp4", DECOY, KNOWN),
    "the cover of a Matroska": lambda: with_cover("matroska", DECOY, KNOWN),
    "the cover of a song": lambda: with_cover("mp4", None, KNOWN),
    "the clip behind a motion photo": lambda: motion_photo(DECOY, KNOWN),
    "the picture of a motion photo": lambda: motion_photo(KNOWN, DECOY),
    "the clip in a box of a HEIC": samsung_heic,
    "what a PNG shows on black": lambda: shaped(255),
    "what a PNG shows on white": lambda: shaped(0),
    "what a clip shows on black": lambda: shaped(255, "qtrle"),
    "what a clip shows on white": lambda: shaped(0, "png"),
    "behind an EXIF orientation": lambda: turned(6),
    "behind a display matrix": turned_clip,
}


@pytest.fixture(scope="module")
def checking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, str]]:
    """The served process, caged where the kernel can, and a bank that knows the picture."""
    sandbox = "required" if cage.landlock_abi() else "available"
    with Server(tmp_path_factory.mktemp("decoys") / "home", sandbox=sandbox) as server:
        api = server.api(server.first_key())
        bank = api.bank()
        assert api.post(f"/v1/banks/{bank}/contents", corpus.encode(KNOWN, "PNG")).status == 201
        yield api, bank


@pytest.mark.parametrize("place", PLACES)
def test_a_known_picture_is_found_wherever_it_hides(place: str, checking: tuple[Api, str]) -> None:
    api, bank = checking
    said = api.post(f"/v1/check?bank={bank}", PLACES[place]()).json
    assert (said["verdict"], said["reason"]) == ("match", None), said


UNKNOWN: dict[str, Callable[[], bytes]] = {
    "APNG": lambda: several("PNG", DECOY, OTHER, default_image=True), "MPO": lambda: several("MPO", DECOY, OTHER),
    "HEIC": lambda: several("HEIF", DECOY, OTHER), "MP4": lambda: tracks("mp4", DECOY, OTHER),
    "cover": lambda: with_cover("mp4", DECOY, OTHER), "motion photo": lambda: motion_photo(DECOY, OTHER),
    "HEIC sequence": lambda: branded(hevc(OTHER), b"hevc"),
}  # fmt: skip


@pytest.mark.parametrize("form", UNKNOWN)
def test_the_same_forms_without_it_are_no_match(form: str, checking: tuple[Api, str]) -> None:
    api, bank = checking
    said = api.post(f"/v1/check?bank={bank}", UNKNOWN[form]()).json
    assert (said["verdict"], said["reason"]) == ("no_match", None), said


def test_what_is_cut_off_is_owned_up_to(checking: tuple[Api, str]) -> None:
    """Half a file is looked at as far as it goes; what is not found in it is not said to be absent."""
    api, bank = checking
    for picture, verdict in ((KNOWN, {"match", "unhashable"}), (DECOY, {"unhashable"})):
        for data in (corpus.jpeg(picture, 95), several("TIFF", picture), corpus.encode(picture, "PNG")):
            said = api.post(f"/v1/check?bank={bank}", data[: len(data) * 3 // 4]).json
            assert said["verdict"] in verdict
            assert said["reason"] in {"truncated", None}


# --- the parts of a file ----------------------------------------------------------------


def frames(data: bytes, sampling: Sampling, limits: Limits = Limits()) -> tuple[Parts, int]:  # noqa: B008  (frozen)
    parts = Parts(data, sniff(data), limits)
    return parts, sum(1 for _ in parts.frames(sampling))


def test_an_enrolment_takes_what_a_viewer_shows_first() -> None:
    for data in (several("MPO", DECOY, KNOWN), motion_photo(DECOY, KNOWN), with_cover("mp4", DECOY, KNOWN)):
        first = Parts(data, sniff(data), Limits()).frames(Sampling.DENSE)
        assert all(bits(frame.pixels, DECOY) <= 31 for frame in first)
        assert frames(data, Sampling.SPARSE)[1] > (1 if data[:2] == b"\xff\xd8" else 0)


def test_kind_and_size_are_those_of_what_is_shown_first() -> None:
    found = hash_media(motion_photo(DECOY, KNOWN), Plan()).media
    assert (found.kind, found.width, found.height, found.duration_s) == (Kind.IMAGE, W, H, None)
    assert hash_media(branded(hevc(KNOWN), b"hevc"), Plan()).media.kind is Kind.VIDEO


def test_more_tracks_than_are_looked_at_are_owned_up_to() -> None:
    parts, count = frames(tracks("matroska", *[DECOY] * 10), Sampling.SPARSE)
    assert (count, parts.reason) == (8 * 2, Reason.TOO_MANY_FRAMES)


def test_a_track_that_cannot_be_decoded_is_owned_up_to() -> None:
    data = tracks("mp4", DECOY, OTHER)
    at = data.rindex(b"avc1")
    broken = data[:at] + data[at:].replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC")
    assert frames(broken, Sampling.SPARSE)[0].reason is Reason.UNSUPPORTED_CODEC


def test_what_only_looks_like_a_clip_behind_a_picture_is_none() -> None:
    for tail in (
        b"\0\0\0\x18ftypmp42",
        b"ftyp" * 99,
        b"\0\0\0\x18ftypmp42\0\0\0\0isommp42\0\0\0\x09moov\0" + bytes(99),
    ):
        parts, count = frames(corpus.jpeg(DECOY, 90) + tail, Sampling.SPARSE)
        assert (count, parts.reason) == (1, None)
    assert list(clips_behind(corpus.jpeg(DECOY, 90))) == []


def test_an_mpo_whose_other_pictures_were_stripped_is_whole() -> None:
    whole = several("MPO", DECOY, KNOWN)
    first = whole[: whole.index(b"\xff\xd9\xff\xd8") + 2]
    parts, count = frames(first, Sampling.SPARSE)
    assert (count, parts.reason) == (1, None)


def test_a_file_of_no_part_is_corrupt() -> None:
    for data in (b"\xff\xd8\xff", branded(corpus.write_clip(moving(KNOWN)), b"heic")[:900]):
        with pytest.raises(CorruptMedia):
            frames(data, Sampling.SPARSE)


def test_parts_have_a_limit_together() -> None:
    limits = Limits(max_frames=3, max_stills=1)
    parts, count = frames(tracks("matroska", DECOY, OTHER, KNOWN, DECOY), Sampling.SPARSE, limits)
    assert (count, parts.reason) == (4, Reason.TOO_MANY_FRAMES)


def test_a_track_of_another_is_opened_anew() -> None:
    clip, first = looked_at(tracks("mp4", DECOY, KNOWN))
    second = list(clip.other(1).frames(Sampling.DENSE))
    assert (clip.tracks, len(first)) == (2, len(second))
    assert second[0].timestamp_s == 0.0
