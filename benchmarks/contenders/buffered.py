"""A buffer before systems that are fast in whole chunks only: a commit's rows are copied into it and written in one call."""

from __future__ import annotations

import numpy as np

from benchmarks.contenders.keyed import Keyed
from benchmarks.data import BATCH, EVERY, Array

COMMIT_ROWS, CHUNK_BYTES, BUFFER_BYTES = BATCH * EVERY, 1 << 20, 64 << 20


def chunk_rows(row_bytes: int, most: int = CHUNK_BYTES) -> int:
    """Rows of a chunk of at most so many bytes that divide a commit's rows, so that commits rarely end within a chunk."""
    divisors = [rows for rows in range(1, COMMIT_ROWS + 1) if COMMIT_ROWS % rows == 0]
    return max(rows for rows in divisors if rows == 1 or rows * row_bytes <= most)


class Buffered(Keyed):
    """Vectors are always written from the edge of a chunk on: the rows of a chunk that a commit left unfilled stay in the
    buffer and are written once more, so that no chunk has to be read back."""

    align = 1

    def begin(self, rows: int = 0) -> None:
        """Empty, with ``rows`` rows in the store. The rows of an unfilled chunk are read back."""
        room = max(1, min(COMMIT_ROWS, BUFFER_BYTES // self.data.row_bytes))
        self._buffer = np.empty((-(-room // self.align) * self.align + self.align, self.data.dim), self.dtype)
        self._written, self._base = rows, rows // self.align * self.align
        self._fill = rows - self._base
        if self._fill:
            self._buffer[:self._fill] = self.read(self._base, rows)
        self._names: list[str] = []
        self._epochs: list[tuple[int, int]] = []

    def append(self, ids: list[str], epoch: int, vectors: Array) -> None:
        start = 0
        while start < len(vectors):
            stop = min(len(vectors), start + len(self._buffer) - self._fill)
            self._buffer[self._fill:self._fill + stop - start] = vectors[start:stop]
            self._names += ids[start:stop]
            self._epochs.append((epoch, stop - start))
            self._fill += stop - start
            start = stop
            if self._fill == len(self._buffer):
                self.flush()

    def flush(self) -> None:
        """Give all that is there to ``write``."""
        if not self._names:
            return
        epochs = np.repeat(np.array([e for e, _ in self._epochs], np.int32), [n for _, n in self._epochs])
        self.write(self._base, self._buffer[:self._fill].view(self.stored), self._written, self._names, epochs)
        self._written += len(self._names)
        keep = self._fill % self.align
        self._buffer[:keep] = self._buffer[self._fill - keep:self._fill].copy()
        self._base, self._fill, self._names, self._epochs = self._base + self._fill - keep, keep, [], []

    def write(self, base: int, vectors: Array, start: int, ids: list[str], epochs: Array) -> None:
        """Vectors of rows [base, base + n), the first of which may stand there already; ids and epochs of rows from ``start``
        on, which end at the same row."""
        raise NotImplementedError

    def commit(self) -> None:
        self.flush()
        self.sync()
