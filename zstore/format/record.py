"""The commit record: one JSON object per version, and the mark that a checkpoint keeps of one."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from zstore._typing import Json
from zstore.errors import Corrupt, FormatError
from zstore.format.checksum import open_json, seal_json
from zstore.format.extents import MAX_ADDRESS, Extents
from zstore.format.schema import Schema

FORMAT_MAJOR = 1
FORMAT_MINOR = 0
MAX_META_BYTES = 64 * 2**10
MAX_TIME = 253_402_300_800      # the year 10000
_RUN = re.compile(r"[0-9A-Za-z\-]{1,128}\Z")
_MAJOR = re.compile(r"([0-9]{1,9})(?:\.|\Z)")


@dataclass(frozen=True)
class SessionInfo:
    """Who wrote a record: the session is (``opened``, ``token``); ``at`` is the mark that it was opened at, or None."""

    opened: int
    commit_id: str          # of the opening commit
    token: str
    host: str
    pid: int
    member: int
    since: float
    at: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {"opened": self.opened, "commit_id": self.commit_id, "token": self.token, "host": self.host,
                "pid": self.pid, "member": self.member, "since": self.since, "at": self.at}


@dataclass(frozen=True)
class Record:
    """One version. ``schema`` is the number of the record whose ``definition`` is in force."""

    store_id: str
    version: int
    commit_id: str
    parent: str | None
    session: SessionInfo
    time: float
    schema: int
    extents: Extents
    length: int
    next: int
    tail: int | None
    index: tuple[str, ...]
    deletes: int | None = None
    meta: Any = None
    definition: Schema | None = None
    new_rows: int = 0
    duplicates: int = 0
    nonfinite: int = 0
    superseded: int | None = 0      # rows of this version whose key a higher address holds; None: not counted
    extra: dict[str, Any] = field(default_factory=dict)     # members of its own: compact's record 0 has some

    @property
    def rows(self) -> int:
        return len(self.extents)

    @property
    def opens(self) -> bool:
        """This record is its session's opening commit."""
        return self.version == self.session.opened

    @property
    def mark(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain strings and integers, a fixed key set."""
        return {"store_id": self.store_id, "version": self.version, "commit_id": self.commit_id}

    def to_bytes(self) -> bytes:
        document = {
            "format": f"{FORMAT_MAJOR}.{FORMAT_MINOR}", "store_id": self.store_id, "version": self.version,
            "commit_id": self.commit_id, "parent": self.parent, "session": self.session.to_json(), "time": self.time,
            "schema": self.schema, "extents": self.extents.listed(), "length": self.length,
            "next": self.next, "tail": self.tail, "index": list(self.index), "deletes": self.deletes, "meta": self.meta,
            "new_rows": self.new_rows, "duplicates": self.duplicates, "nonfinite": self.nonfinite,
            "superseded": self.superseded}
        if self.definition is not None:
            document["definition"] = self.definition.to_json()
        return seal_json({**self.extra, **document})


def parse_record(data: bytes, version: int, name: str) -> Record:
    """A record as it lies under ``name``; ``Corrupt`` where it is damaged, ``FormatError`` where it is of a newer major."""
    document = open_json(data, name)
    check_format(document.get("format"), name)
    try:
        record = _from_json(document, name)
    except FormatError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise Corrupt(name, f"the record lacks or misstates a member: {error!r}") from None
    if record.version != version:
        raise Corrupt(name, "the record is another version's", expected=version, actual=record.version)
    return record


def check_format(stated: object, name: str) -> None:
    """Unknown majors are refused; minors only add."""
    major = _MAJOR.match(stated) if isinstance(stated, str) else None
    if major is None:
        raise FormatError(f"{name}: this is not a zstore document (format {stated!r:.40})")
    if int(major[1]) != FORMAT_MAJOR:
        raise FormatError(f"{name}: the store is of format {stated}, this release reads format {FORMAT_MAJOR}; "
                          "upgrade zstore")


def _from_json(d: Json, name: str) -> Record:
    s = d["session"]
    _hex(d["store_id"], d["commit_id"], s["commit_id"], *([d["parent"]] if d["parent"] is not None else []))
    session = SessionInfo(_count(s["opened"]), s["commit_id"], _text(s["token"]), _text(s["host"]), _count(s["pid"]),
                          _count(s["member"]), _time(s["since"]), s["at"])
    if session.opened > _count(d["version"]) or not isinstance(session.at, dict | None):
        raise ValueError("session")
    length = _count(d["length"])
    if length > MAX_ADDRESS:
        raise ValueError("length")
    extents = Extents.read(d["extents"], length)
    index = tuple(d["index"])
    if type(d["index"]) is not list or not all(isinstance(run, str) and _RUN.match(run) for run in index):
        raise ValueError("index")
    definition = Schema.from_json(d["store_id"], d["definition"], name) if "definition" in d else None
    known = {*Record.__dataclass_fields__, "format"}
    return Record(
        d["store_id"], _count(d["version"]), d["commit_id"], d["parent"], session, _time(d["time"]), _count(d["schema"]),
        extents, length, _count(d["next"]), None if d["tail"] is None else _count(d["tail"]), index,
        None if d["deletes"] is None else _count(d["deletes"]), d["meta"], definition, _count(d["new_rows"]),
        _count(d["duplicates"]), _count(d["nonfinite"]),
        None if d["superseded"] is None else _count(d["superseded"]), {k: v for k, v in d.items() if k not in known})


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{value!r:.40} is not a count")
    return value


def _time(value: object) -> float:
    # Seconds that a calendar has a date for: they are shown to people.
    if type(value) not in (int, float) or not -MAX_TIME < float(value) < MAX_TIME:     # type: ignore[arg-type]
        raise ValueError(f"{value!r:.40} is not a time")
    return float(value)         # type: ignore[arg-type]


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.40} is not text")
    return value


def _hex(*values: object) -> None:
    for value in values:
        if not isinstance(value, str) or len(value) != 32 or bytes.fromhex(value).hex() != value:
            raise ValueError(f"{value!r:.80} is not 32 hexadecimal digits")
