"""Rows as torch's DataLoader takes them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore

ROWS, DIM = 40, 3


def vectors(epoch: int, dtype: Any = np.float32) -> Any:
    return (np.arange(ROWS * DIM).reshape(ROWS, DIM) + 1000 * epoch).astype(dtype)


def make(url: str, dtype: str = "float32", codec: str = "raw") -> zstore.Reader:
    with zstore.Writer(url, dtype=dtype, codec=codec, rows_per_shard=16) as writer:
        for epoch in range(2):
            writer.append([f"s{number}" for number in range(ROWS)], vectors(epoch), epoch=epoch,
                          label=np.arange(ROWS, dtype=np.int16), loss=np.linspace(0, 1, ROWS, dtype=np.float32),
                          good=np.arange(ROWS) % 2 == 0, said=[f"text {number}" for number in range(ROWS)])
    return zstore.Reader(url)


def test_samples(url: str) -> None:
    run = make(url)
    data = run.epoch(1).dataset("ids", "vectors", "label")
    assert len(data) == ROWS
    name, vector, label = data[3]
    assert (name, vector.tolist(), label) == ("s3", vectors(1)[3].tolist(), 3)
    assert type(name) is str
    assert data[-1][0] == "s39"
    assert [name for name, _, _ in data.__getitems__([5, -40, 5])] == ["s5", "s0", "s5"]
    assert data.__getitems__([]) == []
    assert np.array_equal(run.dataset()[41], vectors(1)[1])
    assert run.dataset("ids")[0] == "s0"


@pytest.mark.parametrize("row", [80, -81, 10**12])
def test_rows_that_are_not_there(row: int, url: str) -> None:
    data = make(url).dataset()
    with pytest.raises(IndexError, match=f"row {row} is not in a view of 80 rows"):
        data[row]
    with pytest.raises(IndexError, match=f"row {row} is not in a view of 80 rows"):
        data.__getitems__([0, row])


@pytest.mark.parametrize("row", [1.0, "s1", None, slice(3), [1, 2]], ids=repr)
def test_what_is_no_row(row: Any, url: str) -> None:
    with pytest.raises(TypeError):
        make(url).dataset()[row]


def test_a_field_that_is_not_there(url: str) -> None:
    with pytest.raises(zstore.errors.NotFound, match="no field 'lable'; the fields are"):
        make(url).dataset("lable")


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_what_it_gives_is_the_callers(codec: str, url: str) -> None:
    run = make(url, codec=codec)
    data = run.dataset("vectors", "label")
    for sample in (data[0], *data.__getitems__(range(8))):
        sample[0][:] = -1
    assert np.array_equal(run.vectors[:8], vectors(0)[:8])
    assert np.array_equal(data[0][0], vectors(0)[0])


def test_pinned_while_a_writer_goes_on(url: str, tmp_path: Path) -> None:
    run = make(url)
    data = run.epoch(0).dataset("ids", "vectors")
    packed = pickle.dumps(data)
    with pytest.warns(UserWarning, match="superseded"), zstore.Writer(url) as writer:
        writer.append(["s0", "new"], np.full((2, DIM), -5, np.float32), epoch=0, label=0, loss=0.0, good=True, said="")
    zstore.compact(url, str(tmp_path / "compact.zarr"))
    for held in (data, pickle.loads(packed)):
        assert len(held) == ROWS
        assert np.array_equal([vector for _, vector in held.__getitems__(range(ROWS))], vectors(0))


def loaded(data: Any, **options: Any) -> Any:
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(data, batch_size=9, **options)
    batches = list(loader)
    assert all(len(column) == len(batch[0]) for batch in batches for column in batch)
    return [torch.cat(list(column)) if isinstance(column[0], torch.Tensor) else [item for part in column for item in part]
            for column in zip(*batches, strict=True)]


@pytest.mark.parametrize(("context", "codec"), [(None, "raw"), ("fork", "raw"), ("fork", "lossless"), ("spawn", "lossless")])
def test_loaders(context: str | None, codec: str, url: str) -> None:
    torch = pytest.importorskip("torch")
    workers: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": context} if context else {}
    run = make(url, codec=codec)
    assert run.vectors.shape == (2 * ROWS, DIM)         # what a reader holds must not hurt its workers
    view = run.select(np.arange(2 * ROWS)[::-1])
    ids, found, labels, losses, good, said = loaded(view.dataset("ids", "vectors", "label", "loss", "good", "said"), **workers)
    assert ids == view.ids.tolist() and said == view.field("said").tolist()
    assert [column.dtype for column in (found, labels, losses, good)] == [torch.float32, torch.int16, torch.float32, torch.bool]
    assert np.array_equal(found.numpy(), view.vectors)
    assert labels.tolist() == view.field("label").tolist() and good.tolist() == view.field("good").tolist()


@pytest.mark.parametrize(("dtype", "context"), [
    ("bfloat16", None), ("bfloat16", "spawn"), ("float16", None), ("float64", None),
])
def test_dtypes(dtype: str, context: str | None, url: str) -> None:
    torch = pytest.importorskip("torch")
    run = make(url, dtype)
    workers: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": context} if context else {}
    found, labels = loaded(run.dataset("vectors", "label"), **workers)
    assert found.dtype == getattr(torch, dtype)
    assert np.array_equal(found.float().numpy(), np.asarray(run.vectors, np.float32))
    assert labels.tolist() == list(range(ROWS)) * 2


def test_iterated_as_a_sequence(url: str) -> None:
    assert [int(label) for label in make(url).epoch(0).dataset("label")] == list(range(ROWS))
