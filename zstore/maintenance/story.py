"""What the records of a store say together."""

from __future__ import annotations

from dataclasses import dataclass, field

from zstore.commits.log import Log
from zstore.format.deletes import deletes_id
from zstore.format.extents import Extents
from zstore.format.record import Record
from zstore.format.schema import Field, Schema

Author = tuple[int, int, str, int]


@dataclass
class RunsOf:
    """A record that adds runs: they cover its own new rows, and those of the runs that they replace."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    delta: Extents
    session: int


@dataclass
class Story:
    """What the records say together. Addresses, never row numbers: those mean something in one version only."""

    last: int                                                       # the highest number that is taken
    most: int = 2**24                                               # shards that one record can name
    store_id: str = ""
    head: Record | None = None                                      # the highest readable record
    first: Schema | None = None
    ids: list[str | None] = field(default_factory=list)             # commit id of each version, None where unreadable
    lengths: list[int] = field(default_factory=list)
    schemas: dict[int, Schema] = field(default_factory=dict)
    fields: dict[str, Field] = field(default_factory=dict)          # by path
    needed: dict[str, Extents] = field(default_factory=dict)        # by path: rows of any version that has the field
    named: Extents = field(default_factory=Extents)
    sessions: dict[str, int] = field(default_factory=dict)          # opening commit's id: its number
    writers: dict[str, dict[int, int]] = field(default_factory=dict)    # path, shard: the last session that named rows
    takers: dict[int, set[int]] = field(default_factory=dict)       # tail: sessions that may have gone on with it
    claimers: dict[int, int] = field(default_factory=dict)          # shard: the session that named it first
    path_claimers: dict[str, int] = field(default_factory=dict)     # path of a field added later: its session
    runs: dict[int, RunsOf] = field(default_factory=dict)           # by version
    deletes: dict[int, str] = field(default_factory=dict)           # version: the list of the keys that it deleted
    lessened: dict[int, int] = field(default_factory=dict)          # opening: the version whose rows it lessens by deletes
    authors: list[Author | None] = field(default_factory=list)
    whole: int = 0                                                  # the record that made this a store; above 0 by `compact`

    @property
    def oldest_projection(self) -> int:
        """The oldest version that Zarr's documents may show. Whoever publishes brings them to head before the next
        record, so a crash leaves them behind only by records that were their authors' last."""
        seen: set[Author | None] = set()
        version = self.last
        while version > 0 and self.authors[version] not in seen:
            seen.add(self.authors[version])
            version -= 1
        return version

    @property
    def projected(self) -> bool:
        """Zarr's documents must be there. Each opener brings them after its record, and `compact` after the one that makes
        the store whole: where there is no other record, a crash may have ended them all before."""
        return any(author is None or author[0] != version for version, author in enumerate(self.authors)
                   if version != self.whole)

    def learn(self, log: Log) -> None:
        """Sessions that opened since head was pinned: a live store goes on while we look at it."""
        version = max(self.last, max(self.sessions.values(), default=0)) + 1
        before = self.head
        while (record := log.find(version)) is not None:
            _note_session(self, record, before)
            before, version = record, version + 1


def note(story: Story, record: Record, parent: Record | None) -> None:
    """Take in a readable record, the next one; ``parent`` is the one before it, None where that is unreadable."""
    story.store_id = story.store_id or record.store_id
    story.head = record
    story.ids.append(record.commit_id)
    story.lengths.append(record.length)
    s = record.session
    story.authors.append((s.opened, s.member, s.host, s.pid))
    whole = record.extra.get("whole")
    if record.version == 0 and type(whole) is int:
        story.whole = whole
    if record.definition is not None and _is_alike(story.first, record.definition):
        story.schemas[record.version] = record.definition
        story.first = story.first or record.definition
    _note_session(story, record, parent)
    _note_deletes(story, record, parent)
    schema = story.schemas.get(record.schema)
    if schema is not None and not is_boundless(story, record, schema):
        _note_runs(story, record, parent)
        _note_rows(story, record, schema)
    story.named = story.named | record.extents


def _note_session(story: Story, record: Record, parent: Record | None) -> None:
    story.sessions.setdefault(record.session.commit_id, record.session.opened)
    if not record.opens or parent is None:
        return
    if parent.tail is not None and record.tail is None:
        story.takers.setdefault(parent.tail, set()).add(record.version)
    if record.session.token == parent.session.token:
        # A second opening by the same writer keeps what its first one took.
        for taken in story.takers.values():
            if parent.session.opened in taken:
                taken.add(record.version)


def _note_runs(story: Story, record: Record, parent: Record | None) -> None:
    before = () if parent is None else parent.index
    added = tuple(run for run in record.index if run not in before)
    if added and not record.opens:
        known = Extents() if parent is None else parent.extents
        story.runs[record.version] = RunsOf(added, tuple(run for run in before if run not in record.index),
                                            record.extents - known, record.session.opened)


def _note_deletes(story: Story, record: Record, parent: Record | None) -> None:
    if record.deletes == record.version:
        story.deletes[record.version] = deletes_id(record.version, record.commit_id)
    if record.opens and record.deletes is not None and parent is not None:
        at = record.session.at
        source = parent.version if at is None else at.get("version")
        if type(source) is int and 0 <= source < min(record.deletes, record.version):
            story.lessened[record.version] = source


def _note_rows(story: Story, record: Record, schema: Schema) -> None:
    for f in schema.fields.values():
        if f.path not in story.fields:
            story.fields[f.path] = f
            story.needed[f.path], story.writers[f.path] = Extents(), {}
            if record.version:
                story.path_claimers[f.path] = record.session.opened
        fresh = record.extents - story.needed[f.path]
        if not len(fresh):
            continue
        story.needed[f.path] = story.needed[f.path] | fresh
        for shard in shards_of(fresh, schema.rows_per_shard):
            story.writers[f.path][shard] = max(record.session.opened, story.writers[f.path].get(shard, 0))
            story.claimers.setdefault(shard, record.session.opened)


def _is_alike(first: Schema | None, schema: Schema) -> bool:
    """Shards mean the same under both."""
    return first is None or (schema.rows_per_shard, schema.codec) == (first.rows_per_shard, first.codec)


def is_boundless(story: Story, record: Record, schema: Schema) -> bool:
    """A stranger's record names so many shards that to look for each would take for ever."""
    shards, last = 0, -1            # many extents may lie in one shard, which counts once
    for start, count in record.extents:
        first, end = max(start // schema.rows_per_shard, last + 1), (start + count - 1) // schema.rows_per_shard
        shards, last = shards + end - first + 1, end
    return shards > story.most


def shards_of(extents: Extents, rows_per_shard: int) -> list[int]:
    """The shards in which these addresses lie, ascending."""
    return sorted({shard for start, count in extents
                   for shard in range(start // rows_per_shard, (start + count - 1) // rows_per_shard + 1)})
