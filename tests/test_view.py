"""Views: rows of one version, in an order, as arrays."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.errors import NotFound

DIM = 4


def vector(item: int, epoch: int, again: int = 0) -> list[float]:
    return [item, epoch, again, 0.5]


@pytest.fixture(scope="module", params=["raw", "lossless"])
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, codec: str) -> Path:
    """Six ids, three epochs, in two commits; id "s3" twice at epoch 2; shards of four rows."""
    url = tmp_path_factory.mktemp("view") / "a.zarr"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with zstore.Writer(url, codec=codec, commit_every_s=None, rows_per_shard=4, attrs={"model": "m"}) as writer:
            for epoch in range(3):
                writer.append([f"s{i}" for i in range(6)], np.array([vector(i, epoch) for i in range(6)], np.float32),
                              epoch=epoch, label=np.arange(6, dtype=np.int16), name=[f"n{i}" for i in range(6)])
            writer.commit()
            writer.append(["s3"], np.array([vector(3, 2, 1)], np.float32), epoch=2, label=[33], name="again")
    return url


@pytest.fixture
def run(url: Path) -> Iterator[zstore.Reader]:
    with zstore.Reader(url) as reader:
        yield reader


def rows_of(view: zstore.View) -> list[list[float]]:
    return np.asarray(view.vectors).tolist()


def test_all_rows(run: zstore.Reader) -> None:
    assert len(run) == 19
    assert run.ids.dtype == np.dtypes.StringDType()
    assert run.ids.tolist() == [f"s{i}" for _ in range(3) for i in range(6)] + ["s3"]
    assert run.vectors.dtype == np.float32
    assert rows_of(run) == [vector(i, e) for e in range(3) for i in range(6)] + [vector(3, 2, 1)]
    assert run.epochs.tolist() == [0, 1, 2]
    assert run.epochs.dtype == np.int64
    assert run.field("epoch").dtype == np.int32
    assert run.field("label").tolist() == [*range(6)] * 3 + [33]
    assert run.field("name").tolist() == [f"n{i}" for i in range(6)] * 3 + ["again"]
    assert run.field("ids").tolist() == run.ids.tolist()
    assert np.array_equal(run.field("vectors"), run.vectors)
    assert np.array_equal(np.asarray(run), run.vectors)
    assert np.asarray(run, dtype=np.float64).dtype == np.float64


def test_one_row_per_id_at_an_epoch(run: zstore.Reader) -> None:
    at = run.epoch(2)
    assert type(at) is zstore.View
    assert at.ids.tolist() == ["s0", "s1", "s2", "s4", "s5", "s3"]          # the later of two rows with one key
    assert at.field("label").tolist() == [0, 1, 2, 4, 5, 33]
    assert at.epochs.tolist() == [2]
    assert rows_of(at)[-1] == vector(3, 2, 1)
    assert run.epoch(0).ids.tolist() == [f"s{i}" for i in range(6)]
    with pytest.raises(NotFound, match="no rows at epoch 7; the epochs are 0, 1, 2"):
        run.epoch(7)
    for wrong in ("1", 1.0, None, True, [1]):
        with pytest.raises(TypeError, match="an epoch is one int"):
            run.epoch(wrong)        # type: ignore[arg-type]


def test_latest_is_one_row_per_id_at_its_highest_epoch(run: zstore.Reader) -> None:
    assert run.latest().ids.tolist() == ["s0", "s1", "s2", "s4", "s5", "s3"]
    early = run.select(run.field("epoch") < 2)
    assert rows_of(early.latest()) == [vector(i, 1) for i in range(6)]


def test_views_of_views(run: zstore.Reader) -> None:
    last = run.epoch(2).select(slice(1, None, 2))
    assert last.ids.tolist() == ["s1", "s4", "s3"]
    assert last.latest().ids.tolist() == last.ids.tolist()
    assert last.epoch(2).ids.tolist() == last.ids.tolist()
    with pytest.raises(NotFound):
        last.epoch(0)
    assert last.find(["s4", "s0"]).tolist() == [1, -1]
    assert last.get("s3").tolist() == vector(3, 2, 1)
    with pytest.raises(NotFound):
        last.get("s0")
    # A row that the view leaves out must not hide an older one that it holds.
    without = run.select(np.arange(18))
    assert without.get("s3").tolist() == vector(3, 2)
    assert run.select(np.arange(18)[::-1]).latest().ids.tolist() == [f"s{i}" for i in range(5, -1, -1)]
    assert run.select([0, 6]).epochs.tolist() == [0, 1]
    assert run.select([]).epochs.tolist() == []
    assert len(run.select([]).latest()) == 0


@pytest.mark.parametrize(("rows", "wanted"), [
    (slice(2, 5), [2, 3, 4]), (slice(None, None, -1), [*range(18, -1, -1)]), (slice(-2, None), [17, 18]),
    (slice(5, 2), []), (slice(4, 900), [*range(4, 19)]), ([3, 3, -1, 0], [3, 3, 18, 0]), ([], []),
    (np.array([18, -19]), [18, 0]), (np.arange(19) % 9 == 0, [0, 9, 18]), ([True] * 2 + [False] * 17, [0, 1]),
    (np.array([2], np.uint8), [2])], ids=repr)
def test_select_and_brackets_pick_rows_as_numpy_does(run: zstore.Reader, rows: Any, wanted: list[int]) -> None:
    everything = run.vectors.tolist()
    assert run[rows].tolist() == [everything[row] for row in wanted]
    chosen = run.select(rows)
    assert rows_of(chosen) == [everything[row] for row in wanted]
    assert chosen.ids.tolist() == [run.ids[row] for row in wanted]
    assert len(chosen) == len(wanted)


@pytest.mark.parametrize("row", [0, 18, -1, -19, np.int64(3), np.uint8(7)])
def test_one_row_has_no_axis(run: zstore.Reader, row: Any) -> None:
    assert run[row].shape == (DIM,)
    assert run[row].tolist() == run.vectors[int(row)].tolist()
    assert run.select(row).ids.tolist() == [run.ids[int(row)]]


@pytest.mark.parametrize("rows", [19, -20, [0, 19], [-20], [True, False], np.ones(20, bool), [[1]]], ids=repr)
def test_rows_that_are_not_there(run: zstore.Reader, rows: Any) -> None:
    with pytest.raises(IndexError):
        run[rows]
    with pytest.raises(IndexError):
        run.select(rows)


@pytest.mark.parametrize("rows", ["s1", ["s1"], 1.5, [1.5], None, ..., (0, 1), b"s1", True], ids=repr)
def test_brackets_never_take_keys(run: zstore.Reader, rows: Any) -> None:
    with pytest.raises((TypeError, IndexError)):
        run[rows]


def test_a_key_in_brackets_says_what_to_write(run: zstore.Reader) -> None:
    with pytest.raises(TypeError, match=r"write view\.get\('s1'\)"):
        run["s1"]
    with pytest.raises(TypeError, match=r"view\.batches\(\)"):
        iter(run)


def test_get_broadcasts_and_drops_axes(run: zstore.Reader) -> None:
    assert run.get("s1", epoch=1).tolist() == vector(1, 1)
    assert run.get("s1").tolist() == vector(1, 2)
    assert run.get("s3").tolist() == vector(3, 2, 1)
    assert run.get(["s1", "s0", "s1"]).tolist() == [vector(1, 2), vector(0, 2), vector(1, 2)]
    assert run.get("s1", epoch=[2, 0]).tolist() == [vector(1, 2), vector(1, 0)]
    two = run.get(["s4", "s3"], epoch=[0, 1, 2])
    assert two.shape == (2, 3, DIM)
    assert two.tolist() == [[vector(4, e) for e in range(3)], [vector(3, 0), vector(3, 1), vector(3, 2, 1)]]
    assert run.get(["s4"], epoch=range(3)).shape == (1, 3, DIM)
    assert run.get(("s4",), epoch=np.array([1])).shape == (1, 1, DIM)
    assert run.get(np.array(["s4", "s5"]), epoch=np.int64(1)).shape == (2, DIM)
    assert run.get([], epoch=[0, 1]).shape == (0, 2, DIM)
    assert run.get([]).shape == (0, DIM)
    assert run.get("s1", epoch=[]).shape == (0, DIM)
    assert run.get(run.ids[:3], epoch=0).tolist() == [vector(i, 0) for i in range(3)]


def test_get_of_a_field(run: zstore.Reader) -> None:
    assert run.get("s3", field="label") == 33
    assert run.get("s3", epoch=1, field="name") == "n3"
    assert run.get(["s3", "s1"], epoch=[0, 2], field="label").tolist() == [[3, 33], [1, 1]]
    assert run.get(["s3", "s1"], field="name").tolist() == ["again", "n1"]
    assert run.get("s3", field="epoch") == 2
    with pytest.raises(NotFound, match="no field 'lable'; the fields are epoch, ids, label, name, vectors"):
        run.get("s3", field="lable")
    with pytest.raises(NotFound, match="no field 'lable'"):
        run.field("lable")


def test_what_get_gives_is_the_caller_s(run: zstore.Reader) -> None:
    for given in (run.get("s1"), run.get(["s1", "s2"]), run[3], run[[1, 2]], run.get("s1", epoch=[0])):
        given[:] = 9
    assert run.get("s1").tolist() == vector(1, 2)
    assert run[3].tolist() == vector(3, 0)


def test_missing_keys_are_named(run: zstore.Reader) -> None:
    with pytest.raises(NotFound, match=r"no row for the id 's99'"):
        run.get("s99")
    with pytest.raises(KeyError, match=r"the ids 'x', 'y'"):
        run.get(["x", "s1", "y"])
    with pytest.raises(NotFound, match=r"'s1' at epoch 9; the epochs are 0\.\.2"):
        run.get("s1", epoch=9)
    with pytest.raises(NotFound, match="did you mean"):
        run.get("s11")
    for epoch in (-1, 2**31, 2**40, [0, -1]):
        with pytest.raises(NotFound):
            run.get("s1", epoch=epoch)


def test_missing_nan(run: zstore.Reader) -> None:
    got = run.get(["s1", "nobody"], epoch=[1, 9], missing="nan")
    assert got.dtype == np.float32
    assert got[0, 0].tolist() == vector(1, 1)
    assert np.isnan(got[0, 1]).all()
    assert np.isnan(got[1]).all()
    assert np.isnan(run.get("nobody", missing="nan")).all()
    assert run.get("s1", missing="nan").tolist() == vector(1, 2)
    with pytest.raises(ValueError, match="which has no NaN"):
        run.get("s1", field="label", missing="nan")
    with pytest.raises(ValueError, match='missing is "raise" or "nan"'):
        run.get("s1", missing="zero")       # type: ignore[arg-type]


def test_find(run: zstore.Reader) -> None:
    assert run.find("s3") == 18
    assert type(run.find("s3")) is int
    assert run.find("nobody") == -1
    assert run.find("s3", epoch=1) == 9
    assert run.find(["s3", "x", "s0"]).tolist() == [18, -1, 12]
    assert run.find(["s3", "x"], epoch=[0, 2, 5]).tolist() == [[3, 18, -1], [-1, -1, -1]]
    assert run.find("s3", epoch=[0, 2]).tolist() == [3, 18]
    assert run.find([]).tolist() == []
    assert run.select([4, 4, 2]).find(["s4", "s2"]).tolist() == [0, 2]


@pytest.mark.parametrize("ids", [17, [17], b"s1", None, 1.5, {"s1"}, [None], ["s1", 2]], ids=repr)
def test_ids_of_the_other_kind_are_refused(run: zstore.Reader, ids: Any) -> None:
    for ask in (run.get, run.find):
        with pytest.raises((TypeError, ValueError)) as caught:
            ask(ids)
        assert not isinstance(caught.value, zstore.ZStoreError)


@pytest.mark.parametrize("epoch", [1.0, "1", [0.5], [[0]], object()],
                         ids=["1.0", "text", "list of floats", "nested list", "object"])
def test_epochs_that_are_none(run: zstore.Reader, epoch: Any) -> None:
    with pytest.raises(TypeError, match="epoch is None, one int or a list of ints"):
        run.get("s1", epoch=epoch)


def test_batches(run: zstore.Reader) -> None:
    for size in (1, 4, 7, 19, 100):
        parts = list(run.batches(size))
        assert [len(part) for part in parts] == [min(size, 19 - at) for at in range(0, 19, size)]
        assert [row for part in parts for row in rows_of(part)] == rows_of(run)
        assert [item for part in parts for item in part.ids.tolist()] == run.ids.tolist()
    assert [len(part) for part in run.batches()] == [19]
    assert list(run.select([]).batches(3)) == []
    odd = run.select(np.arange(18, -1, -2))
    assert [row for part in odd.batches(3) for row in rows_of(part)] == rows_of(odd)
    for wrong in (0, -1, 1.5, "3", True):
        with pytest.raises(ValueError, match="size of a batch"):
            run.batches(wrong)      # type: ignore[arg-type]


def test_everything_given_is_read_only_or_a_copy(run: zstore.Reader) -> None:
    for array in (run.vectors, run.ids, run.field("label"), run.field("epoch"), run.epoch(1).vectors,
                  run.select([1, 5, 3]).vectors, run[2:5]):
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = array[1]
    assert run.vectors is run.vectors       # gathered once
    assert run.ids is run.ids


def test_repr_is_one_line(run: zstore.Reader) -> None:
    text = repr(run)
    assert "\n" not in text
    assert "a.zarr' v" in text
    assert "rows=19" in text
    assert f"dim=4 float32 {'raw' if 'raw' in text else 'lossless'}>" in text
    assert repr(run.select([1])).startswith("<zstore.View ")
    assert "rows=1 " in repr(run.select([1]))


def test_views_pickle_as_their_place(run: zstore.Reader) -> None:
    for view in (run.latest(), run.epoch(1), run.select([5, 1, 1]), run.select(slice(3, 9))):
        data = pickle.dumps(view)
        assert len(data) < 2048
        again = pickle.loads(data)
        assert rows_of(again) == rows_of(view)
        assert again.ids.tolist() == view.ids.tolist()


def test_what_cannot_fit_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zstore.Writer(tmp_path / "w.zarr", codec="lossless", commit_every_s=None) as writer:
        writer.append(range(2), np.ones((2, 2**14), np.float32))
    monkeypatch.setattr("zstore.view.available_memory", lambda: 2**20)
    monkeypatch.setattr("zstore.view_keys.available_memory", lambda: 2**20)
    with zstore.Reader(tmp_path / "w.zarr") as reader:
        many = reader.select(np.zeros(2**13, np.int64))                 # 512 MiB of one row
        with pytest.raises(MemoryError, match=r"8,192 rows are 0\.5 GiB.*view\.batches\(\)"):
            many.vectors  # noqa: B018
        assert len(next(iter(many.batches(10))).vectors) == 10
        with pytest.raises(MemoryError, match="ask for fewer ids"):
            reader.get([1] * 2**13)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int8", "uint8", "bfloat16"])
def test_torch_shares_the_memory(tmp_path: Path, dtype: str, codec: str) -> None:
    torch = pytest.importorskip("torch")
    ours = np.arange(24).reshape(6, 4)
    with zstore.Writer(tmp_path / "t.zarr", codec=codec, commit_every_s=None, dtype=dtype) as writer:
        writer.append(range(6), ours.astype(np.float32) if dtype not in ("int8", "uint8") else ours.astype(dtype))
    with zstore.Reader(tmp_path / "t.zarr") as reader:
        tensor = reader.torch()
        assert tensor.dtype == getattr(torch, dtype)
        assert tensor.shape == (6, 4)
        assert tensor.to(torch.float64).tolist() == ours.tolist()
        assert tensor.data_ptr() == reader.vectors.__array_interface__["data"][0]
        assert reader.select([3, 1]).torch().to(torch.float64).tolist() == ours[[3, 1]].tolist()


def test_keys_are_not_rows(tmp_path: Path) -> None:
    with zstore.Writer(tmp_path / "k.zarr", commit_every_s=None) as writer:
        writer.append([17, 2, 5], np.eye(3, dtype=np.float32))
    with zstore.Reader(tmp_path / "k.zarr") as reader:
        assert reader[1].tolist() == [0, 1, 0]
        assert reader.get(17).tolist() == [1, 0, 0]
        assert reader.ids.dtype == np.int64
        assert reader.find([5, 17, 1]).tolist() == [2, 0, -1]
        with pytest.raises(ValueError, match="write int"):
            reader.get("17")
        with pytest.raises(TypeError, match="write view"):
            reader["17"]


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 2)])
def test_rows_of_more_axes(tmp_path: Path, shape: tuple[int, ...], codec: str) -> None:
    rows = np.arange(7 * np.prod(shape), dtype=np.float32).reshape(7, *shape)
    with zstore.Writer(tmp_path / "s.zarr", codec=codec, commit_every_s=None, rows_per_shard=4) as writer:
        writer.append(range(7), rows, two=rows.astype(np.float16))
    with zstore.Reader(tmp_path / "s.zarr") as reader:
        assert np.array_equal(reader.vectors, rows)
        assert np.array_equal(reader.field("two"), rows.astype(np.float16))
        assert reader.get([3, 1], epoch=[0]).shape == (2, 1, *shape)
        assert reader.get(3).shape == shape
        assert reader[-1].tolist() == rows[-1].tolist()


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16"])
def test_the_bits_of_nan_survive(tmp_path: Path, dtype: str, codec: str) -> None:
    width = {"float32": 4, "float64": 8}.get(dtype, 2)
    if dtype == "bfloat16":
        kind: Any = pytest.importorskip("ml_dtypes").bfloat16
    else:
        kind = dtype
    bits = np.full((4, 3), 2**(8 * width) - 1, f"<u{width}")        # a quiet NaN with every payload bit
    bits[1, 1] -= 6
    bits[2] = 1 << (8 * width - 1)                                 # -0.0
    with pytest.warns(UserWarning, match="hold a NaN or an infinity"), \
            zstore.Writer(tmp_path / "n.zarr", codec=codec, commit_every_s=None) as writer:
        writer.append(range(4), bits.view(kind))
    with zstore.Reader(tmp_path / "n.zarr") as reader:
        assert reader.vectors.tobytes() == bits.tobytes()
        assert reader.get([1, 2]).tobytes() == bits[[1, 2]].tobytes()
        assert reader.history[-1].nonfinite + sum(c.nonfinite for c in reader.history[:-1]) == 3


def test_empty_versions(url: Path) -> None:
    with zstore.Reader(url, version=0) as empty:
        assert len(empty) == 0
        assert empty.vectors.shape == (0, DIM)
        assert empty.ids.tolist() == []
        assert empty.epochs.tolist() == []
        assert empty.find(["s1"]).tolist() == [-1]
        assert len(empty.latest()) == 0
        with pytest.raises(NotFound, match="none"):
            empty.epoch(0)
        with pytest.raises(NotFound):
            empty.get("s1")
