"""Checking a store's objects against everything that its records promise."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zstore.commits.log import Log
from zstore.commits.whole import check_whole
from zstore.errors import ZStoreError
from zstore.format.extents import Extents
from zstore.format.layout import (
    ROOT,
    TAGS,
    claim_name,
    commit_name,
    deletes_name,
    path_claim_name,
    run_name,
    shard_name,
)
from zstore.format.schema import Schema
from zstore.maintenance.checks_columns import KeyColumns, ShardCheck
from zstore.maintenance.checks_deletes import DeletesCheck
from zstore.maintenance.checks_documents import Documents, claim_problem, mend_claim, mend_documents, tag_problem
from zstore.maintenance.checks_index import RunCheck, mend_run
from zstore.maintenance.checks_log import MAX_GAP, last_number, numbers, walk
from zstore.maintenance.story import Story, shards_of
from zstore.notices import logger
from zstore.storage import open_storage

SHOWN_KEYS = 20
FIRST_ROWS = 4096           # of which readable keys are looked for
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Finding:
    """One damaged object.

    ``rows``: runs ``[start, count]`` of row numbers of head's version; empty where only other versions, or no rows, are
    touched. ``keys``: the first of them as ``(id, epoch)``, at most 20, as far as they can be read. ``mends``: what
    ``repair=True`` would do, or None where no byte that is left can make it good.
    """

    object: str
    problem: str
    rows: list[list[int]] = field(default_factory=list)
    keys: list[tuple[int | str, int]] = field(default_factory=list)
    mends: str | None = None


def verify(url: str | os.PathLike[str], *, repair: bool = False, quick: bool = False, progress: Progress | None = None,
           storage_options: Mapping[str, Any] | None = None) -> list[Finding]:
    """Check every object that a record names, and every document derived from them; an empty list is a sound store.

    What a crash may leave is no finding. Right on a store that is being written: head is pinned at the start, no
    session is opened, no lock taken. ``quick`` looks at structure only, not at the bodies of shards and runs.
    ``repair`` makes again what is derived (Zarr's documents, index runs, lost claims), logs that as a warning, and
    gives what remains; it touches no committed byte. ``progress(done, total, name)`` is called for every object;
    ``total`` grows at first.

    Raises StoreNotFound, FormatError for a newer format. Memory does not grow with the rows.
    """
    log = Log(open_storage(url, storage_options))
    last = last_number(log.storage)
    if last is None:
        last = log.head().version           # says why there is no store
    return _Verification(log, last, repair, quick, progress).run()


class _Verification:
    def __init__(self, log: Log, last: int, repair: bool, quick: bool, progress: Progress | None) -> None:
        self.log, self.repair, self.quick = log, repair, quick
        self._said: list[tuple[str, str, Extents, str | None]] = []
        self._progress, self._done, self._total = progress, 0, last + 1
        self.story: Story = walk(log, last, self._say, self._tick)
        if self.story.head is not None and self.story.head.version == last:
            check_whole(log, self.story.head)

    def run(self) -> list[Finding]:
        schema = self.story.schemas.get(self.story.head.schema) if self.story.head is not None else None
        schema = schema or self.story.first
        if schema is None:                  # no readable record holds a schema: nothing else can be judged
            return self._finish(None, Extents())
        columns = KeyColumns(self.log.storage, schema)
        base = self._check_end()
        self._check_strays()
        self._check_claims(schema)
        self._check_shards(schema)
        self._check_runs(schema, columns)
        self._check_deletes()
        self._check_tags()
        self._check_documents()
        return self._finish(columns, base)

    def _check_end(self) -> Extents:
        """Head's extents: of the root document where it names a version that the log lost."""
        head = self.story.head
        assert head is not None
        documents = Documents(self.log, self.story)
        ahead, other = documents.ahead(), documents.other_head()
        if other is not None:
            self._say(commit_name(self.story.last), f"{ROOT} shows it as commit {other}: one of the two comes from a copy of "
                      "the store that went another way", Extents())
        if ahead is None:
            return head.extents
        version, base = ahead
        touched = base - head.extents
        if version > self.story.last:
            for number in range(self.story.last + 1, min(version, self.story.last + MAX_GAP) + 1):
                self._say(commit_name(number), f"the commit record is missing: {ROOT} shows version {version}", touched)
        else:
            self._said = [(name, problem, touched if name == commit_name(version) else at, mends)
                          for name, problem, at, mends in self._said]
        return base

    def _check_strays(self) -> None:
        for number in numbers(self.log.storage):
            if number > self.story.last + MAX_GAP:
                self._say(commit_name(number), f"no record stands in the {number - self.story.last - 1} places below it",
                          Extents())

    def _check_claims(self, schema: Schema) -> None:
        claims = {claim_name(shard): (opened, Extents([(shard * schema.rows_per_shard, schema.rows_per_shard)]))
                  for shard, opened in self.story.claimers.items()}
        claims |= {path_claim_name(path): (opened, Extents()) for path, opened in self.story.path_claimers.items()}
        self._total += len(claims)
        for name, (opened, at) in claims.items():
            self._tick(name)
            problem = claim_problem(self.log, self.story, name, opened)
            if problem is None:
                continue
            known = opened in self.story.sessions.values()
            self._say(name, problem, at & self.story.named, "write it again" if known else None,
                      lambda n=name, o=opened: mend_claim(self.log, self.story, n, o, self._tag))  # type: ignore[misc]

    def _check_shards(self, schema: Schema) -> None:
        check = ShardCheck(self.log, self.story, schema, self.quick)
        shards = [(f, shard) for path, f in self.story.fields.items()
                  for shard in shards_of(self.story.needed[path], schema.rows_per_shard)]
        self._total += len(shards)
        for f, shard in shards:
            name = shard_name(f, shard)
            self._tick(name)
            for problem, touched in check.problems(f, shard):
                self._say(name, problem, touched)

    def _check_runs(self, schema: Schema, columns: KeyColumns) -> None:
        check = RunCheck(self.log, self.story, schema, columns, self.quick)
        self._total += len(self.story.runs)
        for version in sorted(self.story.runs):
            self._tick(run_name(self.story.runs[version].added[-1]))
            for run, (problem, touched) in check.problems(version).items():
                # Made again from these columns or not at all, so the mending itself decides whether it can.
                self._say(run_name(run), problem, touched, "make it again from the ids and epochs of its rows",
                          lambda r=run, v=version: mend_run(check, r, v, self._tag))  # type: ignore[misc]

    def _check_deletes(self) -> None:
        check = DeletesCheck(self.log, self.story)
        lessened = {} if self.quick else self.story.lessened
        self._total += len(self.story.deletes) + len(lessened)
        for text in self.story.deletes.values():
            self._tick(deletes_name(text))
            problem = check.problem(text)
            if problem is not None:
                self._say(deletes_name(text), problem, Extents())
        for version, source in lessened.items():
            self._tick(commit_name(version))
            for problem, touched in check.rows_problems(version, source):
                self._say(commit_name(version), problem, touched)

    def _check_tags(self) -> None:
        for name in self.log.storage.list(TAGS):
            self._total += 1
            self._tick(f"{TAGS}/{name}")
            problem = tag_problem(self.log, name, self.story.store_id) if name.endswith(".json") else None
            if problem is not None:
                self._say(f"{TAGS}/{name}", problem, Extents())

    def _check_documents(self) -> None:
        self._total += 1
        self._tick(ROOT)
        documents = Documents(self.log, self.story)
        if documents.ahead() is not None:
            return          # the log lost its end: the root is the only witness, and is not written over
        try:
            problems = documents.problems()
        except (ZStoreError, OSError) as error:
            self._say(ROOT, f"what it should say can't be known: {error}", Extents())
            return

        def mend() -> None:
            mend_documents(self.log, problems, self.story.fields.values(), self._tag)

        for name, problem in problems.items():
            self._say(name, problem, Extents(), "project head again", mend)
        if self.repair and not problems:
            mend()                      # a crash may have left them one version behind

    @property
    def _tag(self) -> str:
        head = self.story.head
        return f"{0 if head is None else head.session.opened:020d}"

    def _tick(self, name: str) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(self._total, self._done), name)

    def _say(self, name: str, problem: str, touched: Extents, mends: str | None = None,
             mend: Callable[[], object] | None = None) -> None:
        if self.repair and mends is not None and mend is not None:
            try:
                if mend() is not False:
                    logger.warning("%s: %s: %s; mended (%s)", self.log.storage.url, name, problem, mends)
                    return
                mends = None
            except (OSError, ZStoreError) as error:
                logger.warning("%s: %s can't be mended: %s", self.log.storage.url, name, str(error))
        self._said.append((name, problem, touched, mends))

    def _finish(self, columns: KeyColumns | None, base: Extents) -> list[Finding]:
        out = []
        for name, problem, touched, mends in self._said:
            live = touched & base
            runs = [[int(base.rows(live.starts[i:i + 1])[0]), int(live.counts[i])] for i in range(len(live.starts))]
            keys = columns.keys(live.slice(0, FIRST_ROWS).addresses(), SHOWN_KEYS) if columns is not None else []
            if len(touched) and not len(live):
                problem += "; only rows of other versions are touched"
            out.append(Finding(name, problem, _joined(runs), keys, mends))
        return out


def _joined(runs: list[list[int]]) -> list[list[int]]:
    """Addresses with a hole between them may be neighbours as rows."""
    out: list[list[int]] = []
    for start, count in runs:
        if out and out[-1][0] + out[-1][1] == start:
            out[-1][1] += count
        else:
            out.append([start, count])
    return out
