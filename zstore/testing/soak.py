"""Writers, readers, refreshes, rollbacks, deletions, collections, compactions and kills together, for as long as asked.

    python -m zstore.testing.soak [--seconds 60] [--seed 0] [--dir FOLDER]

A life is a shared session of three processes and of this one, all appending and committing; after a while some are killed,
stopped, or left to end. Then every row is held against what was acknowledged, the store is verified, and something is done to
it: a rollback, a deletion, a collection, a compaction to which the next life moves on. A thread reads and refreshes all the
while. Printed at the end: rows written, faults survived, rows lost (0), and what this process held at a third and at the end:
memory, descriptors, mappings, threads. Exit 1 where a row is lost or wrong, or one of the four has grown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import zstore
from zstore.errors import Conflict, StaleWriter

Keys = set[tuple[int, int]]
DIM, BATCH, MEMBERS = 8, 7, 3
MORE_MEMORY, MORE_DESCRIPTORS, MORE_MAPPINGS, MORE_THREADS = 96 * 2**20, 16, 400, 4


def vectors_of(ids: Any, epoch: Any) -> Any:
    """The one right vector of every key, (n, DIM) float32."""
    base = np.asarray(ids, np.float64) * 1.25 + np.asarray(epoch, np.float64) / 8
    return (base[:, None] + np.arange(DIM)).astype(np.float32)


def write(url: str, token: str, takeover: bool, member: int, first: int, epoch: int, ledger: str, until: float) -> None:
    """One member: append, commit, and note what was acknowledged only then."""
    rng, at = random.Random(first), first
    with open(ledger, "a", buffering=1) as book, zstore.Writer(url, session=token, member=member, takeover=takeover,
                                                               rows_per_shard=64, codec="lossless",
                                                               commit_every_s=0.2) as writer:
        while time.monotonic() < until:
            begin, end = at, at + BATCH * rng.randint(1, 6)
            book.write(json.dumps([begin, end, "appended"]) + "\n")
            for at in range(begin, end, BATCH):
                ids = np.arange(at, at + BATCH)
                writer.append(ids, vectors_of(ids, np.full(BATCH, epoch)), epoch=epoch)
            writer.commit()
            book.write(json.dumps([begin, end, "acknowledged"]) + "\n")
            at = end
            time.sleep(rng.random() * 0.02)


class Soak:
    """The store as it should be, and the lives that it goes through."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng = folder, random.Random(seed)
        self.url = str(folder / "0.zarr")
        self.keys: Keys = set()                     # head's, as checked last
        self.versions: dict[int, Keys] = {}         # some versions that were checked, to roll back to
        self.counts: Counter[str] = Counter()
        self.next_id = self.lives = 0
        self.zombies: list[subprocess.Popen[bytes]] = []        # stopped in the life before, and not yet awake

    def life(self, seconds: float) -> None:
        """A session, its faults, the check of every row, and one thing done to the store."""
        self.lives += 1
        token, ledger, until = f"life-{self.lives}", self.folder / f"ledger-{self.lives}", time.monotonic() + seconds
        firsts = [self.next_id + 10**6 * member for member in range(MEMBERS + 1)]
        self.next_id += 10**6 * (MEMBERS + 1)
        epoch = self.rng.randint(0, 3)
        # Only this process takes over: a child that is stopped before it has opened must not do so when it wakes up.
        calls = [json.dumps([self.url, token, m == 0, m, firsts[m], epoch, str(ledger), until])
                 for m in range(MEMBERS + 1)]
        old, self.zombies = self.zombies, []
        children = [subprocess.Popen([sys.executable, "-m", "zstore.testing.soak", "--member", call],
                                     stderr=subprocess.DEVNULL) for call in calls[1:]]
        try:
            with self.reading():
                self.harm(children, old, calls[0], seconds)
        finally:
            self.end([child for child in [*children, *old] if child not in self.zombies])
        self.check(ledger, epoch)
        ledger.unlink()
        self.change()

    def end(self, children: list[subprocess.Popen[bytes]]) -> None:
        """Kill those that are left, and wait."""
        for child in children:
            child.kill()
            child.wait()

    def harm(self, children: list[subprocess.Popen[bytes]], old: list[subprocess.Popen[bytes]], own: str,
             seconds: float) -> None:
        """Take part in the session, while some of the others are killed or stopped, and old ones wake up."""
        def part() -> None:
            for child in children:
                time.sleep(self.rng.random() * seconds / 2)
                what = self.rng.choice(["kill", "kill", "stop", "nothing"])
                self.counts[what] += 1
                if what == "kill":
                    child.kill()
                elif what == "stop":
                    child.send_signal(signal.SIGSTOP)
                    self.zombies.append(child)
                for zombie in old:
                    zombie.send_signal(signal.SIGCONT)
        thread = threading.Thread(target=part)
        thread.start()
        try:
            write(*json.loads(own))
        finally:
            thread.join()
        for child in children:
            if child not in self.zombies:
                child.wait(60)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A thread that refreshes one reader and looks at random rows."""
        ended, wrong = threading.Event(), []

        def look() -> None:
            rng, reader = np.random.default_rng(self.lives), None
            try:
                while not ended.is_set():
                    try:
                        reader = reader or zstore.Reader(self.url)
                    except FileNotFoundError:
                        time.sleep(0.01)
                        continue
                    reader.refresh()
                    if len(reader):
                        rows = rng.integers(0, len(reader), 200)
                        part = reader.select(np.unique(rows))
                        assert np.array_equal(part.vectors, vectors_of(part.ids, part.field("epoch")))
                        self.counts["rows read"] += len(part)
                    self.counts["refreshes"] += 1
            except BaseException as error:
                wrong.append(error)
            finally:
                if reader is not None:
                    reader.close()
        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        if wrong:
            raise wrong[0]

    def check(self, ledger: Path, epoch: int) -> None:
        """Every acknowledged row is there with its vector, once; no other but such as were appended."""
        acknowledged: Keys = set()
        appended: Keys = set()
        for line in ledger.read_text().splitlines():
            begin, end, word = json.loads(line)
            (acknowledged if word == "acknowledged" else appended).update((i, epoch) for i in range(begin, end))
        with zstore.Reader(self.url) as reader:
            ids, epochs = reader.ids, reader.field("epoch")
            found = set(zip(ids.tolist(), epochs.tolist(), strict=True))
            lost = (self.keys | acknowledged) - found
            strange = found - self.keys - appended
            self.counts["rows lost"] += len(lost)
            self.counts["rows doubled"] += len(ids) - len(found)
            self.counts["rows invented"] += len(strange)
            assert np.array_equal(reader.vectors, vectors_of(ids, epochs)), "a vector is wrong"
            self.counts["rows written"] += len(found - self.keys)
            self.keys = found
            self.versions[reader.version] = found
        findings = zstore.verify(self.url)
        assert not findings, findings[:3]
        assert not lost and not strange and len(ids) == len(found), f"{len(lost)} lost, {len(strange)} invented"

    def change(self) -> None:
        """One thing that a person does to a store between two sessions."""
        what = self.rng.choice(["nothing", "gc", "rollback", "delete", "compact"])
        if len(self.keys) > 60_000:
            what = "compact"
        try:
            getattr(self, f"do_{what}")()
            self.counts[what] += 1
        except Conflict:
            self.counts["refused: somebody lives"] += 1

    def do_nothing(self) -> None:
        pass

    def do_gc(self) -> None:
        self.counts["objects collected"] += len(zstore.gc(self.url))

    def do_rollback(self) -> None:
        version = self.rng.choice(list(self.versions))
        zstore.rollback(self.url, version)
        self.keys = self.versions[version]

    def do_delete(self) -> None:
        gone = self.rng.sample(sorted({i for i, _ in self.keys}), min(50, len(self.keys)) // 2)
        if not gone:
            return
        zstore.delete(self.url, gone)
        dead = set(gone)
        self.keys = {key for key in self.keys if key[0] not in dead}
        self.versions = {v: {key for key in keys if key[0] not in dead} for v, keys in self.versions.items()}

    def do_compact(self) -> None:
        self.end(self.zombies)          # the place that they write to goes
        self.zombies = []
        fresh = str(self.folder / f"{self.lives}.zarr")
        zstore.compact(self.url, fresh, order=self.rng.choice([None, "epoch", "id"]))
        shutil.rmtree(self.url)
        self.url, self.versions = fresh, {}


def held() -> dict[str, int]:
    """What this process holds now."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {"memory": int(status["VmRSS"].split()[0]) * 1024, "descriptors": len(os.listdir("/proc/self/fd")),
            "mappings": Path("/proc/self/maps").read_text().count("\n"), "threads": threading.active_count()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", default=None)
    parser.add_argument("--member", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.member:
        try:
            write(*json.loads(args.member))
        except (StaleWriter, Conflict) as error:        # it was stopped, and the session is over
            print(f"member: {error}", file=sys.stderr)
        return 0
    folder, begin, early = Path(tempfile.mkdtemp(prefix="zstore-soak-", dir=args.dir)), time.monotonic(), None
    soak = Soak(folder, args.seed)
    try:
        while time.monotonic() < begin + args.seconds:
            soak.life(soak.rng.uniform(1.0, 2.5))
            if early is None and time.monotonic() > begin + args.seconds / 3:
                early = held()
    finally:
        soak.end(soak.zombies)
        shutil.rmtree(folder, ignore_errors=True)
    early, late = early or held(), held()
    faults, seconds = soak.counts["kill"] + soak.counts["stop"], time.monotonic() - begin
    print(f"{soak.lives} lives in {seconds:.0f} s: {soak.counts['rows written']:,} rows written, {faults} faults survived, "
          f"{soak.counts['rows lost']} rows lost")
    print(", ".join(f"{count:,} {what}" for what, count in sorted(soak.counts.items())))
    for what, bound in (("memory", MORE_MEMORY), ("descriptors", MORE_DESCRIPTORS), ("mappings", MORE_MAPPINGS),
                        ("threads", MORE_THREADS)):
        print(f"{what}: {early[what]:,} at a third, {late[what]:,} at the end")
        if late[what] > early[what] + bound:
            print(f"{what} has grown by more than {bound:,}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
