"""Some rows of a version, in an order: runs of addresses where they ascend, else one address per row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from zstore._typing import Int64s
from zstore.format.extents import Extents, Pair

Mask = npt.NDArray[np.bool_]


class Rows:
    """Row numbers ``0..n-1`` and the address of each. Immutable.

    Held as ``Extents`` (ascending addresses in few runs; small, also when pickled) or as an int64 array, in any order
    and with repeats.
    """

    __slots__ = ("_explicit", "_order", "extents")

    def __init__(self, extents: Extents | None, explicit: Int64s | None = None) -> None:
        self.extents = extents
        self._explicit = explicit
        self._order: Int64s | None = None

    @classmethod
    def of(cls, addresses: Int64s) -> Rows:
        """The rows at these addresses, in this order; as runs where that is the smaller way."""
        steps = np.diff(addresses)
        if (steps > 0).all() and int((steps != 1).sum()) < 64 + len(addresses) // 16:
            return cls(Extents.of_addresses(addresses))
        fixed = np.array(addresses, np.int64)
        fixed.flags.writeable = False
        return cls(None, fixed)

    def __reduce__(self) -> tuple[object, ...]:
        return (_unpickled, (None if self.extents is None else self.extents.pairs, self._explicit))

    def __len__(self) -> int:
        return len(self.extents) if self.extents is not None else len(self._array)

    @property
    def _array(self) -> Int64s:
        assert self._explicit is not None
        return self._explicit

    def addresses(self, rows: Int64s | None = None) -> Int64s:
        """The addresses of these rows (in ``[0, len)``), or of all; int64, not to be written to."""
        if self.extents is not None:
            return self.extents.addresses(rows)
        return self._array if rows is None else self._array[rows]

    def address(self, row: int) -> int:
        """Of one row in ``[0, len)``."""
        if self.extents is None:
            return int(self._array[row])
        if len(self.extents.starts) == 1:
            return row + int(self.extents.starts[0])
        return int(self.extents.addresses(np.array([row]))[0])

    def rows(self, addresses: Int64s) -> Int64s:
        """The row number of each address, -1 where it is none of these; of a repeated one the first. int64."""
        if self.extents is not None:
            run = self.extents.one_run()
            if run is not None:
                within = addresses - run[0]
                return np.where((within >= 0) & (within < run[1]), within, -1)
            return self.extents.rows(addresses)
        if not len(self._array):
            return np.full(len(addresses), -1, np.int64)
        if self._order is None:
            self._order = np.argsort(self._array, kind="stable")
        at = np.searchsorted(self._array, addresses, sorter=self._order)
        row = self._order[np.minimum(at, len(self._order) - 1)]
        return np.where(self._array[row] == addresses, row, -1)

    def contains(self, addresses: Int64s) -> Mask:
        """Which of these addresses are among the rows."""
        return self.rows(addresses) >= 0

    def slice(self, start: int, stop: int) -> Rows:
        """The rows ``[start, stop)``, in order."""
        if self.extents is not None:
            run = self.extents.one_run()
            if run is not None:
                low, high = min(start, run[1]), min(max(stop, start), run[1])
                return Rows(Extents.run(run[0] + low, high - low))
            return Rows(self.extents.slice(start, stop))
        return Rows(None, self._array[start:stop])

    def take(self, rows: Int64s) -> Rows:
        """These rows (in ``[0, len)``), in the order asked."""
        return Rows.of(self.addresses(rows))

    def within(self, extents: Extents) -> Rows:
        """Those of the rows whose addresses lie in the extents, in the same order."""
        if self.extents is not None:
            return Rows(self.extents & extents)
        return Rows(None, self._array[extents.contains(self._array)])

    def one_run(self) -> Pair | None:
        """``(start, count)`` where the rows are one run of addresses in order, else None; ``(0, 0)`` for no rows."""
        if self.extents is not None:
            return self.extents.one_run()
        if not len(self._array):
            return (0, 0)
        return (int(self._array[0]), 1) if len(self._array) == 1 else None


def _unpickled(pairs: list[Pair] | None, explicit: Int64s | None) -> Rows:
    return Rows(None if pairs is None else Extents(pairs), explicit)
