"""What the log promises: every record, each held against the ones before it."""

from __future__ import annotations

import re
from collections.abc import Callable

from zstore.commits.log import Log
from zstore.errors import Corrupt, FormatError
from zstore.format.checksum import open_json
from zstore.format.extents import Extents
from zstore.format.layout import CLAIMS, COMMITS, commit_name
from zstore.format.record import Record, check_format, parse_record
from zstore.format.schema import MAX_SHARDS, VECTORS, Schema
from zstore.maintenance.story import Story, is_boundless, note
from zstore.storage.base import Storage

MAX_GAP = 1_000
SPARE_SHARDS = 1_000        # that records may name beyond what is there: claims or shards may be lost, hardly both
_RECORD = re.compile(r"[0-9]{20}\.json\Z")
Report = Callable[[str, str, Extents], None]    # object, problem, the addresses that it touches
Tick = Callable[[str], None]


def walk(log: Log, last: int, report: Report, tick: Tick) -> Story:
    """Read records 0..last, in order and one at a time."""
    story = Story(last, SPARE_SHARDS + max(len(log.storage.list(CLAIMS)), len(log.storage.list(VECTORS))))
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
        if parent is not None and record.parent != parent.commit_id:
            # A copy of the store that went another way has sound records too: either of the two may be its.
            report(commit_name(version - 1), "the record after it names another commit as the one before", Extents())
        note(story, record, parent)
        before, broken = record, []
    _report_broken(report, last + 1, broken, Extents())
    return story


def numbers(storage: Storage) -> list[int]:
    """The record numbers that are taken, ascending, by listing."""
    return [int(name[:-5]) for name in storage.list(COMMITS) if _RECORD.match(name)]


def last_number(storage: Storage) -> int | None:
    """The highest record number that is taken and not beyond a gap of more than ``MAX_GAP``: a gap must not hide what
    lies above it, and a stranger's number must not be counted up to."""
    last = -1
    for number in numbers(storage):
        if number - last > MAX_GAP:
            break
        last = number
    return last if last >= 0 else None


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
    if record.next > MAX_SHARDS:
        out.append("it says that more shards are claimed than a store can have")
    if not record.opens and exact and (parent is None or _session_of(record) != _session_of(parent)):
        out.append("it belongs to a session that did not open, or that another had taken over from")
    if record.version == 0 and (record.length or record.next or record.index or record.tail is not None
                                or record.session.at is not None):
        out.append("it is not empty, as version 0 is")
    schema = record.definition or story.schemas.get(record.schema)
    if schema is None or (record.definition is not None and record.schema != record.version):
        out.append(f"version {record.schema}, which should hold its schema, has none")
    else:
        out += _schema_problems(story, schema)
        if record.extents.end > record.next * schema.rows_per_shard:
            out.append("its rows lie in shards that it says nobody claimed")
        if is_boundless(story, record, schema):
            out.append("it names many times more shards than there are; they are not looked for")
    if parent is not None:
        out += _opening_problems(log, record, parent) if record.opens else _member_problems(story, record, parent)
        if record.length < parent.length or record.next < parent.next:
            out.append("its length or its next shard went back")
    if record.tail is not None:
        out += _tail_problems(story, record, schema)
    if exact and record.deletes != (None if parent is None else parent.deletes) and not (
            record.opens and parent is not None and record.deletes == record.version):
        out.append("it does not carry on what was deleted before it")
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
    if record.session.at != parent.session.at:
        out.append("it says that its session was opened at another version")
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
    if record.length != parent.length:
        out.append("its length is not that of the version before it")
    if len(record.extents - source.extents):
        out.append("it opens with rows that the version it opens at does not have")
    if record.index != source.index or (not _is_lessened(record, source) and record.extents != source.extents):
        out.append("it does not open with the rows and the index of the version that it opens at")
    if record.definition is None and record.schema != source.schema:
        out.append("its schema is not that of the version that it opens at")
    if record.tail is not None and record.tail != parent.tail:
        out.append("it has a tail that the version before it did not hand over")
    return out


def _is_lessened(record: Record, source: Record) -> bool:
    """Keys were deleted after the version that it opens at."""
    return record.deletes is not None and record.deletes > source.version


def _target(log: Log, record: Record) -> Record | None:
    at = record.session.at or {}
    try:
        version = at["version"]
        if at["store_id"] != record.store_id or type(version) is not int or not 0 <= version < record.version:
            return None
        target = log.find(version)
        return target if target is not None and target.commit_id == at["commit_id"] else None
    except (KeyError, TypeError, ValueError, Corrupt, FormatError):
        return None


def _tail_problems(story: Story, record: Record, schema: Schema | None) -> list[str]:
    assert record.tail is not None
    if schema is None:
        return []
    if record.tail >= min(record.next, MAX_SHARDS):
        return [f"its tail, shard {record.tail}, was claimed by nobody"]
    first = record.tail * schema.rows_per_shard
    inside = (story.named | record.extents) & Extents([(first, schema.rows_per_shard)])
    if not len(inside) or inside.end == first + schema.rows_per_shard:
        return [f"its tail, shard {record.tail}, is not one that can be continued"]
    return []


def sentence(error: Corrupt) -> str:
    """What is wrong with an object, without its name, which the finding has, and without advice to run ``verify``."""
    at = "" if error.offset is None else f", at byte {error.offset}"
    if error.expected is None and error.actual is None:
        return f"{error.problem}{at}"
    return f"{error.problem}{at} (expected {error.expected}, found {error.actual})"
