"""A corpus of a hundred thousand real texts through ``zstore embed``, with all that befalls such a run; each step is checked.

    python -m benchmarks corpus                       WordNet's 147,306 entries, all-MiniLM-L6-v2: most of an hour on two cores
    python -m benchmarks corpus --texts 100000 --folder here      kept, and gone on with where it was stopped
    python -m benchmarks corpus --file docs.jsonl --texts 500     texts of your own: lines of {"id": "...", "text": "..."}

1. Monday: the run is ended by SIGKILL at random times until it ends by itself. Every text is there once, with its own words,
   and how many were computed twice is said.
2. Every vector is compared with that of ``SentenceTransformer.encode``, to 1e-6 in every component.
3. Tuesday: the source in another order, 300 documents new, 20 changed, 5 removed: 320 are embedded, and ``latest()`` is right.
4. Three documents become blank and one gets a lone surrogate: exit status 0, four in the ledger; mended, retry empties it.
5. Another model is refused, in one sentence that names both.
6. Two processes by mistake on one store: one is refused while the other works, every text once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import zstore
from benchmarks import dictionaries
from zstore.errors import StoreNotFound

Docs = dict[str, str]
NEW, CHANGED, REMOVED, BAD = 300, 20, 5, 4
OTHER = "hash:384"


class Corpus:
    """The documents, the store, and the command line as a user types it."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder, self.store = args, folder, folder / "docs.zarr"
        self.random = random.Random(args.seed)
        found = _read(args.file) if args.file else dictionaries.entries(args.name)
        if len(found) < args.texts + NEW:
            raise SystemExit(f"{len(found):,} texts are there, and {args.texts + NEW:,} are needed: --texts N")
        found = random.Random(0).sample(found, args.texts + NEW)
        self.docs: Docs = dict(found[:args.texts])
        self.spare: Docs = dict(found[args.texts:])

    def embed(self, source: Path, *more: str, model: str | None = None) -> subprocess.Popen[str]:
        words = ["embed", source, "--to", self.store, "--model", model or self.args.model, "--keep", "text", "--json", *more]
        return self.run(*map(str, words))

    def run(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-m", "zstore.cli.main", *words], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})

    def done(self, process: subprocess.Popen[str], status: int = 0) -> dict[str, Any]:
        """What a command printed as JSON, once it ended as it should."""
        out, err = process.communicate()
        assert process.returncode == status, f"exit status {process.returncode}, not {status}:\n{err}"
        return dict(json.loads(out)) if status == 0 else {"error": err}

    def write(self, docs: Docs, name: str) -> Path:
        """As JSON Lines, in an order of its own."""
        path, items = self.folder / name, list(docs.items())
        self.random.shuffle(items)
        path.write_text("".join(json.dumps({"id": identity, "text": text}) + "\n" for identity, text in items))
        return path

    def check(self, wanted: Docs, changed: int = 0) -> None:
        """The latest view has every document once, with its own text; older rows are those of changed texts."""
        with zstore.Reader(self.store) as reader:
            view = reader.latest()
            ids = view.ids.tolist()
            assert len(ids) == len(set(ids)) == len(wanted), f"{len(ids):,} rows of {len(wanted):,} documents"
            assert dict(zip(ids, view.field("text").tolist(), strict=True)) == wanted, "a row has another's text"
            assert len(reader) == len(wanted) + changed, f"{len(reader):,} rows in all"

    def monday(self) -> None:
        """Kill after kill, until a run ends by itself."""
        source, started, kills = self.write(self.docs, "docs.jsonl"), time.perf_counter(), 0
        metrics = self.folder / "metrics.jsonl"
        while True:
            process = self.embed(source, "--metrics", str(metrics))
            wait = self.random.uniform(*self.args.kill_after) if kills < self.args.kills else None
            try:
                process.wait(wait)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
                print(f"   killed after {wait:.0f} s: {self._rows():,} rows are there", flush=True)
                continue
            self.done(process)
            break
        seconds = time.perf_counter() - started
        self.check(self.docs)
        print(f"1. {len(self.docs):,} texts, each once, after {kills} kills: {seconds:,.0f} s; computed more than once, as far "
              f"as the metrics saw: {max(_embedded(metrics) - len(self.docs), 0):,}", flush=True)

    def compare(self) -> None:
        """Every vector beside that of the model's own ``encode``."""
        from benchmarks.embeddings import model
        ids = self.random.sample(sorted(self.docs), min(self.args.compare, len(self.docs)))
        started, worst = time.perf_counter(), 0.0
        with zstore.Reader(self.store) as reader:
            for at in range(0, len(ids), 8192):
                part = ids[at:at + 8192]
                theirs = model().encode([self.docs[identity] for identity in part], batch_size=8, show_progress_bar=False)
                worst = max(worst, float(np.abs(reader.get(part, epoch=0) - theirs).max()))
        assert worst < 1e-6, f"a component differs by {worst:.2e}"
        print(f"2. {len(ids):,} vectors are those of encode: no component differs by more than {worst:.1e} "
              f"({time.perf_counter() - started:,.0f} s)", flush=True)

    def tuesday(self) -> None:
        ids = self.random.sample(sorted(self.docs), CHANGED + REMOVED)
        for identity in ids[CHANGED:]:
            del self.docs[identity]
        for identity in ids[:CHANGED]:
            self.docs[identity] = f"Revised: {self.docs[identity]}"
        self.docs |= self.spare
        report = self.done(self.embed(self.write(self.docs, "tuesday.jsonl"), "--prune"))
        assert report["embedded"] == NEW + CHANGED and report["pruned"] == REMOVED, report
        assert report["skipped"] == len(self.docs) - NEW - CHANGED, report
        self.check(self.docs, CHANGED)
        print(f"3. Tuesday: {report['embedded']} embedded, {report['skipped']:,} skipped, {report['pruned']} hidden, "
              f"{report['seconds']:.0f} s", flush=True)

    def one_bad_file(self) -> None:
        ids = self.random.sample(sorted(self.docs), BAD)
        good = {identity: f"{self.docs[identity]} (mended)" for identity in ids}
        bad: Docs = dict(zip(ids, ("", "  ", "\n", "a \ud800 surrogate"), strict=True))
        source = self.write(self.docs | bad, "bad.jsonl")
        report = self.done(self.embed(source))
        assert (report["failed"], report["embedded"]) == (BAD, 0), report
        listed = self.done(self.run("failures", "ls", str(self.store), "--json"))["failures"]
        assert sorted(failure["id"] for failure in listed) == sorted(ids), listed
        self.docs |= good
        self.write(self.docs, "bad.jsonl")
        mended = self.done(self.run("failures", "retry", str(self.store), "--json"))
        assert (mended["mended"], mended["failed"]) == (BAD, 0), mended
        self.check(self.docs, CHANGED + BAD)
        print(f"4. {BAD} bad texts: exit status 0, {BAD} in the ledger ({', '.join(sorted({f['reason'] for f in listed}))}); "
              f"retry mended {mended['mended']}", flush=True)

    def wrong_model(self) -> None:
        said = self.done(self.embed(self.folder / "bad.jsonl", model=OTHER), status=2)["error"].strip()
        assert len(said.splitlines()) == 1 and self.args.model in said and OTHER in said, said
        self.check(self.docs, CHANGED + BAD)
        print(f"5. another model: {said}", flush=True)

    def two_at_once(self) -> None:
        """Both start with an empty store and the same source."""
        store, self.store = self.store, self.folder / "two.zarr"
        few = dict(list(self.docs.items())[:self.args.two])
        source = self.write(few, "few.jsonl")
        both = [self.embed(source), self.embed(source)]
        ended = [(*process.communicate(), process.returncode) for process in both]
        self.check(few)
        self.store = store
        refused = [err.strip().splitlines()[-1] for _, err, status in ended if status]
        assert len(refused) <= 1, ended
        late = "the second came when the first was done, and found nothing to do"
        print(f"6. two at once on {len(few):,} texts, each there once; {refused[0] if refused else late}", flush=True)

    def _rows(self) -> int:
        try:
            with zstore.Reader(self.store) as reader:
                return len(reader)
        except StoreNotFound:
            return 0


def _embedded(metrics: Path) -> int:
    """Vectors that all runs together made: figures of a run that starts anew start at 0."""
    total = last = 0
    for line in metrics.read_text().splitlines():
        try:
            now = int(json.loads(line)["embedded"])
        except ValueError:              # a kill in mid-line
            continue
        total, last = total + now - (last if now >= last else 0), now
    return total


def _read(path: Path) -> list[tuple[str, str]]:
    return [(str(item["id"]), str(item["text"])) for item in map(json.loads, path.read_text().splitlines())]


def main(argv: list[str]) -> int:
    """The exit status."""
    args = parser().parse_args(argv)
    with ExitStack() as stack:
        folder = args.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="corpus-")))
        folder.mkdir(parents=True, exist_ok=True)
        corpus = Corpus(args, folder)
        corpus.monday()
        if args.compare:
            corpus.compare()
        corpus.tuesday()
        corpus.one_bad_file()
        corpus.wrong_model()
        corpus.two_at_once()
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m benchmarks corpus", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--name", choices=dictionaries.NAMES, default="wn")
    made.add_argument("--file", type=Path, help="JSON Lines with id and text, instead of a dictionary")
    made.add_argument("--texts", type=int, default=147_000)
    made.add_argument("--model", default="all-MiniLM-L6-v2")
    made.add_argument("--kills", type=int, default=6)
    made.add_argument("--kill-after", type=float, nargs=2, default=(25.0, 120.0), metavar=("LEAST", "MOST"), help="seconds")
    made.add_argument("--compare", type=int, default=sys.maxsize, metavar="N", help="this many vectors instead of all")
    made.add_argument("--two", type=int, default=4000, help="texts of the two processes on one store")
    made.add_argument("--folder", type=Path, help="keep the work here, and go on with it")
    made.add_argument("--seed", type=int, default=None)
    return made
