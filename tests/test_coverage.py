"""Which of the expected ids each epoch holds."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import zstore


def store(url: str, *batches: tuple[Any, int]) -> zstore.Reader:
    with zstore.Writer(url) as writer:
        for ids, epoch in batches:
            writer.append(ids, np.ones((len(ids), 3), np.float32), epoch=epoch)
    return zstore.Reader(url)


def told(found: Any) -> tuple[int, list[Any], list[Any], list[Any]]:
    return found.rows, found.missing.tolist(), found.twice.tolist(), found.unknown.tolist()


def test_integers(url: str) -> None:
    run = store(url, ([0, 1, 2, 3], 0), ([3, 1], 1), ([1, 9], 1))
    assert {epoch: told(found) for epoch, found in run.coverage(4).items()} == {0: (4, [], [], []), 1: (4, [0, 2], [1], [9])}
    assert {epoch: told(found) for epoch, found in run.coverage().items()} == {0: (4, [], [], []), 1: (4, [], [1], [])}
    found = run.coverage(4)
    assert found[0].exact and not found[1].exact
    assert str(found[1]) == "epoch 1: 4 rows, 2 missing (0, 2), 1 twice (1), 1 unknown (9)"
    assert str(found[0]) == repr(found[0]) == "epoch 0: 4 rows, each once"


def test_strings(url: str) -> None:
    run = store(url, (["a", "b", "ü"], 0), (["b", "b", "z"], 1))
    assert {epoch: told(found) for epoch, found in run.coverage(["a", "b", "ü"]).items()} == {
        0: (3, [], [], []), 1: (3, ["a", "ü"], ["b"], ["z"])}
    assert all(found.missing.dtype.kind == "T" for found in run.coverage(["a"]).values())


EXPECTED = {
    "a list": ["a", "b", "c"], "a tuple": ("a", "b", "c"), "a set": {"a", "b", "c"}, "keys": {"a": 1, "b": 2, "c": 3},
    "numpy's U": np.array(["c", "a", "b"]),
    "objects": np.array(["a", "b", "c"], object), "StringDType": np.array(["a", "b", "c"], np.dtypes.StringDType()),
    "repeats": ["a", "b", "a", "c"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_what_expected_may_be(name: str, url: str) -> None:
    assert told(store(url, (["a", "b", "d"], 0)).coverage(EXPECTED[name])[0]) == (3, ["c"], [], ["d"])


@pytest.mark.parametrize("kind", ["list", "range", "int32", "uint64", "set", "pandas", "torch"])
def test_what_expected_integers_may_be(kind: str, url: str) -> None:
    expected: Any
    if kind == "pandas":
        expected = pytest.importorskip("pandas").Series([2, 0, 1])
    elif kind == "torch":
        expected = pytest.importorskip("torch").tensor([2, 0, 1])
    else:
        expected = {"list": [2, 0, 1], "range": range(3), "set": {0, 1, 2}}.get(kind) or np.array([2, 0, 1], kind)
    assert told(store(url, ([0, 1, 5], 0)).coverage(expected)[0]) == (3, [2], [], [5])


def test_pandas_strings(url: str) -> None:
    pandas = pytest.importorskip("pandas")
    run = store(url, (["a", "b"], 0))
    assert told(run.coverage(pandas.Series(["a", "c"]))[0]) == (2, ["c"], [], ["b"])
    assert told(run.coverage(pandas.Index(["a", "c"]))[0]) == (2, ["c"], [], ["b"])


@pytest.mark.parametrize(("ids", "expected", "message"), [
    (["a"], [1, 2], "this store's ids are strings and the id 1 is an integer: write str"),
    ([1], ["a"], "this store's ids are integers and the id 'a' is a string: write int"),
    (["a"], 10, "expected is the number 10, .* but this store's ids are strings: pass the ids themselves"),
    ([1], -1, "expected is the number -1, which stands for the ids 0 to n-1"),
])
def test_ids_of_the_wrong_kind(url: str, ids: Any, expected: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        store(url, (ids, 0)).coverage(expected)


@pytest.mark.parametrize("expected", [True, 1.5, "a", b"a", [1.5], [None], object()], ids=lambda given: repr(given)[:8])
def test_what_is_no_list_of_ids(url: str, expected: Any) -> None:
    with pytest.raises(TypeError):
        store(url, (["a"], 0)).coverage(expected)


def test_epochs_that_are_asked_for(url: str) -> None:
    run = store(url, ([0, 1], 0), ([0], 2))
    assert list(run.coverage(2, epochs=[2])) == [2]
    assert told(run.coverage(2, epochs=[7])[7]) == (0, [0, 1], [], [])
    assert told(run.coverage(epochs=[7])[7]) == (0, [], [], [])
    with pytest.raises(TypeError, match="an epoch is one int"):
        run.coverage(2, epochs=["1"])       # type: ignore[list-item]


def test_views_that_are_less_than_a_version(url: str) -> None:
    run = store(url, ([0, 1, 2], 0), ([0, 1, 2], 1))
    assert told(run.epoch(1).select([2, 2, 0]).coverage(3)[1]) == (3, [1], [2], [])
    assert told(run.select(slice(1, 4)).coverage(3)[0]) == (2, [0], [], [])
    assert told(run.latest().coverage(0)[1]) == (3, [], [], [0, 1, 2])


def test_empty(url: str) -> None:
    run = store(url, ([0], 0))
    assert run.select([]).coverage(3) == {}
    assert told(run.select([]).coverage(2, epochs=[0])[0]) == (0, [0, 1], [], [])
    assert told(run.coverage([])[0]) == (1, [], [], [0])


@pytest.mark.parametrize("strings", [False, True])
def test_many_ids_take_memory_in_proportion(strings: bool, url: str) -> None:
    """And they come to an end: a comparison of each with each would take hours."""
    count = 200_000
    ids: Any = [f"sample-{number:06d}" for number in range(count)] if strings else np.arange(count)
    with zstore.Writer(url) as writer:
        writer.append(ids[:-1], np.ones((count - 1, 1), np.float32))
        writer.append(ids[:1], np.ones((1, 1), np.float32))
    run = zstore.Reader(url)
    tracemalloc.start()
    found = run.coverage(ids)[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told(found) == (count, [ids[-1]], [ids[0]], [])
    assert peak < count * 600
