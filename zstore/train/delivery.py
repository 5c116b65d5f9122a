"""From the training thread to the Writer: at once where the Writer can take it at once, else through a ring."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from zstore.errors import ZStoreError
from zstore.notices import warn
from zstore.train.ring import GivenUp, Ring
from zstore.train.staging import Slot, Streams, is_on_device, ready
from zstore.writer import Writer

OnFull = Literal["block", "drop", "raise"]


class Delivery:
    """The rows of one recorder behind the loop.

    ``Writer.append`` copies a batch and returns, with bounded memory of its own behind it. Handing the batch to another thread
    costs the loop as much (measured: a copy to wait in, and a thread that takes the interpreter from the next step). The ring
    is for what the Writer can't take at once: tensors that a GPU has yet to compute, a loop that shall not wait for the disk,
    and a batch that the disk refused.
    """

    def __init__(self, writer: Writer, size: int, on_full: OnFull, on_error: str, dtype: str | None) -> None:
        self._writer, self._size, self._dtype = writer, size, dtype
        self._on_full, self._on_error = on_full, on_error
        self._streams = Streams()
        self._ring: Ring[Slot] | None = None
        self._lock = threading.Lock()           # several threads may append
        self._taken = self._left_out = 0        # rows; written by the caller's thread
        self._lost = 0                          # of those taken; written by the ring's
        self._untold: deque[str] = deque()
        self._told: set[str] = set()

    @property
    def recorded(self) -> int:
        """Rows that the Writer has, or will get."""
        return self._taken - self._lost

    @property
    def dropped(self) -> int:
        """Rows that no record will name."""
        return self._left_out + self._lost

    def put(self, ids: Any, values: dict[str, Any], epoch: Any, *, keep: bool) -> None:
        """Take rows over. ``keep``: the caller can't make this call again, so that a batch which the disk refuses is told, and
        waits to be tried again."""
        values = {name: ready(value, self._dtype if name == "vectors" else None) for name, value in values.items()}
        with self._lock:
            direct = self._on_full == "block" and not (self._ring is not None and self._ring.waiting)
            if direct and not any(map(is_on_device, (ids, epoch, *values.values()))):
                self._append(ids, values, epoch, keep)
            else:
                self._queue(ids, values, epoch, keep)
        self.tell()

    def _append(self, ids: Any, values: dict[str, Any], epoch: Any, keep: bool) -> None:
        try:
            self._writer.append(ids, epoch=epoch, **values)
        except Exception as error:
            if self._on_error == "warn":
                self._left_out += len(ids)
                self._note(error)
                return
            if keep and isinstance(error, OSError) and not isinstance(error, ZStoreError):
                self._queue(ids, values, epoch, keep)
            raise
        self._taken += len(ids)

    def _queue(self, ids: Any, values: dict[str, Any], epoch: Any, keep: bool) -> None:
        if self._ring is None:
            self._ring = Ring([Slot() for _ in range(self._size)], self._sink)
        slot = self._ring.free()
        if slot is None and self._on_full == "block":
            self._ring.wait_for_room()
            try:
                self._raise_problem()
            except BaseException:
                self._left_out += len(ids) if keep else 0       # nobody can pass it again
                raise
            slot = self._ring.free()
        if slot is None:
            self._left_out += len(ids)
            told = f"{self._size} batches wait for the disk already"
            if self._on_full == "raise":
                raise RuntimeError(f"{self._writer.url}: {told} (on_full=\"raise\"), so this batch is left out; record less, "
                                   "or take a larger ring=")
            self._say("full", f"{told} (on_full=\"drop\")")
            return
        slot.fill({"ids": ids, "epoch": epoch, **values}, self._dtype, self._streams)
        self._taken += len(ids)
        self._ring.put()

    def _sink(self, slot: Slot) -> None:
        """The ring's thread: from slot to writer."""
        try:
            slot.wait()
            self._writer.append(**slot.values)
        except Exception as error:
            warns = self._on_error == "warn"
            if not warns and not isinstance(error, (ValueError, TypeError)):
                raise
            self._lost += len(slot.values["ids"])       # or it would be refused again
            if not warns:
                raise GivenUp from error
            self._note(error)

    def check(self) -> None:
        """Tell, on the caller's thread, what went wrong since the last call."""
        if self._untold or self._ring is not None:
            self.tell()
            self._raise_problem()

    def _raise_problem(self) -> None:
        problem = None if self._ring is None else self._ring.take_problem()
        if problem is not None:
            raise problem

    def drain(self) -> None:
        """Until the Writer has all that was taken; raises what stands in the way."""
        if self._ring is not None:
            self._ring.drain()
        self.check()

    def end(self) -> None:
        """Hand over what still waits, as far as it can be done, and count the rest as dropped."""
        if self._ring is None:
            return
        try:
            self._ring.take_problem()           # what went wrong an hour ago must not cost what works now
            self._ring.drain()
            self._raise_problem()
        finally:
            self._left_out += (left := sum(len(slot.values["ids"]) for slot in self._ring.end()))
            self._taken -= left
        self.tell()

    def guarded(self, call: Callable[[], Any]) -> Any:
        """What the call gives; with on_error="warn" None for one that the disk refuses."""
        try:
            return call()
        except Exception as error:
            if self._on_error == "raise":
                raise
            self._note(error)
            self.tell()

    def tell(self) -> None:
        """Warn, once for each kind of reason; what it comes to is said at the ends of epochs and of the run."""
        while self._untold:
            warn(f"{self._writer.url}: rows are not recorded, and the training goes on: {self._untold.popleft()}")

    def _note(self, error: Exception) -> None:
        self._say(type(error).__name__, str(error))

    def _say(self, kind: str, reason: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._untold.append(reason)


class Rows:
    """The rows of an open batch: ``set(loss=losses)`` adds fields that the block has computed."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    def set(self, **fields: Any) -> None:
        """Values for these rows: (n, ...) arrays or tensors, or one value for all."""
        self.fields.update(fields)


def sized(ids: Any) -> Any:
    """Ids that can be counted: an iterator is read, once."""
    if isinstance(ids, (str, bytes)):
        raise TypeError("ids is one string; pass a list of ids, one per row")
    if isinstance(ids, (int, np.integer)) or getattr(ids, "ndim", 1) == 0:
        raise TypeError(f"ids is one number, {ids}; pass a list of ids, one per row")
    return ids if hasattr(ids, "__len__") else list(ids)


def checked(ids: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The fields of these rows; ValueError where they can't be."""
    count = len(ids)
    for name, value in values.items():
        if name in ("ids", "epoch"):
            raise ValueError(f"{name} is no field to set: pass {name}= to batch(...) or append(...)")
        if getattr(value, "ndim", 0) and value.shape[0] != count:
            raise ValueError(f"{count} ids and {value.shape[0]} rows of {name!r}; pass one id per row")
    if "vectors" not in values:
        raise ValueError(f"every row has \"vectors\", and there is only {', '.join(values)}: watch(module, field=\"vectors\")")
    return values
