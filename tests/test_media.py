"""What bytes are told to be, whatever they are called; the limits; the conversion of luma."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import corpus
from hashing.errors import MediaError, UnsupportedMedia
from hashing.media import Container, Frame, sniff


@pytest.mark.parametrize(
    ("format_", "name"),
    [("JPEG", "jpeg"), ("PNG", "png"), ("GIF", "gif"), ("WEBP", "webp"), ("BMP", "bmp"), ("TIFF", "tiff"),
     ("AVIF", "avif"), ("HEIF", "heif"), ("MPO", "jpeg")],
)  # fmt: skip
def test_pictures_are_told_from_their_bytes(format_: str, name: str, photo: NDArray[np.uint8]) -> None:
    assert sniff(corpus.encode(photo[:64, :64], format_)) == Container(name)


@pytest.mark.parametrize(
    ("container", "codec", "found"),
    [("mp4", "libx264", Container("mp4", "mov")), ("mov", "libx264", Container("mp4", "mov")),
     ("webm", "libvpx", Container("matroska", "matroska")), ("matroska", "libx264", Container("matroska", "matroska")),
     ("avi", "mpeg4", Container("avi", "avi")), ("mpegts", "libx264", Container("mpeg-ts", "mpegts")),
     ("flv", "libx264", Container("flv", "flv")), ("ogg", "libvpx", Container("ogg", "ogg")),
     ("asf", "mpeg4", Container("asf", "asf")), ("mpeg", "mpeg2video", Container("mpeg-ps", "mpeg"))],
)  # fmt: skip
def test_clips_are_told_from_their_bytes(container: str, codec: str, found: Container) -> None:
    data = corpus.clip(1, duration_s=0.4, width=64, height=64, container=container, codec=codec)
    assert sniff(data) == found


def ftyp(major: bytes, *brands: bytes) -> bytes:
    body = b"ftyp" + major + bytes(4) + b"".join(brands)
    return (len(body) + 4).to_bytes(4) + body + b"\0\0\0\x08free"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (ftyp(b"mif1", b"avif"), Container("avif")),
        (ftyp(b"mif1", b"heic"), Container("heif")),
        (ftyp(b"msf1", b"avif", b"avis"), Container("avif")),
        (ftyp(b"avis"), Container("avif")),
        (ftyp(b"heix"), Container("heif")),
        (ftyp(b"qt  "), Container("mp4", "mov")),
        (ftyp(b"isom", b"heic"), Container("mp4", "mov")),  # the major brand decides
        (b"\0\0\0\x08wide" + bytes(20), Container("mov", "mov")),
        (b"\0\0\1\0moov" + bytes(20), Container("mov", "mov")),
        (b"".join(b"\x47" + bytes(187) for _ in range(5)), Container("mpeg-ts", "mpegts")),
        (b"".join(bytes(4) + b"\x47" + bytes(187) for _ in range(5)), Container("mpeg-ts", "mpegts")),  # m2ts
    ],
)
def test_the_fine_print_of_containers(data: bytes, found: Container) -> None:
    assert sniff(data) == found


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"hello",
        b"%PDF-1.7\n",
        b"PK\x03\x04" + bytes(100),
        b"\x7fELF" + bytes(100),
        b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\nm=video 5004 RTP/AVP 96\r\n",  # SDP: would open a socket
        b"#EXTM3U\n#EXTINF:1,\nhttp://169.254.169.254/\n",  # HLS: would fetch
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b'<?xml version="1.0"?><MPD/>',
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"ID3\x04" + bytes(50),
        b"\x47" + bytes(400),
        b"fLaC" + bytes(40),
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    ],
)
def test_what_is_no_media_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedMedia) as caught:
        sniff(data)
    assert caught.value.word == "unsupported_media"


@given(st.binary(max_size=2000))
def test_any_bytes_are_told_or_refused(data: bytes) -> None:
    try:
        assert sniff(data).name
    except MediaError as error:
        assert error.word == "unsupported_media"


def test_grey8_undoes_depth_and_range() -> None:
    deep = np.array([[0, 64, 512, 1023]], np.uint16)
    assert Frame(deep, scale=0.25).grey8().tolist() == [[0, 16, 128, 255]]
    plain = np.array([[3, 200]], np.uint8)
    assert Frame(plain).grey8() is plain
