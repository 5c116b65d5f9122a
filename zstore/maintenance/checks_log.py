"""What the log promises: every record, each held against the one before it; and what all versions together need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from zstore.commits.log import Log
from zstore.errors import Corrupt, FormatError
from zstore.format.checksum import open_json
from zstore.format.extents import Extents
from zstore.format.layout import COMMITS, DELETES, commit_name
from zstore.format.record import Record, check_format, parse_record
from zstore.format.schema import Field, Schema
from zstore.storage.base import Storage

Author = tuple[int, int, str, int]
Report = Callable[[str, str, Extents], None]    # object, problem, the addresses that it touches
Tick = Callable[[str], None]


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
    authors: list[Author | None] = field(default_factory=list)

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

    def learn(self, log: Log) -> None:
        """Sessions that opened since head was pinned: a live store goes on while we look at it."""
        version = max(self.last, max(self.sessions.values(), default=0)) + 1
        before = self.head
        while (record := log.find(version)) is not None:
            _note_session(self, record, before)
            before, version = record, version + 1


def walk(log: Log, last: int, report: Report, tick: Tick) -> Story:
    """Read records 0..last, in order and one at a time."""
    story = Story(last)
    before: Record | None = None
    broken: list[str] = []                  # unreadable since the last readable one
    for version in range(last + 1):
        name = commit_name(version)
        tick(name)
        record = _read(log.storage, version, name)
        if isinstance(record, str):
            broken.append(record)
            story.ids.append(None)
            story.authors.append(None)
            story.lengths.append(story.lengths[-1] if story.lengths else 0)
            continue
        known = before.extents if before is not None else Extents()
        _report_broken(report, version, broken, record.extents - known)
        parent = before if not broken else None
        for problem in _problems(log, story, record, parent, exact=not broken):
            report(name, problem, record.extents - known)
        _note(story, record, parent)
        before, broken = record, []
    _report_broken(report, last + 1, broken, Extents())
    return story


def last_number(storage: Storage) -> int | None:
    """The highest record number that is taken, by listing: a gap must not hide what lies above it."""
    numbers = [int(name[:-5]) for name in storage.list(COMMITS) if name.endswith(".json") and len(name) == 25
               and name[:-5].isdigit()]
    return max(numbers, default=None)


def _read(storage: Storage, version: int, name: str) -> Record | str:
    """The record, or what is wrong with it."""
    try:
        data = storage.read(name)
        return parse_record(data, version, name)
    except FileNotFoundError:
        return "the commit record is missing"
    except Corrupt as error:
        return sentence(error)
    except FormatError as error:
        check_format(open_json(data, name).get("format"), name)     # a newer major is no damage: it is raised
        return str(error)


def _report_broken(report: Report, after: int, problems: list[str], touched: Extents) -> None:
    # Only the records around them tell what unreadable ones added.
    for number, problem in enumerate(problems):
        report(commit_name(after - len(problems) + number), problem, touched)


def _problems(log: Log, story: Story, record: Record, parent: Record | None, *, exact: bool) -> list[str]:
    """Everything in this record that contradicts the ones before it. ``parent`` is None at the beginning, and behind
    an unreadable record (then not ``exact``)."""
    out = []
    if story.store_id and record.store_id != story.store_id:
        out.append(f"the record is of another store ({record.store_id})")
    if exact and record.parent != (None if parent is None else parent.commit_id):
        out.append("its parent is not the commit before it")
    if record.opens and record.session.commit_id != record.commit_id:
        out.append("it opens a session under another commit id than its own")
    if not record.opens and exact and (parent is None or _session_of(record) != _session_of(parent)):
        out.append("it belongs to a session that did not open, or that another had taken over from")
    schema = record.definition or story.schemas.get(record.schema)
    if schema is None or (record.definition is not None and record.schema != record.version):
        out.append(f"version {record.schema}, which should hold its schema, has none")
    else:
        out += _schema_problems(story, schema)
        if record.extents.end > record.next * schema.rows_per_shard:
            out.append("its rows lie in shards that it says nobody claimed")
    if parent is not None:
        out += _opening_problems(log, record, parent) if record.opens else _member_problems(story, record, parent)
        if record.length < parent.length or record.next < parent.next:
            out.append("its length or its next shard went back")
    if record.tail is not None:
        out += _tail_problems(story, record, schema)
    if record.deletes is not None and not log.storage.exists(f"{DELETES}/{record.deletes:020d}"):
        out.append(f"the keys that version {record.deletes} deleted are missing")
    if len(set(record.index)) != len(record.index):
        out.append("it names a run of the key index twice")
    return out


def _session_of(record: Record) -> tuple[int, str]:
    return record.session.opened, record.session.commit_id


def _schema_problems(story: Story, schema: Schema) -> list[str]:
    out = []
    first = story.first or schema
    if (schema.rows_per_shard, schema.codec) != (first.rows_per_shard, first.codec):
        out.append("its schema has other shards or another codec than version 0's")
    return out + [f"its field {f.name!r} gives the folder {f.path} another meaning" for f in schema.fields.values()
                  if story.fields.get(f.path, f) != f]


def _member_problems(story: Story, record: Record, parent: Record) -> list[str]:
    added = record.extents - parent.extents
    out = []
    if len(parent.extents - record.extents):
        out.append("rows of the version before it are gone, though it opens no session")
    if len(added & story.named):
        out.append("it gives addresses to new rows that were given before")
    if record.new_rows != len(added):
        out.append(f"it says {record.new_rows} new rows and names {len(added)}")
    if record.length != max(parent.length, record.extents.end):
        out.append("its length is not that of its rows")
    if record.definition is None and record.schema != parent.schema:
        out.append("its schema is not that of the version before it")
    if record.tail != parent.tail and (record.tail is None or (parent.tail is not None and record.tail < parent.tail)):
        out.append("it takes back a tail")
    return out


def _opening_problems(log: Log, record: Record, parent: Record) -> list[str]:
    out = []
    source: Record | None = parent
    if record.session.at is not None:
        source = _target(log, record)
        if source is None:
            return ["it rolls back to a commit that this log does not have"]
    assert source is not None
    if len(record.extents - source.extents):
        out.append("it opens with rows that the version it opens at does not have")
    if record.deletes is None and (record.extents != source.extents or record.index != source.index):
        out.append("it does not open with the rows and the index of the version that it opens at")
    if record.definition is None and record.schema != source.schema:
        out.append("its schema is not that of the version that it opens at")
    if record.tail is not None and record.tail != parent.tail:
        out.append("it has a tail that the version before it did not hand over")
    return out


def _target(log: Log, record: Record) -> Record | None:
    at = record.session.at or {}
    try:
        target = log.find(int(at["version"])) if at["store_id"] == record.store_id else None
        if target is None or target.version >= record.version or target.commit_id != at["commit_id"]:
            return None
        return target
    except (KeyError, TypeError, ValueError, Corrupt, FormatError):
        return None


def _tail_problems(story: Story, record: Record, schema: Schema | None) -> list[str]:
    assert record.tail is not None
    if schema is None:
        return []
    first = record.tail * schema.rows_per_shard
    inside = (story.named | record.extents) & Extents([(first, schema.rows_per_shard)])
    if record.tail >= record.next or not len(inside) or inside.end == first + schema.rows_per_shard:
        return [f"its tail, shard {record.tail}, is not one that can be continued"]
    return []


def _note(story: Story, record: Record, parent: Record | None) -> None:
    story.store_id = story.store_id or record.store_id
    story.head = record
    story.ids.append(record.commit_id)
    story.lengths.append(record.length)
    s = record.session
    story.authors.append((s.opened, s.member, s.host, s.pid))
    if record.definition is not None:
        story.schemas[record.version] = record.definition
        story.first = story.first or record.definition
    _note_session(story, record, parent)
    _note_runs(story, record, parent)
    schema = story.schemas.get(record.schema)
    if schema is not None:
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


def shards_of(extents: Extents, rows_per_shard: int) -> list[int]:
    """The shards in which these addresses lie, ascending."""
    return sorted({shard for start, count in extents
                   for shard in range(start // rows_per_shard, (start + count - 1) // rows_per_shard + 1)})


def sentence(error: Corrupt) -> str:
    """What is wrong with an object, without its name, which the finding has, and without advice to run ``verify``."""
    at = "" if error.offset is None else f", at byte {error.offset}"
    if error.expected is None and error.actual is None:
        return f"{error.problem}{at}"
    return f"{error.problem}{at} (expected {error.expected}, found {error.actual})"
