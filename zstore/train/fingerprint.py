"""What else decides a float's last bit: the machine, the libraries, their switches."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def fingerprint() -> dict[str, Any]:
    """Everything known to change the bits of a training, as plain values."""
    found = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": str(torch.__version__),
        "machine": platform.machine(),
        "CPU instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "float32 matmul precision": _asked(torch.get_float32_matmul_precision),
        "fp32_precision": _asked(lambda: torch.backends.fp32_precision),
        "mkldnn.matmul.fp32_precision": _asked(lambda: torch.backends.mkldnn.matmul.fp32_precision),
        "default dtype": str(torch.get_default_dtype()),
        "world size": int(os.environ.get("WORLD_SIZE", "1")),
    }
    if torch.cuda.is_available():
        found |= {
            "CUDA": torch.version.cuda,
            "cuDNN": torch.backends.cudnn.version(),
            "GPUs": ", ".join(torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())),
            "CUBLAS_WORKSPACE_CONFIG": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
            "cudnn.benchmark": torch.backends.cudnn.benchmark,
            "cudnn.deterministic": torch.backends.cudnn.deterministic,
            "cudnn.allow_tf32": _asked(lambda: torch.backends.cudnn.allow_tf32),
            "cudnn.conv.fp32_precision": _asked(lambda: torch.backends.cudnn.conv.fp32_precision),
            "matmul.allow_tf32": _asked(lambda: torch.backends.cuda.matmul.allow_tf32),
            "matmul.fp32_precision": _asked(lambda: torch.backends.cuda.matmul.fp32_precision),
        }
    return found


def _asked(getter: Callable[[], Any]) -> Any:
    """What a switch says. torch has two generations of them, and the older one raises where the newer one was set; an older
    torch lacks the newer one."""
    try:
        return getter()
    except (AttributeError, RuntimeError) as error:
        return str(error).partition("\n")[0]


def doubts(saved: dict[str, Any], *, on_gpu: bool) -> list[str]:
    """Why a training that goes on here may not repeat a checkpoint's bits; empty where nothing is known against it."""
    here = fingerprint()
    found = [f"{name}: {saved.get(name)} then, {here.get(name)} now" for name in sorted({*saved, *here})
             if saved.get(name) != here.get(name)]
    if on_gpu and not torch.are_deterministic_algorithms_enabled():
        found.append("a GPU may add up in another order each time: torch.use_deterministic_algorithms(True) is off")
    return found
