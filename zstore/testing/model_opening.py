"""How the model's writers come in: create, join, open, and the looks that each attempt takes."""

from __future__ import annotations

from zstore.testing.model import World
from zstore.testing.model_words import FIELDS, SHARD_ROWS, Giving, Intent, Record, Steps, Stopped


class Opener:
    """One writer. ``token``: equal tokens share a session. ``at``: roll back to this version. ``keys``: delete these."""

    def __init__(self, world: World, *, token: int | None = None, at: int | None = None, takeover: bool = False,
                 keys: frozenset[int] = frozenset()) -> None:
        self.world, self.at, self.takeover, self.keys = world, at, takeover, keys
        self.me = world.number()
        self.shared = token is not None
        self.token = world.number() if token is None else token
        self.session = self.opening = -1
        self._start = 0                         # the version that the session's opening, or our joining, saw
        self._next = 0
        self._taken: tuple[int, int] | None = None

    # -- opening -----------------------------------------------------------------------------------------------

    def open(self, *, keep_tail: bool = False) -> Steps:
        """Create, join or open. Stopped where the session lives."""
        w = self.world
        first: Record | None = None
        judged: int | None = None
        while self.session < 0:
            yield "head"
            head = w.head()
            if head is None:
                yield from self._create()
            elif head.token == self.token:
                yield from self._join(head)
            else:
                first = head if first is None or w.has("target anew") else first
                judged = yield from self._open_after(head, first, judged, keep_tail)

    def _create(self) -> Steps:
        w = self.world
        yield "share live"
        if not w.share(0, self.me):
            return
        yield "create"
        commit = w.number()
        record = Record(0, commit, 0, commit, self.token, 0, 0, 0, None, None)
        if w.create_record(record, Intent("create"), self.me):
            self._enter(record)
        else:
            w.release(0, self.me)

    def _join(self, head: Record) -> Steps:
        w = self.world
        yield from self._share(head.session)
        if w.has("joiner looks again"):
            yield "joiner's head"
            again = w.records[-1]
            if again.session != head.session:
                w.release(head.session, self.me)
                return
            head = again
        self._enter(w.records[head.session], joined=head)
        w.join(head.session, self.me)
        if not w.has("joiners take none"):
            self._taken = yield from self._takeable(head)

    def _open_after(self, head: Record, seen: Record, judged: int | None, keep_tail: bool) -> Giving[int]:
        """One attempt on this head; gives the session that it found dead."""
        w, polite = self.world, not self.takeover and self.world.has("polite")
        guarded = False
        if polite and (judged is None or w.has("ask again")):
            yield "try live"
            guarded = w.try_exclusive(head.session, self.me)
            if not guarded:
                raise Stopped("Conflict")
            if not w.has("lock to the record"):
                w.release(head.session, self.me)
        version = head.version + 1
        if w.has("live first"):
            yield from self._share(version)
        record, intent = yield from self._opening_record(head, seen, keep_tail)
        yield "create"
        created = w.create_record(record, intent, self.me)
        if created:
            if not w.has("deletes by key"):
                w.addresses_deleted[version] = self._addresses_of(head.extents, self.keys)
            self._enter(record)
        else:
            self._taken = None if w.has("tail anew") else self._taken
            w.release(version, self.me)
        if guarded:
            w.release(head.session, self.me)
        if created and not w.has("live first"):
            yield from self._share(version)
        return head.session

    def _share(self, session: int) -> Steps:
        yield "share live"
        while not self.world.share(session, self.me):
            yield "wait"

    def _opening_record(self, head: Record, seen: Record, keep_tail: bool) -> Giving[tuple[Record, Intent]]:
        w, version, commit = self.world, head.version + 1, self.world.number()
        target = seen if self.at is None else w.records[self.at]
        extents = target.extents if self.at is None else self._less_deleted(head, target)
        extents &= ~self._addresses_of(extents, self.keys)
        from_head = w.has("head's tail") or self.at is None
        tail = head.tail if from_head else target.tail
        if not keep_tail and self._taken is None:
            self._taken = yield from self._takeable(head if from_head else target)
        if self._taken is not None:
            tail = None
        next_shard = head.next if w.has("next") else target.next
        record = Record(version, commit, version, commit, self.token, extents, head.length, next_shard, tail,
                        version if self.keys else head.deletes)
        return record, Intent("open", target=self.at, keys=self.keys, polite=not self.takeover)

    def _less_deleted(self, head: Record, target: Record) -> int:
        """A target's extents without every row that was deleted since, whoever's it was."""
        w, extents, deletes = self.world, target.extents, head.deletes
        while deletes is not None and w.has("deletes"):
            record = w.records[deletes]
            if w.has("deletes by key"):
                gone = self._addresses_of(extents, w.keys_deleted[deletes]) & ((1 << record.length) - 1)
            else:
                gone = w.addresses_deleted[deletes]
            extents &= ~gone
            deletes = w.records[deletes - 1].deletes
        return extents

    def _addresses_of(self, extents: int, keys: frozenset[int]) -> int:
        w, out = self.world, 0
        for shard in range(-(-extents.bit_length() // SHARD_ROWS)) if keys else ():
            held = w.shards.get((0, shard))
            for place, row in enumerate(held.rows if held else ()):
                if w.key_of[row] in keys:
                    out |= 1 << (shard * SHARD_ROWS + place)
        return out & extents

    def _takeable(self, head: Record) -> Giving[tuple[int, int] | None]:
        """Head's tail and its rows, if an opening may go on writing it."""
        w, shard = self.world, head.tail
        if shard is None:
            return None
        yield "claim above?"
        if w.has("topmost") and (head.next > shard + 1 or shard + 1 in w.claims):
            return None
        covered = []
        for f in range(FIELDS):
            yield f"trailer {f}"
            held = w.shards.get((f, shard))
            covered.append(0 if held is None else len(held.rows))
        named = head.extents.bit_length() - shard * SHARD_ROWS
        if not w.has("all trailers"):
            covered = [covered[-1]] * FIELDS        # the field that is written last
        if not w.has("ends there") and 0 < named < covered[0]:
            covered = [named] * FIELDS
        fits = 0 < named < SHARD_ROWS and all(rows == named for rows in covered)
        return (shard, named) if fits else None

    def _enter(self, record: Record, joined: Record | None = None) -> None:
        self.session, self.opening = record.session, record.opening
        self._next, self._start = record.next, (joined or record).version
