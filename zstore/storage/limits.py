"""How much memory this process may still take."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_CGROUPS = Path("/sys/fs/cgroup")
# (limit, usage, the line of memory.stat that says how much of the usage is file pages the kernel can drop)
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def available_memory() -> int:
    """Bytes that can be taken before the machine, a cgroup or RLIMIT_AS refuses; 0 or more. A momentary answer."""
    return max(0, min(_machine(), *_cgroup(), *_address_space()))


def _machine() -> int:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    # No such file outside Linux; half of what is built in is a guess that errs on the safe side.
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _cgroup() -> Iterator[int]:
    for line in _lines(Path("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left(_CGROUPS, path, _VERSION_2)
        elif "memory" in controllers.split(","):
            yield from _left(_CGROUPS / "memory", path, _VERSION_1)


def _left(mount: Path, path: str, names: tuple[str, str, str]) -> Iterator[int]:
    """What each group from ours up to the root leaves; a container often sees only some of them."""
    limit_name, usage_name, droppable_name = names
    group = PurePosixPath(path.lstrip("/"))
    for place in (group, *group.parents):
        limit, usage = _number(mount / place / limit_name), _number(mount / place / usage_name)
        if limit is not None and usage is not None:
            droppable = (int(line.split()[1]) for line in _lines(mount / place / "memory.stat")
                         if line.split()[0] == droppable_name)
            yield limit - usage + next(droppable, 0)


def _address_space() -> Iterator[int]:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        pages = next(iter(_lines(Path("/proc/self/statm"))), "0").split()[0]
        yield limit - int(pages) * os.sysconf("SC_PAGE_SIZE")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    # "max", of version 2, is no limit.
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdigit() else None
