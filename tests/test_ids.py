"""Every way to give ids, and one clear sentence for every way to give them wrong."""

from __future__ import annotations

import time
import uuid
from typing import Any

import numpy as np
import pytest

from zstore.format.keys import MAX_ID_BYTES, Joined, StringIds
from zstore.ids import is_one, join_ids, normalise_ids, one_id


def strings(ids: Any) -> list[str]:
    found = normalise_ids(ids, True)
    assert isinstance(found, StringIds)
    return found.to_list()


def integers(ids: Any) -> list[int]:
    found = normalise_ids(ids, False)
    assert isinstance(found, np.ndarray) and found.dtype == np.int64
    return list(found.tolist())


TEXT = ["a", "zwölf", "漢字"]


@pytest.mark.parametrize("ids", [
    TEXT, tuple(TEXT), np.array(TEXT), np.array(TEXT, object), np.array(TEXT, np.dtypes.StringDType()), iter(TEXT),
    [np.str_(item) for item in TEXT]])
def test_strings(ids: Any) -> None:
    assert strings(ids) == TEXT


@pytest.mark.parametrize("ids", [
    [3, -1, 2**63 - 1], (3, -1, 2**63 - 1), np.array([3, -1, 2**63 - 1]), np.array([3, -1, 2**63 - 1], object),
    [np.int8(3), -1, np.uint64(2**63 - 1)]])
def test_integers(ids: Any) -> None:
    assert integers(ids) == [3, -1, 2**63 - 1]


def test_other_integers() -> None:
    assert integers(range(2, 8, 3)) == [2, 5]
    assert integers(np.array([1, 2], np.uint64)) == [1, 2]
    assert integers(np.array([1, 2], ">i4")) == [1, 2]
    assert integers([]) == [] and strings([]) == [] and integers(np.array([])) == []


def test_guests() -> None:
    torch = pytest.importorskip("torch")
    assert integers(torch.tensor([4, 5])) == [4, 5]
    pandas = pytest.importorskip("pandas")
    assert strings(pandas.Series(TEXT)) == TEXT and strings(pandas.Index(TEXT)) == TEXT
    assert strings(pandas.Series(TEXT, dtype=object)) == TEXT and integers(pandas.Series([1, 2])) == [1, 2]
    arrow = pytest.importorskip("pyarrow")
    assert strings(arrow.array(TEXT)) == TEXT and strings(arrow.chunked_array([TEXT, TEXT])) == TEXT * 2
    assert integers(arrow.array([1, 2])) == [1, 2]


UUID = uuid.UUID(int=7)
BAD: list[tuple[Any, bool | None, type[Exception], str]] = [
    (["a"], False, ValueError, "ids are integers"), ([1], True, ValueError, "ids are strings"),
    (np.array([1]), True, ValueError, "ids are strings"), (np.array(["a"]), False, ValueError, "ids are integers"),
    ([b"a"], None, TypeError, "bytes"), (b"ab", None, TypeError, "bytes"), (np.array([b"a"]), None, TypeError, "bytes"),
    ([UUID], None, TypeError, r"str\(id\)"), ([None], None, TypeError, "None"), (["a", None], None, TypeError, "row 1"),
    (None, None, TypeError, "None"), ([""], None, ValueError, "empty"), (["x" * 1025], None, ValueError, "1025 bytes"),
    (["é" * 513], None, ValueError, str(MAX_ID_BYTES)), (["\ud800"], None, ValueError, "surrogate"),
    (["a\0b"], None, ValueError, "NUL"), ([True], None, TypeError, "bool"), ([1, True], None, TypeError, "bool"),
    (np.array([True]), None, TypeError, "bool"), ([1.0], None, TypeError, "float"),
    (np.array([1.0]), None, TypeError, "float64"), ([2**63], None, ValueError, "int64"),
    (np.array([2**63], np.uint64), None, ValueError, "int64"), ("doc", None, TypeError, r"\['doc'\]"),
    (7, None, TypeError, "list"), ([[1, 2], [3, 4]], None, ValueError, "one list"),
    (np.zeros((2, 2), int), None, ValueError, "shape"), ({"a", "b"}, None, TypeError, "order"),
    ({"a": 1}, None, TypeError, "order"), (["a", 1], None, TypeError, "mix"), ([object()], None, TypeError, "object"),
]


@pytest.mark.parametrize(("ids", "kind", "error", "words"), BAD, ids=lambda value: None)
def test_bad_ids(ids: Any, kind: bool | None, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        normalise_ids(ids, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("ids", "kind", "error", "words"), BAD, ids=lambda value: None)
def test_the_door_refuses_the_same_ids(ids: Any, kind: bool | None, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        join_ids(ids, kind)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ids", [
    TEXT, tuple(TEXT), np.array(TEXT), np.array(TEXT, object), np.array(TEXT, np.dtypes.StringDType()), iter(TEXT),
    [np.str_(item) for item in TEXT], ["x" * MAX_ID_BYTES, "y"], ["é" * 512], [], [3, -1], np.array([3, 1], "u4"), range(4)])
def test_the_door_takes_the_same_ids(ids: Any) -> None:
    ids = list(ids) if hasattr(ids, "__next__") else ids
    strings = not any(isinstance(item, (int, np.integer)) for item in ids)
    packed, joined = normalise_ids(ids, strings), join_ids(ids, strings)
    assert len(packed) == len(joined) == len(ids)
    if isinstance(joined, Joined):
        assert isinstance(packed, StringIds) and joined.packed.body == packed.body
    else:
        assert isinstance(packed, np.ndarray) and packed.tolist() == joined.tolist()


def test_a_missing_string_of_numpy() -> None:
    ids = np.array(["a", np.nan], np.dtypes.StringDType(na_object=np.nan))
    for read in (normalise_ids, join_ids):
        with pytest.raises(TypeError, match=r"row 1, nan, is a float"):
            read(ids, True)


def test_bad_guests() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="integers"):
        normalise_ids(torch.tensor([1.0]), None)
    arrow = pytest.importorskip("pyarrow")
    with pytest.raises(TypeError, match="None"):
        normalise_ids(arrow.array([1, None]), None)
    pandas = pytest.importorskip("pandas")
    with pytest.raises(TypeError, match=r"every row needs an id|float"):
        normalise_ids(pandas.Series(["a", None]), None)


def test_one() -> None:
    assert one_id("a", True) == "a" and one_id(np.int32(5), False) == 5 and one_id(np.str_("a"), True) == "a"
    for bad, kind in [("", True), ("\ud800", True), (1, True), ("a", False), (True, False), (2**63, False)]:
        with pytest.raises((TypeError, ValueError)):
            one_id(bad, kind)
    assert is_one("a") and is_one(3) and is_one(np.int64(3)) and not is_one(["a"]) and not is_one(np.arange(2))


def test_a_batch_is_quick() -> None:
    batch = [f"doc-{row}" for row in range(256)]
    best = min(_timed(batch) for _ in range(50))
    assert best < 300e-6          # 24 us on the machine where it was written


def _timed(batch: list[str]) -> float:
    start = time.perf_counter()
    normalise_ids(batch, True)
    return time.perf_counter() - start
