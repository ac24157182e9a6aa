"""The registry: 109 single edits by name, harder ones, sweeps, and chains by chance."""

from collections.abc import Sequence

import numpy as np

from benchmarks.corpus import Picture
from benchmarks.robustness import edits_dials, edits_hard
from benchmarks.robustness.edits_base import Edit, Rng, decode
from benchmarks.robustness.edits_dials import Dial
from benchmarks.robustness.edits_drawn import DRAWN
from benchmarks.robustness.edits_scene import SCENE
from benchmarks.robustness.edits_shape import SHAPE
from benchmarks.robustness.edits_tone import TONE

EDITS: dict[str, Edit] = {edit.name: edit for edit in (*SHAPE, *TONE, *DRAWN, *SCENE)}
FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(edit.family for edit in EDITS.values()))
_NAMED: dict[str, Edit] = EDITS | edits_hard.HARDER

# The order in which people do such things. One of each at most, so that nothing undoes another.
_ORDER = ("dihedral", "rotation", "crop", "colour", "overlay", "blur_noise", "embedding", "frame", "ui", "scale",
          "camera", "codec")  # fmt: skip
# What chains choose from beside the dials: what has no strength, as far as people do it.
_WITHOUT_STRENGTH = (
    "mirror", "rot90_90", "rot90_180", "rot90_270", "grey", "meme_text", "censor_blur_15", "collage_1x2",
    "canvas_9x16_blur", "screenshot_light", "screenshot_dark", "square", "photo_of_screen",
)  # fmt: skip
CHAINS: dict[str, tuple[int, ...]] = {"pairs": (2,), "triples": (3,), "chains": (3, 4, 5)}  # how many edits in a row
SWEEPS = "sweeps"


def edit_of(name: str) -> Edit:
    """Return a single edit by name; KeyError, ValueError."""
    return _NAMED[name] if name in _NAMED else edits_dials.dialled(name)


def apply(name: str, picture: Picture, seed: int, others: Sequence[Picture] = ()) -> bytes:
    """Return the bytes of the edited picture. `a+b` is a chain: each step goes through its own file."""
    first, *rest = name.rpartition(":")[2].split("+")
    data = edit_of(first).apply(picture, seed, others)
    for step in rest:
        data = edit_of(step).apply(decode(data), seed, others)
    return data


def family(name: str) -> str:
    """Return the family of an edit; of a chain `pairs`, `triples` or `chains`, of a sweep `sweeps`."""
    kind, _, edit = name.rpartition(":")
    return kind or edit_of(edit).family


def chains(kind: str, seed: int, count: int) -> list[str]:
    """Return names of random chains for `apply`: edits of different families in an order that uploads have.

    The families are drawn, then an edit of each, then its strength, as DISC21 did.
    """
    rng = np.random.default_rng([seed, len(kind)])
    choice = _by_family()
    found: dict[str, None] = {}
    while len(found) < count:
        length = int(rng.choice(CHAINS[kind]))
        families = np.sort(rng.choice(len(_ORDER), length, replace=False)).tolist()
        steps = [_drawn(choice[_ORDER[family]], rng) for family in families]
        found[f"{kind}:{'+'.join(steps)}"] = None
    return list(found)


def _by_family() -> dict[str, list[Dial | Edit]]:
    found: dict[str, list[Dial | Edit]] = {}
    for each in edits_dials.DIALS.values():
        found.setdefault(each.family, []).append(each)
    for name in _WITHOUT_STRENGTH:
        found.setdefault(EDITS[name].family, []).append(EDITS[name])
    return found


def _drawn(choice: Sequence[Dial | Edit], rng: Rng) -> str:
    each = choice[int(rng.integers(len(choice)))]
    return each.drawn(rng) if isinstance(each, Dial) else each.name


def chosen(text: str, seed: int, count: int) -> list[str]:
    """Return the names that words with commas between stand for; ValueError.

    A word is `all` (the 109), `pairs`, `triples` or `chains` (`count` of each), `harder`,
    `sweeps`, a family, an edit, or a dial with its value.
    """
    found: dict[str, None] = {}
    for word in text.split(","):
        found |= dict.fromkeys(_meant(word, seed, count))
    return list(found)


def _meant(word: str, seed: int, count: int) -> list[str]:
    if word in CHAINS:
        return chains(word, seed, count)
    if word == SWEEPS:
        return [f"{SWEEPS}:{name}" for name in edits_dials.swept()]
    if word == "harder":
        return edits_hard.at_hand()
    if word in ("all", *FAMILIES):
        return [name for name, edit in EDITS.items() if word in ("all", edit.family)]
    try:
        return [edit_of(word).name]
    except (KeyError, ValueError) as error:
        raise ValueError(f"there is no edit or family {word}") from error
