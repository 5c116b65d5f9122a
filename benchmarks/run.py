"""A scenario from its first process to its result: every contender in turn, round after round."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import contenders, machine, process
from benchmarks.contender import size_of
from benchmarks.data import Data, load
from benchmarks.figures import over_rounds, ratio_to, summary
from benchmarks.scenarios import SCENARIOS

ROWS, STORED_ROWS = 500_000, 150_000       # where nothing is kept, and where every contender's store stands side by side

UNSYNCED = "(no fsync)"                    # how contenders that differ in that alone are named


@dataclass
class Options:
    """``place``: a local folder, or the URL of a prefix in object storage, that the contenders' stores go into."""

    place: str
    rows: int | None = None
    dim: int = 384
    dtype: str = "float32"
    data: str = "real"
    rounds: int = 3
    size: int = 10_000                     # rows of a gather, keys of a lookup
    only: tuple[str, ...] = ()
    storage_options: dict[str, Any] | None = None
    checkout: Path = field(default=process.ROOT)

    @property
    def is_remote(self) -> bool:
        return "://" in self.place and not self.place.startswith("file://")


class Run:
    """One scenario with its options; ``result()`` is what the reports are made of."""

    def __init__(self, scenario: str, options: Options, with_limits: bool = True) -> None:
        self.scenario, self.options, self.module = scenario, options, SCENARIOS[scenario]
        self._with_limits = with_limits and not options.is_remote
        default = getattr(self.module, "DEFAULT_ROWS", STORED_ROWS if self.module.STORE else ROWS)
        self.rows = options.rows or default
        self.rounds: dict[str, list[dict[str, Any]]] = {}
        self.skipped: dict[str, str] = {}
        self.sizes: dict[str, tuple[int, int] | None] = {}

    def result(self) -> dict[str, Any]:
        """Run everything, clean up, and put the figures together."""
        limits: dict[str, dict[str, float]] = {}
        if self._with_limits:
            base = Data(load(self.options.data), self.rows, self.options.dim, self.options.dtype)
            with tempfile.TemporaryDirectory(dir=self.options.place) as folder:
                limits = self.module.limits(base, Path(folder))
        with contextlib.ExitStack() as held:
            if hasattr(self.module, "serve") and not self.options.is_remote:
                self.options = replace(self.options, **held.enter_context(self.module.serve()))
            self._measure([n for n in self.options.only or contenders.CONTENDERS if self._may(n)])
        return self._put_together(limits)

    def _measure(self, names: list[str]) -> None:
        try:
            for turn in range(self.options.rounds):
                for name in names:
                    if name not in self.skipped:
                        self._round(name, turn)
                        if self.module.STORE is None:
                            self._remove(name)
        finally:
            for name in names:
                self._remove(name)

    def _may(self, name: str) -> bool:
        if name not in contenders.CONTENDERS:
            raise SystemExit(f"{name!r} is no contender; they are: {', '.join(contenders.CONTENDERS)}")
        if self.options.is_remote and not contenders.CONTENDERS[name].remote:
            self.skipped[name] = "it does not write to object storage"
        elif self.module.STORE is not None and name.endswith(UNSYNCED):
            self.skipped[name] = "it reads as its synced twin does"
        return name not in self.skipped

    def _round(self, name: str, turn: int) -> None:
        """Every step once. A contender that fails is out, aloud; its error stands in the result."""
        say(f"{self.scenario} {turn + 1}/{self.options.rounds}: {name}")
        found: dict[str, Any] = {"figures": {}, "peak_rss_mb": 0.0, "extra": {}}
        try:
            if self.module.STORE is not None and turn == 0:
                self._take(found, self._step(name, "write", "append"))
                found |= {"figures": {}, "extra": {}, "peak_rss_mb": 0.0}       # writing is another scenario's
            for step in self.module.STEPS:
                if step in self.module.COLD and not self.options.is_remote:
                    process.drop_pages(self._place(name, step))
                self._take(found, self._step(name, step, self.scenario))
        except process.Failed as error:
            last = str(error).splitlines()[-1]
            say(f"{self.scenario}: {name} FAILED: {error}")
            self.rounds.pop(name, None)
            self.skipped[name] = f"failed: {last}"
        except Skipped as why:
            if not found["figures"]:
                say(f"{self.scenario}: {name} skipped: {why}")
                self.skipped[name] = str(why)
                return
            found["partly"] = str(why)
            self.rounds.setdefault(name, []).append(found)
        else:
            self.rounds.setdefault(name, []).append(found)

    def _take(self, found: dict[str, Any], more: dict[str, Any]) -> None:
        found["figures"] |= more["figures"]
        found["extra"] |= more.get("extra", {})
        found["peak_rss_mb"] = max(found["peak_rss_mb"], more.get("peak_rss_mb") or 0.0)
        found |= {key: more[key] for key in ("durability", "durable") if key in more}

    def _step(self, name: str, step: str, scenario: str) -> dict[str, Any]:
        options = self.options
        job = {"scenario": scenario, "contender": name, "step": step, "place": self._place(name, step), "rows": self.rows,
               "dim": options.dim, "dtype": options.dtype, "data": options.data, "size": min(options.size, self.rows),
               "storage_options": options.storage_options}
        done = process.run(job, options.checkout)
        if "skipped" in done:
            raise Skipped(done["skipped"])
        if not options.is_remote and step not in getattr(self.module, "PLACES", {}) and Path(job["place"]).exists():
            self.sizes[name] = size_of(self._place(name, step))
        return done

    def _place(self, name: str, step: str) -> str:
        other = getattr(self.module, "PLACES", {}).get(step, "store")
        return f"{self.options.place.rstrip('/')}/{name.replace(' ', '-').replace(',', '').replace('/', '')}.{other}"

    def _remove(self, name: str) -> None:
        for step in self.module.STEPS:
            place = self._place(name, step)
            if self.options.is_remote:
                remove_remote(place, self.options.storage_options)
            else:
                shutil.rmtree(place, ignore_errors=True)

    def _put_together(self, limits: dict[str, dict[str, float]]) -> dict[str, Any]:
        options, local = self.options, None if self.options.is_remote else Path(self.options.place)
        return {"scenario": self.scenario, "title": (self.module.__doc__ or "").strip(), "rows": self.rows, "dim": options.dim,
                "dtype": options.dtype, "data": options.data, "rounds": options.rounds, "size": min(options.size, self.rows),
                "machine": machine.describe(local), "limits": limits,
                "figures": [vars(figure) for figure in self.module.FIGURES],
                "contenders": {name: self._of(name) for name in self.rounds}, "skipped": self.skipped}

    def _of(self, name: str) -> dict[str, Any]:
        rounds, entry = self.rounds[name], contenders.CONTENDERS[name]
        size = self.sizes.get(name)
        figures = {f.name: over_rounds([summary(r["figures"][f.name]) for r in rounds], f) for f in self.module.FIGURES
                   if all(r["figures"].get(f.name) for r in rounds)}
        return {"durability": rounds[0].get("durability"), "durable": rounds[0].get("durable", True),
                "compressed": entry.compressed, "dtype": entry.dtype or self.options.dtype, "figures": figures,
                "peak_rss_mb": max(r["peak_rss_mb"] for r in rounds),
                "bytes": size[0] if size else None, "files": size[1] if size else None, "extra": rounds[-1]["extra"],
                "partly": rounds[0].get("partly")}


class Skipped(Exception):
    """The contender has no such thing here; the text says why."""


def best_of(result: dict[str, Any], figure: Any, among: list[str]) -> str | None:
    """The contender with the best value of a figure, among those that hold values of the run's own type."""
    having = [n for n in among if figure.name in result["contenders"][n]["figures"]
              and result["contenders"][n].get("dtype") == result.get("dtype")]
    pick = max if figure.more_is_better else min
    return pick(having, key=lambda n: result["contenders"][n]["figures"][figure.name]["value"]) if having else None


def ratio(result: dict[str, Any], figure: Any, name: str, other: str) -> float:
    """How many times better ``name`` is than ``other``, as the median over the rounds that both had."""
    one, two = (result["contenders"][n]["figures"][figure.name]["rounds"] for n in (name, other))
    return ratio_to(one, two, figure)


def remove_remote(place: str, storage_options: dict[str, Any] | None) -> None:
    """Delete everything below a URL."""
    import fsspec
    system, path = fsspec.core.url_to_fs(place, **(storage_options or {}))
    system.invalidate_cache()
    if system.exists(path):
        system.rm(path, recursive=True)


def say(text: str) -> None:
    """Progress, for people: on stderr."""
    print(text, file=sys.stderr, flush=True)
