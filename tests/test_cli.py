"""The command line's contract, run in this process: exit statuses, what goes where, --json."""

import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from serving import staydown

from benchmarks import generic_frames
from service import cli, output

Run = Callable[..., "Ran"]
HASH = "f8f8f0cee0f4a84f06370a22038f63f0b36e2ed596621e1d33e6b39c4e9c9b22"


class Ran:
    """How a command ended and what it said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    def failed(self, word: str) -> bool:
        """Hold an error to the contract: status 2, one line on stderr, nothing on stdout."""
        assert (self.code, self.out) == (2, ""), self.err
        assert len(self.err.splitlines()) == 1, self.err
        assert self.err.startswith("staydown: ")
        assert word in self.err
        return True


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Run commands with a home of the test's own."""
    monkeypatch.setenv("STAYDOWN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STAYDOWN_WORKERS", "1")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(os, "nice", int)  # this process is not the command's own

    def command(*words: str | Path, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "argv", ["staydown", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return Ran(int(ended.value.code or 0), out, err)

    return command


@pytest.fixture
def media(tmp_path: Path, photo_jpeg: bytes, copy_jpeg: bytes, other_jpeg: bytes) -> Path:
    """A folder of a known picture, a copy of it, another one, and a text."""
    folder = tmp_path / "media"
    folder.mkdir()
    for name, data in {"known.jpg": photo_jpeg, "copy.jpg": copy_jpeg, "other.jpg": other_jpeg,
                       "text.txt": b"no media"}.items():  # fmt: skip
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def enrolled(run: Run, media: Path) -> str:
    """The content_id of the known picture in the bank `b`."""
    return str(run("enroll", media / "known.jpg", "--bank", "b", "--json").lines[0]["content_id"])


def commands() -> list[list[str]]:
    found: list[list[str]] = [[]]
    for name, command in typer.main.get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        found.append([name])
        found += [[name, inner] for inner in getattr(command, "commands", {})]
    return found


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_has_help(run: Run, command: list[str]) -> None:
    ran = run(*command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert "Usage" in ran.out


def test_the_contract_s_commands_are_there() -> None:
    wanted = ["serve", "hash", "enroll", "check", "rescan", "withdraw", "bank create", "bank list", "bank show",
              "bank set", "bank delete", "key create", "key list", "key revoke", "import", "export", "audit verify",
              "doctor"]  # fmt: skip
    assert {tuple(words.split()) for words in wanted} <= {tuple(words) for words in commands()}


@pytest.mark.parametrize("words", [["--nonsense"], ["nonsense"], ["check"], ["enroll"], ["rescan"], ["withdraw", "c"],
                                   ["bank"], ["key", "create"], ["key", "create", "--role", "root"],
                                   ["serve", "--port", "x"], ["hash", "x", "--type", "ssdeep"],
                                   ["enroll", "x"], ["check", "x", "--bad"]])  # fmt: skip
def test_wrong_usage_is_2(run: Run, words: list[str]) -> None:
    ran = run(*words)
    assert ran.code == 2
    assert "Traceback" not in ran.err


# --- what the guards hold ---------------------------------------------------------------------


def test_held_frames_are_shown_released_and_audited(run: Run, media: Path, tmp_path: Path) -> None:
    listed = next(iter(json.loads(generic_frames.OUT.read_text()).values()))[0]
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"content,hash\na,{listed}\nb,{HASH}\n")
    ran = run("enroll", "--bank", "b", "--manifest", manifest)
    assert "a: held, full: generic, 1 frames" in ran.err
    assert "held: 1 generic (warning: held)" in ran.out
    assert run("bank", "audit", "b", "--json").lines == []

    content_id = next(
        one["content_id"] for one in run("enroll", "--bank", "b", "--manifest", manifest, "--json").lines if one["held"]
    )
    asked = tmp_path / "asked.csv"
    asked.write_text(f"hash\n{listed}\n")

    def verdicts() -> dict[str, int]:
        out = tmp_path / "out.jsonl"
        out.unlink(missing_ok=True)
        return dict(run("rescan", asked, "--out", out, "--json").lines[0]["verdicts"])

    assert verdicts() == {"no_match": 1}
    assert run("release", content_id, "--json").lines == [{"content_id": content_id, "rows": 1}]
    assert verdicts() == {"match": 1}
    assert run("hold", content_id, "--reason", "hub", "--json").lines == [{"content_id": content_id, "rows": 0}]
    assert run("hold", content_id, "--reason", "generic", "--json").lines == [{"content_id": content_id, "rows": 1}]
    assert verdicts() == {"no_match": 1}
    assert run("release", "c_nothing").failed("unknown_content")
    assert run("hold", content_id, "--reason", "nonsense").code == 2


def test_an_audit_of_a_bank_lists_and_holds(run: Run, media: Path) -> None:
    run("enroll", media / "copy.jpg", "--bank", "b")
    run("bank", "create", "stock", "--lawful")
    assert run("bank", "audit", "b", "--json").lines == []
    run("enroll", media / "known.jpg", "--bank", "stock")
    for _ in range(2):
        (found,) = run("bank", "audit", "b", "--json").lines
        assert (found["reason"], found["frames"], found["timestamp_s"]) == ("benign", 1, None)
    assert run("bank", "audit", "b", "--hold").code == 0
    assert run("bank", "audit", "b", "--json").lines == []
    assert run("bank", "audit", "none").failed("unknown_bank")


# --- check ----------------------------------------------------------------------------------


def test_the_exit_status_of_check(run: Run, media: Path, enrolled: str) -> None:
    assert run("check", media / "other.jpg").code == 0
    assert run("check", media / "copy.jpg").code == 1
    assert run("check", media / "text.txt").code == 3
    assert run("check", media / "other.jpg", media / "text.txt").code == 3
    assert run("check", media / "copy.jpg", media / "text.txt").code == 1
    assert run("check", media / "nowhere.jpg").code == 3
    assert run("check", media / "copy.jpg", "--bank", "none").failed("unknown_bank")
    run("bank", "set", "b", "--policy", "review-only")
    assert run("check", media / "copy.jpg").code == 1


def test_check_says_one_json_object_a_line_of_one_shape(run: Run, media: Path, enrolled: str) -> None:
    ran = run("check", media, media / "nowhere.jpg", "http://127.0.0.1/", "--json")
    assert (ran.code, ran.err) == (1, "")
    assert {Path(line["input"]).name: (line["verdict"], line["reason"]) for line in ran.lines} == {
        "known.jpg": ("match", None), "copy.jpg": ("match", None), "other.jpg": ("no_match", None),
        "text.txt": ("unhashable", "unsupported_media"), "nowhere.jpg": ("unhashable", "unreadable_file"),
        "127.0.0.1": ("unhashable", "link_refused"),
    }  # fmt: skip
    shape = {"input", "request_id", "verdict", "reason", "media", "matches", "suppressed", "bank_revision",
             "policy"}  # fmt: skip
    assert {frozenset(line) for line in ran.lines} == {frozenset(shape)}
    matches = next(line for line in ran.lines if line["input"].endswith("copy.jpg"))["matches"]
    assert [match["content_id"] for match in matches] == [enrolled]


def test_check_shows_a_table_for_people(run: Run, media: Path, enrolled: str) -> None:
    ran = run("check", media / "copy.jpg", media / "text.txt")
    assert f"b/{enrolled}" in ran.out
    assert "unsupported_media" in ran.out
    assert ran.err == ""


def test_check_reads_standard_input(run: Run, enrolled: str, copy_jpeg: bytes, other_jpeg: bytes) -> None:
    assert run("check", "-", stdin=copy_jpeg).code == 1
    ran = run("check", "-", "--json", stdin=other_jpeg)
    assert (ran.code, ran.lines[0]["input"], ran.lines[0]["verdict"]) == (0, "-", "no_match")
    assert run("check", "-", stdin=b"").code == 3


def test_names_that_a_terminal_would_obey(run: Run, media: Path, copy_jpeg: bytes, enrolled: str) -> None:
    names = ["[red].jpg", "[bold]x.jpg", "\x1b[2J.jpg", "a\nb.jpg", ":smile:.jpg", "-x.jpg", "ü.jpg"]
    odd = media / "odd"
    odd.mkdir()
    for name in names:
        (odd / name).write_bytes(copy_jpeg)
    (Path(odd) / "bad\udcff.jpg").write_bytes(b"no media")
    ran = run("check", odd)
    assert ran.code == 1
    assert "\x1b" not in ran.out
    for shown in ("[red].jpg", "[bold]x.jpg", "\\x1b[2J.jpg", "a\\nb.jpg", ":smile:.jpg", "ü.jpg", "bad\\udcff.jpg"):
        assert shown in ran.out
    assert {Path(line["input"]).name for line in run("check", odd, "--json").lines} == {*names, "bad\udcff.jpg"}
    failed = run("enroll", odd, "--bank", "c")
    assert failed.code == 2
    assert "bad\\udcff.jpg: unsupported_media" in failed.err


# --- hash and enroll ------------------------------------------------------------------------


def test_hash_stores_nothing(run: Run, media: Path, tmp_path: Path) -> None:
    ran = run("hash", media / "known.jpg", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert {signal["signal_type"] for signal in ran.lines[0]["signals"]} == {"sha256", "md5", "pdq"}
    assert not (tmp_path / "home").exists()
    assert run("hash", media / "known.jpg", "--type", "dhash").out.count("dhash") >= 1
    ran = run("hash", media, "--json")
    assert (ran.code, len(ran.lines)) == (2, 3)
    assert "text.txt: unsupported_media" in ran.err


def test_hash_says_that_keypoints_have_no_hex_form(run: Run, media: Path) -> None:
    ran = run("hash", media / "known.jpg", "--type", "keypoints")
    assert (ran.code, ran.out) == (2, "")
    assert "known.jpg: invalid_hash: keypoints have no hex form" in ran.err


def test_the_same_content_twice_has_one_id(run: Run, media: Path, enrolled: str) -> None:
    again = run("enroll", media / "known.jpg", "--bank", "b", "--json").lines[0]
    assert (again["content_id"], again["created"]) == (enrolled, False)
    elsewhere = run("enroll", media / "known.jpg", "--bank", "c", "--json")
    assert elsewhere.lines[0]["content_id"] != enrolled
    assert elsewhere.err.strip() == "created bank c"


def test_a_folder_is_enrolled_and_what_fails_is_named(run: Run, media: Path) -> None:
    ran = run("enroll", media, "--bank", "b", "--case", "C-9", "--label", "x", "--label", "y", "--json")
    assert ran.code == 2
    assert [Path(line["input"]).name for line in ran.lines] == ["copy.jpg", "known.jpg", "other.jpg"]
    assert "text.txt: unsupported_media" in ran.err
    contents = run("bank", "contents", "b", "--json").lines
    assert [(c["case"], c["labels"]) for c in contents] == [("C-9", ["x", "y"])] * 3


def test_a_manifest_of_files_and_of_hashes(run: Run, media: Path) -> None:
    rows = media / "list.csv"
    rows.write_text(f"path,signal_type,hash,case\nknown.jpg,,,C-1\n,pdq,{HASH},C-2\n")
    ran = run("enroll", "--manifest", rows, "--bank", "b", "--json")
    assert (ran.code, len(ran.lines)) == (0, 2)
    assert {c["case"] for c in run("bank", "contents", "b", "--json").lines} == {"C-1", "C-2"}
    lines = media / "list.jsonl"
    lines.write_text(json.dumps({"signals": [{"signal_type": "pdq", "hash": HASH}]}) + "\n")
    assert run("check", media / "copy.jpg").code == 1
    out = media / "out.jsonl"
    assert run("rescan", lines, "--out", out, "--json").code == 1
    assert json.loads(out.read_text())["verdict"] == "match"


def test_one_entry_that_a_bank_does_not_keep_does_not_end_the_others(run: Run, media: Path) -> None:
    run("bank", "create", "b", "--type", "pdq")
    rows = media / "list.csv"
    rows.write_text(f"signal_type,hash\nmd5,{HASH[:32]}\npdq,{HASH}\n")
    ran = run("enroll", "--manifest", rows, "--bank", "b", "--json")
    assert (ran.code, len(ran.lines)) == (2, 1)
    assert "nothing_to_enroll" in ran.err


@pytest.mark.parametrize("text", ["", "{", '{"a": 1}', "[]", '{"path": "x"}\nnull', "path,hash\n,zz\n", "\xff\xfe"])
def test_a_manifest_that_cannot_be_read(run: Run, tmp_path: Path, text: str) -> None:
    file = tmp_path / "list"
    file.write_bytes(text.encode("latin-1"))
    assert run("enroll", "--manifest", file, "--bank", "b").code == 2
    assert run("enroll", "--manifest", tmp_path / "none", "--bank", "b").failed("invalid_manifest")


def test_withdrawn_is_gone(run: Run, media: Path, enrolled: str) -> None:
    ran = run("withdraw", enrolled, "--reason", "mistake", "--json")
    assert (ran.code, ran.lines[0]["content_id"]) == (0, enrolled)
    assert run("check", media / "copy.jpg", media / "known.jpg").code == 0
    assert run("withdraw", enrolled, "--reason", "again").code == 0
    assert run("withdraw", enrolled, "c_none", "--reason", "x").failed("unknown_content")


# --- rescan ---------------------------------------------------------------------------------


def test_rescan_writes_a_line_for_every_input(run: Run, media: Path, enrolled: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    ran = run("rescan", media, "--out", out, "--json")
    assert ran.code == 1
    assert ran.lines == [{"inputs": 4, "verdicts": {"match": 2, "no_match": 1, "unhashable": 1}, "out": str(out)}]
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert {Path(line["input"]).name for line in found} == {"copy.jpg", "known.jpg", "other.jpg", "text.txt"}
    assert len({frozenset(line) for line in found}) == 1
    assert out.stat().st_mode & 0o777 == 0o600
    assert run("rescan", media, "--out", out).failed("use --resume")
    assert run("rescan", media, "--out", out, "--resume").code == 1
    assert len(out.read_text().splitlines()) == 4


def test_the_exit_status_of_rescan(run: Run, media: Path, enrolled: str, tmp_path: Path) -> None:
    def status(*names: str) -> int:
        file = tmp_path / "list.txt"
        file.write_text("".join(f"media/{name}\n" for name in names))
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}.jsonl"
        return run("rescan", file, "--out", out).code

    assert status("other.jpg") == 0
    assert status("copy.jpg", "none.jpg") == 1
    assert status("other.jpg", "none.jpg") == 3
    assert run("rescan", tmp_path / "none", "--out", tmp_path / "o").failed("invalid_manifest")
    assert run("rescan", media, "--out", tmp_path / "none" / "o").failed("No such file")
    assert run("rescan", media, "--out", media).failed("")
    assert run("rescan", media, "--out", tmp_path / "o", "--bank", "none").failed("unknown_bank")


# --- banks, keys, lists ---------------------------------------------------------------------


def test_a_bank_from_its_making_to_its_end(run: Run) -> None:
    assert (
        run("bank", "create", "b", "--description", "x", "--policy", "strict", "--json").lines[0]["policy"] == "strict"
    )
    assert run("bank", "create", "b").failed("bank_exists")
    assert run("bank", "create", "a/b").failed("invalid_bank")
    assert run("bank", "create", "c", "--policy", "lax").failed("invalid_request")
    assert run("bank", "set", "b", "--disabled", "--json").lines[0]["enabled"] is False
    assert run("bank", "show", "b", "--json").lines[0]["description"] == "x"
    assert [bank["bank"] for bank in run("bank", "list", "--json").lines] == ["b"]
    assert "strict" in run("bank", "list").out
    for answer in (b"n\n", b"", b"\n"):
        kept = run("bank", "delete", "b", stdin=answer)
        assert (kept.code, kept.out) == (2, "")
    assert run("bank", "delete", "b", stdin=b"y\n").code == 0
    assert run("bank", "delete", "b", "--yes").failed("unknown_bank")
    assert run("bank", "list", "--json").out == ""


def test_a_key_is_shown_once(run: Run, tmp_path: Path) -> None:
    ran = run("key", "create", "--role", "check", "--name", "app", "--json")
    assert (ran.code, ran.err, len(ran.lines)) == (0, "", 1)
    assert set(ran.lines[0]) == {"key_id", "key", "role"}
    assert ran.lines[0]["role"] == "check"
    key = ran.lines[0]["key"]
    listed = run("key", "list", "--json")
    assert [(k["key_id"], k["role"], k["name"]) for k in listed.lines] == [(ran.lines[0]["key_id"], "check", "app")]
    assert key not in listed.out
    for file in (tmp_path / "home").iterdir():
        assert key.encode() not in file.read_bytes()
    assert run("key", "revoke", ran.lines[0]["key_id"]).code == 0
    assert run("key", "list", "--json").lines[0]["revoked_at"]
    assert run("key", "revoke", "k_none").failed("unknown_key")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_what_goes_out_comes_in_again(run: Run, media: Path, enrolled: str, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"list.{form}"
    count = run("export", form, file, "--bank", "b", "--json").lines[0]["hashes"]
    assert count >= 3
    assert file.stat().st_mode & 0o777 == 0o600
    assert run("export", form, file, "--bank", "b").failed("exists")
    assert run("export", form, tmp_path / "x", "--bank", "none").failed("unknown_bank")
    run("bank", "create", "c")
    said = run("import", form, file, "--bank", "c", "--json").lines[0]
    assert (said["contents"], said["new"]) == (1, 1)
    assert run("import", form, file, "--bank", "c", "--json").lines[0]["known"] == 1
    assert run("check", media / "copy.jpg", "--bank", "c").code == 1
    assert run("import", "xml", file, "--bank", "c").failed("unknown format")
    assert run("import", form, tmp_path / "none", "--bank", "c").failed("invalid_manifest")


def test_the_audit_log_is_checked(run: Run, enrolled: str) -> None:
    ran = run("audit", "verify", "--json")
    assert (ran.code, ran.lines[0]["ok"], ran.lines[0]["first_broken"]) == (0, True, None)


def test_a_home_that_cannot_be(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("STAYDOWN_HOME", str(tmp_path / "file" / "home"))
    assert run("bank", "list").failed("store_broken")


def test_what_nobody_foresaw_is_2_and_never_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr(cli, "read_settings", fail)
    ran = run("check", "x")
    assert ran.failed("internal_error: RuntimeError")
    assert "canary" not in ran.err


def test_there_is_no_bar_where_there_is_no_terminal(tmp_path: Path, media: Path) -> None:
    done = staydown(tmp_path / "home", "rescan", media, "--out", tmp_path / "o.jsonl", workers="1")
    assert done.returncode == 3  # nothing is known, and one input is a text
    assert done.stderr == b""
    assert b"\x1b" not in done.stdout


def test_completion_is_offered(run: Run) -> None:
    assert "--install-completion" in run("--help").out


def test_evidence_in_one_line() -> None:
    match = {"bank": "b", "content_id": "c", "signal_type": "pdq", "transform": "mirror", "distance_bits": 3,
                 "inliers": None,
             "segments": [{"query_s": [0.0, 1.5], "reference_s": [2.0, 3.5], "frames": 4, "speed": 1.0}]}  # fmt: skip
    said = output.evidence({"matches": [match], "reason": None})
    assert said == "b/c, pdq, mirror, 3 bits, 0.0–1.5 s shows 2.0–3.5 s"
    faster = match | {"segments": [{"query_s": [0.0, 2.0], "reference_s": [2.0, 4.5], "frames": 4, "speed": 1.25}]}
    assert output.evidence({"matches": [faster], "reason": None}).endswith("2.0–4.5 s at speed 1.25")
    assert output.evidence({"matches": [], "reason": "truncated"}) == "truncated"
    assert re.search("bits", output.evidence({"matches": [match | {"distance_bits": None}], "reason": None})) is None


def test_a_bank_can_be_lawful(run: Run) -> None:
    assert run("bank", "create", "bad").code == 0
    made = run("bank", "create", "known", "--lawful", "--suppresses", "bad", "--json")
    assert (made.lines[0]["lawful"], made.lines[0]["suppresses"]) == (True, ["bad"])
    changed = run("bank", "set", "known", "--suppresses-all", "--json")
    assert (changed.lines[0]["lawful"], changed.lines[0]["suppresses"]) == (True, None)
    assert run("bank", "set", "known", "--no-lawful", "--json").lines[0]["lawful"] is False
    assert run("bank", "set", "known", "--suppresses", "unheard-of").failed("invalid_bank")
