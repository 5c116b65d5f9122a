"""Claims, tags, and Zarr's documents."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from zstore.commits.log import Log
from zstore.commits.projection import documents
from zstore.errors import Corrupt, FormatError
from zstore.format.checksum import open_json, parse_json, seal_json
from zstore.format.extents import Extents
from zstore.format.layout import CLAIMS, ROOT, TAGS, array_document, array_name, root_document, to_bytes
from zstore.format.record import FORMAT_MAJOR, FORMAT_MINOR, Record
from zstore.format.schema import Field
from zstore.maintenance.checks_log import sentence
from zstore.maintenance.story import Story

MISSING = "it is missing"


def claim_problem(log: Log, story: Story, name: str, opened: int) -> str | None:
    """What is wrong with the claim of a shard, or of a field's folder, that session ``opened`` was the first to name."""
    try:
        document = open_json(log.storage.read(name), name)
    except FileNotFoundError:
        return MISSING
    except Corrupt as error:
        return sentence(error)
    number = story.sessions.get(str(document.get("session")))
    if number is None or number != document.get("opened"):
        return "it is of a session that this log does not know"
    if number != opened:
        return f"it is of session {number}, but session {opened} was the first to commit what it claims"
    stated = document.get("shard", document.get("path"))
    if stated is not None and f"{CLAIMS}/{stated}.json" != name:
        return f"it is the claim of {stated}"
    return None


def mend_claim(log: Log, story: Story, name: str, opened: int, tag: str) -> None:
    """Write a lost claim again; what it claims was committed, so nobody else will ever ask for it."""
    session = next(key for key, number in story.sessions.items() if number == opened)
    body = seal_json({"format": f"{FORMAT_MAJOR}.{FORMAT_MINOR}", "opened": opened, "session": session,
                      "nonce": secrets.token_hex(16)})
    log.storage.replace(log.storage.draft([body], tag), name)
    log.storage.sync([CLAIMS])


def tag_problem(log: Log, name: str, store_id: str) -> str | None:
    """What is wrong with a tag."""
    object = f"{TAGS}/{name}"
    try:
        document = open_json(log.storage.read(object), object)
        version, commit = document["version"], document["commit_id"]
        record = log.find(version) if type(version) is int and 0 <= version < 2**63 else None
    except FileNotFoundError:
        return None             # between listing and reading
    except KeyError as error:
        return f"it lacks the member {error}"
    except (Corrupt, FormatError) as error:
        return sentence(error) if isinstance(error, Corrupt) else str(error)
    if document.get("store_id", store_id) != store_id or document.get("tag", name[:-5]) != name[:-5]:
        return "it is another store's, or another tag's"
    if record is None or record.commit_id != commit:
        return f"it names version {version} as commit {commit}, which this log does not have"
    return None


@dataclass
class Documents:
    """Zarr's documents against the records. They may show any version from ``oldest_projection`` on: a crash between a
    record and its projection leaves them behind, and the next writer brings them on."""

    log: Log
    story: Story

    def problems(self) -> dict[str, str]:
        """What is wrong, by document. Read again once before it is said: a live writer brings them on while we look."""
        return self._problems() and self._problems()

    def ahead(self) -> tuple[int, Extents] | None:
        """The version and extents that the root names, where this log has no such record: the log lost its end."""
        root = self._read(ROOT)
        try:
            ours = root["attributes"]["zstore"]
            version, extents = ours["version"], Extents.read(ours["extents"])
            if (ours["store_id"] == self.story.store_id and type(version) is int and self.story.last <= version < 2**63
                    and self._record(version) is None):
                return version, extents
        except (TypeError, KeyError, ValueError):
            pass
        return None

    def other_head(self) -> str | None:
        """The commit as which the root shows head, where it is another: nothing else vouches for the last record."""
        root = self._read(ROOT)
        try:
            ours = root["attributes"]["zstore"]
            commit = ours["commit_id"]
            same = ours["store_id"] == self.story.store_id and ours["version"] == self.story.last
            return str(commit) if same and self.story.ids[-1] not in (None, commit) else None
        except (TypeError, KeyError):
            return None

    def _problems(self) -> dict[str, str]:
        story, out = self.story, dict[str, str]()
        root = self._read(ROOT)
        shown = self._shown(root)
        early = not story.projected and not self.log.storage.exists(ROOT)
        if isinstance(shown, str) and not early:
            out[ROOT] = shown
        head = self.log.head() if story.head is None else story.head
        least = shown if isinstance(shown, Record) else self._record(story.oldest_projection) or head
        for f in self.log.schema_of(least).fields.values():
            name = array_name(f)
            document = self._read(name)
            if early and not self.log.storage.exists(name):
                continue
            if document is None:
                out[name] = "it is missing, or no JSON"
            elif not self._is_array(document, f, least):
                out[name] = "it is not what the records give"
        return out | dict.fromkeys(self._retired(head, least), "it is not what the records give")

    def _retired(self, head: Record, least: Record) -> list[str]:
        """Damaged documents of fields that only other versions have: left where they are, never brought on."""
        used = {f.path for f in self.log.schema_of(least).fields.values()}
        return [array_name(f) for path, f in self.story.fields.items() if path not in used
                and self.log.storage.exists(array_name(f)) and not self._was_array(f, head)]

    def _was_array(self, f: Field, head: Record) -> bool:
        document = self._read(array_name(f))
        try:
            length = document["shape"][0]
            return bool(document == array_document(self.log.schema_of(head), f, length)
                        and (length in self.story.lengths or self._is_later(length)))
        except (TypeError, KeyError, IndexError):
            return False

    def _shown(self, root: Any) -> Record | str:
        """The record that the root shows, or what is wrong with it."""
        if root is None:
            return "it is missing, or no JSON"
        try:
            ours = root["attributes"]["zstore"]
            record = self._record(ours["version"])
            if record is None or record.commit_id != ours["commit_id"] or record.store_id != ours["store_id"]:
                return "it shows a version that this log does not have"
        except (TypeError, KeyError, ValueError):
            return "it lacks the attributes of a store"
        if record.version < self.story.oldest_projection:
            return f"it shows version {record.version}, and head is {self.story.last}"
        schema = self.log.schema_of(record)
        if root != root_document(schema, record.length, record.version, record.commit_id, record.extents):
            return "it is not what the records give"
        return record

    def _is_array(self, document: Any, f: Field, least: Record) -> bool:
        # Array documents go before the root, so they may show a later version than it; shorter they never are.
        try:
            length = document["shape"][0]
            schema = self.log.schema_of(least)
            if document != array_document(schema, f, length) or length < least.length:
                return False
            return length in self.story.lengths[least.version:] or length == least.length or self._is_later(length)
        except (TypeError, KeyError, IndexError):
            return False

    def _is_later(self, length: int) -> bool:
        """A version after the pinned head has this length."""
        version = self.story.last + 1
        while (record := self._record(version)) is not None:
            if record.length == length:
                return True
            version += 1
        return False

    def _record(self, version: int) -> Record | None:
        try:
            return self.log.find(version) if type(version) is int and 0 <= version < 2**63 else None
        except (Corrupt, FormatError):
            return None

    def _read(self, name: str) -> Any:
        try:
            return parse_json(self.log.storage.read(name), name)
        except OSError:
            return None


def mend_documents(log: Log, names: Iterable[str], fields: Iterable[Field], tag: str) -> None:
    """Write every document that is not what head gives, the root last, under the lock of the projection; and those of
    ``names`` that are of ``fields`` which head does not have."""
    storage = log.storage
    with storage.exclusive():
        while True:
            head = log.head()
            schema, now = log.schema_of(head), documents(log, head)
            wanted = {array_name(f): array_document(schema, f, head.length) for f in fields
                      if array_name(f) in names and array_name(f) not in now} | now
            folders = [name.rpartition("/")[0] for name in wanted if name != ROOT]
            storage.make_folders(folders)
            for name, document in wanted.items():
                if name == ROOT:
                    storage.sync(folders)       # what the root speaks of is durable before it
                if _parsed(storage.read(name) if storage.exists(name) else b"") != document:
                    storage.replace(storage.draft([to_bytes(document)], tag), name)
            storage.sync([""])
            if log.head().version == head.version:
                return


def _parsed(data: bytes) -> Any:
    try:
        return parse_json(data, "a document")
    except Corrupt:
        return None
