"""Every kind of source gives the same items; what can't be read is a failure in its place and costs no neighbour."""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from zstore.embed.picking import LOOKED_AT
from zstore.embed.sources import read
from zstore.embed.types import Failure, Item

DOCS = [("a", "first text", "A"), ("b", "zwölf Boxkämpfer 例", "B"), ("c", 'he said "no", and\nleft', "")]


def jsonl(rows: Any = DOCS) -> bytes:
    return b"".join(json.dumps({"id": i, "text": t, "title": k}, ensure_ascii=False).encode() + b"\n" for i, t, k in rows)


CSV = 'id,text,title\na,first text,A\nb,zwölf Boxkämpfer 例,B\nc,"he said ""no"", and\nleft",\n'.encode()


def found(source: Any, **options: Any) -> list[tuple[Any, Any, Any]]:
    """The items, all of which have a title."""
    items = list(read(source, keep=["title"], **options))
    assert not [item for item in items if isinstance(item, Failure)]
    return [(item.id, item.text, item.fields["title"]) for item in items if isinstance(item, Item)]


def put(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


# --- formats

@pytest.mark.parametrize(("name", "content"), [
    ("docs.jsonl", jsonl()), ("docs.ndjson", jsonl()), ("docs.csv", CSV), ("docs.CSV", CSV),
    ("crlf.jsonl", jsonl().replace(b"\n", b"\r\n")),
    ("bom.jsonl", b"\xef\xbb\xbf" + jsonl()), ("bom.csv", b"\xef\xbb\xbf" + CSV),
    ("blank.jsonl", b"\n \r\n" + jsonl() + b"\n\n"), ("end.jsonl", jsonl()[:-1]), ("end.csv", CSV[:-1]),
    ("docs.jsonl.gz", gzip.compress(jsonl())),
    ("members.jsonl.gz", gzip.compress(jsonl()[:20]) + gzip.compress(jsonl()[20:])),
    ("no-name-of-gzip.jsonl", gzip.compress(jsonl())), ("docs.csv.gz", gzip.compress(CSV)),
], ids=lambda value: value if isinstance(value, str) else "")
def test_records(name: str, content: bytes, tmp_path: Path) -> None:
    assert found(put(tmp_path, name, content)) == DOCS


def test_csv_of_other_systems(tmp_path: Path) -> None:
    crlf = put(tmp_path, "crlf.csv", b'id,text,title\r\na,first text,A\r\n\r\nb,"two\r\nlines",B\r\n')
    assert found(crlf) == [DOCS[0], ("b", "two\r\nlines", "B")]
    tabs = put(tmp_path, "tabs.tsv", b"id\ttext\ttitle\na\tfirst, text\tA\n")
    assert found(tabs) == [("a", "first, text", "A")]


def test_other_names_of_columns_and_a_format_that_no_name_tells(tmp_path: Path) -> None:
    path = put(tmp_path, "export", b'{"key": 7, "body": "text", "n": null}\n')
    (item,) = read(path, id="key", text="body", keep=("n", "key"), format="jsonl")
    assert item == Item(7, "text", {"n": None, "key": 7}, f"{path} line 1")


def test_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer: Any = io.BytesIO(gzip.compress(jsonl()))

    monkeypatch.setattr("sys.stdin", Stdin)
    assert found("-") == DOCS
    Stdin.buffer = io.BufferedReader(io.BytesIO(CSV))
    assert found("-", format="csv") == DOCS
    with pytest.raises(ValueError, match="stdin can't be of the format parquet"):
        read("-", format="parquet")


def test_several_sources_and_patterns(tmp_path: Path) -> None:
    one, two = put(tmp_path, "p-1.jsonl", jsonl(DOCS[:2])), put(tmp_path, "p-2.csv", b"id,text,title\nz,last,Z\n")
    expected = [*DOCS[:2], ("z", "last", "Z")]
    assert found([one, Path(two)]) == expected == found((one, two)) == found(str(tmp_path / "p-*"))
    assert list(read([])) == []


def test_fsspec_urls() -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    fs.pipe_file("/sources/a.jsonl.gz", gzip.compress(jsonl()))
    fs.pipe_file("/texts/b.txt", b"two")
    fs.pipe_file("/texts/deep/a.txt", b"one")
    fs.pipe_file("/texts/.git/x.txt", b"hidden")
    try:
        assert found("memory://sources/a.jsonl.gz") == DOCS == found("memory://sources/*.gz") == found("memory://sources")
        texts = [(item.id, item.text) for item in read("memory://texts") if isinstance(item, Item)]
        assert texts == [("b.txt", "two"), ("deep/a.txt", "one")]
        with pytest.raises(FileNotFoundError, match="memory://sources/none"):
            read("memory://sources/none.jsonl")
        with pytest.raises(ValueError, match="nobody"):
            read("nobody://x/y.jsonl")
    finally:
        fs.rm("/sources", recursive=True)
        fs.rm("/texts", recursive=True)


def test_credentials_stay_out_of_messages() -> None:
    from zstore.embed.files import Place

    place = Place.of("memory://user:secret@host/docs.jsonl?token=secret")
    assert place.shown == "memory://host/docs.jsonl" and "secret" not in repr(place.shown)


# --- text files and folders

def test_a_folder_of_texts(tmp_path: Path) -> None:
    put(tmp_path, "b.txt", b"\xef\xbb\xbftwo\r\n")
    put(tmp_path, "deep/er/a.md", gzip.compress(b"one"))
    put(tmp_path, ".git/config", b"hidden")
    put(tmp_path, "deep/.DS_Store", b"hidden")
    put(tmp_path, "__init__.py", b"")
    os.mkfifo(tmp_path / "pipe")
    items = [item for item in read(str(tmp_path)) if isinstance(item, Item)]
    assert [(item.id, item.text) for item in items] == [("__init__.py", ""), ("b.txt", "two\r\n"), ("deep/er/a.md", "one")]
    assert items[1].place == f"{tmp_path}/b.txt"


def test_bad_text_files_are_failures_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zstore.embed.sources.MOST", 100)
    put(tmp_path, "1.txt", b"ab\xffc")
    put(tmp_path, "2.txt", b"x" * 101)
    put(tmp_path, "3.txt", b"x" * 100)
    put(tmp_path, "4.txt.gz", gzip.compress(b"cut short")[:-9])
    one, two, three, four = read(tmp_path)
    assert isinstance(one, Failure) and (one.id, one.stage) == ("1.txt", "source") and "not UTF-8: byte 0xff at 2" in one.reason
    assert isinstance(two, Failure) and "longer than" in two.reason
    assert isinstance(three, Item) and isinstance(four, Failure) and "can't be read" in four.reason


def test_one_text_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "sub/a.txt", b"one")
    monkeypatch.chdir(tmp_path)
    assert list(read("sub/a.txt")) == [Item("sub/a.txt", "one", place="sub/a.txt")]
    ids = [item.id for item in read(["./sub/a.txt", "sub/../sub//a.txt", Path("sub/a.txt"), "./sub/*.txt"])]
    assert ids == ["sub/a.txt"] * 4
    with pytest.raises(ValueError, match="no columns, so 'title' can't be kept"):
        read("sub/a.txt", keep=["title"])


def test_a_folder_of_tables(tmp_path: Path) -> None:
    put(tmp_path, "part-1.jsonl", jsonl(DOCS[:1]))
    put(tmp_path, "part-2.jsonl.gz", gzip.compress(jsonl(DOCS[1:])))
    put(tmp_path, "_SUCCESS", b"")
    assert found(tmp_path) == DOCS
    put(tmp_path, "README", b"which of them?")
    with pytest.raises(ValueError, match=r"holds tables \(part-1.jsonl\) and other files \(README\)"):
        read(tmp_path)
    assert len(list(read(tmp_path, format="text"))) == 4


def test_an_empty_folder_and_an_empty_file_have_no_items(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for name in ("a.jsonl", "a.csv", "a.jsonl.gz", "head.csv"):
        assert list(read(put(tmp_path, name, b"id,text\n" if name == "head.csv" else b""))) == []
    assert list(read(tmp_path / "none")) == []


def test_stores_and_their_ledgers_are_no_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "tx/a.txt", b"one")
    put(tmp_path, "tx/st.zarr/zarr.json", b"{}")
    put(tmp_path, "tx/st.zarr/vectors/c/0", b"x")
    put(tmp_path, "tx/st.zarr.failures.jsonl", b"{}\n")
    monkeypatch.chdir(tmp_path)
    for source in ("tx", "./tx/", "tx/**", "tx/*", str(tmp_path / "tx"), tmp_path / "tx"):
        for to in (None, "tx/st.zarr"):
            assert [item.id.removeprefix("tx/").rpartition("/")[2] for item in read(source, to=to)] == ["a.txt"], source
    assert [item.id for item in read(["tx/a.txt", "tx/st.zarr", "tx/st.zarr.failures.jsonl"], to="tx/st.zarr")] == ["tx/a.txt"]
    with pytest.warns(UserWarning, match=r"tx/st\.zarr is a Zarr store, and is left out"):
        assert len(list(read(["tx/a.txt", "tx/st.zarr"]))) == 1
    for source in ("tx/st.zarr", "tx/st.zarr.failures.jsonl"):
        with pytest.raises(ValueError, match="and no source of texts"):
            read(source)


def test_a_store_that_is_being_made_is_no_text_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "tx/a.jsonl", jsonl())
    put(tmp_path, "tx/deep/st.zarr/zstore/1", b"no zarr.json yet")
    put(tmp_path, "tx/deep/st.zarr.failures.jsonl", b"{}\n")
    (tmp_path / "link").symlink_to(tmp_path / "tx")
    monkeypatch.chdir(tmp_path)
    assert found("tx", to="./tx/deep/st.zarr/") == DOCS == found(tmp_path / "tx", to=Path("link/deep/st.zarr"))
    assert found("tx/**/*.jsonl", to=tmp_path / "tx/deep/st.zarr") == DOCS


def test_a_store_in_a_bucket_is_no_text() -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    for name in ("a.txt", "st.zarr/zarr.json", "st.zarr/c/0", "st.zarr.failures.jsonl", "new.zarr.failures.jsonl"):
        fs.pipe_file(f"/tx/{name}", b"one")
    try:
        assert len(list(read("memory://tx", format="text"))) == 2 == len(list(read("memory://tx/**", format="text")))
        for to in ("memory://tx/new.zarr/", "memory://user:secret@tx/new.zarr"):
            assert [item.id for item in read("memory://tx", to=to)] == ["a.txt"]
    finally:
        fs.rm("/tx", recursive=True)


# --- iterables

def test_iterables() -> None:
    items = [Item("a", "one", place="item 0"), Item("b", None, place="item 1")]
    pairs: list[Any] = [("a", "one"), ("b", None)]
    assert list(read(pairs)) == items == list(read(iter(pairs)))
    assert list(read(dict(pairs))) == items == list(read([list(pair) for pair in pairs]))
    assert found({"id": i, "text": t, "title": k} for i, t, k in DOCS) == DOCS
    ready = [Item("x", "y", {"z": 1}), Failure(None, "source", "why")]
    assert list(read(ready, keep=["z"])) == ready


def test_an_iterable_is_read_as_it_is_asked_for() -> None:
    taken = []

    def source() -> Any:
        for at in range(10):
            taken.append(at)
            yield (at, "text")

    items = read(source())
    assert taken == []
    next(items)
    assert taken == [0]


@pytest.mark.parametrize("source", [5, None, b"docs.jsonl", object()])
def test_what_is_no_source(source: Any) -> None:
    with pytest.raises(TypeError, match="a source is a path"):
        read(source)


def test_wrong_things_from_an_iterable() -> None:
    with pytest.raises(TypeError, match=r"gives \(id, text\) pairs or dicts; this one gives a str"):
        list(read(iter(["text", "more"])))
    with pytest.raises(TypeError, match="a tuple of length 3"):
        list(read([("a", "b", "c")]))
    one, two = list(read([("a", "one"), None]))
    assert isinstance(one, Item) and isinstance(two, Failure) and two.place == "item 1"
    _, two = list(read([{"id": 1, "text": "x"}, ("a", "b")]))
    assert isinstance(two, Failure) and "a tuple" in two.reason
    with pytest.raises(ValueError, match="no columns to keep"):
        list(read([("a", "b")], keep="title"))


# --- what is wrong

def test_a_line_that_is_no_record_is_a_failure_that_names_it(tmp_path: Path) -> None:
    lines = [b'{"id": 1, "text": "good"}', b'{"id": 2, "text": ', b'[1, 2]', b'{"id": 3, "text": "\xff"}', b"[" * 100_000,
             b"1" * 5000, b'{"id": 4, "title": "no text"}', b'{"text": "no id"}', b'{"id": 5, "text": "\\ud800"}']
    path = put(tmp_path, "docs.jsonl", b"\n".join(lines))
    good, *bad, last = list(read(path))
    assert good == Item(1, "good", {}, f"{path} line 1") and isinstance(last, Item) and last.id == 5
    assert all(isinstance(item, Failure) and item.stage == "source" for item in bad)
    assert [item.place for item in bad] == [f"{path} line {n}" for n in range(2, 9)]
    reasons = [item.reason for item in bad if isinstance(item, Failure)]
    assert "not JSON: Expecting value at character" in reasons[0] and "holds list" in reasons[1]
    assert "not UTF-8: byte 0xff at 19" in reasons[2] and "5" not in (bad[5].id, bad[6].id)
    assert reasons[5:] == ["there is no 'text' here, only id, title", "there is no 'id' here, only text"]
    assert [item.id for item in bad[5:]] == [4, None]


def test_broken_rows_of_csv(tmp_path: Path) -> None:
    rows = [b"id,text", b"1,good", b"2,one,too many", b"3", b'4,"misplaced" quote', b"5,not \xff UTF-8", b"6,fine",
            b'7,"never closed', b"8,lost", b'9,"misplaced" too', b"10,good again"]
    path = put(tmp_path, "docs.csv", b"\n".join(rows))
    items = list(read(path))
    assert [item.id for item in items if isinstance(item, Item)] == ["1", "6", "8", "10"]
    bad = failures_by_line(items)
    assert list(bad) == [3, 4, 5, 6, 8, 10] and "has 3 fields, and the header 2" in bad[3] and "has 1 fields" in bad[4]
    assert "not UTF-8" in bad[6] and "iconv -f LATIN1" in bad[6] and "up to line 10" in bad[8]


def failures_by_line(items: list[Any]) -> dict[int, str]:
    """The reasons."""
    return {int(item.place.rpartition(" line ")[2]): item.reason for item in items if isinstance(item, Failure)}


@pytest.mark.parametrize("end", ["", '1000,he said "no"\n', '1000,"quoted"\n', '1000,5"\n'])
def test_an_open_quote_costs_its_own_row_alone(end: str, tmp_path: Path) -> None:
    rows = [f"{n},text {n}\n" for n in range(1000)]
    rows[1] = '1,"Hello\n'
    rows[500] = '500,"two\nlines"\n'
    items = list(read(put(tmp_path, "q.csv", ("id,text\n" + "".join(rows) + end).encode())))
    good = {item.id: item.text for item in items if isinstance(item, Item)}
    assert set(map(str, range(1000))) - set(good) == {"1"} and good["500"] == "two\nlines" and good["999"] == "text 999"
    bad = failures_by_line(items)
    assert list(bad) == [3] and "quote is not closed" in bad[3]


def test_an_open_quote_is_given_up_in_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zstore.embed.feed._MOST_LINES", 50)
    content = 'id,text\n1,"Hello\n' + "".join(f"{n},text\n" for n in range(2, 500))
    items = list(read(put(tmp_path, "q.csv", content.encode())))
    assert len(items) == 499 and "up to line 51" in failures_by_line(items)[2]
    monkeypatch.setattr("zstore.embed.feed.MOST", 100)
    assert len(list(read(str(tmp_path / "q.csv")))) == 499


def test_long_texts_of_many_lines_are_texts(tmp_path: Path) -> None:
    text = "\n".join(f"line {n}, with a comma" if n % 3 else f"line {n}" for n in range(5000))
    (item,) = read(put(tmp_path, "a.csv", f'id,text\n1,"{text}"\n'.encode()))
    assert isinstance(item, Item) and item.text == text


@pytest.mark.parametrize(("head", "inner"), [("id,text", "Smith{n}, John"), ("id,text,year", "k{n},v{n},w{n}")])
def test_a_quoted_table_is_a_text_as_it_stands(head: str, inner: str, tmp_path: Path) -> None:
    text, last = "\n".join(inner.format(n=n) for n in range(25)), ",2001" * head.count("year")
    path = put(tmp_path, "t.csv", f'{head}\n1,first{last}\n2,"{text}"{last}\n3,"{text}"{last}\n4,"two\nlines"{last}\n'.encode())
    with pytest.warns(UserWarning, match=r"t\.csv lines 3 to 27 are one row .* look like rows of their own") as said:
        items = list(read(path))
    assert len(said) == 1           # of a file
    assert [(item.id, item.text) for item in items if isinstance(item, Item)] == [
        ("1", "first"), ("2", text), ("3", text), ("4", "two\nlines")] and len(items) == 4


def test_an_open_quote_before_a_cut_keeps_the_rows_between(tmp_path: Path) -> None:
    packed = gzip.compress(('id,text\n1,"Hello\n' + "".join(f"{n},text\n" for n in range(2, 500))).encode())
    items, got = read(put(tmp_path, "q.csv.gz", packed[:-12])), []
    with pytest.raises(OSError, match="cut short or damaged"):
        got.extend(items)
    assert len(got) > 400 and isinstance(got[0], Failure) and isinstance(got[1], Item)


def test_quotes_mean_nothing_between_tabs(tmp_path: Path) -> None:
    lines = ["id\ttext\ttitle", '1\t"Hello\tA', '2\tsaid "no"\t""', "", "3\tone\ttwo\tthree", "4\tlast\t"]
    items = list(read(put(tmp_path, "q.tsv", "\r\n".join(lines).encode()), keep="title"))
    assert [(i.id, i.text, i.fields["title"]) for i in items if isinstance(i, Item)] == [
        ("1", '"Hello', "A"), ("2", 'said "no"', '""'), ("4", "last", "")]
    assert failures_by_line(items) == {5: "the row has 4 fields, and the header 3"}


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_is_the_one_that_the_header_has(delimiter: str, tmp_path: Path) -> None:
    lines = [["id", '"text"', "title"], ["a", "first text, and more", "A"], ["b", f'"two{delimiter}fields"', "B"]]
    path = put(tmp_path, "a.csv", "\n".join(delimiter.join(line) for line in lines).encode())
    assert found(path) == [("a", "first text, and more", "A"), ("b", f"two{delimiter}fields", "B")]
    with pytest.raises(ValueError, match=r"has no column 'id', 'text'; it has id;text, a\|b"):
        list(read(put(tmp_path, "both.csv", b"id;text,a|b\n1;2,3\n")))


def test_long_lines_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zstore.embed.files.MOST", 1000)
    text = b"x" * 5000
    long = b'{"id": 2, "text": "' + text + b'"}\n'
    path = put(tmp_path, "a.jsonl", b'{"id": 1, "text": "a"}\n' + long + b'{"id": 3, "text": "c"}\n' + text)
    items = list(read(path))
    assert [item.id for item in items] == [1, None, 3, None]
    assert isinstance(items[3], Failure) and items[3].place.endswith("line 4") and "longer than 16 MiB" in items[3].reason
    path = put(tmp_path, "a.csv", b'id,text\n1,a\n2,"' + text + b'\n' + text + b'"\n3,' + text + b"\n4,d\n")
    assert [item.id for item in read(path)] == ["1", None, None, None, "4"]


def test_texts_longer_than_the_csv_module_thinks_they_may_be(tmp_path: Path) -> None:
    text = "word " * 40_000
    assert [i.text for i in read(put(tmp_path, "a.csv", f"id,text\n1,{text}\n".encode())) if isinstance(i, Item)] == [text]


def test_a_column_that_is_not_there_is_one_error_that_names_those_there(tmp_path: Path) -> None:
    for path in (put(tmp_path, "a.jsonl", b'{"doc": 1, "body": "a"}\n' * 3), put(tmp_path, "a.csv", b"doc,body\n1,a\n")):
        with pytest.raises(ValueError, match=r"has no column 'id', 'text'; it has doc, body\. Say which .* id=, text="):
            list(read(path))
        with pytest.raises(ValueError, match=r"has no column 'title'; it has doc, body; .*\(--keep\)") as caught:
            list(read(path, id="doc", text="body", keep=["title"]))
        assert "--id" not in str(caught.value)
    with pytest.raises(ValueError, match="the source has no column 'text'; it has id, body"):
        list(read([{"id": 1, "body": "x"}]))


def test_a_column_may_first_be_seen_a_little_later(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", b'{"id": 1, "text": "a"}\n{"id": 2, "text": "b", "title": "B"}\n')
    assert found(path) == [(1, "a", None), (2, "b", "B")]


def test_a_file_of_another_format_is_one_error(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", CSV * LOOKED_AT)
    with pytest.raises(ValueError, match="not of the format it was taken for: not one of its first 100 records"):
        list(read(path))
    with pytest.raises(ValueError, match="is UTF-16"):
        list(read(put(tmp_path, "wide.csv", CSV.decode().encode("utf-16"))))
    assert found(put(tmp_path, "a.json", jsonl())) == DOCS
    with pytest.raises(ValueError, match="no format 'xml'"):
        read(path, format="xml")
    with pytest.raises(ValueError, match="names 'id' twice"):
        list(read(put(tmp_path, "twice.csv", b"id,text,id\n")))


PRETTY = json.dumps([{"id": i, "text": t, "title": k} for i, t, k in DOCS], indent=2, ensure_ascii=False).encode()
OBJECTS = "\n".join(json.dumps({"id": i, "text": t, "title": k}, indent=4) for i, t, k in DOCS).encode()


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.json.gz"])
@pytest.mark.parametrize("content", [PRETTY, b"\xef\xbb\xbf" + PRETTY, json.dumps(json.loads(PRETTY)).encode(), OBJECTS,
                                     b"\n [ \n" + b",\n".join(jsonl().splitlines()) + b"\n]\n"])
def test_an_array_of_objects(name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, name, gzip.compress(content) if name.endswith(".gz") else content)
    assert found(path) == DOCS and [item.place for item in read(path)][2] == f"{path} item 2"
    monkeypatch.setattr("zstore.embed.arrays._BLOCK", 7)
    assert found(path) == DOCS


def test_an_array_that_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(read(put(tmp_path, "none.json", b"[]\n"))) == []
    one, two, three = read(put(tmp_path, "a.json", b'[{"id": 1, "text": "a"}, 7, {"id": 2, "text": "\xff"}]'))
    assert one.id == 1 and isinstance(two, Failure) and "this is int" in two.reason and three.text == "\udcff"  # type: ignore
    items, got = read(put(tmp_path, "b.json", b'[{"id": 1, "text": "a"}, {"id": 2, "te')), []
    with pytest.raises(ValueError, match=r"is no JSON from item 1 on .* jq -c"):
        got.extend(items)
    assert len(got) == 1
    monkeypatch.setattr("zstore.embed.arrays.MOST", 100)
    monkeypatch.setattr("zstore.embed.arrays._BLOCK", 50)
    with pytest.raises(ValueError, match="from item 0 on"):
        list(read(put(tmp_path, "long.json", b'[{"id": 1, "text": "' + b"x" * 10_000 + b'"}]')))


def test_what_is_not_there_is_said_before_anything_is_read(tmp_path: Path) -> None:
    here = put(tmp_path, "a.jsonl", jsonl())
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder .*none\.jsonl"):
        read([here, str(tmp_path / "none.jsonl")])
    with pytest.raises(FileNotFoundError, match=r"none-\*"):
        read(str(tmp_path / "none-*.jsonl"))
    with pytest.raises(ValueError, match="empty"):
        read("")


def test_a_file_that_is_cut_short_names_the_last_good_line(tmp_path: Path) -> None:
    rows = [(n, os.urandom(500).hex(), "") for n in range(5000)]
    packed = gzip.compress(jsonl(rows))
    items, got = read(put(tmp_path, "a.jsonl.gz", packed[:len(packed) // 2])), []
    with pytest.raises(OSError, match=r"a\.jsonl\.gz is cut short or damaged after line \d+"):
        got.extend(items)
    assert 1000 < len(got) < 4000 and all(isinstance(item, Item) for item in got)
    small = gzip.compress(jsonl(rows[:20]))
    items, got = read(put(tmp_path, "small.jsonl.gz", small[:len(small) // 2])), []
    with pytest.raises(OSError, match=r"cut short or damaged after line \d+"):
        got.extend(items)
    assert 5 < len(got) < 15 and all(isinstance(item, Item) for item in got)
    damaged = bytearray(packed)
    damaged[len(packed) // 2:len(packed) // 2 + 100] = bytes(100)
    with pytest.raises(OSError, match="after line"):
        list(read(put(tmp_path, "b.jsonl.gz", bytes(damaged))))
