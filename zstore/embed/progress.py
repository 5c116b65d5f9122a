"""How a run is getting on: one set of figures for the bar, the callback and the metrics file."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, TextIO

from zstore.embed.types import Report
from zstore.notices import warn

EVERY_S = 1.0
COUNTED_BYTES = 4 * 2**30       # of a file whose lines are counted for the estimate: a few seconds at most
LINES = (".jsonl", ".ndjson", ".csv", ".tsv")

Callback = Callable[[dict[str, Any]], None]


class Meter:
    """Tells the figures about once a second, and at the end. ``figures``:

    seconds, done (items that are settled), total (None where unknown), embedded, copied, skipped, failed, tokens, docs_per_s,
    tokens_per_s (while the model worked), padding (share of what the model was given), eta_s (None where unknown),
    memory_bytes.
    """

    def __init__(self, report: Report, total: int | None, *, bar: bool = False, callback: Callback | None = None,
                 metrics: str | os.PathLike[str] | None = None) -> None:
        self._report, self._total, self._callback = report, total, callback
        self._start = time.perf_counter()
        self._told = 0.0
        self._model_s = 0.0
        self._file: TextIO | None = None if metrics is None else open(metrics, "a", encoding="utf-8")  # noqa: SIM115
        self._bar = _bar(total) if bar else None

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self._start

    def batch(self, tokens: int, padded: int, seconds: float) -> None:
        """The model did a batch."""
        self._report.tokens += tokens
        self._report.padded += padded
        self._model_s += seconds

    def tick(self, *, now: bool = False) -> None:
        """Tell the figures, if it is time or ``now``."""
        if not now and self.seconds - self._told < EVERY_S:
            return
        self._told = self.seconds
        figures = self.figures()
        if self._file is not None:
            print(json.dumps(figures), file=self._file, flush=True)
        if self._bar is not None:
            self._bar.n = figures["done"]
            self._bar.set_postfix_str(_postfix(figures), refresh=True)
        if self._callback is not None:
            try:
                self._callback(figures)
            except Exception as error:      # a broken display costs no vectors
                self._callback = None
                warn(f"the progress callback raised {type(error).__name__}: {error}; the run goes on without it")

    def figures(self) -> dict[str, Any]:
        """See the class."""
        r, seconds = self._report, self.seconds
        done = r.embedded + r.copied + r.skipped + r.failed
        rate = r.tokens / self._model_s if self._model_s > 0 else 0.0
        eta = None
        if self._total is not None and rate and r.embedded:
            eta = max(self._total - done, 0) * (r.tokens / r.embedded) / rate
        return {"seconds": round(seconds, 3), "done": done, "total": self._total, "embedded": r.embedded, "copied": r.copied,
                "skipped": r.skipped, "failed": r.failed, "tokens": r.tokens,
                "docs_per_s": round(done / seconds, 1) if seconds > 0 else 0.0, "tokens_per_s": round(rate, 1),
                "padding": round(1 - r.tokens / r.padded, 4) if r.padded else 0.0,
                "eta_s": None if eta is None else round(eta, 1), "memory_bytes": memory()}

    def close(self) -> None:
        """Tell the last figures and let go."""
        self.tick(now=True)
        if self._bar is not None:
            self._bar.close()
        if self._file is not None:
            self._file.close()


def memory() -> int:
    """Bytes of this process that are in memory now; its most so far where the system does not say; 0 where it says neither."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def count_of(source: Any) -> int | None:
    """How many items the source has, where that is cheap to know: of a list, or of lines of a local file."""
    if isinstance(source, (list, tuple)) and any(isinstance(one, (str, os.PathLike)) for one in source):
        counts = [count_of(one) for one in source]
        return None if None in counts else sum(count for count in counts if count is not None)
    if isinstance(source, Sized) and not isinstance(source, (str, bytes)):
        return len(source)
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    if path.suffix.lower() not in LINES or not path.is_file() or path.stat().st_size > COUNTED_BYTES:
        return None
    lines = 0
    with path.open("rb") as file:
        block, last = b"", b"\n"
        while block := file.read(2**20):
            lines += block.count(b"\n")
            last = block
    lines += not last.endswith(b"\n")
    return max(lines - (path.suffix.lower() in (".csv", ".tsv")), 0)


def _bar(total: int | None) -> Any:
    from tqdm import tqdm

    form = "{n_fmt}/{total_fmt} docs {bar} {elapsed} {postfix}" if total else "{n_fmt} docs {elapsed} {postfix}"
    return tqdm(total=total, file=sys.stderr, dynamic_ncols=True, bar_format=form)


def _postfix(figures: dict[str, Any]) -> str:
    eta = figures["eta_s"]
    parts = [f"{figures['docs_per_s']:,.0f} docs/s", f"{figures['tokens_per_s']:,.0f} tokens/s",
             f"padding {figures['padding']:.1%}", f"{figures['failed']:,} failed",
             f"{figures['memory_bytes'] / 2**20:,.0f} MiB"]
    return ", ".join(parts if eta is None else [*parts, f"{clock(eta)} left"])


def clock(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
