"""Fresh processes with a time limit, their checkouts, and pages dropped from the system's cache."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 1200
# zstore comes from the checkout that is measured, the benchmarks from this one, whichever folder is current.
BOOT = ("import sys; sys.path[:] = [p for p in sys.path if p]; sys.path.insert(0, {zstore!r}); import zstore; "
        "sys.path.insert(0, {root!r}); from benchmarks.part import main; main()")


class Failed(Exception):
    """A process ended with an error, or not in time; the text has the end of what it said."""


def run(job: dict[str, Any], checkout: Path = ROOT, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """What ``benchmarks.part`` measured for the job in a process of its own, with zstore from ``checkout``."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        boot = BOOT.format(zstore=str(checkout), root=str(ROOT))
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", boot, json.dumps(job), str(result)],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
                                   env=environment())
        try:
            _, said = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"took longer than {limit_s:.0f} s") from error
        finally:
            end_session(process.pid)
        if process.returncode == -signal.SIGKILL and job["step"] == "killed":
            return {"figures": {}}
        if process.returncode:
            raise Failed(said.strip()[-2000:] or f"ended with {process.returncode}")
        return dict(json.loads(result.read_text()))


def end_session(pid: int) -> None:
    """End the process, and the servers that it started and left: they are in its session."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):       # none is left (macOS says it the second way)
        pass


def environment() -> dict[str, str]:
    """The caller's, without networks and progress bars of model libraries."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}     # it would take the checks out
    return kept | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1"}


def drop_pages(place: str) -> None:
    """Have the system forget the pages of every file below a local place: what is read next comes from the disk."""
    path = Path(place)
    for file in [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
