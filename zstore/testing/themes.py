"""The scripted lives: one theme each, short, and together every verb of the library."""

from __future__ import annotations

from collections.abc import Callable

import zstore
from zstore.testing.life import LEFT_OUT, Life, Row, State


def grow(life: Life) -> None:
    """Create, append, commit, fill a shard and the next, commit under a tag, close; twice open again where it ended."""
    writer = life.open()
    life.append(writer, 5)
    life.commit(writer)
    life.append(writer, 14)
    life.commit(writer, tag="first")
    life.close(writer)
    writer = life.open()
    life.append(writer, 3, epoch=1)
    life.commit(writer)
    life.append(writer, 3, epoch=1)
    life.close(writer)
    writer = life.open()
    life.append(writer, 9, epoch=2)
    life.commit(writer, tag="last")
    life.close(writer)


def roll(life: Life) -> None:
    """Roll back in each of the three ways, and go on with other rows of the same keys."""
    writer = life.open()
    life.append(writer, 6)
    early = life.commit(writer)
    then, number = life.state, life.next
    life.append(writer, 7)
    life.commit(writer)
    life.close(writer)
    life.next = number
    writer = life.roll_back(then, lambda: life.open(at=early.mark))
    life.append(writer, 4)
    middle = life.commit(writer)
    then, number = life.state, life.next
    life.append(writer, 2)
    life.close(writer)
    life.next = number
    life.roll_back(then, lambda: zstore.rollback(life.place.url, middle.version, storage_options=life.place.options))
    writer = life.open()
    life.next = 6
    life.roll_back(State(early_rows(then, 6)), lambda: writer.load_state_dict(early.mark))
    life.append(writer, 5)
    life.commit(writer)
    life.close(writer)


def early_rows(state: State, count: int) -> tuple[Row, ...]:
    """The rows of the first ``count`` numbers."""
    return tuple(row for row in state.rows if row[0] < count)


def column(life: Life) -> None:
    """A field that comes late, over a tail; rows with it and without it; then another writer."""
    writer = life.open()
    life.append(writer, 11)
    life.commit(writer)
    life.append(writer, 2)
    life.add_note(writer)
    life.append(writer, 4, note=True)
    life.commit(writer)
    life.take = LEFT_OUT
    life.append(writer, 3)
    life.close(writer)
    writer = life.open()
    life.append(writer, 3)
    life.commit(writer)
    life.close(writer)


def shared(life: Life) -> None:
    """Two members of one session, turn by turn; one leaves, a writer of another session follows."""
    one, two = life.open(session="launch"), life.open(session="launch", member=1)
    life.append(one, 3)
    life.commit(one)
    life.append(two, 5)
    life.append(one, 6)
    life.commit(two)
    life.commit(one)
    life.append(two, 4)
    life.close(one)
    life.commit(two)
    life.close(two)
    writer = life.open()
    life.append(writer, 3)
    life.close(writer)


def many(life: Life) -> None:
    """Commits enough that runs of the key index are merged."""
    writer = life.open()
    for _ in range(10):
        life.append(writer, 2)
        life.commit(writer)
    life.close(writer)


def erase(life: Life) -> None:
    """Delete keys of two shards, collect litter, go back to a version that had them, and go on."""
    writer = life.open()
    life.append(writer, 6)
    early = life.commit(writer)
    life.append(writer, 7)
    life.close(writer)
    life.erase([1, 8])
    life.collect()
    then = State(tuple(row for row in life.state.rows if row[0] < 6))
    writer = life.roll_back(then, lambda: life.open(at=early.mark))
    life.append(writer, 4)
    life.commit(writer)
    life.close(writer)
    life.erase([2, 14])
    life.collect()


def copy(life: Life) -> None:
    """Compact a store with holes and deleted rows; collect litter in both."""
    writer = life.open()
    life.append(writer, 13)
    life.commit(writer)
    life.close(writer)
    life.erase([3])
    writer = life.open()
    life.append(writer, 9)
    life.close(writer)
    life.copy()
    life.collect()
    life.collect(life.place.copy)


THEMES: dict[str, Callable[[Life], None]] = {
    "grow": grow, "roll": roll, "column": column, "shared": shared, "many": many, "erase": erase, "copy": copy}
