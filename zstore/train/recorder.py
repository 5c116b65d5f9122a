"""The Recorder: what a person adds to a training script."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Literal

from zstore.errors import BehindCheckpoint, Conflict
from zstore.notices import warn
from zstore.train.capture import Select, Watched, taking
from zstore.train.delivery import Delivery, OnFull, Rows, checked, one_of, sized, trial, whole
from zstore.train.start import EMPTY, Batch, Later, checked_mark, covered, head_mark, placed, uncovered, way_back
from zstore.view_coverage import Coverage
from zstore.writer import Writer


class Recorder:
    """Records what a model makes of each sample, from inside the training loop, without holding it up.

    Parameters
    ----------
    store : Writer, str or path
        Where to. A Writer stays yours to close; for a URL the recorder opens its own at the first row, with ``options``.
    start : {"over", "continue"}
        What becomes of rows that the store holds when no checkpoint was loaded. "over": the run starts over, the store is
        rolled back to empty (no byte is lost: the earlier run stays readable at its versions). "continue": they stay, as
        do those of a Writer that was opened with ``at=`` or has appended. With a loaded mark, the first row rolls back to
        it; a close without a row does so too.
    ring : int
        How many batches from a GPU may be on their way; with ``on_full`` "drop" or "raise", how many batches may wait at all.
    on_full : {"block", "drop", "raise"}
        When the disk is behind by as much as memory is given to it: wait, leave the batch out and count it, or leave it out
        and raise ``RuntimeError``.
    on_error : {"raise", "warn"}
        What a disk that refuses means. "raise": an error on the training thread, after which nothing is lost: what `append`
        refused may be passed again, and a block that ended keeps its rows, to be tried again with the next call; those of one
        that is refused for good (a field is missing, another writer took over) count as dropped. "warn": one warning, rows
        counted as dropped, and training that goes on; a store that can't be opened, or hold the first batch, raises.
    dtype : str or torch.dtype, optional
        What vectors are rounded to, on their own device: "float16", "bfloat16", ... A finite value that overflows is refused
        on a CPU; on a GPU it becomes an infinity, and those the Writer counts.
    **options
        For the Writer: ``codec``, ``commit_every_s``, ``storage_options``, ...

    In a forked child a recorder is inert. Rows that are not committed when the interpreter exits are committed then.
    """

    def __init__(self, store: Writer | str | os.PathLike[str], *, start: Literal["over", "continue"] = "over", ring: int = 8,
                 on_full: OnFull = "block", on_error: Literal["raise", "warn"] = "raise", dtype: Any = None,
                 **options: Any) -> None:
        one_of("start", start, ("over", "continue"))
        one_of("on_full", on_full, ("block", "drop", "raise"))
        one_of("on_error", on_error, ("raise", "warn"))
        if type(ring) is not int or ring < 1:
            raise ValueError(f"ring must be 1 batch or more, not {ring!r}")
        if isinstance(store, Writer) and options:
            raise ValueError(f"{', '.join(options)}: options of the Writer, and this recorder was given one; pass them to it")
        self._given = store if isinstance(store, Writer) else None
        self.url = store.url if isinstance(store, Writer) else os.fspath(store)
        dtype = None if dtype is None else str(dtype).removeprefix("torch.")
        self._options = {**options, "dtype": dtype} if self._given is None else {}
        self._start, self._ring_size, self._on_full, self._on_error, self._dtype = start, ring, on_full, on_error, dtype
        self._watched: list[Watched] = []
        self._writer: Writer | None = None
        self._delivery: Delivery | None = None
        self._mark: dict[str, Any] | None = None        # loaded, and not yet rolled back to
        self._later: Later | None = None                # what must be deleted first
        self._safe = dict(EMPTY)                        # the last mark that the disk took
        self._inside = self._closed = self._told = self._failed = self._began = False
        self._opening = threading.RLock()
        self._pid = os.getpid()

    @property
    def recorded(self) -> int:
        """Rows that are in the store, or on their way."""
        return 0 if self._delivery is None else self._delivery.recorded

    @property
    def dropped(self) -> int:
        """Rows that were to be recorded, and are not."""
        return 0 if self._delivery is None else self._delivery.dropped

    # -- recording -----------------------------------------------------------------------------------------------

    def watch(self, module: Any, *, field: str | Sequence[str] = "vectors", select: Select | None = None) -> Watched:
        """Record what ``module`` gives inside each ``batch``, one vector per id, by a forward hook.

        ``select(output)`` gives the tensor where the output is something else. Several modules are several fields of one
        row, of which one is "vectors". A module that runs over k columns one after the other (a sentence-transformers loss)
        has k fields: ``field=["vectors", "positive"]``. Watch before ``torch.compile``. The result's ``remove()`` ends it."""
        names = [field] if isinstance(field, str) else list(field)
        self._watched = [watched for watched in self._watched if watched.active]
        taken = {name for watched in self._watched for name in watched.fields}
        if not names or taken & set(names) or len(set(names)) < len(names):
            twice = ", ".join(sorted(taken & set(names)) or names)
            raise ValueError(f"field {twice} is watched already; give each its own field=")
        self._watched.append(Watched(module, type(module).__name__, names, select, self._forgotten))
        return self._watched[-1]

    @contextmanager
    def batch(self, ids: Any, *, epoch: int = 0, step: int | None = None, **fields: Any) -> Iterator[Rows]:
        """Whose rows the watched modules give inside the block; recorded when it ends without an exception.

        ``step`` becomes a field of each row, as do ``fields`` and what ``set`` adds to the result. Forwards on other threads,
        and those inside backward, are not of the batch."""
        ids, rows = sized(ids), Rows(fields)
        with self._taking(len(ids)) as values:
            yield rows
        both = values.keys() & rows.fields.keys()
        if both:
            raise ValueError(f"{', '.join(sorted(both))}: a watched module gives this field, and the batch sets it too")
        self._put(ids, values | rows.fields, epoch, step, keep=True)

    def append(self, ids: Any, vectors: Any, *, epoch: Any = 0, step: int | None = None, **fields: Any) -> None:
        """Record vectors that the caller holds: (n, dim), on any device; they may be changed as soon as it returns."""
        self._check()
        self._put(sized(ids), {"vectors": vectors, **fields}, epoch, step, keep=False)

    def end_epoch(self, epoch: int, *, expected: Any = None) -> Coverage:
        """Commit, and compare the ids recorded for ``epoch`` with ``expected`` (ids, or their number for 0..n-1).

        Warns where something is missing, twice or unknown, and where rows were dropped; None as ``expected`` looks for twice
        alone. With on_error="warn", an epoch that can't be read is told of, and given as one without a row."""
        self._check()
        epoch = whole("epoch", epoch)
        if not self.recorded and not self.dropped:
            for watched in self._watched:
                if watched.unclaimed:
                    raise RuntimeError(_unclaimed(watched))
        self.commit()
        if self._later is not None:
            self._open()
        # Before the first row, an earlier run's are no rows of this one.
        version = None if self._delivery is not None or self._stays else checked_mark(self._mark)["version"]
        try:
            found = covered(self.url, version, epoch, expected, self._storage_options())
        except OSError as error:
            if self._on_error == "raise":
                raise
            warn(f"{self.url}: the rows of epoch {epoch} can't be read, so nothing is known of them: {error}{self._lack()}")
            return uncovered(epoch, expected)
        if not found.exact or self.dropped:
            warn(f"{self.url}: {found}{self._lack()}")
        return found

    def commit(self) -> None:
        """Everything recorded so far is on the disk when it returns."""
        self._check()
        if self._delivery is not None and self._writer is not None:
            self._delivery.drain()
            self._delivery.guarded(self._writer.commit)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Commit and give the mark for the checkpoint: plain strings and integers. Before the first row it touches nothing,
        and gives where that row would go. With on_error="warn", of a disk that refuses, the last mark that it took."""
        self._check()
        if self._later is not None:
            self._open()
        if self._delivery is None or self._writer is None:
            if self._mark is None and self._given is not None and self._given.begun:
                return checked_mark(self._given.state_dict())
            if self._mark is None and self._start == "continue":
                return head_mark(self.url, self._storage_options())
            return checked_mark(self._mark)
        self.commit()
        mark = self._delivery.guarded(self._writer.state_dict)
        if mark is not None:
            self._safe = checked_mark(mark)
        return dict(self._safe)

    def load_state_dict(self, mark: Any) -> None:
        """Keep a checkpoint's mark; the first row rolls the store back to it. Raises there BehindCheckpoint, where the store
        lacks what the checkpoint names, and ValueError for another store's mark."""
        self._load(checked_mark(mark), None)

    def load_step(self, step: int) -> None:
        """For a checkpoint without a mark: go by the rows' ``step``. Later ones go with the first row: by a rollback where a
        version holds just the others, else they are deleted. Raises BehindCheckpoint, ValueError where neither can be."""
        mark, later = way_back(self.url, step, self._storage_options())
        if later is not None and self._given is not None:
            raise BehindCheckpoint(f"{self.url}: rows up to step {step} were committed together with later ones, which can't "
                                   "be deleted while your Writer is open; give the recorder the URL instead")
        self._load(mark, later)

    def _load(self, mark: dict[str, Any], later: Later | None) -> None:
        self._check()
        if self._delivery is not None:
            raise ValueError("load the checkpoint before the first row is recorded")
        self._mark, self._later = mark, later

    # -- the rest ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Commit and let go. A second call does nothing. The recorder is closed also when that fails."""
        if self._closed or os.getpid() != self._pid:
            return
        self._closed = True
        for watched in self._watched:
            watched.remove()
        try:
            if self._delivery is None and self._mark is not None and not self._failed:
                self._open()
            if self._delivery is not None:
                self._delivery.finish(own=self._given is None)
        finally:
            atexit.unregister(self.close)
        if self.dropped:
            warn(f"{self.url}: this run is not recorded whole{self._lack()}")
        elif self._delivery is None and not self._told:
            for watched in self._watched:
                if watched.unclaimed:
                    self._forgotten(watched)
                    break

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a Recorder can't be pickled or copied: a checkpoint keeps its state_dict()")

    @contextmanager
    def _taking(self, count: int) -> Iterator[dict[str, Any]]:
        """What the watched modules give inside for ``count`` rows, and nothing recorded."""
        self._check()
        watching = [watched for watched in self._watched if watched.active]
        if not watching:
            raise ValueError("nothing is watched: call recorder.watch(module) first, or recorder.append(ids, vectors)")
        if self._inside:
            raise RuntimeError("a batch of this recorder is open already: they do not nest, and one thread at a time has one")
        self._inside = True
        try:
            with taking(watching, count) as values:
                yield values
        finally:
            self._inside = False

    def _put(self, ids: Any, values: dict[str, Any], epoch: Any, step: int | None, *, keep: bool) -> None:
        if step is not None:
            values["step"] = whole("step", step)
        values = checked(ids, values)
        if not len(ids):
            return
        if self._delivery is None:
            self._open(trial(ids, values, epoch, self._dtype))
        assert self._delivery is not None
        self._delivery.put(ids, values, epoch, keep=keep)

    @property
    def _stays(self) -> bool:
        """The first row goes behind those that are there."""
        return self._mark is None and (self._start == "continue" or (self._given is not None and self._given.begun))

    def _open(self, first: Batch | None = None) -> None:
        """A Writer, and the store as the first row shall find it; as it was, where the first batch would be refused."""
        with self._opening:
            if self._delivery is not None:
                return                  # another thread's first row was faster
            self._failed = True         # it is told once: a close behind it does not try again
            if self._later is not None:
                self._mark, self._later = self._later.cut(self.url, self._options, first), None
            self._writer, self._safe = placed(self._given, self.url, self._options, self._mark, stays=self._stays, first=first)
            self._delivery = Delivery(self._writer, self._ring_size, self._on_full, self._on_error, self._dtype)
            self._mark, self._failed = None, False
            atexit.register(self.close)

    def _check(self) -> None:
        """Tell the training thread what went wrong since its last call."""
        if os.getpid() != self._pid:
            raise Conflict("this recorder belongs to the parent process and is inert in a forked child")
        if self._closed:
            raise ValueError(f"this recorder of {self.url} is closed")
        if self._delivery is not None:
            self._delivery.check()

    def _forgotten(self, watched: Watched) -> None:
        """Said once, while it is early."""
        if not self._told and self._delivery is None and os.getpid() == self._pid:
            self._told = True
            warn(_unclaimed(watched))

    def _lack(self) -> str:
        return f"; {self.dropped} rows were dropped since the run began" if self.dropped else ""

    def _storage_options(self) -> Any:
        return self._options.get("storage_options") if self._given is None else self._given.storage_options


def _unclaimed(watched: Watched) -> str:
    return (f"{watched.name} ran in training, and outside `with recorder.batch(ids, epoch=, step=)`, so no row is recorded: "
            "call the model inside such a block, which tells whose rows they are")
