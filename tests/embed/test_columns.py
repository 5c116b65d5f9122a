"""The types of ids and kept fields: those asked for, else what the first items are; and no field costs a vector."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared import Counting, held, made, write

import zstore
from zstore.embed import embed
from zstore.embed.columns import Columns, agreed, typed
from zstore.embed.ledger import Ledger
from zstore.embed.types import Item

FIRST = 1500        # items: more than are looked at for the types


@pytest.mark.parametrize(("values", "kind", "read"), [
    ([1, 2], np.float64, [1.0, 2.0]), ([1, 2.5], np.float64, [1.0, 2.5]), ([1, None], np.float64, None),
    ([2**53 + 1, 3], np.int64, [2**53 + 1, 3]), ([2**53 + 1, None], "T", [str(2**53 + 1), ""]), ([2**64], "T", [str(2**64)]),
    ([True, False], np.bool_, [True, False]), (["a", None], "T", ["a", ""]), (["a", 3], "T", ["a", "3"]), ([None], "T", [""]),
])
def test_the_first_items_say_what_a_field_is(values: list[Any], kind: Any, read: list[Any] | None) -> None:
    columns = Columns(["f"])
    items = [Item(n, "text", {"f": value}) for n, value in enumerate(values)]
    columns.settle(items)
    array = columns.arrays([columns.values_of(item) for item in items])["f"]
    assert array.dtype.kind == "T" if kind == "T" else array.dtype == kind
    assert read is None or array.tolist() == read
    assert columns.warning() is None


@pytest.mark.parametrize(("kind", "value", "stored", "way"), [
    ("int64", None, -2**63, "float64"), ("int64", "x", -2**63, "string"), ("int64", 1.5, -2**63, "float64"),
    ("int64", 2**63, -2**63, "string"), ("bool", None, False, "float64"), ("bool", "no", False, "string"),
    ("float64", "x", None, "string"), ("float64", 2**53 + 1, None, "int64"), ("float64", "1_0", None, "string"),
    ("string", "a\0b", "", None), ("string", "\ud800", "", None), ("string", "x" * (2**20 + 1), "", None),
])
def test_what_does_not_fit_is_missing_and_told(kind: str, value: Any, stored: Any, way: str | None) -> None:
    columns = Columns(["f"], {"f": kind}, strings=False)
    (found,) = columns.values_of(Item(1, "text", {"f": value}, "a.jsonl line 7"))
    assert np.isnan(found) if stored is None else found == stored and type(found) is type(stored)
    columns.values_of(Item(2, "text", {"f": value}, "a.jsonl line 8"))
    said = columns.warning()
    assert said is not None and f"'f' of 2 items is not {kind}" in said and "a.jsonl line 7" in said and "\n" not in said
    assert way is None or f"--keep f:{way}" in said


@pytest.mark.parametrize(("kind", "value", "stored"), [
    ("int64", "1999", 1999), ("int64", "-3", -3), ("int64", 4.0, 4), ("int64", " 7 ", 7), ("float64", "2.5", 2.5),
    ("float64", "1e3", 1000.0), ("float64", True, 1.0), ("bool", "TRUE", True), ("bool", "false", False), ("string", 3, "3"),
])
def test_cells_of_a_table_are_read_as_the_type(kind: str, value: Any, stored: Any) -> None:
    columns = Columns(["f"], {"f": kind})
    (found,) = columns.values_of(Item(1, "text", {"f": value}))
    assert found == stored and type(found) is type(stored) and columns.warning() is None


def test_a_name_may_say_a_type() -> None:
    assert typed("year:int64") == ("year", "int64") and typed("a:b") == ("a:b", None) and typed(":int64") == (":int64", None)
    columns = agreed("s", ["year:int64", "title"], {}, None, "key:string")
    assert columns.names == ("year", "title") and columns.strings is True
    there = {"ids": ("int64", ()), "year": ("float64", ()), "vectors": ("float32", (3,)), "epoch": ("int32", ()),
             "text_hash": ("uint64", ())}
    assert agreed("s", ["year:float64"], {}, there, "id:int64").strings is False
    for keep, id, words in ((["year:int64"], "id", "as float64, and this run would keep it as int64"),
                            (["year"], "id:string", "ids of s are int64.*would be string"),
                            ([], "id:float64", "no type of ids")):
        with pytest.raises(ValueError, match=words):
            agreed("s", keep, {}, there, id)


@pytest.mark.parametrize("late", [None, 2.5, "unknown", [1], True])
def test_a_late_value_of_another_type_loses_no_document(late: Any, url: str, tmp_path: Path,
                                                        recwarn: pytest.WarningsRecorder) -> None:
    docs: list[dict[str, Any]] = [{"id": n, "text": f"text {n}", "year": 1900 + n if n < FIRST else late}
                                  for n in range(FIRST + 9)]
    report = embed(write(tmp_path / "docs.jsonl", docs), url, model=Counting(), keep=["year"])
    assert report.failed == 0 and held(url) == made([(n, f"text {n}") for n in range(FIRST + 9)])
    told = [str(one.message) for one in recwarn if "'year'" in str(one.message)]
    assert len(told) == (late in ("unknown", [1])) and all("9 items" in one for one in told)
    with zstore.Reader(url) as reader:
        years = dict(zip(reader.ids.tolist(), reader.field("year").tolist(), strict=True))
    assert years[3] == 1903.0
    assert years[FIRST] == float(late) if isinstance(late, (float, bool)) else np.isnan(years[FIRST])


def test_integers_and_then_strings_for_ids(url: str, tmp_path: Path) -> None:
    docs = [{"key": n if n < FIRST else f"doc-{n}", "text": f"text {n}"} for n in range(FIRST + 9)]
    source = write(tmp_path / "docs.jsonl", docs)
    assert embed(source, url, model=Counting(), id="key").failed == 9
    assert "--id NAME:string" in Ledger(url).all()[0].reason
    other = f"{url}-strings"
    assert embed(source, other, model=Counting(), id="key:string", keep=["key:string"]).failed == 0
    assert held(other) == made([(str(doc["key"]), str(doc["text"])) for doc in docs])


def test_a_csv_into_a_store_of_integers(url: str, tmp_path: Path) -> None:
    embed([(n, f"text {n}") for n in range(20)], url, model=Counting())
    (tmp_path / "docs.csv").write_text("id,text\n" + "".join(f"{n},text {n}\n" for n in range(25)) + "007,text\n")
    report = embed(tmp_path / "docs.csv", url, model=Counting())
    assert (report.skipped, report.embedded, report.failed) == (20, 5, 1) and Ledger(url).all()[0].id == "007"


def test_types_are_asked_of_the_command_line_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from zstore.cli.main import main
    monkeypatch.chdir(tmp_path)
    Path("docs.csv").write_text("key,text,year\n1,one,1999\n2,two,2000\n3,,2001\n")
    assert main(["embed", "docs.csv", "--to", "s.zarr", "--model", "hash:8", "--id", "key:int64", "--keep", "year:int64"]) == 0
    with zstore.Reader("s.zarr") as reader:
        assert reader.ids.tolist() == [1, 2] and reader.field("year").tolist() == [1999, 2000]
        assert reader.ids.dtype == reader.field("year").dtype == np.int64
    Path("docs.csv").write_text("key,text,year\n1,one,1999\n2,two,2000\n3,three,2001\n")
    assert main(["failures", "retry", "s.zarr"]) == 0 and len(held("s.zarr")) == 3


def test_passages_name_their_parents_by_strings(url: str) -> None:
    embed([(n, f"text {n}") for n in range(1200)] + [("a", "letter")], url, model=Counting(), passages=100)
    with zstore.Reader(url) as reader:
        assert len(reader) == 1201 and json.loads(json.dumps(reader.field("parent").tolist()))[0] == "0"
        assert reader.field("offset").dtype == np.int64
