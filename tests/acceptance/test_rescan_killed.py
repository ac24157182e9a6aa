"""The real command on a real batch: killed twice, resumed, and every input answered once and rightly."""

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from serving import COMMAND, environment, staydown, wait_until

from benchmarks import corpus

KNOWN, TOTAL = 20, 800
EDITS = ("brightness", "rotate90", "grey", "contrast", "noise")


def fill(folder: Path) -> dict[str, str]:
    """Make a folder of small pictures and return what should be said of each."""
    folder.mkdir()
    dice, wanted = random.Random(4), {}
    known = [corpus.picture(seed, 160, 120) for seed in range(KNOWN)]
    others = [corpus.picture(10_000 + seed, 160, 120) for seed in range(60)]
    for number in range(TOTAL):
        kind = dice.choices(["copy", "other", "text", "cut"], [3, 5, 1, 1])[0]
        path = folder / f"{number % 7}" / f"{number:04}.{dice.choice(['jpg', 'mp4', 'bin'])}"
        path.parent.mkdir(exist_ok=True)
        if kind == "copy":
            data = corpus.jpeg(corpus.EDITS[dice.choice(EDITS)](dice.choice(known)), dice.randint(85, 95))
        else:
            data = corpus.jpeg(dice.choice(others), dice.randint(50, 95))
        data = {"text": b"no media" * number, "cut": data[: len(data) // 3]}.get(kind, data)
        path.write_bytes(data)
        wanted[str(path)] = {"copy": "match", "other": "no_match"}.get(kind, "unhashable")
    return wanted


@pytest.mark.slow
def test_a_rescan_that_is_killed_twice_answers_every_input_once(tmp_path: Path) -> None:
    home, media, out = tmp_path / "home", tmp_path / "media", tmp_path / "out.jsonl"
    wanted, known = fill(media), tmp_path / "known"
    known.mkdir()
    for seed in range(KNOWN):
        (known / f"{seed}.png").write_bytes(corpus.encode(corpus.picture(seed, 160, 120), "PNG"))
    assert staydown(home, "enroll", known, "--bank", "b").returncode == 0
    command = [str(COMMAND), "rescan", str(media), "--out", str(out), "--resume", "--json"]
    began = time.monotonic()
    for share in (0.2, 0.6):
        process = subprocess.Popen(command, env=environment(home), stdout=subprocess.DEVNULL)
        wait_until(lambda share=share: out.exists() and out.read_bytes().count(b"\n") >= TOTAL * share, 240)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with out.open("ab") as file:
        file.write(b'{"input": "torn')  # what a power cut leaves
    done = staydown(home, *command[1:], timeout_s=280)
    took_s = time.monotonic() - began
    assert done.returncode == 1, done.stderr
    assert done.stderr == b""
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(found) == TOTAL
    assert {line["input"]: line["verdict"] for line in found} == wanted
    said = json.loads(done.stdout)
    assert said["inputs"] == TOTAL
    assert sum(said["verdicts"].values()) == TOTAL
    assert took_s < 240  # nothing hangs; how fast it is, the benchmarks say
