"""``View``: some rows of one version, in an order, as arrays."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import numpy as np

from zstore._typing import Array, Int64s
from zstore.errors import NotFound
from zstore.format.record import Record
from zstore.format.schema import EPOCH, IDS, VECTORS, Schema
from zstore.index import KeyIndex
from zstore.mapping import Column
from zstore.rows import Rows
from zstore.storage.limits import available_memory
from zstore.view_coverage import Coverage, cover, expected_ids
from zstore.view_dataset import ViewDataset
from zstore.view_keys import fetch, find_rows, one_per_id
from zstore.view_rows import index_rows

BATCH_BYTES = 16 * 2**20     # a result of 32 MiB takes new pages from the system each time; a smaller one reuses the last


@dataclass(frozen=True)
class Snapshot:
    """One version, opened: what all views of it share. ``reopen(*arguments)`` makes it again in another process."""

    record: Record
    schema: Schema
    columns: dict[str, Column]
    index: KeyIndex
    url: str
    reopen: Callable[..., Any]
    arguments: tuple[Any, ...]


class View:
    """Some rows of one version, in an order.

    Immutable, and safe among threads and in forked children; pickles as the URL, the version and the rows. A row number
    counts this view's rows from 0, and means something in this view only.
    """

    def __init__(self, snapshot: Snapshot, rows: Rows) -> None:
        self._state: tuple[Snapshot, Rows, dict[str, Array]] | None = (snapshot, rows, {})

    def __len__(self) -> int:
        return len(self._now()[1])

    def __repr__(self) -> str:
        if self._state is None:
            return f"<zstore.{type(self).__name__} closed>"
        snapshot, rows, _ = self._state
        schema, epochs = snapshot.schema, snapshot.index.known_epochs
        span = "" if epochs is None or not len(epochs) else f" epochs={epochs[0]}..{epochs[-1]}"
        shape = schema.vectors.shape
        size = f"dim={shape[0]}" if len(shape) == 1 else f"shape={shape}"
        return (f"<zstore.{type(self).__name__} {snapshot.url!r} v{snapshot.record.version} rows={len(rows):,}{span} "
                f"{size} {schema.vectors.dtype} {schema.codec}>")

    def __reduce__(self) -> tuple[Any, ...]:
        snapshot, rows, _ = self._now()
        whole = rows.extents is not None and rows.extents == snapshot.record.extents
        return (_restored, (snapshot.reopen, snapshot.arguments, None if whole else rows))

    @property
    def ids(self) -> Array:
        """The id of each row: (n,) int64 or numpy StringDType, read-only, gathered once."""
        return self._remembered(IDS)

    @property
    def vectors(self) -> Array:
        """The vector of each row: (n, *shape), read-only. No copy where the rows are one run of a raw local store's
        mapping; else gathered once, and MemoryError, naming the size, where that can't fit."""
        return self._remembered(VECTORS)

    @property
    def epochs(self) -> Int64s:
        """The distinct epochs of the rows, ascending; (k,) int64."""
        snapshot, rows, _ = self._now()
        if rows.extents == snapshot.record.extents:
            return snapshot.index.epochs().copy()
        return np.unique(self.field(EPOCH)).astype(np.int64)

    def field(self, name: str) -> Array:
        """One field of each row, (n, *shape), read-only: ``"ids"``, ``"epoch"``, ``"vectors"``, or the user's own.
        NotFound names the fields that there are."""
        return self._remembered(name) if name in (IDS, VECTORS) else self._values(name)

    def __getitem__(self, rows: Any) -> Array:
        """Vectors by row number, with numpy's meaning on axis 0: an int (one vector, copied), a slice (no copy where
        possible), a mask or an array of ints (copied). Never keys: TypeError says to write ``get``."""
        snapshot, mine, _ = self._now()
        column = snapshot.columns[VECTORS]
        chosen = index_rows(rows, len(mine))
        if isinstance(chosen, int):
            return column.one(mine.address(chosen))
        if isinstance(chosen, range) and chosen.step == 1:
            return View(snapshot, mine.slice(chosen.start, chosen.stop))._values(VECTORS)
        return column.take(mine.addresses(np.asarray(chosen, np.int64)))

    def __iter__(self) -> NoReturn:
        raise TypeError("a view is not iterated row by row: write view.batches(), or view.vectors and view.ids")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        vectors = self.vectors
        if dtype is not None and np.dtype(dtype) != vectors.dtype:
            if copy is False:
                raise ValueError(f"vectors of {vectors.dtype} can't be given as {np.dtype(dtype)} without a copy")
            return vectors.astype(dtype)
        return vectors.copy() if copy else vectors

    def epoch(self, epoch: int) -> View:
        """A view of one row per id, at this epoch, in row order. NotFound names the epochs that there are."""
        snapshot, rows, _ = self._now()
        at = snapshot.index.epoch_addresses(_whole(epoch))
        found = rows.within(at)
        if not len(found):
            raise NotFound(f"no rows at epoch {epoch}; the epochs are {_span(self.epochs)}")
        distinct = snapshot.record.superseded == 0 and rows.extents is not None     # no key comes twice
        return View(snapshot, found if distinct else one_per_id(snapshot.index, found))

    def latest(self) -> View:
        """A view of one row per id, at its highest epoch, in row order."""
        snapshot, rows, _ = self._now()
        if snapshot.record.superseded == 0 and len(self.epochs) <= 1 and rows.extents is not None:
            return View(snapshot, rows)
        return View(snapshot, one_per_id(snapshot.index, rows))

    def select(self, rows: Any) -> View:
        """A view of these rows: a mask (n,) of bool, a slice, or row numbers, in the order asked, repeats kept.
        IndexError for rows that are not there."""
        snapshot, mine, _ = self._now()
        chosen = index_rows(rows, len(mine))
        if isinstance(chosen, range) and chosen.step == 1:
            return View(snapshot, mine.slice(chosen.start, chosen.stop))
        return View(snapshot, mine.take(np.atleast_1d(np.asarray(chosen, np.int64))))

    def find(self, ids: Any, *, epoch: Any = None) -> Any:
        """Row numbers, -1 where absent; int64 of the shape that ``get`` would have before the vector's axes, a plain
        int for one id. ``epoch`` None is each id's highest."""
        snapshot, rows, _ = self._now()
        return find_rows(snapshot.index, snapshot.schema, rows, ids, epoch)

    def get(self, ids: Any, *, epoch: Any = None, field: str = VECTORS,
            missing: Literal["raise", "nan"] = "raise") -> Any:
        """Values by key, copied, in the order asked, repeats kept.

        One id, or one epoch, has no axis: ``get("a", epoch=2)`` is ``(dim,)``, ``get(["a", "b"], epoch=[0, 1, 2])`` is
        ``(2, 3, dim)``. ``epoch`` None is each id's highest. Raises NotFound naming the keys that are missing, or gives
        rows of NaN for them with ``missing="nan"`` (ValueError where the field is no float).
        """
        snapshot, rows, _ = self._now()
        return fetch(snapshot.index, snapshot.schema, self._column(field), snapshot.columns[IDS], rows, ids, epoch,
                     missing, whole=rows.extents is snapshot.record.extents)

    def batches(self, size: int | None = None) -> Iterator[View]:
        """Views of ``size`` rows each, in order, the last one shorter. By default about 16 MiB of vectors, ending where
        shards end."""
        snapshot, rows, _ = self._now()
        if size is not None and (isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1):
            raise ValueError(f"the size of a batch is {size!r}; it must be a positive int")
        return self._batches(snapshot, rows, size)

    def coverage(self, expected: Any = None, *, epochs: Sequence[int] | None = None) -> dict[int, Coverage]:
        """What each epoch (of ``epochs``, or of the view) holds of the expected ids: missing, twice, unknown.

        ``expected``: ids, or an int n for 0..n-1; None looks for ids that come twice alone. An epoch without rows misses
        all. Reads the ids of these epochs; ValueError or TypeError for ids of the other kind than the store's."""
        snapshot, rows, _ = self._now()
        wanted = expected_ids(expected, snapshot.schema.fields[IDS].is_string)
        asked = self.epochs.tolist() if epochs is None else [_whole(epoch) for epoch in epochs]
        return {epoch: cover(epoch, View(snapshot, rows.within(snapshot.index.epoch_addresses(epoch))).field(IDS), wanted)
                for epoch in asked}

    def dataset(self, *fields: str) -> ViewDataset:
        """A map-style dataset for torch's DataLoader: tuples of these fields by row, of one field its values; without
        fields, the vectors. Safe in forked and spawned workers."""
        for name in fields:
            self._column(name)
        return ViewDataset(self, fields or (VECTORS,))

    def torch(self) -> Any:
        """The vectors as a torch tensor, (n, *shape), of the same dtype, sharing their memory. **Do not write to it**:
        the memory is read-only, torch has no word for that, and writing ends the process. ``clone()`` it first."""
        import torch

        vectors = self.vectors
        half = snapshot_dtype(self) == "bfloat16"
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")
            tensor = torch.from_numpy(vectors.view(np.uint16) if half else vectors)
        return tensor.view(torch.bfloat16) if half else tensor

    def _batches(self, snapshot: Snapshot, rows: Rows, size: int | None) -> Iterator[View]:
        shard = snapshot.schema.rows_per_shard
        step = size or max(BATCH_BYTES // max(snapshot.schema.vectors.row_bytes, 1), 1)
        run = rows.one_run()
        at = 0
        if size is None and step > shard:
            step -= step % shard
        first = step - run[0] % shard if size is None and run and step >= shard else step
        while at < len(rows):
            end = min(at + (first if at == 0 else step), len(rows))
            yield View(snapshot, rows.slice(at, end))
            at = end

    def _now(self) -> tuple[Snapshot, Rows, dict[str, Array]]:
        if self._state is None:
            raise ValueError("this reader is closed; open the store again with zstore.Reader(url)")
        return self._state

    def _column(self, name: str) -> Column:
        columns = self._now()[0].columns
        if name not in columns:
            raise NotFound(f"no field {name!r}; the fields are {', '.join(sorted(columns))}")
        return columns[name]

    def _remembered(self, name: str) -> Array:
        memo = self._now()[2]
        if name not in memo:
            memo[name] = self._values(name)
        return memo[name]

    def _values(self, name: str) -> Array:
        column, rows = self._column(name), self._now()[1]
        run = rows.one_run()
        if run is not None and not column.field.is_string:
            mapped = column.run(*run)
            if mapped is not None:
                return mapped
        _refuse_too_much(name, len(rows), len(rows) * (column.field.row_bytes or 16))
        if rows.extents is None:
            values = column.take(rows.addresses())
        elif run is not None:
            values = column.span(*run)
        else:
            values = column.runs(rows.extents)
        values.flags.writeable = False
        return values


def snapshot_dtype(view: View) -> str:
    """The format's name of the vectors' dtype."""
    return view._now()[0].schema.vectors.dtype


def _refuse_too_much(name: str, rows: int, nbytes: int) -> None:
    if nbytes > 2**28 and nbytes > 0.8 * available_memory():
        raise MemoryError(f"the {name} of {rows:,} rows are {nbytes / 2**30:.1f} GiB, more than 80% of the available "
                          "memory; take them in parts with view.batches()")


def _whole(epoch: Any) -> int:
    try:
        if isinstance(epoch, (bool, np.bool_)):
            raise TypeError
        return operator.index(epoch)        # numpy's and torch's integers too
    except TypeError:
        raise TypeError(f"an epoch is one int, not {epoch!r}") from None


def _span(epochs: Int64s) -> str:
    if not len(epochs):
        return "none: the view is empty"
    if len(epochs) <= 6:
        return ", ".join(map(str, epochs.tolist()))
    dense = int(epochs[-1] - epochs[0]) == len(epochs) - 1
    return f"{epochs[0]}..{epochs[-1]}" + ("" if dense else f" ({len(epochs)} of them)")


def _restored(reopen: Callable[..., Any], arguments: tuple[Any, ...], rows: Rows | None) -> View:
    snapshot: Snapshot = reopen(*arguments)
    return View(snapshot, Rows(snapshot.record.extents) if rows is None else rows)
