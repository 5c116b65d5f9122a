"""One contender, one scenario, one fresh process: `python -m benchmarks.part JOB RESULT`, both JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import contenders, scenarios
from benchmarks.contender import Cannot, Missing
from benchmarks.data import Data, load


class Memory:
    """The most memory that the process had above what it has now, MB: pages of mapped files count too. Linux only."""

    def __init__(self) -> None:
        try:
            Path("/proc/self/clear_refs").write_text("5")       # VmHWM starts over
        except OSError:
            pass
        self._before = self._read("VmRSS")

    def peak_mb(self) -> float | None:
        most = self._read("VmHWM")
        return None if most is None or self._before is None else (most - self._before) * 1024 / 1e6

    def _read(self, name: str) -> int | None:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) for line in lines if line.startswith(name + ":")), None)


def run(job: dict[str, Any]) -> dict[str, Any]:
    """What the job measured: {"figures": {name: [samples]}, "peak_rss_mb", "durability", "cpu_s", "wall_s", "extra"}, or
    {"skipped": why}. Memory and time count from where the data stands ready and the contender is imported."""
    entry = contenders.CONTENDERS[job["contender"]]
    data = Data(load(job["data"]), job["rows"], job["dim"], entry.dtype or job["dtype"])
    scenario = scenarios.SCENARIOS[job["scenario"]]
    try:
        contender = contenders.make(job["contender"], job["place"], data, job.get("storage_options"))
    except Missing as why:
        return {"skipped": str(why), "missing": True}
    memory = Memory()
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        with contextlib.closing(contender):
            step = getattr(scenario, job["step"])
            figures = step(contender, data, job["size"])
            found = {"figures": figures or {}, "extra": contender.extra()}
    except Cannot as why:
        return {"skipped": str(why)}
    return found | {"peak_rss_mb": memory.peak_mb(), "durability": contender.durability, "durable": contender.durable,
                    "cpu_s": time.process_time() - cpu,
                    "wall_s": time.perf_counter() - wall}


def main() -> None:
    """Read the job, leave the result."""
    job, result = json.loads(sys.argv[1]), Path(sys.argv[2])
    result.write_text(json.dumps(run(job)))


if __name__ == "__main__":
    main()
