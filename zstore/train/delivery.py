"""From the training thread to the Writer: at once where the Writer can take it at once, else through a ring."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from operator import index
from typing import Any, Literal

import numpy as np

from zstore.errors import InDoubt, StaleWriter, ZStoreError
from zstore.notices import warn
from zstore.train.ring import GivenUp, Ring
from zstore.train.staging import Slot, Streams, is_on_device, ready, stand_in
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
        self._ended = False                     # the Writer commits no more
        self._untold: deque[str] = deque()
        self._told: set[str] = set()

    @property
    def recorded(self) -> int:
        """Rows that the Writer has, or will get."""
        return self._taken - self._lost - self._uncommitted

    @property
    def dropped(self) -> int:
        """Rows that no record will name; where the Writer is in doubt, those that perhaps none names."""
        return self._left_out + self._lost + self._uncommitted

    @property
    def _uncommitted(self) -> int:
        """Rows that the Writer took and will never commit. One that was given may have others, too."""
        return min(self._writer.uncommitted, self._taken - self._lost) if self._ended else 0

    def put(self, ids: Any, values: dict[str, Any], epoch: Any, *, keep: bool) -> None:
        """Take rows over. ``keep``: the caller can't make this call again, so that a batch which the disk refuses is told, and
        waits to be tried again; what is refused for another reason counts as dropped."""
        with self._lock:
            taken, room = self._taken, True
            try:
                room = self._take(ids, values, epoch, keep)
            except Exception as error:
                self._judge(error)
                warns = self._on_error == "warn"
                if self._taken == taken and (keep or warns):        # else it waits, or can be passed again
                    self._left_out += len(ids)
                if not warns:
                    raise
                self._note(error)
            if not room:
                self._left_out += len(ids)
                told = f"{self._size} batches wait for the disk already"
                if self._on_full == "raise":
                    raise RuntimeError(f"{self._writer.url}: {told} (on_full=\"raise\"), so this batch is left out; record "
                                       "less, or take a larger ring=")
                self._say("full", f"{told} (on_full=\"drop\")")
        self.tell()

    def _take(self, ids: Any, values: dict[str, Any], epoch: Any, keep: bool) -> bool:
        """False where there is no room."""
        values = {name: ready(value, self._dtype if name == "vectors" else None) for name, value in values.items()}
        direct = self._on_full == "block" and not (self._ring is not None and self._ring.waiting)
        if not direct or any(map(is_on_device, (ids, epoch, *values.values()))):
            return self._queue(ids, values, epoch)
        try:
            self._writer.append(ids, epoch=epoch, **values)
        except OSError as error:
            if keep and self._on_error == "raise" and not isinstance(error, ZStoreError):
                self._queue(ids, values, epoch)
            raise
        self._taken += len(ids)
        return True

    def _queue(self, ids: Any, values: dict[str, Any], epoch: Any) -> bool:
        if self._ring is None:
            self._ring = Ring([Slot() for _ in range(self._size)], self._sink)
        slot = self._ring.free()
        if slot is None and self._on_full == "block":
            self._ring.wait_for_room()
            self._raise_problem()
            slot = self._ring.free()
        if slot is None:
            return False
        slot.fill({"ids": ids, "epoch": epoch, **values}, self._dtype, self._streams)
        self._taken += len(ids)
        self._ring.put()
        return True

    def _sink(self, slot: Slot) -> None:
        """The ring's thread: from slot to writer."""
        try:
            slot.wait()
            self._writer.append(**slot.values)
        except Exception as error:
            self._judge(error)
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
            self._judge(error)
            if self._on_error == "raise":
                raise
            self._note(error)
            self.tell()

    def finish(self, *, own: bool) -> None:
        """Hand over what waits, and commit for the last time; ``own``: and close the Writer. What the commit fails for is told,
        whatever was told before."""
        try:
            self.end()
        finally:
            self._last_commit(own)

    def _last_commit(self, own: bool) -> None:
        try:
            (self._writer.close if own else self._writer.commit)()
        except Exception as error:
            self._judge(error)
            self._ended |= own
            if self._on_error == "raise":
                raise
            self._say(str(error), str(error))
            self.tell()

    def _judge(self, error: Exception) -> None:
        """Behind these a Writer commits no more."""
        self._ended |= isinstance(error, (StaleWriter, InDoubt))

    def tell(self) -> None:
        """Warn, once for each kind of reason; what it comes to is said at the ends of epochs and of the run."""
        while self._untold:
            warn(f"{self._writer.url}: rows are not recorded, and the training goes on: {self._untold.popleft()}")

    def _note(self, error: Exception) -> None:
        self._say(type(error).__name__, str(error))

    def _say(self, kind: str, reason: str) -> None:
        if kind not in self._told:
            self._told |= {kind, reason}
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


def one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """ValueError for another value."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")


def whole(name: str, number: Any) -> int:
    """An int of any kind; TypeError for another number."""
    try:
        return index(number)
    except TypeError:
        raise TypeError(f"{name} is an integer, not {number!r:.60}") from None


def trial(ids: Any, values: dict[str, Any], epoch: Any, dtype: str | None) -> tuple[Any, Any, Any, dict[str, Any]]:
    """The ids, vectors, epoch and fields of a batch for ``Writer.check``."""
    seen = {name: stand_in(value, dtype if name == "vectors" else None) for name, value in values.items()}
    return stand_in(ids, None), seen.pop("vectors"), stand_in(epoch, None), seen


def checked(ids: Any, values: dict[str, Any]) -> dict[str, Any]:
    """The fields of these rows; ValueError where they can't be."""
    count = len(ids)
    for name, value in values.items():
        if name in ("ids", "epoch"):
            raise ValueError(f"{name} is no field to set: pass {name}= to batch(...) or append(...)")
        if getattr(value, "ndim", 0) and value.shape[0] != count:
            raise ValueError(f"{count} ids and {value.shape[0]} rows of {name!r}; pass one id per row")
    if not count and isinstance(found := values.get("vectors"), (list, tuple)) and found:
        raise ValueError(f"0 ids and {len(found)} rows of 'vectors'; pass one id per row (an iterator is read once)")
    if count and "vectors" not in values:
        raise ValueError(f"every row has \"vectors\", and there is only {', '.join(values)}: watch(module, field=\"vectors\")")
    return values
