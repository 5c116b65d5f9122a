"""The real code against a dict: whatever was opened, appended, committed, killed, taken over, rolled back, deleted and
collected, every version holds exactly the rows that it should, by every way in."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

import zstore
from zstore.errors import Conflict, NotFound, StaleWriter
from zstore.storage.local import LocalStorage
from zstore.storage.memory import MemoryStorage
from zstore.storage.remote import RemoteStorage

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

IDS, EPOCHS, FILL = range(8), range(3), -7
Labels = dict[int, int]         # row to label; a row is a number that is in its vector


@dataclass
class Version:
    """What one version should hold."""

    rows: frozenset[int] = frozenset()
    labels: Labels | None = None        # None: it has no such field


@dataclass
class Hand:
    """One writer, and what it holds that no record names."""

    writer: zstore.Writer
    shared: bool
    member: int
    pending: Labels = field(default_factory=dict)
    has_labels: bool = False
    appended: bool = False


class Machine(RuleBasedStateMachine):
    """One store's life. At most two members of one session live at once; fenced ones go on as zombies."""

    versions: list[Version]
    place = "memory"
    options: dict[str, Any] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp() if self.place == "local" else None
        self.url = {"memory": f"memory://{uuid.uuid4().hex}", "local": f"{self.folder}/run.zarr",
                    "s3": f"s3://bucket/{uuid.uuid4().hex}"}[self.place]
        self.versions, self.key_of, self.dead = [], dict[int, tuple[int, int]](), set[int]()
        self.living: list[Hand] = []
        self.zombies: list[Hand] = []
        self.reader: zstore.Reader | None = None
        self.pinned: tuple[Any, Any] | None = None
        self.number = self.launches = 0

    @initialize(strings=st.booleans(), codec=st.sampled_from(["raw", "lossless"]))
    def make(self, strings: bool, codec: str) -> None:
        self.strings = strings
        hand = Hand(self._writer(codec=codec, rows_per_shard=8), False, 0)
        self.living.append(hand)
        self._append(hand, [(0, 0)])
        self.versions.append(Version())         # its opening commit
        self.commit(0, None)

    def teardown(self) -> None:
        try:
            if self.versions:
                for version in range(len(self.versions)):
                    self.check(version)
                assert zstore.verify(self.url, storage_options=self.options) == []
        finally:
            for hand in (*self.living, *self.zombies):
                hand.writer._let_go()
            if self.reader is not None:
                self.reader.close()
            if self.folder is not None:     # what a killed writer had begun may still be written
                shutil.rmtree(self.folder, ignore_errors=True)
            elif self.place == "memory":
                with suppress(FileNotFoundError):
                    fsspec.filesystem("memory").rm(self.url.removeprefix("memory://"), recursive=True)

    # -- writers ------------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.living)
    @rule(shared=st.booleans(), back=st.none() | st.integers(0, 30))
    def opens(self, shared: bool, back: int | None) -> None:
        at = None if back is None else back % len(self.versions)
        self._open(shared, at, takeover=False)

    @precondition(lambda self: self.living)
    @rule(shared=st.booleans(), back=st.none() | st.integers(0, 30))
    def takes_over(self, shared: bool, back: int | None) -> None:
        at = None if back is None else back % len(self.versions)
        self.zombies, self.living = [*self.zombies, *self.living], []
        self._open(shared, at, takeover=True)

    @precondition(lambda self: self.living)
    @rule()
    def is_refused(self) -> None:
        for call in (self._writer, lambda: zstore.rollback(self.url, 0, storage_options=self.options)):
            with pytest.raises(Conflict, match="is being written by"):
                call()

    @precondition(lambda self: len(self.living) == 1 and self.living[0].shared)
    @rule()
    def joins(self) -> None:
        member = 1 - self.living[0].member
        hand = Hand(self._writer(session=f"launch {self.launches}", member=member), True, member)
        hand.has_labels = self.living[0].has_labels
        self.living.append(hand)

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 1), keys=st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(EPOCHS)), max_size=7))
    def append(self, which: int, keys: list[tuple[int, int]]) -> None:
        self._append(self._hand(which), keys)

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 1), meta=st.none() | st.just({"step": 1}))
    def commit(self, which: int, meta: Any) -> None:
        hand = self._hand(which)
        new = bool(hand.pending) or meta is not None
        commit = hand.writer.commit(meta=meta)
        if new:
            self._named(hand)
        assert commit is not None and commit.version == len(self.versions) - 1
        assert commit.rows == len(self.versions[-1].rows)

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 1), error=st.booleans())
    def closes(self, which: int, error: bool) -> None:
        """Also by an exception: what was appended before it is committed."""
        hand = self._hand(which)
        new = bool(hand.pending)
        if error:
            with pytest.raises(KeyError), hand.writer:
                raise KeyError
        else:
            hand.writer.close()
        self.living.remove(hand)
        head = self._head()
        if new:
            self._named(hand)
        elif head == len(self.versions):        # a record of its own hands the tail over
            self.versions.append(self.versions[-1])
        assert head == len(self.versions) - 1

    @precondition(lambda self: self.living)
    @rule(which=st.integers(0, 1))
    def is_killed(self, which: int) -> None:
        hand = self._hand(which)
        hand.writer._let_go()
        self.living.remove(hand)

    @precondition(lambda self: self.zombies)
    @rule(which=st.integers(0, 9), count=st.integers(0, 20), close=st.booleans())
    def zombie_wakes(self, which: int, count: int, close: bool) -> None:
        hand = self.zombies[which % len(self.zombies)]
        with pytest.raises(StaleWriter):        # by the append itself, where the background was faster
            self._append(hand, [(number % len(IDS), 0) for number in range(count)])
            (hand.writer.close if close else hand.writer.commit)()
        if close:
            hand.writer._let_go()
            self.zombies.remove(hand)

    @precondition(lambda self: len(self.living) == 1)
    @rule(back=st.integers(0, 30))
    def loads(self, back: int) -> None:
        hand, version = self.living[0], back % len(self.versions)
        mark = zstore.history(self.url, storage_options=self.options)[version].mark
        if hand.shared or hand.appended:
            with pytest.raises((Conflict, ValueError)):
                hand.writer.load_state_dict(mark)
            return
        hand.writer.load_state_dict(mark)
        self._rolled_back(version)
        hand.has_labels = self.versions[-1].labels is not None

    @precondition(lambda self: len(self.living) == 1 and not self.living[0].shared and self.versions[-1].labels is None)
    @rule(factor=st.integers(1, 9))
    def adds_a_field(self, factor: int) -> None:
        hand = self.living[0]
        if hand.has_labels:
            return
        self.commit(0, None)
        if not self.versions[-1].rows:
            return
        with zstore.Reader(self.url, storage_options=self.options) as reader:
            rows = np.asarray(reader.vectors)[:, 0].astype(np.int64)
        hand.writer.add_field("label", rows * factor, fill=FILL)
        self.versions.append(Version(self.versions[-1].rows, {row: row * factor for row in rows.tolist()}))
        hand.has_labels = True

    # -- between sessions -------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.living)
    @rule(back=st.integers(0, 30))
    def rolls_back(self, back: int) -> None:
        version = back % len(self.versions)
        zstore.rollback(self.url, version, storage_options=self.options)
        self._rolled_back(version)

    @precondition(lambda self: not self.living)
    @rule(ids=st.sets(st.sampled_from(IDS), min_size=1, max_size=2), epoch=st.none() | st.sampled_from(EPOCHS))
    def deletes(self, ids: set[int], epoch: int | None) -> None:
        zstore.delete(self.url, self._ids(sorted(ids)), epoch=epoch, storage_options=self.options)
        self.dead |= {row for version in self.versions for row in version.rows
                      if self.key_of[row][0] in ids and epoch in (None, self.key_of[row][1])}
        self._rolled_back(len(self.versions) - 1)

    @rule()
    def collects(self) -> None:
        zstore.gc(self.url, storage_options=self.options)

    @precondition(lambda self: self.place != "s3")
    @rule()
    def compacts(self) -> None:
        place = self.url + "-compact"
        zstore.compact(self.url, place)
        with zstore.Reader(place) as reader:
            winners = self._winners(self.versions[-1]).values()
            assert sorted(np.asarray(reader.vectors)[:, 0].tolist()) == sorted(winners)
        if self.place == "local":
            shutil.rmtree(place)
        else:
            fsspec.filesystem("memory").rm(place.removeprefix("memory://"), recursive=True)

    # -- readers ------------------------------------------------------------------------------------------------------

    @rule(back=st.integers(0, 30))
    def reads(self, back: int) -> None:
        self.check(back % len(self.versions))

    @rule()
    def refreshes(self) -> None:
        """A reader that stays open: its version is pinned until it moves, and arrays that it gave stay as they are."""
        if self.reader is None:
            self.reader = zstore.Reader(self.url, storage_options=self.options)
        self.reader.refresh()
        assert self.reader.version == len(self.versions) - 1
        if self.pinned is not None:
            assert (self.pinned[0] == self.pinned[1]).all()
        self._check(self.reader, self.versions[-1])
        given = self.reader.vectors
        self.pinned = given, np.array(given)

    @invariant()
    def head_is_as_told(self) -> None:
        if self.versions:
            assert self._head() == len(self.versions) - 1

    def check(self, version: int) -> None:
        with zstore.Reader(self.url, version=version, storage_options=self.options) as reader:
            self._check(reader, self.versions[version])

    def _check(self, reader: zstore.Reader, version: Version) -> None:
        vectors = np.asarray(reader.vectors)
        rows: list[int] = vectors[:, 0].astype(int).tolist()
        assert sorted(rows) == sorted(version.rows)
        assert vectors.tolist() == [[row, -row] for row in rows]
        assert reader.ids.tolist() == self._ids([self.key_of[row][0] for row in rows])
        assert reader.field("epoch").tolist() == [self.key_of[row][1] for row in rows]
        winners = self._winners(version)
        found = reader.find(self._ids(list(IDS)), epoch=list(EPOCHS)).ravel().tolist()
        assert [rows[at] if at >= 0 else None for at in found] == [winners.get((i, e)) for i in IDS for e in EPOCHS]
        latest = {i: max(e for j, e in winners if j == i) for i, _ in winners}
        there = sorted(latest)
        if there:
            got = reader.get(self._ids(there))
            assert got[:, 0].tolist() == [winners[i, latest[i]] for i in there]
        assert sorted(reader.latest().vectors[:, 0].tolist()) == sorted(winners[key] for key in latest.items())
        assert reader.epochs.tolist() == sorted({e for _, e in winners})
        if version.labels is None:
            with pytest.raises(NotFound):
                reader.field("label")
        else:
            assert reader.field("label").tolist() == [version.labels[row] for row in rows]

    # -- the rest ---------------------------------------------------------------------------------------------------------

    def _writer(self, **how: Any) -> zstore.Writer:
        return zstore.Writer(self.url, commit_every_s=None, storage_options=self.options, **how)

    def _open(self, shared: bool, at: int | None, takeover: bool) -> None:
        self.launches += 1
        hand = Hand(self._writer(session=f"launch {self.launches}" if shared else None, at=at, takeover=takeover), shared, 0)
        self.living.append(hand)
        self._rolled_back(len(self.versions) - 1 if at is None else at)
        hand.has_labels = self.versions[-1].labels is not None

    def _rolled_back(self, version: int) -> None:
        target = self.versions[version]
        rows = target.rows - self.dead
        self.versions.append(Version(rows, None if target.labels is None else {row: target.labels[row] for row in rows}))

    def _append(self, hand: Hand, keys: list[tuple[int, int]]) -> None:
        # Of two rows of one key, that two members of a session appended, which counts is arbitrary: they share no id.
        keys = [(i // 2 * 2 + hand.member, e) if hand.shared else (i, e) for i, e in keys]
        if not keys:
            return
        rows = list(range(self.number, self.number + len(keys)))
        self.number += len(keys)
        more = {"label": np.array(rows) * 3} if hand.has_labels and keys[0][1] else {}
        vectors = np.array([[row, -row] for row in rows], np.float32)
        hand.writer.append(self._ids([i for i, _ in keys]), vectors, epoch=[e for _, e in keys], **more)
        self.key_of.update(zip(rows, keys, strict=True))
        hand.pending.update({row: row * 3 if more else FILL for row in rows})
        hand.appended = True

    def _named(self, hand: Hand) -> None:
        head = self.versions[-1]
        self.versions.append(Version(head.rows | hand.pending.keys(),
                                     None if head.labels is None else head.labels | hand.pending))
        hand.pending = {}

    def _hand(self, which: int) -> Hand:
        return self.living[which % len(self.living)]

    def _winners(self, version: Version) -> dict[tuple[int, int], int]:
        return {self.key_of[row]: row for row in sorted(version.rows)}

    def _ids(self, ids: list[int]) -> list[Any]:
        return [f"doc-{i}" for i in ids] if self.strings else ids

    def _head(self) -> int:
        return int(zstore.history(self.url, storage_options=self.options)[-1].version)


def play(place: str, examples: int, steps: int, *, same: bool, options: dict[str, Any] | None = None) -> None:
    machine = type("Machine", (Machine,), {"place": place, "options": options})
    run_state_machine_as_test(machine, settings=settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=same, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck)))


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch, many_writers: None) -> Iterator[None]:
    """Who is refused is refused at once."""
    for storage in (LocalStorage, MemoryStorage, RemoteStorage):
        monkeypatch.setattr(storage, "patience_s", 0.02)
    yield


@pytest.mark.parametrize("place", ["memory", "local"])
def test_a_life_of_a_store(place: str) -> None:
    play(place, 12, 25, same=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("place", ["memory", "local"])
def test_many_lives_of_a_store(place: str) -> None:
    play(place, 400 if place == "memory" else 100, 60, same=False)


def test_a_life_of_a_store_on_s3(s3: Any) -> None:
    play("s3", 2, 6, same=True, options=s3.options)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_lives_of_a_store_on_s3(s3: Any) -> None:
    play("s3", 40, 30, same=False, options=s3.options)
