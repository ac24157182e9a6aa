"""Media that many tests share: made once a run, by us, or lent by others where they are there."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

from benchmarks import corpus

pytest_plugins = ["postgres", "serving", "shelf", "searching"]  # the fixtures that run servers, the app, and a store

settings.register_profile("house", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("house")

SHARED_MEDIA = Path(__file__).parents[2] / "shared" / "media"


@pytest.fixture(autouse=True)
def pillow_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give back Pillow's own limit, which `hashing.stills` sets for its process, so that tests need no order."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


@pytest.fixture(scope="session")
def shared_media() -> Path:
    """The folder of others' media with reference hashes; it lies beside this repository, not in it."""
    if not SHARED_MEDIA.is_dir():
        pytest.skip(f"{SHARED_MEDIA} is absent")
    return SHARED_MEDIA


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    return corpus.picture(1)


@pytest.fixture(scope="session")
def photos() -> list[NDArray[np.uint8]]:
    return [corpus.picture(seed) for seed in range(12)]


@pytest.fixture(scope="session")
def clip() -> bytes:
    """Six seconds of two scenes, 480×270, H.264 in MP4."""
    return corpus.clip(3)


@pytest.fixture(scope="session")
def short_clip() -> bytes:
    return corpus.clip(4, duration_s=1.2, width=192, height=108)
