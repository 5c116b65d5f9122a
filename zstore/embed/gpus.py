"""Which GPU each of several processes sees."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_GPUS = "CUDA_VISIBLE_DEVICES"


def check_workers(workers: Any, device: Any) -> None:
    """ValueError for a number of processes that there can't be, and for one GPU of several: each process sees its own alone, as
    the first one."""
    if not isinstance(workers, int) or workers < 1:
        raise ValueError(f"workers is {workers!r}; a run has 1 process or more")
    if workers > 1 and str(device).startswith("cuda:"):
        raise ValueError(f"device '{device}' names one GPU, and {workers} workers divide the GPUs among them: leave the number "
                         f"out ({_GPUS} says which GPUs they have)")


def device(member: int, given: str | None, there: int) -> str | None:
    """What CUDA_VISIBLE_DEVICES shall be for this process, from 1: one of those that were ``given``, or of as many as ``there``
    are. None where there is nothing to share out."""
    listed = [str(number) for number in range(there)] if given is None else \
        [one.strip() for one in given.split(",") if one.strip()]
    return listed[(member - 1) % len(listed)] if len(listed) > 1 else None


def take_gpu(member: int) -> None:
    """This process, from 1, sees its own alone. Before anything asks CUDA."""
    gpu = device(member, os.environ.get(_GPUS), len(list(Path("/dev").glob("nvidia[0-9]*"))))
    if gpu is not None:
        os.environ[_GPUS] = gpu
