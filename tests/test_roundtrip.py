"""Whatever is appended, committed, reopened and rolled back: the reader's rows are those of a list in memory."""

from __future__ import annotations

import itertools
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zstore

KINDS = {"string": ["a", "b", "ä", "doc-17", "💡" * 3, "x" * 200], "int64": [0, 1, -5, 17, 2**62, -2**63]}
DTYPES = ["float32", "float16", "float64", "int8", "uint8", "bfloat16"]
DIM = 3


@dataclass
class Row:
    id: Any
    epoch: int
    vector: np.ndarray[Any, Any]
    label: int
    note: str


@dataclass
class Model:
    """A store as a list: what every version holds, and what is pending."""

    versions: dict[int, list[Row]] = field(default_factory=lambda: {0: []})
    pending: list[Row] = field(default_factory=list)

    @property
    def head(self) -> int:
        return max(self.versions)

    def commit(self, version: int) -> None:
        self.versions[version] = [*self.versions[self.head], *self.pending]
        self.pending = []


@dataclass(frozen=True)
class Plan:
    """What one example does: the store's options, and steps."""

    ids: str
    dtype: str
    codec: str
    rows_per_shard: int
    fields: bool
    steps: list[tuple[str, Any]]


keys = st.tuples(st.integers(0, 5), st.integers(0, 3))
steps = st.lists(st.one_of(
    st.tuples(st.just("append"), st.lists(keys, min_size=1, max_size=12)),
    st.tuples(st.just("append"), st.lists(keys, min_size=1, max_size=12)),
    st.tuples(st.just("commit"), st.none()),
    st.tuples(st.just("reopen"), st.none()),
    st.tuples(st.just("rollback"), st.integers(0, 30)),
    st.tuples(st.just("at"), st.integers(0, 30)),
), min_size=1, max_size=9)
plans = st.builds(Plan, st.sampled_from(sorted(KINDS)), st.sampled_from(DTYPES), st.sampled_from(["raw", "lossless", "small"]),
                  st.sampled_from([1, 2, 3, 4, 8, 16]), st.booleans(), steps)


@contextmanager
def place(kind: str) -> Iterator[str]:
    if kind == "local":
        with tempfile.TemporaryDirectory() as folder:
            yield f"{folder}/a.zarr"
        return
    url = f"memory://roundtrip-{uuid.uuid4().hex}"
    yield url
    import fsspec

    fs = fsspec.filesystem("memory")
    root = "/" + url.removeprefix("memory://")
    if fs.exists(root):
        fs.rm(root, recursive=True)


def numpy_dtype(name: str) -> np.dtype[Any]:
    if name == "bfloat16":
        import ml_dtypes
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


class Run:
    """One plan, carried out on a store and on the model."""

    def __init__(self, url: str, plan: Plan) -> None:
        self.url, self.plan, self.model = url, plan, Model()
        self.counter = itertools.count()
        self.made = False
        self.writer = self.open()

    def open(self, **more: Any) -> zstore.Writer:
        return zstore.Writer(self.url, commit_every_s=None, codec=self.plan.codec, dtype=self.plan.dtype,
                             rows_per_shard=self.plan.rows_per_shard, id_dtype="str" if self.plan.ids == "string" else "int64",
                             **more)

    def append(self, batch: list[tuple[int, int]]) -> None:
        rows = [Row(KINDS[self.plan.ids][i], epoch, np.array([next(self.counter) % 100] * DIM).astype(
            numpy_dtype(self.plan.dtype)), i, f"n{epoch}") for i, epoch in batch]
        fields = {"label": [r.label for r in rows], "note": [r.note for r in rows]} if self.plan.fields else {}
        epochs = [r.epoch for r in rows]
        self.writer.append([r.id for r in rows], np.stack([r.vector for r in rows]),
                           epoch=epochs[0] if len(set(epochs)) == 1 else epochs, **fields)
        self.model.pending += rows
        self.made = True

    def close(self) -> None:
        self.writer.close()
        if self.made:
            self.after_close()

    def after_close(self) -> None:
        """Closing commits, and may publish a record that hands over the tail."""
        with zstore.Reader(self.url) as reader:
            for version in range(self.model.head + 1, reader.version + 1):
                self.model.commit(version)

    def step(self, what: str, argument: Any) -> None:
        if what == "append":
            self.append(argument)
        elif what == "commit":
            commit = self.writer.commit()
            if commit is not None and commit.version not in self.model.versions:
                assert commit.new_rows == len(self.model.pending)
                self.catch_up(commit.version)
                assert commit.rows == len(self.model.versions[commit.version])
        elif what == "reopen":
            self.close()
            self.reopen()
        elif what in ("rollback", "at") and self.made:
            self.close()
            target = argument % (self.model.head + 1)
            if what == "rollback":
                commit = zstore.rollback(self.url, target)
                self.model.versions[commit.version] = list(self.model.versions[target])
                self.reopen()
            else:
                self.reopen(at=target)

    def catch_up(self, version: int) -> None:
        assert version == self.model.head + 1
        self.model.commit(version)

    def reopen(self, **more: Any) -> None:
        self.writer = self.open(**more)
        if self.made:
            with zstore.Reader(self.url) as reader:
                target = more.get("at", self.model.head)
                self.model.versions[reader.version] = list(self.model.versions[target])

    def check(self) -> None:
        """Head, and every version that was."""
        if not self.made:
            with pytest.raises(zstore.ZStoreError):
                zstore.Reader(self.url)
            return
        for version, rows in self.model.versions.items():
            with zstore.Reader(self.url, version=version) as reader:
                check_view(reader, rows, self.plan)
                if rows:
                    check_view(reader.latest(), latest(rows), self.plan)
                    for epoch in {row.epoch for row in rows}:
                        wanted = latest([row for row in rows if row.epoch == epoch])
                        check_view(reader.epoch(epoch), wanted, self.plan)


def latest(rows: list[Row]) -> list[Row]:
    best: dict[Any, int] = {}
    for at, row in enumerate(rows):
        if row.id not in best or row.epoch >= rows[best[row.id]].epoch:
            best[row.id] = at
    return [rows[at] for at in sorted(best.values())]


def check_view(view: zstore.View, rows: list[Row], plan: Plan) -> None:
    assert len(view) == len(rows)
    assert view.ids.tolist() == [row.id for row in rows]
    assert view.field("epoch").tolist() == [row.epoch for row in rows]
    assert view.epochs.tolist() == sorted({row.epoch for row in rows})
    vectors = np.stack([row.vector for row in rows]) if rows else np.zeros((0, DIM), numpy_dtype(plan.dtype))
    assert view.vectors.dtype == vectors.dtype
    assert view.vectors.tobytes() == vectors.tobytes()
    if plan.fields:
        assert view.field("label").tolist() == [row.label for row in rows]
        assert view.field("note").tolist() == [row.note for row in rows]
    order = np.random.default_rng(len(rows)).permutation(len(rows))
    assert view[order].tobytes() == vectors[order].tobytes()
    check_keys(view, rows, KINDS[plan.ids])


def check_keys(view: zstore.View, rows: list[Row], ids: list[Any]) -> None:
    found, epochs = view.find(ids), list(range(4))
    table = view.find(ids, epoch=epochs)
    for at, item in enumerate(ids):
        mine = [row for row in rows if row.id == item]
        highest = max((row.epoch for row in mine), default=None)
        last = [n for n, row in enumerate(rows) if row.id == item and row.epoch == highest]
        assert found[at] == (last[-1] if last else -1) == view.find(item)
        if last:
            assert view.get(item).tobytes() == rows[last[-1]].vector.tobytes()
        for epoch in epochs:
            here = [n for n, row in enumerate(rows) if row.id == item and row.epoch == epoch]
            assert table[at, epoch] == (here[-1] if here else -1)
            if here:
                assert view.get(item, epoch=epoch).tobytes() == rows[here[-1]].vector.tobytes()
            else:
                with pytest.raises(zstore.ZStoreError):
                    view.get(item, epoch=epoch)


@pytest.mark.parametrize("kind", ["local", "memory"])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=plans)
def test_rows_are_those_of_the_model(kind: str, plan: Plan) -> None:
    with place(kind) as url, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)        # superseded keys, rows that a rollback cuts
        run = Run(url, plan)
        try:
            for what, argument in plan.steps:
                run.step(what, argument)
        finally:
            run.close()
        run.check()
        if run.made:
            assert zstore.verify(url) == []
            versions = [commit.version for commit in zstore.history(url)]
            assert versions == list(range(run.model.head + 1))
