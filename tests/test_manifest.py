"""Lists of media and of hashes, as people and other programs write them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashing.signals import SignalType, View
from indexer.enroll import ReadyHash
from indexer.errors import InvalidManifest
from indexer.exchange.manifest import Item, expand, read_manifest, walk

A, B, M = "ab" * 32, "cd" * 32, "ef" * 16


def read(tmp_path: Path, text: str | bytes) -> list[Item]:
    path = tmp_path / "list"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_manifest(path)


def pdq(code: str) -> ReadyHash:
    return ReadyHash(SignalType.PDQ, code)


# --- CSV --------------------------------------------------------------------------------

TABLE = f"path,case,labels\na.jpg,7,x;y\nsub/b.jpg,,\n{'/abs/c.jpg'},8, z ;\n"


@pytest.mark.parametrize("form", ["plain", "bom", "crlf", "cr", "blank", "spaces", "quoted"])
def test_csv_of_paths(tmp_path: Path, form: str) -> None:
    text = {
        "plain": TABLE, "bom": "\ufeff" + TABLE, "crlf": TABLE.replace("\n", "\r\n"), "cr": TABLE.replace("\n", "\r"),
        "blank": "\n\n" + TABLE + "\n\n", "spaces": TABLE.replace("path,case", " path , case "),
        "quoted": TABLE.replace("path,case,labels", '"path","case","labels"'),
    }[form]  # fmt: skip
    assert read(tmp_path, text) == [
        Item("a.jpg", tmp_path / "a.jpg", (), "7", ("x", "y")),
        Item("sub/b.jpg", tmp_path / "sub/b.jpg"),
        Item("/abs/c.jpg", Path("/abs/c.jpg"), (), "8", ("z",)),
    ]


@pytest.mark.parametrize("head", ["", "path\n", '{"path": "'])
def test_a_link_is_no_path(tmp_path: Path, head: str) -> None:
    names = ["https://example.org/a.jpg", "http://x/b", "ftp://x/c", "a/https://d"]
    text = "".join((f'{head}{name}"}}' if head.startswith("{") else name) + "\n" for name in names)
    found = read(tmp_path, text if head.startswith("{") else head + text)
    assert found == [Item(name) for name in names[:2]] + [Item(name, tmp_path / name) for name in names[2:]]


def test_csv_of_hashes_is_grouped_by_content(tmp_path: Path) -> None:
    found = read(tmp_path, (
        "content,case,labels,signal_type,hash,quality,timestamp_s,profile,view\n"
        f"one,7,x,pdq,{A},90,1.5,pdq-512/1,trimmed\n"
        f"two,,,md5,{M.upper()},,,,\n"
        f"one,8,y,, {B} ,,,,\n"
        f",,,,{A},,,,\n"
        f",,,,{A},,,,\n"
    ))  # fmt: skip
    whole = ReadyHash(SignalType.PDQ, A, 90, 1.5, "pdq-512/1", View.TRIMMED)
    assert found == [
        Item("one", None, (whole, pdq(B)), "7", ("x",)),
        Item("two", None, (ReadyHash(SignalType.MD5, M),)),
        Item("#4", None, (pdq(A),)),
        Item("#5", None, (pdq(A),)),
    ]


def test_csv_may_hold_both(tmp_path: Path) -> None:
    found = read(tmp_path, f"path,hash\na.jpg,\n,{A}\n")
    assert found == [Item("a.jpg", tmp_path / "a.jpg"), Item("#2", None, (pdq(A),))]


def test_csv_quotes_hold_commas_and_line_ends(tmp_path: Path) -> None:
    found = read(tmp_path, 'path,case\r\n"a,b.jpg","two\r\nlines"\r\n')
    assert found == [Item("a,b.jpg", tmp_path / "a,b.jpg", (), "two\r\nlines")]


# --- JSON Lines -------------------------------------------------------------------------


def test_json_lines(tmp_path: Path) -> None:
    entries = [
        {"path": "a.jpg", "case": 7, "labels": ["x", " ", 5]},
        {
            "signals": [{"hash": A, "signal_type": "pdq", "quality": 80}, {"hash": M, "signal_type": "md5"}],
            "labels": "p;q",
        },
        {"hash": B, "content": "one", "timestamp_s": 2},
        {"hash": A, "content": "one"},
    ]
    text = "\r\n".join(map(json.dumps, entries)) + "\n\n"
    wanted = [
        Item("a.jpg", tmp_path / "a.jpg", (), "7", ("x", "5")),
        Item("#2", None, (ReadyHash(SignalType.PDQ, A, 80), ReadyHash(SignalType.MD5, M)), None, ("p", "q")),
        Item("one", None, (ReadyHash(SignalType.PDQ, B, None, 2.0), pdq(A))),
    ]
    for form in (text, "\ufeff" + text, "\n  \n" + text):
        assert read(tmp_path, form) == wanted


def test_a_line_separator_of_unicode_ends_no_line(tmp_path: Path) -> None:
    name = "a\u2028b\x85c\x0cd.jpg"
    text = json.dumps({"path": name}, ensure_ascii=False)
    assert [item.name for item in read(tmp_path, text)] == [json.loads(text)["path"]] == [name]
    assert [item.name for item in read(tmp_path, f"{name}\nb.jpg")] == [name, "b.jpg"]


# --- plain lists ------------------------------------------------------------------------


def plain(name: str) -> bool:
    """Not what another form begins with."""
    words = {word.strip(' "') for word in name.split(",")}
    return bool(name) and not name.startswith("{") and not {"path", "hash"} & words


texts = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1)


@given(st.lists(texts.map(str.strip).filter(plain)))
def test_anything_else_is_a_list_of_paths(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.mktemp("manifest")
    if names and names[0].startswith("\ufeff"):
        names = names[1:]
    for end in ("\n", "\r\n"):
        found = read(folder, end.join(names) + end)
        assert [item.name for item in found] == names
        assert [item.path for item in found] == [folder / name for name in names]


# --- what is refused --------------------------------------------------------------------

BAD_VALUES = [
    ("hash", "ab"), ("hash", "zz" * 32), ("hash", ""), ("hash", M), ("hash", None), ("hash", 7), ("hash", [A]),
    ("signal_type", "crc32"), ("signal_type", ["pdq"]), ("signal_type", "md5"), ("signal_type", "PDQ"),
    ("quality", "good"), ("quality", 101), ("quality", -1), ("quality", float("inf")), ("quality", float("nan")),
    ("quality", []), ("quality", "1.5"), ("timestamp_s", "soon"), ("timestamp_s", float("inf")), ("timestamp_s", -0.1),
    ("timestamp_s", float("nan")), ("timestamp_s", {}), ("timestamp_s", 10**400), ("profile", "pdq-full/9"),
    ("profile", "imagehash-phash16/1"), ("profile", ["pdq-full/1"]), ("view", "half"), ("view", ["full"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_bad_value_is_refused(tmp_path: Path, name: str, value: object) -> None:
    entry = {"signal_type": "pdq", "hash": A} | {name: value}
    with pytest.raises(InvalidManifest):
        read(tmp_path, json.dumps(entry))
    with pytest.raises(InvalidManifest):
        read(tmp_path, json.dumps({"signals": [{"signal_type": "pdq", "hash": B}, entry]}))
    if isinstance(value, str | int | float):
        with pytest.raises(InvalidManifest):
            read(tmp_path, ",".join(entry) + "\n" + ",".join(map(str, entry.values())) + "\n")


@pytest.mark.parametrize("text", [
    "{", "{}", "{}\n{}", '{"hash": 1}\nno', '{"path": "a"}\n[]', '{"path": "a"}\n7', '{"path": "a"}\nnull',
    '{"signals": []}', '{"signals": "x"}', '{"signals": [7]}', '{"signals": {}}', f'{{"signals": ["{A}"]}}',
    '{"path": ""}', '{"path": "\\ud800"}', '{"a":' * 100_000, "hash\n\n,\n", "hash,content\n,one\n",
    'hash\n"' + "x" * 200_000 + '"', "hash\nab",
])  # fmt: skip
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        read(tmp_path, text)
    assert caught.value.word == "invalid_manifest"


def test_a_file_that_cannot_be_read_as_text_is_refused(tmp_path: Path) -> None:
    for data in (b"\xff\xfe\x00", b"a.jpg\n\xe9.jpg"):
        with pytest.raises(InvalidManifest):
            read(tmp_path, data)
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InvalidManifest):
            read_manifest(path)


def test_an_empty_file_lists_nothing(tmp_path: Path) -> None:
    assert [read(tmp_path, text) for text in ("", "\n\n", "\ufeff", "path,case\n", "hash\n")] == [[]] * 5


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_list_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    try:
        found = read(tmp_path_factory.mktemp("manifest"), data)
    except InvalidManifest:
        return
    assert all(item.name for item in found)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(A),
    lambda inside: st.lists(inside, max_size=2) | st.dictionaries(st.text(max_size=3), inside, max_size=2),
    max_leaves=4,
)  # fmt: skip
NAMES = st.sampled_from(["path", "hash", "signal_type", "quality", "timestamp_s", "profile", "view", "content", "case",
                         "labels", "signals"])  # fmt: skip


@given(st.dictionaries(NAMES, json_values))
def test_any_object_is_an_item_or_refused(tmp_path_factory: pytest.TempPathFactory, entry: dict[str, object]) -> None:
    try:
        found = read(tmp_path_factory.mktemp("manifest"), json.dumps(entry))
    except InvalidManifest:
        return
    assert len(found) == 1
    assert (found[0].path is None) is bool(found[0].hashes)
    assert isinstance(found[0].case, str | None)


# --- folders ----------------------------------------------------------------------------


def test_folders_are_walked_in_order_without_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "b/1.jpg", "a.jpg", ".hidden", ".git/x", "b/.y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    inside = [tmp_path / name for name in ("a.jpg", "b/1.jpg", "b/2.jpg")]
    assert list(walk(tmp_path)) == [Item(str(path), path) for path in inside]
    named = [tmp_path / "b", tmp_path / "absent.jpg", tmp_path / "a.jpg"]
    wanted = [tmp_path / "b/1.jpg", tmp_path / "b/2.jpg", *named[1:]]
    assert list(expand(named)) == [Item(str(path), path) for path in wanted]


@pytest.mark.parametrize("line", [
    '{"hash": "%s", "case": "a\\u0000b"}', '{"hash": "%s", "labels": ["a", "b\\u0000"]}', "hash,case\n%s,a\0b",
])  # fmt: skip
def test_what_no_database_keeps_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "list").write_text(line % ("5a" * 32))
    with pytest.raises(InvalidManifest):
        read_manifest(tmp_path / "list")
