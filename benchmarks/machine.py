"""What the figures were measured on: cores, memory, disk, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from pathlib import Path
from typing import Any

PACKAGES = ("zstore", "numpy", "zarr", "numcodecs", "zarrs", "tensorstore", "icechunk", "pylance", "pyarrow", "h5py",
            "hdf5plugin", "lmdb", "redis", "hiredis", "blosc2", "s3fs", "torch")


def describe(folder: Path | None) -> dict[str, Any]:
    """{"cores", "cpu", "memory_gb", "file_system", "python", "versions", "time"}."""
    return {"cores": os.cpu_count(), "cpu": _cpu(), "memory_gb": round(_memory() / 1e9, 1),
            "file_system": _file_system(folder) if folder else None, "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(), "versions": _versions(), "time": time.strftime("%Y-%m-%d", time.gmtime())}


def line(about: dict[str, Any]) -> str:
    """The same in one line."""
    return (f"{about['cores']} cores ({about['cpu']}), {about['memory_gb']:.0f} GB, "
            f"{about['file_system'] or 'object storage'}, {about['system']}, Python {about['python']}, "
            f"numpy {about['versions'].get('numpy')}")


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _file_system(folder: Path) -> str:
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return platform.system()
    place = str(folder.resolve())
    holding = [m for m in mounts if place == m[1] or place.startswith(m[1].rstrip("/") + "/")]
    return max(holding, key=lambda m: len(m[1]))[2] if holding else "unknown"
