"""The protocol as a small executable model: the storage, and what must hold after every operation.

Two fields, three rows a shard; a row is a number, and so is its key. Sets of addresses are bits of an integer. Actors
(``model_actors``) are generators that stop before each operation on the storage; a scheduler (``model_runs``) lets them
go on in any order, pauses them and kills them. Each rule of FORMAT.md section 6 can be taken out by its name in
``model_words.RULES``; a model that stays green without one of its rules proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from zstore.testing.model_words import FIELDS, RULES, SHARD_ROWS, Broken, Claim, Intent, Record, Shard, Stopped, bits


@dataclass(slots=True)
class Live:
    """One object in ``live/``."""

    exclusive: int | None = None
    shared: list[int] = field(default_factory=list)


class World:
    """The storage. Every method is one atomic operation; those that write check the promise."""

    def __init__(self, *, distant: bool = False, without: frozenset[str] = frozenset()) -> None:
        assert without <= RULES.keys(), without
        self.distant, self.without = distant, without
        self.records: list[Record] = []
        self.claims: dict[int, Claim] = {}
        self.shards: dict[tuple[int, int], Shard] = {}
        self.live: dict[int, Live] = {}
        self.keys_deleted: dict[int, frozenset[int]] = {}       # by the deleting version
        self.addresses_deleted: dict[int, int] = {}             # what a store without "deletes by key" would know
        self.root = -1
        self.door: int | None = None                            # who holds the projection's lock
        self.late: list[Callable[[], object]] = []              # requests of which a copy may arrive at any later time
        self.loses: Callable[[], bool] = lambda: False          # whether this distant request's fate stays unknown
        self.asleep: set[int] = set()                           # actors that are paused
        # What only the promise knows.
        self.key_of: dict[int, int] = {}
        self.truth: list[frozenset[int]] = []                   # rows per version
        self.members: dict[int, set[int]] = {}                  # living actors per session
        self._given: dict[int, int] = {}                        # address to row
        self._dead: set[int] = set()
        self._named = 0
        self._number = 0

    def has(self, rule: str) -> bool:
        return rule not in self.without

    def number(self) -> int:
        """A number that nobody had: a row, a commit id, a token, an actor."""
        self._number += 1
        return self._number

    # -- records -----------------------------------------------------------------------------------------------

    def head(self) -> Record | None:
        return self.records[-1] if self.records else None

    def create_record(self, record: Record, intent: Intent, actor: int) -> bool:
        """Create if absent; False when taken. Stopped where that stays in doubt; it may land at any later time."""
        if self.distant and self.loses():
            self.late.append(partial(self._create_record, record, intent, actor))
            raise Stopped("InDoubt")
        return self._create_record(record, intent, actor)

    def _create_record(self, record: Record, intent: Intent, actor: int) -> bool:
        if record.version < len(self.records):
            return False
        if record.version > len(self.records):
            raise Broken(f"a record leaves a gap: {record}")
        parent = self.head()
        self._check_may_publish(record, parent, intent, actor)
        rows = self._rows_meant(parent, intent)
        self.records.append(record)
        self.truth.append(rows)
        if intent.keys:
            self.keys_deleted[record.version] = intent.keys
        self._named |= record.extents
        self._check_version(record)
        if intent.kind != "commit":
            self.members.setdefault(record.session, set()).add(actor)
        return True

    def _check_may_publish(self, record: Record, parent: Record | None, intent: Intent, actor: int) -> None:
        if parent is None:
            return
        if intent.kind == "commit" and (parent.session, parent.opening) != (record.session, record.opening):
            raise Broken(f"a fenced writer published: {record} after {parent}")
        if intent.kind == "reload" and parent.session != intent.before:
            raise Broken(f"a fenced writer reloaded: {record} after {parent}")
        if intent.polite and not self.distant and self.members.get(parent.session, set()) - {actor}:
            raise Broken(f"a polite opener fenced a living session: {record} after {parent}")
        if record.length < parent.length or record.next < parent.next:
            raise Broken(f"length or next went back: {record} after {parent}")
        new = record.extents & ~parent.extents
        if intent.kind == "commit" and new and bits(new)[0] < self.records[record.session].length:
            raise Broken(f"addresses do not rise from session to session: {record}")

    def _rows_meant(self, parent: Record | None, intent: Intent) -> frozenset[int]:
        if parent is None:
            return frozenset()
        rows = self.truth[-1] if intent.target is None else self.truth[intent.target] - self._dead
        if intent.keys:
            # A delete is of every row that any version ever had, also of those that head does not name.
            gone = {row for version in self.truth for row in version if self.key_of[row] in intent.keys}
            self._dead |= gone
            rows -= gone
        return rows | intent.rows

    def _check_version(self, record: Record) -> None:
        rows = self.truth[record.version]
        found = []
        for address in bits(record.extents):
            shard, place = divmod(address, SHARD_ROWS)
            row = self._given.get(address)
            for f in range(FIELDS):
                held = self.shards.get((f, shard))
                if held is None or len(held.rows) <= place or held.rows[place] != row:
                    raise Broken(f"version {record.version} names address {address}, whose row is not in field {f}")
            found.append(row)
        if len(found) != len(rows) or set(found) != rows:
            raise Broken(f"version {record.version} has rows {sorted(map(str, found))}, not {sorted(rows)}")

    def check(self) -> None:
        """Every version still has exactly its rows."""
        for record in self.records:
            self._check_version(record)

    # -- shards and claims ----------------------------------------------------------------------------------------

    def claim(self, shard: int, session: int) -> bool:
        """Create if absent; False when taken."""
        if shard in self.claims:
            return False
        self.claims[shard] = Claim(session, self.records[-1].session != session)
        return True

    def write(self, f: int, shard: int, rows: tuple[int, ...], over: int | None) -> int | None:
        """Give one field's object these rows and give its generation; None, where rewriting is conditional, if ``over``
        is not the present generation."""
        old = self.shards.get((f, shard))
        if self.distant and self.has("if-match") and over != (None if old is None else old.generation):
            return None
        if shard in self.claims and self.claims[shard].stale:
            raise Broken(f"shard {shard} was claimed after the fence, and written")
        first = shard * SHARD_ROWS
        for place, row in enumerate(rows):
            if self._given.setdefault(first + place, row) != row:
                raise Broken(f"address {first + place} was given to two rows")
        if old is not None and len(old.rows) > len(rows):
            self._check_unnamed(shard, len(rows), len(old.rows))
        generation = self.number()
        self.shards[f, shard] = Shard(rows, generation)
        return generation

    def remove(self, f: int, shard: int) -> None:
        """Delete one field's object."""
        old = self.shards.pop((f, shard), None)
        if old is not None:
            self._check_unnamed(shard, 0, len(old.rows))

    def _check_unnamed(self, shard: int, start: int, stop: int) -> None:
        first = shard * SHARD_ROWS
        lost = self._named >> (first + start) & ((1 << (stop - start)) - 1)
        if lost:
            raise Broken(f"committed rows of shard {shard} are lost")

    # -- signs of life, and the root -----------------------------------------------------------------------------

    def share(self, session: int, actor: int) -> bool:
        """Hold ``live/<session>`` shared; False while somebody holds it exclusively."""
        live = self.live.setdefault(session, Live())
        if live.exclusive is not None and not self.distant:
            return False
        live.shared.append(actor)
        return True

    def try_exclusive(self, session: int, actor: int) -> bool:
        """Hold ``live/<session>`` exclusively, if nobody holds it. Distant storages only look for fresh signs of life, and
        what they give keeps nobody out."""
        live = self.live.setdefault(session, Live())
        if self.distant:
            return all(holder in self.asleep for holder in live.shared)
        if live.shared or live.exclusive is not None:
            return False
        live.exclusive = actor
        return True

    def release(self, session: int, actor: int) -> None:
        """Let go of what this actor holds of ``live/<session>``."""
        live = self.live.get(session)
        if live is not None:
            if live.exclusive == actor:
                live.exclusive = None
            if actor in live.shared:
                live.shared.remove(actor)

    def join(self, session: int, actor: int) -> None:
        """A joiner has come in: from here on it is a living member."""
        if self.records[-1].session != session:
            raise Broken(f"actor {actor} joined session {session}, which is not head's")
        self.members[session].add(actor)

    def leave(self, session: int, actor: int) -> None:
        """A member ends: it is no part of its session any more."""
        self.members.get(session, set()).discard(actor)
        self.release(session, actor)

    def end(self, actor: int) -> None:
        """The actor's process is gone, and its locks with it."""
        for session in list(self.live):
            self.release(session, actor)
        for living in self.members.values():
            living.discard(actor)
        if self.door == actor:
            self.door = None

    def put_root(self, version: int, over: int) -> bool:
        """Replace the root document; False, on a distant storage, where it is not the one that was looked at."""
        if self.distant and over != self.root:
            return False
        if version < self.root:
            raise Broken(f"the root went back from version {self.root} to {version}")
        self.root = version
        return True
