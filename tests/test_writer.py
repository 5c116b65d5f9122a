"""What the Writer takes, what it stores, and what its commits say."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.errors import AlreadyExists, Conflict
from zstore.writing.clock import Clock

rng = np.random.default_rng(0)
THREE = rng.standard_normal((3, 4)).astype(np.float32)


def stored(url: str, *batches: tuple[Any, Any], **kwargs: Any) -> zstore.Reader:
    """The reader of a store that holds these batches."""
    with zstore.Writer(url, rows_per_shard=64, **kwargs) as writer:
        for ids, vectors in batches:
            writer.append(ids, vectors)
    return zstore.Reader(url)


INTS: dict[str, Callable[[], Any]] = {
    "a list": lambda: [7, 2, 5],
    "a tuple": lambda: (7, 2, 5),
    "a generator": lambda: (i for i in [7, 2, 5]),
    "a list of numpy integers": lambda: list(np.array([7, 2, 5], np.uint16)),
    "an array": lambda: np.array([7, 2, 5], np.int32),
    "a big-endian array": lambda: np.array([7, 2, 5], ">i8"),
    "objects": lambda: np.array([7, 2, 5], object),
}
STRINGS: dict[str, Callable[[], Any]] = {
    "a list": lambda: ["a", "é", "日本"],
    "an array": lambda: np.array(["a", "é", "日本"]),
    "objects": lambda: np.array(["a", "é", "日本"], object),
    "StringDType": lambda: np.array(["a", "é", "日本"], np.dtypes.StringDType()),
    "dict keys": lambda: {"a": 1, "é": 2, "日本": 3}.keys(),
    "a map": lambda: map(str, ["a", "é", "日本"]),
}


@pytest.mark.parametrize("kind", INTS)
def test_integer_ids(url: str, kind: str, sound: Callable[[str], None]) -> None:
    reader = stored(url, (INTS[kind](), THREE), (INTS[kind](), THREE))
    assert reader.ids.dtype == np.int64 and reader.ids.tolist() == [7, 2, 5] * 2
    assert (reader.vectors == np.concatenate([THREE, THREE])).all()
    sound(url)


def test_a_range_as_ids(url: str) -> None:
    assert stored(url, (range(10, 4, -2), THREE)).ids.tolist() == [10, 8, 6]


@pytest.mark.parametrize("kind", STRINGS)
def test_string_ids(url: str, kind: str, sound: Callable[[str], None]) -> None:
    reader = stored(url, (STRINGS[kind](), THREE), (STRINGS[kind](), THREE))
    assert reader.ids.dtype == np.dtypes.StringDType() and reader.ids.tolist() == ["a", "é", "日本"] * 2
    sound(url)


def test_pandas(url: str) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(THREE, index=pd.Index(["a", "b", "c"]))
    frame.index.name = "id"
    with zstore.Writer(url, rows_per_shard=64) as writer:
        writer.append(frame.index, frame, epoch=pd.Series([1, 2, 3]), label=pd.Series([True, False, True]))
        writer.append(pd.Series(["d", "e", "f"], dtype="string"), frame, label=pd.Series([False] * 3))
        writer.append(pd.Series(["g", "h", "i"], dtype="category"), frame.to_numpy(), label=[True] * 3)
    reader = zstore.Reader(url)
    assert reader.ids.tolist() == list("abcdefghi") and reader.field("epoch").tolist() == [1, 2, 3] + [0] * 6
    assert reader.field("label").tolist() == [True, False, True, False, False, False, True, True, True]
    assert (reader.vectors == np.concatenate([THREE] * 3)).all()


def test_arrow(url: str) -> None:
    pa = pytest.importorskip("pyarrow")
    with zstore.Writer(url, rows_per_shard=64) as writer:
        writer.append(pa.array(["a", "b", "c"]), THREE, label=pa.array([1.5, 2.5, 3.5]))
        writer.append(pa.chunked_array([["d"], [], ["e", "f"]]), THREE, label=pa.chunked_array([[1.5], [2.5, 3.5]]))
        writer.append(pa.array(["g", "h", "g"]).dictionary_encode(), THREE, label=np.ones(3))
        with pytest.raises(TypeError, match="None"):
            writer.append(pa.array(["g", None, "i"]), THREE, label=np.ones(3))
    reader = zstore.Reader(url)
    assert reader.ids.tolist() == list("abcdefghg")
    assert reader.field("label").tolist() == [1.5, 2.5, 3.5, 1.5, 2.5, 3.5, 1, 1, 1]


def test_torch(url: str, sound: Callable[[str], None]) -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(THREE)
    with zstore.Writer(url, rows_per_shard=64) as writer:
        writer.append(torch.tensor([1, 2, 3]), tensor, label=torch.tensor([1, 0, 1], dtype=torch.uint8))
        grown = (tensor.clone().requires_grad_() * 2).T.contiguous().T
        assert grown.requires_grad
        writer.append(torch.tensor([4, 5, 6], dtype=torch.int32), grown, epoch=torch.tensor([3, 4, 5]),
                      label=torch.zeros(3, dtype=torch.uint8))
        with pytest.raises(TypeError, match=r"torch\.float32.*ids\.long\(\)"):
            writer.append(torch.ones(3), tensor, label=torch.zeros(3, dtype=torch.uint8))
    reader = zstore.Reader(url)
    assert (reader.vectors == np.concatenate([THREE, THREE * 2])).all()
    assert reader.field("epoch").tolist() == [0, 0, 0, 3, 4, 5]
    assert reader.field("label").dtype == np.uint8 and reader.field("label").tolist() == [1, 0, 1, 0, 0, 0]
    assert reader.torch().dtype == torch.float32
    sound(url)


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_bfloat16_tensors_keep_every_bit(url: str, codec: str) -> None:
    torch = pytest.importorskip("torch")
    bits = torch.arange(0, 2**16, 5, dtype=torch.int32).to(torch.int16)
    tensor = bits[:len(bits) // 4 * 4].reshape(-1, 4).view(torch.bfloat16)
    with zstore.Writer(url, codec=codec, rows_per_shard=1024) as writer:
        writer.append(range(len(tensor)), tensor)
        writer.append(range(len(tensor), 2 * len(tensor)), tensor.T.contiguous().T)
        with pytest.warns(UserWarning, match="NaN"):
            writer.commit()
    found = zstore.Reader(url).torch()
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.view(torch.int16), torch.cat([tensor, tensor]).view(torch.int16))


@pytest.mark.parametrize("codec", ["raw", "lossless", "small"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8"])
def test_every_vector_dtype(url: str, codec: str, dtype: str, sound: Callable[[str], None]) -> None:
    vectors = (rng.standard_normal((100, 6)) * 50).astype(dtype)
    with zstore.Writer(url, codec=codec, rows_per_shard=32) as writer:
        for start in range(0, 100, 7):
            writer.append(range(start, min(start + 7, 100)), vectors[start:start + 7])
    reader = zstore.Reader(url)
    assert reader.vectors.dtype == np.dtype(dtype) and (reader.vectors == vectors).all()
    sound(url)


def test_vectors_of_several_axes(url: str) -> None:
    views = rng.standard_normal((5, 2, 3)).astype(np.float32)
    reader = stored(url, (range(5), views))
    assert reader.get(3).shape == (2, 3) and (reader.vectors == views).all()


@pytest.mark.parametrize("codec", ["raw", "lossless"])
def test_fields_of_every_kind(url: str, codec: str, sound: Callable[[str], None]) -> None:
    n = 50
    fields = {"flag": rng.random(n) < 0.5, "label": np.arange(n, dtype=np.int16), "loss": rng.random(n),
              "text": [f"täxt {i}" * (i % 4) for i in range(n)], "views": rng.random((n, 2, 3)).astype(np.float16)}
    with zstore.Writer(url, codec=codec, rows_per_shard=16) as writer:
        for start in range(0, n, 9):
            part = slice(start, start + 9)
            writer.append(range(n)[part], np.zeros((len(range(n)[part]), 2), "f4"), **{k: v[part] for k, v in fields.items()})
            if start % 2:
                writer.commit()
        writer.append([n, n + 1], np.zeros((2, 2), "f4"), flag=True, label=3, loss=0.5, text="same",
                      views=np.zeros((2, 2, 3)))
    reader = zstore.Reader(url)
    for name, values in fields.items():
        found = reader.field(name)
        assert found[:n].tolist() == np.asarray(values).tolist(), name
    assert reader.field("text")[n:].tolist() == ["same"] * 2 and reader.field("label")[n:].tolist() == [3, 3]
    assert reader.field("views").dtype == np.float16 and reader.field("flag").dtype == bool
    sound(url)


def test_fields_given_are_exactly_those(url: str) -> None:
    with zstore.Writer(url, rows_per_shard=64, fields={"label": "int32", "two": ("float32", (2,)), "name": str}) as writer:
        with pytest.raises(ValueError, match="'loss'"):
            writer.append([1], THREE[:1], label=[1], two=[[1, 2]], name=["x"], loss=[1.0])
        with pytest.raises(ValueError, match="'name' is missing"):
            writer.append([1], THREE[:1], label=[1], two=[[1, 2]])
        writer.append([1], THREE[:1], label=[1], two=[[1, 2]], name=["x"])
    reader = zstore.Reader(url)
    assert reader.field("label").dtype == np.int32 and reader.field("two").tolist() == [[1.0, 2.0]]


def test_epochs_per_row(url: str) -> None:
    with zstore.Writer(url, rows_per_shard=64) as writer:
        writer.append([1, 1, 1], THREE, epoch=[0, 5, 2**31 - 1])
        writer.append([2, 2, 2], THREE, epoch=np.array([1, 2, 3], np.uint8))
        writer.append([3, 3, 3], THREE, epoch=range(3))
        writer.append([4], THREE[:1], epoch=np.int64(7))
    reader = zstore.Reader(url)
    assert reader.field("epoch").tolist() == [0, 5, 2**31 - 1, 1, 2, 3, 0, 1, 2, 7]
    assert (reader.get(1, epoch=5) == THREE[1]).all() and reader.latest().ids.tolist() == [1, 2, 3, 4]


def test_attrs_meta_and_tags(url: str, sound: Callable[[str], None]) -> None:
    with zstore.Writer(url, rows_per_shard=64, attrs={"model": "a", "lr": [1, 0.5]}) as writer:
        writer.append([1, 2, 3], THREE)
        first = writer.commit(tag="best", meta={"loss": 0.5, "ünï": [None, True]})
        assert first is not None and first.tag == "best" and first.meta == {"loss": 0.5, "ünï": [None, True]}
        writer.append([4, 5, 6], THREE)
        with pytest.raises(AlreadyExists, match=r"'best' .* names version 1 already; tags never move"):
            writer.commit(tag="best")
        assert zstore.Reader(url).version == 1          # refused before anything was written
        again = writer.commit(tag="later")
        assert again is not None and again.meta is None
        same = writer.commit(tag="also-later")          # nothing new: a second name of that version
        assert same is not None and same.version == again.version
        described = writer.commit(meta="words")         # meta alone is worth a version
        assert described is not None and described.version == again.version + 1 and described.new_rows == 0
    with zstore.Writer(url, attrs={"model": "a", "more": 1}):
        pass
    reader = zstore.Reader(url)
    assert reader.attrs == {"model": "a", "lr": [1, 0.5], "more": 1}
    assert len(zstore.Reader(url, tag="best")) == 3 and len(zstore.Reader(url, tag="also-later")) == 6
    assert [c.meta for c in zstore.history(url)][:2] == [None, first.meta]
    sound(url)


def test_a_commit_with_nothing_new(url: str) -> None:
    with zstore.Writer(url, rows_per_shard=64) as writer:
        assert writer.commit() is None and writer.state_dict() is None
        with pytest.raises(ValueError, match="append a batch first"):
            writer.commit(tag="x")
        writer.append([1, 2, 3], THREE)
        first = writer.commit()
        assert first is not None and (first.version, first.rows, first.new_rows) == (1, 3, 3)
        assert writer.commit() == first and writer.state_dict() == first.mark
    assert [c.version for c in zstore.history(url)] == [0, 1, 2]        # the last hands over the tail
    assert zstore.history(url)[-1].new_rows == 0


def test_duplicates_are_counted(url: str) -> None:
    with zstore.Writer(url, rows_per_shard=64) as writer:
        writer.append([1, 2, 3], THREE, epoch=0)
        writer.append([1, 2, 3], THREE, epoch=1)
        assert writer.commit().duplicates == 0      # type: ignore[union-attr]
        writer.append([3, 1, 9], THREE, epoch=1)
        assert writer.commit().duplicates == 2      # type: ignore[union-attr]
    with pytest.warns(UserWarning, match="1 keys .* superseded"), zstore.Writer(url) as writer:
        writer.append([9], THREE[:1], epoch=1)
        writer.append([9], THREE[:1], epoch=2)
    assert len(zstore.Reader(url).epoch(1)) == 4


def test_the_clock_commits(url: str) -> None:
    """With no call to commit: the rows are there, and the clock asked for nothing when nothing was new."""
    ticked = threading.Event()

    class Ticking(zstore.Writer):
        def _commit_by_clock(self) -> None:
            super()._commit_by_clock()
            if self.commits:
                ticked.set()

        @property
        def commits(self) -> bool:
            return self._core is not None and self._core.log.head().rows == 6

    writer = Ticking(url, rows_per_shard=64, commit_every_s=0.01)
    writer.append([1, 2, 3], THREE)
    writer.append([4, 5, 6], THREE)
    assert ticked.wait(30)
    rows = len(zstore.Reader(url))
    assert rows == 6
    before = len(zstore.history(url))
    ticked.clear()
    assert ticked.wait(30)
    assert len(zstore.history(url)) == before
    writer.close()


def test_a_writer_that_nobody_holds_keeps_no_clock() -> None:
    class Owner:
        def _commit_by_clock(self) -> None:
            raise AssertionError("it is gone")
    owner = Owner()
    clock = Clock(0.001, owner)
    clock._writer = type(clock._writer)(owner)
    del owner
    clock._run()        # ends by itself


def test_add_field(url: str, sound: Callable[[str], None]) -> None:
    with zstore.Writer(url, rows_per_shard=4, codec="raw") as writer:
        writer.append(range(6), np.zeros((6, 4), "f4"))
        writer.commit()
        writer.append([6], np.zeros((1, 4), "f4"))
        commit = writer.add_field("cluster", np.arange(7), fill=-1)
        assert commit.rows == 7
        with pytest.raises(ValueError, match="has a field 'cluster' already"):
            writer.add_field("cluster", np.arange(7))
        with pytest.raises(ValueError, match="length 7"):
            writer.add_field("other", np.arange(6))
        with pytest.raises(ValueError, match="reserved"):
            writer.add_field("ids", np.arange(7))
        with pytest.raises(ValueError, match="fill"):
            writer.add_field("other", np.arange(7), fill="x")
        writer.append([7, 8], np.zeros((2, 4), "f4"))
        writer.append([9], np.zeros((1, 4), "f4"), cluster=[5])
        writer.add_field("name", [f"n{i}" for i in range(10)])
        writer.append([10], np.zeros((1, 4), "f4"))
    reader = zstore.Reader(url)
    assert reader.field("cluster").tolist() == [*range(7), -1, -1, 5, -1]
    assert reader.field("name").tolist() == [*(f"n{i}" for i in range(10)), ""]
    assert reader.ids.tolist() == list(range(11))
    old = zstore.Reader(url, version=1)
    with pytest.raises(KeyError, match="cluster"):
        old.field("cluster")
    sound(url)


def test_a_field_added_again_after_a_rollback_takes_another_folder(url: str, sound: Callable[[str], None]) -> None:
    with zstore.Writer(url, rows_per_shard=4) as writer:
        writer.append(range(3), THREE)
        mark = writer.state_dict()
        writer.add_field("cluster", [1, 2, 3])
    with zstore.Writer(url, at=mark) as writer:
        writer.add_field("cluster", ["a", "b", "c"])
    assert zstore.Reader(url).field("cluster").tolist() == ["a", "b", "c"]
    assert (Path(url) / "cluster").is_dir() and (Path(url) / "cluster.2").is_dir()
    sound(url)


def test_a_writer_refuses_to_pickle(url: str) -> None:
    with zstore.Writer(url, rows_per_shard=64) as writer:
        for call in (lambda: pickle.dumps(writer), lambda: pickle.dump({"w": writer}, io.BytesIO()),
                     lambda: copy.deepcopy(writer)):
            with pytest.raises(TypeError, match=r"can't be pickled: open one in the other process"):
                call()


def test_repr_is_one_line(url: str) -> None:
    writer = zstore.Writer(url, rows_per_shard=64)
    assert repr(writer) == f"<zstore.Writer {url!r} no store yet>"
    writer.append([1], THREE[:1])
    assert repr(writer) == f"<zstore.Writer {url!r} session=0 dim=4 float32 lossless>"
    writer.close()
    assert repr(writer) == f"<zstore.Writer {url!r} closed>"


def test_a_field_needs_a_session_of_its_own(url: str) -> None:
    with zstore.Writer(url, session="launch", rows_per_shard=64) as writer:
        writer.append([1], THREE[:1])
        with pytest.raises(Conflict, match="shared session"):
            writer.add_field("x", [1])
