"""The registry: 109 single edits by name, and chains of them."""

from collections.abc import Sequence

import numpy as np

from benchmarks.corpus import Picture
from benchmarks.robustness.edits_base import Edit, decode
from benchmarks.robustness.edits_drawn import DRAWN
from benchmarks.robustness.edits_scene import SCENE
from benchmarks.robustness.edits_shape import SHAPE
from benchmarks.robustness.edits_tone import TONE

EDITS: dict[str, Edit] = {edit.name: edit for edit in (*SHAPE, *TONE, *DRAWN, *SCENE)}
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(edit.family for edit in EDITS.values()))

# The order in which people do such things. One of each at most, so that nothing undoes another.
_ORDER = ("dihedral", "rotation", "crop", "colour", "overlay", "blur_noise", "embedding", "frame", "ui", "scale",
          "camera", "codec")  # fmt: skip
# Those that leave so little that a second edit makes nonsense of the question.
_LAST_STRAWS = {
    "longest_64", "longest_128", "resize_25", "jpeg_q10", "webp_q10", "crop_edge_25", "crop_left_top_25",
    "crop_area_30", "rot_45_black", "rot_25_black", "emoji_50_centre", "pip_33", "collage_2x2", "blend_60",
    "caption_40", "blur_4", "pixelate_8", "jpeg_q95", "jpeg_q90",
}  # fmt: skip


def apply(name: str, picture: Picture, seed: int, others: Sequence[Picture] = ()) -> bytes:
    """Return the bytes of the edited picture. `a+b` is a chain: each step goes through its own file."""
    first, *rest = name.split("+")
    data = EDITS[first].apply(picture, seed, others)
    for step in rest:
        data = EDITS[step].apply(decode(data), seed, others)
    return data


def family(name: str) -> str:
    """Return the family of an edit or of a chain."""
    steps = name.split("+")
    return EDITS[name].family if len(steps) == 1 else ("", "pairs", "triples")[min(len(steps), 3) - 1]


def pairs(seed: int, count: int = 60) -> list[str]:
    """Return names of random chains for `apply`: two thirds pairs, one third triples, in an order that uploads have."""
    rng = np.random.default_rng(seed)
    choice = {
        kind: [e.name for e in EDITS.values() if e.family == kind and e.name not in _LAST_STRAWS] for kind in _ORDER
    }
    chains: dict[str, None] = {}
    while len(chains) < count:
        kinds = np.sort(rng.choice(len(_ORDER), 3 if len(chains) % 3 == 2 else 2, replace=False))
        steps = [choice[_ORDER[kind]][int(rng.integers(len(choice[_ORDER[kind]])))] for kind in kinds]
        chains["+".join(steps)] = None
    return list(chains)
