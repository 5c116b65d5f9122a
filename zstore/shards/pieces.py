"""Memory of encoded chunks, in pieces of one size that serve shard after shard: fresh pages cost more than what is written
into them."""

from __future__ import annotations

import numpy as np

from zstore._typing import Array
from zstore.storage.pages import private

PIECE = 2**18
SLAB = 2**21        # a huge page


class Pieces:
    """Pieces to borrow. Once they are many they stay with whoever has this, for the next shard."""

    def __init__(self) -> None:
        self._scratch: Array = np.empty(0, np.uint8)
        self._free: list[memoryview] = []

    def take(self) -> memoryview:
        """PIECE writable bytes with anything in them."""
        try:
            return self._free.pop()         # in one step: where an object is written once, the crew takes some too
        except IndexError:
            slab = private(SLAB).data
            self._free += [slab[at:at + PIECE] for at in range(SLAB - PIECE, 0, -PIECE)]
            return slab[:PIECE]

    def scratch(self, nbytes: int) -> Array:
        """(nbytes,) uint8 with anything in them, good until the next call."""
        if len(self._scratch) < nbytes:
            self._scratch = np.empty(nbytes, np.uint8)
        return self._scratch[:nbytes]

    def give_back(self, pieces: list[memoryview]) -> None:
        """Nobody reads these any more."""
        self._free += pieces
