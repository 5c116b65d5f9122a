"""Where a run's first row goes: behind its checkpoint's mark, on an empty store, or behind what is there."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from zstore._typing import Array
from zstore.errors import BehindCheckpoint, Conflict, NotFound, StaleWriter, StoreNotFound
from zstore.maintenance.delete import delete
from zstore.notices import warn
from zstore.reader import Reader
from zstore.view_coverage import Coverage, cover, expected_ids
from zstore.writer import Writer

Batch = tuple[Any, Any, Any, Mapping[str, Any]]             # ids, vectors, epoch, fields
EMPTY = {"store_id": "", "version": 0, "commit_id": ""}      # the mark of a run that has recorded nothing


def checked_mark(mark: Any) -> dict[str, Any]:
    """A copy of a mark, from a checkpoint that may hold anything. None is that of an empty store."""
    if mark is None:
        return dict(EMPTY)
    if not isinstance(mark, Mapping) or not set(EMPTY) <= set(mark):
        raise TypeError(f"a recorder's mark holds {', '.join(EMPTY)}, and this is {mark!r:.200}; give what state_dict() gave")
    return {key: mark[key] for key in EMPTY}


def head_mark(url: str, storage_options: Any) -> dict[str, Any]:
    """The mark of head; of an empty store where there is none."""
    try:
        with Reader(url, storage_options=storage_options) as head:
            return dict(head.history[-1].mark)
    except StoreNotFound:
        return dict(EMPTY)


def check_store(url: str, mark: Mapping[str, Any], storage_options: Any) -> None:
    """BehindCheckpoint where the store ends before the mark: when a checkpoint is loaded, and not at the first row. Reads
    only."""
    if not mark["version"]:
        return
    named = f"the checkpoint names version {mark['version']} (commit {mark['commit_id']})"
    try:
        with Reader(url, storage_options=storage_options) as head:
            version = head.version
    except StoreNotFound:
        raise BehindCheckpoint(f"{named}, but there is no store at {url}; restore it, or leave the recorder out") from None
    if version < mark["version"]:
        raise BehindCheckpoint(f"{named}, but {url} ends at version {version}: {mark['version'] - version} commits are missing"
                               "; restore the store, or load an older checkpoint")


def placed(writer: Writer | None, url: str, options: Mapping[str, Any], mark: Mapping[str, Any] | None, *, stays: bool,
           first: Batch | None) -> tuple[Writer, dict[str, Any]]:
    """A Writer, the one given or a new one, with the store as a run's first row shall find it: as it is (``stays``), or rolled
    back to ``mark``, None for empty; and that place's mark. ``first``: nothing is rolled back for a batch that would be refused
    there."""
    storage_options = options.get("storage_options") if writer is None else writer.storage_options
    here = head_mark(url, storage_options) if stays else mark
    if not stays and mark is not None:
        check_store(url, mark, storage_options)
    with ExitStack() as undo:
        if writer is None:
            writer = Writer(url, **options)
            undo.callback(writer.close)
        if not stays:
            _roll_back(writer, mark if mark is not None and mark["version"] else None, first)
        undo.pop_all()
    return writer, checked_mark(here)


def _roll_back(writer: Writer, mark: Mapping[str, Any] | None, first: Batch | None) -> None:
    if first is not None:
        writer.check(*first, at=mark or 0)
    try:
        writer.load_state_dict(mark)
    except StaleWriter:
        raise
    except Conflict as error:
        raise Conflict(f"{error}; or Recorder(writer, start=\"continue\"), which leaves the rows there are") from None


def covered(url: str, version: int | None, epoch: int, expected: Any, storage_options: Any) -> Coverage:
    """What a version, or head, holds of an epoch."""
    try:
        with Reader(url, version=version, storage_options=storage_options) as run:
            return run.coverage(expected, epochs=[epoch])[epoch]
    except StoreNotFound:
        return uncovered(epoch, expected)


def uncovered(epoch: int, expected: Any) -> Coverage:
    """Of an epoch without a row."""
    return cover(epoch, np.zeros(0, np.int64), expected_ids(expected, None))


@dataclass(frozen=True)
class Later:
    """Rows of head that came after a step, by their keys, none of which an earlier row has."""

    ids: Array
    epochs: Array

    def cut(self, url: str, options: Mapping[str, Any], first: Batch | None) -> dict[str, Any]:
        """Delete them, for good, but not for a first batch that would be refused behind it; gives the mark of what is left."""
        if first is not None:
            with Writer(url, **options) as writer:
                writer.check(*first)
        return dict(delete(url, self.ids, epoch=self.epochs, storage_options=options.get("storage_options")).mark)


def way_back(url: str, step: int, storage_options: Any) -> tuple[dict[str, Any], Later | None]:
    """For a checkpoint that holds no mark: where the rows up to ``step`` stand alone, and what must be deleted there first,
    because it was committed together with them. Changes nothing.

    Raises BehindCheckpoint where the store ends before ``step``, or where later rows can't be told from earlier ones by their
    keys; ValueError where rows carry no step."""
    try:
        head = Reader(url, storage_options=storage_options)
    except StoreNotFound:
        head = None
    if head is None or len(head) == 0:
        warn(f"{url}: the checkpoint holds no mark and the store no row, so rows begin behind step {step}")
        return dict(EMPTY), None
    with head:
        try:
            steps = np.asarray(head.field("step"))
        except NotFound:
            raise ValueError(f"{url}: the checkpoint holds no mark, and rows carry no `step` to go by; record with "
                             "batch(..., step=), or start over without the checkpoint") from None
        keep = steps <= step
        if keep.all():
            _check_reached(url, steps, step)
            return dict(head.history[-1].mark), None
        wanted = int(keep.sum())
        warn(f"{url}: the checkpoint holds no mark, so the rows' steps decide: {len(head) - wanted} of {len(head)} rows are "
             f"later than step {step}, and go with the next row")
        if not wanted:
            return dict(EMPTY), None
        for commit in reversed(head.history):
            if commit.rows == wanted and _holds(url, commit.version, head, keep, storage_options):
                return dict(commit.mark), None
        return dict(head.history[-1].mark), _later(url, head, keep, step)


def _check_reached(url: str, steps: Array, step: int) -> None:
    """No row is later than ``step``: the last ones are missing where there is a gap that the others do not have."""
    known = np.unique(steps)
    usual = int(np.diff(known).max()) if len(known) > 1 else int(known[0]) + 1
    if step - int(known[-1]) > usual:
        raise BehindCheckpoint(f"the checkpoint stands at step {step} and holds no mark, but the rows of {url} end at step "
                               f"{known[-1]}: those of {step - int(known[-1])} steps are missing; restore the store, or load "
                               "an older checkpoint")


def _holds(url: str, version: int, head: Reader, keep: Array, storage_options: Any) -> bool:
    """The version has head's rows ``keep``, and no others."""
    with Reader(url, version=version, storage_options=storage_options) as old:
        try:
            return all(np.array_equal(old.field(name), head.field(name)[keep]) for name in ("step", "epoch", "ids"))
        except NotFound:
            return False


def _later(url: str, head: Reader, keep: Array, step: int) -> Later:
    ids, epochs = np.asarray(head.ids), np.asarray(head.field("epoch"))
    keys = np.unique(ids, return_inverse=True)[1].astype(np.int64) * 2**31 + epochs
    shared = int(np.isin(keys[keep], keys[~keep]).sum())
    if shared:
        raise BehindCheckpoint(f"{url}: the checkpoint stands at step {step} and holds no mark, and {shared} of the rows up to "
                               "there were committed together with later ones of the same id and epoch; resume from a "
                               "checkpoint that holds a mark, or start over")
    return Later(ids[~keep], epochs[~keep])
