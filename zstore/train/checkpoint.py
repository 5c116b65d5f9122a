"""A checkpoint's file: whole under its name, or not there; and readable with ``torch.load(weights_only=True)``."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from typing import Any

import torch


def write_checkpoint(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Atomic and durable: what stood under the name stands there until the new one is wholly on the disk.

    ValueError where the state holds what ``torch.load(weights_only=True)`` refuses; BlockingIOError where another process is
    writing the same checkpoint."""
    path = os.fspath(path)
    if "://" in path:
        raise ValueError(f"{path}: a checkpoint goes to a local path; send state_dict() elsewhere with a tool of your own")
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    half = os.path.join(folder, f".{name}.half")        # one name, so that kills do not litter
    descriptor = _locked(half, path)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        _refuse_unreadable(half, state)
        os.replace(half, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(half)
        raise
    finally:
        os.close(descriptor)
    _sync_folder(folder)


def read_checkpoint(path: str | os.PathLike[str]) -> Any:
    """What the file holds, on the CPU."""
    return torch.load(os.fspath(path), map_location="cpu", weights_only=True)


def _locked(half: str, path: str) -> int:
    """The unfinished file, empty, and this process's alone: two that write at once would tear it."""
    while True:
        descriptor = os.open(half, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between open and lock, another process may have finished this very file and renamed it.
            if os.path.exists(half) and os.path.samestat(os.fstat(descriptor), os.stat(half)):
                os.ftruncate(descriptor, 0)
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise BlockingIOError(f"{path}: another process is writing this checkpoint; give each run its own path") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _refuse_unreadable(half: str, state: dict[str, Any]) -> None:
    refused = torch.serialization.get_unsafe_globals_in_checkpoint(half)
    if refused:
        where = _strange(state, "") or "something in it"
        raise ValueError(f"{where}, which torch.load(weights_only=True) refuses ({', '.join(sorted(refused))}); keep tensors, "
                         "numbers, text, lists and dicts in a checkpoint")


def _strange(value: Any, path: str) -> str | None:
    """The first thing that is neither a tensor nor plain."""
    if isinstance(value, dict):
        parts = [(f"{path}.{key}" if path else str(key), part) for key, part in value.items()]
    elif type(value) in (list, tuple):
        parts = [(f"{path}[{place}]", part) for place, part in enumerate(value)]
    elif value is None or type(value) in (bool, int, float, complex, str, bytes) or type(value).__module__.startswith("torch"):
        return None
    else:
        return f"{path} is a {type(value).__module__}.{type(value).__name__}"
    return next((found for name, part in parts if (found := _strange(part, name))), None)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
