"""What a run would cost, from a sample of what it would embed: nothing is stored."""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from zstore.embed import provenance
from zstore.embed.engine import BUDGET, vectors
from zstore.embed.opening import reader_of
from zstore.embed.progress import count_of, memory
from zstore.embed.resume import Resume
from zstore.embed.run import Run, embed
from zstore.embed.types import Encoder, Failure

SAMPLE = 512
BUDGETS = (2048, 8192, 32768)
_LOOKED_AT = 100_000            # items of the source, at most, among which texts without a vector are looked for
_PART = 256
_ROUNDS = 2                     # of which the better counts: other programs only ever make it slower
_CLEARLY = 1.05                 # times as fast as the model's own budget: less may be chance
_ROW_BYTES = 8 + 4 + 24         # the hash of the text, the epoch, and the key's place in the index, besides vector and id


@dataclass
class _Looked:
    """What the first items of the source need."""

    texts: list[str]
    seen: int = 0
    there: int = 0              # in the store, as they are
    rows: int = 0               # to be written
    changed: int = 0            # of these, rows that replace one
    id_bytes: int = 0
    ended: bool = False
    why: str = ""               # the first failure

    @property
    def failed(self) -> int:
        return self.seen - self.there - self.rows


def dry_run(source: Any, to: str | os.PathLike[str], *, sample: int = SAMPLE, budgets: Sequence[int] = BUDGETS,
            **options: Any) -> dict[str, Any]:
    """Embed the first ``sample`` texts that lack a vector, with each budget and the model's own and the one that is asked for,
    and tell what the whole would take. ``options`` are those of ``embed``, which raise what they raise there.

    ``seen`` items were looked at, of which ``there`` are in the store and ``failed`` can't be embedded; ``sample`` texts were
    timed. ``total`` items (None where the source can't be counted), of which about ``todo`` need the model. ``budgets``:
    docs_per_s, tokens_per_s, padding and memory_bytes (of this process, at most) of each; ``own`` is the model's, ``best``
    another one if it is clearly faster; ``hours`` with the budget that is asked for or else the best, and ``bytes`` on disk
    before compression (None without a total). Raises ValueError where no item can be embedded."""
    options = {name: value for name, value in options.items() if value is not None}
    run = Run(source, to, **{**_defaults(), **options, "writer": {}, "progress": None, "metrics": None})
    encoder, limit = run._encoder, options.get("limit")
    looked, live = _look(run, sample, limit, options.get("storage_options"))
    if not looked.seen:
        raise ValueError("the source holds no items")
    if not looked.rows and not looked.there:
        raise ValueError(f"none of the first {looked.seen:,} items of the source is a text that can be embedded: {looked.why}")
    own, asked = int(getattr(encoder, "budget", BUDGET)), options.get("budget")
    found = _tried(encoder, looked.texts[:sample], sorted({*budgets, own, asked or own}), run._engine[0], run._engine[2])
    best = own
    if found:
        fastest = max(found, key=lambda budget: float(found[budget]["docs_per_s"]))
        best = fastest if found[fastest]["docs_per_s"] >= _CLEARLY * found[own]["docs_per_s"] else own
    total = looked.seen if looked.ended else None if options.get("passages") else count_of(source)
    total = total if total is None or limit is None else min(total, limit)
    todo = rows = None
    if total is not None:       # what the store holds and did not come yet comes among the rest
        rest = max(total - looked.seen, 0)
        rest -= min(max(live - looked.there - looked.changed, 0), rest)
        fresh = max(looked.seen - looked.there, 1)
        todo, rows = (round(part + rest * part / fresh) for part in (len(looked.texts), looked.rows))
    row = encoder.dim * _itemsize(encoder.dtype) + _ROW_BYTES + looked.id_bytes // max(looked.rows, 1)
    used = found.get(asked or best, {})
    return {"sample": len(looked.texts[:sample]), "seen": looked.seen, "there": looked.there, "failed": looked.failed,
            "total": total, "todo": todo, "budgets": found, "own": own, "best": best,
            "hours": None if todo is None else todo / float(used["docs_per_s"]) / 3600 if used else 0.0,
            "bytes": None if rows is None else rows * row, "bytes_per_row": row,
            "memory_bytes": int(used.get("memory_bytes", 0)) or memory()}


def _defaults() -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(embed).parameters.items()
            if parameter.default is not parameter.empty}


def _look(run: Run, sample: int, limit: int | None, storage_options: Any) -> tuple[_Looked, int]:
    """Also how many ids the store holds."""
    reader = reader_of(run.url, storage_options)
    resume, looked = Resume(reader, run._epoch, provenance.key(run._made), run._columns), _Looked([])
    items = run._items if limit is None else islice(run._items, limit)
    try:
        while not looked.ended and len(looked.texts) < sample and looked.seen < _LOOKED_AT:
            part = list(islice(items, _PART))
            found = resume.sort(part)
            jobs = [job for job, _ in (*found.texts, *found.copies)]
            looked.texts += [text for _, text in found.texts]
            looked.seen += len(part)
            looked.there += found.skipped
            looked.rows += len(jobs)
            looked.changed += sum(job.changed for job in jobs)
            looked.id_bytes += sum(len(str(job.id)) for job in jobs)
            looked.why = looked.why or next((f"{failure.place}: {failure.reason}" for failure in found.failures), "")
            looked.ended = len(part) < _PART
        live = resume.live()
        return looked, 0 if live is None else len(live)
    finally:
        if reader is not None:
            reader.close()


def _tried(encoder: Encoder, texts: list[str], budgets: list[int], window: int, exact: bool) -> dict[int, dict[str, float]]:
    """The figures of each budget, from the smallest on: memory that one took may stay with the process."""
    if not texts:
        return {}
    _timed(encoder, texts[:64], budgets[0], window, exact)      # the first batches of a model are slow
    found: dict[int, dict[str, float]] = {}
    for budget in budgets * _ROUNDS:
        new = _timed(encoder, texts, budget, window, exact)
        old = found.get(budget, new)
        found[budget] = {**max(old, new, key=lambda one: one["docs_per_s"]), "memory_bytes": old["memory_bytes"]}
    return found


def _timed(encoder: Encoder, texts: list[str], budget: int, window: int, exact: bool) -> dict[str, float]:
    tokens = padded = done = 0
    with closing(_Peak()) as peak:
        start = time.perf_counter()
        for result in vectors(iter(enumerate(texts)), encoder, window=window, budget=budget, exact=exact):
            if not isinstance(result, Failure):
                keys, _, stats = result
                done, tokens, padded = done + len(keys), tokens + stats.tokens, padded + stats.padded
        seconds = max(time.perf_counter() - start, 1e-9)
    return {"docs_per_s": round(done / seconds, 1), "tokens_per_s": round(tokens / seconds, 1),
            "padding": round(1 - tokens / padded, 4) if padded else 0.0, "memory_bytes": peak.bytes}


class _Peak:
    """The most memory that this process has while this is open, as a thread sees it."""

    def __init__(self) -> None:
        self.bytes = memory()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.bytes = max(self.bytes, memory())


def _itemsize(dtype: str) -> int:
    return {"float64": 8, "float32": 4, "int8": 1, "uint8": 1}.get(dtype, 2)
