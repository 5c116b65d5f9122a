"""Bad batches: one clear error at the door, nothing appended, the writer goes on. And odd ones that are taken as they are."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import zstore
from zstore.errors import Conflict

GOOD = np.arange(8, dtype=np.float32).reshape(2, 4)
IDS = ["c", "d"]
LABEL = {"label": [1, 2]}


def refused(writer: zstore.Writer, error: type[Exception], words: str, *args: Any, **kwargs: Any) -> None:
    """One error of exactly this type whose message holds all the words; nothing of the batch was taken."""
    before = writer.commit()
    with pytest.raises(error) as caught:
        writer.append(*args, **kwargs)
    assert type(caught.value) is error
    text = str(caught.value)
    for word in words.split("|"):
        assert word in text, f"{word!r} is not in {text!r}"
    assert "\n" not in text and len(text) < 400
    after = writer.commit()
    assert before is not None and after is not None
    assert (after.version, after.rows) == (before.version, before.rows)


@pytest.fixture
def writer(url: str, sound: Callable[[str], None]) -> Iterator[zstore.Writer]:
    """A store of two rows with string ids and an int field. After the test one more batch goes in, and only it."""
    with zstore.Writer(url, rows_per_shard=64) as writer:
        writer.append(["a", "b"], GOOD, **LABEL)
        yield writer
        writer.append(["y", "z"], GOOD + 1, epoch=3, label=[8, 9])
        commit = writer.commit()
        assert commit is not None and commit.new_rows == 2
    with zstore.Reader(url) as reader:
        assert reader.ids.tolist()[-2:] == ["y", "z"]
        assert (reader.vectors[-2:] == GOOD + 1).all()
        assert reader.field("label").tolist()[-2:] == [8, 9]
    sound(url)


VECTORS = {
    "other dim": (ValueError, "5 per row|holds 4", np.ones((2, 5), np.float32)),
    "one vector": (ValueError, "(4,)|vectors[None, :]", np.ones(4, np.float32)),
    "more axes": (ValueError, "(4, 1)|holds 4", np.ones((2, 4, 1), np.float32)),
    "a number": (ValueError, "(rows, dim)|()", 1.0),
    "None": (ValueError, "(rows, dim)", None),
    "integers": (TypeError, "int64|float32|astype", np.ones((2, 4), np.int64)),
    "bool": (TypeError, "bool|float32", np.ones((2, 4), bool)),
    "ragged": (ValueError, "vectors|different lengths", [[1.0, 2.0], [1.0]]),
    "object": (TypeError, "object|ragged", np.array([[1, None, 2, 3]] * 2, object)),
    "strings": (TypeError, "<U1|float32", np.array([["a"] * 4] * 2)),
    "complex": (TypeError, "complex|real and imaginary", GOOD * 1j),
    "dates": (TypeError, "dates", np.zeros((2, 4), "M8[s]")),
    "masked": (TypeError, "masked|filled", np.ma.masked_array(GOOD, GOOD > 2)),
    "structured": (ValueError, "shape", np.zeros(2, [("x", "f4")])),
    "overflow": (ValueError, "1e+300|row 1|float32", np.array([[1.0] * 4, [0.0, 1e300, 0.0, 0.0]])),
    "too many": (ValueError, "2 ids|3 vectors", np.ones((3, 4), np.float32)),
    "too few": (ValueError, "2 ids|1 vectors", np.ones((1, 4), np.float32)),
    "none at all": (ValueError, "2 ids|0 vectors", np.ones((0, 4), np.float32)),
}


@pytest.mark.parametrize("case", VECTORS)
def test_bad_vectors(writer: zstore.Writer, case: str) -> None:
    error, words, vectors = VECTORS[case]
    refused(writer, error, words, IDS, vectors, **LABEL)


BAD_IDS = {
    "integers": (ValueError, "strings|1|str(id)", [1, 2]),
    "an array of integers": (ValueError, "strings|str(id)", np.arange(2)),
    "bytes": (TypeError, "bytes|decode", [b"c", b"d"]),
    "an array of bytes": (TypeError, "S1|decode", np.array([b"c", b"d"])),
    "UUIDs": (TypeError, "UUID|str(id)", [uuid.uuid4(), uuid.uuid4()]),
    "None among them": (TypeError, "row 1|None|every row needs an id", ["c", None]),
    "None": (TypeError, "None|list", None),
    "empty": (ValueError, "row 1|empty", ["c", ""]),
    "over-long": (ValueError, "row 1|1025 bytes|1024|hash", ["c", "d" * 1025]),
    "over-long in UTF-8": (ValueError, "row 0|1026 bytes", ["é" * 513, "d"]),
    "a lone surrogate": (ValueError, "surrogate|\\ud800", ["c", "\ud800"]),
    "NUL": (ValueError, "NUL|d", ["c", "d\0"]),
    "both kinds": (TypeError, "mix|str(id)", ["c", 2]),
    "floats": (TypeError, "float|int(id)", [1.0, 2.0]),
    "NaN": (TypeError, "row 1|float", ["c", float("nan")]),
    "bools": (TypeError, "bool", [True, False]),
    "one string": (TypeError, "one string|['cd']", "cd"),
    "a set": (TypeError, "set|order|list", {"c", "d"}),
    "two axes": (ValueError, "(1, 2)|(n,)", np.array([["c", "d"]])),
    "one id too many": (ValueError, "3 ids|2 vectors", ["c", "d", "e"]),
}


@pytest.mark.parametrize("case", BAD_IDS)
def test_bad_ids(writer: zstore.Writer, case: str) -> None:
    error, words, ids = BAD_IDS[case]
    refused(writer, error, words, ids, GOOD, **LABEL)


@pytest.mark.parametrize(("ids", "vectors"), [(GOOD, IDS), (GOOD, np.array(IDS)), (GOOD.tolist(), IDS)])
def test_swapped(writer: zstore.Writer, ids: Any, vectors: Any) -> None:
    error, words = (ValueError, "list") if isinstance(ids, list) else (TypeError, "swapped|append(ids, vectors)")
    refused(writer, error, words, ids, vectors, **LABEL)


EPOCHS = {
    "negative": (ValueError, "-1|2147483647", -1),
    "fractional": (TypeError, "integer|1.5", 1.5),
    "huge": (ValueError, "2147483648", 2**31),
    "beyond int64": (ValueError, "from 0 to", 2**70),
    "text": (TypeError, "integer|'1'", "1"),
    "None": (TypeError, "integer|None", None),
    "a bool": (TypeError, "integer|True", True),
    "fractional per row": (TypeError, "integer", [1.5, 2]),
    "negative per row": (ValueError, "-7", [0, -7]),
    "huge per row": (ValueError, "2147483648", [0, 2**31]),
    "beyond int64 per row": (TypeError, "integer", [0, 2**70]),
    "too many": (ValueError, "(2,)|(3,)", [1, 2, 3]),
    "two axes": (ValueError, "(2,)|(1, 2)", [[1, 2]]),
}


@pytest.mark.parametrize("case", EPOCHS)
def test_bad_epoch(writer: zstore.Writer, case: str) -> None:
    error, words, epoch = EPOCHS[case]
    refused(writer, error, words, IDS, GOOD, epoch=epoch, **LABEL)


FIELDS = {
    "unknown, with a near match": (ValueError, "'lable'|did you mean 'label'", {"label": [1, 2], "lable": [1, 2]}),
    "unknown": (ValueError, "'loss'|'label'|add_field", {"label": [1, 2], "loss": [1.0, 2.0]}),
    "missing": (ValueError, "'label'|missing|label=...", {}),
    "reserved": (ValueError, "'row'|reserved", {"label": [1, 2], "row": [1, 2]}),
    "reserved in capitals": (ValueError, "'Rows'|reserved", {"label": [1, 2], "Rows": [1, 2]}),
    "no name": (ValueError, "'a b'|letters", {"label": [1, 2], "a b": [1, 2]}),
    "short": (ValueError, "'label'|(2,)|(1,)", {"label": [1]}),
    "more axes": (ValueError, "'label'|(2, 1)", {"label": [[1], [2]]}),
    "floats for ints": (TypeError, "'label'|float64|int64", {"label": [1.5, 2.0]}),
    "strings for ints": (TypeError, "'label'|string|int64", {"label": ["a", "b"]}),
    "None": (TypeError, "'label'|None", {"label": [1, None]}),
    "ints that do not fit": (ValueError, "'label'|int64", {"label": np.array([1, 2**63], np.uint64)}),
}


@pytest.mark.parametrize("case", FIELDS)
def test_bad_fields(writer: zstore.Writer, case: str) -> None:
    error, words, fields = FIELDS[case]
    refused(writer, error, words, IDS, GOOD, **fields)


@pytest.mark.parametrize("value", [["ok", 1], ["ok", None], ["ok", "\ud800"], ["ok", "a\0"], ["ok", "x" * (2**20 + 1)], ["ok"]])
def test_bad_text(url: str, value: list[Any]) -> None:
    with zstore.Writer(url, rows_per_shard=64) as writer:
        writer.append(["a", "b"], GOOD, text=["", "é"])
        refused(writer, TypeError if len(value) == 2 and not isinstance(value[1], str) else ValueError, "'text'",
                IDS, GOOD, text=value)
    assert zstore.Reader(url).field("text").tolist() == ["", "é"]


def test_strings_in_a_store_of_integers(url: str) -> None:
    with zstore.Writer(url, rows_per_shard=64) as writer:
        writer.append([1, 2], GOOD)
        refused(writer, ValueError, "integers|'c'|int(id)", IDS, GOOD)
        refused(writer, ValueError, str(2**63), [1, 2**63], GOOD)
        writer.append([-2**63, 2**63 - 1], GOOD)
    assert zstore.Reader(url).ids.tolist() == [1, 2, -2**63, 2**63 - 1]


FIRST = {
    "integers as vectors": (TypeError, "int64|float32|cast", (IDS, GOOD.astype(int)), {}),
    "complex": (TypeError, "complex", (IDS, GOOD * 1j), {}),
    "no numbers": (ValueError, "(2, 0)", (IDS, np.zeros((2, 0))), {}),
    "reserved": (ValueError, "'row'|reserved", (IDS, GOOD), {"row": [1, 2]}),
    "ragged field": (ValueError, "'f'|different lengths", (IDS, GOOD), {"f": [[1], [1, 2]]}),
    "None in a field": (TypeError, "'f'|None", (IDS, GOOD), {"f": [None, 1]}),
    "short field": (ValueError, "'f'|length 2", (IDS, GOOD), {"f": [1]}),
    "epoch": (ValueError, "-1", (IDS, GOOD), {"epoch": -1}),
    "ids": (TypeError, "bytes", ([b"c", b"d"], GOOD), {}),
}


@pytest.mark.parametrize("case", FIRST)
def test_a_bad_first_batch_makes_no_store(url: str, tmp_path: Any, case: str) -> None:
    error, words, args, kwargs = FIRST[case]
    with zstore.Writer(url, rows_per_shard=64) as writer:
        with pytest.raises(error) as caught:
            writer.append(*args, **kwargs)
        assert all(word in str(caught.value) for word in words.split("|")), str(caught.value)
        assert not (tmp_path / "run.zarr").exists()
        writer.append(IDS, GOOD)
    assert zstore.Reader(url).ids.tolist() == IDS


def test_an_empty_batch_is_no_rows(writer: zstore.Writer) -> None:
    before = writer.commit()
    writer.append([], np.zeros((0, 4), np.float32), label=[])
    writer.append([], [], **LABEL)
    assert writer.commit() == before


def test_an_empty_first_batch_makes_no_store(url: str, tmp_path: Any) -> None:
    with zstore.Writer(url) as writer:
        writer.append([], np.zeros((0, 4), np.float32))
        assert writer.commit() is None
    assert not (tmp_path / "run.zarr").exists()


@pytest.mark.parametrize("codec", ["lossless", "raw"])
def test_odd_arrays_are_taken_bit_for_bit(url: str, codec: str, sound: Callable[[str], None]) -> None:
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((6, 4)).astype(np.float32)
    plain[0, 0], plain[1, 1] = -0.0, np.float32(1e-45)
    readonly = plain.copy()
    readonly.flags.writeable = False
    sent = [np.asfortranarray(plain), rng.standard_normal((12, 8)).astype(np.float32)[::2, ::2], plain[::-1],
            plain.astype(">f4"), readonly, plain.T.copy().T]
    with zstore.Writer(url, codec=codec, rows_per_shard=16) as writer:
        for number, array in enumerate(sent):
            ids = np.arange(number * 12, number * 12 + 12, dtype=">i8")[::2]
            writer.append(ids, array, label=ids.astype(">u2"))
    with zstore.Reader(url) as reader:
        expected = np.concatenate(sent).astype("<f4")
        assert reader.vectors.view(np.uint32).tolist() == expected.view(np.uint32).tolist()
        assert reader.ids.tolist() == reader.field("label").tolist() == list(range(0, 72, 2))
    sound(url)


def test_a_batch_may_be_changed_after_append(url: str) -> None:
    ids, vectors, label, epoch = ["a", "b"], GOOD.copy(), np.array([1, 2]), np.array([3, 4])
    with zstore.Writer(url, rows_per_shard=64) as writer:
        for _ in range(2):          # the first batch makes the store, the second meets one
            writer.append(ids, vectors, epoch=epoch, label=label)
            ids[0], vectors[:], label[:], epoch[:] = "changed", -1, -1, 99
            ids, vectors, label, epoch = ["c", "d"], GOOD.copy(), np.array([1, 2]), np.array([3, 4])
    with zstore.Reader(url) as reader:
        assert reader.ids.tolist() == ["a", "b", "c", "d"]
        assert (reader.vectors == np.concatenate([GOOD, GOOD])).all()
        assert reader.field("label").tolist() == [1, 2, 1, 2] and reader.field("epoch").tolist() == [3, 4, 3, 4]


def test_nan_and_infinity_are_stored_counted_and_said_once(url: str, sound: Callable[[str], None]) -> None:
    bad = GOOD.copy()
    bad[0, 1], bad[1, 2] = np.nan, -np.inf
    with zstore.Writer(url, rows_per_shard=64) as writer:
        writer.append(["a", "b"], bad)
        writer.append(["c", "d"], GOOD)
        with pytest.warns(UserWarning, match="2 of 4 rows hold a NaN or an infinity"):
            commit = writer.commit()
        assert commit is not None and commit.nonfinite == 2
        writer.append(["e", "f"], bad)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = writer.commit()
        assert again is not None and again.nonfinite == 2
    assert np.array_equal(zstore.Reader(url).vectors, np.concatenate([bad, GOOD, bad]), equal_nan=True)
    sound(url)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_downcast_rounds_and_refuses_overflow(url: str, dtype: str) -> None:
    big = {"float16": 70000.0, "bfloat16": 3.4e38}[dtype]
    with zstore.Writer(url, dtype=dtype, rows_per_shard=64) as writer:
        writer.append(["a", "b"], GOOD / 3)
        array = GOOD.astype(np.float64)
        array[1, 3] = big * 1.001
        refused(writer, ValueError, f"row 1|{dtype}|nothing", IDS, array)
        array[1, 3] = np.inf        # that is no overflow
        writer.append(IDS, array)
        with pytest.warns(UserWarning, match="infinity"):
            writer.commit()
    vectors = zstore.Reader(url).vectors
    assert (vectors[:2] == (GOOD / 3).astype(vectors.dtype)).all() and np.isinf(vectors[3, 3].astype(np.float32))


def test_a_closed_writer(url: str) -> None:
    writer = zstore.Writer(url, rows_per_shard=64)
    writer.append(["a", "b"], GOOD)
    writer.close()
    writer.close()
    for call in (lambda: writer.append(IDS, GOOD), writer.commit, writer.state_dict, lambda: writer.load_state_dict(None),
                 lambda: writer.add_field("f", [1, 2])):
        with pytest.raises(ValueError, match=r"is closed; open Writer\(") as caught:
            call()
        assert not isinstance(caught.value, Conflict)
    assert len(zstore.Reader(url)) == 2


def test_attributes_and_meta_must_be_json(url: str) -> None:
    with pytest.raises(ValueError, match="attrs must be JSON"):
        zstore.Writer(url, attrs={"x": float("nan")})
    with pytest.raises(ValueError, match="'zstore' is reserved"):
        zstore.Writer(url, attrs={"zstore": 1})
    with zstore.Writer(url, rows_per_shard=64) as writer:
        writer.append(["a", "b"], GOOD)
        for meta, words in ((object(), "meta must be JSON"), ({1: {2}}, "meta must be JSON"),
                            ("x" * 2**17, "meta is .* at most 65536")):
            with pytest.raises(ValueError, match=words):
                writer.commit(meta=meta)
        with pytest.raises(ValueError, match="the tag 'a/b' must be"):
            writer.commit(tag="a/b")
        with pytest.raises(TypeError, match="a tag is a string"):
            writer.commit(tag=3)  # type: ignore[arg-type]
        assert [commit.rows for commit in zstore.history(url)] == [0]
