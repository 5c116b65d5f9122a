"""The model's actors: writers, the projection and gc, as generators that stop before each operation on the storage.

What a generator yields names the operation that comes next; "wait" means that it cannot go on before somebody else did.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from zstore.testing.model import World
from zstore.testing.model_opening import Opener
from zstore.testing.model_words import FIELDS, SHARD_ROWS, Intent, Record, Steps, Stopped


class Writer(Opener):
    """A writer with what it holds in memory."""

    def __init__(self, world: World, *, token: int | None = None, at: int | None = None, takeover: bool = False,
                 keys: frozenset[int] = frozenset()) -> None:
        super().__init__(world, token=token, at=at, takeover=takeover, keys=keys)
        self.acknowledged: list[Record] = []
        self._shard: int | None = None
        self._rows: list[int] = []              # of the open shard, from its first address on
        self._generations: list[int | None] = [None] * FIELDS
        self._written = [0] * FIELDS            # rows that each field's object covers
        self._pending: dict[int, int] = {}      # address to row, appended and unnamed
        self._ever = 0                          # addresses that this writer ever named
        self._covered = 0                       # addresses that its objects cover
        self.appended = False

    # -- writing ----------------------------------------------------------------------------------------------------

    def append(self, keys: list[int]) -> Steps:
        """Append one row per key; full shards are written at once."""
        for key in keys:
            if self._shard is None:
                yield from self._next_shard()
            assert self._shard is not None
            row = self.world.number()
            self.world.key_of[row] = key
            self._pending[self._shard * SHARD_ROWS + len(self._rows)] = row
            self._rows.append(row)
            self.appended = True
            if len(self._rows) == SHARD_ROWS:
                yield from self._write_shard()
                self._shard = None

    def _next_shard(self) -> Steps:
        w, self._rows = self.world, []
        self._generations, self._written = [None] * FIELDS, [0] * FIELDS
        if self._taken is not None:
            (shard, rows), self._taken = self._taken, None
            yield "resume tail"
            held = [w.shards.get((f, shard)) for f in range(FIELDS)]
            if all(h is not None and len(h.rows) >= rows for h in held):
                self._rows = list(held[0].rows[:rows])      # type: ignore[union-attr]
                self._generations = [h.generation for h in held if h is not None]
                self._written, self._shard = [rows] * FIELDS, shard
                return
        shard = self._next
        while w.has("claims"):
            yield "claim"
            if w.claim(shard, self.session):
                break
            shard += 1
        self._next = shard + 1
        if w.has("fence at claims"):
            yield "fence"
            self._check_fence(w.records[-1])
        self._shard = shard

    def _write_shard(self, fields: int = FIELDS) -> Steps:
        """The open shard's objects, one field after the other."""
        w, shard = self.world, self._shard
        for f in range(fields):
            if shard is None or self._written[f] == len(self._rows):
                continue
            yield f"write {f}"
            over, rows = self._generations[f], tuple(self._rows)
            generation = w.write(f, shard, rows, over)
            if generation is None:
                raise Stopped("the tail was changed by another")
            if w.distant:
                w.late.append(partial(w.write, f, shard, rows, over))
            self._generations[f], self._written[f] = generation, len(rows)
            self._covered |= ((1 << len(rows)) - 1) << (shard * SHARD_ROWS)

    def commit(self, *, closing: bool = False, drop: int | None = None) -> Steps:
        """Name everything that is pending, and the unfilled shard when closing. ``drop``: write so many fields of the
        unfilled shard, then name nothing: an exit that drops its rows, and hands its shard over all the same."""
        w = self.world
        yield from self._write_shard(FIELDS if drop is None else drop)
        rows = self._pending if drop is None else {}
        added = sum(1 << address for address in rows)
        commit, lost = w.number(), None
        while True:
            yield "head"
            head = w.records[-1]
            if lost is None or w.has("judge at head"):
                self._check_fence(head)
            tail = self._handed_over(head) if closing else None
            if not rows and tail is None:
                return
            record = self._apply(head, commit, added, tail)
            yield "create"
            if w.create_record(record, Intent("commit", frozenset(rows.values())), self.me):
                break
            yield "who took it?"
            lost = w.records[record.version]
            if not w.has("judge at head"):
                self._check_fence(lost)
        self._ever |= added
        self._pending = {} if drop is None else self._pending
        self.acknowledged.append(record)
        yield from project(w, self.me)

    def _apply(self, head: Record, commit: int, added: int, tail: int | None) -> Record:
        w, extents = self.world, head.extents | added
        if not w.has("delta"):
            # What it restates: all that it saw when it came in and named since, and its shards from their first row on.
            extents = w.records[self._start].extents | self._ever | self._covered
        kept = head.tail if tail is None or (head.tail is not None and head.tail > tail) else tail
        return Record(head.version + 1, commit, self.session, self.opening, self.token, extents,
                      max(head.length, extents.bit_length()), max(head.next, self._next), kept, head.deletes)

    def _handed_over(self, head: Record) -> int | None:
        if not self.world.has("own shard"):
            end = head.extents.bit_length()
            return end // SHARD_ROWS if end % SHARD_ROWS else None
        if self._taken is not None:
            return self._taken[0]
        shard = self._shard if self._rows else None
        return shard if shard is not None and (head.tail is None or shard > head.tail) else None

    def _check_fence(self, head: Record) -> None:
        if self.world.has("fence") and (head.session, head.opening) != (self.session, self.opening):
            raise Stopped("StaleWriter")

    # -- going back, and the end --------------------------------------------------------------------------------------

    def reload(self, target: int) -> Steps:
        """``load_state_dict``: a second opening by the same writer, before its first row."""
        w = self.world
        while True:
            yield "head"
            head = w.records[-1]
            if w.has("reload fenced"):
                self._check_fence(head)
            version, before = head.version + 1, self.session
            yield from self._share(version)
            if not w.has("reload keeps its lock"):
                w.release(before, self.me)
                yield "unlocked"
            commit = w.number()
            record = Record(version, commit, version, commit, self.token, self._less_deleted(head, w.records[target]),
                            head.length, head.next, head.tail, head.deletes)
            yield "create"
            if w.create_record(record, Intent("reload", target=target, before=before), self.me):
                w.leave(before, self.me)
                self._enter(record)
                return
            w.release(version, self.me)

    def close(self) -> Steps:
        """Commit, hand over, let go."""
        yield from self.commit(closing=True)
        yield from self.let_go()

    def let_go(self) -> Steps:
        """Leave the session."""
        yield "let go"
        self.world.leave(self.session, self.me)


def project(w: World, me: int) -> Steps:
    """Bring the root to head: under one lock locally, over the root that was looked at elsewhere."""
    yield "door"
    while not w.distant and w.has("one door") and w.door is not None:
        yield "wait"
    w.door = me
    while True:
        yield "head"
        version = w.records[-1].version
        yield "read root"
        root = w.root
        if root >= version and w.has("root rises"):
            break
        yield "put root"
        if w.put_root(version, root) and w.records[-1].version == version:
            break
    w.door = None


def collect(w: World) -> Steps:
    """``gc``: plan from one head and all records up to it, then list, then delete one after another."""
    yield "head"
    head = w.records[-1]
    named = 0
    for record in w.records if w.has("gc: named") else (head,):
        named |= record.extents
    yield "list"
    plan: list[Callable[[], object]] = []
    for f, shard in list(w.shards):
        claim = w.claims.get(shard)
        session = -1 if claim is None else claim.session
        old = session < head.session if w.has("gc: head's") else session != head.session
        if (old or not w.has("gc: sessions")) and not named >> (shard * SHARD_ROWS) & ((1 << SHARD_ROWS) - 1):
            plan.append(partial(w.remove, f, shard))
    plan += [partial(w.live.pop, session, None) for session in list(w.live)
             if session < head.session or not w.has("gc: live")]
    for act in plan:
        yield "gc delete"
        act()
