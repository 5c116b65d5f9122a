"""How many padded tokens a batch may have: halved when memory runs out, and grown back slowly."""

from __future__ import annotations

_PATIENCE = 64      # large batches that must succeed before the budget grows
_MOST_PATIENCE = 1 << 14


class Budget:
    """``now`` is the budget of the next batch, never above ``most``."""

    def __init__(self, most: int) -> None:
        """Raises ValueError for a budget below 1."""
        if most < 1:
            raise ValueError(f"budget is {most}; a batch has 1 token at least")
        self.most = self.now = most
        self._patience, self._good, self._grew = _PATIENCE, 0, False

    def failed(self, padded: int) -> None:
        """A batch of so many padded tokens did not fit. After each growth that failed it takes longer until the next. One that
        is larger than the budget, a long text alone, says nothing of it."""
        if padded > self.now:
            return
        self.now = max(min(self.now, padded) // 2, 1)
        if self._grew:
            self._patience = min(self._patience * 2, _MOST_PATIENCE)
        self._good, self._grew = 0, False

    def fitted(self, padded: int) -> None:
        """A batch of so many padded tokens went through; small ones prove nothing."""
        if self.now == self.most or padded < self.now // 2:
            return
        self._good += 1
        if self._good >= self._patience:
            self.now, self._good, self._grew = min(self.now + max(self.now // 4, 1), self.most), 0, True
