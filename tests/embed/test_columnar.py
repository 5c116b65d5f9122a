"""Parquet, zstd and Hugging Face datasets: the same items as of any other source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from zstore.embed.progress import count_of
from zstore.embed.sources import read
from zstore.embed.types import Failure, Item
from zstore.errors import MissingExtra

TEXTS: list[Any] = ["first", "zweiter 例", None, "fourth"]


def found(source: Any, **options: Any) -> list[tuple[Any, Any, Any]]:
    items = [item for item in read(source, keep=["year"], **options) if isinstance(item, Item)]
    return [(item.id, item.text, item.fields.get("year")) for item in items]


EXPECTED = [(n, text, 1990 + n) for n, text in enumerate(TEXTS)]


@pytest.fixture
def table() -> Any:
    pa = pytest.importorskip("pyarrow")
    return pa.table({"id": range(4), "text": TEXTS, "year": [1990, 1991, 1992, 1993], "other": [[1.0]] * 4})


def wrote(table: Any, path: Path, **options: Any) -> Path:
    import pyarrow.parquet as pq
    pq.write_table(table, path, **options)
    return path


def test_parquet(table: Any, tmp_path: Path) -> None:
    path = wrote(table, tmp_path / "docs.parquet", row_group_size=3)
    assert found(path) == EXPECTED
    assert [item.place for item in read(path)] == [f"{path} row {n}" for n in range(4)]
    assert found(wrote(table, tmp_path / "docs.pq", compression="zstd")) == EXPECTED


@pytest.mark.parametrize("kind", ["large_string", "string_view", "dictionary"])
def test_parquet_of_other_string_types(table: Any, tmp_path: Path, kind: str) -> None:
    import pyarrow as pa
    to = pa.dictionary(pa.int32(), pa.string()) if kind == "dictionary" else getattr(pa, kind)()
    table = table.set_column(1, "text", table["text"].cast(to))
    assert found(wrote(table, tmp_path / "docs.parquet")) == EXPECTED


def test_parquet_over_fsspec(table: Any, tmp_path: Path) -> None:
    import fsspec
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/columnar/docs.parquet", wrote(table, tmp_path / "docs.parquet").read_bytes())
    try:
        assert found("memory://columnar/docs.parquet") == EXPECTED == found("memory://columnar")
    finally:
        fs.rm("/columnar", recursive=True)


def test_parquet_is_counted_by_its_footer(table: Any, tmp_path: Path) -> None:
    path = wrote(table, tmp_path / "docs.parquet", row_group_size=3)
    assert count_of(path) == 4 and count_of([path, str(path)]) == 8
    (tmp_path / "text.parquet").write_text("this is no Parquet file")
    assert count_of(tmp_path / "text.parquet") is None


def test_parquet_that_is_wrong(table: Any, tmp_path: Path) -> None:
    path = wrote(table, tmp_path / "docs.parquet")
    with pytest.raises(ValueError, match="has no column 'body'; it has id, text, year, other"):
        list(read(path, text="body"))
    (tmp_path / "text.parquet").write_text("this is no Parquet file")
    with pytest.raises(ValueError, match=r"text\.parquet is no Parquet file"):
        list(read(tmp_path / "text.parquet"))


def test_a_row_of_parquet_that_is_not_utf8_costs_no_neighbour(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    bad = pa.array([b"good", b"\xff", b"fine"]).view(pa.string())
    one, two, three = read(wrote(pa.table({"id": ["a", "b", "c"], "text": bad}), tmp_path / "docs.parquet"))
    assert isinstance(one, Item) and isinstance(three, Item) and three.id == "c"
    assert isinstance(two, Failure) and two.place.endswith("row 1") and "not UTF-8" in two.reason


def test_damaged_pages_are_an_error_that_says_where(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    texts = pa.array([f"text {n} " * 50 for n in range(10_000)])
    table = pa.table({"id": range(10_000), "text": texts})
    path = wrote(table, tmp_path / "docs.parquet", row_group_size=2000, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[len(content) // 2:len(content) // 2 + 4000] = bytes(4000)
    path.write_bytes(content)
    items = read(path)
    with pytest.raises(OSError, match=r"docs.parquet can't be read after row \d+"):
        list(items)


def test_zstd(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    plain = "".join(json.dumps({"id": n, "text": text, "year": 1990 + n}) + "\n" for n, text in enumerate(TEXTS)).encode()
    half = len(plain) // 2
    packed = [pa.compress(part, codec="zstd", asbytes=True) for part in (plain, plain[:half], plain[half:])]
    skippable = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    for name, content in {"a.jsonl.zst": packed[0], "frames.jsonl.zst": packed[1] + packed[2], "unnamed.jsonl": packed[0],
                          "skippable.jsonl.zst": skippable + packed[0]}.items():
        (tmp_path / name).write_bytes(content)
        assert found(tmp_path / name) == EXPECTED, name
    (tmp_path / "cut.jsonl.zst").write_bytes(packed[0][:-9])
    with pytest.raises(OSError, match=r"cut\.jsonl\.zst .* after line"):
        list(read(tmp_path / "cut.jsonl.zst"))


@pytest.mark.parametrize(("name", "content", "absent"), [
    ("docs.parquet", b"PAR1", "pyarrow"), ("docs.jsonl.zst", b"\x28\xb5\x2f\xfd", "pyarrow"), ("", b"", "datasets")])
def test_a_package_that_is_not_installed_is_named_with_its_extra(name: str, content: bytes, absent: str, tmp_path: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, absent, None)
    monkeypatch.setitem(__import__("sys").modules, "compression.zstd", None)
    if name:
        (tmp_path / name).write_bytes(content)
    else:
        (tmp_path / "dataset_info.json").write_text("{}")
    extra = "hf" if absent == "datasets" else "parquet"
    with pytest.raises(MissingExtra, match=rf"needs? .*{absent}: pip install 'zstore\[{extra}\]'"):
        list(read(tmp_path / name))


def test_a_dataset_on_disk(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"id": list(range(4)), "text": TEXTS, "year": [1990, 1991, 1992, 1993], "other": [[1.0]] * 4}
    rows = datasets.Dataset.from_dict(columns)
    rows.save_to_disk(str(tmp_path / "one"), num_shards=2)
    datasets.DatasetDict(train=rows, test=rows).save_to_disk(str(tmp_path / "two"))
    assert found(tmp_path / "one") == EXPECTED == found(f"{tmp_path}/two/train") == found(rows)
    assert found(rows.to_iterable_dataset()) == EXPECTED
    assert next(iter(read(tmp_path / "one"))).place == f"{tmp_path}/one row 0"
    with pytest.raises(ValueError, match=r"several splits; name those to read: .*/two/train, .*/two/test"):
        list(read(tmp_path / "two"))
    with pytest.raises(ValueError, match="has no column 'body'; it has id, text, year, other"):
        list(read(tmp_path / "one", text="body"))
    with pytest.raises(ValueError, match="the dataset has no column 'body'"):
        read(rows, text="body")
