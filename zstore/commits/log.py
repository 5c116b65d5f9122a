"""The log of commit records: head without a listing, records, schemas, tags."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from zstore.errors import BehindCheckpoint, Corrupt, FormatError, NotFound, StoreNotFound
from zstore.format.checksum import open_json, parse_json
from zstore.format.extents import MAX_ADDRESS
from zstore.format.layout import COMMITS, ROOT, TAGS, commit_name, tag_name
from zstore.format.record import Record, SessionInfo, check_format, parse_record
from zstore.format.schema import MAX_SHARDS, Schema
from zstore.storage.base import Storage
from zstore.storage.ranges import at_once

T = TypeVar("T")
U = TypeVar("U")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,127}\Z")


class Log:
    """The records of one store. Not thread-safe by itself; it caches the head that it saw last."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._head: Record | None = None
        self._schemas: dict[int, Schema] = {}

    def head(self) -> Record:
        """The newest record. Numbers are dense and records are never deleted, so existence is monotone: from a known
        number gallop up, then bisect. No listing. Raises StoreNotFound, FormatError, Corrupt."""
        start, more = (self._head, None) if self._head is not None else self._hint()
        if start is None:
            if not self._exists(0):
                raise StoreNotFound(self._why_not())
            low = 0
        else:
            low = start.version
        step = 1
        while self._exists(low + step) if more is None else more:
            low, step, more = low + step, step * 2, None
            if low > MAX_ADDRESS:
                raise Corrupt(commit_name(low), "this place says yes to every name; it is no store")
        high = low + step                      # not there
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._exists(middle) else (low, middle)
        if start is None or low != start.version:
            start = self.read(low)
        self._head = start
        return start

    def seen(self) -> Record:
        """The newest record that was seen, without asking whether there is a newer one; head where none was."""
        return self._head or self.head()

    def likely(self, session: SessionInfo) -> Record:
        """What head is to this member: where the newest record seen is its own, that one, without asking, for nobody else is
        likely to have published since. Whoever goes by it finds out by a number that is taken."""
        seen = self._head
        return seen if self.storage.distant and seen is not None and seen.session == session else self.head()

    def again(self) -> Log:
        """Another log of the same store, for another thread, that begins where this one is."""
        log = Log(self.storage)
        log._head = self._head
        return log

    def saw(self, record: Record) -> None:
        """This record is there: head is at it, or above."""
        if self._head is not None and self._head.version < record.version:
            self._head = record

    def exists(self) -> bool:
        """There is a store here: record 0 exists."""
        return self._head is not None or self._exists(0)

    def read(self, version: int) -> Record:
        """One record. NotFound names the versions there are; Corrupt, FormatError."""
        name = commit_name(version)
        try:
            data = self.storage.read(name)
        except FileNotFoundError:
            raise NotFound(f"{self.storage.url} has no version {version}; head is {self.head().version}") from None
        return parse_record(data, version, name)

    def find(self, version: int) -> Record | None:
        """The record of this number, or None where it is not taken."""
        try:
            return parse_record(self.storage.read(commit_name(version)), version, commit_name(version))
        except FileNotFoundError:
            return None

    def schema_of(self, record: Record) -> Schema:
        """The schema in force at this record, whose numbers are held against it."""
        schema = record.definition or self._schemas.get(record.schema)
        if schema is None or schema.store_id != record.store_id:
            schema = self._find_schema(record)
            self._schemas[record.schema] = schema
        if max(record.extents.end, record.next * schema.rows_per_shard) > MAX_SHARDS * schema.rows_per_shard:
            raise FormatError(f"{commit_name(record.version)}: the record names more shards than a store has")
        return schema

    def _find_schema(self, record: Record) -> Schema:
        try:
            definition = self.read(record.schema).definition
        except NotFound:
            definition = None
        if definition is None or definition.store_id != record.store_id:
            raise FormatError(f"{commit_name(record.schema)}: version {record.version} names this record as the one that "
                              "holds its schema, and it has none")
        return definition

    def history(self) -> list[Record]:
        """All records, oldest first."""
        return [self.read(version) for version in range(self.head().version + 1)]

    def tag(self, name: str) -> int:
        """The version that a tag names; NotFound with near matches."""
        check_tag(name)
        try:
            document = open_json(self.storage.read(tag_name(name)), tag_name(name))
        except FileNotFoundError:
            tags = self.tags()
            near = difflib.get_close_matches(name, tags, 3) or tags[:3]
            hint = f"; there is {', '.join(map(repr, near))}" if near else "; it has no tags"
            raise NotFound(f"{self.storage.url} has no tag {name!r}{hint}") from None
        check_format(document.get("format"), tag_name(name))
        version = document.get("version")
        record = self.find(version) if isinstance(version, int) and 0 <= version < 2**63 else None
        if document.get("tag") != name or record is None or record.commit_id != document.get("commit_id"):
            # Swapped, or from a copy of the store that went its own way: never another version in silence.
            raise Corrupt(tag_name(name), "the tag names a commit that this store does not hold",
                          expected=document.get("commit_id"), actual=None if record is None else record.commit_id)
        return record.version

    def tags(self) -> list[str]:
        """The names of all tags, sorted."""
        return [name[:-5] for name in self.storage.list(TAGS) if name.endswith(".json")]

    def resolve(self, to: Any) -> Record:
        """The record that a version number, a tag, a mark, a Commit or a record names.

        BehindCheckpoint where the store lacks a mark's commit; ValueError for another store's mark."""
        if isinstance(to, Record):
            return to
        mark = to if isinstance(to, dict) else getattr(to, "mark", None)
        if mark is not None:
            return self._resolve_mark(mark)
        if isinstance(to, str):
            return self.read(self.tag(to))
        if isinstance(to, int) and not isinstance(to, bool):
            if to < 0:
                raise ValueError(f"a version is 0 or more, not {to}")
            return self.read(to)
        raise TypeError(f"expected a version number, a tag, a mark or a Commit, not {type(to).__name__}")

    def _resolve_mark(self, mark: dict[str, Any]) -> Record:
        try:
            store_id, version, commit_id = mark["store_id"], int(mark["version"]), mark["commit_id"]
        except (KeyError, TypeError, ValueError):
            raise ValueError(f"this is not a mark of a store (store_id, version, commit_id): {mark!r}") from None
        head = self.head()
        if store_id != head.store_id:
            raise ValueError(f"the mark is of store {store_id}, but {self.storage.url} is store {head.store_id}; "
                             "point the run at the store that its checkpoint was made with")
        if version > head.version:
            raise BehindCheckpoint(f"the checkpoint names version {version}, but {self.storage.url} ends at version "
                                   f"{head.version}: {version - head.version} commits are missing; restore the store, "
                                   "or load an older checkpoint")
        record = self.read(version)
        if record.commit_id != commit_id:
            raise BehindCheckpoint(f"the checkpoint names commit {commit_id} as version {version}, but {self.storage.url} "
                                   f"holds {record.commit_id} there: the store was restored or went another way; "
                                   "restore the right one, or load an older checkpoint")
        return record

    def _exists(self, version: int) -> bool:
        return self.storage.exists(commit_name(version))

    def _hint(self) -> tuple[Record | None, bool | None]:
        """Where to start, and whether there is a record above it; None for what is not known."""
        # zarr.json is only a hint: it may lag, be damaged, or come from another store's backup. It counts only if the
        # record that it names is there under the very commit id.
        try:
            root, _ = self._both(lambda: self.storage.read(ROOT), self._guess_schema)
            ours = parse_json(root, ROOT)["attributes"]["zstore"]
            version = ours["version"]
            if type(version) is not int or not 0 <= version < 2**63:
                return None, None
            record, more = self._both(lambda: self.find(version), lambda: self._exists(version + 1))
            return (record, more) if record is not None and record.commit_id == ours["commit_id"] else (None, None)
        except (OSError, ValueError, KeyError, TypeError):
            return None, None

    def _guess_schema(self) -> None:
        """Most stores keep the schema of their first record."""
        with suppress(OSError, ValueError):
            first = self.find(0)
            if first is not None and first.definition is not None:
                self._schemas[0] = first.definition

    def _both(self, one: Callable[[], T], guess: Callable[[], U]) -> tuple[T, U | None]:
        """Two answers of a distant storage in the time of one. Of a near one the first alone: it is not slow, and the second
        may not be needed."""
        if not self.storage.distant:
            return one(), None
        found: dict[str, Any] = {}
        at_once([lambda: found.update(guess=guess()), lambda: found.update(one=one())])
        return found["one"], found["guess"]

    def _why_not(self) -> str:
        url, kind = self.storage.url, self.storage.kind()
        if kind == "file":
            return f"{url} is a file, not a store"
        if kind == "folder":
            return f"{url} is a folder, but not a zstore store (it has no {COMMITS})"
        return f"there is no store at {url}"


def check_tag(name: object) -> str:
    """A legal tag; TypeError or ValueError that says what is legal."""
    if not isinstance(name, str):
        raise TypeError(f"a tag is a string, not {type(name).__name__}")
    if not _TAG.match(name):
        raise ValueError(f"the tag {name!r} must be 1 to 128 letters, digits, '.', '_' or '-' and begin with a letter or digit")
    return name
