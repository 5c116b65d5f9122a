"""How a run is getting on: one set of figures for the bar, the callback and the metrics file."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sized
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from zstore.embed import columnar
from zstore.embed.engine import Stats
from zstore.embed.files import PACKED, Place, suffix_of
from zstore.embed.types import Report
from zstore.notices import warn

EVERY_S = 1.0
COUNTED_BYTES = 4 * 2**30       # of a file whose lines are counted for the estimate: a few seconds at most
COUNTED_PACKED = 64 * 2**20     # of one that is unpacked for it
LINES = (".jsonl", ".ndjson", ".csv", ".tsv")

Callback = Callable[[dict[str, Any]], None]


class Meter:
    """Tells the figures about once a second, and at the end. ``figures``:

    seconds, done (items that are settled), total (None where unknown), embedded, copied, skipped, failed, tokens, docs_per_s,
    tokens_per_s (both by the clock since the run began), padding (share of what the model was given), eta_s (None where
    unknown), memory_bytes. The estimate is in tokens: those that the tokenizer has counted and the model has not done, and for
    each item beyond them the mean so far; at the pace of the clock since the model's first batch.
    """

    def __init__(self, report: Report, total: int | None, *, bar: bool = False, callback: Callback | None = None,
                 metrics: str | os.PathLike[str] | None = None) -> None:
        self._report, self._total, self._callback = report, total, callback
        self._start = time.perf_counter()
        self._told = 0.0
        self._since: float | None = None        # seconds, when the model began
        self._known = 0, 0                      # texts that the tokenizer has counted, and their tokens
        self._file: TextIO | None = None if metrics is None else open(metrics, "a", encoding="utf-8")  # noqa: SIM115
        self._bar = _bar(total) if bar else None

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self._start

    def batch(self, stats: Stats) -> None:
        """The model did a batch, whose items are not counted yet."""
        if self._since is None:
            self._since = max(self.seconds - stats.seconds - stats.waited, 0.0)
        self._known = self._known[0] + stats.known[0], self._known[1] + stats.known[1]
        self._report.tokens += stats.tokens
        self._report.padded += stats.padded

    def tick(self, *, now: bool = False) -> None:
        """Tell the figures, if it is time or ``now``."""
        if not now and self.seconds - self._told < EVERY_S:
            return
        self._told = self.seconds
        figures = self.figures()
        if self._file is not None:
            self._write(json.dumps(figures))
        if self._bar is not None:
            self._bar.n = figures["done"]
            self._bar.set_postfix_str(_postfix(figures), refresh=True)
        if self._callback is not None:
            try:
                self._callback(figures)
            except Exception as error:      # a broken display costs no vectors
                self._callback = None
                warn(f"the progress callback raised {type(error).__name__}: {error}; the run goes on without it")

    def _write(self, line: str) -> None:
        assert self._file is not None
        try:
            print(line, file=self._file, flush=True)
        except OSError as error:            # a full disk of the figures costs no vectors
            file, self._file = self._file, None
            with suppress(OSError):         # it would write the same line again
                file.close()
            warn(f"the metrics file {file.name} can't be written: {error}; the run goes on without it")

    def figures(self) -> dict[str, Any]:
        """See the class."""
        r, seconds, done, eta = self._report, self.seconds, self._done(), self._left_s()
        return {"seconds": round(seconds, 3), "done": done, "total": self._total, "embedded": r.embedded, "copied": r.copied,
                "skipped": r.skipped, "failed": r.failed, "tokens": r.tokens,
                "docs_per_s": round(done / seconds, 1) if seconds > 0 else 0.0,
                "tokens_per_s": round(r.tokens / seconds, 1) if seconds > 0 else 0.0,
                "padding": round(1 - r.tokens / r.padded, 4) if r.padded else 0.0,
                "eta_s": None if eta is None else round(eta, 1), "memory_bytes": memory()}

    def _left_s(self) -> float | None:
        texts, tokens = self._known
        if self._total is None or self._since is None or not texts or not self._report.tokens:
            return None
        counted = max(texts - self._report.embedded, 0)
        beyond = max(self._total - self._done() - counted, 0)
        left = max(tokens - self._report.tokens, 0) + beyond * tokens / texts
        return left * (self.seconds - self._since) / self._report.tokens

    def _done(self) -> int:
        r = self._report
        return r.embedded + r.copied + r.skipped + r.failed + r.left_out

    def close(self) -> None:
        """Tell the last figures and let go."""
        self.tick(now=True)
        if self._bar is not None:
            self._bar.close()
        if self._file is not None:
            self._file.close()


def check_metrics(path: str | os.PathLike[str] | None) -> None:
    """FileNotFoundError, IsADirectoryError for a file that can't be made there."""
    if path is not None and not Path(path).absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {Path(path).absolute().parent} for the metrics file {os.fspath(path)}")
    if path is not None and Path(path).is_dir():
        raise IsADirectoryError(f"the metrics file {os.fspath(path)} is a folder: name a file")


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
    """How many items the source has, where that is cheap to know: of a list, of lines of a local file that is not too large,
    packed or not, of Parquet."""
    if isinstance(source, (list, tuple)) and any(isinstance(one, (str, os.PathLike)) for one in source):
        counts = [count_of(one) for one in source]
        return None if None in counts else sum(count for count in counts if count is not None)
    if isinstance(source, Sized) and not isinstance(source, (str, bytes)):
        return len(source)
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = Path(source)
    suffix, packed = suffix_of(path.name), path.suffix.lower() in PACKED
    if not path.is_file():
        return None
    if suffix in (".parquet", ".pq"):
        return columnar.count(Place.of(os.fspath(source)))
    if suffix not in LINES or path.stat().st_size > (COUNTED_PACKED if packed else COUNTED_BYTES):
        return None
    try:
        lines = _lines(Place.of(os.fspath(source)))
    except Exception:           # whoever reads it says what is wrong
        return None
    return max(lines - (suffix in (".csv", ".tsv")), 0)


def _lines(file: Place) -> int:
    lines, last = 0, b"\n"
    with file.unpacked() as stream:
        while block := stream.read1(2**20):
            lines += block.count(b"\n")
            last = block
    return lines + (not last.endswith(b"\n"))


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
