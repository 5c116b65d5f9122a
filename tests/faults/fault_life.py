"""A scripted life of a store, told to any storage; and what must be true of it, whatever fails on the way.

The life is its own model: it knows the rows that every acknowledged commit must hold. A step that raises is judged (one
error, which names an object of the store), then done again by the same writer, as a training loop would.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import zstore
from zstore.errors import AlreadyExists, InDoubt, NotFound, StaleWriter, ZStoreError

DIM = 6
SHARD = 32
TRIES = 4           # a fault that lasts is healed after its first error; a second may have been under way


def vectors_of(numbers: list[int]) -> Any:
    """Every row's vector, by the row's number: bits that look like no other row's."""
    bits = (np.arange(DIM, dtype=np.uint64)[None, :] + np.array(numbers, np.uint64)[:, None] * DIM) * np.uint64(2654435761)
    return (bits % np.uint64(1 << 24)).astype(np.float32)


class Life:
    """One store from its creation to its last commit."""

    def __init__(self, url: str, codec: str = "lossless", options: dict[str, Any] | None = None,
                 heal: Callable[[], None] = lambda: None, tries: int = TRIES) -> None:
        self.url, self.codec, self.options, self._heal = url, codec, options, heal
        self._tries = tries
        self.errors: list[BaseException] = []
        self.rows: list[int] = []           # what head must hold
        self.pending: list[int] = []        # taken, and not acknowledged
        self.versions: dict[int, list[int]] = {}
        self.tags: dict[str, int] = {}
        self.has_loss = False
        self._next = 0
        self._back_to: list[int] | None = None      # while a rollback is under way
        self._writer: zstore.Writer | None = None

    # -- the script

    def live(self, *chapters: str) -> None:
        """All of it, or these chapters. Warnings (a projection that failed) are no errors here; the last visit brings it to
        head."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for chapter in chapters or ("first_days", "resume", "late_column"):
                getattr(self, chapter)()
            self.close()
            self._heal()
            self.last_visit()

    def first_days(self) -> None:
        self.append(20)
        self.commit()
        self.append(7)
        self.append(45)             # rolls over
        self.commit(tag="first")
        self.append(5)
        self.close()                # hands a tail over
        self.look()

    def a_day(self) -> None:
        """The shortest that has one of everything but a rollback and a late column."""
        self.append(20)
        self.commit()
        self.append(22)             # writes the tail again, full, and rolls over
        self.commit(tag="first")
        self.close()                # hands a tail over
        self.append(9)              # continues it

    def resume(self) -> None:
        self.append(9)              # continues the tail
        mark = self.mark()
        kept = list(self.rows)
        self.append(30)
        self.commit()
        self.close()
        self.roll_back(mark, kept)
        self.append(11)
        self.commit()

    def late_column(self) -> None:
        self.add_loss()
        self.append(8)
        self.commit(tag="late")
        self.append(40)
        self.close()
        self.look()

    def last_visit(self) -> None:
        self.append(3)
        self.close()

    # -- the steps

    def append(self, count: int) -> None:
        numbers = list(range(self._next, self._next + count))
        self._next += count
        self._take(numbers)

    def commit(self, tag: str | None = None) -> None:
        def act() -> None:
            commit = self.writer().commit(tag=tag)
            assert commit is not None
            self._acknowledge(commit.version)
            if tag is not None:
                self.tags[tag] = commit.version
        try:
            self._step(act)
        except AlreadyExists:               # the tag is there since the try that failed: the rows are committed
            assert tag is not None and self.errors
            with zstore.Reader(self.url, tag=tag, storage_options=self.options) as reader:
                self.tags[tag] = reader.version
            self.commit()

    def mark(self) -> Any:
        def act() -> Any:
            mark = self.writer().state_dict()
            assert mark is not None
            self._acknowledge(mark["version"])
            return mark
        return self._step(act)

    def close(self) -> None:
        writer = self._writer
        if writer is None:
            return
        pending = list(self.pending)
        try:
            writer.close()
        except (OSError, ZStoreError) as error:
            self._judge(error)
            assert writer._closed
            if self._after_death(error):
                self.close()
            return
        self._writer = None
        self.rows, self.pending = self.rows + pending, []

    def roll_back(self, mark: Any, kept: list[int]) -> None:
        self._back_to = kept
        self._step(lambda: self.writer().load_state_dict(mark))
        self.rows, self._back_to = kept, None

    def add_loss(self) -> None:
        def act() -> None:
            with zstore.Reader(self.url, storage_options=self.options) as reader:
                if loss_of(reader) is not None:         # the try that failed had done it
                    return
            self._acknowledge(self.writer().add_field("loss", self._loss(self.rows + self.pending)).version)
        self._step(act)
        self.has_loss = True

    def look(self) -> None:
        """A reader at head, while faults may strike: an error that names an object, or the very rows."""
        def act() -> None:
            with zstore.Reader(self.url, storage_options=self.options) as reader:
                self._compare(reader, self.rows)
        self._step(act)

    def writer(self) -> zstore.Writer:
        if self._writer is None:
            known = {"codec": self.codec, "rows_per_shard": SHARD}
            self._writer = zstore.Writer(self.url, commit_every_s=None, storage_options=self.options, **known)
        return self._writer

    # -- what must hold

    def check(self, url: str = "") -> None:
        """After the last visit, with nothing failing any more; of the store, or of a copy at another place."""
        url, options = url or self.url, None if url else self.options
        assert not self.pending
        assert zstore.verify(url, storage_options=options) == []
        with zstore.Reader(url, storage_options=options) as reader:
            self._compare(reader, self.rows)
            last = reader.version
        for version in range(last + 1):
            with zstore.Reader(url, version=version, storage_options=options) as reader:
                if version in self.versions:
                    self._compare(reader, self.versions[version])
                else:                       # an opening, or a commit whose reply was lost: nothing but rows that were taken
                    self._compare(reader, [int(name[1:]) for name in reader.ids.tolist()])
                    assert set(reader.ids.tolist()) <= {f"r{number}" for number in range(self._next)}
        for tag, version in self.tags.items():
            with zstore.Reader(url, tag=tag, storage_options=options) as reader:
                assert reader.version == version

    def _compare(self, reader: Any, numbers: list[int]) -> None:
        assert reader.ids.tolist() == [f"r{number}" for number in numbers]
        assert reader.field("epoch").tolist() == [number % 3 for number in numbers]
        assert reader.vectors.tobytes() == vectors_of(numbers).tobytes()
        loss = loss_of(reader)
        assert loss is None or loss.tobytes() == self._loss(numbers).tobytes()
        if numbers:
            number = numbers[len(numbers) // 2]
            assert reader.get(f"r{number}", epoch=number % 3).tobytes() == vectors_of([number]).tobytes()

    @staticmethod
    def _loss(numbers: list[int]) -> Any:
        return np.array(numbers, np.float32) / 7

    # -- how a step goes wrong

    def _step(self, act: Callable[[], Any]) -> Any:
        for _ in range(self._tries):
            try:
                return act()
            except AlreadyExists:
                raise
            except (OSError, ZStoreError) as error:
                self._judge(error)
                if isinstance(error, (InDoubt, StaleWriter)):
                    self._after_death(error)
        raise AssertionError(f"still failing, with nothing wrong any more: {self.errors}") from self.errors[-1]

    def _judge(self, error: BaseException) -> None:
        self.errors.append(error)
        self._heal()
        text = f"{error} {getattr(error, 'filename', '')} {getattr(error, 'filename2', '')}"
        place = self.url.split("://")[-1]
        above = os.path.dirname(place) if "://" not in self.url else place      # of a store that is being made
        assert place in text or above in text or "_zstore/" in text or "zarr.json" in text, f"{error!r} names nothing"

    def _take(self, numbers: list[int]) -> None:
        ids = [f"r{number}" for number in numbers]
        epochs = [number % 3 for number in numbers]
        loss = {"loss": self._loss(numbers)} if self.has_loss else {}
        self._step(lambda: self.writer().append(ids, vectors_of(numbers), epoch=epochs, **loss))
        self.pending += numbers

    def _acknowledge(self, version: int) -> None:
        self.rows, self.pending = self.rows + self.pending, []
        self.versions[version] = list(self.rows)

    def _after_death(self, error: BaseException) -> bool:
        """The writer is gone. Its last commit is there wholly, or not at all; then its rows are appended again (True)."""
        if self._writer is not None and not self._writer._closed:
            try:
                self._writer.close()
            except type(error):
                pass
        self._writer = None
        pending, self.pending = self.pending, []
        if not zstore_is_there(self.url, self.options):
            assert not self.rows
            held: list[int] = []
        else:
            with zstore.Reader(self.url, storage_options=self.options) as reader:
                held = [int(name[1:]) for name in reader.ids.tolist()]
        if isinstance(error, InDoubt) and (held == self.rows + pending or held == self._back_to):
            self.rows = held
            return False
        assert held == self.rows, f"after {error!r}"
        if pending:
            self._take(pending)
        return bool(pending)


def loss_of(reader: Any) -> Any:
    """The field that was added late; None in a version that does not have it."""
    try:
        return reader.field("loss")
    except NotFound:
        return None


def zstore_is_there(url: str, options: dict[str, Any] | None) -> bool:
    try:
        zstore.Reader(url, storage_options=options).close()
    except FileNotFoundError:
        return False
    return True
